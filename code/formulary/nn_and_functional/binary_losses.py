r"""二分类的交叉熵与 KL 散度：从对数几率算起。"""

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats, require_probabilities


def binary_cross_entropy_from_logits(
    z: Float[Tensor, "*batch"], y: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    r"""由对数几率算二元交叉熵，z 再大也不溢出、不截断。

    Args:
        z: 对数几率（无量纲）。
        y: 目标，0 到 1 之间的浮点数。

    Returns:
        逐元素的损失（nat）。

    Raises:
        ValueError: z 或 y 不是形状相同的浮点张量，或 y 不在 [0, 1] 里。

    出处:
        PyTorch 2.13, torch.nn.functional.binary_cross_entropy_with_logits。

    示例:
        >>> binary_cross_entropy_from_logits(torch.tensor([-200.0]), torch.tensor([1.0]))
        tensor([200.])
    """
    _require_targets(z, y)
    return z.clamp(min=0) - z * y + (-z.abs()).exp().log1p()


def weighted_binary_cross_entropy(
    z: Float[Tensor, "*batch"], y: Float[Tensor, "*batch"], pos_weight: float
) -> Float[Tensor, "*batch"]:
    r"""正例乘以权重的二元交叉熵，同样稳定。

    Args:
        z: 对数几率（无量纲）。
        y: 目标，0 到 1 之间的浮点数。
        pos_weight: 正例的权重，正数；大于 1 时更怕漏报。

    Returns:
        逐元素的损失（nat）。

    Raises:
        ValueError: z 或 y 不是形状相同的浮点张量，y 不在 [0, 1] 里，或权重不是正数。

    出处:
        PyTorch 2.13, torch.nn.BCEWithLogitsLoss, pos_weight。

    示例:
        >>> weighted_binary_cross_entropy(torch.zeros(2), torch.tensor([0.0, 1.0]), 3.0)
        tensor([0.6931, 2.0794])
    """
    _require_targets(z, y)
    if not pos_weight > 0:
        raise ValueError(f"pos_weight 必须是正数，得到 {pos_weight!r}")
    factor = 1 + (pos_weight - 1) * y
    return (1 - y) * z + factor * ((-z).clamp(min=0) + (-z.abs()).exp().log1p())


def binary_loss_steps(
    z: Float[Tensor, "*batch"], y: Float[Tensor, "*batch"]
) -> tuple[Float[Tensor, "*batch"], ...]:
    r"""二元交叉熵从定义到稳定写法的每一步，各行的值相同。

    Args:
        z: 对数几率（无量纲）；绝对值不大时各行才都算得出。
        y: 目标，0 到 1 之间的浮点数。

    Returns:
        三行的值（nat）：定义、合并之后、稳定的写法。

    Raises:
        ValueError: z 或 y 不是形状相同的浮点张量，或 y 不在 [0, 1] 里。

    示例:
        >>> binary_loss_steps(torch.zeros(1), torch.ones(1))
        (tensor([0.6931]), tensor([0.6931]), tensor([0.6931]))
    """
    _require_targets(z, y)
    p = 1 / (1 + (-z).exp())
    definition = -y * p.log() - (1 - y) * (1 - p).log()
    merged = z - z * y + (1 + (-z).exp()).log()
    return definition, merged, binary_cross_entropy_from_logits(z, y)


def kl_divergence_loss(log_q: Float[Tensor, "B K"], p: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
    r"""每行一个分布时的平均 KL 散度 D(p‖q)，即 F.kl_div 的 reduction="batchmean"。

    Args:
        log_q: 模型的对数概率（nat）；PyTorch 的第一个参数就是它，不是概率。
        p: 目标的概率。

    Returns:
        各行散度的平均（nat）。

    Raises:
        ValueError: log_q 或 p 不是形状相同的二轴浮点张量，或 p 不在 [0, 1] 里。

    约定:
        0·log 0 = 0。PyTorch 的 reduction="mean" 还要再除以 K，不是散度。

    出处:
        PyTorch 2.13, torch.nn.KLDivLoss, torch.nn.functional.kl_div。

    示例:
        >>> kl_divergence_loss(torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[0.0, 1.0]]))
        tensor(0.2877)
    """
    require_floats("log_q", log_q, "B", "K")
    require_floats("p", p, *log_q.shape)
    require_probabilities("p", p)
    return (torch.xlogy(p, p) - p * log_q).sum(dim=-1).mean()


def _require_targets(z: Tensor, y: Tensor) -> None:
    """要求 z 与 y 是形状相同的浮点张量，y 在 [0, 1] 里。"""
    require_floats("z", z)
    require_floats("y", y, *z.shape)
    require_probabilities("y", y)
