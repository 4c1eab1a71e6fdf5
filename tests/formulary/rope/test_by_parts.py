"""NTK-by-parts 的证明：逐对的 Python 循环、两端的极限、与在波长上混合的差别。"""

import math

import pytest
import torch

from formulary.rope.by_parts import by_parts_frequencies, wavelength_by_parts_frequencies
from formulary.rope.frequencies import inverse_frequencies
from formulary.rope.ramp import unseen_angles


def _gamma(turns: float, alpha: float, beta: float) -> float:
    return min(max((turns - alpha) / (beta - alpha), 0.0), 1.0)


SETTINGS = [(16, 500.0, 3.0, 200, 1, 32), (10, 1e4, 8.0, 4096, 1, 32), (24, 1e3, 5.0, 70, 0.5, 4)]


def test_by_parts_frequencies__matches_per_pair_loop() -> None:
    """逐对数圈数、逐对混合频率。"""
    for d, base, factor, length, alpha, beta in SETTINGS:
        expected = []
        for i in range(d // 2):
            theta = base ** (-2 * i / d)
            keep = _gamma(length / (2 * math.pi / theta), alpha, beta)
            expected.append((1 - keep) * theta / factor + keep * theta)
        actual = by_parts_frequencies(d, base, factor, length, alpha, beta, dtype=torch.float64)
        torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_by_parts_frequencies__equals_article_table() -> None:
    """d=128、b=10000、L=4096、s=8：21 对不动，18 对除以 8，没有一对转到新角度。"""
    original = inverse_frequencies(128, 1e4, dtype=torch.float64)
    actual = by_parts_frequencies(128, 1e4, 8, 4096, dtype=torch.float64)
    ratio = actual / original
    assert (ratio > 1 - 1e-12).nonzero().flatten().tolist() == list(range(21))
    assert (ratio < 0.125 + 1e-12).nonzero().flatten().tolist() == list(range(46, 64))
    assert not unseen_angles(actual, original, 8, 4096).any()


def test_by_parts_frequencies__equals_hand_calculation() -> None:
    """转 9 圈的一对，s = 8：γ = 8/31，频率变成 87/248。"""
    length = 1000
    theta = 9 * 2 * math.pi / length
    actual = by_parts_frequencies(4, theta**-2, 8, length, dtype=torch.float64)
    torch.testing.assert_close(actual[1].item(), theta * 87 / 248)


def test_by_parts_frequencies__limit_extreme_ramps() -> None:
    """上下界都高于所有圈数时是位置内插，都低于所有圈数时频率不动。"""
    assert by_parts_frequencies(32, 1e4, 4, 1).dtype == torch.float32
    original = inverse_frequencies(32, 1e4, dtype=torch.float64)
    low = by_parts_frequencies(32, 1e4, 4, 64, alpha=1e6, beta=2e6, dtype=torch.float64)
    high = by_parts_frequencies(32, 1e4, 4, 64, alpha=0, beta=1e-9, dtype=torch.float64)
    torch.testing.assert_close(low, original / 4)
    torch.testing.assert_close(high, original)


def test_by_parts_frequencies__differs_from_wavelength_mixture() -> None:
    """在频率上混合不同于在波长上混合：γ = 1/2、s = 8 时相差 81/32 倍。"""
    length = 1000
    theta = 16.5 * 2 * math.pi / length
    arguments = (4, theta**-2, 8, length)
    by_frequency = by_parts_frequencies(*arguments, dtype=torch.float64)[1]
    by_wavelength = wavelength_by_parts_frequencies(*arguments, dtype=torch.float64)[1]
    torch.testing.assert_close((by_frequency / by_wavelength).item(), 81 / 32)


def test_by_parts_frequencies__differs_from_intent_on_short_training_length() -> None:
    """L=64、s=8、β=32 时没有一对不动，最高频也被压到 0.384 倍；β=4 时前两对不动。"""
    original = inverse_frequencies(32, 1e4, dtype=torch.float64)
    default = by_parts_frequencies(32, 1e4, 8, 64, dtype=torch.float64)
    adapted = by_parts_frequencies(32, 1e4, 8, 64, beta=4, dtype=torch.float64)
    ratio = default / original
    assert ratio.argmax() == 0
    assert round(ratio[0].item(), 3) == 0.384
    assert (adapted / original > 1 - 1e-12).sum() == 2


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"d": 7}, "d"),
        ({"base": 0}, "base"),
        ({"factor": 0.5}, "factor"),
        ({"base": "1e4"}, "base"),
        ({"original_max_position_embeddings": 0}, "original_max_position_embeddings"),
        ({"original_max_position_embeddings": math.inf}, "original_max_position_embeddings"),
        ({"alpha": 32}, "alpha"),
    ],
)
def test_by_parts_frequencies__rejects_bad_arguments(changes, name) -> None:
    """奇数的 d、非正的底数与长度、小于 1 的倍数、颠倒的圈数界被拒绝。"""
    good = {"d": 8, "base": 1e4, "factor": 2, "original_max_position_embeddings": 64}
    with pytest.raises(ValueError, match=f"^{name} "):
        by_parts_frequencies(**{**good, **changes})


def test_wavelength_by_parts_frequencies__matches_per_pair_loop() -> None:
    """逐对混合波长再取倒数，换算成 θ/((1-γ)s+γ)。"""
    for d, base, factor, length, alpha, beta in SETTINGS:
        expected = []
        for i in range(d // 2):
            theta = base ** (-2 * i / d)
            keep = _gamma(length * theta / (2 * math.pi), alpha, beta)
            expected.append(theta / ((1 - keep) * factor + keep))
        actual = wavelength_by_parts_frequencies(
            d, base, factor, length, alpha, beta, dtype=torch.float64
        )
        torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_wavelength_by_parts_frequencies__bounds_frequency_mixture_from_below() -> None:
    """调和平均不超过算术平均；最大的比是 (√s+1/√s)²/4 以内。"""
    assert wavelength_by_parts_frequencies(32, 1e4, 4, 1).dtype == torch.float32
    for factor in (2.0, 8.0, 16.0):
        mixed = by_parts_frequencies(128, 1e4, factor, 4096, dtype=torch.float64)
        harmonic = wavelength_by_parts_frequencies(128, 1e4, factor, 4096, dtype=torch.float64)
        ratio = mixed / harmonic
        limit = (factor**0.5 + factor**-0.5) ** 2 / 4
        assert (ratio > 1 - 1e-12).all()
        assert 0.98 * limit < ratio.max() <= limit


def test_wavelength_by_parts_frequencies__rejects_bad_arguments() -> None:
    """非正的训练长度与小于 1 的倍数被拒绝。"""
    with pytest.raises(ValueError, match=r"^original_max_position_embeddings "):
        wavelength_by_parts_frequencies(8, 1e4, 2, 0)
    with pytest.raises(ValueError, match=r"^factor "):
        wavelength_by_parts_frequencies(8, 1e4, 0.5, 64)
