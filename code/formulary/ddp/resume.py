"""断点续训：把训练循环的全部状态存进检查点，恢复之后与没有中断过的训练逐位相同。"""

import os
import random
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from formulary.checks import require_count
from formulary.ddp.checkpoint import load_latest, save_checkpoint


def sampler_position(step: int, batches: int) -> tuple[int, int]:
    r"""已经完成 step 步时，下一步用第几轮的第几个批。

    Args:
        step: 已经完成的步数 t（步），从头算起，不因中断清零。
        batches: 每轮的批数 J（个）。

    Returns:
        轮次与轮内的批次，都从 0 起；前者交给 sampler.set_epoch，后者是要跳过的批数。

    Raises:
        ValueError: step 不是非负整数，或 batches 不是正整数。

    出处:
        带余除法。

    示例:
        >>> sampler_position(11, 4)
        (2, 3)
    """
    require_count("step", step, least=0)
    require_count("batches", batches)
    return divmod(step, batches)


def random_state() -> dict[str, Any]:
    r"""这个进程的随机数状态：Python 的、torch 在 CPU 上的，有加速器时还有它的。

    Returns:
        字典；交给 set_random_state 就回到此刻。

    约定:
        只管全局的发生器。自己建的 torch.Generator 要另存 get_state()，NumPy 的也要另存。

    出处:
        random 与 torch.random 的文档。

    示例:
        >>> sorted(random_state())
        ['device', 'python', 'torch']
    """
    device = torch.get_device_module() if torch.accelerator.is_available() else None
    return {
        "python": random.getstate(),
        "torch": torch.get_rng_state(),
        "device": device.get_rng_state() if device else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    r"""让这个进程的随机数回到 random_state 当时的状态。

    Args:
        state: random_state 的返回值。

    Raises:
        ValueError: state 不是那样的字典。

    出处:
        random 与 torch.random 的文档。

    示例:
        >>> before = random_state()
        >>> first = torch.rand(3)
        >>> set_random_state(before)
        >>> bool((torch.rand(3) == first).all())
        True
    """
    if not isinstance(state, dict) or set(state) != {"python", "torch", "device"}:
        raise ValueError(f"state 必须是 random_state 的返回值，得到 {state!r:.80}")
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if state["device"] is not None:
        torch.get_device_module().set_rng_state(state["device"])


def train_resumable(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    advance: Callable[[int], None],
    steps: int,
    folder: str | os.PathLike[str],
    save_every: int,
) -> int:
    r"""从最近的完好的检查点接着训练到第 steps 步，每 save_every 步存一次。

    Args:
        model: DDP 包装后的模型，或没有包装的模块。
        optimizer: 它的优化器。
        advance: advance(t) 做第 t 步（从 0 起）：取 t 决定的那一批，前向、反向、更新。
        steps: 一共训练几步 T（步），从头算起。
        folder: 存检查点的文件夹，rank 0 读写它。
        save_every: 每几步存一次（步）。

    Returns:
        从第几步开始的：0 是从头训练，t 是从完成了 t 步的检查点恢复。

    Raises:
        ValueError: 步数不是正整数，或检查点是别的进程数存的。
        CheckpointError: 有检查点而全都坏了。

    约定:
        要在进程组里调用，各 rank 一起。advance 用到的随机数须来自全局的发生器。

    出处:
        本站的做法。

    示例:
        >>> import tempfile
        >>> from formulary.ddp.processes import run_ranks
        >>> layer = torch.nn.Linear(2, 1)
        >>> adam = torch.optim.Adam(layer.parameters())
        >>> job = (layer, adam, lambda step: adam.step(), 5, tempfile.mkdtemp(dir="."), 2)
        >>> [run_ranks(1, train_resumable, *job) for run in range(2)]
        [[0], [4]]
    """
    require_count("steps", steps)
    require_count("save_every", save_every)
    module = getattr(model, "module", model)  # DDP 里面的那个模型
    first = _restore(module, optimizer, folder)
    for step in range(first, steps):
        advance(step)
        if (step + 1) % save_every == 0:
            _save(module, optimizer, step + 1, folder)
    return first


def _save(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    folder: str | os.PathLike[str],
) -> None:
    """收齐各 rank 的随机数状态，由 rank 0 写检查点。"""
    mine = random_state()
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    if dist.get_rank() == 0:
        state = {
            "model": module.state_dict(),
            "optimizer": optimizer.state_dict(),
            "random": everyone,
        }
        save_checkpoint(folder, step, state)
    set_random_state(mine)  # 途中若有人用了随机数，也不算数：存与不存，训练都一样


def _restore(
    module: nn.Module, optimizer: torch.optim.Optimizer, folder: str | os.PathLike[str]
) -> int:
    """由 rank 0 读检查点，发给大家，各自恢复；返回已经完成的步数。"""
    mine = random_state()
    box: list[Any] = [None]
    if dist.get_rank() == 0 and (found := load_latest(folder)):
        for why in found.rejected:
            print(f"跳过坏了的检查点 {why}", flush=True)
        box = [(found.step, found.state)]
    dist.broadcast_object_list(box, src=0)  # 只有一个 rank 决定用哪个文件，大家不会读到不同的步数
    if box[0] is None:
        set_random_state(mine)
        return 0
    step, state = box[0]
    if len(state["random"]) != dist.get_world_size():
        raise ValueError(
            f"检查点是 {len(state['random'])} 个 rank 存的，现在有 {dist.get_world_size()} 个，"
            "不能逐位续训；请用同样多的 rank 启动"
        )
    module.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    set_random_state(state["random"][dist.get_rank()])
    return step
