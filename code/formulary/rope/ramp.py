"""哪些特征对该内插：训练中没见过的角度，按圈数的斜坡与按下标的斜坡。

约定:
    i 从 0 起；圈数 r_i = L·θ_i/2π 是第 i 对特征在训练长度 L 内转过的圈数。
    斜坡取 1 表示频率不动（外推），取 0 表示频率除以 factor（内插）。
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def unseen_angles(
    scaled: Float[Tensor, " pairs"],
    original: Float[Tensor, " pairs"],
    factor: float | int,
    original_max_position_embeddings: int,
) -> Bool[Tensor, " pairs"]:
    r"""哪些对在长度 factor·L 内会转到训练长度 L 内从未出现的角度。

    Args:
        scaled: 修改后的角频率 θ'_i（弧度/步）。
        original: 训练时的角频率 θ_i（弧度/步）。
        factor: 长度倍数 s（无量纲），不小于 1。
        original_max_position_embeddings: 训练长度 L（步），正数。

    Returns:
        逐对的真假：训练时没转满一圈，并且 s·θ'_i > θ_i。

    Raises:
        ValueError: 两组频率长度不同，factor 小于 1，或 L 不是正数。

    约定:
        s·θ'_i 与 θ_i 的相对差不到 1e-5 时看作相等，免得舍入误差被当成新角度。

    示例:
        >>> theta = torch.tensor([1.0, 0.01])
        >>> unseen_angles(theta, theta, 4, 100).tolist()
        [False, True]
    """
    if scaled.shape != original.shape:
        raise ValueError(
            f"scaled 的形状必须与 original 的 {tuple(original.shape)} 相同，"
            f"得到 {tuple(scaled.shape)}"
        )
    if not 1 <= _number(factor) < math.inf:
        raise ValueError(f"factor 必须是不小于 1 的有限数，得到 factor={factor!r}")
    _require_positive("original_max_position_embeddings", original_max_position_embeddings)
    rotations = original_max_position_embeddings * original / (2 * math.pi)
    return (rotations < 1) & (factor * scaled > original * (1 + 1e-5))


def rotation_ramp(
    rotations: Float[Tensor, " pairs"], alpha: float | int = 1.0, beta: float | int = 32.0
) -> Float[Tensor, " pairs"]:
    r"""按圈数的斜坡：不到 alpha 圈取 0，超过 beta 圈取 1，其间随圈数线性上升。

    Args:
        rotations: 各对特征在训练长度内转过的圈数 r_i。
        alpha: 下界 α（圈），不小于 0。
        beta: 上界 β（圈），大于 alpha。

    Returns:
        斜坡 γ(r_i)，在 0 与 1 之间。

    Raises:
        ValueError: alpha 是负数，或 beta 不大于 alpha。

    出处:
        Peng et al. 2023, arXiv:2309.00071v2, 式 (18)。

    示例:
        >>> rotation_ramp(torch.tensor([0.5, 16.5, 40.0])).tolist()
        [0.0, 0.5, 1.0]
    """
    if not 0 <= _number(alpha) < _number(beta) < math.inf:
        raise ValueError(f"alpha 与 beta 必须满足 0 ≤ alpha < beta，得到 {alpha} 与 {beta}")
    return ((rotations - alpha) / (beta - alpha)).clamp(0, 1)


def rotation_index(
    d: int, base: float | int, original_max_position_embeddings: int, rotations: float | int
) -> float:
    r"""在训练长度 L 内恰好转 rotations 圈的那一对特征的（实数）下标。

    Args:
        d: 特征维数，正偶数。
        base: 底数 b（无量纲），大于 1。
        original_max_position_embeddings: 训练长度 L（步），正数。
        rotations: 圈数 ρ，正数。

    Returns:
        下标 j(ρ)；没有哪一对转得这么快时是负数。

    Raises:
        ValueError: d 不是正偶数，base 不大于 1，L 或 rotations 不是正数，或二者之比超出双精度。

    出处:
        jquesnelle/yarn, `find_correction_dim`。

    示例:
        >>> round(rotation_index(128, 10000.0, 4096, 32), 2)
        20.94
    """
    if not isinstance(d, int) or d < 2 or d % 2:
        raise ValueError(f"d 必须是正偶数（每两维为一对），得到 d={d!r}")
    if not 1 < _number(base) < math.inf:
        raise ValueError(f"base 必须是大于 1 的有限数（要除以 ln base），得到 base={base!r}")
    _require_positive("original_max_position_embeddings", original_max_position_embeddings)
    _require_positive("rotations", rotations)
    turns = original_max_position_embeddings / (rotations * 2 * math.pi)
    if not 0 < turns < math.inf:
        raise ValueError(f"rotations 与训练长度之比超出双精度的范围，得到 rotations={rotations!r}")
    return d * math.log(turns) / (2 * math.log(base))


def index_ramp(
    d: int,
    base: float | int,
    original_max_position_embeddings: int,
    beta_fast: float | int = 32.0,
    beta_slow: float | int = 1.0,
    truncate: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, " pairs"]:
    r"""按下标的斜坡（YaRN 的公开代码）：两个端点由圈数定出，其间随下标 i 线性下降。

    Args:
        d: 特征维数，正偶数。
        base: 底数 b（无量纲），大于 1。
        original_max_position_embeddings: 训练长度 L（步），正数。
        beta_fast: 转够这么多圈的对不内插（圈）。
        beta_slow: 转不满这么多圈的对完全内插（圈），小于 beta_fast。
        truncate: 是否把两个端点取整到更宽的一边。
        dtype: 返回值的浮点类型。

    Returns:
        斜坡 γ_i，从 1 降到 0。

    Raises:
        ValueError: beta_fast 不是有限的正数，beta_slow 不是正数或不小于 beta_fast，
            或其余参数无意义。

    约定:
        端点夹在 0 与 d-1 之间（原代码如此，不是 d/2-1）；两端点相等时退化成一级台阶。

    出处:
        Hugging Face transformers 5.23.0, `_compute_yarn_parameters`。

    示例:
        >>> index_ramp(8, 10000.0, 4096, beta_fast=32, beta_slow=4).tolist()
        [1.0, 1.0, 0.5, 0.0]
    """
    _require_positive("beta_fast", beta_fast)
    if not 0 < _number(beta_slow) < beta_fast:
        raise ValueError(
            "beta_slow 必须是小于 beta_fast 的正数，"
            f"得到 beta_slow={beta_slow!r}，beta_fast={beta_fast!r}"
        )
    low = rotation_index(d, base, original_max_position_embeddings, beta_fast)
    high = rotation_index(d, base, original_max_position_embeddings, beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, d - 1)
    if low == high:
        high += 1  # 下标是整数，与原代码加 0.001 结果相同
    index = torch.arange(d // 2, dtype=dtype)
    return 1 - ((index - low) / (high - low)).clamp(0, 1)


def _number(value: float | int) -> float:
    """换成 float 再比较：真假值、字符串、None 与双精度放不下的整数都成为 NaN，过不了比较。"""
    if isinstance(value, bool | str):
        return math.nan
    try:
        return float(value)
    except (TypeError, OverflowError):
        return math.nan


def _require_positive(name: str, value: float | int) -> None:
    """拒绝不是有限正数的参数。"""
    if not 0 < _number(value) < math.inf:
        raise ValueError(f"{name} 必须是有限的正数，得到 {name}={value!r}")
