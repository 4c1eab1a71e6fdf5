"""What runs, what is refused, and what the outcome says."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from formulary_site.snippets.sandbox import Sandbox, run_fresh


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as started:
        yield started


def test_output_is_captured(sandbox: Sandbox) -> None:
    outcome = sandbox.run("import torch\nprint(torch.arange(2.0) @ torch.ones(2))")
    assert (outcome.ok, outcome.stdout, outcome.traceback) == (True, "tensor(1.)\n", "")


def test_expected_output_may_differ_in_white_space_and_ellipses(sandbox: Sandbox) -> None:
    assert sandbox.run("print([1,   2.25])", "[1,\n 2...]\n").ok


def test_other_output_is_a_failure_that_shows_both(sandbox: Sandbox) -> None:
    outcome = sandbox.run("print(1 + 1)", "3\n")
    assert not outcome.ok
    assert "Expected:\n    3\nGot:\n    2\n" in outcome.traceback


def test_missing_output_is_a_failure(sandbox: Sandbox) -> None:
    assert not sandbox.run("x = 3", "3\n").ok


def test_an_exception_shows_the_line_and_no_frame_of_ours(sandbox: Sandbox) -> None:
    outcome = sandbox.run("print('before')\n\n\ndef f():\n    return 1 / 0\n\n\nf()\n")
    assert not outcome.ok
    assert outcome.stdout == "before\n"
    assert 'File "snippet.py", line 5, in f\n    return 1 / 0' in outcome.traceback
    assert outcome.traceback.endswith("ZeroDivisionError: division by zero\n")
    assert "sandbox_server" not in outcome.traceback


def test_a_syntax_error_is_a_failure(sandbox: Sandbox) -> None:
    assert "SyntaxError" in sandbox.run("def f(:\n").traceback


def test_a_warning_is_a_failure(sandbox: Sandbox) -> None:
    outcome = sandbox.run("import warnings\nwarnings.warn('old', stacklevel=1)")
    assert not outcome.ok
    assert "UserWarning: old" in outcome.traceback


@pytest.mark.parametrize(("module", "succeeds"), [("__main__", False), ("torch.other", True)])
def test_only_warnings_that_a_reader_would_see_are_failures(
    sandbox: Sandbox, module: str, succeeds: bool
) -> None:
    code = "import warnings\nwarnings.warn_explicit('old', DeprecationWarning, 'a.py', 1, '{}')"
    assert sandbox.run(code.format(module)).ok is succeeds


@pytest.mark.parametrize(
    "code",
    [
        "import numpy",  # torch has loaded it already
        "from scipy import linalg",
        "import formulary.rope",
        "def f():\n    import jaxtyping\nf()",
        "import importlib\nimportlib.import_module('pytest')",
    ],
)
def test_other_packages_are_refused_by_name(sandbox: Sandbox, code: str) -> None:
    outcome = sandbox.run(code)
    assert not outcome.ok
    assert "may import torch and the standard library only" in outcome.traceback


def test_torch_and_the_standard_library_load_what_they_need(sandbox: Sandbox) -> None:
    code = """
import math, dataclasses, collections.abc, unittest.mock, sysconfig
import torch.nn.functional as F
from torch.func import jacrev

@dataclasses.dataclass
class Point:
    x: float

assert sysconfig.get_config_var("prefix")
print(Point(math.pi), jacrev(F.silu)(torch.zeros(1)) if "torch" in dir() else 0)
"""
    outcome = sandbox.run(code.replace("import torch.nn", "import torch\nimport torch.nn"))
    assert outcome.ok, outcome.traceback
    assert outcome.stdout == "Point(x=3.141592653589793) tensor([[0.5000]])\n"


def test_an_endless_loop_ends_in_time(sandbox: Sandbox) -> None:
    begun = time.monotonic()
    outcome = sandbox.run("print('in', flush=True)\nwhile True:\n    pass", seconds=0.5)
    assert time.monotonic() - begun < 5
    assert (outcome.ok, outcome.stdout) == (False, "in\n")
    assert outcome.traceback == "TimeoutError: not done after 0.5 s\n"


def test_endless_output_ends(sandbox: Sandbox) -> None:
    outcome = sandbox.run("while True:\n    print('x' * 10_000)")
    assert not outcome.ok
    assert "printed more than" in outcome.traceback
    assert len(outcome.stdout) < 1 << 22


def test_a_crash_names_the_signal_and_the_next_run_works(sandbox: Sandbox) -> None:
    outcome = sandbox.run("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    assert outcome.traceback == "ended by signal SIGSEGV\n"
    assert sandbox.run("print(1)", "1\n").ok


@pytest.mark.parametrize(
    "code",
    [
        "open({path!r}, 'w').close()",
        "import os\nos.open({path!r}, os.O_CREAT | os.O_RDWR)",
        "import os\nos.mkdir({path!r})",
        "from pathlib import Path\nPath('../made').write_text('')",
        "from pathlib import Path\nPath('a').touch()\nPath('a').rename({path!r})",
    ],
)
def test_writing_outside_is_refused(sandbox: Sandbox, tmp_path: Path, code: str) -> None:
    path = tmp_path / "made"
    outcome = sandbox.run(code.format(path=str(path)))
    assert not outcome.ok
    assert "outside of the working folder" in outcome.traceback
    assert not path.exists()


def test_the_working_folder_is_empty_and_writable(sandbox: Sandbox) -> None:
    code = """
import os
import tempfile
from pathlib import Path

import torch

print(os.listdir())
Path("a").write_text("b")
print(Path("a").read_text())
with tempfile.TemporaryDirectory() as folder:
    torch.save(torch.ones(1), Path(folder, "c"))
    print(torch.load(Path(folder, "c")))
"""
    for _ in range(2):
        outcome = sandbox.run(code, "[]\nb\ntensor([1.])\n")
        assert outcome.ok, outcome.traceback


@pytest.mark.parametrize(
    "code",
    [
        "import subprocess\nsubprocess.run(['true'])",
        "import os\nos.system('true')",
        "import socket\nsocket.create_connection(('127.0.0.1', 9))",
    ],
)
def test_programs_and_network_are_refused(sandbox: Sandbox, code: str) -> None:
    outcome = sandbox.run(code)
    assert not outcome.ok
    assert "is refused: a runnable version needs torch alone" in outcome.traceback


def test_forked_processes_work_under_the_same_rules(sandbox: Sandbox) -> None:
    code = """
import multiprocessing

def work(queue):
    try:
        import numpy
    except ImportError as error:
        queue.put(error.name)

context = multiprocessing.get_context("fork")
queue = context.SimpleQueue()
process = context.Process(target=work, args=(queue,))
process.start()
print(queue.get())
process.join()
"""
    outcome = sandbox.run(code, "numpy\n")
    assert outcome.ok, outcome.traceback


def test_forked_processes_end_with_the_run(sandbox: Sandbox) -> None:
    code = """
import os, time

if sleeper := os.fork():
    print(sleeper, flush=True)
    os._exit(0)
time.sleep(60)
"""
    started = time.monotonic()
    outcome = sandbox.run(code, seconds=1.0)
    assert "TimeoutError" in outcome.traceback  # the sleeper holds the pipes open
    assert time.monotonic() - started < 30
    left = Path(f"/proc/{outcome.stdout.strip()}/stat")
    while left.exists() and ") Z " not in left.read_text("ascii"):  # at most not yet buried
        assert time.monotonic() - started < 30, "the forked process lives on"
        time.sleep(0.1)


def test_runs_share_nothing(sandbox: Sandbox) -> None:
    assert sandbox.run("import torch, builtins\nbuiltins.left = 1\ntorch.manual_seed(3)").ok
    names = "print(sorted(n for n in globals() if not n.startswith('__')), __name__)"
    assert sandbox.run(names, "[] __main__\n").ok
    assert "NameError" in sandbox.run("left").traceback


def test_one_thread_and_nothing_of_the_caller(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import os, sys, torch\nprint(torch.get_num_threads(), [p for p in sys.path if {!r} in p])"
    )
    code_folder = str(Path(__file__).parents[2] / "code")
    assert sandbox.run(code.format(code_folder), "1 []\n").ok
    monkeypatch.setenv("LEFT_OVER", "1")
    with Sandbox() as other:
        assert other.run("import os\nprint('LEFT_OVER' in os.environ)", "False\n").ok
    assert os.environ["LEFT_OVER"] == "1"


def test_a_fresh_interpreter_agrees() -> None:
    assert run_fresh("import os\nprint(os.listdir(), __name__)", "['snippet.py'] __main__\n").ok
    assert not run_fresh("print(2)", "3\n").ok
    assert "ZeroDivisionError" in run_fresh("1 / 0").traceback
    assert "TimeoutError" in run_fresh("while True:\n    pass", seconds=0.5).traceback
