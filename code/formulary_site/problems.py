"""What is wrong with the source, where, and how to mend it."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Problem:
    """One broken rule at one place.

    Attributes:
        file: Path relative to the project's root, with forward slashes.
        line: Line in that file, from 1.
        rule: The rule's name in kebab-case, e.g. `unknown-object`.
        message: What is wrong.
        mend: What to do about it.
    """

    file: str
    line: int
    rule: str
    message: str
    mend: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.rule}: {self.message}\n    mend: {self.mend}"


class SourceError(Exception):
    """The source breaks at least one rule; the message lists every problem."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        super().__init__("\n".join(str(problem) for problem in self.problems))


def suggestion(name: str, known: Iterable[str], prefix: str = "") -> str:
    """What a message adds when a known name is close to the wrong one, else ''."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f", e.g. {prefix}{close[0]}" if close else ""
