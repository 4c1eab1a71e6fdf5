"""张量钩子：在反向途中改掉一个中间量的伴随。"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats


def gradient_with_hook(
    inner: Callable[[Tensor], Tensor],
    outer: Callable[[Tensor], Tensor],
    x: Float[Tensor, " n"],
    hook: Callable[[Tensor], Tensor | None],
) -> Float[Tensor, " n"]:
    r"""L = outer(inner(x)) 对 x 的梯度，途中用钩子改掉中间量的伴随。

    Args:
        inner: $\boldsymbol v=\boldsymbol f(\boldsymbol x)$。
        outer: $L=g(\boldsymbol v)$，返回标量。
        x: 输入。
        hook: 接受 $\bar{\boldsymbol v}$，返回形状相同的新值；返回 None 表示不改。

    Returns:
        $\boldsymbol J_f^\top h(\bar{\boldsymbol v})$。

    Raises:
        ValueError: x 不是一维浮点张量，或 outer 返回的不是标量。

    约定:
        v 被用到几次，钩子也只在各路贡献加完之后调用一次。

    出处:
        torch.Tensor.register_hook，PyTorch 2.13。

    示例:
        >>> x = torch.tensor([1.0, 2.0])
        >>> gradient_with_hook(lambda x: 3 * x, torch.sum, x, lambda g: 10 * g)
        tensor([30., 30.])
    """
    require_floats("x", x, "n")
    x = x.detach().requires_grad_()
    v = inner(x)
    v.register_hook(hook)
    loss = outer(v)
    if loss.ndim != 0:
        raise ValueError(f"outer 必须返回标量，得到形状 {tuple(loss.shape)}")
    return torch.autograd.grad(loss, x)[0]
