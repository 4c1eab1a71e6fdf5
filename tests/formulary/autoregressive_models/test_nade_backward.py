"""手推的 NADE 梯度与自动求导一致。"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from formulary.autoregressive_models.nade_backward import nade_adjoints, nade_gradients


def _inputs(rows: int, n: int, d: int) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(81)
    shapes = ((d, n), (d,), (n, d), (n,))
    x = (torch.rand(rows, n, generator=generator) < 0.4).double()
    return x, [torch.randn(*s, dtype=torch.float64, generator=generator) for s in shapes]


def _steps(x: Tensor, parameters: list[Tensor]) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """测试自己的前向：逐步的激活、隐藏层与对数几率，都留在自动求导的图里。"""
    weight, bias, output_weight, output_bias = parameters
    activations, hidden, logits = [bias.repeat(len(x), 1)], [], []
    for i in range(x.shape[1]):
        hidden.append(1 / (1 + torch.exp(-activations[-1])))
        logits.append((hidden[-1] * output_weight[i]).sum(-1) + output_bias[i])
        if i + 1 < x.shape[1]:
            activations.append(activations[-1] + torch.outer(x[:, i], weight[:, i]))
    return activations, hidden, torch.stack(logits, dim=1)


def test_nade_adjoints__matches_autograd() -> None:
    """总导数等于自动求导对每一步激活 a_i 的梯度，h 等于逐步的隐藏层。"""
    x, parameters = _inputs(3, 5, 4)
    for parameter in parameters:
        parameter.requires_grad_()
    activations, hidden, logits = _steps(x, parameters)
    delta = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.autograd.grad((delta * logits).sum(), activations)
    weight, bias, output_weight, _ = (p.detach() for p in parameters)
    h, _, adjoint = nade_adjoints(delta, x, weight, bias, output_weight)
    torch.testing.assert_close(h, torch.stack(hidden).detach())
    torch.testing.assert_close(adjoint, torch.stack(expected))


def test_nade_adjoints__is_reverse_cumulative_sum() -> None:
    """ā_i − ā_(i+1) = g_i，最后一步的总导数就是 g_n。"""
    x, (weight, bias, output_weight, _) = _inputs(3, 5, 4)
    delta = torch.rand(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    h, g, adjoint = nade_adjoints(delta, x, weight, bias, output_weight)
    torch.testing.assert_close(adjoint[:-1] - adjoint[1:], g[:-1])
    torch.testing.assert_close(adjoint[-1], g[-1])
    last = delta[:, -1:] * output_weight[-1] * h[-1] * (1 - h[-1])
    torch.testing.assert_close(g[-1], last)


def test_nade_adjoints__equals_worked_example() -> None:
    """δ = (1, 1)、V = 1、W = c = 0：每个 g_i = 1/4，总导数 (1/2, 1/4)。"""
    one = torch.ones(1, 2).double()
    zero = torch.zeros(1, 2).double()
    _, g, adjoint = nade_adjoints(one, one, zero, zero[0, :1], one.T)
    torch.testing.assert_close(g.flatten(), torch.tensor([0.25, 0.25]).double())
    torch.testing.assert_close(adjoint.flatten(), torch.tensor([0.5, 0.25]).double())


def test_nade_adjoints__rejects_bad_shapes() -> None:
    """δ 与 x 形状不同时报错。"""
    x, (weight, bias, output_weight, _) = _inputs(3, 5, 4)
    with pytest.raises(ValueError, match="delta 的形状"):
        nade_adjoints(x[:, :-1], x, weight, bias, output_weight)


def test_nade_gradients__matches_autograd() -> None:
    """对 W、c、V、b 的梯度等于自动求导穿过测试自己的前向、再过 F 的交叉熵。"""
    x, parameters = _inputs(6, 7, 4)
    actual = nade_gradients(x, *parameters)
    for parameter in parameters:
        parameter.requires_grad_()
    logits = _steps(x, parameters)[2]
    loss = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    torch.testing.assert_close(actual, torch.autograd.grad(loss, parameters))


def test_nade_gradients__equals_worked_example() -> None:
    """文中的手算一例：n = 2、d = 1，W = c = b = 0，V = (1, 1)，x = (1, 1)。"""
    one, zero = torch.ones(1, 2).double(), torch.zeros(1, 2).double()
    weight, bias, output_weight, output_bias = nade_gradients(
        one, zero, zero[0, :1], one.T, zero[0]
    )
    # ℓ = (1/2, 1/2)，σ(1/2) = 0.6225，δ = −0.3775，g = δ/4 = −0.0944
    delta = 1 / (1 + torch.exp(torch.tensor(-0.5, dtype=torch.float64))) - 1
    torch.testing.assert_close(weight, torch.stack((delta / 4, 0 * delta))[None])
    torch.testing.assert_close(bias, (delta / 2)[None])
    torch.testing.assert_close(output_weight, torch.stack((delta / 2, delta / 2))[:, None])
    torch.testing.assert_close(output_bias, torch.stack((delta, delta)))
    assert [round(t.item(), 4) for t in (delta, delta / 2, delta / 4)] == [
        -0.3775,
        -0.1888,
        -0.0944,
    ]


def test_nade_gradients__differs_from_inclusive_sum() -> None:
    """对 W 的列 i 若从 j = i 加起而不是 j > i，梯度就错了，最后一列也不再是零。"""
    x, parameters = _inputs(6, 5, 3)
    right = nade_gradients(x, *parameters)[0]
    assert (right[:, -1] == 0).all()
    logits = _steps(x, parameters)[2]
    weight, bias, output_weight, _ = parameters
    _, _, adjoint = nade_adjoints(logits.sigmoid() - x, x, weight, bias, output_weight)
    wrong = torch.einsum("Bi,iBd->di", x, adjoint)
    assert (wrong - right).abs().max() > 0.1


def test_nade_gradients__rejects_bad_input() -> None:
    """x 不是二值、或参数的形状对不上时报错。"""
    x, parameters = _inputs(3, 5, 4)
    with pytest.raises(ValueError, match="x 的元素只能是 0 或 1"):
        nade_gradients(x + 0.5, *parameters)
    with pytest.raises(ValueError, match="output_bias 的形状"):
        nade_gradients(x, *parameters[:3], parameters[1])
