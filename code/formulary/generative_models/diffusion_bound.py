"""扩散模型的负对数似然上界：把 x_1, …, x_N 当隐变量的 ELBO，取相反数。"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats
from formulary.generative_models.diffusion import alpha_bar, q_sample
from formulary.generative_models.noise_prediction import noise_prediction_weight


def diffusion_bound(
    noise_model: Callable[[Tensor, Tensor], Tensor],
    x0: Float[Tensor, "B n"],
    betas: Float[Tensor, " N"],
    generator: torch.Generator,
    variances: Float[Tensor, " N"] | None = None,
) -> Float[Tensor, " B"]:
    r"""各样本负对数似然上界的无偏估计，每一步各抽一次噪声。

    Args:
        noise_model: 噪声网络，(B, n) 与 (B,) → (B, n)。
        x0: 数据。
        betas: 各步的噪声方差 β（无量纲）。
        generator: 随机数发生器。
        variances: 反向各步的方差 σ_t²，正数；不给则取 betas，与 ddpm_sample 相同。

    Returns:
        末端与标准正态的 KL、中间各步的 KL、最后一步的高斯负对数似然，三者之和（nat）。

    Raises:
        ValueError: x0 不是二维的实浮点张量；betas 不在 (0, 1) 里；
            variances 的长度不合或不全为正。

    约定:
        对维数求和；网络调用 N 次。

    出处:
        Ho et al. 2020, arXiv:2006.11239, 式 (5)(12)。

    示例:
        >>> betas, generator = torch.tensor([0.1, 0.2]), torch.Generator().manual_seed(0)
        >>> diffusion_bound(lambda xt, t: 0 * xt, torch.zeros(3, 2), betas, generator).shape
        torch.Size([3])
    """
    require_floats("x0", x0, "B", "n")
    steps, (rows, n) = len(betas), x0.shape
    every = torch.arange(1, steps + 1, device=betas.device)
    now, before = alpha_bar(betas, every), alpha_bar(betas, every - 1)
    variances = betas if variances is None else variances
    weights = noise_prediction_weight(every, betas, variances)
    # KL(N(√ᾱ x_0, (1 − ᾱ) I) ‖ N(0, I))，ᾱ 取最后一步
    prior = (now[-1] * x0.square().sum(-1) - n * now[-1] - n * torch.log1p(-now[-1])) / 2
    # t ≥ 2 时 β̃_t 与 σ_t² 不同，KL 里多出的常数
    ratio = ((1 - before) / (1 - now) * betas / variances)[1:]
    constant = (ratio - 1 - ratio.log()).sum() + (2 * math.pi * variances[0]).log()
    bound = prior + n / 2 * constant
    for step in range(1, steps + 1):
        t = torch.full((rows,), step, device=x0.device)
        noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        error = noise - noise_model(q_sample(x0, t, noise, betas), t)
        bound = bound + weights[step - 1] * error.square().sum(-1)
    return bound
