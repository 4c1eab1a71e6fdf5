"""完整的雅可比矩阵：反向模式一次一行，前向模式一次一列。"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.autograd.products import jvp, record
from formulary.checks import require_floats


def jacobian_by_rows(f: Callable[[Tensor], Tensor], x: Float[Tensor, " n"]) -> Float[Tensor, "m n"]:
    r"""反向模式求雅可比矩阵：一次前向，m 次 VJP，每次得到一行。

    Args:
        f: 向量到向量的函数。
        x: 求导的点。

    Returns:
        雅可比矩阵，行对应输出，列对应输入。

    Raises:
        ValueError: x 或 f 的输出不是浮点向量。

    约定:
        同一张图反向 m 次，所以要 retain_graph。

    出处:
        Griewank and Walther 2008。

    示例:
        >>> jacobian_by_rows(lambda x: x[:2] * x[2], torch.tensor([1.0, 2.0, 3.0]))
        tensor([[3., 0., 1.],
                [0., 3., 2.]])
    """
    leaf, y = record(f, x)
    if not y.requires_grad:
        return x.new_zeros(len(y), len(x))
    rows = []
    for cotangent in torch.eye(len(y), dtype=y.dtype, device=y.device):
        rows += torch.autograd.grad(y, leaf, cotangent, retain_graph=True, materialize_grads=True)
    return torch.stack(rows)


def jacobian_by_columns(
    f: Callable[[Tensor], Tensor], x: Float[Tensor, " n"]
) -> Float[Tensor, "m n"]:
    r"""前向模式求雅可比矩阵：n 次 JVP，每次得到一列。

    Args:
        f: 向量到向量的函数。
        x: 求导的点。

    Returns:
        雅可比矩阵，行对应输出，列对应输入。

    Raises:
        ValueError: x 或 f 的输出不是浮点向量。

    约定:
        每次 JVP 都重新求值；torch.func.jacfwd 用 vmap 把 n 次并成一批，只求值一次。

    出处:
        Griewank and Walther 2008。

    示例:
        >>> jacobian_by_columns(lambda x: x[:2] * x[2], torch.tensor([1.0, 2.0, 3.0]))
        tensor([[3., 0., 1.],
                [0., 3., 2.]])
    """
    require_floats("x", x, "n")
    directions = torch.eye(len(x), dtype=x.dtype, device=x.device)
    return torch.stack([jvp(f, x, direction) for direction in directions], dim=1)
