"""RoPE 的代数性质：对照手写的稠密旋转矩阵、双重循环与自动求导。"""

import math

import pytest
import torch
from torch import Tensor

from formulary.rope.derivation import rotation_matrix
from formulary.rope.properties import (
    RotaryFunction,
    composition,
    inverse_rotations,
    orthogonality,
    shifted_attention,
)

F64 = torch.float64


def dense(position: float, d: int, base: float) -> Tensor:
    """一块一块写出来的旋转矩阵，不用被测代码。"""
    matrix = torch.zeros(d, d, dtype=F64)
    for i in range(d // 2):
        angle = position / base ** (2 * i / d)
        matrix[2 * i, 2 * i] = matrix[2 * i + 1, 2 * i + 1] = math.cos(angle)
        matrix[2 * i, 2 * i + 1] = -math.sin(angle)
        matrix[2 * i + 1, 2 * i] = math.sin(angle)
    return matrix


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def test_orthogonality__matches_loop() -> None:
    """任意方阵（不必正交）的三个量与逐元素的循环、按行展开的行列式一致。"""
    matrix, q = random(3, 3), random(3, seed=1)
    rows, d = matrix.tolist(), range(3)
    gram = [[sum(rows[i][a] * rows[i][b] for i in d) for b in d] for a in d]
    cyclic = ((0, 1, 2), (1, 2, 0), (2, 0, 1))
    determinant = sum(
        rows[0][a] * (rows[1][b] * rows[2][c] - rows[1][c] * rows[2][b]) for a, b, c in cyclic
    )
    norm = math.hypot(*(sum(rows[i][j] * q[j].item() for j in d) for i in d))
    for actual, expected in zip(orthogonality(matrix, q), (gram, determinant, norm), strict=True):
        torch.testing.assert_close(actual, torch.tensor(expected, dtype=F64))


@pytest.mark.parametrize("position", [0.0, 1.0, 2.5, -40.0, 1e4])
def test_orthogonality__preserves_norm(position: float) -> None:
    """任何位置的旋转矩阵上都有 RᵀR = I、det R = 1、范数不变。"""
    q = random(10, seed=1)
    for rotation in (dense(position, 10, 1e4), rotation_matrix(position, 10, dtype=F64)):
        gram, determinant, norm = orthogonality(rotation, q)
        torch.testing.assert_close(gram, torch.eye(10, dtype=F64))
        torch.testing.assert_close(determinant, torch.tensor(1.0, dtype=F64))
        torch.testing.assert_close(norm, torch.linalg.vector_norm(q))


@pytest.mark.parametrize(("rows", "shape"), [(2, (3,)), (3, (2,)), (4, (2, 2)), (2, (2, 2))])
def test_orthogonality__rejects_other_shapes(rows: int, shape: tuple[int, ...]) -> None:
    """矩阵与向量的维数不符时被拒绝。"""
    with pytest.raises(ValueError, match="rotation 须是"):
        orthogonality(torch.eye(rows), torch.ones(shape))


def test_composition__matches_dense_matrices() -> None:
    """两次旋转与一次旋转都与稠密矩阵的乘积一致。"""
    x = random(2, 3, 8, seed=2)
    a, b = torch.tensor([3.0, -7.25, 100.0]), torch.tensor([5.5, 2.0, -100.5])
    twice, once = composition(x, a, b, base=300.0)
    for t in range(3):
        product = dense(a[t].item(), 8, 300.0) @ dense(b[t].item(), 8, 300.0)
        torch.testing.assert_close(twice[:, t], x[:, t] @ product.T)
        torch.testing.assert_close(once[:, t], x[:, t] @ product.T)


def test_composition__equals_one_rotation() -> None:
    """实数位置上 R_s R_t = R_{s+t}，s = -t 时回到原处。"""
    x, a = random(4, 6, seed=3), torch.tensor([0.0, 1.5, -20.0, 999.0])
    b = torch.tensor([4.0, 0.25, 7.0, -3.0])
    twice, once = composition(x, a, b)
    torch.testing.assert_close(twice, once)
    for t in range(4):
        expected = dense(float(a[t] + b[t]), 6, 1e4) @ x[t]
        torch.testing.assert_close(twice[t], expected)
    torch.testing.assert_close(composition(x, a, -a)[0], x)


def test_composition__rejects_positions_of_other_length() -> None:
    """位置的个数与词元数不同时被拒绝。"""
    with pytest.raises(ValueError, match="positions"):
        composition(torch.ones(3, 4), torch.arange(3), torch.arange(2))


def test_inverse_rotations__matches_dense_matrix() -> None:
    """三种写法都是手写的稠密旋转矩阵的逆。"""
    rotation = dense(17.25, 6, 80.0)
    for inverse in inverse_rotations(6, 17.25, base=80.0, dtype=F64):
        torch.testing.assert_close(inverse, torch.linalg.solve(rotation, torch.eye(6, dtype=F64)))


def test_inverse_rotations__is_one_matrix_written_three_ways() -> None:
    """R⁻¹、R_{-t}、Rᵀ 彼此相等，各自与 R 相乘得单位阵。"""
    inverse, backwards, transposed = inverse_rotations(12, -3.5, dtype=F64)
    torch.testing.assert_close(inverse, backwards)
    torch.testing.assert_close(backwards, transposed)
    torch.testing.assert_close(backwards @ transposed.T, torch.eye(12, dtype=F64))
    torch.testing.assert_close(transposed, dense(3.5, 12, 1e4))
    assert inverse_rotations(4, 1.0)[0].dtype == torch.float32


def test_inverse_rotations__rejects_odd_d() -> None:
    """奇数维被拒绝。"""
    with pytest.raises(ValueError, match="d 必须是正偶数"):
        inverse_rotations(5, 1.0)


def test_shifted_attention__matches_loops() -> None:
    """与逐元素写的稠密矩阵注意力一致。"""
    q, k = random(2, 3, 6, seed=4), random(2, 5, 6, seed=5)
    expected = torch.empty(2, 3, 5, dtype=F64)
    for b in range(2):
        for m in range(3):
            row = []
            for n in range(5):
                rotated_q = dense(m + 2.5, 6, 40.0) @ q[b, m]
                rotated_k = dense(n + 2.5, 6, 40.0) @ k[b, n]
                row.append(math.exp(float(rotated_q @ rotated_k) / math.sqrt(6)))
            expected[b, m] = torch.tensor(row, dtype=F64) / sum(row)
    torch.testing.assert_close(shifted_attention(q, k, 2.5, base=40.0), expected)


@pytest.mark.parametrize("shift", [0.0, -3.0, 0.37, 12345.678])
def test_shifted_attention__is_invariant_to_shift(shift: float) -> None:
    """全部位置平移任意步数，注意力权重不变。"""
    q, k = random(2, 7, 16, seed=6), random(2, 9, 16, seed=7)
    expected = torch.softmax(
        torch.stack(
            [
                torch.stack([q[:, m] @ dense(n - m, 16, 1e4) * k[:, n] for n in range(9)], 1)
                for m in range(7)
            ],
            1,
        ).sum(-1)
        / 4,
        dim=-1,
    )
    torch.testing.assert_close(shifted_attention(q, k, shift), expected)


def test_shifted_attention__differs_from_added_positions() -> None:
    """对照：把正弦位置向量加到查询与键上，平移 5 步后权重就变了。"""

    def added(shift: float) -> Tensor:
        angles = (torch.arange(7, dtype=F64) + shift)[:, None] * 1e4 ** -(torch.arange(8) / 8)
        table = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)
        return torch.softmax((q + table) @ (k + table).mT / 4, dim=-1)

    q, k = random(7, 16, seed=8), random(7, 16, seed=9)
    torch.testing.assert_close(shifted_attention(q, k, 5.0), shifted_attention(q, k, 0.0))
    assert (added(5.0) - added(0.0)).abs().max() > 0.1


def test_shifted_attention__rejects_different_d() -> None:
    """查询与键维数不同时被拒绝。"""
    with pytest.raises(ValueError, match="最后一维必须相同"):
        shifted_attention(torch.ones(3, 4), torch.ones(3, 6), 0.0)


def test_RotaryFunction__matches_dense_gradient() -> None:
    """前向是 R_m x，反向把梯度乘以稠密的 R_mᵀ。"""
    x, g = random(2, 3, 4, seed=10).requires_grad_(), random(2, 3, 4, seed=11)
    positions = torch.tensor([0, 4, 9])
    y = RotaryFunction.apply(x, positions, 30.0)
    y.backward(g)
    for t in range(3):
        rotation = dense(positions[t].item(), 4, 30.0)
        torch.testing.assert_close(y[:, t], x[:, t] @ rotation.T)
        torch.testing.assert_close(x.grad[:, t], g[:, t] @ rotation)


def test_RotaryFunction__matches_finite_differences() -> None:
    """一阶与二阶导数都通过有限差分检查。"""
    x, positions = random(3, 6, seed=12).requires_grad_(), torch.tensor([1.5, -2.0, 7.0])
    assert torch.autograd.gradcheck(RotaryFunction.apply, (x, positions, 100.0))
    assert torch.autograd.gradgradcheck(RotaryFunction.apply, (x, positions, 100.0))


def test_RotaryFunction__is_free_of_saved_activations() -> None:
    """反向传播只存了位置：存下的元素数等于词元数，与特征维数无关。"""
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    x, positions = random(5, 3, 8, seed=13).requires_grad_(), torch.arange(3)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        RotaryFunction.apply(x, positions, 1e4)
    assert [tensor.shape for tensor in saved] == [(3,)]


def test_RotaryFunction__is_invariant_to_integer_type() -> None:
    """无符号整数位置的梯度与浮点位置相同，取负不会绕回。"""
    x = random(3, 4, seed=14).requires_grad_()
    gradients = []
    for dtype in (torch.uint8, torch.float64):
        y = RotaryFunction.apply(x, torch.tensor([1, 100, 255]).to(dtype), 1e4)
        gradients.append(torch.autograd.grad(y.square().sum() + y[0, 1], x)[0])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_RotaryFunction__rejects_odd_d() -> None:
    """奇数维被拒绝。"""
    with pytest.raises(ValueError, match="偶数"):
        RotaryFunction.apply(torch.ones(2, 3), torch.arange(2), 1e4)
