"""多模态 RoPE（M-RoPE）：一个词元三个位置号 (t, h, w)，各占一部分特征对。

约定:
    轴的编号 0、1、2 依次是时间 t、高 h、宽 w；位置号从 0 起。
    网格按 patch 合并之后的大小计，一格一个词元；词元按 (t, h, w) 的行优先次序排列。
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from formulary.rope.frequencies import inverse_frequencies


def mrope_axes(sections: Sequence[int]) -> Int[Tensor, " pairs"]:
    r"""分段分配：前 s_t 对特征看 t，接着 s_h 对看 h，最后 s_w 对看 w。

    Args:
        sections: 三段的对数 (s_t, s_h, s_w)，和为 d/2；Qwen2-VL 是 (16, 24, 24)。

    Returns:
        第 i 对特征所看的轴 a(i)，取值 0、1、2。

    Raises:
        ValueError: sections 不是三个非负整数，或和为 0。

    出处:
        Wang et al. 2024, arXiv:2409.12191；transformers 5.23.0 `Qwen2VLRotaryEmbedding`。

    示例:
        >>> mrope_axes((1, 2, 2))
        tensor([0, 1, 1, 2, 2])
    """
    if len(sections) != 3 or min(sections) < 0 or sum(sections) == 0:
        raise ValueError(f"sections 须为三个非负整数且不全为 0，得到 {tuple(sections)}")
    return torch.arange(3).repeat_interleave(torch.tensor(tuple(sections)))


def mrope_interleaved_axes(sections: Sequence[int]) -> Int[Tensor, " pairs"]:
    r"""交替分配：特征对按 t、h、w、t、h、w…… 轮流看三个轴，用完名额的轴让给 t。

    Args:
        sections: 三个轴的对数 (s_t, s_h, s_w)，和为 d/2；Qwen3-VL 是 (24, 20, 20)。

    Returns:
        第 i 对特征所看的轴 a(i)，取值 0、1、2。

    Raises:
        ValueError: sections 不是三个非负整数，或 h、w 的名额多到排不下。

    出处:
        transformers 5.23.0 `Qwen3VLTextRotaryEmbedding`；Huang et al. 2025, arXiv:2510.23095。

    示例:
        >>> mrope_interleaved_axes((3, 2, 1))
        tensor([0, 1, 2, 0, 1, 0])
    """
    if len(sections) != 3 or min(sections) < 0:
        raise ValueError(f"sections 须为三个非负整数，得到 {tuple(sections)}")
    i = torch.arange(sum(sections))
    is_h = (i % 3 == 1) & (i < 3 * sections[1])
    is_w = (i % 3 == 2) & (i < 3 * sections[2])
    axes = is_h.long() + 2 * is_w.long()
    if axes.bincount(minlength=3).tolist() != list(sections):
        raise ValueError(f"sections 里 h 或 w 的名额排不下，得到 {tuple(sections)}")
    return axes


def mrope_angles(
    positions: Num[Tensor, "3 T"],
    axes: Int[Tensor, " pairs"],
    base: float = 1_000_000.0,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "T pairs"]:
    r"""M-RoPE 的转角：第 i 对特征转「它所看的轴上的位置号」乘 θ_i。

    Args:
        positions: 各词元的位置号，三行依次是 t、h、w（步或格）。
        axes: 第 i 对特征所看的轴 a(i)，由 mrope_axes 或 mrope_interleaved_axes 给出。
        base: 底数 b（无量纲）。
        dtype: 角度的浮点类型。

    Returns:
        各词元、各对特征的转角（弧度）；t = h = w 时就是一维 RoPE 的转角。

    Raises:
        ValueError: positions 不是三行，或 axes 里有 0、1、2 以外的值。

    出处:
        Wang et al. 2024, arXiv:2409.12191；transformers 5.23.0 `Qwen2VLRotaryEmbedding`。

    示例:
        >>> positions = torch.tensor([[7], [8], [9]])
        >>> mrope_angles(positions, torch.tensor([0, 1, 2]), base=1000.0).round(decimals=4)
        tensor([[7.0000, 0.8000, 0.0900]])
    """
    if positions.ndim != 2 or len(positions) != 3:
        raise ValueError(f"positions 的形状须为 (3, T)，得到 {tuple(positions.shape)}")
    if axes.min() < 0 or axes.max() > 2:
        raise ValueError(f"axes 的值须为 0、1、2，得到 {axes.tolist()}")
    theta = inverse_frequencies(2 * len(axes), base, dtype)
    return positions.to(dtype)[axes].T * theta  # (T, pairs)


def mrope_position_ids(
    segments: Sequence[int | tuple[int, int, int]], interval: float = 1.0
) -> Int[Tensor, "3 T"]:
    r"""图文混排序列的位置号：文本三行相同，图像与视频按网格编号，段间接着最大值往下数。

    Args:
        segments: 依次排列的段；整数 n 是 n 个文本词元，三元组 (帧数, 行数, 列数) 是
            一幅图（帧数为 1）或一段视频合并 patch 之后的网格。
        interval: 相邻两帧的时间号之差 τ（步），可以是小数；Qwen2-VL 取 1，
            Qwen2.5-VL 取 tokens_per_second 乘每帧网格的秒数。

    Returns:
        三行依次是 t、h、w；一列一个词元。

    Raises:
        ValueError: segments 为空，某段不是正整数或三个正整数，或 interval 为负。

    约定:
        先乘后取整：第 f 帧的时间号是 ⌊f·τ⌋ 加段的起点。

    出处:
        Wang et al. 2024, arXiv:2409.12191；transformers 5.2.0 `get_rope_index`。

    示例:
        >>> mrope_position_ids([2, (1, 1, 3), 1])
        tensor([[0, 1, 2, 2, 2, 5],
                [0, 1, 2, 2, 2, 5],
                [0, 1, 2, 3, 4, 5]])
    """
    if not segments or interval < 0:
        raise ValueError(f"segments 不能为空且 interval 不能为负，得到 {segments}、{interval}")
    start, blocks = 0, []
    for segment in segments:
        grid = (segment,) * 3 if isinstance(segment, int) else segment
        if len(grid) != 3 or min(grid) < 1:
            raise ValueError(f"segments 的每段须为正整数或三个正整数，得到 {segment}")
        if isinstance(segment, int):
            block = torch.arange(segment).expand(3, -1)
        else:
            frames, rows, columns = grid
            times = (torch.arange(frames) * interval).long()
            axes = (times, torch.arange(rows), torch.arange(columns))
            block = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)
        blocks.append(start + block)
        start = 1 + int(blocks[-1].max())
    return torch.cat(blocks, dim=1)  # (3, T)
