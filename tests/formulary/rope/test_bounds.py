"""内积的上界：对照 Python 复数的循环；上界的性质用随机向量与极端例子检验。"""

import cmath
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from formulary.rope.bounds import (
    abel_bound,
    mean_partial_sum,
    partial_sum_floor,
    smoothness,
    trivial_bound,
)

F64 = torch.float64


def random_products(count: int, d: int, seed: int) -> Tensor:
    """随机查询与键的 h，每行一对。"""
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(count, d // 2, 2, dtype=F64, generator=generator) for _ in range(2))
    return torch.view_as_complex(q) * torch.view_as_complex(k).conj()


def ramp(d: int) -> Tensor:
    """线性降到 0 的 h：h_i = 1 - 2i/d。"""
    return (1 - torch.arange(0, d, 2, dtype=F64) / d).to(torch.complex128)


def loop_sums(delta: float, d: int, base: float) -> list[float]:
    """|S_1|, …, |S_{d/2}|，用 Python 复数累加。"""
    total, moduli = 0j, []
    for i in range(d // 2):
        total += cmath.exp(1j * delta * base ** (-2 * i / d))
        moduli.append(abs(total))
    return moduli


def direct(h: Tensor, deltas: Tensor, base: float) -> Tensor:
    """直接求和的 |Σ h_i exp(iΔθ_i)|。"""
    theta = base ** (-torch.arange(len(h), dtype=F64) / len(h))
    return (h * torch.exp(1j * deltas[:, None] * theta)).sum(-1).abs()


def test_abel_bound__matches_loop() -> None:
    """与逐项相减、逐项累加的循环一致。"""
    h = random_products(1, 10, seed=1)[0]
    values, deltas = [*h.tolist(), 0j], [0.0, 2.0, -35.0]
    largest = max(abs(values[i + 1] - values[i]) for i in range(5))
    expected = [largest * sum(loop_sums(t, 10, 70.0)) for t in deltas]
    actual = abel_bound(h, torch.tensor(deltas, dtype=F64), base=70.0)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=F64))


def test_abel_bound__bounds_score() -> None:
    """2000 对随机向量、随机距离上，内积的模从不超过 Abel 界。"""
    deltas = torch.randint(0, 5000, (2000,), generator=torch.Generator().manual_seed(2)).double()
    for h, delta in zip(random_products(2000, 32, seed=3), deltas, strict=True):
        bound = abel_bound(h, delta[None])
        assert (direct(h, delta[None], 1e4) <= bound * (1 + 1e-12)).all()


def test_abel_bound__equals_score_for_ramp_at_zero_distance() -> None:
    """线性降到 0 的 h 在 Δ = 0 时界取等号；别的 Δ 上恰等于 B(Δ)。"""
    h, deltas = ramp(128), torch.tensor([0.0, 100.0, 1000.0], dtype=F64)
    bound = abel_bound(h, deltas)
    torch.testing.assert_close(bound[0], h.real.sum())
    expected = [sum(loop_sums(t, 128, 1e4)) / 64 for t in deltas.tolist()]
    torch.testing.assert_close(bound, torch.tensor(expected, dtype=F64))


def test_abel_bound__differs_from_useful_bound_for_random_vectors() -> None:
    """2000 对随机向量（d = 128）上，Abel 界没有一次小于平凡界；线性降到 0 的 h 上则小得多。"""
    deltas = torch.arange(1.0, 8192.0, dtype=F64)
    theta = 1e4 ** (-torch.arange(64, dtype=F64) / 64)
    sums = torch.exp(1j * deltas[:, None] * theta).cumsum(-1).abs().sum(-1)
    tighter = 0
    for h in random_products(2000, 128, seed=4):
        # Abel 界对 Δ 的依赖只在 Σ|S_j| 里，所以看它最小的那一处就够
        scale = abel_bound(h, torch.tensor([0.0], dtype=F64)) / (64 * 65 / 2)
        tighter += int(scale * sums.min() < h.abs().sum())
    assert tighter == 0
    assert abel_bound(ramp(128), deltas[99:100]).item() < 0.32 * trivial_bound(ramp(128)).item()


def test_abel_bound__rejects_empty_h() -> None:
    """空的 h 被拒绝。"""
    with pytest.raises(ValueError, match="d 必须是正偶数"):
        abel_bound(torch.zeros(0, dtype=torch.complex128), torch.tensor([1.0]))


def test_mean_partial_sum__matches_loop() -> None:
    """与 Python 复数逐项累加再平均一致。"""
    deltas = [0.0, 1.0, -6.5, 300.0]
    expected = [sum(loop_sums(t, 12, 40.0)) / 6 for t in deltas]
    actual = mean_partial_sum(torch.tensor(deltas, dtype=F64), 12, base=40.0, dtype=F64)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=F64))


def test_mean_partial_sum__limit_zero_distance() -> None:
    """Δ = 0 时 B = (d/2 + 1)/2，d = 128 时是 32.5。"""
    for d in (2, 10, 128):
        actual = mean_partial_sum(torch.tensor([0]), d, dtype=F64)
        torch.testing.assert_close(actual, torch.tensor([(d / 2 + 1) / 2], dtype=F64))


def test_mean_partial_sum__equals_worked_example() -> None:
    """默认底数 10000、d = 4、Δ = 100：(1 + 2|cos 49.5|)/2，默认返回 float32。"""
    actual = mean_partial_sum(torch.tensor([100]), 4)
    # 100 弧度在 float32 里的间距约 8e-6
    expected = torch.tensor([0.5 + math.cos(49.5)])
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=0)


def test_mean_partial_sum__differs_from_monotone_decay() -> None:
    """对照：B(Δ) 总的趋势是下降，但不单调，B(19) > B(18)，B(4096) > B(1024)。"""
    values = mean_partial_sum(torch.tensor([0, 18, 19, 100, 1024, 4096]), 128, dtype=F64).tolist()
    assert values[0] > values[1] > values[3] > values[4]
    assert values[2] > values[1]
    assert values[5] > values[4]


def test_mean_partial_sum__rejects_odd_d() -> None:
    """奇数维被拒绝。"""
    with pytest.raises(ValueError, match="d 必须是正偶数"):
        mean_partial_sum(torch.tensor([1]), 9)


def test_trivial_bound__matches_loop() -> None:
    """与逐项取模相加一致。"""
    h = random_products(3, 10, seed=5)
    expected = [sum(math.hypot(z.real, z.imag) for z in row) for row in h.tolist()]
    torch.testing.assert_close(trivial_bound(h), torch.tensor(expected, dtype=F64))


def test_trivial_bound__bounds_score() -> None:
    """任何距离上内积的模都不超过平凡界；相位全对齐时取等号。"""
    deltas = torch.arange(-50.0, 50.0, dtype=F64)
    for h in random_products(40, 16, seed=6):
        assert (direct(h, deltas, 100.0) <= trivial_bound(h) * (1 + 1e-12)).all()
    h = random_products(1, 16, seed=7)[0]
    aligned = h.abs() * torch.exp(-1j * 9.0 * 100.0 ** (-torch.arange(8, dtype=F64) / 8))
    actual = direct(aligned, torch.tensor([9.0], dtype=F64), 100.0)[0]
    torch.testing.assert_close(actual, trivial_bound(h))


@settings(deadline=None, derandomize=True)
@given(st.integers(1, 40), st.floats(-1e5, 1e5), st.floats(1.0, 1e6))
def test_partial_sum_floor__bounds_partial_sums(pairs: int, delta: float, base: float) -> None:
    """任意维数、距离、底数下，Σ|S_j| 不小于 ⌈d/4⌉。"""
    assert partial_sum_floor(2 * pairs) <= sum(loop_sums(delta, 2 * pairs, base)) + 1e-6


@pytest.mark.parametrize("pairs", [1, 2, 3, 4, 5, 6])
def test_partial_sum_floor__matches_alternating_sum(pairs: int) -> None:
    """下界可以取到：频率逐对除以 3、Δ = 1.5π·9^k 时，部分和的模依次是 1、0、1、0……"""
    delta = 1.5 * math.pi * 9 ** ((pairs - 1) // 2)
    total = sum(loop_sums(delta, 2 * pairs, 3.0**pairs))
    torch.testing.assert_close(
        torch.tensor(float(partial_sum_floor(2 * pairs))), torch.tensor(total)
    )
    assert isinstance(partial_sum_floor(2 * pairs), int)


@pytest.mark.parametrize("d", [0, -4, 3, 7])
def test_partial_sum_floor__rejects_bad_d(d: int) -> None:
    """不是正偶数的维数被拒绝。"""
    with pytest.raises(ValueError, match="d 必须是正偶数"):
        partial_sum_floor(d)


def test_smoothness__matches_loop() -> None:
    """与逐项取模、逐项相减的循环一致。"""
    h = random_products(1, 14, seed=8)[0]
    values = [*h.tolist(), 0j]
    mean = sum(abs(z) for z in values) / 7
    largest = max(abs(values[i + 1] - values[i]) for i in range(7))
    torch.testing.assert_close(smoothness(h), torch.tensor(mean / largest, dtype=F64))


def test_smoothness__bounds_where_abel_is_tighter() -> None:
    """Abel 界小于平凡界，当且仅当 B(Δ) 小于平滑度；随机 h 与线性 h 的各种混合上都成立。"""
    deltas = torch.arange(0.0, 400.0, 7.0, dtype=F64)
    curve = torch.tensor([sum(loop_sums(t, 32, 1e4)) / 16 for t in deltas.tolist()], dtype=F64)
    outcomes = set()
    for step, noise in enumerate(random_products(20, 32, seed=9)):
        h = ramp(32) + 0.01 * step * noise
        tighter = abel_bound(h, deltas) < trivial_bound(h)
        assert torch.equal(tighter[1:], (curve < smoothness(h))[1:])
        outcomes |= set(tighter.tolist())
    assert outcomes == {True, False}


def test_smoothness__limit_ramp_is_largest() -> None:
    """线性降到 0 的 h 取到最大值 (d/2 + 1)/2；2000 个随机的 h 都小于 1/2。"""
    torch.testing.assert_close(smoothness(ramp(128)), torch.tensor(32.5, dtype=F64))
    assert all(smoothness(h) < 0.5 for h in random_products(2000, 128, seed=4))


def test_smoothness__equals_worked_example() -> None:
    """允许个别 h_i 为 0：h = (2, 0, 1) 的平均模长是 1，最大的变化是 2。"""
    h = torch.tensor([2.0, 0.0, 1.0], dtype=torch.complex128)
    torch.testing.assert_close(smoothness(h), torch.tensor(0.5, dtype=F64))


def test_smoothness__rejects_zero() -> None:
    """全为 0 的 h 被拒绝。"""
    with pytest.raises(ValueError, match="h 不能全为 0"):
        smoothness(torch.zeros(3, dtype=torch.complex128))
