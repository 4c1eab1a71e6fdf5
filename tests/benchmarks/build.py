"""How long a build takes: from nothing, with a warm cache, and after one edit."""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from timing import table

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Build a copy of the project; Node's packages stay installed, every other cache is cold."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "project"
        ignore = shutil.ignore_patterns(".git", ".venv", ".cache", "site", ".*_cache")
        shutil.copytree(ROOT, copy, ignore=ignore)
        packages = ROOT / ".cache" / "formulary" / "node"
        if packages.is_dir():
            shutil.copytree(packages, copy / ".cache" / "formulary" / "node", symlinks=True)
        article = copy / "docs" / "posts" / "rope" / "index.md"

        def build() -> float:
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"],
                cwd=copy,
                check=True,
            )
            return time.perf_counter() - start

        cold = build()
        warm = sorted(build() for _ in range(3))[1]
        edited = []
        for number in range(3):
            text = article.read_text("utf-8")
            article.write_text(f"{text}\n新的一句，$x_{{{number}}}+y$。\n", "utf-8")
            edited.append(build())
        after = sorted(edited)[1]
    rows = [
        (name, f"{seconds:.1f}", f"{seconds / cold:.2f}")
        for name, seconds in (
            ("cold: figures drawn, formulas typeset", cold),
            ("nothing changed", warm),
            ("one sentence with a new formula", after),
        )
    ]
    table("mkdocs build, start of Python included", ("what", "s", "ratio to cold"), rows)


if __name__ == "__main__":
    main()
