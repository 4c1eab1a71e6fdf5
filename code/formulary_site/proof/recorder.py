"""Watches the tests of one run and writes the lock file at its end.

Works with xdist: workers watch and send what they saw with each report; the controller collects
and writes.
"""

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from types import CodeType
from typing import Any

import pytest

from formulary_site import registry
from formulary_site.definitions import PACKAGE, Definitions
from formulary_site.project import Project
from formulary_site.proof import links
from formulary_site.proof.evidence import Evidence
from formulary_site.proof.execution import KEY, Profile, places, report
from formulary_site.proof.recording import Record, largest_difference, update

_CODES = pytest.StashKey[set[CodeType]]()


class Recorder:
    """The plugin of one run, in the controller and in each worker."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.project = Project(config.rootpath)
        self.records: dict[str, Record] = {}
        self.partial = any("::" in argument for argument in config.args)
        self.message = ""

    def _concerns(self, item: pytest.Item) -> bool:
        return item.path.is_relative_to(self.project.tests / PACKAGE)

    # In the process that runs the tests

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        if not self._concerns(item):
            return (yield)
        item.stash[_CODES] = set()
        with Profile(item.stash[_CODES]):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        if not self._concerns(item):
            return (yield)
        codes = item.stash[_CODES]
        try:
            with _Differences() as differences, Profile(codes):
                return (yield)
        finally:
            folder = self.project.code / PACKAGE
            report(item, places(codes, folder), differences.largest)

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        self.partial = self.partial or any(self._concerns(item) for item in items)

    # In the process that collects the reports

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        record = self.records.setdefault(report.nodeid.partition("[")[0], Record())
        record.outcomes.add(report.outcome)
        for key, seen in report.user_properties:
            if key == KEY and isinstance(seen, dict):
                record.places.update((file, line) for file, line in seen["places"])
                record.error = max(record.error, seen["error"])

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        output = getattr(node, "workeroutput", {})  # a crashed worker has none
        self.partial = self.partial or output.get(KEY, True)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        if hasattr(self.config, "workeroutput"):
            self.config.workeroutput[KEY] = self.partial
            return
        self.message = self._write()

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        terminalreporter.write_line(self.message)

    def _write(self) -> str:
        definitions = Definitions.load(self.project)
        tests = links.tests_of(self.project, definitions)
        expected = {test.node_id for group in tests.values() for test in group}
        absent = expected - self.records.keys()
        if self.partial or absent:
            # Half a run must not pass for a whole one: it would drop or freshen what didn't run
            return (
                "docs/evidence.json not written: only a whole run of tests/formulary writes it "
                f"({len(expected) - len(absent)} of {len(expected)} tests of formulas ran"
                f"{', some of their cases or others were left out' if self.partial else ''})"
            )
        proven = registry.scan(self.project).proven.values()
        torch = version("torch").partition("+")[0]  # the build's name (+cpu) is the machine's
        old = Evidence.load(self.project)
        new = update(old, proven, definitions, tests, self.records, torch)
        written = new.save(self.project)
        return f"docs/evidence.json {'rewritten' if written else 'unchanged'}"


class _Differences:
    """Watches `torch.testing.assert_close` while it is open."""

    largest = 0.0

    def __enter__(self) -> "_Differences":
        import torch.testing

        self._original = original = torch.testing.assert_close

        def assert_close(actual: Any, expected: Any, **options: Any) -> None:
            __tracebackhide__ = True
            original(actual, expected, **options)
            self.largest = max(self.largest, largest_difference(actual, expected))

        torch.testing.assert_close = assert_close
        return self

    def __exit__(self, *_: object) -> None:
        import torch.testing

        torch.testing.assert_close = self._original
