"""切断梯度的几种办法，以及它们到底改变了什么。"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

from formulary.checks import require_floats

WAYS = ("detach", "no_grad", "no_grad_view", "inference_mode", "requires_grad_", "data")
Way = Literal["detach", "no_grad", "no_grad_view", "inference_mode", "requires_grad_", "data"]


def stop_gradient(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    r"""停止梯度：值不变，导数当作零。

    Args:
        x: 任意形状的实浮点张量。

    Returns:
        $\operatorname{sg}(\boldsymbol x)$，与 x 共用存储。

    Raises:
        ValueError: x 不是实浮点张量。

    约定:
        反向模式与前向模式的导数都是零。

    出处:
        记号 sg 见 van den Oord et al. 2017, arXiv:1711.00937。

    示例:
        >>> w = torch.tensor(2.0, requires_grad=True)
        >>> torch.autograd.grad(w * stop_gradient(w), w)
        (tensor(2.),)
    """
    require_floats("x", x)
    return x.detach()


def block_of(way: Way) -> torch.autograd.grad_mode._DecoratorContextManager:
    r"""这种办法要在什么上下文里计算；不需要上下文的，给一个照常记录的。

    Args:
        way: WAYS 里的一种。

    Returns:
        上下文管理器。

    Raises:
        ValueError: way 不在 WAYS 里。

    示例:
        >>> with block_of("no_grad"):
        ...     torch.is_grad_enabled()
        False
    """
    if way not in WAYS:
        raise ValueError(f"way 必须是 {'、'.join(WAYS)} 之一，得到 {way!r}")
    if way == "inference_mode":
        return torch.inference_mode()
    return torch.no_grad() if way.startswith("no_grad") else torch.enable_grad()


def cut(way: Way, x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    r"""用某种办法由 x 得到一个值相同、不再往回传梯度的张量。

    Args:
        way: detach；no_grad 与 inference_mode 里算 x * 1；no_grad_view 是 no_grad 里取视图；
            requires_grad_ 把 x 自己的标志改成 False；data 取 x.data。
        x: 需要求导的叶子张量。

    Returns:
        值与 x 相同的张量。

    Raises:
        ValueError: way 不在 WAYS 里，或 x 不是一维的实浮点张量。

    约定:
        requires_grad_ 返回的就是 x 本身。

    出处:
        PyTorch 文档 “Locally disabling gradient computation”；torch 2.13。

    示例:
        >>> cut("detach", torch.ones(2, requires_grad=True)).requires_grad
        False
    """
    require_floats("x", x, "n")
    with block_of(way):
        match way:
            case "detach":
                return x.detach()
            case "no_grad_view":
                return x.view(-1)
            case "requires_grad_":
                return x.requires_grad_(False)
            case "data":
                return x.data
            case _:
                return x * 1


def observe(way: Way) -> dict[str, bool | str]:
    r"""把一种办法用在一个新的叶子张量上，逐项看它改变了什么。

    Args:
        way: WAYS 里的一种。

    Returns:
        键：records（之后或其中拿 x 再算一步，还记图吗），requires_grad（结果的标志），
        shares_storage（与 x 共用存储吗），version（"shared"、"own" 或 "none"），
        later（结果再参与求导："ok" 或 "error"），stale（已有的图存着 x，这时原地改结果再反向：
        "ok"、"error" 或 "silent"，最后一种是不报错而梯度错了），tangent（前向模式的切向量还在吗）。

    Raises:
        ValueError: way 不在 WAYS 里。

    出处:
        实测 torch 2.13。

    示例:
        >>> observe("data")["stale"], observe("detach")["stale"]
        ('silent', 'error')
    """
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    result = cut(way, x)
    with block_of(way):
        records = (x * 1).requires_grad
    with forward_ad.dual_level():
        dual = cut(way, forward_ad.make_dual(torch.ones(2), torch.ones(2)))
        tangent = forward_ad.unpack_dual(dual).tangent is not None
    return {
        "records": records,
        "requires_grad": result.requires_grad,
        "shares_storage": result.data_ptr() == x.data_ptr(),
        "version": _version_kind(way),
        "later": _later_use(result),
        "stale": _stale_graph(way),
        "tangent": tangent,
    }


def _version_kind(way: Way) -> str:
    """原地改动结果，看 x 的版本号是否跟着走。"""
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    result = cut(way, x)
    if result.is_inference():
        return "none"
    before = x._version
    with torch.no_grad():
        result.add_(0)
    return "shared" if x._version > before else "own"


def _later_use(result: Tensor) -> str:
    """让结果与一个新的叶子相乘再反向。"""
    weight = torch.ones(2, requires_grad=True)
    try:
        (weight * result).sum().backward()
    except RuntimeError:
        return "error"
    return "ok"


def _stale_graph(way: Way) -> str:
    """先用 x 建图，再取出结果并原地乘 2，然后从原来的图反向。"""
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = (x * x).sum()
    result = cut(way, x)
    with torch.inference_mode() if result.is_inference() else torch.no_grad():
        result.mul_(2)
    try:
        loss.backward()
    except RuntimeError:
        return "error"
    return "ok" if x.grad.tolist() == [2.0, 4.0] else "silent"
