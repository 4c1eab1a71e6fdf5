"""计数形式的对数似然与两个一阶条件的检验。"""

import math

import pytest
import torch
from torch import Tensor

from formulary.mnist_joint.counting import (
    count_log_likelihood,
    pixel_likelihood_gradient,
    prior_lagrangian_gradient,
    require_counts,
)
from formulary.mnist_joint.naive_bayes import (
    count_pixels,
    fit_counts,
    naive_bayes_log_joint,
)


def _data() -> tuple[Tensor, Tensor]:
    """30 张随机的 4 像素图，3 类都有，各类的亮度不同。"""
    generator = torch.Generator().manual_seed(12)
    y = torch.randint(0, 3, (30,), generator=generator)
    y[:3] = torch.arange(3)
    chance = 0.25 + 0.2 * y
    x = torch.rand(30, 4, generator=generator, dtype=torch.float64) < chance[:, None]
    return x.double(), y


def _model() -> tuple[Tensor, Tensor]:
    theta = torch.rand(3, 4, generator=torch.Generator().manual_seed(13), dtype=torch.float64)
    return theta, torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)


def _log_likelihood_by_loops(x: Tensor, y: Tensor, theta: Tensor, prior: Tensor) -> Tensor:
    """逐张、逐像素相加，保留对参数的导数。"""
    total = torch.zeros((), dtype=torch.float64)
    for picture, label in zip(x.tolist(), y.tolist(), strict=True):
        total = total + prior[label].log()
        for i, pixel in enumerate(picture):
            total = total + (theta[label, i] if pixel else 1 - theta[label, i]).log()
    return total


def test_count_log_likelihood__matches_sum_over_samples() -> None:
    """只用计数算出的对数似然，等于逐张、逐像素相加。"""
    (x, y), (theta, prior) = _data(), _model()
    expected = _log_likelihood_by_loops(x, y, theta, prior)
    torch.testing.assert_close(count_log_likelihood(theta, prior, *count_pixels(x, y, 3)), expected)
    rows = naive_bayes_log_joint(x, theta, prior)[torch.arange(30), y]
    torch.testing.assert_close(rows.sum(), expected)


def test_count_log_likelihood__bounds_every_other_parameter() -> None:
    """计数估计处的对数似然不小于随机试的 300 组参数，且严格大于其中的每一组。"""
    x, y = _data()
    counts = count_pixels(x, y, 3)
    best = count_log_likelihood(*fit_counts(x, y, 3, smoothing=0.0), *counts)
    generator = torch.Generator().manual_seed(14)
    for _ in range(300):
        theta = torch.rand(3, 4, generator=generator, dtype=torch.float64)
        prior = torch.rand(3, generator=generator, dtype=torch.float64)
        assert count_log_likelihood(theta, prior / prior.sum(), *counts) < best


def test_count_log_likelihood__equals_worked_example() -> None:
    """一类、一个像素、3 张里亮 1 张：θ = 1/2 时 −3 log 2，θ = 1/3 时 log(4/27)，θ = 0 时 -inf。"""
    on, total = torch.tensor([[1.0]]).double(), torch.tensor([3.0]).double()
    prior = torch.ones(1, dtype=torch.float64)
    for theta, expected in ((1 / 2, -3 * math.log(2)), (1 / 3, math.log(4 / 27)), (0.0, -math.inf)):
        chance = torch.full((1, 1), theta, dtype=torch.float64)
        actual = count_log_likelihood(chance, prior, on, total)
        torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_count_log_likelihood__rejects_bad_input() -> None:
    """计数超过张数、形状不配、theta 不是概率或 prior 不归一时报错。"""
    theta, prior = _model()
    on, total = count_pixels(*_data(), 3)
    cases: list[tuple[Tensor, Tensor, Tensor, Tensor, str]] = [
        (theta, prior, on + 30, total, "on_counts 必须在"),
        (theta, prior, on, total[:2], "class_counts 的形状"),
        (theta[:, :3], prior, on, total, "theta 的形状"),
        (theta + 1, prior, on, total, "theta 的元素"),
        (theta, prior * 2, on, total, "prior"),
    ]
    for bad_theta, bad_prior, bad_on, bad_total, message in cases:
        with pytest.raises(ValueError, match=message):
            count_log_likelihood(bad_theta, bad_prior, bad_on, bad_total)


def test_pixel_likelihood_gradient__matches_autograd() -> None:
    """等于逐张相加的对数似然对 theta 的自动求导。"""
    (x, y), (theta, prior) = _data(), _model()
    theta = theta.requires_grad_()
    total = _log_likelihood_by_loops(x, y, theta, prior)
    (expected,) = torch.autograd.grad(total, theta)
    actual = pixel_likelihood_gradient(theta.detach(), *count_pixels(x, y, 3))
    torch.testing.assert_close(actual, expected)


def test_pixel_likelihood_gradient__is_zero_at_counts() -> None:
    """在计数估计处为零，比它小时为正，比它大时为负。"""
    on = torch.tensor([[1.0, 4.0, 2.0], [3.0, 1.0, 5.0]], dtype=torch.float64)
    total = torch.tensor([5.0, 6.0], dtype=torch.float64)
    theta = on / total[:, None]
    zero = torch.zeros_like(theta)
    # 大小约为 10 的两项相减
    torch.testing.assert_close(
        pixel_likelihood_gradient(theta, on, total), zero, rtol=0, atol=1e-13
    )
    assert (pixel_likelihood_gradient(theta - 0.1, on, total) > 0).all()
    assert (pixel_likelihood_gradient(theta + 0.1, on, total) < 0).all()


def test_pixel_likelihood_gradient__equals_worked_example() -> None:
    """4 张里亮 3 张、θ = 1/2：3/0.5 − 1/0.5 = 4。"""
    on, total = torch.tensor([[3.0]]), torch.tensor([4.0])
    assert pixel_likelihood_gradient(torch.tensor([[0.5]]), on, total).item() == 4.0


def test_pixel_likelihood_gradient__rejects_endpoints() -> None:
    """theta 为 0 或 1 时报错；形状不配也报错。"""
    on, total = torch.tensor([[3.0]]), torch.tensor([4.0])
    for theta in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="theta 必须严格在 0 与 1 之间"):
            pixel_likelihood_gradient(torch.tensor([[theta]]), on, total)
    with pytest.raises(ValueError, match="theta 的形状"):
        pixel_likelihood_gradient(torch.tensor([[0.5, 0.5]]), on, total)


def test_prior_lagrangian_gradient__matches_autograd() -> None:
    """等于拉格朗日函数对先验的自动求导，先验不归一时也如此。"""
    counts = torch.tensor([4.0, 0.0, 7.0], dtype=torch.float64)
    prior = torch.tensor([0.3, 0.4, 0.9], dtype=torch.float64, requires_grad=True)
    multiplier = 5.5
    lagrangian = (counts * prior.log()).sum() + multiplier * (1 - prior.sum())
    (expected,) = torch.autograd.grad(lagrangian, prior)
    actual = prior_lagrangian_gradient(prior.detach(), multiplier, counts)
    torch.testing.assert_close(actual, expected)


def test_prior_lagrangian_gradient__is_zero_only_at_frequencies() -> None:
    """先验取频率、乘子取样本总数时为零；乘子换成别的数就不为零。"""
    counts = torch.tensor([4.0, 2.0, 10.0], dtype=torch.float64)
    prior = counts / 16
    assert prior_lagrangian_gradient(prior, 16.0, counts).abs().max() == 0
    assert prior_lagrangian_gradient(prior, 15.0, counts).tolist() == [1, 1, 1]


def test_prior_lagrangian_gradient__equals_softmax_free_optimum() -> None:
    """给定乘子 λ，导数为零的解是 N_k/λ；只有 λ = N 时它的和才是 1。"""
    counts = torch.tensor([1.0, 3.0], dtype=torch.float64)
    for multiplier in (2.0, 4.0, 8.0):
        solution = counts / multiplier
        assert prior_lagrangian_gradient(solution, multiplier, counts).tolist() == [0, 0]
        assert (solution.sum() == 1) == (multiplier == 4.0)


def test_prior_lagrangian_gradient__rejects_bad_input() -> None:
    """先验有零、计数为负或形状不配时报错。"""
    counts = torch.tensor([1.0, 3.0])
    with pytest.raises(ValueError, match="prior 的元素必须为正"):
        prior_lagrangian_gradient(torch.tensor([0.0, 1.0]), 4.0, counts)
    with pytest.raises(ValueError, match="class_counts 的元素必须非负"):
        prior_lagrangian_gradient(torch.tensor([0.5, 0.5]), 4.0, counts - 1.5)
    with pytest.raises(ValueError, match="class_counts 的形状"):
        prior_lagrangian_gradient(torch.tensor([0.5, 0.5]), 4.0, counts[:1])


def test_require_counts__rejects_negative() -> None:
    """计数为负时报错；恰好等于 0 或张数时不报错。"""
    total = torch.tensor([4.0])
    require_counts(torch.tensor([[0.0, 4.0]]), total)
    with pytest.raises(ValueError, match="on_counts 必须在"):
        require_counts(torch.tensor([[-1.0, 4.0]]), total)
