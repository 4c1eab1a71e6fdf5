"""补全的检验：前缀、任意集合的精确条件分布，与夹住已知变量去采样的偏差。"""

import itertools
import math

import pytest
import torch
from torch import Tensor

from formulary.autoregressive_models.completion import (
    clamped_factors,
    completion_log_prob,
    conditional_distribution,
)
from formulary.autoregressive_models.sampling import ancestral_sample

N = 10
STATES = torch.tensor(list(itertools.product((0.0, 1.0), repeat=N)), dtype=torch.float64)
OBSERVED = torch.tensor([1, 0, 0, 1, 1, 0, 1, 0, 1, 1], dtype=torch.bool)


def _matrix(seed: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 1.5 * torch.randn(N, N, dtype=torch.float64, generator=generator)


def _logits(x: Tensor) -> Tensor:
    matrix = _matrix()
    return x @ matrix.tril(-1).T + matrix.diagonal()


def _ordered_logits(x: Tensor, order: Tensor) -> Tensor:
    """同一组参数，次序改成 order。"""
    matrix, rank = _matrix(), order.argsort()
    before = rank[:, None] > rank[None, :]
    return x @ (matrix * before).T + matrix.diagonal()


def _joint() -> Tensor:
    """1024 个状态的概率，逐项用标量算。"""
    matrix = _matrix().tolist()
    result = []
    for bits in itertools.product((0, 1), repeat=N):
        log_p = 0.0
        for i in range(N):
            logit = matrix[i][i] + sum(matrix[i][j] * bits[j] for j in range(i))
            log_p -= math.log1p(math.exp(-logit if bits[i] else logit))
        result.append(math.exp(log_p))
    return torch.tensor(result, dtype=torch.float64)


JOINT = _joint()


def _two_bits(x: Tensor) -> Tensor:
    """两位：第一位取 1 的概率 0.5，第二位在 x_1 = 1 时为 0.9，否则为 0.1。"""
    second = 0.1 + 0.8 * x[:, 0]
    return torch.stack((torch.full_like(second, 0.5), second), dim=1).logit()


def test_completion_log_prob__matches_enumerated_conditional() -> None:
    """等于联合概率除以前缀的边缘概率，后者把同一前缀的状态逐个相加。"""
    actual = completion_log_prob(_logits(STATES), STATES, known=4).exp()
    prefixes = JOINT.view(2**4, -1).sum(dim=1)  # 前四位是高位
    expected = JOINT / prefixes.repeat_interleave(2 ** (N - 4))
    torch.testing.assert_close(actual, expected)


def test_completion_log_prob__is_normalized() -> None:
    """固定前缀，对全部补全求和等于 1；自然次序与别的次序都如此。"""
    order = torch.tensor([7, 2, 9, 0, 4, 1, 8, 3, 6, 5])
    values = completion_log_prob(_ordered_logits(STATES, order), STATES, 3, order).exp()
    key = (STATES[:, order[:3]] @ torch.tensor([4.0, 2, 1], dtype=torch.float64)).long()
    totals = torch.zeros(8, dtype=torch.float64).index_add(0, key, values)
    torch.testing.assert_close(totals, torch.ones(8, dtype=torch.float64))
    # 拿错次序，和就不再是 1
    wrong = completion_log_prob(_ordered_logits(STATES, order), STATES, 3).exp()
    totals = torch.zeros(8, dtype=torch.float64).index_add(0, key, wrong)
    assert (totals - 1).abs().max() > 0.1


def test_completion_log_prob__equals_joint_without_prefix() -> None:
    """没有已知变量时是联合概率，全部已知时是 1。"""
    torch.testing.assert_close(completion_log_prob(_logits(STATES), STATES, 0).exp(), JOINT)
    all_known = completion_log_prob(_logits(STATES), STATES, N)
    torch.testing.assert_close(all_known, torch.zeros(2**N, dtype=torch.float64))


def test_completion_log_prob__rejects_bad_input() -> None:
    """形状不符、x 不是二值、已知个数越界、次序不是排列时报错。"""
    logits, x = torch.zeros(2, 3), torch.ones(2, 3)
    for arguments, message in (
        ((logits[0], x[0], 1), "logits 的形状"),
        ((logits, x[:, :2], 1), "x 的形状"),
        ((logits, x / 2, 1), "x 的元素"),
        ((logits, x, 4), "known 必须在"),
        ((logits, x, -1), "known 必须在"),
        ((logits, x, 1, torch.tensor([0, 1, 1])), "order 必须是"),
    ):
        with pytest.raises(ValueError, match=message):
            completion_log_prob(*arguments)


def test_conditional_distribution__matches_enumeration() -> None:
    """等于从 1024 个状态里挑出与已知值相符的，再归一；已知的变量可以散在各处。"""
    x = torch.tensor([1, 9, 9, 0, 1, 9, 0, 9, 1, 1], dtype=torch.float64)  # 9 处不读
    states, probabilities = conditional_distribution(_logits, x, OBSERVED)
    kept = (STATES[:, OBSERVED] == x[OBSERVED]).all(dim=1)
    torch.testing.assert_close(states, STATES[kept])
    torch.testing.assert_close(probabilities, JOINT[kept] / JOINT[kept].sum())


def test_conditional_distribution__matches_bayes_rule() -> None:
    """两位的例子：看到第二位是 1，第一位是 1 的概率由贝叶斯公式给出，等于 0.9。"""
    x, observed = torch.ones(2, dtype=torch.float64), torch.tensor([False, True])
    states, probabilities = conditional_distribution(_two_bits, x, observed)
    assert states.tolist() == [[0, 1], [1, 1]]
    expected = torch.tensor([0.5 * 0.1, 0.5 * 0.9], dtype=torch.float64) / 0.5
    torch.testing.assert_close(probabilities, expected)


def test_conditional_distribution__is_completion_for_prefix() -> None:
    """已知的恰是前缀时，与逐项相加的补全概率相同。"""
    observed = torch.arange(N) < 4
    x = torch.tensor([1, 0, 1, 1, 0, 0, 0, 0, 0, 0], dtype=torch.float64)
    states, probabilities = conditional_distribution(_logits, x, observed)
    expected = completion_log_prob(_logits(states), states, known=4).exp()
    torch.testing.assert_close(probabilities, expected)


def test_conditional_distribution__rejects_bad_input() -> None:
    """掩码的类型与形状、已知值、未知个数不合要求时报错。"""
    x = torch.ones(3)
    for bad_x, observed, message in (
        (x[None], torch.tensor([True, False, False]), "x 的形状"),
        (x, torch.tensor([1, 0, 0]), "observed 必须是布尔张量"),
        (x, torch.tensor([True, False]), "observed 的形状"),
        (x / 2, torch.tensor([True, False, False]), "x 的元素"),
        (x, torch.tensor([True, True, True]), "n 必须是"),
        (torch.ones(30), torch.zeros(30, dtype=torch.bool), "n 至多为 20"),
    ):
        with pytest.raises(ValueError, match=message):
            conditional_distribution(torch.zeros_like, bad_x, observed)


def test_clamped_factors__matches_python_loop() -> None:
    """与逐项用标量相加的两个和相同，合起来是联合概率。"""
    matrix = _matrix().tolist()
    rows = STATES[::37]
    proposals, weights = [], []
    for bits in rows.long().tolist():
        sums = {False: 0.0, True: 0.0}
        for i in range(N):
            logit = matrix[i][i] + sum(matrix[i][j] * bits[j] for j in range(i))
            sums[bool(OBSERVED[i])] -= math.log1p(math.exp(-logit if bits[i] else logit))
        proposals.append(sums[False])
        weights.append(sums[True])
    log_proposal, log_weight = clamped_factors(_logits(rows), rows, OBSERVED)
    torch.testing.assert_close(log_proposal, torch.tensor(proposals, dtype=torch.float64))
    torch.testing.assert_close(log_weight, torch.tensor(weights, dtype=torch.float64))
    torch.testing.assert_close((log_proposal + log_weight).exp(), JOINT[::37])


def test_clamped_factors__equals_importance_identity() -> None:
    """提议分布归一；权重的平均是已知变量的边缘概率；加权之后就是精确的条件分布。"""
    x = torch.tensor([1, 0, 0, 0, 1, 0, 0, 0, 1, 1], dtype=torch.float64)
    states, exact = conditional_distribution(_logits, x, OBSERVED)
    log_proposal, log_weight = clamped_factors(_logits(states), states, OBSERVED)
    proposal, weight = log_proposal.exp(), log_weight.exp()
    torch.testing.assert_close(proposal.sum(), torch.ones((), dtype=torch.float64))
    kept = (STATES[:, OBSERVED] == x[OBSERVED]).all(dim=1)
    evidence = (proposal * weight).sum()
    torch.testing.assert_close(evidence, JOINT[kept].sum())
    torch.testing.assert_close(proposal * weight / evidence, exact)


def test_clamped_factors__differs_from_exact_conditional() -> None:
    """只夹住、不加权，得到的不是条件分布：两位的例子里一个是 0.5，一个是 0.9。"""
    x, observed = torch.ones(2, dtype=torch.float64), torch.tensor([False, True])
    states, exact = conditional_distribution(_two_bits, x, observed)
    log_proposal, log_weight = clamped_factors(_two_bits(states), states, observed)
    assert round(float(log_proposal[1].exp()), 12) == 0.5
    assert round(float(exact[1]), 12) == 0.9
    assert [round(w, 12) for w in log_weight.exp().tolist()] == [0.1, 0.9]


def test_clamped_factors__matches_likelihood_weighting() -> None:
    """夹住已知变量抽五万个样本，加权的频率与精确的条件概率相差不到五个标准误。"""
    x = torch.tensor([1, 0, 0, 0, 1, 0, 0, 0, 1, 1], dtype=torch.float64)
    count = 50_000
    uniforms = torch.rand(count, N, dtype=torch.float64, generator=torch.Generator().manual_seed(9))

    def mild(values: Tensor) -> Tensor:
        return _logits(values) / 2

    def clamped(values: Tensor) -> Tensor:
        # 已知处的对数几率改成正负一千，祖先采样就必定抄下给定的值
        return torch.where(OBSERVED, 2000 * x - 1000, mild(values))

    samples = ancestral_sample(clamped, uniforms)
    assert (samples[:, OBSERVED] == x[OBSERVED]).all()
    _, log_weight = clamped_factors(mild(samples), samples, OBSERVED)
    weight = log_weight.exp()
    states, exact = conditional_distribution(mild, x, OBSERVED)
    truth = exact @ states[:, 1]
    estimate = (weight * samples[:, 1]).sum() / weight.sum()
    deviations = weight * (samples[:, 1] - estimate)
    standard_error = deviations.square().sum().sqrt() / weight.sum()
    assert standard_error < 0.01
    assert abs(estimate - truth) <= 5 * standard_error
    assert abs(samples[:, 1].mean() - truth) > 10 * standard_error  # 不加权则有偏


def test_clamped_factors__rejects_bad_input() -> None:
    """形状不符、掩码不是布尔张量、x 不是二值时报错。"""
    logits, observed = torch.zeros(2, 3), torch.tensor([True, False, False])
    for arguments, message in (
        ((logits[0], torch.ones(3), observed), "logits 的形状"),
        ((logits, torch.ones(2, 2), observed), "x 的形状"),
        ((logits, torch.ones(2, 3), observed.long()), "observed 必须是布尔张量"),
        ((logits, torch.ones(2, 3), observed[:2]), "observed 的形状"),
        ((logits, torch.full((2, 3), 0.5), observed), "x 的元素"),
    ):
        with pytest.raises(ValueError, match=message):
            clamped_factors(*arguments)
