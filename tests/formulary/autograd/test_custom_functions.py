"""自定义 Function 的检验。"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.function import once_differentiable
from torch.autograd.gradcheck import GradcheckError

from formulary.autograd.custom_functions import (
    Cube,
    Softplus,
    StashingSoftplus,
    softplus_double_backward,
)


def _x(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def test_Softplus__matches_torch_softplus() -> None:
    """值与梯度都与 torch.nn.functional.softplus 相同。"""
    x = 3 * _x(4, 5).detach()
    x.requires_grad_()
    weight = _x(4, 5, seed=1).detach()
    actual, expected = Softplus.apply(x), nn.functional.softplus(x)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(
        torch.autograd.grad((actual * weight).sum(), x)[0],
        torch.autograd.grad((expected * weight).sum(), x)[0],
    )


def test_Softplus__is_correct_to_second_order() -> None:
    """gradcheck 与 gradgradcheck 都通过。"""
    assert gradcheck(Softplus.apply, _x(3, 2))
    assert gradgradcheck(Softplus.apply, _x(3, 2))


def test_Softplus__limit_of_large_inputs() -> None:
    """x = ±1000 时不溢出，梯度是 0 与 1；直接算 log(1 + e^x) 得到无穷与 NaN。"""
    x = torch.tensor([-1000.0, 1000.0], requires_grad=True)
    y = Softplus.apply(x)
    torch.testing.assert_close(y.detach(), torch.tensor([0.0, 1000.0]))
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], torch.tensor([0.0, 1.0]))
    naive = torch.log(1 + torch.exp(x))
    assert naive[1].isinf()
    assert torch.autograd.grad(naive.sum(), x)[0][1].isnan()


def test_Softplus__equals_value_at_zero() -> None:
    """x = 0：值 log 2，一阶导 1/2，二阶导 1/4，三阶导 0。"""
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    derivative, found = Softplus.apply(x), []
    for _ in range(3):
        found.append(derivative.item())
        (derivative,) = torch.autograd.grad(derivative, x, create_graph=True)
    found.append(derivative.item())
    torch.testing.assert_close(torch.tensor(found), torch.tensor([math.log(2), 0.5, 0.25, 0.0]))


def test_Softplus__differs_from_setup_context_style_under_vmap() -> None:
    """没有 setup_context 的老式写法不能放进 torch.func 的变换，报错说明缺什么。"""
    assert Softplus.apply(_x(3)).shape == (3,)
    with pytest.raises(RuntimeError, match="must override the setup_context staticmethod"):
        torch.func.vmap(Softplus.apply)(_x(3).detach())


def test_Softplus__rejects_integers() -> None:
    """x 不是浮点张量时报错。"""
    with pytest.raises(ValueError, match="x 必须是实浮点张量"):
        Softplus.apply(torch.tensor([1, 2]))


def test_StashingSoftplus__matches_torch_softplus_to_first_order() -> None:
    """值与一阶梯度都对，gradcheck 通过。"""
    x = _x(3, 2)
    actual, expected = StashingSoftplus.apply(x), nn.functional.softplus(x)
    torch.testing.assert_close(actual, expected)
    assert gradcheck(StashingSoftplus.apply, x)


def test_StashingSoftplus__differs_from_softplus_to_second_order() -> None:
    """gradgradcheck 不通过；梯度的 requires_grad 是假，惩罚项里的二阶导数悄悄成了零。"""
    x = _x(4)
    with pytest.raises(GradcheckError, match="Jacobian mismatch"):
        gradgradcheck(StashingSoftplus.apply, x)
    penalties = []
    for function in (Softplus, StashingSoftplus):
        y = function.apply(x * x)  # 前面还有一层，整条链不会因此断开
        (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        penalties.append(torch.autograd.grad(gradient.square().sum(), x)[0])
    assert (penalties[0] - penalties[1]).abs().max() > 0.1
    (gradient,) = torch.autograd.grad(StashingSoftplus.apply(x).sum(), x, create_graph=True)
    assert not gradient.requires_grad


def test_StashingSoftplus__rejects_integers() -> None:
    """x 不是浮点张量时报错。"""
    with pytest.raises(ValueError, match="x 必须是实浮点张量"):
        StashingSoftplus.apply(torch.tensor([1, 2]))


def test_Cube__matches_power() -> None:
    """值、梯度、前向模式与 x**3 相同。"""
    x, tangent = _x(5).detach(), _x(5, seed=1).detach()
    torch.testing.assert_close(Cube.apply(x), x**3)
    actual = torch.func.jvp(Cube.apply, (x,), (tangent,))[1]
    torch.testing.assert_close(actual, torch.func.jvp(lambda x: x**3, (x,), (tangent,))[1])
    torch.testing.assert_close(torch.func.grad(lambda x: Cube.apply(x).sum())(x), 3 * x**2)


def test_Cube__is_correct_in_both_modes() -> None:
    """gradcheck 连前向模式、批量的反向一起查，gradgradcheck 也通过。"""
    x = _x(3)
    assert gradcheck(Cube.apply, x, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(Cube.apply, x)


def test_Cube__equals_vmapped_gradients() -> None:
    """vmap(grad) 在 (1, 2, −3) 处是 3x² = (3, 12, 27)；二阶导 6x = (6, 12, −18)。"""
    x = torch.tensor([1.0, 2.0, -3.0])
    first = torch.func.vmap(torch.func.grad(Cube.apply))(x)
    second = torch.func.vmap(torch.func.grad(torch.func.grad(Cube.apply)))(x)
    torch.testing.assert_close(first, torch.tensor([3.0, 12.0, 27.0]))
    torch.testing.assert_close(second, torch.tensor([6.0, 12.0, -18.0]))


def test_Cube__rejects_integers() -> None:
    """x 不是浮点张量时报错。"""
    with pytest.raises(ValueError, match="x 必须是实浮点张量"):
        Cube.apply(torch.tensor([1, 2]))


def test_softplus_double_backward__matches_autograd() -> None:
    """等于让 PyTorch 对自带的 softplus 反向两次。"""
    x, adjoint = _x(6), _x(6, seed=1)
    u = _x(6, seed=2).detach()
    y = nn.functional.softplus(x)
    (first,) = torch.autograd.grad(y, x, adjoint, create_graph=True)
    expected = torch.autograd.grad(first, (x, adjoint), u)
    actual = softplus_double_backward(x.detach(), adjoint.detach(), u)
    torch.testing.assert_close(actual, expected)
    (first,) = torch.autograd.grad(Softplus.apply(x), x, adjoint, create_graph=True)
    torch.testing.assert_close(torch.autograd.grad(first, (x, adjoint), u), expected)


def test_softplus_double_backward__equals_value_at_log_three() -> None:
    """x = log 3，σ = 3/4：ȳ = 2、u = 4 时得 4·2·3/16 = 1.5 与 4·3/4 = 3。"""
    x = torch.tensor([math.log(3)], dtype=torch.float64)
    actual = softplus_double_backward(x, torch.full_like(x, 2), torch.full_like(x, 4))
    torch.testing.assert_close(actual, (torch.full_like(x, 1.5), torch.full_like(x, 3)))


def test_softplus_double_backward__rejects_bad_shapes() -> None:
    """三者形状不同时报错。"""
    one, two = torch.ones(1), torch.ones(2)
    for arguments, name in (((two, one, two), "adjoint"), ((two, two, one), "u ")):
        with pytest.raises(ValueError, match=name):
            softplus_double_backward(*arguments)


def test_StashingSoftplus__equals_value_at_zero() -> None:
    """x = t²、t = 1：y 对 t 的二阶导应是 2σ + 4t²σ(1 − σ)，这里少了后一项。"""
    t = torch.ones(1, dtype=torch.float64, requires_grad=True)
    sigma = 1 / (1 + math.exp(-1))
    expected = {Softplus: 2 * sigma + 4 * sigma * (1 - sigma), StashingSoftplus: 2 * sigma}
    for function, value in expected.items():
        (first,) = torch.autograd.grad(function.apply(t * t), t, create_graph=True)
        (second,) = torch.autograd.grad(first, t)
        torch.testing.assert_close(second, torch.full_like(second, value))


def test_StashingSoftplus__differs_from_repairs_by_saving() -> None:
    """改用 save_for_backward 存 σ 也不行；once_differentiable 也不总是报错。"""

    class Saving(StashingSoftplus):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(torch.sigmoid(x))
            return nn.functional.softplus(x)

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * ctx.saved_tensors[0]

    class Once(Saving):
        backward = staticmethod(once_differentiable(Saving.backward))

    x = _x(3)
    for function in (StashingSoftplus, Saving, Once):
        (gradient,) = torch.autograd.grad(function.apply(x).sum(), x, create_graph=True)
        assert not gradient.requires_grad

    def second(function: type[torch.autograd.Function]) -> Tensor:
        loss = function.apply(x * x).square().sum()
        (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
        return gradient.sum()

    with pytest.raises(RuntimeError, match="once_differentiable"):
        second(Once).backward()
    wrong, right = (torch.autograd.grad(second(f), x)[0] for f in (Once, Softplus))
    assert (wrong - right).abs().max() > 0.1  # 换成 autograd.grad 就不报错，值是错的
