"""一维 Wasserstein-1 距离的三种算法与平移例子的检验。"""

import itertools
import math

import pytest
import torch
from scipy.stats import wasserstein_distance as scipy_wasserstein
from torch import Tensor

from formulary.generative_models.divergences import js_divergence, total_variation
from formulary.generative_models.wasserstein import (
    shifted_uniform_divergences,
    wasserstein_by_quantiles,
    wasserstein_distance,
    wasserstein_of_samples,
)

POINTS = torch.tensor([-1.5, -0.2, 0.1, 2.0, 2.5, 7.0], dtype=torch.float64)
THREE = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)


def _pairs(*shape: int) -> tuple[Tensor, Tensor]:
    logits = torch.randn(
        2, *shape, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(8)
    )
    p, q = (2 * logits).softmax(-1)
    return p, q


def test_wasserstein_distance__matches_scipy() -> None:
    """逐批等于 scipy.stats.wasserstein_distance。"""
    p, q = _pairs(3, 2)
    actual = wasserstein_distance(p, q, POINTS)
    x = POINTS.numpy()
    for i in range(3):
        for j in range(2):
            expected = scipy_wasserstein(x, x, p[i, j].numpy(), q[i, j].numpy())
            torch.testing.assert_close(actual[i, j].item(), float(expected))


def test_wasserstein_distance__equals_hand_computed_example() -> None:
    """练习一例是 0.5·1 + 0.75·2 = 2；手算一例是 1/4，状态挪到 1000 处则是 250。"""
    p = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    q = torch.tensor([0.0, 0.25, 0.75], dtype=torch.float64)
    assert wasserstein_distance(p, q, THREE).item() == 2.0
    p2 = torch.tensor([0.75, 0.25], dtype=torch.float64)
    for far, expected in ((1.0, 0.25), (1000.0, 250.0)):
        points = torch.tensor([0.0, far], dtype=torch.float64)
        assert wasserstein_distance(p2, p2.new_full((2,), 0.5), points).item() == expected
    ends = torch.eye(3, dtype=torch.float64)
    assert wasserstein_distance(ends[0], ends[2], THREE).item() == 3.0


def test_wasserstein_distance__preserves_scale() -> None:
    """坐标放大 2.5 倍，距离也放大 2.5 倍；坐标整体平移，距离不变。"""
    p, q = _pairs()
    base = wasserstein_distance(p, q, POINTS)
    torch.testing.assert_close(wasserstein_distance(p, q, 2.5 * POINTS), 2.5 * base)
    torch.testing.assert_close(wasserstein_distance(p, q, POINTS + 4), base)


def test_wasserstein_distance__rejects_unsorted_points() -> None:
    """坐标不是递增的时报错并指出 points。"""
    p, q = _pairs()
    with pytest.raises(ValueError, match="points 必须严格递增"):
        wasserstein_distance(p, q, POINTS.flip(0))


def test_wasserstein_by_quantiles__matches_scipy() -> None:
    """等于 scipy.stats.wasserstein_distance。"""
    for p, q in zip(*_pairs(6), strict=True):
        expected = scipy_wasserstein(POINTS.numpy(), POINTS.numpy(), p.numpy(), q.numpy())
        actual = wasserstein_by_quantiles(p, q, POINTS)
        torch.testing.assert_close(actual.item(), float(expected))


def test_wasserstein_by_quantiles__equals_area_between_cdfs() -> None:
    """与累积分布之间的面积相同，含零概率的状态。"""
    p = torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64)
    q = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(
        wasserstein_by_quantiles(p, q, THREE), wasserstein_distance(p, q, THREE)
    )
    assert wasserstein_by_quantiles(p, q, THREE).item() == 1.5
    assert wasserstein_by_quantiles(q, q, THREE).item() == 0


def test_wasserstein_by_quantiles__rejects_unnormalized() -> None:
    """和不为 1 时报错并指出是哪一个。"""
    with pytest.raises(ValueError, match="p 沿"):
        wasserstein_by_quantiles(torch.ones(3), torch.ones(3) / 3, THREE.float())


def test_wasserstein_of_samples__matches_scipy() -> None:
    """等于 scipy.stats.wasserstein_distance，样本次序任意，逐批计算。"""
    x, y = torch.randn(2, 3, 17, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    actual = wasserstein_of_samples(x, 2 * y + 1)
    for i in range(3):
        expected = scipy_wasserstein(x[i].numpy(), (2 * y[i] + 1).numpy())
        torch.testing.assert_close(actual[i].item(), float(expected))


def test_wasserstein_of_samples__matches_best_assignment() -> None:
    """等于全部 5! 种一一配对中平均距离最小的一种。"""
    x, y = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    orders = itertools.permutations(range(5))
    best = min((x - y[list(order)]).abs().mean().item() for order in orders)
    torch.testing.assert_close(wasserstein_of_samples(x, y).item(), best)


def test_wasserstein_of_samples__equals_shift() -> None:
    """一组样本平移 1.7，距离就是 1.7；不排序直接相减则不对。"""
    x = torch.randn(30, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    shifted = (x + 1.7).flip(0)
    torch.testing.assert_close(wasserstein_of_samples(x, shifted).item(), 1.7)
    assert (x - shifted).abs().mean() > 1.8


def test_wasserstein_of_samples__rejects_bad_samples() -> None:
    """样本的个数不同或没有样本时报错。"""
    with pytest.raises(ValueError, match="y 的形状"):
        wasserstein_of_samples(torch.zeros(3), torch.zeros(4))
    with pytest.raises(ValueError, match="x 至少要有一个样本"):
        wasserstein_of_samples(torch.zeros(0), torch.zeros(0))


def test_shifted_uniform_divergences__matches_histograms() -> None:
    """与把两个均匀分布切成细格之后算出的散度相同；平移量是格宽的整数倍，没有离散误差。"""
    width = 0.05
    shifts = torch.tensor([-0.35, 0.0, 0.5, 1.0, 1.65], dtype=torch.float64)
    centers = torch.arange(-2 + width / 2, 3, width, dtype=torch.float64)
    p = ((centers > 0) & (centers < 1)).double() * width
    q = torch.stack([((centers > t) & (centers < t + 1)).double() * width for t in shifts])
    p = p.expand_as(q)
    js, tv, w1 = shifted_uniform_divergences(shifts)
    torch.testing.assert_close(js, js_divergence(p, q))
    torch.testing.assert_close(tv, total_variation(p, q))
    for i in range(5):
        expected = scipy_wasserstein(centers, centers, p[i].numpy(), q[i].numpy())
        torch.testing.assert_close(w1[i].item(), float(expected))


def test_shifted_uniform_divergences__limit_saturates() -> None:
    """平移超过 1 之后 JS 与全变差不再变，梯度为 0；Wasserstein-1 距离的梯度仍是 1。"""
    shift = torch.tensor([1.5, 4.0], dtype=torch.float64, requires_grad=True)
    js, tv, w1 = shifted_uniform_divergences(shift)
    torch.testing.assert_close(js.tolist(), [math.log(2)] * 2)
    torch.testing.assert_close(tv.tolist(), [1.0, 1.0])
    assert w1.tolist() == [1.5, 4.0]
    for value, slope in ((js, 0.0), (tv, 0.0), (w1, 1.0)):
        (gradient,) = torch.autograd.grad(value.sum(), shift, retain_graph=True)
        assert gradient.tolist() == [slope, slope]


def test_shifted_uniform_divergences__rejects_integers() -> None:
    """平移量不是浮点张量时报错并指出 shift。"""
    with pytest.raises(ValueError, match="shift 必须是实浮点张量"):
        shifted_uniform_divergences(torch.tensor(1))
