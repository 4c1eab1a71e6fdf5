"""NADE 各函数共用的形状检查。"""

from torch import Tensor

from formulary.checks import require_floats


def require_nade_shapes(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    output_weight: Tensor,
    output_bias: Tensor | None = None,
) -> None:
    """要求各张量依次形如 (B, n)、(d, n)、(d,)、(n, d)、(n,)，最后一个可以不给。"""
    require_floats("x", x, "B", "n")
    n = x.shape[1]
    require_floats("weight", weight, "d", n)
    d = weight.shape[0]
    require_floats("bias", bias, d)
    require_floats("output_weight", output_weight, n, d)
    if output_bias is not None:
        require_floats("output_bias", output_bias, n)
