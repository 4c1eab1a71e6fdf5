"""通信与反向的重叠：桶一个个就绪，链路一次传一个；算出用时，也用一条慢链路在真实的 DDP 上量。

约定:
    时间的单位是秒，从反向开始时计；一个 s 字节的桶占用链路 α + βs 秒，先就绪的先传。
"""

import math
import time
from queue import SimpleQueue
from threading import Thread
from typing import NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_count, require_floats


def bucket_finish_times(
    ready: Float[Tensor, " N"], sizes: Float[Tensor, " N"], alpha: float, beta: float
) -> Float[Tensor, " N"]:
    r"""各桶通信完成的时刻：等自己就绪，也等前一个桶传完。

    Args:
        ready: 各桶就绪的时刻（秒），不减。
        sizes: 各桶的字节数。
        alpha: 一次通信的固定开销（秒）。
        beta: 每字节的时间（秒/字节）。

    Returns:
        完成的时刻（秒）。

    Raises:
        ValueError: ready 与 sizes 不是同样长的一维浮点张量，ready 不是非负不减的，或代价为负。

    出处:
        Li et al. 2020, arXiv:2006.15704 的重叠机制；模型为本站的推导。

    示例:
        >>> ready, sizes = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([2.0, 4.0, 2.0])
        >>> bucket_finish_times(ready, sizes, alpha=1.0, beta=0.5)
        tensor([3., 6., 8.])
    """
    _require_buckets(ready, sizes, alpha, beta)
    finish, previous = [], ready.new_zeros(())
    for r, s in zip(ready, sizes, strict=True):
        previous = torch.maximum(r, previous) + alpha + beta * s
        finish.append(previous)
    return torch.stack(finish)


def bucket_finish_times_unrolled(
    ready: Float[Tensor, " N"], sizes: Float[Tensor, " N"], alpha: float, beta: float
) -> Float[Tensor, " N"]:
    r"""各桶通信完成的时刻的展开式：从某个桶就绪起链路一直不空，取最晚的一种。

    Args:
        ready: 各桶就绪的时刻（秒），不减。
        sizes: 各桶的字节数。
        alpha: 一次通信的固定开销（秒）。
        beta: 每字节的时间（秒/字节）。

    Returns:
        完成的时刻（秒）。

    Raises:
        ValueError: ready 与 sizes 不是同样长的一维浮点张量，ready 不是非负不减的，或代价为负。

    出处:
        把 bucket_finish_times 的递推逐层展开，本站的推导。

    示例:
        >>> ready, sizes = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([2.0, 4.0, 2.0])
        >>> bucket_finish_times_unrolled(ready, sizes, alpha=1.0, beta=0.5)
        tensor([3., 6., 8.])
    """
    _require_buckets(ready, sizes, alpha, beta)
    through = (alpha + beta * sizes).cumsum(0)  # 前 i 个桶一共占用链路多久
    before = through - (alpha + beta * sizes)
    return through + (ready - before).cummax(0).values


def overlapped_step_time(
    forward: float,
    backward: float,
    ready: Float[Tensor, " N"],
    sizes: Float[Tensor, " N"],
    alpha: float,
    beta: float,
) -> float:
    r"""边算边传时，前向、反向与通信一共要多久。

    Args:
        forward: 前向的用时（秒）。
        backward: 反向的用时（秒）。
        ready: 各桶就绪的时刻（秒），不减，从反向开始时计。
        sizes: 各桶的字节数。
        alpha: 一次通信的固定开销（秒）。
        beta: 每字节的时间（秒/字节）。

    Returns:
        时间（秒），不含优化器。

    Raises:
        ValueError: 参数不合 bucket_finish_times 的要求，或 forward、backward 为负。

    出处:
        Li et al. 2020, arXiv:2006.15704 的重叠机制；模型为本站的推导。

    示例:
        >>> ready, sizes = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([2.0, 4.0, 2.0])
        >>> overlapped_step_time(3.0, 6.0, ready, sizes, alpha=1.0, beta=0.5)
        11.0
    """
    _require_times(forward=forward, backward=backward)
    return forward + max(backward, bucket_finish_times(ready, sizes, alpha, beta)[-1].item())


def sequential_step_time(
    forward: float, backward: float, sizes: Float[Tensor, " N"], alpha: float, beta: float
) -> float:
    r"""反向全部算完才通信时，前向、反向与通信一共要多久。

    Args:
        forward: 前向的用时（秒）。
        backward: 反向的用时（秒）。
        sizes: 各桶的字节数。
        alpha: 一次通信的固定开销（秒）。
        beta: 每字节的时间（秒/字节）。

    Returns:
        时间（秒），不含优化器。

    Raises:
        ValueError: sizes 不是一维浮点张量，或时间、代价为负。

    示例:
        >>> sequential_step_time(3.0, 6.0, torch.tensor([2.0, 4.0, 2.0]), alpha=1.0, beta=0.5)
        16.0
    """
    _require_times(forward=forward, backward=backward)
    _require_buckets(torch.zeros_like(sizes), sizes, alpha, beta)
    return forward + backward + (alpha + beta * sizes).sum().item()


def equal_bucket_time(count: int, backward: float, size: float, alpha: float, beta: float) -> float:
    r"""梯度均匀产生、分成同样大的桶时，从反向开始到通信完成的时间。

    Args:
        count: 桶数 $B$。
        backward: 反向的用时（秒）。
        size: 全部梯度的字节数。
        alpha: 一次通信的固定开销（秒）。
        beta: 每字节的时间（秒/字节）。

    Returns:
        时间（秒）。

    Raises:
        ValueError: count 不是正整数，或别的参数是负数。

    约定:
        第 i 个桶在反向的 i/B 处就绪。

    出处:
        由 bucket_finish_times_unrolled 取等大的桶，本站的推导。

    示例:
        >>> equal_bucket_time(2, backward=4.0, size=8.0, alpha=1.0, beta=0.5)
        8.0
    """
    require_count("count", count)
    _require_times(backward=backward, size=size, alpha=alpha, beta=beta)
    link_bound = backward / count + count * alpha + size * beta
    compute_bound = backward + alpha + size * beta / count
    return max(link_bound, compute_bound)


def optimal_bucket_count(backward: float, size: float, alpha: float, beta: float) -> float:
    r"""使 equal_bucket_time 最小的桶数，当作实数。

    Args:
        backward: 反向的用时（秒）。
        size: 全部梯度的字节数。
        alpha: 一次通信的固定开销（秒），大于 0。
        beta: 每字节的时间（秒/字节）。

    Returns:
        桶数，不小于 1；最好的整数是它两侧之一。

    Raises:
        ValueError: 参数是负数，或 alpha 是 0（那样桶越多越好）。

    出处:
        对 equal_bucket_time 求最小，本站的推导。

    示例:
        >>> optimal_bucket_count(backward=4.0, size=8.0, alpha=0.25, beta=0.5)
        4.0
    """
    _require_times(backward=backward, size=size, alpha=alpha, beta=beta)
    if alpha == 0:
        raise ValueError("alpha 必须大于 0，否则桶越多越好")
    return max(1.0, math.sqrt(backward / alpha), (backward - beta * size) / alpha)


class BucketSpan(NamedTuple):
    """一个桶的字节数与就绪、开始通信、完成通信的时刻（time.perf_counter 的秒）。"""

    size: int
    ready: float
    start: float
    finish: float


class SlowLink:
    r"""一条慢链路：一个线程依次归约各桶，每个至少占用 α + βs 秒，并记下时刻。

    用法是 model.register_comm_hook(link, SlowLink.hook)，model 是 DDP 模块。

    Args:
        alpha: 一次通信的固定开销（秒）。
        beta: 每字节的时间（秒/字节）。

    Raises:
        ValueError: alpha 或 beta 为负。

    约定:
        归约是真实的 dist.all_reduce，比 α + βs 快的部分用睡眠补足；钩子自己除以世界大小。
        钩子立即返回一个 Future，反向照常往前算，DDP 在反向的末尾等全部 Future 完成。

    示例:
        >>> from formulary.ddp.processes import run_ranks
        >>> wrapped = lambda: torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3, 2))
        >>> attach = lambda model, link: model.register_comm_hook(link, SlowLink.hook)
        >>> step = lambda model: model(torch.ones(1, 3)).sum().backward()
        >>> use = lambda model, link: [attach(model, link), step(model), len(link.spans)][2]
        >>> run_ranks(2, lambda: use(wrapped(), SlowLink(alpha=0.01, beta=0.0)))
        [1, 1]
    """

    def __init__(self, alpha: float, beta: float) -> None:
        _require_times(alpha=alpha, beta=beta)
        self.alpha, self.beta = alpha, beta
        self.spans: list[BucketSpan] = []
        self.queue: SimpleQueue[tuple[float, Tensor, torch.futures.Future[Tensor]]] = SimpleQueue()
        Thread(target=self._serve, daemon=True).start()

    def hook(self, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        """DDP 的通信钩子：桶一就绪便排进队，马上返回。"""
        future: torch.futures.Future[Tensor] = torch.futures.Future()
        self.queue.put((time.perf_counter(), bucket.buffer(), future))
        return future

    def _serve(self) -> None:
        """链路：先来的先传，一次一个。"""
        while True:
            ready, buffer, future = self.queue.get()
            start = time.perf_counter()
            dist.all_reduce(buffer)
            until = start + self.alpha + self.beta * buffer.nbytes
            while (left := until - time.perf_counter()) > 0:
                time.sleep(left)
            self.spans.append(BucketSpan(buffer.nbytes, ready, start, time.perf_counter()))
            future.set_result(buffer / dist.get_world_size())


def _require_times(**values: float) -> None:
    """要求各参数是有限的非负数。"""
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} 必须是有限的非负数，得到 {value!r}")


def _require_buckets(ready: Tensor, sizes: Tensor, alpha: float, beta: float) -> None:
    """要求就绪的时刻非负不减，字节数非负，两者一样长且不空，代价非负。"""
    require_floats("ready", ready, "N")
    require_floats("sizes", sizes, len(ready))
    if len(ready) == 0:
        raise ValueError("至少要有一个桶")
    if (ready < 0).any() or (ready.diff() < 0).any():
        raise ValueError(f"ready 必须非负且不减，得到 {ready.tolist()}")
    if (sizes < 0).any():
        raise ValueError(f"sizes 必须非负，得到 {sizes.tolist()}")
    _require_times(alpha=alpha, beta=beta)
