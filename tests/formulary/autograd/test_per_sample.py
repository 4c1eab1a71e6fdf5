"""逐样本梯度的检验。"""

import pytest
import torch
from torch import Tensor, nn

from formulary.autograd.per_sample import linear_gradient_norms, per_sample_gradients


def _randn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _setting() -> tuple[nn.Module, dict[str, Tensor], Tensor, Tensor]:
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    shapes = {name: p.shape for name, p in net.named_parameters()}
    parameters = {n: _randn(*shape, seed=i) for i, (n, shape) in enumerate(shapes.items())}
    return net, parameters, _randn(6, 4, seed=9), torch.tensor([0, 2, 1, 1, 0, 2])


def test_per_sample_gradients__matches_loop() -> None:
    """与逐个样本反向得到的相同。"""
    net, parameters, inputs, targets = _setting()

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(torch.func.functional_call(net, parameters, (x,)), y)

    actual = per_sample_gradients(loss, parameters, inputs, targets)
    net.load_state_dict(parameters)
    for j in range(6):
        net.zero_grad()
        nn.functional.cross_entropy(net(inputs[j]), targets[j]).backward()
        for name, parameter in net.named_parameters():
            torch.testing.assert_close(actual[name][j], parameter.grad)


def test_per_sample_gradients__preserves_gradient_of_mean() -> None:
    """对样本取平均，就是平均损失的梯度。"""
    net, parameters, inputs, targets = _setting()

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(torch.func.functional_call(net, parameters, (x,)), y)

    each = per_sample_gradients(loss, parameters, inputs, targets)
    net.load_state_dict(parameters)
    nn.functional.cross_entropy(net(inputs), targets).backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(each[name].mean(dim=0), parameter.grad)


def test_per_sample_gradients__equals_hand_example() -> None:
    """ℓ = (wx − y)²，w = 1，(x, y) = (1, 0)、(2, 5)：2x(wx − y) = 2 与 −12。"""
    actual = per_sample_gradients(
        lambda p, x, y: (p["w"] * x - y) ** 2,
        {"w": torch.tensor(1.0)},
        torch.tensor([1.0, 2.0]),
        torch.tensor([0.0, 5.0]),
    )
    torch.testing.assert_close(actual["w"], torch.tensor([2.0, -12.0]))


def test_per_sample_gradients__differs_from_batch_statistics() -> None:
    """vmap 里调用训练模式的批归一化会报错：它要就地更新运行统计。"""
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)).double()

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return torch.func.functional_call(net, parameters, (x[None],)).sum() + y

    with pytest.raises(RuntimeError, match="in-place operation"):
        per_sample_gradients(
            loss, dict(net.named_parameters()), _randn(6, 4), torch.zeros(6, dtype=torch.float64)
        )


def test_per_sample_gradients__rejects_bad_input() -> None:
    """没有样本、inputs 与 targets 个数不等、inputs 不是浮点张量时报错。"""
    parameters = {"w": torch.tensor(1.0)}
    for inputs, targets, name in (
        (torch.ones(0), torch.ones(0), "样本数"),
        (torch.tensor(1.0), torch.ones(1), "样本数"),
        (torch.ones(3), torch.ones(2), "targets"),
        (torch.tensor([1, 2]), torch.ones(2), "inputs"),
    ):
        with pytest.raises(ValueError, match=name):
            per_sample_gradients(lambda p, x, y: p["w"] * x - y, parameters, inputs, targets)


def test_linear_gradient_norms__matches_per_sample_gradients() -> None:
    """等于逐样本权重梯度的 F-范数。"""
    weight, x, target = _randn(3, 4), _randn(6, 4, seed=1), _randn(6, 3, seed=2)
    each = per_sample_gradients(
        lambda p, x, y: (p["weight"] @ x - y).pow(4).sum(), {"weight": weight}, x, target
    )
    adjoint = 4 * (x @ weight.T - target) ** 3
    actual = linear_gradient_norms(x, adjoint)
    torch.testing.assert_close(actual, each["weight"].flatten(1).norm(dim=1))


def test_linear_gradient_norms__equals_exercise() -> None:
    """x = (3, 4)，ȳ = (5, 12)：5 × 13 = 65，等于外积的 F-范数；连偏置是 66.29。"""
    x, adjoint = torch.tensor([[3.0, 4.0]]), torch.tensor([[5.0, 12.0]])
    torch.testing.assert_close(linear_gradient_norms(x, adjoint), torch.tensor([65.0]))
    torch.testing.assert_close(torch.outer(adjoint[0], x[0]).norm(), torch.tensor(65.0))
    with_bias = linear_gradient_norms(torch.tensor([[3.0, 4.0, 1.0]]), adjoint)
    assert round(with_bias.item(), 2) == 66.29


def test_linear_gradient_norms__differs_from_shared_positions() -> None:
    """同一个样本里权重用两次（两个词元）时，梯度先相加再取范数，不能各算各的。"""
    x, adjoint = _randn(2, 4), _randn(2, 3, seed=1)
    together = (adjoint.T @ x).norm()
    apart = linear_gradient_norms(x, adjoint).square().sum().sqrt()
    assert (together - apart).abs() > 0.1


def test_linear_gradient_norms__rejects_bad_shapes() -> None:
    """不是二维、行数不等时报错。"""
    with pytest.raises(ValueError, match="x "):
        linear_gradient_norms(torch.ones(3), torch.ones(3, 1))
    with pytest.raises(ValueError, match="adjoint"):
        linear_gradient_norms(torch.ones(3, 2), torch.ones(2, 2))
