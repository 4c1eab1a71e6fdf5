"""不带运行统计的批归一化、被解冻的主干，与改好的版本的检验。"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from formulary.nn_and_functional.state import state_entries
from formulary.nn_and_functional.statistics_traps import (
    FrozenBackbone,
    StatelessBatchNorm,
    ThawingBackbone,
    TrackingBatchNorm,
)


def _random(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def _affine(module: nn.Module) -> nn.Module:
    """缩放与平移取非默认的值。"""
    module.double()
    module.weight.data, module.bias.data = _random(3) + 2, _random(3)
    return module


def test_StatelessBatchNorm__matches_module_without_statistics() -> None:
    """两种模式下都与不记运行统计的 nn.BatchNorm1d、F.batch_norm(training=True) 相同。"""
    x, ours = _random(5, 3), _affine(StatelessBatchNorm(3))
    theirs = _affine(nn.BatchNorm1d(3, track_running_stats=False))
    for training in (True, False):
        actual = ours.train(training)(x)
        torch.testing.assert_close(actual, theirs.train(training)(x))
        expected = F.batch_norm(x, None, None, ours.weight, ours.bias, training=True)
        torch.testing.assert_close(actual, expected)


def test_StatelessBatchNorm__matches_python_loops() -> None:
    """评估模式下逐列用这一批自己的均值与（有偏）方差。"""
    x, layer = _random(5, 3), _affine(StatelessBatchNorm(3)).eval()
    expected = torch.empty(5, 3, dtype=torch.float64)
    for c in range(3):
        column = x[:, c].tolist()
        mean = sum(column) / 5
        var = sum((value - mean) ** 2 for value in column) / 5
        for b in range(5):
            scale = layer.weight[c].item() / (var + 1e-5) ** 0.5
            expected[b, c] = scale * (column[b] - mean) + layer.bias[c].item()
    torch.testing.assert_close(layer(x).detach(), expected)


def test_StatelessBatchNorm__differs_from_itself_among_other_companions() -> None:
    """错例：评估时同一个样本的输出随同批的其他样本而变，一批只有一个样本就报错。"""
    layer, x = _affine(StatelessBatchNorm(3)).eval(), _random(5, 3)
    alone = layer(x[:2])[0]
    assert (layer(x)[0] - alone).abs().max() > 0.1
    with pytest.raises(ValueError, match="more than 1 value per channel when training"):
        layer(x[:1])


def test_StatelessBatchNorm__equals_worked_example() -> None:
    """文中手算：样本 1 与 3 同批时输出 −1，与 5 同批时也是 −1，与 −3 同批时是 1。"""
    layer = StatelessBatchNorm(1).double().eval()
    outputs = []
    for companion in (3.0, 5.0, -3.0):
        y = layer(torch.tensor([[1.0], [companion]], dtype=torch.float64))
        outputs.append(round(y[0].item(), 3))
    assert outputs == [-1.0, -1.0, 1.0]


def test_StatelessBatchNorm__is_without_statistics_in_state_dict() -> None:
    """错例：state_dict 里只有缩放与平移。"""
    assert list(state_entries(StatelessBatchNorm(3))) == ["weight", "bias"]


def test_StatelessBatchNorm__rejects_bad_input() -> None:
    """特征维数不对、d 不是正整数时报错，两个类都是。"""
    for kind in (StatelessBatchNorm, TrackingBatchNorm):
        with pytest.raises(ValueError, match="d 必须"):
            kind(0)
        with pytest.raises(ValueError, match="x 的形状"):
            kind(3)(torch.ones(2, 4))


def test_TrackingBatchNorm__matches_module() -> None:
    """训练三批再评估，输出与运行统计都与 nn.BatchNorm1d 相同，与 F.batch_norm 用同样的统计相同。"""
    ours, theirs = _affine(TrackingBatchNorm(3)), _affine(nn.BatchNorm1d(3))
    for size in (4, 5, 6):
        x = 2 + 3 * _random(size, 3)
        torch.testing.assert_close(ours(x), theirs(x))
    x = _random(7, 3)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    mean, var = ours.running_mean, ours.running_var
    torch.testing.assert_close(ours(x), F.batch_norm(x, mean, var, ours.weight, ours.bias))


def test_TrackingBatchNorm__depends_only_on_own_sample_in_evaluation() -> None:
    """改好的：评估时一个样本的输出与同批的其他样本无关，一批一个样本也行。"""
    layer, x = _affine(TrackingBatchNorm(3)), 2 + _random(5, 3)
    layer(x)
    layer.eval()
    torch.testing.assert_close(layer(x[:1]), layer(x)[:1])
    expected = ["weight", "bias", "running_mean", "running_var"]
    assert list(state_entries(layer)) == expected


def test_TrackingBatchNorm__differs_from_switching_on_grad_mode() -> None:
    """按 torch.is_grad_enabled() 切换的写法：eval() 而没有 no_grad 时，仍用这一批的统计。"""

    class SwitchedOnGrad(TrackingBatchNorm):
        def forward(self, x: Tensor) -> Tensor:
            mean, var = self.running_mean, self.running_var
            training = torch.is_grad_enabled()
            return F.batch_norm(x, mean, var, self.weight, self.bias, training=training)

    x = 2 + _random(5, 3)
    right, wrong = _affine(TrackingBatchNorm(3)).eval(), _affine(SwitchedOnGrad(3)).eval()
    with torch.no_grad():
        torch.testing.assert_close(wrong(x), right(x))
    assert (wrong(x) - right(x)).abs().max() > 0.1


def test_TrackingBatchNorm__rejects_bad_input() -> None:
    """输入是整数、维数不对时报错。"""
    layer = TrackingBatchNorm(3)
    with pytest.raises(ValueError, match="x 必须是实浮点张量"):
        layer(torch.ones(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="x 的形状"):
        layer(torch.ones(3))


def _parts() -> tuple[nn.Module, nn.Module]:
    backbone = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).double()
    return backbone, nn.Linear(4, 2).double()


def test_ThawingBackbone__matches_sequential() -> None:
    """前向就是主干接头；train() 之后与整体处于训练模式的 nn.Sequential 相同。"""
    backbone, head = _parts()
    model, x = ThawingBackbone(backbone, head), _random(5, 3)
    torch.testing.assert_close(model(x), nn.Sequential(backbone, head)(x))
    model.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        actual = model(x)
        torch.manual_seed(0)
        torch.testing.assert_close(actual, nn.Sequential(backbone, head).train()(x))


def test_ThawingBackbone__is_thawed_by_train() -> None:
    """错例：参数虽不要求梯度，train() 之后一次前向就改了主干的运行均值。"""
    backbone, head = _parts()
    model = ThawingBackbone(backbone, head)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    model(_random(5, 3))
    assert (backbone[1].running_mean == 0).all()
    model.train()
    model(_random(5, 3))
    assert backbone.training
    assert (backbone[1].running_mean != 0).all()


def test_ThawingBackbone__rejects_bad_parts() -> None:
    """主干或头不是模块时报错，两个类都是。"""
    for kind in (ThawingBackbone, FrozenBackbone):
        with pytest.raises(ValueError, match=r"backbone 必须是 nn\.Module"):
            kind(F.relu, nn.Linear(2, 2))
        with pytest.raises(ValueError, match=r"head 必须是 nn\.Module"):
            kind(nn.Linear(2, 2), F.relu)


def test_FrozenBackbone__matches_evaluating_backbone() -> None:
    """train() 之后与主干处于评估模式、头处于训练模式的拼接相同。"""
    backbone, head = _parts()
    model, x = FrozenBackbone(backbone, head).train(), _random(5, 3)
    expected = head(backbone.eval()(x))
    torch.testing.assert_close(model(x), expected)


def test_FrozenBackbone__preserves_backbone_statistics() -> None:
    """改好的：train() 之后主干的运行统计不变，头照常切换；返回自己，eval() 也不受影响。"""
    backbone, head = _parts()
    model = FrozenBackbone(backbone, head)
    assert model.train() is model
    model(_random(5, 3))
    assert (backbone.training, head.training, model.training) == (False, True, True)
    assert (backbone[1].running_mean == 0).all()
    model.eval()
    assert (backbone.training, head.training, model.training) == (False, False, False)


def test_FrozenBackbone__rejects_bad_parts() -> None:
    """主干不是模块时报错；是模块就照常切换模式。"""
    with pytest.raises(ValueError, match=r"backbone 必须是 nn\.Module"):
        FrozenBackbone(torch.tanh, nn.Linear(2, 2))
    assert not FrozenBackbone(nn.Tanh(), nn.Linear(2, 2)).train().backbone.training
