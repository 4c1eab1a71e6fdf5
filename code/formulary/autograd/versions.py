"""原地操作与版本计数器：存下的张量后来变没变。"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_count, require_floats


def require_unmodified(saved: Tensor, version: int) -> Tensor:
    r"""取出存下的张量之前核对版本号：存下之后没有被原地改动过。

    Args:
        saved: 前向时存下的张量。
        version: 存下时的版本号。

    Returns:
        saved 本身。

    Raises:
        ValueError: 现在的版本号与存下时不同，或 version 不是非负整数。

    约定:
        版本号从 0 起，每次原地操作加一；一个张量与它的视图、detach 的结果共用，.data 另起。

    出处:
        PyTorch 文档 “In-place correctness checks”；torch 2.13 的 Tensor._version。

    示例:
        >>> x = torch.ones(2)
        >>> require_unmodified(x, x._version)
        tensor([1., 1.])
    """
    require_count("version", version, least=0)
    if saved._version != version:
        raise ValueError(
            f"存下的张量被原地改动过：现在是第 {saved._version} 版，存下时是第 {version} 版"
        )
    return saved


def version_checks() -> torch.autograd.graph.saved_tensors_hooks:
    r"""一个上下文：其中建的图存下张量时记版本号，反向取用时核对。

    Returns:
        存下张量的钩子；版本号不符时，反向抛出 ValueError。

    约定:
        PyTorch 自己就核对版本号；但装了存取钩子之后，它不再核对，钩子要自己做。

    出处:
        torch.autograd.graph.saved_tensors_hooks；torch 2.13。

    示例:
        >>> x = torch.ones(2, requires_grad=True)
        >>> with version_checks():
        ...     y = x.exp()
        >>> y.sum().backward()
        >>> x.grad
        tensor([2.7183, 2.7183])
    """

    def pack(saved: Tensor) -> tuple[Tensor, int]:
        return saved, saved._version

    def unpack(packed: tuple[Tensor, int]) -> Tensor:
        return require_unmodified(*packed)

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


def inplace_outcome(program: Callable[[Tensor], Tensor], x: Float[Tensor, "..."]) -> str:
    r"""一段含原地操作的程序，反向的结果是对、报错，还是不声不响地错。

    Args:
        program: 接受一个张量，返回标量；可以原地改动中间结果，也可以改动 x 本身。
        x: 求导的点，float64 的实浮点张量。

    Returns:
        "ok"：梯度与中心差分相符；"error"：反向抛出 RuntimeError；"silent"：没有报错，但梯度不符。

    Raises:
        ValueError: x 不是 float64，或 program 的结果不是标量。

    约定:
        中心差分的步长是机器精度的立方根；相差超过 10⁻⁶ 与千分之一之和算不符。

    出处:
        本站。

    示例:
        >>> inplace_outcome(lambda x: x.exp().mul_(2).sum(), torch.ones(2, dtype=torch.float64))
        'error'
    """
    require_floats("x", x)
    if x.dtype != torch.float64:
        raise ValueError(f"x 必须是 float64，中心差分才够准，得到 {x.dtype}")
    leaf = x.detach().clone().requires_grad_()
    output = program(leaf)
    if output.ndim:
        raise ValueError(f"program 的结果必须是标量，得到形状 {tuple(output.shape)}")
    try:
        (gradient,) = torch.autograd.grad(output, leaf)
    except RuntimeError:
        return "error"
    h = torch.finfo(x.dtype).eps ** (1 / 3)
    slopes = []
    for basis in torch.eye(x.numel(), dtype=x.dtype):
        step = h * basis.reshape(x.shape)
        slopes.append((program(x + step) - program(x - step)) / (2 * h))
    expected = torch.stack(slopes).reshape(x.shape)
    return "ok" if torch.allclose(gradient, expected, rtol=1e-3, atol=1e-6) else "silent"
