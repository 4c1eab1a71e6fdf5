"""梯度累积：几个微批量的梯度怎样加，才等于一次算完整个批量。"""

from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats


def token_weighted_gradient(
    token_losses: Callable[[Tensor, Tensor], Tensor],
    theta: Float[Tensor, " P"],
    micro_batches: Sequence[Tensor],
) -> Float[Tensor, " P"]:
    r"""逐个微批量反向，各以词元数占总数的比例加权，得到全体词元平均损失的梯度。

    Args:
        token_losses: token_losses(θ, 微批量)，返回每个词元的损失，长度等于微批量的长度。
        theta: 参数。
        micro_batches: 各微批量，第 0 轴是词元，长度可以不等。

    Returns:
        累积的梯度。

    Raises:
        ValueError: theta 不是一维浮点张量，没有微批量，或有一个是空的。

    约定:
        总词元数在第一次反向之前数好；也可以对损失之和反向，最后把梯度除以总数。

    出处:
        huggingface/transformers#34191（2024 年 10 月）修正的就是这个加权。

    示例:
        >>> batches = [torch.tensor([1.0]), torch.tensor([3.0, 5.0, 7.0])]
        >>> token_weighted_gradient(lambda t, x: t * x, torch.ones(1), batches)
        tensor([4.])
    """
    _require_batches(theta, micro_batches)
    theta = theta.detach().requires_grad_()
    total = sum(len(batch) for batch in micro_batches)
    for batch in micro_batches:
        loss = token_losses(theta, batch).sum() / total
        loss.backward()
    return theta.grad


def mean_of_means_gradient(
    token_losses: Callable[[Tensor, Tensor], Tensor],
    theta: Float[Tensor, " P"],
    micro_batches: Sequence[Tensor],
) -> Float[Tensor, " P"]:
    r"""错的：每个微批量先各自取平均，再除以微批量的个数；长度不等时不是全体的平均。

    Args:
        token_losses: token_losses(θ, 微批量)，返回每个词元的损失，长度等于微批量的长度。
        theta: 参数。
        micro_batches: 各微批量，第 0 轴是词元，长度可以不等。

    Returns:
        各微批量平均损失的平均的梯度。

    Raises:
        ValueError: theta 不是一维浮点张量，没有微批量，或有一个是空的。

    约定:
        各微批量一样长时与 token_weighted_gradient 相同。

    出处:
        huggingface/transformers#34191（2024 年 10 月）之前的写法。

    示例:
        >>> batches = [torch.tensor([1.0]), torch.tensor([3.0, 5.0, 7.0])]
        >>> mean_of_means_gradient(lambda t, x: t * x, torch.ones(1), batches)
        tensor([3.])
    """
    _require_batches(theta, micro_batches)
    theta = theta.detach().requires_grad_()
    for batch in micro_batches:
        loss = token_losses(theta, batch).mean() / len(micro_batches)
        loss.backward()
    return theta.grad


def _require_batches(theta: Tensor, micro_batches: Sequence[Tensor]) -> None:
    """检查参数是一维的，微批量至少一个且都不空。"""
    require_floats("theta", theta, "P")
    if not micro_batches:
        raise ValueError("micro_batches 至少要有一个微批量，得到空列表")
    for i, batch in enumerate(micro_batches):
        if len(batch) == 0:
            raise ValueError(f"micro_batches[{i}] 是空的，每个微批量至少要有一个词元")
