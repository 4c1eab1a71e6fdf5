"""采样之外的解码：逐步降温、整体降温、贪心解码与穷举最大概率的状态。"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from formulary.autoregressive_models.enumeration import binary_states, state_log_probs
from formulary.autoregressive_models.sampling import require_temperature
from formulary.checks import require_count, require_floats, require_permutation


def tempered_distributions(
    logits: Callable[[Tensor], Tensor],
    n: int,
    temperature: float,
    dtype: torch.dtype = torch.float32,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""同一个温度的两种用法：逐步除以温度，与整个联合分布取 1/T 次幂。

    Args:
        logits: 模型，(N, n) 的 x 到 (N, n) 的对数几率（无量纲）。
        n: 变量的个数，1 到 20。
        temperature: 温度 T（无量纲），正数。
        dtype: 枚举状态用的浮点类型，与模型的参数一致。

    Returns:
        (逐步降温的分布, 整体降温的分布)，都在全部 2^n 个状态上，次序同 binary_states。

    Raises:
        ValueError: n 不在 1 到 20 之间，或 temperature 不是正数。

    约定:
        T = 1 时两者都是模型本身；各变量独立时两者对任何 T 都相同。

    出处:
        本文推导。

    示例:
        >>> stepwise, joint = tempered_distributions(torch.ones_like, 2, 0.5)
        >>> torch.allclose(stepwise, joint)
        True
    """
    require_temperature(temperature)
    stepwise = state_log_probs(lambda x: logits(x) / temperature, n, dtype).exp()
    joint = torch.softmax(state_log_probs(logits, n, dtype) / temperature, dim=-1)
    return stepwise, joint


def local_normalizers(logits: Float[Tensor, "B n"], temperature: float) -> Float[Tensor, "B n"]:
    r"""每一步降温时除掉的归一化常数 Z_i，它依赖前缀。

    Args:
        logits: 模型在 x 处的对数几率（无量纲）。
        temperature: 温度 T（无量纲），正数。

    Returns:
        Z_i，即两个条件概率各取 1/T 次幂之后的和（无量纲）；T = 1 时恒为 1。

    Raises:
        ValueError: logits 不是二维的实浮点张量，或 temperature 不是正数。

    出处:
        本文推导。

    示例:
        >>> local_normalizers(torch.tensor([[0.0, 100.0]]), 0.5)
        tensor([[0.5000, 1.0000]])
    """
    require_floats("logits", logits, "B", "n")
    require_temperature(temperature)
    log_one = F.logsigmoid(logits) / temperature
    log_zero = F.logsigmoid(-logits) / temperature
    return torch.logaddexp(log_one, log_zero).exp()


def greedy_decode(
    logits: Callable[[Tensor], Tensor],
    n: int,
    order: Int[Tensor, " n"] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, " n"]:
    r"""贪心解码：每一步取条件概率较大的值，得到一个确定的状态。

    Args:
        logits: 模型，(B, n) 的 x 到 (B, n) 的对数几率（无量纲）。
        n: 变量的个数。
        order: 模型的次序，order[t] 是第 t 个被定下的变量，从 0 起；不给则为自然次序。
        dtype: 状态的浮点类型，与模型的参数一致。

    Returns:
        一个状态，元素为 0 或 1。

    Raises:
        ValueError: n 不是正整数，或 order 不是排列。

    约定:
        对数几率大于 0 取 1，否则取 0（平局取 0）；没有平局时，等于温度趋于 0 的祖先采样。

    出处:
        标准做法；与最大概率状态的差别由本文推导。

    示例:
        >>> greedy_decode(lambda x: x.cumsum(-1) - x - 0.5, 3)
        tensor([0., 0., 0.])
    """
    require_count("n", n)
    order = torch.arange(n) if order is None else order
    require_permutation("order", order, n)
    x = torch.zeros(1, n, dtype=dtype)
    with torch.no_grad():
        for i in order.tolist():
            x[:, i] = logits(x)[:, i] > 0
    return x.squeeze(0)


def most_probable_state(
    logits: Callable[[Tensor], Tensor], n: int, dtype: torch.dtype = torch.float32
) -> Float[Tensor, " n"]:
    r"""穷举 2^n 个状态，取概率最大的一个（最大后验状态，MAP）。

    Args:
        logits: 模型，(N, n) 的 x 到 (N, n) 的对数几率（无量纲）。
        n: 变量的个数，1 到 20。
        dtype: 枚举状态用的浮点类型，与模型的参数一致。

    Returns:
        一个状态，元素为 0 或 1；并列时取 binary_states 里靠前的。

    Raises:
        ValueError: n 不在 1 到 20 之间。

    出处:
        标准做法。

    示例:
        >>> most_probable_state(torch.ones_like, 3)
        tensor([1., 1., 1.])
    """
    return binary_states(n, dtype)[state_log_probs(logits, n, dtype).argmax()]
