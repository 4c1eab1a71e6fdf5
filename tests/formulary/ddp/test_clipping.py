"""梯度裁剪与求平均的先后。"""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from formulary.ddp.clipping import clip_norm, mean_of_clipped


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _loop_clip(row: list[float], max_norm: float) -> list[float]:
    norm = sum(value * value for value in row) ** 0.5
    return [value * max_norm / norm for value in row] if norm > max_norm else row


def test_clip_norm__matches_python_loop() -> None:
    """逐行与标量循环相同，有的行超过阈值，有的不超过。"""
    gradient = torch.randn(2, 3, 4, dtype=torch.float64, generator=_generator())
    gradient[0] *= 0.2
    rows = [[_loop_clip(row, 1.5) for row in plane] for plane in gradient.tolist()]
    expected = torch.tensor(rows, dtype=torch.float64)
    assert (expected != gradient).any()
    assert not (expected != gradient).all()
    torch.testing.assert_close(clip_norm(gradient, 1.5), expected)


def test_clip_norm__matches_torch_clip_grad_norm() -> None:
    """与 torch.nn.utils.clip_grad_norm_ 只差分母里的 1e-6。"""
    for scale in (0.1, 5.0):
        parameter = nn.Parameter(torch.zeros(7, dtype=torch.float64))
        gradient = scale * torch.randn(7, dtype=torch.float64, generator=_generator(1))
        parameter.grad = gradient.clone()
        nn.utils.clip_grad_norm_([parameter], 1.0)
        # torch 的分母是 norm + 1e-6，这里的范数大于 1，相对差别小于 1e-6
        torch.testing.assert_close(clip_norm(gradient, 1.0), parameter.grad, rtol=1e-6, atol=0.0)


def test_clip_norm__is_zero_for_zero_gradient() -> None:
    """零梯度仍为零，不是 NaN；恰在阈值上的不变。"""
    assert clip_norm(torch.zeros(3), 1.0).tolist() == [0.0, 0.0, 0.0]
    assert clip_norm(torch.tensor([3.0, 4.0]), 5.0).tolist() == [3.0, 4.0]


def test_clip_norm__rejects_bad_input() -> None:
    """整数梯度、不是正数的阈值报错。"""
    with pytest.raises(ValueError, match="gradient"):
        clip_norm(torch.ones(3, dtype=torch.int64), 1.0)
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="max_norm"):
            clip_norm(torch.ones(3), bad)


def _gradient(model: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def test_mean_of_clipped__matches_clipping_in_each_process(ranks) -> None:
    """各进程在通信之前用 clip_grad_norm_ 裁剪、再 all_reduce 平均，得到的就是它。

    先让 DDP 平均、再在每个进程里裁剪，则等于单进程裁剪全批量的梯度，各 rank 逐位相同；
    两者相差 20% 以上。
    """
    torch.manual_seed(0)
    start = nn.Linear(3, 2).double()
    x = torch.randn(2, 5, 3, dtype=torch.float64, generator=_generator(2))
    x[1] *= 3

    def loss(model: nn.Module, inputs: Tensor) -> Tensor:
        return (model(inputs) ** 2).sum(dim=-1).mean()

    def gradients() -> tuple[Tensor, Tensor, Tensor]:
        mine = x[dist.get_rank()]
        early, late = nn.Linear(3, 2).double(), DistributedDataParallel(nn.Linear(3, 2).double())
        for model in (early, late.module):
            model.load_state_dict(start.state_dict())
        loss(early, mine).backward()
        local = _gradient(early).clone()
        nn.utils.clip_grad_norm_(early.parameters(), 1.0)
        averaged = _gradient(early)
        dist.all_reduce(averaged)
        loss(late, mine).backward()
        nn.utils.clip_grad_norm_(late.parameters(), 1.0)
        return local, averaged / 2, _gradient(late)

    results = ranks(2, gradients)
    wrong = mean_of_clipped(torch.stack([local for local, _, _ in results]), 1.0)
    loss(start, x.flatten(0, 1)).backward()
    right = clip_norm(_gradient(start), 1.0)
    assert (wrong - right).norm() > 0.2
    for _, early, late in results:
        # 分母里的 1e-6
        torch.testing.assert_close(early, wrong, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(late, right, rtol=1e-5, atol=1e-7)
        assert torch.equal(late, results[0][2])


def test_mean_of_clipped__equals_worked_example() -> None:
    """文中的手算：梯度 3/2 与 1/2、阈值 1，先裁剪得 3/4，先平均得 1；练习里方向也变了。"""
    gradients = torch.tensor([[1.5], [0.5]], dtype=torch.float64)
    expected = torch.tensor([0.75], dtype=torch.float64)
    torch.testing.assert_close(mean_of_clipped(gradients, 1.0), expected)
    assert clip_norm(gradients.mean(dim=0), 1.0).item() == 1.0
    gradients = torch.tensor([[8.0, 0.0], [0.0, 0.5]], dtype=torch.float64)
    expected = torch.tensor([0.5, 0.25], dtype=torch.float64)
    torch.testing.assert_close(mean_of_clipped(gradients, 1.0), expected)
    expected = torch.tensor([16.0, 1.0], dtype=torch.float64) / 257**0.5
    torch.testing.assert_close(clip_norm(gradients.mean(dim=0), 1.0), expected)


def test_mean_of_clipped__bounds_norm() -> None:
    """范数不超过阈值；都不超过阈值时就是平均。"""
    gradients = torch.randn(5, 4, dtype=torch.float64, generator=_generator(3))
    assert mean_of_clipped(gradients, 0.3).norm() <= 0.3
    torch.testing.assert_close(mean_of_clipped(gradients, 100.0), gradients.mean(dim=0))


def test_mean_of_clipped__rejects_bad_input() -> None:
    """一维的梯度、不是正数的阈值报错。"""
    with pytest.raises(ValueError, match="gradients"):
        mean_of_clipped(torch.ones(3), 1.0)
    with pytest.raises(ValueError, match="max_norm"):
        mean_of_clipped(torch.ones(2, 3), 0.0)
