"""忘了模式的模块与改好的模块的检验。"""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from formulary.nn_and_functional.mode_traps import (
    ForgetfulAttention,
    ForgetfulDropout,
    MindfulAttention,
    MindfulDropout,
)


def _random(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def _seeded(module: nn.Module, x: Tensor) -> Tensor:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        return module(x)


def _twice(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        return module(x), module(x)


def test_ForgetfulDropout__matches_training_module_in_both_modes() -> None:
    """不论模式，都与训练模式的 nn.Dropout、F.dropout(training=True) 逐位相同。"""
    x = _random(4, 50)
    for training in (True, False):
        actual = _seeded(ForgetfulDropout(0.4).train(training), x)
        torch.testing.assert_close(actual, _seeded(nn.Dropout(0.4), x))
        with torch.random.fork_rng():
            torch.manual_seed(3)
            assert torch.equal(actual, F.dropout(x, 0.4, training=True))


def test_ForgetfulDropout__is_random_in_evaluation() -> None:
    """错例：eval() 之后，同一个输入两次的输出不同。"""
    first, second = _twice(ForgetfulDropout(0.5).eval(), torch.ones(50))
    assert not torch.equal(first, second)
    assert first.unique().tolist() == [0.0, 2.0]


def test_ForgetfulDropout__rejects_bad_probability() -> None:
    """p 越界时，两个类都在构造时报错。"""
    for kind in (ForgetfulDropout, MindfulDropout):
        with pytest.raises(ValueError, match="p 必须在"):
            kind(1.5)


def test_MindfulDropout__matches_module() -> None:
    """训练与评估模式下都与 nn.Dropout 逐位相同，模式来回切换也一样。"""
    x, ours, theirs = _random(4, 50), MindfulDropout(0.4), nn.Dropout(0.4)
    for training in (True, False, True):
        expected = _seeded(theirs.train(training), x)
        actual = _seeded(ours.train(training), x)
        torch.testing.assert_close(actual, expected)
        assert torch.equal(actual, expected)


def test_MindfulDropout__is_identity_in_evaluation() -> None:
    """改好的：评估时原样返回。"""
    x = _random(6)
    torch.testing.assert_close(MindfulDropout(0.9).eval()(x), x)


def test_MindfulDropout__differs_from_module_built_in_forward() -> None:
    """在 forward 里现造 nn.Dropout：没有登记，eval() 走不到，输出与训练模式的模块逐位相同。"""

    class Rebuilt(MindfulDropout):
        def forward(self, x: Tensor) -> Tensor:
            return nn.Dropout(self.p)(x)

    x, wrong = _random(4, 50), Rebuilt(0.4).eval()
    torch.testing.assert_close(_seeded(wrong, x), _seeded(nn.Dropout(0.4), x))
    assert list(wrong.children()) == []
    assert not torch.equal(_seeded(wrong, x), _seeded(MindfulDropout(0.4).eval(), x))


def test_MindfulDropout__differs_from_calling_train_as_condition() -> None:
    """if self.train(): 永远为真，eval() 之后照样失活，还把自己与后代都拨回训练模式。"""

    class CallsTrain(MindfulDropout):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(x, self.p) if self.train() else x

    x, right, wrong = _random(4, 50), MindfulDropout(0.4), CallsTrain(0.4)
    for layer in (right, wrong):
        layer.child = nn.Dropout()
        layer.eval()
    assert not torch.equal(_seeded(wrong, x), _seeded(right, x))
    assert (wrong.training, wrong.child.training) == (True, True)
    assert (right.training, right.child.training) == (False, False)


def _weighted(kind: type[ForgetfulAttention], p: float) -> ForgetfulAttention:
    layer = kind(4, p).double()
    for parameter in layer.parameters():
        parameter.data = _random(*parameter.shape)
    return layer


def _module(p: float) -> nn.MultiheadAttention:
    """与 _weighted 同权重的 nn.MultiheadAttention：输出的投影取单位阵。"""
    module = nn.MultiheadAttention(4, 1, dropout=p, batch_first=True).double()
    source = _weighted(MindfulAttention, p).projection
    module.in_proj_weight.data, module.in_proj_bias.data = source.weight.data, source.bias.data
    module.out_proj.weight.data = torch.eye(4).double()
    module.out_proj.bias.data = torch.zeros(4).double()
    return module


def _self_attention(module: nn.MultiheadAttention, x: Tensor) -> Tensor:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        return module(x, x, x)[0]


def test_ForgetfulAttention__matches_training_module_in_both_modes() -> None:
    """不论模式，都与训练模式的 nn.MultiheadAttention、带 dropout_p 的函数相同。"""
    x, module = _random(2, 5, 4), _module(0.3)
    for training in (True, False):
        layer = _weighted(ForgetfulAttention, 0.3).train(training)
        actual = _seeded(layer, x)
        torch.testing.assert_close(actual, _self_attention(module, x))
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(3)
            q, k, v = layer.projection(x).chunk(3, -1)
            expected = F.scaled_dot_product_attention(q, k, v, dropout_p=0.3)
        torch.testing.assert_close(actual, expected)


def test_ForgetfulAttention__is_random_in_evaluation() -> None:
    """错例：eval() 加 no_grad，同一个输入两次的输出还是不同。"""
    first, second = _twice(_weighted(ForgetfulAttention, 0.3).eval(), _random(2, 5, 4))
    assert (first - second).abs().max() > 0.1


def test_ForgetfulAttention__rejects_bad_input() -> None:
    """p 越界、特征维数不对时，两个类都报错。"""
    for kind in (ForgetfulAttention, MindfulAttention):
        with pytest.raises(ValueError, match="p 必须在"):
            kind(4, 1.5)
        with pytest.raises(ValueError, match="x 的形状"):
            kind(4, 0.5)(torch.ones(2, 5, 3))


def test_MindfulAttention__matches_module_in_both_modes() -> None:
    """训练与评估都与同权重、同模式的 nn.MultiheadAttention 相同。"""
    x, module, layer = _random(2, 5, 4), _module(0.3), _weighted(MindfulAttention, 0.3)
    for training in (True, False):
        actual = _seeded(layer.train(training), x)
        torch.testing.assert_close(actual, _self_attention(module.train(training), x))


def test_MindfulAttention__is_deterministic_in_evaluation() -> None:
    """改好的：评估时两次相同，与 p = 0 相同；训练时不同。"""
    x, layer = _random(2, 5, 4), _weighted(MindfulAttention, 0.3)
    calm = copy.deepcopy(layer).eval()
    first, second = _twice(calm, x)
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(first, _seeded(_weighted(ForgetfulAttention, 0.0), x))
    first, second = _twice(layer, x)
    assert (first - second).abs().max() > 0.1


def test_MindfulAttention__rejects_bad_input() -> None:
    """p 越界、特征维数不对时报错。"""
    with pytest.raises(ValueError, match="p 必须在"):
        MindfulAttention(4, -0.5)
    with pytest.raises(ValueError, match="x 的形状"):
        MindfulAttention(4, 0.5)(torch.ones(5))
