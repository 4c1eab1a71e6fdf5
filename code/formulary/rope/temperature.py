"""注意力的温度：YaRN 的 0.1 ln s + 1 与随长度增长的 log n。

约定:
    温度 t 除在分数上，t < 1 使注意力更集中；对数都是自然对数。
"""

import math

import torch
from jaxtyping import Float, Num
from torch import Tensor

from formulary.rope.scaling import yarn_attention_factor


def yarn_attention_weights(
    q: Float[Tensor, "*batch T d"], k: Float[Tensor, "*batch S d"], factor: float | int
) -> Float[Tensor, "*batch T S"]:
    r"""带温度的注意力权重：分数除以 t·√d，其中 √(1/t) = 0.1 ln s + 1。

    Args:
        q: 旋转后的查询。
        k: 旋转后的键。
        factor: 长度倍数 s（无量纲），不小于 1。

    Returns:
        各查询对各键的权重，每行的和是 1。

    Raises:
        ValueError: factor 小于 1。

    出处:
        Peng et al. 2023, arXiv:2309.00071v2, 式 (21) 与式 (22)。

    示例:
        >>> q, k = torch.ones(1, 4), torch.zeros(2, 4)
        >>> yarn_attention_weights(q, k, 8.0).tolist()
        [[0.5, 0.5]]
    """
    t = yarn_attention_factor(factor) ** -2
    scores = q @ k.transpose(-1, -2) / (t * math.sqrt(q.shape[-1]))  # (*batch, T, S)
    return scores.softmax(dim=-1)


def rotate_scaled(
    x: Float[Tensor, "*batch T d"],
    positions: Num[Tensor, " T"],
    frequencies: Float[Tensor, " pairs"],
    attention_factor: float | int = 1.0,
) -> Float[Tensor, "*batch T d"]:
    r"""交错布局的旋转，余弦表与正弦表先乘以 attention_factor。

    Args:
        x: 查询或键，每行一个词元。
        positions: 各词元的位置（步）。
        frequencies: 角频率 θ_i（弧度/步），共 d/2 个。
        attention_factor: 系数 μ（无量纲），正数。

    Returns:
        旋转并放大 μ 倍的 x。

    Raises:
        ValueError: frequencies 不是 d/2 个，或 attention_factor 不是正数。

    出处:
        Hugging Face transformers 5.23.0, `LlamaRotaryEmbedding`（attention_scaling）。

    示例:
        >>> x = torch.tensor([[1.0, 2.0]])
        >>> rotate_scaled(x, torch.tensor([0]), torch.tensor([1.0]), 2.0).tolist()
        [[2.0, 4.0]]
    """
    if 2 * len(frequencies) != x.shape[-1]:
        raise ValueError(
            f"frequencies 必须有 d/2 = {x.shape[-1] / 2:g} 个，得到 {len(frequencies)} 个"
        )
    if not 0 < attention_factor < math.inf:
        raise ValueError(f"attention_factor 必须是正数，得到 {attention_factor}")
    angles = positions[:, None] * frequencies  # (T, pairs)
    cos, sin = attention_factor * angles.cos(), attention_factor * angles.sin()
    even, odd = x[..., 0::2], x[..., 1::2]
    rotated = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return rotated.flatten(-2).to(x.dtype)


def log_length_attention(
    q: Float[Tensor, "*batch T d"],
    k: Float[Tensor, "*batch S d"],
    v: Float[Tensor, "*batch S e"],
    train_length: int,
) -> Float[Tensor, "*batch T e"]:
    r"""分数乘以 log_L n 的注意力：n 是键的个数，n = L 时就是普通注意力。

    Args:
        q: 查询。
        k: 键。
        v: 值。
        train_length: 训练长度 L（步），大于 1。

    Returns:
        各查询的输出。

    Raises:
        ValueError: train_length 不大于 1。

    出处:
        苏剑林 2021, https://kexue.fm/archives/8823。

    示例:
        >>> q, k, v = torch.ones(1, 4), torch.zeros(4, 4), torch.tensor([[1.0], [2], [3], [6]])
        >>> log_length_attention(q, k, v, train_length=2).tolist()
        [[3.0]]
    """
    if not train_length > 1:
        raise ValueError(f"train_length 必须大于 1（要取它的对数），得到 {train_length}")
    scale = math.log(k.shape[-2]) / math.log(train_length)  # log_L n
    scores = scale * q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # (*batch, T, S)
    return scores.softmax(dim=-1) @ v
