"""叶子张量、.grad 的累加，与第二次反向什么时候可行。"""

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.autograd.graph import backward_graph


def receives_grad(tensor: Tensor) -> bool:
    r"""反向之后，这个张量的 .grad 会不会被写入。

    Args:
        tensor: 损失所依赖的一个张量。

    Returns:
        图里代表它的结点是 AccumulateGrad（需要求导的叶子），或调用过 retain_grad()，为真。

    Raises:
        ValueError: tensor 不是张量。

    约定:
        不需要求导的张量在图里没有结点。对它再算一步，next_functions 里就是代表它的结点；
        no_grad 里取的视图，is_leaf 与 requires_grad 都是真，却也没有结点。

    出处:
        PyTorch 文档 torch.Tensor.is_leaf 与 retain_grad；torch 2.13。

    示例:
        >>> w = torch.tensor(2.0, requires_grad=True)
        >>> receives_grad(w), receives_grad(w * 2)
        (True, False)
    """
    if not isinstance(tensor, Tensor):
        raise ValueError(f"tensor 必须是张量，得到 {type(tensor).__name__}")
    if not tensor.requires_grad or tensor.grad_fn is not None:
        return tensor.retains_grad
    with torch.enable_grad():
        ((node, _),) = tensor.view_as(tensor).grad_fn.next_functions
    return node is not None


def accumulate_gradient(
    parameter: Float[Tensor, "..."], loss: Float[Tensor, ""], retain_graph: bool = False
) -> None:
    r"""把损失对参数的梯度加到 parameter.grad 上，而不是写上去。

    Args:
        parameter: 需要求导的叶子张量。
        loss: 标量损失。
        retain_graph: 是否留着图，以便再反向一次。

    Raises:
        ValueError: parameter 不是需要求导的叶子，或 loss 不是标量。

    约定:
        第一次的 .grad 是 None，当作零。单位是损失的单位除以参数的单位。

    出处:
        PyTorch 文档 torch.Tensor.backward；torch 2.13。

    示例:
        >>> w = torch.tensor(3.0, requires_grad=True)
        >>> accumulate_gradient(w, w**2), accumulate_gradient(w, w**2), w.grad
        (None, None, tensor(12.))
    """
    if not (parameter.requires_grad and parameter.is_leaf):
        raise ValueError("parameter 必须是 requires_grad=True 的叶子张量")
    if loss.ndim:
        raise ValueError(f"loss 必须是标量，得到形状 {tuple(loss.shape)}")
    (gradient,) = torch.autograd.grad(loss, parameter, retain_graph=retain_graph)
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def saved_tensor_names(output: Tensor) -> list[str]:
    r"""反向图里的各个结点存下了哪些张量。

    Args:
        output: 由记录下来的运算得到的张量，图还没有释放。

    Returns:
        “结点名.属性名”的列表，如 "MulBackward0.other"；只数真正存了张量的属性。

    Raises:
        ValueError: output 没有 grad_fn，或图已经释放。

    约定:
        形状、系数之类的普通 Python 值不算：它们不占显存，也不随反向释放。
        自定义的 Function 存下的，记作“结点名.saved_tensors”。

    出处:
        torch 2.13 的 Node._saved_* 与 ctx.saved_tensors。

    示例:
        >>> w = torch.tensor(3.0, requires_grad=True)
        >>> saved_tensor_names(w * 2 + 1), saved_tensor_names(w + 1)
        (['MulBackward0.other'], [])
    """
    names = []
    for node in backward_graph(output)[0]:
        for attribute in dir(node):
            if not attribute.startswith(("_saved_", "saved_tensors")):
                continue
            try:
                saved = getattr(node, attribute)
            except RuntimeError as error:
                raise ValueError("output 的图已经释放，请在反向之前检查") from error
            if any(
                isinstance(v, Tensor) for v in (saved if isinstance(saved, tuple) else (saved,))
            ):
                names.append(
                    f"{node.name().rpartition('::')[2]}.{attribute.removeprefix('_saved_')}"
                )
    return names


def allows_second_backward(output: Tensor) -> bool:
    r"""不写 retain_graph=True，从 output 反向两次会不会成功。

    Args:
        output: 由记录下来的运算得到的张量，图还没有释放。

    Returns:
        图里没有任何结点存下张量时为真。

    Raises:
        ValueError: output 没有 grad_fn，或图已经释放。

    约定:
        第一次反向只释放存下的张量，结点与边还在；没有存过张量的结点可以再走一次。

    出处:
        PyTorch 文档 “Autograd mechanics”；torch 2.13。

    示例:
        >>> w = torch.tensor(3.0, requires_grad=True)
        >>> allows_second_backward(w + 1), allows_second_backward(w * 2)
        (True, False)
    """
    return not saved_tensor_names(output)
