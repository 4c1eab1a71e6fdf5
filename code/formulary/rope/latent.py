"""多头潜在注意力（MLA）里的 RoPE：位置与内容分走两组特征。

约定:
    m 是查询的位置，n 是键的位置（步）；内容特征 d 维、不旋转，旋转特征 e 维、各头共用一份键。
"""

import math

import torch
from jaxtyping import Float, Num
from torch import Tensor

from formulary.rope.rotation import rotate_interleaved


def decoupled_scores(
    q_content: Float[Tensor, "*batch H T d"],
    k_content: Float[Tensor, "*batch H S d"],
    q_rotary: Float[Tensor, "*batch H T e"],
    k_rotary: Float[Tensor, "*batch S e"],
    query_positions: Num[Tensor, " T"],
    key_positions: Num[Tensor, " S"],
    base: float = 10_000.0,
) -> Float[Tensor, "*batch H T S"]:
    r"""解耦 RoPE 的分数：内容内积加旋转内积，除以两部分总维数的平方根。

    Args:
        q_content: 各头查询的内容部分 q^C。
        k_content: 各头键的内容部分 k^C。
        q_rotary: 各头查询的旋转部分 q^R，e 为偶数。
        k_rotary: 键的旋转部分 k^R，各头共用。
        query_positions: 查询的位置（步）。
        key_positions: 键的位置（步）。
        base: 底数 b（无量纲）。

    Returns:
        softmax 之前的分数，已除以 √(d + e)。

    Raises:
        ValueError: e 为奇数，或位置的长度与词元数不符。

    出处:
        DeepSeek-AI 2024, arXiv:2405.04434, 2.1.3 节。

    示例:
        >>> one, zero = torch.ones(1, 1, 2), torch.zeros(1)
        >>> decoupled_scores(one, one, one, one[0], zero, zero)
        tensor([[[2.]]])
    """
    content = q_content @ k_content.mT  # (*batch, H, T, S)
    q_turned = rotate_interleaved(q_rotary, query_positions, base)
    k_turned = rotate_interleaved(k_rotary, key_positions, base).unsqueeze(-3)
    width = q_content.shape[-1] + q_rotary.shape[-1]
    return (content + q_turned @ k_turned.mT) / math.sqrt(width)


def absorbed_matrix(
    up_query: Float[Tensor, "d D"],
    up_key: Float[Tensor, "d e"],
    offset: float = 0.0,
    base: float = 10_000.0,
) -> Float[Tensor, "D e"]:
    r"""两个升维矩阵之间夹一个旋转：W_UQᵀ·R_offset·W_UK，offset 为 0 时与位置无关。

    Args:
        up_query: 查询的升维矩阵 W_UQ，把 D 维潜在向量变成 d 维查询。
        up_key: 键的升维矩阵 W_UK，把 e 维潜在向量变成 d 维键；d 为偶数。
        offset: 键的位置减查询的位置 n - m（步）。
        base: 底数 b（无量纲）。

    Returns:
        潜在空间里的双线性型；offset 为 0 时可预先算好，并入查询一侧。

    Raises:
        ValueError: d 为奇数。

    出处:
        DeepSeek-AI 2024, arXiv:2405.04434, 2.1.3 节。

    示例:
        >>> absorbed_matrix(torch.eye(2), torch.eye(2), offset=torch.pi / 2).round() + 0.0
        tensor([[ 0., -1.],
                [ 1.,  0.]])
    """
    columns = up_key.mT  # (e, d)
    offsets = torch.full((len(columns),), offset, dtype=up_key.dtype)
    return up_query.mT @ rotate_interleaved(columns, offsets, base).mT


def latent_cache_ratio(latent: int, rotary: int, heads: int, head_dim: int) -> float:
    r"""MLA 每个词元、每层的缓存与多头注意力的缓存之比。

    Args:
        latent: 键值潜在向量的维数 d_c。
        rotary: 共用旋转键的维数 d_h^R。
        heads: 头数 n_h。
        head_dim: 多头注意力里一个头的键（值）维数 d_h。

    Returns:
        (d_c + d_h^R) / (2·n_h·d_h)（无量纲）。

    Raises:
        ValueError: 某个参数不是正数。

    出处:
        DeepSeek-AI 2024, arXiv:2405.04434, 2.1.4 节。

    示例:
        >>> latent_cache_ratio(512, 64, heads=128, head_dim=128)
        0.017578125
    """
    sizes = {"latent": latent, "rotary": rotary, "heads": heads, "head_dim": head_dim}
    for name, size in sizes.items():
        if size <= 0:
            raise ValueError(f"{name} 须为正整数，得到 {name}={size}")
    return (latent + rotary) / (2 * heads * head_dim)
