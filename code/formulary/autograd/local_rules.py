"""局部规则：逐元素函数与线性层的向量–雅可比积。"""

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats


def elementwise_derivatives(x: Float[Tensor, "*batch"]) -> dict[str, Float[Tensor, "*batch"]]:
    r"""四个常用激活函数的导数。

    Args:
        x: 自变量（无量纲）。

    Returns:
        各函数在 x 处的导数（无量纲），键是 sigmoid、tanh、softplus、relu。

    Raises:
        ValueError: x 不是浮点张量。

    约定:
        1 − σ(x) 写成 σ(−x)，1 − tanh²x 写成 4σ(2x)σ(−2x)，两端不因相减而丢失精度；
        relu 在 0 处取 0，与 PyTorch 相同。

    出处:
        各函数的定义。

    示例:
        >>> {name: d.item() for name, d in elementwise_derivatives(torch.tensor(0.0)).items()}
        {'sigmoid': 0.25, 'tanh': 1.0, 'softplus': 0.5, 'relu': 0.0}
    """
    require_floats("x", x)
    return {
        "sigmoid": x.sigmoid() * (-x).sigmoid(),
        "tanh": 4 * (2 * x).sigmoid() * (-2 * x).sigmoid(),
        "softplus": x.sigmoid(),
        "relu": (x > 0).to(x.dtype),
    }


def linear_vjp(
    x: Float[Tensor, "B d_in"],
    weight: Float[Tensor, "d_out d_in"],
    cotangent: Float[Tensor, "B d_out"],
) -> tuple[Float[Tensor, "B d_in"], Float[Tensor, "d_out d_in"], Float[Tensor, " d_out"]]:
    r"""线性层的三个梯度：对输入、对权重、对偏置。

    Args:
        x: 输入，一行一个样本。
        weight: 权重，形状是（输出宽度，输入宽度）。
        cotangent: 输出的伴随。

    Returns:
        输入、权重、偏置的伴随，形状各同本身。

    Raises:
        ValueError: x、weight 或 cotangent 的形状、dtype 不合要求。

    约定:
        前向是 x 乘 weight 的转置，再加偏置，与 torch.nn.functional.linear 相同；
        权重与偏置的伴随对批量求和，不求平均。

    出处:
        线性层的定义；本文逐下标推导。

    示例:
        >>> x, weight = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])
        >>> linear_vjp(x, weight, torch.tensor([[10.0]]))
        (tensor([[30., 40.]]), tensor([[10., 20.]]), tensor([10.]))
    """
    require_linear(x, weight, cotangent)
    return cotangent @ weight, cotangent.T @ x, cotangent.sum(dim=0)


def require_linear(x: object, weight: object, cotangent: object) -> None:
    """要求三者的形状是 (B, d_in)、(d_out, d_in)、(B, d_out)。"""
    require_floats("x", x, "B", "d_in")
    require_floats("weight", weight, "d_out", x.shape[1])
    require_floats("cotangent", cotangent, x.shape[0], weight.shape[0])


def linear_vjp_by_index(
    x: Float[Tensor, "B d_in"],
    weight: Float[Tensor, "d_out d_in"],
    cotangent: Float[Tensor, "B d_out"],
) -> tuple[Float[Tensor, "B d_in"], Float[Tensor, "d_out d_in"], Float[Tensor, " d_out"]]:
    r"""线性层的三个梯度，照逐下标的和式写成爱因斯坦求和。

    Args:
        x: 输入，一行一个样本。
        weight: 权重，形状是（输出宽度，输入宽度）。
        cotangent: 输出的伴随。

    Returns:
        输入、权重、偏置的伴随，形状各同本身。

    Raises:
        ValueError: x、weight 或 cotangent 的形状、dtype 不合要求。

    约定:
        k 是样本，o 是输出，i 是输入；没有出现在结果里的下标就是要求和的。

    出处:
        本文逐下标推导。

    示例:
        >>> x, weight = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])
        >>> linear_vjp_by_index(x, weight, torch.tensor([[10.0]]))
        (tensor([[30., 40.]]), tensor([[10., 20.]]), tensor([10.]))
    """
    require_linear(x, weight, cotangent)
    return (
        torch.einsum("ko,oi->ki", cotangent, weight),
        torch.einsum("ko,ki->oi", cotangent, x),
        torch.einsum("ko->o", cotangent),
    )
