"""初值的广播、形状的核对与副本的核对；DDP 的构造函数做了什么。"""

import time

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from formulary.ddp.processes import RankError
from formulary.ddp.replicas import broadcast_module, require_equal_replicas, require_same_shapes


def _network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def _state(model: nn.Module) -> list[list[float]]:
    return [tensor.detach().flatten().tolist() for tensor in model.state_dict().values()]


@pytest.mark.parametrize("world_size", [2, 4])
def test_broadcast_module__matches_ddp_constructor(ranks, world_size: int) -> None:
    """各 rank 种子不同：广播之后的参数与缓冲区都是 rank 0 的，与 DDP 构造函数做的逐位相同。"""

    def states() -> tuple[list, list, list]:
        torch.manual_seed(dist.get_rank())
        ours, theirs = _network(), _network()
        ours[1].running_mean.fill_(dist.get_rank())
        theirs.load_state_dict(ours.state_dict())
        before = _state(ours)
        broadcast_module(ours)
        DistributedDataParallel(theirs)
        return before, _state(ours), _state(theirs)

    results = ranks(world_size, states)
    for rank, (before, ours, theirs) in enumerate(results):
        assert ours == results[0][0]
        assert theirs == results[0][0]
        assert (before == results[0][0]) == (rank == 0)


def test_broadcast_module__depends_only_on_source(ranks) -> None:
    """换一个来源，人人得到它的值；来源自己不变，也仍是可训练的叶子张量。"""

    def values() -> tuple[float, bool]:
        layer = nn.Linear(1, 1)
        nn.init.constant_(layer.bias, 10.0 * dist.get_rank())
        broadcast_module(layer, src=2)
        layer.bias.backward(torch.ones(1))
        return layer.bias.item(), layer.bias.grad.item() == 1.0

    assert ranks(3, values) == [(20.0, True)] * 3


def test_broadcast_module__rejects_bad_source(ranks) -> None:
    """来源不是进程组里的 rank 时报错。"""

    def messages() -> list[str]:
        told = []
        for src in (-1, 2, 0.5):
            with pytest.raises(ValueError, match="src") as error:
                broadcast_module(nn.Linear(1, 1), src)
            told.append(str(error.value))
        return told

    assert "src 必须小于进程数 2，得到 2" in ranks(2, messages)[1]


def test_broadcast_module__differs_from_buffers_after_a_forward(ranks) -> None:
    """广播过的缓冲区，一次前向之后各 rank 就不同了；下一次前向开始时 DDP 又改成 rank 0 的。"""

    def means() -> list[float]:
        model = nn.BatchNorm1d(1)
        broadcast_module(model)
        wrapped = DistributedDataParallel(model)
        seen = []
        model.register_forward_pre_hook(lambda *_: seen.append(model.running_mean.item()))
        for _ in range(2):
            wrapped(torch.tensor([[1.0], [3.0]]) + 10 * dist.get_rank())
            seen.append(model.running_mean.item())
        return seen

    first, second = ranks(2, means)
    assert first == pytest.approx([0.0, 0.2, 0.2, 0.38])
    assert second == pytest.approx([0.0, 1.2, 0.2, 1.38])


def test_require_same_shapes__matches_ddp_verdict(ranks) -> None:
    """DDP 构造函数接受的它都接受；形状或个数不同时两者都拒绝，它还说得出是谁、哪个参数。"""

    def verdicts() -> list[bool]:
        found = []
        for build in (
            lambda _: _network(),
            lambda rank: nn.Linear(3, 2, bias=rank < 1),
        ):
            model = build(dist.get_rank())
            for check in (require_same_shapes, DistributedDataParallel):
                try:
                    check(model)
                    found.append(True)
                except (ValueError, RuntimeError):
                    found.append(False)
        return found

    assert ranks(2, verdicts) == [[True, True, False, False]] * 2


def test_require_same_shapes__equals_message_on_every_rank(ranks) -> None:
    """每个 rank 抛出同一句话；DDP 自己只在出错的 rank 上说得出是哪个参数。"""

    def messages() -> tuple[str, str]:
        model = nn.Linear(3 + dist.get_rank() % 2, 2)
        with pytest.raises(ValueError, match="各 rank 的模型必须相同") as ours:
            require_same_shapes(model)
        with pytest.raises(RuntimeError) as theirs:
            DistributedDataParallel(model)
        return str(ours.value), str(theirs.value)

    results = ranks(2, messages)
    expected = (
        "各 rank 的模型必须相同，第 0 个参数在 rank 1 上是 weight (2, 4) float32，"
        "在 rank 0 上是 weight (2, 3) float32；各 rank 要用同样的配置构造模型"
    )
    assert [ours for ours, _ in results] == [expected] * 2
    assert results[1][1] == (
        "[1]: params[0] in this process with sizes [2, 4] appears not to match sizes of the same "
        "param in process 0."
    )
    assert "params[0]" not in results[0][1]


def test_require_same_shapes__rejects_other_differences(ranks) -> None:
    """多一个参数、少一个参数、类型不同、次序不同，都报错；缺的写作“无”。"""

    def messages() -> list[str]:
        odd, told = dist.get_rank() == 2, []
        for model in (
            nn.Linear(2, 2, bias=not odd),
            nn.Linear(2, 2, bias=odd),
            nn.Linear(2, 2).to(torch.float64 if odd else torch.float32),
            nn.Sequential(*(nn.Linear(2, n) for n in ((2, 3) if odd else (3, 2)))),
        ):
            with pytest.raises(ValueError, match="rank 2 上是") as error:
                require_same_shapes(model)
            told.append(str(error.value))
        return told

    results = ranks(3, messages)
    assert results[0] == results[1] == results[2]
    fewer, more, dtype, order = results[0]
    assert "第 1 个参数在 rank 2 上是 无，在 rank 0 上是 bias (2,) float32" in fewer
    assert "第 1 个参数在 rank 2 上是 bias (2,) float32，在 rank 0 上是 无" in more
    assert "weight (2, 2) float64" in dtype
    assert "0.weight (2, 2)" in order


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_require_equal_replicas__matches_ddp_training(ranks, optimizer) -> None:
    """各 rank 数据不同，DDP 训练 50 步之后参数仍逐位相同；也与把参数收集到一处比较的结论一致。"""

    def train() -> list[list[float]]:
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        wrapped = DistributedDataParallel(model)
        stepper = optimizer(model.parameters(), lr=0.01)
        generator = torch.Generator().manual_seed(dist.get_rank())
        for _ in range(50):
            stepper.zero_grad()
            (wrapped(torch.randn(5, 3, generator=generator)) - 1).square().mean().backward()
            stepper.step()
        require_equal_replicas(model)
        return _state(model)

    first, second = ranks(2, train)
    assert first == second


def test_require_equal_replicas__differs_from_changing_parameters_after_wrapping(ranks) -> None:
    """包装之后再改参数，DDP 不会再广播：训练照常进行，副本一直不同。"""

    def message() -> str:
        model = nn.Linear(2, 1)
        wrapped = DistributedDataParallel(model)
        require_equal_replicas(model)
        with torch.no_grad():
            model.weight += 0.5 * dist.get_rank()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            wrapped(torch.ones(1, 2)).sum().backward()
            optimizer.step()
        with pytest.raises(ValueError, match="参数 weight 在 rank 1 上与 rank 0 相差") as error:
            require_equal_replicas(model)
        return str(error.value)

    first, second = ranks(2, message)
    assert first == second
    assert "相差 0.5，" in first


def test_require_equal_replicas__depends_only_on_parameters(ranks) -> None:
    """缓冲区、梯度、训练模式各不相同都不算；查过之后本 rank 的参数一位不变。"""

    def values() -> tuple[list[list[float]], bool]:
        torch.manual_seed(0)
        model = _network().train(dist.get_rank() == 0)
        model[1].running_var.fill_(1.0 + dist.get_rank())
        model[2].bias.grad = torch.full((2,), float(dist.get_rank()))
        before = [parameter.tolist() for parameter in model.parameters()]
        require_equal_replicas(model)
        return before, before == [parameter.tolist() for parameter in model.parameters()]

    first, second = ranks(2, values)
    assert first == second
    assert first[1]


def test_require_equal_replicas__rejects_a_last_bit(ranks) -> None:
    """只差一个最低位也报错；缓冲区不同不报错；形状不同时先由形状的核对报错。"""

    def messages() -> tuple[str, str]:
        model = nn.BatchNorm1d(2)
        model.running_mean.fill_(dist.get_rank())
        require_equal_replicas(model)
        if dist.get_rank() == 1:
            with torch.no_grad():
                model.bias[1] = 2.0**-149
        with pytest.raises(ValueError, match="参数 bias 在 rank 1 上") as bit:
            require_equal_replicas(model)
        with pytest.raises(ValueError, match="各 rank 的模型必须相同") as shape:
            require_equal_replicas(nn.Linear(1 + dist.get_rank(), 1))
        return str(bit.value), str(shape.value)

    assert len(set(ranks(2, messages))) == 1


def test_require_same_shapes__differs_from_silent_rank(ranks) -> None:
    """有 rank 不来核对：别的 rank 等到期限就报错，谁没有来看得出。"""

    def check() -> None:
        if dist.get_rank() == 0:
            require_same_shapes(nn.Linear(1, 1))
        else:
            time.sleep(60)

    with pytest.raises(RankError) as error:
        ranks(2, check, timeout=1.0)
    assert error.value.failures[1] == "到期限还没有结果"
    assert "Timed out waiting 1000ms" in error.value.failures[0]


def test_require_same_shapes__differs_from_other_refusals_of_ddp(ranks) -> None:
    """形状都对，DDP 仍会拒绝的几种用法，与文中引的报错一致；包两层它倒不拒绝。"""

    def messages() -> list[str]:
        told = []
        layer = nn.Linear(3, 2)
        frozen = nn.Linear(3, 2).requires_grad_(False)
        for model, options in ((layer, {"device_ids": [0]}), (frozen, {})):
            require_same_shapes(model)
            with pytest.raises((ValueError, RuntimeError)) as error:
                DistributedDataParallel(model, **options)
            told.append(str(error.value))
        wrapped = DistributedDataParallel(DistributedDataParallel(layer))
        with pytest.raises(RuntimeError) as error:
            layer.load_state_dict(wrapped.module.state_dict())
        told.append(str(error.value))
        assert next(iter(wrapped.state_dict())) == "module.module.weight"
        dist.destroy_process_group()
        with pytest.raises(ValueError, match="process group") as error:
            DistributedDataParallel(layer)
        return [*told, str(error.value)]

    devices, frozen, prefix, group = ranks(2, messages)[0]
    assert "device_ids and output_device arguments only work with" in devices
    assert "is not needed when a module doesn't have any parameter that requires" in frozen
    assert 'Missing key(s) in state_dict: "weight", "bias".' in prefix
    assert 'Unexpected key(s) in state_dict: "module.weight", "module.bias".' in prefix
    assert group.startswith("Default process group has not been initialized")


def test_require_same_shapes__differs_from_counting_parameters(ranks) -> None:
    """参数个数不同时，DDP 的报错说得出个数，说不出少的是哪一个。"""

    def messages() -> tuple[str, str]:
        model = nn.Linear(3, 2, bias=dist.get_rank() == 0)
        with pytest.raises(ValueError, match="bias") as ours:
            require_same_shapes(model)
        with pytest.raises(RuntimeError) as theirs:
            DistributedDataParallel(model)
        return str(ours.value), str(theirs.value)

    results = ranks(2, messages)
    assert "在 rank 0 上是 bias (2,) float32" in results[1][0]
    assert results[1][1].startswith(
        "DDP expects same model across all ranks, but Rank 1 has 1 params, while rank 0"
    )


def test_broadcast_module__differs_from_deprecated_spellings(ranks) -> None:
    """2.13 里会警告的旧写法：broadcast_buffers，以及 torch.cuda.amp 的 GradScaler。"""

    def warned() -> int:
        layer = nn.Linear(1, 1)
        broadcast_module(layer)
        with pytest.warns(FutureWarning, match="Use `forward_sync_buffers` instead"):
            DistributedDataParallel(layer, broadcast_buffers=False)
        DistributedDataParallel(layer, forward_sync_buffers=False)
        with pytest.warns(FutureWarning, match=r"torch\.amp\.GradScaler"):
            torch.cuda.amp.GradScaler(enabled=False)
        with pytest.raises(ValueError, match="can only be None or contain a single element"):
            DistributedDataParallel(layer, device_ids=[0, 1])
        return 0

    assert ranks(2, warned) == [0, 0]
