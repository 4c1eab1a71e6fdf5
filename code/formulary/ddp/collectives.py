"""集合通信的六个原语，用点对点的消息照定义直接写出；通信之前先核对各 rank 的调用。

直接的写法消息多、流量大，用来看清定义；省流量的环形归约见 ring。张量放在 CPU 上，后端是 gloo。
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Num
from torch import Tensor

from formulary.checks import require_count

HEADER = 256  # 字节；报出自己的调用所用的定长消息


def exchange(outgoing: Mapping[int, Tensor], incoming: Mapping[int, Tensor]) -> None:
    r"""同时发出、接收若干条点对点的消息，全部完成才返回。

    Args:
        outgoing: 对方的 rank 到要发出的张量，返回之前不可改动。
        incoming: 对方的 rank 到接收用的张量，形状与类型要和对方发出的一样。

    Raises:
        RuntimeError: 进程组的期限之内没有等到某个 rank，或它已经退出；错误里说出是哪一个。

    约定:
        先登记全部接收与发送再等待。若各 rank 都先发完再收，会互相等待而死锁。

    示例:
        >>> from formulary.ddp.processes import run_ranks
        >>> def swap():
        ...     other, y = 1 - dist.get_rank(), torch.zeros(1)
        ...     exchange({other: torch.tensor([10.0 + other])}, {other: y})
        ...     return y.item()
        >>> run_ranks(2, swap)
        [10.0, 11.0]
    """
    works = [(peer, _naming(peer, dist.irecv, y, peer)) for peer, y in incoming.items()]
    works += [(peer, _naming(peer, dist.isend, x, peer)) for peer, x in outgoing.items()]
    for peer, work in works:
        _naming(peer, work.wait)


def require_same_call(call: str, x: object) -> None:
    r"""要求各 rank 的调用一致：同一个运算、同样的形状与类型；先于数据交换，每个 rank 都报错。

    Args:
        call: 运算的名字与参数。
        x: 要参加运算的张量。

    Raises:
        ValueError: 有 rank 的调用与多数不同，错误里说出是哪些；或 x 不是实数张量。
        RuntimeError: 有 rank 在期限之内没有到。

    约定:
        各 rank 两两交换一条 HEADER 字节的消息，所以没有到的 rank 人人都能直接指出。

    示例:
        >>> from formulary.ddp.processes import run_ranks
        >>> run_ranks(2, lambda: require_same_call("sum", torch.zeros(2)))
        [None, None]
    """
    form = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
    text = f"{call} {form}".encode()[:HEADER]
    mine = torch.tensor(list(text.ljust(HEADER, b"\0")), dtype=torch.uint8)
    rank, others = dist.get_rank(), _others()
    headers = {rank: mine} | {peer: torch.empty_like(mine) for peer in others}
    exchange(dict.fromkeys(others, mine), {peer: headers[peer] for peer in others})
    calls = [
        bytes(headers[k].tolist()).rstrip(b"\0").decode(errors="replace")
        for k in range(len(headers))
    ]
    usual = Counter(calls).most_common(1)[0][0]
    odd = "；".join(f"rank {k} 是 {said}" for k, said in enumerate(calls) if said != usual)
    if odd:
        raise ValueError(f"各 rank 的调用必须一致：{odd}，其余是 {usual}")
    if not isinstance(x, Tensor) or x.dtype.is_complex or x.dtype == torch.bool:
        raise ValueError(f"x 必须是实数张量，得到 {form}")


def broadcast(x: Num[Tensor, "..."], root: int) -> Num[Tensor, "..."]:
    r"""广播：每个 rank 得到 root 的张量。

    Args:
        x: 各 rank 的张量，形状与类型相同；只有 root 的值有用。
        root: 来源的 rank，从 0 起。

    Returns:
        root 的 x 的副本。

    Raises:
        ValueError: 各 rank 的调用不一致，或 root 不是组里的 rank。
        RuntimeError: 有 rank 在期限之内没有到。

    出处:
        torch.distributed.broadcast。

    示例:
        >>> from formulary.ddp.processes import run_ranks
        >>> run_ranks(3, lambda: broadcast(torch.tensor(dist.get_rank()), 2).item())
        [2, 2, 2]
    """
    require_same_call(f"broadcast(root={root})", x)
    _require_root(root)
    y = x.detach().clone(memory_format=torch.contiguous_format)
    if dist.get_rank() == root:
        exchange(dict.fromkeys(_others(), y), {})
    else:
        exchange({}, {root: y})
    return y


def reduce(x: Num[Tensor, "..."], root: int) -> Num[Tensor, "..."] | None:
    r"""归约：root 得到各 rank 的张量之和，别的 rank 什么也得不到。

    Args:
        x: 各 rank 的张量，形状与类型相同。
        root: 得到结果的 rank，从 0 起。

    Returns:
        root 上是和，按 rank 从小到大相加；别的 rank 上是 None。

    Raises:
        ValueError: 各 rank 的调用不一致，或 root 不是组里的 rank。
        RuntimeError: 有 rank 在期限之内没有到。

    出处:
        torch.distributed.reduce。

    示例:
        >>> from formulary.ddp.processes import run_ranks
        >>> run_ranks(3, lambda: reduce(torch.tensor([2]), 1))
        [None, tensor([6]), None]
    """
    require_same_call(f"reduce(root={root})", x)
    _require_root(root)
    x = x.detach().contiguous()
    if dist.get_rank() != root:
        exchange({root: x}, {})
        return None
    parts = {k: x if k == root else torch.empty_like(x) for k in range(dist.get_world_size())}
    exchange({}, {k: part for k, part in parts.items() if k != root})
    return _add_up(list(parts.values()))


def all_to_all(x: Num[Tensor, "N *batch"]) -> Num[Tensor, "N *batch"]:
    r"""全交换：rank k 的第 j 块是 rank j 的第 k 块。

    Args:
        x: 每个 rank 有 N 块，N 是世界大小；第 j 块要交给 rank j。

    Returns:
        收到的 N 块，第 j 块来自 rank j。

    Raises:
        ValueError: 各 rank 的调用不一致，或块数不是 N。
        RuntimeError: 有 rank 在期限之内没有到。

    出处:
        torch.distributed.all_to_all_single。

    示例:
        >>> from formulary.ddp.processes import run_ranks
        >>> run_ranks(2, lambda: all_to_all(torch.tensor([0, 1]) + 10 * dist.get_rank()))
        [tensor([ 0, 10]), tensor([ 1, 11])]
    """
    require_same_call("all_to_all", x)
    require_chunks(x)
    x = x.detach().contiguous()
    y = x.clone()
    exchange({j: x[j] for j in _others()}, {j: y[j] for j in _others()})
    return y


def all_gather(x: Num[Tensor, "*batch"]) -> Num[Tensor, "N *batch"]:
    r"""全收集：每个 rank 得到全部 rank 的张量，按 rank 排列。

    Args:
        x: 各 rank 的张量，形状与类型相同。

    Returns:
        第 j 块是 rank j 的张量。

    Raises:
        ValueError: 各 rank 的调用不一致。
        RuntimeError: 有 rank 在期限之内没有到。

    约定:
        等于全交换：交给每个 rank 的都是同一块。

    出处:
        torch.distributed.all_gather_single。

    示例:
        >>> from formulary.ddp.processes import run_ranks
        >>> run_ranks(2, lambda: all_gather(torch.tensor(5 + dist.get_rank())))
        [tensor([5, 6]), tensor([5, 6])]
    """
    require_same_call("all_gather", x)
    return all_to_all(x.expand(dist.get_world_size(), *x.shape))


def reduce_scatter(x: Num[Tensor, "N *batch"]) -> Num[Tensor, "*batch"]:
    r"""归约散布：rank k 得到各 rank 的第 k 块之和。

    Args:
        x: 每个 rank 有 N 块，N 是世界大小。

    Returns:
        第 k 块的和，按 rank 从小到大相加。

    Raises:
        ValueError: 各 rank 的调用不一致，或块数不是 N。
        RuntimeError: 有 rank 在期限之内没有到。

    出处:
        torch.distributed.reduce_scatter_single。

    示例:
        >>> from formulary.ddp.processes import run_ranks
        >>> run_ranks(2, lambda: reduce_scatter(torch.tensor([1, 2]) + 10 * dist.get_rank()))
        [tensor(12), tensor(14)]
    """
    return _add_up(list(all_to_all(x)))


def all_reduce(x: Num[Tensor, "..."]) -> Num[Tensor, "..."]:
    r"""全归约：每个 rank 得到各 rank 的张量之和。

    Args:
        x: 各 rank 的张量，形状与类型相同。

    Returns:
        和，按 rank 从小到大相加，所以各 rank 的结果逐位相同。

    Raises:
        ValueError: 各 rank 的调用不一致。
        RuntimeError: 有 rank 在期限之内没有到。

    约定:
        先收齐再相加，每个 rank 要发出 N − 1 份完整的张量。

    出处:
        torch.distributed.all_reduce。

    示例:
        >>> from formulary.ddp.processes import run_ranks
        >>> run_ranks(2, lambda: all_reduce(torch.tensor([1.0, dist.get_rank()])))
        [tensor([2., 1.]), tensor([2., 1.])]
    """
    return _add_up(list(all_gather(x)))


def all_reduce_in_halves(x: Num[Tensor, "N *batch"]) -> Num[Tensor, "N *batch"]:
    r"""全归约的两半：先归约散布，再全收集。

    Args:
        x: 每个 rank 有 N 块，N 是世界大小。

    Returns:
        各 rank 的 x 之和。

    Raises:
        ValueError: 各 rank 的调用不一致，或块数不是 N。
        RuntimeError: 有 rank 在期限之内没有到。

    约定:
        每个 rank 只发出 2(N − 1)/N 份张量。

    出处:
        Thakur, Rabenseifner, Gropp 2005。

    示例:
        >>> from formulary.ddp.processes import run_ranks
        >>> run_ranks(2, lambda: all_reduce_in_halves(torch.tensor([3, 4])))
        [tensor([6, 8]), tensor([6, 8])]
    """
    return all_gather(reduce_scatter(x))


def require_chunks(x: Tensor) -> None:
    """要求 x 的第一轴是 N 块，N 是世界大小。"""
    if x.ndim == 0 or len(x) != dist.get_world_size():
        raise ValueError(f"x 的第一轴必须是 {dist.get_world_size()} 块，得到 {tuple(x.shape)}")


def _naming(peer: int, act: Callable[..., Any], *arguments: Any) -> Any:
    """登记或等待一条消息，出错时说出对方是谁；对方已经退出时，登记就会报错。"""
    try:
        return act(*arguments)
    except RuntimeError as error:
        raise RuntimeError(f"与 rank {peer} 的通信没有完成：{error}") from error


def _add_up(parts: list[Tensor]) -> Tensor:
    """按次序相加；不用 Tensor.sum，它把整数类型变成 int64。"""
    return sum(parts[1:], start=parts[0])


def _others() -> list[int]:
    """组里别的 rank。"""
    return [k for k in range(dist.get_world_size()) if k != dist.get_rank()]


def _require_root(root: int) -> None:
    """要求 root 是组里的 rank。"""
    require_count("root", root, least=0)
    if root >= dist.get_world_size():
        raise ValueError(f"root 必须小于 {dist.get_world_size()}，得到 {root}")
