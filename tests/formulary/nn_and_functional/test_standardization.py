import statistics

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from formulary.nn_and_functional.standardization import standardization_jacobian, standardize

X = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 + 1


def test_standardize__matches_module_and_function():
    """与没有缩放平移的 nn.LayerNorm、F.layer_norm 一致。"""
    for epsilon in (1e-5, 0.3):
        ours = standardize(X, epsilon)
        torch.testing.assert_close(ours, F.layer_norm(X, (5,), eps=epsilon))
        module = nn.LayerNorm(5, eps=epsilon, elementwise_affine=False).double()
        torch.testing.assert_close(ours, module(X))


def test_standardize__matches_standard_library():
    """与标准库的均值、有偏标准差一致。"""
    values = X.tolist()
    mean, deviation = statistics.fmean(values), statistics.pstdev(values)
    expected = [(value - mean) / deviation for value in values]
    torch.testing.assert_close(standardize(X), torch.tensor(expected, dtype=torch.float64))


def test_standardize__equals_hand_example():
    """1、3、8 的均值 4、方差 26/3，得到 −1.019、−0.340、1.359。"""
    y = standardize(torch.tensor([1.0, 3.0, 8.0], dtype=torch.float64))
    assert [round(value, 3) for value in y.tolist()] == [-1.019, -0.34, 1.359]


def test_standardize__rejects_matrices_and_negative_epsilon():
    """二轴的输入与负的 epsilon 被拒绝。"""
    with pytest.raises(ValueError, match="x 必须是一轴"):
        standardize(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="epsilon 不能为负"):
        standardize(X, -1.0)


def test_standardization_jacobian__matches_autograd():
    """与自动求导逐行求出的雅可比矩阵一致。"""
    for epsilon in (0.0, 0.3):
        expected = torch.autograd.functional.jacobian(
            lambda x, e=epsilon: F.layer_norm(x, (5,), eps=e), X
        )
        torch.testing.assert_close(standardization_jacobian(X, epsilon), expected)


def test_standardization_jacobian__is_symmetric_and_kills_two_directions():
    """矩阵对称；epsilon 为 0 时，把输入整体平移、整体放大都不改变输出。"""
    jacobian = standardization_jacobian(X)
    torch.testing.assert_close(jacobian, jacobian.T)
    zero = torch.zeros(5, dtype=torch.float64)
    torch.testing.assert_close(jacobian @ torch.ones_like(X), zero)
    torch.testing.assert_close(jacobian @ (X - X.mean()), zero)


def test_standardization_jacobian__equals_hand_example():
    """手算一例：1、3、8 的第一个对角元是 (1 − 1/3 − 9/26)/√(26/3)，约 0.109。"""
    jacobian = standardization_jacobian(torch.tensor([1.0, 3.0, 8.0], dtype=torch.float64))
    torch.testing.assert_close(jacobian[0, 0].item(), (2 / 3 - 9 / 26) / (26 / 3) ** 0.5)
    assert round(jacobian[0, 0].item(), 3) == 0.109


def test_standardization_jacobian__differs_from_dividing_by_deviation_alone():
    """把均值与标准差当常数，雅可比矩阵就是对角的，与真值不同。"""
    wrong = torch.eye(5, dtype=torch.float64) / X.std(unbiased=False)
    assert (wrong - standardization_jacobian(X)).abs().max() > 0.05


def test_standardization_jacobian__rejects_empty():
    """空的输入被拒绝。"""
    with pytest.raises(ValueError, match="最后一轴不能为空"):
        standardization_jacobian(X[:0])
