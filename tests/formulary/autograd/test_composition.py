"""复合函数的雅可比矩阵与两种扫描次序的检验。"""

import pytest
import torch
from torch import Tensor

from formulary.autograd.composition import (
    compose_jacobian,
    layer_inputs,
    pull_cotangent,
    push_tangent,
)


def _normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


FIRST, SECOND, THIRD = _normal(4, 5, seed=1), _normal(6, 4, seed=2), _normal(3, 6, seed=3)
FUNCTIONS = [
    lambda x: torch.tanh(FIRST @ x),
    lambda x: torch.sin(SECOND @ x),
    lambda x: THIRD @ x.square(),
]
X = _normal(5, seed=4)


def _whole(x: Tensor) -> Tensor:
    for f in FUNCTIONS:
        x = f(x)
    return x


def test_compose_jacobian__matches_jacrev_of_whole_function() -> None:
    """逐层连乘等于对整个复合函数求雅可比矩阵。"""
    torch.testing.assert_close(compose_jacobian(FUNCTIONS, X), torch.func.jacrev(_whole)(X))


def test_compose_jacobian__matches_sum_over_paths() -> None:
    """每个元素等于对中间下标的全部取值求和，各项是沿途偏导数之积。"""
    v1 = FUNCTIONS[0](X)
    v2 = FUNCTIONS[1](v1)
    d1 = [[(1 - v1[k] ** 2) * FIRST[k, j] for j in range(5)] for k in range(4)]
    u = SECOND @ v1
    d2 = [[u[k].cos() * SECOND[k, j] for j in range(4)] for k in range(6)]
    d3 = [[2 * THIRD[i, k] * v2[k] for k in range(6)] for i in range(3)]
    expected = torch.tensor(
        [
            [
                sum(d3[i][b] * d2[b][a] * d1[a][j] for a in range(4) for b in range(6)).item()
                for j in range(5)
            ]
            for i in range(3)
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(compose_jacobian(FUNCTIONS, X), expected)


def test_compose_jacobian__equals_worked_example() -> None:
    """文中手算的例子：三个局部雅可比连乘得到 (33, 22, 6) 与 (30, 20, 10)。"""
    functions = [
        lambda x: torch.stack((x[0] * x[1], x[2])),
        lambda v: torch.stack((v[0], v[0] + v[1])),
        lambda v: torch.stack((v[0] * v[1], v[1] * v[1])),
    ]
    x = torch.tensor([2.0, 3.0, -1.0], dtype=torch.float64)
    assert compose_jacobian(functions, x).tolist() == [[33, 22, 6], [30, 20, 10]]
    locals_ = [
        compose_jacobian([f], value).tolist()
        for f, value in zip(functions, layer_inputs(functions, x), strict=False)
    ]
    assert locals_ == [[[3, 2, 0], [0, 0, 1]], [[1, 0], [1, 1]], [[5, 6], [0, 10]]]


def test_compose_jacobian__differs_from_wrong_evaluation_point() -> None:
    """各层的雅可比都在 x 处取值是错的：要在那一层自己的输入处取值。"""
    functions = [lambda x: x.square(), lambda x: x.sin()]
    x = torch.tensor([0.5, 2.0], dtype=torch.float64)
    wrong = torch.func.jacrev(functions[1])(x) @ torch.func.jacrev(functions[0])(x)
    right = compose_jacobian(functions, x)
    torch.testing.assert_close(right, (2 * x * x.square().cos()).diag())
    assert (right - wrong).abs().max() > 0.1


def test_compose_jacobian__rejects_bad_input() -> None:
    """没有函数、输入不是浮点向量、某层输出不是向量时报错。"""
    with pytest.raises(ValueError, match="functions 至少"):
        compose_jacobian([], X)
    with pytest.raises(ValueError, match="x 必须"):
        compose_jacobian(FUNCTIONS, torch.arange(5))
    with pytest.raises(ValueError, match="f 的输出"):
        compose_jacobian([torch.sum], X)


def test_layer_inputs__matches_loop() -> None:
    """依次是 x、f_1(x)、f_2(f_1(x))……"""
    expected = [X]
    for f in FUNCTIONS:
        expected.append(f(expected[-1]))
    for actual, value in zip(layer_inputs(FUNCTIONS, X), expected, strict=True):
        torch.testing.assert_close(actual, value)


def test_push_tangent__matches_torch_func_jvp() -> None:
    """逐层推切向量等于整个函数的 JVP。"""
    tangent = _normal(5, seed=5)
    _, expected = torch.func.jvp(_whole, (X,), (tangent,))
    torch.testing.assert_close(push_tangent(FUNCTIONS, X, tangent), expected)


def test_push_tangent__equals_column_of_product() -> None:
    """切向量取单位向量，得到连乘矩阵的一列。"""
    jacobian = compose_jacobian(FUNCTIONS, X)
    for j, unit in enumerate(torch.eye(5, dtype=torch.float64)):
        torch.testing.assert_close(push_tangent(FUNCTIONS, X, unit), jacobian[:, j])


def test_push_tangent__rejects_bad_input() -> None:
    """没有函数、切向量的形状不对时报错。"""
    with pytest.raises(ValueError, match="functions 至少"):
        push_tangent([], X, X)
    with pytest.raises(ValueError, match="tangent 的形状"):
        push_tangent(FUNCTIONS, X, X[:4])


def test_pull_cotangent__matches_torch_func_vjp() -> None:
    """逐层拉伴随等于整个函数的 VJP。"""
    cotangent = _normal(3, seed=6)
    _, pull = torch.func.vjp(_whole, X)
    torch.testing.assert_close(pull_cotangent(FUNCTIONS, X, cotangent), pull(cotangent)[0])


def test_pull_cotangent__equals_row_of_product() -> None:
    """伴随取单位向量，得到连乘矩阵的一行。"""
    jacobian = compose_jacobian(FUNCTIONS, X)
    for i, unit in enumerate(torch.eye(3, dtype=torch.float64)):
        torch.testing.assert_close(pull_cotangent(FUNCTIONS, X, unit), jacobian[i])


def test_pull_cotangent__rejects_bad_input() -> None:
    """没有函数、伴随的形状不对时报错。"""
    with pytest.raises(ValueError, match="functions 至少"):
        pull_cotangent([], X, X)
    with pytest.raises(ValueError, match="cotangent 的形状"):
        pull_cotangent(FUNCTIONS, X, X)
