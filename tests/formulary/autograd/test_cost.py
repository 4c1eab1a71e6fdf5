"""求导代价的公式与 PyTorch 计数器的对照。"""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from formulary.autograd.cost import (
    accumulation_multiplications,
    count_flops,
    mlp_flops,
    mlp_training_flops,
    require_widths,
)


def _network(widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def test_count_flops__equals_matrix_product() -> None:
    """(2, 3) 乘 (3, 5)：30 次乘加，60 次浮点运算；逐元素运算不计。"""
    left, right = torch.ones(2, 3), torch.ones(3, 5)
    assert count_flops(lambda: left @ right) == 60
    assert count_flops(lambda: left.tanh() + left * left) == 0


def test_count_flops__matches_python_loop() -> None:
    """与逐个标量做矩阵乘法时数出的乘法、加法次数相同（累加从零开始，加法与乘法一样多）。"""
    operations = 0
    for _ in range(4):
        for _ in range(6):
            for _ in range(7):
                operations += 2
    assert count_flops(lambda: torch.ones(4, 7) @ torch.ones(7, 6)) == operations


def test_count_flops__differs_from_matrix_vector_product() -> None:
    """torch 2.13 不数矩阵乘向量；写成一列的矩阵就数了。"""
    weight, x = torch.ones(5, 7), torch.ones(7)
    assert count_flops(lambda: weight @ x) == 0
    assert count_flops(lambda: weight @ x[:, None]) == 70


def test_count_flops__equals_jacobian_passes() -> None:
    """两层网络的完整雅可比：反向模式 (m + 1) 份前向，前向模式 (n + 2) 份。"""
    for n, hidden, m in ((7, 5, 3), (3, 5, 11), (4, 6, 4)):
        first, second = torch.ones(hidden, n), torch.ones(m, hidden)

        def f(x: Tensor, first: Tensor = first, second: Tensor = second) -> Tensor:
            return (second @ torch.tanh(first @ x[:, None]))[:, 0]

        x = torch.ones(n)
        forward = count_flops(lambda: f(x))  # noqa: B023
        assert forward == mlp_flops([n, hidden, m], 1)
        assert count_flops(lambda: torch.func.jacrev(f)(x)) == (m + 1) * forward  # noqa: B023
        assert count_flops(lambda: torch.func.jacfwd(f)(x)) == (n + 2) * forward  # noqa: B023


def test_count_flops__equals_three_forward_passes_for_one_jvp() -> None:
    """torch 2.13 的一次 JVP 数出三份前向：求值一份，切向量两份，其中一份乘的是权重的零切向量。"""
    weight, x = torch.ones(5, 7), torch.ones(7)

    def f(x: Tensor) -> Tensor:
        return (weight @ x[:, None])[:, 0]

    assert count_flops(lambda: torch.func.jvp(f, (x,), (x,))) == 3 * count_flops(lambda: f(x))


def test_count_flops__rejects_non_callable() -> None:
    """要的是函数，不是算好的结果。"""
    with pytest.raises(ValueError, match="run 必须"):
        count_flops(torch.ones(2, 2))


@pytest.mark.parametrize("widths", [[64, 128, 10], [5, 3], [7, 2, 9, 4]])
def test_mlp_flops__matches_flop_counter(widths: list[int]) -> None:
    """与 FlopCounterMode 数一遍真的前向相同。"""
    network, x = _network(widths), torch.ones(6, widths[0])
    assert mlp_flops(widths, 6) == count_flops(lambda: network(x))


def test_mlp_flops__equals_worked_example() -> None:
    """64–128–10，批量 32：2·32·(64·128 + 128·10) = 606208。"""
    assert mlp_flops([64, 128, 10], 32) == 2 * 32 * (8192 + 1280) == 606208


def test_mlp_flops__rejects_bad_input() -> None:
    """宽度不够两项、不是正整数，批量不是正整数时报错。"""
    for widths in ([], [3]):
        with pytest.raises(ValueError, match="widths 至少"):
            mlp_flops(widths, 1)
    with pytest.raises(ValueError, match="widths 的每一项"):
        mlp_flops([3, 0], 1)
    with pytest.raises(ValueError, match="batch"):
        mlp_flops([3, 2], 0)


def test_require_widths__rejects_bad_input() -> None:
    """至少两项，都是正整数。"""
    require_widths([1, 1])
    with pytest.raises(ValueError, match="widths 至少"):
        require_widths([1])
    with pytest.raises(ValueError, match="widths 的每一项"):
        require_widths([1, 2.0])


@pytest.mark.parametrize("widths", [[64, 128, 10], [5, 3], [7, 2, 9, 4]])
def test_mlp_training_flops__matches_flop_counter(widths: list[int]) -> None:
    """与 FlopCounterMode 数一遍真的前向加反向相同，输入要不要梯度都对。"""
    network = _network(widths)
    for input_gradient in (False, True):
        x = torch.ones(6, widths[0], requires_grad=input_gradient)
        actual = mlp_training_flops(widths, 6, input_gradient)
        assert actual == count_flops(lambda: network(x).sum().backward())  # noqa: B023


def test_mlp_training_flops__equals_worked_example() -> None:
    """64–128–10，批量 32：输入要梯度是前向的三倍，不要是 1294336，约 2.135 倍。"""
    forward = mlp_flops([64, 128, 10], 32)
    assert mlp_training_flops([64, 128, 10], 32, True) == 3 * forward == 1818624
    partial = mlp_training_flops([64, 128, 10], 32, False)
    assert partial == 1294336
    assert round(partial / forward, 3) == 2.135


def test_mlp_training_flops__rejects_bad_input() -> None:
    """input_gradient 必须是布尔值，其余同 mlp_flops。"""
    with pytest.raises(ValueError, match="input_gradient"):
        mlp_training_flops([3, 2], 1, 1)
    with pytest.raises(ValueError, match="batch"):
        mlp_training_flops([3, 2], -1, True)


@pytest.mark.parametrize("widths", [[100, 50, 50, 1], [2, 3, 5, 7, 11], [4, 6]])
def test_accumulation_multiplications__matches_flop_counter(widths: list[int]) -> None:
    """真的按两种次序连乘稠密矩阵，浮点运算恰是乘法次数的两倍。"""
    factors = [torch.ones(b, a) for a, b in pairwise(widths)]

    def forward() -> None:
        product = factors[0]
        for factor in factors[1:]:
            product = factor @ product

    def reverse() -> None:
        product = factors[-1]
        for factor in factors[-2::-1]:
            product = product @ factor

    for mode, run in (("forward", forward), ("reverse", reverse)):
        assert 2 * accumulation_multiplications(widths, mode) == count_flops(run)


def test_accumulation_multiplications__equals_worked_example() -> None:
    """100–50–50–1：从输出乘起 7500 次，从输入乘起 255000 次，差 34 倍；倒过来正好对调。"""
    assert accumulation_multiplications([100, 50, 50, 1], "reverse") == 7500
    assert accumulation_multiplications([100, 50, 50, 1], "forward") == 255000 == 34 * 7500
    assert accumulation_multiplications([1, 50, 50, 100], "forward") == 7500


def test_accumulation_multiplications__rejects_bad_input() -> None:
    """次序不认识、宽度不对时报错。"""
    with pytest.raises(ValueError, match="mode 必须"):
        accumulation_multiplications([2, 3], "backward")
    with pytest.raises(ValueError, match="widths"):
        accumulation_multiplications([2], "forward")
