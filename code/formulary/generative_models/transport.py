r"""一维的最优传输：最优耦合、最优势函数，以及 Wasserstein-1 距离的原问题与对偶问题。

约定:
    K 个状态落在实轴的 points 上，points 严格递增；距离与 points 同单位。
"""

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats
from formulary.generative_models.divergences import require_distribution_pair


def require_line(p: Tensor, q: Tensor, points: Tensor) -> None:
    """要求 points 是严格递增的 K 个坐标，p、q 是其上的分布。"""
    require_distribution_pair(p, q)
    require_floats("points", points, p.shape[-1])
    if not (points.diff() > 0).all():
        raise ValueError(f"points 必须严格递增，得到 {points.tolist()}")


def monotone_coupling(p: Float[Tensor, " K"], q: Float[Tensor, " K"]) -> Float[Tensor, "K K"]:
    r"""单调耦合：从左到右，把 p 还没搬的质量填进 q 还没填满的格子（西北角法则）。

    Args:
        p: 搬出的分布，状态按坐标从小到大排。
        q: 搬入的分布。

    Returns:
        耦合矩阵，第 (i, j) 元是从第 i 个状态搬到第 j 个状态的质量；行和是 p，列和是 q。

    Raises:
        ValueError: p、q 形状不同，或不是概率分布。

    约定:
        行是 p 的状态，列是 q 的状态；两个累积分布的区间求交，交的长度就是搬运量。

    出处:
        Peyré & Cuturi 2019, Computational Optimal Transport, arXiv:1803.00567, 第 3.4.2 节。

    示例:
        >>> monotone_coupling(torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.0, 0.25, 0.75]))
        tensor([[0.0000, 0.2500, 0.2500],
                [0.0000, 0.0000, 0.5000],
                [0.0000, 0.0000, 0.0000]])
    """
    require_distribution_pair(p, q)
    p_high, q_high = p.cumsum(0), q.cumsum(0)  # (K,)
    top = torch.minimum(p_high[:, None], q_high[None, :])  # (K, K)
    bottom = torch.maximum((p_high - p)[:, None], (q_high - q)[None, :])
    return (top - bottom).clamp(min=0)


def kantorovich_potential(
    p: Float[Tensor, " K"], q: Float[Tensor, " K"], points: Float[Tensor, " K"]
) -> Float[Tensor, " K"]:
    r"""最优势函数：斜率处处是 ±1 或 0 的折线，p 累积得慢的地方上升，快的地方下降。

    Args:
        p: 数据的分布。
        q: 模型的分布。
        points: K 个状态的坐标，严格递增。

    Returns:
        势函数在 points 上的值，第一个是 0；单位与 points 相同。

    Raises:
        ValueError: p、q 不是概率分布，或 points 不是严格递增的 K 个坐标。

    约定:
        在相邻两点之间的斜率是 sign(F_q − F_p)。

    出处:
        Villani 2009, Optimal Transport: Old and New, 定理 5.10 的一维情形。

    示例:
        >>> p, q = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.5, 0.0, 0.5])
        >>> kantorovich_potential(p, q, torch.tensor([0.0, 1.0, 3.0]))
        tensor([ 0.,  1., -1.])
    """
    require_line(p, q, points)
    slopes = torch.sign((q - p).cumsum(0)[:-1])  # (K - 1,)
    return torch.cat((points.new_zeros(1), (slopes * points.diff()).cumsum(0)))


def wasserstein_primal_dual(
    p: Float[Tensor, " K"], q: Float[Tensor, " K"], points: Float[Tensor, " K"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    r"""Wasserstein-1 距离的原问题与对偶问题的最优值：单调耦合的费用，势函数的期望之差。

    Args:
        p: 数据的分布。
        q: 模型的分布。
        points: K 个状态的坐标，严格递增。

    Returns:
        搬运费用与 E_p f − E_q f，两个相等的数；单位与 points 相同。

    Raises:
        ValueError: p、q 不是概率分布，或 points 不是严格递增的 K 个坐标。

    约定:
        费用是搬运量乘以距离的绝对值；f 的利普希茨常数是 1。

    出处:
        Arjovsky et al. 2017, arXiv:1701.07875, 式 (1)、(2)。

    示例:
        >>> p, q = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.5, 0.0, 0.5])
        >>> wasserstein_primal_dual(p, q, torch.tensor([0.0, 1.0, 3.0]))
        (tensor(1.5000), tensor(1.5000))
    """
    require_line(p, q, points)
    cost = (points[:, None] - points[None, :]).abs()  # (K, K)
    primal = (monotone_coupling(p, q) * cost).sum()
    return primal, ((p - q) * kantorovich_potential(p, q, points)).sum()
