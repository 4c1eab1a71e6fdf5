"""VJP、JVP 与伴随恒等式的检验。"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from formulary.autograd.products import adjoint_pairings, jvp, record, require_like, vjp


def _normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


WEIGHT = _normal(3, 5, seed=1)
X = _normal(5, seed=2)


def _layer(x: Tensor) -> Tensor:
    return torch.tanh(WEIGHT @ x)


def _closed_form() -> Tensor:
    """逐元素写出 tanh(Wx) 的雅可比矩阵。"""
    y = _layer(X).tolist()
    rows = [[(1 - y[i] ** 2) * WEIGHT[i, j].item() for j in range(5)] for i in range(3)]
    return torch.tensor(rows, dtype=torch.float64)


def test_vjp__matches_closed_form_of_tanh_layer() -> None:
    """tanh(Wx) 的 VJP 等于逐元素写出的雅可比矩阵转置后乘伴随。"""
    cotangent = _normal(3, seed=3)
    torch.testing.assert_close(vjp(_layer, X, cotangent), _closed_form().T @ cotangent)


def test_vjp__matches_torch_func() -> None:
    """与 torch.func.vjp 相同，函数里有逐元素、求和、索引与矩阵乘法。"""

    def f(x: Tensor) -> Tensor:
        return torch.cat((x[1:].exp() * x[:-1], (WEIGHT @ x).logsumexp(0, keepdim=True)))

    cotangent = _normal(5, seed=4)
    _, pull = torch.func.vjp(f, X)
    torch.testing.assert_close(vjp(f, X, cotangent), pull(cotangent)[0])


def test_vjp__equals_row_of_jacobian() -> None:
    """伴随取单位向量，VJP 就是雅可比矩阵的一行。"""
    for i, unit in enumerate(torch.eye(3, dtype=torch.float64)):
        torch.testing.assert_close(vjp(_layer, X, unit), _closed_form()[i])


def test_vjp__limit_constant_function() -> None:
    """输出与 x 无关，或只与带参数的部分有关时，伴随是零。"""
    weight = WEIGHT.clone().requires_grad_()
    for constant in (WEIGHT[:, 0], weight[:, 0]):
        actual = vjp(lambda _, constant=constant: constant, X, torch.ones(3).double())
        torch.testing.assert_close(actual, torch.zeros(5, dtype=torch.float64))


def test_vjp__preserves_input_and_works_without_grad_mode() -> None:
    """不在 x 上留下梯度，在 no_grad 里也照常求导。"""
    x = X.clone().requires_grad_()
    with torch.no_grad():
        actual = vjp(_layer, x, torch.ones(3).double())
    torch.testing.assert_close(actual, _closed_form().sum(dim=0))
    assert x.grad is None


def test_vjp__differs_from_implicit_cotangent() -> None:
    """向量输出直接 backward() 会报错；先 sum() 再求导，得到的是各行之和，不是雅可比矩阵。"""
    x = X.clone().requires_grad_()
    with pytest.raises(RuntimeError, match="grad can be implicitly created only for scalar"):
        _layer(x).backward()
    (summed,) = torch.autograd.grad(_layer(x).sum(), x)
    torch.testing.assert_close(summed, vjp(_layer, X, torch.ones(3).double()))
    assert not torch.allclose(summed, _closed_form()[0])


def test_vjp__rejects_bad_input() -> None:
    """x 不是浮点向量、输出不是张量或不是向量、伴随的形状或 dtype 不对时报错。"""
    with pytest.raises(ValueError, match="x 必须是实浮点张量"):
        vjp(_layer, torch.arange(5), torch.ones(3))
    with pytest.raises(ValueError, match="x 的形状"):
        vjp(_layer, torch.ones(2, 5), torch.ones(3))
    with pytest.raises(ValueError, match="f 的输出 必须"):
        vjp(lambda x: x.tolist(), X, torch.ones(5))
    with pytest.raises(ValueError, match="f 的输出 必须"):
        vjp(lambda x: (x, x), X, torch.ones(5))
    with pytest.raises(ValueError, match="f 的输出 的形状"):
        vjp(lambda x: x.sum(), X, torch.ones(1))
    with pytest.raises(ValueError, match="cotangent 的形状"):
        vjp(_layer, X, torch.ones(5).double())
    with pytest.raises(ValueError, match="cotangent 的 dtype"):
        vjp(_layer, X, torch.ones(3))


def test_record__matches_plain_evaluation() -> None:
    """值与直接求值相同，叶子是新的，输出连着它。"""
    leaf, y = record(_layer, X)
    torch.testing.assert_close(y.detach(), _layer(X))
    assert leaf.is_leaf
    assert y.requires_grad
    assert not X.requires_grad


def test_record__rejects_integer_input() -> None:
    """整数张量不能求导。"""
    with pytest.raises(ValueError, match="x 必须是实浮点张量"):
        record(torch.square, torch.arange(3))


def test_require_like__rejects_other_shapes_and_dtypes() -> None:
    """形状或 dtype 不同就报错，说出参数名。"""
    require_like("tangent", torch.ones(3), torch.zeros(3))
    with pytest.raises(ValueError, match="tangent 的形状"):
        require_like("tangent", torch.ones(2), torch.zeros(3))
    with pytest.raises(ValueError, match="tangent 的 dtype"):
        require_like("tangent", torch.ones(3), X[:3])


def test_jvp__matches_closed_form_of_tanh_layer() -> None:
    """tanh(Wx) 的 JVP 等于逐元素写出的雅可比矩阵乘切向量。"""
    tangent = _normal(5, seed=5)
    torch.testing.assert_close(jvp(_layer, X, tangent), _closed_form() @ tangent)


def test_jvp__matches_central_difference_along_tangent() -> None:
    """等于沿切向量的中心差分。"""
    tangent, h = _normal(5, seed=6), 1e-5
    expected = (_layer(X + h * tangent) - _layer(X - h * tangent)) / (2 * h)
    # 中心差分本身有约 1e-11 的误差
    torch.testing.assert_close(jvp(_layer, X, tangent), expected, rtol=1e-8, atol=1e-9)


def test_jvp__is_linear_in_tangent() -> None:
    """切向量线性组合，结果也同样组合；不归一化。"""
    first, second = _normal(5, seed=7), _normal(5, seed=8)
    expected = 3 * jvp(_layer, X, first) - 2 * jvp(_layer, X, second)
    torch.testing.assert_close(jvp(_layer, X, 3 * first - 2 * second), expected)


def test_jvp__rejects_bad_input() -> None:
    """x 不是浮点向量、切向量对不上、输出不是浮点向量时报错。"""
    with pytest.raises(ValueError, match="x 必须"):
        jvp(_layer, torch.arange(5), torch.arange(5))
    with pytest.raises(ValueError, match="tangent 的形状"):
        jvp(_layer, X, torch.ones(3).double())
    with pytest.raises(ValueError, match="tangent 的 dtype"):
        jvp(_layer, X, torch.ones(5))
    with pytest.raises(ValueError, match="f 的输出"):
        jvp(lambda x: x.sum(), X, X)
    with pytest.raises(ValueError, match="f 的输出"):
        jvp(lambda x: [x], X, X)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 6), st.integers(1, 6))
def test_adjoint_pairings__is_equal_for_random_networks(
    seed: int, n: int, hidden: int, m: int
) -> None:
    """随机的两层网络、随机的点、切向量与伴随，两边都相等。"""
    first, second = _normal(hidden, n, seed=seed), _normal(m, hidden, seed=seed + 1)
    x, tangent, cotangent = (_normal(k, seed=seed + 2 + k) for k in (n, n, m))
    tangent = tangent.flip(0) + 1
    left, right = adjoint_pairings(lambda x: second @ torch.sin(first @ x), x, tangent, cotangent)
    torch.testing.assert_close(left, right)


def test_adjoint_pairings__matches_explicit_jacobian() -> None:
    """两边都等于伴随、雅可比矩阵、切向量三者逐元素相乘再求和。"""
    tangent, cotangent = _normal(5, seed=9), _normal(3, seed=10)
    jacobian = _closed_form()
    expected = sum(cotangent[i] * jacobian[i, j] * tangent[j] for i in range(3) for j in range(5))
    for side in adjoint_pairings(_layer, X, tangent, cotangent):
        torch.testing.assert_close(side, expected)


def test_adjoint_pairings__rejects_bad_input() -> None:
    """切向量与伴随的形状各自要对。"""
    with pytest.raises(ValueError, match="tangent"):
        adjoint_pairings(_layer, X, torch.ones(3).double(), torch.ones(3).double())
    for cotangent in (X, X[:2]):
        with pytest.raises(ValueError, match="cotangent"):
            adjoint_pairings(_layer, X, X, cotangent)
