r"""批归一化：训练与评估的两套公式，以及训练模式的反向。

约定:
    通道在第二轴，其余各轴合在一起求统计；归一化用有偏方差。
"""

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats

EPSILON = 1e-5  # PyTorch 的默认值


def batch_statistics(
    x: Float[Tensor, "B C ..."],
) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
    r"""每个通道的均值与有偏方差。

    Args:
        x: 激活，通道在第二轴。

    Returns:
        均值与方差，除以 m，不除以 m − 1。

    Raises:
        ValueError: x 不是至少两轴的浮点张量，或每个通道不足两个数。

    示例:
        >>> batch_statistics(torch.tensor([[1.0], [3.0]]))
        (tensor([2.]), tensor([1.]))
    """
    require_normalizable(x)
    others = [axis for axis in range(x.ndim) if axis != 1]
    return x.mean(others), x.var(others, unbiased=False)


def batch_norm_train(
    x: Float[Tensor, "B C ..."],
    gamma: Float[Tensor, " C"],
    beta: Float[Tensor, " C"],
    epsilon: float = EPSILON,
) -> Float[Tensor, "B C ..."]:
    r"""训练模式的批归一化：用这一批自己的均值与方差。

    Args:
        x: 激活，通道在第二轴。
        gamma: 每个通道的缩放。
        beta: 每个通道的平移。
        epsilon: 根号里的常数，与 x 的平方同单位。

    Returns:
        归一化之后的激活。

    Raises:
        ValueError: 形状或类型不符，或每个通道不足两个数。

    出处:
        Ioffe & Szegedy 2015, arXiv:1502.03167, 算法 1。

    示例:
        >>> batch_norm_train(torch.tensor([[1.0], [3.0]]), torch.ones(1), torch.zeros(1))
        tensor([[-1.0000],
                [ 1.0000]])
    """
    mean, variance = batch_statistics(x)
    return batch_norm_eval(x, mean, variance, gamma, beta, epsilon)


def batch_norm_eval(
    x: Float[Tensor, "B C ..."],
    mean: Float[Tensor, " C"],
    variance: Float[Tensor, " C"],
    gamma: Float[Tensor, " C"],
    beta: Float[Tensor, " C"],
    epsilon: float = EPSILON,
) -> Float[Tensor, "B C ..."]:
    r"""评估模式的批归一化：用给定的统计，每个样本各算各的。

    Args:
        x: 激活，通道在第二轴。
        mean: 每个通道的均值，评估时是运行均值。
        variance: 每个通道的方差，评估时是运行方差。
        gamma: 每个通道的缩放。
        beta: 每个通道的平移。
        epsilon: 根号里的常数。

    Returns:
        归一化之后的激活。

    Raises:
        ValueError: 形状或类型不符，或 epsilon 为负。

    出处:
        Ioffe & Szegedy 2015, arXiv:1502.03167, 算法 2。

    示例:
        >>> one = torch.ones(1)
        >>> batch_norm_eval(torch.tensor([[5.0]]), one, 4 * one, one, one, epsilon=0.0)
        tensor([[3.]])
    """
    require_floats("x", x)
    if x.ndim < 2:
        raise ValueError(f"x 至少要有两轴（批量、通道），得到形状 {tuple(x.shape)}")
    if not epsilon >= 0:
        raise ValueError(f"epsilon 不能为负，得到 {epsilon!r}")
    shape = (1, -1) + (1,) * (x.ndim - 2)
    per_channel = {"mean": mean, "variance": variance, "gamma": gamma, "beta": beta}
    for name, value in per_channel.items():
        require_floats(name, value, x.shape[1])
    scale = gamma / (variance + epsilon).sqrt()
    return scale.view(shape) * (x - mean.view(shape)) + beta.view(shape)


def batch_norm_backward(
    grad_y: Float[Tensor, "B C ..."],
    x: Float[Tensor, "B C ..."],
    gamma: Float[Tensor, " C"],
    epsilon: float = EPSILON,
) -> tuple[Float[Tensor, "B C ..."], Float[Tensor, " C"], Float[Tensor, " C"]]:
    r"""训练模式的批归一化的三个梯度。

    Args:
        grad_y: 损失对输出的梯度。
        x: 前向的输入。
        gamma: 每个通道的缩放。
        epsilon: 根号里的常数。

    Returns:
        对 x、gamma、beta 的梯度。

    Raises:
        ValueError: 形状或类型不符，或每个通道不足两个数。

    出处:
        Ioffe & Szegedy 2015, arXiv:1502.03167, §3，化简。

    示例:
        >>> x = torch.tensor([[1.0], [3.0]])
        >>> batch_norm_backward(torch.ones(2, 1), x, torch.ones(1))[0]
        tensor([[0.],
                [0.]])
    """
    _, variance = batch_statistics(x)
    require_floats("grad_y", grad_y, *x.shape)
    require_floats("gamma", gamma, x.shape[1])
    others = [axis for axis in range(x.ndim) if axis != 1]
    normalized = batch_norm_train(x, torch.ones_like(gamma), torch.zeros_like(gamma), epsilon)
    grad_beta = grad_y.sum(others)
    grad_gamma = (grad_y * normalized).sum(others)
    count = x.numel() // x.shape[1]
    shape = (1, -1) + (1,) * (x.ndim - 2)
    scale = (gamma / (variance + epsilon).sqrt()).view(shape)
    means = grad_beta.view(shape) / count, grad_gamma.view(shape) / count
    return scale * (grad_y - means[0] - normalized * means[1]), grad_gamma, grad_beta


def require_normalizable(x: Tensor) -> None:
    """要求 x 是至少两轴的浮点张量，每个通道至少两个数。"""
    require_floats("x", x)
    if x.ndim < 2:
        raise ValueError(f"x 至少要有两轴（批量、通道），得到形状 {tuple(x.shape)}")
    if x.numel() // max(x.shape[1], 1) < 2:
        raise ValueError(f"每个通道至少要有两个数才谈得上方差，得到形状 {tuple(x.shape)}")
