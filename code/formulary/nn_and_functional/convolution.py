r"""二维卷积：逐个核元素求和、展开成矩阵乘法、转置，以及参数与运算的个数。

约定:
    图像按（批量，通道，行，列）存放，权重按（输出通道，输入通道/组数，行，列）；
    卷积指互相关，核不翻转；FLOPs 把一次乘加算作两次运算。
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_count, require_floats
from formulary.nn_and_functional.sizes import convolution_output_size, transposed_output_size


def conv2d(
    x: Float[Tensor, "B C rows cols"],
    weight: Float[Tensor, "O _ k k"],
    bias: Float[Tensor, " O"],
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Float[Tensor, "B O _ _"]:
    r"""二维卷积：核的每个元素乘上错开的输入，再相加。

    Args:
        x: 图像。
        weight: 核，第二轴的长度是 C/groups。
        bias: 每个输出通道的偏置。
        stride: 步幅。
        padding: 四周补的零的个数。
        dilation: 核的两个元素之间的间隔。
        groups: 组数，整除输入与输出的通道数。

    Returns:
        输出的图像，尺寸由 convolution_output_size 给出。

    Raises:
        ValueError: 形状或类型不符，组数不整除通道数，或放不下一个核。

    出处:
        PyTorch 2.13, torch.nn.Conv2d, torch.nn.functional.conv2d。

    示例:
        >>> x = torch.arange(9.0).view(1, 1, 3, 3)
        >>> conv2d(x, torch.tensor([[[[1.0, 0.0], [0.0, -1.0]]]]), torch.zeros(1))
        tensor([[[[-4., -4.],
                  [-4., -4.]]]])
    """
    require_convolution(x, weight, bias, groups)
    kernel = weight.shape[-1]
    rows, cols = (
        convolution_output_size(size, kernel, stride, padding, dilation) for size in x.shape[2:]
    )
    padded = F.pad(x, (padding,) * 4).unflatten(1, (groups, -1))
    grouped = weight.unflatten(0, (groups, -1))
    y = bias[:, None, None].expand(len(x), -1, rows, cols).unflatten(1, (groups, -1))
    for i in range(kernel):
        for j in range(kernel):
            top, left = dilation * i, dilation * j
            shifted = padded[
                ..., top : top + stride * rows : stride, left : left + stride * cols : stride
            ]
            y = y + torch.einsum("bgcuv,goc->bgouv", shifted, grouped[..., i, j])
    return y.flatten(1, 2)


def conv2d_as_matrix_product(
    x: Float[Tensor, "B C rows cols"],
    weight: Float[Tensor, "O C k k"],
    bias: Float[Tensor, " O"],
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Float[Tensor, "B O _ _"]:
    r"""把每个窗口展开成一列（im2col），卷积就是一次矩阵乘法。

    Args:
        x: 图像。
        weight: 核，不分组。
        bias: 每个输出通道的偏置。
        stride: 步幅。
        padding: 四周补的零的个数。
        dilation: 核的两个元素之间的间隔。

    Returns:
        与 conv2d 相同的图像。

    Raises:
        ValueError: 形状或类型不符，或放不下一个核。

    约定:
        展开后的矩阵有 C·k² 行，每个输入的像素最多抄 k² 份。

    出处:
        Chellapilla et al. 2006, High Performance Convolutional Neural Networks。

    示例:
        >>> x, weight = torch.ones(1, 2, 3, 3), torch.ones(1, 2, 3, 3)
        >>> conv2d_as_matrix_product(x, weight, torch.zeros(1)).item()
        18.0
    """
    require_convolution(x, weight, bias, 1)
    kernel = weight.shape[-1]
    sizes = [convolution_output_size(n, kernel, stride, padding, dilation) for n in x.shape[2:]]
    columns = F.unfold(x, kernel, dilation, padding, stride)  # (B, C k², 输出的格数)
    return (weight.flatten(1) @ columns + bias[:, None]).unflatten(2, sizes)


def conv_transpose2d(
    y: Float[Tensor, "B O rows cols"],
    weight: Float[Tensor, "O C k k"],
    stride: int = 1,
    padding: int = 0,
) -> Float[Tensor, "B C _ _"]:
    r"""转置卷积：把每个输出格乘上核，加回它当初看过的那些位置。

    Args:
        y: 图像，通道数是对应卷积的输出通道数。
        weight: 对应卷积的核。
        stride: 步幅。
        padding: 对应卷积所补的零的个数，这里从四周裁去。

    Returns:
        放大之后的图像，尺寸由 transposed_output_size 给出。

    Raises:
        ValueError: 形状或类型不符，或输出为空。

    出处:
        Dumoulin & Visin 2016, arXiv:1603.07285；PyTorch 2.13, torch.nn.ConvTranspose2d。

    示例:
        >>> conv_transpose2d(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
        tensor([[[[1., 2., 1.],
                  [2., 4., 2.],
                  [1., 2., 1.]]]])
    """
    require_floats("y", y, "B", "O", "rows", "cols")
    require_floats("weight", weight, y.shape[1], "C", "k", "k")
    kernel = weight.shape[-1]
    rows, cols = y.shape[2:]
    for size in (rows, cols):
        transposed_output_size(size, kernel, stride, padding)
    x = y.new_zeros(
        len(y), weight.shape[1], (rows - 1) * stride + kernel, (cols - 1) * stride + kernel
    )
    for i in range(kernel):
        for j in range(kernel):
            added = torch.einsum("bouv,oc->bcuv", y, weight[:, :, i, j])
            x[..., i : i + stride * rows : stride, j : j + stride * cols : stride] += added
    return x[..., padding : x.shape[2] - padding, padding : x.shape[3] - padding]


def convolution_cost(
    weight_shape: tuple[int, int, int, int], output_size: tuple[int, int], batch: int = 1
) -> tuple[int, int]:
    r"""一层卷积的参数个数与前向的运算次数。

    Args:
        weight_shape: 核的形状（输出通道，输入通道/组数，行，列）。
        output_size: 输出的行数与列数。
        batch: 批量。

    Returns:
        参数个数（含偏置）与 FLOPs（不含偏置的加法）。

    Raises:
        ValueError: 有不是正整数的数。

    示例:
        >>> convolution_cost((32, 16, 3, 3), (8, 8))
        (4640, 589824)
    """
    for size in (*weight_shape, *output_size, batch):
        require_count("形状、尺寸与批量", size)
    outputs, inputs, *window = weight_shape
    connections = inputs * window[0] * window[1]
    return outputs * (connections + 1), 2 * batch * outputs * output_size[0] * output_size[
        1
    ] * connections


def require_convolution(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> None:
    """要求图像、核、偏置与组数合得上。"""
    require_floats("x", x, "B", "C", "rows", "cols")
    require_floats("weight", weight, "O", "C/groups", "k", "k")
    if weight.shape[2] != weight.shape[3]:
        raise ValueError(f"weight 的核必须是正方形，得到 {tuple(weight.shape[2:])}")
    require_floats("bias", bias, weight.shape[0])
    require_count("groups", groups)
    if x.shape[1] % groups or weight.shape[0] % groups:
        raise ValueError(
            f"groups={groups} 必须整除输入通道数 {x.shape[1]} 与输出通道数 {weight.shape[0]}"
        )
    if weight.shape[1] != x.shape[1] // groups:
        raise ValueError(
            f"weight 的第二轴必须是通道数除以组数，即 {x.shape[1] // groups}，"
            f"得到 {weight.shape[1]}"
        )
