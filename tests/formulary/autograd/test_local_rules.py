"""逐元素函数与线性层的局部规则的检验。"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from formulary.autograd.local_rules import (
    elementwise_derivatives,
    linear_vjp,
    linear_vjp_by_index,
    require_linear,
)

FUNCTIONS = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": lambda x: F.softplus(x, threshold=1e9),
    "relu": torch.relu,
}


def _normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def test_elementwise_derivatives__matches_torch_autograd() -> None:
    """四个函数的导数都等于 torch.autograd 给出的，二维的张量也行。"""
    x = 3 * _normal(4, 5)
    for name, actual in elementwise_derivatives(x).items():
        leaf = x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(FUNCTIONS[name](leaf).sum(), leaf)
        torch.testing.assert_close(actual, expected)


def test_elementwise_derivatives__matches_central_difference() -> None:
    """四个函数的导数都等于中心差分。"""
    x, h = _normal(9, seed=1), 1e-5
    assert x.abs().min() > h
    for name, actual in elementwise_derivatives(x).items():
        expected = (FUNCTIONS[name](x + h) - FUNCTIONS[name](x - h)) / (2 * h)
        # 中心差分本身有约 1e-11 的误差
        torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-9)


def test_elementwise_derivatives__equals_hand_values() -> None:
    """x = log 3：σ = 3/4，σ' = 3/16，tanh = 4/5，tanh' = 9/25。"""
    values = elementwise_derivatives(torch.tensor(math.log(3), dtype=torch.float64))
    expected = {"sigmoid": 3 / 16, "tanh": 9 / 25, "softplus": 3 / 4, "relu": 1.0}
    assert values.keys() == expected.keys()
    for name, value in values.items():
        torch.testing.assert_close(value.item(), expected[name])
    assert elementwise_derivatives(torch.zeros(1))["relu"].item() == 0


def test_elementwise_derivatives__differs_from_difference_form_when_saturated() -> None:
    """float32，x = 20：torch 的 sigmoid 与 tanh 反向给出 0，改写的式子给出 2.1e-9 与 1.7e-17。"""
    x = torch.tensor(20.0)
    exact = {
        "sigmoid": 1 / (2 + math.exp(20) + math.exp(-20)),
        "tanh": 4 / (2 + math.exp(40) + math.exp(-40)),
    }
    for name, value in exact.items():
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(FUNCTIONS[name](leaf), leaf)
        assert gradient.item() == 0
        actual = elementwise_derivatives(x)[name].item()
        assert abs(actual / value - 1) < 1e-5
    assert [f"{value:.1e}" for value in exact.values()] == ["2.1e-09", "1.7e-17"]


def test_elementwise_derivatives__rejects_integers() -> None:
    """整数张量没有导数。"""
    with pytest.raises(ValueError, match="x 必须"):
        elementwise_derivatives(torch.arange(3))


def _layer() -> tuple[Tensor, Tensor, Tensor]:
    return _normal(3, 4, seed=1), _normal(5, 4, seed=2), _normal(3, 5, seed=3)


def test_linear_vjp__matches_torch_autograd() -> None:
    """三个梯度等于对 F.linear 求导的结果。"""
    x, weight, cotangent = _layer()
    leaves = [t.clone().requires_grad_() for t in (x, weight, torch.zeros(5).double())]
    expected = torch.autograd.grad(F.linear(*leaves), leaves, cotangent)
    for actual, value in zip(linear_vjp(x, weight, cotangent), expected, strict=True):
        torch.testing.assert_close(actual, value)


def test_linear_vjp__matches_linear_vjp_by_index() -> None:
    """矩阵乘法的写法与逐下标求和的写法相同。"""
    for actual, expected in zip(linear_vjp(*_layer()), linear_vjp_by_index(*_layer()), strict=True):
        torch.testing.assert_close(actual, expected)


def test_linear_vjp__equals_worked_example() -> None:
    """文中的例子：两个样本、两进两出。"""
    x = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    weight = torch.tensor([[1.0, 0.0], [2.0, 5.0]])
    cotangent = torch.tensor([[1.0, 0.0], [2.0, -1.0]])
    x_adjoint, weight_adjoint, bias_adjoint = linear_vjp(x, weight, cotangent)
    assert x_adjoint.tolist() == [[1, 0], [0, -5]]
    assert weight_adjoint.tolist() == [[7, 0], [-3, 1]]
    assert bias_adjoint.tolist() == [3, -1]


def test_linear_vjp__differs_from_transposed_product() -> None:
    """方阵时把转置写反不会报形状错，数值却错。"""
    x, weight, cotangent = _normal(3, 3, seed=1), _normal(3, 3, seed=2), _normal(3, 3, seed=3)
    x_adjoint, weight_adjoint, _ = linear_vjp(x, weight, cotangent)
    assert (x_adjoint - cotangent @ weight.T).abs().max() > 0.1
    assert (weight_adjoint - x.T @ cotangent).abs().max() > 0.1


def test_linear_vjp__rejects_bad_input() -> None:
    """三者的形状要互相对得上。"""
    x, weight, cotangent = _layer()
    with pytest.raises(ValueError, match="x 的形状"):
        linear_vjp(x[0], weight, cotangent)
    with pytest.raises(ValueError, match="weight 的形状"):
        linear_vjp(x, weight.T, cotangent)
    with pytest.raises(ValueError, match="cotangent 的形状"):
        linear_vjp(x, weight, cotangent.T)


def test_linear_vjp_by_index__matches_python_loops() -> None:
    """与三重循环逐项累加相同：∂Y_{bo}/∂X_{b'i} 只在 b = b' 时不为零。"""
    x, weight, cotangent = _layer()
    x_adjoint, weight_adjoint = torch.zeros_like(x), torch.zeros_like(weight)
    bias_adjoint = torch.zeros(5, dtype=torch.float64)
    for b in range(3):
        for o in range(5):
            bias_adjoint[o] += cotangent[b, o]
            for i in range(4):
                x_adjoint[b, i] += cotangent[b, o] * weight[o, i]
                weight_adjoint[o, i] += cotangent[b, o] * x[b, i]
    expected = (x_adjoint, weight_adjoint, bias_adjoint)
    for actual, value in zip(linear_vjp_by_index(x, weight, cotangent), expected, strict=True):
        torch.testing.assert_close(actual, value)


def test_linear_vjp_by_index__preserves_shapes() -> None:
    """伴随与本身同形状。"""
    x, weight, cotangent = _layer()
    shapes = [tuple(t.shape) for t in linear_vjp_by_index(x, weight, cotangent)]
    assert shapes == [(3, 4), (5, 4), (5,)]


def test_linear_vjp_by_index__rejects_bad_input() -> None:
    """与 linear_vjp 同样的检查。"""
    x, weight, cotangent = _layer()
    with pytest.raises(ValueError, match="weight 的形状"):
        linear_vjp_by_index(x, weight.T, cotangent)


def test_require_linear__rejects_non_floats() -> None:
    """整数的伴随不行。"""
    x, weight, cotangent = _layer()
    require_linear(x, weight, cotangent)
    with pytest.raises(ValueError, match="cotangent 必须"):
        require_linear(x, weight, cotangent.long())
