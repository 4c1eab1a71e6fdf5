"""梯度累积：几个微批量的梯度加在一起，只在最后一个上通信。"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

from torch import Tensor
from torch.nn.parallel import DistributedDataParallel


def accumulate_gradients(
    model: DistributedDataParallel,
    loss_function: Callable[[Tensor, Tensor], Tensor],
    micro_batches: Sequence[tuple[Tensor, Tensor]],
) -> float:
    r"""对几个微批量累积梯度；结束时各 rank 的 .grad 都是全部微批量、全部 rank 的平均。

    Args:
        model: 包装好的模型，.grad 已清零。
        loss_function: 接受输出与目标，返回对样本取平均的损失。
        micro_batches: 本 rank 的 A 个微批量，样本数要相同；各 rank 的 A 也要相同。

    Returns:
        本 rank 的 A 个损失的平均。

    Raises:
        ValueError: micro_batches 是空的。

    约定:
        前向与反向都在 no_sync 里面：要不要通信，DDP 在前向时就定了。每个损失乘 1/A。

    示例:
        >>> from formulary.ddp.processes import run_ranks
        >>> layer, x = torch.nn.Linear(1, 1, bias=False), torch.ones(1, 1)
        >>> mean = lambda outputs, _: outputs.mean()
        >>> step = lambda model: accumulate_gradients(model, mean, [(x, x), (2 * x, x)])
        >>> run_ranks(2, lambda: (step(DistributedDataParallel(layer)), layer.weight.grad)[1])
        [tensor([[1.5000]]), tensor([[1.5000]])]
    """
    if not micro_batches:
        raise ValueError("micro_batches 至少要有一个微批量，得到空的")
    count, total = len(micro_batches), 0.0
    for index, (inputs, targets) in enumerate(micro_batches):
        with model.no_sync() if index < count - 1 else nullcontext():
            loss = loss_function(model(inputs), targets) / count
            loss.backward()
        total += loss.item()
    return total
