"""扩散模型的负对数似然上界的检验。"""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from formulary.generative_models.diffusion_bound import diffusion_bound

BETAS = torch.tensor([0.05, 0.2, 0.3, 0.5], dtype=torch.float64)
VARIANCE = 1.7  # 数据 N(0, 1.7)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _best_noise(betas: Tensor, variance: float) -> object:
    bars = torch.cat((betas.new_ones(1), (1 - betas).cumprod(0)))

    def best(xt: Tensor, t: Tensor) -> Tensor:
        a = bars[t][:, None]
        return (1 - a).sqrt() * xt / (a * variance + 1 - a)

    return best


def _trajectory_estimate(
    model: object, x0: Tensor, variances: Tensor, generator: torch.Generator
) -> Tensor:
    """逐步模拟前向轨迹，直接累加 log q(x_{1:N} | x_0) − log p(x_{0:N})。"""
    bars = torch.cat((BETAS.new_ones(1), (1 - BETAS).cumprod(0)))
    total, x = torch.zeros(len(x0), dtype=torch.float64), x0
    for k in range(1, len(BETAS) + 1):
        beta = BETAS[k - 1]
        forward = Normal((1 - beta).sqrt() * x, beta.sqrt())
        noise = torch.randn(x.shape, dtype=torch.float64, generator=generator)
        y = forward.mean + forward.stddev * noise
        predicted = model(y, torch.full((len(x0),), k))  # type: ignore[operator]
        mean = (y - beta / (1 - bars[k]).sqrt() * predicted) / (1 - beta).sqrt()
        total = total + forward.log_prob(y).sum(-1)
        total = total - Normal(mean, variances[k - 1].sqrt()).log_prob(x).sum(-1)
        x = y
    return total - Normal(0.0, 1.0).log_prob(x).sum(-1)


def _posterior_variances(betas: Tensor) -> Tensor:
    """各步的 β̃_t；t = 1 处它为 0，换成 β_1。"""
    bars = torch.cat((betas.new_ones(1), (1 - betas).cumprod(0)))
    tilde = betas * (1 - bars[:-1]) / (1 - bars[1:])
    return torch.cat((betas[:1], tilde[1:]))


def _path_divergence(betas: Tensor, variances: Tensor) -> float:
    """高斯数据、最优网络：前向与反向两条高斯链的路径 (x_0, …, x_N) 之间的 KL 散度。

    它恰等于平均的界减去数据的熵。两条链都写成白噪声的线性变换，协方差由此得到。
    """
    steps, bars = len(betas), torch.cat((betas.new_ones(1), (1 - betas).cumprod(0)))
    forward, backward = torch.zeros(2, steps + 1, steps + 1, dtype=torch.float64)
    forward[0, 0], backward[steps, steps] = math.sqrt(VARIANCE), 1.0
    for k in range(1, steps + 1):
        forward[k] = (1 - betas[k - 1]).sqrt() * forward[k - 1]
        forward[k, k] = betas[k - 1].sqrt()
    for k in range(steps, 0, -1):
        spread = bars[k] * VARIANCE + 1 - bars[k]
        gain = (1 - betas[k - 1] / spread) / (1 - betas[k - 1]).sqrt()
        backward[k - 1] = gain * backward[k]
        backward[k - 1, k - 1] = variances[k - 1].sqrt()
    zero = torch.zeros(steps + 1, dtype=torch.float64)
    q = MultivariateNormal(zero, scale_tril=forward)
    p = MultivariateNormal(zero, backward @ backward.T)
    return kl_divergence(q, p).item()


def test_diffusion_bound__matches_trajectory_estimate() -> None:
    """期望与逐步模拟前向轨迹的估计相同（5 个标准误以内），方差任意、网络不是最优的也如此。"""
    rows = 80_000
    x0 = torch.tensor([[0.7, -1.9]], dtype=torch.float64).expand(rows, 2)
    variances = torch.tensor([0.08, 0.15, 0.35, 0.4], dtype=torch.float64)

    def model(xt: Tensor, t: Tensor) -> Tensor:
        return 0.4 * xt + 0.1 * t[:, None]

    ours = diffusion_bound(model, x0, BETAS, _generator(1), variances)
    theirs = _trajectory_estimate(model, x0, variances, _generator(2))
    error = math.sqrt((ours.var().item() + theirs.var().item()) / rows)
    assert abs(ours.mean().item() - theirs.mean().item()) <= 5 * error
    assert error < 0.02  # 期望约 4.6 nat，偏 2% 就会被发现


def test_diffusion_bound__equals_closed_form_for_one_point() -> None:
    """数据只有原点、噪声预测准确时误差为零，只剩末端的 KL 与各步方差之比留下的常数。"""
    bars = [math.prod(1 - b for b in BETAS[:k].tolist()) for k in range(5)]
    x0 = torch.zeros(3, 2, dtype=torch.float64)

    def exact(xt: Tensor, t: Tensor) -> Tensor:
        return xt / (1 - torch.tensor(bars, dtype=torch.float64)[t][:, None]).sqrt()

    ends = (-bars[4] - math.log(1 - bars[4])) + math.log(2 * math.pi * 0.05)  # 两维，½ 约去
    ratios = [(1 - bars[k - 1]) / (1 - bars[k]) for k in (2, 3, 4)]
    constant = sum(r - 1 - math.log(r) for r in ratios)
    for variances, expected in (
        (None, ends + constant),  # σ_t² = β_t
        (_posterior_variances(BETAS), ends),  # σ_t² = β̃_t
    ):
        bound = diffusion_bound(exact, x0, BETAS, _generator(0), variances)
        torch.testing.assert_close(bound, torch.full((3,), expected, dtype=torch.float64))
    assert constant > 0.1


def test_diffusion_bound__bounds_the_negative_log_likelihood() -> None:
    """高斯数据、最优网络：界比熵多出两条链的路径之间的 KL，σ² 取 β 时 0.019，取 β̃ 时 20.8 nat。"""
    entropy = 0.5 * math.log(2 * math.pi * math.e * VARIANCE)
    x0 = math.sqrt(VARIANCE) * torch.randn(20_000, 1, dtype=torch.float64, generator=_generator(3))
    gaps = []
    for steps, last in ((4, 0.6), (200, 0.06)):
        betas = torch.linspace(0.005, last, steps, dtype=torch.float64)
        for variances in (betas, _posterior_variances(betas)):
            gap = _path_divergence(betas, variances)
            gaps.append(f"{gap:.2g}" if gap < 1 else f"{gap:.1f}")
            model = _best_noise(betas, VARIANCE)
            bound = diffusion_bound(model, x0, betas, _generator(4), variances)  # type: ignore[arg-type]
            error = bound.std().item() / math.sqrt(len(x0))
            assert gap > 0
            assert abs(bound.mean().item() - entropy - gap) <= 5 * error
            assert error < 0.01 * (entropy + gap)  # 偏 5% 就会被发现
    assert gaps == ["0.019", "20.8", "0.00053", "0.34"]


def test_diffusion_bound__differs_from_posterior_variances_at_any_step_size() -> None:
    """同样的总噪声分给 4 倍的步数，取 β 的间隙缩小到约四分之一，取 β̃ 的停在 0.3 nat 上下。"""
    coarse, fine = (torch.linspace(1 / n, 12 / n, n, dtype=torch.float64) for n in (100, 400))
    assert _path_divergence(coarse, coarse) > 3.8 * _path_divergence(fine, fine)
    for betas in (coarse, fine):
        assert 0.25 < _path_divergence(betas, _posterior_variances(betas)) < 0.4
    x0 = torch.ones(20_000, 1, dtype=torch.float64)
    model = _best_noise(fine, VARIANCE)
    wide = diffusion_bound(model, x0, fine, _generator(5))  # type: ignore[arg-type]
    narrow = diffusion_bound(model, x0, fine, _generator(5), _posterior_variances(fine))  # type: ignore[arg-type]
    gap = narrow - wide
    assert gap.mean() > 0.1 + 5 * gap.std() / math.sqrt(len(x0))


def test_diffusion_bound__rejects_bad_input() -> None:
    """x0 不是二维或 β 不在 (0, 1) 里时报错。"""
    with pytest.raises(ValueError, match="x0 的形状"):
        diffusion_bound(lambda xt, t: xt, torch.zeros(3), BETAS, _generator(0))
    with pytest.raises(ValueError, match="betas 的元素"):
        diffusion_bound(lambda xt, t: xt, torch.zeros(3, 1), BETAS + 1, _generator(0))
    with pytest.raises(ValueError, match="variances 的元素必须是正数"):
        diffusion_bound(lambda xt, t: xt, torch.zeros(3, 1), BETAS, _generator(0), 0 * BETAS)
    with pytest.raises(ValueError, match="variances 的形状"):
        diffusion_bound(lambda xt, t: xt, torch.zeros(3, 1), BETAS, _generator(0), BETAS[1:])
