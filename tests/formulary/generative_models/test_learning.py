"""状态数、经验分布、格点上的高斯与按散度拟合的检验。"""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from formulary.generative_models.divergences import (
    js_divergence,
    kl_divergence,
    reverse_kl_divergence,
)
from formulary.generative_models.f_divergences import f_divergence
from formulary.generative_models.learning import (
    empirical_distribution,
    fit_by_divergence,
    gaussian_on_grid,
    log10_state_count,
)
from formulary.generative_models.wasserstein import wasserstein_distance

POINTS = torch.linspace(-4, 5, 32, dtype=torch.float64)
DIVERGENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kl": kl_divergence,
    "reverse_kl": reverse_kl_divergence,
    "js": js_divergence,
    "hellinger": lambda p, q: f_divergence(p, q, "hellinger"),
    "chi_square": lambda p, q: f_divergence(p, q, "chi_square"),
}


def _family(theta: Tensor) -> Tensor:
    return gaussian_on_grid(theta, POINTS)


def _vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_log10_state_count__matches_exact_integers() -> None:
    """整数部分加 1 等于精确的大整数 256^m 的十进制位数，m 从 1 到 50。"""
    for m in range(1, 51):
        assert math.floor(log10_state_count(256, m)) + 1 == len(str(256**m))


def test_log10_state_count__equals_color_photo() -> None:
    """700 × 1400 的彩色照片共有约 10 的 7080225.498 次方种。"""
    # 期望值由 2940000 × 8 × log10(2) 得来，log10(2) 取 15 位
    expected = 2_940_000 * 8 * 0.301029995663981
    torch.testing.assert_close(log10_state_count(256, 700 * 1400 * 3), expected)
    assert round(expected, 3) == 7080225.498


def test_log10_state_count__differs_from_printed_exponent() -> None:
    """指数是 CS236 笔记所印的 800000 的 8.85 倍。"""
    ratio = log10_state_count(256, 700 * 1400 * 3) / 800_000
    assert round(ratio, 2) == 8.85


def test_log10_state_count__rejects_bad_counts() -> None:
    """取值个数小于 2、维数不是正整数时报错并指出参数。"""
    with pytest.raises(ValueError, match="levels 必须是不小于 2"):
        log10_state_count(1, 3)
    for dimensions in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="dimensions 必须是不小于 1"):
            log10_state_count(256, dimensions)  # type: ignore[arg-type]


def test_empirical_distribution__matches_bincount() -> None:
    """与 np.bincount 除以样本数逐位相同。"""
    x = torch.randint(0, 9, (40,), generator=torch.Generator().manual_seed(0))
    expected = torch.from_numpy(np.bincount(x.numpy(), minlength=12) / 40)
    assert torch.equal(empirical_distribution(x, 12), expected)


def test_empirical_distribution__equals_hand_counts() -> None:
    """样本 (2, 0, 2, 2) 在四个状态上的频率是 (1/4, 0, 3/4, 0)，与次序无关。"""
    expected = _vector(0.25, 0.0, 0.75, 0.0)
    assert torch.equal(empirical_distribution(torch.tensor([2, 0, 2, 2]), 4), expected)
    assert torch.equal(empirical_distribution(torch.tensor([2, 2, 2, 0]), 4), expected)


def test_empirical_distribution__rejects_bad_samples() -> None:
    """样本为空、超出范围、不是整数或不是一维时报错并指出 x。"""
    cases = [
        (torch.tensor([], dtype=torch.int64), "x 的样本数"),
        (torch.tensor([0, 3]), "x 的元素"),
        (torch.tensor([0, -1]), "x 的元素"),
        (torch.tensor([0.0]), "x 必须是整数张量"),
        (torch.tensor([[0, 1]]), "x 的形状"),
    ]
    for x, message in cases:
        with pytest.raises(ValueError, match=message):
            empirical_distribution(x, 3)
    with pytest.raises(ValueError, match="states 必须是不小于 1"):
        empirical_distribution(torch.tensor([0]), 0)


def test_gaussian_on_grid__matches_scaled_density() -> None:
    """等距的宽格点上，概率除以间隔等于 torch.distributions 的正态密度。"""
    points = torch.linspace(-12, 12, 481, dtype=torch.float64)
    actual = gaussian_on_grid(_vector(0.7, math.log(1.3)), points)
    density = torch.distributions.Normal(_vector(0.7)[0], 1.3).log_prob(points).exp()
    torch.testing.assert_close(actual / (points[1] - points[0]), density)


def test_gaussian_on_grid__equals_hand_ratio() -> None:
    """相邻格点的概率之比由指数给出；和为 1。"""
    q = gaussian_on_grid(_vector(1.0, math.log(2.0)), _vector(1.0, 3.0, 4.0))
    torch.testing.assert_close(q[1] / q[0], _vector(math.exp(-0.5))[0])
    torch.testing.assert_close(q[2] / q[0], _vector(math.exp(-9 / 8))[0])
    torch.testing.assert_close(q.sum().item(), 1.0)


def test_gaussian_on_grid__rejects_bad_shapes() -> None:
    """参数不是两个数、格点不是一维浮点张量时报错。"""
    with pytest.raises(ValueError, match="theta 的形状"):
        gaussian_on_grid(torch.zeros(3), torch.zeros(4))
    with pytest.raises(ValueError, match="points 必须是实浮点张量"):
        gaussian_on_grid(torch.zeros(2), torch.arange(4))


@pytest.mark.parametrize("name", DIVERGENCES)
def test_fit_by_divergence__equals_truth_when_realizable(name: str) -> None:
    """数据分布就在模型族里时，五种散度都找回同一组参数，散度降到 1e-12 以下。"""
    truth = _vector(0.4, math.log(0.9))
    theta, value = fit_by_divergence(DIVERGENCES[name], _family(truth), _family, _vector(-0.5, 0.4))
    assert abs(value.item()) < 1e-12
    # 散度在极小点附近是二次的，自身精确到 1e-16 时参数只能精确到 1e-8
    torch.testing.assert_close(theta, truth, rtol=0, atol=1e-6)


def _numpy_divergence(name: str, p: np.ndarray, q: np.ndarray) -> float:
    """与被测代码无关的散度。"""
    m = (p + q) / 2
    values = {
        "kl": lambda: (p * np.log(p / q)).sum(),
        "reverse_kl": lambda: (q * np.log(q / p)).sum(),
        "js": lambda: ((p * np.log(p / m)).sum() + (q * np.log(q / m)).sum()) / 2,
        "hellinger": lambda: ((np.sqrt(p) - np.sqrt(q)) ** 2).sum(),
        "chi_square": lambda: (p**2 / q).sum() - 1,
    }
    return float(values[name]())


@pytest.mark.parametrize("name", DIVERGENCES)
def test_fit_by_divergence__matches_nelder_mead(name: str) -> None:
    """数据分布不在模型族里时，与 SciPy 的 Nelder–Mead 法用 NumPy 找到的极小点相同。"""
    x = POINTS.numpy()
    weights = np.exp(-((x + 1) ** 2)) + 0.5 * np.exp(-((x - 2) ** 2) / 3) + 0.01
    p = weights / weights.sum()

    def objective(theta: np.ndarray) -> float:
        q = np.exp(-(((x - theta[0]) / np.exp(theta[1])) ** 2) / 2)
        return _numpy_divergence(name, p, q / q.sum())

    start = [0.2, 0.3]
    options = {"xatol": 1e-9, "fatol": 1e-15, "maxiter": 2000}
    best = minimize(objective, start, method="Nelder-Mead", options=options)
    theta, value = fit_by_divergence(
        DIVERGENCES[name], torch.from_numpy(p), _family, _vector(*start)
    )
    torch.testing.assert_close(value.item(), best.fun)
    # 单纯形法停在函数值分辨不出差别的地方，参数约有七位有效数字
    torch.testing.assert_close(theta, torch.from_numpy(best.x), rtol=0, atol=1e-6)


def test_fit_by_divergence__equals_maximum_likelihood() -> None:
    """取前向 KL 时，极小点就是让对数似然的期望最大的参数；取反向 KL 时不是。"""
    p = torch.softmax(-((POINTS - 1).abs() ** 1.5) + torch.sin(3 * POINTS), 0)
    start = _vector(0.0, 1.0)
    forward, _ = fit_by_divergence(kl_divergence, p, _family, start)
    backward, _ = fit_by_divergence(reverse_kl_divergence, p, _family, start)

    # 对格点上的高斯，似然最大等价于模型的均值与方差等于数据的
    def moments(q: Tensor) -> Tensor:
        mean = (q * POINTS).sum()
        return torch.stack((mean, (q * (POINTS - mean) ** 2).sum()))

    torch.testing.assert_close(moments(_family(forward)), moments(p))
    assert (moments(_family(backward)) - moments(p)).abs().max() > 0.1


def test_fit_by_divergence__is_exact_enough_for_wasserstein() -> None:
    """Wasserstein-1 距离在极小点有尖角，拟合仍把它降到 1e-6 以下。"""
    truth = _vector(0.4, math.log(0.9))
    theta, value = fit_by_divergence(
        lambda p, q: wasserstein_distance(p, q, POINTS), _family(truth), _family, _vector(-0.5, 0.4)
    )
    assert 0 <= value.item() < 1e-6
    torch.testing.assert_close(theta, truth, rtol=0, atol=1e-5)  # 尖角处线搜索收敛得慢


def test_fit_by_divergence__preserves_start() -> None:
    """初值张量不被改动，迭代次数的上限起作用。"""
    start = _vector(-0.5, 0.4)
    p = _family(_vector(0.4, -0.1))
    _, one = fit_by_divergence(kl_divergence, p, _family, start, iterations=1)
    _, many = fit_by_divergence(kl_divergence, p, _family, start, iterations=50)
    assert start.tolist() == [-0.5, 0.4]
    assert many < one < kl_divergence(p, _family(start))


def test_fit_by_divergence__rejects_bad_input() -> None:
    """数据不是分布、初值不是一维、迭代次数不是正整数时报错。"""
    p, start = _family(_vector(0.0, 0.0)), _vector(0.0, 0.0)
    with pytest.raises(ValueError, match="p 沿"):
        fit_by_divergence(kl_divergence, 2 * p / 3, _family, start)
    with pytest.raises(ValueError, match="start 的形状"):
        fit_by_divergence(kl_divergence, p, _family, start[None])
    with pytest.raises(ValueError, match="iterations 必须是不小于 1"):
        fit_by_divergence(kl_divergence, p, _family, start, iterations=0)
