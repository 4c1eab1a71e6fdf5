"""线性探针的检验。"""

import math

import numpy as np
import pytest
import scipy.special
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from formulary.generative_models.linear_probe import fit_linear_probe, linear_probe_loss
from formulary.generative_models.tasks import bernoulli_mixture_posterior


def _problem() -> tuple[Tensor, Tensor]:
    """三类、四维、互相重叠的高斯。"""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 3, (90,), generator=generator)
    centers = torch.randn(3, 4, dtype=torch.float64, generator=generator)
    return centers[y] + torch.randn(90, 4, dtype=torch.float64, generator=generator), y


def test_linear_probe_loss__matches_scipy() -> None:
    """与 scipy 的 log_softmax 逐行取标签那一项、再加惩罚相同。"""
    z, y = _problem()
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(3, 4, dtype=torch.float64, generator=generator)
    bias = torch.randn(3, dtype=torch.float64, generator=generator)
    logits = z.numpy() @ weight.numpy().T + bias.numpy()
    picked = scipy.special.log_softmax(logits, axis=1)[np.arange(90), y.numpy()]
    expected = -picked.mean() + 0.35 * (weight.numpy() ** 2).sum()
    actual = linear_probe_loss(z, y, weight, bias, 0.7)
    torch.testing.assert_close(actual, torch.tensor(expected))


def test_linear_probe_loss__equals_log_classes_at_zero() -> None:
    """权重与偏置全为零时是 log K，与表示、标签无关。"""
    z, y = _problem()
    zero = torch.zeros(3, 4, dtype=torch.float64)
    actual = linear_probe_loss(z, y, zero, zero[:, 0], 5.0)
    torch.testing.assert_close(actual, torch.tensor(math.log(3), dtype=torch.float64))


def test_linear_probe_loss__rejects_bad_input() -> None:
    """标签越界、形状不合、惩罚为负时报错。"""
    z, y = _problem()
    weight, bias = torch.zeros(3, 4, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    with pytest.raises(ValueError, match="y"):
        linear_probe_loss(z, y + 1, weight, bias, 0.1)
    with pytest.raises(ValueError, match="weight"):
        linear_probe_loss(z, y, weight[:, :3], bias, 0.1)
    with pytest.raises(ValueError, match="bias"):
        linear_probe_loss(z, y, weight, bias[:2], 0.1)
    with pytest.raises(ValueError, match="penalty"):
        linear_probe_loss(z, y, weight, bias, -0.1)


def test_fit_linear_probe__matches_sklearn() -> None:
    """权重与 sklearn 的 LogisticRegression 相同；偏置只比去掉公共常数之后的值。"""
    z, y = _problem()
    penalty = 0.02
    model = LogisticRegression(C=1 / (penalty * 90), tol=1e-12, max_iter=10_000)
    model.fit(z.numpy(), y.numpy())
    weight, bias = fit_linear_probe(z, y, 3, penalty)
    # 两边都是迭代法，停在梯度约 1e-9 处
    torch.testing.assert_close(weight, torch.tensor(model.coef_), rtol=1e-5, atol=1e-6)
    expected = torch.tensor(model.intercept_ - model.intercept_.mean())
    torch.testing.assert_close(bias, expected, rtol=1e-5, atol=1e-6)


def test_fit_linear_probe__is_stationary() -> None:
    """解处的梯度为零，往任何随机方向走目标都变大。"""
    z, y = _problem()
    weight, bias = fit_linear_probe(z, y, 3, 0.05)
    weight.requires_grad_()
    loss = linear_probe_loss(z, y, weight, bias, 0.05)
    (gradient,) = torch.autograd.grad(loss, weight)
    # 迭代法停在梯度约 1e-9 处
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-6)
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        step = 0.1 * torch.randn(3, 4, dtype=torch.float64, generator=generator)
        assert linear_probe_loss(z, y, weight + step, bias, 0.05) > loss


def _digits_accuracy(components: int) -> tuple[float, float]:
    """以 K 分量伯努利混合的后验为表示，以及只用像素均值，两个线性探针的测试准确率。"""
    data = load_digits()
    x, y = torch.tensor((data.data >= 8).astype(float)), torch.tensor(data.target)
    order = torch.tensor(np.random.RandomState(0).permutation(1797))
    train, test = order[:1200], order[1500:]
    clusters = KMeans(components, n_init=3, random_state=0).fit(x[train].numpy())
    labels = torch.tensor(clusters.labels_).long()
    members = torch.nn.functional.one_hot(labels, components).double()
    counts = members.sum(0)
    on = (members.T @ x[train] + 1) / (counts[:, None] + 2)

    def accuracy(z: Tensor) -> float:
        weight, bias = fit_linear_probe(z[train], y[train], 10)
        predicted = (z[test] @ weight.T + bias).argmax(-1)
        return (predicted == y[test]).double().mean().item()

    z = bernoulli_mixture_posterior(x, counts / 1200, on)
    return accuracy(z), accuracy(x.mean(-1, keepdim=True))


def test_fit_linear_probe__bounds_digit_accuracy() -> None:
    """30 个分量的后验当表示，10 类准确率在 0.80 以上；只用像素均值不到 0.25。"""
    from_posterior, from_mean = _digits_accuracy(30)
    # 聚类结果随 sklearn 的版本略有出入，所以只设宽限
    assert from_posterior > 0.80
    assert from_mean < 0.25


def test_fit_linear_probe__rejects_bad_input() -> None:
    """类别数、惩罚与步数不合要求时报错。"""
    z, y = _problem()
    with pytest.raises(ValueError, match="classes"):
        fit_linear_probe(z, y, 1)
    with pytest.raises(ValueError, match="penalty"):
        fit_linear_probe(z, y, 3, 0.0)
    with pytest.raises(ValueError, match="steps"):
        fit_linear_probe(z, y, 3, steps=0)
