"""扩散模型的反向过程：用预测噪声的网络表示均值、似然的界与简化的损失，并逐步采样。

约定:
    noise_model(x_t, t) 返回预测的噪声 ε_θ，x_t 每行一个样本，t 是 1 到 N 的整数，每行一个；
    betas[t − 1] 是 β_t。损失对样本取平均，对维数求和；单位 nat 处另注。
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from formulary.checks import require_floats, require_indices
from formulary.generative_models.diffusion import alpha_bar, q_sample


def denoising_mean(
    xt: Float[Tensor, "B n"],
    noise: Float[Tensor, "B n"],
    t: Int[Tensor, " B"],
    betas: Float[Tensor, " N"],
) -> Float[Tensor, "B n"]:
    r"""反向一步的均值 μ_θ，由 x_t 与预测的噪声算出。

    Args:
        xt: 加噪到第 t 步的样本。
        noise: 预测的噪声 ε_θ。
        t: 各样本的步号，1 到 N。
        betas: 各步的噪声方差 β（无量纲）。

    Returns:
        (x_t − β_t ε_θ/√(1 − ᾱ_t))/√α_t。

    Raises:
        ValueError: 形状不合；betas 不在 (0, 1) 里；t 不是 1 到 N 的整数。

    出处:
        Ho et al. 2020, arXiv:2006.11239, 式 (11)。

    示例:
        >>> xt, noise = torch.tensor([[2.2]]), torch.tensor([[1.0]])
        >>> denoising_mean(xt, noise, torch.tensor([2]), torch.tensor([0.2, 0.2]))
        tensor([[2.0870]])
    """
    require_floats("xt", xt, "B", "n")
    require_floats("noise", noise, *xt.shape)
    require_indices("t - 1", t - 1, len(betas), len(xt))
    beta = betas[t - 1][:, None]
    removed = beta / (1 - alpha_bar(betas, t)[:, None]).sqrt() * noise
    return (xt - removed) / (1 - beta).sqrt()


def noise_to_score(
    noise: Float[Tensor, "B n"], t: Int[Tensor, " B"], betas: Float[Tensor, " N"]
) -> Float[Tensor, "B n"]:
    r"""把预测的噪声换算成分数：s = −ε/√(1 − ᾱ_t)。

    Args:
        noise: 预测的噪声 ε_θ(x_t, t)。
        t: 各样本的步号，1 到 N。
        betas: 各步的噪声方差 β（无量纲）。

    Returns:
        加噪到第 t 步的分布在 x_t 处的分数。

    Raises:
        ValueError: noise 不是二维的实浮点张量；betas 不在 (0, 1) 里；t 不是 1 到 N 的整数。

    出处:
        Ho et al. 2020, arXiv:2006.11239, 第 3.2 节；Song et al. 2021, arXiv:2011.13456。

    示例:
        >>> noise_to_score(torch.tensor([[0.3]]), torch.tensor([2]), torch.tensor([0.2, 0.2]))
        tensor([[-0.5000]])
    """
    require_floats("noise", noise, "B", "n")
    require_indices("t - 1", t - 1, len(betas), len(noise))
    return -noise / (1 - alpha_bar(betas, t)[:, None]).sqrt()


def noise_prediction_weight(
    t: Int[Tensor, " B"], betas: Float[Tensor, " N"], variances: Float[Tensor, " N"]
) -> Float[Tensor, " B"]:
    r"""似然的界里第 t 步噪声误差的权重。

    Args:
        t: 步号，1 到 N。
        betas: 各步的噪声方差 β（无量纲）。
        variances: 反向各步的方差 σ_t²，正数；variances[t − 1] 是第 t 步的。

    Returns:
        β_t²/(2σ_t²α_t(1 − ᾱ_t))（nat）。

    Raises:
        ValueError: betas 不在 (0, 1) 里；variances 的长度不合或不全为正；t 不是 1 到 N 的整数。

    出处:
        Ho et al. 2020, arXiv:2006.11239, 式 (12)。

    示例:
        >>> betas = torch.tensor([0.5, 0.5])
        >>> noise_prediction_weight(torch.tensor([1, 2]), betas, betas)
        tensor([1.0000, 0.6667])
    """
    require_indices("t - 1", t - 1, len(betas), "B")
    require_floats("variances", variances, len(betas))
    if not (variances > 0).all():
        raise ValueError(f"variances 的元素必须是正数，得到 {variances.min().item()!r}")
    beta = betas[t - 1]
    return beta**2 / (2 * variances[t - 1] * (1 - beta) * (1 - alpha_bar(betas, t)))


def ddpm_loss(
    noise_model: Callable[[Tensor, Tensor], Tensor],
    x0: Float[Tensor, "B n"],
    betas: Float[Tensor, " N"],
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    r"""DDPM 的简化损失：随机取一步，预测加进去的噪声。

    Args:
        noise_model: 噪声网络，(B, n) 与 (B,) → (B, n)。
        x0: 一个小批量的数据。
        betas: 各步的噪声方差 β（无量纲）。
        generator: 随机数发生器。

    Returns:
        E‖ε − ε_θ(x_t, t)‖² 的估计，各样本的 t 独立，均匀取自 1 到 N。

    Raises:
        ValueError: x0 不是二维的实浮点张量；betas 不在 (0, 1) 里。

    约定:
        对维数求和；常见的实现用 mse_loss，对维数取平均，差一个因子 n。

    出处:
        Ho et al. 2020, arXiv:2006.11239, 式 (14) 与算法 1。

    示例:
        >>> x0, betas = torch.zeros(4, 2), torch.tensor([0.1, 0.2])
        >>> # 数据只有原点一个点时，噪声可以准确预测
        >>> exact = lambda xt, t: xt / (1 - alpha_bar(betas, t)[:, None]).sqrt()
        >>> round(ddpm_loss(exact, x0, betas, torch.Generator().manual_seed(0)).item(), 4)
        0.0
    """
    require_floats("x0", x0, "B", "n")
    t = torch.randint(1, len(betas) + 1, x0.shape[:1], generator=generator, device=x0.device)
    noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
    predicted = noise_model(q_sample(x0, t, noise, betas), t)
    return (noise - predicted).square().sum(-1).mean()


def ddpm_sample(
    noise_model: Callable[[Tensor, Tensor], Tensor],
    x: Float[Tensor, "B n"],
    betas: Float[Tensor, " N"],
    generator: torch.Generator,
) -> Float[Tensor, "B n"]:
    r"""DDPM 的祖先采样：从噪声出发走 N 步，最后一步不加噪声。

    Args:
        noise_model: 噪声网络，(B, n) 与 (B,) → (B, n)。
        x: 起点 x_N，取标准正态；不被改动。
        betas: 各步的噪声方差 β（无量纲）。
        generator: 随机数发生器。

    Returns:
        样本 x_0；整个过程不记录梯度，网络调用 N 次。

    Raises:
        ValueError: x 不是二维的实浮点张量；betas 不在 (0, 1) 里。

    约定:
        反向方差取 σ_t² = β_t；t = 1 时噪声为 0。

    出处:
        Ho et al. 2020, arXiv:2006.11239, 算法 2。

    示例:
        >>> betas, generator = torch.tensor([0.1, 0.2]), torch.Generator().manual_seed(0)
        >>> # 数据只有原点一个点时，准确的噪声
        >>> exact = lambda xt, t: xt / (1 - alpha_bar(betas, t)[:, None]).sqrt()
        >>> ddpm_sample(exact, torch.tensor([[2.0, -1.0]]), betas, generator).abs().max() < 1e-6
        tensor(True)
    """
    require_floats("x", x, "B", "n")
    with torch.no_grad():
        for step in range(len(betas), 0, -1):
            t = torch.full(x.shape[:1], step, device=x.device)
            x = denoising_mean(x, noise_model(x, t), t, betas)
            if step > 1:
                noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
                x = x + betas[step - 1].sqrt() * noise
    return x
