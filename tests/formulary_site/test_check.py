"""Broken source turns the check red, with file, line, the rule's name and the mend."""

import pytest

from formulary_site.check import check
from formulary_site.project import Project
from formulary_site.site import Site

from .conftest import Edit, found, line_of, write_evidence

PAGE = "docs/posts/small/index.md"
MORE = "docs/posts/small/more.md"
CORE = "code/formulary/small/core.py"
TEST = "tests/formulary/small/test_core.py"
FENCE = '```math id="small-double"'


def problems(project: Project) -> list:
    return check(Site(project))


def test_the_small_project_is_right(small: Project) -> None:
    assert problems(small) == []


BROKEN = {
    # rule: (file, text, what replaces it, file of the problem, text on its line after the edit)
    "unknown-option": (PAGE, 'core.double"\n', 'core.double" color="red"\n', PAGE, FENCE),
    "missing-option": (PAGE, ' id="small-double"', "", PAGE, "```math code="),
    "duplicate-id": (MORE, "small-triple", "small-double", MORE, FENCE),
    "bad-id": (MORE, 'id="small-triple"', 'id="Small_Triple"', MORE, "```math"),
    "unknown-object": (PAGE, "core.double", "core.doubel", PAGE, FENCE),
    "bad-object": (PAGE, '"small.core.double"', '"small.core.FACTOR"', PAGE, FENCE),
    "unclosed-fence": (MORE, "见 [](#small-double)。\n```", "见", MORE, 'id="small-script"'),
    "tex-error": (MORE, "y = 3x", r"y = \frac{3x", MORE, r"\frac"),
    "unknown-reference": (PAGE, "[](#small-double)", "[](#small-doble)", PAGE, "#small-doble"),
    "fence-after-text": (PAGE, "。\n\n```math", "。\n```math", PAGE, FENCE),
    "bad-fence": (PAGE, FENCE, FENCE + " stray", PAGE, FENCE),
    "empty-fence": (MORE, "y = 3x\n", "", MORE, "```math"),
    "own-number": (MORE, "y = 3x", r"y = 3x \tag{7}", MORE, "```math"),
    "missing-snippet": (PAGE, "正文继续。", '--8<-- "core.py"', PAGE, "--8<--"),
    "fence-in-excerpt": (MORE, "开头。", "开头，[](#small-triple)。", MORE, "开头"),
    "untested-code": (PAGE, "正文继续。", "```python\nx = 1\n```", PAGE, "```python"),
    "missing-figure": (PAGE, "figures.line", "figures.curve", PAGE, "```figure"),
    "image-without-alt": (PAGE, ' alt="一条直线"', "", PAGE, "```figure"),
    "missing-date": (PAGE, "date: 2026-11-20\n", "", PAGE, "---"),
    "missing-slug": (PAGE, "slug: small\n", "", PAGE, "---"),
    "missing-description": (PAGE, "description: 一句话。\n", "", PAGE, "---"),
    "missing-excerpt": (MORE, "<!-- more -->", "", MORE, "---"),
    "unknown-tag": (PAGE, "tags: [good]", "tags: [bad]", PAGE, "tags:"),
    "unknown-category": (PAGE, "[Good]", "[Bad]", PAGE, "categories:"),
    "bad-front-matter": (PAGE, "title: 小例", "title: [小例", PAGE, "---"),
    "broken-link": (PAGE, "more.md#", "mor.md#", PAGE, "mor.md"),
    "broken-anchor": (PAGE, "more.md#small-triple", "more.md#small", PAGE, "more.md#small"),
    "stale-evidence": (CORE, "FACTOR = 2", "FACTOR = 3", PAGE, FENCE),
    "no-oracle": (TEST, "test_double__matches_sum", "test_double__is_sum", CORE, "def double"),
    "no-property": (
        TEST,
        "test_double__equals_hand",
        "test_double__rejects_hand",
        CORE,
        "def double",
    ),
    "unused-function": (CORE, "scale(x, FACTOR)", "FACTOR * x", CORE, "def scale"),
    "undocumented-helper": (CORE, '    """把 x 乘以 factor。"""\n', "", CORE, "def scale"),
    "missing-example": (
        CORE,
        "    示例:\n        >>> triple",
        "    说明:\n        >>> triple",
        None,
        "",
    ),
    "snippet-import": (
        CORE,
        "from torch import",
        "import numpy as torch\nfrom torch import",
        None,
        "",
    ),
    "test-name": (TEST, "test_double__matches", "test_double__proves", TEST, "proves"),
    "missing-test-docstring": (TEST, '    """与自加一致。"""\n', "", TEST, "test_double__matches"),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_broken_source_is_reported(small: Project, edit: Edit, rule: str) -> None:
    file, old, new, place, needle = BROKEN[rule]
    edit(file, old, new)
    if rule == "snippet-import":
        edit(CORE, "factor * x", "torch.multiply(factor, x)")
    places = found(problems(small), rule)
    if place is None:
        assert [file for file, _ in places] == [CORE] * len(places)
        assert places
    else:
        assert (place, line_of(small, place, needle)) in places


@pytest.mark.parametrize(
    "text",
    [
        "$$\ny = 4x\n$$",
        "$$y = 4x$$",
        "前文 $$y = 4x$$ 后文",
        "\\[\ny = 4x\n\\]",
        "\\begin{equation}\ny = 4x\n\\end{equation}",
        "$\\begin{pmatrix} 1 \\end{pmatrix}$",
        "$\\displaystyle y = 4x$",
        "<math><mi>y</mi></math>",
        '<div class="arithmatex">\\(y\\)</div>',
        '<script type="math/tex">y</script>',
    ],
)
def test_display_math_has_the_fence_alone(small: Project, edit: Edit, text: str) -> None:
    edit(PAGE, "正文继续。", f"正文继续。\n\n{text}\n")
    first = next(line for line in text.splitlines() if line.strip())
    assert (PAGE, line_of(small, PAGE, first)) in found(problems(small), "stray-math")


def test_markdown_image_needs_an_alternative_text(small: Project, edit: Edit) -> None:
    (small.docs / "posts" / "small" / "dot.svg").write_text("<svg/>", "utf-8")
    edit(PAGE, "正文继续。", "正文 ![一点](dot.svg)。\n\n![](dot.svg)")
    assert found(problems(small), "image-without-alt") == [(PAGE, line_of(small, PAGE, "![](dot"))]


def test_display_math_in_code_is_text(small: Project, edit: Edit) -> None:
    edit(PAGE, "正文继续。", "正文 `$$x$$`。\n\n````\n$$\n```math\n````\n")
    write_evidence(small)
    assert problems(small) == []


def test_inline_tex_error_has_its_line(small: Project, edit: Edit) -> None:
    edit(PAGE, "正文继续。", "正文 $\\frac{1$ 继续。")
    assert found(problems(small), "tex-error") == [(PAGE, line_of(small, PAGE, "\\frac{1"))]


def test_private_function_is_no_counterpart(small: Project, edit: Edit) -> None:
    edit(CORE, "def scale", "def _scale")
    edit(CORE, "return scale", "return _scale")
    edit(PAGE, "core.double", "core._scale")
    assert found(problems(small), "bad-object") == [(PAGE, line_of(small, PAGE, FENCE))]


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ('"small.script"', '"small.scripts"', "unknown-object"),
        ('"small.script_before"', '"small.core.double"', "unknown-object"),
        ('code="small.script"', 'code="small.core.double"', "bad-object"),
        ('code="small.script"', 'code="small.core.FACTOR"', "bad-object"),
        ('code="small.core.double"', 'code="small.core.doubel"', "unknown-object"),
        ('code="small.core.double"', 'code="small.core.double" alt="a"', "unknown-option"),
        ('code="small.core.double"\n', "\n", "missing-option"),
        ("一个函数，$x$ 是输入。\n", "", "empty-fence"),
    ],
)
def test_broken_listing_is_reported(
    small: Project, edit: Edit, old: str, new: str, rule: str
) -> None:
    edit(MORE, old, new)
    changed = "small-listing" if "double" in old or "一个" in old else "small-script"
    assert (MORE, line_of(small, MORE, f'id="{changed}"')) in found(problems(small), rule)


def test_object_of_a_listing_must_be_proven(small: Project, edit: Edit) -> None:
    edit(MORE, 'code="small.core.double"', 'code="small.core.scale"')
    result = problems(small)
    assert found(result, "no-oracle") == [(CORE, line_of(small, CORE, "def scale"))]
    assert found(result, "missing-evidence") or found(result, "stale-evidence")


def test_function_of_a_script_that_no_page_shows_is_unused(small: Project, edit: Edit) -> None:
    edit(MORE, 'code="small.script" against="small.script_before"', 'code="small.core.triple"')
    write_evidence(small)
    script = "code/formulary/small/script.py"
    assert found(problems(small), "unused-function") == [
        (script, line_of(small, script, "def main"))
    ]


def test_deleted_test_is_noticed(small: Project, edit: Edit) -> None:
    edit(
        TEST,
        'def test_triple__matches_sum():\n    """与连加一致。"""\n'
        "    torch.testing.assert_close(triple(X), X + X + X)\n",
        "",
    )
    result = problems(small)
    assert found(result, "no-oracle") == [(CORE, line_of(small, CORE, "def triple"))]
    assert found(result, "stale-evidence")


@pytest.mark.parametrize(
    ("body", "message"),
    [("return None", "NoneType"), ("raise OSError('no data')", "no data"), ("1 / 0", "division")],
)
def test_failing_figure_is_reported(small: Project, edit: Edit, body: str, message: str) -> None:
    edit("code/formulary/small/figures.py", "    return figure", f"    {body}")
    result = problems(small)
    assert found(result, "figure-failed") == [(PAGE, line_of(small, PAGE, "```figure"))]
    assert any(message in problem.message for problem in result)


def test_figure_with_missing_glyph_is_reported(small: Project, edit: Edit) -> None:
    edit(
        "code/formulary/small/figures.py",
        "    return",
        "    axes.set_title('\\U000f0000')\n    return",
    )
    assert found(problems(small), "figure-failed")
