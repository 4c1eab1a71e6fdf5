"""PyTorch 自己的计算图：沿 grad_fn.next_functions 走遍它，记下反向时每条边传递的值。"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.graph import Node as TorchNode


def backward_graph(output: Tensor) -> tuple[list[TorchNode], list[tuple[int, int]]]:
    r"""从 output.grad_fn 起走遍反向图。

    Args:
        output: 由记录下来的运算得到的张量。

    Returns:
        结点的列表（第 0 个是 output.grad_fn），与边的列表（起点、终点的编号）；
        边按结点与 next_functions 的次序排，同一对结点之间可以有多条。

    Raises:
        ValueError: output 没有 grad_fn。

    约定:
        边从结果指向自变量，即伴随传递的方向；不需要求导的自变量在 next_functions 里是 None，不算。

    出处:
        PyTorch 文档 “Autograd mechanics”；torch 2.13。

    示例:
        >>> a = torch.tensor(2.0, requires_grad=True)
        >>> nodes, edges = backward_graph(a * a + 1)
        >>> [node.name().rpartition("::")[2] for node in nodes], edges
        (['AddBackward0', 'MulBackward0', 'AccumulateGrad'], [(0, 1), (1, 2), (1, 2)])
    """
    if output.grad_fn is None:
        raise ValueError("output 没有 grad_fn：它是叶子张量，或计算时没有记录")
    nodes, edges = [output.grad_fn], list[tuple[int, int]]()
    number = {output.grad_fn: 0}
    for node in nodes:  # 边走边加，走到表尾为止
        for parent, _ in node.next_functions:
            if parent is None:
                continue
            if parent not in number:
                number[parent] = len(nodes)
                nodes.append(parent)
            edges.append((number[node], number[parent]))
    return nodes, edges


def edge_shares(output: Float[Tensor, ""]) -> list[Float[Tensor, "..."]]:
    r"""反向一次，记下每条边传给自变量的那一份伴随。

    Args:
        output: 标量，由记录下来的运算得到。

    Returns:
        与 backward_graph 的边一一对应的各份伴随；一个结点的伴随是指向它的各份之和。

    Raises:
        ValueError: output 没有 grad_fn，或不是标量。

    约定:
        用结点的钩子记录，之后撤去；不写任何 .grad，图也留着。

    出处:
        torch.autograd.graph.Node.register_hook；torch 2.13。

    示例:
        >>> a = torch.tensor(2.0, requires_grad=True)
        >>> edge_shares(a * a + 1)
        [tensor(1.), tensor(2.), tensor(2.)]
    """
    nodes, _ = backward_graph(output)
    if output.ndim:
        raise ValueError(f"output 必须是标量，得到形状 {tuple(output.shape)}")
    sent: dict[TorchNode, tuple[Tensor | None, ...]] = {}

    def recorder(node: TorchNode) -> Callable[..., None]:
        def record(grad_inputs: tuple[Tensor | None, ...], _: object) -> None:
            sent[node] = grad_inputs

        return record

    inner = [node for node in nodes if node.next_functions]
    leaves = [node.variable for node in nodes if not node.next_functions]
    handles = [node.register_hook(recorder(node)) for node in inner]
    torch.autograd.grad(output, leaves, retain_graph=True)
    for handle in handles:
        handle.remove()
    return [
        share
        for node in inner
        for share, (parent, _) in zip(sent[node], node.next_functions, strict=True)
        if parent is not None
    ]
