"""钩子的次序与记录的检验。"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from formulary.nn_and_functional.hooks import call_with_hooks, record_outputs


def _random(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def test_call_with_hooks__matches_module() -> None:
    """与登记了同样的钩子的 nn.Linear 相同；各步不可交换，次序错一处就不等。"""
    module, x = nn.Linear(3, 2).double(), _random(4, 3)
    pre_hooks = [lambda x: x + 1, lambda x: None, lambda x: 2 * x]
    hooks = [lambda x, y: y + x.sum(-1, True), lambda x, y: None, lambda x, y: y**2]
    expected = call_with_hooks(module.forward, pre_hooks, hooks, x)
    for hook in pre_hooks:
        module.register_forward_pre_hook(lambda module, inputs, hook=hook: hook(*inputs))
    for hook in hooks:
        module.register_forward_hook(
            lambda module, inputs, output, hook=hook: hook(*inputs, output)
        )
    torch.testing.assert_close(module(x), expected)
    assert (module.forward(x) - expected).abs().max() > 0.1  # 直接调 forward 绕过全部钩子


def test_call_with_hooks__matches_composition() -> None:
    """逐步手写的复合：(2(x + 1))³ + 2(x + 1)。"""
    x = _random(5)
    actual = call_with_hooks(
        lambda x: x**3, [lambda x: x + 1, lambda x: 2 * x], [lambda x, y: y + x], x
    )
    inner = 2 * (x + 1)
    torch.testing.assert_close(actual, inner**3 + inner)


def test_call_with_hooks__equals_worked_example() -> None:
    """文中手算：x = 1，前置加 1，forward 取反，再乘 10，得 -20。"""
    actual = call_with_hooks(torch.neg, [lambda x: x + 1], [lambda x, y: 10 * y], torch.ones(1))
    torch.testing.assert_close(actual, torch.tensor([-20.0]))


def test_call_with_hooks__limit_no_hooks() -> None:
    """没有钩子就是 forward。"""
    x = _random(3)
    torch.testing.assert_close(call_with_hooks(torch.tanh, [], [], x), torch.tanh(x))


def test_call_with_hooks__rejects_what_cannot_be_called() -> None:
    """不可调用的项报错，并说出是哪个参数。"""
    x = torch.ones(1)
    with pytest.raises(ValueError, match="forward 必须可以调用"):
        call_with_hooks(1, [], [], x)
    with pytest.raises(ValueError, match="pre_hooks 必须可以调用"):
        call_with_hooks(torch.neg, [1], [], x)
    with pytest.raises(ValueError, match="hooks 必须可以调用"):
        call_with_hooks(torch.neg, [], [1], x)


class WithFunction(nn.Module):
    """激活用函数的网络，与 Sequential 的版本同权重。"""

    def __init__(self, first: nn.Linear, second: nn.Linear) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x)))


def test_record_outputs__matches_step_by_step() -> None:
    """与把 Sequential 逐层求值得到的中间结果相同，名字是路径。"""
    first, second, x = nn.Linear(3, 5).double(), nn.Linear(5, 2).double(), _random(4, 3)
    model = nn.Sequential(nn.Sequential(first, nn.ReLU()), second)
    outputs = record_outputs(model, x)
    assert list(outputs) == ["0.0", "0.1", "1"]
    torch.testing.assert_close(outputs["0.0"], first(x))
    torch.testing.assert_close(outputs["0.1"], F.relu(first(x)))
    torch.testing.assert_close(outputs["1"], model(x))


def test_record_outputs__differs_from_function_activation() -> None:
    """同样的两层，激活写成函数就没有名字，记不到；输出相同。"""
    first, second, x = nn.Linear(3, 5).double(), nn.Linear(5, 2).double(), _random(4, 3)
    as_modules = record_outputs(nn.Sequential(first, nn.ReLU(), second), x)
    as_function = record_outputs(WithFunction(first, second), x)
    assert (list(as_modules), list(as_function)) == (["0", "1", "2"], ["first", "second"])
    torch.testing.assert_close(as_modules["2"], as_function["second"])


def test_record_outputs__preserves_hooks() -> None:
    """用完即摘，forward 抛出异常也摘；被调用两次的留最后一次。"""
    layer = nn.Linear(3, 3).double()
    model, x = nn.Sequential(layer, layer), _random(4, 3)
    torch.testing.assert_close(record_outputs(model, x)["0"], layer(layer(x)))
    with pytest.raises(RuntimeError):
        record_outputs(model, _random(4, 2))
    assert not layer._forward_hooks


def test_record_outputs__rejects_non_modules() -> None:
    """函数没有钩子可挂。"""
    with pytest.raises(ValueError, match=r"model 必须是 nn\.Module"):
        record_outputs(F.relu, torch.ones(2))
