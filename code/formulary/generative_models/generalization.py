"""有限样本的代价：把风险拆成近似误差与估计误差，估计误差约为 k/2N。

约定:
    分布都是 K 个状态上的概率向量；N 是训练样本数，k = K − 1 是自由参数的个数。
    散度的单位是 nat。
"""

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_count, require_distribution, require_floats
from formulary.generative_models.divergences import kl_divergence


def risk_decomposition(
    p: Float[Tensor, " K"],
    projection: Float[Tensor, " K"],
    estimates: Float[Tensor, "N K"],
    weights: Float[Tensor, " N"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    r"""期望风险，以及它的两个部分：近似误差与估计误差。

    Args:
        p: 数据的分布。
        projection: 模型族里离 p 最近的成员 p_θ*，即 p 在族上的投影。
        estimates: 每行是从一个数据集估计出来的模型。
        weights: 各个数据集出现的概率（无量纲），和为 1。

    Returns:
        期望风险、近似误差、估计误差（nat）；第一个等于后两个之和。

    Raises:
        ValueError: 某个参数不是概率分布，或形状不合。

    约定:
        projection 确是投影、estimates 都在同一族里时，估计误差非负。

    出处:
        Akaike 1974 以来的标准分解。

    示例:
        >>> p, uniform = torch.tensor([0.5, 0.3, 0.2]), torch.full((3,), 1 / 3)
        >>> skewed = torch.tensor([[0.2, 0.4, 0.4]])
        >>> terms = risk_decomposition(p, uniform, skewed, torch.ones(1))
        >>> [round(term.item(), 4) for term in terms]
        [0.2332, 0.069, 0.1643]
    """
    for name, value in (("p", p), ("projection", projection)):
        require_floats(name, value, "K")
        require_distribution(name, value)
    require_floats("estimates", estimates, "N", len(p))
    require_distribution("estimates", estimates)
    require_floats("weights", weights, len(estimates))
    require_distribution("weights", weights)
    risk = weights @ kl_divergence(p.expand_as(estimates), estimates)
    approximation = kl_divergence(p, projection)
    log_ratios = projection.log() - estimates.log()  # (N, K)
    estimation = weights @ torch.where(p > 0, p * log_ratios, 0.0).sum(-1)
    return risk, approximation, estimation


def quadratic_excess(
    p: Float[Tensor, " K"], estimate: Float[Tensor, "*batch K"]
) -> Float[Tensor, "*batch"]:
    r"""KL 散度在 p 附近的二阶近似：卡方距离的一半。

    Args:
        p: 数据的分布，各状态的概率为正。
        estimate: 估计出来的分布，可以有多个。

    Returns:
        ½ Σ (estimate − p)² / p（nat）。

    Raises:
        ValueError: p 或 estimate 不是概率分布，形状不合，或 p 有零。

    出处:
        对数的泰勒展开；Pearson 卡方统计量除以 2N。

    示例:
        >>> round(quadratic_excess(torch.tensor([0.5, 0.5]), torch.tensor([0.6, 0.4])).item(), 4)
        0.02
    """
    _require_positive(p)
    require_floats("estimate", estimate, "...", len(p))
    require_distribution("estimate", estimate)
    return ((estimate - p).square() / p).sum(-1) / 2


def expected_quadratic_excess(p: Float[Tensor, " K"], samples: int) -> Float[Tensor, ""]:
    r"""最大似然估计的二阶超额风险的期望：费希尔信息阵与协方差阵之积的迹的一半。

    Args:
        p: 数据的分布，各状态的概率为正。
        samples: 训练样本数 N。

    Returns:
        ½ tr(F Σ)（nat），等于 (K − 1) / 2N。

    Raises:
        ValueError: p 不是概率分布或有零，或 samples 不是正整数。

    约定:
        自由参数是前 K − 1 个状态的概率，最后一个状态的概率由和为 1 定出。

    出处:
        最大似然估计的经典渐近理论（Wilks 1938；Akaike 1974）。

    示例:
        >>> round(expected_quadratic_excess(torch.tensor([0.5, 0.3, 0.2]), 100).item(), 6)
        0.01
    """
    _require_positive(p)
    require_count("samples", samples)
    free = p[:-1]  # (k,)
    fisher = torch.diag(1 / free) + 1 / p[-1]  # (k, k)
    covariance = (torch.diag(free) - torch.outer(free, free)) / samples
    return (fisher @ covariance).trace() / 2


def sample_counts(
    p: Float[Tensor, " K"], samples: int, repeats: int, generator: torch.Generator
) -> Float[Tensor, "M K"]:
    r"""抽 repeats 个数据集，各有 samples 个样本，返回各状态出现的次数。

    Args:
        p: 数据的分布，各状态的概率为正。
        samples: 一个数据集的样本数 N。
        repeats: 数据集的个数 M。
        generator: 随机数发生器。

    Returns:
        服从多项分布的计数，每行之和为 N。

    Raises:
        ValueError: p 不是概率分布或有零，或 samples、repeats 不是正整数。

    约定:
        逐个状态抽二项分布：剩下的样本落在状态 k 的概率是 p_k 除以尚未处理的总概率。

    示例:
        >>> sample_counts(torch.tensor([0.5, 0.3, 0.2]), 9, 4, torch.Generator()).sum(-1)
        tensor([9., 9., 9., 9.])
    """
    _require_positive(p)
    require_count("samples", samples)
    require_count("repeats", repeats)
    tails = p.flip(0).cumsum(0).flip(0)  # P(x ≥ k)
    remaining = torch.full((repeats,), float(samples), dtype=p.dtype)
    counts = []
    for share in (p / tails)[:-1].clamp(max=1):
        counts.append(torch.binomial(remaining, share.expand(repeats), generator=generator))
        remaining = remaining - counts[-1]
    return torch.stack((*counts, remaining), dim=-1)  # (M, K)


def simulate_excess_kl(
    p: Float[Tensor, " K"], samples: int, repeats: int, generator: torch.Generator
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], float]:
    r"""用模拟核对 k/2N：抽许多数据集，各作最大似然估计，求 D(p‖p̂) 的平均。

    Args:
        p: 数据的分布，各状态的概率为正；模型族是全体 K 状态分布，所以设定正确。
        samples: 一个数据集的样本数 N。
        repeats: 数据集的个数 M，至少 2。
        generator: 随机数发生器。

    Returns:
        平均的超额风险（nat）、它的标准误（nat）、渐近值 k/2N（nat）。

    Raises:
        ValueError: p 不是概率分布或有零，samples 不是正整数，或 repeats 小于 2。

    约定:
        有数据集缺了某个状态时，那次的 D(p‖p̂) 是无穷大，平均也就是无穷大；
        N 足够大时这种数据集的概率随 N 指数下降，模拟里遇不到。

    出处:
        Akaike 1974；Wilks 1938。

    示例:
        >>> p, generator = torch.tensor([0.5, 0.3, 0.2]), torch.Generator().manual_seed(0)
        >>> mean, error, law = simulate_excess_kl(p, 1000, 2000, generator)
        >>> law, bool((mean - law).abs() < 5 * error)
        (0.001, True)
    """
    require_count("repeats", repeats, least=2)
    estimates = sample_counts(p, samples, repeats, generator) / samples  # (M, K)
    excess = kl_divergence(p.expand_as(estimates), estimates)
    law = (len(p) - 1) / (2 * samples)
    return excess.mean(), excess.std() / repeats**0.5, law


def _require_positive(p: Tensor) -> None:
    """要求 p 是各状态概率都为正的分布。"""
    require_floats("p", p, "K")
    require_distribution("p", p)
    if (p == 0).any():
        raise ValueError(f"p 的元素必须为正，第 {int((p == 0).nonzero()[0])} 个是 0")
