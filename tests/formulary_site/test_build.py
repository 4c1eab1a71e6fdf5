"""A MkDocs build of the small project: what is published, and that broken source stops it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from formulary_site.project import Project

from .conftest import Edit, line_of, write_evidence

PAGE = "docs/posts/small/index.md"


def build(project: Project) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict"],
        cwd=project.root,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "NO_MKDOCS_2_WARNING": "1", "PYTHONUTF8": "1"},
    )


@pytest.fixture
def site(small: Project) -> Path:
    result = build(small)
    assert result.returncode == 0, result.stdout + result.stderr
    return small.root / "site"


def page(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text("utf-8"), "html.parser")


def test_everything_is_published(site: Path) -> None:
    entries = json.loads((site / "formulas.json").read_text("utf-8"))
    assert [entry["id"] for entry in entries] == ["small-double", "small-triple"]
    double = entries[0]
    assert set(double) == {
        "id",
        "title",
        "page",
        "url",
        "number",
        "latex",
        "object",
        "file",
        "line",
        "hash",
        "state",
        "tests",
        "max_error",
    }
    assert double["latex"] == "y = 2x"
    assert double["object"] == "formulary.small.core.double"
    assert double["url"] == "small/#small-double"
    assert {test["outcome"] for test in double["tests"]} == {"passed"}
    for name in ("small-double", "small-triple"):
        assert "torch" in (site / "snippets" / f"{name}.py").read_text("utf-8")
    assert (site / "assets" / "math" / "math.css").stat().st_size > 1000
    assert list((site / "assets" / "math" / "fonts").glob("*.woff2"))
    assert len(list((site / "assets" / "figures").glob("*.svg"))) == 2


def test_search_tries_the_words_that_end_the_query(site: Path) -> None:
    (worker,) = (site / "assets/javascripts/workers").glob("search.*.min.js")
    script = worker.read_text("utf-8")
    assert len(re.findall(r"<=\w+\.length;\w\+\+\)\w+\.slice\(\w+,\w+\)in ", script)) == 1


def test_card_has_formula_code_evidence_and_links(site: Path) -> None:
    card = page(site / "small" / "index.html").find(id="small-double")
    assert card["data-latex"] == "y = 2x"
    assert card.select_one("mjx-container[display]")
    assert card.select_one("mjx-assistive-mml math")
    assert card.select_one(".fm-number").get_text() == "(1)"
    assert card.select_one("pre").get_text() == (
        "def double(x: Tensor) -> Tensor:\n    return scale(x, FACTOR)"
    )
    links = [link["href"] for link in card.select("a")]
    assert any(re.search(r"/blob/main/code/formulary/small/core\.py#L\d+-L\d+$", x) for x in links)
    assert any(re.search(r"/tests/formulary/small/test_core\.py#L\d+-L\d+$", x) for x in links)
    assert "../snippets/small-double.py" in links
    assert "2 项测试" in card.select_one(".fm-state").get_text()
    assert "10−7" in card.select_one(".fm-state").get_text()
    assert "与自加一致。" in card.select_one(".fm-evidence").get_text()


def test_cross_references_lead_to_formulas_on_both_pages(site: Path) -> None:
    here = page(site / "small" / "index.html").select(".fm-reference")
    assert [(a["href"], a.get_text()) for a in here] == [
        ("#small-double", "式 (1)"),
        ("#fig-small", "图 1"),
    ]
    there = page(site / "small" / "more" / "index.html").select_one(".fm-reference")
    assert there["href"] == "../#small-double"
    assert there.get_text() == "《小例》式 (1)"


def test_listing_shows_code_proof_and_caption(site: Path) -> None:
    listing = page(site / "small" / "more" / "index.html").find(id="small-listing")
    assert listing.figcaption.get_text().startswith("代码 1")
    assert listing.select_one("figcaption mjx-container")
    assert listing.details.has_attr("open")
    assert listing.pre.get_text().startswith("def double(x: Tensor)")
    assert "2 项测试" in listing.select_one(".fm-state").get_text()
    assert [b["data-copy"] for b in listing.select("button")] == ["code", "runnable"]
    assert "print(double" in (site / "snippets" / "small-listing.py").read_text("utf-8")


def test_script_is_shown_as_a_difference_and_whole(site: Path) -> None:
    more = page(site / "small" / "more" / "index.html")
    listing = more.find(id="small-script")
    difference, whole = (pre.get_text() for pre in listing.select("pre"))
    assert "--- script_before.py\n+++ script.py\n" in difference
    assert "\n-    print(x)\n" in difference
    assert "\n+    print(2 * torch.ones(2))\n" in difference
    script = (site.parent / "code/formulary/small/script.py").read_text("utf-8")
    assert whole + "\n" == script
    assert not listing.details.has_attr("open")
    link = listing.select_one("a[download]")
    assert link["download"] == "script.py"
    assert (site / "small" / "more" / link["href"]).resolve().read_text("utf-8") == script
    assert more.select_one('.fm-reference[href="#small-script"]').get_text() == "代码 2"


def test_figure_is_there_in_both_schemes(site: Path) -> None:
    figure = page(site / "small" / "index.html").find(id="fig-small")
    sources = [image["src"] for image in figure.select("img")]
    assert [source.partition("#")[2] for source in sources] == ["only-light", "only-dark"]
    for source in sources:
        assert (site / "small" / source.partition("#")[0]).resolve().is_file()
    assert {image["alt"] for image in figure.select("img")} == {"一条直线"}
    assert figure.select_one("figcaption mjx-container")


def test_excerpt_is_typeset_and_holds_no_formula(site: Path) -> None:
    home = page(site / "index.html")
    assert home.select_one(".md-post--excerpt mjx-container")
    assert not home.select(".fm")


def test_no_page_asks_another_host_or_runs_a_math_script(site: Path) -> None:
    for path in site.rglob("*.html"):
        html = page(path)
        for element in html.select("script[src], link[href], img[src], iframe[src]"):
            if element.name == "link" and element.get("rel") in (["canonical"], ["prev"], ["next"]):
                continue
            target = element.get("src") or element.get("href")
            assert not target.startswith(("http", "//")), (path, target)
        assert not [s for s in html.select("script") if "mathjax" in str(s).lower()]


def test_rebuilding_changes_nothing(small: Project, site: Path) -> None:
    def texts() -> dict[str, bytes]:
        return {
            path.relative_to(site).as_posix(): path.read_bytes()
            for path in site.rglob("*")
            if path.is_file() and path.name != "sitemap.xml.gz"
        }

    first = texts()
    assert build(small).returncode == 0
    assert texts() == first


@pytest.mark.parametrize(
    ("file", "old", "new", "rule", "needle"),
    [
        (PAGE, "core.double", "core.doubel", "unknown-object", "core.doubel"),
        (PAGE, "正文继续。", "正文 $\\frac{1$。", "tex-error", "\\frac"),
        (PAGE, "正文继续。", "$$x$$", "stray-math", "$$"),
        (PAGE, "more.md#small-triple", "more.md#nowhere", "broken-anchor", "nowhere"),
        ("code/formulary/small/core.py", "FACTOR = 2", "FACTOR = 3", "stale-evidence", ""),
    ],
)
def test_broken_source_stops_the_build(
    small: Project, edit: Edit, file: str, old: str, new: str, rule: str, needle: str
) -> None:
    edit(file, old, new)
    result = build(small)
    place = line_of(small, PAGE, needle or "```math")
    assert result.returncode != 0
    assert f"{PAGE}:{place}: {rule}: " in result.stdout + result.stderr
    assert "mend: " in result.stdout + result.stderr


def test_a_page_without_formulas_builds(small: Project, edit: Edit) -> None:
    (small.docs / "plain.md").write_text("# 平常的一页\n\n没有公式。\n", "utf-8")
    write_evidence(small)
    assert build(small).returncode == 0
