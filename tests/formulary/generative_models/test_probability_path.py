"""直线概率路径与边缘速度场的检验。"""

import math

import pytest
import torch
from torch import Tensor

from formulary.generative_models.gaussian_mixture import gaussian_mixture_score
from formulary.generative_models.probability_path import (
    gaussian_mixture_velocity,
    gaussian_velocity,
    linear_path,
    transport_rates,
    velocity_from_score,
)

PRIOR = torch.tensor([0.3, 0.7], dtype=torch.float64)
MEANS = torch.tensor([[-1.5, 0.5], [1.0, 2.0]], dtype=torch.float64)
VARIANCES = torch.tensor([0.3, 0.1], dtype=torch.float64)
X = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(6))


def _velocity_by_quadrature(x: float, t: float, parts: list[tuple[float, float, float]]) -> float:
    """一维：对数据 x_1 数值积分 E[x_1 − x_0 | x_t = x]，x_0 = (x − t x_1)/(1 − t)。"""
    grid = torch.linspace(-12, 12, 6001, dtype=torch.float64)
    data = sum(p * torch.exp(-((grid - m) ** 2) / (2 * v)) / math.sqrt(v) for p, m, v in parts)
    x0 = (x - t * grid) / (1 - t)
    joint = data * torch.exp(-(x0**2) / 2)
    return ((joint * (grid - x0)).sum() / joint.sum()).item()


def test_linear_path__matches_python_loop() -> None:
    """与逐元素的加权平均相同，各行各用各的 t。"""
    x0, x1 = X[:3], X[2:]
    t = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    expected = [
        [(1 - s) * a + s * b for a, b in zip(p, q, strict=True)]
        for p, q, s in zip(x0.tolist(), x1.tolist(), t.tolist(), strict=True)
    ]
    torch.testing.assert_close(linear_path(x0, x1, t), torch.tensor(expected, dtype=torch.float64))


def test_linear_path__is_straight() -> None:
    """对 t 自动求导恒为 x_1 − x_0，两端是噪声与数据。"""
    x0, x1 = X[:1], X[1:2]
    for value in (0.1, 0.8):
        t = torch.tensor([value], dtype=torch.float64)
        slope = torch.autograd.functional.jacobian(lambda s: linear_path(x0, x1, s), t)
        torch.testing.assert_close(slope[:, :, 0], x1 - x0)
    assert torch.equal(linear_path(x0, x1, torch.zeros(1).double()), x0)
    assert torch.equal(linear_path(x0, x1, torch.ones(1).double()), x1)


def test_linear_path__rejects_bad_input() -> None:
    """形状不合或 t 不在 [0, 1] 里时报错。"""
    t = torch.full((5,), 0.5, dtype=torch.float64)
    with pytest.raises(ValueError, match="x1 的形状"):
        linear_path(X, X[:2], t)
    with pytest.raises(ValueError, match="t 的形状"):
        linear_path(X, X, t[:2])
    with pytest.raises(ValueError, match="x0 的形状"):
        linear_path(X[0], X[0], t)
    for wrong in (t - 0.6, t + 0.6):
        with pytest.raises(ValueError, match="t 的元素必须在"):
            linear_path(X, X, wrong)


def test_gaussian_velocity__matches_quadrature() -> None:
    """与对数据数值积分的条件期望相同。"""
    x = torch.tensor([-1.0, 0.6, 2.0], dtype=torch.float64)
    for t in (0.05, 0.3, 0.8):
        expected = [_velocity_by_quadrature(v, t, [(1.0, 1.5, 0.25)]) for v in x.tolist()]
        actual = gaussian_velocity(x, t, mean=1.5, std=0.5)
        torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_gaussian_velocity__matches_binned_average() -> None:
    """m = 1.5、s = 0.5、t = 0.3、x = 0.6：落在 x 附近的位移的平均符合（5 个标准误以内）。"""
    generator = torch.Generator().manual_seed(1)
    x0 = torch.randn(1_000_000, dtype=torch.float64, generator=generator)
    x1 = 1.5 + 0.5 * torch.randn(1_000_000, dtype=torch.float64, generator=generator)
    near = (0.7 * x0 + 0.3 * x1 - 0.6).abs() < 0.01
    shifts = (x1 - x0)[near]
    truth = gaussian_velocity(torch.tensor(0.6, dtype=torch.float64), 0.3, 1.5, 0.5).item()
    error = shifts.std().item() / math.sqrt(len(shifts))
    assert abs(shifts.mean().item() - truth) <= 5 * error  # 误差约 0.009，偏 4% 就会被发现
    assert round(truth, 4) == 1.3171


def test_gaussian_velocity__equals_worked_example() -> None:
    """数据 N(2, 1)、t = 1/2 时速度处处是 2；t = 0 时是 2 − x，t = 1 时是 x。"""
    x = torch.tensor([-1.0, 0.0, 3.0], dtype=torch.float64)
    for t, expected in ((0.5, 0 * x + 2), (0.0, 2 - x), (1.0, x)):
        torch.testing.assert_close(gaussian_velocity(x, t, 2.0, 1.0), expected)


def test_gaussian_velocity__preserves_the_affine_flow() -> None:
    """x_t = tm + σ_t x_0 满足常微分方程：对 t 求导等于该处的速度。"""
    m, s, start = 1.5, 0.5, torch.tensor([-1.2, 0.4], dtype=torch.float64)
    for value in (0.2, 0.7):
        t = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        position = t * m + ((1 - t) ** 2 + (t * s) ** 2).sqrt() * start
        slopes = [torch.autograd.grad(p, t, retain_graph=True)[0] for p in position]
        actual = gaussian_velocity(position.detach(), value, m, s)
        torch.testing.assert_close(actual, torch.stack(slopes))


def test_gaussian_velocity__rejects_bad_input() -> None:
    """t 不在 [0, 1] 里、标准差不是正数或 x 是整数时报错。"""
    x = torch.zeros(2)
    for t in (-0.1, 1.1):
        with pytest.raises(ValueError, match="t 必须在"):
            gaussian_velocity(x, t, 0.0, 1.0)
    with pytest.raises(ValueError, match="std 必须是正数"):
        gaussian_velocity(x, 0.5, 0.0, 0.0)
    with pytest.raises(ValueError, match="x 必须是实浮点张量"):
        gaussian_velocity(x.long(), 0.5, 0.0, 1.0)


def test_gaussian_mixture_velocity__matches_quadrature() -> None:
    """一维两个分量，与对数据数值积分的条件期望相同。"""
    parts = [(0.3, -1.5, 0.3), (0.7, 1.0, 0.1)]
    x = torch.tensor([-1.0, 0.1, 2.0], dtype=torch.float64)
    for t in (0.05, 0.4, 0.8):
        expected = [_velocity_by_quadrature(v, t, parts) for v in x.tolist()]
        actual = gaussian_mixture_velocity(x[:, None], t, PRIOR, MEANS[:, :1], VARIANCES)
        torch.testing.assert_close(actual[:, 0], torch.tensor(expected, dtype=torch.float64))


def test_gaussian_mixture_velocity__equals_single_gaussian() -> None:
    """只有一个分量时逐维等于 gaussian_velocity；t = 0 时是数据的均值减 x。"""
    one = torch.ones(1, dtype=torch.float64)
    actual = gaussian_mixture_velocity(X, 0.3, one, MEANS[:1], VARIANCES[:1])
    expected = [
        gaussian_velocity(X[:, i], 0.3, MEANS[0, i].item(), math.sqrt(0.3)) for i in range(2)
    ]
    torch.testing.assert_close(actual, torch.stack(expected, -1))
    start = gaussian_mixture_velocity(X, 0.0, PRIOR, MEANS, VARIANCES)
    torch.testing.assert_close(start, 0.3 * MEANS[0] + 0.7 * MEANS[1] - X)


def test_gaussian_mixture_velocity__rejects_bad_input() -> None:
    """t 不在 [0, 1] 里、权重之和不是 1、方差不是正数、形状不合时报错。"""
    with pytest.raises(ValueError, match="t 必须在"):
        gaussian_mixture_velocity(X, 1.5, PRIOR, MEANS, VARIANCES)
    with pytest.raises(ValueError, match="prior 沿"):
        gaussian_mixture_velocity(X, 0.5, PRIOR / 2, MEANS, VARIANCES)
    with pytest.raises(ValueError, match="variances 的元素必须是正数"):
        gaussian_mixture_velocity(X, 0.5, PRIOR, MEANS, VARIANCES - 0.1)
    with pytest.raises(ValueError, match="means 的形状"):
        gaussian_mixture_velocity(X, 0.5, PRIOR, MEANS[:1], VARIANCES)
    with pytest.raises(ValueError, match="x 的形状"):
        gaussian_mixture_velocity(X[:, :1], 0.5, PRIOR, MEANS, VARIANCES)
    with pytest.raises(ValueError, match="variances 的形状"):
        gaussian_mixture_velocity(X, 0.5, PRIOR, MEANS, VARIANCES[:1])


def test_velocity_from_score__matches_mixture_velocity() -> None:
    """二维高斯混合：由 p_t 的分数换算，与速度的闭式相同。"""
    for t in (0.1, 0.6, 1.0):
        score = gaussian_mixture_score(X, PRIOR, t * MEANS, (1 - t) ** 2 + t**2 * VARIANCES)
        expected = gaussian_mixture_velocity(X, t, PRIOR, MEANS, VARIANCES)
        torch.testing.assert_close(velocity_from_score(X, score, t), expected)


def test_velocity_from_score__matches_quadrature() -> None:
    """一维高斯数据 N(1.5, 0.25)：由分数换算的速度与数值积分相同。"""
    x = torch.tensor([[-1.0], [0.6]], dtype=torch.float64)
    score = -(x - 0.4 * 1.5) / (0.6**2 + 0.4**2 * 0.25)
    expected = [[_velocity_by_quadrature(v, 0.4, [(1.0, 1.5, 0.25)])] for v in (-1.0, 0.6)]
    actual = velocity_from_score(x, score, 0.4)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_velocity_from_score__limit_data_end() -> None:
    """t = 1 时噪声已尽，速度就是 x，与分数无关。"""
    assert torch.equal(velocity_from_score(X, 100 * X, 1.0), X)


def test_velocity_from_score__rejects_bad_input() -> None:
    """t = 0 处无定义，报错；形状不同也报错。"""
    for t in (0.0, 1.5):
        with pytest.raises(ValueError, match="t 必须在"):
            velocity_from_score(X, X, t)
    with pytest.raises(ValueError, match="score_values 的形状"):
        velocity_from_score(X, X[:1], 0.5)


def _product_rule(points: int) -> tuple[Tensor, Tensor, Tensor]:
    """噪声与数据（两点分布加高斯）各自求积，配成全部的对；权为乘积。"""
    grid = torch.linspace(-8, 8, points, dtype=torch.float64)
    noise = torch.exp(-(grid**2) / 2)
    data = 0.3 * torch.exp(-((grid + 1.5) ** 2) / 0.6) / math.sqrt(0.3)
    data = data + 0.7 * torch.exp(-((grid - 1.0) ** 2) / 0.2) / math.sqrt(0.1)
    weights = torch.outer(noise / noise.sum(), data / data.sum()).flatten()
    x0, x1 = torch.meshgrid(grid, grid, indexing="ij")
    return x0.reshape(-1, 1), x1.reshape(-1, 1), weights / weights.sum()


def test_transport_rates__matches_quadrature() -> None:
    """对高斯混合求积：沿直线的变化率与沿边缘速度的相等，检验函数取 x³ 与 sin x。"""
    x0, x1, weights = _product_rule(161)
    means = torch.tensor([[-1.5], [1.0]], dtype=torch.float64)

    def field(x: Tensor) -> Tensor:
        return gaussian_mixture_velocity(x, 0.35, PRIOR, means, VARIANCES)

    def rate(function: object, t: float) -> float:
        return (weights @ function((1 - t) * x0 + t * x1)[:, 0]).item()  # type: ignore[operator]

    h = 1e-4
    for function, gradient in ((lambda x: x**3, lambda x: 3 * x**2), (torch.sin, torch.cos)):
        lines, flow = transport_rates(x0, x1, weights, 0.35, gradient, field)
        torch.testing.assert_close(lines, flow)
        difference = (rate(function, 0.35 + h) - rate(function, 0.35 - h)) / (2 * h)
        # 中心差分自身的误差约 1e-8
        torch.testing.assert_close(
            lines, torch.tensor(difference, dtype=torch.float64), atol=1e-6, rtol=0
        )
        assert lines.abs() > 0.1


def test_transport_rates__differs_from_the_mean_displacement() -> None:
    """把条件期望换成无条件的平均位移，就推不出正确的变化率。"""
    x0, x1, weights = _product_rule(81)
    lines, flow = transport_rates(
        x0, x1, weights, 0.35, lambda x: 3 * x**2, lambda x: 0 * x + weights @ (x1 - x0)[:, 0]
    )
    assert (lines - flow).abs() > 0.1


def test_transport_rates__equals_worked_example() -> None:
    """两条直线位移为 1 与 2、f(x) = x：变化率是平均位移 1.5。"""
    x0, x1 = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [3.0]])
    weights = torch.tensor([0.5, 0.5])
    rates = transport_rates(x0, x1, weights, 0.5, torch.ones_like, lambda x: 1.5 + 0 * x)
    assert [r.item() for r in rates] == [1.5, 1.5]


def test_transport_rates__rejects_bad_input() -> None:
    """权的和不是 1 或长度不合、t 不在 [0, 1] 里时报错。"""
    weights = torch.full((5,), 0.2, dtype=torch.float64)
    with pytest.raises(ValueError, match="weights 沿"):
        transport_rates(X, X, 2 * weights, 0.5, torch.cos, torch.cos)
    with pytest.raises(ValueError, match="weights 的形状"):
        transport_rates(X, X, weights[:2], 0.5, torch.cos, torch.cos)
    with pytest.raises(ValueError, match="t 必须在"):
        transport_rates(X, X, weights, 1.5, torch.cos, torch.cos)
