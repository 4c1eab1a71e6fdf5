"""手算的例子：三个输入、两个输出，中间量 a 与 b 各用到两次，值与导数都是整数。"""

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats


def two_products(x: Float[Tensor, " n"]) -> Float[Tensor, " m"]:
    r"""例子里的函数：a = x_1 x_2，b = a + x_3，输出 (ab, b²)。

    Args:
        x: 三个输入（无量纲）。

    Returns:
        两个输出（无量纲）。

    Raises:
        ValueError: x 不是长为 3 的浮点向量。

    约定:
        文中下标从 1 起，代码里少 1。

    出处:
        本站的例子。

    示例:
        >>> two_products(torch.tensor([2.0, 3.0, -1.0]))
        tensor([30., 25.])
    """
    require_floats("x", x, 3)
    a = x[0] * x[1]
    b = a + x[2]
    return torch.stack((a * b, b * b))


def tangent_trace(x: Float[Tensor, " n"], tangent: Float[Tensor, " n"]) -> dict[str, Tensor]:
    r"""前向模式逐行手算：值与切向量同行。

    Args:
        x: 三个输入（无量纲）。
        tangent: 三个输入的切向量（无量纲）。

    Returns:
        各中间量的切向量，键是 a、b、y1、y2，按计算的先后排列。

    Raises:
        ValueError: x 或 tangent 不是长为 3 的浮点向量。

    约定:
        每行用到的切向量都在它的上面算好了。

    出处:
        本站的例子。

    示例:
        >>> trace = tangent_trace(torch.tensor([2.0, 3.0, -1.0]), torch.tensor([1.0, -1.0, 2.0]))
        >>> {name: value.item() for name, value in trace.items()}
        {'a': 1.0, 'b': 3.0, 'y1': 23.0, 'y2': 30.0}
    """
    require_floats("x", x, 3)
    require_floats("tangent", tangent, 3)
    a = x[0] * x[1]
    a_tangent = tangent[0] * x[1] + x[0] * tangent[1]
    b = a + x[2]
    b_tangent = a_tangent + tangent[2]
    y1_tangent = a_tangent * b + a * b_tangent
    y2_tangent = 2 * b * b_tangent
    return {"a": a_tangent, "b": b_tangent, "y1": y1_tangent, "y2": y2_tangent}


def adjoint_trace(x: Float[Tensor, " n"], cotangent: Float[Tensor, " m"]) -> dict[str, Tensor]:
    r"""反向模式逐行手算：值先算好，伴随从输出往输入算。

    Args:
        x: 三个输入（无量纲）。
        cotangent: 两个输出的伴随（无量纲）。

    Returns:
        各量的伴随，键是 b、a、x3、x2、x1，按计算的先后排列。

    Raises:
        ValueError: x 不是长为 3、cotangent 不是长为 2 的浮点向量。

    约定:
        一个量用到几次，它的伴随就有几项相加。

    出处:
        本站的例子。

    示例:
        >>> trace = adjoint_trace(torch.tensor([2.0, 3.0, -1.0]), torch.tensor([1.0, 2.0]))
        >>> {name: value.item() for name, value in trace.items()}
        {'b': 26.0, 'a': 31.0, 'x3': 26.0, 'x2': 62.0, 'x1': 93.0}
    """
    require_floats("x", x, 3)
    require_floats("cotangent", cotangent, 2)
    a = x[0] * x[1]
    b = a + x[2]
    b_adjoint = cotangent[0] * a + cotangent[1] * 2 * b
    a_adjoint = cotangent[0] * b + b_adjoint
    return {
        "b": b_adjoint,
        "a": a_adjoint,
        "x3": b_adjoint,
        "x2": a_adjoint * x[0],
        "x1": a_adjoint * x[1],
    }
