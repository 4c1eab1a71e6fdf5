"""温度、贪心与最大概率状态的检验：三者都不是从联合分布采样。"""

import itertools
import math

import pytest
import torch
from torch import Tensor

from formulary.autoregressive_models.decoding import (
    greedy_decode,
    local_normalizers,
    most_probable_state,
    tempered_distributions,
)
from formulary.autoregressive_models.sampling import ancestral_sample


def _matrix(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(n, n, dtype=torch.float64, generator=generator)


def _logits(x: Tensor) -> Tensor:
    """一个随机的 FVSBN：严格下三角的线性对数几率，加偏置。"""
    n = x.shape[1]
    matrix = _matrix(n, 3)
    return x @ matrix.tril(-1).T + matrix.diagonal()


def _conditionals(bits: tuple[int, ...]) -> list[float]:
    """各步取到 bits 里那个值的条件概率，用标量算。"""
    n = len(bits)
    matrix = _matrix(n, 3).tolist()
    result = []
    for i in range(n):
        logit = matrix[i][i] + sum(matrix[i][j] * bits[j] for j in range(i))
        one = 1 / (1 + math.exp(-logit))
        result.append(one if bits[i] else 1 - one)
    return result


def _two_bits(first: float, after_zero: float, after_one: float):
    """两位的模型，参数是各个条件概率。"""

    def logits(x: Tensor) -> Tensor:
        second = torch.where(x[:, 0] == 1, after_one, after_zero)
        return torch.stack((torch.full_like(second, first), second), dim=1).to(x).logit()

    return logits


def test_tempered_distributions__matches_python_loop() -> None:
    """两种降温的分布都与逐个状态、用标量算出的相同。"""
    states = list(itertools.product((0, 1), repeat=4))
    for temperature in (0.5, 1.7):
        stepwise, joint = [], []
        for bits in states:
            conditionals = _conditionals(bits)
            joint.append(math.prod(conditionals) ** (1 / temperature))
            stepwise.append(
                math.prod(
                    c ** (1 / temperature) / (c ** (1 / temperature) + (1 - c) ** (1 / temperature))
                    for c in conditionals
                )
            )
        total = sum(joint)
        actual = tempered_distributions(_logits, 4, temperature, torch.float64)
        torch.testing.assert_close(actual[0], torch.tensor(stepwise, dtype=torch.float64))
        torch.testing.assert_close(
            actual[1], torch.tensor([p / total for p in joint], dtype=torch.float64)
        )
    for p in tempered_distributions(torch.zeros_like, 2, 1.0):  # 不说明类型时
        assert p.dtype == torch.float32


def test_tempered_distributions__equals_two_bit_example() -> None:
    """两位的例子在 T = 0.5 时，两种降温的全变差距离是 0.1622。"""
    # 给定 x_1 = 1 时，x_2 = 0 的概率是 0.99
    model = _two_bits(0.5, 0.5, 0.01)
    stepwise, joint = tempered_distributions(model, 2, 0.5, torch.float64)
    assert [round(p, 4) for p in stepwise.tolist()] == [0.25, 0.25, 0.4999, 0.0001]
    assert [round(p, 4) for p in joint.tolist()] == [0.1689, 0.1689, 0.6621, 0.0001]
    assert round(float((stepwise - joint).abs().sum()) / 2, 4) == 0.1622


def test_tempered_distributions__is_model_at_unit_temperature() -> None:
    """T = 1 时两者都是模型的分布，而且都是归一的。"""
    stepwise, joint = tempered_distributions(_logits, 5, 1.0, torch.float64)
    torch.testing.assert_close(stepwise, joint)
    for temperature in (0.3, 1.0, 4.0):
        for p in tempered_distributions(_logits, 5, temperature, torch.float64):
            torch.testing.assert_close(p.sum(), torch.ones((), dtype=torch.float64))


def test_tempered_distributions__is_exact_for_independent_variables() -> None:
    """各变量独立时，逐步降温与整体降温是一回事。"""
    biases = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)
    stepwise, joint = tempered_distributions(lambda x: biases.expand_as(x), 3, 0.4, torch.float64)
    torch.testing.assert_close(stepwise, joint)


def test_tempered_distributions__limit_cold() -> None:
    """温度趋于 0，逐步降温集中到贪心的状态，整体降温集中到概率最大的状态，两者不同。"""
    model = _two_bits(0.6, 0.1, 0.55)
    stepwise, joint = tempered_distributions(model, 2, 1e-3, torch.float64)
    torch.testing.assert_close(stepwise, torch.tensor([0.0, 0, 0, 1], dtype=torch.float64))
    torch.testing.assert_close(joint, torch.tensor([1.0, 0, 0, 0], dtype=torch.float64))


def test_tempered_distributions__rejects_bad_temperature() -> None:
    """温度不是正数、变量太多时报错。"""
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="temperature 必须是"):
            tempered_distributions(torch.zeros_like, 2, temperature)
    with pytest.raises(ValueError, match="n 至多为 20"):
        tempered_distributions(torch.zeros_like, 25, 1.0)


def test_local_normalizers__matches_python_loop() -> None:
    """与标量的两项幂之和相同。"""
    logits = _matrix(4, 5)
    for temperature in (0.5, 1.0, 3.0):
        expected = [
            [
                (1 / (1 + math.exp(-v))) ** (1 / temperature)
                + (1 / (1 + math.exp(v))) ** (1 / temperature)
                for v in row
            ]
            for row in logits.tolist()
        ]
        torch.testing.assert_close(
            local_normalizers(logits, temperature), torch.tensor(expected, dtype=torch.float64)
        )


def test_local_normalizers__equals_ratio_of_distributions() -> None:
    """逐步降温的概率，等于联合概率的 1/T 次幂除以各步归一化常数之积。"""
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=torch.float64)
    powers = torch.tensor(
        [math.prod(_conditionals(tuple(map(int, s)))) ** 2 for s in states.tolist()],
        dtype=torch.float64,
    )
    product = local_normalizers(_logits(states), 0.5).prod(dim=1)
    stepwise, _ = tempered_distributions(_logits, 4, 0.5, torch.float64)
    torch.testing.assert_close(powers / product, stepwise)
    # 正因为这个积随 x 而变，逐步降温才不等于整体降温
    assert float(product.max() / product.min()) > 1.5


def test_local_normalizers__bounds_by_temperature() -> None:
    """T < 1 时每个归一化常数在 2^(1 − 1/T) 与 1 之间，T > 1 时不小于 1。"""
    logits = _matrix(6, 7)
    cold, hot = local_normalizers(logits, 0.5), local_normalizers(logits, 2.0)
    assert (cold >= 0.5).all()
    assert (cold <= 1).all()
    assert (hot >= 1).all()
    assert (hot <= math.sqrt(2)).all()


def test_local_normalizers__rejects_bad_input() -> None:
    """形状不符或温度不是正数时报错。"""
    with pytest.raises(ValueError, match="logits 的形状"):
        local_normalizers(torch.zeros(3), 1.0)
    with pytest.raises(ValueError, match="temperature 必须是"):
        local_normalizers(torch.zeros(2, 3), 0.0)


def _branching(x: Tensor) -> Tensor:
    """三位：x_1 = 1 的概率 0.6，其后两位取 1 的概率是 2/3 与 0.6；x_1 = 0 时都取 0.05。"""
    after = torch.tensor([[0.05, 0.05], [2 / 3, 0.6]], dtype=x.dtype)[x[:, 0].long()]
    return torch.cat((torch.full_like(after[:, :1], 0.6), after), dim=1).logit()


def test_greedy_decode__matches_python_loop() -> None:
    """与逐步比较两个条件概率的标量循环相同，次序可以任意。"""
    n, order = 6, [4, 1, 5, 0, 3, 2]
    matrix = _matrix(n, 11)
    before = torch.zeros(n, n, dtype=torch.float64)
    for t, i in enumerate(order):
        before[i, order[:t]] = 1
    bits = [0] * n
    for t, i in enumerate(order):
        logit = float(matrix[i, i]) + sum(float(matrix[i, j]) * bits[j] for j in order[:t])
        bits[i] = int(logit > 0)
    actual = greedy_decode(
        lambda x: x @ (matrix * before).T + matrix.diagonal(),
        n,
        torch.tensor(order),
        torch.float64,
    )
    assert actual.tolist() == bits
    assert 0 < sum(bits) < n


def test_greedy_decode__equals_three_bit_example() -> None:
    """三位的例子里，贪心得到 (1, 1, 1)，概率 0.24，不如 (0, 0, 0) 的 0.361。"""
    greedy = greedy_decode(_branching, 3, dtype=torch.float64)
    best = most_probable_state(_branching, 3, torch.float64)
    assert greedy.tolist() == [1, 1, 1]
    assert best.tolist() == [0, 0, 0]
    _, joint = tempered_distributions(_branching, 3, 1.0, torch.float64)
    assert round(float(joint[7]), 10) == 0.24
    assert round(float(joint[0]), 10) == 0.361


def test_greedy_decode__limit_of_cold_sampling() -> None:
    """温度很低的祖先采样，几乎必定得到贪心的状态。"""
    uniforms = torch.rand(500, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cold = ancestral_sample(_logits, uniforms, temperature=1e-3)
    assert (cold == greedy_decode(_logits, 4, dtype=torch.float64)).all()


def test_greedy_decode__bounds_by_best_state() -> None:
    """贪心状态的概率不超过最大概率，又不小于 2^−n。"""
    for seed in range(30):
        matrix = _matrix(5, 100 + seed)

        def model(x: Tensor, matrix: Tensor = matrix) -> Tensor:
            return x @ matrix.tril(-1).T + matrix.diagonal()

        _, joint = tempered_distributions(model, 5, 1.0, torch.float64)
        bits = greedy_decode(model, 5, dtype=torch.float64).long()
        value = joint[int("".join(map(str, bits.tolist())), 2)]
        assert 2.0**-5 <= value <= joint.max()


def test_greedy_decode__equals_exponential_gap() -> None:
    """练习的模型：贪心与最大概率之比随 n 按指数缩小，n = 10 时约为 0.0022。"""
    n = 10

    def model(x: Tensor) -> Tensor:
        rest = torch.where(x[:, :1] == 1, 0.5001, 0.01).expand(-1, n - 1)
        return torch.cat((torch.full_like(rest[:, :1], 0.51), rest), dim=1).to(x).logit()

    _, joint = tempered_distributions(model, n, 1.0, torch.float64)
    greedy = greedy_decode(model, n, dtype=torch.float64)
    assert greedy.tolist() == [1] * n
    assert most_probable_state(model, n, torch.float64).tolist() == [0] * n
    ratio = float(joint[-1] / joint[0])
    torch.testing.assert_close(ratio, 0.51 * 0.5001**9 / (0.49 * 0.99**9))
    assert round(ratio, 4) == 0.0022


def test_greedy_decode__is_zero_on_ties() -> None:
    """两个值一样可能时取 0；不说明类型时用 float32。"""
    torch.testing.assert_close(greedy_decode(torch.zeros_like, 4), torch.zeros(4))


def test_greedy_decode__rejects_bad_input() -> None:
    """n 不是正整数、次序不是排列时报错。"""
    with pytest.raises(ValueError, match="n 必须是"):
        greedy_decode(torch.zeros_like, 0)
    with pytest.raises(ValueError, match="order 必须是"):
        greedy_decode(torch.zeros_like, 3, torch.tensor([0, 2, 2]))


def test_most_probable_state__matches_python_loop() -> None:
    """与逐个状态算概率再取最大的循环相同。"""
    best = max(itertools.product((0, 1), repeat=5), key=lambda s: math.prod(_conditionals(s)))
    assert most_probable_state(_logits, 5, torch.float64).tolist() == list(best)
    assert 0 < sum(best) < 5
    assert most_probable_state(torch.ones_like, 2).dtype == torch.float32  # 不说明类型时


def test_most_probable_state__is_mode_of_samples() -> None:
    """大量样本里出现最多的状态就是它。"""
    uniforms = torch.rand(
        20_000, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4)
    )
    samples = ancestral_sample(_logits, uniforms)
    states, counts = samples.unique(dim=0, return_counts=True)
    torch.testing.assert_close(
        states[counts.argmax()], most_probable_state(_logits, 4, torch.float64)
    )


def test_most_probable_state__rejects_too_many_states() -> None:
    """变量太多、枚举不完时报错。"""
    with pytest.raises(ValueError, match="n 至多为 20"):
        most_probable_state(torch.zeros_like, 21)
