"""对次序取期望的训练目标（EoNADE）：一个网络学会任意次序下的条件分布。

约定:
    网络 conditionals(x, known) 接受把未知处填成 0 的 x 与表示哪些已知的布尔掩码，
    返回每个变量在已知变量之下的对数几率；已知处的输出不用。
"""

from collections.abc import Callable
from itertools import combinations, permutations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from formulary.checks import require_binary, require_floats

Conditionals = Callable[[Tensor, Tensor], Tensor]


def conditional_nll(
    conditionals: Conditionals, x: Float[Tensor, "B n"], known: Bool[Tensor, "B n"]
) -> Float[Tensor, "B n"]:
    r"""给定已知的变量，每个变量各自的负对数条件概率。

    Args:
        conditionals: 网络，(B, n) 的输入与 (B, n) 的掩码进，(B, n) 的对数几率出。
        x: 二值向量。
        known: 每个样本里哪些变量已知。

    Returns:
        −log p(x_i | 已知的变量)，单位 nat；已知的变量处填 0。

    Raises:
        ValueError: x 不是 (B, n) 的二值浮点张量，或 known 的形状与它不同。

    示例:
        >>> known = torch.tensor([[True, False]])
        >>> conditional_nll(lambda x, known: torch.zeros_like(x), torch.ones(1, 2), known)
        tensor([[0.0000, 0.6931]])
    """
    require_floats("x", x, "B", "n")
    require_binary("x", x)
    if known.dtype != torch.bool or known.shape != x.shape:
        raise ValueError(
            f"known 必须是形状 {tuple(x.shape)} 的布尔张量，"
            f"得到 {known.dtype}、{tuple(known.shape)}"
        )
    logits = conditionals(x * known, known)
    nll = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
    return nll.masked_fill(known, 0.0)


def orderless_objective(conditionals: Conditionals, x: Float[Tensor, "B n"]) -> Float[Tensor, " B"]:
    r"""枚举全部 n! 个次序，求负对数似然的平均。

    Args:
        conditionals: 网络，约定见模块开头。
        x: 二值向量，n 不宜超过 6。

    Returns:
        每个样本的目标值（nat）。

    Raises:
        ValueError: x 不是 (B, n) 的二值浮点张量。

    出处:
        Uria, Murray & Larochelle 2014, arXiv:1310.1757v2。

    示例:
        >>> orderless_objective(lambda x, known: torch.zeros_like(x), torch.ones(1, 3))
        tensor([2.0794])
    """
    require_floats("x", x, "B", "n")
    orders = list(permutations(range(x.shape[1])))
    total = x.new_zeros(len(x))
    for order in orders:
        known = torch.zeros_like(x, dtype=torch.bool)
        for i in order:
            total = total + conditional_nll(conditionals, x, known)[:, i]
            known[:, i] = True
    return total / len(orders)


def orderless_estimate(
    conditionals: Conditionals, x: Float[Tensor, "B n"], known: Bool[Tensor, "B n"]
) -> Float[Tensor, " B"]:
    r"""目标的无偏估计：未知变量的负对数条件概率之和，乘以 n ÷ 未知的个数。

    Args:
        conditionals: 网络，约定见模块开头。
        x: 二值向量。
        known: 每个样本里哪些变量已知，由 sample_known 抽出；至少留一个未知。

    Returns:
        每个样本的估计（nat）。

    Raises:
        ValueError: x 不是 (B, n) 的二值浮点张量，known 的形状不符，或有样本全部已知。

    出处:
        Uria, Murray & Larochelle 2014, arXiv:1310.1757v2。

    示例:
        >>> known = torch.tensor([[True, False, False]])
        >>> orderless_estimate(lambda x, known: torch.zeros_like(x), torch.ones(1, 3), known)
        tensor([2.0794])
    """
    if known.all(dim=-1).any():
        raise ValueError("known 的每个样本至少要留一个未知的变量")
    unknown = (~known).sum(dim=-1)
    nll = conditional_nll(conditionals, x, known).sum(dim=-1)
    return nll * x.shape[1] / unknown  # 先乘：整数相除会得到 float32


def sample_known(x: Float[Tensor, "B n"], generator: torch.Generator) -> Bool[Tensor, "B n"]:
    r"""每个样本独立地抽一个随机次序与步数 t，把次序里的前 t − 1 个变量标为已知。

    Args:
        x: 一批样本，只取它的形状与设备。
        generator: 随机数发生器。

    Returns:
        布尔掩码；已知的个数在 0 到 n − 1 里均匀，个数定下之后各子集等可能。

    Raises:
        ValueError: x 不是 (B, n) 的浮点张量。

    示例:
        >>> known = sample_known(torch.ones(9, 2), torch.Generator().manual_seed(0))
        >>> bool(known.all(dim=-1).any())
        False
    """
    require_floats("x", x, "B", "n")
    n = x.shape[1]
    noise = torch.rand(x.shape, generator=generator, device=generator.device)
    rank = noise.argsort(dim=-1).argsort(dim=-1)
    count = torch.randint(n, (len(x), 1), generator=generator, device=generator.device)
    return (rank < count).to(x.device)


def orderless_steps(conditionals: Conditionals, x: Float[Tensor, "B n"]) -> Float[Tensor, "K B"]:
    r"""无偏性推导的四行各算一遍：次序的期望、步的平均、子集的平均、估计的期望。

    Args:
        conditionals: 网络，约定见模块开头。
        x: 二值向量，n 不宜超过 6。

    Returns:
        四行，每行一批目标值（nat），彼此相等。

    Raises:
        ValueError: x 不是 (B, n) 的二值浮点张量。

    出处:
        Uria, Murray & Larochelle 2014, arXiv:1310.1757v2。

    示例:
        >>> x = torch.ones(1, 3)
        >>> orderless_steps(lambda x, known: torch.zeros_like(x), x).squeeze()
        tensor([2.0794, 2.0794, 2.0794, 2.0794])
    """
    require_floats("x", x, "B", "n")
    n = x.shape[1]
    orders = list(permutations(range(n)))
    one_step = x.new_zeros(len(x))
    for order in orders:
        for t in range(n):
            known = torch.zeros_like(x, dtype=torch.bool)
            known[:, list(order[:t])] = True
            one_step = one_step + conditional_nll(conditionals, x, known)[:, order[t]]
    averages, estimates = x.new_zeros(len(x)), x.new_zeros(len(x))
    for t in range(n):
        subsets = list(combinations(range(n), t))
        for subset in subsets:
            known = torch.zeros_like(x, dtype=torch.bool)
            known[:, list(subset)] = True
            rest = conditional_nll(conditionals, x, known).sum(-1) / (n - t)
            averages = averages + rest / (n * len(subsets))
            estimate = orderless_estimate(conditionals, x, known)
            estimates = estimates + estimate / (n * len(subsets))
    objective = orderless_objective(conditionals, x)
    return torch.stack((objective, n * one_step / (n * len(orders)), n * averages, estimates))
