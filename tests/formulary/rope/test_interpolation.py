"""位置内插与误差界的证明：稠密旋转矩阵、随机检验、反例。"""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.linalg import block_diag

from formulary.rope.interpolation import (
    chord,
    chord_error_bound,
    curvature_bounds,
    fourier_score,
    published_error_bound,
    rotate_interpolated,
    score_error_bound,
)
from formulary.rope.rotation import rotate_interleaved
from formulary.rope.scaling import linear_frequencies
from formulary.rope.temperature import rotate_scaled


def _random_products(pairs: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(pairs, dtype=torch.complex128, generator=generator)


def _counterexample(d: int) -> torch.Tensor:
    """h_i = exp(-iθ_i/2): every pair peaks in the middle of [0, 1]."""
    theta = 10_000.0 ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    return torch.exp(-0.5j * theta)


def test_rotate_interpolated__matches_dense_rotation_matrix() -> None:
    """逐个词元乘以位置 m/s 的分块旋转矩阵。"""
    x = torch.randn(2, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    positions, factor, base = [0, 7, 1000], 3, 200.0
    expected = torch.empty_like(x)
    for t, m in enumerate(positions):
        angles = [m / factor * base ** (-2 * i / 6) for i in range(3)]
        blocks = [[[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]] for a in angles]
        expected[:, t] = x[:, t] @ torch.tensor(block_diag(*blocks)).T
    actual = rotate_interpolated(x, torch.tensor(positions), factor, base)
    torch.testing.assert_close(actual, expected)


def test_rotate_interpolated__equals_scaled_frequencies() -> None:
    """位置除以 s 与频率除以 s 是一回事。"""
    x = torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    positions = torch.tensor([0, 1, 5, 4095, 32767])
    theta = linear_frequencies(8, 1e4, 8, dtype=torch.float64)
    expected = rotate_scaled(x, positions, theta)
    torch.testing.assert_close(rotate_interpolated(x, positions, 8), expected)
    plain = rotate_interleaved(x, positions)
    torch.testing.assert_close(rotate_interpolated(x, positions, 1), plain)


@pytest.mark.parametrize("factor", [0.5, math.nan, math.inf])
def test_rotate_interpolated__rejects_factor_below_one(factor) -> None:
    """小于 1 或不是有限数的倍数被拒绝。"""
    with pytest.raises(ValueError, match=r"^factor "):
        rotate_interpolated(torch.ones(1, 2), torch.tensor([3]), factor)


def test_fourier_score__matches_rotated_inner_products() -> None:
    """与旋转后的查询、键的内积相等，相对位置可正可负可为小数。"""
    generator = torch.Generator().manual_seed(2)
    q, k = torch.randn(2, 10, dtype=torch.float64, generator=generator)
    h = torch.view_as_complex(q.view(5, 2)) * torch.view_as_complex(k.view(5, 2)).conj()
    offsets = [-3.0, 0.0, 0.5, 17.25]
    expected = []
    for u in offsets:
        total = 0.0
        for i in range(5):
            angle = u * 50.0 ** (-2 * i / 10)
            rotated = [
                q[2 * i] * math.cos(angle) - q[2 * i + 1] * math.sin(angle),
                q[2 * i] * math.sin(angle) + q[2 * i + 1] * math.cos(angle),
            ]
            total += float(rotated[0] * k[2 * i] + rotated[1] * k[2 * i + 1])
        expected.append(total)
    actual = fourier_score(h, torch.tensor(offsets, dtype=torch.float64), 50.0)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_fourier_score__equals_sum_of_real_parts_at_zero() -> None:
    """在 u = 0 处就是 h_i 的实部之和。"""
    h = _random_products(7, 3)
    actual = fourier_score(h, torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(actual.item(), sum(z.real for z in h.tolist()))


def test_chord__matches_numpy_interp() -> None:
    """与 numpy 的一维线性插值相等。"""
    h = _random_products(6, 4)
    ends = torch.tensor([3.0, 5.0], dtype=torch.float64)
    inner = torch.tensor([3.0, 3.25, 4.0, 4.9], dtype=torch.float64)
    heights = fourier_score(h, ends).numpy()
    expected = torch.from_numpy(np.interp(inner.numpy(), ends.numpy(), heights))
    torch.testing.assert_close(chord(h, 3, 5, inner), expected)


def test_chord__preserves_endpoint_scores() -> None:
    """两个端点上弦与曲线重合，中间不重合。"""
    h = _random_products(6, 5)
    offsets = torch.tensor([2.0, 2.6, 4.0], dtype=torch.float64)
    gap = (chord(h, 2, 4, offsets) - fourier_score(h, offsets)).abs()
    assert gap[0] < 1e-12
    assert gap[2] < 1e-12
    assert gap[1] > 1e-3


@pytest.mark.parametrize(("left", "right"), [(1, 1), (2, 1)])
def test_chord__rejects_empty_interval(left, right) -> None:
    """右端点不大于左端点时被拒绝。"""
    with pytest.raises(ValueError, match=r"^right "):
        chord(_random_products(2, 0), left, right, torch.tensor([1.0], dtype=torch.float64))


def test_curvature_bounds__matches_autograd() -> None:
    """第一列与自动微分两次的结果相等，其余两列与 Python 循环相等。"""
    h, base = _random_products(6, 6), 30.0
    offsets = torch.tensor([0.0, 0.7, 11.0], dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(
        fourier_score(h, offsets, base).sum(), offsets, create_graph=True
    )
    (second,) = torch.autograd.grad(first.sum(), offsets)
    actual = curvature_bounds(h, offsets.detach(), base)
    torch.testing.assert_close(actual[:, 0], second.abs())
    squares = [base ** (-4 * i / 12) for i in range(6)]
    weighted = sum(abs(z) * t for z, t in zip(h.tolist(), squares, strict=True))
    largest = max(abs(z) for z in h.tolist()) * sum(squares)
    expected = torch.tensor([weighted, largest], dtype=torch.float64)
    torch.testing.assert_close(actual[:, 1:], expected.expand(3, 2))


def test_curvature_bounds__equals_geometric_series() -> None:
    """取 b = 16、d = 4：Σθ_i² = 1 + 1/16 = 17/16，与 (1-b^-2)/(1-b^(-4/d)) 的分数算式相等。"""
    zero = torch.zeros(1, dtype=torch.float64)
    default = curvature_bounds(torch.ones(2, dtype=torch.complex128), zero)[0, 2].item()
    assert default == pytest.approx(1 + 1e-4, rel=1e-12)  # 缺省的 b = 10000、d = 4
    small = curvature_bounds(torch.ones(2, dtype=torch.complex128), zero, 1.5)[0, 2].item()
    assert small == pytest.approx(1 + 1 / 1.5, rel=1e-12)
    b = Fraction(16)
    closed = (1 - b**-2) / (1 - 1 / b)
    assert closed == Fraction(17, 16)
    h = torch.ones(2, dtype=torch.complex128)
    actual = curvature_bounds(h, torch.zeros(1, dtype=torch.float64), 16.0)[0]
    torch.testing.assert_close(actual, torch.full((3,), 17 / 16, dtype=torch.float64))


def test_curvature_bounds__is_monotone_from_left_to_right() -> None:
    """500 组随机的 h：三列一列不小于一列。"""
    offsets = torch.linspace(0, 40, 9, dtype=torch.float64)
    for seed in range(500):
        columns = curvature_bounds(_random_products(5 + seed % 7, seed), offsets)
        assert (columns.diff(dim=1) >= -1e-9).all()


@pytest.mark.parametrize("base", [1, 0.5, -3, math.inf])
def test_curvature_bounds__rejects_base_not_above_one(base) -> None:
    """不大于 1 的底数被拒绝。"""
    with pytest.raises(ValueError, match=r"^base "):
        curvature_bounds(torch.ones(2, dtype=torch.complex64), torch.zeros(1), base)


def test_chord_error_bound__matches_parabola_gap() -> None:
    """抛物线 Mu²/2 与它的弦之差恰好等于界，说明界不能再改进。"""
    curvature, left, right = 3.0, 1.0, 4.0
    u = torch.tensor([1.0, 1.5, 2.5, 3.9, 4.0], dtype=torch.float64)
    ends = [curvature * left**2 / 2, curvature * right**2 / 2]
    line = ends[0] + (ends[1] - ends[0]) * (u - left) / (right - left)
    actual = chord_error_bound(curvature, left, right, u)
    torch.testing.assert_close(actual, line - curvature * u**2 / 2)


def test_chord_error_bound__equals_hand_calculation() -> None:
    """M = 2、区间 [0, 4]、u = 1：2·1·3/2 = 3。"""
    offsets = torch.tensor([1.0], dtype=torch.float64)
    assert chord_error_bound(2, 0, 4, offsets).item() == 3
    assert chord_error_bound(0, 0, 4, offsets).item() == 0


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((-1, 0, 1, 0.5), "curvature"), ((1, 1, 1, 1.0), "right"), ((1, 0, 1, 1.5), "offsets")],
)
def test_chord_error_bound__rejects_bad_arguments(arguments, name) -> None:
    """负的曲率、空区间、区间外的点被拒绝。"""
    with pytest.raises(ValueError, match=f"^{name} "):
        chord_error_bound(*arguments[:3], torch.tensor([arguments[3]]))


def test_score_error_bound__matches_explicit_sum() -> None:
    """与逐项相加的 max|h|·Σθ_i²·(u-u_1)(u_2-u)/2 相等。"""
    h, left, right = _random_products(8, 8), 3.0, 5.0
    offsets = torch.tensor([3.2, 4.0, 4.7], dtype=torch.float64)
    peak = max(abs(z) for z in h.tolist())
    total = sum(100.0 ** (-4 * i / 16) for i in range(8))
    expected = [peak * total * (u - left) * (right - u) / 2 for u in offsets.tolist()]
    actual = score_error_bound(h, left, right, offsets, base=100.0)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_score_error_bound__bounds_random_scores() -> None:
    """2000 组随机的 h 与反例的三种维数：内插分数离弦都不超过界。"""
    offsets = torch.linspace(0, 1, 11, dtype=torch.float64)
    cases = [_random_products(4 + seed % 61, seed) for seed in range(2000)]
    for h in [*cases, *(_counterexample(d) for d in (64, 128, 256))]:
        error = (fourier_score(h, offsets) - chord(h, 0, 1, offsets)).abs()
        assert (error <= score_error_bound(h, 0, 1, offsets) + 1e-12).all()


def test_score_error_bound__differs_from_published_bound() -> None:
    """反例 h_i = e^{-iθ_i/2}、u = 1/2：误差超过 PI 论文定理 2.1 的右端，不超过改正后的界。"""
    middle = torch.tensor([0.5], dtype=torch.float64)
    rows = []
    for d in (64, 128, 256):
        h = _counterexample(d)
        error = (fourier_score(h, middle) - chord(h, 0, 1, middle)).abs().item()
        published = published_error_bound(h, 0, 1, middle).item()
        corrected = score_error_bound(h, 0, 1, middle).item()
        assert published < error <= corrected
        rows.append([round(value, 4) for value in (published, error, corrected)])
    assert rows == [[0.2171, 0.2818, 0.2856], [0.4343, 0.4939, 0.4998], [0.8686, 0.9222, 0.9326]]


def test_score_error_bound__rejects_bad_arguments() -> None:
    """不大于 1 的底数与空区间被拒绝。"""
    h, middle = torch.ones(2, dtype=torch.complex64), torch.tensor([0.5])
    with pytest.raises(ValueError, match=r"^base "):
        score_error_bound(h, 0, 1, middle, base=1.0)
    with pytest.raises(ValueError, match=r"^right "):
        score_error_bound(h, 1, 0, middle)


def test_published_error_bound__matches_theorem_formula() -> None:
    """逐数代入 d·max|h|·(u-u_1)(u_2-u)/(8 ln b)。"""
    h = _random_products(9, 9)
    offsets = torch.tensor([2.1, 3.0, 3.8], dtype=torch.float64)
    peak = max(abs(z) for z in h.tolist())
    expected = [18 * peak * (u - 2) * (4 - u) / (8 * math.log(500.0)) for u in offsets.tolist()]
    actual = published_error_bound(h, 2, 4, offsets, base=500.0)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_published_error_bound__equals_published_constant() -> None:
    """取 b = 10000、单位网格的中点：d/294.73，与论文式 (7) 相同。"""
    h = torch.ones(64, dtype=torch.complex128)
    middle = torch.tensor([0.5], dtype=torch.float64)
    assert round(128 / published_error_bound(h, 0, 1, middle).item(), 2) == 294.73


def test_published_error_bound__rejects_base_not_above_one() -> None:
    """不大于 1 的与无穷大的底数被拒绝，1.5 可以。"""
    h, zero = torch.ones(2, dtype=torch.complex64), torch.zeros(1)
    assert published_error_bound(h, 0, 1, zero, base=1.5).item() == 0
    for base in (1, math.inf):
        with pytest.raises(ValueError, match=r"^base "):
            published_error_bound(h, 0, 1, zero, base=base)
