"""《生成模型导论》系列的插图：一个函数一幅图，返回 matplotlib 的 Figure。

颜色取自 rcParams 的 prop_cycle，由 formulary_site 按浅色与深色两种主题各画一遍，
所以函数里不写死前景色与背景色。
"""

import math

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from formulary.generative_models.divergences import (
    js_divergence,
    kl_divergence,
    reverse_kl_divergence,
    total_variation,
)
from formulary.generative_models.gaussian_fit import bimodal_on_grid, fit_gaussian
from formulary.generative_models.gaussian_mixture import (
    gaussian_mixture_log_prob,
    gaussian_mixture_score,
)
from formulary.generative_models.generalization import simulate_excess_kl
from formulary.generative_models.generator_losses import (
    generator_slopes,
    nonsaturating_loss,
    saturating_loss,
)
from formulary.generative_models.histogram import generalization_gap, histogram_density
from formulary.generative_models.learning import gaussian_on_grid
from formulary.generative_models.monte_carlo import kl_estimator_moments
from formulary.generative_models.probability_path import gaussian_mixture_velocity, linear_path
from formulary.generative_models.wasserstein import (
    shifted_uniform_divergences,
    wasserstein_distance,
)


def divergences() -> Figure:
    """一个高斯按不同的散度拟合双峰目标：两组最优解。"""
    points = torch.linspace(-20, 20, 2001, dtype=torch.float64)
    width = (points[1] - points[0]).item()
    target = bimodal_on_grid(points)
    seen = slice(700, 1301, 4)  # 画图只取 −6 到 6，每四点取一点
    forward, reverse = ("前向 KL", kl_divergence), ("反向 KL", reverse_kl_divergence)
    js = ("JS", js_divergence)
    w1 = ("Wasserstein-1", lambda p, q: wasserstein_distance(p, q, points))
    panels = (
        ("从中间出发", (0.5, 1.8), (forward, js, w1, reverse)),
        ("从右峰出发", (1.5, 0.8), (forward, js, w1, reverse)),
    )
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.4), layout="constrained", sharey=True)
    for panel, (title, start, cases) in zip(axes, panels, strict=True):
        panel.fill_between(points[seen], target[seen] / width, alpha=0.25, color="C6", label="数据")
        for i, (name, divergence) in enumerate(cases):
            mean, std, _ = fit_gaussian(divergence, target, points, *start)
            theta = torch.tensor([mean, math.log(std)], dtype=torch.float64)
            style = ("-", "--", ":", "-.")[i]
            density = gaussian_on_grid(theta, points)[seen] / width
            panel.plot(points[seen], density, style, color=f"C{i}", label=name)
        panel.set(title=title, xlabel="x", xlim=(-6, 6), ylim=(0, 0.75))
    axes[0].set_ylabel("密度")
    axes[0].legend(loc="upper left", ncols=2)
    return figure


def saturation() -> Figure:
    """把分布平移 t：JS 散度与全变差距离封顶，Wasserstein-1 距离一直增长。"""
    points = torch.linspace(-12, 18, 3001, dtype=torch.float64)
    shifts = torch.linspace(0, 6, 121, dtype=torch.float64)
    moved = torch.stack(
        [gaussian_on_grid(torch.stack((t, torch.zeros_like(t))), points) for t in shifts]
    )
    fixed = moved[:1].expand_as(moved)
    gaussian = (
        js_divergence(fixed, moved),
        total_variation(fixed, moved),
        wasserstein_distance(fixed, moved, points),
    )
    panels = (
        ("单位区间上的均匀分布", shifted_uniform_divergences(shifts)),
        ("标准差为 1 的高斯", gaussian),
    )
    names = ("JS（nat）", "全变差", "Wasserstein-1")
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.2), layout="constrained", sharey=True)
    for panel, (title, curves) in zip(axes, panels, strict=True):
        for i, (name, curve) in enumerate(zip(names, curves, strict=True)):
            panel.plot(shifts, curve, ("-", "--", ":")[i], color=f"C{i}", label=name)
        panel.set(title=title, xlabel="平移量 t", xlim=(0, 6), ylim=(0, 2.5))
    axes[0].set_ylabel("散度或距离")
    axes[0].legend(loc="upper right")
    return figure


def kl_estimators() -> Figure:
    """单个样本的 k1、k2、k3 的标准差随两个高斯的均值之差的变化。"""
    shifts = torch.logspace(-1, math.log10(2.5), 200, dtype=torch.float64)
    means, variances = kl_estimator_moments(shifts)
    figure, axis = plt.subplots(figsize=(7.2, 3.4), layout="constrained")
    for i, variance in enumerate(variances):
        style = ("-", "--", ":")[i]
        axis.loglog(shifts, variance.sqrt(), style, color=f"C{i}", label=f"k{i + 1} 的标准差")
    bias = means[1] - means[0]
    axis.loglog(shifts, bias, "-.", color="C3", label="k2 的偏差")
    axis.loglog(shifts, means[0], color="C6", lw=0.9, label="KL 散度的真值")
    axis.set(xlabel="均值之差 δ", ylabel="nat", xlim=(0.1, 2.5), ylim=(1e-3, 30))
    axis.set_xticks([0.1, 0.3, 1.0, 2.0], ["0.1", "0.3", "1", "2"])
    axis.minorticks_off()
    axis.legend(loc="lower right", ncols=2)
    return figure


def histogram_overfitting() -> Figure:
    """直方图的格数与负对数似然：训练集上一路下降，数据分布下先降后升。"""
    low, high, samples = -5.0, 5.0, 200
    generator = torch.Generator().manual_seed(3)
    centers = torch.randint(0, 2, (samples,), generator=generator) * 4.0 - 2
    x = centers + 0.6 * torch.randn(samples, generator=generator, dtype=torch.float64)

    def mass(edges: torch.Tensor) -> torch.Tensor:
        cdf = sum(torch.special.ndtr((edges - center) / 0.6) for center in (-2, 2)) / 2
        return cdf.diff() / (cdf[-1] - cdf[0])

    figure, (curves, densities) = plt.subplots(1, 2, figsize=(7.2, 3.3), layout="constrained")
    counts = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
    nll = []
    for bins in counts:
        heights = histogram_density(x, bins, low, high, pseudo_count=0.1)
        edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
        train, expected, _ = generalization_gap(x, heights, mass(edges), low, high)
        nll.append((-train.item(), -expected.item()))
        if bins in (16, 128):
            color = "C0" if bins == 16 else "C1"
            densities.stairs(heights, edges, color=color, lw=1, label=f"{bins} 格")
    for values, color, name in zip(
        zip(*nll, strict=True), ("C0", "C1"), ("训练集", "期望"), strict=True
    ):
        curves.plot(counts, values, "o-", color=color, markersize=4, label=name)
    fine = torch.linspace(low, high, 2001, dtype=torch.float64)
    truth = mass(fine) / (fine[1] - fine[0])
    entropy = -torch.xlogy(truth, truth).sum() * (fine[1] - fine[0])
    curves.axhline(entropy, color="C2", ls="--", lw=1, label="熵")
    curves.set_xscale("log", base=2)
    curves.set_xticks([4, 8, 16, 32, 64, 128], ["4", "8", "16", "32", "64", "128"])
    curves.set(xlabel="格数", ylabel="负对数似然（nat）")
    curves.legend()
    densities.plot(fine[1:], truth, color="C2", ls="--", lw=1.4, label="真密度")
    densities.set(xlabel="x", ylabel="密度", xlim=(-4.5, 4.5))
    densities.legend()
    return figure


def excess_kl() -> Figure:
    """最大似然估计的超额风险随样本数的变化：模拟的点与 k/2N 的直线。"""
    figure, axis = plt.subplots(figsize=(7.2, 3.6), layout="constrained")
    generator = torch.Generator().manual_seed(0)
    for i, states in enumerate((3, 9, 33)):
        p = torch.full((states,), 1 / states, dtype=torch.float64)
        sizes = [states * 2**j for j in range(5, 11)]
        results = [simulate_excess_kl(p, size, 1000, generator) for size in sizes]
        laws = [law for _, _, law in results]
        axis.loglog(sizes, laws, color=f"C{i}", lw=1)
        means = [mean.item() for mean, _, _ in results]
        axis.loglog(sizes, means, "o", color=f"C{i}", markersize=5, label=f"k = {states - 1}")
    axis.set(xlabel="样本数 N", ylabel="E D(p‖p̂)（nat）")
    axis.legend(title="点：模拟；线：k/2N")
    return figure


def generator_gradients() -> Figure:
    """生成器的两种损失与它们的梯度，随判别器给的对数几率变化。"""
    logits = torch.linspace(-8, 8, 161, dtype=torch.float64)
    names = ("饱和：log(1 − D)", "非饱和：−log D")
    losses = [
        torch.stack([loss(ell[None]) for ell in logits])
        for loss in (saturating_loss, nonsaturating_loss)
    ]
    figure, (values, slopes) = plt.subplots(1, 2, figsize=(7.2, 3.2), layout="constrained")
    for i, (name, loss) in enumerate(zip(names, losses, strict=True)):
        style = ("-", "--")[i]
        values.plot(logits, loss, style, color=f"C{i}", label=name)
        slopes.plot(logits, generator_slopes(logits)[i].abs(), style, color=f"C{i}", label=name)
    values.set(xlabel="对数几率 ℓ", ylabel="损失（nat）")
    slopes.set(xlabel="对数几率 ℓ", ylabel="导数的绝对值")
    values.legend()
    return figure


def noised_score_field() -> Figure:
    """三团数据加不同大小的噪声之后的对数密度（底色）与分数的方向（箭头）。"""
    prior = torch.tensor([0.5, 0.3, 0.2])
    means = torch.tensor([[-1.6, -0.8], [1.7, -0.4], [0.2, 1.7]])
    variances = torch.full((3,), 0.15**2)
    fine, coarse = torch.linspace(-3, 3, 61), torch.linspace(-2.6, 2.6, 9)
    pixels = torch.cartesian_prod(fine, fine).view(61, 61, 2)
    places = torch.cartesian_prod(coarse, coarse)
    figure, axes = plt.subplots(1, 3, figsize=(7.2, 2.7), layout="constrained", sharey=True)
    for panel, sigma in zip(axes, (0.1, 0.6, 1.5), strict=True):
        noised = prior, means, variances + sigma**2
        density = gaussian_mixture_log_prob(pixels, *noised)
        panel.imshow(
            (density - density.max()).clamp(min=-8).T.numpy(),
            origin="lower",
            extent=(-3, 3, -3, 3),
            interpolation="none",
            alpha=0.6,
        )
        arrows = torch.nn.functional.normalize(gaussian_mixture_score(places, *noised), dim=-1)
        panel.quiver(
            *places.T.numpy(), *arrows.T.numpy(), color="C1", width=0.01, scale=15, pivot="mid"
        )
        panel.set(title=f"σ = {sigma}", xticks=(-2, 0, 2), yticks=(-2, 0, 2))
        panel.grid(False)
    return figure


def flow_paths() -> Figure:
    """从标准正态到双峰分布：随机配对的直线（左）与沿边缘速度的轨迹（右）。"""
    prior = torch.tensor([0.5, 0.5], dtype=torch.float64)
    means = torch.tensor([[-2.0], [2.0]], dtype=torch.float64)
    variances = torch.full((2,), 0.3**2, dtype=torch.float64)
    times = torch.linspace(0, 1, 51, dtype=torch.float64)
    heights = torch.linspace(-3.2, 3.2, 81, dtype=torch.float64)[:, None]
    density = [
        gaussian_mixture_log_prob(heights, prior, t * means, (1 - t) ** 2 + t**2 * variances).exp()
        for t in times
    ]
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn(24, 1, generator=generator, dtype=torch.float64)
    signs = torch.randint(0, 2, (24,), generator=generator)
    spread = torch.randn(24, 1, generator=generator, dtype=torch.float64)
    data = means[signs] + 0.3 * spread
    paths, steps = [torch.linspace(-2.2, 2.2, 24, dtype=torch.float64)[:, None]], 400
    for step in range(steps):
        x = paths[-1]
        paths.append(
            x + gaussian_mixture_velocity(x, step / steps, prior, means, variances) / steps
        )
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.3), layout="constrained", sharey=True)
    lines = [linear_path(noise, data, t.expand(24)) for t in (times[0], times[-1])]
    for panel, title, x, y in (
        (axes[0], "随机配对的直线", (0.0, 1.0), torch.cat(lines, -1).T),
        (axes[1], "沿边缘速度的轨迹", times, torch.cat(paths, -1).T[::8]),
    ):
        panel.imshow(
            torch.stack(density, -1).sqrt().numpy(),  # 开方，使淡处也看得见
            origin="lower",
            extent=(0, 1, -3.2, 3.2),
            aspect="auto",
            interpolation="none",
            alpha=0.6,
        )
        panel.plot(x, y, color="C1", lw=0.9)
        panel.set(title=title, xlabel="t", xlim=(0, 1), ylim=(-3.2, 3.2))
        panel.grid(False)
    axes[0].set_ylabel("x")
    return figure
