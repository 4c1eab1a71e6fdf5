import pytest
import torch
import torch.nn.functional as F
from torch import nn

from formulary.nn_and_functional.layer_norm import (
    group_norm,
    layer_norm,
    layer_norm_backward,
    rms_norm,
)

GENERATOR = torch.Generator().manual_seed(0)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=GENERATOR)


X, GAMMA, BETA = random(2, 4, 6) * 3 + 1, random(6), random(6)


def test_layer_norm__matches_module_and_function():
    """与 nn.LayerNorm、F.layer_norm 一致。"""
    for epsilon in (1e-5, 0.4):
        ours = layer_norm(X, GAMMA, BETA, epsilon)
        torch.testing.assert_close(ours, F.layer_norm(X, (6,), GAMMA, BETA, epsilon))
        module = nn.LayerNorm(6, eps=epsilon).double()
        module.load_state_dict({"weight": GAMMA, "bias": BETA})
        torch.testing.assert_close(ours, module(X))


def test_layer_norm__matches_python_loop():
    """与逐行求均值、方差的 Python 循环一致。"""
    for row, found in zip(X[0].tolist(), layer_norm(X, GAMMA, BETA)[0], strict=True):
        mean = sum(row) / 6
        root = (sum((value - mean) ** 2 for value in row) / 6 + 1e-5) ** 0.5
        expected = [
            g * (value - mean) / root + b
            for g, value, b in zip(GAMMA.tolist(), row, BETA.tolist(), strict=True)
        ]
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_layer_norm__is_invariant_to_shift_and_scale():
    """一行加同一个数、乘同一个正数，结果不变（epsilon 为 0）。"""
    torch.testing.assert_close(
        layer_norm(2.5 * X + 7, GAMMA, BETA, 0.0), layer_norm(X, GAMMA, BETA, 0.0)
    )


def test_layer_norm__differs_from_unbiased_deviation():
    """用无偏标准差、把 epsilon 加在根号外面的写法，与 PyTorch 不同。"""
    wrong = GAMMA * (X - X.mean(-1, keepdim=True)) / (X.std(-1, keepdim=True) + 1e-5) + BETA
    assert (wrong - layer_norm(X, GAMMA, BETA)).abs().max() > 0.05


def test_layer_norm__rejects_wrong_widths():
    """缩放的长度不是最后一轴、空的最后一轴、整数与负的 epsilon 被拒绝。"""
    with pytest.raises(ValueError, match="epsilon 不能为负"):
        layer_norm(X, GAMMA, BETA, -1e-5)
    with pytest.raises(ValueError, match="gamma 的形状必须是"):
        layer_norm(X, GAMMA[:5], BETA)
    with pytest.raises(ValueError, match="最后一轴不能为空"):
        layer_norm(X[..., :0], GAMMA[:0], BETA[:0])
    with pytest.raises(ValueError, match="x 必须是实浮点张量"):
        layer_norm(X.long(), GAMMA, BETA)


def test_layer_norm_backward__matches_autograd():
    """与自动求导 F.layer_norm 所得一致。"""
    x = X.clone().requires_grad_()
    cotangent = random(*X.shape)
    (expected,) = torch.autograd.grad(F.layer_norm(x, (6,), GAMMA, BETA), x, cotangent)
    torch.testing.assert_close(layer_norm_backward(cotangent, X, GAMMA), expected)


def test_layer_norm_backward__is_orthogonal_to_constants():
    """每行的梯度和为 0。"""
    gradient = layer_norm_backward(random(*X.shape), X, GAMMA)
    torch.testing.assert_close(gradient.sum(-1), torch.zeros(2, 4).double())


def test_layer_norm_backward__differs_from_averaging_before_scaling():
    """先平均再乘缩放的写法只在缩放全相等时对。"""
    cotangent = random(*X.shape)
    inverse = (X.var(-1, unbiased=False, keepdim=True) + 1e-5).rsqrt()
    normalized = (X - X.mean(-1, keepdim=True)) * inverse
    wrong = (
        GAMMA
        * inverse
        * (
            cotangent
            - cotangent.mean(-1, keepdim=True)
            - normalized * (cotangent * normalized).mean(-1, keepdim=True)
        )
    )
    assert (wrong - layer_norm_backward(cotangent, X, GAMMA)).abs().max() > 0.01


def test_layer_norm_backward__rejects_mismatched_gradients():
    """形状不符的梯度与负的 epsilon 被拒绝。"""
    with pytest.raises(ValueError, match="epsilon 不能为负"):
        layer_norm_backward(X, X, GAMMA, -1e-5)
    with pytest.raises(ValueError, match="grad_y 的形状必须是"):
        layer_norm_backward(X[:1], X, GAMMA)


IMAGES, G6, B6 = random(3, 6, 4, 5) * 2 - 1, random(6), random(6)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_group_norm__matches_module_and_function(groups):
    """与 nn.GroupNorm、F.group_norm 一致。"""
    for epsilon in (1e-5, 0.4):
        ours = group_norm(IMAGES, groups, G6, B6, epsilon)
        torch.testing.assert_close(ours, F.group_norm(IMAGES, groups, G6, B6, epsilon))
        module = nn.GroupNorm(groups, 6, eps=epsilon).double()
        module.load_state_dict({"weight": G6, "bias": B6})
        torch.testing.assert_close(ours, module(IMAGES))


def test_group_norm__limit_instance_norm():
    """组数等于通道数时，就是 F.instance_norm 与 nn.InstanceNorm2d。"""
    ours = group_norm(IMAGES, 6, G6, B6)
    torch.testing.assert_close(ours, F.instance_norm(IMAGES, weight=G6, bias=B6))
    one, zero = torch.ones(6).double(), torch.zeros(6).double()
    torch.testing.assert_close(group_norm(IMAGES, 6, one, zero), nn.InstanceNorm2d(6)(IMAGES))


def test_group_norm__limit_layer_norm_over_images():
    """只有一组时，就是在整幅图像上归一化，只是缩放与平移仍是逐通道的。"""
    one, zero = torch.ones(6).double(), torch.zeros(6).double()
    torch.testing.assert_close(group_norm(IMAGES, 1, one, zero), F.layer_norm(IMAGES, (6, 4, 5)))


def test_group_norm__depends_only_on_its_own_sample():
    """一个样本的输出与同批的别的样本无关。"""
    torch.testing.assert_close(group_norm(IMAGES[:1], 2, G6, B6), group_norm(IMAGES, 2, G6, B6)[:1])


def test_group_norm__differs_from_interleaved_groups():
    """同组的通道是相邻的；按 c mod G 分组，结果不同。"""
    order = torch.arange(6).view(3, 2).T.flatten()
    wrong = group_norm(IMAGES[:, order], 2, G6[order], B6[order])[:, order.argsort()]
    assert (wrong - group_norm(IMAGES, 2, G6, B6)).abs().max() > 0.01


def test_group_norm__rejects_uneven_groups():
    """不整除通道数的组数、一轴的输入与负的 epsilon 被拒绝。"""
    with pytest.raises(ValueError, match="epsilon 不能为负"):
        group_norm(IMAGES, 2, G6, B6, -1e-5)
    with pytest.raises(ValueError, match="groups=4 必须整除"):
        group_norm(IMAGES, 4, G6, B6)
    with pytest.raises(ValueError, match="至少要有两轴"):
        group_norm(G6, 1, G6, B6)


def test_rms_norm__matches_module_and_function():
    """与 nn.RMSNorm、F.rms_norm 一致；不写 eps 时用的是机器精度。"""
    for epsilon in (1e-5, 0.4):
        ours = rms_norm(X, GAMMA, epsilon)
        torch.testing.assert_close(ours, F.rms_norm(X, (6,), GAMMA, epsilon))
        module = nn.RMSNorm(6, eps=epsilon).double()
        module.load_state_dict({"weight": GAMMA})
        torch.testing.assert_close(ours, module(X))
    tiny = 1e-8 * X
    default = rms_norm(tiny, GAMMA, torch.finfo(torch.float64).eps)
    torch.testing.assert_close(default, F.rms_norm(tiny, (6,), GAMMA))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rms_norm__matches_module_and_function_in_half_precision(dtype):
    """半精度的输入不写 eps 时，用的是 float32 的机器精度，不是输入类型的。"""
    x = (1e-3 * X).to(dtype)
    one, gamma = torch.ones(6, dtype=torch.float64), torch.ones(6, dtype=dtype)
    ours = rms_norm(x.double(), one, torch.finfo(torch.float32).eps).to(dtype)
    torch.testing.assert_close(ours, F.rms_norm(x, (6,), gamma))
    torch.testing.assert_close(ours, nn.RMSNorm(6, dtype=dtype)(x))
    coarse = rms_norm(x.double(), one, torch.finfo(dtype).eps).to(dtype)
    assert (coarse - ours).abs().max() > 0.1


def test_rms_norm__equals_hand_example():
    """手算一例：(3, −4) 的均方根是 √12.5。"""
    y = rms_norm(torch.tensor([[3.0, -4.0]]).double(), torch.ones(2).double(), epsilon=0.0)
    torch.testing.assert_close(y, torch.tensor([[3.0, -4.0]]).double() / 12.5**0.5)


def test_rms_norm__is_layer_norm_for_centred_rows():
    """每行的均值为 0 时，与没有平移的层归一化相同；否则不同。"""
    centred = X - X.mean(-1, keepdim=True)
    zero = torch.zeros(6).double()
    torch.testing.assert_close(rms_norm(centred, GAMMA), layer_norm(centred, GAMMA, zero))
    assert (rms_norm(X, GAMMA) - layer_norm(X, GAMMA, zero)).abs().max() > 0.1


def test_rms_norm__rejects_wrong_widths():
    """缩放的长度不是最后一轴、epsilon 为负时被拒绝。"""
    with pytest.raises(ValueError, match="epsilon 不能为负"):
        rms_norm(X, GAMMA, -1e-5)
    with pytest.raises(ValueError, match="gamma 的形状必须是"):
        rms_norm(X, GAMMA[:3])


def test_group_norm__matches_module_for_vectors():
    """没有空间轴的输入也与 nn.GroupNorm 一致，批量与组数不同。"""
    x = random(5, 6)
    module = nn.GroupNorm(3, 6).double()
    module.load_state_dict({"weight": G6, "bias": B6})
    torch.testing.assert_close(group_norm(x, 3, G6, B6), module(x))


def test_layer_norm__matches_function_for_one_vector():
    """一轴的输入就是一个样本。"""
    torch.testing.assert_close(
        layer_norm(X[0, 0], GAMMA, BETA), F.layer_norm(X[0, 0], (6,), GAMMA, BETA)
    )


def test_rms_norm__rejects_scalars():
    """标量没有可归一化的轴。"""
    with pytest.raises(ValueError, match="最后一轴不能为空"):
        rms_norm(torch.tensor(1.0), GAMMA)
