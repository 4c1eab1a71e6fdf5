"""原地操作与版本计数器的检验。"""

import pytest
import torch

from formulary.autograd.versions import inplace_outcome, require_unmodified, version_checks

X = torch.tensor([0.3, 1.2, 0.7], dtype=torch.float64)


def _through(way: str):
    """算 sigmoid，经过 way 原地乘 2，返回 sigmoid 的和。"""

    def program(x: torch.Tensor) -> torch.Tensor:
        y = x.sigmoid()
        total = y.sum()
        (y.detach() if way == "detach" else y.data).mul_(2)
        return total

    return program


def _scaled_input(x: torch.Tensor) -> torch.Tensor:
    total = (x * x).sum()
    x.data.mul_(2)
    return total


def _assigned(x: torch.Tensor) -> torch.Tensor:
    y = x * 1
    y[0] = 5.0
    return (y * x).sum()


def _updated_input(power: int):
    """算 x 的 power 次方之和，然后在 no_grad 里原地改 x。"""

    def program(x: torch.Tensor) -> torch.Tensor:
        total = (x * x).sum() if power == 2 else (x + 1).sum()
        with torch.no_grad():
            x.mul_(2)
        return total

    return program


CASES = {
    "exp 之后 mul_": (lambda x: x.exp().mul_(2).sum(), "error"),
    "relu 之后 add_": (lambda x: x.relu().add_(1).sum(), "error"),
    "sigmoid 之后 mul_": (lambda x: x.sigmoid().mul_(2).sum(), "error"),
    "加法之后 mul_": (lambda x: (x + 1).mul_(2).sum(), "ok"),
    "sin 之后 mul_": (lambda x: x.sin().mul_(2).sum(), "ok"),
    "乘法之后 mul_": (lambda x: (x * x).mul_(2).sum(), "ok"),
    "给一个元素赋值": (_assigned, "ok"),
    "detach 之后 mul_": (_through("detach"), "error"),
    "data 之后 mul_": (_through("data"), "silent"),
    "改输入的 data": (_scaled_input, "silent"),
    "no_grad 里改输入": (_updated_input(2), "error"),
    "no_grad 里改没有存的输入": (_updated_input(1), "ok"),
}


@pytest.mark.parametrize("name", CASES)
def test_inplace_outcome__equals_table(name: str) -> None:
    """文中列出的每种情形：对、报错，还是不报错而梯度错了。"""
    program, expected = CASES[name]
    assert inplace_outcome(program, X) == expected


def test_inplace_outcome__matches_version_numbers() -> None:
    """exp 存结果，原地改一次之后版本号比存下时多 1，torch 的报错里写着这两个数。"""
    x = X.clone().requires_grad_()
    y = x.exp()
    y.mul_(2)
    assert y._version == 1
    with pytest.raises(RuntimeError, match="is at version 1; expected version 0 instead"):
        y.sum().backward()
    assert inplace_outcome(lambda x: x.exp().mul_(2).sum(), X) == "error"


def test_inplace_outcome__matches_closed_form_when_silent() -> None:
    """对 Σw² 改 w.data 之后反向，得到 2w 的新值，恰是应有的 2 倍。"""
    w = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(_scaled_input(w), w)
    torch.testing.assert_close(gradient, 2 * (2 * X))
    assert inplace_outcome(_scaled_input, X) == "silent"


def test_inplace_outcome__preserves_input() -> None:
    """在副本上试，不改动给它的张量。"""
    x = X.clone()
    inplace_outcome(_scaled_input, x)
    torch.testing.assert_close(x, X)


def test_inplace_outcome__rejects_bad_input() -> None:
    """float32、整数、不是标量的结果都报错。"""
    with pytest.raises(ValueError, match="float64"):
        inplace_outcome(lambda x: x.sum(), torch.ones(2))
    with pytest.raises(ValueError, match="x 必须"):
        inplace_outcome(lambda x: x.sum(), torch.ones(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="标量"):
        inplace_outcome(lambda x: x * 2, X)


def test_require_unmodified__matches_torch_version_counter() -> None:
    """每种原地操作加一，视图与 detach 共用一个计数器，.data 与 clone 另起一个。"""
    x = torch.ones(4)
    for number, change in enumerate(
        (lambda: x.add_(1), lambda: x[0].fill_(3), lambda: x.view(2, 2).mul_(2),
         lambda: x.detach().zero_(), lambda: x.__setitem__(1, 7.0)), start=1
    ):  # fmt: skip
        change()
        assert require_unmodified(x, number) is x
    x.data.add_(1)
    x.clone().add_(1)
    x.add(1)
    assert require_unmodified(x, 5) is x


def test_require_unmodified__equals_worked_example() -> None:
    """存下时是第 0 版，改一次之后是第 1 版，报错里两个数都在。"""
    x = torch.ones(2)
    x.mul_(2)
    with pytest.raises(ValueError, match="现在是第 1 版，存下时是第 0 版"):
        require_unmodified(x, 0)
    assert require_unmodified(x, 1).tolist() == [2.0, 2.0]


def test_require_unmodified__rejects_bad_version() -> None:
    """负的或不是整数的版本号报错；比现在大的也不行。"""
    for version in (-1, 0.0):
        with pytest.raises(ValueError, match="version 必须"):
            require_unmodified(torch.ones(2), version)
    with pytest.raises(ValueError, match="原地改动"):
        require_unmodified(torch.ones(2), 1)


def test_version_checks__matches_torch_error() -> None:
    """torch 自己会报错的情形，在这个上下文里建图也报错；不报错的照样得到同样的梯度。"""
    x = X.clone().requires_grad_()
    with version_checks():
        y = x.exp()
        z = x.sin()
    y.mul_(2)
    z.mul_(2)
    with pytest.raises(ValueError, match="第 1 版"):
        y.sum().backward()
    (gradient,) = torch.autograd.grad(z.sum(), x)
    torch.testing.assert_close(gradient, 2 * X.cos())


def test_version_checks__differs_from_hooks_without_check() -> None:
    """原样存取的钩子让 torch 跳过核对：exp 之后 mul_(2)，梯度得 4e^x，应为 2e^x，也不报错。"""
    x = X.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: saved, lambda saved: saved):
        y = x.exp()
    y.mul_(2)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, 4 * X.exp())
    with version_checks():
        y = x.exp()
    y.mul_(2)
    with pytest.raises(ValueError, match="原地改动"):
        torch.autograd.grad(y.sum(), x)


def test_version_checks__is_limited_to_its_block() -> None:
    """出了上下文，恢复 torch 自己的核对。"""
    x = X.clone().requires_grad_()
    with version_checks():
        pass
    y = x.exp()
    y.mul_(2)
    with pytest.raises(RuntimeError, match="inplace operation"):
        y.sum().backward()
