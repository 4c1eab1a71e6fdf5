"""扩散模型的前向过程：一步步加噪，每一步与它的逆都是高斯分布，全有闭式。

约定:
    t 从 1 到 N（步数，文献里记作 T），t = 0 是数据，ᾱ_0 = 1；betas[t − 1] 是第 t 步的 β_t。
    x 每行一个样本，t 每行一个整数。
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from formulary.checks import require_count, require_floats, require_indices


def linear_betas(
    steps: int, first: float = 1e-4, last: float = 0.02, dtype: torch.dtype = torch.float32
) -> Float[Tensor, " N"]:
    r"""线性增长的噪声方差 β_1, …, β_N。

    Args:
        steps: 步数 N。
        first: β_1（无量纲）。
        last: β_N（无量纲）。
        dtype: 结果的类型。

    Returns:
        等差的 β，首项 first，末项 last。

    Raises:
        ValueError: steps 不是正整数；first、last 不满足 0 < first ≤ last < 1。

    约定:
        默认值是论文为 1000 步取的；步数少时要把 last 调大，否则末端还不是纯噪声。

    出处:
        Ho et al. 2020, arXiv:2006.11239, 第 4 节。

    示例:
        >>> linear_betas(3, first=0.1, last=0.5)
        tensor([0.1000, 0.3000, 0.5000])
    """
    require_count("steps", steps)
    if not 0 < first <= last < 1:
        raise ValueError(f"first 与 last 必须满足 0 < first ≤ last < 1，得到 {first} 与 {last}")
    return torch.linspace(first, last, steps, dtype=dtype)


def alpha_bar(betas: Float[Tensor, " N"], t: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    r"""到第 t 步为止信号方差剩下的比例 ᾱ_t = ∏(1 − β_s)。

    Args:
        betas: 各步的噪声方差 β（无量纲），在 (0, 1) 里。
        t: 步号，0 到 N；0 处为 1。

    Returns:
        ᾱ_t（无量纲），随 t 递减。

    Raises:
        ValueError: betas 不是一维的实浮点张量或不在 (0, 1) 里；t 不是 0 到 N 的整数。

    出处:
        Ho et al. 2020, arXiv:2006.11239, 式 (4)。

    示例:
        >>> alpha_bar(torch.tensor([0.5, 0.2]), torch.tensor([0, 1, 2]))
        tensor([1.0000, 0.5000, 0.4000])
    """
    require_floats("betas", betas, "N")
    if not ((betas > 0) & (betas < 1)).all():
        raise ValueError(f"betas 的元素必须严格在 0 与 1 之间，得到 {betas.tolist()}")
    require_indices("t", t, len(betas) + 1)
    return torch.cat((betas.new_ones(1), (1 - betas).cumprod(0)))[t]


def q_sample(
    x0: Float[Tensor, "B n"],
    t: Int[Tensor, " B"],
    noise: Float[Tensor, "B n"],
    betas: Float[Tensor, " N"],
) -> Float[Tensor, "B n"]:
    r"""一步到位地加噪到第 t 步。

    Args:
        x0: 数据 x_0。
        t: 各样本的步号，0 到 N。
        noise: 标准正态噪声 ε，与 x0 同形。
        betas: 各步的噪声方差 β（无量纲）。

    Returns:
        x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε。

    Raises:
        ValueError: 形状不合；betas 或 t 不合要求，条件同 alpha_bar。

    出处:
        Ho et al. 2020, arXiv:2006.11239, 式 (4)。

    示例:
        >>> x0, noise = torch.tensor([[2.0]]), torch.tensor([[1.0]])
        >>> q_sample(x0, torch.tensor([2]), noise, torch.tensor([0.2, 0.2]))
        tensor([[2.2000]])
    """
    require_floats("x0", x0, "B", "n")
    require_floats("noise", noise, *x0.shape)
    require_indices("t", t, len(betas) + 1, len(x0))
    a = alpha_bar(betas, t)[:, None]  # (B, 1)
    return a.sqrt() * x0 + (1 - a).sqrt() * noise


def posterior_natural_parameters(
    x0: Float[Tensor, "B n"],
    xt: Float[Tensor, "B n"],
    t: Int[Tensor, " B"],
    betas: Float[Tensor, " N"],
) -> tuple[Float[Tensor, " B"], Float[Tensor, "B n"]]:
    r"""两个高斯因子相乘：x_{t−1} 的精度，与精度乘均值。

    Args:
        x0: 数据 x_0。
        xt: 加噪到第 t 步的样本。
        t: 各样本的步号，2 到 N。
        betas: 各步的噪声方差 β（无量纲）。

    Returns:
        1/β̃_t 与 μ̃_t/β̃_t，都由两个因子各自的贡献相加。

    Raises:
        ValueError: 形状不合；betas 不在 (0, 1) 里；t 不是 2 到 N 的整数。

    约定:
        t = 1 时 x_0 已知，精度为无穷大，不在此列。

    出处:
        对 Ho et al. 2020, arXiv:2006.11239, 式 (6) 配方。

    示例:
        >>> one, two = torch.ones(1, 1), torch.tensor([2])
        >>> precision, _ = posterior_natural_parameters(one, one, two, torch.tensor([0.5, 0.5]))
        >>> precision
        tensor([3.])
    """
    require_floats("x0", x0, "B", "n")
    require_floats("xt", xt, *x0.shape)
    require_indices("t", t, len(betas) + 1, len(x0))
    if (t < 2).any():
        raise ValueError(f"t 的元素必须在 2 到 {len(betas)} 之间，得到 {t.min().item()}")
    beta, before = betas[t - 1], alpha_bar(betas, t - 1)
    precision = (1 - beta) / beta + 1 / (1 - before)
    from_next = ((1 - beta).sqrt() / beta)[:, None] * xt
    from_data = (before.sqrt() / (1 - before))[:, None] * x0
    return precision, from_next + from_data


def diffusion_posterior(
    x0: Float[Tensor, "B n"],
    xt: Float[Tensor, "B n"],
    t: Int[Tensor, " B"],
    betas: Float[Tensor, " N"],
) -> tuple[Float[Tensor, "B n"], Float[Tensor, " B"]]:
    r"""前向过程的后验 q(x_{t−1} | x_t, x_0) 的均值与方差。

    Args:
        x0: 数据 x_0。
        xt: 加噪到第 t 步的样本。
        t: 各样本的步号，1 到 N。
        betas: 各步的噪声方差 β（无量纲）。

    Returns:
        均值 μ̃_t，与每一维的方差 β̃_t；t = 1 时分别是 x_0 与 0。

    Raises:
        ValueError: 形状不合；betas 不在 (0, 1) 里；t 不是 1 到 N 的整数。

    出处:
        Ho et al. 2020, arXiv:2006.11239, 式 (6)(7)。

    示例:
        >>> one, two = torch.ones(1, 1), torch.tensor([2])
        >>> diffusion_posterior(one, one, two, torch.tensor([0.5, 0.5]))[1]
        tensor([0.3333])
    """
    require_floats("x0", x0, "B", "n")
    require_floats("xt", xt, *x0.shape)
    require_indices("t - 1", t - 1, len(betas), len(x0))
    beta, before, now = betas[t - 1], alpha_bar(betas, t - 1), alpha_bar(betas, t)
    data_part = (before.sqrt() * beta / (1 - now))[:, None] * x0
    noisy_part = ((1 - beta).sqrt() * (1 - before) / (1 - now))[:, None] * xt
    return data_part + noisy_part, (1 - before) / (1 - now) * beta
