"""高阶导数：黑塞–向量积的三种算法，以及二次型的梯度与黑塞矩阵。"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats


def hvp_reverse_over_reverse(
    function: Callable[[Tensor], Tensor], x: Float[Tensor, " n"], v: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    r"""黑塞–向量积 Hv：对内积 ∇f(x)ᵀv 再反向一次。

    Args:
        function: 返回标量的函数 $f$。
        x: 自变量。
        v: 方向。

    Returns:
        $\boldsymbol H\boldsymbol v$；f 是线性函数时为零。

    Raises:
        ValueError: x 与 v 不是等长的一维浮点张量，或 function 返回的不是标量。

    出处:
        Pearlmutter 1994, Fast Exact Multiplication by the Hessian。

    示例:
        >>> x, v = torch.ones(2), torch.tensor([1.0, 2.0])
        >>> hvp_reverse_over_reverse(lambda x: (x**3).sum(), x, v)
        tensor([ 6., 12.])
    """
    _require_point(function, x, v)
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(function(x), x, create_graph=True)
    if not gradient.requires_grad:  # f 是线性的，梯度与 x 无关
        return torch.zeros_like(x)
    return torch.autograd.grad(gradient @ v, x)[0]


def hvp_forward_over_reverse(
    function: Callable[[Tensor], Tensor], x: Float[Tensor, " n"], v: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    r"""黑塞–向量积 Hv：沿 v 对梯度求方向导数，前向模式套反向模式。

    Args:
        function: 返回标量的函数 $f$，其中的运算须支持前向模式。
        x: 自变量。
        v: 方向。

    Returns:
        $\boldsymbol H\boldsymbol v$。

    Raises:
        ValueError: x 与 v 不是等长的一维浮点张量，或 function 返回的不是标量。

    出处:
        Pearlmutter 1994, Fast Exact Multiplication by the Hessian。

    示例:
        >>> x, v = torch.ones(2), torch.tensor([1.0, 2.0])
        >>> hvp_forward_over_reverse(lambda x: (x**3).sum(), x, v)
        tensor([ 6., 12.])
    """
    _require_point(function, x, v)
    return torch.func.jvp(torch.func.grad(function), (x,), (v,))[1]


def hvp_central_difference(
    function: Callable[[Tensor], Tensor],
    x: Float[Tensor, " n"],
    v: Float[Tensor, " n"],
    step: float = 1e-5,
) -> Float[Tensor, " n"]:
    r"""黑塞–向量积的近似：两处梯度之差除以步长，误差是步长的平方阶。

    Args:
        function: 返回标量的函数 $f$。
        x: 自变量。
        v: 方向。
        step: 步长 $h$（以 v 的长度为单位）。

    Returns:
        $\boldsymbol H\boldsymbol v$ 的近似值。

    Raises:
        ValueError: x 与 v 不是等长的一维浮点张量，step 不是正数，或 function 返回的不是标量。

    示例:
        >>> x, v = torch.ones(2), torch.tensor([1.0, 2.0])
        >>> hvp_central_difference(lambda x: (x**2).sum(), x, v, step=0.5)
        tensor([2., 4.])
    """
    _require_point(function, x, v)
    if not step > 0:
        raise ValueError(f"step 必须是正数，得到 {step!r}")
    gradient = torch.func.grad(function)
    return (gradient(x + step * v) - gradient(x - step * v)) / (2 * step)


def quadratic_derivatives(
    matrix: Float[Tensor, "n n"], x: Float[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n n"]]:
    r"""f(x) = xᵀAx/2 的梯度与黑塞矩阵，A 不必对称。

    Args:
        matrix: $\boldsymbol A$。
        x: 自变量。

    Returns:
        梯度与黑塞矩阵；两者只依赖 $\boldsymbol A$ 的对称部分。

    Raises:
        ValueError: matrix 不是方阵，或 x 的长度与它不符。

    出处:
        Petersen & Pedersen, The Matrix Cookbook。

    示例:
        >>> quadratic_derivatives(torch.tensor([[1.0, 2.0], [0.0, 3.0]]), torch.tensor([1.0, 1.0]))
        (tensor([2., 4.]), tensor([[1., 1.],
                [1., 3.]]))
    """
    require_floats("x", x, "n")
    require_floats("matrix", matrix, len(x), len(x))
    symmetric = (matrix + matrix.T) / 2
    return symmetric @ x, symmetric


def _require_point(function: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> None:
    """检查 x 与 v 等长、function 在 x 处返回标量。"""
    require_floats("x", x, "n")
    require_floats("v", v, len(x))
    with torch.no_grad():
        value = function(x)
    if value.ndim != 0:
        raise ValueError(f"function 必须返回标量，得到形状 {tuple(value.shape)}")
