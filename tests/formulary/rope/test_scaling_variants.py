"""混合进制 NTK 与 LongRoPE 的证明：按定义连乘、transformers。"""

import itertools
import math

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from formulary.rope.frequencies import inverse_frequencies
from formulary.rope.scaling import linear_frequencies
from formulary.rope.scaling_variants import (
    longrope_attention_factor,
    longrope_frequencies,
    mixed_ntk_frequencies,
)


def test_mixed_ntk_frequencies__matches_definition_loop() -> None:
    """先由 a·(d/2)^p = ln s 解出 a，再逐对除以 exp(a·m^p)，m 从 1 起。"""
    for d, base, s, p in ((12, 1e4, 8.0, 0.625), (20, 300.0, 3.0, 0.25), (8, 1e3, 2.0, 1.0)):
        a = math.log(s) / (d / 2) ** p
        expected = [
            1 / (base ** (2 * (m - 1) / d) * math.exp(a * m**p)) for m in range(1, d // 2 + 1)
        ]
        actual = mixed_ntk_frequencies(d, base, s, p, dtype=torch.float64)
        torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_mixed_ntk_frequencies__limit_power_zero() -> None:
    """取 p = 0 时就是位置内插。"""
    actual = mixed_ntk_frequencies(64, 1e4, 8, power=0, dtype=torch.float64)
    torch.testing.assert_close(actual, linear_frequencies(64, 1e4, 8, dtype=torch.float64))


def test_mixed_ntk_frequencies__equals_endpoint_ratios() -> None:
    """d=128、s=8：不论 p，最低频都除以 8；p = 0.625 时最高频乘以 0.8568。"""
    assert mixed_ntk_frequencies(128, 1e4, 8).dtype == torch.float32
    original = inverse_frequencies(128, 1e4, dtype=torch.float64)
    for p in (0, 0.3, 0.625, 1):
        ratio = mixed_ntk_frequencies(128, 1e4, 8, p, dtype=torch.float64) / original
        torch.testing.assert_close(ratio[-1].item(), 1 / 8)
    ratio = mixed_ntk_frequencies(128, 1e4, 8, dtype=torch.float64) / original
    assert round(ratio[0].item(), 4) == 0.8568


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((7, 1e4, 8, 0.5), "d"),
        ((8, 0, 8, 0.5), "base"),
        ((8, 1e4, 0.5, 0.5), "factor"),
        ((8, 1e4, 8, -0.1), "power"),
        ((8, 1e4, 8, 1.1), "power"),
    ],
)
def test_mixed_ntk_frequencies__rejects_bad_arguments(arguments, name) -> None:
    """奇数的 d、非正的底数、小于 1 的倍数、0 与 1 之外的指数被拒绝。"""
    with pytest.raises(ValueError, match=f"^{name} "):
        mixed_ntk_frequencies(*arguments)


def _transformers(short: list[float], long: list[float], base: float, seq_len: int | None):
    d = 2 * len(short)
    config = LlamaConfig(
        head_dim=d,
        hidden_size=2 * d,
        num_attention_heads=2,
        max_position_embeddings=4096,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": base,
            "short_factor": short,
            "long_factor": long,
            "factor": 32.0,
            "original_max_position_embeddings": 128,
        },
    )
    return ROPE_INIT_FUNCTIONS["longrope"](config, seq_len=seq_len)


def test_longrope_frequencies__matches_transformers() -> None:
    """训练长度之内、恰好等于、刚超过三种长度，都与 transformers 的 longrope 相等。"""
    short, long = [1.0, 1.02, 1.1, 1.3], [1.0, 1.7, 9.0, 32.0]
    for base, seq_len in itertools.product((100.0, 1e4), (1, 128, 129, 4096)):
        expected, _ = _transformers(short, long, base, seq_len)
        actual = longrope_frequencies(
            8, base, torch.tensor(short), torch.tensor(long), 128, seq_len
        )
        # 对方只在 float32 里计算
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)


def test_longrope_frequencies__equals_linear_for_constant_factors() -> None:
    """所有系数都取 s 时就是位置内插。"""
    factors = torch.full((5,), 6.0, dtype=torch.float64)
    actual = longrope_frequencies(10, 1e4, torch.ones_like(factors), factors, 64, 65)
    torch.testing.assert_close(actual, linear_frequencies(10, 1e4, 6, dtype=torch.float64))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"d": 5}, "d"),
        ({"short_factors": torch.ones(3)}, "short_factors"),
        ({"long_factors": torch.tensor([1.0, 0.0])}, "long_factors"),
        ({"original_max_position_embeddings": 0}, "original_max_position_embeddings"),
        ({"seq_len": 0}, "seq_len"),
    ],
)
def test_longrope_frequencies__rejects_bad_arguments(changes, name) -> None:
    """奇数的 d、个数不对或非正的系数、非正的长度被拒绝。"""
    good = {
        "d": 4,
        "base": 1e4,
        "short_factors": torch.ones(2),
        "long_factors": torch.ones(2),
        "original_max_position_embeddings": 64,
        "seq_len": 64,
    }
    with pytest.raises(ValueError, match=f"^{name} "):
        longrope_frequencies(**{**good, **changes})


def test_longrope_attention_factor__matches_transformers() -> None:
    """与 transformers 的 attention_factor 相等。"""
    _, expected = _transformers([1.0, 1.0], [1.0, 2.0], 1e4, None)
    assert longrope_attention_factor(32.0, 128) == pytest.approx(expected, rel=1e-15)


def test_longrope_attention_factor__equals_published_example() -> None:
    """L = 4096、s = 32 时是 √(1 + 5/12)，约 1.1902；s = 1 时是 1。"""
    assert longrope_attention_factor(32, 4096) == pytest.approx(math.sqrt(17 / 12), rel=1e-15)
    assert longrope_attention_factor(1, 4096) == 1
    assert longrope_attention_factor(2, 2) == pytest.approx(math.sqrt(2), rel=1e-15)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((0.5, 64), "factor"),
        ((math.inf, 64), "factor"),
        ((2, 1), "original_max_position_embeddings"),
    ],
)
def test_longrope_attention_factor__rejects_bad_arguments(arguments, name) -> None:
    """小于 1 的倍数与不大于 1 的训练长度被拒绝。"""
    with pytest.raises(ValueError, match=f"^{name} "):
        longrope_attention_factor(*arguments)
