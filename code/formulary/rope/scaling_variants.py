"""另外两种频率表：混合进制的 NTK，与逐对搜索的 LongRoPE。

约定:
    i 从 0 起，θ_i = base^(-2i/d)；角频率以弧度每步计。
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.rope.frequencies import inverse_frequencies
from formulary.rope.scaling import linear_frequencies


def mixed_ntk_frequencies(
    d: int,
    base: float | int,
    factor: float | int,
    power: float | int = 0.625,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, " pairs"]:
    r"""混合进制 NTK：第 i 对除以 exp(a·(i+1)^p)，最低频恰好除以 factor。

    Args:
        d: 特征维数，正偶数。
        base: 底数 b（无量纲），大于 0。
        factor: 长度倍数 s（无量纲），不小于 1。
        power: 指数 p（无量纲），在 0 与 1 之间：0 是位置内插，1 是等比的 NTK。
        dtype: 返回值的浮点类型。

    Returns:
        角频率 θ_i·exp(-a·(i+1)^p)，其中 a·(d/2)^p = ln s。

    Raises:
        ValueError: d 不是正偶数，base 不是正数，factor 小于 1，或 power 不在 0 与 1 之间。

    出处:
        苏剑林 2023, https://kexue.fm/archives/9706, 式 (12) 与式 (13)。

    示例:
        >>> theta = mixed_ntk_frequencies(4, 10000.0, 4.0, power=1.0)
        >>> [round(value, 6) for value in theta.tolist()]
        [0.5, 0.0025]
    """
    if not 0 <= power <= 1:
        raise ValueError(f"power 必须在 0 与 1 之间，得到 power={power}")
    interpolated = linear_frequencies(d, base, factor, dtype)  # 兼查 d、base 与 factor
    index = torch.arange(1, d // 2 + 1, dtype=dtype)
    share = (index / (d // 2)) ** power  # a·(i+1)^p 占 ln s 的比例
    return interpolated * factor ** (1 - share)


def longrope_frequencies(
    d: int,
    base: float | int,
    short_factors: Float[Tensor, " pairs"],
    long_factors: Float[Tensor, " pairs"],
    original_max_position_embeddings: int,
    seq_len: int,
) -> Float[Tensor, " pairs"]:
    r"""LongRoPE：每一对除以各自的系数，当前长度超过训练长度时换用另一组。

    Args:
        d: 特征维数，正偶数。
        base: 底数 b（无量纲），大于 0。
        short_factors: 不超过训练长度时的系数，d/2 个正数。
        long_factors: 超过训练长度时的系数，d/2 个正数。
        original_max_position_embeddings: 训练长度 L（步），正数。
        seq_len: 当前长度 ℓ（步），正数。

    Returns:
        角频率 θ_i 除以所选的系数，dtype 与系数相同。

    Raises:
        ValueError: 系数不是 d/2 个正数，长度不是正数，或 d 不是正偶数。

    出处:
        Hugging Face transformers 5.23.0, `_compute_longrope_parameters`。

    示例:
        >>> short, long = torch.tensor([1.0, 1.0]), torch.tensor([1.0, 4.0])
        >>> theta = longrope_frequencies(4, 10000.0, short, long, 100, seq_len=101)
        >>> [round(value, 6) for value in theta.tolist()]
        [1.0, 0.0025]
    """
    for name, factors in (("short_factors", short_factors), ("long_factors", long_factors)):
        if factors.shape != (d // 2,) or not bool((factors > 0).all()):
            raise ValueError(f"{name} 必须是 d/2 = {d // 2} 个正数，得到 {factors.tolist()}")
    for name, length in (
        ("original_max_position_embeddings", original_max_position_embeddings),
        ("seq_len", seq_len),
    ):
        if not length > 0:
            raise ValueError(f"{name} 必须是正数，得到 {name}={length}")
    factors = long_factors if seq_len > original_max_position_embeddings else short_factors
    return inverse_frequencies(d, float(base), factors.dtype) / factors


def longrope_attention_factor(factor: float | int, original_max_position_embeddings: int) -> float:
    r"""LongRoPE 的注意力系数：√(1 + ln s / ln L)，乘在余弦表与正弦表上。

    Args:
        factor: 长度倍数 s = L'/L（无量纲），不小于 1。
        original_max_position_embeddings: 训练长度 L（步），大于 1。

    Returns:
        系数 μ；s = 1 时是 1。

    Raises:
        ValueError: factor 小于 1，或 L 不大于 1。

    出处:
        Hugging Face transformers 5.23.0, `_compute_longrope_parameters`。

    示例:
        >>> round(longrope_attention_factor(32, 4096), 5)
        1.19024
    """
    if not 1 <= factor < math.inf:
        raise ValueError(f"factor 必须是不小于 1 的有限数，得到 factor={factor}")
    if not original_max_position_embeddings > 1:
        raise ValueError(
            "original_max_position_embeddings 必须大于 1（要取它的对数），"
            f"得到 {original_max_position_embeddings}"
        )
    return math.sqrt(1 + math.log(factor) / math.log(original_max_position_embeddings))
