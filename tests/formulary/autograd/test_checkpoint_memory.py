"""检查点内存公式的检验：每一种段数都与实际存的字节数相等。"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint_sequential

from formulary.autograd.checkpoint_memory import (
    checkpoint_bytes,
    checkpoint_optimum,
    checkpoint_peak_bytes,
    recomputed_layers,
    segment_lengths,
)
from formulary.autograd.checkpointing import checkpointed_chain
from formulary.autograd.saved_tensors import peak_saved_bytes, saved_bytes


def _network(layers: int, width: int, batch: int) -> tuple[nn.Sequential, Tensor]:
    net = nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(layers)))
    x = torch.zeros(batch, width, dtype=torch.float64, requires_grad=True)
    return net.double(), x


def _counted(i: int, calls: list[int]) -> Callable[[Tensor], Tensor]:
    """一层正弦，调用时记下自己的编号。"""

    def layer(x: Tensor) -> Tensor:
        calls.append(i)
        return x.sin()

    return layer


def _checkpointed_bytes(net: nn.Sequential, x: Tensor, segments: int, weights: bool) -> int:
    ignore = [] if weights else net.parameters()
    return saved_bytes(lambda: checkpoint_sequential(net, segments, x, use_reentrant=False), ignore)


def test_checkpoint_bytes__matches_saved_bytes() -> None:
    """12 与 16 层、每一种段数、计与不计权重：与 saved_tensors_hooks 数出的逐字节相等。"""
    width, batch = 6, 14  # 权重 288 B，激活 672 B，两者不成简单的倍数
    for layers in (12, 16):
        net, x = _network(layers, width, batch)
        a, w = 8 * batch * width, 8 * width * width
        for segments in range(1, layers + 1):
            for weights, layer in ((True, a + w), (False, a)):
                actual = _checkpointed_bytes(net, x, segments, weights)
                assert actual == checkpoint_bytes(layers, segments, a, layer)


def test_checkpoint_bytes__equals_article_example() -> None:
    """16 层 256→256、B = 512、float64：s = 1, 2, 4, 8, 16 时 25, 14, 10, 11, 17.5 MiB。"""
    net, x = _network(16, 256, 512)
    mebibyte = 2**20
    expected = {1: 25.0, 2: 14.0, 4: 10.0, 8: 11.0, 16: 17.5}
    for segments, size in expected.items():
        assert checkpoint_bytes(16, segments, mebibyte, 3 * mebibyte // 2) == size * mebibyte
        assert _checkpointed_bytes(net, x, segments, weights=True) == size * mebibyte
    for segments, size in {1: 17, 2: 10, 4: 8, 8: 10, 16: 17}.items():
        assert checkpoint_bytes(16, segments, mebibyte, mebibyte) == size * mebibyte
    assert _checkpointed_bytes(net, x, 4, weights=False) == 8 * mebibyte


def test_checkpoint_bytes__differs_from_even_division() -> None:
    """9 段时 16 层除不尽，零头全归最后一段：21 MiB，比按 9 + 24/9 估的 11.7 MiB 多出近一倍。"""
    assert checkpoint_bytes(16, 9, 2, 3) / 2 == 21
    assert round(9 + 24 / 9, 1) == 11.7


def test_checkpoint_bytes__rejects_bad_input() -> None:
    """不是正整数、段数多于层数时报错。"""
    for arguments, name in (
        ((0, 1, 1, 1), "layers"),
        ((4, 0, 1, 1), "segments"),
        ((4, 5, 1, 1), "segments 不能超过层数 4"),
        ((4, 2, 0, 1), "boundary"),
        ((4, 2, 1, 1.5), "layer"),
    ):
        with pytest.raises(ValueError, match=name):
            checkpoint_bytes(*arguments)


def test_segment_lengths__matches_checkpoint_sequential() -> None:
    """第一次调用各层时，从重算的次序读出 checkpoint_sequential 的分段，与之相同。"""
    for segments in range(1, 8):
        calls: list[int] = []
        functions = [_counted(i, calls) for i in range(7)]
        x = torch.ones(1, requires_grad=True)
        checkpoint_sequential(functions, segments, x, use_reentrant=False).sum().backward()
        recomputed = calls[7:]
        starts = [i for k, i in enumerate(recomputed) if k == 0 or i != recomputed[k - 1] + 1]
        starts = sorted([*starts, len(recomputed)])  # 最后一段从没有重算的第一层开始
        expected = [b - a for a, b in zip(starts, [*starts[1:], 7], strict=True)]
        assert segment_lengths(7, segments) == expected


def test_segment_lengths__equals_examples() -> None:
    """16 层分 4 段各 4 层；分 6 段是五个 2 层与一个 6 层；总和总是层数。"""
    assert segment_lengths(16, 4) == [4, 4, 4, 4]
    assert segment_lengths(16, 6) == [2, 2, 2, 2, 2, 6]
    assert all(sum(segment_lengths(16, s)) == 16 for s in range(1, 17))


def test_segment_lengths__rejects_too_many_segments() -> None:
    """段数多于层数时报错。"""
    with pytest.raises(ValueError, match="segments"):
        segment_lengths(3, 4)


def test_checkpoint_optimum__matches_grid_search() -> None:
    """在很密的网格上找 sa + Lc/s 的最小值。"""
    s = torch.linspace(0.5, 30, 295_001, dtype=torch.float64)
    values = 2.0 * s + 40 * 7.0 / s
    best, size = checkpoint_optimum(40, boundary=2.0, layer=7.0)
    assert abs(s[values.argmin()] - best) <= 1e-4  # 网格的间距
    torch.testing.assert_close(torch.tensor(size).double(), values.min(), rtol=1e-6, atol=0)


def test_checkpoint_optimum__equals_article_example() -> None:
    """L = 16、c = 1.5a：s* = √24 ≈ 4.90，M* = 4√6 ≈ 9.80；c = a 时 4 段、8 份。"""
    best, size = checkpoint_optimum(16, 1.0, 1.5)
    assert (round(best, 2), round(size, 2)) == (4.9, 9.8)
    assert math.isclose(size, 4 * math.sqrt(6))
    assert checkpoint_optimum(16, 1.0, 1.0) == (4.0, 8.0)


def test_checkpoint_optimum__bounds_integer_segments() -> None:
    """整数段数的内存都不小于它。"""
    for layers in (7, 16, 30):
        size = checkpoint_optimum(layers, 3.0, 5.0)[1]
        assert all(checkpoint_bytes(layers, s, 3, 5) >= size for s in range(1, layers + 1))


def test_checkpoint_optimum__rejects_bad_sizes() -> None:
    """大小不是正数时报错。"""
    for arguments, name in (
        ((0, 1.0, 1.0), "layers"),
        ((4, 0.0, 1.0), "boundary"),
        ((4, 1.0, -1.0), "layer"),
    ):
        with pytest.raises(ValueError, match=name):
            checkpoint_optimum(*arguments)


def test_checkpoint_peak_bytes__matches_measured_peak() -> None:
    """前向与反向全程记账，各种长短的段，峰值逐字节相等。"""
    net, x = _network(15, 6, 14)
    a, w = 8 * 14 * 6, 8 * 6 * 6
    for lengths in (
        [5, 4, 3, 2, 1],
        [3] * 5,
        [1, 2, 3, 4, 5],
        [15],
        [1] * 15,
        [7, 1, 7],
        [2, 12, 1],
    ):

        def step(lengths: list[int] = lengths) -> None:
            checkpointed_chain(list(net), x, lengths, reentrant=True).sum().backward()

        assert peak_saved_bytes(step) == checkpoint_peak_bytes(lengths, a, a + w)
        assert peak_saved_bytes(step, net.parameters()) == checkpoint_peak_bytes(lengths, a, a)


def test_checkpoint_peak_bytes__equals_exercise() -> None:
    """15 层、c = a：等长五段是 8 份，5、4、3、2、1 是 6 份，反过来 1、2、3、4、5 是 10 份。"""
    assert checkpoint_peak_bytes([3] * 5, 1, 1) == 8
    assert checkpoint_peak_bytes([5, 4, 3, 2, 1], 1, 1) == 6
    assert checkpoint_peak_bytes([1, 2, 3, 4, 5], 1, 1) == 10


def test_checkpoint_peak_bytes__bounds_every_partition() -> None:
    """穷举 15 层的全部 2¹⁴ 种分法，没有一种低于 6 份。"""
    best = math.inf
    for cuts in range(2**14):
        lengths, run = [], 1
        for i in range(14):
            if cuts >> i & 1:
                lengths.append(run)
                run = 0
            run += 1
        best = min(best, max(k + n for k, n in enumerate([*lengths, run], start=1)))
    assert best == 6 == checkpoint_peak_bytes([5, 4, 3, 2, 1], 1, 1)


def test_checkpoint_peak_bytes__rejects_bad_input() -> None:
    """没有段、段长或大小不是正整数时报错。"""
    for arguments, name in (
        (([], 1, 1), "lengths"),
        (([2, 0], 1, 1), "lengths 的每一项"),
        (([2], 0, 1), "boundary"),
        (([2], 1, 0), "layer"),
    ):
        with pytest.raises(ValueError, match=name):
            checkpoint_peak_bytes(*arguments)


def test_recomputed_layers__matches_counted_calls() -> None:
    """数各层被调用的次数：比层数多出来的就是重算的。"""
    for segments in range(1, 11):
        calls: list[int] = []
        functions = [_counted(i, calls) for i in range(10)]
        x = torch.ones(1, requires_grad=True)
        checkpoint_sequential(functions, segments, x, use_reentrant=False).sum().backward()
        assert recomputed_layers(10, segments) == len(calls) - 10


def test_recomputed_layers__equals_share_of_equal_segments() -> None:
    """等分时重算的比例是 (s − 1)/s：16 层是 0, 8, 12, 14, 15。"""
    assert [recomputed_layers(16, s) for s in (1, 2, 4, 8, 16)] == [0, 8, 12, 14, 15]


def test_recomputed_layers__rejects_too_many_segments() -> None:
    """段数多于层数时报错。"""
    with pytest.raises(ValueError, match="segments"):
        recomputed_layers(3, 4)


def test_checkpoint_peak_bytes__equals_decreasing_budget() -> None:
    """预算 m 份：段长 m − 1, …, 1 的峰值恰是 m，共 m(m − 1)/2 层；m = 5 时只有 10 层。"""
    for m in range(2, 12):
        lengths = list(range(m - 1, 0, -1))
        assert checkpoint_peak_bytes(lengths, 1, 1) == m
        assert sum(lengths) == m * (m - 1) // 2
    assert sum(range(1, 5)) == 10
