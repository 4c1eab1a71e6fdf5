"""逐样本梯度：vmap 套 grad，以及线性层不必算出梯度就能求范数的办法。"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_count, require_floats


def per_sample_gradients(
    loss: Callable[[dict[str, Tensor], Tensor, Tensor], Tensor],
    parameters: Mapping[str, Tensor],
    inputs: Float[Tensor, "N *batch"],
    targets: Tensor,
) -> dict[str, Tensor]:
    r"""一次算出每个样本各自的梯度，不逐个循环。

    Args:
        loss: loss(参数, 一个输入, 一个目标)，返回标量；模块可用 torch.func.functional_call 调用。
        parameters: 参数的字典，各样本共用。
        inputs: N 个输入，第 0 轴是样本。
        targets: N 个目标，第 0 轴是样本。

    Returns:
        与 parameters 同名的字典，每个值在最前面多一个长为 N 的轴。

    Raises:
        ValueError: inputs 不是浮点张量，没有样本，或 inputs 与 targets 的个数不等。

    约定:
        对第 0 轴求平均，就是平均损失的梯度。loss 里只能见到一个样本，没有批量的轴。

    出处:
        torch.func 文档 Per-sample-gradients。

    示例:
        >>> square = lambda p, x, y: (p["w"] * x - y) ** 2
        >>> x, y = torch.tensor([1.0, 2.0]), torch.zeros(2)
        >>> per_sample_gradients(square, {"w": torch.tensor(1.0)}, x, y)
        {'w': tensor([2., 8.])}
    """
    require_floats("inputs", inputs)
    require_count("inputs 的样本数", len(inputs) if inputs.ndim else 0)
    if len(targets) != len(inputs):
        raise ValueError(f"targets 必须有 {len(inputs)} 个，与 inputs 一样多，得到 {len(targets)}")
    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    return each(dict(parameters), inputs, targets)


def linear_gradient_norms(
    x: Float[Tensor, "N d_in"], adjoint: Float[Tensor, "N d_out"]
) -> Float[Tensor, " N"]:
    r"""线性层每个样本的权重梯度的 F-范数，不必把梯度算出来。

    Args:
        x: 输入，每行一个样本。
        adjoint: 输出的伴随 $\bar{\boldsymbol y}_j$，每行一个样本；损失没有除以 N。

    Returns:
        $\|\bar{\boldsymbol y}_j\boldsymbol x_j^\top\|_F$。

    Raises:
        ValueError: x 与 adjoint 不是二维浮点张量，或行数不等。

    约定:
        每个样本只过这一层一次；同一个权重在一个样本里用多次（如卷积、各词元共用）时不成立。

    出处:
        Goodfellow 2015, arXiv:1510.01799。

    示例:
        >>> linear_gradient_norms(torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0]]))
        tensor([10.])
    """
    require_floats("x", x, "N", "d_in")
    require_floats("adjoint", adjoint, len(x), "d_out")
    return x.norm(dim=1) * adjoint.norm(dim=1)
