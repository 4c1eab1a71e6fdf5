"""内积随相对距离的变化：傅里叶形式、Abel 变换、上界，以及上界何时有用。

约定:
    Δ = m - n 是查询位置减键位置（步）；h_i = z_i w_i*，z、w 是查询与键配成的复数；
    h_{d/2} 规定为 0；S_j 是前 j 个相位的部分和，S_0 = 0。
"""

import torch
from jaxtyping import Complex, Float, Num
from torch import Tensor

from formulary.rope.frequencies import inverse_frequencies


def pair_products(
    q: Float[Tensor, "*batch d"], k: Float[Tensor, "*batch d"]
) -> Complex[Tensor, "*batch pairs"]:
    r"""每对特征的复数乘积 h_i = (q_{2i} + i q_{2i+1})(k_{2i} + i k_{2i+1})*。

    Args:
        q: 查询，d 为偶数。
        k: 键，形状与 q 相同。

    Returns:
        d/2 个复数；实部之和就是内积 qᵀk。

    Raises:
        ValueError: d 为奇数，或 q、k 形状不同。

    出处:
        Su et al. 2021, arXiv:2104.09864v5, 3.4.3 节；苏剑林，kexue.fm/archives/8265, 式 (14)。

    示例:
        >>> pair_products(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0]))
        tensor([13.+1.j])
    """
    if q.shape != k.shape or q.shape[-1] % 2:
        raise ValueError(f"q 与 k 形状须相同且 d 为偶数，得到 {tuple(q.shape)} 与 {tuple(k.shape)}")
    z = torch.view_as_complex(q.unflatten(-1, (-1, 2)))  # (*batch, pairs)
    w = torch.view_as_complex(k.unflatten(-1, (-1, 2)))
    return z * w.conj()


def phases(
    deltas: Num[Tensor, " N"], d: int, base: float = 10_000.0, dtype: torch.dtype = torch.float32
) -> Complex[Tensor, "N pairs"]:
    r"""相对距离 Δ 给第 i 对特征带来的相位 exp(iΔθ_i)。

    Args:
        deltas: 相对距离 Δ = m - n（步），可为负。
        d: 特征维数，正偶数。
        base: 底数 b（无量纲）。
        dtype: 实部与虚部的浮点类型。

    Returns:
        单位圆上的复数，每行一个 Δ。

    Raises:
        ValueError: d 不是正偶数，或 base 不是有限的正数。

    出处:
        苏剑林，kexue.fm/archives/8265, 式 (14)。

    示例:
        >>> phases(torch.tensor([0, 1]), d=2)
        tensor([[1.0000+0.0000j],
                [0.5403+0.8415j]])
    """
    angles = deltas.to(dtype)[:, None] * inverse_frequencies(d, base, dtype)
    return torch.polar(torch.ones_like(angles), angles)


def score_curve(
    q: Float[Tensor, " d"],
    k: Float[Tensor, " d"],
    deltas: Num[Tensor, " N"],
    base: float = 10_000.0,
) -> Float[Tensor, " N"]:
    r"""内积作为相对距离的函数：d/2 个频率的三角和 Re Σ h_i exp(iΔθ_i)。

    Args:
        q: 查询，d 为偶数。
        k: 键。
        deltas: 相对距离 Δ = m - n（步）。
        base: 底数 b（无量纲）。

    Returns:
        每个 Δ 的内积，没有除以 √d。

    Raises:
        ValueError: d 为奇数，或 q、k 形状不同。

    出处:
        苏剑林，kexue.fm/archives/8265, 式 (14)。

    示例:
        >>> q, k = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
        >>> score_curve(q, k, torch.tensor([-1, 0, 1]))
        tensor([-0.8415,  0.0000,  0.8415])
    """
    h = pair_products(q, k)
    return (h * phases(deltas, len(q), base, q.dtype)).sum(-1).real


def partial_sums(
    deltas: Num[Tensor, " N"], d: int, base: float = 10_000.0, dtype: torch.dtype = torch.float32
) -> Complex[Tensor, "N pairs"]:
    r"""相位的部分和 S_1, …, S_{d/2}：S_j 是前 j 个 exp(iΔθ_i) 之和。

    Args:
        deltas: 相对距离 Δ（步）。
        d: 特征维数，正偶数。
        base: 底数 b（无量纲）。
        dtype: 实部与虚部的浮点类型。

    Returns:
        第 j 列（从 0 起）是 S_{j+1}。

    Raises:
        ValueError: d 不是正偶数，或 base 不是有限的正数。

    出处:
        苏剑林，kexue.fm/archives/8265, 式 (15)。

    示例:
        >>> partial_sums(torch.tensor([0]), d=6).real
        tensor([[1., 2., 3.]])
    """
    return phases(deltas, d, base, dtype).cumsum(-1)


def increments(h: Complex[Tensor, " pairs"]) -> Complex[Tensor, " pairs"]:
    r"""相邻两对的变化 h_{i+1} - h_i，最后一项按 h_{d/2} = 0 计。

    Args:
        h: 每对特征的复数乘积。

    Returns:
        与 h 同长；各项之和等于 -h_0。

    出处:
        苏剑林，kexue.fm/archives/8265, 式 (15)。

    示例:
        >>> increments(torch.tensor([5 + 0j, 2 + 1j])).real
        tensor([-3., -2.])
    """
    return torch.cat((h[1:], h.new_zeros(1))) - h


def abel_lines(
    h: Complex[Tensor, " pairs"], deltas: Num[Tensor, " N"], base: float = 10_000.0
) -> tuple[Complex[Tensor, " N"], Complex[Tensor, " N"], Complex[Tensor, " N"]]:
    r"""Abel 变换（分部求和）的三行：原和、差分写法、变换之后。

    Args:
        h: 每对特征的复数乘积。
        deltas: 相对距离 Δ（步）。
        base: 底数 b（无量纲）。

    Returns:
        Σ h_i exp(iΔθ_i)、Σ h_i(S_{i+1} - S_i)、-Σ S_{i+1}(h_{i+1} - h_i)，三者应相等。

    Raises:
        ValueError: h 是空的，或 base 不是有限的正数。

    出处:
        苏剑林，kexue.fm/archives/8265, 式 (15)。

    示例:
        >>> lines = abel_lines(torch.tensor([2 + 0j, 1 + 0j]), torch.tensor([0]))
        >>> [line.real.item() for line in lines]
        [3.0, 3.0, 3.0]
    """
    d, dtype = 2 * len(h), h.real.dtype
    sums = partial_sums(deltas, d, base, dtype)  # (N, pairs)
    with_zero = torch.cat((sums.new_zeros(len(deltas), 1), sums), dim=1)  # S_0, …, S_{d/2}
    direct = (h * phases(deltas, d, base, dtype)).sum(-1)
    return direct, (h * with_zero.diff(dim=1)).sum(-1), -(sums * increments(h)).sum(-1)
