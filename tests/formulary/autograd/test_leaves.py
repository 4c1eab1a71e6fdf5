"""叶子、.grad 的累加与第二次反向的检验。"""

import copy
import warnings

import pytest
import torch

from formulary.autograd.leaves import (
    accumulate_gradient,
    allows_second_backward,
    receives_grad,
    saved_tensor_names,
)


class _Square(torch.autograd.Function):
    """x²，存下自变量。"""

    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        return 2 * grad * ctx.saved_tensors[0]


class _Double(torch.autograd.Function):
    """2x，什么也不存。"""

    @staticmethod
    def forward(_ctx, x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    @staticmethod
    def backward(_ctx, grad: torch.Tensor) -> torch.Tensor:
        return 2 * grad


PROGRAMS = {
    "w + 1": (lambda w: w + 1, []),
    "w - w": (lambda w: w - w, []),
    "w.sum()": (lambda w: w.sum(), []),
    "-w": (lambda w: -w, []),
    "w.sum() + w.mean()": (lambda w: w.sum() + w.mean(), []),
    "w / 2": (lambda w: w / 2, ["DivBackward0.other"]),
    "w * 2": (lambda w: w * 2, ["MulBackward0.other"]),
    "w * 2 + 1": (lambda w: w * 2 + 1, ["MulBackward0.other"]),
    "w * w": (lambda w: w * w, ["MulBackward0.other", "MulBackward0.self"]),
    "w ** 2": (lambda w: w**2, ["PowBackward0.self"]),
    "w.exp()": (lambda w: w.exp(), ["ExpBackward0.result"]),
    "w.sin()": (lambda w: w.sin(), ["SinBackward0.self"]),
    "w.relu()": (lambda w: w.relu(), ["ReluBackward0.result"]),
    "Square": (_Square.apply, ["_SquareBackward.saved_tensors"]),
    "Double": (_Double.apply, []),
}


def _parameter(value: float = 3.0) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def test_receives_grad__matches_torch_backward() -> None:
    """叶子、中间结果、retain_grad、不求导的张量、切断的张量：反向之后有没有 .grad 恰如所料。"""
    w, frozen = _parameter(), torch.tensor(2.0, dtype=torch.float64)
    middle, kept = w * frozen, w * 5
    kept.retain_grad()
    restarted = (w * 7).detach().requires_grad_()
    tensors = [w, frozen, middle, kept, restarted]
    expected = [receives_grad(tensor) for tensor in tensors]
    assert expected == [True, False, False, True, True]
    (middle * kept * restarted).backward()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 对读中间结果的 .grad 发警告
        assert [tensor.grad is not None for tensor in tensors] == expected


def test_receives_grad__is_leaf_and_requires_grad() -> None:
    """没有 retain_grad 时，就是 torch 的 is_leaf 且 requires_grad。"""
    w = _parameter()
    for tensor in (
        w,
        w * 2,
        w.detach(),
        torch.ones(2),
        torch.nn.Parameter(torch.ones(2)),
        w.clone(),
    ):
        assert receives_grad(tensor) == (tensor.is_leaf and tensor.requires_grad)


def test_receives_grad__differs_from_computed_parameter() -> None:
    """torch.randn(...).requires_grad_() * 0.1 不是叶子，.grad 一直是 None，还发警告。"""
    w = torch.ones(3, requires_grad=True) * 0.1
    assert not receives_grad(w)
    (w * w).sum().backward()
    with pytest.warns(UserWarning, match="not a leaf Tensor"):
        assert w.grad is None


def test_receives_grad__differs_from_flags_of_view_under_no_grad() -> None:
    """no_grad 里取的视图，is_leaf 与 requires_grad 都是真，却收不到梯度；自己置了标志才行。"""
    w = torch.ones(3, requires_grad=True)
    with torch.no_grad():
        view, marked = w.view(-1), w.view(-1).requires_grad_()
        assert (receives_grad(view), receives_grad(marked)) == (False, True)
    assert view.is_leaf
    assert view.requires_grad
    (view * marked).sum().backward()
    assert (view.grad, marked.grad.tolist(), w.grad) == (None, [1.0, 1.0, 1.0], None)


def test_receives_grad__differs_from_deepcopied_result() -> None:
    """叶子可以 deepcopy，副本也收得到梯度；中间结果不能 deepcopy。"""
    w = _parameter()
    assert receives_grad(copy.deepcopy(w))
    assert not receives_grad(w * 2)
    with pytest.raises(RuntimeError, match="graph leaves"):
        copy.deepcopy(w * 2)


def test_receives_grad__rejects_non_tensor() -> None:
    """不是张量就报错。"""
    with pytest.raises(ValueError, match="tensor"):
        receives_grad(3.0)


def test_accumulate_gradient__matches_torch_backward() -> None:
    """连续三个不同的损失，与三次 backward() 得到同样的 .grad。"""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 2, dtype=torch.float64, generator=generator)
    ours, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()
    for power in (2, 3, 4):
        accumulate_gradient(ours, (ours**power).sum())
        (theirs**power).sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_accumulate_gradient__equals_worked_example() -> None:
    """w = 3，对 w² 反向两次，.grad 是 12 而不是 6；置为 None 之后重新从 6 开始。"""
    w = _parameter()
    accumulate_gradient(w, w**2)
    assert w.grad.item() == 6.0
    accumulate_gradient(w, w**2)
    assert w.grad.item() == 12.0
    w.grad = None
    accumulate_gradient(w, w**2)
    assert w.grad.item() == 6.0


def test_accumulate_gradient__is_gradient_of_the_sum() -> None:
    """两个损失先后反向，等于对它们的和反向一次；图共用时第一次要留着图。"""
    w = _parameter(0.7)
    shared = w.exp()
    accumulate_gradient(w, shared * 2, retain_graph=True)
    accumulate_gradient(w, shared**2)
    (expected,) = torch.autograd.grad(2 * w.exp() + w.exp() ** 2, w)
    torch.testing.assert_close(w.grad, expected)


def test_accumulate_gradient__rejects_bad_input() -> None:
    """不求导的张量、中间结果、不是标量的损失都报错。"""
    w = torch.ones(2, requires_grad=True)
    for bad in (torch.ones(2), w * 2):
        with pytest.raises(ValueError, match="叶子"):
            accumulate_gradient(bad, w.sum())
    with pytest.raises(ValueError, match="标量"):
        accumulate_gradient(w, w * 2)


@pytest.mark.parametrize("name", PROGRAMS)
def test_saved_tensor_names__equals_table(name: str) -> None:
    """加、减、求和、取负什么也不存；乘法存因子，exp 与 relu 存结果，sin 与乘方存自变量。"""
    program, expected = PROGRAMS[name]
    assert saved_tensor_names(program(_parameter())) == expected


def test_saved_tensor_names__matches_saved_tensors_hooks() -> None:
    """经过存张量钩子的个数，等于数出的名字的个数。"""
    x = torch.ones(4, 3, dtype=torch.float64, requires_grad=True)
    w = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
    packed = []

    def pack(saved: torch.Tensor) -> torch.Tensor:
        packed.append(saved.shape)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        y = torch.tanh(x @ w).exp().sum() * (w * w).sum()
    assert len(saved_tensor_names(y)) == len(packed) == 8


def test_saved_tensor_names__rejects_bad_input() -> None:
    """没有 grad_fn，或图已经释放，都报错。"""
    w = _parameter()
    with pytest.raises(ValueError, match="没有 grad_fn"):
        saved_tensor_names(w)
    y = w * w
    y.backward()
    with pytest.raises(ValueError, match="已经释放"):
        saved_tensor_names(y)


@pytest.mark.parametrize("name", PROGRAMS)
def test_allows_second_backward__matches_torch(name: str) -> None:
    """真的反向两次：没有存张量的成功，存过的报错；给了 retain_graph=True 的都成功。"""
    w = _parameter()
    y = PROGRAMS[name][0](w)
    expected = allows_second_backward(y)
    y.backward()
    if expected:
        y.backward()
    else:
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            y.backward()
    y = PROGRAMS[name][0](w)
    y.backward(retain_graph=True)
    y.backward()


def test_allows_second_backward__equals_worked_example() -> None:
    """w + 1 可以反向两次；w * 2 + 1 不行，因为乘法存了那个 2。"""
    w = _parameter()
    assert allows_second_backward(w + 1)
    assert not allows_second_backward(w * 2 + 1)


def test_allows_second_backward__rejects_leaf() -> None:
    """叶子没有图，报错。"""
    with pytest.raises(ValueError, match="没有 grad_fn"):
        allows_second_backward(_parameter())
