"""扩散模型前向过程的检验。"""

import math

import pytest
import torch
from torch import Tensor

from formulary.generative_models.diffusion import (
    alpha_bar,
    diffusion_posterior,
    linear_betas,
    posterior_natural_parameters,
    q_sample,
)

BETAS = torch.tensor([0.05, 0.1, 0.3, 0.2, 0.4], dtype=torch.float64)
T = torch.tensor([5, 2, 3, 4])
X0, XT = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(9))


def _by_conditioning(x0: Tensor, xt: Tensor, t: int) -> tuple[Tensor, float]:
    """先写出 (x_{t−1}, x_t) 给定 x_0 的联合高斯，再用条件高斯的公式。"""
    mean, variance = 1.0, 0.0  # x_{t−1} 的均值是 mean·x_0
    for beta in BETAS[: t - 1].tolist():
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
    beta = BETAS[t - 1].item()
    covariance = math.sqrt(1 - beta) * variance
    total = (1 - beta) * variance + beta
    gain = covariance / total
    return mean * x0 + gain * (xt - math.sqrt(1 - beta) * mean * x0), variance - gain * covariance


def test_linear_betas__matches_arithmetic_progression() -> None:
    """与首项加公差的循环相同；默认值是论文的 1e-4 到 0.02。"""
    expected = [0.01 + (0.5 - 0.01) * i / 6 for i in range(7)]
    betas = linear_betas(7, first=0.01, last=0.5, dtype=torch.float64)
    torch.testing.assert_close(betas, torch.tensor(expected, dtype=torch.float64))
    default = linear_betas(1000)
    assert default.dtype == torch.float32
    assert [round(default[i].item(), 6) for i in (0, -1)] == [0.0001, 0.02]


def test_linear_betas__equals_paper_endpoint() -> None:
    """论文的 1000 步走完，信号方差只剩 4.04e-5；同样的 β 只走 100 步，还剩 0.364。"""
    for steps, remaining in ((1000, "4.04e-05"), (100, "3.64e-01")):
        betas = linear_betas(steps, dtype=torch.float64)
        assert f"{math.prod(1 - b for b in betas.tolist()):.2e}" == remaining


def test_linear_betas__rejects_bad_input() -> None:
    """步数不是正整数，或两端不满足 0 < first ≤ last < 1 时报错。"""
    with pytest.raises(ValueError, match="steps 必须是不小于 1 的整数"):
        linear_betas(0)
    for first, last in ((0.0, 0.1), (0.2, 0.1), (0.1, 1.0)):
        with pytest.raises(ValueError, match="first 与 last 必须满足"):
            linear_betas(3, first, last)
    assert linear_betas(2, 0.1, 0.1).tolist() == pytest.approx([0.1, 0.1])


def test_alpha_bar__matches_python_product() -> None:
    """与逐步连乘的循环相同，t = 0 处为 1。"""
    t = torch.tensor([[0, 3], [5, 1]])
    expected = [[math.prod(1 - b for b in BETAS[:k].tolist()) for k in row] for row in t.tolist()]
    torch.testing.assert_close(alpha_bar(BETAS, t), torch.tensor(expected, dtype=torch.float64))


def test_alpha_bar__equals_worked_example() -> None:
    """β = (0.5, 0.2) 时 ᾱ = 1、0.5、0.4。"""
    values = alpha_bar(torch.tensor([0.5, 0.2], dtype=torch.float64), torch.arange(3))
    torch.testing.assert_close(values, torch.tensor([1.0, 0.5, 0.4], dtype=torch.float64))


def test_alpha_bar__rejects_bad_input() -> None:
    """β 不在 (0, 1) 里、t 越界或不是整数时报错。"""
    for bad in (0.0, 1.0):
        with pytest.raises(ValueError, match="betas 的元素必须严格在 0 与 1 之间"):
            alpha_bar(torch.tensor([0.1, bad]), torch.tensor([1]))
    with pytest.raises(ValueError, match="betas 的形状"):
        alpha_bar(torch.full((1, 2), 0.1), torch.tensor([1]))
    for t in (-1, 6):
        with pytest.raises(ValueError, match="t 的元素"):
            alpha_bar(BETAS, torch.tensor([t]))
    with pytest.raises(ValueError, match="t 必须是整数张量"):
        alpha_bar(BETAS, torch.tensor([1.0]))


def test_q_sample__matches_composed_gaussian_steps() -> None:
    """一步到位的均值与方差，等于把 t 个单步高斯逐个复合。"""
    zero, one = torch.zeros(6, 1, dtype=torch.float64), torch.ones(6, 1, dtype=torch.float64)
    t = torch.arange(6)
    signal, noise = q_sample(one, t, zero, BETAS), q_sample(zero, t, one, BETAS)
    mean, variance = 1.0, 0.0
    for k in range(6):
        if k:
            beta = BETAS[k - 1].item()
            mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        expected = torch.tensor([mean, math.sqrt(variance)], dtype=torch.float64)
        torch.testing.assert_close(torch.cat((signal[k], noise[k])), expected)
    # 各行各用各的 t，各列分别线性
    mixed = q_sample(X0, T, XT, BETAS)
    torch.testing.assert_close(mixed, signal[T] * X0 + noise[T] * XT)


def test_q_sample__equals_worked_example() -> None:
    """β = (0.2, 0.2)、x_0 = 2、ε = 1：x_2 = 0.8 × 2 + 0.6 × 1 = 2.2。"""
    x = q_sample(
        torch.tensor([[2.0]], dtype=torch.float64),
        torch.tensor([2]),
        torch.tensor([[1.0]], dtype=torch.float64),
        torch.tensor([0.2, 0.2], dtype=torch.float64),
    )
    torch.testing.assert_close(x, torch.tensor([[2.2]], dtype=torch.float64))


def test_q_sample__preserves_unit_variance() -> None:
    """信号与噪声的系数平方和为 1，所以单位方差的数据加噪后仍是单位方差。"""
    zero, one = torch.zeros(5, 1, dtype=torch.float64), torch.ones(5, 1, dtype=torch.float64)
    t = torch.arange(1, 6)
    total = q_sample(one, t, zero, BETAS) ** 2 + q_sample(zero, t, one, BETAS) ** 2
    torch.testing.assert_close(total, one)


def test_q_sample__differs_from_variance_used_as_standard_deviation() -> None:
    """噪声乘 1 − ᾱ 而忘了开方，方差就不对。"""
    one = torch.ones(1, 1, dtype=torch.float64)
    t = torch.tensor([2])
    wrong = 1 - alpha_bar(BETAS, t)
    assert (q_sample(0 * one, t, one, BETAS) - wrong).abs() > 0.2


def test_q_sample__rejects_bad_input() -> None:
    """噪声或 t 的形状不合、t 越界时报错。"""
    with pytest.raises(ValueError, match="noise 的形状"):
        q_sample(X0, T, XT[:2], BETAS)
    with pytest.raises(ValueError, match="t 的形状"):
        q_sample(X0, T[:2], XT, BETAS)
    with pytest.raises(ValueError, match="t 的元素"):
        q_sample(X0, T + 1, XT, BETAS)
    with pytest.raises(ValueError, match="x0 的形状"):
        q_sample(X0[0], T, XT, BETAS)


def test_posterior_natural_parameters__matches_grid_log_density() -> None:
    """两个高斯因子之积的对数，二阶导数的相反数是精度，零点处的斜率是精度乘均值。"""
    precision, weighted = posterior_natural_parameters(X0, XT, T, BETAS)
    for row, t in enumerate(T.tolist()):
        a, beta = math.prod(1 - b for b in BETAS[: t - 1].tolist()), BETAS[t - 1].item()
        for col in range(3):
            x0, xt = X0[row, col].item(), XT[row, col].item()

            def log_product(
                x: float, x0: float = x0, xt: float = xt, a: float = a, beta: float = beta
            ) -> float:
                first = -((x - math.sqrt(a) * x0) ** 2) / (2 * (1 - a))
                return first - (xt - math.sqrt(1 - beta) * x) ** 2 / (2 * beta)

            up, middle, down = (log_product(x) for x in (1.0, 0.0, -1.0))  # 二次函数，差分精确
            slope, curvature = (up - down) / 2, up - 2 * middle + down
            expected = torch.tensor([-curvature, slope], dtype=torch.float64)
            actual = torch.stack((precision[row], weighted[row, col]))
            torch.testing.assert_close(actual, expected)


def test_posterior_natural_parameters__equals_posterior() -> None:
    """精度的倒数是 β̃_t，两者相除是 μ̃_t。"""
    precision, weighted = posterior_natural_parameters(X0, XT, T, BETAS)
    mean, variance = diffusion_posterior(X0, XT, T, BETAS)
    torch.testing.assert_close(1 / precision, variance)
    torch.testing.assert_close(weighted / precision[:, None], mean)


def test_posterior_natural_parameters__rejects_first_step() -> None:
    """t = 1 处精度无穷大，报错；形状不合也报错。"""
    with pytest.raises(ValueError, match="t 的元素必须在 2 到 5 之间"):
        posterior_natural_parameters(X0, XT, T - 1, BETAS)
    with pytest.raises(ValueError, match="xt 的形状"):
        posterior_natural_parameters(X0, XT[:2], T, BETAS)
    with pytest.raises(ValueError, match="t 的元素"):
        posterior_natural_parameters(X0, XT, T + 1, BETAS)


def test_diffusion_posterior__matches_gaussian_conditioning() -> None:
    """与联合高斯的条件均值、条件方差相同。"""
    t = torch.tensor([5, 1, 3, 2])
    mean, variance = diffusion_posterior(X0, XT, t, BETAS)
    for row, k in enumerate(t.tolist()):
        expected, spread = _by_conditioning(X0[row], XT[row], k)
        torch.testing.assert_close(mean[row], expected)
        torch.testing.assert_close(variance[row], torch.tensor(spread, dtype=torch.float64))


def test_diffusion_posterior__matches_product_of_densities_on_a_grid() -> None:
    """在网格上相乘两个高斯密度、归一化，均值与方差相同。"""
    x0, xt, t = 1.3, -0.4, 3
    grid = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    a, beta = math.prod(1 - b for b in BETAS[: t - 1].tolist()), BETAS[t - 1].item()
    log = -((grid - math.sqrt(a) * x0) ** 2) / (2 * (1 - a))
    p = (log - (xt - math.sqrt(1 - beta) * grid) ** 2 / (2 * beta)).softmax(0)
    expected = p @ grid
    mean, variance = diffusion_posterior(
        torch.tensor([[x0]], dtype=torch.float64),
        torch.tensor([[xt]], dtype=torch.float64),
        torch.tensor([t]),
        BETAS,
    )
    torch.testing.assert_close(mean[0, 0], expected)
    torch.testing.assert_close(variance[0], p @ (grid - expected) ** 2)


def test_diffusion_posterior__equals_worked_example() -> None:
    """β = (0.2, 0.2)、x_0 = 2、x_2 = 2.2：均值 2.0870，方差 1/9。"""
    mean, variance = diffusion_posterior(
        torch.tensor([[2.0]], dtype=torch.float64),
        torch.tensor([[2.2]], dtype=torch.float64),
        torch.tensor([2]),
        torch.tensor([0.2, 0.2], dtype=torch.float64),
    )
    assert round(mean.item(), 4) == 2.087
    torch.testing.assert_close(variance, torch.tensor([1 / 9], dtype=torch.float64))


def test_diffusion_posterior__limit_first_step() -> None:
    """t = 1 时均值就是 x_0，方差为 0。"""
    mean, variance = diffusion_posterior(X0, XT, torch.ones(4, dtype=torch.int64), BETAS)
    torch.testing.assert_close(mean, X0)
    assert not variance.any()


def test_diffusion_posterior__differs_from_printed_variance() -> None:
    """β̃_t 小于 β_t；少了因子 β_t 的 (1 − ᾱ_{t−1})/α_t 或 (1 − ᾱ_{t−1})/(1 − ᾱ_t) 都不是它。"""
    _, variance = diffusion_posterior(X0, XT, T, BETAS)
    assert (variance < BETAS[T - 1]).all()
    before = 1 - alpha_bar(BETAS, T - 1)
    for denominator in (1 - BETAS[T - 1], 1 - alpha_bar(BETAS, T)):
        assert ((before / denominator - variance).abs() > 0.02).all()


def test_diffusion_posterior__rejects_bad_input() -> None:
    """t 取到 0 或超过步数、形状不合时报错。"""
    for t in (T - 2, T + 1):
        with pytest.raises(ValueError, match="t - 1 的元素"):
            diffusion_posterior(X0, XT, t, BETAS)
    with pytest.raises(ValueError, match="xt 的形状"):
        diffusion_posterior(X0, XT[:2], T, BETAS)
    with pytest.raises(ValueError, match="x0 的形状"):
        diffusion_posterior(X0[0], XT, T, BETAS)
