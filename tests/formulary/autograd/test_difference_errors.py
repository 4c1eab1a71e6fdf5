"""有限差分误差估计的检验。"""

import math

import pytest
import scipy.optimize
import torch

from formulary.autograd.difference_errors import (
    central_difference_error,
    forward_difference_error,
    optimal_central_step,
)
from formulary.autograd.finite_differences import central_difference, forward_difference

EPSILON = torch.finfo(torch.float64).eps
SIN, COS = math.sin(1), math.cos(1)


def _errors(difference, dtype: torch.dtype, steps: list[float]) -> list[float]:
    x = torch.tensor(1.0, dtype=dtype)
    return [abs(difference(torch.sin, x, h).item() - COS) for h in steps]


STEPS = [2.0**-k for k in range(1, 48)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_central_difference_error__bounds_measured_error(dtype: torch.dtype) -> None:
    """sin 在 1 处，实测的误差不超过两部分之和（步长取 2 的幂，x ± h 没有舍入误差）。"""
    epsilon = torch.finfo(dtype).eps
    steps = [h for h in STEPS if h >= epsilon]
    for h, error in zip(steps, _errors(central_difference, dtype, steps), strict=True):
        assert error <= 1.001 * sum(central_difference_error(h, SIN, COS, epsilon)) + epsilon


def test_central_difference_error__matches_truncation_of_exact_arithmetic() -> None:
    """步长大时截断误差占主导，与 cos 1·(1 − sin h / h) 的首项相符。"""
    for h in (0.1, 0.01):
        truncation, rounding = central_difference_error(h, SIN, COS, EPSILON)
        exact = COS * (1 - math.sin(h) / h)
        assert abs(truncation / exact - 1) < h**2 / 10
        assert rounding < 1e-6 * truncation


def test_central_difference_error__equals_hand_values() -> None:
    """h = 1/4，f = −2，f''' = −6，ε = 0.001：截断 1/16，舍入 0.008，符号不影响。"""
    truncation, rounding = central_difference_error(0.25, -2.0, -6.0, 0.001)
    torch.testing.assert_close((truncation, rounding), (0.0625, 0.008))


def test_central_difference_error__rejects_bad_input() -> None:
    """步长与机器精度都要为正。"""
    with pytest.raises(ValueError, match="h 必须"):
        central_difference_error(0.0, 1.0, 1.0, EPSILON)
    with pytest.raises(ValueError, match="epsilon 必须"):
        central_difference_error(0.1, 1.0, 1.0, -EPSILON)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_forward_difference_error__bounds_measured_error(dtype: torch.dtype) -> None:
    """sin 在 1 处，实测的误差不超过两部分之和。"""
    epsilon = torch.finfo(dtype).eps
    steps = [h for h in STEPS if h >= epsilon]
    for h, error in zip(steps, _errors(forward_difference, dtype, steps), strict=True):
        bound = sum(forward_difference_error(h, SIN, SIN, epsilon))
        assert error <= (1 + h) * bound + epsilon


def test_forward_difference_error__matches_truncation_of_exact_arithmetic() -> None:
    """步长大时截断误差占主导，与 e^x 在 0 处的 (e^h − 1)/h − 1 的首项相符。"""
    for h in (0.1, 0.01):
        truncation, rounding = forward_difference_error(h, 1.0, 1.0, EPSILON)
        exact = math.expm1(h) / h - 1
        # 截断误差的次项是首项的 h/3
        torch.testing.assert_close(truncation, exact, rtol=h / 2, atol=0)
        assert rounding < 1e-6 * truncation


def test_forward_difference_error__equals_hand_values() -> None:
    """h = 1/2，f = −2，f'' = −6，ε = 0.001：截断 1.5，舍入 0.008。"""
    actual = forward_difference_error(0.5, -2.0, -6.0, 0.001)
    torch.testing.assert_close(actual, (1.5, 0.008))


def test_forward_difference_error__equals_square_root_rule() -> None:
    """f = f'' 时在 h = 2√ε 处最小，两部分相等，约 1.5e-8·2；是中心差分最小误差的近八百倍。"""
    h = 2 * math.sqrt(EPSILON)
    truncation, rounding = forward_difference_error(h, 1.0, 1.0, EPSILON)
    torch.testing.assert_close(truncation, rounding)
    total = truncation + rounding
    for other in (h / 2, h * 2):
        assert sum(forward_difference_error(other, 1.0, 1.0, EPSILON)) > total
    best = sum(central_difference_error(optimal_central_step(1.0, 1.0, EPSILON), 1.0, 1.0, EPSILON))
    assert f"{h:.1e}" == "3.0e-08"
    assert f"{total:.1e}" == "3.0e-08"
    assert f"{best:.1e}" == "3.8e-11"
    assert 750 < total / best < 800


def test_forward_difference_error__rejects_bad_input() -> None:
    """步长与机器精度都要为正。"""
    with pytest.raises(ValueError, match="h 必须"):
        forward_difference_error(-1.0, 1.0, 1.0, EPSILON)
    with pytest.raises(ValueError, match="epsilon 必须"):
        forward_difference_error(0.1, 1.0, 1.0, 0.0)


def test_optimal_central_step__matches_numerical_minimum() -> None:
    """与 scipy 一维最小化得到的步长相同。"""
    for value, third in ((0.7, -2.0), (-300.0, 0.4)):

        def total(log_h: float, value: float = value, third: float = third) -> float:
            return math.log(sum(central_difference_error(math.exp(log_h), value, third, EPSILON)))

        found = scipy.optimize.minimize_scalar(total, bounds=(-30, 5), options={"xatol": 1e-10})
        # 最小处是平的，只找得到约一半的有效数字
        torch.testing.assert_close(
            optimal_central_step(value, third, EPSILON), math.exp(found.x), rtol=1e-5, atol=0
        )


def test_optimal_central_step__equals_article_numbers() -> None:
    """f = f''' 时 float64 是 8.7e-6、float32 是 7.1e-3；sin 在 1 处是 1.0e-5，误差估计 2.8e-11。"""
    assert f"{optimal_central_step(1.0, 1.0, EPSILON):.1e}" == "8.7e-06"
    assert f"{optimal_central_step(1.0, 1.0, torch.finfo(torch.float32).eps):.1e}" == "7.1e-03"
    step = optimal_central_step(SIN, COS, EPSILON)
    truncation, rounding = central_difference_error(step, SIN, COS, EPSILON)
    assert f"{step:.1e}" == "1.0e-05"
    assert f"{truncation + rounding:.1e}" == "2.8e-11"
    torch.testing.assert_close(rounding, 2 * truncation)


def test_optimal_central_step__rejects_bad_input() -> None:
    """函数值或三阶导数为零时没有最好的步长，机器精度要为正。"""
    with pytest.raises(ValueError, match="value 的绝对值"):
        optimal_central_step(0.0, 1.0, EPSILON)
    with pytest.raises(ValueError, match="third_derivative 的绝对值"):
        optimal_central_step(1.0, 0.0, EPSILON)
    with pytest.raises(ValueError, match="epsilon"):
        optimal_central_step(1.0, 1.0, 0.0)
