"""门控 PixelCNN 的补救：竖直与水平两叠卷积，合起来没有盲点。"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from formulary.autoregressive_models.masked_convolution import pixelcnn_mask, require_odd
from formulary.checks import require_floats


def two_stack_convolution(
    x: Float[Tensor, "B rows cols"],
    vertical: Float[Tensor, "N k k"],
    horizontal: Float[Tensor, "N k"],
) -> Float[Tensor, "B rows cols"]:
    r"""竖直一叠只看上面各行，左右不设限；水平一叠只看本行左边，每层加进竖直一叠的结果。

    Args:
        x: 单通道图像。
        vertical: N 层竖直卷积的核，只用中心行及其以上的各行。
        horizontal: N 层水平卷积的核，第一层只用中心左边，其余各层含中心。

    Returns:
        最后一层水平一叠的输出；像素 (r, c) 只依赖光栅次序在它之前的像素。

    Raises:
        ValueError: 形状不符，或核边长不是正奇数。

    约定:
        竖直一叠的输入先下移一行，所以第 r 行的特征只含第 r − 1 行及以上；
        这里只留线性部分，真实的网络在每层再加门控与逐点卷积。

    出处:
        van den Oord et al. 2016, arXiv:1606.05328v2, 第 2.2 节与图 2。

    示例:
        >>> image = torch.tensor([[[1.0, 2.0], [4.0, 8.0]]])
        >>> two_stack_convolution(image, torch.ones(1, 3, 3), torch.ones(1, 3))
        tensor([[[0., 1.],
                 [3., 7.]]])
    """
    require_floats("x", x, "B", "rows", "cols")
    require_floats("vertical", vertical, "N", "k", "k")
    layers, _, k = vertical.shape
    require_odd(k)
    require_floats("vertical", vertical, layers, k, k)
    require_floats("horizontal", horizontal, layers, k)
    center = k // 2
    upper = (torch.arange(k, device=x.device) <= center).to(x)[:, None]  # (k, 1)
    v = F.pad(x, (0, 0, 1, -1))[:, None]  # 下移一行，(B, 1, rows, cols)
    h = x[:, None]
    for layer in range(layers):
        left = pixelcnn_mask("A" if layer == 0 else "B", k, x.dtype)[center].to(x.device)
        v = F.conv2d(v, (vertical[layer] * upper)[None, None], padding=center)
        h = F.conv2d(h, (horizontal[layer] * left)[None, None, None], padding=(0, center)) + v
    return h.squeeze(1)
