"""计算图上的反向累积的检验。"""

import random

import pytest
import torch

from formulary.autograd.accumulation import accumulate_adjoints, eager_visits, path_sum_adjoint

WIDTHS = (2, 3, 1, 4, 2, 3, 2, 1)  # 八个结点，各是一个向量
SEED = torch.tensor([1.5], dtype=torch.float64)


def _graph(seed: int = 0) -> list[list[tuple[int, torch.Tensor]]]:
    """随机的有向无环图：相邻的总相连，其余的边以一半的概率出现，偶尔重复。"""
    chooser, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    successors: list[list[tuple[int, torch.Tensor]]] = [[] for _ in WIDTHS]
    for v, n in enumerate(WIDTHS[:-1]):
        later = [w for w in range(v + 2, len(WIDTHS)) if chooser.random() < 0.5]
        for w in [v + 1, *later, *later[:1]]:
            jacobian = torch.randn(WIDTHS[w], n, dtype=torch.float64, generator=generator)
            successors[v].append((w, jacobian))
    return successors


def _scalar(value: float) -> torch.Tensor:
    return torch.tensor([[value]], dtype=torch.float64)


def _example(a: float, b: float) -> list[list[tuple[int, torch.Tensor]]]:
    """文中的例子 u = ab，v = u + a，L = uv；结点的次序是 a、b、u、v、L。"""
    u, v = a * b, a * b + a
    one = _scalar(1.0)
    return [[(2, _scalar(b)), (3, one)], [(2, _scalar(a))], [(3, one), (4, _scalar(v))],
            [(4, _scalar(u))], []]  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_accumulate_adjoints__matches_torch_autograd(seed: int) -> None:
    """在 torch 里照着同一张图算线性函数，各结点的梯度相同。"""
    successors = _graph(seed)
    values: list[torch.Tensor] = []
    for w, width in enumerate(WIDTHS):
        value = torch.zeros(width, dtype=torch.float64)
        for v in range(w):
            for target, jacobian in successors[v]:
                if target == w:
                    value = value + jacobian @ values[v]
        values.append(value if value.requires_grad else value.requires_grad_())
    expected = torch.autograd.grad(values[-1], values, SEED)
    for actual, gradient in zip(accumulate_adjoints(successors, SEED), expected, strict=True):
        torch.testing.assert_close(actual, gradient)


@pytest.mark.parametrize("seed", range(5))
def test_accumulate_adjoints__matches_path_enumeration(seed: int) -> None:
    """八个结点的随机图，逐条枚举路径，把沿途的雅可比矩阵乘起来再相加。"""
    successors = _graph(seed)

    def along(v: int) -> torch.Tensor:
        """从输出到 v 的总雅可比矩阵，递归地对路径求和。"""
        if v == len(WIDTHS) - 1:
            return torch.eye(WIDTHS[-1], dtype=torch.float64)
        return sum(along(w) @ jacobian for w, jacobian in successors[v])

    for v, actual in enumerate(accumulate_adjoints(successors, SEED)):
        torch.testing.assert_close(actual, SEED @ along(v))


def test_accumulate_adjoints__equals_worked_example() -> None:
    """u = ab，v = u + a，L = uv 在 a = 2、b = 3 处：伴随依次是 48、28、14、6、1。"""
    found = accumulate_adjoints(_example(2.0, 3.0), torch.ones(1, dtype=torch.float64))
    assert [adjoint.item() for adjoint in found] == [48.0, 28.0, 14.0, 6.0, 1.0]


def test_accumulate_adjoints__is_first_order_change() -> None:
    """把某个结点的值改一点，线性的图上损失恰好改变伴随与改变量的内积。"""
    successors = _graph(3)
    adjoints = accumulate_adjoints(successors, SEED)
    for changed, width in enumerate(WIDTHS):
        change = torch.arange(1.0, width + 1, dtype=torch.float64)
        moved = [torch.zeros(n, dtype=torch.float64) for n in WIDTHS]
        moved[changed] = change
        for v, edges in enumerate(successors):
            for w, jacobian in edges:
                moved[w] = moved[w] + jacobian @ moved[v]
        torch.testing.assert_close(SEED @ moved[-1], adjoints[changed] @ change)


def test_accumulate_adjoints__differs_from_breadth_first() -> None:
    """按离输出的远近先处理 u 再处理 v，u 少收一份：ā、b̄ 得 30 与 16，而不是 48 与 28。"""
    successors = _example(2.0, 3.0)
    edges = {v: {w: j.item() for w, j in out} for v, out in enumerate(successors)}
    adjoint = dict.fromkeys(range(5), 0.0) | {4: 1.0}
    for w in (4, 2, 3):  # L 的两个父结点按书写的次序，先 u 后 v
        for v in range(w):
            adjoint[v] += edges[v].get(w, 0.0) * adjoint[w]
    assert (adjoint[0], adjoint[1]) == (30.0, 16.0)
    right = accumulate_adjoints(successors, torch.ones(1, dtype=torch.float64))
    assert (right[0].item(), right[1].item()) == (48.0, 28.0)


def test_accumulate_adjoints__rejects_bad_input() -> None:
    """空图、边的方向不对、形状不符、到不了输出的结点都报错。"""
    one = torch.ones(1, 1)
    with pytest.raises(ValueError, match="至少要有一个结点"):
        accumulate_adjoints([], torch.ones(1))
    with pytest.raises(ValueError, match="不能有后继"):
        accumulate_adjoints([[(1, one)], [(0, one)]], torch.ones(1))
    for w in (0, 2, -1):
        with pytest.raises(ValueError, match="后继必须在"):
            accumulate_adjoints([[(w, one)], []], torch.ones(1))
    with pytest.raises(ValueError, match="雅可比矩阵"):
        accumulate_adjoints([[(1, torch.ones(2, 1))], []], torch.ones(1))
    with pytest.raises(ValueError, match="雅可比矩阵"):
        accumulate_adjoints([[(1, torch.ones(1, 2)), (1, torch.ones(1, 3))], []], torch.ones(1))
    with pytest.raises(ValueError, match="没有后继"):
        accumulate_adjoints([[], []], torch.ones(1))
    with pytest.raises(ValueError, match="seed"):
        accumulate_adjoints([[]], torch.ones(1, dtype=torch.int64))


@pytest.mark.parametrize("seed", range(5))
def test_path_sum_adjoint__matches_torch_autograd(seed: int) -> None:
    """在 torch 里照着同一张图算线性函数，起点的梯度等于路径之和。"""
    successors = _graph(seed)
    x = torch.zeros(WIDTHS[0], dtype=torch.float64, requires_grad=True)
    values: list[torch.Tensor] = [x]
    for w in range(1, len(WIDTHS)):
        terms = [j @ values[v] for v in range(w) for t, j in successors[v] if t == w]
        values.append(torch.stack(terms).sum(0))
    (expected,) = torch.autograd.grad(values[-1], x, SEED)
    torch.testing.assert_close(path_sum_adjoint(successors, SEED, 0), expected)


def test_path_sum_adjoint__equals_worked_example() -> None:
    """文中的例子：a 到 L 有三条路径，24 + 18 + 6 = 48；b 有两条，16 + 12 = 28。"""
    seed = torch.ones(1, dtype=torch.float64)
    assert path_sum_adjoint(_example(2.0, 3.0), seed, 0).item() == 24 + 18 + 6
    assert path_sum_adjoint(_example(2.0, 3.0), seed, 1).item() == 16 + 12
    assert path_sum_adjoint(_example(2.0, 3.0), seed, 4).item() == 1


def test_path_sum_adjoint__is_accumulate_adjoints() -> None:
    """每个结点的路径之和，等于反向累积的伴随。"""
    successors = _graph(7)
    for v, expected in enumerate(accumulate_adjoints(successors, SEED)):
        torch.testing.assert_close(path_sum_adjoint(successors, SEED, v), expected)


def test_path_sum_adjoint__rejects_bad_input() -> None:
    """不在图里的结点报错，图本身的毛病也报错。"""
    graph = [[(1, torch.ones(1, 1))], []]
    for v in (-1, 2):
        with pytest.raises(ValueError, match="v 必须"):
            path_sum_adjoint(graph, torch.ones(1), v)
    with pytest.raises(ValueError, match="没有后继"):
        path_sum_adjoint([[], []], torch.ones(1), 0)


def test_eager_visits__matches_recursive_walk() -> None:
    """真的递归走一遍并计数：六个结点的一张图，每个起点的次数相同。"""
    parents = [[], [], [0, 1], [2, 2], [0, 3, 2], [4, 3, 1, 1]]
    counter = 0

    def walk(node: int) -> None:
        nonlocal counter
        counter += 1
        for parent in parents[node]:
            walk(parent)

    for node, actual in enumerate(eager_visits(parents)):
        counter = 0
        walk(node)
        assert actual == counter


def test_eager_visits__equals_doubling_example() -> None:
    """连加自己 k 次，访问 2^(k+1) − 1 次；k = 15 时是 65535 次，而结点只有 16 个。"""
    chain = eager_visits([[], *([k, k] for k in range(30))])
    assert chain == [2 ** (k + 1) - 1 for k in range(31)]
    assert chain[15] == 65535


def test_eager_visits__equals_exercise() -> None:
    """练习：y = x·x，z = y + x，L = yz；x 到 L 有 5 条路径，立即传要访问 9 次。"""
    assert eager_visits([[], [0, 0], [1, 0], [1, 2]]) == [1, 3, 5, 9]


def test_path_sum_adjoint__equals_exercise() -> None:
    """练习：x = 2 时五条路径是 12、12、8、8、4，和是 44。"""
    x, y, z = 2.0, 4.0, 6.0
    partials = [[(1, x), (1, x), (2, 1.0)], [(2, 1.0), (3, z)], [(3, y)], []]
    graph = [[(w, _scalar(value)) for w, value in edges] for edges in partials]
    seed = torch.ones(1, dtype=torch.float64)
    assert path_sum_adjoint(graph, seed, 0).item() == 12 + 12 + 8 + 8 + 4 == 44


def test_eager_visits__limit_chain() -> None:
    """没有分叉的链上，立即传与按拓扑序一样，每个结点一次。"""
    assert eager_visits([[], [0], [1], [2]]) == [1, 2, 3, 4]


def test_eager_visits__rejects_bad_input() -> None:
    """父结点的编号不小于自己，或为负，都报错。"""
    for parents in ([[0]], [[], [1]], [[], [-1]]):
        with pytest.raises(ValueError, match="父结点"):
            eager_visits(parents)
