"""torch.where 与 NaN 的检验。"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from formulary.autograd.masked_branches import sqrt_double_where, sqrt_single_where

POINTS = [-1.0, 0.0, 4.0, 0.3]


def _gradient(function: Callable[[Tensor], Tensor], values: list[float]) -> Tensor:
    x = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(function(x).sum(), x)[0]


def _expected_values() -> Tensor:
    return torch.tensor([math.sqrt(max(v, 0.0)) for v in POINTS], dtype=torch.float64)


def test_sqrt_single_where__matches_python_values() -> None:
    """前向的值是对的。"""
    actual = sqrt_single_where(torch.tensor(POINTS, dtype=torch.float64))
    torch.testing.assert_close(actual, _expected_values())


def test_sqrt_single_where__equals_nan_gradient() -> None:
    """反向在 −1 与 0 处是 NaN，在 4 处是 1/4。"""
    expected = torch.tensor([math.nan, math.nan, 0.25], dtype=torch.float64)
    actual = _gradient(sqrt_single_where, POINTS[:3])
    torch.testing.assert_close(actual, expected, equal_nan=True)


def test_sqrt_single_where__differs_from_finite_branches() -> None:
    """同一写法换成 log：−1 处局部导数有限，梯度是 0；0 处是 0·∞，才是 NaN。"""
    assert _gradient(sqrt_single_where, [-1.0]).isnan()  # sqrt(−1) 本身是 NaN，0·NaN
    actual = _gradient(lambda x: torch.where(x > 0, x.log(), 0), [-1.0, 0.0, 4.0])
    expected = torch.tensor([0.0, math.nan, 0.25], dtype=torch.float64)
    torch.testing.assert_close(actual, expected, equal_nan=True)
    # 溢出也一样：exp(1000) 是 ∞，0·∞
    overflow = _gradient(lambda x: torch.where(x < 50, x.exp(), 0), [1000.0])
    assert overflow.isnan()


def test_sqrt_single_where__differs_from_repairs_after_the_fact() -> None:
    """事后乘掩码、nan_to_num 都补救不了：零点处梯度仍是 NaN 或无穷。"""
    assert _gradient(sqrt_single_where, [0.0]).isnan()
    assert _gradient(lambda x: x.sqrt() * (x > 0), [0.0]).isnan()
    assert not _gradient(lambda x: torch.nan_to_num(x.sqrt()), [0.0]).isfinite()


def test_sqrt_single_where__rejects_integers() -> None:
    """x 不是浮点张量时报错。"""
    with pytest.raises(ValueError, match="x "):
        sqrt_single_where(torch.tensor([1]))


def test_sqrt_double_where__matches_central_difference() -> None:
    """值与单层的相同；x ≠ 0 处梯度与中心差分相符。"""
    values = torch.tensor(POINTS, dtype=torch.float64)
    torch.testing.assert_close(sqrt_double_where(values), _expected_values())
    torch.testing.assert_close(sqrt_double_where(values), sqrt_single_where(values))
    points = [-1.0, 4.0, 0.3]
    h = 1e-6
    expected = [(math.sqrt(max(p + h, 0)) - math.sqrt(max(p - h, 0))) / (2 * h) for p in points]
    torch.testing.assert_close(
        _gradient(sqrt_double_where, points),
        torch.tensor(expected, dtype=torch.float64),
        rtol=1e-8,  # 差分的误差
        atol=1e-9,
    )


def test_sqrt_double_where__equals_finite_gradient() -> None:
    """在 (−1, 0, 4) 处是 (0, 0, 1/4)；按下标只取正数的写法也一样。"""
    expected = torch.tensor([0.0, 0.0, 0.25], dtype=torch.float64)
    torch.testing.assert_close(_gradient(sqrt_double_where, POINTS[:3]), expected)
    torch.testing.assert_close(_gradient(lambda x: x[x > 0].sqrt(), POINTS[:3]), expected)


def test_sqrt_double_where__rejects_integers() -> None:
    """x 不是浮点张量时报错。"""
    with pytest.raises(ValueError, match="x "):
        sqrt_double_where(torch.tensor([1]))
