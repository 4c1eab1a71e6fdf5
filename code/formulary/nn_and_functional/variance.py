r"""方差的两种算法：一遍与两遍，以及一遍的抵消误差有多大。"""

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats


def one_pass_variance(x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    r"""平方的平均减去平均的平方；均值远大于标准差时会抵消，甚至得到负数。

    Args:
        x: 数据，沿最后一轴求方差。

    Returns:
        有偏方差。

    Raises:
        ValueError: x 不是浮点张量，或最后一轴为空。

    示例:
        >>> one_pass_variance(torch.tensor([1.0, 3.0]))
        tensor(1.)
    """
    require_sample(x)
    return x.square().mean(-1) - x.mean(-1).square()


def two_pass_variance(x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    r"""先求平均，再求偏差的平方的平均；每一项都不为负。

    Args:
        x: 数据，沿最后一轴求方差。

    Returns:
        有偏方差。

    Raises:
        ValueError: x 不是浮点张量，或最后一轴为空。

    出处:
        Chan, Golub & LeVeque 1983, Algorithms for Computing the Sample Variance，两遍算法。

    示例:
        >>> two_pass_variance(torch.tensor([1.0, 3.0]))
        tensor(1.)
    """
    require_sample(x)
    return (x - x.mean(-1, keepdim=True)).square().mean(-1)


def one_pass_relative_error(mean: float, deviation: float, dtype: torch.dtype) -> float:
    r"""一遍算法的相对误差的量级：单位舍入乘以均值与标准差之比的平方再加 1。

    Args:
        mean: 数据的均值。
        deviation: 数据的标准差，正数，与均值同单位。
        dtype: 计算所用的浮点类型。

    Returns:
        相对误差的量级（无量纲）；超过 1 时结果一位也不可信。

    Raises:
        ValueError: 标准差不是正数，或 dtype 不是浮点类型。

    约定:
        单位舍入是机器精度的一半。

    出处:
        Chan, Golub & LeVeque 1983，一遍（教科书）算法的误差界；这里略去与个数有关的因子。

    示例:
        >>> one_pass_relative_error(100.0, 0.01, torch.float32) > 1
        True
    """
    if not deviation > 0:
        raise ValueError(f"deviation 必须是正数，得到 {deviation!r}")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype 必须是浮点类型，得到 {dtype}")
    return torch.finfo(dtype).eps / 2 * (1 + (mean / deviation) ** 2)


def require_sample(x: Tensor) -> None:
    """要求 x 是最后一轴不空的浮点张量。"""
    require_floats("x", x)
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"x 的最后一轴不能为空，得到形状 {tuple(x.shape)}")
