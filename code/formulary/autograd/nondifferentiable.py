"""不可导的地方：直通估计，尖点上 PyTorch 取哪一个次梯度。"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats


def straight_through(
    x: Float[Tensor, "*batch"], quantizer: Callable[[Tensor], Tensor]
) -> Float[Tensor, "*batch"]:
    r"""直通估计：前向的值是 q(x)，反向当作恒等函数。

    Args:
        x: 输入。
        quantizer: 形状不变的函数 $q$，如 torch.round；它自己的导数用不上。

    Returns:
        恰等于 $q(\boldsymbol x)$ 的值（−0 变成 0），对 x 的导数取 1。

    Raises:
        ValueError: x 不是实浮点张量，或 quantizer 改变了形状。

    约定:
        写成 sg(q) + (x − sg(x))：x 有限时括号里恰为零，前向没有舍入误差；
        x + sg(q − x) 在实数里相等，在浮点数里 |q| 比 |x| 小得多时会有误差。

    出处:
        Bengio et al. 2013, arXiv:1308.3432。

    示例:
        >>> x = torch.tensor([0.4, 1.6], requires_grad=True)
        >>> straight_through(x, torch.round).square().sum().backward()
        >>> x.grad
        tensor([0., 4.])
    """
    require_floats("x", x)
    quantized = quantizer(x).detach()
    if quantized.shape != x.shape:
        shapes = f"{tuple(x.shape)} 变成了 {tuple(quantized.shape)}"
        raise ValueError(f"quantizer 不能改变形状，得到的形状由 {shapes}")
    return quantized + (x - x.detach())


def kink_gradients(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    r"""几个尖点上 PyTorch 给出的导数。

    Args:
        dtype: 浮点类型。

    Returns:
        键是函数，值是梯度：relu、abs、范数在零点，max 与 max(dim) 在 (1, 1)。

    Raises:
        ValueError: dtype 不是浮点类型。

    约定:
        前四个取次微分里范数最小的元素；max(dim) 取一个下标，是次微分的一个顶点。

    出处:
        PyTorch 文档 Autograd mechanics，Gradients for non-differentiable functions。

    示例:
        >>> kink_gradients()["max"]
        tensor([0.5000, 0.5000])
    """
    if not dtype.is_floating_point:
        raise ValueError(f"dtype 必须是浮点类型，得到 {dtype}")
    cases: dict[str, tuple[Callable[[Tensor], Tensor], list[float]]] = {
        "relu": (lambda x: torch.relu(x).sum(), [0.0]),
        "abs": (lambda x: x.abs().sum(), [0.0]),
        "norm": (lambda x: x.norm(), [0.0, 0.0]),
        "max": (lambda x: x.max(), [1.0, 1.0]),
        "max(dim)": (lambda x: x.max(dim=0).values, [1.0, 1.0]),
    }
    gradients = {}
    for name, (function, point) in cases.items():
        x = torch.tensor(point, dtype=dtype, requires_grad=True)
        (gradients[name],) = torch.autograd.grad(function(x), x)
    return gradients


def identity_by_relus(x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    r"""恒等函数的一种写法 relu(x) − relu(−x)；自动求导在零点给出 0 而不是 1。

    Args:
        x: 输入。

    Returns:
        与 x 相等的值。

    Raises:
        ValueError: x 不是实浮点张量。

    出处:
        Kakade & Lee 2018, arXiv:1809.08530 的例子。

    示例:
        >>> x = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
        >>> torch.autograd.grad(identity_by_relus(x).sum(), x)[0]
        tensor([1., 0., 1.])
    """
    require_floats("x", x)
    return torch.relu(x) - torch.relu(-x)
