"""朴素贝叶斯的计数、拟合与联合概率的检验。"""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.naive_bayes import BernoulliNB
from torch import Tensor

from formulary.mnist_joint.naive_bayes import (
    count_pixels,
    fit_counts,
    naive_bayes_joint,
    naive_bayes_log_joint,
    naive_bayes_log_joint_fast,
    require_naive_bayes,
)

# 手算一例：三个像素，两类，六张图
PICTURES = torch.tensor(
    [[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1], [0, 1, 1]], dtype=torch.float64
)
LABELS = torch.tensor([0, 0, 0, 0, 1, 1])


def _data(samples: int = 40, pixels: int = 5, classes: int = 3) -> tuple[Tensor, Tensor]:
    """随机的二值图像与标签，每类至少一张，各类亮度不同。"""
    generator = torch.Generator().manual_seed(2)
    y = torch.randint(0, classes, (samples,), generator=generator)
    y[:classes] = torch.arange(classes)
    chance = 0.2 + 0.5 * y / classes
    x = torch.rand(samples, pixels, generator=generator, dtype=torch.float64) < chance[:, None]
    return x.double(), y


def _model(pixels: int = 5, classes: int = 3) -> tuple[Tensor, Tensor]:
    """随机的参数，两边不对称。"""
    generator = torch.Generator().manual_seed(3)
    theta = torch.rand(classes, pixels, generator=generator, dtype=torch.float64)
    prior = torch.rand(classes, generator=generator, dtype=torch.float64) + 0.1
    return theta, prior / prior.sum()


def _all_pictures(pixels: int) -> Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=pixels)), dtype=torch.float64)


def _log_joint_by_loops(x: Tensor, theta: Tensor, prior: Tensor) -> Tensor:
    """逐图、逐类、逐像素相加；不可能的像素给 -inf。"""
    rows = []
    for picture in x.tolist():
        row = []
        for chances, weight in zip(theta.tolist(), prior.tolist(), strict=True):
            total = math.log(weight) if weight else -math.inf
            for pixel, chance in zip(picture, chances, strict=True):
                factor = chance if pixel else 1 - chance
                total += math.log(factor) if factor else -math.inf
            row.append(total)
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def _digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """scikit-learn 的 digits，以 8 为阈值二值化：训练 1200 张，测试 297 张。"""
    digits = load_digits()
    order = np.random.RandomState(0).permutation(1797)
    x = torch.tensor((digits.data >= 8).astype(float))
    y = torch.tensor(digits.target)
    return x[order[:1200]], y[order[:1200]], x[order[1500:]], y[order[1500:]]


def test_count_pixels__matches_python_loop() -> None:
    """等于逐张、逐像素地数。"""
    x, y = _data()
    on = [[0.0] * 5 for _ in range(3)]
    total = [0.0] * 3
    for picture, label in zip(x.tolist(), y.tolist(), strict=True):
        total[label] += 1
        for i, pixel in enumerate(picture):
            on[label][i] += pixel
    actual_on, actual_total = count_pixels(x, y, 3)
    assert actual_on.tolist() == on
    assert actual_total.tolist() == total


def test_count_pixels__equals_worked_example() -> None:
    """三个像素、六张图的计数与正文的手算一致。"""
    on, total = count_pixels(PICTURES, LABELS, 2)
    assert on.tolist() == [[3, 3, 1], [0, 1, 2]]
    assert total.tolist() == [4, 2]


def test_count_pixels__is_zero_for_absent_class() -> None:
    """训练集里没有的类，两种计数都是 0；标签用 int32 也行。"""
    on, total = count_pixels(PICTURES.float(), LABELS.int(), 4)
    assert total.tolist() == [4, 2, 0, 0]
    assert on[2:].tolist() == [[0, 0, 0], [0, 0, 0]]
    assert on.dtype == total.dtype == torch.float32


def test_count_pixels__rejects_bad_input() -> None:
    """x 不是二值、y 越界或个数不符、类别数为零时报错并指出参数名。"""
    cases: list[tuple[object, object, object, str]] = [
        (PICTURES * 0.5, LABELS, 2, "x 的元素只能是 0 或 1"),
        (PICTURES.long(), LABELS, 2, "x 必须是实浮点张量"),
        (PICTURES[0], LABELS, 2, "x 的形状"),
        (PICTURES[:0], LABELS[:0], 2, "x 的行数 N 必须"),
        (PICTURES, LABELS.double(), 2, "y 必须是整数张量"),
        (PICTURES, LABELS[:5], 2, "y 的形状"),
        (PICTURES, LABELS + 1, 2, "y 的元素必须在"),
        (PICTURES, LABELS, 0, "classes 必须"),
    ]
    for x, y, classes, message in cases:
        with pytest.raises(ValueError, match=message):
            count_pixels(x, y, classes)  # type: ignore[arg-type]


def test_fit_counts__matches_sklearn() -> None:
    """与 scikit-learn 的 BernoulliNB 在同样的平滑量下参数相同。"""
    x, y = _data()
    for smoothing in (0.3, 1.0, 4.0):
        sk = BernoulliNB(alpha=smoothing, binarize=None).fit(x.numpy(), y.numpy())
        theta, prior = fit_counts(x, y, 3, smoothing)
        torch.testing.assert_close(theta, torch.tensor(np.exp(sk.feature_log_prob_)))
        torch.testing.assert_close(prior, torch.tensor(np.exp(sk.class_log_prior_)))
    sk = BernoulliNB(binarize=None).fit(x.numpy(), y.numpy())  # 默认的平滑量两边都是 1
    torch.testing.assert_close(fit_counts(x, y, 3)[0], torch.tensor(np.exp(sk.feature_log_prob_)))


def test_fit_counts__matches_autograd_optimum() -> None:
    """平滑量为 0 时，对数似然对 theta 与 prior 的对数几率的自动求导梯度为零。"""
    x, y = _data()
    theta, prior = fit_counts(x, y, 3, smoothing=0.0)
    pixel_logits = torch.logit(theta).requires_grad_()
    class_logits = prior.log().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for picture, label in zip(x, y.tolist(), strict=True):
        chance = torch.sigmoid(pixel_logits[label])
        total = total + torch.log_softmax(class_logits, 0)[label]
        total = total + torch.where(picture == 1, chance, 1 - chance).log().sum()
    gradients = torch.autograd.grad(total, (pixel_logits, class_logits))
    for gradient in gradients:
        # 几十项的和为零，只剩舍入误差
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-11)


def test_fit_counts__equals_worked_example() -> None:
    """三个像素的例子：最大似然与加一平滑的 theta 都与手算一致，先验不平滑。"""
    theta, prior = fit_counts(PICTURES, LABELS, 2, smoothing=0.0)
    expected = torch.tensor([[3 / 4, 3 / 4, 1 / 4], [0, 1 / 2, 1]], dtype=torch.float64)
    torch.testing.assert_close(theta, expected)
    torch.testing.assert_close(prior, torch.tensor([2 / 3, 1 / 3], dtype=torch.float64))
    theta, prior = fit_counts(PICTURES, LABELS, 2)
    expected = torch.tensor([[2 / 3, 2 / 3, 1 / 3], [1 / 4, 2 / 4, 3 / 4]], dtype=torch.float64)
    torch.testing.assert_close(theta, expected)
    torch.testing.assert_close(prior, torch.tensor([2 / 3, 1 / 3], dtype=torch.float64))


def test_fit_counts__limit_large_smoothing() -> None:
    """平滑量趋于无穷时 theta 趋于二分之一；平滑后的 theta 总在频率与二分之一之间。"""
    x, y = _data()
    theta, _ = fit_counts(x, y, 3, smoothing=1e12)
    torch.testing.assert_close(theta, torch.full_like(theta, 0.5))
    raw, _ = fit_counts(x, y, 3, smoothing=0.0)
    smoothed, _ = fit_counts(x, y, 3, smoothing=2.0)
    assert ((smoothed - 0.5).abs() <= (raw - 0.5).abs()).all()
    assert ((smoothed - 0.5) * (raw - 0.5) >= 0).all()


def test_fit_counts__differs_from_one_alpha_in_denominator() -> None:
    """分母只加一个 α 时，亮与灭的估计之和超过 1。"""
    x, y = _data()
    on, total = count_pixels(x, y, 3)
    wrong_on = (on + 1) / (total + 1)[:, None]
    wrong_off = (total[:, None] - on + 1) / (total + 1)[:, None]
    assert (wrong_on + wrong_off > 1).all()
    theta, _ = fit_counts(x, y, 3)
    off, _ = fit_counts(1 - x, y, 3)
    torch.testing.assert_close(theta + off, torch.ones_like(theta))
    assert (theta - wrong_on).abs().max() > 0.01


def test_fit_counts__differs_from_smoothed_prior() -> None:
    """把先验也平滑了，就与 scikit-learn 的 BernoulliNB 不同。"""
    _, prior = fit_counts(PICTURES, LABELS, 2)
    sk = BernoulliNB(binarize=None).fit(PICTURES.numpy(), LABELS.numpy())
    torch.testing.assert_close(prior, torch.tensor(np.exp(sk.class_log_prior_)))
    _, total = count_pixels(PICTURES, LABELS, 2)
    wrong = (total + 1) / (total.sum() + 2)
    assert (prior - wrong).abs().min() > 0.04


def test_fit_counts__rejects_bad_smoothing() -> None:
    """平滑量为负、无穷，或为零而某类没有样本时报错。"""
    for smoothing in (-0.5, math.inf, math.nan):
        with pytest.raises(ValueError, match="smoothing 必须是有限的非负数"):
            fit_counts(PICTURES, LABELS, 2, smoothing)
    with pytest.raises(ValueError, match="没有第 2 类"):
        fit_counts(PICTURES, LABELS, 3, smoothing=0.0)


def test_naive_bayes_joint__matches_enumeration() -> None:
    """全部 2⁵ 张图与 3 个类别上，逐像素连乘得到的值相同，总和为 1。"""
    theta, prior = _model()
    x = _all_pictures(5)
    expected = []
    for picture in x.tolist():
        row = []
        for k in range(3):
            value = prior[k].item()
            for i, pixel in enumerate(picture):
                chance = theta[k, i].item()
                value *= chance**pixel * (1 - chance) ** (1 - pixel)
            row.append(value)
        expected.append(row)
    actual = naive_bayes_joint(x, theta, prior)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(actual.sum(), torch.tensor(1.0, dtype=torch.float64))


def test_naive_bayes_joint__equals_worked_example() -> None:
    """加一平滑后，图 (1, 0, 1) 与两类的联合概率是 4/81 与 1/32。"""
    theta, prior = fit_counts(PICTURES, LABELS, 2)
    actual = naive_bayes_joint(torch.tensor([[1.0, 0, 1]], dtype=torch.float64), theta, prior)
    torch.testing.assert_close(actual, torch.tensor([[4 / 81, 1 / 32]], dtype=torch.float64))


def test_naive_bayes_joint__differs_from_log_joint_in_float32() -> None:
    """784 个像素在 float32 里连乘，结果全是 0；取对数再相加则照常分出大小。"""
    generator = torch.Generator().manual_seed(4)
    theta = 0.2 + 0.6 * torch.rand(3, 784, generator=generator)
    prior = torch.tensor([0.2, 0.3, 0.5])
    x = torch.bernoulli(theta, generator=generator)
    assert (naive_bayes_joint(x, theta, prior) == 0).all()
    scores = naive_bayes_log_joint(x, theta, prior)
    assert scores.isfinite().all()
    assert scores.argmax(dim=1).tolist() == [0, 1, 2]


def test_naive_bayes_joint__rejects_bad_prior() -> None:
    """先验的和不是 1 时报错。"""
    with pytest.raises(ValueError, match="prior 沿第 -1 轴的和必须是 1"):
        naive_bayes_joint(torch.ones(1, 2), torch.full((2, 2), 0.5), torch.tensor([0.5, 0.6]))


def test_naive_bayes_log_joint__matches_python_loop() -> None:
    """与逐图、逐类、逐像素的循环相同，参数含 0 与 1、先验含 0 时也如此。"""
    theta, prior = _model()
    x = _all_pictures(5)
    torch.testing.assert_close(
        naive_bayes_log_joint(x, theta, prior), _log_joint_by_loops(x, theta, prior)
    )
    theta[0, 1], theta[2, 3] = 0.0, 1.0
    prior = torch.tensor([0.4, 0.6, 0.0], dtype=torch.float64)
    actual = naive_bayes_log_joint(x, theta, prior)
    assert actual.isneginf().any()
    assert not actual.isnan().any()
    torch.testing.assert_close(actual, _log_joint_by_loops(x, theta, prior))


def test_naive_bayes_log_joint__matches_sklearn() -> None:
    """与 scikit-learn 的 BernoulliNB.predict_joint_log_proba 相同。"""
    x, y = _data()
    sk = BernoulliNB(alpha=0.7, binarize=None).fit(x.numpy(), y.numpy())
    queries = _all_pictures(5)
    actual = naive_bayes_log_joint(queries, *fit_counts(x, y, 3, smoothing=0.7))
    expected = torch.tensor(sk.predict_joint_log_proba(queries.numpy()))
    torch.testing.assert_close(actual, expected)


def test_naive_bayes_log_joint__equals_worked_example() -> None:
    """图 (1, 0, 1)：最大似然下是 log(1/32) 与 -inf，加一平滑后是 log(4/81) 与 log(1/32)。"""
    x = torch.tensor([[1.0, 0, 1]], dtype=torch.float64)
    raw = naive_bayes_log_joint(x, *fit_counts(PICTURES, LABELS, 2, smoothing=0.0))
    expected = torch.tensor([[math.log(1 / 32), -math.inf]], dtype=torch.float64)
    torch.testing.assert_close(raw, expected)
    smoothed = naive_bayes_log_joint(x, *fit_counts(PICTURES, LABELS, 2))
    expected = torch.tensor([[math.log(4 / 81), math.log(1 / 32)]], dtype=torch.float64)
    torch.testing.assert_close(smoothed, expected)


def test_naive_bayes_log_joint__depends_only_on_counts_of_pixels_when_exchangeable() -> None:
    """各像素的 theta 相同时，打乱像素不改变结果。"""
    _, prior = _model()
    theta = torch.tensor([[0.2], [0.5], [0.9]], dtype=torch.float64).expand(3, 5)
    x = _all_pictures(5)
    actual = naive_bayes_log_joint(x, theta, prior)
    shuffled = naive_bayes_log_joint(x[:, [3, 0, 4, 1, 2]], theta, prior)
    torch.testing.assert_close(actual, shuffled)


def test_naive_bayes_log_joint__differs_from_matrix_form_with_zero_counts() -> None:
    """有零计数时，照搬两次矩阵乘法得到 NaN，因为 0·(-inf) 不是 0。"""
    theta, prior = fit_counts(PICTURES, LABELS, 2, smoothing=0.0)
    x = torch.tensor([[1.0, 0, 1]], dtype=torch.float64)
    wrong = prior.log() + x @ theta.log().T + (1 - x) @ (1 - theta).log().T
    assert wrong[0, 1].isnan()
    assert naive_bayes_log_joint(x, theta, prior)[0, 1] == -math.inf


def test_naive_bayes_log_joint__differs_from_sklearn_without_smoothing() -> None:
    """scikit-learn 1.9 的 BernoulliNB(alpha=0) 正是这样得到 NaN，还把不可能的第 1 类当成预测。"""
    x = torch.tensor([[1.0, 0, 1]], dtype=torch.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        sk = BernoulliNB(alpha=0, binarize=None).fit(PICTURES.numpy(), LABELS.numpy())
        scores = sk.predict_joint_log_proba(x.numpy())
        prediction = sk.predict(x.numpy())
    assert math.isclose(scores[0, 0], math.log(1 / 32))
    assert math.isnan(scores[0, 1])
    assert prediction.tolist() == [1]
    right = naive_bayes_log_joint(x, *fit_counts(PICTURES, LABELS, 2, smoothing=0.0))
    assert right.argmax(dim=1).tolist() == [0]


def test_naive_bayes_log_joint__differs_from_default_binarization() -> None:
    """BernoulliNB 默认再以 0 为阈值二值化：直接喂灰度，训练的、测试的都是另一套二值图像。"""
    digits = load_digits()
    order = np.random.RandomState(0).permutation(1797)
    train, test = order[:1200], order[1500:]
    labels = torch.tensor(digits.target)
    low, high = (torch.tensor((digits.data >= t).astype(float)) for t in (1, 8))
    # 训练与测试都喂 0 到 16 的灰度，等于阈值取 1
    raw = BernoulliNB().fit(digits.data[train], digits.target[train])
    from_raw = torch.tensor(raw.predict_joint_log_proba(digits.data[test]))
    low_model = fit_counts(low[train], labels[train], 10)
    torch.testing.assert_close(from_raw, naive_bayes_log_joint(low[test], *low_model))
    # 训练喂二值图像，测试喂灰度
    binary = BernoulliNB().fit(high[train].numpy(), digits.target[train])
    mixed = torch.tensor(binary.predict_joint_log_proba(digits.data[test]))
    high_model = fit_counts(high[train], labels[train], 10)
    torch.testing.assert_close(mixed, naive_bayes_log_joint(low[test], *high_model))
    right = naive_bayes_log_joint(high[test], *high_model)
    y = labels[test]
    correct = [int((scores.argmax(dim=1) == y).sum()) for scores in (right, from_raw, mixed)]
    assert correct == [268, 264, 250]
    nll = [-scores[torch.arange(297), y].mean().item() for scores in (right, from_raw, mixed)]
    assert [round(value, 1) for value in nll] == [20.5, 19.2, 33.2]


def test_naive_bayes_log_joint__equals_digits_results() -> None:
    """digits 测试集：各平滑量下答对的张数与联合 NLL 如正文的表。"""
    x, y, queries, answers = _digits()
    rows = torch.arange(len(answers))
    expected = {
        0.0: (263, math.inf),
        0.01: (265, 20.422),
        0.1: (266, 20.383),
        0.5: (267, 20.417),
        1.0: (268, 20.496),
        2.0: (266, 20.684),
        5.0: (267, 21.320),
        10.0: (267, 22.420),
    }
    for smoothing, (correct, nll) in expected.items():
        scores = naive_bayes_log_joint(queries, *fit_counts(x, y, 10, smoothing))
        assert int((scores.argmax(dim=1) == answers).sum()) == correct
        assert round(-scores[rows, answers].mean().item(), 3) == nll
    theta, prior = fit_counts(x, y, 10, smoothing=0.0)
    assert (int((theta == 0).sum()), int((theta == 1).sum())) == (205, 2)
    scores = naive_bayes_log_joint(queries, theta, prior)
    assert int(scores[rows, answers].isneginf().sum()) == 7


def test_naive_bayes_log_joint__rejects_bad_input() -> None:
    """x 不是二值、theta 不是概率、形状不配时报错并指出参数名。"""
    theta, prior = _model()
    x = _all_pictures(5)
    cases: list[tuple[object, object, object, str]] = [
        (x * 16, theta, prior, "x 的元素只能是 0 或 1"),
        (x[:, :4], theta, prior, "x 的形状"),
        (x, theta * 2, prior, "theta 的元素必须在"),
        (x, theta[0], prior, "theta 的形状"),
        (x, theta, prior[:2], "prior 的形状"),
        (x, theta, prior * 2, "prior"),
    ]
    for bad_x, bad_theta, bad_prior, message in cases:
        with pytest.raises(ValueError, match=message):
            naive_bayes_log_joint(bad_x, bad_theta, bad_prior)  # type: ignore[arg-type]


def test_naive_bayes_log_joint_fast__matches_readable() -> None:
    """与逐项相加的写法相同，先验含 0 时也如此。"""
    theta, prior = _model()
    x = _all_pictures(5)
    torch.testing.assert_close(
        naive_bayes_log_joint_fast(x, theta, prior), naive_bayes_log_joint(x, theta, prior)
    )
    prior = torch.tensor([0.4, 0.6, 0.0], dtype=torch.float64)
    torch.testing.assert_close(
        naive_bayes_log_joint_fast(x, theta, prior), naive_bayes_log_joint(x, theta, prior)
    )


def test_naive_bayes_log_joint_fast__matches_python_loop() -> None:
    """与逐图、逐类、逐像素的循环相同。"""
    theta, prior = _model()
    x = _all_pictures(5)
    torch.testing.assert_close(
        naive_bayes_log_joint_fast(x, theta, prior), _log_joint_by_loops(x, theta, prior)
    )


def test_naive_bayes_log_joint_fast__equals_worked_example() -> None:
    """加一平滑后，图 (1, 1, 0) 的联合概率是 16/81 与 1/96。"""
    x = torch.tensor([[1.0, 1, 0]], dtype=torch.float64)
    actual = naive_bayes_log_joint_fast(x, *fit_counts(PICTURES, LABELS, 2))
    expected = torch.tensor([[math.log(16 / 81), math.log(1 / 96)]], dtype=torch.float64)
    torch.testing.assert_close(actual, expected)


def test_naive_bayes_log_joint_fast__rejects_certain_pixels() -> None:
    """theta 含 0 或 1 时报错，不给出 NaN。"""
    x, prior = torch.ones(1, 2), torch.tensor([0.5, 0.5])
    for certain in (0.0, 1.0):
        theta = torch.tensor([[0.5, certain], [0.5, 0.5]])
        with pytest.raises(ValueError, match="theta 必须严格在 0 与 1 之间"):
            naive_bayes_log_joint_fast(x, theta, prior)


def test_require_naive_bayes__rejects_nan() -> None:
    """theta 含 NaN 时报错；合格的参数不报错。"""
    theta, prior = _model()
    require_naive_bayes(_all_pictures(5), theta, prior)
    theta[1, 2] = math.nan
    with pytest.raises(ValueError, match="theta 的元素必须在"):
        require_naive_bayes(_all_pictures(5), theta, prior)
