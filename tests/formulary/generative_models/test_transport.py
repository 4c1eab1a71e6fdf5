"""最优耦合、最优势函数与两个问题的最优值的检验。"""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from formulary.generative_models.transport import (
    kantorovich_potential,
    monotone_coupling,
    require_line,
    wasserstein_primal_dual,
)

POINTS = torch.tensor([-1.5, -0.2, 0.1, 2.0, 2.5, 7.0], dtype=torch.float64)
HAND = (
    torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64),
    torch.tensor([0.0, 0.25, 0.75], dtype=torch.float64),
    torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64),
)


def _pair(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 6, dtype=torch.float64, generator=generator)
    p, q = (2 * logits).softmax(-1)
    return p, q


def _solve_transport(p: Tensor, q: Tensor, points: Tensor) -> tuple[float, float]:
    """用线性规划求搬运费用的最小值与对偶的最大值。"""
    k, x = len(p), points.numpy()
    cost = np.abs(x[:, None] - x[None, :])
    rows = np.kron(np.eye(k), np.ones(k))  # 行和
    cols = np.kron(np.ones(k), np.eye(k))  # 列和
    primal = linprog(
        cost.ravel(), A_eq=np.vstack((rows, cols)), b_eq=np.concatenate((p, q)), method="highs"
    )
    # 对偶：f 的任意两点之差不超过它们的距离
    pairs = np.array([np.eye(k)[i] - np.eye(k)[j] for i in range(k) for j in range(k)])
    dual = linprog(
        -(p - q).numpy(),
        A_ub=pairs,
        b_ub=cost.ravel(),
        bounds=[(0, 0)] + [(None, None)] * (k - 1),
        method="highs",
    )
    return primal.fun, -dual.fun


def test_require_line__rejects_bad_points() -> None:
    """坐标不是严格递增、个数不符时报错并指出 points。"""
    p = torch.tensor([0.5, 0.5])
    for points in (torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0])):
        with pytest.raises(ValueError, match="points 必须严格递增"):
            require_line(p, p, points)
    with pytest.raises(ValueError, match="points 的形状"):
        require_line(p, p, torch.tensor([0.0, 1.0, 2.0]))


def test_monotone_coupling__preserves_marginals() -> None:
    """行和是 p，列和是 q，元素非负。"""
    for seed in range(5):
        p, q = _pair(seed)
        coupling = monotone_coupling(p, q)
        torch.testing.assert_close(coupling.sum(1), p)
        torch.testing.assert_close(coupling.sum(0), q)
        assert (coupling >= 0).all()


def test_monotone_coupling__is_monotone() -> None:
    """没有两条交叉的搬运路线，非零元至多 2K − 1 个。"""
    for seed in range(5):
        coupling = monotone_coupling(*_pair(seed)) > 1e-15
        used = coupling.nonzero().tolist()
        assert len(used) <= 11
        for i, j in used:
            assert not any(i < i2 and j > j2 for i2, j2 in used)


def test_monotone_coupling__matches_greedy_filling() -> None:
    """与逐格填数的西北角法则相同。"""
    p, q = _pair(1)
    left, right = p.tolist(), q.tolist()
    expected = torch.zeros(6, 6, dtype=torch.float64)
    i = j = 0
    while i < 6 and j < 6:
        moved = min(left[i], right[j])
        expected[i, j] = moved
        left[i] -= moved
        right[j] -= moved
        if left[i] <= right[j]:
            i += 1
        else:
            j += 1
    torch.testing.assert_close(monotone_coupling(p, q), expected)


def test_monotone_coupling__equals_exercise() -> None:
    """练习：p = (1/2, 1/2, 0)、q = (0, 1/4, 3/4) 的耦合。"""
    expected = torch.tensor([[0, 0.25, 0.25], [0, 0, 0.5], [0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(monotone_coupling(*HAND[:2]), expected)


def test_monotone_coupling__rejects_unnormalized() -> None:
    """和不为 1 时报错并指出是哪一个。"""
    with pytest.raises(ValueError, match="q 沿"):
        monotone_coupling(torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.6]))


def test_kantorovich_potential__matches_linear_program() -> None:
    """势函数的期望之差等于线性规划求出的对偶最优值。"""
    for seed in range(5):
        p, q = _pair(seed)
        f = kantorovich_potential(p, q, POINTS)
        _, best = _solve_transport(p, q, POINTS)
        torch.testing.assert_close(((p - q) * f).sum().item(), best)


def test_kantorovich_potential__is_lipschitz() -> None:
    """任意两点的函数值之差都不超过两点的距离，第一个值是 0。"""
    for seed in range(5):
        f = kantorovich_potential(*_pair(seed), POINTS)
        distance = (POINTS[:, None] - POINTS[None, :]).abs()
        assert ((f[:, None] - f[None, :]).abs() <= distance + 1e-12).all()
        assert f[0].item() == 0


def test_kantorovich_potential__equals_hand_computed_example() -> None:
    """练习一例里 q 整个在右边，势函数是 −x；三点一例先升后降。"""
    torch.testing.assert_close(kantorovich_potential(*HAND), -HAND[2])
    p = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    q = torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64)
    assert kantorovich_potential(p, q, HAND[2]).tolist() == [0.0, 1.0, -1.0]


def test_kantorovich_potential__rejects_unsorted_points() -> None:
    """坐标不是递增的时报错并指出 points。"""
    with pytest.raises(ValueError, match="points 必须严格递增"):
        kantorovich_potential(HAND[0], HAND[1], HAND[2].flip(0))


def test_wasserstein_primal_dual__matches_linear_programs() -> None:
    """两个值分别等于 scipy.optimize.linprog 求出的原问题与对偶问题的最优值。"""
    for seed in range(5):
        p, q = _pair(seed)
        primal, dual = wasserstein_primal_dual(p, q, POINTS)
        least, most = _solve_transport(p, q, POINTS)
        torch.testing.assert_close(primal.item(), least)
        torch.testing.assert_close(dual.item(), most)


def test_wasserstein_primal_dual__is_equal_on_both_sides() -> None:
    """原问题与对偶问题的最优值相等，两个分布相同时都是 0。"""
    for seed in range(20):
        primal, dual = wasserstein_primal_dual(*_pair(seed), POINTS)
        torch.testing.assert_close(primal, dual)
    p, _ = _pair(0)
    for side in wasserstein_primal_dual(p, p, POINTS):
        assert abs(side.item()) < 1e-15


def test_wasserstein_primal_dual__equals_exercise() -> None:
    """练习：费用是 1/4 + 3/4 + 1 = 2，对偶值也是 2。"""
    primal, dual = wasserstein_primal_dual(*HAND)
    assert primal.item() == dual.item() == 2.0
    two = torch.tensor([0.75, 0.25], dtype=torch.float64)
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    for side in wasserstein_primal_dual(two, half, torch.tensor([0.0, 1.0]).double()):
        assert math.isclose(side.item(), 0.25)


def test_wasserstein_primal_dual__rejects_mismatched_points() -> None:
    """坐标的个数与状态数不同时报错并指出 points。"""
    with pytest.raises(ValueError, match="points 的形状"):
        wasserstein_primal_dual(HAND[0], HAND[1], torch.tensor([0.0, 1.0]))
