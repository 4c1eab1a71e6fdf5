"""NADE 的快算法：前向原地递推、不存隐藏层，反向按手推的梯度重算。"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from formulary.autoregressive_models.nade_shapes import require_nade_shapes


class RecomputedNADE(torch.autograd.Function):
    r"""NADE 的对数几率：前向不存隐藏层，反向时倒着递推把它们重算一遍。

    约定:
        只存输入与参数，额外的内存是 O(Bd + nd)，自动求导的递推要 O(Bnd)。
        激活用 a_i = a_(i+1) − W_i x_i 倒推，与正推只差舍入；不支持二阶导数。

    出处:
        Larochelle & Murray 2011, 算法 1（梯度的累加）；激活的倒推为本站所加。

    示例:
        >>> one = torch.ones(1, 2)
        >>> RecomputedNADE.apply(one, torch.zeros(1, 2), torch.zeros(1), one.T, torch.zeros(2))
        tensor([[0.5000, 0.5000]])
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        output_weight: Tensor,
        output_bias: Tensor,
    ) -> Tensor:
        """逐步原地更新同一块激活 a；列先转成连续的行，读写都不跨步。"""
        ctx.save_for_backward(x, weight, bias, output_weight)
        inputs, columns = x.T.contiguous(), weight.T.contiguous()
        a = bias.repeat(len(x), 1)  # (B, d)
        h, logits = torch.empty_like(a), torch.empty_like(inputs)
        for i in range(len(inputs)):
            torch.sigmoid(a, out=h)
            torch.mv(h, output_weight[i], out=logits[i])
            a.addr_(inputs[i], columns[i])
        return logits.T + output_bias

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, ...]:
        """从最后一步往回走，一边还原 a_i，一边累加 g_j。"""
        x, weight, bias, output_weight = ctx.saved_tensors
        inputs, columns, deltas = (t.T.contiguous() for t in (x, weight, delta))
        a = torch.addmm(bias, x, columns)  # a_{n+1}
        after = torch.zeros_like(a)  # Σ_{j>i} g_j
        input_gradient, weight_gradient = torch.empty_like(inputs), torch.empty_like(columns)
        output_gradient = torch.empty_like(output_weight)
        h, step = torch.empty_like(a), torch.empty_like(a)
        for i in reversed(range(len(inputs))):
            torch.sigmoid(a.addr_(inputs[i], columns[i], alpha=-1), out=h)
            torch.mv(after.T, inputs[i], out=weight_gradient[i])
            if ctx.needs_input_grad[0]:
                torch.mv(after, columns[i], out=input_gradient[i])
            torch.mv(h.T, deltas[i], out=output_gradient[i])
            torch.outer(deltas[i], output_weight[i], out=step)
            after += torch.ops.aten.sigmoid_backward.grad_input(step, h, grad_input=step)
        x_gradient = input_gradient.T if ctx.needs_input_grad[0] else None
        return x_gradient, weight_gradient.T, after.sum(0), output_gradient, delta.sum(0)


def nade_logits_fast(
    x: Float[Tensor, "B n"],
    weight: Float[Tensor, "d n"],
    bias: Float[Tensor, " d"],
    output_weight: Float[Tensor, "n d"],
    output_bias: Float[Tensor, " n"],
) -> Float[Tensor, "B n"]:
    r"""递推的快算法：前向原地更新，反向用手推的梯度重算，值与梯度都和 nade_logits 相同。

    Args:
        x: 样本。
        weight: 共享的输入权重 W。
        bias: 共享的隐藏偏置 c。
        output_weight: 各条件的输出权重 V。
        output_bias: 各条件的输出偏置 b。

    Returns:
        各变量取 1 的对数几率（无量纲）；可以求一阶导数，二阶导数请用 nade_logits。

    Raises:
        ValueError: 参数的形状对不上。

    出处:
        Larochelle & Murray 2011, 算法 1（梯度的累加）；激活的倒推为本站所加。

    示例:
        >>> weight, bias = torch.tensor([[2.0, 9.0]]), torch.tensor([-1.0])
        >>> nade_logits_fast(torch.ones(1, 2), weight, bias, torch.ones(2, 1), torch.zeros(2))
        tensor([[0.2689, 0.7311]])
    """
    require_nade_shapes(x, weight, bias, output_weight, output_bias)
    return RecomputedNADE.apply(x, weight, bias, output_weight, output_bias)
