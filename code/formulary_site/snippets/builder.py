"""Builds the runnable version of a definition: one file that needs torch alone."""

import ast
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from formulary_site.definitions import PACKAGE, Definition, Definitions
from formulary_site.problems import Problem, SourceError
from formulary_site.snippets.example import ExampleError, Step, imported, plain_code, read_example
from formulary_site.snippets.imports import check_inner_imports, import_block
from formulary_site.snippets.names import RENAME, NameClashError, chains, final_names, replacements
from formulary_site.snippets.problems import refusal, relative, source_of
from formulary_site.snippets.rewrite import rewrite
from formulary_site.snippets.source import bound_by, parse

SITE = "Incoming Transmission"


def all_runnable(definitions: Definitions, paths: Iterable[str]) -> dict[str, str]:
    """The runnable version of each of `paths`, sorted by path.

    Raises:
        SourceError: Some cannot be built; it lists every problem of all of them.
    """
    built: dict[str, str] = {}
    problems: list[Problem] = []
    for path in sorted(set(paths)):
        try:
            built[path] = runnable(definitions, path)
        except SourceError as error:
            problems += error.problems
    if problems:
        raise SourceError(problems)
    return built


def runnable(definitions: Definitions, path: str) -> str:
    """A self-contained Python file: the definition, what it needs, and its example.

    Raises:
        SourceError: The source cannot be made to stand alone.
    """
    root = definitions[path]
    try:
        steps = read_example(root.docstring)
    except ExampleError as error:
        line = _docstring_line(root) + error.line
        raise refusal(root, line, error.rule, error.message, error.mend) from None
    shown = [node for step in steps for node in ast.parse(step.code).body]
    uses = _example_references(definitions, root, steps, shown)
    members = _members(definitions, root, uses.values())
    check_inner_imports(members)
    references = {d.path: definitions.references(d.path) for d in members} | {"": uses}
    try:
        final = final_names(members, references, [n for n in shown if not _is_ours(n)])
        pieces = [
            (d, _rewritten(d, replacements(d, references[d.path], final)))
            for d in _constants_first(members, references)
        ]
        example = _renamed(steps, replacements(None, uses, final))
    except NameClashError as error:
        place = error.definition
        raise refusal(place, place.line, "snippet-name", error.message, RENAME) from None
    body = _laid_out(pieces) + "\n\n\n" + plain_code(example)
    imports = import_block(members, imported(steps), body)
    blank_lines = "\n" if pieces[0][0].kind == "constant" else "\n\n"
    return _header(root, imports) + blank_lines + body


def example_needs(definitions: Definitions, path: str) -> set[str]:
    """Paths of what the example of a definition uses; none if it has no example."""
    root = definitions[path]
    try:
        steps = read_example(root.docstring)
    except ExampleError:
        return set()  # which building the snippet reports
    shown = [node for step in steps for node in ast.parse(step.code).body]
    return set(_example_references(definitions, root, steps, shown).values())


def _example_references(
    definitions: Definitions, root: Definition, steps: list[Step], shown: list[ast.stmt]
) -> dict[str, str]:
    """Names that the example uses from the package, as its module would read them."""
    targets = {d.name: d.path for d in definitions if d.module == root.module}
    for bound in (*source_of(root).imports, *imported(steps)):
        if bound.target.startswith(f"{PACKAGE}."):
            targets[bound.local] = bound.target.removeprefix(f"{PACKAGE}.")
    found = {}
    for written in set[str]().union(*map(chains, shown)):
        head, _, rest = written.partition(".")
        full = f"{targets.get(head, '')}.{rest}".strip(".")
        if head in targets and full in definitions:
            found[written] = full
    return found


def _is_ours(node: ast.stmt) -> bool:
    """Whether it imports from the package; the file defines what it names, so it is left out."""
    return bool(bound := list(bound_by(node))) and all(
        b.module.partition(".")[0] == PACKAGE for b in bound
    )


def _members(definitions: Definitions, root: Definition, used: Iterable[str]) -> list[Definition]:
    """All that the file defines, dependencies first and `root` last."""
    # what only the example needs stands first
    needed = chain(*(definitions.closure(path) for path in (*sorted(used), root.path)))
    unique = {definition.path: definition for definition in needed}
    return [definition for definition in unique.values() if definition is not root] + [root]


def _constants_first(
    members: list[Definition], references: dict[str, dict[str, str]]
) -> list[Definition]:
    """Constants stand at the top unless a function computes them; two on one line are one."""
    top: dict[tuple[Path, int], Definition] = {}
    placed: set[str] = set()
    for d in members:
        if d.kind == "constant" and set(references[d.path].values()) <= placed:
            top.setdefault((d.file, d.line), d)
            placed.add(d.path)
    rest = {(d.file, d.line): d for d in members if d.path not in placed}
    return [*top.values(), *rest.values()]


def _rewritten(definition: Definition, names: dict[str, str]) -> str:
    try:
        return rewrite(source_of(definition), definition.node, names)
    except ValueError as error:
        raise NameClashError(definition, str(error)) from None


def _renamed(steps: list[Step], names: dict[str, str]) -> list[Step]:
    """The example with the final names; untouched if they are the same."""
    if not names:
        return steps
    return [
        Step("\n".join(rewrite(parse(s.code), n, names) for n in ast.parse(s.code).body), s.want)
        for s in steps
    ]


def _laid_out(pieces: list[tuple[Definition, str]]) -> str:
    """Two blank lines around functions and classes, none between constants."""
    text, before = "", ""
    for definition, piece in pieces:
        together = before == definition.kind == "constant"
        text += ("" if not before else "\n" if together else "\n\n\n") + piece
        before = definition.kind
    return text


def _header(root: Definition, imports: str) -> str:
    needs = "只需要 PyTorch" if "torch" in imports else "只需要 Python 的标准库"
    shapes = "；注释里的元组是张量的形状" if "Tensor" in imports else ""
    return (
        f"# {root.summary}\n"
        "#\n"
        f"# 取自「{SITE}」，以 MIT 许可证发布：\n"
        f"# {relative(root)}\n"  # a line of its own, since it can be long
        f"# {needs}，可以直接运行{shapes}。\n"
    ) + (f"\n{imports}" if imports else "")


def _docstring_line(definition: Definition) -> int:
    body = getattr(definition.node, "body", [definition.node])
    return int(body[0].lineno) if definition.docstring else definition.line
