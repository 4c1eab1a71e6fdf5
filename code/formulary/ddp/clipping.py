"""梯度裁剪与求平均的先后：DDP 平均之后再裁剪，与单进程相同；先裁剪再平均则不同。"""

from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats


def clip_norm(gradient: Float[Tensor, "*batch P"], max_norm: float) -> Float[Tensor, "*batch P"]:
    r"""按范数裁剪：长度超过 max_norm 的梯度缩短到 max_norm，方向不变。

    Args:
        gradient: 梯度 $g$；有前导轴时各行分别裁剪。
        max_norm: 阈值 c，正数。

    Returns:
        $g\cdot\min(1,c/\lVert g\rVert)$，零梯度仍为零。

    Raises:
        ValueError: gradient 不是浮点张量，或 max_norm 不是正数。

    约定:
        torch.nn.utils.clip_grad_norm_ 的分母多加了 1e-6，差别在第六位以后。

    出处:
        Pascanu et al. 2012, arXiv:1211.5063v2, 算法 1。

    示例:
        >>> clip_norm(torch.tensor([3.0, 4.0]), 1.0)
        tensor([0.6000, 0.8000])
    """
    require_floats("gradient", gradient, "...", "P")
    if not max_norm > 0:
        raise ValueError(f"max_norm 必须是正数，得到 {max_norm!r}")
    norm = gradient.norm(dim=-1, keepdim=True)
    return gradient * (max_norm / norm.clamp(min=max_norm))


def mean_of_clipped(gradients: Float[Tensor, "N P"], max_norm: float) -> Float[Tensor, " P"]:
    r"""先在各 rank 上裁剪、再求平均得到的梯度；一般不等于先平均再裁剪。

    Args:
        gradients: 第 k 行是 rank k 的梯度。
        max_norm: 阈值 c，正数。

    Returns:
        $\frac1N\sum_k\operatorname{clip}_c(g_k)$，范数不超过 c。

    Raises:
        ValueError: gradients 不是二维浮点张量，或 max_norm 不是正数。

    约定:
        只为说明错误的次序；各 rank 的梯度都不超过 c 时两种次序相同。

    示例:
        >>> mean_of_clipped(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), 1.0)
        tensor([0.5000, 0.5000])
    """
    require_floats("gradients", gradients, "N", "P")
    return clip_norm(gradients, max_norm).mean(dim=0)
