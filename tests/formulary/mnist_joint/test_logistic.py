"""朴素贝叶斯与 softmax 回归互相转换、损失与梯度的检验。"""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import BernoulliNB
from torch import Tensor

from formulary.mnist_joint.inference import class_posterior
from formulary.mnist_joint.logistic import (
    binary_posterior,
    linear_to_naive_bayes,
    log_joint_rearranged,
    naive_bayes_to_linear,
    softmax_nll,
    softmax_nll_gradient,
)
from formulary.mnist_joint.naive_bayes import fit_counts, naive_bayes_log_joint

PICTURES = torch.tensor(
    [[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1], [0, 1, 1]], dtype=torch.float64
)
LABELS = torch.tensor([0, 0, 0, 0, 1, 1])


def _random(*shape: int, seed: int = 19) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _model(classes: int = 3, pixels: int = 5) -> tuple[Tensor, Tensor]:
    return torch.sigmoid(_random(classes, pixels)), torch.softmax(_random(classes, seed=20), 0)


def _all_pictures(pixels: int) -> Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=pixels)), dtype=torch.float64)


def test_naive_bayes_to_linear__matches_sklearn_scores() -> None:
    """线性打分等于 scikit-learn 的 BernoulliNB 的对数联合概率。"""
    generator = torch.Generator().manual_seed(21)
    x = (torch.rand(40, 5, generator=generator, dtype=torch.float64) < 0.4).double()
    y = torch.arange(40) % 3
    sk = BernoulliNB(binarize=None).fit(x.numpy(), y.numpy())
    weight, bias = naive_bayes_to_linear(*fit_counts(x, y, 3))
    queries = _all_pictures(5)
    expected = torch.tensor(sk.predict_joint_log_proba(queries.numpy()))
    torch.testing.assert_close(queries @ weight.T + bias, expected)


def test_naive_bayes_to_linear__matches_finite_differences() -> None:
    """权重等于翻转一个像素引起的对数联合概率之差，偏置等于全黑图的对数联合概率。"""
    theta, prior = _model()
    weight, bias = naive_bayes_to_linear(theta, prior)
    log_prior, log_on, log_off = prior.log(), theta.log(), (1 - theta).log()
    torch.testing.assert_close(bias, log_prior + log_off.sum(1))
    for i in range(5):
        lit = log_prior + log_off.sum(1) - log_off[:, i] + log_on[:, i]
        torch.testing.assert_close(weight[:, i], lit - bias)


def test_naive_bayes_to_linear__equals_worked_example() -> None:
    """手算一例：权重是 ±log 2、±log 3 与 0，偏置是 log(4/81) 与 log(1/32)。"""
    weight, bias = naive_bayes_to_linear(*fit_counts(PICTURES, LABELS, 2))
    two, three = math.log(2), math.log(3)
    expected = torch.tensor([[two, two, -two], [-three, 0.0, three]], dtype=torch.float64)
    torch.testing.assert_close(weight, expected)
    expected = torch.tensor([math.log(4 / 81), math.log(1 / 32)], dtype=torch.float64)
    torch.testing.assert_close(bias, expected)


def test_naive_bayes_to_linear__differs_from_log_theta_weights() -> None:
    """权重误取成 log θ，就漏掉了“灭”的证据，后验变了。"""
    theta, prior = _model()
    x = _all_pictures(5)
    right = class_posterior(naive_bayes_log_joint(x, theta, prior))
    wrong = class_posterior(x @ theta.log().T + prior.log())
    weight, bias = naive_bayes_to_linear(theta, prior)
    torch.testing.assert_close(class_posterior(x @ weight.T + bias), right)
    assert (wrong - right).abs().max() > 0.1


def test_naive_bayes_to_linear__rejects_infinite_odds() -> None:
    """theta 含 0 或 1、先验含 0 时报错。"""
    theta, prior = _model()
    for value in (0.0, 1.0):
        certain = theta.clone()
        certain[1, 2] = value
        with pytest.raises(ValueError, match="对数几率无穷"):
            naive_bayes_to_linear(certain, prior)
    with pytest.raises(ValueError, match="prior 必须为正"):
        naive_bayes_to_linear(theta, torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="prior 的形状"):
        naive_bayes_to_linear(theta, prior[:2])


def test_log_joint_rearranged__matches_python_loop() -> None:
    """推导的三行都等于逐像素相加。"""
    theta, prior = _model()
    x = _all_pictures(5)
    expected = torch.zeros(32, 3, dtype=torch.float64)
    for row, picture in enumerate(x.tolist()):
        for k in range(3):
            total = math.log(prior[k])
            for i, pixel in enumerate(picture):
                total += math.log(theta[k, i] if pixel else 1 - theta[k, i])
            expected[row, k] = total
    for line in log_joint_rearranged(x, theta, prior):
        torch.testing.assert_close(line, expected)


def test_log_joint_rearranged__equals_worked_example() -> None:
    """图 (1, 1, 0)：三行都是 log(16/81) 与 log(1/96)。"""
    x = torch.tensor([[1.0, 1, 0]], dtype=torch.float64)
    expected = torch.tensor([[math.log(16 / 81), math.log(1 / 96)]], dtype=torch.float64)
    for line in log_joint_rearranged(x, *fit_counts(PICTURES, LABELS, 2)):
        torch.testing.assert_close(line, expected)


def test_log_joint_rearranged__rejects_gray_pictures() -> None:
    """图像不是二值时报错：移项用到了 x 只取 0 与 1 的定义域。"""
    theta, prior = _model()
    with pytest.raises(ValueError, match="x 的元素只能是 0 或 1"):
        log_joint_rearranged(torch.full((1, 5), 0.5, dtype=torch.float64), theta, prior)


def test_binary_posterior__matches_bayes_rule() -> None:
    """全部 2⁵ 张图：朴素贝叶斯化成的线性打分，给出的后验等于联合概率逐项相除。"""
    theta, prior = _model(classes=2)
    x = _all_pictures(5)
    expected = []
    for picture in x.tolist():
        joint = [prior[0].item(), prior[1].item()]
        for k in range(2):
            for i, pixel in enumerate(picture):
                joint[k] *= theta[k, i].item() if pixel else 1 - theta[k, i].item()
        expected.append(joint[1] / sum(joint))
    actual = binary_posterior(x, *naive_bayes_to_linear(theta, prior))
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_binary_posterior__matches_softmax() -> None:
    """等于两类 softmax 的第 1 列。"""
    weight, bias, x = _random(2, 4), _random(2, seed=22), _random(6, 4, seed=23)
    expected = torch.softmax(x @ weight.T + bias, dim=-1)[:, 1]
    torch.testing.assert_close(binary_posterior(x, weight, bias), expected)


def test_binary_posterior__equals_worked_example() -> None:
    """图 (1, 0, 1) 属于第 1 类的概率是 81/209，图 (1, 1, 0) 的是 27/539。"""
    linear = naive_bayes_to_linear(*fit_counts(PICTURES, LABELS, 2))
    x = torch.tensor([[1.0, 0, 1], [1, 1, 0]], dtype=torch.float64)
    expected = torch.tensor([81 / 209, 27 / 539], dtype=torch.float64)
    torch.testing.assert_close(binary_posterior(x, *linear), expected)


def test_binary_posterior__rejects_three_classes() -> None:
    """权重不是两行、输入的长度不符时报错。"""
    with pytest.raises(ValueError, match="weight 的形状"):
        binary_posterior(torch.ones(1, 4), torch.ones(3, 4), torch.ones(2))
    with pytest.raises(ValueError, match="x 的形状"):
        binary_posterior(torch.ones(1, 3), torch.ones(2, 4), torch.ones(2))


def test_linear_to_naive_bayes__matches_softmax_posterior() -> None:
    """全部 2⁵ 张图：配出的朴素贝叶斯，后验等于原来的 softmax；权重很大时也如此。"""
    x = _all_pictures(5)
    for scale in (1.0, 8.0):
        weight, bias = scale * _random(3, 5), _random(3, seed=24)
        theta, prior = linear_to_naive_bayes(weight, bias)
        torch.testing.assert_close(prior.sum(), torch.tensor(1.0, dtype=torch.float64))
        joint = torch.where(x[:, None] == 1, theta, 1 - theta).prod(-1) * prior
        expected = torch.softmax(x @ weight.T + bias, dim=-1)
        # 1 − θ 相减会损失几位有效数字
        torch.testing.assert_close(
            joint / joint.sum(-1, keepdim=True), expected, rtol=1e-6, atol=1e-9
        )


def test_linear_to_naive_bayes__preserves_naive_bayes_parameters() -> None:
    """朴素贝叶斯化成线性打分再化回来，参数不变。"""
    theta, prior = _model()
    back_theta, back_prior = linear_to_naive_bayes(*naive_bayes_to_linear(theta, prior))
    torch.testing.assert_close(back_theta, theta)
    torch.testing.assert_close(back_prior, prior)


def test_linear_to_naive_bayes__is_not_unique() -> None:
    """各类的权重同加一个向量：后验不变，配出的 theta 与 p(x) 都变了。"""
    x = _all_pictures(5)
    weight, bias = _random(3, 5), _random(3, seed=24)
    first = linear_to_naive_bayes(weight, bias)
    second = linear_to_naive_bayes(weight + _random(5, seed=25), bias)
    scores = [naive_bayes_log_joint(x, *model) for model in (first, second)]
    torch.testing.assert_close(class_posterior(scores[0]), class_posterior(scores[1]))
    assert (scores[0].logsumexp(-1) - scores[1].logsumexp(-1)).abs().max() > 0.5


def test_linear_to_naive_bayes__rejects_mismatched_bias() -> None:
    """偏置的个数与类别数不符时报错。"""
    with pytest.raises(ValueError, match="bias 的形状"):
        linear_to_naive_bayes(torch.ones(3, 4), torch.ones(2))


def test_softmax_nll__matches_cross_entropy() -> None:
    """与 torch.nn.functional.cross_entropy 相同，打分很大时也如此。"""
    weight, bias, x = _random(4, 3), _random(4, seed=26), _random(7, 3, seed=27)
    y = torch.tensor([0, 3, 1, 2, 2, 0, 3])
    for scale in (1.0, 500.0):
        expected = F.cross_entropy(scale * (x @ weight.T + bias), y)
        torch.testing.assert_close(softmax_nll(scale * weight, scale * bias, x, y), expected)


def test_softmax_nll__is_log_classes_at_zero() -> None:
    """权重与偏置全为零时是 log K。"""
    zero = torch.zeros(10, 4, dtype=torch.float64)
    actual = softmax_nll(zero, zero[:, 0], _random(6, 4), torch.arange(6))
    torch.testing.assert_close(actual, torch.tensor(math.log(10), dtype=torch.float64))


def test_softmax_nll__limit_of_descent_from_naive_bayes() -> None:
    """digits：从朴素贝叶斯的参数出发作 300 步梯度下降，条件 NLL 与准确率的变化如正文所列。"""
    digits = load_digits()
    order = np.random.RandomState(0).permutation(1797)
    x = torch.tensor((digits.data >= 8).astype(float))
    y = torch.tensor(digits.target)
    train, test = order[:1200], order[1500:]
    weight, bias = naive_bayes_to_linear(*fit_counts(x[train], y[train], 10))

    def summary() -> list[float]:
        correct = ((x[test] @ weight.T + bias).argmax(1) == y[test]).sum().item()
        losses = [softmax_nll(weight, bias, x[rows], y[rows]).item() for rows in (train, test)]
        return [*(round(loss, 2) for loss in losses), correct]

    assert summary() == [0.42, 0.39, 268]
    for _ in range(300):
        slope, offset = softmax_nll_gradient(weight, bias, x[train], y[train])
        weight, bias = weight - 0.5 * slope, bias - 0.5 * offset
    assert summary() == [0.20, 0.23, 275]


def test_softmax_nll__rejects_bad_labels() -> None:
    """标签越界或个数不符时报错。"""
    weight, bias, x = torch.ones(3, 2), torch.ones(3), torch.ones(2, 2)
    with pytest.raises(ValueError, match="y 的元素必须在"):
        softmax_nll(weight, bias, x, torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="y 的形状"):
        softmax_nll(weight, bias, x, torch.tensor([0]))


def test_softmax_nll_gradient__matches_autograd() -> None:
    """等于 cross_entropy 对权重与偏置的自动求导。"""
    weight, bias = _random(4, 3).requires_grad_(), _random(4, seed=26).requires_grad_()
    x, y = _random(7, 3, seed=27), torch.tensor([0, 3, 1, 2, 2, 0, 3])
    loss = F.cross_entropy(x @ weight.T + bias, y)
    expected = torch.autograd.grad(loss, (weight, bias))
    actual = softmax_nll_gradient(weight.detach(), bias.detach(), x, y)
    torch.testing.assert_close(actual, expected)


def test_softmax_nll_gradient__is_zero_at_sklearn_optimum() -> None:
    """scikit-learn 的逻辑斯谛回归收敛时，梯度等于负的正则项梯度，偏置的梯度为零。"""
    generator = torch.Generator().manual_seed(28)
    x = (torch.rand(60, 4, generator=generator, dtype=torch.float64) < 0.5).double()
    y = torch.arange(60) % 3
    sk = LogisticRegression(C=2.0, tol=1e-10, max_iter=1000).fit(x.numpy(), y.numpy())
    weight, bias = torch.tensor(sk.coef_), torch.tensor(sk.intercept_)
    slope, offset = softmax_nll_gradient(weight, bias, x, y)
    # sklearn 的目标是 C 乘总损失加半个权重平方和；容差来自它的收敛条件
    torch.testing.assert_close(2.0 * 60 * slope, -weight, rtol=0, atol=1e-5)
    torch.testing.assert_close(offset, torch.zeros_like(offset), rtol=0, atol=1e-7)


def test_softmax_nll_gradient__preserves_zero_sum_over_classes() -> None:
    """对各类的权重、偏置求和都是零：同加一个向量不改变损失。"""
    weight, bias, x = _random(4, 3), _random(4, seed=26), _random(7, 3, seed=27)
    slope, offset = softmax_nll_gradient(weight, bias, x, torch.tensor([0, 3, 1, 2, 2, 0, 3]))
    torch.testing.assert_close(slope.sum(0), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(offset.sum(), torch.tensor(0.0, dtype=torch.float64))


def test_softmax_nll_gradient__differs_from_sum_reduction() -> None:
    """对样本求和的梯度是取平均的 B 倍，学习率要跟着换。"""
    weight, bias = _random(4, 3).requires_grad_(), _random(4, seed=26)
    x, y = _random(7, 3, seed=27), torch.tensor([0, 3, 1, 2, 2, 0, 3])
    total = F.cross_entropy(x @ weight.T + bias, y, reduction="sum")
    (summed,) = torch.autograd.grad(total, weight)
    slope, _ = softmax_nll_gradient(weight.detach(), bias, x, y)
    torch.testing.assert_close(summed, 7 * slope)


def test_softmax_nll_gradient__rejects_bad_shapes() -> None:
    """输入的长度与权重不符时报错。"""
    with pytest.raises(ValueError, match="x 的形状"):
        softmax_nll_gradient(
            torch.ones(3, 2), torch.ones(3), torch.ones(2, 4), torch.tensor([0, 1])
        )
