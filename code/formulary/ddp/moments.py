"""逐通道的矩：各 rank 先算自己那一片的，再合并成全局的均值与离差平方和。

约定:
    x 一行一个样本，卷积的输入先把空间的各格也摊成行；方差除以 n，不除以 n − 1。
    没有进程组时当作只有一个 rank。
"""

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats


def sum_over_ranks(x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """各 rank 的 x 之和，每个 rank 都得到一份；x 自己不变。"""
    total = x.detach().clone(memory_format=torch.contiguous_format)
    if dist.is_initialized():
        dist.all_reduce(total)
    return total


def local_moments(
    x: Float[Tensor, "N C"],
) -> tuple[Float[Tensor, ""], Float[Tensor, " C"], Float[Tensor, " C"]]:
    r"""一片数据的样本数、均值与离差平方和。

    Args:
        x: 一行一个样本；可以没有行，此时均值记作 0。

    Returns:
        样本数（个）、均值（与 x 同单位）、离差平方和（x 单位的平方）。

    Raises:
        ValueError: x 不是二维实浮点张量。

    出处:
        Chan, Golub & LeVeque 1979。

    示例:
        >>> local_moments(torch.tensor([[1.0], [3.0]]))
        (tensor(2.), tensor([2.]), tensor([2.]))
    """
    require_floats("x", x, "N", "C")
    count = x.new_tensor(len(x))
    mean = x.sum(dim=0) / count.clamp(min=1)
    return count, mean, (x - mean).square().sum(dim=0)


def merge_moments(
    counts: Float[Tensor, " N"], means: Float[Tensor, "N C"], squares: Float[Tensor, "N C"]
) -> tuple[Float[Tensor, ""], Float[Tensor, " C"], Float[Tensor, " C"]]:
    r"""把 N 片各自的矩合并成全体的矩，不出现两个大数相减。

    Args:
        counts: 各片的样本数（个），不全为 0。
        means: 各片的均值。
        squares: 各片的离差平方和。

    Returns:
        全体的样本数、均值与离差平方和。

    Raises:
        ValueError: 形状对不上，或样本数有负的、全为 0。

    出处:
        Chan, Golub & LeVeque 1979。

    示例:
        >>> merge_moments(torch.tensor([1.0, 1.0]), torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1))
        (tensor(2.), tensor([2.]), tensor([2.]))
    """
    require_floats("counts", counts, "N")
    require_floats("means", means, len(counts), "C")
    require_floats("squares", squares, *means.shape)
    if (counts < 0).any() or not counts.any():
        raise ValueError(f"counts 必须非负且不全为 0，得到 {counts.tolist()}")
    n = counts.sum()
    mean = counts @ means / n
    return n, mean, (squares + counts[:, None] * (means - mean).square()).sum(dim=0)


def moments_over_ranks(
    x: Float[Tensor, "N C"],
) -> tuple[Float[Tensor, ""], Float[Tensor, " C"], Float[Tensor, " C"]]:
    """全体 rank 的样本数、均值与离差平方和：全收集各自的矩，再由 merge_moments 合并。"""
    own = torch.cat([moment.view(-1) for moment in local_moments(x)])  # (1 + 2C,)
    gathered = [own]
    if dist.is_initialized():
        gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, own)
    rows = torch.stack(gathered)
    counts, means, squares = rows.split([1, x.shape[1], x.shape[1]], dim=1)
    return merge_moments(counts[:, 0], means, squares)


def moments_by_sums(
    x: Float[Tensor, "N C"],
) -> tuple[Float[Tensor, ""], Float[Tensor, " C"], Float[Tensor, " C"]]:
    r"""全体 rank 的样本数、均值与方差：一次全归约三个和，方差用平方的均值减均值的平方。

    Args:
        x: 本 rank 的那一片，一行一个样本。

    Returns:
        样本数（个）、均值、方差。

    Raises:
        ValueError: x 不是二维实浮点张量，或所有 rank 加起来一个样本也没有。

    约定:
        均值远大于标准差时，两个大数相减会丢掉有效数字，方差甚至为负；
        稳妥的写法是 moments_over_ranks。

    出处:
        Ioffe & Szegedy 2015, arXiv:1502.03167 的批统计；求和的写法见本文。

    示例:
        >>> moments_by_sums(torch.tensor([[1.0], [3.0]]))
        (tensor(2.), tensor([2.]), tensor([1.]))
    """
    require_floats("x", x, "N", "C")
    sums = sum_over_ranks(torch.cat((x.new_tensor([len(x)]), x.sum(dim=0), x.square().sum(dim=0))))
    n, total, total_squares = sums.split([1, x.shape[1], x.shape[1]])
    if not n.any():
        raise ValueError("x 在所有 rank 上都没有样本，至少要有一个")
    mean = total / n
    return n[0], mean, total_squares / n - mean.square()
