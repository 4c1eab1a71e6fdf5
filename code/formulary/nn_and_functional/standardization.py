r"""标准化：减均值、除以标准差，以及它的雅可比矩阵。各种归一化层都由它加上缩放与平移组成。"""

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.nn_and_functional.variance import require_sample


def standardize(x: Float[Tensor, " n"], epsilon: float = 0.0) -> Float[Tensor, " n"]:
    r"""一组数减去均值，再除以标准差。

    Args:
        x: 共用一份统计的那些数。
        epsilon: 根号里的常数，与 x 的平方同单位。

    Returns:
        标准化之后的数，均值为 0；epsilon 为 0 时有偏方差为 1。

    Raises:
        ValueError: x 不是一轴的非空浮点张量，或 epsilon 为负。

    示例:
        >>> standardize(torch.tensor([1.0, 3.0]))
        tensor([-1.,  1.])
    """
    _require_group(x, epsilon)
    return (x - x.mean()) / (x.var(unbiased=False) + epsilon).sqrt()


def standardization_jacobian(x: Float[Tensor, " n"], epsilon: float = 0.0) -> Float[Tensor, "n n"]:
    r"""标准化对输入的雅可比矩阵：单位矩阵减去两个投影，再除以标准差。

    Args:
        x: 共用一份统计的那些数。
        epsilon: 根号里的常数。

    Returns:
        第 i 行第 j 列是第 i 个输出对第 j 个输入的偏导数；矩阵对称。

    Raises:
        ValueError: x 不是一轴的非空浮点张量，或 epsilon 为负。

    示例:
        >>> standardization_jacobian(torch.tensor([1.0, 3.0]))
        tensor([[0., 0.],
                [0., 0.]])
    """
    normalized = standardize(x, epsilon)
    deviation = (x.var(unbiased=False) + epsilon).sqrt()
    count = len(x)
    identity = torch.eye(count, dtype=x.dtype)
    return (identity - 1 / count - normalized[:, None] * normalized / count) / deviation


def _require_group(x: Tensor, epsilon: float) -> None:
    """要求 x 是一轴的非空浮点张量，epsilon 不为负。"""
    require_sample(x)
    if x.ndim != 1:
        raise ValueError(f"x 必须是一轴的张量，得到形状 {tuple(x.shape)}")
    if not epsilon >= 0:
        raise ValueError(f"epsilon 不能为负，得到 {epsilon!r}")
