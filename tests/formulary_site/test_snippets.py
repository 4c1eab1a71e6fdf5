"""How definitions become files of their own, and what is refused."""

from pathlib import Path

import pytest

from formulary_site.definitions import Definitions
from formulary_site.problems import Problem, SourceError
from formulary_site.project import Project
from formulary_site.snippets.builder import all_runnable, runnable
from formulary_site.snippets.example import expected_output
from formulary_site.snippets.rewrite import shape_text

IMPORTS = """
import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
"""
EXAMPLE = '    """一。\n\n    示例:\n        >>> {call}\n        {want}\n    """\n'


def load(root: Path, **modules: str) -> Definitions:
    """A package `formulary` with a subject `demo` that holds these modules."""
    folder = root / "code" / "formulary" / "demo"
    folder.mkdir(parents=True)
    for empty in (folder.parent, folder):
        (empty / "__init__.py").write_text("", "utf-8")
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text, "utf-8")
    return Definitions.load(Project(root))


def body(code: str) -> str:
    """The file without its header of comments."""
    return code.partition("\n\n")[2]


def only_problem(definitions: Definitions, path: str) -> Problem:
    with pytest.raises(SourceError) as caught:
        runnable(definitions, path)
    (problem,) = caught.value.problems
    return problem


def test_a_whole_file(tmp_path: Path) -> None:
    definitions = load(
        tmp_path,
        base=f'''"""基础。"""
{IMPORTS}
# 圆周
TURN = 2 * math.pi  # 弧度
UNUSED = 3


def _scale(x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """私有。"""

    # 一圈
    return x * TURN  # (*batch, d)
''',
        top=f'''"""上面。"""
{IMPORTS}
from formulary.demo.base import _scale


def turns(
    x: Float[Tensor, "*batch d"], count: int = 1
) -> Float[Tensor, "*batch d"]:
    r"""转过的弧度。

    Args:
        x: 圈数。

    示例:
        >>> x = torch.tensor([1.0, 0.5])  # 圈
        >>> turns(x, count=2)
        tensor([12.5664,  6.2832])

    出处:
        无。
    """
    return count * _scale(x)
''',
    )
    code = runnable(definitions, "demo.top.turns")
    assert (
        code
        == """# 转过的弧度。
#
# 取自「Incoming Transmission」，以 MIT 许可证发布：
# code/formulary/demo/top.py
# 只需要 PyTorch，可以直接运行；注释里的元组是张量的形状。

import math

import torch
from torch import Tensor

# 圆周
TURN = 2 * math.pi  # 弧度


def _scale(
    x: Tensor,  # (*batch, d)
) -> Tensor:  # (*batch, d)
    # 一圈
    return x * TURN  # (*batch, d)


def turns(
    x: Tensor,  # (*batch, d)
    count: int = 1,
) -> Tensor:  # (*batch, d)
    return count * _scale(x)


# 示例
x = torch.tensor([1.0, 0.5])  # 圈
print(turns(x, count=2))
# → tensor([12.5664,  6.2832])
"""
    )
    assert expected_output(code) == "tensor([12.5664,  6.2832])\n"


@pytest.mark.parametrize(
    ("signature", "plain"),
    [
        ('(d: int) -> Int[Tensor, " d"]:', "(d: int) -> Tensor:  # (d,) 整数"),
        (
            '(\n    d: int, e: float = 1.0\n) -> Float[Tensor, ""]:',
            "(d: int, e: float = 1.0) -> Tensor:  # ()",
        ),
        (
            '(\n    d: int,  # 维数\n) -> tuple[\n    Float[Tensor, "T 2"],\n    int,\n]:',
            "(\n    d: int,  # 维数\n) -> tuple[Tensor, int]:  # (T, 2)",
        ),
        (
            '(mask: Bool[Tensor, "T S"] | None = None, *, d: int = max(1, 2)) -> int:',
            "(\n    mask: Tensor | None = None,  # (T, S) 布尔\n    *,\n"
            "    d: int = max(1, 2),\n) -> int:",
        ),
        (
            "(\n    # 位置\n"
            '    p: Float[Tensor, " T"],  # 步\n'
            '    *rest: Float[Tensor, "#T d"],\n'
            "    **more: dict[str, int],\n) -> None:",
            "(\n    # 位置\n    p: Tensor,  # (T,)；步\n    *rest: Tensor,  # (T, d)\n"
            "    **more: dict[str, int],\n) -> None:",
        ),
        (
            '(中: "int" = 1, x: tuple[Float[Tensor, "T"], ...] = ()) -> int:  # 中文',
            '(\n    中: "int" = 1,\n    x: tuple[Tensor, ...] = (),  # (T,)\n) -> int:  # 中文',
        ),
    ],
)
def test_signatures(tmp_path: Path, signature: str, plain: str) -> None:
    text = f"{IMPORTS}\n\ndef f{signature}\n"
    text += EXAMPLE.format(call="1", want="1") + "    return 中文 if '中文' else 0\n"
    code = runnable(load(tmp_path, a=text.replace("中文 if", "3 if")), "demo.a.f")
    assert f"def f{plain}\n    return 3 if '中文' else 0\n" in code


def test_shapes_inside_a_body_and_a_class(tmp_path: Path) -> None:
    text = f'''{IMPORTS}
from dataclasses import dataclass

Vector = Float[Tensor, " d"]


@dataclass(frozen=True)
class Pair:
    """一对。

    示例:
        >>> Pair(torch.ones(1), 2).sum(torch.ones(1))
        tensor([2.])
    """

    left: Float[Tensor, " d"]
    right: int  # 个

    def sum(self, x: Vector) -> Float[Tensor, " d"]:
        """和。"""
        total: Float[Tensor, " d"] = self.left + x  # 两项
        return total


class Empty:
    """空。

    示例:
        >>> Empty.__name__
        'Empty'
    """
'''
    definitions = load(tmp_path, a=text)
    assert """
Vector = Tensor  # (d,)


@dataclass(frozen=True)
class Pair:
    left: Tensor  # (d,)
    right: int  # 个

    def sum(self, x: Vector) -> Tensor:  # (d,)
        total: Tensor = self.left + x  # (d,)；两项
        return total
""" in runnable(definitions, "demo.a.Pair")
    assert body(runnable(definitions, "demo.a.Empty")) == (
        "\nclass Empty:\n    pass\n\n\n# 示例\nprint(repr(Empty.__name__))\n# → 'Empty'\n"
    )


def test_names_reached_through_a_module_or_renamed(tmp_path: Path) -> None:
    base = f"BASE = 2\n\n\ndef double(x: int) -> int:\n    return BASE * x\n{IMPORTS}"
    top = (
        "from formulary.demo import base\nfrom formulary.demo.base import double as twice\n\n\n"
        "def f(x: int = base.BASE) -> int:\n"
        + EXAMPLE.format(call="f(base.double(1)) + twice(0)", want="8")
        + "    return twice(base.double(x))\n"
    )
    code = runnable(load(tmp_path, base=base, top=top), "demo.top.f")
    assert body(code) == (
        "BASE = 2\n\n\ndef double(x: int) -> int:\n    return BASE * x\n\n\n"
        "def f(x: int = BASE) -> int:\n    return double(double(x))\n\n\n"
        "# 示例\nprint(f(double(1)) + double(0))\n# → 8\n"
    )
    assert "只需要 Python 的标准库，可以直接运行。" in code


def test_clashing_names_get_their_module_in_front(tmp_path: Path) -> None:
    base = "STEP = 2\n\n\ndef _norm(x: int) -> int:\n    return x + STEP\n"
    base += "\n\ndef act(x: int) -> int:\n    return _norm(x) if x else act(1)\n"
    top = (
        "from formulary.demo import base\n\nSTEP = 5\n\n\n"
        "def _norm(x: int) -> int:\n    return x * STEP\n\n\n"
        "def act(x: int) -> int:\n"
        + EXAMPLE.format(call="act(0)", want="15")
        + "    return _norm(base.act(x))\n"
    )
    code = runnable(load(tmp_path, base=base, top=top), "demo.top.act")
    namespace: dict[str, object] = {}
    exec(code, namespace)
    assert namespace["act"](0) == 15  # type: ignore[operator]
    assert "def base_act(x: int) -> int:\n    return " in code
    assert "if x else base_act(1)" in code
    assert "def act(x: int) -> int:\n    return _norm(base_act(x))" in code
    assert "STEP = 5" in code
    assert "BASE_STEP = 2" in code


def test_a_local_name_does_not_hide_a_definition(tmp_path: Path) -> None:
    base = "def scale(x: int) -> int:\n    return 3 * x\n"
    top = (
        "from formulary.demo import base\n\n\ndef f(scale: int) -> int:\n"
        + EXAMPLE.format(call="f(2)", want="8")
        + "    return scale + base.scale(scale)\n"
    )
    code = runnable(load(tmp_path, base=base, top=top), "demo.top.f")
    assert "def base_scale(x: int)" in code
    assert "return scale + base_scale(scale)" in code


def test_imports_are_merged_and_minimal(tmp_path: Path) -> None:
    base = (
        "import collections.abc\nimport math\nfrom torch.nn import functional as F\n\n\n"
        "def g(x: collections.abc.Sequence[int]) -> int:\n    return F.relu(x)\n"
    )
    top = (
        "import torch.nn.functional as F\nfrom itertools import repeat as again, count\n\n"
        "from formulary.demo.base import g\n\n\ndef f(x: int) -> int:\n"
        + EXAMPLE.format(call="from fractions import Fraction", want="").replace("        \n", "")
        + "    import math\n    return g(F.relu(math.inf + next(again(x))))\n"
    ).replace("Fraction\n", "Fraction\n        >>> Fraction(1, 2) + f\n        1/2\n")
    code = runnable(load(tmp_path, base=base, top=top), "demo.top.f")
    assert body(code).startswith(
        "import collections.abc\nfrom fractions import Fraction\n"
        "from itertools import repeat as again\n\n"
        "from torch.nn import functional as F\n\n\ndef g("
    )
    assert "\n# 示例\nprint(Fraction(1, 2) + f)\n# → 1/2\n" in code


def test_an_import_from_the_package_in_an_example_keeps_the_name(tmp_path: Path) -> None:
    helper = 'def g() -> int:\n    """二。"""\n    return 2\n'
    text = f"""{IMPORTS}

def f(x: int) -> int:
    \"\"\"一。

    示例:
        >>> from formulary.demo.b import g
        >>> f(g())
        2
    \"\"\"
    return x
"""
    code = runnable(load(tmp_path, a=text, b=helper), "demo.a.f")
    assert "def g() -> int:" in code
    assert code.endswith("# 示例\nprint(f(g()))\n# → 2\n")


def test_two_blank_lines_around_a_definition_in_an_example(tmp_path: Path) -> None:
    text = f"""{IMPORTS}

def f(x: int) -> int:
    \"\"\"一。

    示例:
        >>> a = 1
        >>> def g():
        ...     return a
        >>> f(g())
        1
    \"\"\"
    return x
"""
    example = runnable(load(tmp_path, a=text), "demo.a.f").partition("# 示例\n")[2]
    assert example == "a = 1\n\n\ndef g():\n    return a\n\n\nprint(f(g()))\n# → 1\n"


def test_examples_of_every_form(tmp_path: Path) -> None:
    text = f'''{IMPORTS}

def f(x: int) -> int:
    """一。

    示例：
        >>> for i in range(2):
        ...     print(f(i))
        0
        1
        >>> f(1), f(2)  # doctest: +ELLIPSIS
        (1, ...)
        >>> (f(1)
        ...  + 1)  # 和
        2
        >>> print("a\\\\n\\\\nb")
        a
        <BLANKLINE>
        b
        >>> _ = f(3)

    约定:
        >>> 这不是示例
    """
    return x
'''
    code = runnable(load(tmp_path, a=text), "demo.a.f")
    example = code.partition("# 示例\n")[2]
    assert example == (
        "for i in range(2):\n    print(f(i))\n# → 0\n#   1\n"
        "print((f(1), f(2)))\n# → (1, ...)\n"
        "print(\n    (f(1)\n     + 1)\n)  # 和\n# → 2\n"
        'print("a\\n\\nb")\n# → a\n#\n#   b\n'
        "_ = f(3)\n"
    )
    assert expected_output(code) == "0\n1\n(1, ...)\n2\na\n\nb\n"


@pytest.mark.parametrize(
    ("docstring", "line", "rule", "says"),
    [
        ("一。", 8, "missing-example", "has no section `示例:`"),
        ("一。\n\n    示例:\n        没有。\n", 10, "missing-example", "shows no output"),
        ("一。\n\n    示例:\n        >>> f(1)\n", 10, "missing-example", "shows no output"),
        ("一。\n\n    示例:\n        >>> f(1)\n        ...\n", 10, "missing-example", "no output"),
        ("一。\n\n    示例:\n        >>> f(\n        1\n", 11, "snippet-example", "never closed"),
        (
            "一。\n\n    示例:\n        >>> f(0)\n        0\n        >>> f(1)\n"
            "        Traceback (most recent call last):\n        ValueError: 一\n",
            13,
            "snippet-example",
            "ends in an error",
        ),
    ],
)
def test_examples_that_cannot_be_shown(
    tmp_path: Path, docstring: str, line: int, rule: str, says: str
) -> None:
    text = f'{IMPORTS}def f(x: int) -> int:\n    """{docstring}"""\n    return x\n'
    problem = only_problem(load(tmp_path, a=text), "demo.a.f")
    assert (problem.file, problem.line, problem.rule) == (
        "code/formulary/demo/a.py",
        line,
        rule,
    )
    assert says in problem.message
    assert problem.mend


@pytest.mark.parametrize(
    ("head", "code", "line", "rule", "says"),
    [
        ("import numpy as np", "return np.ones(x)", 1, "snippet-import", "`numpy`"),
        ("", "import scipy.linalg\n    return x", 9, "snippet-import", "`scipy.linalg`"),
        ("from jaxtyping import Float", "return Float", 1, "snippet-import", "jaxtyping"),
        ("", "return nowhere(x)", 2, "snippet-name", "`nowhere`"),
    ],
)
def test_what_cannot_stand_alone(
    tmp_path: Path, head: str, code: str, line: int, rule: str, says: str
) -> None:
    text = f"{head}\ndef f(x: int) -> int:\n{EXAMPLE.format(call='f(1)', want='1')}    {code}\n"
    problem = only_problem(load(tmp_path, a=text), "demo.a.f")
    assert (problem.line, problem.rule) == (line, rule)
    assert says in problem.message


def test_a_name_that_means_two_modules(tmp_path: Path) -> None:
    base = "import math as m\n\n\ndef g(x: int) -> int:\n    return m.floor(x)\n"
    top = "import cmath as m\nfrom formulary.demo.base import g\n\n\ndef f(x: int) -> int:\n"
    top += EXAMPLE.format(call="f(1)", want="1") + "    return g(m.inf)\n"
    problem = only_problem(load(tmp_path, base=base, top=top), "demo.top.f")
    assert problem.rule == "snippet-name"
    assert "cmath and math" in problem.message


@pytest.mark.parametrize("name", ["f", "math"])
def test_an_example_may_not_overwrite_what_the_file_needs(tmp_path: Path, name: str) -> None:
    text = "import math\n\n\ndef g(x: int) -> int:\n    return math.floor(x)\n\n\n"
    text += "def f(x: int) -> int:\n" + EXAMPLE.format(call="f(1)", want="1")
    text = text.replace(">>> f", f">>> {name} = 3\n        >>> f") + "    return g(x)\n"
    problem = only_problem(load(tmp_path, a=text), "demo.a.f")
    assert (problem.file, problem.rule) == ("code/formulary/demo/a.py", "snippet-name")
    assert name in problem.message


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    good = "def f(x: int) -> int:\n" + EXAMPLE.format(call="f(1)", want="1") + "    return x\n"
    bad = "\n\ndef g(x: int) -> int:\n    return x\n\n\ndef h(x: int) -> int:\n    return x\n"
    definitions = load(tmp_path, a=good + bad)
    assert list(all_runnable(definitions, ["demo.a.f", "demo.a.f"])) == ["demo.a.f"]
    with pytest.raises(SourceError) as caught:
        all_runnable(definitions, ["demo.a.h", "demo.a.f", "demo.a.g"])
    assert [problem.rule for problem in caught.value.problems] == ["missing-example"] * 2


@pytest.mark.parametrize(
    ("kind", "axes", "text"),
    [
        ("Float", "*batch T d", "(*batch, T, d)"),
        ("Num", " T", "(T,)"),
        ("Float", "", "()"),
        ("Int64", "... 2", "(..., 2) 整数"),
        ("UInt8", "*#batch ?d", "(*batch, d) 整数"),
        ("Complex", "T+1", "(T+1,) 复数"),
        ("Bool", "T S", "(T, S) 布尔"),
    ],
)
def test_shape_text(kind: str, axes: str, text: str) -> None:
    assert shape_text(kind, axes) == text
