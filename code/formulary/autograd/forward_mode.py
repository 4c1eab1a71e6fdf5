"""雅可比–向量积的另外两种写法：对偶张量，与两次反向。"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

from formulary.autograd.products import record, require_like
from formulary.checks import require_floats


def dual_tensor_jvp(
    f: Callable[[Tensor], Tensor], x: Float[Tensor, " n"], tangent: Float[Tensor, " n"]
) -> Float[Tensor, " m"]:
    r"""雅可比–向量积：把 x 与 tangent 捆成对偶张量，用 torch.autograd.forward_ad 算。

    Args:
        f: 向量到向量的函数。
        x: 求导的点。
        tangent: 输入一侧的切向量，形状与 dtype 同 x。

    Returns:
        输出一侧的切向量；f 不依赖 x 时是零。

    Raises:
        ValueError: x 不是浮点向量，tangent 与 x 对不上，或 f 的输出不是浮点向量。

    约定:
        对偶张量只在 dual_level 之内有效，出了这一层切向量就不在了。

    出处:
        PyTorch 2.13, torch.autograd.forward_ad。

    示例:
        >>> dual_tensor_jvp(torch.square, torch.tensor([3.0, 4.0]), torch.tensor([1.0, 0.5]))
        tensor([6., 4.])
    """
    require_floats("x", x, "n")
    require_like("tangent", tangent, x)
    with forward_ad.dual_level():
        y = f(forward_ad.make_dual(x.detach(), tangent))
        require_floats("f 的输出", y, "m")
        primal, derivative = forward_ad.unpack_dual(y)
    return torch.zeros_like(primal) if derivative is None else derivative


def double_backward_jvp(
    f: Callable[[Tensor], Tensor], x: Float[Tensor, " n"], tangent: Float[Tensor, " n"]
) -> Float[Tensor, " m"]:
    r"""雅可比–向量积：只用反向模式，对“VJP 作为伴随的线性函数”再做一次 VJP。

    Args:
        f: 向量到向量的函数，要能求两次导。
        x: 求导的点。
        tangent: 输入一侧的切向量，形状与 dtype 同 x。

    Returns:
        输出一侧的切向量；f 不依赖 x 时是零。

    Raises:
        ValueError: x 不是浮点向量，tangent 与 x 对不上，或 f 的输出不是浮点向量。

    约定:
        第一次 VJP 的伴随取零向量：它只是求导的变量，取什么值都一样。

    出处:
        Townsend 2017, *A new trick for calculating Jacobian vector products*。

    示例:
        >>> double_backward_jvp(torch.square, torch.tensor([3.0, 4.0]), torch.tensor([1.0, 0.5]))
        tensor([6., 4.])
    """
    x, y = record(f, x)
    require_like("tangent", tangent, x)
    dummy = torch.zeros_like(y, requires_grad=True)
    if not y.requires_grad:
        return dummy.detach()
    (pulled,) = torch.autograd.grad(y, x, dummy, create_graph=True, materialize_grads=True)
    if not pulled.requires_grad:
        return dummy.detach()
    (derivative,) = torch.autograd.grad(pulled, dummy, tangent, materialize_grads=True)
    return derivative
