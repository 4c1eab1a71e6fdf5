"""批归一化反向推导的检验。"""

import pytest
import torch
from torch import Tensor, nn

from formulary.ddp.batch_norm_adjoints import batch_norm_adjoints


def _case() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    x, delta = torch.randn(2, 7, 3, dtype=torch.float64, generator=generator)
    return x * 2 + 1, torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64), delta


def test_batch_norm_adjoints__matches_autograd_of_each_stage() -> None:
    """把方差、均值各当作独立变量，自动求导得到推导里的每一行。"""
    x, weight, delta = _case()
    eps = 0.3
    leaf = x.clone().requires_grad_()
    mean = leaf.mean(dim=0)
    mean.retain_grad()
    free_mean = mean.detach().clone().requires_grad_()
    variance = (x - free_mean).square().mean(dim=0).detach().requires_grad_()
    normalized = (x - free_mean) / (variance + eps).sqrt()
    normalized.retain_grad()
    (weight * normalized * delta).sum().backward()
    whole = (leaf - mean) / ((leaf - mean).square().mean(dim=0) + eps).sqrt()
    (weight * whole * delta).sum().backward()
    grad_normalized, grad_variance, grad_mean, grad_x = batch_norm_adjoints(x, weight, delta, eps)
    torch.testing.assert_close(grad_normalized, normalized.grad)
    torch.testing.assert_close(grad_variance, variance.grad)
    torch.testing.assert_close(grad_mean, free_mean.grad)
    torch.testing.assert_close(grad_x, leaf.grad)
    torch.testing.assert_close(mean.grad, grad_mean)  # 经过方差的那条路为零


def test_batch_norm_adjoints__matches_torch_batch_norm() -> None:
    """对输入的导数与 nn.BatchNorm1d 反向得到的相同。"""
    x, weight, delta = _case()
    layer = nn.BatchNorm1d(3).double()
    with torch.no_grad():
        layer.weight.copy_(weight)
    leaf = x.clone().requires_grad_()
    layer(leaf).backward(delta)
    torch.testing.assert_close(batch_norm_adjoints(x, weight, delta)[3], leaf.grad)


def test_batch_norm_adjoints__is_orthogonal_to_constants() -> None:
    """对输入的导数逐通道之和为零：整体平移不改变输出；ε 趋于 0 时与 x̂ 的内积也为零。"""
    x, weight, delta = _case()
    grad_x = batch_norm_adjoints(x, weight, delta, 1e-30)[3]
    zero = torch.zeros(3, dtype=torch.float64)
    torch.testing.assert_close(grad_x.sum(dim=0), zero)
    torch.testing.assert_close((grad_x * (x - x.mean(dim=0))).sum(dim=0), zero)


def test_batch_norm_adjoints__equals_worked_example() -> None:
    """文中手算：x = 0, 2, 4, 6, 8，δ 只在第一个样本上是 1，不计 ε，γ = 1。"""
    x = torch.tensor([0.0, 2.0, 4.0, 6.0, 8.0], dtype=torch.float64)[:, None]
    delta = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)[:, None]
    one = torch.ones(1, dtype=torch.float64)
    _, grad_variance, grad_mean, grad_x = batch_norm_adjoints(x, one, delta, 1e-30)
    torch.testing.assert_close(grad_variance.item(), 2**0.5 / 16)
    torch.testing.assert_close(grad_mean.item(), -(2**-0.5) / 2)
    expected = [0.4, -0.4, -0.2, 0.0, 0.2]
    torch.testing.assert_close((grad_x * 8**0.5).flatten().tolist(), expected)


def test_batch_norm_adjoints__rejects_bad_input() -> None:
    """形状对不上、只有一行、eps 不为正时报错。"""
    x, weight, delta = _case()
    with pytest.raises(ValueError, match="weight"):
        batch_norm_adjoints(x, weight[:2], delta)
    with pytest.raises(ValueError, match="delta"):
        batch_norm_adjoints(x, weight, delta[:3])
    with pytest.raises(ValueError, match="x 的形状"):
        batch_norm_adjoints(x[0], weight, delta)
    with pytest.raises(ValueError, match="至少要有两行"):
        batch_norm_adjoints(x[:1], weight, delta[:1])
    with pytest.raises(ValueError, match="eps"):
        batch_norm_adjoints(x, weight, delta, 0.0)
