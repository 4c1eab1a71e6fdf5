"""带掩码的卷积：核上的掩码 A 与 B，颜色通道的掩码，与用它们的卷积层。

约定:
    图像按光栅次序（逐行、行内从左到右）排列，像素 (r, c) 的序号是 r·cols + c，从 0 起。
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from formulary.checks import require_count


def pixelcnn_mask(kind: str, k: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "k k"]:
    r"""卷积核的空间掩码：中心以上各行与中心左边的格子为 1，B 型连中心也为 1。

    Args:
        kind: "A"（不含中心）或 "B"（含中心）。
        k: 核的边长，正奇数。
        dtype: 结果的浮点类型。

    Returns:
        元素为 0 或 1 的掩码，A 型有 (k² − 1)/2 个 1，B 型多一个。

    Raises:
        ValueError: kind 不是 "A" 或 "B"，或 k 不是正奇数。

    约定:
        行列从 0 起，中心在 (c, c)，c = (k − 1)/2；与 torch 的卷积（互相关）配合使用。

    出处:
        van den Oord et al. 2016, arXiv:1601.06759v3, 第 3.4 节与图 2。

    示例:
        >>> pixelcnn_mask("A", 3)
        tensor([[1., 1., 1.],
                [1., 0., 0.],
                [0., 0., 0.]])
    """
    require_kind(kind)
    require_odd(k)
    center = k // 2
    mask = torch.zeros(k, k, dtype=dtype)
    mask[:center] = 1
    mask[center, :center] = 1
    mask[center, center] = float(kind == "B")
    return mask


def channel_mask(
    kind: str,
    out_channels: int,
    in_channels: int,
    colors: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "O C"]:
    r"""核中心那一格的通道掩码：同一个像素里，颜色按 R、G、B 的次序依次可见。

    Args:
        kind: "A"（只看更早的颜色）或 "B"（还看同一种颜色）。
        out_channels: 输出通道数 O，colors 的倍数。
        in_channels: 输入通道数 C，colors 的倍数。
        colors: 颜色的个数；1 时 A 型全 0，B 型全 1。
        dtype: 结果的浮点类型。

    Returns:
        元素为 0 或 1 的掩码，第 (o, i) 个元素说输出通道 o 能否看到输入通道 i。

    Raises:
        ValueError: kind 不是 "A" 或 "B"，个数不是正整数，或通道数不是 colors 的倍数。

    约定:
        通道按颜色分成相连的等份：通道 o 的颜色 g(o) 是 o·colors/O 的整数部分，R、G、B 为 0、1、2。

    出处:
        van den Oord et al. 2016, arXiv:1601.06759v3, 第 3.4 节。

    示例:
        >>> channel_mask("A", 3, 3, colors=3)
        tensor([[0., 0., 0.],
                [1., 0., 0.],
                [1., 1., 0.]])
    """
    require_kind(kind)
    require_count("colors", colors)
    for name, channels in (("out_channels", out_channels), ("in_channels", in_channels)):
        require_count(name, channels)
        if channels % colors:
            raise ValueError(f"{name} 必须是 colors={colors} 的倍数，得到 {channels}")
    out_color = torch.arange(out_channels)[:, None] * colors // out_channels
    in_color = torch.arange(in_channels) * colors // in_channels
    return (out_color > in_color if kind == "A" else out_color >= in_color).to(dtype)


class MaskedConv2d(nn.Conv2d):
    r"""带掩码的二维卷积：权重先乘掩码再卷积，边上补零，图像大小不变。

    Args:
        kind: "A" 用在第一层，"B" 用在其余各层。
        in_channels: 输入通道数，colors 的倍数。
        out_channels: 输出通道数，colors 的倍数。
        k: 核的边长，正奇数。
        colors: 颜色的个数，灰度或二值图像为 1。

    Raises:
        ValueError: kind、k 或通道数不合要求。

    约定:
        掩码是缓冲区而非参数；乘法写在前向里，被掩掉的权重梯度恰为 0，权重本身不被改写。

    出处:
        van den Oord et al. 2016, arXiv:1601.06759v3, 第 3.4 节。

    示例:
        >>> layer = MaskedConv2d("A", in_channels=1, out_channels=1, k=3)
        >>> layer.mask.sum()
        tensor(4.)
    """

    def __init__(
        self, kind: str, in_channels: int, out_channels: int, k: int, colors: int = 1
    ) -> None:
        spatial = pixelcnn_mask(kind, k)
        center = channel_mask(kind, out_channels, in_channels, colors)
        super().__init__(in_channels, out_channels, k, padding=k // 2)
        mask = spatial.expand_as(self.weight).clone()
        mask[:, :, k // 2, k // 2] = center
        self.register_buffer("mask", mask)  # (O, C, k, k)

    def forward(self, x: Float[Tensor, "B C rows cols"]) -> Float[Tensor, "B O rows cols"]:
        """带掩码的卷积。"""
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)


def require_kind(kind: str) -> None:
    """要求掩码的类型是 A 或 B。

    示例:
        >>> require_kind("A") is None  # 合格则什么也不返回
        True
    """
    if kind not in ("A", "B"):
        raise ValueError(f'kind 必须是 "A" 或 "B"，得到 {kind!r}')


def require_odd(k: int) -> None:
    """要求核的边长是正奇数，这样才有中心。

    示例:
        >>> require_odd(3) is None  # 合格则什么也不返回
        True
    """
    require_count("k", k)
    if k % 2 == 0:
        raise ValueError(f"k 必须是正奇数，得到 {k}")
