"""梯度检查：反向模式的雅可比矩阵与中心差分逐元素比较，判断与 torch 的 gradcheck 相同。"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.autograd.finite_differences import numerical_jacobian, require_positive
from formulary.autograd.jacobians import jacobian_by_rows


def gradient_check(
    f: Callable[[Tensor], Tensor],
    x: Float[Tensor, " n"],
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
) -> bool:
    r"""反向模式给出的雅可比矩阵，是否与中心差分的逐元素相符。

    Args:
        f: 向量到向量的函数。
        x: 检查的点，应当是 float64。
        eps: 中心差分的步长（单位同 x），大于 0。
        atol: 绝对容差（单位同导数），非负。
        rtol: 相对容差（无量纲），非负。

    Returns:
        每个元素都满足不等式时为真；有 NaN 则为假。

    Raises:
        ValueError: x 或 f 的输出不是浮点向量，eps 不是正数，或 atol、rtol 为负。

    约定:
        相对容差乘的是差分一侧的绝对值。只查一个点；torch 的 gradcheck 还查反向可否重复、
        零伴随是否得零等，这里不查。

    出处:
        PyTorch 2.13, torch.autograd.gradcheck 的默认设置。

    示例:
        >>> x = torch.tensor([0.5, 2.0], dtype=torch.float64)
        >>> gradient_check(torch.sin, x), gradient_check(torch.sin, x.float())
        (True, False)
    """
    require_positive("eps", eps)
    for name, tolerance in (("atol", atol), ("rtol", rtol)):
        if not tolerance >= 0:
            raise ValueError(f"{name} 必须非负，得到 {tolerance!r}")
    analytical = jacobian_by_rows(f, x)
    with torch.no_grad():
        numerical = numerical_jacobian(f, x, eps)
    excess = (numerical - analytical).abs() - (atol + rtol * numerical.abs())
    return bool((excess <= 0).all())
