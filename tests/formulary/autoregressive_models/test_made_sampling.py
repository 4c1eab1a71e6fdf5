"""MADE 的三种采样写法与折叠权重的检验。"""

import math
from itertools import product

import pytest
import torch
from scipy import stats
from torch import Tensor

from formulary.autoregressive_models.bernoulli import bernoulli_log_prob
from formulary.autoregressive_models.made import MADE
from formulary.autoregressive_models.made_sampling import (
    folded_layers,
    folded_logits,
    made_sample,
    made_sample_by_degree,
    made_sample_incremental,
)

ORDER = torch.tensor([2, 0, 3, 1])


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _model(hidden: list[int], n: int = 4, order: Tensor | None = None, seed: int = 5) -> MADE:
    model = MADE(n, hidden, order if order is not None else ORDER, _generator(seed)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)
    return model


def _joint(model: MADE) -> dict[tuple[int, ...], float]:
    states = list(product((0, 1), repeat=model.n))
    x = torch.tensor(states, dtype=torch.float64)
    return dict(zip(states, bernoulli_log_prob(model(x), x).exp().tolist(), strict=True))


def _sample_from_joint(
    joint: dict[tuple[int, ...], float], order: list[int], uniforms: list[float]
) -> list[float]:
    """由枚举出的联合分布逐个求条件概率来采样；不碰网络。"""
    known: dict[int, int] = {}
    for i in order:
        weights = [0.0, 0.0]
        for state, probability in joint.items():
            if all(state[j] == value for j, value in known.items()):
                weights[state[i]] += probability
        known[i] = int(uniforms[i] < weights[1] / sum(weights))
    return [float(known[i]) for i in range(len(order))]


def _uniforms(count: int, n: int = 4, seed: int = 2) -> Tensor:
    return torch.rand(count, n, dtype=torch.float64, generator=_generator(seed))


def test_made_sample__matches_conditionals_of_joint() -> None:
    """与用枚举出的联合分布逐个求条件概率采到的样本相同。"""
    for hidden in ([], [6], [7, 5]):
        model = _model(hidden)
        joint, u = _joint(model), _uniforms(60)
        expected = [_sample_from_joint(joint, ORDER.tolist(), row) for row in u.tolist()]
        torch.testing.assert_close(made_sample(model, u), torch.tensor(expected).double())


def test_made_sample__matches_enumerated_distribution() -> None:
    """两万个样本的频数与枚举出的概率相符，卡方检验不能拒绝。

    最小的期望频数也有几十；按列的次序采样的分布相距 0.3 的总变差，同样多的样本必被拒绝。
    """
    model = _model([6])
    joint = _joint(model)
    samples = made_sample(model, _uniforms(20_000)).int().tolist()
    counts = [sum(tuple(s) == state for s in samples) for state in joint]
    expected = [20_000 * probability for probability in joint.values()]
    assert min(expected) > 20
    assert stats.chisquare(counts, expected, sum_check=False).pvalue > 1e-3


def test_made_sample__differs_from_sampling_in_column_order() -> None:
    """模型的次序不是 0, 1, 2, 3 时按列的次序采样，得到的是另一个分布，总变差距离约 0.31。"""
    model = _model([6])
    joint, distance = _joint(model), 0.0
    for state, probability in joint.items():
        wrong, x = 1.0, torch.zeros(1, 4, dtype=torch.float64)
        for i in range(4):
            p = torch.sigmoid(model(x)[0, i]).item()
            wrong *= p if state[i] else 1 - p
            x[0, i] = state[i]
        distance += abs(wrong - probability) / 2
    assert round(distance, 2) == 0.31
    u = _uniforms(500)
    x = torch.zeros_like(u)
    for i in range(4):
        x[:, i] = (u[:, i] < torch.sigmoid(model(x)[:, i])).double()
    assert not torch.equal(x, made_sample(model, u))


def test_made_sample__equals_threshold_for_constant_logits() -> None:
    """权重全为零时，每一列只看自己的均匀数是否小于 σ(偏置)，边界取不到。"""
    model = _model([3])
    with torch.no_grad():
        for weight in model.weights:
            weight.zero_()
        model.biases[1].copy_(torch.tensor([0.0, 2.0, -1.0, 0.0]))
    edge = 1 / (1 + math.exp(-2.0))
    u = torch.tensor(
        [[0.5, edge - 1e-9, 0.2, 0.4999], [0.0, edge + 1e-9, 0.9, 1.0]], dtype=torch.float64
    )
    expected = torch.tensor([[0.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(made_sample(model, u), expected)


@pytest.mark.parametrize("hidden", [[6], [9, 7], [5, 8, 6]])
def test_made_sample_incremental__matches_made_sample(hidden: list[int]) -> None:
    """同一组均匀数，样本与每步前向一次的写法完全相同，1 到 3 个隐藏层。"""
    order = torch.randperm(11, generator=_generator(8))
    model, u = _model(hidden, 11, order), _uniforms(200, 11)
    assert torch.equal(made_sample_incremental(model, u), made_sample(model, u))


def test_made_sample_incremental__matches_conditionals_of_joint() -> None:
    """与用枚举出的联合分布采到的样本相同，激活函数换成 tanh。"""
    model = _model([6, 5])
    model.activation = torch.tanh
    joint, u = _joint(model), _uniforms(60)
    expected = [_sample_from_joint(joint, ORDER.tolist(), row) for row in u.tolist()]
    torch.testing.assert_close(made_sample_incremental(model, u), torch.tensor(expected).double())


def test_made_sample_incremental__preserves_parameters() -> None:
    """就地累加不改动模型的参数，批量为 1 时也如此。"""
    model = _model([6])
    before = [parameter.detach().clone() for parameter in model.parameters()]
    made_sample_incremental(model, _uniforms(1))
    for parameter, saved in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, saved)


@pytest.mark.parametrize("hidden", [[], [6], [9, 7], [5, 8, 6]])
def test_made_sample_by_degree__matches_made_sample(hidden: list[int]) -> None:
    """同一组均匀数，样本与每步前向一次的写法完全相同，0 到 3 个隐藏层。"""
    order = torch.randperm(11, generator=_generator(8))
    model, u = _model(hidden, 11, order), _uniforms(200, 11)
    assert torch.equal(made_sample_by_degree(model, u), made_sample(model, u))
    model.reorder(order.flip(0))
    assert torch.equal(made_sample_by_degree(model, u), made_sample(model, u))


def test_made_sample_by_degree__matches_conditionals_of_joint() -> None:
    """与用枚举出的联合分布采到的样本相同，激活函数换成 sigmoid（在 0 处不为零）。"""
    model = _model([6, 5])
    model.activation = torch.sigmoid
    joint, u = _joint(model), _uniforms(60)
    expected = [_sample_from_joint(joint, ORDER.tolist(), row) for row in u.tolist()]
    torch.testing.assert_close(made_sample_by_degree(model, u), torch.tensor(expected).double())


def _coins(hidden: list[int]) -> MADE:
    """权重与偏置全为零：每一列的概率恰好是 1/2。"""
    model = _model(hidden)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model


HALVES = torch.tensor([[0.5, 0.4999, 0.5001, 0.5]], dtype=torch.float64)


def test_made_sample_by_degree__is_thresholded_by_uniforms() -> None:
    """均匀数为 0 的列总得 1，为 1 的列总得 0；恰好等于概率 1/2 时得 0。"""
    u = torch.tensor([[0.0, 1.0, 1.0, 0.0]], dtype=torch.float64)
    expected = torch.tensor([[1.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    for sample in (made_sample, made_sample_incremental, made_sample_by_degree):
        torch.testing.assert_close(sample(_model([6, 5]), u), expected)
    assert made_sample_by_degree(_coins([6, 5]), HALVES).tolist() == [[0, 1, 0, 0]]


def test_made_sample_incremental__is_thresholded_by_uniforms() -> None:
    """均匀数为 0 的列总得 1，为 1 的列总得 0；恰好等于概率 1/2 时得 0。"""
    u = torch.tensor([[1.0, 0.0, 1.0, 0.0]], dtype=torch.float64)
    expected = torch.tensor([[0.0, 1.0, 0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(made_sample_incremental(_model([6]), u), expected)
    assert made_sample_incremental(_coins([6]), HALVES).tolist() == [[0, 1, 0, 0]]


def test_folded_logits__matches_forward() -> None:
    """折叠过的权重给出与 model(x) 相同的对数几率。"""
    x = torch.randn(7, 4, dtype=torch.float64, generator=_generator(3))
    for hidden in ([], [6], [7, 5]):
        model = _model(hidden)
        torch.testing.assert_close(folded_logits(folded_layers(model), x), model(x).detach())
        model.activation = torch.tanh
        actual = folded_logits(folded_layers(model), x, torch.tanh)
        torch.testing.assert_close(actual, model(x).detach())


def test_folded_logits__is_normalized() -> None:
    """由它算出的全部状态的概率之和是 1，而且不带计算图。"""
    states = torch.tensor(list(product((0.0, 1.0), repeat=4)), dtype=torch.float64)
    logits = folded_logits(folded_layers(_model([7, 5])), states)
    assert not logits.requires_grad
    total = bernoulli_log_prob(logits, states).exp().sum()
    torch.testing.assert_close(total, torch.tensor(1.0).double())


def test_folded_layers__matches_python_loop() -> None:
    """每个元素要么是原来的权重，要么是 0；改动它不影响模型。"""
    model = _model([5])
    for layer, (weight, bias) in enumerate(folded_layers(model)):
        for a, b in product(*map(range, weight.shape)):
            kept = model.masks[layer][a, b].item()
            assert weight[a, b] == (model.weights[layer][a, b].item() if kept else 0.0)
        torch.testing.assert_close(bias, model.biases[layer].detach())
        bias.zero_()
        assert (model.biases[layer] != 0).all()


def test_folded_layers__is_one_pair_per_layer() -> None:
    """层数比隐藏层多一，形状与参数相同。"""
    shapes = [(tuple(w.shape), tuple(b.shape)) for w, b in folded_layers(_model([7, 5]))]
    assert shapes == [((7, 4), (7,)), ((5, 7), (5,)), ((4, 5), (4,))]


def test_made_sample__rejects_bad_uniforms() -> None:
    """均匀数的形状不对或越界时报错。"""
    model = MADE(3, [4])
    for sample in (made_sample, made_sample_incremental, made_sample_by_degree):
        with pytest.raises(ValueError, match="uniforms 的形状"):
            sample(model, torch.zeros(2, 4))
        with pytest.raises(ValueError, match="uniforms 的元素"):
            sample(model, torch.full((2, 3), 1.5))


def test_made_sample_incremental__rejects_model_without_hidden_layers() -> None:
    """没有隐藏层就没有第一层的预激活可累加。"""
    with pytest.raises(ValueError, match="model 至少要有一个隐藏层"):
        made_sample_incremental(MADE(3, []), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="uniforms"):
        made_sample_incremental(MADE(3, [4]), torch.zeros(3))


def test_made_sample_by_degree__rejects_bad_uniforms() -> None:
    """均匀数不是二维时报错。"""
    with pytest.raises(ValueError, match="uniforms"):
        made_sample_by_degree(MADE(3, [4]), torch.zeros(3))


def test_folded_logits__rejects_wrong_width() -> None:
    """x 的列数不是 n、没有一层时报错。"""
    with pytest.raises(ValueError, match="x 的形状"):
        folded_logits(folded_layers(MADE(3, [4])), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="layers"):
        folded_logits([], torch.zeros(2, 4))
