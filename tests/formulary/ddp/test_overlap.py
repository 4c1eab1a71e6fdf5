"""通信与反向的重叠：与事件队列、穷举，以及真实的 DDP 在一条慢链路上的时刻对照。"""

import heapq
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from formulary.ddp.overlap import (
    BucketSpan,
    SlowLink,
    bucket_finish_times,
    bucket_finish_times_unrolled,
    equal_bucket_time,
    optimal_bucket_count,
    overlapped_step_time,
    sequential_step_time,
)

Ranks = Callable[..., list[Any]]
LAYERS, WIDTH, PAUSE = 8, 64, 0.01  # 每层反向睡 10 毫秒
ALPHA, TRANSFER = 0.005, 0.08  # 每次 5 毫秒，全部梯度 80 毫秒
LAYER_BYTES = 4 * WIDTH * WIDTH


def _buckets(seed: int, count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ready = torch.rand(count, dtype=torch.float64, generator=generator).mul(10).cumsum(0)
    return ready, 8 * torch.rand(count, dtype=torch.float64, generator=generator)


def _event_queue(ready: list[float], sizes: list[float], alpha: float, beta: float) -> list[float]:
    """就绪与传完两种事件按时刻出队；链路空着才从队头取一个桶。"""
    events = [(r, 0, i) for i, r in enumerate(ready)]
    heapq.heapify(events)
    waiting, busy, done = deque[int](), False, [math.nan] * len(ready)
    while events:
        now, kind, i = heapq.heappop(events)
        if kind == 0:
            waiting.append(i)
        else:
            busy, done[i] = False, now
        if waiting and not busy:
            j = waiting.popleft()
            busy = True
            heapq.heappush(events, (now + alpha + beta * sizes[j], 1, j))
    return done


def test_bucket_finish_times__matches_event_queue() -> None:
    """30 组随机的桶，与先进先出的事件队列相同；链路有时空闲，有时积压。"""
    for seed in range(30):
        ready, sizes = _buckets(seed, 1 + seed % 7)
        alpha, beta = 0.2 * (seed % 4), 0.3 * (1 + seed % 5)
        expected = _event_queue(ready.tolist(), sizes.tolist(), alpha, beta)
        actual = bucket_finish_times(ready, sizes, alpha, beta)
        torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_bucket_finish_times__equals_worked_example() -> None:
    """文中手算的四个桶：完成于 15、28、41、47 毫秒。"""
    ready, sizes = torch.tensor([5.0, 10.0, 20.0, 40.0]), torch.tensor([4.0, 5.5, 5.5, 2.0])
    finish = bucket_finish_times(ready, sizes, alpha=2.0, beta=2.0)
    assert finish.tolist() == [15.0, 28.0, 41.0, 47.0]


def test_bucket_finish_times__limit_idle_and_saturated_link() -> None:
    """链路很快时各桶就绪即完成；都在零时刻就绪时是占用时间的累加。"""
    ready, sizes = _buckets(3, 6)
    torch.testing.assert_close(bucket_finish_times(ready, sizes, 0.0, 0.0), ready)
    saturated = bucket_finish_times(torch.zeros_like(ready), sizes, 0.5, 2.0)
    total, expected = 0.0, []
    for s in sizes.tolist():
        total += 0.5 + 2.0 * s
        expected.append(total)
    torch.testing.assert_close(saturated, torch.tensor(expected, dtype=torch.float64))


def test_bucket_finish_times__rejects_bad_input() -> None:
    """长度不同、空的、整数的、时刻倒退或为负、字节数为负、代价为负，都报错。"""
    two = torch.tensor([1.0, 2.0])
    for ready, sizes, name in (
        (two, torch.ones(3), "sizes"),
        (torch.zeros(0), torch.zeros(0), "至少要有一个桶"),
        (torch.tensor([1, 2]), two, "ready"),
        (two.flip(0), two, "ready 必须非负且不减"),
        (two - 2, two, "ready 必须非负且不减"),
        (two, -two, "sizes 必须非负"),
    ):
        with pytest.raises(ValueError, match=name):
            bucket_finish_times(ready, sizes, 1.0, 1.0)
    for name, alpha, beta in (("alpha", -1.0, 1.0), ("beta", 1.0, math.inf)):
        with pytest.raises(ValueError, match=f"{name} 必须是有限的非负数"):
            bucket_finish_times(two, two, alpha, beta)


def test_bucket_finish_times_unrolled__matches_enumeration() -> None:
    """逐个枚举“从第 j 个桶就绪起链路不空”的 j，取最大。"""
    for seed in range(20):
        ready, sizes = _buckets(seed, 1 + seed % 6)
        cost = [0.7 + 0.4 * s for s in sizes.tolist()]
        expected = [
            max(ready[j].item() + sum(cost[j : i + 1]) for j in range(i + 1))
            for i in range(len(cost))
        ]
        actual = bucket_finish_times_unrolled(ready, sizes, 0.7, 0.4)
        torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_bucket_finish_times_unrolled__equals_recurrence() -> None:
    """与逐个递推的写法相同。"""
    for seed in range(20):
        ready, sizes = _buckets(seed, 9)
        torch.testing.assert_close(
            bucket_finish_times_unrolled(ready, sizes, 0.3, 0.6),
            bucket_finish_times(ready, sizes, 0.3, 0.6),
        )


def test_bucket_finish_times_unrolled__rejects_bad_input() -> None:
    """时刻倒退、长度不同时报错。"""
    two = torch.tensor([1.0, 2.0])
    for ready, sizes in ((two.flip(0), two), (two, torch.ones(3))):
        with pytest.raises(ValueError, match=r"ready|sizes"):
            bucket_finish_times_unrolled(ready, sizes, 1.0, 1.0)


def test_overlapped_step_time__matches_event_queue() -> None:
    """前向之后，反向与链路都结束才算完：链路慢时由链路定，快时由反向定。"""
    ready, sizes = _buckets(5, 6)
    backward = ready[-1].item() + 1.0
    for alpha, beta in ((0.1, 0.01), (0.5, 1.0), (3.0, 4.0)):
        last = _event_queue(ready.tolist(), sizes.tolist(), alpha, beta)[-1]
        actual = overlapped_step_time(7.0, backward, ready, sizes, alpha, beta)
        torch.testing.assert_close(actual, 7.0 + max(backward, last))


def test_overlapped_step_time__bounds_between_computing_and_sequential() -> None:
    """不少于计算，也不少于第一个桶就绪加全部通信；不多于先算完再通信。"""
    for seed in range(20):
        ready, sizes = _buckets(seed, 5)
        backward, alpha, beta = ready[-1].item(), 0.4, 0.2 * seed
        communication = sum(alpha + beta * s for s in sizes.tolist())
        actual = overlapped_step_time(2.0, backward, ready, sizes, alpha, beta)
        low = 2.0 + max(backward, ready[0].item() + communication)
        high = sequential_step_time(2.0, backward, sizes, alpha, beta)
        assert low - 1e-9 <= actual <= high + 1e-9


def test_overlapped_step_time__equals_worked_example() -> None:
    """文中手算：前向 20、反向 40，重叠 67 毫秒，不重叠 102 毫秒。"""
    ready, sizes = torch.tensor([5.0, 10.0, 20.0, 40.0]), torch.tensor([4.0, 5.5, 5.5, 2.0])
    assert overlapped_step_time(20.0, 40.0, ready, sizes, alpha=2.0, beta=2.0) == 67.0
    assert overlapped_step_time(20.0, 50.0, ready, sizes, alpha=2.0, beta=2.0) == 70.0


def test_overlapped_step_time__rejects_bad_input() -> None:
    """时间为负、时刻倒退时报错。"""
    two = torch.tensor([1.0, 2.0])
    with pytest.raises(ValueError, match="forward 必须"):
        overlapped_step_time(-1.0, 1.0, two, two, 1.0, 1.0)
    with pytest.raises(ValueError, match="backward 必须"):
        overlapped_step_time(1.0, -1.0, two, two, 1.0, 1.0)
    with pytest.raises(ValueError, match="ready 必须"):
        overlapped_step_time(1.0, 1.0, two.flip(0), two, 1.0, 1.0)


def test_sequential_step_time__matches_event_queue() -> None:
    """全部桶都在反向结束时才就绪的事件队列。"""
    ready, sizes = _buckets(4, 6)
    backward = ready[-1].item()
    last = _event_queue([backward] * 6, sizes.tolist(), 0.4, 0.9)[-1]
    torch.testing.assert_close(sequential_step_time(3.0, backward, sizes, 0.4, 0.9), 3.0 + last)


def test_sequential_step_time__equals_worked_example() -> None:
    """文中手算：20 + 40 + (10 + 13 + 13 + 6) = 102 毫秒。"""
    sizes = torch.tensor([4.0, 5.5, 5.5, 2.0])
    assert sequential_step_time(20.0, 40.0, sizes, alpha=2.0, beta=2.0) == 102.0


def test_sequential_step_time__rejects_bad_input() -> None:
    """时间、代价或字节数为负，sizes 不是一维浮点张量，都报错。"""
    two = torch.tensor([1.0, 2.0])
    for arguments in (
        (-1.0, 1.0, two, 1.0, 1.0),
        (1.0, -1.0, two, 1.0, 1.0),
        (1.0, 1.0, -two, 1.0, 1.0),
        (1.0, 1.0, two[None], 1.0, 1.0),
        (1.0, 1.0, two, -1.0, 1.0),
    ):
        with pytest.raises(ValueError, match="必须"):
            sequential_step_time(*arguments)


@pytest.mark.parametrize("alpha", [0.05, 0.5, 3.0])
def test_equal_bucket_time__matches_event_queue(alpha: float) -> None:
    """第 i 个桶在 iT/B 就绪、各 S/B 字节的事件队列，通信多与计算多两种情形都相同。"""
    for size in (2.0, 8.0, 40.0):
        for count in (1, 2, 3, 7, 40):
            ready = [10.0 * (i + 1) / count for i in range(count)]
            expected = _event_queue(ready, [size / count] * count, alpha, 0.5)[-1]
            actual = equal_bucket_time(count, 10.0, size, alpha, 0.5)
            torch.testing.assert_close(actual, expected)


def test_equal_bucket_time__equals_worked_example() -> None:
    """反向 80、α = 5、传输 80 毫秒：1、2、4、8 个桶是 165、130、120、130 毫秒。"""
    times = [equal_bucket_time(b, 80.0, 80.0, 5.0, 1.0) for b in (1, 2, 4, 8)]
    assert times == [165.0, 130.0, 120.0, 130.0]


def test_equal_bucket_time__equals_exercise() -> None:
    """练习：传输只要 40 毫秒时，4 个桶是 95 毫秒，8 个桶是 90 毫秒，16 个桶是 125 毫秒。"""
    times = [equal_bucket_time(b, 80.0, 40.0, 5.0, 1.0) for b in (4, 8, 16)]
    assert times == [95.0, 90.0, 125.0]
    assert min(range(1, 100), key=lambda b: equal_bucket_time(b, 80.0, 40.0, 5.0, 1.0)) == 8
    assert optimal_bucket_count(80.0, 40.0, 5.0, 1.0) == 8.0


def test_equal_bucket_time__rejects_bad_input() -> None:
    """没有桶、时间或代价为负时报错。"""
    with pytest.raises(ValueError, match="count 必须"):
        equal_bucket_time(0, 1.0, 1.0, 1.0, 1.0)
    for position, name in enumerate(("backward", "size", "alpha", "beta")):
        arguments = [1.0, 1.0, 1.0, 1.0]
        arguments[position] = -1.0
        with pytest.raises(ValueError, match=f"{name} 必须"):
            equal_bucket_time(2, *arguments)


def test_optimal_bucket_count__matches_enumeration() -> None:
    """在 1 到 400 个桶里用事件队列逐个试，最好的总在公式的值的两侧。"""
    sides = set[bool]()
    for backward in (3.0, 10.0, 80.0):
        for transfer in (0.5, 6.0, 75.0, 300.0):
            for alpha in (0.3, 2.0, 9.0):
                times = [
                    equal_bucket_time(b, backward, transfer, alpha, 1.0) for b in range(1, 401)
                ]
                best = min(times)
                found = optimal_bucket_count(backward, transfer, alpha, 1.0)
                near = (math.floor(found), math.ceil(found))
                assert min(times[b - 1] for b in near) == pytest.approx(best, rel=1e-12)
                sides.add(backward - transfer > alpha * math.sqrt(backward / alpha))
    assert sides == {True, False}


def test_optimal_bucket_count__equals_worked_example() -> None:
    """反向 80、α = 5：通信不少于计算时是 √16 = 4；传输只要 40 毫秒时是 8；反向很短时是 1。"""
    assert optimal_bucket_count(80.0, 80.0, 5.0, 1.0) == 4.0
    assert optimal_bucket_count(80.0, 40.0, 5.0, 1.0) == 8.0
    assert optimal_bucket_count(2.0, 40.0, 5.0, 1.0) == 1.0


def test_optimal_bucket_count__differs_from_square_root_alone() -> None:
    """通信比计算少时，只用 √(T/α) 的桶数更慢。"""
    root = round(math.sqrt(80.0 / 5.0))
    best = round(optimal_bucket_count(80.0, 40.0, 5.0, 1.0))
    assert equal_bucket_time(root, 80.0, 40.0, 5.0, 1.0) > equal_bucket_time(
        best, 80.0, 40.0, 5.0, 1.0
    )


def test_optimal_bucket_count__rejects_bad_input() -> None:
    """固定开销为零、参数为负时报错。"""
    with pytest.raises(ValueError, match="alpha 必须大于 0"):
        optimal_bucket_count(1.0, 1.0, 0.0, 1.0)
    for arguments in ((-1.0, 1.0, 1.0, 1.0), (1.0, -1.0, 1.0, 1.0), (1.0, 1.0, 1.0, -1.0)):
        with pytest.raises(ValueError, match="必须是有限的非负数"):
            optimal_bucket_count(*arguments)


class _Pause(torch.autograd.Function):
    """前向什么也不做，反向睡一会儿。"""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        time.sleep(PAUSE)
        return gradient


class _SlowLinear(nn.Linear):
    """反向慢的线性层：先睡，再得到权重的梯度。"""

    def forward(self, x: Tensor) -> Tensor:
        return _Pause.apply(super().forward(x))


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*[_SlowLinear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)])


def _train(layers_per_bucket: int, steps: int) -> list[tuple[list[BucketSpan], float]]:
    """在慢链路上跑几步 DDP；每步的各桶的时刻与反向的用时，从反向开始时计。"""
    cap = layers_per_bucket * LAYER_BYTES / 2**20
    model = DistributedDataParallel(_network(), bucket_cap_mb=cap)
    link = SlowLink(ALPHA, TRANSFER / (LAYERS * LAYER_BYTES))
    model.register_comm_hook(link, SlowLink.hook)
    results = []
    for _ in range(steps):
        link.spans.clear()
        loss = model(torch.ones(2, WIDTH)).sum()
        start = time.perf_counter()
        loss.backward()
        seconds = time.perf_counter() - start
        spans = [
            BucketSpan(s.size, s.ready - start, s.start - start, s.finish - start)
            for s in link.spans
        ]
        results.append((spans, seconds))
    return results[1:]  # 第一次反向只有一个桶


@pytest.mark.parametrize("layers_per_bucket", [1, 2])
def test_SlowLink__matches_recurrence_as_lower_bound(ranks: Ranks, layers_per_bucket: int) -> None:
    """真实的 DDP：各桶完成的时刻不早于递推由实测的就绪时刻算出的，先就绪的先完成，反向等到最后。"""
    for results in ranks(2, _train, layers_per_bucket, 4):
        for spans, seconds in results:
            assert [s.size for s in spans] == [layers_per_bucket * LAYER_BYTES] * (
                LAYERS // layers_per_bucket
            )
            ready = torch.tensor([s.ready for s in spans], dtype=torch.float64)
            sizes = torch.tensor([s.size for s in spans], dtype=torch.float64)
            finish = torch.tensor([s.finish for s in spans], dtype=torch.float64)
            beta = TRANSFER / (LAYERS * LAYER_BYTES)
            assert (finish >= bucket_finish_times(ready, sizes, ALPHA, beta) - 1e-9).all()
            for i, span in enumerate(spans):
                assert span.start >= max(span.ready, spans[i - 1].finish if i else 0.0)
                assert span.ready >= PAUSE * layers_per_bucket * (i + 1)
            assert seconds >= spans[-1].finish


def test_SlowLink__is_busy_before_last_bucket_is_ready(ranks: Ranks) -> None:
    """重叠真的发生：第一层的反向一直等到有桶传完才往下算，每一步都等得到；不靠时钟，机器再忙也一样。"""

    def run() -> list[tuple[list[BucketSpan], bool]]:
        model = DistributedDataParallel(_network(), bucket_cap_mb=2 * LAYER_BYTES / 2**20)
        link, results = SlowLink(ALPHA, 0.0), []
        model.register_comm_hook(link, SlowLink.hook)
        x = torch.ones(2, WIDTH)
        model(x).sum().backward()  # 第一次反向只有一个桶，没有可重叠的

        def wait(gradient: Tensor) -> Tensor:
            deadline = time.monotonic() + 15.0
            while not link.spans and time.monotonic() < deadline:
                time.sleep(0.001)
            results.append(bool(link.spans))
            return gradient

        def attach(_module: nn.Module, _x: object, y: Tensor) -> None:
            y.register_hook(wait)

        model.module[0].register_forward_hook(attach)
        for _ in range(2):
            link.spans.clear()
            model(x).sum().backward()
            assert len(link.spans) == LAYERS // 2
            results[-1] = (list(link.spans), results[-1])
        return results

    for results in ranks(2, run):
        for spans, finished_first in results:
            assert finished_first
            assert spans[0].finish < spans[-1].ready


def test_SlowLink__preserves_average_gradient(ranks: Ranks) -> None:
    """慢链路不改变结果：梯度是两个 rank 的平均，与不经 DDP 各自求得的相同。"""

    def run() -> tuple[Tensor, Tensor]:
        x = torch.full((2, 3), 1.0 + torch.distributed.get_rank(), dtype=torch.float64)
        torch.manual_seed(0)
        local = nn.Linear(3, 2).double()
        model = DistributedDataParallel(nn.Linear(3, 2).double())
        model.module.load_state_dict(local.state_dict())
        model.register_comm_hook(SlowLink(0.001, 0.0), SlowLink.hook)
        for network in (local, model):
            network(x).square().sum().backward()
        return local.weight.grad, model.module.weight.grad

    (first, averaged), (second, _) = ranks(2, run)
    torch.testing.assert_close(averaged, (first + second) / 2)


def test_SlowLink__rejects_bad_input() -> None:
    """代价为负或不是数时报错。"""
    for alpha, beta in ((-1.0, 0.0), (0.0, -1.0), (math.nan, 0.0)):
        with pytest.raises(ValueError, match="必须是有限的非负数"):
            SlowLink(alpha, beta)


def test_BucketSpan__equals_named_tuple() -> None:
    """一项就是（字节数，就绪，开始，完成）。"""
    assert BucketSpan(8, 1.0, 2.0, 3.0) == (8, 1.0, 2.0, 3.0)
