"""真实的进程：结果按 rank 排好，出错、死亡与沉默的 rank 都被指名，而且不用等太久。"""

import os
import struct
import time
from datetime import timedelta
from multiprocessing import active_children
from multiprocessing.connection import Connection

import pytest
import torch
import torch.distributed as dist

from formulary.ddp.processes import GRACE, RankError, run_ranks


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_run_ranks__equals_results_by_rank(world_size: int) -> None:
    """结果按 rank 排列；函数可以是局部的，看得到外面的变量，也收得到参数。"""
    base = 100

    def function(factor: int, name: str) -> tuple[int, str]:
        return base + factor * dist.get_rank(), name

    actual = run_ranks(world_size, function, 7, "x")
    assert actual == [(100 + 7 * rank, "x") for rank in range(world_size)]


def test_run_ranks__is_a_real_process_group() -> None:
    """各 rank 是不同的进程、一个线程，进程组是 gloo，期限是给的那个，真能通信。"""

    def function() -> tuple[int, int, str, int, float, int]:
        total = torch.tensor(2 ** dist.get_rank())
        dist.all_reduce(total)
        group = dist.group.WORLD._get_backend(torch.device("cpu"))
        timeout = group.options._timeout.total_seconds()
        name, size = dist.get_backend(), dist.get_world_size()
        return os.getpid(), torch.get_num_threads(), name, size, timeout, int(total)

    results = run_ranks(3, function, timeout=9.0)
    assert len({pid for pid, *_ in results} | {os.getpid()}) == 4
    assert {tuple(rest) for _, *rest in results} == {(1, "gloo", 3, 9.0, 7)}


def test_run_ranks__preserves_the_callers_variables() -> None:
    """各进程改的是自己的一份；返回的张量逐位还原，调用者的不变，也没有留下进程与进程组。"""
    tensor = torch.arange(5.0, dtype=torch.float64) / 3

    def function() -> torch.Tensor:
        tensor.mul_(dist.get_rank())
        return tensor

    results = run_ranks(3, function)
    for rank, result in enumerate(results):
        assert torch.equal(result, tensor * rank)
    assert tensor[1] == 1 / 3
    assert not active_children()
    assert not dist.is_initialized()


def test_run_ranks__matches_a_lambda_run_twice() -> None:
    """lambda 也行；前后两次互不相干。"""
    assert run_ranks(2, lambda: dist.get_rank()) == run_ranks(2, lambda: dist.get_rank()) == [0, 1]


def test_run_ranks__rejects_a_rank_that_raises() -> None:
    """一个 rank 抛出异常：RankError 里只有它，写着类型与原话；别的 rank 的结果不算数。"""

    def function() -> int:
        if dist.get_rank() == 1:
            raise KeyError("没有这个键")
        return 0

    with pytest.raises(RankError) as error:
        run_ranks(3, function)
    assert error.value.failures == {1: "KeyError: '没有这个键'"}
    assert str(error.value) == "rank 1：KeyError: '没有这个键'"


def test_run_ranks__rejects_a_rank_that_exits() -> None:
    """sys.exit 也算出错。"""

    def function() -> None:
        if dist.get_rank() == 0:
            raise SystemExit(3)

    with pytest.raises(RankError) as error:
        run_ranks(2, function)
    assert error.value.failures == {0: "SystemExit: 3"}


def test_run_ranks__rejects_a_rank_that_dies() -> None:
    """一个 rank 被 os._exit：它被指名，等它的 rank 随即说连接断了，不必等到期限。"""

    def function() -> None:
        if dist.get_rank() == 2:
            os._exit(17)
        dist.barrier()

    begin = time.monotonic()
    with pytest.raises(RankError) as error:
        run_ranks(3, function, timeout=25.0)
    assert time.monotonic() - begin < 15
    failures = error.value.failures
    assert failures[2] == "进程没有给出结果就结束了"
    assert "by peer" in failures[0] or "到期限" in failures[0]
    assert not active_children()


def test_run_ranks__rejects_a_rank_that_never_arrives() -> None:
    """一个 rank 不来参加集合通信：等它的 rank 在期限一到报错，它自己被指名，并被结束。"""

    def function() -> None:
        if dist.get_rank() == 0:
            time.sleep(60)
        dist.barrier()

    begin = time.monotonic()
    with pytest.raises(RankError) as error:
        run_ranks(2, function, timeout=1.0)
    assert 1.0 <= time.monotonic() - begin < 1.0 + 2 * GRACE + 5
    assert "Timed out waiting 1000ms" in error.value.failures[1]
    assert error.value.failures[0] == "到期限还没有结果"
    assert not active_children()


def test_run_ranks__rejects_a_silent_group() -> None:
    """谁都不出错、只是不结束：期限加 GRACE 之后，全部 rank 被指名。"""
    with pytest.raises(RankError) as error:
        run_ranks(2, time.sleep, 60, timeout=0.5)
    assert set(error.value.failures) == {0, 1}
    assert set(error.value.failures.values()) == {"到期限还没有结果"}


def test_run_ranks__rejects_a_result_that_cannot_travel() -> None:
    """返回值不能 pickle 时，那个 rank 报错。"""
    with pytest.raises(RankError) as error:
        run_ranks(2, lambda: (lambda: 0) if dist.get_rank() else 0)
    assert list(error.value.failures) == [1]
    assert "pickle" in error.value.failures[1].lower()


def test_run_ranks__rejects_a_result_that_cannot_be_restored() -> None:
    """返回值能 pickle、却不能还原时，那个 rank 被指名，不是在调用者这里冒出一个别的异常。"""

    class Odd:
        def __reduce__(self) -> tuple:
            return int, ("x",)

    with pytest.raises(RankError) as error:
        run_ranks(2, lambda: Odd() if dist.get_rank() else 0)
    told = "返回值不能从 pickle 还原：ValueError: invalid literal for int() with base 10: 'x'"
    assert error.value.failures == {1: told}


def test_run_ranks__rejects_a_rank_that_dies_while_answering() -> None:
    """一个 rank 答到一半死了：与没有回答同样对待。"""

    def function() -> int:
        if dist.get_rank() == 1:
            Connection._send_bytes = lambda sender, _: (
                os.write(sender.fileno(), struct.pack("!i", 100) + b"half"),
                os._exit(1),
            )
        return 0

    with pytest.raises(RankError) as error:
        run_ranks(2, function)
    assert error.value.failures == {1: "进程没有给出结果就结束了"}


def test_run_ranks__equals_causes_before_consequences(monkeypatch: pytest.MonkeyPatch) -> None:
    """提前结束的排在最前，其次是自己出错的、没有结果的，最后才是被它们连累的；同类按 rank。"""
    # 忙的机器上，被连累的未必在 2 秒之内说得出来
    monkeypatch.setattr("formulary.ddp.processes.GRACE", 20.0)

    def function() -> None:
        rank = dist.get_rank()
        if rank == 3:
            os._exit(1)
        if rank == 1:
            raise ValueError("起因")
        dist.barrier()

    with pytest.raises(RankError) as error:
        run_ranks(4, function)
    failures = error.value.failures
    assert list(failures) == [3, 1, 0, 2]
    assert (failures[3], failures[1]) == ("进程没有给出结果就结束了", "ValueError: 起因")
    assert "by peer" in failures[0]
    assert "by peer" in failures[2]
    assert str(error.value).startswith(
        "rank 3：进程没有给出结果就结束了\nrank 1：ValueError: 起因\n"
    )
    silent = RankError({4: "到期限还没有结果", **failures})
    assert list(silent.failures) == [3, 1, 4, 0, 2]


def test_run_ranks__rejects_bad_arguments() -> None:
    """进程数不是正整数、期限不是正数时立刻报错。"""
    for world_size in (0, -1, 2.0, True, "2"):
        with pytest.raises(ValueError, match="world_size 必须是正整数"):
            run_ranks(world_size, dist.get_rank)
    for timeout in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="timeout 必须是正数"):
            run_ranks(2, dist.get_rank, timeout=timeout)


def test_run_ranks__equals_what_monitored_barrier_tells() -> None:
    """文中引的报错：monitored_barrier 说得出没有来的是哪个 rank。"""

    def function() -> str:
        if dist.get_rank() == 1:
            time.sleep(1.5)
            return ""
        with pytest.raises(RuntimeError) as error:
            dist.monitored_barrier(timeout=timedelta(seconds=0.5))
        return str(error.value)

    told = run_ranks(2, function, timeout=5.0)[0]
    assert told.startswith("[Rank 0]: Rank 1 failed to pass monitoredBarrier in 500 ms")
