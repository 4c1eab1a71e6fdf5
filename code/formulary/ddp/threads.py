"""为什么不用线程：全局解释器锁（GIL）之下，同一时刻只有一个线程在执行 Python 字节码。

没有一个断言依赖快慢：turns_until_thread_runs 把切换间隔调到 1000 秒，于是除非主线程自己放开
锁，别的线程一步也走不了。
"""

import sys
import threading
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from formulary.checks import require_count
from formulary.ddp.processes import run_ranks


def gil_speedup_bound(held_fraction: float, threads: int) -> float:
    r"""若干线程共用一把全局解释器锁时，加速比的上界。

    Args:
        held_fraction: 一份工作单独做时，握着锁的时间所占的比例 g，在 [0, 1] 里（无量纲）。
        threads: 线程的个数 N，每个线程做一份。

    Returns:
        加速比的上界（无量纲）；线程多、轮流得当时可以任意接近。

    Raises:
        ValueError: held_fraction 不在 [0, 1] 里，或 threads 不是正整数。

    约定:
        处理器的个数不小于线程的个数，线程之间没有别的等待。

    出处:
        握锁的时间不能重叠；本站的推导。

    示例:
        >>> [gil_speedup_bound(0.25, threads) for threads in (2, 4, 8)]
        [2.0, 4.0, 4.0]
    """
    if not 0 <= held_fraction <= 1:
        raise ValueError(f"held_fraction 必须在 [0, 1] 里，得到 {held_fraction!r}")
    require_count("threads", threads)
    return threads / max(1.0, threads * held_fraction)


def turns_until_thread_runs(work: Callable[[], object], turns: int) -> int | None:
    r"""主线程反复做 work，数到第几圈才看到另一个线程把标志改掉。

    Args:
        work: 主线程每一圈做的事。
        turns: 最多做几圈（圈）。

    Returns:
        看到标志改变时已经做完的圈数（圈）；做满 turns 圈还没看到则是 None。

    Raises:
        ValueError: work 不能调用，或 turns 不是正整数。

    约定:
        其间解释器的切换间隔是 1000 秒，之后还原：锁只在持有者自己放开时才会易手。

    出处:
        sys.setswitchinterval 的文档；本站的实验。

    示例:
        >>> turns_until_thread_runs(lambda: sum(range(1000)), 500) is None
        True
    """
    if not callable(work):
        raise ValueError(f"work 必须可以调用，得到 {type(work)}")
    require_count("turns", turns)
    started, gate, seen = threading.Event(), threading.Lock(), [False]

    def other() -> None:
        started.set()
        with gate:  # 在这里睡着，直到主线程打开
            seen[0] = True

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000.0)  # 先于起线程：它起来之后，也只在睡着时让出锁
    gate.acquire()
    thread = threading.Thread(target=other)
    thread.start()
    try:
        started.wait()  # 主线程醒来时，它已经睡在 gate 上
        gate.release()  # 从此它只缺全局解释器锁
        return _spin(lambda: seen[0], work, turns)
    finally:
        sys.setswitchinterval(interval)
        thread.join()


def turns_until_process_runs(work: Callable[[], object], turns: int) -> int | None:
    r"""与 turns_until_thread_runs 相同，只是改标志的是另一个进程，标志在共享内存里。

    Args:
        work: rank 0 每一圈做的事。
        turns: 最多做几圈（圈）。

    Returns:
        看到标志改变时已经做完的圈数（圈）；做满 turns 圈还没看到则是 None。

    Raises:
        ValueError: work 不能调用，或 turns 不是正整数。

    约定:
        两个进程各有自己的解释器与自己的锁，rank 0 不必放开什么。

    出处:
        本站的实验。

    示例:
        >>> turns_until_process_runs(lambda: sum(range(1000)), 1_000_000) is None
        False
    """
    if not callable(work):
        raise ValueError(f"work 必须可以调用，得到 {type(work)}")
    require_count("turns", turns)
    seen = torch.zeros(1).share_memory_()

    def both() -> int | None:
        dist.barrier()
        if dist.get_rank() == 0:
            return _spin(lambda: bool(seen), work, turns)
        seen.fill_(1)
        return None

    return run_ranks(2, both)[0]


def _spin(seen: Callable[[], bool], work: Callable[[], object], turns: int) -> int | None:
    """反复做 work，返回 seen 变真时的圈数。"""
    for turn in range(turns):
        if seen():
            return turn
        work()
    return None


def cores_used(function: Callable[[], object]) -> float:
    r"""运行一个函数期间，这个进程平均用了几个处理器核。

    Args:
        function: 要运行的函数；它起的线程都算在内，子进程不算。

    Returns:
        进程的处理器时间与墙钟时间之比（无量纲）。

    Raises:
        ValueError: function 不能调用。

    约定:
        计时有误差，函数至少要跑几十毫秒，结果才有意义。

    出处:
        time.process_time 的文档。

    示例:
        >>> cores_used(lambda: time.sleep(0.1)) < 0.5
        True
    """
    if not callable(function):
        raise ValueError(f"function 必须可以调用，得到 {type(function)}")
    wall, processor = time.perf_counter(), time.process_time()
    function()
    processor, wall = time.process_time() - processor, time.perf_counter() - wall
    return processor / wall
