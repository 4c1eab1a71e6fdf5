"""Draws the figures of the articles: SVG, once for light and once for dark, cached by content.

A figure function lives in `formulary.<subject>.figures`, takes nothing and returns a matplotlib
Figure. Text becomes outlines from a font that the Python install brings, so that a figure looks
the same on every system and for every reader.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any

from formulary_site.definitions import Definitions
from formulary_site.json_process import JsonProcess
from formulary_site.project import Project

# Foreground, muted and grid colours of Material's two schemes; the cycle is legible for readers
# with colour vision deficiencies (Okabe and Ito), brightened for the dark scheme.
THEMES: dict[str, dict[str, Any]] = {
    "light": {
        "ink": "#24292f",
        "grid": "#d0d7de",
        "cycle": ["#0072b2", "#d55e00", "#009e73", "#b5518e", "#8a6d00", "#3f86b5", "#6e7781"],
        "image.cmap": "viridis",
    },
    "dark": {
        "ink": "#d7dae0",
        "grid": "#454b57",
        "cycle": ["#56b4e9", "#ff9e4a", "#2fd6a3", "#e79ac6", "#f0e442", "#9ad0f5", "#aab2bd"],
        "image.cmap": "viridis",
    },
}


@dataclass(frozen=True)
class Drawing:
    """The two files of a figure, below the cache, and its size in CSS pixels."""

    light: Path
    dark: Path
    width: int
    height: int


class FigureError(Exception):
    """A figure function raised, or returned something else than a Figure."""


def settings(theme: str) -> dict[str, Any]:
    """The rcParams of one theme."""
    look = THEMES[theme]
    ink, grid = look["ink"], look["grid"]
    return {
        "svg.fonttype": "path",
        "svg.hashsalt": "formulary",  # element ids are random without it
        # Chinese first: text beside mathematics in one label gets no fallback font
        "font.family": ["Noto Sans CJK SC", "DejaVu Sans"],
        "font.size": 10,
        "figure.figsize": (7.2, 3.6),
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
        "axes.facecolor": "none",
        "axes.edgecolor": ink,
        "axes.labelcolor": ink,
        "axes.titlecolor": ink,
        "axes.titlesize": 10.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.prop_cycle": f"cycler('color', {look['cycle']!r})",
        "grid.color": grid,
        "grid.linewidth": 0.6,
        "text.color": ink,
        "xtick.color": ink,
        "ytick.color": ink,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "image.cmap": look["image.cmap"],
        "mathtext.fontset": "cm",
    }


def draw_all(
    project: Project, definitions: Definitions, objects: Iterable[str]
) -> dict[str, Drawing | FigureError]:
    """Draw what the cache lacks, in parallel, with a progress bar on a terminal."""
    results: dict[str, Drawing | FigureError] = {}
    missing: dict[str, Path] = {}
    for path in sorted(set(objects)):
        stem = project.cache / "figures" / f"{path.replace('.', '-')}-{_key(definitions, path)}"
        if (drawing := _cached(stem)) is None:
            missing[path] = stem
        else:
            results[path] = drawing
    if missing:
        from tqdm import tqdm  # only when there is something to wait for

        workers = min(len(missing), os.cpu_count() or 1)
        bar = tqdm(total=len(missing), desc="drawing figures", disable=not sys.stderr.isatty())
        with bar, ThreadPoolExecutor(workers) as threads:
            queue = iter(sorted(missing.items()))
            lock = Lock()

            def work() -> None:
                """Keep one process drawing until the queue is empty."""
                command = [sys.executable, "-m", "formulary_site.figures.worker", str(project.code)]
                worker = JsonProcess(command, "the figure worker", timeout=600)
                while True:
                    with lock:
                        if (job := next(queue, None)) is None:
                            break
                    path, stem = job
                    problem = worker.ask({"object": path, "stem": str(stem)})
                    drawing = _cached(stem)
                    results[path] = drawing if drawing and not problem else FigureError(problem)
                    bar.update()
                worker.close()

            for done in [threads.submit(work) for _ in range(workers)]:
                done.result()
    return results


def _key(definitions: Definitions, path: str) -> str:
    """Hash of all that decides how the figure looks."""
    parts = [
        definitions.digest(path),
        json.dumps([settings(theme) for theme in THEMES], default=str),
        *(version(package) for package in ("matplotlib", "torch", "mplfonts")),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _cached(stem: Path) -> Drawing | None:
    light, dark = (stem.parent / f"{stem.name}.{theme}.svg" for theme in THEMES)
    if not (light.is_file() and dark.is_file()):
        return None
    head = light.read_text("utf-8")[:2000]
    sizes = [re.search(rf'{side}="([\d.]+)pt"', head) for side in ("width", "height")]
    width, height = (round(float(size[1]) * 4 / 3) if size else 0 for size in sizes)
    return Drawing(light, dark, width, height)
