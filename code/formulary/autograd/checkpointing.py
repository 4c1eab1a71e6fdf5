"""激活检查点：只存段的输入，反向时重算；手写的重入版、PyTorch 的非重入版与一个陷阱。"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from formulary.checks import require_count, require_floats


class RecomputedSegment(torch.autograd.Function):
    r"""检查点的重入写法：前向不记录图，只存输入；反向里重算一遍再对它反向。

    Raises:
        ValueError: function 不可调用，或 x 不是实浮点张量。

    约定:
        用 RecomputedSegment.apply(function, x) 调用。function 里用到的参数靠重算时的
        backward 把梯度累加到 .grad；x 若不要梯度，整段都不在图上，参数的梯度就丢了。
        function 须是确定的：两次算出的值要一样。

    出处:
        Chen et al. 2016, arXiv:1604.06174；torch.utils.checkpoint 的 use_reentrant=True。

    示例:
        >>> x = torch.tensor([0.0, 1.0], requires_grad=True)
        >>> RecomputedSegment.apply(torch.square, x).sum().backward()
        >>> x.grad
        tensor([0., 2.])
    """

    @staticmethod
    def forward(
        ctx: Any, function: Callable[[Tensor], Tensor], x: Float[Tensor, "*batch"]
    ) -> Tensor:
        """前向：自定义函数的 forward 里本来就不记录图，中间结果随即释放。"""
        if not callable(function):
            raise ValueError(f"function 必须可以调用，得到 {function!r}")
        require_floats("x", x)
        ctx.function = function
        ctx.save_for_backward(x)
        return function(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        """反向：重算，这次记录图，再从段尾反向到段首。"""
        (x,) = ctx.saved_tensors
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            y = ctx.function(x)
        torch.autograd.backward(y, gradient)
        return None, x.grad


def checkpointed_chain(
    functions: Sequence[Callable[[Tensor], Tensor]],
    x: Float[Tensor, "*batch"],
    lengths: Sequence[int],
    reentrant: bool = False,
) -> Tensor:
    r"""依次作用一串函数，按给定的长度分段，每一段都设检查点。

    Args:
        functions: $f_1,\dots,f_L$，先用的在前。
        x: 输入。
        lengths: 各段的长度，加起来等于函数的个数。
        reentrant: 为真用 RecomputedSegment，为假用 PyTorch 的非重入检查点。

    Returns:
        $f_L(\cdots f_1(\boldsymbol x))$，梯度与不设检查点时相同。

    Raises:
        ValueError: x 不是浮点张量，lengths 有不是正整数的项，或加起来不等于函数的个数。

    约定:
        PyTorch 的检查点重算之前恢复全局的随机数状态，RecomputedSegment 不恢复，不能用于
        Dropout；别的状态两者都不管，批归一化的运行统计会更新两次。

    出处:
        Chen et al. 2016, arXiv:1604.06174。

    示例:
        >>> x = torch.tensor(0.5, requires_grad=True)
        >>> checkpointed_chain([torch.sin, torch.exp, torch.sin], x, [2, 1]).backward()
        >>> x.grad == torch.autograd.grad(x.sin().exp().sin(), x)[0]
        tensor(True)
    """
    require_floats("x", x)
    for length in lengths:
        require_count("lengths 的每一项", length)
    if sum(lengths) != len(functions):
        raise ValueError(f"lengths 的和必须是函数的个数 {len(functions)}，得到 {sum(lengths)}")
    start = 0
    for length in lengths:
        part = functions[start : start + length]

        def segment(x: Tensor, part: Sequence[Callable[[Tensor], Tensor]] = part) -> Tensor:
            for function in part:
                x = function(x)
            return x

        if reentrant:
            x = RecomputedSegment.apply(segment, x)
        else:
            x = checkpoint(segment, x, use_reentrant=False)
        start += length
    return x


def checkpoint_by_default(
    function: Callable[[Tensor], Tensor], x: Float[Tensor, "*batch"]
) -> Tensor:
    r"""错的：没有写 use_reentrant；输入不要梯度时，参数的梯度悄悄丢了。

    Args:
        function: 要设检查点的计算。
        x: 输入。

    Returns:
        function(x)；x 不要梯度时它也不要梯度。

    Raises:
        ValueError: function 不可调用，或 x 不是实浮点张量。

    约定:
        PyTorch 2.13 不写 use_reentrant 时仍走重入版，只给一条 UserWarning。

    出处:
        torch.utils.checkpoint，PyTorch 2.13。

    示例:
        >>> import warnings
        >>> w = torch.ones(1, requires_grad=True)
        >>> with warnings.catch_warnings(action="ignore"):
        ...     y = checkpoint_by_default(lambda x: w * x, torch.ones(1))
        >>> y.requires_grad
        False
    """
    if not callable(function):
        raise ValueError(f"function 必须可以调用，得到 {function!r}")
    require_floats("x", x)
    return checkpoint(function, x)
