"""一个 rank 死了也能接着训练。运行：

torchrun --standalone --nproc_per_node=2 --max-restarts=1 train_elastic.py --folder checkpoints
"""

import argparse
import hashlib
import io
import os
import random
import re
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.elastic.multiprocessing.errors import record
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset


def make_dataset(samples: int = 1024) -> TensorDataset:
    """单位正方形里的点，目标是两个正弦的乘积。"""
    x = torch.rand(samples, 2, generator=torch.Generator().manual_seed(1))
    return TensorDataset(x, torch.sin(3 * x).prod(dim=1, keepdim=True))


def make_model() -> nn.Module:
    """两个输入、一个输出的全连接网络，训练时随机丢弃。"""
    return nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Dropout(0.1), nn.Linear(64, 1))


def write_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> None:
    """写临时文件，落盘，再改成带校验和的名字；留下最近的两个。"""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "writing.tmp").open("wb") as file:
        file.write(buffer.getvalue())
        file.flush()
        os.fsync(file.fileno())
    os.replace(folder / "writing.tmp", folder / f"step-{step:08d}-{digest}.pt")
    for old in [path for path in checkpoints(folder) if path.name < f"step-{step:08d}"][:-1]:
        old.unlink()


def checkpoints(folder: Path) -> list[Path]:
    """文件夹里的检查点，按步数从小到大。"""
    return sorted(p for p in folder.glob("*.pt") if re.match(r"step-\d{8}-[0-9a-f]{16}\.", p.name))


def newest_checkpoint(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """最近的完好的检查点；坏了的说出来并跳过，全都坏了就报错。"""
    paths = checkpoints(folder)
    for path in reversed(paths):
        _, step, digest = path.stem.split("-")
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest()[:16] == digest:
            return int(step), torch.load(io.BytesIO(content), "cpu", weights_only=True)
        print(f"跳过坏了的检查点 {path.name}：{len(content)} 字节，校验和不符", flush=True)
    if paths:
        raise RuntimeError(f"{folder} 里的检查点全都坏了；要从头训练，请先移走它们")
    return None


def random_states() -> list[Any]:
    """每个 rank 的随机数状态。"""
    everyone: list[Any] = [None] * dist.get_world_size()
    device = torch.get_device_module() if torch.accelerator.is_available() else None
    mine = (random.getstate(), torch.get_rng_state(), device and device.get_rng_state())
    dist.all_gather_object(everyone, mine)
    return everyone


def set_random_state(state: Any) -> None:
    """恢复这个 rank 的随机数状态。"""
    random.setstate(state[0])
    torch.set_rng_state(state[1])
    if state[2] is not None:
        torch.get_device_module().set_rng_state(state[2])


@record
def main() -> None:
    """训练，报出全部数据上的损失，按需要存下参数。"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20, help="轮数")
    parser.add_argument("--batch-size", type=int, default=64, help="每次更新用的样本数")
    parser.add_argument("--save", help="把参数存到这个文件")
    parser.add_argument("--cpu", action="store_true", help="有加速器也不用")
    parser.add_argument("--folder", type=Path, required=True, help="存检查点的文件夹")
    parser.add_argument("--save-every", type=int, default=10, help="每几步存一次")
    parser.add_argument("--die-at", type=int, help="演示：第一次启动时，最后一个 rank 死在这一步")
    options = parser.parse_args()

    device = torch.accelerator.current_accelerator(check_available=True)
    if device is None or options.cpu:
        device = torch.device("cpu")
    else:
        torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]))
    backend = dist.get_default_backend_for_device(device)
    dist.init_process_group(backend, timeout=timedelta(seconds=60))
    rank, ranks = dist.get_rank(), dist.get_world_size()
    if options.batch_size % ranks:
        parser.error(f"--batch-size 必须是进程数 {ranks} 的倍数，得到 {options.batch_size}")
    torch.manual_seed(0)
    dataset = make_dataset()
    sampler = DistributedSampler(dataset)
    loader = DataLoader(
        dataset,
        options.batch_size // ranks,
        sampler=sampler,
        generator=torch.Generator(),  # 否则每建一个迭代器就取一个全局的随机数
    )
    model = DistributedDataParallel(make_model().to(device))
    loss_function = nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    torch.manual_seed(rank)  # 各 rank 丢弃不同的单元
    restarts = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    dies = options.die_at if restarts == 0 else None

    box = [newest_checkpoint(options.folder) if rank == 0 else None]
    dist.broadcast_object_list(box)  # 由 rank 0 一个决定从哪一步接着训练
    first = 0
    if box[0] is not None:
        first, state = box[0]
        if len(state["random"]) != ranks:
            raise ValueError(f"检查点是 {len(state['random'])} 个 rank 存的，现在有 {ranks} 个")
        model.module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        set_random_state(state["random"][rank])
    if rank == 0:
        # flush：若随后被代理用 SIGTERM 结束，缓冲里的字就丢了
        print(f"restart {restarts}, start at step {first}", flush=True)

    for epoch in range(first // len(loader), options.epochs):
        sampler.set_epoch(epoch)
        done = max(0, first - epoch * len(loader))  # 这一轮里中断之前已经用过的批
        for step, (x, y) in enumerate(islice(loader, done, None), epoch * len(loader) + done + 1):
            if step == dies and rank == ranks - 1:
                os._exit(17)
            optimizer.zero_grad()
            loss_function(model(x.to(device)), y.to(device)).backward()
            optimizer.step()
            if step % options.save_every == 0:
                state = {"model": model.module.state_dict(), "optimizer": optimizer.state_dict()}
                state["random"] = random_states()
                if rank == 0:
                    write_checkpoint(options.folder, step, state)

    if rank == 0:
        model.eval()
        with torch.no_grad():
            x, y = (tensor.to(device) for tensor in dataset.tensors)
            print(f"final loss {loss_function(model.module(x), y).item():.6f}")
        if options.save:
            torch.save(model.module.state_dict(), options.save)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
