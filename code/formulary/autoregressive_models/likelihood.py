"""自回归模型的最大似然：目标函数、交叉熵恒等式、逐维的 KL 散度。"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.autoregressive_models.bernoulli import bernoulli_log_prob
from formulary.autoregressive_models.enumeration import state_log_probs
from formulary.autoregressive_models.tabular import chain_rule_factors
from formulary.checks import require_distribution, require_floats


def total_probability(
    model: Callable[[Tensor], Tensor], n: int, dtype: torch.dtype = torch.float32
) -> Float[Tensor, ""]:
    r"""枚举全部 2^n 个二值向量，把模型给的概率加起来；自回归模型一定得 1。

    Args:
        model: 把 (B, n) 的样本变成 (B, n) 的对数几率。
        n: 变量个数，1 到 20。
        dtype: 枚举状态用的浮点类型，与模型的参数一致。

    Returns:
        标量 Σ_x p(x)（无量纲）。

    Raises:
        ValueError: n 不在 1 到 20 之间。

    示例:
        >>> round(total_probability(lambda x: torch.zeros_like(x), 3).item(), 6)
        1.0
    """
    return state_log_probs(model, n, dtype).exp().sum()


def dataset_log_likelihood(
    logits: Float[Tensor, "N n"], x: Float[Tensor, "N n"]
) -> Float[Tensor, ""]:
    r"""最大似然的目标：每个样本的对数似然对数据集取平均。

    Args:
        logits: 模型对整个数据集（或一个小批量）的输出（无量纲）。
        x: 二值样本。

    Returns:
        标量（nat），越大越好；训练时最小化它的相反数。

    Raises:
        ValueError: logits 不是 (N, n) 的浮点张量；x 与它形状不同或不是二值的。

    出处:
        CS236 讲义 autoregressive 一章，Learning and inference 一节。

    示例:
        >>> dataset_log_likelihood(torch.zeros(3, 2), torch.ones(3, 2))
        tensor(-1.3863)
    """
    return bernoulli_log_prob(logits, x).mean()


def cross_entropy_terms(
    p: Float[Tensor, " K"], log_q: Float[Tensor, " K"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    r"""交叉熵、熵与 KL 散度：前一个等于后两个之和。

    Args:
        p: 数据的分布，对全部状态列出。
        log_q: 模型给各状态的对数概率（nat）。

    Returns:
        三个标量（nat）；p 为零的状态不计。

    Raises:
        ValueError: p 不是概率分布；log_q 与它形状不同。

    示例:
        >>> terms = cross_entropy_terms(torch.tensor([0.5, 0.5]), torch.tensor([0.8, 0.2]).log())
        >>> [round(term.item(), 4) for term in terms]
        [0.9163, 0.6931, 0.2231]
    """
    require_floats("p", p, "K")
    require_floats("log_q", log_q, *p.shape)
    require_distribution("p", p)
    seen = p > 0  # 0·log 0 与 0·log q 都当 0
    p, log_q = p[seen], log_q[seen]
    cross_entropy = -(p * log_q).sum()
    return cross_entropy, -(p * p.log()).sum(), (p * (p.log() - log_q)).sum()


def kl_by_dimension(p: Float[Tensor, "*batch"], q: Float[Tensor, "*batch"]) -> Float[Tensor, " n"]:
    r"""把 KL 散度拆到各维：第 i 项是条件分布之间的 KL 散度，按 p(x_<i) 取平均。

    Args:
        p: 数据的联合表，每个变量一轴。
        q: 模型的联合表，形状相同。

    Returns:
        n 个非负数（nat），相加等于联合分布之间的 KL 散度。

    Raises:
        ValueError: p 或 q 不是概率分布，或形状不同。

    出处:
        Cover & Thomas, Elements of Information Theory, 定理 2.5.3。

    示例:
        >>> p, q = torch.tensor([[0.4, 0.4], [0.1, 0.1]]), torch.full((2, 2), 0.25)
        >>> kl_by_dimension(p, q)
        tensor([0.1927, 0.0000])
    """
    require_floats("q", q, *p.shape)
    n, terms = p.ndim, []
    for i, (f, g) in enumerate(zip(chain_rule_factors(p), chain_rule_factors(q), strict=True)):
        prefix = p.flatten(i + 1).sum(-1) if i + 1 < n else p  # p(x_≤i)
        ratio = torch.where(prefix > 0, f.log() - g.log(), 0)
        terms.append((prefix * ratio).sum())
    return torch.stack(terms)
