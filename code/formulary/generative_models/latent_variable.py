"""隐变量模型的证据下界：离散情形的推导，线性高斯情形的闭式。

约定:
    线性高斯模型：z ~ N(0, I)，x|z ~ N(W z, s² I)；近似后验 q(z|x) 是对角高斯。
    ELBO、KL 散度与对数似然的单位都是 nat，对各维求和，不取平均。
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_distribution, require_floats, require_probabilities
from formulary.generative_models.divergences import kl_divergence


def elbo_derivation(
    prior: Float[Tensor, " K"], likelihood: Float[Tensor, " K"], q: Float[Tensor, " K"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    r"""离散隐变量的证据下界，推导的每一行各一个值。

    Args:
        prior: 先验 p(z)。
        likelihood: 观测到的那个 x 在各个 z 下的概率 p(x|z)（无量纲）。
        q: 近似后验 q(z|x)，各状态的概率为正。

    Returns:
        log Σ p(x,z)；log E_q[p(x,z)/q(z)]；E_q[log p(x,z)/q(z)]；
        E_q[log p(x|z)] − D(q‖p(z))（nat）。前两个相等，后两个相等，且前者不小于后者。

    Raises:
        ValueError: prior 或 q 不是概率分布，q 有零，likelihood 不在 [0, 1] 里，或形状不合。

    出处:
        Jordan et al. 1999；Kingma & Welling 2014, arXiv:1312.6114, 式 (2)、(3)。

    示例:
        >>> half = torch.tensor([0.5, 0.5])
        >>> lines = elbo_derivation(half, torch.tensor([0.8, 0.2]), half)
        >>> [round(line.item(), 4) for line in lines]
        [-0.6931, -0.6931, -0.9163, -0.9163]
    """
    require_floats("prior", prior, "K")
    require_distribution("prior", prior)
    require_floats("likelihood", likelihood, len(prior))
    require_probabilities("likelihood", likelihood)
    require_floats("q", q, len(prior))
    require_distribution("q", q)
    if (q == 0).any():
        raise ValueError("q 的元素必须为正，得到 0")
    joint = prior * likelihood  # (K,)
    ratio = joint / q
    evidence = joint.sum().log()
    inside = (q * ratio).sum().log()
    outside = (q * ratio.log()).sum()
    bound = (q * likelihood.log()).sum() - kl_divergence(q, prior)
    return evidence, inside, outside, bound


def gaussian_kl(
    mean: Float[Tensor, "*batch m"], log_variance: Float[Tensor, "*batch m"]
) -> Float[Tensor, "*batch"]:
    r"""对角高斯到标准正态的 KL 散度。

    Args:
        mean: 均值 μ。
        log_variance: 方差的对数 log σ²。

    Returns:
        D(N(μ, diag σ²)‖N(0, I))（nat），对 m 维求和。

    Raises:
        ValueError: 两个参数不是形状相同的浮点张量。

    出处:
        Kingma & Welling 2014, arXiv:1312.6114, 附录 B。

    示例:
        >>> gaussian_kl(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
        tensor(0.8591)
    """
    require_floats("mean", mean, "...", "m")
    require_floats("log_variance", log_variance, *mean.shape)
    return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(-1)


def linear_gaussian_log_prob(
    x: Float[Tensor, " n"], weight: Float[Tensor, "n m"], noise_scale: float
) -> Float[Tensor, ""]:
    r"""线性高斯模型的精确对数似然：把 z 积掉，x 服从 N(0, W Wᵀ + s² I)。

    Args:
        x: 观测。
        weight: 载荷矩阵 W。
        noise_scale: 观测噪声的标准差 s，为正。

    Returns:
        log p(x)（nat）。

    Raises:
        ValueError: 形状不合，或 noise_scale 不是有限的正数。

    出处:
        Tipping & Bishop 1999, 概率主成分分析。

    示例:
        >>> linear_gaussian_log_prob(torch.zeros(1), torch.tensor([[1.0]]), 1.0)
        tensor(-1.2655)
    """
    _require_linear_gaussian(x, weight, noise_scale)
    n = len(x)
    covariance = weight @ weight.T + noise_scale**2 * torch.eye(n, dtype=x.dtype)
    factor = torch.linalg.cholesky(covariance)
    standard = torch.linalg.solve_triangular(factor, x[:, None], upper=False)
    log_det = 2 * factor.diagonal().log().sum()
    return -0.5 * (standard.square().sum() + log_det + n * math.log(2 * math.pi))


def linear_gaussian_posterior(
    x: Float[Tensor, " n"], weight: Float[Tensor, "n m"], noise_scale: float
) -> tuple[Float[Tensor, " m"], Float[Tensor, "m m"]]:
    r"""线性高斯模型的精确后验 p(z|x)：均值与精度矩阵。

    Args:
        x: 观测。
        weight: 载荷矩阵 W。
        noise_scale: 观测噪声的标准差 s，为正。

    Returns:
        后验均值，以及精度矩阵 Λ = I + WᵀW / s²（协方差的逆，与 x 无关）。

    Raises:
        ValueError: 形状不合，或 noise_scale 不是有限的正数。

    出处:
        Tipping & Bishop 1999, 概率主成分分析。

    示例:
        >>> linear_gaussian_posterior(torch.tensor([2.0]), torch.tensor([[1.0]]), 1.0)
        (tensor([1.]), tensor([[2.]]))
    """
    _require_linear_gaussian(x, weight, noise_scale)
    m = weight.shape[1]
    precision = torch.eye(m, dtype=x.dtype) + weight.T @ weight / noise_scale**2
    return torch.linalg.solve(precision, weight.T @ x / noise_scale**2), precision


def linear_gaussian_elbo(
    x: Float[Tensor, " n"],
    weight: Float[Tensor, "n m"],
    noise_scale: float,
    mean: Float[Tensor, " m"],
    log_variance: Float[Tensor, " m"],
) -> Float[Tensor, ""]:
    r"""线性高斯模型的 ELBO：重构项的期望有闭式，减去到先验的 KL 散度。

    Args:
        x: 观测。
        weight: 载荷矩阵 W。
        noise_scale: 观测噪声的标准差 s，为正。
        mean: q(z|x) 的均值。
        log_variance: q(z|x) 各维方差的对数。

    Returns:
        ELBO（nat），不超过 log p(x)。

    Raises:
        ValueError: 形状不合，或 noise_scale 不是有限的正数。

    出处:
        Kingma & Welling 2014, arXiv:1312.6114, 式 (3)。

    示例:
        >>> x, weight = torch.tensor([2.0]), torch.tensor([[1.0]])
        >>> linear_gaussian_elbo(x, weight, 1.0, torch.ones(1), torch.tensor([0.5]).log())
        tensor(-2.2655)
    """
    _require_linear_gaussian(x, weight, noise_scale)
    require_floats("mean", mean, weight.shape[1])
    require_floats("log_variance", log_variance, len(mean))
    noise_variance = noise_scale**2
    squared = (x - weight @ mean).square().sum() + weight.square().sum(0) @ log_variance.exp()
    reconstruction = -0.5 * (
        squared / noise_variance + len(x) * math.log(2 * math.pi * noise_variance)
    )
    return reconstruction - gaussian_kl(mean, log_variance)


def elbo_gap(
    x: Float[Tensor, " n"],
    weight: Float[Tensor, "n m"],
    noise_scale: float,
    mean: Float[Tensor, " m"],
    log_variance: Float[Tensor, " m"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    r"""ELBO 与对数似然之差，以及近似后验到精确后验的 KL 散度。

    Args:
        x: 观测。
        weight: 载荷矩阵 W。
        noise_scale: 观测噪声的标准差 s，为正。
        mean: q(z|x) 的均值。
        log_variance: q(z|x) 各维方差的对数。

    Returns:
        log p(x) − ELBO，与 D(q(z|x)‖p(z|x))（nat）；两者相等，非负。

    Raises:
        ValueError: 形状不合，或 noise_scale 不是有限的正数。

    出处:
        Kingma & Welling 2014, arXiv:1312.6114, 式 (1)。

    示例:
        >>> x, weight = torch.tensor([2.0]), torch.tensor([[1.0]])
        >>> gap = elbo_gap(x, weight, 1.0, torch.zeros(1), torch.zeros(1))
        >>> [round(side.item(), 4) for side in gap]
        [1.1534, 1.1534]
    """
    bound = linear_gaussian_elbo(x, weight, noise_scale, mean, log_variance)
    difference = linear_gaussian_log_prob(x, weight, noise_scale) - bound
    center, precision = linear_gaussian_posterior(x, weight, noise_scale)
    shift = mean - center
    quadratic = precision.diagonal() @ log_variance.exp() + shift @ precision @ shift
    log_dets = log_variance.sum() + torch.linalg.slogdet(precision).logabsdet
    return difference, 0.5 * (quadratic - len(mean) - log_dets)


def _require_linear_gaussian(x: Tensor, weight: Tensor, noise_scale: float) -> None:
    """要求 x、W 形状相配，噪声的标准差是有限的正数。"""
    require_floats("x", x, "n")
    require_floats("weight", weight, len(x), "m")
    if not 0 < noise_scale < math.inf:
        raise ValueError(f"noise_scale 必须是有限的正数，得到 {noise_scale!r}")
