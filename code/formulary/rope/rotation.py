"""RoPE 的旋转：两种特征布局，各一个照着公式读的写法和一个快的写法。

约定:
    交错布局把相邻两维 (2i, 2i+1) 当作一对（RoFormer、GPT-J、Meta Llama）；
    对半布局把 (i, i + d/2) 当作一对（GPT-NeoX、Hugging Face 的 Llama）。
    正位置沿逆时针方向旋转；角度在 float32（输入是 float64 时在 float64）里计算，
    结果最后转回输入的 dtype。
"""

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from formulary.rope.frequencies import inverse_frequencies


def rotation_table(
    x: Float[Tensor, "*batch T d"], positions: Num[Tensor, " T"], base: float
) -> tuple[Float[Tensor, "T pairs"], Float[Tensor, "T pairs"]]:
    r"""各位置、各对特征的转角的余弦与正弦，两种布局共用。

    Args:
        x: 将被旋转的张量，只取它的形状、dtype 与设备。
        positions: 各词元的位置（步），整数或实数。
        base: 底数 b（无量纲），有限的正数。

    Returns:
        余弦表与正弦表；x 是 float64 时为 float64，否则为 float32。

    Raises:
        ValueError: x 不是实浮点张量、少于两维或最后一维不是正偶数；
            positions 不是长为 T 的实数张量；base 不是有限的正数。

    出处:
        Su et al. 2021, arXiv:2104.09864v5, 式 (34)。

    示例:
        >>> cos, sin = rotation_table(torch.ones(3, 4), torch.arange(3), base=100.0)
        >>> sin
        tensor([[0.0000, 0.0000],
                [0.8415, 0.0998],
                [0.9093, 0.1987]])
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise ValueError(f"x 必须是实浮点张量，得到 {getattr(x, 'dtype', type(x))}")
    if x.ndim < 2 or x.shape[-1] == 0 or x.shape[-1] % 2:
        raise ValueError(f"x 的形状必须是 (..., T, d) 且最后一维 d 为正偶数，得到 {tuple(x.shape)}")
    if not isinstance(positions, Tensor) or positions.is_complex() or positions.dtype == torch.bool:
        kind = getattr(positions, "dtype", type(positions))
        raise ValueError(f"positions 必须是整数或实数张量，得到 {kind}")
    tokens, d = x.shape[-2:]
    if positions.shape != (tokens,):
        raise ValueError(
            f"positions 的形状必须是 (T,) = ({tokens},)，得到 {tuple(positions.shape)}"
        )
    # bfloat16 里的整数到第 257 个位置就错了，所以角度至少用 float32
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    theta = inverse_frequencies(d, base, dtype).to(x.device)
    angles = positions.to(x.device, dtype)[:, None] * theta  # (T, pairs)
    return angles.cos(), angles.sin()


def rotate_interleaved(
    x: Float[Tensor, "*batch T d"],
    positions: Num[Tensor, " T"],
    base: float = 10_000.0,
) -> Float[Tensor, "*batch T d"]:
    r"""交错布局：把第 t 个词元的每对特征 (2i, 2i+1) 旋转角度 positions[t]·θ_i。

    Args:
        x: 查询或键，每行一个词元，d 为偶数。
        positions: 各词元的位置（步），整数或实数。
        base: 底数 b（无量纲）。

    Returns:
        旋转后的 x，形状与 dtype 不变；每对特征的范数不变。

    Raises:
        ValueError: x、positions 或 base 不合要求，条件同 rotation_table。

    出处:
        Su et al. 2021, arXiv:2104.09864v5, 式 (34)。

    示例:
        >>> rotate_interleaved(torch.tensor([[1.0, 0.0, 0.0, 1.0]]), torch.tensor([1]), base=100.0)
        tensor([[ 0.5403,  0.8415, -0.0998,  0.9950]])
    """
    cos, sin = rotation_table(x, positions, base)
    wide = x.to(cos.dtype)
    even, odd = wide[..., 0::2], wide[..., 1::2]  # (*batch, T, pairs)
    rotated = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return rotated.flatten(-2).to(x.dtype)  # (*batch, T, d)


def rotate_interleaved_fast(
    x: Float[Tensor, "*batch T d"],
    positions: Num[Tensor, " T"],
    base: float = 10_000.0,
) -> Float[Tensor, "*batch T d"]:
    r"""交错布局的快写法：把每对特征看成一个复数，乘以 exp(i·positions[t]·θ_i)。

    Args:
        x: 查询或键，每行一个词元，d 为偶数；不连续的 x 会先复制一份。
        positions: 各词元的位置（步），整数或实数。
        base: 底数 b（无量纲）。

    Returns:
        旋转后的 x，与 rotate_interleaved 相同（末位舍入除外）。

    Raises:
        ValueError: x、positions 或 base 不合要求，条件同 rotation_table。

    约定:
        偶数维是实部，奇数维是虚部；交错布局在内存里就是复数数组，取视图不用搬动数据。

    出处:
        Touvron et al. 2023 的官方实现，meta-llama/llama, `apply_rotary_emb`。

    示例:
        >>> x = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
        >>> rotate_interleaved_fast(x, torch.tensor([1]), base=100.0)
        tensor([[ 0.5403,  0.8415, -0.0998,  0.9950]])
    """
    cos, sin = rotation_table(x, positions, base)
    pairs = x.to(cos.dtype).contiguous().unflatten(-1, (-1, 2))  # (*batch, T, pairs, 2)
    rotated = torch.view_as_complex(pairs) * torch.complex(cos, sin)  # (*batch, T, pairs)
    return torch.view_as_real(rotated).flatten(-2).to(x.dtype)  # (*batch, T, d)


def rotate_half_split(
    x: Float[Tensor, "*batch T d"],
    positions: Num[Tensor, " T"],
    base: float = 10_000.0,
) -> Float[Tensor, "*batch T d"]:
    r"""对半布局：把第 t 个词元的每对特征 (i, i + d/2) 旋转角度 positions[t]·θ_i。

    Args:
        x: 查询或键，每行一个词元，d 为偶数。
        positions: 各词元的位置（步），整数或实数。
        base: 底数 b（无量纲）。

    Returns:
        旋转后的 x，形状与 dtype 不变；每对特征的范数不变。

    Raises:
        ValueError: x、positions 或 base 不合要求，条件同 rotation_table。

    出处:
        Hugging Face transformers 5.23.0, `apply_rotary_pos_emb`。

    示例:
        >>> rotate_half_split(torch.tensor([[1.0, 0.0, 0.0, 1.0]]), torch.tensor([1]), base=100.0)
        tensor([[ 0.5403, -0.0998,  0.8415,  0.9950]])
    """
    cos, sin = rotation_table(x, positions, base)
    first, second = x.to(cos.dtype).chunk(2, dim=-1)  # (*batch, T, pairs)
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return rotated.to(x.dtype)


def rotate_half_split_fast(
    x: Float[Tensor, "*batch T d"],
    positions: Num[Tensor, " T"],
    base: float = 10_000.0,
) -> Float[Tensor, "*batch T d"]:
    r"""对半布局的快写法：先整体乘余弦，再把对面一半乘正弦就地加进来。

    Args:
        x: 查询或键，每行一个词元，d 为偶数。
        positions: 各词元的位置（步），整数或实数。
        base: 底数 b（无量纲）。

    Returns:
        旋转后的 x，与 rotate_half_split 相同（末位舍入除外）；x 本身不变。

    Raises:
        ValueError: x、positions 或 base 不合要求，条件同 rotation_table。

    约定:
        rot([u; v]) = [-v; u] 不单独存成张量，省去一次取负与一次拼接。

    出处:
        Hugging Face transformers 5.23.0, `apply_rotary_pos_emb` 的同一公式。

    示例:
        >>> x = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
        >>> rotate_half_split_fast(x, torch.tensor([1]), base=100.0)
        tensor([[ 0.5403, -0.0998,  0.8415,  0.9950]])
    """
    cos, sin = rotation_table(x, positions, base)
    half = x.shape[-1] // 2
    wide = x.to(cos.dtype)
    rotated = wide * torch.cat((cos, cos), dim=-1)  # (*batch, T, d)
    rotated[..., :half].addcmul_(wide[..., half:], sin, value=-1)
    rotated[..., half:].addcmul_(wide[..., :half], sin)
    return rotated.to(x.dtype)


def interleaved_to_half_split(d: int) -> Int[Tensor, " d"]:
    r"""把交错布局变成对半布局的置换：x[..., p] 的前一半是偶数维，后一半是奇数维。

    Args:
        d: 特征维数，正偶数。

    Returns:
        置换 p = (0, 2, …, d-2, 1, 3, …, d-1)；torch.argsort(p) 是它的逆。

    Raises:
        ValueError: d 不是正偶数。

    约定:
        (P x)_j = x_{p_j}，下标从 0 起。

    出处:
        Hugging Face transformers, issue #25199。

    示例:
        >>> interleaved_to_half_split(6)
        tensor([0, 2, 4, 1, 3, 5])
    """
    if not isinstance(d, int) or d < 2 or d % 2:
        raise ValueError(f"d 必须是正偶数（每两维为一对），得到 d={d!r}")
    return torch.cat((torch.arange(0, d, 2), torch.arange(1, d, 2)))
