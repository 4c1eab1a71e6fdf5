"""双峰目标、矩匹配与按散度拟合高斯的检验。"""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.integrate import quad, trapezoid
from scipy.optimize import minimize
from scipy.stats import norm
from torch import Tensor

from formulary.generative_models.divergences import (
    js_divergence,
    kl_divergence,
    reverse_kl_divergence,
)
from formulary.generative_models.f_divergences import f_divergence
from formulary.generative_models.gaussian_fit import (
    bimodal_on_grid,
    fit_gaussian,
    gaussian_cross_entropy_forms,
    mean_and_variance,
)
from formulary.generative_models.wasserstein import wasserstein_distance

POINTS = torch.linspace(-20, 20, 2001, dtype=torch.float64)


def _wasserstein(p: Tensor, q: Tensor) -> Tensor:
    return wasserstein_distance(p, q, POINTS)


def _chi_square(p: Tensor, q: Tensor) -> Tensor:
    return f_divergence(p, q, "chi_square")


def _hellinger(p: Tensor, q: Tensor) -> Tensor:
    return f_divergence(p, q, "hellinger")


# 散度、均值与标准差的初值、文中表里的均值、标准差与散度值
TABLE: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float, float, float, float, float]] = {
    "kl": (kl_divergence, 0.5, 1.8, 0.0, 2.0881, 0.5552),
    "chi_square": (_chi_square, 0.5, 1.8, 0.0, 2.1274, 1.0269),
    "hellinger": (_hellinger, 0.5, 1.8, 0.0, 2.0193, 0.3481),
    "js": (js_divergence, 0.5, 1.8, 0.0, 2.0635, 0.1548),
    "js_right": (js_divergence, 1.5, 0.8, 1.9948, 0.6091, 0.2153),
    "reverse_kl": (reverse_kl_divergence, 0.5, 1.8, 0.0, 1.7903, 1.1384),
    "reverse_kl_right": (reverse_kl_divergence, 1.5, 0.8, 1.9971, 0.6049, 0.6918),
}


def _density(x: np.ndarray) -> np.ndarray:
    return (norm.pdf(x, -2, 0.6) + norm.pdf(x, 2, 0.6)) / 2


def _continuous_divergence(name: str, mean: float, std: float) -> float:
    """用 SciPy 的高斯密度在另一套格点上数值积分。"""
    x = np.linspace(-16, 16, 3001)
    p, q = _density(x), norm.pdf(x, mean, std)
    m = (p + q) / 2
    integrand = {
        "kl": lambda: p * np.log(p / q),
        "reverse_kl": lambda: q * np.log(q / p),
        "js": lambda: (p * np.log(p / m) + q * np.log(q / m)) / 2,
        "chi_square": lambda: (p - q) ** 2 / q,
        "hellinger": lambda: (np.sqrt(p) - np.sqrt(q)) ** 2,
    }[name]()
    return float(trapezoid(integrand, x))


def test_bimodal_on_grid__matches_scipy_density() -> None:
    """概率除以间隔等于 SciPy 的混合密度。"""
    actual = bimodal_on_grid(POINTS) / 0.02
    torch.testing.assert_close(actual, torch.from_numpy(_density(POINTS.numpy())))


def test_bimodal_on_grid__equals_published_densities() -> None:
    """文中的数：原点处密度 0.0026，同矩的高斯 0.1911；[−1, 1] 里 4.8% 对 36.8%。"""
    p = bimodal_on_grid(POINTS) / 0.02
    std = math.sqrt(4.36)
    torch.testing.assert_close(p[1000].item(), float(_density(np.asarray(0.0))))
    assert round(p[1000].item(), 4) == 0.0026
    assert round(float(norm.pdf(0, 0, std)), 4) == 0.1911
    assert 70 < norm.pdf(0, 0, std) / p[1000].item() < 80
    inside = torch.trapezoid(p[950:1051], POINTS[950:1051]).item()
    expected = (norm.cdf(1, [-2, 2], 0.6) - norm.cdf(-1, [-2, 2], 0.6)).mean()
    torch.testing.assert_close(inside, float(expected), rtol=1e-3, atol=0)  # 梯形法的误差
    assert round(inside, 3) == 0.048
    assert round(float(norm.cdf(1, 0, std) - norm.cdf(-1, 0, std)), 3) == 0.368


def test_bimodal_on_grid__is_symmetric() -> None:
    """关于原点对称，和为 1，参数起作用：峰在 ±centre。"""
    p = bimodal_on_grid(POINTS, centre=3.0, std=0.4)
    torch.testing.assert_close(p, p.flip(0))
    torch.testing.assert_close(p.sum().item(), 1.0)
    assert abs(POINTS[p.argmax()].abs().item() - 3) < 0.02
    torch.testing.assert_close(mean_and_variance(p, POINTS)[1].item(), 9.16)


def test_bimodal_on_grid__rejects_bad_std() -> None:
    """标准差不是正数、格点不是浮点张量时报错。"""
    with pytest.raises(ValueError, match="std 必须是正数"):
        bimodal_on_grid(POINTS, std=0.0)
    with pytest.raises(ValueError, match="points 必须是实浮点张量"):
        bimodal_on_grid(torch.arange(3))


def test_mean_and_variance__matches_numpy() -> None:
    """等于 np.average 加权算出的均值与方差。"""
    p = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(0)
    points = torch.tensor([-3.0, -1.0, 0.5, 0.7, 2.0, 5.0, 9.0], dtype=torch.float64)
    mean, variance = mean_and_variance(p, points)
    expected = np.average(points, weights=p)
    torch.testing.assert_close(mean.item(), float(expected))
    spread = np.average((points.numpy() - expected) ** 2, weights=p)
    torch.testing.assert_close(variance.item(), float(spread))


def test_mean_and_variance__equals_mixture_moments() -> None:
    """双峰目标的均值是 0，方差是 4 + 0.36 = 4.36，标准差约 2.0881。"""
    mean, variance = mean_and_variance(bimodal_on_grid(POINTS), POINTS)
    torch.testing.assert_close(mean.item(), 0.0)
    torch.testing.assert_close(variance.item(), 4.36)
    assert round(math.sqrt(4.36), 4) == 2.0881


def test_mean_and_variance__rejects_mismatched_points() -> None:
    """坐标的个数与状态数不同、p 不是分布时报错。"""
    with pytest.raises(ValueError, match="points 的形状"):
        mean_and_variance(torch.tensor([0.5, 0.5]), torch.zeros(3))
    with pytest.raises(ValueError, match="p 沿"):
        mean_and_variance(torch.tensor([0.5, 0.4]), torch.zeros(2))


def test_gaussian_cross_entropy_forms__matches_quadrature() -> None:
    """三种写法都等于 scipy.integrate.quad 在连续密度上的积分。"""
    mean, variance = 0.7, 1.9

    def integrand(x: float) -> float:
        return -float(_density(np.asarray(x))) * norm.logpdf(x, mean, math.sqrt(variance))

    expected, _ = quad(integrand, -15, 15, points=[-2, 0, 2], epsabs=1e-12, limit=200)
    for form in gaussian_cross_entropy_forms(bimodal_on_grid(POINTS), POINTS, mean, variance):
        torch.testing.assert_close(form.item(), expected)


def test_gaussian_cross_entropy_forms__is_smallest_at_moments() -> None:
    """在目标的均值与方差处最小，最小值是 (1 + log 2πσ²)/2；四周都更大。"""
    p = bimodal_on_grid(POINTS)
    best = gaussian_cross_entropy_forms(p, POINTS, 0.0, 4.36)[0].item()
    torch.testing.assert_close(best, (1 + math.log(2 * math.pi * 4.36)) / 2)
    for mean, variance in ((0.1, 4.36), (-0.1, 4.36), (0.0, 4.2), (0.0, 4.5)):
        assert gaussian_cross_entropy_forms(p, POINTS, mean, variance)[0].item() > best


def test_gaussian_cross_entropy_forms__rejects_bad_variance() -> None:
    """方差不是正数时报错并指出 variance。"""
    with pytest.raises(ValueError, match="variance 必须是正数"):
        gaussian_cross_entropy_forms(bimodal_on_grid(POINTS), POINTS, 0.0, -1.0)


@pytest.mark.parametrize("case", TABLE)
def test_fit_gaussian__matches_nelder_mead(case: str) -> None:
    """与 SciPy 的 Nelder–Mead 法在连续密度的数值积分上找到的极小点相同。"""
    divergence, mean, std, *_ = TABLE[case]
    name = case.removesuffix("_right")
    best = minimize(
        lambda t: _continuous_divergence(name, t[0], math.exp(t[1])),
        [mean, math.log(std)],
        method="Nelder-Mead",
        options={"xatol": 1e-8, "fatol": 1e-14},
    )
    actual = fit_gaussian(divergence, bimodal_on_grid(POINTS), POINTS, mean, std)
    expected = (float(best.x[0]), math.exp(best.x[1]), float(best.fun))
    # 散度在极小点附近是二次的，参数只能精确到值的误差的平方根
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", TABLE)
def test_fit_gaussian__equals_published_table(case: str) -> None:
    """文中表格的每一行：均值、标准差与散度值到小数点后四位。"""
    divergence, mean, std, *expected = TABLE[case]
    actual = fit_gaussian(divergence, bimodal_on_grid(POINTS), POINTS, mean, std)
    # 表里的数舍入到四位小数
    torch.testing.assert_close(list(actual), expected, rtol=0, atol=5.1e-5)


def test_fit_gaussian__equals_wasserstein_row() -> None:
    """文中表格的 Wasserstein-1 一行，并与 SciPy 在累积分布上的积分相比。"""
    x = np.linspace(-15, 15, 60_001)
    target = (norm.cdf(x, -2, 0.6) + norm.cdf(x, 2, 0.6)) / 2

    def area(theta: np.ndarray) -> float:
        gap = np.abs(target - norm.cdf(x, theta[0], np.exp(theta[1])))
        return float(trapezoid(gap, x))

    best = minimize(area, [0.1, 0.6], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12})
    mean, std, value = fit_gaussian(_wasserstein, bimodal_on_grid(POINTS), POINTS, 0.5, 1.8)
    # 间隔 0.02 的格点使距离差到 1e-5 量级；目标在极小点附近很平，标准差只能定到 0.01
    torch.testing.assert_close(value, best.fun, rtol=0, atol=5e-5)
    torch.testing.assert_close(std, math.exp(best.x[1]), rtol=0, atol=0.01)
    assert abs(mean) < 0.01
    assert round(value, 4) == 0.6718
    assert round(math.exp(best.x[1]), 2) == 2.06


def test_fit_gaussian__equals_moments_for_forward_kl() -> None:
    """前向 KL 的极小点就是目标的均值与标准差，与初值无关；目标不必对称。"""
    weights = torch.exp(-((POINTS + 1) ** 2)) + 0.5 * torch.exp(-((POINTS - 2) ** 2) / 3)
    p = weights / weights.sum()
    mean, variance = mean_and_variance(p, POINTS)
    for start in ((0.0, 1.5), (2.0, 1.0)):
        actual = fit_gaussian(kl_divergence, p, POINTS, *start)
        # 参数只能精确到值的误差的平方根
        torch.testing.assert_close(actual[0], mean.item(), rtol=0, atol=1e-6)
        torch.testing.assert_close(actual[1], variance.sqrt().item(), rtol=0, atol=1e-6)


def test_fit_gaussian__differs_from_swapped_arguments() -> None:
    """参数次序写反，前向 KL 就变成反向 KL：从右边出发的结果只盖住一个峰。"""
    p = bimodal_on_grid(POINTS)
    swapped = fit_gaussian(lambda p, q: kl_divergence(q, p), p, POINTS, 1.5, 0.8)
    torch.testing.assert_close(swapped, fit_gaussian(reverse_kl_divergence, p, POINTS, 1.5, 0.8))
    forward = fit_gaussian(kl_divergence, p, POINTS, 1.5, 0.8)
    assert abs(forward[0]) < 0.001
    assert abs(swapped[0] - 2) < 0.01


def test_fit_gaussian__rejects_bad_std() -> None:
    """标准差的初值不是正数时报错并指出 std。"""
    with pytest.raises(ValueError, match="std 必须是正数"):
        fit_gaussian(kl_divergence, bimodal_on_grid(POINTS), POINTS, 0.0, 0.0)
