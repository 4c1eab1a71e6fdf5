"""把模块当函数用的检验。"""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from formulary.nn_and_functional.functional_calls import (
    call_with_state,
    ensemble_forward,
    inner_update,
)


def _random(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def _model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()


def _other_state(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: tensor.clone() if name.endswith("tracked") else 0.5 + _random(*tensor.shape).abs()
        for name, tensor in model.state_dict().items()
    }


def test_call_with_state__matches_functional_call() -> None:
    """与 torch.func.functional_call 相同，状态给全、只给一部分都对。"""
    model, x = _model(), _random(5, 3)
    state = _other_state(model)
    for part in (state, {"3.bias": state["3.bias"]}, {}):
        actual = call_with_state(model.eval(), part, x)
        torch.testing.assert_close(actual, functional_call(model, part, (x,)))


def test_call_with_state__matches_loaded_module() -> None:
    """与把状态装进一份拷贝之后直接调用相同。"""
    model, x = _model().eval(), _random(5, 3)
    state = _other_state(model)
    loaded = copy.deepcopy(model)
    loaded.load_state_dict(state)
    torch.testing.assert_close(call_with_state(model, state, x), loaded(x))


def test_call_with_state__preserves_module() -> None:
    """模块的参数与缓冲区还是原来那些对象，数值不变；forward 抛出异常也换回来。"""
    model = _model()
    before = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    values = copy.deepcopy(model.state_dict())
    state = _other_state(model)
    call_with_state(model, state, _random(5, 3))
    with pytest.raises(RuntimeError):
        call_with_state(model, state, _random(5, 2))
    after = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert all(after[name] is before[name] for name in before)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, values[name])


def test_call_with_state__preserves_gradient_to_state() -> None:
    """梯度回到交进去的张量，不回到模块的参数。"""
    model, x = nn.Linear(3, 2).double(), _random(5, 3)
    weight = _random(2, 3).requires_grad_()
    call_with_state(model, {"weight": 2 * weight}, x).sum().backward()
    expected = 2 * x.sum(0).expand(2, 3)
    torch.testing.assert_close(weight.grad, expected)
    assert model.weight.grad is None


@pytest.mark.parametrize("assign", [False, True])
def test_call_with_state__differs_from_load_state_dict(assign: bool) -> None:
    """load_state_dict 抄数值，assign=True 换上新的叶子：前向相同，梯度都回不到交进去的张量。"""
    model, x = nn.Linear(3, 2, bias=False).double(), _random(5, 3)
    weight = _random(2, 3).requires_grad_()
    expected = call_with_state(model, {"weight": 2 * weight}, x)
    model.load_state_dict({"weight": 2 * weight}, assign=assign)
    y = model(x)
    torch.testing.assert_close(y, expected)
    y.sum().backward()
    assert model.weight.is_leaf
    assert model.weight.grad is not None
    assert weight.grad is None
    expected.sum().backward()
    assert weight.grad is not None


def test_call_with_state__equals_worked_example() -> None:
    """文中的例子：训练模式的批归一化，更新的是交进去的运行均值，模块自己的仍是零。"""
    for call in (call_with_state, lambda m, s, x: functional_call(m, s, (x,))):
        layer, x = nn.BatchNorm1d(2), torch.tensor([[1.0, 10.0], [3.0, 30.0]])
        state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
        call(layer, state, x)
        torch.testing.assert_close(state["running_mean"], torch.tensor([0.2, 2.0]))
        assert int(state["num_batches_tracked"]) == 1
        assert (layer.running_mean == 0).all()
        assert int(layer.num_batches_tracked) == 0


def test_call_with_state__differs_from_functional_call_on_tied_weights() -> None:
    """共用的参数只给一个名字时，functional_call 两处都换，我们只换一处；名字都给就相同。"""
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)).double()
    model[1].weight = model[0].weight
    weight, x = _random(3, 3), _random(4, 3)
    expected = functional_call(model, {"0.weight": weight}, (x,))
    torch.testing.assert_close(expected, x @ weight.T @ weight.T)
    both = {"0.weight": weight, "1.weight": weight}
    torch.testing.assert_close(call_with_state(model, both, x), expected)
    assert (call_with_state(model, {"0.weight": weight}, x) - expected).abs().max() > 0.1


def test_call_with_state__rejects_unknown_names_and_shapes() -> None:
    """没有登记的名字、形状不同的张量报错；functional_call 对不认识的名字不声不响。"""
    model, x = _model(), _random(5, 3)
    for name in ("4.weight", "0.scale", "weight", "2.bias"):
        with pytest.raises(ValueError, match="state 的名字必须是模块登记过的"):
            call_with_state(model, {name: torch.ones(1)}, x)
    with pytest.raises(ValueError, match=r"形状必须是 \(4, 3\)，得到 \(3, 4\)"):
        call_with_state(model, {"0.weight": _random(3, 4)}, x)
    typo = functional_call(model.eval(), {"0.wieght": torch.ones(1)}, (x,))
    torch.testing.assert_close(typo, model(x))
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\)"):
        functional_call(model, {"0.wieght": torch.ones(1)}, (x,), strict=True)


def _half_square(y: Tensor) -> Tensor:
    return (y - 1).square().sum() / 2


def test_inner_update__matches_sgd_step() -> None:
    """与拷贝一份模型、用 SGD 走一步得到的参数相同。"""
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double(), _random(5, 3)
    stepped = copy.deepcopy(model)
    optimizer = torch.optim.SGD(stepped.parameters(), lr=0.3)
    _half_square(stepped(x)).backward()
    optimizer.step()
    updated = inner_update(model, dict(model.named_parameters()), _half_square, x, 0.3)
    for name, parameter in stepped.named_parameters():
        torch.testing.assert_close(updated[name].detach(), parameter.detach())


def test_inner_update__matches_finite_differences_through_the_step() -> None:
    """先走一步再求损失，对起点的梯度与中心差分相同。"""
    model, x = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double(), _random(4, 2)
    start = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}

    def outer(weight: Tensor) -> Tensor:
        updated = inner_update(model, start | {"0.weight": weight}, _half_square, x, 0.2)
        return _half_square(functional_call(model, updated, (x,)))

    assert torch.autograd.gradcheck(outer, start["0.weight"])


def test_inner_update__matches_hessian_formula() -> None:
    """外层梯度等于 (I − ηH) 乘以新参数处的梯度，H 由 torch.autograd.functional.hessian 另算。"""
    model, x, rate = nn.Linear(3, 1).double(), _random(4, 3), 0.2
    theta, bias = _random(1, 3).requires_grad_(), _random(1)

    def quartic(y: Tensor) -> Tensor:
        return (y**4).sum() / 10

    def at(weight: Tensor) -> Tensor:
        return quartic(x @ weight.view(3) + bias)

    updated = inner_update(
        model, {"weight": theta, "bias": bias.requires_grad_()}, quartic, x, rate
    )
    outer = _half_square(x @ updated["weight"].view(3))
    actual, later = torch.autograd.grad(outer, (theta, updated["weight"]))
    hessian = torch.autograd.functional.hessian(at, theta.detach()).view(3, 3)
    expected = (torch.eye(3).double() - rate * hessian) @ later.view(3)
    torch.testing.assert_close(actual.view(3), expected)


def test_inner_update__equals_exercise() -> None:
    """练习：θ = 1、x = 2、y = 1、学习率 0.1，新参数 0.8，外层梯度 0.72；忽略二阶项是 1.2。"""
    model = nn.Linear(1, 1, bias=False).double()
    theta = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    x = torch.tensor([2.0], dtype=torch.float64)
    updated = inner_update(model, {"weight": theta}, _half_square, x, 0.1)["weight"]
    torch.testing.assert_close(updated.item(), 0.8)
    outer = _half_square(functional_call(model, {"weight": updated}, (x,)))
    full, first_order = torch.autograd.grad(outer, (theta, updated))
    torch.testing.assert_close((full.item(), first_order.item()), (0.72, 1.2))


def test_inner_update__differs_from_reassigning_parameters() -> None:
    """把新值包成 nn.Parameter 装回模块，计算图就断了：外层损失对起点没有梯度。"""
    model = nn.Linear(1, 1, bias=False).double()
    theta = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    x = torch.tensor([2.0], dtype=torch.float64)
    model.weight = nn.Parameter(
        inner_update(model, {"weight": theta}, _half_square, x, 0.1)["weight"]
    )
    with pytest.raises(RuntimeError, match="appears to not have been used"):
        torch.autograd.grad(_half_square(model(x)), theta)


def test_inner_update__rejects_bad_input() -> None:
    """负的学习率、不返回标量的损失报错。"""
    model, x = nn.Linear(3, 2), torch.ones(3)
    parameters = dict(model.named_parameters())
    with pytest.raises(ValueError, match="learning_rate 必须是非负数"):
        inner_update(model, parameters, _half_square, x, -0.1)
    with pytest.raises(ValueError, match="loss 必须返回标量"):
        inner_update(model, parameters, lambda y: y, x, 0.1)


def test_ensemble_forward__matches_one_by_one() -> None:
    """与逐个调用再叠起来相同，缓冲区各用各的。"""
    models = [_model() for _ in range(4)]
    for model in models:
        model(_random(5, 3))  # 让各自的运行统计不同
        model.eval()
    x = _random(6, 3)
    expected = torch.stack([model(x) for model in models])
    torch.testing.assert_close(ensemble_forward(models, x), expected)


def test_ensemble_forward__equals_worked_example() -> None:
    """文中的例子：三个线性层的权重依次是 1、2、3，输入 (1, 10)，输出成三行。"""
    models = [nn.Linear(1, 1, bias=False).eval() for _ in range(3)]
    for k, model in enumerate(models):
        model.weight.data.fill_(k + 1)
    actual = ensemble_forward(models, torch.tensor([[1.0], [10.0]]))
    expected = torch.tensor([[[1.0], [10.0]], [[2.0], [20.0]], [[3.0], [30.0]]])
    torch.testing.assert_close(actual, expected)


def test_ensemble_forward__rejects_bad_models() -> None:
    """空列表、类型不同、形状不同、有一个子模块在训练时报错。"""
    x = torch.ones(2, 3)
    with pytest.raises(ValueError, match="modules 至少要有一个"):
        ensemble_forward([], x)
    linear = nn.Linear(3, 2).eval()
    for other in (nn.Linear(3, 4).eval(), nn.Linear(3, 2, bias=False).eval()):
        with pytest.raises(ValueError, match="必须全都相同"):
            ensemble_forward([linear, other], x)
    for other in (nn.Sequential(linear).eval(), nn.Bilinear(3, 2, 2).eval()):
        with pytest.raises(ValueError, match="必须全都相同"):
            ensemble_forward([linear, other], x)
    pair = [nn.Sequential(nn.Linear(3, 2), nn.Dropout()).eval() for _ in range(2)]
    pair[1][1].train()
    with pytest.raises(ValueError, match="必须都处于评估模式"):
        ensemble_forward(pair, x)
