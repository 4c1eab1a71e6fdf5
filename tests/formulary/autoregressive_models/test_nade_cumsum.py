"""NADE 的前缀和写法与另两种算法一致。"""

import math

import pytest
import torch

from formulary.autoregressive_models.nade import nade_logits_naive
from formulary.autoregressive_models.nade_cumsum import nade_logits_cumsum


def _inputs(rows: int, n: int, d: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(61)
    shapes = ((d, n), (d,), (n, d), (n,))
    x = (torch.rand(rows, n, generator=generator) < 0.4).double()
    return [x, *(torch.randn(*s, dtype=torch.float64, generator=generator) for s in shapes)]


def test_nade_logits_cumsum__matches_scalar_loop() -> None:
    """等于逐个标量照定义累加出的对数几率。"""
    inputs = _inputs(3, 6, 4)
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
    torch.testing.assert_close(nade_logits_cumsum(*inputs), expected)


def test_nade_logits_cumsum__matches_naive() -> None:
    """值与对各参数的梯度都和 nade_logits_naive 相同，n = 1 时也如此。"""
    for inputs in (_inputs(5, 9, 4), _inputs(2, 1, 3)):
        for parameter in inputs[1:]:
            parameter.requires_grad_()
        fast, slow = nade_logits_cumsum(*inputs), nade_logits_naive(*inputs)
        torch.testing.assert_close(fast, slow)
        gradients = [
            torch.autograd.grad(out.square().sum(), inputs[1:], materialize_grads=True)
            for out in (fast, slow)
        ]
        torch.testing.assert_close(gradients[0], gradients[1])


def test_nade_logits_cumsum__equals_worked_example() -> None:
    """d = 1，W = (2, 9)，c = −1，x = (1, 1)：ℓ = (σ(−1), σ(1))。"""
    ones = torch.ones(1, 2).double()
    actual = nade_logits_cumsum(
        ones, torch.tensor([[2.0, 9.0]]).double(), -ones[0, :1], ones.T, 0 * ones[0]
    )
    expected = torch.tensor([[1 / (1 + math.e), math.e / (1 + math.e)]], dtype=torch.float64)
    torch.testing.assert_close(actual, expected)


def test_nade_logits_cumsum__rejects_bad_shapes() -> None:
    """weight 转置了时报错并说出参数名。"""
    x, weight, bias, output_weight, output_bias = _inputs(2, 4, 3)
    with pytest.raises(ValueError, match="weight 的形状"):
        nade_logits_cumsum(x, weight.T, bias, output_weight, output_bias)
