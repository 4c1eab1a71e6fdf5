"""A module's text by byte offsets, as the syntax tree counts them, and edits of it."""

import ast
import io
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class Import:
    """One name that an import statement binds."""

    local: str
    module: str
    name: str  # '' for `import module`
    line: int

    @property
    def target(self) -> str:
        """What `local` stands for: `import a.b` binds `a`, `import a.b as c` binds `a.b`."""
        if self.name:
            return f"{self.module}.{self.name}"
        root = self.module.partition(".")[0]
        return root if self.local == root else self.module


@dataclass(frozen=True)
class Token:
    """A token with its place in bytes from the start of the module."""

    type: int
    string: str
    start: int
    end: int
    line: int

    @property
    def is_comment(self) -> bool:
        return self.type == tokenize.COMMENT

    @property
    def is_layout(self) -> bool:
        return self.type in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE)


@dataclass(frozen=True)
class Edit:
    """Put `text` in place of what stands from `start` to `end`."""

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Source:
    """A module: its bytes, the offset of each line, its tokens and top-level imports."""

    text: bytes
    starts: tuple[int, ...]
    tokens: tuple[Token, ...]
    imports: tuple[Import, ...]

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = self.starts[node.lineno - 1] + node.col_offset
        return start, self.starts[node.end_lineno - 1] + node.end_col_offset

    def line(self, number: int) -> str:
        return self.text[self.starts[number - 1] : self.starts[number]].decode().rstrip("\n")

    def apply(self, edits: Iterable[Edit], start: int, end: int) -> str:
        """The text between two places, edited; a wider edit wins over those inside it."""
        pieces, place = list[bytes](), start
        inside = [edit for edit in edits if start <= edit.start and edit.end <= end]
        for edit in sorted(inside, key=lambda edit: (edit.start, -edit.end)):
            if edit.start >= place:
                pieces += [self.text[place : edit.start], edit.text.encode()]
                place = edit.end
        return b"".join([*pieces, self.text[place:end]]).decode()


@lru_cache(maxsize=256)
def parse(text: str) -> Source:
    """Split a module into tokens and imports."""
    data = ("\n".join(text.splitlines()) + "\n").encode()  # as Definitions reads it
    lines = data.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))

    def offset(place: tuple[int, int]) -> int:
        number, column = place
        if number > len(lines):
            return starts[-1]
        return starts[number - 1] + len(lines[number - 1].decode()[:column].encode())

    tokens = tuple(
        Token(token.type, token.string, offset(token.start), offset(token.end), token.start[0])
        for token in tokenize.tokenize(io.BytesIO(data).readline)
        if token.type != tokenize.ENCODING
    )
    imports = tuple(bound for node in ast.parse(data).body for bound in bound_by(node))
    return Source(data, tuple(starts), tokens, imports)


def bound_by(node: ast.AST) -> Iterator[Import]:
    """The names that an import statement binds; nothing for other nodes."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            local = alias.asname or alias.name.partition(".")[0]
            yield Import(local, alias.name, "", node.lineno)
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            module = "." * node.level + (node.module or "")
            yield Import(alias.asname or alias.name, module, alias.name, node.lineno)
