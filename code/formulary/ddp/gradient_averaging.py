"""数据并行的一步：各 rank 算自己那份的梯度，求平均，更新。"""

from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn


def full_batch_gradient(
    model: nn.Module,
    sample_losses: Callable[[Tensor, Tensor], Tensor],
    inputs: Float[Tensor, "N ..."],
    targets: Float[Tensor, "N ..."],
) -> Float[Tensor, " P"]:
    r"""单个进程算的经验风险的梯度，全部参数拉成一个向量。

    Args:
        model: 模型。
        sample_losses: 接受输出与目标，返回每个样本的损失，形状 (N,)，不作归约。
        inputs: 全部样本的输入，第一轴是样本。
        targets: 全部样本的目标。

    Returns:
        $\nabla L(\theta)$，按 model.parameters() 的次序拼接；不动参数的 .grad。

    Raises:
        ValueError: sample_losses 返回的不是每样本一个数。

    约定:
        对样本取平均，不是求和。

    示例:
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> losses = lambda outputs, targets: (outputs - targets).flatten()
        >>> full_batch_gradient(model, losses, torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1))
        tensor([2.])
    """
    losses = sample_losses(model(inputs), targets)
    if losses.shape != (len(inputs),):
        raise ValueError(
            f"sample_losses 必须返回形状 ({len(inputs)},) 的张量，每个样本一个损失，"
            f"得到 {tuple(losses.shape)}；用 reduction='none' 并对其余的轴归约"
        )
    gradients = torch.autograd.grad(losses.mean(), list(model.parameters()))
    return torch.cat([gradient.flatten() for gradient in gradients])


def average_gradients(model: nn.Module) -> None:
    r"""把各 rank 的梯度换成它们的平均，就地改写 .grad。

    Args:
        model: 各 rank 上同样的模型，已经反向传播过。

    Raises:
        ValueError: 有需要梯度的参数没有梯度。

    约定:
        除以进程数 N，不看各 rank 有多少样本，与 DistributedDataParallel 相同。这里每个参数
        发一条消息，等反向算完才开始；DDP 把参数并成桶，边算边发。

    出处:
        Li et al. 2020, arXiv:2006.15704v1, 第 3 节。

    示例:
        >>> from formulary.ddp.processes import run_ranks
        >>> layer = torch.nn.Linear(1, 1, bias=False)
        >>> step = lambda x: (layer(x).backward(), average_gradients(layer))
        >>> run_ranks(2, lambda: (step(torch.ones(1) + dist.get_rank()), layer.weight.grad)[1])
        [tensor([[1.5000]]), tensor([[1.5000]])]
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.grad is None:
            raise ValueError(
                f"参数 {name} 没有梯度：先反向传播；若它这一步没有用到，改用 average_used_gradients"
            )
    for parameter in model.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()


def data_parallel_sgd(
    model: nn.Module,
    loss_function: Callable[[Tensor, Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    learning_rate: float,
) -> list[float]:
    r"""数据并行的随机梯度下降：就地训练 model，返回每一步整个小批量的损失。

    Args:
        model: 各 rank 上参数相同的模型。
        loss_function: 接受输出与目标，返回对样本取平均的损失。
        batches: 本 rank 的小批量，各 rank 的个数与每个的样本数都要相同。
        learning_rate: 学习率 η。

    Returns:
        每步一个数：更新之前，各 rank 损失的平均。各 rank 得到的相同。

    Raises:
        ValueError: learning_rate 不是正数。

    示例:
        >>> from formulary.ddp.processes import run_ranks
        >>> model, mse = torch.nn.Linear(1, 1, bias=False), torch.nn.MSELoss()
        >>> _ = torch.nn.init.ones_(model.weight)
        >>> batch = lambda: (torch.ones(1) + dist.get_rank(), torch.zeros(1))
        >>> run_ranks(2, lambda: data_parallel_sgd(model, mse, [batch()] * 2, 0.1))[0]
        [2.5, 0.625]
    """
    if not learning_rate > 0:
        raise ValueError(f"learning_rate 必须是正数，得到 {learning_rate!r}")
    history = []
    for inputs, targets in batches:
        model.zero_grad()
        loss = loss_function(model(inputs), targets)
        loss.backward()
        average_gradients(model)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:  # 冻结的没有
                    parameter -= learning_rate * parameter.grad
        total = loss.detach()
        dist.all_reduce(total)
        history.append(total.item() / dist.get_world_size())
    return history
