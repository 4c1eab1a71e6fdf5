"""黑塞–向量积与二次型的检验。"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from formulary.autograd.higher_order import (
    hvp_central_difference,
    hvp_forward_over_reverse,
    hvp_reverse_over_reverse,
    quadratic_derivatives,
)


def _randn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


MIX = _randn(5, 4)


def _smooth(x: Tensor) -> Tensor:
    """非二次的函数：黑塞矩阵随 x 变，且不是对角的。"""
    return torch.tanh(MIX @ x).pow(3).sum() + x.prod()


def _hessian_by_values(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """只用函数值的二阶中心差分。"""
    h, n = 1e-4, len(x)
    eye = h * torch.eye(n, dtype=x.dtype)
    rows = [
        [
            function(x + eye[i] + eye[j])
            - function(x + eye[i] - eye[j])
            - function(x - eye[i] + eye[j])
            + function(x - eye[i] - eye[j])
            for j in range(n)
        ]
        for i in range(n)
    ]
    return torch.tensor(rows, dtype=x.dtype) / (4 * h * h)


def test_hvp_reverse_over_reverse__matches_explicit_hessian() -> None:
    """等于完整的黑塞矩阵乘 v。"""
    x, v = _randn(4, seed=1), _randn(4, seed=2)
    expected = torch.func.hessian(_smooth)(x) @ v
    torch.testing.assert_close(hvp_reverse_over_reverse(_smooth, x, v), expected)


def test_hvp_reverse_over_reverse__matches_differences_of_values() -> None:
    """等于只用函数值差分出的黑塞矩阵乘 v。"""
    x, v = _randn(4, seed=1), _randn(4, seed=2)
    expected = _hessian_by_values(_smooth, x) @ v
    actual = hvp_reverse_over_reverse(_smooth, x, v)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)  # h = 1e-4 的差分误差


def test_hvp_reverse_over_reverse__is_zero_for_linear_functions() -> None:
    """线性函数的黑塞矩阵是零，不报错。"""
    actual = hvp_reverse_over_reverse(lambda x: 3 * x.sum(), torch.ones(3), torch.ones(3))
    torch.testing.assert_close(actual, torch.zeros(3))


def test_hvp_forward_over_reverse__matches_explicit_hessian() -> None:
    """等于完整的黑塞矩阵乘 v，也等于反向套反向。"""
    x, v = _randn(4, seed=1), _randn(4, seed=2)
    actual = hvp_forward_over_reverse(_smooth, x, v)
    torch.testing.assert_close(actual, torch.func.hessian(_smooth)(x) @ v)
    torch.testing.assert_close(actual, hvp_reverse_over_reverse(_smooth, x, v))


def test_hvp_forward_over_reverse__is_symmetric() -> None:
    """uᵀHv = vᵀHu。"""
    x, u, v = (_randn(4, seed=seed) for seed in (1, 2, 3))
    left = u @ hvp_forward_over_reverse(_smooth, x, v)
    torch.testing.assert_close(left, v @ hvp_forward_over_reverse(_smooth, x, u))


def test_hvp_central_difference__matches_explicit_hessian() -> None:
    """默认步长下与黑塞矩阵乘 v 相差 1e-8 的量级。"""
    x, v = _randn(4, seed=1), _randn(4, seed=2)
    expected = torch.func.hessian(_smooth)(x) @ v
    actual = hvp_central_difference(_smooth, x, v)
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-8)  # 截断与舍入误差


def test_hvp_central_difference__is_second_order() -> None:
    """步长减半，误差减到四分之一。"""
    x, v = _randn(4, seed=1), _randn(4, seed=2)
    exact = torch.func.hessian(_smooth)(x) @ v
    errors = [(hvp_central_difference(_smooth, x, v, step) - exact).norm() for step in (2e-2, 1e-2)]
    assert 3.9 < errors[0] / errors[1] < 4.1


def test_hvp_reverse_over_reverse__equals_hand_example() -> None:
    """f = x₁²x₂ 在 (1, 2)，v = (1, −1)：H = [[4, 2], [2, 0]]，Hv = (2, 2)；三种算法相同。"""
    x, v = torch.tensor([1.0, 2.0]).double(), torch.tensor([1.0, -1.0]).double()

    def function(x: Tensor) -> Tensor:
        return x[0] ** 2 * x[1]

    expected = torch.full((2,), 2.0, dtype=torch.float64)
    torch.testing.assert_close(hvp_reverse_over_reverse(function, x, v), expected)
    torch.testing.assert_close(hvp_forward_over_reverse(function, x, v), expected)
    actual = hvp_central_difference(function, x, v)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)  # 差分的舍入误差


def test_hvp_central_difference__rejects_bad_input() -> None:
    """x 不是一维、v 的长度不符、函数不返回标量、步长不是正数时报错。"""
    with pytest.raises(ValueError, match="x "):
        hvp_central_difference(torch.sum, torch.ones(2, 2), torch.ones(2))
    with pytest.raises(ValueError, match="v "):
        hvp_central_difference(torch.sum, torch.ones(2), torch.ones(3))
    with pytest.raises(ValueError, match="function"):
        hvp_central_difference(torch.sin, torch.ones(2), torch.ones(2))
    with pytest.raises(ValueError, match="step"):
        hvp_central_difference(torch.sum, torch.ones(2), torch.ones(2), step=0.0)


def test_hvp_reverse_over_reverse__rejects_bad_input() -> None:
    """v 的长度不符、函数不返回标量时报错。"""
    with pytest.raises(ValueError, match="v "):
        hvp_reverse_over_reverse(torch.sum, torch.ones(2), torch.ones(3))
    with pytest.raises(ValueError, match="function"):
        hvp_reverse_over_reverse(torch.sin, torch.ones(2), torch.ones(2))


def test_hvp_forward_over_reverse__rejects_bad_input() -> None:
    """v 的长度不符、函数不返回标量时报错。"""
    with pytest.raises(ValueError, match="v "):
        hvp_forward_over_reverse(torch.sum, torch.ones(2), torch.ones(3))
    with pytest.raises(ValueError, match="function"):
        hvp_forward_over_reverse(torch.sin, torch.ones(2), torch.ones(2))


def test_quadratic_derivatives__matches_autograd() -> None:
    """不对称的 A：与 torch.func 的梯度、黑塞矩阵相同。"""
    matrix, x = _randn(3, 3), _randn(3, seed=1)

    def function(x: Tensor) -> Tensor:
        return x @ matrix @ x / 2

    gradient, hessian = quadratic_derivatives(matrix, x)
    torch.testing.assert_close(gradient, torch.func.grad(function)(x))
    torch.testing.assert_close(hessian, torch.func.hessian(function)(x))


def test_quadratic_derivatives__differs_from_unsymmetrized() -> None:
    """写成 Ax 与 A 是错的，除非 A 对称。"""
    matrix, x = _randn(3, 3), _randn(3, seed=1)
    gradient, hessian = quadratic_derivatives(matrix, x)
    assert (gradient - matrix @ x).abs().max() > 0.1
    assert (hessian - matrix).abs().max() > 0.1
    symmetric = matrix + matrix.T
    torch.testing.assert_close(quadratic_derivatives(symmetric, x), (symmetric @ x, symmetric))


def test_quadratic_derivatives__equals_hand_example() -> None:
    """A = [[1, 2], [0, 3]]，x = (1, 1)：梯度 (2, 4)，黑塞矩阵 [[1, 1], [1, 3]]。"""
    gradient, hessian = quadratic_derivatives(
        torch.tensor([[1.0, 2.0], [0.0, 3.0]]), torch.tensor([1.0, 1.0])
    )
    torch.testing.assert_close(gradient, torch.tensor([2.0, 4.0]))
    torch.testing.assert_close(hessian, torch.tensor([[1.0, 1.0], [1.0, 3.0]]))


def test_quadratic_derivatives__rejects_bad_shapes() -> None:
    """A 不是方阵、与 x 长度不符时报错。"""
    for matrix in (torch.ones(2, 3), torch.ones(3, 3)):
        with pytest.raises(ValueError, match="matrix"):
            quadratic_derivatives(matrix, torch.ones(2))
