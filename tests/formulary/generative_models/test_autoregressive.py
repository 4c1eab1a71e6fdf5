"""链式法则与高斯混合自回归密度的检验。"""

import itertools
import math

import pytest
import torch
from torch import Tensor

from formulary.generative_models.autoregressive import (
    MixtureAutoregressive,
    chain_rule_log_prob,
    conditional_mixture_log_prob,
)


def _random_joint() -> Tensor:
    """三个变量、每个三种取值的随机联合分布。"""
    weights = torch.rand(3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return weights / weights.sum()


def _conditional_tables(joint: Tensor) -> list[Tensor]:
    """由联合分布逐级边缘化、相除得到条件概率表。"""
    first = joint.sum((1, 2))
    second = joint.sum(2)
    return [first, second / first[:, None], joint / second[:, :, None]]


def test_chain_rule_log_prob__matches_joint_table() -> None:
    """由联合分布除出来的三张条件表，乘回去就是联合分布，27 个状态全部列举。"""
    joint = _random_joint()
    states = torch.tensor(list(itertools.product(range(3), repeat=3)))
    actual = chain_rule_log_prob(states, _conditional_tables(joint))
    torch.testing.assert_close(actual, joint.flatten().log())


def test_chain_rule_log_prob__matches_python_loop() -> None:
    """任意的条件表，与逐个变量查表相乘的循环相同，27 个状态的概率之和为 1。"""
    generator = torch.Generator().manual_seed(1)
    tables = [
        torch.rand((3,) * (i + 1), dtype=torch.float64, generator=generator).softmax(-1)
        for i in range(3)
    ]
    states = list(itertools.product(range(3), repeat=3))
    expected = [
        tables[0][a].item() * tables[1][a][b].item() * tables[2][a][b][c].item()
        for a, b, c in states
    ]
    actual = chain_rule_log_prob(torch.tensor(states), tables).exp()
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(actual.sum(), torch.ones((), dtype=torch.float64))


def test_chain_rule_log_prob__equals_worked_example() -> None:
    """手算一例：p(x₁ = 1) = 0.4、p(x₂ = 1|x₁ = 1) = 0.8，联合 0.32，对数 −1.1394。"""
    tables = [
        torch.tensor([0.6, 0.4], dtype=torch.float64),
        torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64),
    ]
    states = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    actual = chain_rule_log_prob(states, tables)
    expected = torch.tensor([0.54, 0.06, 0.08, 0.32], dtype=torch.float64)
    torch.testing.assert_close(actual.exp(), expected)
    assert round(actual[3].item(), 4) == -1.1394


def test_chain_rule_log_prob__rejects_bad_tables() -> None:
    """表的张数、形状不合，行不归一，或取值越界时报错。"""
    tables = [torch.tensor([0.6, 0.4]), torch.tensor([[0.9, 0.1], [0.2, 0.8]])]
    x = torch.tensor([[0, 1]])
    with pytest.raises(ValueError, match="x 的形状"):
        chain_rule_log_prob(x, tables[:1])
    with pytest.raises(ValueError, match="x 的形状"):
        chain_rule_log_prob(x, [])
    with pytest.raises(ValueError, match="x 的元素"):
        chain_rule_log_prob(x + 1, tables)
    with pytest.raises(ValueError, match=r"tables\[1\]"):
        chain_rule_log_prob(x, [tables[0], tables[1] * 2])
    with pytest.raises(ValueError, match=r"tables\[1\]"):
        chain_rule_log_prob(x, [tables[0], tables[0]])


def _mixture_parameters(*batch: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    logits, means, log_scales = torch.randn(3, *batch, 4, dtype=torch.float64, generator=generator)
    return logits, means, log_scales


def test_conditional_mixture_log_prob__matches_torch_distributions() -> None:
    """与 torch.distributions 的 MixtureSameFamily 相同。"""
    logits, means, log_scales = _mixture_parameters(3, 5)
    x = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    oracle = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=logits),
        torch.distributions.Normal(means, log_scales.exp()),
    )
    actual = conditional_mixture_log_prob(x, logits, means, log_scales)
    torch.testing.assert_close(actual, oracle.log_prob(x))


def test_conditional_mixture_log_prob__is_normalised() -> None:
    """在足够宽的网格上数值积分为 1。"""
    grid = torch.linspace(-60, 60, 24_001, dtype=torch.float64)
    parameters = (value.expand(len(grid), 4) for value in _mixture_parameters())
    density = conditional_mixture_log_prob(grid, *parameters).exp()
    torch.testing.assert_close(density.sum() * 0.005, torch.ones((), dtype=torch.float64))


def test_conditional_mixture_log_prob__rejects_mismatched_shapes() -> None:
    """参数的形状与 x 不配时报错并指出是哪一个。"""
    logits, means, log_scales = _mixture_parameters(3)
    x = torch.zeros(3, dtype=torch.float64)
    with pytest.raises(ValueError, match="means"):
        conditional_mixture_log_prob(x, logits, means[:, :3], log_scales)
    with pytest.raises(ValueError, match="logits"):
        conditional_mixture_log_prob(x[:2], logits, means, log_scales)


def _model(n: int) -> MixtureAutoregressive:
    """参数由固定的发生器重填，不受全局种子影响。"""
    model = MixtureAutoregressive(n, components=3, hidden=5).double()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(
                0.35 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
            )
    return model


def test_MixtureAutoregressive__matches_torch_distributions() -> None:
    """把各条件的参数交给 torch.distributions，逐项相加与 log_prob 相同。"""
    model = _model(3)
    x = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    total = torch.zeros(7, dtype=torch.float64)
    for i in range(3):
        past = torch.cat((x[:, :i], torch.zeros(7, 3 - i, dtype=torch.float64)), dim=1)
        output = model.networks[i](past)
        total += torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(logits=output[:, :3]),
            torch.distributions.Normal(output[:, 3:6], output[:, 6:].exp()),
        ).log_prob(x[:, i])
    torch.testing.assert_close(model.log_prob(x), total)


def test_MixtureAutoregressive__is_normalised() -> None:
    """二维模型在网格上的积分为 1。"""
    model = _model(2)
    axis = torch.linspace(-25, 25, 501, dtype=torch.float64)
    with torch.no_grad():
        density = model.log_prob(torch.cartesian_prod(axis, axis)).exp()
    # 梯形法步长 0.1，最窄的分量标准差约 0.2
    total = density.sum() * 0.1**2
    torch.testing.assert_close(total, torch.ones((), dtype=torch.float64), rtol=0, atol=1e-3)


def test_MixtureAutoregressive__depends_only_on_earlier_columns() -> None:
    """第 i 个条件的参数对第 i 列及其后的列的导数恒为零，对前面的列不为零。"""
    model = _model(4)
    x = torch.randn(1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    for i in range(4):
        jacobian = torch.autograd.functional.jacobian(
            lambda v, i=i: torch.cat(model.conditional(v, i), dim=-1), x
        )[0, :, 0]
        assert (jacobian[:, i:] == 0).all()
        assert (jacobian[:, :i] != 0).any(0).all()


def test_MixtureAutoregressive__matches_sampled_moments() -> None:
    """一万个样本的均值与二阶矩，与网格积分相差不超过 5 个标准误。"""
    model = _model(2)
    axis = torch.linspace(-25, 25, 501, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        mass = model.log_prob(grid).exp() * 0.1**2
    samples = model.sample(10_000, torch.Generator().manual_seed(7))
    for moment in (lambda v: v[:, 0], lambda v: v[:, 1], lambda v: v[:, 0] * v[:, 1]):
        drawn = moment(samples)
        exact = (mass * moment(grid)).sum() / mass.sum()
        assert (drawn.mean() - exact).abs() <= 5 * drawn.std() / 100


def test_MixtureAutoregressive__rejects_bad_input() -> None:
    """构造参数不是正整数、x 的列数不合、样本数不是正整数时报错。"""
    for name in ("n", "components", "hidden"):
        arguments = {"n": 2, "components": 3, "hidden": 4, name: 0}
        with pytest.raises(ValueError, match=name):
            MixtureAutoregressive(**arguments)
    model = MixtureAutoregressive(2, 3, 4)
    with pytest.raises(ValueError, match="x 的形状"):
        model.log_prob(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="samples"):
        model.sample(0, torch.Generator())


def test_MixtureAutoregressive__is_spread_at_start() -> None:
    """刚构造时各分量的均值起点从 −1.5 到 1.5 等距排开。"""
    model = MixtureAutoregressive(2, components=4, hidden=5)
    for network in model.networks:
        start = network[-1].bias.detach()[4:8]
        torch.testing.assert_close(start, torch.tensor([-1.5, -0.5, 0.5, 1.5]))
    assert math.isfinite(model.log_prob(torch.zeros(1, 2)).item())
