r"""一维的 Wasserstein-1 距离：由累积分布、分位数、排序后的样本来算，以及平移的例子。

约定:
    K 个状态落在实轴的 points 上，points 严格递增；距离与 points 同单位。
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats
from formulary.generative_models.transport import require_line


def wasserstein_distance(
    p: Float[Tensor, "*batch K"], q: Float[Tensor, "*batch K"], points: Float[Tensor, " K"]
) -> Float[Tensor, "*batch"]:
    r"""一维 Wasserstein-1 距离：两条累积分布曲线之间的面积。

    Args:
        p: 数据的分布。
        q: 模型的分布，形状与 p 相同。
        points: K 个状态的坐标，严格递增。

    Returns:
        距离，单位与 points 相同；对 p、q 几乎处处可导。

    Raises:
        ValueError: p、q 不是概率分布，或 points 不是严格递增的 K 个坐标。

    约定:
        相邻两点之间累积分布是常数，所以积分是有限和。

    出处:
        Peyré & Cuturi 2019, arXiv:1803.00567, 第 2.6 节。

    示例:
        >>> p, q = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.5, 0.0, 0.5])
        >>> wasserstein_distance(p, q, torch.tensor([0.0, 1.0, 3.0]))
        tensor(1.5000)
    """
    require_line(p, q, points)
    gap = (p - q).cumsum(dim=-1)[..., :-1].abs()  # (*batch, K - 1)
    return (gap * points.diff()).sum(dim=-1)


def wasserstein_by_quantiles(
    p: Float[Tensor, " K"], q: Float[Tensor, " K"], points: Float[Tensor, " K"]
) -> Float[Tensor, ""]:
    r"""一维 Wasserstein-1 距离：两条分位数曲线之间的面积。

    Args:
        p: 数据的分布。
        q: 模型的分布。
        points: K 个状态的坐标，严格递增。

    Returns:
        距离，单位与 points 相同。

    Raises:
        ValueError: p、q 不是概率分布，或 points 不是严格递增的 K 个坐标。

    约定:
        分位数函数是阶梯函数；在两条累积分布的所有台阶之间取中点求值，是精确的。

    出处:
        Peyré & Cuturi 2019, arXiv:1803.00567, 第 2.6 节。

    示例:
        >>> p, q = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.5, 0.0, 0.5])
        >>> wasserstein_by_quantiles(p, q, torch.tensor([0.0, 1.0, 3.0]))
        tensor(1.5000)
    """
    require_line(p, q, points)
    p_steps, q_steps = p.cumsum(0).clamp(max=1), q.cumsum(0).clamp(max=1)
    levels = torch.cat((p.new_tensor([0.0, 1.0]), p_steps, q_steps)).sort().values
    middles = (levels[1:] + levels[:-1]) / 2
    last = len(points) - 1
    p_quantiles = points[torch.searchsorted(p_steps, middles).clamp(max=last)]
    q_quantiles = points[torch.searchsorted(q_steps, middles).clamp(max=last)]
    return (levels.diff() * (p_quantiles - q_quantiles).abs()).sum()


def wasserstein_of_samples(
    x: Float[Tensor, "*batch N"], y: Float[Tensor, "*batch N"]
) -> Float[Tensor, "*batch"]:
    r"""两组同样多的一维样本之间的 Wasserstein-1 距离：各自排序，逐个相减。

    Args:
        x: N 个样本。
        y: 另外 N 个样本。

    Returns:
        两个经验分布之间的距离，单位与样本相同。

    Raises:
        ValueError: x、y 不是浮点张量、形状不同，或没有样本。

    约定:
        每个样本的质量是 1/N。

    出处:
        Peyré & Cuturi 2019, arXiv:1803.00567, 第 2.6 节。

    示例:
        >>> wasserstein_of_samples(torch.tensor([3.0, 0.0]), torch.tensor([1.0, 4.0]))
        tensor(1.)
    """
    require_floats("x", x, "...", "N")
    require_floats("y", y, *x.shape)
    if x.shape[-1] == 0:
        raise ValueError("x 至少要有一个样本，得到 0 个")
    return (x.sort(dim=-1).values - y.sort(dim=-1).values).abs().mean(dim=-1)


def shifted_uniform_divergences(
    shift: Float[Tensor, "*batch"],
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    r"""单位区间上的均匀分布与它平移 t 之后的 JS 散度、全变差距离、Wasserstein-1 距离。

    Args:
        shift: 平移量 t，正负均可。

    Returns:
        JS 散度（nat）、全变差距离（无量纲）、Wasserstein-1 距离（与 shift 同单位）。

    Raises:
        ValueError: shift 不是浮点张量。

    约定:
        p 是 [0, 1] 上的均匀分布，q 是 [t, t + 1] 上的均匀分布。

    出处:
        Arjovsky et al. 2017, arXiv:1701.07875, 例 1 的一维变体。

    示例:
        >>> shifted_uniform_divergences(torch.tensor(2.0))
        (tensor(0.6931), tensor(1.), tensor(2.))
    """
    require_floats("shift", shift)
    outside = shift.abs().clamp(max=1)  # p 落在 q 的支撑之外的质量
    return outside * math.log(2), outside, shift.abs()
