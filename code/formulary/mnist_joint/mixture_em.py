"""标签缺失时的 EM 算法：伯努利混合模型，全无标签与部分有标签两种情形。

约定:
    responsibilities[j, k] 是样本 j 属于类别 k 的权重，每行之和为 1；
    有标签的样本，权重就是标签的独热编码。
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_binary, require_distribution, require_floats
from formulary.mnist_joint.naive_bayes import naive_bayes_log_joint


def responsibilities(
    x: Float[Tensor, "N n"], theta: Float[Tensor, "K n"], prior: Float[Tensor, " K"]
) -> Float[Tensor, "N K"]:
    r"""E 步：每个样本属于各类别的后验概率。

    Args:
        x: 二值样本，一行一个。
        theta: θ_ki = p(x_i = 1 | y = k)。
        prior: 类别先验 π。

    Returns:
        每行一个分布。

    Raises:
        ValueError: 条件同 naive_bayes_log_joint；有样本在每一类里概率都是 0。

    出处:
        Dempster, Laird & Rubin 1977.

    示例:
        >>> theta, prior = torch.tensor([[0.75], [0.25]]), torch.tensor([0.5, 0.5])
        >>> responsibilities(torch.ones(1, 1), theta, prior)
        tensor([[0.7500, 0.2500]])
    """
    log_joint = naive_bayes_log_joint(x, theta, prior)
    if log_joint.isneginf().all(dim=-1).any():
        raise ValueError("x 里有样本在每一类里概率都是 0，后验没有定义")
    return log_joint.softmax(dim=-1)


def weighted_counts(
    x: Float[Tensor, "N n"], weights: Float[Tensor, "N K"], smoothing: float = 1.0
) -> tuple[Float[Tensor, "K n"], Float[Tensor, " K"]]:
    r"""M 步：用带权的计数求参数；权重是独热编码时就是 fit_counts。

    Args:
        x: 二值样本，一行一个。
        weights: 各样本属于各类别的权重，每行一个分布。
        smoothing: 平滑量 α（无量纲），不小于 0；对应的先验是 Beta(α + 1, α + 1)。

    Returns:
        theta 与 prior。

    Raises:
        ValueError: x 不是二值的矩阵；weights 的行不是分布或行数不合；smoothing 不是有限的
            非负数；smoothing 为 0 而某类的权重全是 0。

    出处:
        Dempster, Laird & Rubin 1977.

    示例:
        >>> x, weights = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.5, 0.5], [1.0, 0.0]])
        >>> weighted_counts(x, weights, smoothing=0.5)
        (tensor([[0.4000],
                [0.6667]]), tensor([0.7500, 0.2500]))
    """
    require_floats("x", x, "N", "n")
    require_binary("x", x)
    require_floats("weights", weights, len(x), "K")
    require_distribution("weights", weights)
    if not (math.isfinite(smoothing) and smoothing >= 0):
        raise ValueError(f"smoothing 必须是有限的非负数，得到 {smoothing}")
    totals = weights.sum(dim=0)  # (K,)
    if smoothing == 0 and (totals == 0).any():
        raise ValueError(
            f"weights 的第 {int(totals.argmin())} 列全是 0：smoothing 必须为正，得到 0"
        )
    theta = (weights.T @ x + smoothing) / (totals + 2 * smoothing)[:, None]
    return theta, totals / len(x)


def penalised_log_likelihood(
    x: Float[Tensor, "N n"],
    theta: Float[Tensor, "K n"],
    prior: Float[Tensor, " K"],
    smoothing: float = 1.0,
) -> Float[Tensor, ""]:
    r"""EM 的目标：图像的对数似然，加上 Beta(α + 1, α + 1) 先验的对数密度（略去常数）。

    Args:
        x: 二值样本，一行一个。
        theta: θ_ki = p(x_i = 1 | y = k)。
        prior: 类别先验 π。
        smoothing: 平滑量 α（无量纲），不小于 0。

    Returns:
        Σ_j log p(x_j) + α Σ_ki [log θ_ki + log(1 − θ_ki)]（nat，求和而非平均）。

    Raises:
        ValueError: 条件同 naive_bayes_log_joint；smoothing 不是有限的非负数。

    出处:
        Dempster, Laird & Rubin 1977, 第 1 节关于先验的说明。

    示例:
        >>> theta, prior = torch.tensor([[0.75], [0.25]]), torch.tensor([0.5, 0.5])
        >>> penalised_log_likelihood(torch.ones(1, 1), theta, prior, smoothing=0.0)
        tensor(-0.6931)
    """
    if not (math.isfinite(smoothing) and smoothing >= 0):
        raise ValueError(f"smoothing 必须是有限的非负数，得到 {smoothing}")
    evidence = naive_bayes_log_joint(x, theta, prior).logsumexp(dim=-1).sum()
    strength = torch.as_tensor(smoothing, dtype=theta.dtype)
    return evidence + torch.xlogy(strength, theta * (1 - theta)).sum()


def em_step(
    x: Float[Tensor, "N n"],
    theta: Float[Tensor, "K n"],
    prior: Float[Tensor, " K"],
    smoothing: float = 1.0,
) -> tuple[Float[Tensor, "K n"], Float[Tensor, " K"], Float[Tensor, ""]]:
    r"""一步 EM：先求后验权重，再用带权的计数更新参数。

    Args:
        x: 二值样本，一行一个；没有标签。
        theta: 当前的 θ_ki。
        prior: 当前的 π。
        smoothing: 平滑量 α（无量纲），不小于 0。

    Returns:
        新的 theta、新的 prior，以及更新之前的 penalised_log_likelihood（nat）。

    Raises:
        ValueError: 条件同 responsibilities 与 weighted_counts。

    约定:
        各类的参数与先验都相同的起点，更新之后仍然相同，所以初值要随机地错开。
        只平滑 theta，不平滑 prior。

    出处:
        Dempster, Laird & Rubin 1977.

    示例:
        >>> theta, prior = torch.tensor([[0.75], [0.25]]), torch.tensor([0.5, 0.5])
        >>> em_step(torch.tensor([[1.0], [0.0]]), theta, prior)[0]
        tensor([[0.5833],
                [0.4167]])
    """
    objective = penalised_log_likelihood(x, theta, prior, smoothing)
    new_theta, new_prior = weighted_counts(x, responsibilities(x, theta, prior), smoothing)
    return new_theta, new_prior, objective


def semi_supervised_step(
    labelled: tuple[Float[Tensor, "B n"], Float[Tensor, "B K"]],
    unlabelled: Float[Tensor, "N n"],
    theta: Float[Tensor, "K n"],
    prior: Float[Tensor, " K"],
    smoothing: float = 1.0,
) -> tuple[Float[Tensor, "K n"], Float[Tensor, " K"]]:
    r"""部分样本有标签时的一步 EM：有标签的权重固定为独热编码，其余的用后验。

    Args:
        labelled: 有标签的图像，与标签的独热编码。
        unlabelled: 没有标签的图像。
        theta: 当前的 θ_ki。
        prior: 当前的 π。
        smoothing: 平滑量 α（无量纲），不小于 0。

    Returns:
        新的 theta 与新的 prior。

    Raises:
        ValueError: 条件同 responsibilities 与 weighted_counts。

    约定:
        prior 为 0 的类，没有标签的图永远不会归入，所以起点的 prior 要全为正。

    出处:
        Nigam et al. 2000, Machine Learning 39.

    示例:
        >>> labelled = torch.tensor([[1.0]]), torch.tensor([[1.0, 0.0]])
        >>> theta, prior = torch.tensor([[0.75], [0.25]]), torch.tensor([0.5, 0.5])
        >>> semi_supervised_step(labelled, torch.tensor([[0.0]]), theta, prior)
        (tensor([[0.6154],
                [0.3636]]), tensor([0.6250, 0.3750]))
    """
    images, one_hot = labelled
    weights = torch.cat((one_hot, responsibilities(unlabelled, theta, prior)))
    return weighted_counts(torch.cat((images, unlabelled)), weights, smoothing)


def evidence_lines(
    x: Float[Tensor, "N n"],
    theta: Float[Tensor, "K n"],
    prior: Float[Tensor, " K"],
    weights: Float[Tensor, "N K"],
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""对数似然拆成下界与 KL 散度：任意权重 r 都成立的恒等式的三项。

    Args:
        x: 二值样本，一行一个。
        theta: θ_ki = p(x_i = 1 | y = k)。
        prior: 类别先验 π。
        weights: 任意的权重 r，每行一个分布。

    Returns:
        log p(x)；下界 Σ_k r_k log(p(x, k) / r_k)；r 到后验的 KL 散度（nat）。
        第一项等于后两项之和。

    Raises:
        ValueError: 条件同 naive_bayes_log_joint；weights 的行不是分布或形状不合。

    出处:
        Neal & Hinton 1998, A View of the EM Algorithm.

    示例:
        >>> theta, prior = torch.tensor([[0.75], [0.25]]), torch.tensor([0.5, 0.5])
        >>> evidence_lines(torch.ones(1, 1), theta, prior, torch.tensor([[0.5, 0.5]]))
        (tensor([-0.6931]), tensor([-0.8370]), tensor([0.1438]))
    """
    require_floats("weights", weights, len(x), len(theta))
    require_distribution("weights", weights)
    log_joint = naive_bayes_log_joint(x, theta, prior)
    evidence = log_joint.logsumexp(dim=-1)
    negentropy = torch.xlogy(weights, weights).sum(dim=-1)
    bound = torch.where(weights > 0, weights * log_joint, 0.0).sum(dim=-1) - negentropy
    posterior = log_joint.log_softmax(dim=-1)
    gap = negentropy - torch.where(weights > 0, weights * posterior, 0.0).sum(dim=-1)
    return evidence, bound, gap


def em_ascent_lines(
    x: Float[Tensor, "N n"],
    theta: Float[Tensor, "K n"],
    prior: Float[Tensor, " K"],
    smoothing: float = 1.0,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    r"""一步 EM 为什么不会让目标下降：三个数，从大到小。

    Args:
        x: 二值样本，一行一个；没有标签。
        theta: 当前的 θ_ki。
        prior: 当前的 π。
        smoothing: 平滑量 α（无量纲），不小于 0。

    Returns:
        更新之后的目标；沿用更新之前的后验作权重、代入新参数的下界；更新之前的目标（nat）。
        下界里已加上同样的先验项。

    Raises:
        ValueError: 条件同 em_step。

    出处:
        Neal & Hinton 1998, A View of the EM Algorithm.

    示例:
        >>> theta, prior = torch.tensor([[0.9], [0.2]]), torch.tensor([0.5, 0.5])
        >>> lines = em_ascent_lines(torch.tensor([[1.0], [1.0], [0.0]]), theta, prior)
        >>> [round(line.item(), 3) for line in lines]
        [-4.932, -5.231, -6.235]
    """
    weights = responsibilities(x, theta, prior)
    new_theta, new_prior, before = em_step(x, theta, prior, smoothing)
    after = penalised_log_likelihood(x, new_theta, new_prior, smoothing)
    evidence, bound, _ = evidence_lines(x, new_theta, new_prior, weights)
    return after, after - (evidence - bound).sum(), before
