import os
import subprocess
import sys
import time

import pytest

from formulary_site.json_process import JsonProcess
from formulary_site.node import NodeError

ECHO = """
import json, sys, time
print('"ready"', flush=True)
for line in sys.stdin:
    message = json.loads(line)
    if message == "die":
        sys.exit("cannot go on")
    if message == "sleep":
        time.sleep(60)
    print(json.dumps([message]), flush=True)
"""


def start(script: str = ECHO, timeout: float = 20.0) -> JsonProcess:
    return JsonProcess([sys.executable, "-c", script], "echo", timeout)


def test_greets_and_answers() -> None:
    process = start()
    assert process.greeting == "ready"
    assert process.ask({"词": "\n" * 100_000}) == [{"词": "\n" * 100_000}]
    process.close()
    process.close()
    assert process._process.returncode == 0
    with pytest.raises(NodeError, match="echo was closed"):
        process.ask("more")


def test_death_tells_status_and_last_words() -> None:
    process = start()
    with pytest.raises(NodeError, match="echo ended with status 1: cannot go on"):
        process.ask("die")
    assert process._process.returncode == 1


def test_death_at_birth() -> None:
    with pytest.raises(NodeError, match=r"(?s)echo ended with status 1: .*ZeroDivisionError"):
        start("1/0")


def test_silence_ends_it() -> None:
    process = start(timeout=20.0)
    process._timeout = 0.2
    with pytest.raises(NodeError, match=r"echo gave no answer in 0\.2 s"):
        process.ask("sleep")
    assert process._process.returncode


@pytest.mark.skipif(os.name == "nt", reason="asks the system for a process by its id")
@pytest.mark.parametrize("end", ["pass", "os.kill(os.getpid(), 9)"])
def test_it_does_not_outlive_its_parent(end: str) -> None:
    parent = (
        "import os, sys\n"
        "from formulary_site.json_process import JsonProcess\n"
        "child = JsonProcess([sys.executable, '-c', sys.argv[1]], 'echo', 20.0)\n"
        f"print(child._process.pid, flush=True)\n{end}"
    )
    done = subprocess.run(
        [sys.executable, "-c", parent, ECHO], stdout=subprocess.PIPE, text=True, check=False
    )
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(int(done.stdout), 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("the child is still there")
