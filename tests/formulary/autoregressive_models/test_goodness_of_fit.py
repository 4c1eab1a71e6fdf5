"""卡方统计量与非中心参数的检验。"""

import pytest
import torch
from scipy import stats
from torch import Tensor

from formulary.autoregressive_models.goodness_of_fit import (
    chi_square_noncentrality,
    chi_square_statistic,
)


def _distribution(k: int, seed: int) -> Tensor:
    values = torch.rand(k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (values + 0.2) / (values + 0.2).sum()


def test_chi_square_statistic__matches_scipy() -> None:
    """与 scipy.stats.chisquare 相同。"""
    p = _distribution(7, 0)
    counts = torch.tensor([3.0, 15, 4, 21, 30, 11, 16], dtype=torch.float64)
    expected = stats.chisquare(counts.numpy(), (100 * p).numpy()).statistic
    torch.testing.assert_close(
        chi_square_statistic(counts, p), torch.tensor(expected, dtype=torch.float64)
    )


def test_chi_square_statistic__equals_hand_example() -> None:
    """一百次里六十比四十，对一半一半的统计量是 4；一次也没出现的状态照样算，一百比零是 100。"""
    counts = torch.tensor([60.0, 40.0], dtype=torch.float64)
    half = torch.full((2,), 0.5, dtype=torch.float64)
    assert float(chi_square_statistic(counts, half)) == 4.0
    assert float(chi_square_statistic(100 * half, half)) == 0.0
    never = torch.tensor([100.0, 0.0], dtype=torch.float64)
    assert float(chi_square_statistic(never, half)) == 100.0


def test_chi_square_statistic__rejects_bad_input() -> None:
    """次数为负、形状不符、分布不合法时报错。"""
    half = torch.full((2,), 0.5)
    for counts, p, message in (
        (torch.tensor([-1.0, 2.0]), half, "counts 的元素"),
        (torch.ones(3), half, "probabilities 的形状"),
        (torch.ones(2, 1), half, "counts 的形状"),
        (torch.ones(2), torch.tensor([0.5, 0.6]), "probabilities 沿第"),
        (torch.ones(2), torch.tensor([1.0, 0.0]), "probabilities 的元素必须都是正数"),
    ):
        with pytest.raises(ValueError, match=message):
            chi_square_statistic(counts, p)


def test_chi_square_noncentrality__matches_simulated_power() -> None:
    """非中心卡方算出的功效，与抽四千次多项分布得到的拒绝率相差不到五个标准误。"""
    p, count, trials = _distribution(8, 1), 2000, 4000
    q = p * torch.tensor([1.1, 0.9], dtype=torch.float64).repeat(4)
    q = q / q.sum()
    noncentrality = float(chi_square_noncentrality(p, q, count))
    critical = stats.chi2.isf(0.01, 7)
    power = stats.ncx2.sf(critical, 7, noncentrality)
    assert 0.3 < power < 0.95
    draws = torch.multinomial(
        q.expand(trials, -1), count, True, generator=torch.Generator().manual_seed(2)
    )
    counts = torch.zeros(trials, 8, dtype=torch.float64)
    counts.scatter_add_(1, draws, torch.ones_like(draws, dtype=torch.float64))
    statistics = torch.stack([chi_square_statistic(row, p) for row in counts])
    rejected = float((statistics > critical).double().mean())
    assert abs(rejected - power) <= 5 * (power * (1 - power) / trials) ** 0.5
    # 统计量的期望约为 自由度 + λ；误差来自 q 与 p 的方差之差，这里不到 5 个标准误
    standard_error = float(statistics.std()) / trials**0.5
    assert abs(float(statistics.mean()) - 7 - noncentrality) < 5 * standard_error


def test_chi_square_noncentrality__equals_hand_example() -> None:
    """一半一半对六四开，一百个样本的 λ 是 4；样本加倍 λ 也加倍。"""
    p = torch.tensor([0.5, 0.5], dtype=torch.float64)
    q = torch.tensor([0.6, 0.4], dtype=torch.float64)
    assert round(float(chi_square_noncentrality(p, q, 100)), 12) == 4.0
    assert round(float(chi_square_noncentrality(p, q, 200)), 12) == 8.0


def test_chi_square_noncentrality__differs_from_swapped_arguments() -> None:
    """分母是假设的分布 p，不是真正的分布 q。"""
    p, q = _distribution(5, 3), _distribution(5, 4)
    there, back = chi_square_noncentrality(p, q, 100), chi_square_noncentrality(q, p, 100)
    assert abs(float(there - back)) > 0.1


def test_chi_square_noncentrality__rejects_bad_input() -> None:
    """分布不合法、长度不同、样本数不是正整数时报错。"""
    half, zero = torch.full((2,), 0.5), torch.tensor([1.0, 0.0])
    for p, q, count, message in (
        (half, torch.tensor([0.5, 0.6]), 10, "q 沿第"),
        (half, torch.ones(3) / 3, 10, "p 的形状"),
        (zero, half, 10, "p 的元素必须都是正数"),
        (half, half, 0, "count 必须是"),
    ):
        with pytest.raises(ValueError, match=message):
            chi_square_noncentrality(p, q, count)
