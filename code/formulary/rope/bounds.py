"""内积的两个上界：Abel 界与平凡界，以及前者胜过后者的条件。

约定:
    Δ = m - n（步）；h_i 是每对特征的复数乘积，h_{d/2} 规定为 0；S_j 是相位的部分和。
"""

import math

import torch
from jaxtyping import Complex, Float, Num
from torch import Tensor

from formulary.rope.decay import increments, partial_sums


def abel_bound(
    h: Complex[Tensor, " pairs"], deltas: Num[Tensor, " N"], base: float = 10_000.0
) -> Float[Tensor, " N"]:
    r"""Abel 界：h 的最大变化乘以部分和的模之和。

    Args:
        h: 每对特征的复数乘积。
        deltas: 相对距离 Δ（步）。
        base: 底数 b（无量纲）。

    Returns:
        每个 Δ 的上界，不小于 |Σ h_i exp(iΔθ_i)|。

    Raises:
        ValueError: h 是空的，或 base 不是有限的正数。

    出处:
        Su et al. 2021, arXiv:2104.09864v5, 3.4.3 节；苏剑林，kexue.fm/archives/8265, 式 (16)。

    示例:
        >>> abel_bound(torch.tensor([1.0 + 0j, 0.5 + 0j]), torch.tensor([0]))
        tensor([1.5000])
    """
    sums = partial_sums(deltas, 2 * len(h), base, h.real.dtype)
    return increments(h).abs().max() * sums.abs().sum(-1)


def mean_partial_sum(
    deltas: Num[Tensor, " N"], d: int, base: float = 10_000.0, dtype: torch.dtype = torch.float32
) -> Float[Tensor, " N"]:
    r"""部分和的模的平均 B(Δ)：Abel 界中只与距离和频率有关的因子。

    Args:
        deltas: 相对距离 Δ（步）。
        d: 特征维数，正偶数。
        base: 底数 b（无量纲）。
        dtype: 返回值的浮点类型。

    Returns:
        每个 Δ 的 B(Δ)，在 1/2 与 B(0) = (d/2 + 1)/2 之间。

    Raises:
        ValueError: d 不是正偶数，或 base 不是有限的正数。

    出处:
        苏剑林，kexue.fm/archives/8265。

    示例:
        >>> mean_partial_sum(torch.tensor([0]), d=128)
        tensor([32.5000])
    """
    return partial_sums(deltas, d, base, dtype).abs().mean(-1)


def trivial_bound(h: Complex[Tensor, "*batch pairs"]) -> Float[Tensor, "*batch"]:
    r"""平凡界：每一项取模再相加，与距离无关。

    Args:
        h: 每对特征的复数乘积。

    Returns:
        Σ|h_i|，不小于任何距离上的 |Σ h_i exp(iΔθ_i)|。

    出处:
        三角不等式。

    示例:
        >>> trivial_bound(torch.tensor([3 + 4j, 2j]))
        tensor(7.)
    """
    return h.abs().sum(-1)


def partial_sum_floor(d: int) -> int:
    r"""部分和的模之和的下界 ⌈d/4⌉：相邻两个部分和不能同时很小。

    Args:
        d: 特征维数，正偶数。

    Returns:
        ⌈d/4⌉，不大于任何 Δ、任何 b 的 Σ|S_j|。

    Raises:
        ValueError: d 不是正偶数。

    出处:
        由 |S_{j+1} - S_j| = 1 推出。

    示例:
        >>> partial_sum_floor(128)
        32
    """
    if d <= 0 or d % 2:
        raise ValueError(f"d 必须是正偶数（每两维为一对），得到 d={d}")
    return math.ceil(d / 4)


def smoothness(h: Complex[Tensor, " pairs"]) -> Float[Tensor, ""]:
    r"""平滑度：h 的平均模长除以最大的变化；它大于 B(Δ) 时 Abel 界才更紧。

    Args:
        h: 每对特征的复数乘积，不全为 0。

    Returns:
        无量纲的比值，不超过 (d/2 + 1)/2，线性降到 0 的 h 取到最大。

    Raises:
        ValueError: h 全为 0。

    出处:
        比较 Abel 界与平凡界得到。

    示例:
        >>> smoothness(torch.tensor([1.0 + 0j, 0.5 + 0j]))
        tensor(1.5000)
    """
    if not h.abs().max() > 0:
        raise ValueError("h 不能全为 0：最大的变化为 0，比值没有意义")
    return h.abs().mean() / increments(h).abs().max()
