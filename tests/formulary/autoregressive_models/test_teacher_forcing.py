"""教师强制与自由生成两种前缀下的误差的检验。"""

import itertools
import math

import pytest
import torch
from torch import Tensor

from formulary.autoregressive_models.teacher_forcing import prefix_gaps


def _model(seed: int):
    generator = torch.Generator().manual_seed(seed)
    matrix = 1.3 * torch.randn(6, 6, dtype=torch.float64, generator=generator)

    def logits(x: Tensor) -> Tensor:
        n = x.shape[1]
        return x @ matrix[:n, :n].tril(-1).T + matrix.diagonal()[:n]

    return logits


def _one(model, prefix: tuple[int, ...]) -> float:
    """已知前缀时下一位取 1 的概率，后面各位随便填。"""
    x = torch.tensor([[*prefix, 1.0]], dtype=torch.float64)
    return 1 / (1 + math.exp(-float(model(x)[0, -1])))


def _prefix_probability(model, prefix: tuple[int, ...]) -> float:
    result = 1.0
    for i, bit in enumerate(prefix):
        one = _one(model, prefix[:i])
        result *= one if bit else 1 - one
    return result


def test_prefix_gaps__matches_python_loop() -> None:
    """与逐个前缀、用标量相加的两种平均相同。"""
    data, model, n = _model(0), _model(1), 4
    expected: tuple[list[float], list[float]] = ([], [])
    for i in range(n):
        totals = [0.0, 0.0]
        for prefix in itertools.product((0, 1), repeat=i):
            p, q = _one(data, prefix), _one(model, prefix)
            divergence = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
            for side, source in enumerate((data, model)):
                totals[side] += _prefix_probability(source, prefix) * divergence
        for side in range(2):
            expected[side].append(totals[side])
    forced, free = prefix_gaps(data, model, n, torch.float64)
    torch.testing.assert_close(forced, torch.tensor(expected[0], dtype=torch.float64))
    torch.testing.assert_close(free, torch.tensor(expected[1], dtype=torch.float64))
    assert (forced - free).abs().max() > 0.01
    for side in prefix_gaps(torch.zeros_like, torch.ones_like, 2):  # 不说明类型时
        assert side.dtype == torch.float32


def test_prefix_gaps__equals_joint_divergence() -> None:
    """教师强制的各步之和是联合分布的 KL 散度；自由生成的各步之和不是。"""
    data, model, n = _model(2), _model(3), 5
    divergence = 0.0
    for bits in itertools.product((0, 1), repeat=n):
        p, q = _prefix_probability(data, bits), _prefix_probability(model, bits)
        divergence += p * math.log(p / q)
    forced, free = prefix_gaps(data, model, n, torch.float64)
    torch.testing.assert_close(forced.sum(), torch.tensor(divergence, dtype=torch.float64))
    assert abs(float(free.sum()) - divergence) > 0.01


def test_prefix_gaps__equals_two_bit_example() -> None:
    """两位的例子：罕见前缀上学得很差，教师强制之和是 0.0864，自由生成是 0.2270。"""

    def two_bits(first: float, after_zero: float, after_one: float):
        def logits(x: Tensor) -> Tensor:
            second = torch.where(x[:, 0] == 1, after_one, after_zero).to(x)
            return torch.stack((torch.full_like(second, first), second), dim=1).logit()

        return logits

    data, model = two_bits(0.02, 0.5, 0.9), two_bits(0.1, 0.5, 0.1)
    forced, free = prefix_gaps(data, model, 2, torch.float64)
    step = 0.02 * math.log(0.2) + 0.98 * math.log(0.98 / 0.9)
    second = 0.8 * math.log(9)
    torch.testing.assert_close(forced, torch.tensor([step, 0.02 * second], dtype=torch.float64))
    torch.testing.assert_close(free, torch.tensor([step, 0.1 * second], dtype=torch.float64))
    assert [round(v, 4) for v in (step, 0.02 * second, 0.1 * second)] == [0.0513, 0.0352, 0.1758]
    assert round(float(forced.sum()), 4) == 0.0864
    assert round(float(free.sum()), 4) == 0.2270


def test_prefix_gaps__is_zero_for_exact_model() -> None:
    """模型与数据相同，两种前缀下都没有差距：曝光偏差来自没学好，不来自训练方式。"""
    forced, free = prefix_gaps(_model(4), _model(4), 6, torch.float64)
    torch.testing.assert_close(forced, torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(free, torch.zeros(6, dtype=torch.float64))


def test_prefix_gaps__bounds_total_variation() -> None:
    """教师强制之和的一半开方，不小于样本分布与数据分布的全变差距离。"""
    for seed in range(10):
        data, model = _model(10 + seed), _model(50 + seed)
        forced, _ = prefix_gaps(data, model, 4, torch.float64)
        distance = 0.5 * sum(
            abs(_prefix_probability(data, s) - _prefix_probability(model, s))
            for s in itertools.product((0, 1), repeat=4)
        )
        assert distance <= math.sqrt(float(forced.sum()) / 2)


def test_prefix_gaps__rejects_too_many_states() -> None:
    """变量太多、枚举不完时报错。"""
    with pytest.raises(ValueError, match="n 至多为 20"):
        prefix_gaps(torch.zeros_like, torch.zeros_like, 24)
