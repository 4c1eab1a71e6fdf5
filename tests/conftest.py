"""Shared fixtures: shape checks are on in every test but those of bad input."""

import os
from collections.abc import Iterator

import jaxtyping
import pytest

# All is tested on the CPU: a process that has used a GPU can't fork the ranks of the DDP tests
os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(autouse=True)
def _shape_checks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let `rejects_` tests see the function's own ValueError.

    jaxtyping would refuse the wrong shape first; readers who copy a function don't have it.
    """
    jaxtyping.config.update("jaxtyping_disable", "__rejects_" in request.node.name)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
