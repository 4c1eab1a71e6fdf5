r"""批归一化的运行统计：指数移动平均与累积平均。

约定:
    归一化用有偏方差，运行方差却存无偏的；momentum 是新值的权重。
"""

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats
from formulary.nn_and_functional.batch_norm import batch_statistics


def updated_running_statistics(
    running_mean: Float[Tensor, " C"],
    running_variance: Float[Tensor, " C"],
    x: Float[Tensor, "B C ..."],
    momentum: float = 0.1,
) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
    r"""看过一批之后的运行统计。

    Args:
        running_mean: 运行均值。
        running_variance: 运行方差。
        x: 这一批的激活。
        momentum: 新值的权重，在 [0, 1] 里。

    Returns:
        新的运行均值与运行方差；方差用无偏的，除以 m − 1。

    Raises:
        ValueError: 形状或类型不符，每个通道不足两个数，或 momentum 不在 [0, 1] 里。

    出处:
        PyTorch 2.13, torch.nn.BatchNorm2d。

    示例:
        >>> x = torch.tensor([[1.0], [3.0]])
        >>> updated_running_statistics(torch.zeros(1), torch.ones(1), x)
        (tensor([0.2000]), tensor([1.1000]))
    """
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum 必须在 [0, 1] 里，得到 {momentum!r}")
    mean, variance = batch_statistics(x)
    require_floats("running_mean", running_mean, *mean.shape)
    require_floats("running_variance", running_variance, *mean.shape)
    count = x.numel() // x.shape[1]
    unbiased = variance * count / (count - 1)
    return (
        (1 - momentum) * running_mean + momentum * mean,
        (1 - momentum) * running_variance + momentum * unbiased,
    )


def cumulative_average(values: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
    r"""逐步更新的累积平均，即 momentum=None 时的运行统计。

    Args:
        values: 每步一行的统计。

    Returns:
        第 t 行是前 t 行的平均，由上一行递推得到。

    Raises:
        ValueError: values 不是二轴的浮点张量。

    出处:
        PyTorch 2.13, torch.nn.BatchNorm2d, momentum=None。

    示例:
        >>> cumulative_average(torch.tensor([[1.0], [3.0], [8.0]]))
        tensor([[1.],
                [2.],
                [4.]])
    """
    require_floats("values", values, "N", "C")
    average, averages = torch.zeros_like(values[:1]), []
    for step, value in enumerate(values, 1):
        average = average + (value - average) / step
        averages.append(average)
    return torch.cat(averages)
