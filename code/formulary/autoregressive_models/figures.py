"""《自回归模型》系列的插图：一个函数一幅图，返回 matplotlib 的 Figure。

颜色取自 rcParams 的 prop_cycle，由 formulary_site 按浅色与深色两种主题各画一遍，
所以函数里不写死前景色与背景色。
"""

import math

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from formulary.autoregressive_models.bernoulli import bernoulli_log_prob
from formulary.autoregressive_models.blind_spot import reachable_pixels, visible_pixels
from formulary.autoregressive_models.causal_convolution import CausalConvolution, receptive_field
from formulary.autoregressive_models.ensembles import (
    averaged_logit_score,
    coupled_pair_logits,
    logit_average_partition,
    order_ensemble_log_prob,
)
from formulary.autoregressive_models.fvsbn import FVSBN, fvsbn_parameter_count
from formulary.autoregressive_models.made import made_degrees, made_masks
from formulary.autoregressive_models.made_cost import made_multiply_adds
from formulary.autoregressive_models.made_structure import path_counts
from formulary.autoregressive_models.nade_cost import nade_multiply_adds, nade_parameter_count
from formulary.autoregressive_models.pixelcnn import PixelCNN
from formulary.autoregressive_models.recurrent import RecurrentAutoregressive
from formulary.autoregressive_models.tabular import conditional_table_sizes, markov_parameter_count
from formulary.autoregressive_models.transformer import TransformerAutoregressive


def logit_averaging() -> Figure:
    """平均对数几率的“概率”之和 Z(L)，与它报出的 NLL 同真实 NLL 的差距。"""
    coupling = torch.linspace(0, 20, 201, dtype=torch.float64)
    x = torch.ones(1, 2, dtype=torch.float64)
    claimed, true = [], []
    for value in coupling.tolist():
        logits = coupled_pair_logits(value, x)
        claimed.append(-averaged_logit_score(logits, x).item())
        joint = torch.stack([bernoulli_log_prob(one, x) for one in logits])
        true.append(-order_ensemble_log_prob(joint).item())
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.2), layout="constrained")
    left.plot(coupling, logit_average_partition(coupling), color="C1")
    left.axhline(1.0, color="C0", linestyle="--")
    left.set(xlabel="耦合强度 L", ylabel="四个状态之和 Z(L)", ylim=(0.9, 2.1))
    right.plot(coupling, true, color="C0", label="概率的平均（真实的 NLL）")
    right.plot(coupling, claimed, color="C1", label="对数几率的平均（不是 NLL）")
    right.set(xlabel="耦合强度 L", ylabel="状态 (1, 1) 的 NLL（nat）", ylim=(0, 1.5))
    right.legend()
    return figure


def made_operations() -> Figure:
    """784 个变量时一次密度与三种采样写法的乘加次数。"""
    cases = ([500], [500, 500])
    names = {
        "density": "一次密度",
        "sample": "每步前向一次",
        "incremental": "只更新第一层",
        "by_degree": "每个单元只算一次",
    }
    figure, axis = plt.subplots(figsize=(7.2, 3.2), layout="constrained")
    for i, hidden in enumerate(cases):
        costs = made_multiply_adds(784, hidden)
        heights = [costs[name] for name in names]
        places = [k + 0.4 * (i - 0.5) for k in range(len(names))]
        bars = axis.bar(places, heights, 0.38, color=f"C{i}", label=f"隐藏层宽 {hidden}")
        axis.bar_label(bars, [f"{height / 1e6:.3g}" for height in heights], fontsize=8)
    axis.set_yscale("log")
    axis.set_ylim(1e5, 4e9)
    axis.set_xticks(range(len(names)), names.values())
    axis.set_ylabel("每个样本的乘加次数，柱顶以百万次计")
    axis.legend()
    return figure


def made_paths() -> Figure:
    """一个小 MADE 的三个掩码，与路径条数按列的次序、按生成次序排列的样子。"""
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    degrees = made_degrees(order, [10, 9], torch.Generator().manual_seed(2))
    masks = made_masks(degrees)
    counts = path_counts(masks).double()
    counts[counts == 0] = torch.nan
    figure, axes = plt.subplot_mosaic(
        [
            [name for name in ("first", "second", "output") for _ in range(2)],
            ["columns"] * 3 + ["steps"] * 3,
        ],
        figsize=(7.2, 4.2),
        layout="constrained",
    )
    kept = ListedColormap(["C0"])
    shades = ListedColormap(plt.colormaps["viridis"](range(90, 256)))  # 空格子要与最浅的分得开
    ends = [*degrees, degrees[0]]
    titles = ("第一层的掩码", "第二层的掩码", "输出层的掩码")
    for layer, (name, title) in enumerate(zip(("first", "second", "output"), titles, strict=True)):
        panel, mask = axes[name], masks[layer].double()
        mask[mask == 0] = torch.nan
        panel.imshow(mask.numpy(), cmap=kept, aspect="auto")
        panel.set_xticks(range(mask.shape[1]), ends[layer].tolist(), fontsize=7)
        panel.set_yticks(range(mask.shape[0]), ends[layer + 1].tolist(), fontsize=7)
        panel.set(title=title, xlabel="前一层的度数", ylabel="后一层的度数")
    pictures = {
        "columns": ("路径条数，按列的次序", counts, list(range(6))),
        "steps": ("路径条数，按生成的次序", counts[order][:, order], order.tolist()),
    }
    for name, (title, picture, labels) in pictures.items():
        image = axes[name].imshow(picture.numpy(), cmap=shades, vmin=1)
        ticks = [f"x{i + 1}" for i in labels]
        axes[name].set_xticks(range(6), ticks, fontsize=8)
        axes[name].set_yticks(range(6), ticks, fontsize=8)
        axes[name].set(title=title, xlabel="输入", ylabel="输出")
    for panel in axes.values():
        panel.grid(False)
    figure.colorbar(image, ax=[axes["columns"], axes["steps"]], label="路径（条）")
    return figure


def blind_spot() -> Figure:
    """PixelCNN 看到每个像素要几层，以及怎样加深也看不到的像素。"""
    rows, cols, row, col = 9, 11, 6, 4
    figure, axes = plt.subplots(
        1, 2, figsize=(7.2, 3.4), layout="constrained", sharex=True, sharey=True
    )
    for panel, k in zip(axes, (3, 5), strict=True):
        depth = torch.full((rows, cols), math.nan)
        for layers in range(6, 0, -1):  # 这个大小的图像，六层已看到全部可见的像素
            depth[reachable_pixels(rows, cols, k, row, col, layers)] = layers
        earlier = torch.arange(rows * cols).view(rows, cols) < row * cols + col
        blind = (earlier & ~visible_pixels(rows, cols, k, row, col)).nonzero()
        image = panel.imshow(depth.numpy(), vmin=1, vmax=6)
        panel.plot(blind[:, 1], blind[:, 0], "x", color="C1", ms=8, label="盲点")
        panel.plot([col], [row], "s", color="C3", ms=9, label="正在预测的像素")
        panel.set(title=f"核边长 {k}：盲点 {len(blind)} 个", xlabel="列")
        panel.set_xticks(range(0, cols, 2))
        panel.grid(False)
    axes[0].set_ylabel("行")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.colorbar(image, ax=axes, label="最少要几层才看得到")
    return figure


def dilated_convolutions() -> Figure:
    """空洞因果卷积的连线，与感受野随层数的增长。"""
    steps, layers = 16, 4
    figure, (wires, growth) = plt.subplots(
        1, 2, figsize=(7.2, 3.2), layout="constrained", width_ratios=(3, 2)
    )
    needed = {steps - 1}
    for layer in range(layers, 0, -1):
        dilation = 2 ** (layer - 1)
        sources = {t - j * dilation for t in needed for j in (0, 1) if t >= j * dilation}
        for t in range(steps):
            for source in (t, t - dilation):
                if source >= 0:
                    used = t in needed
                    color, width = ("C1", 1.4) if used else ("C0", 0.4)
                    wires.plot([source, t], [layer - 1, layer], color=color, lw=width, zorder=used)
        needed = sources
    grid = torch.cartesian_prod(torch.arange(steps), torch.arange(layers + 1))
    wires.plot(grid[:, 0], grid[:, 1], "o", color="C0", ms=4)
    labels = ["输入"] + [f"δ = {2**i}" for i in range(layers)]
    wires.set_yticks(range(layers + 1), labels)
    wires.set_xticks(range(0, steps, 3), range(1, steps + 1, 3))  # 时刻从 1 起
    wires.set(xlabel="时刻 t（步）", title="最后一个输出用到的连线")
    wires.grid(False)
    depths = range(1, 11)
    cases = (
        (
            "k = 2，空洞率逐层加倍",
            [receptive_field([2] * n, [2**i for i in range(n)]) for n in depths],
        ),
        ("k = 3，无空洞", [receptive_field([3] * n, [1] * n) for n in depths]),
        ("k = 2，无空洞", [receptive_field([2] * n, [1] * n) for n in depths]),
    )
    for i, (label, fields) in enumerate(cases):
        growth.semilogy(depths, fields, "o-", color=f"C{i}", ms=3, label=label, base=2)
    growth.set(xlabel="层数", ylabel="感受野（步）", ylim=(1.5, 2**15))
    growth.legend()
    return figure


def dependency_patterns() -> Figure:
    """四种结构在 6 × 6 图像上的雅可比矩阵：第 i 个对数几率用到哪些 x_j。"""
    side = 6
    n = side * side
    generator = torch.Generator().manual_seed(0)
    models = {
        "PixelCNN": PixelCNN(side, side, 8, 2, first_kernel=3, generator=generator),
        "空洞因果卷积": CausalConvolution(8, (1, 2, 4), generator=generator),
        "循环神经网络": RecurrentAutoregressive(16, generator=generator),
        "Transformer": TransformerAutoregressive(n, 16, 2, 2, generator=generator),
    }
    x = torch.randint(2, (1, n), generator=generator).double()
    figure, axes = plt.subplots(
        1, 4, figsize=(7.2, 2.5), layout="constrained", sharex=True, sharey=True
    )
    for panel, (name, model) in zip(axes, models.items(), strict=True):
        network = model.double()
        jacobian = torch.autograd.functional.jacobian(lambda v, f=network: f(v)[0], x)[:, 0].abs()
        strength = (jacobian / jacobian.max()).log10()
        strength[jacobian == 0] = math.nan
        image = panel.imshow(strength.numpy(), vmin=-6, vmax=0)
        panel.set(title=name, xlabel="输入 j")
        panel.set_xticks(range(0, n, 10), range(1, n + 1, 10))  # 变量从 1 起
        panel.grid(False)
    axes[0].set_ylabel("输出 i")
    axes[0].set_yticks(range(0, n, 10), range(1, n + 1, 10))
    figure.colorbar(image, ax=axes, label="log10 相对大小", shrink=0.7)
    return figure


def parameter_counts() -> Figure:
    """联合表、马尔可夫链、FVSBN 与 NADE 的参数个数随变量个数的增长。"""
    sizes = sorted({round(10 ** (k / 20)) for k in range(58)} | {784})
    figure, axis = plt.subplots(figsize=(7.2, 3.8), layout="constrained")
    small = [n for n in sizes if n <= 40]
    tables = [sum(conditional_table_sizes(n)) for n in small]
    axis.loglog(small, tables, color="C3", label="联合表")
    for color, order in (("C2", 5), ("C4", 1)):
        counts = [markov_parameter_count(n, min(order, n)) for n in sizes]
        axis.loglog(sizes, counts, color=color, label=f"{order} 阶马尔可夫链")
    counts = [nade_parameter_count(n, 500) for n in sizes]
    axis.loglog(sizes, counts, color="C1", label="NADE，d = 500")
    counts = [fvsbn_parameter_count(n) for n in sizes]
    axis.loglog(sizes, counts, color="C0", label="FVSBN")
    axis.axvline(784, color="C7", linestyle=":")
    axis.set(xlabel="变量个数 n", ylabel="参数个数", ylim=(1, 1e9))
    axis.legend()
    return figure


def nade_operations() -> Figure:
    """一个样本的全部隐藏激活要多少次乘加：从头算与递推，旁边是 sigmoid 的次数。"""
    d, sizes = 500, list(range(2, 785))
    naive, recursive = zip(*(nade_multiply_adds(n, d) for n in sizes), strict=True)
    figure, axis = plt.subplots(figsize=(7.2, 3.4), layout="constrained")
    axis.loglog(sizes, naive, color="C3", label="每步从头算：乘加")
    axis.loglog(sizes, recursive, color="C0", label="递推：乘加")
    sigmoids = [n * d for n in sizes]
    axis.loglog(sizes, sigmoids, color="C1", linestyle="--", label="两者都要：sigmoid")
    axis.set(xlabel="变量个数 n（d = 500）", ylabel="每个样本的次数")
    axis.legend()
    return figure


def pixel_nll() -> Figure:
    """数据集 digits 的测试集上每个像素的平均条件 NLL：逐像素独立与 FVSBN。"""
    x = torch.from_numpy((load_digits().data >= 8).astype("float32"))
    order = np.random.RandomState(0).permutation(len(x))  # 与实验同一个划分
    train, test = x[order[:1200]], x[order[1500:]]
    frequencies = (train.sum(0) + 1) / (len(train) + 2)
    model, generator = FVSBN(64), torch.Generator().manual_seed(0)
    solver = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(25):
        for batch in train[torch.randperm(1200, generator=generator)].split(50):
            solver.zero_grad()
            (-bernoulli_log_prob(model(batch), batch).mean()).backward()
            solver.step()
    with torch.no_grad():
        cases = {"逐像素独立": frequencies.logit().expand_as(test), "FVSBN": model(test)}
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.4), layout="constrained")
    for panel, (name, logits) in zip(axes, cases.items(), strict=True):
        columns = zip(logits.T[:, :, None], test.T[:, :, None], strict=True)
        nll = torch.stack([-bernoulli_log_prob(*column).mean() for column in columns])
        image = panel.imshow(nll.view(8, 8), vmin=0.0, vmax=0.7)
        panel.set(title=f"{name}：合计 {nll.sum():.1f} nat", xticks=[], yticks=[])
        panel.grid(False)
    figure.colorbar(image, ax=axes, label="平均条件 NLL（nat）")
    return figure
