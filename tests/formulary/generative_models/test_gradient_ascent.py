"""小批量的似然梯度与随机梯度上升的检验。"""

import itertools

import pytest
import torch
from torch import Tensor

from formulary.generative_models.gradient_ascent import (
    likelihood_gradient,
    stochastic_gradient_step,
)

DATA = torch.tensor([0, 3, 1, 3, 2, 0])
THETA = torch.tensor([0.3, -0.7, 0.1, 1.2], dtype=torch.float64)


def _log_prob(theta: Tensor, x: Tensor) -> Tensor:
    return torch.log_softmax(theta, dim=0)[x]


def test_likelihood_gradient__matches_frequencies() -> None:
    """softmax 模型的梯度等于频率减去模型的概率。"""
    frequencies = torch.tensor([2, 1, 1, 2], dtype=torch.float64) / 6
    expected = frequencies - THETA.softmax(0)
    torch.testing.assert_close(likelihood_gradient(_log_prob, THETA, DATA), expected)


def test_likelihood_gradient__matches_finite_differences() -> None:
    """高斯模型（样本是二维的）的梯度等于中心差分。"""
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def log_prob(theta: Tensor, x: Tensor) -> Tensor:
        return -((x - theta[:2]) ** 2).sum(-1) * theta[2].exp() / 2 + theta[2]

    theta, step = torch.tensor([0.2, -0.4, 0.6], dtype=torch.float64), 1e-6
    expected = torch.stack(
        [
            (log_prob(theta + e, x).mean() - log_prob(theta - e, x).mean()) / (2 * step)
            for e in step * torch.eye(3, dtype=torch.float64)
        ]
    )
    # 差分的舍入误差约为 1e-16 / 1e-6
    torch.testing.assert_close(likelihood_gradient(log_prob, theta, x), expected, rtol=0, atol=1e-8)


def test_likelihood_gradient__is_unbiased_over_batches() -> None:
    """全部 15 个大小为 2 的小批量的梯度，平均等于全数据的梯度。"""
    batches = [list(b) for b in itertools.combinations(range(6), 2)]
    gradients = [likelihood_gradient(_log_prob, THETA, DATA[b]) for b in batches]
    assert len(gradients) == 15
    full = likelihood_gradient(_log_prob, THETA, DATA)
    torch.testing.assert_close(torch.stack(gradients).mean(0), full)
    assert (torch.stack(gradients) - full).abs().max() > 0.1  # 单个小批量并不相等


def test_likelihood_gradient__differs_from_mean_of_unequal_batches() -> None:
    """最后一批较小而各批同等看待时，平均不等于全数据的梯度；按样本数加权才相等。"""
    first, last = DATA[:4], DATA[4:]
    gradients = [likelihood_gradient(_log_prob, THETA, b) for b in (first, last)]
    full = likelihood_gradient(_log_prob, THETA, DATA)
    assert ((gradients[0] + gradients[1]) / 2 - full).abs().max() > 0.05
    torch.testing.assert_close((4 * gradients[0] + 2 * gradients[1]) / 6, full)


def test_likelihood_gradient__equals_exercise_on_unequal_batches() -> None:
    """练习：五个样本按 2、2、1 分批，三批平均的平均是 −8/3，真值是 −2。"""
    values = torch.tensor([-1.0, -1.0, -1.0, -1.0, -6.0], dtype=torch.float64)
    means = torch.stack([b.mean() for b in values.split(2)])
    torch.testing.assert_close(means.mean().item(), -8 / 3)
    # 以 θ 乘以这些值当作对数概率，梯度就是它们的平均
    theta = torch.ones(1, dtype=torch.float64)
    gradient = likelihood_gradient(lambda theta, x: theta * x, theta, values)
    torch.testing.assert_close(gradient.item(), -2.0)


def test_likelihood_gradient__rejects_wrong_outputs() -> None:
    """log_prob 不是每个样本返回一个数、参数不是一维时报错。"""
    with pytest.raises(ValueError, match="log_prob 的返回值 的形状"):
        likelihood_gradient(lambda theta, x: _log_prob(theta, x).sum()[None], THETA, DATA)
    with pytest.raises(ValueError, match="theta 的形状"):
        likelihood_gradient(_log_prob, THETA[None], DATA)


def test_stochastic_gradient_step__matches_torch_sgd() -> None:
    """与 torch.optim.SGD(maximize=True) 走一步的结果相同，原参数不变。"""
    parameter = torch.nn.Parameter(THETA.clone())
    optimizer = torch.optim.SGD([parameter], lr=0.3, maximize=True)
    _log_prob(parameter, DATA[1:4]).mean().backward()
    optimizer.step()
    before = THETA.clone()
    actual = stochastic_gradient_step(_log_prob, THETA, DATA[1:4], rate=0.3)
    torch.testing.assert_close(actual, parameter.detach())
    assert torch.equal(THETA, before)


def test_stochastic_gradient_step__equals_hand_computed_example() -> None:
    """两个状态、参数为 0、样本是状态 0、步长 0.1：走到 (0.05, −0.05)。"""
    theta = torch.zeros(2, dtype=torch.float64)
    actual = stochastic_gradient_step(_log_prob, theta, torch.tensor([0]), rate=0.1)
    torch.testing.assert_close(actual, torch.tensor([0.05, -0.05], dtype=torch.float64))


def test_stochastic_gradient_step__limit_is_the_empirical_distribution() -> None:
    """用全部数据反复上升，模型收敛到经验分布。"""
    theta = THETA
    for _ in range(400):
        theta = stochastic_gradient_step(_log_prob, theta, DATA, rate=1.0)
    expected = torch.tensor([2, 1, 1, 2], dtype=torch.float64) / 6
    torch.testing.assert_close(theta.softmax(0), expected)


def test_stochastic_gradient_step__differs_from_descent() -> None:
    """把加号写成减号，似然下降而不是上升。"""
    up = stochastic_gradient_step(_log_prob, THETA, DATA, rate=0.5)
    down = 2 * THETA - up
    now = _log_prob(THETA, DATA).mean()
    assert _log_prob(up, DATA).mean() > now > _log_prob(down, DATA).mean()


def test_stochastic_gradient_step__rejects_bad_rate() -> None:
    """步长不是正数时报错并指出 rate。"""
    for rate in (0.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="rate 必须是正数"):
            stochastic_gradient_step(_log_prob, THETA, DATA, rate=rate)
