"""高斯混合的对数密度与分数的检验。"""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from formulary.generative_models.gaussian_mixture import (
    gaussian_mixture_log_prob,
    gaussian_mixture_score,
)

PRIOR = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
MEANS = torch.tensor([[-2.0, 1.0], [0.5, -1.0], [3.0, 0.0]], dtype=torch.float64)
VARIANCES = torch.tensor([0.4, 1.5, 0.9], dtype=torch.float64)
X = torch.randn(2, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(7)) * 2


def _oracle() -> MixtureSameFamily:
    scales = VARIANCES.sqrt()[:, None].expand(3, 2)
    return MixtureSameFamily(Categorical(PRIOR), Independent(Normal(MEANS, scales), 1))


def test_gaussian_mixture_log_prob__matches_torch_distributions() -> None:
    """与 torch.distributions 的 MixtureSameFamily 相同。"""
    actual = gaussian_mixture_log_prob(X, PRIOR, MEANS, VARIANCES)
    torch.testing.assert_close(actual, _oracle().log_prob(X))


def test_gaussian_mixture_log_prob__equals_single_gaussian() -> None:
    """一个分量、零均值、单位方差时，原点处是 −(n/2)log 2π。"""
    one = torch.ones(1, dtype=torch.float64)
    origin = torch.zeros(3, dtype=torch.float64)
    value = gaussian_mixture_log_prob(origin, one, origin[None], one)
    expected = torch.tensor(-1.5 * math.log(2 * math.pi), dtype=torch.float64)
    torch.testing.assert_close(value, expected)


def test_gaussian_mixture_log_prob__rejects_bad_input() -> None:
    """权重之和不是 1、方差不是正数、形状不合时报错。"""
    with pytest.raises(ValueError, match="prior 沿"):
        gaussian_mixture_log_prob(X, PRIOR / 2, MEANS, VARIANCES)
    with pytest.raises(ValueError, match="variances 的元素必须是正数"):
        gaussian_mixture_log_prob(X, PRIOR, MEANS, VARIANCES - 0.4)
    with pytest.raises(ValueError, match="means 的形状"):
        gaussian_mixture_log_prob(X, PRIOR, MEANS[:2], VARIANCES)
    with pytest.raises(ValueError, match="variances 的形状"):
        gaussian_mixture_log_prob(X, PRIOR, MEANS, VARIANCES[:2])
    with pytest.raises(ValueError, match="x 的形状"):
        gaussian_mixture_log_prob(X[..., :1], PRIOR, MEANS, VARIANCES)


def test_gaussian_mixture_score__matches_autograd() -> None:
    """与对 torch.distributions 的对数密度自动求导相同。"""
    x = X.clone().requires_grad_()
    (expected,) = torch.autograd.grad(_oracle().log_prob(x).sum(), x)
    torch.testing.assert_close(gaussian_mixture_score(X, PRIOR, MEANS, VARIANCES), expected)


def test_gaussian_mixture_score__equals_worked_example() -> None:
    """两个等权的单位方差高斯在 ±2：原点处分数为 0；x = 2 处为 2tanh 4 − 2 = −0.0013。"""
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    means = torch.tensor([[-2.0], [2.0]], dtype=torch.float64)
    x = torch.tensor([[0.0], [2.0]], dtype=torch.float64)
    score = gaussian_mixture_score(x, half, means, torch.ones(2, dtype=torch.float64))
    expected = torch.tensor([[0.0], [2 * math.tanh(4) - 2]], dtype=torch.float64)
    torch.testing.assert_close(score, expected)
    assert round(score[1].item(), 4) == -0.0013


def test_gaussian_mixture_score__rejects_bad_variances() -> None:
    """方差为 0 时报错。"""
    with pytest.raises(ValueError, match="variances 的元素必须是正数"):
        gaussian_mixture_score(X, PRIOR, MEANS, 0 * VARIANCES)
