"""Real processes for the tests, whose executions count as evidence."""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
import torch._dynamo  # noqa: F401 - DDP imports it: here once, not in each rank for seconds

import formulary
from formulary.ddp.processes import run_ranks

PACKAGE = str(Path(formulary.__path__[0]))
FUNCTION = 0x1  # CO_OPTIMIZED: the body of a function, not of a module or class


@pytest.fixture
def ranks(request: pytest.FixtureRequest) -> Callable[..., list[Any]]:
    """`run_ranks`, reporting which functions ran in the ranks as if they had run in the test."""

    def run(
        world_size: int, function: Callable[..., Any], *arguments: Any, **options: Any
    ) -> list[Any]:
        with tempfile.TemporaryDirectory() as folder:

            def watched() -> Any:
                codes = set[CodeType]()

                def note(frame: FrameType, event: str, _argument: object) -> None:
                    if event == "call":
                        codes.add(frame.f_code)

                sys.setprofile(note)
                try:
                    return function(*arguments)
                finally:
                    sys.setprofile(None)
                    # a file, since a rank that fails answers with its error alone
                    (Path(folder) / str(os.getpid())).write_text(json.dumps(_places(codes)))

            try:
                return run_ranks(world_size, watched, **options)
            finally:
                places = [json.loads(file.read_text()) for file in Path(folder).iterdir()]
                # what the recorder of --evidence reads; without the option nobody does
                request.node.user_properties.append(
                    ("formulary", {"places": sorted(chain(*places)), "error": 0.0})
                )

    return run


def _places(codes: set[CodeType]) -> list[tuple[str, int]]:
    """Files and first lines of the package's functions among the code that ran."""
    return [
        (code.co_filename, code.co_firstlineno)
        for code in codes
        if code.co_filename.startswith(PACKAGE) and code.co_flags & FUNCTION
    ]
