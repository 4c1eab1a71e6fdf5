"""Gives each definition of a runnable version a name that is free in the one flat file."""

import ast
from collections.abc import Iterable, Mapping

from formulary_site.definitions import Definition, dotted

RENAME = "rename one of the two"


class NameClashError(Exception):
    """A name means two things, and no other name is free."""

    def __init__(self, definition: Definition, message: str) -> None:
        super().__init__(message)
        self.definition, self.message = definition, message


def final_names(
    closure: Iterable[Definition],
    references: Mapping[str, Mapping[str, str]],
    example: Iterable[ast.stmt],
) -> dict[str, str]:
    """Each definition's name in the file: its own, or `module_name` where that is taken.

    Args:
        closure: The definitions of the file; the last keeps its name.
        references: For each of them, and for '' (the example), the names as written → paths.
        example: The example's statements.

    Raises:
        NameClashError: Neither name is free.
    """
    definitions = list(closure)
    read = {d.path: _names(d.node, ast.Load) for d in definitions}
    bound = {d.path: _names(d.node, ast.Store) - {d.name} for d in definitions}
    read[""] = set().union(*(_names(node, ast.Load) for node in example))
    bound[""] = set().union(*(_names(node, ast.Store) for node in example))

    def free(name: str, path: str) -> bool:
        for user, known in references.items():
            # a definition that the user calls so gets a name of its own; an import would not
            ours = name in known or user.rpartition(".")[2] == name
            if name in read[user] and name not in bound[user] and not ours:
                return False
            # `module.name` must not become a `name` that the user binds
            if name in bound[user] and (path in known.values() or not user):
                return False
        return True

    taken: dict[str, str] = {}
    for definition in reversed(definitions):
        leaf = definition.module.rpartition(".")[2]
        stem = definition.name.lstrip("_")
        longer = f"{leaf.upper() if stem.isupper() else leaf}_{stem}"
        choices = [definition.name]
        if definition is not definitions[-1]:
            choices.append(definition.name[: -len(stem)] + longer)
        name = next((n for n in choices if n not in taken and free(n, definition.path)), None)
        if name is None:
            raise NameClashError(
                definition, f"shares the name `{definition.name}` with something else in the file"
            )
        taken[name] = definition.path
    return {path: name for name, path in taken.items()}


def replacements(
    definition: Definition | None, known: Mapping[str, str], final: Mapping[str, str]
) -> dict[str, str]:
    """Name as written → name to write, where the two differ.

    Raises:
        NameClashError: A name to replace is also bound inside the definition.
    """
    changed = {written: final[path] for written, path in known.items() if written != final[path]}
    if definition is not None:
        if final[definition.path] != definition.name:
            changed[definition.name] = final[definition.path]
        for name in _names(definition.node, ast.Store) - {definition.name}:
            if name in changed:
                raise NameClashError(
                    definition, f"binds `{name}`, which the file needs to call otherwise"
                )
    return changed


def reads(node: ast.AST) -> set[str]:
    """Names that a statement reads, whatever binds them."""
    return _names(node, ast.Load)


def chains(node: ast.AST) -> set[str]:
    """Names and dotted names that a statement reads, each with all its beginnings."""
    found = {dotted(part) for part in ast.walk(node)}
    return found - {""}


def _names(node: ast.AST, context: type[ast.expr_context]) -> set[str]:
    """Bare names that are read (`Load`) or bound (`Store`) anywhere inside."""
    found = set[str]()
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and isinstance(part.ctx, context):
            found.add(part.id)
        if context is ast.Load:
            continue
        match part:
            case ast.arg(arg=name):
                found.add(name)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                found.add(name)
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                found.update((a.asname or a.name).partition(".")[0] for a in names)
    return found
