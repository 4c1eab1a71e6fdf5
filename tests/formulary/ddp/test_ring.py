"""环形归约：真实的点对点消息，与 gloo 的 all_reduce、逐步的手算和数出的字节对照。"""

import multiprocessing
import os
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from formulary.ddp.processes import RankError
from formulary.ddp.ring import (
    Message,
    ring_all_gather,
    ring_all_reduce,
    ring_bytes,
    ring_reduce_scatter,
    ring_snapshots,
)

from .conftest import shorten_timeout, told

Ranks = Callable[..., list[Any]]
WORLDS = (2, 3, 4)


def _normal(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(shape[-1])
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def _sum_around_ring(x: list[list[Tensor]], c: int) -> Tensor:
    """第 c 块从 rank c 起，绕着环依次相加。"""
    n = len(x)
    total = x[c][c].clone()
    for j in range(1, n):
        total = total + x[(c + j) % n][c]
    return total


@pytest.mark.parametrize("n", WORLDS)
def test_ring_all_reduce__matches_gloo(ranks: Ranks, n: int) -> None:
    """与 dist.all_reduce 相同：整除与不整除 N 的长度、短于 N 的、空的、零维的、不连续的。"""
    shapes = ((1003,), (1,), (n, 5), (2, 3, 7), (0,), ())

    def run() -> list[tuple[Tensor, Tensor]]:
        results = []
        for shape in shapes:
            mine = _normal(n, *shape)[dist.get_rank()]
            mine = mine.mT if mine.ndim == 2 else mine
            theirs = mine.clone(memory_format=torch.contiguous_format)
            dist.all_reduce(theirs)
            results.append((ring_all_reduce(mine), theirs))
        return results

    for results in ranks(n, run):
        for ours, theirs in results:
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("n", WORLDS)
def test_ring_all_reduce__matches_gloo_on_integers(ranks: Ranks, n: int) -> None:
    """int64 与 int32 的和与 dist.all_reduce 逐位相同，类型不变。"""

    def run() -> list[tuple[Tensor, Tensor]]:
        results = []
        for dtype in (torch.int64, torch.int32):
            mine = (1000 * _normal(n, 17)[dist.get_rank()]).to(dtype)
            theirs = mine.clone()
            dist.all_reduce(theirs)
            results.append((ring_all_reduce(mine), theirs))
        return results

    for results in ranks(n, run):
        for ours, theirs in results:
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs)


def test_ring_all_reduce__is_bitwise_equal_on_all_ranks(ranks: Ranks) -> None:
    """float32 的结果在四个 rank 上逐位相同，却不是每块都逐位等于按 rank 从小到大相加。"""
    x = _normal(4, 4, 250).float()
    results = ranks(4, lambda: ring_all_reduce(x[dist.get_rank()]))
    for y in results:
        assert torch.equal(y, results[0])
    in_order = ((x[0] + x[1]) + x[2]) + x[3]
    torch.testing.assert_close(results[0], in_order)
    assert torch.equal(results[0][0], in_order[0])  # 第 0 块恰好从 rank 0 加起
    assert not torch.equal(results[0][2], in_order[2])


def test_ring_all_reduce__differs_from_passing_whole_tensors(ranks: Ranks) -> None:
    """不切块、整个张量转 N − 1 步：每个 rank 发 N − 1 份；各 rank 的加法次序不同，结果末位不同。"""
    x = _normal(4, 1000).float()

    def run() -> tuple[Tensor, Tensor, int, int]:
        mine, sent = x[dist.get_rank()], list[Message]()
        ours = ring_all_reduce(mine, sent)
        right, left = (dist.get_rank() + 1) % 4, (dist.get_rank() - 1) % 4
        total, outgoing, volume = mine.clone(), mine.clone(), 0
        for _ in range(3):
            incoming = torch.empty_like(mine)
            work = dist.isend(outgoing, right)
            dist.recv(incoming, left)
            work.wait()
            volume += outgoing.nbytes
            total += incoming
            outgoing = incoming
        return ours, total, sum(message.size for message in sent), volume

    results = ranks(4, run)
    for ours, whole, sent, volume in results:
        torch.testing.assert_close(whole, ours)
        assert (sent, volume) == (6000, 12000)
        assert torch.equal(ours, results[0][0])
    assert not all(torch.equal(whole, results[0][1]) for _, whole, _, _ in results)


def test_ring_all_reduce__differs_from_adding_output_argument(ranks: Ranks) -> None:
    """教程早期的写法：缓冲区从零开始，每步加的是输出参数而不是收到的；得到的只是自己的那份。"""

    def run() -> tuple[list[float], list[float]]:
        mine, output = torch.full((2,), 1.0 + dist.get_rank()), torch.zeros(2)
        buffers, total = [torch.zeros(2), torch.zeros(2)], mine.clone()
        for i in range(2):
            work = dist.isend(buffers[i % 2], (dist.get_rank() + 1) % 3)
            dist.recv(buffers[1 - i % 2], (dist.get_rank() - 1) % 3)
            total += output
            work.wait()
        return total.tolist(), ring_all_reduce(mine).tolist()

    assert ranks(3, run) == [([k, k], [6.0, 6.0]) for k in (1.0, 2.0, 3.0)]


def test_ring_all_reduce__equals_worked_example(ranks: Ranks) -> None:
    """文中手算的三个 rank：(1, 2, 3)、(10, 20, 30)、(100, 200, 300)，结果是 (111, 222, 333)。"""
    x = torch.tensor([[1, 2, 3], [10, 20, 30], [100, 200, 300]])
    for y in ranks(3, lambda: ring_all_reduce(x[dist.get_rank()])):
        assert y.tolist() == [111, 222, 333]


def test_ring_all_reduce__preserves_input(ranks: Ranks) -> None:
    """输入不被改动，结果不带计算图，一个进程时得到副本。"""

    def run() -> tuple[bool, bool, bool]:
        x = torch.ones(5, requires_grad=True)
        y = ring_all_reduce(x)
        return torch.equal(x, torch.ones(5)), y.requires_grad, y.data_ptr() == x.data_ptr()

    assert ranks(1, run) == [(True, False, False)]
    assert ranks(3, run) == [(True, False, False)] * 3


def test_ring_all_reduce__rejects_other_shape(ranks: Ranks) -> None:
    """rank 2 的形状或类型不同：四个 rank 都在发出数据之前报错，说出是 rank 2，随后还能继续用。"""

    def run() -> tuple[list[str], int]:
        odd, sent = dist.get_rank() == 2, list[Message]()
        bad = (torch.ones(3, 4) if odd else torch.ones(4, 3), torch.ones(4 + odd))
        errors = [told(lambda x=x: ring_all_reduce(x, sent)) for x in bad]
        x = torch.ones(3, dtype=torch.float64) if odd else torch.ones(3)
        errors.append(told(lambda: ring_all_reduce(x, sent)))
        count = len(sent)
        assert ring_all_reduce(torch.ones(2)).tolist() == [4.0, 4.0]
        return errors, count

    for errors, count in ranks(4, run):
        for error in errors:
            assert error.startswith("ValueError: 各 rank 的调用必须一致：rank 2 是 ring_all_reduce")
        assert count == 0


def test_ring_all_reduce__rejects_missing_rank(ranks: Ranks) -> None:
    """rank 1 一直不来：其余的 rank 到 1 秒的期限都报错，说出是 rank 1，没有发出数据。"""
    reported = multiprocessing.get_context("fork").Semaphore(0)

    def run() -> tuple[str, int, float]:
        shorten_timeout(1.0)
        sent, start = list[Message](), time.monotonic()
        if dist.get_rank() == 1:  # 等别人都报完错，不必猜要睡多久
            assert all(reported.acquire(timeout=20) for _ in range(3))
            return "", 0, 0.0
        error = told(lambda: ring_all_reduce(torch.ones(3), sent))
        reported.release()
        return error, len(sent), time.monotonic() - start

    results = ranks(4, run)
    for rank in (0, 2, 3):
        error, count, seconds = results[rank]
        assert error.startswith("RuntimeError: 与 rank 1 的通信没有完成")
        assert count == 0
        assert 0.9 < seconds < 15


@pytest.mark.parametrize("pause", [0.0, 0.3])
def test_ring_all_reduce__rejects_rank_that_dies_midway(
    ranks: Ranks, monkeypatch: pytest.MonkeyPatch, pause: float
) -> None:
    """核对之后 rank 1 退出：它的两个邻居报错，说出是 rank 1，不论它是在登记之前还是之后断开。"""
    # 忙的机器上，邻居未必在 2 秒之内说得出来
    monkeypatch.setattr("formulary.ddp.processes.GRACE", 20.0)

    def run() -> str:
        assert ring_all_reduce(torch.ones(2)).tolist() == [4.0, 4.0]
        if dist.get_rank() == 1:
            os._exit(1)
        time.sleep(pause)
        return told(lambda: ring_all_reduce(torch.ones(3), check=False))

    with pytest.raises(RankError) as caught:
        ranks(4, lambda: _raise(run()))
    failures = caught.value.failures
    assert failures[1] == "进程没有给出结果就结束了"
    assert "与 rank 1 的通信没有完成" in failures[0]
    assert "与 rank 1 的通信没有完成" in failures[2]


def _raise(error: str) -> None:
    raise RuntimeError(error)


@pytest.mark.parametrize("n", WORLDS)
def test_ring_reduce_scatter__matches_sum_around_ring(ranks: Ranks, n: int) -> None:
    """rank r 得到第 (r + 1) mod N 块；float32 逐位等于从 rank c 起绕着环相加。"""
    x = _normal(n, n, 6).float()
    blocks = [list(mine) for mine in x]
    for r, y in enumerate(ranks(n, lambda: ring_reduce_scatter(x[dist.get_rank()]))):
        expected = _sum_around_ring(blocks, (r + 1) % n)
        torch.testing.assert_close(y, expected, rtol=0, atol=0)


@pytest.mark.parametrize("n", WORLDS)
def test_ring_reduce_scatter__equals_torch_after_roll(ranks: Ranks, n: int) -> None:
    """练习：先把块循环移一位，rank r 就得到第 r 块，与 dist.reduce_scatter_single 相同。"""
    x = _normal(n, n, 5)

    def run() -> tuple[Tensor, Tensor]:
        mine = x[dist.get_rank()]
        theirs = mine.new_empty(5)
        dist.reduce_scatter_single(theirs, mine.reshape(-1))
        return ring_reduce_scatter(mine.roll(1, dims=0)), theirs

    for ours, theirs in ranks(n, run):
        torch.testing.assert_close(ours, theirs)


def test_ring_reduce_scatter__rejects_bad_input(ranks: Ranks) -> None:
    """块数不是世界大小时每个 rank 报错；只有一个 rank 的形状不同，也是每个 rank 报错。"""

    def run() -> list[str]:
        odd = dist.get_rank() == 1
        return [
            told(lambda: ring_reduce_scatter(torch.ones(2, 5))),
            told(lambda: ring_reduce_scatter(torch.ones(3, 5 + odd))),
        ]

    for wrong, odd in ranks(3, run):
        assert wrong.startswith("ValueError: x 的第一轴必须是 3 块")
        assert "rank 1 是 ring_reduce_scatter torch.float32 (3, 6)" in odd


@pytest.mark.parametrize("n", WORLDS)
def test_ring_all_gather__matches_torch(ranks: Ranks, n: int) -> None:
    """rank r 的一块落在第 (r + 1) mod N 行，与 dist.all_gather_single 循环移一位相同。"""
    x = _normal(n, 5)

    def run() -> tuple[Tensor, Tensor]:
        mine = x[dist.get_rank()]
        theirs = mine.new_empty(n * 5)
        dist.all_gather_single(theirs, mine)
        return ring_all_gather(mine), theirs.view(n, 5).roll(1, dims=0)

    for ours, theirs in ranks(n, run):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
        for r in range(n):
            torch.testing.assert_close(ours[(r + 1) % n], x[r], rtol=0, atol=0)


def test_ring_all_gather__equals_inverse_of_reduce_scatter(ranks: Ranks) -> None:
    """归约散布之后全收集，就是全归约；两半各发 N − 1 条消息。"""
    x = _normal(4, 4, 3)

    def run() -> tuple[Tensor, list[Message], list[Message]]:
        first, second = list[Message](), list[Message]()
        own = ring_reduce_scatter(x[dist.get_rank()], first)
        return ring_all_gather(own, second), first, second

    for r, (y, first, second) in enumerate(ranks(4, run)):
        torch.testing.assert_close(y, x[0] + x[1] + x[2] + x[3])
        assert first == [((r - s) % 4, 24) for s in range(3)]
        assert second == [((r + 1 - s) % 4, 24) for s in range(3)]


def test_ring_all_gather__rejects_bad_input(ranks: Ranks) -> None:
    """不是一维的，或各 rank 的长度不同，每个 rank 都报错。"""

    def run() -> list[str]:
        odd = dist.get_rank() == 1
        bad = (torch.ones(2, 2), torch.ones(3 + odd))
        return [told(lambda x=x: ring_all_gather(x)) for x in bad]

    for wrong, odd in ranks(2, run):
        assert wrong.startswith("ValueError: chunk 必须是一维的")
        assert "各 rank 的调用必须一致" in odd


@pytest.mark.parametrize("n", WORLDS)
def test_ring_bytes__matches_bytes_counted_in_real_run(ranks: Ranks, n: int) -> None:
    """在 dist.isend 处数：每个 rank 发 2(N − 1) 条，字节数与公式及 sent 的记录相同。"""

    def run() -> list[tuple[list[int], list[int], int]]:
        real, posted, results = dist.isend, list[int](), []

        def count(x: Tensor, *arguments: Any) -> Any:
            posted.append(x.numel() * x.element_size())
            return real(x, *arguments)

        dist.isend = count
        for elements, dtype in ((1003, torch.float64), (12, torch.float32), (1, torch.int16)):
            sent = list[Message]()
            posted.clear()
            ring_all_reduce(torch.ones(elements, dtype=dtype), sent, check=False)
            sizes = [message.size for message in sent]
            results.append((list(posted), sizes, ring_bytes(elements, n, dtype.itemsize)))
        return results

    for results in ranks(n, run):
        for posted, sizes, expected in results:
            assert posted == sizes
            assert len(posted) == 2 * (n - 1)
            assert sum(posted) == expected


def test_ring_bytes__equals_worked_example() -> None:
    """1003 个 float64：N = 2、3、4 时是 8032、10720、12048 字节；一个进程时不通信。"""
    assert [ring_bytes(1003, n, 8) for n in (1, 2, 3, 4)] == [0, 8032, 10720, 12048]
    assert ring_bytes(0, 4, 8) == 0
    assert ring_bytes(5, 4, 1) == 12


def test_ring_bytes__bounds_twice_the_tensor() -> None:
    """能整除时，不论多少个 rank，每个发出的都不到张量的两倍，且随 N 趋近它。"""
    elements = 5040
    volumes = [ring_bytes(elements, n, 4) / (elements * 4) for n in (2, 3, 4, 10, 5040)]
    assert volumes == sorted(volumes)
    assert volumes[0] == 1.0
    assert 1.999 < volumes[-1] < 2.0


def test_ring_bytes__rejects_bad_input() -> None:
    """负的元素个数、零个进程、零字节的元素与小数都报错。"""
    for arguments in ((-1, 2, 4), (3, 0, 4), (3, 2, 0), (3.0, 2, 4)):
        with pytest.raises(ValueError, match="必须是不小于"):
            ring_bytes(*arguments)


@pytest.mark.parametrize("n", WORLDS)
def test_ring_snapshots__matches_messages_of_real_run(ranks: Ranks, n: int) -> None:
    """截下真实运行里每一步发出的张量与对象，与快照里那一块逐位相同。"""
    x = _normal(n, n, 3)

    def run() -> list[tuple[Tensor, int]]:
        real, posted = dist.isend, list[tuple[Tensor, int]]()

        def keep(message: Tensor, peer: int) -> Any:
            posted.append((message.clone(), peer))
            return real(message, peer)

        dist.isend = keep
        ring_all_reduce(x[dist.get_rank()], check=False)
        return posted

    states = ring_snapshots(x)
    for r, posted in enumerate(ranks(n, run)):
        assert len(posted) == 2 * (n - 1)
        for step, (message, peer) in enumerate(posted):
            chunk = (r - step) % n if step < n - 1 else (r + 1 - (step - n + 1)) % n
            assert peer == (r + 1) % n
            torch.testing.assert_close(message, states[step, r, chunk], rtol=0, atol=0)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
def test_ring_snapshots__is_sum_of_consecutive_ranks(n: int) -> None:
    """第 s 步 rank c + s 发出的第 c 块，恰好含 rank c, …, c + s 的贡献各一次（用二进制位记）。"""
    x = (2 ** torch.arange(n))[:, None, None].expand(n, n, 1)
    states = ring_snapshots(x)
    assert len(states) == 2 * n - 1
    for c in range(n):
        for s in range(n):
            expected = sum(2 ** ((c + j) % n) for j in range(s + 1))
            assert states[s, (c + s) % n, c].item() == expected
    assert (states[-1] == 2**n - 1).all()


def test_ring_snapshots__equals_worked_example() -> None:
    """文中手算的五张表。"""
    x = torch.tensor([[1, 2, 3], [10, 20, 30], [100, 200, 300]])
    assert ring_snapshots(x[..., None])[..., 0].tolist() == [
        [[1, 2, 3], [10, 20, 30], [100, 200, 300]],
        [[1, 2, 303], [11, 20, 30], [100, 220, 300]],
        [[1, 222, 303], [11, 20, 333], [111, 220, 300]],
        [[111, 222, 303], [11, 222, 333], [111, 220, 333]],
        [[111, 222, 333], [111, 222, 333], [111, 222, 333]],
    ]


def test_ring_snapshots__rejects_bad_shape() -> None:
    """不是三维、前两轴不等时报错。"""
    for x in (torch.zeros(2, 2), torch.zeros(2, 3, 1)):
        with pytest.raises(ValueError, match="x 的形状必须是"):
            ring_snapshots(x)


def test_Message__equals_named_tuple() -> None:
    """一条消息就是（块号，字节数）。"""
    assert Message(2, 24) == (2, 24)
    assert Message(chunk=2, size=24).size == 24
