"""长短不一的输入：先用完数据的 rank 继续参加集合通信，直到大家都用完。"""

import torch
import torch.distributed as dist
from torch import nn


def average_active_gradients(
    model: nn.Module, active: bool, divide_by_initial_world_size: bool = True
) -> int:
    r"""求还有数据的 rank 的梯度的平均，就地写进每个 rank 的 .grad。

    Args:
        model: 各 rank 上同样的模型；active 的 rank 已经反向传播过。
        active: 本 rank 这一步是否有数据。
        divide_by_initial_world_size: 为真时除以进程数 N，否则除以还有数据的 rank 数。

    Returns:
        这一步有几个 rank 还有数据；为 0 时没有通信梯度，循环该结束了。

    Raises:
        ValueError: 本 rank 有数据，却有需要梯度的参数没有梯度。

    约定:
        每个 rank 每一步都要调用，用完数据的也是。除数的两种取法与
        DistributedDataParallel.join 的同名参数相同。

    示例:
        >>> from formulary.ddp.processes import run_ranks
        >>> layer = torch.nn.Linear(1, 1, bias=False)
        >>> average = lambda: average_active_gradients(layer, dist.get_rank() < 3)
        >>> step = lambda: (layer.weight.sum().backward(), average(), layer.weight.grad.item())
        >>> run_ranks(4, step)[3]
        (None, 3, 0.75)
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    missing = [name for name, parameter in parameters.items() if parameter.grad is None]
    if active and missing:
        raise ValueError(f"参数 {missing[0]} 没有梯度：有数据的 rank 要先反向传播")
    device = next(model.parameters()).device
    count = torch.tensor(int(active), device=device)
    dist.all_reduce(count)
    total = int(count)
    if total == 0:
        return 0
    for parameter in parameters.values():
        if not active:
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)
        parameter.grad /= dist.get_world_size() if divide_by_initial_world_size else total
    return total
