"""生成元与标准形：对照手写矩阵、有限差分、scipy 的矩阵指数、矩阵对数与实 Schur 分解。"""

import math

import pytest
import scipy.linalg
import torch
from torch import Tensor

from formulary.rope.generators import (
    bch_exponent,
    canonical_form,
    canonical_scores,
    exponential_rotation,
    generator,
    orthogonal_scores,
    rotation_velocity,
)

F64 = torch.float64


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def blocks(angles: list[float]) -> Tensor:
    """一块一块写出来的分块旋转矩阵。"""
    matrix = torch.zeros(2 * len(angles), 2 * len(angles), dtype=F64)
    for i, angle in enumerate(angles):
        matrix[2 * i, 2 * i] = matrix[2 * i + 1, 2 * i + 1] = math.cos(angle)
        matrix[2 * i, 2 * i + 1] = -math.sin(angle)
        matrix[2 * i + 1, 2 * i] = math.sin(angle)
    return matrix


def random_orthogonal(d: int, determinant: int, seed: int) -> Tensor:
    matrix = torch.linalg.qr(random(d, d, seed=seed)).Q
    if torch.linalg.det(matrix) * determinant < 0:
        matrix[:, 0] *= -1
    return matrix


def naive_power(matrix: Tensor, n: int) -> Tensor:
    """连乘出来的整数次幂；负数次幂用转置连乘。"""
    result = torch.eye(len(matrix), dtype=F64)
    for _ in range(abs(n)):
        result = result @ (matrix if n > 0 else matrix.T)
    return result


def test_generator__matches_finite_difference() -> None:
    """B 是手写旋转矩阵在位置 0 处的中心差商。"""
    theta, step = [1.0, 60.0 ** (-1 / 3), 60.0 ** (-2 / 3)], 1e-4
    forward, backward = (blocks([sign * step * t for t in theta]) for sign in (1, -1))
    # 中心差商的截断误差是 h²/6 量级，h = 1e-4 时约 2e-9
    torch.testing.assert_close(
        generator(6, base=60.0, dtype=F64), (forward - backward) / (2 * step), atol=5e-9, rtol=0
    )


def test_generator__is_antisymmetric() -> None:
    """Bᵀ = -B，且 B² 是对角阵，对角元是 -θ_i²，每个出现两次。"""
    velocity = generator(8, base=16.0, dtype=F64)
    torch.testing.assert_close(velocity.T, -velocity)
    squares = torch.tensor([1.0, 1.0, 1 / 4, 1 / 4, 1 / 16, 1 / 16, 1 / 64, 1 / 64], dtype=F64)
    torch.testing.assert_close(velocity @ velocity, -torch.diag(squares))


def test_generator__equals_slow_block() -> None:
    """默认底数 10000、d = 4：第 1 块的角速度是 0.01，默认返回 float32。"""
    expected = torch.tensor(
        [[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, -0.01], [0, 0, 0.01, 0]], dtype=torch.float32
    )
    torch.testing.assert_close(generator(4), expected)


def test_generator__rejects_odd_d() -> None:
    """奇数维被拒绝。"""
    with pytest.raises(ValueError, match="d 必须是正偶数"):
        generator(3)


def test_rotation_velocity__matches_finite_difference() -> None:
    """导数与手写旋转矩阵的中心差商一致。"""
    theta, t, step = [1.0, 0.2], 3.3, 1e-4
    forward, backward = (blocks([(t + s * step) * x for x in theta]) for s in (1, -1))
    expected = (forward - backward) / (2 * step)
    for side in rotation_velocity(4, t, base=25.0, dtype=F64):
        # 中心差商的截断误差是 h²/6 量级，h = 1e-4 时约 2e-9
        torch.testing.assert_close(side, expected, atol=5e-9, rtol=0)


def test_rotation_velocity__equals_generator_times_rotation() -> None:
    """自动求导得到的 dR/dt 与 B R_t 相等。"""
    derivative, product = rotation_velocity(10, -7.0, dtype=F64)
    torch.testing.assert_close(derivative, product)


def test_rotation_velocity__limit_zero_position() -> None:
    """位置 0 处的导数就是生成元：默认底数 10000、d = 4，默认返回 float32。"""
    for side in rotation_velocity(4, 0.0):
        assert side.dtype == torch.float32
        torch.testing.assert_close(side[2:, 2:], torch.tensor([[0.0, -0.01], [0.01, 0.0]]))


def test_rotation_velocity__rejects_odd_d() -> None:
    """奇数维被拒绝。"""
    with pytest.raises(ValueError, match="d 必须是正偶数"):
        rotation_velocity(7, 0.0)


@pytest.mark.parametrize("position", [17.0, -2.5])
def test_exponential_rotation__matches_scipy_expm(position: float) -> None:
    """与 scipy 对手写生成元求的矩阵指数一致。"""
    velocity = torch.zeros(6, 6, dtype=F64)
    for i in range(3):
        velocity[2 * i + 1, 2 * i] = 1000.0 ** (-i / 3)
        velocity[2 * i, 2 * i + 1] = -(1000.0 ** (-i / 3))
    expected = torch.from_numpy(scipy.linalg.expm(position * velocity.numpy()))
    actual = exponential_rotation(6, position, base=1000.0, dtype=F64)
    torch.testing.assert_close(actual, expected)


def test_exponential_rotation__equals_blocks_of_cosines() -> None:
    """手算一例（d = 4、b = 100、n = 10）：两块的转角是 10 与 1 弧度。"""
    actual = exponential_rotation(4, 10.0, base=100.0, dtype=F64)
    torch.testing.assert_close(actual, blocks([10.0, 1.0]))


def test_exponential_rotation__equals_slow_block() -> None:
    """默认底数 10000、d = 4、n = 100：第 1 块转 1 弧度，默认返回 float32。"""
    block = exponential_rotation(4, 100.0)[2:, 2:]
    torch.testing.assert_close(block, blocks([1.0]).float())


def test_exponential_rotation__rejects_odd_d() -> None:
    """奇数维被拒绝。"""
    with pytest.raises(ValueError, match="d 必须是正偶数"):
        exponential_rotation(3, 1.0)


def test_bch_exponent__matches_scipy_logm() -> None:
    """与矩阵对数之差是三阶小量：把 B 缩小一半，差缩小到八分之一。"""
    velocity, errors = 0.02 * random(4, 4, seed=1), []
    for matrix in (velocity, velocity / 2):
        product = torch.linalg.matrix_exp(3 * matrix.T) @ torch.linalg.matrix_exp(2 * matrix)
        exact = torch.from_numpy(scipy.linalg.logm(product.numpy()))
        errors.append((bch_exponent(matrix, 3.0, 2.0) - exact).abs().max())
    assert errors[0] < 1e-3 < bch_exponent(velocity, 3.0, 2.0).abs().max()
    assert 7.0 < errors[0] / errors[1] < 9.0


def test_bch_exponent__equals_relative_exponent_when_antisymmetric() -> None:
    """B 反对称时交换子为零，指数恰为 (n-m)B，两个指数之积只依赖 n-m。"""
    half = random(5, 5, seed=2)
    velocity = half - half.T
    torch.testing.assert_close(bch_exponent(velocity, 3.5, -2.0), -5.5 * velocity)
    product = torch.linalg.matrix_exp(1.5 * velocity.T) @ torch.linalg.matrix_exp(0.5 * velocity)
    torch.testing.assert_close(product, torch.linalg.matrix_exp(-1.0 * velocity))


def test_bch_exponent__differs_from_relative_exponent_with_symmetric_part() -> None:
    """反对称阵加上一点对称的扰动，乘积就不再只依赖 n-m。"""
    half = 0.3 * random(4, 4, seed=3)
    velocity = half - half.T + 0.05 * (half + half.T)
    assert (bch_exponent(velocity, 2.0, 3.0) - velocity).abs().max() > 1e-2
    here, there = (
        torch.linalg.matrix_exp(m * velocity.T) @ torch.linalg.matrix_exp((m + 1) * velocity)
        for m in (0, 2)
    )
    assert (here - there).abs().max() > 1e-2


def test_bch_exponent__rejects_non_square() -> None:
    """不是方阵的矩阵被拒绝。"""
    with pytest.raises(ValueError, match="matrix 必须是方阵"):
        bch_exponent(torch.ones(2, 3), 1.0, 1.0)


@pytest.mark.parametrize("determinant", [1, -1])
@pytest.mark.parametrize(("m", "n"), [(0, 0), (5, 2), (2, 6), (-3, 4)])
def test_orthogonal_scores__matches_repeated_products(determinant: int, m: int, n: int) -> None:
    """任意正交矩阵（行列式为 1 或 -1）的两种写法都与连乘的结果一致。"""
    q, k, matrix = random(5, seed=4), random(5, seed=5), random_orthogonal(5, determinant, seed=6)
    expected = (naive_power(matrix, m) @ q) @ (naive_power(matrix, n) @ k)
    for score in orthogonal_scores(q, k, matrix, m, n):
        torch.testing.assert_close(score, expected)


def test_orthogonal_scores__depends_only_on_difference() -> None:
    """两个位置同时加 11，内积不变；换成不正交的矩阵就不成立。"""
    q, k, matrix = random(6, seed=7), random(6, seed=8), random_orthogonal(6, 1, seed=9)
    near, far = (orthogonal_scores(q, k, matrix, 2 + t, 7 + t)[0] for t in (0, 11))
    torch.testing.assert_close(near, far)
    stretched = 1.1 * matrix
    near, far = (orthogonal_scores(q, k, stretched, 2 + t, 7 + t)[0] for t in (0, 11))
    assert (near - far).abs() > 0.1


def test_orthogonal_scores__equals_alternating_signs_for_reflection() -> None:
    """反射 diag(1, -1)：第二维的贡献带因子 (-1)^(n-m)。"""
    q, k = torch.tensor([2.0, 3.0], dtype=F64), torch.tensor([5.0, 7.0], dtype=F64)
    reflection = torch.diag(torch.tensor([1.0, -1.0], dtype=F64))
    for m, n in ((0, 3), (1, 4), (2, 4)):
        expected = torch.tensor(10.0 + 21.0 * (-1) ** (n - m), dtype=F64)
        for score in orthogonal_scores(q, k, reflection, m, n):
            torch.testing.assert_close(score, expected)


def test_orthogonal_scores__rejects_other_shape() -> None:
    """矩阵与向量的维数不符时被拒绝。"""
    with pytest.raises(ValueError, match="matrix 的形状"):
        orthogonal_scores(torch.ones(3), torch.ones(3), torch.eye(4), 0, 1)


@pytest.mark.parametrize("d", [2, 6, 16])
def test_canonical_form__matches_scipy_schur(d: int) -> None:
    """转角与 scipy 实 Schur 分解的对角块给出的一致。"""
    matrix = random_orthogonal(d, 1, seed=d)
    triangular, _ = scipy.linalg.schur(matrix.numpy(), output="real")
    schur, i = [], 0
    while i < d:  # 2×2 块给出 ±ϑ；1×1 块是 ±1，成对出现
        size = 2 if i + 1 < d and abs(triangular[i + 1, i]) > 1e-8 else 1
        angle = math.atan2(abs(triangular[i + 1, i]) if size == 2 else 0.0, triangular[i, i])
        schur.extend([angle] * size)
        i += size
    expected = torch.tensor(sorted(schur)[::2], dtype=F64)
    torch.testing.assert_close(canonical_form(matrix)[1], expected)


@pytest.mark.parametrize(
    "angles",
    [[0.3, 1.0, 2.5], [0.7, 0.7, 0.7], [0.0, 0.0, 1.2], [math.pi, 0.4, math.pi], [2.0, 2.0, 0.0]],
)
def test_canonical_form__preserves_matrix(angles: list[float]) -> None:
    """V 正交，V(⊕R(ϑ))Vᵀ 还原原矩阵；转角重复、为 0 或为 π 时也成立。"""
    mix = random_orthogonal(6, 1, seed=10)
    matrix = mix @ blocks(angles) @ mix.T
    basis, found = canonical_form(matrix)
    torch.testing.assert_close(basis.T @ basis, torch.eye(6, dtype=F64))
    torch.testing.assert_close(basis @ blocks(found.tolist()) @ basis.T, matrix)
    # 转角为 0 或 π 时 cos 在极值处，舍入误差开方后进入角度
    torch.testing.assert_close(found, torch.tensor(sorted(angles), dtype=F64), atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize(
    "matrix",
    [torch.eye(3), torch.tensor([[1.0, 0.0], [0.0, 1.1]]), torch.diag(torch.tensor([1.0, -1.0]))],
)
def test_canonical_form__rejects_other_matrices(matrix: Tensor) -> None:
    """奇数阶、不正交、行列式为 -1 的矩阵被拒绝。"""
    with pytest.raises(ValueError, match="matrix"):
        canonical_form(matrix)


def test_canonical_scores__matches_schur_basis() -> None:
    """换到 scipy 实 Schur 分解的基里旋转，内积与正交矩阵的幂给出的相同。"""
    q, k, matrix = random(8, seed=11), random(8, seed=12), random_orthogonal(8, 1, seed=13)
    triangular, vectors = (torch.from_numpy(x) for x in scipy.linalg.schur(matrix.numpy()))
    m, n = 3, 10
    expected = (naive_power(triangular, m) @ vectors.T @ q) @ (
        naive_power(triangular, n) @ vectors.T @ k
    )
    for score in canonical_scores(q, k, matrix, m, n):
        torch.testing.assert_close(score, expected)


@pytest.mark.parametrize(("m", "n"), [(0, 1), (7, 2), (2, 7), (-4, 9)])
def test_canonical_scores__equals_powers_of_any_rotation(m: int, n: int) -> None:
    """行列式为 1 的正交矩阵的幂与换基后的 RoPE 给出同一内积，且只依赖位置之差。"""
    q, k, matrix = random(10, seed=14), random(10, seed=15), random_orthogonal(10, 1, seed=16)
    power, rotary = canonical_scores(q, k, matrix, m, n)
    torch.testing.assert_close(rotary, power)
    torch.testing.assert_close(canonical_scores(q, k, matrix, m + 5, n + 5)[1], rotary)


def test_canonical_scores__rejects_reflection() -> None:
    """行列式为 -1 的矩阵被拒绝。"""
    with pytest.raises(ValueError, match="行列式须是 1"):
        canonical_scores(torch.ones(2), torch.ones(2), torch.diag(torch.tensor([1.0, -1.0])), 0, 1)
