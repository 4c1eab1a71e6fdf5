"""不同步的批归一化差多少的检验。"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from formulary.ddp.batch_norm_gap import (
    batch_norm_gap_variances,
    expected_batch_norm_gap,
    local_batch_norm_gap,
)


def _shards(sizes: tuple[int, ...], channels: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(rows, channels, dtype=torch.float64, generator=generator) + rows
        for rows in sizes
    ]


def test_local_batch_norm_gap__matches_batch_norm_in_real_ranks(
    ranks: Callable[..., list[Any]],
) -> None:
    """两个进程各用自己的 nn.BatchNorm1d，与全体一起过一个 nn.BatchNorm1d 的差，逐元素相同。"""
    shards = _shards((5, 7))
    local = ranks(2, lambda: nn.BatchNorm1d(3).double()(shards[dist.get_rank()].detach()).detach())
    whole = nn.BatchNorm1d(3).double()(torch.cat(shards)).detach().split((5, 7))
    for actual, own, all_rows in zip(local_batch_norm_gap(shards), local, whole, strict=True):
        torch.testing.assert_close(actual, own - all_rows)


def test_local_batch_norm_gap__is_zero_for_equal_shards() -> None:
    """各 rank 的数据完全相同时没有差别。"""
    x = _shards((6,))[0]
    for gap in local_batch_norm_gap([x, x, x]):
        torch.testing.assert_close(gap, torch.zeros_like(x))


def test_local_batch_norm_gap__equals_worked_example() -> None:
    """文中手算：{0, 2} 与 {4, 6, 8}，不计 ε，rank 0 的差是 √2 − 1 与 1 + √2 ÷ 2。"""
    shards = [torch.tensor([[0.0], [2.0]]).double(), torch.tensor([[4.0], [6.0], [8.0]]).double()]
    first, second = local_batch_norm_gap(shards, eps=1e-30)
    torch.testing.assert_close(first.flatten().tolist(), [2**0.5 - 1, 1 + 0.5**0.5])
    torch.testing.assert_close(
        second.flatten().tolist(), [-(1.5**0.5), -(0.5**0.5), 1.5**0.5 - 2**0.5]
    )


def test_local_batch_norm_gap__rejects_bad_input() -> None:
    """空列表、空的一片、整数张量、不为正的 eps 都报错。"""
    with pytest.raises(ValueError, match="shards 至少"):
        local_batch_norm_gap([])
    with pytest.raises(ValueError, match="至少要有一行"):
        local_batch_norm_gap([torch.ones(2, 1), torch.ones(0, 1)])
    with pytest.raises(ValueError, match="x "):
        local_batch_norm_gap([torch.ones(2, 1, dtype=torch.int64)])
    with pytest.raises(ValueError, match="eps"):
        local_batch_norm_gap([torch.ones(2, 1)], eps=0.0)


@pytest.mark.parametrize("world_size", [2, 8])
def test_expected_batch_norm_gap__matches_monte_carlo(world_size: int) -> None:
    """B = 256 的标准正态数据上，差的均方与公式的平方相符，在 5 个标准误加 2/B 的余量之内。

    1500 个通道，标准误约百分之二：系数 3/2 换成 1 或 2 会被发现。
    """
    batch, channels = 256, 1500
    generator = torch.Generator().manual_seed(world_size)
    x = torch.randn(world_size * batch, channels, dtype=torch.float64, generator=generator)
    gaps = torch.cat(local_batch_norm_gap(list(x.split(batch)), eps=1e-12))
    squares = gaps.square().mean(dim=0)  # 每个通道一次独立的试验
    error = 5 * squares.std() / channels**0.5
    expected = expected_batch_norm_gap(batch, world_size) ** 2
    assert error < 0.2 * expected
    assert (squares.mean() - expected).abs() < error + 2 / batch * expected


@pytest.mark.parametrize("world_size", [2, 8])
def test_batch_norm_gap_variances__matches_monte_carlo(world_size: int) -> None:
    """B = 128 的标准正态数据上，两个方差都在 5 个标准误加 2/B 的余量内；系数差三成会被发现。"""
    batch, channels = 128, 5000
    generator = torch.Generator().manual_seed(world_size)
    x = torch.randn(world_size, batch, channels, dtype=torch.float64, generator=generator)
    whole = x.flatten(0, 1)
    found = (
        x.mean(dim=1) - whole.mean(dim=0),
        x.std(dim=1, correction=0) - whole.std(dim=0, correction=0),
    )
    for gap, expected in zip(found, batch_norm_gap_variances(batch, world_size), strict=True):
        squares = gap.square().mean(dim=0)
        error = 5 * squares.std() / channels**0.5
        assert error < 0.15 * expected
        assert (squares.mean() - expected).abs() < error + 2 / batch * expected


def test_batch_norm_gap_variances__equals_worked_example() -> None:
    """B = 32、N = 8：7/256 与它的一半。"""
    torch.testing.assert_close(batch_norm_gap_variances(32, 8), (7 / 256, 7 / 512))


def test_batch_norm_gap_variances__rejects_bad_input() -> None:
    """批量小于 2 或进程数不是正整数时报错。"""
    with pytest.raises(ValueError, match="batch"):
        batch_norm_gap_variances(1, 4)
    with pytest.raises(ValueError, match="world_size"):
        batch_norm_gap_variances(4, 0)


def test_expected_batch_norm_gap__equals_worked_example() -> None:
    """文中的数：8 个 rank，每个 rank 2、8、32、128 个样本。"""
    values = [round(expected_batch_norm_gap(batch, 8), 2) for batch in (2, 8, 32, 128)]
    assert values == [0.81, 0.41, 0.2, 0.1]


def test_expected_batch_norm_gap__limit_one_rank() -> None:
    """只有一个 rank 时本地的就是全体的，没有差别。"""
    assert expected_batch_norm_gap(16, 1) == 0


def test_expected_batch_norm_gap__rejects_bad_input() -> None:
    """批量小于 2 或进程数不是正整数时报错。"""
    with pytest.raises(ValueError, match="batch"):
        expected_batch_norm_gap(1, 4)
    with pytest.raises(ValueError, match="world_size"):
        expected_batch_norm_gap(4, 0)
