"""对次序取期望的目标与它的无偏估计的检验。"""

import math
from collections import Counter
from itertools import combinations, permutations, product

import pytest
import torch
from scipy import special, stats
from torch import Tensor

from formulary.autoregressive_models.orderless import (
    conditional_nll,
    orderless_estimate,
    orderless_objective,
    orderless_steps,
    sample_known,
)

N = 4


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _network(seed: int = 0) -> torch.nn.Sequential:
    """一个随机的小网络：输入是填零的 x 与已知的掩码，各条件之间没有约束。"""
    generator = _generator(seed)
    first = torch.randn(7, 2 * N, dtype=torch.float64, generator=generator)
    second = torch.randn(N, 7, dtype=torch.float64, generator=generator)
    return lambda x, known: torch.tanh(torch.cat((x, known.double()), -1) @ first.T) @ second.T


def _states() -> Tensor:
    return torch.tensor(list(product((0.0, 1.0), repeat=N)), dtype=torch.float64)


def _python_nll(network, row: list[float], known: set[int], i: int) -> float:
    """已知 known 时第 i 个变量的负对数条件概率，一次一个数。"""
    x = torch.tensor([[v if j in known else 0.0 for j, v in enumerate(row)]]).double()
    flags = torch.tensor([[j in known for j in range(N)]])
    probability = 1 / (1 + math.exp(-network(x, flags)[0, i].item()))
    return -math.log(probability if row[i] else 1 - probability)


def _python_objective(network, row: list[float]) -> float:
    total = 0.0
    for order in permutations(range(N)):
        total += sum(_python_nll(network, row, set(order[:t]), order[t]) for t in range(N))
    return total / math.factorial(N)


def test_conditional_nll__matches_python_loop() -> None:
    """未知的位置逐个算，已知的位置是 0；网络看不到未知变量的值。"""
    x = _states()[[3, 9, 14]]
    known = torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 0]]).bool()
    expected = torch.zeros_like(x)
    for b, i in product(range(3), range(N)):
        if not known[b, i]:
            given = set(known[b].nonzero()[:, 0].tolist())
            expected[b, i] = _python_nll(_network(), x[b].tolist(), given, i)
    torch.testing.assert_close(conditional_nll(_network(), x, known), expected)


def test_conditional_nll__depends_only_on_known_and_target() -> None:
    """改动另一个未知变量的值，这个未知变量的条件概率不变。"""
    known = torch.tensor([[True, False, False, True]])
    x = torch.tensor([[1.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    other = x.clone()
    other[0, 2] = 1.0
    first, second = (conditional_nll(_network(), value, known)[0, 1] for value in (x, other))
    assert first == second


def test_orderless_objective__matches_python_enumeration() -> None:
    """24 个次序逐个累加再平均，每个状态都相符。"""
    x = _states()[[0, 5, 14]]
    expected = torch.tensor([_python_objective(_network(), row) for row in x.tolist()])
    torch.testing.assert_close(orderless_objective(_network(), x), expected.double())


def test_orderless_objective__bounds_ensemble_nll() -> None:
    """目标不小于全部次序等权混合的负对数似然；每个次序自己的概率之和是 1。"""
    states, network = _states(), _network(3)
    mixture = torch.zeros(len(states), dtype=torch.float64)
    for order in permutations(range(N)):
        joint = []
        for row in states.tolist():
            nll = sum(_python_nll(network, row, set(order[:t]), order[t]) for t in range(N))
            joint.append(math.exp(-nll))
        assert abs(sum(joint) - 1) < 1e-12
        mixture += torch.tensor(joint).double() / 24
    gap = orderless_objective(network, states) + mixture.log()
    assert gap.min() > 0
    assert gap.max() > 0.1


def test_orderless_objective__equals_nll_when_orders_agree() -> None:
    """各变量独立时次序无所谓，目标就是负对数似然。"""
    logits = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)
    x = _states()
    expected = -torch.distributions.Bernoulli(logits=logits).log_prob(x).sum(-1)
    actual = orderless_objective(lambda x, known: logits.expand_as(x), x)
    torch.testing.assert_close(actual, expected)


def test_orderless_objective__equals_masked_diffusion_loss() -> None:
    """与掩码扩散的目标相同：以概率 τ 独立地遮住各变量，未知项之和除以 τ，对均匀的 τ 积分。

    被积函数是 τ 的多项式，次数不到 n，高斯求积四个点已经精确。
    """
    x = _states()[[3, 8, 13]]
    nodes, weights = special.roots_sh_legendre(4)
    expected = torch.zeros(3, dtype=torch.float64)
    for flags in product((False, True), repeat=N):
        hidden = N - sum(flags)
        if hidden:
            share = float(weights @ (nodes ** (hidden - 1) * (1 - nodes) ** sum(flags)))
            for b, row in enumerate(x.tolist()):
                given = {i for i in range(N) if flags[i]}
                rest = sum(_python_nll(_network(), row, given, i) for i in set(range(N)) - given)
                expected[b] += share * rest
    torch.testing.assert_close(orderless_objective(_network(), x), expected)


def test_orderless_estimate__matches_objective_in_expectation() -> None:
    """枚举 24 个次序与 4 个步数，估计的平均等于目标：无偏。"""
    x = _states()[[1, 6, 11]]
    total = torch.zeros(3, dtype=torch.float64)
    for order in permutations(range(N)):
        for t in range(N):
            known = torch.zeros_like(x, dtype=torch.bool)
            known[:, list(order[:t])] = True
            total += orderless_estimate(_network(), x, known) / 96
    expected = torch.tensor([_python_objective(_network(), row) for row in x.tolist()])
    torch.testing.assert_close(total, expected.double())


def test_orderless_estimate__equals_rescaled_sum() -> None:
    """已知 1 个、未知 3 个：三项之和乘以 4/3。"""
    x = _states()[[13]]
    known = torch.tensor([[False, False, True, False]])
    nll = [_python_nll(_network(), x[0].tolist(), {2}, i) for i in (0, 1, 3)]
    actual = orderless_estimate(_network(), x, known)
    torch.testing.assert_close(actual, torch.tensor([sum(nll) * 4 / 3]).double())


def test_orderless_estimate__differs_from_unscaled_sum() -> None:
    """不乘 n ÷ 未知的个数，期望就偏小：各条件都是 log 2 时只有 n log 2 的 (n + 1)/(2n)。"""
    x = _states()[[0]]
    flat = lambda x, known: torch.zeros_like(x)  # noqa: E731
    total = scaled = 0.0
    for t in range(N):
        known = (torch.arange(N) < t)[None]
        total += conditional_nll(flat, x, known).sum().item() / N
        scaled += orderless_estimate(flat, x, known).item() / N
    assert abs(scaled - N * math.log(2)) < 1e-12
    assert abs(total - N * math.log(2) * (N + 1) / (2 * N)) < 1e-12
    torch.testing.assert_close(orderless_objective(flat, x)[0].item(), N * math.log(2))


def test_orderless_estimate__bounds_variance_of_single_term() -> None:
    """只算一项再乘 n 也无偏，方差却不小于对未知变量求和的估计。"""
    x = _states()[[6]]
    single, summed = [], []
    for order in permutations(range(N)):
        for t in range(N):
            known = torch.zeros_like(x, dtype=torch.bool)
            known[:, list(order[:t])] = True
            single.append(N * conditional_nll(_network(), x, known)[0, order[t]].item())
            summed.append(orderless_estimate(_network(), x, known)[0].item())
    single, summed = torch.tensor(single), torch.tensor(summed)
    torch.testing.assert_close(single.mean(), summed.mean())
    assert summed.var() < 0.9 * single.var()


def test_orderless_estimate__equals_exercise() -> None:
    """练习：估计取 3、6、2 个 log 2，平均是 3.5 log 2；混合的 NLL 是 3.415 bit，比目标小。"""

    def network(x: Tensor, known: Tensor) -> Tensor:
        # 都未知：x_1 的概率 1/2、x_2 的概率 1/4；已知 x_1：x_2 的概率 1/8；已知 x_2：x_1 的概率 1/2
        p = torch.where(
            known.any(-1, keepdim=True),
            torch.tensor([0.5, 0.125]).double(),
            torch.tensor([0.5, 0.25]).double(),
        )
        return torch.logit(p)

    x = torch.ones(1, 2, dtype=torch.float64)
    bits = math.log(2)
    masks = {(): 3.0, (0,): 6.0, (1,): 2.0}
    for given, value in masks.items():
        known = torch.tensor([[i in given for i in range(2)]])
        estimate = orderless_estimate(network, x, known)[0].item()
        assert abs(estimate - value * bits) < 1e-12
    expected = (3.0 + (6.0 + 2.0) / 2) / 2
    assert expected == 3.5
    assert abs(orderless_objective(network, x)[0].item() - expected * bits) < 1e-12
    assert round(-math.log2((1 / 16 + 1 / 8) / 2), 3) == 3.415


def test_orderless_steps__is_constant_down_the_lines() -> None:
    """推导的四行逐行相等，并且等于逐次序枚举的目标。"""
    x = _states()[[2, 7, 12]]
    expected = torch.tensor([_python_objective(_network(), row) for row in x.tolist()]).double()
    torch.testing.assert_close(orderless_steps(_network(), x), expected.expand(4, 3))


def test_orderless_steps__matches_python_enumeration() -> None:
    """第三行：先取步数，再取子集，再对未知变量平均，用循环核对。"""
    row, network = _states()[10].tolist(), _network(2)
    total = 0.0
    for t in range(N):
        subsets = list(combinations(range(N), t))
        for subset in subsets:
            rest = [i for i in range(N) if i not in subset]
            mean = sum(_python_nll(network, row, set(subset), i) for i in rest) / len(rest)
            total += mean / len(subsets)
    actual = orderless_steps(network, torch.tensor([row]).double())
    torch.testing.assert_close(actual[2, 0].item(), total)


def test_sample_known__matches_two_stage_distribution() -> None:
    """已知的个数在 0 到 n − 1 里均匀，个数定下之后各子集等可能；卡方检验不能拒绝。

    每格期望约 500 到 3000 个，某一格偏 20% 就几乎总会被拒绝。
    """
    known = sample_known(torch.zeros(12_000, N), _generator(1))
    counts = Counter(tuple(row) for row in known.int().tolist())
    observed, expected = [], []
    for flags in product((0, 1), repeat=N):
        if sum(flags) < N:
            observed.append(counts[flags])
            expected.append(12_000 / N / math.comb(N, sum(flags)))
    assert sum(observed) == 12_000
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_sample_known__is_uniform_for_single_rows() -> None:
    """一次只抽一行也一样：每个变量已知的概率都是 (n − 1)/(2n) = 3/8，相差不到 5 个标准误。

    八百次的标准误是 0.017，能发现 0.086 以上的偏差。
    """
    generator, x = _generator(3), torch.zeros(1, N)
    known = torch.cat([sample_known(x, generator) for _ in range(800)])
    frequency = known.double().mean(dim=0)
    assert ((frequency - 3 / 8).abs() <= 5 * (3 / 8 * 5 / 8 / 800) ** 0.5).all()


def test_sample_known__is_never_complete() -> None:
    """总留至少一个未知的变量，同一个种子两次相同。"""
    first, second = (sample_known(torch.zeros(500, 3), _generator(4)) for _ in range(2))
    assert first.shape == (500, 3)
    assert not first.all(dim=-1).any()
    assert torch.equal(first, second)


def test_conditional_nll__rejects_bad_input() -> None:
    """x 不是二值、known 的类型或形状不对时报错。"""
    known = torch.zeros(1, N, dtype=torch.bool)
    with pytest.raises(ValueError, match="x 的元素"):
        conditional_nll(_network(), torch.full((1, N), 0.5), known)
    for bad in (known.float(), known[:, :2]):
        with pytest.raises(ValueError, match="known 必须"):
            conditional_nll(_network(), torch.zeros(1, N), bad)


def test_orderless_estimate__rejects_fully_known() -> None:
    """没有未知的变量时报错。"""
    with pytest.raises(ValueError, match="known 的每个样本"):
        orderless_estimate(_network(), torch.zeros(1, N), torch.ones(1, N).bool())


def test_orderless_objective__rejects_wrong_shape() -> None:
    """x 必须是二维的。"""
    for function in (orderless_objective, orderless_steps):
        with pytest.raises(ValueError, match="x "):
            function(_network(), torch.zeros(N))


def test_orderless_steps__rejects_grey_pixels() -> None:
    """x 必须是二值的。"""
    with pytest.raises(ValueError, match="x 的元素"):
        orderless_steps(_network(), torch.full((1, N), 0.3))


def test_sample_known__rejects_wrong_shape() -> None:
    """x 必须是二维的。"""
    with pytest.raises(ValueError, match="x 的形状"):
        sample_known(torch.zeros(3), _generator())
