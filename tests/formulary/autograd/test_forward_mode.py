"""JVP 的另外两种写法的检验。"""

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from formulary.autograd.forward_mode import double_backward_jvp, dual_tensor_jvp


def _normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


WEIGHT = _normal(3, 4, seed=1)
X, TANGENT = _normal(4, seed=2), _normal(4, seed=3)


def _layer(x: Tensor) -> Tensor:
    return (WEIGHT @ x).sin() * x[:3]


def _closed_form() -> Tensor:
    """逐个元素写出 sin(Wx)_i x_i 的方向导数。"""
    result = []
    for i in range(3):
        u = sum(WEIGHT[i, j] * X[j] for j in range(4))
        u_tangent = sum(WEIGHT[i, j] * TANGENT[j] for j in range(4))
        result.append(u.cos() * u_tangent * X[i] + u.sin() * TANGENT[i])
    return torch.stack(result)


def test_dual_tensor_jvp__matches_closed_form() -> None:
    """等于逐个元素手写的方向导数。"""
    torch.testing.assert_close(dual_tensor_jvp(_layer, X, TANGENT), _closed_form())


def test_dual_tensor_jvp__matches_torch_func() -> None:
    """与 torch.func.jvp 相同。"""
    _, expected = torch.func.jvp(_layer, (X,), (TANGENT,))
    torch.testing.assert_close(dual_tensor_jvp(_layer, X, TANGENT), expected)


def test_dual_tensor_jvp__limit_constant_function() -> None:
    """输出与 x 无关时切向量是零。"""
    actual = dual_tensor_jvp(lambda _: WEIGHT[:, 0], X, TANGENT)
    torch.testing.assert_close(actual, torch.zeros(3, dtype=torch.float64))


def test_dual_tensor_jvp__is_lost_outside_dual_level() -> None:
    """对偶张量出了 dual_level，切向量就不在了；在 dual_level 之外不能造对偶张量。"""
    kept = []
    dual_tensor_jvp(lambda x: kept.append(x) or _layer(x), X, TANGENT)
    assert forward_ad.unpack_dual(kept[0], level=0).tangent is None
    with pytest.raises(RuntimeError, match="no level exists"):
        forward_ad.make_dual(X, TANGENT)


def test_dual_tensor_jvp__rejects_bad_input() -> None:
    """x 不是浮点向量、切向量对不上、输出不是浮点向量时报错。"""
    with pytest.raises(ValueError, match="x 必须"):
        dual_tensor_jvp(_layer, torch.arange(4), torch.arange(4))
    with pytest.raises(ValueError, match="tangent 的形状"):
        dual_tensor_jvp(_layer, X, TANGENT[:3])
    with pytest.raises(ValueError, match="f 的输出"):
        dual_tensor_jvp(lambda x: x.sum(), X, TANGENT)


def test_double_backward_jvp__matches_closed_form() -> None:
    """等于逐个元素手写的方向导数。"""
    torch.testing.assert_close(double_backward_jvp(_layer, X, TANGENT), _closed_form())


def test_double_backward_jvp__equals_product_for_linear_function() -> None:
    """线性函数 Wx 的结果就是 W 乘切向量，与求导的点无关。"""
    for x in (X, torch.zeros(4, dtype=torch.float64)):
        actual = double_backward_jvp(lambda x: WEIGHT @ x, x, TANGENT)
        torch.testing.assert_close(actual, WEIGHT @ TANGENT)


def test_double_backward_jvp__limit_constant_function() -> None:
    """输出与 x 无关时切向量是零，输出带着别的参数的图也一样。"""
    for constant in (WEIGHT[:, 0], WEIGHT.clone().requires_grad_()[:, 0]):
        actual = double_backward_jvp(lambda _, constant=constant: constant, X, TANGENT)
        torch.testing.assert_close(actual, torch.zeros(3, dtype=torch.float64))


def test_double_backward_jvp__rejects_bad_input() -> None:
    """x 不是浮点向量、切向量对不上、输出不是浮点向量时报错。"""
    with pytest.raises(ValueError, match="x 必须"):
        double_backward_jvp(_layer, torch.arange(4), torch.arange(4))
    with pytest.raises(ValueError, match="tangent 的形状"):
        double_backward_jvp(_layer, X, TANGENT[:3])
    with pytest.raises(ValueError, match="f 的输出"):
        double_backward_jvp(lambda x: x.sum(), X, TANGENT)
