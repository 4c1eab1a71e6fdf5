"""Runs code in children forked from an interpreter that has loaded torch alone.

Started by `sandbox.py` as `python -I sandbox_server.py`; it imports nothing of the project. Reads
one JSON request a line from standard input, `{"code": …, "seconds": …}`, and answers each with
one line, `{"ok": …, "stdout": …, "traceback": …}`. It is a check that copied code needs torch
alone and harms nothing by mistake, not a wall against hostile code. The code may fork processes of
its own, which inherit all this; other programs and the network are refused.
"""

import builtins
import contextlib
import gc
import json
import linecache
import os
import selectors
import signal
import sys
import tempfile
import time
import traceback
import types
import warnings
from typing import Any, NoReturn

FILE = "snippet.py"
MOST_OUTPUT = 1 << 20  # bytes; an endless print must not fill the memory
_REASON = "a runnable version may import torch and the standard library only"
# audit events (docs.python.org/3/library/audit_events.html), by their beginnings
_PATH_EVENTS = (
    *("os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir"),
    *("os.symlink", "os.truncate", "os.utime"),
)
_FORBIDDEN_EVENTS = (
    *("os.exec", "os.posix_spawn", "os.spawn", "os.system", "pty.spawn"),
    *("subprocess.", "socket.bind", "socket.connect", "socket.getaddrinfo"),
)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever torch prints must not mix with the answers
    _forget_the_project()
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch._dynamo  # DDP and forward mode load it, which takes each child seconds

    # before any operation: threads that exist do not survive a fork, and hang it
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    gc.freeze()  # a collection in a child would copy every page
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        print(json.dumps(run(request["code"], request["seconds"])), file=answers, flush=True)


def _forget_the_project() -> None:
    """Keep the interpreter's own folders: an editable install adds the project's."""
    own = (os.path.realpath(sys.prefix), os.path.realpath(sys.base_prefix))
    sys.path[:] = [p for p in sys.path if os.path.realpath(p).startswith(own)]
    sys.meta_path[:] = [
        finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")
    ]


def run(code: str, seconds: float) -> dict[str, Any]:
    """Fork a child for the code, collect what it writes, and end it when its time is over."""
    with tempfile.TemporaryDirectory() as folder:
        out, out_end = os.pipe()
        err, err_end = os.pipe()
        child = os.fork()
        if child == 0:
            _become_child(code, folder, out_end, err_end)
        os.close(out_end)
        os.close(err_end)
        written, excess = _collect(out, err, time.monotonic() + seconds)
        with contextlib.suppress(ProcessLookupError):  # before the child leads its group
            os.killpg(child, signal.SIGKILL)  # what it forked ends with it
        os.kill(child, signal.SIGKILL)  # does nothing to a child that has ended
        _, status = os.waitpid(child, 0)
    stdout, stderr = (written[end].decode("utf-8", "replace") for end in (out, err))
    code_of_exit = os.waitstatus_to_exitcode(status)
    if excess == "time":
        stderr += f"TimeoutError: not done after {seconds:g} s\n"
    elif excess:
        stderr += f"OverflowError: printed more than {MOST_OUTPUT} bytes\n"
    elif code_of_exit < 0:
        stderr += f"ended by signal {signal.Signals(-code_of_exit).name}\n"
    return {"ok": not excess and code_of_exit == 0, "stdout": stdout, "traceback": stderr}


def _collect(out: int, err: int, deadline: float) -> tuple[dict[int, bytearray], str]:
    """Read both pipes to their ends; the second value says what ran over, if anything."""
    written = {out: bytearray(), err: bytearray()}
    excess = ""
    with selectors.DefaultSelector() as selector:
        for end in written:
            selector.register(end, selectors.EVENT_READ)
        while selector.get_map() and not excess:
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                excess = "time"
            for key, _ in ready:
                if data := os.read(key.fd, 1 << 16):
                    written[key.fd] += data
                else:
                    selector.unregister(key.fd)
            if max(map(len, written.values())) > MOST_OUTPUT:
                excess = "output"
    os.close(out)
    os.close(err)
    return written, excess


def _become_child(code: str, folder: str, out: int, err: int) -> NoReturn:
    """Run the code as `__main__` in an empty folder, and end this process."""
    status = 1
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        tempfile.tempdir = folder
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (out, 1), (err, 2)):
            os.dup2(source, target)
        os.closerange(3, 64)
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
        status = _execute(code, os.path.realpath(folder))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _execute(code: str, folder: str) -> int:
    module = types.ModuleType("__main__")
    module.__dict__["__file__"] = FILE
    sys.modules["__main__"] = module
    sys.argv = [FILE]
    linecache.cache[FILE] = (len(code), None, code.splitlines(keepends=True), FILE)
    _refuse_warnings()
    _guard_imports(module.__dict__)
    sys.addaudithook(lambda event, args: _audit(event, args, folder))
    try:
        exec(compile(code, FILE, "exec"), module.__dict__)
    except SystemExit as error:
        return int(error.code not in (None, 0))
    except BaseException as error:
        story = traceback.TracebackException.from_exception(error)
        story.stack = traceback.StackSummary.from_list(
            [frame for frame in story.stack if frame.filename != __file__]
        )
        print(*story.format(), sep="", end="", file=sys.stderr)
        return 1
    return 0


def _refuse_warnings() -> None:
    """A reader should see no warning; those that Python hides by default don't count."""
    warnings.simplefilter("error")
    for hidden in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", hidden)
    warnings.filterwarnings("error", category=DeprecationWarning, module="__main__")


def _guard_imports(namespace: dict[str, Any]) -> None:
    """Refuse what the code itself imports; torch may load what it needs."""
    original = builtins.__import__

    def guarded(
        name: str,
        globals: Any = None,
        locals: Any = None,
        fromlist: Any = (),
        level: int = 0,
    ) -> Any:
        if globals is namespace:  # also for modules that torch has loaded already
            _refuse(name)
        return original(name, globals, locals, fromlist, level)

    class Finder:
        """For importlib.import_module, which passes `__import__` by."""

        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> None:
            frame = sys._getframe(1)
            while frame.f_back and "importlib" in frame.f_code.co_filename:
                frame = frame.f_back
            if frame.f_globals is namespace:
                _refuse(name)

    builtins.__import__ = guarded
    sys.meta_path.insert(0, Finder)


def _refuse(name: str) -> None:
    root = name.partition(".")[0]
    if root != "torch" and root not in sys.stdlib_module_names:
        raise ImportError(f"`{name}` is refused: {_REASON}", name=name)


def _audit(event: str, args: tuple[Any, ...], folder: str) -> None:
    """Refuse writing outside of the folder, other processes, and the network."""
    if event == "open":
        path, _, flags = args
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        if writes and not isinstance(path, int):
            _inside(path, folder)
    elif event.startswith(_PATH_EVENTS):
        for path in args:
            if isinstance(path, str | bytes | os.PathLike):
                _inside(path, folder)
    elif event.startswith(_FORBIDDEN_EVENTS):
        raise PermissionError(f"`{event}` is refused: a runnable version needs torch alone")


def _inside(path: Any, folder: str) -> None:
    real = os.path.realpath(os.fsdecode(path))
    if real != os.devnull and os.path.commonpath((real, folder)) != folder:
        raise PermissionError(f"writing `{real}` is refused: outside of the working folder")


if __name__ == "__main__":
    main()
