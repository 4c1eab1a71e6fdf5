import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from formulary.nn_and_functional.batch_norm_folding import fold_batch_norm

GENERATOR = torch.Generator().manual_seed(0)


def statistics(norm: nn.Module) -> tuple[torch.Tensor, ...]:
    """给归一化层随机的统计与参数，按 fold_batch_norm 的次序返回。"""
    size = norm.num_features
    values = [torch.randn(size, dtype=torch.float64, generator=GENERATOR) for _ in range(4)]
    values[1] = values[1].square() + 0.1
    for name, value in zip(("running_mean", "running_var", "weight", "bias"), values, strict=True):
        getattr(norm, name).data.copy_(value)
    return tuple(values)


@pytest.mark.parametrize("kind", ["convolution", "linear"])
def test_fold_batch_norm__matches_torch_fusion(kind):
    """与 torch.nn.utils.fusion 的融合一致，卷积与线性层都比。"""
    layer, norm, fuse = {
        "convolution": (nn.Conv2d(3, 5, 2), nn.BatchNorm2d(5), fuse_conv_bn_eval),
        "linear": (nn.Linear(4, 5), nn.BatchNorm1d(5), fuse_linear_bn_eval),
    }[kind]
    layer, norm = layer.double().eval(), norm.double().eval()
    weight, bias = fold_batch_norm(layer.weight.data, layer.bias.data, *statistics(norm))
    fused = fuse(layer, norm)
    torch.testing.assert_close(weight, fused.weight.data)
    torch.testing.assert_close(bias, fused.bias.data)


def test_fold_batch_norm__preserves_output_in_eval_mode():
    """折叠之后的一层，与卷积接批归一化的两层输出相同。"""
    layer, norm = nn.Conv2d(3, 5, 2).double(), nn.BatchNorm2d(5).double().eval()
    weight, bias = fold_batch_norm(layer.weight.data, layer.bias.data, *statistics(norm))
    x = torch.randn(2, 3, 6, 4, dtype=torch.float64, generator=GENERATOR)
    torch.testing.assert_close(nn.functional.conv2d(x, weight, bias), norm(layer(x)))
    norm.eps = 0.0
    weight, bias = fold_batch_norm(layer.weight.data, layer.bias.data, *statistics(norm), 0.0)
    torch.testing.assert_close(nn.functional.conv2d(x, weight, bias), norm(layer(x)))


def test_fold_batch_norm__differs_from_training_mode():
    """训练模式用的是这一批的统计，折叠之后的一层给不出同样的输出。"""
    layer, norm = nn.Conv2d(3, 5, 2).double(), nn.BatchNorm2d(5).double()
    weight, bias = fold_batch_norm(layer.weight.data, layer.bias.data, *statistics(norm))
    x = torch.randn(2, 3, 6, 4, dtype=torch.float64, generator=GENERATOR)
    assert (nn.functional.conv2d(x, weight, bias) - norm(layer(x))).abs().max() > 0.1


def test_fold_batch_norm__rejects_mismatched_channels():
    """统计的长度不是输出通道数、epsilon 为负时被拒绝。"""
    five = torch.ones(5)
    with pytest.raises(ValueError, match="epsilon 不能为负"):
        fold_batch_norm(torch.ones(5, 3), five, five, five, five, five, epsilon=-1e-5)
    with pytest.raises(ValueError, match="mean 的形状必须是"):
        fold_batch_norm(torch.ones(5, 3), five, five[:4], five, five, five)
