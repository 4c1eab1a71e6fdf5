"""Every page, at both widths and in both schemes: nothing overflows, nobody is shut out."""

import gzip
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

ROOT = Path(__file__).parents[2]
PARTS = sorted(
    path.relative_to(ROOT / "docs/posts").as_posix().removesuffix(".md").removesuffix("index")
    for path in (ROOT / "docs" / "posts").rglob("*.md")
)
NOTEBOOKS = sorted(f"notebooks/{path.stem}" for path in (ROOT / "docs/notebooks").glob("*.ipynb"))
PAGES = ["", "notation", "tags", *PARTS, *NOTEBOOKS]
SMALLEST = "rope/variants"
CONTRAST: dict[str, object] = {"runOnly": ["color-contrast"]}
FEW_COLOURS: dict[str, object] = {"exclude": [["mjx-container"], ["pre"]]}


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_overflows(read, page: str, width: int) -> None:
    shown = read(viewport={"width": width, "height": 900}).open(f"{page.strip('/')}/".lstrip("/"))
    # Folded code and folded boxes must fit, too
    shown.evaluate("document.querySelectorAll('details').forEach((box) => (box.open = true))")
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    outside = shown.evaluate(
        """(width) => [...document.querySelectorAll('article *')]
          .filter((element) => {
            const box = element.getBoundingClientRect();
            if (!box.width || box.right <= width + 1) return false;
            for (let up = element.parentElement; up; up = up.parentElement) {
              const overflow = getComputedStyle(up).overflowX;
              if (['auto', 'scroll', 'hidden'].includes(overflow)) return false;
            }
            return !element.closest('mjx-assistive-mml');
          })
          .map((element) => element.outerHTML.slice(0, 120))""",
        width,
    )
    assert outside == []


@pytest.mark.parametrize("page", PAGES)
def test_axe_reports_no_violation(read, page: str) -> None:
    shown = read(color_scheme="light").open(f"{page.strip('/')}/".lstrip("/"))
    shown.evaluate("document.querySelectorAll('details').forEach((box) => (box.open = true))")
    # Thousands of glyphs and highlighted words have the same few colours on every page, and axe
    # takes half a minute for them; one page stands for all.
    everything = page == SMALLEST
    violations = found(shown, {"rules": {"color-contrast": {"enabled": everything}}})
    if not everything:
        violations += found(shown, CONTRAST, FEW_COLOURS)
    shown.emulate_media(color_scheme="dark")
    expect(shown.locator("body")).to_have_attribute("data-md-color-scheme", "slate")
    violations += found(shown, CONTRAST, None if everything else FEW_COLOURS)
    assert violations == []


def found(
    shown: Page, options: dict[str, object], context: dict[str, object] | None = None
) -> list[tuple[str, list[str]]]:
    """Rules that the page breaks, each with the first elements that do."""
    shown.wait_for_timeout(300)  # colours fade in
    reply = Axe().run(shown, context=context, options={"resultTypes": ["violations"], **options})
    return [
        (violation["id"], [node["html"][:160] for node in violation["nodes"][:3]])
        for violation in reply.response["violations"]
    ]


def test_notebook_weighs_at_most_twice_an_article(built: Path) -> None:
    def weight(page: str) -> int:
        return len(gzip.compress((built / page / "index.html").read_bytes()))

    heaviest = max(weight(part) for part in PARTS)
    for notebook in NOTEBOOKS:
        assert weight(notebook) <= 2 * heaviest
