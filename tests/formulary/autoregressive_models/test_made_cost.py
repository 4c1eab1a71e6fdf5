"""乘加次数的检验：与 torch 的 FLOP 计数器数出的相同。"""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from formulary.autoregressive_models.made import MADE
from formulary.autoregressive_models.made_cost import made_multiply_adds
from formulary.autoregressive_models.made_sampling import (
    made_sample,
    made_sample_by_degree,
    made_sample_incremental,
)


@pytest.mark.parametrize("hidden", [[5], [8, 6], [5, 9, 4]])
def test_made_multiply_adds__matches_flop_counter(hidden: list[int]) -> None:
    """FlopCounterMode 数出的浮点运算恰是乘加次数的两倍，批量为 3，1 到 3 个隐藏层。"""
    model = MADE(7, hidden, torch.tensor([3, 0, 6, 2, 5, 1, 4]))
    u = torch.rand(3, 7, generator=torch.Generator().manual_seed(0))
    runs = {
        "density": lambda: model(u),
        "sample": lambda: made_sample(model, u),
        "incremental": lambda: made_sample_incremental(model, u),
        "by_degree": lambda: made_sample_by_degree(model, u),
    }
    expected = {}
    for name, run in runs.items():
        with FlopCounterMode(display=False) as counter:
            run()
        expected[name] = counter.get_total_flops() // (2 * 3)
    assert made_multiply_adds(7, hidden) == expected


def test_made_multiply_adds__equals_mnist_example() -> None:
    """n = 784：一层 500 时三者都是 784000，两层时只更新第一层还要 1.97 亿次。"""
    assert made_multiply_adds(784, [500]) == {
        "density": 784_000,
        "sample": 614_656_000,
        "incremental": 784_000,
        "by_degree": 784_000,
    }
    assert made_multiply_adds(784, [500, 500]) == {
        "density": 1_034_000,
        "sample": 810_656_000,
        "incremental": 196_784_000,
        "by_degree": 1_034_000,
    }


def test_made_multiply_adds__rejects_bad_input() -> None:
    """n、宽度或层数不是正整数时报错。"""
    for n, hidden, name in ((0, [3], "n"), (3, [], "层数"), (3, [2, 0], "每一项")):
        with pytest.raises(ValueError, match=name):
            made_multiply_adds(n, hidden)
