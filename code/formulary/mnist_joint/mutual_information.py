"""像素两两之间的经验联合分布与互信息，全部像素对一起算：四个格拉姆矩阵。

约定:
    平滑给每对像素的四格各加 smoothing 个虚拟样本；自己与自己配对时只有两格，
    各加 2·smoothing。这等于添上总重 4·smoothing、在全部 2^n 张图上均匀的虚拟样本，
    所以各张表出自同一个分布，同一个像素在每一对里的边缘也都相同。
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_binary, require_floats


def pairwise_tables(x: Float[Tensor, "N n"], smoothing: float = 0.0) -> Float[Tensor, "n n 2 2"]:
    r"""每对像素的经验联合分布 p(x_i = a, x_j = b)。

    Args:
        x: 二值样本，一行一个。
        smoothing: 每格的虚拟样本数 α（无量纲），不小于 0。

    Returns:
        下标依次是 i、j、a、b；每张 2×2 的表之和为 1。

    Raises:
        ValueError: x 不是二值的矩阵或没有一行；smoothing 不是有限的非负数。

    出处:
        Chow & Liu 1968.

    示例:
        >>> pairwise_tables(torch.tensor([[1.0, 1.0], [1.0, 0.0]]))[0, 1]
        tensor([[0.0000, 0.0000],
                [0.5000, 0.5000]])
    """
    require_floats("x", x, "N", "n")
    require_binary("x", x)
    if not (math.isfinite(smoothing) and smoothing >= 0):
        raise ValueError(f"smoothing 必须是有限的非负数，得到 {smoothing}")
    if len(x) == 0:
        raise ValueError("x 至少要有一个样本，得到 0 个")
    values = (1 - x, x)
    rows = [torch.stack([a.T @ b for b in values], dim=-1) for a in values]
    counts = torch.stack(rows, dim=-2)  # (n, n, 2, 2)
    same = torch.eye(x.shape[1], dtype=x.dtype)[:, :, None, None]
    agree = torch.eye(2, dtype=x.dtype)
    counts = counts + smoothing * ((1 - same) + 2 * same * agree)
    return counts / (len(x) + 4 * smoothing)


def mutual_information(x: Float[Tensor, "N n"], smoothing: float = 0.0) -> Float[Tensor, "n n"]:
    r"""每对像素的经验互信息 I(X_i; X_j)。

    Args:
        x: 二值样本，一行一个。
        smoothing: 每格的虚拟样本数 α（无量纲），不小于 0。

    Returns:
        对称矩阵（nat）；对角线 I(X_i; X_i) 就是熵 H(X_i)。

    Raises:
        ValueError: 条件同 pairwise_tables。

    约定:
        0·log 0 = 0。代价是四次 n×N 与 N×n 的矩阵乘法。

    出处:
        Chow & Liu 1968.

    示例:
        >>> mutual_information(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
        tensor([[0.6931, 0.6931],
                [0.6931, 0.6931]])
    """
    joint = pairwise_tables(x, smoothing)
    first = joint.sum(dim=-1, keepdim=True)  # p(x_i = a)
    second = joint.sum(dim=-2, keepdim=True)  # p(x_j = b)
    terms = torch.xlogy(joint, joint) - torch.xlogy(joint, first * second)
    return terms.sum(dim=(-2, -1))
