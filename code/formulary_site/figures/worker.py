"""Process that draws figures for `figures.draw_all`: one JSON line asks for one figure.

It lives in its own process because it imports torch, which a build that draws nothing avoids.
"""

import importlib
import importlib.resources
import io
import json
import logging
import os
import sys
import traceback
import warnings
from pathlib import Path

import matplotlib
import torch
from matplotlib import font_manager, pyplot
from matplotlib.figure import Figure

from formulary_site.definitions import PACKAGE
from formulary_site.figures.drawing import THEMES, settings

FONT = "NotoSansCJKsc-Regular.otf"  # of the package mplfonts


def main(code: str) -> None:
    """Answer each line with '' or with what went wrong."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # a figure that prints must not speak for us
    sys.path.insert(0, code)
    matplotlib.use("svg")
    torch.set_num_threads(1)  # the workers share the cores
    font = importlib.resources.files("mplfonts") / "fonts" / FONT
    font_manager.fontManager.addfont(str(font))
    # A missing glyph is a box on the page: matplotlib warns of it in text, and logs it in mathtext
    warnings.filterwarnings("error", message="Glyph .* missing")
    missing: list[str] = []
    logger = logging.getLogger("matplotlib.mathtext")

    def note(record: logging.LogRecord) -> bool:
        missing.append(record.getMessage())
        return False

    logger.addFilter(note)
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        missing.clear()
        problem = draw(job["object"], Path(job["stem"])) or next(iter(missing), "")
        print(json.dumps(problem), file=answers, flush=True)


def draw(path: str, stem: Path) -> str:
    """Write the figure in each theme; return '' or what went wrong, with the place."""
    module, _, name = path.rpartition(".")
    images = {}
    try:
        function = getattr(importlib.import_module(f"{PACKAGE}.{module}"), name)
        for theme in THEMES:
            with matplotlib.rc_context(settings(theme)):
                figure = function()
                if not isinstance(figure, Figure):
                    return f"returned {type(figure).__name__}, not a matplotlib Figure"
                buffer = io.StringIO()
                figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
                pyplot.close(figure)
                images[theme] = buffer.getvalue()
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})"
    stem.parent.mkdir(parents=True, exist_ok=True)
    for theme, image in images.items():
        target = stem.parent / f"{stem.name}.{theme}.svg"
        partial = target.with_suffix(f".{os.getpid()}")
        partial.write_text(image, "utf-8")
        partial.replace(target)  # readers see the old file or the whole new one
    return ""


if __name__ == "__main__":
    main(sys.argv[1])
