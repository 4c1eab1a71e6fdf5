"""二维 RoPE：轴向、混合频率，以及由可交换反对称矩阵给出的一般形式。

约定:
    位置写成 (x, y)，x 是列号（向右），y 是行号（向下）；特征对按交错布局 (2i, 2i+1)。
    角度在 float32（输入是 float64 时在 float64）里计算，单位是弧度。
"""

import torch
from jaxtyping import Float, Num
from torch import Tensor

from formulary.rope.rotation import rotate_interleaved


def rotate_axial(
    x: Float[Tensor, "*batch T d"], positions: Num[Tensor, "T 2"], base: float = 100.0
) -> Float[Tensor, "*batch T d"]:
    r"""轴向二维 RoPE：前一半特征按 x 坐标旋转，后一半按 y 坐标旋转。

    Args:
        x: 查询或键，每行一个词元，d 是 4 的倍数。
        positions: 各词元的坐标 (x, y)（格），整数或实数。
        base: 底数 b（无量纲）；图像边长只有几十格，常取 100。

    Returns:
        旋转后的 x，形状与 dtype 不变；每对特征的范数不变。

    Raises:
        ValueError: x 少于两维，d 不是 4 的倍数，或 positions 的形状不是 (T, 2)。

    约定:
        每一半各有 d/4 对，角频率 base^(-4i/d)，i 从 0 起。

    出处:
        苏剑林，科学空间 8397（二维情形）；Heo et al. 2024, arXiv:2403.13298（base = 100）。

    示例:
        >>> x = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
        >>> rotate_axial(x, torch.tensor([[0.0, torch.pi]])).round() + 0.0
        tensor([[ 1.,  0., -1.,  0.]])
    """
    if x.ndim < 2 or x.shape[-1] % 4:
        raise ValueError(f"x 的形状须为 (..., T, d)，d 是 4 的倍数，得到 {tuple(x.shape)}")
    if positions.shape != (x.shape[-2], 2):
        raise ValueError(
            f"positions 的形状须为 (T, 2) = ({x.shape[-2]}, 2)，得到 {tuple(positions.shape)}"
        )
    by_x, by_y = x.chunk(2, dim=-1)  # (*batch, T, d/2)
    rotated_x = rotate_interleaved(by_x, positions[:, 0], base)
    rotated_y = rotate_interleaved(by_y, positions[:, 1], base)
    return torch.cat((rotated_x, rotated_y), dim=-1)  # (*batch, T, d)


def axial_scores(
    q: Float[Tensor, " d"],
    k: Float[Tensor, " d"],
    offsets: Num[Tensor, "N 2"],
    base: float = 100.0,
) -> Float[Tensor, "N 2"]:
    r"""轴向二维 RoPE 的内积拆成两项：只看 Δx 的一项与只看 Δy 的一项。

    Args:
        q: 查询向量，d 是 4 的倍数。
        k: 键向量。
        offsets: 键的坐标减查询的坐标 (Δx, Δy)（格）。
        base: 底数 b（无量纲）。

    Returns:
        每行是 (f(Δx), g(Δy))，两列之和就是没有除以 √d 的内积。

    Raises:
        ValueError: q 与 k 不是同长的向量，d 不是 4 的倍数，或 offsets 的形状不是 (N, 2)。

    出处:
        由 rotate_axial 的分块结构直接得到。

    示例:
        >>> q = torch.tensor([1.0, 0.0, 2.0, 0.0])
        >>> axial_scores(q, q, torch.tensor([[torch.pi, 0.0]])).round()
        tensor([[-1.,  4.]])
    """
    if q.ndim != 1 or q.shape != k.shape or len(q) % 4:
        raise ValueError(
            f"q、k 须为同长的向量，长度是 4 的倍数，得到 {tuple(q.shape)}、{tuple(k.shape)}"
        )
    if offsets.ndim != 2 or offsets.shape[1] != 2:
        raise ValueError(f"offsets 的形状须为 (N, 2)，得到 {tuple(offsets.shape)}")
    rotated = rotate_axial(k.expand(len(offsets), -1), offsets, base)  # (N, d)
    return (q * rotated).unflatten(-1, (2, -1)).sum(dim=-1)


def rotate_mixed(
    x: Float[Tensor, "*batch H T d"],
    positions: Num[Tensor, "T 2"],
    frequencies: Float[Tensor, "H pairs 2"],
) -> Float[Tensor, "*batch H T d"]:
    r"""混合频率二维 RoPE：每对特征旋转 θ^x·p^x + θ^y·p^y，频率向量逐头可学。

    Args:
        x: 查询或键，d 为偶数。
        positions: 各词元的坐标 (p^x, p^y)（格）。
        frequencies: 各头、各对特征的角频率 (θ^x, θ^y)（弧度/格）。

    Returns:
        旋转后的 x，形状与 dtype 不变；对 frequencies 可求导。

    Raises:
        ValueError: x 少于三维，frequencies 的形状不是 (H, d/2, 2)，或 positions 的形状不是
            (T, 2)。

    出处:
        Heo et al. 2024, arXiv:2403.13298（RoPE-Mixed）；naver-ai/rope-vit `compute_mixed_cis`。

    示例:
        >>> x = torch.tensor([[[1.0, 0.0]]])
        >>> theta = torch.tensor([[[torch.pi / 4, torch.pi / 4]]])
        >>> rotate_mixed(x, torch.tensor([[1.0, 1.0]]), theta).round() + 0.0
        tensor([[[0., 1.]]])
    """
    if x.ndim < 3:
        raise ValueError(f"x 至少要有 (H, T, d) 三维，得到形状 {tuple(x.shape)}")
    heads, tokens, d = x.shape[-3:]
    if d % 2 or frequencies.shape != (heads, d // 2, 2):
        raise ValueError(
            f"frequencies 的形状须为 (H, d/2, 2)，得到 {tuple(frequencies.shape)}，"
            f"而 x 的形状是 {tuple(x.shape)}"
        )
    if positions.shape != (tokens, 2):
        raise ValueError(
            f"positions 的形状须为 (T, 2) = ({tokens}, 2)，得到 {tuple(positions.shape)}"
        )
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    angles = torch.einsum("tc,hpc->htp", positions.to(dtype), frequencies.to(dtype))
    cos, sin = angles.cos(), angles.sin()  # (H, T, pairs)
    even, odd = x[..., 0::2], x[..., 1::2]
    rotated = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return rotated.flatten(-2).to(x.dtype)  # (*batch, H, T, d)


def rotation_from_generators(
    generators: Float[Tensor, "2 d d"], position: Num[Tensor, " 2"]
) -> Float[Tensor, "d d"]:
    r"""由两个生成元给出的二维旋转 exp(x·B₁ + y·B₂)。

    Args:
        generators: 生成元 B₁、B₂；反对称且可交换时才得到相对位置编码。
        position: 坐标 (x, y)（格）。

    Returns:
        d×d 矩阵；生成元反对称时是正交矩阵。

    出处:
        苏剑林，科学空间 8397。

    示例:
        >>> turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]]) * torch.pi / 4
        >>> generators = torch.stack((turn, turn))
        >>> rotation_from_generators(generators, torch.tensor([1, 1])).round() + 0.0
        tensor([[ 0., -1.],
                [ 1.,  0.]])
    """
    return torch.matrix_exp(torch.einsum("c,cij->ij", position.to(generators.dtype), generators))


def relative_rotation_steps(
    generators: Float[Tensor, "2 d d"], first: Num[Tensor, " 2"], second: Num[Tensor, " 2"]
) -> Float[Tensor, "3 d d"]:
    r"""二维相对性推导的三步：转置之积、用反对称、用可交换。

    Args:
        generators: 生成元 B₁、B₂。
        first: 查询的坐标 (x₁, y₁)（格）。
        second: 键的坐标 (x₂, y₂)（格）。

    Returns:
        依次是 R₁ᵀR₂、exp(-x₁B₁-y₁B₂)·exp(x₂B₁+y₂B₂)、exp((x₂-x₁)B₁+(y₂-y₁)B₂)。
        生成元反对称时前两个相等，又可交换时三个都相等。

    出处:
        苏剑林，科学空间 8397。

    示例:
        >>> turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
        >>> a, b = torch.tensor([1, 2]), torch.tensor([3, 5])
        >>> steps = relative_rotation_steps(torch.stack((turn, turn / 2)), a, b)
        >>> torch.allclose(steps[0], steps[2], atol=1e-6)
        True
    """
    transposed = rotation_from_generators(generators, first).mT
    reached = rotation_from_generators(generators, second)
    inverse = rotation_from_generators(generators, -first)
    direct = rotation_from_generators(generators, second - first)
    return torch.stack((transposed @ reached, inverse @ reached, direct))
