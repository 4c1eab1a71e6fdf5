"""朴素贝叶斯：由计数得到参数，由参数得到图像与标签的联合概率。

约定:
    x 是二值图像，一行一张；y 是类别，从 0 起；theta[k, i] 是第 k 类里第 i 个像素取 1 的
    概率，prior[k] 是第 k 类的先验。对数是自然对数（nat）。
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from formulary.checks import (
    require_binary,
    require_count,
    require_distribution,
    require_floats,
    require_indices,
    require_probabilities,
)


def require_naive_bayes(x: Tensor, theta: Tensor, prior: Tensor) -> None:
    """要求 x 是二值图像，theta 是概率，prior 是分布，三者形状相配。"""
    require_floats("theta", theta, "K", "n")
    require_probabilities("theta", theta)
    require_floats("prior", prior, len(theta))
    require_distribution("prior", prior)
    require_floats("x", x, "B", theta.shape[1])
    require_binary("x", x)


def count_pixels(
    x: Float[Tensor, "N n"], y: Int[Tensor, " N"], classes: int
) -> tuple[Float[Tensor, "K n"], Float[Tensor, " K"]]:
    r"""数数：每类有几张图，每类里每个像素亮了几次。

    Args:
        x: N 张二值图像。
        y: N 个标签，从 0 起。
        classes: 类别数 K。

    Returns:
        on_counts[k, i]，第 k 类里第 i 个像素取 1 的张数；class_counts[k]，第 k 类的张数。

    Raises:
        ValueError: x 不是二值的 (N, n) 实浮点张量或 N 为 0；y 不是 [0, classes) 里的 N 个整数。

    约定:
        计数存成 x 的 dtype；float32 的整数到 2^24 为止是准确的。

    出处:
        Murphy 2022, Probabilistic Machine Learning: An Introduction, 9.3 节。

    示例:
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        >>> count_pixels(x, torch.tensor([0, 0, 1]), classes=2)
        (tensor([[2., 1.],
                [0., 1.]]), tensor([2., 1.]))
    """
    require_count("classes", classes)
    require_floats("x", x, "N", "n")
    require_count("x 的行数 N", len(x))
    require_binary("x", x)
    require_indices("y", y, classes, len(x))
    members = torch.zeros(len(x), classes, dtype=x.dtype, device=x.device)
    members[torch.arange(len(x)), y.long()] = 1.0  # (N, K)，每行一个 1
    return members.T @ x, members.sum(dim=0)


def fit_counts(
    x: Float[Tensor, "N n"], y: Int[Tensor, " N"], classes: int, smoothing: float = 1.0
) -> tuple[Float[Tensor, "K n"], Float[Tensor, " K"]]:
    r"""由计数求朴素贝叶斯的参数；smoothing 为 0 时就是最大似然估计。

    Args:
        x: N 张二值图像。
        y: N 个标签，从 0 起。
        classes: 类别数 K。
        smoothing: 平滑量 α（张），给“亮”与“灭”各添几次虚拟的观测。

    Returns:
        theta 与 prior。

    Raises:
        ValueError: x、y 或 classes 不合要求，条件同 count_pixels；smoothing 不是有限的非负数；
            smoothing 为 0 而某类没有样本，这时 theta 是 0/0。

    约定:
        只平滑 theta，不平滑 prior，与 scikit-learn 的 BernoulliNB 一致；没有样本的类，先验为 0。

    出处:
        Murphy 2022, Probabilistic Machine Learning: An Introduction, 9.3 节。

    示例:
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        >>> theta, prior = fit_counts(x, torch.tensor([0, 0, 1]), classes=2)
        >>> theta
        tensor([[0.7500, 0.5000],
                [0.3333, 0.6667]])
    """
    if not (math.isfinite(smoothing) and smoothing >= 0):
        raise ValueError(f"smoothing 必须是有限的非负数，得到 {smoothing!r}")
    on_counts, class_counts = count_pixels(x, y, classes)
    if smoothing == 0 and (class_counts == 0).any():
        empty = int(class_counts.argmin())
        raise ValueError(f"y 里没有第 {empty} 类，theta 是 0/0：smoothing 必须为正，得到 0")
    theta = (on_counts + smoothing) / (class_counts + 2 * smoothing)[:, None]
    return theta, class_counts / len(x)


def naive_bayes_joint(
    x: Float[Tensor, "B n"], theta: Float[Tensor, "K n"], prior: Float[Tensor, " K"]
) -> Float[Tensor, "B K"]:
    r"""照定义连乘的联合概率 p(x, y=k)；像素一多就下溢，只供对照。

    Args:
        x: B 张二值图像。
        theta: 各类各像素取 1 的概率。
        prior: 各类的先验。

    Returns:
        p(x, y=k)，每行一张图，每列一类（无量纲）。

    Raises:
        ValueError: x 不是二值图像，theta 不是概率，prior 不是分布，或三者形状不配。

    出处:
        McCallum & Nigam 1998, A Comparison of Event Models for Naive Bayes Text Classification。

    示例:
        >>> theta, prior = torch.tensor([[0.75, 0.5], [0.25, 0.5]]), torch.tensor([0.5, 0.5])
        >>> naive_bayes_joint(torch.tensor([[1.0, 0.0]]), theta, prior)
        tensor([[0.1875, 0.0625]])
    """
    require_naive_bayes(x, theta, prior)
    pixels = torch.where(x[:, None, :] == 1, theta, 1 - theta)  # (B, K, n)
    return prior * pixels.prod(dim=-1)


def naive_bayes_log_joint(
    x: Float[Tensor, "B n"], theta: Float[Tensor, "K n"], prior: Float[Tensor, " K"]
) -> Float[Tensor, "B K"]:
    r"""朴素贝叶斯的对数联合概率 log p(x, y=k)。

    Args:
        x: B 张二值图像。
        theta: 各类各像素取 1 的概率，可以是 0 或 1。
        prior: 各类的先验，可以是 0。

    Returns:
        log p(x, y=k)，每行一张图，每列一类（nat）；不可能的组合是 -inf。

    Raises:
        ValueError: x 不是二值图像，theta 不是概率，prior 不是分布，或三者形状不配。

    约定:
        0·log 0 取 0。中间结果有 B·K·n 个数，批量大时用 naive_bayes_log_joint_fast。

    出处:
        McCallum & Nigam 1998, A Comparison of Event Models for Naive Bayes Text Classification。

    示例:
        >>> theta, prior = torch.tensor([[0.75, 0.5], [0.25, 0.5]]), torch.tensor([0.5, 0.5])
        >>> naive_bayes_log_joint(torch.tensor([[1.0, 0.0]]), theta, prior)
        tensor([[-1.6740, -2.7726]])
    """
    require_naive_bayes(x, theta, prior)
    on = x[:, None, :]  # (B, 1, n)
    pixels = torch.xlogy(on, theta) + torch.xlogy(1 - on, 1 - theta)  # (B, K, n)
    return prior.log() + pixels.sum(dim=-1)


def naive_bayes_log_joint_fast(
    x: Float[Tensor, "B n"], theta: Float[Tensor, "K n"], prior: Float[Tensor, " K"]
) -> Float[Tensor, "B K"]:
    r"""对数联合概率的快写法：两次矩阵乘法，不造 (B, K, n) 的中间结果。

    Args:
        x: B 张二值图像。
        theta: 各类各像素取 1 的概率，严格在 0 与 1 之间。
        prior: 各类的先验，可以是 0。

    Returns:
        log p(x, y=k)，与 naive_bayes_log_joint 相同（末位舍入除外，nat）。

    Raises:
        ValueError: x、theta 或 prior 不合要求，条件同 naive_bayes_log_joint；或 theta 含 0 或 1，
            矩阵乘法里的 0·(-inf) 会是 NaN。

    出处:
        scikit-learn 1.9, `BernoulliNB._joint_log_likelihood` 的同一做法。

    示例:
        >>> theta, prior = torch.tensor([[0.75, 0.5], [0.25, 0.5]]), torch.tensor([0.5, 0.5])
        >>> naive_bayes_log_joint_fast(torch.tensor([[1.0, 0.0]]), theta, prior)
        tensor([[-1.6740, -2.7726]])
    """
    require_naive_bayes(x, theta, prior)
    if ((theta == 0) | (theta == 1)).any():
        raise ValueError("theta 必须严格在 0 与 1 之间（可加平滑），得到 0 或 1")
    return prior.log() + x @ theta.log().T + (1 - x) @ torch.log1p(-theta).T  # (B, K)
