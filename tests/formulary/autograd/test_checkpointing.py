"""检查点的梯度、重算与陷阱的检验。"""

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError, checkpoint

from formulary.autograd.checkpoint_memory import segment_lengths
from formulary.autograd.checkpointing import (
    RecomputedSegment,
    checkpoint_by_default,
    checkpointed_chain,
)


def _layers(count: int = 6) -> nn.ModuleList:
    generator = torch.Generator().manual_seed(0)
    layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(count))
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.uniform_(-1, 1, generator=generator)
    return layers.double()


def _x(requires_grad: bool = True) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    return x.requires_grad_(requires_grad)


def _gradients(y: Tensor, x: Tensor, layers: nn.Module) -> list[Tensor]:
    (y**2).sum().backward()
    return [x.grad, *(parameter.grad for parameter in layers.parameters())]


def _plain(functions: nn.ModuleList, x: Tensor) -> Tensor:
    for function in functions:
        x = function(x)
    return x


def test_RecomputedSegment__matches_plain_gradients() -> None:
    """值与全部梯度都与不设检查点时逐位相同。"""
    layers, x = _layers(), _x()
    reference, z = copy.deepcopy(layers), _x()
    y, expected = RecomputedSegment.apply(nn.Sequential(*layers), x), _plain(reference, z)
    assert torch.equal(y, expected)
    actual = _gradients(y, x, layers)
    for a, b in zip(actual, _gradients(expected, z, reference), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_RecomputedSegment__equals_square_example() -> None:
    """段是 x²，上游伴随 (5, 7)，x = (2, 3)：得 (20, 42)，函数调用了两次。"""
    calls: list[int] = []

    def square(x: Tensor) -> Tensor:
        calls.append(1)
        return x * x

    x = torch.tensor([2.0, 3.0], requires_grad=True)
    RecomputedSegment.apply(square, x).backward(torch.tensor([5.0, 7.0]))
    torch.testing.assert_close(x.grad, torch.tensor([20.0, 42.0]))
    assert len(calls) == 2


def test_RecomputedSegment__differs_from_non_reentrant_without_input_gradient() -> None:
    """输入不要梯度时，整段不在图上，参数得不到梯度；PyTorch 的非重入版照常。"""
    layers = _layers(1)
    assert not RecomputedSegment.apply(layers[0], _x(False)).requires_grad
    y = checkpoint(layers[0], _x(False), use_reentrant=False)
    assert y.requires_grad
    y.sum().backward()
    assert all(parameter.grad is not None for parameter in layers.parameters())


def test_RecomputedSegment__rejects_bad_input() -> None:
    """function 不可调用、x 不是浮点张量时报错。"""
    with pytest.raises(ValueError, match="function"):
        RecomputedSegment.apply(None, torch.ones(2))
    with pytest.raises(ValueError, match="x "):
        RecomputedSegment.apply(torch.sin, torch.tensor([1]))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_chain__matches_plain_gradients(reentrant: bool) -> None:
    """六层、每一种段数、两种写法：值与梯度逐位相同。"""
    for segments in range(1, 7):
        layers, x, reference, z = _layers(), _x(), _layers(), _x()
        y = checkpointed_chain(list(layers), x, segment_lengths(6, segments), reentrant)
        expected = _plain(reference, z)
        assert torch.equal(y, expected)
        for a, b in zip(_gradients(y, x, layers), _gradients(expected, z, reference), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_checkpointed_chain__equals_two_calls_per_layer() -> None:
    """每一层前向一次、重算一次；次序是前向从头到尾，重算一段一段从后往前。"""
    calls: list[int] = []

    def layer(i: int) -> Callable[[Tensor], Tensor]:
        def function(x: Tensor) -> Tensor:
            calls.append(i)
            return (x + i).sin()

        return function

    for reentrant in (False, True):
        calls.clear()
        x = torch.ones(2, requires_grad=True)
        chain = [layer(i) for i in range(5)]
        checkpointed_chain(chain, x, [2, 2, 1], reentrant).sum().backward()
        assert calls == [0, 1, 2, 3, 4, 4, 2, 3, 0, 1]


def test_checkpointed_chain__preserves_dropout_masks() -> None:
    """非重入版重算时恢复随机数状态，Dropout 的掩码两次相同。"""
    x = torch.ones(200, requires_grad=True)
    chain = [lambda x: nn.functional.dropout(x, 0.5), torch.tanh]
    y = checkpointed_chain(chain, x, [2])
    y.sum().backward()
    torch.testing.assert_close(x.grad != 0, y != 0)


def test_checkpointed_chain__differs_from_reentrant_dropout() -> None:
    """手写的重入版不恢复随机数状态：反向用的是另一个掩码，梯度是错的。"""
    x = torch.ones(200, requires_grad=True)
    chain = [lambda x: nn.functional.dropout(x, 0.5), torch.tanh]
    y = checkpointed_chain(chain, x, [2], reentrant=True)
    y.sum().backward()
    assert (x.grad != 0).ne(y != 0).any()


def test_checkpointed_chain__differs_from_single_batch_norm_update() -> None:
    """重算时批归一化又更新了一次运行统计：一步训练之后计数是 2，均值偏向新的一批。"""
    norm, x = nn.BatchNorm1d(4, momentum=0.5).double(), _x()
    checkpointed_chain([norm], x, [1]).sum().backward()
    assert norm.num_batches_tracked.item() == 2
    torch.testing.assert_close(norm.running_mean, 0.75 * x.detach().mean(0))


def test_checkpointed_chain__rejects_bad_lengths() -> None:
    """段长不是正整数、总和不等于函数个数时报错。"""
    for lengths in ([1], [2, 1], [0, 2]):
        with pytest.raises(ValueError, match="lengths"):
            checkpointed_chain([torch.sin, torch.cos], torch.ones(1), lengths)
    with pytest.raises(ValueError, match="x "):
        checkpointed_chain([torch.sin], torch.tensor([1]), [1])


def test_checkpoint_by_default__matches_plain_gradients_with_input_gradient() -> None:
    """输入要梯度时结果是对的，只有一条警告说应当写明 use_reentrant。"""
    layers, x, reference, z = _layers(1), _x(), _layers(1), _x()
    with pytest.warns(UserWarning, match="the use_reentrant parameter should be passed"):
        y = checkpoint_by_default(layers[0], x)
    expected = _plain(reference, z)
    for a, b in zip(_gradients(y, x, layers), _gradients(expected, z, reference), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_checkpoint_by_default__differs_from_plain_without_input_gradient() -> None:
    """输入不要梯度时，参数的梯度丢了：结果不要梯度。"""
    layers = _layers(1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        y = checkpoint_by_default(layers[0], _x(False))
    assert not y.requires_grad
    assert any("None of the inputs have requires_grad" in str(w.message) for w in caught)
    assert layers[0](_x(False)).requires_grad


def test_checkpoint_by_default__differs_from_non_reentrant_under_autograd_grad() -> None:
    """重入版不支持 torch.autograd.grad，报 RuntimeError；非重入版支持。"""
    x = _x()
    with pytest.warns(UserWarning, match="use_reentrant"):
        y = checkpoint_by_default(torch.sin, x)
    with pytest.raises(RuntimeError, match="use_reentrant=True"):
        torch.autograd.grad(y.sum(), x)
    y = checkpoint(torch.sin, x, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], x.detach().cos())


def test_checkpoint_by_default__rejects_bad_input() -> None:
    """function 不可调用、x 不是浮点张量时报错。"""
    with pytest.raises(ValueError, match="function"):
        checkpoint_by_default(None, torch.ones(2))
    with pytest.raises(ValueError, match="x "):
        checkpoint_by_default(torch.sin, torch.tensor([1]))


def test_checkpointed_chain__rejects_changed_recomputation() -> None:
    """两次走了不同的分支，存的张量个数不符，PyTorch 抛出 CheckpointError。"""
    calls: list[int] = []

    def function(x: Tensor) -> Tensor:
        calls.append(1)
        return x.sin().cos() if len(calls) == 1 else x.exp()

    y = checkpointed_chain([function], _x(), [1])
    with pytest.raises(CheckpointError, match="A different number of tensors was saved"):
        y.sum().backward()


def test_checkpoint_by_default__equals_hand_example() -> None:
    """y = w·x，w = 3，x = 2：值是 6；x 要梯度时 w̄ = 2，x 不要梯度时根本没有图。"""
    w = torch.tensor([3.0], requires_grad=True)
    with pytest.warns(UserWarning, match="use_reentrant"):
        y = checkpoint_by_default(lambda x: w * x, torch.tensor([2.0], requires_grad=True))
    y.sum().backward()
    torch.testing.assert_close(y.detach(), torch.tensor([6.0]))
    torch.testing.assert_close(w.grad, torch.tensor([2.0]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        y = checkpoint_by_default(lambda x: w * x, torch.tensor([2.0]))
    torch.testing.assert_close(y, torch.tensor([6.0]))
    assert y.grad_fn is None


def test_checkpointed_chain__equals_early_stop_example() -> None:
    """段是正弦再加一：加一什么也不存，重算到正弦的存档就停，加一只算过一次。"""
    calls: list[str] = []

    def sine(x: Tensor) -> Tensor:
        calls.append("sin")
        return x.sin()

    def add(x: Tensor) -> Tensor:
        calls.append("add")
        return x + 1

    x = torch.tensor([0.3, 0.7], requires_grad=True)
    checkpointed_chain([sine, add], x, [2]).sum().backward()
    assert calls == ["sin", "add", "sin"]
    torch.testing.assert_close(x.grad, x.detach().cos())
