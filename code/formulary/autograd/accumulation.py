"""计算图上的反向累积：多条路径的贡献相加，以及次序为什么要紧。

约定:
    结点编号 0 到 N − 1，边总从小号指向大号，最后一个结点是输出。
    successors[v] 列出 v 的每条出边（后继 w 与局部雅可比矩阵 ∂w/∂v），同一个后继可以出现多次。
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats


def accumulate_adjoints(
    successors: Sequence[Sequence[tuple[int, Float[Tensor, "..."]]]], seed: Float[Tensor, " m"]
) -> list[Float[Tensor, "..."]]:
    r"""按拓扑序倒着走，求每个结点的伴随。

    Args:
        successors: 计算图，见模块开头；结点 v 是长为 n 的向量，后继是长为 m 的向量。
        seed: 输出的伴随，输出是标量损失时为 (1,)。

    Returns:
        各结点的伴随；到不了输出的结点是零。

    Raises:
        ValueError: 图为空，某条边不从小号指向大号，或局部雅可比矩阵的形状不对。

    约定:
        局部雅可比矩阵的行是后继的分量，列是 v 的分量。

    出处:
        Griewank & Walther 2008。

    示例:
        >>> double = torch.tensor([[2.0]])
        >>> accumulate_adjoints([[(1, double)], [(2, double)], []], torch.ones(1))
        [tensor([4.]), tensor([2.]), tensor([1.])]
    """
    _require_graph(successors, seed)
    adjoints = {len(successors) - 1: seed}
    for v in reversed(range(len(successors) - 1)):
        shares = [jacobian.T @ adjoints[w] for w, jacobian in successors[v]]
        adjoints[v] = torch.stack(shares).sum(dim=0) if shares else seed.new_zeros(0)
    return [adjoints[v] for v in range(len(successors))]


def path_sum_adjoint(
    successors: Sequence[Sequence[tuple[int, Float[Tensor, "..."]]]],
    seed: Float[Tensor, " m"],
    v: int,
) -> Float[Tensor, "..."]:
    r"""对从 v 到输出的全部路径求和：每条路径贡献沿途局部雅可比矩阵的乘积。

    Args:
        successors: 计算图，见模块开头。
        seed: 输出的伴随。
        v: 结点的编号。

    Returns:
        v 的伴随，与 accumulate_adjoints 的第 v 项相同。

    Raises:
        ValueError: 图不合要求，或 v 不是图里的结点，或它到不了输出。

    约定:
        路径的条数可以随深度指数增长，只宜用在很小的图上。

    出处:
        Bauer 1974 的路径求和。

    示例:
        >>> double = torch.tensor([[2.0]])
        >>> path_sum_adjoint([[(1, double)], [(2, double)], []], torch.ones(1), 0)
        tensor([4.])
    """
    _require_graph(successors, seed)
    if v not in range(len(successors)):
        raise ValueError(f"v 必须在 [0, {len(successors)}) 里，得到 {v}")
    products, pending = list[Tensor](), [(v, [])]
    while pending:
        node, path = pending.pop()
        if node == len(successors) - 1:
            product = seed
            for jacobian in reversed(path):
                product = jacobian.T @ product
            products.append(product)
        pending += [(w, [*path, jacobian]) for w, jacobian in successors[node]]
    if not products:
        raise ValueError(f"从结点 {v} 没有到输出的路径")
    return torch.stack(products).sum(dim=0)


def eager_visits(parents: Sequence[Sequence[int]]) -> list[int]:
    r"""不排次序、收到一份伴随就立刻往下传时，从每个结点出发一共要访问多少次结点。

    Args:
        parents: 每个结点的父结点的编号，都比它自己小；同一个父结点可以出现多次。

    Returns:
        各结点为起点时的访问次数（次），包括它自己。

    Raises:
        ValueError: 某个父结点的编号不小于结点自己的编号，或为负。

    约定:
        按拓扑序走只需每个结点访问一次。

    出处:
        本站。

    示例:
        >>> eager_visits([[], [0, 0], [1, 1]])
        [1, 3, 7]
    """
    visits = list[int]()
    for node, above in enumerate(parents):
        if not all(0 <= parent < node for parent in above):
            raise ValueError(f"结点 {node} 的父结点必须在 [0, {node}) 里，得到 {list(above)}")
        visits.append(1 + sum(visits[parent] for parent in above))
    return visits


def _require_graph(successors: Sequence[Sequence[tuple[int, Tensor]]], seed: Tensor) -> None:
    """检查图：边从小号指向大号，每个结点的长度前后一致，输出没有后继。"""
    require_floats("seed", seed, "m")
    if not successors or successors[-1]:
        raise ValueError("successors 至少要有一个结点，最后一个结点（输出）不能有后继")
    width = {len(successors) - 1: len(seed)}
    for v in reversed(range(len(successors) - 1)):
        for w, jacobian in successors[v]:
            if w not in range(v + 1, len(successors)):
                raise ValueError(f"结点 {v} 的后继必须在 ({v}, {len(successors)}) 里，得到 {w}")
            rows = width[w]
            require_floats(f"结点 {v} 到 {w} 的雅可比矩阵", jacobian, rows, width.get(v, "n"))
            width[v] = jacobian.shape[1]
        if v not in width:
            raise ValueError(f"结点 {v} 没有后继，到不了输出，请从图里删去")
