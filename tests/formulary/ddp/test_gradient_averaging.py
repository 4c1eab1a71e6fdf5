"""数据并行的一步：梯度的平均、与单进程相同的轨迹，以及哪些写法会坏事。"""

import copy
import math

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from formulary.ddp.gradient_averaging import (
    average_gradients,
    data_parallel_sgd,
    full_batch_gradient,
)

# 文中手算的四个样本：w = 1 时逐样本的梯度是 1, 2, -2, 3
INPUTS = torch.tensor([[1.0], [2.0], [1.0], [3.0]], dtype=torch.float64)
TARGETS = torch.tensor([[0.0], [1.0], [3.0], [2.0]], dtype=torch.float64)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _one_weight() -> nn.Module:
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.ones_(model.weight)
    return model


def _half_squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((outputs - targets) ** 2 / 2).flatten(1).sum(dim=1)


def _network(batch_norm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    middle: nn.Module = nn.BatchNorm1d(5) if batch_norm else nn.Identity()
    return nn.Sequential(nn.Linear(3, 5), middle, nn.Tanh(), nn.Linear(5, 2)).double()


def _data(samples: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(samples, 3, dtype=torch.float64, generator=_generator(1))
    return x, torch.randn(samples, 2, dtype=torch.float64, generator=_generator(2))


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def _shard(tensor: Tensor) -> Tensor:
    return tensor.chunk(dist.get_world_size())[dist.get_rank()]


def _loop_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """一个样本一个样本地反向传播，再求平均。"""
    model, rows = copy.deepcopy(model), []
    for a, b in zip(x, y, strict=True):
        model.zero_grad()
        (((model(a[None]) - b) ** 2).sum() / 2).backward()
        rows.append(_flat(model))
    return torch.stack(rows).mean(dim=0)


def test_full_batch_gradient__matches_finite_differences() -> None:
    """与经验风险的中心差分相同。"""
    model, (x, y) = _network(), _data(7)
    actual = full_batch_gradient(model, _half_squares, x, y)
    expected = torch.zeros_like(actual)
    flat = nn.utils.parameters_to_vector(model.parameters()).detach()
    for i in range(len(flat)):
        sides = []
        for step in (1e-5, -1e-5):
            moved = flat.clone()
            moved[i] += step
            nn.utils.vector_to_parameters(moved, model.parameters())
            with torch.no_grad():
                sides.append(sum(((model(x) - y) ** 2).flatten().tolist()) / 2 / len(x))
        expected[i] = (sides[0] - sides[1]) / 2e-5
    # 中心差分的截断误差约 1e-10，舍入误差约 1e-11
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-8)


def test_full_batch_gradient__equals_worked_example() -> None:
    """文中四个样本的梯度 1、2、−2、3，平均是 1；不碰参数的 .grad。"""
    model = _one_weight()
    each = [
        full_batch_gradient(model, _half_squares, INPUTS[i : i + 1], TARGETS[i : i + 1]).item()
        for i in range(4)
    ]
    assert each == [1.0, 2.0, -2.0, 3.0]
    assert full_batch_gradient(model, _half_squares, INPUTS, TARGETS).tolist() == [1.0]
    assert model.weight.grad is None


def test_full_batch_gradient__rejects_reduced_losses() -> None:
    """损失已经归约成标量，或没有对输出的各列归约时报错。"""
    model, (x, y) = _network(), _data(4)
    for losses in (nn.MSELoss(), nn.MSELoss(reduction="none")):
        with pytest.raises(ValueError, match=r"sample_losses 必须返回形状 \(4,\)"):
            full_batch_gradient(model, losses, x, y)


@pytest.mark.parametrize("world_size", [2, 4])
def test_average_gradients__matches_full_batch_and_ddp(ranks, world_size: int) -> None:
    """各 rank 样本数相同时，手写的平均与 DDP 都等于逐样本算的全批量梯度，各 rank 逐位相同。"""
    x, y = _data(12)

    def gradients() -> tuple[Tensor, Tensor]:
        plain = _network()
        wrapped = DistributedDataParallel(_network())
        for model in (plain, wrapped):
            _half_squares(model(_shard(x)), _shard(y)).mean().backward()
        average_gradients(plain)
        return _flat(plain), _flat(wrapped)

    expected = _loop_gradient(_network(), x, y)
    results = ranks(world_size, gradients)
    for ours, theirs in results:
        torch.testing.assert_close(ours, expected)
        torch.testing.assert_close(theirs, expected)
        assert torch.equal(ours, results[0][0])
        assert torch.equal(theirs, results[0][1])


def test_average_gradients__equals_worked_example(ranks) -> None:
    """文中的手算：平分得 1；分成三个与一个得 5/3，损失求和得 2，都不是全批量的梯度。"""

    def gradients() -> tuple[float, ...]:
        rank, found = dist.get_rank(), []
        for cut, total in ((2, False), (3, False), (2, True)):
            mine = slice(0, cut) if rank == 0 else slice(cut, 4)
            model = _one_weight()
            losses = _half_squares(model(INPUTS[mine]), TARGETS[mine])
            (losses.sum() if total else losses.mean()).backward()
            average_gradients(model)
            found.append(model.weight.grad.item())
        return tuple(found)

    for equal, uneven, summed in ranks(2, gradients):
        torch.testing.assert_close(equal, 1.0)
        torch.testing.assert_close(uneven, 5 / 3)
        torch.testing.assert_close(summed, 2.0)


def test_average_gradients__differs_from_full_batch_with_batch_norm(ranks) -> None:
    """各 rank 用自己的批统计量：平均的梯度与全批量差 10% 以上；同一个网络去掉批归一化就不差。"""
    x, y = _data(12)
    x = x + torch.arange(12.0)[:, None] / 6  # 两半的均值不同

    def gap(batch_norm: bool) -> float:
        whole, mine = _network(batch_norm), _network(batch_norm)
        _half_squares(whole(x), y).mean().backward()
        _half_squares(mine(_shard(x)), _shard(y)).mean().backward()
        average_gradients(mine)
        return ((_flat(mine) - _flat(whole)).norm() / _flat(whole).norm()).item()

    for with_norm, without in ranks(2, lambda: (gap(True), gap(False))):
        assert with_norm > 0.1
        assert without < 1e-12


def test_average_gradients__differs_from_bypassing_ddp(ranks) -> None:
    """调用 model.module 或用 torch.autograd.grad，得到的是本地的梯度，没有平均，也不报错。"""

    def gradients() -> tuple[float, ...]:
        x = torch.full((1, 1), 1.0 + dist.get_rank())
        averaged = nn.Linear(1, 1, bias=False)
        averaged(x).sum().backward()
        average_gradients(averaged)
        model = DistributedDataParallel(nn.Linear(1, 1, bias=False))
        model.module(x).sum().backward()
        inner = model.module.weight.grad.item()
        (direct,) = torch.autograd.grad(model(x).sum(), list(model.parameters()))
        model.zero_grad()
        model(x).sum().backward()
        usual = model.module.weight.grad.item()
        return averaged.weight.grad.item(), usual, inner, direct.item()

    assert ranks(2, gradients) == [(1.5, 1.5, 1.0, 1.0), (1.5, 1.5, 2.0, 2.0)]


def test_average_gradients__differs_from_clamping_in_a_tensor_hook(ranks) -> None:
    """参数的 register_hook 截断的是平均之前的本地梯度：2 与 4 截到 3 再平均是 2.5，不是 3。"""

    def gradients() -> tuple[float, float]:
        x = torch.full((1, 1), 2.0 + 2 * dist.get_rank())
        model = DistributedDataParallel(nn.Linear(1, 1, bias=False))
        model.module.weight.register_hook(lambda gradient: gradient.clamp(max=3.0))
        model(x).sum().backward()
        plain = nn.Linear(1, 1, bias=False)
        plain(x).sum().backward()
        average_gradients(plain)
        return model.module.weight.grad.item(), plain.weight.grad.clamp(max=3.0).item()

    assert ranks(2, gradients) == [(2.5, 3.0)] * 2


def test_average_gradients__rejects_missing_gradient(ranks) -> None:
    """还没有反向传播，或有参数没有用到时报错并指出参数；冻结的参数不算。"""

    def message() -> str:
        model = nn.Linear(2, 1)
        model.weight.requires_grad_(False)
        with pytest.raises(ValueError, match="average_used_gradients") as error:
            average_gradients(model)
        model(torch.ones(1, 2)).sum().backward()
        average_gradients(model)
        assert model.weight.grad is None
        return str(error.value)

    assert all("参数 bias 没有梯度" in told for told in ranks(2, message))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_data_parallel_sgd__matches_single_process_sgd(ranks, world_size: int) -> None:
    """同样的全局小批量：1、2、4 个进程的损失与参数都等于单进程 torch.optim.SGD 的。"""
    steps, x, y = 30, *_data(8)
    mse = nn.MSELoss()

    def train() -> tuple[list[float], Tensor]:
        model = _network()
        history = data_parallel_sgd(model, mse, [(_shard(x), _shard(y))] * steps, 0.1)
        return history, nn.utils.parameters_to_vector(model.parameters()).detach()

    model, expected = _network(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = mse(model(x), y)
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert expected[-1] < 0.7 * expected[0]
    for history, parameters in ranks(world_size, train):
        torch.testing.assert_close(history, expected)
        final = nn.utils.parameters_to_vector(model.parameters()).detach()
        torch.testing.assert_close(parameters, final)


def test_data_parallel_sgd__preserves_equal_replicas_like_ddp(ranks) -> None:
    """50 步之后各 rank 的参数逐位相同，并与 DDP 加 torch.optim.SGD 训练的相符。"""
    x, y = _data(12)
    mse = nn.MSELoss()

    def train() -> tuple[Tensor, Tensor]:
        plain, wrapped = _network(), DistributedDataParallel(_network())
        batches = [(_shard(x)[i % 2 :: 2], _shard(y)[i % 2 :: 2]) for i in range(50)]
        data_parallel_sgd(plain, mse, batches, 0.1)
        optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
        for inputs, targets in batches:
            optimizer.zero_grad()
            mse(wrapped(inputs), targets).backward()
            optimizer.step()
        return tuple(
            nn.utils.parameters_to_vector(model.parameters()).detach() for model in (plain, wrapped)
        )

    results = ranks(3, train)
    for ours, theirs in results:
        assert torch.equal(ours, results[0][0])
        assert torch.equal(theirs, results[0][1])
        torch.testing.assert_close(ours, theirs)


def test_data_parallel_sgd__equals_worked_example(ranks) -> None:
    """文中四个样本、η = 1/2：第一步的损失 7/8，权重从 1 到 1/2；下一步的损失是 0.84375。"""

    def train() -> tuple[list[float], float]:
        model = _one_weight()
        half = lambda outputs, targets: _half_squares(outputs, targets).mean()  # noqa: E731
        batch = (_shard(INPUTS), _shard(TARGETS))
        return data_parallel_sgd(model, half, [batch] * 2, 0.5), model.weight.item()

    second = sum((0.5 * x - y) ** 2 for x, y in ((1, 0), (2, 1), (1, 3), (3, 2))) / 8
    step = sum(x * (0.5 * x - y) for x, y in ((1, 0), (2, 1), (1, 3), (3, 2))) / 4
    for history, weight in ranks(2, train):
        torch.testing.assert_close(history, [7 / 8, second])
        torch.testing.assert_close(weight, 0.5 - 0.5 * step)


def test_data_parallel_sgd__preserves_frozen_parameters(ranks) -> None:
    """冻结的参数没有梯度：不动它，别的照常更新。"""

    def train() -> tuple[float, float]:
        model = nn.Linear(1, 1)
        nn.init.ones_(model.weight)
        nn.init.ones_(model.bias).requires_grad_(False)
        batch = (torch.ones(1, 1) + dist.get_rank(), torch.zeros(1, 1))
        data_parallel_sgd(model, lambda outputs, _: outputs.mean(), [batch], 0.5)
        return model.weight.item(), model.bias.item()

    assert ranks(2, train) == [(0.25, 1.0)] * 2


def test_data_parallel_sgd__rejects_bad_learning_rate() -> None:
    """学习率不是正数时报错，不等到通信。"""
    for rate in (0.0, -0.1, math.nan):
        with pytest.raises(ValueError, match="learning_rate"):
            data_parallel_sgd(_one_weight(), nn.MSELoss(), [], rate)
