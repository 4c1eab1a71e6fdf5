"""教师强制：训练时的前缀来自数据，采样时的前缀来自模型，两种前缀下的误差。"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from formulary.autoregressive_models.enumeration import binary_states, state_log_probs


def prefix_gaps(
    data: Callable[[Tensor], Tensor],
    model: Callable[[Tensor], Tensor],
    n: int,
    dtype: torch.dtype = torch.float32,
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    r"""各步的条件分布差多少：前缀取自数据分布时的平均，与前缀取自模型时的平均。

    Args:
        data: 数据分布的对数几率，(N, n) 到 (N, n)（无量纲）。
        model: 模型的对数几率，(N, n) 到 (N, n)（无量纲）。
        n: 变量的个数，1 到 20。
        dtype: 枚举状态用的浮点类型。

    Returns:
        (教师强制的各步差距, 自由生成的各步差距)，单位 nat：第 i 个元素是数据的条件分布
        到模型的条件分布的 KL 散度，对 x_{<i} 取平均。

    Raises:
        ValueError: n 不在 1 到 20 之间。

    约定:
        两个分布都写成自然次序的自回归形式；教师强制的各步之和等于联合分布的 KL 散度。

    出处:
        KL 散度的链式法则，Cover & Thomas 定理 2.5.3；曝光偏差的提法见 Ranzato et al. 2016,
        arXiv:1511.06732。

    示例:
        >>> forced, free = prefix_gaps(torch.zeros_like, torch.zeros_like, 3)
        >>> forced, free
        (tensor([0., 0., 0.]), tensor([0., 0., 0.]))
    """
    states = binary_states(n, dtype)
    true, guess = data(states), model(states)  # (N, n)
    one = torch.sigmoid(true) * (F.logsigmoid(true) - F.logsigmoid(guess))
    zero = torch.sigmoid(-true) * (F.logsigmoid(-true) - F.logsigmoid(-guess))
    divergences = one + zero  # 只依赖 x_{<i}，所以对整个 x 平均与对前缀平均是一回事
    forced, free = (state_log_probs(f, n, dtype).exp() @ divergences for f in (data, model))
    return forced, free
