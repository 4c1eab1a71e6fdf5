"""点名的检验：没来的、死了的 rank，都说得出是谁。

谁先谁后由共享内存里的标志决定，不靠睡多久：机器再忙，没来的也不会来，来了的也不会算作没来。
"""

import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from formulary.ddp import processes
from formulary.ddp.arrival import require_all_ranks
from formulary.ddp.processes import RankError

Ranks = Callable[..., list[Any]]


def _wait_for(flags: Tensor, places: list[int]) -> None:
    """等到共享内存里的这几个标志全都举起。"""
    while not all(flags[place] for place in places):
        time.sleep(0.01)


@pytest.mark.parametrize("absent", [(1,), (1, 3)])
def test_require_all_ranks__matches_absent_ranks(ranks: Ranks, absent: tuple[int, ...]) -> None:
    """四个进程里有一个或两个没来：rank 0 在期限里说出是哪几个，来了的说自己来了。"""
    arrived, told = torch.zeros(4).share_memory_(), torch.zeros(1).share_memory_()
    present = [rank for rank in range(1, 4) if rank not in absent]

    def called() -> tuple[str, str, float]:
        rank = dist.get_rank()
        if rank in absent:
            _wait_for(told, [0])
            return "absent", "", 0.0
        if rank == 0:
            _wait_for(arrived, present)
        arrived[rank] = 1
        began = time.monotonic()
        try:
            require_all_ranks(0.6)
        except TimeoutError as error:
            return type(error.__cause__).__name__, str(error), time.monotonic() - began
        finally:
            if rank == 0:
                told[0] = 1
        return "passed", "", 0.0

    answers = ranks(4, called)
    names = ", ".join(map(str, absent))
    assert answers[0][:2] == ("RuntimeError", f"rank {names} 在 0.6 秒内没有到")
    assert answers[0][2] > 0.55
    assert answers[2][:2] == (
        "RuntimeError",
        "rank 2 到了，却有别的 rank 没到或已经退出，是谁见 rank 0 的错误",
    )
    assert [kind for kind, _, _ in answers].count("absent") == len(absent)


def test_require_all_ranks__equals_barrier_when_all_arrive(ranks: Ranks) -> None:
    """都来了就都放行，而且谁也不先走：离开的时刻都在最后一个到达之后；另建的进程组也行。"""

    def arrived_and_left() -> list[tuple[float, float]]:
        times = []
        for late, group in ((2, None), (0, dist.new_group(backend="gloo"))):
            if dist.get_rank() == late:
                time.sleep(0.2)
            arrived = time.monotonic()
            require_all_ranks(20.0, group)
            times.append((arrived, time.monotonic()))
        return times

    for times in zip(*ranks(3, arrived_and_left), strict=True):
        assert min(left for _, left in times) >= max(arrived for arrived, _ in times)


def test_require_all_ranks__limit_of_dead_rank(
    ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """一个 rank 死了（os._exit），别人立即得到错误，不必等到期限；父进程说出死的是谁。"""

    def die() -> str:
        require_all_ranks(60.0)
        if dist.get_rank() == 1:
            os._exit(17)
        try:
            require_all_ranks(60.0)
        except TimeoutError as error:
            return str(error)
        return "passed"

    monkeypatch.setattr(processes, "GRACE", 20.0)  # 机器忙时，幸存的也来得及回答
    began = time.monotonic()
    with pytest.raises(RankError) as caught:
        ranks(3, die, timeout=90.0)
    assert time.monotonic() - began < 55
    assert caught.value.failures == {1: "进程没有给出结果就结束了"}


def test_require_all_ranks__differs_from_all_reduce_with_a_silent_rank(ranks: Ranks) -> None:
    """别处常见错误：只靠集合通信的期限，错误里没有是谁；rank 0 没来时，点名要等到它退出。"""
    told = torch.zeros(2).share_memory_()

    def silent() -> str:
        dist.barrier()
        dist.distributed_c10d._set_pg_timeout(timedelta(seconds=1.5))  # 建好之后才缩短
        if dist.get_rank() == 1:
            _wait_for(told, [0])
            return ""
        try:
            dist.all_reduce(torch.ones(2))
        except RuntimeError as error:
            return str(error)
        finally:
            told[0] = 1
        return "passed"

    message = ranks(2, silent)[0]
    assert "Timed out waiting 1500ms for recv operation" in message
    assert "rank 1" not in message.lower()

    def late_first() -> float:
        if dist.get_rank() == 0:
            _wait_for(told, [1])
            time.sleep(1.2)  # 远过了 rank 1 的期限
            return 0.0
        began = time.monotonic()
        told[1] = 1
        with pytest.raises(TimeoutError, match="rank 1 到了"):
            require_all_ranks(0.3)
        return time.monotonic() - began

    assert ranks(2, late_first)[1] > 1.1


def test_require_all_ranks__rejects_bad_input() -> None:
    """期限不是有限的正数时报错。"""
    for seconds in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="seconds"):
            require_all_ranks(seconds)
