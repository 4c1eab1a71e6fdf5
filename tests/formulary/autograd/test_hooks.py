"""钩子的检验。"""

import pytest
import torch
from torch import Tensor

from formulary.autograd.hooks import gradient_with_hook


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _clamp(gradient: Tensor) -> Tensor:
    return gradient.clamp(-0.5, 0.5)


def test_gradient_with_hook__matches_explicit_jacobian() -> None:
    """等于雅可比矩阵的转置乘改过的伴随，雅可比用中心差分求，伴随按闭式求。"""
    weight = torch.randn(4, 3, generator=_generator(), dtype=torch.float64)
    x = torch.randn(3, generator=_generator(1), dtype=torch.float64)

    def inner(x: Tensor) -> Tensor:
        return torch.tanh(weight @ x)

    actual = gradient_with_hook(inner, lambda v: (v**2).sum(), x, lambda g: 3 * g.clamp(min=0))
    columns = []
    for i in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[i] = 1e-6
        columns.append((inner(x + step) - inner(x - step)) / 2e-6)
    expected = torch.stack(columns, dim=1).T @ (3 * (2 * inner(x)).clamp(min=0))
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-8)  # 中心差分的舍入误差


def test_gradient_with_hook__equals_clamped_example() -> None:
    """L = Σv²，v = (1, 2, 3)：伴随 (2, 4, 6) 截到 0.5。"""
    actual = gradient_with_hook(
        lambda x: 1.0 * x, lambda v: (v**2).sum(), torch.tensor([1.0, 2.0, 3.0]), _clamp
    )
    torch.testing.assert_close(actual, torch.full((3,), 0.5))


def test_gradient_with_hook__depends_only_on_summed_adjoint() -> None:
    """v 用了两次，钩子只调用一次，见到的是两路之和；先截再加会得到别的值。"""
    calls: list[Tensor] = []

    def hook(gradient: Tensor) -> Tensor:
        calls.append(gradient.clone())
        return _clamp(gradient)

    x = torch.tensor([1.0, -2.0], dtype=torch.float64)
    actual = gradient_with_hook(lambda x: 2 * x, lambda v: (3 * v - 2.75 * v).sum(), x, hook)
    assert len(calls) == 1
    torch.testing.assert_close(calls[0], torch.full((2,), 0.25, dtype=torch.float64))
    torch.testing.assert_close(actual, torch.full((2,), 0.5, dtype=torch.float64))
    # 先各自截到 ±0.5 再相加是 0，不是 0.25
    assert 2 * (_clamp(torch.tensor(3.0)) + _clamp(torch.tensor(-2.75))) == 0


def test_gradient_with_hook__is_plain_gradient_for_none() -> None:
    """钩子返回 None 就是不改。"""
    x = torch.tensor([0.3, -1.2], dtype=torch.float64)
    actual = gradient_with_hook(torch.sin, torch.sum, x, lambda gradient: None)
    torch.testing.assert_close(actual, x.cos())


def test_gradient_with_hook__rejects_bad_input() -> None:
    """x 不是一维浮点张量、outer 不返回标量时报错。"""
    for x in (torch.ones(2, 2), torch.ones(2, dtype=torch.int64)):
        with pytest.raises(ValueError, match="x "):
            gradient_with_hook(torch.sin, torch.sum, x, _clamp)
    with pytest.raises(ValueError, match="outer"):
        gradient_with_hook(torch.sin, torch.cos, torch.ones(2), _clamp)
