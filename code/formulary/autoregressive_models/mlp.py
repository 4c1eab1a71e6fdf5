"""每个条件各用一个单隐层感知机：NADE 之前的一步，参数最多，什么也不共享。"""

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_count, require_floats


def separate_mlp_logits(
    x: Float[Tensor, "B n"],
    weights: Float[Tensor, "n d n"],
    biases: Float[Tensor, "n d"],
    output_weight: Float[Tensor, "n d"],
    output_bias: Float[Tensor, " n"],
) -> Float[Tensor, "B n"]:
    r"""第 i 个条件用自己的感知机：前 i − 1 个变量进，一个对数几率出。

    Args:
        x: 样本。
        weights: 第 i 个矩阵是 A_i，只用到它的前 i − 1 列。
        biases: 第 i 行是 c_i。
        output_weight: 第 i 行是 α^(i)。
        output_bias: 第 i 个是 b_i。

    Returns:
        各变量取 1 的对数几率（无量纲）。

    Raises:
        ValueError: 参数的形状对不上。

    出处:
        CS236 讲义 autoregressive 一章。

    示例:
        >>> weights, biases = torch.ones(2, 1, 2), torch.zeros(2, 1)
        >>> separate_mlp_logits(torch.ones(1, 2), weights, biases, torch.ones(2, 1), torch.zeros(2))
        tensor([[0.5000, 0.7311]])
    """
    require_floats("x", x, "B", "n")
    n = x.shape[1]
    require_floats("weights", weights, n, "d", n)
    d = weights.shape[1]
    require_floats("biases", biases, n, d)
    require_floats("output_weight", output_weight, n, d)
    require_floats("output_bias", output_bias, n)
    columns = []
    for i in range(n):
        h = torch.sigmoid(x[:, :i] @ weights[i, :, :i].T + biases[i])  # (B, d)
        columns.append(h @ output_weight[i] + output_bias[i])
    return torch.stack(columns, dim=1)


def separate_mlp_parameter_count(n: int, d: int) -> int:
    r"""互不共享的 n 个单隐层感知机的参数个数：d·n(n − 1)/2 + 2nd + n。

    Args:
        n: 变量个数，正整数。
        d: 每个隐藏层的宽度，正整数。

    Returns:
        起作用的参数个数：第 i 个条件有 (i − 1)d 个输入权重、d 个偏置、d + 1 个输出参数。

    Raises:
        ValueError: n 或 d 不是正整数。

    示例:
        >>> separate_mlp_parameter_count(784, 500)
        154252784
    """
    require_count("n", n)
    require_count("d", d)
    return d * (n * (n - 1) // 2) + 2 * n * d + n
