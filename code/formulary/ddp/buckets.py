"""DDP 的桶：哪些参数的梯度合在一起通信，真实的 DDP 用了哪些桶，桶占多少内存。"""

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from formulary.checks import require_count


def assign_buckets(sizes: Sequence[int], caps: Sequence[int]) -> list[list[int]]:
    r"""依次把参数装进桶，装到不小于上限就封口。

    Args:
        sizes: 各参数的梯度的字节数，按装桶的次序。
        caps: 各桶的上限（字节）；桶比上限多时，后面的都用最后一个。

    Returns:
        各桶所装参数的下标，从 0 起。

    Raises:
        ValueError: 有字节数为负，caps 为空，或有上限不是正整数。

    约定:
        装进之后才比较，所以桶可以超过上限，超出的不到最后那个参数。梯度都是同一类型：
        torch 给每种类型与设备各开各的桶，稀疏的梯度每个单独成桶。

    出处:
        torch.distributed._compute_bucket_assignment_by_size（torch 2.13）。

    示例:
        >>> assign_buckets([400, 800, 1200, 200, 1600, 40], [1200, 2000])
        [[0, 1], [2, 3, 4], [5]]
    """
    if not caps:
        raise ValueError("caps 至少要有一个上限")
    for cap in caps:
        require_count("caps 的每一项", cap)
    for size in sizes:
        require_count("sizes 的每一项", size, least=0)
    buckets: list[list[int]] = []
    opened, filled = list[int](), 0
    for index, size in enumerate(sizes):
        opened.append(index)
        filled += size
        if filled >= caps[min(len(buckets), len(caps) - 1)]:
            buckets.append(opened)
            opened, filled = [], 0
    return [*buckets, opened] if opened else buckets


def record_buckets(model: DistributedDataParallel) -> list[list[list[int]]]:
    r"""给 DDP 装上通信钩子，记下每次反向用了哪些桶；梯度照样平均，只是通信不再与反向重叠。

    Args:
        model: 还没有装过通信钩子的 DDP 模块。

    Returns:
        一个列表，每次反向之后多一项：各桶按通信的次序，每桶是其中各参数的字节数。

    Raises:
        ValueError: model 不是 DistributedDataParallel。

    约定:
        钩子的第二个参数必须叫 bucket；求和与除以世界大小都由钩子负责，DDP 不再做。

    示例:
        >>> from formulary.ddp.processes import run_ranks
        >>> wrapped = lambda: DistributedDataParallel(nn.Linear(3, 2))
        >>> step = lambda model: model(torch.ones(1, 3)).sum().backward()
        >>> run_ranks(2, lambda: [record_buckets(model := wrapped()), step(model)][0])[0]
        [[[24, 8]]]
    """
    if not isinstance(model, DistributedDataParallel):
        raise ValueError(f"model 必须是 DistributedDataParallel，得到 {type(model).__name__}")
    record: list[list[list[int]]] = []

    def hook(_state: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        if bucket.index() == 0:
            record.append([])
        record[-1].append([p.nbytes for p in bucket.parameters()])
        gradients = bucket.buffer().div_(dist.get_world_size())
        dist.all_reduce(gradients)
        future: torch.futures.Future[Tensor] = torch.futures.Future()
        future.set_result(gradients)
        return future

    model.register_comm_hook(None, hook)
    return record


def bucket_copy_bytes(
    parameters: Iterable[nn.Parameter], *, gradient_as_bucket_view: bool = False
) -> int:
    r"""桶在梯度之外另占的内存：梯度就是桶的视图时不占，否则与全部梯度一样大。

    Args:
        parameters: 要求梯度的参数。
        gradient_as_bucket_view: 是否让各参数的 grad 直接指向桶里。

    Returns:
        字节数，不含分配器取整的零头。

    Raises:
        ValueError: parameters 里有不要求梯度的参数。

    出处:
        torch.nn.parallel.DistributedDataParallel 的文档。

    示例:
        >>> bucket_copy_bytes(nn.Linear(3, 2).parameters())
        32
    """
    parameters = list(parameters)
    if not all(isinstance(p, Tensor) and p.requires_grad for p in parameters):
        raise ValueError("parameters 的每一项都必须是要求梯度的参数，DDP 不管别的")
    return 0 if gradient_as_bucket_view else sum(p.nbytes for p in parameters)
