"""推断：在对数里作贝叶斯公式，以及不这样做时的下溢。

约定:
    log_joint 每行一张图，每列一类，就是 naive_bayes_log_joint 的结果；对数是自然对数（nat）。
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_count, require_floats
from formulary.mnist_joint.naive_bayes import naive_bayes_log_joint


def log_sum_exp(values: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch"]:
    r"""指数之和的对数，先减去最大值，不上溢也不整体下溢。

    Args:
        values: 若干行实数，可以含 -inf。

    Returns:
        沿最后一轴的 log Σ exp（nat）；整行都是 -inf 时是 -inf。

    Raises:
        ValueError: values 不是实浮点张量，或最后一轴没有元素。

    约定:
        最大值不参与求导：它在结果里正负相消，梯度仍是 softmax。

    出处:
        Blanchard, Higham & Higham 2019, arXiv:1909.03469。

    示例:
        >>> log_sum_exp(torch.tensor([1000.0, 1000.0]))
        tensor(1000.6932)
    """
    require_floats("values", values, "...", "K")
    require_count("values 最后一轴的长度 K", values.shape[-1])
    largest = values.detach().amax(dim=-1, keepdim=True)
    shift = largest.nan_to_num()  # ±inf 换成有限的最大、最小数，免得 inf − inf
    return (values - shift).exp().sum(dim=-1).log() + shift.squeeze(-1)


def class_posterior(log_joint: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    r"""由对数联合概率求各类的后验概率。

    Args:
        log_joint: log p(x, y=k)，可以含 -inf。

    Returns:
        p(y=k|x)，每行的和为 1（无量纲）。

    Raises:
        ValueError: log_joint 不是 (B, K) 的实浮点张量，含 NaN 或 +inf，或某一行全是 -inf：
            这张图在模型里不可能出现，后验没有定义。

    出处:
        由贝叶斯公式。

    示例:
        >>> class_posterior(torch.tensor([[-1001.0, -1000.0]]))
        tensor([[0.2689, 0.7311]])
    """
    require_floats("log_joint", log_joint, "B", "K")
    if not (log_joint < math.inf).all():
        raise ValueError("log_joint 的元素必须小于 inf，得到 NaN 或 inf")
    log_marginal = log_sum_exp(log_joint)
    if (log_marginal == -math.inf).any():
        raise ValueError("log_joint 有一行全是 -inf，后验没有定义：参数需要平滑")
    return (log_joint - log_marginal[:, None]).exp()


def naive_bayes_log_marginal(
    x: Float[Tensor, "B n"], theta: Float[Tensor, "K n"], prior: Float[Tensor, " K"]
) -> Float[Tensor, " B"]:
    r"""朴素贝叶斯里图像的对数边缘概率：K 个独立像素模型的混合。

    Args:
        x: B 张二值图像。
        theta: 各类各像素取 1 的概率。
        prior: 各类的先验。

    Returns:
        log p(x)（nat）。

    Raises:
        ValueError: x、theta 或 prior 不合要求，条件同 naive_bayes_log_joint。

    出处:
        由全概率公式。

    示例:
        >>> theta, prior = torch.tensor([[0.75, 0.5], [0.25, 0.5]]), torch.tensor([0.5, 0.5])
        >>> naive_bayes_log_marginal(torch.tensor([[1.0, 0.0]]), theta, prior).exp()
        tensor([0.2500])
    """
    return log_sum_exp(naive_bayes_log_joint(x, theta, prior))


def repeated_product(
    factor: float, count: int, dtype: torch.dtype = torch.float32
) -> Float[Tensor, ""]:
    r"""在给定的浮点类型里把同一个概率连乘若干次，用来看何时下溢。

    Args:
        factor: 被连乘的概率（无量纲）。
        count: 因子的个数（个）。
        dtype: 浮点类型。

    Returns:
        连乘的结果；小于这个类型最小的正数时是 0。

    Raises:
        ValueError: factor 不在 [0, 1] 里，count 不是正整数，或 dtype 不是浮点类型。

    约定:
        保留次正规数（PyTorch 的默认设置）：float32 到 2^-149，float64 到 2^-1074。

    出处:
        IEEE 754-2019。

    示例:
        >>> repeated_product(0.5, 784), repeated_product(0.5, 784, torch.float64) > 0
        (tensor(0.), tensor(True))
    """
    if not 0 <= factor <= 1:
        raise ValueError(f"factor 必须在 [0, 1] 里，得到 {factor!r}")
    require_count("count", count)
    if not dtype.is_floating_point:
        raise ValueError(f"dtype 必须是浮点类型，得到 {dtype}")
    return torch.full((count,), factor, dtype=dtype).prod()
