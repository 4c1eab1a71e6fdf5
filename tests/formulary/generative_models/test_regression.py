"""回归学到条件期望：均方误差的分解的检验。"""

import pytest
import torch

from formulary.generative_models.regression import regression_decomposition


def test_regression_decomposition__matches_enumeration() -> None:
    """三项都与逐个格子的循环相同。"""
    generator = torch.Generator().manual_seed(2)
    joint = torch.rand(3, 4, dtype=torch.float64, generator=generator)
    joint = joint / joint.sum()
    targets = torch.tensor([-1.0, 0.3, 2.0, 5.0], dtype=torch.float64)
    prediction = torch.tensor([0.5, -2.0, 1.5], dtype=torch.float64)
    total = excess = spread = 0.0
    for row, f in zip(joint.tolist(), prediction.tolist(), strict=True):
        mean = sum(w * u for w, u in zip(row, targets.tolist(), strict=True)) / sum(row)
        for w, u in zip(row, targets.tolist(), strict=True):
            total += w * (f - u) ** 2
            excess += w * (f - mean) ** 2
            spread += w * (u - mean) ** 2
    expected = torch.tensor([total, excess, spread], dtype=torch.float64)
    torch.testing.assert_close(
        torch.stack(regression_decomposition(joint, targets, prediction)), expected
    )
    torch.testing.assert_close(expected[0], expected[1] + expected[2])


def test_regression_decomposition__equals_worked_example() -> None:
    """目标取 2 或 0 的概率相等时预测 1：误差 1 全是目标的散布；预测准的那一半贡献 0。"""
    joint = torch.tensor([[0.25, 0.25], [0.5, 0.0]])
    values = regression_decomposition(joint, torch.tensor([2.0, 0.0]), torch.tensor([1.0, 2.0]))
    assert [v.item() for v in values] == [0.5, 0.0, 0.5]


def test_regression_decomposition__matches_least_squares() -> None:
    """对预测求导，误差的最小点使第二项为零。"""
    joint = torch.tensor([[0.1, 0.3], [0.4, 0.2]], dtype=torch.float64)
    targets = torch.tensor([1.0, -3.0], dtype=torch.float64)
    best = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    for _ in range(200):
        (gradient,) = torch.autograd.grad((joint * (best[:, None] - targets) ** 2).sum(), best)
        best = (best - 0.8 * gradient).detach().requires_grad_()
    total, excess, spread = regression_decomposition(joint, targets, best.detach())
    torch.testing.assert_close(excess, torch.zeros_like(excess))
    torch.testing.assert_close(total, spread)


def test_regression_decomposition__depends_only_on_possible_inputs() -> None:
    """概率为 0 的输入上预测什么都不影响结果。"""
    joint = torch.tensor([[0.5, 0.5], [0.0, 0.0]])
    targets = torch.tensor([2.0, 0.0])
    for guess in (0.0, 100.0):
        values = regression_decomposition(joint, targets, torch.tensor([1.0, guess]))
        assert [v.item() for v in values] == [1.0, 0.0, 1.0]


def test_regression_decomposition__rejects_bad_input() -> None:
    """joint 的总和不是 1，或长度不合时报错。"""
    joint, targets, prediction = torch.full((2, 3), 1 / 6), torch.zeros(3), torch.zeros(2)
    with pytest.raises(ValueError, match="joint 沿"):
        regression_decomposition(2 * joint, targets, prediction)
    with pytest.raises(ValueError, match="joint 的形状"):
        regression_decomposition(joint[0], targets, prediction)
    with pytest.raises(ValueError, match="targets 的形状"):
        regression_decomposition(joint, prediction, prediction)
    with pytest.raises(ValueError, match="prediction 的形状"):
        regression_decomposition(joint, targets, targets)
