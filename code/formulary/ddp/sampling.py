"""DistributedSampler 怎样把数据集分给各 rank，以及补齐对评估的影响。"""

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_count, require_floats


def sampler_indices(
    length: int,
    world_size: int,
    rank: int,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = True,
    drop_last: bool = False,
) -> list[int]:
    r"""第 r 个进程在这一轮里依次要读的样本的下标。

    Args:
        length: 数据集的样本数 L（个）。
        world_size: 进程数 N。
        rank: 第几个进程 r，从 0 起。
        seed: 种子，各 rank 要相同。
        epoch: 第几轮；set_epoch 设的就是它。
        shuffle: 是否打乱。
        drop_last: 不整除时丢掉末尾的样本；否则从头补齐。

    Returns:
        M 个下标：$\pi'_{r+jN}$，j 从 0 到 M − 1。

    Raises:
        ValueError: length 或 world_size 不是正整数，或 rank 不在 [0, world_size) 里。

    约定:
        与 torch.utils.data.DistributedSampler 相同。排列由 seed + epoch 决定，所以
        (0, 1) 与 (1, 0) 是同一个排列。

    出处:
        torch/utils/data/distributed.py（PyTorch 2.13）。

    示例:
        >>> [sampler_indices(10, 3, rank, shuffle=False) for rank in range(3)]
        [[0, 3, 6, 9], [1, 4, 7, 0], [2, 5, 8, 1]]
    """
    require_count("length", length)
    require_count("world_size", world_size)
    require_count("rank", rank, 0)
    if rank >= world_size:
        raise ValueError(f"rank 必须小于 world_size = {world_size}，得到 {rank}")
    order = list(range(length))
    if shuffle:
        generator = torch.Generator().manual_seed(seed + epoch)
        order = torch.randperm(length, generator=generator).tolist()
    each = length // world_size if drop_last else -(-length // world_size)
    return [order[position % length] for position in range(rank, each * world_size, world_size)]


def index_multiplicities(length: int, world_size: int, drop_last: bool = False) -> list[int]:
    r"""排列里的第 p 个样本，在全部 rank 里一共出现几次。

    Args:
        length: 数据集的样本数 L（个）。
        world_size: 进程数 N。
        drop_last: 同 sampler_indices。

    Returns:
        长为 L 的列表，第 p 项是 $\lceil(T-p)/L\rceil$（次），总和是 T。

    Raises:
        ValueError: length 或 world_size 不是正整数。

    约定:
        p 是打乱之后的位置，从 0 起；不打乱时就是样本的下标。

    示例:
        >>> index_multiplicities(10, 4)
        [2, 2, 1, 1, 1, 1, 1, 1, 1, 1]
    """
    require_count("length", length)
    require_count("world_size", world_size)
    each = length // world_size if drop_last else -(-length // world_size)
    return [-(-(each * world_size - p) // length) for p in range(length)]


def padded_mean(values: Float[Tensor, " N"], world_size: int) -> Float[Tensor, ""]:
    r"""用补齐的采样器评估时得到的平均：开头的样本被多数了一次。

    Args:
        values: 每个样本的指标，依数据集的次序。
        world_size: 进程数 N。

    Returns:
        $\frac1T\sum_pc_p\,m_p$，标量；N 整除样本数时等于真正的平均。

    Raises:
        ValueError: values 不是一维浮点张量，或 world_size 不是正整数。

    约定:
        评估不打乱，各 rank 的样本数相同，所以各 rank 平均的平均就是它。

    示例:
        >>> padded_mean(torch.tensor([0.0, 1.0, 1.0]), world_size=2)
        tensor(0.5000)
    """
    require_floats("values", values, "N")
    weights = values.new_tensor(index_multiplicities(len(values), world_size))
    return weights @ values / weights.sum()


def gathered_mean(values: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    r"""全部 rank 的样本的平均：把和与个数分别相加，再相除。

    Args:
        values: 本 rank 的样本的指标，各 rank 的个数可以不同，也可以是 0。

    Returns:
        标量，各 rank 相同。

    Raises:
        ValueError: values 不是一维浮点张量，或全部 rank 都没有样本。

    约定:
        含一次集合通信，每个 rank 都要调用。本 rank 的样本应当取自 range(rank, L, N)，
        不补齐也不丢。和与个数以 float64 相加，个数因此是精确的；结果的类型同 values。

    示例:
        >>> from formulary.ddp.processes import run_ranks
        >>> x = torch.tensor([0.0, 1.0, 1.0])
        >>> run_ranks(2, lambda: gathered_mean(x[dist.get_rank() :: 2]))
        [tensor(0.6667), tensor(0.6667)]
    """
    require_floats("values", values, "N")
    totals = torch.stack(
        [values.double().sum(), values.new_tensor(len(values), dtype=torch.double)]
    )
    dist.all_reduce(totals)
    if totals[1] == 0:
        raise ValueError("values 在每个 rank 上都是空的，没有可以平均的样本")
    return (totals[0] / totals[1]).to(values.dtype)
