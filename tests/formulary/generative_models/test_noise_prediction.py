"""扩散模型反向过程的检验：均值、权重、损失与采样。"""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from formulary.generative_models.diffusion import alpha_bar, diffusion_posterior, q_sample
from formulary.generative_models.gaussian_mixture import gaussian_mixture_score
from formulary.generative_models.noise_prediction import (
    ddpm_loss,
    ddpm_sample,
    denoising_mean,
    noise_prediction_weight,
    noise_to_score,
)

BETAS = torch.tensor([0.05, 0.1, 0.3, 0.2, 0.4], dtype=torch.float64)
T = torch.tensor([5, 1, 3, 4])
X, NOISE = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(9))


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _alpha_bars() -> list[float]:
    return [math.prod(1 - b for b in BETAS[:k].tolist()) for k in range(len(BETAS) + 1)]


def test_denoising_mean__matches_python_loop() -> None:
    """与逐元素照公式计算的循环相同，各行各用各的 t。"""
    bars = _alpha_bars()
    expected = [
        [
            (x - BETAS[t - 1].item() / math.sqrt(1 - bars[t]) * e)
            / math.sqrt(1 - BETAS[t - 1].item())
            for x, e in zip(row, noise, strict=True)
        ]
        for row, noise, t in zip(X.tolist(), NOISE.tolist(), T.tolist(), strict=True)
    ]
    actual = denoising_mean(X, NOISE, T, BETAS)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_denoising_mean__matches_posterior_mean() -> None:
    """由噪声解出 x_0、代入后验均值 μ̃_t，结果相同。"""
    bars = torch.tensor(_alpha_bars(), dtype=torch.float64)[T][:, None]
    x0 = (X - (1 - bars).sqrt() * NOISE) / bars.sqrt()
    expected, _ = diffusion_posterior(x0, X, T, BETAS)
    torch.testing.assert_close(denoising_mean(X, NOISE, T, BETAS), expected)


def test_denoising_mean__equals_worked_example() -> None:
    """β = (0.2, 0.2)、x_2 = 2.2、ε = 1：均值 2.0870。"""
    betas = torch.tensor([0.2, 0.2], dtype=torch.float64)
    xt, noise = (torch.tensor([[v]], dtype=torch.float64) for v in (2.2, 1.0))
    mean = denoising_mean(xt, noise, torch.tensor([2]), betas)
    expected = torch.tensor([[(2.2 - 0.2 / 0.6) / math.sqrt(0.8)]], dtype=torch.float64)
    torch.testing.assert_close(mean, expected)
    assert round(mean.item(), 4) == 2.087


def test_denoising_mean__rejects_bad_input() -> None:
    """噪声的形状不合、t 取到 0 时报错。"""
    with pytest.raises(ValueError, match="noise 的形状"):
        denoising_mean(X, NOISE[:2], T, BETAS)
    with pytest.raises(ValueError, match="t - 1 的元素"):
        denoising_mean(X, NOISE, T - 1, BETAS)
    with pytest.raises(ValueError, match="xt 的形状"):
        denoising_mean(X[0], NOISE, T, BETAS)


def test_noise_to_score__matches_autograd_of_transition() -> None:
    """等于前向转移密度 log q(x_t | x_0) 对 x_t 的自动求导。"""
    xt = q_sample(X, T, NOISE, BETAS).requires_grad_()
    bars = torch.tensor(_alpha_bars(), dtype=torch.float64)[T][:, None]
    (expected,) = torch.autograd.grad(
        Normal(bars.sqrt() * X, (1 - bars).sqrt()).log_prob(xt).sum(), xt
    )
    torch.testing.assert_close(noise_to_score(NOISE, T, BETAS), expected)


def test_noise_to_score__matches_marginal_score_by_quadrature() -> None:
    """数据取三个点：条件期望 E[ε | x_t] 换算出的，是 log q_t 的数值导数，不是某一条转移的。"""
    points, masses = torch.tensor([-1.5, 0.4, 2.0]).double(), torch.tensor([0.2, 0.5, 0.3]).double()
    bars = torch.tensor(_alpha_bars(), dtype=torch.float64)[T]  # (4,)
    xt = torch.tensor([-0.8, 0.3, 1.1, 0.2], dtype=torch.float64)

    def log_density(x: Tensor) -> Tensor:
        parts = Normal(bars[:, None].sqrt() * points, (1 - bars[:, None]).sqrt())
        return (parts.log_prob(x[:, None]).exp() * masses).sum(-1).log()

    posterior = Normal(bars[:, None].sqrt() * points, (1 - bars[:, None]).sqrt())
    posterior = posterior.log_prob(xt[:, None]).exp() * masses
    noise = (xt[:, None] - bars[:, None].sqrt() * points) / (1 - bars[:, None]).sqrt()
    noise = (posterior * noise).sum(-1) / posterior.sum(-1)
    h = 1e-5
    expected = (log_density(xt + h) - log_density(xt - h)) / (2 * h)
    # 中心差分自身的误差约 1e-9
    actual = noise_to_score(noise[:, None], T, BETAS)[:, 0]
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)


def test_noise_to_score__equals_worked_example() -> None:
    """β = (0.2, 0.2)、t = 2：√(1 − ᾱ) = 0.6，ε = 0.3 对应分数 −0.5。"""
    betas = torch.tensor([0.2, 0.2], dtype=torch.float64)
    noise = torch.tensor([[0.3]], dtype=torch.float64)
    score = noise_to_score(noise, torch.tensor([2]), betas)
    torch.testing.assert_close(score, torch.tensor([[-0.5]], dtype=torch.float64))


def test_noise_to_score__rejects_bad_input() -> None:
    """t 取到 0 或噪声不是二维时报错。"""
    with pytest.raises(ValueError, match="t - 1 的元素"):
        noise_to_score(NOISE, T - 1, BETAS)
    with pytest.raises(ValueError, match="noise 的形状"):
        noise_to_score(NOISE[0], T, BETAS)


def test_noise_prediction_weight__matches_torch_kl() -> None:
    """两个均值之间的 KL 等于权重乘噪声误差，再加与网络无关的常数（方差不同时）。"""
    t = torch.tensor([5, 2, 3, 4])
    variances = torch.tensor([0.07, 0.2, 0.11, 0.3, 0.25], dtype=torch.float64)
    other = torch.sin(3 * X)
    bars = torch.tensor(_alpha_bars(), dtype=torch.float64)[t][:, None]
    x0 = (X - (1 - bars).sqrt() * NOISE) / bars.sqrt()
    mean, spread = diffusion_posterior(x0, X, t, BETAS)
    truth = Normal(mean, spread.sqrt()[:, None])
    scale = variances[t - 1].sqrt()[:, None]
    kl = kl_divergence(truth, Normal(denoising_mean(X, other, t, BETAS), scale)).sum(-1)
    constant = kl_divergence(truth, Normal(mean, scale)).sum(-1)
    weight = noise_prediction_weight(t, BETAS, variances)
    torch.testing.assert_close(weight * (NOISE - other).square().sum(-1) + constant, kl)
    assert constant.max() > 1


def test_noise_prediction_weight__equals_worked_example() -> None:
    """β 全为 1/2、σ² = β：t = 1 时权重 1，t = 2 时 2/3。"""
    betas = torch.tensor([0.5, 0.5], dtype=torch.float64)
    weights = noise_prediction_weight(torch.tensor([1, 2]), betas, betas)
    torch.testing.assert_close(weights, torch.tensor([1.0, 2 / 3], dtype=torch.float64))


def test_noise_prediction_weight__equals_paper_schedule() -> None:
    """论文的 1000 步、σ² = β：权重在 t = 1、10、349、1000 处是 0.5、0.0737、0.00497、0.0102。"""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    weights = noise_prediction_weight(torch.tensor([1, 10, 349, 1000]), betas, betas)
    assert [f"{w:.3g}" for w in weights.tolist()] == ["0.5", "0.0737", "0.00497", "0.0102"]
    every = noise_prediction_weight(torch.arange(1, 1001), betas, betas)
    assert every.argmin() + 1 == 349
    assert f"{every[:50].sum() / every.sum():.0%}" == "31%"
    remaining = math.prod(1 - b for b in betas[:50].tolist())
    assert round(math.sqrt(1 - remaining), 2) == 0.17  # 前 50 步加完，噪声的标准差


def test_noise_prediction_weight__rejects_bad_input() -> None:
    """方差的长度不合或不是正数、t 越界时报错。"""
    with pytest.raises(ValueError, match="variances 的形状"):
        noise_prediction_weight(T, BETAS, BETAS[:3])
    with pytest.raises(ValueError, match="variances 的元素必须是正数"):
        noise_prediction_weight(T, BETAS, BETAS - 0.05)
    with pytest.raises(ValueError, match="t - 1 的元素"):
        noise_prediction_weight(T + 1, BETAS, BETAS)


def test_ddpm_loss__matches_python_loop() -> None:
    """用网络实际收到的 (x_t, t) 反推噪声，逐元素算平方误差，结果相同。"""
    x0 = torch.randn(50, 2, dtype=torch.float64, generator=_generator(1))
    seen: list[tuple[Tensor, Tensor]] = []

    def model(xt: Tensor, t: Tensor) -> Tensor:
        seen.append((xt, t))
        return 0.3 * xt + t[:, None]

    loss = ddpm_loss(model, x0, BETAS, _generator(2))
    ((xt, t),) = seen
    bars, total = _alpha_bars(), 0.0
    for x, y, k in zip(x0.tolist(), xt.tolist(), t.tolist(), strict=True):
        for a, b in zip(x, y, strict=True):
            noise = (b - math.sqrt(bars[k]) * a) / math.sqrt(1 - bars[k])
            total += (noise - (0.3 * b + k)) ** 2
    torch.testing.assert_close(loss, torch.tensor(total / 50, dtype=torch.float64))
    assert set(t.tolist()) == {1, 2, 3, 4, 5}


def test_ddpm_loss__matches_analytic_minimum_for_gaussian_data() -> None:
    """数据是 N(0, s²) 时，最优的噪声预测达到解析的最小值（5 个标准误以内）。"""
    s2, count = 2.5, 40_000
    x0 = math.sqrt(s2) * torch.randn(count, 1, dtype=torch.float64, generator=_generator(3))
    bars = torch.tensor(_alpha_bars(), dtype=torch.float64)

    def best(xt: Tensor, t: Tensor) -> Tensor:
        a = bars[t][:, None]
        return (1 - a).sqrt() * xt / (a * s2 + 1 - a)

    each = [a * s2 / (a * s2 + 1 - a) for a in _alpha_bars()[1:]]  # Var(ε | x_t)
    truth = sum(each) / len(each)
    # (ε − ε*)² 是方差为 each[t] 的高斯的平方
    second = sum(3 * v * v for v in each) / len(each)
    error = math.sqrt((second - truth**2) / count)
    loss = ddpm_loss(best, x0, BETAS, _generator(4)).item()
    assert abs(loss - truth) <= 5 * error  # truth 约 0.81，5 个标准误约 0.03
    worse = ddpm_loss(lambda xt, t: 0 * xt, x0, BETAS, _generator(4)).item()
    assert worse - truth > 20 * error


def test_ddpm_loss__is_unbiased_noise() -> None:
    """预测恒为 0 时损失是 E‖ε‖² = n（5 个标准误以内）。"""
    x0 = torch.zeros(20_000, 3, dtype=torch.float64)
    loss = ddpm_loss(lambda xt, t: torch.zeros_like(xt), x0, BETAS, _generator(5)).item()
    assert abs(loss - 3) <= 5 * math.sqrt(2 * 3 / 20_000)


def test_ddpm_loss__rejects_bad_input() -> None:
    """x0 不是二维或 β 不在 (0, 1) 里时报错。"""
    with pytest.raises(ValueError, match="x0 的形状"):
        ddpm_loss(lambda xt, t: xt, torch.zeros(3), BETAS, _generator())
    with pytest.raises(ValueError, match="betas 的元素"):
        ddpm_loss(lambda xt, t: xt, torch.zeros(3, 1), 0 * BETAS, _generator())


def _point_mass_noise(point: Tensor) -> object:
    def exact(xt: Tensor, t: Tensor) -> Tensor:
        a = alpha_bar(BETAS, t)[:, None]
        return (xt - a.sqrt() * point) / (1 - a).sqrt()

    return exact


def test_ddpm_sample__matches_manual_steps() -> None:
    """用同一串噪声手写 5 步，结果相同，起点不被改动。"""
    x = torch.tensor([[0.5, -1.0], [2.0, 0.3]], dtype=torch.float64)
    before, generator, y, bars = x.clone(), _generator(6), x.clone(), _alpha_bars()
    for k in (5, 4, 3, 2, 1):
        beta = BETAS[k - 1].item()
        predicted = torch.cos(y) / k
        y = (y - beta / math.sqrt(1 - bars[k]) * predicted) / math.sqrt(1 - beta)
        if k > 1:
            noise = torch.randn(2, 2, dtype=torch.float64, generator=generator)
            y = y + math.sqrt(beta) * noise
    actual = ddpm_sample(lambda v, t: torch.cos(v) / t[:, None], x, BETAS, _generator(6))
    torch.testing.assert_close(actual, y)
    assert torch.equal(x, before)


def test_ddpm_sample__matches_variance_recursion_for_gaussian_data() -> None:
    """数据是 N(0, s²)、噪声预测最优时，样本方差符合逐步递推（5 个标准误以内）。"""
    s2, count, bars = 2.5, 40_000, _alpha_bars()

    def best(xt: Tensor, t: Tensor) -> Tensor:
        one = torch.ones(1, dtype=torch.float64)
        a = alpha_bar(BETAS, t[:1])
        score = gaussian_mixture_score(xt, one, one[None] * 0, a * s2 + 1 - a)
        return -(1 - a).sqrt() * score

    v = 1.0
    for k in (5, 4, 3, 2, 1):
        beta, a = BETAS[k - 1].item(), bars[k]
        gain = (1 - beta / (a * s2 + 1 - a)) / math.sqrt(1 - beta)
        v = gain**2 * v + (beta if k > 1 else 0)
    start = torch.randn(count, 1, dtype=torch.float64, generator=_generator(7))
    x = ddpm_sample(best, start, BETAS, _generator(8))
    error = v * math.sqrt(2 / count)
    assert abs(x.var().item() - v) <= 5 * error
    assert BETAS[0].item() > 2 * error  # 最后一步多加的噪声 β_1 与误差可比，另有精确的检验


def test_ddpm_sample__equals_the_point_when_data_are_one_point() -> None:
    """数据只有一个点、噪声预测准确时，从哪里出发都恰好落在那一点上。"""
    point = torch.tensor([1.5, -2.0], dtype=torch.float64)
    start = torch.randn(6, 2, dtype=torch.float64, generator=_generator(1))
    x = ddpm_sample(_point_mass_noise(point), start, BETAS, _generator(2))
    torch.testing.assert_close(x, point.expand(6, 2))


def test_ddpm_sample__differs_from_noise_at_the_last_step() -> None:
    """最后一步也加噪声，同样的情形下样本散开，标准差为 √β_1。"""
    point = torch.tensor([1.5], dtype=torch.float64)
    start = torch.randn(4000, 1, dtype=torch.float64, generator=_generator(1))
    exact = ddpm_sample(_point_mass_noise(point), start, BETAS, _generator(2))
    noise = torch.randn(4000, 1, dtype=torch.float64, generator=_generator(3))
    noisy = exact + BETAS[0].sqrt() * noise
    assert exact.std() < 1e-12
    spread = BETAS[0].sqrt().item()
    assert abs(noisy.std().item() - spread) <= 5 * spread / math.sqrt(2 * 4000)


def test_ddpm_sample__is_free_of_gradients() -> None:
    """网络带参数时也不记录梯度。"""
    a = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    assert not ddpm_sample(lambda v, t: a * v, X, BETAS, _generator()).requires_grad


def test_ddpm_sample__rejects_bad_input() -> None:
    """起点不是二维或 β 不在 (0, 1) 里时报错。"""
    with pytest.raises(ValueError, match="x 的形状"):
        ddpm_sample(lambda v, t: v, torch.zeros(3), BETAS, _generator())
    with pytest.raises(ValueError, match="betas 的元素"):
        ddpm_sample(lambda v, t: v, torch.zeros(3, 1), BETAS + 1, _generator())
