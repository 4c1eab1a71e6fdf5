"""Softmax、logsumexp 与交叉熵的局部规则的检验。"""

import math

import pytest
import scipy.special
import torch
import torch.nn.functional as F
from torch import Tensor

from formulary.autograd.softmax_rules import (
    cross_entropy_gradient,
    logsumexp_gradient,
    softmax_jacobian,
    softmax_vjp,
)

EXAMPLE = torch.tensor([0.0, math.log(2), math.log(5)], dtype=torch.float64)  # s = (1, 2, 5)/8


def _normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def test_logsumexp_gradient__matches_scipy_softmax() -> None:
    """与 scipy.special.softmax 相同，大的对数几率也不溢出。"""
    logits = 5 * _normal(2, 3, 4)
    expected = torch.from_numpy(scipy.special.softmax(logits.numpy(), axis=-1))
    torch.testing.assert_close(logsumexp_gradient(logits), expected)
    assert logsumexp_gradient(torch.tensor([1000.0, 1000.0])).tolist() == [0.5, 0.5]


def test_logsumexp_gradient__matches_central_difference() -> None:
    """等于对 torch.logsumexp 的中心差分。"""
    logits, h = _normal(5, seed=1), 1e-5
    expected = torch.stack(
        [
            (torch.logsumexp(logits + step, 0) - torch.logsumexp(logits - step, 0)) / (2 * h)
            for step in h * torch.eye(5, dtype=torch.float64)
        ]
    )
    # 中心差分本身有约 1e-11 的误差
    torch.testing.assert_close(logsumexp_gradient(logits), expected, rtol=1e-8, atol=1e-9)


def test_logsumexp_gradient__equals_worked_example() -> None:
    """z = (0, log 2, log 5)：(1, 2, 5)/8。"""
    expected = torch.tensor([0.125, 0.25, 0.625], dtype=torch.float64)
    torch.testing.assert_close(logsumexp_gradient(EXAMPLE), expected)


def test_logsumexp_gradient__rejects_bad_input() -> None:
    """整数与标量都不行。"""
    for bad in (torch.arange(3), torch.tensor(1.0)):
        with pytest.raises(ValueError, match="logits"):
            logsumexp_gradient(bad)


def test_softmax_jacobian__matches_torch_jacrev() -> None:
    """与 torch.func.jacrev 对 torch.softmax 求的相同。"""
    logits = 2 * _normal(6, seed=2)
    expected = torch.func.jacrev(lambda z: torch.softmax(z, 0))(logits)
    torch.testing.assert_close(softmax_jacobian(logits), expected)


def test_softmax_jacobian__matches_elementwise_formula() -> None:
    """逐个元素写 s_i(δ_ij − s_j)，相同。"""
    logits = _normal(4, seed=3)
    weights = [math.exp(z) for z in logits.tolist()]
    s = [w / sum(weights) for w in weights]
    expected = [[s[i] * ((i == j) - s[j]) for j in range(4)] for i in range(4)]
    torch.testing.assert_close(
        softmax_jacobian(logits), torch.tensor(expected, dtype=torch.float64)
    )


def test_softmax_jacobian__equals_worked_example() -> None:
    """s = (1, 2, 5)/8：64 倍的雅可比是 (7, −2, −5; −2, 12, −10; −5, −10, 15)。"""
    expected = torch.tensor([[7, -2, -5], [-2, 12, -10], [-5, -10, 15]], dtype=torch.float64)
    torch.testing.assert_close(64 * softmax_jacobian(EXAMPLE), expected)


def test_softmax_jacobian__is_symmetric_with_zero_row_sums() -> None:
    """对称，每行的和为零，半正定。"""
    jacobian = softmax_jacobian(_normal(5, seed=4))
    torch.testing.assert_close(jacobian, jacobian.T)
    torch.testing.assert_close(jacobian.sum(1), torch.zeros(5, dtype=torch.float64))
    assert torch.linalg.eigvalsh(jacobian).min() > -1e-15


def test_softmax_jacobian__differs_from_diagonal() -> None:
    """只写 s(1 − s) 的对角线不是雅可比矩阵：乘上伴随，得到的和不为零。"""
    cotangent = torch.tensor([8.0, 0.0, 8.0], dtype=torch.float64)
    s = torch.softmax(EXAMPLE, 0)
    wrong = s * (1 - s) * cotangent
    right = softmax_jacobian(EXAMPLE) @ cotangent
    torch.testing.assert_close(right, torch.tensor([0.25, -1.5, 1.25], dtype=torch.float64))
    torch.testing.assert_close(wrong, torch.tensor([0.875, 0.0, 1.875], dtype=torch.float64))


def test_softmax_jacobian__rejects_bad_input() -> None:
    """只接受浮点向量。"""
    with pytest.raises(ValueError, match="logits 的形状"):
        softmax_jacobian(torch.zeros(2, 3))


def test_softmax_vjp__matches_torch_autograd() -> None:
    """成批的 VJP 与 torch.autograd 相同。"""
    logits = _normal(2, 3, 4, seed=5).requires_grad_()
    cotangent = _normal(2, 3, 4, seed=6)
    (expected,) = torch.autograd.grad(torch.softmax(logits, -1), logits, cotangent)
    torch.testing.assert_close(softmax_vjp(logits.detach(), cotangent), expected)


def test_softmax_vjp__matches_softmax_jacobian() -> None:
    """等于雅可比矩阵的转置乘伴随。"""
    logits, cotangent = _normal(5, seed=7), _normal(5, seed=8)
    expected = softmax_jacobian(logits).T @ cotangent
    torch.testing.assert_close(softmax_vjp(logits, cotangent), expected)


def test_softmax_vjp__equals_worked_example() -> None:
    """s = (1, 2, 5)/8，伴随 (8, 0, 8)：内积是 6，结果 (0.25, −1.5, 1.25)。"""
    cotangent = torch.tensor([8.0, 0.0, 8.0], dtype=torch.float64)
    expected = torch.tensor([0.25, -1.5, 1.25], dtype=torch.float64)
    torch.testing.assert_close(softmax_vjp(EXAMPLE, cotangent), expected)


def test_softmax_vjp__rejects_bad_input() -> None:
    """伴随的形状要与对数几率相同。"""
    with pytest.raises(ValueError, match="cotangent 的形状"):
        softmax_vjp(torch.zeros(2, 3), torch.zeros(3, 2))


def test_cross_entropy_gradient__matches_torch_autograd() -> None:
    """与对 F.cross_entropy 求导相同，批量的平均也在内。"""
    logits = _normal(4, 5, seed=9).requires_grad_()
    labels = torch.tensor([3, 0, 4, 3])
    (expected,) = torch.autograd.grad(F.cross_entropy(logits, labels), logits)
    torch.testing.assert_close(cross_entropy_gradient(logits.detach(), labels), expected)


def test_cross_entropy_gradient__equals_worked_example() -> None:
    """z = (0, log 2, log 5)，标签是第二类：(1/8, −3/4, 5/8)；批量为 2 时除以 2。"""
    labels = torch.tensor([1])
    expected = torch.tensor([[0.125, -0.75, 0.625]], dtype=torch.float64)
    torch.testing.assert_close(cross_entropy_gradient(EXAMPLE[None], labels), expected)
    doubled = cross_entropy_gradient(EXAMPLE.repeat(2, 1), labels.repeat(2))
    torch.testing.assert_close(doubled, expected.repeat(2, 1) / 2)


def test_cross_entropy_gradient__differs_from_log_of_softmax() -> None:
    """float32，z = (0, 200)，标签是第一类：先 softmax 再取对数得到 NaN，合起来算得 (−1, 1)。"""
    logits, labels = torch.tensor([[0.0, 200.0]], requires_grad=True), torch.tensor([0])
    loss = -torch.log(torch.softmax(logits, -1))[0, 0]
    (wrong,) = torch.autograd.grad(loss, logits)
    assert loss.item() == math.inf
    assert wrong.isnan().any()
    assert cross_entropy_gradient(logits.detach(), labels).tolist() == [[-1, 1]]
    fused = F.cross_entropy(logits, labels)
    (right,) = torch.autograd.grad(fused, logits)
    assert (fused.item(), right.tolist()) == (200, [[-1, 1]])


def test_cross_entropy_gradient__rejects_bad_input() -> None:
    """空批量、越界或个数不对的标签都报错。"""
    with pytest.raises(ValueError, match="logits 至少"):
        cross_entropy_gradient(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    for labels in (torch.tensor([0, 3]), torch.tensor([0]), torch.tensor([0.0, 1.0])):
        with pytest.raises(ValueError, match="labels"):
            cross_entropy_gradient(torch.zeros(2, 3), labels)
    with pytest.raises(ValueError, match="logits"):
        cross_entropy_gradient(torch.zeros(3), torch.tensor([0]))
