"""批归一化反向的推导：损失对归一化后的值、方差、均值、输入的导数，一项一步。"""

from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats


def batch_norm_adjoints(
    x: Float[Tensor, "N C"],
    weight: Float[Tensor, " C"],
    delta: Float[Tensor, "N C"],
    eps: float = 1e-5,
) -> tuple[Float[Tensor, "N C"], Float[Tensor, " C"], Float[Tensor, " C"], Float[Tensor, "N C"]]:
    r"""批归一化反向的逐步推导：损失对 x̂、方差、均值、x 的导数，一项一步。

    Args:
        x: 全体样本，一行一个，至少两行。
        weight: 每个通道的 γ。
        delta: 损失对输出 y 的导数 δ。
        eps: 加在方差上的常数。

    Returns:
        四个导数，依次对归一化后的值、方差、均值、输入（损失的单位除以各自的单位）。

    Raises:
        ValueError: 形状对不上、不足两行，或 eps 不是正数。

    约定:
        方差除以 n；对均值的导数不含经过方差的那条路（它为零）。

    出处:
        Ioffe & Szegedy 2015, arXiv:1502.03167, 第 3 节。

    示例:
        >>> x, delta = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [0.0]])
        >>> adjoints = batch_norm_adjoints(x, torch.ones(1), delta, eps=3.0)
        >>> [adjoint.flatten().tolist() for adjoint in adjoints]
        [[1.0, 0.0], [0.0625], [-0.5], [0.1875, -0.1875]]
    """
    require_floats("x", x, "N", "C")
    require_floats("weight", weight, x.shape[1])
    require_floats("delta", delta, *x.shape)
    if len(x) < 2:
        raise ValueError(f"x 至少要有两行，得到 {len(x)} 行")
    if not eps > 0:
        raise ValueError(f"eps 必须是正数，得到 {eps!r}")
    centered = x - x.mean(dim=0)
    scale = (centered.square().mean(dim=0) + eps).rsqrt()
    grad_normalized = weight * delta
    grad_variance = -0.5 * scale**3 * (grad_normalized * centered).sum(dim=0)
    grad_mean = -scale * grad_normalized.sum(dim=0)
    through_moments = (2 * grad_variance * centered + grad_mean) / len(x)
    return grad_normalized, grad_variance, grad_mean, scale * grad_normalized + through_moments
