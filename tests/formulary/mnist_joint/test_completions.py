"""穷举补全的几个写法的检验。"""

import itertools
import math

import pytest
import torch
from torch import Tensor

from formulary.mnist_joint.completions import (
    all_completions,
    average_over_completions,
    marginalisation_lines,
    posterior_with_mechanism,
)
from formulary.mnist_joint.missing import posterior_given_observed
from formulary.mnist_joint.naive_bayes import naive_bayes_log_joint

OBSERVED = torch.tensor([True, False, True, False, False, True])


def _model(classes: int = 3, n: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(21)
    theta = torch.rand(classes, n, dtype=torch.float64, generator=generator) * 0.9 + 0.05
    prior = torch.rand(classes, dtype=torch.float64, generator=generator) + 0.1
    return theta, prior / prior.sum()


def _image(n: int = 6) -> Tensor:
    return (torch.rand(n, generator=torch.Generator().manual_seed(5)) < 0.5).double()


def _factor(theta: Tensor, k: int, i: int, value: float) -> float:
    return float(theta[k, i]) if value else 1 - float(theta[k, i])


def _joint(pixels: list[float], theta: Tensor, prior: Tensor, k: int) -> float:
    return float(prior[k]) * math.prod(_factor(theta, k, i, v) for i, v in enumerate(pixels))


def _filled(x: Tensor, observed: Tensor) -> list[list[float]]:
    hole = [i for i, seen in enumerate(observed.tolist()) if not seen]
    rows = []
    for bits in itertools.product((0.0, 1.0), repeat=len(hole)):
        row = x.tolist()
        for i, bit in zip(hole, bits, strict=True):
            row[i] = bit
        rows.append(row)
    return rows


def test_all_completions__matches_itertools_product() -> None:
    """与 itertools.product 逐个填进去的结果相同，次序也相同。"""
    x = _image()
    expected = torch.tensor(_filled(x, OBSERVED), dtype=torch.float64)
    assert torch.equal(all_completions(x, OBSERVED), expected)


def test_all_completions__is_single_row_without_missing() -> None:
    """一个也不缺时只有原样一行，x 本身不被改动。"""
    x = _image()
    assert torch.equal(all_completions(x, torch.ones(6, dtype=torch.bool)), x[None])
    before = x.clone()
    assert len(all_completions(x, OBSERVED)) == 8
    assert torch.equal(x, before)


def test_all_completions__rejects_bad_input() -> None:
    """缺得太多、形状或类型不合都报错。"""
    with pytest.raises(ValueError, match="observed 至多缺 16 个"):
        all_completions(torch.zeros(17), torch.zeros(17, dtype=torch.bool))
    with pytest.raises(ValueError, match="observed 的形状"):
        all_completions(torch.zeros(3), torch.zeros(2, dtype=torch.bool))
    with pytest.raises(ValueError, match="x 的形状"):
        all_completions(torch.zeros(3, 1), torch.zeros(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="x 的元素"):
        all_completions(torch.full((3,), 0.5), torch.zeros(3, dtype=torch.bool))


def test_marginalisation_lines__matches_enumeration() -> None:
    """三行都等于逐个补全、逐个标量相乘再求和。"""
    x, (theta, prior) = _image(), _model()
    rows = _filled(x, OBSERVED)
    expected = [sum(_joint(row, theta, prior, k) for row in rows) for k in range(3)]
    for line in marginalisation_lines(x, OBSERVED, theta, prior):
        torch.testing.assert_close(line, torch.tensor(expected, dtype=torch.float64))


def test_marginalisation_lines__preserves_value_between_lines() -> None:
    """二十组随机的掩码与图像，三行处处相等。"""
    theta, prior = _model()
    generator = torch.Generator().manual_seed(4)
    for _ in range(20):
        x = (torch.rand(6, generator=generator) < 0.5).double()
        observed = torch.rand(6, generator=generator) < 0.5
        first, second, third = marginalisation_lines(x, observed, theta, prior)
        torch.testing.assert_close(first, second)
        torch.testing.assert_close(second, third)


def test_marginalisation_lines__rejects_non_binary() -> None:
    """x 不是二值时报错。"""
    with pytest.raises(ValueError, match="x 的元素"):
        marginalisation_lines(_image() + 0.5, OBSERVED, *_model())


def test_average_over_completions__matches_enumeration() -> None:
    """等于穷举：每种补全的后验，按 p(x_U | x_O) 加权。"""
    x, (theta, prior) = _image(), _model()
    joints = [[_joint(row, theta, prior, k) for k in range(3)] for row in _filled(x, OBSERVED)]
    total = sum(map(sum, joints))
    expected = [sum(sum(row) / total * (row[k] / sum(row)) for row in joints) for k in range(3)]
    actual = average_over_completions(x, OBSERVED, theta, prior)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_average_over_completions__matches_posterior_given_observed() -> None:
    """加权平均正好等于直接求和消去的后验。"""
    x, model = _image(), _model()
    expected = posterior_given_observed(x[None], OBSERVED[None], *model)[0]
    torch.testing.assert_close(average_over_completions(x, OBSERVED, *model), expected)


def test_average_over_completions__differs_from_uniform_weights() -> None:
    """文中的例子：对补全取算术平均，不是 (2/3, 1/3)，而是约 (0.565, 0.435)。"""
    theta = torch.tensor([[0.5, 0.1], [0.25, 0.9]], dtype=torch.float64)
    prior = torch.full((2,), 0.5, dtype=torch.float64)
    x, observed = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([True, False])
    right = average_over_completions(x, observed, theta, prior)
    torch.testing.assert_close(right, torch.tensor([2 / 3, 1 / 3], dtype=torch.float64))
    completed = all_completions(x, observed)
    uniform = naive_bayes_log_joint(completed, theta, prior).softmax(dim=-1).mean(dim=0)
    expected = torch.tensor([(18 / 19 + 2 / 11) / 2, (1 / 19 + 9 / 11) / 2], dtype=torch.float64)
    torch.testing.assert_close(uniform, expected)
    assert (uniform - right).abs().max() > 0.1


def test_average_over_completions__equals_worked_example() -> None:
    """正文的例子：19/30 × 18/19 + 11/30 × 2/11 = 2/3；什么也不缺时就是完整图的后验。"""
    theta = torch.tensor([[0.5, 0.1], [0.25, 0.9]], dtype=torch.float64)
    prior = torch.full((2,), 0.5, dtype=torch.float64)
    x = torch.tensor([1.0, 0.0], dtype=torch.float64)
    found = average_over_completions(x, torch.tensor([True, False]), theta, prior)
    assert math.isclose(found[0].item(), 19 / 30 * 18 / 19 + 11 / 30 * 2 / 11)
    complete = average_over_completions(x, torch.tensor([True, True]), theta, prior)
    assert math.isclose(complete[0].item(), 18 / 19)


def test_average_over_completions__rejects_bad_mask() -> None:
    """observed 长度不合时报错并指出参数名。"""
    with pytest.raises(ValueError, match="observed 的形状"):
        average_over_completions(_image(), OBSERVED[1:], *_model())


def test_posterior_with_mechanism__matches_enumeration() -> None:
    """等于穷举完整的图，各乘上“恰好缺这些像素”的概率，再对类别归一化。"""
    x, (theta, prior) = _image(), _model()
    rates = torch.tensor([0.3, 0.8], dtype=torch.float64)
    joint = [0.0, 0.0, 0.0]
    for row in _filled(x, OBSERVED):
        mask = math.prod(
            float(rates[int(v)]) if seen else 1 - float(rates[int(v)])
            for v, seen in zip(row, OBSERVED.tolist(), strict=True)
        )
        for k in range(3):
            joint[k] += mask * _joint(row, theta, prior, k)
    expected = torch.tensor([[value / sum(joint) for value in joint]], dtype=torch.float64)
    actual = posterior_with_mechanism(x[None], OBSERVED[None], theta, prior, rates)
    torch.testing.assert_close(actual, expected)


def test_posterior_with_mechanism__limit_value_blind() -> None:
    """两种值的像素一样容易缺失时，缺失的位置不带信息，就是求和消去的后验。"""
    x, model = _image()[None], _model()
    rates = torch.full((2,), 0.37, dtype=torch.float64)
    actual = posterior_with_mechanism(x, OBSERVED[None], *model, rates)
    torch.testing.assert_close(actual, posterior_given_observed(x, OBSERVED[None], *model))


def test_posterior_with_mechanism__limit_missing_means_off() -> None:
    """灭的像素必缺、亮的像素必见时，填零才是对的。"""
    x, model = _image()[None], _model()
    observed = x == 1
    rates = torch.tensor([0.0, 1.0], dtype=torch.float64)
    actual = posterior_with_mechanism(x, observed, *model, rates)
    torch.testing.assert_close(actual, naive_bayes_log_joint(x, *model).softmax(dim=-1))
    assert (actual - posterior_given_observed(x, observed, *model)).abs().max() > 0.01


def test_posterior_with_mechanism__equals_exercise() -> None:
    """练习一：ρ 取 (0.2, 0.8) 时 0.185 比 0.0325，第 0 类的后验约 0.851。"""
    theta = torch.tensor([[0.5, 0.1], [0.25, 0.9]], dtype=torch.float64)
    prior = torch.full((2,), 0.5, dtype=torch.float64)
    x, observed = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([[True, False]])
    for rates, expected in (
        ((0.2, 0.8), 0.185 / 0.2175),
        ((0.0, 1.0), 18 / 19),
        ((0.5, 0.5), 2 / 3),
    ):
        rho = torch.tensor(rates, dtype=torch.float64)
        actual = posterior_with_mechanism(x, observed, theta, prior, rho)
        assert math.isclose(actual[0, 0].item(), expected)


def test_posterior_with_mechanism__rejects_bad_rates() -> None:
    """不是两个概率、从不缺失却缺了、从不被看到却看到了，都报错。"""
    x, model = _image()[None], _model()
    assert x[0, OBSERVED].unique().tolist() == [0, 1]  # 看到的像素有亮有灭
    for rates, message in (
        ([0.5, 1.5], "observe_rates 的元素"),
        ([0.5, 0.5, 0.5], "observe_rates 的形状"),
        ([1.0, 1.0], "在每一类里概率都是 0"),
        ([0.0, 0.5], "从不被看到"),
        ([0.5, 0.0], "从不被看到"),
    ):
        with pytest.raises(ValueError, match=message):
            posterior_with_mechanism(
                x, OBSERVED[None], *model, torch.tensor(rates, dtype=torch.float64)
            )
