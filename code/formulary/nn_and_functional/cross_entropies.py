r"""交叉熵：逐样本、加权与忽略、标签平滑，以及误把概率当对数几率的后果。

约定:
    类别从 0 数起；对数取自然对数，损失以 nat 计。
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from formulary.checks import require_count, require_floats, require_indices
from formulary.nn_and_functional.softmax import log_softmax

IGNORED = -100  # PyTorch 的默认值：标签等于它的样本不计入损失


def cross_entropy(
    z: Float[Tensor, "B K"], y: Int[Tensor, " B"], ignore_index: int = IGNORED
) -> Float[Tensor, " B"]:
    r"""每个样本的交叉熵：负的对数概率。

    Args:
        z: 对数几率，每行一个样本。
        y: 标签，整数，在 [0, K) 里，或等于 ignore_index。
        ignore_index: 标签等于它的样本损失记 0。

    Returns:
        损失（nat），不作任何平均，相当于 reduction="none"。

    Raises:
        ValueError: z 不是二轴的浮点张量，y 不是同长的整数张量，或标签越界。

    出处:
        PyTorch 2.13, torch.nn.CrossEntropyLoss, torch.nn.functional.cross_entropy。

    示例:
        >>> cross_entropy(torch.tensor([[0.0, 0.0], [3.0, 0.0]]), torch.tensor([1, 0]))
        tensor([0.6931, 0.0486])
    """
    kept, safe = _labels(z, y, ignore_index)
    return -log_softmax(z, dim=-1).gather(1, safe[:, None]).squeeze(1).masked_fill(~kept, 0)


def mean_cross_entropy(
    z: Float[Tensor, "B K"],
    y: Int[Tensor, " B"],
    weight: Float[Tensor, " K"],
    ignore_index: int = IGNORED,
) -> Float[Tensor, ""]:
    r"""加权、可忽略的平均交叉熵：分母是计入的样本的权重之和，不是样本数。

    Args:
        z: 对数几率，每行一个样本。
        y: 标签。
        weight: 每一类的权重，非负。
        ignore_index: 标签等于它的样本既不进分子，也不进分母。

    Returns:
        平均损失（nat）；一个样本也不计入时为 NaN。

    Raises:
        ValueError: 形状或类型不符，标签越界，或权重为负。

    出处:
        PyTorch 2.13, torch.nn.CrossEntropyLoss, reduction="mean"。

    示例:
        >>> z, y = torch.zeros(3, 2), torch.tensor([0, 1, -100])
        >>> mean_cross_entropy(z, y, torch.tensor([1.0, 3.0]))
        tensor(0.6931)
    """
    kept, safe = _labels(z, y, ignore_index)
    require_floats("weight", weight, z.shape[1])
    if (weight < 0).any():
        raise ValueError(f"weight 不能为负，得到 {weight.min().item():g}")
    weights = weight[safe] * kept
    return (weights * cross_entropy(z, y, ignore_index)).sum() / weights.sum()


def smoothed_cross_entropy(
    z: Float[Tensor, "B K"], y: Int[Tensor, " B"], smoothing: float
) -> Float[Tensor, " B"]:
    r"""标签平滑之后的逐样本交叉熵。

    Args:
        z: 对数几率，每行一个样本。
        y: 标签。
        smoothing: 从真标签匀给全部 K 类的概率，在 [0, 1] 里。

    Returns:
        损失（nat）。

    Raises:
        ValueError: 形状或类型不符，标签越界，或 smoothing 不在 [0, 1] 里。

    约定:
        均匀分布含真标签自己，故它最后占 1 − smoothing + smoothing/K。

    出处:
        Szegedy et al. 2016, arXiv:1512.00567, §7；PyTorch 2.13, label_smoothing。

    示例:
        >>> smoothed_cross_entropy(torch.tensor([[4.0, 0.0]]), torch.tensor([0]), 0.5)
        tensor([1.0181])
    """
    _labels(z, y, None)
    require_fraction("smoothing", smoothing)
    spread = -log_softmax(z, dim=-1).mean(dim=-1)
    return (1 - smoothing) * cross_entropy(z, y, ignore_index=-1) + smoothing * spread


def smoothed_optimum(classes: int, smoothing: float) -> tuple[float, float]:
    r"""标签平滑的最小损失，与取到它时真类对其余各类的对数几率之差。

    Args:
        classes: 类别数 K，至少 2。
        smoothing: 平滑的强度，在 (0, 1) 里。

    Returns:
        最小损失（nat）与对数几率之差（无量纲）。

    Raises:
        ValueError: K 小于 2，或 smoothing 不在 (0, 1) 里。

    出处:
        Müller et al. 2019, arXiv:1906.02629, §1。

    示例:
        >>> [round(value, 3) for value in smoothed_optimum(10, 0.1)]
        [0.5, 4.511]
    """
    require_count("classes", classes, 2)
    if not 0 < smoothing < 1:
        raise ValueError(f"smoothing 必须在 (0, 1) 里，得到 {smoothing!r}")
    true, other = 1 - smoothing + smoothing / classes, smoothing / classes
    entropy = -true * math.log(true) - (classes - 1) * other * math.log(other)
    return entropy, math.log(true / other)


def least_double_softmax_loss(classes: int) -> float:
    r"""把概率当作对数几率交给交叉熵时，损失再小也不会低于的值。

    Args:
        classes: 类别数 K，至少 2。

    Returns:
        下界（nat），概率全压在真类上时取到。

    Raises:
        ValueError: K 小于 2。

    示例:
        >>> round(least_double_softmax_loss(10), 4)
        1.4612
    """
    require_count("classes", classes, 2)
    return math.log(math.e + classes - 1) - 1


def require_fraction(name: str, value: float) -> None:
    """要求 value 在 [0, 1] 里。"""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} 必须在 [0, 1] 里，得到 {value!r}")


def _labels(z: Tensor, y: Tensor, ignore_index: int | None) -> tuple[Tensor, Tensor]:
    """哪些样本计入，以及把不计入的换成 0 之后的标签。"""
    require_floats("z", z, "B", "K")
    require_indices("y", torch.zeros_like(y) if isinstance(y, Tensor) else y, 1, z.shape[0])
    kept = torch.ones_like(y, dtype=torch.bool) if ignore_index is None else y != ignore_index
    safe = y.masked_fill(~kept, 0).long()
    require_indices("y", safe, z.shape[1], z.shape[0])
    return kept, safe
