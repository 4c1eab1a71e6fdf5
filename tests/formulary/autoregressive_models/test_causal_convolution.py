"""因果卷积、感受野与小 WaveNet 的检验。"""

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from formulary.autoregressive_models.bernoulli import bernoulli_log_prob
from formulary.autoregressive_models.causal_convolution import (
    CausalConvolution,
    causal_conv1d,
    receptive_field,
)


def _random(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _model(dilations: tuple[int, ...] = (1, 2, 4), k: int = 2) -> CausalConvolution:
    generator = torch.Generator().manual_seed(1)
    model = CausalConvolution(4, dilations, k, generator=generator).double()
    with torch.no_grad():  # 偏置初始为零，改成随机数，免得漏掉它或弄反正负号也看不出来
        for bias in (*(block.bias for block in model.blocks), model.head.bias):
            bias.uniform_(-1, 1, generator=generator)
    return model


def test_causal_conv1d__matches_python_loop() -> None:
    """与逐时刻、逐通道、逐项相加的循环相同，开头之前的输入跳过。"""
    x, weight = _random(2, 3, 9), _random(4, 3, 3, seed=6)
    for dilation in (1, 2, 5):
        expected = torch.zeros(2, 4, 9, dtype=torch.float64)
        for b, o, t in itertools.product(range(2), range(4), range(9)):
            expected[b, o, t] = sum(
                weight[o, c, j] * x[b, c, t - dilation * j]
                for c in range(3)
                for j in range(3)
                if t - dilation * j >= 0
            )
        torch.testing.assert_close(causal_conv1d(x, weight, dilation), expected)


def test_causal_conv1d__matches_trimmed_padding() -> None:
    """与两边都补零、再裁掉右端的 nn.Conv1d 相同，只要把核翻转。"""
    x, weight, dilation = _random(2, 3, 10), _random(4, 3, 4, seed=6), 2
    convolution = nn.Conv1d(3, 4, 4, padding=3 * dilation, dilation=dilation, bias=False).double()
    convolution.weight.data = weight.flip(-1)
    expected = convolution(x)[..., : x.shape[-1]].detach()
    torch.testing.assert_close(causal_conv1d(x, weight, dilation), expected)


def test_causal_conv1d__equals_hand_example() -> None:
    """w = (1, 10)、空洞率 2：y_t = x_t + 10·x_{t−2}；空洞率不给就是 1。"""
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]], dtype=torch.float64)
    weight = torch.tensor([[[1.0, 10.0]]], dtype=torch.float64)
    assert causal_conv1d(x, weight, 2).tolist() == [[[1.0, 2.0, 13.0, 24.0]]]
    assert causal_conv1d(x, weight).tolist() == [[[1.0, 12.0, 23.0, 34.0]]]


def test_causal_conv1d__depends_only_on_past() -> None:
    """改动 t 时刻之后的输入，t 时刻及以前的输出一点不变。"""
    x, weight = _random(1, 2, 12), _random(3, 2, 3, seed=7)
    changed = x.clone()
    changed[..., 6:] += 1
    before, after = causal_conv1d(x, weight, 2), causal_conv1d(changed, weight, 2)
    assert torch.equal(before[..., :6], after[..., :6])
    assert not torch.equal(before[..., 6], after[..., 6])


def test_causal_conv1d__differs_from_centered_padding() -> None:
    """两边对称补零（padding="same"）会看到未来。"""
    x, weight = _random(1, 2, 12), _random(3, 2, 3, seed=7)
    changed = x.clone()
    changed[..., 6:] += 1
    before, after = (F.conv1d(v, weight, padding="same") for v in (x, changed))
    assert not torch.equal(before[..., 5], after[..., 5])
    assert (before - causal_conv1d(x, weight)).abs().max() > 0.1


def test_causal_conv1d__rejects_bad_input() -> None:
    """形状或通道数不符、空洞率不是正整数时报错。"""
    x, weight = torch.ones(2, 3, 5), torch.ones(4, 3, 2)
    for arguments, message in (
        ((x[0], weight, 1), "x 的形状"),
        ((x, weight[:, :2], 1), "weight 的形状"),
        ((x, weight, 0), "dilation 必须是"),
    ):
        with pytest.raises(ValueError, match=message):
            causal_conv1d(*arguments)


@pytest.mark.parametrize(
    ("kernels", "dilations"),
    [([2] * 5, [1, 2, 4, 8, 16]), ([3, 3, 3], [1, 2, 4]), ([3, 2, 5], [4, 1, 3])],
)
def test_receptive_field__matches_jacobian(kernels: list[int], dilations: list[int]) -> None:
    """权重全为正的一叠卷积里，最后一个输出到最早那个有导数的输入，恰好隔这么远。"""
    length = 60
    x = torch.zeros(1, 1, length, dtype=torch.float64, requires_grad=True)
    h = x
    for k, dilation in zip(kernels, dilations, strict=True):
        h = causal_conv1d(h, torch.full((1, 1, k), 0.5, dtype=torch.float64), dilation)
    (gradient,) = torch.autograd.grad(h[0, 0, -1], x)
    used = gradient[0, 0].nonzero().flatten()
    assert used.max() == length - 1
    assert receptive_field(kernels, dilations) == length - int(used.min())


def test_receptive_field__equals_power_of_two() -> None:
    """核长 2、空洞率逐层加倍，L 层的感受野是 2^L；不加倍则只有 L + 1。"""
    for layers in range(1, 11):
        assert receptive_field([2] * layers, [2**i for i in range(layers)]) == 2**layers
        assert receptive_field([2] * layers, [1] * layers) == layers + 1


def test_receptive_field__equals_exercise() -> None:
    """练习的答案：784 个像素要 10 层加倍的空洞卷积，或 391 层核长 3 的普通卷积。"""
    assert receptive_field([2] * 9, [2**i for i in range(9)]) == 512 < 783
    assert receptive_field([2] * 10, [2**i for i in range(10)]) == 1024 >= 783
    assert receptive_field([3] * 390, [1] * 390) == 781 < 783
    assert receptive_field([3] * 391, [1] * 391) == 783


def test_receptive_field__is_one_without_layers() -> None:
    """没有卷积时只看当前一格；核长 1 的层不增加感受野。"""
    assert receptive_field([], []) == 1
    assert receptive_field([1, 1], [7, 3]) == 1


def test_receptive_field__rejects_bad_input() -> None:
    """不等长或含有非正整数时报错。"""
    for arguments, message in (
        (([2, 2], [1]), "必须等长"),
        (([0], [1]), "kernel_sizes 必须是"),
        (([2], [0]), "dilations 必须是"),
    ):
        with pytest.raises(ValueError, match=message):
            receptive_field(*arguments)


def test_CausalConvolution__matches_nn_conv1d() -> None:
    """换成 nn.Conv1d 左边补零、手工右移与 F.glu，输出相同。"""
    model, x = _model(), (_random(3, 11) > 0).double()
    inputs = F.pad(torch.where(x == 1, 1.0, -1.0).double()[:, None, :-1], (1, 0))
    h = model.first.weight[:, 0] * inputs
    for block, dilation in zip(model.blocks, (1, 2, 4), strict=True):
        plain = nn.Conv1d(4, 8, 2, dilation=dilation).double()
        plain.weight.data, plain.bias.data = block.weight.data.flip(-1), block.bias.data
        content, gate = plain(F.pad(h, (dilation, 0))).split(4, dim=1)
        h = h + F.glu(torch.cat((content.tanh(), gate), dim=1), dim=1)
    expected = torch.einsum("c,bct->bt", model.head.weight.flatten(), h) + model.head.bias
    torch.testing.assert_close(model(x), expected)


def test_CausalConvolution__is_normalized() -> None:
    """八个变量的 256 种取法，概率之和等于 1。"""
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=8)), dtype=torch.float64)
    total = bernoulli_log_prob(_model()(states), states).exp().sum()
    torch.testing.assert_close(total, torch.ones((), dtype=torch.float64))


def test_CausalConvolution__depends_only_on_receptive_field() -> None:
    """雅可比矩阵严格下三角，而且第 i 行恰好只有前 R 个位置不是零。"""
    model, n = _model((1, 2, 3), k=3), 20
    reach = receptive_field([3, 3, 3], [1, 2, 3])
    assert reach == 13
    x = _random(1, n)
    jacobian = torch.autograd.functional.jacobian(lambda v: model(v)[0], x)[:, 0]
    for i, j in itertools.product(range(n), repeat=2):
        assert (jacobian[i, j] != 0) == (i - reach <= j < i)


def test_CausalConvolution__equals_default_receptive_field() -> None:
    """默认的空洞率 1、2、4、8、16：最后一个输出恰好用到它前面的 32 个变量。"""
    model = CausalConvolution(4, generator=torch.Generator().manual_seed(1)).double()
    x = _random(1, 40).requires_grad_()
    (gradient,) = torch.autograd.grad(model(x)[0, -1], x)
    assert (gradient[0] != 0).tolist() == [7 <= j < 39 for j in range(40)]


def test_CausalConvolution__preserves_parameter_count() -> None:
    """参数个数与序列的长短无关，默认设置有 20,865 个；核长与层数定下它。"""
    assert sum(p.numel() for p in CausalConvolution().parameters()) == 20_865
    assert sum(p.numel() for p in _model().parameters()) == 4 + 3 * (4 * 8 * 2 + 8) + 5
    for length in (1, 6, 40):
        assert _model()(torch.ones(2, length, dtype=torch.float64)).shape == (2, length)


def test_CausalConvolution__rejects_bad_input() -> None:
    """个数不是正整数、输入不是二维时报错。"""
    for arguments, message in (
        ((0, (1, 2)), "channels 必须是"),
        ((4, (1, 0)), "dilations 必须是"),
        ((4, (1, 2), 0), "k 必须是"),
    ):
        with pytest.raises(ValueError, match=message):
            CausalConvolution(*arguments)
    with pytest.raises(ValueError, match="x 的形状"):
        CausalConvolution(4)(torch.ones(5))
