"""前向的钩子：调用模块时，它们按什么次序环绕着 forward。"""

from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor, nn


def call_with_hooks(
    forward: Callable[[Tensor], Tensor],
    pre_hooks: Sequence[Callable[[Tensor], Tensor | None]],
    hooks: Sequence[Callable[[Tensor, Tensor], Tensor | None]],
    x: Float[Tensor, "*batch"],
) -> Float[Tensor, "..."]:
    r"""调用模块时做的事：前置钩子依次改输入，forward，再由前向钩子依次改输出。

    Args:
        forward: 模块的 forward。
        pre_hooks: 前置钩子，按登记的先后；返回 None 表示不改。
        hooks: 前向钩子，按登记的先后，收到改过的输入与当前的输出；返回 None 表示不改。
        x: 输入。

    Returns:
        最后的输出。

    Raises:
        ValueError: 有一项不可调用。

    约定:
        只有一个位置参数；全局钩子、反向钩子、prepend 与 always_call 不在考虑之列。

    出处:
        PyTorch 2.13，torch/nn/modules/module.py 的 _call_impl。

    示例:
        >>> call_with_hooks(torch.neg, [lambda x: x + 1], [lambda x, y: 10 * y], torch.ones(1))
        tensor([-20.])
    """
    for name, items in (("forward", [forward]), ("pre_hooks", pre_hooks), ("hooks", hooks)):
        for item in items:
            if not callable(item):
                raise ValueError(f"{name} 必须可以调用，得到 {item!r}")
    for pre_hook in pre_hooks:
        changed = pre_hook(x)
        x = x if changed is None else changed
    y = forward(x)
    for hook in hooks:
        changed = hook(x, y)
        y = y if changed is None else changed
    return y


def record_outputs(model: nn.Module, x: Float[Tensor, "*batch"]) -> dict[str, Tensor]:
    r"""跑一次前向，用钩子记下每个没有子模块的模块的输出。

    Args:
        model: 任意模块，输出是张量的都行。
        x: 输入。

    Returns:
        从模块的名字到输出的字典，按调用的先后；被调用多次的留最后一次。

    Raises:
        ValueError: model 不是 nn.Module。

    约定:
        钩子用完即摘，model 不变。forward 里直接调用的函数没有名字，记不到。

    出处:
        PyTorch 2.13 文档 torch.nn.Module.register_forward_hook。

    示例:
        >>> list(record_outputs(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.ones(2)))
        ['0', '1']
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model 必须是 nn.Module，得到 {type(model).__name__}")
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, inputs, output: outputs.__setitem__(name, output)

    leaves = [(name, part) for name, part in model.named_modules() if not part._modules]
    handles = [part.register_forward_hook(keep(name)) for name, part in leaves]
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    return outputs
