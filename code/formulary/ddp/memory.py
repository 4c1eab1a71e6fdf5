"""模型状态占多少显存：DDP 与 ZeRO 各级的公式，以及在真实的模型与优化器上数出来的字节数。

约定:
    模型状态指参数、梯度与优化器状态；激活、通信缓冲区与分配器的碎片不在内。
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from formulary.checks import require_count


class StateBytes(NamedTuple):
    """一个 rank 上三类模型状态各占的字节数。"""

    parameters: float
    gradients: float
    optimizer: float


def zero_breakdown(
    parameters: int, world_size: int, stage: int, widths: tuple[int, int, int] = (2, 2, 12)
) -> StateBytes:
    r"""ZeRO 第 stage 级的一个 rank 上，参数、梯度与优化器状态各占的字节数。

    Args:
        parameters: 参数的个数 P（个）。
        world_size: rank 的个数 N。
        stage: 0 是 DDP，1 切分优化器状态，2 再切分梯度，3 再切分参数。
        widths: 每个参数的参数、梯度、优化器状态各占的字节数（字节）。

    Returns:
        三类状态的字节数（字节），切分的一类是各 rank 的平均值，不取整。

    Raises:
        ValueError: parameters、world_size 不是正整数，stage 不是 0 到 3，
            或 widths 不是三个非负整数。

    约定:
        默认的宽度是混合精度的 Adam：半精度的参数与梯度，单精度的主参数、一阶矩与二阶矩。

    出处:
        Rajbhandari et al. 2019, arXiv:1910.02054, §5。

    示例:
        >>> zero_breakdown(1000, 4, 1)
        StateBytes(parameters=2000.0, gradients=2000.0, optimizer=3000.0)
    """
    require_count("parameters", parameters)
    require_count("world_size", world_size)
    _require_stage(stage)
    if len(widths) != 3:
        raise ValueError(f"widths 必须有参数、梯度、优化器状态三项，得到 {widths!r}")
    for width in widths:
        require_count("widths 的每一项", width, least=0)
    shares = [world_size if stage >= first_sharded else 1 for first_sharded in (3, 2, 1)]
    return StateBytes(
        *(width * parameters / share for width, share in zip(widths, shares, strict=True))
    )


def zero_bytes(
    parameters: int, world_size: int, stage: int, widths: tuple[int, int, int] = (2, 2, 12)
) -> float:
    r"""ZeRO 第 stage 级的一个 rank 上，模型状态一共占的字节数。

    Args:
        parameters: 参数的个数 P（个）。
        world_size: rank 的个数 N。
        stage: 0 是 DDP，1 切分优化器状态，2 再切分梯度，3 再切分参数。
        widths: 每个参数的参数、梯度、优化器状态各占的字节数（字节）。

    Returns:
        字节数（字节），各 rank 的平均值，不取整。

    Raises:
        ValueError: 同 zero_breakdown。

    出处:
        Rajbhandari et al. 2019, arXiv:1910.02054, §5。

    示例:
        >>> [zero_bytes(1000, 4, stage) for stage in range(4)]
        [16000.0, 7000.0, 5500.0, 4000.0]
    """
    return sum(zero_breakdown(parameters, world_size, stage, widths))


def zero_sent_elements(parameters: int, world_size: int, stage: int) -> float:
    r"""训练一步，一个 rank 平均要送出的元素个数。

    Args:
        parameters: 参数的个数 P（个）。
        world_size: rank 的个数 N。
        stage: 0 是 DDP，1 到 3 是 ZeRO 的三级。

    Returns:
        元素的个数（个）：一次归约散布或一次全收集各送 (N − 1)P/N 个。

    Raises:
        ValueError: parameters、world_size 不是正整数，或 stage 不是 0 到 3。

    约定:
        集合通信取带宽最优的算法；第 3 级前向与反向各收集一次参数。

    出处:
        Rajbhandari et al. 2019, arXiv:1910.02054, §7。

    示例:
        >>> [zero_sent_elements(1000, 4, stage) for stage in range(4)]
        [1500.0, 1500.0, 1500.0, 2250.0]
    """
    require_count("parameters", parameters)
    require_count("world_size", world_size)
    _require_stage(stage)
    passes = 3 if stage == 3 else 2
    return passes * (world_size - 1) * parameters / world_size


def held_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> StateBytes:
    r"""数出这个 rank 上真正存着的参数、梯度与优化器状态的字节数。

    Args:
        model: 普通模块、DDP 包装后的模块，或 fully_shard 处理过的模块。
        optimizer: 它的优化器；ZeroRedundancyOptimizer 只数本 rank 的那一份。

    Returns:
        三类状态的字节数（字节）；分片的张量（DTensor）只数本地的分片。

    Raises:
        ValueError: model 不是 nn.Module，或 optimizer 不是 Optimizer。

    约定:
        梯度是 None 的参数、优化器状态里的零维张量（步数）都不计。

    出处:
        本站的定义。

    示例:
        >>> layer = torch.nn.Linear(3, 2)
        >>> held_bytes(layer, torch.optim.Adam(layer.parameters()))
        StateBytes(parameters=32, gradients=0, optimizer=0)
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model 必须是 nn.Module，得到 {type(model)}")
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(f"optimizer 必须是 torch.optim.Optimizer，得到 {type(optimizer)}")
    parameters = list(model.parameters())
    local = getattr(optimizer, "optim", optimizer)  # ZeroRedundancyOptimizer 里面的那一个
    states = [value for state in local.state.values() for value in state.values()]
    return StateBytes(
        _local_bytes(parameters),
        _local_bytes(p.grad for p in parameters if p.grad is not None),
        _local_bytes(s for s in states if isinstance(s, Tensor) and s.ndim > 0),
    )


def _local_bytes(tensors: Iterable[Tensor]) -> int:
    """这些张量在本地的字节数之和。"""
    return sum((t.to_local() if hasattr(t, "to_local") else t).nbytes for t in tensors)


def _require_stage(stage: object) -> None:
    if not isinstance(stage, int) or isinstance(stage, bool) or not 0 <= stage <= 3:
        raise ValueError(f"stage 必须是 0、1、2、3 之一，得到 {stage!r}")
