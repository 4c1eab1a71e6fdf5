"""矩阵的局部规则的检验。"""

import math

import pytest
import torch
from torch import Tensor

from formulary.autograd.matrix_rules import inverse_vjp, invert, logdet_gradient

EXAMPLE = torch.tensor([[3.0, 1.0], [4.0, 2.0]], dtype=torch.float64)


def _normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def _gradient(f, matrix: Tensor, cotangent: Tensor | None = None) -> Tensor:
    leaf = matrix.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(f(leaf), leaf, cotangent)
    return gradient


def test_inverse_vjp__matches_torch_autograd() -> None:
    """与对 torch.linalg.inv 求导相同。"""
    matrix, cotangent = _normal(4, 4, seed=5), _normal(4, 4, seed=6)
    expected = _gradient(torch.linalg.inv, matrix, cotangent)
    torch.testing.assert_close(inverse_vjp(matrix, cotangent), expected)


def test_inverse_vjp__limit_one_by_one() -> None:
    """一阶时就是 1/a 的导数 −1/a²。"""
    actual = inverse_vjp(torch.tensor([[-4.0]]), torch.tensor([[3.0]]))
    torch.testing.assert_close(actual, torch.tensor([[-3 / 16]]))


def test_inverse_vjp__equals_exercise() -> None:
    """练习：A = ((3, 1), (4, 2))，伴随是单位阵，结果 (−2, 5; 1.25, −3.25)。"""
    actual = inverse_vjp(EXAMPLE, torch.eye(2, dtype=torch.float64))
    expected = torch.tensor([[-2.0, 5.0], [1.25, -3.25]], dtype=torch.float64)
    torch.testing.assert_close(actual, expected)


def test_inverse_vjp__rejects_bad_input() -> None:
    """奇异、不是方阵、伴随的形状不对都报错。"""
    with pytest.raises(ValueError, match="matrix 必须可逆"):
        inverse_vjp(torch.ones(2, 2), torch.ones(2, 2))
    with pytest.raises(ValueError, match="matrix 必须是方阵"):
        inverse_vjp(torch.ones(2, 3), torch.ones(2, 3))
    with pytest.raises(ValueError, match="cotangent 的形状"):
        inverse_vjp(torch.eye(2), torch.ones(3, 3))


def test_invert__matches_hand_inverse() -> None:
    """二阶的逆：(1, −1/2; −2, 3/2)。"""
    expected = torch.tensor([[1.0, -0.5], [-2.0, 1.5]], dtype=torch.float64)
    torch.testing.assert_close(invert("A", EXAMPLE), expected)


def test_invert__rejects_singular_matrix() -> None:
    """奇异或不是方阵就报错，说出参数名。"""
    with pytest.raises(ValueError, match="A 必须可逆"):
        invert("A", torch.zeros(2, 2))
    with pytest.raises(ValueError, match="A 必须是方阵"):
        invert("A", torch.zeros(2, 3))


def test_logdet_gradient__matches_torch_autograd() -> None:
    """与对 slogdet 的对数部分求导相同，行列式为负的也一样；为正时等于对 logdet 求导。"""
    signs = set()
    for seed in range(6):
        matrix = _normal(4, 4, seed=seed)
        sign = torch.linalg.slogdet(matrix).sign.item()
        signs.add(sign)
        expected = _gradient(lambda a: torch.linalg.slogdet(a).logabsdet, matrix)
        torch.testing.assert_close(logdet_gradient(matrix), expected)
        if sign > 0:
            torch.testing.assert_close(logdet_gradient(matrix), _gradient(torch.logdet, matrix))
    assert signs == {-1.0, 1.0}


def test_logdet_gradient__equals_cofactors_over_determinant() -> None:
    """等于代数余子式除以行列式，行列式由递归展开求得；正负的行列式都有。"""

    def determinant(rows: list[list[float]]) -> float:
        if not rows:
            return 1.0
        return sum(rows[0][j] * cofactor(rows, 0, j) for j in range(len(rows)))

    def cofactor(rows: list[list[float]], i: int, j: int) -> float:
        minor = [row[:j] + row[j + 1 :] for k, row in enumerate(rows) if k != i]
        return (-1) ** (i + j) * determinant(minor)

    signs = set()
    for seed in range(6):
        rows = _normal(4, 4, seed=seed).tolist()
        signs.add(math.copysign(1, determinant(rows)))
        expected = [[cofactor(rows, i, j) / determinant(rows) for j in range(4)] for i in range(4)]
        matrix = torch.tensor(rows, dtype=torch.float64)
        torch.testing.assert_close(
            logdet_gradient(matrix), torch.tensor(expected, dtype=torch.float64)
        )
    assert signs == {-1.0, 1.0}


def test_logdet_gradient__equals_exercise() -> None:
    """练习：A = ((3, 1), (4, 2))，行列式是 2：梯度 (1, −2; −1/2, 3/2)。"""
    expected = torch.tensor([[1.0, -2.0], [-0.5, 1.5]], dtype=torch.float64)
    torch.testing.assert_close(logdet_gradient(EXAMPLE), expected)


def test_logdet_gradient__differs_from_symmetric_formula() -> None:
    """对称矩阵只有三个自由参数时，导数是 2A⁻¹ 减对角部分；torch 把四个元素看作独立的，给出 A⁻¹。"""
    matrix = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    torch.testing.assert_close(_gradient(torch.logdet, matrix), logdet_gradient(matrix))

    def by_parameters(p: Tensor) -> Tensor:
        return torch.logdet(torch.stack((p[0], p[1], p[1], p[2])).view(2, 2))

    free = _gradient(by_parameters, torch.tensor([2.0, 1.0, 3.0], dtype=torch.float64))
    inverse = torch.linalg.inv(matrix)
    symmetric = 2 * inverse - inverse.diag().diag()
    torch.testing.assert_close(
        free, torch.stack((symmetric[0, 0], symmetric[0, 1], symmetric[1, 1]))
    )
    torch.testing.assert_close(free, torch.tensor([0.6, -0.4, 0.4], dtype=torch.float64))
    torch.testing.assert_close(logdet_gradient(matrix)[0, 1].item(), -0.2)


def test_logdet_gradient__rejects_bad_input() -> None:
    """奇异或不是方阵就报错。"""
    with pytest.raises(ValueError, match="matrix 必须可逆"):
        logdet_gradient(torch.ones(3, 3))
    with pytest.raises(ValueError, match="matrix 必须是方阵"):
        logdet_gradient(torch.ones(2, 3))
