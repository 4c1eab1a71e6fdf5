"""缩放点积注意力的失活的检验。"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from formulary.nn_and_functional.attention_dropout import (
    attention_dropout_variance,
    attention_weights,
    attention_with_dropout,
)

INF = float("inf")


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=_generator(sum(shape)))


def _inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """查询、键、值与掩码，各轴长度互不相同。"""
    mask = _random(3, 5)
    mask[0, 2:] = -INF
    mask[2, 1] = -INF
    return _random(2, 3, 4), _random(2, 5, 4), _random(2, 5, 6), mask


def test_attention_weights__matches_python_loops() -> None:
    """与逐个打分、逐行归一的循环相同。"""
    q, k, _, mask = _inputs()
    expected = torch.empty(2, 3, 5, dtype=torch.float64)
    for b in range(2):
        for t in range(3):
            scores = [
                sum(q[b, t, i].item() * k[b, s, i].item() for i in range(4)) / 2 + mask[t, s].item()
                for s in range(5)
            ]
            total = sum(math.exp(score) for score in scores)
            expected[b, t] = torch.tensor([math.exp(score) / total for score in scores]).double()
    torch.testing.assert_close(attention_weights(q, k, mask), expected)


def test_attention_weights__matches_module() -> None:
    """与 nn.MultiheadAttention 单头、投影都是单位阵时返回的权重相同。"""
    q, k, mask = _random(2, 3, 4), _random(2, 5, 4), _random(3, 5)
    module = _identity_attention(0.0)
    _, expected = module(q, k, k, attn_mask=mask)
    torch.testing.assert_close(attention_weights(q, k, mask), expected)


def test_attention_weights__is_row_stochastic() -> None:
    """每行的和是 1，掩掉的恰为零。"""
    q, k, _, mask = _inputs()
    weights = attention_weights(q, k, mask)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, dtype=torch.float64))
    assert (weights[:, mask.isneginf()] == 0).all()


def test_attention_weights__rejects_bad_input() -> None:
    """宽度对不上、掩码形状不对、整行掩掉时报错。"""
    q, k, _, mask = _inputs()
    with pytest.raises(ValueError, match="k 的形状"):
        attention_weights(q, k[..., :3])
    with pytest.raises(ValueError, match="mask 的形状"):
        attention_weights(q, k, mask.mT)
    with pytest.raises(ValueError, match="整行的 -inf"):
        attention_weights(q, k, torch.full((3, 5), -INF, dtype=torch.float64))
    with pytest.raises(ValueError, match="q 必须是实浮点张量"):
        attention_weights(torch.ones(3, 4, dtype=torch.int64), k[0])


def _identity_attention(p: float) -> nn.MultiheadAttention:
    """单头、宽 4，四个投影都是单位阵。"""
    module = nn.MultiheadAttention(4, 1, dropout=p, bias=False, batch_first=True).double()
    module.in_proj_weight.data = torch.eye(4).repeat(3, 1).double()
    module.out_proj.weight.data = torch.eye(4).double()
    return module


def test_attention_with_dropout__matches_function_and_module_in_evaluation() -> None:
    """评估时与 F.scaled_dot_product_attention（不失活）、nn.MultiheadAttention 相同。"""
    q, k, v, mask = _inputs()
    actual = attention_with_dropout(q, k, v, 0.3, False, _generator(), mask)
    expected = F.scaled_dot_product_attention(q, k, v, mask)
    torch.testing.assert_close(actual, expected)
    q, k, v = _random(2, 3, 4), _random(2, 5, 4), _random(5, 2, 4).transpose(0, 1)
    by_module, _ = _identity_attention(0.3).eval()(q, k, v)
    actual = attention_with_dropout(q, k, v, 0.3, False, _generator())
    torch.testing.assert_close(actual, by_module)


def test_attention_with_dropout__matches_function_and_module_in_training() -> None:
    """训练时与 F.scaled_dot_product_attention、nn.MultiheadAttention 在同一个种子下相同。"""
    q, k, v, mask = _inputs()
    with torch.random.fork_rng():
        torch.manual_seed(4)
        expected = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=0.3)
    actual = attention_with_dropout(q, k, v, 0.3, True, _generator(4), mask)
    torch.testing.assert_close(actual, expected)
    q, k, v = _random(2, 3, 4), _random(2, 5, 4), _random(5, 2, 4).transpose(0, 1)
    module = _identity_attention(0.3)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(4)
        by_module, _ = module(q, k, v)
    actual = attention_with_dropout(q, k, v, 0.3, True, _generator(4))
    torch.testing.assert_close(actual, by_module)


def test_attention_with_dropout__equals_worked_example() -> None:
    """文中手算：两个键的权重各半、值为 1 与 3，评估得 2；p = 0.5 的训练得 0、1、3 或 4。"""
    q, v = torch.zeros(400, 1), torch.tensor([[1.0], [3.0]])
    calm = attention_with_dropout(q, v, v, 0.5, False, _generator())
    assert calm.unique().tolist() == [2.0]
    noisy = attention_with_dropout(q, v, v, 0.5, True, _generator())
    assert noisy.unique().tolist() == [0.0, 1.0, 3.0, 4.0]


def test_attention_with_dropout__differs_from_function_without_mode() -> None:
    """F.scaled_dot_product_attention 没有开关：no_grad 里 dropout_p 照样起作用，两次结果不同。"""
    q, k, v, mask = _inputs()
    right = attention_with_dropout(q, k, v, 0.3, False, _generator(), mask)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        first = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=0.3)
        second = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=0.3)
    assert (first - second).abs().max() > 0.1
    assert (first - right).abs().max() > 0.1


def test_attention_with_dropout__rejects_bad_input() -> None:
    """值的长度对不上、p 越界时报错。"""
    q, k, v, _ = _inputs()
    with pytest.raises(ValueError, match="v 的形状"):
        attention_with_dropout(q, k, v[:, :4], 0.3, False, _generator())
    with pytest.raises(ValueError, match="p 必须在"):
        attention_with_dropout(q, k, v, 1.3, False, _generator())


def test_attention_dropout_variance__matches_monte_carlo_of_function() -> None:
    """F.scaled_dot_product_attention 抽两万次，各元素的方差都在 5 个标准误之内。

    相对标准误约 1%，方差偏 6% 就看得出；漏掉一个平方差得更多。
    """
    q, k, v, mask = _inputs()
    expected = attention_dropout_variance(attention_weights(q, k, mask), v, 0.3)
    many = [x.expand(20_000, *x.shape) for x in (q, k, v)]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        y = F.scaled_dot_product_attention(*many, mask, dropout_p=0.3)
    squares = (y - y.mean(dim=0)).square()
    error = squares.std(dim=0) / 20_000**0.5
    assert ((squares.mean(dim=0) - expected).abs() <= 5 * error).all()
    mean = F.scaled_dot_product_attention(q, k, v, mask)
    assert ((y.mean(dim=0) - mean).abs() <= 5 * (expected / 20_000).sqrt()).all()


def test_attention_dropout_variance__equals_worked_example() -> None:
    """文中手算：权重各半、值为 1 与 3、p = 0.5，方差 1/4 + 9/4 = 5/2。"""
    weights = torch.full((1, 2), 0.5, dtype=torch.float64)
    v = torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    actual = attention_dropout_variance(weights, v, 0.5)
    torch.testing.assert_close(actual, torch.tensor([[2.5]]).double())


def test_attention_dropout_variance__limit_uniform_attention() -> None:
    """权重均匀时方差与键的个数成反比：p = 0.2、值全为 1，16 个键是 1/64，1024 个键是 1/4096。"""
    for count in (16, 1024):
        weights = torch.full((1, count), 1 / count, dtype=torch.float64)
        ones = torch.ones(count, 1, dtype=torch.float64)
        expected = torch.tensor([[0.25 / count]], dtype=torch.float64)
        torch.testing.assert_close(attention_dropout_variance(weights, ones, 0.2), expected)


def test_attention_dropout_variance__rejects_bad_input() -> None:
    """形状对不上、p = 1 时报错。"""
    with pytest.raises(ValueError, match="v 的形状"):
        attention_dropout_variance(torch.ones(2, 3), torch.ones(2, 3), 0.5)
    with pytest.raises(ValueError, match="p 必须在"):
        attention_dropout_variance(torch.ones(2, 3), torch.ones(3, 2), 1.0)
    with pytest.raises(ValueError, match="weights 必须是实浮点张量"):
        attention_dropout_variance([1.0], torch.ones(3, 2), 0.5)
