"""PowerSGD 的一轮与通信钩子的检验：真实的 DDP，与 torch 自带的钩子相比。"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import (
    PowerSGDState,
    powerSGD_hook,
)
from torch.nn.parallel import DistributedDataParallel

from formulary.ddp.power_sgd import (
    PowerSGDMemory,
    average_over_ranks,
    power_sgd_hook,
    power_sgd_round,
)

Ranks = Callable[..., list[Any]]


def _random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def _projected(delta: Tensor, q: Tensor) -> Tensor:
    """Δ 在 Δ Q 的列空间上的投影，用伪逆算。"""
    sketch = delta @ q
    return sketch @ torch.linalg.pinv(sketch) @ delta


def test_average_over_ranks__matches_python_mean(ranks: Ranks) -> None:
    """三个 rank 的两个形状不同的张量，一次全归约得到各自的平均；空列表不通信。"""

    def work() -> tuple[list[Tensor], int]:
        original, calls = dist.all_reduce, []
        dist.all_reduce = lambda *arguments: (calls.append(1), original(*arguments))
        rank = dist.get_rank()
        means = average_over_ranks([_random(2, 3, seed=rank), _random(4, seed=10 + rank)])
        assert average_over_ranks([]) == []
        return means, len(calls)

    for (matrix, vector), calls in ranks(3, work):
        assert calls == 1
        torch.testing.assert_close(matrix, sum(_random(2, 3, seed=k) for k in range(3)) / 3)
        torch.testing.assert_close(vector, sum(_random(4, seed=10 + k) for k in range(3)) / 3)


def test_power_sgd_round__matches_projection_of_the_mean(ranks: Ranks) -> None:
    """四个 rank、两个形状不同的矩阵：P̂ Qᵀ 是平均的 Δ 在 Δ Q 列空间上的投影，各 rank 相同。"""
    shapes, rank_of = ((7, 5), (4, 9)), (2, 3)
    qs = [_random(cols, r, seed=50) for (_, cols), r in zip(shapes, rank_of, strict=True)]

    def work() -> list[tuple[Tensor, Tensor]]:
        deltas = [_random(*shape, seed=dist.get_rank()) for shape in shapes]
        return list(zip(*power_sgd_round(deltas, qs), strict=True))

    for result in ranks(4, work):
        for (basis, q), shape, start in zip(result, shapes, qs, strict=True):
            mean = sum(_random(*shape, seed=k) for k in range(4)) / 4
            torch.testing.assert_close(basis @ q.T, _projected(mean, start))
            torch.testing.assert_close(basis.T @ basis, torch.eye(start.shape[1]).double())


def test_power_sgd_round__equals_low_rank_matrix() -> None:
    """秩不超过 r 的矩阵一轮就原样恢复。"""
    delta = _random(6, 2, seed=1) @ _random(2, 8, seed=2)
    (basis,), (q,) = power_sgd_round([delta], [_random(8, 2, seed=3)])
    torch.testing.assert_close(basis @ q.T, delta)


def test_power_sgd_round__equals_worked_example() -> None:
    """文中手算：diag(3, 4) 取秩 1，从 Q = (1, 1) 出发，误差依次是 3.394、3.171，极限是 3。"""
    delta = torch.diag(torch.tensor([3.0, 4.0], dtype=torch.float64))
    (basis,), (q,) = power_sgd_round([delta], [torch.ones(2, 1, dtype=torch.float64)])
    expected = torch.tensor([[1.08, 1.92], [1.44, 2.56]], dtype=torch.float64)
    torch.testing.assert_close(basis @ q.T, expected)
    torch.testing.assert_close(basis.abs().flatten().tolist(), [0.6, 0.8])
    torch.testing.assert_close(q.abs().flatten().tolist(), [1.8, 3.2])
    assert round((delta - basis @ q.T).norm().item(), 3) == 3.394
    for error in (3.171, 3.062):
        (basis,), (q,) = power_sgd_round([delta], [q])
        assert round((delta - basis @ q.T).norm().item(), 3) == error
    for _ in range(40):
        (basis,), (q,) = power_sgd_round([delta], [q])
    torch.testing.assert_close((delta - basis @ q.T).norm().item(), 3.0)


def test_power_sgd_round__limit_best_approximation() -> None:
    """矩阵不变，反复用上一轮的 Q 热启动，近似收敛到奇异值分解给出的最佳秩 2 近似。"""
    delta, q = _random(6, 5, seed=4), _random(5, 2, seed=5)
    u, s, vt = torch.linalg.svd(delta)
    best = u[:, :2] * s[:2] @ vt[:2]
    for _ in range(300):
        (basis,), (q,) = power_sgd_round([delta], [q])
    torch.testing.assert_close(basis @ q.T, best)


def test_power_sgd_round__is_finite_for_zero_gradient() -> None:
    """全零的矩阵给出零，不出 NaN。"""
    zero = torch.zeros(4, 3, dtype=torch.float64)
    (basis,), (q,) = power_sgd_round([zero], [_random(3, 1)])
    torch.testing.assert_close(basis @ q.T, zero)


def test_power_sgd_round__rejects_bad_input() -> None:
    """两个列表不等长、形状对不上、不是矩阵时报错。"""
    with pytest.raises(ValueError, match="等长"):
        power_sgd_round([torch.ones(2, 3)], [])
    with pytest.raises(ValueError, match="qs"):
        power_sgd_round([torch.ones(2, 3)], [torch.ones(2, 1)])
    with pytest.raises(ValueError, match="deltas"):
        power_sgd_round([torch.ones(6)], [torch.ones(6, 1)])


def test_PowerSGDMemory__matches_projection_residual() -> None:
    """两种误差都与用伪逆算的相符：Δ 减去公共的近似，或只减去自己的投影。"""
    parameter = nn.Parameter(torch.zeros(7, 5, dtype=torch.float64))
    delta, basis = _random(7, 5), torch.linalg.qr(_random(7, 2, seed=1)).Q
    common = _random(5, 2, seed=2)
    for local, approximation in (
        (False, basis @ common.T),
        (True, basis @ torch.linalg.pinv(basis) @ delta),
    ):
        memory = PowerSGDMemory(r=2, local_errors=local)
        start, q = memory.recall(parameter, delta)
        torch.testing.assert_close(start, delta)
        assert q.shape == (5, 2)
        memory.remember(parameter, delta, basis, common)
        again, q = memory.recall(parameter, delta)
        torch.testing.assert_close(again, 2 * delta - approximation)
        torch.testing.assert_close(q, common)


def test_PowerSGDMemory__is_empty_without_feedback() -> None:
    """不用误差反馈时，Δ 就是梯度；向量不压，秩不超过矩阵的边长。"""
    memory = PowerSGDMemory(r=9, feedback=False, minimum_ratio=0.1)
    parameter, delta = nn.Parameter(torch.zeros(4, 3, 2)), _random(4, 3, 2)
    flat, q = memory.recall(parameter, delta)
    assert q.shape == (6, 4)
    memory.remember(parameter, flat, _random(4, 4), _random(6, 4))
    torch.testing.assert_close(memory.recall(parameter, delta)[0], delta.view(4, 6))
    assert memory.compresses(delta)
    assert not memory.compresses(delta[:, 0, 0])


def test_PowerSGDMemory__equals_same_start_for_same_seed() -> None:
    """种子相同，初始的 Q 逐位相同，float32 与 float64 也只差舍入；种子不同就不同。"""
    found = []
    for seed, dtype in ((3, torch.float64), (3, torch.float32), (4, torch.float64)):
        memory = PowerSGDMemory(r=2, seed=seed)
        parameter = nn.Parameter(torch.zeros(6, 5, dtype=dtype))
        found.append(memory.recall(parameter, parameter.detach())[1])
    assert torch.equal(found[0].float(), found[1])
    assert not torch.equal(found[0], found[2])


def test_PowerSGDMemory__rejects_bad_rank() -> None:
    """秩不是正整数时报错。"""
    for bad in (0, 1.5, True):
        with pytest.raises(ValueError, match="r "):
            PowerSGDMemory(r=bad)


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(9, 12), nn.Tanh(), nn.Linear(12, 7)).double()


def _loss(model: nn.Module, step: int) -> Tensor:
    """第 step 步、本 rank 的损失；rank 之间的数据分布不同。"""
    seed = 100 * step + dist.get_rank()
    x = _random(6, 9, seed=seed) + dist.get_rank()
    return (model(x) - _random(6, 7, seed=seed + 50)).square().mean()


def _torch_run(r: int, steps: int) -> tuple[list[list[Tensor]], list[int]]:
    """torch 的钩子训练若干步：每步的梯度，末尾是误差记忆；以及桶里参数的次序。"""
    model = DistributedDataParallel(_model())
    parameters = list(model.parameters())
    order: list[int] = []

    def hook(state: PowerSGDState, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        order[:] = [[p is q for q in parameters].index(True) for p in bucket.parameters()]
        return powerSGD_hook(state, bucket)

    state = PowerSGDState(None, r, start_powerSGD_iter=2, min_compression_rate=1)
    model.register_comm_hook(state, hook)
    found = _gradients(model, steps)
    memory = state.error_dict[0].split([parameters[i].numel() for i in order])
    errors = dict(zip(order, memory, strict=True))
    return [*found, [errors[i].view_as(parameters[i]) for i in (0, 2)]], order


def _own_run(r: int, steps: int, order: list[int]) -> list[list[Tensor]]:
    """本站的钩子从第三步起压缩，初始的 Q 用 torch 的钩子抽的那些。"""
    model = DistributedDataParallel(_model())
    parameters = list(model.parameters())
    memory = PowerSGDMemory(r, minimum_ratio=1.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(np.random.RandomState(0).randint(1_000_000_000))
        for i in (i for i in order if parameters[i].ndim == 2):
            p = parameters[i]
            memory.qs[p] = torch.randn(1, p.shape[1], r, dtype=p.dtype)[0]
            memory.errors[p] = torch.zeros_like(p)
    found = _gradients(model, 2)
    model.register_comm_hook(memory, power_sgd_hook)
    found += _gradients(model, steps, 2)
    return [*found, [memory.errors[parameters[i]] for i in (0, 2)]]


def _gradients(model: nn.Module, steps: int, first: int = 0) -> list[list[Tensor]]:
    """训练到第 steps 步，返回每步的梯度。"""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = []
    for step in range(first, steps):
        optimizer.zero_grad()
        _loss(model, step).backward()
        optimizer.step()
        found.append([p.grad.clone() for p in model.parameters()])
    return found


@pytest.mark.parametrize(("world_size", "r"), [(2, 1), (2, 3), (4, 2)])
def test_power_sgd_hook__matches_torch_hook(ranks: Ranks, world_size: int, r: int) -> None:
    """真实的 DDP 训练 10 步，前两步不压，梯度与误差记忆都与 torch 的 powerSGD_hook 逐步相同。"""

    def work() -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        theirs, order = _torch_run(r, 10)
        return _own_run(r, 10, order), theirs

    for ours, theirs in ranks(world_size, work):
        assert len(ours) == len(theirs) == 11
        for own_step, their_step in zip(ours, theirs, strict=True):
            for actual, expected in zip(own_step, their_step, strict=True):
                torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    ("world_size", "local_errors", "steps"), [(2, False, 30), (2, True, 30), (4, False, 10)]
)
def test_power_sgd_hook__preserves_sum_of_gradients(
    ranks: Ranks, world_size: int, local_errors: bool, steps: int
) -> None:
    """误差反馈的恒等式：真实训练数十步，近似之和加上最后的平均误差，等于真实的平均梯度之和。

    由此参数减去 η 倍的平均误差，等于沿真实的平均梯度走到的地方。误差减去公共的近似时，
    它与平均误差之差，是本 rank 的梯度与平均梯度之差的和。
    """

    def work() -> list[tuple[Tensor, ...]]:
        model = DistributedDataParallel(_model())
        memory = PowerSGDMemory(r=1, local_errors=local_errors)
        model.register_comm_hook(memory, power_sgd_hook)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        parameters = list(model.parameters())
        starts = [p.detach().clone() for p in parameters]
        sent = [torch.zeros_like(p) for p in parameters]
        true = [torch.zeros_like(p) for p in parameters]
        drift = [torch.zeros_like(p) for p in parameters]
        for step in range(steps):
            local = torch.autograd.grad(_loss(model.module, step), parameters)
            means = average_over_ranks(local)
            for total, gap, own, mean in zip(true, drift, local, means, strict=True):
                total += mean
                gap += own - mean
            optimizer.zero_grad()
            _loss(model, step).backward()
            for total, p in zip(sent, parameters, strict=True):
                total += p.grad
            optimizer.step()
        errors = [memory.errors.get(p, torch.zeros_like(p)) for p in parameters]
        means = average_over_ranks(errors)
        ends = [p.detach() for p in parameters]
        if not local_errors:
            for p, gap, mean in zip(parameters, drift, means, strict=True):
                if p in memory.errors:
                    torch.testing.assert_close(memory.errors[p] - mean, gap)
        return list(zip(sent, true, means, starts, ends, strict=True))

    for result in ranks(world_size, work):
        for sent, true, error, start, end in result:
            torch.testing.assert_close(sent + error, true)
            torch.testing.assert_close(end - 0.1 * error, start - 0.1 * true)
        assert max(error.norm() for _, _, error, _, _ in result) > 0.1


def test_power_sgd_hook__is_same_for_both_kinds_of_error(ranks: Ranks) -> None:
    """误差记 Δ_k 减公共的近似，还是只记自己的投影余量，参数的轨迹相同；前者的范数越积越大。"""

    def work() -> list[tuple[list[Tensor], list[float]]]:
        found = []
        for local in (False, True):
            model = DistributedDataParallel(_model())
            memory = PowerSGDMemory(r=2, local_errors=local, minimum_ratio=0.5)
            model.register_comm_hook(memory, power_sgd_hook)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
            sizes = []
            for step in range(32):
                optimizer.zero_grad()
                _loss(model, step).backward()
                optimizer.step()
                if step in (7, 31):
                    sizes.append(
                        sum(e.square().sum() for e in memory.errors.values()).item() ** 0.5
                    )
            found.append(([p.detach() for p in model.parameters()], sizes))
        return found

    for (common, drifting), (own, bounded) in ranks(2, work):
        for a, b in zip(common, own, strict=True):
            torch.testing.assert_close(a, b)
        assert drifting[1] > 1.5 * drifting[0]
        assert drifting[1] > 2 * bounded[1]
        assert bounded[1] < 1.5 * bounded[0]


def test_power_sgd_hook__matches_plain_average_at_full_rank(ranks: Ranks) -> None:
    """秩取满时什么也没压掉，梯度与没有钩子的 DDP 相同；含四维的卷积核。"""

    def work() -> tuple[list[Tensor], list[Tensor]]:
        found = []
        for memory in (None, PowerSGDMemory(r=20, minimum_ratio=0.01)):
            torch.manual_seed(1)
            layers = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(12, 4)).double()
            model = DistributedDataParallel(layers)
            if memory is not None:
                model.register_comm_hook(memory, power_sgd_hook)
            for step in range(3):
                model.zero_grad()
                x = _random(5, 2, 3, 3, seed=10 * step + dist.get_rank())
                model(x).square().mean().backward()
            found.append([p.grad for p in model.parameters()])
        return tuple(found)

    for plain, hooked in ranks(2, work):
        for expected, actual in zip(plain, hooked, strict=True):
            torch.testing.assert_close(actual, expected)


def test_power_sgd_hook__equals_worked_example(ranks: Ranks) -> None:
    """文中手算的矩阵分在两个 rank 上：diag(6, 0) 与 diag(0, 8)，平均仍是 diag(3, 4)。"""

    def work() -> tuple[Tensor, Tensor]:
        model = DistributedDataParallel(nn.Linear(2, 2, bias=False).double())
        memory = PowerSGDMemory(r=1, minimum_ratio=0.5)
        weight = model.module.weight
        memory.qs[weight] = torch.ones(2, 1, dtype=torch.float64)
        memory.errors[weight] = torch.zeros(2, 2, dtype=torch.float64)
        model.register_comm_hook(memory, power_sgd_hook)
        target = torch.diag(torch.tensor([(6.0, 0.0), (0.0, 8.0)][dist.get_rank()]).double())
        (model(torch.eye(2).double()) * target.T).sum().backward()
        return weight.grad, memory.errors[weight]

    expected = torch.tensor([[1.08, 1.92], [1.44, 2.56]], dtype=torch.float64)
    (first, error), (second, other) = ranks(2, work)
    torch.testing.assert_close(first, expected)
    torch.testing.assert_close(second, expected)
    mean = torch.diag(torch.tensor([3.0, 4.0], dtype=torch.float64)) - expected
    torch.testing.assert_close((error + other) / 2, mean)


def test_power_sgd_hook__differs_from_torch_hook_on_zero_gradient(ranks: Ranks) -> None:
    """某层的梯度全为零时，torch 的钩子在秩 1 下给出 NaN（正交化除以零），本站的给出零。"""

    def work() -> tuple[Tensor, Tensor, Tensor]:
        found = []
        for state, hook in (
            (PowerSGDState(None, 1, start_powerSGD_iter=2), powerSGD_hook),
            (PowerSGDState(None, 1, 2, orthogonalization_epsilon=1e-8), powerSGD_hook),
            (PowerSGDMemory(r=1), power_sgd_hook),
        ):
            model = DistributedDataParallel(nn.Linear(6, 5, bias=False).double())
            model.register_comm_hook(state, hook)
            for _ in range(3):
                model.zero_grad()
                (0 * model(torch.ones(2, 6).double())).sum().backward()
            found.append(model.module.weight.grad)
        return tuple(found)

    for theirs, with_epsilon, ours in ranks(2, work):
        assert theirs.isnan().all()
        assert (with_epsilon == 0).all()
        assert (ours == 0).all()


def test_power_sgd_hook__differs_from_early_torch_hook(ranks: Ranks) -> None:
    """torch 的钩子用误差反馈时不许从头两步开始压；本站的按参数记误差，第一步就能压。"""
    with pytest.raises(ValueError, match="Expect `start_powerSGD_iter` > 1"):
        PowerSGDState(None, 1, start_powerSGD_iter=1)

    def work() -> Tensor:
        model = DistributedDataParallel(nn.Linear(6, 5, bias=False).double())
        model.register_comm_hook(PowerSGDMemory(r=1), power_sgd_hook)
        (model(torch.eye(6).double()) * _random(6, 5, seed=dist.get_rank())).sum().backward()
        return model.module.weight.grad

    mean = (_random(6, 5) + _random(6, 5, seed=1)).T / 2
    for sent in ranks(2, work):
        assert torch.linalg.matrix_rank(sent) == 1
        assert (sent - mean).norm() < mean.norm()


def test_power_sgd_hook__rejects_wrong_state(ranks: Ranks) -> None:
    """状态传错（如 None）时反向报错，而不是悄悄不压。"""

    def work() -> None:
        model = DistributedDataParallel(nn.Linear(6, 5))
        model.register_comm_hook(None, power_sgd_hook)
        with pytest.raises(Exception, match="memory 必须是 PowerSGDMemory"):
            model(torch.ones(2, 6)).sum().backward()

    ranks(2, work)
