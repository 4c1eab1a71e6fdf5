"""链式法则的分解与合成、条件独立与参数计数的检验。"""

import itertools
import math

import pytest
import torch
from torch import Tensor

from formulary.autoregressive_models.tabular import (
    chain_rule_compose,
    chain_rule_factors,
    conditional_table_sizes,
    joint_from_tables,
    markov_parameter_count,
    parents_parameter_count,
)


def _joint(*shape: int, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    table = torch.rand(*shape, dtype=torch.float64, generator=generator) ** 3
    return table / table.sum()


def _tables(parents: list[list[int]], seed: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.rand([2] * len(before), dtype=torch.float64, generator=generator)
        for before in parents
    ]


def _conditional_information(joint: Tensor, i: int, others: list[int], given: list[int]) -> float:
    """I(X_i; X_others | X_given)，逐个状态用 Python 的浮点数算（nat）。"""

    def marginal(axes: list[int]) -> dict[tuple[int, ...], float]:
        table: dict[tuple[int, ...], float] = {}
        for state in itertools.product((0, 1), repeat=joint.ndim):
            key = tuple(state[a] for a in axes)
            table[key] = table.get(key, 0.0) + joint[state].item()
        return table

    axes = [i, *others, *given]
    full, top, bottom, base = (marginal(a) for a in (axes, [i, *given], [*others, *given], given))
    total = 0.0
    for key, mass in full.items():
        rest, tail = key[1:], key[1 + len(others) :]
        total += mass * math.log(mass * base[tail] / (top[key[:1] + tail] * bottom[rest]))
    return total


def test_chain_rule_factors__matches_python_loop() -> None:
    """每个条件概率等于逐个状态加出来的 p(x_≤i) 除以 p(x_<i)，各轴大小不同。"""
    joint = _joint(2, 3, 4)
    factors = chain_rule_factors(joint)
    states = list(itertools.product(range(2), range(3), range(4)))
    for i, factor in enumerate(factors):
        assert factor.shape == joint.shape[: i + 1]
        for state in states:
            top = sum(joint[s].item() for s in states if s[: i + 1] == state[: i + 1])
            bottom = sum(joint[s].item() for s in states if s[:i] == state[:i])
            expected = torch.tensor(top / bottom, dtype=torch.float64)
            torch.testing.assert_close(factor[state[: i + 1]], expected)


def test_chain_rule_factors__equals_worked_example() -> None:
    """p(0,0)=0.1、p(0,1)=0.3、p(1,0)=0.6：先 (0.4, 0.6)，再 (1/4, 3/4) 与 (1, 0)。"""
    joint = torch.tensor([[0.1, 0.3], [0.6, 0.0]], dtype=torch.float64)
    first, second = chain_rule_factors(joint)
    torch.testing.assert_close(first, torch.tensor([0.4, 0.6]).double(), rtol=0, atol=1e-7)
    torch.testing.assert_close(second, torch.tensor([[0.25, 0.75], [1, 0]]).double())


def test_chain_rule_factors__is_normalized_for_impossible_prefix() -> None:
    """前缀的概率为零时条件给均匀分布，不出现 NaN，拼回去仍是原来的联合表。"""
    joint = torch.tensor([[0.0, 0.0, 0.0], [0.2, 0.3, 0.5]], dtype=torch.float64)
    factors = chain_rule_factors(joint)
    torch.testing.assert_close(factors[1][0], torch.full((3,), 1 / 3, dtype=torch.float64))
    torch.testing.assert_close(chain_rule_compose(factors), joint)


def test_chain_rule_factors__is_differentiable_at_impossible_prefix() -> None:
    """前缀的概率为零时，导数也不出现 NaN：那一行恒为均匀分布，对它的导数是零。"""
    joint = torch.tensor([[0.0, 0.0, 0.0], [0.2, 0.3, 0.5]], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda p: chain_rule_factors(p)[1], joint)
    assert (jacobian[0] == 0).all()
    # 另一行的和是 1，商对分子、分母的导数是 δ_ab 与 −p(b | x_1)
    expected = torch.eye(3, dtype=torch.float64) - joint[1][:, None]
    torch.testing.assert_close(jacobian[1, :, 1], expected)


def test_chain_rule_factors__rejects_bad_joint() -> None:
    """零维、不是浮点数、和不为 1 或有负数时报错。"""
    for joint in (
        torch.tensor(1.0),
        torch.ones(2, 2).long(),
        torch.ones(2, 2),
        torch.tensor([1.5, -0.5]),
    ):
        with pytest.raises(ValueError, match="joint"):
            chain_rule_factors(joint)


def test_chain_rule_compose__matches_python_loop() -> None:
    """每个状态的概率等于各条件表里对应的数逐个相乘。"""
    factors = chain_rule_factors(_joint(2, 3, 4))
    # 换一组与联合表无关的条件，免得分解与合成互相抵消错误
    generator = torch.Generator().manual_seed(9)
    factors = [
        torch.rand(f.shape, dtype=torch.float64, generator=generator).softmax(-1) for f in factors
    ]
    actual = chain_rule_compose(factors)
    for state in itertools.product(range(2), range(3), range(4)):
        expected = math.prod(factors[i][state[: i + 1]].item() for i in range(3))
        torch.testing.assert_close(actual[state], torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(actual.sum(), torch.tensor(1.0, dtype=torch.float64))


def test_chain_rule_compose__preserves_joint_in_every_order() -> None:
    """四个变量的全部 24 种次序，先拆后拼都还原同一个联合分布；只有一个变量时原样返回。"""
    single = _joint(3)
    torch.testing.assert_close(chain_rule_compose([single]), single)
    joint = _joint(2, 2, 2, 2)
    for order in itertools.permutations(range(4)):
        permuted = joint.permute(order)
        torch.testing.assert_close(chain_rule_compose(chain_rule_factors(permuted)), permuted)


def test_chain_rule_compose__rejects_bad_factors() -> None:
    """一个也没有、轴数接不上或某个条件没有归一化时报错。"""
    half = torch.tensor([0.5, 0.5])
    for factors, message in (
        ([], "factors 至少"),
        ([half, half], r"factors\[1\] 的形状"),
        ([half, torch.ones(2, 2)], r"factors\[1\]"),
        ([half, torch.full((3, 2), 0.5)], r"factors\[1\] 的形状"),
    ):
        with pytest.raises(ValueError, match=message):
            chain_rule_compose(factors)


def test_joint_from_tables__matches_python_loop() -> None:
    """每个状态的概率等于从各条件表里查出的数相乘。"""
    parents = [[], [0], [], [0, 2], [1, 3]]
    tables = _tables(parents)
    joint = joint_from_tables(tables, parents)
    for state in itertools.product((0, 1), repeat=5):
        expected = 1.0
        for i, before in enumerate(parents):
            one = tables[i][tuple(state[j] for j in before)].item()
            expected *= one if state[i] == 1 else 1 - one
        torch.testing.assert_close(joint[state], torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(joint.sum(), torch.tensor(1.0, dtype=torch.float64))


def test_joint_from_tables__is_conditionally_independent() -> None:
    """给定父结点之后，每个变量与其余更靠前的变量的条件互信息是零。"""
    parents = [[], [0], [0], [1, 2], [3]]
    joint = joint_from_tables(_tables(parents), parents)
    for i, before in enumerate(parents):
        others = [j for j in range(i) if j not in before]
        if others:
            assert abs(_conditional_information(joint, i, others, before)) < 1e-12
    # 换成随便一个联合分布就不是零
    assert _conditional_information(_joint(2, 2, 2, 2, 2), 4, [0, 1, 2], [3]) > 1e-3


def test_joint_from_tables__is_full_rank_without_assumptions() -> None:
    """不作假设时 2^4 − 1 = 15 个参数互不多余：联合表对它们的雅可比矩阵秩为 15。"""
    parents = [list(range(i)) for i in range(4)]
    free = torch.randn(15, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def joint(values: Tensor) -> Tensor:
        parts = values.sigmoid().split([2**i for i in range(4)])
        tables = [part.reshape([2] * i) for i, part in enumerate(parts)]
        return joint_from_tables(tables, parents).flatten()

    jacobian = torch.autograd.functional.jacobian(joint, free)
    assert torch.linalg.matrix_rank(jacobian).item() == 15


def test_joint_from_tables__rejects_bad_input() -> None:
    """父结点不在前面、次序颠倒，表的形状不对或不是概率时报错。"""
    half = torch.tensor(0.5)
    pair = torch.tensor([0.5, 0.5])
    for tables, parents, message in (
        ([pair, half], [[1], []], r"parents\[0\]"),
        ([half, pair, torch.ones(2, 2)], [[], [0], [1, 0]], r"parents\[2\]"),
        ([half, half], [[], [0]], r"tables\[1\] 的形状"),
        ([half, pair + 1], [[], [0]], r"tables\[1\]"),
        ([half], [[], [0]], "tables 要与 parents 一样多"),
    ):
        with pytest.raises(ValueError, match=message):
            joint_from_tables(tables, parents)


def test_conditional_table_sizes__matches_enumeration() -> None:
    """第 i 个条件的参数个数等于前缀的个数，总数比联合表的状态数少 1。"""
    for n in range(1, 11):
        sizes = conditional_table_sizes(n)
        assert sizes == [len(list(itertools.product((0, 1), repeat=i))) for i in range(n)]
        assert sum(sizes) == len(list(itertools.product((0, 1), repeat=n))) - 1


def test_conditional_table_sizes__equals_worked_example() -> None:
    """n = 3 时是 1 + 2 + 4 = 7；n = 784 时总数有 237 位十进制数字。"""
    assert conditional_table_sizes(3) == [1, 2, 4]
    total = sum(conditional_table_sizes(784))
    assert total == 2**784 - 1
    assert len(str(total)) == 237
    assert str(total)[:4] == "1017"


def test_conditional_table_sizes__differs_from_notes_count() -> None:
    """末一个条件要 2^(n−1) 个数，每个前缀一个；减 1 就少算了，见 n = 2。"""
    assert conditional_table_sizes(2)[-1] == 2
    assert conditional_table_sizes(2)[-1] != 2 ** (2 - 1) - 1
    # 两个前缀的条件可以独立地变：(0.2, 0.9) 与 (0.9, 0.2) 是两个不同的条件
    first, second = torch.tensor(0.5), torch.tensor([0.2, 0.9])
    one = joint_from_tables([first, second], [[], [0]])
    other = joint_from_tables([first, second.flip(0)], [[], [0]])
    assert (one - other).abs().max() > 0.1


def test_conditional_table_sizes__rejects_bad_count() -> None:
    """n 不是正整数时报错。"""
    for n in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="n 必须是"):
            conditional_table_sizes(n)  # type: ignore[arg-type]


def test_parents_parameter_count__matches_table_sizes() -> None:
    """等于各条件表里数的个数之和。"""
    for parents in ([[], [0], [], [0, 2], [1, 3]], [[]], [[], [0], [0, 1], [0, 1, 2]]):
        expected = sum(table.numel() for table in _tables(parents))
        assert parents_parameter_count(parents) == expected


def test_parents_parameter_count__equals_worked_example() -> None:
    """784 个像素互相独立要 784 个参数，各依赖前一个要 1 + 783 × 2 = 1567 个。"""
    assert parents_parameter_count([[] for _ in range(784)]) == 784
    chain = [[]] + [[i] for i in range(783)]
    assert parents_parameter_count(chain) == 1567


def test_parents_parameter_count__rejects_bad_parents() -> None:
    """父结点重复、为负或不在前面时报错。"""
    for parents in ([[0]], [[], [0, 0]], [[], [-1]], [[], [1]]):
        with pytest.raises(ValueError, match="parents"):
            parents_parameter_count(parents)


def test_markov_parameter_count__matches_sum() -> None:
    """闭式等于逐个位置数 2^min(i−1, k) 再相加，n < 12 的每个 k 都如此。"""
    for n in range(1, 12):
        for k in range(n + 1):
            expected = 0
            for i in range(1, n + 1):
                expected += 2 ** min(i - 1, k)
            assert markov_parameter_count(n, k) == expected


def test_markov_parameter_count__limit_full_table() -> None:
    """k = n − 1 与 k = n 时就是不作假设的联合表，k = 0 时各变量独立。"""
    for n in (1, 2, 5, 784):
        assert markov_parameter_count(n, n - 1) == markov_parameter_count(n, n) == 2**n - 1
        assert markov_parameter_count(n, 0) == n
    assert markov_parameter_count(784, 10) == 793_599


def test_markov_parameter_count__rejects_bad_order() -> None:
    """n 不是正整数、阶数为负或大于 n 时报错。"""
    for n, order, message in ((0, 0, "n 必须是"), (3, -1, "order 必须是"), (3, 4, "order 不能")):
        with pytest.raises(ValueError, match=message):
            markov_parameter_count(n, order)
