"""梯度累积的检验。"""

import pytest
import torch
from torch import Tensor

from formulary.autograd.gradient_accumulation import mean_of_means_gradient, token_weighted_gradient


def _randn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _losses(theta: Tensor, x: Tensor) -> Tensor:
    return torch.nn.functional.softplus(x @ theta) + (x**2) @ theta**3


def test_token_weighted_gradient__matches_whole_batch() -> None:
    """任意分法，都等于全体词元的平均损失一次求出的梯度。"""
    theta, x = _randn(3), _randn(12, 3, seed=1)
    leaf = theta.clone().requires_grad_()
    expected = torch.autograd.grad(_losses(leaf, x).mean(), leaf)[0]
    for sizes in ([12], [4, 4, 4], [1, 11], [2, 7, 3], [1] * 12):
        actual = token_weighted_gradient(_losses, theta, list(x.split(sizes)))
        torch.testing.assert_close(actual, expected)


def test_token_weighted_gradient__matches_sums_divided_at_the_end() -> None:
    """各微批量对损失之和反向，最后把 .grad 除以总数，也是同一个梯度。"""
    theta, batches = _randn(3), list(_randn(12, 3, seed=1).split([2, 7, 3]))
    leaf = theta.clone().requires_grad_()
    for batch in batches:
        _losses(leaf, batch).sum().backward()
    torch.testing.assert_close(token_weighted_gradient(_losses, theta, batches), leaf.grad / 12)


def test_token_weighted_gradient__equals_hand_example() -> None:
    """ℓ = θx，微批量 {1} 与 {3, 5, 7}：全体平均 16/4 = 4。"""
    batches = [torch.tensor([1.0]), torch.tensor([3.0, 5.0, 7.0])]
    actual = token_weighted_gradient(lambda t, x: t * x, torch.ones(1), batches)
    torch.testing.assert_close(actual, torch.tensor([4.0]))


def test_token_weighted_gradient__rejects_bad_input() -> None:
    """θ 不是一维、没有微批量、有空的微批量时报错。"""
    for theta, batches, name in (
        (torch.ones(2, 2), [torch.ones(1)], "theta"),
        (torch.ones(1), [], "micro_batches"),
        (torch.ones(1), [torch.ones(1), torch.ones(0)], r"micro_batches\[1\]"),
    ):
        with pytest.raises(ValueError, match=name):
            token_weighted_gradient(lambda t, x: t * x, theta, batches)


def test_mean_of_means_gradient__matches_weighted_sum_formula() -> None:
    """等于各微批量平均损失的梯度的简单平均。"""
    theta, batches = _randn(3), list(_randn(12, 3, seed=1).split([2, 7, 3]))
    expected = torch.zeros(3, dtype=torch.float64)
    for batch in batches:
        expected += torch.func.grad(lambda t, batch=batch: _losses(t, batch).mean())(theta) / 3
    torch.testing.assert_close(mean_of_means_gradient(_losses, theta, batches), expected)


def test_mean_of_means_gradient__differs_from_token_mean() -> None:
    """长度不等时两者不同：{1} 与 {3, 5, 7} 得 (1 + 5)/2 = 3，不是 4。"""
    batches = [torch.tensor([1.0]), torch.tensor([3.0, 5.0, 7.0])]
    actual = mean_of_means_gradient(lambda t, x: t * x, torch.ones(1), batches)
    torch.testing.assert_close(actual, torch.tensor([3.0]))
    theta, uneven = _randn(3), list(_randn(12, 3, seed=1).split([2, 7, 3]))
    gap = mean_of_means_gradient(_losses, theta, uneven) - token_weighted_gradient(
        _losses, theta, uneven
    )
    assert gap.abs().max() > 0.05


def test_mean_of_means_gradient__limit_of_equal_sizes() -> None:
    """各微批量一样长时，与加权的写法相同。"""
    theta, batches = _randn(3), list(_randn(12, 3, seed=1).split(4))
    torch.testing.assert_close(
        mean_of_means_gradient(_losses, theta, batches),
        token_weighted_gradient(_losses, theta, batches),
    )


def test_mean_of_means_gradient__rejects_bad_input() -> None:
    """θ 不是一维、没有微批量、有空的微批量时报错。"""
    for theta, batches, name in (
        (torch.ones(2, 2), [torch.ones(1)], "theta"),
        (torch.ones(1), [], "micro_batches"),
        (torch.ones(1), [torch.ones(0)], r"micro_batches\[0\]"),
    ):
        with pytest.raises(ValueError, match=name):
            mean_of_means_gradient(lambda t, x: t * x, theta, batches)
