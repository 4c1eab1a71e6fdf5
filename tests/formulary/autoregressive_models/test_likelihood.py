"""最大似然目标、归一化、交叉熵恒等式与逐维的 KL 散度。"""

import itertools
import math

import pytest
import torch
from scipy.stats import entropy
from torch import Tensor

from formulary.autoregressive_models.bernoulli import bernoulli_log_prob
from formulary.autoregressive_models.fvsbn import FVSBN, fvsbn_logits
from formulary.autoregressive_models.likelihood import (
    cross_entropy_terms,
    dataset_log_likelihood,
    kl_by_dimension,
    total_probability,
)
from formulary.autoregressive_models.nade import NADE


def _random(*shape: int, seed: int = 91) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _joint(*shape: int, seed: int = 5) -> Tensor:
    table = _random(*shape, seed=seed).exp()
    return table / table.sum()


def _bits(rows: int, n: int) -> Tensor:
    return (_random(rows, n, seed=1) < -0.2).double()


def test_total_probability__matches_python_loop() -> None:
    """等于逐个状态把 Python 浮点数的条件概率连乘、再相加；模型看得见自己时不是 1。"""
    weight, bias = 2 * _random(4, 4), _random(4, seed=2)

    def leaky(x: Tensor) -> Tensor:
        return x @ weight.T + bias

    total = 0.0
    for state in itertools.product((0.0, 1.0), repeat=4):
        product = 1.0
        for i in range(4):
            logit = bias[i].item() + sum(weight[i, j].item() * state[j] for j in range(4))
            product *= 1 / (1 + math.exp(-logit if state[i] else logit))
        total += product
    actual = total_probability(leaky, 4, torch.float64)
    torch.testing.assert_close(actual, torch.tensor(total, dtype=torch.float64))
    assert abs(total - 1) > 0.05
    assert total_probability(torch.zeros_like, 4).dtype == torch.float32  # 不说明类型时


def test_total_probability__is_one_for_autoregressive_models() -> None:
    """FVSBN 与 NADE 都恰好归一化，n = 10 枚举全部状态。"""
    fvsbn = FVSBN(10, torch.float64)
    with torch.no_grad():
        fvsbn.weight.copy_(_random(10, 10))
        fvsbn.bias.copy_(_random(10, seed=3))
    nade = NADE(10, 5, torch.Generator().manual_seed(4), torch.float64)
    for model in (fvsbn, nade):
        total = total_probability(model, 10, torch.float64).detach()
        torch.testing.assert_close(total, torch.tensor(1.0, dtype=torch.float64))


def test_total_probability__rejects_bad_count() -> None:
    """n 不是正整数时报错。"""
    with pytest.raises(ValueError, match="n 必须是"):
        total_probability(torch.zeros_like, 0)


def test_dataset_log_likelihood__matches_torch_distribution() -> None:
    """等于 torch.distributions.Bernoulli 的对数概率先对变量求和、再对样本取平均。"""
    logits, x = _random(7, 5), _bits(7, 5)
    expected = torch.distributions.Bernoulli(logits=logits).log_prob(x).sum(-1).mean()
    torch.testing.assert_close(dataset_log_likelihood(logits, x), expected)


def test_dataset_log_likelihood__equals_worked_example() -> None:
    """两个像素各猜 1/2，平均对数似然是 −2 ln 2 = −1.3863。"""
    x = _bits(3, 2)
    actual = dataset_log_likelihood(torch.zeros_like(x), x)
    torch.testing.assert_close(actual, torch.tensor(-2 * math.log(2), dtype=torch.float64))
    assert round(actual.item(), 4) == -1.3863


def test_dataset_log_likelihood__is_separable_for_fvsbn() -> None:
    """参数不共享时目标按 i 拆开：FVSBN 第 i 行参数的梯度与其余各行的取值无关。"""
    weight, bias, x = _random(5, 5), _random(5, seed=2), _bits(30, 5)

    def gradient(values: Tensor) -> Tensor:
        values = values.clone().requires_grad_()
        loss = dataset_log_likelihood(fvsbn_logits(x, values, bias), x)
        return torch.autograd.grad(loss, values)[0]

    changed = weight.clone()
    changed[4] += 1
    changed[2] -= 1
    before, after = gradient(weight), gradient(changed)
    torch.testing.assert_close(before[[1, 3]], after[[1, 3]])
    assert (before[4, :4] - after[4, :4]).abs().min() > 1e-3


def test_dataset_log_likelihood__rejects_bad_input() -> None:
    """形状不同或 x 不是二值时报错。"""
    with pytest.raises(ValueError, match="x 的形状"):
        dataset_log_likelihood(torch.zeros(3, 2), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="x 的元素只能是 0 或 1"):
        dataset_log_likelihood(torch.zeros(3, 2), torch.full((3, 2), 0.5))


def test_cross_entropy_terms__matches_scipy_entropy() -> None:
    """熵与 KL 散度等于 scipy.stats.entropy，交叉熵是两者之和。"""
    p, q = _joint(11), _joint(11, seed=6)
    cross, own, divergence = cross_entropy_terms(p, q.log())
    expected = torch.tensor(entropy(p.numpy()), dtype=torch.float64)
    torch.testing.assert_close(own, expected)
    expected = torch.tensor(entropy(p.numpy(), q.numpy()), dtype=torch.float64)
    torch.testing.assert_close(divergence, expected)
    torch.testing.assert_close(cross, own + divergence)


def test_cross_entropy_terms__matches_data_average_for_fvsbn() -> None:
    """p 取经验分布时，交叉熵等于数据集上 NLL 的平均。"""
    weight, bias, x = _random(4, 4), _random(4, seed=2), _bits(50, 4)
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=torch.float64)
    counts = torch.tensor([(x == s).all(-1).sum().item() for s in states], dtype=torch.float64)
    log_q = bernoulli_log_prob(fvsbn_logits(states, weight, bias), states)
    cross, own, divergence = cross_entropy_terms(counts / 50, log_q)
    nll = -dataset_log_likelihood(fvsbn_logits(x, weight, bias), x)
    torch.testing.assert_close(cross, nll)
    assert divergence > 0
    assert cross > own


def test_cross_entropy_terms__equals_worked_example() -> None:
    """p = (1/2, 1/2)、q = (0.8, 0.2)：0.9163 = 0.6931 + 0.2231；q = p 时 KL 为零。"""
    p = torch.tensor([0.5, 0.5], dtype=torch.float64)
    q = torch.tensor([0.8, 0.2], dtype=torch.float64)
    cross, own, divergence = cross_entropy_terms(p, q.log())
    expected = -(math.log(0.8) + math.log(0.2)) / 2
    torch.testing.assert_close(cross, torch.tensor(expected, dtype=torch.float64))
    assert [round(v.item(), 4) for v in (cross, own, divergence)] == [0.9163, 0.6931, 0.2231]
    assert abs(cross_entropy_terms(q, q.log())[2].item()) < 1e-15


def test_cross_entropy_terms__is_finite_for_unseen_states() -> None:
    """p 为零的状态不计，模型给它们零概率也没有 NaN。"""
    p = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    log_q = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64).log()
    for value in cross_entropy_terms(p, log_q)[:2]:
        torch.testing.assert_close(value, torch.tensor(math.log(2), dtype=torch.float64))


def test_cross_entropy_terms__rejects_bad_input() -> None:
    """p 没有归一化或形状不同时报错。"""
    half = torch.tensor([0.5, 0.5])
    with pytest.raises(ValueError, match="p 沿第"):
        cross_entropy_terms(half * 3 - 0.6, half.log())
    with pytest.raises(ValueError, match="log_q 的形状"):
        cross_entropy_terms(half, half.log()[:1])


def test_kl_by_dimension__matches_python_loop() -> None:
    """每一项等于逐个状态用 Python 浮点数算的平均条件 KL，各轴大小不同。"""
    p, q = _joint(2, 3, 4), _joint(2, 3, 4, seed=7)
    states = list(itertools.product(range(2), range(3), range(4)))

    def marginal(table: Tensor, prefix: tuple[int, ...]) -> float:
        return sum(table[s].item() for s in states if s[: len(prefix)] == prefix)

    actual = kl_by_dimension(p, q)
    for i in range(3):
        total = 0.0
        for prefix in {s[: i + 1] for s in states}:
            mine = marginal(p, prefix) / marginal(p, prefix[:-1])
            other = marginal(q, prefix) / marginal(q, prefix[:-1])
            total += marginal(p, prefix) * math.log(mine / other)
        torch.testing.assert_close(actual[i], torch.tensor(total, dtype=torch.float64))


def test_kl_by_dimension__preserves_total_divergence() -> None:
    """各项非负，相加等于 scipy 算的联合分布之间的 KL 散度，换了次序也如此。"""
    p, q = _joint(2, 3, 2, 2), _joint(2, 3, 2, 2, seed=7)
    total = torch.tensor(entropy(p.flatten().numpy(), q.flatten().numpy()), dtype=torch.float64)
    for order in itertools.permutations(range(4)):
        terms = kl_by_dimension(p.permute(order), q.permute(order))
        assert (terms >= 0).all()
        torch.testing.assert_close(terms.sum(), total)


def test_kl_by_dimension__equals_worked_example() -> None:
    """p 的第一位偏向 0（0.8 对 0.5），第二位相同：全部 0.1927 nat 都在第一维。"""
    p = torch.tensor([[0.4, 0.4], [0.1, 0.1]], dtype=torch.float64)
    actual = kl_by_dimension(p, torch.full((2, 2), 0.25, dtype=torch.float64))
    first = 0.8 * math.log(1.6) + 0.2 * math.log(0.4)
    torch.testing.assert_close(actual, torch.tensor([first, 0.0], dtype=torch.float64))
    assert round(first, 4) == 0.1927


def test_kl_by_dimension__equals_xor_gap() -> None:
    """练习：异或与三枚独立的硬币相比，1 bit 的差距总在次序的最后一维，六种次序都如此。"""
    p = torch.zeros(2, 2, 2, dtype=torch.float64)
    for a, b in itertools.product((0, 1), repeat=2):
        p[a, b, a ^ b] = 0.25
    expected = torch.tensor([0.0, 0.0, math.log(2)], dtype=torch.float64)
    for order in itertools.permutations(range(3)):
        actual = kl_by_dimension(
            p.permute(order), torch.full((2, 2, 2), 0.125, dtype=torch.float64)
        )
        torch.testing.assert_close(actual, expected)


def test_kl_by_dimension__limit_missing_support() -> None:
    """模型给数据里有的状态零概率时，KL 散度是正无穷。"""
    p = torch.tensor([[0.5, 0.25], [0.25, 0.0]], dtype=torch.float64)
    q = torch.tensor([[0.5, 0.0], [0.25, 0.25]], dtype=torch.float64)
    assert kl_by_dimension(p, q).sum().item() == math.inf


def test_kl_by_dimension__rejects_bad_input() -> None:
    """形状不同或不是概率分布时报错。"""
    p = _joint(2, 2)
    with pytest.raises(ValueError, match="q 的形状"):
        kl_by_dimension(p, _joint(2, 3))
    with pytest.raises(ValueError, match="joint"):
        kl_by_dimension(p, p * 2)
