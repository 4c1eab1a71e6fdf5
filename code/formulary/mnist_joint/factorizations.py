"""把标签当作第 n+1 个变量，联合分布的两种分解，以及各像素独立的模型。

约定:
    联合分布的表一行一种图像，一列一类；对数是自然对数（nat）。
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from formulary.checks import (
    require_binary,
    require_distribution,
    require_floats,
    require_indices,
    require_probabilities,
)


def append_label(
    x: Float[Tensor, "N n"], y: Int[Tensor, " N"], classes: int
) -> Int[Tensor, "N n+1"]:
    r"""把标签接在像素后面，成为第 n+1 个变量。

    Args:
        x: N 张二值图像。
        y: N 个标签，从 0 起。
        classes: 类别数 K。

    Returns:
        整数向量 (x_1, …, x_n, y)，每行一个样本；可以交给 bayesian_network_log_prob。

    Raises:
        ValueError: x 不是二值的 (N, n) 实浮点张量；y 不是 [0, classes) 里的 N 个整数。

    约定:
        最后一列是标签，类别从 0 起。

    出处:
        由 y 也是随机变量，记 x_{n+1} = y。

    示例:
        >>> append_label(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([7, 3]), classes=10)
        tensor([[1, 0, 7],
                [0, 0, 3]])
    """
    require_floats("x", x, "N", "n")
    require_binary("x", x)
    require_indices("y", y, classes, len(x))
    return torch.cat((x.long(), y.long()[:, None]), dim=1)


def two_factorizations(
    joint: Float[Tensor, "N K"],
) -> tuple[Float[Tensor, " K"], Float[Tensor, "N K"], Float[Tensor, " N"], Float[Tensor, "N K"]]:
    r"""由联合分布的表求两种分解的四个因子：p(y)、p(x|y)、p(x)、p(y|x)。

    Args:
        joint: p(x, y) 的表，N 种图像、K 类，元素非负，总和为 1，每行、每列都有正的元素。

    Returns:
        p(y)，p(x|y)（每列的和为 1），p(x)，p(y|x)（每行的和为 1）。

    Raises:
        ValueError: joint 不是两维实浮点张量，总和不是 1，或某一行、某一列全为 0。

    约定:
        概率为 0 的条件下，条件分布没有定义，所以不允许全零的行与列。

    出处:
        由条件概率的定义。

    示例:
        >>> two_factorizations(torch.tensor([[0.1, 0.2], [0.3, 0.4]]))[0]
        tensor([0.4000, 0.6000])
    """
    require_floats("joint", joint, "N", "K")
    require_distribution("joint", joint.flatten())
    prior, marginal = joint.sum(dim=0), joint.sum(dim=1)
    if (prior == 0).any() or (marginal == 0).any():
        raise ValueError("joint 的每一行、每一列都必须有正的概率，得到全零的行或列")
    return prior, joint / prior, marginal, joint / marginal[:, None]


def independent_pixels_log_prob(
    x: Float[Tensor, "B n"], theta: Float[Tensor, " n"]
) -> Float[Tensor, " B"]:
    r"""各像素独立时图像的对数概率。

    Args:
        x: B 张二值图像。
        theta: 各像素取 1 的概率，可以是 0 或 1。

    Returns:
        log p(x)，对像素求和（nat）；不可能的图像是 -inf。

    Raises:
        ValueError: theta 不是 [0, 1] 里的向量，或 x 不是每行 n 个像素的二值图像。

    约定:
        0·log 0 取 0。

    出处:
        CS236, 第 2 讲。

    示例:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
        >>> independent_pixels_log_prob(x, torch.tensor([0.5, 0.25]))
        tensor([-0.9808, -0.9808])
    """
    require_floats("theta", theta, "n")
    require_probabilities("theta", theta)
    require_floats("x", x, "B", len(theta))
    require_binary("x", x)
    return (torch.xlogy(x, theta) + torch.xlogy(1 - x, 1 - theta)).sum(dim=-1)
