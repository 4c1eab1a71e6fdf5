"""直通估计与尖点上的次梯度的检验。"""

import itertools

import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.autograd import gradcheck
from torch.autograd.gradcheck import GradcheckError

from formulary.autograd.nondifferentiable import (
    identity_by_relus,
    kink_gradients,
    straight_through,
)


def _x(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_straight_through__matches_textbook_form() -> None:
    """梯度与 x + sg(q(x) − x) 的相同，值在容差内相同。"""
    x, weight = _x(3, 4).requires_grad_(), _x(3, 4, seed=1)
    actual = straight_through(x, torch.floor)
    expected = x + (x.floor() - x).detach()
    torch.testing.assert_close(actual, expected)
    for function in (torch.sin, torch.square):
        torch.testing.assert_close(
            torch.autograd.grad((weight * function(actual)).sum(), x, retain_graph=True)[0],
            torch.autograd.grad((weight * function(expected)).sum(), x, retain_graph=True)[0],
        )


def test_straight_through__matches_python_rounding() -> None:
    """值等于 Python 的 round（同样是四舍六入五取偶），梯度是外层函数在舍入值处的导数。"""
    x = torch.tensor([0.4, 0.5, 1.5, -2.6], dtype=torch.float64, requires_grad=True)
    y = straight_through(x, torch.round)
    rounded = [float(round(value)) for value in x.tolist()]
    torch.testing.assert_close(y.detach(), torch.tensor(rounded, dtype=torch.float64))
    (gradient,) = torch.autograd.grad((y**3).sum(), x)
    expected = torch.tensor([3 * value**2 for value in rounded], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected)


def test_straight_through__equals_hand_example() -> None:
    """x = (0.4, 1.6)，L = Σq²：梯度 2q = (0, 4)；不用直通估计，round 的导数处处为零。"""
    x = torch.tensor([0.4, 1.6], requires_grad=True)
    (gradient,) = torch.autograd.grad(straight_through(x, torch.round).square().sum(), x)
    torch.testing.assert_close(gradient, torch.tensor([0.0, 4.0]))
    (plain,) = torch.autograd.grad(x.round().square().sum(), x)
    torch.testing.assert_close(plain, torch.zeros(2))


def test_straight_through__differs_from_textbook_form_in_last_place() -> None:
    """float32、q = 0.1·sign：本站的写法前向恰为 ±0.1；x + sg(q − x) 多半不是，差到 1e-7。"""
    x = _x(2000).float()
    quantized = 0.1 * x.sign()
    assert torch.equal(straight_through(x, lambda x: 0.1 * x.sign()), quantized)
    textbook = x + (quantized - x)
    assert textbook.ne(quantized).double().mean() > 0.5
    assert 1e-8 < (textbook - quantized).abs().max() < 1e-6


def test_straight_through__equals_exercise() -> None:
    """L = (q(w) − 1.4)²，η = 0.3，从 0.2 起：第七步回到 1.28，周期 5，q 的平均恰为 1.4。"""
    w, found = torch.tensor(0.2, dtype=torch.float64, requires_grad=True), [0.2]
    for _ in range(7):
        loss = (straight_through(w, torch.round) - 1.4).square()
        (gradient,) = torch.autograd.grad(loss, w)
        w = (w - 0.3 * gradient).detach().requires_grad_()
        found.append(w.item())
    expected = [0.2, 1.04, 1.28, 1.52, 1.16, 1.4, 1.64, 1.28]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected))
    assert sum(round(value) for value in found[2:7]) / 5 == 1.4


def test_straight_through__rejects_bad_input() -> None:
    """x 不是浮点张量、quantizer 改变形状时报错。"""
    with pytest.raises(ValueError, match="x "):
        straight_through(torch.tensor([1]), torch.round)
    with pytest.raises(ValueError, match="quantizer"):
        straight_through(torch.ones(3), torch.sum)


def _minimum_norm(slopes: list[Tensor]) -> Tensor:
    """一组梯度的凸包里范数最小的点：对单纯形上的权重做二次规划。"""
    stacked = torch.stack(slopes).numpy()
    count = len(stacked)
    result = minimize(
        lambda w: ((w @ stacked) ** 2).sum(),
        [(i + 1) * 2 / count / (count + 1) for i in range(count)],
        method="SLSQP",
        bounds=[(0, 1)] * count,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-16},
    )
    return torch.from_numpy(result.x @ stacked)


def _slopes_nearby(name: str) -> list[Tensor]:
    """尖点四周各个方向上的梯度，用中心差分求。"""
    functions = {
        "relu": (lambda x: max(x[0], 0.0), [0.0]),
        "abs": (lambda x: abs(x[0]), [0.0]),
        "norm": (lambda x: (x[0] ** 2 + x[1] ** 2) ** 0.5, [0.0, 0.0]),
        "max": (lambda x: max(x), [1.0, 1.0]),
        "max(dim)": (lambda x: max(x), [1.0, 1.0]),
    }
    function, point = functions[name]
    found, h = [], 1e-6
    for direction in itertools.product((-1.0, -0.3, 0.4, 1.1), repeat=len(point)):
        near = [p + 1e-2 * d for p, d in zip(point, direction, strict=True)]
        slope = []
        for i in range(len(near)):
            up, down = near.copy(), near.copy()
            up[i], down[i] = up[i] + h, down[i] - h
            slope.append((function(up) - function(down)) / (2 * h))
        found.append(torch.tensor(slope, dtype=torch.float64))
    return found


def test_kink_gradients__matches_minimum_norm_subgradient() -> None:
    """relu、abs、范数、max 取的是次微分里范数最小的元素，次微分由四周的梯度张成。"""
    actual = kink_gradients(torch.float64)
    for name in ("relu", "abs", "norm", "max"):
        expected = _minimum_norm(_slopes_nearby(name))
        # 二次规划只精确到约 1e-6
        torch.testing.assert_close(actual[name], expected, rtol=0, atol=1e-5)


def test_kink_gradients__differs_from_minimum_norm_for_max_over_dim() -> None:
    """max(dim) 取 (1, 0)，是次微分的一个顶点，范数最小的是 (1/2, 1/2)。"""
    actual = kink_gradients(torch.float64)["max(dim)"]
    assert (actual - _minimum_norm(_slopes_nearby("max(dim)"))).norm() > 0.7
    assert any(torch.allclose(actual, slope) for slope in _slopes_nearby("max(dim)"))


def test_kink_gradients__equals_table() -> None:
    """0、0、(0, 0)、(0.5, 0.5)、(1, 0)。"""
    expected = {
        "relu": [0.0],
        "abs": [0.0],
        "norm": [0.0, 0.0],
        "max": [0.5, 0.5],
        "max(dim)": [1.0, 0.0],
    }
    actual = {name: gradient.tolist() for name, gradient in kink_gradients().items()}
    assert actual == expected


def test_kink_gradients__differs_from_clamp_at_its_end() -> None:
    """同样截到 [−1, 1]，在端点 1 处 clamp 的导数是 1，hardtanh 的是 0。"""
    assert kink_gradients()["relu"].item() == 0.0
    x = torch.ones(1, requires_grad=True)
    assert torch.autograd.grad(x.clamp(-1, 1), x)[0].item() == 1.0
    assert torch.autograd.grad(torch.nn.functional.hardtanh(x), x)[0].item() == 0.0


def test_kink_gradients__rejects_integer_dtype() -> None:
    """dtype 不是浮点类型时报错。"""
    with pytest.raises(ValueError, match="dtype"):
        kink_gradients(torch.int64)


def test_identity_by_relus__matches_identity() -> None:
    """值与 x 逐位相同，零点以外导数是 1。"""
    x = _x(5, 3).requires_grad_()
    y = identity_by_relus(x)
    torch.testing.assert_close(y.detach(), x.detach(), rtol=0, atol=0)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], torch.ones_like(x))


def test_identity_by_relus__differs_from_derivative_at_zero() -> None:
    """零点的导数是 1（中心差分也是），自动求导给出 0。"""
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.grad(identity_by_relus(x), x)[0].item() == 0.0
    ends = identity_by_relus(torch.tensor([1e-3, -1e-3], dtype=torch.float64))
    torch.testing.assert_close((ends[0] - ends[1]) / 2e-3, torch.tensor(1.0).double())


def test_identity_by_relus__rejects_integers() -> None:
    """x 不是浮点张量时报错。"""
    with pytest.raises(ValueError, match="x "):
        identity_by_relus(torch.tensor([1]))


def test_identity_by_relus__equals_gradients_at_three_points() -> None:
    """在 (−1, 0, 2) 处，自动求导给出 (1, 0, 1)。"""
    x = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(identity_by_relus(x).sum(), x)
    torch.testing.assert_close(gradient, torch.tensor([1.0, 0.0, 1.0]))


def test_straight_through__differs_from_true_derivative() -> None:
    """gradcheck 不通过：数值的导数是 0，给出的是 1。"""
    x = torch.tensor([0.2, 1.3], dtype=torch.float64, requires_grad=True)
    with pytest.raises(GradcheckError, match="Jacobian mismatch"):
        gradcheck(lambda x: straight_through(x, torch.round), x)
