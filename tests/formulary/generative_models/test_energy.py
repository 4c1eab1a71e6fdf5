"""玻尔兹曼机的能量、似然、梯度与条件概率的检验。"""

import itertools
import math

import pytest
import torch
from torch import Tensor

from formulary.generative_models.energy import (
    boltzmann_conditional_logits,
    boltzmann_energy,
    boltzmann_gradient,
    boltzmann_log_prob,
    boltzmann_moments,
)

N_DIMS = 5
STATES = list(itertools.product((0, 1), repeat=N_DIMS))
ALL = torch.tensor(STATES, dtype=torch.float64)


def _parameters() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(11)
    half = torch.randn(N_DIMS, N_DIMS, dtype=torch.float64, generator=generator).triu(1)
    return half + half.T, torch.randn(N_DIMS, dtype=torch.float64, generator=generator)


def _energy_by_loops(x: tuple[int, ...], weights: Tensor, biases: Tensor) -> float:
    total = -sum(b * xi for b, xi in zip(biases.tolist(), x, strict=True))
    for i, j in itertools.combinations(range(len(x)), 2):
        total -= weights[i, j].item() * x[i] * x[j]
    return total


def _probabilities(weights: Tensor, biases: Tensor) -> list[float]:
    masses = [math.exp(-_energy_by_loops(x, weights, biases)) for x in STATES]
    return [mass / sum(masses) for mass in masses]


def test_boltzmann_energy__matches_sum_over_pairs() -> None:
    """与逐对相加的循环相同，每对只算一次。"""
    weights, biases = _parameters()
    expected = [_energy_by_loops(x, weights, biases) for x in STATES]
    actual = boltzmann_energy(ALL.view(2, 16, N_DIMS), weights, biases)
    torch.testing.assert_close(actual.flatten(), torch.tensor(expected, dtype=torch.float64))


def test_boltzmann_energy__equals_worked_example() -> None:
    """W_12 = 2、b = (−1, 1/2) 时四个状态的能量是 0、−1/2、1、−3/2。"""
    weights = torch.tensor([[0.0, 2.0], [2.0, 0.0]])
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    energies = boltzmann_energy(x, weights, torch.tensor([-1.0, 0.5]))
    assert energies.tolist() == [0.0, -0.5, 1.0, -1.5]


def test_boltzmann_energy__rejects_bad_input() -> None:
    """x 不是二值、W 不对称或对角线不为零、形状不合时报错。"""
    weights, biases = torch.tensor([[0.0, 2.0], [2.0, 0.0]]), torch.zeros(2)
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="x 的元素只能是 0 或 1"):
        boltzmann_energy(x + 0.5, weights, biases)
    for bad in (torch.tensor([[0.0, 2.0], [1.0, 0.0]]), torch.eye(2)):
        with pytest.raises(ValueError, match="weights 必须是对称矩阵"):
            boltzmann_energy(x, bad, biases)
    with pytest.raises(ValueError, match="weights 的形状"):
        boltzmann_energy(x, torch.zeros(3, 3), biases)
    with pytest.raises(ValueError, match="x 的形状"):
        boltzmann_energy(torch.zeros(3, 4), weights, biases)
    with pytest.raises(ValueError, match="biases 的形状"):
        boltzmann_energy(x, weights, torch.zeros(1, 2))


def test_boltzmann_log_prob__matches_enumeration() -> None:
    """与枚举全部 32 个状态算出的归一化概率相同。"""
    weights, biases = _parameters()
    expected = torch.tensor(_probabilities(weights, biases), dtype=torch.float64)
    torch.testing.assert_close(boltzmann_log_prob(ALL, weights, biases), expected.log())


def test_boltzmann_log_prob__is_normalised_under_energy_shift() -> None:
    """概率之和为 1；偏置很大时也不溢出。"""
    weights, biases = _parameters()
    total = boltzmann_log_prob(ALL, weights, biases + 2000).exp().sum()
    torch.testing.assert_close(total, torch.tensor(1.0, dtype=torch.float64))


def test_boltzmann_log_prob__equals_worked_example() -> None:
    """W_12 = 2、b = (−1, 1/2) 时 Z = 7.4983，p(1, 1) = 0.5977。"""
    weights = torch.tensor([[0.0, 2.0], [2.0, 0.0]], dtype=torch.float64)
    biases = torch.tensor([-1.0, 0.5], dtype=torch.float64)
    z = 1 + math.exp(0.5) + math.exp(-1) + math.exp(1.5)
    assert round(z, 4) == 7.4983
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    p = boltzmann_log_prob(x, weights, biases).exp()
    assert [round(v, 4) for v in p.tolist()] == [0.1334, 0.2199, 0.0491, 0.5977]


def test_boltzmann_log_prob__rejects_non_binary() -> None:
    """x 不是二值时报错。"""
    with pytest.raises(ValueError, match="x 的元素只能是 0 或 1"):
        boltzmann_log_prob(torch.tensor([2.0, 0.0]), torch.zeros(2, 2), torch.zeros(2))


def test_boltzmann_moments__matches_enumeration() -> None:
    """与按枚举出的概率加权的循环相同。"""
    weights, biases = _parameters()
    p = _probabilities(weights, biases)
    pairs = [
        [sum(m * x[i] * x[j] for m, x in zip(p, STATES, strict=True)) for j in range(N_DIMS)]
        for i in range(N_DIMS)
    ]
    actual, means = boltzmann_moments(weights, biases)
    expected = torch.tensor(pairs, dtype=torch.float64)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(means, expected.diagonal())


def test_boltzmann_moments__matches_gradient_of_log_partition() -> None:
    """等于 log Z 对参数的自动求导，W_ij 与 W_ji 是同一个参数。"""
    weights, biases = _parameters()
    rows, cols = torch.triu_indices(N_DIMS, N_DIMS, 1)
    couplings = weights[rows, cols].clone().requires_grad_()
    biases = biases.clone().requires_grad_()
    exponents = ALL[:, rows] * ALL[:, cols] @ couplings + ALL @ biases
    gradients = torch.autograd.grad(torch.logsumexp(exponents, 0), (couplings, biases))
    pairs, means = boltzmann_moments(weights, biases.detach())
    torch.testing.assert_close(pairs[rows, cols], gradients[0])
    torch.testing.assert_close(means, gradients[1])


def test_boltzmann_moments__equals_product_when_uncoupled() -> None:
    """W = 0 时各变量独立，E[x_i] = σ(b_i)，E[x_i x_j] 是乘积。"""
    biases = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
    pairs, means = boltzmann_moments(torch.zeros(3, 3, dtype=torch.float64), biases)
    torch.testing.assert_close(means, torch.sigmoid(biases))
    torch.testing.assert_close(pairs[0, 2], means[0] * means[2])


def test_boltzmann_moments__rejects_asymmetric_weights() -> None:
    """W 不对称时报错。"""
    with pytest.raises(ValueError, match="weights 必须是对称矩阵"):
        boltzmann_moments(torch.tensor([[0.0, 1.0], [0.0, 0.0]]), torch.zeros(2))


def test_boltzmann_gradient__matches_autograd() -> None:
    """与对平均对数似然自动求导相同，归一化常数用枚举。"""
    weights, biases = _parameters()
    x = ALL[[3, 3, 12, 21, 30, 31, 7]]
    rows, cols = torch.triu_indices(N_DIMS, N_DIMS, 1)
    couplings = weights[rows, cols].clone().requires_grad_()
    b = biases.clone().requires_grad_()

    def minus_energy(states: Tensor) -> Tensor:
        return states[:, rows] * states[:, cols] @ couplings + states @ b

    log_likelihood = minus_energy(x).mean() - torch.logsumexp(minus_energy(ALL), 0)
    expected = torch.autograd.grad(log_likelihood, (couplings, b))
    by_weights, by_biases = boltzmann_gradient(x, weights, biases)
    torch.testing.assert_close(by_weights[rows, cols], expected[0])
    torch.testing.assert_close(by_weights, by_weights.T)
    torch.testing.assert_close(by_biases, expected[1])
    assert not by_weights.diagonal().any()


def test_boltzmann_gradient__equals_worked_example() -> None:
    """W_12 = 2、b = (−1, 1/2)、数据一半是 (1, 1) 时 W_12 的梯度是 −0.0977；零参数时是 1 − 1/4。"""
    weights = torch.tensor([[0.0, 2.0], [2.0, 0.0]])
    x = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    by_weights, _ = boltzmann_gradient(x, weights, torch.tensor([-1.0, 0.5]))
    assert round(by_weights[0, 1].item(), 4) == -0.0977
    gradients = boltzmann_gradient(torch.tensor([[1.0, 1.0]]), torch.zeros(2, 2), torch.zeros(2))
    assert gradients[0].tolist() == [[0.0, 0.75], [0.75, 0.0]]
    assert gradients[1].tolist() == [0.5, 0.5]


def test_boltzmann_gradient__equals_zero_when_the_data_follow_the_model() -> None:
    """样本的矩恰好等于模型的矩时梯度为零：参数全为 0、数据是全部状态各一次。"""
    zeros = torch.zeros(N_DIMS, N_DIMS, dtype=torch.float64)
    by_weights, by_biases = boltzmann_gradient(ALL, zeros, zeros[0])
    torch.testing.assert_close(by_weights, zeros)
    torch.testing.assert_close(by_biases, zeros[0])


def test_boltzmann_gradient__rejects_non_binary() -> None:
    """样本不是二值时报错。"""
    with pytest.raises(ValueError, match="x 的元素只能是 0 或 1"):
        boltzmann_gradient(torch.full((2, 2), 0.5), torch.zeros(2, 2), torch.zeros(2))


def test_boltzmann_conditional_logits__matches_enumeration() -> None:
    """等于枚举出的 p(x_i = 1, 其余) 与 p(x_i = 0, 其余) 之比的对数。"""
    weights, biases = _parameters()
    mass = dict(zip(STATES, _probabilities(weights, biases), strict=True))
    expected = [
        [
            math.log(mass[(*x[:i], 1, *x[i + 1 :])] / mass[(*x[:i], 0, *x[i + 1 :])])
            for i in range(N_DIMS)
        ]
        for x in STATES
    ]
    actual = boltzmann_conditional_logits(ALL, weights, biases)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_boltzmann_conditional_logits__preserves_the_distribution_under_gibbs_steps() -> None:
    """按这些条件概率依次重抽每一个变量，模型分布原样不变。"""
    weights, biases = _parameters()
    p = torch.tensor(_probabilities(weights, biases), dtype=torch.float64)
    on = torch.sigmoid(boltzmann_conditional_logits(ALL, weights, biases))
    index = {x: k for k, x in enumerate(STATES)}
    for i in range(N_DIMS):
        moved = torch.zeros_like(p)
        for k, x in enumerate(STATES):
            moved[index[(*x[:i], 1, *x[i + 1 :])]] += p[k] * on[k, i]
            moved[index[(*x[:i], 0, *x[i + 1 :])]] += p[k] * (1 - on[k, i])
        torch.testing.assert_close(moved, p)


def test_boltzmann_conditional_logits__equals_worked_example() -> None:
    """W_12 = 2、b = (−1, 1/2)、x = (1, 0) 时对数几率是 −1 与 2.5。"""
    weights = torch.tensor([[0.0, 2.0], [2.0, 0.0]])
    x = torch.tensor([1.0, 0.0])
    logits = boltzmann_conditional_logits(x, weights, torch.tensor([-1.0, 0.5]))
    assert logits.tolist() == [-1.0, 2.5]


def test_boltzmann_conditional_logits__rejects_non_binary() -> None:
    """x 不是二值时报错。"""
    with pytest.raises(ValueError, match="x 的元素只能是 0 或 1"):
        boltzmann_conditional_logits(torch.full((2,), 0.5), torch.zeros(2, 2), torch.zeros(2))
