"""检查点间隔的检验：积分、lambertw、优化器与按绝对时刻的故障模拟。"""

import math

import pytest
import torch
from scipy import integrate, optimize, special

from formulary.ddp.checkpoint_interval import (
    exact_interval,
    exact_overhead,
    simulated_overhead,
    system_mean_time,
    young_interval,
    young_overhead,
)


def _timeline_overhead(
    interval: float, cost: float, mean_time: float, restart: float, seed: int
) -> tuple[float, float]:
    """在绝对时间轴上撒泊松故障，逐段走过去；返回开销与它的标准误。"""
    generator = torch.Generator().manual_seed(seed)
    gaps = torch.empty(40_000, dtype=torch.float64).exponential_(1 / mean_time, generator=generator)
    clock, segments = 0.0, list[float]()
    failures = iter(gaps.tolist())
    next_failure = next(failures)  # 绝对时刻
    while len(segments) < 8_000:
        began = clock
        while next_failure < clock + interval + cost:
            clock = next_failure + restart
            next_failure = clock + next(failures)  # 重启期间不出故障
        clock += interval + cost
        segments.append((clock - began) / interval - 1)
    values = torch.tensor(segments, dtype=torch.float64)
    return float(values.mean()), float(values.std() / len(segments) ** 0.5)


def test_system_mean_time__matches_minimum_of_exponentials() -> None:
    """N 个独立指数变量的最小值：生存函数之积的积分就是它的期望。"""
    for mean_time, nodes in ((5.0, 3), (40.0, 8)):
        expected, _ = integrate.quad(lambda t, m=mean_time, n=nodes: math.exp(-t / m) ** n, 0, 200)
        torch.testing.assert_close(system_mean_time(mean_time, nodes), expected)


def test_system_mean_time__equals_worked_example() -> None:
    """一台机器 5 年坏一次（43 800 小时），一百台平均 438 小时坏一台。"""
    assert system_mean_time(43_800.0, 100) == 438


def test_young_overhead__matches_expansion_of_exact_overhead() -> None:
    """τ、C 比 M 小得多时，与精确开销只差 C/M 与更高阶的项。"""
    for scale in (1e-3, 1e-4):
        c, tau, m = 1.0 * scale, 30.0 * scale, 1.0
        second_order = c / m + (tau + c) ** 3 / (6 * tau * m * m) + c * c / (2 * tau * m)
        gap = exact_overhead(tau, c, m) - young_overhead(tau, c, m)
        # 余项是 (τ + C)⁴/(24τM³)，不到 second_order 的百分之二
        torch.testing.assert_close(gap, second_order, rtol=0.02, atol=0.0)


def test_young_overhead__equals_average_loss_by_hand() -> None:
    """τ = 100、C = 5、M = 1000：存盘占 5%，故障时平均丢掉半段、每千单位一次，占 5%。"""
    assert young_overhead(100.0, 5.0, 1000.0) == 0.1
    assert young_overhead(50.0, 5.0, 1000.0) == 0.125
    assert young_overhead(200.0, 5.0, 1000.0) == 0.125


def test_young_interval__matches_numerical_minimum() -> None:
    """对近似的开销作一维数值优化，最小点就是它。"""
    for cost, mean_time in ((5.0, 1000.0), (0.3, 77.0)):
        found = optimize.minimize_scalar(
            lambda tau, c=cost, m=mean_time: young_overhead(tau, c, m),
            bounds=(cost, mean_time),
            method="bounded",
            options={"xatol": 1e-10},
        )
        # 最小点附近函数是平的，数值优化只定得到误差的平方根
        torch.testing.assert_close(young_interval(cost, mean_time), found.x, rtol=1e-6, atol=0.0)


def test_young_interval__equals_worked_example() -> None:
    """1024 台各 5 年坏一次，存一次 2 分钟：平均 42.77 小时一次故障，每 1.69 小时存一次。

    练习：间隔取成它的 2 倍或一半，开销都是 1.25 倍。
    """
    mean_time = system_mean_time(43_800.0, 1024)
    cost = 2 / 60
    assert round(mean_time, 2) == 42.77
    best = young_interval(cost, mean_time)
    assert round(best, 2) == 1.69
    assert round(young_overhead(best, cost, mean_time), 4) == 0.0395
    assert round(young_overhead(24.0, cost, mean_time), 3) == 0.282
    assert round(young_overhead(0.1, cost, mean_time), 3) == 0.335
    assert round(exact_interval(cost, mean_time), 2) == 1.67
    assert round(exact_overhead(exact_interval(cost, mean_time), cost, mean_time), 4) == 0.0405
    assert round(exact_overhead(best, cost, mean_time), 4) == 0.0405
    # 练习：间隔取成最优的 2 倍或一半，开销都只变成 1.25 倍
    least = young_overhead(best, cost, mean_time)
    for factor in (2, 0.5):
        torch.testing.assert_close(young_overhead(factor * best, cost, mean_time), 1.25 * least)


def test_exact_overhead__matches_quadrature_of_expectation() -> None:
    """期望时间满足 E = P(成功)(τ + C) + ∫(t + R + E) f(t) dt，用数值积分解出 E。"""
    for interval, cost, mean_time, restart in ((100.0, 5.0, 1000.0, 0.0), (3.0, 1.0, 4.0, 2.0)):
        length = interval + cost

        def density(t: float, m: float = mean_time) -> float:
            return math.exp(-t / m) / m

        failed, _ = integrate.quad(density, 0, length)
        lost, _ = integrate.quad(lambda t, r=restart: (t + r) * density(t), 0, length)
        expected = ((1 - failed) * length + lost) / (1 - failed)
        actual = exact_overhead(interval, cost, mean_time, restart)
        torch.testing.assert_close(actual, expected / interval - 1)


def test_exact_overhead__limit_without_failures() -> None:
    """从不出故障时，开销只剩存盘的 C/τ。"""
    torch.testing.assert_close(exact_overhead(100.0, 5.0, 1e12), 0.05)


def test_exact_interval__matches_lambert_w() -> None:
    """最优间隔有闭式 M(1 + W₀(−exp(−1 − C/M)))。"""
    for cost, mean_time in ((5.0, 1000.0), (0.02, 3.0), (50.0, 10.0)):
        w = special.lambertw(-math.exp(-1 - cost / mean_time)).real
        torch.testing.assert_close(exact_interval(cost, mean_time), mean_time * (1 + w))


def test_exact_interval__is_minimum_for_every_restart_time() -> None:
    """在它的两侧各挪一点，精确开销都变大，不论重启要多久。"""
    best = exact_interval(5.0, 100.0)
    for restart in (0.0, 3.0, 300.0):
        least = exact_overhead(best, 5.0, 100.0, restart)
        assert exact_overhead(best * 1.01, 5.0, 100.0, restart) > least
        assert exact_overhead(best * 0.99, 5.0, 100.0, restart) > least


def test_exact_interval__limit_is_young_interval() -> None:
    """C/M 趋于零时与 Young 的间隔之比趋于 1，下一项是 −2C/3；C = 5、M = 1000 时是 96.69 对 100。"""
    ratio = exact_interval(1e-8, 1.0) / young_interval(1e-8, 1.0)
    torch.testing.assert_close(ratio, 1.0, rtol=1e-4, atol=0.0)  # 差 √(2C/M)/3 ≈ 5e-5
    assert round(exact_interval(5.0, 1000.0), 2) == 96.69
    assert round(young_interval(5.0, 1000.0) - 2 * 5.0 / 3, 2) == 96.67


def test_simulated_overhead__matches_exact_overhead() -> None:
    """二十万次尝试的模拟与精确值相差不超过 5 个标准误（约 1%，足以看出多算或少算一个 C）。"""
    for interval, cost, mean_time, restart in ((97.0, 5.0, 1000.0, 0.0), (20.0, 5.0, 60.0, 8.0)):
        generator = torch.Generator().manual_seed(11)
        attempts = 200_000
        actual = simulated_overhead(interval, cost, mean_time, attempts, generator, restart)
        expected = exact_overhead(interval, cost, mean_time, restart)
        survival = math.exp(-(interval + cost) / mean_time)
        # 每次成功平均摊到的失败次数的方差是 (1 − s)/s²，每次失败至多丢一段
        bound = (interval + cost + restart) / interval
        error = bound * math.sqrt((1 - survival) / survival**2 / (attempts * survival))
        assert abs(actual - expected) <= 5 * error
        assert 5 * error < 0.25 * cost / interval + 0.02


def test_simulated_overhead__matches_failures_on_a_timeline() -> None:
    """在绝对时间轴上撒故障的另一种模拟：两者相差不超过 5 个标准误。"""
    for job in ((97.0, 5.0, 1000.0, 0.0), (20.0, 5.0, 60.0, 8.0)):
        interval, cost, mean_time, restart = job
        expected, error = _timeline_overhead(interval, cost, mean_time, restart, seed=5)
        generator = torch.Generator().manual_seed(6)
        actual = simulated_overhead(interval, cost, mean_time, 400_000, generator, restart)
        assert abs(actual - expected) <= 5 * error
        assert error < 0.02 * (1 + expected)


def test_simulated_overhead__is_least_near_exact_interval() -> None:
    """在相隔 1.6 倍的一列间隔上模拟，最小的那个与最优间隔相差不超过一格。"""
    cost, mean_time = 2.0, 50.0
    grid = [exact_interval(cost, mean_time) * 1.6**k for k in range(-3, 4)]
    values = [
        simulated_overhead(tau, cost, mean_time, 200_000, torch.Generator().manual_seed(k))
        for k, tau in enumerate(grid)
    ]
    assert abs(values.index(min(values)) - 3) <= 1


def test_simulated_overhead__limit_of_hopeless_interval() -> None:
    """间隔比平均无故障时间长得多，一次也做不完，开销无穷大。"""
    generator = torch.Generator().manual_seed(0)
    assert simulated_overhead(1e6, 1.0, 1.0, 100, generator) == math.inf


def test_exact_overhead__rejects_bad_input() -> None:
    """时间不是有限的正数、重启时间为负时报错。"""
    generator = torch.Generator()
    for place, name in enumerate(("interval", "cost", "mean_time")):
        for value in (0.0, -1.0, math.nan, math.inf):
            times = [1.0, 1.0, 1.0]
            times[place] = value
            for function in (young_overhead, exact_overhead):
                with pytest.raises(ValueError, match=name):
                    function(*times)
            with pytest.raises(ValueError, match=name):
                simulated_overhead(*times, 10, generator)
            if place:
                for function in (young_interval, exact_interval):
                    with pytest.raises(ValueError, match=name):
                        function(*times[1:])
    for restart in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="restart"):
            exact_overhead(1.0, 1.0, 1.0, restart)
        with pytest.raises(ValueError, match="restart"):
            simulated_overhead(1.0, 1.0, 1.0, 10, generator, restart)
    with pytest.raises(ValueError, match="attempts"):
        simulated_overhead(1.0, 1.0, 1.0, 0, generator)


def test_system_mean_time__rejects_bad_input() -> None:
    """平均时间不是正数、台数不是正整数时报错。"""
    with pytest.raises(ValueError, match="node_mean_time"):
        system_mean_time(0.0, 2)
    with pytest.raises(ValueError, match="nodes"):
        system_mean_time(1.0, 0)
