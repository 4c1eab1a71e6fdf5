"""嵌入的检验。"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from formulary.nn_and_functional.embedding import embedding, embedding_gradient

INDICES = torch.tensor([[1, 4, 1], [0, 2, 1]])


def _random(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def test_embedding__matches_module_and_function() -> None:
    """与 nn.Embedding、F.embedding 相同，行号零到两轴都对。"""
    table = _random(6, 3)
    module = nn.Embedding.from_pretrained(table)
    for indices in (INDICES, INDICES[0], INDICES[0, 1]):
        torch.testing.assert_close(embedding(indices, table), module(indices))
        torch.testing.assert_close(embedding(indices, table), F.embedding(indices, table))


def test_embedding__matches_one_hot_product() -> None:
    """与独热向量乘以表逐位相同。"""
    table = _random(6, 3)
    actual, expected = embedding(INDICES, table), F.one_hot(INDICES, 6).double() @ table
    torch.testing.assert_close(actual, expected)
    assert torch.equal(actual, expected)


def test_embedding__equals_worked_example() -> None:
    """文中手算：取第 2、0、2 行。"""
    table = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    expected = torch.tensor([[5.0, 6.0], [1.0, 2.0], [5.0, 6.0]])
    torch.testing.assert_close(embedding(torch.tensor([2, 0, 2]), table), expected)


def test_embedding__rejects_bad_indices() -> None:
    """越界、负数、浮点的行号都报错，表不是二维也报错。"""
    table = torch.ones(6, 3)
    for bad in (torch.tensor([6]), torch.tensor([-1])):
        with pytest.raises(ValueError, match="indices 的元素必须在"):
            embedding(bad, table)
    with pytest.raises(ValueError, match="indices 必须是整数张量"):
        embedding(torch.tensor([1.0]), table)
    with pytest.raises(ValueError, match="table 的形状"):
        embedding(INDICES, torch.ones(6))


@pytest.mark.parametrize("padding", [None, 0, 1])
def test_embedding_gradient__matches_autograd_of_module_and_function(padding: int | None) -> None:
    """与 nn.Embedding、F.embedding 的自动求导相同，有无填充行都对。"""
    module = nn.Embedding(6, 3, padding_idx=padding).double()
    table, upstream = _random(6, 3).requires_grad_(), _random(2, 3, 3)
    module(INDICES).backward(upstream)
    F.embedding(INDICES, table, padding).backward(upstream)
    actual = embedding_gradient(INDICES, upstream, 6, padding)
    torch.testing.assert_close(actual, module.weight.grad)
    torch.testing.assert_close(actual, table.grad)


def test_embedding_gradient__matches_python_loops() -> None:
    """逐个位置把梯度加到它的那一行。"""
    upstream = _random(2, 3, 4)
    expected = torch.zeros(6, 4, dtype=torch.float64)
    for row in range(2):
        for column in range(3):
            expected[int(INDICES[row, column])] += upstream[row, column]
    torch.testing.assert_close(embedding_gradient(INDICES, upstream, 6), expected)
    assert (expected[[3, 5]] == 0).all()


def test_embedding_gradient__equals_worked_example() -> None:
    """文中手算：第 2 行取了两次，梯度相加；第 1 行没有取到，梯度为零。"""
    upstream = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]])
    expected = torch.tensor([[0.0, 2.0], [0.0, 0.0], [4.0, 4.0]])
    actual = embedding_gradient(torch.tensor([2, 0, 2]), upstream, 3)
    torch.testing.assert_close(actual, expected)


def test_embedding_gradient__differs_from_plain_assignment() -> None:
    """写成 gradient[indices] = output_gradient，重复的行号只留下一份。"""
    upstream = _random(2, 3, 4)
    wrong = torch.zeros(6, 4, dtype=torch.float64)
    wrong[INDICES] = upstream
    assert (wrong - embedding_gradient(INDICES, upstream, 6)).abs().max() > 0.1


def test_embedding_gradient__depends_only_on_output_gradient() -> None:
    """模块把填充行初始化为零，函数不改表：同样的填充设置，两者的前向可以不同，梯度相同。"""
    module = nn.Embedding(6, 3, padding_idx=1).double()
    table = _random(6, 3).requires_grad_()
    assert (module(torch.tensor(1)) == 0).all()
    assert (F.embedding(torch.tensor(1), table, 1) != 0).all()
    upstream = _random(2, 3, 3)
    module(INDICES).backward(upstream)
    torch.testing.assert_close(embedding_gradient(INDICES, upstream, 6, 1), module.weight.grad)
    assert not nn.Embedding.from_pretrained(table).weight.requires_grad


def test_embedding_gradient__rejects_bad_input() -> None:
    """越界的行号与填充行、对不上的形状都报错。"""
    upstream = torch.ones(2, 3, 4)
    with pytest.raises(ValueError, match="vocabulary_size"):
        embedding_gradient(INDICES, upstream, 0)
    with pytest.raises(ValueError, match="indices 的元素必须在"):
        embedding_gradient(INDICES, upstream, 4)
    with pytest.raises(ValueError, match="output_gradient 的形状"):
        embedding_gradient(INDICES, torch.ones(3, 2, 4), 6)
    with pytest.raises(ValueError, match="padding_index 必须小于 6"):
        embedding_gradient(INDICES, upstream, 6, 6)
    with pytest.raises(ValueError, match="padding_index 必须是"):
        embedding_gradient(INDICES, upstream, 6, -1)
