"""语义聚合性与底数下界：对照逐项循环、蒙特卡洛、逐个底数的穷举与公开的数值。"""

import math

import pytest
import torch

from formulary.rope.aggregation import aggregation_gap, aggregation_index, smallest_base

F64 = torch.float64


def cosine_sum(delta: float, d: int, base: float) -> float:
    return sum(math.cos(delta * base ** (-2 * i / d)) for i in range(d // 2))


def test_aggregation_index__matches_loop() -> None:
    """与逐项相加的余弦一致。"""
    deltas = [0.0, 1.0, -3.5, 200.0]
    expected = torch.tensor([cosine_sum(t, 10, 60.0) for t in deltas], dtype=F64)
    actual = aggregation_index(torch.tensor(deltas, dtype=F64), 10, base=60.0, dtype=F64)
    torch.testing.assert_close(actual, expected)


def test_aggregation_index__equals_worked_example() -> None:
    """手算一例（d = 4、b = 100、Δ = 10）：cos 10 + cos 1；Δ = 0 时是 d/2。"""
    actual = aggregation_index(torch.tensor([0, 10]), 4, base=100.0, dtype=F64)
    expected = torch.tensor([2.0, math.cos(10) + math.cos(1)], dtype=F64)
    torch.testing.assert_close(actual, expected)


def test_aggregation_index__equals_slow_pair() -> None:
    """默认底数 10000、d = 4、Δ = 100：cos 100 + cos 1，默认返回 float32。"""
    actual = aggregation_index(torch.tensor([100], dtype=F64), 4)
    # 100 弧度在 float32 里的间距约 8e-6
    expected = torch.tensor([math.cos(100) + math.cos(1)])
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=0)


def test_aggregation_index__rejects_odd_d() -> None:
    """奇数维被拒绝。"""
    with pytest.raises(ValueError, match="d 必须是正偶数"):
        aggregation_index(torch.tensor([1]), 3)


def test_aggregation_gap__matches_monte_carlo() -> None:
    """10 万次抽样的平均与期望之差在 4 个标准误以内；均值向量各分量不同。"""
    generator = torch.Generator().manual_seed(0)
    d, sigma, delta, base, count = 8, 1.5, 7.0, 1e4, 100_000
    mean = torch.linspace(-0.5, 1.0, d, dtype=F64)
    q, k = (mean + sigma * torch.randn(count, d, dtype=F64, generator=generator) for _ in "qk")
    noise = 0.3 * torch.randn(count, d, dtype=F64, generator=generator)
    difference = q + noise - k
    samples = torch.zeros(count, dtype=F64)
    for i in range(d // 2):  # qᵀ R_Δ (q + ε - k)，一对一对地转
        cos, sin = math.cos(delta * base ** (-2 * i / d)), math.sin(delta * base ** (-2 * i / d))
        first, second = difference[:, 2 * i], difference[:, 2 * i + 1]
        samples += q[:, 2 * i] * (cos * first - sin * second)
        samples += q[:, 2 * i + 1] * (sin * first + cos * second)
    error = samples.std() / math.sqrt(count)
    for line in aggregation_gap(mean, sigma, delta, base):
        assert (samples.mean() - line).abs() < 4 * error < 0.2 * line.abs()


@pytest.mark.parametrize("delta", [0.0, 1.0, -20.5, 3000.7])
def test_aggregation_gap__is_one_value_on_every_line(delta: float) -> None:
    """推导的三行相等，且与均值向量无关。"""
    mean = torch.linspace(-2.0, 5.0, 12, dtype=F64)
    moments, trace, cosines = aggregation_gap(mean, 0.7, delta, base=500.0)
    torch.testing.assert_close(moments, trace)
    torch.testing.assert_close(trace, cosines)
    expected = torch.tensor(2 * 0.49 * cosine_sum(delta, 12, 500.0), dtype=F64)
    torch.testing.assert_close(cosines, expected)


def test_aggregation_gap__limit_zero_sigma() -> None:
    """方差为 0 时查询与键没有分别，差为 0；默认底数是 10000。"""
    mean = torch.tensor([1.0, 2.0, -3.0, 5.0], dtype=F64)
    for line in aggregation_gap(mean, 0.0, 6.0):
        torch.testing.assert_close(line, torch.tensor(0.0, dtype=F64))
    expected = torch.tensor(2 * (math.cos(100) + math.cos(1)), dtype=F64)
    for line in aggregation_gap(mean, 1.0, 100.0):
        torch.testing.assert_close(line, expected)


def test_aggregation_gap__rejects_negative_sigma() -> None:
    """负的标准差被拒绝。"""
    with pytest.raises(ValueError, match="sigma 是标准差"):
        aggregation_gap(torch.ones(4), -0.5, 0.0)


@pytest.mark.parametrize("length", [1, 2, 20, 50, 64, 100])
def test_smallest_base__matches_exhaustive_search(length: int) -> None:
    """与逐个底数、逐个位置的穷举一致。"""
    candidates = [1.5 * t for t in range(1, 400)]
    expected = next(b for b in candidates if all(cosine_sum(m, 32, b) >= 0 for m in range(length)))
    actual = smallest_base(length, 32, torch.tensor(candidates, dtype=F64))
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=F64))


@pytest.mark.parametrize(("length", "published"), [(1024, 4.3e3), (2048, 1.2e4)])
def test_smallest_base__matches_published_bases(length: int, published: float) -> None:
    """维数 128 时与 kexue.fm/archives/10122 公布的两位有效数字一致。"""
    candidates = torch.arange(0.8 * published, 1.1 * published, 5.0, dtype=F64)
    base = smallest_base(length, 128, candidates)
    assert float(f"{base.item():.1e}") == published


def test_smallest_base__limit_first_negative_position() -> None:
    """底数 10000、维数 128 的余弦和在 m = 1707 处首次为负：长度 1707 合格，1708 不合格。"""
    values = [cosine_sum(m, 128, 1e4) for m in range(1708)]
    assert min(values[:-1]) >= 0 > values[-1]
    only = torch.tensor([1e4], dtype=F64)
    assert smallest_base(1707, 128, only) == 1e4
    with pytest.raises(ValueError, match="candidates 里没有"):
        smallest_base(1708, 128, only)


def test_smallest_base__differs_from_bisection() -> None:
    """对照：合格的底数不成区间，L = 2048 时二分查找漏掉最小的 11588。"""

    def good(base: float) -> bool:
        theta = base ** (-torch.arange(64, dtype=F64) / 64)
        return bool(((torch.arange(2048)[:, None] * theta).cos().sum(-1) >= 0).all())

    low, high = 10_000.0, 14_600.0
    assert not good(low)
    assert good(high)
    while high - low > 0.25:
        middle = (low + high) / 2
        low, high = (low, middle) if good(middle) else (middle, high)
    base = smallest_base(2048, 128, torch.arange(11_500.0, 11_700.0, 1.0, dtype=F64))
    assert 14_469 < high < 14_471
    assert high > base + 2_800
    assert base == 11_588


@pytest.mark.parametrize(
    ("length", "d", "candidates", "message"),
    [
        (0, 8, [1.0, 2.0], "length 至少为 1"),
        (1, 7, [1.0, 2.0], "d 须为正偶数"),
        (1, 0, [1.0, 2.0], "d 须为正偶数"),
        (1, 8, [-0.5, 2.0], "升序的正数"),
        (1, 8, [0.0, 2.0], "升序的正数"),
        (1, 8, [2.0, 2.0], "升序的正数"),
        (1, 8, [2.0, 1.5], "升序的正数"),
        (5, 8, [1.0], "candidates 里没有"),
        (5, 8, [], "candidates 里没有"),
    ],
)
def test_smallest_base__rejects_bad_values(
    length: int, d: int, candidates: list[float], message: str
) -> None:
    """长度、维数不对，候选不是升序的正数，或没有合格的候选，都被拒绝。"""
    with pytest.raises(ValueError, match=message):
        smallest_base(length, d, torch.tensor(candidates))


def test_smallest_base__limit_length_one() -> None:
    """长度为 1 时只查 m = 0，任何正的底数都合格，返回第一个。"""
    assert smallest_base(1, 8, torch.tensor([0.5, 1.0, 7.0], dtype=F64)) == 0.5
