"""检查点要多少内存、多算几层：公式与最优的段数。"""

import math
from collections.abc import Sequence

from formulary.checks import require_count


def segment_lengths(layers: int, segments: int) -> list[int]:
    r"""checkpoint_sequential 怎样分段：前几段等长，除不尽的都归最后一段。

    Args:
        layers: 层数 $L$。
        segments: 段数 $s$，不超过层数。

    Returns:
        各段的层数。

    Raises:
        ValueError: layers 或 segments 不是正整数，或段数多于层数。

    出处:
        torch.utils.checkpoint.checkpoint_sequential，PyTorch 2.13。

    示例:
        >>> segment_lengths(16, 4), segment_lengths(16, 6)
        ([4, 4, 4, 4], [2, 2, 2, 2, 2, 6])
    """
    require_count("layers", layers)
    require_count("segments", segments)
    if segments > layers:
        raise ValueError(f"segments 不能超过层数 {layers}，得到 {segments}")
    length = layers // segments
    return [length] * (segments - 1) + [layers - (segments - 1) * length]


def checkpoint_bytes(layers: int, segments: int, boundary: int, layer: int) -> int:
    r"""前向结束时存着的字节数：每段一份输入，最后一段另有全部中间结果。

    Args:
        layers: 层数 $L$。
        segments: 段数 $s$。
        boundary: 一份段输入的大小 $a$（B）。
        layer: 一层为反向保存的大小 $c$（B）。

    Returns:
        $M(s)$（B）。

    Raises:
        ValueError: 有参数不是正整数，或段数多于层数。

    约定:
        checkpoint_sequential 的最后一段不设检查点，因为反向一开始就要用它。

    出处:
        Chen et al. 2016, arXiv:1604.06174；分段的零头是本站补上的。

    示例:
        >>> [checkpoint_bytes(16, s, 2, 3) for s in (1, 2, 4, 8, 16)]  # 单位 0.5 MiB
        [50, 28, 20, 22, 35]
    """
    require_count("boundary", boundary)
    require_count("layer", layer)
    return segments * boundary + segment_lengths(layers, segments)[-1] * layer


def checkpoint_optimum(layers: int, boundary: float, layer: float) -> tuple[float, float]:
    r"""段数当作实数时，使 sa + Lc/s 最小的段数与那个最小值。

    Args:
        layers: 层数 $L$。
        boundary: 一份段输入的大小 $a$（B）。
        layer: 一层为反向保存的大小 $c$（B）。

    Returns:
        $s^\star=\sqrt{cL/a}$ 与 $M^\star=2\sqrt{acL}$（B）。

    Raises:
        ValueError: layers 不是正整数，或 boundary、layer 不是正数。

    出处:
        Chen et al. 2016, arXiv:1604.06174。

    示例:
        >>> checkpoint_optimum(16, boundary=1.0, layer=1.0)
        (4.0, 8.0)
    """
    require_count("layers", layers)
    for name, size in (("boundary", boundary), ("layer", layer)):
        if not size > 0:
            raise ValueError(f"{name} 必须是正数，得到 {size!r}")
    return math.sqrt(layer * layers / boundary), 2 * math.sqrt(boundary * layer * layers)


def checkpoint_peak_bytes(lengths: Sequence[int], boundary: int, layer: int) -> int:
    r"""每段都设检查点、长度任意时，整个反向途中的峰值。

    Args:
        lengths: 各段的层数 $n_1,\dots,n_s$。
        boundary: 一份段输入的大小 $a$（B）。
        layer: 一层为反向保存的大小 $c$（B）。

    Returns:
        $\max_k(ka+n_kc)$（B）。

    Raises:
        ValueError: lengths 为空，或有参数不是正整数。

    约定:
        段的次序从 1 起；反向到第 k 段时，前 k 段的输入还在，第 k 段的中间结果刚重算出来。

    示例:
        >>> checkpoint_peak_bytes([5, 4, 3, 2, 1], 1, 1), checkpoint_peak_bytes([3] * 5, 1, 1)
        (6, 8)
    """
    if not lengths:
        raise ValueError("lengths 至少要有一段，得到空列表")
    for name, size in (("boundary", boundary), ("layer", layer)):
        require_count(name, size)
    for length in lengths:
        require_count("lengths 的每一项", length)
    return max(k * boundary + n * layer for k, n in enumerate(lengths, start=1))


def recomputed_layers(layers: int, segments: int) -> int:
    r"""checkpoint_sequential 在反向里重算几层：除最后一段以外都重算一遍。

    Args:
        layers: 层数 $L$。
        segments: 段数 $s$。

    Returns:
        重算的层数。

    Raises:
        ValueError: layers 或 segments 不是正整数，或段数多于层数。

    示例:
        >>> [recomputed_layers(16, s) for s in (1, 2, 4, 8, 16)]
        [0, 8, 12, 14, 15]
    """
    return layers - segment_lengths(layers, segments)[-1]
