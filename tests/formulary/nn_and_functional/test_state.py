"""state_dict 的键与参数的计数的检验。"""

import copy

import pytest
import torch
from torch import nn

from formulary.nn_and_functional.state import parameter_count, state_entries


class Mixed(nn.Module):
    """各种登记与没有登记的东西都有一样。"""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 3))
        self.register_parameter("missing", None)
        self.register_buffer("kept", torch.ones(4))
        self.register_buffer("temporary", torch.ones(5), persistent=False)
        self.register_buffer("absent", None)
        self.attribute = nn.Buffer(torch.ones(6))
        self.plain = torch.ones(7)
        self.listed = [nn.Linear(2, 2)]
        self.child = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        self.nothing = None
        self.register_module("empty", None)


def _tied() -> nn.Sequential:
    table, head = nn.Embedding(7, 3), nn.Linear(3, 7, bias=False)
    head.weight = table.weight
    return nn.Sequential(table, head)


@pytest.mark.parametrize(
    "module",
    [
        Mixed(),
        nn.Linear(2, 3, bias=False),
        nn.BatchNorm1d(4),
        nn.TransformerEncoderLayer(4, 2, 8),
        nn.LSTM(2, 3, 2),
        nn.Sequential(),
        _tied(),
    ],
    ids=lambda module: type(module).__name__,
)
def test_state_entries__matches_state_dict(module: nn.Module) -> None:
    """键、次序与 state_dict() 相同，张量与它共用存储。"""
    expected = module.state_dict()
    actual = state_entries(module)
    assert list(actual) == list(expected)
    for key, tensor in actual.items():
        torch.testing.assert_close(tensor.detach(), expected[key])
        assert tensor.data_ptr() == expected[key].data_ptr()


def test_state_entries__equals_worked_example() -> None:
    """文中的例子：普通张量、非持久缓冲区、列表里的模块、值为 None 的登记项都不在里面。"""
    assert list(state_entries(Mixed())) == [
        "weight",
        "kept",
        "attribute",
        "child.0.weight",
        "child.0.bias",
        "child.1.weight",
        "child.1.bias",
        "child.1.running_mean",
        "child.1.running_var",
        "child.1.num_batches_tracked",
    ]


def test_state_entries__equals_parameters_and_persistent_buffers() -> None:
    """键的集合等于 named_parameters 与持久的 named_buffers 的并集。"""
    module = Mixed()
    parameters = {name for name, _ in module.named_parameters()}
    buffers = {name for name, _ in module.named_buffers()}
    assert set(state_entries(module)) == parameters | (buffers - {"temporary"})
    assert "temporary" in buffers


def test_state_entries__differs_from_what_moves() -> None:
    """double() 换掉登记了的全部张量，非持久的缓冲区也在内；普通张量与列表里的模块不动。"""
    module = Mixed().double()
    floating = [t for key, t in state_entries(module).items() if "num_batches" not in key]
    assert {tensor.dtype for tensor in floating} == {torch.float64}
    assert module.temporary.dtype == torch.float64
    assert module.plain.dtype == module.listed[0].weight.dtype == torch.float32


def test_state_entries__differs_from_snapshot() -> None:
    """state_dict() 不是快照：它与模型共用存储，优化器走一步，先前取出的值跟着变。"""
    model = nn.Linear(2, 1)
    alias, snapshot = model.state_dict(), copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    now = state_entries(model)
    assert torch.equal(alias["weight"], now["weight"])
    assert not torch.equal(snapshot["weight"], now["weight"])


def test_state_entries__rejects_non_modules() -> None:
    """不是模块的报错。"""
    with pytest.raises(ValueError, match=r"module 必须是 nn\.Module，得到 list"):
        state_entries([nn.Linear(2, 2)])


def test_state_entries__differs_from_loading_strictly() -> None:
    """键对不上时 load_state_dict 默认报错并列出来；strict=False 则返回它们，装载其余。"""
    model = nn.Linear(2, 1)
    state = {"weight": torch.zeros(1, 2), "scale": torch.ones(1)}
    with pytest.raises(RuntimeError, match=r"Missing key\(s\).*bias"):
        model.load_state_dict(state)
    result = model.load_state_dict(state, strict=False)
    assert (result.missing_keys, result.unexpected_keys) == (["bias"], ["scale"])
    assert (state_entries(model)["weight"] == 0).all()


@pytest.mark.parametrize("module", [Mixed(), _tied(), nn.LSTM(2, 3, 2), nn.ReLU()])
def test_parameter_count__matches_parameters(module: nn.Module) -> None:
    """与 sum(p.numel() for p in module.parameters()) 相同。"""
    assert parameter_count(module) == sum(p.numel() for p in module.parameters())


def test_parameter_count__equals_worked_example() -> None:
    """文中的例子：7×3 的表与输出层共用权重，state_dict 两项共 42 个数，参数只有 21 个。"""
    model = _tied()
    entries = state_entries(model)
    assert list(entries) == ["0.weight", "1.weight"]
    assert sum(entry.numel() for entry in entries.values()) == 42
    assert parameter_count(model) == 21
    assert len(list(model.parameters())) == 1


def test_parameter_count__equals_exercise() -> None:
    """练习：嵌入 100×16、批归一化、共用权重的输出层，state_dict 有 8 项，参数 1732 个。"""
    table, head = nn.Embedding(100, 16), nn.Linear(16, 100)
    head.weight = table.weight
    model = nn.Sequential(table, nn.BatchNorm1d(16), head)
    assert len(state_entries(model)) == 8
    assert parameter_count(model) == 1600 + 16 + 16 + 100 == 1732
    assert len(list(model.parameters())) == 4
    assert sum(entry.numel() for entry in state_entries(model).values()) == 3365


def test_parameter_count__depends_only_on_identity() -> None:
    """只看对象不看数值：把一边的权重换成同值的新参数，共用就断了，参数变成两份。"""
    model = _tied()
    model[1].weight = nn.Parameter(model[0].weight.detach().clone())
    assert parameter_count(model) == 42
    assert parameter_count(copy.deepcopy(_tied())) == 21


def test_parameter_count__rejects_non_modules() -> None:
    """不是模块的报错。"""
    with pytest.raises(ValueError, match=r"module 必须是 nn\.Module"):
        parameter_count(torch.ones(2))
