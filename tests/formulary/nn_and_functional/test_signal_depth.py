import math

import pytest
import torch
from torch import nn

from formulary.nn_and_functional.signal_depth import (
    layer_second_moment,
    limiting_second_moment,
    measured_second_moments,
    second_moments,
)


def test_layer_second_moment__matches_enumeration_of_signs():
    """权重各取 ±w、偏置取 ±b 的全部组合，ReLU 之后二阶矩的平均与公式一致。"""
    x = torch.tensor([0.3, -1.2, 0.7], dtype=torch.float64)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 4)
    outputs = (0.4 * signs[:, :3] @ x + 0.9 * signs[:, 3]).relu()
    expected = outputs.square().mean().item()
    q = x.square().mean().item()
    torch.testing.assert_close(layer_second_moment(q, 3, 0.16, 0.81), expected)


def test_layer_second_moment__equals_fixed_point_of_kaiming():
    """方差 2/n 而无偏置时，二阶矩不变。"""
    torch.testing.assert_close(layer_second_moment(0.37, 8, 2 / 8), 0.37)


def test_layer_second_moment__rejects_negative_values():
    """负的方差、负的二阶矩与不是正整数的宽度被拒绝。"""
    for arguments in ((-1.0, 2, 0.5, 0.0), (1.0, 2, -0.5, 0.0), (1.0, 2, 0.5, -0.1)):
        with pytest.raises(ValueError, match="不能为负"):
            layer_second_moment(*arguments)
    with pytest.raises(ValueError, match="width"):
        layer_second_moment(1.0, 0, 0.5)


def test_second_moments__matches_closed_forms():
    """Kaiming 恒为 1，Xavier 每层减半，默认初始化是等比数列加常数。"""
    assert second_moments("kaiming", 64, 5) == pytest.approx([1.0] * 5, abs=1e-12)
    assert second_moments("xavier", 64, 5) == pytest.approx([2.0**-k for k in range(1, 6)])
    limit = 1 / (5 * 64)
    expected = [limit + (1 - limit) * 6.0**-k for k in range(1, 6)]
    assert second_moments("default", 64, 5) == pytest.approx(expected, rel=1e-12)


def test_second_moments__equals_printed_values():
    """宽 256、第 20 层：默认 7.81e-4，Xavier 9.5e-7，Kaiming 1。"""
    found = [second_moments(scheme, 256, 20)[-1] for scheme in ("default", "xavier", "kaiming")]
    assert [f"{value:.2e}" for value in found] == ["7.81e-04", "9.54e-07", "1.00e+00"]


def test_second_moments__equals_exercise():
    """宽 256 时，Xavier 到第 10 层、默认初始化到第 5 层，二阶矩第一次低于 0.001。"""
    for scheme, layer in (("xavier", 10), ("default", 5)):
        low = [value < 0.001 for value in second_moments(scheme, 256, layer)]
        assert low == [False] * (layer - 1) + [True]


def test_second_moments__rejects_unknown_schemes():
    """不认识的方案与不是正整数的层数被拒绝。"""
    with pytest.raises(ValueError, match="kaiming、xavier、default"):
        second_moments("he", 4, 2)
    with pytest.raises(ValueError, match="depth"):
        second_moments("xavier", 4, 0)


def test_limiting_second_moment__matches_long_recursion():
    """与递推 60 层之后的值一致。"""
    for width in (3, 256):
        torch.testing.assert_close(
            limiting_second_moment(width), second_moments("default", width, 60)[-1]
        )


def test_limiting_second_moment__equals_worked_example():
    """宽 256 时是 1/1280，约 7.8e-4。"""
    torch.testing.assert_close(limiting_second_moment(256), 1 / 1280)


def test_limiting_second_moment__rejects_zero_width():
    """宽度不是正整数时被拒绝。"""
    with pytest.raises(ValueError, match="width"):
        limiting_second_moment(0)


def batch(width: int, seed: int) -> tuple[torch.Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(64, width, dtype=torch.float64, generator=generator)
    return x / x.square().mean().sqrt(), generator


@pytest.mark.parametrize("scheme", ["kaiming", "xavier", "default"])
def test_measured_second_moments__matches_torch_layers(scheme):
    """用同一串随机数初始化真正的 nn.Linear，逐层的二阶矩一致。"""
    width, depth = 48, 4
    x, generator = batch(width, 0)
    ours = measured_second_moments(scheme, x, depth, generator)
    x, generator = batch(width, 0)
    bound = width**-0.5
    expected = []
    for _ in range(depth):
        layer = nn.Linear(width, width).double()
        if scheme == "kaiming":
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
        elif scheme == "xavier":
            nn.init.xavier_uniform_(layer.weight, generator=generator)
        else:
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
        if scheme != "default":
            nn.init.zeros_(layer.bias)
        x = layer(x).relu()
        expected.append(x.square().mean().detach())
    torch.testing.assert_close(ours, torch.stack(expected))


@pytest.mark.parametrize("scheme", ["kaiming", "xavier", "default"])
def test_measured_second_moments__bounds_theory(scheme):
    """宽 256 的网络里，20 层的实测与递推相差不到一倍。"""
    x, generator = batch(256, 0)
    measured = measured_second_moments(scheme, x, 20, generator).tolist()
    for found, theory in zip(measured, second_moments(scheme, 256, 20), strict=True):
        assert abs(math.log(found / theory)) < math.log(2)


def test_measured_second_moments__limit_independent_of_input():
    """默认初始化穿过 20 层，换成全零的输入，二阶矩也相同：停住的部分全来自偏置。"""
    x, generator = batch(256, 0)
    state = generator.get_state()
    signal = measured_second_moments("default", x, 20, generator)
    generator.set_state(state)
    silence = measured_second_moments("default", torch.zeros_like(x), 20, generator)
    assert signal[0] > 10 * silence[0]
    # 两个输入之差每层约缩到六分之一，20 层剩 6 的 −20 次方，约 3e-16，其平方根是 2e-8
    torch.testing.assert_close(signal[-1], silence[-1], rtol=1e-5, atol=0)


def test_measured_second_moments__rejects_unknown_schemes():
    """不认识的方案与不是正整数的层数被拒绝。"""
    x, generator = batch(4, 0)
    with pytest.raises(ValueError, match="scheme"):
        measured_second_moments("he", x, 2, generator)
    with pytest.raises(ValueError, match="depth"):
        measured_second_moments("xavier", x, 0, generator)
