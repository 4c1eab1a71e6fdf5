"""流匹配的损失与两种积分方法的检验。"""

import itertools
import math

import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from formulary.generative_models.flow_matching import (
    euler_sample,
    flow_matching_loss,
    midpoint_sample,
)
from formulary.generative_models.probability_path import gaussian_velocity

START = torch.tensor([[0.7, -1.1], [2.0, 0.4], [-0.3, 1.6]], dtype=torch.float64)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _field(x: Tensor, t: Tensor) -> Tensor:
    """两维互相影响、随时间变化的非线性场。"""
    return torch.stack((torch.sin(x[:, 1]) + t, -x[:, 0] * torch.cos(t)), -1)


def _gaussian_field(x: Tensor, t: Tensor) -> Tensor:
    return gaussian_velocity(x, t[0].item(), mean=1.5, std=0.5)


def test_flow_matching_loss__matches_python_loop() -> None:
    """由网络实际收到的 (x_t, t) 反推噪声，逐元素算平方误差，结果相同。"""
    x1 = torch.randn(50, 2, dtype=torch.float64, generator=_generator(1))
    seen: list[tuple[Tensor, Tensor]] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        seen.append((x, t))
        return 0.3 * x + t[:, None]

    loss = flow_matching_loss(model, x1, _generator(2))
    ((xt, t),) = seen
    total = 0.0
    for data, middle, s in zip(x1.tolist(), xt.tolist(), t.tolist(), strict=True):
        for a, b in zip(data, middle, strict=True):
            noise = (b - s * a) / (1 - s)
            total += (0.3 * b + s - (a - noise)) ** 2
    torch.testing.assert_close(loss, torch.tensor(total / 50, dtype=torch.float64))
    assert t.min() < 0.1
    assert t.max() > 0.9


def test_flow_matching_loss__matches_analytic_minimum_for_gaussian_data() -> None:
    """数据是 N(m, s²) 时，边缘速度达到解析的最小值 ∫Var(x_1 − x_0 | x_t)dt（5 个标准误以内）。"""
    m, s, count = 1.5, 0.5, 40_000
    x1 = m + s * torch.randn(count, 1, dtype=torch.float64, generator=_generator(3))

    def best(x: Tensor, t: Tensor) -> Tensor:
        t = t[:, None]
        return m + (t * s**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * s**2) * (x - t * m)

    grid = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    # Var(x_1 − x_0 | x_t) = s²/((1 − t)² + t²s²)，积分得 sπ/2
    conditional = s**2 / ((1 - grid) ** 2 + grid**2 * s**2)
    truth = torch.trapezoid(conditional, grid).item()
    assert truth == pytest.approx(s * math.pi / 2, abs=1e-8)
    second = torch.trapezoid(3 * conditional**2, grid).item()
    error = math.sqrt((second - truth**2) / count)
    loss = flow_matching_loss(best, x1, _generator(4)).item()
    assert abs(loss - truth) <= 5 * error  # truth 约 0.785，5 个标准误约 0.03
    worse = flow_matching_loss(lambda x, t: m + 0 * x, x1, _generator(4)).item()
    assert worse - truth > 20 * error


def test_flow_matching_loss__equals_zero_for_a_single_point() -> None:
    """数据只有一个点时，位移 (x_1 − x)/(1 − t) 可以准确预测；反号则不行。"""
    x1 = torch.tensor([[2.0, -1.0]], dtype=torch.float64).expand(20, 2)
    loss = flow_matching_loss(lambda x, t: (x1 - x) / (1 - t[:, None]), x1, _generator())
    torch.testing.assert_close(loss, torch.zeros_like(loss))
    wrong = flow_matching_loss(lambda x, t: (x - x1) / (1 - t[:, None]), x1, _generator())
    assert wrong > 1


def test_flow_matching_loss__rejects_vector() -> None:
    """x1 不是二维时报错。"""
    with pytest.raises(ValueError, match="x1 的形状"):
        flow_matching_loss(lambda x, t: x, torch.zeros(3), _generator())


def _solve(x: Tensor) -> Tensor:
    """scipy 的高精度积分，逐行求解。"""

    def right(t: float, y: object) -> object:
        point = torch.tensor(y, dtype=torch.float64)[None]  # type: ignore[arg-type]
        return _field(point, torch.tensor([t], dtype=torch.float64))[0].numpy()

    rows = [solve_ivp(right, (0, 1), row.numpy(), rtol=1e-11, atol=1e-12).y[:, -1] for row in x]
    return torch.stack([torch.from_numpy(row) for row in rows])


def test_euler_sample__matches_scipy() -> None:
    """步数每翻一倍，与 scipy 的误差减半。"""
    exact = _solve(START)
    errors = [(euler_sample(_field, START, n) - exact).abs().max().item() for n in (50, 100, 200)]
    assert errors[2] < 0.01
    for coarse, fine in itertools.pairwise(errors):
        assert 1.9 < coarse / fine < 2.1


def test_euler_sample__equals_compound_interest() -> None:
    """dx/dt = x、两步：(1 + 1/2)² = 2.25；dx/dt = t、两步：0 × 1/2 + 1/2 × 1/2 = 1/4。"""
    assert euler_sample(lambda x, t: x, torch.ones(1, 1), 2).item() == 2.25
    value = euler_sample(lambda x, t: t[:, None].expand_as(x), torch.zeros(1, 1), 2)
    assert value.item() == 0.25


def test_euler_sample__is_exact_for_straight_lines() -> None:
    """速度沿轨迹不变时一步就准：数据只有一个点的流。"""
    point = torch.tensor([[2.0, -1.0]], dtype=torch.float64)
    before = START.clone()
    x = euler_sample(lambda x, t: (point - x) / (1 - t[:, None]), START, 1)
    torch.testing.assert_close(x, point.expand(3, 2))
    assert torch.equal(START, before)


def test_euler_sample__equals_data_mean_in_one_step() -> None:
    """从 t = 0 起只走一步，不论起点都到数据的均值；x_0 = 1、数据 N(2, 1) 时得 2，精确值是 3。"""

    def field(x: Tensor, t: Tensor) -> Tensor:
        return gaussian_velocity(x, t[0].item(), mean=2.0, std=1.0)

    x = euler_sample(field, START, 1)
    torch.testing.assert_close(x, torch.full_like(START, 2.0))
    one = torch.ones(1, 1, dtype=torch.float64)
    assert [round(euler_sample(field, one, n).item(), 2) for n in (2, 10)] == [2.5, 2.88]
    assert round(midpoint_sample(field, one, 5).item(), 3) == 2.999


def test_euler_sample__rejects_bad_input() -> None:
    """步数不是正整数或 x 不是二维时报错。"""
    with pytest.raises(ValueError, match="steps 必须是不小于 1 的整数"):
        euler_sample(_field, START, 0)
    with pytest.raises(ValueError, match="x 的形状"):
        euler_sample(_field, START[0], 3)


def test_midpoint_sample__matches_scipy() -> None:
    """步数每翻一倍，与 scipy 的误差减到约四分之一。"""
    exact = _solve(START)
    errors = [(midpoint_sample(_field, START, n) - exact).abs().max().item() for n in (10, 20, 40)]
    assert errors[2] < 1e-3
    for coarse, fine in itertools.pairwise(errors):
        assert 3.5 < coarse / fine < 4.5


def test_midpoint_sample__equals_gaussian_flow() -> None:
    """数据是 N(1.5, 0.25) 时，流把 x_0 送到 1.5 + 0.5x_0；500 步的误差在 1e-5 以内。"""
    x = midpoint_sample(_gaussian_field, START, 500)
    # 二阶方法的离散误差
    torch.testing.assert_close(x, 1.5 + 0.5 * START, atol=1e-5, rtol=0)


def test_midpoint_sample__equals_curved_path_exercise() -> None:
    """数据 N(2, 1)、x_0 = 1：t = 1/2 时在 1 + √(1/2) = 1.7071，不在直线的中点 2。"""

    def first_half(x: Tensor, t: Tensor) -> Tensor:  # 时间放慢一倍，终点就是 t = 1/2
        return gaussian_velocity(x, t[0].item() / 2, mean=2.0, std=1.0) / 2

    x = midpoint_sample(first_half, torch.ones(1, 1, dtype=torch.float64), 200)
    assert round(x.item(), 4) == round(1 + math.sqrt(0.5), 4) == 1.7071


def test_midpoint_sample__equals_worked_example() -> None:
    """dx/dt = x、两步：(1 + 1/2 + 1/8)² = 2.640625；dx/dt = t 时一步就准，得 1/2。"""
    assert midpoint_sample(lambda x, t: x, torch.ones(1, 1), 2).item() == 2.640625
    value = midpoint_sample(lambda x, t: t[:, None].expand_as(x), torch.zeros(1, 1), 1)
    assert value.item() == 0.5


def test_midpoint_sample__differs_from_euler_at_equal_cost() -> None:
    """网络同样调用 20 次，把标准正态送到 N(1.5, 0.25)：中点法 10 步的误差比欧拉法 20 步小得多。"""
    exact = 1.5 + 0.5 * START
    euler = (euler_sample(_gaussian_field, START, 20) - exact).abs().max().item()
    middle = (midpoint_sample(_gaussian_field, START, 10) - exact).abs().max().item()
    assert euler > 5 * middle


def test_midpoint_sample__is_free_of_gradients() -> None:
    """速度网络带参数时也不记录梯度，欧拉法同样。"""
    a = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    for sample in (midpoint_sample, euler_sample):
        assert not sample(lambda x, t: a * x, START, 2).requires_grad


def test_midpoint_sample__rejects_bad_input() -> None:
    """步数不是正整数或 x 不是二维时报错。"""
    with pytest.raises(ValueError, match="steps 必须是不小于 1 的整数"):
        midpoint_sample(_field, START, 0)
    with pytest.raises(ValueError, match="x 的形状"):
        midpoint_sample(_field, START[0], 3)
