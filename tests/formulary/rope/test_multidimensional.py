"""Proofs of the two-dimensional RoPE: dense matrices, loops, rotary-embedding-torch."""

import math

import pytest
import torch
from rotary_embedding_torch import RotaryEmbedding, apply_rotary_emb

from formulary.rope.multidimensional import (
    axial_scores,
    relative_rotation_steps,
    rotate_axial,
    rotate_mixed,
    rotation_from_generators,
)


def dense_rotation(angles: list[float]) -> torch.Tensor:
    """Block diagonal matrix of plane rotations, written out."""
    blocks = [
        torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]], dtype=torch.float64)
        for a in angles
    ]
    return torch.block_diag(*blocks)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def commuting_generators(d: int, seed: int = 1) -> torch.Tensor:
    """Two skew matrices that share their planes, hidden behind a random orthogonal basis."""
    basis = torch.linalg.qr(random(d, d, seed=seed)).Q
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    rates = random(2, d // 2, seed=seed + 1)
    planes = [torch.block_diag(*(rate * turn for rate in row)) for row in rates]
    return torch.stack([basis @ plane @ basis.T for plane in planes])


def test_rotate_axial__matches_dense_matrix() -> None:
    """与逐词元写出的 d×d 分块对角矩阵相乘的结果一致。"""
    d, base = 12, 100.0
    x = random(2, 5, d)
    positions = random(5, 2, seed=3) * 7
    expected = torch.empty_like(x)
    for t in range(5):
        theta = [base ** (-4 * i / d) for i in range(d // 4)]
        angles = [positions[t, 0].item() * th for th in theta]
        angles += [positions[t, 1].item() * th for th in theta]
        for b in range(2):
            expected[b, t] = dense_rotation(angles) @ x[b, t]
    torch.testing.assert_close(rotate_axial(x, positions, base), expected)


def test_rotate_axial__matches_rotary_embedding_torch() -> None:
    """与 rotary-embedding-torch 的轴向频率一致：它第一个轴对应这里的 x。"""
    width, height, d = 4, 3, 16
    x = torch.randn(width, height, d, generator=torch.Generator().manual_seed(0))
    library = RotaryEmbedding(dim=d // 2, theta=100)
    expected = apply_rotary_emb(library.get_axial_freqs(width, height), x[None])[0]
    grid = torch.cartesian_prod(torch.arange(width), torch.arange(height))
    actual = rotate_axial(x.reshape(-1, d), grid).reshape(width, height, d)
    torch.testing.assert_close(actual, expected.detach())


def test_rotate_axial__depends_only_on_offset() -> None:
    """查询与键一起平移任意的 (Δx, Δy)，内积不变。"""
    q, k = random(6, 8, seed=4), random(6, 8, seed=5)
    place, shift = random(6, 2, seed=6) * 9, torch.tensor([13.0, -4.5], dtype=torch.float64)
    before = rotate_axial(q, place) @ rotate_axial(k, place + 1.25).T
    after = rotate_axial(q, place + shift) @ rotate_axial(k, place + 1.25 + shift).T
    torch.testing.assert_close(after, before)


def test_rotate_axial__equals_worked_example() -> None:
    """取 d = 8、坐标 (3, 2)：四对特征依次转 3、0.3、2、0.2 弧度。"""
    x = torch.tensor([[1.0, 0.0] * 4], dtype=torch.float64)
    actual = rotate_axial(x, torch.tensor([[3, 2]]))
    expected = [f(a) for a in (3.0, 0.3, 2.0, 0.2) for f in (math.cos, math.sin)]
    torch.testing.assert_close(actual, torch.tensor([expected], dtype=torch.float64))
    key = rotate_axial(x, torch.tensor([[5, 1]]))
    score = math.cos(2) + math.cos(0.2) + math.cos(1) + math.cos(0.1)
    torch.testing.assert_close((actual * key).sum().item(), score)
    assert round(score, 4) == 2.0992


def test_rotate_axial__rejects_bad_shapes() -> None:
    """维数 d 不是 4 的倍数、或坐标不是 (T, 2)，都报错。"""
    with pytest.raises(ValueError, match="4 的倍数"):
        rotate_axial(torch.zeros(3, 6), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="4 的倍数"):
        rotate_axial(torch.zeros(4), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="positions"):
        rotate_axial(torch.zeros(3, 8), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="positions"):
        rotate_axial(torch.zeros(3, 8), torch.zeros(3, 3))


def test_axial_scores__matches_explicit_sum() -> None:
    """两列分别等于前后两半特征上逐对写出的复数求和。"""
    d, base = 12, 50.0
    q, k = random(d, seed=7), random(d, seed=8)
    offsets = torch.tensor([[0.0, 0.0], [3.0, -2.0], [-1.5, 6.0]], dtype=torch.float64)
    expected = torch.zeros(3, 2, dtype=torch.float64)
    for n, offset in enumerate(offsets.tolist()):
        for axis in range(2):
            for i in range(d // 4):
                j = axis * d // 2 + 2 * i
                a, b = complex(q[j], q[j + 1]), complex(k[j], k[j + 1])
                angle = offset[axis] * base ** (-4 * i / d)
                turned = b * complex(math.cos(angle), math.sin(angle))
                expected[n, axis] += (a * turned.conjugate()).real
    torch.testing.assert_close(axial_scores(q, k, offsets, base), expected)


def test_axial_scores__equals_rotated_inner_product() -> None:
    """两列之和等于把查询与键各自旋转之后的内积。"""
    q, k = random(8, seed=9), random(8, seed=10)
    here, there = torch.tensor([[4.0, 1.0]]), torch.tensor([[9.0, -2.0]])
    score = (rotate_axial(q[None], here) * rotate_axial(k[None], there)).sum()
    torch.testing.assert_close(axial_scores(q, k, there - here).sum(), score)


def test_axial_scores__equals_worked_example() -> None:
    """取 d = 64、b = 100、q = k = 1：沿轴走 15 格剩 0.61，两个方向各走 15 格剩 0.22。"""
    ones = torch.ones(64, dtype=torch.float64)
    scores = axial_scores(ones, ones, torch.tensor([[0, 0], [15, 0], [15, 15]])).sum(dim=-1)
    assert [round(score / 64, 2) for score in scores.tolist()] == [1.0, 0.61, 0.22]
    for base, turning in ((10_000.0, 5), (100.0, 9)):  # pairs that turn 1 rad in a 14×14 image
        corner = rotate_axial(torch.tensor([[1.0, 0.0] * 32]), torch.tensor([[1, 0]]), base)
        angles = torch.atan2(corner[0, 1:32:2], corner[0, 0:32:2])
        assert int((13 * angles >= 1).sum()) == turning


def test_axial_scores__differs_from_mixed_frequencies() -> None:
    """轴向内积的二阶混合差分恒为零，混合频率的不为零。"""
    q, k = random(8, seed=11), random(8, seed=12)
    corners = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 3.0], [2.0, 3.0]])
    signs = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
    axial = axial_scores(q, k, corners).sum(dim=-1)
    torch.testing.assert_close((signs * axial).sum(), torch.tensor(0.0, dtype=torch.float64))
    theta = random(1, 4, 2, seed=13)
    turned = rotate_mixed(k.expand(1, 4, 8), corners, theta)[0]
    assert (signs * (turned @ q)).sum().abs() > 0.1


def test_axial_scores__rejects_bad_shapes() -> None:
    """长度不同、不是 4 的倍数、坐标差不是两列，都报错。"""
    with pytest.raises(ValueError, match="q、k"):
        axial_scores(torch.zeros(8), torch.zeros(4), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="q、k"):
        axial_scores(torch.zeros(6), torch.zeros(6), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="q、k"):
        axial_scores(torch.zeros(4, 4), torch.zeros(4, 4), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="offsets"):
        axial_scores(torch.zeros(8), torch.zeros(8), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="offsets"):
        axial_scores(torch.zeros(8), torch.zeros(8), torch.zeros(2))


def test_rotate_mixed__matches_dense_matrix() -> None:
    """与逐头、逐词元写出的分块对角矩阵相乘的结果一致。"""
    heads, tokens, d = 3, 4, 6
    x = random(2, heads, tokens, d)
    positions, theta = random(tokens, 2, seed=1) * 5, random(heads, d // 2, 2, seed=2)
    expected = torch.empty_like(x)
    for h in range(heads):
        for t in range(tokens):
            px, py = positions[t].tolist()
            angles = [a * px + b * py for a, b in theta[h].tolist()]
            for b in range(2):
                expected[b, h, t] = dense_rotation(angles) @ x[b, h, t]
    torch.testing.assert_close(rotate_mixed(x, positions, theta), expected)


def test_rotate_mixed__depends_only_on_offset() -> None:
    """查询与键一起平移，每个头里的内积不变。"""
    q, k = random(2, 5, 6, seed=3), random(2, 5, 6, seed=4)
    theta, place = random(2, 3, 2, seed=5), random(5, 2, seed=6)
    shift = torch.tensor([-3.0, 8.0], dtype=torch.float64)
    before = rotate_mixed(q, place, theta) @ rotate_mixed(k, place * 2, theta).mT
    after = rotate_mixed(q, place + shift, theta) @ rotate_mixed(k, place * 2 + shift, theta).mT
    torch.testing.assert_close(after, before)


def test_rotate_mixed__limit_axial_frequencies() -> None:
    """前一半频率的 y 分量与后一半的 x 分量取零，就退回轴向形式。"""
    d = 8
    x, positions = random(2, 5, d, seed=7), random(5, 2, seed=8) * 4
    theta = torch.tensor([1.0, 0.1], dtype=torch.float64)
    zero = torch.zeros(2, dtype=torch.float64)
    by_x, by_y = torch.stack((theta, zero), dim=-1), torch.stack((zero, theta), dim=-1)
    frequencies = torch.cat((by_x, by_y)).expand(2, -1, -1)
    expected = rotate_axial(x, positions, base=100.0)
    torch.testing.assert_close(rotate_mixed(x, positions, frequencies), expected)


def test_rotate_mixed__preserves_dtype_and_gradient() -> None:
    """bfloat16 进、bfloat16 出，且频率收到非零的梯度。"""
    x = random(1, 3, 4, seed=9).bfloat16()
    theta = torch.ones(1, 2, 2, requires_grad=True)
    turned = rotate_mixed(x, torch.tensor([[0, 1], [300, 2], [5, 301]]), theta)
    assert turned.dtype == torch.bfloat16
    mixed = rotate_mixed(x.double(), torch.tensor([[0, 1], [3, 2], [5, 3]]), theta)
    assert mixed.dtype == torch.float64
    turned.sum().backward()
    assert theta.grad is not None
    assert (theta.grad != 0).all()


def test_rotate_mixed__is_rounded_to_float32_angles_for_float32_input() -> None:
    """float32 的输入在 float32 里算转角：4097·(1 + 2^-12) 舍入成 4098，而不是 4098 + 2^-12。"""
    frequencies = torch.tensor([[[1 + 2**-12, 0.3]]], dtype=torch.float64)
    positions = torch.tensor([[4097.0, 0.0]])
    actual = rotate_mixed(torch.tensor([[[1.0, 0.0]]]), positions, frequencies)
    expected = torch.tensor([[[math.cos(4098), math.sin(4098)]]])
    torch.testing.assert_close(actual, expected)


def test_rotate_mixed__rejects_bad_shapes() -> None:
    """频率或坐标的形状不合、x 少一维，都报错。"""
    x, positions = torch.zeros(2, 3, 4), torch.zeros(3, 2)
    with pytest.raises(ValueError, match="frequencies"):
        rotate_mixed(x, positions, torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match="frequencies"):
        rotate_mixed(torch.zeros(2, 3, 5), positions, torch.zeros(2, 2, 2))
    with pytest.raises(ValueError, match="positions"):
        rotate_mixed(x, torch.zeros(4, 2), torch.zeros(2, 2, 2))
    with pytest.raises(ValueError, match="三维"):
        rotate_mixed(x[0], positions, torch.zeros(2, 2, 2))


def test_rotation_from_generators__matches_taylor_series() -> None:
    """与矩阵指数的幂级数逐项求和一致。"""
    generators = random(2, 5, 5, seed=2) / 3
    x, y = 0.7, -1.1
    exponent = x * generators[0] + y * generators[1]
    expected = term = torch.eye(5, dtype=torch.float64)
    for order in range(1, 60):
        term = term @ exponent / order
        expected = expected + term
    actual = rotation_from_generators(generators, torch.tensor([x, y], dtype=torch.float64))
    torch.testing.assert_close(actual, expected)


def test_rotation_from_generators__equals_axial_blocks() -> None:
    """生成元取成两块对角时，就是轴向形式的矩阵。"""
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    zero = torch.zeros(4, 4, dtype=torch.float64)
    block = torch.block_diag(turn, 0.1 * turn)
    generators = torch.stack((torch.block_diag(block, zero), torch.block_diag(zero, block)))
    matrix = rotation_from_generators(generators, torch.tensor([3, 2]))
    identity = torch.eye(8, dtype=torch.float64)
    expected = rotate_axial(identity, torch.tensor([[3, 2]]).expand(8, -1), base=100.0).T
    torch.testing.assert_close(matrix, expected)


def test_relative_rotation_steps__equals_one_matrix_when_generators_commute() -> None:
    """生成元反对称又可交换时，推导的三步是同一个矩阵，且只依赖坐标差。"""
    generators = commuting_generators(6)
    first, second = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0])
    steps = relative_rotation_steps(generators, first, second)
    torch.testing.assert_close(steps[0], steps[2])
    torch.testing.assert_close(steps[1], steps[2])
    shift = torch.tensor([4.0, 7.0])
    moved = relative_rotation_steps(generators, first + shift, second + shift)
    torch.testing.assert_close(moved[0], steps[0])


def test_relative_rotation_steps__matches_matrix_exponential() -> None:
    """三步分别与 torch.matrix_exp 直接写出的式子一致，生成元任取。"""
    a, b = random(2, 4, 4, seed=5) / 2
    steps = relative_rotation_steps(
        torch.stack((a, b)), torch.tensor([1.0, -2.0]), torch.tensor([0.5, 1.5])
    )
    exp = torch.matrix_exp
    torch.testing.assert_close(steps[0], exp(a - 2 * b).T @ exp(0.5 * a + 1.5 * b))
    torch.testing.assert_close(steps[1], exp(-a + 2 * b) @ exp(0.5 * a + 1.5 * b))
    torch.testing.assert_close(steps[2], exp(-0.5 * a + 3.5 * b))


def test_relative_rotation_steps__differs_from_non_commuting_generators() -> None:
    """只反对称、不可交换时，前两步相等，第三步不等，相对性不成立。"""
    raw = random(2, 4, 4, seed=6)
    skew = (raw - raw.mT) / 4
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    steps = relative_rotation_steps(skew, first, second)
    torch.testing.assert_close(steps[0], steps[1])
    assert (steps[0] - steps[2]).abs().max() > 0.05
    shift = torch.tensor([2.0, 2.0])
    moved = relative_rotation_steps(skew, first + shift, second + shift)
    assert (moved[0] - steps[0]).abs().max() > 0.05
