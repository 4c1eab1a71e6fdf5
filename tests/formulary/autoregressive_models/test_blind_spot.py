"""PixelCNN 盲点的检验：封闭形式、逐层的路径与真实网络的雅可比矩阵三者对照。"""

import itertools

import pytest
import torch
from torch import Tensor

from formulary.autoregressive_models.blind_spot import (
    blind_spot_count,
    reachable_pixels,
    visible_pixels,
)
from formulary.autoregressive_models.masked_convolution import MaskedConv2d

DEEP = 12


def _gradient_support(
    rows: int, cols: int, k: int, row: int, col: int, layers: int, first: int | None = None
) -> Tensor:
    """权重全为正的线性网络里，输出像素对哪些输入像素的导数不是零。"""
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(1, 1, rows, cols, dtype=torch.float64, requires_grad=True)
    h = x
    for layer in range(layers):
        size = first if first and layer == 0 else k
        convolution = MaskedConv2d("A" if layer == 0 else "B", 1, 1, size).double()
        with torch.no_grad():
            convolution.weight.uniform_(0.1, 0.3, generator=generator)
        h = convolution(h)
    (gradient,) = torch.autograd.grad(h[0, 0, row, col], x)
    return gradient[0, 0] != 0


def test_reachable_pixels__matches_jacobian() -> None:
    """层数从一到四，都与权重为正的真实网络里导数不为零的像素相同。"""
    for k, layers in itertools.product((3, 5), (1, 2, 3, 4)):
        for row, col in ((5, 2), (6, 7), (0, 4)):
            expected = _gradient_support(7, 8, k, row, col, layers)
            assert torch.equal(reachable_pixels(7, 8, k, row, col, layers), expected)


def test_reachable_pixels__bounds_linear_form() -> None:
    """每条路径上，向右的偏移减去 m 倍往上的行数都不大于零；一层时就是 A 型掩码。"""
    for k, layers in ((3, 2), (5, 3), (7, 2)):
        reached = reachable_pixels(9, 12, k, 8, 3, layers).nonzero()
        assert (reached[:, 1] - 3 - (k // 2) * (8 - reached[:, 0])).max() <= 0
    assert reachable_pixels(3, 3, 3, 1, 1, 1).tolist() == [
        [True, True, True],
        [True, False, False],
        [False, False, False],
    ]


def test_reachable_pixels__limit_deep_stack() -> None:
    """层数够多之后，逐层走出的集合不再变化，就是封闭形式。"""
    for k in (3, 5):
        deep = reachable_pixels(8, 9, k, 6, 3, 20)
        assert torch.equal(deep, reachable_pixels(8, 9, k, 6, 3, 21))
        assert torch.equal(deep, visible_pixels(8, 9, k, 6, 3))


def test_reachable_pixels__rejects_bad_input() -> None:
    """层数不是正整数、像素在图像之外时报错。"""
    for arguments, message in (
        ((3, 3, 3, 1, 1, 0), "layers 必须是"),
        ((3, 3, 3, 3, 1, 2), "row 必须小于 3"),
        ((3, 3, 3, 1, -1, 2), "col 必须是"),
    ):
        with pytest.raises(ValueError, match=message):
            reachable_pixels(*arguments)


def test_visible_pixels__matches_jacobian() -> None:
    """与 12 层真实网络的雅可比矩阵逐像素相同，图像各处与边上都试过。"""
    for k in (3, 5, 7):
        for row, col in itertools.product((0, 1, 4, 6), (0, 3, 7)):
            expected = _gradient_support(7, 8, k, row, col, DEEP)
            assert torch.equal(visible_pixels(7, 8, k, row, col), expected)


def test_visible_pixels__equals_small_example() -> None:
    """4 × 5 图像、边长 3、像素 (3, 1)：右上方的三个像素看不见。"""
    assert visible_pixels(4, 5, 3, 3, 1).tolist() == [
        [True, True, True, True, True],
        [True, True, True, True, False],
        [True, True, True, False, False],
        [True, False, False, False, False],
    ]


def test_visible_pixels__is_growing_in_kernel() -> None:
    """核越大看得越多，但右上方总有看不见的；真正的前缀是它的上界。"""
    raster = torch.arange(12 * 13).view(12, 13) < 10 * 13 + 2
    previous = torch.zeros(12, 13, dtype=torch.bool)
    for k in (3, 5, 7):
        visible = visible_pixels(12, 13, k, 10, 2)
        assert (visible >= previous).all()
        assert (raster >= visible).all()
        assert (raster & ~visible).any()
        previous = visible


def test_visible_pixels__differs_from_larger_first_kernel() -> None:
    """第一层换成 7 × 7、其余仍是 3 × 3，盲区的边界整体右移 2 列。"""
    rows, cols = 8, 10
    for row, col in ((6, 1), (7, 0), (2, 3), (4, 5)):
        support = _gradient_support(rows, cols, 3, row, col, DEEP, first=7)
        shifted = visible_pixels(rows, cols, 3, row, col + 2)
        assert torch.equal(support[:row], shifted[:row])
        assert not torch.equal(support[:row], visible_pixels(rows, cols, 3, row, col)[:row])


def test_visible_pixels__rejects_bad_input() -> None:
    """核的边长至少为 3、是奇数，像素在图像里。"""
    for arguments, message in (
        ((3, 3, 1, 1, 1), "k 必须是不小于 3"),
        ((3, 3, 4, 1, 1), "k 必须是正奇数"),
        ((0, 3, 3, 0, 0), "rows 必须是"),
        ((3, 3, 3, 1, 3), "col 必须小于 3"),
    ):
        with pytest.raises(ValueError, match=message):
            visible_pixels(*arguments)


def test_blind_spot_count__matches_jacobian() -> None:
    """等于光栅次序在前、真实网络却对它没有导数的像素个数。"""
    for k in (3, 5):
        for row, col in ((6, 0), (6, 3), (3, 1), (6, 7)):
            earlier = torch.arange(7 * 8).view(7, 8) < row * 8 + col
            missing = earlier & ~_gradient_support(7, 8, k, row, col, DEEP)
            assert blind_spot_count(7, 8, k, row, col) == int(missing.sum())


def test_blind_spot_count__equals_triangle_numbers() -> None:
    """9 × 11 图像的 (6, 5) 处，边长 3 有 4+3+2+1 = 10 个盲点，边长 5 有 3+1 = 4 个。"""
    assert blind_spot_count(9, 11, 3, 6, 5) == 4 + 3 + 2 + 1
    assert blind_spot_count(9, 11, 5, 6, 5) == 3 + 1
    assert blind_spot_count(9, 11, 3, 6, 4) == 5 + 4 + 3 + 2 + 1  # 插图里的像素
    assert blind_spot_count(9, 11, 5, 6, 4) == 4 + 2
    # MNIST 的最后一行：正中 91 个，最左 351 个
    assert blind_spot_count(28, 28, 3, 27, 13) == 13 * 14 // 2
    assert blind_spot_count(28, 28, 3, 27, 0) == 26 * 27 // 2


def test_blind_spot_count__equals_share_of_pairs() -> None:
    """28 × 28 图像上，前后两个像素的配对里，边长 3 的网络有 22.1% 看不见，边长 5 有 12.2%。"""
    pairs = 784 * 783 // 2
    for k, blind, share in ((3, 67_977, 0.221), (5, 37_401, 0.122)):
        total = sum(blind_spot_count(28, 28, k, row, col) for row in range(28) for col in range(28))
        assert total == blind
        assert round(total / pairs, 3) == share


def test_blind_spot_count__equals_exercise() -> None:
    """练习的答案：28 列的图像，核边长到 55 才没有盲点，53 还剩一个。"""
    for k, blind in ((53, 1), (55, 0)):
        counts = [blind_spot_count(28, 28, k, 27, col) for col in range(28)]
        assert max(counts) == counts[0] == blind


def test_blind_spot_count__is_zero_without_upper_right() -> None:
    """最右一列与最上一行没有盲点。"""
    for k in (3, 5):
        assert all(blind_spot_count(9, 11, k, row, 10) == 0 for row in range(9))
        assert all(blind_spot_count(9, 11, k, 0, col) == 0 for col in range(11))


def test_blind_spot_count__rejects_bad_input() -> None:
    """核的边长不是至少为 3 的奇数、像素在图像之外时报错。"""
    for arguments, message in (
        ((3, 3, 2, 1, 1), "k 必须是"),
        ((3, 3, 3, 5, 1), "row 必须小于 3"),
        ((3, 3, 3, 1, 1.0), "col 必须是"),
    ):
        with pytest.raises(ValueError, match=message):
            blind_spot_count(*arguments)
