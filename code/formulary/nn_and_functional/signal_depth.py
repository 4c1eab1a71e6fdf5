r"""信号穿过许多层之后还剩多大：激活的二阶矩逐层的递推，与真网络的实测。

约定:
    网络是等宽的线性层接 ReLU；二阶矩是一层激活的平方的平均。
"""

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_count
from formulary.nn_and_functional.initialization import default_scale, kaiming_scale, xavier_scale


def layer_second_moment(
    q: float, width: int, weight_variance: float, bias_variance: float = 0.0
) -> float:
    r"""一个线性层接 ReLU 之后，激活的二阶矩的期望。

    Args:
        q: 输入的二阶矩。
        width: 输入的个数 n。
        weight_variance: 权重的方差。
        bias_variance: 偏置的方差。

    Returns:
        输出的二阶矩；权重与偏置对称地取自零均值分布，且与输入独立。

    Raises:
        ValueError: 宽度不是正整数，或方差、二阶矩为负。

    出处:
        He et al. 2015, arXiv:1502.01852, 式 (7)–(9)。

    示例:
        >>> layer_second_moment(1.0, width=4, weight_variance=0.5)
        1.0
    """
    require_count("width", width)
    for name, value in (
        ("q", q),
        ("weight_variance", weight_variance),
        ("bias_variance", bias_variance),
    ):
        if not value >= 0:
            raise ValueError(f"{name} 不能为负，得到 {value!r}")
    return (width * weight_variance * q + bias_variance) / 2


def second_moments(scheme: str, width: int, depth: int) -> list[float]:
    r"""从二阶矩 1 出发，逐层递推激活的二阶矩。

    Args:
        scheme: kaiming、xavier 或 default。
        width: 每层的宽度 n。
        depth: 层数。

    Returns:
        第 1 层到第 depth 层的二阶矩。

    Raises:
        ValueError: 不认识的方案，或宽度、层数不是正整数。

    约定:
        前两种没有偏置；default 的偏置与权重同分布。

    示例:
        >>> second_moments("xavier", width=64, depth=3)
        [0.5, 0.25, 0.125]
    """
    require_count("depth", depth)
    weight_variance, bias_variance = _variances(scheme, width)
    moments, q = [], 1.0
    for _ in range(depth):
        q = layer_second_moment(q, width, weight_variance, bias_variance)
        moments.append(q)
    return moments


def limiting_second_moment(width: int) -> float:
    r"""默认初始化的二阶矩随深度趋近的值，由偏置撑着。

    Args:
        width: 每层的宽度 n。

    Returns:
        递推的不动点。

    Raises:
        ValueError: 宽度不是正整数。

    示例:
        >>> limiting_second_moment(50)
        0.004
    """
    require_count("width", width)
    return 1 / (5 * width)


def measured_second_moments(
    scheme: str, x: Float[Tensor, "B n"], depth: int, generator: torch.Generator
) -> Float[Tensor, " N"]:
    r"""让 x 穿过 depth 个随机初始化的线性层与 ReLU，记下每层激活的二阶矩。

    Args:
        scheme: kaiming、xavier 或 default。
        x: 输入，每行一个样本。
        depth: 层数。
        generator: 随机数发生器。

    Returns:
        每层激活的平方的平均。

    Raises:
        ValueError: 不认识的方案，或层数不是正整数。

    示例:
        >>> generator = torch.Generator().manual_seed(0)
        >>> measured_second_moments("kaiming", torch.ones(1, 4000), 1, generator).round(decimals=1)
        tensor([1.])
    """
    require_count("depth", depth)
    width = x.shape[1]
    weight_variance, bias_variance = _variances(scheme, width)
    moments = []
    for _ in range(depth):
        # 均匀分布的界是标准差的根号三倍
        weight, bias = (
            (3 * variance) ** 0.5 * (2 * torch.rand(shape, generator=generator, dtype=x.dtype) - 1)
            for variance, shape in ((weight_variance, (width, width)), (bias_variance, (width,)))
        )
        x = (x @ weight.T + bias).relu()
        moments.append(x.square().mean())
    return torch.stack(moments)


def _variances(scheme: str, width: int) -> tuple[float, float]:
    """等宽的一层里，权重与偏置的方差。"""
    require_count("width", width)
    scales = {"kaiming": kaiming_scale, "xavier": xavier_scale, "default": default_scale}
    if scheme not in scales:
        raise ValueError(f"scheme 必须是 {'、'.join(scales)} 之一，得到 {scheme!r}")
    variance = scales[scheme]((width, width))[0] ** 2
    return variance, variance if scheme == "default" else 0.0
