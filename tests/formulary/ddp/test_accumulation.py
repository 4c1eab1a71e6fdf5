"""梯度累积：只通信一次，等于全批量；no_sync 何时起作用。"""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from formulary.ddp.accumulation import accumulate_gradients


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def _data(samples: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(samples, d, dtype=torch.float64, generator=generator) for d in (3, 2))
    return x, y


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def _sum_hook(calls: list[int], bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """与默认的做法相同：求和、除以 N；另数一数被叫了几次。"""
    calls.append(bucket.index())
    buffer = bucket.buffer()
    work = dist.all_reduce(buffer, async_op=True).get_future()
    return work.then(lambda done: done.value()[0] / dist.get_world_size())


@pytest.mark.parametrize("world_size", [2, 4])
def test_accumulate_gradients__matches_full_batch(ranks, world_size: int) -> None:
    """每个 rank 三个微批量：梯度与单进程一次算完全部样本的相同，损失的平均也是。"""
    x, y = _data(6 * world_size)
    loss = nn.MSELoss()

    def run() -> tuple[Tensor, float]:
        model = DistributedDataParallel(_network())
        mine = (tensor.chunk(world_size)[dist.get_rank()].chunk(3) for tensor in (x, y))
        mean = accumulate_gradients(model, loss, list(zip(*mine, strict=True)))
        return _flat(model), mean

    model = _network()
    whole = loss(model(x), y)
    whole.backward()
    results = ranks(world_size, run)
    for gradient, _ in results:
        torch.testing.assert_close(gradient, _flat(model))
    torch.testing.assert_close(sum(mean for _, mean in results) / world_size, whole.item())


def test_accumulate_gradients__equals_one_communication_per_update(ranks) -> None:
    """数通信钩子被叫的次数：四个微批量只叫一次；不用 no_sync 要叫四次，梯度相同。"""
    x, y = _data(16)
    loss = nn.MSELoss()

    def run() -> tuple[list[int], list[int], float]:
        ours, every = (DistributedDataParallel(_network()) for _ in range(2))
        few, many = [], []
        ours.register_comm_hook(few, _sum_hook)
        every.register_comm_hook(many, _sum_hook)
        mine = (tensor.chunk(2)[dist.get_rank()].chunk(4) for tensor in (x, y))
        micro = list(zip(*mine, strict=True))
        accumulate_gradients(ours, loss, micro)
        for inputs, targets in micro:
            (loss(every(inputs), targets) / 4).backward()
        return few, many, (_flat(ours) - _flat(every)).abs().max().item()

    for few, many, gap in ranks(2, run):
        assert few == [0]
        assert many == [0] * 4
        assert gap < 1e-15


def test_accumulate_gradients__equals_worked_example(ranks) -> None:
    """一个权重，微批量的输入 1、2 与 3、4：局部梯度 1.5 与 3.5，平均 2.5。"""

    def gradient() -> float:
        model = DistributedDataParallel(nn.Linear(1, 1, bias=False))
        values = torch.tensor([[1.0], [2.0]]) + 2 * dist.get_rank()
        micro = [(value[None], value) for value in values]
        accumulate_gradients(model, lambda outputs, _: outputs.mean(), micro)
        return model.module.weight.grad.item()

    assert ranks(2, gradient) == [2.5, 2.5]


def test_accumulate_gradients__differs_from_no_sync_around_backward(ranks) -> None:
    """no_sync 只包反向：照样通信；只包前向：反正不通信。标志是在前向里读的。"""

    def gradients() -> tuple[float, ...]:
        model = DistributedDataParallel(nn.Linear(1, 1, bias=False))
        weight = model.module.weight
        x = torch.full((1, 1), 1.0 + 2 * dist.get_rank())
        accumulate_gradients(model, lambda outputs, _: outputs.mean(), [(x, x)])
        usual = weight.grad.item()
        model.zero_grad()
        output = model(x).mean()
        with model.no_sync():
            output.backward()
        around_backward = weight.grad.item()
        model.zero_grad()
        with model.no_sync():
            output = model(x).mean()
        output.backward()
        return usual, around_backward, weight.grad.item()

    assert ranks(2, gradients) == [(2.0, 2.0, 1.0), (2.0, 2.0, 3.0)]


def test_accumulate_gradients__differs_from_mean_of_unequal_micro_batches(ranks) -> None:
    """微批量的样本数不同时，各除以 A 不再等于全批量：与不等的分片是同一回事。"""
    x, y = _data(8)
    loss = nn.MSELoss()

    def gradient() -> Tensor:
        model = DistributedDataParallel(_network())
        mine = [tensor.chunk(2)[dist.get_rank()] for tensor in (x, y)]
        micro = list(zip(*(tensor.split([3, 1]) for tensor in mine), strict=True))
        accumulate_gradients(model, loss, micro)
        return _flat(model)

    model = _network()
    loss(model(x), y).backward()
    assert (ranks(2, gradient)[0] - _flat(model)).norm() > 0.05 * _flat(model).norm()


def test_accumulate_gradients__rejects_empty_list() -> None:
    """一个微批量也没有时报错，不等到通信。"""
    with pytest.raises(ValueError, match="micro_batches"):
        accumulate_gradients(None, nn.MSELoss(), [])
