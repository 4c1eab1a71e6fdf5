"""KL 散度的展开、平均对数似然的三种写法与梯度的检验。"""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp
from scipy.stats import entropy as scipy_entropy
from torch import Tensor

from formulary.generative_models.maximum_likelihood import (
    kl_divergence_forms,
    kl_gradient_forms,
    mean_log_likelihood,
    mean_log_likelihood_forms,
)


def _random(*shape: int, seed: int = 4) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _samples(count: int, states: int) -> Tensor:
    return torch.randint(0, states, (count,), generator=torch.Generator().manual_seed(6))


def test_kl_divergence_forms__matches_scipy() -> None:
    """三种写法都等于 scipy.stats.entropy(p, q)。"""
    p, q = _random(2, 7).softmax(-1)
    expected = torch.tensor(scipy_entropy(p.numpy(), q.numpy()))
    for form in kl_divergence_forms(p, q):
        torch.testing.assert_close(form, expected)


def test_kl_divergence_forms__equals_hand_computed_example() -> None:
    """p = (3/4, 1/4)、q = (1/2, 1/2) 时三种写法都约为 0.1308。"""
    p = torch.tensor([0.75, 0.25], dtype=torch.float64)
    q = torch.tensor([0.5, 0.5], dtype=torch.float64)
    for form in kl_divergence_forms(p, q):
        assert round(form.item(), 4) == 0.1308


def test_kl_divergence_forms__rejects_zero_probability() -> None:
    """有零概率的状态时不能直接取对数，报错。"""
    for p, q in (([1.0, 0.0], [0.5, 0.5]), ([0.5, 0.5], [1.0, 0.0])):
        with pytest.raises(ValueError, match="必须处处为正"):
            kl_divergence_forms(torch.tensor(p), torch.tensor(q))


def test_mean_log_likelihood__matches_python_loop() -> None:
    """与逐个样本取对数再平均的循环相同。"""
    x, q = _samples(50, 7), _random(7).softmax(0)
    expected = sum(math.log(q[i].item()) for i in x.tolist()) / 50
    torch.testing.assert_close(mean_log_likelihood(x, q).item(), expected)


def test_mean_log_likelihood__equals_hand_computed_example() -> None:
    """样本 (0, 0, 0, 1)、q = (0.8, 0.2) 时约为 −0.5697 nat。"""
    q = torch.tensor([0.8, 0.2], dtype=torch.float64)
    value = mean_log_likelihood(torch.tensor([0, 0, 0, 1]), q).item()
    torch.testing.assert_close(value, 0.75 * math.log(0.8) + 0.25 * math.log(0.2))
    assert round(value, 4) == -0.5697


def test_mean_log_likelihood__is_minus_infinity_for_impossible_sample() -> None:
    """只要有一个样本的概率为 0，整个数据集的平均对数似然就是负无穷。"""
    q = torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert mean_log_likelihood(torch.tensor([0, 0, 1]), q).item() == -math.inf
    assert mean_log_likelihood(torch.tensor([0, 0, 0]), q).item() == 0


def test_mean_log_likelihood__rejects_bad_samples() -> None:
    """样本为空或超出范围、模型不是分布时报错。"""
    q = torch.tensor([0.5, 0.5])
    with pytest.raises(ValueError, match="x 的样本数"):
        mean_log_likelihood(torch.tensor([], dtype=torch.int64), q)
    with pytest.raises(ValueError, match="x 的元素"):
        mean_log_likelihood(torch.tensor([2]), q)
    with pytest.raises(ValueError, match="q 沿"):
        mean_log_likelihood(torch.tensor([0]), 0.9 * q)


def test_mean_log_likelihood_forms__matches_numpy() -> None:
    """三种写法都等于 NumPy 由频数算出的平均。"""
    x, q = _samples(50, 7), _random(7).softmax(0)
    counts = np.bincount(x.numpy(), minlength=7)
    expected = float((counts * np.log(q.numpy())).sum() / 50)
    for form in mean_log_likelihood_forms(x, q):
        torch.testing.assert_close(form.item(), expected)


def test_mean_log_likelihood_forms__bounds_by_empirical_entropy() -> None:
    """经验分布自己的平均对数似然最大，等于负的经验熵；别的模型都更低。"""
    x = torch.tensor([0, 0, 1, 2, 2, 2])
    best = torch.tensor([2, 1, 3], dtype=torch.float64) / 6
    top = mean_log_likelihood_forms(x, best)[0].item()
    torch.testing.assert_close(top, -scipy_entropy([2 / 6, 1 / 6, 3 / 6]).item())
    for q in _random(100, 3).softmax(-1):
        assert mean_log_likelihood_forms(x, q)[2].item() < top


def test_mean_log_likelihood_forms__rejects_bad_samples() -> None:
    """样本的编号超出模型的状态数时报错。"""
    with pytest.raises(ValueError, match="x 的元素"):
        mean_log_likelihood_forms(torch.tensor([0, 3]), torch.full((3,), 1 / 3).double())


def test_kl_gradient_forms__matches_finite_differences() -> None:
    """三种算法都等于 KL 散度的中心差分。"""
    p, logits, step = _random(5, seed=1).softmax(0), _random(5, seed=2), 1e-6
    a = p.numpy()

    def kl(theta: np.ndarray) -> float:
        q = np.exp(theta) / np.exp(theta).sum()
        return float((a * np.log(a / q)).sum())

    basis = step * np.eye(5)
    slopes = [(kl(logits.numpy() + e) - kl(logits.numpy() - e)) / (2 * step) for e in basis]
    expected = torch.tensor(slopes, dtype=torch.float64)
    for form in kl_gradient_forms(p, logits):
        # 差分的舍入误差约为 1e-16 / 1e-6
        torch.testing.assert_close(form, expected, rtol=0, atol=1e-8)


def test_kl_gradient_forms__equals_each_other() -> None:
    """穿过 KL 的梯度、负的得分的期望与闭式 p_θ − p 三者相等。"""
    direct, scores, closed = kl_gradient_forms(_random(6, seed=1).softmax(0), _random(6))
    torch.testing.assert_close(direct, closed)
    torch.testing.assert_close(scores, closed)
    assert closed.abs().max() > 0.05


def test_kl_gradient_forms__is_zero_at_the_data() -> None:
    """模型等于数据时梯度为 0；数据里有零概率的状态时，三者仍相等。"""
    p = torch.tensor([0.2, 0.7, 0.1], dtype=torch.float64)
    for form in kl_gradient_forms(p, p.log() + 3):
        torch.testing.assert_close(form, torch.zeros(3, dtype=torch.float64))
    sparse = torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64)
    for form in kl_gradient_forms(sparse, torch.zeros(3, dtype=torch.float64)):
        expected = torch.tensor([-1 / 6, 1 / 3, -1 / 6], dtype=torch.float64)
        torch.testing.assert_close(form, expected)


def test_kl_gradient_forms__is_zero_along_the_family_at_maximum_likelihood() -> None:
    """在够不着数据的二维模型族里，SciPy 找到的似然最大处，KL 散度沿族内方向的梯度为 0。"""
    p = torch.tensor([0.5, 0.05, 0.25, 0.02, 0.18], dtype=torch.float64)
    directions = _random(5, 2, seed=3)
    a, b = p.numpy(), directions.numpy()
    best = minimize(
        lambda t: logsumexp(b @ t) - a @ (b @ t),  # 负的对数似然的期望
        [0.0, 0.0],
        method="BFGS",
        options={"gtol": 1e-10},
    )
    logits = directions @ torch.from_numpy(best.x)
    assert (logits.softmax(0) - p).abs().max() > 0.05  # 数据不在族里
    for form in kl_gradient_forms(p, logits):
        assert form.abs().max() > 0.05
        # 优化器停在梯度约 1e-9 处
        torch.testing.assert_close(directions.T @ form, torch.zeros(2).double(), rtol=0, atol=1e-7)


def test_kl_gradient_forms__rejects_mismatched_shapes() -> None:
    """参数的个数与状态数不同时报错并指出 logits。"""
    with pytest.raises(ValueError, match="logits 的形状"):
        kl_gradient_forms(torch.tensor([0.5, 0.5]), torch.zeros(3))
