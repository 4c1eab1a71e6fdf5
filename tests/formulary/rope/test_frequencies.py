"""RoPE 频率的检验。"""

import math
from fractions import Fraction

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from formulary.rope.frequencies import inverse_frequencies


def test_inverse_frequencies__matches_python_loop() -> None:
    """逐个用 math.exp 与 math.log 算出的角频率与它相同。"""
    for d, base in ((2, 7.0), (10, 10_000.0), (64, 500_000.0)):
        expected = [math.exp(-2 * i / d * math.log(base)) for i in range(d // 2)]
        actual = inverse_frequencies(d, base, dtype=torch.float64)
        torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_inverse_frequencies__matches_huggingface() -> None:
    """与 transformers 的 LlamaRotaryEmbedding.inv_freq 在 float32 下逐位相同。"""
    config = LlamaConfig(
        hidden_size=96,
        num_attention_heads=2,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
    )
    expected = LlamaRotaryEmbedding(config).inv_freq
    actual = inverse_frequencies(48, base=500_000.0)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_inverse_frequencies__equals_worked_example() -> None:
    """取 d = 8、底数 10000 时是 1、1/10、1/100、1/1000。"""
    expected = torch.tensor([float(Fraction(1, 10**i)) for i in range(4)], dtype=torch.float64)
    torch.testing.assert_close(inverse_frequencies(8, dtype=torch.float64), expected)
    # 底数小于 1 也合法，这时角频率递增
    torch.testing.assert_close(inverse_frequencies(4, base=0.25), torch.tensor([1.0, 2.0]))


def test_inverse_frequencies__is_monotone() -> None:
    """从 θ_0 = 1 起严格递减，最后一个仍大于 1/b。"""
    theta = inverse_frequencies(128, dtype=torch.float64)
    assert theta[0] == 1
    assert (theta.diff() < 0).all()
    assert theta[-1] > 1e-4
    assert theta.shape == (64,)


def test_inverse_frequencies__differs_from_positive_exponent() -> None:
    """指数漏掉负号时，从第二对起角频率都大于 1，最末一对是正确值的 7.5e7 倍。"""
    d = 128
    wrong = torch.tensor([10_000.0 ** (2 * i / d) for i in range(d // 2)], dtype=torch.float64)
    right = inverse_frequencies(d, dtype=torch.float64)
    torch.testing.assert_close(wrong[0], right[0])
    assert (wrong[1:] > 1).all()
    assert (right[1:] < 1).all()
    torch.testing.assert_close(wrong * right, torch.ones(d // 2, dtype=torch.float64))
    assert 7.4e7 < wrong[-1] / right[-1] < 7.6e7


def test_inverse_frequencies__rejects_bad_dimension() -> None:
    """维数 d 为奇数、零、负数或小数时报错并指出 d。"""
    for d in (7, 0, -2, 4.0):
        with pytest.raises(ValueError, match="d 必须是正偶数"):
            inverse_frequencies(d)  # type: ignore[arg-type]


def test_inverse_frequencies__rejects_bad_base() -> None:
    """底数为零、负数、无穷或 NaN 时报错并指出 base。"""
    for base in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="base 必须是有限的正数"):
            inverse_frequencies(4, base)


def test_inverse_frequencies__rejects_integer_dtype() -> None:
    """类型 dtype 不是浮点类型时报错并指出 dtype。"""
    for dtype in (torch.int64, torch.complex64):
        with pytest.raises(ValueError, match="dtype 必须是实浮点类型"):
            inverse_frequencies(4, dtype=dtype)
