"""Executes runnable versions in isolation and compares what they print."""

import doctest
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SERVER = Path(__file__).with_name("sandbox_server.py")
_OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# -I: no environment, no user packages, no folder of the script on the path
_PYTHON = (sys.executable, "-I", "-X", "utf8")


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        ok: It ended by itself without an error and printed what was expected.
        stdout: What it printed.
        traceback: What it wrote to standard error, or what differs; '' if all went well.
    """

    ok: bool
    stdout: str
    traceback: str


class Sandbox:
    """A process that has loaded torch alone and forks a child for each run.

    Starting it costs as much as importing torch; a run costs some milliseconds. Needs fork, so
    not for Windows.
    """

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [*_PYTHON, str(_SERVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(),
            start_new_session=True,  # Ctrl-C is for the caller, who then ends this process
        )
        self._receive()  # it says when torch is loaded

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def run(self, code: str, expected: str | None = None, seconds: float = 20.0) -> Outcome:
        """Execute code in an empty namespace and folder.

        Args:
            code: A whole Python file.
            expected: What it must print, `...` for anything; None if that does not matter.
            seconds: When to give up.
        """
        assert self._server.stdin
        request = json.dumps({"code": code, "seconds": seconds})
        self._server.stdin.write(request.encode() + b"\n")
        self._server.stdin.flush()
        return _compared(Outcome(**self._receive()), expected)

    def _receive(self) -> dict[str, Any]:
        assert self._server.stdout
        line = self._server.stdout.readline()
        if not line:
            raise RuntimeError(f"the sandbox ended with status {self._server.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def run_fresh(code: str, expected: str | None = None, seconds: float = 120.0) -> Outcome:
    """Execute code as a reader would: a file of its own, a new interpreter, an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "snippet.py")
        file.write_text(code, "utf-8")
        try:
            done = subprocess.run(
                [*_PYTHON, file.name],
                cwd=folder,
                env=_environment(),
                capture_output=True,
                stdin=subprocess.DEVNULL,
                encoding="utf-8",
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            return Outcome(False, "", f"TimeoutError: not done after {seconds:g} s\n")
    return _compared(Outcome(done.returncode == 0, done.stdout, done.stderr), expected)


def _compared(outcome: Outcome, expected: str | None) -> Outcome:
    checker = doctest.OutputChecker()
    if not outcome.ok or expected is None:
        return outcome
    if checker.check_output(expected, outcome.stdout, _OPTIONS):
        return outcome
    example = doctest.Example("", expected)
    difference = checker.output_difference(example, outcome.stdout, _OPTIONS)
    return Outcome(False, outcome.stdout, outcome.traceback + difference)


def _environment() -> dict[str, str]:
    """One thread: children of a process with threads hang, and the cores are shared."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return kept | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
