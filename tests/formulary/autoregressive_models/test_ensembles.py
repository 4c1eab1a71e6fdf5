"""次序集成的检验：概率的平均归一，对数几率的平均不归一。"""

import math
from itertools import permutations, product

import pytest
import torch
from scipy import special
from torch import Tensor

from formulary.autoregressive_models.bernoulli import bernoulli_log_prob
from formulary.autoregressive_models.ensembles import (
    averaged_logit_score,
    coupled_pair_logits,
    logit_average_partition,
    order_ensemble_log_prob,
)
from formulary.autoregressive_models.made import MADE


def _states(n: int) -> Tensor:
    return torch.tensor(list(product((0.0, 1.0), repeat=n)), dtype=torch.float64)


def _all_order_logits(n: int, scale: float) -> tuple[Tensor, Tensor]:
    """一组共用的权重在全部次序下的对数几率，与全部状态。"""
    model = MADE(n, [12], generator=torch.Generator().manual_seed(4)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    states, logits = _states(n), []
    for order in permutations(range(n)):
        model.reorder(torch.tensor(order))
        logits.append(model(states).detach())
    return torch.stack(logits), states


def test_order_ensemble_log_prob__matches_scipy() -> None:
    """与 scipy 的 logsumexp 相同，对数似然低到 −2000 nat 也不下溢。"""
    generator = torch.Generator().manual_seed(1)
    log_probs = -2000 * torch.rand(3, 5, dtype=torch.float64, generator=generator)
    expected = special.logsumexp(log_probs.numpy(), axis=0, b=1 / 3)
    torch.testing.assert_close(order_ensemble_log_prob(log_probs), torch.from_numpy(expected))


def test_order_ensemble_log_prob__is_normalized_over_all_orders() -> None:
    """n = 4 的 24 个次序等权混合，16 个状态的概率之和是 1。"""
    logits, states = _all_order_logits(4, 3.0)
    log_probs = torch.stack([bernoulli_log_prob(one, states) for one in logits])
    total = order_ensemble_log_prob(log_probs).exp().sum()
    torch.testing.assert_close(total, torch.tensor(1.0).double())


def test_order_ensemble_log_prob__bounds_mean_nll() -> None:
    """混合的 NLL 不大于各次序 NLL 的平均，不小于最好的次序的 NLL，至多比它大 log K。"""
    logits, states = _all_order_logits(3, 4.0)
    log_probs = torch.stack([bernoulli_log_prob(one, states) for one in logits])
    nll = -order_ensemble_log_prob(log_probs)
    assert (nll < -log_probs.mean(0)).all()
    assert (nll > -log_probs.max(0).values).all()
    assert (nll <= -log_probs.max(0).values + math.log(6)).all()


def test_order_ensemble_log_prob__equals_worked_example() -> None:
    """两个次序给出 1/2 与 1/8，混合是 5/16。"""
    log_probs = torch.tensor([[0.5], [0.125]], dtype=torch.float64).log()
    expected = torch.tensor([math.log(5 / 16)]).double()
    torch.testing.assert_close(order_ensemble_log_prob(log_probs), expected)


def test_order_ensemble_log_prob__differs_from_mean_of_log_probs() -> None:
    """直接平均对数似然得到的是几何平均，全部状态之和小于 1。"""
    logits, states = _all_order_logits(4, 3.0)
    log_probs = torch.stack([bernoulli_log_prob(one, states) for one in logits])
    geometric = log_probs.mean(0)
    assert geometric.exp().sum() < 0.99
    assert (order_ensemble_log_prob(log_probs) > geometric).all()


def test_coupled_pair_logits__matches_conditionals_of_joint() -> None:
    """两种次序的对数几率都由同一张联合概率表的条件概率得到。"""
    coupling = 1.7
    equal = 1 / (1 + math.exp(-coupling)) / 2
    table = {(0, 0): equal, (1, 1): equal, (0, 1): 0.5 - equal, (1, 0): 0.5 - equal}
    actual = coupled_pair_logits(coupling, _states(2))
    for row, (a, b) in enumerate(product((0, 1), repeat=2)):
        given_first = math.log(table[a, 1] / table[a, 0])
        given_second = math.log(table[1, b] / table[0, b])
        expected = torch.tensor([[0.0, given_first], [given_second, 0.0]]).double()
        torch.testing.assert_close(actual[:, row], expected)


def test_coupled_pair_logits__is_one_joint_in_both_orders() -> None:
    """两种次序给出同一个归一的联合分布。"""
    states = _states(2)
    joints = [bernoulli_log_prob(one, states).exp() for one in coupled_pair_logits(2.3, states)]
    torch.testing.assert_close(joints[0], joints[1])
    torch.testing.assert_close(joints[0].sum(), torch.tensor(1.0).double())


def test_averaged_logit_score__matches_torch_bernoulli() -> None:
    """与对平均后的对数几率用 torch.distributions.Bernoulli 相同。"""
    logits, states = _all_order_logits(3, 2.0)
    expected = torch.distributions.Bernoulli(logits=logits.mean(0)).log_prob(states).sum(-1)
    torch.testing.assert_close(averaged_logit_score(logits, states), expected)


def test_averaged_logit_score__equals_log_prob_of_one_order() -> None:
    """只有一个次序时没有什么可平均，分数就是对数似然。"""
    logits, states = _all_order_logits(3, 2.0)
    torch.testing.assert_close(
        averaged_logit_score(logits[2:3], states), bernoulli_log_prob(logits[2], states)
    )


def test_averaged_logit_score__differs_from_log_prob() -> None:
    """24 个次序平均对数几率，16 个状态的“概率”之和明显不等于 1，而概率的平均等于 1。"""
    logits, states = _all_order_logits(4, 4.0)
    score = averaged_logit_score(logits, states).exp().sum()
    assert (score - 1).abs() > 0.05
    log_probs = torch.stack([bernoulli_log_prob(one, states) for one in logits])
    right = order_ensemble_log_prob(log_probs).exp().sum()
    torch.testing.assert_close(right, torch.tensor(1.0).double())


def test_averaged_logit_score__equals_sech_squared_for_opposed_orders() -> None:
    """两种次序的耦合方向相反时，平均对数几率的四个状态之和是 1/cosh²(L/4)，小于 1。"""
    states = _states(2)
    for coupling in (0.7, 3.0):
        ahead = coupled_pair_logits(coupling, states)[0]
        back = coupled_pair_logits(-coupling, states)[1]
        total = averaged_logit_score(torch.stack((ahead, back)), states).exp().sum().item()
        torch.testing.assert_close(total, 1 / math.cosh(coupling / 4) ** 2)
        assert total < 1


def test_order_ensemble_log_prob__is_better_than_each_order_on_average() -> None:
    """两个样本各有一个次序给得好：平均起来，集成的 NLL 比任何一个固定的次序都小。"""
    log_probs = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64).log()
    ensemble = -order_ensemble_log_prob(log_probs).mean()
    torch.testing.assert_close(ensemble.item(), math.log(2))
    assert (ensemble < -log_probs.mean(dim=1)).all()


def test_logit_average_partition__matches_enumeration() -> None:
    """枚举四个状态，把平均后的对数几率的“概率”加起来。"""
    for coupling in (-3.0, 0.0, 0.4, 2.0, 6.0, 20.0):
        total = 0.0
        for a, b in product((0, 1), repeat=2):
            first, second = coupling * (2 * b - 1) / 2, coupling * (2 * a - 1) / 2
            p, q = 1 / (1 + math.exp(-first)), 1 / (1 + math.exp(-second))
            total += (p if a else 1 - p) * (q if b else 1 - q)
        actual = logit_average_partition(torch.tensor(coupling, dtype=torch.float64))
        torch.testing.assert_close(actual.item(), total)


def test_logit_average_partition__equals_hyperbolic_form() -> None:
    """等于 1 + tanh²(L/4)，因此总不小于 1；文中的三个数 1.2136、1.8193、1.9998 也相符。"""
    coupling = torch.linspace(-30, 30, 41, dtype=torch.float64)
    expected = 1 + torch.tanh(coupling / 4) ** 2
    torch.testing.assert_close(logit_average_partition(coupling), expected)
    printed = logit_average_partition(torch.tensor([2.0, 6.0, 20.0], dtype=torch.float64))
    assert [round(value, 4) for value in printed.tolist()] == [1.2136, 1.8193, 1.9998]


def test_logit_average_partition__limit_strong_coupling() -> None:
    """L 趋于无穷时趋于 2。"""
    actual = logit_average_partition(torch.tensor(200.0, dtype=torch.float64))
    torch.testing.assert_close(actual.item(), 2.0)


def test_logit_average_partition__equals_score_on_equal_states() -> None:
    """L = 6 时，相等的两个状态真实的 NLL 是 0.6956，平均对数几率后只剩 0.0972。"""
    x = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    logits = coupled_pair_logits(6.0, x)
    assert round(-bernoulli_log_prob(logits[0], x).item(), 4) == 0.6956
    assert round(-averaged_logit_score(logits, x).item(), 4) == 0.0972
    partition = logit_average_partition(torch.tensor(6.0, dtype=torch.float64)).item()
    states = _states(2)
    total = averaged_logit_score(coupled_pair_logits(6.0, states), states).exp().sum().item()
    assert abs(total - partition) < 1e-12


def test_order_ensemble_log_prob__rejects_bad_input() -> None:
    """形状不对或没有次序时报错。"""
    with pytest.raises(ValueError, match="log_probs 的形状"):
        order_ensemble_log_prob(torch.zeros(3))
    with pytest.raises(ValueError, match="K = 0"):
        order_ensemble_log_prob(torch.zeros(0, 3))


def test_coupled_pair_logits__rejects_bad_input() -> None:
    """x 不是两列二值时报错。"""
    with pytest.raises(ValueError, match="x 的形状"):
        coupled_pair_logits(1.0, torch.zeros(1, 3))
    with pytest.raises(ValueError, match="x 的元素"):
        coupled_pair_logits(1.0, torch.full((1, 2), 0.5))


def test_averaged_logit_score__rejects_bad_input() -> None:
    """logits 与 x 的形状不配、x 不是二值时报错。"""
    with pytest.raises(ValueError, match="logits 的形状"):
        averaged_logit_score(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="x 的形状"):
        averaged_logit_score(torch.zeros(2, 1, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="x 的元素"):
        averaged_logit_score(torch.zeros(2, 1, 3), torch.full((1, 3), 2.0))


def test_logit_average_partition__rejects_integers() -> None:
    """coupling 必须是浮点张量。"""
    with pytest.raises(ValueError, match="coupling"):
        logit_average_partition(torch.tensor(2))
