"""内积随距离的变化：对照稠密旋转矩阵与 Python 复数的循环。"""

import cmath
import math

import pytest
import torch
from torch import Tensor

from formulary.rope.decay import (
    abel_lines,
    increments,
    pair_products,
    partial_sums,
    phases,
    score_curve,
)

F64, C128 = torch.float64, torch.complex128


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def random_complex(pairs: int, seed: int) -> Tensor:
    return torch.complex(random(pairs, seed=seed), random(pairs, seed=seed + 100))


def dense(position: float, d: int, base: float) -> Tensor:
    """一块一块写出来的旋转矩阵，不用被测代码。"""
    matrix = torch.zeros(d, d, dtype=F64)
    for i in range(d // 2):
        angle = position / base ** (2 * i / d)
        matrix[2 * i, 2 * i] = matrix[2 * i + 1, 2 * i + 1] = math.cos(angle)
        matrix[2 * i, 2 * i + 1] = -math.sin(angle)
        matrix[2 * i + 1, 2 * i] = math.sin(angle)
    return matrix


def test_pair_products__matches_python_complex() -> None:
    """与 Python 复数逐对相乘一致。"""
    q, k = random(2, 6, seed=1), random(2, 6, seed=2)
    expected = torch.tensor(
        [
            [
                complex(a[2 * i], a[2 * i + 1]) * complex(b[2 * i], b[2 * i + 1]).conjugate()
                for i in range(3)
            ]
            for a, b in zip(q.tolist(), k.tolist(), strict=True)
        ],
        dtype=torch.complex128,
    )
    torch.testing.assert_close(pair_products(q, k), expected)


def test_pair_products__equals_inner_product_in_real_part() -> None:
    """实部之和是内积；(1+2i)(3-5i) = 13 + i。"""
    q, k = random(3, 8, seed=3), random(3, 8, seed=4)
    torch.testing.assert_close(pair_products(q, k).real.sum(-1), (q * k).sum(-1))
    worked = pair_products(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0]))
    torch.testing.assert_close(worked, torch.tensor([13.0 + 1.0j]))


@pytest.mark.parametrize(("q", "k"), [((4,), (6,)), ((3,), (3,))])
def test_pair_products__rejects_bad_shapes(q: tuple[int, ...], k: tuple[int, ...]) -> None:
    """形状不同或奇数维被拒绝。"""
    with pytest.raises(ValueError, match="q 与 k 形状须相同"):
        pair_products(torch.ones(q), torch.ones(k))


def test_phases__matches_python_complex() -> None:
    """与 cmath.exp 逐个算出的相位一致。"""
    deltas = [-3.0, 0.0, 2.5, 800.0]
    actual = phases(torch.tensor(deltas, dtype=F64), 6, base=90.0, dtype=F64)
    expected = [[cmath.exp(1j * t * 90.0 ** (-2 * i / 6)) for i in range(3)] for t in deltas]
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=C128))


def test_phases__preserves_products() -> None:
    """距离相加，相位相乘；反号得共轭。"""
    a, b = torch.tensor([1.0, 7.0, -40.0]), torch.tensor([2.0, -3.5, 11.0])
    both = phases(a, 8, dtype=F64) * phases(b, 8, dtype=F64)
    torch.testing.assert_close(both, phases(a + b, 8, dtype=F64))
    torch.testing.assert_close(phases(-a, 8, dtype=F64), phases(a, 8, dtype=F64).conj())


def test_phases__equals_slow_pair() -> None:
    """默认底数 10000、d = 4：第 1 对每步转 0.01 弧度，默认返回 complex64。"""
    actual = phases(torch.tensor([100], dtype=F64), 4)[0, 1]
    torch.testing.assert_close(actual, torch.tensor(cmath.exp(1j), dtype=torch.complex64))


def test_phases__rejects_odd_d() -> None:
    """奇数维被拒绝。"""
    with pytest.raises(ValueError, match="d 必须是正偶数"):
        phases(torch.tensor([1.0]), 5)


@pytest.mark.parametrize(("m", "n"), [(0, 0), (1, 0), (3, 13), (120, 20), (1000, 0)])
def test_score_curve__matches_dense_matrices(m: int, n: int) -> None:
    """与稠密旋转矩阵先各自旋转再求内积一致。"""
    q, k = random(8, seed=5), random(8, seed=6)
    expected = (dense(m, 8, 200.0) @ q) @ (dense(n, 8, 200.0) @ k)
    actual = score_curve(q, k, torch.tensor([m - n]), base=200.0)
    torch.testing.assert_close(actual, expected[None])


def test_score_curve__equals_worked_example() -> None:
    """手算一例（d = 4、b = 10000、q = k = (1,0,1,0)）：内积是 cos Δ + cos(Δ/100)。"""
    q = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=F64)
    deltas = torch.tensor([0, 1, 100])
    expected = [math.cos(x) + math.cos(x / 100) for x in (0, 1, 100)]
    torch.testing.assert_close(score_curve(q, q, deltas), torch.tensor(expected, dtype=F64))


def test_score_curve__differs_from_even_function() -> None:
    """对照：内积一般不是 Δ 的偶函数；交换 q 与 k 才相当于把 Δ 反号。"""
    q, k, delta = random(8, seed=7), random(8, seed=8), torch.tensor([5.0], dtype=F64)
    assert (score_curve(q, k, delta) - score_curve(q, k, -delta)).abs().item() > 0.1
    torch.testing.assert_close(score_curve(q, k, delta), score_curve(k, q, -delta))


def test_score_curve__rejects_odd_d() -> None:
    """奇数维被拒绝。"""
    with pytest.raises(ValueError, match="d 为偶数"):
        score_curve(torch.ones(3), torch.ones(3), torch.tensor([1.0]))


def test_partial_sums__matches_loop() -> None:
    """与 Python 复数逐项累加一致。"""
    actual = partial_sums(torch.tensor([4.0, -9.0]), 8, base=50.0, dtype=F64)
    expected = torch.zeros(2, 4, dtype=C128)
    for row, delta in enumerate((4.0, -9.0)):
        total = 0j
        for i in range(4):
            total += cmath.exp(1j * delta * 50.0 ** (-2 * i / 8))
            expected[row, i] = total
    torch.testing.assert_close(actual, expected)


def test_partial_sums__equals_two_phases() -> None:
    """默认底数 10000、d = 4、Δ = 100：S_2 的模是 2|cos 49.5|，默认返回 complex64。"""
    actual = partial_sums(torch.tensor([100]), 4)[0].abs()
    # 100 弧度在 float32 里的间距约 8e-6
    expected = torch.tensor([1.0, 2 * math.cos(49.5)])
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=0)


def test_partial_sums__limit_zero_distance() -> None:
    """Δ = 0 时 S_j = j。"""
    actual = partial_sums(torch.tensor([0]), 10, dtype=F64)[0]
    torch.testing.assert_close(actual, torch.arange(1, 6).to(torch.complex128))


def test_partial_sums__rejects_odd_d() -> None:
    """奇数维被拒绝。"""
    with pytest.raises(ValueError, match="d 必须是正偶数"):
        partial_sums(torch.tensor([1.0]), 5)


def test_increments__matches_loop() -> None:
    """与逐项相减一致，末项按 h_{d/2} = 0 计。"""
    h = random_complex(5, seed=9)
    values = [*h.tolist(), 0j]
    for i, increment in enumerate(increments(h).tolist()):
        assert cmath.isclose(increment, values[i + 1] - values[i])


def test_increments__preserves_first_value() -> None:
    """各项之和是 -h_0。"""
    h = random_complex(7, seed=10)
    torch.testing.assert_close(increments(h).sum(), -h[0])


def test_abel_lines__matches_loop() -> None:
    """三行都与 Python 复数的循环一致。"""
    h, deltas = random_complex(4, seed=11), [3.0, -70.0]
    expected = [
        sum(x * cmath.exp(1j * t * 80.0 ** (-2 * i / 8)) for i, x in enumerate(h.tolist()))
        for t in deltas
    ]
    for line in abel_lines(h, torch.tensor(deltas, dtype=F64), base=80.0):
        for actual, value in zip(line.tolist(), expected, strict=True):
            assert cmath.isclose(actual, value, rel_tol=1e-12)


def test_abel_lines__is_one_value_on_every_line() -> None:
    """三行相等，实部是稠密旋转矩阵给出的内积。"""
    q, k = random(64, seed=12), random(64, seed=13)
    deltas = torch.tensor([0, 1, 10, 500])
    direct, difference, abel = abel_lines(pair_products(q, k), deltas)
    torch.testing.assert_close(difference, direct)
    torch.testing.assert_close(abel, direct)
    expected = torch.stack([(dense(t, 64, 1e4) @ q) @ k for t in deltas.tolist()])
    torch.testing.assert_close(direct.real, expected)


def test_abel_lines__rejects_empty_h() -> None:
    """空的 h 被拒绝。"""
    with pytest.raises(ValueError, match="d 必须是正偶数"):
        abel_lines(torch.zeros(0, dtype=torch.complex128), torch.tensor([1.0]))
