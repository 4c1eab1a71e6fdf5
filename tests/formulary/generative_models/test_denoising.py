"""去噪分数匹配、Tweedie 公式与朗之万采样的检验。"""

import math

import pytest
import torch
from torch import Tensor

from formulary.generative_models.denoising import (
    denoising_score_matching_loss,
    langevin_sample,
    langevin_variance,
    tweedie_mean,
)
from formulary.generative_models.gaussian_mixture import gaussian_mixture_score

PRIOR = torch.tensor([0.3, 0.7], dtype=torch.float64)
MEANS = torch.tensor([[-1.5], [1.0]], dtype=torch.float64)
VARIANCES = torch.tensor([0.3, 0.1], dtype=torch.float64)
SIGMA = 0.6


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _mixture_samples(count: int) -> Tensor:
    generator = _generator(8)
    k = torch.multinomial(PRIOR, count, replacement=True, generator=generator)
    noise = torch.randn(count, 1, dtype=torch.float64, generator=generator)
    return MEANS[k] + VARIANCES[k].sqrt()[:, None] * noise


def _noised_score(x: Tensor) -> Tensor:
    return gaussian_mixture_score(x, PRIOR, MEANS, VARIANCES + SIGMA**2)


def test_denoising_score_matching_loss__matches_python_loop() -> None:
    """用同一串噪声逐元素计算 s(x̃) + (x̃ − x)/σ²，结果相同。"""
    x = torch.tensor([[0.5, -1.0], [2.0, 0.3], [-0.7, 1.1]], dtype=torch.float64)
    noise = torch.randn(3, 2, dtype=torch.float64, generator=_generator(5))
    total = 0.0
    for row, e in zip(x.tolist(), noise.tolist(), strict=True):
        noisy = [a + 0.4 * b for a, b in zip(row, e, strict=True)]
        score = [3 * noisy[0] - noisy[1] ** 2, noisy[0] * noisy[1]]
        total += sum((s + (y - a) / 0.4**2) ** 2 for s, y, a in zip(score, noisy, row, strict=True))

    def model(y: Tensor) -> Tensor:
        return torch.stack((3 * y[:, 0] - y[:, 1] ** 2, y[:, 0] * y[:, 1]), -1)

    loss = denoising_score_matching_loss(model, x, 0.4, _generator(5))
    torch.testing.assert_close(loss, torch.tensor(total / 3, dtype=torch.float64))


def test_denoising_score_matching_loss__matches_fisher_divergence_up_to_a_constant() -> None:
    """任一分数比真分数多出的损失，等于它与加噪分布的分数的均方误差（5 个标准误以内）。"""
    x = _mixture_samples(100_000)

    def other(y: Tensor) -> Tensor:
        return torch.sin(y) - 0.5 * y

    # 同一串噪声下的成对差：标准误约 0.01，而差本身约 1.2
    excess = denoising_score_matching_loss(other, x, SIGMA, _generator(1))
    excess = excess - denoising_score_matching_loss(_noised_score, x, SIGMA, _generator(1))
    noise = torch.randn(x.shape, dtype=torch.float64, generator=_generator(1))
    noisy = x + SIGMA * noise
    target = -noise / SIGMA
    paired = (other(noisy) - target).square() - (_noised_score(noisy) - target).square()
    grid = torch.linspace(-8, 8, 2001, dtype=torch.float64)[:, None]
    density = (
        PRIOR
        * torch.exp(-((grid - MEANS.T) ** 2) / (2 * (VARIANCES + SIGMA**2)))
        / (2 * math.pi * (VARIANCES + SIGMA**2)).sqrt()
    ).sum(-1)
    gap = (other(grid) - _noised_score(grid)).square()[:, 0]
    truth = torch.trapezoid(density * gap, grid[:, 0])
    error = paired.std() / len(x) ** 0.5
    assert abs(excess - truth) <= 5 * error
    assert truth > 50 * error


def test_denoising_score_matching_loss__equals_zero_for_a_single_point() -> None:
    """数据只有一个点时目标没有散布，最优分数使损失为零；漏掉平方则不然。"""
    x = torch.tensor([[2.0, -1.0]], dtype=torch.float64).expand(50, 2)
    loss = denoising_score_matching_loss(lambda y: (x - y) / 0.25, x, 0.5, _generator())
    torch.testing.assert_close(loss, torch.zeros_like(loss))
    wrong = denoising_score_matching_loss(lambda y: (x - y) / 0.5, x, 0.5, _generator())
    assert wrong > 1


def test_denoising_score_matching_loss__rejects_bad_input() -> None:
    """x 不是二维或 sigma 不是有限的正数时报错。"""
    with pytest.raises(ValueError, match="x 的形状"):
        denoising_score_matching_loss(lambda y: y, torch.zeros(3), 0.1, _generator())
    for sigma in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="sigma 必须是有限的正数"):
            denoising_score_matching_loss(lambda y: y, torch.zeros(3, 1), sigma, _generator())


def test_tweedie_mean__matches_quadrature() -> None:
    """对高斯混合，由加噪分布的分数换算出的后验均值与数值积分相同。"""
    noisy = torch.tensor([[-2.0], [-0.3], [0.4], [1.7]], dtype=torch.float64)
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    prior = sum(
        p * torch.exp(-((grid - m) ** 2) / (2 * v)) / math.sqrt(v)
        for p, m, v in zip(
            PRIOR.tolist(), MEANS.flatten().tolist(), VARIANCES.tolist(), strict=True
        )
    )
    joint = prior * torch.exp(-((noisy - grid) ** 2) / (2 * SIGMA**2))  # (4, 4001)
    expected = (joint * grid).sum(-1, keepdim=True) / joint.sum(-1, keepdim=True)
    torch.testing.assert_close(tweedie_mean(noisy, _noised_score(noisy), SIGMA), expected)


def test_tweedie_mean__equals_gaussian_shrinkage() -> None:
    """x ~ N(0, 4)、σ = 1、x̃ = 5 时后验均值是 4/5 × 5 = 4。"""
    noisy = torch.tensor([5.0], dtype=torch.float64)
    mean = tweedie_mean(noisy, -noisy / 5, 1.0)
    torch.testing.assert_close(mean, torch.tensor([4.0], dtype=torch.float64))


def test_tweedie_mean__differs_from_unsquared_sigma() -> None:
    """分数乘 σ 而不是 σ²，σ 不为 1 时结果不同。"""
    noisy = torch.tensor([[1.7]], dtype=torch.float64)
    wrong = noisy + SIGMA * _noised_score(noisy)
    assert (tweedie_mean(noisy, _noised_score(noisy), SIGMA) - wrong).abs() > 0.1


def test_tweedie_mean__rejects_bad_input() -> None:
    """形状不同或 sigma 不是正数时报错。"""
    with pytest.raises(ValueError, match="score_values 的形状"):
        tweedie_mean(torch.zeros(2, 1), torch.zeros(2, 2), 1.0)
    with pytest.raises(ValueError, match="sigma 必须是有限的正数"):
        tweedie_mean(torch.zeros(2), torch.zeros(2), 0.0)


def test_langevin_sample__matches_manual_steps() -> None:
    """用同一串噪声手写三步，结果相同，起点不被改动。"""
    x = torch.tensor([[0.5, -1.0], [2.0, 0.3]], dtype=torch.float64)
    before, generator, y = x.clone(), _generator(6), x.clone()
    for _ in range(3):
        noise = torch.randn(2, 2, dtype=torch.float64, generator=generator)
        y = y + 0.1 * torch.cos(y) + math.sqrt(0.2) * noise
    actual = langevin_sample(torch.cos, x, 0.2, 3, _generator(6))
    torch.testing.assert_close(actual, y)
    assert torch.equal(x, before)
    assert torch.equal(langevin_sample(torch.cos, x, 0.2, 0, _generator(6)), x)


def test_langevin_sample__matches_discrete_stationary_variance() -> None:
    """高斯目标、步长较大时，链的方差符合离散的平稳方差（5 个标准误以内），不是目标方差。"""
    variance, step_size, chains = 0.7, 0.6, 20_000
    start = torch.zeros(chains, 1, dtype=torch.float64)
    x = langevin_sample(lambda x: -x / variance, start, step_size, 60, _generator(2))
    expected = step_size / (1 - (1 - step_size / (2 * variance)) ** 2)
    error = expected * math.sqrt(2 / chains)  # 高斯样本方差的标准误
    assert abs(x.var().item() - expected) <= 5 * error
    assert expected - variance > 15 * error  # 目标方差会被拒绝


def test_langevin_sample__is_free_of_gradients() -> None:
    """分数带参数时也不记录梯度。"""
    a = torch.tensor(1.0, requires_grad=True)
    x = langevin_sample(lambda x: -a * x, torch.zeros(2, 1), 0.1, 2, _generator())
    assert not x.requires_grad


def test_langevin_sample__rejects_bad_input() -> None:
    """步长不是正数、步数为负或 x 不是二维时报错。"""
    x = torch.zeros(2, 1)
    with pytest.raises(ValueError, match="step_size 必须是有限的正数"):
        langevin_sample(torch.cos, x, 0.0, 1, _generator())
    with pytest.raises(ValueError, match="steps 必须是不小于 0 的整数"):
        langevin_sample(torch.cos, x, 0.1, -1, _generator())
    with pytest.raises(ValueError, match="x 的形状"):
        langevin_sample(torch.cos, x[0], 0.1, 1, _generator())


def test_langevin_variance__matches_recursion() -> None:
    """把 v ← (1 − η/(2σ²))²v + η 迭代到不动，结果相同。"""
    for variance, step_size in ((0.7, 0.6), (2.0, 0.01), (1.0, 3.5)):
        v = 0.0
        for _ in range(20_000):
            v = (1 - step_size / (2 * variance)) ** 2 * v + step_size
        actual = torch.tensor(langevin_variance(variance, step_size), dtype=torch.float64)
        torch.testing.assert_close(actual, torch.tensor(v, dtype=torch.float64))


def test_langevin_variance__equals_worked_example() -> None:
    """σ² = 1：η = 0.4 时方差是 10/9，η = 2 时加倍。"""
    assert langevin_variance(1.0, 0.4) == pytest.approx(10 / 9, abs=1e-12)
    assert langevin_variance(1.0, 2.0) == 2.0


def test_langevin_variance__limit_small_step() -> None:
    """步长趋于 0 时回到目标方差，偏差约为 η/4。"""
    bias = langevin_variance(3.0, 1e-4) - 3.0
    assert bias == pytest.approx(1e-4 / 4, rel=1e-4)


def test_langevin_variance__rejects_divergent_step() -> None:
    """步长到 4σ²、方差不是正数时报错。"""
    with pytest.raises(ValueError, match="step_size 必须小于"):
        langevin_variance(1.0, 4.0)
    with pytest.raises(ValueError, match="variance 必须是有限的正数"):
        langevin_variance(0.0, 1.0)
    with pytest.raises(ValueError, match="step_size 必须是有限的正数"):
        langevin_variance(1.0, -1.0)
