r"""部署时把评估模式的批归一化并进前一层。"""

from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats
from formulary.nn_and_functional.batch_norm import EPSILON


def fold_batch_norm(
    weight: Float[Tensor, "O ..."],
    bias: Float[Tensor, " O"],
    mean: Float[Tensor, " O"],
    variance: Float[Tensor, " O"],
    gamma: Float[Tensor, " O"],
    beta: Float[Tensor, " O"],
    epsilon: float = EPSILON,
) -> tuple[Float[Tensor, "O ..."], Float[Tensor, " O"]]:
    r"""把评估模式的批归一化并进它前面的卷积或线性层。

    Args:
        weight: 前一层的权重，输出通道在第一轴。
        bias: 前一层的偏置。
        mean: 运行均值。
        variance: 运行方差。
        gamma: 缩放。
        beta: 平移。
        epsilon: 根号里的常数。

    Returns:
        新的权重与偏置；只用这一层，输出与原来的两层相同。

    Raises:
        ValueError: 形状或类型不符，或 epsilon 为负。

    出处:
        PyTorch 2.13, torch.nn.utils.fusion.fuse_conv_bn_eval。

    示例:
        >>> one = torch.ones(1)
        >>> fold_batch_norm(torch.tensor([[3.0]]), one, one, 4 * one, one, one, epsilon=0.0)
        (tensor([[1.5000]]), tensor([1.]))
    """
    require_floats("weight", weight)
    outputs = weight.shape[0]
    vectors = {"bias": bias, "mean": mean, "variance": variance, "gamma": gamma, "beta": beta}
    for name, value in vectors.items():
        require_floats(name, value, outputs)
    if not epsilon >= 0:
        raise ValueError(f"epsilon 不能为负，得到 {epsilon!r}")
    scale = gamma / (variance + epsilon).sqrt()
    return scale.view(-1, *[1] * (weight.ndim - 1)) * weight, scale * (bias - mean) + beta
