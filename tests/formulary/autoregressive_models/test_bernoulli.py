"""伯努利条件的概率、NLL 的三种写法、梯度与单位换算的检验。"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

from formulary.autoregressive_models.bernoulli import (
    bernoulli_log_prob,
    bernoulli_probabilities,
    bits_per_dim,
    logit_gradient,
    nll_forms,
)


def _batch(rows: int = 5, n: int = 7, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(11)
    logits = scale * torch.randn(rows, n, dtype=torch.float64, generator=generator)
    return logits, (torch.rand(rows, n, generator=generator) < 0.4).double()


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def _bad_inputs() -> list[tuple[object, object, str]]:
    logits, x = _batch()
    return [
        (logits.long(), x, "logits 必须是实浮点张量"),
        (logits[0], x[0], "logits 的形状"),
        (logits, x[:, :-1], "x 的形状"),
        (logits, x.long(), "x 必须是实浮点张量"),
        (logits, x + 1, "x 的元素只能是 0 或 1"),
        (logits, x * 0.5, "x 的元素只能是 0 或 1"),
    ]


def test_bernoulli_probabilities__matches_torch_distribution() -> None:
    """逐元素等于 torch.distributions.Bernoulli 的对数概率取指数。"""
    logits, x = _batch()
    expected = torch.distributions.Bernoulli(logits=logits).log_prob(x).exp()
    torch.testing.assert_close(bernoulli_probabilities(logits, x), expected)


def test_bernoulli_probabilities__equals_worked_example() -> None:
    """σ(0) = 1/2，σ(ln 3) = 3/4：取 1 与取 0 的概率分别是 3/4 与 1/4。"""
    logits = torch.tensor([[0.0, math.log(3), math.log(3)]], dtype=torch.float64)
    x = torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64)
    expected = torch.tensor([[0.5, 0.75, 0.25]], dtype=torch.float64)
    torch.testing.assert_close(bernoulli_probabilities(logits, x), expected)


def test_bernoulli_probabilities__preserves_total_mass() -> None:
    """x_i 取 0 与取 1 的概率相加为 1。"""
    logits, x = _batch()
    both = bernoulli_probabilities(logits, x) + bernoulli_probabilities(logits, 1 - x)
    torch.testing.assert_close(both, torch.ones_like(both))


def test_bernoulli_probabilities__rejects_bad_input() -> None:
    """形状、类型不对或 x 不是二值时报错。"""
    for logits, x, message in _bad_inputs():
        with pytest.raises(ValueError, match=message):
            bernoulli_probabilities(logits, x)  # type: ignore[arg-type]


def test_nll_forms__matches_python_loop() -> None:
    """三种写法都等于逐个标量照 −x log f − (1−x) log(1−f) 算出的和。"""
    logits, x = _batch()
    rows = []
    for values, bits in zip(logits.tolist(), x.tolist(), strict=True):
        total = 0.0
        for value, bit in zip(values, bits, strict=True):
            f = _sigmoid(value)
            total -= math.log(f) if bit == 1 else math.log(1 - f)
        rows.append(total)
    expected = torch.tensor(rows, dtype=torch.float64)
    for form in nll_forms(logits, x):
        torch.testing.assert_close(form, expected)


def test_nll_forms__matches_binary_cross_entropy() -> None:
    """三种写法都等于 F.binary_cross_entropy_with_logits 对变量求和，对数几率很大时也如此。"""
    logits, x = _batch(scale=40.0)
    expected = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
    for form in nll_forms(logits, x):
        torch.testing.assert_close(form, expected)


def test_nll_forms__equals_worked_example() -> None:
    """ℓ = (0, 2)、x = (1, 0)：ln 2 + softplus(2) = 0.6931 + 2.1269 = 2.8201。"""
    logits, x = torch.tensor([[0.0, 2.0]]).double(), torch.tensor([[1.0, 0.0]]).double()
    expected = torch.tensor([math.log(2) + math.log(1 + math.exp(2))], dtype=torch.float64)
    for form in nll_forms(logits, x):
        torch.testing.assert_close(form, expected)
    assert round(expected.item(), 4) == 2.8201


def test_nll_forms__differs_from_default_softplus() -> None:
    """F.softplus 在 ℓ > 20 时直接返回 ℓ，双精度下丢掉约 7.6e-10；这里没有丢。"""
    logits, x = torch.full((1, 1), 21.0, dtype=torch.float64), torch.zeros(1, 1).double()
    exact = math.log1p(math.exp(-21.0))
    assert F.softplus(logits).item() == 21.0
    for form in nll_forms(logits, x):
        assert abs(form.item() - 21.0 - exact) < 1e-13


def test_nll_forms__rejects_bad_input() -> None:
    """形状、类型不对或 x 不是二值时报错。"""
    for logits, x, message in _bad_inputs():
        with pytest.raises(ValueError, match=message):
            nll_forms(logits, x)  # type: ignore[arg-type]


def test_bernoulli_log_prob__matches_torch_distribution() -> None:
    """等于 torch.distributions.Bernoulli(logits=…) 的对数概率对变量求和。"""
    logits, x = _batch()
    expected = torch.distributions.Bernoulli(logits=logits).log_prob(x).sum(-1)
    torch.testing.assert_close(bernoulli_log_prob(logits, x), expected)


def test_bernoulli_log_prob__matches_product_of_probabilities() -> None:
    """短样本上等于各条件概率先连乘、再取对数。"""
    logits, x = _batch()
    rows = []
    for values, bits in zip(logits.tolist(), x.tolist(), strict=True):
        product = 1.0
        for value, bit in zip(values, bits, strict=True):
            product *= _sigmoid(value if bit == 1 else -value)
        rows.append(math.log(product))
    torch.testing.assert_close(
        bernoulli_log_prob(logits, x), torch.tensor(rows, dtype=torch.float64)
    )


def test_bernoulli_log_prob__equals_worked_example() -> None:
    """64 个像素逐个猜 1/2，对数似然是 −64 ln 2 = −44.3614。"""
    x = _batch(3, 64)[1]
    expected = torch.full((3,), -64 * math.log(2), dtype=torch.float64)
    torch.testing.assert_close(bernoulli_log_prob(torch.zeros_like(x), x), expected)
    assert round(expected[0].item(), 4) == -44.3614


def test_bernoulli_log_prob__differs_from_underflowing_product() -> None:
    """784 个 1/2 在 float32 里连乘下溢成 0，取对数是 −∞；对数相加则是 −543.43。"""
    x = torch.ones(1, 784)
    logits = torch.zeros_like(x)
    assert bernoulli_probabilities(logits, x).prod(-1).item() == 0.0
    assert round(bernoulli_log_prob(logits, x).item(), 2) == -543.43
    # float32 的最小正数是 2^-149，所以 150 个像素就够了
    assert bernoulli_probabilities(logits, x)[:, :149].prod(-1).item() > 0
    assert bernoulli_probabilities(logits, x)[:, :150].prod(-1).item() == 0


def test_bernoulli_log_prob__differs_from_clamped_probabilities() -> None:
    """Bernoulli(probs=1e-12) 在 float32 里把概率截到 1.19e-7：−15.94，应为 −27.63。"""
    x = torch.ones(1, 1)
    logits = torch.full((1, 1), math.log(1e-12))
    clamped = torch.distributions.Bernoulli(probs=torch.tensor([[1e-12]])).log_prob(x)
    assert round(clamped.item(), 2) == -15.94
    # F.binary_cross_entropy 把对数截到 −100：概率 0 应当是 −∞
    assert F.binary_cross_entropy(torch.zeros(1), torch.ones(1)).item() == 100.0
    assert round(bernoulli_log_prob(logits, x).item(), 2) == -27.63


def test_bernoulli_log_prob__differs_from_sigmoid_before_logits_loss() -> None:
    """把 sigmoid 的输出当对数几率送进损失：每个像素至少付 0.3133 或 0.6931 nat。"""
    logits, x = _batch(200, 3, scale=50.0)
    wrong = F.binary_cross_entropy_with_logits(torch.sigmoid(logits), x, reduction="none")
    assert (wrong[x == 1] >= math.log(1 + math.exp(-1))).all()
    assert (wrong[x == 0] >= math.log(2)).all()
    assert round(math.log(1 + math.exp(-1)), 4) == 0.3133
    # 预测全对、且越来越有把握时，正确的 NLL 趋于 0
    right = bernoulli_log_prob((2 * x - 1) * 50, x)
    torch.testing.assert_close(right, torch.zeros_like(right))


def test_bernoulli_log_prob__differs_from_sigmoid_loss_on_digits() -> None:
    """digits 测试集上，sigmoid 之后再当对数几率，再好也有 36.58 nat；逐像素独立才 25.23。"""
    x = torch.from_numpy((load_digits().data >= 8).astype("float64"))
    order = np.random.RandomState(0).permutation(1797)
    train, test = x[order[:1200]], x[order[1500:]]
    best = F.binary_cross_entropy_with_logits(test, test, reduction="none").sum(-1).mean()
    assert round(best.item(), 2) == 36.58
    frequencies = (train.sum(0) + 1) / 1202
    independent = -bernoulli_log_prob(frequencies.logit().expand_as(test), test).mean()
    assert round(independent.item(), 2) == 25.23


def test_bernoulli_log_prob__rejects_bad_input() -> None:
    """形状、类型不对或 x 不是二值时报错。"""
    for logits, x, message in _bad_inputs():
        with pytest.raises(ValueError, match=message):
            bernoulli_log_prob(logits, x)  # type: ignore[arg-type]


def test_logit_gradient__matches_autograd() -> None:
    """等于自动求导对 F.binary_cross_entropy_with_logits 之和求出的梯度。"""
    logits, x = _batch()
    logits.requires_grad_()
    loss = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    (expected,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(logit_gradient(logits.detach(), x), expected)


def test_logit_gradient__matches_finite_differences() -> None:
    """等于 Python 标量上的中心差分。"""
    h = 1e-5
    for value in (-2.5, 0.3, 4.0):
        for bit in (0.0, 1.0):
            slope = (math.log1p(math.exp(value + h)) - math.log1p(math.exp(value - h))) / (
                2 * h
            ) - bit
            actual = logit_gradient(
                torch.tensor([[value]], dtype=torch.float64),
                torch.tensor([[bit]], dtype=torch.float64),
            )
            # 中心差分的舍入误差约为 1e-16 / 1e-5
            assert abs(actual.item() - slope) < 1e-9


def test_logit_gradient__equals_worked_example() -> None:
    """ℓ = ln 3、概率 3/4：实际为 1 时导数是 −1/4，为 0 时是 3/4。"""
    logits = torch.full((1, 2), math.log(3), dtype=torch.float64)
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    expected = torch.tensor([[-0.25, 0.75]], dtype=torch.float64)
    torch.testing.assert_close(logit_gradient(logits, x), expected)


def test_logit_gradient__rejects_bad_input() -> None:
    """形状、类型不对或 x 不是二值时报错。"""
    for logits, x, message in _bad_inputs():
        with pytest.raises(ValueError, match=message):
            logit_gradient(logits, x)  # type: ignore[arg-type]


def test_bits_per_dim__matches_python_loop() -> None:
    """等于逐个标量除以维数、再除以 ln 2。"""
    values = [17.1, 0.0, 44.5, 3.25]
    expected = torch.tensor([v / 13 / math.log(2) for v in values], dtype=torch.float64)
    actual = bits_per_dim(torch.tensor(values, dtype=torch.float64), 13)
    torch.testing.assert_close(actual, expected)


def test_bits_per_dim__equals_one_for_uniform() -> None:
    """二值变量逐个猜 1/2，不论多少维都恰好每维 1 bit。"""
    for n in (1, 64, 784):
        x = torch.ones(2, n, dtype=torch.float64)
        nll = -bernoulli_log_prob(torch.zeros_like(x), x)
        torch.testing.assert_close(bits_per_dim(nll, n), torch.ones(2, dtype=torch.float64))


def test_bits_per_dim__rejects_bad_input() -> None:
    """nll 不是一维浮点张量或 n 不是正整数时报错。"""
    for nll, n, message in (
        (torch.ones(2, 2), 3, "nll 的形状"),
        (torch.ones(2).long(), 3, "nll 必须是实浮点张量"),
        (torch.ones(2), 0, "n 必须是"),
        (torch.ones(2), 2.0, "n 必须是"),
    ):
        with pytest.raises(ValueError, match=message):
            bits_per_dim(nll, n)  # type: ignore[arg-type]
