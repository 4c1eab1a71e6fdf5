"""穷举全部 2^n 个二值向量：小模型上求精确的分布，核对其余的算法。"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.autoregressive_models.bernoulli import bernoulli_log_prob
from formulary.checks import require_count

LARGEST = 20  # 约一百万个状态


def binary_states(n: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "N n"]:
    r"""全部 2^n 个二值向量，按二进制数从小到大，第一个变量是最高位。

    Args:
        n: 变量的个数，1 到 20。
        dtype: 结果的浮点类型。

    Returns:
        第 s 行是 s 的二进制展开。

    Raises:
        ValueError: n 不在 1 到 20 之间。

    示例:
        >>> binary_states(2).tolist()
        [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    """
    require_count("n", n)
    if n > LARGEST:
        raise ValueError(f"n 至多为 {LARGEST}，否则状态太多，得到 {n}")
    numbers = torch.arange(2**n)
    digits = torch.arange(n - 1, -1, -1)
    return ((numbers[:, None] >> digits) & 1).to(dtype)  # (2^n, n)


def state_log_probs(
    logits: Callable[[Tensor], Tensor], n: int, dtype: torch.dtype = torch.float32
) -> Float[Tensor, " N"]:
    r"""自回归模型在全部 2^n 个状态上的对数概率（nat），次序同 binary_states。

    Args:
        logits: 模型，(N, n) 的 x 到 (N, n) 的对数几率（无量纲）。
        n: 变量的个数，1 到 20。
        dtype: 枚举状态用的浮点类型，与模型的参数一致。

    Returns:
        第 s 个元素是第 s 个状态的对数概率；取指数再求和等于 1。

    Raises:
        ValueError: n 不在 1 到 20 之间。

    示例:
        >>> state_log_probs(torch.zeros_like, 2).exp()
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """
    states = binary_states(n, dtype)
    return bernoulli_log_prob(logits(states), states)
