"""完全可见的 sigmoid 信念网（FVSBN）：每个条件都是一个逻辑斯谛回归。"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from formulary.checks import require_count, require_floats


def strictly_lower_mask(n: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "n n"]:
    r"""严格下三角的掩码：第 i 行只在第 1 到 i − 1 列是 1。

    Args:
        n: 变量个数，正整数。
        dtype: 结果的浮点类型。

    Returns:
        掩码，对角线为 0：x_i 不能看见自己。

    Raises:
        ValueError: n 不是正整数。

    示例:
        >>> strictly_lower_mask(3)
        tensor([[0., 0., 0.],
                [1., 0., 0.],
                [1., 1., 0.]])
    """
    require_count("n", n)
    return torch.ones(n, n, dtype=dtype).tril(-1)


def fvsbn_logits_by_loop(
    x: Float[Tensor, "B n"], weight: Float[Tensor, "n n"], bias: Float[Tensor, " n"]
) -> Float[Tensor, "B n"]:
    r"""照定义逐个算：第 i 个对数几率是前 i − 1 个变量的线性函数。

    Args:
        x: 样本。
        weight: 系数 α，第 i 行第 j 列是 α_j^(i)；只用到 j < i 的部分。
        bias: 截距 α_0。

    Returns:
        各变量取 1 的对数几率（无量纲）。

    Raises:
        ValueError: 三个参数的形状对不上。

    出处:
        Frey, Hinton & Dayan 1995；CS236 讲义 autoregressive 一章。

    示例:
        >>> weight, bias = torch.tensor([[9.0, 9.0], [2.0, 9.0]]), torch.tensor([1.0, -3.0])
        >>> fvsbn_logits_by_loop(torch.tensor([[1.0, 0.0]]), weight, bias)
        tensor([[ 1., -1.]])
    """
    require_fvsbn_shapes(x, weight, bias)
    columns = [x[:, :i] @ weight[i, :i] + bias[i] for i in range(x.shape[1])]
    return torch.stack(columns, dim=1)


def require_fvsbn_shapes(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    """要求 x 形如 (B, n)，weight 形如 (n, n)，bias 形如 (n,)。"""
    require_floats("x", x, "B", "n")
    n = x.shape[1]
    require_floats("weight", weight, n, n)
    require_floats("bias", bias, n)


def fvsbn_logits(
    x: Float[Tensor, "B n"], weight: Float[Tensor, "n n"], bias: Float[Tensor, " n"]
) -> Float[Tensor, "B n"]:
    r"""全部条件一次算完：系数矩阵乘上严格下三角的掩码，作一次矩阵乘法。

    Args:
        x: 样本。
        weight: 系数 α；上三角与对角线被掩掉，梯度恒为零。
        bias: 截距 α_0。

    Returns:
        各变量取 1 的对数几率，与 fvsbn_logits_by_loop 相同。

    Raises:
        ValueError: 三个参数的形状对不上。

    示例:
        >>> weight, bias = torch.tensor([[9.0, 9.0], [2.0, 9.0]]), torch.tensor([1.0, -3.0])
        >>> fvsbn_logits(torch.tensor([[1.0, 0.0]]), weight, bias)
        tensor([[ 1., -1.]])
    """
    require_fvsbn_shapes(x, weight, bias)
    return F.linear(x, weight * strictly_lower_mask(x.shape[1], x.dtype).to(x.device), bias)


class FVSBN(nn.Module):
    r"""FVSBN 模型：model(x) 返回对数几率，参数从零开始。

    Args:
        n: 变量个数，正整数。
        dtype: 参数的浮点类型。

    Raises:
        ValueError: n 不是正整数。

    约定:
        NLL 是参数的凸函数，没有比全局最小更差的局部极小；不需要随机数。

    示例:
        >>> FVSBN(2)(torch.tensor([[1.0, 0.0]])).tolist()
        [[0.0, 0.0]]
    """

    def __init__(self, n: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        require_count("n", n)
        self.weight = nn.Parameter(torch.zeros(n, n, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(n, dtype=dtype))

    def forward(self, x: Float[Tensor, "B n"]) -> Float[Tensor, "B n"]:
        """各变量取 1 的对数几率。"""
        return fvsbn_logits(x, self.weight, self.bias)


def fvsbn_parameter_count(n: int) -> int:
    r"""FVSBN 的参数个数：第 i 个条件有 i 个，共 n(n + 1)/2。

    Args:
        n: 变量个数，正整数。

    Returns:
        起作用的参数个数，不计被掩掉的。

    Raises:
        ValueError: n 不是正整数。

    示例:
        >>> fvsbn_parameter_count(784)
        307720
    """
    require_count("n", n)
    return n * (n + 1) // 2
