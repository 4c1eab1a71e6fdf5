"""梯度噪声尺度的检验。"""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
import torch.distributed as dist
from scipy.optimize import minimize_scalar
from torch import Tensor

from formulary.ddp.noise_scale import (
    best_step,
    noise_scale_estimate,
    squared_norms_over_ranks,
    steps_and_samples,
)


def _samples() -> Tensor:
    """一个总体：3 种样本梯度，等可能，每个 2 维。"""
    return torch.tensor([[2.0, -1.0], [0.5, 3.0], [-1.0, 0.25]], dtype=torch.float64)


def _mean_squared_norm(batch: int) -> float:
    """枚举全部 3^B 个小批量，求平均梯度的范数平方的期望。"""
    norms = [
        torch.stack(rows).mean(dim=0).square().sum() for rows in product(_samples(), repeat=batch)
    ]
    return torch.stack(norms).mean().item()


def test_noise_scale_estimate__matches_enumeration_of_all_batches() -> None:
    """枚举全部小批量得到两个期望，代入后恰好是总体的 |G|² 与 tr Σ。"""
    samples = _samples()
    gradient = samples.mean(dim=0)
    expected = (
        gradient.square().sum().item(),
        (samples - gradient).square().sum(dim=1).mean().item(),
    )
    for small, big in ((1, 2), (2, 6), (1, 5)):
        actual = noise_scale_estimate(
            _mean_squared_norm(small), small, _mean_squared_norm(big), big
        )
        torch.testing.assert_close(actual, expected)


def test_noise_scale_estimate__equals_worked_example() -> None:
    """文中手算：4 个 rank 各 32 个样本，范数平方 5 与 2：|G|² = 1，tr Σ = 128，比值 128。"""
    assert noise_scale_estimate(5.0, 32, 2.0, 128) == (1.0, 128.0)


def test_noise_scale_estimate__rejects_bad_input() -> None:
    """批量不是正整数，或大批量不大于小批量时报错。"""
    with pytest.raises(ValueError, match="small_batch"):
        noise_scale_estimate(2.0, 0, 1.0, 4)
    with pytest.raises(ValueError, match="big_batch"):
        noise_scale_estimate(2.0, 4, 1.0, 4)


def test_squared_norms_over_ranks__matches_python_sum(ranks: Callable[..., list[Any]]) -> None:
    """四个 rank 的真实归约，与拿到全部梯度直接算的相同；只有一个 rank 时两个数相等。"""
    generator = torch.Generator().manual_seed(1)
    gradients = torch.randn(4, 7, dtype=torch.float64, generator=generator)
    results = ranks(4, lambda: squared_norms_over_ranks(gradients[dist.get_rank()]))
    rows = gradients.tolist()
    small = sum(value**2 for row in rows for value in row) / 4
    big = sum((sum(column) / 4) ** 2 for column in zip(*rows, strict=True))
    for actual in results:
        torch.testing.assert_close(actual, (small, big))
    assert squared_norms_over_ranks(torch.tensor([1.0, 2.0])) == (5.0, 5.0)


def test_squared_norms_over_ranks__equals_noise_scale_of_population(
    ranks: Callable[..., list[Any]],
) -> None:
    """两个 rank、150 步真实的归约，分别平均后估出的 |G|²、tr Σ 在真值的 5 个标准误之内。

    维数 50，标准误约是 tr Σ、|G|² 的百分之几；漏除 B 会差 8 倍。
    """
    batch, steps, d = 8, 150, 50
    gradient = torch.linspace(-1.0, 1.5, d, dtype=torch.float64)
    scale = torch.linspace(0.5, 3.0, d, dtype=torch.float64)

    def work() -> list[tuple[float, float]]:
        generator = torch.Generator().manual_seed(10 + dist.get_rank())
        found = []
        for _ in range(steps):
            noise = torch.randn(batch, d, dtype=torch.float64, generator=generator)
            found.append(squared_norms_over_ranks(gradient + (noise * scale).mean(dim=0)))
        return found

    norms, other = ranks(2, work)
    assert norms == other
    estimates = torch.tensor(
        [noise_scale_estimate(small, batch, big, 2 * batch) for small, big in norms],
        dtype=torch.float64,
    )
    truth = torch.stack((gradient.square().sum(), scale.square().sum()))
    error = estimates.std(dim=0) / steps**0.5
    assert (error < 0.05 * truth).all()
    assert ((estimates.mean(dim=0) - truth).abs() < 5 * error).all()


def test_squared_norms_over_ranks__rejects_bad_input() -> None:
    """二维与整数的梯度报错。"""
    for bad in (torch.ones(2, 2), torch.ones(2, dtype=torch.int64)):
        with pytest.raises(ValueError, match="gradient"):
            squared_norms_over_ranks(bad)


def _curved() -> tuple[Tensor, Tensor, Tensor]:
    samples = _samples()
    centered = samples - samples.mean(dim=0)
    hessian = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    return samples.mean(dim=0), hessian, centered.T @ centered / 3


def _expected_drop(step: float, batch: int) -> float:
    """枚举全部小批量，二次损失走一步之后平均下降多少。"""
    gradient, hessian, _ = _curved()
    drops = []
    for rows in product(_samples(), repeat=batch):
        g = torch.stack(rows).mean(dim=0)
        drops.append(step * gradient @ g - step**2 / 2 * g @ hessian @ g)
    return torch.stack(drops).mean().item()


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_best_step__matches_numerical_optimum(batch: int) -> None:
    """枚举全部小批量求损失的平均下降，scipy 找到的最大值与公式相同。"""
    step, drop = best_step(*_curved(), batch)
    found = minimize_scalar(lambda value: -_expected_drop(value, batch), (0.0, 0.5))
    torch.testing.assert_close(drop, -found.fun)
    # 极值点处函数是平的，数值优化只能把步长定到机器精度的平方根
    torch.testing.assert_close(step, found.x, rtol=1e-6, atol=0)


def test_best_step__limit_large_batch() -> None:
    """批量等于 tr(HΣ)/(GᵀHG) 时下降恰好是极限的一半，批量趋于无穷时到达极限。"""
    gradient = torch.tensor([2.0, 1.0], dtype=torch.float64)
    hessian = torch.eye(2, dtype=torch.float64)
    covariance = torch.diag(torch.tensor([25.0, 15.0], dtype=torch.float64))  # 比值 40/5 = 8
    limit = best_step(gradient, hessian, covariance, 10**14)[1]
    torch.testing.assert_close(limit, 2.5)
    torch.testing.assert_close(best_step(gradient, hessian, covariance, 8)[1], 1.25)


def test_best_step__rejects_bad_input() -> None:
    """形状对不上、批量不是正整数、二次项不为正时报错。"""
    gradient, hessian, covariance = _curved()
    with pytest.raises(ValueError, match="gradient"):
        best_step(hessian, hessian, covariance, 1)
    with pytest.raises(ValueError, match="hessian"):
        best_step(gradient, torch.ones(3, 3), covariance, 1)
    with pytest.raises(ValueError, match="covariance"):
        best_step(gradient, hessian, torch.ones(3, 3), 1)
    with pytest.raises(ValueError, match="batch"):
        best_step(gradient, hessian, covariance, 0)
    with pytest.raises(ValueError, match="hessian 给出的二次项"):
        best_step(gradient, -hessian, covariance, 1)


def test_steps_and_samples__matches_hyperbola() -> None:
    """(S/S_min − 1)(E/E_min − 1) = 1，其中 E_min = B_crit S_min；S 与 E 的比是批量。"""
    for batch in (10.0, 300.0, 5000.0):
        steps, samples = steps_and_samples(batch, 700.0, 90.0)
        torch.testing.assert_close((steps / 90 - 1) * (samples / (700 * 90) - 1), 1.0)
        torch.testing.assert_close(samples / steps, batch)


def test_steps_and_samples__matches_best_step() -> None:
    """每步的最优下降随批量的变化，正好给出步数的变化。"""
    gradient = torch.tensor([2.0, 1.0], dtype=torch.float64)
    covariance = torch.diag(torch.tensor([25.0, 15.0], dtype=torch.float64))
    identity = torch.eye(2, dtype=torch.float64)
    limit = best_step(gradient, identity, covariance, 10**14)[1]
    for batch in (2, 8, 100):
        drop = best_step(gradient, identity, covariance, batch)[1]
        steps, _ = steps_and_samples(float(batch), 8.0, 1.0)
        torch.testing.assert_close(steps, limit / drop)


def test_steps_and_samples__equals_worked_example() -> None:
    """批量等于临界批量时，步数与样本数都是各自下限的两倍。"""
    assert steps_and_samples(1000.0, 1000.0, 500.0) == (1000.0, 1_000_000.0)


def test_steps_and_samples__rejects_bad_input() -> None:
    """有参数不是正数时报错。"""
    with pytest.raises(ValueError, match="batch "):
        steps_and_samples(0.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="critical_batch"):
        steps_and_samples(1.0, -1.0, 1.0)
    with pytest.raises(ValueError, match="minimum_steps"):
        steps_and_samples(1.0, 1.0, 0.0)
