r"""池化：窗口里的最大值与平均值。"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats
from formulary.nn_and_functional.sizes import pooling_output_size


def max_pool2d(
    x: Float[Tensor, "B C rows cols"], kernel: int, stride: int, padding: int = 0
) -> Float[Tensor, "B C _ _"]:
    r"""每个窗口取最大值；补的是负无穷，所以补齐的格子从不入选。

    Args:
        x: 图像。
        kernel: 窗口的边长。
        stride: 步幅；PyTorch 里不写就等于窗口的边长。
        padding: 四周补的个数。

    Returns:
        缩小之后的图像。

    Raises:
        ValueError: 形状或类型不符，或放不下窗口。

    出处:
        PyTorch 2.13, torch.nn.MaxPool2d, torch.nn.functional.max_pool2d。

    示例:
        >>> max_pool2d(-torch.ones(1, 1, 2, 2), kernel=2, stride=1, padding=1).unique()
        tensor([-1.])
    """
    return _windows(x, kernel, stride, padding, -torch.inf).amax(dim=2)


def average_pool2d(
    x: Float[Tensor, "B C rows cols"],
    kernel: int,
    stride: int,
    padding: int = 0,
    count_padding: bool = True,
) -> Float[Tensor, "B C _ _"]:
    r"""每个窗口取平均；补的零计不计入分母，由 count_padding 决定。

    Args:
        x: 图像。
        kernel: 窗口的边长。
        stride: 步幅；PyTorch 里不写就等于窗口的边长。
        padding: 四周补的零的个数。
        count_padding: 真时分母总是窗口的格数（PyTorch 的默认），假时只数真正的像素。

    Returns:
        缩小之后的图像。

    Raises:
        ValueError: 形状或类型不符，或放不下窗口。

    出处:
        PyTorch 2.13, torch.nn.AvgPool2d, torch.nn.functional.avg_pool2d。

    示例:
        >>> average_pool2d(torch.ones(1, 1, 2, 2), kernel=2, stride=2, padding=1).unique()
        tensor([0.2500])
    """
    total = _windows(x, kernel, stride, padding, 0.0).sum(dim=2)
    if count_padding:
        return total / kernel**2
    return total / _windows(torch.ones_like(x), kernel, stride, padding, 0.0).sum(dim=2)


def _windows(x: Tensor, kernel: int, stride: int, padding: int, fill: float) -> Tensor:
    """每个窗口的全部格子，(B, C, k², 行, 列)。"""
    require_floats("x", x, "B", "C", "rows", "cols")
    for size in x.shape[2:]:
        pooling_output_size(size, kernel, stride, padding)
    padded = F.pad(x, (padding,) * 4, value=fill)
    windows = padded.unfold(2, kernel, stride).unfold(3, kernel, stride)
    return windows.flatten(4).movedim(4, 2)
