"""《为 MNIST 建模 p(X, Y)》系列的插图：一个函数一幅图，返回 matplotlib 的 Figure。

颜色取自 rcParams 的 prop_cycle，由 formulary_site 按浅色与深色两种主题各画一遍，
所以函数里不写死前景色与背景色。数据是 scikit-learn 自带的 digits（8×8），以 8 为阈值二值化。
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from formulary.mnist_joint.calibration import reliability_table, tempered_posterior
from formulary.mnist_joint.chow_liu import maximum_spanning_tree
from formulary.mnist_joint.class_conditional import class_tree_log_joint, fit_class_trees
from formulary.mnist_joint.criteria import smoothing_sweep
from formulary.mnist_joint.logistic import naive_bayes_to_linear
from formulary.mnist_joint.missing import impute_probabilities, posterior_given_observed
from formulary.mnist_joint.mutual_information import mutual_information
from formulary.mnist_joint.naive_bayes import fit_counts, naive_bayes_log_joint
from formulary.mnist_joint.sizes import network_parameter_count


def pixel_maps() -> Figure:
    """各类的像素概率 θ、线性权重 w 与 w 减去各类平均，排成 8×8 的小图。"""
    digits = load_digits()
    train = np.random.RandomState(0).permutation(1797)[:1200]
    x = torch.tensor((digits.data[train] >= 8).astype(float))
    theta, prior = fit_counts(x, torch.tensor(digits.target[train]), 10)
    weight, _ = naive_bayes_to_linear(theta, prior)
    figure, axes = plt.subplots(3, 10, figsize=(7.2, 2.7), layout="constrained")
    diverging = {"vmin": -5.0, "vmax": 5.0, "cmap": "RdBu_r"}
    rows = (
        (theta, {"vmin": 0.0, "vmax": 1.0}, "θ（概率）"),
        (weight, diverging, "w（nat）"),
        (weight - weight.mean(0), diverging, "减去平均"),
    )
    for panels, (values, look, label) in zip(axes, rows, strict=True):
        for k, panel in enumerate(panels):
            image = panel.imshow(values[k].view(8, 8), interpolation="none", **look)
            panel.set(xticks=[], yticks=[])
            panel.grid(False)
            panel.spines[:].set_visible(False)
        figure.colorbar(image, ax=panels, label=label, aspect=8, pad=0.01)
    for k, panel in enumerate(axes[0]):
        panel.set_title(f"{k}")
    return figure


def structures() -> Figure:
    """四种贝叶斯网，画出前四个像素；标题里是 784 个像素、10 类时的参数个数。"""
    cardinalities, y = [2] * 784 + [10], 784
    cases = (
        ("各自独立", [[]] * 785),
        ("朴素贝叶斯", [[y]] * 784 + [[]]),
        ("朴素贝叶斯加一条链", [[y], *([y, i] for i in range(783)), []]),
        ("全连接", [[y, *range(i)] for i in range(784)] + [[]]),
    )
    places = {y: (1.5, 1.9)} | {i: (float(i), 0.0) for i in range(4)}
    figure, axes = plt.subplots(1, 4, figsize=(7.2, 2.3), layout="constrained")
    for panel, (name, parents) in zip(axes, cases, strict=True):
        count = network_parameter_count(cardinalities, parents)
        size = f"{count}" if count < 10**6 else "10·2$^{784}$ - 1"
        panel.set(title=f"{name}\n{size} 个参数", xlim=(-0.5, 3.5), ylim=(-1.3, 2.3))
        panel.axis("off")
        for v in range(4):
            for u in parents[v]:
                bend = 0.0 if u == y or v - u == 1 else 0.35 + 0.1 * (v - u)
                arrow = {
                    "arrowstyle": "-|>",
                    "color": "C1" if u == y else "C0",
                    "shrinkA": 9,
                    "shrinkB": 9,
                    "connectionstyle": f"arc3,rad={bend}",
                }
                panel.annotate("", places[v], places[u], arrowprops=arrow)
        for v, (across, up) in places.items():
            edge = "C1" if v == y else "C0"
            panel.scatter(across, up, s=280, facecolors="none", edgecolors=edge, linewidths=1.4)
            label = "$y$" if v == y else f"$x_{v + 1}$"
            panel.text(across, up, label, ha="center", va="center")
    return figure


def _digit_splits() -> list[tuple[Tensor, Tensor]]:
    """训练 1200、验证 300、测试 297 三份，各是图像与标签。"""
    digits = load_digits()
    order = torch.from_numpy(np.random.RandomState(0).permutation(1797))
    x, y = torch.tensor(digits.data >= 8).double(), torch.tensor(digits.target)
    return [(x[part], y[part]) for part in order.split([1200, 300, 297])]


def _accuracy(scores: Tensor, y: Tensor) -> float:
    """取分数最大的一类作预测的准确率。"""
    return (scores.argmax(dim=-1) == y).double().mean().item()


def missing_pixels() -> Figure:
    """左：缺失比例与准确率，求和消去对填零；右：缺去七成五的图与补全。"""
    (x, y), _, (x_test, y_test) = _digit_splits()
    model = fit_counts(x, y, 10)
    linear = LogisticRegression(max_iter=2000).fit(x, y)
    fractions, repeats = torch.linspace(0, 0.95, 20), 2
    curves = torch.zeros(3, len(fractions))
    for column, fraction in enumerate(fractions):
        for seed in range(repeats):
            draws = torch.rand(x_test.shape, generator=torch.Generator().manual_seed(seed))
            observed = draws >= fraction
            filled = x_test * observed
            scores = (
                posterior_given_observed(x_test, observed, *model),
                naive_bayes_log_joint(filled, *model),
                torch.tensor(linear.decision_function(filled)),
            )
            for row, score in enumerate(scores):
                curves[row, column] += _accuracy(score, y_test) / repeats
    figure = plt.figure(figsize=(7.2, 3.3), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.5, 1))
    axis = left.subplots()
    names = ("朴素贝叶斯，求和消去", "朴素贝叶斯，填零", "逻辑斯谛回归，填零")
    for i, (curve, name) in enumerate(zip(curves, names, strict=True)):
        axis.plot(fractions, curve, color=f"C{i}", ls=("-", "--", ":")[i], label=name)
    axis.axhline(0.1, color="C6", lw=0.9)
    axis.set(xlabel="缺失的比例", ylabel="准确率", ylim=(0, 1))
    axis.legend(loc="lower left", bbox_to_anchor=(0.0, 0.12))
    images = x_test[[0, 2, 5, 7]]
    observed = torch.rand(images.shape, generator=torch.Generator().manual_seed(2)) >= 0.75
    completed = impute_probabilities(images, observed, *model)
    seen = torch.where(observed, images, torch.nan)
    panels = right.subplots(4, 3)
    for row, pictures in zip(panels, zip(images, seen, completed, strict=True), strict=True):
        for panel, picture in zip(row, pictures, strict=True):
            panel.imshow(picture.view(8, 8).numpy(), vmin=0.0, vmax=1.0, interpolation="none")
            panel.set(xticks=[], yticks=[])
            panel.grid(False)
    for panel, title in zip(panels[0], ("原图", "看到的", "补全"), strict=True):
        panel.set_title(title)
    return figure


def learning_curves() -> Figure:
    """样本量与准确率：两种平滑的朴素贝叶斯、类条件树、两种正则的逻辑斯谛回归。"""
    (x, y), _, (x_test, y_test) = _digit_splits()
    sizes, repeats = (20, 50, 100, 200, 400, 800), 3
    names = (
        "朴素贝叶斯，α = 1",
        "朴素贝叶斯，α = 0.1",
        "逻辑斯谛回归，C = 1",
        "逻辑斯谛回归，几乎不正则",
        "每类一棵树，α = 0.5",
    )
    curves = torch.full((len(names), len(sizes), repeats), torch.nan)
    for column, size in enumerate(sizes):
        for seed in range(repeats):
            few = torch.from_numpy(np.random.RandomState(seed).permutation(1200)[:size])
            images, labels = x[few], y[few]
            for row, smoothing in enumerate((1.0, 0.1)):
                model = fit_counts(images, labels, 10, smoothing)
                score = naive_bayes_log_joint(x_test, *model)
                curves[row, column, seed] = _accuracy(score, y_test)
            for row, strength in enumerate((1.0, 1e6)):
                linear = LogisticRegression(C=strength, tol=1e-3, max_iter=500).fit(images, labels)
                curves[2 + row, column, seed] = linear.score(x_test, y_test)
            if size >= 100:  # 再少就有类别没有样本
                trees = fit_class_trees(images, labels, 10, 0.5)
                curves[4, column, seed] = _accuracy(class_tree_log_joint(x_test, *trees), y_test)
    figure, axis = plt.subplots(figsize=(7.2, 3.8), layout="constrained")
    for i, (curve, name) in enumerate(zip(curves.mean(dim=-1), names, strict=True)):
        style = {"marker": "osv^D"[i], "markersize": 4, "ls": ("-", "-", "--", "--", "-.")[i]}
        axis.semilogx(sizes, curve, color=f"C{i}", label=name, **style)
    axis.set(xlabel="训练样本数", ylabel="测试准确率", xticks=sizes, ylim=(0.45, 1.0))
    axis.set_xticklabels([str(size) for size in sizes])
    axis.minorticks_off()
    axis.legend(loc="lower right")
    return figure


def calibration() -> Figure:
    """左：朴素贝叶斯的可靠性图，温度缩放前后；右：平滑量与两种 NLL。"""
    train, _, (x_test, y_test) = _digit_splits()
    log_joint = naive_bayes_log_joint(x_test, *fit_counts(*train, 10))
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.6), layout="constrained")
    left.plot([0, 1], [0, 1], color="C6", lw=0.9)
    for i, temperature in enumerate((1.0, 2.35)):
        confidence, predicted = tempered_posterior(log_joint, temperature).max(dim=-1)
        table = reliability_table(confidence, predicted == y_test)
        counts, accuracy, mean = (column[table[0] > 0] for column in table)
        name = f"T = {temperature:g}" if i else "原样"
        left.plot(mean, accuracy, color=f"C{i}", ls=("-", "--")[i])
        left.scatter(mean, accuracy, s=12 + counts, color=f"C{i}", alpha=0.7, label=name)
    left.set(xlabel="平均把握", ylabel="准确率", xlim=(0.2, 1.05), ylim=(0.2, 1.05))
    left.legend(loc="upper left")
    smoothings = [10 ** (step / 4) for step in range(-12, 9)]
    sweep = smoothing_sweep(train, (x_test, y_test), 10, smoothings)
    twin = right.twinx()
    for i, (axis, name) in enumerate(((right, "联合 NLL（nat）"), (twin, "条件 NLL（nat）"))):
        axis.semilogx(smoothings, sweep[:, i], color=f"C{i}", ls=("-", "--")[i])
        best = int(sweep[:, i].argmin())
        axis.plot(smoothings[best], sweep[best, i], "o", color=f"C{i}")
        axis.set_ylabel(name, color=f"C{i}")
    right.set(xlabel="平滑量 α", ylim=(20.0, 26.0))
    twin.set_ylim(0.3, 0.62)
    twin.grid(False)
    return figure


def chow_liu_trees() -> Figure:
    """画在 8×8 网格上的 Chow–Liu 树，略去互信息不到 0.02 nat 的边。"""
    (x, y), _, _ = _digit_splits()
    figure, axes = plt.subplots(1, 3, figsize=(7.2, 2.75), layout="constrained")
    cases = (("全部训练图", x), ("只用数字 0", x[y == 0]), ("只用数字 1", x[y == 1]))
    for panel, (title, images) in zip(axes, cases, strict=True):
        information = mutual_information(images, smoothing=0.5)
        panel.imshow(
            images.mean(0).view(8, 8).numpy(), cmap="Greys", alpha=0.45, interpolation="none"
        )
        for node, parent in enumerate(maximum_spanning_tree(information).tolist()):
            strength = information[node, parent].item()
            if parent >= 0 and strength > 0.02:  # 余下的边几乎不带信息
                columns, rows = (node % 8, parent % 8), (node // 8, parent // 8)
                panel.plot(columns, rows, color="C1", lw=0.6 + 8 * strength)
        panel.plot(*np.meshgrid(range(8), range(8)), "o", color="C0", markersize=2.5)
        panel.set(title=title, xticks=[], yticks=[])
        panel.grid(False)
    return figure
