"""用手写引擎求高阶导数：把反向也记下来，再反向一次。"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.autograd.tape import gradients
from formulary.autograd.tape_operations import Variable
from formulary.checks import require_count, require_floats


def repeated_derivative(
    function: Callable[[Variable], Variable], x: Float[Tensor, "..."], order: int
) -> Float[Tensor, "..."]:
    r"""逐元素的函数的高阶导数：反复反向，每次都留着图。

    Args:
        function: 逐元素作用的函数，由 Variable 的运算写成。
        x: 求导的点。
        order: 阶数，从 0 起；0 阶就是函数值。

    Returns:
        各点的 order 阶导数，形状与 x 相同。

    Raises:
        ValueError: x 不是实浮点张量，order 不是非负整数，或 function 改变了形状。

    约定:
        某一阶起与 x 无关时，再高的各阶都是零。

    出处:
        本站。

    示例:
        >>> [repeated_derivative(lambda x: x**3, torch.tensor(2.0), k).item() for k in range(5)]
        [8.0, 12.0, 12.0, 6.0, 0.0]
    """
    require_floats("x", x)
    require_count("order", order, least=0)
    point = Variable(x, requires_grad=True)
    value = function(point)
    if value.shape != x.shape:
        raise ValueError(f"function 必须保持形状 {tuple(x.shape)}，得到 {tuple(value.shape)}")
    for _ in range(order):
        if not value.requires_grad:
            return torch.zeros_like(x)
        (value,) = gradients(value.sum(), [point], create_graph=True)
    return value.data


def tape_hessian(
    function: Callable[[Variable], Variable], x: Float[Tensor, " n"]
) -> Float[Tensor, "n n"]:
    r"""标量函数的黑塞矩阵（Hessian matrix）：对梯度的每个分量再反向一次。

    Args:
        function: 接受长为 n 的 Variable，返回只有一个元素的 Variable。
        x: 求导的点。

    Returns:
        黑塞矩阵 $\boldsymbol H$，第 i 行是梯度的第 i 个分量的梯度。

    Raises:
        ValueError: x 不是一维的实浮点张量，或 function 的结果不止一个元素。

    约定:
        一共反向 n + 1 次，都在同一张图上，所以要留着它。

    出处:
        本站；与 torch.func.hessian 比较。

    示例:
        >>> tape_hessian(lambda x: (x * x * x).sum(), torch.tensor([1.0, 2.0]))
        tensor([[ 6.,  0.],
                [ 0., 12.]])
    """
    require_floats("x", x, "n")
    point = Variable(x, requires_grad=True)
    (slope,) = gradients(function(point), [point], create_graph=True)
    if not slope.requires_grad:
        return x.new_zeros(len(x), len(x))
    rows = [
        gradients(slope, [point], Variable(basis), retain_graph=True)[0].data
        for basis in torch.eye(len(x), dtype=x.dtype)
    ]
    return torch.stack(rows)
