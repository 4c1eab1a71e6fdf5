import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from formulary_site.definitions import Definitions
from formulary_site.problems import Problem
from formulary_site.project import Project
from formulary_site.proof import links
from formulary_site.proof.evidence import Evidence
from formulary_site.proof.recorder import Recorder
from formulary_site.proof.recording import Record, largest_difference, power_of_ten, update
from formulary_site.registry import Formula

MODULE = '''
def turn(x):
    """Turn."""
    return shift(x) - 1


def shift(x):
    """Shift."""
    return x + 1
'''.lstrip()
TEST = '''
import torch
from formulary.toy import turn

def test_turn__matches_itself():
    """相同。"""
    torch.testing.assert_close(turn(torch.tensor(0.5)) + 0.0625, torch.tensor(0.5), atol=1, rtol=0)

def test_turn__limit_zero():
    """极限。"""
    torch.testing.assert_close(turn(torch.tensor(0.5)), torch.tensor(0.0), atol=1, rtol=0)
'''.lstrip()
FORMULA = Formula(
    id="toy-turn",
    page="p.md",
    url="p/#toy-turn",
    number=1,
    title="",
    latex="x",
    object="toy.turn",
    file="docs/p.md",
    line=3,
)
MATCHES, LIMIT = (
    f"tests/formulary/test_toy.py::test_turn__{claim}" for claim in ("matches_itself", "limit_zero")
)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    write(project, "code/formulary/__init__.py", "")
    write(project, "code/formulary/toy.py", MODULE)
    write(project, "tests/formulary/test_toy.py", TEST)
    write(project, "docs/p.md", '# P\n\n```math id="toy-turn" code="toy.turn"\nx\n```\n')
    write(
        project, "pyproject.toml", '[tool.pytest.ini_options]\naddopts = "--import-mode=importlib"'
    )
    return project


def write(project: Project, name: str, text: str) -> None:
    path = project.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def change(project: Project, name: str, old: str, new: str) -> None:
    text = (project.root / name).read_text("utf-8")
    assert old in text
    write(project, name, text.replace(old, new))


def record(project: Project, error: float = 0.0, outcome: str = "passed", line: int = 1) -> Record:
    return Record({"passed", outcome}, {(str(project.code / "formulary" / "toy.py"), line)}, error)


def after_run(project: Project, old: Evidence, *records: Record) -> Evidence:
    definitions = Definitions.load(project)
    seen = dict(zip((MATCHES, LIMIT), records, strict=False))
    linked = links.tests_of(project, definitions)
    return update(old, [FORMULA], definitions, linked, seen, "2.0")


def state(project: Project, evidence: Evidence) -> str:
    definitions = Definitions.load(project)
    return evidence.verdict(FORMULA, definitions, links.tests_of(project, definitions)).state


def problems(project: Project, evidence: Evidence) -> list[Problem]:
    definitions = Definitions.load(project)
    return evidence.problems([FORMULA], definitions, links.tests_of(project, definitions))


@pytest.fixture
def proven(project: Project) -> Evidence:
    return after_run(project, Evidence(), record(project, 3e-9), record(project, 0.5))


def test_a_whole_run_proves_and_its_file_reads_back(project: Project, proven: Evidence) -> None:
    definitions = Definitions.load(project)
    verdict = proven.verdict(FORMULA, definitions, links.tests_of(project, definitions))
    assert (verdict.state, verdict.max_error) == ("proven", 1e-8)  # a limit's distance is no error
    assert [test.claim for test in verdict.oracles] == ["matches_itself"]
    assert [test.claim for test in verdict.properties] == ["limit_zero"]
    assert problems(project, proven) == []
    assert proven.save(project)
    assert not proven.save(project)
    assert Evidence.load(project) == proven
    text = project.evidence.read_text("utf-8")
    assert "相同。" in text
    assert text.endswith("}\n")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("code/formulary/toy.py", "shift(x) - 1", "shift(x) - 1.0"),
        ("code/formulary/toy.py", "return x + 1", "return 1 + x"),  # a helper's code
        ("tests/formulary/test_toy.py", "limit_zero", "limit_nought"),
        ("tests/formulary/test_toy.py", "极限。", "零处的极限。"),
        (
            "tests/formulary/test_toy.py",
            "import torch\n",
            'import torch\ndef test_turn__is_new():\n    """新。"""\n    turn(1)\n',
        ),
    ],
)
def test_changed_code_and_changed_tests_make_it_stale(
    project: Project, proven: Evidence, name: str, old: str, new: str
) -> None:
    change(project, name, old, new)
    assert state(project, proven) == "stale"
    (problem,) = problems(project, proven)
    assert (problem.file, problem.line, problem.rule) == ("docs/p.md", 3, "stale-evidence")
    assert "toy.turn" in problem.message
    assert "make test" in problem.mend


def test_docstrings_comments_and_layout_do_not(project: Project, proven: Evidence) -> None:
    change(project, "code/formulary/toy.py", '"""Shift."""', '"""Add one."""  # quickly\n')
    assert state(project, proven) == "proven"


def test_no_entry(project: Project) -> None:
    assert state(project, Evidence()) == "missing"
    assert [problem.rule for problem in problems(project, Evidence())] == ["missing-evidence"]


def test_one_kind_of_test_is_not_enough(project: Project) -> None:
    write(project, "tests/formulary/test_toy.py", TEST.partition("def test_turn__limit")[0])
    assert state(project, after_run(project, Evidence(), record(project))) == "missing"


@pytest.mark.parametrize(
    ("outcome", "line", "rule"),
    [
        ("failed", 1, "failed-test"),
        ("skipped", 1, "failed-test"),
        ("passed", 6, "test-not-executed"),  # only the helper ran
        ("passed", 99, "test-not-executed"),
    ],
)
def test_a_test_that_did_not_pass_or_run_it(
    project: Project, outcome: str, line: int, rule: str
) -> None:
    bad = record(project, outcome=outcome, line=line)
    evidence = after_run(project, Evidence(), bad, record(project))
    assert state(project, evidence) == "failed"
    (problem,) = problems(project, evidence)
    assert (problem.file, problem.line, problem.rule) == ("tests/formulary/test_toy.py", 4, rule)


def test_a_test_without_a_record_did_not_pass(project: Project) -> None:
    assert state(project, after_run(project, Evidence(), record(project))) == "failed"


def test_errors_only_grow_until_code_or_tests_change(project: Project, proven: Evidence) -> None:
    def error(value: float, before: Evidence) -> float:
        run = after_run(project, before, record(project, value), record(project))
        return run.entries["toy-turn"].max_error

    assert error(1e-12, proven) == 1e-8
    assert error(2e-7, proven) == 1e-6
    change(project, "code/formulary/toy.py", "x + 1", "1 + x")
    assert error(1e-12, proven) == 1e-12


@pytest.mark.parametrize(
    ("error", "power"), [(0, 0), (1e-15, 1e-15), (1.1e-15, 1e-14), (9e-3, 1e-2), (1, 1), (3, 10)]
)
def test_power_of_ten_rounds_up(error: float, power: float) -> None:
    assert power_of_ten(error) == power


def test_largest_difference_looks_everywhere() -> None:
    inf = float("inf")
    one, other = torch.tensor([1.0, inf, inf]), torch.tensor([1.25, inf, 0.0])
    assert largest_difference(one, other) == 0.25
    assert largest_difference([one, {"a": 3}], [one, {"a": 3.5}]) == 0.5
    assert largest_difference(torch.tensor([3 + 4j]), torch.tensor([0j])) == 5
    assert largest_difference(torch.tensor([True]), torch.tensor([True])) == 0
    assert largest_difference(torch.empty(0), torch.empty(0)) == 0


@pytest.mark.parametrize("text", ["", "[]", "{", '{"torch": "2", "formulas": {"a": {}}}'])
def test_a_broken_file_proves_nothing(project: Project, text: str) -> None:
    write(project, "docs/evidence.json", text)
    assert Evidence.load(project) == Evidence()


def pytest_run(project: Project, *arguments: str) -> str:
    """Run the project's tests as a person would, shape checks and all."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--evidence"),
            *("-p", "formulary_site.proof.pytest_plugin", "-p", "xdist.plugin", "-p", "jaxtyping"),
            *("--jaxtyping-packages=formulary,beartype.beartype", *arguments),
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
        timeout=120,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_the_plugin_records_a_whole_run_only(project: Project, workers: tuple[str, ...]) -> None:
    idle = '\ndef test_shift__is_{}():\n    """没有调用。"""\n    assert callable(shift)\n'
    change(project, "tests/formulary/test_toy.py", "import turn", "import shift, turn")
    with (project.tests / "formulary" / "test_toy.py").open("a", encoding="utf-8") as file:
        file.write(idle.format("idle"))
    with (project.docs / "p.md").open("a", encoding="utf-8") as file:
        file.write('\n```math id="toy-shift" code="toy.shift"\nx\n```\n')
    assert "not written: only a whole run" in pytest_run(project, "-k", "matches", *workers)
    assert not project.evidence.exists()
    assert "docs/evidence.json rewritten" in pytest_run(project, *workers)
    content = json.loads(project.evidence.read_text("utf-8"))
    assert content["torch"] == torch.__version__.partition("+")[0]
    turn, shift = content["formulas"]["toy-turn"], content["formulas"]["toy-shift"]
    assert {test["name"]: test["outcome"] for test in turn["tests"]} == {
        "test_turn__matches_itself": "passed",
        "test_turn__limit_zero": "passed",
    }
    assert turn["max_error"] == 0.1
    assert [test["outcome"] for test in shift["tests"]] == ["not-executed"]
    assert state(project, Evidence.load(project)) == "proven"


def test_a_run_by_node_id_is_no_whole_run(project: Project) -> None:
    whole, one_case = (
        cast(pytest.Config, SimpleNamespace(rootpath=project.root, args=[argument]))
        for argument in ("tests", f"{MATCHES}[case]")
    )
    assert not Recorder(whole).partial
    assert Recorder(one_case).partial


def test_the_plugin_loads_nothing_heavy_without_its_option() -> None:
    program = (
        "import sys, formulary_site.proof.pytest_plugin;"
        "print(sorted({'torch', 'griffe', 'yaml', 'markdown'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
