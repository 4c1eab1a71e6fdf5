"""梯度噪声尺度：批量大到什么程度，再加样本就不划算。

约定:
    Σ 是单个样本梯度的协方差，G 是总体的梯度；批量为 B 的梯度的协方差是 Σ/B。
"""

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_count, require_floats
from formulary.ddp.moments import sum_over_ranks


def noise_scale_estimate(
    small_squared_norm: float, small_batch: int, big_squared_norm: float, big_batch: int
) -> tuple[float, float]:
    r"""由两种批量的梯度的范数平方，无偏地估计 |G|² 与 tr Σ。

    Args:
        small_squared_norm: 小批量的梯度的范数平方（的平均）。
        small_batch: 小批量的大小（个）。
        big_squared_norm: 大批量的梯度的范数平方（的平均）。
        big_batch: 大批量的大小（个），必须大于 small_batch。

    Returns:
        |G|² 与 tr Σ 的估计（梯度单位的平方）；单次的估计可能为负。

    Raises:
        ValueError: 批量不是正整数，或 big_batch 不大于 small_batch。

    约定:
        噪声尺度是两者之比，先分别平均再相除：比的平均是有偏的。

    出处:
        McCandlish et al. 2018, arXiv:1812.06162, 附录 A.1。

    示例:
        >>> noise_scale_estimate(5.0, 2, 3.0, 4)
        (1.0, 8.0)
    """
    require_count("small_batch", small_batch)
    require_count("big_batch", big_batch, small_batch + 1)
    span = big_batch - small_batch
    squared_gradient = (big_batch * big_squared_norm - small_batch * small_squared_norm) / span
    trace = (small_squared_norm - big_squared_norm) * small_batch * big_batch / span
    return squared_gradient, trace


def squared_norms_over_ranks(gradient: Float[Tensor, " P"]) -> tuple[float, float]:
    r"""各 rank 的梯度：范数平方的平均，与平均的范数平方；正是估计噪声尺度要的两个数。

    Args:
        gradient: 本 rank 的梯度 g_k，还没有与别的 rank 平均。

    Returns:
        (1/N)∑|g_k|² 与 |(1/N)∑g_k|²（梯度单位的平方），各 rank 相同。

    Raises:
        ValueError: gradient 不是一维实浮点张量。

    约定:
        没有进程组时当作只有一个 rank，两个数相等。

    示例:
        >>> from formulary.ddp.processes import run_ranks
        >>> run_ranks(2, lambda: squared_norms_over_ranks(torch.eye(2)[dist.get_rank()]))[0]
        (1.0, 0.5)
    """
    require_floats("gradient", gradient, "P")
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    mean = sum_over_ranks(gradient) / world_size
    small = sum_over_ranks(gradient.square().sum()) / world_size
    return small.item(), mean.square().sum().item()


def best_step(
    gradient: Float[Tensor, " P"],
    hessian: Float[Tensor, "P P"],
    covariance: Float[Tensor, "P P"],
    batch: int,
) -> tuple[float, float]:
    r"""二次近似下使损失的期望下降最多的步长，与这个下降量。

    Args:
        gradient: 总体的梯度 G，不全为零。
        hessian: 黑塞矩阵 H。
        covariance: 单个样本的梯度的协方差 Σ。
        batch: 批量 B（个）。

    Returns:
        最好的步长，与它使损失的期望下降多少（损失的单位）。

    Raises:
        ValueError: 形状对不上，batch 不是正整数，或期望里的二次项不是正的（此时没有最好的步长）。

    出处:
        McCandlish et al. 2018, arXiv:1812.06162, 第 2.2 节。

    示例:
        >>> best_step(torch.tensor([2.0]), torch.eye(1), torch.tensor([[4.0]]), 1)
        (0.5, 1.0)
    """
    require_floats("gradient", gradient, "P")
    require_floats("hessian", hessian, len(gradient), len(gradient))
    require_floats("covariance", covariance, len(gradient), len(gradient))
    require_count("batch", batch)
    slope = gradient.square().sum()
    curved = gradient @ hessian @ gradient + torch.trace(hessian @ covariance) / batch
    if not curved > 0:
        raise ValueError(f"hessian 给出的二次项必须为正，得到 {curved.item():.3g}")
    return (slope / curved).item(), (slope**2 / (2 * curved)).item()


def steps_and_samples(
    batch: float, critical_batch: float, minimum_steps: float
) -> tuple[float, float]:
    r"""到达同一损失所需的步数与样本数，随批量怎样此消彼长。

    Args:
        batch: 批量 B（个）。
        critical_batch: 临界批量 B_crit（个）。
        minimum_steps: 批量无穷大时的步数 S_min（步）。

    Returns:
        步数 S（步）与样本数 E（个）。

    Raises:
        ValueError: 有参数不是正数。

    出处:
        McCandlish et al. 2018, arXiv:1812.06162, 第 2.3 节。

    示例:
        >>> steps_and_samples(1000.0, 1000.0, 500.0)
        (1000.0, 1000000.0)
    """
    named = {"batch": batch, "critical_batch": critical_batch, "minimum_steps": minimum_steps}
    for name, value in named.items():
        if not value > 0:
            raise ValueError(f"{name} 必须是正数，得到 {value!r}")
    steps = minimum_steps * (1 + critical_batch / batch)
    return steps, batch * steps
