"""《旋转式位置编码》系列的插图：一个函数一幅图，返回 matplotlib 的 Figure。

颜色取自 rcParams 的 prop_cycle，由 formulary_site 按浅色与深色两种主题各画一遍，
所以函数里不写死前景色与背景色。
"""

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from formulary.rope.bounds import mean_partial_sum, trivial_bound
from formulary.rope.by_parts import by_parts_frequencies
from formulary.rope.decay import pair_products, phases
from formulary.rope.derivation import rotate_pair, score_by_offset
from formulary.rope.frequencies import inverse_frequencies
from formulary.rope.interpolation import (
    chord,
    fourier_score,
    published_error_bound,
    score_error_bound,
)
from formulary.rope.multidimensional import axial_scores, rotate_mixed
from formulary.rope.precision import largest_exact_position, phase_error, unit_roundoff
from formulary.rope.ramp import rotation_index
from formulary.rope.scaling import (
    linear_frequencies,
    llama3_frequencies,
    ntk_frequencies,
    yarn_frequencies,
)
from formulary.rope.spectrum import unfinished_pairs, wavelengths


def axial() -> Figure:
    """轴向与混合频率的二维 RoPE：q = k 时内积随坐标差的变化。"""
    pairs, reach = 32, 15
    steps = torch.arange(-reach, reach + 1.0)
    offsets = torch.cartesian_prod(steps, steps).flip(-1)  # 一行一个 (Δx, Δy)，Δy 在外层
    ones = torch.ones(2 * pairs)
    separate = axial_scores(ones, ones, offsets).sum(dim=-1)
    rates = inverse_frequencies(pairs, base=100.0)  # 与轴向同样的 16 个频率
    turns = 2 * torch.pi * torch.rand(pairs // 2, generator=torch.Generator().manual_seed(0))
    directions = torch.stack((turns, turns + torch.pi / 2)).flatten()
    frequencies = torch.stack((directions.cos(), directions.sin()), -1) * rates.repeat(2)[:, None]
    turned = rotate_mixed(ones.expand(1, len(offsets), -1), offsets, frequencies[None])
    figure, axes = plt.subplots(
        1, 2, figsize=(7.2, 3.4), layout="constrained", sharex=True, sharey=True
    )
    scores = (separate, turned[0] @ ones)
    for panel, score, title in zip(axes, scores, ("轴向", "混合频率"), strict=True):
        image = panel.imshow(
            score.view(len(steps), -1) / (2 * pairs),
            extent=(-reach - 0.5, reach + 0.5, reach + 0.5, -reach - 0.5),
            vmin=0.0,
            vmax=1.0,
        )
        panel.set(title=title, xlabel="Δx（格）")
        panel.grid(False)
    axes[0].set_ylabel("Δy（格）")
    figure.colorbar(image, ax=axes, label="内积 ÷ 原点处的内积")
    return figure


def precision() -> Figure:
    """全程用某种浮点类型求转角时，到位置 m 为止的最大误差随 m 的变化。"""
    edges = [round(2 ** (k / 2)) for k in range(35)]  # 1 到 131072
    figure, axis = plt.subplots(figsize=(7.2, 3.8), layout="constrained")
    cases = (("bfloat16", 131_072), ("float16", 65_504), ("float32", 131_072))
    for i, (name, largest) in enumerate(cases):
        dtype, worst, ends, heights = getattr(torch, name), 0.0, [], []
        for first, last in zip([0, *edges], [*edges[:-1], largest, largest + 1], strict=False):
            end = min(last, largest)
            if first <= end:
                error, _ = phase_error(torch.arange(first, end + 1), 128, dtype=dtype)
                worst = max(worst, error.max().item())
                ends.append(max(end, 1))
                heights.append(worst)
        axis.loglog(ends, heights, color=f"C{i}", label=name)
        bound = (1 + unit_roundoff(dtype)) ** 3 - 1
        axis.loglog([1, largest], [bound, bound * largest], color=f"C{i}", ls="--", lw=0.9)
        if largest_exact_position(dtype) < largest:
            axis.axvline(largest_exact_position(dtype), color=f"C{i}", ls=":", lw=0.9)
    axis.axvline(65_504, color="C1", ls="-.", lw=0.9)
    axis.axhline(torch.pi, color="C3", lw=0.9, label="π：相位全失")
    axis.set(xlabel="位置 m（步）", ylabel="转角的最大误差（弧度）")
    axis.legend(loc="upper left")
    return figure


def rotation() -> Figure:
    """一对特征在二维平面里的旋转：两个位置一起平移，夹角与内积都不变。"""
    theta = torch.pi / 12
    q, k = torch.tensor([1.0, 0.0]), torch.tensor([0.6, -0.35])
    arc = torch.linspace(0, 1, 41)
    figure, axes = plt.subplots(
        1, 2, figsize=(7.2, 3.0), layout="constrained", sharex=True, sharey=True
    )
    for panel, (m, n) in zip(axes, ((4.0, 1.0), (8.0, 5.0)), strict=True):
        tips = []
        for vector, position, name, color in ((q, m, "q", "C0"), (k, n, "k", "C1")):
            trail = torch.stack([rotate_pair(vector, float(step), theta) for step in range(13)])
            panel.plot(*trail.T, "o", color=color, markersize=3, alpha=0.4)
            tip = rotate_pair(vector, position, theta)
            panel.annotate(
                "", tip, (0, 0), arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 2}
            )
            panel.annotate(
                f"{name}，位置 {position:.0f}",
                tip * (1 + 0.14 / tip.norm()),
                color=color,
                ha="left" if tip[0] > 0 else "right",
                va="center",
            )
            tips.append(tip)
        start, end = (torch.atan2(tip[1], tip[0]) for tip in reversed(tips))
        angles = start + (end - start) * arc
        panel.plot(0.3 * angles.cos(), 0.3 * angles.sin(), color="C2")
        middle = angles[20]
        degrees = torch.rad2deg(end - start).item()
        panel.annotate(
            f"{degrees:.0f}°", (0.47 * middle.cos(), 0.47 * middle.sin()), color="C2", ha="center"
        )
        score = score_by_offset(q, k, m - n, theta).item()
        panel.set(title=f"m = {m:.0f}，n = {n:.0f}，内积 {score:.3f}", aspect="equal")
        panel.set(xlim=(-1.55, 1.55), ylim=(-0.5, 1.3), xlabel="第 0 个分量")
    axes[0].set_ylabel("第 1 个分量")
    return figure


def angles() -> Figure:
    """各对特征的转角余弦随位置的变化，以及波长与训练长度的比较。"""
    d, length = 128, 4096
    cosines = phases(torch.arange(257), d).real.T  # 一行一对特征
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(7.2, 3.4), layout="constrained", width_ratios=(1.15, 1)
    )
    image = left.imshow(cosines, aspect="auto", origin="lower", cmap="RdBu_r", interpolation="none")
    left.set(xlabel="位置 m（步）", ylabel="特征对 i", title="cos(mθ)")
    left.grid(False)
    figure.colorbar(image, ax=left)
    pairs = torch.arange(d // 2)
    for base, color, label in ((1e4, "C0", "b = 1e4"), (5e5, "C1", "b = 5e5")):
        right.semilogy(pairs, wavelengths(d, base), color=color, label=label)
        boundary = d // 2 - unfinished_pairs(d, length, base)
        right.plot(boundary, wavelengths(d, base)[boundary], "o", color=color)
    right.axhline(length, color="C2", linestyle="--", label=f"L = {length}")
    right.set(xlabel="特征对 i", ylabel="波长 λ（步）", title="波长；圆点起转不满一圈")
    right.legend()
    return figure


def decay() -> Figure:
    """Abel 界里的 B(Δ) 随距离下降，随机查询与键的内积却不随距离变小。"""
    d = 128
    deltas = torch.logspace(0, 12, 160, base=2.0).round().unique()
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 200, d, generator=generator)
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.4), layout="constrained")
    for base, label in ((1e4, "b = 1e4"), (5e5, "b = 5e5")):
        left.semilogx(deltas, mean_partial_sum(deltas, d, base), label=label)
    left.axhline(0.5, color="C2", linestyle="--", label="下限 1/2")
    left.set(xlabel="相对距离 Δ（步）", ylabel="B(Δ)", title="部分和的模的平均")
    left.legend()
    products = pair_products(q, k)
    scores = (products @ phases(deltas, d).T).real.abs() / trivial_bound(products)[:, None]
    right.fill_between(deltas, scores.amin(0), scores.amax(0), alpha=0.25, label="200 对的范围")
    right.semilogx(deltas, scores.mean(0), label="200 对的平均")
    ramp = 1 - torch.arange(0, d, 2) / d
    smooth = (ramp * phases(deltas, d)).sum(-1).real.abs() / ramp.sum()
    right.semilogx(deltas, smooth, label="线性降到 0 的 h")
    right.set(xlabel="相对距离 Δ（步）", ylabel="内积的绝对值 ÷ 平凡界", title="实际的内积")
    right.legend()
    return figure


def scaling() -> Figure:
    """五种方法把各对特征的频率改成原来的几倍（d=128、b=10000、L=4096、s=8）。"""
    d, base, length, factor = 128, 10_000.0, 4096, 8
    original = inverse_frequencies(d, base)
    tables = {
        "位置内插": linear_frequencies(d, base, factor),
        "NTK-aware": ntk_frequencies(d, base, factor),
        "NTK-by-parts（论文，1–32 圈）": by_parts_frequencies(d, base, factor, length),
        "YaRN（公开代码，1–32 圈）": yarn_frequencies(d, base, factor, length),
        "Llama 3 的斜坡（1–4 圈）": llama3_frequencies(d, base, factor, 1, 4, length),
    }
    figure, axis = plt.subplots(figsize=(7.2, 3.8), layout="constrained")
    styles = ("--", "-.", "-", "-", "-")
    for (label, frequencies), style in zip(tables.items(), styles, strict=True):
        axis.plot(frequencies / original, style, label=label)
    axis.set(xlabel="特征对 i", ylabel="新频率 ÷ 原频率", xlim=(0, d // 2 - 1))
    axis.set_yscale("log", base=2)
    axis.set_yticks([1, 1 / 2, 1 / 4, 1 / 8], ["1", "1/2", "1/4", "1/8"])
    turns = axis.twiny()
    marks = (500, 100, 32, 10, 4, 1, 0.1)
    turns.set(xlim=axis.get_xlim(), xlabel="训练长度内转过的圈数")
    turns.set_xticks(
        [rotation_index(d, base, length, mark) for mark in marks], [f"{mark:g}" for mark in marks]
    )
    turns.grid(False)
    edge = plt.rcParams["axes.edgecolor"]
    for mark in (32, 1):
        index = rotation_index(d, base, length, mark)
        axis.axvline(index, ymin=0.5, color=edge, linewidth=0.8, ls=":")
    axis.legend(loc="lower left", bbox_to_anchor=(0, 0.06), fontsize="small")
    return figure


def interpolation_bound() -> Figure:
    """反例的内插误差，与 PI 论文定理 2.1 的右端和改正后的界（d=128、b=10000）。"""
    theta = inverse_frequencies(128)
    h = torch.polar(torch.ones_like(theta), -theta / 2)
    offsets = torch.linspace(0, 1, 101)
    error = (fourier_score(h, offsets) - chord(h, 0, 1, offsets)).abs()
    figure, axis = plt.subplots(figsize=(7.2, 3.0), layout="constrained")
    axis.plot(offsets, score_error_bound(h, 0, 1, offsets), "--", label="改正后的界")
    axis.plot(offsets, error, label="反例的误差")
    axis.plot(offsets, published_error_bound(h, 0, 1, offsets), ":", label="论文定理 2.1 的右端")
    axis.set(xlabel="相对位置 u", ylabel="分数与弦之差", xlim=(0, 1), ylim=(0, None))
    axis.legend(loc="lower center")
    return figure
