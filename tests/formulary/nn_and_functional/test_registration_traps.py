"""没有登记的参数与改好的版本的检验。"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from formulary.nn_and_functional.registration_traps import (
    ListedLayers,
    RegisteredLayers,
    RegisteredScale,
    UnregisteredScale,
)


def _random(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator)


@pytest.mark.parametrize("kind", [UnregisteredScale, RegisteredScale])
def test_UnregisteredScale__matches_registered_forward(kind: type[nn.Module]) -> None:
    """前向相同，都等于运行均值为中心、方差为 1、不加 ε 的 F.batch_norm，与 nn.BatchNorm1d 一致。"""
    module, x = kind(3), _random(4, 3)
    module.scale.data, module.center.data = _random(3) + 2, _random(3)
    center, scale = module.center, module.scale
    expected = F.batch_norm(x, center, torch.ones(3), scale, eps=0.0)
    torch.testing.assert_close(module(x), expected)
    theirs = nn.BatchNorm1d(3, eps=0.0).eval()
    theirs.weight.data, theirs.running_mean.data = scale.data, center.data
    torch.testing.assert_close(module(x), theirs(x))


def test_UnregisteredScale__is_unknown_to_its_module() -> None:
    """错例：梯度有，参数与 state_dict 里没有，double() 也换不动，float64 的模型里留着 float32。"""
    module = UnregisteredScale(3)
    module(_random(4, 3)).sum().backward()
    assert module.scale.grad is not None
    assert list(module.parameters()) == []
    assert list(module.state_dict()) == []
    assert module.double().scale.dtype == torch.float32
    with pytest.raises(ValueError, match="empty parameter list"):
        torch.optim.SGD(module.parameters())


def test_UnregisteredScale__rejects_bad_input() -> None:
    """d 不是正整数、特征维数不对时报错，两个类都是。"""
    for kind in (UnregisteredScale, RegisteredScale):
        with pytest.raises(ValueError, match="d 必须"):
            kind(0)
        with pytest.raises(ValueError, match="x 的形状"):
            kind(3)(torch.ones(2, 4))


def test_RegisteredScale__matches_unregistered_forward() -> None:
    """同样的数值，与错例的前向相同。"""
    right, wrong, x = RegisteredScale(3), UnregisteredScale(3), _random(4, 3)
    for module in (right, wrong):
        module.scale.data, module.center.data = _random(3) + 2, _random(3)
    torch.testing.assert_close(right(x), wrong(x))
    torch.testing.assert_close(right(x).detach(), (x - _random(3)) * (_random(3) + 2))


def test_RegisteredScale__is_known_to_its_module() -> None:
    """改好的：参数一个，state_dict 两项，double() 两样都换。"""
    module = RegisteredScale(3)
    assert [name for name, _ in module.named_parameters()] == ["scale"]
    assert list(module.state_dict()) == ["scale", "center"]
    module.double()
    assert module.scale.dtype == module.center.dtype == torch.float64


def test_RegisteredScale__rejects_bad_input() -> None:
    """d 不是正整数、输入是整数时报错。"""
    with pytest.raises(ValueError, match="d 必须"):
        RegisteredScale(-1)
    with pytest.raises(ValueError, match="x 必须是实浮点张量"):
        RegisteredScale(3)(torch.ones(2, 3, dtype=torch.int64))


def test_RegisteredScale__rejects_plain_assignment() -> None:
    """PyTorch 不许把普通张量赋给登记过的参数名；缓冲区的名字可以，换上的仍登记着。"""
    module = RegisteredScale(3)
    message = (
        r"^cannot assign 'torch\.FloatTensor' as parameter 'scale' "
        r"\(torch\.nn\.Parameter or None expected\)$"
    )
    with pytest.raises(TypeError, match=message):
        module.scale = torch.ones(3)
    module.center = torch.full((3,), 2.0)
    torch.testing.assert_close(module.state_dict()["center"], torch.full((3,), 2.0))


def _sequential(layers: list[nn.Linear]) -> nn.Sequential:
    parts: list[nn.Module] = []
    for layer in layers:
        parts += [layer, nn.Tanh()]
    return nn.Sequential(*parts[:-1])


def test_ListedLayers__matches_sequential() -> None:
    """前向与用同样的层搭的 nn.Sequential、用 F.linear 写的循环相同：光看输出看不出错。"""
    module, x = ListedLayers([3, 5, 4, 2]), _random(6, 3)
    torch.testing.assert_close(module(x), _sequential(list(module.layers))(x))
    h = x
    for index, layer in enumerate(module.layers):
        h = F.linear(h if index == 0 else torch.tanh(h), layer.weight, layer.bias)
    torch.testing.assert_close(module(x), h)


def test_ListedLayers__is_without_parameters() -> None:
    """错例：参数、state_dict、子模块都是空的。"""
    module = ListedLayers([3, 5, 2])
    assert list(module.parameters()) == list(module.children()) == []
    assert list(module.state_dict()) == []


def test_ListedLayers__differs_from_registered_head() -> None:
    """错例：列表与模块同在时，优化器只更新登记了的头，列表里的层原地不动。"""
    body, head = ListedLayers([3, 5]), nn.Linear(5, 1)
    model, x = nn.Sequential(body, head), _random(4, 3)
    before = body.layers[0].weight.detach().clone(), head.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(x).sum().backward()
    optimizer.step()
    assert torch.equal(body.layers[0].weight, before[0])
    assert not torch.equal(head.weight, before[1])


def test_ListedLayers__rejects_bad_widths() -> None:
    """宽度不到两个、有零、输入宽度不对时报错。"""
    for kind in (ListedLayers, RegisteredLayers):
        with pytest.raises(ValueError, match="widths 至少要有两个"):
            kind([3])
        with pytest.raises(ValueError, match="widths 的每一项"):
            kind([3, 0])
        with pytest.raises(ValueError, match="x 的形状"):
            kind([3, 2])(torch.ones(4, 5))


def test_RegisteredLayers__matches_sequential() -> None:
    """前向与 nn.Sequential、与用 F.linear 写的循环相同。"""
    module, x = RegisteredLayers([3, 5, 4, 2]), _random(6, 3)
    torch.testing.assert_close(module(x), _sequential(list(module.layers))(x))
    h = x
    for index, layer in enumerate(module.layers):
        h = F.linear(h if index == 0 else torch.tanh(h), layer.weight, layer.bias)
    torch.testing.assert_close(module(x), h)


def test_RegisteredLayers__is_registered() -> None:
    """改好的：[3, 5, 2] 有 3·5 + 5 + 5·2 + 2 = 32 个参数，键带着层号。"""
    module = RegisteredLayers([3, 5, 2])
    assert sum(parameter.numel() for parameter in module.parameters()) == 32
    assert list(module.state_dict())[2:] == ["layers.1.weight", "layers.1.bias"]


def test_RegisteredLayers__rejects_bad_widths() -> None:
    """宽度不到两个时报错。"""
    with pytest.raises(ValueError, match="widths 至少要有两个"):
        RegisteredLayers([])
