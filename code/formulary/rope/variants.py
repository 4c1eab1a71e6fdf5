"""RoPE 的一维变体：部分旋转、按比例截断的频率，以及带指数缩放的 xPos。

约定:
    m 是查询的位置，n 是键的位置（步）；d 维特征分成 d/2 对，i 从 0 起。
"""

import torch
from jaxtyping import Float, Num
from torch import Tensor

from formulary.rope.decay import pair_products, phases
from formulary.rope.frequencies import inverse_frequencies
from formulary.rope.rotation import rotate_half_split, rotate_interleaved


def rotate_partial(
    x: Float[Tensor, "*batch T d"],
    positions: Num[Tensor, " T"],
    rotary_dim: int,
    base: float = 10_000.0,
) -> Float[Tensor, "*batch T d"]:
    r"""部分旋转：前 rotary_dim 维当作一个完整的 RoPE 头来旋转，其余各维原样通过。

    Args:
        x: 查询或键，每行一个词元。
        positions: 各词元的位置（步）。
        rotary_dim: 参与旋转的维数 d_r，正偶数，不超过 d。
        base: 底数 b（无量纲）。

    Returns:
        形状与 dtype 不变；后 d - d_r 维与输入逐位相同。

    Raises:
        ValueError: rotary_dim 不是不超过 d 的正偶数。

    约定:
        频率的分母是 d_r 而不是 d；配对在前 d_r 维之内做，取对半布局 (i, i + d_r/2)。

    出处:
        transformers 5.23.0 `modeling_gpt_neox.py`（rotary_pct = 0.25）。

    示例:
        >>> x = torch.tensor([[1.0, 0.0, 5.0, 6.0]])
        >>> rotate_partial(x, torch.tensor([torch.pi / 2]), rotary_dim=2).round() + 0.0
        tensor([[0., 1., 5., 6.]])
    """
    if rotary_dim % 2 or not 0 < rotary_dim <= x.shape[-1]:
        raise ValueError(
            f"rotary_dim 须为不超过 d={x.shape[-1]} 的正偶数，得到 rotary_dim={rotary_dim}"
        )
    rotated = rotate_half_split(x[..., :rotary_dim], positions, base)
    return torch.cat((rotated, x[..., rotary_dim:]), dim=-1)


def proportional_frequencies(
    d: int, proportion: float, base: float = 1_000_000.0, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "pairs"]:
    r"""按比例截断的频率：分母仍是 d，只留转得最快的那几对，其余置零。

    Args:
        d: 一个头的特征维数，正偶数。
        proportion: 参与旋转的特征对所占的比例 ρ（无量纲），0 到 1。
        base: 底数 b（无量纲）。
        dtype: 返回值的浮点类型。

    Returns:
        d/2 个角频率（弧度/步），前 ⌊ρd/2⌋ 个与普通 RoPE 相同，其余为 0。

    Raises:
        ValueError: d 不是正偶数，base 不是正数，或 proportion 不在 [0, 1]。

    约定:
        配合整个头的对半布局 (i, i + d/2) 使用。

    出处:
        Barbero et al. 2024, arXiv:2410.06205（p-RoPE）；
        transformers 5.23.0 `_compute_proportional_rope_parameters`。

    示例:
        >>> proportional_frequencies(8, 0.5, base=10000.0)
        tensor([1.0000, 0.1000, 0.0000, 0.0000])
    """
    if not 0 <= proportion <= 1:
        raise ValueError(f"proportion 须在 0 与 1 之间，得到 proportion={proportion}")
    theta = inverse_frequencies(d, base, dtype)
    kept = torch.arange(d // 2) < int(proportion * d // 2)
    return theta * kept  # (pairs,)


def rotate_xpos(
    x: Float[Tensor, "*batch T d"],
    positions: Num[Tensor, " T"],
    sign: int,
    base: float = 10_000.0,
    scale_base: float = 512.0,
) -> Float[Tensor, "*batch T d"]:
    r"""xPos：旋转之外，第 i 对特征再乘 ζ_i 的 ±位置/S 次方，查询取正、键取负。

    Args:
        x: 查询或键，每行一个词元，d 为偶数。
        positions: 各词元的位置（步）；查询与键必须用同一个原点。
        sign: 查询取 +1，键取 -1。
        base: 底数 b（无量纲）。
        scale_base: 缩放的步长 S（步）。

    Returns:
        旋转并缩放后的 x，形状与 dtype 不变。

    Raises:
        ValueError: sign 不是 ±1，scale_base 不是正数，或 x、positions 的形状不合。

    约定:
        ζ_i = (2i/d + 0.4) / 1.4，都小于 1；交错布局。

    出处:
        Sun et al. 2022, arXiv:2212.10554；rotary-embedding-torch 0.9.1。

    示例:
        >>> x = torch.tensor([[1.0, 0.0]])
        >>> rotate_xpos(x, torch.tensor([0]), sign=1)
        tensor([[1., 0.]])
    """
    if sign not in (1, -1):
        raise ValueError(f"sign 须为 +1（查询）或 -1（键），得到 sign={sign}")
    if not scale_base > 0:
        raise ValueError(f"scale_base 须为正数，得到 scale_base={scale_base}")
    rotated = rotate_interleaved(x, positions, base)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    d = x.shape[-1]
    zeta = (torch.arange(0, d, 2, dtype=dtype) / d + 0.4) / 1.4  # (pairs,)
    scale = zeta ** (sign * positions.to(dtype)[:, None] / scale_base)  # (T, pairs)
    return (rotated * scale.repeat_interleave(2, dim=-1)).to(x.dtype)


def xpos_score(
    q: Float[Tensor, " d"],
    k: Float[Tensor, " d"],
    deltas: Num[Tensor, " N"],
    base: float = 10_000.0,
    scale_base: float = 512.0,
) -> Float[Tensor, " N"]:
    r"""采用 xPos 时的内积：每个频率分量再乘 ζ_i^(Δ/S)，仍只依赖相对距离 Δ = m - n。

    Args:
        q: 查询，d 为偶数。
        k: 键，长度与 q 相同。
        deltas: 相对距离 m - n（步），因果注意力里非负。
        base: 底数 b（无量纲）。
        scale_base: 缩放的步长 S（步）。

    Returns:
        每个 Δ 的内积，没有除以 √d。

    Raises:
        ValueError: d 为奇数，q、k 长度不同，或 scale_base 不是正数。

    出处:
        Sun et al. 2022, arXiv:2212.10554。

    示例:
        >>> q = torch.tensor([1.0, 0.0])
        >>> xpos_score(q, q, torch.tensor([0, 512])) * torch.tensor([1.0, 3.5])
        tensor([ 1.0000, -0.9968])
    """
    if not scale_base > 0:
        raise ValueError(f"scale_base 须为正数，得到 scale_base={scale_base}")
    h = pair_products(q, k)  # (pairs,)
    zeta = (torch.arange(0, len(q), 2, dtype=q.dtype) / len(q) + 0.4) / 1.4
    decay = zeta ** (deltas.to(q.dtype)[:, None] / scale_base)  # (N, pairs)
    return (h * decay * phases(deltas, len(q), base, q.dtype)).sum(-1).real
