"""类条件树与两种标签次序的 FVSBN 的检验。"""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from formulary.mnist_joint.class_conditional import (
    ClassConditionalFVSBN,
    LabelLastFVSBN,
    class_tree_log_joint,
    fit_class_trees,
    label_posteriors,
)
from formulary.mnist_joint.naive_bayes import fit_counts, naive_bayes_log_joint

STATES = torch.tensor(list(itertools.product((0, 1), repeat=5)), dtype=torch.float64)


def _digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    data, labels = load_digits(return_X_y=True)
    split = np.random.RandomState(0).permutation(1797)
    x, y = torch.tensor(data >= 8).double(), torch.tensor(labels)
    return x[split[:1200]], y[split[:1200]], x[split[1500:]], y[split[1500:]]


def _labelled(rows: int = 80, n: int = 5, classes: int = 3) -> tuple[Tensor, Tensor]:
    """每一类里像素的依赖关系各不相同的小数据。"""
    generator = torch.Generator().manual_seed(51)
    y = torch.arange(rows) % classes
    x = (torch.rand(rows, n, generator=generator) < 0.5).double()
    for k in range(classes):
        copy = (y == k) & (torch.rand(rows, generator=generator) < 0.8)
        x[copy, 4 - k] = x[copy, k]
    return x, y


def _randomised(model: torch.nn.Module, seed: int = 8) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def _softmax(values: list[float]) -> list[float]:
    total = sum(map(math.exp, values))
    return [math.exp(v) / total for v in values]


def _chain(state: list[float], weight: Tensor, bias: Tensor) -> float:
    """前面像素的线性函数作对数几率，逐个标量相乘。"""
    value, rows, offsets = 1.0, weight.tolist(), bias.tolist()
    for i, pixel in enumerate(state):
        logit = offsets[i] + sum(rows[i][j] * state[j] for j in range(i))
        value *= _sigmoid(logit) if pixel else 1 - _sigmoid(logit)
    return value


def test_fit_class_trees__matches_each_class_alone() -> None:
    """每一类的树等于只用这一类的样本、穷举三个点的全部三棵树选出来的那棵。"""
    x, y = _labelled()
    x = x[:, :3]
    parents, tables, prior = fit_class_trees(x, y, 3, smoothing=0.7)
    torch.testing.assert_close(prior, torch.bincount(y).double() / len(y))
    for k in range(3):
        rows = [row for row, label in zip(x.tolist(), y.tolist(), strict=True) if label == k]

        def weight(i: int, j: int, rows: list[list[float]] = rows) -> float:
            table = {(a, b): 0.7 for a in (0.0, 1.0) for b in (0.0, 1.0)}
            for row in rows:
                table[row[i], row[j]] += 1
            total = len(rows) + 2.8
            first = {a: table[a, 0.0] + table[a, 1.0] for a in (0.0, 1.0)}
            second = {b: table[0.0, b] + table[1.0, b] for b in (0.0, 1.0)}
            return sum(
                c / total * math.log(c * total / (first[a] * second[b]))
                for (a, b), c in table.items()
            )

        trees = [((0, 1), (1, 2)), ((0, 1), (0, 2)), ((0, 2), (1, 2))]
        best = max(trees, key=lambda tree: sum(weight(i, j) for i, j in tree))
        found = {frozenset((i, p)) for i, p in enumerate(parents[k].tolist()) if p >= 0}
        assert found == set(map(frozenset, best))
        for i, parent in enumerate(parents[k].tolist()):
            for a in (0.0, 1.0):
                share = 1.4 if parent < 0 else 0.7
                peers = [r for r in rows if parent < 0 or r[parent] == a]
                expected = (sum(r[i] for r in peers) + share) / (len(peers) + 2 * share)
                assert math.isclose(tables[k, i, int(a)].item(), expected)


def test_fit_class_trees__is_close_to_nade_on_digits() -> None:
    """digits 上平滑量 0.5：准确率 0.946、联合 NLL 17.29、边缘 NLL 17.14，远好于朴素贝叶斯。"""
    x, y, x_test, y_test = _digits()
    log_joint = class_tree_log_joint(x_test, *fit_class_trees(x, y, 10, 0.5))
    accuracy = (log_joint.argmax(-1) == y_test).double().mean().item()
    joint = -log_joint.gather(1, y_test[:, None]).mean().item()
    marginal = -log_joint.logsumexp(-1).mean().item()
    # 印出的数字；样本与计数都是确定的，容差只留给不同机器上并列互信息的取舍
    assert abs(accuracy - 0.946) < 0.012
    assert abs(joint - 17.290) < 0.06
    assert abs(marginal - 17.138) < 0.06
    naive = naive_bayes_log_joint(x_test, *fit_counts(x, y, 10))
    assert accuracy > (naive.argmax(-1) == y_test).double().mean().item() + 0.02
    assert joint < -naive.gather(1, y_test[:, None]).mean().item() - 2


def test_fit_class_trees__rejects_missing_class() -> None:
    """有的类别一个样本也没有时报错并指出是哪一类。"""
    x, y = _labelled()
    with pytest.raises(ValueError, match="没有第 3 类"):
        fit_class_trees(x, y, 4)


def test_class_tree_log_joint__matches_enumeration() -> None:
    """逐类逐像素查表相乘，与之相同；全部图与标签的概率之和是 1。"""
    x, y = _labelled()
    parents, tables, prior = fit_class_trees(x, y, 3)
    expected = torch.zeros(len(STATES), 3, dtype=torch.float64)
    for row, state in enumerate(STATES.tolist()):
        for k in range(3):
            value = float(prior[k])
            for i, parent in enumerate(parents[k].tolist()):
                on = float(tables[k, i, int(state[parent]) if parent >= 0 else 0])
                value *= on if state[i] else 1 - on
            expected[row, k] = value
    assert math.isclose(expected.sum().item(), 1.0)
    actual = class_tree_log_joint(STATES, parents, tables, prior)
    torch.testing.assert_close(actual.exp(), expected)


def test_class_tree_log_joint__limit_no_edges() -> None:
    """每棵树都没有边时就是朴素贝叶斯。"""
    x, y = _labelled()
    theta, prior = fit_counts(x, y, 3)
    parents = torch.full((3, 5), -1)
    actual = class_tree_log_joint(x, parents, theta[..., None].expand(3, 5, 2), prior)
    torch.testing.assert_close(actual, naive_bayes_log_joint(x, theta, prior))


def test_class_tree_log_joint__rejects_bad_input() -> None:
    """先验不是分布、几个参数的类别数不同都报错。"""
    x, y = _labelled()
    parents, tables, prior = fit_class_trees(x, y, 3)
    for trees, probabilities, weights, message in (
        (parents, tables, prior * 2, "prior"),
        (parents, tables, prior[:2], "prior 的形状"),
        (parents, tables[:2], prior, "tables 的形状"),
    ):
        with pytest.raises(ValueError, match=message):
            class_tree_log_joint(x, trees, probabilities, weights)


def test_ClassConditionalFVSBN__matches_enumeration() -> None:
    """32 张图、3 个标签的联合概率逐个标量算出来，与之相同，而且总和是 1。"""
    model = ClassConditionalFVSBN(5, 3, dtype=torch.float64)
    _randomised(model)
    prior = _softmax(model.prior_logits.tolist())
    expected = [
        [prior[k] * _chain(state, model.weight, model.bias[k]) for k in range(3)]
        for state in STATES.tolist()
    ]
    assert math.isclose(sum(map(sum, expected)), 1.0)
    actual = model.log_joint(STATES).exp()
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_ClassConditionalFVSBN__depends_only_on_earlier_pixels() -> None:
    """第 i 个对数几率对像素的雅可比严格下三角，各类相同。"""
    model = ClassConditionalFVSBN(5, 3, dtype=torch.float64)
    _randomised(model)
    x = torch.randn(1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    jacobian = torch.autograd.functional.jacobian(model.logits, x)[0, :, :, 0]  # (K, n, n)
    assert (jacobian.triu() == 0).all()
    assert (jacobian.tril(-1)[:, 1:, 0] != 0).all()
    assert torch.equal(jacobian[0], jacobian[2])


def test_ClassConditionalFVSBN__limit_no_weights() -> None:
    """权重为零时就是朴素贝叶斯，θ 是偏置的逻辑斯谛函数。"""
    model = ClassConditionalFVSBN(5, 3, dtype=torch.float64)
    _randomised(model)
    model.weight.data.zero_()
    theta, prior = model.bias.sigmoid(), model.prior_logits.softmax(-1)
    torch.testing.assert_close(model.log_joint(STATES), naive_bayes_log_joint(STATES, theta, prior))


def test_ClassConditionalFVSBN__rejects_bad_input() -> None:
    """尺寸不是正整数、x 不是二值、列数不合都报错。"""
    with pytest.raises(ValueError, match="n 必须是"):
        ClassConditionalFVSBN(0, 3)
    with pytest.raises(ValueError, match="classes 必须是"):
        ClassConditionalFVSBN(3, 0)
    model = ClassConditionalFVSBN(5, 3)
    with pytest.raises(ValueError, match="x 的元素"):
        model.log_joint(torch.full((2, 5), 0.5))
    with pytest.raises(ValueError, match="x 的形状"):
        model.log_joint(torch.ones(2, 4))


def test_LabelLastFVSBN__matches_enumeration() -> None:
    """32 张图、3 个标签的联合概率逐个标量算出来，与之相同，而且总和是 1。"""
    model = LabelLastFVSBN(5, 3, dtype=torch.float64)
    _randomised(model)
    expected, rows, offsets = [], model.label_weight.tolist(), model.label_bias.tolist()
    for state in STATES.tolist():
        scores = [offsets[k] + sum(rows[k][i] * state[i] for i in range(5)) for k in range(3)]
        image = _chain(state, model.weight, model.bias)
        expected.append([image * p for p in _softmax(scores)])
    assert math.isclose(sum(map(sum, expected)), 1.0)
    actual = model.log_joint(STATES).exp()
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_LabelLastFVSBN__is_trained_by_two_separate_criteria() -> None:
    """联合 NLL 对标签参数的梯度就是条件 NLL 的梯度；条件 NLL 对像素参数没有梯度。"""
    model = LabelLastFVSBN(5, 3, dtype=torch.float64)
    _randomised(model)
    x, y = _labelled()
    label = [model.label_weight, model.label_bias]
    joint = -model.log_joint(x).gather(1, y[:, None]).sum()
    conditional = torch.nn.functional.cross_entropy(
        x @ model.label_weight.T + model.label_bias, y, reduction="sum"
    )
    for a, b in zip(
        torch.autograd.grad(joint, label), torch.autograd.grad(conditional, label), strict=True
    ):
        torch.testing.assert_close(a, b)
    pixels = -model.label_log_prob(x).gather(1, y[:, None]).sum()
    unused = torch.autograd.grad(pixels, [model.weight, model.bias], allow_unused=True)
    assert unused == (None, None)


def test_LabelLastFVSBN__rejects_bad_input() -> None:
    """尺寸不是正整数、x 不是二值、列数不合都报错。"""
    with pytest.raises(ValueError, match="n 必须是"):
        LabelLastFVSBN(0, 3)
    with pytest.raises(ValueError, match="classes 必须是"):
        LabelLastFVSBN(3, 0)
    model = LabelLastFVSBN(5, 3)
    with pytest.raises(ValueError, match="x 的元素"):
        model.log_joint(torch.full((2, 5), 0.5))
    with pytest.raises(ValueError, match="x 的形状"):
        model.label_log_prob(torch.ones(2, 4))


def test_label_posteriors__matches_bayes_rule() -> None:
    """两个后验都等于逐个标量算出的联合概率按定义相除。"""
    models = (
        ClassConditionalFVSBN(5, 3, dtype=torch.float64),
        LabelLastFVSBN(5, 3, dtype=torch.float64),
    )
    for seed, model in enumerate(models):
        _randomised(model, seed)
    first, last = models
    prior, expected = _softmax(first.prior_logits.tolist()), []
    weights, offsets = last.label_weight.tolist(), last.label_bias.tolist()
    for state in STATES.tolist():
        joint = [prior[k] * _chain(state, first.weight, first.bias[k]) for k in range(3)]
        scores = [offsets[k] + sum(weights[k][i] * state[i] for i in range(5)) for k in range(3)]
        expected.append([[value / sum(joint) for value in joint], _softmax(scores)])
    found = torch.stack(label_posteriors(*models, STATES), dim=1)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_label_posteriors__matches_sklearn() -> None:
    """标签在最后时，后验就是 softmax 回归：装进 scikit-learn 的参数，概率相同。"""
    x, y = _labelled()
    reference = LogisticRegression(C=2.0).fit(x.numpy(), y.numpy())
    last = LabelLastFVSBN(5, 3, dtype=torch.float64)
    last.label_weight.data = torch.tensor(reference.coef_)
    last.label_bias.data = torch.tensor(reference.intercept_)
    first = ClassConditionalFVSBN(5, 3, dtype=torch.float64)
    _, posterior = label_posteriors(first, last, STATES)
    torch.testing.assert_close(posterior, torch.tensor(reference.predict_proba(STATES.numpy())))


def test_label_posteriors__differs_from_each_other() -> None:
    """两种次序共用同样的像素权重，参数化不同，后验也不同：次序一换就是另一个模型。"""
    first = ClassConditionalFVSBN(5, 3, dtype=torch.float64)
    last = LabelLastFVSBN(5, 3, dtype=torch.float64)
    _randomised(first, 1)
    last.weight.data = first.weight.data
    before, after = label_posteriors(first, last, STATES)
    assert (before - after).abs().max() > 0.1


def test_label_posteriors__equals_same_number_of_parameters() -> None:
    """n = 64、K = 10 时两种次序的自由参数都是 2665 个，见正文。"""
    first, last = ClassConditionalFVSBN(64, 10), LabelLastFVSBN(64, 10)
    label_posteriors(first, last, torch.ones(1, 64))
    used = 64 * 63 // 2
    assert used + first.bias.numel() + first.prior_logits.numel() - 1 == 2665
    # softmax 的十行同加一个向量，概率不变：扣去一行
    assert used + last.bias.numel() + 9 * (last.label_weight.shape[1] + 1) == 2665


def test_label_posteriors__rejects_non_binary() -> None:
    """x 不是二值时报错。"""
    with pytest.raises(ValueError, match="x 的元素"):
        label_posteriors(ClassConditionalFVSBN(5, 3), LabelLastFVSBN(5, 3), torch.full((2, 5), 0.5))
