"""Renders TeX to HTML and CSS at build time, with MathJax in one Node process."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from formulary_site.json_process import JsonProcess
from formulary_site.mathjax.cache import FormulaCache, Rendered
from formulary_site.node import NodeError, find_node, install
from formulary_site.project import Project

SOURCE = Path(__file__).parent / "worker"
FONTS = Path("node_modules", "@mathjax", "mathjax-newcm-font", "chtml", "woff2")
BATCH = 100
"""Formulas a message: few enough that one answer is quick, many enough to amortise it."""
TIMEOUT = 120.0
"""Seconds for one message; a formula takes about 0.005."""
BASE = "base"
"""Key of the rules that every formula needs; no hash looks like this."""


class TeXError(Exception):
    """The TeX is wrong; the message is MathJax's own."""


class MathJax:
    """Renders formulas; starts Node for the first one that the cache doesn't hold."""

    def __init__(self, project: Project) -> None:
        self._folder = project.cache
        self._cache: FormulaCache | None = None
        self._process: JsonProcess | None = None
        self._used: dict[str, Rendered] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def version(self) -> str:
        """MathJax's version, as the lock file pins it."""
        lock = json.loads((SOURCE / "package-lock.json").read_text("utf-8"))
        return str(lock["packages"]["node_modules/mathjax"]["version"])

    def render(self, tex: str, display: bool) -> str:
        """The formula as one line of HTML, with its MathML for screen readers inside.

        Raises:
            TeXError: The TeX is wrong.
            NodeError: MathJax can't be installed or run.
        """
        (result,) = self.render_many([(tex, display)])
        if isinstance(result, TeXError):
            raise result
        return result

    def render_many(self, items: Iterable[tuple[str, bool]]) -> list[str | TeXError]:
        """Render pairs of TeX and whether it is displayed; wrong TeX yields its error.

        Raises:
            NodeError: MathJax can't be installed or run.
        """
        asked = [(tex.strip(), display) for tex, display in items]
        keys = [FormulaCache.key(*item) for item in asked]
        new = {key: item for key, item in zip(keys, asked, strict=True) if key not in self._used}
        known = {key: found for key in new if (found := self._opened().get(key))}
        missing = [key for key in new if key not in known]
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            made = dict(zip(batch, self._convert([new[key] for key in batch]), strict=True))
            self._opened().put(made)
            known.update(made)
        self._used.update((key, known[key]) for key in new)  # in the order of the items
        results = [self._used[key] for key in keys]
        return [TeXError(result.error) if result.error else result.html for result in results]

    def write_assets(self, folder: Path) -> list[Path]:
        """Write math.css and the fonts that it names, for every formula this object has rendered.

        Formulas that came from the cache count like others. What is written depends on them and
        their order alone.

        Returns:
            The files, math.css first.
        """
        rules: dict[str, None] = {}  # an ordered set
        if self._used:
            rules.update(dict.fromkeys(self._base()))
        for rendered in self._used.values():
            rules.update(dict.fromkeys(rendered.css))
        css = "\n".join(rules) + "\n"
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / "math.css"]
        files[0].write_text(css, "utf-8")
        for name in sorted(set(re.findall(r'url\("(fonts/[\w-]+\.woff2)"\)', css))):
            files.append(folder / name)
            files[-1].parent.mkdir(exist_ok=True)
            shutil.copyfile(install(SOURCE, self._folder) / FONTS / files[-1].name, files[-1])
        return files

    def close(self) -> None:
        """End the process and let go of the cache; another `render` would start anew."""
        if self._process:
            self._process.close()
        if self._cache:
            self._cache.close()
        self._process = self._cache = None

    def _opened(self) -> FormulaCache:
        if self._cache is None:
            # The worker holds MathJax's options, so its text and the lock's are what counts.
            parts = (SOURCE / "package-lock.json", SOURCE / "worker.mjs")
            digest = hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()
            self._cache = FormulaCache(self._folder / f"mathjax-{digest[:16]}.sqlite")
        return self._cache

    def _started(self) -> JsonProcess:
        if self._process is None:
            folder = install(SOURCE, self._folder)
            command = [find_node(), str(SOURCE / "worker.mjs"), str(folder)]
            try:
                self._process = JsonProcess(command, "MathJax", TIMEOUT)
            except NodeError as error:
                raise NodeError(f"{error}\n    mend: delete {folder} and build again") from None
            base = Rendered("", tuple(self._process.greeting["base"]))
            self._opened().put({BASE: base})
        return self._process

    def _base(self) -> tuple[str, ...]:
        found = self._opened().get(BASE)
        if not found:
            self._started()
            found = self._opened().get(BASE)
            assert found
        return found.css

    def _convert(self, items: Sequence[tuple[str, bool]]) -> list[Rendered]:
        try:
            answers = self._started().ask({"items": items})["results"]
        except NodeError:
            self.close()  # the next formula starts another process
            raise
        for (tex, _), answer in zip(items, answers, strict=True):
            if failure := answer.get("failure"):
                raise NodeError(f"MathJax failed at {tex!r}: {failure}")
        return [
            Rendered(answer.get("html", ""), tuple(answer.get("css", ())), answer.get("error", ""))
            for answer in answers
        ]
