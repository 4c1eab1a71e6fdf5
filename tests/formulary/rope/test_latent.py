"""Proofs of the decoupled RoPE of multi-head latent attention."""

import math

import pytest
import torch

from formulary.rope.latent import absorbed_matrix, decoupled_scores, latent_cache_ratio


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def dense_rotation(position: float, d: int, base: float) -> torch.Tensor:
    """Block diagonal rotation of one position, written out."""
    blocks = []
    for i in range(d // 2):
        a = position * base ** (-2 * i / d)
        blocks.append([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
    return torch.block_diag(*torch.tensor(blocks, dtype=torch.float64))


def test_decoupled_scores__matches_loop() -> None:
    """与逐头、逐对词元用稠密旋转矩阵写出的两项之和一致。"""
    heads, tokens, keys, d, e, base = 3, 2, 4, 5, 6, 70.0
    q_content, k_content = random(2, heads, tokens, d), random(2, heads, keys, d, seed=1)
    q_rotary, k_rotary = random(2, heads, tokens, e, seed=2), random(2, keys, e, seed=3)
    at, places = [7.0, 30.0], [0.0, 3.0, 4.5, 29.0]
    expected = torch.empty(2, heads, tokens, keys, dtype=torch.float64)
    for b in range(2):
        for h in range(heads):
            for t in range(tokens):
                for j in range(keys):
                    turned_q = dense_rotation(at[t], e, base) @ q_rotary[b, h, t]
                    turned_k = dense_rotation(places[j], e, base) @ k_rotary[b, j]
                    total = q_content[b, h, t] @ k_content[b, h, j] + turned_q @ turned_k
                    expected[b, h, t, j] = total / math.sqrt(d + e)
    actual = decoupled_scores(
        q_content, k_content, q_rotary, k_rotary, torch.tensor(at), torch.tensor(places), base
    )
    torch.testing.assert_close(actual, expected)


def test_decoupled_scores__equals_concatenated_attention() -> None:
    """与把两部分拼成一个头、交给 PyTorch 的注意力算出的输出一致。"""
    heads, tokens, d, e = 2, 5, 6, 4
    q_content, k_content = random(heads, tokens, d), random(heads, tokens, d, seed=1)
    q_rotary, k_rotary = random(heads, tokens, e, seed=2), random(tokens, e, seed=3)
    v, positions = random(heads, tokens, 3, seed=4), torch.arange(tokens)
    rotations = torch.stack([dense_rotation(t, e, 10_000.0) for t in range(tokens)])
    turned_q = torch.einsum("tij,htj->hti", rotations, q_rotary)
    turned_k = torch.einsum("tij,tj->ti", rotations, k_rotary).expand(heads, -1, -1)
    q, k = torch.cat((q_content, turned_q), -1), torch.cat((k_content, turned_k), -1)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    scores = decoupled_scores(q_content, k_content, q_rotary, k_rotary, positions, positions)
    torch.testing.assert_close(scores.softmax(dim=-1) @ v, expected)


def test_decoupled_scores__depends_only_on_offset() -> None:
    """查询与键的位置一起平移，分数不变。"""
    q_content, k_content = random(2, 3, 4), random(2, 4, 4, seed=1)
    q_rotary, k_rotary = random(2, 3, 6, seed=2), random(4, 6, seed=3)
    inputs = (q_content, k_content, q_rotary, k_rotary)
    before = decoupled_scores(*inputs, torch.arange(3) + 5, torch.arange(4))
    after = decoupled_scores(*inputs, torch.arange(3) + 105, torch.arange(4) + 100)
    torch.testing.assert_close(after, before)
    moved = decoupled_scores(*inputs, torch.arange(3) + 6, torch.arange(4))
    assert (moved - before).abs().max() > 0.01


def test_decoupled_scores__rejects_odd_rotary() -> None:
    """旋转部分是奇数维、或位置个数不符，都报错。"""
    content, rotary = torch.zeros(1, 2, 4), torch.zeros(1, 2, 3)
    with pytest.raises(ValueError, match="偶数"):
        decoupled_scores(content, content, rotary, rotary[0], torch.arange(2), torch.arange(2))
    rotary = torch.zeros(1, 2, 4)
    with pytest.raises(ValueError, match="positions"):
        decoupled_scores(content, content, rotary, rotary[0], torch.arange(3), torch.arange(2))


def test_absorbed_matrix__matches_dense_matrix() -> None:
    """与两个升维矩阵夹稠密旋转矩阵的乘积一致。"""
    up_query, up_key = random(8, 3), random(8, 5, seed=1)
    for offset in (0.0, -4.0, 2.5):
        expected = up_query.T @ dense_rotation(offset, 8, 90.0) @ up_key
        torch.testing.assert_close(absorbed_matrix(up_query, up_key, offset, 90.0), expected)


def test_absorbed_matrix__equals_inner_product_of_lifted_latents() -> None:
    """不旋转时，先升维再内积等于在潜在空间里用并好的矩阵算。"""
    up_query, up_key = random(6, 3, seed=2), random(6, 4, seed=3)
    latent_q, latent_k = random(3, seed=4), random(4, seed=5)
    expected = (up_query @ latent_q) @ (up_key @ latent_k)
    actual = latent_q @ absorbed_matrix(up_query, up_key) @ latent_k
    torch.testing.assert_close(actual, expected)


def test_absorbed_matrix__differs_from_fixed_matrix() -> None:
    """夹着旋转时矩阵随位置差而变，不能预先并入查询一侧。"""
    up_query, up_key = random(6, 3, seed=6), random(6, 4, seed=7)
    fixed = absorbed_matrix(up_query, up_key)
    turned = absorbed_matrix(up_query, up_key, -1.0)
    assert (fixed - turned).abs().max() > 0.1
    latent_q, latent_k = random(3, seed=8), random(4, seed=9)
    query = dense_rotation(5.0, 6, 10_000.0) @ up_query @ latent_q
    key = dense_rotation(4.0, 6, 10_000.0) @ up_key @ latent_k
    torch.testing.assert_close(latent_q @ turned @ latent_k, query @ key)


def test_absorbed_matrix__rejects_odd_d() -> None:
    """升维后的维数是奇数时报错。"""
    with pytest.raises(ValueError, match="偶数"):
        absorbed_matrix(torch.zeros(5, 2), torch.zeros(5, 3))


def test_latent_cache_ratio__equals_worked_example() -> None:
    """DeepSeek-V2：每层每词元 512 + 64 = 576 个数，多头注意力是 2·128·128 = 32768 个。"""
    assert latent_cache_ratio(512, 64, heads=128, head_dim=128) == 576 / 32768
    assert latent_cache_ratio(1, 1, heads=1, head_dim=1) == 1.0


def test_latent_cache_ratio__matches_counted_floats() -> None:
    """与真的建出两种缓存、数元素个数之比一致。"""
    latent, rotary, heads, head_dim, tokens = 20, 6, 3, 8, 7
    mla = torch.empty(tokens, latent).numel() + torch.empty(tokens, rotary).numel()
    mha = sum(torch.empty(tokens, heads, head_dim).numel() for _ in ("key", "value"))
    assert latent_cache_ratio(latent, rotary, heads, head_dim) == mla / mha


def test_latent_cache_ratio__rejects_non_positive_sizes() -> None:
    """任何一个尺寸不是正数都报错，并说出是哪一个。"""
    good = {"latent": 4, "rotary": 2, "heads": 2, "head_dim": 4}
    for name in good:
        for bad in (0, -1):
            with pytest.raises(ValueError, match=name):
                latent_cache_ratio(**(good | {name: bad}))
