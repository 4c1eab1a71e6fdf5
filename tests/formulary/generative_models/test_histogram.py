"""直方图密度与泛化间隙的检验。"""

import itertools
import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor

from formulary.generative_models.generalization import sample_counts
from formulary.generative_models.histogram import (
    bin_index,
    categorical_gap,
    generalization_gap,
    histogram_density,
)

LOW, HIGH = -5.0, 5.0


def _mixture_samples(samples: int, seed: int) -> Tensor:
    """½ N(−2, 0.6²) + ½ N(2, 0.6²) 的样本。"""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randint(0, 2, (samples,), generator=generator) * 4.0 - 2
    return centers + 0.6 * torch.randn(samples, generator=generator, dtype=torch.float64)


def _mixture_mass(bins: int) -> Tensor:
    """混合分布（截断到区间里）落在各格的概率。"""
    edges = np.linspace(LOW, HIGH, bins + 1)
    cdf = 0.5 * scipy.stats.norm.cdf(edges, -2, 0.6) + 0.5 * scipy.stats.norm.cdf(edges, 2, 0.6)
    mass = np.diff(cdf)
    return torch.tensor(mass / mass.sum())


def test_bin_index__matches_numpy() -> None:
    """与 numpy.digitize 相同，随机的点与恰在格线上的点都如此。"""
    x = torch.cat((_mixture_samples(50, 0), torch.linspace(LOW, HIGH, 9, dtype=torch.float64)))
    edges = np.linspace(LOW, HIGH, 9)
    expected = np.minimum(np.digitize(x.numpy(), edges) - 1, 7)
    torch.testing.assert_close(bin_index(x, 8, LOW, HIGH), torch.tensor(expected))


def test_bin_index__rejects_bad_input() -> None:
    """格数、区间与区间之外的样本（含 NaN）都被拒绝。"""
    x = torch.zeros(2)
    with pytest.raises(ValueError, match="bins"):
        bin_index(x, 0, LOW, HIGH)
    with pytest.raises(ValueError, match="区间"):
        bin_index(x, 3, 1.0, 1.0)
    with pytest.raises(ValueError, match="区间"):
        bin_index(x, 3, 0.0, math.inf)
    for wrong in (-5.1, 5.1, math.nan):
        with pytest.raises(ValueError, match="x 必须在"):
            bin_index(x + wrong, 3, LOW, HIGH)


def test_histogram_density__matches_numpy() -> None:
    """α = 0 时与 numpy.histogram(density=True) 相同。"""
    x = _mixture_samples(80, 1)
    expected, _ = np.histogram(x.numpy(), bins=11, range=(LOW, 7.0), density=True)
    torch.testing.assert_close(histogram_density(x, 11, LOW, 7.0), torch.tensor(expected))


def test_histogram_density__equals_worked_example() -> None:
    """手算一例：4 个样本、[0, 2] 分 2 格，计数 3 与 1；加 1 平滑后是 4 与 2。"""
    x = torch.tensor([0.1, 0.2, 0.3, 1.9], dtype=torch.float64)
    expected = torch.tensor([0.75, 0.25], dtype=torch.float64)
    torch.testing.assert_close(histogram_density(x, 2, 0.0, 2.0), expected)
    expected = torch.tensor([4 / 6, 2 / 6], dtype=torch.float64)
    torch.testing.assert_close(histogram_density(x, 2, 0.0, 2.0, pseudo_count=1.0), expected)


def test_histogram_density__is_normalised() -> None:
    """高度乘格宽之和为 1，有没有平滑都如此。"""
    x = _mixture_samples(80, 2)
    for pseudo_count in (0.0, 0.1, 3.0):
        heights = histogram_density(x, 12, LOW, HIGH, pseudo_count)
        total = heights.sum() * (HIGH - LOW) / 12
        torch.testing.assert_close(total, torch.ones((), dtype=torch.float64))


def test_histogram_density__rejects_bad_input() -> None:
    """没有样本或负的预加计数被拒绝。"""
    with pytest.raises(ValueError, match="至少一个样本"):
        histogram_density(torch.zeros(0), 3, LOW, HIGH)
    with pytest.raises(ValueError, match="pseudo_count"):
        histogram_density(torch.zeros(2), 3, LOW, HIGH, -0.1)
    with pytest.raises(ValueError, match="pseudo_count"):
        histogram_density(torch.zeros(2), 3, LOW, HIGH, math.inf)


def test_generalization_gap__matches_quadrature() -> None:
    """期望对数似然与 scipy 数值积分相同，训练集上的平均与逐个查高度相同。"""
    x = _mixture_samples(60, 3)
    heights = histogram_density(x, 10, LOW, HIGH, 0.5)

    def log_height(value: float) -> float:
        return math.log(heights[min(int((value - LOW) / 1.0), 9)])

    def density(value: float) -> float:
        return 0.5 * sum(scipy.stats.norm.pdf(value, center, 0.6) for center in (-2, 2))

    edges = np.linspace(LOW, HIGH, 11)
    inside = sum(scipy.integrate.quad(density, a, b)[0] for a, b in itertools.pairwise(edges))
    expected = sum(
        log_height((a + b) / 2) * scipy.integrate.quad(density, a, b)[0]
        for a, b in itertools.pairwise(edges)
    )
    train = sum(log_height(value) for value in x.tolist()) / 60
    actual = generalization_gap(x, heights, _mixture_mass(10), LOW, HIGH)
    wanted = [train, expected / inside, train - expected / inside]
    torch.testing.assert_close(torch.stack(actual), torch.tensor(wanted, dtype=torch.float64))


def test_generalization_gap__equals_overfitting_curve() -> None:
    """文中的 U 形曲线：训练 NLL 一路下降，16 格起低于真密度；期望 NLL 先降后升，32 格最低。"""
    x = _mixture_samples(200, 3)
    train, expected = [], []
    for bins in (4, 8, 16, 32, 64, 128):
        heights = histogram_density(x, bins, LOW, HIGH, pseudo_count=0.1)
        seen, unseen, _ = generalization_gap(x, heights, _mixture_mass(bins), LOW, HIGH)
        train.append(round(-seen.item(), 3))
        expected.append(round(-unseen.item(), 3))
    assert train == [2.163, 1.709, 1.548, 1.517, 1.469, 1.402]
    assert expected == [2.133, 1.772, 1.720, 1.686, 1.726, 1.844]
    entropy = -scipy.integrate.quad(_entropy_integrand, LOW, HIGH, limit=200)[0]
    assert round(entropy, 4) == 1.6
    assert min(expected) > entropy  # 期望 NLL 至少是熵，训练 NLL 则可以更低
    assert train[-1] < entropy
    logs = [-math.log(_mixture_density(value)) for value in x.tolist()]
    truth, error = np.mean(logs), np.std(logs, ddof=1) / 200**0.5
    assert [round(truth, 3), round(error, 3)] == [1.565, 0.041]
    assert [value < truth for value in train] == [False, False, True, True, True, True]


def _mixture_density(value: float) -> float:
    return 0.5 * sum(scipy.stats.norm.pdf(value, center, 0.6) for center in (-2, 2))


def _entropy_integrand(value: float) -> float:
    return _mixture_density(value) * math.log(_mixture_density(value))


def test_generalization_gap__limit_of_empty_bin_is_infinite() -> None:
    """最大似然的直方图遇到没见过的格，期望对数似然是负无穷，间隙是正无穷。"""
    x = torch.tensor([0.1, 0.2], dtype=torch.float64)
    heights = histogram_density(x, 2, 0.0, 2.0)
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    _, expected, gap = generalization_gap(x, heights, half, 0.0, 2.0)
    assert expected.item() == -math.inf
    assert gap.item() == math.inf


def test_generalization_gap__rejects_bad_input() -> None:
    """高度不是密度、各格概率不是分布或个数不合时报错。"""
    x, heights = torch.zeros(2), torch.tensor([0.75, 0.25])
    half = torch.tensor([0.5, 0.5])
    with pytest.raises(ValueError, match="heights"):
        generalization_gap(x, heights * 2, half, 0.0, 2.0)
    with pytest.raises(ValueError, match="bin_mass"):
        generalization_gap(x, heights, half * 2, 0.0, 2.0)
    with pytest.raises(ValueError, match="bin_mass"):
        generalization_gap(x, heights, torch.ones(1), 0.0, 2.0)


P = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def test_categorical_gap__matches_scipy_entropy() -> None:
    """两种写法都与 scipy 的熵与相对熵拼出来的值相同。"""
    estimates = torch.tensor([[0.4, 0.4, 0.2], [0.25, 0.15, 0.6]], dtype=torch.float64)
    gap, split = categorical_gap(P, estimates)
    for i, q in enumerate(estimates.numpy()):
        cross = scipy.stats.entropy(P.numpy()) + scipy.stats.entropy(P.numpy(), q)
        expected = torch.tensor(cross - scipy.stats.entropy(q), dtype=torch.float64)
        torch.testing.assert_close(gap[i], expected)
        torch.testing.assert_close(split[i], expected)


def test_categorical_gap__limit_is_parameters_over_samples() -> None:
    """对数据集取平均约为 k/N：3 个状态、200 个样本，与 2/200 相差不超过 5 个标准误加二阶项。"""
    samples, repeats = 200, 100_000
    counts = sample_counts(P, samples, repeats, torch.Generator().manual_seed(0))
    gap, _ = categorical_gap(P, counts / samples)
    error = gap.std().item() / repeats**0.5
    inverse = (1 / P).sum().item()
    # D(p̂‖p) 与 D(p‖p̂) 各自的 N⁻² 项之和
    second = (5 / 12 * inverse - 3 / 2 + 1 / 12 + (inverse - 1) / 12) / samples**2
    assert abs(gap.mean().item() - 2 / samples - second) <= 5 * error
    assert 1 / samples > 10 * error  # 分得出 k 与 k ± 1


def test_categorical_gap__equals_worked_example() -> None:
    """手算一例：p = (1/2, 1/2)，p̂ = (0.6, 0.4)，间隙 0.2 × log 1.5 × ½ = 0.0405。"""
    p, q = torch.tensor([[0.5, 0.5], [0.6, 0.4]], dtype=torch.float64)
    expected = torch.tensor(0.1 * math.log(1.5), dtype=torch.float64)
    for side in categorical_gap(p, q):
        torch.testing.assert_close(side, expected)


def test_categorical_gap__rejects_zero_frequency() -> None:
    """有状态的频率为零时间隙是无穷大，报错而不是返回 NaN。"""
    with pytest.raises(ValueError, match="estimate 的元素必须为正"):
        categorical_gap(P, torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="p 的元素必须为正"):
        categorical_gap(torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64), P)
    with pytest.raises(ValueError, match="estimate"):
        categorical_gap(P, P * 2)
