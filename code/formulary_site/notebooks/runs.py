"""Experiments: notebooks committed with their outputs, and with a hash of what they ran on.

mkdocs-jupyter renders them; `notebook_page` makes a page of the site out of that, because it
carries half a megabyte of styles and scripts of its own and leaves mathematics to the reader.
"""

import ast
import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat

from formulary_site.definitions import PACKAGE, Definitions
from formulary_site.problems import Problem
from formulary_site.project import Project

MAKE = "run `make notebooks`"
_STRAY_MATH = re.compile(r"\$\$|\\\[|\\begin\{")
_CODE = re.compile(r"```.*?```|(`+)(?!`).+?(?<!`)\1", re.DOTALL)
_MAGIC = re.compile(r"^(\s*)[%!].*$", re.MULTILINE)
_SOURCE = re.compile(r"git\+(https?://[^\s\"'@#]+)")


def problems(project: Project, definitions: Definitions) -> list[Problem]:
    """What is wrong with the committed notebooks; none is run."""
    return [
        problem
        for path in _paths(project)
        for problem in _problems(project, definitions, path, nbformat.read(path, as_version=4))
    ]


def run(project: Project, definitions: Definitions, everything: bool = False) -> int:
    """Run the notebooks that are not fresh and store their outputs; 1 if a cell fails.

    A notebook whose cell fails is left as it was.
    """
    from nbclient import NotebookClient  # only when something runs
    from nbclient.exceptions import CellExecutionError

    failed = 0
    for path in _paths(project):
        notebook = nbformat.read(path, as_version=4)
        name = project.relative(path)
        digest = _digest(notebook, definitions)
        if not everything and digest == _stored(notebook):
            print(f"{name}: fresh", file=sys.stderr)
            continue
        print(f"{name}: running …", file=sys.stderr, flush=True)
        resources = {"metadata": {"path": str(path.parent)}}
        client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources)
        client.record_timing = False  # times would change the file on every run
        try:
            client.execute()
        except CellExecutionError as error:
            cells = enumerate(_cells(notebook, "code"))
            number = next(number for number, cell in cells if _raised(cell))
            problem = _failing(project, path, notebook, number)
            print(f"{problem}\n\n{error}", file=sys.stderr)
            failed = 1
            continue
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)
        notebook.metadata = nbformat.from_dict(
            {
                "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                "language_info": {"name": "python"},
                PACKAGE: {"hash": digest},
            }
        )
        nbformat.write(notebook, path)
    return failed


def _paths(project: Project) -> list[Path]:
    return sorted((project.docs / "notebooks").glob("*.ipynb"))


def _problems(
    project: Project, definitions: Definitions, path: Path, notebook: Any
) -> Iterator[Problem]:
    file = project.relative(path)
    if not any(_imports(cell.source, definitions) for cell in _cells(notebook, "code")):
        yield Problem(
            file,
            1,
            "notebook-without-code",
            f"the notebook imports nothing from {PACKAGE}",
            f"run the experiment on the counterparts: `from {PACKAGE}.… import …`",
        )
    for cell in _cells(notebook, "markdown"):
        if match := _STRAY_MATH.search(_CODE.sub("", cell.source)):
            yield Problem(
                file,
                _line(path, cell, match[0]),
                "stray-math",
                f"display math written as {match[0]!r} has no counterpart in code",
                "move the formula to the article and refer to it",
            )
    for number, cell in enumerate(_cells(notebook, "code")):
        if _raised(cell):
            yield _failing(project, path, notebook, number)
        if not cell.metadata.get("alt") and any(
            name.startswith("image/") for output in cell.outputs for name in output.get("data", ())
        ):
            yield Problem(
                file,
                _line(path, cell),
                "image-without-alt",
                "the cell draws an image that has no alternative text",
                'add "alt": "what the image shows" to the cell\'s metadata',
            )
        for address in _SOURCE.findall(cell.source):
            if project.repository and address.removesuffix(".git") != project.repository:
                yield Problem(
                    file,
                    _line(path, cell),
                    "wrong-repository",
                    f"the cell installs from {address}",
                    f"use the address in mkdocs.yml, {project.repository}",
                )
    if _stored(notebook) != _digest(notebook, definitions):
        yield Problem(
            file,
            1,
            "stale-notebook",
            "its cells or the code that they import changed since it ran",
            MAKE,
        )


def _failing(project: Project, path: Path, notebook: Any, number: int) -> Problem:
    cell = _cells(notebook, "code")[number]
    first = (cell.source.strip().splitlines() or [""])[0]
    return Problem(
        project.relative(path),
        _line(path, cell),
        "failing-cell",
        f"code cell {number + 1} raises; it begins with {first!r}",
        f"mend the cell or the code it runs, then {MAKE}",
    )


def _raised(cell: Any) -> bool:
    return any(output.output_type == "error" for output in cell.outputs)


def _cells(notebook: Any, kind: str) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def _line(path: Path, cell: Any, needle: str = "") -> int:
    """Where the cell, or a string in it, stands in the file."""
    text = path.read_text("utf-8")
    start = max(text.find(f'"id": "{cell.id}"'), 0)
    # In JSON a backslash is written twice
    at = text.find(needle.replace("\\", "\\\\"), start) if needle else start
    return text.count("\n", 0, max(at, start)) + 1


def _stored(notebook: Any) -> str:
    return str(notebook.metadata.get(PACKAGE, {}).get("hash", ""))


def _digest(notebook: Any, definitions: Definitions) -> str:
    """Hash of the code cells and of every definition that they import."""
    cells = [cell.source for cell in _cells(notebook, "code")]
    needed = sorted({path for source in cells for path in _imports(source, definitions)})
    parts = [*cells, *(f"{path} {definitions.digest(path)}" for path in needed)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _imports(source: str, definitions: Definitions) -> set[str]:
    """Paths of the definitions that a cell imports, one by one or by module."""
    try:
        tree = ast.parse(_MAGIC.sub(r"\1pass", source))
    except SyntaxError:
        return set()  # running it will tell
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return {
        definition.path
        for definition in definitions
        for name in names
        if f"{PACKAGE}.{definition.path}" == name or definition.module == name
    }
