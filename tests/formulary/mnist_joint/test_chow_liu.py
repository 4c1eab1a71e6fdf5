"""Chow–Liu 树的检验：穷举所有标号树、scipy 的最小生成树、逐个标量查表。"""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import minimum_spanning_tree
from sklearn.datasets import load_digits
from torch import Tensor

from formulary.mnist_joint.chow_liu import (
    fit_tree,
    maximum_spanning_tree,
    require_forest,
    tree_likelihood_lines,
    tree_log_prob,
)
from formulary.mnist_joint.mutual_information import mutual_information


def _samples(rows: int = 60, n: int = 5) -> Tensor:
    """逐列相关的二值样本：每列以不同的概率照抄前面某一列。"""
    generator = torch.Generator().manual_seed(41)
    noise = torch.rand(rows, n, generator=generator)
    keep = torch.rand(rows, n, generator=generator)
    x = (noise < 0.45).double()
    for i, (source, strength) in enumerate(((0, 0.0), (0, 0.7), (0, 0.4), (1, 0.6), (2, 0.5))):
        x[:, i] = torch.where(keep[:, i] < strength, x[:, source], x[:, i])
    return x


def _digits() -> Tensor:
    """二值化的 digits 的 1200 张训练图。"""
    data, _ = load_digits(return_X_y=True)
    split = np.random.RandomState(0).permutation(1797)
    return torch.tensor(data >= 8).double()[split[:1200]]


def _edges(parents: Tensor) -> set[frozenset[int]]:
    return {frozenset((i, p)) for i, p in enumerate(parents.tolist()) if p >= 0}


def _labelled_trees(n: int) -> list[list[tuple[int, int]]]:
    """由 Prüfer 码列出 n 个点的全部 n^(n−2) 棵标号树。"""
    trees = []
    for code in itertools.product(range(n), repeat=n - 2):
        degree = [1 + code.count(i) for i in range(n)]
        edges = []
        for node in code:
            leaf = degree.index(1)
            edges.append((leaf, node))
            degree[leaf] -= 1
            degree[node] -= 1
        last = [i for i in range(n) if degree[i] == 1]
        trees.append([*edges, (last[0], last[1])])
    return trees


def _rooted(edges: list[tuple[int, int]], n: int, root: int = 0) -> Tensor:
    """把无向的边从根指向外，写成父结点数组。"""
    parents, frontier = [-1] * n, [root]
    seen = {root}
    while frontier:
        node = frontier.pop()
        for a, b in edges:
            for here, there in ((a, b), (b, a)):
                if here == node and there not in seen:
                    parents[there] = node
                    seen.add(there)
                    frontier.append(there)
    return torch.tensor(parents)


def _log_likelihood(x: Tensor, parents: list[int]) -> float:
    """表取计数时的总对数似然，逐个样本、逐个像素数出来。"""
    rows, total = x.tolist(), 0.0
    for i, parent in enumerate(parents):
        for row in rows:
            peers = [r for r in rows if parent < 0 or r[parent] == row[parent]]
            total += math.log(sum(r[i] == row[i] for r in peers) / len(peers))
    return total


def test_maximum_spanning_tree__matches_brute_force_over_labelled_trees() -> None:
    """五个点的 125 棵标号树里，权之和最大的就是它；似然最大的也是它。"""
    x = _samples()
    weights = mutual_information(x)
    trees = _labelled_trees(5)
    assert len({frozenset(map(frozenset, tree)) for tree in trees}) == 125
    heaviest = max(trees, key=lambda tree: sum(weights[a, b].item() for a, b in tree))
    found = maximum_spanning_tree(weights)
    assert _edges(found) == set(map(frozenset, heaviest))
    likeliest = max(trees, key=lambda tree: _log_likelihood(x, _rooted(tree, 5).tolist()))
    assert _edges(found) == set(map(frozenset, likeliest))


def test_maximum_spanning_tree__matches_scipy() -> None:
    """与 scipy 对负权求的最小生成树边相同，点数与根各不相同。"""
    generator = torch.Generator().manual_seed(5)
    for n in (2, 5, 9, 17):
        half = torch.rand(n, n, dtype=torch.float64, generator=generator) + 0.1
        weights = half + half.T
        matrix = -np.triu(weights.numpy(), 1)
        rows, columns = minimum_spanning_tree(matrix).nonzero()
        pairs = zip(rows.tolist(), columns.tolist(), strict=True)
        expected = set(map(frozenset, pairs))
        for root in (0, n - 1):
            parents = maximum_spanning_tree(weights, root)
            assert parents[root] == -1
            assert (parents == -1).sum() == 1
            assert _edges(parents) == expected


def test_maximum_spanning_tree__equals_worked_example() -> None:
    """文中的手算例：权 0.30、0.25、0.20、0.10、0.05、0.02，选前两条与第四条。"""
    weights = torch.zeros(4, 4, dtype=torch.float64)
    for (i, j), w in {
        (0, 1): 0.30,
        (1, 2): 0.25,
        (0, 2): 0.20,
        (2, 3): 0.10,
        (1, 3): 0.05,
        (0, 3): 0.02,
    }.items():
        weights[i, j] = weights[j, i] = w
    assert maximum_spanning_tree(weights).tolist() == [-1, 0, 1, 2]


def test_maximum_spanning_tree__is_connected_without_cycle() -> None:
    """从每个点沿父结点走，都在 n 步之内到根；权全相等时也如此。"""
    generator = torch.Generator().manual_seed(6)
    half = torch.rand(12, 12, generator=generator)
    for weights in (half + half.T, torch.ones(12, 12)):
        parents = maximum_spanning_tree(weights, root=3).tolist()
        for node in range(12):
            steps = 0
            while parents[node] >= 0:
                node, steps = parents[node], steps + 1
                assert steps < 12
            assert node == 3


def test_maximum_spanning_tree__is_mostly_neighbours_on_digits() -> None:
    """digits 上学出来的树，63 条边里有 36 条连着上下或左右相邻的像素，算上斜邻是 43 条。"""
    x = _digits()
    edges = [tuple(e) for e in _edges(maximum_spanning_tree(mutual_information(x, 0.5)))]
    assert len(edges) == 63
    steps = [(abs(a // 8 - b // 8), abs(a % 8 - b % 8)) for a, b in edges]
    assert sum(r + c == 1 for r, c in steps) == 36
    assert sum(max(r, c) == 1 for r, c in steps) == 43


def test_maximum_spanning_tree__rejects_bad_input() -> None:
    """不是方阵、不对称、含 NaN 或无穷大、根越界都报错。"""
    good = torch.ones(3, 3)
    skew, broken, endless = good.clone(), good.clone(), good.clone()
    endless[0, 1] = endless[1, 0] = -math.inf
    skew[0, 1] = 2.0
    broken[0, 1] = broken[1, 0] = math.nan
    for weights, root, message in (
        (torch.ones(3, 2), 0, "weights 的形状"),
        (skew, 0, "weights 必须是对称的"),
        (broken, 0, "weights 必须是对称的"),
        (endless, 0, "weights 必须是对称的"),
        (good, 3, "root 必须在"),
        (good, -1, "root 必须在"),
    ):
        with pytest.raises(ValueError, match=message):
            maximum_spanning_tree(weights, root)


def test_require_forest__rejects_cycles() -> None:
    """自环、二元环、绕一大圈的环都报错；一长串与几棵树并存都放行。"""
    for parents in ([0], [-1, 1], [1, 0, -1], [3, 0, 1, 2, -1], [-1, 2, 3, 4, 5, 1]):
        with pytest.raises(ValueError, match="parents 里有环"):
            require_forest(torch.tensor(parents), len(parents))
    for n in (1, 2, 3, 7, 8, 9):
        require_forest(torch.arange(n) - 1, n)  # 深度恰为 n
    require_forest(torch.tensor([4, 2, 3, -1, 1, -1]), 6)


def test_require_forest__matches_enumeration() -> None:
    """四个点的全部 625 个父结点数组里，放行的正是沿父结点走都能到根的那 125 个。"""
    accepted = 0
    for parents in itertools.product(range(-1, 4), repeat=4):
        ends = True
        for node in range(4):
            for _ in range(4):
                node = parents[node] if node >= 0 else -1
            ends &= node < 0
        try:
            require_forest(torch.tensor(parents), 4)
        except ValueError:
            assert not ends
        else:
            assert ends
            accepted += 1
    assert accepted == 125  # 带根的标号森林共 (n + 1)^(n − 1) 个


def test_fit_tree__matches_python_loop() -> None:
    """等于逐个样本数出来的条件频率，平滑与不平滑都是；根用边缘频率。"""
    x, parents = _samples(), torch.tensor([2, 0, -1, 1, 2])
    for alpha in (0.0, 0.7):
        expected = torch.zeros(5, 2, dtype=torch.float64)
        for i, parent in enumerate(parents.tolist()):
            for a in (0, 1):
                peers = [r for r in x.tolist() if parent < 0 or r[parent] == a]
                share = 2 * alpha if parent < 0 else alpha
                expected[i, a] = (sum(r[i] for r in peers) + share) / (len(peers) + 2 * share)
        torch.testing.assert_close(fit_tree(x, parents, alpha), expected)


def test_fit_tree__is_maximum_likelihood() -> None:
    """不平滑时，似然对表里每一格的导数都是零（自动求导）。"""
    x, parents = _samples(), torch.tensor([-1, 0, 0, 1, 2])
    tables = fit_tree(x, parents).requires_grad_()
    (gradient,) = torch.autograd.grad(tree_log_prob(x, parents, tables).sum(), tables)
    # 每格的导数是几十项相消，单项的量级是 60
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-11)


def test_fit_tree__limit_no_data() -> None:
    """父结点从没取过的值，不平滑时记作 1/2；平滑时也是 1/2。"""
    x = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    for alpha, on in ((0.0, 2 / 3), (1.0, 3 / 5)):
        tables = fit_tree(x, torch.tensor([-1, 0]), alpha)
        expected = torch.tensor([0.5, on], dtype=torch.float64)
        torch.testing.assert_close(tables[1], expected)


def test_fit_tree__rejects_bad_parents() -> None:
    """父结点越界、长度不合、有环都报错并指出 parents。"""
    for parents in ([-1, 5, 0, 0, 0], [-2, 0, 0, 0, 0], [-1, 0], [1, 0, 0, 0, 0]):
        with pytest.raises(ValueError, match="parents"):
            fit_tree(_samples(), torch.tensor(parents))


def test_tree_log_prob__matches_enumeration() -> None:
    """32 种取值的概率逐个标量查表相乘，与之相同，而且总和是 1。"""
    parents = torch.tensor([2, 0, -1, 1, 2])
    tables = torch.rand(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    tables[2] = tables[2, 0]
    states = list(itertools.product((0, 1), repeat=5))
    expected = []
    for state in states:
        value = 1.0
        for i, parent in enumerate(parents.tolist()):
            on = float(tables[i, state[parent] if parent >= 0 else 0])
            value *= on if state[i] else 1 - on
        expected.append(value)
    assert math.isclose(sum(expected), 1.0)
    actual = tree_log_prob(torch.tensor(states, dtype=torch.float64), parents, tables).exp()
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_tree_log_prob__preserves_value_under_another_root() -> None:
    """同一棵树换一个根，箭头反了方向，概率不变。"""
    x = _samples()
    weights = mutual_information(x)
    values = []
    for root in range(5):
        parents = maximum_spanning_tree(weights, root)
        values.append(tree_log_prob(x, parents, fit_tree(x, parents, 0.7)))
    for value in values[1:]:
        torch.testing.assert_close(value, values[0])


def test_tree_log_prob__limit_no_edges() -> None:
    """一条边也没有时就是各像素独立的伯努利。"""
    x, parents = _samples(), torch.full((5,), -1)
    tables = fit_tree(x, parents)
    bernoulli = torch.distributions.Bernoulli(probs=x.mean(dim=0))
    torch.testing.assert_close(tree_log_prob(x, parents, tables), bernoulli.log_prob(x).sum(dim=-1))


def test_tree_log_prob__rejects_bad_input() -> None:
    """x 不是二值、父结点越界或有环、表不是概率或形状不合都报错。"""
    x, parents = _samples(), torch.tensor([-1, 0, 0, 1, 2])
    tables = fit_tree(x, parents)
    for image, tree, probabilities, message in (
        (x + 0.5, parents, tables, "x 的元素"),
        (x, parents + 9, tables, "parents"),
        (x, torch.tensor([2, 0, 1, -1, 3]), tables, "parents 里有环"),
        (x, parents, tables + 1, "tables 的元素"),
        (x, parents, tables[:, :1], "tables 的形状"),
    ):
        with pytest.raises(ValueError, match=message):
            tree_log_prob(image, tree, probabilities)


def test_tree_likelihood_lines__matches_python_loop() -> None:
    """三行都等于逐个样本数出来的平均对数似然，树好树坏都成立。"""
    x = _samples()
    for tree in ([-1, 0, 0, 1, 2], [4, 2, 3, -1, 1], [-1, -1, 0, -1, 3]):
        expected = torch.tensor(_log_likelihood(x, tree) / len(x), dtype=torch.float64)
        for line in tree_likelihood_lines(x, torch.tensor(tree)):
            torch.testing.assert_close(line, expected)


def test_tree_likelihood_lines__bounds_every_other_tree() -> None:
    """125 棵标号树里没有一棵的似然超过 Chow–Liu 树。"""
    x = _samples()
    best = tree_likelihood_lines(x, maximum_spanning_tree(mutual_information(x)))[0]
    values = [tree_likelihood_lines(x, _rooted(tree, 5))[0] for tree in _labelled_trees(5)]
    torch.testing.assert_close(torch.stack(values).max(), best)
    assert min(values) < best - 0.05


def test_tree_likelihood_lines__equals_exercise() -> None:
    """练习二：四个样本 (0,0,0)(0,0,1)(1,1,0)(1,1,1)，带边 1–2 的树得 −2 log 2。"""
    x = torch.tensor([[0, 0, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1]], dtype=torch.float64)
    good = tree_likelihood_lines(x, torch.tensor([-1, 0, 0]))
    bad = tree_likelihood_lines(x, torch.tensor([2, 2, -1]))
    for line in good:
        assert math.isclose(line.item(), -2 * math.log(2))
    for line in bad:
        assert math.isclose(line.item(), -3 * math.log(2))


def test_tree_likelihood_lines__equals_digits_numbers() -> None:
    """digits 的训练图：互信息合计 4.35，熵合计 25.07，训练 NLL 是两者之差 20.72。"""
    x = _digits()
    information = mutual_information(x)
    parents = maximum_spanning_tree(information)
    edges = sum(information[a, b].item() for a, b in map(tuple, _edges(parents)))
    entropies = information.diagonal().sum().item()
    assert (round(edges, 2), round(entropies, 2)) == (4.35, 25.07)
    for line in tree_likelihood_lines(x, parents):
        assert round(line.item(), 2) == -20.72


def test_tree_likelihood_lines__rejects_bad_parents() -> None:
    """父结点越界时报错并指出 parents。"""
    with pytest.raises(ValueError, match="parents"):
        tree_likelihood_lines(_samples(), torch.tensor([-1, 0, 0, 1, 9]))
