"""环形归约：归约散布与全收集各转一圈，用真实的点对点消息；并数出发了多少字节。"""

from typing import NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Num
from torch import Tensor

from formulary.checks import require_count
from formulary.ddp.collectives import exchange, require_chunks, require_same_call


class Message(NamedTuple):
    """发出的一条消息：是哪一块，有多少字节。"""

    chunk: int
    size: int


def ring_reduce_scatter(
    chunks: Num[Tensor, "N M"], sent: list[Message] | None = None, *, check: bool = True
) -> Num[Tensor, " M"]:
    r"""环形归约散布：转 N − 1 步，rank r 得到第 (r + 1) mod N 块之和。

    Args:
        chunks: 本 rank 的 N 块，N 是世界大小，每块 M 个元素；不改动它。
        sent: 若给出，每发一条消息就记一项。
        check: 先与别的 rank 核对形状与类型；只有已经核对过的调用者才可以省去。

    Returns:
        第 (r + 1) mod N 块之和；第 c 块从 rank c 的值起，按 c, c + 1, … 的次序相加。

    Raises:
        ValueError: 各 rank 的形状或类型不一致，或块数不是 N。
        RuntimeError: 有 rank 在期限之内没有到。

    约定:
        每步向 r + 1 发、从 r − 1 收，下标都模 N。

    出处:
        Patarasuk & Yuan 2009；Sergeev & Del Balso 2018, arXiv:1802.05799。

    示例:
        >>> from formulary.ddp.processes import run_ranks
        >>> run_ranks(2, lambda: ring_reduce_scatter(torch.tensor([[1, 2], [3, 4]])))
        [tensor([6, 8]), tensor([2, 4])]
    """
    if check:
        require_same_call("ring_reduce_scatter", chunks)
    require_chunks(chunks)
    r, n = dist.get_rank(), dist.get_world_size()
    chunks = chunks.detach().clone(memory_format=torch.contiguous_format)
    received = torch.empty_like(chunks[0])
    for s in range(n - 1):
        outgoing = chunks[(r - s) % n]
        exchange({(r + 1) % n: outgoing}, {(r - 1) % n: received})
        chunks[(r - s - 1) % n] += received
        if sent is not None:
            sent.append(Message((r - s) % n, outgoing.nbytes))
    return chunks[(r + 1) % n]


def ring_all_gather(
    chunk: Num[Tensor, " M"], sent: list[Message] | None = None, *, check: bool = True
) -> Num[Tensor, "N M"]:
    r"""环形全收集：rank r 出第 (r + 1) mod N 块，转 N − 1 步，人人都有全部 N 块。

    Args:
        chunk: 本 rank 的一块，M 个元素。
        sent: 若给出，每发一条消息就记一项。
        check: 先与别的 rank 核对形状与类型；只有已经核对过的调用者才可以省去。

    Returns:
        全部 N 块，按块的编号排列。

    Raises:
        ValueError: 各 rank 的形状或类型不一致，或 chunk 不是一维的。
        RuntimeError: 有 rank 在期限之内没有到。

    约定:
        每步向 r + 1 发、从 r − 1 收，下标都模 N；收到的直接写进它的位置。

    出处:
        Patarasuk & Yuan 2009；Sergeev & Del Balso 2018, arXiv:1802.05799。

    示例:
        >>> from formulary.ddp.processes import run_ranks
        >>> run_ranks(2, lambda: ring_all_gather(torch.tensor([dist.get_rank()]))[:, 0])
        [tensor([1, 0]), tensor([1, 0])]
    """
    if check:
        require_same_call("ring_all_gather", chunk)
    if chunk.ndim != 1:
        raise ValueError(f"chunk 必须是一维的，得到 {tuple(chunk.shape)}")
    r, n = dist.get_rank(), dist.get_world_size()
    chunks = chunk.new_empty(n, len(chunk))
    chunks[(r + 1) % n] = chunk.detach()
    for s in range(n - 1):
        outgoing = chunks[(r + 1 - s) % n]
        exchange({(r + 1) % n: outgoing}, {(r - 1) % n: chunks[(r - s) % n]})
        if sent is not None:
            sent.append(Message((r + 1 - s) % n, outgoing.nbytes))
    return chunks


def ring_all_reduce(
    x: Num[Tensor, "..."], sent: list[Message] | None = None, *, check: bool = True
) -> Num[Tensor, "..."]:
    r"""环形归约：补零到 N 的倍数，切成 N 块，先归约散布，再全收集。

    Args:
        x: 各 rank 的张量，形状与类型相同；不改动它。
        sent: 若给出，每发一条消息就记一项，共 2(N − 1) 项。
        check: 先与别的 rank 核对形状与类型；False 省去这一次往返，不一致时后果不定。

    Returns:
        各 rank 的 x 之和，各 rank 逐位相同；不带计算图。

    Raises:
        ValueError: 各 rank 的形状或类型不一致，错误里说出是哪些 rank。
        RuntimeError: 有 rank 在期限之内没有到，错误里说出是哪一个。

    约定:
        求和，不除以 N。

    出处:
        Patarasuk & Yuan 2009；Sergeev & Del Balso 2018, arXiv:1802.05799。

    示例:
        >>> from formulary.ddp.processes import run_ranks
        >>> run_ranks(2, lambda: ring_all_reduce(torch.ones(3)))[0]
        tensor([2., 2., 2.])
    """
    if check:
        require_same_call("ring_all_reduce", x)
    n = dist.get_world_size()
    chunks = x.new_zeros(n, -(-x.numel() // n))
    chunks.view(-1)[: x.numel()] = x.detach().reshape(-1)
    own = ring_reduce_scatter(chunks, sent, check=False)
    total = ring_all_gather(own, sent, check=False)
    return total.view(-1)[: x.numel()].view(x.shape)


def ring_bytes(elements: int, world_size: int, itemsize: int) -> int:
    r"""环形归约里每个 rank 发出的字节数（也是收到的字节数）。

    Args:
        elements: 张量的元素个数 $P$。
        world_size: 世界大小 $N$。
        itemsize: 一个元素的字节数 $b$。

    Returns:
        字节数，含补的零，不含核对用的消息。

    Raises:
        ValueError: 参数不是正整数（elements 可以是 0）。

    出处:
        Patarasuk & Yuan 2009。

    示例:
        >>> ring_bytes(1003, 4, 8)
        12048
    """
    require_count("elements", elements, least=0)
    require_count("world_size", world_size)
    require_count("itemsize", itemsize)
    return 2 * (world_size - 1) * -(-elements // world_size) * itemsize


def ring_snapshots(x: Num[Tensor, "N N M"]) -> Num[Tensor, "T N N M"]:
    r"""在一个进程里重演环形归约，记下开始时与每一步之后各 rank 的各块。

    Args:
        x: x[r, c] 是 rank r 的第 c 块。

    Returns:
        2N − 1 张快照，第一张是 x 自己。

    Raises:
        ValueError: x 的前两轴不相等，或不是三维的。

    约定:
        全收集开始之前，各块只有一处是完整的和，别处留着部分和，与真实的运行一样。

    示例:
        >>> ring_snapshots(torch.tensor([[[1], [2]], [[4], [8]]]))[-1, :, :, 0]
        tensor([[ 5, 10],
                [ 5, 10]])
    """
    if x.ndim != 3 or x.shape[0] != x.shape[1]:
        raise ValueError(f"x 的形状必须是 (N, N, M)，得到 {tuple(x.shape)}")
    n, ranks = len(x), torch.arange(len(x))
    states = [x]
    for s in range(n - 1):
        state = states[-1].clone()
        state[(ranks + 1) % n, (ranks - s) % n] += states[-1][ranks, (ranks - s) % n]
        states.append(state)
    for s in range(n - 1):
        state = states[-1].clone()
        state[(ranks + 1) % n, (ranks + 1 - s) % n] = states[-1][ranks, (ranks + 1 - s) % n]
        states.append(state)
    return torch.stack(states)
