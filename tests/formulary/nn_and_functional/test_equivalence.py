"""模块与函数逐位相等的检验。"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from formulary.nn_and_functional.equivalence import FUNCTIONAL_TWINS, functional_forward


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=_generator(sum(shape)))


def _cases() -> list[tuple[nn.Module, Tensor]]:
    """每种模块一例，设置都取非默认值，张量的各轴长度互不相同。"""
    image = _random(2, 6, 7, 9)
    cases = [
        (nn.Linear(5, 3), _random(4, 5)),
        (nn.Conv2d(6, 4, (3, 2), (2, 1), (1, 2), (1, 2), groups=2), image),
        (nn.Embedding(7, 3, padding_idx=2), torch.tensor([[1, 2, 6], [0, 2, 2]])),
        (nn.LayerNorm((7, 9), eps=0.3), image),
        (nn.GroupNorm(3, 6, eps=0.2), image),
        (nn.BatchNorm1d(5, eps=0.1, momentum=0.3), _random(4, 5)),
        (nn.ReLU(), _random(4, 5)),
        (nn.GELU("tanh"), _random(4, 5)),
        (nn.PReLU(6), image),
        (nn.Softmax(dim=0), _random(4, 5)),
        (nn.MaxPool2d(3, (2, 1), 1, 2, ceil_mode=True), image),
        (nn.AvgPool2d((2, 3), 2, 1, ceil_mode=True, count_include_pad=False), image),
        (nn.Upsample(scale_factor=(2.0, 1.5), mode="bilinear", align_corners=True), image),
        (nn.Dropout(0.3), _random(4, 5)),
    ]
    for module, _ in cases:
        for index, parameter in enumerate(module.double().parameters()):
            parameter.data = _random(*parameter.shape) + 0.1 * index
    return cases


@pytest.mark.parametrize("index", range(len(FUNCTIONAL_TWINS)))
@pytest.mark.parametrize("training", [True, False])
def test_functional_forward__matches_module(index: int, training: bool) -> None:
    """十四种模块在训练与评估模式下，函数的输出与模块逐位相同（随机的用同一个种子）。"""
    module, x = _cases()[index]
    twin, _ = _cases()[index]
    assert type(module) is list(FUNCTIONAL_TWINS)[index]  # 表里的每种模块都有一例
    module.train(training)
    twin.train(training)
    for _ in range(2):  # 第二次才看得出运行统计更新得对不对
        with torch.random.fork_rng():
            torch.manual_seed(1)
            expected = module(x)
            torch.manual_seed(1)
            actual = functional_forward(twin, x)
        torch.testing.assert_close(actual, expected)
        assert torch.equal(actual, expected)


def test_functional_forward__equals_worked_example() -> None:
    """文中手算：(1, 2) 经线性层得 (2, 3.5)，经 PReLU(0.1) 不变，取反后经它得 (-0.2, -0.35)。"""
    layer, x = nn.Linear(2, 2), torch.tensor([1.0, 2.0])
    layer.weight.data = torch.tensor([[3.0, -1.0], [0.5, 2.0]])
    layer.bias.data = torch.tensor([1.0, -1.0])
    activation = nn.PReLU(init=0.1)
    y = functional_forward(layer, x)
    torch.testing.assert_close(y, torch.tensor([2.0, 3.5]))
    torch.testing.assert_close(functional_forward(activation, y), y)
    expected = torch.tensor([-0.2, -0.35])
    torch.testing.assert_close(functional_forward(activation, -y), expected)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (nn.Linear(5, 3), "linear"),
        (nn.ReLU(), "relu"),
        (nn.Dropout(0.3), "dropout"),
        (nn.BatchNorm1d(5), "batch_norm"),
    ],
)
def test_functional_forward__is_what_the_module_calls(module: nn.Module, name: str) -> None:
    """截下模块求值时调用的函数：恰是一次同名的 F 函数，与我们调用的相同。"""

    class Recorder(TorchFunctionMode):
        def __init__(self) -> None:
            super().__init__()
            self.names: list[str] = []

        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function.__name__ in F.__dict__:  # 读属性也会经过这里，不记
                self.names.append(function.__name__)
            return function(*args, **(kwargs or {}))

    x = torch.ones(4, 5)
    with Recorder() as by_module:
        module(x)
    with Recorder() as by_function:
        functional_forward(module, x)
    assert by_module.names == by_function.names == [name]


def test_functional_forward__preserves_batch_counter() -> None:
    """批归一化的函数更新运行均值与方差，却不改 num_batches_tracked；模块三样都更新。"""
    module, twin = nn.BatchNorm1d(3).double(), nn.BatchNorm1d(3).double()
    x = _random(4, 3)
    module(x)
    functional_forward(twin, x)
    torch.testing.assert_close(twin.running_mean, module.running_mean)
    torch.testing.assert_close(twin.running_var, module.running_var)
    assert (int(module.num_batches_tracked), int(twin.num_batches_tracked)) == (1, 0)


def test_functional_forward__differs_from_hooked_call() -> None:
    """模块上的前向钩子对函数不起作用。"""
    module, x = nn.Linear(5, 3).double(), _random(4, 5)
    module.register_forward_hook(lambda module, inputs, output: 2 * output)
    torch.testing.assert_close(module(x), 2 * functional_forward(module, x))


def test_functional_forward__rejects_modules_without_twin() -> None:
    """循环网络、容器、Flatten、Identity、填充模块、子类都没有对应的函数，F 里也没有同名者。"""

    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    without = [nn.LSTM(2, 3), nn.Sequential(), nn.Flatten(), nn.Identity(), nn.ZeroPad2d(1)]
    for module in [*without, Doubled(2, 2)]:
        with pytest.raises(ValueError, match="module 没有对应的函数"):
            functional_forward(module, torch.ones(2, 2))
    for name in ("rnn", "lstm", "gru", "flatten", "identity", "zero_pad2d", "sequential"):
        assert not hasattr(F, name)
    assert hasattr(F, "pad")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), "padding_mode"),
        (nn.Embedding(3, 2, max_norm=1.0), "max_norm"),
        (nn.Embedding(3, 2, scale_grad_by_freq=True), "scale_grad_by_freq"),
        (nn.Embedding(3, 2, sparse=True), "sparse"),
        (nn.BatchNorm1d(2, track_running_stats=False), "track_running_stats"),
        (nn.BatchNorm1d(2, momentum=None), "momentum"),
        (nn.MaxPool2d(2, return_indices=True), "return_indices"),
        (nn.AvgPool2d(2, divisor_override=3), "divisor_override"),
        (nn.Upsample(scale_factor=2, recompute_scale_factor=True), "recompute_scale_factor"),
        (nn.ReLU(inplace=True), "inplace"),
    ],
)
def test_functional_forward__rejects_settings_not_passed_on(module: nn.Module, name: str) -> None:
    """表里的函数没有转交的设置报错，不会悄悄算成另一个结果。"""
    with pytest.raises(ValueError, match=rf"module\.{name} 必须是"):
        functional_forward(module, torch.ones(2, 2))
