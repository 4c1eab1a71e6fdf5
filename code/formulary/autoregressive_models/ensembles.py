"""多个次序的集成：概率的平均是一个分布，对数几率的平均不是。"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_binary, require_floats


def order_ensemble_log_prob(log_probs: Float[Tensor, "K B"]) -> Float[Tensor, " B"]:
    r"""K 个次序等权混合之后的对数似然。

    Args:
        log_probs: 每个次序下每个样本的对数似然（nat）。

    Returns:
        混合分布的对数似然（nat）。

    Raises:
        ValueError: log_probs 不是 (K, B) 的浮点张量，或 K = 0。

    约定:
        先在概率上平均再取对数，用 logsumexp 以免下溢。

    出处:
        Uria, Murray & Larochelle 2014, arXiv:1310.1757v2。

    示例:
        >>> order_ensemble_log_prob(torch.tensor([[0.5], [0.1]]).log()).exp()
        tensor([0.3000])
    """
    require_floats("log_probs", log_probs, "K", "B")
    if len(log_probs) == 0:
        raise ValueError("log_probs 至少要有一个次序，得到 K = 0")
    return torch.logsumexp(log_probs, dim=0) - math.log(len(log_probs))


def coupled_pair_logits(coupling: float, x: Float[Tensor, "B n"]) -> Float[Tensor, "K B n"]:
    r"""两个变量相互耦合的分布，按两种次序写出的对数几率。

    Args:
        coupling: 耦合强度 L（无量纲）；正的 L 使两个变量倾向于相等。
        x: 二值向量，n 必须是 2。

    Returns:
        K = 2 种次序下的对数几率，列是两个变量；先到的变量为 0，后到的为 ±L。

    Raises:
        ValueError: x 不是 (B, 2) 的二值浮点张量。

    约定:
        第 0 种次序先 x_1 后 x_2，第 1 种反过来；两种次序给出同一个联合分布。

    出处:
        本站推导。

    示例:
        >>> coupled_pair_logits(3.0, torch.tensor([[1.0, 0.0]]))
        tensor([[[ 0.,  3.]],
        <BLANKLINE>
                [[-3.,  0.]]])
    """
    require_floats("x", x, "B", 2)
    require_binary("x", x)
    pull = coupling * (2 * x - 1)
    zero = torch.zeros_like(x[:, 0])
    forward = torch.stack((zero, pull[:, 0]), dim=-1)
    backward = torch.stack((pull[:, 1], zero), dim=-1)
    return torch.stack((forward, backward))


def averaged_logit_score(
    logits: Float[Tensor, "K B n"], x: Float[Tensor, "B n"]
) -> Float[Tensor, " B"]:
    r"""先平均各次序的对数几率，再当作伯努利算出的“对数似然”；它不是对数似然。

    Args:
        logits: K 个次序下的对数几率。
        x: 二值向量。

    Returns:
        每个样本的分数（nat）；对全部 x 取指数求和一般不等于 1，因此不能与对数似然相比。

    Raises:
        ValueError: logits 不是 (K, B, n) 的浮点张量，或 x 不是形状相配的二值浮点张量。

    出处:
        karpathy/pytorch-made@81886cc, run.py 的评测写法。

    示例:
        >>> x = torch.tensor([[1.0, 1.0]])
        >>> averaged_logit_score(coupled_pair_logits(20.0, x), x).exp()
        tensor([0.9999])
    """
    require_floats("logits", logits, "K", "B", "n")
    require_floats("x", x, *logits.shape[1:])
    require_binary("x", x)
    mean = logits.mean(dim=0)
    return -F.binary_cross_entropy_with_logits(mean, x, reduction="none").sum(dim=-1)


def logit_average_partition(coupling: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    r"""coupled_pair_logits 的两种次序平均对数几率之后，四个状态的“概率”之和。

    Args:
        coupling: 耦合强度 L（无量纲）。

    Returns:
        总和 Z(L)；只在 L = 0 处等于 1，随 |L| 增大趋于 2。

    Raises:
        ValueError: coupling 不是浮点张量。

    出处:
        本站推导。

    示例:
        >>> logit_average_partition(torch.tensor([0.0, 2.0, 6.0]))
        tensor([1.0000, 1.2136, 1.8193])
    """
    require_floats("coupling", coupling)
    return 2 * torch.sigmoid(coupling / 2) ** 2 + 2 * torch.sigmoid(-coupling / 2) ** 2
