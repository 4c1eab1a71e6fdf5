"""对一步梯度下降求导的检验。"""

import pytest
import torch
from torch import Tensor

from formulary.autograd.meta_gradient import (
    meta_gradient,
    meta_gradient_by_hvp,
    meta_gradient_quadratic,
)


def _randn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _smooth(theta: Tensor) -> Tensor:
    return torch.tanh(_randn(5, 3) @ theta).pow(2).sum() + theta.pow(4).sum()


def _analytic_gradient(theta: Tensor) -> Tensor:
    y = torch.tanh(_randn(5, 3) @ theta)
    return _randn(5, 3).T @ (2 * y * (1 - y**2)) + 4 * theta**3


def test_meta_gradient__matches_central_difference() -> None:
    """对“走一步之后的损失”逐个分量差分；内层梯度用手推的式子。"""
    theta, step_size = _randn(3, seed=1), 0.07

    def after(theta: Tensor) -> Tensor:
        return _smooth(theta - step_size * _analytic_gradient(theta))

    eye = 1e-5 * torch.eye(3, dtype=torch.float64)
    expected = torch.stack([(after(theta + e) - after(theta - e)) / 2e-5 for e in eye])
    actual = meta_gradient(_smooth, theta, step_size)
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-8)  # 差分误差


def test_meta_gradient__equals_hand_example() -> None:
    """L = θ²/2，θ = 1，α = 0.1：(1 − α)·1·(1 − α) = 0.81。"""
    theta = torch.ones(1, dtype=torch.float64)
    actual = meta_gradient(lambda t: t.square().sum() / 2, theta, 0.1)
    torch.testing.assert_close(actual, torch.full_like(theta, 0.81))


def test_meta_gradient__differs_from_first_order() -> None:
    """内层梯度不带图时，得到走完那一点的梯度 0.9，少乘了 I − αH。"""
    theta = torch.ones(1, dtype=torch.float64, requires_grad=True)
    (inner,) = torch.autograd.grad(theta.square().sum() / 2, theta)
    loss = (theta - 0.1 * inner).square().sum() / 2
    first_order = torch.autograd.grad(loss, theta)[0]
    torch.testing.assert_close(first_order, torch.full((1,), 0.9, dtype=torch.float64))
    full = meta_gradient(lambda t: t.square().sum() / 2, theta, 0.1)
    assert (full - first_order).abs() > 0.08


def test_meta_gradient__limit_of_zero_step() -> None:
    """α = 0 时就是普通的梯度。"""
    theta = _randn(3, seed=1)
    torch.testing.assert_close(meta_gradient(_smooth, theta, 0.0), _analytic_gradient(theta))


def test_meta_gradient__rejects_bad_input() -> None:
    """theta 不是一维浮点张量、函数不返回标量时报错。"""
    with pytest.raises(ValueError, match="theta"):
        meta_gradient(torch.sum, torch.ones(2, 2), 0.1)
    with pytest.raises(ValueError, match="function"):
        meta_gradient(torch.sin, torch.ones(2), 0.1)


def test_meta_gradient_by_hvp__matches_meta_gradient() -> None:
    """(I − αH)g′ 与让自动求导穿过一步得到的相同。"""
    theta = _randn(3, seed=1)
    actual = meta_gradient_by_hvp(_smooth, theta, 0.07)
    torch.testing.assert_close(actual, meta_gradient(_smooth, theta, 0.07))


def test_meta_gradient_by_hvp__matches_explicit_hessian() -> None:
    """黑塞矩阵取在走之前的点，g′ 取在走之后的点。"""
    theta, step_size = _randn(3, seed=1), 0.07
    hessian = torch.func.jacrev(_analytic_gradient)(theta)
    after = _analytic_gradient(theta - step_size * _analytic_gradient(theta))
    expected = (torch.eye(3, dtype=torch.float64) - step_size * hessian) @ after
    torch.testing.assert_close(meta_gradient_by_hvp(_smooth, theta, step_size), expected)


def test_meta_gradient_by_hvp__equals_hand_example() -> None:
    """L = θ²/2，θ = 1，α = 0.1：0.81。"""
    theta = torch.ones(1, dtype=torch.float64)
    actual = meta_gradient_by_hvp(lambda t: t.square().sum() / 2, theta, 0.1)
    torch.testing.assert_close(actual, torch.full_like(theta, 0.81))


def test_meta_gradient_by_hvp__rejects_bad_input() -> None:
    """theta 不是一维浮点张量、函数不返回标量时报错。"""
    with pytest.raises(ValueError, match="theta"):
        meta_gradient_by_hvp(torch.sum, torch.ones(2, 2), 0.1)
    with pytest.raises((ValueError, RuntimeError)):
        meta_gradient_by_hvp(torch.sin, torch.ones(2), 0.1)


def test_meta_gradient_quadratic__matches_autograd() -> None:
    """二次型的闭式与让自动求导穿过一步得到的相同。"""
    root, theta = _randn(4, 4), _randn(4, seed=1)
    matrix = root + root.T
    expected = meta_gradient(lambda t: t @ matrix @ t / 2, theta, 0.3)
    torch.testing.assert_close(meta_gradient_quadratic(matrix, theta, 0.3), expected)


def test_meta_gradient_quadratic__equals_diagonal_example() -> None:
    """Q = diag(1, 3)，θ = (1, 1)，α = 1/2：(1/4, 3/4)；一阶近似是 (1/2, −3/2)。"""
    scales = torch.tensor([1.0, 3.0])
    actual = meta_gradient_quadratic(torch.diag(scales), torch.ones(2), 0.5)
    torch.testing.assert_close(actual, torch.tensor([0.25, 0.75]))
    moved = (torch.ones(2) - 0.5 * scales).requires_grad_()  # 走一步：(1/2, −1/2)
    (first_order,) = torch.autograd.grad((scales * moved.square()).sum() / 2, moved)
    torch.testing.assert_close(first_order, torch.tensor([0.5, -1.5]))


def test_meta_gradient_quadratic__rejects_bad_matrices() -> None:
    """Q 不对称、形状不符时报错。"""
    with pytest.raises(ValueError, match="必须对称"):
        meta_gradient_quadratic(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.ones(2), 0.1)
    with pytest.raises(ValueError, match="matrix"):
        meta_gradient_quadratic(torch.ones(3, 3), torch.ones(2), 0.1)
