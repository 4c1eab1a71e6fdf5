"""广播的伴随的检验。"""

from itertools import product

import pytest
import torch

from formulary.autograd.broadcasting import broadcast_matrix, unbroadcast

SHAPES = [shape for ndim in range(4) for shape in product((1, 2, 3), repeat=ndim)]


def _pairs() -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """轴数不超过 3、每轴 1 到 3 的全部形状里，前者能广播成后者的对。"""
    found = []
    for shape, target in product(SHAPES, repeat=2):
        try:
            if tuple(torch.broadcast_shapes(shape, target)) == target:
                found.append((shape, target))
        except RuntimeError:
            continue
    return found


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def test_unbroadcast__matches_sum_to_size() -> None:
    """轴数不超过 3、每轴 1 到 3 的全部 330 对形状，与 torch 的 sum_to_size 相同。"""
    pairs = _pairs()
    assert len(pairs) == 330
    for number, (shape, target) in enumerate(pairs):
        adjoint = _random(*target, seed=number)
        torch.testing.assert_close(unbroadcast(adjoint, shape), adjoint.sum_to_size(shape))


def test_unbroadcast__matches_torch_autograd() -> None:
    """全部 330 对形状，与 torch 对 expand 求的导数相同。"""
    for number, (shape, target) in enumerate(_pairs()):
        x, adjoint = torch.zeros(shape).double().requires_grad_(), _random(*target, seed=number)
        (expected,) = torch.autograd.grad(x.expand(target), x, adjoint)
        torch.testing.assert_close(unbroadcast(adjoint, shape), expected)


def test_unbroadcast__equals_worked_example() -> None:
    """形状 (2, 1) 广播成 (2, 3)：每行加起来；广播成 (4, 2, 3) 时，再沿补出的轴加 4 份。"""
    adjoint = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert unbroadcast(adjoint, (2, 1)).tolist() == [[6.0], [15.0]]
    assert unbroadcast(adjoint.expand(4, 2, 3), (2, 1)).tolist() == [[24.0], [60.0]]
    assert unbroadcast(adjoint, ()).item() == 21.0


def test_unbroadcast__equals_exercise() -> None:
    """练习：x 是 (3, 1)、y 是 (4,)，L 是 xy 的和；x 的伴随全是 8，y 的全是 6。"""
    x, y = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([1.0, 0.0, 2.0, 5.0])
    adjoint = torch.ones(3, 4)
    assert unbroadcast(adjoint * y, x.shape).tolist() == [[8.0]] * 3
    assert unbroadcast(adjoint * x, y.shape).tolist() == [6.0] * 4


def test_unbroadcast__preserves_pairing() -> None:
    """与广播互为转置：⟨ȳ, 广播 x⟩ = ⟨还原 ȳ, x⟩。"""
    for number, (shape, target) in enumerate(_pairs()):
        x, adjoint = _random(*shape, seed=number), _random(*target, seed=1000 + number)
        left, right = (adjoint * x.expand(target)).sum(), (unbroadcast(adjoint, shape) * x).sum()
        torch.testing.assert_close(left, right)


def test_unbroadcast__differs_from_keeping_the_shape() -> None:
    """(3,) 与 (2, 3) 相加，偏置的伴随若不求和，形状就不对；求平均则小了一半。"""
    adjoint = _random(2, 3)
    assert unbroadcast(adjoint, (3,)).shape != adjoint.shape
    assert not torch.allclose(unbroadcast(adjoint, (3,)), adjoint.mean(0))


def test_unbroadcast__rejects_bad_input() -> None:
    """不能广播的形状、整数伴随都报错。"""
    for shape in ((2,), (3, 1), (1, 2, 3), (0,)):
        with pytest.raises(ValueError, match="不能广播成"):
            unbroadcast(torch.zeros(2, 3), shape)
    with pytest.raises(ValueError, match="adjoint"):
        unbroadcast(torch.zeros(2, 3, dtype=torch.int64), (3,))


def test_broadcast_matrix__matches_torch_expand() -> None:
    """全部 330 对形状：矩阵乘摊平的 x，等于 expand 之后摊平。"""
    for number, (shape, target) in enumerate(_pairs()):
        x = _random(*shape, seed=number)
        matrix = broadcast_matrix(shape, target, dtype=torch.float64)
        torch.testing.assert_close(matrix @ x.flatten(), x.expand(target).flatten())


def test_broadcast_matrix__is_the_transpose_of_unbroadcast() -> None:
    """矩阵的转置乘摊平的伴随，等于 unbroadcast。"""
    for number, (shape, target) in enumerate(_pairs()):
        adjoint = _random(*target, seed=number)
        matrix = broadcast_matrix(shape, target, dtype=torch.float64)
        expected = (matrix.T @ adjoint.flatten()).reshape(shape)
        torch.testing.assert_close(unbroadcast(adjoint, shape), expected)


def test_broadcast_matrix__equals_worked_example() -> None:
    """形状 (3,) 广播成 (2, 3)：两个单位阵上下叠放。"""
    expected = [[1, 0, 0], [0, 1, 0], [0, 0, 1]] * 2
    matrix = broadcast_matrix((3,), (2, 3))
    assert matrix.tolist() == expected
    assert matrix.dtype == torch.float32


def test_broadcast_matrix__rejects_bad_input() -> None:
    """不能广播的形状报错。"""
    with pytest.raises(ValueError, match="不能广播成"):
        broadcast_matrix((2,), (2, 3))
