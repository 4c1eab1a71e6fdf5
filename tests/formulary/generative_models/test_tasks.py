"""三项任务的检验：密度、采样、表示，以及似然的几个误区。"""

import itertools
import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.mixture import GaussianMixture
from torch import Tensor

from formulary.generative_models.tasks import (
    bernoulli_mixture_log_joint,
    bernoulli_mixture_log_prob,
    bernoulli_mixture_posterior,
    contaminated_log_prob,
    decompose_joint,
    inverse_cdf_sample,
    log_density_in_new_units,
)

PRIOR = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
ON = torch.tensor(
    [[0.9, 0.2, 0.7, 0.4], [0.1, 0.6, 0.3, 0.8], [0.5, 0.05, 0.95, 0.15]], dtype=torch.float64
)


def _all_binary(n: int) -> Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=n)), dtype=torch.float64)


def _joint_by_loops(x: Tensor) -> Tensor:
    """逐个分量、逐个像素相乘。"""
    table = []
    for row in x.tolist():
        table.append([])
        for k in range(3):
            value = PRIOR[k].item()
            for pixel, on in zip(row, ON[k].tolist(), strict=True):
                value *= on if pixel == 1 else 1 - on
            table[-1].append(value)
    return torch.tensor(table, dtype=torch.float64)


def test_decompose_joint__matches_scipy() -> None:
    """与 scipy 的 log_softmax、logsumexp 相同。"""
    log_joint = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    conditional, marginal = decompose_joint(5 * log_joint - 700)
    values = 5 * log_joint.numpy() - 700
    torch.testing.assert_close(marginal, torch.tensor(scipy.special.logsumexp(values, axis=1)))
    torch.testing.assert_close(conditional, torch.tensor(scipy.special.log_softmax(values, axis=1)))


def test_decompose_joint__preserves_joint() -> None:
    """两份相加还原联合，条件概率每行之和为 1。"""
    log_joint = _joint_by_loops(_all_binary(4)).log()
    conditional, marginal = decompose_joint(log_joint)
    torch.testing.assert_close(conditional + marginal[:, None], log_joint)
    torch.testing.assert_close(conditional.exp().sum(-1), torch.ones(16, dtype=torch.float64))


def test_decompose_joint__equals_worked_example() -> None:
    """手算一例：p(x, y) = (0.03, 0.01)，则 p(x) = 0.04，p(y|x) = (3/4, 1/4)。"""
    conditional, marginal = decompose_joint(torch.tensor([[0.03, 0.01]], dtype=torch.float64).log())
    expected = torch.tensor([[0.75, 0.25]], dtype=torch.float64)
    torch.testing.assert_close(conditional.exp(), expected)
    torch.testing.assert_close(marginal.exp(), torch.tensor([0.04], dtype=torch.float64))


def test_decompose_joint__rejects_impossible_rows() -> None:
    """一行全是负无穷、含 NaN 或正无穷、不是二维时报错。"""
    for wrong in (-math.inf, math.nan, math.inf):
        with pytest.raises(ValueError, match="log_joint"):
            decompose_joint(torch.full((1, 2), wrong))
    with pytest.raises(ValueError, match="log_joint"):
        decompose_joint(torch.zeros(2))


def test_bernoulli_mixture_log_joint__matches_python_loop() -> None:
    """16 个二值向量、3 个分量，与逐个相乘相同。"""
    x = _all_binary(4)
    actual = bernoulli_mixture_log_joint(x, PRIOR, ON)
    torch.testing.assert_close(actual, _joint_by_loops(x).log())


def test_bernoulli_mixture_log_joint__is_exact_at_certain_pixels() -> None:
    """像素的概率恰为 0 或 1 时不出 NaN：相符的贡献 0，不符的贡献负无穷。"""
    certain = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    x = torch.tensor([[0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    actual = bernoulli_mixture_log_joint(x, torch.ones(1, dtype=torch.float64), certain)
    assert actual.flatten().tolist() == [0.0, -math.inf]


def test_bernoulli_mixture_log_joint__rejects_bad_input() -> None:
    """x 不是二值、先验不是分布、像素概率越界、形状不合时报错。"""
    x = _all_binary(4)
    cases = (
        ("x", (x / 2, PRIOR, ON)),
        ("x", (x[:, :3], PRIOR, ON)),
        ("prior", (x, PRIOR * 2, ON)),
        ("on_probs", (x, PRIOR, ON + 0.5)),
        ("on_probs", (x, PRIOR[:2] / PRIOR[:2].sum(), ON)),
    )
    for name, arguments in cases:
        with pytest.raises(ValueError, match=name):
            bernoulli_mixture_log_joint(*arguments)


def test_bernoulli_mixture_log_prob__matches_enumeration() -> None:
    """与逐个分量相加的循环相同；列举 16 个向量，概率之和为 1。"""
    x = _all_binary(4)
    actual = bernoulli_mixture_log_prob(x, PRIOR, ON)
    torch.testing.assert_close(actual, _joint_by_loops(x).sum(-1).log())
    torch.testing.assert_close(actual.exp().sum(), torch.ones((), dtype=torch.float64))


def test_bernoulli_mixture_log_prob__is_stable_in_high_dimension() -> None:
    """两千个像素，概率小到双精度存不下，对数似然仍是有限数。"""
    x = torch.ones(1, 2000, dtype=torch.float64)
    on = torch.full((2, 2000), 0.5, dtype=torch.float64)
    actual = bernoulli_mixture_log_prob(x, torch.tensor([0.25, 0.75], dtype=torch.float64), on)
    assert math.exp(actual.item()) == 0
    torch.testing.assert_close(actual, torch.tensor([-2000 * math.log(2)], dtype=torch.float64))


def _digits() -> tuple[Tensor, Tensor]:
    """二值化的 8×8 手写数字：1200 张训练、297 张测试。"""
    x = torch.tensor((load_digits().data >= 8).astype(float))
    order = torch.tensor(np.random.RandomState(0).permutation(1797))
    return x[order[:1200]], x[order[1500:]]


def test_bernoulli_mixture_log_prob__equals_out_of_distribution_numbers() -> None:
    """独立像素模型：测试图 25.23 nat，全黑 33.56，均匀噪声 99.25，反色 173.26，众数图 16.58。"""
    train, test = _digits()
    on = ((train.sum(0) + 1) / (len(train) + 2))[None]
    one = torch.ones(1, dtype=torch.float64)

    def nll(x: Tensor) -> Tensor:
        return -bernoulli_mixture_log_prob(x, one, on)

    seen, black, mode = nll(test), nll(torch.zeros_like(test[:1])), nll((on > 0.5).double())
    # 均匀噪声下的期望：每个像素以一半的概率取 0 或 1
    noise = -0.5 * (on.log() + (1 - on).log()).sum()
    generator = torch.Generator().manual_seed(0)
    drawn = nll(torch.bernoulli(torch.full((4000, 64), 0.5).double(), generator=generator))
    assert abs(drawn.mean() - noise) <= 5 * drawn.std() / 4000**0.5
    assert round(seen.mean().item(), 2) == 25.23
    assert round(seen.min().item(), 2) == 17.59
    assert round(black.item(), 2) == 33.56
    assert round((seen > black).double().mean().item(), 3) == 0.027
    assert round(noise.item(), 2) == 99.25
    assert round(nll(1 - test).mean().item(), 2) == 173.26
    assert round(mode.item(), 2) == 16.58
    entropy = scipy.stats.bernoulli(on.numpy()).entropy().sum()  # 模型自己的样本的平均 NLL
    assert round(float(entropy), 2) == 25.20
    spread = (on * (1 - on) * on.logit().square()).sum().sqrt()  # 独立的各项方差相加
    assert round(spread.item(), 2) == 3.20
    assert round((entropy - mode.item()) / spread.item(), 1) == 2.7


def test_bernoulli_mixture_log_prob__rejects_non_binary() -> None:
    """灰度值不经二值化就送进来，报错指出 x。"""
    with pytest.raises(ValueError, match="x 的元素只能是 0 或 1"):
        bernoulli_mixture_log_prob(torch.full((1, 4), 0.5, dtype=torch.float64), PRIOR, ON)


def test_bernoulli_mixture_posterior__matches_bayes_loop() -> None:
    """与逐个向量用贝叶斯公式相除相同。"""
    x = _all_binary(4)
    joint = _joint_by_loops(x)
    expected = joint / joint.sum(-1, keepdim=True)
    torch.testing.assert_close(bernoulli_mixture_posterior(x, PRIOR, ON), expected)


def test_bernoulli_mixture_posterior__matches_sklearn_mixture_rule() -> None:
    """换成 sklearn 的高斯混合，由它的各项对数概率得到的后验与 decompose_joint 相同。"""
    data = torch.randn(30, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    model = GaussianMixture(3, random_state=0).fit(data.numpy())
    weighted = torch.tensor(model._estimate_weighted_log_prob(data.numpy()))
    conditional, marginal = decompose_joint(weighted)
    expected = torch.tensor(model.predict_proba(data.numpy()))
    torch.testing.assert_close(conditional.exp(), expected)
    torch.testing.assert_close(marginal, torch.tensor(model.score_samples(data.numpy())))
    x = _all_binary(4)
    by_parts, _ = decompose_joint(bernoulli_mixture_log_joint(x, PRIOR, ON))
    torch.testing.assert_close(bernoulli_mixture_posterior(x, PRIOR, ON), by_parts.exp())


def test_bernoulli_mixture_posterior__equals_worked_example() -> None:
    """手算一例：两个分量各半，全亮的两像素图在其下的概率是 1/4 与 3/16，后验是 4/7 与 3/7。"""
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    on = torch.tensor([[0.5, 0.5], [0.75, 0.25]], dtype=torch.float64)
    x = torch.ones(1, 2, dtype=torch.float64)
    expected = torch.tensor([[4 / 7, 3 / 7]], dtype=torch.float64)
    torch.testing.assert_close(bernoulli_mixture_posterior(x, half, on), expected)
    log_prob = bernoulli_mixture_log_prob(x, half, on)
    torch.testing.assert_close(log_prob, torch.tensor([math.log(7 / 32)], dtype=torch.float64))
    assert round(log_prob.item(), 4) == -1.5198


def test_bernoulli_mixture_posterior__rejects_impossible_samples() -> None:
    """样本在每个分量下的概率都是零时没有后验，报错而不是返回 NaN。"""
    zeros = torch.zeros(3, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match="没有后验"):
        bernoulli_mixture_posterior(torch.ones(1, 4, dtype=torch.float64), PRIOR, zeros)


STATES = torch.tensor([0.05, 0.4, 0.0, 0.25, 0.3], dtype=torch.float64)


def test_inverse_cdf_sample__matches_grid_pushforward() -> None:
    """把 10⁶ 个等距的 u 推过去，每个状态得到的份额恰是它的概率。"""
    u = (torch.arange(1_000_000, dtype=torch.float64) + 0.5) / 1_000_000
    counts = torch.bincount(inverse_cdf_sample(STATES, u), minlength=5)
    torch.testing.assert_close(counts.double() / 1_000_000, STATES)


def test_inverse_cdf_sample__matches_scipy_chisquare() -> None:
    """十万个随机样本通过 scipy 的卡方检验，而把两个状态对调就通不过。"""
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(100_000, dtype=torch.float64, generator=generator)
    counts = torch.bincount(inverse_cdf_sample(STATES, u), minlength=5)[STATES > 0].double()
    expected = 100_000 * STATES[STATES > 0]
    assert scipy.stats.chisquare(counts, expected).pvalue > 1e-3
    assert scipy.stats.chisquare(counts, expected[[1, 0, 2, 3]]).pvalue < 1e-12


def test_inverse_cdf_sample__matches_python_loop() -> None:
    """与逐个累加、第一次超过 u 就停的循环相同。"""
    u = torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = []
    for value in u.tolist():
        total, state = STATES[0].item(), 0
        while total <= value:
            state += 1
            total += STATES[state].item()
        expected.append(state)
    assert inverse_cdf_sample(STATES, u).tolist() == expected


def test_inverse_cdf_sample__differs_from_left_search() -> None:
    """用“不小于”代替“大于”，u 恰为 0 时会选中概率为零的状态。"""
    p, u = torch.tensor([0.0, 1.0]), torch.tensor([0.0])
    assert torch.searchsorted(p.cumsum(0), u).tolist() == [0]
    assert inverse_cdf_sample(p, u).tolist() == [1]


def test_inverse_cdf_sample__is_valid_despite_rounding() -> None:
    """累积概率的末项被舍入到 1 以下，u 落在缝里也不会越界，也不会选中末尾的零概率状态。"""
    p = torch.tensor([0.1] * 10 + [0.0])
    p = p * (1 - 3e-7)
    u = torch.tensor([1 - 6e-8])
    assert p.cumsum(0)[-1] <= u[0]
    assert inverse_cdf_sample(p, u).tolist() == [9]


def test_inverse_cdf_sample__rejects_bad_input() -> None:
    """p 不是分布、u 不在 [0, 1) 里时报错。"""
    with pytest.raises(ValueError, match="p "):
        inverse_cdf_sample(STATES * 2, torch.zeros(1, dtype=torch.float64))
    for wrong in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="u 的元素"):
            inverse_cdf_sample(STATES, torch.tensor([wrong], dtype=torch.float64))


def test_contaminated_log_prob__matches_enumeration() -> None:
    """列举 16 个二值向量，与直接相加再取对数相同，混合的概率之和为 1。"""
    log_p = bernoulli_mixture_log_prob(_all_binary(4), PRIOR, ON)
    log_noise = torch.full((16,), -4 * math.log(2), dtype=torch.float64)
    actual = contaminated_log_prob(log_p, log_noise, 0.01)
    expected = [math.log(0.01 * math.exp(a) + 0.99 / 16) for a in log_p.tolist()]
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(actual.exp().sum(), torch.ones((), dtype=torch.float64))


def test_contaminated_log_prob__bounds_loss_by_log_weight() -> None:
    """权重 0.01 时损失至多 log 100 = 4.605 nat；好模型本来就远胜噪声的地方恰好损失这么多。"""
    generator = torch.Generator().manual_seed(0)
    log_p, log_noise = -200 * torch.rand(2, 1000, dtype=torch.float64, generator=generator)
    for weight in (0.01, 0.3, 1.0):
        loss = log_p - contaminated_log_prob(log_p, log_noise, weight)
        assert (loss <= math.log(1 / weight) + 1e-12).all()
    far = contaminated_log_prob(torch.tensor([-20.0]), torch.tensor([-400.0]), 0.01)
    assert round(-20 - far.item(), 3) == 4.605


def test_contaminated_log_prob__bounds_digits_comparison() -> None:
    """30 个分量的混合掺 99% 噪声，测试 NLL 仍低于独立像素模型，虽然样本 99% 是噪声。"""
    train, test = _digits()
    clusters = KMeans(30, n_init=3, random_state=0).fit(train.numpy())
    members = torch.nn.functional.one_hot(torch.tensor(clusters.labels_).long(), 30).double()
    counts = members.sum(0)
    on = (members.T @ train + 1) / (counts[:, None] + 2)
    good = bernoulli_mixture_log_prob(test, counts / 1200, on)
    noise = torch.full_like(good, -64 * math.log(2))
    mixed = contaminated_log_prob(good, noise, 0.01)
    # 聚类结果随 sklearn 的版本略有出入，所以只设宽限
    assert 18.4 < -good.mean() < 19.0
    assert -mixed.mean() < 23.7 < 25.23
    assert -good.mean() < -mixed.mean() <= -good.mean() + math.log(100)


def test_contaminated_log_prob__equals_loss_per_dimension() -> None:
    """练习：4.605 nat 摊到 64 维是每维 0.0720 nat，摊到 3072 维是每维 0.0022 bit。"""
    log_p = torch.tensor([-1000.0], dtype=torch.float64)
    loss = (log_p - contaminated_log_prob(log_p, log_p - 1e6, 0.01)).item()
    assert round(loss / 64, 4) == 0.0720
    assert round(loss / 3072 / math.log(2), 4) == 0.0022


def test_contaminated_log_prob__rejects_bad_weight() -> None:
    """权重不在 (0, 1] 里，或两个张量的形状不同时报错。"""
    zero = torch.zeros(2)
    for wrong in (0.0, 1.1, math.nan):
        with pytest.raises(ValueError, match="weight"):
            contaminated_log_prob(zero, zero, wrong)
    with pytest.raises(ValueError, match="log_noise"):
        contaminated_log_prob(zero, torch.zeros(3), 0.5)


def test_log_density_in_new_units__matches_torch_distributions() -> None:
    """与 torch.distributions 对正态变量作线性变换的对数密度相同，系数可以是负的。"""
    scale = torch.tensor([2.0, -0.5, 0.1], dtype=torch.float64)
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    base = torch.distributions.Normal(0.3, torch.tensor([1.0, 2.0, 0.7], dtype=torch.float64))
    expected = torch.distributions.Normal(0.3 * scale, base.scale * scale.abs())
    actual = log_density_in_new_units(base.log_prob(x).sum(-1), scale)
    torch.testing.assert_close(actual, expected.log_prob(x * scale).sum(-1))


def test_log_density_in_new_units__equals_pixel_rescaling() -> None:
    """64 个像素从 0–16 缩到 0–1，对数密度凭空多出 64 log 16 = 177.45 nat。"""
    zero = torch.zeros(1, dtype=torch.float64)
    scale = torch.full((64,), 1 / 16, dtype=torch.float64)
    actual = log_density_in_new_units(zero, scale)
    torch.testing.assert_close(actual, torch.tensor([64 * math.log(16)], dtype=torch.float64))
    assert round(actual.item(), 2) == 177.45


def test_log_density_in_new_units__rejects_zero_scale() -> None:
    """系数为零、无穷或 NaN 时报错。"""
    for wrong in (0.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="scale"):
            log_density_in_new_units(torch.zeros(1), torch.tensor([1.0, wrong]))
