"""Runs pytest on changed modules, each time in a process forked from one that is warm.

Importing torch and transformers takes seconds, forking nothing. The warm process never imports
`formulary`: each child does so anew and gets the changed source, so that constants, default
arguments and `from … import` copies are all changed too. Nothing on the disk changes.
"""

import ast
import contextlib
import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import resource
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType

from formulary_site.definitions import PACKAGE
from formulary_site.project import Project
from formulary_site.proof.mutations import Mutant

_MEMORY = 12 << 30  # a changed size must not take the machine with it


@dataclass(frozen=True)
class Task:
    """One run of some tests.

    Attributes:
        tests: Node ids; the run ends at the first failure.
        mutant: What to change first, or None.
        seconds: Time limit, of the processor; an endless loop exceeds it.
    """

    tests: tuple[str, ...]
    mutant: Mutant | None = None
    seconds: float = 600.0


@dataclass(frozen=True)
class Result:
    """Whether all tests passed, and the processor's seconds that they took."""

    passed: bool
    seconds: float


def warm(files: Iterable[Path]) -> None:
    """Import what the files import, but for the package itself; call this once, before `run`."""
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")  # a thread pool survives no fork
    importlib.import_module("pytest")
    for module, names in sorted(_imported(files)):
        # What can't be imported here fails in the child, where it is reported
        with contextlib.suppress(Exception):
            loaded = importlib.import_module(module)
            for name in names:
                getattr(loaded, name, None)  # transformers imports on first access
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # or each child's collections walk, and so copy, all of torch


def run(project: Project, tasks: Iterable[Task], processes: int) -> Iterator[tuple[Task, Result]]:
    """Run the tasks, several at a time; yields each as it ends."""
    waiting = iter(tasks)
    running: dict[int, tuple[Task, float]] = {}
    try:
        while True:
            while len(running) < processes and (task := next(waiting, None)):
                # Waiting for a processor doesn't count, but a child that sleeps must end, too
                running[_start(project, task)] = (task, time.monotonic() + 20 * task.seconds)
            if not running:
                return
            for process, (task, deadline) in list(running.items()):
                ended, status, usage = os.wait4(process, os.WNOHANG)
                if ended:
                    del running[process]
                    yield task, Result(status == 0, usage.ru_utime + usage.ru_stime)
                elif time.monotonic() > deadline:
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.005)
    finally:
        for process in running:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


def _imported(files: Iterable[Path]) -> set[tuple[str, tuple[str, ...]]]:
    found: set[tuple[str, tuple[str, ...]]] = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found.update((alias.name, ()) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add((node.module, tuple(alias.name for alias in node.names)))
    return {(name, names) for name, names in found if name.partition(".")[0] != PACKAGE}


def _start(project: Project, task: Task) -> int:
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        status = _child(project, task)
    finally:
        os._exit(status)


def _child(project: Project, task: Task) -> int:
    import pytest

    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silence, stream)
    limit = int(task.seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    os.chdir(project.root)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # a third of a second each time
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]
    sys.path.insert(0, str(project.code))
    if task.mutant:
        sys.meta_path.insert(0, _Finder(task.mutant))
    # No shape checks: they would kill mutants that a reader of the copied code would not see
    options = ["-x", "-q", "-o", "addopts=", "--import-mode=importlib", "-p", "no:cacheprovider"]
    return int(pytest.main([*options, f"--rootdir={project.root}", *task.tests]))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the one changed module."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self._mutant.definition.module:
            return None
        file = str(self._mutant.definition.file)
        loader = _Loader(name, file, self._mutant.source)
        return importlib.util.spec_from_file_location(name, file, loader=loader)


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads the changed source, past the cache of compiled files."""

    def __init__(self, name: str, file: str, source: str) -> None:
        super().__init__(name, file)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._source, self.path, "exec", dont_inherit=True)
