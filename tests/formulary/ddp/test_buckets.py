"""DDP 的桶：与 torch 自己的装桶函数、真实的 DDP 在两个进程里用的桶及其内存对照。"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from formulary.ddp.buckets import assign_buckets, bucket_copy_bytes, record_buckets

Ranks = Callable[..., list[Any]]
WIDTHS = (40, 30, 50, 200, 300, 700, 5)
CAP = 0.1  # MiB


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(a, b) for a, b in pairwise(WIDTHS)])


def _registered() -> list[int]:
    """各参数的字节数，按注册的次序：每层先权重后偏置。"""
    return [4 * size for a, b in pairwise(WIDTHS) for size in (a * b, b)]


def _sizes(record: list[list[int]]) -> list[int]:
    return [sum(bucket) for bucket in record]


def test_assign_buckets__matches_torch() -> None:
    """200 组随机的大小与上限，与 torch 的 _compute_bucket_assignment_by_size 逐项相同。"""
    generator = torch.Generator().manual_seed(0)
    closed = 0
    for _ in range(200):
        count = int(torch.randint(1, 12, (), generator=generator))
        elements = torch.randint(1, 60, (count,), generator=generator).tolist()
        caps = (4 * torch.randint(1, 90, (1 + count % 3,), generator=generator)).tolist()
        tensors = [torch.empty(size) for size in elements]
        theirs = dist._compute_bucket_assignment_by_size(tensors, caps)[0]
        ours = assign_buckets([4 * size for size in elements], caps)
        assert ours == theirs
        closed += len(ours) - 1
    assert closed > 300


def test_assign_buckets__equals_worked_example() -> None:
    """文中手算的例子；恰好装到上限也封口；没有参数就没有桶。"""
    sizes = [4 * k for k in (100, 200, 300, 50, 400, 10)]
    assert assign_buckets(sizes, [1200, 2000]) == [[0, 1], [2, 3, 4], [5]]
    assert assign_buckets([3, 3, 3], [6]) == [[0, 1], [2]]
    assert assign_buckets([3, 3, 3], [7]) == [[0, 1, 2]]
    assert assign_buckets([], [6]) == []


def test_assign_buckets__preserves_order_and_bounds_size() -> None:
    """不重不漏、次序不变；除最后一个，每个桶都不小于上限，去掉末尾的参数就小于上限。"""
    generator = torch.Generator().manual_seed(1)
    sizes = torch.randint(1, 50, (80,), generator=generator).tolist()
    caps = [30, 100, 60]
    buckets = assign_buckets(sizes, caps)
    assert [index for bucket in buckets for index in bucket] == list(range(80))
    for i, bucket in enumerate(buckets[:-1]):
        held = [sizes[index] for index in bucket]
        assert sum(held) >= caps[min(i, 2)] > sum(held[:-1])


def test_assign_buckets__differs_from_closing_before_overflow() -> None:
    """装不下才另开一桶的写法（通常的装箱）得到的桶不同，也与 torch 的不同。"""
    sizes, cap = [400, 800, 1200, 200], 1000
    wrong: list[list[int]] = [[]]
    for index, size in enumerate(sizes):
        if wrong[-1] and sum(sizes[k] for k in wrong[-1]) + size > cap:
            wrong.append([])
        wrong[-1].append(index)
    tensors = [torch.empty(size // 4) for size in sizes]
    assert wrong == [[0], [1], [2], [3]]
    assert assign_buckets(sizes, [cap]) == [[0, 1], [2], [3]]
    assert dist._compute_bucket_assignment_by_size(tensors, [cap])[0] == [[0, 1], [2], [3]]


def test_assign_buckets__differs_from_torch_on_mixed_types() -> None:
    """两种类型混在一起时，torch 各开各的桶；这里的函数只管一种类型。"""
    tensors = [torch.empty(2), torch.empty(1, dtype=torch.float64), torch.empty(2)]
    assert dist._compute_bucket_assignment_by_size(tensors, [16])[0] == [[0, 2], [1]]
    assert assign_buckets([tensor.nbytes for tensor in tensors], [16]) == [[0, 1], [2]]


def test_assign_buckets__rejects_bad_input() -> None:
    """没有上限、上限为零、大小为负或不是整数时报错。"""
    with pytest.raises(ValueError, match="caps 至少要有一个"):
        assign_buckets([1], [])
    with pytest.raises(ValueError, match="caps 的每一项"):
        assign_buckets([1], [0])
    for size in (-1, 2.0):
        with pytest.raises(ValueError, match="sizes 的每一项"):
            assign_buckets([size], [4])


def test_record_buckets__matches_ddp_logging(ranks: Ranks) -> None:
    """记下的桶与 DDP 自己的日志相同：第一次反向一个桶，之后是重建的桶；两个 rank 一样。"""

    def run() -> tuple[list[list[list[int]]], list[str], bool]:
        model = DistributedDataParallel(_network(), bucket_cap_mb=CAP)
        record = record_buckets(model)
        for _ in range(3):
            model(torch.ones(2, WIDTHS[0])).sum().backward()
        logged = model._get_ddp_logging_data()
        names = [logged["bucket_sizes"], logged["rebuilt_bucket_sizes"]]
        return record, names, logged["has_rebuilt_buckets"] == 1

    (record, (logged, rebuilt), happened), other = ranks(2, run)
    assert happened
    assert record == other[0]
    assert str(_sizes(record[0])) == f"[{logged}]"
    assert str(_sizes(record[1])) == f"[{rebuilt}]"
    assert record[2] == record[1]


def test_record_buckets__equals_one_bucket_then_ready_order(ranks: Ranks) -> None:
    """默认的选项：第一次反向是一个桶，之后按梯度就绪的次序（末层起，偏置先于权重）装桶。"""

    def run() -> list[list[list[int]]]:
        model = DistributedDataParallel(_network(), bucket_cap_mb=CAP)
        record = record_buckets(model)
        for _ in range(3):
            model(torch.ones(2, WIDTHS[0])).sum().backward()
        return record

    ready = _registered()[::-1]
    expected = [[ready[k] for k in b] for b in assign_buckets(ready, [int(CAP * 2**20)])]
    assert len(expected) == 3
    for record in ranks(2, run):
        assert record == [[_registered()], expected, expected]


def test_record_buckets__equals_default_caps(ranks: Ranks) -> None:
    """不给 bucket_cap_mb 时第一个桶的上限是 1 MiB，其余 25 MiB；明写 25 时第一个桶也是 25 MiB。"""

    def run() -> list[list[list[int]]]:
        records = []
        for options in ({}, {"bucket_cap_mb": 25}):
            model = DistributedDataParallel(_network(), **options)
            record = record_buckets(model)
            for _ in range(2):
                model(torch.ones(2, WIDTHS[0])).sum().backward()
            records.append(record[1])
        return records

    ready = _registered()[::-1]
    caps = [dist._DEFAULT_FIRST_BUCKET_BYTES, 25 * 2**20]
    assert caps[0] == 2**20
    expected = [[ready[k] for k in bucket] for bucket in assign_buckets(ready, caps)]
    assert len(expected) == 2
    for default, explicit in ranks(2, run):
        assert default == expected
        assert explicit == [ready]


def test_record_buckets__equals_caps_in_both_orders_with_cap_list(ranks: Ranks) -> None:
    """bucket_cap_mb_list：第一次反向就分桶，按注册的次序装、倒过来用；第二次起照就绪的次序重建。"""

    def run() -> list[list[int]]:
        model = DistributedDataParallel(_network(), bucket_cap_mb_list=[1, 25])
        record = record_buckets(model)
        for _ in range(3):
            model(torch.ones(2, WIDTHS[0])).sum().backward()
        return [_sizes(buckets) for buckets in record]

    caps = [2**20, 25 * 2**20]
    first, rebuilt = (
        [sum(sizes[k] for k in bucket) for bucket in assign_buckets(sizes, caps)]
        for sizes in (_registered(), _registered()[::-1])
    )
    assert len(first) == len(rebuilt) == 2
    for record in ranks(2, run):
        assert record == [first[::-1], rebuilt, rebuilt]


def test_record_buckets__equals_small_bucket_last_with_unused_parameters(ranks: Ranks) -> None:
    """find_unused_parameters=True 与默认的上限：1 MiB 的那个桶排在最后。"""

    def run() -> list[int]:
        model = DistributedDataParallel(_network(), find_unused_parameters=True)
        record = record_buckets(model)
        model(torch.ones(2, WIDTHS[0])).sum().backward()
        return _sizes(record[0])

    sizes = _registered()
    buckets = assign_buckets(sizes, [2**20, 25 * 2**20])
    small, rest = (sum(sizes[k] for k in bucket) for bucket in buckets)
    assert ranks(2, run) == [[rest, small]] * 2


def test_record_buckets__equals_registration_order_with_unused_parameters(ranks: Ranks) -> None:
    """find_unused_parameters=True：从第一次反向起就分桶，按注册的次序装，再把桶倒过来，不重建。"""

    def run() -> list[list[list[int]]]:
        model = DistributedDataParallel(_network(), bucket_cap_mb=CAP, find_unused_parameters=True)
        record = record_buckets(model)
        for _ in range(3):
            model(torch.ones(2, WIDTHS[0])).sum().backward()
        return record

    sizes = _registered()
    buckets = [[sizes[k] for k in b] for b in assign_buckets(sizes, [int(CAP * 2**20)])]
    for record in ranks(2, run):
        assert [[sorted(b) for b in r] for r in record] == [[sorted(b) for b in buckets[::-1]]] * 3


def test_record_buckets__equals_rebuild_one_step_later_with_static_graph(ranks: Ranks) -> None:
    """static_graph=True：前两次反向都是一个桶，第三次起才用重建的桶。"""

    def run() -> list[int]:
        model = DistributedDataParallel(_network(), bucket_cap_mb=CAP, static_graph=True)
        record = record_buckets(model)
        for _ in range(4):
            model(torch.ones(2, WIDTHS[0])).sum().backward()
        return [len(buckets) for buckets in record]

    assert ranks(2, run) == [[1, 1, 3, 3]] * 2


def test_record_buckets__preserves_gradients(ranks: Ranks) -> None:
    """装上钩子的 DDP 与没有装的，梯度逐位相同，都是两个 rank 的平均。"""

    def run() -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        x = torch.full((2, WIDTHS[0]), 1.0 + dist.get_rank())
        local = _network()
        local(x).square().sum().backward()
        plain, hooked = (DistributedDataParallel(_network()) for _ in range(2))
        record_buckets(hooked)
        for model in (plain, hooked):
            model(x).square().sum().backward()
        return tuple([p.grad for p in m.parameters()] for m in (local, plain, hooked))

    (first, plain, hooked), (second, _, _) = ranks(2, run)
    for a, b, theirs, ours in zip(first, second, plain, hooked, strict=True):
        assert torch.equal(ours, theirs)
        torch.testing.assert_close(ours, (a + b) / 2)


def test_record_buckets__differs_from_wrapper_collected_before_backward(ranks: Ranks) -> None:
    """DDP 模块在反向之前被回收，就不再通信，也不报错：没有桶，梯度是各 rank 自己的。"""

    def run() -> tuple[list[list[list[int]]], Tensor, list[list[list[int]]], Tensor]:
        x = torch.full((1, 3), 1.0 + dist.get_rank())
        kept, dropped = nn.Linear(3, 2), nn.Linear(3, 2)
        model = DistributedDataParallel(kept)
        record = record_buckets(model)
        model(x).sum().backward()
        wrapper = DistributedDataParallel(dropped)
        nothing = record_buckets(wrapper)
        loss = wrapper(x).sum()
        del wrapper
        loss.backward()
        return record, kept.weight.grad, nothing, dropped.weight.grad

    for rank, (record, averaged, nothing, local) in enumerate(ranks(2, run)):
        assert record == [[[24, 8]]]
        torch.testing.assert_close(averaged, torch.full((2, 3), 1.5))
        assert nothing == []
        torch.testing.assert_close(local, torch.full((2, 3), 1.0 + rank))


def test_record_buckets__rejects_other_modules() -> None:
    """不是 DDP 的模块报错。"""
    with pytest.raises(ValueError, match="model 必须是 DistributedDataParallel"):
        record_buckets(nn.Linear(2, 2))


def test_record_buckets__differs_from_hook_with_other_parameter_name(ranks: Ranks) -> None:
    """钩子的第二个参数不叫 bucket 时，注册就失败：KeyError: 'bucket'。"""

    def run() -> str:
        record_buckets(DistributedDataParallel(nn.Linear(2, 2)))

        def hook(state, gradients):  # without annotations, as in a reader's first attempt
            return gradients

        try:
            DistributedDataParallel(nn.Linear(2, 2)).register_comm_hook(None, hook)
        except KeyError as error:
            return repr(error)
        return ""

    assert ranks(2, run) == ["KeyError('bucket')"] * 2


def _extra_bytes(*, view: bool) -> tuple[int, int]:
    """真实的 DDP 在第三次反向之后：桶与梯度一共占的内存，减去梯度的字节数。"""
    model = DistributedDataParallel(_network(), bucket_cap_mb=CAP, gradient_as_bucket_view=view)
    buffers: list[Tensor] = []

    def hook(_state: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        buffers.append(bucket.buffer())
        future: torch.futures.Future[Tensor] = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    model.register_comm_hook(None, hook)
    for _ in range(3):
        buffers.clear()
        model(torch.ones(2, WIDTHS[0])).sum().backward()
    gradients = [p.grad for p in model.parameters()]
    held = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in buffers + gradients
    }
    extra = sum(held.values()) - sum(g.nbytes for g in gradients)
    return extra, bucket_copy_bytes(model.parameters(), gradient_as_bucket_view=view)


def test_bucket_copy_bytes__matches_memory_held_by_ddp(ranks: Ranks) -> None:
    """数 DDP 的桶与梯度实际占的内存块：不用视图时另占一份，用视图时一个字节也不多。"""

    def run() -> list[tuple[int, int]]:
        return [_extra_bytes(view=view) for view in (False, True)]

    for (copied, expected), (viewed, none) in ranks(2, run):
        assert copied == expected == sum(_registered()) > 10**6
        assert viewed == none == 0


def test_bucket_copy_bytes__equals_worked_example() -> None:
    """一个 3 → 2 的线性层有 8 个 float32，另占 32 字节；float64 是 64 字节。"""
    layer = nn.Linear(3, 2)
    assert bucket_copy_bytes(layer.parameters()) == 32
    assert bucket_copy_bytes(layer.double().parameters()) == 64
    assert bucket_copy_bytes(layer.parameters(), gradient_as_bucket_view=True) == 0


def test_bucket_copy_bytes__is_zero_for_views_that_cannot_be_detached(ranks: Ranks) -> None:
    """grad 是桶的视图时，detach_() 报错；不是视图时可以。"""

    def run() -> list[tuple[int, bool]]:
        results = []
        for view in (True, False):
            layer = nn.Linear(3, 2)
            model = DistributedDataParallel(layer, gradient_as_bucket_view=view)
            model(torch.ones(1, 3)).sum().backward()
            try:
                layer.weight.grad.detach_()
                detached = True
            except RuntimeError:
                detached = False
            extra = bucket_copy_bytes(layer.parameters(), gradient_as_bucket_view=view)
            results.append((extra, detached))
        return results

    assert ranks(2, run) == [[(0, False), (32, True)]] * 2


def test_bucket_copy_bytes__rejects_frozen_parameters() -> None:
    """不要求梯度的参数不进桶，报错。"""
    with pytest.raises(ValueError, match="要求梯度"):
        bucket_copy_bytes([torch.zeros(2)])
    with pytest.raises(ValueError, match="要求梯度"):
        bucket_copy_bytes([3])
