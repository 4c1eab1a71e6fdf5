"""手写引擎的高阶导数的检验。"""

import math

import pytest
import torch

from formulary.autograd.tape_derivatives import repeated_derivative, tape_hessian

X = torch.tensor([-0.7, 0.2, 1.3], dtype=torch.float64)


def _mixed(x):
    """本引擎与 torch 都能算的一个标量函数。"""
    return (x.tanh() * x.sum() + (x * x + 1).log()).sum() ** 2 + x.exp().sum()


def test_repeated_derivative__matches_closed_forms() -> None:
    """exp 的各阶都是 exp；log 的 k 阶是 (−1)^(k−1)(k−1)!/x^k。"""
    for k in range(5):
        torch.testing.assert_close(repeated_derivative(lambda x: x.exp(), X, k), X.exp())
    x = X.abs()
    for k in range(1, 5):
        expected = (-1) ** (k - 1) * math.factorial(k - 1) / x**k
        torch.testing.assert_close(repeated_derivative(lambda x: x.log(), x, k), expected)


def test_repeated_derivative__matches_torch_func() -> None:
    """tanh 与 sigmoid 的一到四阶导数，与反复套 torch.func.grad 相同。"""
    for name in ("tanh", "sigmoid"):
        function = lambda x, name=name: getattr(x, name)()  # noqa: E731
        derivative = function
        for k in range(1, 5):
            derivative = torch.func.grad(derivative)
            expected = torch.func.vmap(derivative)(X)
            torch.testing.assert_close(repeated_derivative(function, X, k), expected)


def test_repeated_derivative__equals_cubic_example() -> None:
    """x³ 在 2 处：值 8，导数依次是 12、12、6、0、0。"""
    two = torch.tensor(2.0)
    found = [repeated_derivative(lambda x: x**3, two, k).item() for k in range(6)]
    assert found == [8.0, 12.0, 12.0, 6.0, 0.0, 0.0]


def test_repeated_derivative__limit_relu() -> None:
    """relu 分段线性，二阶导数处处取零。"""
    zero = torch.zeros(3, dtype=torch.float64)
    torch.testing.assert_close(repeated_derivative(lambda x: x.relu(), X, 2), zero)


def test_repeated_derivative__rejects_bad_input() -> None:
    """阶数为负、整数的点、改变形状的函数都报错。"""
    with pytest.raises(ValueError, match="order"):
        repeated_derivative(lambda x: x, X, -1)
    with pytest.raises(ValueError, match="x 必须"):
        repeated_derivative(lambda x: x, torch.ones(2, dtype=torch.int64), 1)
    with pytest.raises(ValueError, match="保持形状"):
        repeated_derivative(lambda x: x.sum(), X, 1)


def test_tape_hessian__matches_torch_func_hessian() -> None:
    """一个各分量互相耦合的函数，与 torch.func.hessian 相同。"""
    torch.testing.assert_close(tape_hessian(_mixed, X), torch.func.hessian(_mixed)(X))


def test_tape_hessian__matches_second_differences() -> None:
    """与函数值的二阶中心差分相符。"""
    h, n = 1e-4, len(X)
    basis = h * torch.eye(n, dtype=torch.float64)
    expected = torch.empty(n, n, dtype=torch.float64)
    for i in range(n):
        for j in range(n):
            corners = [
                _mixed(X + s * basis[i] + t * basis[j]) * s * t for s in (1, -1) for t in (1, -1)
            ]
            expected[i, j] = sum(corners) / (4 * h * h)
    # 截断误差约 h²，舍入误差约 ε/h² ≈ 2e-8 乘以函数值的大小
    torch.testing.assert_close(tape_hessian(_mixed, X), expected, atol=1e-5, rtol=1e-5)


def test_tape_hessian__is_symmetric() -> None:
    """黑塞矩阵对称。"""
    found = tape_hessian(_mixed, X)
    torch.testing.assert_close(found, found.T)


def test_tape_hessian__equals_worked_example() -> None:
    """L = a²b² + a²b 在 (2, 3) 处：二阶导数 2b² + 2b = 24，4ab + 2a = 28，2a² = 8。"""
    pick = torch.eye(2, dtype=torch.float64)

    def loss(x):
        a, b = ((x * type(x)(row)).sum() for row in pick)
        return a * b * (a * b + a)

    found = tape_hessian(loss, torch.tensor([2.0, 3.0], dtype=torch.float64))
    assert found.tolist() == [[24.0, 28.0], [28.0, 8.0]]


def test_tape_hessian__limit_linear() -> None:
    """线性函数的黑塞矩阵是零。"""
    assert tape_hessian(lambda x: (3 * x).sum(), X).tolist() == [[0.0] * 3] * 3


def test_tape_hessian__rejects_bad_input() -> None:
    """不是一维的点、不止一个元素的结果都报错。"""
    with pytest.raises(ValueError, match="x 的形状"):
        tape_hessian(lambda x: x.sum(), torch.ones(2, 2))
    with pytest.raises(ValueError, match="不是标量"):
        tape_hessian(lambda x: x * x, X)
