"""加速比与效率的检验。"""

import math
from fractions import Fraction

import pytest
import torch

from formulary.ddp.speedup import (
    amdahl_speedup,
    gustafson_speedup,
    karp_flatt_fraction,
    strong_efficiency,
    weak_efficiency,
)


def _finish_time(serial: int, parallel: int, workers: int) -> Fraction:
    """逐份分派的事件模拟：先串行做 serial 份，再把 parallel 份轮流分给空闲的处理器。"""
    free = [Fraction(serial)] * workers
    for _ in range(parallel):
        earliest = free.index(min(free))
        free[earliest] += 1
    return max(free)


def test_amdahl_speedup__matches_event_simulation() -> None:
    """把工作切成小份逐份分派，总时间之比就是加速比。"""
    for serial, parallel, workers in ((30, 90, 3), (7, 80, 5), (0, 24, 4), (50, 0, 6)):
        total = serial + parallel
        simulated = total / _finish_time(serial, parallel, workers)
        actual = amdahl_speedup(parallel / total, workers)
        torch.testing.assert_close(actual, float(simulated))


def test_amdahl_speedup__limit_is_inverse_of_serial_fraction() -> None:
    """p = 0.95：8 个 5.9 倍，64 个 15.4 倍，再多也不到 20 倍；一个处理器是 1 倍。"""
    assert [round(amdahl_speedup(0.95, n), 1) for n in (8, 64)] == [5.9, 15.4]
    assert amdahl_speedup(0.95, 1) == 1
    values = [amdahl_speedup(0.95, 2**k) for k in range(40)]
    assert values == sorted(values)
    assert values[-1] < 20
    torch.testing.assert_close(values[-1], 20.0)


def test_gustafson_speedup__matches_event_simulation() -> None:
    """每个处理器各做一份并行的工作，同样的工作由一个处理器做，时间之比就是加速比。"""
    for serial, parallel, workers in ((30, 90, 3), (7, 80, 5), (0, 24, 4), (50, 0, 6)):
        work = parallel * workers  # 并行的工作随处理器增加
        simulated = _finish_time(serial, work, 1) / _finish_time(serial, work, workers)
        fraction = parallel / (serial + parallel)
        torch.testing.assert_close(gustafson_speedup(fraction, workers), float(simulated))


def test_gustafson_speedup__equals_amdahl_with_converted_fraction() -> None:
    """练习：p 换算成单处理器时间里的比例 pN/(1 − p + pN)，两个定律给出同一个加速比。"""
    for p, n in ((0.95, 8), (0.3, 5), (0.0, 3), (1.0, 7)):
        converted = p * n / (1 - p + p * n)
        torch.testing.assert_close(gustafson_speedup(p, n), amdahl_speedup(converted, n))
    assert round(0.95 * 8 / (0.05 + 0.95 * 8), 4) == 0.9935
    assert round(gustafson_speedup(0.95, 8), 2) == 7.65


def test_karp_flatt_fraction__matches_inverse_of_amdahl() -> None:
    """把 Amdahl 定律算出的加速比代进去，得回串行的比例 1 − p。"""
    for p in (0.0, 0.31, 0.8, 0.995, 1.0):
        for n in (2, 3, 64):
            speedup = 1 / ((1 - p) + p / n)
            actual = karp_flatt_fraction(speedup, n)
            torch.testing.assert_close(actual, 1 - p, rtol=1e-7, atol=1e-12)


def test_karp_flatt_fraction__equals_worked_example() -> None:
    """练习：加速比 1.9、3.4、5.3（2、4、8 个）反推出 0.0526、0.0588、0.0728，逐渐变大。"""
    measured = {2: 1.9, 4: 3.4, 8: 5.3}
    fractions = [karp_flatt_fraction(speedup, n) for n, speedup in measured.items()]
    assert [round(e, 4) for e in fractions] == [0.0526, 0.0588, 0.0728]
    assert karp_flatt_fraction(2.2, 2) < 0  # 超线性


def test_strong_efficiency__matches_speedup_per_worker() -> None:
    """效率等于加速比除以处理器的个数；用事件模拟的时间核对。"""
    alone, together = _finish_time(7, 80, 1), _finish_time(7, 80, 5)
    expected = (87 / (7 + 80 / 5)) / 5
    actual = strong_efficiency(float(alone), float(together), 5)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(actual * 5, amdahl_speedup(80 / 87, 5))


def test_strong_efficiency__equals_worked_example() -> None:
    """8 秒的工作 4 个处理器用 2.5 秒，效率 0.8。"""
    assert strong_efficiency(8.0, 2.5, 4) == 0.8


def _queue_end(ready: list[float], cost: list[float]) -> float:
    """逐个时刻推进的通信队列：桶按次序就绪、按次序发送，返回最后一个发完的时刻。"""
    clock = 0.0
    for at, duration in zip(ready, cost, strict=True):
        while clock < at:
            clock = at
        clock += duration
    return clock


def test_weak_efficiency__matches_timeline() -> None:
    """四个桶在反向的不同时刻就绪：画出时间线，单独的步时除以有通信的步时。"""
    forward, backward, other = 30.0, 80.0, 10.0
    ready = [20.0, 40.0, 60.0, 80.0]
    for cost in ([5.0] * 4, [20.0] * 4, [30.0, 1.0, 40.0, 9.0]):
        end = _queue_end(ready, cost)
        step = forward + max(backward, end) + other
        actual = weak_efficiency(forward, backward, other, end)
        torch.testing.assert_close(actual, 120.0 / step)


def test_weak_efficiency__equals_worked_example() -> None:
    """前向 30、反向 60、其余 10：通信到 85 才完，效率 0.8；到 60 之前完，效率 1。"""
    assert weak_efficiency(30.0, 60.0, 10.0, 85.0) == 0.8
    assert weak_efficiency(30.0, 60.0, 10.0, 60.0) == 1
    assert weak_efficiency(30.0, 60.0, 10.0, 0.0) == 1
    assert weak_efficiency(30.0, 60.0, 10.0, 60.0 + 100.0) == 0.5  # 不重叠，通信与计算一样长


def test_amdahl_speedup__rejects_bad_input() -> None:
    """比例不在 [0, 1] 里、处理器的个数不是正整数时报错。"""
    for function in (amdahl_speedup, gustafson_speedup):
        for fraction in (-0.1, 1.1, math.nan):
            with pytest.raises(ValueError, match="parallel_fraction"):
                function(fraction, 2)
        for workers in (0, 1.5):
            with pytest.raises(ValueError, match="workers"):
                function(0.5, workers)


def test_karp_flatt_fraction__rejects_bad_input() -> None:
    """加速比不是正数、只有一个处理器时报错。"""
    for speedup in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="speedup"):
            karp_flatt_fraction(speedup, 2)
    with pytest.raises(ValueError, match="workers"):
        karp_flatt_fraction(1.0, 1)


def test_weak_efficiency__rejects_bad_input() -> None:
    """时间是负数、没有计算时报错；strong_efficiency 要求时间为正。"""
    for place, name in enumerate(("forward", "backward", "other", "communication_end")):
        for value in (-1.0, math.nan, math.inf):
            times = [1.0] * 4
            times[place] = value
            with pytest.raises(ValueError, match=name):
                weak_efficiency(*times)
    with pytest.raises(ValueError, match="不能都是 0"):
        weak_efficiency(0.0, 0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="time_alone"):
        strong_efficiency(0.0, 1.0, 2)
    with pytest.raises(ValueError, match="time_together"):
        strong_efficiency(1.0, -1.0, 2)
    with pytest.raises(ValueError, match="workers"):
        strong_efficiency(1.0, 1.0, 0)
