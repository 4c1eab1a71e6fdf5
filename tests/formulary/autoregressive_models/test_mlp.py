"""互不共享的单隐层感知机：值、自回归性质与参数计数。"""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from formulary.autoregressive_models.bernoulli import bernoulli_log_prob
from formulary.autoregressive_models.mlp import separate_mlp_logits, separate_mlp_parameter_count


def _parameters(n: int, d: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(41)
    shapes = ((n, d, n), (n, d), (n, d), (n,))
    draws = [torch.randn(*s, dtype=torch.float64, generator=generator) for s in shapes]
    return draws[0], draws[1], draws[2], draws[3]


def _states(n: int) -> Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=n)), dtype=torch.float64)


def test_separate_mlp_logits__matches_torch_modules() -> None:
    """每个条件等于装入同样参数的 nn.Sequential(Linear, Sigmoid, Linear)。"""
    n, d = 5, 3
    weights, biases, output_weight, output_bias = _parameters(n, d)
    x = _states(n)[::3]
    actual = separate_mlp_logits(x, weights, biases, output_weight, output_bias)
    for i in range(1, n):
        net = nn.Sequential(nn.Linear(i, d), nn.Sigmoid(), nn.Linear(d, 1)).double()
        with torch.no_grad():
            net[0].weight.copy_(weights[i, :, :i])
            net[0].bias.copy_(biases[i])
            net[2].weight.copy_(output_weight[i : i + 1])
            net[2].bias.copy_(output_bias[i : i + 1])
            torch.testing.assert_close(actual[:, i], net(x[:, :i])[:, 0])
    first = (torch.sigmoid(biases[0]) * output_weight[0]).sum() + output_bias[0]
    torch.testing.assert_close(actual[:, 0], first.expand(len(x)))


def test_separate_mlp_logits__equals_worked_example() -> None:
    """d = 1、权重全 1、偏置全 0：ℓ_1 = σ(0) = 0.5，x_1 = 1 时 ℓ_2 = σ(1) = 0.7311。"""
    weights, biases = torch.ones(2, 1, 2).double(), torch.zeros(2, 1).double()
    actual = separate_mlp_logits(
        torch.ones(1, 2).double(),
        weights,
        biases,
        torch.ones(2, 1).double(),
        torch.zeros(2).double(),
    )
    expected = torch.tensor([[0.5, 1 / (1 + math.exp(-1))]], dtype=torch.float64)
    torch.testing.assert_close(actual, expected)


def test_separate_mlp_logits__preserves_total_mass() -> None:
    """n = 8 的全部状态概率之和是 1。"""
    states = _states(8)
    logits = separate_mlp_logits(states, *_parameters(8, 3))
    total = bernoulli_log_prob(logits, states).exp().sum()
    torch.testing.assert_close(total, torch.tensor(1.0, dtype=torch.float64))


def test_separate_mlp_logits__rejects_bad_shapes() -> None:
    """形状对不上时报错并说出参数名。"""
    x, good = torch.zeros(2, 4).double(), _parameters(4, 3)
    for k, name in enumerate(("weights", "biases", "output_weight", "output_bias")):
        bad = [p[:-1] if j == k else p for j, p in enumerate(good)]
        with pytest.raises(ValueError, match=name):
            separate_mlp_logits(x, *bad)
    with pytest.raises(ValueError, match="x 的形状"):
        separate_mlp_logits(x[0], *good)


def test_separate_mlp_parameter_count__matches_torch_modules() -> None:
    """等于逐个条件建 nn.Linear 之后数出的参数总数；第一个条件没有输入权重。"""
    for n, d in ((1, 3), (2, 5), (6, 4)):
        total = d + d + 1
        for i in range(1, n):
            net = nn.Sequential(nn.Linear(i, d), nn.Linear(d, 1))
            total += sum(p.numel() for p in net.parameters())
        assert separate_mlp_parameter_count(n, d) == total


def test_separate_mlp_parameter_count__equals_worked_example() -> None:
    """n = 784、d = 500 是 154 252 784 个。"""
    assert separate_mlp_parameter_count(784, 500) == 154_252_784


def test_separate_mlp_parameter_count__rejects_bad_count() -> None:
    """n 或 d 不是正整数时报错。"""
    for n, d, message in ((0, 1, "n 必须是"), (1, 0, "d 必须是")):
        with pytest.raises(ValueError, match=message):
            separate_mlp_parameter_count(n, d)
