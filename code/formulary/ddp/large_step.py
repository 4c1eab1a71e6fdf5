"""线性缩放差在哪里：κ 个小步与一个放大 κ 倍的大步，结果相差多少。"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_count, require_floats

Gradient = Callable[[Tensor], Tensor]


def _require(theta: Tensor, gradients: Sequence[Gradient], rate: float) -> None:
    """检查三个函数共同的参数。"""
    require_floats("theta", theta, "P")
    if not gradients:
        raise ValueError("gradients 至少要有一个小批量的梯度函数，得到空列表")
    if not rate > 0:
        raise ValueError(f"rate 必须是正数，得到 {rate!r}")


def small_steps(
    theta: Float[Tensor, " P"], gradients: Sequence[Gradient], rate: float
) -> Float[Tensor, " P"]:
    r"""依次对 κ 个小批量各走一步 SGD，学习率都是 rate。

    Args:
        theta: 起点 θ_0。
        gradients: κ 个函数，第 j 个给出第 j 个小批量在任一点的梯度。
        rate: 学习率 η。

    Returns:
        走完 κ 步的参数。

    Raises:
        ValueError: theta 不是一维实浮点张量，gradients 为空，或 rate 不是正数。

    示例:
        >>> small_steps(torch.ones(1), [lambda theta: theta] * 2, 0.5)
        tensor([0.2500])
    """
    _require(theta, gradients, rate)
    for gradient in gradients:
        theta = theta - rate * gradient(theta)
    return theta


def large_step(
    theta: Float[Tensor, " P"], gradients: Sequence[Gradient], rate: float
) -> Float[Tensor, " P"]:
    r"""对 κ 个小批量的平均梯度走一步，学习率是 κ 倍的 rate。

    Args:
        theta: 起点 θ_0。
        gradients: κ 个小批量的梯度函数；在 DDP 里它们各在一个 rank 上。
        rate: 小步的学习率 η。

    Returns:
        走完一步的参数。

    Raises:
        ValueError: 同 small_steps。

    出处:
        Goyal et al. 2017, arXiv:1706.02677, 式 (3) 与 (4)。

    示例:
        >>> large_step(torch.ones(1), [lambda theta: theta] * 2, 0.5)
        tensor([0.])
    """
    _require(theta, gradients, rate)
    mean = torch.stack([gradient(theta) for gradient in gradients]).mean(dim=0)
    return theta - len(gradients) * rate * mean


def leading_step_gap(
    theta: Float[Tensor, " P"], gradients: Sequence[Gradient], rate: float
) -> Float[Tensor, " P"]:
    r"""small_steps 与 large_step 之差的主项：η² 乘以后面的黑塞矩阵作用在前面的梯度上。

    Args:
        theta: 起点 θ_0。
        gradients: κ 个小批量的梯度函数，可用自动求导再求一次导。
        rate: 小步的学习率 η。

    Returns:
        差的二阶项；略去的是 η³ 的量级。

    Raises:
        ValueError: 同 small_steps。

    出处:
        推导见正文。

    示例:
        >>> leading_step_gap(torch.ones(1), [lambda theta: theta] * 2, 0.5)
        tensor([0.2500])
    """
    _require(theta, gradients, rate)
    gap, travelled = torch.zeros_like(theta), torch.zeros_like(theta)
    for gradient in gradients:
        point = theta.detach().requires_grad_()
        value = gradient(point)
        # 前面梯度之和乘 H_jᵀ；黑塞矩阵对称，就是乘 H_j
        (curved,) = torch.autograd.grad(value, point, travelled)
        gap = gap + rate**2 * curved
        travelled = travelled + value.detach()
    return gap


def quadratic_factors(curvature: float, rate: float, count: int) -> tuple[float, float]:
    r"""二次损失上，κ 个小步与一个大步各把离最小点的距离乘上多少。

    Args:
        curvature: 二阶导数 λ。
        rate: 小步的学习率 η。
        count: 放大的倍数 κ。

    Returns:
        小步走完与大步走完的系数（无量纲）；绝对值大于 1 就离最小点更远。

    Raises:
        ValueError: count 不是正整数，或 curvature、rate 不是正数。

    示例:
        >>> [round(factor, 4) for factor in quadratic_factors(1.0, 0.1, 4)]
        [0.6561, 0.6]
    """
    require_count("count", count)
    for name, value in (("curvature", curvature), ("rate", rate)):
        if not value > 0:
            raise ValueError(f"{name} 必须是正数，得到 {value!r}")
    return (1 - rate * curvature) ** count, 1 - count * rate * curvature
