"""位置内插：把位置除以 s 再旋转，以及内插出的分数离线性插值有多远。

约定:
    分数写成 a(u) = Re Σ_i h_i e^{i u θ_i}，u 是（实数的）相对位置，θ_i = base^(-2i/d)，
    h_i 是第 i 对查询与键的复数乘积，共 d/2 个；u_1 < u_2 是两个网格点。
"""

import math

import torch
from jaxtyping import Complex, Float, Num
from torch import Tensor

from formulary.rope.frequencies import inverse_frequencies
from formulary.rope.rotation import rotate_interleaved


def rotate_interpolated(
    x: Float[Tensor, "*batch T d"],
    positions: Num[Tensor, " T"],
    factor: float | int,
    base: float | int = 10_000.0,
) -> Float[Tensor, "*batch T d"]:
    r"""把位置 m 当作 m/s 来旋转，于是 [0, s·L) 内的位置都落回 [0, L)。

    Args:
        x: 查询或键，每行一个词元，交错布局，d 为偶数。
        positions: 各词元的位置（步）。
        factor: 长度倍数 s = L'/L（无量纲），不小于 1。
        base: 底数 b（无量纲）。

    Returns:
        旋转后的 x，形状与 dtype 不变。

    Raises:
        ValueError: factor 小于 1，或 x 与 positions 的形状不合 rotate_interleaved 的要求。

    出处:
        Chen et al. 2023, arXiv:2306.15595v2, 式 (4)。

    示例:
        >>> x = torch.tensor([[1.0, 0.0]])
        >>> near = rotate_interleaved(x, torch.tensor([3]))
        >>> torch.equal(rotate_interpolated(x, torch.tensor([12]), factor=4), near)
        True
    """
    if not 1 <= factor < math.inf:
        raise ValueError(f"factor 必须是不小于 1 的有限数，得到 factor={factor}")
    return rotate_interleaved(x, positions.double() / factor, float(base))


def fourier_score(
    h: Complex[Tensor, " pairs"], offsets: Float[Tensor, " N"], base: float | int = 10_000.0
) -> Float[Tensor, " N"]:
    r"""相对位置为 u 时的分数 a(u)，u 可以不是整数。

    Args:
        h: 各对查询与键的复数乘积 h_i。
        offsets: 相对位置 u（步）。
        base: 底数 b（无量纲）。

    Returns:
        各个 u 处的分数（除以 √d 之前）。

    示例:
        >>> h = torch.ones(2, dtype=torch.complex64)
        >>> fourier_score(h, torch.tensor([0.0])).tolist()
        [2.0]
    """
    theta = inverse_frequencies(2 * len(h), float(base), offsets.dtype)
    phase = torch.polar(torch.ones(len(offsets), len(h)).to(theta), offsets[:, None] * theta)
    return (h * phase).real.sum(-1)  # (N,)


def chord(
    h: Complex[Tensor, " pairs"],
    left: float | int,
    right: float | int,
    offsets: Float[Tensor, " N"],
    base: float | int = 10_000.0,
) -> Float[Tensor, " N"]:
    r"""分数曲线在 u_1 与 u_2 两点间的弦：两端的分数按距离加权平均。

    Args:
        h: 各对查询与键的复数乘积 h_i。
        left: 左端点 u_1（步）。
        right: 右端点 u_2（步），大于 left。
        offsets: 相对位置 u（步），在两端点之间。
        base: 底数 b（无量纲）。

    Returns:
        各个 u 处弦的高度 a_lin(u)。

    Raises:
        ValueError: right 不大于 left。

    出处:
        Chen et al. 2023, arXiv:2306.15595v2, 式 (6)。

    示例:
        >>> h = torch.ones(1, dtype=torch.complex64)
        >>> chord(h, 0.0, 2.0, torch.tensor([0.0])).tolist()
        [1.0]
    """
    if not left < right:
        raise ValueError(f"right 必须大于 left，得到 left={left}，right={right}")
    ends = fourier_score(h, torch.tensor([left, right], dtype=offsets.dtype), base)
    weight = (offsets - left) / (right - left)
    return (1 - weight) * ends[0] + weight * ends[1]


def curvature_bounds(
    h: Complex[Tensor, " pairs"], offsets: Float[Tensor, " N"], base: float | int = 10_000.0
) -> Float[Tensor, "N 3"]:
    r"""分数曲线的二阶导数，以及它的两个一个比一个松的上界。

    Args:
        h: 各对查询与键的复数乘积 h_i。
        offsets: 相对位置 u（步）。
        base: 底数 b（无量纲），大于 1。

    Returns:
        三列依次是 |a''(u)|，Σ|h_i|θ_i²，以及 max|h_i|·Σθ_i²，
        其中 Σθ_i² 是几何级数，和为 (1-b^-2)/(1-b^(-4/d))。

    Raises:
        ValueError: base 不大于 1。

    示例:
        >>> h = torch.tensor([2 + 0j, 1 + 0j])
        >>> [round(v, 4) for v in curvature_bounds(h, torch.tensor([0.0]))[0].tolist()]
        [2.0001, 2.0001, 2.0002]
    """
    if not base > 1:
        raise ValueError(f"base 必须是大于 1 的有限数，得到 base={base}")
    theta = inverse_frequencies(2 * len(h), float(base), offsets.dtype)
    second = fourier_score(h * theta**2, offsets, base).abs()  # (N,)
    size = h.abs()
    ratio = base ** (-2 / len(h))  # θ_i² 的公比 b^(-4/d)
    bounds = torch.stack(
        (
            (size * theta**2).sum(),
            size.max() * (1 - base**-2) / (1 - ratio),
        )
    )
    return torch.cat((second[:, None], bounds.expand(len(offsets), 2)), dim=1)


def chord_error_bound(
    curvature: float | int, left: float | int, right: float | int, offsets: Float[Tensor, " N"]
) -> Float[Tensor, " N"]:
    r"""二阶导数不超过 curvature 的曲线，离它在两点间的弦最多有多远。

    Args:
        curvature: 二阶导数绝对值的上界 M，不小于 0。
        left: 左端点 u_1（步）。
        right: 右端点 u_2（步），大于 left。
        offsets: 相对位置 u（步），在两端点之间。

    Returns:
        M·(u-u_1)(u_2-u)/2。

    Raises:
        ValueError: curvature 是负数，right 不大于 left，或 offsets 不在两端点之间。

    示例:
        >>> chord_error_bound(2.0, 0.0, 4.0, torch.tensor([1.0])).tolist()
        [3.0]
    """
    if not curvature >= 0:
        raise ValueError(f"curvature 不能是负数，得到 curvature={curvature}")
    if not left < right:
        raise ValueError(f"right 必须大于 left，得到 left={left}，right={right}")
    if not bool(((offsets >= left) & (offsets <= right)).all()):
        raise ValueError(f"offsets 必须在 left={left} 与 right={right} 之间")
    return curvature * (offsets - left) * (right - offsets) / 2


def score_error_bound(
    h: Complex[Tensor, " pairs"],
    left: float | int,
    right: float | int,
    offsets: Float[Tensor, " N"],
    base: float | int = 10_000.0,
) -> Float[Tensor, " N"]:
    r"""内插分数与弦之差的上界，系数是 (1-b^-2)/(1-b^(-4/d))。

    Args:
        h: 各对查询与键的复数乘积 h_i。
        left: 左端点 u_1（步）。
        right: 右端点 u_2（步），大于 left。
        offsets: 相对位置 u（步），在两端点之间。
        base: 底数 b（无量纲），大于 1。

    Returns:
        各个 u 处 |a(u) - a_lin(u)| 的上界。

    Raises:
        ValueError: base 不大于 1，right 不大于 left，或 offsets 不在两端点之间。

    示例:
        >>> h = torch.ones(64, dtype=torch.complex64)
        >>> round(score_error_bound(h, 0, 1, torch.tensor([0.5])).item(), 4)
        0.4998
    """
    curvature = curvature_bounds(h, offsets, base)[:, 2].mean().item()  # 各行相同
    return chord_error_bound(curvature, left, right, offsets)


def published_error_bound(
    h: Complex[Tensor, " pairs"],
    left: float | int,
    right: float | int,
    offsets: Float[Tensor, " N"],
    base: float | int = 10_000.0,
) -> Float[Tensor, " N"]:
    r"""PI 论文定理 2.1 右端的值，系数是 d/(4 ln b)；它不是上界。

    Args:
        h: 各对查询与键的复数乘积 h_i。
        left: 左端点 u_1（步）。
        right: 右端点 u_2（步），大于 left。
        offsets: 相对位置 u（步），在两端点之间。
        base: 底数 b（无量纲），大于 1。

    Returns:
        d·max|h_i|·(u-u_1)(u_2-u)/(8 ln b)。

    Raises:
        ValueError: base 不大于 1，right 不大于 left，或 offsets 不在两端点之间。

    出处:
        Chen et al. 2023, arXiv:2306.15595v2, 式 (5)。

    示例:
        >>> h = torch.ones(64, dtype=torch.complex64)
        >>> round(published_error_bound(h, 0, 1, torch.tensor([0.5])).item(), 4)
        0.4343
    """
    if not 1 < base < math.inf:
        raise ValueError(f"base 必须是大于 1 的有限数，得到 base={base}")
    curvature = h.abs().max().item() * 2 * len(h) / (4 * math.log(base))
    return chord_error_bound(curvature, left, right, offsets)
