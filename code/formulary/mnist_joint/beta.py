"""平滑从哪里来：一个像素的概率在 Beta 先验下的后验。

约定:
    先验是对称的 Beta(α, α)；ones 与 zeros 是取 1 与取 0 的次数，即正文的 N_ki 与
    N_k − N_ki。
"""

import math

from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_count, require_floats


def beta_posterior_density(
    theta: Float[Tensor, " N"], ones: int, zeros: int, alpha: float
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""Beta(α, α) 先验下后验密度的推导：似然乘先验，与合并指数之后的样子。

    Args:
        theta: 若干个概率，严格在 0 与 1 之间。
        ones: 取 1 的次数 N_ki（次）。
        zeros: 取 0 的次数 N_k − N_ki（次）。
        alpha: 先验的参数 α，正数。

    Returns:
        推导的两行，都差同一个与 theta 无关的归一化常数（无量纲）。

    Raises:
        ValueError: theta 不在 0 与 1 之间，次数为负，或 alpha 不是正数。

    出处:
        Murphy 2022, Probabilistic Machine Learning: An Introduction, 4.6.2 节。

    示例:
        >>> beta_posterior_density(torch.tensor([0.5]), ones=1, zeros=2, alpha=2.0)
        (tensor([0.0312]), tensor([0.0312]))
    """
    require_floats("theta", theta, "N")
    if not ((theta > 0) & (theta < 1)).all():
        raise ValueError("theta 必须严格在 0 与 1 之间，端点处密度可能没有定义")
    first, second, _ = beta_posterior(ones, zeros, alpha)
    likelihood = theta**ones * (1 - theta) ** zeros
    prior = theta ** (alpha - 1) * (1 - theta) ** (alpha - 1)
    return likelihood * prior, theta ** (first - 1) * (1 - theta) ** (second - 1)


def beta_posterior(ones: int, zeros: int, alpha: float) -> tuple[float, float, float]:
    r"""Beta(α, α) 先验、若干次 0/1 观测之后的后验，与后验均值。

    Args:
        ones: 取 1 的次数 N_ki（次）。
        zeros: 取 0 的次数 N_k − N_ki（次）。
        alpha: 先验的参数 α，正数。

    Returns:
        后验 Beta 分布的两个参数，与它的均值（无量纲）。

    Raises:
        ValueError: 次数不是非负整数，或 alpha 不是有限的正数。

    约定:
        均值就是平滑量为 α 的计数估计。

    出处:
        Murphy 2022, Probabilistic Machine Learning: An Introduction, 4.6.2 节。

    示例:
        >>> beta_posterior(0, 2, alpha=1.0)
        (1.0, 3.0, 0.25)
    """
    require_count("ones", ones, least=0)
    require_count("zeros", zeros, least=0)
    if not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"alpha 必须是有限的正数，得到 {alpha!r}")
    return alpha + ones, alpha + zeros, (alpha + ones) / (2 * alpha + ones + zeros)


def beta_mode(first: float, second: float) -> float:
    r"""Beta(a, b) 分布的众数；用在后验上就是最大后验估计。

    Args:
        first: 参数 a，不小于 1。
        second: 参数 b，不小于 1，且 a + b 大于 2。

    Returns:
        (a − 1)/(a + b − 2)（无量纲）。

    Raises:
        ValueError: a 或 b 小于 1，或两者都是 1，这时密度没有唯一的最大值。

    出处:
        由密度的对数求导。

    示例:
        >>> beta_mode(2.0, 4.0)
        0.25
    """
    if not (1 <= first < math.inf and 1 <= second < math.inf and first + second > 2):
        raise ValueError(f"first 与 second 必须不小于 1 且不都是 1，得到 {first!r} 与 {second!r}")
    return (first - 1) / (first + second - 2)
