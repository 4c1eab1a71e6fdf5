"""RoPE 的频谱：每对特征多少步转一圈，训练长度内转几圈，与数位的类比。

约定:
    d 维特征分成 d/2 对，i 从 0 起；角度用弧度，位置、波长、长度用步。
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from formulary.rope.frequencies import inverse_frequencies


def wavelengths(
    d: int, base: float = 10_000.0, dtype: torch.dtype = torch.float32
) -> Float[Tensor, " pairs"]:
    r"""第 i 对特征的波长 λ_i = 2π/θ_i：转满一圈要走的步数。

    Args:
        d: 特征维数，正偶数。
        base: 底数 b（无量纲）。
        dtype: 返回值的浮点类型。

    Returns:
        d/2 个波长（步），base > 1 时从 λ_0 = 2π 起严格递增。

    Raises:
        ValueError: d 不是正偶数，或 base 不是有限的正数。

    出处:
        Peng et al. 2023, arXiv:2309.00071。

    示例:
        >>> wavelengths(8).round(decimals=1)
        tensor([   6.3000,   62.8000,  628.3000, 6283.2002])
    """
    return 2 * math.pi / inverse_frequencies(d, base, dtype)


def rotations(
    d: int, length: int, base: float = 10_000.0, dtype: torch.dtype = torch.float32
) -> Float[Tensor, " pairs"]:
    r"""第 i 对特征在长度 L 之内转过的圈数 r_i = L/λ_i。

    Args:
        d: 特征维数，正偶数。
        length: 序列长度 L（步），正整数。
        base: 底数 b（无量纲）。
        dtype: 返回值的浮点类型。

    Returns:
        d/2 个圈数（圈）；小于 1 的那些对在长度 L 内没有转满一圈。

    Raises:
        ValueError: length 不是正数，d 不是正偶数，或 base 不是有限的正数。

    出处:
        Peng et al. 2023, arXiv:2309.00071。

    示例:
        >>> rotations(8, 1000).round(decimals=2)
        tensor([159.1500,  15.9200,   1.5900,   0.1600])
    """
    if not length > 0:
        raise ValueError(f"length 必须是正数，得到 length={length}")
    return length / wavelengths(d, base, dtype)


def unfinished_pairs(d: int, length: int, base: float = 10_000.0) -> int:
    r"""在长度 L 之内转不满一圈的特征对有多少：由波长反解出分界的下标。

    Args:
        d: 特征维数，正偶数。
        length: 序列长度 L（步），正整数。
        base: 底数 b（无量纲），大于 1。

    Returns:
        波长大于 L 的特征对的个数，在 0 与 d/2 之间。

    Raises:
        ValueError: d 不是正偶数，length 不是正数，或 base 不大于 1。

    出处:
        Peng et al. 2023, arXiv:2309.00071；由 λ_i > L 解出 i。

    示例:
        >>> unfinished_pairs(128, 4096)
        18
    """
    if d <= 0 or d % 2:
        raise ValueError(f"d 必须是正偶数（每两维为一对），得到 d={d}")
    if not length > 0:
        raise ValueError(f"length 必须是正数，得到 length={length}")
    if not base > 1:
        raise ValueError(f"base 必须大于 1，得到 base={base}")
    boundary = d / 2 * math.log(length / (2 * math.pi), base)
    return min(max(d // 2 - 1 - math.floor(boundary), 0), d // 2)


def digits(n: Int[Tensor, " N"], radix: int, count: int) -> Int[Tensor, "N pairs"]:
    r"""非负整数 n 的 β 进制数位，从最低位起。

    Args:
        n: 非负整数。
        radix: 进制 β，至少为 2。
        count: 数位的个数。

    Returns:
        第 i 列是 ⌊n/βⁱ⌋ mod β，取值 0 到 β-1。

    Raises:
        ValueError: radix 小于 2，count 不是正数，或 n 含负数。

    出处:
        苏剑林，kexue.fm/archives/9675。

    示例:
        >>> digits(torch.tensor([2718]), radix=10, count=4)
        tensor([[8, 1, 7, 2]])
    """
    if radix < 2 or count < 1:
        raise ValueError(f"radix 至少为 2、count 至少为 1，得到 radix={radix}、count={count}")
    if (n < 0).any():
        raise ValueError(f"n 必须非负，得到最小值 {n.min().item()}")
    return n[:, None] // radix ** torch.arange(count) % radix


def clock_hands(
    n: Int[Tensor, " N"], d: int, base: float = 10_000.0, dtype: torch.dtype = torch.float32
) -> tuple[Float[Tensor, "N pairs"], Float[Tensor, "N pairs"]]:
    r"""把 n/βⁱ 画成表盘上的指针：余弦与正弦，β = b^{2/d}。

    Args:
        n: 位置（步）。
        d: 特征维数，正偶数。
        base: 底数 b（无量纲）。
        dtype: 返回值的浮点类型。

    Returns:
        cos(n/βⁱ) 与 sin(n/βⁱ)，i 从 0 到 d/2-1。

    Raises:
        ValueError: d 不是正偶数，或 base 不是有限的正数。

    出处:
        苏剑林，kexue.fm/archives/9675。

    示例:
        >>> clock_hands(torch.tensor([0, 10]), d=4, base=100.0)[0].round(decimals=2)
        tensor([[ 1.0000,  1.0000],
                [-0.8400,  0.5400]])
    """
    weights = 1 / inverse_frequencies(d, base, dtype)  # βⁱ
    hands = n[:, None] / weights  # (N, pairs)
    return hands.cos(), hands.sin()
