"""同步批归一化的检验：真实的进程，与拼在一起的 nn.BatchNorm 相比。"""

import faulthandler
from collections.abc import Callable
from math import prod
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from formulary.ddp.processes import RankError, run_ranks
from formulary.ddp.synchronized_batch_norm import SynchronizedBatchNorm, SynchronizedNormalization

Ranks = Callable[..., list[Any]]
NORMS = {2: nn.BatchNorm1d, 4: nn.BatchNorm2d}


def _batches(sizes: tuple[int, ...], rest: tuple[int, ...]) -> list[list[Tensor]]:
    """两步的数据，每步每个 rank 一片；rank 之间的均值与方差都不同。"""
    generator = torch.Generator().manual_seed(sum(sizes))
    return [
        [
            (rank + 1) * torch.randn(rows, *rest, dtype=torch.float64, generator=generator) + rank
            for rank, rows in enumerate(sizes)
        ]
        for _ in range(2)
    ]


def _prepare(norm: nn.Module, channels: int) -> nn.Module:
    """换成 float64，给一组不对称的 γ、β。"""
    norm = norm.double()
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1.0, 2.0, channels))
        norm.bias.copy_(torch.linspace(0.5, -3.0, channels))
    return norm


def _loss(y: Tensor) -> Tensor:
    """样本之和，各样本、各通道的伴随都不同。"""
    weights = torch.arange(1.0, prod(y.shape[1:]) + 1, dtype=y.dtype).view(y.shape[1:]).sin()
    return (weights * y + 0.3 * y**2 * weights.roll(1, 0)).sum()


def _train(norm: nn.Module, steps: list[Tensor], scale: float) -> list[dict[str, Tensor]]:
    """两步：前向、反向、更新参数；记下每步的输出、梯度与运行统计。"""
    inner = getattr(norm, "module", norm)
    optimizer = torch.optim.SGD(norm.parameters(), lr=0.01)
    records = []
    for batch in steps:
        x = batch.clone().requires_grad_()
        y = norm(x)
        optimizer.zero_grad()
        (scale * _loss(y)).backward()
        kept = {
            "y": y,
            "grad_x": x.grad,
            "grad_weight": inner.weight.grad,
            "grad_bias": inner.bias.grad,
            "running_mean": inner.running_mean,
            "running_var": inner.running_var,
            "count": inner.num_batches_tracked,
        }
        records.append({name: value.detach().clone() for name, value in kept.items()})
        optimizer.step()
    return records


@pytest.mark.parametrize(
    ("sizes", "rest"), [((5, 7), (3,)), ((4, 1, 2, 3), (2, 3, 5)), ((3, 0, 2), (2, 2, 3))]
)
def test_SynchronizedBatchNorm__matches_batch_norm_of_all_rows(
    ranks: Ranks, sizes: tuple[int, ...], rest: tuple[int, ...]
) -> None:
    """DDP 里的两步训练：输出、输入的梯度、平均后的参数梯度、运行统计都与单进程大批量的相同。

    各 rank 的样本数不等，也有一个 rank 为空的；二维与四维的输入。
    """
    world_size, total, channels = len(sizes), sum(sizes), rest[0]
    steps = _batches(sizes, rest)

    def work() -> list[dict[str, Tensor]]:
        norm = DistributedDataParallel(_prepare(SynchronizedBatchNorm(channels), channels))
        own = [step[dist.get_rank()] for step in steps]
        return _train(norm, own, world_size / total)  # N/n 倍，DDP 平均后是全体的均值

    results = ranks(world_size, work)
    whole = _prepare(NORMS[1 + len(rest)](channels), channels)
    expected = _train(whole, [torch.cat(step) for step in steps], 1 / total)
    for step in range(2):
        for name in ("y", "grad_x"):
            gathered = torch.cat([result[step][name] for result in results])
            # 对输入的梯度属于各 rank 损失之和，是平均损失的 N 倍
            factor = world_size if name == "grad_x" else 1
            torch.testing.assert_close(gathered, factor * expected[step][name])
        for name in ("grad_weight", "grad_bias", "running_mean", "running_var", "count"):
            for result in results:
                torch.testing.assert_close(result[step][name], expected[step][name])


def test_SynchronizedBatchNorm__matches_stacked_batch_norms(ranks: Ranks) -> None:
    """两个同步层之间隔着线性层与非线性：各层平均后的参数梯度与输入的梯度同单进程大批量的相同。"""
    sizes = (2, 5, 3)
    (shards, _) = _batches(sizes, (3,))

    def build(norm: type[nn.Module]) -> nn.Sequential:
        linear = nn.Linear(3, 4)
        with torch.no_grad():
            linear.weight.copy_(torch.arange(12.0).view(4, 3).sin())
            linear.bias.copy_(torch.arange(4.0).cos())
        return nn.Sequential(_prepare(norm(3), 3), linear.double(), nn.Tanh(), _prepare(norm(4), 4))

    def work() -> tuple[Tensor, list[Tensor]]:
        model = DistributedDataParallel(build(SynchronizedBatchNorm))
        x = shards[dist.get_rank()].clone().requires_grad_()
        (3 / 10 * _loss(model(x))).backward()
        return x.grad, [p.grad for p in model.parameters()]

    whole = build(nn.BatchNorm1d)
    x = torch.cat(shards).requires_grad_()
    (_loss(whole(x)) / 10).backward()
    results = ranks(3, work)
    torch.testing.assert_close(torch.cat([grad for grad, _ in results]), 3 * x.grad)
    for _, gradients in results:
        for actual, p in zip(gradients, whole.parameters(), strict=True):
            torch.testing.assert_close(actual, p.grad)


def test_SynchronizedBatchNorm__matches_batch_norm_in_evaluation() -> None:
    """评估模式用运行统计，不通信；状态字典与 nn.BatchNorm2d 的互换。"""
    theirs = _prepare(nn.BatchNorm2d(3), 3)
    theirs(torch.randn(4, 3, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    ours = SynchronizedBatchNorm(3).double()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
    theirs.load_state_dict(ours.state_dict())


def test_SynchronizedBatchNorm__equals_worked_example(ranks: Ranks) -> None:
    """文中手算：{0, 2} 与 {4, 6, 8}，均值 4，方差 8，运行方差 0.9 + 0.1 × 10。"""
    shards = [torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0], [6.0], [8.0]])]

    def work() -> tuple[Tensor, float, float]:
        norm = SynchronizedBatchNorm(1, eps=1e-30).double()
        y = norm(shards[dist.get_rank()].double())
        return y.detach(), norm.running_mean.item(), norm.running_var.item()

    results = ranks(2, work)
    expected = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], dtype=torch.float64)[:, None] / 2**0.5
    torch.testing.assert_close(torch.cat([y for y, _, _ in results]), expected)
    for _, mean, variance in results:
        torch.testing.assert_close([mean, variance], [0.4, 1.9])


def test_SynchronizedBatchNorm__is_defined_with_one_sample_per_rank(ranks: Ranks) -> None:
    """每个 rank 只有一个样本也能训练，nn.BatchNorm1d 此时报错。"""
    x = torch.tensor([[1.0, 5.0], [3.0, -1.0]])

    def work() -> tuple[Tensor, str]:
        own = x[dist.get_rank() :][:1]
        with pytest.raises(ValueError, match="Expected more than 1 value") as refusal:
            nn.BatchNorm1d(2)(own)
        return SynchronizedBatchNorm(2, eps=1e-12)(own).detach(), str(refusal.value)

    ys = torch.cat([y for y, _ in ranks(2, work)])
    torch.testing.assert_close(ys, torch.tensor([[-1.0, 1.0], [1.0, -1.0]]))


def test_SynchronizedBatchNorm__differs_from_local_batch_norm(ranks: Ranks) -> None:
    """DDP 里的 nn.BatchNorm1d 用本地的统计，输出相差 0.1 以上；运行统计前向前换成 rank 0 的。"""
    (shards, _) = _batches((5, 7), (3,))

    def work() -> tuple[Tensor, Tensor, Tensor]:
        own = shards[dist.get_rank()]
        local = DistributedDataParallel(nn.BatchNorm1d(3).double())
        synchronized = SynchronizedBatchNorm(3).double()
        y = local(own).detach()
        local(own)  # 这次前向之前，DDP 把 rank 0 的缓冲区广播给大家
        return (y - synchronized(own).detach()).abs().max(), local.module.running_mean, y

    (first, mean, _), (second, other_mean, _) = ranks(2, work)
    assert min(first, second) > 0.1
    own = [nn.BatchNorm1d(3).double() for _ in range(2)]
    for norm, rank in zip(own, (0, 1), strict=True):
        norm(shards[0])
        norm(shards[rank])
    torch.testing.assert_close(mean, own[0].running_mean)
    torch.testing.assert_close(other_mean, own[1].running_mean)


def test_SynchronizedBatchNorm__differs_from_torch_SyncBatchNorm_on_cpu(ranks: Ranks) -> None:
    """torch 的 nn.SyncBatchNorm 训练时拒绝 CPU 张量，评估时不拒绝；本站的在 CPU 上能训练。"""

    def work() -> tuple[str, Tensor, Tensor]:
        x = torch.tensor([[1.0], [2.0], [4.0]])
        with pytest.raises(ValueError, match="SyncBatchNorm") as refusal:
            nn.SyncBatchNorm(1)(x)
        return str(refusal.value), nn.SyncBatchNorm(1).eval()(x), SynchronizedBatchNorm(1)(x)

    for told, evaluated, trained in ranks(2, work):
        assert told == ("SyncBatchNorm expected input tensor to be on GPU or XPU or privateuseone")
        assert evaluated.shape == trained.shape == (3, 1)


def test_SynchronizedBatchNorm__rejects_single_sample_in_all(ranks: Ranks) -> None:
    """所有 rank 合起来只有一个样本时，每个 rank 都报错，没有谁卡住。"""

    def work() -> str:
        with pytest.raises(ValueError, match="至少要有两个样本，得到 1 个") as refusal:
            SynchronizedBatchNorm(2)(torch.ones(1 - dist.get_rank(), 2))
        return str(refusal.value)

    assert len(set(ranks(2, work))) == 1


def test_SynchronizedBatchNorm__rejects_disagreeing_ranks(ranks: Ranks) -> None:
    """某个 rank 的通道数或 dtype 不同时，每个 rank 报同一个错误，说出各 rank 是什么。"""

    def work() -> list[str]:
        rank, told = dist.get_rank(), []
        for features, channels, dtype in (
            ((3, 4)[rank], (3, 4)[rank], torch.float32),
            (3, 3, (torch.float32, torch.float64)[rank]),
            ((3, 4)[rank], 3, torch.float32),
        ):
            norm = SynchronizedBatchNorm(features).to(dtype)
            with pytest.raises(ValueError, match="在各 rank 上必须相同") as refusal:
                norm(torch.ones(2, channels, dtype=dtype))
            told.append(str(refusal.value))
        return told

    first, second = ranks(2, work)
    assert first == second
    assert "rank 0 的层是 (3,)、输入是 (3,)、torch.float32" in first[0]
    assert "rank 1 的层是 (4,)、输入是 (4,)、torch.float32" in first[0]
    assert "rank 1 的层是 (3,)、输入是 (3,)、torch.float64" in first[1]
    assert "rank 1 的层是 (4,)、输入是 (3,)、torch.float32" in first[2]


def test_SynchronizedBatchNorm__differs_from_unchecked_collectives() -> None:
    """不核对的话：通道数不同，集合通信让进程退出或断开；dtype 不同，DDP 悄悄广播出错误的值。"""

    def mismatched() -> None:
        faulthandler.disable()  # 进程会被 gloo 的 C++ 异常终止，不必再印调用栈
        rows = [torch.empty(3 + dist.get_rank()) for _ in range(2)]
        dist.all_gather(rows, torch.ones(3 + dist.get_rank()))

    with pytest.raises(RankError):
        run_ranks(2, mismatched, timeout=3.0)

    def mixed() -> Tensor:
        dtype = (torch.float32, torch.float64)[dist.get_rank()]
        return DistributedDataParallel(nn.BatchNorm1d(3).to(dtype)).module.weight.detach()

    weights = run_ranks(2, mixed, timeout=3.0)
    assert weights[0].tolist() == [1.0, 1.0, 1.0]
    # 两个 float32 的 1 被当成一个 float64 读
    assert weights[1][0] == torch.ones(2).view(torch.float64)
    assert weights[1][1] == torch.tensor([1.0, 0.0]).view(torch.float64)  # 后一半是 β
    assert weights[1][2] == 0
    assert SynchronizedBatchNorm(3).weight.tolist() == [1.0, 1.0, 1.0]


def test_SynchronizedBatchNorm__rejects_bad_input() -> None:
    """通道数、eps、momentum 越界，输入的形状或 dtype 不对时报错。"""
    for arguments, name in (
        ((0,), "num_features"),
        ((2, 0.0), "eps"),
        ((2, 1e-5, 0.0), "momentum"),
        ((2, 1e-5, 1.5), "momentum"),
    ):
        with pytest.raises(ValueError, match=name):
            SynchronizedBatchNorm(*arguments)
    norm = SynchronizedBatchNorm(2)
    for bad in (torch.ones(3), torch.ones(3, 4), torch.ones(3, 2).double(), torch.ones(3, 2).int()):
        for mode in (True, False):
            with pytest.raises(ValueError, match="x "):
                norm.train(mode)(bad)


def test_SynchronizedNormalization__matches_finite_differences() -> None:
    """一个 rank 时，gradcheck 用有限差分核对对 x、γ、β 的导数。"""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.tensor([1.5, -0.5, 2.0], dtype=torch.float64, requires_grad=True)
    bias = torch.tensor([0.1, 0.2, -0.3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *inputs: SynchronizedNormalization.apply(*inputs, 1e-3)[0], (x, weight, bias)
    )


def test_SynchronizedNormalization__matches_autograd_of_the_sum(ranks: Ranks) -> None:
    """四个 rank 的 x 的梯度等于自动求导对各 rank 损失之和求的；γ、β 的梯度相加才是全体的。"""
    sizes = (2, 5, 1, 3)
    (shards, _) = _batches(sizes, (3,))
    weight = torch.tensor([1.5, -0.5, 2.0], dtype=torch.float64)

    def work() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        x = shards[dist.get_rank()].clone().requires_grad_()
        gamma, beta = weight.clone().requires_grad_(), weight.flip(0).requires_grad_()
        y, mean, variance, n = SynchronizedNormalization.apply(x, gamma, beta, 0.1)
        _loss(y).backward()
        return mean, variance, n, x.grad, gamma.grad, beta.grad

    results = ranks(4, work)
    x = torch.cat(shards).requires_grad_()
    gamma, beta = weight.clone().requires_grad_(), weight.flip(0).requires_grad_()
    variance, mean = torch.var_mean(x, dim=0, correction=0)
    y = gamma * (x - mean) / (variance + 0.1).sqrt() + beta
    _loss(y).backward()
    for result in results:
        torch.testing.assert_close(result[0], mean.detach())
        torch.testing.assert_close(result[1], variance.detach())
        assert result[2].item() == 11
    torch.testing.assert_close(torch.cat([result[3] for result in results]), x.grad)
    torch.testing.assert_close(sum(result[4] for result in results), gamma.grad)
    torch.testing.assert_close(sum(result[5] for result in results), beta.grad)


def test_SynchronizedNormalization__equals_worked_example(ranks: Ranks) -> None:
    """文中手算：只有 rank 0 的第一个样本有伴随，rank 1 的三个样本照样得到梯度。"""
    shards = [torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0], [6.0], [8.0]])]

    def work() -> tuple[Tensor, float, float]:
        x = shards[dist.get_rank()].double().requires_grad_()
        gamma, beta = torch.ones(1).double().requires_grad_(), torch.zeros(1).double()
        y = SynchronizedNormalization.apply(x, gamma, beta.requires_grad_(), 1e-30)[0]
        (y[0, 0] if dist.get_rank() == 0 else 0 * y.sum()).backward()
        return x.grad, gamma.grad.item(), beta.grad.item()

    (first, gamma, beta), (second, other_gamma, other_beta) = ranks(2, work)
    expected = torch.tensor([0.4, -0.4, -0.2, 0.0, 0.2], dtype=torch.float64)[:, None] / 8**0.5
    torch.testing.assert_close(torch.cat((first, second)), expected)
    torch.testing.assert_close([gamma, beta], [-(2**0.5), 1.0])
    assert other_gamma == other_beta == 0


def test_SynchronizedNormalization__equals_exercise(ranks: Ranks) -> None:
    """练习：{1, 3} 与 {5}，均值 3，方差 8/3；只有最后一个样本有伴随时的梯度。"""
    shards = [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0]])]

    def work() -> tuple[float, float, Tensor]:
        x = shards[dist.get_rank()].double().requires_grad_()
        one = torch.ones(1, dtype=torch.float64)
        y, mean, variance, _ = SynchronizedNormalization.apply(x, one, 0 * one, 1e-30)
        (dist.get_rank() * y.sum()).backward()
        return mean.item(), variance.item(), x.grad

    results = ranks(2, work)
    for mean, variance, _ in results:
        torch.testing.assert_close((mean, variance), (3.0, 8 / 3))
    expected = torch.tensor([1 / 6, -1 / 3, 1 / 6], dtype=torch.float64)[:, None] * 0.375**0.5
    torch.testing.assert_close(torch.cat([grad for _, _, grad in results]), expected)


def test_SynchronizedNormalization__differs_from_local_backward(ranks: Ranks) -> None:
    """前向里就地归约两个和，反向交给自动求导：输出正确，梯度却只有本地的和，错四分之一以上。"""
    (shards, _) = _batches((5, 7), (3,))

    def normalize(x: Tensor) -> Tensor:
        sums = [x.sum(dim=0), x.square().sum(dim=0)]
        for total in sums:
            dist.all_reduce(total)  # 就地改写，计算图里没有这一步
        mean, square = sums[0] / 12, sums[1] / 12
        return (x - mean) / (square - mean.square() + 1e-5).sqrt()

    def work() -> list[Tensor]:
        x = shards[dist.get_rank()].clone().requires_grad_()
        one = torch.ones(3, dtype=torch.float64)
        y = SynchronizedNormalization.apply(x, one, 0 * one, 1e-5)[0]
        same_y, (right,) = normalize(x), torch.autograd.grad(_loss(y), x)
        with pytest.warns(UserWarning, match="c10d::allreduce_: an autograd kernel was not"):
            (wrong,) = torch.autograd.grad(_loss(same_y), x)
        z = y.detach()
        (delta,) = torch.autograd.grad(_loss(z.requires_grad_()), z)
        inner = delta - delta.sum(dim=0) / 12 - z * (delta * z).sum(dim=0) / 12
        scale = (torch.cat(shards).var(dim=0, correction=0) + 1e-5).rsqrt()
        return [y.detach(), right, same_y.detach(), wrong, (scale * inner).detach()]

    for y, right, same_y, wrong, local_sums in ranks(2, work):
        torch.testing.assert_close(y, same_y)
        torch.testing.assert_close(wrong, local_sums)  # 错处正是两个和只在本地求
        assert (right - wrong).abs().max() > 0.25 * right.abs().max()


def test_SynchronizedNormalization__rejects_second_derivative() -> None:
    """二阶求导报错，而不是给出错误的值。"""
    x = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    one = torch.ones(2, dtype=torch.float64)
    y = SynchronizedNormalization.apply(x, one, one, 1e-5)[0]
    (grad,) = torch.autograd.grad((y**3).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_SynchronizedNormalization__rejects_single_sample() -> None:
    """合起来不足两个样本时报错。"""
    with pytest.raises(ValueError, match="至少要有两个样本"):
        SynchronizedNormalization.apply(torch.ones(1, 2), torch.ones(2), torch.zeros(2), 1e-5)
