"""不同步的批归一化差多少：每个 rank 用自己的统计，与用全体的统计相比。

约定:
    x 一行一个样本；方差除以 n；比较的是仿射变换之前的值。
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_count
from formulary.ddp.moments import local_moments, merge_moments


def local_batch_norm_gap(
    shards: Sequence[Float[Tensor, "..."]], eps: float = 1e-5
) -> list[Float[Tensor, "..."]]:
    r"""每片用自己的统计归一化，与用全体的统计归一化，结果之差（仿射变换之前）。

    Args:
        shards: 各 rank 的数据，每项形状 (n_k, C)，至少一行。
        eps: 加在方差上的常数。

    Returns:
        各 rank 的差，形状与 shards 的对应项相同（无量纲）。

    Raises:
        ValueError: shards 为空，某项不是二维实浮点张量、没有行，或 eps 不是正数。

    示例:
        >>> gap = local_batch_norm_gap([torch.tensor([[0.0], [2.0]]), torch.tensor([[6.0], [8.0]])])
        >>> gap[0].flatten().round(decimals=3)
        tensor([0.2650, 1.6320])
    """
    if not shards:
        raise ValueError("shards 至少要有一个 rank 的数据，得到空列表")
    if not eps > 0:
        raise ValueError(f"eps 必须是正数，得到 {eps!r}")
    moments = [local_moments(x) for x in shards]
    counts, means, squares = (torch.stack(column) for column in zip(*moments, strict=True))
    if not counts.all():
        raise ValueError(f"shards 的每一项至少要有一行，得到行数 {[len(x) for x in shards]}")
    n, mean, square = merge_moments(counts, means, squares)
    scale = (square / n + eps).rsqrt()
    return [
        (x - own_mean) * (own_square / count + eps).rsqrt() - (x - mean) * scale
        for x, (count, own_mean, own_square) in zip(shards, moments, strict=True)
    ]


def batch_norm_gap_variances(batch: int, world_size: int) -> tuple[float, float]:
    r"""标准正态的数据随机分给 N 个 rank 时，一片的均值、标准差与全体的之差，方差的主项。

    Args:
        batch: 每个 rank 的样本数 B（个），至少 2。
        world_size: 进程数 N（个）。

    Returns:
        均值之差的方差与标准差之差的方差（无量纲）；后者略去的项相对地是 1/B 的量级。

    Raises:
        ValueError: 参数不是整数或太小。

    出处:
        推导见正文。

    示例:
        >>> batch_norm_gap_variances(4, 2)
        (0.125, 0.0625)
    """
    require_count("batch", batch, 2)
    require_count("world_size", world_size)
    mean_variance = 1 / batch - 1 / (world_size * batch)
    return mean_variance, mean_variance / 2


def expected_batch_norm_gap(batch: int, world_size: int) -> float:
    r"""标准正态的数据随机分给 N 个 rank 时，local_batch_norm_gap 的均方根的主项。

    Args:
        batch: 每个 rank 的样本数 B（个），至少 2。
        world_size: 进程数 N（个）。

    Returns:
        均方根（无量纲）；略去的项相对地是 1/B 的量级。

    Raises:
        ValueError: 参数不是整数或太小。

    出处:
        推导见正文。

    示例:
        >>> round(expected_batch_norm_gap(32, 8), 4)
        0.2025
    """
    return sum(batch_norm_gap_variances(batch, world_size)) ** 0.5
