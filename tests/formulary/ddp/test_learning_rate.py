"""批量放大之后的学习率的检验。"""

import pytest
import torch
from torch import Tensor, nn

from formulary.ddp.learning_rate import (
    folded_momentum_step,
    linear_scaled_rate,
    square_root_scaled_adam,
    warmup_rate,
)


def _adam_walk(
    rate: float, betas: tuple[float, float], batch: int, steps: int, seed: int
) -> Tensor:
    """4000 条互不相干的一维轨迹：单个样本的梯度均值 0.02、标准差 1，走 steps 步 Adam。"""
    generator = torch.Generator().manual_seed(seed)
    theta = nn.Parameter(torch.zeros(4000, dtype=torch.float64))
    optimizer = torch.optim.Adam([theta], lr=rate, betas=betas, eps=1e-12)
    for _ in range(steps):
        noise = torch.randn(4000, dtype=torch.float64, generator=generator)
        theta.grad = 0.02 + noise / batch**0.5
        optimizer.step()
    return theta.detach()


def test_linear_scaled_rate__matches_summed_gradient_step() -> None:
    """批量放大 κ 倍、学习率随之放大，一步的位移等于用原学习率、把 κ 个小批量的平均梯度相加。"""
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(4, 5, dtype=torch.float64, generator=generator)
    theta = nn.Parameter(torch.zeros(5, dtype=torch.float64))
    theta.grad = gradients.mean(dim=0)
    torch.optim.SGD([theta], lr=linear_scaled_rate(0.1, 128, 32)).step()
    torch.testing.assert_close(theta.detach(), -0.1 * gradients.sum(dim=0))


def test_linear_scaled_rate__equals_worked_example() -> None:
    """文中的例子：单卡 256 时 0.1，8 卡每卡 256 是 0.8；每卡 32 总批量不变，学习率也不变。"""
    torch.testing.assert_close(linear_scaled_rate(0.1, 8 * 256, 256), 0.8)
    torch.testing.assert_close(linear_scaled_rate(0.1, 8 * 32, 256), 0.1)


def test_linear_scaled_rate__rejects_bad_input() -> None:
    """学习率不为正或无穷，批量不是正整数时报错。"""
    for rate in (0.0, -0.1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="base_rate"):
            linear_scaled_rate(rate, 8, 4)
    with pytest.raises(ValueError, match="global_batch"):
        linear_scaled_rate(0.1, 0, 4)
    with pytest.raises(ValueError, match="base_batch"):
        linear_scaled_rate(0.1, 8, 0)


def test_square_root_scaled_adam__matches_torch_adam_with_small_batches() -> None:
    """torch 的 Adam 走 400 步、批量 16，与放大 4 倍走 100 步，位移的均值、方差在 5 个标准误内相同。

    线性缩放的位移是两倍，相差几十个标准误。
    """
    betas = (0.9, 0.99)
    small = _adam_walk(1e-3, betas, 16, 400, 0)
    rate, scaled, _ = square_root_scaled_adam(1e-3, betas, 1e-12, 64, 16)
    large = _adam_walk(rate, scaled, 64, 100, 1)
    wrong = _adam_walk(4e-3, scaled, 64, 100, 2)
    error = (small.var() / 4000 + large.var() / 4000) ** 0.5
    assert (small.mean() - large.mean()).abs() < 5 * error
    assert (small.mean() - wrong.mean()).abs() > 10 * error
    assert 0.85 < large.std() / small.std() < 1.15
    assert wrong.std() / small.std() > 1.5


def test_square_root_scaled_adam__preserves_memory_in_samples() -> None:
    """1 − β 与 κ 成正比：指数平均的记忆长度以样本计不变；ε 与噪声的标准差同比缩小。"""
    rate, betas, eps = square_root_scaled_adam(3e-4, (0.9, 0.98), 1e-6, 160, 40)
    for beta, base in zip(betas, (0.9, 0.98), strict=True):
        torch.testing.assert_close(160 / (1 - beta), 40 / (1 - base))
    torch.testing.assert_close((rate, eps), (6e-4, 5e-7))


def test_square_root_scaled_adam__equals_worked_example() -> None:
    """文中的例子：批量放大 4 倍，1e-3 变成 2e-3，(0.9, 0.999) 变成 (0.6, 0.996)。"""
    rate, betas, eps = square_root_scaled_adam(1e-3, (0.9, 0.999), 1e-8, 1024, 256)
    torch.testing.assert_close((rate, *betas, eps), (2e-3, 0.6, 0.996, 5e-9))


def test_square_root_scaled_adam__rejects_bad_input() -> None:
    """放大到衰减率为负，或参数越界时报错。"""
    with pytest.raises(ValueError, match="base_betas"):
        square_root_scaled_adam(1e-3, (0.9, 0.999), 1e-8, 11 * 32, 32)
    with pytest.raises(ValueError, match="base_betas"):
        square_root_scaled_adam(1e-3, (0.9, 1.0), 1e-8, 64, 32)
    with pytest.raises(ValueError, match="base_betas"):
        square_root_scaled_adam(1e-3, (0.9, -0.5), 1e-8, 16, 32)
    with pytest.raises(ValueError, match="base_eps"):
        square_root_scaled_adam(1e-3, (0.9, 0.999), 0.0, 64, 32)
    with pytest.raises(ValueError, match="base_rate"):
        square_root_scaled_adam(0.0, (0.9, 0.999), 1e-8, 64, 32)
    with pytest.raises(ValueError, match="base_batch"):
        square_root_scaled_adam(1e-3, (0.9, 0.999), 1e-8, 64, 0)


@pytest.mark.parametrize("warmup_steps", [1, 5, 12])
def test_warmup_rate__matches_torch_linear_lr(warmup_steps: int) -> None:
    """与 torch 的 LinearLR 逐步相同，起点是终点的八分之一。"""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.8)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / 8, 1.0, warmup_steps)
    theirs, ours = [], []
    for step in range(15):
        theirs.append(optimizer.param_groups[0]["lr"])
        ours.append(warmup_rate(step, warmup_steps, 0.1, 0.8))
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(ours, theirs)


def test_warmup_rate__matches_torch_lambda_lr() -> None:
    """作为 LambdaLR 的倍率使用时，优化器里的学习率就是它。"""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: warmup_rate(t, 4, 0.0, 0.6))
    rates = []
    for _ in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(rates, [0.0, 0.15, 0.3, 0.45, 0.6, 0.6])


def test_warmup_rate__equals_worked_example() -> None:
    """文中的例子：从 0.1 到 0.8，1000 步，第 500 步是 0.45；不预热就一直是终点。"""
    torch.testing.assert_close(warmup_rate(500, 1000, 0.1, 0.8), 0.45)
    torch.testing.assert_close([warmup_rate(t, 0, 0.1, 0.8) for t in (0, 7)], [0.8, 0.8])


def test_warmup_rate__rejects_bad_input() -> None:
    """步数为负、学习率不合要求时报错。"""
    with pytest.raises(ValueError, match="step "):
        warmup_rate(-1, 4, 0.1, 0.8)
    with pytest.raises(ValueError, match="warmup_steps"):
        warmup_rate(1, -4, 0.1, 0.8)
    with pytest.raises(ValueError, match="base_rate"):
        warmup_rate(1, 4, -0.1, 0.8)
    with pytest.raises(ValueError, match="target_rate"):
        warmup_rate(1, 4, 0.1, 0.0)


def _trajectories(corrected: bool) -> tuple[Tensor, Tensor]:
    """同一列梯度、逐步改变的学习率：折进学习率的速度，与 torch.optim.SGD。"""
    generator = torch.Generator().manual_seed(2)
    gradients = torch.randn(12, 4, dtype=torch.float64, generator=generator)
    rates = [warmup_rate(t, 6, 0.1, 0.8) if t < 9 else 0.08 for t in range(12)]
    theirs = nn.Parameter(torch.ones(4, dtype=torch.float64))
    optimizer = torch.optim.SGD([theirs], lr=rates[0], momentum=0.9)
    ours, velocity = torch.ones(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    previous = rates[0]
    for gradient, rate in zip(gradients, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        theirs.grad = gradient.clone()
        optimizer.step()
        base = previous if corrected else rate
        ours, velocity = folded_momentum_step(ours, velocity, gradient, rate, base, 0.9)
        previous = rate
    return ours, theirs.detach()


def test_folded_momentum_step__matches_torch_sgd() -> None:
    """预热、再降到十分之一的学习率下，修正过的轨迹与 torch.optim.SGD 相同。"""
    ours, theirs = _trajectories(corrected=True)
    torch.testing.assert_close(ours, theirs)


def test_folded_momentum_step__differs_from_uncorrected_velocity() -> None:
    """不修正旧速度，同样的梯度与学习率走到别处去。"""
    ours, theirs = _trajectories(corrected=False)
    assert (ours - theirs).abs().max() > 0.1


def test_folded_momentum_step__equals_worked_example() -> None:
    """文中手算：m = 0.9，梯度恒为 1，0.1、0.1，再降到 0.01：速度 0.1、0.19、0.0271。"""
    theta = velocity = torch.zeros(1, dtype=torch.float64)
    one, velocities = torch.ones(1, dtype=torch.float64), []
    previous = 0.1
    for rate in (0.1, 0.1, 0.01):
        theta, velocity = folded_momentum_step(theta, velocity, one, rate, previous)
        velocities.append(velocity.item())
        previous = rate
    torch.testing.assert_close(velocities, [0.1, 0.19, 0.0271])
    torch.testing.assert_close(theta.item(), -0.3171)
    torch.testing.assert_close(0.9 * 0.19 + 0.01, 0.181)  # 不修正时的第三个速度


def test_folded_momentum_step__rejects_bad_input() -> None:
    """形状对不上、学习率不为正、动量越界时报错。"""
    one = torch.ones(2)
    with pytest.raises(ValueError, match="theta"):
        folded_momentum_step(torch.ones(2, 2), one, one, 0.1, 0.1)
    with pytest.raises(ValueError, match="velocity"):
        folded_momentum_step(one, torch.ones(3), one, 0.1, 0.1)
    with pytest.raises(ValueError, match="gradient"):
        folded_momentum_step(one, one, torch.ones(3), 0.1, 0.1)
    with pytest.raises(ValueError, match="rate"):
        folded_momentum_step(one, one, one, 0.0, 0.1)
    with pytest.raises(ValueError, match="previous_rate"):
        folded_momentum_step(one, one, one, 0.1, 0.0)
    for momentum in (-0.1, 1.0):
        with pytest.raises(ValueError, match="momentum"):
            folded_momentum_step(one, one, one, 0.1, 0.1, momentum)
