"""A child process that is asked and answers in lines of JSON."""

import contextlib
import json
import subprocess
import tempfile
import threading
import weakref
from typing import IO, Any

from formulary_site.node import NodeError


class JsonProcess:
    """Answers each line of JSON with one line of JSON.

    It ends with `close`, with the interpreter, or, should that be killed, by the end of its input.

    Attributes:
        greeting: The line that it says first.
        close: Ends it; a second call does nothing.
    """

    def __init__(self, command: list[str], name: str, timeout: float) -> None:
        """Start it and read its first line.

        Args:
            command: Program and arguments.
            name: What messages call it.
            timeout: Seconds that an answer may take.

        Raises:
            NodeError: It does not start.
        """
        self._name = name
        self._timeout = timeout
        self._lock = threading.Lock()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            encoding="utf-8",
        )
        self.close = weakref.finalize(self, _close, self._process, self._errors)
        self.greeting = self._exchange("")

    def ask(self, message: object) -> Any:
        """Send one message, return its answer.

        Raises:
            NodeError: The process has died or takes too long; it is gone then.
        """
        return self._exchange(json.dumps(message) + "\n")

    def _exchange(self, line: str) -> Any:
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self._process.kill()  # ends the wait for its line, too

        with self._lock:
            assert self._process.stdin
            assert self._process.stdout
            timer = threading.Timer(self._timeout, give_up)
            timer.start()
            try:
                self._process.stdin.write(line)
                self._process.stdin.flush()
                answer = self._process.stdout.readline()
            except (OSError, ValueError):  # a broken pipe, or one that we closed
                answer = ""
            finally:
                timer.cancel()
            if answer.endswith("\n"):
                return json.loads(answer)
            raise NodeError(self._obituary(late.is_set()))

    def _obituary(self, late: bool) -> str:
        if not self.close.alive:
            return f"{self._name} was closed"
        _end(self._process)
        self._errors.seek(0)
        told = self._errors.read().decode("utf-8", "replace").strip()[-2000:]
        self.close()
        cause = (
            f"gave no answer in {self._timeout:g} s and was stopped"
            if late
            else f"ended with status {self._process.returncode}"
        )
        return f"{self._name} {cause}{f': {told}' if told else ''}"


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    assert process.stdout
    with contextlib.suppress(OSError):  # it died with some of our line unread
        process.stdin.close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


def _close(process: subprocess.Popen[str], errors: IO[bytes]) -> None:
    _end(process)
    errors.close()
