"""计数估计从哪里来：只凭计数写出的对数似然，与它的导数。

约定:
    on_counts[k, i] 是第 k 类里第 i 个像素取 1 的张数，class_counts[k] 是第 k 类的张数，
    都由 naive_bayes.count_pixels 给出；对数是自然对数（nat），对样本求和，不取平均。
"""

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_distribution, require_floats, require_probabilities


def require_counts(on_counts: Tensor, class_counts: Tensor) -> None:
    """要求两组计数形状相配，且 0 ≤ on_counts ≤ class_counts。"""
    require_floats("on_counts", on_counts, "K", "n")
    require_floats("class_counts", class_counts, len(on_counts))
    if ((on_counts < 0) | (on_counts > class_counts[:, None])).any():
        raise ValueError("on_counts 必须在 0 与该类的张数之间，得到超出范围的计数")


def count_log_likelihood(
    theta: Float[Tensor, "K n"],
    prior: Float[Tensor, " K"],
    on_counts: Float[Tensor, "K n"],
    class_counts: Float[Tensor, " K"],
) -> Float[Tensor, ""]:
    r"""只凭计数写出的朴素贝叶斯对数似然。

    Args:
        theta: 各类各像素取 1 的概率。
        prior: 各类的先验。
        on_counts: 各类各像素取 1 的张数（张）。
        class_counts: 各类的张数（张）。

    Returns:
        全体样本的 log p(x, y) 之和（nat）。

    Raises:
        ValueError: theta 不是概率，prior 不是分布，计数越界，或形状不配。

    约定:
        0·log 0 取 0。

    出处:
        Murphy 2022, Probabilistic Machine Learning: An Introduction, 9.3 节。

    示例:
        >>> theta, prior = torch.tensor([[0.5]]), torch.tensor([1.0])
        >>> count_log_likelihood(theta, prior, torch.tensor([[1.0]]), torch.tensor([3.0]))
        tensor(-2.0794)
    """
    require_counts(on_counts, class_counts)
    require_floats("theta", theta, *on_counts.shape)
    require_probabilities("theta", theta)
    require_floats("prior", prior, len(class_counts))
    require_distribution("prior", prior)
    off_counts = class_counts[:, None] - on_counts
    pixels = torch.xlogy(on_counts, theta) + torch.xlogy(off_counts, 1 - theta)  # (K, n)
    return torch.xlogy(class_counts, prior).sum() + pixels.sum()


def pixel_likelihood_gradient(
    theta: Float[Tensor, "K n"],
    on_counts: Float[Tensor, "K n"],
    class_counts: Float[Tensor, " K"],
) -> Float[Tensor, "K n"]:
    r"""对数似然对各像素概率的导数，在 theta = on_counts / class_counts 处为 0。

    Args:
        theta: 各类各像素取 1 的概率，严格在 0 与 1 之间。
        on_counts: 各类各像素取 1 的张数（张）。
        class_counts: 各类的张数（张）。

    Returns:
        每个 theta[k, i] 一个导数（nat）。

    Raises:
        ValueError: theta 不在 0 与 1 之间，计数越界，或形状不配。

    出处:
        由 count_log_likelihood 求导。

    示例:
        >>> on, total = torch.tensor([[1.0, 3.0]]), torch.tensor([4.0])
        >>> pixel_likelihood_gradient(torch.tensor([[0.25, 0.5]]), on, total)
        tensor([[0., 4.]])
    """
    require_counts(on_counts, class_counts)
    require_floats("theta", theta, *on_counts.shape)
    if not ((theta > 0) & (theta < 1)).all():
        raise ValueError("theta 必须严格在 0 与 1 之间，端点处的导数没有定义")
    off_counts = class_counts[:, None] - on_counts
    return on_counts / theta - off_counts / (1 - theta)


def prior_lagrangian_gradient(
    prior: Float[Tensor, " K"], multiplier: float, class_counts: Float[Tensor, " K"]
) -> Float[Tensor, " K"]:
    r"""带约束的先验估计：拉格朗日函数对各类先验的导数。

    拉格朗日函数是 Σ_k N_k log π_k + λ(1 − Σ_k π_k)，导数是 N_k/π_k − λ。

    Args:
        prior: 各类的先验，全为正，不必归一化。
        multiplier: 乘子 λ；最大似然解处等于样本总数。
        class_counts: 各类的张数（张）。

    Returns:
        每类一个导数（nat）。

    Raises:
        ValueError: prior 有非正的元素，class_counts 有负的元素，或形状不配。

    出处:
        由约束极值的一阶条件。

    示例:
        >>> prior_lagrangian_gradient(torch.tensor([0.25, 0.75]), 4.0, torch.tensor([1.0, 3.0]))
        tensor([0., 0.])
    """
    require_floats("prior", prior, "K")
    require_floats("class_counts", class_counts, len(prior))
    if not (prior > 0).all():
        raise ValueError("prior 的元素必须为正，得到非正的元素")
    if not (class_counts >= 0).all():
        raise ValueError("class_counts 的元素必须非负，得到负的元素")
    return class_counts / prior - multiplier
