"""祖先采样的检验：分布、次序、前缀、温度，以及它漏掉次序或重抽前缀时的样子。"""

import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor

from formulary.autoregressive_models.sampling import (
    ancestral_box,
    ancestral_sample,
    incremental_sample,
)

N = 5
ORDER = torch.tensor([3, 0, 4, 1, 2])


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _uniforms(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=_generator(seed))


def _tables(seed: int) -> list[list[float]]:
    """第 t 个变量一张表，按前缀的二进制数查对数几率。"""
    generator = _generator(seed)
    return [torch.randn(2**t, dtype=torch.float64, generator=generator).tolist() for t in range(N)]


def _table_model(tables: list[list[float]], order: list[int]) -> Callable[[Tensor], Tensor]:
    """查表的自回归模型：任何分布都写得出来。"""

    def logits(x: Tensor) -> Tensor:
        result, index = torch.zeros_like(x), torch.zeros(len(x), dtype=torch.long)
        for t, i in enumerate(order):
            result[:, i] = torch.tensor(tables[t], dtype=x.dtype)[index]
            index = 2 * index + x[:, i].long()
        return result

    return logits


def _probabilities(tables: list[list[float]], order: list[int]) -> Tensor:
    """逐个状态、逐个变量用标量算出的概率，x_0 是最高位。"""
    result = []
    for state in range(2**N):
        bits = [(state >> (N - 1 - i)) & 1 for i in range(N)]
        probability, index = 1.0, 0
        for t, i in enumerate(order):
            one = 1 / (1 + math.exp(-tables[t][index]))
            probability *= one if bits[i] else 1 - one
            index = 2 * index + bits[i]
        result.append(probability)
    return torch.tensor(result, dtype=torch.float64)


def _counts(x: Tensor) -> Tensor:
    powers = torch.tensor([2 ** (N - 1 - i) for i in range(N)])
    return torch.bincount(x.long() @ powers, minlength=2**N)


def _p_value(x: Tensor, probabilities: Tensor) -> float:
    counts = _counts(x).numpy()
    return float(stats.chisquare(counts, counts.sum() * probabilities.numpy()).pvalue)


def test_ancestral_sample__matches_enumerated_distribution() -> None:
    """二十万个样本的频数过得了卡方检验；概率乘 1.02 与 0.98 再归一，它有 98% 的把握发现。"""
    tables, order = _tables(0), ORDER.tolist()
    p = _probabilities(tables, order)
    x = ancestral_sample(_table_model(tables, order), _uniforms(200_000, N), ORDER)
    assert _p_value(x, p) > 1e-3
    assert 200_000 * p.min() > 5  # 卡方近似的惯例
    # 功效：一半状态乘 1 + ε、一半乘 1 − ε 再归一，非中心卡方分布给出把握
    critical, powers = stats.chi2.isf(1e-3, 2**N - 1), []
    for epsilon, distance in ((0.02, 0.008), (0.01, 0.004)):
        signs = torch.tensor([1 + epsilon, 1 - epsilon], dtype=torch.float64).repeat(2 ** (N - 1))
        q = p * signs / (p * signs).sum()
        assert round(float((q - p).abs().sum()) / 2, 3) == distance
        noncentrality = 200_000 * float(((q - p) ** 2 / p).sum())
        powers.append(round(float(stats.ncx2.sf(critical, 2**N - 1, noncentrality)), 2))
    assert powers == [0.98, 0.11]


def test_ancestral_sample__matches_python_loop() -> None:
    """与逐个样本、逐个变量用标量抽取的循环逐位相同。"""
    tables, order = _tables(2), ORDER.tolist()
    uniforms = _uniforms(300, N)
    expected = []
    for row in uniforms.tolist():
        bits, index = [0] * N, 0
        for t, i in enumerate(order):
            bits[i] = int(row[i] < 1 / (1 + math.exp(-tables[t][index])))
            index = 2 * index + bits[i]
        expected.append(bits)
    actual = ancestral_sample(_table_model(tables, order), uniforms, ORDER)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_ancestral_sample__differs_from_wrong_order() -> None:
    """不按模型的次序抽，得到的是另一个分布，卡方检验的 p 值小于 1e-100。"""
    tables, order = _tables(0), ORDER.tolist()
    p, model = _probabilities(tables, order), _table_model(tables, order)
    for wrong in (None, ORDER.flip(0), ORDER.argsort()):
        x = ancestral_sample(model, _uniforms(200_000, N), wrong)
        assert _p_value(x, p) < 1e-100


def test_ancestral_sample__preserves_known_prefix() -> None:
    """给定的变量保持原值，类型可以与均匀数不同，而且模型只被调用 n − T 次。"""
    tables, order = _tables(1), ORDER.tolist()
    known = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    calls, model = [], _table_model(tables, order)

    def counted(x: Tensor) -> Tensor:
        calls.append(len(x))
        return model(x)

    x = ancestral_sample(counted, _uniforms(3, N), ORDER, known.float())
    torch.testing.assert_close(x[:, ORDER[:2]], known)
    assert calls == [3] * (N - 2)
    # 全部给定：没有什么可抽
    again = ancestral_sample(counted, _uniforms(3, N), ORDER, x[:, ORDER])
    torch.testing.assert_close(again, x)
    assert calls == [3] * (N - 2)


def test_ancestral_sample__matches_conditional_distribution() -> None:
    """补全前缀的样本服从精确的条件分布。"""
    tables, order = _tables(3), ORDER.tolist()
    known = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(100_000, 2)
    model = _table_model(tables, order)
    x = ancestral_sample(model, _uniforms(100_000, N), ORDER, known)
    p = _probabilities(tables, order)
    bits = [[(s >> (N - 1 - i)) & 1 for i in range(N)] for s in range(2**N)]
    kept = [s for s in range(2**N) if bits[s][order[0]] == 1 and bits[s][order[1]] == 0]
    counts = _counts(x)
    assert counts[kept].sum() == 100_000
    expected = p[kept] / p[kept].sum() * 100_000
    assert stats.chisquare(counts[kept].numpy(), expected.numpy()).pvalue > 1e-3


def test_ancestral_sample__differs_from_redrawn_prefix() -> None:
    """返回重抽的前缀（hankyul2/pytorch-ae 的 NADE）时，给定的像素会被改掉。"""
    tables, order = _tables(3), list(range(N))
    uniforms = _uniforms(1000, N)
    known = torch.ones(1000, 3, dtype=torch.float64)
    model = _table_model(tables, order)
    right = ancestral_sample(model, uniforms, known=known)
    # 那份代码内部沿用给定值，返回的却是每一步新抽的值
    redrawn = (uniforms < torch.sigmoid(model(right))).to(right)
    torch.testing.assert_close(redrawn[:, 3:], right[:, 3:])
    assert (right[:, :3] == 1).all()
    assert (redrawn[:, :3] != 1).double().mean() > 0.2


def test_ancestral_sample__equals_hand_example() -> None:
    """两位的例子：p_1 = 0.6，第二位在 x_1 = 1 时为 0.2，在 x_1 = 0 时为 0.9。"""
    uniforms = torch.tensor([[0.59, 0.19], [0.59, 0.21], [0.61, 0.89], [0.61, 0.91]])

    def model(x: Tensor) -> Tensor:
        second = torch.where(x[:, 0] == 1, 0.2, 0.9)
        return torch.stack((torch.full_like(second, 0.6), second), dim=1).logit()

    x = ancestral_sample(model, uniforms)
    assert x.tolist() == [[1, 1], [1, 0], [0, 1], [0, 0]]
    # 均匀数恰好等于概率 1/2 时取 0
    assert ancestral_sample(torch.zeros_like, torch.tensor([[0.5, 0.4999]])).tolist() == [[0, 1]]
    # 只有自然次序才符合这个模型；倒着抽，第二位看不到第一位
    reversed_order = ancestral_sample(model, uniforms, torch.tensor([1, 0]))
    assert reversed_order.tolist() == [[1, 1], [1, 1], [0, 1], [0, 0]]


def test_ancestral_sample__matches_temperature_by_hand() -> None:
    """温度 T 把对数几率除以 T：概率 0.8 在 T = 0.5 时变成 16/17。"""
    logits = torch.full((1, 1), 4.0, dtype=torch.float64).log()
    for temperature, threshold in ((1.0, 0.8), (0.5, 16 / 17), (2.0, 2 / 3)):
        uniforms = torch.tensor([[threshold - 1e-9], [threshold + 1e-9]], dtype=torch.float64)
        x = ancestral_sample(lambda x: logits.expand_as(x), uniforms, temperature=temperature)
        assert x.flatten().tolist() == [1, 0]


def test_ancestral_sample__rejects_bad_input() -> None:
    """均匀数、次序、前缀与温度各种不合要求的情形都报错，并指出参数名。"""
    u = torch.rand(2, 3, generator=_generator(0))
    cases = [
        ({"uniforms": u[0]}, "uniforms 的形状"),
        ({"uniforms": u + 1}, "uniforms 的元素"),
        ({"uniforms": u - 1}, "uniforms 的元素"),
        ({"uniforms": u.long()}, "uniforms 必须是实浮点张量"),
        ({"uniforms": u, "order": torch.tensor([0, 1, 1])}, "order 必须是"),
        ({"uniforms": u, "order": torch.tensor([1, 2, 3])}, "order 必须是"),
        ({"uniforms": u, "order": torch.tensor([0, 1])}, "order 必须是"),
        ({"uniforms": u, "known": torch.full((2, 1), 0.5)}, "known 的元素"),
        ({"uniforms": u, "known": torch.ones(3, 1)}, "known 的形状"),
        ({"uniforms": u, "known": torch.ones(2, 4)}, "known 至多有 3 列"),
        ({"uniforms": u, "temperature": 0.0}, "temperature 必须是"),
        ({"uniforms": u, "temperature": math.inf}, "temperature 必须是"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            ancestral_sample(torch.zeros_like, **arguments)


def test_ancestral_box__matches_enumeration() -> None:
    """长方体的体积等于逐项相乘的概率，全部状态的体积加起来等于 1。"""
    tables, order = _tables(4), ORDER.tolist()
    states = torch.tensor(
        [[(s >> (N - 1 - i)) & 1 for i in range(N)] for s in range(2**N)], dtype=torch.float64
    )
    lower, upper = ancestral_box(_table_model(tables, order)(states), states)
    volumes = (upper - lower).prod(dim=1)
    torch.testing.assert_close(volumes, _probabilities(tables, order))
    torch.testing.assert_close(volumes.sum(), torch.ones((), dtype=torch.float64))


def test_ancestral_box__is_preimage_of_sampling() -> None:
    """每组均匀数恰好落在一个长方体里，那就是祖先采样给出的样本；抽到边界也如此。"""
    tables, order = _tables(4), ORDER.tolist()
    model, uniforms = _table_model(tables, order), _uniforms(200, N, seed=8)
    uniforms[0, ORDER[0]] = 1 / (1 + math.exp(-tables[0][0]))  # 正好等于 p 时取 0
    sample = ancestral_sample(model, uniforms, ORDER)
    states = torch.tensor(
        [[(s >> (N - 1 - i)) & 1 for i in range(N)] for s in range(2**N)], dtype=torch.float64
    )
    lower, upper = ancestral_box(model(states), states)
    inside = ((lower <= uniforms[:, None]) & (uniforms[:, None] < upper)).all(dim=2)
    assert (inside.sum(dim=1) == 1).all()
    torch.testing.assert_close(states[inside.long().argmax(dim=1)], sample)


def test_ancestral_box__equals_hand_example() -> None:
    """p_1 = 0.6、p_2 = 0.2 时，(1, 0) 的长方体是 [0, 0.6) × [0.2, 1)，体积 0.48。"""
    logits = torch.tensor([[0.6, 0.2]], dtype=torch.float64).logit()
    lower, upper = ancestral_box(logits, torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(lower, torch.tensor([[0.0, 0.2]], dtype=torch.float64))
    torch.testing.assert_close(upper, torch.tensor([[0.6, 1.0]], dtype=torch.float64))
    assert round(float((upper - lower).prod()), 12) == 0.48


def test_ancestral_box__rejects_bad_input() -> None:
    """形状不符或 x 不是二值时报错。"""
    for logits, x, message in (
        (torch.zeros(3), torch.zeros(3), "logits 的形状"),
        (torch.zeros(2, 3), torch.zeros(2, 2), "x 的形状"),
        (torch.zeros(2, 3), torch.full((2, 3), 0.5), "x 的元素"),
    ):
        with pytest.raises(ValueError, match=message):
            ancestral_box(logits, x)


def _running_count_model(x: Tensor) -> Tensor:
    """ℓ_i 等于前面 1 的个数减一，乘上位置的系数。"""
    n = x.shape[1]
    return (x.cumsum(dim=1) - x - 1) * torch.arange(1, n + 1).to(x) / n


def _running_count_step(
    n: int,
) -> Callable[[Tensor, object], tuple[Tensor, object]]:
    """同一个模型，状态是（已走的步数，1 的个数）。"""

    def step(previous: Tensor, state: object) -> tuple[Tensor, object]:
        done, ones = (0, torch.zeros_like(previous)) if state is None else state
        ones = ones + previous
        return (ones - 1) * (done + 1) / n, (done + 1, ones)

    return step


def test_incremental_sample__matches_ancestral_sample() -> None:
    """带状态逐步抽取，与每步重算整个前缀的样本逐位相同。"""
    uniforms = _uniforms(500, 9)
    expected = ancestral_sample(_running_count_model, uniforms)
    actual = incremental_sample(_running_count_step(9), uniforms)
    torch.testing.assert_close(actual, expected)
    assert 0.1 < actual.mean() < 0.9


def test_incremental_sample__is_one_step_per_variable() -> None:
    """n 个变量恰好调用 n 次，每次只收到上一个变量，第一次收到 0 与 None。"""
    seen = []

    def step(previous: Tensor, state: int | None) -> tuple[Tensor, int]:
        seen.append((previous.tolist(), state))
        return torch.full_like(previous, 1.0 if state is None else -1.0), len(seen)

    uniforms = torch.tensor([[0.7, 0.3, 0.2], [0.75, 0.2, 0.3]])
    x = incremental_sample(step, uniforms)
    assert seen == [([0.0, 0.0], None), ([1.0, 0.0], 1), ([0.0, 1.0], 2)]
    assert x.tolist() == [[1, 0, 1], [0, 1, 0]]


def test_incremental_sample__equals_boundary_example() -> None:
    """概率恰为 1/2 时，u = 1/2 取 0，略小于 1/2 取 1。"""
    uniforms = torch.tensor([[0.5, 0.4999], [0.4999, 0.5]])
    x = incremental_sample(lambda previous, _: (torch.zeros_like(previous), None), uniforms)
    assert x.tolist() == [[0, 1], [1, 0]]


def test_incremental_sample__rejects_bad_uniforms() -> None:
    """均匀数形状不符或越界时报错。"""
    for uniforms, message in (
        (torch.rand(3), "uniforms 的形状"),
        (torch.full((2, 2), 1.5), "uniforms 的元素"),
    ):
        with pytest.raises(ValueError, match=message):
            incremental_sample(lambda u, s: (u, s), uniforms)
