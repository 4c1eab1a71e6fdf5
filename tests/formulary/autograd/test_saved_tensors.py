"""存档张量的字节数与换一种存法的检验。"""

import pytest
import torch
from torch import nn

from formulary.autograd.custom_functions import Softplus
from formulary.autograd.saved_tensors import gradient_with_packing, peak_saved_bytes, saved_bytes


def _x(n: int = 1000) -> torch.Tensor:
    return torch.linspace(-3, 3, n, dtype=torch.float64).requires_grad_()


def test_saved_bytes__matches_saved_attributes() -> None:
    """与逐个结点读 _saved_* 属性数出来的相同；两处存同一个张量只计一次。"""
    x = _x(10)
    y = x.sin() * x
    node = y.grad_fn
    saved = [node._saved_self, node._saved_other, node.next_functions[0][0]._saved_self]
    pointers = {tensor.data_ptr() for tensor in saved}
    assert len(pointers) == 2
    assert saved_bytes(lambda: x.sin() * x) == 80 * len(pointers)


def test_saved_bytes__equals_operator_examples() -> None:
    """sin 存输入，exp 存输出，加法与求和不存，乘法存两个因子，视图按底下的存储计。"""
    x = _x(100)
    other = torch.ones(100, dtype=torch.float64, requires_grad=True)
    assert saved_bytes(lambda: x.sin()) == 800
    assert saved_bytes(lambda: x.exp()) == 800
    assert saved_bytes(lambda: (x + other).sum()) == 0
    assert saved_bytes(lambda: x * other) == 1600
    assert saved_bytes(lambda: x * other, ignore=[other]) == 800
    assert saved_bytes(lambda: x[:3].sin()) == 800
    with torch.no_grad():
        assert saved_bytes(lambda: x.sin()) == 0


def test_saved_bytes__equals_softplus_example() -> None:
    """逐个算子写的 softplus 存两份（x 与 e^(−|x|)），自定义的与 PyTorch 自带的都存一份。"""
    x = _x()

    def composite() -> torch.Tensor:
        return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))

    assert saved_bytes(composite) == 2 * x.nbytes
    assert saved_bytes(lambda: Softplus.apply(x)) == x.nbytes
    assert saved_bytes(lambda: nn.functional.softplus(x)) == x.nbytes


def test_saved_bytes__equals_linear_tanh_layer() -> None:
    """256→256 的 Linear + Tanh，B = 512、float64：输出 1、权重 0.5、输入 1 MiB。"""
    layer = nn.Sequential(nn.Linear(256, 256), nn.Tanh()).double()
    x = torch.zeros(512, 256, dtype=torch.float64, requires_grad=True)
    mebibyte = 2**20
    assert saved_bytes(lambda: layer(x)) == 2.5 * mebibyte
    assert saved_bytes(lambda: layer(x), ignore=layer.parameters()) == 2 * mebibyte


def test_saved_bytes__rejects_non_callable() -> None:
    """传进结果而不是函数时报错。"""
    with pytest.raises(ValueError, match="function"):
        saved_bytes(torch.ones(2))


def test_peak_saved_bytes__matches_saved_bytes_without_backward() -> None:
    """图一直留着时，峰值就是前向存的总数。"""
    x, net = _x(40).reshape(8, 5), nn.Sequential(nn.Linear(5, 7), nn.Tanh()).double()
    assert peak_saved_bytes(lambda: net(x)) == saved_bytes(lambda: net(x))
    ignore = list(net.parameters())
    assert peak_saved_bytes(lambda: net(x), ignore) == saved_bytes(lambda: net(x), ignore)


def test_peak_saved_bytes__equals_released_steps() -> None:
    """每步反向就释放，三步的峰值等于一步；把三步的图都留着则是三倍。"""
    xs = [torch.ones(n, dtype=torch.float64, requires_grad=True) for n in (10, 30, 20)]
    assert peak_saved_bytes(lambda: [x.sin().sum().backward() for x in xs]) == 8 * 30
    assert peak_saved_bytes(lambda: [x.sin().sum().item() for x in xs]) == 8 * 30
    assert peak_saved_bytes(lambda: [x.sin().sum() for x in xs]) == 8 * 60


def test_peak_saved_bytes__rejects_non_callable() -> None:
    """传进结果而不是函数时报错。"""
    with pytest.raises(ValueError, match="function"):
        peak_saved_bytes(None)


def test_gradient_with_packing__matches_autograd_when_lossless() -> None:
    """换到磁盘格式（字节串）再还原，梯度与平常逐位相同。"""
    x = _x(7).detach()

    def function(x: torch.Tensor) -> torch.Tensor:
        return (x.sin() * x.exp()).sum()

    actual = gradient_with_packing(
        function,
        x,
        lambda t: t.detach().numpy().tobytes(),
        lambda b: torch.frombuffer(bytearray(b), dtype=torch.float64),
    )
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(actual, torch.autograd.grad(function(leaf), leaf)[0])


def test_gradient_with_packing__equals_rounded_cube() -> None:
    """f = Σx³ 存成 bfloat16：梯度是 3u²，u 是 x 的舍入值，不是 3x²。"""
    x = torch.tensor([1.0, 1.01, -2.345], dtype=torch.float64)
    actual = gradient_with_packing(
        lambda x: (x**3).sum(), x, lambda t: t.bfloat16(), lambda t: t.double()
    )
    rounded = x.bfloat16().double()
    torch.testing.assert_close(actual, 3 * rounded**2)
    assert (actual - 3 * x**2)[1].abs() > 1e-3


def test_gradient_with_packing__rejects_bad_input() -> None:
    """x 不是一维浮点张量、function 不返回标量时报错。"""
    with pytest.raises(ValueError, match="x "):
        gradient_with_packing(torch.sum, torch.ones(2, 2), lambda t: t, lambda t: t)
    with pytest.raises(ValueError, match="function"):
        gradient_with_packing(torch.sin, torch.ones(2), lambda t: t, lambda t: t)
