"""Real processes for the tests, whose executions count as evidence."""

import json
import os
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
import torch._dynamo  # noqa: F401 - DDP imports it: here once, not in each rank for seconds
import torch.distributed as dist

import formulary
from formulary.ddp.processes import run_ranks
from formulary_site.proof.execution import Profile, places, report

PACKAGE = Path(formulary.__path__[0])


@pytest.fixture
def ranks(request: pytest.FixtureRequest) -> Callable[..., list[Any]]:
    """`run_ranks`, reporting which functions ran in the ranks as if they had run in the test."""

    def run(
        world_size: int, function: Callable[..., Any], *arguments: Any, **options: Any
    ) -> list[Any]:
        with tempfile.TemporaryDirectory() as folder:

            def watched() -> Any:
                codes = set[CodeType]()
                try:
                    with Profile(codes):
                        return function(*arguments)
                finally:
                    # a file, since a rank that fails answers with its error alone
                    ran = json.dumps(places(codes, PACKAGE))
                    (Path(folder) / str(os.getpid())).write_text(ran)

            try:
                return run_ranks(world_size, watched, **options)
            finally:
                for file in Path(folder).iterdir():
                    report(request.node, json.loads(file.read_text()))

    return run


def told(function: Callable[[], object]) -> str:
    """The error that the function raises, as `Type: message`, or ''."""
    try:
        function()
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def shorten_timeout(seconds: float) -> None:
    """Give the default group a new timeout, once all are there: a late start must not count."""
    dist.barrier()
    group = dist.new_group(timeout=timedelta(seconds=seconds))
    dist.distributed_c10d._update_default_pg(group)
