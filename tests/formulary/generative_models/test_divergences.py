"""熵、KL 散度、JS 散度、全变差距离与 Pinsker 不等式的检验。"""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy as scipy_entropy
from scipy.stats import norm
from torch import Tensor
from torch.distributions import Categorical
from torch.distributions import kl_divergence as torch_kl_divergence

from formulary.generative_models.divergences import (
    entropy,
    js_divergence,
    kl_divergence,
    pinsker_sides,
    require_distribution_pair,
    reverse_kl_divergence,
    total_variation,
)

# 每个函数共用的一对手算分布
HAND_P = torch.tensor([0.75, 0.25], dtype=torch.float64)
HAND_Q = torch.tensor([0.5, 0.5], dtype=torch.float64)


def _random_pair(*shape: int, seed: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    p, q = logits.softmax(dim=-1)
    return p, q


def _sparse_pair() -> tuple[Tensor, Tensor]:
    """两个分布都有零概率的状态，其中一个状态上 q = 0 而 p > 0。"""
    p = torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=torch.float64)
    q = torch.tensor([0.5, 0.0, 0.5, 0.0], dtype=torch.float64)
    return p, q


def test_require_distribution_pair__rejects_bad_input() -> None:
    """形状不同、元素为负、和不为 1 或不是浮点张量的输入都报错，并指出参数名。"""
    good = torch.tensor([0.5, 0.5])
    cases = [
        (torch.tensor([1, 0]), good, "p 必须是实浮点张量"),
        (good, torch.tensor([0.5, 0.25, 0.25]), "q 的形状"),
        (torch.tensor([1.5, -0.5]), good, "p 的元素"),
        (good, torch.tensor([0.5, 0.4]), "q 沿"),
        (torch.tensor([math.nan, 1.0]), good, "p 的元素"),
        (torch.tensor(1.0), torch.tensor(1.0), "p 的形状"),
    ]
    for p, q, message in cases:
        with pytest.raises(ValueError, match=message):
            require_distribution_pair(p, q)


def test_entropy__matches_scipy() -> None:
    """与 scipy.stats.entropy 相同，含零概率的状态。"""
    p, _ = _random_pair(4, 3, 7)
    torch.testing.assert_close(entropy(p), torch.from_numpy(scipy_entropy(p.numpy(), axis=-1)))
    sparse, _ = _sparse_pair()
    torch.testing.assert_close(entropy(sparse).item(), math.log(2))


def test_entropy__bounds_by_uniform() -> None:
    """熵在 0 与 log K 之间，两端分别由确定的状态与均匀分布取到。"""
    p, _ = _random_pair(200, 5)
    assert ((entropy(p) > 0) & (entropy(p) < math.log(5))).all()
    uniform = torch.full((5,), 0.2, dtype=torch.float64)
    torch.testing.assert_close(entropy(uniform).item(), math.log(5))
    assert entropy(F.one_hot(torch.tensor(2), 5).double()).item() == 0


def test_entropy__rejects_unnormalized() -> None:
    """和不为 1 时报错并指出 p。"""
    with pytest.raises(ValueError, match="p 沿"):
        entropy(torch.tensor([0.5, 0.6]))


def test_kl_divergence__matches_scipy() -> None:
    """与 scipy.stats.entropy(p, q) 相同，逐批计算。"""
    p, q = _random_pair(4, 3, 7)
    expected = torch.from_numpy(scipy_entropy(p.numpy(), q.numpy(), axis=-1))
    torch.testing.assert_close(kl_divergence(p, q), expected)


def test_kl_divergence__matches_torch_distributions() -> None:
    """与 torch.distributions.kl_divergence 相同。"""
    p, q = _random_pair(4, 7)
    expected = torch_kl_divergence(Categorical(probs=p), Categorical(probs=q))
    torch.testing.assert_close(kl_divergence(p, q), expected)


def test_kl_divergence__equals_hand_computed_example() -> None:
    """手算一例：p = (3/4, 1/4)、q = (1/2, 1/2) 时约为 0.1308 nat。"""
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    torch.testing.assert_close(kl_divergence(HAND_P, HAND_Q).item(), expected)
    assert round(expected, 4) == 0.1308


def test_kl_divergence__equals_exercise_on_support() -> None:
    """练习：p = (1/2, 1/2, 0)、q = (1/2, 1/4, 1/4) 时是 log(2)/2。"""
    p = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    q = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    torch.testing.assert_close(kl_divergence(p, q).item(), math.log(2) / 2)


def test_kl_divergence__is_infinite_off_support() -> None:
    """数据有而模型没有的状态使它为无穷大；数据没有的状态不计入。"""
    p, q = _sparse_pair()
    assert kl_divergence(p, q).item() == math.inf
    assert kl_divergence(p, p).item() == 0


def test_kl_divergence__bounds_below_by_zero() -> None:
    """随机的 2000 对分布上都为正，只在两者相等时为 0。"""
    p, q = _random_pair(2000, 4)
    assert (kl_divergence(p, q) > 0).all()
    torch.testing.assert_close(kl_divergence(p, p), p.new_zeros(2000))


def test_kl_divergence__matches_functional_kl_div() -> None:
    """等于 F.kl_div(q.log(), p, reduction="batchmean") 乘以批量：先模型，后数据。"""
    p, q = _random_pair(4, 3)
    summed = F.kl_div(q.log(), p, reduction="batchmean") * 4
    torch.testing.assert_close(kl_divergence(p, q).sum(), summed)


def test_kl_divergence__differs_from_swapped_functional_kl_div() -> None:
    """照 F.kl_div(p.log(), q) 的次序写，算出的是 D(q‖p)。"""
    p, q = _random_pair(1, 3)
    swapped = F.kl_div(p.log(), q, reduction="batchmean")
    torch.testing.assert_close(swapped.item(), scipy_entropy(q[0], p[0]).item())
    assert (kl_divergence(p, q)[0] - swapped).abs() > 0.02


def test_kl_divergence__differs_from_mean_reduction() -> None:
    """F.kl_div 默认的 reduction="mean" 还除以状态数 K，只有真值的 1/K；手算一例得 0.0654。"""
    p, q = _random_pair(4, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mean = F.kl_div(q.log(), p)
        hand = F.kl_div(HAND_Q.log()[None], HAND_P[None])
    torch.testing.assert_close(kl_divergence(p, q).mean(), 3 * mean)
    assert (kl_divergence(p, q).mean() - mean).abs() > 0.1
    torch.testing.assert_close(kl_divergence(HAND_P, HAND_Q), 2 * hand)
    assert round(hand.item(), 4) == 0.0654


def test_kl_divergence__differs_from_functional_kl_div_of_probabilities() -> None:
    """忘了对第一个参数取对数，同一个分布与自己的“散度”也不是 0。"""
    half = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    wrong = F.kl_div(half, half, reduction="batchmean").item()
    torch.testing.assert_close(wrong, math.log(0.5) - 0.5)
    assert kl_divergence(half, half).item() == 0


def test_kl_divergence__rejects_unnormalized() -> None:
    """和不为 1 时报错并指出是哪一个。"""
    with pytest.raises(ValueError, match="q 沿"):
        kl_divergence(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 1.0]))


def test_reverse_kl_divergence__matches_torch_distributions() -> None:
    """与 torch.distributions.kl_divergence 把参数对调的结果相同。"""
    p, q = _random_pair(4, 7)
    expected = torch_kl_divergence(Categorical(probs=q), Categorical(probs=p))
    torch.testing.assert_close(reverse_kl_divergence(p, q), expected)


def test_reverse_kl_divergence__equals_hand_computed_example() -> None:
    """手算一例：p = (3/4, 1/4)、q = (1/2, 1/2) 时约为 0.1438 nat，与正向不同。"""
    expected = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    torch.testing.assert_close(reverse_kl_divergence(HAND_P, HAND_Q).item(), expected)
    assert round(expected, 4) == 0.1438


def test_reverse_kl_divergence__is_infinite_off_data_support() -> None:
    """模型在数据没有的状态上放了概率，它就为无穷大；反过来漏掉数据的状态则有限。"""
    p = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    q = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    assert reverse_kl_divergence(p, q).item() == math.inf
    one = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(reverse_kl_divergence(p, one).item(), math.log(2))


def test_reverse_kl_divergence__differs_from_forward() -> None:
    """随机的分布上，两个方向的 KL 散度不同：次序不能颠倒。"""
    p, q = _random_pair(6, 5)
    assert (reverse_kl_divergence(p, q) - kl_divergence(p, q)).abs().min() > 1e-3


def test_reverse_kl_divergence__rejects_mismatched_shapes() -> None:
    """两个分布的状态数不同时报错并指出 q。"""
    with pytest.raises(ValueError, match="q 的形状"):
        reverse_kl_divergence(torch.tensor([0.5, 0.5]), torch.tensor([1.0]))


def test_js_divergence__matches_scipy() -> None:
    """等于 scipy.spatial.distance.jensenshannon 的平方，含零概率的状态。"""
    p, q = _random_pair(5, 7)
    expected = torch.from_numpy(jensenshannon(p.numpy(), q.numpy(), axis=-1) ** 2)
    torch.testing.assert_close(js_divergence(p, q), expected)
    p, q = _sparse_pair()
    torch.testing.assert_close(js_divergence(p, q).item(), jensenshannon(p, q) ** 2)


def test_js_divergence__is_symmetric_and_bounded() -> None:
    """对调 p、q 不变，在 0 与 log 2 之间，支撑不相交时等于 log 2。"""
    p, q = _random_pair(500, 4)
    value = js_divergence(p, q)
    torch.testing.assert_close(value, js_divergence(q, p))
    assert ((value > 0) & (value < math.log(2))).all()
    apart = torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(js_divergence(apart[0], apart[1]).item(), math.log(2))


def test_js_divergence__equals_mutual_information() -> None:
    """等于公平硬币与样本的互信息：两个分布之和的熵减去熵的平均。"""
    p, q = _random_pair(5, 7)
    joint = torch.stack((p, q), dim=-2) / 2  # (5, 2, 7)
    information = (
        Categorical(joint.sum(-2)).entropy()
        - (Categorical(p).entropy() + Categorical(q).entropy()) / 2
    )
    torch.testing.assert_close(js_divergence(p, q), information)


def test_js_divergence__equals_worked_examples() -> None:
    """手算一例约为 0.0338 nat；练习里的一例是 (3/8)·log(4/3)，约为 0.1079 nat。"""
    middle = [0.625, 0.375]
    expected = sum(
        0.5 * a * math.log(a / m)
        for pair in ([0.75, 0.25], [0.5, 0.5])
        for a, m in zip(pair, middle, strict=True)
    )
    torch.testing.assert_close(js_divergence(HAND_P, HAND_Q).item(), expected)
    assert round(expected, 4) == 0.0338
    p = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    q = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    torch.testing.assert_close(js_divergence(p, q).item(), 3 / 8 * math.log(4 / 3))
    assert round(3 / 8 * math.log(4 / 3), 4) == 0.1079


def test_js_divergence__rejects_negative_probability() -> None:
    """负的概率报错并指出是哪一个。"""
    with pytest.raises(ValueError, match="q 的元素"):
        js_divergence(torch.tensor([0.5, 0.5]), torch.tensor([-2.0, 3.0]))


def test_js_divergence__rejects_mismatched_shapes() -> None:
    """两个分布的状态数不同、或要靠广播才能对齐时，都报错并指出 q。"""
    for q in (torch.full((3,), 1 / 3), torch.full((4, 2), 0.5), torch.ones(1)):
        with pytest.raises(ValueError, match="q 的形状"):
            js_divergence(torch.tensor([0.5, 0.5]), q)


@pytest.mark.parametrize(("shift", "value", "slope"), [(6.0, 0.6893, 0.0062), (8.0, 0.6931, 2e-4)])
def test_js_divergence__equals_shifted_gaussians(shift: float, value: float, slope: float) -> None:
    """文中的数：单位方差的高斯相距 6 时约为 0.6893，斜率 0.0062；相距 8 时斜率不到 0.0002。"""
    x = torch.linspace(-10, 18, 2801, dtype=torch.float64)
    t = torch.tensor(shift, dtype=torch.float64, requires_grad=True)
    p, q = (torch.softmax(-((x - center) ** 2) / 2, dim=0) for center in (0 * t, t))
    actual = js_divergence(p, q)
    assert round(actual.item(), 4) == value
    (gradient,) = torch.autograd.grad(actual, t)
    assert round(gradient.item(), 4) == slope
    # 与 NumPy 照定义求的差商相同
    a = norm.pdf(x)

    def js(center: float) -> float:
        b = norm.pdf(x, center)
        m = (a + b) / 2
        return float((a * np.log(a / m) + b * np.log(b / m)).sum() * 0.01 / 2)

    difference = (js(shift + 1e-3) - js(shift - 1e-3)) / 2e-3
    # 差商的截断误差约为 1e-7 乘以三阶导数
    torch.testing.assert_close(gradient.item(), difference, rtol=1e-5, atol=1e-8)


def test_total_variation__matches_all_events() -> None:
    """等于对全部事件（状态的子集）枚举的最大概率差。"""
    p, q = _random_pair(6)
    events = itertools.product([0.0, 1.0], repeat=6)
    largest = max(abs(np.dot(e, p.numpy()) - np.dot(e, q.numpy())) for e in events)
    torch.testing.assert_close(total_variation(p, q).item(), float(largest))


def test_total_variation__equals_hand_computed_example() -> None:
    """手算一例是 1/4；支撑不相交时是 1；逐批计算。"""
    assert total_variation(HAND_P, HAND_Q).item() == 0.25
    pairs = torch.stack((torch.eye(3, dtype=torch.float64)[0], torch.ones(3).double() / 3))
    other = torch.eye(3, dtype=torch.float64)[1:]
    torch.testing.assert_close(
        total_variation(pairs, other), torch.tensor([1.0, 2 / 3], dtype=torch.float64)
    )


def test_total_variation__rejects_unnormalized() -> None:
    """和不为 1 时报错并指出是哪一个。"""
    with pytest.raises(ValueError, match="p 沿"):
        total_variation(torch.tensor([0.5, 0.1]), torch.tensor([0.5, 0.5]))


def test_pinsker_sides__bounds_total_variation() -> None:
    """2000 对随机分布上，全变差距离都不超过由 KL 散度给出的上界。"""
    p, q = _random_pair(2000, 3)
    distance, bound = pinsker_sides(p, q)
    assert (distance <= bound).all()
    # 系数 1/2 不能再小：两个分布靠近时，两边之比趋于 1
    near = torch.tensor([0.5 + 1e-4, 0.5 - 1e-4], dtype=torch.float64)
    distance, bound = pinsker_sides(near, HAND_Q)
    assert 0.999999 < (distance / bound).item() < 1.0


def test_pinsker_sides__matches_numpy() -> None:
    """两边与 NumPy 照定义算出的值相同。"""
    p, q = _random_pair(5, 7)
    distance, bound = pinsker_sides(p, q)
    a, b = p.numpy(), q.numpy()
    torch.testing.assert_close(distance, torch.from_numpy(np.abs(a - b).sum(-1) / 2))
    torch.testing.assert_close(bound, torch.from_numpy(np.sqrt((a * np.log(a / b)).sum(-1) / 2)))


def test_pinsker_sides__equals_hand_computed_example() -> None:
    """手算一例：0.25 不超过 0.2557；两个分布相等时两边都是 0。"""
    distance, bound = pinsker_sides(HAND_P, HAND_Q)
    assert distance.item() == 0.25
    assert round(bound.item(), 4) == 0.2557
    assert pinsker_sides(HAND_P, HAND_P)[1].item() == 0


def test_pinsker_sides__rejects_mismatched_shapes() -> None:
    """两个分布的形状不同时报错并指出 q。"""
    with pytest.raises(ValueError, match="q 的形状"):
        pinsker_sides(torch.tensor([0.5, 0.5]), torch.tensor([[0.5, 0.5]]))
