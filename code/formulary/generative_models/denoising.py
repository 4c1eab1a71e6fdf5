"""去噪分数匹配与朗之万采样：给数据加噪、学噪声的方向、沿分数走回去。

约定:
    score 是逐行作用的函数，(N, n) → (N, n)；损失对样本取平均，对维数求和。
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_count, require_floats


def _require_positive(name: str, value: float) -> None:
    if not value > 0 or math.isinf(value):
        raise ValueError(f"{name} 必须是有限的正数，得到 {value!r}")


def denoising_score_matching_loss(
    score: Callable[[Tensor], Tensor],
    x: Float[Tensor, "N n"],
    sigma: float,
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    r"""去噪分数匹配：给样本加噪，让分数指回原来的样本。

    Args:
        score: 待学的分数，学到的是加噪后的分布的分数。
        x: N 个数据样本，每行一个。
        sigma: 噪声的标准差 σ（与 x 同单位）。
        generator: 随机数发生器。

    Returns:
        E‖s(x̃) + (x̃ − x)/σ²‖² 的单次估计，x̃ = x + σξ。

    Raises:
        ValueError: x 不是二维的实浮点张量；sigma 不是有限的正数。

    约定:
        最小值一般不是 0：最优解处还剩 E tr Var[x | x̃]/σ⁴，σ 很小时约为 n/σ²；
        多个 σ 一起学时各乘 σ²，使它们大小相当。

    出处:
        Vincent 2011, A Connection Between Score Matching and Denoising Autoencoders。

    示例:
        >>> x = torch.tensor([[2.0, -1.0]])  # 数据只有一个点时，最优分数使损失为 0
        >>> generator = torch.Generator().manual_seed(0)
        >>> loss = denoising_score_matching_loss(lambda y: (x - y) / 0.25, x, 0.5, generator)
        >>> round(loss.item(), 4)
        0.0
    """
    require_floats("x", x, "N", "n")
    _require_positive("sigma", sigma)
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    # x̃ − x = σξ，所以回归的目标是 −ξ/σ
    return (score(x + sigma * noise) + noise / sigma).square().sum(-1).mean()


def tweedie_mean(
    noisy: Float[Tensor, "*batch n"], score_values: Float[Tensor, "*batch n"], sigma: float
) -> Float[Tensor, "*batch n"]:
    r"""Tweedie 公式：由加噪分布的分数求原样本的后验均值。

    Args:
        noisy: 加噪的样本 x̃。
        score_values: 加噪分布在 x̃ 处的分数 ∇log p_σ(x̃)。
        sigma: 噪声的标准差 σ（与 x̃ 同单位）。

    Returns:
        E[x | x̃] = x̃ + σ²∇log p_σ(x̃)，均方误差最小的去噪结果。

    Raises:
        ValueError: 两个张量形状不同或不是实浮点；sigma 不是有限的正数。

    出处:
        Robbins 1956；Efron 2011, Tweedie's Formula and Selection Bias。

    示例:
        >>> tweedie_mean(torch.tensor([2.0]), torch.tensor([-1.0]), sigma=1.0)  # x ~ N(0, 1)
        tensor([1.])
    """
    require_floats("noisy", noisy)
    require_floats("score_values", score_values, *noisy.shape)
    _require_positive("sigma", sigma)
    return noisy + sigma**2 * score_values


def langevin_sample(
    score: Callable[[Tensor], Tensor],
    x: Float[Tensor, "N n"],
    step_size: float,
    steps: int,
    generator: torch.Generator,
) -> Float[Tensor, "N n"]:
    r"""朗之万采样：沿分数走一小步，再加一点噪声，重复若干次。

    Args:
        score: 分数函数。
        x: N 条链的起点，每行一条；不被改动。
        step_size: 步长 η（x 的单位的平方）。
        steps: 步数；0 步原样返回。
        generator: 随机数发生器。

    Returns:
        各链的终点；步长有限时，平稳分布与目标有偏差，见 langevin_variance。

    Raises:
        ValueError: x 不是二维的实浮点张量；step_size 不是有限的正数；steps 不是非负整数。

    约定:
        漂移乘 η/2，噪声乘 √η；整个过程不记录梯度。

    出处:
        Song & Ermon 2019, arXiv:1907.05600, 式 (4)。

    示例:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = langevin_sample(lambda x: -x, torch.zeros(1000, 1), 0.1, 100, generator)
        >>> bool(0.8 < x.var() < 1.2)
        True
    """
    require_floats("x", x, "N", "n")
    _require_positive("step_size", step_size)
    require_count("steps", steps, 0)
    with torch.no_grad():
        for _ in range(steps):
            noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
            x = x + step_size / 2 * score(x) + step_size**0.5 * noise
    return x


def langevin_variance(variance: float, step_size: float) -> float:
    r"""目标是高斯分布时，离散的朗之万链真正的平稳方差。

    Args:
        variance: 目标的方差 σ²。
        step_size: 步长 η（与方差同单位），小于 4σ²，否则链发散。

    Returns:
        平稳方差 σ²/(1 − η/(4σ²))，总是大于 σ²。

    Raises:
        ValueError: variance 不是有限的正数；step_size 不在 (0, 4σ²) 里。

    出处:
        由平稳条件 v = (1 − η/(2σ²))²v + η 解出；偏差见 Roberts & Tweedie 1996。

    示例:
        >>> langevin_variance(1.0, 2.0)
        2.0
    """
    _require_positive("variance", variance)
    _require_positive("step_size", step_size)
    if step_size >= 4 * variance:
        raise ValueError(f"step_size 必须小于 4·variance = {4 * variance}，得到 {step_size}")
    return variance / (1 - step_size / (4 * variance))
