"""对比学习的损失不是样本损失之和：负样本要从全部 rank 收集，梯度也要传回去。"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.distributed._functional_collectives import all_gather_single_autograd

from formulary.checks import require_floats


def gathered_infonce(
    queries: Float[Tensor, "B d"], keys: Float[Tensor, "B d"], temperature: float = 1.0
) -> Float[Tensor, ""]:
    r"""InfoNCE 损失，负样本取自全部 rank。

    Args:
        queries: 本 rank 的查询，第 i 行与 keys 的第 i 行配对。
        keys: 本 rank 的键；各 rank 的行数要相同。
        temperature: 温度 τ，正数（无量纲）。

    Returns:
        本 rank 的查询的平均损失（nat），标量。

    Raises:
        ValueError: queries 与 keys 不是同样形状的二维浮点张量，或 temperature 不是正数。

    约定:
        收集是可微的：反向把各 rank 对同一行的梯度加起来，再经 DDP 平均，
        得到的恰是单个进程在全部样本上的梯度。

    出处:
        van den Oord et al. 2018, arXiv:1807.03748v2, 式 (4)。

    示例:
        >>> from formulary.ddp.processes import run_ranks
        >>> x = torch.ones(3, 2)
        >>> run_ranks(2, lambda: gathered_infonce(x, x).exp().round())
        [tensor(6.), tensor(6.)]
    """
    require_floats("queries", queries, "B", "d")
    require_floats("keys", keys, *queries.shape)
    if not temperature > 0:
        raise ValueError(f"temperature 必须是正数，得到 {temperature!r}")
    gathered = all_gather_single_autograd(keys.contiguous(), 0, dist.group.WORLD)
    mine = dist.get_rank() * len(keys) + torch.arange(len(keys), device=keys.device)
    return F.cross_entropy(queries @ gathered.T / temperature, mine)
