"""生成对抗网络：判别器的对数几率怎样变成价值函数与生成器的损失。

约定:
    判别器给出“样本来自数据”的对数几率 ℓ，D = σ(ℓ)；期望取样本均值；单位 nat。
    对数都由 logsigmoid 直接算，不先算 σ(ℓ) 再取对数，ℓ 很负时不会得到 -inf。
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from formulary.checks import require_floats
from formulary.generative_models.divergences import js_divergence, require_distribution_pair


def gan_value(
    real_logits: Float[Tensor, " N"], fake_logits: Float[Tensor, " M"]
) -> Float[Tensor, ""]:
    r"""生成对抗网络的价值函数 V(D, G)，判别器使它升，生成器使它降。

    Args:
        real_logits: 判别器给 N 个真样本的对数几率（无量纲）。
        fake_logits: 判别器给 M 个生成样本的对数几率（无量纲）。

    Returns:
        V（nat），不大于 0；判别器的损失是它的相反数。

    Raises:
        ValueError: 两个参数不是一维的实浮点张量。

    出处:
        Goodfellow et al. 2014, arXiv:1406.2661, 式 (1)。

    示例:
        >>> round(gan_value(torch.zeros(3), torch.zeros(5)).item(), 4)
        -1.3863
    """
    require_floats("real_logits", real_logits, "N")
    require_floats("fake_logits", fake_logits, "M")
    # log(1 − σ(ℓ)) = log σ(−ℓ)
    return F.logsigmoid(real_logits).mean() + F.logsigmoid(-fake_logits).mean()


def pointwise_value(
    p: Float[Tensor, "*batch K"],
    q: Float[Tensor, "*batch K"],
    discriminator: Float[Tensor, "*batch K"],
) -> tuple[Float[Tensor, "*batch K"], Float[Tensor, "*batch K"]]:
    r"""有限空间上价值函数的各项，以及它对每个 D(x) 的导数。

    Args:
        p: 数据分布 p_data。
        q: 生成器的分布 p_G。
        discriminator: 判别器在各状态上的概率 D(x)，严格在 0 与 1 之间。

    Returns:
        各状态的项（nat），沿最后一轴求和即 V；以及 ∂V/∂D(x)（nat）。

    Raises:
        ValueError: p、q 不是概率分布；discriminator 不在 (0, 1) 里。

    出处:
        Goodfellow et al. 2014, arXiv:1406.2661, 命题 1 的证明。

    示例:
        >>> p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
        >>> terms, slopes = pointwise_value(p, q, torch.tensor([0.5, 0.5]))
        >>> slopes
        tensor([ 0.5000, -0.5000])
    """
    require_distribution_pair(p, q)
    require_floats("discriminator", discriminator, *p.shape)
    inside = (discriminator > 0) & (discriminator < 1)
    if not inside.all():
        wrong = discriminator[~inside][0].item()
        raise ValueError(f"discriminator 的元素必须严格在 0 与 1 之间，得到 {wrong!r}")
    terms = p * discriminator.log() + q * torch.log1p(-discriminator)
    return terms, p / discriminator - q / (1 - discriminator)


def optimal_discriminator(
    p: Float[Tensor, "*batch K"], q: Float[Tensor, "*batch K"]
) -> Float[Tensor, "*batch K"]:
    r"""给定生成器时最优的判别器 D*(x)。

    Args:
        p: 数据分布 p_data。
        q: 生成器的分布 p_G。

    Returns:
        各状态上的 D*（概率）。

    Raises:
        ValueError: p 或 q 不是概率分布。

    约定:
        p 与 q 都为 0 的状态，D 取什么都不影响 V，这里取 1/2。

    出处:
        Goodfellow et al. 2014, arXiv:1406.2661, 式 (2)。

    示例:
        >>> optimal_discriminator(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]))
        tensor([0.6667, 0.4000])
    """
    require_distribution_pair(p, q)
    total = p + q
    return torch.where(total > 0, p / total.where(total > 0, 1.0), 0.5)


def value_at_optimum(
    p: Float[Tensor, "*batch K"], q: Float[Tensor, "*batch K"]
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    r"""最优判别器下的价值：直接代入 D*，以及用 JS 散度表示。

    Args:
        p: 数据分布 p_data。
        q: 生成器的分布 p_G。

    Returns:
        两种算法的值（nat），相等；在 -log 4 与 0 之间。

    Raises:
        ValueError: p 或 q 不是概率分布。

    出处:
        Goodfellow et al. 2014, arXiv:1406.2661, 定理 1。

    示例:
        >>> p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
        >>> [round(value.item(), 4) for value in value_at_optimum(p, q)]
        [-1.3187, -1.3187]
    """
    d = optimal_discriminator(p, q)
    direct = (torch.xlogy(p, d) + torch.xlogy(q, 1 - d)).sum(-1)
    return direct, 2 * js_divergence(p, q) - math.log(4)
