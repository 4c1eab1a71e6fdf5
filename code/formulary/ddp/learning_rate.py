"""批量放大之后的学习率：线性缩放、平方根缩放、预热，与改变学习率时的动量修正。"""

from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_count, require_floats


def _require_positive(name: str, value: float) -> None:
    """要求 value 是有限的正数。"""
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} 必须是有限的正数，得到 {value!r}")


def linear_scaled_rate(base_rate: float, global_batch: int, base_batch: int) -> float:
    r"""线性缩放：学习率与全局批量成正比，用于 SGD。

    Args:
        base_rate: 批量为 base_batch 时调好的学习率 η_0。
        global_batch: 现在的全局批量 B，各 rank 与梯度累积都算在内（个）。
        base_batch: 当时的批量 B_0（个）。

    Returns:
        新的学习率，单位与 base_rate 相同。

    Raises:
        ValueError: 学习率不是正数，或批量不是正整数。

    出处:
        Goyal et al. 2017, arXiv:1706.02677。

    示例:
        >>> linear_scaled_rate(0.1, 1024, 256)
        0.4
    """
    _require_positive("base_rate", base_rate)
    require_count("global_batch", global_batch)
    require_count("base_batch", base_batch)
    return base_rate * global_batch / base_batch


def square_root_scaled_adam(
    base_rate: float,
    base_betas: tuple[float, float],
    base_eps: float,
    global_batch: int,
    base_batch: int,
) -> tuple[float, tuple[float, float], float]:
    r"""平方根缩放：批量放大 κ 倍时 Adam 的学习率、两个衰减率与 ε 怎样跟着变。

    Args:
        base_rate: 批量为 base_batch 时的学习率。
        base_betas: 当时的衰减率 β_1、β_2，在 [0, 1) 里。
        base_eps: 当时的 ε，为正。
        global_batch: 现在的全局批量（个）。
        base_batch: 当时的批量（个）。

    Returns:
        新的学习率、衰减率与 ε。

    Raises:
        ValueError: 参数越界，或 κ 大到 1 − κ(1 − β) 为负。

    约定:
        梯度的噪声远大于梯度本身时成立。

    出处:
        Malladi et al. 2022, arXiv:2205.10287。

    示例:
        >>> square_root_scaled_adam(1e-3, (0.75, 0.9375), 1e-8, 1024, 256)
        (0.002, (0.0, 0.75), 5e-09)
    """
    _require_positive("base_eps", base_eps)
    kappa = linear_scaled_rate(1.0, global_batch, base_batch)
    _require_positive("base_rate", base_rate)
    betas = (1 - kappa * (1 - base_betas[0]), 1 - kappa * (1 - base_betas[1]))
    if not all(0 <= beta < 1 for beta in (*base_betas, *betas)):
        raise ValueError(
            f"base_betas 放大前后都必须在 [0, 1) 里，得到 {base_betas}，放大之后是 {betas}"
        )
    return base_rate * kappa**0.5, betas, base_eps / kappa**0.5


def warmup_rate(step: int, warmup_steps: int, base_rate: float, target_rate: float) -> float:
    r"""线性预热：从 base_rate 起，warmup_steps 步之后到 target_rate，以后不变。

    Args:
        step: 第几次更新 t，从 0 起（步）。
        warmup_steps: 预热的步数 T_w；0 表示不预热。
        base_rate: 起点 η_0，可以是 0。
        target_rate: 终点 η_N。

    Returns:
        第 t 步的学习率。

    Raises:
        ValueError: 步数不是非负整数，或学习率不合要求。

    出处:
        Goyal et al. 2017, arXiv:1706.02677, 2.2 节。

    示例:
        >>> [warmup_rate(step, 4, 0.1, 0.5) for step in (0, 1, 4, 9)]
        [0.1, 0.2, 0.5, 0.5]
    """
    require_count("step", step, 0)
    require_count("warmup_steps", warmup_steps, 0)
    if base_rate != 0:
        _require_positive("base_rate", base_rate)
    _require_positive("target_rate", target_rate)
    progress = 1.0 if step >= warmup_steps else step / warmup_steps
    return base_rate + (target_rate - base_rate) * progress


def folded_momentum_step(
    theta: Float[Tensor, " P"],
    velocity: Float[Tensor, " P"],
    gradient: Float[Tensor, " P"],
    rate: float,
    previous_rate: float,
    momentum: float = 0.9,
) -> tuple[Float[Tensor, " P"], Float[Tensor, " P"]]:
    r"""学习率折进速度里的动量 SGD 的一步，学习率变了就把旧速度按比例修正。

    Args:
        theta: 参数 θ_t。
        velocity: 速度 v_t，已含学习率；起初为零。
        gradient: 梯度 g_t。
        rate: 这一步的学习率 η_{t+1}。
        previous_rate: 上一步的学习率 η_t；第一步随便给一个正数。
        momentum: 动量系数 m，在 [0, 1) 里。

    Returns:
        新的参数与速度。

    Raises:
        ValueError: 形状对不上，学习率不是正数，或动量越界。

    约定:
        torch.optim.SGD 的速度不含学习率，不必修正，两者的轨迹相同。

    出处:
        Goyal et al. 2017, arXiv:1706.02677, 第 3 节。

    示例:
        >>> one = torch.ones(1)
        >>> folded_momentum_step(one, 0.1 * one, one, rate=0.2, previous_rate=0.1, momentum=0.5)
        (tensor([0.7000]), tensor([0.3000]))
    """
    require_floats("theta", theta, "P")
    require_floats("velocity", velocity, *theta.shape)
    require_floats("gradient", gradient, *theta.shape)
    _require_positive("rate", rate)
    _require_positive("previous_rate", previous_rate)
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum 必须在 [0, 1) 里，得到 {momentum!r}")
    velocity = momentum * rate / previous_rate * velocity + rate * gradient
    return theta - velocity, velocity
