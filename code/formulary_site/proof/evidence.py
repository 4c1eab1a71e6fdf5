"""The lock file `docs/evidence.json`: what the last whole run of the tests showed.

The entry of a formula or listing holds the hash of the code that it was shown for: one whose
code or tests have changed since counts as not proven until `make test` has run.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from formulary_site.definitions import Definitions
from formulary_site.problems import Problem
from formulary_site.project import Project
from formulary_site.proof.links import Test
from formulary_site.registry import Item

Outcome = Literal["passed", "failed", "skipped", "not-executed", "missing"]
State = Literal["proven", "stale", "missing", "failed"]
Tests = Mapping[str, Sequence[Test]]  # what `proof.tests_of` returns

RUN = "run `make test`, which rewrites docs/evidence.json"


@dataclass(frozen=True)
class Shown:
    """One test in the lock file; `claim` is its docstring."""

    name: str
    claim: str
    kind: str
    outcome: Outcome


@dataclass(frozen=True)
class Entry:
    """One formula or listing in the lock file; `max_error` is a power of ten, or 0."""

    object: str
    hash: str
    max_error: float
    tests: tuple[Shown, ...]

    def same_code(self, other: "Entry") -> bool:
        """Whether both were shown for the same code by the same tests."""
        return (self.object, self.hash, _signatures(self.tests)) == (
            other.object,
            other.hash,
            _signatures(other.tests),
        )


@dataclass(frozen=True)
class Verdict:
    """How far a formula's or listing's object is proven.

    Attributes:
        state: 'stale' if code or tests changed since the last run, 'missing' if there was none
            or if a kind of test lacks, 'failed' if a test failed, was skipped or didn't run it.
        outcomes: The object's tests of today, oracles first, and what the last run said.
        max_error: Largest error of the last run.
    """

    state: State
    outcomes: tuple[tuple[Test, Outcome], ...]
    max_error: float

    @property
    def tests(self) -> tuple[Test, ...]:
        return tuple(test for test, _ in self.outcomes)

    @property
    def oracles(self) -> tuple[Test, ...]:
        return tuple(test for test in self.tests if test.kind == "oracle")

    @property
    def properties(self) -> tuple[Test, ...]:
        return tuple(test for test in self.tests if test.kind == "property")


@dataclass(frozen=True)
class Evidence:
    """The lock file's content: the version of torch that it was shown with, entries by id."""

    torch: str = ""
    entries: Mapping[str, Entry] = field(default_factory=dict)

    @classmethod
    def load(cls, project: Project) -> "Evidence":
        """Read the lock file; one that is absent or not in this form proves nothing."""
        try:
            data = json.loads(project.evidence.read_text("utf-8"))
            entries = {
                name: Entry(
                    entry["object"],
                    entry["hash"],
                    float(entry["max_error"]),
                    tuple(Shown(**shown) for shown in entry["tests"]),
                )
                for name, entry in data["formulas"].items()
            }
            return cls(data["torch"], entries)
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return cls()

    def save(self, project: Project) -> bool:
        """Write the lock file unless it says the same already; whether it was written."""
        text = self.dumps()
        if project.evidence.is_file() and project.evidence.read_text("utf-8") == text:
            return False
        project.evidence.write_text(text, "utf-8")
        return True

    def dumps(self) -> str:
        formulas = {}
        for name, entry in sorted(self.entries.items()):
            formulas[name] = asdict(entry)
            formulas[name]["max_error"] = entry.max_error or 0  # 0.0 reads like a rounded number
        content = {"torch": self.torch, "formulas": formulas}
        return json.dumps(content, ensure_ascii=False, indent=2) + "\n"

    def verdict(self, item: Item, definitions: Definitions, tests: Tests) -> Verdict:
        """Compare what was shown with the code and the tests of today."""
        today = tests.get(item.object, ())
        entry = self.entries.get(item.id)
        shown = {test.name: test.outcome for test in entry.tests} if entry else {}
        outcomes = tuple(
            (test, shown.get(test.name, "missing")) for test in sorted(today, key=_order)
        )
        if entry is None or item.object not in definitions:
            return Verdict("missing", outcomes, 0.0)
        return Verdict(_state(entry, item, definitions, today), outcomes, entry.max_error)

    def problems(
        self, items: Iterable[Item], definitions: Definitions, tests: Tests
    ) -> list[Problem]:
        """Everything that the last run doesn't prove as it stands."""
        found: set[Problem] = set()  # two items of one object share the problems of its tests
        for item in items:
            if item.object in definitions:  # the check reports an unknown object
                found.update(self._problems(item, definitions, tests))
        return sorted(found)

    def _problems(self, item: Item, definitions: Definitions, tests: Tests) -> Iterator[Problem]:
        verdict = self.verdict(item, definitions, tests)
        name = f"`{item.object}`"
        if verdict.state == "missing" and item.id not in self.entries:
            message = f"docs/evidence.json has no entry for `{item.id}`, whose object is {name}"
            yield Problem(item.file, item.line, "missing-evidence", message, RUN)
        elif verdict.state == "stale":
            message = f"{name}, what it needs or its tests changed since they last ran"
            yield Problem(item.file, item.line, "stale-evidence", message, RUN)
        elif verdict.state == "failed":
            for test, outcome in verdict.outcomes:
                if outcome == "not-executed":
                    message = f"`{test.name}` passed without ever running {name}"
                    mend = f"call `{item.object.rpartition('.')[2]}` in the test"
                    yield Problem(test.file, test.line, "test-not-executed", message, mend)
                elif outcome != "passed":
                    message = f"`{test.name}` {outcome} in the last run, so {name} is not proven"
                    mend = "mend the code or the test, then run `make test`"
                    yield Problem(test.file, test.line, "failed-test", message, mend)


def _state(entry: Entry, item: Item, definitions: Definitions, today: Sequence[Test]) -> State:
    signatures = sorted((test.name, test.docstring, test.kind) for test in today)
    if (entry.object, entry.hash) != (item.object, definitions.digest(item.object)):
        return "stale"
    if _signatures(entry.tests) != signatures:
        return "stale"
    if any(test.outcome != "passed" for test in entry.tests):
        return "failed"
    return "proven" if {"oracle", "property"} <= {test.kind for test in today} else "missing"


def _signatures(tests: Iterable[Shown]) -> list[tuple[str, str, str]]:
    return sorted((test.name, test.claim, test.kind) for test in tests)


def _order(test: Test) -> tuple[int, str]:
    return ("oracle", "property", "negative").index(test.kind), test.name
