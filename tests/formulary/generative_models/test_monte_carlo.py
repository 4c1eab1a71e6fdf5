"""样本平均、标准误与 KL 散度的三个估计量的检验。"""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm, sem
from torch import Tensor

from formulary.generative_models.monte_carlo import (
    kl_estimates,
    kl_estimator_moments,
    mean_and_standard_error,
    monte_carlo_moments,
)

P = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
VALUES = torch.tensor([-0.7, -1.9, -3.0], dtype=torch.float64)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_mean_and_standard_error__matches_scipy() -> None:
    """逐批的平均与标准误等于 np.mean 与 scipy.stats.sem。"""
    values = torch.randn(3, 4, 9, dtype=torch.float64, generator=_generator())
    mean, error = mean_and_standard_error(values)
    torch.testing.assert_close(mean, torch.from_numpy(values.numpy().mean(-1)))
    torch.testing.assert_close(error, torch.from_numpy(sem(values.numpy(), axis=-1)))


def test_mean_and_standard_error__equals_hand_computed_example() -> None:
    """数据 (1, 2, 3, 6) 的平均是 3，标准误是 sqrt(14/3)/2。"""
    mean, error = mean_and_standard_error(torch.tensor([1.0, 2.0, 3.0, 6.0]).double())
    assert mean.item() == 3
    torch.testing.assert_close(error.item(), math.sqrt(14 / 3) / 2)


def test_mean_and_standard_error__is_unbiased_in_variance() -> None:
    """对全部 3^4 组样本按概率加权，标准误的平方的期望恰是估计量的方差。"""
    total = 0.0
    for states in itertools.product(range(3), repeat=4):
        weight = math.prod(P[s].item() for s in states)
        total += weight * mean_and_standard_error(VALUES[list(states)])[1].item() ** 2
    mean = (P * VALUES).sum()
    expected = (P * (VALUES - mean) ** 2).sum().item() / 4
    torch.testing.assert_close(total, expected)


def test_mean_and_standard_error__rejects_single_sample() -> None:
    """只有一个样本时不能估计标准误，报错。"""
    with pytest.raises(ValueError, match="values 至少要有两个样本"):
        mean_and_standard_error(torch.ones(3, 1))
    with pytest.raises(ValueError, match="values 必须是实浮点张量"):
        mean_and_standard_error(torch.tensor([1, 2]))


@pytest.mark.parametrize("samples", [1, 2, 4])
def test_monte_carlo_moments__matches_enumeration(samples: int) -> None:
    """与对全部 3^M 组样本的平均数枚举出的期望和方差相同。"""
    first = second = 0.0
    for states in itertools.product(range(3), repeat=samples):
        weight = math.prod(P[s].item() for s in states)
        average = sum(VALUES[s].item() for s in states) / samples
        first += weight * average
        second += weight * average**2
    mean, variance = monte_carlo_moments(P, VALUES, samples)
    torch.testing.assert_close(mean.item(), first)
    torch.testing.assert_close(variance.item(), second - first**2)


def test_monte_carlo_moments__matches_simulation() -> None:
    """4000 次模拟（每次 25 个样本）的平均与方差落在五个标准误之内。"""
    generator = _generator()
    p = torch.rand(64, dtype=torch.float64, generator=generator)
    p = p / p.sum()
    values = torch.randn(64, dtype=torch.float64, generator=generator)
    mean, variance = monte_carlo_moments(p, values, samples=25)
    states = torch.multinomial(p, 4000 * 25, replacement=True, generator=generator)
    averages = values[states].view(4000, 25).mean(-1)
    assert (averages.mean() - mean).abs() <= 5 * (variance / 4000).sqrt()
    # 近似正态的样本方差，相对标准误是 sqrt(2/4000)，约 2.2%；漏掉一个因子 2 一定会被发现
    assert (averages.var() / variance - 1).abs() <= 5 * math.sqrt(2 / 4000)


def test_monte_carlo_moments__equals_hand_computed_example() -> None:
    """手算一例：均值 −0.5697，100 个样本的标准差 0.0600，降到 0.01 要 3604 个样本。"""
    p = torch.tensor([0.75, 0.25], dtype=torch.float64)
    log_q = torch.tensor([0.8, 0.2], dtype=torch.float64).log()
    mean, variance = monte_carlo_moments(p, log_q, samples=100)
    torch.testing.assert_close(mean.item(), 0.75 * math.log(0.8) + 0.25 * math.log(0.2))
    torch.testing.assert_close(variance.sqrt().item(), math.sqrt(3) / 4 * math.log(4) / 10)
    assert round(mean.item(), 4) == -0.5697
    assert round(variance.sqrt().item(), 4) == 0.0600
    assert monte_carlo_moments(p, log_q, 3604)[1].sqrt().item() <= 0.01
    assert monte_carlo_moments(p, log_q, 3603)[1].sqrt().item() > 0.01


def test_monte_carlo_moments__equals_paired_comparison() -> None:
    """在同一批样本上比较两个模型，差的标准差是 0.2334；分开抽样则是 0.7035。"""
    p = torch.tensor([0.75, 0.25], dtype=torch.float64)
    first = torch.tensor([0.8, 0.2], dtype=torch.float64).log()
    second = torch.tensor([0.7, 0.3], dtype=torch.float64).log()
    gain, paired = monte_carlo_moments(p, first - second, 1)
    separate = monte_carlo_moments(p, first, 1)[1] + monte_carlo_moments(p, second, 1)[1]
    torch.testing.assert_close(
        paired.sqrt().item(), math.sqrt(3) / 4 * (math.log(0.8 / 0.7) - math.log(0.2 / 0.3))
    )
    assert round(gain.item(), 4) == -0.0012
    assert round(paired.sqrt().item(), 4) == 0.2334
    assert round(separate.sqrt().item(), 4) == 0.7035
    assert round((separate / paired).item(), 1) == 9.1


def test_monte_carlo_moments__rejects_bad_input() -> None:
    """p 不是分布、取值的个数不符、样本数不是正整数时报错。"""
    with pytest.raises(ValueError, match="p 沿"):
        monte_carlo_moments(2 * P / 3, VALUES, 1)
    with pytest.raises(ValueError, match="values 的形状"):
        monte_carlo_moments(P, VALUES[:2], 1)
    with pytest.raises(ValueError, match="samples 必须是不小于 1"):
        monte_carlo_moments(P, VALUES, 0)


def test_kl_estimates__matches_python_loop() -> None:
    """三个估计量与逐个样本照定义算的值相同。"""
    log_p, log_q = torch.randn(2, 8, dtype=torch.float64, generator=_generator())
    k1, k2, k3 = kl_estimates(log_p, log_q)
    for i, (a, b) in enumerate(zip(log_p.tolist(), log_q.tolist(), strict=True)):
        r = math.exp(b) / math.exp(a)
        torch.testing.assert_close(k1[i].item(), -math.log(r))
        torch.testing.assert_close(k2[i].item(), math.log(r) ** 2 / 2)
        torch.testing.assert_close(k3[i].item(), r - 1 - math.log(r))


def test_kl_estimates__is_unbiased_for_k1_and_k3() -> None:
    """在有限状态上求精确的期望：k1 与 k3 都等于 KL 散度，k2 不等。"""
    q = torch.tensor([0.1, 0.1, 0.8], dtype=torch.float64)
    k1, k2, k3 = ((P * k).sum() for k in kl_estimates(P.log(), q.log()))
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(P), torch.distributions.Categorical(q)
    )
    torch.testing.assert_close(k1, expected)
    torch.testing.assert_close(k3, expected)
    assert (k2 - expected).abs() > 0.05


def test_kl_estimates__bounds_k2_and_k3_below_by_zero() -> None:
    """每个样本上 k2 与 k3 都非负，k1 则有正有负；r 接近 1 时 k3 不因相减而失去精度。"""
    log_p, log_q = torch.randn(2, 1000, dtype=torch.float64, generator=_generator())
    k1, k2, k3 = kl_estimates(log_p, log_q)
    assert (torch.stack((k2, k3)) >= 0).all()
    assert k1.min() < 0 < k1.max()
    tiny = torch.tensor([1e-6], dtype=torch.float64)
    # expm1(t) − t 仍有一次相减，相对误差约为 eps / t
    torch.testing.assert_close(
        kl_estimates(-tiny, 0 * tiny)[2].item(), 5e-13 * (1 + 1e-6 / 3), rtol=1e-9, atol=0
    )


def test_kl_estimates__differs_from_swapped_ratio() -> None:
    """r 写成 p/q 时，k1 变号，k3 的期望也不再是 KL 散度。"""
    q = torch.tensor([0.1, 0.1, 0.8], dtype=torch.float64)
    right, wrong = kl_estimates(P.log(), q.log()), kl_estimates(q.log(), P.log())
    torch.testing.assert_close((P * right[0]).sum(), -(P * wrong[0]).sum())
    assert ((P * right[2]).sum() - (P * wrong[2]).sum()).abs() > 0.1


def test_kl_estimates__rejects_mismatched_shapes() -> None:
    """两组对数概率的形状不同时报错并指出 log_q。"""
    with pytest.raises(ValueError, match="log_q 的形状"):
        kl_estimates(torch.zeros(3), torch.zeros(4))


def _moments_by_quadrature(shift: float) -> tuple[list[float], list[float]]:
    """用数值积分求 k1、k2、k3 的期望与方差。"""
    means, variances = [], []
    for k in (
        lambda t: -t,
        lambda t: t**2 / 2,
        lambda t: math.exp(t) - 1 - t,
    ):

        def moment(power: int, k: object = k) -> float:
            def integrand(x: float) -> float:
                log_ratio = norm.logpdf(x, shift) - norm.logpdf(x)
                return norm.pdf(x) * k(log_ratio) ** power  # type: ignore[operator]

            return float(quad(integrand, -12, 12, epsabs=1e-13, limit=200)[0])

        means.append(moment(1))
        variances.append(moment(2) - moment(1) ** 2)
    return means, variances


@pytest.mark.parametrize("shift", [0.3, -1.1])
def test_kl_estimator_moments__matches_quadrature(shift: float) -> None:
    """期望与方差的闭式等于 scipy.integrate.quad 的结果。"""
    means, variances = kl_estimator_moments(torch.tensor(shift, dtype=torch.float64))
    expected_means, expected_variances = _moments_by_quadrature(shift)
    torch.testing.assert_close(means, torch.tensor(expected_means, dtype=torch.float64))
    torch.testing.assert_close(variances, torch.tensor(expected_variances, dtype=torch.float64))


def test_kl_estimator_moments__matches_simulation() -> None:
    """δ = 0.3 时十万个样本的三个平均，都在五个标准误之内。"""
    x = torch.randn(100_000, dtype=torch.float64, generator=_generator(1))
    means, variances = kl_estimator_moments(torch.tensor(0.3, dtype=torch.float64))
    estimates: tuple[Tensor, ...] = kl_estimates(-(x**2) / 2, -((x - 0.3) ** 2) / 2)
    # k2 的偏差 0.0010 是它的标准误 0.0002 的五倍，k3 与 k2 混淆会被发现
    for k, mean, variance in zip(estimates, means, variances, strict=True):
        assert (k.mean() - mean).abs() <= 5 * (variance / 100_000).sqrt()
        assert (k.var() / variance - 1).abs() < 0.1


def test_kl_estimator_moments__equals_worked_example() -> None:
    """δ = 0.3：期望 0.045、0.0460、0.045，标准差 0.300、0.065、0.065；k3 省样本二十倍。"""
    means, variances = kl_estimator_moments(torch.tensor(0.3, dtype=torch.float64))
    assert [round(v, 4) for v in means.tolist()] == [0.045, 0.046, 0.045]
    assert [round(v, 3) for v in variances.sqrt().tolist()] == [0.3, 0.065, 0.065]
    assert 20 < (variances[0] / variances[2]).item() < 22


def test_kl_estimator_moments__equals_exercise_on_crossover() -> None:
    """练习：δ 约为 1.12 时 k1 与 k3 的方差相等，再大则 k3 更差。"""
    around = torch.tensor([1.1209, 1.1210], dtype=torch.float64)
    _, (k1, _, k3) = kl_estimator_moments(around)
    assert k3[0] < k1[0]
    assert k3[1] > k1[1]
    _, (k1, _, k3) = kl_estimator_moments(torch.tensor(2.0, dtype=torch.float64))
    np.testing.assert_allclose([k1.item(), k3.item()], [4.0, math.exp(4) - 5])
    assert [round(v, 1) for v in (k1.sqrt().item(), k3.sqrt().item())] == [2.0, 7.0]


def test_kl_estimator_moments__rejects_integers() -> None:
    """平移量不是浮点张量时报错并指出 shift。"""
    with pytest.raises(ValueError, match="shift 必须是实浮点张量"):
        kl_estimator_moments(torch.tensor(1))
