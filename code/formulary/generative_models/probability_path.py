"""直线概率路径：从噪声到数据的插值、边缘速度场，以及高斯与高斯混合时的闭式。

约定:
    t = 0 是标准正态噪声 x_0，t = 1 是数据 x_1；与扩散模型的方向相反。
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_distribution, require_floats


def _require_time(t: float) -> None:
    if not 0 <= t <= 1:
        raise ValueError(f"t 必须在 [0, 1] 里，得到 {t!r}")


def linear_path(
    x0: Float[Tensor, "B n"], x1: Float[Tensor, "B n"], t: Float[Tensor, " B"]
) -> Float[Tensor, "B n"]:
    r"""噪声与数据之间的直线插值。

    Args:
        x0: 噪声。
        x1: 数据。
        t: 各样本的时刻，在 [0, 1] 里（无量纲）。

    Returns:
        x_t = (1 − t)x_0 + t x_1，对 t 的导数恒为 x_1 − x_0。

    Raises:
        ValueError: 形状不合；t 不在 [0, 1] 里。

    出处:
        Liu et al. 2023, arXiv:2209.03003；Lipman et al. 2023, arXiv:2210.02747, σ_min = 0 的情形。

    示例:
        >>> x0, x1 = torch.tensor([[0.0, 4.0]]), torch.tensor([[2.0, 0.0]])
        >>> linear_path(x0, x1, torch.tensor([0.25]))
        tensor([[0.5000, 3.0000]])
    """
    require_floats("x0", x0, "B", "n")
    require_floats("x1", x1, *x0.shape)
    require_floats("t", t, len(x0))
    if not ((t >= 0) & (t <= 1)).all():
        raise ValueError(f"t 的元素必须在 [0, 1] 里，得到 {t.min().item()} 到 {t.max().item()}")
    return (1 - t[:, None]) * x0 + t[:, None] * x1


def gaussian_velocity(
    x: Float[Tensor, "*batch"], t: float, mean: float, std: float
) -> Float[Tensor, "*batch"]:
    r"""数据是一维高斯分布时的边缘速度 u_t(x)。

    Args:
        x: 位置。
        t: 时刻，在 [0, 1] 里（无量纲）。
        mean: 数据的均值 m。
        std: 数据的标准差 s，正数。

    Returns:
        u_t(x) = E[x_1 − x_0 | x_t = x]。

    Raises:
        ValueError: x 不是实浮点张量；t 不在 [0, 1] 里；std 不是正数。

    出处:
        由二元高斯分布的条件期望推出；一般形式见 Lipman et al. 2023, arXiv:2210.02747, 定理 3。

    示例:
        >>> gaussian_velocity(torch.tensor([0.0, 1.0, 2.0]), t=0.5, mean=2.0, std=1.0)
        tensor([2., 2., 2.])
    """
    require_floats("x", x)
    _require_time(t)
    if not std > 0:
        raise ValueError(f"std 必须是正数，得到 {std!r}")
    variance = (1 - t) ** 2 + (t * std) ** 2
    return mean + (t * std**2 - (1 - t)) / variance * (x - t * mean)


def gaussian_mixture_velocity(
    x: Float[Tensor, "*batch n"],
    t: float,
    prior: Float[Tensor, " K"],
    means: Float[Tensor, "K n"],
    variances: Float[Tensor, " K"],
) -> Float[Tensor, "*batch n"]:
    r"""数据是高斯混合时的边缘速度：各分量的速度按后验概率加权。

    Args:
        x: 位置。
        t: 时刻，在 [0, 1] 里（无量纲）。
        prior: 混合权重 π_k。
        means: 各分量的均值 m_k。
        variances: 各分量每一维的方差 v_k，正数。

    Returns:
        u_t(x)。

    Raises:
        ValueError: t 不在 [0, 1] 里；prior 不是概率分布；variances 不全为正；形状不合。

    出处:
        对混合的分量用全期望公式；单个分量见 gaussian_velocity。

    示例:
        >>> args = torch.tensor([0.5, 0.5]), torch.tensor([[-2.0], [2.0]]), torch.ones(2)
        >>> gaussian_mixture_velocity(torch.tensor([[0.0], [3.0]]), 0.0, *args)
        tensor([[ 0.],
                [-3.]])
    """
    _require_time(t)
    require_floats("prior", prior, "K")
    require_distribution("prior", prior)
    require_floats("means", means, len(prior), "n")
    require_floats("x", x, "...", means.shape[1])
    require_floats("variances", variances, len(prior))
    if not (variances > 0).all():
        raise ValueError(f"variances 的元素必须是正数，得到 {variances.min().item()!r}")
    spread = (1 - t) ** 2 + t**2 * variances  # 各分量在 t 时刻的方差，(K,)
    offset = x[..., None, :] - t * means  # (*batch, K, n)
    log_joint = prior.log() - (offset.square().sum(-1) / spread + x.shape[-1] * spread.log()) / 2
    posterior = torch.softmax(log_joint, dim=-1)  # (*batch, K)
    each = means + ((t * variances - (1 - t)) / spread)[:, None] * offset
    return (posterior[..., None] * each).sum(-2)


def velocity_from_score(
    x: Float[Tensor, "*batch n"], score_values: Float[Tensor, "*batch n"], t: float
) -> Float[Tensor, "*batch n"]:
    r"""由 p_t 的分数换算边缘速度。

    Args:
        x: 位置。
        score_values: p_t 在 x 处的分数 ∇log p_t(x)。
        t: 时刻，在 (0, 1] 里（无量纲）。

    Returns:
        u_t(x) = (x + (1 − t)∇log p_t(x))/t。

    Raises:
        ValueError: 两个张量形状不同或不是实浮点；t 不在 (0, 1] 里。

    出处:
        由 Tweedie 公式推出；一般形式见 Lipman et al. 2023, arXiv:2210.02747。

    示例:
        >>> x = torch.tensor([2.0])  # 数据是标准正态，t = 0.5 时方差为 0.5
        >>> velocity_from_score(x, -x / 0.5, t=0.5)
        tensor([0.])
    """
    require_floats("x", x)
    require_floats("score_values", score_values, *x.shape)
    if not 0 < t <= 1:
        raise ValueError(f"t 必须在 (0, 1] 里，得到 {t!r}")
    return (x + (1 - t) * score_values) / t


def transport_rates(
    x0: Float[Tensor, "N n"],
    x1: Float[Tensor, "N n"],
    weights: Float[Tensor, " N"],
    t: float,
    test_gradient: Callable[[Tensor], Tensor],
    velocity: Callable[[Tensor], Tensor],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    r"""检验函数的期望变化得多快：按每条直线算，与按边缘速度算。

    Args:
        x0: N 个噪声，每行一个。
        x1: 与之配对的 N 个数据。
        weights: 各对的概率，和为 1；蒙特卡洛时全为 1/N，求积时为求积的权。
        t: 时刻，在 [0, 1] 里（无量纲）。
        test_gradient: 检验函数的梯度 ∇f，(N, n) → (N, n)。
        velocity: t 时刻的边缘速度 u_t，(N, n) → (N, n)。

    Returns:
        E[∇f(x_t)·(x_1 − x_0)] 与 E[∇f(x_t)·u_t(x_t)]；u_t 取条件期望时两者相等。

    Raises:
        ValueError: 形状不合；weights 不是概率分布；t 不在 [0, 1] 里。

    出处:
        Lipman et al. 2023, arXiv:2210.02747, 定理 1，写成弱形式。

    示例:
        >>> x0, x1 = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [3.0]])
        >>> half = torch.full((2,), 0.5)
        >>> transport_rates(x0, x1, half, 0.5, torch.ones_like, lambda x: 1.5 * torch.ones_like(x))
        (tensor(1.5000), tensor(1.5000))
    """
    _require_time(t)
    require_floats("weights", weights, len(x0))
    require_distribution("weights", weights)
    xt = linear_path(x0, x1, weights.new_full(weights.shape, t))
    gradient = test_gradient(xt)
    along_lines = (gradient * (x1 - x0)).sum(-1)
    along_field = (gradient * velocity(xt)).sum(-1)
    return weights @ along_lines, weights @ along_field
