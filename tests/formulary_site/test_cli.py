"""The command line: what it prints, and with which exit status."""

import json

import pytest

from formulary_site.__main__ import main
from formulary_site.project import Project

from .conftest import Edit


@pytest.fixture
def here(small: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(small.docs)  # any folder of the project will do
    return small


def test_check_is_silent_on_right_source(here: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.strip() == "2 formulas, 1 figures, 2 listings, 0 problems"


def test_check_reports_place_rule_and_mend(
    here: Project, edit: Edit, capsys: pytest.CaptureFixture[str]
) -> None:
    edit("docs/posts/small/index.md", "core.double", "core.doubel")
    assert main(["check"]) == 1
    output = capsys.readouterr().out
    assert "docs/posts/small/index.md:20: unknown-object: " in output
    assert "mend: name a function or class below code/formulary, e.g. small.core.double" in output


def test_list_has_a_line_for_each_formula(
    here: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "small/#small-double",
        "small/more/#small-triple",
    ]
    assert all("proven" in line and "2 tests" in line for line in lines)


def test_list_prints_the_registry_as_json(
    here: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", "--json"]) == 0
    double, triple = json.loads(capsys.readouterr().out)
    assert (double["id"], double["number"], double["title"]) == ("small-double", 1, "把 x 加倍")
    assert (triple["page"], triple["max_error"]) == ("posts/small/more.md", 1e-7)


def test_show_has_formula_code_and_tests(here: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "small-double"]) == 0
    output = capsys.readouterr().out
    for part in (
        "y = 2x",
        "code/formulary/small/core.py:8",
        "return scale(x, FACTOR)",
        "与自加一致。",
    ):
        assert part in output


def test_show_of_an_unknown_id_says_so(here: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "small-doubel"]) == 2
    assert "no formula has the id 'small-doubel'" in capsys.readouterr().err


def test_outside_a_project_it_says_so(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert main(["check"]) == 2
    assert "no mkdocs.yml" in capsys.readouterr().err


def test_publish_writes_what_a_builder_without_hooks_lacks(here: Project) -> None:
    folder = here.root / "built"
    folder.mkdir()
    assert main(["publish", str(folder)]) == 0
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {
        "formulas.json",
        "snippets/small-double.py",
        "assets/formulary.css",
        "assets/formulary.js",
        "assets/math/math.css",
    } <= names
    assert "@font-face" in (folder / "assets" / "math" / "math.css").read_text("utf-8")


def test_unknown_words_are_refused(here: Project, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["check", "--fast"])
    assert "unrecognized arguments: --fast" in capsys.readouterr().err
