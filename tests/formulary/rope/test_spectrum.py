"""频谱：对照逐对的循环、逐步累加的角度、Python 的整数除法。"""

import cmath
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from formulary.rope.spectrum import clock_hands, digits, rotations, unfinished_pairs, wavelengths

F64, C128 = torch.float64, torch.complex128


def test_wavelengths__matches_loop() -> None:
    """与逐对计算的 2π·b^(2i/d) 一致。"""
    expected = [2 * math.pi * 500.0 ** (2 * i / 10) for i in range(5)]
    actual = wavelengths(10, base=500.0, dtype=F64)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=F64))


def test_wavelengths__equals_full_turn() -> None:
    """走过一个波长恰好转一圈，走过半个波长转到反方向。"""
    for i, length in enumerate(wavelengths(6, base=27.0, dtype=F64).tolist()):
        theta = 3.0**-i  # 27 的 2i/6 次方的倒数
        assert cmath.isclose(cmath.exp(1j * length * theta), 1, abs_tol=1e-12)
        assert cmath.isclose(cmath.exp(0.5j * length * theta), -1, abs_tol=1e-12)


def test_wavelengths__equals_published_longest() -> None:
    """默认底数 10000、维数 128：最长的波长约 54410 步，默认返回 float32。"""
    longest = wavelengths(128)[-1]
    torch.testing.assert_close(longest, torch.tensor(2 * math.pi * 1e4 ** (126 / 128)))


def test_wavelengths__rejects_odd_d() -> None:
    """奇数维被拒绝。"""
    with pytest.raises(ValueError, match="d 必须是正偶数"):
        wavelengths(7)


def test_rotations__matches_accumulated_angle() -> None:
    """与一步一步累加的转角除以 2π 一致。"""
    expected = []
    for i in range(4):
        angle = 0.0
        for _ in range(90):
            angle += 300.0 ** (-i / 4)
        expected.append(angle / math.tau)
    actual = rotations(8, 90, base=300.0, dtype=F64)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=F64))


def test_rotations__equals_worked_example() -> None:
    """手算一例（d = 8、b = 10000、L = 1000）：圈数是 1000/2π 的 1、1/10、1/100、1/1000。"""
    expected = 1000 / (2 * math.pi) * torch.tensor([1.0, 0.1, 0.01, 0.001], dtype=F64)
    torch.testing.assert_close(rotations(8, 1000, dtype=F64), expected)
    assert rotations(8, 1).dtype == torch.float32


@pytest.mark.parametrize("length", [0, -5])
def test_rotations__rejects_length_that_is_not_positive(length: int) -> None:
    """长度不是正数时被拒绝。"""
    with pytest.raises(ValueError, match="length 必须是正数"):
        rotations(8, length)


@settings(deadline=None, derandomize=True)
@given(st.integers(1, 80), st.integers(1, 10**6), st.sampled_from([1.5, 100.0, 1e4, 5e5]))
def test_unfinished_pairs__matches_count(pairs: int, length: int, base: float) -> None:
    """与逐对数出来的 λ_i > L 的个数一致。"""
    count = sum(math.tau * base ** (i / pairs) > length for i in range(pairs))
    assert unfinished_pairs(2 * pairs, length, base) == count


@pytest.mark.parametrize(
    ("length", "base", "expected"),
    [
        (2048, 1e4, 23),
        (4096, 1e4, 18),
        (8192, 1e4, 14),
        (8192, 5e5, 29),
        (6, 1e4, 64),
        (10**9, 1e4, 0),
    ],
)
def test_unfinished_pairs__equals_published_counts(length: int, base: float, expected: int) -> None:
    """维数 128 时几种长度与底数下的个数，含全不满一圈与全满一圈两个极端。"""
    assert unfinished_pairs(128, length, base) == expected
    if base == 1e4:
        assert unfinished_pairs(128, length) == expected


@pytest.mark.parametrize(
    ("d", "length", "base", "name"),
    [
        (7, 10, 1e4, "d"),
        (0, 10, 1e4, "d"),
        (8, 0, 1e4, "length"),
        (8, 10, 1.0, "base"),
        (3, 10, 1e4, "d"),
    ],
)
def test_unfinished_pairs__rejects_bad_values(d: int, length: int, base: float, name: str) -> None:
    """奇数维、不是正数的长度、不大于 1 的底数被拒绝。"""
    with pytest.raises(ValueError, match=f"^{name} 必须"):
        unfinished_pairs(d, length, base)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=4), st.integers(2, 17))
def test_digits__matches_divmod(numbers: list[int], radix: int) -> None:
    """与 Python 的 divmod 逐位取余一致。"""
    expected = []
    for number in numbers:
        row = []
        for _ in range(6):
            number, digit = divmod(number, radix)
            row.append(digit)
        expected.append(row)
    torch.testing.assert_close(digits(torch.tensor(numbers), radix, 6), torch.tensor(expected))


def test_digits__preserves_number() -> None:
    """数位乘以权重再相加，还原成原数。"""
    n = torch.arange(8**3)
    weights = torch.tensor([1, 8, 64])
    assert torch.equal((digits(n, 8, 3) * weights).sum(-1), n)
    assert digits(torch.tensor([2718]), 10, 4).tolist() == [[8, 1, 7, 2]]
    assert digits(torch.tensor([2718]), 10, 1).tolist() == [[8]]


@pytest.mark.parametrize(("n", "radix", "count"), [(5, 1, 3), (5, 10, 0), (-1, 10, 3)])
def test_digits__rejects_bad_values(n: int, radix: int, count: int) -> None:
    """进制小于 2、位数不是正数、负数被拒绝。"""
    with pytest.raises(ValueError, match=r"radix|必须非负"):
        digits(torch.tensor([n]), radix, count)


def test_clock_hands__matches_complex_exponential() -> None:
    """余弦与正弦是 exp(i·n·b^(-2i/d)) 的实部与虚部。"""
    cos, sin = clock_hands(torch.tensor([0, 3, 250]), 6, base=700.0, dtype=F64)
    hands = [[n * 700.0 ** (-2 * i / 6) for i in range(3)] for n in (0, 3, 250)]
    expected = torch.tensor([[cmath.exp(1j * x) for x in row] for row in hands], dtype=C128)
    torch.testing.assert_close(torch.complex(cos, sin), expected)


def test_clock_hands__depends_only_on_remainder() -> None:
    """与数位一样只看余数：第 i 根指针在 n 增加 2πβⁱ 时回到原处，这里用整数倍近似 2π 检验。"""
    # 710/113 与 2π 相差 5.3e-7，所以 n 增加 710·βⁱ 时第 i 根指针转过 113 圈，误差约 6e-5
    n = torch.tensor([3, 14, 159])
    for i in range(3):
        here, there = (clock_hands(n + 710 * t * 10**i, 6, base=1e3, dtype=F64) for t in (0, 1))
        torch.testing.assert_close(there[0][:, i], here[0][:, i], atol=1e-4, rtol=0)
        torch.testing.assert_close(there[1][:, i], here[1][:, i], atol=1e-4, rtol=0)
        if i < 2:  # 更高的指针没有转满整圈
            assert (there[1][:, i + 1] - here[1][:, i + 1]).abs().max() > 0.1


def test_clock_hands__equals_decimal_weights() -> None:
    """默认底数 10000、d = 8 时四根指针的单位是 1、10、100、1000。"""
    cos, sin = clock_hands(torch.tensor([2718]), 8)
    hands = torch.tensor([[2718.0, 271.8, 27.18, 2.718]])
    # 2718 弧度在 float32 里的间距约 2e-4，271.8 弧度约 3e-5
    torch.testing.assert_close(cos, hands.cos(), atol=5e-4, rtol=0)
    torch.testing.assert_close(sin, hands.sin(), atol=5e-4, rtol=0)


@pytest.mark.parametrize(("d", "base"), [(5, 1e4), (0, 1e4), (6, -1.0), (6, math.inf)])
def test_clock_hands__rejects_bad_values(d: int, base: float) -> None:
    """奇数维与不是有限正数的底数被拒绝。"""
    with pytest.raises(ValueError, match="必须是"):
        clock_hands(torch.tensor([1]), d, base)
