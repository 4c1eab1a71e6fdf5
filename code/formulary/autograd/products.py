"""向量–雅可比积（VJP）与雅可比–向量积（JVP）：不写出雅可比矩阵，直接算它与一个向量的积。

函数都从向量到向量，记输入长 n、输出长 m；VJP 走反向模式，JVP 走前向模式。
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats


def vjp(
    f: Callable[[Tensor], Tensor], x: Float[Tensor, " n"], cotangent: Float[Tensor, " m"]
) -> Float[Tensor, " n"]:
    r"""向量–雅可比积：输出一侧的伴随左乘雅可比矩阵，得到输入一侧的伴随。

    Args:
        f: 向量到向量的函数。
        x: 求导的点。
        cotangent: 输出一侧的伴随，长度与 dtype 同 f(x)。

    Returns:
        输入一侧的伴随（单位是 cotangent 乘 f 的单位除以 x 的单位）。

    Raises:
        ValueError: x 不是浮点向量，f 的输出不是浮点向量，或 cotangent 与输出对不上。

    约定:
        伴随写成与 x 同形状的向量，即雅可比矩阵的转置乘 cotangent；f 不依赖 x 时结果是零。

    出处:
        Baydin et al. 2018, arXiv:1502.05767。

    示例:
        >>> vjp(lambda x: x[:2] * x[2], torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 10.0]))
        tensor([ 3., 30., 21.])
    """
    x, y = record(f, x)
    require_like("cotangent", cotangent, y)
    if not y.requires_grad:
        return torch.zeros_like(x)
    (adjoint,) = torch.autograd.grad(y, x, cotangent, materialize_grads=True)
    return adjoint


def record(
    f: Callable[[Tensor], Tensor], x: Float[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " m"]]:
    """在一个新的叶子张量上算 f，记下计算图；返回这个叶子与输出。"""
    require_floats("x", x, "n")
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        y = f(leaf)
    require_floats("f 的输出", y, "m")
    return leaf, y


def require_like(name: str, value: object, reference: Tensor) -> None:
    """要求 value 是与 reference 同形状、同 dtype 的张量。"""
    require_floats(name, value, *reference.shape)
    if value.dtype != reference.dtype:
        raise ValueError(f"{name} 的 dtype 必须是 {reference.dtype}，得到 {value.dtype}")


def jvp(
    f: Callable[[Tensor], Tensor], x: Float[Tensor, " n"], tangent: Float[Tensor, " n"]
) -> Float[Tensor, " m"]:
    r"""雅可比–向量积：沿 tangent 方向的方向导数，用 torch.func.jvp 一次前向算出。

    Args:
        f: 向量到向量的函数。
        x: 求导的点。
        tangent: 输入一侧的切向量，形状与 dtype 同 x。

    Returns:
        输出一侧的切向量（单位是 f 的单位除以 x 的单位，再乘 tangent 的单位）。

    Raises:
        ValueError: x 不是浮点向量，tangent 与 x 对不上，或 f 的输出不是浮点向量。

    约定:
        tangent 不归一化，长度加倍则结果加倍。

    出处:
        Baydin et al. 2018, arXiv:1502.05767。

    示例:
        >>> jvp(torch.square, torch.tensor([3.0, 4.0]), torch.tensor([1.0, 0.5]))
        tensor([6., 4.])
    """
    require_floats("x", x, "n")
    require_like("tangent", tangent, x)

    def checked(point: Tensor) -> Tensor:
        y = f(point)
        require_floats("f 的输出", y, "m")
        return y

    _, derivative = torch.func.jvp(checked, (x,), (tangent,))
    return derivative


def adjoint_pairings(
    f: Callable[[Tensor], Tensor],
    x: Float[Tensor, " n"],
    tangent: Float[Tensor, " n"],
    cotangent: Float[Tensor, " m"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    r"""伴随恒等式的两边：伴随与 JVP 的内积，VJP 与切向量的内积。

    Args:
        f: 向量到向量的函数。
        x: 求导的点。
        tangent: 输入一侧的切向量，形状同 x。
        cotangent: 输出一侧的伴随，形状同 f(x)。

    Returns:
        两个标量，除舍入误差外相等。

    Raises:
        ValueError: x、tangent、cotangent 或 f 的输出的形状、dtype 不合要求。

    约定:
        左边走前向模式，右边走反向模式，两条路互相独立。

    出处:
        转置（伴随算子）的定义。

    示例:
        >>> x = torch.tensor([1.0, 2.0, 3.0])
        >>> adjoint_pairings(lambda x: x[:2] * x[2], x, torch.ones(3), torch.tensor([1.0, 10.0]))
        (tensor(54.), tensor(54.))
    """
    pushed, pulled = jvp(f, x, tangent), vjp(f, x, cotangent)
    return cotangent @ pushed, pulled @ tangent
