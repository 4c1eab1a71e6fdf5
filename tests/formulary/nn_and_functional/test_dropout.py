"""随机失活的缩放、矩与线性层之后的方差的检验。"""

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from formulary.nn_and_functional.dropout import (
    dropout,
    dropout_linear_variance,
    dropout_moments,
    original_dropout,
)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=_generator(sum(shape)))


def _exact_moments(x: list[float], weight: list[float], p: float) -> tuple[float, float]:
    """枚举全部掩码，求 Σ w_j m_j x_j ÷ (1 − p) 的期望与方差。"""
    first = second = 0.0
    for kept in product((0, 1), repeat=len(x)):
        chance = math.prod(1 - p if m else p for m in kept)
        value = sum(w * m * xj / (1 - p) for w, m, xj in zip(weight, kept, x, strict=True))
        first, second = first + chance * value, second + chance * value**2
    return first, second - first**2


@pytest.mark.parametrize("p", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dropout__matches_module_and_function_in_training(p: float, dtype: torch.dtype) -> None:
    """训练时与 nn.Dropout、F.dropout 在同一个种子下逐位相同。"""
    x = _random(3, 40).to(dtype)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        by_module = nn.Dropout(p)(x)
        torch.manual_seed(7)
        by_function = F.dropout(x, p)
    actual = dropout(x, p, True, _generator(7))
    torch.testing.assert_close(actual, by_module)
    assert torch.equal(actual, by_function)
    assert torch.equal(actual, by_module)


def test_dropout__matches_module_and_function_in_evaluation() -> None:
    """评估时与 nn.Dropout、F.dropout(training=False) 相同，都原样返回。"""
    x = _random(3, 4)
    actual = dropout(x, 0.6, False, _generator())
    torch.testing.assert_close(actual, nn.Dropout(0.6).eval()(x))
    torch.testing.assert_close(actual, F.dropout(x, 0.6, training=False))
    assert torch.equal(actual, x)


def test_dropout__is_zero_or_scaled() -> None:
    """训练时每个元素不是 0 就是 x ÷ (1 − p)，两种都有。"""
    x = _random(500)
    y = dropout(x, 0.75, True, _generator(3))
    kept = y != 0
    torch.testing.assert_close(y[kept], 4 * x[kept])
    assert 0.15 < kept.double().mean() < 0.35


def test_dropout__preserves_gradient_mask() -> None:
    """反向乘的是同一个掩码与系数。"""
    x = _random(50).requires_grad_()
    y = dropout(x, 0.4, True, _generator(5))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient * x.detach(), y.detach())


def test_dropout__equals_two_in_a_row() -> None:
    """练习：p = 0.5 的失活接连做两次，取值与频率同 p = 0.75 的一次（5 个标准误之内）。"""
    x = torch.full((1_000_000,), 3.0, dtype=torch.float64)
    once = dropout(x, 0.5, True, _generator(1))
    twice = dropout(once, 0.5, True, _generator(2))
    assert twice.unique().tolist() == [0.0, 12.0]
    error = (0.25 * 0.75 / len(x)) ** 0.5  # 约 0.0004，0.3% 的偏差就看得出
    assert abs((twice != 0).double().mean().item() - 0.25) <= 5 * error
    _, variance = dropout_moments(x[:1], 0.75)
    assert variance.item() == 27.0


def test_dropout__rejects_bad_input() -> None:
    """p 越界、整数输入报错；不给 training 是 TypeError，没有默认值可用。"""
    for p in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="p 必须在"):
            dropout(torch.ones(2), p, True, _generator())
    with pytest.raises(ValueError, match="x 必须是实浮点张量"):
        dropout(torch.ones(2, dtype=torch.int64), 0.5, True, _generator())
    with pytest.raises(TypeError, match="training"):
        dropout(torch.ones(2), 0.5, generator=_generator())


def test_original_dropout__matches_scaled_module_and_function() -> None:
    """两种模式下都是 nn.Dropout、F.dropout 的 1 − p 倍。"""
    x, p = _random(3, 40), 0.3
    for training in (True, False):
        with torch.random.fork_rng():
            torch.manual_seed(7)
            by_module = nn.Dropout(p).train(training)(x)
            torch.manual_seed(7)
            by_function = F.dropout(x, p, training)
        actual = original_dropout(x, p, training, _generator(7))
        torch.testing.assert_close(actual, (1 - p) * by_module)
        torch.testing.assert_close(actual, (1 - p) * by_function)


def test_original_dropout__equals_worked_example() -> None:
    """文中手算：x = 4、p = 0.25，训练时得 0 或 4，评估时得 3。"""
    x = torch.full((200,), 4.0)
    assert original_dropout(x, 0.25, True, _generator()).unique().tolist() == [0.0, 4.0]
    assert original_dropout(x, 0.25, False, _generator()).unique().tolist() == [3.0]


def test_original_dropout__rejects_bad_input() -> None:
    """p 越界、整数输入报错。"""
    with pytest.raises(ValueError, match="p 必须在"):
        original_dropout(torch.ones(2), 2.0, True, _generator())
    with pytest.raises(ValueError, match="x 必须是实浮点张量"):
        original_dropout(torch.ones(2, dtype=torch.int64), 0.5, True, _generator())


def test_dropout_moments__matches_enumeration() -> None:
    """与枚举留下与丢掉两种情形得到的期望、方差相同。"""
    x = _random(6)
    for p in (0.0, 0.1, 0.5, 0.9):
        mean, variance = dropout_moments(x, p)
        exact = [_exact_moments([value], [1.0], p) for value in x.tolist()]
        torch.testing.assert_close(mean, torch.tensor([m for m, _ in exact]).double())
        torch.testing.assert_close(variance, torch.tensor([v for _, v in exact]).double())


def test_dropout_moments__matches_monte_carlo_of_module_and_function() -> None:
    """nn.Dropout 与 F.dropout 各抽百万次，p = 0.3、x = 3：均值与方差都在 5 个标准误之内。

    标准误约 0.002 与 0.0034，方差偏 0.5% 就看得出；少除一个 1 − p 差一半。
    """
    x = torch.full((1_000_000,), 3.0, dtype=torch.float64)
    mean, variance = dropout_moments(x[:1], 0.3)
    torch.testing.assert_close(variance.item(), 27 / 7)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = (nn.Dropout(0.3)(x), F.dropout(x, 0.3))
    for y in draws:
        assert abs(y.mean() - mean) <= 5 * y.std() / 1000
        squares = (y - y.mean()).square()
        assert abs(squares.mean() - variance) <= 5 * squares.std() / 1000


def test_dropout_moments__equals_worked_example() -> None:
    """文中手算：x = (4, 3.5)、p = 0.25，方差 16/3 与 49/12。"""
    mean, variance = dropout_moments(torch.tensor([4.0, 3.5]).double(), 0.25)
    torch.testing.assert_close(mean, torch.tensor([4.0, 3.5]).double())
    torch.testing.assert_close(variance, torch.tensor([16 / 3, 49 / 12]).double())


def test_dropout_moments__differs_from_keep_probability() -> None:
    """练习：把丢掉的概率 0.2 误当成保留的概率，方差从 x²/4 变成 4x²，差 16 倍。"""
    _, right = dropout_moments(torch.ones(1), 0.2)
    _, wrong = dropout_moments(torch.ones(1), 0.8)
    assert round(right.item(), 6) == 0.25
    assert round(wrong.item(), 5) == 4.0


def test_dropout_moments__rejects_bad_input() -> None:
    """p = 1 没有意义，越界与整数输入也报错。"""
    for p in (1.0, -0.5):
        with pytest.raises(ValueError, match=r"p 必须在 \[0, 1\) 里"):
            dropout_moments(torch.ones(2), p)
    with pytest.raises(ValueError, match="x 必须是实浮点张量"):
        dropout_moments(torch.ones(2, dtype=torch.int64), 0.5)


def test_dropout_linear_variance__matches_enumeration() -> None:
    """与枚举 2⁵ 个掩码得到的方差相同。"""
    x, weight, p = _random(2, 5), _random(3, 5), 0.35
    expected = [[_exact_moments(row, unit, p)[1] for unit in weight.tolist()] for row in x.tolist()]
    actual = dropout_linear_variance(x, weight, p)
    torch.testing.assert_close(actual, torch.tensor(expected).double())


def test_dropout_linear_variance__matches_module_and_function() -> None:
    """nn.Dropout 接 nn.Linear、F.dropout 接 F.linear，各抽二十万次，方差在 5 个标准误之内。

    相对标准误约 0.3%，方差偏 2% 就看得出。
    """
    x, weight = _random(6), _random(2, 6)
    expected = dropout_linear_variance(x, weight, 0.4)
    layer = nn.Linear(6, 2).double()
    layer.weight.data = weight
    many = x.expand(200_000, 6)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        draws = (layer(nn.Dropout(0.4)(many)), F.linear(F.dropout(many, 0.4), weight))
    for y in draws:
        squares = (y - y.mean(dim=0)).square()
        error = squares.std(dim=0) / 200_000**0.5
        assert ((squares.mean(dim=0) - expected).abs() <= 5 * error).all()


def test_dropout_linear_variance__equals_worked_example() -> None:
    """文中手算：(4, 3.5) 以 p = 0.25 失活，权重 (1, −2)，方差 16/3 + 4·49/12 = 65/3。"""
    x, weight = torch.tensor([4.0, 3.5]).double(), torch.tensor([[1.0, -2.0]]).double()
    actual = dropout_linear_variance(x, weight, 0.25)
    torch.testing.assert_close(actual, torch.tensor([65 / 3]).double())


def test_dropout_linear_variance__rejects_bad_input() -> None:
    """宽度对不上、p = 1 时报错。"""
    with pytest.raises(ValueError, match="x 的形状"):
        dropout_linear_variance(torch.ones(4), torch.ones(2, 3), 0.5)
    with pytest.raises(ValueError, match="weight 的形状"):
        dropout_linear_variance(torch.ones(3), torch.ones(3), 0.5)
    with pytest.raises(ValueError, match="p 必须在"):
        dropout_linear_variance(torch.ones(3), torch.ones(2, 3), 1.0)
