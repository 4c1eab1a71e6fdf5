"""误差反馈的检验。"""

import pytest
import torch
from torch import Tensor

from formulary.ddp.error_feedback import compressed_sums


def _random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("feedback", [True, False])
def test_compressed_sums__matches_projections_by_pinv(feedback: bool) -> None:
    """与用伪逆做投影、逐步写出的循环相同，每一步的累积和与误差都核对。"""
    gradients, q = _random(8, 6, 5), _random(5, 2, seed=1)
    sums, errors = compressed_sums(gradients, q, feedback)
    total, error = torch.zeros(6, 5).double(), torch.zeros(6, 5).double()
    for step, gradient in enumerate(gradients):
        delta = gradient + error if feedback else gradient
        sketch = delta @ q
        approximation = sketch @ torch.linalg.pinv(sketch) @ delta
        basis = torch.linalg.svd(sketch, full_matrices=False).U
        q = delta.T @ basis  # 换一组基，列空间不变，下一步的投影也不变
        total, error = total + approximation, delta - approximation
        torch.testing.assert_close(sums[step], total)
        torch.testing.assert_close(errors[step], error)


def test_compressed_sums__preserves_sum_of_gradients() -> None:
    """有误差反馈时，每一步都有累积和加误差等于梯度的累积和；没有时不成立。"""
    gradients, q = _random(400, 6, 5) + 1, _random(5, 1, seed=1)
    sums, errors = compressed_sums(gradients, q)
    torch.testing.assert_close(sums + errors, gradients.cumsum(dim=0))
    sums, errors = compressed_sums(gradients, q, feedback=False)
    assert (sums + errors - gradients.cumsum(dim=0))[-1].norm() > 1


def test_compressed_sums__bounds_error_on_constant_gradient() -> None:
    """梯度不变时，有反馈的误差有界，平均的近似以 1/T 趋于真值；没有反馈则永远缺同样的一块。"""
    gradient, q = _random(6, 5), _random(5, 1, seed=1)
    steps = gradient.expand(400, 6, 5)
    sums, errors = compressed_sums(steps, q)
    assert errors.flatten(1).norm(dim=1).max() < 6 * gradient.norm()
    assert (sums[-1] / 400 - gradient).norm() < 0.02 * gradient.norm()
    sums, _ = compressed_sums(steps, q, feedback=False)
    u, s, vt = torch.linalg.svd(gradient)
    torch.testing.assert_close(sums[-1] - sums[-2], s[0] * u[:, :1] @ vt[:1])
    missing = s[1:].norm()
    # 头几步的幂迭代还没有收敛，平均到 400 步里
    torch.testing.assert_close((sums[-1] / 400 - gradient).norm(), missing, rtol=0.02, atol=0)


def test_compressed_sums__equals_worked_example() -> None:
    """文中手算：梯度恒为 diag(2, 1)，秩 1，Q = (1, 1)：第一步的近似与误差，及 200 步平均的偏差。"""
    gradient = torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64))
    start = torch.ones(2, 1, dtype=torch.float64)
    sums, errors = compressed_sums(gradient.expand(200, 2, 2), start)
    first = torch.tensor([[1.6, 0.4], [0.8, 0.2]], dtype=torch.float64)
    torch.testing.assert_close(sums[0], first)
    torch.testing.assert_close(errors[0], gradient - first)
    deviation = [round((sums[t - 1] / t - gradient).norm().item(), 4) for t in (10, 100, 200)]
    assert deviation == [0.1636, 0.0186, 0.0074]
    sums, _ = compressed_sums(gradient.expand(200, 2, 2), start, feedback=False)
    assert round((sums[-1] / 200 - gradient).norm().item(), 3) == 0.999


def test_compressed_sums__equals_exercise() -> None:
    """练习：梯度恒为单位阵，Q 恰好是 (1, 0)，Q 永不转向，第二个方向的误差逐步加 1。"""
    q = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    _, errors = compressed_sums(torch.eye(2).double().expand(5, 2, 2), q)
    assert errors[:, 1, 1].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    _, errors = compressed_sums(torch.eye(2).double().expand(200, 2, 2), q + 1e-3)
    assert errors.flatten(1).norm(dim=1).max() < 20


def test_compressed_sums__rejects_bad_input() -> None:
    """梯度不是三维、Q 的行数对不上时报错。"""
    with pytest.raises(ValueError, match="gradients"):
        compressed_sums(torch.ones(2, 3), torch.ones(3, 1))
    with pytest.raises(ValueError, match="q "):
        compressed_sums(torch.ones(4, 2, 3), torch.ones(2, 1))
