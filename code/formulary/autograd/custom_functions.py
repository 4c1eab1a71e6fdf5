"""自定义的 autograd.Function：老式与新式两种写法，以及一个二阶导数悄悄丢失的反例。"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats


class Softplus(torch.autograd.Function):
    r"""softplus(x) = log(1 + e^x)，数值稳定，只存输入，支持任意阶导数。

    Raises:
        ValueError: x 不是实浮点张量。

    约定:
        用 Softplus.apply(x) 调用，逐元素。反向里只用可导的运算，并且从 save_for_backward
        取出 x，二阶导数才连得上；没有 setup_context，不能用在 torch.func 的变换里。

    出处:
        PyTorch 文档 Extending PyTorch 与 Double Backward with Custom Functions。

    示例:
        >>> Softplus.apply(torch.tensor([-1000.0, 1000.0]))  # 直接算 log(1 + e^x) 会溢出
        tensor([   0., 1000.])
    """

    @staticmethod
    def forward(ctx: Any, x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """前向：max(x, 0) + log(1 + e^(−|x|))，并为反向存下 x。"""
        require_floats("x", x)
        ctx.save_for_backward(x)
        return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))

    @staticmethod
    def backward(ctx: Any, gradient: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """反向：上游的伴随乘 σ(x)。"""
        (x,) = ctx.saved_tensors
        return gradient * torch.sigmoid(x)


class StashingSoftplus(torch.autograd.Function):
    r"""错的：前向里算好 σ(x) 挂在 ctx 上；一阶导数对，二阶导数悄悄没了。

    Raises:
        ValueError: x 不是实浮点张量。

    约定:
        forward 里不记录图，挂在 ctx 上的 slope 在反向眼里是常数；gradcheck 通过，
        gradgradcheck 不通过。

    出处:
        PyTorch 文档 Double Backward with Custom Functions 所说的“保存中间结果”。

    示例:
        >>> x = torch.zeros(1, requires_grad=True)
        >>> (gradient,) = torch.autograd.grad(StashingSoftplus.apply(x), x, create_graph=True)
        >>> gradient, gradient.requires_grad
        (tensor([0.5000]), False)
    """

    @staticmethod
    def forward(ctx: Any, x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """前向：与 Softplus 相同，但把导数当作属性存起来。"""
        require_floats("x", x)
        ctx.slope = torch.sigmoid(x.detach())
        return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))

    @staticmethod
    def backward(ctx: Any, gradient: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """反向：slope 与 x 之间没有图。"""
        return gradient * ctx.slope


class Cube(torch.autograd.Function):
    r"""y = x³ 的新式写法：前向与存档分开，兼有反向、前向两种模式和 vmap。

    Raises:
        ValueError: x 不是实浮点张量。

    约定:
        用 Cube.apply(x) 调用，逐元素。generate_vmap_rule 要求各个静态方法里只用
        vmap 支持的 PyTorch 运算。

    出处:
        PyTorch 文档 Extending torch.func with autograd.Function。

    示例:
        >>> torch.func.vmap(torch.func.grad(Cube.apply))(torch.tensor([1.0, 2.0]))
        tensor([ 3., 12.])
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """前向：只管算。"""
        require_floats("x", x)
        return x * x * x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """存档：反向模式与前向模式各要一份。"""
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """反向模式：伴随乘 3x²。"""
        (x,) = ctx.saved_tensors
        return gradient * 3 * x * x

    @staticmethod
    def jvp(ctx: Any, tangent: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """前向模式：切向量乘 3x²。"""
        (x,) = ctx.saved_tensors
        return 3 * x * x * tangent


def softplus_double_backward(
    x: Float[Tensor, " n"], adjoint: Float[Tensor, " n"], u: Float[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    r"""把 softplus 的反向看作 (x, ȳ) 的函数，求它的向量–雅可比积。

    Args:
        x: 输入。
        adjoint: 一次反向的上游伴随 $\bar{\boldsymbol y}$。
        u: 二次反向的上游伴随，即 $\bar{\boldsymbol x}$ 的伴随。

    Returns:
        对 x 与对 $\bar{\boldsymbol y}$ 的伴随。

    Raises:
        ValueError: 三者不是形状相同的一维浮点张量。

    示例:
        >>> one = torch.ones(1)
        >>> softplus_double_backward(torch.zeros(1), one, one)
        (tensor([0.2500]), tensor([0.5000]))
    """
    require_floats("x", x, "n")
    require_floats("adjoint", adjoint, len(x))
    require_floats("u", u, len(x))
    slope = torch.sigmoid(x)
    return u * adjoint * slope * (1 - slope), u * slope
