"""循环自回归模型的检验。"""

import itertools

import pytest
import torch
from torch import Tensor, nn

from formulary.autoregressive_models.bernoulli import bernoulli_log_prob
from formulary.autoregressive_models.recurrent import RecurrentAutoregressive
from formulary.autoregressive_models.sampling import ancestral_sample, incremental_sample


def _model(d: int = 5) -> RecurrentAutoregressive:
    generator = torch.Generator().manual_seed(2)
    model = RecurrentAutoregressive(d, generator=generator).double()
    with torch.no_grad():  # 偏置初始为零，改成随机数，免得漏掉它也看不出来
        for bias in (model.hidden.bias, model.output.bias):
            bias.uniform_(-1, 1, generator=generator)
    return model


def _random(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_RecurrentAutoregressive__matches_nn_rnn() -> None:
    """权重搬进 nn.RNN、输入右移一格，输出相同。"""
    model, x = _model(), (_random(3, 9) > 0).double()
    reference = nn.RNN(1, 5, batch_first=True).double()
    with torch.no_grad():
        reference.weight_hh_l0.copy_(model.hidden.weight)
        reference.bias_hh_l0.copy_(model.hidden.bias)
        reference.weight_ih_l0.copy_(model.input.weight)
        reference.bias_ih_l0.zero_()
    shifted = torch.cat((torch.zeros(3, 1, dtype=torch.float64), x[:, :-1]), dim=1)
    hidden, _ = reference(shifted[..., None])
    expected = hidden @ model.output.weight[0] + model.output.bias
    torch.testing.assert_close(model(x), expected)


def test_RecurrentAutoregressive__is_normalized() -> None:
    """八个变量的 256 种取法，概率之和等于 1；长度换成五个或一个，同一组参数也归一。"""
    for n in (8, 5, 1):
        states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=n)), dtype=torch.float64)
        total = bernoulli_log_prob(_model()(states), states).exp().sum()
        torch.testing.assert_close(total, torch.ones((), dtype=torch.float64))


def test_RecurrentAutoregressive__depends_only_on_past() -> None:
    """雅可比矩阵严格下三角，每个更早的变量都有影响。"""
    jacobian = torch.autograd.functional.jacobian(lambda v: _model()(v)[0], _random(1, 8))[:, 0]
    below = torch.ones(8, 8, dtype=torch.bool).tril(-1)
    assert torch.equal(jacobian != 0, below)


def test_RecurrentAutoregressive__preserves_parameter_count() -> None:
    """参数有 d² + 3d + 1 个，不论序列多长。"""
    for d in (1, 4, 7):
        count = sum(p.numel() for p in _model(d).parameters())
        assert count == d * d + 3 * d + 1
    assert _model(4)(torch.ones(2, 30, dtype=torch.float64)).shape == (2, 30)


def test_RecurrentAutoregressive__matches_incremental_sampling() -> None:
    """带着隐藏状态逐步抽，与每步重算整个前缀的祖先采样逐位相同，但只走 n 步而非 n² 步。"""
    model, n = _model(), 12
    uniforms = torch.rand(400, n, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    steps = []
    step = model.step

    def counted(previous: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        steps.append(1)
        return step(previous, state)

    model.step = counted
    slow = ancestral_sample(model, uniforms)
    assert len(steps) == n * n
    steps.clear()
    fast = incremental_sample(model.step, uniforms)
    assert len(steps) == n
    torch.testing.assert_close(fast, slow)


def test_RecurrentAutoregressive__differs_from_unshifted_inputs() -> None:
    """第 i 步误把 x_i 自己喂进去，概率之和就不再是 1。"""
    model = _model()

    def leaking(x: Tensor) -> Tensor:
        logits, state = [], None
        for column in x.unbind(1):
            logit, state = model.step(column, state)
            logits.append(logit)
        return torch.stack(logits, dim=1)

    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=6)), dtype=torch.float64)
    total = bernoulli_log_prob(leaking(states), states).exp().sum()
    assert abs(total - 1) > 0.05


def test_RecurrentAutoregressive__rejects_bad_input() -> None:
    """宽度不是正整数、输入不是二维的实浮点张量时报错。"""
    with pytest.raises(ValueError, match="d 必须是"):
        RecurrentAutoregressive(0)
    for x, message in ((torch.ones(5), "x 的形状"), (torch.ones(2, 5).long(), "x 必须是实浮点")):
        with pytest.raises(ValueError, match=message):
            RecurrentAutoregressive(3)(x)
