import pytest
import scipy.signal
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from formulary.nn_and_functional.convolution import (
    conv2d,
    conv2d_as_matrix_product,
    conv_transpose2d,
    convolution_cost,
)

GENERATOR = torch.Generator().manual_seed(0)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=GENERATOR)


X, WEIGHT, BIAS = random(2, 4, 9, 7), random(6, 4, 3, 3), random(6)
SETTINGS = [(1, 0, 1), (2, 1, 1), (1, 2, 2), (3, 0, 2), (2, 3, 1)]


@pytest.mark.parametrize(("stride", "padding", "dilation"), SETTINGS)
def test_conv2d__matches_module_and_function(stride, padding, dilation):
    """与 nn.Conv2d、F.conv2d 一致：步幅、补零、空洞都比。"""
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    ours = conv2d(X, WEIGHT, BIAS, **options)
    torch.testing.assert_close(ours, F.conv2d(X, WEIGHT, BIAS, **options))
    module = nn.Conv2d(4, 6, 3, **options).double()
    module.load_state_dict({"weight": WEIGHT, "bias": BIAS})
    torch.testing.assert_close(ours, module(X))


def test_conv2d__matches_module_and_function_with_groups():
    """分组卷积与 nn.Conv2d、F.conv2d 一致；组数等于通道数时是逐通道卷积。"""
    for groups in (2, 4):
        x, weight, bias = random(2, 4, 6, 5), random(8, 4 // groups, 3, 3), random(8)
        ours = conv2d(x, weight, bias, padding=1, groups=groups)
        torch.testing.assert_close(ours, F.conv2d(x, weight, bias, padding=1, groups=groups))
        module = nn.Conv2d(4, 8, 3, padding=1, groups=groups).double()
        module.load_state_dict({"weight": weight, "bias": bias})
        torch.testing.assert_close(ours, module(x))


def test_conv2d__matches_scipy_correlation():
    """与 SciPy 的二维互相关逐通道相加一致。"""
    expected = torch.zeros(2, 6, 7, 5, dtype=torch.float64)
    for b in range(2):
        for o in range(6):
            planes = [
                scipy.signal.correlate2d(X[b, c].numpy(), WEIGHT[o, c].numpy(), mode="valid")
                for c in range(4)
            ]
            expected[b, o] = torch.from_numpy(sum(planes)) + BIAS[o]
    torch.testing.assert_close(conv2d(X, WEIGHT, BIAS), expected)


def test_conv2d__equals_hand_example():
    """手算一例：0 到 8 的方阵与核 (1, 0; 0, −1)，四个格子都是 −4。"""
    x = torch.arange(9.0, dtype=torch.float64).view(1, 1, 3, 3)
    weight = torch.tensor([[[[1.0, 0.0], [0.0, -1.0]]]], dtype=torch.float64)
    expected = torch.full((1, 1, 2, 2), -4.0, dtype=torch.float64)
    torch.testing.assert_close(conv2d(x, weight, torch.zeros(1).double()), expected)


def test_conv2d__differs_from_true_convolution():
    """数学里的卷积要把核翻转 180 度，与 PyTorch 的互相关不同。"""
    flipped = conv2d(X, WEIGHT.flip(2, 3), BIAS)
    ours = conv2d(X, WEIGHT, BIAS)
    assert (flipped - ours).abs().max() > 0.1
    true = scipy.signal.convolve2d(X[0, 0].numpy(), WEIGHT[0, 0].numpy(), mode="valid")
    one = conv2d(X[:1, :1], WEIGHT[:1, :1].flip(2, 3), torch.zeros(1).double())
    torch.testing.assert_close(one[0, 0], torch.from_numpy(true))


def test_conv2d__preserves_shifts():
    """输入平移一格，内部的输出也平移一格。"""
    shifted = conv2d(X.roll(1, dims=3), WEIGHT, BIAS)
    torch.testing.assert_close(shifted[..., 1:], conv2d(X, WEIGHT, BIAS)[..., :-1])


def test_conv2d__rejects_mismatched_shapes():
    """通道数、组数、长方形的核、偏置的长度与放不下的核都被拒绝。"""
    with pytest.raises(ValueError, match="即 4"):
        conv2d(X, WEIGHT[:, :3], BIAS)
    with pytest.raises(ValueError, match="groups=3 必须整除"):
        conv2d(X, WEIGHT, BIAS, groups=3)
    with pytest.raises(ValueError, match="正方形"):
        conv2d(X, WEIGHT[..., :2], BIAS)
    with pytest.raises(ValueError, match="bias 的形状必须是"):
        conv2d(X, WEIGHT, BIAS[:5])
    with pytest.raises(ValueError, match="放不下"):
        conv2d(X[..., :2], WEIGHT, BIAS)


@pytest.mark.parametrize(("stride", "padding", "dilation"), SETTINGS)
def test_conv2d_as_matrix_product__matches_conv2d_of_torch(stride, padding, dilation):
    """展开成矩阵乘法，与 F.conv2d 一致。"""
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    torch.testing.assert_close(
        conv2d_as_matrix_product(X, WEIGHT, BIAS, **options), F.conv2d(X, WEIGHT, BIAS, **options)
    )


def test_conv2d_as_matrix_product__matches_conv2d():
    """与逐个核元素求和的写法一致。"""
    torch.testing.assert_close(
        conv2d_as_matrix_product(X, WEIGHT, BIAS, padding=1), conv2d(X, WEIGHT, BIAS, padding=1)
    )


def test_conv2d_as_matrix_product__is_linear_layer_for_unit_kernel():
    """核为 1×1 时就是逐像素的线性层。"""
    weight = random(6, 4, 1, 1)
    expected = F.linear(X.movedim(1, -1), weight[:, :, 0, 0], BIAS).movedim(-1, 1)
    torch.testing.assert_close(conv2d_as_matrix_product(X, weight, BIAS), expected)


def test_conv2d_as_matrix_product__rejects_grouped_weights():
    """分组的核被拒绝。"""
    with pytest.raises(ValueError, match="即 4"):
        conv2d_as_matrix_product(X, WEIGHT[:, :2], BIAS)


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1), (3, 0), (2, 2)])
def test_conv_transpose2d__matches_module_and_function(stride, padding):
    """与 nn.ConvTranspose2d、F.conv_transpose2d 一致。"""
    y = random(2, 6, 4, 5)
    ours = conv_transpose2d(y, WEIGHT, stride, padding)
    torch.testing.assert_close(ours, F.conv_transpose2d(y, WEIGHT, None, stride, padding))
    module = nn.ConvTranspose2d(6, 4, 3, stride, padding, bias=False).double()
    module.load_state_dict({"weight": WEIGHT})
    torch.testing.assert_close(ours, module(y))


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1), (3, 2)])
def test_conv_transpose2d__is_adjoint_of_convolution(stride, padding):
    """卷积与转置卷积互为伴随：⟨Ax, y⟩ = ⟨x, Aᵀy⟩。"""
    y = random(1, 6, 4, 5)
    back = conv_transpose2d(y, WEIGHT, stride, padding)
    x = random(*back.shape)
    image = conv2d(x, WEIGHT, torch.zeros(6).double(), stride, padding)
    torch.testing.assert_close((image * y).sum(), (x * back).sum())


def test_conv_transpose2d__matches_autograd_of_convolution():
    """卷积对输入的梯度就是转置卷积。"""
    x = random(2, 4, 7, 9).requires_grad_()
    y = F.conv2d(x, WEIGHT, None, 2, 1)
    cotangent = random(*y.shape)
    (expected,) = torch.autograd.grad(y, x, cotangent)
    torch.testing.assert_close(conv_transpose2d(cotangent, WEIGHT, 2, 1), expected)


def test_conv_transpose2d__equals_checkerboard_example():
    """全 1 的核 3、步幅 2，把长 3 的全 1 放大成 1、1、2、1、2、1、1。"""
    one = torch.ones(1, 1, 3, 3, dtype=torch.float64)
    profile = torch.tensor([1.0, 1, 2, 1, 2, 1, 1], dtype=torch.float64)
    expected = (profile[:, None] * profile)[None, None]
    torch.testing.assert_close(conv_transpose2d(one, one, stride=2), expected)
    torch.testing.assert_close(conv_transpose2d(one, one), F.conv_transpose2d(one, one))


def test_conv_transpose2d__rejects_mismatched_channels():
    """通道数不符、输出为空时被拒绝。"""
    with pytest.raises(ValueError, match="weight 的形状必须是"):
        conv_transpose2d(random(1, 5, 3, 3), WEIGHT)
    with pytest.raises(ValueError, match="输出的长度是"):
        conv_transpose2d(random(1, 6, 1, 1), WEIGHT, padding=2)


def test_convolution_cost__matches_torch_counts():
    """参数个数与 nn.Conv2d 相同，运算次数与 PyTorch 的计数器相同。"""
    for groups in (1, 2):
        layer = nn.Conv2d(4, 6, 3, padding=1, groups=groups)
        with FlopCounterMode(display=False) as counter:
            y = layer(torch.zeros(5, 4, 8, 7))
        parameters, flops = convolution_cost(tuple(layer.weight.shape), tuple(y.shape[2:]), 5)
        assert parameters == sum(p.numel() for p in layer.parameters())
        assert flops == counter.get_total_flops()


def test_convolution_cost__equals_worked_example():
    """16 到 32 通道、3×3 的核、8×8 的输出：4640 个参数，589,824 次运算。"""
    assert convolution_cost((32, 16, 3, 3), (8, 8)) == (4640, 589824)
    assert 4640 == 32 * (16 * 9 + 1)


def test_convolution_cost__equals_exercise():
    """64 通道的 3×3 卷积拆成逐通道卷积与 1×1 卷积，权重从 36,864 个减到 4,672 个。"""
    whole = convolution_cost((64, 64, 3, 3), (1, 1))[0] - 64
    depthwise = convolution_cost((64, 1, 3, 3), (1, 1))[0] - 64
    pointwise = convolution_cost((64, 64, 1, 1), (1, 1))[0] - 64
    assert (whole, depthwise + pointwise) == (36864, 4672)
    assert round(4672 / 36864, 3) == round(1 / 9 + 1 / 64, 3) == 0.127


def test_convolution_cost__rejects_empty_outputs():
    """不是正整数的尺寸被拒绝。"""
    with pytest.raises(ValueError, match="形状、尺寸与批量"):
        convolution_cost((1, 1, 3, 3), (0, 8))


def test_conv2d_as_matrix_product__equals_unit_stride_by_default():
    """不写步幅就是 1。"""
    expected = F.conv2d(X, WEIGHT, BIAS)
    torch.testing.assert_close(conv2d_as_matrix_product(X, WEIGHT, BIAS), expected)


def test_convolution_cost__matches_oblong_windows():
    """核是 2×3 时，参数与运算按两边的乘积数。"""
    layer = nn.Conv2d(4, 6, (2, 3))
    parameters, flops = convolution_cost(tuple(layer.weight.shape), (5, 7))
    assert parameters == sum(p.numel() for p in layer.parameters())
    with FlopCounterMode(display=False) as counter:
        layer(torch.zeros(1, 4, 6, 9))
    assert flops == counter.get_total_flops()


def test_conv_transpose2d__rejects_padding_that_leaves_nothing():
    """裁掉全部输出的补零被拒绝，尺寸与核的角色不能对调。"""
    y, weight = torch.zeros(1, 6, 4, 4).double(), WEIGHT[..., :1, :1]
    assert conv_transpose2d(y, weight, stride=2, padding=2).shape[-1] == 3
    with pytest.raises(ValueError, match="输出的长度是 -1"):
        conv_transpose2d(y, weight, stride=2, padding=4)
