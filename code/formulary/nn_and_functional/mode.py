"""模块的模式：train() 与 eval() 怎样传下去，以及评估时怎样既切模式又不记计算图。"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def set_mode(module: nn.Module, training: bool) -> None:
    r"""把模块与它的全部后代的 training 设成同一个值。

    Args:
        module: 任意模块。
        training: 真是训练模式，假是评估模式。

    Raises:
        ValueError: module 不是 nn.Module，或 training 不是布尔值。

    约定:
        与 module.train(training) 相同，但不理会子类对 train 的改写；只改 training 这一个属性，
        不影响要不要记梯度。

    出处:
        PyTorch 2.13，torch/nn/modules/module.py 的 train。

    示例:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
        >>> set_mode(model, False)
        >>> [part.training for part in model.modules()]
        [False, False, False]
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"module 必须是 nn.Module，得到 {type(module).__name__}")
    if not isinstance(training, bool):
        raise ValueError(f"training 必须是布尔值，得到 {training!r}")
    module.training = training
    for child in module.children():
        set_mode(child, training)


def evaluate(
    module: nn.Module, x: Float[Tensor, "..."] | Int[Tensor, "..."]
) -> Float[Tensor, "..."]:
    r"""在评估模式下、不记计算图地求输出，然后让每个子模块回到原来的模式。

    Args:
        module: 任意模块。
        x: 模块的输入。

    Returns:
        评估模式的输出，requires_grad 为假。

    Raises:
        ValueError: module 不是 nn.Module。

    约定:
        逐个记下再逐个恢复，冻结着的子模块不会被一并拨回训练模式；forward 抛出异常也恢复。

    出处:
        本站。

    示例:
        >>> model = nn.Dropout(0.5)
        >>> evaluate(model, torch.ones(3)), model.training
        (tensor([1., 1., 1.]), True)
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"module 必须是 nn.Module，得到 {type(module).__name__}")
    modes = [(part, part.training) for part in module.modules()]
    set_mode(module, False)
    try:
        with torch.no_grad():
            return module(x)
    finally:
        for part, training in modes:
            part.training = training
