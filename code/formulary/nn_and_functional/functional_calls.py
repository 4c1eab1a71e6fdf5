"""把模块当成参数的函数来用：换上另一套张量求值，参数可以来自梯度步、别的网络或一批模型。"""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap


def call_with_state(
    module: nn.Module, state: Mapping[str, Tensor], x: Float[Tensor, "..."]
) -> Float[Tensor, "..."]:
    r"""暂时把 state 里的张量换到模块上，求出输出，再换回来。

    Args:
        module: 任意模块。
        state: 从名字到张量的字典，名字同 state_dict 的键；没给的用模块自己的。
        x: 模块的输入。

    Returns:
        模块以 state 为参数时的输出，对 state 里的张量可以求导。

    Raises:
        ValueError: state 里有模块没有登记的名字，或形状与模块的不同。

    约定:
        直接换登记表里的一项，不拷贝数值，所以计算图连着 state。训练模式的批归一化就地更新的
        是 state 里的运行统计，模块自己的不变。绑在一起的参数要把每个名字都给出。

    出处:
        与 torch.func.functional_call（PyTorch 2.13）的做法相同，这里只留主干。

    示例:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> call_with_state(layer, {"weight": torch.tensor([[3.0, 4.0]])}, torch.ones(2))
        tensor([7.])
    """
    places = []
    for name, tensor in state.items():
        table, leaf = _registration(module, name)
        if table[leaf].shape != tensor.shape:
            needed, found = tuple(table[leaf].shape), tuple(tensor.shape)
            raise ValueError(f"state 里 {name!r} 的形状必须是 {needed}，得到 {found}")
        places.append((table, leaf, table[leaf], tensor))
    try:
        for table, leaf, _, tensor in places:
            table[leaf] = tensor
        return module(x)
    finally:
        for table, leaf, own, _ in places:
            table[leaf] = own


def _registration(module: nn.Module, name: str) -> tuple[dict[str, Tensor | None], str]:
    """登记着 name 的那张表与表里的键。"""
    path, _, leaf = name.rpartition(".")
    if path in dict(module.named_modules(remove_duplicate=False)):
        owner = module.get_submodule(path)
        for table in (owner._parameters, owner._buffers):
            if table.get(leaf) is not None:
                return table, leaf
    raise ValueError(f"state 的名字必须是模块登记过的参数或缓冲区，得到 {name!r}")


def inner_update(
    module: nn.Module,
    parameters: Mapping[str, Tensor],
    loss: Callable[[Tensor], Tensor],
    x: Float[Tensor, "..."],
    learning_rate: float,
) -> dict[str, Tensor]:
    r"""走一步梯度下降，得到一套新参数；新参数仍是旧参数的可导函数。

    Args:
        module: 提供 forward 的模块，它自己的参数不用也不改。
        parameters: 起点，从名字到要求梯度的张量。
        loss: 从模块的输出到标量损失的函数。
        x: 模块的输入。
        learning_rate: 学习率，非负。

    Returns:
        新参数，名字与形状同 parameters。

    Raises:
        ValueError: 学习率是负数，或 loss 不返回标量。

    约定:
        保留二阶的计算图；只要一阶近似的话，对返回值之前的梯度 detach。

    出处:
        Finn et al. 2017, arXiv:1703.03400v3, 式 (1)。

    示例:
        >>> layer, start = nn.Linear(1, 1, bias=False), torch.ones(1, 1, requires_grad=True)
        >>> half_square = lambda y: ((y - 1) ** 2).sum() / 2
        >>> inner_update(layer, {"weight": start}, half_square, torch.tensor([2.0]), 0.1)["weight"]
        tensor([[0.8000]], grad_fn=<SubBackward0>)
    """
    if not learning_rate >= 0:
        raise ValueError(f"learning_rate 必须是非负数，得到 {learning_rate!r}")
    value = loss(functional_call(module, dict(parameters), (x,)))
    if value.ndim != 0:
        raise ValueError(f"loss 必须返回标量，得到形状 {tuple(value.shape)}")
    gradients = torch.autograd.grad(value, list(parameters.values()), create_graph=True)
    return {
        name: parameter - learning_rate * gradient
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
    }


def ensemble_forward(
    modules: Sequence[nn.Module], x: Float[Tensor, "B ..."]
) -> Float[Tensor, "N B ..."]:
    r"""用同一份 forward 一次求出结构相同的一组模型的输出。

    Args:
        modules: 类型、参数的名字与形状都相同的模型，至少一个。
        x: 各模型共用的输入。

    Returns:
        各模型的输出，新增的第 0 轴是模型的序号。

    Raises:
        ValueError: modules 为空，类型或参数对不上，或处于训练模式。

    约定:
        只收评估模式的模型：训练模式的随机失活与批归一化在 vmap 下要另作规定。
        参数叠成一份拷贝，梯度不回到各模型。

    出处:
        PyTorch 2.13 文档 torch.func.stack_module_state。

    示例:
        >>> models = [nn.Linear(3, 2).eval() for _ in range(5)]
        >>> ensemble_forward(models, torch.ones(4, 3)).shape
        torch.Size([5, 4, 2])
    """
    if not modules:
        raise ValueError("modules 至少要有一个模型，得到空列表")
    shapes = [{k: t.shape for k, t in m.state_dict().items()} for m in modules]
    kinds = {type(module) for module in modules}
    if len(kinds) > 1 or any(shape != shapes[0] for shape in shapes):
        raise ValueError("modules 的类型、参数名与形状必须全都相同")
    if any(part.training for m in modules for part in m.modules()):
        raise ValueError("modules 必须都处于评估模式，先调用 eval()")
    parameters, buffers = stack_module_state(list(modules))
    base = modules[0]

    def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        return functional_call(base, (parameters, buffers), (x,))

    return vmap(one)(parameters, buffers)
