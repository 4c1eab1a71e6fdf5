"""线性层与掩码线性层的检验。"""

import pytest
import torch
import torch.nn.functional as F
import zuko
from torch import Tensor, nn
from torch.nn.utils import prune

from formulary.nn_and_functional.linear import (
    linear,
    masked_linear,
    masked_linear_weight_gradient,
)

WEIGHT = torch.tensor([[3.0, -1.0], [0.5, 2.0]], dtype=torch.float64)
BIAS = torch.tensor([1.0, -1.0], dtype=torch.float64)
MASK = torch.tensor([[True, False], [True, True]])
X = torch.tensor([1.0, 2.0], dtype=torch.float64)


def _random(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def _mask(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(2)) < 0.6


def _layer(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0]).double()
    layer.weight.data, layer.bias.data = weight.clone(), bias.clone()
    return layer


def test_linear__matches_module_and_function() -> None:
    """与 nn.Linear、F.linear 相同，有无偏置、前导零到两轴都对。"""
    weight, bias = _random(3, 5), _random(3)
    for shape in ((5,), (4, 5), (2, 4, 5)):
        x = _random(*shape)
        torch.testing.assert_close(linear(x, weight, bias), _layer(weight, bias)(x).detach())
        torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias))
        torch.testing.assert_close(linear(x, weight), F.linear(x, weight))


def test_linear__matches_python_loops() -> None:
    """与三重循环相同。"""
    x, weight, bias = _random(4, 5), _random(3, 5), _random(3)
    expected = [
        [
            bias[o].item() + sum(x[b, i].item() * weight[o, i].item() for i in range(5))
            for o in range(3)
        ]
        for b in range(4)
    ]
    torch.testing.assert_close(linear(x, weight, bias), torch.tensor(expected).double())


def test_linear__equals_worked_example() -> None:
    """文中手算：(1, 2) 经线性层得 (2, 3.5)。"""
    torch.testing.assert_close(linear(X, WEIGHT, BIAS), torch.tensor([2.0, 3.5]).double())


def test_linear__rejects_bad_shapes() -> None:
    """权重转置了、偏置长度不对、输入是整数时报错。"""
    with pytest.raises(ValueError, match="x 的形状"):
        linear(torch.ones(4, 5), torch.ones(5, 3))
    with pytest.raises(ValueError, match="weight 的形状"):
        linear(torch.ones(4, 5), torch.ones(5))
    with pytest.raises(ValueError, match="bias 的形状"):
        linear(torch.ones(4, 5), torch.ones(3, 5), torch.ones(5))
    with pytest.raises(ValueError, match="x 必须是实浮点张量"):
        linear(torch.ones(4, 5, dtype=torch.int64), torch.ones(3, 5))


def test_masked_linear__matches_pruned_module_and_function() -> None:
    """与 torch.nn.utils.prune 剪枝的 nn.Linear、zuko 1.6 的 MaskedLinear、F.linear 相同。"""
    x, weight, bias, mask = _random(4, 5), _random(3, 5), _random(3), _mask(3, 5)
    actual = masked_linear(x, weight, mask, bias)
    pruned = prune.custom_from_mask(_layer(weight, bias), "weight", mask)
    torch.testing.assert_close(actual, pruned(x).detach())
    torch.testing.assert_close(actual, F.linear(x, weight * mask, bias))
    theirs = zuko.nn.MaskedLinear(mask, dtype=torch.float64)
    theirs.load_state_dict({"weight": weight, "bias": bias, "mask": mask})
    torch.testing.assert_close(actual, theirs(x).detach())


def test_masked_linear__equals_worked_example() -> None:
    """文中手算：删去第一行第二列的连接，(1, 2) 得 (4, 3.5)。"""
    expected = torch.tensor([4.0, 3.5]).double()
    torch.testing.assert_close(masked_linear(X, WEIGHT, MASK, BIAS), expected)


def test_masked_linear__preserves_weight() -> None:
    """前向之后权重原样不动，不像就地乘掩码的写法。"""
    weight, mask = _random(3, 5), _mask(3, 5)
    before = weight.clone()
    masked_linear(_random(4, 5), weight, mask)
    assert torch.equal(weight, before)


def test_masked_linear__differs_from_direct_forward_of_pruned_module() -> None:
    """剪枝靠前置钩子重算权重：改了 weight_orig 之后直接调 forward，用的是旧权重。"""
    x, weight, bias, mask = _random(4, 5), _random(3, 5), _random(3), _mask(3, 5)
    pruned = prune.custom_from_mask(_layer(weight, bias), "weight", mask)
    with torch.no_grad():
        pruned.weight_orig.mul_(2)
    stale = pruned.forward(x).detach()
    fresh = masked_linear(x, 2 * weight, mask, bias)
    assert (stale - fresh).abs().max() > 0.1
    torch.testing.assert_close(pruned(x).detach(), fresh)


def test_masked_linear__rejects_bad_mask() -> None:
    """掩码不是布尔的、形状不同时报错。"""
    weight = torch.ones(3, 5)
    with pytest.raises(ValueError, match="mask 必须是形状为"):
        masked_linear(torch.ones(4, 5), weight, torch.ones(3, 5))
    with pytest.raises(ValueError, match="mask 必须是形状为"):
        masked_linear(torch.ones(4, 5), weight, torch.ones(5, dtype=torch.bool))


def test_masked_linear_weight_gradient__matches_autograd() -> None:
    """与自动求导相同，前导轴一到两个；被掩掉的恰为零。"""
    weight, mask = _random(3, 5).requires_grad_(), _mask(3, 5)
    for shape in ((4,), (2, 4)):
        x, upstream = _random(*shape, 5), _random(*shape, 3)
        (expected,) = torch.autograd.grad(masked_linear(x, weight, mask), weight, upstream)
        actual = masked_linear_weight_gradient(x, upstream, mask)
        torch.testing.assert_close(actual, expected)
        assert (actual[~mask] == 0).all()


def test_masked_linear_weight_gradient__equals_worked_example() -> None:
    """文中手算：输出梯度 (1, 2)，权重梯度是 [[1, 0], [2, 4]]。"""
    upstream = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    expected = torch.tensor([[1.0, 0.0], [2.0, 4.0]]).double()
    torch.testing.assert_close(masked_linear_weight_gradient(X[None], upstream, MASK), expected)


def test_masked_linear_weight_gradient__differs_from_masking_in_place() -> None:
    """前向里写 weight.data *= mask 再接普通的线性层，被掩掉的权重也得到不为零的梯度。"""
    x, upstream, mask = _random(4, 5), _random(4, 3), _mask(3, 5)
    layer = _layer(_random(3, 5), _random(3))
    layer.weight.data *= mask
    layer(x).backward(upstream)
    right = masked_linear_weight_gradient(x, upstream, mask)
    torch.testing.assert_close(layer.weight.grad[mask], right[mask])
    assert layer.weight.grad[~mask].abs().min() > 0


def test_masked_linear_weight_gradient__rejects_bad_shapes() -> None:
    """前导轴或掩码对不上时报错。"""
    with pytest.raises(ValueError, match="output_gradient 的形状"):
        masked_linear_weight_gradient(torch.ones(4, 5), torch.ones(2, 3), _mask(3, 5))
    with pytest.raises(ValueError, match="mask 必须是形状为"):
        masked_linear_weight_gradient(torch.ones(4, 5), torch.ones(4, 3), _mask(5, 3))
    with pytest.raises(ValueError, match="x 必须是实浮点张量"):
        masked_linear_weight_gradient([1.0], torch.ones(4, 3), _mask(3, 5))
