"""自回归模型的隐藏状态作特征：NADE 读完整个样本之后的隐藏层。"""

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats


def nade_features(
    x: Float[Tensor, "B n"], weight: Float[Tensor, "d n"], bias: Float[Tensor, " d"]
) -> Float[Tensor, "B d"]:
    r"""NADE 看完全部 n 个变量之后的隐藏层，可以当作样本的特征。

    Args:
        x: 样本。
        weight: NADE 的输入权重 W，第 j 列属于 x_j。
        bias: NADE 的隐藏层偏置 c。

    Returns:
        特征 z(x) = σ(W x + c)，元素在 (0, 1) 里。

    Raises:
        ValueError: 形状不符，或不是实浮点张量。

    约定:
        第 n 个条件概率用的隐藏层 h_n 只看 x_{<n}；这里多加了 x_n 一项，即 h_{n+1}。

    出处:
        Larochelle & Murray 2011；CS236 课程讲义“自回归模型”一章末尾。

    示例:
        >>> nade_features(torch.ones(1, 2), torch.zeros(3, 2), torch.zeros(3))
        tensor([[0.5000, 0.5000, 0.5000]])
    """
    require_floats("weight", weight, "d", "n")
    require_floats("x", x, "B", weight.shape[1])
    require_floats("bias", bias, weight.shape[0])
    return torch.sigmoid(x @ weight.T + bias)
