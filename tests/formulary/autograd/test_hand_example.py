"""手算例子的检验。"""

import pytest
import torch

from formulary.autograd.hand_example import adjoint_trace, tangent_trace, two_products

X = torch.tensor([2.0, 3.0, -1.0], dtype=torch.float64)
TANGENT = torch.tensor([1.0, -1.0, 2.0], dtype=torch.float64)
COTANGENT = torch.tensor([1.0, 2.0], dtype=torch.float64)


def test_two_products__equals_worked_example() -> None:
    """(2, 3, −1) 处的值是 (30, 25)。"""
    assert two_products(X).tolist() == [30, 25]


def test_two_products__matches_expanded_polynomial() -> None:
    """展开成多项式逐个算，值相同。"""
    p, q, r = 0.7, -1.3, 2.1
    expected = torch.tensor([p * p * q * q + p * q * r, (p * q + r) ** 2], dtype=torch.float64)
    torch.testing.assert_close(two_products(torch.tensor([p, q, r], dtype=torch.float64)), expected)


def test_two_products__rejects_bad_input() -> None:
    """只接受三个浮点输入。"""
    with pytest.raises(ValueError, match="x 的形状"):
        two_products(torch.ones(4))
    with pytest.raises(ValueError, match="x 必须"):
        two_products(torch.arange(3))


def test_tangent_trace__equals_worked_example() -> None:
    """切向量 (1, −1, 2) 依次推出 1、3、23、30。"""
    trace = tangent_trace(X, TANGENT)
    assert {name: value.item() for name, value in trace.items()} == {
        "a": 1,
        "b": 3,
        "y1": 23,
        "y2": 30,
    }


def test_tangent_trace__matches_torch_func_jvp() -> None:
    """任意的点与方向，最后两行等于 torch.func.jvp，前两行等于中间量的方向导数。"""
    generator = torch.Generator().manual_seed(1)
    x, tangent = torch.randn(2, 3, dtype=torch.float64, generator=generator)
    trace = tangent_trace(x, tangent)
    _, expected = torch.func.jvp(two_products, (x,), (tangent,))
    torch.testing.assert_close(torch.stack((trace["y1"], trace["y2"])), expected)
    _, product = torch.func.jvp(lambda x: x[0] * x[1], (x,), (tangent,))
    torch.testing.assert_close(trace["a"], product)
    torch.testing.assert_close(trace["b"], product + tangent[2])


def test_tangent_trace__equals_exercise() -> None:
    """练习：方向 (0, 1, −1) 给出 ȧ = 2、ḃ = 1、(16, 10)。"""
    trace = tangent_trace(X, torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64))
    assert [value.item() for value in trace.values()] == [2, 1, 16, 10]


def test_tangent_trace__rejects_bad_input() -> None:
    """点与切向量都要长为 3。"""
    with pytest.raises(ValueError, match="x 的形状"):
        tangent_trace(torch.ones(2), torch.ones(3))
    with pytest.raises(ValueError, match="tangent 的形状"):
        tangent_trace(X, COTANGENT)


def test_adjoint_trace__equals_worked_example() -> None:
    """伴随 (1, 2) 依次拉出 26、31、26、62、93。"""
    trace = adjoint_trace(X, COTANGENT)
    assert {name: value.item() for name, value in trace.items()} == {
        "b": 26,
        "a": 31,
        "x3": 26,
        "x2": 62,
        "x1": 93,
    }


def test_adjoint_trace__equals_tangent_pairing() -> None:
    """两边的内积都是 83。"""
    trace = adjoint_trace(X, COTANGENT)
    pulled = torch.stack((trace["x1"], trace["x2"], trace["x3"]))
    pushed = tangent_trace(X, TANGENT)
    assert (pulled @ TANGENT).item() == 83
    assert (COTANGENT[0] * pushed["y1"] + COTANGENT[1] * pushed["y2"]).item() == 83


def test_adjoint_trace__matches_torch_autograd() -> None:
    """任意的点与伴随，输入与中间量的伴随都等于 torch.autograd 给出的。"""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(3, dtype=torch.float64, generator=generator).requires_grad_()
    cotangent = torch.randn(2, dtype=torch.float64, generator=generator)
    a = x[0] * x[1]
    b = a + x[2]
    y = torch.stack((a * b, b * b))
    x_adjoint, a_adjoint, b_adjoint = torch.autograd.grad(y, (x, a, b), cotangent)
    trace = adjoint_trace(x.detach(), cotangent)
    actual = torch.stack((trace["x1"], trace["x2"], trace["x3"]))
    torch.testing.assert_close(actual, x_adjoint)
    torch.testing.assert_close(trace["a"], a_adjoint)
    torch.testing.assert_close(trace["b"], b_adjoint)


def test_adjoint_trace__differs_from_overwriting() -> None:
    """a 用到两次；只留一项而不相加，x1 的伴随就成了 15 或 78，不是 93。"""
    trace = adjoint_trace(X, COTANGENT)
    direct_only, through_b_only = 1 * 5, 26
    assert (direct_only * 3, through_b_only * 3) == (15, 78)
    assert trace["x1"].item() == 15 + 78


def test_adjoint_trace__rejects_bad_input() -> None:
    """点长为 3，伴随长为 2。"""
    with pytest.raises(ValueError, match="x 的形状"):
        adjoint_trace(torch.ones(2), COTANGENT)
    with pytest.raises(ValueError, match="cotangent 的形状"):
        adjoint_trace(X, TANGENT)
