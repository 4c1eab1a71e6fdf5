"""长度外推的频率表：把训练长度 L 扩到 L' = factor·L 时，各对特征的新角频率。

与 Hugging Face 的 ROPE_INIT_FUNCTIONS 同名的方法逐对相等；参数也沿用它的名字。
YaRN 论文自己的写法（斜坡随圈数上升）见 by_parts 模块。

约定:
    i 从 0 起，θ_i = base^(-2i/d)；返回的角频率以弧度每步计，位置仍是 0、1、2……
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.rope.frequencies import inverse_frequencies
from formulary.rope.ramp import _number, _require_positive, index_ramp


def linear_frequencies(
    d: int, base: float | int, factor: float | int, dtype: torch.dtype = torch.float32
) -> Float[Tensor, " pairs"]:
    r"""位置内插（PI）：所有角频率同除以 factor。

    Args:
        d: 特征维数，正偶数。
        base: 底数 b（无量纲），大于 0。
        factor: 长度倍数 s = L'/L（无量纲），不小于 1。
        dtype: 返回值的浮点类型。

    Returns:
        角频率 θ_i/s。

    Raises:
        ValueError: d 不是正偶数，base 不是正数，或 factor 小于 1。

    出处:
        Chen et al. 2023, arXiv:2306.15595v2, 式 (4)。

    示例:
        >>> [round(value, 6) for value in linear_frequencies(4, 10000.0, 4.0).tolist()]
        [0.25, 0.0025]
    """
    _require_factor(factor)
    _require_positive("base", base)
    return inverse_frequencies(d, float(base), dtype) / factor


def ntk_frequencies(
    d: int, base: float | int, factor: float | int, dtype: torch.dtype = torch.float32
) -> Float[Tensor, " pairs"]:
    r"""NTK-aware：把底数换成 base·factor^(d/(d-2))，最高频不变，最低频恰好除以 factor。

    Args:
        d: 特征维数，不小于 4 的偶数。
        base: 底数 b（无量纲），大于 0。
        factor: 长度倍数 s = L'/L（无量纲），不小于 1。
        dtype: 返回值的浮点类型。

    Returns:
        角频率 θ_i·s^(-2i/(d-2))。

    Raises:
        ValueError: d 不是不小于 4 的偶数，base 不是正数，factor 小于 1，或新底数超出双精度。

    约定:
        d = 2 时唯一的一对既是最高频又是最低频，两个要求矛盾，因此不接受。

    出处:
        Peng et al. 2023, arXiv:2309.00071v2, 式 (16)。

    示例:
        >>> [round(value, 6) for value in ntk_frequencies(4, 10000.0, 4.0).tolist()]
        [1.0, 0.0025]
    """
    _require_factor(factor)
    _require_two_pairs(d)
    return inverse_frequencies(d, _stretched_base(d, base, factor), dtype)


def dynamic_ntk_frequencies(
    d: int,
    base: float | int,
    factor: float | int,
    max_position_embeddings: int,
    seq_len: int,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, " pairs"]:
    r"""动态 NTK：底数随当前长度增长，长度不超过训练长度时频率不变。

    Args:
        d: 特征维数，不小于 4 的偶数。
        base: 底数 b（无量纲），大于 0。
        factor: 系数 α（无量纲），不小于 1；它不是长度倍数。
        max_position_embeddings: 训练长度 L（步），正数。
        seq_len: 当前长度 ℓ（步），正数，可以小于 L。
        dtype: 返回值的浮点类型。

    Returns:
        底数为 base·(α·ℓ/L - α + 1)^(d/(d-2)) 的角频率，其中 ℓ 至少取 L。

    Raises:
        ValueError: d 不是不小于 4 的偶数，factor 小于 1，其余参数不是正数，或新底数超出双精度。

    出处:
        Hugging Face transformers 5.23.0, `_compute_dynamic_ntk_parameters`。

    示例:
        >>> theta = dynamic_ntk_frequencies(4, 10000.0, 2.0, 100, seq_len=150)
        >>> [round(value, 6) for value in theta.tolist()]
        [1.0, 0.005]
    """
    _require_factor(factor)
    _require_two_pairs(d)
    _require_positive("max_position_embeddings", max_position_embeddings)
    _require_positive("seq_len", seq_len)
    length = max(seq_len, max_position_embeddings)
    stretch = float(factor) * length / max_position_embeddings - (factor - 1)
    return inverse_frequencies(d, _stretched_base(d, base, stretch), dtype)


def yarn_frequencies(
    d: int,
    base: float | int,
    factor: float | int,
    original_max_position_embeddings: int,
    beta_fast: float | int = 32.0,
    beta_slow: float | int = 1.0,
    truncate: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, " pairs"]:
    r"""YaRN 公开代码的频率：高频不动，低频除以 factor，其间按下标线性过渡。

    Args:
        d: 特征维数，正偶数。
        base: 底数 b（无量纲），大于 1。
        factor: 长度倍数 s = L'/L（无量纲），不小于 1。
        original_max_position_embeddings: 训练长度 L（步），正数。
        beta_fast: 转够这么多圈的对不内插（圈）。
        beta_slow: 转不满这么多圈的对完全内插（圈），小于 beta_fast。
        truncate: 是否把过渡段的两个端点取整。
        dtype: 返回值的浮点类型。

    Returns:
        角频率 (1-γ_i)·θ_i/s + γ_i·θ_i，γ_i 是按下标的斜坡。

    Raises:
        ValueError: d 为奇数，factor 小于 1，beta_slow 不小于 beta_fast，或其余参数无意义。

    约定:
        斜坡按下标而不按圈数取值，与 YaRN 论文的式 (18) 不同。

    出处:
        Hugging Face transformers 5.23.0, `_compute_yarn_parameters`。

    示例:
        >>> [round(value, 6) for value in yarn_frequencies(4, 10000.0, 4.0, 4096).tolist()]
        [1.0, 0.00625]
    """
    keep = index_ramp(
        d, base, original_max_position_embeddings, beta_fast, beta_slow, truncate, dtype
    )
    interpolated = linear_frequencies(d, base, factor, dtype)
    return interpolated * (1 - keep) + inverse_frequencies(d, float(base), dtype) * keep


def yarn_attention_factor(
    factor: float | int,
    mscale: float | int | None = None,
    mscale_all_dim: float | int | None = None,
) -> float:
    r"""YaRN 的注意力系数 μ：乘在余弦表与正弦表上，分数因此乘以 μ²。

    Args:
        factor: 长度倍数 s（无量纲），不小于 1。
        mscale: 分子里 ln s 的权重（无量纲）。
        mscale_all_dim: 分母里 ln s 的权重（无量纲）。

    Returns:
        0.1·ln s + 1；两个权重都给出且都不为 0 时是
        (0.1·mscale·ln s + 1) / (0.1·mscale_all_dim·ln s + 1)。

    Raises:
        ValueError: factor 小于 1，或权重是负数。

    约定:
        只给一个权重，或有一个为 0，等于都不给（与 Hugging Face 相同）。

    出处:
        Peng et al. 2023, arXiv:2309.00071v2, 式 (22)；权重见
        Hugging Face transformers 5.23.0, `_compute_yarn_parameters`。

    示例:
        >>> round(yarn_attention_factor(8.0), 4)
        1.2079
    """
    _require_factor(factor)
    for name, weight in (("mscale", mscale), ("mscale_all_dim", mscale_all_dim)):
        if weight is not None and not 0 <= _number(weight) < math.inf:
            raise ValueError(f"{name} 必须是 None 或非负的有限数，得到 {name}={weight!r}")
    if mscale and mscale_all_dim:
        log_factor = 0.1 * math.log(factor)
        return (mscale * log_factor + 1) / (mscale_all_dim * log_factor + 1)
    return 0.1 * math.log(factor) + 1


def llama3_frequencies(
    d: int,
    base: float | int,
    factor: float | int,
    low_freq_factor: float | int,
    high_freq_factor: float | int,
    original_max_position_embeddings: int,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, " pairs"]:
    r"""Llama 3.1 的频率：短波长不动，长波长除以 factor，其间按圈数线性过渡。

    Args:
        d: 特征维数，正偶数。
        base: 底数 b（无量纲），大于 0。
        factor: 长度倍数 s（无量纲），不小于 1。
        low_freq_factor: 下界 l（圈），正数：波长大于 L/l 的对完全内插。
        high_freq_factor: 上界 h（圈），大于 l：波长小于 L/h 的对不动。
        original_max_position_embeddings: 训练长度 L（步），正数。
        dtype: 返回值的浮点类型。

    Returns:
        新的角频率；与圈数斜坡的下上界取 (l, h) 的 NTK-by-parts 相等。

    Raises:
        ValueError: d 为奇数，factor 小于 1，low_freq_factor 不小于 high_freq_factor，
            或其余参数不是正数。

    出处:
        Hugging Face transformers 5.23.0, `_compute_llama3_parameters`。

    示例:
        >>> theta = llama3_frequencies(4, 10000.0, 4.0, 1, 4, 1257)
        >>> [round(value, 6) for value in theta.tolist()]
        [1.0, 0.005001]
    """
    _require_factor(factor)
    _require_positive("base", base)
    _require_positive("original_max_position_embeddings", original_max_position_embeddings)
    _require_positive("high_freq_factor", high_freq_factor)
    if not 0 < _number(low_freq_factor) < high_freq_factor:
        raise ValueError(
            "low_freq_factor 必须是小于 high_freq_factor 的正数，"
            f"得到 low_freq_factor={low_freq_factor!r}，high_freq_factor={high_freq_factor!r}"
        )
    theta = inverse_frequencies(d, float(base), dtype)
    wavelength = 2 * math.pi / theta
    rotations = original_max_position_embeddings / wavelength
    sigma = (rotations - low_freq_factor) / (high_freq_factor - low_freq_factor)
    sigma = sigma.clamp(0, 1)  # 长波长（不足 l 圈）取 0，短波长（超过 h 圈）取 1
    return (1 - sigma) * theta / factor + sigma * theta


def _require_factor(factor: float | int) -> None:
    """拒绝小于 1、无穷大或非数的长度倍数。"""
    if not 1 <= _number(factor) < math.inf:
        raise ValueError(f"factor 必须是不小于 1 的有限数，得到 factor={factor!r}")


def _require_two_pairs(d: int) -> None:
    """拒绝奇数与只有一对的 d = 2：换底数时最高频与最低频必须是不同的两对。"""
    if not isinstance(d, int) or d < 4 or d % 2:
        raise ValueError(f"d 必须是不小于 4 的偶数（至少两对，指数是 d/(d-2)），得到 d={d!r}")


def _stretched_base(d: int, base: float | int, stretch: float | int) -> float:
    """换底数：base·stretch^(d/(d-2))；先查底数，再拒绝双精度放不下的结果。"""
    _require_positive("base", base)
    power = d / (d - 2)
    if not math.log(base) + power * math.log(stretch) < 709:  # e^709 还放得下
        raise ValueError(f"factor 太大（或长度太长）：新底数超出双精度，有效倍数是 {stretch}")
    return base * stretch**power
