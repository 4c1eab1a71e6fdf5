r"""学习问题：状态数、经验分布，以及在有限状态空间上按给定的散度拟合模型。

约定:
    散度的参数次序是数据在前、模型在后，即 divergence(p, q)。
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from formulary.checks import require_count, require_distribution, require_floats, require_indices


def log10_state_count(levels: int, dimensions: int) -> float:
    r"""状态总数的常用对数：每维 levels 个取值、共 dimensions 维，状态数是 levels 的幂。

    Args:
        levels: 每一维的取值个数，不小于 2。
        dimensions: 维数，如像素数乘以通道数。

    Returns:
        log10(levels ** dimensions)；它的整数部分加 1 是状态数的十进制位数。

    Raises:
        ValueError: levels 不是不小于 2 的整数，或 dimensions 不是正整数。

    约定:
        不算出这个大整数，只算它的对数。

    出处:
        CS236 课程笔记 Introduction（那里印的指数有误）。

    示例:
        >>> round(log10_state_count(256, 700 * 1400 * 3), 1)
        7080225.5
    """
    require_count("levels", levels, least=2)
    require_count("dimensions", dimensions)
    return dimensions * math.log10(levels)


def empirical_distribution(x: Int[Tensor, " N"], states: int) -> Float[Tensor, " K"]:
    r"""经验分布：每个状态在样本里出现的频率。

    Args:
        x: N 个样本的状态编号，在 0 与 states − 1 之间。
        states: 状态总数 K。

    Returns:
        长为 K 的分布，float64；没出现过的状态概率为 0。

    Raises:
        ValueError: x 是空的、不是一维整数张量，或有编号超出范围。

    约定:
        状态从 0 起编号。

    出处:
        CS236 课程笔记 Introduction。

    示例:
        >>> empirical_distribution(torch.tensor([2, 0, 2, 2]), states=4).tolist()
        [0.25, 0.0, 0.75, 0.0]
    """
    require_count("states", states)
    require_indices("x", x, states, "N")
    require_count("x 的样本数", len(x))
    return torch.bincount(x, minlength=states).double() / len(x)


def gaussian_on_grid(
    theta: Float[Tensor, " N"], points: Float[Tensor, " K"]
) -> Float[Tensor, " K"]:
    r"""格点上的高斯分布：概率与高斯密度成正比，参数是均值与标准差的对数。

    Args:
        theta: 两个数，均值 μ 与 log σ。
        points: K 个格点的坐标；间隔相等时，概率除以间隔就近似连续的密度。

    Returns:
        长为 K 的分布，对 theta 可导。

    Raises:
        ValueError: theta 不是两个浮点数，或 points 不是一维浮点张量。

    约定:
        用 log σ 而不用 σ，优化时就没有 σ > 0 的约束；归一化由 softmax 完成。

    出处:
        离散化的正态分布，配分函数是有限和。

    示例:
        >>> gaussian_on_grid(torch.zeros(2), torch.tensor([-1.0, 0.0, 1.0]))
        tensor([0.2741, 0.4519, 0.2741])
    """
    require_floats("theta", theta, 2)
    require_floats("points", points, "K")
    standard = (points - theta[0]) * torch.exp(-theta[1])  # (K,)
    return torch.softmax(-standard.square() / 2, dim=0)


def fit_by_divergence(
    divergence: Callable[[Tensor, Tensor], Tensor],
    p: Float[Tensor, " K"],
    family: Callable[[Tensor], Tensor],
    start: Float[Tensor, " N"],
    iterations: int = 500,
) -> tuple[Float[Tensor, " N"], Float[Tensor, ""]]:
    r"""在模型族里求散度的极小点：从 start 出发，用带强 Wolfe 线搜索的 L-BFGS。

    Args:
        divergence: 散度 d(p, q)，对 q 可导。
        p: 数据的分布。
        family: 模型族，把参数映到分布 q。
        start: 参数的初值；散度不是凸函数时，结果依赖它。
        iterations: 迭代次数的上限（次）。

    Returns:
        极小点的参数与那里的散度值。

    Raises:
        ValueError: p 不是概率分布，start 不是一维浮点张量，iterations 不是正整数；或散度在途中
            变成无穷大，使参数失去意义（例如起点太窄，q 在 p 的支撑上下溢成 0）。

    约定:
        只保证局部极小；start 本身不被改动。

    出处:
        CS236 课程笔记 Introduction, 式 (1)；Nocedal & Wright 2006, 第 7.2 节。

    示例:
        >>> target = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
        >>> hellinger = lambda p, q: (p.sqrt() - q.sqrt()).square().sum()
        >>> start = torch.zeros(3, dtype=torch.float64)
        >>> theta, _ = fit_by_divergence(hellinger, target, lambda t: t.softmax(0), start)
        >>> theta.softmax(0).numpy().round(4).tolist()
        [0.5, 0.3, 0.2]
    """
    require_floats("p", p, "K")
    require_distribution("p", p)
    require_floats("start", start, "N")
    require_count("iterations", iterations)
    theta = start.detach().clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [theta],
        max_iter=iterations,
        tolerance_grad=1e-12,
        tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        """清零梯度，算散度并反向传播。"""
        optimizer.zero_grad()
        value = divergence(p, family(theta))
        value.backward()
        return value

    optimizer.step(closure)
    with torch.no_grad():
        return theta.detach(), divergence(p, family(theta))
