import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from formulary_site import node
from formulary_site.mathjax import renderer as module
from formulary_site.mathjax.renderer import MathJax, TeXError
from formulary_site.node import NodeError
from formulary_site.project import Project

REPOSITORY = Path(__file__).parents[2]


def make_project(root: Path) -> Project:
    """An empty project that shares the repository's copy of MathJax."""
    project = Project(root)
    installed = node.install(module.SOURCE, Project(REPOSITORY).cache)
    project.cache.mkdir(parents=True)
    (project.cache / "node").symlink_to(installed.parent, target_is_directory=True)
    return project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path)


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MathJax]:
    """One process for all tests that only look at what it renders."""
    with MathJax(make_project(tmp_path_factory.mktemp("project"))) as renderer:
        yield renderer


@pytest.fixture
def without_node(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden() -> str:
        raise AssertionError("node was started")

    monkeypatch.setattr(module, "find_node", forbidden)


def test_display_and_inline_are_one_line_of_html_with_mathml(renderer: MathJax) -> None:
    tall = r"\left(\begin{pmatrix}a\\b\\c\\d\\e\\f\\g\\h\end{pmatrix}\right)"  # stacked braces
    for display in (True, False):
        html = renderer.render(tall, display)
        assert re.fullmatch(r"<mjx-container .*</mjx-container>", html)  # one line
        assert ('display="true"' in html) == display
        assert re.search(r"<mjx-math [^>]*aria-hidden=\"true\"", html)
        assert html.count("<math") == 1
        assert "<mtable" in html
        assert "<mi>h</mi>" in html
        assert not re.search(r"data-latex|data-mjx|<script|http", html)


@pytest.mark.parametrize(
    ("tex", "message"),
    [
        (r"\foo", r"Undefined control sequence \foo"),
        (r"\text{\foo}", r"Undefined control sequence \foo"),
        (r"\newcommand{\foo}{x}", r"Undefined control sequence \newcommand"),
        (r"\require{color}", r"Undefined control sequence \require"),
        (r"\frac{a", "Missing close brace"),
        (r"\begin{foo}x\end{foo}", "Unknown environment 'foo'"),
        (r"a & b", "Misplaced &"),
        (r"x_1_2", "Double subscripts: use braces to clarify"),
    ],
)
def test_wrong_tex_raises_what_mathjax_says(renderer: MathJax, tex: str, message: str) -> None:
    with pytest.raises(TeXError) as caught:
        renderer.render(tex, True)
    assert str(caught.value) == message
    assert "<math" in renderer.render("x", False)


def test_a_batch_keeps_its_order_and_its_errors(renderer: MathJax) -> None:
    items = [("a", True), (r"\foo", False), ("b", False), ("a", True), ("a", False)]
    results = renderer.render_many(items)
    assert isinstance(results[1], TeXError)
    assert "<mi>b</mi>" in str(results[2])
    assert results[0] == results[3] == renderer.render(" a\n", True) != results[4]


def test_a_batch_longer_than_one_message(
    renderer: MathJax, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 3)
    results = renderer.render_many([(f"x_{{{n}}}", False) for n in range(10)])
    assert [f"<mn>{n}</mn>" in str(result) for n, result in enumerate(results)] == [True] * 10


def test_one_formula_does_not_see_another(renderer: MathJax) -> None:
    assert "<mi>x</mi>" in renderer.render(r"\label{a} x", True)
    assert "<mi>y</mi>" in renderer.render(r"\label{a} y", True)


def test_chinese_text_takes_the_font_of_the_page(renderer: MathJax) -> None:
    html = renderer.render(r"\text{若 $x$ 为偶数}", True)
    assert re.search(r"font-family: [^;]*var\(--md-text-font-family[^>]*>为偶数<", html)


def test_short_inline_formulas_stay_on_a_line_and_long_ones_may_break(renderer: MathJax) -> None:
    assert 'class="MathJax short"' in renderer.render("m-n", False)
    long = renderer.render("a+b+c+d+e+f+g+h=i+j+k+l", False)
    assert "<mjx-break" in long
    assert "short" not in long
    assert "<mjx-break" not in renderer.render("a+b+c+d+e+f+g+h=i+j+k+l", True)


@pytest.mark.parametrize("name", ["dcases", "bmatrix", "aligned", "gathered", "cases"])
def test_environments_of_the_articles(renderer: MathJax, name: str) -> None:
    assert "<mtable" in renderer.render(rf"\begin{{{name}}}a\\b\end{{{name}}}", True)


def test_a_second_build_needs_no_node(project: Project, request: pytest.FixtureRequest) -> None:
    items = [(r"\boldsymbol q", True), (r"\foo", True)]
    with MathJax(project) as first:
        results = first.render_many(items)
        first.write_assets(project.root / "first")
    request.getfixturevalue("without_node")
    with MathJax(project) as second:
        assert [str(result) for result in second.render_many(items)] == list(map(str, results))
        second.write_assets(project.root / "second")
        with pytest.raises(AssertionError, match="node was started"):
            second.render(r"\boldsymbol q", False)
    css = [(project.root / build / "math.css").read_text() for build in ("first", "second")]
    assert css[0] == css[1]


def test_two_processes_share_a_cache(project: Project) -> None:
    script = """
import sys
from pathlib import Path
from formulary_site.mathjax.renderer import MathJax
from formulary_site.project import Project
with MathJax(Project(Path(sys.argv[1]))) as renderer:
    for n in range(30):
        print(renderer.render(f"x_{{{n}}}", False))
"""
    command = [sys.executable, "-c", script, str(project.root)]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0] == outputs[1]
    assert len(outputs[0][0].splitlines()) == 30


def test_the_stylesheet_holds_what_formulas_of_several_builds_need(project: Project) -> None:
    formulas = [
        r"\mathcal R\mathscr L\mathfrak g\mathbb E",
        r"\left(\frac{a}{\sqrt b}\right)\Big(\underbrace{xyz}_n\mathscr L\mathcal R",
        r"\begin{cases}x\\y\\z\end{cases}\mathtt{rope}\ \boldsymbol{\mathcal R}\ \text{若}",
    ]
    for number in (1, 2, 3):
        with MathJax(project) as renderer:  # the last formula is new, those before it are known
            html = "".join(renderer.render(formula, True) for formula in formulas[:number])
            files = renderer.write_assets(project.root / "assets")
    css = files[0].read_text("utf-8")
    glyphs = set(re.findall(r'<mjx-c [^>]*?class="([^"]+)"', html))
    assert len(glyphs) > 20
    for glyph in glyphs:
        assert f"\nmjx-c.{glyph.replace(' ', '.')}{{" in css
    for kind in ("mi", "mo", "mfrac", "msqrt", "munder", "mtable", "mtd", "mtext"):
        assert f"<mjx-{kind}" in html
        assert f"\nmjx-{kind}{{" in css
    fonts = set(re.findall(r"NCM-[\w-]+", html)) - {"NCM-ZERO"}
    assert {"NCM-C", "NCM-S", "NCM-M", "NCM-CB", "NCM-DS", "NCM-F"} <= fonts
    for font in fonts:
        assert f".{font}{{font-family: MJX-NCM-ZERO, MJX-{font};}}" in css
        assert f'url("fonts/mjx-{font.lower()}.woff2")' in css
    assert len(css.splitlines()) == len(set(css.splitlines()))


def test_assets_are_complete_and_ask_nobody_else(project: Project) -> None:
    with MathJax(project) as renderer:
        renderer.render(r"\frac{a}{b}", True)
        files = renderer.write_assets(project.root / "site" / "assets")
    css = files[0].read_text("utf-8")
    assert files[0] == project.root / "site" / "assets" / "math.css"
    urls = re.findall(r"url\(([^)]*)\)", css)
    assert sorted(url.strip('"') for url in urls) == sorted(
        file.relative_to(files[0].parent).as_posix() for file in files[1:]
    )
    assert not re.search(r"//|@import", css)
    assert {file.name for file in files[1:]} == {
        "mjx-ncm-brk.woff2",
        "mjx-ncm-n.woff2",
        "mjx-ncm-zero.woff2",
    }
    assert all(file.read_bytes().startswith(b"wOF2") for file in files[1:])


def test_assets_of_a_site_without_formulas(project: Project, without_node: None) -> None:
    (stylesheet,) = MathJax(project).write_assets(project.root / "assets")
    assert stylesheet.read_text("utf-8").strip() == ""


def test_a_dead_process_is_an_error_once(renderer: MathJax) -> None:
    renderer.render("dead", True)
    assert renderer._process
    renderer._process._process.kill()
    with pytest.raises(NodeError, match="MathJax ended with status"):
        renderer.render("alive", True)
    assert "<mi>v</mi>" in renderer.render("alive", True)


def test_a_broken_install_says_how_to_mend_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = project.root / "installed"
    (installed / "node_modules").mkdir(parents=True)
    monkeypatch.setattr(module, "install", lambda *_: installed)
    with pytest.raises(NodeError, match=r"(?s)node-main\.mjs.*mend: delete .*installed"):
        MathJax(project).render("x", True)


def test_the_version_is_the_installed_one(project: Project) -> None:
    installed = node.install(module.SOURCE, project.cache)
    package = installed / "node_modules" / "mathjax" / "package.json"
    assert MathJax(project).version == json.loads(package.read_text("utf-8"))["version"]


def test_the_lock_pins_contents_and_names_no_host() -> None:
    text = (module.SOURCE / "package-lock.json").read_text("utf-8")
    assert "//" not in text
    assert "resolved" not in text
    packages = json.loads(text)["packages"]
    assert all("integrity" in package for name, package in packages.items() if name)
