"""直方图密度与泛化间隙：训练集上的平均对数似然减去数据分布下的期望。

约定:
    区间 [low, high] 等分成 K 格，下标从 0 起，每格左闭右开，最后一格含右端点。
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from formulary.checks import require_count, require_distribution, require_floats
from formulary.generative_models.divergences import kl_divergence


def bin_index(
    x: Float[Tensor, "*batch"], bins: int, low: float, high: float
) -> Int[Tensor, "*batch"]:
    r"""每个样本落在第几格。

    Args:
        x: 样本，都在 [low, high] 里。
        bins: 格数 K。
        low: 区间的左端。
        high: 区间的右端。

    Returns:
        格的下标，从 0 到 K − 1。

    Raises:
        ValueError: bins 不是正整数，区间不是有限的正长度，或有样本在区间之外。

    示例:
        >>> bin_index(torch.tensor([0.0, 0.5, 2.0]), 4, 0.0, 2.0)
        tensor([0, 1, 3])
    """
    require_count("bins", bins)
    require_floats("x", x)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"区间 [low, high] 必须有限且长度为正，得到 [{low}, {high}]")
    outside = ~((x >= low) & (x <= high))
    if outside.any():
        raise ValueError(f"x 必须在 [{low}, {high}] 里，得到 {x[outside][0].item()!r}")
    index = ((x - low) / (high - low) * bins).floor().long()
    return index.clamp(max=bins - 1)


def histogram_density(
    x: Float[Tensor, " N"], bins: int, low: float, high: float, pseudo_count: float = 0.0
) -> Float[Tensor, " K"]:
    r"""直方图密度：各格的高度。

    Args:
        x: 训练样本，都在 [low, high] 里。
        bins: 格数 K。
        low: 区间的左端。
        high: 区间的右端。
        pseudo_count: 每格预先加上的计数 α（个），非负。

    Returns:
        各格的密度（x 的单位的倒数）；高度乘格宽之和为 1。

    Raises:
        ValueError: bins、区间或 x 不合要求，条件同 bin_index；x 为空；pseudo_count 为负。

    出处:
        标准定义；α = 0 是最大似然估计，α > 0 是加 α 平滑。

    示例:
        >>> histogram_density(torch.tensor([0.1, 0.2, 0.3, 1.9]), 2, 0.0, 2.0)
        tensor([0.7500, 0.2500])
    """
    require_floats("x", x, "N")
    if not len(x) or not 0 <= pseudo_count < math.inf:
        raise ValueError(f"需要至少一个样本、非负的 pseudo_count，得到 {len(x)}、{pseudo_count}")
    counts = torch.bincount(bin_index(x, bins, low, high), minlength=bins).to(x.dtype)
    mass = (counts + pseudo_count) / (len(x) + bins * pseudo_count)
    return mass * bins / (high - low)


def generalization_gap(
    x: Float[Tensor, " N"],
    heights: Float[Tensor, " K"],
    bin_mass: Float[Tensor, " K"],
    low: float,
    high: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    r"""直方图模型的泛化间隙：训练集上的平均对数似然减去它在数据分布下的期望。

    Args:
        x: 训练样本，都在 [low, high] 里。
        heights: 直方图各格的密度。
        bin_mass: 数据分布落在各格的概率（无量纲），和为 1。
        low: 区间的左端。
        high: 区间的右端。

    Returns:
        训练集上的平均对数似然、期望对数似然、两者之差（nat）。

    Raises:
        ValueError: heights 不是密度，bin_mass 不是概率分布，或 x 与区间不合要求。

    约定:
        直方图在一格之内是常数，所以期望可以逐格精确地求，不必另抽测试集。
        有概率的格高度为零时，期望是负无穷。

    出处:
        标准定义。

    示例:
        >>> x, heights = torch.tensor([0.1, 0.2, 0.3, 1.9]), torch.tensor([0.75, 0.25])
        >>> gap = generalization_gap(x, heights, torch.tensor([0.5, 0.5]), 0.0, 2.0)
        >>> [round(value.item(), 4) for value in gap]
        [-0.5623, -0.837, 0.2747]
    """
    require_floats("x", x, "N")
    require_floats("heights", heights, "K")
    index = bin_index(x, len(heights), low, high)
    require_distribution("heights 乘格宽", heights * (high - low) / len(heights))
    require_floats("bin_mass", bin_mass, len(heights))
    require_distribution("bin_mass", bin_mass)
    train = heights.log()[index].mean()
    expected = torch.xlogy(bin_mass, heights).sum()
    return train, expected, train - expected


def categorical_gap(
    p: Float[Tensor, " K"], estimate: Float[Tensor, "*batch K"]
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    r"""频率估计的泛化间隙，以及它拆成的两个 KL 散度与一个零均值项之和。

    Args:
        p: 数据的分布，各状态的概率为正。
        estimate: 训练集里的频率 p̂，各状态的频率为正，可以有多个。

    Returns:
        间隙 Σ p̂ log p̂ − Σ p log p̂，以及
        D(p̂‖p) + D(p‖p̂) + Σ (p̂ − p) log p（nat）；两者相等。

    Raises:
        ValueError: p 或 estimate 不是概率分布、有零，或形状不合。

    出处:
        自行推导；期望约为 k/N，与 Akaike 1974 的修正一致。

    示例:
        >>> terms = categorical_gap(torch.tensor([0.5, 0.5]), torch.tensor([0.6, 0.4]))
        >>> [round(term.item(), 4) for term in terms]
        [0.0405, 0.0405]
    """
    require_floats("p", p, "K")
    require_floats("estimate", estimate, "...", len(p))
    for name, value in (("p", p), ("estimate", estimate)):
        require_distribution(name, value)
        if (value == 0).any():
            raise ValueError(f"{name} 的元素必须为正，得到 0")
    gap = ((estimate - p) * estimate.log()).sum(-1)
    same = p.expand_as(estimate)
    divergences = kl_divergence(estimate, same) + kl_divergence(same, estimate)
    return gap, divergences + ((estimate - p) * p.log()).sum(-1)
