"""各向同性的高斯混合：对数密度与分数都有闭式，用来核对学到的分数与速度场。"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_distribution, require_floats


def _log_joint(x: Tensor, prior: Tensor, means: Tensor, variances: Tensor) -> Tensor:
    """Log π_k + log N(x; m_k, v_k I)，最后一轴是分量。"""
    require_floats("prior", prior, "K")
    require_distribution("prior", prior)
    require_floats("means", means, len(prior), "n")
    require_floats("x", x, "...", means.shape[1])
    require_floats("variances", variances, len(prior))
    if not (variances > 0).all():
        raise ValueError(f"variances 的元素必须是正数，得到 {variances.min().item()!r}")
    square = (x[..., None, :] - means).square().sum(-1)  # (*batch, K)
    n = means.shape[1]
    return prior.log() - (square / variances + n * (2 * math.pi * variances).log()) / 2


def gaussian_mixture_log_prob(
    x: Float[Tensor, "*batch n"],
    prior: Float[Tensor, " K"],
    means: Float[Tensor, "K n"],
    variances: Float[Tensor, " K"],
) -> Float[Tensor, "*batch"]:
    r"""高斯混合的对数密度。

    Args:
        x: 样本。
        prior: 混合权重 π_k。
        means: 各分量的均值 m_k。
        variances: 各分量每一维的方差 v_k，正数。

    Returns:
        log p(x)（nat）。

    Raises:
        ValueError: prior 不是概率分布；variances 不全为正；形状不合。

    约定:
        给数据加标准差为 σ 的高斯噪声，等于把每个 v_k 换成 v_k + σ²。

    出处:
        标准结果。

    示例:
        >>> args = torch.tensor([0.5, 0.5]), torch.tensor([[-2.0], [2.0]]), torch.ones(2)
        >>> round(gaussian_mixture_log_prob(torch.tensor([2.0]), *args).item(), 4)
        -1.6118
    """
    return torch.logsumexp(_log_joint(x, prior, means, variances), dim=-1)


def gaussian_mixture_score(
    x: Float[Tensor, "*batch n"],
    prior: Float[Tensor, " K"],
    means: Float[Tensor, "K n"],
    variances: Float[Tensor, " K"],
) -> Float[Tensor, "*batch n"]:
    r"""高斯混合的分数 ∇ log p(x)：各分量的分数按后验概率加权。

    Args:
        x: 样本。
        prior: 混合权重 π_k。
        means: 各分量的均值 m_k。
        variances: 各分量每一维的方差 v_k，正数。

    Returns:
        分数（nat 除以 x 的单位）。

    Raises:
        ValueError: prior 不是概率分布；variances 不全为正；形状不合。

    出处:
        对 gaussian_mixture_log_prob 求导。

    示例:
        >>> args = torch.tensor([0.5, 0.5]), torch.tensor([[-2.0], [2.0]]), torch.ones(2)
        >>> gaussian_mixture_score(torch.tensor([[0.0], [3.0]]), *args)
        tensor([[ 0.0000],
                [-1.0000]])
    """
    posterior = torch.softmax(_log_joint(x, prior, means, variances), dim=-1)  # (*batch, K)
    pulls = (means - x[..., None, :]) / variances[:, None]  # (*batch, K, n)
    return (posterior[..., None] * pulls).sum(-2)
