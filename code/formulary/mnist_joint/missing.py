"""缺失像素：把没观测到的变量求和消去，后验只剩观测到的因子。

约定:
    observed 为 True 处是观测到的像素；未观测处 x 的值不影响结果（仍须是 0 或 1）。
    模型都是伯努利朴素贝叶斯，theta[k, i] = p(x_i = 1 | y = k)，prior 是类别先验。
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from formulary.checks import require_floats, require_probabilities
from formulary.mnist_joint.naive_bayes import naive_bayes_log_joint, require_naive_bayes


def require_observed(observed: Tensor, *shape: int) -> None:
    """要求 observed 是给定形状的布尔张量。"""
    if not isinstance(observed, Tensor) or observed.dtype != torch.bool:
        kind = getattr(observed, "dtype", type(observed))
        raise ValueError(f"observed 必须是布尔张量，得到 {kind}")
    if observed.shape != shape:
        raise ValueError(f"observed 的形状必须是 {shape}，得到 {tuple(observed.shape)}")


def observed_log_joint(
    x: Float[Tensor, "B n"],
    observed: Bool[Tensor, "B n"],
    theta: Float[Tensor, "K n"],
    prior: Float[Tensor, " K"],
) -> Float[Tensor, "B K"]:
    r"""只用观测到的像素的对数联合概率 log p(x_O, y = k)。

    Args:
        x: 二值样本；未观测处的值不起作用。
        observed: 观测到的像素为 True，逐样本可以不同。
        theta: θ_ki = p(x_i = 1 | y = k)。
        prior: 类别先验 π。

    Returns:
        每个样本、每个类别的 log p(x_O, y = k)（nat）。

    Raises:
        ValueError: x 不是二值图像，theta 不是概率，prior 不是分布；observed 不是与 x
            同形状的布尔张量。

    约定:
        与 naive_bayes_log_joint 只差一步：未观测像素的那一项换成 log 1 = 0。

    出处:
        由全概率公式直接得到；McCallum & Nigam 1998 的伯努利事件模型。

    示例:
        >>> x, theta = torch.ones(1, 2), torch.tensor([[0.5, 0.1], [0.25, 0.9]])
        >>> seen = torch.tensor([[True, False]])
        >>> observed_log_joint(x, seen, theta, torch.tensor([0.5, 0.5])).exp()
        tensor([[0.2500, 0.1250]])
    """
    require_naive_bayes(x, theta, prior)
    require_observed(observed, *x.shape)
    on = x[:, None, :]  # (B, 1, n)
    pixels = torch.xlogy(on, theta) + torch.xlogy(1 - on, 1 - theta)  # (B, K, n)
    return prior.log() + torch.where(observed[:, None, :], pixels, 0.0).sum(dim=-1)


def posterior_given_observed(
    x: Float[Tensor, "B n"],
    observed: Bool[Tensor, "B n"],
    theta: Float[Tensor, "K n"],
    prior: Float[Tensor, " K"],
) -> Float[Tensor, "B K"]:
    r"""只看到一部分像素时的类别后验 p(y | x_O)，未观测的像素已精确地求和消去。

    Args:
        x: 二值样本；未观测处的值不起作用。
        observed: 观测到的像素为 True。
        theta: θ_ki = p(x_i = 1 | y = k)。
        prior: 类别先验 π。

    Returns:
        每行一个分布；一个像素也没看到时就是先验。

    Raises:
        ValueError: 条件同 observed_log_joint；或观测到的像素在每一类里概率都是 0。

    出处:
        由全概率公式直接得到。

    示例:
        >>> x, theta = torch.ones(1, 2), torch.tensor([[0.5, 0.1], [0.25, 0.9]])
        >>> seen = torch.tensor([[True, False]])
        >>> posterior_given_observed(x, seen, theta, torch.tensor([0.5, 0.5]))
        tensor([[0.6667, 0.3333]])
    """
    log_joint = observed_log_joint(x, observed, theta, prior)
    if log_joint.isneginf().all(dim=-1).any():
        raise ValueError("x 里有一行，观测到的像素在每一类里概率都是 0，后验没有定义")
    return log_joint.softmax(dim=-1)


def impute_probabilities(
    x: Float[Tensor, "B n"],
    observed: Bool[Tensor, "B n"],
    theta: Float[Tensor, "K n"],
    prior: Float[Tensor, " K"],
) -> Float[Tensor, "B n"]:
    r"""补全：每个未观测像素为 1 的条件概率 p(x_j = 1 | x_O)。

    Args:
        x: 二值样本；未观测处的值不起作用。
        observed: 观测到的像素为 True。
        theta: θ_ki = p(x_i = 1 | y = k)。
        prior: 类别先验 π。

    Returns:
        未观测处是条件概率，观测到的地方照抄 x。

    Raises:
        ValueError: 条件同 posterior_given_observed。

    约定:
        逐像素的边缘概率；几个未观测像素在给定 x_O 时并不独立，不能各自抛硬币当作联合采样。

    出处:
        由全概率公式直接得到。

    示例:
        >>> x, theta = torch.ones(1, 2), torch.tensor([[0.5, 0.1], [0.25, 0.9]])
        >>> seen = torch.tensor([[True, False]])
        >>> impute_probabilities(x, seen, theta, torch.tensor([0.5, 0.5]))
        tensor([[1.0000, 0.3667]])
    """
    expected = posterior_given_observed(x, observed, theta, prior) @ theta  # (B, n)
    return torch.where(observed, x, expected)


def zero_fill_bias(
    observed: Bool[Tensor, "B n"], theta: Float[Tensor, "K n"]
) -> Float[Tensor, "B K"]:
    r"""把缺失像素当作观测到的 0，会给各类的对数联合概率多加的一项。

    Args:
        observed: 观测到的像素为 True。
        theta: θ_ki = p(x_i = 1 | y = k)。

    Returns:
        未观测像素上 log(1 − θ_kj) 之和（nat，不大于 0）；与 x 无关，却随类别而变。

    Raises:
        ValueError: theta 不是概率；observed 不是列数与 theta 相同的布尔张量。

    约定:
        填零后的 log p(x, y = k) 减去它，就是正确的 log p(x_O, y = k)。

    出处:
        由朴素贝叶斯的分解直接得到。

    示例:
        >>> zero_fill_bias(torch.tensor([[True, False]]), torch.tensor([[0.5, 0.1], [0.25, 0.9]]))
        tensor([[-0.1054, -2.3026]])
    """
    require_floats("theta", theta, "K", "n")
    require_probabilities("theta", theta)
    require_observed(observed, len(observed), theta.shape[1])
    return torch.xlogy((~observed)[:, None, :], 1 - theta).sum(dim=-1)


def zero_fill_log_joint(
    x: Float[Tensor, "B n"],
    observed: Bool[Tensor, "B n"],
    theta: Float[Tensor, "K n"],
    prior: Float[Tensor, " K"],
) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K"]]:
    r"""填零的对数联合概率的两种算法：真的填零再算；正确的值加上填零的偏差。

    Args:
        x: 二值样本；未观测处的值不起作用。
        observed: 观测到的像素为 True。
        theta: θ_ki = p(x_i = 1 | y = k)。
        prior: 类别先验 π。

    Returns:
        等式两边，各为每个样本、每个类别的 log p(x_O, x_U = 0, y = k)（nat）。

    Raises:
        ValueError: 条件同 observed_log_joint。

    出处:
        由朴素贝叶斯的分解直接得到。

    示例:
        >>> x, theta = torch.ones(1, 2), torch.tensor([[0.5, 0.1], [0.25, 0.9]])
        >>> seen = torch.tensor([[True, False]])
        >>> filled, _ = zero_fill_log_joint(x, seen, theta, torch.tensor([0.5, 0.5]))
        >>> filled.exp()
        tensor([[0.2250, 0.0125]])
    """
    split = observed_log_joint(x, observed, theta, prior) + zero_fill_bias(observed, theta)
    return naive_bayes_log_joint(x * observed, theta, prior), split
