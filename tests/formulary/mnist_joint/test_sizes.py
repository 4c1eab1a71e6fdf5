"""状态数与参数个数的检验。"""

import itertools
import math

import pytest
import torch
from torch import Tensor

from formulary.mnist_joint.sizes import (
    naive_bayes_parameter_count,
    network_parameter_count,
    softmax_parameter_counts,
    state_count,
    table_parameter_counts,
)


def _rank(matrix: Tensor) -> int:
    return int(torch.linalg.matrix_rank(matrix))


def _pictures(pixels: int) -> Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=pixels)), dtype=torch.float64)


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_state_count__matches_enumeration() -> None:
    """等于逐个列出的（图像，标签）对数。"""
    for pixels, classes, levels in ((3, 1, 2), (4, 3, 2), (2, 5, 4)):
        pairs = itertools.product(*[range(levels)] * pixels, range(classes))
        assert state_count(pixels, classes, levels) == len(list(pairs))


def test_state_count__equals_mnist() -> None:
    """2⁷⁸⁴ 是 237 位数，以 1.017 开头；带上标签再乘 10。"""
    pictures = str(state_count(784))
    assert len(pictures) == 237
    assert pictures.startswith("1017")
    assert state_count(784, classes=10) == 10 * state_count(784)
    assert len(str(state_count(784, levels=256))) == 1889


def test_state_count__rejects_bad_counts() -> None:
    """像素数、类别数、级数不是正整数时报错。"""
    for arguments, name in (((0,), "pixels"), ((3, 0), "classes"), ((3, 2, 1.5), "levels")):
        with pytest.raises(ValueError, match=name):
            state_count(*arguments)  # type: ignore[arg-type]


def test_table_parameter_counts__matches_affine_dimension() -> None:
    """等于全体联合分布、全体条件分布所张成的仿射空间的维数。"""
    for pixels, classes in ((2, 3), (3, 2), (1, 4)):
        states = 2**pixels
        corners = torch.eye(states * classes, dtype=torch.float64)
        joint = _rank(corners[1:] - corners[0])
        choices = itertools.product(range(classes), repeat=states)
        tables = torch.tensor(
            [[float(k == c) for c in choice for k in range(classes)] for choice in choices],
            dtype=torch.float64,
        )
        conditional = _rank(tables[1:] - tables[0])
        assert table_parameter_counts(pixels, classes) == (joint, conditional)


def test_table_parameter_counts__equals_mnist() -> None:
    """784 个像素、10 类：联合分布 10·2⁷⁸⁴ − 1 个，条件分布 9·2⁷⁸⁴ 个。"""
    assert table_parameter_counts(784, 10) == (10 * 2**784 - 1, 9 * 2**784)
    assert table_parameter_counts(5, 1) == (31, 0)


def test_table_parameter_counts__rejects_bad_counts() -> None:
    """像素数或类别数为零时报错。"""
    with pytest.raises(ValueError, match="pixels"):
        table_parameter_counts(0, 10)
    with pytest.raises(ValueError, match="classes"):
        table_parameter_counts(3, 0)


def test_naive_bayes_parameter_count__matches_jacobian_rank() -> None:
    """等于全部对数联合概率对各对数几率的雅可比矩阵的秩。"""
    for pixels, classes in ((3, 2), (2, 4), (4, 3)):
        x = _pictures(pixels)

        def log_joint(logits: Tensor, x: Tensor = x, classes: int = classes) -> Tensor:
            chances = torch.sigmoid(logits[:, 1:])
            factors = torch.where(x[:, None] == 1, chances, 1 - chances)
            assert factors.shape[1] == classes
            return (torch.log_softmax(logits[:, 0], 0) + factors.log().sum(-1)).flatten()

        jacobian = torch.func.jacrev(log_joint)(_random(classes, pixels + 1))
        rank = _rank(jacobian.flatten(1))
        assert naive_bayes_parameter_count(pixels, classes) == rank


def test_naive_bayes_parameter_count__equals_mnist() -> None:
    """784 个像素、10 类只要 7849 个参数，比 softmax 回归可辨识的多 784 个。"""
    assert naive_bayes_parameter_count(784, 10) == 7849
    assert naive_bayes_parameter_count(784, 10) - softmax_parameter_counts(784, 10)[1] == 784


def test_naive_bayes_parameter_count__rejects_bad_counts() -> None:
    """像素数或类别数不是正整数时报错。"""
    with pytest.raises(ValueError, match="pixels"):
        naive_bayes_parameter_count(-1, 10)
    with pytest.raises(ValueError, match="classes"):
        naive_bayes_parameter_count(3, True)


def test_softmax_parameter_counts__matches_jacobian_rank() -> None:
    """可辨识的个数等于全部 log p(y|x) 对权重与偏置的雅可比矩阵的秩；总数等于 nn.Linear 的。"""
    for pixels, classes in ((3, 2), (2, 4), (4, 3)):
        x = _pictures(pixels)

        def log_posterior(w: Tensor, x: Tensor = x) -> Tensor:
            return torch.log_softmax(x @ w[:, 1:].T + w[:, 0], dim=-1).flatten()

        jacobian = torch.func.jacrev(log_posterior)(_random(classes, pixels + 1))
        layer = torch.nn.Linear(pixels, classes)
        total = sum(parameter.numel() for parameter in layer.parameters())
        expected = (total, _rank(jacobian.flatten(1)))
        assert softmax_parameter_counts(pixels, classes) == expected


def test_softmax_parameter_counts__equals_mnist() -> None:
    """784 个像素、10 类：7850 个参数，其中 7065 个可辨识。"""
    assert softmax_parameter_counts(784, 10) == (7850, 7065)


def test_softmax_parameter_counts__rejects_bad_counts() -> None:
    """像素数或类别数不是正整数时报错。"""
    with pytest.raises(ValueError, match="pixels"):
        softmax_parameter_counts(0, 10)
    with pytest.raises(ValueError, match="classes"):
        softmax_parameter_counts(3, 0)


def test_network_parameter_count__matches_jacobian_rank() -> None:
    """等于联合概率表对各条件概率表的对数几率的雅可比矩阵的秩。"""
    cardinalities, parents = [2, 3, 2, 3], [[], [0], [0, 1], [2]]
    shapes = [
        [*(cardinalities[u] for u in above), c]
        for above, c in zip(parents, cardinalities, strict=True)
    ]
    sizes = [math.prod(shape) for shape in shapes]
    states = list(itertools.product(*map(range, cardinalities)))

    def log_joint(logits: Tensor) -> Tensor:
        tables = [
            torch.log_softmax(part.view(shape), dim=-1)
            for part, shape in zip(logits.split(sizes), shapes, strict=True)
        ]
        return torch.stack(
            [
                sum(tables[v][tuple(s[u] for u in (*parents[v], v))] for v in range(4))  # type: ignore[misc]
                for s in states
            ]
        )

    jacobian = torch.func.jacrev(log_joint)(_random(sum(sizes)))
    assert network_parameter_count(cardinalities, parents) == _rank(jacobian)


def test_network_parameter_count__equals_four_structures() -> None:
    """784 个像素、10 类的四种结构：793、7849、15679 与 10·2⁷⁸⁴ − 1 个参数。"""
    cardinalities = [2] * 784 + [10]
    y = 784
    independent = [[]] * 785
    naive = [[y]] * 784 + [[]]
    tree = [[y], *([y, i] for i in range(783)), []]
    full = [[y, *range(i)] for i in range(784)] + [[]]
    counts = [network_parameter_count(cardinalities, p) for p in (independent, naive, tree, full)]
    assert counts == [793, 7849, 15679, 10 * 2**784 - 1]
    assert counts[1] == naive_bayes_parameter_count(784, 10)
    assert counts[3] == table_parameter_counts(784, 10)[0]


def test_network_parameter_count__equals_gray_level_exercise() -> None:
    """练习：像素取 256 级时，朴素贝叶斯要 784·10·255 + 9 = 1999209 个参数。"""
    naive = [[784]] * 784 + [[]]
    assert network_parameter_count([256] * 784 + [10], naive) == 1_999_209
    assert 784 * 10 * 255 + 9 == 1_999_209


def test_network_parameter_count__depends_only_on_structure_for_label_last() -> None:
    """标签放在最前面还是最后面，全连接的网参数一样多：都是全表。"""
    first = network_parameter_count([10, 2, 2, 2], [[], [0], [0, 1], [0, 1, 2]])
    last = network_parameter_count([2, 2, 2, 10], [[], [0], [0, 1], [0, 1, 2]])
    assert first == last == table_parameter_counts(3, 10)[0]


def test_network_parameter_count__rejects_bad_structure() -> None:
    """两个序列长度不同、父结点越界或取值个数为零时报错。"""
    with pytest.raises(ValueError, match="一样长"):
        network_parameter_count([2, 2], [[]])
    for above in ([2], [-1]):
        with pytest.raises(ValueError, match="parents 的下标"):
            network_parameter_count([2, 2], [[], above])
    with pytest.raises(ValueError, match=r"cardinalities\[1\] 必须"):
        network_parameter_count([2, 0], [[], []])
