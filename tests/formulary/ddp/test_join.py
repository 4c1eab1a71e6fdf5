"""长短不一的输入：手写的循环与 DistributedDataParallel.join。"""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from formulary.ddp.join import average_active_gradients
from formulary.ddp.processes import RankError

LENGTHS = (2, 4, 3)  # 各 rank 的小批量个数


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def _batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(dist.get_rank())
    length = LENGTHS[dist.get_rank()]
    return list(torch.randn(length, 5, 3, dtype=torch.float64, generator=generator))


def _flat(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def _train_by_hand(by_world_size: bool) -> tuple[Tensor, list[int]]:
    model, remaining, counts = _network(), _batches(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    while True:
        optimizer.zero_grad()
        active = bool(remaining)
        if active:
            model(remaining.pop(0)).square().mean().backward()
        count = average_active_gradients(model, active, by_world_size)
        counts.append(count)
        if count == 0:
            return _flat(model), counts
        optimizer.step()


@pytest.mark.parametrize("by_world_size", [True, False])
def test_average_active_gradients__matches_ddp_join(ranks, by_world_size: bool) -> None:
    """各 rank 2、4、3 个小批量：训练完的参数与 DDP.join 的相同，两种除数都是，各 rank 都是。"""

    def train() -> tuple[Tensor, list[int], Tensor]:
        ours, counts = _train_by_hand(by_world_size)
        wrapped = DistributedDataParallel(_network())
        optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
        with wrapped.join(divide_by_initial_world_size=by_world_size):
            for batch in _batches():
                optimizer.zero_grad()
                wrapped(batch).square().mean().backward()
                optimizer.step()
        return ours, counts, _flat(wrapped)

    for ours, counts, theirs in ranks(3, train):
        torch.testing.assert_close(ours, theirs)
        assert counts == [3, 3, 2, 1, 0]


def test_average_active_gradients__matches_python_sum(ranks) -> None:
    """与把还有数据的 rank 的梯度收集起来相加、再除以 N 或个数的相同；旧的梯度不算。"""

    def gradients() -> tuple[float, float, float, int]:
        rank, found = dist.get_rank(), []
        for by_world_size in (True, False):
            layer = nn.Linear(1, 1, bias=False, dtype=torch.float64)
            layer.weight.grad = torch.full_like(layer.weight, 3.0 + rank**2)
            count = average_active_gradients(layer, rank in (1, 3), by_world_size)
            found.append(layer.weight.grad.item())
        return 3.0 + rank**2, *found, count

    results = ranks(4, gradients)
    total = results[1][0] + results[3][0]
    for _, by_world_size, by_active, count in results:
        torch.testing.assert_close(by_world_size, total / 4)
        torch.testing.assert_close(by_active, total / 2)
        assert count == 2


def test_average_active_gradients__equals_worked_example(ranks) -> None:
    """文中的例子：两个 rank 里只剩一个有数据，默认得它的梯度的一半，另一种除法得全部。"""

    def gradients() -> tuple[float, float]:
        found = []
        for by_world_size in (True, False):
            layer = nn.Linear(1, 1, bias=False)
            if dist.get_rank() == 0:
                layer(torch.full((1, 1), 6.0)).sum().backward()
            average_active_gradients(layer, dist.get_rank() == 0, by_world_size)
            found.append(layer.weight.grad.item())
        return tuple(found)

    assert ranks(2, gradients) == [(3.0, 6.0)] * 2


def test_average_active_gradients__preserves_gradients_when_all_are_done(ranks) -> None:
    """没有 rank 有数据时返回 0，不碰 .grad；冻结的参数也不碰。"""

    def run() -> tuple[int, bool, bool]:
        layer = nn.Linear(1, 1)
        layer.bias.requires_grad_(False)
        done = average_active_gradients(layer, False)
        untouched = layer.weight.grad is None
        layer.weight.sum().backward()
        average_active_gradients(layer, True)
        return done, untouched, layer.bias.grad is None

    assert ranks(2, run) == [(0, True, True)] * 2


def test_average_active_gradients__differs_from_training_without_join(ranks) -> None:
    """不用 join：多出一个小批量的 rank 在反向里等到期限或对方离开，训练中断；手写的循环不会。"""

    def train() -> None:
        layer = nn.Linear(1, 1)
        layer(torch.ones(1, 1)).sum().backward()
        average_active_gradients(layer, dist.get_rank() == 1)
        wrapped = DistributedDataParallel(nn.Linear(1, 1))
        for _ in range(2 + dist.get_rank()):
            wrapped(torch.ones(1, 1)).sum().backward()

    with pytest.raises(RankError) as error:
        ranks(2, train, timeout=2.0)
    assert list(error.value.failures) == [1]


def test_average_active_gradients__differs_from_raising_on_uneven_inputs(ranks) -> None:
    """join(throw_on_early_termination=True)：有 rank 用完数据时各 rank 都报错，不必等期限。"""

    def message() -> str:
        layer = nn.Linear(1, 1)
        layer(torch.ones(1, 1)).sum().backward()
        average_active_gradients(layer, True)
        wrapped = DistributedDataParallel(nn.Linear(1, 1))

        def loop() -> None:
            with wrapped.join(throw_on_early_termination=True):
                for _ in range(2 + dist.get_rank()):
                    wrapped(torch.ones(1, 1)).sum().backward()

        with pytest.raises(RuntimeError) as error:
            loop()
        return str(error.value)

    first, second = ranks(2, message)
    assert "Rank 0 exhausted all inputs" in first
    assert "Detected at least one rank that exhausted inputs" in second


def test_average_active_gradients__rejects_active_rank_without_gradient(ranks) -> None:
    """说有数据却没有反向传播时报错，并指出参数。"""

    def message() -> str:
        with pytest.raises(ValueError, match="先反向传播") as error:
            average_active_gradients(nn.Linear(2, 1), True)
        return str(error.value)

    assert all("参数 weight 没有梯度" in told for told in ranks(2, message))
