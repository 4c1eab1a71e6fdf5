"""EM 各步、下界恒等式与惩罚似然的检验。"""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.naive_bayes import BernoulliNB
from torch import Tensor
from torch.distributions import Beta

from formulary.mnist_joint.mixture_em import (
    em_ascent_lines,
    em_step,
    evidence_lines,
    penalised_log_likelihood,
    responsibilities,
    semi_supervised_step,
    weighted_counts,
)
from formulary.mnist_joint.naive_bayes import fit_counts, naive_bayes_log_joint


def _problem(rows: int = 30, n: int = 5, classes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(81)
    x = (torch.rand(rows, n, generator=generator) < 0.4).double()
    theta = torch.rand(classes, n, dtype=torch.float64, generator=generator) * 0.8 + 0.1
    prior = torch.rand(classes, dtype=torch.float64, generator=generator) + 0.2
    return x, theta, prior / prior.sum()


def _posteriors(x: Tensor, theta: Tensor, prior: Tensor) -> tuple[list[list[float]], float]:
    """逐个标量算的后验与对数似然。"""
    rows, total = [], 0.0
    for image in x.tolist():
        joint = []
        for k in range(len(theta)):
            value = float(prior[k])
            for i, pixel in enumerate(image):
                value *= float(theta[k, i]) if pixel else 1 - float(theta[k, i])
            joint.append(value)
        rows.append([v / sum(joint) for v in joint])
        total += math.log(sum(joint))
    return rows, total


def test_responsibilities__matches_python_loop() -> None:
    """等于逐个标量相乘再归一化。"""
    x, theta, prior = _problem()
    expected, _ = _posteriors(x, theta, prior)
    torch.testing.assert_close(
        responsibilities(x, theta, prior), torch.tensor(expected, dtype=torch.float64)
    )


def test_responsibilities__is_gradient_of_log_likelihood() -> None:
    """对数似然对各项 log p(x, k) 的导数就是后验（自动求导）。"""
    x, theta, prior = _problem()
    log_joint = naive_bayes_log_joint(x, theta, prior).requires_grad_()
    (gradient,) = torch.autograd.grad(log_joint.logsumexp(dim=-1).sum(), log_joint)
    torch.testing.assert_close(responsibilities(x, theta, prior), gradient)


def test_responsibilities__rejects_impossible_sample() -> None:
    """有样本在每一类里概率都是零时报错。"""
    x, theta, prior = _problem()
    theta[:, 0] = 1 - x[0, 0]
    with pytest.raises(ValueError, match="后验没有定义"):
        responsibilities(x, theta, prior)


def test_weighted_counts__matches_fit_counts_for_one_hot() -> None:
    """权重是独热编码时，就是由标签计数的朴素贝叶斯；与 scikit-learn 的也相同。"""
    x, _, _ = _problem()
    y = torch.arange(30) % 3
    theta, prior = weighted_counts(x, torch.eye(3, dtype=torch.float64)[y], 0.7)
    expected_theta, expected_prior = fit_counts(x, y, 3, 0.7)
    torch.testing.assert_close(theta, expected_theta)
    torch.testing.assert_close(prior, expected_prior)
    reference = BernoulliNB(alpha=0.7, binarize=None).fit(x.numpy(), y.numpy())
    torch.testing.assert_close(theta, torch.tensor(np.exp(reference.feature_log_prob_)))


def test_weighted_counts__matches_python_loop() -> None:
    """等于逐个样本按权重累加。"""
    x, theta, prior = _problem()
    weights, _ = _posteriors(x, theta, prior)
    for alpha in (0.0, 1.3):
        expected = torch.zeros(3, 5, dtype=torch.float64)
        for k in range(3):
            total = sum(row[k] for row in weights)
            for i in range(5):
                on = sum(r[k] * image[i] for r, image in zip(weights, x.tolist(), strict=True))
                expected[k, i] = (on + alpha) / (total + 2 * alpha)
        found, shares = weighted_counts(x, torch.tensor(weights, dtype=torch.float64), alpha)
        torch.testing.assert_close(found, expected)
        assert math.isclose(shares[1].item(), sum(row[1] for row in weights) / 30)


def test_weighted_counts__is_map_under_beta_alpha_plus_one() -> None:
    """平滑量 α 的估计，是 Beta(α + 1, α + 1) 先验下的后验众数：那里梯度为零。"""
    x, _, _ = _problem()
    alpha, ones = 0.7, torch.ones(30, 1, dtype=torch.float64)
    theta = weighted_counts(x, ones, alpha)[0][0].requires_grad_()
    log_posterior = (x * theta.log() + (1 - x) * (1 - theta).log()).sum()
    strength = torch.tensor(alpha + 1, dtype=torch.float64)
    log_posterior = log_posterior + Beta(strength, strength).log_prob(theta).sum()
    (gradient,) = torch.autograd.grad(log_posterior, theta)
    # 三十几项相消到零，单项可达数十
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-11)


def test_weighted_counts__differs_from_map_under_beta_alpha() -> None:
    """若把先验认作 Beta(α, α)，众数是 (N1 + α − 1)/(N + 2α − 2)：α = 1 时根本没有平滑。"""
    x, _, _ = _problem()
    x[:, 0] = 0.0
    ones = torch.ones(30, 1, dtype=torch.float64)
    smoothed = weighted_counts(x, ones, 1.0)[0][0]
    wrong = (x.sum(dim=0) + 1 - 1) / (30 + 2 - 2)
    assert math.isclose(smoothed[0].item(), 1 / 32)
    assert wrong[0] == 0
    torch.testing.assert_close(wrong, x.mean(dim=0))


def test_weighted_counts__rejects_bad_input() -> None:
    """权重不是分布、行数不合、负平滑、空类而不平滑都报错。"""
    x, _, _ = _problem()
    weights = torch.full((30, 3), 1 / 3, dtype=torch.float64)
    empty = torch.eye(3, dtype=torch.float64)[torch.zeros(30, dtype=torch.long)]
    for image, shares, alpha, message in (
        (x, weights * 2, 1.0, "weights"),
        (x, weights[1:], 1.0, "weights 的形状"),
        (x + 0.5, weights, 1.0, "x 的元素"),
        (x, weights, -1.0, "smoothing"),
        (x, weights, math.inf, "smoothing"),
        (x, empty, 0.0, "第 1 列全是 0"),
    ):
        with pytest.raises(ValueError, match=message):
            weighted_counts(image, shares, alpha)


def test_penalised_log_likelihood__matches_python_loop() -> None:
    """等于逐个标量算出的对数似然，加上 α 乘以各 log θ + log(1 − θ) 之和。"""
    x, theta, prior = _problem()
    _, expected = _posteriors(x, theta, prior)
    for alpha in (0.0, 1.3):
        penalty = sum(math.log(t) + math.log(1 - t) for t in theta.flatten().tolist())
        actual = penalised_log_likelihood(x, theta, prior, alpha).item()
        assert math.isclose(actual, expected + alpha * penalty)


def test_penalised_log_likelihood__matches_beta_density() -> None:
    """与 torch.distributions 的 Beta(α + 1, α + 1) 对数密度只差一个常数。"""
    x, theta, prior = _problem()
    strength = torch.tensor(1.7 + 1, dtype=torch.float64)
    gaps = []
    for scale in (1.0, 0.5):
        plain = penalised_log_likelihood(x, theta * scale, prior, 0.0)
        density = Beta(strength, strength).log_prob(theta * scale).sum()
        gaps.append(penalised_log_likelihood(x, theta * scale, prior, 1.7) - plain - density)
    torch.testing.assert_close(gaps[0], gaps[1])


def test_penalised_log_likelihood__limit_no_smoothing() -> None:
    """不平滑时 θ 取 0 也不出 NaN：0·log 0 取 0。"""
    x, theta, prior = _problem()
    theta[1, 0] = 0.0
    assert penalised_log_likelihood(x, theta, prior, 0.0).isfinite()
    assert penalised_log_likelihood(x, theta, prior, 1.0) == -torch.inf


def test_penalised_log_likelihood__rejects_negative_smoothing() -> None:
    """平滑量是负数时报错。"""
    with pytest.raises(ValueError, match="smoothing"):
        penalised_log_likelihood(*_problem(), smoothing=-1.0)


def test_em_step__matches_python_loop() -> None:
    """一步更新等于逐个标量算的后验、逐个样本的加权计数。"""
    x, theta, prior = _problem()
    weights, _ = _posteriors(x, theta, prior)
    new_theta, new_prior, objective = em_step(x, theta, prior, 0.7)
    expected = torch.zeros(3, 5, dtype=torch.float64)
    for k in range(3):
        total = sum(row[k] for row in weights)
        assert math.isclose(new_prior[k].item(), total / 30)
        for i in range(5):
            on = sum(r[k] * image[i] for r, image in zip(weights, x.tolist(), strict=True))
            expected[k, i] = (on + 0.7) / (total + 1.4)
    torch.testing.assert_close(new_theta, expected)
    torch.testing.assert_close(objective, penalised_log_likelihood(x, theta, prior, 0.7))


def test_em_step__is_monotone() -> None:
    """六十步里惩罚似然从不下降，平滑与不平滑都如此。"""
    for alpha in (0.0, 1.0):
        x, theta, prior = _problem(rows=60)
        values = []
        for _ in range(60):
            theta, prior, objective = em_step(x, theta, prior, alpha)
            values.append(objective.item())
        steps = np.diff(values)
        assert (steps > -1e-9).all()
        assert steps[0] > 0.1


def test_em_step__limit_stationary_point() -> None:
    """收敛之后，惩罚似然对 θ 的梯度为零：不动点就是驻点。"""
    noise = torch.rand(40, 8, generator=torch.Generator().manual_seed(2)) < 0.1
    prototypes = torch.tensor([[1, 1, 1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 1, 1, 1, 1]])
    x = (prototypes[torch.arange(40) % 5 // 3] ^ noise).double()  # 六成与四成
    theta = torch.linspace(0.3, 0.7, 16, dtype=torch.float64).view(8, 2).T
    prior = torch.full((2,), 0.5, dtype=torch.float64)
    for _ in range(60):
        theta, prior, _ = em_step(x, theta, prior, 1.0)
    assert 0.55 < prior.max() < 0.65
    assert (theta[0] - theta[1]).abs().max() > 0.5
    theta = theta.requires_grad_()
    (gradient,) = torch.autograd.grad(penalised_log_likelihood(x, theta, prior, 1.0), theta)
    # EM 一阶收敛，残差取决于步数
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-9)


def test_em_step__is_stuck_at_symmetric_start() -> None:
    """各类的参数与先验都相同的起点，一步之后仍然全同：初值要错开。"""
    x, theta, _ = _problem()
    same, uniform = theta[:1].expand(3, 5), torch.full((3,), 1 / 3, dtype=torch.float64)
    new_theta, new_prior, _ = em_step(x, same, uniform, 1.0)
    torch.testing.assert_close(new_theta, new_theta[:1].expand(3, 5))
    torch.testing.assert_close(new_prior, uniform)


def test_em_step__equals_exercise() -> None:
    """练习四：样本 1 与 0、θ = (3/4, 1/4)：不平滑是不动点，α = 1 变成 (7/12, 5/12)。"""
    x = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    theta = torch.tensor([[0.75], [0.25]], dtype=torch.float64)
    prior = torch.full((2,), 0.5, dtype=torch.float64)
    still, weights, objective = em_step(x, theta, prior, 0.0)
    torch.testing.assert_close(still, theta)
    torch.testing.assert_close(weights, prior)
    assert math.isclose(objective.item(), -2 * math.log(2))
    moved, _, _ = em_step(x, theta, prior, 1.0)
    torch.testing.assert_close(moved[:, 0], torch.tensor([7 / 12, 5 / 12], dtype=torch.float64))


def test_em_step__rejects_bad_input() -> None:
    """先验不是分布时报错。"""
    x, theta, prior = _problem()
    with pytest.raises(ValueError, match="prior"):
        em_step(x, theta, prior * 2)


def test_semi_supervised_step__matches_python_loop() -> None:
    """有标签的按标签计数，没标签的按后验计数，两份相加。"""
    x, theta, prior = _problem()
    y = torch.tensor([2, 0, 1, 2, 2, 0, 2])
    weights, _ = _posteriors(x[7:], theta, prior)
    shares = [[float(k == label) for k in range(3)] for label in y.tolist()] + weights
    expected = torch.zeros(3, 5, dtype=torch.float64)
    for k in range(3):
        total = sum(row[k] for row in shares)
        for i in range(5):
            on = sum(r[k] * image[i] for r, image in zip(shares, x.tolist(), strict=True))
            expected[k, i] = (on + 0.7) / (total + 1.4)
    labelled = x[:7], torch.eye(3, dtype=torch.float64)[y]
    new_theta, new_prior = semi_supervised_step(labelled, x[7:], theta, prior, 0.7)
    torch.testing.assert_close(new_theta, expected)
    assert math.isclose(new_prior[2].item(), sum(row[2] for row in shares) / 30)


def test_semi_supervised_step__limit_all_labelled() -> None:
    """全都有标签时一步就到，与起点无关，等于 fit_counts。"""
    x, theta, prior = _problem()
    y = torch.arange(30) % 3
    labelled = x, torch.eye(3, dtype=torch.float64)[y]
    found = semi_supervised_step(labelled, x[:0], theta, prior, 0.7)
    for a, b in zip(found, fit_counts(x, y, 3, 0.7), strict=True):
        torch.testing.assert_close(a, b)


def test_semi_supervised_step__preserves_zero_prior() -> None:
    """起点先验为零、又没有标签的类，一步之后先验仍是零。"""
    x, theta, _ = _problem()
    labelled = x[:4], torch.eye(3, dtype=torch.float64)[torch.tensor([0, 1, 1, 0])]
    start = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    _, prior = semi_supervised_step(labelled, x[4:], theta, start, 0.7)
    assert prior[2] == 0
    assert (prior[:2] > 0).all()


def test_semi_supervised_step__is_helpful_only_with_few_labels() -> None:
    """digits 上 20 个标签时，无标签图像提高准确率；200 个标签时反而降低。"""
    data, labels = load_digits(return_X_y=True)
    split = np.random.RandomState(0).permutation(1797)
    x, y = torch.tensor(data >= 8).double()[split], torch.tensor(labels)[split]
    x_test, y_test = x[1500:], y[1500:]
    gains: dict[int, list[float]] = {20: [], 200: []}
    # 二十组划分、各三十步的平均是 +0.115 与 −0.065，标准误 0.025 与 0.005；这里少跑一些
    for count, seeds, steps in ((20, 2, 6), (200, 1, 30)):
        for seed in range(seeds):
            order = torch.from_numpy(np.random.RandomState(seed).permutation(1200))
            few, rest = order[:count], order[count:]
            theta, prior = fit_counts(x[few], y[few], 10)
            before = naive_bayes_log_joint(x_test, theta, prior).argmax(-1) == y_test
            one_hot = torch.eye(10, dtype=torch.float64)[y[few]]
            prior = (one_hot.sum(dim=0) + 1) / (count + 10)
            for _ in range(steps):
                theta, prior = semi_supervised_step((x[few], one_hot), x[rest], theta, prior)
            after = naive_bayes_log_joint(x_test, theta, prior).argmax(-1) == y_test
            gains[count].append((after.double().mean() - before.double().mean()).item())
    assert np.mean(gains[20]) > 0.02
    assert np.mean(gains[200]) < -0.02


def test_semi_supervised_step__rejects_bad_weights() -> None:
    """标签的编码不是分布时报错。"""
    x, theta, prior = _problem()
    with pytest.raises(ValueError, match="weights"):
        semi_supervised_step((x[:2], torch.zeros(2, 3, dtype=torch.float64)), x[2:], theta, prior)


def test_evidence_lines__matches_python_loop() -> None:
    """三项都等于逐个标量算出的值；权重里有零也不出 NaN。"""
    x, theta, prior = _problem(rows=4)
    posterior, _ = _posteriors(x, theta, prior)
    weights = [[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.0, 0.6, 0.4], [0.1, 0.1, 0.8]]
    found = evidence_lines(x, theta, prior, torch.tensor(weights, dtype=torch.float64))
    for row, (image, r, post) in enumerate(zip(x, weights, posterior, strict=True)):
        _, evidence = _posteriors(image[None], theta, prior)
        gap = sum(a * math.log(a / b) for a, b in zip(r, post, strict=True) if a)
        assert math.isclose(found[0][row].item(), evidence)
        assert math.isclose(found[2][row].item(), gap)
        assert math.isclose(found[1][row].item(), evidence - gap)


def test_evidence_lines__preserves_sum() -> None:
    """对任意权重，对数似然都等于下界加 KL；权重取后验时 KL 为零。"""
    x, theta, prior = _problem()
    generator = torch.Generator().manual_seed(9)
    weights = torch.rand(30, 3, dtype=torch.float64, generator=generator).softmax(dim=-1)
    evidence, bound, gap = evidence_lines(x, theta, prior, weights)
    torch.testing.assert_close(evidence, bound + gap)
    assert (gap > 0).all()
    _, tight, nothing = evidence_lines(x, theta, prior, responsibilities(x, theta, prior))
    torch.testing.assert_close(tight, evidence)
    torch.testing.assert_close(nothing, torch.zeros_like(nothing), rtol=0, atol=1e-12)


def test_evidence_lines__rejects_bad_weights() -> None:
    """权重的行不是分布、形状不合都报错。"""
    x, theta, prior = _problem()
    for weights in (torch.ones(30, 3), torch.full((29, 3), 1 / 3)):
        with pytest.raises(ValueError, match="weights"):
            evidence_lines(x, theta, prior, weights.double())


def test_em_ascent_lines__matches_python_loop() -> None:
    """三个数都等于逐个标量算出的目标与下界。"""
    x, theta, prior = _problem()
    weights, before = _posteriors(x, theta, prior)
    new_theta, new_prior = weighted_counts(x, torch.tensor(weights, dtype=torch.float64), 0.7)
    new_weights, after = _posteriors(x, new_theta, new_prior)

    def penalty(tables: Tensor) -> float:
        return 0.7 * sum(math.log(t * (1 - t)) for t in tables.flatten().tolist())

    gap = sum(
        old * math.log(old / new)
        for r, s in zip(weights, new_weights, strict=True)
        for old, new in zip(r, s, strict=True)
    )
    expected = [after + penalty(new_theta), after - gap + penalty(new_theta)]
    expected.append(before + penalty(theta))
    found = torch.stack(em_ascent_lines(x, theta, prior, 0.7))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_em_ascent_lines__is_descending() -> None:
    """从随机的起点走二十步，三个数每步都从大到小。"""
    for alpha in (0.0, 1.0):
        x, theta, prior = _problem()
        for _ in range(20):
            after, bound, before = em_ascent_lines(x, theta, prior, alpha)
            assert after >= bound - 1e-9
            assert bound >= before - 1e-9
            theta, prior, _ = em_step(x, theta, prior, alpha)


def test_em_ascent_lines__rejects_bad_prior() -> None:
    """先验不是分布时报错。"""
    x, theta, prior = _problem()
    with pytest.raises(ValueError, match="prior"):
        em_ascent_lines(x, theta, prior * 2)
