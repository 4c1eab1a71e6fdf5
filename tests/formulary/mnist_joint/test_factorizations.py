"""标签作为第 n+1 个变量、两种分解与独立像素模型的检验。"""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent

from formulary.mnist_joint.bayesian_network import bayesian_network_log_prob
from formulary.mnist_joint.factorizations import (
    append_label,
    independent_pixels_log_prob,
    two_factorizations,
)
from formulary.mnist_joint.naive_bayes import naive_bayes_log_joint


def _random(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(6)
    return torch.rand(*shape, dtype=torch.float64, generator=generator) + 0.05


def _all_pictures(pixels: int) -> Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=pixels)), dtype=torch.float64)


def test_append_label__matches_python_loop() -> None:
    """每行等于像素的列表后面添上标签。"""
    x = _all_pictures(3)
    y = torch.tensor([4, 0, 1, 3, 2, 2, 1, 0])
    expected = [[*map(int, row), label] for row, label in zip(x.tolist(), y.tolist(), strict=True)]
    assert append_label(x, y, 5).tolist() == expected


def test_append_label__preserves_joint_probability() -> None:
    """朴素贝叶斯写成 n+1 个变量的贝叶斯网，联合概率不变。"""
    theta = _random(3, 4) / 1.2
    prior = _random(3) / _random(3).sum()
    tables = [torch.stack((1 - theta[:, i], theta[:, i]), dim=-1) for i in range(4)]
    x = _all_pictures(4).repeat_interleave(3, dim=0)
    y = torch.arange(3).repeat(16)
    actual = bayesian_network_log_prob(append_label(x, y, 3), [*tables, prior], [[4]] * 4 + [[]])
    scores = naive_bayes_log_joint(x, theta, prior)
    torch.testing.assert_close(actual, scores[torch.arange(48), y])


def test_append_label__rejects_bad_input() -> None:
    """图像不是二值、标签越界或个数不符时报错。"""
    x, y = torch.ones(2, 3), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="x 的元素只能是 0 或 1"):
        append_label(x * 2, y, 2)
    with pytest.raises(ValueError, match="y 的元素必须在"):
        append_label(x, y, 1)
    with pytest.raises(ValueError, match="y 的形状"):
        append_label(x, y[:1], 2)


def test_two_factorizations__matches_enumeration() -> None:
    """四个因子都等于在全部 2⁴ 张图、3 类上逐项求和、相除的结果。"""
    joint = _random(16, 3)
    joint /= joint.sum()
    prior, likelihood, marginal, posterior = two_factorizations(joint)
    table = joint.tolist()
    for k in range(3):
        column = sum(table[s][k] for s in range(16))
        assert math.isclose(prior[k].item(), column)
        for s in range(16):
            assert math.isclose(likelihood[s, k].item(), table[s][k] / column)
            assert math.isclose(marginal[s].item(), sum(table[s]))
            assert math.isclose(posterior[s, k].item(), table[s][k] / sum(table[s]))


def test_two_factorizations__preserves_joint() -> None:
    """两种分解各自乘回去都是原来的表，各个条件分布的和为 1。"""
    joint = _random(8, 3)
    joint /= joint.sum()
    prior, likelihood, marginal, posterior = two_factorizations(joint)
    torch.testing.assert_close(prior * likelihood, joint)
    torch.testing.assert_close(marginal[:, None] * posterior, joint)
    torch.testing.assert_close(likelihood.sum(0), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(posterior.sum(1), torch.ones(8, dtype=torch.float64))


def test_two_factorizations__rejects_bad_tables() -> None:
    """总和不是 1、形状不对，或有全零的行、列时报错。"""
    with pytest.raises(ValueError, match="joint 沿第 -1 轴的和必须是 1"):
        two_factorizations(torch.full((2, 2), 0.3))
    with pytest.raises(ValueError, match="joint 的形状"):
        two_factorizations(torch.ones(1))
    for table in ([[0.2, 0.3], [0.0, 0.0], [0.1, 0.4]], [[0.2, 0.0, 0.3], [0.4, 0.0, 0.1]]):
        with pytest.raises(ValueError, match="全零的行或列"):
            two_factorizations(torch.tensor(table))


def test_independent_pixels_log_prob__matches_torch_distributions() -> None:
    """与 torch.distributions 的独立伯努利分布相同。"""
    theta = _random(5) / 1.2
    x = _all_pictures(5)
    expected = Independent(Bernoulli(probs=theta), 1).log_prob(x)
    torch.testing.assert_close(independent_pixels_log_prob(x, theta), expected)


def test_independent_pixels_log_prob__is_normalized() -> None:
    """全部 2⁶ 张图的概率之和为 1，theta 含 0 与 1 时也如此。"""
    theta = _random(6) / 1.2
    theta[1], theta[4] = 0.0, 1.0
    total = independent_pixels_log_prob(_all_pictures(6), theta).exp().sum()
    torch.testing.assert_close(total, torch.tensor(1.0, dtype=torch.float64))


def test_independent_pixels_log_prob__equals_worked_example() -> None:
    """theta = (1/2, 1/4) 时，图 (0, 1) 的概率是 1/8。"""
    theta = torch.tensor([0.5, 0.25], dtype=torch.float64)
    x = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    actual = independent_pixels_log_prob(x, theta)
    torch.testing.assert_close(actual, torch.tensor([math.log(1 / 8)], dtype=torch.float64))


def test_independent_pixels_log_prob__rejects_bad_input() -> None:
    """theta 不是概率、x 不是二值或长度不符时报错。"""
    with pytest.raises(ValueError, match="theta 的元素必须在"):
        independent_pixels_log_prob(torch.ones(1, 2), torch.tensor([0.5, 1.5]))
    with pytest.raises(ValueError, match="x 的元素只能是 0 或 1"):
        independent_pixels_log_prob(torch.full((1, 2), 0.5), torch.tensor([0.5, 0.5]))
    with pytest.raises(ValueError, match="x 的形状"):
        independent_pixels_log_prob(torch.ones(1, 3), torch.tensor([0.5, 0.5]))
