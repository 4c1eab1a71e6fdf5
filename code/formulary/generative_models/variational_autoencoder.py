"""变分自编码器：重参数化采样、重要性加权下界，以及一个能训练的小模型。

约定:
    重构项与 KL 散度都对各维求和；返回每个样本一个值，对小批量取平均是训练循环的事。
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from formulary.checks import require_binary, require_count, require_floats
from formulary.generative_models.latent_variable import gaussian_kl


def reparameterize(
    mean: Float[Tensor, "*batch m"],
    log_variance: Float[Tensor, "*batch m"],
    noise: Float[Tensor, "*batch m"],
) -> Float[Tensor, "*batch m"]:
    r"""把标准正态噪声变成 N(μ, diag σ²) 的样本，对 μ 与 log σ² 可导。

    Args:
        mean: 均值 μ。
        log_variance: 方差的对数 log σ²。
        noise: 标准正态噪声 ε，形状与 mean 相同。

    Returns:
        μ + σ ε。

    Raises:
        ValueError: 三个参数不是形状相同的浮点张量。

    出处:
        Kingma & Welling 2014, arXiv:1312.6114, 第 2.4 节。

    示例:
        >>> variance = torch.tensor([4.0])
        >>> reparameterize(torch.tensor([1.0]), variance.log(), torch.tensor([0.5]))
        tensor([2.])
    """
    require_floats("mean", mean, "...", "m")
    require_floats("log_variance", log_variance, *mean.shape)
    require_floats("noise", noise, *mean.shape)
    return mean + torch.exp(0.5 * log_variance) * noise


def importance_weighted_bound(log_weights: Float[Tensor, "M *batch"]) -> Float[Tensor, "*batch"]:
    r"""重要性加权下界的一次抽样：M 个权重在概率空间里的平均，再取对数。

    Args:
        log_weights: log p(x, z) − log q(z|x)，沿首轴是 M 个独立的 z（nat）。

    Returns:
        log (1/M) Σ w（nat）；M = 1 时是 ELBO 的一次抽样。

    Raises:
        ValueError: log_weights 不是浮点张量，没有轴，或首轴为空。

    约定:
        用 logsumexp 求和，权重本身太小、存不进浮点数时也不会下溢。

    出处:
        Burda et al. 2016, arXiv:1509.00519, 式 (8)。

    示例:
        >>> importance_weighted_bound(torch.tensor([-800.0, -800.0, -801.0]))
        tensor(-800.2366)
    """
    require_floats("log_weights", log_weights)
    if log_weights.ndim == 0 or len(log_weights) == 0:
        raise ValueError(f"log_weights 的首轴至少长 1，形状是 {tuple(log_weights.shape)}")
    return log_weights.logsumexp(dim=0) - math.log(len(log_weights))


class VariationalAutoencoder(nn.Module):
    r"""高斯近似后验、高斯或伯努利解码器的变分自编码器。

    Args:
        n: 样本的维数。
        m: 隐变量的维数。
        hidden: 隐藏层的宽度。
        likelihood: "gaussian"（各维一个可学的标准差）或 "bernoulli"（二值数据）。
        noise_scale: 高斯解码器标准差的初值，为正；伯努利解码器不用它。

    Raises:
        ValueError: 参数不合要求，x 的形状不合，或伯努利解码器遇到不是 0 与 1 的 x。

    约定:
        编码器输出均值与对数方差；高斯解码器只输出均值，标准差与 z 无关。
        标准差的初值宜小：从 1 起步时 z 一开始没有用处，容易一直没有用处。

    出处:
        Kingma & Welling 2014, arXiv:1312.6114。

    示例:
        >>> model = VariationalAutoencoder(4, m=2, hidden=8, likelihood="bernoulli")
        >>> model.elbo(torch.ones(3, 4), torch.Generator()).shape
        torch.Size([3])
    """

    def __init__(
        self, n: int, m: int, hidden: int, likelihood: str = "gaussian", noise_scale: float = 0.1
    ) -> None:
        super().__init__()
        for name, value in (("n", n), ("m", m), ("hidden", hidden)):
            require_count(name, value)
        if likelihood not in ("gaussian", "bernoulli"):
            raise ValueError(f"likelihood 只能是 'gaussian' 或 'bernoulli'，得到 {likelihood!r}")
        self.n, self.m, self.likelihood = n, m, likelihood
        self.encoder = _network(n, hidden, 2 * m)
        self.decoder = _network(m, hidden, n)
        if not 0 < noise_scale < math.inf:
            raise ValueError(f"noise_scale 必须是有限的正数，得到 {noise_scale!r}")
        self.log_scale = nn.Parameter(torch.full((n,), math.log(noise_scale)))

    def encode(self, x: Float[Tensor, "B n"]) -> tuple[Float[Tensor, "B m"], Float[Tensor, "B m"]]:
        """近似后验 q(z|x) 的均值与对数方差。"""
        require_floats("x", x, "B", self.n)
        mean, log_variance = self.encoder(x).chunk(2, dim=-1)
        return mean, log_variance

    def log_likelihood(
        self, x: Float[Tensor, "B n"], z: Float[Tensor, "*batch B m"]
    ) -> Float[Tensor, "*batch B"]:
        """重构项 log p(x|z)（nat），对 n 维求和。"""
        output = self.decoder(z)  # (*batch, B, n)
        if self.likelihood == "bernoulli":
            require_binary("x", x)
            return -F.binary_cross_entropy_with_logits(
                output, x.expand_as(output), reduction="none"
            ).sum(-1)
        standard = (x - output) * torch.exp(-self.log_scale)
        return -(0.5 * standard.square() + self.log_scale + 0.5 * math.log(2 * math.pi)).sum(-1)

    def elbo(self, x: Float[Tensor, "B n"], generator: torch.Generator) -> Float[Tensor, " B"]:
        """ELBO 的单样本估计（nat）：重构项抽一个 z，KL 散度用闭式。"""
        mean, log_variance = self.encode(x)
        noise = torch.randn(mean.shape, dtype=mean.dtype, generator=generator)
        z = reparameterize(mean, log_variance, noise)
        return self.log_likelihood(x, z) - gaussian_kl(mean, log_variance)

    def log_weights(
        self, x: Float[Tensor, "B n"], samples: int, generator: torch.Generator
    ) -> Float[Tensor, "M B"]:
        """M 个独立 z 的 log p(x, z) − log q(z|x)（nat），交给 importance_weighted_bound。"""
        require_count("samples", samples)
        mean, log_variance = (value.expand(samples, -1, -1) for value in self.encode(x))
        noise = torch.randn(mean.shape, dtype=mean.dtype, generator=generator)
        z = reparameterize(mean, log_variance, noise)  # (M, B, m)
        # log p(z) − log q(z|x)：两个高斯的归一化常数里 2π 相消
        log_ratio = 0.5 * (noise.square() + log_variance - z.square()).sum(-1)
        return self.log_likelihood(x, z) + log_ratio

    @torch.no_grad()
    def sample(self, samples: int, generator: torch.Generator) -> Float[Tensor, "N n"]:
        """先从先验抽 z，再从解码器的分布抽 x。"""
        require_count("samples", samples)
        dtype = self.log_scale.dtype
        output = self.decoder(torch.randn(samples, self.m, dtype=dtype, generator=generator))
        if self.likelihood == "bernoulli":
            return torch.bernoulli(output.sigmoid(), generator=generator)
        noise = torch.randn(output.shape, dtype=dtype, generator=generator)
        return output + self.log_scale.exp() * noise


def _network(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """两个隐藏层的前馈网络。"""
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, outputs),
    )
