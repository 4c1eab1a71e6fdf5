"""样本数不同、损失求和、按词元平均时的系数；真实的进程里由 DDP 求平均。"""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from formulary.ddp.loss_weighting import (
    averaging_error,
    global_token_mean,
    summed_local_loss,
    weighted_local_loss,
)

INPUTS = torch.tensor([1.0, 2.0, 1.0, 3.0], dtype=torch.float64)
TARGETS = torch.tensor([0.0, 1.0, 3.0, 2.0], dtype=torch.float64)
CUTS = {2: [0, 8, 12], 4: [0, 1, 6, 8, 12]}  # 12 个样本怎样分


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4)).double()


def _losses(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((outputs - targets) ** 2).sum(dim=1)


def _data() -> tuple[Tensor, Tensor]:
    x = torch.randn(12, 3, dtype=torch.float64, generator=_generator(1))
    return x, torch.randn(12, 4, dtype=torch.float64, generator=_generator(2))


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def _whole(reduction: str) -> Tensor:
    model, (x, y) = _network(), _data()
    losses = _losses(model(x), y)
    (losses.mean() if reduction == "mean" else losses.sum()).backward()
    return _flat(model)


def _one_weight(scale) -> float:
    """文中的手算：w = 1，rank 0 有前三个样本；返回 DDP 平均之后的梯度。"""
    mine = slice(0, 3) if dist.get_rank() == 0 else slice(3, 4)
    w = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.ones_(w.weight)
    model = DistributedDataParallel(w)
    scale((model(INPUTS[mine, None]).flatten() - TARGETS[mine]) ** 2 / 2).backward()
    return w.weight.grad.item()


@pytest.mark.parametrize("world_size", [2, 4])
def test_averaging_error__matches_ddp_with_unequal_shards(ranks, world_size: int) -> None:
    """与真实的 DDP 在不等的分片上平均之后、比全批量的梯度多出的部分相同，而且不小。"""
    cuts, (x, y) = CUTS[world_size], _data()

    def gradients() -> tuple[Tensor, Tensor]:
        mine = slice(*cuts[dist.get_rank() : dist.get_rank() + 2])
        local, wrapped = _network(), DistributedDataParallel(_network())
        for model in (local, wrapped):
            _losses(model(x[mine]), y[mine]).mean().backward()
        return _flat(local), _flat(wrapped)

    results = ranks(world_size, gradients)
    counts = torch.tensor(cuts).diff()
    actual = averaging_error(torch.stack([local for local, _ in results]), counts)
    expected = results[0][1] - _whole("mean")
    torch.testing.assert_close(actual, expected)
    assert expected.norm() > 0.1 * _whole("mean").norm()


def test_averaging_error__is_zero_for_equal_counts() -> None:
    """样本数都相同，或各 rank 的梯度都相同时为零；否则不为零。"""
    gradients = torch.randn(3, 5, dtype=torch.float64, generator=_generator())
    zero = torch.zeros(5, dtype=torch.float64)
    torch.testing.assert_close(averaging_error(gradients, torch.tensor([4, 4, 4])), zero)
    same = gradients[:1].expand(3, 5)
    torch.testing.assert_close(averaging_error(same, torch.tensor([1, 4, 2])), zero)
    assert averaging_error(gradients, torch.tensor([4, 4, 3])).norm() > 0.01


def test_averaging_error__equals_worked_example() -> None:
    """文中的手算：三个与一个样本，梯度 1/3 与 3，多出 2/3；练习里 1 与 7 个样本多出 −9/8。"""
    gradients = torch.tensor([[1 / 3], [3.0]], dtype=torch.float64)
    actual = averaging_error(gradients, torch.tensor([3, 1]))
    torch.testing.assert_close(actual, torch.tensor([2 / 3], dtype=torch.float64))
    gradients = torch.tensor([[1.0], [4.0]], dtype=torch.float64)
    actual = averaging_error(gradients, torch.tensor([1, 7]))
    torch.testing.assert_close(actual, torch.tensor([-9 / 8], dtype=torch.float64))


def test_averaging_error__rejects_bad_input() -> None:
    """梯度不是二维浮点张量，个数不是每 rank 一个正整数时报错。"""
    with pytest.raises(ValueError, match="gradients"):
        averaging_error(torch.ones(3), torch.tensor([1, 1, 1]))
    gradients = torch.ones(2, 3)
    for counts in (
        torch.tensor([1, 2, 3]),
        torch.tensor([0, 2]),
        torch.tensor([1.0, 2.0]),
        [1, 2],
    ):
        with pytest.raises(ValueError, match="counts 必须是 2 个正整数"):
            averaging_error(gradients, counts)


@pytest.mark.parametrize("world_size", [2, 4])
def test_weighted_local_loss__matches_full_batch(ranks, world_size: int) -> None:
    """不等的分片：乘了系数的损失经 DDP 平均，等于单进程全批量的梯度。"""
    cuts, (x, y) = CUTS[world_size], _data()

    def gradient() -> Tensor:
        mine = slice(*cuts[dist.get_rank() : dist.get_rank() + 2])
        model = DistributedDataParallel(_network())
        weighted_local_loss(_losses(model(x[mine]), y[mine]), 12, world_size).backward()
        return _flat(model)

    for actual in ranks(world_size, gradient):
        torch.testing.assert_close(actual, _whole("mean"))


def test_weighted_local_loss__equals_worked_example(ranks) -> None:
    """文中的手算：不加权得 5/3，加权得 1。"""

    def gradients() -> tuple[float, float]:
        weighted = _one_weight(lambda losses: weighted_local_loss(losses, 4, 2))
        return _one_weight(lambda losses: losses.mean()), weighted

    for naive, weighted in ranks(2, gradients):
        torch.testing.assert_close(naive, 5 / 3)
        torch.testing.assert_close(weighted, 1.0)


def test_weighted_local_loss__limit_of_equal_counts_is_the_mean() -> None:
    """各 rank 样本数相同时就是普通的平均；空的分片得零，仍能反向。"""
    losses = torch.rand(5, dtype=torch.float64, generator=_generator(), requires_grad=True)
    torch.testing.assert_close(weighted_local_loss(losses, 15, 3), losses.mean())
    empty = weighted_local_loss(losses[:0], 15, 3)
    empty.backward()
    assert empty == 0
    assert (losses.grad == 0).all()


def test_weighted_local_loss__rejects_bad_input() -> None:
    """总数比本 rank 的还少，进程数不是正整数，损失不是一维时报错。"""
    losses = torch.ones(3)
    with pytest.raises(ValueError, match="total 必须是不小于 3"):
        weighted_local_loss(losses, 2, 2)
    with pytest.raises(ValueError, match="total 必须是不小于 1"):
        weighted_local_loss(losses[:0], 0, 2)
    with pytest.raises(ValueError, match="world_size"):
        weighted_local_loss(losses, 3, 0)
    with pytest.raises(ValueError, match="losses"):
        weighted_local_loss(losses.sum(), 3, 1)


def test_summed_local_loss__matches_full_batch_sum(ranks) -> None:
    """乘 N 之后等于单进程求和损失的梯度；不乘，恰是它的 1/N。"""
    cuts, (x, y) = CUTS[4], _data()

    def gradients() -> tuple[Tensor, Tensor]:
        mine = slice(*cuts[dist.get_rank() : dist.get_rank() + 2])
        naive, scaled = (DistributedDataParallel(_network()) for _ in range(2))
        _losses(naive(x[mine]), y[mine]).sum().backward()
        summed_local_loss(_losses(scaled(x[mine]), y[mine]), 4).backward()
        return _flat(naive), _flat(scaled)

    for naive, scaled in ranks(4, gradients):
        torch.testing.assert_close(scaled, _whole("sum"))
        torch.testing.assert_close(naive, _whole("sum") / 4)


def test_summed_local_loss__differs_from_scaling_a_local_mean(ranks) -> None:
    """系数 N 要配和，或配全局的分母；乘在本地的平均上，梯度大了 N 倍。"""
    x, y = _data()

    def gradients() -> tuple[Tensor, Tensor]:
        mine = slice(*(0, 6) if dist.get_rank() == 0 else (6, 12))
        wrong, right = (DistributedDataParallel(_network()) for _ in range(2))
        (2 * _losses(wrong(x[mine]), y[mine]).mean()).backward()
        (summed_local_loss(_losses(right(x[mine]), y[mine]), 2) / 12).backward()
        return _flat(wrong), _flat(right)

    for wrong, right in ranks(2, gradients):
        torch.testing.assert_close(wrong, 2 * _whole("mean"))
        torch.testing.assert_close(right, _whole("mean"))


def test_summed_local_loss__equals_worked_example(ranks) -> None:
    """文中的手算：各 rank 的和是 1 与 3，DDP 给出 2；乘 N 之后是 4，即四个梯度之和。"""

    def gradients() -> tuple[float, float]:
        return _one_weight(torch.sum), _one_weight(lambda losses: summed_local_loss(losses, 2))

    for naive, scaled in ranks(2, gradients):
        torch.testing.assert_close(naive, 2.0)
        torch.testing.assert_close(scaled, 4.0)


def test_summed_local_loss__rejects_bad_input() -> None:
    """损失不是一维浮点张量，进程数不是正整数时报错。"""
    with pytest.raises(ValueError, match="losses"):
        summed_local_loss(torch.ones(2, 2), 2)
    with pytest.raises(ValueError, match="world_size"):
        summed_local_loss(torch.ones(2), 0)


def _token_data() -> tuple[Tensor, Tensor]:
    x = torch.randn(4, 6, 3, dtype=torch.float64, generator=_generator(3))
    labels = torch.randint(4, (4, 6), generator=_generator(4))
    for row, length in enumerate((6, 1, 4, 2)):
        labels[row, length:] = -100
    return x, labels


def test_global_token_mean__matches_concatenated_cross_entropy(ranks) -> None:
    """长短不一的序列：等于单进程里一次算完的 cross_entropy（ignore_index）的梯度。"""
    x, labels = _token_data()

    def gradients() -> tuple[Tensor, Tensor]:
        right, wrong = (DistributedDataParallel(_network()) for _ in range(2))
        mine, theirs = x[2 * dist.get_rank() :][:2], labels[2 * dist.get_rank() :][:2]
        total = F.cross_entropy(right(mine).flatten(0, 1), theirs.flatten(), reduction="sum")
        global_token_mean(total, int((theirs != -100).sum())).backward()
        F.cross_entropy(wrong(mine).flatten(0, 1), theirs.flatten()).backward()
        return _flat(right), _flat(wrong)

    model = _network()
    F.cross_entropy(model(x).flatten(0, 1), labels.flatten()).backward()
    for right, wrong in ranks(2, gradients):
        # 默认的容差放得过 float32 的系数
        torch.testing.assert_close(right, _flat(model), rtol=1e-12, atol=1e-14)
        assert (wrong - _flat(model)).norm() > 0.01 * _flat(model).norm()


def test_global_token_mean__differs_from_mean_over_micro_batches(ranks) -> None:
    """累积时逐个微批量求平均再除以 A，与词元的总平均不同；先对微批量求和则相同。"""
    x, labels = _token_data()

    def losses() -> tuple[float, float]:
        model = _network()
        rows = [2 * dist.get_rank(), 2 * dist.get_rank() + 1]  # 一行一个微批量
        each = [F.cross_entropy(model(x[row]), labels[row]).item() for row in rows]
        total = sum(F.cross_entropy(model(x[row]), labels[row], reduction="sum") for row in rows)
        right = global_token_mean(total.detach(), int((labels[rows] != -100).sum()))
        return sum(each) / 2, right.item()

    found = ranks(2, losses)
    expected = F.cross_entropy(_network()(x).flatten(0, 1), labels.flatten()).item()
    torch.testing.assert_close(sum(right for _, right in found) / 2, expected)
    assert abs(sum(wrong for wrong, _ in found) / 2 - expected) > 0.01


def test_global_token_mean__equals_worked_example(ranks) -> None:
    """练习：损失之和 6 与 4，词元数 3 与 1：系数都是 2/4，得 3 与 2，平均 5/2 是总和除以总数。"""

    def loss() -> float:
        pair = ((6.0, 3), (4.0, 1))[dist.get_rank()]
        return global_token_mean(torch.tensor(pair[0], dtype=torch.float64), pair[1]).item()

    assert ranks(2, loss) == [3.0, 2.0]


def test_global_token_mean__is_defined_for_an_empty_rank(ranks) -> None:
    """一个 rank 全是填充：它的损失是 0，别的 rank 照算。"""

    def loss() -> float:
        tokens = 5 * dist.get_rank()
        return global_token_mean(torch.tensor(2.0 * tokens), tokens).item()

    assert ranks(2, loss) == [0.0, 4.0]


def test_global_token_mean__rejects_bad_input(ranks) -> None:
    """损失不是标量、词元数是负的，或每个 rank 都没有词元时报错，各 rank 的话相同。"""
    with pytest.raises(ValueError, match="loss_sum 必须是标量"):
        global_token_mean(torch.ones(2), 2)
    with pytest.raises(ValueError, match="loss_sum 必须是实浮点张量"):
        global_token_mean(2.0, 2)
    with pytest.raises(ValueError, match="tokens 必须是不小于 0"):
        global_token_mean(torch.tensor(1.0), -1)

    def message() -> str:
        with pytest.raises(ValueError, match="tokens") as error:
            global_token_mean(torch.tensor(0.0), 0)
        return str(error.value)

    assert set(ranks(2, message)) == {"tokens 在每个 rank 上都是 0，没有可以平均的词元"}
