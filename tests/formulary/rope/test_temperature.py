"""注意力温度的证明：逐元素的 softmax 循环、transformers 的旋转表、等价的两种写法。"""

import math

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from formulary.rope.rotation import interleaved_to_half_split, rotate_interleaved
from formulary.rope.scaling import yarn_attention_factor, yarn_frequencies
from formulary.rope.temperature import (
    log_length_attention,
    rotate_scaled,
    yarn_attention_weights,
)


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _softmax(scores: list[float]) -> list[float]:
    exponents = [math.exp(value) for value in scores]
    return [value / sum(exponents) for value in exponents]


def test_yarn_attention_weights__matches_softmax_loop() -> None:
    """逐对算分数，除以 t√d，再逐行做 softmax。"""
    q, k, s = _random(2, 3, 6), _random(2, 5, 6, seed=1), 8.0
    t = (0.1 * math.log(s) + 1) ** -2
    rows = [
        [
            _softmax([float(q[b, i] @ k[b, j]) / (t * math.sqrt(6)) for j in range(5)])
            for i in range(3)
        ]
        for b in range(2)
    ]
    torch.testing.assert_close(
        yarn_attention_weights(q, k, s), torch.tensor(rows, dtype=torch.float64)
    )


def test_yarn_attention_weights__equals_scaled_tables() -> None:
    """在分数上除以 t，与把余弦表、正弦表乘以 0.1 ln s + 1，得到同样的权重。"""
    q, k, positions = _random(4, 16), _random(4, 16, seed=1), torch.arange(4)
    theta = yarn_frequencies(16, 1e4, 8, 64, dtype=torch.float64)
    plain = [rotate_scaled(x, positions, theta) for x in (q, k)]
    scaled = [rotate_scaled(x, positions, theta, yarn_attention_factor(8)) for x in (q, k)]
    expected = (scaled[0] @ scaled[1].T / math.sqrt(16)).softmax(-1)
    torch.testing.assert_close(yarn_attention_weights(*plain, 8), expected)


def test_yarn_attention_weights__limit_factor_one() -> None:
    """取 s = 1 时就是普通的缩放点积注意力权重。"""
    q, k = _random(3, 4), _random(5, 4, seed=1)
    torch.testing.assert_close(yarn_attention_weights(q, k, 1), (q @ k.T / 2).softmax(-1))


def test_yarn_attention_weights__is_sharper_for_larger_factor() -> None:
    """倍数越大温度越低，每行的熵越小。"""
    q, k = _random(6, 8), _random(9, 8, seed=1)
    entropies = []
    for factor in (1, 4, 32):
        weights = yarn_attention_weights(q, k, factor)
        entropies.append(-(weights * weights.log()).sum(-1))
    assert (entropies[0] > entropies[1]).all()
    assert (entropies[1] > entropies[2]).all()


def test_yarn_attention_weights__rejects_factor_below_one() -> None:
    """小于 1 的倍数被拒绝。"""
    with pytest.raises(ValueError, match=r"^factor "):
        yarn_attention_weights(torch.ones(1, 2), torch.ones(1, 2), 0.5)


def test_rotate_scaled__matches_transformers() -> None:
    """与 transformers 的 YaRN 旋转（换到对半布局）相等。"""
    config = LlamaConfig(
        head_dim=16,
        hidden_size=32,
        num_attention_heads=2,
        max_position_embeddings=512,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 8.0,
            "original_max_position_embeddings": 64,
        },
    )
    x = _random(2, 2, 5, 16).float()
    positions = torch.tensor([0, 3, 64, 200, 511])
    cos, sin = LlamaRotaryEmbedding(config)(x, positions[None].expand(2, -1))
    order = interleaved_to_half_split(16)
    expected, _ = apply_rotary_pos_emb(x[..., order], x[..., order], cos, sin)
    actual = rotate_scaled(x, positions, yarn_frequencies(16, 1e4, 8, 64), yarn_attention_factor(8))
    # 双方都在 float32 里计算，位置 511 的角度有约 3e-5 的舍入
    torch.testing.assert_close(actual[..., order], expected, rtol=1e-4, atol=1e-4)


def test_rotate_scaled__matches_rotate_interleaved() -> None:
    """系数取 1、频率取 b^(-2i/d) 时就是普通的旋转。"""
    x, positions = _random(3, 4, 10), torch.tensor([0, 5, 9, 1000])
    theta = 300.0 ** (-torch.arange(0, 10, 2, dtype=torch.float64) / 10)
    torch.testing.assert_close(
        rotate_scaled(x, positions, theta), rotate_interleaved(x, positions, 300.0)
    )
    assert rotate_scaled(x.bfloat16(), positions, theta).dtype == torch.bfloat16


def test_rotate_scaled__equals_norm_times_factor() -> None:
    """每个向量的范数恰好乘以 μ，两个向量的内积乘以 μ²。"""
    q, k = _random(1, 8), _random(1, 8, seed=1)
    theta = torch.tensor([1.0, 0.3, 0.1, 0.02], dtype=torch.float64)
    position, mu = torch.tensor([13]), 1.25
    big_q, big_k = (rotate_scaled(x, position, theta, mu) for x in (q, k))
    torch.testing.assert_close(big_q.norm(), mu * q.norm())
    torch.testing.assert_close((big_q * big_k).sum(), mu**2 * (q * k).sum())


def test_rotate_scaled__rejects_bad_arguments() -> None:
    """频率个数不是 d/2，或系数不是正数，都被拒绝。"""
    x, positions = torch.ones(1, 4), torch.tensor([0])
    with pytest.raises(ValueError, match=r"^frequencies "):
        rotate_scaled(x, positions, torch.ones(3))
    with pytest.raises(ValueError, match=r"^attention_factor "):
        rotate_scaled(x, positions, torch.ones(2), 0.0)
    with pytest.raises(ValueError, match=r"^attention_factor "):
        rotate_scaled(x, positions, torch.ones(2), math.inf)


def test_log_length_attention__matches_softmax_loop() -> None:
    """逐对算分数，乘以 ln n/ln L，再逐行做 softmax 并加权求和。"""
    q, k, v = _random(3, 4), _random(7, 4, seed=1), _random(7, 2, seed=2)
    scale = math.log(7) / math.log(20) / math.sqrt(4)
    rows = []
    for i in range(3):
        weights = _softmax([scale * float(q[i] @ k[j]) for j in range(7)])
        rows.append([sum(weights[j] * float(v[j, e]) for j in range(7)) for e in range(2)])
    actual = log_length_attention(q, k, v, train_length=20)
    torch.testing.assert_close(actual, torch.tensor(rows, dtype=torch.float64))


def test_log_length_attention__equals_plain_attention_at_training_length() -> None:
    """键数等于训练长度时，与 scaled_dot_product_attention 相等。"""
    for n in (2, 9):
        q, k, v = _random(2, 3, 4), _random(2, n, 4, seed=1), _random(2, n, 5, seed=2)
        expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        torch.testing.assert_close(log_length_attention(q, k, v, n), expected)


def test_log_length_attention__is_less_spread_than_plain_attention() -> None:
    """随机的查询与键：n 从 64 到 4096，熵的增长比普通注意力慢。"""
    d, train_length = 64, 512
    q = torch.nn.functional.normalize(_random(1, d), dim=-1) * math.sqrt(d)
    growth = {}
    for scaled in (False, True):
        entropies = []
        for n in (64, 4096):
            keys = torch.nn.functional.normalize(_random(n, d, seed=n), dim=-1) * math.sqrt(d)
            eye = torch.eye(n, dtype=torch.float64)
            weights = log_length_attention(q, keys, eye, train_length if scaled else n)
            entropies.append(-(weights * weights.log()).sum().item())
        growth[scaled] = entropies[1] - entropies[0]
    assert growth[True] < growth[False] - 0.3


def test_log_length_attention__rejects_training_length_of_one() -> None:
    """训练长度不大于 1 时对数没有意义，被拒绝。"""
    x = torch.ones(2, 2)
    with pytest.raises(ValueError, match=r"^train_length "):
        log_length_attention(x, x, x, 1)
