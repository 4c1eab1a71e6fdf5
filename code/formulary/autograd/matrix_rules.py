"""矩阵的局部规则：求逆的 VJP 与对数行列式的梯度。"""

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats


def inverse_vjp(
    matrix: Float[Tensor, "N N"], cotangent: Float[Tensor, "N N"]
) -> Float[Tensor, "N N"]:
    r"""矩阵求逆的 VJP。

    Args:
        matrix: 可逆的方阵 $A$。
        cotangent: 逆矩阵的伴随。

    Returns:
        $A$ 的伴随。

    Raises:
        ValueError: matrix 不是浮点方阵或不可逆，或 cotangent 的形状不同。

    约定:
        各元素看作独立的变量，不利用对称性。

    出处:
        Giles 2008, *Collected Matrix Derivative Results*。

    示例:
        >>> inverse_vjp(torch.tensor([[2.0]]), torch.tensor([[1.0]]))
        tensor([[-0.2500]])
    """
    inverse = invert("matrix", matrix)
    require_floats("cotangent", cotangent, *matrix.shape)
    return -inverse.T @ cotangent @ inverse.T


def invert(name: str, matrix: Float[Tensor, "N N"]) -> Float[Tensor, "N N"]:
    """求逆；不是方阵或不可逆就报错。"""
    require_floats(name, matrix, "N", "N")
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"{name} 必须是方阵，得到 {tuple(matrix.shape)}")
    inverse, singular = torch.linalg.inv_ex(matrix)
    if singular:
        raise ValueError(f"{name} 必须可逆，得到奇异的矩阵")
    return inverse


def logdet_gradient(matrix: Float[Tensor, "N N"]) -> Float[Tensor, "N N"]:
    r"""行列式绝对值的对数，对矩阵的梯度：逆的转置。

    Args:
        matrix: 可逆的方阵 $A$。

    Returns:
        梯度，形状同 $A$。

    Raises:
        ValueError: matrix 不是浮点方阵，或不可逆。

    约定:
        各元素看作独立的变量，不利用对称性；行列式为负时，是其绝对值之对数的梯度。

    出处:
        Petersen and Pedersen 2012, *The Matrix Cookbook*；本文推导。

    示例:
        >>> logdet_gradient(torch.tensor([[3.0, 1.0], [4.0, 2.0]])).round(decimals=4)
        tensor([[ 1.0000, -2.0000],
                [-0.5000,  1.5000]])
    """
    return invert("matrix", matrix).T
