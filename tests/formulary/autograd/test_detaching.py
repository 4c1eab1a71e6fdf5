"""切断梯度的几种办法的检验：文中表格的每一格一个测试。"""

import pytest
import torch
from torch.autograd import forward_ad

from formulary.autograd.detaching import WAYS, block_of, cut, observe, stop_gradient

COLUMNS = ("records", "requires_grad", "shares_storage", "version", "later", "stale", "tangent")
TABLE = {
    "detach": (True, False, True, "shared", "ok", "error", False),
    "no_grad": (False, False, False, "own", "ok", "ok", True),
    "no_grad_view": (False, True, True, "shared", "ok", "error", True),
    "inference_mode": (False, False, False, "none", "error", "ok", False),
    "requires_grad_": (False, False, True, "shared", "ok", "error", True),
    "data": (True, False, True, "own", "ok", "silent", False),
}
CELLS = [(way, column) for way in WAYS for column in COLUMNS]


def _leaf() -> torch.Tensor:
    return torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)


def test_stop_gradient__matches_detach() -> None:
    """值与 detach 相同，反向模式的导数是零。"""
    x = _leaf()
    torch.testing.assert_close(stop_gradient(x), x.detach())
    (gradient,) = torch.autograd.grad((x * 0 + stop_gradient(x) ** 3).sum(), x)
    torch.testing.assert_close(gradient, torch.zeros(2, dtype=torch.float64))


def test_stop_gradient__matches_constant_closed_form() -> None:
    """d/dw [w·sg(w)] = w：与把其中一个 w 换成常数再求差分相同。"""
    for value in (-1.3, 0.4, 2.0):
        w = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(w * stop_gradient(w), w)
        h = 1e-6
        slope = ((value + h) * value - (value - h) * value) / (2 * h)
        # 差分自身的舍入误差约为 1e-10
        torch.testing.assert_close(gradient.item(), slope, atol=1e-8, rtol=0.0)


def test_stop_gradient__equals_worked_example() -> None:
    """w = 2 时导数是 2，不是 4。"""
    w = torch.tensor(2.0, requires_grad=True)
    assert torch.autograd.grad(w * stop_gradient(w), w)[0].item() == 2.0
    assert torch.autograd.grad(w * w, w)[0].item() == 4.0


def test_stop_gradient__is_zero_in_forward_mode() -> None:
    """前向模式里切向量也断了。"""
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(torch.tensor(2.0), torch.tensor(1.0))
        product = forward_ad.unpack_dual(dual * stop_gradient(dual))
        assert product.tangent.item() == 2.0
        assert forward_ad.unpack_dual(stop_gradient(dual)).tangent is None


def test_stop_gradient__rejects_integers() -> None:
    """整数张量没有梯度可停，报错。"""
    with pytest.raises(ValueError, match="x 必须是实浮点张量"):
        stop_gradient(torch.ones(2, dtype=torch.int64))


@pytest.mark.parametrize(("way", "column"), CELLS)
def test_observe__equals_table(way: str, column: str) -> None:
    """文中表格的每一格：六种办法、七项性质，逐格核对。"""
    assert observe(way)[column] == TABLE[way][COLUMNS.index(column)]


def test_observe__matches_detach_by_hand() -> None:
    """不经过 observe，直接对 detach 与 data 重做：共用存储，一个报错，一个给出 2 倍的梯度。"""
    x = _leaf()
    loss = (x * x).sum()
    shared = x.detach()
    assert observe("detach")["shares_storage"] is (shared.data_ptr() == x.data_ptr())
    shared.mul_(2)
    assert x._version == 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    x = _leaf()
    loss = (x * x).sum()
    x.data.mul_(2)
    assert x._version == 0
    loss.backward()
    assert x.grad.tolist() == [4.0, 8.0]  # 应为 2、4


def test_observe__matches_inference_mode_by_hand() -> None:
    """推理张量没有版本号，不能存进图里，也不能在外面原地改；clone 之后又是普通张量。"""
    with torch.inference_mode():
        y = _leaf() * 1
    assert observe("inference_mode")["version"] == "none"
    with pytest.raises(RuntimeError, match="do not track version counter"):
        _ = y._version
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        _leaf() * y
    with pytest.raises(RuntimeError, match="outside InferenceMode"):
        y.add_(1)
    assert (_leaf() + y).requires_grad  # 加法不存张量，照样可以
    (_leaf() * y.clone()).sum().backward()


def test_observe__matches_view_under_no_grad_by_hand() -> None:
    """no_grad 里取的视图，requires_grad 仍是 True，却没有 grad_fn：用它算出的东西传不回去。"""
    x = _leaf()
    with torch.no_grad():
        view = x.view(-1)
    assert observe("no_grad_view")["requires_grad"] is view.requires_grad is True
    assert view.grad_fn is None
    loss = (view * view).sum()
    assert loss.grad_fn.next_functions[0][0].next_functions == ((None, 0), (None, 0))
    loss.backward()
    assert x.grad is None
    assert view.grad is None
    with pytest.raises(RuntimeError, match="view was created in no_grad mode"):
        view.mul_(2)


def test_observe__matches_flag_by_hand() -> None:
    """改了标志，旧图照样反向，但不再往 x.grad 里写；原地改过 x，旧图核对版本号而报错。"""
    x = _leaf()
    y = x * 3
    y.retain_grad()
    loss = (y * x).sum()
    x.requires_grad_(False)
    loss.backward(retain_graph=True)
    assert x.grad is None
    assert y.grad.tolist() == [1.0, 2.0]
    x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    assert observe("requires_grad_")["stale"] == "error"


def test_observe__is_independent_of_eval() -> None:
    """eval() 不停止记录，no_grad 不切换批归一化：训练模式下运行统计照样更新。"""
    layer = torch.nn.BatchNorm1d(2)
    assert observe("no_grad")["records"] is False
    with block_of("no_grad"):
        layer(torch.tensor([[1.0, 2.0], [3.0, 5.0]]))
    assert layer.running_mean.tolist() != [0.0, 0.0]
    assert layer.eval()(torch.ones(2, 2)).requires_grad


def test_observe__rejects_unknown_way() -> None:
    """不认识的办法报错。"""
    with pytest.raises(ValueError, match="way 必须是"):
        observe("eval")


@pytest.mark.parametrize("way", WAYS)
def test_cut__preserves_value(way: str) -> None:
    """六种办法都不改变值，也都没有 grad_fn。"""
    result = cut(way, _leaf())
    assert result.tolist() == [1.0, 2.0]
    assert result.grad_fn is None


def test_cut__matches_torch_flags() -> None:
    """推理张量只出自 inference_mode；requires_grad_ 返回的就是 x 自己，非叶子则报错。"""
    assert [cut(way, _leaf()).is_inference() for way in WAYS] == [
        w == "inference_mode" for w in WAYS
    ]
    x = _leaf()
    assert cut("requires_grad_", x) is x
    with pytest.raises(RuntimeError, match="leaf variables"):
        cut("requires_grad_", _leaf() * 2)


def test_cut__rejects_bad_input() -> None:
    """不认识的办法、不是一维的张量都报错。"""
    with pytest.raises(ValueError, match="way 必须是"):
        cut("stop", _leaf())
    with pytest.raises(ValueError, match="x "):
        cut("detach", torch.ones(2, 2))


def test_block_of__matches_torch_modes() -> None:
    """各种办法的上下文里，是否记录、是否推理模式恰如其名；外面是 no_grad 时也照此。"""
    expected = {"no_grad": (False, False), "no_grad_view": (False, False)}
    expected["inference_mode"] = (False, True)
    for way in WAYS:
        with torch.no_grad(), block_of(way):
            found = (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        assert found == expected.get(way, (True, False))


def test_block_of__rejects_unknown_way() -> None:
    """不认识的办法报错。"""
    with pytest.raises(ValueError, match="way 必须是"):
        block_of("eval")
