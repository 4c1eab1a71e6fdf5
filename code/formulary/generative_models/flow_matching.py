"""流匹配：学速度场，采样时解常微分方程。

约定:
    velocity(x, t) 返回速度，x 每行一个样本，t 是 [0, 1] 里的实数，每行一个；
    t = 0 是标准正态噪声，t = 1 是数据。
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_count, require_floats
from formulary.generative_models.probability_path import linear_path


def flow_matching_loss(
    velocity: Callable[[Tensor, Tensor], Tensor],
    x1: Float[Tensor, "B n"],
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    r"""条件流匹配的损失：在随机的中途，预测从噪声到数据的位移。

    Args:
        velocity: 速度网络，(B, n) 与 (B,) → (B, n)。
        x1: 一个小批量的数据。
        generator: 随机数发生器。

    Returns:
        E‖v_θ(x_t, t) − (x_1 − x_0)‖² 的估计；对样本取平均，对维数求和。

    Raises:
        ValueError: x1 不是二维的实浮点张量。

    约定:
        x_0 取标准正态，与 x_1 独立配对；t 均匀取自 [0, 1)；最小值一般不是 0。

    出处:
        Lipman et al. 2023, arXiv:2210.02747, 式 (14)(23)，σ_min = 0。

    示例:
        >>> x1, generator = torch.tensor([[2.0, -1.0]]), torch.Generator().manual_seed(0)
        >>> exact = lambda x, t: (x1 - x) / (1 - t[:, None])  # 数据只有一个点，位移可以准确预测
        >>> round(flow_matching_loss(exact, x1, generator).item(), 4)
        0.0
    """
    require_floats("x1", x1, "B", "n")
    t = torch.rand(x1.shape[:1], generator=generator, dtype=x1.dtype, device=x1.device)
    x0 = torch.randn(x1.shape, generator=generator, dtype=x1.dtype, device=x1.device)
    return (velocity(linear_path(x0, x1, t), t) - (x1 - x0)).square().sum(-1).mean()


def euler_sample(
    velocity: Callable[[Tensor, Tensor], Tensor], x: Float[Tensor, "B n"], steps: int
) -> Float[Tensor, "B n"]:
    r"""用欧拉法从 t = 0 积分到 t = 1。

    Args:
        velocity: 速度场，(B, n) 与 (B,) → (B, n)。
        x: 起点，取标准正态；不被改动。
        steps: 步数，网络调用的次数与它相同。

    Returns:
        t = 1 处的样本；误差与步长成正比；整个过程不记录梯度。

    Raises:
        ValueError: x 不是二维的实浮点张量；steps 不是正整数。

    出处:
        标准的数值积分；用于流匹配见 Liu et al. 2023, arXiv:2209.03003。

    示例:
        >>> euler_sample(lambda x, t: x, torch.tensor([[1.0]]), steps=2)
        tensor([[2.2500]])
    """
    require_floats("x", x, "B", "n")
    require_count("steps", steps)
    with torch.no_grad():
        for step in range(steps):
            x = x + velocity(x, x.new_full(x.shape[:1], step / steps)) / steps
    return x


def midpoint_sample(
    velocity: Callable[[Tensor, Tensor], Tensor], x: Float[Tensor, "B n"], steps: int
) -> Float[Tensor, "B n"]:
    r"""用中点法从 t = 0 积分到 t = 1。

    Args:
        velocity: 速度场，(B, n) 与 (B,) → (B, n)。
        x: 起点，取标准正态；不被改动。
        steps: 步数，网络调用的次数是它的两倍。

    Returns:
        t = 1 处的样本；误差与步长的平方成正比；整个过程不记录梯度。

    Raises:
        ValueError: x 不是二维的实浮点张量；steps 不是正整数。

    出处:
        标准的数值积分（二阶龙格–库塔法）；用于流匹配见 Lipman et al. 2023, arXiv:2210.02747。

    示例:
        >>> midpoint_sample(lambda x, t: x, torch.tensor([[1.0]]), steps=2)
        tensor([[2.6406]])
    """
    require_floats("x", x, "B", "n")
    require_count("steps", steps)
    half = 1 / (2 * steps)
    with torch.no_grad():
        for step in range(steps):
            t = x.new_full(x.shape[:1], step / steps)
            middle = x + half * velocity(x, t)
            x = x + 2 * half * velocity(middle, t + half)
    return x
