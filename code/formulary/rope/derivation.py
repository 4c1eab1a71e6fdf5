"""RoPE 的推导：从二维的复数方程到分块对角的旋转矩阵，每一步可以代入数值检验。

约定:
    二维向量 (q_0, q_1) 与复数 q_0 + i·q_1 是同一个东西；m 是查询的位置，n 是键的位置；
    相位以弧度计，只在相差 2π 整数倍的意义下确定。
"""

import math

import torch
from jaxtyping import Complex, Float, Num
from torch import Tensor

from formulary.rope.frequencies import inverse_frequencies


def complex_inner(
    q: Float[Tensor, "*batch 2"], k: Float[Tensor, "*batch 2"]
) -> Float[Tensor, "*batch"]:
    r"""两个二维向量的内积，写成复数乘积 q·k* 的实部。

    Args:
        q: 二维查询。
        k: 二维键，形状同 q。

    Returns:
        内积，比输入少最后一维。

    Raises:
        ValueError: q 或 k 的最后一维不是 2。

    约定:
        第 0 个分量是实部，第 1 个分量是虚部；星号是复共轭。

    出处:
        苏剑林 2021，kexue.fm/archives/8265，式 (3) 之前。

    示例:
        >>> complex_inner(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))
        tensor(11.)
    """
    for name, pair in (("q", q), ("k", k)):
        if pair.shape[-1:] != (2,):
            raise ValueError(f"{name} 的最后一维必须是 2，得到形状 {tuple(pair.shape)}")
    product = torch.complex(q[..., 0], q[..., 1]) * torch.complex(k[..., 0], k[..., 1]).conj()
    return product.real


def rotate_complex(
    q: Complex[Tensor, "*batch"], position: float, theta: float
) -> Complex[Tensor, "*batch"]:
    r"""二维情形的解 f(q, m) = q·exp(i·m·θ)。

    Args:
        q: 二维向量对应的复数。
        position: 位置 m（步），整数或实数。
        theta: 角频率 θ（弧度/步）。

    Returns:
        转过 m·θ 弧度的复数，模不变。

    Raises:
        ValueError: q 不是复数张量。

    出处:
        苏剑林 2021，kexue.fm/archives/8265，式 (9)。

    示例:
        >>> rotate_complex(torch.tensor([1 + 1j]), position=1.0, theta=torch.pi / 2)
        tensor([-1.+1.j])
    """
    if not q.is_complex():
        raise ValueError(f"q 必须是复数张量，得到 dtype={q.dtype}")
    angle = position * theta
    return q * complex(math.cos(angle), math.sin(angle))


def complex_score(
    q: Complex[Tensor, "*batch"],
    k: Complex[Tensor, "*batch"],
    query_position: float,
    key_position: float,
    theta: float,
) -> Complex[Tensor, "*batch"]:
    r"""复数内积 f(q, m)·f*(k, n)；实部是注意力分数，整个复数只依赖 m - n。

    Args:
        q: 查询对应的复数。
        k: 键对应的复数。
        query_position: 查询的位置 m（步）。
        key_position: 键的位置 n（步）。
        theta: 角频率 θ（弧度/步）。

    Returns:
        G(q, k, m - n)。

    Raises:
        ValueError: q 或 k 不是复数张量。

    出处:
        苏剑林 2021，kexue.fm/archives/8265，式 (3)。

    示例:
        >>> complex_score(torch.tensor(1j), torch.tensor(1 + 0j), 5.0, 5.0, theta=0.3)
        tensor(0.+1.j)
    """
    rotated_q = rotate_complex(q, query_position, theta)
    return rotated_q * rotate_complex(k, key_position, theta).conj()


def to_polar(
    f: Complex[Tensor, "*batch"],
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    r"""把复数 f 写成 R·exp(i·Θ)，返回模 R 与辐角 Θ。

    Args:
        f: 任意复数。

    Returns:
        模（非负）与辐角（弧度，在 [-π, π] 内；f 为 0 时取 0）。

    Raises:
        ValueError: f 不是复数张量。

    出处:
        苏剑林 2021，kexue.fm/archives/8265，式 (4)。

    示例:
        >>> modulus, phase = to_polar(torch.tensor(2j))
        >>> modulus, phase
        (tensor(2.), tensor(1.5708))
    """
    if not f.is_complex():
        raise ValueError(f"f 必须是复数张量，得到 dtype={f.dtype}")
    return f.abs(), f.angle()


def polar_equations(
    q: Complex[Tensor, "*batch"],
    k: Complex[Tensor, "*batch"],
    query_position: float,
    key_position: float,
    theta: float,
) -> tuple[tuple[Float[Tensor, "*batch"], ...], tuple[Float[Tensor, "*batch"], ...]]:
    r"""模方程与辐角方程的左右两边：左边由 f 算，右边由 G(q, k, m - n) 算。

    Args:
        q: 查询对应的复数。
        k: 键对应的复数。
        query_position: 查询的位置 m（步）。
        key_position: 键的位置 n（步）。
        theta: 角频率 θ（弧度/步）。

    Returns:
        左边 (R_f·R_f, Θ_f - Θ_f) 与右边 (R_g, Θ_g)；模相等，辐角相差 2π 的整数倍。

    Raises:
        ValueError: q 或 k 不是复数张量。

    约定:
        G(q, k, Δ) 由 n = 0、m = Δ 的一对位置定出。

    出处:
        苏剑林 2021，kexue.fm/archives/8265，式 (5)。

    示例:
        >>> q, k = torch.tensor(2j), torch.tensor(3 + 0j)
        >>> left, right = polar_equations(q, k, query_position=3.0, key_position=3.0, theta=0.5)
        >>> right
        (tensor(6.), tensor(1.5708))
    """
    query_modulus, query_phase = to_polar(rotate_complex(q, query_position, theta))
    key_modulus, key_phase = to_polar(rotate_complex(k, key_position, theta))
    score = complex_score(q, k, query_position - key_position, 0.0, theta)
    return (query_modulus * key_modulus, query_phase - key_phase), to_polar(score)


def modulus_chain(
    q: Complex[Tensor, "*batch"], k: Complex[Tensor, "*batch"], position: float, theta: float
) -> tuple[Float[Tensor, "*batch"], ...]:
    r"""令 n = m 时模方程的一串等式，逐项返回。

    Args:
        q: 查询对应的复数。
        k: 键对应的复数。
        position: 两者共同的位置 m（步）。
        theta: 角频率 θ（弧度/步）。

    Returns:
        (R_f(q,m)·R_f(k,m), R_g(q,k,0), R_f(q,0)·R_f(k,0), ‖q‖·‖k‖)，四者相等。

    Raises:
        ValueError: q 或 k 不是复数张量。

    出处:
        苏剑林 2021，kexue.fm/archives/8265，式 (6)。

    示例:
        >>> modulus_chain(torch.tensor(2j), torch.tensor(3 + 0j), position=0.0, theta=0.5)
        (tensor(6.), tensor(6.), tensor(6.), tensor(6.))
    """
    (at_position, _), (relative, _) = polar_equations(q, k, position, position, theta)
    (at_origin, _), _ = polar_equations(q, k, 0.0, 0.0, theta)
    return at_position, relative, at_origin, q.abs() * k.abs()


def phase_offset(
    q: Complex[Tensor, "*batch"], position: float, theta: float
) -> Float[Tensor, "*batch"]:
    r"""位置带来的辐角增量 φ(m) = Θ_f(q, m) - Θ(q)，与 q 是什么无关。

    Args:
        q: 查询或键对应的复数，不为 0。
        position: 位置 m（步）。
        theta: 角频率 θ（弧度/步）。

    Returns:
        辐角增量（弧度），取在 [0, 2π) 内。

    Raises:
        ValueError: q 不是复数张量。

    出处:
        苏剑林 2021，kexue.fm/archives/8265，式 (7)。

    示例:
        >>> phase_offset(torch.tensor([1 + 2j, -3j]), position=3.0, theta=0.5)
        tensor([1.5000, 1.5000])
    """
    _, rotated_phase = to_polar(rotate_complex(q, position, theta))
    _, phase = to_polar(q)
    return (rotated_phase - phase) % (2 * math.pi)


def phase_progression(positions: Num[Tensor, " T"], theta: float) -> Float[Tensor, " T"]:
    r"""辐角增量 φ(m) = m·θ：首项为 0、公差为 θ 的等差数列。

    Args:
        positions: 各词元的位置 m（步），整数或实数。
        theta: 公差 θ（弧度/步）。

    Returns:
        各位置的 φ(m)（弧度），不取模。

    Raises:
        ValueError: positions 不是一维的实数张量。

    出处:
        苏剑林 2021，kexue.fm/archives/8265，式 (8)。

    示例:
        >>> phase_progression(torch.arange(4), theta=0.5)
        tensor([0.0000, 0.5000, 1.0000, 1.5000])
    """
    if positions.ndim != 1 or positions.is_complex() or positions.dtype == torch.bool:
        raise ValueError(
            "positions 必须是一维的整数或实数张量，"
            f"得到形状 {tuple(positions.shape)}、dtype={positions.dtype}"
        )
    return positions * theta


def rotate_pair(
    q: Float[Tensor, "*batch 2"], position: float, theta: float
) -> Float[Tensor, "*batch 2"]:
    r"""用 2×2 旋转矩阵把二维向量逆时针转过 m·θ 弧度。

    Args:
        q: 二维查询或键。
        position: 位置 m（步），整数或实数。
        theta: 角频率 θ（弧度/步）。

    Returns:
        R(m·θ) q，范数不变。

    Raises:
        ValueError: q 的最后一维不是 2。

    出处:
        Su et al. 2021, arXiv:2104.09864v5, 式 (13)。

    示例:
        >>> rotate_pair(torch.tensor([1.0, 1.0]), position=1.0, theta=torch.pi / 2)
        tensor([-1.,  1.])
    """
    if q.shape[-1:] != (2,):
        raise ValueError(f"q 的最后一维必须是 2，得到形状 {tuple(q.shape)}")
    cos, sin = math.cos(position * theta), math.sin(position * theta)
    rotation = torch.tensor([[cos, -sin], [sin, cos]], dtype=q.dtype, device=q.device)
    return q @ rotation.T  # 每一行 q 变成 R q


def score_by_offset(
    q: Float[Tensor, "*batch 2"], k: Float[Tensor, "*batch 2"], offset: float, theta: float
) -> Float[Tensor, "*batch"]:
    r"""二维旋转后的内积，直接由相对位置 m - n 算出：点积配余弦，叉积配正弦。

    Args:
        q: 二维查询。
        k: 二维键。
        offset: 相对位置 m - n（步），查询在后时为正。
        theta: 角频率 θ（弧度/步）。

    Returns:
        (q_0 k_0 + q_1 k_1)·cos + (q_0 k_1 - q_1 k_0)·sin，角度是 offset·θ。

    Raises:
        ValueError: q 或 k 的最后一维不是 2。

    出处:
        由式 (13)（arXiv:2104.09864v5）展开。

    示例:
        >>> score_by_offset(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 1.0, torch.pi / 2)
        tensor(1.)
    """
    for name, pair in (("q", q), ("k", k)):
        if pair.shape[-1:] != (2,):
            raise ValueError(f"{name} 的最后一维必须是 2，得到形状 {tuple(pair.shape)}")
    dot = q[..., 0] * k[..., 0] + q[..., 1] * k[..., 1]
    cross = q[..., 0] * k[..., 1] - q[..., 1] * k[..., 0]
    return dot * math.cos(offset * theta) + cross * math.sin(offset * theta)


def rotation_matrix(
    position: float, d: int, base: float = 10_000.0, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "d d"]:
    r"""位置 m 的 d×d 分块对角旋转矩阵，第 i 块是 R(m·θ_i)，交错布局。

    Args:
        position: 位置 m（步），整数或实数，可为负。
        d: 特征维数，正偶数。
        base: 底数 b（无量纲）。
        dtype: 返回值的浮点类型。

    Returns:
        正交矩阵；只作对照用，实际计算不必造出它。

    Raises:
        ValueError: d 不是正偶数，base 不是有限的正数，或 dtype 不是浮点类型。

    出处:
        Su et al. 2021, arXiv:2104.09864v5, 式 (15)。

    示例:
        >>> rotation_matrix(position=1.0, d=2)
        tensor([[ 0.5403, -0.8415],
                [ 0.8415,  0.5403]])
    """
    angles = position * inverse_frequencies(d, base, dtype)  # (pairs,)
    even, odd = torch.arange(0, d, 2), torch.arange(1, d, 2)
    matrix = torch.zeros(d, d, dtype=dtype)
    matrix[even, even] = matrix[odd, odd] = angles.cos()
    matrix[even, odd], matrix[odd, even] = -angles.sin(), angles.sin()
    return matrix
