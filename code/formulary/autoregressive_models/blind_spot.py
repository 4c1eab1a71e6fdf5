"""PixelCNN 的盲点：堆叠带掩码的卷积，永远看不到右上方的一块三角。

约定:
    行列从 0 起；m = (k − 1)/2 是核的半宽；网络是一层 A 型卷积后接若干层 B 型卷积，核边长同为 k。
"""

import torch
from jaxtyping import Bool
from torch import Tensor

from formulary.autoregressive_models.masked_convolution import pixelcnn_mask, require_odd
from formulary.checks import require_count


def reachable_pixels(
    rows: int, cols: int, k: int, row: int, col: int, layers: int
) -> Bool[Tensor, "rows cols"]:
    r"""沿着掩码一层层往回走，输出像素 (row, col) 能连到哪些输入像素。

    Args:
        rows: 图像的行数。
        cols: 图像的列数。
        k: 核的边长，正奇数。
        row: 输出像素的行，从 0 起。
        col: 输出像素的列，从 0 起。
        layers: 卷积的层数，第一层 A 型，其余 B 型。

    Returns:
        布尔图，True 表示有一条路径相连。

    Raises:
        ValueError: 个数不是正整数，k 不是正奇数，或像素在图像之外。

    约定:
        路径不能走出图像，因为边外补的是零。

    出处:
        由掩码的定义直接推出。

    示例:
        >>> reachable_pixels(2, 3, k=3, row=1, col=0, layers=2).tolist()
        [[True, True, False], [False, False, False]]
    """
    require_pixel(rows, cols, k, row, col)
    require_count("layers", layers)
    reached = torch.zeros(rows, cols, dtype=torch.bool)
    reached[row, col] = True
    for layer in range(layers, 0, -1):  # 从输出往输入走，最后一步经过 A 型的第一层
        offsets = (pixelcnn_mask("A" if layer == 1 else "B", k).nonzero() - k // 2).tolist()
        earlier = torch.zeros_like(reached)
        for r, c in reached.nonzero().tolist():
            for down, right in offsets:
                if r + down >= 0 and 0 <= c + right < cols:
                    earlier[r + down, c + right] = True
        reached = earlier
    return reached


def visible_pixels(rows: int, cols: int, k: int, row: int, col: int) -> Bool[Tensor, "rows cols"]:
    r"""层数足够多时，输出像素 (row, col) 看得到的全部像素（封闭形式）。

    Args:
        rows: 图像的行数。
        cols: 图像的列数。
        k: 核的边长，正奇数，至少为 3。
        row: 输出像素的行，从 0 起。
        col: 输出像素的列，从 0 起。

    Returns:
        布尔图：往上 j 行的像素，向右偏移不超过 m·j 的为 True；本行只有左边的为 True。

    Raises:
        ValueError: 个数不是正整数，k 不是至少为 3 的奇数，或像素在图像之外。

    出处:
        现象见 van den Oord et al. 2016, arXiv:1606.05328v2, 图 1；封闭形式由本文推导。

    示例:
        >>> visible_pixels(2, 4, k=3, row=1, col=1).tolist()
        [[True, True, True, False], [True, False, False, False]]
    """
    require_pixel(rows, cols, k, row, col)
    up = row - torch.arange(rows)[:, None]  # 往上几行，(rows, 1)
    right = torch.arange(cols) - col  # 向右几列，(cols,)
    return ((up >= 1) & (right <= (k // 2) * up)) | ((up == 0) & (right < 0))


def blind_spot_count(rows: int, cols: int, k: int, row: int, col: int) -> int:
    r"""像素 (row, col) 的盲点个数：次序里在它前面、却怎样加深也看不到的像素。

    Args:
        rows: 图像的行数。
        cols: 图像的列数。
        k: 核的边长，正奇数，至少为 3。
        row: 像素的行 r，从 0 起。
        col: 像素的列 c，从 0 起。

    Returns:
        盲点个数。

    Raises:
        ValueError: 个数不是正整数，k 不是至少为 3 的奇数，或像素在图像之外。

    出处:
        本文推导。

    示例:
        >>> blind_spot_count(rows=9, cols=11, k=3, row=6, col=5)
        10
    """
    require_pixel(rows, cols, k, row, col)
    return sum(max(0, cols - 1 - col - (k // 2) * j) for j in range(1, row + 1))


def require_pixel(rows: int, cols: int, k: int, row: int, col: int) -> None:
    """要求图像、核与像素的位置都合法。

    示例:
        >>> require_pixel(rows=3, cols=4, k=3, row=2, col=0) is None  # 合格则什么也不返回
        True
    """
    require_count("rows", rows)
    require_count("cols", cols)
    require_odd(k)
    require_count("k", k, 3)
    for name, value, limit in (("row", row, rows), ("col", col, cols)):
        require_count(name, value, 0)
        if value >= limit:
            raise ValueError(f"{name} 必须小于 {limit}，得到 {value}")
