"""各 rank 的模型是否同一个：构造时核对形状、广播初值，训练中核对参数。"""

import torch
import torch.distributed as dist
from torch import nn

from formulary.checks import require_count


def broadcast_module(module: nn.Module, src: int = 0) -> None:
    r"""把 rank src 的参数与缓冲区发给每个 rank，就地覆盖。

    Args:
        module: 各 rank 上形状相同的模型。
        src: 以哪个 rank 为准。

    Raises:
        ValueError: src 不是本进程组里的 rank。

    约定:
        每个 rank 都要调用。DistributedDataParallel 的构造函数做同一件事，以 rank 0 为准。

    出处:
        torch.distributed.utils 的 _sync_module_states（PyTorch 2.13）。

    示例:
        >>> from formulary.ddp.processes import run_ranks
        >>> layer = torch.nn.Linear(1, 1)
        >>> start = lambda: torch.nn.init.constant_(layer.bias, dist.get_rank())
        >>> run_ranks(3, lambda: (start(), broadcast_module(layer, src=1), layer.bias.item())[2])
        [1.0, 1.0, 1.0]
    """
    require_count("src", src, 0)
    if src >= dist.get_world_size():
        raise ValueError(f"src 必须小于进程数 {dist.get_world_size()}，得到 {src}")
    for tensor in (*module.parameters(), *module.buffers()):
        dist.broadcast(tensor.detach(), src)


def require_same_shapes(module: nn.Module) -> None:
    r"""要求各 rank 的模型有同样的参数：名字、形状、数据类型与次序都相同。

    Args:
        module: 本 rank 的模型。

    Raises:
        ValueError: 有 rank 与 rank 0 不同；每个 rank 都抛出同一句话，说出是谁、哪个参数。

    约定:
        每个 rank 都要调用，在包装成 DistributedDataParallel 之前。

    示例:
        >>> from formulary.ddp.processes import run_ranks
        >>> run_ranks(2, lambda: require_same_shapes(torch.nn.Linear(3, 2)))
        [None, None]
    """
    mine = [
        f"{name} {tuple(p.shape)} {str(p.dtype).removeprefix('torch.')}"
        for name, p in module.named_parameters()
    ]
    everyone: list[list[str]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, mine)
    for rank, theirs in enumerate(everyone):
        for i in range(max(len(theirs), len(everyone[0]))):
            first, found = (
                shapes[i] if i < len(shapes) else "无" for shapes in (everyone[0], theirs)
            )
            if found != first:
                raise ValueError(
                    f"各 rank 的模型必须相同，第 {i} 个参数在 rank {rank} 上是 {found}，"
                    f"在 rank 0 上是 {first}；各 rank 要用同样的配置构造模型"
                )


def require_equal_replicas(module: nn.Module) -> None:
    r"""要求各 rank 的参数逐位相同。

    Args:
        module: 本 rank 的模型。

    Raises:
        ValueError: 有 rank 的参数与 rank 0 不同；每个 rank 都抛出同一句话。

    约定:
        每个 rank 都要调用，代价是传一遍全部参数，所以每隔许多步查一次就够。只查参数：
        缓冲区在两次前向之间本来就可以不同。NaN 与任何数都不同；0 与 −0 算作相同。

    示例:
        >>> from formulary.ddp.processes import run_ranks
        >>> run_ranks(2, lambda: require_equal_replicas(torch.nn.LayerNorm(3)))
        [None, None]
    """
    require_same_shapes(module)
    for name, parameter in module.named_parameters():
        copies = [torch.empty_like(parameter) for _ in range(dist.get_world_size())]
        dist.all_gather(copies, parameter.detach())
        for rank, copy in enumerate(copies):
            if not torch.equal(copy, copies[0]):
                gap = (copy - copies[0]).abs().max().item()
                raise ValueError(
                    f"参数 {name} 在 rank {rank} 上与 rank 0 相差 {gap:.3g}，应当逐位相同；"
                    "查初值、各 rank 的学习率，以及绕过 DDP 的改动"
                )
