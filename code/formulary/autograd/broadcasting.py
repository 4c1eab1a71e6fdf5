"""广播是一个 0–1 矩阵表示的线性映射；它的转置把伴随沿广播出来的轴加回去。"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats


def unbroadcast(adjoint: Float[Tensor, "..."], shape: Sequence[int]) -> Float[Tensor, "..."]:
    r"""把广播结果的伴随加回到广播之前的形状，也就是广播的向量–雅可比积。

    Args:
        adjoint: 广播结果的伴随 $\bar y$，单位是损失的单位除以 y 的单位。
        shape: 广播之前的形状。

    Returns:
        形状为 shape 的伴随 $\bar x$：补在左边的轴与从 1 撑开的轴都被求和。

    Raises:
        ValueError: adjoint 不是实浮点张量，或 shape 不能广播成 adjoint 的形状。

    约定:
        形状从右边对齐，与 PyTorch、NumPy 的广播规则相同。

    出处:
        广播的伴随，见 Griewank & Walther 2008；对应 PyTorch 的 Tensor.sum_to_size。

    示例:
        >>> unbroadcast(torch.ones(2, 3), (3,))
        tensor([2., 2., 2.])
    """
    require_floats("adjoint", adjoint)
    _require_expandable(tuple(shape), tuple(adjoint.shape))
    added = adjoint.ndim - len(shape)
    stretched = [
        added + axis for axis, size in enumerate(shape) if size == 1 != adjoint.shape[added + axis]
    ]
    summed = [*range(added), *stretched]
    return (adjoint.sum(summed) if summed else adjoint).reshape(tuple(shape))


def broadcast_matrix(
    shape: Sequence[int], target: Sequence[int], dtype: torch.dtype = torch.float32
) -> Float[Tensor, "m n"]:
    r"""广播的雅可比矩阵：把摊平的 x 变成摊平的 y 的 0–1 矩阵。

    Args:
        shape: 广播之前的形状，元素共 n 个。
        target: 广播之后的形状，元素共 m 个。
        dtype: 结果的类型。

    Returns:
        每行恰有一个 1 的矩阵（无量纲）：第 i 行的 1 在第 j 列，即 y 的第 i 个元素抄自 x 的第 j 个。

    Raises:
        ValueError: shape 不能广播成 target。

    约定:
        摊平按行优先的次序，最右边的轴变得最快。

    出处:
        本站。

    示例:
        >>> broadcast_matrix((2, 1), (2, 2))
        tensor([[1., 0.],
                [1., 0.],
                [0., 1.],
                [0., 1.]])
    """
    _require_expandable(tuple(shape), tuple(target))
    source = torch.arange(math.prod(shape)).reshape(tuple(shape)).expand(tuple(target)).flatten()
    return torch.eye(math.prod(shape), dtype=dtype)[source]


def _require_expandable(shape: tuple[int, ...], target: tuple[int, ...]) -> None:
    """要求 shape 能广播成 target：从右对齐，每轴相等或为 1。"""
    aligned = target[max(0, len(target) - len(shape)) :]
    if len(shape) > len(target) or any(
        size not in (1, wide) for size, wide in zip(shape, aligned, strict=True)
    ):
        raise ValueError(f"shape {shape} 不能广播成 {target}：从右对齐，每轴必须相等或为 1")
