"""RoPE 的数值精度：位置、频率与转角在低精度里各丢掉多少。

约定:
    舍入到最近、平分取偶；单位舍入 u = 2^(-p)，p 是有效位数（含隐含的 1）：
    bfloat16 为 8，float16 为 11，float32 为 24，float64 为 53。误差都以 float64 为准。
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from formulary.rope.frequencies import inverse_frequencies


def unit_roundoff(dtype: torch.dtype) -> float:
    r"""单位舍入 u：舍入到该浮点类型的最大相对误差。

    Args:
        dtype: 浮点类型。

    Returns:
        u = 2^(-p)（无量纲），是 1 与下一个浮点数之距的一半。

    Raises:
        ValueError: dtype 不是浮点类型。

    示例:
        >>> unit_roundoff(torch.bfloat16) == 2**-8
        True
    """
    if not dtype.is_floating_point:
        raise ValueError(f"dtype 必须是浮点类型，得到 {dtype}")
    return torch.finfo(dtype).eps / 2


def largest_exact_position(dtype: torch.dtype) -> int:
    r"""从 0 数起，该浮点类型连续、无遗漏地表示得了的最大整数位置。

    Args:
        dtype: 浮点类型。

    Returns:
        2^p；位置 2^p + 1 已无法表示。

    Raises:
        ValueError: dtype 不是浮点类型。

    示例:
        >>> largest_exact_position(torch.bfloat16), largest_exact_position(torch.float16)
        (256, 2048)
    """
    return round(1 / unit_roundoff(dtype))


def distinct_positions(exponent: int, dtype: torch.dtype) -> int:
    r"""位置 0 到 2^K - 1 舍入到该浮点类型之后，还剩多少个不同的值。

    Args:
        exponent: 指数 K，非负；共有 2^K 个位置。
        dtype: 浮点类型。

    Returns:
        不同值的个数；K ≤ p 时一个不少。

    Raises:
        ValueError: exponent 为负，2^K 超出该类型的范围，或 dtype 不是浮点类型。

    示例:
        >>> distinct_positions(10, torch.bfloat16)
        513
    """
    exact = largest_exact_position(dtype)
    if exponent < 0 or (torch.tensor(2.0, dtype=dtype) ** exponent).isinf():
        raise ValueError(f"exponent 必须非负且 2^exponent 不超出 {dtype} 的范围，得到 {exponent}")
    if 2**exponent <= exact:
        return 2**exponent
    octaves = exponent - (exact.bit_length() - 1)  # K - p 个区间 [2^j, 2^(j+1))
    return exact + octaves * exact // 2 + 1  # 末尾的 1 是舍入成 2^K 的那些位置


def phase_error(
    positions: Int[Tensor, " T"],
    d: int,
    base: float = 10_000.0,
    dtype: torch.dtype = torch.bfloat16,
) -> tuple[Float[Tensor, "T pairs"], Float[Tensor, "T pairs"]]:
    r"""位置、频率与乘积都舍入到低精度时，转角的误差及其上界。

    Args:
        positions: 位置 m（步），整数。
        d: 特征维数，正偶数。
        base: 底数 b（无量纲）。
        dtype: 计算转角所用的浮点类型。

    Returns:
        误差与上界 ((1 + u)^3 - 1)·m·θ_i（弧度），float64。

    Raises:
        ValueError: 位置超出 dtype 的范围，最小的频率落入 dtype 的次正规数，
            d 不是正偶数，或 base 不是正数。

    示例:
        >>> error, bound = phase_error(torch.tensor([257]), d=2)
        >>> error.item(), error.item() <= bound.item()
        (1.0, True)
    """
    limits = torch.finfo(dtype)
    theta = inverse_frequencies(d, base, torch.float64)
    if positions.numel() and positions.abs().max() > limits.max:
        raise ValueError(f"positions 超出 {dtype} 的最大值 {limits.max}")
    if theta.min() < limits.tiny:
        raise ValueError(
            f"最小的频率 {theta.min():.3g} 低于 {dtype} 的正规数下限 {limits.tiny:.3g}"
        )
    m = positions.double()[:, None]
    exact = m * theta  # (T, pairs)
    rounded = m.to(dtype) * theta.to(dtype)
    growth = (1 + unit_roundoff(dtype)) ** 3 - 1
    return (rounded.double() - exact).abs(), growth * exact.abs()


def score_change(
    q: Float[Tensor, " d"],
    k: Float[Tensor, " d"],
    distance: float,
    phase_errors: Float[Tensor, " pairs"],
    base: float = 10_000.0,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    r"""各对特征的相对转角偏离 δ_i 时，一个注意力分数（未除以 √d）的变化及其上界。

    Args:
        q: 未旋转的查询。
        k: 未旋转的键。
        distance: 查询与键的位置之差 m - n（步）。
        phase_errors: 各对特征的相对转角误差 δ_i（弧度）。
        base: 底数 b（无量纲）。

    Returns:
        分数的变化，与其绝对值的上界 Σ|h_i|·min(|δ_i|, 2)。

    Raises:
        ValueError: q、k、phase_errors 的长度对不上，或 d 不是正偶数。

    示例:
        >>> q = torch.tensor([1.0, 0.0])
        >>> change, bound = score_change(q, q, 0.0, torch.tensor([3.0]))
        >>> round(change.item(), 2), bound.item()
        (-1.99, 2.0)
    """
    if q.shape != k.shape or 2 * phase_errors.numel() != q.numel():
        raise ValueError(
            "q 与 k 必须同长、phase_errors 的长度必须是其一半，"
            f"得到 {tuple(q.shape)}、{tuple(k.shape)}、{tuple(phase_errors.shape)}"
        )
    angles = distance * inverse_frequencies(q.numel(), base, q.dtype)  # (pairs,)
    h_real = (q * k).view(-1, 2).sum(-1)
    h_imag = q[1::2] * k[0::2] - q[0::2] * k[1::2]
    wrong = angles + phase_errors
    change = h_real * (wrong.cos() - angles.cos()) - h_imag * (wrong.sin() - angles.sin())
    bound = torch.hypot(h_real, h_imag) * phase_errors.abs().clamp(max=2)
    return change.sum(), bound.sum()


def table_rounding(
    angles: Float[Tensor, "T pairs"], dtype: torch.dtype = torch.bfloat16
) -> tuple[Float[Tensor, "T pairs"], float]:
    r"""转角准确、余弦表与正弦表经 float32 舍入到低精度时，表的误差及其上界。

    Args:
        angles: 转角（弧度），float64。
        dtype: 存表所用的浮点类型，不高于 float32。

    Returns:
        余弦与正弦两项误差中较大者，与上界 (u + u_32) / 2（无量纲）；上界与位置无关。

    Raises:
        ValueError: angles 不是 float64，或 dtype 不是浮点类型。

    约定:
        float64 先舍入到 float32，再舍入到 dtype，u_32 = 2^(-24) 是第一次的份。

    示例:
        >>> error, bound = table_rounding(torch.tensor([[0.0]], dtype=torch.float64))
        >>> error.item(), bound == 2**-9 + 2**-25
        (0.0, True)
    """
    if angles.dtype != torch.float64:
        raise ValueError(f"angles 必须是 float64，作误差的基准，得到 {angles.dtype}")
    bound = (unit_roundoff(dtype) + unit_roundoff(torch.float32)) / 2
    cos, sin = angles.cos(), angles.sin()
    stored_cos, stored_sin = cos.float().to(dtype), sin.float().to(dtype)
    return torch.maximum((stored_cos - cos).abs(), (stored_sin - sin).abs()), bound


def rounded_table_rotation(
    x: Float[Tensor, "T d"],
    angles: Float[Tensor, "T pairs"],
    dtype: torch.dtype = torch.bfloat16,
) -> tuple[Float[Tensor, " T"], Float[Tensor, " T"]]:
    r"""用经 float32 舍入过的余弦表、正弦表旋转 x，结果偏离准确旋转多远，及其上界。

    Args:
        x: 查询或键，float64，交错布局。
        angles: 转角（弧度），float64。
        dtype: 存表所用的浮点类型，不高于 float32。

    Returns:
        各行误差的范数，与上界 (u + u_32)/√2 乘以该行的范数。

    Raises:
        ValueError: x 或 angles 不是 float64，或两者形状对不上。

    示例:
        >>> x, angles = torch.ones(1, 2).double(), torch.zeros(1, 1).double()
        >>> rounded_table_rotation(x, angles)[0].item()
        0.0
    """
    if x.dtype != torch.float64 or angles.dtype != torch.float64:
        raise ValueError(f"x 与 angles 必须是 float64，得到 {x.dtype} 与 {angles.dtype}")
    if x.ndim != 2 or angles.shape != (x.shape[0], x.shape[1] / 2):
        raise ValueError(
            "x 与 angles 的形状必须是 (T, d) 与 (T, d/2)，"
            f"得到 {tuple(x.shape)} 与 {tuple(angles.shape)}"
        )
    turn = torch.polar(torch.ones_like(angles), angles)  # (T, pairs)，复数
    cos, sin = (table.float().to(dtype).double() for table in (turn.real, turn.imag))
    rounded = torch.complex(cos, sin)
    z = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    error = (z * (rounded - turn)).abs().square().sum(-1).sqrt()
    growth = (unit_roundoff(dtype) + unit_roundoff(torch.float32)) / 2**0.5
    return error, growth * x.norm(dim=-1)
