"""Every page, at both widths and in both schemes: nothing overflows, nobody is shut out."""

import gzip
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe

ROOT = Path(__file__).parents[2]
PARTS = sorted(
    path.relative_to(ROOT / "docs/posts").as_posix().removesuffix(".md").removesuffix("index")
    for path in (ROOT / "docs" / "posts").rglob("*.md")
)
NOTEBOOKS = sorted(f"notebooks/{path.stem}" for path in (ROOT / "docs/notebooks").glob("*.ipynb"))
PAGES = ["", "notation", "tags", *PARTS, *NOTEBOOKS]


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
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_reports_no_violation(read, page: str, scheme: str) -> None:
    shown = read(color_scheme=scheme).open(f"{page.strip('/')}/".lstrip("/"))
    shown.evaluate("document.querySelectorAll('details').forEach((box) => (box.open = true))")
    shown.wait_for_timeout(300)  # colours fade in
    violations = Axe().run(shown).response["violations"]
    assert [
        (violation["id"], [node["html"][:160] for node in violation["nodes"][:3]])
        for violation in violations
    ] == []


def test_notebook_weighs_at_most_twice_an_article(built: Path) -> None:
    def weight(page: str) -> int:
        return len(gzip.compress((built / page / "index.html").read_bytes()))

    heaviest = max(weight(part) for part in PARTS)
    for notebook in NOTEBOOKS:
        assert weight(notebook) <= 2 * heaviest
