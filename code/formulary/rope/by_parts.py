"""NTK-by-parts（YaRN 论文的写法）：斜坡随圈数上升，在频率上混合；以及在波长上混合的另一种。

约定:
    i 从 0 起；r_i = L·θ_i/2π 是第 i 对特征在训练长度 L 内转过的圈数。
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.rope.frequencies import inverse_frequencies
from formulary.rope.ramp import _require_positive, rotation_ramp
from formulary.rope.scaling import linear_frequencies


def by_parts_frequencies(
    d: int,
    base: float | int,
    factor: float | int,
    original_max_position_embeddings: int,
    alpha: float | int = 1.0,
    beta: float | int = 32.0,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, " pairs"]:
    r"""按圈数在 θ_i/s 与 θ_i 之间线性混合频率。

    Args:
        d: 特征维数，正偶数。
        base: 底数 b（无量纲），大于 0。
        factor: 长度倍数 s（无量纲），不小于 1。
        original_max_position_embeddings: 训练长度 L（步），正数。
        alpha: 不到 α 圈的对完全内插（圈）。
        beta: 超过 β 圈的对不动（圈），大于 alpha。
        dtype: 返回值的浮点类型。

    Returns:
        角频率 (1-γ(r_i))·θ_i/s + γ(r_i)·θ_i。

    Raises:
        ValueError: d 不是正偶数，factor 小于 1，L 不是正数，或 beta 不大于 alpha。

    出处:
        Peng et al. 2023, arXiv:2309.00071v2, 式 (18) 与式 (20)。

    示例:
        >>> theta = by_parts_frequencies(4, 10000.0, 4.0, 1257, alpha=1, beta=3)
        >>> [round(value, 6) for value in theta.tolist()]
        [1.0, 0.006252]
    """
    interpolated = linear_frequencies(d, base, factor, dtype)  # 兼查 d、base 与 factor
    theta = inverse_frequencies(d, float(base), dtype)
    gamma = _ramp(theta, original_max_position_embeddings, alpha, beta)
    return (1 - gamma) * interpolated + gamma * theta


def wavelength_by_parts_frequencies(
    d: int,
    base: float | int,
    factor: float | int,
    original_max_position_embeddings: int,
    alpha: float | int = 1.0,
    beta: float | int = 32.0,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, " pairs"]:
    r"""按圈数在 s·λ_i 与 λ_i 之间线性混合波长，再换算回频率。

    Args:
        d: 特征维数，正偶数。
        base: 底数 b（无量纲），大于 0。
        factor: 长度倍数 s（无量纲），不小于 1。
        original_max_position_embeddings: 训练长度 L（步），正数。
        alpha: 不到 α 圈的对完全内插（圈）。
        beta: 超过 β 圈的对不动（圈），大于 alpha。
        dtype: 返回值的浮点类型。

    Returns:
        角频率 θ_i / ((1-γ(r_i))·s + γ(r_i))，即 θ_i/s 与 θ_i 的加权调和平均。

    Raises:
        ValueError: d 不是正偶数，factor 小于 1，L 不是正数，或 beta 不大于 alpha。

    出处:
        jquesnelle/yarn, issue #24；arXiv:2309.00071v2 的脚注 4。

    示例:
        >>> theta = wavelength_by_parts_frequencies(4, 10000.0, 4.0, 1257, alpha=1, beta=3)
        >>> [round(value, 6) for value in theta.tolist()]
        [1.0, 0.004001]
    """
    stretched = 2 * math.pi / linear_frequencies(d, base, factor, dtype)  # 兼查参数
    theta = inverse_frequencies(d, float(base), dtype)
    wavelength = 2 * math.pi / theta
    gamma = _ramp(theta, original_max_position_embeddings, alpha, beta)
    return 2 * math.pi / ((1 - gamma) * stretched + gamma * wavelength)


def _ramp(
    theta: Float[Tensor, " pairs"], length: int, alpha: float | int, beta: float | int
) -> Float[Tensor, " pairs"]:
    """各对特征的斜坡 γ(r_i)，先检查训练长度。"""
    _require_positive("original_max_position_embeddings", length)
    return rotation_ramp(length * theta / (2 * math.pi), alpha, beta)
