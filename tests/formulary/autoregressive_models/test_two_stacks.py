"""竖直与水平两叠卷积的检验。"""

import itertools

import pytest
import torch
from torch import Tensor

from formulary.autoregressive_models.blind_spot import blind_spot_count
from formulary.autoregressive_models.two_stacks import two_stack_convolution


def _random(*shape: int, seed: int = 5) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _support(rows: int, cols: int, k: int, layers: int, row: int, col: int) -> Tensor:
    """权重全为正时，输出像素对哪些输入像素的导数不是零。"""
    x = torch.zeros(1, rows, cols, dtype=torch.float64, requires_grad=True)
    vertical, horizontal = _random(layers, k, k) + 0.1, _random(layers, k, seed=6) + 0.1
    output = two_stack_convolution(x, vertical, horizontal)[0, row, col]
    return torch.autograd.grad(output, x)[0][0] != 0


def test_two_stack_convolution__matches_python_loop() -> None:
    """与逐像素、逐格相加的循环相同，越出图像的格子跳过。"""
    x, vertical, horizontal = _random(1, 4, 5), _random(2, 3, 3, seed=1), _random(2, 3, seed=2)
    image = x[0].tolist()
    v = [[0.0] * 5, *image[:3]]
    h = image
    for layer in range(2):
        v, before = (
            [
                [
                    sum(
                        vertical[layer, a, b].item() * v[r + a - 1][c + b - 1]
                        for a in (0, 1)
                        for b in (0, 1, 2)
                        if r + a >= 1 and 0 <= c + b - 1 < 5
                    )
                    for c in range(5)
                ]
                for r in range(4)
            ],
            h,
        )
        h = [
            [
                v[r][c]
                + sum(
                    horizontal[layer, b].item() * before[r][c + b - 1]
                    for b in ((0,) if layer == 0 else (0, 1))
                    if c + b >= 1
                )
                for c in range(5)
            ]
            for r in range(4)
        ]
    actual = two_stack_convolution(x, vertical, horizontal)
    torch.testing.assert_close(actual, torch.tensor([h], dtype=torch.float64))


def test_two_stack_convolution__preserves_batch() -> None:
    """两张图一起算，与一张一张算相同。"""
    x, vertical, horizontal = _random(2, 4, 5), _random(2, 3, 3, seed=1), _random(2, 3, seed=2)
    alone = torch.cat([two_stack_convolution(row[None], vertical, horizontal) for row in x])
    torch.testing.assert_close(two_stack_convolution(x, vertical, horizontal), alone)


def test_two_stack_convolution__is_free_of_blind_spots() -> None:
    """层数够多时，每个像素看得到光栅次序在它之前的全部像素，一个不多，一个不少。"""
    rows, cols = 6, 7
    for k in (3, 5):
        for row, col in itertools.product(range(rows), range(cols)):
            earlier = torch.arange(rows * cols).view(rows, cols) < row * cols + col
            assert torch.equal(_support(rows, cols, k, 8, row, col), earlier)
    assert blind_spot_count(rows, cols, 3, 5, 0) > 0  # 单独一叠有盲点


def test_two_stack_convolution__equals_receptive_box() -> None:
    """N 层、半宽 m 时，竖直一叠看到往上 N·m + 1 行、左右各 N·m 列。"""
    for k, layers in ((3, 1), (3, 2), (5, 1)):
        reach = layers * (k // 2)
        support = _support(8, 11, k, layers, 7, 5)
        up, right = 7 - torch.arange(8)[:, None], (torch.arange(11) - 5).abs()
        expected = (up >= 1) & (up <= reach + 1) & (right <= reach)
        assert torch.equal(support[:7], expected[:7])


def test_two_stack_convolution__rejects_bad_shapes() -> None:
    """图像与两组核的形状对不上、核边长是偶数时报错。"""
    x, vertical, horizontal = torch.ones(1, 4, 4), torch.ones(2, 3, 3), torch.ones(2, 3)
    for arguments, message in (
        ((x[0], vertical, horizontal), "x 的形状"),
        ((x, vertical[0], horizontal), "vertical 的形状"),
        ((x, vertical[:, :2], horizontal), "vertical 的形状|k 必须是正奇数"),
        ((x, torch.ones(2, 4, 4), torch.ones(2, 4)), "k 必须是正奇数"),
        ((x, vertical, horizontal[:1]), "horizontal 的形状"),
    ):
        with pytest.raises(ValueError, match=message):
            two_stack_convolution(*arguments)
