"""From the raw records of one run of the tests to the lock file's entries."""

import ast
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from formulary_site.definitions import Definition, Definitions
from formulary_site.proof.evidence import Entry, Evidence, Outcome, Shown, Tests
from formulary_site.proof.execution import Place
from formulary_site.proof.links import Test
from formulary_site.registry import Item

# How far a value is from a limit or a bound is no error of the code.
_APPROXIMATE = ("limit_", "bounds_")


@dataclass
class Record:
    """What one run saw of one test, all its cases together.

    Attributes:
        outcomes: Outcome of every phase of every case.
        places: Code objects of the package that ran.
        error: Largest absolute difference that `torch.testing.assert_close` let pass.
    """

    outcomes: set[str] = field(default_factory=set)
    places: set[Place] = field(default_factory=set)
    error: float = 0.0


def update(
    old: Evidence,
    items: Iterable[Item],
    definitions: Definitions,
    tests: Tests,
    records: Mapping[str, Record],
    torch: str,
) -> Evidence:
    """The lock file after a whole run.

    An entry's error stays as it was unless it grew or what it was measured on changed, for the
    last digits differ from machine to machine.
    """
    entries: dict[str, Entry] = {}
    for item in items:
        if item.object not in definitions:
            continue
        today = tests.get(item.object, ())
        ran = [(test, records.get(test.node_id, Record())) for test in today]
        errors = [r.error for test, r in ran if not test.claim.startswith(_APPROXIMATE)]
        entry = Entry(
            item.object,
            definitions.digest(item.object),
            power_of_ten(max(errors, default=0.0)),
            tuple(
                Shown(test.name, test.docstring, test.kind, _outcome(test, record, definitions))
                for test, record in sorted(ran, key=lambda pair: pair[0].name)
            ),
        )
        before = old.entries.get(item.id)
        if before and before.same_code(entry) and before.max_error > entry.max_error:
            entry = Entry(entry.object, entry.hash, before.max_error, entry.tests)
        entries[item.id] = entry
    return Evidence(torch, entries)


def _outcome(test: Test, record: Record, definitions: Definitions) -> Outcome:
    if "failed" in record.outcomes:
        return "failed"
    if record.outcomes != {"passed"}:
        return "skipped"
    definition = definitions[test.object]
    executed = any(
        Path(file) == definition.file and line in _lines(definition) for file, line in record.places
    )
    return "passed" if executed else "not-executed"


def _lines(definition: Definition) -> range:
    """A decorated function's code begins at its first decorator."""
    decorators: list[ast.expr] = getattr(definition.node, "decorator_list", [])
    first = min([definition.line, *(decorator.lineno for decorator in decorators)])
    return range(first, definition.end_line + 1)


def power_of_ten(error: float) -> float:
    """The error rounded up to a power of ten; 0 stays 0."""
    if error == 0:
        return 0.0
    exponent = math.floor(math.log10(error))  # may be off by one for want of digits
    powers = (float(f"1e{exponent + step}") for step in range(-1, 3))
    return next(power for power in powers if power >= error)


def largest_difference(actual: Any, expected: Any) -> float:
    """Largest finite absolute difference between two things that `assert_close` takes."""
    import torch

    if isinstance(expected, Mapping):
        pairs = [(actual[key], expected[key]) for key in expected]
        return max((largest_difference(*pair) for pair in pairs), default=0.0)
    if isinstance(expected, list | tuple):
        pairs = list(zip(actual, expected, strict=True))
        return max((largest_difference(*pair) for pair in pairs), default=0.0)
    if expected is None:
        return 0.0
    one, other = (torch.as_tensor(value).detach().cpu() for value in (actual, expected))
    wide = torch.complex128 if one.is_complex() or other.is_complex() else torch.float64
    difference = (one.to_dense().to(wide) - other.to_dense().to(wide)).abs()
    difference = difference[difference.isfinite()]  # inf - inf and nan - nan are no errors
    return float(difference.max()) if difference.numel() else 0.0
