"""What the READMEs say, done to the letter."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from formulary_site.check import check
from formulary_site.project import Project
from formulary_site.proof.links import KINDS
from formulary_site.site import Site

from .formulary_site.conftest import Edit, edit, small

__all__ = ["edit", "small"]  # fixtures of the neighbouring room

ROOT = Path(__file__).parents[1]
READMES = ("README.md", "README.zh-CN.md")

# A path on a line of its own, and the fence with the file's content
FILE = re.compile(r"^`([^`\n]+)`[:：]\n\n(`{3,})\w+\n(.*?)^\2$", re.DOTALL | re.MULTILINE)
# A path and what to replace in that file, and the fence with the replacement
CHANGE = re.compile(
    r"`(code/[^`\n]+)`[^`]*`(raise [^`\n]+)`[^`\n]*[:：]\n\n```python\n(.*?)^```$", re.S | re.M
)
REPORT = re.compile(r"^```console\n(code/.*?)^```$", re.DOTALL | re.MULTILINE)


def readme(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def run_tests(project: Project) -> subprocess.CompletedProcess[str]:
    """`make test`'s first step, in the small project."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "tests/formulary", "-q", "-p", "no:cacheprovider"),
            *("-p", "formulary_site.proof.pytest_plugin", "-p", "jaxtyping", "--evidence"),
            "--jaxtyping-packages=formulary,beartype.beartype",
            "--import-mode=importlib",
        ],
        cwd=project.root,
        env={
            **os.environ,
            "PYTHONPATH": str(project.code),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_the_worked_example_ends_in_a_green_check(small: Project, edit: Edit) -> None:
    text = readme("README.md")
    edit("mkdocs.yml", "[Good]", "[Good, Transformer]")
    edit("mkdocs.yml", "[good]", "[good, 数值精度]")
    *source, (tests_path, _, tests) = FILE.findall(text)
    assert [Path(path).parts[0] for path, *_ in source] == ["code", "code", "docs"]
    for path, _, content in source:
        write(small, path, content)

    (report,) = REPORT.findall(text)
    assert "".join(f"{problem}\n" for problem in check(Site(small))) == report

    write(small, tests_path, tests)
    before = run_tests(small)
    assert before.returncode == 1
    assert "2 failed, 4 passed" in before.stdout
    assert "NotImplementedError" in before.stdout

    ((path, old, new),) = CHANGE.findall(text)
    edit(path, f"    {old}\n", new)
    after = run_tests(small)
    assert after.returncode == 0, after.stdout + after.stderr
    assert "docs/evidence.json rewritten" in after.stdout
    assert check(Site(small)) == []
    for command in (["check"], ["format", "--diff"]):  # `make test` begins with these
        written = [name for name, *_ in (*source, (tests_path,)) if name.endswith(".py")]
        ruff(small, *command, *written)


def ruff(project: Project, *arguments: str) -> None:
    shutil.copy(ROOT / "pyproject.toml", project.root)
    command = shutil.which("ruff", path=sysconfig.get_path("scripts"))
    assert command, "ruff is missing; `make setup` installs it"
    done = subprocess.run(
        [command, *arguments], cwd=project.root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def write(project: Project, path: str, content: str) -> None:
    (project.root / path).parent.mkdir(parents=True, exist_ok=True)
    (project.root / path).write_text(content, "utf-8")


def test_both_languages_show_the_same_example() -> None:
    english, chinese = (readme(name) for name in READMES)
    assert len(FILE.findall(english)) == 4
    for pattern in (FILE, CHANGE, REPORT):
        assert pattern.findall(english) == pattern.findall(chinese)


def test_the_example_uses_what_mkdocs_yml_allows() -> None:
    plugins = {}
    for plugin in Project(ROOT).config["plugins"]:
        plugins.update(plugin if isinstance(plugin, dict) else {})
    page = readme("README.md")
    for key, allowed in (
        ("categories", plugins["blog"]["categories_allowed"]),
        ("tags", plugins["tags"]["tags_allowed"]),
    ):
        (values,) = re.findall(rf"^{key}: \[(.*)\]$", page, re.MULTILINE)
        assert set(values.split(", ")) <= set(allowed)


def test_the_rules_name_the_claims_that_the_check_knows() -> None:
    (rule,) = re.findall(r"A claim begins with(.*?)\n\d", readme(".github/CONTRIBUTING.md"), re.S)
    assert set(re.findall(r"`(\w+_)`", rule)) == set(KINDS)


@pytest.mark.parametrize("name", READMES)
def test_the_targets_are_those_of_the_makefile(name: str) -> None:
    makefile = set(re.findall(r"^([a-z]+):.*## ", readme("Makefile"), re.MULTILINE))
    table = re.findall(r"^\| `make ([a-z]+)` \|", readme(name), re.MULTILINE)
    assert set(table) == makefile
    assert len(table) == len(makefile)
    assert set(re.findall(r"\bmake ([a-z]+)\b(?=`|  )", readme(name))) <= makefile


@pytest.mark.parametrize("name", [*READMES, ".github/CONTRIBUTING.md"])
def test_relative_links_and_named_files_exist(name: str) -> None:
    # What stands in a fence is the example's
    text = re.sub(r"^(`{3,}).*?^\1$", "", readme(name), flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\((?!https?:|#)([^)\s]+)\)", text)
    assert links
    for link in links:
        assert (ROOT / name).parent.joinpath(link.partition("#")[0]).exists(), link
