"""重参数化、重要性加权下界与变分自编码器的检验。"""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

from formulary.generative_models.latent_variable import (
    linear_gaussian_elbo,
    linear_gaussian_log_prob,
)
from formulary.generative_models.variational_autoencoder import (
    VariationalAutoencoder,
    importance_weighted_bound,
    reparameterize,
)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_reparameterize__matches_torch_distributions() -> None:
    """样本与 torch.distributions 的 Normal 用同一份噪声得到的 icdf 样本相同。"""
    mean, log_variance, noise = _random(3, 4, 2)
    uniform = Normal(0.0, 1.0).cdf(noise)
    expected = Normal(mean, log_variance.exp().sqrt()).icdf(uniform)
    torch.testing.assert_close(reparameterize(mean, log_variance, noise), expected)


def test_reparameterize__matches_analytic_gradient() -> None:
    """E z² = μ² + σ²：梯度的蒙特卡洛估计与 2μ、σ² 相差不超过 5 个标准误。"""
    mean = torch.tensor([0.7], dtype=torch.float64)
    log_variance = torch.tensor([-0.4], dtype=torch.float64)
    noise = _random(50_000, 1, seed=1)
    parameters = [
        value.expand(50_000, 1).clone().requires_grad_() for value in (mean, log_variance)
    ]
    z = reparameterize(*parameters, noise)
    for gradient, exact in zip(
        torch.autograd.grad(z.square().sum(), parameters),
        (2 * mean, log_variance.exp()),
        strict=True,
    ):
        assert (gradient.mean() - exact).abs() <= 5 * gradient.std() / 50_000**0.5


def test_reparameterize__equals_worked_example() -> None:
    """手算一例：μ = 1、σ² = 4、ε = 0.5 得 2；把 σ² 误当 σ 则得 3。"""
    mean, variance, noise = torch.tensor([[1.0], [4.0], [0.5]], dtype=torch.float64)
    actual = reparameterize(mean, variance.log(), noise)
    torch.testing.assert_close(actual, torch.tensor([2.0], dtype=torch.float64))


def test_reparameterize__rejects_mismatched_noise() -> None:
    """噪声或对数方差的形状与均值不同时报错。"""
    with pytest.raises(ValueError, match="noise"):
        reparameterize(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(3))
    with pytest.raises(ValueError, match="log_variance"):
        reparameterize(torch.zeros(2, 3), torch.zeros(3), torch.zeros(2, 3))


def test_importance_weighted_bound__matches_direct_average() -> None:
    """权重不太小时，与在概率空间里取平均再取对数相同。"""
    log_weights = _random(7, 3)
    expected = log_weights.exp().mean(0).log()
    torch.testing.assert_close(importance_weighted_bound(log_weights), expected)


def test_importance_weighted_bound__differs_from_probability_space_average() -> None:
    """先取指数再平均：float32 里 −104 nat 的权重就是 0，结果成了负无穷。"""
    log_weights = torch.tensor([-103.0, -104.0, -105.0])
    assert log_weights.exp()[1:].tolist() == [0.0, 0.0]
    smaller = log_weights - 2
    assert smaller.exp().mean(0).log().item() == -math.inf
    exact = math.log(sum(math.exp(v + 105) for v in (-105.0, -106.0, -107.0)) / 3) - 105
    assert importance_weighted_bound(smaller).item() == pytest.approx(exact, rel=1e-6)


def test_importance_weighted_bound__differs_from_mean_of_logs() -> None:
    """把对数拿到平均号里面，不论抽多少个 z，得到的都还是 ELBO 的估计，比真值小。"""
    log_weights, evidence, bound = _linear_gaussian_weights(20_000)
    inside = log_weights.mean(0)
    error = log_weights.std() / 20_000**0.5
    assert (inside - bound).abs() <= 5 * error
    assert importance_weighted_bound(log_weights) - inside > 0.5
    assert (importance_weighted_bound(log_weights) - evidence).abs() < 0.1


def _linear_gaussian_weights(samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """线性高斯模型、不太好的 q：对数权重，以及精确的 log p(x) 与 ELBO。"""
    x, weight = _random(4, seed=2), _random(4, 2, seed=3)
    mean, log_variance = torch.tensor([[0.3, -0.5], [-1.0, -0.7]], dtype=torch.float64)
    scale = torch.exp(log_variance / 2)
    z = mean + scale * _random(samples, 2, seed=4)
    log_weights = Normal(z @ weight.T, 0.9).log_prob(x).sum(-1)
    log_weights += (Normal(0.0, 1.0).log_prob(z) - Normal(mean, scale).log_prob(z)).sum(-1)
    return (
        log_weights,
        linear_gaussian_log_prob(x, weight, 0.9),
        linear_gaussian_elbo(x, weight, 0.9, mean, log_variance),
    )


def test_importance_weighted_bound__bounds_tighten_with_more_samples() -> None:
    """M = 1、5、50、500 的平均依次上升，从 ELBO 的闭式值（5 个标准误内）升到 log p(x) 附近。"""
    log_weights, evidence, bound = _linear_gaussian_weights(200_000)
    means, errors = [], []
    for count in (1, 5, 50, 500):
        values = importance_weighted_bound(log_weights.view(count, -1))
        means.append(values.mean().item())
        errors.append(values.std().item() / len(values) ** 0.5)
    assert abs(means[0] - bound.item()) <= 5 * errors[0]
    assert means[0] < means[1] < means[2] < means[3]
    assert means[3] <= evidence.item() + 5 * errors[3]
    assert means[1] - means[0] > 10 * errors[0]
    assert evidence.item() - means[3] < 0.05


def test_importance_weighted_bound__equals_worked_example() -> None:
    """手算一例：两个权重 0.1 与 0.3，log 0.2 = −1.6094；对数的平均是 −1.7533。"""
    log_weights = torch.tensor([0.1, 0.3], dtype=torch.float64).log()
    actual = importance_weighted_bound(log_weights)
    torch.testing.assert_close(actual, torch.tensor(math.log(0.2), dtype=torch.float64))
    assert [round(v.item(), 4) for v in (actual, log_weights.mean())] == [-1.6094, -1.7533]


def test_importance_weighted_bound__rejects_empty_input() -> None:
    """一个权重也没有，或没有首轴时报错。"""
    for wrong in (torch.zeros(0, 2), torch.tensor(0.0)):
        with pytest.raises(ValueError, match="log_weights"):
            importance_weighted_bound(wrong)


def _model(likelihood: str, n: int = 4, m: int = 2) -> VariationalAutoencoder:
    """参数由固定的发生器重填，不受全局种子影响。"""
    model = VariationalAutoencoder(n, m, hidden=6, likelihood=likelihood).double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(
                0.5 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
            )
    return model


def _data(likelihood: str) -> Tensor:
    x = _random(3, 4, seed=6)
    return x if likelihood == "gaussian" else (x > 0).double()


def _oracle_log_weights(model: VariationalAutoencoder, x: Tensor, noise: Tensor) -> Tensor:
    """各项密度全用 torch.distributions 算。"""
    output = model.encoder(x)
    q = Normal(output[:, : model.m], torch.exp(output[:, model.m :] / 2))
    z = q.loc + q.scale * noise
    decoded = model.decoder(z)
    if model.likelihood == "bernoulli":
        log_likelihood = Bernoulli(logits=decoded).log_prob(x.expand_as(decoded)).sum(-1)
    else:
        log_likelihood = Normal(decoded, model.log_scale.exp()).log_prob(x).sum(-1)
    return log_likelihood + (Normal(0.0, 1.0).log_prob(z) - q.log_prob(z)).sum(-1)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_VariationalAutoencoder__matches_torch_distributions(likelihood: str) -> None:
    """对数权重与 torch.distributions 逐项算的相同。"""
    model, x = _model(likelihood), _data(likelihood)
    actual = model.log_weights(x, 7, torch.Generator().manual_seed(7))
    noise = torch.randn(7, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(actual, _oracle_log_weights(model, x, noise))


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_VariationalAutoencoder__matches_monte_carlo_elbo(likelihood: str) -> None:
    """elbo 的平均与对数权重的平均是同一个量的两种估计，相差不超过 5 个合并标准误。"""
    model, x = _model(likelihood), _data(likelihood)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        sampled = model.log_weights(x, 20_000, generator)
        closed = model.elbo(x.repeat(20_000, 1), generator).view(20_000, 3)
    pooled = (sampled.var(0) + closed.var(0)).sqrt() / 20_000**0.5
    assert ((sampled.mean(0) - closed.mean(0)).abs() <= 5 * pooled).all()


def test_VariationalAutoencoder__bounds_exact_likelihood() -> None:
    """一维隐变量时用网格积分求精确的 log p(x)：ELBO 在它下面，500 个样本的加权下界很接近它。"""
    model, x = _model("bernoulli", m=1), _data("bernoulli")
    z = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    with torch.no_grad():
        log_joint = model.log_likelihood(x, z[:, None, None].expand(-1, 3, 1))
        log_joint += Normal(0.0, 1.0).log_prob(z)[:, None]
        exact = log_joint.logsumexp(0) + math.log(18 / 4000)
        log_weights = model.log_weights(x, 20_000, torch.Generator().manual_seed(9))
    bound = log_weights.mean(0)
    tight = importance_weighted_bound(log_weights.view(500, 40, 3)).mean(0)
    assert (bound < exact).all()
    assert (tight > bound).all()
    assert ((tight - exact).abs() < 0.05).all()


def test_VariationalAutoencoder__depends_only_on_generator() -> None:
    """同一个发生器种子给出同样的 ELBO 与样本，种子不同则不同。"""
    model, x = _model("gaussian"), _data("gaussian")
    values = [model.elbo(x, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])
    first, second = (model.sample(5, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_VariationalAutoencoder__matches_sampled_moments(likelihood: str) -> None:
    """两万个样本的均值与解码器输出在先验下的期望相差不超过 5 个标准误；伯努利样本只有 0 与 1。"""
    model = _model(likelihood, m=1)
    samples = model.sample(20_000, torch.Generator().manual_seed(10))
    z = torch.linspace(-9, 9, 4001, dtype=torch.float64)[:, None]
    weights = Normal(0.0, 1.0).log_prob(z).exp() * 18 / 4000
    with torch.no_grad():
        output = model.decoder(z)
    if likelihood == "bernoulli":
        output = output.sigmoid()
        assert set(samples.unique().tolist()) <= {0.0, 1.0}
    exact = (weights * output).sum(0)
    assert ((samples.mean(0) - exact).abs() <= 5 * samples.std(0) / 20_000**0.5).all()
    if likelihood == "gaussian":
        second = (weights * output.square()).sum(0) - exact.square()
        variance = second + torch.exp(2 * model.log_scale.detach())
        ratio = samples.var(0) / variance
        assert ((ratio - 1).abs() < 0.1).all()  # 两万个样本的方差约准到百分之一二


def test_VariationalAutoencoder__differs_from_mean_reduced_loss() -> None:
    """重构项取平均、KL 散度求和的损失乘以 n，等于 β = n 的目标，梯度与 ELBO 的不成比例。"""
    model, x = _model("bernoulli"), _data("bernoulli")
    n = x.shape[1]

    def gradient(reconstruction_weight: float, divergence_weight: float) -> Tensor:
        model.zero_grad()
        mean, log_variance = model.encode(x)
        z = reparameterize(mean, log_variance, _random(3, 2, seed=11))
        divergence = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum()
        loss = -reconstruction_weight * model.log_likelihood(x, z).sum()
        (loss + divergence_weight * divergence).backward()
        return torch.cat([p.grad.flatten() for p in model.encoder.parameters()])

    right, buggy, beta = gradient(1.0, 1.0), gradient(1 / n, 1.0), gradient(1.0, float(n))
    torch.testing.assert_close(buggy * n, beta)
    cosine = torch.nn.functional.cosine_similarity(right, buggy, dim=0)
    assert cosine < 0.99


def test_VariationalAutoencoder__equals_noise_scale_at_start() -> None:
    """高斯解码器的标准差从给定的初值起步。"""
    model = VariationalAutoencoder(3, 2, hidden=4, noise_scale=0.25)
    torch.testing.assert_close(model.log_scale.detach().exp(), torch.full((3,), 0.25))


def test_VariationalAutoencoder__rejects_bad_input() -> None:
    """构造参数、x 的形状、灰度值与样本数不合要求时报错。"""
    for name in ("n", "m", "hidden"):
        arguments = {"n": 4, "m": 2, "hidden": 3, name: 0}
        with pytest.raises(ValueError, match=name):
            VariationalAutoencoder(**arguments)
    with pytest.raises(ValueError, match="likelihood"):
        VariationalAutoencoder(4, 2, 3, likelihood="poisson")
    with pytest.raises(ValueError, match="noise_scale"):
        VariationalAutoencoder(4, 2, 3, noise_scale=0.0)
    model = VariationalAutoencoder(4, 2, 3, likelihood="bernoulli")
    generator = torch.Generator()
    with pytest.raises(ValueError, match="x 的形状"):
        model.elbo(torch.zeros(1, 3), generator)
    with pytest.raises(ValueError, match="x 的元素只能是 0 或 1"):
        model.elbo(torch.full((1, 4), 0.5), generator)
    for call in (
        lambda: model.log_weights(torch.zeros(1, 4), 0, generator),
        lambda: model.sample(0, generator),
    ):
        with pytest.raises(ValueError, match="samples"):
            call()
