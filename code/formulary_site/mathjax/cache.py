"""Rendered formulas on disk, in one SQLite file that several processes may share."""

import hashlib
import json
import sqlite3
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 60.0
"""Seconds to wait while another process writes."""


@dataclass(frozen=True)
class Rendered:
    """What became of one formula.

    Attributes:
        html: The formula, or '' if its TeX is wrong.
        css: The rules that it needs beyond those of every formula.
        error: What is wrong with its TeX, or ''.
    """

    html: str
    css: tuple[str, ...]
    error: str = ""


class FormulaCache:
    """A mapping from TeX and mode to `Rendered` that survives the process."""

    def __init__(self, file: Path) -> None:
        """Open or create the file, whose name tells the renderer's version and options."""
        file.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._database = sqlite3.connect(file, timeout=PATIENCE, check_same_thread=False)
        self.close = weakref.finalize(self, self._database.close)
        with self._database:
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS formula"
                " (key TEXT PRIMARY KEY, html TEXT, css TEXT, error TEXT)"
            )

    @staticmethod
    def key(tex: str, display: bool) -> str:
        return hashlib.sha256(f"{'display' if display else 'inline'}\n{tex}".encode()).hexdigest()

    def get(self, key: str) -> Rendered | None:
        with self._lock:
            row = self._database.execute(
                "SELECT html, css, error FROM formula WHERE key = ?", (key,)
            ).fetchone()
        return Rendered(row[0], tuple(json.loads(row[1])), row[2]) if row else None

    def put(self, found: Mapping[str, Rendered]) -> None:
        """Store all of them, or, should this process die, none."""
        rows = [(key, r.html, json.dumps(r.css), r.error) for key, r in found.items()]
        with self._lock, self._database:
            self._database.executemany("INSERT OR REPLACE INTO formula VALUES (?, ?, ?, ?)", rows)
