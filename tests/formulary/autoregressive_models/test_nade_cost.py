"""NADE 的参数个数与乘加次数。"""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from formulary.autoregressive_models.fvsbn import fvsbn_parameter_count
from formulary.autoregressive_models.nade import NADE, nade_logits_naive
from formulary.autoregressive_models.nade_cost import nade_multiply_adds, nade_parameter_count
from formulary.autoregressive_models.tabular import (
    conditional_table_sizes,
    markov_parameter_count,
)


def test_nade_parameter_count__matches_model() -> None:
    """等于 NADE 模型里各参数张量的元素个数之和。"""
    for n, d in ((1, 1), (4, 7), (64, 32)):
        model = NADE(n, d, torch.Generator().manual_seed(0))
        assert nade_parameter_count(n, d) == sum(p.numel() for p in model.parameters())


def test_nade_parameter_count__equals_worked_example() -> None:
    """n = 784、d = 500 是 785 284 个；n = 64、d = 64 是 8320 个。"""
    assert nade_parameter_count(784, 500) == 785_284
    assert nade_parameter_count(64, 64) == 8320


def test_nade_parameter_count__equals_exercise_table() -> None:
    """练习：n = 10 时联合表 1023、二阶马尔可夫链 35、FVSBN 55、NADE（d = 5）115 个。"""
    assert sum(conditional_table_sizes(10)) == 1023
    assert markov_parameter_count(10, 2) == 35
    assert fvsbn_parameter_count(10) == 55
    assert nade_parameter_count(10, 5) == 115
    # W 的末列 5 个不起作用：它们的梯度恰为零
    model = NADE(10, 5, torch.Generator().manual_seed(0))
    model(torch.ones(3, 10)).square().sum().backward()
    assert sum(int((p.grad == 0).sum()) for p in model.parameters()) == 5


def test_nade_parameter_count__rejects_bad_sizes() -> None:
    """n 或 d 不是正整数时报错。"""
    for n, d, message in ((0, 3, "n 必须是"), (3, 0, "d 必须是")):
        with pytest.raises(ValueError, match=message):
            nade_parameter_count(n, d)


def test_nade_multiply_adds__matches_python_loop() -> None:
    """等于逐步数出的乘加次数：朴素每步从头加，递推每步加一列。"""
    for n, d in ((1, 3), (2, 1), (7, 4)):
        naive = recursive = 0
        for i in range(n):
            for _unit in range(d):
                naive += sum(1 for _ in range(i))
                recursive += 1 if i else 0
        assert nade_multiply_adds(n, d) == (naive, recursive)


def test_nade_multiply_adds__matches_flop_counter() -> None:
    """等于 FlopCounterMode 在朴素写法的隐藏层矩阵乘法里数出的浮点运算数的一半。"""
    n, d = 9, 5
    inputs = [torch.zeros(1, n), torch.zeros(d, n), torch.zeros(d), torch.zeros(n, d)]
    with FlopCounterMode(display=False) as counter:
        nade_logits_naive(*inputs, torch.zeros(n))
    matrix_products = counter.get_flop_counts()["Global"]
    total = sum(count for name, count in matrix_products.items() if "mm" in str(name))
    assert nade_multiply_adds(n, d)[0] == total // 2


def test_nade_multiply_adds__equals_worked_example() -> None:
    """n = 784、d = 500：153 468 000 对 391 500，相差 n/2 = 392 倍。"""
    naive, recursive = nade_multiply_adds(784, 500)
    assert (naive, recursive) == (153_468_000, 391_500)
    assert naive == 392 * recursive


def test_nade_multiply_adds__rejects_bad_sizes() -> None:
    """n 或 d 不是正整数时报错。"""
    for n, d, message in ((0, 3, "n 必须是"), (3, 0, "d 必须是")):
        with pytest.raises(ValueError, match=message):
            nade_multiply_adds(n, d)
