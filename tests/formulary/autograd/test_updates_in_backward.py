"""反向途中更新参数的检验。"""

import copy

import pytest
import torch
from torch import Tensor, nn

from formulary.autograd.updates_in_backward import (
    peak_gradient_bytes,
    sgd_in_backward,
)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _network() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    generator = _generator(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.uniform_(-1, 1, generator=generator)
    return net


def test_sgd_in_backward__matches_torch_sgd() -> None:
    """连走三步，与 torch.optim.SGD 逐位相同。"""
    net = _network()
    reference = copy.deepcopy(net)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.3)
    for step in range(3):
        x = torch.randn(6, 5, generator=_generator(step), dtype=torch.float64)
        sgd_in_backward(net(x).square().mean(), net.parameters(), 0.3)
        optimizer.zero_grad()
        reference(x).square().mean().backward()
        optimizer.step()
    for actual, expected in zip(net.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)
        assert actual.grad is None


def test_sgd_in_backward__equals_tied_weight_example() -> None:
    """L = w·w·3（同一个 w 用两次），w = 2：梯度 12 加完才更新一次，η = 0.1 得 0.8。"""
    w = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    sgd_in_backward((w * (w * 3)).sum(), [w], 0.1)
    torch.testing.assert_close(w.detach(), torch.tensor([0.8], dtype=torch.float64))


def test_sgd_in_backward__preserves_absence_of_hooks() -> None:
    """用完之后钩子都撤了：再反向一次，梯度留在 .grad，参数不动。"""
    w = torch.tensor([2.0], requires_grad=True)
    sgd_in_backward(w.square().sum(), [w], 0.25)
    w.square().sum().backward()
    torch.testing.assert_close(w.detach(), torch.tensor([1.0]))
    torch.testing.assert_close(w.grad, torch.tensor([2.0]))


def test_sgd_in_backward__differs_from_hook_that_returns() -> None:
    """钩子返回了梯度：反向半途抛出 RuntimeError，b 已经更新，a 还没有。"""
    start = torch.tensor([2.0, 3.0], dtype=torch.float64)
    a, b = (value.clone().requires_grad_() for value in start)

    def update(parameter: Tensor) -> Tensor:
        with torch.no_grad():
            parameter.sub_(parameter.grad, alpha=0.1)
            return parameter.grad.zero_()

    for parameter in (a, b):
        parameter.register_post_accumulate_grad_hook(update)
    with pytest.raises(RuntimeError, match="post accumulate grad hooks should return None"):
        (a.square() * b).backward()
    torch.testing.assert_close(torch.stack([a, b]).detach(), start - torch.tensor([0.0, 0.4]))
    a, b = (value.clone().requires_grad_() for value in start)
    sgd_in_backward(a.square() * b, [a, b], 0.1)
    torch.testing.assert_close(torch.stack([a, b]).detach(), start - torch.tensor([1.2, 0.4]))


def test_sgd_in_backward__rejects_bad_input() -> None:
    """损失不是标量、学习率为负、参数不是叶子或不要梯度时报错。"""
    w = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="loss"):
        sgd_in_backward(w * 2, [w], 0.1)
    for rate in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="learning_rate"):
            sgd_in_backward(w.sum(), [w], rate)
    for parameter in (torch.ones(2), w * 2):
        with pytest.raises(ValueError, match=r"parameters\[1\]"):
            sgd_in_backward(w.sum(), [w, parameter], 0.1)


def test_peak_gradient_bytes__matches_parameter_sizes() -> None:
    """不释放时是全部参数的字节数，随时释放时是最大的一个参数的。"""
    net = _network()
    x = torch.randn(6, 5, generator=_generator(), dtype=torch.float64)
    sizes = [8 * 7 * 5, 8 * 7, 8 * 3 * 7, 8 * 3]
    kept = peak_gradient_bytes(net(x).sum(), net.parameters(), release=False)
    released = peak_gradient_bytes(net(x).sum(), net.parameters(), release=True)
    assert (kept, released) == (sum(sizes), max(sizes))
    assert all(parameter.grad is None for parameter in net.parameters())


def test_peak_gradient_bytes__equals_example_of_equal_layers() -> None:
    """十个同样大的参数：释放与否差十倍。"""
    weights = [torch.ones(25, requires_grad=True) for _ in range(10)]
    loss = torch.stack(weights).sum()
    assert peak_gradient_bytes(loss, weights, release=False) == 1000
    loss = torch.stack(weights).sum()
    assert peak_gradient_bytes(loss, weights, release=True) == 100


def test_peak_gradient_bytes__rejects_bad_input() -> None:
    """损失不是标量、参数不要梯度时报错。"""
    w = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="loss"):
        peak_gradient_bytes(w * 2, [w], release=True)
    with pytest.raises(ValueError, match=r"parameters\[0\]"):
        peak_gradient_bytes(w.sum(), [torch.ones(2)], release=True)
