"""Beta 先验、后验与平滑的关系的检验。"""

import math

import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
import torch

from formulary.mnist_joint.beta import beta_mode, beta_posterior, beta_posterior_density
from formulary.mnist_joint.naive_bayes import fit_counts

GRID = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)


def test_beta_posterior_density__matches_scipy() -> None:
    """两行都与 scipy 的 Beta 后验密度成比例，比值处处是同一个归一化常数。"""
    for line in beta_posterior_density(GRID, ones=5, zeros=12, alpha=1.7):
        density = torch.tensor(scipy.stats.beta(1.7 + 5, 1.7 + 12).pdf(GRID.numpy()))
        ratio = line / density
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))


def test_beta_posterior_density__matches_quadrature() -> None:
    """未归一化的密度数值积分，等于贝塔函数 B(α + 取 1 的次数, α + 取 0 的次数)。"""

    def density(theta: float) -> float:
        line, _ = beta_posterior_density(torch.tensor([theta]).double(), 2, 3, 1.5)
        return float(line)

    area, _ = scipy.integrate.quad(density, 0, 1)
    assert math.isclose(area, math.gamma(3.5) * math.gamma(4.5) / math.gamma(8), rel_tol=1e-8)


def test_beta_posterior_density__preserves_value_between_lines() -> None:
    """推导的两行处处相等。"""
    product, merged = beta_posterior_density(GRID, ones=3, zeros=8, alpha=0.6)
    torch.testing.assert_close(product, merged)


def test_beta_posterior_density__equals_worked_example() -> None:
    """θ = 1/2、α = 2、亮 1 次灭 2 次：两行都是 2⁻⁵。"""
    lines = beta_posterior_density(torch.tensor([0.5]), ones=1, zeros=2, alpha=2.0)
    assert [line.item() for line in lines] == [2**-5, 2**-5]


def test_beta_posterior_density__rejects_bad_input() -> None:
    """theta 取到端点、次数为负或 α 不是正数时报错。"""
    for theta in (0.0, 1.0):
        with pytest.raises(ValueError, match="theta 必须严格在 0 与 1 之间"):
            beta_posterior_density(torch.tensor([theta]), 1, 1, 1.0)
    with pytest.raises(ValueError, match="alpha 必须是有限的正数"):
        beta_posterior_density(GRID, 1, 1, 0.0)


def test_beta_posterior__matches_torch_distributions() -> None:
    """均值等于 torch.distributions.Beta 的均值。"""
    for ones, zeros, alpha in ((5, 12, 1.0), (0, 3, 0.5), (7, 0, 2.5)):
        first, second, mean = beta_posterior(ones, zeros, alpha)
        concentration = torch.tensor([alpha + ones, alpha + zeros], dtype=torch.float64)
        expected = torch.distributions.Beta(*concentration).mean
        torch.testing.assert_close(torch.tensor(mean, dtype=torch.float64), expected)
        assert [first, second] == concentration.tolist()


def test_beta_posterior__matches_quadrature() -> None:
    """均值等于“似然乘先验”归一化后的数值积分。"""

    def weight(theta: float) -> float:
        return theta**4 * (1 - theta) ** 9 * (theta * (1 - theta)) ** (1.5 - 1)

    total, _ = scipy.integrate.quad(weight, 0, 1)
    moment, _ = scipy.integrate.quad(lambda theta: theta * weight(theta), 0, 1)
    # 数值积分自身的误差
    assert math.isclose(beta_posterior(4, 9, 1.5)[2], moment / total, rel_tol=1e-9)


def test_beta_posterior__equals_laplace_estimate() -> None:
    """均值就是平滑量为 α 的计数估计：17 张里亮 5 张、α = 1 时是 6/19。"""
    x = torch.tensor([[1.0]] * 5 + [[0.0]] * 12, dtype=torch.float64)
    for alpha in (0.4, 1.0, 3.0):
        theta, _ = fit_counts(x, torch.zeros(17, dtype=torch.int64), 1, alpha)
        mean = torch.tensor(beta_posterior(5, 12, alpha)[2], dtype=torch.float64)
        torch.testing.assert_close(theta[0, 0], mean)
    assert math.isclose(beta_posterior(5, 12, 1.0)[2], 6 / 19)


def test_beta_posterior__rejects_bad_input() -> None:
    """次数为负或小数、α 不是有限的正数时报错。"""
    for arguments, name in (
        ((-1, 2, 1.0), "ones"),
        ((1, -1, 1.0), "zeros"),
        ((1, 1.5, 1.0), "zeros"),
        ((1, 2, 0.0), "alpha"),
        ((1, 2, math.nan), "alpha"),
    ):
        with pytest.raises(ValueError, match=f"{name} 必须"):
            beta_posterior(*arguments)  # type: ignore[arg-type]


def test_beta_mode__matches_numerical_maximum() -> None:
    """等于 scipy 对 Beta 密度数值求得的最大点。"""
    for first, second in ((3.0, 5.5), (1.0, 4.0), (7.2, 1.0)):
        found = scipy.optimize.minimize_scalar(
            lambda t, a=first, b=second: -scipy.stats.beta(a, b).pdf(t),
            bounds=(0, 1),
            method="bounded",
            options={"xatol": 1e-10},
        )
        # 最大点附近密度平坦，数值求得的位置只准到误差的平方根
        assert abs(beta_mode(first, second) - found.x) < 1e-6


def test_beta_mode__equals_laplace_estimate() -> None:
    """先验取 Beta(α+1, α+1) 时，后验的众数等于平滑量为 α 的估计。"""
    for alpha in (0.5, 1.0, 2.0):
        first, second, _ = beta_posterior(5, 12, alpha + 1)
        assert math.isclose(beta_mode(first, second), (5 + alpha) / (17 + 2 * alpha))


def test_beta_mode__limit_of_one_sided_density() -> None:
    """一个参数是 1 时密度单调，众数在端点：Beta(1, 1.5) 在 0，Beta(1.5, 1) 在 1。"""
    assert beta_mode(1.0, 1.5) == 0
    assert beta_mode(1.5, 1.0) == 1


def test_beta_mode__differs_from_laplace_under_the_same_prior() -> None:
    """先验取 Beta(1, 1) 时，后验众数是频率 5/17，后验均值才是加一平滑的 6/19。"""
    first, second, mean = beta_posterior(5, 12, 1.0)
    assert math.isclose(beta_mode(first, second), 5 / 17)
    assert math.isclose(mean, 6 / 19)
    assert abs(beta_mode(first, second) - mean) > 0.02


def test_beta_mode__rejects_flat_or_u_shaped() -> None:
    """a 或 b 小于 1，或两者都是 1 时没有唯一的最大值，报错。"""
    for first, second in ((0.5, 2.0), (2.0, 0.5), (1.0, 1.0), (math.inf, 2.0), (2.0, math.inf)):
        with pytest.raises(ValueError, match="first 与 second 必须"):
            beta_mode(first, second)
