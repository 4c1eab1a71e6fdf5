"""模式的传递与评估的检验。"""

import pytest
import torch
from torch import Tensor, nn

from formulary.nn_and_functional.mode import evaluate, set_mode


def _tree() -> nn.Module:
    return nn.Sequential(
        nn.Linear(3, 4), nn.ModuleDict({"a": nn.Dropout(), "b": nn.Sequential(nn.BatchNorm1d(4))})
    )


def _modes(module: nn.Module) -> list[bool]:
    return [part.training for part in module.modules()]


def test_set_mode__matches_train_and_eval() -> None:
    """与 train()、eval() 相同，从任意一种混杂的模式出发都一样。"""
    for training in (True, False):
        ours, theirs = _tree(), _tree()
        ours[1]["b"].training = theirs[1]["b"].training = not training
        set_mode(ours, training)
        theirs.train(training)
        assert _modes(ours) == _modes(theirs) == [training] * 6


def test_set_mode__is_recursive_over_registered_children_only() -> None:
    """放在 Python 列表里的模块走不到，eval() 同样走不到。"""
    module = _tree()
    module.listed = [nn.Dropout()]
    set_mode(module, False)
    assert not any(_modes(module))
    assert module.listed[0].training
    assert module.eval().listed[0].training


def test_set_mode__equals_last_call_wins() -> None:
    """先让子模块 eval()，再对父模块调用，子模块被改回来。"""
    module = _tree()
    module[1].eval()
    set_mode(module, True)
    assert module[1].training


def test_set_mode__rejects_bad_input() -> None:
    """不是模块、不是布尔值时报错；nn.Module.train 也拒绝不是布尔值的。"""
    with pytest.raises(ValueError, match=r"module 必须是 nn\.Module"):
        set_mode([nn.Dropout()], True)
    with pytest.raises(ValueError, match="training 必须是布尔值，得到 1"):
        set_mode(nn.Dropout(), 1)
    with pytest.raises(ValueError, match="boolean"):
        nn.Dropout().train(1)


def test_evaluate__matches_eval_under_no_grad() -> None:
    """与 eval() 加 no_grad 的结果相同。"""
    model, x = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout()), torch.randn(5, 3)
    actual = evaluate(model, x)
    with torch.no_grad():
        expected = model.eval()(x)
    torch.testing.assert_close(actual, expected)
    assert not actual.requires_grad


def test_evaluate__preserves_every_mode() -> None:
    """原来冻结的仍冻结，原来训练的仍训练；forward 抛出异常也恢复。"""
    model = _tree()
    model[0].eval()
    model[1]["b"][0].eval()
    before = _modes(model)
    with pytest.raises(NotImplementedError):  # ModuleDict 没有 forward
        evaluate(model, torch.ones(2, 3))
    assert _modes(model) == before
    assert sorted(set(before)) == [False, True]
    pair = nn.Sequential(nn.Linear(3, 4), nn.Dropout().eval())
    evaluate(pair, torch.ones(2, 3))
    assert _modes(pair) == [True, True, False]


def test_evaluate__equals_identity_for_dropout() -> None:
    """文中的例子：随机失活在其中原样返回，之后模块仍处于训练模式。"""
    layer, x = nn.Dropout(0.5), torch.arange(4.0)
    torch.testing.assert_close(evaluate(layer, x), x)
    assert layer.training


def test_evaluate__differs_from_eval_alone_and_no_grad_alone() -> None:
    """文中的表：eval() 之后照样记计算图、能得到梯度；no_grad 里随机失活照样随机。"""
    model, x = nn.Sequential(nn.Linear(3, 64), nn.Dropout(0.5)), torch.ones(2, 3)
    calm = evaluate(model, x)
    model.eval()
    alone = model(x)
    assert alone.requires_grad
    torch.testing.assert_close(alone.detach(), calm)
    alone.sum().backward()
    assert model[0].weight.grad is not None
    model.train()
    with torch.no_grad():
        noisy = model(x)
    assert not noisy.requires_grad
    assert (noisy == 0).any()


def test_evaluate__differs_from_no_grad_alone_in_statistics() -> None:
    """训练模式下只套 no_grad，批归一化照样更新运行统计；evaluate 不更新。"""
    layer, x = nn.BatchNorm1d(2), 5 + torch.randn(8, 2)
    evaluate(layer, x)
    assert (layer.running_mean == 0).all()
    with torch.no_grad():
        layer(x)
    assert (layer.running_mean > 0.1).all()


def test_evaluate__rejects_non_modules() -> None:
    """函数不是模块，没有模式可切。"""

    def double(x: Tensor) -> Tensor:
        return 2 * x

    with pytest.raises(ValueError, match=r"module 必须是 nn\.Module，得到 function"):
        evaluate(double, torch.ones(2))
