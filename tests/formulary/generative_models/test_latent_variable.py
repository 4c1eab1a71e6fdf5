"""证据下界的推导、线性高斯模型的闭式与高斯 KL 散度的检验。"""

import math

import pytest
import scipy.integrate
import scipy.stats
import torch
from sklearn.decomposition import PCA
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

from formulary.generative_models.latent_variable import (
    elbo_derivation,
    elbo_gap,
    gaussian_kl,
    linear_gaussian_elbo,
    linear_gaussian_log_prob,
    linear_gaussian_posterior,
)

NOISE = 0.7


def _case() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """n = 5、m = 3 的观测、载荷，与随意取的近似后验。"""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, dtype=torch.float64, generator=generator)
    weight = torch.randn(5, 3, dtype=torch.float64, generator=generator)
    mean = torch.randn(3, dtype=torch.float64, generator=generator)
    log_variance = torch.randn(3, dtype=torch.float64, generator=generator)
    return x, weight, mean, log_variance


def _marginal(weight: Tensor, noise: float) -> MultivariateNormal:
    n = len(weight)
    covariance = weight @ weight.T + noise**2 * torch.eye(n, dtype=torch.float64)
    return MultivariateNormal(torch.zeros(n, dtype=torch.float64), covariance)


def _posterior(x: Tensor, weight: Tensor, noise: float) -> MultivariateNormal:
    """由 (z, x) 的联合高斯按条件高斯的公式得到，与精度矩阵的写法无关。"""
    marginal = _marginal(weight, noise).covariance_matrix
    gain = weight.T @ torch.linalg.inv(marginal)  # (m, n)
    covariance = torch.eye(weight.shape[1], dtype=torch.float64) - gain @ weight
    return MultivariateNormal(gain @ x, (covariance + covariance.T) / 2)


PRIOR = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
LIKELIHOOD = torch.tensor([0.1, 0.8, 0.4], dtype=torch.float64)
Q = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)


def test_elbo_derivation__matches_python_loop() -> None:
    """四行的值与逐个状态的循环相同。"""
    p, f, q = PRIOR.tolist(), LIKELIHOOD.tolist(), Q.tolist()
    evidence = math.log(sum(a * b for a, b in zip(p, f, strict=True)))
    outside = sum(c * math.log(a * b / c) for a, b, c in zip(p, f, q, strict=True))
    bound = sum(c * math.log(b) for b, c in zip(f, q, strict=True))
    bound -= scipy.stats.entropy(q, p)
    expected = torch.tensor([evidence, evidence, outside, bound], dtype=torch.float64)
    torch.testing.assert_close(torch.stack(elbo_derivation(PRIOR, LIKELIHOOD, Q)), expected)
    assert evidence > outside + 0.1


def test_elbo_derivation__limit_of_exact_posterior_is_tight() -> None:
    """q 取精确后验时四行全部相等。"""
    posterior = PRIOR * LIKELIHOOD / (PRIOR @ LIKELIHOOD)
    lines = torch.stack(elbo_derivation(PRIOR, LIKELIHOOD, posterior))
    torch.testing.assert_close(lines, lines[:1].expand(4))


def test_elbo_derivation__equals_worked_example() -> None:
    """手算一例：先验与 q 都各半、似然 0.8 与 0.2：log p(x) = −0.6931，ELBO = −0.9163。"""
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    lines = elbo_derivation(half, torch.tensor([0.8, 0.2], dtype=torch.float64), half)
    exact = torch.tensor([math.log(0.5)] * 2 + [0.5 * math.log(0.16)] * 2, dtype=torch.float64)
    torch.testing.assert_close(torch.stack(lines), exact)
    # 到精确后验 (0.8, 0.2) 的 KL 散度就是这个差
    gap = scipy.stats.entropy([0.5, 0.5], [0.8, 0.2])
    torch.testing.assert_close(lines[0] - lines[2], torch.tensor(gap, dtype=torch.float64))
    assert [round(value, 4) for value in (exact[0].item(), exact[2].item(), gap)] == [
        -0.6931,
        -0.9163,
        0.2231,
    ]


def test_elbo_derivation__rejects_bad_input() -> None:
    """先验或 q 不是分布、q 有零、似然越界时报错。"""
    cases = (
        ("prior", (PRIOR * 2, LIKELIHOOD, Q)),
        ("likelihood", (PRIOR, LIKELIHOOD * 2, Q)),
        ("likelihood", (PRIOR, LIKELIHOOD[:2], Q)),
        ("q 沿", (PRIOR, LIKELIHOOD, Q / 2)),
        ("q 的元素必须为正", (PRIOR, LIKELIHOOD, torch.tensor([1.0, 0.0, 0.0]).double())),
    )
    for message, arguments in cases:
        with pytest.raises(ValueError, match=message):
            elbo_derivation(*arguments)


def test_gaussian_kl__matches_torch_distributions() -> None:
    """与 torch.distributions.kl_divergence 相同，前导轴保留。"""
    generator = torch.Generator().manual_seed(1)
    mean, log_variance = torch.randn(2, 4, 5, 3, dtype=torch.float64, generator=generator)
    standard = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    expected = torch.distributions.kl_divergence(
        Normal(mean, torch.exp(log_variance / 2)), standard
    ).sum(-1)
    torch.testing.assert_close(gaussian_kl(mean, log_variance), expected)


def test_gaussian_kl__matches_quadrature() -> None:
    """一维情形与 scipy 的数值积分相同。"""
    mean, variance = 0.8, 0.3
    q, p = scipy.stats.norm(mean, variance**0.5), scipy.stats.norm()
    expected, _ = scipy.integrate.quad(
        lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), -6, 7, epsabs=1e-12
    )
    actual = gaussian_kl(*torch.tensor([[mean], [math.log(variance)]], dtype=torch.float64))
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_gaussian_kl__equals_worked_example() -> None:
    """手算一例：μ = 1、σ² = 1 得 0.5；μ = 0、σ² = 1/4 得 (1/4 + log 4 − 1)/2 = 0.3181。"""
    mean = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    log_variance = torch.tensor([[0.0], [-math.log(4)]], dtype=torch.float64)
    expected = torch.tensor([0.5, 0.5 * (math.log(4) - 0.75)], dtype=torch.float64)
    torch.testing.assert_close(gaussian_kl(mean, log_variance), expected)
    assert round(expected[1].item(), 4) == 0.3181


def test_gaussian_kl__rejects_mismatched_shapes() -> None:
    """两个参数的形状不同，或不是浮点张量时报错。"""
    with pytest.raises(ValueError, match="log_variance"):
        gaussian_kl(torch.zeros(2, 3), torch.zeros(2))
    with pytest.raises(ValueError, match="mean"):
        gaussian_kl(torch.zeros(3, dtype=torch.int64), torch.zeros(3))


def test_linear_gaussian_log_prob__matches_torch_distributions() -> None:
    """与 torch 的多元正态 N(0, W Wᵀ + s² I) 相同。"""
    x, weight, _, _ = _case()
    expected = _marginal(weight, NOISE).log_prob(x)
    torch.testing.assert_close(linear_gaussian_log_prob(x, weight, NOISE), expected)


def test_linear_gaussian_log_prob__matches_sklearn_pca() -> None:
    """参数取 sklearn 的 PCA 拟合值时，与它的概率主成分分析得分相同。"""
    data = torch.randn(40, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    data = data * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.3], dtype=torch.float64)
    data = data - data.mean(0)
    model = PCA(2).fit(data.numpy())
    scales = torch.tensor(model.explained_variance_ - model.noise_variance_).sqrt()
    weight = torch.tensor(model.components_).T * scales
    expected = torch.tensor(model.score_samples(data.numpy()))
    actual = [linear_gaussian_log_prob(x, weight, model.noise_variance_**0.5) for x in data]
    torch.testing.assert_close(torch.stack(actual), expected)


def test_linear_gaussian_log_prob__limit_of_zero_loadings() -> None:
    """W = 0 时是各维独立的正态。"""
    x, weight, _, _ = _case()
    expected = Normal(0.0, NOISE).log_prob(x).sum()
    torch.testing.assert_close(linear_gaussian_log_prob(x, weight * 0, NOISE), expected)


def test_linear_gaussian_log_prob__rejects_bad_noise() -> None:
    """噪声的标准差不是正数、载荷的行数不合时报错。"""
    x, weight, _, _ = _case()
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="noise_scale"):
            linear_gaussian_log_prob(x, weight, wrong)
    with pytest.raises(ValueError, match="weight"):
        linear_gaussian_log_prob(x, weight[:4], NOISE)


def test_linear_gaussian_posterior__matches_joint_conditioning() -> None:
    """与由联合高斯求条件分布得到的均值、协方差相同。"""
    x, weight, _, _ = _case()
    mean, precision = linear_gaussian_posterior(x, weight, NOISE)
    oracle = _posterior(x, weight, NOISE)
    torch.testing.assert_close(mean, oracle.mean)
    torch.testing.assert_close(torch.linalg.inv(precision), oracle.covariance_matrix)


def test_linear_gaussian_posterior__limit_of_large_noise_is_prior() -> None:
    """噪声极大时观测说明不了什么，后验回到先验。"""
    x, weight, _, _ = _case()
    mean, precision = linear_gaussian_posterior(x, weight, 1e9)
    torch.testing.assert_close(mean, torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(precision, torch.eye(3, dtype=torch.float64))


def test_linear_gaussian_posterior__rejects_bad_shapes() -> None:
    """x 不是一维、载荷行数不合时报错。"""
    x, weight, _, _ = _case()
    with pytest.raises(ValueError, match="x 的形状"):
        linear_gaussian_posterior(x[None], weight, NOISE)
    with pytest.raises(ValueError, match="weight"):
        linear_gaussian_posterior(x, weight.T, NOISE)


def test_linear_gaussian_elbo__matches_monte_carlo() -> None:
    """与 torch.distributions 抽 20 万个 z 求的平均相差不超过 5 个标准误。"""
    x, weight, mean, log_variance = _case()
    scale = torch.exp(log_variance / 2)
    noise = torch.randn(200_000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    z = mean + scale * noise
    values = Normal(z @ weight.T, NOISE).log_prob(x).sum(-1)
    values += Normal(0.0, 1.0).log_prob(z).sum(-1) - Normal(mean, scale).log_prob(z).sum(-1)
    actual = linear_gaussian_elbo(x, weight, NOISE, mean, log_variance)
    error = values.std() / 200_000**0.5
    assert (values.mean() - actual).abs() <= 5 * error
    assert 5 * error < 0.5  # KL 散度约 2.6 nat，漏掉它或弄反它的符号都看得出来


def test_linear_gaussian_elbo__matches_quadrature() -> None:
    """一维隐变量时与 scipy 的数值积分相同。"""
    x, weight, mean, log_variance = _case()
    x, weight, mean, log_variance = x[:2], weight[:2, :1], mean[:1], log_variance[:1]
    q = scipy.stats.norm(mean.item(), math.exp(log_variance.item() / 2))

    def integrand(z: float) -> float:
        outputs = (weight[:, 0] * z).tolist()
        log_joint = scipy.stats.norm.logpdf(x.tolist(), outputs, NOISE).sum()
        log_joint += scipy.stats.norm.logpdf(z)
        return q.pdf(z) * (log_joint - q.logpdf(z))

    expected, _ = scipy.integrate.quad(
        integrand, q.mean() - 10 * q.std(), q.mean() + 10 * q.std(), epsabs=1e-11
    )
    actual = linear_gaussian_elbo(x, weight, NOISE, mean, log_variance)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_linear_gaussian_elbo__bounds_log_prob_from_below() -> None:
    """随机取 200 个近似后验，ELBO 从不超过 log p(x)。"""
    x, weight, _, _ = _case()
    evidence = linear_gaussian_log_prob(x, weight, NOISE)
    generator = torch.Generator().manual_seed(4)
    for _ in range(200):
        mean, log_variance = torch.randn(2, 3, dtype=torch.float64, generator=generator)
        assert linear_gaussian_elbo(x, weight, NOISE, mean, log_variance) < evidence


def test_linear_gaussian_elbo__equals_worked_example() -> None:
    """手算一例：W = 1、s = 1、x = 2，q 取精确后验 N(1, 1/2) 时 ELBO 就是 log p(x) = −2.2655。"""
    x, weight = torch.tensor([2.0]).double(), torch.tensor([[1.0]]).double()
    log_variance = torch.tensor([-math.log(2)], dtype=torch.float64)
    actual = linear_gaussian_elbo(x, weight, 1.0, torch.ones(1).double(), log_variance)
    expected = torch.tensor(-0.5 * math.log(4 * math.pi) - 1, dtype=torch.float64)
    torch.testing.assert_close(actual, expected)
    assert round(actual.item(), 4) == -2.2655


def test_linear_gaussian_elbo__differs_from_mean_reduced_reconstruction() -> None:
    """重构项对像素取平均、KL 散度却求和，等于把 KL 的系数放大到 n 倍：最优的 q 被拉向先验。"""
    x, weight, _, _ = _case()
    weight = torch.linalg.qr(weight).Q  # 列正交，后验的协方差是对角的
    n, m = weight.shape

    def best_variance(beta: float) -> Tensor:
        # 逐维求 E log p(x|z) − β·KL 的最优方差：β/(1/s² + β)
        log_variance = torch.zeros(m, dtype=torch.float64, requires_grad=True)
        mean = torch.zeros(m, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS((log_variance, mean), max_iter=200, tolerance_grad=1e-10)

        def closure() -> Tensor:
            optimizer.zero_grad()
            bound = linear_gaussian_elbo(x, weight, NOISE, mean, log_variance)
            loss = -bound + (beta - 1) * gaussian_kl(mean, log_variance)
            loss.backward()
            return loss

        optimizer.step(closure)
        return log_variance.detach().exp()

    right, wrong = best_variance(1.0), best_variance(float(n))
    exact = torch.linalg.inv(linear_gaussian_posterior(x, weight, NOISE)[1]).diagonal()
    # LBFGS 停在梯度约 1e-10 处
    torch.testing.assert_close(right, exact, rtol=1e-5, atol=1e-6)
    biased = torch.full((m,), n / (1 / NOISE**2 + n), dtype=torch.float64)
    torch.testing.assert_close(wrong, biased, rtol=1e-5, atol=1e-6)
    assert [round(v, 3) for v in (right[0].item(), wrong[0].item())] == [0.329, 0.710]


def test_linear_gaussian_elbo__rejects_bad_shapes() -> None:
    """均值的维数与载荷的列数不合时报错。"""
    x, weight, mean, log_variance = _case()
    with pytest.raises(ValueError, match="mean"):
        linear_gaussian_elbo(x, weight, NOISE, mean[:2], log_variance[:2])
    with pytest.raises(ValueError, match="log_variance"):
        linear_gaussian_elbo(x, weight, NOISE, mean, log_variance[:2])


def test_elbo_gap__matches_torch_distributions() -> None:
    """两端都等于 torch.distributions 算的 D(q‖p(z|x))。"""
    x, weight, mean, log_variance = _case()
    q = MultivariateNormal(mean, torch.diag(log_variance.exp()))
    expected = torch.distributions.kl_divergence(q, _posterior(x, weight, NOISE))
    difference, divergence = elbo_gap(x, weight, NOISE, mean, log_variance)
    torch.testing.assert_close(difference, expected)
    torch.testing.assert_close(divergence, expected)


def test_elbo_gap__limit_of_exact_posterior_is_zero() -> None:
    """后验恰为对角高斯时，取它作 q，两端都是零。"""
    x, weight, _, _ = _case()
    weight = torch.linalg.qr(weight).Q * torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64)
    mean, precision = linear_gaussian_posterior(x, weight, NOISE)
    gap = elbo_gap(x, weight, NOISE, mean, -precision.diagonal().log())
    torch.testing.assert_close(torch.stack(gap), torch.zeros(2, dtype=torch.float64))


def test_elbo_gap__equals_worked_example() -> None:
    """手算一例：W = 1、s = 1、x = 2，q 取先验 N(0, 1)，差是 (2 + 2 − 1 − log 2)/2 = 1.1534。"""
    x, weight = torch.tensor([2.0]).double(), torch.tensor([[1.0]]).double()
    zero = torch.zeros(1, dtype=torch.float64)
    expected = torch.tensor(0.5 * (3 - math.log(2)), dtype=torch.float64)
    for side in elbo_gap(x, weight, 1.0, zero, zero):
        torch.testing.assert_close(side, expected)
    assert round(expected.item(), 4) == 1.1534


def test_elbo_gap__is_positive_for_correlated_posterior() -> None:
    """后验有相关时，对角高斯族里最好的 q 也填不满：剩下的差是 ½(Σ log Λ_jj − log det Λ)。"""
    x, weight, _, _ = _case()
    mean, precision = linear_gaussian_posterior(x, weight, NOISE)
    log_variance = -precision.diagonal().log()
    expected = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    difference, _ = elbo_gap(x, weight, NOISE, mean, log_variance)
    torch.testing.assert_close(difference, expected)
    assert expected > 0.05
    generator = torch.Generator().manual_seed(5)
    for _ in range(50):
        shift = 0.2 * torch.randn(3, dtype=torch.float64, generator=generator)
        assert elbo_gap(x, weight, NOISE, mean, log_variance + shift)[0] > expected


def test_elbo_gap__equals_explaining_away_exercise() -> None:
    """练习：x = z₁ + z₂ + 噪声，后验负相关，最好的对角高斯还差 ½ log(4/3) = 0.1438 nat。"""
    weight = torch.ones(1, 2, dtype=torch.float64)
    for value in (0.0, 3.0):
        x = torch.tensor([value], dtype=torch.float64)
        mean, precision = linear_gaussian_posterior(x, weight, 1.0)
        torch.testing.assert_close(mean, torch.full((2,), value / 3, dtype=torch.float64))
        difference, _ = elbo_gap(x, weight, 1.0, mean, -precision.diagonal().log())
        expected = torch.tensor(0.5 * math.log(4 / 3), dtype=torch.float64)
        torch.testing.assert_close(difference, expected)
    assert round(expected.item(), 4) == 0.1438


def test_elbo_gap__rejects_bad_noise() -> None:
    """噪声的标准差不是正数时报错。"""
    x, weight, mean, log_variance = _case()
    with pytest.raises(ValueError, match="noise_scale"):
        elbo_gap(x, weight, 0.0, mean, log_variance)


def test_gaussian_kl__preserves_sum_over_independent_dimensions() -> None:
    """多维的值等于各维之和，也等于 torch 的 Independent 分布给出的值。"""
    _, _, mean, log_variance = _case()
    parts = gaussian_kl(mean[:, None], log_variance[:, None])
    torch.testing.assert_close(gaussian_kl(mean, log_variance), parts.sum())
    q = Independent(Normal(mean, torch.exp(log_variance / 2)), 1)
    p = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1)
    torch.testing.assert_close(parts.sum(), torch.distributions.kl_divergence(q, p))
