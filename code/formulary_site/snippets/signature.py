"""Lays a signature out anew once its annotations became shorter."""

import ast
import re
import tokenize
from collections.abc import Iterable, Iterator

from formulary_site.snippets.source import Edit, Source, Token

WIDTH = 100  # the line length of pyproject.toml


def signature(
    source: Source,
    function: ast.FunctionDef | ast.AsyncFunctionDef,
    edits: list[Edit],
    comments: dict[int, str],
) -> Iterator[Edit]:
    """One parameter a line if any has a shape; else on one line if it fits now.

    Args:
        source: The module that holds the function.
        function: Whose signature to lay out.
        edits: What is changed inside it, annotations among them.
        comments: The shape behind each annotation, by the annotation's end. Those of parameters
            are placed here and taken out; that of the result moves behind the colon.
    """
    opening, closing, colon = _landmarks(source, function)
    inside = [token for token in source.tokens if opening.end <= token.start < closing.start]
    items = list(_items(inside))
    returned = [end for end in sorted(comments) if closing.end <= end <= colon.start]
    if returned:
        comments[colon.end] = ", ".join([comments.pop(end) for end in returned])
    tail = _flat(source.apply(edits, closing.start, colon.end))
    yield Edit(closing.start, colon.end, tail)
    indent = " " * function.col_offset
    if any(opening.end <= end <= closing.start for end in comments):
        lines = [
            f"{indent}    {line}"
            for item in items
            for line in _parameter(source, inside, item, edits, comments)
        ]
        yield Edit(opening.end, closing.start, "\n".join(["", *lines, indent]))
    elif opening.line != closing.line and not any(token.is_comment for token in inside):
        texts = [source.apply(edits, item[0].start, item[-1].end) for item in items]
        start, _ = source.span(function)
        head = indent + source.apply(edits, start, opening.end)
        one_line = head + ", ".join(texts) + tail
        width = len(one_line)
        if colon.end in comments:
            width += len(f"  # {comments[colon.end]}")
        ends_in_comma = [token.string for token in inside if not token.is_layout][-1:] == [","]
        if width <= WIDTH and not ends_in_comma and "\n" not in one_line:
            yield Edit(opening.end, closing.start, ", ".join(texts))


def _parameter(
    source: Source,
    inside: list[Token],
    item: list[Token],
    edits: list[Edit],
    comments: dict[int, str],
) -> Iterator[str]:
    """The lines of one parameter: comments above it, itself, its shape and comments beside it."""
    start, end = item[0].start, item[-1].end
    notes = [", ".join(comments.pop(place) for place in sorted(comments) if start <= place <= end)]
    above = list[str]()
    before = 0  # the line of the last parameter before this one
    for token in inside:
        if token.is_comment and item[0].line <= token.line <= item[-1].line:
            notes.append(token.string.lstrip("# "))
        elif token.is_comment and before < token.line < item[0].line:
            above.append(token.string)
        elif not token.is_layout and token.line < item[0].line:
            before = token.line
            above.clear()
    yield from above
    text = _flat(source.apply(edits, start, end))
    note = "；".join(filter(None, notes))
    yield f"{text},  # {note}" if note else f"{text},"


def _landmarks(source: Source, function: ast.stmt) -> tuple[Token, Token, Token]:
    """The brackets around the parameters, and the colon that ends the signature."""
    start, _ = source.span(function)
    depth, found = 0, list[Token]()
    for token in source.tokens:
        if token.start < start or token.type != tokenize.OP:
            continue
        depth -= token.string in ")]}"
        if depth == 0 and token.string in "():":
            found.append(token)
        if depth == 0 and token.string == ":":
            break
        depth += token.string in "([{"
    # later brackets, if any, stand in the annotation of the result
    return found[0], found[1], found[-1]


def _items(tokens: Iterable[Token]) -> Iterator[list[Token]]:
    """Split at the commas outside of inner brackets; layout belongs to no parameter."""
    depth, item = 0, list[Token]()
    for token in tokens:
        if token.is_layout:
            continue
        if token.type == tokenize.OP:
            depth += (token.string in "([{") - (token.string in ")]}")
        if token.string == "," and depth == 0:
            yield item
            item = []
        else:
            item.append(token)
    if item:
        yield item


def _flat(text: str) -> str:
    """An annotation that became short enough for one line; no other text is touched."""
    if "\n" not in text or "#" in text or "(" in text:
        return text
    text = re.sub(r",?\s*\n\s*\]", "]", text)
    text = re.sub(r"\[\s*\n\s*", "[", text)
    return re.sub(r"\s*\n\s*", " ", text)
