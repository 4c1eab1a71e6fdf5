"""PyTorch 自己的计算图的检验。"""

import pytest
import torch

from formulary.autograd.graph import backward_graph, edge_shares


def _names(output: torch.Tensor) -> list[str]:
    return [node.name().rpartition("::")[2] for node in backward_graph(output)[0]]


def _example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    a = torch.tensor(2.0, requires_grad=True)
    b = torch.tensor(3.0, requires_grad=True)
    u = a * b
    return a, b, u * (u + a)


def _program(seed: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((4, 3), (3,), (3, 2))
    leaves = [
        torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()
        for shape in shapes
    ]
    x, b, w = leaves
    h = torch.tanh(x * b + x)
    return leaves, ((h @ w).relu().sum(0) * h.sum() + (w * w).sum(0)).logsumexp(0)


def test_backward_graph__equals_worked_example() -> None:
    """L = (ab)(ab + a) 的图：五个结点、六条边，a、b 的结点是 AccumulateGrad。"""
    _, _, loss = _example()
    nodes, edges = backward_graph(loss)
    expected = ["MulBackward0", "MulBackward0", "AddBackward0", "AccumulateGrad", "AccumulateGrad"]
    assert _names(loss) == expected
    assert edges == [(0, 1), (0, 2), (1, 3), (1, 4), (2, 1), (2, 3)]
    assert nodes[0] is loss.grad_fn


def test_backward_graph__matches_recursive_walk() -> None:
    """递归地走 next_functions，得到同样的结点集合与同样多的边。"""
    _, output = _program(0)
    seen: dict[object, int] = {}

    def walk(node: torch.autograd.graph.Node) -> None:
        if node in seen:
            return
        parents = [parent for parent, _ in node.next_functions if parent is not None]
        seen[node] = len(parents)
        for parent in parents:
            walk(parent)

    walk(output.grad_fn)
    nodes, edges = backward_graph(output)
    assert set(nodes) == set(seen)
    assert len(nodes) == len(set(nodes))
    for number, node in enumerate(nodes):
        assert sum(start == number for start, _ in edges) == seen[node]


def test_backward_graph__preserves_leaves() -> None:
    """AccumulateGrad 结点恰好是全部叶子，各一个。"""
    leaves, output = _program(1)
    nodes, _ = backward_graph(output)
    variables = [node.variable for node in nodes if not node.next_functions]
    assert len(variables) == len(leaves)
    assert all(any(variable is leaf for variable in variables) for leaf in leaves)


def test_backward_graph__is_iterative() -> None:
    """一万步的链也走得完，不受递归上限的限制。"""
    x = torch.tensor(1.0, requires_grad=True)
    y = x
    for _ in range(10_000):
        y = y + 1
    nodes, edges = backward_graph(y)
    assert (len(nodes), len(edges)) == (10_001, 10_000)


def test_backward_graph__rejects_leaves() -> None:
    """叶子与 no_grad 里算出的张量没有 grad_fn，报错。"""
    x = torch.ones(2, requires_grad=True)
    with torch.no_grad():
        y = x * 2
    for bad in (x, y, torch.ones(2)):
        with pytest.raises(ValueError, match="没有 grad_fn"):
            backward_graph(bad)


def test_edge_shares__equals_worked_example() -> None:
    """L = (ab)(ab + a) 在 a = 2、b = 3 处，六条边上传的是 8、6、42、28、6、6。"""
    _, _, loss = _example()
    assert [share.item() for share in edge_shares(loss)] == [8, 6, 42, 28, 6, 6]


@pytest.mark.parametrize("seed", range(3))
def test_edge_shares__matches_torch_gradients(seed: int) -> None:
    """指向每个叶子的各份之和，等于 torch.autograd.grad。"""
    leaves, output = _program(seed)
    nodes, edges = backward_graph(output)
    shares = edge_shares(output)
    expected = torch.autograd.grad(output, leaves, retain_graph=True)
    for leaf, gradient in zip(leaves, expected, strict=True):
        (number,) = (i for i, node in enumerate(nodes) if getattr(node, "variable", None) is leaf)
        incoming = [s for s, (_, end) in zip(shares, edges, strict=True) if end == number]
        torch.testing.assert_close(torch.stack(incoming).sum(0), gradient)


def test_edge_shares__preserves_grad_and_graph() -> None:
    """不写 .grad，图还能再反向，钩子已撤去：两次结果相同。"""
    a, b, loss = _example()
    first, second = edge_shares(loss), edge_shares(loss)
    assert first == second
    assert a.grad is None
    loss.backward()
    assert (a.grad.item(), b.grad.item()) == (48.0, 28.0)


def test_edge_shares__rejects_bad_input() -> None:
    """不是标量、没有 grad_fn 都报错。"""
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="标量"):
        edge_shares(x * 2)
    with pytest.raises(ValueError, match="没有 grad_fn"):
        edge_shares(torch.ones(()))
