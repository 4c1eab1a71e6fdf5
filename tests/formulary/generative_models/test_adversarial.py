"""生成对抗网络的价值函数与最优判别器的检验。"""

import math

import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch import Tensor
from torch.nn import functional as F

from formulary.generative_models.adversarial import (
    gan_value,
    optimal_discriminator,
    pointwise_value,
    value_at_optimum,
)
from formulary.generative_models.divergences import js_divergence, kl_divergence


def _distributions(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    p, q = logits.softmax(-1)
    return p, q


def test_gan_value__matches_python_loop() -> None:
    """与逐个样本算 log D 与 log(1 − D)、再分别取平均的循环相同。"""
    real, fake = [0.3, -1.2, 2.5], [-0.7, 0.4, 1.1, -3.0, 0.2]
    total = sum(math.log(1 / (1 + math.exp(-x))) for x in real) / 3
    total += sum(math.log(1 - 1 / (1 + math.exp(-x))) for x in fake) / 5
    value = gan_value(
        torch.tensor(real, dtype=torch.float64), torch.tensor(fake, dtype=torch.float64)
    )
    torch.testing.assert_close(value, torch.tensor(total, dtype=torch.float64))


def test_gan_value__matches_binary_cross_entropy() -> None:
    """等于真样本标 1、生成样本标 0 的两个二元交叉熵之和的相反数。"""
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(7, dtype=torch.float64, generator=generator)
    fake = torch.randn(4, dtype=torch.float64, generator=generator)
    expected = -F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
    expected = expected - F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
    torch.testing.assert_close(gan_value(real, fake), expected)


def test_gan_value__equals_minus_log_four_for_a_guessing_discriminator() -> None:
    """判别器处处输出 1/2 时 V = −log 4。"""
    value = gan_value(torch.zeros(3, dtype=torch.float64), torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close(value, torch.tensor(-math.log(4), dtype=torch.float64))


def test_gan_value__limit_extreme_logits() -> None:
    """对数几率到 ±1000 时仍是有限值：全对时为 0，全错时为 −2000。"""
    big = torch.tensor([1000.0])
    assert gan_value(big, -big).item() == 0
    assert gan_value(-big, big).item() == -2000


def test_gan_value__rejects_matrix() -> None:
    """对数几率不是一维时报错并指出是哪一个参数。"""
    with pytest.raises(ValueError, match="real_logits 的形状"):
        gan_value(torch.zeros(3, 1), torch.zeros(3))
    with pytest.raises(ValueError, match="fake_logits 的形状"):
        gan_value(torch.zeros(3), torch.zeros(3, 1))


def test_pointwise_value__matches_autograd() -> None:
    """导数与对 Σ[p log D + q log(1 − D)] 自动求导相同，项的和与循环相同。"""
    p, q = _distributions(2, 5)
    d = torch.linspace(0.1, 0.8, 10, dtype=torch.float64).view(2, 5).requires_grad_()
    terms, slopes = pointwise_value(p, q, d.detach())
    value = (p * d.log() + q * (1 - d).log()).sum()
    (expected,) = torch.autograd.grad(value, d)
    torch.testing.assert_close(slopes, expected)
    loop = [
        sum(
            a * math.log(c) + b * math.log(1 - c)
            for a, b, c in zip(p[i].tolist(), q[i].tolist(), d[i].tolist(), strict=True)
        )
        for i in range(2)
    ]
    torch.testing.assert_close(terms.sum(-1), torch.tensor(loop, dtype=torch.float64))


def test_pointwise_value__equals_worked_example() -> None:
    """p = (1/2, 1/2)、q = (1/4, 3/4)、D 恒为 1/2 时导数是 (1/2, −1/2)。"""
    p, q = torch.tensor([0.5, 0.5]).double(), torch.tensor([0.25, 0.75]).double()
    half = torch.full_like(p, 0.5)
    terms, slopes = pointwise_value(p, q, half)
    torch.testing.assert_close(slopes, torch.tensor([0.5, -0.5], dtype=torch.float64))
    torch.testing.assert_close(terms.sum(), torch.tensor(-math.log(4), dtype=torch.float64))


def test_pointwise_value__rejects_bad_input() -> None:
    """D 取到 0 或 1、形状不合，或 p、q 不是分布时报错。"""
    p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
    for bad in (torch.tensor([0.0, 0.5]), torch.tensor([0.5, 1.0])):
        with pytest.raises(ValueError, match="discriminator 的元素"):
            pointwise_value(p, q, bad)
    with pytest.raises(ValueError, match="discriminator 的形状"):
        pointwise_value(p, q, torch.tensor([0.5]))
    with pytest.raises(ValueError, match="p "):
        pointwise_value(p * 2, q, q)
    with pytest.raises(ValueError, match="q "):
        pointwise_value(p, q / 2, q)


def test_optimal_discriminator__matches_vanishing_gradient() -> None:
    """把 V 写成各状态对数几率的函数，自动求导的梯度在 D* 处为零。"""
    p, q = _distributions(3, 6)
    logits = torch.logit(optimal_discriminator(p, q)).requires_grad_()
    value = (p * F.logsigmoid(logits) + q * F.logsigmoid(-logits)).sum()
    (gradient,) = torch.autograd.grad(value, logits)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


def test_optimal_discriminator__matches_grid_search() -> None:
    """逐个状态在 D 的网格上穷举，最大点与 D* 相差不过一格。"""
    p, q = _distributions(4)
    grid = [k / 10_000 for k in range(1, 10_000)]
    best = [
        max(grid, key=lambda d, a=a, b=b: a * math.log(d) + b * math.log(1 - d))
        for a, b in zip(p.tolist(), q.tolist(), strict=True)
    ]
    expected = torch.tensor(best, dtype=torch.float64)
    # 网格的间距是 1e-4
    torch.testing.assert_close(optimal_discriminator(p, q), expected, atol=1e-4, rtol=0)


def test_optimal_discriminator__equals_worked_example() -> None:
    """p = (1/2, 1/2, 0)、q = (1/4, 3/4, 0) 时 D* = (2/3, 2/5, 1/2)。"""
    p = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    q = torch.tensor([0.25, 0.75, 0.0], dtype=torch.float64)
    expected = torch.tensor([2 / 3, 2 / 5, 1 / 2], dtype=torch.float64)
    torch.testing.assert_close(optimal_discriminator(p, q), expected)


def test_optimal_discriminator__differs_from_two_sided_label_smoothing() -> None:
    """真样本标 0.9、生成样本标 0.1 时，交叉熵的最优点是 (0.9p + 0.1q)/(p + q)，不是 D*。"""
    p, q = _distributions(5)
    smoothed = (0.9 * p + 0.1 * q) / (p + q)
    logits = torch.logit(smoothed).requires_grad_()
    real = F.binary_cross_entropy_with_logits(logits, torch.full_like(p, 0.9), weight=p)
    fake = F.binary_cross_entropy_with_logits(logits, torch.full_like(p, 0.1), weight=q)
    (gradient,) = torch.autograd.grad(real + fake, logits)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))
    assert (optimal_discriminator(p, q) - smoothed).abs().max() > 0.05


def test_optimal_discriminator__equals_generator_gradients_of_divergences() -> None:
    """D* 固定时，饱和损失的梯度等于 2JS 的梯度，非饱和损失的等于 KL(p_G‖p) − 2JS 的。"""
    p, _ = _distributions(5)
    theta = torch.linspace(-1, 0.7, 5, dtype=torch.float64).requires_grad_()
    q = theta.softmax(0)
    d = optimal_discriminator(p, q).detach()
    js, reverse = js_divergence(p, q), kl_divergence(q, p)
    pairs = (
        ((q * (1 - d).log()).sum(), 2 * js),
        (-(q * d.log()).sum(), reverse - 2 * js),
    )
    for loss, divergence in pairs:
        (actual,) = torch.autograd.grad(loss, theta, retain_graph=True)
        (expected,) = torch.autograd.grad(divergence, theta, retain_graph=True)
        torch.testing.assert_close(actual, expected)
        assert expected.abs().max() > 0.01


def test_optimal_discriminator__rejects_non_distribution() -> None:
    """p 或 q 的和不是 1、有负数，或两者形状不同时报错。"""
    good = torch.tensor([0.5, 0.5])
    with pytest.raises(ValueError, match="p "):
        optimal_discriminator(torch.tensor([0.5, 0.6]), good)
    with pytest.raises(ValueError, match="q "):
        optimal_discriminator(good, torch.tensor([1.5, -0.5]))
    with pytest.raises(ValueError, match="q "):
        optimal_discriminator(good, torch.tensor([1.0]))


def test_value_at_optimum__matches_scipy_jensen_shannon() -> None:
    """两种算法都等于 scipy 的 JS 距离平方的两倍减 log 4。"""
    p, q = _distributions(3, 6)
    expected = [
        2 * jensenshannon(a, b) ** 2 - math.log(4)
        for a, b in zip(p.tolist(), q.tolist(), strict=True)
    ]
    for value in value_at_optimum(p, q):
        torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float64))


def test_value_at_optimum__equals_worked_example() -> None:
    """p = (1/2, 1/2)、q = (1/4, 3/4) 时 V = −1.3187。"""
    p, q = torch.tensor([0.5, 0.5]).double(), torch.tensor([0.25, 0.75]).double()
    by_hand = (
        0.5 * math.log(2 / 3)
        + 0.5 * math.log(2 / 5)
        + 0.25 * math.log(1 / 3)
        + 0.75 * math.log(3 / 5)
    )
    for value in value_at_optimum(p, q):
        torch.testing.assert_close(value, torch.tensor(by_hand, dtype=torch.float64))
        assert round(value.item(), 4) == -1.3187


def test_value_at_optimum__bounds_every_discriminator() -> None:
    """别的判别器给出的 V 都不更大；值在 −log 4 与 0 之间，两端分别在 p = q 与不相交时取到。"""
    p, q = _distributions(6)
    best, _ = value_at_optimum(p, q)
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        d = torch.rand(6, dtype=torch.float64, generator=generator).clamp(0.01, 0.99)
        assert pointwise_value(p, q, d)[0].sum() < best
    assert -math.log(4) < best < 0
    one, two = torch.eye(2, dtype=torch.float64)
    for value in value_at_optimum(one, two):
        assert abs(value.item()) < 1e-12
    for value in value_at_optimum(p, p):
        torch.testing.assert_close(value, torch.tensor(-math.log(4), dtype=torch.float64))


def test_value_at_optimum__rejects_non_distribution() -> None:
    """q 的和不是 1 时报错。"""
    with pytest.raises(ValueError, match="q "):
        value_at_optimum(torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.6]))
