from pathlib import Path

import pytest

from formulary_site.definitions import Definitions
from formulary_site.problems import Problem
from formulary_site.project import Project
from formulary_site.proof import links  # `tests_of` by name would be collected as a test
from formulary_site.proof.links import Test, problems

MODULE = '''
"""Turning."""


def turn(x):
    """Turn."""
    return half(x) + half(x)


def half(x):
    """Halve."""
    return x / 2


class Turner:
    """Turns."""

    def apply(self, x):
        return turn(x)
'''


def write(project: Project, test: str, name: str = "test_turning.py") -> Definitions:
    for path, text in (
        (project.code / "formulary" / "__init__.py", ""),
        (project.code / "formulary" / "rope" / "__init__.py", ""),
        (project.code / "formulary" / "rope" / "turning.py", MODULE.lstrip()),
        (project.tests / "formulary" / "rope" / name, test),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return Definitions.load(project)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def names(linked: dict[str, list[Test]]) -> dict[str, list[str]]:
    return {path: [test.claim for test in tests] for path, tests in linked.items()}


def rules(found: list[Problem]) -> list[tuple[str, int, str]]:
    return [(Path(problem.file).name, problem.line, problem.rule) for problem in found]


def test_a_test_proves_the_object_in_its_name_only(project: Project) -> None:
    definitions = write(
        project,
        "from formulary.rope.turning import half, turn\n"
        "def test_turn__matches_sum():\n"
        '    """相同。"""\n'
        "    assert turn(2) == half(2) + half(2)\n",
    )
    (test,) = links.tests_of(project, definitions)["rope.turning.turn"]
    assert test == Test(
        "tests/formulary/rope/test_turning.py::test_turn__matches_sum",
        "tests/formulary/rope/test_turning.py",
        2,
        4,
        "rope.turning.turn",
        "matches_sum",
        "oracle",
        "相同。",
    )
    assert test.name == "test_turn__matches_sum"
    assert "rope.turning.half" not in links.tests_of(project, definitions)


@pytest.mark.parametrize(
    "body",
    [
        "from formulary.rope.turning import turn\n{}    assert turn(1)\n",
        "from formulary.rope.turning import turn as t\n{}    assert t(1)\n",
        "from formulary.rope import turning\n{}    assert turning.turn(1)\n",
        "import formulary.rope.turning as r\n{}    assert r.turn(1)\n",
        "import formulary.rope.turning\n{}    assert formulary.rope.turning.turn(1)\n",
        "{}    from formulary.rope.turning import turn\n    assert turn(1)\n",
        "from formulary.rope.turning import turn\n"
        "def one(): return two()\ndef two(): return turn(1)\n{}    assert one()\n",
        "from formulary.rope.turning import turn\nCASES = [turn]\n{}    assert CASES[0](1)\n",
    ],
)
def test_direct_and_indirect_use_counts(project: Project, body: str) -> None:
    definitions = write(project, body.format('def test_turn__is_odd():\n    """奇。"""\n'))
    assert names(links.tests_of(project, definitions)) == {"rope.turning.turn": ["is_odd"]}
    assert not [p for p in problems(project, definitions, []) if p.file.startswith("tests")]


def test_use_through_a_fixture_counts(project: Project) -> None:
    definitions = write(
        project,
        "import pytest\nfrom formulary.rope.turning import Turner\n"
        "@pytest.fixture\ndef turner(): return Turner()\n"
        'def test_Turner__limit_zero(turner):\n    """零。"""\n    assert turner.apply(0) == 0\n',
    )
    assert names(links.tests_of(project, definitions)) == {"rope.turning.Turner": ["limit_zero"]}


@pytest.mark.parametrize(
    "body",
    [
        'def test_turn__is_odd():\n    """奇。"""\n    assert half(1)\n',  # imports, doesn't use
        'def test_spin__is_odd():\n    """奇。"""\n    assert turn(1)\n',  # unknown object
        'def test_turn__works():\n    """奇。"""\n    assert turn(1)\n',  # no claim
        'def test_turn__matches_():\n    """奇。"""\n    assert turn(1)\n',  # matches what?
        'def test_turn_is_odd():\n    """奇。"""\n    assert turn(1)\n',
        'class TestTurn:\n    def test_turn__is_odd(self):\n        """奇。"""\n',
    ],
)
def test_a_wrong_name_proves_nothing_and_is_reported(project: Project, body: str) -> None:
    definitions = write(project, f"from formulary.rope.turning import half, turn\n{body}")
    assert links.tests_of(project, definitions) == {}
    found = problems(project, definitions, ["rope.turning.turn", "rope.turning.Turner"])
    assert ("test_turning.py", 2, "test-name") in rules(found)


def test_a_name_that_is_only_a_string_or_a_store_is_no_use(project: Project) -> None:
    definitions = write(
        project,
        "from formulary.rope.turning import turn\n"
        'def test_turn__is_odd():\n    """turn。"""\n    turn = 1\n',
    )
    assert links.tests_of(project, definitions) == {}


def test_every_object_of_a_formula_needs_both_kinds_of_test(project: Project) -> None:
    definitions = write(
        project,
        "from formulary.rope.turning import turn\n"
        'def test_turn__rejects_text():\n    """拒绝。"""\n    turn(1)\n',
    )
    found = problems(project, definitions, ["rope.turning.turn", "rope.turning.Turner"])
    assert rules(found) == [
        ("turning.py", 4, "no-oracle"),
        ("turning.py", 4, "no-property"),
        ("turning.py", 14, "no-oracle"),
        ("turning.py", 14, "no-property"),
    ]
    assert "test_turn__matches_<oracle>" in found[0].mend


def test_one_oracle_and_one_property_are_enough(project: Project) -> None:
    test = 'def test_turn__{}():\n    """对。"""\n    turn(1)\n'
    definitions = write(
        project,
        "from formulary.rope.turning import turn\n"
        + test.format("matches_sum")
        + test.format("preserves_zero"),
    )
    found = problems(project, definitions, ["rope.turning.turn"])
    assert rules(found) == [("turning.py", 14, "unused-function")]
    assert "rope.turning.Turner" in found[0].message


def test_a_helper_needs_a_docstring(project: Project) -> None:
    write(project, "")
    path = project.code / "formulary" / "rope" / "turning.py"
    path.write_text(path.read_text("utf-8").replace('    """Halve."""\n', ""), "utf-8")
    found = problems(project, Definitions.load(project), ["rope.turning.Turner"])
    assert ("turning.py", 9, "undocumented-helper") in rules(found)
    assert "unused-function" not in {problem.rule for problem in found}


def test_docstrings_syntax_and_hidden_assertions_are_reported(project: Project) -> None:
    write(project, "def test_(:\n", "test_broken.py")
    definitions = write(
        project,
        "from torch.testing import assert_close\n"
        "from formulary.rope.turning import turn\n"
        "def test_turn__is_odd():\n    assert_close(turn(1), 1)\n",
    )
    found = rules(problems(project, definitions, []))
    assert ("test_broken.py", 1, "test-syntax") in found
    assert ("test_turning.py", 1, "unrecorded-assertion") in found
    assert ("test_turning.py", 3, "missing-test-docstring") in found
