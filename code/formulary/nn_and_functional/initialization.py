r"""参数初始化的尺度：扇入与扇出、Xavier、Kaiming、PyTorch 的默认值，以及激活函数的增益。"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from formulary.checks import require_count


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    r"""权重的扇入与扇出：一个输出由多少个输入相加，一个输入参与多少个输出。

    Args:
        shape: 权重的形状，(输出, 输入/组数, *核)；线性层没有核。

    Returns:
        扇入与扇出（无量纲）。

    Raises:
        ValueError: 形状少于两轴，或有一轴不是正整数。

    约定:
        转置卷积的权重按 (输入, 输出/组数, *核) 存放，两个数会对调。

    出处:
        PyTorch 2.13, torch.nn.init._calculate_fan_in_and_fan_out。

    示例:
        >>> fans((64, 32, 3, 3))
        (288, 576)
    """
    if len(shape) < 2:
        raise ValueError(f"权重至少要有两轴，得到形状 {tuple(shape)}")
    for size in shape:
        require_count("shape 的每一轴", size)
    window = math.prod(shape[2:])
    return shape[1] * window, shape[0] * window


def xavier_scale(shape: tuple[int, ...], gain: float = 1.0) -> tuple[float, float]:
    r"""Xavier（Glorot）初始化的标准差与均匀分布的界。

    Args:
        shape: 权重的形状。
        gain: 增益，正数。

    Returns:
        正态版的标准差，与均匀版的界（无量纲）；两者方差相同。

    Raises:
        ValueError: 形状不对，或增益不是正数。

    出处:
        Glorot & Bengio 2010, 式 (12) 与 (16)。

    示例:
        >>> [round(value, 4) for value in xavier_scale((3, 5))]
        [0.5, 0.866]
    """
    fan_in, fan_out = fans(shape)
    _require_positive("gain", gain)
    deviation = gain * math.sqrt(2 / (fan_in + fan_out))
    return deviation, math.sqrt(3) * deviation


def kaiming_scale(
    shape: tuple[int, ...], slope: float = 0.0, forward: bool = True
) -> tuple[float, float]:
    r"""Kaiming（He）初始化的标准差与均匀分布的界。

    Args:
        shape: 权重的形状。
        slope: leaky ReLU 在负半轴的斜率，ReLU 为 0。
        forward: 真时保持前向的量级（用扇入），假时保持反向的量级（用扇出）。

    Returns:
        正态版的标准差，与均匀版的界（无量纲）；两者方差相同。

    Raises:
        ValueError: 形状不对。

    出处:
        He et al. 2015, arXiv:1502.01852, 式 (10)、(14)、(15)。

    示例:
        >>> [round(value, 4) for value in kaiming_scale((3, 8))]
        [0.5, 0.866]
    """
    fan_in, fan_out = fans(shape)
    deviation = math.sqrt(2 / (1 + slope**2) / (fan_in if forward else fan_out))
    return deviation, math.sqrt(3) * deviation


def default_scale(shape: tuple[int, ...]) -> tuple[float, float]:
    r"""nn.Linear 与 nn.Conv2d 的默认初始化：权重的标准差，与权重、偏置共用的界。

    Args:
        shape: 权重的形状。

    Returns:
        权重的标准差与均匀分布的界（无量纲）；偏置的界与权重相同。

    Raises:
        ValueError: 形状不对。

    约定:
        源码写作 kaiming_uniform_(a=√5)，化简之后界就是扇入的平方根的倒数。

    出处:
        PyTorch 2.13, torch/nn/modules/linear.py, reset_parameters。

    示例:
        >>> [round(value, 4) for value in default_scale((7, 4))]
        [0.2887, 0.5]
    """
    deviation, bound = kaiming_scale(shape, slope=math.sqrt(5))
    return deviation, bound


def gaussian_gain(activation: Callable[[Tensor], Tensor]) -> float:
    r"""输入是标准正态变量时，使激活之后的二阶矩仍为 1 的增益。

    Args:
        activation: 逐元素的激活函数，增长不快于多项式。

    Returns:
        增益（无量纲）。

    Raises:
        ValueError: 激活之后的二阶矩不是正的有限数。

    约定:
        期望用梯形法在 [−12, 12] 上积分，步长 0.0005。

    示例:
        >>> round(gaussian_gain(torch.relu), 4)
        1.4142
    """
    z = torch.linspace(-12, 12, 48_001, dtype=torch.float64)
    density = (-z.square() / 2).exp() / math.sqrt(2 * math.pi)
    moment = torch.trapezoid(activation(z).square() * density, z).item()
    if not 0 < moment < math.inf:
        raise ValueError(f"激活之后的二阶矩必须是正的有限数，得到 {moment}")
    return moment**-0.5


def recommended_gain(activation: str, slope: float = 0.01) -> float:
    r"""torch.nn.init.calculate_gain 给的增益。

    Args:
        activation: linear、sigmoid、tanh、relu、leaky_relu 或 selu。
        slope: leaky_relu 在负半轴的斜率。

    Returns:
        增益（无量纲）；只有 linear、relu 与 leaky_relu 的值由二阶矩推得。

    Raises:
        ValueError: 不认识的激活函数。

    出处:
        PyTorch 2.13, torch.nn.init.calculate_gain。

    示例:
        >>> round(recommended_gain("tanh"), 4)
        1.6667
    """
    table = {
        "linear": 1.0,
        "sigmoid": 1.0,
        "tanh": 5 / 3,
        "relu": math.sqrt(2),
        "leaky_relu": math.sqrt(2 / (1 + slope**2)),
        "selu": 3 / 4,
    }
    if activation not in table:
        raise ValueError(f"activation 必须是 {'、'.join(table)} 之一，得到 {activation!r}")
    return table[activation]


def _require_positive(name: str, value: float) -> None:
    """要求 value 是正数。"""
    if not value > 0:
        raise ValueError(f"{name} 必须是正数，得到 {value!r}")
