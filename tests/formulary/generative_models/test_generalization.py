"""风险分解与 k/2N 的检验。"""

import itertools
import math

import pytest
import scipy.optimize
import scipy.special
import scipy.stats
import torch
from torch import Tensor

from formulary.generative_models.generalization import (
    expected_quadratic_excess,
    quadratic_excess,
    risk_decomposition,
    sample_counts,
    simulate_excess_kl,
)

P = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
SKEWED = torch.tensor([0.3, 0.2, 0.15, 0.1, 0.08, 0.07, 0.06, 0.04], dtype=torch.float64)
STATISTIC = (0.0, 1.0, 3.0)  # 单参数指数族 p_θ(k) ∝ exp(θ s_k)


def _member(theta: float) -> list[float]:
    weights = [math.exp(theta * s) for s in STATISTIC]
    return [w / sum(weights) for w in weights]


def _kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def _all_datasets(p: list[float], samples: int) -> tuple[list[list[float]], list[float]]:
    """全部 3^samples 个数据集：频率，以及各自的概率。"""
    frequencies, weights = [], []
    for data in itertools.product(range(3), repeat=samples):
        frequencies.append([data.count(k) / samples for k in range(3)])
        weights.append(math.prod(p[k] for k in data))
    return frequencies, weights


def _family_case() -> tuple[list[float], list[float], list[list[float]], list[float]]:
    """3 个状态、4 个样本：θ 限制在 [−2, 2] 的最大似然估计，81 个数据集全部列举。"""
    p = P.tolist()

    def fit(target: list[float]) -> list[float]:
        found = scipy.optimize.minimize_scalar(
            lambda theta: (
                -sum(t * math.log(q) for t, q in zip(target, _member(theta), strict=True))
            ),
            bounds=(-2, 2),
            method="bounded",
            options={"xatol": 1e-12},
        )
        return _member(found.x)

    frequencies, weights = _all_datasets(p, 4)
    fitted = {tuple(f): fit(f) for f in frequencies}
    return p, fit(p), [fitted[tuple(f)] for f in frequencies], weights


def _as_tensors(*values: object) -> list[Tensor]:
    return [torch.tensor(value, dtype=torch.float64) for value in values]


def test_risk_decomposition__matches_enumeration_of_datasets() -> None:
    """列举 81 个数据集，用 Python 循环求三个量，与函数相同，而且第一个是后两个之和。"""
    p, projection, estimates, weights = _family_case()
    risk = sum(w * _kl(p, q) for w, q in zip(weights, estimates, strict=True))
    approximation = _kl(p, projection)
    estimation = sum(
        w * sum(a * math.log(b / c) for a, b, c in zip(p, projection, q, strict=True))
        for w, q in zip(weights, estimates, strict=True)
    )
    actual = risk_decomposition(*_as_tensors(p, projection, estimates, weights))
    expected = _as_tensors(risk, approximation, estimation)
    torch.testing.assert_close(list(actual), expected)
    torch.testing.assert_close(actual[0], actual[1] + actual[2])
    assert actual[1] > 0.004
    assert actual[2] > 0.01


def test_risk_decomposition__equals_projection_risk_in_exponential_family() -> None:
    """指数族里估计误差等于 E D(p_θ*‖p_θ̂)：投影与 p 的充分统计量期望相同。"""
    p, projection, estimates, weights = _family_case()
    _, _, estimation = risk_decomposition(*_as_tensors(p, projection, estimates, weights))
    pythagorean = sum(w * _kl(projection, q) for w, q in zip(weights, estimates, strict=True))
    # 一维搜索把 θ* 求到约 1e-8，两边在 θ* 处的差是一阶的
    expected = torch.tensor(pythagorean, dtype=torch.float64)
    torch.testing.assert_close(estimation, expected, rtol=1e-6, atol=1e-6)


def test_risk_decomposition__equals_worked_example() -> None:
    """手算一例：p = (1/2, 1/4, 1/4)，族里只有均匀分布与 (0.6, 0.2, 0.2)。"""
    p, projection = _as_tensors([0.5, 0.25, 0.25], [0.6, 0.2, 0.2])
    estimates = torch.stack((projection, torch.full((3,), 1 / 3, dtype=torch.float64)))
    actual = risk_decomposition(p, projection, estimates, torch.tensor([0.75, 0.25]).double())
    near = 0.5 * math.log(5 / 6) + 0.5 * math.log(5 / 4)
    far = 0.5 * math.log(3 / 2) + 0.5 * math.log(3 / 4)
    expected = _as_tensors(0.75 * near + 0.25 * far, near, 0.25 * (far - near))
    torch.testing.assert_close(list(actual), expected)
    assert [round(term.item(), 4) for term in actual] == [0.0300, 0.0204, 0.0096]


def test_risk_decomposition__differs_from_wrong_projection() -> None:
    """拿一个不是投影的成员当 θ*，“估计误差”就可能是负的。"""
    p, projection, _, _ = _family_case()
    estimates = torch.tensor([projection], dtype=torch.float64)
    wrong = torch.tensor(_member(1.0), dtype=torch.float64)
    terms = risk_decomposition(*_as_tensors(p), wrong, estimates, torch.ones(1).double())
    assert terms[2] < -0.1


def test_risk_decomposition__is_finite_with_impossible_states() -> None:
    """数据里概率为零的状态不计，模型在那里取零也无妨。"""
    p = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    q = torch.tensor([[0.25, 0.75, 0.0]], dtype=torch.float64)
    risk, approximation, estimation = risk_decomposition(p, p, q, torch.ones(1).double())
    expected = torch.tensor(-0.5 * math.log(0.75), dtype=torch.float64)
    torch.testing.assert_close(risk, expected)
    torch.testing.assert_close(estimation, expected)
    torch.testing.assert_close(approximation, torch.zeros((), dtype=torch.float64))


def test_risk_decomposition__rejects_bad_distributions() -> None:
    """不是概率分布、形状不合的参数被拒绝，报错指出是哪一个。"""
    good, row, one = P, P[None], torch.ones(1).double()
    cases = (
        ("p", (good * 2, good, row, one)),
        ("projection", (good, good - 0.1, row, one)),
        ("estimates", (good, good, row[:, :2], one)),
        ("estimates", (good, good, row * 0.5, one)),
        ("weights", (good, good, row, one / 2)),
        ("weights", (good, good, row, torch.ones(2).double() / 2)),
    )
    for name, arguments in cases:
        with pytest.raises(ValueError, match=name):
            risk_decomposition(*arguments)


def test_quadratic_excess__matches_scipy_chisquare() -> None:
    """等于 scipy 的 Pearson 卡方统计量除以 2N。"""
    counts = torch.tensor([[31.0, 9.0, 10.0], [20.0, 20.0, 10.0]], dtype=torch.float64)
    expected = [
        scipy.stats.chisquare(row, 50 * P.numpy()).statistic / 100 for row in counts.numpy()
    ]
    actual = quadratic_excess(P, counts / 50)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_quadratic_excess__limit_matches_kl() -> None:
    """偏差减半，与 KL 散度之差缩到约八分之一：首个略去的是三阶项。"""
    delta = torch.tensor([0.02, -0.035, 0.015], dtype=torch.float64)
    errors = []
    for scale in (1.0, 0.5, 0.25):
        q = P + scale * delta
        exact = (P * (P / q).log()).sum()
        errors.append((exact - quadratic_excess(P, q)).item())
    assert errors[0] / errors[1] == pytest.approx(8, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(8, rel=0.08)


def test_quadratic_excess__equals_worked_example() -> None:
    """手算一例：p = (1/2, 1/2)，偏差 0.1，二阶近似 0.02，KL 散度 0.0204。"""
    p, q = _as_tensors([0.5, 0.5], [0.6, 0.4])
    torch.testing.assert_close(quadratic_excess(p, q), torch.tensor(0.02, dtype=torch.float64))
    assert round((p * (p / q).log()).sum().item(), 4) == 0.0204


def test_quadratic_excess__rejects_zero_probability() -> None:
    """数据分布有零、模型不是分布或形状不合时报错。"""
    with pytest.raises(ValueError, match="p 的元素必须为正"):
        quadratic_excess(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]))
    with pytest.raises(ValueError, match="estimate"):
        quadratic_excess(P, P * 2)
    with pytest.raises(ValueError, match="estimate"):
        quadratic_excess(P, P[:2])


def test_expected_quadratic_excess__matches_enumeration() -> None:
    """列举 3 个状态、5 个样本的 243 个数据集，二阶超额风险的精确期望与迹公式相同。"""
    p = P.tolist()
    expected = 0.0
    for frequency, weight in zip(*_all_datasets(p, 5), strict=True):
        expected += weight * sum((f - a) ** 2 / a for f, a in zip(frequency, p, strict=True)) / 2
    torch.testing.assert_close(
        expected_quadratic_excess(P, 5), torch.tensor(expected, dtype=torch.float64)
    )


def test_expected_quadratic_excess__matches_autograd_fisher() -> None:
    """费希尔信息阵换成自动求导的海森阵，协方差阵换成 scipy 的多项分布协方差，结果相同。"""

    def divergence(free: Tensor) -> Tensor:
        q = torch.cat((free, 1 - free.sum()[None]))
        return (SKEWED * (SKEWED / q).log()).sum()

    fisher = torch.autograd.functional.hessian(divergence, SKEWED[:-1])
    covariance = torch.tensor(scipy.stats.multinomial(30, SKEWED.numpy()).cov())[:-1, :-1] / 900
    expected = (fisher @ covariance).trace() / 2
    torch.testing.assert_close(expected_quadratic_excess(SKEWED, 30), expected)


def test_expected_quadratic_excess__equals_parameters_over_twice_samples() -> None:
    """不论 p 是什么，结果都是 (K − 1)/2N。"""
    for p in (P, SKEWED, torch.tensor([0.999, 0.001], dtype=torch.float64)):
        expected = torch.tensor((len(p) - 1) / 14, dtype=torch.float64)
        torch.testing.assert_close(expected_quadratic_excess(p, 7), expected)


def test_expected_quadratic_excess__equals_coin_exercise() -> None:
    """练习：均匀硬币抛 100 次，超额风险约 0.005 nat；降到 0.001 要 500 次。"""
    coin = torch.tensor([0.5, 0.5], dtype=torch.float64)
    for samples, expected in ((100, 0.005), (500, 0.001)):
        actual = expected_quadratic_excess(coin, samples)
        torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_expected_quadratic_excess__rejects_bad_input() -> None:
    """分布有零、样本数不是正整数时报错。"""
    with pytest.raises(ValueError, match="p 的元素必须为正"):
        expected_quadratic_excess(torch.tensor([1.0, 0.0]), 3)
    with pytest.raises(ValueError, match="samples"):
        expected_quadratic_excess(P, 0)


def test_sample_counts__matches_scipy_multinomial() -> None:
    """3 个样本的 10 种计数，出现频率与 scipy 的多项分布相差不超过 5 个标准误。"""
    repeats = 40_000
    counts = sample_counts(P, 3, repeats, torch.Generator().manual_seed(0))
    for outcome in itertools.product(range(4), repeat=3):
        if sum(outcome) == 3:
            share = (counts == torch.tensor(outcome)).all(-1).double().mean().item()
            exact = scipy.stats.multinomial.pmf(outcome, 3, P.numpy())
            # 标准误至多 0.0025，换掉任何两个状态都会差出 0.05 以上
            assert abs(share - exact) <= 5 * math.sqrt(exact * (1 - exact) / repeats)


def test_sample_counts__preserves_total() -> None:
    """每个数据集的计数之和都是样本数，计数是非负整数。"""
    counts = sample_counts(SKEWED, 17, 500, torch.Generator().manual_seed(1))
    torch.testing.assert_close(counts.sum(-1), torch.full((500,), 17.0, dtype=torch.float64))
    assert (counts >= 0).all()
    assert torch.equal(counts, counts.round())


def test_sample_counts__rejects_bad_input() -> None:
    """分布有零、样本数或重复次数不是正整数时报错。"""
    generator = torch.Generator()
    with pytest.raises(ValueError, match="p 的元素必须为正"):
        sample_counts(torch.tensor([0.5, 0.5, 0.0]), 3, 2, generator)
    with pytest.raises(ValueError, match="samples"):
        sample_counts(P, 0, 2, generator)
    with pytest.raises(ValueError, match="repeats"):
        sample_counts(P, 3, 0, generator)


def _second_order(p: Tensor, samples: int) -> float:
    """k/2N 加上 N⁻² 项：(5/12) Σ 1/p − K/2 + 1/12，由多项分布的三、四阶矩得到。"""
    states, inverse = len(p), (1 / p).sum().item()
    correction = 5 / 12 * inverse - states / 2 + 1 / 12
    return (states - 1) / (2 * samples) + correction / samples**2


def test_simulate_excess_kl__matches_second_order_expansion() -> None:
    """与展开到 N⁻² 的理论值相差不超过 5 个标准误；这足以分辨一阶与二阶。"""
    p = torch.tensor([0.4, 0.35, 0.25], dtype=torch.float64)
    for samples in (100, 400):
        generator = torch.Generator().manual_seed(samples)
        mean, error, _ = simulate_excess_kl(p, samples, 100_000, generator)
        assert abs(mean.item() - _second_order(p, samples)) <= 5 * error.item()
    # 少算一个参数或多算一个，差 1/2N，是标准误的几十倍
    assert 20 * error.item() < 1 / 800
    # 文中 8 个状态的理论值，模拟值在正文里
    assert round(_second_order(SKEWED, 500), 5) == 0.00714
    assert round(_second_order(SKEWED, 2000), 6) == 0.001759


def test_simulate_excess_kl__matches_scipy_samples() -> None:
    """与 scipy 抽样、scipy 求相对熵得到的平均相差不超过 5 个合并标准误。"""
    samples, repeats = 500, 4000
    draws = scipy.stats.multinomial(samples, SKEWED.numpy()).rvs(repeats, random_state=3)
    values = torch.tensor(scipy.stats.entropy(SKEWED.numpy()[None], draws / samples, axis=-1))
    mean, error, _ = simulate_excess_kl(SKEWED, samples, repeats, torch.Generator().manual_seed(4))
    pooled = math.hypot(error.item(), values.std().item() / repeats**0.5)
    assert abs(mean.item() - values.mean().item()) <= 5 * pooled
    ratio = error.item() / (values.std().item() / repeats**0.5)
    assert 0.9 < ratio < 1.1  # 标准误本身也对得上


def test_simulate_excess_kl__limit_is_parameters_over_twice_samples() -> None:
    """N 不小于 2000 时与 k/2N 之比在 1 ± 0.03 以内。"""
    for samples in (2000, 5000):
        generator = torch.Generator().manual_seed(1)
        mean, _, law = simulate_excess_kl(SKEWED, samples, 20_000, generator)
        assert law == 7 / (2 * samples)
        assert 0.97 < mean.item() / law < 1.03


def test_simulate_excess_kl__limit_of_missing_states_is_infinite() -> None:
    """只有一个样本时总有状态没见过，D(p‖p̂) 是无穷大。"""
    mean, _, _ = simulate_excess_kl(P, 1, 5, torch.Generator().manual_seed(0))
    assert mean.item() == math.inf


def test_simulate_excess_kl__rejects_single_repeat() -> None:
    """只重复一次求不出标准误，报错指出 repeats。"""
    with pytest.raises(ValueError, match="repeats"):
        simulate_excess_kl(P, 10, 1, torch.Generator())
