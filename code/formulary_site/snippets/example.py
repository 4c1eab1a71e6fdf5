"""Turns the example in a docstring into plain code with its output as comments."""

import ast
import doctest
import re
from dataclasses import dataclass

from formulary_site.snippets.signature import WIDTH
from formulary_site.snippets.source import Import, bound_by

TITLE = "示例"
_MARK = f"# {TITLE}"
_FIRST, _NEXT = "# → ", "#   "
_DIRECTIVE = re.compile(r"\s*#\s*doctest:.*")


class ExampleError(Exception):
    """The example cannot be shown; `line` counts from the docstring's first line, 0."""

    def __init__(self, rule: str, line: int, message: str, mend: str) -> None:
        super().__init__(message)
        self.rule, self.line, self.message, self.mend = rule, line, message, mend


@dataclass(frozen=True)
class Step:
    """One statement, and what it prints ('' if nothing)."""

    code: str
    want: str


def read_example(docstring: str) -> list[Step]:
    """The steps of the section `示例:`.

    Raises:
        ExampleError: There is none, or it shows no output.
    """
    lines = docstring.splitlines()
    first = next((n for n, line in enumerate(lines) if re.match(rf"\s*{TITLE}[:：]", line)), None)
    mend = f"add a section `{TITLE}:` with one small doctest, `>>> …` and what it prints"
    if first is None:
        raise ExampleError("missing-example", 0, f"has no section `{TITLE}:`", mend)
    margin = len(lines[first]) - len(lines[first].lstrip())
    body = list[str]()
    for line in lines[first + 1 :]:
        if line.strip() and len(line) - len(line.lstrip()) <= margin:
            break
        body.append(line)
    try:
        parsed = doctest.DocTestParser().get_examples("\n".join(body) + "\n")
    except ValueError as error:
        raise ExampleError("snippet-example", first, str(error), "mend the doctest") from None
    if not any(step.want.strip(" .\n") for step in parsed):
        raise ExampleError("missing-example", first, "has an example that shows no output", mend)
    for step in parsed:
        place = first + 1 + step.lineno
        if step.exc_msg is not None:
            message = "has an example that ends in an error"
            raise ExampleError("snippet-example", place, message, "show a call that succeeds")
        try:
            ast.parse(step.source)
        except SyntaxError as error:
            raise ExampleError("snippet-example", place, str(error), "mend the doctest") from None
    return [Step(_DIRECTIVE.sub("", step.source.rstrip()), step.want) for step in parsed]


def imported(steps: list[Step]) -> list[Import]:
    """What the example imports itself; such lines go to the top of the file."""
    nodes = [node for step in steps for node in ast.parse(step.code).body]
    return [bound for node in nodes for bound in bound_by(node)]


def plain_code(steps: list[Step]) -> str:
    """The steps as a script; what it prints stands below each as `# → …`."""
    lines, after_definition = [_MARK], False
    for step in steps:
        body = ast.parse(step.code).body
        if any(isinstance(node, ast.Import | ast.ImportFrom) for node in body):
            continue
        defines = any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in body)
        if after_definition or (defines and len(lines) > 1):
            lines += ["", ""]
        after_definition = defines
        lines.append(_printing(step) if step.want else step.code)
        for number, line in enumerate(step.want.splitlines()):
            shown = "" if line.strip() == "<BLANKLINE>" else line
            lines.append(((_NEXT if number else _FIRST) + shown).rstrip())
    return "\n".join(lines) + "\n"


def expected_output(code: str) -> str:
    """What a runnable version says it prints: its comments `# → …`."""
    lines, inside = list[str](), False
    for line in code.partition(f"\n{_MARK}\n")[2].splitlines():
        if line.startswith(_FIRST.rstrip()):
            inside = True
        elif not line.startswith("#"):
            inside = False
        if inside:
            lines.append(line[len(_FIRST) :])
    return "".join(f"{line}\n" for line in lines)


def _printing(step: Step) -> str:
    """An expression's value is printed, as a doctest would; a statement prints by itself."""
    node = ast.parse(step.code).body[0]
    if not isinstance(node, ast.Expr):
        return step.code
    value = node.value
    if isinstance(value, ast.Call) and getattr(value.func, "id", "") == "print":
        return step.code
    text, comment = _split(step.code, node)
    # a doctest shows the repr; it differs from what `print` shows for strings alone
    if step.want.startswith(("'", '"')):
        text = f"repr({text})"
    if isinstance(value, ast.Tuple) and len(_arguments(text)) > 1:
        text = f"({text})"
    if "\n" in text or len(text) + len("print()") + len(comment) > WIDTH:
        return "print(\n    " + text.replace("\n", "\n    ") + f"\n){comment}"
    return f"print({text}){comment}"


def _arguments(text: str) -> list[ast.expr]:
    call = ast.parse(f"print({text})", mode="eval").body
    assert isinstance(call, ast.Call)
    return call.args


def _split(code: str, node: ast.stmt) -> tuple[str, str]:
    """The statement's text and what stands behind it (a comment)."""
    assert node.end_lineno is not None
    lines = code.splitlines()
    last = lines[node.end_lineno - 1]
    end = len(last.encode()[: node.end_col_offset].decode())
    return "\n".join([*lines[: node.end_lineno - 1], last[:end]]), last[end:].rstrip()
