"""集合通信的六个原语：与 torch.distributed 及照定义的枚举对照，都在真实的进程里运行。"""

import faulthandler
import multiprocessing
import os
import resource
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from formulary.ddp.collectives import (
    all_gather,
    all_reduce,
    all_reduce_in_halves,
    all_to_all,
    broadcast,
    exchange,
    reduce,
    reduce_scatter,
    require_chunks,
    require_same_call,
)
from formulary.ddp.processes import RankError

from .conftest import shorten_timeout, told

Ranks = Callable[..., list[Any]]
WORLDS = (2, 3, 4)


def _inputs(n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """[rank, 块, 2, 3]，每个元素都不同。"""
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, n, 2, 3, dtype=torch.float64, generator=generator)
    return x if dtype.is_floating_point else (1000 * x).to(dtype)


def _semaphore() -> Any:
    """各进程共有的信号量：报完错的 rank 放行缺席的，不必猜要睡多久。"""
    return multiprocessing.get_context("fork").Semaphore(0)


@pytest.mark.parametrize("n", WORLDS)
def test_broadcast__matches_torch(ranks: Ranks, n: int) -> None:
    """每个 root 都与 dist.broadcast 相同，也就是 root 的张量；输入不被改动。"""
    x = _inputs(n)

    def run() -> list[tuple[Tensor, Tensor, bool]]:
        mine, results = x[dist.get_rank()].clone(), []
        for root in range(n):
            theirs = mine.clone()
            dist.broadcast(theirs, root)
            ours = broadcast(mine, root)
            results.append((ours, theirs, torch.equal(mine, x[dist.get_rank()])))
        return results

    for results in ranks(n, run):
        for root, (ours, theirs, kept) in enumerate(results):
            torch.testing.assert_close(ours, theirs)
            torch.testing.assert_close(ours, x[root], rtol=0, atol=0)
            assert kept


def test_broadcast__preserves_shape_and_type(ranks: Ranks) -> None:
    """不连续的、零维的、整数的张量也行，形状与类型不变。"""
    cases = [torch.arange(6.0).view(2, 3).T, torch.tensor(7), torch.zeros(0, 2)]
    for results in ranks(2, lambda: [broadcast(x + 10 * dist.get_rank(), 1) for x in cases]):
        for x, y in zip(cases, results, strict=True):
            torch.testing.assert_close(y, x + 10, rtol=0, atol=0)


@pytest.mark.parametrize("n", WORLDS)
def test_reduce__matches_torch(ranks: Ranks, n: int) -> None:
    """每个 root 上都与 dist.reduce 相同，也就是逐 rank 相加；别的 rank 上是 None。"""
    x = _inputs(n, torch.int32)

    def run() -> list[tuple[Tensor | None, Tensor]]:
        mine, results = x[dist.get_rank()], []
        for root in range(n):
            theirs = mine.clone()
            dist.reduce(theirs, root)
            results.append((reduce(mine, root), theirs))
        return results

    total = x[0].clone()
    for k in range(1, n):
        total += x[k]
    for rank, results in enumerate(ranks(n, run)):
        for root, (ours, theirs) in enumerate(results):
            if rank == root:
                torch.testing.assert_close(ours, theirs)
                torch.testing.assert_close(ours, total, rtol=0, atol=0)
            else:
                assert ours is None


def test_reduce__equals_sum_in_rank_order(ranks: Ranks) -> None:
    """root 不论是谁都按 rank 从小到大相加：10⁸ + 1 − 10⁸ 在 float32 里先加先丢，得 0。"""
    x = [1e8, 1.0, -1e8]
    results = ranks(3, lambda: [reduce(torch.tensor(x[dist.get_rank()]), k) for k in range(3)])
    for root in range(3):
        torch.testing.assert_close(results[root][root], torch.tensor(0.0))


@pytest.mark.parametrize("n", WORLDS)
def test_all_to_all__matches_torch(ranks: Ranks, n: int) -> None:
    """与 dist.all_to_all_single 相同，也就是 y_k[j] = x_j[k]。"""
    x = _inputs(n)

    def run() -> tuple[Tensor, Tensor]:
        mine = x[dist.get_rank()]
        theirs = torch.empty_like(mine)
        dist.all_to_all_single(theirs, mine)
        return all_to_all(mine), theirs

    for k, (ours, theirs) in enumerate(ranks(n, run)):
        torch.testing.assert_close(ours, theirs)
        for j in range(n):
            torch.testing.assert_close(ours[j], x[j, k], rtol=0, atol=0)


def test_all_to_all__preserves_input_when_repeated(ranks: Ranks) -> None:
    """全交换做两次回到原样：它是 (rank, 块) 的转置。"""
    x = _inputs(3)
    for k, y in enumerate(ranks(3, lambda: all_to_all(all_to_all(x[dist.get_rank()])))):
        torch.testing.assert_close(y, x[k], rtol=0, atol=0)


@pytest.mark.parametrize("n", WORLDS)
def test_all_gather__matches_torch(ranks: Ranks, n: int) -> None:
    """与 dist.all_gather_single 相同，也就是按 rank 叠起来。"""
    x = _inputs(n)[:, 0]

    def run() -> tuple[Tensor, Tensor]:
        mine = x[dist.get_rank()]
        theirs = mine.new_empty(n * 2, 3)
        dist.all_gather_single(theirs, mine)
        return all_gather(mine), theirs.view(n, 2, 3)

    for ours, theirs in ranks(n, run):
        torch.testing.assert_close(ours, theirs)
        for j in range(n):
            torch.testing.assert_close(ours[j], x[j], rtol=0, atol=0)


def test_all_gather__preserves_rank_order(ranks: Ranks) -> None:
    """先到的不插队：rank 越小睡得越久，结果仍按 rank 排列。"""

    def run() -> Tensor:
        time.sleep(0.05 * (3 - dist.get_rank()))
        return all_gather(torch.tensor(dist.get_rank()))

    for y in ranks(3, run):
        assert y.tolist() == [0, 1, 2]


@pytest.mark.parametrize("n", WORLDS)
def test_reduce_scatter__matches_torch(ranks: Ranks, n: int) -> None:
    """与 dist.reduce_scatter_single 相同，也就是 rank k 得到各 rank 第 k 块之和。"""
    x = _inputs(n)

    def run() -> tuple[Tensor, Tensor]:
        mine = x[dist.get_rank()]
        theirs = mine.new_empty(2, 3)
        dist.reduce_scatter_single(theirs, mine.reshape(n * 2, 3))
        return reduce_scatter(mine), theirs

    for k, (ours, theirs) in enumerate(ranks(n, run)):
        torch.testing.assert_close(ours, theirs)
        total = torch.zeros(2, 3, dtype=torch.float64)
        for j in range(n):
            total += x[j, k]
        torch.testing.assert_close(ours, total)


def test_reduce_scatter__equals_worked_example(ranks: Ranks) -> None:
    """rank 0 有 (1, 2)，rank 1 有 (10, 20)：前者得 11，后者得 22；int32 不变成 int64。"""
    x = torch.tensor([[1, 2], [10, 20]], dtype=torch.int32)
    results = ranks(2, lambda: reduce_scatter(x[dist.get_rank()]))
    assert [y.item() for y in results] == [11, 22]
    assert results[0].dtype == torch.int32


def test_reduce_scatter__equals_torch_under_two_names(ranks: Ranks) -> None:
    """torch 2.13 里旧名 reduce_scatter_tensor 与 all_gather_into_tensor 仍可用，但发出弃用警告。"""
    x = _inputs(2)

    def run() -> tuple[Tensor, Tensor, list[str]]:
        mine = x[dist.get_rank()].reshape(4, 3)
        old, gathered = mine.new_empty(2, 3), mine.new_empty(4, 3)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            dist.reduce_scatter_tensor(old, mine)
            dist.all_gather_into_tensor(gathered, mine[:2].contiguous())
        ours = reduce_scatter(mine.view(2, 2, 3))
        return ours, old, [str(w.message) for w in caught if w.category is FutureWarning]

    for ours, old, messages in ranks(2, run):
        torch.testing.assert_close(ours, old)
        assert any("use `torch.distributed.reduce_scatter_single`" in m for m in messages)
        assert any("use `torch.distributed.all_gather_single`" in m for m in messages)


@pytest.mark.parametrize("n", WORLDS)
def test_all_reduce__matches_torch(ranks: Ranks, n: int) -> None:
    """与 dist.all_reduce 相同，浮点到舍入误差，整数逐位。"""

    def run() -> list[tuple[Tensor, Tensor]]:
        results = []
        for dtype in (torch.float64, torch.int64):
            mine = _inputs(n, dtype)[dist.get_rank()]
            theirs = mine.clone()
            dist.all_reduce(theirs)
            results.append((all_reduce(mine), theirs))
        return results

    for (ours, theirs), (our_integers, their_integers) in ranks(n, run):
        torch.testing.assert_close(ours, theirs)
        assert torch.equal(our_integers, their_integers)


def test_all_reduce__is_bitwise_equal_on_all_ranks(ranks: Ranks) -> None:
    """float32 的结果各 rank 逐位相同，也逐位等于按 rank 从小到大相加。"""
    x = _inputs(4).float()
    expected = ((x[0] + x[1]) + x[2]) + x[3]
    for y in ranks(4, lambda: all_reduce(x[dist.get_rank()])):
        torch.testing.assert_close(y, expected, rtol=0, atol=0)


@pytest.mark.parametrize("n", WORLDS)
def test_all_reduce_in_halves__matches_torch(ranks: Ranks, n: int) -> None:
    """先归约散布再全收集，与 dist.all_reduce 相同。"""
    x = _inputs(n)

    def run() -> tuple[Tensor, Tensor]:
        theirs = x[dist.get_rank()].clone()
        dist.all_reduce(theirs)
        return all_reduce_in_halves(x[dist.get_rank()]), theirs

    for ours, theirs in ranks(n, run):
        torch.testing.assert_close(ours, theirs)


def test_all_reduce_in_halves__is_cheaper_than_all_reduce(ranks: Ranks) -> None:
    """数真实发出的字节：N = 4 时直接写法发 3 份张量，分两半只发 6/4 份（不计核对的消息）。"""

    def run() -> tuple[int, int]:
        real, sent = dist.isend, list[int]()

        def count(x: Tensor, *arguments: Any) -> Any:
            if x.dtype == torch.float64:
                sent.append(x.nbytes)
            return real(x, *arguments)

        dist.isend, x = count, torch.ones(4, 5, dtype=torch.float64)
        all_reduce(x)
        direct = sum(sent)
        all_reduce_in_halves(x)
        return direct, sum(sent) - direct

    assert ranks(4, run) == [(3 * 160, 6 * 160 // 4)] * 4


def test_exchange__equals_ring_shift(ranks: Ranks) -> None:
    """每个 rank 发给下一个、收自上一个，大消息也不死锁；发给自己的消息 gloo 不支持，这里没有。"""

    def run() -> float:
        r, y = dist.get_rank(), torch.zeros(500_000)
        exchange({(r + 1) % 3: torch.full((500_000,), float(r))}, {(r - 1) % 3: y})
        assert (y == y[0]).all()
        return y[0].item()

    assert ranks(3, run) == [2.0, 0.0, 1.0]


def test_exchange__differs_from_sending_first(ranks: Ranks) -> None:
    """各 rank 都先 dist.send 再 dist.recv，发送等不到接收方，到期限时都报超时。"""

    def run() -> tuple[float, str]:
        other, y = 1 - dist.get_rank(), torch.zeros(3)
        exchange({other: torch.ones(3)}, {other: y})
        shorten_timeout(1.0)

        def wrong() -> None:
            dist.send(torch.ones(3), other)
            dist.recv(y, other)

        return y.sum().item(), told(wrong)

    results = ranks(2, run)
    assert [total for total, _ in results] == [3.0, 3.0]
    assert all(error.startswith("RuntimeError") for _, error in results)
    assert any("Timed out waiting 1000ms for send" in error for _, error in results)


def test_exchange__rejects_silent_rank(ranks: Ranks) -> None:
    """对方一直不来，到 1 秒的期限就报错，并说出是 rank 1；不会一直等下去。"""
    reported = _semaphore()

    def run() -> tuple[str, float]:
        shorten_timeout(1.0)
        start = time.monotonic()
        if dist.get_rank() == 1:
            reported.acquire(timeout=20)
            return "", 0.0
        error = told(lambda: exchange({}, {1: torch.zeros(1)}))
        reported.release()
        return error, time.monotonic() - start

    error, seconds = ranks(2, run)[0]
    assert error.startswith("RuntimeError: 与 rank 1 的通信没有完成")
    assert 0.9 < seconds < 15


def test_exchange__rejects_rank_that_is_gone(ranks: Ranks) -> None:
    """rank 1 已经退出：收与发都立即报错，说出是 rank 1，哪怕在登记时就发现。"""

    def run() -> str:
        exchange(*({1 - dist.get_rank(): torch.ones(1)} for _ in range(2)))
        if dist.get_rank() == 1:
            os._exit(1)
        time.sleep(0.3)  # usually enough to notice; the error is the same if not
        receiving = told(lambda: exchange({}, {1: torch.zeros(1)}))
        sending = told(lambda: exchange({1: torch.zeros(1)}, {}))
        raise ValueError(receiving + "\n" + sending)

    with pytest.raises(RankError) as caught:
        ranks(2, run)
    assert caught.value.failures[0].count("与 rank 1 的通信没有完成") == 2


def test_require_same_call__equals_silence_when_calls_agree(ranks: Ranks) -> None:
    """调用一致时什么也不做，零维与空的张量也行；只有一个进程时也行。"""
    for n in (1, 3):
        for results in ranks(
            n, lambda: [require_same_call("f", x) for x in (torch.zeros(2), torch.tensor(1))]
        ):
            assert results == [None, None]


def test_all_reduce__rejects_odd_rank(ranks: Ranks) -> None:
    """形状、类型、运算、root 或根本不是张量：每个 rank 都报错，说出与众不同的是 rank 2。"""

    def run() -> list[str]:
        odd = dist.get_rank() == 2
        cases = [
            lambda: all_reduce(torch.zeros(2, 3) if odd else torch.zeros(3, 2)),
            lambda: all_reduce(torch.zeros(3, dtype=torch.float64 if odd else torch.float32)),
            lambda: all_to_all(torch.zeros(4)) if odd else all_gather(torch.zeros(4)),
            lambda: broadcast(torch.zeros(4), 1 if odd else 0),
            lambda: reduce(torch.zeros(4), 1 if odd else 0),
            lambda: all_to_all([0] if odd else torch.zeros(4)),
        ]
        return [told(case) for case in cases]

    for errors in ranks(4, run):
        for error in errors:
            assert error.startswith("ValueError: 各 rank 的调用必须一致：rank 2 是 ")
        assert "rank 2 是 all_gather torch.float32 (2, 3)，其余是 all_gather" in errors[0]


def test_require_same_call__rejects_several_odd_ranks(ranks: Ranks) -> None:
    """与多数不同的有两个，两个都说出来。"""

    def run() -> str:
        return told(lambda: require_same_call("f", torch.zeros(max(1, dist.get_rank()))))

    for error in ranks(4, run):
        assert error == (
            "ValueError: 各 rank 的调用必须一致：rank 2 是 f torch.float32 (2,)；"
            "rank 3 是 f torch.float32 (3,)，其余是 f torch.float32 (1,)"
        )


def test_require_same_call__rejects_what_cannot_be_summed(ranks: Ranks) -> None:
    """布尔、复数张量与不是张量的值，各 rank 一致也报错。"""

    def run() -> list[str]:
        bad = (torch.zeros(2, dtype=torch.bool), torch.zeros(2, dtype=torch.complex64), 1.0)
        return [told(lambda x=x: require_same_call("f", x)) for x in bad]

    for errors in ranks(2, run):
        for error in errors:
            assert error.startswith("ValueError: x 必须是实数张量")


def test_require_same_call__rejects_missing_rank(ranks: Ranks) -> None:
    """一个 rank 不来，其余三个到 1 秒的期限都报错，说出是 rank 2。"""
    reported = _semaphore()

    def run() -> tuple[str, float]:
        shorten_timeout(1.0)
        start = time.monotonic()
        if dist.get_rank() == 2:
            assert all(reported.acquire(timeout=20) for _ in range(3))
            return "", 0.0
        error = told(lambda: require_same_call("f", torch.zeros(1)))
        reported.release()
        return error, time.monotonic() - start

    results = ranks(4, run)
    for rank in (0, 1, 3):
        error, seconds = results[rank]
        assert error.startswith("RuntimeError: 与 rank 2 的通信没有完成")
        assert 0.9 < seconds < 15


def test_require_same_call__differs_from_all_reduce_mixing_shapes(ranks: Ranks) -> None:
    """gloo 的 all_reduce 不看形状：(2, 3) 与 (3, 2) 按内存次序相加，谁也不报错。"""

    def run() -> Tensor:
        x = torch.arange(6.0).view((2, 3) if dist.get_rank() == 0 else (3, 2))
        assert told(lambda: require_same_call("all_reduce", x))
        dist.all_reduce(x)
        return x

    first, second = ranks(2, run)
    assert first.tolist() == [[0.0, 2.0, 4.0], [6.0, 8.0, 10.0]]
    assert second.tolist() == [[0.0, 2.0], [4.0, 6.0], [8.0, 10.0]]


def test_require_same_call__differs_from_all_reduce_crashing_on_sizes(ranks: Ranks) -> None:
    """gloo 的 all_reduce 遇到元素个数不同，不抛出能接住的异常，有进程整个终止。"""

    def run() -> None:
        faulthandler.disable()  # the abort is expected: no traceback, no core
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        x = torch.ones(4 + dist.get_rank())
        assert told(lambda: require_same_call("all_reduce", x)).startswith("ValueError")
        dist.all_reduce(x)

    with pytest.raises(RankError) as caught:
        ranks(2, run, timeout=15.0)
    assert "进程没有给出结果就结束了" in caught.value.failures.values()


def test_require_same_call__matches_detail_debug_level(ranks: Ranks) -> None:
    """TORCH_DISTRIBUTED_DEBUG=DETAIL 的 all_reduce 也核对形状，两例都报错，与这里的核对一致。"""

    def run() -> list[tuple[str, str]]:
        odd = dist.get_rank() == 1
        cases = (torch.ones(4 + odd), torch.ones((3, 2) if odd else (2, 3)), torch.ones(2))
        return [
            (
                told(lambda x=x: dist.all_reduce(x)),
                told(lambda x=x: require_same_call("all_reduce", x)),
            )
            for x in cases
        ]

    level = dist.get_debug_level()
    dist.set_debug_level(dist.DebugLevel.DETAIL)
    try:
        results = ranks(2, run)
    finally:
        dist.set_debug_level(level)
    for size, shape, same in results:
        for theirs, ours in (size, shape):
            assert "Detected mismatch between collectives on ranks" in theirs
            assert "rank 1 是 all_reduce" in ours
        assert same == ("", "")


def test_require_chunks__rejects_wrong_count(ranks: Ranks) -> None:
    """块数不是世界大小，或是零维的，报错。"""

    def run() -> list[str]:
        bad = (torch.zeros(3, 2), torch.tensor(1.0))
        errors = [told(lambda x=x: require_chunks(x)) for x in bad]
        for collective in (all_to_all, reduce_scatter, all_reduce_in_halves):
            errors += [told(lambda x=x, f=collective: f(x)) for x in bad]
        require_chunks(torch.zeros(2, 5))
        return errors

    for errors in ranks(2, run):
        for error in errors:
            assert error.startswith("ValueError: x 的第一轴必须是 2 块")


def test_broadcast__rejects_bad_root(ranks: Ranks) -> None:
    """root 为负、等于世界大小或不是整数时，每个 rank 都报错。"""
    for errors in ranks(
        2, lambda: [told(lambda k=k: broadcast(torch.zeros(1), k)) for k in (-1, 2, 0.0)]
    ):
        for error in errors:
            assert error.startswith("ValueError: root 必须")


def test_reduce__rejects_bad_root(ranks: Ranks) -> None:
    """root 为负、等于世界大小或不是整数时，每个 rank 都报错。"""
    for errors in ranks(
        2, lambda: [told(lambda k=k: reduce(torch.zeros(1), k)) for k in (-1, 2, True)]
    ):
        for error in errors:
            assert error.startswith("ValueError: root 必须")
