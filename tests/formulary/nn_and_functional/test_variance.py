import statistics

import pytest
import torch

from formulary.nn_and_functional.variance import (
    one_pass_relative_error,
    one_pass_variance,
    require_sample,
    two_pass_variance,
)

X = torch.randn(3, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1


def test_one_pass_variance__matches_torch():
    """均值不大时，与 torch.var 的有偏方差一致。"""
    torch.testing.assert_close(one_pass_variance(X), X.var(-1, unbiased=False))


def test_one_pass_variance__equals_hand_example():
    """1、3、8：平方的平均 74/3，平均的平方 16，相差 26/3。"""
    x = torch.tensor([1.0, 3.0, 8.0], dtype=torch.float64)
    torch.testing.assert_close(one_pass_variance(x).item(), 74 / 3 - 16)


def test_one_pass_variance__differs_from_two_pass_in_float32():
    """均值 100、标准差 0.01、float32：一遍的结果里有负数，开方得到 NaN，两遍的误差不到 1%。"""
    x = 100 + 0.01 * torch.randn(64, 256, generator=torch.Generator().manual_seed(1))
    naive, sound = one_pass_variance(x), two_pass_variance(x)
    exact = x.double().var(-1, unbiased=False)
    assert naive.min() < -1e-3
    assert (naive + 1e-5).sqrt().isnan().any()
    assert ((sound - exact).abs() < 0.01 * exact).all()


def test_one_pass_variance__rejects_empty_rows():
    """空的最后一轴被拒绝。"""
    with pytest.raises(ValueError, match="最后一轴不能为空"):
        one_pass_variance(X[:, :0])


def test_two_pass_variance__matches_standard_library():
    """与标准库用有理数算的有偏方差一致。"""
    expected = [statistics.pvariance(row) for row in X.tolist()]
    torch.testing.assert_close(two_pass_variance(X), torch.tensor(expected, dtype=torch.float64))


def test_two_pass_variance__is_never_negative():
    """不论均值多大，结果都不为负。"""
    x = 1e6 + torch.rand(100, 7, generator=torch.Generator().manual_seed(2))
    assert (two_pass_variance(x) >= 0).all()


def test_two_pass_variance__rejects_integers():
    """整数被拒绝。"""
    with pytest.raises(ValueError, match="x 必须是实浮点张量"):
        two_pass_variance(torch.arange(3))


def test_one_pass_relative_error__matches_measured_errors():
    """均值从 1 到 1000，测得的相对误差的均方根与公式相差不到 8 倍。"""
    generator = torch.Generator().manual_seed(3)
    for mean in (1.0, 10.0, 100.0, 1000.0):
        x = mean + torch.randn(200, 256, generator=generator)
        exact = x.double().var(-1, unbiased=False)
        relative = ((one_pass_variance(x) - exact) / exact).square().mean().sqrt().item()
        theory = one_pass_relative_error(mean, 1.0, torch.float32)
        assert theory / 8 < relative < 8 * theory


def test_one_pass_relative_error__equals_worked_example():
    """均值 100、标准差 0.01：float32 的相对误差约 6，float64 约 1e−8。"""
    assert round(one_pass_relative_error(100.0, 0.01, torch.float32), 1) == 6.0
    assert 1e-8 < one_pass_relative_error(100.0, 0.01, torch.float64) < 1.2e-8
    assert one_pass_relative_error(3.0, 2.0, torch.float32) == 2**-24 * (1 + 9 / 4)


def test_one_pass_relative_error__rejects_zero_deviation():
    """不是正数的标准差与整数类型被拒绝。"""
    with pytest.raises(ValueError, match="deviation 必须是正数"):
        one_pass_relative_error(1.0, 0.0, torch.float32)
    with pytest.raises(ValueError, match="dtype 必须是浮点类型"):
        one_pass_relative_error(1.0, 1.0, torch.int64)


def test_require_sample__rejects_scalars():
    """标量被拒绝。"""
    with pytest.raises(ValueError, match="最后一轴不能为空"):
        require_sample(torch.tensor(1.0))


def test_one_pass_relative_error__limit_zero_mean():
    """均值为 0 时没有抵消，误差就是单位舍入。"""
    unit = torch.finfo(torch.float64).eps / 2
    torch.testing.assert_close(one_pass_relative_error(0.0, 3.0, torch.float64), unit)
    assert one_pass_relative_error(1.0, 1.0, torch.float32) == torch.finfo(torch.float32).eps
