"""能量距离：只凭两批样本比较两个分布，不需要任何一方的密度。

约定:
    返回平方 ℰ²，单位与样本相同；scipy.stats.energy_distance 返回的是它的平方根。
"""

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats


def squared_energy_distance(
    x: Float[Tensor, "N n"], y: Float[Tensor, "M n"], unbiased: bool = False
) -> Float[Tensor, ""]:
    r"""两批样本的能量距离的平方。

    Args:
        x: 第一批样本，每行一个。
        y: 第二批样本，每行一个。
        unbiased: 为真时，同一批内的平均距离不计样本与自己（U 统计量），为假时计入（V 统计量）。

    Returns:
        ℰ²（与 x 同单位）；V 统计量不小于 0，U 统计量无偏，可以略小于 0。

    Raises:
        ValueError: x、y 不是二维的实浮点张量或维数不同；unbiased 为真而样本不足两个。

    约定:
        要算 N×M 个距离，时间与内存都与之成正比。

    出处:
        Székely & Rizzo 2013, Energy Statistics: A Class of Statistics Based on Distances。

    示例:
        >>> x, y = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0]])
        >>> squared_energy_distance(x, y)
        tensor(2.)
    """
    require_floats("x", x, "N", "n")
    require_floats("y", y, "M", x.shape[1])
    least = 2 if unbiased else 1
    if min(len(x), len(y)) < least:
        raise ValueError(f"x 与 y 各须至少 {least} 个样本，得到 {len(x)} 与 {len(y)} 个")
    exact = "donot_use_mm_for_euclid_dist"  # 默认的矩阵乘法写法在样本离原点远时误差很大
    between = torch.cdist(x, y, compute_mode=exact).mean()
    within_x = torch.cdist(x, x, compute_mode=exact).sum() / (len(x) * (len(x) - unbiased))
    within_y = torch.cdist(y, y, compute_mode=exact).sum() / (len(y) * (len(y) - unbiased))
    return 2 * between - within_x - within_y


def energy_distance_from_cdf(x: Float[Tensor, " N"], y: Float[Tensor, " M"]) -> Float[Tensor, ""]:
    r"""一维样本的能量距离的平方，由两个经验分布函数之差积分得到。

    Args:
        x: 第一批一维样本。
        y: 第二批一维样本。

    Returns:
        ℰ² = 2∫(F − G)²（与 x 同单位），等于 squared_energy_distance 的 V 统计量。

    Raises:
        ValueError: x 或 y 不是非空的一维实浮点张量。

    约定:
        只要排序，时间 O((N + M) log(N + M))，样本多时远快于两两求距离。

    出处:
        Székely & Rizzo 2013, Energy Statistics: A Class of Statistics Based on Distances。

    示例:
        >>> energy_distance_from_cdf(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 5.0]))
        tensor(2.)
    """
    require_floats("x", x, "N")
    require_floats("y", y, "M")
    if not len(x) or not len(y):
        raise ValueError(f"x 与 y 各须至少 1 个样本，得到 {len(x)} 与 {len(y)} 个")
    points = torch.cat((x, y)).sort().values
    left = points[:-1]  # 两个经验分布函数在相邻两点之间都是常数
    below_x = torch.searchsorted(x.sort().values, left, right=True) / len(x)
    below_y = torch.searchsorted(y.sort().values, left, right=True) / len(y)
    gap = (below_x.to(x.dtype) - below_y.to(x.dtype)).square()
    return 2 * (gap * points.diff()).sum()
