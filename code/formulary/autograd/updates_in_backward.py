"""post-accumulate 钩子：梯度一累加完就更新参数，随即释放。"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats


def sgd_in_backward(
    loss: Float[Tensor, ""], parameters: Iterable[Tensor], learning_rate: float
) -> None:
    r"""反向途中逐个更新参数：一个参数的梯度刚累加完就走一步，随即释放。

    Args:
        loss: 标量损失。
        parameters: 要更新的叶子张量，就地修改；之后它们的 .grad 是 None。
        learning_rate: $\eta$（参数单位的平方除以损失的单位）。

    Raises:
        ValueError: loss 不是标量，learning_rate 为负，或有参数不是要梯度的叶子。

    约定:
        结果与先反向、再走一步 SGD 相同；同一个参数在图里出现多次也只更新一次。
        钩子应当返回 None，这与可以返回新梯度的张量钩子不同。

    出处:
        Lv et al. 2023, arXiv:2306.09782（LOMO）；torch.Tensor.register_post_accumulate_grad_hook。

    示例:
        >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> sgd_in_backward(w.square().sum(), [w], learning_rate=0.25)
        >>> w.tolist(), w.grad
        ([0.5, 1.0], None)
    """
    parameters = _trainable(loss, parameters)
    _require_rate(learning_rate)

    def update(parameter: Tensor) -> None:
        with torch.no_grad():
            parameter.sub_(parameter.grad, alpha=learning_rate)
        parameter.grad = None

    handles = [parameter.register_post_accumulate_grad_hook(update) for parameter in parameters]
    try:
        loss.backward()
    finally:
        for handle in handles:
            handle.remove()


def peak_gradient_bytes(
    loss: Float[Tensor, ""], parameters: Iterable[Tensor], release: bool
) -> int:
    r"""反向途中 .grad 占用的字节数的最大值。

    Args:
        loss: 标量损失。
        parameters: 要梯度的叶子张量；量完之后它们的 .grad 都是 None。
        release: 为真则每个梯度一累加完就释放，如同 sgd_in_backward。

    Returns:
        字节数（B），在每个梯度刚累加完时清点；引擎缓冲里还没有凑齐的梯度不计。

    Raises:
        ValueError: loss 不是标量，或有参数不是要梯度的叶子。

    示例:
        >>> a, b = torch.ones(3, requires_grad=True), torch.ones(5, requires_grad=True)
        >>> peak_gradient_bytes(a.sum() + b.sum(), [a, b], release=True)  # float32
        20
    """
    parameters = _trainable(loss, parameters)
    peak = 0

    def count(parameter: Tensor) -> None:
        nonlocal peak
        peak = max(peak, sum(p.grad.nbytes for p in parameters if p.grad is not None))
        if release:
            parameter.grad = None

    handles = [parameter.register_post_accumulate_grad_hook(count) for parameter in parameters]
    try:
        loss.backward()
    finally:
        for handle, parameter in zip(handles, parameters, strict=True):
            handle.remove()
            parameter.grad = None
    return peak


def _trainable(loss: Tensor, parameters: Iterable[Tensor]) -> list[Tensor]:
    """检查损失是标量、参数都是要梯度的叶子；返回参数的列表。"""
    require_floats("loss", loss)
    if loss.ndim != 0:
        raise ValueError(f"loss 必须是标量，得到形状 {tuple(loss.shape)}")
    parameters = list(parameters)
    for i, parameter in enumerate(parameters):
        require_floats(f"parameters[{i}]", parameter)
        if not (parameter.is_leaf and parameter.requires_grad):
            raise ValueError(f"parameters[{i}] 必须是 requires_grad 为真的叶子张量")
    return parameters


def _require_rate(learning_rate: float) -> None:
    """学习率不能是负数。"""
    if not learning_rate >= 0:
        raise ValueError(f"learning_rate 必须不小于 0，得到 {learning_rate!r}")
