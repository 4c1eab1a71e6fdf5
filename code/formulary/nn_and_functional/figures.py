"""《nn.Xxx 与 nn.functional》系列的插图：一个函数一幅图，返回 matplotlib 的 Figure。

颜色取自 rcParams 的 prop_cycle，由 formulary_site 按浅色与深色两种主题各画一遍，
所以函数里不写死前景色与背景色。
"""

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from formulary.nn_and_functional.batch_norm import batch_norm_train
from formulary.nn_and_functional.binary_losses import binary_cross_entropy_from_logits
from formulary.nn_and_functional.cross_entropies import cross_entropy, least_double_softmax_loss
from formulary.nn_and_functional.dropout import dropout_linear_variance, dropout_moments
from formulary.nn_and_functional.layer_norm import group_norm, layer_norm
from formulary.nn_and_functional.mode_traps import ForgetfulDropout, MindfulDropout
from formulary.nn_and_functional.signal_depth import (
    limiting_second_moment,
    measured_second_moments,
    second_moments,
)
from formulary.nn_and_functional.softmax import softmax
from formulary.nn_and_functional.variance import (
    one_pass_relative_error,
    one_pass_variance,
    two_pass_variance,
)


def squashed_twice() -> Figure:
    """左：由概率与由对数几率算的二元交叉熵；右：把概率当对数几率交给交叉熵。"""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.1), layout="constrained")
    z = torch.linspace(-160, 20, 361)
    one = torch.ones_like(z)
    clamped = F.binary_cross_entropy(torch.sigmoid(z), one, reduction="none")
    left.plot(z, binary_cross_entropy_from_logits(z, one), color="C0", label="由对数几率算")
    left.plot(z, clamped, color="C1", linestyle="--", label="先算概率（float32）")
    left.set(xlabel="对数几率 z，目标为 1", ylabel="损失 / nat")
    left.legend(frameon=False)
    margin = torch.linspace(-4, 12, 161, dtype=torch.float64)
    logits = torch.cat([margin[:, None], margin.new_zeros(161, 9)], dim=1)
    label = torch.zeros(161, dtype=torch.long)
    right.plot(margin, cross_entropy(logits, label), color="C0", label="收到对数几率")
    doubled = cross_entropy(softmax(logits, dim=1), label)
    right.plot(margin, doubled, color="C1", linestyle="--", label="收到概率")
    right.axhline(least_double_softmax_loss(10), color="C1", linewidth=0.7)
    right.annotate(
        f"下界 {least_double_softmax_loss(10):.2f}",
        (-4, least_double_softmax_loss(10)),
        xytext=(0, -4),
        textcoords="offset points",
        va="top",
    )
    right.set(xlabel="真类比其余 9 类高出的对数几率", ylabel="损失 / nat")
    right.legend(frameon=False)
    return figure


def signal_through_depth() -> Figure:
    """三种初始化下，激活的二阶矩随深度的变化：递推与实测。"""
    figure, axes = plt.subplots(figsize=(7.2, 3.4), layout="constrained")
    width, depth = 256, 20
    layers = range(1, depth + 1)
    titles = {"kaiming": "Kaiming", "default": "nn.Linear 的默认值", "xavier": "Xavier"}
    for number, (scheme, title) in enumerate(titles.items()):
        color = f"C{number}"
        axes.plot(layers, second_moments(scheme, width, depth), color=color, label=title)
        for seed in range(3):
            generator = torch.Generator().manual_seed(seed)
            x = torch.randn(128, width, dtype=torch.float64, generator=generator)
            measured = measured_second_moments(scheme, x, depth, generator)
            axes.plot(layers, measured, "o", color=color, markersize=3, alpha=0.7)
    axes.axhline(limiting_second_moment(width), color="C1", linewidth=0.7, linestyle=":")
    axes.set(xlabel="层", ylabel="激活的二阶矩", yscale="log", xlim=(0.5, depth + 0.5))
    axes.set_xticks([1, 5, 10, 15, 20])
    axes.legend(frameon=False, loc="lower left")
    return figure


def dropout_in_evaluation() -> Figure:
    """eval() 之后 F.dropout 的输出还有多大的方差：左是它自己，右是接一个线性层之后。"""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.2), layout="constrained")
    fine, coarse = torch.linspace(0, 0.9, 91).tolist(), [0.1 * k for k in range(10)]
    single = torch.tensor([2.0])
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (
        torch.rand(64, generator=generator),
        torch.randn(1, 64, generator=generator) / 8,
    )
    left.plot(fine, [dropout_moments(single, p)[1].item() for p in fine], color="C0", label="理论")
    spread = [dropout_linear_variance(hidden, weight, p).sqrt().item() for p in fine]
    right.plot(fine, spread, color="C0", label="理论")
    for kind, color, marker in ((ForgetfulDropout, "C1", "o"), (MindfulDropout, "C2", "s")):
        wide, narrow = [], []
        with torch.random.fork_rng():  # F.dropout 只用全局的发生器
            torch.manual_seed(1)
            for p in coarse:
                layer = kind(p).eval()
                narrow.append(layer(single.expand(20_000)).var().item())
                wide.append((layer(hidden.expand(4000, 64)) @ weight.mT).std().item())
        label = "F.dropout(x, p)" if kind is ForgetfulDropout else "交代了 training"
        for axis, measured in ((left, narrow), (right, wide)):
            axis.plot(coarse, measured, marker, color=color, label=label, markersize=5)
    left.set(title="一个元素，x = 2", xlabel="失活的概率 p", ylabel="输出的方差")
    right.set(title="再经线性层，64 个输入", xlabel="失活的概率 p", ylabel="输出的标准差")
    left.legend(frameon=False)
    return figure


class _Specimen(nn.Module):
    """登记与没有登记的东西各有几样的小模型。"""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.head = nn.Linear(8, 3)
        self.register_buffer("prior", torch.zeros(3), persistent=False)
        self.scale = torch.ones(3, requires_grad=True)
        self.extra = [nn.Dropout(0.5)]


def module_tree() -> Figure:
    """一个小模型在 eval() 之后的模块树：每个结点的参数、缓冲区与模式。"""
    model = _Specimen().eval()
    rows = [
        (name.count(".") + 1 if name else 0, name.rpartition(".")[2] or "model", part, True)
        for name, part in model.named_modules()
    ]
    rows += [(1, "extra[0]", model.extra[0], False), (1, "scale", model.scale, False)]
    figure, axis = plt.subplots(figsize=(7.2, 3.9), layout="constrained")
    columns = (0.0, 2.9, 4.2, 7.3)
    for x, title in zip(columns, ("模块", "参数", "缓冲区", "模式"), strict=True):
        axis.text(x, -1, title, weight="bold", va="center")
    last = {0: 0}  # 每一层最近的结点在第几行
    for y, (depth, name, part, registered) in enumerate(rows):
        color = "C0" if registered else "C1"
        kind = "张量" if isinstance(part, Tensor) else type(part).__name__
        label = f"{name}：{kind}" if depth else name
        axis.text(0.4 * depth, y, label, color=color, va="center")
        if depth:
            x = 0.4 * depth - 0.25
            style = "-" if registered else ":"
            top = last[depth - 1] + 0.35 if registered else y - 1
            axis.plot([x, x, x + 0.2], [top, y, y], style, color=color, lw=0.9)
        last[depth] = y
        if not registered:
            axis.text(columns[1], y, "没有登记", color=color, va="center")
        axis.text(columns[1], y, _names(part, "_parameters"), va="center")
        axis.text(columns[2], y, _names(part, "_buffers"), va="center")
        if isinstance(part, nn.Module):
            axis.text(columns[3], y, "训练" if part.training else "评估", color=color, va="center")
    axis.axhline(len(rows) - 2.5, color="C1", linewidth=0.7, linestyle=":")
    axis.set(xlim=(-0.1, 8.0), ylim=(len(rows) - 0.4, -1.5))
    axis.axis("off")
    return figure


def _names(part: nn.Module | Tensor, table: str) -> str:
    """一张登记表里的名字；带括号的是非持久的，不进 state_dict。"""
    if isinstance(part, Tensor):
        return ""  # 张量没有登记表
    hidden = part._non_persistent_buffers_set
    entries = [name for name, value in getattr(part, table).items() if value is not None]
    return "\n".join(f"({name})" if name in hidden else name for name in entries)


def shared_statistics() -> Figure:
    """四种归一化里，一个输出真正依赖的输入，由雅可比矩阵的非零元素得出。"""
    x = torch.randn(4, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one, zero = x.new_ones(6), x.new_zeros(6)
    every, nothing = x.new_ones(18), x.new_zeros(18)
    panels = {
        "批归一化": lambda x: batch_norm_train(x, one, zero),
        "层归一化": lambda x: layer_norm(x.flatten(1), every, nothing).view_as(x),
        "实例归一化": lambda x: group_norm(x, 6, one, zero),
        "组归一化，两组": lambda x: group_norm(x, 2, one, zero),
    }
    figure, rows = plt.subplots(2, 2, figsize=(7.2, 3.3), layout="constrained")
    for axes, (title, normalize) in zip(rows.flat, panels.items(), strict=True):
        jacobian = torch.func.jacrev(lambda x, f=normalize: f(x)[1, 2, 1])(x)
        for (sample, channel, position), slope in zip(
            torch.cartesian_prod(*map(torch.arange, x.shape)).tolist(),
            jacobian.flatten().tolist(),
            strict=True,
        ):
            column = channel * 3.4 + position
            chosen = (sample, channel, position) == (1, 2, 1)
            axes.add_patch(
                plt.Rectangle(
                    (column, sample),
                    0.9,
                    0.9,
                    facecolor="C1" if chosen else "C0" if slope else "none",
                    edgecolor="C0",
                    linewidth=0.6,
                )
            )
        axes.set(title=title, xlim=(-0.2, 20.1), ylim=(4.1, -0.2))
        axes.set_xticks([channel * 3.4 + 1.45 for channel in range(6)], list(map(str, range(6))))
        axes.set_yticks([sample + 0.45 for sample in range(4)], list(map(str, range(4))))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    for axes in rows[1]:
        axes.set_xlabel("通道")
    for axes in rows[:, 0]:
        axes.set_ylabel("样本")
    return figure


def one_pass_error() -> Figure:
    """方差的两种算法在 float32 里的相对误差，随均值与标准差之比的变化。"""
    figure, axes = plt.subplots(figsize=(7.2, 3.2), layout="constrained")
    ratios = torch.logspace(-1, 5, 37).tolist()
    errors: dict[str, list[float]] = {"one": [], "two": []}
    negative = []
    for ratio in ratios:
        generator = torch.Generator().manual_seed(0)
        x = ratio + torch.randn(100, 256, generator=generator)
        exact = x.double().var(-1, unbiased=False)
        for name, variance in (("one", one_pass_variance(x)), ("two", two_pass_variance(x))):
            errors[name].append(((variance - exact) / exact).square().mean().sqrt().item())
        negative.append((one_pass_variance(x) < 0).any().item())
    theory = [one_pass_relative_error(ratio, 1.0, torch.float32) for ratio in ratios]
    axes.plot(ratios, theory, color="C0", label="一遍：公式")
    axes.plot(ratios, errors["one"], "o", color="C0", markersize=3, label="一遍：实测")
    axes.plot(ratios, errors["two"], "s", color="C1", markersize=3, label="两遍：实测")
    if any(negative):
        start = ratios[negative.index(True)]
        axes.axvspan(start, ratios[-1], color="C3", alpha=0.12, linewidth=0)
        axes.annotate("一遍出现负的方差", (start, 3e-3), xytext=(6, 0), textcoords="offset points")
    axes.set(
        xlabel="均值与标准差之比",
        ylabel="方差的相对误差",
        xscale="log",
        yscale="log",
        xlim=(ratios[0], ratios[-1]),
    )
    axes.legend(frameon=False, loc="upper left")
    return figure
