"""分数匹配：不碰归一化常数，直接学对数密度的梯度。

约定:
    score 是逐行作用的函数，(N, n) → (N, n)，第 j 行只依赖输入的第 j 行；
    损失对样本取平均，对维数求和。
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats


def score_from_energy(
    energy: Callable[[Tensor], Tensor], x: Float[Tensor, "N n"]
) -> Float[Tensor, "N n"]:
    r"""能量模型的分数 −∇E(x)，归一化常数对 x 求导后消失。

    Args:
        energy: 能量函数，(N, n) → (N,)（nat）。
        x: N 个样本，每行一个。

    Returns:
        各样本处的分数（nat 除以 x 的单位）；可以继续对能量的参数求导。

    Raises:
        ValueError: x 不是二维的实浮点张量。

    出处:
        Song & Ermon 2019, arXiv:1907.05600, 第 2 节。

    示例:
        >>> x = torch.tensor([[1.0, -3.0]])
        >>> score_from_energy(lambda x: x.square().sum(-1) / 2, x).tolist()
        [[-1.0, 3.0]]
    """
    require_floats("x", x, "N", "n")
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        values = energy(x)
        (gradient,) = torch.autograd.grad(values.sum(), x, create_graph=True)
    return -gradient if torch.is_grad_enabled() else -gradient.detach()


def _values_and_trace(score: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """各行的分数 (N, n) 与雅可比矩阵的迹 (N,)，每一维求导一次。"""
    x = x.detach().requires_grad_()
    values = score(x)
    trace = torch.zeros_like(x[:, 0])
    for i in range(x.shape[1]):
        (rows,) = torch.autograd.grad(
            values[:, i].sum(), x, create_graph=True, materialize_grads=True
        )
        trace = trace + rows[:, i]
    return values, trace


def integration_by_parts(
    score: Callable[[Tensor], Tensor],
    data_score: Callable[[Tensor], Tensor],
    x: Float[Tensor, "N n"],
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""分部积分的两边：s·∇log p 与 −tr ∇s，在 p 下的期望相等。

    Args:
        score: 模型的分数 s。
        data_score: 数据分布的分数 ∇log p。
        x: N 个点，每行一个。

    Returns:
        两边在各点的值；逐点不等，对 p 取期望后相等。

    Raises:
        ValueError: x 不是二维的实浮点张量。

    出处:
        Hyvärinen 2005, Estimation of Non-Normalized Statistical Models by Score Matching, 定理 1。

    示例:
        >>> x = torch.tensor([[-1.0], [1.0]])
        >>> left, right = integration_by_parts(lambda x: 3 * x, lambda x: -x, x)
        >>> left.tolist(), right.tolist()
        ([-3.0, -3.0], [-3.0, -3.0])
    """
    require_floats("x", x, "N", "n")
    values, trace = _values_and_trace(score, x)
    return (values * data_score(x)).sum(-1), -trace


def score_matching_loss(
    score: Callable[[Tensor], Tensor], x: Float[Tensor, "N n"]
) -> Float[Tensor, ""]:
    r"""分数匹配的目标：E[tr ∇s + ½‖s‖²]，只要样本，不要数据的分数。

    Args:
        score: 待学的分数 s。
        x: N 个数据样本，每行一个。

    Returns:
        损失，与真正的均方误差 ½E‖s − ∇log p‖² 相差一个与 s 无关的常数，所以可以为负。

    Raises:
        ValueError: x 不是二维的实浮点张量。

    约定:
        迹要反向传播 n 次，n 很大时改用去噪分数匹配。

    出处:
        Hyvärinen 2005, Estimation of Non-Normalized Statistical Models by Score Matching, 定理 1。

    示例:
        >>> score_matching_loss(lambda x: -x, torch.tensor([[1.0, 1.0], [1.0, 3.0]])).item()
        1.0
    """
    require_floats("x", x, "N", "n")
    values, trace = _values_and_trace(score, x)
    return (trace + values.square().sum(-1) / 2).mean()
