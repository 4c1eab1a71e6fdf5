"""贝叶斯网的拓扑序、对数概率与祖先采样的检验。"""

import itertools
import math
from graphlib import TopologicalSorter

import pytest
import torch
from torch import Tensor

from formulary.mnist_joint.bayesian_network import (
    bayesian_network_log_prob,
    find_cycle,
    require_network,
    sample_bayesian_network,
    topological_order,
)


def _random_network(
    count: int, generator: torch.Generator
) -> tuple[list[int], list[list[int]], list[Tensor]]:
    """随机的无环图，变量的编号与次序无关，取值个数 2 到 3，随机的条件概率表。"""
    order = torch.randperm(count, generator=generator).tolist()
    cardinalities = torch.randint(2, 4, (count,), generator=generator).tolist()
    parents: list[list[int]] = [[] for _ in range(count)]
    for place, v in enumerate(order):
        picks = torch.rand(place, generator=generator) < 0.4
        parents[v] = [u for u, pick in zip(order, picks.tolist(), strict=False) if pick][:3]
    tables = []
    for v in range(count):
        shape = [cardinalities[u] for u in parents[v]]
        table = torch.rand(*shape, cardinalities[v], generator=generator, dtype=torch.float64)
        tables.append((table + 0.1) / (table + 0.1).sum(-1, keepdim=True))
    return cardinalities, parents, tables


def _states(cardinalities: list[int]) -> list[tuple[int, ...]]:
    return list(itertools.product(*map(range, cardinalities)))


def test_topological_order__matches_graphlib() -> None:
    """100 个随机的无环图：父结点都在前面，且是标准库 graphlib 认可的一个排列。"""
    generator = torch.Generator().manual_seed(8)
    for _ in range(100):
        _, parents, _ = _random_network(7, generator)
        order = topological_order(parents)
        assert sorted(order) == list(range(7))
        place = {v: i for i, v in enumerate(order)}
        assert all(place[u] < place[v] for v in range(7) for u in parents[v])
        reference = TopologicalSorter(dict(enumerate(parents)))
        reference.prepare()  # 照我们的次序逐个交出，标准库每次都应当认为它已经可用
        ready: set[int] = set(reference.get_ready())
        for v in order:
            assert v in ready
            reference.done(v)
            ready |= set(reference.get_ready())


def test_topological_order__equals_worked_example() -> None:
    """标签编号最大时，朴素贝叶斯的拓扑序把标签排在第一个。"""
    assert topological_order([[3], [3], [3], []]) == [3, 0, 1, 2]
    assert topological_order([[2], [0, 2], []]) == [2, 0, 1]
    assert topological_order([]) == []


def test_topological_order__rejects_cycles() -> None:
    """图有环时报错，并从父到子说出这个环；环外的变量不算在内。"""
    with pytest.raises(ValueError, match=r"无环，得到 0 → 1 → 2 → 0$"):
        topological_order([[2], [0], [1]])
    with pytest.raises(ValueError, match=r"得到 3 → 2 → 3$"):
        topological_order([[], [0, 3], [0, 3], [2], [1]])
    with pytest.raises(ValueError, match=r"得到 1 → 1$"):
        topological_order([[], [1]])


def test_topological_order__rejects_bad_parents() -> None:
    """父结点的下标越界或重复时报错。"""
    for above in ([2], [-1], [0, 0]):
        with pytest.raises(ValueError, match=r"parents\[1\] 必须是"):
            topological_order([[], above])


def test_find_cycle__is_closed_walk_from_parent_to_child() -> None:
    """首尾相同，每一步都是从父结点到孩子，除首尾外没有重复。"""
    parents = [[4], [0], [1, 3], [0], [3, 2]]
    cycle = find_cycle(parents, {0, 1, 2, 3, 4})
    assert cycle[0] == cycle[-1]
    assert len(set(cycle[1:])) == len(cycle) - 1
    assert all(u in parents[v] for u, v in itertools.pairwise(cycle))


def test_require_network__equals_topological_order() -> None:
    """合格的网返回拓扑序。"""
    _, parents, tables = _random_network(6, torch.Generator().manual_seed(9))
    assert require_network(tables, parents) == topological_order(parents)


def test_require_network__rejects_bad_tables() -> None:
    """表的个数、形状、数值或类型不对时报错，并指出是哪一张。"""
    good = [torch.tensor([0.4, 0.6]), torch.full((2, 3), 1 / 3)]
    cases: list[tuple[list[Tensor], str]] = [
        (good[:1], "一样长"),
        ([good[0], good[1].T], r"tables\[1\] 的形状"),
        ([good[0], good[1][0]], r"tables\[1\] 的形状"),
        ([good[0] * 2, good[1]], r"tables\[0\]"),
        ([good[0], good[1].long()], r"tables\[1\] 必须是实浮点张量"),
        ([good[0], torch.full((2, 3), 0.3)], r"tables\[1\] 沿第 -1 轴的和"),
    ]
    for tables, message in cases:
        with pytest.raises(ValueError, match=message):
            require_network(tables, [[], [0]])


def test_bayesian_network_log_prob__matches_enumeration() -> None:
    """100 个随机网的全部取值：等于逐个变量查表相乘，总和为 1。"""
    generator = torch.Generator().manual_seed(10)
    for _ in range(100):
        cardinalities, parents, tables = _random_network(5, generator)
        states = _states(cardinalities)
        lists = [table.tolist() for table in tables]
        expected = []
        for state in states:
            value = 1.0
            for v in range(5):
                entry = lists[v]
                for u in parents[v]:
                    entry = entry[state[u]]
                value *= entry[state[v]]
            expected.append(value)
        actual = bayesian_network_log_prob(torch.tensor(states), tables, parents).exp()
        torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))
        torch.testing.assert_close(actual.sum(), torch.tensor(1.0, dtype=torch.float64))


def test_bayesian_network_log_prob__is_independent_given_parents() -> None:
    """分叉 0 ← 2 → 1：给定 2，变量 0 与 1 独立；不给定则不独立。"""
    tables = [
        torch.tensor([[0.9, 0.1], [0.3, 0.7]], dtype=torch.float64),
        torch.tensor([[0.2, 0.8], [0.6, 0.4]], dtype=torch.float64),
        torch.tensor([0.45, 0.55], dtype=torch.float64),
    ]
    states = torch.tensor(_states([2, 2, 2]))
    joint = bayesian_network_log_prob(states, tables, [[2], [2], []]).exp().view(2, 2, 2)
    given = joint / joint.sum((0, 1))
    torch.testing.assert_close(given, given.sum(1, keepdim=True) * given.sum(0, keepdim=True))
    pair = joint.sum(2)
    assert (pair - pair.sum(1, keepdim=True) * pair.sum(0)).abs().min() > 0.01


def test_bayesian_network_log_prob__equals_worked_example() -> None:
    """链 0 → 1 上 p(1, 1) = 0.5 × 0.8，p(0, 1) = 0.5 × 0.1；不可能的取值是 -inf。"""
    tables = [
        torch.tensor([0.5, 0.5], dtype=torch.float64),
        torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]], dtype=torch.float64),
    ]
    x = torch.tensor([[1, 1], [0, 1], [0, 2]])
    actual = bayesian_network_log_prob(x, tables, [[], [0]])
    expected = torch.tensor([math.log(0.4), math.log(0.05), -math.inf], dtype=torch.float64)
    torch.testing.assert_close(actual, expected)


def test_bayesian_network_log_prob__differs_from_cyclic_product() -> None:
    """图有环时，各条件概率的乘积不归一：两个变量互为父结点，总和不是 1。"""
    first = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
    second = torch.tensor([[0.7, 0.3], [0.4, 0.6]], dtype=torch.float64)
    total = sum((first[b, a] * second[a, b]).item() for a, b in itertools.product((0, 1), repeat=2))
    assert math.isclose(total, 0.9 * 0.7 + 0.2 * 0.3 + 0.1 * 0.4 + 0.8 * 0.6)
    assert math.isclose(total, 1.21)
    with pytest.raises(ValueError, match="parents 必须无环"):
        bayesian_network_log_prob(torch.tensor([[0, 1]]), [first, second], [[1], [0]])


def test_bayesian_network_log_prob__rejects_bad_states() -> None:
    """取值越界、列数不对或不是整数时报错，并指出是哪一列。"""
    tables = [torch.tensor([0.5, 0.5]), torch.full((2, 3), 1 / 3)]
    cases: list[tuple[Tensor, str]] = [
        (torch.tensor([[2, 0]]), r"x\[:, 0\] 的元素必须在"),
        (torch.tensor([[0, 3]]), "x 的元素必须在"),
        (torch.tensor([[0, -1]]), "x 的元素必须在"),
        (torch.tensor([[0, 1, 1]]), "x 的形状"),
        (torch.tensor([[0.0, 1.0]]), "x 必须是整数张量"),
    ]
    for x, message in cases:
        with pytest.raises(ValueError, match=message):
            bayesian_network_log_prob(x, tables, [[], [0]])


def test_sample_bayesian_network__matches_enumerated_frequencies() -> None:
    """两万个样本里每种取值的频数与逐项查表的概率相差不过 5 个标准误。

    72 种取值，频率的标准误不过 0.0035，所以能发现大于 0.018 的偏差。
    """
    generator = torch.Generator().manual_seed(11)
    cardinalities, parents = [3, 2, 2, 3, 2], [[4], [0, 3], [1], [], [3]]
    tables = []
    for v, above in enumerate(parents):
        shape = [cardinalities[u] for u in above]
        table = torch.rand(*shape, cardinalities[v], generator=generator, dtype=torch.float64) ** 2
        tables.append(table / table.sum(-1, keepdim=True))
    count = 20_000
    x = sample_bayesian_network(count, tables, parents, generator)
    assert x.shape == (count, 5)
    codes = torch.zeros(count, dtype=torch.int64)
    for v, cardinality in enumerate(cardinalities):
        codes = codes * cardinality + x[:, v]
    frequencies = torch.bincount(codes, minlength=72) / count
    for state, frequency in zip(_states(cardinalities), frequencies.tolist(), strict=True):
        chance = math.prod(
            tables[v][tuple(state[u] for u in (*parents[v], v))].item() for v in range(5)
        )
        assert abs(frequency - chance) <= 5 * math.sqrt(chance * (1 - chance) / count)


def test_sample_bayesian_network__equals_deterministic_chain() -> None:
    """条件概率全是 0 与 1 时，样本由图唯一决定。"""
    flip = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    tables = [flip, flip, torch.tensor([0.0, 1.0])]
    x = sample_bayesian_network(4, tables, [[2], [0], []], torch.Generator().manual_seed(0))
    assert x.tolist() == [[0, 1, 1]] * 4


def test_sample_bayesian_network__rejects_bad_input() -> None:
    """样本数为零或图有环时报错。"""
    generator = torch.Generator()
    with pytest.raises(ValueError, match="count 必须"):
        sample_bayesian_network(0, [torch.tensor([1.0])], [[]], generator)
    with pytest.raises(ValueError, match="parents 必须无环"):
        sample_bayesian_network(1, [torch.eye(2)], [[0]], generator)
