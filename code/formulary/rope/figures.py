"""《旋转式位置编码》系列的插图：一个函数一幅图，返回 matplotlib 的 Figure。

颜色取自 rcParams 的 prop_cycle，由 formulary_site 按浅色与深色两种主题各画一遍，
所以函数里不写死前景色与背景色。
"""

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from formulary.rope.derivation import rotate_pair, score_by_offset
from formulary.rope.frequencies import inverse_frequencies
from formulary.rope.multidimensional import axial_scores, rotate_mixed
from formulary.rope.precision import largest_exact_position, phase_error, unit_roundoff


def axial() -> Figure:
    """轴向与混合频率的二维 RoPE：q = k 时打分随坐标差的变化。"""
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
    figure.colorbar(image, ax=axes, label="打分 ÷ 原点处的打分")
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
    for panel, (m, n) in zip(axes, ((4.0, 1.0), (9.0, 6.0)), strict=True):
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
            f"{degrees:.0f}°", (0.4 * middle.cos(), 0.4 * middle.sin()), color="C2", ha="center"
        )
        score = score_by_offset(q, k, m - n, theta).item()
        panel.set(title=f"m = {m:.0f}，n = {n:.0f}，内积 {score:.3f}", aspect="equal")
        panel.set(xlim=(-1.55, 1.55), ylim=(-0.5, 1.3), xlabel="第 0 个分量")
    axes[0].set_ylabel("第 1 个分量")
    return figure
