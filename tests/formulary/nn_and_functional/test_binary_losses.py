import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from formulary.nn_and_functional.binary_losses import (
    binary_cross_entropy_from_logits,
    binary_loss_steps,
    kl_divergence_loss,
    weighted_binary_cross_entropy,
)

GENERATOR = torch.Generator().manual_seed(5)
Z = 4 * torch.randn(3, 4, dtype=torch.float64, generator=GENERATOR)
Y = torch.rand(3, 4, dtype=torch.float64, generator=GENERATOR)
HARD = (Y > 0.5).double()


def test_binary_cross_entropy_from_logits__matches_module_and_function():
    """与 nn.BCEWithLogitsLoss、F.binary_cross_entropy_with_logits 一致。"""
    for y in (Y, HARD):
        ours = binary_cross_entropy_from_logits(Z, y)
        torch.testing.assert_close(ours, F.binary_cross_entropy_with_logits(Z, y, reduction="none"))
        torch.testing.assert_close(ours, nn.BCEWithLogitsLoss(reduction="none")(Z, y))


def test_binary_cross_entropy_from_logits__matches_probability_form():
    """对数几率不大时，与 nn.BCELoss 收到概率的结果一致。"""
    torch.testing.assert_close(
        binary_cross_entropy_from_logits(Z, Y), nn.BCELoss(reduction="none")(torch.sigmoid(Z), Y)
    )


def test_binary_cross_entropy_from_logits__equals_two_class_cross_entropy():
    """等于对数几率为 (0, z) 的两类交叉熵。"""
    two = torch.stack([torch.zeros_like(Z), Z], dim=1)
    torch.testing.assert_close(
        binary_cross_entropy_from_logits(Z, HARD),
        F.cross_entropy(two, HARD.long(), reduction="none"),
    )


def test_binary_cross_entropy_from_logits__preserves_value_under_swap_of_classes():
    """把 z 变号、把 0 与 1 对调，损失不变。"""
    torch.testing.assert_close(
        binary_cross_entropy_from_logits(-Z, 1 - Y), binary_cross_entropy_from_logits(Z, Y)
    )


def test_binary_cross_entropy_from_logits__differs_from_clamped_probability_form():
    """Z = −200 而目标是 1：真值 200，先算概率的 F.binary_cross_entropy 截在 100，梯度为 0。"""
    z = torch.tensor([-200.0], requires_grad=True)
    one = torch.ones(1)
    clamped = F.binary_cross_entropy(torch.sigmoid(z), one)
    assert clamped == 100
    assert torch.autograd.grad(clamped, z)[0] == 0
    ours = binary_cross_entropy_from_logits(z, one)
    assert ours.item() == 200
    assert torch.autograd.grad(ours.sum(), z)[0] == -1


def test_binary_cross_entropy_from_logits__differs_from_probability_form_in_float32():
    """先算概率：目标 1、Z = −40 时梯度只剩 −4e-6；目标 0、Z = 16.7 时损失跳到 100。"""
    z = torch.tensor([-40.0, -27.0], requires_grad=True)
    one = torch.ones(2)
    (gradient,) = torch.autograd.grad(F.binary_cross_entropy(torch.sigmoid(z), one).mul(2), z)
    # PyTorch 的反向把 p(1 − p) 截在 1e-12
    torch.testing.assert_close(gradient, torch.tensor([-1e12 * math.exp(-40), -1.0]))
    (sound,) = torch.autograd.grad(binary_cross_entropy_from_logits(z, one).sum(), z)
    torch.testing.assert_close(sound, -one)
    high, zero = torch.tensor([16.0, 16.7]), torch.zeros(2)
    jumped = F.binary_cross_entropy(torch.sigmoid(high), zero, reduction="none")
    assert jumped[0] < 16.5
    assert jumped[1] == 100
    torch.testing.assert_close(binary_cross_entropy_from_logits(high, zero), high)


def test_binary_cross_entropy_from_logits__differs_from_double_sigmoid():
    """把概率再当对数几率，全部答对时正例仍有 log(1 + 1/e)，约 0.3133，负例有 log 2。"""
    z, one = torch.tensor([50.0], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    doubled = nn.BCEWithLogitsLoss()(torch.sigmoid(z), one)
    torch.testing.assert_close(doubled.item(), math.log1p(math.exp(-1)))
    assert round(doubled.item(), 4) == 0.3133
    assert binary_cross_entropy_from_logits(z, one).item() < 1e-20
    doubled = nn.BCEWithLogitsLoss()(torch.sigmoid(-z), 0 * one)
    torch.testing.assert_close(doubled.item(), math.log(2))
    assert binary_cross_entropy_from_logits(-z, 0 * one).item() < 1e-20


def test_binary_cross_entropy_from_logits__rejects_bad_targets():
    """目标越界、形状不符、整数的对数几率被拒绝。"""
    with pytest.raises(ValueError, match=r"y 的元素必须在 \[0, 1\]"):
        binary_cross_entropy_from_logits(Z, Y + 1)
    with pytest.raises(ValueError, match="y 的形状必须是"):
        binary_cross_entropy_from_logits(Z, Y[:2])
    with pytest.raises(ValueError, match="z 必须是实浮点张量"):
        binary_cross_entropy_from_logits(Z.long(), Y)


def test_weighted_binary_cross_entropy__matches_module_and_function():
    """与 pos_weight 参数的两种写法一致，极端的对数几率也一致。"""
    z = torch.cat([Z.flatten(), torch.tensor([-300.0, 300.0, 0.0], dtype=torch.float64)])
    y = torch.cat([Y.flatten(), torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)])
    for factor in (0.25, 1.0, 3.0):
        ours = weighted_binary_cross_entropy(z, y, factor)
        weight = torch.tensor([factor], dtype=torch.float64)
        options = {"pos_weight": weight, "reduction": "none"}
        torch.testing.assert_close(ours, F.binary_cross_entropy_with_logits(z, y, **options))
        torch.testing.assert_close(ours, nn.BCEWithLogitsLoss(**options)(z, y))


def test_weighted_binary_cross_entropy__limit_unit_weight():
    """权重为 1 就是普通的二元交叉熵。"""
    torch.testing.assert_close(
        weighted_binary_cross_entropy(Z, Y, 1.0), binary_cross_entropy_from_logits(Z, Y)
    )


def test_weighted_binary_cross_entropy__equals_repeated_positives():
    """权重 3 等于把每个正例抄三遍。"""
    ours = weighted_binary_cross_entropy(Z, HARD, 3.0)
    torch.testing.assert_close(
        ours, binary_cross_entropy_from_logits(Z, HARD) * torch.where(HARD == 1, 3.0, 1.0)
    )


def test_weighted_binary_cross_entropy__equals_shifted_optimum():
    """正类概率 0.355、权重 3 时，期望损失的最小点是 z = 0.5，即 logit p + log 3。"""
    p = 1 / (1 + math.exp(math.log(3) - 0.5))
    z = torch.linspace(-1, 2, 3001, dtype=torch.float64)
    one, zero = torch.ones_like(z), torch.zeros_like(z)
    positive = weighted_binary_cross_entropy(z, one, 3.0)
    negative = weighted_binary_cross_entropy(z, zero, 3.0)
    best = (p * positive + (1 - p) * negative).argmin()
    assert abs(z[best].item() - 0.5) < 1e-3
    assert round(p, 3) == 0.355


def test_weighted_binary_cross_entropy__rejects_bad_weights():
    """不是正数的权重被拒绝。"""
    for factor in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="pos_weight 必须是正数"):
            weighted_binary_cross_entropy(Z, Y, factor)


def test_binary_loss_steps__is_equal_line_by_line():
    """推导的三行相等。"""
    first, second, third = binary_loss_steps(Z, Y)
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(second, third)


def test_binary_loss_steps__matches_probability_form():
    """第一行与 nn.BCELoss 一致。"""
    expected = nn.BCELoss(reduction="none")(torch.sigmoid(Z), Y)
    torch.testing.assert_close(binary_loss_steps(Z, Y)[0], expected)


def test_binary_loss_steps__differs_from_stable_form_for_large_logits():
    """Z = −800 时前两行溢出，第三行仍是 800。"""
    z, y = torch.tensor([-800.0], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    first, second, third = binary_loss_steps(z, y)
    assert not first.isfinite()
    assert not second.isfinite()
    assert third.item() == 800


def test_binary_loss_steps__rejects_targets_out_of_range():
    """目标越界被拒绝。"""
    with pytest.raises(ValueError, match="y 的元素必须在"):
        binary_loss_steps(Z, Y - 1)


P = torch.softmax(Z, 1)
LOG_Q = torch.log_softmax(Y, 1)


def test_kl_divergence_loss__matches_module_and_function():
    """与 reduction="batchmean" 的 nn.KLDivLoss、F.kl_div 一致。"""
    ours = kl_divergence_loss(LOG_Q, P)
    torch.testing.assert_close(ours, F.kl_div(LOG_Q, P, reduction="batchmean"))
    torch.testing.assert_close(ours, nn.KLDivLoss(reduction="batchmean")(LOG_Q, P))


def test_kl_divergence_loss__matches_distributions():
    """与 torch.distributions 的 KL 散度一致。"""
    p, q = (torch.distributions.Categorical(probs) for probs in (P, LOG_Q.exp()))
    expected = torch.distributions.kl_divergence(p, q).mean()
    torch.testing.assert_close(kl_divergence_loss(LOG_Q, P), expected)


def test_kl_divergence_loss__is_zero_for_equal_distributions():
    """两个分布相同时为 0。"""
    torch.testing.assert_close(kl_divergence_loss(P.log(), P).item(), 0.0)


def test_kl_divergence_loss__differs_from_default_reduction():
    """默认的 reduction="mean" 还除以类别数，并发出警告。"""
    with pytest.warns(UserWarning, match="batchmean"):
        default = nn.KLDivLoss()(LOG_Q, P)
    torch.testing.assert_close(default * 4, kl_divergence_loss(LOG_Q, P))
    assert default < kl_divergence_loss(LOG_Q, P) / 2


def test_kl_divergence_loss__differs_from_passing_probabilities():
    """第一个参数忘了取对数，结果可以是负的，不再是散度。"""
    wrong = F.kl_div(LOG_Q.exp(), P, reduction="batchmean")
    assert wrong < 0 < kl_divergence_loss(LOG_Q, P)


def test_kl_divergence_loss__rejects_bad_targets():
    """目标不是概率、形状不符时被拒绝。"""
    with pytest.raises(ValueError, match="p 的元素必须在"):
        kl_divergence_loss(LOG_Q, P.log())
    with pytest.raises(ValueError, match="p 的形状必须是"):
        kl_divergence_loss(LOG_Q, P[:2])


def test_binary_loss_steps__is_ordered_from_definition_to_stable_form():
    """Z = 40、目标 0：定义里 1 − σ 在 float64 里是 0，得到无穷大；合并之后的第二行是 40。"""
    z, y = torch.tensor([40.0], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    definition, merged, stable = binary_loss_steps(z, y)
    assert definition.item() == math.inf
    assert merged.item() == stable.item() == 40
