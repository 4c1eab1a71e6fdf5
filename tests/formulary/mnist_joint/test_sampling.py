"""朴素贝叶斯的祖先采样的检验。"""

import itertools
import math

import pytest
import scipy.stats
import torch

from formulary.mnist_joint.sampling import sample_naive_bayes

THETA = torch.tensor(
    [[0.9, 0.2, 0.5, 0.7], [0.1, 0.6, 0.3, 0.4], [0.5, 0.8, 0.9, 0.15]], dtype=torch.float64
)
PRIOR = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)


def test_sample_naive_bayes__matches_enumerated_frequencies() -> None:
    """两万个样本落在 48 种（图像，标签）上的频数，卡方检验的 p 值不小于千分之一。

    5 个标准误的检验另作一遍；频率的标准误不过 0.0021，能发现大于 0.011 的偏差。
    """
    count = 20_000
    x, y = sample_naive_bayes(count, THETA, PRIOR, torch.Generator().manual_seed(17))
    codes = (x @ torch.tensor([8.0, 4.0, 2.0, 1.0]).double()).long() * 3 + y
    observed = torch.bincount(codes, minlength=48).tolist()
    expected = []
    for picture in itertools.product((0, 1), repeat=4):
        for k in range(3):
            chance = PRIOR[k].item()
            for i, pixel in enumerate(picture):
                chance *= THETA[k, i].item() if pixel else 1 - THETA[k, i].item()
            expected.append(count * chance)
    assert scipy.stats.chisquare(observed, expected).pvalue > 1e-3
    for found, mean in zip(observed, expected, strict=True):
        assert abs(found - mean) <= 5 * math.sqrt(mean * (1 - mean / count))


def test_sample_naive_bayes__equals_deterministic_model() -> None:
    """theta 与先验全是 0 与 1 时，样本由模型唯一决定，dtype 随 theta。"""
    theta = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    prior = torch.tensor([0.0, 1.0])
    x, y = sample_naive_bayes(3, theta, prior, torch.Generator().manual_seed(0))
    assert x.tolist() == [[0, 1, 1]] * 3
    assert y.tolist() == [1, 1, 1]
    assert x.dtype == torch.float32


def test_sample_naive_bayes__depends_only_on_generator() -> None:
    """种子相同则样本相同，不受全局种子影响；种子不同则样本不同。"""
    first = sample_naive_bayes(50, THETA, PRIOR, torch.Generator().manual_seed(1))
    torch.rand(3)
    again = sample_naive_bayes(50, THETA, PRIOR, torch.Generator().manual_seed(1))
    other = sample_naive_bayes(50, THETA, PRIOR, torch.Generator().manual_seed(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_sample_naive_bayes__differs_from_averaged_pixels() -> None:
    """不抽标签、直接按平均的 theta 抽像素，丢掉了像素之间的相关。

    两万个样本，协方差的标准误约 0.002，下面的 0.05 远大于它。
    """
    x, _ = sample_naive_bayes(20_000, THETA, PRIOR, torch.Generator().manual_seed(18))
    covariance = torch.cov(x.T)[0, 1].item()
    mean = PRIOR @ THETA
    exact = (PRIOR @ (THETA[:, 0] * THETA[:, 1]) - mean[0] * mean[1]).item()
    assert abs(covariance - exact) < 0.01
    assert exact < -0.05


def test_sample_naive_bayes__rejects_bad_input() -> None:
    """样本数为零、theta 不是概率、先验不归一或形状不配时报错。"""
    generator = torch.Generator()
    cases = [
        (0, THETA, PRIOR, "count 必须"),
        (3, THETA * 2, PRIOR, "theta 的元素"),
        (3, THETA, PRIOR * 2, "prior"),
        (3, THETA, PRIOR[:2], "prior 的形状"),
    ]
    for count, theta, prior, message in cases:
        with pytest.raises(ValueError, match=message):
            sample_naive_bayes(count, theta, prior, generator)
