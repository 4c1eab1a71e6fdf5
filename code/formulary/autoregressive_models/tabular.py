"""链式法则：把联合表拆成条件表、拼回去，并数各种拆法要多少个参数。

约定:
    联合表是 n 阶张量，第 i 轴是 x_i 的取值；joint[1, 0, …] 就是 p(x_1=1, x_2=0, …)。
    二值变量的条件表只存取 1 的概率，每个前缀一个数。
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import (
    require_count,
    require_distribution,
    require_floats,
    require_probabilities,
)


def chain_rule_factors(joint: Float[Tensor, "..."]) -> list[Float[Tensor, "..."]]:
    r"""把联合表拆成 n 个条件表，第 i 个是 p(x_i | x_<i)。

    Args:
        joint: 联合分布，每个变量一轴，各变量的状态数可以不同。

    Returns:
        n 个张量，第 i 个有 i 轴，沿末轴和为 1；概率为零的前缀给均匀分布（取什么都行）。

    Raises:
        ValueError: joint 不是至少一轴的浮点张量，或不是概率分布。

    出处:
        CS236 讲义 autoregressive 一章，Representation 一节。

    示例:
        >>> chain_rule_factors(torch.tensor([[0.1, 0.3], [0.6, 0.0]]))
        [tensor([0.4000, 0.6000]), tensor([[0.2500, 0.7500],
                [1.0000, 0.0000]])]
    """
    require_floats("joint", joint)
    if joint.ndim == 0:
        raise ValueError("joint 必须每个变量一轴，得到零维张量")
    require_distribution("joint", joint.flatten())
    factors = []
    for i in range(joint.ndim):
        prefix = joint.flatten(i + 1).sum(-1) if i + 1 < joint.ndim else joint  # p(x_≤i)
        mass = prefix.sum(-1, keepdim=True)  # p(x_<i)
        uniform = torch.full_like(prefix, 1 / prefix.shape[-1])
        factors.append(torch.where(mass > 0, prefix / mass.where(mass > 0, 1), uniform))
    return factors


def chain_rule_compose(factors: Sequence[Float[Tensor, "..."]]) -> Float[Tensor, "..."]:
    r"""把 n 个条件表乘回联合表。

    Args:
        factors: 第 i 个有 i 轴，是 p(x_i | x_<i)，沿末轴和为 1。

    Returns:
        联合表，n 轴；不必归一化，和自然为 1。

    Raises:
        ValueError: factors 为空，轴数或大小接不上，或某个条件不是概率分布。

    示例:
        >>> table = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
        >>> chain_rule_compose([torch.tensor([0.4, 0.6]), table])
        tensor([[0.1000, 0.3000],
                [0.6000, 0.0000]])
    """
    if not factors:
        raise ValueError("factors 至少要有一个条件表，得到 0 个")
    joint = torch.ones((), dtype=factors[0].dtype)
    for i, factor in enumerate(factors):
        require_floats(f"factors[{i}]", factor, *joint.shape, "K")
        require_distribution(f"factors[{i}]", factor)
        joint = joint[..., None] * factor
    return joint


def joint_from_tables(
    tables: Sequence[Float[Tensor, "..."]], parents: Sequence[Sequence[int]]
) -> Float[Tensor, "..."]:
    r"""由各变量的父结点与条件表拼出二值变量的联合表。

    Args:
        tables: 第 i 个是 p(x_i = 1 | x_pa(i))，父结点一个一轴，每轴大小 2。
        parents: 第 i 个列出 x_i 的父结点，从小到大，都小于 i（下标从 0 起）。

    Returns:
        联合表，n 轴，每轴大小 2。

    Raises:
        ValueError: 父结点不是递增的、更靠前的下标；条件表的轴数不对或不是概率。

    出处:
        Koller & Friedman, Probabilistic Graphical Models, 3.2 节。

    示例:
        >>> joint_from_tables([torch.tensor(0.6), torch.tensor([0.75, 0.0])], [[], [0]])
        tensor([[0.1000, 0.3000],
                [0.6000, 0.0000]])
    """
    require_parents(parents)
    if len(tables) != len(parents):
        raise ValueError(f"tables 要与 parents 一样多，即 {len(parents)} 个，得到 {len(tables)} 个")
    factors = []
    for i, (table, before) in enumerate(zip(tables, parents, strict=True)):
        require_floats(f"tables[{i}]", table, *[2] * len(before))
        require_probabilities(f"tables[{i}]", table)
        spread = table.reshape([2 if j in before else 1 for j in range(i)]).expand([2] * i)
        factors.append(torch.stack((1 - spread, spread), dim=-1))
    return chain_rule_compose(factors)


def require_parents(parents: Sequence[Sequence[int]]) -> None:
    """要求第 i 个变量的父结点是 0, …, i − 1 里递增的下标。"""
    for i, before in enumerate(parents):
        ordered = list(before) == sorted(set(before))
        if not ordered or any(not 0 <= j < i for j in before):
            raise ValueError(f"parents[{i}] 必须是小于 {i} 的递增下标，得到 {list(before)}")


def conditional_table_sizes(n: int) -> list[int]:
    r"""不作任何假设时 n 个二值变量的各条件表的参数个数：1, 2, 4, …, 2^(n−1)。

    Args:
        n: 变量个数，正整数。

    Returns:
        长为 n 的列表，相加得 2^n − 1，正是联合表的自由参数个数。

    Raises:
        ValueError: n 不是正整数。

    示例:
        >>> conditional_table_sizes(4), sum(conditional_table_sizes(4))
        ([1, 2, 4, 8], 15)
    """
    require_count("n", n)
    return [2**i for i in range(n)]


def parents_parameter_count(parents: Sequence[Sequence[int]]) -> int:
    r"""给定各变量的父结点时条件表的参数总数：每个变量 2 的父结点数次方。

    Args:
        parents: 第 i 个列出 x_i 的父结点，从小到大，都小于 i（下标从 0 起）。

    Returns:
        参数个数。

    Raises:
        ValueError: 父结点不是递增的、更靠前的下标。

    示例:
        >>> parents_parameter_count([[], [0], [0], [1, 2]])
        9
    """
    require_parents(parents)
    return sum(2 ** len(before) for before in parents)


def markov_parameter_count(n: int, order: int) -> int:
    r"""马尔可夫链（k 阶）的参数个数：每个变量只看前 k 个，各位置的表互不共享。

    Args:
        n: 变量个数，正整数。
        order: 阶数 k，0 到 n。

    Returns:
        (2^k − 1) + (n − k)·2^k。

    Raises:
        ValueError: n 不是正整数；order 是负数或大于 n。

    示例:
        >>> markov_parameter_count(784, 1), markov_parameter_count(4, 4)
        (1567, 15)
    """
    require_count("n", n)
    require_count("order", order, 0)
    if order > n:
        raise ValueError(f"order 不能大于 n={n}，得到 {order}")
    return 2**order - 1 + (n - order) * 2**order
