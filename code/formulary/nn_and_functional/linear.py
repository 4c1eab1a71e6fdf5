"""线性层与掩码线性层：权重一行一个输出单元，样本一行一个。"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from formulary.checks import require_floats


def linear(
    x: Float[Tensor, "*batch d_in"],
    weight: Float[Tensor, "d_out d_in"],
    bias: Float[Tensor, " d_out"] | None = None,
) -> Float[Tensor, "*batch d_out"]:
    r"""线性层：y = x Wᵀ + b。

    Args:
        x: 输入，最后一轴是特征。
        weight: 权重 $W$，第 o 行是第 o 个输出单元的权重。
        bias: 偏置 $b$，不给就没有。

    Returns:
        输出 $y$（无量纲），前导的各轴与 x 相同。

    Raises:
        ValueError: 不是浮点张量，或形状对不上。

    约定:
        权重的形状是（输出, 输入），与 nn.Linear.weight、F.linear 的第二个参数相同。

    出处:
        PyTorch 2.13 文档 torch.nn.functional.linear。

    示例:
        >>> linear(torch.tensor([1.0, 2.0]), torch.tensor([[3.0, -1.0]]), torch.tensor([1.0]))
        tensor([2.])
    """
    require_floats("weight", weight, "d_out", "d_in")
    require_floats("x", x, "...", weight.shape[1])
    y = x @ weight.mT
    if bias is None:
        return y
    require_floats("bias", bias, weight.shape[0])
    return y + bias


def masked_linear(
    x: Float[Tensor, "*batch d_in"],
    weight: Float[Tensor, "d_out d_in"],
    mask: Bool[Tensor, "d_out d_in"],
    bias: Float[Tensor, " d_out"] | None = None,
) -> Float[Tensor, "*batch d_out"]:
    r"""掩码线性层：y = x (W ⊙ M)ᵀ + b。

    Args:
        x: 输入，最后一轴是特征。
        weight: 权重 $W$。
        mask: 掩码 $M$，形状与 weight 相同，为假的连接被删去。
        bias: 偏置 $b$，不给就没有。

    Returns:
        输出 $y$（无量纲）。

    Raises:
        ValueError: 形状对不上，或 mask 不是布尔张量。

    约定:
        掩码乘在计算图里，weight 本身不改；被掩掉的权重梯度恰为零。

    出处:
        Germain et al. 2015, arXiv:1502.03509v2。

    示例:
        >>> weight, mask = torch.ones(1, 3), torch.tensor([[True, False, True]])
        >>> masked_linear(torch.tensor([1.0, 2.0, 4.0]), weight, mask)
        tensor([5.])
    """
    require_floats("weight", weight, "d_out", "d_in")
    _require_mask(mask, weight.shape)
    return linear(x, weight * mask, bias)


def masked_linear_weight_gradient(
    x: Float[Tensor, "*batch d_in"],
    output_gradient: Float[Tensor, "*batch d_out"],
    mask: Bool[Tensor, "d_out d_in"],
) -> Float[Tensor, "d_out d_in"]:
    r"""掩码线性层的权重梯度：把没有掩码时的梯度再乘一次掩码。

    Args:
        x: 前向时的输入。
        output_gradient: 损失对输出的梯度 $\bar y$，前导的各轴与 x 相同。
        mask: 掩码 $M$。

    Returns:
        损失对 $W$ 的梯度（损失的单位除以权重的单位），被掩掉的元素恰为零。

    Raises:
        ValueError: 形状对不上，或 mask 不是布尔张量。

    约定:
        对全部前导轴求和，不取平均。

    出处:
        由链式法则直接得出。

    示例:
        >>> mask = torch.tensor([[True, False]])
        >>> masked_linear_weight_gradient(torch.tensor([[3.0, 4.0]]), torch.ones(1, 1), mask)
        tensor([[3., 0.]])
    """
    require_floats("x", x, "...", "d_in")
    require_floats("output_gradient", output_gradient, *x.shape[:-1], "d_out")
    _require_mask(mask, (output_gradient.shape[-1], x.shape[-1]))
    return output_gradient.flatten(0, -2).mT @ x.flatten(0, -2) * mask


def _require_mask(mask: Bool[Tensor, "d_out d_in"], shape: tuple[int, ...]) -> None:
    """要求 mask 是给定形状的布尔张量。"""
    if mask.dtype != torch.bool or mask.shape != shape:
        raise ValueError(
            f"mask 必须是形状为 {tuple(shape)} 的布尔张量，得到 {tuple(mask.shape)} 的 {mask.dtype}"
        )
