r"""拿一个高斯去拟合双峰的混合分布：目标分布、矩匹配，按散度拟合。

约定:
    连续分布放到等距格点上，概率 = 密度 × 间隔；格点足够宽、足够密时，
    散度与连续情形的差别在舍入误差上下（Wasserstein-1 距离是间隔的平方量级）。
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_distribution, require_floats
from formulary.generative_models.learning import fit_by_divergence, gaussian_on_grid


def bimodal_on_grid(
    points: Float[Tensor, " K"], centre: float = 2.0, std: float = 0.6
) -> Float[Tensor, " K"]:
    r"""等权双峰高斯混合在格点上的分布：两峰在 ±centre，标准差都是 std。

    Args:
        points: K 个等距格点的坐标，要盖住两个峰。
        centre: 峰到原点的距离。
        std: 每个峰的标准差，正数。

    Returns:
        长为 K 的分布。

    Raises:
        ValueError: points 不是一维浮点张量，或 std 不是正数。

    约定:
        概率与混合密度成正比，在格点上归一化。

    出处:
        Minka 2005, MSR-TR-2005-173, 第 2 节一类的例子；这里的参数是自定的。

    示例:
        >>> bimodal_on_grid(torch.tensor([-2.0, 0.0, 2.0]), std=1.0)
        tensor([0.4404, 0.1192, 0.4404])
    """
    require_floats("points", points, "K")
    if not std > 0:
        raise ValueError(f"std 必须是正数，得到 {std!r}")
    left, right = (-(((points - c) / std).square()) / 2 for c in (-centre, centre))
    return torch.softmax(torch.logaddexp(left, right), dim=0)


def mean_and_variance(
    p: Float[Tensor, " K"], points: Float[Tensor, " K"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    r"""格点分布的均值与方差，也就是前向 KL 之下最优的高斯参数。

    Args:
        p: 分布。
        points: K 个状态的坐标。

    Returns:
        均值与方差。

    Raises:
        ValueError: p 不是概率分布，或 points 的形状与 p 不同。

    约定:
        方差除以总质量 1，是总体方差。

    出处:
        Bishop 2006, Pattern Recognition and Machine Learning, 第 10.7 节。

    示例:
        >>> mean_and_variance(torch.tensor([0.5, 0.0, 0.5]), torch.tensor([-2.0, 0.0, 2.0]))
        (tensor(0.), tensor(4.))
    """
    require_floats("p", p, "K")
    require_distribution("p", p)
    require_floats("points", points, *p.shape)
    mean = (p * points).sum()
    return mean, (p * (points - mean).square()).sum()


def gaussian_cross_entropy_forms(
    p: Float[Tensor, " K"], points: Float[Tensor, " K"], mean: float, variance: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    r"""−E_p log N(x; μ, σ²) 的三种写法：按定义、展开密度、只用 p 的两个矩。

    Args:
        p: 分布。
        points: K 个状态的坐标。
        mean: 高斯的均值 μ。
        variance: 高斯的方差 σ²，正数。

    Returns:
        三个相等的数（nat）。

    Raises:
        ValueError: p 不是概率分布，points 的形状与 p 不同，或 variance 不是正数。

    约定:
        N(x; μ, σ²) 是密度，所以结果可正可负。

    出处:
        Bishop 2006, Pattern Recognition and Machine Learning, 第 10.7 节。

    示例:
        >>> p, x = torch.tensor([0.5, 0.0, 0.5]), torch.tensor([-2.0, 0.0, 2.0])
        >>> [round(float(v), 4) for v in gaussian_cross_entropy_forms(p, x, 0.0, 4.0)]
        [2.1121, 2.1121, 2.1121]
    """
    if not variance > 0:
        raise ValueError(f"variance 必须是正数，得到 {variance!r}")
    p_mean, p_variance = mean_and_variance(p, points)
    model = torch.distributions.Normal(points.new_tensor(mean), variance**0.5)
    constant = math.log(2 * math.pi * variance) / 2
    expanded = constant + (p * (points - mean).square()).sum() / (2 * variance)
    by_moments = constant + (p_variance + (p_mean - mean) ** 2) / (2 * variance)
    return -(p * model.log_prob(points)).sum(), expanded, by_moments


def fit_gaussian(
    divergence: Callable[[Tensor, Tensor], Tensor],
    p: Float[Tensor, " K"],
    points: Float[Tensor, " K"],
    mean: float,
    std: float,
) -> tuple[float, float, float]:
    r"""从给定的均值与标准差出发，求散度最小的高斯。

    Args:
        divergence: 散度 d(p, q)，数据在前。
        p: 数据在格点上的分布。
        points: K 个格点的坐标。
        mean: 均值的初值。
        std: 标准差的初值，正数。

    Returns:
        均值、标准差与那里的散度值。

    Raises:
        ValueError: std 不是正数，或 p、points 不合 fit_by_divergence 的要求。

    约定:
        局部极小；反向 KL 与 JS 散度的结果依赖初值。

    出处:
        CS236 课程笔记 Introduction, 式 (1)。

    示例:
        >>> points = torch.linspace(-8, 8, 161, dtype=torch.float64)
        >>> p = torch.softmax(-((points - 1) ** 2) / 4.5, dim=0)
        >>> hellinger = lambda p, q: (p.sqrt() - q.sqrt()).square().sum()
        >>> [round(v, 3) for v in fit_gaussian(hellinger, p, points, mean=0.0, std=2.0)[:2]]
        [1.0, 1.5]
    """
    if not std > 0:
        raise ValueError(f"std 必须是正数，得到 {std!r}")
    start = points.new_tensor([mean, math.log(std)])
    theta, value = fit_by_divergence(
        divergence, p, lambda theta: gaussian_on_grid(theta, points), start
    )
    return theta[0].item(), math.exp(theta[1].item()), value.item()
