"""离散变量的贝叶斯网：拓扑序、对数概率与祖先采样。

约定:
    变量的下标从 0 起；parents[v] 列出 v 的父结点，tables[v] 的前几轴依次是这些父结点的
    取值，最后一轴是 v 自己的取值，沿它求和为 1。对数是自然对数（nat）。
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from formulary.checks import require_count, require_distribution, require_floats, require_indices


def topological_order(parents: Sequence[Sequence[int]]) -> list[int]:
    r"""把变量排成父结点总在前面的次序。

    Args:
        parents: parents[v] 是变量 v 的各个父结点，下标从 0 起。

    Returns:
        变量的一个拓扑序；没有父结点的变量按下标先列出。

    Raises:
        ValueError: 父结点的下标越界或重复；图有环，并说出这个环。

    出处:
        Kahn 1962, Topological Sorting of Large Networks。

    示例:
        >>> topological_order([[2], [0, 2], []])
        [2, 0, 1]
    """
    count = len(parents)
    children: list[list[int]] = [[] for _ in range(count)]
    for v, above in enumerate(parents):
        if len(set(above)) < len(above) or any(not 0 <= u < count for u in above):
            raise ValueError(
                f"parents[{v}] 必须是 [0, {count}) 里互不相同的下标，得到 {list(above)}"
            )
        for u in above:
            children[u].append(v)
    waiting = [len(above) for above in parents]  # 还有几个父结点没排上
    order = [v for v in range(count) if waiting[v] == 0]
    for v in order:  # 边走边添：v 排上之后，等齐了父结点的孩子接在后面
        for child in children[v]:
            waiting[child] -= 1
            if waiting[child] == 0:
                order.append(child)
    if len(order) < count:
        cycle = " → ".join(map(str, find_cycle(parents, set(range(count)) - set(order))))
        raise ValueError(f"parents 必须无环，得到 {cycle}")
    return order


def find_cycle(parents: Sequence[Sequence[int]], stuck: set[int]) -> list[int]:
    """在排不上的变量里沿父结点往回走，直到重复，得到一个从父到子的环，首尾是同一个变量。

    stuck 里的变量每个都至少有一个父结点也在 stuck 里，所以总能走下去。
    """
    path = [min(stuck)]
    while path[-1] not in path[:-1]:
        path.append(next(u for u in parents[path[-1]] if u in stuck))
    return path[path.index(path[-1]) :][::-1]


def require_network(tables: Sequence[Tensor], parents: Sequence[Sequence[int]]) -> list[int]:
    """要求图无环，每张表的形状与父结点相配、最后一轴是分布；返回拓扑序。"""
    if len(tables) != len(parents):
        raise ValueError(f"tables 与 parents 必须一样长，得到 {len(tables)} 与 {len(parents)}")
    order = topological_order(parents)
    for v in order:
        require_floats(f"tables[{v}]", tables[v])
        shape = [tables[u].shape[-1] for u in parents[v]]
        require_floats(f"tables[{v}]", tables[v], *shape, f"变量 {v} 的取值")
        require_distribution(f"tables[{v}]", tables[v])
    return order


def bayesian_network_log_prob(
    x: Int[Tensor, "B n"], tables: Sequence[Tensor], parents: Sequence[Sequence[int]]
) -> Float[Tensor, " B"]:
    r"""离散贝叶斯网的对数概率：各条件概率的对数之和。

    Args:
        x: B 个样本，每行是 n 个变量的取值，从 0 起；各变量的取值个数可以不同。
        tables: 各变量的条件概率表。
        parents: 各变量的父结点。

    Returns:
        log p(x)（nat）；不可能的样本是 -inf。

    Raises:
        ValueError: 图有环，表的形状或数值不合要求，或 x 不是 (B, n) 的整数、取值越界。

    出处:
        Koller & Friedman 2009, Probabilistic Graphical Models, 第 3 章。

    示例:
        >>> tables = [torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]])]
        >>> bayesian_network_log_prob(torch.tensor([[1, 1], [0, 1]]), tables, [[], [0]]).exp()
        tensor([0.4000, 0.0500])
    """
    require_network(tables, parents)
    require_indices("x", x, max(table.shape[-1] for table in tables), "B", len(tables))
    for v, table in enumerate(tables):
        require_indices(f"x[:, {v}]", x[:, v], table.shape[-1], "B")
    factors = [
        tables[v][tuple(x[:, u] for u in (*above, v))]  # (B,)
        for v, above in enumerate(parents)
    ]
    return torch.stack(factors, dim=-1).log().sum(dim=-1)


def sample_bayesian_network(
    count: int,
    tables: Sequence[Tensor],
    parents: Sequence[Sequence[int]],
    generator: torch.Generator,
) -> Int[Tensor, "N n"]:
    r"""祖先采样：按拓扑序逐个变量从条件分布里抽。

    Args:
        count: 样本数 N。
        tables: 各变量的条件概率表。
        parents: 各变量的父结点。
        generator: 随机数发生器。

    Returns:
        N 个独立样本，每行是 n 个变量的取值，从 0 起。

    Raises:
        ValueError: count 不是正整数；图有环，或表的形状、数值不合要求。

    出处:
        Koller & Friedman 2009, Probabilistic Graphical Models, 第 12 章。

    示例:
        >>> tables = [torch.tensor([0.0, 1.0]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])]
        >>> sample_bayesian_network(2, tables, [[], [0]], torch.Generator().manual_seed(0))
        tensor([[1, 1],
                [1, 1]])
    """
    require_count("count", count)
    order = require_network(tables, parents)
    columns: dict[int, Tensor] = {}
    for v in order:
        chosen = tables[v][tuple(columns[u] for u in parents[v])]
        rows = chosen.expand(count, -1)  # (N, v 的取值)；没有父结点时各行相同
        columns[v] = torch.multinomial(rows, 1, generator=generator).squeeze(1)
    return torch.stack([columns[v] for v in range(len(tables))], dim=1)
