"""Notebooks: when they are stale, what the check refuses, and the page made of what they show."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin

import nbformat
import pytest
from bs4 import BeautifulSoup

from formulary_site.definitions import Definitions
from formulary_site.notebooks import runs
from formulary_site.notebooks.page import notebook_page
from formulary_site.problems import Problem, SourceError
from formulary_site.project import Project
from formulary_site.site import Site

from .conftest import Edit, found, line_of

NAME = "docs/notebooks/small.ipynb"
PLAIN = "code/formulary/small/plain.py"
MODULE = '''\
"""没有 torch，所以内核启动得快。"""


def half(x: float) -> float:
    """一半。"""
    return halve(x)


def halve(x: float) -> float:
    """真正做除法的那个。"""
    return x / 2


def other(x: float) -> float:
    """没有人用。"""
    return x
'''
USE = "from formulary.small.plain import half\n\nprint(half(6.0))"
IMAGE = {"image/svg+xml": "<svg xmlns='http://www.w3.org/2000/svg'></svg>", "text/plain": "Figure"}


def markdown(source: str, name: str = "text") -> Any:
    return nbformat.v4.new_markdown_cell(source, id=name)


def code(source: str, name: str = "use", *outputs: Any, **metadata: str) -> Any:
    return nbformat.v4.new_code_cell(source, id=name, outputs=list(outputs), metadata=metadata)


def shown(data: dict[str, str]) -> Any:
    return nbformat.v4.new_output("display_data", data=data)


@pytest.fixture
def project(small: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The small project with a module for its notebooks; kernels import its package."""
    (small.root / PLAIN).write_text(MODULE, "utf-8")
    (small.docs / "notebooks").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(small.code))
    return small


def write(project: Project, *cells: Any, name: str = NAME) -> Path:
    path = project.root / name
    nbformat.write(nbformat.v4.new_notebook(cells=list(cells)), path)
    return path


def run(project: Project, everything: bool = False) -> int:
    return runs.run(project, Definitions.load(project), everything)


def problems(project: Project) -> list[Problem]:
    return runs.problems(project, Definitions.load(project))


def is_stale(project: Project) -> bool:
    return bool(found(problems(project), "stale-notebook"))


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """First cells of the notebooks that were run, by a client that starts no kernel."""
    first_cells: list[str] = []

    class Client:
        def __init__(self, notebook: Any, **_: Any) -> None:
            self.notebook = notebook

        def execute(self) -> None:
            first_cells.append(self.notebook.cells[0].source)

    monkeypatch.setattr("nbclient.NotebookClient", Client)
    return first_cells


# Running


def test_a_run_stores_outputs_and_what_it_ran_on(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(project, markdown("# 实验"), code(USE))
    assert is_stale(project)
    assert run(project) == 0
    assert capsys.readouterr().err == f"{NAME}: running …\n"
    assert problems(project) == []
    stored = nbformat.read(path, as_version=4)
    assert stored.cells[1].outputs[0].text == "3.0\n"
    assert stored.cells[1].metadata == {}  # no times, which differ between any two runs
    assert sorted(stored.metadata) == ["formulary", "kernelspec", "language_info"]
    before = path.read_bytes()
    assert run(project) == 0
    assert capsys.readouterr().err == f"{NAME}: fresh\n"
    assert run(project, everything=True) == 0
    assert path.read_bytes() == before


def test_a_failing_cell_leaves_the_file_as_it_was(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = code("total = half(1.0)\nassert total == 2, '一半不是两倍'", "wrong")
    path = write(project, markdown("# 实验"), code(USE), code("", "empty"), wrong)
    good = write(project, code(USE), name="docs/notebooks/tiny.ipynb")
    before = path.read_bytes()
    assert run(project) == 1
    assert path.read_bytes() == before
    message = capsys.readouterr().err
    line = line_of(project, NAME, '"id": "wrong"')
    assert f"{NAME}:{line}: failing-cell: " in message
    assert "it begins with 'total = half(1.0)'" in message
    assert "AssertionError" in message
    assert "一半不是两倍" in message
    assert nbformat.read(good, as_version=4).cells[0].outputs  # the others run all the same


def test_only_stale_notebooks_run_unless_all_are_asked_for(
    project: Project, executed: list[str]
) -> None:
    write(project, code(USE))
    assert run(project) == 0
    write(project, code("import formulary.small.plain", "new"), name="docs/notebooks/new.ipynb")
    assert run(project) == 0
    assert executed == [USE, "import formulary.small.plain"]
    run(project)
    assert len(executed) == 2
    run(project, everything=True)
    assert len(executed) == 4


# Freshness


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        (NAME, "half(6.0)", "half(8.0)"),
        (PLAIN, "return halve(x)", "return halve(x + 0)"),
        (PLAIN, "x / 2", "x / 2.0"),  # only what `half` calls
    ],
)
@pytest.mark.usefixtures("executed")
def test_a_change_of_cells_or_code_makes_it_stale(
    project: Project, edit: Edit, file: str, old: str, new: str
) -> None:
    write(project, code(USE))
    run(project)
    assert problems(project) == []
    edit(file, old, new)
    assert found(problems(project), "stale-notebook") == [(NAME, 1)]
    run(project)
    assert problems(project) == []


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        (NAME, "一段话", "另一段话"),
        (PLAIN, "真正做除法的那个。", "做除法。"),
        (PLAIN, "return x / 2", "return x / 2  # 除以 2"),
        (PLAIN, "    return x\n", "    return -x\n"),  # `other`, which no cell imports
    ],
)
@pytest.mark.usefixtures("executed")
def test_words_and_unused_code_leave_it_fresh(
    project: Project, edit: Edit, file: str, old: str, new: str
) -> None:
    write(project, markdown("一段话"), code(USE))
    run(project)
    edit(file, old, new)
    assert problems(project) == []


@pytest.mark.parametrize(
    "source",
    [
        "from formulary.small import plain",
        "import formulary.small.plain as plain",
        "try:\n    import formulary.small.plain\nexcept ImportError:\n    %pip install nothing",
    ],
)
@pytest.mark.usefixtures("executed")
def test_a_whole_module_imported_counts_as_all_it_defines(
    project: Project, edit: Edit, source: str
) -> None:
    write(project, code(source))
    run(project)
    assert problems(project) == []
    edit(PLAIN, "    return x\n", "    return -x\n")
    assert is_stale(project)


# The check


def test_an_experiment_without_the_counterparts_is_refused(project: Project) -> None:
    write(project, code("import math"))
    assert found(problems(project), "notebook-without-code") == [(NAME, 1)]


@pytest.mark.parametrize("source", ["$$x$$", "先\n\n\\[x\\]", "\\begin{equation}x\\end{equation}"])
def test_display_math_is_refused(project: Project, source: str) -> None:
    write(project, markdown("# 实验"), markdown(f"见下。\n\n{source}", "wrong"), code(USE))
    lines = (project.root / NAME).read_text("utf-8").splitlines()
    ((file, line),) = found(problems(project), "stray-math")
    assert file == NAME
    assert json.dumps(source.splitlines()[-1])[1:-1] in lines[line - 1]


def test_math_in_code_is_no_math(project: Project) -> None:
    write(project, markdown("写成 `$$x$$` 或\n\n```\n\\[x\\]\n```\n"), code(USE))
    assert found(problems(project), "stray-math") == []


def test_a_traceback_is_not_published(project: Project) -> None:
    error = nbformat.v4.new_output("error", ename="E", evalue="e", traceback=[])
    write(project, code(USE), code("\n1 / 0", "wrong", error))
    line = line_of(project, NAME, '"id": "wrong"')
    (problem,) = (p for p in problems(project) if p.rule == "failing-cell")
    assert (problem.file, problem.line) == (NAME, line)
    assert problem.message == "code cell 2 raises; it begins with '1 / 0'"


def test_an_image_needs_alternative_text(project: Project) -> None:
    write(
        project,
        code(USE),
        code("draw()", "good", shown(IMAGE), alt="一条直线"),
        code("draw()", "wrong", shown({"text/plain": "1"}), shown(IMAGE)),
    )
    line = line_of(project, NAME, '"id": "wrong"')
    assert found(problems(project), "image-without-alt") == [(NAME, line)]


@pytest.mark.parametrize(
    ("address", "is_ours"),
    [
        ("https://example.org/small", True),
        ("https://example.org/small.git", True),
        ("https://example.org/small@main", True),
        ("https://example.org/smaller", False),
        ("https://example.org/fork/small", False),
    ],
)
def test_it_installs_from_the_sites_own_repository(
    project: Project, edit: Edit, address: str, is_ours: bool
) -> None:
    write(project, code(USE), code(f'%pip install -q "git+{address}"', "install"))
    line = line_of(project, NAME, '"id": "install"')
    wrong = found(problems(project), "wrong-repository")
    if is_ours:
        assert wrong == []
    else:
        ((file, at),) = wrong
        assert file == NAME
        assert at >= line
    edit("mkdocs.yml", "https://example.org/small", "")  # a fork that has not said where it lives
    assert found(problems(Project(project.root)), "wrong-repository") == []


# The page

SAMPLE = [
    markdown(
        "# 实验：小例\n\n角频率 $\\theta_i<1$，`x=$y$`，价格 $5 与 $6。\n\n"
        "| 列 |\n|---|\n| $a_1*b*c_2$ |\n\n"
        "[公式](../posts/small/more.md#small-triple)、[首页](../index.md)、"
        "[外面](https://example.org/a.md)、[本页](#数据)",
        "intro",
    ),
    code("print('<b> $x$')", "print", nbformat.v4.new_output("stream", text="<b> $x$\n")),
    markdown("## 数据\n\n### 细节\n\n## 数据", "headings"),
    code("draw()", "draw", shown(IMAGE), alt="一条 <直线>"),
    code(
        "table",
        "table",
        shown({"text/html": "<style>td{}</style><script>1</script><b>表</b>", "text/plain": ""}),
    ),
]


def render(project: Project, *cells: Any) -> tuple[BeautifulSoup, list[dict[str, Any]]]:
    """The page, of what mkdocs-jupyter itself makes of these cells."""
    from mkdocs_jupyter.convert import nb2html

    path = write(project, *cells)
    site = Site(project)
    try:
        html = nb2html(str(path), allow_errors=False)
        page, tokens = notebook_page(site, html, "notebooks/small.ipynb", "notebooks/small/")
    finally:
        site.close()
    assert "jp-" not in page.replace("image/svg+xml", "")
    return BeautifulSoup(page, "html.parser"), tokens


@pytest.fixture
def page(project: Project) -> BeautifulSoup:
    return render(project, *SAMPLE)[0]


def test_the_page_is_the_cells_in_their_order_and_nothing_else(page: BeautifulSoup) -> None:
    assert page.find_all(["style", "script", "link", "clipboard-copy"]) == []
    assert len(str(page)) < 30_000
    blocks = [
        (element.name, *element.get("class", [])) for element in page.find_all(recursive=False)
    ]
    assert blocks == [
        ("h1",),
        ("p", "nb-actions"),
        ("p",),
        ("table",),
        ("p",),
        ("div", "highlight"),
        ("div", "nb-output"),
        ("h2",),
        ("h3",),
        ("h2",),
        ("div", "highlight"),
        ("div", "nb-output"),
        ("div", "highlight"),
        ("div", "nb-output"),
    ]
    assert page.select_one(".highlight pre > code").get_text() == "print('<b> $x$')\n"
    assert page.select(".highlight .nb")  # coloured as in articles
    assert page.select_one(".nb-output pre").get_text() == "<b> $x$\n"


def test_inline_math_is_typeset_and_nothing_else(page: BeautifulSoup) -> None:
    spans = page.select(".fm-inline[data-search-exclude]")
    assert len(spans) == 2
    assert all(span.select_one("mjx-container math") for span in spans)
    assert spans[0].find("math").get_text().replace("\u2062", "") == "θi<1"
    assert spans[1].find_parent("td")
    text = page.get_text()
    assert "价格 $5 与 $6。" in text
    assert "x=$y$" in [element.get_text() for element in page.find_all("code")]


def test_markdown_that_a_cell_prints_is_its_output(project: Project) -> None:
    printed = shown({"text/markdown": "**结论**", "text/plain": "Markdown"})
    empty = code("", "empty")
    drawn = code("draw()", "draw", shown(IMAGE), alt="一条直线")
    page, _ = render(project, code("tell()", "tell", printed), empty, drawn)
    assert page.select_one(".highlight code").get_text() == "tell()\n"
    assert page.select_one(".nb-output strong").get_text() == "结论"
    assert page.select_one(".nb-output img, .nb-output svg")["alt"] == "一条直线"


def test_outputs_are_named_for_who_cannot_see_them(page: BeautifulSoup) -> None:
    image = page.select_one(".nb-output img")
    assert image["alt"] == "一条 <直线>"
    assert unquote(image["src"]) == f"data:image/svg+xml,{IMAGE['image/svg+xml']}"
    for output in page.select(".nb-output"):
        assert (output["role"], output["aria-label"], output["tabindex"]) == ("group", "输出", "0")
    assert page.select(".nb-output")[2].find("b").get_text() == "表"


def test_links_lead_to_pages(page: BeautifulSoup) -> None:
    here = "https://example.org/notebooks/small/"
    links = {link.get_text(): unquote(urljoin(here, link["href"])) for link in page.find_all("a")}
    assert links["公式"] == "https://example.org/small/more/#small-triple"
    assert links["首页"] == "https://example.org/"
    assert links["外面"] == "https://example.org/a.md"
    assert links["本页"] == here + "#数据"


def test_headings_get_ids_and_a_table_of_contents(project: Project) -> None:
    page, tokens = render(project, *SAMPLE)
    headings = page.find_all(["h1", "h2", "h3"])
    assert [heading["id"] for heading in headings] == ["实验小例", "数据", "细节", "数据_1"]
    for heading in headings:
        (link,) = heading.find_all("a")
        assert (link["href"], link["class"]) == (f"#{heading['id']}", ["headerlink"])
    (root,) = tokens
    assert (root["level"], root["id"], root["name"]) == (1, "实验小例", "实验：小例")
    assert [child["id"] for child in root["children"]] == ["数据", "数据_1"]
    assert [child["id"] for child in root["children"][0]["children"]] == ["细节"]


def actions(page: BeautifulSoup) -> list[str]:
    return [link["href"] for link in page.select(".nb-actions a")]


def test_the_notebook_itself_is_offered(project: Project, edit: Edit) -> None:
    cell = code(USE)
    page, tokens = render(project, cell)
    assert tokens == []
    assert page.find()["class"] == ["nb-actions"]  # without a title, at the top
    assert actions(page) == [
        "small.ipynb",
        f"https://example.org/small/blob/main/{NAME}",
    ]
    edit("mkdocs.yml", "https://example.org/small", "https://github.com/a/b")
    (download, source, colab) = actions(render(Project(project.root), cell)[0])
    assert source == f"https://github.com/a/b/blob/main/{NAME}"
    assert colab == f"https://colab.research.google.com/github/a/b/blob/main/{NAME}"
    edit("mkdocs.yml", "https://github.com/a/b", "")
    assert actions(render(Project(project.root), cell)[0]) == [download]


@pytest.mark.parametrize(
    ("source", "rule", "named"),
    [
        ("写错 $\\foo$", "tex-error", "\\foo"),
        ("[去](../posts/small/missing.md)", "broken-link", "../posts/small/missing.md"),
    ],
)
def test_what_cannot_be_shown_stops_the_build(
    project: Project, source: str, rule: str, named: str
) -> None:
    with pytest.raises(SourceError) as caught:
        render(project, markdown(source), code(USE))
    (problem,) = caught.value.problems
    assert (problem.file, problem.line, problem.rule) == (NAME, 1, rule)
    assert named in problem.message
