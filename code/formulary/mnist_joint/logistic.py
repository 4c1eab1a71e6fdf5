"""朴素贝叶斯与 softmax 回归：同一族条件分布，两种参数。

约定:
    weight[k] 与 bias[k] 是第 k 类的线性打分，p(y=k|x) 是打分的 softmax；损失对样本取平均（nat）。
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from formulary.checks import (
    require_distribution,
    require_floats,
    require_indices,
    require_probabilities,
)
from formulary.mnist_joint.inference import class_posterior, log_sum_exp
from formulary.mnist_joint.naive_bayes import naive_bayes_log_joint


def naive_bayes_to_linear(
    theta: Float[Tensor, "K n"], prior: Float[Tensor, " K"]
) -> tuple[Float[Tensor, "K n"], Float[Tensor, " K"]]:
    r"""把朴素贝叶斯的参数写成线性打分的权重与偏置。

    Args:
        theta: 各类各像素取 1 的概率，严格在 0 与 1 之间。
        prior: 各类的先验，全为正。

    Returns:
        weight 是像素的对数几率，bias 收拢其余各项；weight[k]·x + bias[k] = log p(x, y=k)（nat）。

    Raises:
        ValueError: theta 含 0 或 1，prior 含 0 或不是分布，或形状不配。

    出处:
        Ng & Jordan 2001, On Discriminative vs. Generative Classifiers。

    示例:
        >>> theta, prior = torch.tensor([[0.75, 0.5], [0.25, 0.5]]), torch.tensor([0.5, 0.5])
        >>> naive_bayes_to_linear(theta, prior)[0]
        tensor([[ 1.0986,  0.0000],
                [-1.0986,  0.0000]])
    """
    require_floats("theta", theta, "K", "n")
    require_probabilities("theta", theta)
    require_floats("prior", prior, len(theta))
    require_distribution("prior", prior)
    if not ((theta > 0) & (theta < 1)).all() or not (prior > 0).all():
        raise ValueError("theta 必须严格在 0 与 1 之间，prior 必须为正，否则对数几率无穷")
    log_off = torch.log1p(-theta)  # (K, n)
    return theta.log() - log_off, prior.log() + log_off.sum(dim=-1)


def log_joint_rearranged(
    x: Float[Tensor, "B n"], theta: Float[Tensor, "K n"], prior: Float[Tensor, " K"]
) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K"], Float[Tensor, "B K"]]:
    r"""对数联合概率化成线性打分的推导，每行一个值。

    Args:
        x: B 张二值图像。
        theta: 各类各像素取 1 的概率，严格在 0 与 1 之间。
        prior: 各类的先验，全为正。

    Returns:
        推导的三行：定义、按 x_i 收拢、写成内积（nat），彼此相等。

    Raises:
        ValueError: 条件同 naive_bayes_log_joint 与 naive_bayes_to_linear。

    出处:
        由定义移项。

    示例:
        >>> theta, prior = torch.tensor([[0.75], [0.25]]), torch.tensor([0.5, 0.5])
        >>> log_joint_rearranged(torch.tensor([[0.0]]), theta, prior)[2]
        tensor([[-2.0794, -0.9808]])
    """
    weight, bias = naive_bayes_to_linear(theta, prior)
    definition = naive_bayes_log_joint(x, theta, prior)
    odds = torch.log(theta / (1 - theta))  # (K, n)
    per_pixel = x[:, None, :] * odds + torch.log(1 - theta)  # (B, K, n)
    return definition, prior.log() + per_pixel.sum(dim=-1), x @ weight.T + bias


def binary_posterior(
    x: Float[Tensor, "B n"], weight: Float[Tensor, "2 n"], bias: Float[Tensor, "2"]
) -> Float[Tensor, " B"]:
    r"""两类时第 1 类的后验概率：打分之差的逻辑斯谛函数。

    Args:
        x: B 个输入。
        weight: 两类的权重。
        bias: 两类的偏置。

    Returns:
        p(y=1|x)（无量纲）。

    Raises:
        ValueError: 形状不配，或不是实浮点张量。

    约定:
        类别为 0 与 1，返回的是第 1 类。

    出处:
        由两类的 softmax 上下同除以第 1 类的指数。

    示例:
        >>> binary_posterior(torch.ones(1, 1), torch.tensor([[0.0], [1.0]]), torch.zeros(2))
        tensor([0.7311])
    """
    require_floats("weight", weight, 2, "n")
    require_floats("bias", bias, 2)
    require_floats("x", x, "B", weight.shape[1])
    return torch.sigmoid(x @ (weight[1] - weight[0]) + bias[1] - bias[0])


def linear_to_naive_bayes(
    weight: Float[Tensor, "K n"], bias: Float[Tensor, " K"]
) -> tuple[Float[Tensor, "K n"], Float[Tensor, " K"]]:
    r"""反过来：给任意一个 softmax 回归配一个后验与它相同的朴素贝叶斯。

    Args:
        weight: 各类的权重。
        bias: 各类的偏置。

    Returns:
        theta 与 prior；它们的 p(y|x) 在二值图像上等于 softmax 回归的输出。

    Raises:
        ValueError: weight 与 bias 不是形状相配的实浮点张量。

    约定:
        配法不唯一：各类的权重同加一个向量，p(y|x) 不变，得到的 theta 却不同。

    出处:
        由 naive_bayes_to_linear 反解，先验归一化。

    示例:
        >>> linear_to_naive_bayes(torch.zeros(2, 3), torch.zeros(2))[1]
        tensor([0.5000, 0.5000])
    """
    require_floats("weight", weight, "K", "n")
    require_floats("bias", bias, len(weight))
    log_prior = bias - F.logsigmoid(-weight).sum(dim=-1)  # log(1 − σ(w)) = logsigmoid(−w)
    return torch.sigmoid(weight), (log_prior - log_sum_exp(log_prior)).exp()


def softmax_nll(
    weight: Float[Tensor, "K n"],
    bias: Float[Tensor, " K"],
    x: Float[Tensor, "B n"],
    y: Int[Tensor, " B"],
) -> Float[Tensor, ""]:
    r"""多类逻辑斯谛回归（softmax 回归）的平均负对数似然。

    Args:
        weight: 各类的权重。
        bias: 各类的偏置。
        x: B 个输入，不必是二值的。
        y: B 个标签，从 0 起。

    Returns:
        −log p(y|x) 对样本的平均（nat）。

    Raises:
        ValueError: 形状不配，不是实浮点张量，或标签越界。

    出处:
        Murphy 2022, Probabilistic Machine Learning: An Introduction, 10.3 节。

    示例:
        >>> softmax_nll(torch.zeros(4, 2), torch.zeros(4), torch.ones(1, 2), torch.tensor([3]))
        tensor(1.3863)
    """
    require_floats("weight", weight, "K", "n")
    require_floats("bias", bias, len(weight))
    require_floats("x", x, "B", weight.shape[1])
    require_indices("y", y, len(weight), len(x))
    scores = x @ weight.T + bias  # (B, K)
    chosen = scores.gather(1, y.long()[:, None]).squeeze(1)
    return (log_sum_exp(scores) - chosen).mean()


def softmax_nll_gradient(
    weight: Float[Tensor, "K n"],
    bias: Float[Tensor, " K"],
    x: Float[Tensor, "B n"],
    y: Int[Tensor, " B"],
) -> tuple[Float[Tensor, "K n"], Float[Tensor, " K"]]:
    r"""softmax_nll 对权重与偏置的梯度：预测的概率减去标签的独热向量。

    Args:
        weight: 各类的权重。
        bias: 各类的偏置。
        x: B 个输入，不必是二值的。
        y: B 个标签，从 0 起。

    Returns:
        对 weight 与 bias 的梯度，形状与它们相同（nat）。

    Raises:
        ValueError: 条件同 softmax_nll。

    出处:
        由 log_sum_exp 的梯度是 softmax。

    示例:
        >>> x, y = torch.ones(1, 1), torch.tensor([1])
        >>> softmax_nll_gradient(torch.zeros(2, 1), torch.zeros(2), x, y)[1]
        tensor([ 0.5000, -0.5000])
    """
    require_floats("weight", weight, "K", "n")
    require_floats("bias", bias, len(weight))
    require_floats("x", x, "B", weight.shape[1])
    require_indices("y", y, len(weight), len(x))
    residual = class_posterior(x @ weight.T + bias)  # (B, K)
    residual[torch.arange(len(x)), y.long()] -= 1.0
    return residual.T @ x / len(x), residual.mean(dim=0)
