"""《PyTorch DDP》系列的插图：一个函数一幅图，返回 matplotlib 的 Figure。

颜色取自 rcParams 的 prop_cycle，由 formulary_site 按浅色与深色两种主题各画一遍，
所以函数里不写死前景色与背景色。
"""

import math
from functools import partial

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from formulary.ddp.batch_norm_gap import expected_batch_norm_gap, local_batch_norm_gap
from formulary.ddp.checkpoint_interval import (
    exact_interval,
    exact_overhead,
    simulated_overhead,
    young_overhead,
)
from formulary.ddp.clipping import clip_norm, mean_of_clipped
from formulary.ddp.cost_models import (
    halving_doubling_time,
    parameter_server_time,
    ring_time,
    ring_tree_crossover,
    tree_time,
)
from formulary.ddp.error_feedback import compressed_sums
from formulary.ddp.gradient_averaging import full_batch_gradient
from formulary.ddp.large_step import (
    large_step,
    leading_step_gap,
    quadratic_factors,
    small_steps,
)
from formulary.ddp.loss_weighting import averaging_error
from formulary.ddp.memory import zero_breakdown
from formulary.ddp.overlap import bucket_finish_times
from formulary.ddp.power_sgd import power_sgd_round
from formulary.ddp.ring import ring_snapshots
from formulary.ddp.sampling import sampler_indices
from formulary.ddp.speedup import amdahl_speedup, gustafson_speedup


def sampler_grid() -> Figure:
    """DistributedSampler 的分配：10 个样本分给 4 个 rank，补齐的格子另外着色。"""
    length, world_size = 10, 4
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 2.6), layout="constrained")
    cases = ((False, "不打乱"), (True, "打乱（seed = 0，epoch = 0）"))
    for panel, (shuffle, title) in zip(axes, cases, strict=True):
        for rank in range(world_size):
            indices = sampler_indices(length, world_size, rank, shuffle=shuffle)
            for j, index in enumerate(indices):
                padded = rank + j * world_size >= length
                panel.add_patch(
                    Rectangle(
                        (j - 0.46, rank - 0.43),
                        0.92,
                        0.86,
                        facecolor="C1" if padded else "C0",
                        alpha=0.6 if padded else 0.3,
                    )
                )
                panel.text(j, rank, str(index), ha="center", va="center", fontsize=11)
        panel.set(
            title=title,
            xlabel="第 j 个",
            xlim=(-0.6, 2.6),
            ylim=(world_size - 0.4, -0.6),
            xticks=range(3),
            yticks=range(world_size),
            yticklabels=[f"rank {rank}" for rank in range(world_size)],
        )
        panel.grid(False)
    return figure


def averaging_failures() -> Figure:
    """求平均之后的梯度偏了多少：左边随样本数的不等，右边是几种写法。"""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(7.2, 3.4), layout="constrained", width_ratios=(1, 1.15)
    )
    counts = range(2, 63, 2)
    naive, weighted = zip(*(_uneven_errors(count) for count in counts), strict=True)
    share = [count / 64 for count in counts]
    left.plot(share, naive, "C1o-", markersize=3, label="各自平均，再平均")
    left.plot(share, weighted, "C0s-", markersize=3, label="乘 N/n 的和，再平均")
    left.set(xlabel="rank 0 的样本所占的比例", ylabel="梯度的相对误差")
    left.legend()
    errors = _failure_errors()
    right.barh(list(errors), list(errors.values()), color="C1")
    right.set(xlim=(0.0, 0.62), xlabel="梯度的相对误差")
    right.invert_yaxis()
    for row, error in enumerate(errors.values()):
        label = f"{error:.2f}" if error > 1e-3 else "< 1e-15"
        right.annotate(
            label, (error, row), xytext=(3, 0), textcoords="offset points", va="center", fontsize=9
        )
    return figure


def _failure_errors() -> dict[str, float]:
    """几种写法的相对误差：64 个样本分给两个 rank，以单进程的梯度为准。"""
    x, y = _regression_data()

    def shards(first: int, batch_norm: bool = False) -> Tensor:
        model = _regression_network(batch_norm)
        pieces = zip(x.split([first, 64 - first]), y.split([first, 64 - first]), strict=True)
        return torch.stack([full_batch_gradient(model, _squared_errors, a, b) for a, b in pieces])

    def relative(actual: Tensor, expected: Tensor) -> float:
        return float((actual - expected).norm() / expected.norm())

    whole = full_batch_gradient(_regression_network(), _squared_errors, x, y)
    normalized = full_batch_gradient(_regression_network(True), _squared_errors, x, y)
    halves, uneven = shards(32), averaging_error(shards(48), torch.tensor([48, 16]))
    threshold = float(whole.norm())
    return {
        "平分，求平均": relative(halves.mean(dim=0), whole),
        "样本数 3 比 1": relative(whole + uneven, whole),
        "损失求和": relative((32 * halves).mean(dim=0), 64 * whole),
        "各自批归一化": relative(shards(32, True).mean(dim=0), normalized),
        "先裁剪再平均": relative(mean_of_clipped(halves, threshold), clip_norm(whole, threshold)),
    }


def _regression_data() -> tuple[Tensor, Tensor]:
    """64 个样本，3 个输入，2 个目标。"""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 3, generator=generator, dtype=torch.float64)
    noise = torch.randn(64, 2, generator=generator, dtype=torch.float64)
    return x, x[:, :2] + noise


def _regression_network(batch_norm: bool = False) -> nn.Module:
    """一个隐藏层的网络，初值总是同一个。"""
    middle: nn.Module = nn.BatchNorm1d(16) if batch_norm else nn.Identity()
    network = nn.Sequential(nn.Linear(3, 16), middle, nn.Tanh(), nn.Linear(16, 2)).double()
    generator = torch.Generator().manual_seed(0)
    for layer in (network[0], network[3]):
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, -0.5, 0.5, generator=generator)
    return network


def _squared_errors(outputs: Tensor, targets: Tensor) -> Tensor:
    """每个样本的平方误差之和。"""
    return (outputs - targets).square().sum(dim=1)


def _uneven_errors(first: int) -> tuple[float, float]:
    """Rank 0 有 first 个样本时，直接平均与加权之后的相对误差。"""
    x, y = _regression_data()
    model = _regression_network()
    whole = full_batch_gradient(model, _squared_errors, x, y)
    counts = torch.tensor([first, 64 - first])
    means = torch.stack(
        [
            full_batch_gradient(model, _squared_errors, a, b)
            for a, b in zip(x.split(counts.tolist()), y.split(counts.tolist()), strict=True)
        ]
    )
    weighted = (2 * counts[:, None] / 64 * means).mean(dim=0)
    naive = averaging_error(means, counts).norm() / whole.norm()
    return float(naive), float((weighted - whole).norm() / whole.norm())


def ring_steps() -> Figure:
    """四个 rank 的环形归约，每一步之后各 rank 的各块含哪些 rank 的贡献。"""
    n = 4
    contributions = (2 ** torch.arange(n))[:, None, None].expand(n, n, 1)
    states = ring_snapshots(contributions)[..., 0]
    figure, axes = plt.subplots(2, 4, figsize=(7.2, 4.0), layout="constrained")
    panels = [axes[0, 0], *axes[0, 1:], *axes[1, 1:]]
    for step, (panel, state) in enumerate(zip(panels, states, strict=True)):
        before = states[max(step - 1, 0)]
        for rank in range(n):
            for chunk in range(n):
                members = [k for k in range(n) if int(state[rank, chunk]) >> k & 1]
                received = bool(state[rank, chunk] != before[rank, chunk])
                corner = (chunk - 0.46, rank - 0.44)
                shade = 0.06 + 0.16 * len(members) if len(members) < n else 0.8
                color = "C0" if len(members) < n else "C2"
                panel.add_patch(Rectangle(corner, 0.92, 0.88, facecolor=color, alpha=shade))
                if received:
                    edge = Rectangle(corner, 0.92, 0.88, fill=False, edgecolor="C1", lw=1.8)
                    panel.add_patch(edge)
                label = "".join(map(str, members))
                panel.text(chunk, rank, label, ha="center", va="center", fontsize=8)
        half, s = ("归约散布", step - 1) if step < n else ("全收集", step - n)
        panel.set(
            title="开始" if step == 0 else f"{half} s = {s}",
            xlim=(-0.55, n - 0.45),
            ylim=(n - 0.45, -0.55),
            xticks=range(n),
            yticks=range(n),
        )
        panel.title.set_fontsize(9)
        panel.tick_params(length=0, labelsize=7)
        panel.grid(False)
    axes[0, 0].set(ylabel="rank", xlabel="块")
    axes[1, 1].set(ylabel="rank", xlabel="块")
    axes[1, 0].axis("off")
    axes[1, 0].text(
        0.5,
        0.5,
        "格里是已经\n加进来的 rank\n\n橙框：这一步\n刚收到的\n\n绿：完整的和",
        ha="center",
        va="center",
        fontsize=9,
        transform=axes[1, 0].transAxes,
    )
    return figure


def allreduce_costs() -> Figure:
    """16 个 rank 时四种全归约的时间随张量大小的变化，双对数坐标，标出环与树的交点。"""
    n, alpha, beta = 16, 2e-5, 1e-10
    sizes = [2.0 ** (10 + k / 4) for k in range(81)]  # 1 KiB 到 1 GiB
    figure, axis = plt.subplots(figsize=(7.2, 3.8), layout="constrained")
    curves = (
        ("参数服务器，1 个", parameter_server_time, "C3", ":"),
        ("二项树", tree_time, "C1", "--"),
        ("环", ring_time, "C0", "-"),
        ("折半倍增", halving_doubling_time, "C2", "-."),
    )
    for label, function, color, style in curves:
        milliseconds = [1e3 * function(n, size, alpha, beta) for size in sizes]
        axis.loglog(sizes, milliseconds, color=color, linestyle=style, label=label)
    size = ring_tree_crossover(n, alpha, beta)
    height = 1e3 * ring_time(n, size, alpha, beta)
    axis.plot([size], [height], "o", color="C0")
    axis.annotate(
        f"环与树一样快：{size / 1e3:.0f} kB",
        (size, height),
        xytext=(75, -32),
        textcoords="offset points",
        arrowprops={"arrowstyle": "-", "color": "C0", "linewidth": 0.8},
        fontsize=9,
    )
    axis.set(xlabel="每个 rank 的张量（字节）", ylabel="时间（毫秒）")
    axis.legend()
    return figure


def bucket_timelines() -> Figure:
    """反向 80 毫秒、传输 80 毫秒、每次 5 毫秒：不重叠，以及 1、4、8 个桶时的时间线。"""
    backward, transfer, alpha = 80.0, 80.0, 5.0
    figure, axis = plt.subplots(figsize=(7.2, 3.6), layout="constrained")
    rows = (
        ("4 个桶，不重叠", 4, False),
        ("1 个桶", 1, True),
        ("4 个桶", 4, True),
        ("8 个桶", 8, True),
    )
    for row, (_, count, overlapped) in enumerate(rows):
        steps = torch.arange(1, count + 1, dtype=torch.float64)
        ready = steps * backward / count if overlapped else torch.full_like(steps, backward)
        sizes = torch.full_like(steps, transfer / count)
        finish = bucket_finish_times(ready, sizes, alpha, beta=1.0)
        for i, end in enumerate(finish.tolist()):
            left = backward * i / count
            width = backward / count
            axis.barh(row - 0.2, width, 0.34, left, color="C0", alpha=0.35, ec="C0", lw=0.8)
            length = alpha + transfer / count
            axis.barh(row + 0.2, length, 0.34, end - length, color="C1", alpha=0.5, ec="C1", lw=0.8)
            if count <= 4:
                axis.text(left + width / 2, row - 0.2, f"{i + 1}", ha="center", va="center", size=7)
                middle = end - length / 2
                axis.text(middle, row + 0.2, f"{i + 1}", ha="center", va="center", size=7)
        total = finish[-1].item()
        axis.text(total + 2, row + 0.2, f"{total:.0f} 毫秒", va="center", fontsize=9)
    axis.set(
        xlabel="从反向开始时计（毫秒）",
        yticks=range(len(rows)),
        yticklabels=[name for name, _, _ in rows],
        xlim=(0, 205),
    )
    axis.invert_yaxis()
    handles = [Rectangle((0, 0), 1, 1, color=color, alpha=0.5) for color in ("C0", "C1")]
    axis.legend(handles, ("反向", "通信"), loc="lower right")
    axis.grid(False)
    return figure


def local_batch_norm() -> Figure:
    """不同步的批归一化：一个通道的输出，与偏差随每个 rank 的样本数的变化。"""
    generator = torch.Generator().manual_seed(3)
    world_size, sizes = 8, [2, 4, 8, 16, 32, 64, 128, 256]
    measured = []
    for batch in sizes:
        x = torch.randn(world_size * batch, 200, dtype=torch.float64, generator=generator)
        gap = torch.cat(local_batch_norm_gap(list(x.split(batch))))
        measured.append(gap.square().mean().sqrt().item())
    x = torch.randn(4, 4, 1, dtype=torch.float64, generator=generator)
    x = x + torch.tensor([-1.5, -0.5, 0.5, 1.5], dtype=torch.float64)[:, None, None]
    gaps = local_batch_norm_gap(list(x))
    whole = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.2), layout="constrained")
    for rank in range(4):
        color = f"C{rank}"
        synchronized = whole[rank].flatten()
        left.scatter(synchronized, torch.full((4,), float(rank)), color=color, marker="o")
        left.scatter(
            synchronized + gaps[rank].flatten(),
            torch.full((4,), rank + 0.35),
            color=color,
            marker="x",
        )
    left.scatter([], [], color="C7", marker="o", label="同步")
    left.scatter([], [], color="C7", marker="x", label="各归各的")
    left.set(xlabel="归一化之后的值", yticks=range(4), ylim=(-0.4, 4.3))
    left.set_yticklabels([f"rank {rank}" for rank in range(4)])
    left.legend(loc="upper center", ncols=2, fontsize=8)
    right.loglog(sizes, measured, "o", color="C0", label="实测的均方根")
    curve = [expected_batch_norm_gap(batch, world_size) for batch in sizes]
    right.loglog(sizes, curve, color="C1", label="公式的主项")
    right.set(xlabel="每个 rank 的样本数 B", ylabel="偏差")
    right.legend(fontsize=8)
    return figure


def large_steps() -> Figure:
    """线性缩放：两种走法之差随学习率的变化，与二次损失上缩放的极限。"""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(4, 6, 3, dtype=torch.float64, generator=generator)
    y = torch.randn(4, 6, dtype=torch.float64, generator=generator)
    theta = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)

    def gradient(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """均方误差的梯度，模型是 tanh(xᵀθ)。"""
        output = (x @ theta).tanh()
        return 2 * ((output - y) * (1 - output.square())) @ x / len(y)

    gradients = [partial(gradient, x=x_j, y=y_j) for x_j, y_j in zip(x, y, strict=True)]
    rates = [10 ** (-3 + i / 6) for i in range(16)]
    gaps, leading = [], []
    for rate in rates:
        small, large = (step(theta, gradients, rate) for step in (small_steps, large_step))
        gaps.append((small - large).norm().item())
        leading.append(leading_step_gap(theta, gradients, rate).norm().item())
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.2), layout="constrained")
    left.loglog(rates, gaps, "o", color="C0", markersize=4, label="4 小步与 1 大步之差")
    left.loglog(rates, leading, color="C1", label="主项，斜率 2")
    left.set(xlabel="小步的学习率", ylabel="参数之差的范数")
    left.legend(fontsize=8)
    count = 8
    products = [0.01 * i for i in range(1, 36)]
    small, large = zip(*(quadratic_factors(1.0, p, count) for p in products), strict=True)
    right.plot([count * p for p in products], small, color="C0", label="8 个小步")
    right.plot([count * p for p in products], large, color="C1", label="1 个大步")
    right.axhspan(-2, -1, color="C3", alpha=0.15, linewidth=0)
    right.text(0.08, -1.4, "离最小点更远", fontsize=8)
    right.set(
        xlabel="放大后的学习率乘二阶导数", ylabel="到最小点的距离乘上的倍数", ylim=(-1.8, 1.1)
    )
    right.legend(fontsize=8, loc="upper right")
    return figure


def power_sgd_feedback() -> Figure:
    """PowerSGD 秩 1：梯度不变时平均值的偏差，与真的用它做梯度下降时的损失。"""
    generator = torch.Generator().manual_seed(2)
    target = torch.randn(12, 8, dtype=torch.float64, generator=generator)
    start = torch.randn(8, 1, dtype=torch.float64, generator=generator)
    steps = torch.arange(1, 301)
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.2), layout="constrained")
    right.plot(_descent(None), color="C2", linewidth=3, alpha=0.5, label="不压缩")
    for feedback, color, label in ((True, "C0", "有误差反馈"), (False, "C1", "没有误差反馈")):
        sums, _ = compressed_sums(target.expand(300, 12, 8), start, feedback)
        deviation = (sums / steps[:, None, None] - target).flatten(1).norm(dim=1) / target.norm()
        left.loglog(steps, deviation, color=color, label=label)
        right.plot(_descent(feedback), color=color, linewidth=1.2, label=label)
    left.set(xlabel="步数", ylabel="平均值的相对偏差")
    left.legend(fontsize=8)
    right.set(xlabel="步数", ylabel="损失", yscale="log")
    right.legend(fontsize=8)
    return figure


def _descent(feedback: bool | None) -> list[float]:
    """线性回归的小批量梯度下降，梯度压成秩 1（None 则不压），返回每一步的损失。"""
    generator = torch.Generator().manual_seed(0)
    target, scale = torch.randn(12, 16, generator=generator), torch.logspace(0, -1, 16)
    q = torch.randn(16, 1, generator=generator)
    weight = error = torch.zeros_like(target)
    losses = []
    for _ in range(400):
        x = torch.randn(8, 16, generator=generator) * scale
        y = x @ target.T + 0.5 * torch.randn(8, 12, generator=generator)
        gradient = (x @ weight.T - y).T @ x / 8
        if feedback is not None:
            delta = gradient + error if feedback else gradient
            (basis,), (q,) = power_sgd_round([delta], [q])
            gradient = basis @ q.T
            error = delta - gradient
        weight = weight - 0.05 * gradient
        losses.append(((weight - target) * scale).square().sum().item() / 2)
    return losses


def zero_memory() -> Figure:
    """7.5 B 个参数的模型状态：64 个 rank 时的四级，以及随 rank 数的变化。"""
    figure, (bars, curves) = plt.subplots(1, 2, figsize=(7.2, 3.2), layout="constrained")
    parameters, names = 7_500_000_000, ("DDP", "ZeRO-1", "ZeRO-2", "ZeRO-3")
    stages = [zero_breakdown(parameters, 64, stage) for stage in range(4)]
    bottoms = [0.0] * 4
    for kind, label in enumerate(("参数", "梯度", "优化器状态")):
        heights = [stage[kind] / 1e9 for stage in stages]
        bars.bar(names, heights, 0.65, bottoms, label=label, color=f"C{kind}")
        bottoms = [low + high for low, high in zip(bottoms, heights, strict=True)]
    for place, total in enumerate(bottoms):
        bars.text(place, total + 2, f"{total:.1f}", ha="center")
    bars.set(ylabel="每个 rank 的模型状态（GB）", title="64 个 rank", ylim=(0, 132))
    bars.grid(axis="x", visible=False)
    bars.legend()
    ranks = [2**k for k in range(11)]
    for stage, (name, marker) in enumerate(zip(names, "osd^", strict=True)):
        totals = [sum(zero_breakdown(1, count, stage)) for count in ranks]
        curves.plot(ranks, totals, marker=marker, markersize=4, label=name)
    curves.set(
        xscale="log",
        yscale="log",
        xlabel="rank 数",
        ylabel="每个参数的字节数",
        title="随 rank 数的变化",
    )
    curves.set_xscale("log", base=2)
    curves.legend()
    return figure


def checkpoint_overhead() -> Figure:
    """检查点间隔与开销：Young 的近似、精确的曲线与模拟的点。"""
    figure, axis = plt.subplots(figsize=(7.2, 3.4), layout="constrained")
    cost = 2.0  # 分钟
    for color, hours in (("C0", 42.8), ("C1", 4.28)):
        mean_time = 60 * hours
        grid = torch.logspace(math.log10(4), math.log10(1200), 200).tolist()
        exact = [exact_overhead(tau, cost, mean_time) for tau in grid]
        young = [young_overhead(tau, cost, mean_time) for tau in grid]
        axis.plot(grid, exact, color=color, label=f"精确，M = {hours} 小时")
        axis.plot(grid, young, color=color, linestyle="--", label="Young 的近似")
        generator = torch.Generator().manual_seed(0)
        points = torch.logspace(math.log10(5), math.log10(800), 12).tolist()
        simulated = [simulated_overhead(t, cost, mean_time, 20_000, generator) for t in points]
        axis.plot(points, simulated, "o", color=color, markersize=4, label="模拟")
        best = exact_interval(cost, mean_time)
        axis.plot(best, exact_overhead(best, cost, mean_time), "*", color=color, markersize=13)
    axis.set(
        xscale="log",
        yscale="log",
        ylim=(0.02, 3),
        xlabel="两次检查点之间的训练时间（分钟）",
        ylabel="相对开销",
    )
    axis.legend(ncols=2)
    return figure


def speedup_laws() -> Figure:
    """Amdahl 与 Gustafson 的加速比：总工作量不变，或随 rank 数增加。"""
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.1), layout="constrained", sharey=True)
    workers = [2**k for k in range(11)]
    laws = ((amdahl_speedup, "Amdahl：工作量不变"), (gustafson_speedup, "Gustafson：总时间不变"))
    for panel, (law, title) in zip(axes, laws, strict=True):
        panel.plot(workers, workers, color="C3", linestyle=":", label="S = N")
        for fraction in (0.99, 0.95, 0.8):
            speedups = [law(fraction, count) for count in workers]
            panel.plot(workers, speedups, label=f"p = {fraction}")
        panel.set(title=title, xlabel="处理器的个数 N")
        panel.set_xscale("log", base=2)
        panel.set_yscale("log", base=2)
        panel.legend()
    axes[0].set_ylabel("加速比 S")
    return figure
