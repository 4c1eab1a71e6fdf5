"""随机失活：训练时的缩放、输出的矩，以及它经过一个线性层之后留下的方差。"""

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats


def dropout(
    x: Float[Tensor, "*batch"], p: float, training: bool, generator: torch.Generator
) -> Float[Tensor, "*batch"]:
    r"""随机失活：训练时以概率 p 置零，留下的除以 1 − p；评估时原样返回。

    Args:
        x: 输入，各元素独立地失活。
        p: 失活的概率，在 [0, 1] 里（无量纲）。
        training: 是否处于训练模式，没有默认值。
        generator: 随机数发生器，评估时不用。

    Returns:
        与 x 同形状的输出。

    Raises:
        ValueError: x 不是浮点张量，或 p 不在 [0, 1] 里。

    约定:
        p 是丢掉的概率而不是保留的概率；p = 1 时输出全零。

    出处:
        Srivastava et al. 2014, JMLR 15；训练时就缩放的写法与 PyTorch 2.13 相同。

    示例:
        >>> dropout(torch.ones(1000), 0.75, True, torch.Generator().manual_seed(0)).unique()
        tensor([0., 4.])
    """
    require_floats("x", x)
    _require_probability(p)
    if not training:
        return x
    if p == 1:
        return torch.zeros_like(x)
    kept = torch.empty_like(x).bernoulli_(1 - p, generator=generator)
    return x * (kept / (1 - p))


def original_dropout(
    x: Float[Tensor, "*batch"], p: float, training: bool, generator: torch.Generator
) -> Float[Tensor, "*batch"]:
    r"""2014 年论文的写法：训练时只置零，评估时乘以保留的概率 1 − p。

    Args:
        x: 输入。
        p: 失活的概率，在 [0, 1] 里（无量纲）；论文的 p 是保留的概率，即这里的 1 − p。
        training: 是否处于训练模式。
        generator: 随机数发生器，评估时不用。

    Returns:
        与 x 同形状的输出。

    Raises:
        ValueError: x 不是浮点张量，或 p 不在 [0, 1] 里。

    约定:
        两种模式下都是 dropout 的 1 − p 倍。论文缩放的是下一层的权重，效果相同。

    出处:
        Srivastava et al. 2014, JMLR 15。

    示例:
        >>> original_dropout(torch.ones(2), 0.25, False, torch.Generator())
        tensor([0.7500, 0.7500])
    """
    require_floats("x", x)
    _require_probability(p)
    if not training:
        return (1 - p) * x
    return x * torch.empty_like(x).bernoulli_(1 - p, generator=generator)


def dropout_moments(
    x: Float[Tensor, "*batch"], p: float
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    r"""训练模式下输出的期望与方差：E[y] = x，Var[y] = p x² ÷ (1 − p)。

    Args:
        x: 输入，视为常数。
        p: 失活的概率，在 [0, 1) 里（无量纲）。

    Returns:
        期望（与 x 同单位）与方差（x 的单位的平方），只对掩码取。

    Raises:
        ValueError: x 不是浮点张量，或 p 不在 [0, 1) 里。

    约定:
        p = 1 时没有意义，拒绝。

    出处:
        由伯努利分布的矩直接得出。

    示例:
        >>> dropout_moments(torch.tensor([2.0]), 0.5)
        (tensor([2.]), tensor([4.]))
    """
    require_floats("x", x)
    _require_probability(p, open_end=True)
    return x, p / (1 - p) * x.square()


def dropout_linear_variance(
    x: Float[Tensor, "*batch d_in"], weight: Float[Tensor, "d_out d_in"], p: float
) -> Float[Tensor, "*batch d_out"]:
    r"""失活之后接一个线性层，输出的方差：各输入的方差按权重的平方相加。

    Args:
        x: 失活之前的输入，视为常数。
        weight: 线性层的权重 $W$；偏置不影响方差。
        p: 失活的概率，在 [0, 1) 里（无量纲）。

    Returns:
        线性层各输出的方差（输出的单位的平方），只对掩码取。

    Raises:
        ValueError: 形状对不上，或 p 不在 [0, 1) 里。

    约定:
        各输入的掩码相互独立。

    出处:
        由独立随机变量之和的方差直接得出。

    示例:
        >>> dropout_linear_variance(torch.tensor([1.0, 2.0]), torch.tensor([[3.0, 1.0]]), 0.5)
        tensor([13.])
    """
    require_floats("weight", weight, "d_out", "d_in")
    require_floats("x", x, "...", weight.shape[1])
    _, variance = dropout_moments(x, p)
    return variance @ weight.square().mT


def _require_probability(p: float, open_end: bool = False) -> None:
    """要求 p 在 [0, 1] 里；open_end 为真时不能等于 1。"""
    if not 0 <= p <= 1 or (open_end and p == 1):
        raise ValueError(f"p 必须在 [0, 1{')' if open_end else ']'} 里，得到 {p!r}")
