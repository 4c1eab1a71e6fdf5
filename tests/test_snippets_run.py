"""Every runnable version of the site runs alone and prints what its comments say."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from formulary_site.project import Project
from formulary_site.site import Site
from formulary_site.snippets.builder import all_runnable, runnable
from formulary_site.snippets.example import expected_output
from formulary_site.snippets.sandbox import Sandbox, run_fresh
from formulary_site.snippets.signature import WIDTH

SITE = Site(Project(Path(__file__).parents[1]))
DEFINITIONS = SITE.definitions
PATHS = sorted(SITE.objects)  # helpers are run as part of what needs them


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as started:
        yield started


@pytest.mark.parametrize("path", PATHS)
def test_runnable_version_prints_what_it_says(sandbox: Sandbox, path: str) -> None:
    code = runnable(DEFINITIONS, path)
    outcome = sandbox.run(code, expected_output(code))
    assert outcome.ok, f"{path}\n{outcome.traceback}"


# an import of torch costs seconds; the first and every twentieth stand for the rest
@pytest.mark.parametrize("path", PATHS[::20])
def test_runnable_version_runs_in_a_new_interpreter(path: str) -> None:
    code = runnable(DEFINITIONS, path)
    outcome = run_fresh(code, expected_output(code))
    assert outcome.ok, f"{path}\n{outcome.traceback}"


def test_runnable_versions_are_laid_out_as_if_by_hand(tmp_path: Path) -> None:
    for path, code in all_runnable(DEFINITIONS, PATHS).items():
        (tmp_path / f"{path}.py").write_text(code, "utf-8")
    ruff = [sys.executable, "-m", "ruff"]
    options = [
        "--isolated",
        "--no-cache",
        "--target-version=py311",
        f"--line-length={WIDTH}",
        str(tmp_path),
    ]
    # F: unused or unknown names; I: order of imports
    for command in (["check", "--select=F,I,E501"], ["format", "--diff"]):
        done = subprocess.run([*ruff, *command, *options], capture_output=True, encoding="utf-8")
        hint = "\nis code/formulary itself formatted?"
        assert done.returncode == 0, done.stdout + done.stderr + hint
