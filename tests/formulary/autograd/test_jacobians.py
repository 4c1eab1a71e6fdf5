"""按行与按列求雅可比矩阵的检验，并数遍数。"""

import pytest
import torch
from torch import Tensor

from formulary.autograd.jacobians import jacobian_by_columns, jacobian_by_rows


def _normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


WEIGHT = _normal(3, 5, seed=1)
X = _normal(5, seed=2)


def _layer(x: Tensor) -> Tensor:
    return torch.tanh(WEIGHT @ x)


def _closed_form() -> Tensor:
    y = _layer(X)
    return torch.stack([(1 - y[i] ** 2) * WEIGHT[i] for i in range(3)])


class Tally(torch.autograd.Function):
    """恒等函数，记下前向、反向、切向量各走了几遍。"""

    calls: dict[str, int]

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        Tally.calls["forward"] += 1
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        pass

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> Tensor:
        Tally.calls["backward"] += 1
        return cotangent

    @staticmethod
    def jvp(ctx, tangent: Tensor) -> Tensor:
        Tally.calls["jvp"] += 1
        return tangent.clone()


def _count(jacobian, n: int, m: int) -> dict[str, int]:
    weight = _normal(m, n, seed=3)
    Tally.calls = {"forward": 0, "backward": 0, "jvp": 0}
    actual = jacobian(lambda x: weight @ Tally.apply(x), _normal(n, seed=4))
    torch.testing.assert_close(actual, weight)
    return Tally.calls


def test_jacobian_by_rows__matches_closed_form() -> None:
    """tanh(Wx) 的雅可比矩阵等于 diag(1 − y²)W。"""
    torch.testing.assert_close(jacobian_by_rows(_layer, X), _closed_form())


def test_jacobian_by_rows__matches_jacrev() -> None:
    """与 torch.func.jacrev 相同。"""
    torch.testing.assert_close(jacobian_by_rows(_layer, X), torch.func.jacrev(_layer)(X))


def test_jacobian_by_rows__equals_one_backward_pass_per_output() -> None:
    """数得：前向 1 遍，反向 m 遍，与 n 无关。"""
    for n, m in ((7, 2), (2, 7)):
        assert _count(jacobian_by_rows, n, m) == {"forward": 1, "backward": m, "jvp": 0}


def test_jacobian_by_rows__limit_constant_function() -> None:
    """输出与 x 无关时是零矩阵。"""
    actual = jacobian_by_rows(lambda _: WEIGHT[:, 0], X)
    torch.testing.assert_close(actual, torch.zeros(3, 5, dtype=torch.float64))


def test_jacobian_by_rows__rejects_bad_input() -> None:
    """x 或输出不是浮点向量时报错。"""
    with pytest.raises(ValueError, match="x 必须"):
        jacobian_by_rows(_layer, torch.arange(5))
    with pytest.raises(ValueError, match="f 的输出"):
        jacobian_by_rows(torch.sum, X)


def test_jacobian_by_columns__matches_closed_form() -> None:
    """tanh(Wx) 的雅可比矩阵等于 diag(1 − y²)W。"""
    torch.testing.assert_close(jacobian_by_columns(_layer, X), _closed_form())


def test_jacobian_by_columns__matches_jacfwd() -> None:
    """与 torch.func.jacfwd 相同。"""
    torch.testing.assert_close(jacobian_by_columns(_layer, X), torch.func.jacfwd(_layer)(X))


def test_jacobian_by_columns__equals_one_forward_pass_per_input() -> None:
    """数得：切向量 n 遍，各带一遍求值，与 m 无关。"""
    for n, m in ((7, 2), (2, 7)):
        assert _count(jacobian_by_columns, n, m) == {"forward": n, "backward": 0, "jvp": n}


def test_jacobian_by_columns__rejects_bad_input() -> None:
    """x 或输出不是浮点向量时报错。"""
    with pytest.raises(ValueError, match="x 必须"):
        jacobian_by_columns(_layer, torch.arange(5))
    with pytest.raises(ValueError, match="f 的输出"):
        jacobian_by_columns(torch.sum, X)
