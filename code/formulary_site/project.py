"""Where the rooms of a project are, so that tests can build small ones elsewhere."""

import pydoc
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Project:
    """The folders and settings of one project, all derived from its root."""

    root: Path

    @classmethod
    def find(cls, start: Path | None = None) -> "Project":
        """The project that holds `start` (default: the working folder).

        Raises:
            FileNotFoundError: No folder from `start` upwards holds mkdocs.yml.
        """
        here = (start or Path.cwd()).resolve()
        for folder in (here, *here.parents):
            if (folder / "mkdocs.yml").is_file():
                return cls(folder)
        raise FileNotFoundError(f"no mkdocs.yml in {here} or above; run this inside the project")

    @property
    def docs(self) -> Path:
        return self.root / "docs"

    @property
    def code(self) -> Path:
        """The source root; holds the package `formulary`."""
        return self.root / "code"

    @property
    def tests(self) -> Path:
        return self.root / "tests"

    @property
    def cache(self) -> Path:
        """Generated files that may be deleted at any time."""
        return self.root / ".cache" / "formulary"

    @property
    def evidence(self) -> Path:
        return self.docs / "evidence.json"

    @cached_property
    def config(self) -> dict[str, Any]:
        """mkdocs.yml, with `!!python/name:` resolved and `!ENV` read as unset."""
        return dict(yaml.load((self.root / "mkdocs.yml").read_text("utf-8"), _Loader) or {})

    @property
    def repository(self) -> str:
        """The repository's address without a trailing slash, or '' if none is set."""
        return str(self.config.get("extra", {}).get("repository") or "").rstrip("/")

    def relative(self, path: Path) -> str:
        """The path as messages and the registry print it."""
        return path.resolve().relative_to(self.root.resolve()).as_posix()


class _Loader(yaml.SafeLoader):
    """SafeLoader that also reads the two kinds of tags that MkDocs knows."""


def _name(_loader: yaml.Loader, suffix: str, _node: yaml.Node) -> Any:
    return pydoc.locate(suffix)


_Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", _name)
_Loader.add_constructor("!ENV", lambda _loader, _node: None)
