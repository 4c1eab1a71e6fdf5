"""线性探针：在固定的表示上拟合多类逻辑斯谛回归，用准确率衡量表示里有多少类别信息。"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from formulary.checks import require_count, require_floats, require_indices


def linear_probe_loss(
    z: Float[Tensor, "N m"],
    y: Int[Tensor, " N"],
    weight: Float[Tensor, "K m"],
    bias: Float[Tensor, " K"],
    penalty: float,
) -> Float[Tensor, ""]:
    r"""线性探针的目标：平均交叉熵加权重的平方惩罚。

    Args:
        z: N 个样本的表示，不再更新。
        y: 类别标签，从 0 起。
        weight: 各类的权重 W。
        bias: 各类的偏置 b，不受惩罚。
        penalty: 惩罚系数 λ（nat），非负。

    Returns:
        目标的值（nat）。

    Raises:
        ValueError: 形状不合，标签越界，或 penalty 为负。

    出处:
        带二次惩罚的最大似然，标准定义。

    示例:
        >>> z, y = torch.eye(2), torch.tensor([0, 1])
        >>> round(linear_probe_loss(z, y, torch.zeros(2, 2), torch.zeros(2), 0.1).item(), 4)
        0.6931
    """
    require_floats("z", z, "N", "m")
    require_floats("weight", weight, "K", z.shape[1])
    require_floats("bias", bias, len(weight))
    require_indices("y", y, len(weight), len(z))
    if not 0 <= penalty < math.inf:
        raise ValueError(f"penalty 必须非负，得到 {penalty!r}")
    logits = z @ weight.T + bias  # (N, K)
    return F.cross_entropy(logits, y.long()) + penalty / 2 * weight.square().sum()


def fit_linear_probe(
    z: Float[Tensor, "N m"],
    y: Int[Tensor, " N"],
    classes: int,
    penalty: float = 1e-3,
    steps: int = 500,
) -> tuple[Float[Tensor, "K m"], Float[Tensor, " K"]]:
    r"""用 LBFGS 把线性探针的目标降到最小，从零出发。

    Args:
        z: N 个样本的表示。
        y: 类别标签，从 0 起。
        classes: 类别数 K，至少 2。
        penalty: 惩罚系数 λ（nat），为正，否则可分的数据没有有限的解。
        steps: LBFGS 的最大迭代次数（步）。

    Returns:
        权重 W 与偏置 b；类别 argmax(W z + b) 是预测。

    Raises:
        ValueError: classes 或 steps 不合要求，penalty 不是正数，或 z、y 不合要求。

    约定:
        目标严格凸于 W；b 只差一个公共常数，从零出发时各类偏置之和保持为零。

    出处:
        Alain & Bengio 2017, arXiv:1610.01644。

    示例:
        >>> z, y = torch.tensor([[-1.0], [-2.0], [1.0], [3.0]]), torch.tensor([0, 0, 1, 1])
        >>> weight, bias = fit_linear_probe(z, y, 2)
        >>> (z @ weight.T + bias).argmax(-1)
        tensor([0, 0, 1, 1])
    """
    require_count("classes", classes, least=2)
    require_count("steps", steps)
    if not 0 < penalty < math.inf:
        raise ValueError(f"penalty 必须是正数，得到 {penalty!r}")
    require_floats("z", z, "N", "m")
    weight = z.new_zeros(classes, z.shape[1]).requires_grad_()
    bias = z.new_zeros(classes).requires_grad_()
    optimizer = torch.optim.LBFGS(
        (weight, bias),
        max_iter=steps,
        tolerance_grad=1e-9,
        tolerance_change=1e-15,  # 默认的 1e-9 停得太早，权重只准到万分之几
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = linear_probe_loss(z, y, weight, bias, penalty)
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach(), bias.detach()
