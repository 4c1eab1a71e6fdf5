"""跨 rank 收集负样本的 InfoNCE。"""

import math
import warnings

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import _functional_collectives
from torch.nn.parallel import DistributedDataParallel

from formulary.ddp.contrastive import gathered_infonce


class Towers(nn.Module):
    """查询塔与键塔。"""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key = (nn.Linear(n, 5, dtype=torch.float64) for n in (3, 4))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.query(x), self.key(y)


def _data(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(count, d, dtype=torch.float64, generator=generator) for d in (3, 4))
    return x, y


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def _loop_infonce(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    terms = []
    for i in range(len(queries)):
        scores = [(queries[i] * key).sum() / temperature for key in keys]
        terms.append(torch.stack(scores).exp().sum().log() - scores[i])
    return sum(terms) / len(terms)


@pytest.mark.parametrize("world_size", [2, 4])
def test_gathered_infonce__matches_single_process(ranks, world_size: int) -> None:
    """损失的平均与 DDP 平均之后的梯度，都等于单进程在全部样本上逐项算的；只用本地负样本的不等。

    不可微的 dist.all_gather 也不行：损失对，梯度少了别的 rank 那一份。
    """
    x, y = _data(3 * world_size)

    def plain_gather(queries: Tensor, keys: Tensor) -> Tensor:
        copies = [torch.empty_like(keys) for _ in range(world_size)]
        dist.all_gather(copies, keys.detach())
        copies[dist.get_rank()] = keys
        mine = 3 * dist.get_rank() + torch.arange(3)
        return F.cross_entropy(queries @ torch.cat(copies).T / 0.7, mine)

    def run() -> list[tuple[float, Tensor]]:
        shard = [tensor.chunk(world_size)[dist.get_rank()] for tensor in (x, y)]
        found = []
        for loss_function in (
            lambda q, k: gathered_infonce(q, k, 0.7),
            lambda q, k: F.cross_entropy(q @ k.T / 0.7, torch.arange(3)),
            plain_gather,
        ):
            model = DistributedDataParallel(Towers())
            loss = loss_function(*model(*shard))
            loss.backward()
            found.append((loss.item(), _flat(model)))
        return found

    model = Towers()
    whole = _loop_infonce(*model(x, y), 0.7)
    whole.backward()
    expected = _flat(model)
    results = ranks(world_size, run)
    losses = [[loss for loss, _ in found] for found in results]
    gathered, local, plain = (sum(column) / world_size for column in zip(*losses, strict=True))
    torch.testing.assert_close(gathered, whole.item())
    torch.testing.assert_close(plain, whole.item())
    assert abs(local - whole.item()) > 0.1
    for (_, right), (_, near), (_, cut) in results:
        torch.testing.assert_close(right, expected)
        assert (near - expected).norm() > 0.1 * expected.norm()
        assert (cut - expected).norm() > 0.1 * expected.norm()


def test_gathered_infonce__equals_log_count_without_information(ranks) -> None:
    """查询都是零时损失是全部键数的对数：3 个 rank、每个两行，log 6。"""

    def loss() -> float:
        zeros = torch.zeros(2, 3, dtype=torch.float64)
        return gathered_infonce(zeros, zeros + dist.get_rank()).item()

    for actual in ranks(3, loss):
        torch.testing.assert_close(actual, math.log(6))


def test_gathered_infonce__differs_from_the_deprecated_name(ranks) -> None:
    """可微的全收集在 2.13 里的旧名给出弃用警告；这里用的新名不警告。"""

    def loss() -> float:
        keys = torch.eye(2, dtype=torch.float64)
        with pytest.warns(FutureWarning, match="all_gather_tensor_autograd` is deprecated"):
            _functional_collectives.all_gather_tensor_autograd(keys, 0, dist.group.WORLD)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return gathered_infonce(keys, keys).item()

    assert ranks(2, loss) == pytest.approx([math.log(2 * math.e + 2) - 1] * 2)


def test_gathered_infonce__rejects_bad_input() -> None:
    """形状不同、不是二维，温度不是正数时报错，不等到通信。"""
    x = torch.ones(3, 2)
    for queries, keys, name in (
        (x, x[:2], "keys"),
        (x, x[:, :1], "keys"),
        (x[0], x[0], "queries"),
        (x.long(), x, "queries"),
    ):
        with pytest.raises(ValueError, match=name):
            gathered_infonce(queries, keys)
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="temperature"):
            gathered_infonce(x, x, bad)
