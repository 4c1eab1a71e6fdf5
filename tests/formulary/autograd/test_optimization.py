"""裁剪与更新的检验。"""

import math

import pytest
import torch
from torch import Tensor, nn

from formulary.autograd.optimization import (
    clip_by_norm,
    sgd_step,
    step_after_replacement,
)


def _randn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _layer() -> nn.Linear:
    """偏置取定值的 3→2 线性层，不依赖全局的随机数。"""
    layer = nn.Linear(3, 2).double()
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([0.5, -1.0]))
    return layer


def test_clip_by_norm__matches_torch() -> None:
    """与 torch.nn.utils.clip_grad_norm_ 相同，超过与不超过上限都查。"""
    for max_norm in (0.5, 2.0, 100.0):
        gradients = [_randn(3, 2), _randn(4, seed=1), _randn((), seed=2)]
        clipped, norm = clip_by_norm(gradients, max_norm)
        parameters = [nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        torch.testing.assert_close(norm, nn.utils.clip_grad_norm_(parameters, max_norm))
        torch.testing.assert_close(clipped, [parameter.grad for parameter in parameters])


def test_clip_by_norm__equals_hand_example() -> None:
    """(3, 4) 的范数是 5，裁到 1：(0.6, 0.8)，只差 1e-6 造成的 2e-7。"""
    clipped, norm = clip_by_norm([_randn(1) * 0 + 3, _randn(1) * 0 + 4], 1.0)
    assert norm.item() == 5.0
    expected = [3 / (5 + 1e-6), 4 / (5 + 1e-6)]
    torch.testing.assert_close(torch.cat(clipped), torch.tensor(expected, dtype=torch.float64))
    assert abs(clipped[0].item() - 0.6) < 2e-7


def test_clip_by_norm__bounds_norm_and_keeps_direction() -> None:
    """裁剪后的范数不超过上限，方向不变；不超过上限时原样返回。"""
    gradients = [_randn(5), _randn(7, seed=1)]
    clipped, norm = clip_by_norm(gradients, 0.3)
    flat, original = torch.cat(clipped), torch.cat(gradients)
    assert flat.norm() <= 0.3 < norm
    torch.testing.assert_close(flat / flat.norm(), original / original.norm())
    torch.testing.assert_close(clip_by_norm(gradients, 1e3)[0], gradients)


def test_clip_by_norm__differs_from_clipping_each() -> None:
    """逐个参数各裁各的，方向就变了。"""
    gradients = [torch.tensor([3.0]), torch.tensor([0.1])]
    together = torch.cat(clip_by_norm(gradients, 1.0)[0])
    apart = torch.cat([clip_by_norm([gradient], 1.0)[0][0] for gradient in gradients])
    torch.testing.assert_close(together[0] / together[1], torch.tensor(30.0))
    torch.testing.assert_close(apart[0] / apart[1], torch.tensor(10.0))


def test_clip_by_norm__preserves_nan() -> None:
    """有一个 NaN，范数就是 NaN，裁剪之后全是 NaN，与 clip_grad_norm_ 一样。"""
    clipped, norm = clip_by_norm([torch.tensor([math.nan, 1.0]), torch.ones(2)], 1.0)
    assert norm.isnan()
    assert torch.cat(clipped).isnan().all()
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([math.nan, 1.0])
    nn.utils.clip_grad_norm_([parameter], 1.0)
    assert parameter.grad.isnan().all()


def test_clip_by_norm__rejects_bad_input() -> None:
    """没有梯度、不是浮点张量、上限不是正数时报错。"""
    for gradients, max_norm, name in (
        ([], 1.0, "gradients"),
        ([torch.tensor([1])], 1.0, r"gradients\[0\]"),
        ([torch.ones(1)], 0.0, "max_norm"),
        ([torch.ones(1)], math.nan, "max_norm"),
    ):
        with pytest.raises(ValueError, match=name):
            clip_by_norm(gradients, max_norm)


def test_sgd_step__matches_torch_sgd() -> None:
    """连走三步，与 torch.optim.SGD 相同；没有梯度的参数不动。"""
    start = [_randn(3, 2), _randn(4, seed=1), _randn(2, seed=2)]
    ours = [tensor.clone().requires_grad_() for tensor in start]
    theirs = [tensor.clone().requires_grad_() for tensor in start]
    optimizer = torch.optim.SGD(theirs, lr=0.07)
    for _ in range(3):
        for tensors in (ours, theirs):
            for tensor in tensors:
                tensor.grad = None
            (tensors[0].pow(3).sum() + tensors[1].sin().sum()).backward()
        sgd_step(ours, 0.07)
        optimizer.step()
    for actual, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(actual, expected)
    assert torch.equal(ours[2], start[2])


def test_sgd_step__equals_hand_example() -> None:
    """L = w²，w = 3，η = 1/4：一步到 1.5；仍是叶子，.grad 还在。"""
    w = torch.tensor([3.0], requires_grad=True)
    w.square().sum().backward()
    sgd_step([w], 0.25)
    torch.testing.assert_close(w.detach(), torch.tensor([1.5]))
    assert w.is_leaf
    assert w.grad.item() == 6.0


def test_sgd_step__differs_from_rebinding() -> None:
    """写成 w = w − η·w.grad 得到的是新的非叶子张量，下一次反向它的 .grad 仍是 None。"""
    w = torch.tensor([3.0], requires_grad=True)
    w.square().sum().backward()
    rebound = w - 0.25 * w.grad
    sgd_step([w], 0.25)
    torch.testing.assert_close(rebound.detach(), w.detach())
    assert (w.is_leaf, rebound.is_leaf) == (True, False)
    rebound.square().sum().backward()
    with pytest.warns(UserWarning, match="not a leaf Tensor"):
        assert rebound.grad is None


def test_sgd_step__differs_from_recorded_update() -> None:
    """同样的更新不放在 no_grad 里，PyTorch 拒绝就地修改要梯度的叶子；sgd_step 照常。"""
    w = torch.tensor([3.0], requires_grad=True)
    w.square().sum().backward()
    message = "a leaf Variable that requires grad is being used in an in-place operation"
    with pytest.raises(RuntimeError, match=message):
        w.sub_(w.grad, alpha=0.25)
    assert w.item() == 3.0
    sgd_step([w], 0.25)
    assert w.item() == 1.5


def test_sgd_step__rejects_bad_input() -> None:
    """学习率为负、参数不是浮点张量时报错。"""
    with pytest.raises(ValueError, match="learning_rate"):
        sgd_step([torch.ones(1)], -0.1)
    with pytest.raises(ValueError, match="parameters"):
        sgd_step([torch.tensor([1])], 0.1)


def test_step_after_replacement__matches_given_weight() -> None:
    """走了一步，新权重与传进去的逐位相同，虽然它的梯度不是零；偏置照常更新。"""
    layer, weight, x = _layer(), _randn(2, 3), _randn(5, 3, seed=1)
    bias = layer.bias.detach().clone()
    actual = step_after_replacement(layer, weight, x, 0.1)
    torch.testing.assert_close(actual, weight, rtol=0, atol=0)
    assert layer.weight.grad.abs().min() > 0
    gradient = 2 * (x @ weight.T + bias).sum(dim=0)
    torch.testing.assert_close(layer.bias.detach(), bias - 0.1 * gradient)


def test_step_after_replacement__differs_from_copying_in_place() -> None:
    """用 copy_ 就地改值，优化器认得，权重更新了。"""
    layer, weight, x = _layer(), _randn(2, 3), _randn(5, 3, seed=1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    with torch.no_grad():
        layer.weight.copy_(weight)
    layer(x).square().sum().backward()
    optimizer.step()
    stale = step_after_replacement(_layer(), weight, x, 0.1)
    assert (layer.weight - stale).abs().max() > 0.1


def test_step_after_replacement__rejects_bad_input() -> None:
    """权重的形状、输入的宽度、学习率不对时报错。"""
    layer = nn.Linear(3, 2)
    for weight, x, rate, name in (
        (torch.ones(3, 2), torch.ones(1, 3), 0.1, "weight"),
        (torch.ones(2, 3), torch.ones(1, 2), 0.1, "x "),
        (torch.ones(2, 3), torch.ones(1, 3), -0.1, "learning_rate"),
    ):
        with pytest.raises(ValueError, match=name):
            step_after_replacement(layer, weight, x, rate)


def test_step_after_replacement__equals_hand_example() -> None:
    """新权重 2、偏置 0、x = 1、η = 0.1：权重的梯度是 4 却仍是 2，偏置走到 −0.4。"""
    layer = nn.Linear(1, 1)
    with torch.no_grad():
        layer.bias.zero_()
    actual = step_after_replacement(layer, torch.tensor([[2.0]]), torch.ones(1, 1), 0.1)
    torch.testing.assert_close(actual, torch.tensor([[2.0]]))
    torch.testing.assert_close(layer.weight.grad, torch.tensor([[4.0]]))
    torch.testing.assert_close(layer.bias.detach(), torch.tensor([-0.4]))
