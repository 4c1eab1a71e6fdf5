"""有限差分的检验。"""

import math
from itertools import pairwise

import pytest
import scipy.optimize
import torch
from torch import Tensor

from formulary.autograd.finite_differences import (
    central_difference,
    complex_step_derivative,
    forward_difference,
    numerical_jacobian,
    require_positive,
)


def _normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


X = _normal(2, 3)
ONE = torch.tensor(1.0, dtype=torch.float64)


def _slope(f, exact: float, steps: list[float]) -> list[float]:
    errors = [abs(f(torch.sin, ONE, h).item() - exact) for h in steps]
    return [math.log10(a / b) for a, b in pairwise(errors)]


def test_forward_difference__matches_python_loop() -> None:
    """逐个标量算 (sin(x + h) − sin x)/h，相同。"""
    h = 2.0**-10
    expected = [[(math.sin(v + h) - math.sin(v)) / h for v in row] for row in X.tolist()]
    # 标量与向量的 sin 可以差一个末位，除以 h 放大一千倍
    torch.testing.assert_close(
        forward_difference(torch.sin, X, h),
        torch.tensor(expected, dtype=torch.float64),
        rtol=1e-12,
        atol=1e-12,
    )


def test_forward_difference__equals_quadratic_example() -> None:
    """x² 在 3 处，h = 1/2：2x + h = 6.5。"""
    assert forward_difference(torch.square, torch.tensor(3.0), 0.5).item() == 6.5


def test_forward_difference__is_first_order() -> None:
    """步长缩小到十分之一，误差也缩小到约十分之一。"""
    for slope in _slope(forward_difference, math.cos(1), [1e-2, 1e-3, 1e-4, 1e-5]):
        assert abs(slope - 1) < 0.02


def test_forward_difference__rejects_bad_input() -> None:
    """整数、非正的步长、输出的形状不同都报错。"""
    _rejects(forward_difference)


def _rejects(difference) -> None:
    with pytest.raises(ValueError, match="x 必须"):
        difference(torch.sin, torch.arange(3), 0.1)
    for h in (0.0, -1e-3, float("inf"), float("nan"), "1", True):
        with pytest.raises(ValueError, match="h 必须是正的"):
            difference(torch.sin, X, h)
    with pytest.raises(ValueError, match="f 的输出"):
        difference(torch.sum, X, 0.1)
    with pytest.raises(ValueError, match="f 的输出"):
        difference(lambda x: x.sum().reshape(1), torch.tensor(1.0), 0.1)
    with pytest.raises(ValueError, match="f 的输出"):
        difference(lambda x: x.tolist(), X, 0.1)


def test_central_difference__matches_python_loop() -> None:
    """逐个标量算 (sin(x + h) − sin(x − h))/2h，相同。"""
    h = 2.0**-10
    expected = [[(math.sin(v + h) - math.sin(v - h)) / (2 * h) for v in row] for row in X.tolist()]
    # 标量与向量的 sin 可以差一个末位，除以 2h 放大几百倍
    torch.testing.assert_close(
        central_difference(torch.sin, X, h),
        torch.tensor(expected, dtype=torch.float64),
        rtol=1e-12,
        atol=1e-12,
    )


def test_central_difference__equals_cubic_example() -> None:
    """x³ 在 2 处，h = 1/2：3x² + h² = 12.25。"""
    assert central_difference(lambda x: x**3, torch.tensor(2.0), 0.5).item() == 12.25


def test_central_difference__is_second_order() -> None:
    """步长缩小到十分之一，误差缩小到约百分之一；步长小于最好的值之后误差反而变大。"""
    for slope in _slope(central_difference, math.cos(1), [1e-1, 1e-2, 1e-3, 1e-4]):
        assert abs(slope - 2) < 0.02
    errors = {
        k: abs(central_difference(torch.sin, ONE, 10.0**-k).item() - math.cos(1))
        for k in range(1, 13)
    }
    assert min(errors, key=errors.get) == 5
    assert 1.0e-11 < errors[5] < 1.2e-11
    assert errors[12] > 1e5 * errors[5]


def test_central_difference__differs_from_true_step() -> None:
    """恒等函数在 x = 1e6、h = 1e-5 处：x ± h 的舍入使结果偏离 1；除以实际的距离就恰为 1。"""
    x, h = torch.tensor(1e6, dtype=torch.float64), 1e-5
    actual = central_difference(lambda v: v, x, h).item()
    assert 1e-7 < abs(actual - 1) < 1e-5
    above, below = x + h, x - h
    assert ((above - below) / (above - below)).item() == 1
    assert central_difference(lambda v: v, torch.tensor(1e12).double(), h).item() == 0


def test_central_difference__rejects_bad_input() -> None:
    """整数、非正的步长、输出的形状不同都报错。"""
    _rejects(central_difference)


def _vector(x: Tensor) -> Tensor:
    return torch.stack((x[0] * x[1], x[1].sin() + x[2] ** 2))


def test_numerical_jacobian__matches_jacrev() -> None:
    """与反向模式的雅可比矩阵相符。"""
    x = _normal(3, seed=1)
    # 中心差分本身有约 1e-10 的误差
    torch.testing.assert_close(
        numerical_jacobian(_vector, x, 1e-5), torch.func.jacrev(_vector)(x), rtol=1e-8, atol=1e-9
    )


def test_numerical_jacobian__matches_scipy_approx_fprime() -> None:
    """与 scipy 的逐列单边差分相符，行列的次序相同。"""
    x = _normal(3, seed=2)
    expected = torch.from_numpy(
        scipy.optimize.approx_fprime(
            x.numpy(), lambda v: _vector(torch.from_numpy(v)).numpy(), 1e-8
        )
    )
    # scipy 用单边差分，误差约 1e-8
    torch.testing.assert_close(numerical_jacobian(_vector, x, 1e-5), expected, rtol=0, atol=1e-6)


def test_numerical_jacobian__equals_quadratic_example() -> None:
    """双线性的函数没有截断误差：(x_1 x_3, x_2 x_3) 在 (1, 2, 3) 处，h = 1/2 也精确。"""
    actual = numerical_jacobian(lambda x: x[:2] * x[2], torch.tensor([1.0, 2.0, 3.0]), 0.5)
    assert actual.tolist() == [[3, 0, 1], [0, 3, 2]]


def test_numerical_jacobian__equals_two_evaluations_per_input() -> None:
    """数得：n 个输入求值 2n 次。"""
    calls = []
    numerical_jacobian(lambda x: calls.append(1) or x[:2], _normal(7), 1e-5)
    assert len(calls) == 14


def test_numerical_jacobian__rejects_bad_input() -> None:
    """x 与输出都要是浮点向量，步长为正。"""
    with pytest.raises(ValueError, match="x 的形状"):
        numerical_jacobian(_vector, X, 0.1)
    with pytest.raises(ValueError, match="h 必须"):
        numerical_jacobian(_vector, X[0], 0.0)
    with pytest.raises(ValueError, match="f 的输出"):
        numerical_jacobian(torch.sum, X[0], 0.1)


def test_complex_step_derivative__matches_torch_autograd() -> None:
    """解析函数的复数步与 torch.autograd 相同，只差舍入误差。"""

    def f(x: Tensor) -> Tensor:
        return torch.exp(x) * torch.sin(x) / (x * x + 2)

    leaf = X.clone().requires_grad_()
    (expected,) = torch.autograd.grad(f(leaf).sum(), leaf)
    torch.testing.assert_close(complex_step_derivative(f, X), expected)


def test_complex_step_derivative__equals_cosine_without_cancellation() -> None:
    """sin 在 1 处，步长 1e-20，误差不超过一个机器精度；中心差分用这样的步长只得零。"""
    actual = complex_step_derivative(torch.sin, ONE).item()
    assert abs(actual - math.cos(1)) <= torch.finfo(torch.float64).eps
    assert central_difference(torch.sin, ONE, 1e-20).item() == 0


def test_complex_step_derivative__rejects_non_analytic_function() -> None:
    """绝对值不解析：取模之后虚部没有了，本站的写法报错而不是给出零。"""
    with pytest.raises(ValueError, match="复数张量"):
        complex_step_derivative(torch.abs, ONE)


def test_complex_step_derivative__rejects_bad_input() -> None:
    """整数、非正的步长、不是复数的输出都报错。"""
    with pytest.raises(ValueError, match="x 必须"):
        complex_step_derivative(torch.sin, torch.arange(2))
    with pytest.raises(ValueError, match="h 必须"):
        complex_step_derivative(torch.sin, X, -1.0)
    with pytest.raises(ValueError, match="f 的输出"):
        complex_step_derivative(lambda z: z.real, X)
    with pytest.raises(ValueError, match="f 的输出"):
        complex_step_derivative(torch.sum, X)


def test_require_positive__rejects_bad_input() -> None:
    """零、负数、NaN、无穷、布尔值与字符串都不行。"""
    require_positive("h", 1)
    for bad in (0, -1.0, float("nan"), float("inf"), True, "1"):
        with pytest.raises(ValueError, match="h 必须是正的有限实数"):
            require_positive("h", bad)
