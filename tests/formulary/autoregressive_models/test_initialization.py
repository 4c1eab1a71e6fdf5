"""参数初始化的检验。"""

import math

import torch
from torch import nn

from formulary.autoregressive_models.initialization import initialize_parameters


def _module() -> nn.Module:
    return nn.Sequential(nn.Conv1d(3, 40, 5), nn.LayerNorm(7), nn.Linear(16, 50))


def test_initialize_parameters__is_uniform_within_fan_in() -> None:
    """权重在正负 1/√扇入 之间且铺满，偏置为零，层归一化的增益仍为一。"""
    module = _module()
    initialize_parameters(module, torch.Generator().manual_seed(0))
    convolution, norm, linear = module
    for layer, fan_in in ((convolution, 15), (linear, 16)):
        bound = 1 / math.sqrt(fan_in)
        assert layer.weight.abs().max() <= bound
        assert 0.95 * bound < layer.weight.abs().max()
        # 均匀分布的标准差是半宽除以 √3；600 个以上的样本，误差不到一成
        assert abs(layer.weight.std() * math.sqrt(3) / bound - 1) < 0.1
        assert (layer.bias == 0).all()
    assert (norm.weight == 1).all()


def test_initialize_parameters__depends_only_on_generator() -> None:
    """同样的发生器给出同样的参数，与全局的种子无关；不给发生器则原样不动。"""
    weights = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        module = _module()
        initialize_parameters(module, torch.Generator().manual_seed(3))
        weights.append(module[0].weight.detach().clone())
    assert torch.equal(*weights)
    module = _module()
    before = module[2].weight.detach().clone()
    initialize_parameters(module, None)
    assert torch.equal(module[2].weight, before)
