"""各 rank 的样本数不同，或损失是和、是按词元的平均时，本地的损失该乘几。

约定:
    梯度由 DDP 求平均，即各 rank 之和除以进程数 N；这里的系数都是为了抵消这个 N。
"""

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from formulary.checks import require_count, require_floats


def averaging_error(
    gradients: Float[Tensor, "N P"], counts: Int[Tensor, " N"]
) -> Float[Tensor, " P"]:
    r"""不管样本数、直接平均各 rank 的梯度，比全批量的梯度多出多少。

    Args:
        gradients: 第 k 行是 rank k 对自己样本取平均的梯度 $g_k$。
        counts: 各 rank 的样本数 $n_k$（个）。

    Returns:
        $\frac1N\sum_k g_k-\nabla L$；样本数都相同时为零。

    Raises:
        ValueError: gradients 不是二维浮点张量，或 counts 不是每 rank 一个正整数。

    示例:
        >>> averaging_error(torch.tensor([[1.0], [4.0]]), torch.tensor([2, 1]))
        tensor([0.5000])
    """
    require_floats("gradients", gradients, "N", "P")
    whole = isinstance(counts, Tensor) and counts.dtype == torch.int64
    if not whole or counts.shape != gradients.shape[:1] or (counts < 1).any():
        raise ValueError(f"counts 必须是 {len(gradients)} 个正整数（int64 张量），得到 {counts!r}")
    excess = 1 / len(counts) - counts.to(gradients.dtype) / counts.sum()
    return excess @ gradients


def weighted_local_loss(
    losses: Float[Tensor, " N"], total: int, world_size: int
) -> Float[Tensor, ""]:
    r"""本 rank 的损失，乘上系数之后，各 rank 的梯度平均恰是全批量平均损失的梯度。

    Args:
        losses: 本 rank 每个样本的损失；可以是空的，但要连着计算图。
        total: 全部 rank 的样本总数 n（个）。
        world_size: 进程数 N。

    Returns:
        $\frac Nn\sum_i\ell_i$，标量。

    Raises:
        ValueError: losses 不是一维浮点张量，total 小于本 rank 的样本数，或 world_size 不是正整数。

    约定:
        样本数都相同时 N/n = 1/n_k，就是普通的平均。

    示例:
        >>> weighted_local_loss(torch.tensor([1.0, 2.0, 6.0]), total=4, world_size=2)
        tensor(4.5000)
    """
    require_floats("losses", losses, "N")
    require_count("total", total, max(1, len(losses)))
    require_count("world_size", world_size)
    return losses.sum() * (world_size / total)


def summed_local_loss(losses: Float[Tensor, " N"], world_size: int) -> Float[Tensor, ""]:
    r"""想要全部样本的损失之和时，本 rank 应当反向传播的损失。

    Args:
        losses: 本 rank 每个样本的损失。
        world_size: 进程数 N。

    Returns:
        $N\sum_i\ell_i$，标量；不乘 N 的话，DDP 平均之后只得到和的梯度的 1/N。

    Raises:
        ValueError: losses 不是一维浮点张量，或 world_size 不是正整数。

    示例:
        >>> summed_local_loss(torch.tensor([1.0, 2.0]), world_size=4)
        tensor(12.)
    """
    require_floats("losses", losses, "N")
    require_count("world_size", world_size)
    return losses.sum() * world_size


def global_token_mean(loss_sum: Float[Tensor, ""], tokens: int) -> Float[Tensor, ""]:
    r"""按词元平均的损失：先对全部 rank 的词元数求和，再决定本 rank 的系数。

    Args:
        loss_sum: 本 rank 的损失之和，填充的词元不算。
        tokens: 本 rank 参与求和的词元数（个），可以是 0。

    Returns:
        $N\cdot$ loss_sum $/$ 全部 rank 的词元数，标量。

    Raises:
        ValueError: loss_sum 不是浮点标量，tokens 是负数，或全部 rank 的词元数之和为 0。

    约定:
        含一次集合通信，每个 rank 都要调用；有梯度累积时，tokens 与 loss_sum 都要先对
        全部微批量求和，不能逐个微批量调用。

    示例:
        >>> from formulary.ddp.processes import run_ranks
        >>> run_ranks(2, lambda: global_token_mean(torch.tensor(6.0), dist.get_rank() + 1))[0]
        tensor(4.)
    """
    require_floats("loss_sum", loss_sum)
    if loss_sum.ndim:
        raise ValueError(f"loss_sum 必须是标量，得到形状 {tuple(loss_sum.shape)}；先求和")
    require_count("tokens", tokens, 0)
    total = torch.tensor(tokens, device=loss_sum.device)
    dist.all_reduce(total)
    if total == 0:
        raise ValueError("tokens 在每个 rank 上都是 0，没有可以平均的词元")
    return loss_sum * (dist.get_world_size() / total.item())  # 整数张量相除会得 float32
