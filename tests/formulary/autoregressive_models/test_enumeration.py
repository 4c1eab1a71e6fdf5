"""穷举二值状态的检验。"""

import itertools
import math

import pytest
import torch
from torch import Tensor

from formulary.autoregressive_models.enumeration import binary_states, state_log_probs


def test_binary_states__matches_itertools() -> None:
    """与 itertools.product 的次序相同。"""
    for n in (1, 2, 5):
        expected = torch.tensor(list(itertools.product((0.0, 1.0), repeat=n)), dtype=torch.float64)
        torch.testing.assert_close(binary_states(n, torch.float64), expected)


def test_binary_states__is_complete() -> None:
    """2^n 行各不相同，元素只有 0 与 1。"""
    states = binary_states(7)
    assert states.dtype == torch.float32
    assert len({tuple(row) for row in states.tolist()}) == 2**7
    assert set(states.flatten().tolist()) == {0.0, 1.0}


def test_binary_states__rejects_bad_count() -> None:
    """n 不是 1 到 20 的整数时报错；20 本身还可以。"""
    with torch.device("meta"):  # 只算形状，不占内存
        assert binary_states(20).shape == (2**20, 20)
    for n in (0, -1, 21, 2.0):
        with pytest.raises(ValueError, match="n "):
            binary_states(n)  # type: ignore[arg-type]


def _logits(x: Tensor) -> Tensor:
    return 2 * (x.cumsum(dim=1) - x) - torch.arange(x.shape[1]).to(x)


def test_state_log_probs__matches_python_loop() -> None:
    """与逐个状态用标量连乘的概率相同，总和为 1。"""
    expected = []
    for bits in itertools.product((0, 1), repeat=4):
        probability = 1.0
        for i in range(4):
            one = 1 / (1 + math.exp(-(2 * sum(bits[:i]) - i)))
            probability *= one if bits[i] else 1 - one
        expected.append(math.log(probability))
    actual = state_log_probs(_logits, 4, torch.float64)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))
    assert abs(float(actual.exp().sum()) - 1) < 1e-12
    assert state_log_probs(_logits, 4).dtype == torch.float32  # 不说明类型时


def test_state_log_probs__equals_uniform_for_zero_logits() -> None:
    """对数几率全为 0 时，每个状态的概率是 2^−n。"""
    actual = state_log_probs(torch.zeros_like, 6, torch.float64)
    torch.testing.assert_close(actual, torch.full((64,), -6 * math.log(2), dtype=torch.float64))


def test_state_log_probs__rejects_too_many_states() -> None:
    """变量太多、枚举不完时报错。"""
    with pytest.raises(ValueError, match="n 至多为 20"):
        state_log_probs(torch.zeros_like, 30)
