"""手写引擎（tape）的机制：结点记下怎样把伴随传给父结点，反向按拓扑序把它们加起来。

这里不认识任何具体的运算，只要求值会相加；运算在 tape_operations 里。没有全局开关：
求不求高阶导数，由反向时把父结点本身还是它的 detach 交给 VJP 决定。
没有版本计数器，也没有钩子；反向之前改动 data 不会被发现，用的是改过的值。
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats


class Node:
    r"""计算图的一个结点：值，父结点，以及对每个父结点的向量–雅可比积。

    Args:
        data: 值，不带 requires_grad 的实浮点张量；它本身不被 PyTorch 求导。
        requires_grad: 是否要对它求导。

    Raises:
        ValueError: data 不是实浮点张量，或它已在 PyTorch 的图里。

    约定:
        vjps 与 parents 一一对应，每个的参数是（伴随，本结点，各父结点），返回传给那个父结点的伴随。
        不需要求导的结点没有父结点；反向之后释放的结点，vjps 是 None。

    出处:
        本站；与 karpathy/micrograd 0.1.0 的 Value 比较。

    示例:
        >>> Node(torch.tensor(2.0), requires_grad=True).is_leaf
        True
    """

    def __init__(self, data: Float[Tensor, "..."], requires_grad: bool = False) -> None:
        require_floats("data", data)
        if data.requires_grad:
            raise ValueError("data 已在 PyTorch 的图里，先 detach() 再交给本引擎")
        self.data, self.requires_grad = data, requires_grad
        self.parents: tuple["Node", ...] = ()
        self.vjps: tuple[Callable[..., "Node"], ...] | None = ()
        self.grad: Node | None = None

    @classmethod
    def record(
        cls, data: Tensor, parents: Sequence["Node"], vjps: Sequence[Callable[..., "Node"]]
    ) -> "Node":
        """包装一次运算的结果；有父结点需要求导时，记下父结点与 VJP。"""
        node = cls(data, any(parent.requires_grad for parent in parents))
        if node.requires_grad:
            node.parents, node.vjps = tuple(parents), tuple(vjps)
        return node

    @property
    def shape(self) -> torch.Size:
        """值的形状。"""
        return self.data.shape

    @property
    def is_leaf(self) -> bool:
        """不是由记录下来的运算得到的。"""
        return self.vjps == ()

    def detach(self) -> "Node":
        """同一个值，不连着图。"""
        return type(self)(self.data)


def topological_order(root: Node) -> list[Node]:
    r"""从 root 能走到的全部结点，父结点排在前面；只走需要求导的结点。

    Args:
        root: 起点，通常是损失。

    Returns:
        结点的列表，每个出现一次，root 在最后；倒过来就是反向要走的次序。

    Raises:
        ValueError: root 不需要求导。

    约定:
        深度优先的后序；自己管理栈，不用递归，所以图的深度不受递归上限的限制。

    出处:
        Tarjan 1976 的深度优先拓扑排序。

    示例:
        >>> len(topological_order(Node(torch.tensor(2.0), requires_grad=True)))
        1
    """
    if not root.requires_grad:
        raise ValueError("output 不依赖任何 requires_grad=True 的变量，没有可求的导数")
    order, seen, stack = list[Node](), {root}, [(root, iter(root.parents))]
    while stack:
        node, remaining = stack[-1]
        for parent in remaining:
            if parent.requires_grad and parent not in seen:
                seen.add(parent)
                stack.append((parent, iter(parent.parents)))
                break
        else:
            order.append(node)
            stack.pop()
    return order


def gradients(
    output: Node,
    inputs: Sequence[Node],
    seed: Node | None = None,
    *,
    retain_graph: bool | None = None,
    create_graph: bool = False,
) -> list[Node]:
    r"""反向累积：从 output 起按拓扑序倒着走，得到对每个 inputs 的梯度。

    Args:
        output: 被求导的结点。
        inputs: 对谁求导，叶子与中间结点都可以。
        seed: output 的伴随，形状与它相同；output 只有一个元素时可以不给，取 1。
        retain_graph: 是否留着图；不给则与 create_graph 相同。
        create_graph: 是否把反向的计算也记下来，以便再求导。

    Returns:
        各梯度，形状与 inputs 相同；与 output 之间没有路径的，梯度是零。

    Raises:
        ValueError: output 不需要求导，图已经释放，或 seed 缺少、形状不对。

    约定:
        不改动任何结点的 grad；伴随存在局部的字典里，多次反向互不影响。

    出处:
        Griewank & Walther 2008；接口仿 torch.autograd.grad（materialize_grads=True）。

    示例:
        >>> x = Node(torch.tensor(3.0), requires_grad=True)
        >>> y = Node.record(x.data * 2, [x], [lambda g, y, x: Node(g.data * 2)])
        >>> gradients(y, [x])[0].data
        tensor(2.)
    """
    order = topological_order(output)
    if any(node.vjps is None for node in order):
        raise ValueError("图已在上一次反向之后释放；那一次要给 retain_graph=True")
    first, wanted = _require_seed(output, seed), set(inputs)
    adjoints: dict[Node, Node] = {output: first if create_graph else first.detach()}
    for node in reversed(order):
        adjoint = adjoints[node] if node in wanted else adjoints.pop(node)
        values = (node, *node.parents)
        if not create_graph:
            values = tuple(value.detach() for value in values)
        for parent, vjp in zip(node.parents, node.vjps, strict=True):
            if parent.requires_grad:
                share = vjp(adjoint, *values)
                adjoints[parent] = adjoints[parent] + share if parent in adjoints else share
    if not (create_graph if retain_graph is None else retain_graph):
        for node in order:
            if not node.is_leaf:
                node.parents, node.vjps = (), None
    return [adjoints[v] if v in adjoints else type(v)(torch.zeros_like(v.data)) for v in inputs]


def _require_seed(output: Node, seed: Node | None) -> Node:
    """检查 seed；不给时要求 output 只有一个元素，返回 1。"""
    if seed is None and output.data.numel() == 1:
        return type(output)(torch.ones_like(output.data))
    if seed is None:
        raise ValueError(f"output 的形状是 {tuple(output.shape)}，不是标量，必须给同形状的 seed")
    if seed.shape != output.shape:
        raise ValueError(f"seed 的形状必须是 {tuple(output.shape)}，得到 {tuple(seed.shape)}")
    return seed
