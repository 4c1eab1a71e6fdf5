"""Rewrites one definition in place, so that the author's layout and comments survive."""

import ast
import re
from collections.abc import Iterator, Mapping

from formulary_site.definitions import dotted
from formulary_site.snippets.signature import signature
from formulary_site.snippets.source import Edit, Source

_KINDS = (("Bool", "布尔"), ("Complex", "复数"), ("Int", "整数"), ("UInt", "整数"))


def rewrite(source: Source, node: ast.stmt, names: Mapping[str, str]) -> str:
    """The text of a statement without docstrings and jaxtyping, with `names` replaced.

    Args:
        source: The module that holds the statement.
        node: A top-level statement; its decorators and the comments right above it belong to it.
        names: Name as written, perhaps dotted → name to write instead.

    Raises:
        ValueError: A name stands where it cannot be replaced.
    """
    shapes = list(_shapes(source, node))
    comments = {source.span(subscript)[1]: shape for subscript, _, shape in shapes}
    edits = [*_docstrings(source, node), *_names(source, node, names)]
    edits += [Edit(*source.span(subscript), tensor) for subscript, tensor, _ in shapes]
    for function in ast.walk(node):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            edits += list(signature(source, function, edits, comments))
    edits += list(_line_ends(source, comments))
    first = min(part.lineno for part in (node, *getattr(node, "decorator_list", ())))
    while first > 1 and source.line(first - 1).startswith("#"):
        first -= 1
    assert node.end_lineno is not None
    return source.apply(edits, source.starts[first - 1], source.starts[node.end_lineno]).rstrip()


def shape_text(kind: str, axes: str) -> str:
    """`Int`, `*batch T` → `(*batch, T) 整数`; floating point goes without saying."""
    parts = [re.sub(r"[#?]", "", axis) for axis in axes.split()]
    shape = f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"
    word = next((word for prefix, word in _KINDS if kind.startswith(prefix)), "")
    return f"{shape} {word}".rstrip()


def _shapes(source: Source, node: ast.AST) -> Iterator[tuple[ast.Subscript, str, str]]:
    """Every `Float[Tensor, "…"]`, its array type and its shape as a comment says it."""
    targets = {bound.local: bound.target for bound in source.imports}
    for part in ast.walk(node):
        if not isinstance(part, ast.Subscript):
            continue
        head, _, rest = dotted(part.value).partition(".")
        full = f"{targets.get(head, '')}.{rest}".rstrip(".")
        match part.slice:
            case ast.Tuple(elts=[tensor, ast.Constant(value=str(axes))]):
                if full.startswith("jaxtyping."):
                    start, end = source.span(tensor)
                    text = source.text[start:end].decode()
                    yield part, text, shape_text(full.removeprefix("jaxtyping."), axes)


def _names(source: Source, node: ast.AST, names: Mapping[str, str]) -> Iterator[Edit]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in names:
        start, _ = source.span(node)
        name = next(t for t in source.tokens if t.start > start and t.string == node.name)
        yield Edit(name.start, name.end, names[node.name])
    for part in ast.walk(node):
        written = dotted(part)
        if isinstance(part, ast.expr) and written in names:
            start, end = source.span(part)
            # Python 3.11 misplaces what stands in an f-string
            if source.text[start:end].decode(errors="replace") != written:
                raise ValueError(f"has `{written}` in an f-string, where it cannot be replaced")
            yield Edit(start, end, names[written])


def _docstrings(source: Source, node: ast.AST) -> Iterator[Edit]:
    for part in ast.walk(node):
        if not isinstance(part, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            continue
        first = part.body[0]
        match first:
            case ast.Expr(value=ast.Constant(value=str())):
                if len(part.body) == 1:
                    yield Edit(*source.span(first), "pass")
                    continue
                last = first.end_lineno or first.lineno
                while not source.line(last + 1).strip():
                    last += 1
                yield Edit(source.starts[first.lineno - 1], source.starts[last], "")


def _line_ends(source: Source, comments: Mapping[int, str]) -> Iterator[Edit]:
    """Shapes at the ends of the lines that their annotations end on."""
    lines: dict[int, list[str]] = {}
    for place, shape in sorted(comments.items()):
        number = sum(start < place for start in source.starts)
        lines.setdefault(number, []).append(shape)
    for number, shapes in lines.items():
        note, end = ", ".join(shapes), source.starts[number] - 1
        old = [token for token in source.tokens if token.line == number and token.is_comment]
        if old:
            yield Edit(old[0].start, end, f"# {note}；{old[0].string.lstrip('# ')}")
        else:
            yield Edit(end, end, f"  # {note}")
