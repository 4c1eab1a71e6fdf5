"""语义聚合性：相近的查询与键应得到更高的内积，由此得到底数的下界。

约定:
    查询、键的各分量互不相关，方差同为 σ²，均值向量同为 μ；Δ = m - n（步）。
"""

import torch
from jaxtyping import Float, Num
from torch import Tensor

from formulary.rope.derivation import rotation_matrix
from formulary.rope.frequencies import inverse_frequencies


def aggregation_index(
    deltas: Num[Tensor, " N"], d: int, base: float = 10_000.0, dtype: torch.dtype = torch.float32
) -> Float[Tensor, " N"]:
    r"""余弦和 f_b(Δ) = Σ cos(Δθ_i)，也就是旋转矩阵的迹的一半。

    Args:
        deltas: 相对距离 Δ（步）。
        d: 特征维数，正偶数。
        base: 底数 b（无量纲）。
        dtype: 返回值的浮点类型。

    Returns:
        每个 Δ 的余弦和，f_b(0) = d/2。

    Raises:
        ValueError: d 不是正偶数，或 base 不是有限的正数。

    出处:
        Men et al. 2024, arXiv:2405.14591；苏剑林，kexue.fm/archives/10122。

    示例:
        >>> aggregation_index(torch.tensor([0, 1]), d=4, base=100.0)
        tensor([2.0000, 1.5353])
    """
    theta = inverse_frequencies(d, base, dtype)
    return (deltas.to(dtype)[:, None] * theta).cos().sum(-1)


def aggregation_gap(
    mean: Float[Tensor, " d"], sigma: float, delta: float, base: float = 10_000.0
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    r"""相近的键与无关的键的内积期望之差，推导的三行。

    Args:
        mean: 查询与键的均值向量 μ，d 为偶数。
        sigma: 每个分量的标准差 σ，不小于 0。
        delta: 相对距离 Δ（步）。
        base: 底数 b（无量纲）。

    Returns:
        Tr(R(σ²I + μμᵀ)) - μᵀRμ、σ² Tr R、2σ² Σ cos Δθ_i，三者应相等。

    Raises:
        ValueError: d 为奇数，或 sigma 是负数。

    出处:
        苏剑林，kexue.fm/archives/10122；Men et al. 2024, arXiv:2405.14591。

    示例:
        >>> gap = aggregation_gap(torch.tensor([1.0, 2.0]), sigma=3.0, delta=0.0)
        >>> [value.item() for value in gap]
        [18.0, 18.0, 18.0]
    """
    if sigma < 0:
        raise ValueError(f"sigma 是标准差，不能为负，得到 sigma={sigma}")
    d, dtype = len(mean), mean.dtype
    identity = torch.eye(d, dtype=dtype)
    rotation = rotation_matrix(delta, d, base, dtype)
    second_moment = sigma**2 * identity + torch.outer(mean, mean)
    cosines = (delta * inverse_frequencies(d, base, dtype)).cos().sum()
    similar, unrelated = torch.trace(rotation @ second_moment), mean @ rotation @ mean
    return similar - unrelated, sigma**2 * torch.trace(rotation), 2 * sigma**2 * cosines


def smallest_base(length: int, d: int, candidates: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    r"""候选底数中最小的一个，使 f_b(m) 在长度 L 之内处处不为负。

    Args:
        length: 序列长度 L（步），检查 m = 0, …, L-1。
        d: 特征维数，正偶数。
        candidates: 候选底数，升序，都大于 0；步长决定结果的精度。

    Returns:
        第一个合格的候选。合格的底数不成区间，所以要逐个检查，不能二分。

    Raises:
        ValueError: length 小于 1，d 不是正偶数，candidates 不是升序的正数，或没有候选合格。

    约定:
        位置从近到远逐个筛，很快只剩少数候选；候选多时先用粗网格，再在附近加密。

    出处:
        Men et al. 2024, arXiv:2405.14591；苏剑林，kexue.fm/archives/10122。

    示例:
        >>> smallest_base(64, d=128, candidates=torch.arange(50.0, 400.0, 10.0))
        tensor(110.)
    """
    if length < 1 or d <= 0 or d % 2:
        raise ValueError(f"length 至少为 1、d 须为正偶数，得到 length={length}、d={d}")
    if not (candidates > 0).all() or not (candidates.diff() > 0).all():
        raise ValueError(f"candidates 必须是升序的正数，得到 {candidates}")
    exponents = torch.arange(0, d, 2, dtype=candidates.dtype) / d
    theta = candidates[:, None] ** -exponents  # (N, pairs)
    for m in range(length):
        good = (m * theta).cos().sum(-1) >= 0
        candidates, theta = candidates[good], theta[good]
    if not len(candidates):
        raise ValueError(f"candidates 里没有底数能在 length={length} 内处处满足条件，请加大上限")
    return candidates[0]
