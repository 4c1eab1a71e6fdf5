"""门控单元与小 PixelCNN 的检验。"""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from formulary.autoregressive_models.bernoulli import bernoulli_log_prob
from formulary.autoregressive_models.masked_convolution import MaskedConv2d, pixelcnn_mask
from formulary.autoregressive_models.pixelcnn import PixelCNN, gated_activation


def _random(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _model(rows: int, cols: int, **options: int) -> PixelCNN:
    generator = torch.Generator().manual_seed(3)
    return PixelCNN(rows, cols, generator=generator, **options).double()


def test_gated_activation__matches_glu() -> None:
    """把内容先过双曲正切，再交给 F.glu，结果相同；梯度也相同。"""
    x = _random(2, 6, 3, 4).requires_grad_()
    content, gate = x[:, :3], x[:, 3:]
    expected = F.glu(torch.cat((content.tanh(), gate), dim=1), dim=1)
    actual = gated_activation(x)
    torch.testing.assert_close(actual, expected)
    weights = _random(*actual.shape, seed=8)
    (left,) = torch.autograd.grad((actual * weights).sum(), x)
    (right,) = torch.autograd.grad((expected * weights).sum(), x)
    torch.testing.assert_close(left, right)


def test_gated_activation__equals_hand_example() -> None:
    """内容 ln 3、门 0：tanh(ln 3) = 0.8，一半的门放出 0.4；两半不能对调。"""
    x = torch.tensor([[math.log(3), 0.0]], dtype=torch.float64)
    torch.testing.assert_close(gated_activation(x), torch.tensor([[0.4]], dtype=torch.float64))
    swapped = gated_activation(x.flip(1))
    torch.testing.assert_close(swapped, torch.zeros(1, 1, dtype=torch.float64))


def test_gated_activation__bounds_output() -> None:
    """输出总在 −1 与 1 之间，梯度也不会爆炸。"""
    x = (100 * _random(3, 8, 5)).requires_grad_()
    y = gated_activation(x)
    assert (y.abs() <= 1).all()
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert (gradient.abs() <= 1).all()


def test_gated_activation__rejects_odd_channels() -> None:
    """通道数为奇数或少于两轴时报错。"""
    for x in (torch.ones(2, 3), torch.ones(4)):
        with pytest.raises(ValueError, match="x 的第 1 轴"):
            gated_activation(x)


def test_PixelCNN__matches_nn_conv2d() -> None:
    """把掩码乘进权重、换成 torch 的普通卷积与 F.glu，输出相同。"""
    model = _model(4, 5, channels=3, layers=2, first_kernel=5)
    x = (_random(6, 20) > 0).double()

    def plain(layer: MaskedConv2d, kind: str) -> nn.Conv2d:
        k = layer.kernel_size[0]
        copy = nn.Conv2d(layer.in_channels, layer.out_channels, k, padding=k // 2).double()
        kept = k * k // 2 + (kind == "B")
        flat = layer.weight.detach().flatten(2).clone()
        flat[..., kept:] = 0
        copy.weight.data, copy.bias.data = flat.view_as(layer.weight), layer.bias.data
        return copy

    h = plain(model.first, "A")(torch.where(x == 1, 1.0, -1.0).double().view(6, 1, 4, 5))
    for block in model.blocks:
        content, gate = plain(block, "B")(h).split(3, dim=1)
        h = h + F.glu(torch.cat((content.tanh(), gate), dim=1), dim=1)
    expected = torch.einsum("c,bcrs->brs", model.head.weight.flatten(), h) + model.head.bias
    torch.testing.assert_close(model(x), expected.flatten(1))


def test_PixelCNN__is_normalized() -> None:
    """3 × 3 图像的 512 种取法，概率之和等于 1。"""
    model = _model(3, 3, channels=4, layers=2, first_kernel=3)
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=9)), dtype=torch.float64)
    total = bernoulli_log_prob(model(states), states).exp().sum()
    torch.testing.assert_close(total, torch.ones((), dtype=torch.float64))


def test_PixelCNN__depends_only_on_earlier_pixels() -> None:
    """对数几率对输入的雅可比矩阵严格下三角，而且确实用到了前面的像素。"""
    model = _model(4, 4, channels=4, layers=3)
    x = _random(1, 16)
    jacobian = torch.autograd.functional.jacobian(lambda v: model(v)[0], x)[:, 0]
    assert (jacobian.triu() == 0).all()
    assert (jacobian[1:].abs().sum(dim=1) > 0).all()


def test_PixelCNN__differs_from_type_b_first_layer() -> None:
    """第一层误用 B 型，概率之和就不再是 1，训练时也会直接抄答案。"""
    model = _model(3, 3, channels=4, layers=1, first_kernel=3)
    model.first.mask = pixelcnn_mask("B", 3, torch.float64).expand_as(model.first.weight)
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=9)), dtype=torch.float64)
    total = bernoulli_log_prob(model(states), states).exp().sum()
    assert abs(total - 1) > 0.05


def test_PixelCNN__differs_from_doubled_residual() -> None:
    """残差加两遍（EugenHotaj/pytorch-generative），15 层把恒等支路放大 2^15 = 32768 倍。"""
    model = _model(3, 3, channels=2, layers=15, first_kernel=3)
    for block in model.blocks:
        nn.init.zeros_(block.weight)  # 各层的网络输出 0，只剩恒等支路
        nn.init.zeros_(block.bias)
    nn.init.zeros_(model.head.bias)
    x = (_random(4, 9) > 0).double()
    h = model.first((2 * x - 1).view(4, 1, 3, 3))
    torch.testing.assert_close(model(x), model.head(h).flatten(1))
    for block in model.blocks:
        h = h + (h + gated_activation(block(h)))
    torch.testing.assert_close(model.head(h).flatten(1), 2**15 * model(x))


def test_PixelCNN__is_linear_without_layers() -> None:
    """layers = 0 时只有第一层与输出层，对数几率是 x 的仿射函数。"""
    model = _model(3, 4, channels=5, layers=0)
    x, y = _random(2, 12), _random(2, 12, seed=6)
    middle = (model(x) + model(y)) / 2
    torch.testing.assert_close(model((x + y) / 2), middle)


def test_PixelCNN__preserves_parameter_count() -> None:
    """参数个数与图像大小无关；同样的种子给出同样的参数。"""
    sizes = [
        sum(p.numel() for p in _model(rows, cols, channels=6, layers=2).parameters())
        for rows, cols in ((3, 3), (8, 8), (5, 20))
    ]
    assert sizes == [(49 * 6 + 6) + 2 * (9 * 6 * 12 + 12) + 7] * 3
    default = PixelCNN(8, 8)  # 正文表格里的一行
    hidden = sum(int((c.mask == 0).sum()) for c in (default.first, *default.blocks))
    assert sum(p.numel() for p in default.parameters()) == 57_121
    assert 57_121 - hidden == 31_745
    x = torch.ones(1, 9, dtype=torch.float64)
    torch.testing.assert_close(_model(3, 3, channels=6)(x), _model(3, 3, channels=6)(x))


def test_PixelCNN__rejects_bad_input() -> None:
    """个数不是正整数、核边长是偶数、输入的列数不是像素数时报错。"""
    for arguments, message in (
        ({"rows": 0, "cols": 3}, "rows 必须是"),
        ({"rows": 3, "cols": 0}, "cols 必须是"),
        ({"rows": 3, "cols": 3, "channels": 0}, "channels 必须是"),
        ({"rows": 3, "cols": 3, "layers": -1}, "layers 必须是"),
        ({"rows": 3, "cols": 3, "first_kernel": 4}, "k 必须是"),
    ):
        with pytest.raises(ValueError, match=message):
            PixelCNN(**arguments)
    with pytest.raises(ValueError, match="x 的形状"):
        PixelCNN(3, 3)(torch.ones(2, 8))
