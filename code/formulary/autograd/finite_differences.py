"""有限差分：单边与中心差分、逐列的雅可比矩阵、复数步。"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats


def require_positive(name: str, value: object) -> None:
    """要求 value 是正的实数。"""
    if (
        isinstance(value, bool)
        or not isinstance(value, float | int)
        or not 0 < value < float("inf")
    ):
        raise ValueError(f"{name} 必须是正的有限实数，得到 {value!r}")


def forward_difference(
    f: Callable[[Tensor], Tensor], x: Float[Tensor, "*batch"], h: float
) -> Float[Tensor, "*batch"]:
    r"""单边差分：逐元素函数的导数的一阶近似。

    Args:
        f: 逐元素的函数。
        x: 求导的点。
        h: 步长（单位同 x），大于 0。

    Returns:
        导数的近似值（单位是 f 的单位除以 x 的单位）。

    Raises:
        ValueError: x 不是浮点张量，h 不是正数，或 f 的输出与 x 的形状不同。

    约定:
        往正的方向走一步。

    出处:
        泰勒展开；Nocedal and Wright 2006, 第 8 章。

    示例:
        >>> forward_difference(torch.square, torch.tensor(3.0), 0.5)
        tensor(6.5000)
    """
    require_floats("x", x)
    require_positive("h", h)
    return (_evaluate(f, x + h, x) - _evaluate(f, x, x)) / h


def _evaluate(f: Callable[[Tensor], Tensor], point: Tensor, x: Tensor) -> Tensor:
    """求值，并查输出与 x 同形状。"""
    y = f(point)
    require_floats("f 的输出", y, *x.shape)
    if y.shape != x.shape:
        raise ValueError(f"f 的输出的形状必须是 {tuple(x.shape)}，得到 {tuple(y.shape)}")
    return y


def central_difference(
    f: Callable[[Tensor], Tensor], x: Float[Tensor, "*batch"], h: float
) -> Float[Tensor, "*batch"]:
    r"""中心差分：逐元素函数的导数的二阶近似。

    Args:
        f: 逐元素的函数。
        x: 求导的点。
        h: 步长（单位同 x），大于 0。

    Returns:
        导数的近似值（单位是 f 的单位除以 x 的单位）。

    Raises:
        ValueError: x 不是浮点张量，h 不是正数，或 f 的输出与 x 的形状不同。

    约定:
        除以 2h，与 gradcheck 相同；x ± h 的舍入不另作修正。

    出处:
        泰勒展开；Nocedal and Wright 2006, 第 8 章。

    示例:
        >>> central_difference(lambda x: x**3, torch.tensor(2.0), 0.5)
        tensor(12.2500)
    """
    require_floats("x", x)
    require_positive("h", h)
    return (_evaluate(f, x + h, x) - _evaluate(f, x - h, x)) / (2 * h)


def numerical_jacobian(
    f: Callable[[Tensor], Tensor], x: Float[Tensor, " n"], h: float
) -> Float[Tensor, "m n"]:
    r"""用中心差分逐列求雅可比矩阵，一列要求值两次。

    Args:
        f: 向量到向量的函数。
        x: 求导的点。
        h: 步长（单位同 x），大于 0。

    Returns:
        雅可比矩阵的近似，行对应输出，列对应输入。

    Raises:
        ValueError: x 或 f 的输出不是浮点向量，或 h 不是正数。

    约定:
        每次只动一个分量，步长都是 h，不按分量的大小缩放。

    出处:
        PyTorch 2.13, torch.autograd.gradcheck 的做法。

    示例:
        >>> numerical_jacobian(lambda x: x[:2] * x[2], torch.tensor([1.0, 2.0, 3.0]), 0.5)
        tensor([[3., 0., 1.],
                [0., 3., 2.]])
    """
    require_floats("x", x, "n")
    require_positive("h", h)
    columns = []
    for step in h * torch.eye(len(x), dtype=x.dtype, device=x.device):
        above, below = f(x + step), f(x - step)
        require_floats("f 的输出", above, "m")
        columns.append((above - below) / (2 * h))
    return torch.stack(columns, dim=1)


def complex_step_derivative(
    f: Callable[[Tensor], Tensor], x: Float[Tensor, "*batch"], h: float = 1e-20
) -> Float[Tensor, "*batch"]:
    r"""复数步：往虚轴走一小步，取虚部除以步长，没有相减，所以步长可以任意小。

    Args:
        f: 逐元素的解析函数，能接受复数张量。
        x: 求导的点，实数。
        h: 步长（单位同 x），大于 0。

    Returns:
        导数的近似值，步长足够小时与真值只差舍入误差。

    Raises:
        ValueError: x 不是实浮点张量，h 不是正数，或 f 的输出不是同形状的复数张量。

    约定:
        f 里不能有绝对值、共轭、比较之类不解析的运算。

    出处:
        Squire and Trapp 1998。

    示例:
        >>> complex_step_derivative(torch.square, torch.tensor(3.0))
        tensor(6.)
    """
    require_floats("x", x)
    require_positive("h", h)
    y = f(torch.complex(x, torch.full_like(x, h)))
    if not isinstance(y, Tensor) or not y.is_complex() or y.shape != x.shape:
        raise ValueError(f"f 的输出必须是与 x 同形状的复数张量，得到 {y!r}")
    return y.imag / h
