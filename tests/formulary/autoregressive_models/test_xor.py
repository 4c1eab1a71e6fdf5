"""异或：FVSBN 的下限与 NADE 的解。"""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from formulary.autoregressive_models.xor import (
    xor_limit,
    xor_regression_gradient,
    xor_states,
)

TABLE = ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0))


def _regression_nll(alpha: np.ndarray) -> float:
    """用前两列预测第三列的平均 NLL（nat），逐个状态用标量算。"""
    total = 0.0
    for first, second, third in TABLE:
        logit = alpha[0] + alpha[1] * first + alpha[2] * second
        total += np.logaddexp(0.0, logit) - third * logit
    return total / 4


def test_xor_states__matches_python_loop() -> None:
    """四行依次是两枚硬币的全部结果，末列是异或。"""
    expected = [[float(a), float(b), float(a ^ b)] for a in (0, 1) for b in (0, 1)]
    assert xor_states(torch.float64).tolist() == expected
    assert xor_states().dtype == torch.float32


def test_xor_states__is_pairwise_independent() -> None:
    """任意两列的联合分布都是均匀的：单看一对变量看不出任何关系。"""
    states = xor_states()
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert len({tuple(row) for row in states[:, [a, b]].tolist()}) == 4


def test_xor_regression_gradient__matches_finite_differences() -> None:
    """等于平均 NLL 的中心差分，随便哪一点都如此。"""
    h = 1e-5
    for alpha in ([0.0, 0.0, 0.0], [0.3, -1.2, 0.7], [-2.0, 1.5, 0.4]):
        slopes = []
        for j in range(3):
            up, down = np.array(alpha), np.array(alpha)
            up[j] += h
            down[j] -= h
            slopes.append((_regression_nll(up) - _regression_nll(down)) / (2 * h))
        actual = xor_regression_gradient(torch.tensor(alpha, dtype=torch.float64))
        expected = torch.tensor(slopes, dtype=torch.float64)
        # 中心差分的舍入误差约为 1e-16 / 1e-5
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)


def test_xor_regression_gradient__equals_zero_at_origin() -> None:
    """原点处四个误差 ±1/2 在每个分量上正好抵消；若末列是与而不是异或则不抵消。"""
    actual = xor_regression_gradient(torch.zeros(3, dtype=torch.float64))
    assert actual.tolist() == [0.0, 0.0, 0.0]
    errors = [0.5 - (a & b) for a, b, _ in TABLE]
    assert sum(errors) != 0


def test_xor_regression_gradient__rejects_bad_length() -> None:
    """参数不是三个浮点数时报错。"""
    for alpha in (torch.zeros(2), torch.zeros(3).long(), torch.zeros(1, 3)):
        with pytest.raises(ValueError, match="alpha"):
            xor_regression_gradient(alpha)


def test_xor_limit__matches_scipy_minimum() -> None:
    """从几个起点用 scipy 最小化，前两位 1 bit 加第三位的最小值都等于 3 bit。"""
    best, _ = xor_limit()
    for start in ([0.0, 0.0, 0.0], [2.0, -3.0, 1.0], [-1.0, 4.0, 4.0]):
        found = minimize(_regression_nll, np.array(start), tol=1e-12)
        bits = 2 + found.fun / math.log(2)
        # 优化停在梯度约 1e-8 处，函数值的误差远小于此
        assert abs(best.item() - bits) < 1e-9


def test_xor_limit__equals_worked_example() -> None:
    """最小值 3 bit，熵 log2 4 = 2 bit，相差 1 bit。"""
    best, entropy = xor_limit()
    torch.testing.assert_close(best, torch.tensor(3.0))
    torch.testing.assert_close(entropy, torch.tensor(2.0))


def test_xor_limit__differs_from_separable_function() -> None:
    """练习：换成 x_3 = x_1 ∧ x_2，逻辑斯谛回归线性可分，期望 NLL 可以任意接近熵 2 bit。"""
    previous = math.inf
    for sharpness in (2.0, 6.0, 20.0, 60.0):
        total = 0.0
        for first, second in ((0, 0), (0, 1), (1, 0), (1, 1)):
            logit = sharpness * (first + second - 1.5)
            total += math.log1p(math.exp(logit if not first & second else -logit))
        bits = 2 + total / 4 / math.log(2)
        assert 2 < bits < previous
        previous = bits
    assert previous - 2 < 1e-12
    assert xor_limit()[0].item() - previous > 0.999
