"""RoPE 的生成元：为什么是矩阵指数，以及正交矩阵的幂为什么都能化成 RoPE。

约定:
    列向量；B 是反对称矩阵，R_n = exp(nB)；交错布局，(2i, 2i+1) 为一对。
    一般的正交矩阵 O 只对整数位置有定义：O 的 n 次幂。
"""

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.rope.frequencies import inverse_frequencies
from formulary.rope.rotation import rotate_interleaved


def generator(
    d: int, base: float = 10_000.0, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "d d"]:
    r"""RoPE 的生成元 B：第 i 个 2×2 块是 θ_i 乘以转 90° 的矩阵。

    Args:
        d: 特征维数，正偶数。
        base: 底数 b（无量纲）。
        dtype: 返回值的浮点类型。

    Returns:
        反对称矩阵 B，单位是弧度/步。

    Raises:
        ValueError: d 不是正偶数，或 base 不是有限的正数。

    出处:
        苏剑林，kexue.fm/archives/8397。

    示例:
        >>> generator(2)
        tensor([[ 0., -1.],
                [ 1.,  0.]])
    """
    quarter_turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=dtype)
    return torch.kron(torch.diag(inverse_frequencies(d, base, dtype)), quarter_turn)


def rotation_velocity(
    d: int, position: float, base: float = 10_000.0, dtype: torch.dtype = torch.float32
) -> tuple[Float[Tensor, "d d"], Float[Tensor, "d d"]]:
    r"""旋转矩阵对位置的导数：逐元素求导，与 B R_t 对照。

    Args:
        d: 特征维数，正偶数。
        position: 求导处的位置 t（步）。
        base: 底数 b（无量纲）。
        dtype: 返回值的浮点类型。

    Returns:
        dR_t/dt 与 B R_t，两者应相等。

    Raises:
        ValueError: d 不是正偶数，或 base 不是有限的正数。

    出处:
        对 R_{t+s} = R_s R_t 在 s = 0 处求导。

    示例:
        >>> rotation_velocity(2, 0.0)[0] + 0.0
        tensor([[ 0., -1.],
                [ 1.,  0.]])
    """
    velocity_at_zero = generator(d, base, dtype)  # B

    def rotation(t: Float[Tensor, ""]) -> Float[Tensor, "d d"]:
        return rotate_interleaved(torch.eye(d, dtype=dtype), t.expand(d), base).T

    t = torch.tensor(position, dtype=dtype)
    derivative = torch.autograd.functional.jacobian(rotation, t)
    return derivative, velocity_at_zero @ rotation(t)


def exponential_rotation(
    d: int, position: float, base: float = 10_000.0, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "d d"]:
    r"""用矩阵指数写出的旋转矩阵 R_n = exp(nB)。

    Args:
        d: 特征维数，正偶数。
        position: 位置 n（步），任意实数。
        base: 底数 b（无量纲）。
        dtype: 返回值的浮点类型。

    Returns:
        d×d 的旋转矩阵。

    Raises:
        ValueError: d 不是正偶数，或 base 不是有限的正数。

    出处:
        苏剑林，kexue.fm/archives/8397、kexue.fm/archives/9403。

    示例:
        >>> exponential_rotation(2, torch.pi).round() + 0.0
        tensor([[-1.,  0.],
                [ 0., -1.]])
    """
    return torch.linalg.matrix_exp(position * generator(d, base, dtype))


def bch_exponent(matrix: Float[Tensor, "d d"], m: float, n: float) -> Float[Tensor, "d d"]:
    r"""BCH 展开到二阶：exp(mBᵀ)exp(nB) 的指数 mBᵀ + nB + mn[Bᵀ, B]/2。

    Args:
        matrix: 任意方阵 B，不必反对称。
        m: 查询的位置（步）。
        n: 键的位置（步）。

    Returns:
        截到二阶的指数；B 反对称时恰为 (n-m)B。

    Raises:
        ValueError: matrix 不是方阵。

    出处:
        苏剑林，kexue.fm/archives/9403；Baker–Campbell–Hausdorff 公式。

    示例:
        >>> bch_exponent(torch.tensor([[0.0, -1.0], [1.0, 0.0]]), m=2.0, n=5.0)
        tensor([[ 0., -3.],
                [ 3.,  0.]])
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"matrix 必须是方阵，得到形状 {tuple(matrix.shape)}")
    commutator = matrix.T @ matrix - matrix @ matrix.T  # [Bᵀ, B]
    return m * matrix.T + n * matrix + m * n / 2 * commutator


def orthogonal_scores(
    q: Float[Tensor, " d"], k: Float[Tensor, " d"], matrix: Float[Tensor, "d d"], m: int, n: int
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    r"""用正交矩阵的幂编码位置：绝对写法与相对写法的内积。

    Args:
        q: 查询。
        k: 键。
        matrix: 正交矩阵 O，行列式可以是 1 或 -1。
        m: 查询的位置，整数，可为负。
        n: 键的位置，整数，可为负。

    Returns:
        (O^m q)ᵀ(O^n k) 与 qᵀO^{n-m}k，两者应相等。

    Raises:
        ValueError: matrix 不是 d×d 的方阵。

    出处:
        苏剑林，kexue.fm/archives/9403。

    示例:
        >>> swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> orthogonal_scores(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0]), swap, 1, 2)
        (tensor(11.), tensor(11.))
    """
    d = len(q)
    if matrix.shape != (d, d):
        raise ValueError(f"matrix 的形状必须是 (d, d) = ({d}, {d})，得到 {tuple(matrix.shape)}")
    query_power = torch.linalg.matrix_power(matrix, m)
    key_power = torch.linalg.matrix_power(matrix, n)
    relative_power = torch.linalg.matrix_power(matrix, n - m)
    return (query_power @ q) @ (key_power @ k), q @ relative_power @ k


def canonical_form(
    matrix: Float[Tensor, "d d"],
) -> tuple[Float[Tensor, "d d"], Float[Tensor, " pairs"]]:
    r"""旋转矩阵的标准形 O = V(⊕ R(ϑ_i))Vᵀ：逐个找出不变平面与其中的转角。

    Args:
        matrix: 行列式为 1 的正交矩阵 O，d 为偶数。

    Returns:
        正交矩阵 V（第 2i、2i+1 列张成第 i 个不变平面）与转角 ϑ_i（弧度），ϑ_i ∈ [0, π]，升序。

    Raises:
        ValueError: d 为奇数，matrix 不是正交矩阵，或行列式为 -1。

    约定:
        对称部分 (O + Oᵀ)/2 的特征值是 cos ϑ_i；每次取最大的一个，再在正交补里重复。

    出处:
        苏剑林，kexue.fm/archives/9403；实 Schur 分解。

    示例:
        >>> canonical_form(torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))[1].round(decimals=4)
        tensor([1.5708])
    """
    d = len(matrix)
    tolerance = torch.finfo(matrix.dtype).eps ** 0.5
    error = (matrix.T @ matrix - torch.eye(d, dtype=matrix.dtype)).abs().max()
    if d % 2 or error > tolerance:
        raise ValueError(f"matrix 须是偶数阶正交矩阵，得到 d={d}、OᵀO 与单位阵相差 {error:.1e}")
    if torch.linalg.det(matrix) < 0:
        raise ValueError("matrix 的行列式须是 1，得到 -1：反射没有只含旋转的标准形")
    basis, angles = matrix.new_zeros(d, 0), []
    for done in range(0, d, 2):
        complement = torch.linalg.qr(basis, mode="complete").Q[:, done:]  # 已有平面的正交补
        symmetric = complement.T @ (matrix + matrix.T) @ complement  # 特征值 2cos ϑ
        vectors = complement @ torch.linalg.eigh(symmetric).eigenvectors  # 按 cos ϑ 升序
        u = vectors[:, -1]
        cos = u @ matrix @ u
        image = matrix @ u - cos * u  # 长度是 sin ϑ
        sin = torch.linalg.vector_norm(image)
        w = image / sin if sin > tolerance else vectors[:, -2]  # ϑ 为 0 或 π 时任取一个
        basis = torch.cat((basis, u[:, None], w[:, None]), dim=1)
        angles.append(torch.atan2(sin, cos))
    return basis, torch.stack(angles)


def canonical_scores(
    q: Float[Tensor, " d"], k: Float[Tensor, " d"], matrix: Float[Tensor, "d d"], m: int, n: int
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    r"""正交矩阵的幂给出的内积，与换基之后的 RoPE 给出的内积。

    Args:
        q: 查询。
        k: 键。
        matrix: 行列式为 1 的正交矩阵 O，d 为偶数。
        m: 查询的位置，整数。
        n: 键的位置，整数。

    Returns:
        (O^m q)ᵀ(O^n k) 与 (R_m Vᵀq)ᵀ(R_n Vᵀk)，两者应相等。

    Raises:
        ValueError: matrix 不是行列式为 1 的偶数阶正交矩阵，或形状与 q 不符。

    出处:
        苏剑林，kexue.fm/archives/9403。

    示例:
        >>> turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
        >>> scores = canonical_scores(torch.ones(2), torch.tensor([3.0, 1.0]), turn, 0, 1)
        >>> [round(score.item(), 4) for score in scores]
        [2.0, 2.0]
    """
    power, _ = orthogonal_scores(q, k, matrix, m, n)
    basis, angles = canonical_form(matrix)
    z = torch.view_as_complex((basis.T @ q).unflatten(0, (-1, 2)))  # (pairs,)
    w = torch.view_as_complex((basis.T @ k).unflatten(0, (-1, 2)))
    unit = torch.ones_like(angles)
    rotated = z * torch.polar(unit, m * angles) * (w * torch.polar(unit, n * angles)).conj()
    return power, rotated.sum().real
