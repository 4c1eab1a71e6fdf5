"""RoPE 推导各步的检验。"""

import math

import pytest
import torch
from torch import Tensor

from formulary.rope.derivation import (
    complex_inner,
    complex_score,
    modulus_chain,
    phase_offset,
    phase_progression,
    polar_equations,
    rotate_complex,
    rotate_pair,
    rotation_matrix,
    score_by_offset,
    to_polar,
)

THETA = 0.37
POSITIONS = (0.0, 1.0, 2.5, -3.0, 40.0, 1001.0)
SYMPLECTIC = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)


def _pairs(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    q = torch.randn(*shape, 2, dtype=torch.float64, generator=generator)
    k = torch.randn(*shape, 2, dtype=torch.float64, generator=generator)
    return q, k


def _complexes(*shape: int) -> tuple[Tensor, Tensor]:
    q, k = _pairs(*shape)
    return torch.view_as_complex(q), torch.view_as_complex(k)


def _unit(phase: Tensor) -> Tensor:
    """把辐角变成单位圆上的点，比较时不计 2π 的整数倍。"""
    return torch.stack((phase.cos(), phase.sin()), dim=-1)


def test_complex_inner__matches_dot_product() -> None:
    """等于两个实向量逐项相乘再求和。"""
    q, k = _pairs(3, 4)
    torch.testing.assert_close(complex_inner(q, k), (q * k).sum(-1))


def test_complex_inner__equals_worked_example() -> None:
    """取 q = 1 + 2i、k = 3 + 4i 时是 1·3 + 2·4 = 11。"""
    q, k = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    torch.testing.assert_close(complex_inner(q, k), torch.tensor(11.0))


def test_complex_inner__differs_from_product_without_conjugate() -> None:
    """漏掉共轭得到的是 q_0 k_0 - q_1 k_1，不是内积。"""
    q, k = _pairs(5)
    wrong = (torch.view_as_complex(q) * torch.view_as_complex(k)).real
    torch.testing.assert_close(complex_inner(q, k) - wrong, 2 * q[:, 1] * k[:, 1])


def test_complex_inner__rejects_other_widths() -> None:
    """最后一维不是 2 时报错并指出是 q 还是 k。"""
    with pytest.raises(ValueError, match="q 的最后一维必须是 2"):
        complex_inner(torch.ones(3), torch.ones(2))
    with pytest.raises(ValueError, match="k 的最后一维必须是 2"):
        complex_inner(torch.ones(2), torch.ones(1))


def test_rotate_complex__matches_matrix_exponential() -> None:
    """与矩阵指数 exp(mθJ) 作用在实向量上的结果相同。"""
    q, _ = _pairs(3, 4)
    for m in POSITIONS:
        expected = q @ torch.matrix_exp(m * THETA * SYMPLECTIC).T
        rotated = rotate_complex(torch.view_as_complex(q), m, THETA)
        torch.testing.assert_close(torch.view_as_real(rotated), expected)


def test_rotate_complex__is_identity_at_origin() -> None:
    """位置 0 处输出与输入逐位相同。"""
    q, _ = _complexes(6)
    assert torch.equal(rotate_complex(q, 0.0, THETA), q)


def test_rotate_complex__rejects_real_input() -> None:
    """实数张量报错并指出 q。"""
    with pytest.raises(ValueError, match="q 必须是复数张量"):
        rotate_complex(torch.ones(2), 1, THETA)


def test_complex_score__matches_real_arithmetic() -> None:
    """实部是旋转后的点积，虚部是旋转后叉积的相反数，都由实数运算得到。"""
    q, k = _pairs(6)
    for m, n in ((0.0, 0.0), (5.0, 3.0), (3.0, 5.0), (2.5, -7.0)):
        rotated_q = q @ torch.matrix_exp(m * THETA * SYMPLECTIC).T
        rotated_k = k @ torch.matrix_exp(n * THETA * SYMPLECTIC).T
        dot = (rotated_q * rotated_k).sum(-1)
        cross = rotated_q[:, 0] * rotated_k[:, 1] - rotated_q[:, 1] * rotated_k[:, 0]
        score = complex_score(torch.view_as_complex(q), torch.view_as_complex(k), m, n, THETA)
        torch.testing.assert_close(score, torch.complex(dot, -cross))


def test_complex_score__depends_only_on_offset() -> None:
    """两个位置一起平移，实部与虚部都不变；只移动一个则改变。"""
    q, k = _complexes(6)
    score = complex_score(q, k, 5.0, 3.0, THETA)
    for shift in (-3.0, 0.5, 100.0):
        torch.testing.assert_close(complex_score(q, k, 5.0 + shift, 3.0 + shift, THETA), score)
    assert (complex_score(q, k, 6.0, 3.0, THETA) - score).abs().max() > 0.1


def test_complex_score__differs_from_reflection() -> None:
    """f(q, m) = (q_0, (-1)^m q_1) 的实内积也只依赖 m - n，复数内积却不是：加强确实丢掉了解。"""
    q, k = _complexes(6)

    def reflect(z: Tensor, m: int) -> Tensor:
        return z if m % 2 == 0 else z.conj()

    def score(m: int, n: int) -> Tensor:
        return reflect(q, m) * reflect(k, n).conj()

    for m, n in ((4, 2), (5, 2), (3, 3)):
        torch.testing.assert_close(score(m, n).real, score(m + 1, n + 1).real)
    assert (score(4, 2).imag - score(5, 3).imag).abs().max() > 0.1
    rotated = complex_score(q, k, 4.0, 2.0, THETA)
    torch.testing.assert_close(rotated.imag, complex_score(q, k, 5.0, 3.0, THETA).imag)


def test_complex_score__rejects_real_input() -> None:
    """键是实数张量时报错。"""
    with pytest.raises(ValueError, match="必须是复数张量"):
        complex_score(torch.ones(2, dtype=torch.complex64), torch.ones(2), 1, 0, THETA)


def test_to_polar__matches_hypot_and_atan2() -> None:
    """模与辐角等于 math.hypot 与 math.atan2 逐个算出的值。"""
    q, _ = _pairs(9)
    modulus, phase = to_polar(torch.view_as_complex(q))
    expected = [(math.hypot(a, b), math.atan2(b, a)) for a, b in q.tolist()]
    torch.testing.assert_close(
        torch.stack((modulus, phase), dim=-1), torch.tensor(expected, dtype=torch.float64)
    )


def test_to_polar__preserves_the_number() -> None:
    """R·cosΘ 与 R·sinΘ 还原出实部与虚部。"""
    q, _ = _complexes(9)
    modulus, phase = to_polar(q)
    torch.testing.assert_close(torch.polar(modulus, phase), q)


def test_to_polar__rejects_real_input() -> None:
    """实数张量报错并指出 f。"""
    with pytest.raises(ValueError, match="f 必须是复数张量"):
        to_polar(torch.ones(2))


def test_polar_equations__matches_closed_form() -> None:
    """四项分别等于 |q||k|、|q||k|、Θ(q)-Θ(k)+(m-n)θ 与同一个辐角（不计 2π 的整数倍）。"""
    q, k = _complexes(6)
    sizes = [abs(a) * abs(b) for a, b in zip(q.tolist(), k.tolist(), strict=True)]
    size = torch.tensor(sizes, dtype=torch.float64)
    for m, n in ((0.0, 0.0), (5.0, 3.0), (3.0, 5.0), (2.5, -7.0)):
        (left, difference), (right, relative) = polar_equations(q, k, m, n, THETA)
        phase = q.imag.atan2(q.real) - k.imag.atan2(k.real) + (m - n) * THETA
        torch.testing.assert_close(left, size)
        torch.testing.assert_close(right, left)
        torch.testing.assert_close(_unit(difference), _unit(phase))
        torch.testing.assert_close(_unit(relative), _unit(phase))


def test_polar_equations__equals_worked_example() -> None:
    """取 q = 2i、k = 3、θ = π/8、m = 3、n = 1：模都是 6，辐角都是 π/2 + 2π/8 = 3π/4。"""
    q, k = torch.tensor(2j, dtype=torch.complex128), torch.tensor(3, dtype=torch.complex128)
    expected = torch.tensor([6, 3 * math.pi / 4], dtype=torch.float64)
    left, right = polar_equations(q, k, 3.0, 1.0, math.pi / 8)
    torch.testing.assert_close(torch.stack(left), expected)
    torch.testing.assert_close(torch.stack(right), expected)


def test_polar_equations__equals_worked_example_modulo_turn() -> None:
    """取辐角为 3π/4 与 -3π/4 的 q、k：左边的辐角差是 3π/2，右边是 -π/2，相差一整圈。"""
    q, k = (torch.tensor(complex(-1, sign), dtype=torch.complex128) for sign in (1, -1))
    left, right = polar_equations(q, k, 0.0, 0.0, THETA)
    phases = torch.stack((left[1], right[1]))
    expected = torch.tensor([3 * math.pi / 2, -math.pi / 2], dtype=torch.float64)
    torch.testing.assert_close(phases, expected)


def test_polar_equations__rejects_real_input() -> None:
    """实数张量报错。"""
    with pytest.raises(ValueError, match="必须是复数张量"):
        polar_equations(torch.ones(2), torch.ones(2), 1, 0, THETA)


def test_modulus_chain__matches_python_abs() -> None:
    """四项都等于 Python 的 abs(q)·abs(k)。"""
    q, k = _complexes(6)
    sizes = [abs(a) * abs(b) for a, b in zip(q.tolist(), k.tolist(), strict=True)]
    expected = torch.tensor(sizes, dtype=torch.float64)
    for m in POSITIONS:
        for value in modulus_chain(q, k, m, THETA):
            torch.testing.assert_close(value, expected)


def test_modulus_chain__is_squared_norm_for_equal_arguments() -> None:
    """取 k = q，四项都是 |q|²，于是 R_f(q, m) = |q|。"""
    q, _ = _complexes(6)
    for value in modulus_chain(q, q, 17.0, THETA):
        torch.testing.assert_close(value, q.real**2 + q.imag**2)


def test_modulus_chain__rejects_real_input() -> None:
    """实数张量报错。"""
    with pytest.raises(ValueError, match="必须是复数张量"):
        modulus_chain(torch.ones(2), torch.ones(2), 1, THETA)


def test_phase_offset__matches_atan2_of_rotated_vector() -> None:
    """等于旋转后与旋转前 atan2 之差（不计 2π 的整数倍）。"""
    q, _ = _pairs(20)
    for m in POSITIONS:
        rotated = q @ torch.matrix_exp(m * THETA * SYMPLECTIC).T
        expected = rotated[:, 1].atan2(rotated[:, 0]) - q[:, 1].atan2(q[:, 0])
        actual = phase_offset(torch.view_as_complex(q), m, THETA)
        assert ((actual >= 0) & (actual < 2 * math.pi)).all()
        torch.testing.assert_close(_unit(actual), _unit(expected))


def test_phase_offset__is_independent_of_the_vector() -> None:
    """同一位置上，二十个不同向量的增量相同。"""
    q, _ = _complexes(20)
    for m in (1.0, 2.5, 40.0):
        offset = phase_offset(q, m, THETA)
        torch.testing.assert_close(offset, torch.full_like(offset, m * THETA % (2 * math.pi)))


def test_phase_offset__rejects_real_input() -> None:
    """实数张量报错并指出 q。"""
    with pytest.raises(ValueError, match="q 必须是复数张量"):
        phase_offset(torch.ones(2), 1, THETA)


def test_phase_progression__matches_repeated_addition() -> None:
    """等于从 0 起一次次加上 θ。"""
    expected, phase = [], 0.0
    for _ in range(30):
        expected.append(phase)
        phase += THETA
    actual = phase_progression(torch.arange(30, dtype=torch.float64), THETA)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_phase_progression__equals_relative_phase() -> None:
    """相邻两项之差等于 Θ_g(q, k, 1) + Θ(k) - Θ(q)，与 q、k、m 无关。"""
    q, k = _complexes(8)
    step = torch.view_as_real(q) @ torch.matrix_exp(THETA * SYMPLECTIC).T
    relative = torch.view_as_complex(step) * k.conj()
    expected = relative.angle() + k.angle() - q.angle()
    for m in (0, 5, 1000):
        phases = phase_progression(torch.tensor([m, m + 1], dtype=torch.float64), THETA)
        difference = (phases[1] - phases[0]).expand(8)
        torch.testing.assert_close(_unit(difference), _unit(expected))


def test_phase_progression__rejects_bad_positions() -> None:
    """位置不是一维实数张量时报错。"""
    for positions in (torch.ones(2, 2), torch.ones(2, dtype=torch.complex64), torch.ones(2) > 0):
        with pytest.raises(ValueError, match="positions 必须是一维"):
            phase_progression(positions, THETA)


def test_rotate_pair__matches_matrix_exponential() -> None:
    """与矩阵指数 exp(mθJ) 的作用相同。"""
    q, _ = _pairs(3, 4)
    for m in POSITIONS:
        expected = q @ torch.matrix_exp(m * THETA * SYMPLECTIC).T
        torch.testing.assert_close(rotate_pair(q, m, THETA), expected)


def test_rotate_pair__equals_worked_example() -> None:
    """mθ = π/2 时 (3, 4) 变成 (-4, 3)：逆时针转一个直角。"""
    q = torch.tensor([3.0, 4.0], dtype=torch.float64)
    expected = torch.tensor([-4.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(rotate_pair(q, 2.0, math.pi / 4), expected)


def test_rotate_pair__rejects_other_widths() -> None:
    """最后一维不是 2 时报错并指出 q。"""
    with pytest.raises(ValueError, match="q 的最后一维必须是 2"):
        rotate_pair(torch.ones(3), 1, THETA)


def test_score_by_offset__matches_explicit_rotation() -> None:
    """与先分别旋转查询、键，再作点积的结果相同。"""
    q, k = _pairs(7)
    for m, n in ((0.0, 0.0), (5.0, 3.0), (3.0, 5.0), (2.5, -7.0), (1000.0, 999.0)):
        rotated_q = q @ torch.matrix_exp(m * THETA * SYMPLECTIC).T
        rotated_k = k @ torch.matrix_exp(n * THETA * SYMPLECTIC).T
        expected = (rotated_q * rotated_k).sum(-1)
        torch.testing.assert_close(score_by_offset(q, k, m - n, THETA), expected)


def test_score_by_offset__equals_worked_example() -> None:
    """取 q = (1, 0)、k = (0, 1)、一步转 π/6：查询在后两步时是 sin(π/3)，在前两步时变号。"""
    q, k = torch.eye(2, dtype=torch.float64)
    expected = torch.tensor(math.sqrt(3) / 2, dtype=torch.float64)
    torch.testing.assert_close(score_by_offset(q, k, 2.0, math.pi / 6), expected)
    torch.testing.assert_close(score_by_offset(q, k, -2.0, math.pi / 6), -expected)


def test_score_by_offset__differs_from_printed_derivation_with_stray_factor() -> None:
    """余弦的辐角写成 (m - n)mθ 时，相对位置相同而数不同；m = 1 或 m = n 时碰巧正确。"""
    q, k = _pairs(7)

    def printed(m: float, n: float) -> Tensor:
        """labml.ai 页面推导末段的写法：第二个括号里的余弦多出一个 m。"""
        angle = (m - n) * THETA
        first = (q[:, 0] * math.cos(angle) - q[:, 1] * math.sin(angle)) * k[:, 0]
        second = (q[:, 1] * math.cos(angle * m) + q[:, 0] * math.sin(angle)) * k[:, 1]
        return first + second

    torch.testing.assert_close(printed(1, 0), score_by_offset(q, k, 1.0, THETA))
    torch.testing.assert_close(printed(4, 4), score_by_offset(q, k, 0.0, THETA))
    assert (printed(5, 3) - score_by_offset(q, k, 2.0, THETA)).abs().max() > 0.1
    assert (printed(5, 3) - printed(9, 7)).abs().max() > 0.1


def test_score_by_offset__differs_from_printed_derivation_with_wrong_subscript() -> None:
    """把 k 的第二个分量误写成第一个（x^(2)_m x^(1)_n cos）时，相对位置为 0 也得不到点积。"""
    q, k = _pairs(7)
    for offset in (0.0, 2.0):
        cos, sin = math.cos(offset * THETA), math.sin(offset * THETA)
        printed = q[:, 0] * k[:, 0] * cos + q[:, 0] * k[:, 1] * sin
        printed = printed - q[:, 1] * k[:, 0] * sin + q[:, 1] * k[:, 0] * cos
        assert (printed - score_by_offset(q, k, offset, THETA)).abs().max() > 0.1


def test_score_by_offset__rejects_other_widths() -> None:
    """最后一维不是 2 时报错并指出是 q 还是 k。"""
    with pytest.raises(ValueError, match="q 的最后一维必须是 2"):
        score_by_offset(torch.ones(3), torch.ones(2), 1, THETA)
    with pytest.raises(ValueError, match="k 的最后一维必须是 2"):
        score_by_offset(torch.ones(2), torch.ones(1), 1, THETA)


def test_rotation_matrix__matches_block_diag() -> None:
    """等于用 torch.block_diag 拼起来的 2×2 旋转矩阵，每块由矩阵指数算出。"""
    for m in POSITIONS:
        blocks = [torch.matrix_exp(m / 50 ** (2 * i / 6) * SYMPLECTIC) for i in range(3)]
        actual = rotation_matrix(m, 6, base=50.0, dtype=torch.float64)
        torch.testing.assert_close(actual, torch.block_diag(*blocks))


def test_rotation_matrix__preserves_norms() -> None:
    """转置就是逆，行列式是 1。"""
    matrix = rotation_matrix(40.0, 8, dtype=torch.float64)
    torch.testing.assert_close(matrix.T @ matrix, torch.eye(8, dtype=torch.float64))
    torch.testing.assert_close(torch.linalg.det(matrix), torch.tensor(1.0, dtype=torch.float64))


def test_rotation_matrix__equals_worked_example() -> None:
    """取 d = 4、b = 100：q = (1, 2, 3, 4) 在位置 1 与 3 处的旋转，与正文手算的数相同。"""
    q = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    expected = {1.0: [-1.1426, 1.9221, 2.5857, 4.2795], 3.0: [-1.2722, -1.8389, 1.6839, 4.7079]}
    for m, row in expected.items():
        actual = rotation_matrix(m, 4, base=100.0, dtype=torch.float64) @ q
        # 正文只印四位小数
        torch.testing.assert_close(
            actual, torch.tensor(row, dtype=torch.float64), rtol=0, atol=5e-5
        )


def test_rotation_matrix__equals_worked_example_of_key() -> None:
    """取 b = 100：k = (1, 1, 1, 1) 在位置 1 处的旋转，与正文手算的数相同。"""
    k = torch.ones(4, dtype=torch.float64)
    actual = rotation_matrix(1.0, 4, base=100.0, dtype=torch.float64) @ k
    expected = torch.tensor([-0.3012, 1.3818, 0.8952, 1.0948], dtype=torch.float64)
    # 正文只印四位小数
    torch.testing.assert_close(actual, expected, rtol=0, atol=5e-5)


def test_rotation_matrix__equals_default_base_and_dtype() -> None:
    """底数默认 10000：d = 4 时第 1 对每步转 0.01 弧度；类型默认 float32。"""
    expected = torch.tensor([[math.cos(0.05), -math.sin(0.05)], [math.sin(0.05), math.cos(0.05)]])
    torch.testing.assert_close(rotation_matrix(5.0, 4)[2:, 2:], expected)


def test_rotation_matrix__rejects_odd_dimension() -> None:
    """维数 d 为奇数时报错并指出 d。"""
    with pytest.raises(ValueError, match="d 必须是正偶数"):
        rotation_matrix(1, 3)
