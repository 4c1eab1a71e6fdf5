"""图的泄漏：一个小小的累加量留住了每一步的计算图。"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats, require_probabilities


def reachable_nodes(tensor: Tensor) -> int:
    r"""从一个张量沿 grad_fn 能走到多少个反向结点，也就是它留住了多大的图。

    Args:
        tensor: 任意张量。

    Returns:
        结点数（个），含叶子的 AccumulateGrad；不在图上的张量为 0。

    Raises:
        ValueError: tensor 不是张量。

    示例:
        >>> x = torch.ones(1, requires_grad=True)
        >>> reachable_nodes(x * 2 + x), reachable_nodes((x * 2 + x).detach())
        (3, 0)
    """
    if not isinstance(tensor, Tensor):
        raise ValueError(f"tensor 必须是张量，得到 {type(tensor).__name__}")
    seen, waiting = set(), [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(following for following, _ in node.next_functions)
    return len(seen)


def total_loss_with_graph(
    weight: Float[Tensor, " n"], batches: Sequence[Float[Tensor, "B n"]], backward: bool = True
) -> Float[Tensor, ""]:
    r"""错的：直接把损失加进总和，总和于是连着每一步的图。

    Args:
        weight: 要梯度的参数。
        batches: 各步的输入，损失是投影的均方。
        backward: 每步是否反向；验证时不反向。

    Returns:
        损失之和，带着全部历史；应当加 loss.detach() 或 loss.item()。

    Raises:
        ValueError: weight 不是一维浮点张量，或某个 batch 的宽度与它不符。

    约定:
        反向过的图只剩结点，存档的张量已经释放；没有反向过的，连存档的张量一起留着。

    示例:
        >>> w = torch.ones(2, requires_grad=True)
        >>> total_loss_with_graph(w, [torch.ones(3, 2)] * 2).requires_grad
        True
    """
    require_floats("weight", weight, "n")
    total = torch.zeros((), dtype=weight.dtype)
    for x in batches:
        require_floats("batches 的每一项", x, "B", len(weight))
        loss = (x @ weight).square().mean()
        if backward:
            loss.backward()
        total += loss  # 应当是 loss.detach()
    return total


def running_mean_with_graph(
    weight: Float[Tensor, " n"], batches: Sequence[Float[Tensor, "B n"]], momentum: float = 0.1
) -> Float[Tensor, " n"]:
    r"""错的：运行均值用了没有 detach 的批均值，留住了每一步的图。

    Args:
        weight: 逐特征的缩放，要梯度的参数。
        batches: 各步的输入。
        momentum: 新值的权重 $\rho$（无量纲）。

    Returns:
        运行均值，带着全部历史。

    Raises:
        ValueError: weight 不是一维浮点张量，某个 batch 的宽度与它不符，或 momentum 不在 [0, 1] 里。

    出处:
        labmlai/annotated_deep_learning_paper_implementations@03197f4 的 BatchNorm 是这样更新的。

    示例:
        >>> w = torch.ones(2, requires_grad=True)
        >>> reachable_nodes(running_mean_with_graph(w, [torch.ones(3, 2)] * 4))
        20
    """
    require_floats("weight", weight, "n")
    require_probabilities("momentum", torch.tensor(float(momentum)))
    running = torch.zeros_like(weight)
    for x in batches:
        require_floats("batches 的每一项", x, "B", len(weight))
        mean = (x * weight).mean(dim=0)
        running = (1 - momentum) * running + momentum * mean  # 应当用 mean.detach()
    return running
