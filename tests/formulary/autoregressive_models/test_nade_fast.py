"""NADE 的快算法与朴素写法的值、梯度一致。"""

import math

import pytest
import torch
from torch import Tensor

from formulary.autoregressive_models.nade import nade_logits, nade_logits_naive
from formulary.autoregressive_models.nade_fast import RecomputedNADE, nade_logits_fast


def _inputs(rows: int, n: int, d: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(71)
    shapes = ((rows, n), (d, n), (d,), (n, d), (n,))
    draws = [torch.randn(*s, dtype=torch.float64, generator=generator) for s in shapes]
    return [t.requires_grad_() for t in draws]


def _gradients(function, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    out = function(*inputs)
    mix = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(3))
    return torch.autograd.grad((out * mix).sum(), inputs, materialize_grads=True)


def test_RecomputedNADE__matches_gradcheck() -> None:
    """torch.autograd.gradcheck 用有限差分核对对全部五个输入的梯度，包括 x。"""
    assert torch.autograd.gradcheck(RecomputedNADE.apply, _inputs(3, 5, 4))


def test_RecomputedNADE__matches_naive_gradients() -> None:
    """对全部五个输入的梯度等于自动求导穿过 nade_logits_naive 的梯度。"""
    inputs = _inputs(4, 7, 3)
    torch.testing.assert_close(
        _gradients(RecomputedNADE.apply, inputs), _gradients(nade_logits_naive, inputs)
    )


def test_RecomputedNADE__depends_only_on_earlier_variables() -> None:
    """逐行反传得到的雅可比矩阵严格下三角。"""
    x, *parameters = (t.detach() for t in _inputs(1, 6, 4))
    jacobian = torch.autograd.functional.jacobian(
        lambda row: RecomputedNADE.apply(row, *parameters)[0], x
    )[:, 0]
    assert (jacobian.triu() == 0).all()
    assert (jacobian[torch.ones(6, 6).tril(-1) > 0] != 0).all()


def test_RecomputedNADE__rejects_second_derivative() -> None:
    """不支持二阶导数：再求一次导数时报错，而不是给出错误的数。"""
    inputs = _inputs(2, 3, 2)
    out = RecomputedNADE.apply(*inputs).square().sum()
    (first,) = torch.autograd.grad(out, inputs[1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_nade_logits_fast__matches_readable() -> None:
    """值与梯度都和 nade_logits 相同，n = 1、d = 1 与不连续的参数也如此。"""
    cases = [_inputs(5, 9, 4), _inputs(2, 1, 3), _inputs(3, 4, 1)]
    strided = [t.detach() for t in _inputs(3, 6, 4)]
    strided[1] = strided[1].T.contiguous().T.requires_grad_()
    strided[3] = strided[3].T.contiguous().T.requires_grad_()
    for inputs in [*cases, strided]:
        torch.testing.assert_close(nade_logits_fast(*inputs), nade_logits(*inputs))
        for one in inputs:
            one.requires_grad_()
        torch.testing.assert_close(
            _gradients(nade_logits_fast, inputs), _gradients(nade_logits, inputs)
        )


def test_nade_logits_fast__matches_scalar_loop() -> None:
    """等于逐个标量照定义累加出的对数几率。"""
    inputs = [t.detach() for t in _inputs(3, 6, 4)]
    x, weight, bias, output_weight, output_bias = (t.tolist() for t in inputs)
    rows = []
    for row in x:
        logits = []
        for i in range(6):
            logit = output_bias[i]
            for k in range(4):
                a = bias[k] + sum(weight[k][j] * row[j] for j in range(i))
                logit += output_weight[i][k] / (1 + math.exp(-a))
            logits.append(logit)
        rows.append(logits)
    expected = torch.tensor(rows, dtype=torch.float64)
    torch.testing.assert_close(nade_logits_fast(*inputs), expected)


def test_nade_logits_fast__bounds_recomputation_error() -> None:
    """float32、n = 784 时倒推还原激活，梯度与双精度的相对误差仍小于 1e-4。"""
    generator = torch.Generator().manual_seed(4)
    x = (torch.rand(20, 784, generator=generator) < 0.3).double()
    shapes = ((30, 784), (30,), (784, 30), (784,))
    parameters = [
        (0.2 * torch.randn(*s, dtype=torch.float64, generator=generator)).requires_grad_()
        for s in shapes
    ]
    exact = torch.autograd.grad(nade_logits_fast(x, *parameters).square().sum(), parameters)
    rough = [p.detach().float().requires_grad_() for p in parameters]
    actual = torch.autograd.grad(nade_logits_fast(x.float(), *rough).square().sum(), rough)
    for one, other in zip(actual, exact, strict=True):
        assert (one - other).norm() < 1e-4 * other.norm()


def test_nade_logits_fast__equals_worked_example() -> None:
    """d = 1，W = (2, 9)，c = −1，x = (1, 1)：ℓ = (σ(−1), σ(1))。"""
    ones = torch.ones(1, 2).double()
    actual = nade_logits_fast(
        ones, torch.tensor([[2.0, 9.0]]).double(), -ones[0, :1], ones.T, 0 * ones[0]
    )
    expected = torch.tensor([[1 / (1 + math.e), math.e / (1 + math.e)]], dtype=torch.float64)
    torch.testing.assert_close(actual, expected)


def test_nade_logits_fast__rejects_bad_shapes() -> None:
    """weight 转置了时报错并说出参数名。"""
    x, weight, bias, output_weight, output_bias = _inputs(2, 4, 3)
    with pytest.raises(ValueError, match="weight 的形状"):
        nade_logits_fast(x, weight.T, bias, output_weight, output_bias)
