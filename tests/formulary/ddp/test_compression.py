"""float16 通信钩子与传输字节数的检验。"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import (
    bf16_compress_hook,
    fp16_compress_hook,
)
from torch.nn.parallel import DistributedDataParallel

from formulary.ddp.compression import (
    compressed_elements,
    half_precision_error_bound,
    half_precision_hook,
    hook_bytes,
    low_rank_ratio,
    worth_compressing,
)
from formulary.ddp.power_sgd import PowerSGDMemory, power_sgd_hook

Ranks = Callable[..., list[Any]]
Hook = Callable[..., torch.futures.Future[Tensor]]


class _Given(nn.Module):
    """损失对参数的梯度恰好是输入的张量。"""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))

    def forward(self, gradient: Tensor) -> Tensor:
        return (self.weight * gradient).sum()


def _averaged(gradient: Tensor, hook: Hook | None) -> Tensor:
    """让 DDP 用这个钩子平均各 rank 的 gradient。"""
    model = DistributedDataParallel(_Given(len(gradient)))
    if hook is not None:
        model.register_comm_hook(None, hook)
    model(gradient).backward()
    return model.module.weight.grad


def _gradients(world_size: int) -> Tensor:
    """量级从 1e-9 到 1e4、正负都有的梯度，一行一个 rank。"""
    generator = torch.Generator().manual_seed(world_size)
    exponents = 13 * torch.rand(3000, generator=generator) - 9
    return 10**exponents * torch.randn(world_size, 3000, generator=generator)


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_half_precision_hook__matches_torch_hook(ranks: Ranks, world_size: int) -> None:
    """与 torch 自带的 fp16_compress_hook 逐位相同，各 rank 也逐位相同，误差不超过上界。"""
    gradients = _gradients(world_size)

    def work() -> tuple[Tensor, Tensor]:
        own = gradients[dist.get_rank()]
        return _averaged(own, half_precision_hook), _averaged(own, fp16_compress_hook)

    results = ranks(world_size, work)
    error = (results[0][0].double() - gradients.double().mean(dim=0)).abs()
    assert (error <= half_precision_error_bound(gradients.double())).all()
    for ours, theirs in results:
        assert torch.equal(ours, theirs)
        assert torch.equal(ours, results[0][0])


def test_half_precision_hook__matches_float32_average_on_exact_values(ranks: Ranks) -> None:
    """取值是小整数时 float16 没有舍入，与没有钩子的 DDP 结果相同。"""
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randint(-100, 100, (4, 50), generator=generator).float()

    def work() -> tuple[Tensor, Tensor]:
        own = gradients[dist.get_rank()]
        return _averaged(own, half_precision_hook), _averaged(own, None)

    for ours, plain in ranks(4, work):
        torch.testing.assert_close(ours, plain)
        torch.testing.assert_close(ours, gradients.mean(dim=0))


def test_half_precision_hook__equals_overflow_example(ranks: Ranks) -> None:
    """文中的例子：1e5 变成 inf，65519 舍入到 65504，2⁻²⁵ 变成 0，1 + 2⁻¹¹ 变成 1。"""
    values = torch.tensor([1e5, 65519.0, 2.0**-25, 1 + 2.0**-11])
    for averaged in ranks(2, lambda: _averaged(values, half_precision_hook)):
        assert averaged.tolist() == [float("inf"), 65504.0, 0.0, 1.0]


def test_half_precision_hook__differs_from_dividing_first(ranks: Ranks) -> None:
    """先除以 N 再转换，1e5 还在范围内，同号相加仍溢出；一正一负则先除的得 0，先转换的得 NaN。"""
    group = {}

    def divide_first(_: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        packed = bucket.buffer().div(dist.get_world_size()).to(torch.float16)
        group["packed"] = packed.clone()
        work = dist.all_reduce(packed, async_op=True).get_future()
        return work.then(lambda done: bucket.buffer().copy_(done.value()[0]))

    def work() -> tuple[Tensor, Tensor, Tensor]:
        huge = _averaged(torch.tensor([1e5]), divide_first)
        packed = group["packed"]
        mixed = torch.tensor([1e5 if dist.get_rank() == 0 else -1e5])
        return (
            huge,
            packed,
            torch.cat([_averaged(mixed, h) for h in (divide_first, half_precision_hook)]),
        )

    for huge, packed, mixed in ranks(2, work):
        assert packed.isfinite().all()
        assert huge.isinf().all()
        assert mixed[0] == 0
        assert mixed[1].isnan()


def test_half_precision_hook__differs_from_hook_without_division(ranks: Ranks) -> None:
    """钩子只求和不除以 N，DDP 不会替它除，梯度就大了 N 倍。"""

    def summing(_: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        return (
            dist.all_reduce(bucket.buffer(), async_op=True)
            .get_future()
            .then(lambda done: done.value()[0])
        )

    own = torch.tensor([1.0, 2.0])
    for summed, averaged in ranks(
        4, lambda: (_averaged(own, summing), _averaged(own, half_precision_hook))
    ):
        torch.testing.assert_close(summed, 4 * averaged)


def test_half_precision_hook__differs_from_bfloat16_hook_on_cpu(ranks: Ranks) -> None:
    """torch 的 bf16_compress_hook 在 CPU 上注册就报错，float16 的不会。"""

    def work() -> str:
        model = DistributedDataParallel(nn.Linear(2, 2))
        with pytest.raises(TypeError, match="BF16 all reduce communication hook required") as told:
            model.register_comm_hook(None, bf16_compress_hook)
        _averaged(torch.ones(2), half_precision_hook)
        return str(told.value)

    assert len(set(ranks(2, work))) == 1


def test_half_precision_hook__rejects_second_registration(ranks: Ranks) -> None:
    """一个 DDP 模型只能注册一个通信钩子。"""

    def work() -> None:
        model = DistributedDataParallel(nn.Linear(2, 2))
        model.register_comm_hook(None, half_precision_hook)
        model(torch.ones(1, 2)).sum().backward()
        with pytest.raises(RuntimeError, match="register_comm_hook"):
            model.register_comm_hook(None, half_precision_hook)

    ranks(2, work)


def test_half_precision_error_bound__matches_roundings_one_by_one() -> None:
    """规格化的范围内，转换、相除、N − 1 次相加各按最坏的舍入放大一次，与逐次相乘的相同。"""
    gradients = torch.tensor([[3.0, -40.0], [5.0, 60.0], [-7.0, 0.5]], dtype=torch.float64)
    tiny = torch.tensor(2.0**-25, dtype=torch.float64)
    for column in (0, 1):
        worst = 0.0
        for value in gradients[:, column].tolist():
            exact = abs(value) / 3
            grown = (abs(value) * (1 + 2**-11) + tiny.item()) / 3  # 转换
            grown = grown * (1 + 2**-11) + tiny.item()  # 除以 N
            for _ in range(2):  # 相加
                grown *= 1 + 2**-11
            worst += grown - exact
        bound = half_precision_error_bound(gradients)[column].item()
        assert worst <= bound < worst * (1 + 1e-3)


def test_half_precision_error_bound__equals_worked_example() -> None:
    """文中的数：4 个 rank、梯度量级 1，误差不超过 2.5e-3，即 5 次舍入。"""
    bound = half_precision_error_bound(torch.ones(4, 1, dtype=torch.float64)).item()
    assert round(bound, 4) == 0.0024
    assert abs(bound / 2**-11 - 5) < 0.01


def test_half_precision_error_bound__rejects_bad_input() -> None:
    """一维、没有行、整数的梯度，或超出 float16 的梯度报错。"""
    for bad in (torch.ones(3), torch.ones(0, 3), torch.ones(2, 3, dtype=torch.int64)):
        with pytest.raises(ValueError, match="gradients"):
            half_precision_error_bound(bad)
    for value in (65520.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="65520"):
            half_precision_error_bound(torch.tensor([[value]]))


def test_low_rank_ratio__matches_counted_elements() -> None:
    """与真的造出两个因子来数元素个数相同。"""
    for rows, cols, r in ((64, 32, 2), (7, 90, 5), (512, 4608, 4)):
        counted = torch.empty(rows, r).numel() + torch.empty(cols, r).numel()
        torch.testing.assert_close(low_rank_ratio(rows, cols, r), rows * cols / counted)


def test_low_rank_ratio__equals_worked_example() -> None:
    """文中的例子：512 × 4608 的卷积核取秩 4 缩小 115.2 倍；方阵取满秩反而大一倍。"""
    assert low_rank_ratio(512, 4608, 4) == 115.2
    assert low_rank_ratio(10, 10, 10) == 0.5


def test_low_rank_ratio__equals_exercise() -> None:
    """练习：64 阶方阵，秩 15 时比 float16 省，秩 16 时恰好一样。"""
    assert low_rank_ratio(64, 64, 15) > 2
    assert low_rank_ratio(64, 64, 16) == 2


def test_low_rank_ratio__rejects_bad_input() -> None:
    """不是正整数，或秩超过行数、列数时报错。"""
    for arguments, name in (((0, 2, 1), "rows"), ((2, 0, 1), "cols"), ((2, 2, 0), "r ")):
        with pytest.raises(ValueError, match=name):
            low_rank_ratio(*arguments)
    with pytest.raises(ValueError, match="不能超过"):
        low_rank_ratio(5, 3, 4)
    assert low_rank_ratio(5, 3, 3) == 15 / 24


def test_worth_compressing__is_false_for_vectors_and_small_savings() -> None:
    """一维的不压；四维的按第一维乘其余看；恰好缩小到一半的不压。"""
    assert not worth_compressing((4096,), 1)
    assert not worth_compressing((4, 4), 1)  # 16 比 8，恰好 2 倍
    assert worth_compressing((4, 5), 1)  # 20 比 9
    assert worth_compressing((4, 4), 1, minimum_ratio=1.5)
    assert worth_compressing((16, 4, 3, 3), 4)  # 576 比 208
    assert not worth_compressing((16, 4, 3, 3), 6)  # 576 比 312


def test_compressed_elements__equals_hand_count() -> None:
    """一个 64 × 32 的矩阵、一个偏置、一个 16 × 36 的卷积核，秩 2：192 + 64 + 104。"""
    assert compressed_elements([(64, 32), (64,), (16, 4, 3, 3)], 2) == 192 + 64 + 104
    assert compressed_elements([(2, 3), ()], 5) == 6 + 1


class _Counter:
    """数 dist.all_reduce 收到的字节数。"""

    def __init__(self) -> None:
        self.bytes, self.original = 0, dist.all_reduce

    def __call__(self, tensor: Tensor, *arguments: Any, **options: Any) -> Any:
        self.bytes += tensor.numel() * tensor.element_size()
        return self.original(tensor, *arguments, **options)


def _counted(model: nn.Module, state: object, hook: Hook) -> int:
    """一次反向里钩子交给全归约的字节数。"""
    ddp = DistributedDataParallel(model)
    ddp.register_comm_hook(state, hook)
    dist.all_reduce = counter = _Counter()
    try:
        ddp(torch.ones(2, 3, 5, 5)).sum().backward()
    finally:
        dist.all_reduce = counter.original
    return counter.bytes


def _network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(72, 40), nn.Linear(40, 2))


@pytest.mark.parametrize("world_size", [2, 4])
def test_hook_bytes__matches_counted_messages(ranks: Ranks, world_size: int) -> None:
    """真实的 DDP 里，包住 dist.all_reduce 数到的字节数乘环形归约的 2(N − 1)/N，与公式分毫不差。"""

    def work() -> list[int]:
        def plain(_: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
            work = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
            return work.then(lambda done: done.value()[0].div_(world_size))

        return [
            _counted(_network(), None, plain),
            _counted(_network(), None, half_precision_hook),
            _counted(_network(), PowerSGDMemory(r=2), power_sgd_hook),
        ]

    shapes = [tuple(parameter.shape) for parameter in _network().parameters()]
    expected = [
        hook_bytes(kind, shapes, world_size, 2) for kind in ("float32", "float16", "power_sgd")
    ]
    for counted in ranks(world_size, work):
        factor = 2 * (world_size - 1) / world_size
        torch.testing.assert_close([factor * count for count in counted], expected)


def test_hook_bytes__equals_worked_example() -> None:
    """文中的例子：1024 × 1024 的一层加偏置，4 个 rank，秩 4。"""
    shapes = [(1024, 1024), (1024,)]
    values = [hook_bytes(kind, shapes, 4, 4) for kind in ("float32", "float16", "power_sgd")]
    assert values == [6_297_600.0, 3_148_800.0, 55_296.0]


def test_hook_bytes__limit_one_rank() -> None:
    """只有一个 rank 时什么也不用传。"""
    assert hook_bytes("float32", [(5,)], 1) == 0


def test_hook_bytes__rejects_bad_input() -> None:
    """不认识的压缩方式、进程数或秩不是正整数时报错。"""
    with pytest.raises(ValueError, match="kind"):
        hook_bytes("float8", [(5,)], 2)
    with pytest.raises(ValueError, match="world_size"):
        hook_bytes("float32", [(5,)], 0)
    with pytest.raises(ValueError, match="r "):
        hook_bytes("power_sgd", [(5,)], 2, 0)
