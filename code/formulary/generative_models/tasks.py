"""生成模型的三项任务：密度估计、采样、表示，用伯努利混合模型各演示一遍。

约定:
    伯努利混合先按先验 π 选一个分量 z，再让 n 个像素各自独立地取 0 或 1；
    K = 1 时就是独立像素模型。对数似然的单位是 nat，联合求和，不除以维数。
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from formulary.checks import (
    require_binary,
    require_distribution,
    require_floats,
    require_probabilities,
)


def decompose_joint(
    log_joint: Float[Tensor, "B K"],
) -> tuple[Float[Tensor, "B K"], Float[Tensor, " B"]]:
    r"""把对数联合概率拆成判别式的一份与边缘的一份。

    Args:
        log_joint: 每行是一个 x 与 K 个类别的对数联合概率 log p(x, y)（nat）。

    Returns:
        log p(y|x)（nat，每行归一化）与 log p(x)（nat）。

    Raises:
        ValueError: log_joint 不是二维浮点张量，含 NaN 或正无穷，或有一行全是负无穷。

    出处:
        Ng & Jordan 2001 讨论的两种训练目标之差。

    示例:
        >>> conditional, marginal = decompose_joint(torch.tensor([[0.03, 0.01]]).log())
        >>> conditional.exp(), marginal.exp()
        (tensor([[0.7500, 0.2500]]), tensor([0.0400]))
    """
    require_floats("log_joint", log_joint, "B", "K")
    if not (log_joint < math.inf).all() or (log_joint == -math.inf).all(-1).any():
        raise ValueError("log_joint 不能含 NaN 或正无穷，每行至少要有一个有限值")
    marginal = log_joint.logsumexp(dim=-1)  # (B,)
    return log_joint - marginal[:, None], marginal


def bernoulli_mixture_log_joint(
    x: Float[Tensor, "B n"], prior: Float[Tensor, " K"], on_probs: Float[Tensor, "K n"]
) -> Float[Tensor, "B K"]:
    r"""伯努利混合的 log p(x, z)。

    Args:
        x: 二值向量。
        prior: 各分量的先验 π（无量纲）。
        on_probs: 各分量里各像素取 1 的概率 μ（无量纲）。

    Returns:
        每个样本与每个分量的对数联合概率（nat）。

    Raises:
        ValueError: x 不是二值，prior 不是概率分布，on_probs 不在 [0, 1] 里，或形状不合。

    示例:
        >>> probs = torch.tensor([[0.5, 0.5], [0.75, 0.25]])
        >>> bernoulli_mixture_log_joint(torch.ones(1, 2), torch.full((2,), 0.5), probs).exp()
        tensor([[0.1250, 0.0938]])
    """
    require_floats("prior", prior, "K")
    require_distribution("prior", prior)
    require_floats("on_probs", on_probs, len(prior), "n")
    require_probabilities("on_probs", on_probs)
    require_floats("x", x, "B", on_probs.shape[1])
    require_binary("x", x)
    pixels = torch.xlogy(x[:, None], on_probs) + torch.xlogy(1 - x[:, None], 1 - on_probs)
    return prior.log() + pixels.sum(-1)  # (B, K)


def bernoulli_mixture_log_prob(
    x: Float[Tensor, "B n"], prior: Float[Tensor, " K"], on_probs: Float[Tensor, "K n"]
) -> Float[Tensor, " B"]:
    r"""密度估计：回答“x 有多可能”。

    Args:
        x: 二值向量。
        prior: 各分量的先验 π（无量纲）。
        on_probs: 各分量里各像素取 1 的概率 μ（无量纲）。

    Returns:
        log p(x)（nat）。

    Raises:
        ValueError: 条件同 bernoulli_mixture_log_joint。

    出处:
        Bishop 2006 年教科书第 9.3.3 节。

    示例:
        >>> probs = torch.tensor([[0.5, 0.5], [0.75, 0.25]])
        >>> bernoulli_mixture_log_prob(torch.ones(1, 2), torch.full((2,), 0.5), probs).exp()
        tensor([0.2188])
    """
    return bernoulli_mixture_log_joint(x, prior, on_probs).logsumexp(dim=-1)


def bernoulli_mixture_posterior(
    x: Float[Tensor, "B n"], prior: Float[Tensor, " K"], on_probs: Float[Tensor, "K n"]
) -> Float[Tensor, "B K"]:
    r"""表示：把 x 换成独热隐变量 z 的后验期望。

    Args:
        x: 二值向量，在模型下的概率为正。
        prior: 各分量的先验 π（无量纲）。
        on_probs: 各分量里各像素取 1 的概率 μ（无量纲）。

    Returns:
        E[z|x]，也就是各分量的后验概率（无量纲），每行之和为 1。

    Raises:
        ValueError: 条件同 bernoulli_mixture_log_joint，或有样本的概率为零。

    出处:
        Bishop 2006 年教科书第 9.3.3 节。

    示例:
        >>> probs = torch.tensor([[0.5, 0.5], [0.75, 0.25]])
        >>> bernoulli_mixture_posterior(torch.ones(1, 2), torch.full((2,), 0.5), probs)
        tensor([[0.5714, 0.4286]])
    """
    log_joint = bernoulli_mixture_log_joint(x, prior, on_probs)
    if (log_joint == -math.inf).all(-1).any():
        raise ValueError("x 里有样本在模型下的概率为零，没有后验")
    return log_joint.softmax(dim=-1)


def inverse_cdf_sample(p: Float[Tensor, " K"], u: Float[Tensor, " N"]) -> Int[Tensor, " N"]:
    r"""采样：用均匀随机数查累积分布函数的反函数。

    Args:
        p: K 个状态的概率（无量纲）。
        u: [0, 1) 里的均匀随机数。

    Returns:
        状态的下标，从 0 起：第一个累积概率大于 u 的状态。

    Raises:
        ValueError: p 不是概率分布，或 u 不在 [0, 1) 里。

    约定:
        取“大于”而不是“不小于”，所以 u = 0 时不会选中概率为零的状态。
        舍入使累积概率的末项不到 1 时，落在缝里的 u 归给最后一个概率为正的状态。

    出处:
        逆变换采样，标准结果。

    示例:
        >>> inverse_cdf_sample(torch.tensor([0.0, 0.5, 0.5]), torch.tensor([0.0, 0.4, 0.5]))
        tensor([1, 1, 2])
    """
    require_floats("p", p, "K")
    require_distribution("p", p)
    require_floats("u", u, "N")
    if not ((u >= 0) & (u < 1)).all():
        raise ValueError(f"u 的元素必须在 [0, 1) 里，得到 {u.min().item()} 到 {u.max().item()}")
    last = int(p.nonzero()[-1])
    return torch.searchsorted(p.cumsum(0), u, right=True).clamp(max=last)


def contaminated_log_prob(
    log_p: Float[Tensor, "*batch"], log_noise: Float[Tensor, "*batch"], weight: float
) -> Float[Tensor, "*batch"]:
    r"""好模型占 weight、噪声占 1 − weight 的混合的对数似然。

    Args:
        log_p: 好模型的对数似然 log p(x)（nat）。
        log_noise: 噪声分布的对数似然（nat）。
        weight: 好模型的权重 ε（无量纲），在 (0, 1] 里。

    Returns:
        混合的对数似然（nat），不小于 log_p − log(1/weight)。

    Raises:
        ValueError: weight 不在 (0, 1] 里，或两个张量不是形状相同的浮点张量。

    出处:
        Theis et al. 2016, arXiv:1511.01844, 第 3.2 节。

    示例:
        >>> mixed = contaminated_log_prob(torch.tensor([-20.0]), torch.tensor([-44.4]), 0.01)
        >>> [round(value, 3) for value in mixed.tolist()]
        [-24.605]
    """
    if not 0 < weight <= 1:
        raise ValueError(f"weight 必须在 (0, 1] 里，得到 {weight!r}")
    require_floats("log_p", log_p)
    require_floats("log_noise", log_noise, *log_p.shape)
    kept = log_p + math.log(weight)
    if weight == 1:
        return kept
    return torch.logaddexp(kept, log_noise + math.log1p(-weight))


def log_density_in_new_units(
    log_density: Float[Tensor, "*batch"], scale: Float[Tensor, " n"]
) -> Float[Tensor, "*batch"]:
    r"""换单位 y = scale · x 之后，同一个点的对数密度。

    Args:
        log_density: x 的对数密度（nat）。
        scale: 各维的换算系数 a（新单位数除以旧单位数），不为零。

    Returns:
        y 的对数密度（nat）：log p(x) − Σ log|a_i|。

    Raises:
        ValueError: scale 含零、无穷或 NaN，或参数不是浮点张量。

    出处:
        随机变量的线性换元，标准结果。

    示例:
        >>> log_density_in_new_units(torch.zeros(1), torch.tensor([2.0, 0.5, 0.25]))
        tensor([1.3863])
    """
    require_floats("log_density", log_density)
    require_floats("scale", scale, "n")
    if not scale.isfinite().all() or (scale == 0).any():
        raise ValueError(f"scale 的元素必须有限且不为零，得到 {scale.tolist()}")
    return log_density - scale.abs().log().sum()
