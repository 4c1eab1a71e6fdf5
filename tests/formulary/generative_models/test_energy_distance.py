"""能量距离的检验。"""

import itertools
import math

import pytest
import scipy.stats
import torch

from formulary.generative_models.energy_distance import (
    energy_distance_from_cdf,
    squared_energy_distance,
)

X = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
Y = 0.5 + 2 * torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def _by_loops(x: list[list[float]], y: list[list[float]], unbiased: bool) -> float:
    between = sum(math.dist(a, b) for a in x for b in y) / (len(x) * len(y))
    within = [
        sum(math.dist(a, b) for a in rows for b in rows) / (len(rows) * (len(rows) - unbiased))
        for rows in (x, y)
    ]
    return 2 * between - within[0] - within[1]


def test_squared_energy_distance__matches_python_loop() -> None:
    """三维样本，V 统计量与 U 统计量都与逐对求距离的循环相同。"""
    for unbiased in (False, True):
        expected = _by_loops(X.tolist(), Y.tolist(), unbiased)
        actual = squared_energy_distance(X, Y, unbiased=unbiased)
        torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_squared_energy_distance__matches_scipy() -> None:
    """一维时 V 统计量等于 scipy.stats.energy_distance 的平方。"""
    x, y = X[:, :1], Y[:, :1]
    expected = scipy.stats.energy_distance(x[:, 0].numpy(), y[:, 0].numpy()) ** 2
    actual = squared_energy_distance(x, y)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_squared_energy_distance__equals_worked_example() -> None:
    """{0, 2} 对 {1, 5}：V 统计量 5 − 1 − 2 = 2，U 统计量 5 − 2 − 4 = −1。"""
    x, y = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0]])
    assert squared_energy_distance(x, y).item() == 2
    assert squared_energy_distance(x, y, unbiased=True).item() == -1


def test_squared_energy_distance__equals_exact_bias_by_enumeration() -> None:
    """枚举所有可能的样本：U 统计量无偏；V 统计量偏大 E‖X − X′‖/N + E‖Y − Y′‖/M。"""
    points = [[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]]
    p, q = (0.5, 0.3, 0.2), (0.2, 0.2, 0.6)

    def mean_distance(a: tuple[float, ...], b: tuple[float, ...]) -> float:
        return sum(
            a[i] * b[j] * math.dist(points[i], points[j]) for i in range(3) for j in range(3)
        )

    truth = 2 * mean_distance(p, q) - mean_distance(p, p) - mean_distance(q, q)
    n, m, averages = 3, 2, {True: 0.0, False: 0.0}
    for draws in itertools.product(range(3), repeat=n + m):
        mass = math.prod(p[i] for i in draws[:n]) * math.prod(q[j] for j in draws[n:])
        x, y = (torch.tensor([points[i] for i in d]).double() for d in (draws[:n], draws[n:]))
        for unbiased in averages:
            averages[unbiased] += mass * squared_energy_distance(x, y, unbiased=unbiased).item()
    actual = torch.tensor([averages[True], averages[False]], dtype=torch.float64)
    bias = mean_distance(p, p) / n + mean_distance(q, q) / m
    torch.testing.assert_close(actual, torch.tensor([truth, truth + bias], dtype=torch.float64))


def test_squared_energy_distance__is_symmetric_and_nonnegative() -> None:
    """交换两批样本不变；V 统计量不为负，同一批样本为零；平移、旋转不变，放大 c 倍则乘 c。"""
    value = squared_energy_distance(X, Y)
    torch.testing.assert_close(squared_energy_distance(Y, X), value)
    assert value > 0
    assert abs(squared_energy_distance(X, X).item()) < 1e-12
    torch.testing.assert_close(squared_energy_distance(X + 3, Y + 3), value)
    turn = torch.linalg.qr(X[:3])[0]
    torch.testing.assert_close(squared_energy_distance(X @ turn, Y @ turn), value)
    torch.testing.assert_close(squared_energy_distance(3 * X, 3 * Y), 3 * value)


def test_squared_energy_distance__differs_from_matrix_multiply_distances() -> None:
    """离原点远的 float32 样本，cdist 默认的矩阵乘法写法把相同的点也算出距离；这里不受影响。"""
    x = 1000 + torch.randn(200, 2, generator=torch.Generator().manual_seed(3))
    assert torch.cdist(x, x).diagonal().max() > 0.01
    expected = squared_energy_distance(x.double(), x.double() + 1)
    actual = squared_energy_distance(x, x + 1)
    # float32 的 x + 1 已有 6e-5 的舍入
    torch.testing.assert_close(actual.double(), expected, atol=1e-4, rtol=1e-4)


def test_squared_energy_distance__rejects_bad_input() -> None:
    """维数不同、样本太少或不是二维时报错。"""
    with pytest.raises(ValueError, match="y 的形状"):
        squared_energy_distance(X, Y[:, :2])
    with pytest.raises(ValueError, match="x 的形状"):
        squared_energy_distance(X[0], Y)
    with pytest.raises(ValueError, match="各须至少 2 个样本"):
        squared_energy_distance(X[:1], Y, unbiased=True)
    with pytest.raises(ValueError, match="各须至少 2 个样本"):
        squared_energy_distance(X, Y[:1], unbiased=True)
    with pytest.raises(ValueError, match="各须至少 1 个样本"):
        squared_energy_distance(X, Y[:0])
    assert squared_energy_distance(X[:1], Y[:1]) > 0


def test_energy_distance_from_cdf__matches_pairwise_distances() -> None:
    """与两两求距离的 V 统计量相同，有并列的样本时也一样。"""
    x, y = X[:, 0], torch.cat((Y[:, 1], X[2:4, 0]))
    expected = squared_energy_distance(x[:, None], y[:, None])
    torch.testing.assert_close(energy_distance_from_cdf(x, y), expected)


def test_energy_distance_from_cdf__matches_scipy() -> None:
    """等于 scipy.stats.energy_distance 的平方。"""
    x, y = X[:, 0], Y[:, 1]
    expected = scipy.stats.energy_distance(x.numpy(), y.numpy()) ** 2
    torch.testing.assert_close(
        energy_distance_from_cdf(x, y), torch.tensor(expected, dtype=torch.float64)
    )


def test_energy_distance_from_cdf__equals_worked_example() -> None:
    """{0, 2} 对 {1, 5}：三段长 1、1、3，分布函数相差 1/2、0、1/2，2 × (1/4 + 3/4) = 2。"""
    assert energy_distance_from_cdf(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 5.0])).item() == 2


def test_energy_distance_from_cdf__rejects_bad_input() -> None:
    """不是一维或没有样本时报错。"""
    with pytest.raises(ValueError, match="x 的形状"):
        energy_distance_from_cdf(X, Y[:, 0])
    with pytest.raises(ValueError, match="各须至少 1 个样本"):
        energy_distance_from_cdf(X[:0, 0], Y[:, 0])
    with pytest.raises(ValueError, match="各须至少 1 个样本"):
        energy_distance_from_cdf(X[:, 0], Y[:0, 0])
