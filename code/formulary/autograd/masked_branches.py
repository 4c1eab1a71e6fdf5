"""torch.where 挡不住没选中的那一支的 NaN；把输入也换掉才行。"""

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats


def sqrt_single_where(x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    r"""错的：正数取平方根、其余取零，前向对，反向在 x ≤ 0 处是 NaN。

    Args:
        x: 输入，可以是负数。

    Returns:
        逐元素的结果。

    Raises:
        ValueError: x 不是实浮点张量。

    约定:
        where 把没选中的一支的伴随置零，可是零还要乘那一支的局部导数：
        x = 0 处是 0·∞，x < 0 处是 0·NaN。

    示例:
        >>> x = torch.tensor([-1.0, 0.0, 4.0], requires_grad=True)
        >>> torch.autograd.grad(sqrt_single_where(x).sum(), x)[0]
        tensor([   nan,    nan, 0.2500])
    """
    require_floats("x", x)
    return torch.where(x > 0, x.sqrt(), 0)


def sqrt_double_where(x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    r"""正数取平方根、其余取零；先把不用的输入换成 1，再取平方根，反向处处有限。

    Args:
        x: 输入，可以是负数。

    Returns:
        逐元素的结果。

    Raises:
        ValueError: x 不是实浮点张量。

    约定:
        x ≤ 0 处导数取 0。

    示例:
        >>> x = torch.tensor([-1.0, 0.0, 4.0], requires_grad=True)
        >>> torch.autograd.grad(sqrt_double_where(x).sum(), x)[0]
        tensor([0.0000, 0.0000, 0.2500])
    """
    require_floats("x", x)
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1).sqrt(), 0)
