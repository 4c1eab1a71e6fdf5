"""All that one build of the site shares: registry, definitions, proof, MathJax, figures."""

from functools import cached_property
from pathlib import Path

from formulary_site.definitions import Definitions
from formulary_site.figures.drawing import Drawing, FigureError, draw_all
from formulary_site.mathjax.renderer import MathJax
from formulary_site.project import Project
from formulary_site.proof.evidence import Evidence, Verdict
from formulary_site.proof.links import Test, tests_of
from formulary_site.registry import Registry, scan
from formulary_site.snippets.builder import all_runnable


class Site:
    """Reads each room when it is first asked for, and once per build."""

    _current: "Site | None" = None

    def __init__(self, project: Project) -> None:
        self.project = project

    @classmethod
    def current(cls) -> "Site":
        """The site being built; without a builder that set one, the project we are in."""
        if cls._current is None:
            cls._current = cls(Project.find())
        return cls._current

    def make_current(self) -> "Site":
        """Let Markdown extensions, which a builder creates by name, find this site."""
        if Site._current is not None and Site._current is not self:
            Site._current.close()
        Site._current = self
        return self

    @cached_property
    def registry(self) -> Registry:
        return scan(self.project)

    @cached_property
    def definitions(self) -> Definitions:
        return Definitions.load(self.project)

    @cached_property
    def tests(self) -> dict[str, list[Test]]:
        return tests_of(self.project, self.definitions)

    @cached_property
    def evidence(self) -> Evidence:
        return Evidence.load(self.project)

    @cached_property
    def mathjax(self) -> MathJax:
        return MathJax(self.project)

    @cached_property
    def drawings(self) -> dict[str, Drawing | FigureError]:
        objects = {
            figure.object
            for figure in self.registry.figures.values()
            if figure.object in self.definitions
        }
        return draw_all(self.project, self.definitions, objects)

    @cached_property
    def verdicts(self) -> dict[str, Verdict]:
        """How each formula's counterpart was proven, by the last run of the tests."""
        return {
            name: self.evidence.verdict(item, self.definitions, self.tests)
            for name, item in self.registry.proven.items()
        }

    @cached_property
    def snippets(self) -> dict[str, str]:
        """The runnable version of each object that a formula or listing names.

        Raises:
            SourceError: Some cannot stand alone.
        """
        return all_runnable(self.definitions, self.objects)

    @cached_property
    def objects(self) -> set[str]:
        """The definitions that formulas and listings name, those that exist."""
        return {
            item.object for item in self.registry.proven.values() if item.object in self.definitions
        }

    @cached_property
    def scripts(self) -> dict[str, Path]:
        """The modules that listings show whole, and their files."""
        named = {item.object for item in self.registry.listings.values()}
        return {name: file for name in named if (file := self.definitions.module_file(name))}

    def source_link(self, file: str, line: int = 0, end_line: int = 0) -> str:
        """Address of a file, or of lines of it, in the repository; '' when none is configured."""
        if not self.project.repository:
            return ""
        lines = (f"#L{line}" if line else "") + (f"-L{end_line}" if end_line else "")
        return f"{self.project.repository}/blob/main/{file}{lines}"

    def close(self) -> None:
        """End the MathJax process, if one was started."""
        if "mathjax" in self.__dict__:
            self.mathjax.close()
