"""分数、分部积分与分数匹配目标的检验。"""

import pytest
import torch
from torch import Tensor

from formulary.generative_models.score import (
    integration_by_parts,
    score_from_energy,
    score_matching_loss,
)

A = torch.tensor([[1.0, -0.5, 2.0], [0.3, -1.2, 0.0], [0.7, 0.4, 0.6]], dtype=torch.float64)
B = torch.tensor([0.2, -1.0, 0.5], dtype=torch.float64)
X = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
WEIGHTS, CENTRES, WIDTHS = (0.3, 0.7), (-1.5, 1.0), (0.8, 0.5)  # 一维高斯混合


def _quadrature() -> tuple[Tensor, Tensor]:
    """一维高斯混合的梯形求积点与权；被积函数光滑、两端为零，误差随点距指数下降。"""
    x = torch.linspace(-9, 9, 901, dtype=torch.float64)[:, None]
    masses = sum(_density_terms(x))[:, 0]
    return x, masses / masses.sum()


def _density_terms(x: Tensor) -> list[Tensor]:
    return [
        p * torch.exp(-((x - c) ** 2) / (2 * w**2)) / w
        for p, c, w in zip(WEIGHTS, CENTRES, WIDTHS, strict=True)
    ]


def _data_score(x: Tensor) -> Tensor:
    terms = _density_terms(x)
    slopes = [-(x - c) / w**2 for c, w in zip(CENTRES, WIDTHS, strict=True)]
    return sum(t * s for t, s in zip(terms, slopes, strict=True)) / sum(terms)


def _odd_score(x: Tensor) -> Tensor:
    return torch.sin(x) - 0.4 * x**2 + 0.3


def test_score_from_energy__matches_finite_differences() -> None:
    """与能量的中心差分的相反数相同。"""

    def energy(x: Tensor) -> Tensor:
        return (x**4).sum(-1) / 4 + x[:, 0] * x[:, 1].sin()

    h = 1e-5
    expected = torch.stack(
        [(energy(X - h * e) - energy(X + h * e)) / (2 * h) for e in torch.eye(3).double()], -1
    )
    # 中心差分自身的误差约 1e-10 的量级
    torch.testing.assert_close(score_from_energy(energy, X), expected, atol=1e-7, rtol=1e-7)


def test_score_from_energy__depends_only_on_energy_differences() -> None:
    """能量加任何常数（即换任何归一化常数），分数不变；关掉梯度时也能算。"""

    def energy(x: Tensor) -> Tensor:
        return x.square().sum(-1) / 2

    expected = score_from_energy(energy, X)
    torch.testing.assert_close(expected, -X)
    with torch.no_grad():
        shifted = score_from_energy(lambda x: energy(x) + 123.0, X)
    torch.testing.assert_close(shifted, expected)
    assert not shifted.requires_grad


def test_score_from_energy__equals_differentiable_in_parameters() -> None:
    """分数还可以对能量的参数求导：E = a x²/2 时 ∂s/∂a = −x。"""
    a = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    score = score_from_energy(lambda x: a * x.square().sum(-1) / 2, X[:1])
    (gradient,) = torch.autograd.grad(score[0, 1], a)
    torch.testing.assert_close(gradient, -X[0, 1])


def test_score_from_energy__rejects_vector() -> None:
    """x 不是二维时报错。"""
    with pytest.raises(ValueError, match="x 的形状"):
        score_from_energy(lambda x: x.sum(-1), torch.zeros(3))


def test_integration_by_parts__matches_quadrature() -> None:
    """对一维高斯混合求积，两边的期望相等；逐点并不相等。"""
    x, masses = _quadrature()
    left, right = integration_by_parts(_odd_score, _data_score, x)
    torch.testing.assert_close(masses @ left, masses @ right)
    assert (left - right).abs().max() > 1
    assert (masses @ left).abs() > 0.1


def test_integration_by_parts__equals_linear_closed_form() -> None:
    """s = Ax + b、目标是标准正态时，逐点是 −x·(Ax + b) 与 −tr A。"""
    left, right = integration_by_parts(lambda x: x @ A.T + B, lambda x: -x, X)
    torch.testing.assert_close(left, -torch.einsum("ki,ij,kj->k", X, A, X) - X @ B)
    torch.testing.assert_close(right, -A.trace().expand(6))


def test_integration_by_parts__rejects_vector() -> None:
    """x 不是二维时报错。"""
    with pytest.raises(ValueError, match="x 的形状"):
        integration_by_parts(lambda x: x, lambda x: x, torch.zeros(3))


def test_score_matching_loss__matches_explicit_squared_error() -> None:
    """对一维高斯混合求积：损失加 ½E‖∇log p‖² 等于 ½E‖s − ∇log p‖²。"""
    x, masses = _quadrature()
    losses = torch.stack([score_matching_loss(_odd_score, point[None]) for point in x])
    truth = _data_score(x)
    constant = masses @ truth.square().sum(-1) / 2
    explicit = masses @ (_odd_score(x) - truth).square().sum(-1) / 2
    torch.testing.assert_close(masses @ losses + constant, explicit)


def test_score_matching_loss__equals_linear_closed_form() -> None:
    """s = Ax + b 时等于 tr A + ½ 平均的 ‖Ax + b‖²，A 不对称也如此。"""
    expected = A.trace() + (X @ A.T + B).square().sum() / 12
    torch.testing.assert_close(score_matching_loss(lambda x: x @ A.T + B, X), expected)


def test_score_matching_loss__equals_worked_example() -> None:
    """样本 −1 与 3、s = −a(x − 1)：损失 −a + 2a²，a = 1/4 时最小，正是样本方差的倒数。"""
    x = torch.tensor([[-1.0], [3.0]], dtype=torch.float64)
    for a in (0.25, 0.5):
        loss = score_matching_loss(lambda x, a=a: -a * (x - 1), x)
        torch.testing.assert_close(loss, torch.tensor(-a + 2 * a**2, dtype=torch.float64))


def test_score_matching_loss__matches_minimum_at_gaussian_moments() -> None:
    """线性分数 s = −(x − m)/v 的最小点是样本均值与样本方差，梯度在那里为零。"""
    x = X[:, :1]
    m = x.mean().clone().requires_grad_()
    v = x.var(correction=0).clone().requires_grad_()
    loss = score_matching_loss(lambda x: -(x - m) / v, x)
    for gradient in torch.autograd.grad(loss, (m, v)):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient))


def test_score_matching_loss__differs_from_missing_trace() -> None:
    """丢掉迹一项，最小值就在 s = 0，与数据无关。"""
    x = torch.tensor([[-1.0], [3.0]], dtype=torch.float64)
    at_zero, at_best = (score_matching_loss(lambda x, a=a: -a * (x - 1), x) for a in (0.0, 0.25))
    assert at_best < at_zero == 0


def test_score_matching_loss__rejects_vector() -> None:
    """x 不是二维时报错。"""
    with pytest.raises(ValueError, match="x 的形状"):
        score_matching_loss(lambda x: x, torch.zeros(3))
