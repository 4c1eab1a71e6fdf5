"""生成器的两种损失与它们的导数的检验。"""

import math

import pytest
import torch
from torch.nn import functional as F

from formulary.generative_models.generator_losses import (
    generator_slopes,
    nonsaturating_loss,
    saturating_loss,
)

LOGITS = torch.tensor([-8.0, -1.5, 0.0, 0.7, 3.0], dtype=torch.float64)


def test_saturating_loss__matches_binary_cross_entropy() -> None:
    """等于把生成样本标成“假”的二元交叉熵的相反数。"""
    expected = -F.binary_cross_entropy_with_logits(LOGITS, torch.zeros_like(LOGITS))
    torch.testing.assert_close(saturating_loss(LOGITS), expected)


def test_saturating_loss__equals_minus_log_two_at_zero() -> None:
    """判别器输出 1/2 时损失为 −log 2；对数几率到 1000 时仍是有限值。"""
    value = saturating_loss(torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(value, torch.tensor(-math.log(2), dtype=torch.float64))
    assert saturating_loss(torch.tensor([1000.0])).item() == -1000


def test_saturating_loss__differs_from_log_of_rounded_probability() -> None:
    """ℓ = 17 时 float32 的 1 − σ(ℓ) 已经是 0，先算概率再取对数得 −∞，这里是 −17。"""
    logits = torch.tensor([17.0])
    assert (1 - logits.sigmoid()).log().item() == -math.inf
    assert round(saturating_loss(logits).item(), 4) == -17


def test_saturating_loss__rejects_matrix() -> None:
    """不是一维时报错。"""
    with pytest.raises(ValueError, match="fake_logits 的形状"):
        saturating_loss(torch.zeros(2, 1))


def test_nonsaturating_loss__matches_binary_cross_entropy() -> None:
    """等于把生成样本标成“真”的二元交叉熵。"""
    expected = F.binary_cross_entropy_with_logits(LOGITS, torch.ones_like(LOGITS))
    torch.testing.assert_close(nonsaturating_loss(LOGITS), expected)


def test_nonsaturating_loss__equals_log_two_at_zero() -> None:
    """判别器输出 1/2 时损失为 log 2；对数几率到 −1000 时仍是有限值。"""
    value = nonsaturating_loss(torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(value, torch.tensor(math.log(2), dtype=torch.float64))
    assert nonsaturating_loss(torch.tensor([-1000.0])).item() == 1000


def test_nonsaturating_loss__differs_from_saturating_gradient() -> None:
    """对数几率为 −8 时，两种损失的梯度分别是 −0.99966 与 −0.000335，相差近三千倍。"""
    gradients = []
    for loss in (nonsaturating_loss, saturating_loss):
        logits = torch.tensor([-8.0], dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(loss(logits), logits)
        gradients.append(gradient.item())
    assert [f"{g:.6f}" for g in gradients] == ["-0.999665", "-0.000335"]
    assert round(gradients[0] / gradients[1]) == round(math.exp(8)) == 2981


def test_nonsaturating_loss__rejects_integers() -> None:
    """不是实浮点张量时报错。"""
    with pytest.raises(ValueError, match="fake_logits 必须是实浮点张量"):
        nonsaturating_loss(torch.zeros(2, dtype=torch.int64))


def test_generator_slopes__matches_autograd() -> None:
    """与对 log(1 − σ(ℓ)) 和 −log σ(ℓ) 自动求导相同。"""
    logits = LOGITS.clone().requires_grad_()
    for actual, loss in zip(
        generator_slopes(LOGITS),
        (torch.log(1 - torch.sigmoid(logits)), -torch.log(torch.sigmoid(logits))),
        strict=True,
    ):
        (expected,) = torch.autograd.grad(loss.sum(), logits)
        torch.testing.assert_close(actual, expected)


def test_generator_slopes__equals_worked_example() -> None:
    """ℓ = −8 时是 −3.35e-4 与 −0.99966，ℓ = 0 时都是 −1/2；两者之和恒为 −1。"""
    first, second = generator_slopes(LOGITS)
    assert f"{first[0].item():.2e}" == "-3.35e-04"
    assert f"{second[0].item():.5f}" == "-0.99966"
    assert first[2] == second[2] == -0.5
    torch.testing.assert_close(first + second, -torch.ones_like(LOGITS))


def test_generator_slopes__rejects_integers() -> None:
    """不是实浮点张量时报错。"""
    with pytest.raises(ValueError, match="logits 必须是实浮点张量"):
        generator_slopes(torch.zeros(2, dtype=torch.int64))
