"""梯度检查与 torch.autograd.gradcheck 的对照。"""

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from formulary.autograd.difference_errors import central_difference_error, optimal_central_step
from formulary.autograd.gradient_check import gradient_check


def _normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


WEIGHT = _normal(3, 4, seed=1)
X = _normal(4, seed=2)


class Scaled(torch.autograd.Function):
    """前向是 sin，反向故意乘上一个系数。"""

    factor = 1.0

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return Scaled.factor * cotangent * x.cos()


def _torch_verdict(f, x: Tensor, **options: float) -> bool:
    return gradcheck(f, (x.clone().requires_grad_(),), raise_exception=False, **options)


def test_gradient_check__matches_torch_on_right_functions() -> None:
    """对的反向，两家都放行。"""
    functions = [
        torch.sin,
        lambda x: torch.tanh(WEIGHT @ x),
        lambda x: torch.softmax(x, 0),
        lambda x: (x * x).sum().reshape(1),
    ]
    for f in functions:
        assert gradient_check(f, X)
        assert _torch_verdict(f, X)


def test_gradient_check__matches_torch_on_wrong_functions() -> None:
    """错的反向（漏了一条路径、符号反了、少乘），两家都拦下。"""

    def flipped(x: Tensor) -> Tensor:
        return x.sin().detach() * 2 - x.sin()

    for f in (lambda x: x * x.detach(), flipped, lambda x: (WEIGHT @ x) * x[:3].exp().detach()):
        assert not gradient_check(f, X)
        assert not _torch_verdict(f, X)


def test_gradient_check__matches_torch_around_tolerance() -> None:
    """把反向乘上接近 1 的系数，容差内外各取几个，判断始终与 torch 相同，两种判断都出现。"""
    x = torch.tensor([0.3, 1.0, -0.7], dtype=torch.float64)
    verdicts = []
    for offset in (0.0, 5e-4, 9.9e-4, 1.004e-3, 1.02e-3, 2e-3, -9.9e-4, -1.02e-3):
        Scaled.factor = 1 + offset
        verdicts.append(gradient_check(Scaled.apply, x))
        assert verdicts[-1] == _torch_verdict(Scaled.apply, x)
    assert verdicts == [True, True, True, True, False, False, True, False]
    Scaled.factor = 1.0


def test_gradient_check__matches_torch_with_other_tolerances() -> None:
    """换掉步长与两个容差，判断仍与 torch 相同。"""
    x = torch.tensor([0.3, 1.0, -0.7], dtype=torch.float64)
    Scaled.factor = 1.01
    verdicts = []
    for options in (
        {"rtol": 0.02},
        {"atol": 0.02},
        {"atol": 0.007},
        {"atol": 0.0, "rtol": 0.011},
        {"atol": 0.0, "rtol": 0.009},
        {"eps": 1e-1},
        {"eps": 0.3, "rtol": 0.02},
        {"eps": 0.3, "rtol": 0.03},
    ):
        verdicts.append(gradient_check(Scaled.apply, x, **options))
        assert verdicts[-1] == _torch_verdict(Scaled.apply, x, **options)
    Scaled.factor = 1.0
    assert {True, False} == set(verdicts)


def test_gradient_check__depends_only_on_numerical_side_for_relative_tolerance() -> None:
    """相对容差乘的是差分一侧：差分 1、反向 1.5，rtol = 0.4 时不放行，而 0.5/1.5 小于 0.4。"""

    class Biased(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx, cotangent: Tensor) -> Tensor:
            return 1.5 * cotangent

    for rtol, verdict in ((0.4, False), (0.6, True)):
        assert gradient_check(Biased.apply, X, atol=0.0, rtol=rtol) is verdict
        assert _torch_verdict(Biased.apply, X, atol=0.0, rtol=rtol) is verdict


def test_gradient_check__differs_from_float32() -> None:
    """同一个 sin，float64 通过，float32 两家都不通过，torch 还给出警告。"""
    x = torch.tensor([1.0, 2.0], dtype=torch.float64)
    assert gradient_check(torch.sin, x)
    assert not gradient_check(torch.sin, x.float())
    with pytest.warns(UserWarning, match="not a double precision floating point"):
        assert not _torch_verdict(torch.sin, x.float())
    predicted = torch.finfo(torch.float32).eps * math.sin(1) / 1e-6
    assert f"{predicted:.2f}" == "0.10"
    assert f"{1e-5 + 1e-3 * math.cos(1):.1e}" == "5.5e-04"


def test_gradient_check__is_false_at_kink() -> None:
    """relu 在 0 处：中心差分得 1/2，反向得 0，两家都不通过；离开 0 就通过。"""
    for x, verdict in ((0.0, False), (0.5, True)):
        point = torch.tensor([x, -1.0], dtype=torch.float64)
        assert gradient_check(torch.relu, point) is verdict
        assert _torch_verdict(torch.relu, point) is verdict


def test_gradient_check__is_true_for_wrong_rule_at_lucky_point() -> None:
    """只查一个点：反向漏了 x < 0 一支的函数，在全正的点上通过，在有负数的点上不通过。"""

    def leaky(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, (0.1 * x).detach())

    lucky, unlucky = X.abs(), -X.abs()
    assert gradient_check(leaky, lucky)
    assert not gradient_check(leaky, unlucky)
    assert _torch_verdict(leaky, lucky)
    assert not _torch_verdict(leaky, unlucky)


def test_gradient_check__is_false_for_nan_and_random_functions() -> None:
    """含 NaN 的、每次结果不同的函数都不通过。"""
    assert not gradient_check(lambda x: (x - 10).sqrt(), X)
    generator = torch.Generator().manual_seed(0)

    def dropped(x: Tensor) -> Tensor:
        return x * torch.rand(4, dtype=torch.float64, generator=generator)

    assert not gradient_check(dropped, X)
    assert not _torch_verdict(dropped, X)


def test_gradient_check__is_misled_by_large_inputs() -> None:
    """x = 1e11 时步长 1e-6 小于浮点数的间隔，x ± h 就是 x，恒等函数也不通过；加大步长就好了。"""
    x = torch.tensor([1e11], dtype=torch.float64)

    def identity(x: Tensor) -> Tensor:
        return x * 1

    assert not gradient_check(identity, x)
    assert not _torch_verdict(identity, x)
    assert gradient_check(identity, x, eps=1.0)
    assert _torch_verdict(identity, x, eps=1.0)


def test_gradient_check__differs_from_expanded_input() -> None:
    """输入由 expand 得来时，两个下标同一块内存，torch 的 gradcheck 报错；复制一份就通过。"""
    base = torch.tensor([0.5], dtype=torch.float64)
    shared = base.expand(2).requires_grad_()
    with pytest.raises(RuntimeError, match="dimension with stride 0"):
        gradcheck(torch.sin, (shared,))
    assert gradient_check(torch.sin, shared.detach())


def test_gradient_check__equals_exercise() -> None:
    """练习：float32 只要把步长放大到 8e-3，sin 在 1 与 2 处就通过；只放宽容差不行，两家都是。"""
    x = torch.tensor([1.0, 2.0])
    epsilon = torch.finfo(torch.float32).eps
    step = optimal_central_step(math.sin(1), math.cos(1), epsilon)
    truncation, rounding = central_difference_error(step, math.sin(1), math.cos(1), epsilon)
    assert f"{step:.1e}" == "8.2e-03"
    assert f"{truncation + rounding:.1e}" == "1.8e-05"
    assert f"{epsilon / 8e-3:.1e}" == "1.5e-05"
    for options, verdict in (({"eps": 8e-3}, True), ({"atol": 1e-2}, False)):
        assert gradient_check(torch.sin, x, **options) is verdict
        with pytest.warns(UserWarning, match="not a double precision floating point"):
            assert _torch_verdict(torch.sin, x, **options) is verdict


def test_gradient_check__rejects_bad_input() -> None:
    """x 或输出不是浮点向量、步长不是正数、容差为负时报错。"""
    with pytest.raises(ValueError, match="x 的形状"):
        gradient_check(torch.sin, WEIGHT)
    with pytest.raises(ValueError, match="f 的输出"):
        gradient_check(torch.sum, X)
    with pytest.raises(ValueError, match="eps 必须"):
        gradient_check(torch.sin, X, eps=0.0)
    with pytest.raises(ValueError, match="atol 必须非负"):
        gradient_check(torch.sin, X, atol=-1e-5)
    with pytest.raises(ValueError, match="rtol 必须非负"):
        gradient_check(torch.sin, X, rtol=float("nan"))
