r"""有限状态空间上的散度：KL 散度、反向 KL、Jensen–Shannon 散度、全变差距离。

约定:
    第一个参数 p 是数据的分布，第二个参数 q 是模型的分布，最后一轴是 K 个状态；
    对数取自然对数，结果以 nat 计（全变差距离无量纲）；0·log 0 = 0。
"""

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_distribution, require_floats


def require_distribution_pair(p: Tensor, q: Tensor) -> None:
    """要求 p 与 q 是形状相同的浮点张量，沿最后一轴都是概率分布。"""
    require_floats("p", p, "...", "K")
    require_floats("q", q, *p.shape)
    require_distribution("p", p)
    require_distribution("q", q)


def entropy(p: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch"]:
    r"""离散分布的熵 H(p)。

    Args:
        p: 分布，最后一轴的和为 1。

    Returns:
        熵（nat），在 0 与 log K 之间。

    Raises:
        ValueError: p 不是浮点张量，或最后一轴不是概率分布。

    约定:
        0·log 0 = 0。

    出处:
        Shannon 1948, A Mathematical Theory of Communication, §6。

    示例:
        >>> entropy(torch.tensor([0.5, 0.5, 0.0]))
        tensor(0.6931)
    """
    require_floats("p", p, "...", "K")
    require_distribution("p", p)
    return -torch.xlogy(p, p).sum(dim=-1)


def kl_divergence(
    p: Float[Tensor, "*batch K"], q: Float[Tensor, "*batch K"]
) -> Float[Tensor, "*batch"]:
    r"""KL 散度 D(p‖q)：期望对第一个参数 p 取。

    Args:
        p: 数据的分布。
        q: 模型的分布，形状与 p 相同。

    Returns:
        KL 散度（nat），非负；某个状态上 q = 0 而 p > 0 时为无穷大。

    Raises:
        ValueError: p、q 形状不同，或沿最后一轴不是概率分布。

    约定:
        对状态求和，不除以 K，也不对批取平均；0·log 0 = 0。

    出处:
        Kullback & Leibler 1951, On Information and Sufficiency。

    示例:
        >>> kl_divergence(torch.tensor([0.75, 0.25]), torch.tensor([0.5, 0.5]))
        tensor(0.1308)
    """
    require_distribution_pair(p, q)
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(dim=-1)


def reverse_kl_divergence(
    p: Float[Tensor, "*batch K"], q: Float[Tensor, "*batch K"]
) -> Float[Tensor, "*batch"]:
    r"""反向 KL 散度 D(q‖p)：期望对模型 q 取。

    Args:
        p: 数据的分布。
        q: 模型的分布，形状与 p 相同。

    Returns:
        反向 KL 散度（nat），非负；某个状态上 p = 0 而 q > 0 时为无穷大。

    Raises:
        ValueError: p、q 形状不同，或沿最后一轴不是概率分布。

    约定:
        参数次序仍是数据在前、模型在后，可以和 kl_divergence 互换着用。

    出处:
        Minka 2005, Divergence Measures and Message Passing, MSR-TR-2005-173。

    示例:
        >>> reverse_kl_divergence(torch.tensor([0.75, 0.25]), torch.tensor([0.5, 0.5]))
        tensor(0.1438)
    """
    require_distribution_pair(p, q)
    return (torch.xlogy(q, q) - torch.xlogy(q, p)).sum(dim=-1)


def js_divergence(
    p: Float[Tensor, "*batch K"], q: Float[Tensor, "*batch K"]
) -> Float[Tensor, "*batch"]:
    r"""Jensen–Shannon 散度：p 与 q 各自到两者平均的 KL 散度，再取平均。

    Args:
        p: 数据的分布。
        q: 模型的分布，形状与 p 相同。

    Returns:
        JS 散度（nat），在 0 与 log 2 之间，对 p、q 对称。

    Raises:
        ValueError: p、q 形状不同，或沿最后一轴不是概率分布。

    约定:
        不开方；开方之后才是满足三角不等式的 Jensen–Shannon 距离。

    出处:
        Lin 1991, Divergence Measures Based on the Shannon Entropy。

    示例:
        >>> js_divergence(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
        tensor(0.6931)
    """
    require_distribution_pair(p, q)
    middle = (p + q) / 2
    return (kl_divergence(p, middle) + kl_divergence(q, middle)) / 2


def total_variation(
    p: Float[Tensor, "*batch K"], q: Float[Tensor, "*batch K"]
) -> Float[Tensor, "*batch"]:
    r"""全变差距离：同一事件在 p 与 q 下的概率最多差多少。

    Args:
        p: 数据的分布。
        q: 模型的分布，形状与 p 相同。

    Returns:
        全变差距离（无量纲），在 0 与 1 之间。

    Raises:
        ValueError: p、q 形状不同，或沿最后一轴不是概率分布。

    约定:
        带因子 1/2，支撑不相交时等于 1。

    出处:
        Levin & Peres 2017, Markov Chains and Mixing Times, 第 4.1 节。

    示例:
        >>> total_variation(torch.tensor([0.75, 0.25]), torch.tensor([0.5, 0.5]))
        tensor(0.2500)
    """
    require_distribution_pair(p, q)
    return (p - q).abs().sum(dim=-1) / 2


def pinsker_sides(
    p: Float[Tensor, "*batch K"], q: Float[Tensor, "*batch K"]
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    r"""Pinsker 不等式的两边：全变差距离与由 KL 散度给出的上界。

    Args:
        p: 数据的分布。
        q: 模型的分布，形状与 p 相同。

    Returns:
        全变差距离与 sqrt(D(p‖q)/2)（都无量纲）；前者不超过后者。

    Raises:
        ValueError: p、q 形状不同，或沿最后一轴不是概率分布。

    约定:
        KL 散度以 nat 计；以 bit 计时系数要乘 log 2。

    出处:
        Csiszár 1967, Information-type Measures of Difference of Probability Distributions。

    示例:
        >>> tv, bound = pinsker_sides(torch.tensor([0.75, 0.25]), torch.tensor([0.5, 0.5]))
        >>> print(f"{tv:.4f} {bound:.4f}")
        0.2500 0.2557
    """
    # 舍入可能让相等分布的 KL 略小于 0，先截到 0 再开方
    return total_variation(p, q), (kl_divergence(p, q).clamp(min=0) / 2).sqrt()
