"""DistributedSampler 的下标、重数，以及评估时的补齐。"""

import math

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DistributedSampler

from formulary.ddp.sampling import (
    gathered_mean,
    index_multiplicities,
    padded_mean,
    sampler_indices,
)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _all(length: int, world_size: int, **options) -> list[list[int]]:
    return [sampler_indices(length, world_size, rank, **options) for rank in range(world_size)]


def test_sampler_indices__matches_distributed_sampler() -> None:
    """L 从 1 到 23，N 从 1 到 6，全部 rank，打乱与否、丢尾与否，都与 DistributedSampler 相同。"""
    for length in range(1, 24):
        for world_size in range(1, 7):
            for shuffle in (True, False):
                for drop_last in (True, False):
                    for rank in range(world_size):
                        sampler = DistributedSampler(
                            range(length), world_size, rank, shuffle, 3, drop_last
                        )
                        sampler.set_epoch(2)
                        actual = sampler_indices(length, world_size, rank, 3, 2, shuffle, drop_last)
                        assert actual == list(sampler)


def test_sampler_indices__equals_worked_example() -> None:
    """文中的例子：10 个样本分给 3 个 rank，补齐与丢尾；2 个样本分给 5 个。"""
    assert _all(10, 3, shuffle=False) == [[0, 3, 6, 9], [1, 4, 7, 0], [2, 5, 8, 1]]
    dropped = _all(10, 3, shuffle=False, drop_last=True)
    assert dropped == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    assert _all(2, 5, shuffle=False) == [[0], [1], [0], [1], [0]]
    assert _all(2, 5, shuffle=False, drop_last=True) == [[]] * 5


def test_sampler_indices__is_the_global_batch_of_one_process() -> None:
    """N 整除批量时，各 rank 的第 b 批合起来恰是单进程同一排列的第 b 批。"""
    order = torch.randperm(24, generator=_generator(5 + 2)).tolist()
    parts = _all(24, 4, seed=5, epoch=2)
    for b in range(3):
        together = {index for part in parts for index in part[2 * b : 2 * b + 2]}
        assert together == set(order[8 * b : 8 * b + 8])


def test_sampler_indices__depends_only_on_seed_plus_epoch() -> None:
    """忘了 set_epoch，每轮的次序相同；设了就不同。种子加一与轮数加一是一回事。"""
    sampler = DistributedSampler(range(20), 2, 0)
    assert list(sampler) == list(sampler) == sampler_indices(20, 2, 0)
    epochs = [sampler_indices(20, 2, 0, epoch=epoch) for epoch in range(5)]
    assert len(set(map(tuple, epochs))) == 5
    assert sampler_indices(20, 2, 1, seed=0, epoch=1) == sampler_indices(20, 2, 1, seed=1, epoch=0)


def test_sampler_indices__differs_from_seeding_each_rank() -> None:
    """各 rank 用自己的种子，就不再是一个划分：有的样本重复，有的没人读。"""
    parts = [sampler_indices(12, 3, rank, seed=rank) for rank in range(3)]
    assert len({index for part in parts for index in part}) < 12
    parts = [sampler_indices(12, 3, rank) for rank in range(3)]
    assert len({index for part in parts for index in part}) == 12


def test_sampler_indices__rejects_bad_input() -> None:
    """样本数、进程数不是正整数，或 rank 越界时报错。"""
    for arguments, name in (
        ((0, 2, 0), "length"),
        ((4, 0, 0), "world_size"),
        ((4, 2, 2), "rank 必须小于"),
        ((4, 2, -1), "rank"),
        ((4, 2, 0.0), "rank"),
    ):
        with pytest.raises(ValueError, match=name):
            sampler_indices(*arguments)


@given(st.integers(1, 40), st.integers(1, 9), st.booleans())
def test_index_multiplicities__matches_counting(
    length: int, world_size: int, drop_last: bool
) -> None:
    """与把各 rank 的 DistributedSampler 读一遍、逐个数出来的相同。"""
    seen = [
        index
        for rank in range(world_size)
        for index in DistributedSampler(
            range(length), world_size, rank, shuffle=False, drop_last=drop_last
        )
    ]
    expected = [seen.count(index) for index in range(length)]
    assert index_multiplicities(length, world_size, drop_last) == expected


@given(st.integers(1, 40), st.integers(1, 9))
def test_index_multiplicities__bounds_by_one_extra_copy(length: int, world_size: int) -> None:
    """补齐时人人至少出现一次，相差至多一次，总和是 N 的最小的够用倍数。"""
    counts = index_multiplicities(length, world_size)
    total = sum(counts)
    assert 1 <= min(counts) <= max(counts) <= min(counts) + 1
    assert max(counts) == math.ceil(total / length)
    assert total % world_size == 0
    assert length <= total < length + world_size
    dropped = sum(index_multiplicities(length, world_size, drop_last=True))
    assert dropped == length - length % world_size


def test_index_multiplicities__equals_worked_example() -> None:
    """10 个样本、4 个 rank：前两个各两次；2 个样本、5 个 rank：3 次与 2 次。"""
    assert index_multiplicities(10, 4) == [2, 2] + [1] * 8
    assert index_multiplicities(2, 5) == [3, 2]
    assert index_multiplicities(10, 4, drop_last=True) == [1] * 8 + [0, 0]


def test_index_multiplicities__rejects_bad_input() -> None:
    """样本数、进程数不是正整数时报错。"""
    with pytest.raises(ValueError, match="length"):
        index_multiplicities(0, 2)
    with pytest.raises(ValueError, match="world_size"):
        index_multiplicities(3, 1.5)


@pytest.mark.parametrize("world_size", [2, 4])
def test_padded_mean__matches_averaging_the_ranks(ranks, world_size: int) -> None:
    """与各 rank 用 DistributedSampler 读自己的样本、求平均、再 all_reduce 平均的相同。"""
    values = torch.rand(9, dtype=torch.float64, generator=_generator())

    def mean() -> float:
        sampler = DistributedSampler(values, shuffle=False)
        total = torch.stack([values[i] for i in sampler]).mean()
        dist.all_reduce(total)
        return total.item() / world_size

    for expected in ranks(world_size, mean):
        torch.testing.assert_close(padded_mean(values, world_size).item(), expected)
        assert abs(expected - values.mean().item()) > 1e-3


def test_padded_mean__equals_worked_example() -> None:
    """文中的例子：10 个样本错了前两个，4 个 rank 补齐之后 8/10 成了 8/12。练习里 3/5 成了 5/8。"""
    correct = torch.tensor([0.0, 0.0] + [1.0] * 8, dtype=torch.float64)
    torch.testing.assert_close(padded_mean(correct, 4).item(), 8 / 12)
    torch.testing.assert_close(padded_mean(correct, 5).item(), 8 / 10)
    correct = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(padded_mean(correct, 4).item(), 5 / 8)


def test_padded_mean__rejects_bad_input() -> None:
    """指标不是一维浮点张量，进程数不是正整数时报错。"""
    with pytest.raises(ValueError, match="values"):
        padded_mean(torch.ones(2, 2), 2)
    with pytest.raises(ValueError, match="world_size"):
        padded_mean(torch.ones(2), 0)


@pytest.mark.parametrize("world_size", [2, 4])
def test_gathered_mean__matches_single_process(ranks, world_size: int) -> None:
    """不补齐地分片，各 rank 个数不同（有的是 0），得到全体的平均。"""
    for length in (9, 3):
        values = torch.rand(length, dtype=torch.float64, generator=_generator(length))
        expected = sum(values.tolist()) / length

        def mean(values: torch.Tensor = values) -> float:
            return gathered_mean(values[dist.get_rank() :: dist.get_world_size()]).item()

        for actual in ranks(world_size, mean):
            torch.testing.assert_close(actual, expected)


def test_gathered_mean__equals_worked_example(ranks) -> None:
    """文中的例子：10 个样本错了前两个，4 个 rank 报出 8/10；结果的类型同输入。"""

    def mean() -> tuple[float, torch.dtype]:
        correct = torch.tensor([0.0, 0.0] + [1.0] * 8)
        found = gathered_mean(correct[dist.get_rank() :: 4])
        return round(found.item(), 6), found.dtype

    assert ranks(4, mean) == [(0.8, torch.float32)] * 4


def test_gathered_mean__rejects_no_samples(ranks) -> None:
    """指标不是一维浮点张量，或每个 rank 都没有样本时报错。"""
    with pytest.raises(ValueError, match="values"):
        gathered_mean(torch.tensor(1.0))

    def message() -> str:
        with pytest.raises(ValueError, match="values") as error:
            gathered_mean(torch.ones(0))
        return str(error.value)

    assert set(ranks(2, message)) == {"values 在每个 rank 上都是空的，没有可以平均的样本"}
