"""没有用到的参数：有的 rank 有梯度、有的没有时怎样求平均。"""

import torch
import torch.distributed as dist
from torch import nn


def average_used_gradients(model: nn.Module) -> None:
    r"""求各 rank 梯度的平均，没有梯度的 rank 算作零；哪个 rank 都没有的，保持 None。

    Args:
        model: 各 rank 上同样的模型，已经反向传播过；参数可以没有梯度。

    约定:
        除数是进程数 N，不是用到它的 rank 数。先通信一次，得知每个参数有几个 rank 用到，
        各 rank 由此对要不要通信得出同样的结论，不会有的等、有的不等。
        DistributedDataParallel(find_unused_parameters=True) 的结果与此相同；它不论用到没有
        都通信每一个桶，计数只用来决定谁保持 None。

    出处:
        PyTorch 2.13 的 reducer.cpp，local_used_map。

    示例:
        >>> from formulary.ddp.processes import run_ranks
        >>> layer = torch.nn.Linear(1, 1)
        >>> use = lambda: layer.bias.sum().backward() if dist.get_rank() == 0 else None
        >>> run_ranks(2, lambda: (use(), average_used_gradients(layer), layer.bias.grad)[2])
        [tensor([0.5000]), tensor([0.5000])]
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        return
    users = torch.tensor(
        [parameter.grad is not None for parameter in parameters], device=parameters[0].device
    ).int()
    dist.all_reduce(users)
    for parameter, count in zip(parameters, users.tolist(), strict=True):
        if count == 0:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)
        parameter.grad /= dist.get_world_size()
