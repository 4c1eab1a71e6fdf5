"""逐通道的矩与它们的合并的检验。"""

from collections.abc import Callable
from statistics import fmean, pvariance
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from formulary.ddp.moments import (
    local_moments,
    merge_moments,
    moments_by_sums,
    moments_over_ranks,
    sum_over_ranks,
)

Ranks = Callable[..., list[Any]]


def _data(rows: int, channels: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.arange(1.0, channels + 1, dtype=torch.float64)
    return scale * torch.randn(rows, channels, dtype=torch.float64, generator=generator) + scale**2


def test_sum_over_ranks__matches_python_sum(ranks: Ranks) -> None:
    """三个 rank 的张量之和，每个 rank 都得到，自己的那份不变；没有进程组时就是它自己。"""
    parts = [_data(2, 3, seed) for seed in range(3)]

    def total() -> tuple[Tensor, Tensor]:
        own = parts[dist.get_rank()].clone()
        return sum_over_ranks(own), own

    for (summed, own), part in zip(ranks(3, total), parts, strict=True):
        torch.testing.assert_close(summed, parts[0] + parts[1] + parts[2])
        torch.testing.assert_close(own, part)
    torch.testing.assert_close(sum_over_ranks(parts[0]), parts[0])


def test_local_moments__matches_statistics_module() -> None:
    """均值与离差平方和同 Python 的 statistics 模块逐通道算的相同。"""
    x = _data(6, 3)
    count, mean, squares = local_moments(x)
    columns = x.T.tolist()
    assert count.item() == 6
    torch.testing.assert_close(mean.tolist(), [fmean(column) for column in columns])
    torch.testing.assert_close(squares.tolist(), [6 * pvariance(column) for column in columns])


def test_local_moments__is_zero_without_rows() -> None:
    """没有行时样本数、均值、离差平方和都是 0，不出现 NaN。"""
    count, mean, squares = local_moments(torch.empty(0, 2, dtype=torch.float64))
    assert count == 0
    assert mean.tolist() == squares.tolist() == [0.0, 0.0]


def test_local_moments__rejects_bad_input() -> None:
    """整数张量与一维张量都报错。"""
    for bad in (torch.ones(3, 2, dtype=torch.int64), torch.ones(3)):
        with pytest.raises(ValueError, match="x "):
            local_moments(bad)


def test_merge_moments__matches_var_mean_of_all_rows() -> None:
    """四片大小不同的数据合并后，与拼在一起用 torch.var_mean 算的相同；空的一片不起作用。"""
    shards = [_data(rows, 3, rows) for rows in (5, 1, 0, 8)]
    merged = merge_moments(*map(torch.stack, zip(*map(local_moments, shards), strict=True)))
    variance, mean = torch.var_mean(torch.cat(shards), dim=0, correction=0)
    assert merged[0] == 14
    for x in shards:  # 推导的第二行：一片对全体均值的离差平方和
        count, own_mean, squares = local_moments(x)
        expected = squares + count * (own_mean - mean) ** 2
        torch.testing.assert_close((x - mean).square().sum(dim=0), expected)
    torch.testing.assert_close(merged[1], mean)
    torch.testing.assert_close(merged[2], 14 * variance)


def test_merge_moments__equals_worked_example() -> None:
    """文中手算：{0, 2} 与 {4, 6, 8} 合并，均值 4，离差平方和 40，方差 8。"""
    n, mean, squares = merge_moments(
        torch.tensor([2.0, 3.0]), torch.tensor([[1.0], [6.0]]), torch.tensor([[2.0], [8.0]])
    )
    assert (n.item(), mean.item(), squares.item()) == (5, 4, 40)


def test_merge_moments__is_accurate_with_large_mean() -> None:
    """数据平移 10⁸ 之后合并出的方差仍与平移前的一致到 1e-8；平方的均值减均值的平方已全错。"""
    shards = [_data(rows, 3, rows) for rows in (50, 70)]
    expected = torch.cat(shards).var(dim=0, correction=0)
    shifted = [x + 1e8 for x in shards]
    n, _, squares = merge_moments(*map(torch.stack, zip(*map(local_moments, shifted), strict=True)))
    # 平移本身把数据舍入到 1.5e-8 的倍数，方差的相对误差因此在 1e-8 上下
    torch.testing.assert_close(squares / n, expected, rtol=1e-7, atol=0)
    _, _, naive = moments_by_sums(torch.cat(shifted))
    assert (naive - expected).abs().max() > 0.1


def test_merge_moments__rejects_bad_input() -> None:
    """形状对不上、样本数为负或全为 0 时报错。"""
    two = torch.ones(2)
    with pytest.raises(ValueError, match="means"):
        merge_moments(two, torch.ones(3, 1), torch.ones(3, 1))
    with pytest.raises(ValueError, match="squares"):
        merge_moments(two, torch.ones(2, 1), torch.ones(2, 2))
    for counts in (torch.tensor([2.0, -1.0]), torch.zeros(2)):
        with pytest.raises(ValueError, match="counts"):
            merge_moments(counts, torch.ones(2, 1), torch.ones(2, 1))


@pytest.mark.parametrize("sizes", [(5, 7), (3, 0, 4)])
def test_moments_over_ranks__matches_var_mean_of_all_rows(
    ranks: Ranks, sizes: tuple[int, ...]
) -> None:
    """各 rank 的行数不同、甚至有一个为空，得到的都是拼在一起的矩，各 rank 逐位相同。"""
    shards = [_data(rows, 4, rows) for rows in sizes]
    results = ranks(
        len(sizes),
        lambda: (
            moments_over_ranks(shards[dist.get_rank()]),
            moments_by_sums(shards[dist.get_rank()]),
        ),
    )
    variance, mean = torch.var_mean(torch.cat(shards), dim=0, correction=0)
    for merged, summed in results:
        for n, actual_mean, actual_variance in (
            (merged[0], merged[1], merged[2] / sum(sizes)),
            summed,
        ):
            assert n.item() == sum(sizes)
            torch.testing.assert_close(actual_mean, mean)
            torch.testing.assert_close(actual_variance, variance)
        assert all(map(torch.equal, merged, results[0][0]))


def test_moments_by_sums__matches_statistics_module(ranks: Ranks) -> None:
    """两个 rank 各拿一半，得到的均值与方差同 statistics 模块在全体上算的相同。"""
    x = _data(9, 2, 3)
    results = ranks(2, lambda: moments_by_sums(x[:4] if dist.get_rank() == 0 else x[4:]))
    for n, mean, variance in results:
        assert n.item() == 9
        torch.testing.assert_close(mean.tolist(), [fmean(column) for column in x.T.tolist()])
        torch.testing.assert_close(
            variance.tolist(), [pvariance(column) for column in x.T.tolist()]
        )


def test_moments_by_sums__equals_worked_example() -> None:
    """文中手算：0、2、4、6、8 的和 20、平方和 120，方差 24 − 16 = 8。"""
    n, mean, variance = moments_by_sums(torch.tensor([[0.0], [2.0], [4.0], [6.0], [8.0]]))
    assert (n.item(), mean.item(), variance.item()) == (5, 4, 8)


def test_moments_by_sums__differs_from_variance_of_shifted_float32() -> None:
    """文中的例子：float32，均值 4096、方差 1 的数据，平方的均值减均值的平方偏差超过一半。"""
    generator = torch.Generator().manual_seed(0)
    x = 4096 + torch.randn(1024, 1, generator=generator)
    exact = x.double().var(dim=0, correction=0)
    _, _, naive = moments_by_sums(x)
    n, _, squares = moments_over_ranks(x)
    assert (naive - exact).abs() > 0.5
    assert (squares / n - exact).abs() < 1e-4


def test_moments_by_sums__rejects_bad_input() -> None:
    """整数张量、一维张量、全体没有样本时报错。"""
    for bad in (torch.ones(3, 2, dtype=torch.int64), torch.ones(3)):
        with pytest.raises(ValueError, match="x "):
            moments_by_sums(bad)
    with pytest.raises(ValueError, match="没有样本"):
        moments_by_sums(torch.empty(0, 2))
