"""补全：给定一部分变量，抽取或计算其余变量的条件分布。

约定:
    observed 是布尔掩码，True 表示这个变量已经给定；S 是没有给定的变量的集合。
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from formulary.autoregressive_models.bernoulli import bernoulli_log_prob
from formulary.autoregressive_models.enumeration import binary_states
from formulary.checks import require_binary, require_floats, require_permutation


def completion_log_prob(
    logits: Float[Tensor, "B n"],
    x: Float[Tensor, "B n"],
    known: int,
    order: Int[Tensor, " n"] | None = None,
) -> Float[Tensor, " B"]:
    r"""已知次序里最前面的 known 个变量时，其余变量的条件对数概率。

    Args:
        logits: 模型在 x 处的对数几率（无量纲）。
        x: 完整的样本，元素为 0 或 1。
        known: 已知变量的个数，0 到 n。
        order: 模型的次序，从 0 起；不给则为自然次序。

    Returns:
        条件对数概率（nat），只把次序里靠后的 n − known 项相加。

    Raises:
        ValueError: 形状不符，x 不是二值，known 越界，order 不是排列。

    出处:
        链式法则；CS236 课程讲义“自回归模型”一章。

    示例:
        >>> completion_log_prob(torch.zeros(1, 4), torch.ones(1, 4), known=3).exp()
        tensor([0.5000])
    """
    require_floats("logits", logits, "B", "n")
    require_floats("x", x, *logits.shape)
    n = logits.shape[1]
    if not 0 <= known <= n:
        raise ValueError(f"known 必须在 0 到 {n} 之间，得到 {known}")
    order = torch.arange(n) if order is None else order
    require_permutation("order", order, n)
    rest = order[known:].to(x.device)
    return bernoulli_log_prob(logits[:, rest], x[:, rest])


def conditional_distribution(
    logits: Callable[[Tensor], Tensor], x: Float[Tensor, " n"], observed: Bool[Tensor, " n"]
) -> tuple[Float[Tensor, "N n"], Float[Tensor, " N"]]:
    r"""任意一组变量已知时的精确条件分布：枚举其余变量的全部取法，再归一。

    Args:
        logits: 模型，(N, n) 的 x 到 (N, n) 的对数几率（无量纲）。
        x: 已知变量的值写在自己的位置上，其余位置不读。
        observed: 已知变量的掩码，至少有一个 False，至多 20 个。

    Returns:
        (N 种补全, 它们的条件概率)，N 等于 2 的（未知变量个数）次方，概率之和为 1。

    Raises:
        ValueError: 形状不符，已知的值不是二值，未知变量的个数不在 1 到 20 之间。

    约定:
        补全按未知变量的二进制数从小到大排列，下标小的变量是高位。

    出处:
        条件概率的定义。

    示例:
        >>> observed = torch.tensor([False, True])
        >>> states, probabilities = conditional_distribution(
        ...     lambda x: x * torch.tensor([0.0, 1.0]), torch.ones(2), observed
        ... )
        >>> states.tolist(), probabilities.tolist()
        ([[0.0, 1.0], [1.0, 1.0]], [0.5, 0.5])
    """
    require_floats("x", x, "n")
    require_observed_mask(observed, x.shape[0])
    require_binary("x", x[observed])
    fillings = binary_states(int((~observed).sum()), x.dtype)
    states = x.expand(len(fillings), -1).clone()
    states[:, ~observed] = fillings
    log_joint = bernoulli_log_prob(logits(states), states)
    return states, torch.softmax(log_joint, dim=0)


def clamped_factors(
    logits: Float[Tensor, "B n"], x: Float[Tensor, "B n"], observed: Bool[Tensor, " n"]
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    r"""把联合概率拆成“夹住已知变量去采样”的提议分布与它漏掉的权重。

    Args:
        logits: 模型在 x 处的对数几率（无量纲）。
        x: 完整的样本，元素为 0 或 1；已知变量处是给定的值。
        observed: 已知变量的掩码。

    Returns:
        (log q, log w)，单位 nat：未知变量各项之和是提议分布的对数概率，已知变量各项之和
        是权重的对数；两者相加是联合分布的对数概率。

    Raises:
        ValueError: 形状不符，或 x 不是二值。

    约定:
        夹住（clamping）指采样时遇到已知变量就照抄给定值，不看它的条件概率。

    出处:
        似然加权（likelihood weighting），Fung & Chang 1989；写成这个形式由本文推导。

    示例:
        >>> observed = torch.tensor([False, True])
        >>> clamped_factors(torch.tensor([[0.0, 1000.0]]), torch.ones(1, 2), observed)
        (tensor([-0.6931]), tensor([0.]))
    """
    require_floats("logits", logits, "B", "n")
    require_floats("x", x, *logits.shape)
    require_observed_mask(observed, x.shape[1])
    log_proposal = bernoulli_log_prob(logits[:, ~observed], x[:, ~observed])
    log_weight = bernoulli_log_prob(logits[:, observed], x[:, observed])
    return log_proposal, log_weight


def require_observed_mask(observed: object, n: int) -> None:
    """要求 observed 是长为 n 的布尔张量。

    示例:
        >>> require_observed_mask(torch.tensor([True, False]), n=2) is None  # 合格则什么也不返回
        True
    """
    if not isinstance(observed, Tensor) or observed.dtype != torch.bool:
        found = getattr(observed, "dtype", type(observed))
        raise ValueError(f"observed 必须是布尔张量，得到 {found}")
    if observed.shape != (n,):
        raise ValueError(f"observed 的形状必须是 ({n},)，得到 {tuple(observed.shape)}")
