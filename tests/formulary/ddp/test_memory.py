"""DDP 与 ZeRO 的显存公式的检验：论文的例子，以及真实进程里的真实模型。"""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from formulary.ddp.memory import held_bytes, zero_breakdown, zero_bytes, zero_sent_elements

with warnings.catch_warnings():  # importing it compiles with torch.jit, which torch deprecates
    warnings.simplefilter("ignore", DeprecationWarning)
    from torch.distributed.optim import ZeroRedundancyOptimizer

Ranks = Callable[..., list[Any]]
SINGLE = (4, 4, 8)  # 全用 float32 的 Adam：参数、梯度、两个矩
STAGES = {"DDP": 0, "ZeroRedundancyOptimizer": 1, "fully_shard": 3}


def _network() -> nn.Module:
    """8·16 + 16 + 16·12 + 12 + 12·4 + 4 = 400 个参数，各层的行数都是 4 的倍数。"""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4)
    )


def _wrapped(kind: str, reshard: bool = True) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = _network()
    if kind == "fully_shard":
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for layer in [*model[::2], model]:
            fully_shard(layer, mesh=mesh, reshard_after_forward=reshard)
        return model, torch.optim.Adam(model.parameters(), lr=0.01)
    parallel = DistributedDataParallel(model)
    if kind == "DDP":
        return parallel, torch.optim.Adam(parallel.parameters(), lr=0.01)
    return parallel, ZeroRedundancyOptimizer(parallel.parameters(), torch.optim.Adam, lr=0.01)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, samples: slice) -> None:
    x = torch.randn(8, 8, generator=torch.Generator().manual_seed(3))
    optimizer.zero_grad()
    model(x[samples]).square().mean().backward()
    optimizer.step()


def _mine() -> slice:
    share = 8 // dist.get_world_size()
    return slice(dist.get_rank() * share, (dist.get_rank() + 1) * share)


def _held_by_each_kind() -> dict[str, tuple[float, ...]]:
    held = {}
    for kind in STAGES:
        model, optimizer = _wrapped(kind)
        _step(model, optimizer, _mine())
        held[kind] = tuple(held_bytes(model, optimizer))
    return held


class _Traffic(TorchDispatchMode):
    """记下这个 rank 调用的每个集合通信，以及完整的那一侧有多少元素。"""

    def __init__(self) -> None:
        super().__init__()
        self.calls = list[tuple[str, int]]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        if func.namespace == "c10d":
            tensors = [a for a in torch.utils._pytree.tree_leaves(args) if isinstance(a, Tensor)]
            self.calls.append((func.__name__.split(".")[0], max(t.numel() for t in tensors)))
        return func(*args, **(kwargs or {}))

    def total(self, *names: str) -> int:
        return sum(size for name, size in self.calls if name in names)


def _traffic(kind: str, reshard: bool = True) -> tuple[int, int, int, int]:
    model, optimizer = _wrapped(kind, reshard)
    for _ in range(2):  # 头两步另有核对与重建桶的通信
        _step(model, optimizer, _mine())
    with _Traffic() as traffic:
        _step(model, optimizer, _mine())
    names = ("allreduce_", "_reduce_scatter_base_", "_allgather_base_", "broadcast_")
    assert sum(map(traffic.total, names)) == sum(size for _, size in traffic.calls)
    return tuple(map(traffic.total, names))


def test_zero_bytes__equals_paper_example() -> None:
    """7.5 B 个参数、64 个 rank：120、31.4、16.6、1.9 GB，即论文图 1 的数。"""
    actual = [round(zero_bytes(7_500_000_000, 64, stage) / 1e9, 1) for stage in range(4)]
    assert actual == [120.0, 31.4, 16.6, 1.9]


def test_zero_bytes__matches_tensors_of_mixed_precision_training() -> None:
    """真的建出半精度的参数与梯度、单精度的主参数与两个矩，逐个分给各 rank，数字节。"""
    n, ranks = 60, 4
    full = {
        "parameters": [torch.zeros(n, dtype=torch.float16)],
        "gradients": [torch.zeros(n, dtype=torch.float16)],
        "optimizer": [torch.zeros(n, dtype=torch.float32) for _ in range(3)],
    }
    for stage, sharded in enumerate(([], ["optimizer"], ["optimizer", "gradients"], list(full))):
        for rank in range(ranks):
            held = 0
            for kind, tensors in full.items():
                for tensor in tensors:
                    share = tensor[rank::ranks] if kind in sharded else tensor
                    held += share.numel() * share.element_size()
            assert zero_bytes(n, ranks, stage) == held


def test_zero_bytes__equals_largest_model_in_eighty_gigabytes() -> None:
    """练习：80 GB 放得下 5 B 个参数的 DDP；8 个 rank 的三级依次是 14.5、21.3、40 B。"""
    largest = [round(80e9 / zero_bytes(1, 8, stage) / 1e9, 1) for stage in range(4)]
    assert largest == [5.0, 14.5, 21.3, 40.0]


def test_zero_bytes__limit_of_many_ranks() -> None:
    """rank 再多，前两级也要留下 4P 与 2P，第三级趋于 0。"""
    many = [zero_bytes(1000, 10**13, stage) for stage in range(4)]
    expected = torch.tensor([16000.0, 4000.0, 2000.0, 0.0])
    torch.testing.assert_close(torch.tensor(many), expected)


@pytest.mark.parametrize("world_size", [2, 4])
def test_held_bytes__matches_formula_in_real_ranks(ranks: Ranks, world_size: int) -> None:
    """真实的 DDP、ZeroRedundancyOptimizer 与 fully_shard：数出的字节数与公式一致。"""
    held = ranks(world_size, _held_by_each_kind)
    for kind, stage in STAGES.items():
        expected = zero_breakdown(400, world_size, stage, SINGLE)
        if kind != "ZeroRedundancyOptimizer":
            assert all(each[kind] == expected for each in held)
            continue
        # 它按整个参数分，不按元素分：各 rank 不一样多，平均才与公式一致
        assert all(each[kind][:2] == expected[:2] for each in held)
        assert sum(each[kind][2] for each in held) / world_size == expected.optimizer


def test_held_bytes__differs_from_formula_on_the_fullest_rank(ranks: Ranks) -> None:
    """ZeroRedundancyOptimizer 按整个参数分：4 个 rank 时最多的存了 384 个元素，平均是 200 个。"""
    held = ranks(4, lambda: held_bytes_of_zero())
    elements = [bytes_ / 4 for bytes_ in held]
    assert elements == [384, 256, 96, 64]
    assert sum(elements) / 4 == 200


def held_bytes_of_zero() -> float:
    model, optimizer = _wrapped("ZeroRedundancyOptimizer")
    _step(model, optimizer, _mine())
    return held_bytes(model, optimizer).optimizer


def test_held_bytes__equals_counts_by_hand() -> None:
    """没有反向之前没有梯度与矩；float64 的层一步之后，三类各是 8、8、16 字节乘参数个数。"""
    layer = nn.Linear(3, 2, dtype=torch.float64)
    optimizer = torch.optim.Adam(layer.parameters())
    assert held_bytes(layer, optimizer) == (64, 0, 0)
    layer(torch.ones(1, 3, dtype=torch.float64)).sum().backward()
    optimizer.step()
    assert held_bytes(layer, optimizer) == (64, 64, 128)


def test_zero_breakdown__preserves_unsharded_parts() -> None:
    """每一级只改它切分的那一类：第 k 级比前一级恰好少了那一类的 (N − 1)/N。"""
    by_stage = [zero_breakdown(1200, 5, stage, (2, 3, 7)) for stage in range(4)]
    assert by_stage[0] == (2400, 3600, 8400)
    assert by_stage[1] == (2400, 3600, 1680)
    assert by_stage[2] == (2400, 720, 1680)
    assert by_stage[3] == (480, 720, 1680)


def test_zero_bytes__preserves_trajectory_of_one_process(ranks: Ranks) -> None:
    """三种切法训练三步，参数都与一个进程的 Adam 相同：切的只是存放的地方。"""
    alone = _network()
    optimizer = torch.optim.Adam(alone.parameters(), lr=0.01)
    for _ in range(3):
        _step(alone, optimizer, slice(None))
    expected = [p.detach() for p in alone.parameters()]

    def trained() -> dict[str, list[Tensor]]:
        results = {}
        for kind in STAGES:
            model, sharded = _wrapped(kind)
            for _ in range(3):
                _step(model, sharded, _mine())
            whole = [
                p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()
            ]
            results[kind] = [p.detach() for p in whole]
        return results

    assert zero_bytes(400, 2, 3, SINGLE) == 3200  # 比较的三种切法，模型状态从 6400 字节减到 3200
    for results in ranks(2, trained):
        for kind in STAGES:
            for actual, parameter in zip(results[kind], expected, strict=True):
                # float32，求和的次序不同，又经 Adam 的除法放大
                torch.testing.assert_close(actual, parameter, rtol=1e-4, atol=1e-5)


def _sent(elements: tuple[int, int, int, int], world_size: int) -> float:
    """送出的元素：全归约是两趟，归约散布、全收集、各 rank 轮流的广播各是一趟。"""
    all_reduced, scattered, gathered, broadcast = elements
    share = (world_size - 1) / world_size
    return (2 * all_reduced + scattered + gathered + broadcast) * share


@pytest.mark.parametrize("world_size", [2, 4])
def test_zero_sent_elements__matches_real_collectives(ranks: Ranks, world_size: int) -> None:
    """截下真实的集合通信：DDP 一次全归约；fully_shard 两次全收集加一次归约散布。"""

    def traffic() -> list[tuple[int, int, int, int]]:
        return [_traffic("DDP"), _traffic("fully_shard"), _traffic("fully_shard", reshard=False)]

    for parallel, sharded, kept in ranks(world_size, traffic):
        assert parallel == (400, 0, 0, 0)
        assert sharded == (0, 400, 800, 0)
        assert kept == (0, 400, 400, 0)
        assert zero_sent_elements(400, world_size, 0) == _sent(parallel, world_size)
        assert zero_sent_elements(400, world_size, 3) == _sent(sharded, world_size)
        # 前向之后不丢参数，便只收集一次，与第 2 级一样
        assert zero_sent_elements(400, world_size, 2) == _sent(kept, world_size)


def test_zero_sent_elements__differs_from_zero_redundancy_optimizer(ranks: Ranks) -> None:
    """torch 的 ZeroRedundancyOptimizer 先全归约梯度，再广播参数，一共三趟，不是论文的两趟。"""
    for elements in ranks(2, _traffic, "ZeroRedundancyOptimizer"):
        assert elements == (400, 0, 0, 400)
        assert _sent(elements, 2) == 1.5 * zero_sent_elements(400, 2, 1)


def test_zero_sent_elements__equals_worked_example() -> None:
    """P = 1000、N = 4：前三级各送 1500 个，第三级 2250 个；一个 rank 不必送。"""
    assert [zero_sent_elements(1000, 4, stage) for stage in range(4)] == [1500, 1500, 1500, 2250]
    assert zero_sent_elements(1000, 1, 3) == 0


def test_zero_bytes__rejects_bad_input() -> None:
    """个数不是正整数、没有的级、宽度不对时报错。"""
    for function in (zero_bytes, zero_breakdown, zero_sent_elements):
        with pytest.raises(ValueError, match="parameters"):
            function(0, 4, 1)
        with pytest.raises(ValueError, match="world_size"):
            function(10, 2.0, 1)
        for stage in (-1, 4, True, 1.0):
            with pytest.raises(ValueError, match="stage"):
                function(10, 4, stage)
    for widths in ((2, 2), (2, 2, -1), (2, 2, 0.5)):
        with pytest.raises(ValueError, match="widths"):
            zero_bytes(10, 4, 1, widths)
    assert zero_bytes(10, 4, 1, (2, 2, 0)) == 40


def test_held_bytes__rejects_bad_input() -> None:
    """不是模块或优化器时报错。"""
    layer = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="model"):
        held_bytes([layer], torch.optim.Adam(layer.parameters()))
    with pytest.raises(ValueError, match="optimizer"):
        held_bytes(layer, None)
