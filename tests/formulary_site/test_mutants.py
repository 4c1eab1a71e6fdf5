import os
import subprocess
import sys
from pathlib import Path

import pytest

from formulary_site.definitions import Definitions
from formulary_site.project import Project
from formulary_site.proof.mutations import mutants


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def write(project: Project, module: str, test: str = "") -> Definitions:
    for path, text in (
        (project.root / "mkdocs.yml", ""),
        (project.root / "pyproject.toml", '[tool.pytest.ini_options]\naddopts = ["--bad"]\n'),
        (project.code / "formulary" / "__init__.py", ""),
        (project.code / "formulary" / "toy.py", module),
        (project.tests / "formulary" / "test_toy.py", test),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return Definitions.load(project)


def changes(project: Project, body: str, head: str = "def f(x, y):") -> set[str]:
    definitions = write(project, f"{head}\n    {body}\n")
    return {mutant.after for mutant in mutants(definitions["toy.f"])}


def python(project: Project, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=project.root,
        env={**os.environ, "PYTHONPATH": str(project.code)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def hunt(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = (
        "import sys; from pathlib import Path; from formulary_site.proof.mutants import main;"
        "from formulary_site.project import Project;"
        "sys.exit(main(Project(Path('.').resolve()), sys.argv[1:]))"
    )
    return python(project, program, *arguments)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("z = x - y", {"z = x + y"}),
        ("z = (x) * (y)", {"z = (x) / (y)"}),
        ("z = x**y", {"z = x*y"}),
        ("z = x @ y", {"z = y @ x"}),
        ("z = -x", {"z = (x)"}),
        ("z = x[..., 0::2]", {f"z = x[..., {s}]" for s in ("1::2", "-1::2", "0::3", "0::1")}),
        ("z = x[:y]", {"z = x[y:]"}),
        ("z = x.sum(dim=-1)", {f"z = x.{s}" for s in ("sum(dim=-2)", "sum(dim=0)")}
            | {"z = x.mean(dim=-1)", "z = x"}),
        ("z = torch.cat((x, y))", {"z = torch.cat((y, x))"}),
        ("z = torch.exp(x)", {"z = (x)"}),
        ("z = x.flip(y)", {"z = x"}),
        ("z = x.to(y.device)", set()),
        ("z = torch.einsum('ij,jk->ik', x, y)", {"z = torch.einsum('ij,jk->ki', x, y)"}),
        ("z = torch.outer(x, y)", {"z = torch.outer(y, x)"}),
        ("z = torch.maximum(x, y)", {"z = torch.minimum(x, y)"}),
        ("return x, y", {"return y, x", "return -(x), y", "return x, -(y)"}),
        ("return x.cos()", {"return -(x.cos())", "return x.sin()"}),
        ("if x < y or x > 2.0: z = 1", {
            "if x <= y or x > 2.0: z = 1", "if x < y and x > 2.0: z = 1",
            "if x < y or x >= 2.0: z = 1", "if x < y or x > 4.0: z = 1",
            "if x < y or x > 2.0: z = 2", "if x < y or x > 2.0: z = 0",
            "if not (x < y or x > 2.0): z = 1"}),
        ("if x: raise ValueError(f'{1 + 2}', 3)", {
            "if False and (x): raise ValueError(f'{1 + 2}', 3)"}),
        ("'''Doc -1.'''", set()),
        ("z: Float[Tensor, 3] = '形状'  # a - 1", set()),
        ("z = '汉字', x + y", {"z = '汉字', x - y"}),
    ],
)  # fmt: skip
def test_mutations_are_these(project: Project, body: str, expected: set[str]) -> None:
    assert changes(project, body) == expected


def test_defaults_change_and_annotations_do_not(project: Project) -> None:
    head = "def f(x: Int[Tensor, 2], base: float = 10.0) -> Int[Tensor, 3]:"
    assert changes(project, "pass", head) == {head.replace("10.0", "20.0")}


def test_a_mutant_knows_its_line_and_its_module(project: Project) -> None:
    source = 'A = "甲"\n\n\ndef f(x):\n    return (\n        x\n        + A\n    )\n'
    definitions = write(project, source)
    mutant = next(m for m in mutants(definitions["toy.f"]) if m.after == "- A")
    assert (mutant.line, mutant.before) == (7, "+ A")
    assert mutant.source == source.replace("+ A", "- A")


MODULE = """
SCALE = 3

def scaled(x):
    return SCALE * _shift(x)

def _shift(x):
    return x + 1

def loop(n):
    while n > 0:
        n -= 1
    return n
"""
TEST = """
import pytest
from formulary.toy import loop, scaled

@pytest.mark.parametrize("x", [1.0, 5.0])
def test_scaled__equals_six(x):
    assert scaled(x) == 3 * x + 3

def test_loop__equals_zero():
    assert loop(3) == 0
"""


def test_wrong_code_is_noticed_through_whatever_needs_it(project: Project) -> None:
    write(project, MODULE, TEST)
    done = hunt(project, "toy.scaled", "toy._shift", "toy.SCALE")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split()[-5:] == ["total", "8", "8", "0", "0"]


def test_what_no_test_notices_is_reported_unless_excused(project: Project) -> None:
    write(project, MODULE, TEST.replace("assert scaled(x) == 3 * x + 3", "assert scaled(x) > 0"))
    done = hunt(project, "formulary.toy._shift")
    assert done.returncode == 1
    assert "code/formulary/toy.py:8: no test notices\n  - return x + 1" in done.stdout
    survivors = [
        line.removeprefix("  + ") for line in done.stdout.splitlines() if line.startswith("  + ")
    ]
    excuse = '[[mutant]]\nfile = "code/formulary/toy.py"\nmutated = "{}"\nreason = "like it"\n'
    excuses = project.tests / "equivalent_mutants.toml"
    excuses.write_text("".join(map(excuse.format, survivors)), "utf-8")
    assert hunt(project, "toy._shift").returncode == 0
    excuses.write_text(excuse.format(survivors[0]).replace("like it", ""), "utf-8")
    assert "bad-excuse" in hunt(project, "toy._shift").stderr


def test_an_endless_loop_is_noticed(project: Project) -> None:
    definitions = write(project, MODULE, TEST)
    assert [m.line for m in mutants(definitions["toy.loop"]) if m.after == "n += 1"] == [12]
    program = (
        "from formulary_site.proof.mutants import *;"
        "project = Project(Path('.').resolve());"
        "found = mutants(Definitions.load(project)['toy.loop']);"
        "tests = ('tests/formulary/test_toy.py::test_loop__equals_zero',);"
        "tasks = [forks.Task(tests, m, 0.5) for m in found if m.after == 'n += 1'];"
        "forks.warm([]);"
        "print([result.passed for _, result in forks.run(project, tasks, 1)])"
    )
    done = python(project, program)
    assert done.stdout.strip() == "[False]", done.stderr


def test_an_unused_excuse_is_reported(project: Project) -> None:
    write(
        project,
        MODULE.partition("def loop")[0],
        TEST.partition("def test_loop")[0].replace("loop, ", ""),
    )
    (project.tests / "equivalent_mutants.toml").write_text(
        '[[mutant]]\nfile = "code/formulary/toy.py"\nmutated = "gone"\nreason = "r"\n', "utf-8"
    )
    done = hunt(project)
    assert done.returncode == 1
    assert "no mutant that survives reads so: code/formulary/toy.py: gone" in done.stdout


def test_tests_that_fail_anyway_judge_nothing(project: Project) -> None:
    write(project, MODULE, TEST.replace("== 0", "== 1"))
    done = hunt(project, "toy.loop")
    assert done.returncode == 1
    assert "fails without any change" in done.stdout


def test_what_no_test_proves_is_reported(project: Project) -> None:
    write(project, MODULE)
    done = hunt(project, "toy.loop")
    assert done.returncode == 1
    assert "code/formulary/toy.py:10: no test proves toy.loop" in done.stdout


def test_only_changed_files(project: Project) -> None:
    write(project, MODULE, TEST)
    (project.code / "formulary" / "other.py").write_text("def g(x):\n    return x + 1\n", "utf-8")
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *command], cwd=project.root, check=True)
    assert "total        0" in hunt(project, "--changed").stdout
    (project.code / "formulary" / "other.py").write_text("def g(x):\n    return x + 2\n", "utf-8")
    assert "no test proves other.g" in hunt(project, "--changed").stdout
