r"""随机梯度上升：小批量的平均对数似然的梯度，以及沿它前进一步。

约定:
    对数似然取批内平均，以 nat 计；梯度上升，所以步长前是加号。
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from formulary.checks import require_floats


def likelihood_gradient(
    log_prob: Callable[[Tensor, Tensor], Tensor],
    theta: Float[Tensor, " K"],
    x: Shaped[Tensor, "B *batch"],
) -> Float[Tensor, " K"]:
    r"""一批样本的平均对数似然对参数的梯度。

    Args:
        log_prob: 函数 log_prob(theta, x)，返回每个样本的对数概率，形状 (B,)。
        theta: 模型的参数，一维。
        x: 一批样本，第一轴是样本。

    Returns:
        平均对数似然的梯度，形状与 theta 相同。

    Raises:
        ValueError: theta 不是一维浮点张量，或 log_prob 不是每个样本返回一个数。

    约定:
        除以这一批的样本数。

    出处:
        CS236 课程笔记 Autoregressive Models, “Learning and inference” 一节。

    示例:
        >>> log_prob = lambda theta, x: theta.log_softmax(0)[x]
        >>> likelihood_gradient(log_prob, torch.zeros(2), torch.tensor([0, 0, 0, 1]))
        tensor([ 0.2500, -0.2500])
    """
    require_floats("theta", theta, "K")
    leaf = theta.detach().clone().requires_grad_()
    values = log_prob(leaf, x)
    require_floats("log_prob 的返回值", values, len(x))
    return torch.autograd.grad(values.mean(), leaf)[0]


def stochastic_gradient_step(
    log_prob: Callable[[Tensor, Tensor], Tensor],
    theta: Float[Tensor, " K"],
    x: Shaped[Tensor, "B *batch"],
    rate: float,
) -> Float[Tensor, " K"]:
    r"""随机梯度上升一步：沿小批量的平均对数似然的梯度前进。

    Args:
        log_prob: 函数 log_prob(theta, x)，返回每个样本的对数概率，形状 (B,)。
        theta: 模型的参数，一维。
        x: 一个小批量，第一轴是样本。
        rate: 步长（学习率），正数。

    Returns:
        新的参数；theta 本身不被改动。

    Raises:
        ValueError: rate 不是正数，或 theta、log_prob 不合 likelihood_gradient 的要求。

    约定:
        上升，取加号；对负对数似然作梯度下降是同一步。

    出处:
        Robbins & Monro 1951, A Stochastic Approximation Method。

    示例:
        >>> log_prob = lambda theta, x: theta.log_softmax(0)[x]
        >>> stochastic_gradient_step(log_prob, torch.zeros(2), torch.tensor([0]), rate=0.1)
        tensor([ 0.0500, -0.0500])
    """
    if not rate > 0:
        raise ValueError(f"rate 必须是正数，得到 {rate!r}")
    return theta + rate * likelihood_gradient(log_prob, theta, x)
