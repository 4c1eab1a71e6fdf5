"""Which functions of the package a piece of code ran, also for tests whose code runs elsewhere.

It imports nothing heavy: tests of several processes use it in each of them.
"""

import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from types import CodeType, FrameType

import pytest

KEY = "formulary"  # of what a test's report carries
_FUNCTION = 0x1  # CO_OPTIMIZED: the body of a function, not of a module or class

Place = tuple[str, int]  # a code object's file and first line


class Profile:
    """Collects every code object that runs while it is open, in threads started meanwhile too.

    sys.monitoring (Python 3.12) would be quicker; this works from 3.11 on, and a test spends
    its time in torch.
    """

    def __init__(self, codes: set[CodeType]) -> None:
        self._codes = codes

    def _note(self, frame: FrameType, event: str, _argument: object) -> None:
        if event == "call":
            self._codes.add(frame.f_code)

    def __enter__(self) -> None:
        self._before = sys.getprofile()
        self._before_in_threads = threading.getprofile()
        threading.setprofile(self._note)
        sys.setprofile(self._note)

    def __exit__(self, *_: object) -> None:
        sys.setprofile(self._before)
        threading.setprofile(self._before_in_threads)


def places(codes: Iterable[CodeType], folder: Path) -> list[Place]:
    """Where the functions among the code objects stand, those below the folder."""
    return sorted(
        (code.co_filename, code.co_firstlineno)
        for code in codes
        if code.co_filename.startswith(str(folder)) and code.co_flags & _FUNCTION
    )


def report(item: pytest.Item, ran: Iterable[Place], error: float = 0.0) -> None:
    """Let the test's report say what ran and how large the largest difference was.

    The recorder of `--evidence` reads it; without the option nobody does.
    """
    item.user_properties.append((KEY, {"places": [list(place) for place in ran], "error": error}))
