"""复合函数的雅可比矩阵：局部雅可比的连乘，以及两种不写出矩阵的扫描次序。"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.autograd.products import jvp, record, vjp
from formulary.checks import require_floats


def compose_jacobian(
    functions: Sequence[Callable[[Tensor], Tensor]], x: Float[Tensor, " n"]
) -> Float[Tensor, "m n"]:
    r"""复合函数的雅可比矩阵：各层在各自输入处的雅可比，按次序连乘。

    Args:
        functions: 先后作用的函数 f_1, …, f_L，至少一个。
        x: 求导的点。

    Returns:
        复合函数的雅可比矩阵，行对应输出，列对应输入。

    Raises:
        ValueError: functions 为空，x 或某层的输出不是浮点向量。

    约定:
        functions[0] 最先作用，它的雅可比在乘积的最右边。

    出处:
        多元函数的链式法则。

    示例:
        >>> compose_jacobian([torch.square, lambda v: v.sum().reshape(1)], torch.tensor([1.0, 2.0]))
        tensor([[2., 4.]])
    """
    values = layer_inputs(functions, x)
    product = torch.eye(len(x), dtype=x.dtype, device=x.device)
    for f, value in zip(functions, values[:-1], strict=True):
        product = torch.func.jacrev(f)(value) @ product
    return product


def layer_inputs(
    functions: Sequence[Callable[[Tensor], Tensor]], x: Float[Tensor, " n"]
) -> list[Tensor]:
    """逐层求值，返回 v_0 = x, v_1, …, v_L；反向扫描要用到它们。"""
    require_floats("x", x, "n")
    if not functions:
        raise ValueError("functions 至少要有一个函数，得到空的序列")
    values = [x.detach()]
    for f in functions:
        values.append(record(f, values[-1])[1].detach())
    return values


def push_tangent(
    functions: Sequence[Callable[[Tensor], Tensor]],
    x: Float[Tensor, " n"],
    tangent: Float[Tensor, " n"],
) -> Float[Tensor, " m"]:
    r"""前向模式：切向量从第一层推到最后一层，每层做一次 JVP。

    Args:
        functions: 先后作用的函数 f_1, …, f_L，至少一个。
        x: 求导的点。
        tangent: 输入一侧的切向量，形状同 x。

    Returns:
        输出一侧的切向量。

    Raises:
        ValueError: functions 为空，或 x、tangent、某层输出的形状、dtype 不合要求。

    约定:
        与求值同时进行，用完的中间值可以丢掉。

    出处:
        Baydin et al. 2018, arXiv:1502.05767。

    示例:
        >>> x, tangent = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0])
        >>> push_tangent([torch.square, torch.neg], x, tangent)
        tensor([ -2., -12.])
    """
    for f, value in zip(functions, layer_inputs(functions, x)[:-1], strict=True):
        tangent = jvp(f, value, tangent)
    return tangent


def pull_cotangent(
    functions: Sequence[Callable[[Tensor], Tensor]],
    x: Float[Tensor, " n"],
    cotangent: Float[Tensor, " m"],
) -> Float[Tensor, " n"]:
    r"""反向模式：先逐层求值并存下中间值，再把伴随从最后一层拉回第一层，每层做一次 VJP。

    Args:
        functions: 先后作用的函数 f_1, …, f_L，至少一个。
        x: 求导的点。
        cotangent: 输出一侧的伴随，形状同复合函数的输出。

    Returns:
        输入一侧的伴随。

    Raises:
        ValueError: functions 为空，或 x、cotangent、某层输出的形状、dtype 不合要求。

    约定:
        各层的局部雅可比在前向时的输入处取值，所以中间值要留到反向。

    出处:
        Baydin et al. 2018, arXiv:1502.05767。

    示例:
        >>> x, cotangent = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0])
        >>> pull_cotangent([torch.square, torch.neg], x, cotangent)
        tensor([ -2., -12.])
    """
    values = layer_inputs(functions, x)
    for f, value in zip(reversed(functions), reversed(values[:-1]), strict=True):
        cotangent = vjp(f, value, cotangent)
    return cotangent
