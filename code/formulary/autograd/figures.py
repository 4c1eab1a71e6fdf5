"""《PyTorch 自动求导》系列的插图：一个函数一幅图，返回 matplotlib 的 Figure。

颜色取自 rcParams 的 prop_cycle，由 formulary_site 按浅色与深色两种主题各画一遍，
所以函数里不写死前景色与背景色。
"""

import math
from collections.abc import Callable

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint_sequential

from formulary.autograd.accumulation import eager_visits
from formulary.autograd.checkpoint_memory import checkpoint_bytes, checkpoint_optimum
from formulary.autograd.cost import count_flops, mlp_flops
from formulary.autograd.difference_errors import central_difference_error, optimal_central_step
from formulary.autograd.finite_differences import central_difference
from formulary.autograd.graph import backward_graph, edge_shares
from formulary.autograd.hand_example import adjoint_trace, tangent_trace, two_products
from formulary.autograd.masked_branches import sqrt_double_where, sqrt_single_where
from formulary.autograd.nondifferentiable import straight_through
from formulary.autograd.saved_tensors import saved_bytes
from formulary.autograd.tape import topological_order
from formulary.autograd.tape_operations import Variable


def two_sweeps() -> Figure:
    """手算的例子：同一张图上，左边标切向量从输入推到输出，右边标伴随从输出拉回输入。"""
    x, tangent = torch.tensor([2.0, 3.0, -1.0]), torch.tensor([1.0, -1.0, 2.0])
    cotangent = torch.tensor([1.0, 2.0])
    y1, y2 = two_products(x)
    a, b = x[0] * x[1], x[0] * x[1] + x[2]
    values = {"x1": x[0], "x2": x[1], "x3": x[2], "a": a, "b": b, "y1": y1, "y2": y2}
    pushed = dict(zip(("x1", "x2", "x3"), tangent, strict=True)) | tangent_trace(x, tangent)
    pulled = dict(zip(("y1", "y2"), cotangent, strict=True)) | adjoint_trace(x, cotangent)
    places = {"x1": (0, 3), "x2": (0, 1.6), "x3": (0, 0), "a": (1, 2.3), "b": (2, 1.1)}
    places |= {"y1": (3, 2.3), "y2": (3, 0)}
    partials = {("x1", "a"): x[1], ("x2", "a"): x[0], ("a", "b"): 1, ("x3", "b"): 1}
    partials |= {("a", "y1"): b, ("b", "y1"): a, ("b", "y2"): 2 * b}
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.6), layout="constrained")
    sweeps = (("前向：值与切向量", "dot", pushed, "C0"), ("反向：值与伴随", "bar", pulled, "C1"))
    for panel, (title, accent, numbers, color) in zip(axes, sweeps, strict=True):
        for (start, end), slope in partials.items():
            ends = (places[start], places[end])
            tail, head = ends if numbers is pushed else ends[::-1]
            arrow = {"arrowstyle": "->", "color": color, "shrinkA": 25, "shrinkB": 25}
            panel.annotate("", head, tail, arrowprops=arrow)
            middle = [(p + q) / 2 for p, q in zip(*ends, strict=True)]
            panel.annotate(
                f"{float(slope):g}", middle, (1, 7), textcoords="offset points", fontsize=8
            )
        for name, place in places.items():
            letter, index = name[0], f"_{name[1]}" if name[1:] else ""
            label = f"${letter}{index} = {float(values[name]):g}$\n"
            label += f"$\\{accent}{{{letter}}}{index} = {float(numbers[name]):g}$"
            box = {"boxstyle": "round", "facecolor": "none", "edgecolor": color}
            panel.text(
                *place, label, ha="center", va="center", fontsize=9, linespacing=1.4, bbox=box
            )
        panel.set(title=title, xlim=(-0.5, 3.5), ylim=(-0.6, 3.6))
        panel.axis("off")
    return figure


def difference_errors() -> Figure:
    """中心差分的误差随步长变化：float32 与 float64 各一条 V 形曲线，虚线是两条渐近线。"""
    figure, axis = plt.subplots(figsize=(7.2, 3.8), layout="constrained")
    kinds = ((torch.float32, "float32", "C1"), (torch.float64, "float64", "C0"))
    for dtype, name, color in kinds:
        epsilon = torch.finfo(dtype).eps
        one = torch.tensor(1.0, dtype=dtype)
        steps = [10 ** (-k / 8) for k in range(8 * 12 + 1) if 10 ** (-k / 8) > epsilon]
        errors = [
            abs(central_difference(torch.sin, one, h).double().item() - math.cos(1.0))
            for h in steps
        ]
        axis.loglog(steps, errors, ".", color=color, label=f"{name} 实测")
        parts = [central_difference_error(h, math.sin(1.0), math.cos(1.0), epsilon) for h in steps]
        style = {"color": color, "linestyle": "--", "linewidth": 1}
        axis.loglog(steps, [rounding for _, rounding in parts], label=f"{name} 舍入误差", **style)
        if dtype is torch.float64:
            axis.loglog(
                steps,
                [truncation for truncation, _ in parts],
                "C2--",
                linewidth=1,
                label="截断误差",
            )
        best = optimal_central_step(math.sin(1.0), math.cos(1.0), epsilon)
        axis.axvline(best, color=color, linewidth=0.8, linestyle=":")
    axis.set(xlabel="步长 h", ylabel="误差的绝对值", ylim=(1e-13, 3))
    axis.legend(loc="lower left", fontsize="small")
    return figure


def jacobian_flops() -> Figure:
    """完整雅可比矩阵的浮点运算次数：一侧固定为 16，另一侧从 1 变到 256。"""
    hidden, fixed = 32, 16
    sizes = [1, 4, 16, 64, 256]
    figure, axes = plt.subplots(
        1, 2, figsize=(7.2, 3.2), layout="constrained", sharex=True, sharey=True
    )
    shapes = ([(n, fixed) for n in sizes], [(fixed, m) for m in sizes])
    titles = ("m = 16，n 变化", "n = 16，m 变化")
    methods = (
        (torch.func.jacrev, "o", "反向（jacrev）"),
        (torch.func.jacfwd, "s", "前向（jacfwd）"),
    )
    for panel, pairs, title in zip(axes, shapes, titles, strict=True):
        for jacobian, marker, label in methods:
            counts = [_jacobian_flops(jacobian, n, hidden, m) for n, m in pairs]
            panel.loglog(sizes, counts, marker, label=f"{label}，计数")
        reverse = [(m + 1) * mlp_flops([n, hidden, m], 1) for n, m in pairs]
        forward = [(n + 2) * mlp_flops([n, hidden, m], 1) for n, m in pairs]
        panel.loglog(sizes, reverse, "C0-", sizes, forward, "C1-", linewidth=1)
        panel.set_xscale("log", base=2)
        panel.set(title=title, xlabel=title[title.index("，") + 1])
    axes[0].set_ylabel("浮点运算（次）")
    axes[0].legend(fontsize="small")
    return figure


def _jacobian_flops(
    jacobian: Callable[..., Callable[[Tensor], Tensor]], n: int, hidden: int, m: int
) -> int:
    """两层网络求一个完整雅可比矩阵的浮点运算次数；向量写成一列的矩阵，计数器才数得到。"""
    first, second = torch.ones(hidden, n), torch.ones(m, hidden)

    def network(x: Tensor) -> Tensor:
        return (second @ torch.tanh(first @ x[:, None]))[:, 0]

    return count_flops(lambda: jacobian(network)(torch.ones(n)))


def checkpoint_memory() -> Figure:
    """检查点的内存随段数的变化：公式、连续的近似与量出来的点。"""
    layers, width, batch = 16, 32, 64
    net = nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(layers)))
    net = net.double()
    x = torch.zeros(batch, width, dtype=torch.float64, requires_grad=True)
    a, w = x.nbytes, 8 * width * width  # w = a/2，与正文的 256→256、B = 512 同比
    segments = range(1, layers + 1)
    fine = torch.linspace(1, layers, 301)
    figure, axis = plt.subplots(figsize=(7.2, 3.8), layout="constrained")
    cases = ((a + w, "c = 1.5a（计权重）", []), (a, "c = a（不计权重）", list(net.parameters())))
    for i, (layer, label, ignore) in enumerate(cases):
        exact = [checkpoint_bytes(layers, s, a, layer) / a for s in segments]
        measured = [
            saved_bytes(lambda s=s: checkpoint_sequential(net, s, x, use_reentrant=False), ignore)
            for s in segments
        ]
        smooth = fine + layers * layer / a / fine
        axis.plot(fine, smooth, f"C{i}", linewidth=1.2, alpha=0.6, label=f"s + Lc/(sa)，{label}")
        axis.plot(segments, exact, f"C{i}", linewidth=0.8, linestyle=":")
        sizes = [size / a for size in measured]
        axis.plot(segments, sizes, f"C{i}o", markersize=5, label=f"量得，{label}")
        best, least = checkpoint_optimum(layers, float(a), float(layer))
        axis.plot(best, least / a, f"C{i}*", markersize=11)
    axis.set(xlabel="段数 s", ylabel="存着的字节数 ÷ a", ylim=(0, 27), xticks=list(segments))
    axis.legend(fontsize="small", ncols=2, loc="upper right")
    return figure


def where_gradients() -> Figure:
    """平方根外面套一层与两层 where：前向与反向。"""
    x = torch.linspace(-1, 2, 301, dtype=torch.float64)
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.2), layout="constrained")
    axes[0].plot(x, sqrt_double_where(x), "C0")
    axes[0].set(title="前向：两种写法相同", xlabel="x")
    slopes = []
    for function in (sqrt_single_where, sqrt_double_where):
        leaf = x.clone().requires_grad_()
        slopes.append(torch.autograd.grad(function(leaf).sum(), leaf)[0])
    bad, kept = slopes[0].isnan(), x <= 0
    axes[1].plot(x, slopes[0], "C0", linewidth=4, alpha=0.4, label="一层 where")
    height = torch.full_like(x[bad], 1.2)
    axes[1].plot(x[bad][::10], height[::10], "C0x", markersize=5, label="一层 where：NaN")
    axes[1].plot(x[kept], slopes[1][kept], "C1", linewidth=1.4, label="两层 where")
    axes[1].plot(x[~kept], slopes[1][~kept], "C1", linewidth=1.4)
    axes[1].set(title="反向：导数", xlabel="x", ylim=(-0.15, 2.5))
    axes[1].legend(fontsize="small")
    return figure


def straight_through_estimate() -> Figure:
    """直通估计：前向是阶梯，反向的导数是装出来的。"""
    x = torch.linspace(-2.2, 2.2, 441, dtype=torch.float64)
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.2), layout="constrained")
    axes[0].plot(x, x, "C2--", linewidth=1, label="恒等函数")
    axes[0].plot(x, straight_through(x, torch.round), "C0", label="前向 round(x)")
    axes[0].set(title="前向", xlabel="x")
    for color, style, label, quantize in (
        ("C1", "-", "真的导数：0", torch.round),
        ("C0", "-", "直通估计：2 round(x)", lambda x: straight_through(x, torch.round)),
        ("C2", "--", "不取整时：2x", lambda x: x),
    ):
        leaf = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(quantize(leaf).square().sum(), leaf)
        axes[1].plot(x, slope, color + style, linewidth=1.4, label=label)
    axes[1].set(title="L = q(x)² 对 x 的导数", xlabel="x")
    for axis in axes:
        axis.legend(fontsize="small")
    return figure


def graph() -> Figure:
    """L = (ab)(ab + a) 的反向图，结点与边由 grad_fn.next_functions 走出，数字由钩子记下。"""
    a, b = torch.tensor(2.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    product = a * b
    nodes, edges = backward_graph(loss := product * (product + a))
    shares = [share.item() for share in edge_shares(loss)]
    adjoints, depth = [1.0] + [0.0] * (len(nodes) - 1), [0] * len(nodes)
    for (_, end), share in zip(edges, shares, strict=True):
        adjoints[end] += share
    for _ in nodes:  # 离输出最远要走几条边
        for start, end in edges:
            depth[end] = max(depth[end], depth[start] + 1)
    places = [_layered(number, depth) for number in range(len(nodes))]
    figure, axis = plt.subplots(figsize=(7.2, 3.4), layout="constrained")
    names, boxes = {id(a): "（a）", id(b): "（b）"}, []
    for node, place, adjoint in zip(nodes, places, adjoints, strict=True):
        leaf = names.get(id(getattr(node, "variable", None)), "")
        text = f"{node.name().rpartition('::')[2]}{leaf}\n伴随 {adjoint:g}"
        box = {"boxstyle": "round", "edgecolor": "C0", "facecolor": "none"}
        boxes.append(axis.text(*place, text, ha="center", va="center", bbox=box).get_bbox_patch())
    for (start, end), share in zip(edges, shares, strict=True):
        arrow = {"arrowstyle": "->", "color": "C1", "shrinkA": 0, "shrinkB": 2}
        arrow |= {"patchA": boxes[start], "patchB": boxes[end]}
        axis.annotate("", places[end], places[start], arrowprops=arrow)
        middle = [0.5 * (p + q) for p, q in zip(places[start], places[end], strict=True)]
        side = "left" if places[end][1] > places[start][1] else "right"  # 不压住斜线
        axis.text(middle[0], middle[1] + 0.03, f"{share:g}", color="C1", ha=side, va="bottom")
    axis.set(xlim=(-0.55, 3.5), ylim=(-1.3, 1.3))
    axis.axis("off")
    return figure


def _layered(number: int, depth: list[int]) -> tuple[float, float]:
    """结点的位置：离输出越远越靠左，同一层的上下排开，只有一个的层上下交错。"""
    layer = [i for i, d in enumerate(depth) if d == depth[number]]
    height = 0.55 * (depth[number] % 2 - 0.5) * (depth[number] > 0) if len(layer) == 1 else 0.0
    spread = 1.0 - 2.0 * layer.index(number) / max(1, len(layer) - 1) if len(layer) > 1 else 0.0
    return 1.08 * (max(depth) - depth[number]), 2.2 * height + 0.9 * spread


def visits() -> Figure:
    """连加自己 k 次：收到一份就往下传的访问次数，与按拓扑序的结点个数。"""
    counts = range(21)
    eager = eager_visits([[], *([k, k] for k in counts)])
    value, ordered = Variable(torch.tensor(1.0), requires_grad=True), []
    for _ in counts:
        ordered.append(len(topological_order(value)))
        value = value + value
    figure, axis = plt.subplots(figsize=(7.2, 3.0), layout="constrained")
    axis.semilogy(counts, eager[: len(counts)], "o-", color="C1", label="收到一份就往下传")
    axis.semilogy(counts, ordered, "s-", color="C0", label="按拓扑序")
    axis.set(xlabel="连加自己的次数 k", ylabel="访问结点的次数", xticks=range(0, 21, 5))
    axis.legend()
    return figure
