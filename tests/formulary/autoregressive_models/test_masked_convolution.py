"""带掩码的卷积的检验。"""

import itertools

import pytest
import torch
from torch import Tensor, nn

from formulary.autoregressive_models.masked_convolution import (
    MaskedConv2d,
    channel_mask,
    pixelcnn_mask,
)


def _random(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_pixelcnn_mask__matches_raster_order() -> None:
    """核上每一格，光栅次序在中心之前为 1；B 型连中心也为 1。"""
    for k in (1, 3, 5, 7):
        center = k * k // 2
        for kind, kept in (("A", center), ("B", center + 1)):
            expected = torch.tensor([float(i < kept) for i in range(k * k)], dtype=torch.float64)
            torch.testing.assert_close(pixelcnn_mask(kind, k, torch.float64), expected.view(k, k))


def test_pixelcnn_mask__equals_three_by_three() -> None:
    """边长为 3 时，A 型有 4 个 1，B 型有 5 个。"""
    assert pixelcnn_mask("A", 3).tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]
    assert pixelcnn_mask("B", 3).tolist() == [[1, 1, 1], [1, 1, 0], [0, 0, 0]]
    for k in (3, 5, 7):
        assert pixelcnn_mask("A", k).sum() == (k**2 - 1) / 2
        assert pixelcnn_mask("B", k).sum() == (k**2 + 1) / 2


def test_pixelcnn_mask__differs_from_swapped_labels() -> None:
    """把 A 与 B 的名字对调（EugenHotaj/pytorch-generative 的文档字符串），第一层就看到自己。"""
    layer = MaskedConv2d("B", 1, 1, 3).double()
    image = _random(1, 1, 4, 5).requires_grad_()
    (gradient,) = torch.autograd.grad(layer(image)[0, 0, 2, 2], image)
    assert gradient[0, 0, 2, 2] != 0
    assert pixelcnn_mask("A", 3)[1, 1] == 0


def test_pixelcnn_mask__rejects_bad_input() -> None:
    """类型不是 A 或 B、核边长不是正奇数时报错。"""
    for kind, k, message in (("C", 3, "kind 必须是"), ("A", 4, "k 必须是"), ("A", 0, "k 必须是")):
        with pytest.raises(ValueError, match=message):
            pixelcnn_mask(kind, k)


def test_channel_mask__matches_python_loop() -> None:
    """逐对通道比较颜色，与用字典查颜色的循环相同。"""
    colors = {0: "R", 1: "R", 2: "G", 3: "G", 4: "B", 5: "B"}
    rank = {"R": 0, "G": 1, "B": 2}
    for kind in "AB":
        expected = torch.zeros(6, 3)
        for o, i in itertools.product(range(6), range(3)):
            out_rank, in_rank = rank[colors[o]], rank["RGB"[i]]
            expected[o, i] = out_rank > in_rank or (kind == "B" and out_rank == in_rank)
        torch.testing.assert_close(channel_mask(kind, 6, 3, colors=3), expected)


def test_channel_mask__equals_rgb_triangle() -> None:
    """三个通道时，A 型是严格下三角，B 型是下三角；一种颜色时是全 0 与全 1。"""
    ones = torch.ones(3, 3)
    assert torch.equal(channel_mask("A", 3, 3, colors=3), ones.tril(-1))
    assert torch.equal(channel_mask("B", 3, 3, colors=3), ones.tril())
    assert channel_mask("A", 4, 2).sum() == 0
    assert channel_mask("B", 4, 2).sum() == 8


def test_channel_mask__rejects_bad_input() -> None:
    """通道数不是颜色数的倍数、类型不对时报错。"""
    for arguments, message in (
        (("A", 4, 3, 3), "out_channels 必须是"),
        (("B", 3, 4, 3), "in_channels 必须是"),
        (("B", 0, 3, 3), "out_channels 必须是"),
        (("X", 3, 3, 3), "kind 必须是"),
        (("A", 3, 3, 0), "colors 必须是"),
    ):
        with pytest.raises(ValueError, match=message):
            channel_mask(*arguments)


def test_MaskedConv2d__matches_python_loop() -> None:
    """与逐像素、逐通道、逐格相加的循环相同，越出图像的格子跳过。"""
    torch.manual_seed(0)
    layer = MaskedConv2d("A", 3, 6, 3, colors=3).double()
    x = _random(1, 3, 4, 5)
    weight, expected = layer.weight.tolist(), torch.zeros(1, 6, 4, 5, dtype=torch.float64)
    for o, r, c in itertools.product(range(6), range(4), range(5)):
        total = layer.bias[o].item()
        for i, u, v in itertools.product(range(3), range(3), range(3)):
            earlier = (u, v) < (1, 1) or ((u, v) == (1, 1) and o // 2 > i)
            if earlier and 0 <= r + u - 1 < 4 and 0 <= c + v - 1 < 5:
                total += weight[o][i][u][v] * x[0, i, r + u - 1, c + v - 1].item()
        expected[0, o, r, c] = total
    torch.testing.assert_close(layer(x).detach(), expected)


def test_MaskedConv2d__depends_only_on_earlier_colors() -> None:
    """三色图像上叠 A、B 两层，每个输出恰好依赖够得着、光栅与颜色的次序又更早的输入。"""
    torch.manual_seed(0)
    first, second = MaskedConv2d("A", 3, 6, 3, colors=3), MaskedConv2d("B", 6, 3, 3, colors=3)
    x = _random(1, 3, 4, 4)

    def network(image: Tensor) -> Tensor:
        return second.double()(torch.tanh(first.double()(image)))

    jacobian = torch.autograd.functional.jacobian(network, x)[0, :, :, :, 0]
    places = list(itertools.product(range(4), range(4), range(3)))  # (行, 列, 颜色)，按次序

    def near(p: tuple[int, int, int], q: tuple[int, int, int]) -> bool:
        return max(abs(p[0] - q[0]), abs(p[1] - q[1])) <= 1

    for p, q in itertools.product(places, places):
        path = any(near(p, h) and near(h, q) and q < h <= p for h in places)
        assert (jacobian[p[2], p[0], p[1], q[2], q[0], q[1]] != 0) == path


def test_MaskedConv2d__preserves_hidden_weights() -> None:
    """被掩掉的权重不被改写，梯度恰为 0；就地乘掩码的写法则把它们清零。"""
    layer = MaskedConv2d("A", 2, 4, 3)
    before = layer.weight.detach().clone()
    layer(torch.ones(1, 2, 3, 3)).sum().backward()
    assert torch.equal(layer.weight.detach(), before)
    hidden = layer.mask.expand_as(before) == 0
    assert (layer.weight.grad[hidden] == 0).all()
    assert (layer.weight.grad[~hidden] != 0).any()
    in_place = nn.Conv2d(2, 4, 3, padding=1)
    in_place.weight.data *= layer.mask
    in_place(torch.ones(1, 2, 3, 3)).sum().backward()
    assert (in_place.weight.grad[hidden] != 0).any()


def test_MaskedConv2d__rejects_bad_input() -> None:
    """类型、核边长、通道数不合要求时报错。"""
    for arguments, message in (
        (("Z", 1, 1, 3), "kind 必须是"),
        (("A", 1, 1, 2), "k 必须是"),
        (("A", 2, 3, 3, 3), "in_channels 必须是"),
    ):
        with pytest.raises(ValueError, match=message):
            MaskedConv2d(*arguments)
