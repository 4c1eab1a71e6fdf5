"""RoPE 的旋转：两种特征布局，以及它们之间的置换。

约定:
    交错布局把相邻两维 (2i, 2i+1) 当作一对（GPT-J、Meta Llama）；
    对半布局把 (i, i + d/2) 当作一对（GPT-NeoX、Hugging Face）。
    正位置沿逆时针方向旋转；角度在 float32（输入是 float64 时在 float64）里计算。
"""

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from formulary.rope.frequencies import inverse_frequencies


def rotate_interleaved(
    x: Float[Tensor, "*batch T d"],
    positions: Num[Tensor, " T"],
    base: float = 10_000.0,
) -> Float[Tensor, "*batch T d"]:
    r"""交错布局：把第 t 个词元的每对特征 (2i, 2i+1) 旋转角度 positions[t]·θ_i。

    Args:
        x: 查询或键，每行一个词元，d 为偶数。
        positions: 各词元的位置（步），整数或实数。
        base: 频率基数 b（无量纲）。

    Returns:
        旋转后的 x，形状与 dtype 不变；每对特征的范数不变。

    Raises:
        ValueError: d 为奇数，x 少于两维，或 positions 不是长为 T 的向量。

    出处:
        Su et al. 2021, arXiv:2104.09864v5, 式 (34)。
    """
    cos, sin = rotation_table(x, positions, base)
    even, odd = x[..., 0::2], x[..., 1::2]  # (*batch, T, pairs)
    rotated = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return rotated.flatten(-2).to(x.dtype)  # (*batch, T, d)


def rotate_half_split(
    x: Float[Tensor, "*batch T d"],
    positions: Num[Tensor, " T"],
    base: float = 10_000.0,
) -> Float[Tensor, "*batch T d"]:
    r"""对半布局：把第 t 个词元的每对特征 (i, i + d/2) 旋转角度 positions[t]·θ_i。

    Args:
        x: 查询或键，每行一个词元，d 为偶数。
        positions: 各词元的位置（步），整数或实数。
        base: 频率基数 b（无量纲）。

    Returns:
        旋转后的 x，形状与 dtype 不变；每对特征的范数不变。

    Raises:
        ValueError: d 为奇数，x 少于两维，或 positions 不是长为 T 的向量。

    出处:
        Hugging Face transformers 5.23.0, `apply_rotary_pos_emb`。
    """
    cos, sin = rotation_table(x, positions, base)
    first, second = x.chunk(2, dim=-1)  # (*batch, T, pairs)
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return rotated.to(x.dtype)


def interleaved_to_half_split(d: int) -> Int[Tensor, " d"]:
    r"""把交错布局变成对半布局的置换：x[..., p] 的前一半是偶数维，后一半是奇数维。

    Args:
        d: 特征维数，正偶数。

    Returns:
        置换 p = (0, 2, …, d-2, 1, 3, …, d-1)；torch.argsort(p) 是它的逆。

    Raises:
        ValueError: d 不是正偶数。

    出处:
        Hugging Face transformers, issue #25199。
    """
    if d <= 0 or d % 2:
        raise ValueError(f"d 必须是正偶数（每两维为一对），得到 d={d}")
    return torch.cat((torch.arange(0, d, 2), torch.arange(1, d, 2)))


def rotation_table(
    x: Float[Tensor, "*batch T d"], positions: Num[Tensor, " T"], base: float
) -> tuple[Float[Tensor, "T pairs"], Float[Tensor, "T pairs"]]:
    r"""各位置、各对特征的转角的余弦与正弦，两种布局共用。

    Args:
        x: 将被旋转的张量，只取它的形状、dtype 与设备。
        positions: 各词元的位置（步）。
        base: 频率基数 b（无量纲）。

    Returns:
        余弦表与正弦表；x 是 float64 时为 float64，否则为 float32。

    Raises:
        ValueError: d 为奇数，x 少于两维，或 positions 不是长为 T 的向量。
    """
    if x.ndim < 2:
        raise ValueError(f"x 至少要有 (T, d) 两维，得到形状 {tuple(x.shape)}")
    tokens, d = x.shape[-2:]
    if d % 2:
        raise ValueError(f"x 的最后一维 d 必须是偶数，得到 x 的形状 {tuple(x.shape)}")
    if positions.shape != (tokens,):
        raise ValueError(
            f"positions 的形状必须是 (T,) = ({tokens},)，得到 {tuple(positions.shape)}"
        )
    # bfloat16 里的角度到第 257 个位置就错了，所以角度至少用 float32
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    theta = inverse_frequencies(d, base, dtype).to(x.device)
    angles = positions.to(dtype)[:, None] * theta  # (T, pairs)
    return angles.cos(), angles.sin()
