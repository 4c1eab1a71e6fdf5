"""图的泄漏的检验。"""

import pytest
import torch
from torch import Tensor

from formulary.autograd.graph_leaks import (
    reachable_nodes,
    running_mean_with_graph,
    total_loss_with_graph,
)
from formulary.autograd.saved_tensors import peak_saved_bytes


def _batches(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(count)]


def _weight() -> Tensor:
    return torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64, requires_grad=True)


def _names(tensor: Tensor) -> set[int]:
    """递归地走一遍图（与被测的循环写法不同）。"""
    found: dict[int, object] = {}

    def visit(node: object) -> None:
        if node is not None and id(node) not in found:
            found[id(node)] = node
            for following, _ in node.next_functions:
                visit(following)

    visit(tensor.grad_fn)
    return set(found)


def test_reachable_nodes__matches_recursive_walk() -> None:
    """与递归数出来的相同；菱形里共用的结点只计一次。"""
    x = torch.ones(2, requires_grad=True)
    y = x.sin()
    for tensor in (y * y + y, (y + x).exp().sum() * y[0], x):
        assert reachable_nodes(tensor) == len(_names(tensor))


def test_reachable_nodes__equals_examples() -> None:
    """x·2 + x 有加、乘、叶子三个结点；detach 之后是 0。"""
    x = torch.ones(1, requires_grad=True)
    assert reachable_nodes(x * 2 + x) == 3
    assert reachable_nodes((x * 2 + x).detach()) == 0


def test_reachable_nodes__equals_growth_of_leaks() -> None:
    """累加损失每步 4 个结点外加一个叶子，4k + 1；运行均值 5k；50 步是 201 与 250。"""
    for k in (1, 2, 50):
        assert reachable_nodes(total_loss_with_graph(_weight(), _batches(k))) == 4 * k + 1
        assert reachable_nodes(running_mean_with_graph(_weight(), _batches(k))) == 5 * k


def test_reachable_nodes__rejects_numbers() -> None:
    """传进数而不是张量时报错。"""
    with pytest.raises(ValueError, match="tensor"):
        reachable_nodes(1.0)


def test_total_loss_with_graph__matches_detached_sum() -> None:
    """值与加 loss.item() 的总和相同，差别只在带着图。"""
    weight, batches = _weight(), _batches(4)
    total = total_loss_with_graph(weight, batches)
    expected = sum((batch @ weight).square().mean().item() for batch in batches)
    torch.testing.assert_close(total.detach(), torch.tensor(expected).double())
    assert total.requires_grad


def test_total_loss_with_graph__differs_from_detached_sum_in_memory() -> None:
    """不反向的验证循环里，存档的张量随步数成倍增加；每步都反向则只剩结点。"""
    one = peak_saved_bytes(lambda: total_loss_with_graph(_weight(), _batches(1), backward=False))
    assert one == 8 * (5 * 3 + 5)  # 输入 x 与投影 x·w
    for k in (3, 10):
        for backward, times in ((False, k), (True, 1)):
            peak = peak_saved_bytes(
                lambda k=k, b=backward: total_loss_with_graph(_weight(), _batches(k), backward=b)
            )
            assert peak == times * one


def test_total_loss_with_graph__rejects_bad_shapes() -> None:
    """参数不是一维、批的宽度不符时报错。"""
    with pytest.raises(ValueError, match="weight"):
        total_loss_with_graph(torch.ones(2, 2), [])
    with pytest.raises(ValueError, match="batches"):
        total_loss_with_graph(torch.ones(2), [torch.ones(3, 3)])


def test_running_mean_with_graph__matches_detached_recursion() -> None:
    """值与用 detach 的递推相同，差别只在带着图。"""
    weight, batches, expected = _weight(), _batches(4), [0.0, 0.0, 0.0]
    for batch in batches:
        means = (batch * weight.detach()).mean(dim=0).tolist()
        expected = [0.7 * old + 0.3 * new for old, new in zip(expected, means, strict=True)]
    actual = running_mean_with_graph(weight, batches, momentum=0.3)
    torch.testing.assert_close(actual.detach(), torch.tensor(expected, dtype=torch.float64))


def test_running_mean_with_graph__differs_from_batch_norm_buffer() -> None:
    """PyTorch 的 BatchNorm1d 的运行均值值相同，但不在图上。"""
    norm, weight, batches = torch.nn.BatchNorm1d(3).double(), _weight(), _batches(3)
    for batch in batches:
        norm(batch * weight)
    actual = running_mean_with_graph(weight, batches, momentum=0.1)
    torch.testing.assert_close(actual.detach(), norm.running_mean)
    assert reachable_nodes(norm.running_mean) == 0 < reachable_nodes(actual)


def test_running_mean_with_graph__rejects_bad_input() -> None:
    """参数不是一维、批的宽度不符、动量不在 [0, 1] 里时报错。"""
    with pytest.raises(ValueError, match="weight"):
        running_mean_with_graph(torch.ones(2, 2), [])
    with pytest.raises(ValueError, match="batches"):
        running_mean_with_graph(torch.ones(2), [torch.ones(3, 3)])
    with pytest.raises(ValueError, match="momentum"):
        running_mean_with_graph(torch.ones(2), [], momentum=1.5)


def test_total_loss_with_graph__equals_hand_example() -> None:
    """w = (1, 2)，两步的输入是 (1, 1) 与 (3, 0)：损失 9 与 9，总和 18；w 的梯度是 (24, 6)。"""
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    batches = [torch.tensor([[1.0, 1.0]]), torch.tensor([[3.0, 0.0]])]
    total = total_loss_with_graph(weight, batches)
    assert total.item() == 18.0
    torch.testing.assert_close(weight.grad, torch.tensor([24.0, 6.0]))


def test_running_mean_with_graph__equals_hand_example() -> None:
    """缩放 2，批均值 1 与 3，ρ = 1/2：0 → 1 → 3.5。"""
    weight = torch.tensor([2.0], requires_grad=True)
    batches = [torch.tensor([[0.0], [2.0]]), torch.tensor([[2.0], [4.0]])]
    actual = running_mean_with_graph(weight, batches, momentum=0.5)
    torch.testing.assert_close(actual.detach(), torch.tensor([3.5]))
