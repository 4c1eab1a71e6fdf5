"""PixelCNN：门控单元，与用带掩码的卷积搭成的小模型。"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from formulary.autoregressive_models.initialization import initialize_parameters
from formulary.autoregressive_models.masked_convolution import MaskedConv2d
from formulary.checks import require_count, require_floats


def gated_activation(x: Float[Tensor, "B C ..."]) -> Float[Tensor, "B O ..."]:
    r"""门控单元：前一半通道过双曲正切，后一半通道过 sigmoid，逐元素相乘。

    Args:
        x: 卷积的输出，通道数 C 为偶数；前一半是内容，后一半是门。

    Returns:
        门控之后的特征，通道数减半，元素在 (−1, 1) 里。

    Raises:
        ValueError: x 少于两轴，或通道数不是偶数。

    出处:
        van den Oord et al. 2016, arXiv:1606.05328v2, 式 (2)。

    示例:
        >>> gated_activation(torch.tensor([[1.0, 0.0]]))  # tanh(1)·σ(0)
        tensor([[0.3808]])
    """
    require_floats("x", x)
    if x.ndim < 2 or x.shape[1] % 2:
        raise ValueError(f"x 的第 1 轴（通道）必须是偶数，得到形状 {tuple(x.shape)}")
    content, gate = x.chunk(2, dim=1)
    return torch.tanh(content) * torch.sigmoid(gate)


class PixelCNN(nn.Module):
    r"""二值图像上的小 PixelCNN：一层 A 型卷积，若干层门控残差的 B 型卷积，再逐点输出。

    Args:
        rows: 图像的行数。
        cols: 图像的列数。
        channels: 特征的通道数。
        layers: B 型残差层的层数。
        first_kernel: 第一层的核边长，正奇数。
        k: 其余各层的核边长，正奇数。
        generator: 初始化参数用的随机数发生器；不给则用 torch 的默认初始化。

    Raises:
        ValueError: 个数不是正整数，或核边长不是正奇数。

    约定:
        输入输出都展平成 n = rows·cols 列的光栅次序；输入先由 0/1 变成 −1/+1，
        这样真实的像素与边外补的零不会混淆。参数个数与图像大小无关。

    出处:
        van den Oord et al. 2016, arXiv:1601.06759v3 与 arXiv:1606.05328v2，作了缩减。

    示例:
        >>> model = PixelCNN(rows=4, cols=5, channels=6, layers=2)
        >>> model(torch.zeros(3, 20)).shape
        torch.Size([3, 20])
    """

    def __init__(
        self,
        rows: int,
        cols: int,
        channels: int = 32,
        layers: int = 3,
        first_kernel: int = 7,
        k: int = 3,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        for name, count in (("rows", rows), ("cols", cols), ("channels", channels)):
            require_count(name, count)
        require_count("layers", layers, 0)
        self.rows, self.cols = rows, cols
        self.first = MaskedConv2d("A", 1, channels, first_kernel)
        self.blocks = nn.ModuleList(
            MaskedConv2d("B", channels, 2 * channels, k) for _ in range(layers)
        )
        self.head = nn.Conv2d(channels, 1, kernel_size=1)
        initialize_parameters(self, generator)

    def forward(self, x: Float[Tensor, "B n"]) -> Float[Tensor, "B n"]:
        """每个像素取 1 的对数几率。"""
        require_floats("x", x, "B", self.rows * self.cols)
        h = self.first((2 * x - 1).view(-1, 1, self.rows, self.cols))
        for block in self.blocks:
            h = h + gated_activation(block(h))
        return self.head(h).flatten(1)
