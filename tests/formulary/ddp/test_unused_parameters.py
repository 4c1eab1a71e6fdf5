"""没有用到的参数：手写的平均，以及 DDP 在各种标志下的行为。"""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from formulary.ddp.gradient_averaging import average_gradients
from formulary.ddp.processes import RankError
from formulary.ddp.unused_parameters import average_used_gradients

UNFINISHED = "Expected to have finished reduction in the prior iteration before starting a new one."


class Branches(nn.Module):
    """common 总要用，optional 看参数。"""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.common = nn.Linear(3, 2, bias=False, dtype=torch.float64)
        self.optional = nn.Linear(3, 2, bias=False, dtype=torch.float64)

    def forward(self, x: Tensor, use: bool) -> Tensor:
        return self.common(x).tanh() + (self.optional(x).tanh() if use else 0)


def _inputs() -> Tensor:
    generator = torch.Generator().manual_seed(dist.get_rank())
    return torch.randn(4, 3, dtype=torch.float64, generator=generator)


def _step(model: nn.Module, use: bool) -> list[Tensor | None]:
    model.zero_grad()
    model(_inputs(), use).square().mean().backward()
    return [
        None if parameter.grad is None else parameter.grad.clone()
        for parameter in model.parameters()
    ]


@pytest.mark.parametrize("users", [(0,), (1, 2), ()])
def test_average_used_gradients__matches_find_unused_parameters(ranks, users) -> None:
    """一个、两个、没有 rank 用到 optional：与 find_unused_parameters=True 的 DDP 两轮都相同。"""

    def gradients() -> list[list[Tensor | None]]:
        use = dist.get_rank() in users
        wrapped = DistributedDataParallel(Branches(), find_unused_parameters=True)
        local = Branches()
        _step(local, use)
        average_used_gradients(local)
        ours = [parameter.grad for parameter in local.parameters()]
        return [ours, _step(wrapped, use), _step(wrapped, use)]

    for ours, first, second in ranks(3, gradients):
        for theirs in (first, second):
            torch.testing.assert_close(ours[0], theirs[0])
            assert (ours[1] is None) == (theirs[1] is None) == (not users)
            if users:
                torch.testing.assert_close(ours[1], theirs[1])


def test_average_used_gradients__equals_local_gradient_over_world_size(ranks) -> None:
    """只有 rank 1 用到时，每个 rank 得到的都是它的局部梯度除以进程数，不是除以 1。"""

    def gradients() -> tuple[Tensor | None, Tensor]:
        model = Branches()
        local = _step(model, dist.get_rank() == 1)[1]
        average_used_gradients(model)
        return local, model.optional.weight.grad

    results = ranks(4, gradients)
    for _, averaged in results:
        torch.testing.assert_close(averaged, results[1][0] / 4)
    assert [local is None for local, _ in results] == [True, False, True, True]


def test_average_used_gradients__preserves_none_and_frozen_parameters(ranks) -> None:
    """谁都没有用到的参数保持 None，冻结的不碰；全部冻结时什么也不做。"""

    def gradients() -> list[bool]:
        model = Branches()
        model.common.requires_grad_(False)
        average_used_gradients(model)
        empty = [parameter.grad is None for parameter in model.parameters()]
        model.requires_grad_(False)
        average_used_gradients(model)
        return empty

    assert ranks(2, gradients) == [[True, True]] * 2


def test_average_used_gradients__differs_from_default_flags(ranks) -> None:
    """默认的 DDP：大家都没用到的，第一轮不声不响，同桶的别的参数也没有平均；第二轮的前向报错。"""

    def messages() -> tuple[bool, bool, bool, str]:
        local = Branches()
        mine = _step(local, False)[0]
        average_used_gradients(local)
        wrapped = DistributedDataParallel(Branches())
        silent = _step(wrapped, False)[0]
        with pytest.raises(RuntimeError) as error:
            wrapped(_inputs(), False)
        untouched = local.optional.weight.grad is None
        averaged = not torch.equal(mine, local.common.weight.grad)
        return untouched, averaged, torch.equal(silent, mine), str(error.value)

    for rank, (untouched, averaged, silent, message) in enumerate(ranks(2, messages)):
        assert untouched
        assert averaged
        assert silent
        assert message.startswith(UNFINISHED)
        assert f"Parameter indices which did not receive grad for rank {rank}: 1\n" in message


def test_average_used_gradients__differs_from_waiting_forever(ranks, monkeypatch) -> None:
    """默认的 DDP：只有 rank 0 用到时，它在第一轮的反向里等别人，直到别人出错或到期限。"""
    # 忙的机器上，rank 0 未必在 2 秒之内说得出来
    monkeypatch.setattr("formulary.ddp.processes.GRACE", 20.0)

    def train() -> None:
        local = Branches()
        _step(local, dist.get_rank() == 0)
        average_used_gradients(local)
        wrapped = DistributedDataParallel(Branches())
        _step(wrapped, dist.get_rank() == 0)
        wrapped(_inputs(), False)

    with pytest.raises(RankError) as error:
        ranks(2, train, timeout=2.0)
    assert UNFINISHED in error.value.failures[1]
    assert "by peer" in error.value.failures[0]  # closed 或 reset


@pytest.mark.parametrize("users", [(0,), (0, 1, 2), ()])
def test_average_used_gradients__matches_static_graph(ranks, users) -> None:
    """static_graph=True：用到的参数每轮不变时，一个、全部、没有 rank 用到，三轮都与手写的相同。"""

    def gradients() -> list[list[Tensor | None]]:
        use = dist.get_rank() in users
        local = Branches()
        _step(local, use)
        average_used_gradients(local)
        wrapped = DistributedDataParallel(Branches(), static_graph=True)
        ours = [parameter.grad for parameter in local.parameters()]
        return [ours, *(_step(wrapped, use) for _ in range(3))]

    for ours, *rounds in ranks(3, gradients):
        for theirs in rounds:
            torch.testing.assert_close(theirs[0], ours[0])
            assert (theirs[1] is None) == (ours[1] is None) == (not users)
            if users:
                torch.testing.assert_close(theirs[1], ours[1])


def test_average_used_gradients__equals_ddp_warning_case(ranks, capfd) -> None:
    """没有闲置的参数：默认的 DDP 正常；开着 find_unused_parameters 结果不变，警告多走了一遍。"""

    def gaps() -> float:
        local = Branches()
        _step(local, True)
        average_used_gradients(local)
        wrapped = DistributedDataParallel(Branches(), find_unused_parameters=True)
        plain = _step(DistributedDataParallel(Branches()), True)
        return max(
            (theirs[1] - local.optional.weight.grad).abs().max().item()
            for theirs in (_step(wrapped, True), plain)
        )

    assert max(ranks(2, gaps)) < 1e-15
    told = capfd.readouterr().err
    assert "did not find any unused parameters in the forward pass" in told


def test_average_used_gradients__differs_from_average_gradients(ranks) -> None:
    """average_gradients 遇到没有梯度的参数就报错；这里正是为它准备的，照算。"""

    def check() -> bool:
        model = Branches()
        _step(model, False)
        with pytest.raises(ValueError, match="average_used_gradients"):
            average_gradients(model)
        average_used_gradients(model)
        return model.common.weight.grad is not None

    assert ranks(2, check) == [True, True]
