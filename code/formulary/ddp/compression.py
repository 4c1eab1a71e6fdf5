"""通信钩子：把梯度压成 float16 再全归约，与各种压缩要传的字节数。

约定:
    钩子返回的就是最后的梯度，DDP 不再除以 N；所以求平均是钩子自己的事。
"""

from collections.abc import Sequence
from math import prod

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_count, require_floats


def half_precision_hook(group: dist.ProcessGroup | None, bucket: dist.GradBucket):
    r"""用 float16 传梯度的通信钩子：转成 float16，除以 N，全归约，再转回来。

    用法是 ddp.register_comm_hook(None, half_precision_hook)。

    Args:
        group: 进程组；None 是默认的。
        bucket: DDP 给的一桶梯度。

    Returns:
        装着平均梯度的 Future，由 DDP 等待；通信与反向其余的部分重叠。

    约定:
        不标注返回类型：DDP 只许标注 torch.futures.Future[Tensor]，而 then 给的是它的基类。
        转换在除法之前，所以单个 rank 的梯度超过 65504 就变成 inf；求和也在 float16 里。

    出处:
        torch.distributed.algorithms.ddp_comm_hooks.default_hooks.fp16_compress_hook。

    示例:
        >>> from formulary.ddp.processes import run_ranks
        >>> def average():
        ...     model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 1))
        ...     model.register_comm_hook(None, half_precision_hook)
        ...     model(torch.tensor([[1.0, dist.get_rank()]])).sum().backward()
        ...     return model.module.weight.grad
        >>> run_ranks(2, average)[0]
        tensor([[1.0000, 0.5000]])
    """
    group = dist.group.WORLD if group is None else group
    packed = bucket.buffer().to(torch.float16).div_(group.size())
    future = dist.all_reduce(packed, group=group, async_op=True).get_future()
    return future.then(lambda done: bucket.buffer().copy_(done.value()[0]))


def half_precision_error_bound(gradients: Float[Tensor, "N P"]) -> Float[Tensor, " P"]:
    r"""half_precision_hook 的结果与精确平均之差的上界，没有溢出时成立。

    Args:
        gradients: 各 rank 的梯度，一行一个 rank。

    Returns:
        每个元素的误差上界（与梯度同单位）。

    Raises:
        ValueError: gradients 不是二维实浮点张量、没有行，或有元素的绝对值达到 65520。

    约定:
        u = 2⁻¹¹ 是 float16 的单位舍入，2⁻²⁵ 是它最小的非规格化数的一半。

    出处:
        推导见正文。

    示例:
        >>> half_precision_error_bound(torch.ones(1, 1)) > 2 * 2.0**-11
        tensor([True])
    """
    require_floats("gradients", gradients, "N", "P")
    world_size = len(gradients)
    require_count("gradients 的行数", world_size)
    if not (gradients.abs() < 65520).all():
        raise ValueError(f"gradients 必须小于 65520，得到 {gradients.abs().max().item():g}")
    growth = (1 + 2**-11) ** (world_size + 1)
    return (growth - 1) * gradients.abs().mean(dim=0) + growth * (world_size + 1) * 2**-25


def low_rank_ratio(rows: int, cols: int, r: int) -> float:
    r"""秩为 r 的压缩把 n_1 行 n_2 列的矩阵的元素个数缩小到几分之一。

    Args:
        rows: 行数 n_1（个）。
        cols: 列数 n_2（个）。
        r: 近似的秩，不超过行数与列数。

    Returns:
        压缩前后的元素个数之比（无量纲）；小于 1 说明越压越大。

    Raises:
        ValueError: 参数不是正整数，或秩超过行数、列数。

    出处:
        Vogels et al. 2019, arXiv:1905.13727。

    示例:
        >>> low_rank_ratio(512, 4608, 4)
        115.2
    """
    require_count("rows", rows)
    require_count("cols", cols)
    require_count("r", r)
    if r > min(rows, cols):
        raise ValueError(f"r 不能超过行数与列数中小的 {min(rows, cols)}，得到 {r}")
    return rows * cols / (r * (rows + cols))


def worth_compressing(shape: Sequence[int], r: int, minimum_ratio: float = 2.0) -> bool:
    """形状为 shape 的参数值不值得用秩 r 压缩：至少二维，且元素个数缩小的倍数超过 minimum_ratio。"""
    if len(shape) < 2:
        return False
    rows, cols = shape[0], prod(shape[1:])
    return low_rank_ratio(rows, cols, min(r, rows, cols)) > minimum_ratio


def compressed_elements(shapes: Sequence[Sequence[int]], r: int) -> int:
    """PowerSGD 每步要归约的元素个数：值得压的矩阵传 r(n_1 + n_2) 个，其余原样传。"""
    total = 0
    for shape in shapes:
        if worth_compressing(shape, r):
            rows, cols = shape[0], prod(shape[1:])
            total += min(r, rows, cols) * (rows + cols)
        else:
            total += prod(shape)
    return total


def hook_bytes(kind: str, shapes: Sequence[Sequence[int]], world_size: int, r: int = 1) -> float:
    r"""每个 rank 每步为梯度送出的字节数，按环形归约计。

    Args:
        kind: "float32"、"float16" 或 "power_sgd"（因子用 float32）。
        shapes: 各参数的形状。
        world_size: 进程数 N（个）。
        r: PowerSGD 的秩，另两种不用。

    Returns:
        字节数（字节）。

    Raises:
        ValueError: kind 不认识，或计数不是正整数。

    约定:
        形状不止一维的参数按第一维乘其余维看作矩阵；省下的不超过一半的不压；秩超过边长时取边长。

    示例:
        >>> [hook_bytes(kind, [(64, 32), (64,)], 2) for kind in ("float32", "float16", "power_sgd")]
        [8448.0, 4224.0, 640.0]
    """
    require_count("world_size", world_size)
    require_count("r", r)
    elements = sum(prod(shape) for shape in shapes)
    payloads = {
        "float32": 4 * elements,
        "float16": 2 * elements,
        "power_sgd": 4 * compressed_elements(shapes, r),
    }
    if kind not in payloads:
        raise ValueError(f"kind 必须是 {list(payloads)} 之一，得到 {kind!r}")
    return 2 * (world_size - 1) / world_size * payloads[kind]
