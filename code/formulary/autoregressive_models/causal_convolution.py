"""因果卷积：一维序列上只看过去的卷积、空洞堆叠的感受野与一个小的 WaveNet。"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from formulary.autoregressive_models.attention import shift_right
from formulary.autoregressive_models.initialization import initialize_parameters
from formulary.autoregressive_models.pixelcnn import gated_activation
from formulary.checks import require_count, require_floats


def causal_conv1d(
    x: Float[Tensor, "B C T"], weight: Float[Tensor, "O C k"], dilation: int = 1
) -> Float[Tensor, "B O T"]:
    r"""空洞因果卷积：第 t 个输出只用到 x_t、x_{t−δ}、x_{t−2δ}、…，δ 是空洞率。

    Args:
        x: 输入序列，时间在最后一轴。
        weight: 卷积核，weight[:, :, j] 乘的是 j·dilation 步之前的输入。
        dilation: 空洞率 δ（步），正整数。

    Returns:
        与输入等长的序列；序列开始之前的输入当作 0。

    Raises:
        ValueError: 形状或通道数不符，或 dilation 不是正整数。

    约定:
        j 从 0 起朝过去数；torch 的 conv1d 是互相关，核的次序与此相反，所以先翻转。

    出处:
        van den Oord et al. 2016, arXiv:1609.03499v2, 第 2.1 节。

    示例:
        >>> causal_conv1d(torch.arange(1.0, 5.0).view(1, 1, 4), torch.ones(1, 1, 2), dilation=2)
        tensor([[[1., 2., 4., 6.]]])
    """
    require_floats("x", x, "B", "C", "T")
    require_floats("weight", weight, "O", x.shape[1], "k")
    require_count("dilation", dilation)
    padded = F.pad(x, ((weight.shape[-1] - 1) * dilation, 0))
    return F.conv1d(padded, weight.flip(-1), dilation=dilation)


def receptive_field(kernel_sizes: Sequence[int], dilations: Sequence[int]) -> int:
    r"""一叠因果卷积的感受野：一个输出用到输入序列里多少个相继的位置（含当前）。

    Args:
        kernel_sizes: 各层的核长 k，正整数。
        dilations: 各层的空洞率 δ（步），正整数，个数与 kernel_sizes 相同。

    Returns:
        感受野 R（步）。

    Raises:
        ValueError: 两个序列不等长，或含有非正整数。

    出处:
        van den Oord et al. 2016, arXiv:1609.03499v2, 第 2.1 节。

    示例:
        >>> receptive_field([2] * 10, [2**layer for layer in range(10)])
        1024
    """
    if len(kernel_sizes) != len(dilations):
        raise ValueError(
            f"kernel_sizes 与 dilations 必须等长，得到 {len(kernel_sizes)} 与 {len(dilations)}"
        )
    for k, dilation in zip(kernel_sizes, dilations, strict=True):
        require_count("kernel_sizes", k)
        require_count("dilations", dilation)
    return 1 + sum((k - 1) * d for k, d in zip(kernel_sizes, dilations, strict=True))


class CausalConvolution(nn.Module):
    r"""小的 WaveNet：右移一格，再叠若干层空洞因果卷积，每层一个门控残差。

    Args:
        channels: 特征的通道数。
        dilations: 各层的空洞率 δ（步）。
        k: 各层的核长，正整数。
        generator: 初始化参数用的随机数发生器；不给则用 torch 的默认初始化。

    Raises:
        ValueError: 个数不是正整数。

    约定:
        输入先由 0/1 变成 −1/+1，序列开始之前补 0；第 i 个输出只看 x_{i−R}、…、x_{i−1}，
        R 是 receptive_field 的值。参数个数与 n 无关。

    出处:
        van den Oord et al. 2016, arXiv:1609.03499v2, 图 4，省去了跳跃连接。

    示例:
        >>> model = CausalConvolution(channels=4, dilations=(1, 2))
        >>> model(torch.zeros(3, 10)).shape
        torch.Size([3, 10])
    """

    def __init__(
        self,
        channels: int = 32,
        dilations: Sequence[int] = (1, 2, 4, 8, 16),
        k: int = 2,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        require_count("channels", channels)
        require_count("k", k)
        receptive_field([k] * len(dilations), dilations)  # 顺带检查空洞率
        self.dilations = tuple(dilations)
        self.first = nn.Conv1d(1, channels, kernel_size=1, bias=False)
        self.blocks = nn.ModuleList(nn.Conv1d(channels, 2 * channels, k) for _ in self.dilations)
        self.head = nn.Conv1d(channels, 1, kernel_size=1)
        initialize_parameters(self, generator)

    def forward(self, x: Float[Tensor, "B n"]) -> Float[Tensor, "B n"]:
        """每个变量取 1 的对数几率。"""
        require_floats("x", x, "B", "n")
        h = self.first(shift_right(2 * x - 1, x.new_zeros(()))[:, None])  # (B, C, n)
        for block, dilation in zip(self.blocks, self.dilations, strict=True):
            convolved = causal_conv1d(h, block.weight, dilation) + block.bias[:, None]
            h = h + gated_activation(convolved)
        return self.head(h).flatten(1)
