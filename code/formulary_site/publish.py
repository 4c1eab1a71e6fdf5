"""Writes what the site needs beside its pages: registry, snippets, figures, math fonts, assets.

A builder calls this once its pages are written; `python -m formulary_site publish site` does the
same for one that has no hooks.
"""

import importlib.resources
import json
import re
import shutil
from pathlib import Path
from typing import Any

from formulary_site.figures.drawing import Drawing
from formulary_site.site import Site

# Material's search cuts a Chinese query into words of the index, but never tries words that end
# where the query ends: of 环形归约 it looks for 环形 and 归
_WORDS = re.compile(r"for\(let (\w+)=(\w+)\+1;\1<(?=(\w+)\.length;\1\+\+\)\3\.slice\(\2,\1\)in )")

STYLES = ("assets/math/math.css", "assets/formulary.css")
SCRIPTS = ("assets/formulary.js",)


def publish(site: Site, folder: Path) -> None:
    """Write everything below `folder`, the root of the built site."""
    assets = folder / "assets"
    (assets / "figures").mkdir(parents=True, exist_ok=True)
    for drawing in site.drawings.values():
        if isinstance(drawing, Drawing):
            for file in (drawing.light, drawing.dark):
                shutil.copy(file, assets / "figures" / file.name)
    site.mathjax.write_assets(assets / "math")
    for name in ("formulary.css", "formulary.js"):
        source = importlib.resources.files("formulary_site") / "assets" / name
        (assets / name).write_text(source.read_text("utf-8"), "utf-8")
    (folder / "snippets").mkdir(exist_ok=True)
    for item in site.registry.proven.values():
        script = site.scripts.get(item.object)
        text = script.read_text("utf-8") if script else site.snippets[item.object]
        (folder / "snippets" / f"{item.id}.py").write_text(text, "utf-8")
    for worker in folder.glob("assets/javascripts/workers/search.*.min.js"):
        minified = worker.read_text("utf-8")
        worker.write_text(_WORDS.sub(lambda found: f"{found[0]}=", minified), "utf-8")
    text = json.dumps(entries(site), ensure_ascii=False, indent=1)
    (folder / "formulas.json").write_text(text + "\n", "utf-8")


def entries(site: Site) -> list[dict[str, Any]]:
    """The registry of the whole site, one entry a formula, in the order of pages and numbers."""
    result = []
    for formula in site.registry.formulas.values():
        definition = site.definitions[formula.object]
        verdict = site.verdicts[formula.id]
        result.append(
            {
                "id": formula.id,
                "title": formula.title or definition.summary.rstrip("。"),
                "page": formula.page,
                "url": formula.url,
                "number": formula.number,
                "latex": formula.latex,
                "object": f"formulary.{formula.object}",
                "file": site.project.relative(definition.file),
                "line": definition.line,
                "hash": site.definitions.digest(formula.object),
                "state": verdict.state,
                "tests": [
                    {"name": test.node_id, "claim": test.docstring, "outcome": outcome}
                    for test, outcome in verdict.outcomes
                ],
                "max_error": verdict.max_error,
            }
        )
    return result
