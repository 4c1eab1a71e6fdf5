"""对偶数的检验。"""

import math

import pytest
import torch
from torch import Tensor

from formulary.autograd.dual import Dual, dual_jvp


def _f(x):
    """同一段代码吃 Dual 也吃张量：四则、幂、函数与常数的各种次序都用到。"""
    y = (3 - x) * x.sin() + x * 2 - 1
    z = (y**3 + x.exp()) / (x * x + 1) - 5 / (2 + x)
    return -z + (x**2 + 0.5).log() + x**-1.5


def _torch_derivative(value: float) -> tuple[float, float]:
    x = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    y = _f(x)
    (gradient,) = torch.autograd.grad(y, x)
    return y.item(), gradient.item()


def test_Dual__matches_torch_autograd() -> None:
    """四则、幂、sin、exp、log 的混合式子，值与导数都等于 torch。"""
    for value in (0.3, 1.0, 2.7):
        actual = _f(Dual(value, 1.0))
        expected = _torch_derivative(value)
        torch.testing.assert_close(actual.value, expected[0])
        torch.testing.assert_close(actual.tangent, expected[1])


def test_Dual__matches_central_difference() -> None:
    """导数等于同一段代码的中心差分。"""
    h = 1e-5
    numerical = (_f(Dual(1.3 + h)).value - _f(Dual(1.3 - h)).value) / (2 * h)
    # 中心差分本身有约 1e-9 的误差
    torch.testing.assert_close(_f(Dual(1.3, 1.0)).tangent, numerical, rtol=1e-7, atol=1e-8)


def test_Dual__equals_truncated_polynomial_product() -> None:
    """乘法就是 (a + bε)(c + dε) 舍去 ε²：(2 + 3ε)(5 + 7ε) = 10 + 29ε，εε = 0。"""
    product = Dual(2.0, 3.0) * Dual(5.0, 7.0)
    assert (product.value, product.tangent) == (10, 29)
    square = Dual(0.0, 1.0) * Dual(0.0, 1.0)
    assert (square.value, square.tangent) == (0, 0)
    quotient = Dual(6.0, 1.0) / Dual(2.0, 4.0)
    assert (quotient.value, quotient.tangent) == (3, (1 * 2 - 6 * 4) / 4)


def test_Dual__is_exact_where_difference_cancels() -> None:
    """x = 1e8 处 x² 的导数恰为 2e8；步长 1e-9 时 x + h 舍入成 x，差分得到零。"""
    assert (Dual(1e8, 1.0) ** 2).tangent == 2e8
    assert (1e8 + 1e-9) ** 2 - 1e8**2 == 0


def test_Dual__depends_only_on_taken_branch() -> None:
    """比较只看值，循环与分支照走，导数是走过的那一支的。"""

    def f(x: Dual) -> Dual:
        while x < 10:
            x = x * 3
        return x if x > 20 else -x

    assert (f(Dual(1.0, 1.0)).value, f(Dual(1.0, 1.0)).tangent) == (27, 27)
    assert (f(Dual(4.0, 1.0)).value, f(Dual(4.0, 1.0)).tangent) == (-12, -3)


def test_Dual__depends_only_on_value_in_comparisons() -> None:
    """六种比较都只看值，两边可以是 Dual 或普通的数；写成 x == 0 的分支不会悄悄走错。"""
    low, high = Dual(1.0, 7.0), Dual(2.0, -7.0)
    for small, large in ((low, high), (low, 2), (1, high)):
        assert small < large
        assert small <= large
        assert large > small
        assert large >= small
        assert small != large
        assert not small == large  # noqa: SIM201
        assert not small > large
        assert not small >= large
        assert not large < small
        assert not large <= small
    for other in (Dual(1.0, -3.0), 1, 1.0):
        assert low == other
        assert low <= other
        assert low >= other
        assert not low < other
        assert not low > other
        assert not low != other  # noqa: SIM202


def test_Dual__limit_zero_power() -> None:
    """零次幂是常数 1，导数为零，底数为零也行；零的一次幂导数是 1，三次幂导数是 0。"""
    for base in (0.0, -2.0, 3.0):
        assert ((Dual(base, 5.0) ** 0).value, (Dual(base, 5.0) ** 0).tangent) == (1, 0)
    assert (Dual(0.0, 5.0) ** 1).tangent == 5
    assert (Dual(0.0, 5.0) ** 3).tangent == 0
    assert (Dual(-2.0, 1.0) ** 3).tangent == 12


def test_Dual__is_readable() -> None:
    """显示值与切向量；缺省的切向量是零。"""
    assert repr(Dual(1, 2)) == "Dual(1.0, 2.0)"
    assert repr(Dual(1)) == "Dual(1.0, 0.0)"


def test_Dual__rejects_bad_input() -> None:
    """不是实数的值、除以零、对非正数取对数、没有有限导数的幂都报错。"""
    for bad in ("1", None, 1j, True, torch.ones(1)):
        with pytest.raises(ValueError, match="value 必须是实数"):
            Dual(bad)
    with pytest.raises(ValueError, match="tangent 必须是实数"):
        Dual(1.0, "1")
    with pytest.raises(ValueError, match="value 必须是实数"):
        Dual(1.0) + "1"
    with pytest.raises(ValueError, match="value 必须是实数"):
        assert Dual(1.0) != "1"
    with pytest.raises(TypeError, match="unhashable"):
        hash(Dual(1.0))
    for value in (0.0, -1.0):
        with pytest.raises(ValueError, match="log 的自变量"):
            Dual(value).log()
    with pytest.raises(ValueError, match=r"-1 次幂在 0\.0 处"):
        1 / Dual(0.0, 1.0)
    with pytest.raises(ValueError, match=r"0\.5 次幂在 0\.0 处"):
        Dual(0.0) ** 0.5
    with pytest.raises(ValueError, match=r"0\.5 次幂在 -1\.0 处"):
        Dual(-1.0) ** 0.5
    with pytest.raises(ValueError, match="power 必须是实数"):
        Dual(2.0) ** Dual(3.0)


def _pair(x):
    a = x[0] * x[1]
    b = a + x[2]
    return [a * b, b.sin()]


def test_dual_jvp__matches_torch_func_jvp() -> None:
    """两个输出、三个输入的函数，与 torch.func.jvp 相同。"""
    x, tangent = [2.0, 3.0, -1.0], [0.5, -1.0, 2.0]

    def f(x: Tensor) -> Tensor:
        return torch.stack(_pair(x))

    _, expected = torch.func.jvp(f, (torch.tensor(x).double(),), (torch.tensor(tangent).double(),))
    for actual, value in zip(dual_jvp(_pair, x, tangent), expected.tolist(), strict=True):
        torch.testing.assert_close(actual, value)


def test_dual_jvp__equals_worked_example() -> None:
    """文中的例子：方向 (1, −1, 2) 给出 (23, 30)。"""

    def f(x: list[Dual]) -> list[Dual]:
        b = x[0] * x[1] + x[2]
        return [x[0] * x[1] * b, b * b]

    assert dual_jvp(f, [2.0, 3.0, -1.0], [1.0, -1.0, 2.0]) == [23, 30]


def test_dual_jvp__equals_iteration_derivative() -> None:
    """带循环的程序：牛顿迭代求平方根，导数收敛到 1/(2√x)。"""

    def root(x: list[Dual]) -> list[Dual]:
        guess = Dual(1.0)
        for _ in range(8):
            guess = (guess + x[0] / guess) * 0.5
        return [guess]

    (slope,) = dual_jvp(root, [2.0], [1.0])
    torch.testing.assert_close(slope, 1 / (2 * math.sqrt(2)))
    assert round(slope, 4) == 0.3536


def test_dual_jvp__rejects_bad_input() -> None:
    """长度不同、输出不是 Dual 时报错。"""
    with pytest.raises(ValueError, match="tangent 必须与 x 一样长"):
        dual_jvp(_pair, [1.0, 2.0, 3.0], [1.0])
    with pytest.raises(ValueError, match="f 的输出"):
        dual_jvp(lambda x: [1.0], [1.0], [1.0])
