"""NADE 的前缀和写法：没有循环，却要摊开全部激活，留作比较。"""

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.autoregressive_models.nade_shapes import require_nade_shapes


def nade_logits_cumsum(
    x: Float[Tensor, "B n"],
    weight: Float[Tensor, "d n"],
    bias: Float[Tensor, " d"],
    output_weight: Float[Tensor, "n d"],
    output_bias: Float[Tensor, " n"],
) -> Float[Tensor, "B n"]:
    r"""不写循环：把各步的增量排成 (B, n, d) 的张量，一次前缀和得到全部激活。

    Args:
        x: 样本。
        weight: 共享的输入权重 W。
        bias: 共享的隐藏偏置 c，放在前缀和的第一项。
        output_weight: 各条件的输出权重 V。
        output_bias: 各条件的输出偏置 b。

    Returns:
        各变量取 1 的对数几率，与 nade_logits_naive 相同；中间结果占 B·n·d 个数。

    Raises:
        ValueError: 参数的形状对不上。

    示例:
        >>> weight, bias = torch.tensor([[2.0, 9.0]]), torch.tensor([-1.0])
        >>> nade_logits_cumsum(torch.ones(1, 2), weight, bias, torch.ones(2, 1), torch.zeros(2))
        tensor([[0.2689, 0.7311]])
    """
    require_nade_shapes(x, weight, bias, output_weight, output_bias)
    start = bias.expand(len(x), 1, -1)
    steps = x[:, :-1, None] * weight.T[:-1]  # (B, n-1, d)
    a = torch.cat((start, steps), dim=1).cumsum(dim=1)  # (B, n, d)
    return (torch.sigmoid(a) * output_weight).sum(-1) + output_bias
