"""断点续训的检验：恢复之后与没有中断过的训练逐位相同，少存一样就不同。"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from formulary.ddp.checkpoint import load_latest, save_checkpoint
from formulary.ddp.processes import RankError, run_ranks
from formulary.ddp.resume import (
    random_state,
    sampler_position,
    set_random_state,
    train_resumable,
)

Ranks = Callable[..., list[Any]]
SAMPLES, BATCH = 24, 3  # 两个 rank 各 12 个，每轮 4 批
Weights = list[Tensor]


class _Job:
    """一次启动：模型有丢弃与批归一化，优化器是带动量的 Adam，数据每轮打乱。"""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        random.seed(seed)
        self.model = DistributedDataParallel(
            nn.Sequential(
                nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Dropout(0.3), nn.Linear(7, 2)
            )
        )
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.02)
        generator = torch.Generator().manual_seed(9)
        self.data = TensorDataset(
            torch.randn(SAMPLES, 5, generator=generator),
            torch.randn(SAMPLES, 2, generator=generator),
        )
        self.sampler = DistributedSampler(self.data, seed=4)
        torch.manual_seed(100 + seed + dist.get_rank())  # 各 rank 的丢弃不同

    def update(self, x: Tensor, y: Tensor) -> None:
        self.optimizer.zero_grad()
        scale = 1 + 0.1 * random.random()  # 数据增强用 Python 的发生器
        (self.model(scale * x) - y).square().mean().backward()
        self.optimizer.step()

    def advance(self, step: int) -> None:
        epoch, batch = sampler_position(step, SAMPLES // 2 // BATCH)
        self.sampler.set_epoch(epoch)
        chosen = list(self.sampler)[batch * BATCH : (batch + 1) * BATCH]
        self.update(*self.data[chosen])

    def state(self) -> Weights:
        moments = [m for s in self.optimizer.state.values() for m in s.values()]
        return [t.detach().clone() for t in (*self.model.state_dict().values(), *moments)]


def _plain_loop(steps: int) -> Weights:
    """不中断的训练，按通常的写法：两重循环，DataLoader。"""
    job = _Job(seed=0)
    loader = DataLoader(job.data, BATCH, sampler=job.sampler, generator=torch.Generator())
    done = 0
    for epoch in range(99):
        job.sampler.set_epoch(epoch)
        for x, y in loader:
            if done == steps:
                return job.state()
            job.update(x, y)
            done += 1
    raise AssertionError


def _run(folder: Path, steps: int, seed: int = 0) -> tuple[int, Weights]:
    job = _Job(seed)
    first = train_resumable(job.model, job.optimizer, job.advance, steps, folder, save_every=2)
    return first, job.state()


def _equal(left: Weights, right: Weights) -> bool:
    return len(left) == len(right) and all(map(torch.equal, left, right))


def test_train_resumable__matches_uninterrupted_loop(ranks: Ranks, tmp_path: Path) -> None:
    """第 7 步中断、从第 6 步（第二轮的中间）恢复，参数、缓冲区、矩与不中断的循环逐位相同。"""

    def both() -> tuple[Weights, int, int, Weights]:
        expected = _plain_loop(11)
        first, _ = _run(tmp_path, 7)
        again, actual = _run(tmp_path, 11, seed=1)  # 新进程的种子不同，全靠恢复
        return expected, first, again, actual

    for expected, first, again, actual in ranks(2, both):
        assert (first, again) == (0, 6)
        assert _equal(expected, actual)
        torch.testing.assert_close(actual, expected, rtol=0.0, atol=0.0)


FORGOTTEN = {
    "dropout": lambda state: [mine.update(torch=torch.Generator().manual_seed(0).get_state())
                              for mine in state["random"]],
    "augmentation": lambda state: [mine.update(python=random.Random(0).getstate())
                                   for mine in state["random"]],
    "ranks": lambda state: state["random"].__setitem__(1, state["random"][0]),
    "moments": lambda state: state["optimizer"]["state"].clear(),
    "buffers": lambda state: state["model"]["1.running_mean"].zero_(),
}  # fmt: skip


@pytest.mark.parametrize("what", FORGOTTEN)
def test_train_resumable__differs_from_incomplete_checkpoint(
    ranks: Ranks, tmp_path: Path, what: str
) -> None:
    """丢弃的随机数、增强的随机数、别的 rank 的随机数、矩、运行统计，少存一样结果就不同。"""

    def spoiled() -> tuple[Weights, Weights]:
        _run(tmp_path, 6)
        _, expected = _run(tmp_path, 9, seed=1)
        dist.barrier()
        if dist.get_rank() == 0:
            for path in tmp_path.glob("step-00000008-*"):
                path.unlink()
            found = load_latest(tmp_path)
            assert found.step == 6
            FORGOTTEN[what](found.state)
            save_checkpoint(tmp_path, 6, found.state)
        dist.barrier()
        return expected, _run(tmp_path, 9, seed=2)[1]

    results = ranks(2, spoiled)
    assert not all(_equal(expected, actual) for expected, actual in results)


def test_train_resumable__differs_from_data_loader_with_global_seed(
    ranks: Ranks, tmp_path: Path
) -> None:
    """别处常见错误：DataLoader 不给 generator，每建一个迭代器就从全局取一个数，丢弃便错开了。"""

    def trained(with_generator: bool) -> list[bool]:
        folder = tmp_path / str(with_generator)

        def run(steps: int, seed: int) -> Weights:
            job = _Job(seed)
            options = {"generator": torch.Generator()} if with_generator else {}
            loader = DataLoader(job.data, BATCH, sampler=job.sampler, **options)
            position = [-1, iter(())]

            def advance(step: int) -> None:
                epoch, batch = sampler_position(step, len(loader))
                if position[0] != epoch:  # 新的一轮，或刚刚恢复
                    job.sampler.set_epoch(epoch)
                    position[:] = epoch, iter(loader)
                    for _ in range(batch):
                        next(position[1])
                job.update(*next(position[1]))

            train_resumable(job.model, job.optimizer, advance, steps, folder, save_every=2)
            return job.state()

        whole = run(9, 0)
        dist.barrier()
        if dist.get_rank() == 0:
            for path in folder.glob("*"):
                path.unlink()
        dist.barrier()
        run(7, 0)
        return [_equal(whole, run(9, 1))]

    assert ranks(2, trained, True) == [[True], [True]]
    assert ranks(2, trained, False) == [[False], [False]]


def test_train_resumable__preserves_run_after_damage(
    ranks: Ranks, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """最新的检查点被截断，退到前一个，多做两步，结果仍然逐位相同；说出是哪个坏了。"""

    def damaged() -> tuple[int, bool]:
        expected = _plain_loop(9)
        _run(tmp_path, 7)
        dist.barrier()
        if dist.get_rank() == 0:
            newest = max(tmp_path.glob("step-*"))
            newest.write_bytes(newest.read_bytes()[:100])
        dist.barrier()
        first, actual = _run(tmp_path, 9, seed=1)
        return first, _equal(expected, actual)

    assert ranks(2, damaged) == [(4, True), (4, True)]
    printed = capfd.readouterr().out
    assert printed.count("跳过坏了的检查点 step-00000006") == 1
    assert "校验和不符" in printed


def test_train_resumable__rejects_other_world_size(tmp_path: Path) -> None:
    """两个 rank 存的检查点，一个 rank 读：说出两边各是几个。"""
    run_ranks(2, _run, tmp_path, 2)
    with pytest.raises(RankError, match="2 个 rank 存的，现在有 1 个"):
        run_ranks(1, _run, tmp_path, 4)
    for steps, every, name in ((0, 1, "steps"), (1, 0, "save_every")):
        with pytest.raises(ValueError, match=name):
            train_resumable(nn.Linear(1, 1), None, print, steps, tmp_path, every)


def test_sampler_position__matches_nested_loops() -> None:
    """两重循环逐步数过去，第 t 步的轮次与批次。"""
    for batches in (1, 4, 5):
        step = 0
        for epoch in range(3):
            for batch in range(batches):
                assert sampler_position(step, batches) == (epoch, batch)
                step += 1


def test_sampler_position__equals_worked_example() -> None:
    """1000 个样本、4 个 rank、每批 32 个：每轮 8 批；完成 21 步时是第 2 轮的第 5 批（从 0 起）。"""
    sampler = DistributedSampler(range(1000), num_replicas=4, rank=0)
    batches = len(DataLoader(range(1000), 32, sampler=sampler))
    assert batches == 8
    assert sampler_position(21, batches) == (2, 5)


def test_set_random_state__preserves_both_streams() -> None:
    """恢复之后，Python 与 torch 的发生器给出同样的数；状态能以 weights_only=True 存取。"""
    torch.manual_seed(5)
    random.seed(5)
    before = random_state()
    expected = [random.random(), random.gauss(0, 1), *torch.rand(3).tolist()]
    torch.rand(100)
    random.random()
    set_random_state(before)
    actual = [random.random(), random.gauss(0, 1), *torch.rand(3).tolist()]
    assert actual == expected


def test_sampler_position__rejects_bad_input() -> None:
    """步数是负数、批数不是正整数、随机数状态不对时报错。"""
    with pytest.raises(ValueError, match="step"):
        sampler_position(-1, 4)
    with pytest.raises(ValueError, match="batches"):
        sampler_position(1, 0)
    for state in (None, {}, {"torch": torch.get_rng_state()}):
        with pytest.raises(ValueError, match="random_state"):
            set_random_state(state)
