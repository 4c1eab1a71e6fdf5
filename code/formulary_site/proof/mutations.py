"""Small wrong versions of one definition: sign, operator, boundary, index, axis, constant, order.

Each is an edit of the text, at a place that the syntax tree tells, as somebody might mistype it.
What a reader's call doesn't depend on is left alone: docstrings, annotations, messages, imports.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from formulary_site.definitions import Definition

_OPERATORS: dict[type[ast.AST], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "//"),
    ast.Pow: ("**", "*"),
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.And: ("and", "or"),
    ast.Or: ("or", "and"),
}
_PAIRS = (
    ("cos", "sin"),
    ("float32", "float64"),
    ("floor", "ceil"),
    ("max", "min"),
    ("amax", "amin"),
    ("argmax", "argmin"),
    ("maximum", "minimum"),
    ("sum", "mean"),
    ("tril", "triu"),
    ("real", "imag"),
    ("zeros", "ones"),
    ("zeros_like", "ones_like"),
    ("cumsum", "cumprod"),
)
_TWINS = {one: other for pair in _PAIRS for one, other in (pair, pair[::-1])}
# fmt: off
# Dropping these changes the value, or should.
_DROPPED = {
    "abs", "conj", "cumprod", "cumsum", "exp", "expm1", "flip", "log", "log1p", "log_softmax",
    "logsumexp", "mean", "neg", "reciprocal", "relu", "roll", "round", "rsqrt", "sigmoid",
    "softmax", "sqrt", "square", "sum", "tanh", "to", "transpose", "tril", "triu",
}
# The order of their first two arguments doesn't matter.
_COMMUTATIVE = {
    "add", "addcmul", "addcmul_", "allclose", "dot", "eq", "equal", "gcd", "hypot", "isinstance",
    "lcm", "logaddexp", "max", "maximum", "min", "minimum", "mul", "swapaxes", "transpose",
}
# fmt: on
_JOINED = {"block_diag", "cat", "concat", "hstack", "meshgrid", "stack", "vstack"}

Edit = tuple[int, int, str]  # replace the text from byte to byte


@dataclass(frozen=True)
class Mutant:
    """One wrong version of one definition.

    Attributes:
        definition: Whose code was changed.
        line: First line that differs.
        before: That line as it is, without indentation.
        after: That line as changed.
        source: The whole module as changed.
    """

    definition: Definition
    line: int
    before: str
    after: str
    source: str


def mutants(definition: Definition) -> list[Mutant]:
    """All wrong versions of the definition, in source order, each one once."""
    source = definition.file.read_bytes()
    edits = _Edits(source)
    first, last = edits.span(definition.node)
    original = ast.dump(ast.parse(source[first:last]))
    found: dict[str, Mutant] = {}
    for start, end, text in sorted(edits.of(definition.node)):
        new = source[first:start] + text.encode() + source[end:last]
        try:
            same = ast.dump(ast.parse(new)) == original
        except SyntaxError:
            continue
        if not same:
            changed = (source[:first] + new + source[last:]).decode()
            line = source.count(b"\n", 0, start)
            before, after = (
                whole.splitlines()[line].strip() for whole in (source.decode(), changed)
            )
            found.setdefault(changed, Mutant(definition, line + 1, before, after, changed))
    return list(found.values())


class _Edits:
    """Finds the edits in one file's syntax tree."""

    def __init__(self, source: bytes) -> None:
        self._source = source
        self._lines = [0]
        for line in source.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))

    def of(self, node: ast.AST) -> Iterator[Edit]:
        """Every edit of the node and of what is inside it."""
        yield from self._at(node)
        for child in _children(node):
            yield from self.of(child)

    def span(self, node: ast.AST) -> tuple[int, int]:
        """The node's first byte and the one after its last."""
        assert isinstance(node, ast.expr | ast.stmt | ast.keyword)
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self._lines[node.lineno - 1] + node.col_offset,
            self._lines[node.end_lineno - 1] + node.end_col_offset,
        )

    def _text(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self._source[start:end].decode()

    def _between(self, left: ast.AST, operator: ast.AST, right: ast.AST) -> Iterator[Edit]:
        """Swap the operator that stands between two operands."""
        if type(operator) in _OPERATORS:
            old, new = _OPERATORS[type(operator)]
            start = self._source.find(old.encode(), self.span(left)[1], self.span(right)[0])
            if start >= 0:
                yield start, start + len(old), new

    def _swap(self, one: ast.AST, other: ast.AST) -> Iterator[Edit]:
        """Exchange two expressions."""
        (start, end), (start_2, end_2) = self.span(one), self.span(other)
        gap = self._source[end:start_2].decode()
        yield start, end_2, self._text(other) + gap + self._text(one)

    def _replace(self, node: ast.AST, text: str) -> Iterator[Edit]:
        yield *self.span(node), text

    def _negate(self, node: ast.expr) -> Iterator[Edit]:
        # -True is as true as True; a sign that stands there already is dropped elsewhere
        truth = isinstance(node, ast.Compare | ast.BoolOp | ast.UnaryOp)
        if not truth:
            yield from self._replace(node, f"-({self._text(node)})")

    def _at(self, node: ast.AST) -> Iterator[Edit]:
        match node:
            case ast.BinOp(left=left, op=ast.MatMult(), right=right):
                yield from self._swap(left, right)
            case ast.BinOp(left=left, op=operator, right=right):
                yield from self._between(left, operator, right)
            case ast.AugAssign(target=target, op=operator, value=value):
                yield from self._between(target, operator, value)
            case ast.BoolOp(op=operator, values=values):
                for left, right in pairwise(values):
                    yield from self._between(left, operator, right)
            case ast.Compare(left=first, ops=comparisons, comparators=others):
                operands = [first, *others]
                for left, comparison, right in zip(operands, comparisons, others, strict=False):
                    yield from self._between(left, comparison, right)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(value))):
                yield from self._replace(node, str(1 - value))
                yield from self._replace(node, str(-1 - value))
            case ast.UnaryOp(op=ast.USub() | ast.Not(), operand=operand):
                yield from self._replace(node, f"({self._text(operand)})")
            case ast.Constant(value=value):
                for new in _other_constants(value):
                    yield from self._replace(node, new)
            case ast.Return(value=ast.Tuple(elts=elements)):
                for one, other in pairwise(elements):
                    yield from self._swap(one, other)
                for element in elements:
                    yield from self._negate(element)
            case ast.Return(value=ast.expr() as value):
                yield from self._negate(value)
            case ast.If(test=test, body=[ast.Raise()], orelse=[]):
                yield from self._replace(test, f"False and ({self._text(test)})")
            case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
                yield from self._replace(test, f"not ({self._text(test)})")
            case ast.Slice(lower=None, upper=ast.expr() as bound, step=None):
                yield from self._replace(node, f"{self._text(bound)}:")
            case ast.Slice(lower=ast.expr() as bound, upper=None, step=None):
                yield from self._replace(node, f":{self._text(bound)}")
            case ast.Attribute(value=value, attr="T" | "mT" | "H" | "mH"):
                yield from self._replace(node, self._text(value))
            case ast.Attribute(attr=name) if name in _TWINS:
                end = self.span(node)[1]
                yield end - len(name), end, _TWINS[name]
            case ast.Call():
                yield from self._call(node)

    def _call(self, node: ast.Call) -> Iterator[Edit]:
        function, arguments = node.func, node.args
        name = function.attr if isinstance(function, ast.Attribute) else ""
        if isinstance(function, ast.Name):
            name = function.id
            if name in {"max", "min"}:
                yield from self._replace(function, _TWINS[name])
        if name in _JOINED and arguments and isinstance(arguments[0], ast.Tuple | ast.List):
            parts = arguments[0].elts
            for one, other in pairwise(parts):
                yield from self._swap(one, other)
        elif name == "einsum" and arguments:
            yield from self._einsum(arguments[0])
        elif len(arguments) >= 2 and name not in _COMMUTATIVE | _JOINED:
            yield from self._swap(arguments[0], arguments[1])
        if isinstance(function, ast.Attribute) and name in _DROPPED:
            # A device is always the CPU here; of torch.exp(x) the argument stays, of x.exp() the x
            if isinstance(function.value, ast.Name) and function.value.id in {"torch", "math"}:
                if len(arguments) == 1:
                    yield from self._replace(node, f"({self._text(arguments[0])})")
            elif not (name == "to" and "device" in self._text(node)):
                yield from self._replace(node, self._text(function.value))

    def _einsum(self, subscripts: ast.expr) -> Iterator[Edit]:
        """Transpose the result."""
        text = self._text(subscripts)
        swapped = re.sub(r"([A-Za-z])(\s*)([A-Za-z])(\s*[\"'])$", r"\3\2\1\4", text)
        if "->" in text and swapped != text:
            yield from self._replace(subscripts, swapped)


def _other_constants(value: object) -> list[str]:
    if isinstance(value, bool):
        return [str(not value)]
    if isinstance(value, int):
        return [str(value + 1), str(value - 1)]
    if isinstance(value, float):
        return [repr(value * 2 if value else 1.0)]
    if isinstance(value, complex):
        return [f"(-{value!r})"]
    return []


def _children(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.FunctionDef(args=arguments, body=body):
            yield from (default for default in arguments.defaults)
            yield from (default for default in arguments.kw_defaults if default)
            yield from body
        case ast.ClassDef(body=body):
            yield from body
        case ast.AnnAssign(value=value):
            yield from [value] if value else []
        case ast.Raise() | ast.Import() | ast.ImportFrom() | ast.JoinedStr():
            pass
        case ast.Assert(test=test):
            yield test
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int())):
            pass  # -1 is one constant
        case _:
            yield from ast.iter_child_nodes(node)
