"""What a test file imports from `formulary`, and what each of its tests uses."""

import ast
from collections.abc import Iterator
from functools import cached_property

from formulary_site.definitions import PACKAGE, dotted


class TestFile:
    """One parsed test file."""

    __test__ = False  # or pytest collects it wherever it is imported

    def __init__(self, tree: ast.Module) -> None:
        self._tree = tree

    @cached_property
    def tests(self) -> list[ast.FunctionDef]:
        return [
            node
            for node in self._tree.body
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test")
        ]

    @cached_property
    def test_classes(self) -> list[int]:
        """Lines of the classes that pytest would collect."""
        return [
            node.lineno
            for node in self._tree.body
            if isinstance(node, ast.ClassDef) and node.name.startswith("Test")
        ]

    @cached_property
    def unrecorded_assertions(self) -> list[int]:
        """Lines that import `assert_close` by name: patching torch.testing misses those."""
        return [
            node.lineno
            for node in ast.walk(self._tree)
            if isinstance(node, ast.ImportFrom)
            and (node.module or "").startswith("torch.testing")
            and any(alias.name == "assert_close" for alias in node.names)
        ]

    def uses(self, node: ast.AST) -> set[str]:
        """Paths below the package that the code uses, through the file's own helpers too."""
        found: set[str] = set()
        seen: set[str] = set()
        pending = [node]
        while pending:
            for name in _dotted_names(pending.pop()):
                head, _, rest = name.partition(".")
                if head in self._imports:
                    target = f"{self._imports[head]}.{rest}".rstrip(".")
                    found.add(target.removeprefix(f"{PACKAGE}."))
                elif head not in seen:
                    seen.add(head)
                    pending += self._helpers.get(head, [])
        return found

    @cached_property
    def _imports(self) -> dict[str, str]:
        """Local name → full path, for whatever comes from the package."""
        names: dict[str, str] = {}
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if _is_ours(alias.name):
                        names[alias.asname or PACKAGE] = alias.name if alias.asname else PACKAGE
            elif isinstance(node, ast.ImportFrom) and _is_ours(node.module or ""):
                for alias in node.names:
                    names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        return names

    @cached_property
    def _helpers(self) -> dict[str, list[ast.AST]]:
        """The file's own functions, fixtures, classes and constants, by name."""
        names: dict[str, list[ast.AST]] = {}
        for node in self._tree.body:
            match node:
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                    names.setdefault(name, []).append(node)
                case ast.Assign(targets=targets, value=value):
                    for target in targets:
                        for inner in ast.walk(target):
                            if isinstance(inner, ast.Name):
                                names.setdefault(inner.id, []).append(value)
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    names.setdefault(name, []).append(value)
        return names


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == PACKAGE


def _dotted_names(node: ast.AST) -> Iterator[str]:
    """`a`, `a.b` and `a.b.c` for `a.b.c`; a parameter counts, for it may name a fixture."""
    for inner in ast.walk(node):
        match inner:
            case ast.Name(ctx=ast.Load()) | ast.Attribute():
                if name := dotted(inner):
                    yield name
            case ast.arg(arg=name):
                yield name
