"""κ 个小步与一个大步之差的检验。"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from formulary.ddp.large_step import large_step, leading_step_gap, quadratic_factors, small_steps

Ranks = Callable[..., list[Any]]


def _data() -> tuple[Tensor, Tensor, Tensor]:
    """4 个小批量，每个 6 个样本、3 个特征；目标与起点。"""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(4, 6, 3, dtype=torch.float64, generator=generator)
    y = torch.randn(4, 6, dtype=torch.float64, generator=generator)
    return x, y, torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)


def _loss(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return ((x @ theta).tanh() - y).square().mean()


def _gradients() -> list[Callable[[Tensor], Tensor]]:
    x, y, _ = _data()
    return [
        lambda theta, x=x_j, y=y_j: torch.func.grad(_loss)(theta, x, y)
        for x_j, y_j in zip(x, y, strict=True)
    ]


class _Model(nn.Module):
    def __init__(self, theta: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta.clone())

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.theta).tanh()


def test_large_step__matches_ddp_with_four_ranks(ranks: Ranks) -> None:
    """四个进程各拿一个小批量，DDP 加 torch.optim.SGD、学习率 4η 走一步，得到同样的参数。"""
    x, y, theta = _data()

    def work() -> Tensor:
        model = DistributedDataParallel(_Model(theta))
        optimizer = torch.optim.SGD(model.parameters(), lr=4 * 0.05)
        rank = dist.get_rank()
        (model(x[rank]) - y[rank]).square().mean().backward()
        optimizer.step()
        return model.module.theta.detach()

    expected = large_step(theta, _gradients(), 0.05)
    for actual in ranks(4, work):
        torch.testing.assert_close(expected, actual)


def test_large_step__equals_worked_example() -> None:
    """文中手算：λ = 1，η = 0.1，κ = 4，从 1 走到 0.6；小步走到 0.6561。"""
    one = torch.ones(1, dtype=torch.float64)
    gradients = [lambda theta: theta] * 4
    torch.testing.assert_close(large_step(one, gradients, 0.1).item(), 0.6)
    torch.testing.assert_close(small_steps(one, gradients, 0.1).item(), 0.6561)


def test_small_steps__matches_torch_sgd() -> None:
    """与 torch.optim.SGD 依次在四个小批量上各走一步相同。"""
    x, y, theta = _data()
    model = _Model(theta)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for x_j, y_j in zip(x, y, strict=True):
        optimizer.zero_grad()
        (model(x_j) - y_j).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(small_steps(theta, _gradients(), 0.05), model.theta.detach())


def test_small_steps__equals_large_step_on_linear_loss() -> None:
    """损失是线性的，梯度不随位置变，κ 个小步与一个大步走到同一处。"""
    generator = torch.Generator().manual_seed(0)
    slopes = torch.randn(5, 3, dtype=torch.float64, generator=generator)
    gradients = [lambda theta, slope=slope: slope + 0 * theta for slope in slopes]
    theta = torch.zeros(3, dtype=torch.float64)
    torch.testing.assert_close(
        small_steps(theta, gradients, 0.3), large_step(theta, gradients, 0.3)
    )


def test_leading_step_gap__matches_explicit_hessians() -> None:
    """与逐对相加 η² H_j g_i（i < j）相同，黑塞矩阵用 torch.autograd.functional 显式求出。"""
    x, y, theta = _data()
    expected = torch.zeros(3, dtype=torch.float64)
    for j in range(4):
        hessian = torch.autograd.functional.hessian(
            lambda point, j=j: _loss(point, x[j], y[j]), theta
        )
        for i in range(j):
            expected += 0.05**2 * hessian @ torch.func.grad(_loss)(theta, x[i], y[i])
    torch.testing.assert_close(leading_step_gap(theta, _gradients(), 0.05), expected)


def test_leading_step_gap__is_second_order() -> None:
    """双对数坐标里，两种走法之差随 η 的斜率是 2，减去主项之后是 3；推导前两行的余项是 2。"""
    x, y, theta = _data()
    hessian = torch.autograd.functional.hessian(lambda point: _loss(point, x[3], y[3]), theta)
    rates = [1e-2 / 2**i for i in range(6)]
    gaps, rests, places, slopes = [], [], [], []
    for rate in rates:
        gradients = _gradients()
        at_start = sum(gradient(theta) for gradient in gradients[:3])
        third = small_steps(theta, gradients[:3], rate)
        places.append((third - (theta - rate * at_start)).norm().item())  # 推导的第一行
        expanded = gradients[3](theta) - rate * hessian @ at_start
        slopes.append((gradients[3](third) - expanded).norm().item())  # 推导的第二行
        gap = small_steps(theta, _gradients(), rate) - large_step(theta, _gradients(), rate)
        gaps.append(gap.norm().item())
        rests.append((gap - leading_step_gap(theta, _gradients(), rate)).norm().item())
    for values, order in ((gaps, 2), (rests, 3), (places, 2), (slopes, 2)):
        slope = np.polyfit(np.log(rates), np.log(values), 1)[0]
        assert abs(slope - order) < 0.1


def test_leading_step_gap__equals_worked_example() -> None:
    """文中手算：λ = 1，η = 0.1，κ = 4，主项 0.06，实际相差 0.0561。"""
    one = torch.ones(1, dtype=torch.float64)
    gap = leading_step_gap(one, [lambda theta: theta] * 4, 0.1)
    torch.testing.assert_close(gap.item(), 0.06)


def test_leading_step_gap__rejects_bad_input() -> None:
    """三个函数都拒绝整数的起点、空的梯度列表与不为正的学习率。"""
    identity = [lambda theta: theta]
    for function in (leading_step_gap, small_steps, large_step):
        with pytest.raises(ValueError, match="theta"):
            function(torch.ones(2, dtype=torch.int64), identity, 0.1)
        with pytest.raises(ValueError, match="gradients"):
            function(torch.ones(2), [], 0.1)
        with pytest.raises(ValueError, match="rate"):
            function(torch.ones(2), identity, 0.0)


def test_small_steps__rejects_bad_input() -> None:
    """空的梯度列表报错。"""
    with pytest.raises(ValueError, match="gradients"):
        small_steps(torch.ones(2), [], 0.1)


def test_large_step__rejects_bad_input() -> None:
    """不为正的学习率报错。"""
    with pytest.raises(ValueError, match="rate"):
        large_step(torch.ones(2), [lambda theta: theta], -0.1)


def test_quadratic_factors__matches_steps_on_quadratic() -> None:
    """在二次损失上真的走小步与大步，从 1 出发走到的地方就是两个系数。"""
    one = torch.ones(1, dtype=torch.float64)
    for curvature, rate, count in ((2.0, 0.3, 3), (0.5, 0.7, 6), (4.0, 0.4, 2)):
        gradients = [lambda theta, curvature=curvature: curvature * theta] * count
        expected = [
            small_steps(one, gradients, rate).item(),
            large_step(one, gradients, rate).item(),
        ]
        torch.testing.assert_close(list(quadratic_factors(curvature, rate, count)), expected)


def test_quadratic_factors__equals_worked_example() -> None:
    """文中的例子：ηλ = 0.1，放大 20 倍恰在边界上（−1），21 倍就发散，而小步一直收敛。"""
    torch.testing.assert_close(quadratic_factors(1.0, 0.1, 20)[1], -1.0)
    small, large = quadratic_factors(1.0, 0.1, 21)
    assert abs(large) > 1
    assert 0 < small < 0.11
    assert abs(quadratic_factors(1.0, 0.1, 19)[1]) < 1


def test_quadratic_factors__equals_exercise() -> None:
    """练习：η = 0.1，λ = 6，放大 3 倍乘 −0.8，放大 4 倍乘 −1.4；小步乘 0.4 的幂。"""
    torch.testing.assert_close(quadratic_factors(6.0, 0.1, 3), (0.064, -0.8))
    torch.testing.assert_close(quadratic_factors(6.0, 0.1, 4), (0.0256, -1.4))


def test_quadratic_factors__rejects_bad_input() -> None:
    """倍数不是正整数，λ 或 η 不为正时报错。"""
    with pytest.raises(ValueError, match="count"):
        quadratic_factors(1.0, 0.1, 0)
    with pytest.raises(ValueError, match="curvature"):
        quadratic_factors(0.0, 0.1, 2)
    with pytest.raises(ValueError, match="rate"):
        quadratic_factors(1.0, -0.1, 2)
