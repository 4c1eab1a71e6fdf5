"""Which imports a runnable version needs, and that they are torch and the standard library."""

import ast
import builtins
import symtable
import sys
from collections.abc import Iterable
from itertools import groupby

from formulary_site.definitions import PACKAGE, Definition
from formulary_site.problems import Problem, SourceError
from formulary_site.snippets.names import RENAME, reads
from formulary_site.snippets.problems import problem, source_of
from formulary_site.snippets.source import Import, bound_by


def check_inner_imports(members: Iterable[Definition]) -> None:
    """No forbidden import hides inside a function.

    Raises:
        SourceError: One does.
    """
    problems = [
        _forbidden(definition, bound)
        for definition in members
        for node in ast.walk(definition.node)
        for bound in bound_by(node)
        if not is_allowed(bound.module)
    ]
    if problems:
        raise SourceError(problems)


def import_block(members: list[Definition], from_example: list[Import], body: str) -> str:
    """The import statements of the file, or ''.

    Args:
        members: The definitions in the file; the last is the one it is about.
        from_example: What the example imports itself.
        body: The file without its imports.

    Raises:
        SourceError: A name is imported from elsewhere, means two things, or nothing.
    """
    root = members[-1]
    known: dict[str, dict[Import, Definition]] = {}
    for definition in members:
        read = reads(definition.node)
        for bound in source_of(definition).imports:
            if bound.local in read and bound.module.partition(".")[0] != PACKAGE:
                known.setdefault(bound.local, {})[bound] = definition
    assigned, free = _module_names(body)
    problems = [
        _ambiguous(root, f"assigns to `{name}` in its example, which also names an import")
        for name in sorted(assigned & known.keys())
    ]
    for bound in from_example:
        known.setdefault(bound.local, {})[bound] = root
    # the example sees what its module imports, and torch
    for bound in (*source_of(root).imports, Import("torch", "torch", "", root.line)):
        known.setdefault(bound.local, {bound: root})
    needed: dict[tuple[str, str], Import] = {}
    for name in sorted(free):
        candidates = known.get(name, {})
        targets = sorted({bound.target for bound in candidates})
        if not targets and not hasattr(builtins, name):
            mend = "define or import it at the top of the module"
            problems.append(
                problem(root, root.line, "snippet-name", f"needs an unknown name `{name}`", mend)
            )
        elif len(targets) > 1:
            message = f"needs `{name}` to be {' and '.join(targets)} at once"
            problems.append(_ambiguous(root, message))
        for bound, definition in candidates.items():
            # two spellings of one import are one; `import a` and `import a.b` are two
            same = bound.module if bound.target == bound.local else bound.target
            needed.setdefault((bound.local, same), bound)
            if not is_allowed(bound.module):
                problems.append(_forbidden(definition, bound))
    if problems:
        raise SourceError(problems)
    return _written(needed.values())


def is_allowed(module: str) -> bool:
    root = module.partition(".")[0]
    return root == "torch" or root in sys.stdlib_module_names


def _module_names(code: str) -> tuple[set[str], set[str]]:
    """Names that the top level binds, and names looked up there that nothing binds."""
    top = symtable.symtable(code, "snippet", "exec")
    assigned = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_assigned()}
    looked_up = set[str]()
    tables: list[symtable.SymbolTable] = [top]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (symbol.is_global() or table is top):
                looked_up.add(symbol.get_name())
    return assigned, looked_up - assigned


def _written(needed: Iterable[Import]) -> str:
    """Sorted as ruff sorts them: standard library, then torch."""
    sections = []
    for is_torch in (False, True):
        mine = [bound for bound in needed if _is_torch(bound) is is_torch]
        lines = []
        for bound in sorted((b for b in mine if not b.name), key=lambda b: b.module):
            lines.append(f"import {bound.module}" + _renaming(bound, bound.module))
        named = sorted((b for b in mine if b.name), key=lambda b: (b.module, _order(b.name)))
        for module, group in groupby(named, key=lambda b: b.module):
            names = [b.name + _renaming(b, b.name) for b in group]
            lines.append(f"from {module} import {', '.join(names)}")
        if lines:
            sections.append("\n".join(lines) + "\n")
    return "\n".join(sections)


def _renaming(bound: Import, name: str) -> str:
    return "" if bound.local in (name, bound.target) else f" as {bound.local}"


def _is_torch(bound: Import) -> bool:
    return bound.module.partition(".")[0] == "torch"


def _order(name: str) -> tuple[int, str]:
    """CONSTANTS, then Classes, then functions."""
    return (0 if name.isupper() else 1 if name[:1].isupper() else 2), name


def _forbidden(definition: Definition, bound: Import) -> Problem:
    message = f"needs `{bound.module}`, which a runnable version cannot import"
    mend = "use torch and the standard library"
    if bound.module.partition(".")[0] == "jaxtyping":
        message = f"uses `{bound.local}` of jaxtyping in a way that has no plain form"
        mend = 'write shapes as `Float[Tensor, "…"]`'
    return problem(definition, bound.line, "snippet-import", message, mend)


def _ambiguous(definition: Definition, message: str) -> Problem:
    return problem(definition, definition.line, "snippet-name", message, RENAME)
