"""参数一齐估准的样本数：与二项分布的精确概率对照。"""

import math

import pytest
import torch
from scipy.stats import binom

from formulary.mnist_joint.sample_complexity import samples_per_class, uniform_failure_bound


def _exact_failure(samples: int, n: int, classes: int, tolerance: float, theta: float) -> float:
    """Kn 个独立的像素概率都等于 theta 时，至少一个估偏达到 tolerance 的精确概率。"""
    distribution = binom(samples, theta)
    inside = sum(
        distribution.pmf(count)
        for count in range(samples + 1)
        if abs(count / samples - theta) < tolerance
    )
    return 1 - inside ** (n * classes)


def test_uniform_failure_bound__bounds_exact_binomial_probability() -> None:
    """精确的失败概率从不超过上界；θ = 0.5 时上界也不过松到毫无信息。"""
    for samples in (50, 150, 400):
        for theta in (0.1, 0.32, 0.5):
            bound = uniform_failure_bound(
                torch.tensor([float(samples)], dtype=torch.float64), 5, 3, 0.13
            ).item()
            exact = _exact_failure(samples, 5, 3, 0.13, theta)
            assert exact <= bound
            if samples == 150 and theta == 0.5:
                assert bound < 100 * exact


def test_uniform_failure_bound__matches_hoeffding_by_loop() -> None:
    """等于逐个像素、逐个方向各加一份 exp(−2Nε²)。"""
    samples = [30, 200, 700]
    expected = []
    for count in samples:
        total = 0.0
        for _pixel in range(6 * 4):
            for _side in ("偏高", "偏低"):
                total += math.exp(-2 * count * 0.07**2)
        expected.append(total)
    actual = uniform_failure_bound(torch.tensor(samples, dtype=torch.float64), 6, 4, 0.07)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_uniform_failure_bound__rejects_bad_input() -> None:
    """尺寸不是正整数、误差不在 (0, 1)、样本数为负都报错。"""
    good = torch.ones(1)
    for samples, n, classes, tolerance, message in (
        (good, 0, 3, 0.1, "n 必须是"),
        (good, 3, 0, 0.1, "classes 必须是"),
        (good, 3, 3, 1.0, "tolerance"),
        (good, 3, 3, 0.0, "tolerance"),
        (-good, 3, 3, 0.1, "samples"),
    ):
        with pytest.raises(ValueError, match=message):
            uniform_failure_bound(samples, n, classes, tolerance)


def test_samples_per_class__matches_scan_of_bound() -> None:
    """取整之后，正好是让上界降到 δ 以下的最小样本数。"""
    for n, classes, tolerance, failure in ((64, 10, 0.1, 0.05), (784, 10, 0.07, 0.2)):
        needed = math.ceil(samples_per_class(n, classes, tolerance, failure))
        scan = next(
            count
            for count in range(1, 5000)
            if 2 * n * classes * math.exp(-2 * count * tolerance**2) <= failure
        )
        assert needed == scan


def test_samples_per_class__equals_worked_example() -> None:
    """64 像素、10 类、误差 0.1、失败概率 0.05：508 张；像素换成 784，只多到 633 张。"""
    small = samples_per_class(64, 10, 0.1, 0.05)
    large = samples_per_class(784, 10, 0.1, 0.05)
    assert (math.ceil(small), math.ceil(large)) == (508, 633)
    assert math.isclose(large - small, math.log(784 / 64) / 0.02)


def test_samples_per_class__is_sufficient() -> None:
    """取这么多样本，精确的失败概率确实不超过 δ。"""
    for theta in (0.05, 0.32, 0.5):
        needed = math.ceil(samples_per_class(5, 3, 0.13, 0.1))
        assert _exact_failure(needed, 5, 3, 0.13, theta) <= 0.1


def test_samples_per_class__rejects_bad_input() -> None:
    """各参数越界都报错并指出参数名。"""
    for n, classes, tolerance, failure, message in (
        (0, 3, 0.1, 0.1, "n 必须是"),
        (3, 0, 0.1, 0.1, "classes 必须是"),
        (3, 3, 1.5, 0.1, "tolerance"),
        (3, 3, 0.1, 0.0, "failure"),
    ):
        with pytest.raises(ValueError, match=message):
            samples_per_class(n, classes, tolerance, failure)
