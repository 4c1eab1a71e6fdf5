"""全局解释器锁的检验：只断言与快慢无关的事实。"""

import sys
import threading
import time
from fractions import Fraction

import pytest
import torch

from formulary.ddp import threads as module
from formulary.ddp.threads import (
    cores_used,
    gil_speedup_bound,
    turns_until_process_runs,
    turns_until_thread_runs,
)

HAS_LOCK = getattr(sys, "_is_gil_enabled", lambda: True)()
locked = pytest.mark.skipif(not HAS_LOCK, reason="this Python runs threads in parallel")


def _rounds_time(held: Fraction, threads: int, rounds: int) -> Fraction:
    """线程们轮流：先做不握锁的 1 − g，再按先来后到握锁做 g；返回全部做完的时刻。"""
    ready = [Fraction(k, 97) for k in range(threads)]  # 错开出发
    lock_free, done = Fraction(0), [0] * threads
    arrivals = [at + 1 - held for at in ready]
    while min(done) < rounds:
        waiting = [k for k in range(threads) if done[k] < rounds]
        first = min(waiting, key=lambda k: arrivals[k])
        lock_free = max(lock_free, arrivals[first]) + held
        done[first] += 1
        arrivals[first] = lock_free + 1 - held
    return lock_free


def test_gil_speedup_bound__matches_simulated_lock() -> None:
    """按事件模拟一把锁：锁忙时加速比逼近 1/g，锁闲时逼近 N，从不超过上界。"""
    for held, threads in (
        (Fraction(1, 4), 3),
        (Fraction(1, 4), 8),
        (Fraction(2, 3), 5),
        (Fraction(1), 4),
        (Fraction(1, 10), 2),
    ):
        bound = gil_speedup_bound(float(held), threads)
        speedups = [threads * n / _rounds_time(held, threads, n) for n in (4, 400)]
        assert all(speedup <= bound + 1e-12 for speedup in speedups)
        # 一头一尾的不满只占 400 轮里的几轮
        torch.testing.assert_close(float(speedups[1]), bound, rtol=0.01, atol=0.0)


def test_gil_speedup_bound__equals_worked_example() -> None:
    """一步 100 毫秒里有 30 毫秒在执行 Python：8 个线程至多快 3.33 倍；不握锁就是 8 倍。"""
    assert round(gil_speedup_bound(0.3, 8), 2) == 3.33
    assert gil_speedup_bound(0.3, 3) == 3
    assert gil_speedup_bound(0.0, 8) == 8
    assert gil_speedup_bound(1.0, 8) == 1


@locked
def test_turns_until_thread_runs__matches_eval_loop() -> None:
    """切换间隔很长时，纯 Python 的计算做多少圈，另一个线程都一步没走；自己睡一下，它就走了。"""
    assert turns_until_thread_runs(lambda: sum(range(1000)), 3000) is None
    assert turns_until_thread_runs(lambda: [str(k) for k in range(300)], 500) is None
    assert turns_until_thread_runs(lambda: time.sleep(0.01), 500) is not None


def test_turns_until_thread_runs__differs_from_torch_operators() -> None:
    """torch 的算子在内核里放开锁，另一个线程于是走得动。"""
    matrix = torch.ones(300, 300)
    assert turns_until_thread_runs(lambda: matrix @ matrix, 5000) is not None


@locked
def test_turns_until_thread_runs__preserves_switch_interval() -> None:
    """实验之后切换间隔还原，出错也一样；间隔是默认的 5 毫秒时，另一个线程就能插进来。"""
    before = sys.getswitchinterval()

    def fail() -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        turns_until_thread_runs(fail, 3)
    assert turns_until_thread_runs(lambda: None, 3) is None
    assert sys.getswitchinterval() == before


@locked
def test_turns_until_process_runs__is_free_of_the_lock() -> None:
    """同样的纯 Python 计算，标志由另一个进程改：rank 0 不放开什么，也看得到。"""
    turns = turns_until_process_runs(lambda: sum(range(1000)), 2_000_000)
    assert turns is not None
    assert turns_until_thread_runs(lambda: sum(range(1000)), 500) is None


def test_turns_until_process_runs__matches_order_of_events() -> None:
    """只给一圈，另一个进程来不及（或来得及）：结果只能是第 0 圈或没看到。"""
    assert turns_until_process_runs(lambda: None, 1) in (0, None)
    assert turns_until_process_runs(lambda: time.sleep(0.05), 400) in range(400)


@locked
def test_cores_used__bounds_threads_by_one_core() -> None:
    """四个线程各算各的，纯 Python，合起来也用不到一个多核；结果与逐个算的相同。"""
    results = dict[int, int]()

    def compute() -> None:
        def one(key: int) -> None:
            results[key] = sum(k * k % 7 for k in range(150_000 + key))

        threads = [threading.Thread(target=one, args=(key,)) for key in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert cores_used(compute) < 1.2  # 交接锁与计时的误差之外，不会超过 1
    assert results == {key: sum(k * k % 7 for k in range(150_000 + key)) for key in range(4)}


def test_cores_used__matches_getrusage() -> None:
    """与 getrusage 报的用户与系统时间之和一致；睡觉不用处理器。

    机器忙时，进程可能恰好在两次读表之间被换下去，两者便差一段；换了再量，总有一次没被打断。
    """
    resource = pytest.importorskip("resource")

    def total() -> float:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    def compute() -> None:
        sum(k * k for k in range(1_500_000))

    for _ in range(30):
        processor, wall = total(), time.monotonic()
        actual = cores_used(compute)
        expected = (total() - processor) / (time.monotonic() - wall)
        if abs(actual - expected) <= 0.1 * expected:
            break
    # 有的系统上 getrusage 的分辨率是几毫秒，计算约 100 毫秒
    torch.testing.assert_close(actual, expected, rtol=0.1, atol=0.0)
    assert cores_used(lambda: time.sleep(0.2)) < 0.5


def test_cores_used__equals_ratio_of_given_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """给定的钟：墙钟走 4 秒，处理器走 6 秒，是 1.5 个核；函数在两次读表之间只运行一次。"""
    wall, processor = iter([10.0, 14.0]), iter([1.0, 7.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(wall))
    monkeypatch.setattr(module.time, "process_time", lambda: next(processor))
    ran = list[int]()
    assert cores_used(lambda: ran.append(1)) == 1.5
    assert ran == [1]


def test_turns_until_thread_runs__rejects_bad_input() -> None:
    """不能调用的、圈数不是正整数的，都报错。"""
    for function in (turns_until_thread_runs, turns_until_process_runs):
        with pytest.raises(ValueError, match="work"):
            function(3, 10)
        with pytest.raises(ValueError, match="turns"):
            function(lambda: None, 0)
    with pytest.raises(ValueError, match="function"):
        cores_used(3)


def test_gil_speedup_bound__rejects_bad_input() -> None:
    """比例不在 [0, 1] 里、线程数不是正整数时报错。"""
    for held in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="held_fraction"):
            gil_speedup_bound(held, 2)
    with pytest.raises(ValueError, match="threads"):
        gil_speedup_bound(0.5, 0)
