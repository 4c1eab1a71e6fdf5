"""缺失像素的穷举写法：列出所有补全，用来看清求和消去、加权平均与缺失机制。

约定:
    一次只看一个样本；未观测的像素至多十几个，补全共 2^|U| 种。
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from formulary.checks import require_binary, require_floats, require_probabilities
from formulary.mnist_joint.missing import observed_log_joint, require_observed
from formulary.mnist_joint.naive_bayes import naive_bayes_log_joint

LARGEST_HOLE = 16  # 再多就要列出十万个以上的补全


def all_completions(x: Float[Tensor, " n"], observed: Bool[Tensor, " n"]) -> Float[Tensor, "N n"]:
    r"""一个样本的所有补全：观测到的像素不动，未观测的像素取遍 0 与 1。

    Args:
        x: 一个二值样本。
        observed: 观测到的像素为 True。

    Returns:
        2^|U| 行，每行一种补全；行号的二进制写法就是未观测像素的取值，高位在前。

    Raises:
        ValueError: x 不是一维的二值张量；observed 不是同长的布尔张量；未观测的像素多于 16 个。

    出处:
        定义。

    示例:
        >>> all_completions(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([True, False, False]))
        tensor([[1., 0., 0.],
                [1., 0., 1.],
                [1., 1., 0.],
                [1., 1., 1.]])
    """
    require_floats("x", x, "n")
    require_binary("x", x)
    require_observed(observed, len(x))
    hole = (~observed).nonzero().flatten()
    if len(hole) > LARGEST_HOLE:
        raise ValueError(f"observed 至多缺 {LARGEST_HOLE} 个像素，得到 {len(hole)} 个")
    powers = 2 ** torch.arange(len(hole)).flip(0)
    bits = torch.arange(2 ** len(hole))[:, None] // powers % 2  # (2^|U|, |U|)
    completed = x.repeat(len(bits), 1)
    completed[:, hole] = bits.to(x.dtype)
    return completed


def marginalisation_lines(
    x: Float[Tensor, " n"],
    observed: Bool[Tensor, " n"],
    theta: Float[Tensor, "K n"],
    prior: Float[Tensor, " K"],
) -> tuple[Float[Tensor, " K"], Float[Tensor, " K"], Float[Tensor, " K"]]:
    r"""求和消去未观测像素的三行推导，每行各算一遍，三者相等。

    Args:
        x: 一个二值样本；未观测处的值不起作用。
        observed: 观测到的像素为 True。
        theta: θ_ki = p(x_i = 1 | y = k)。
        prior: 类别先验 π。

    Returns:
        对所有补全求和；求和号移进乘积，每个未观测像素一个因子 (1 − θ) + θ；
        只剩观测到的因子。都是 p(x_O, y = k)。

    Raises:
        ValueError: 条件同 observed_log_joint 与 all_completions。

    出处:
        分配律。

    示例:
        >>> x, seen = torch.tensor([1.0, 1.0]), torch.tensor([True, False])
        >>> theta, prior = torch.tensor([[0.5, 0.1], [0.25, 0.9]]), torch.tensor([0.5, 0.5])
        >>> marginalisation_lines(x, seen, theta, prior)[0]
        tensor([0.2500, 0.1250])
    """
    completed = all_completions(x, observed)
    summed = naive_bayes_log_joint(completed, theta, prior).exp().sum(dim=0)
    likelihood = torch.where(x > 0, theta, 1 - theta)  # (K, n)
    factors = torch.where(observed, likelihood, (1 - theta) + theta)
    short = observed_log_joint(x[None], observed[None], theta, prior)[0].exp()
    return summed, prior * factors.prod(dim=-1), short


def average_over_completions(
    x: Float[Tensor, " n"],
    observed: Bool[Tensor, " n"],
    theta: Float[Tensor, "K n"],
    prior: Float[Tensor, " K"],
) -> Float[Tensor, " K"]:
    r"""对每种补全各算一次后验，再以补全的条件概率 p(x_U | x_O) 加权平均。

    Args:
        x: 一个二值样本；未观测处的值不起作用。
        observed: 观测到的像素为 True。
        theta: θ_ki = p(x_i = 1 | y = k)。
        prior: 类别先验 π。

    Returns:
        类别后验，等于 posterior_given_observed 的一行。

    Raises:
        ValueError: 条件同 all_completions 与 naive_bayes_log_joint。

    约定:
        权重与 p(x_O, x_U) 成正比；换成均匀权重就不再是 p(y | x_O)。

    出处:
        全概率公式。

    示例:
        >>> x, seen = torch.tensor([1.0, 1.0]), torch.tensor([True, False])
        >>> theta, prior = torch.tensor([[0.5, 0.1], [0.25, 0.9]]), torch.tensor([0.5, 0.5])
        >>> average_over_completions(x, seen, theta, prior)
        tensor([0.6667, 0.3333])
    """
    log_joint = naive_bayes_log_joint(all_completions(x, observed), theta, prior)  # (N, K)
    weights = log_joint.logsumexp(dim=-1).softmax(dim=0)  # p(x_U | x_O)
    return weights @ log_joint.softmax(dim=-1)


def posterior_with_mechanism(
    x: Float[Tensor, "B n"],
    observed: Bool[Tensor, "B n"],
    theta: Float[Tensor, "K n"],
    prior: Float[Tensor, " K"],
    observe_rates: Float[Tensor, "2"],
) -> Float[Tensor, "B K"]:
    r"""像素是否缺失取决于它自己的值时，同时看到 x_O 与缺失的位置之后的类别后验。

    Args:
        x: 二值样本；未观测处的值不起作用。
        observed: 观测到的像素为 True。
        theta: θ_ki = p(x_i = 1 | y = k)。
        prior: 类别先验 π。
        observe_rates: 值为 0、值为 1 的像素被观测到的概率 (ρ_0, ρ_1)。

    Returns:
        p(y | x_O, 缺失的位置)。ρ_0 = ρ_1 时等于 posterior_given_observed；
        ρ_0 = 0、ρ_1 = 1 时“缺失”就是“灭”，等于填零的后验。

    Raises:
        ValueError: 条件同 observed_log_joint；observe_rates 不是两个概率；
            看到的值在这种机制下不可能被看到；或在每一类里都不可能缺这些像素。

    约定:
        给定像素的值，各像素独立地缺失，与类别无关。观测到的像素的因子 ρ 不随类别而变，约去了。

    出处:
        Rubin 1976, “Inference and Missing Data”, Biometrika 63(3).

    示例:
        >>> x, theta = torch.ones(1, 2), torch.tensor([[0.5, 0.1], [0.25, 0.9]])
        >>> seen, rates = torch.tensor([[True, False]]), torch.tensor([0.0, 1.0])
        >>> posterior_with_mechanism(x, seen, theta, torch.tensor([0.5, 0.5]), rates)
        tensor([[0.9474, 0.0526]])
    """
    require_floats("observe_rates", observe_rates, 2)
    require_probabilities("observe_rates", observe_rates)
    log_joint = observed_log_joint(x, observed, theta, prior)
    if (observed & (torch.where(x > 0, observe_rates[1], observe_rates[0]) == 0)).any():
        raise ValueError("observe_rates 说这种值从不被看到，observed 里却看到了")
    off, on = 1 - observe_rates
    hidden = theta * on + (1 - theta) * off  # p(像素缺失 | y = k)，(K, n)
    log_joint = log_joint + torch.where(observed[:, None], 1.0, hidden).log().sum(dim=-1)
    if log_joint.isneginf().all(dim=-1).any():
        raise ValueError("x 与 observed 里有一行，按 observe_rates 在每一类里概率都是 0")
    return log_joint.softmax(dim=-1)
