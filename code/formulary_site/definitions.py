"""What the package `formulary` defines, read from its source without importing it."""

import ast
import builtins
import hashlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import griffe

from formulary_site.project import Project

PACKAGE = "formulary"


@dataclass(frozen=True)
class Definition:
    """One top-level function, class or constant of the package.

    Attributes:
        path: Dotted path below the package, e.g. `rope.rotation.rotate_interleaved`.
        kind: What the path names.
        file: Absolute path of the module.
        line: Line of the `def` or `class`, from 1; a decorator above it does not count.
        end_line: Last line.
        node: Syntax tree, docstring included.
        text: The module's lines from `line` to `end_line`.
        docstring: Cleaned docstring, or ''.
    """

    path: str
    kind: Literal["function", "class", "constant"]
    file: Path
    line: int
    end_line: int
    node: ast.stmt
    text: str
    docstring: str

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]

    @property
    def module(self) -> str:
        return f"{PACKAGE}.{self.path}".rpartition(".")[0]

    @property
    def summary(self) -> str:
        return self.docstring.partition("\n")[0]

    @property
    def is_public(self) -> bool:
        return not any(part.startswith("_") for part in self.path.split("."))

    @cached_property
    def source(self) -> str:
        """Signature and body as written, comments kept, without docstrings."""
        text = dict(enumerate(self.text.splitlines(), self.line))
        dropped: set[int] = set()
        for node in ast.walk(self.node):
            if (string := _docstring_node(node)) and string.end_lineno is not None:
                end = string.end_lineno
                blank_after = end + 1 in text and not text[end + 1].strip()  # as after a class's
                dropped.update(range(string.lineno, end + 1 + blank_after))
        lines = [line for number, line in text.items() if number not in dropped]
        return inspect.cleandoc("\n" + "\n".join(lines)).rstrip() + "\n"


class Definitions:
    """All definitions of a project's package, and what each one needs."""

    def __init__(self, modules: dict[str, griffe.Module], found: dict[str, Definition]) -> None:
        self._modules = modules
        self._found = found
        # A build asks for each of these many times, and nothing here changes after loading
        self._known_names: dict[str, dict[str, str]] = {}
        self._known_digests: dict[str, str] = {}

    @classmethod
    def load(cls, project: Project) -> "Definitions":
        """Read every module of the package; nothing is imported or run."""
        package = griffe.load(
            PACKAGE, search_paths=[project.code], allow_inspection=False, resolve_aliases=True
        )
        assert isinstance(package, griffe.Module)
        modules = {module.path: module for module in _walk(package)}
        found: dict[str, Definition] = {}
        for module in modules.values():
            if not isinstance(module.filepath, Path):  # a namespace folder holds no definitions
                continue
            lines = module.filepath.read_text("utf-8").splitlines()
            for node in ast.parse("\n".join(lines)).body:
                for name, kind in _defined(node):
                    path = f"{module.path}.{name}".removeprefix(f"{PACKAGE}.")
                    docstring = ""
                    if isinstance(node, ast.FunctionDef | ast.ClassDef):
                        docstring = ast.get_docstring(node) or ""
                    end = node.end_lineno or node.lineno
                    text = "\n".join(lines[node.lineno - 1 : end])
                    found[path] = Definition(
                        path, kind, module.filepath, node.lineno, end, node, text, docstring
                    )
        return cls(modules, found)

    def __getitem__(self, path: str) -> Definition:
        return self._found[path]

    def get(self, path: str) -> Definition | None:
        """The definition of that path, or None."""
        return self._found.get(path)

    def __contains__(self, path: object) -> bool:
        return path in self._found

    def __iter__(self) -> Iterator[Definition]:
        return iter(self._found.values())

    def module_file(self, path: str) -> Path | None:
        """The file of the module `formulary.path`, or None if it is none."""
        module = self._modules.get(f"{PACKAGE}.{path}")
        file = module.filepath if module else None
        return file if isinstance(file, Path) and file.stem != "__init__" else None

    def public(self) -> list[Definition]:
        """The functions and classes that readers may meet; a figure module's are drawings."""
        return [
            definition
            for definition in self
            if definition.is_public
            and definition.kind != "constant"
            and not definition.module.endswith(".figures")
        ]

    def references(self, path: str) -> dict[str, str]:
        """Names that the definition uses from the same package.

        Returns:
            The name as written (`inverse_frequencies`, `frequencies.inverse_frequencies`) and
            the path of the definition behind it.
        """
        return {
            name: target.removeprefix(f"{PACKAGE}.")
            for name, target in self._names(path).items()
            if target.removeprefix(f"{PACKAGE}.") in self._found
        }

    def imports(self, path: str) -> dict[str, str]:
        """Names that the definition uses from other packages: `Tensor` → `torch.Tensor`."""
        return {
            name: target
            for name, target in self._names(path).items()
            if target.partition(".")[0] != PACKAGE
        }

    def closure(self, path: str) -> tuple[Definition, ...]:
        """The definition and all of the package that it needs, dependencies first."""
        ordered: dict[str, Definition] = {}
        pending: set[str] = set()

        def visit(current: str) -> None:
            if current in pending:
                return
            pending.add(current)
            for needed in sorted(self.references(current).values()):
                visit(needed)
            ordered[current] = self._found[current]

        visit(path)
        return tuple(ordered.values())

    def digest(self, path: str) -> str:
        """Hash of the closure; docstrings, comments and layout don't count."""
        if path in self._known_digests:
            return self._known_digests[path]
        text = "\n".join(
            f"{definition.path}\n{ast.unparse(_without_docstrings(definition.node))}"
            for definition in self.closure(path)
        )
        digest = self._known_digests[path] = hashlib.sha256(text.encode()).hexdigest()[:16]
        return digest

    def _names(self, path: str) -> dict[str, str]:
        """Every module-level name that the definition reads → the full path of its target."""
        if path in self._known_names:
            return self._known_names[path]
        definition = self._found[path]
        module = self._modules[definition.module]
        names = self._known_names[path] = {}
        for dotted in _dotted_names(definition.node):
            head, _, rest = dotted.partition(".")
            if head == definition.name or (head not in module.members and hasattr(builtins, head)):
                continue
            member = module.members.get(head)
            if member is None:
                continue
            target = member.target_path if isinstance(member, griffe.Alias) else member.path
            # `frequencies.inverse_frequencies` reaches a definition through an imported module
            full = f"{target}.{rest}" if rest else target
            if target in self._modules and rest:
                attribute = rest.partition(".")[0]
                names[f"{head}.{attribute}"] = f"{target}.{attribute}"
            else:
                names[head] = target if full != target else full
        return names


def _walk(module: griffe.Module) -> Iterator[griffe.Module]:
    yield module
    for name in sorted(module.modules):
        yield from _walk(module.modules[name])


def _defined(node: ast.stmt) -> Iterator[tuple[str, Literal["function", "class", "constant"]]]:
    match node:
        case ast.FunctionDef(name=name):
            yield name, "function"
        case ast.ClassDef(name=name):
            yield name, "class"
        case ast.Assign(targets=targets):
            yield from ((t.id, "constant") for t in targets if isinstance(t, ast.Name))
        case ast.AnnAssign(target=ast.Name(id=name)):
            yield name, "constant"


def dotted(node: ast.AST) -> str:
    """`a.b.c` for a chain of attributes that begins with a name, else ''."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (head := dotted(node.value)):
        return f"{head}.{node.attr}"
    return ""


def _dotted_names(node: ast.AST) -> Iterator[str]:
    """Names and whole attribute chains, in source order."""
    if name := dotted(node):
        yield name
    else:
        for child in ast.iter_child_nodes(node):
            yield from _dotted_names(child)


def _docstring_node(node: ast.AST) -> ast.Expr | None:
    if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
        match node.body[0]:
            case ast.Expr(value=ast.Constant(value=str())) as first:
                return first
    return None


def _without_docstrings(node: ast.stmt) -> ast.stmt:
    copy = ast.parse(ast.unparse(node)).body[0]
    for inner in ast.walk(copy):
        if _docstring_node(inner):
            assert isinstance(inner, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef)
            inner.body = inner.body[1:] or [ast.Pass()]
    return copy
