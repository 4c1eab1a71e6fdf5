"""存档张量的钩子：数一数反向传播存了多少字节，或者换一种办法存。"""

from collections import Counter
from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from formulary.checks import require_floats


def saved_bytes(function: Callable[[], object], ignore: Iterable[Tensor] = ()) -> int:
    r"""运行一次前向，数出自动求导为反向保存的字节数。

    Args:
        function: 不带参数的前向计算。
        ignore: 不计的张量，例如参数：它们本来就在内存里。

    Returns:
        字节数（B）；同一块存储只计一次，视图按它底下的整块存储计。

    Raises:
        ValueError: function 不可调用。

    约定:
        检查点（非重入）内部存的张量不经过外层的钩子，因此数到的正是它留下的部分。

    出处:
        torch.autograd.graph.saved_tensors_hooks，PyTorch 2.13。

    示例:
        >>> x = torch.ones(10, requires_grad=True)
        >>> saved_bytes(lambda: x.sin()), saved_bytes(lambda: x + 1)  # 正弦存输入，加法不存
        (40, 0)
    """
    if not callable(function):
        raise ValueError(f"function 必须是不带参数的函数，得到 {function!r}")
    ignored = {tensor.untyped_storage().data_ptr() for tensor in ignore}
    kept: list[Tensor] = []  # 留住它们，免得地址被别的张量用掉

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()  # noqa: F841  数完之前不让图释放
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    return sum(size for address, size in storages.items() if address not in ignored)


class _Packed:
    """一个存档的张量；随图一起释放时从账上销去。"""

    def __init__(self, tensor: Tensor, ledger: Counter[tuple[int, int]]) -> None:
        storage = tensor.untyped_storage()
        self.tensor, self.ledger = tensor, ledger
        self.key = (storage.data_ptr(), storage.nbytes())
        ledger[self.key] += 1

    def __del__(self) -> None:
        self.ledger[self.key] -= 1


def peak_saved_bytes(function: Callable[[], object], ignore: Iterable[Tensor] = ()) -> int:
    r"""运行一次前向与反向，返回途中同时存着的字节数的最大值。

    Args:
        function: 不带参数的计算，其中可以调用 backward。
        ignore: 不计的张量，例如参数。

    Returns:
        字节数（B）；同一块存储只计一次，图释放之后就不再计。

    Raises:
        ValueError: function 不可调用。

    出处:
        torch.autograd.graph.saved_tensors_hooks，PyTorch 2.13。

    示例:
        >>> x = torch.ones(10, requires_grad=True)
        >>> peak_saved_bytes(lambda: [x.sin().sum().backward() for _ in range(3)])
        40
    """
    if not callable(function):
        raise ValueError(f"function 必须是不带参数的函数，得到 {function!r}")
    ignored = {tensor.untyped_storage().data_ptr() for tensor in ignore}
    ledger: Counter[tuple[int, int]] = Counter()
    peak = 0

    def pack(tensor: Tensor) -> _Packed:
        nonlocal peak
        packed = _Packed(tensor, ledger)
        held = (size for (address, size), n in ledger.items() if n and address not in ignored)
        peak = max(peak, sum(held))
        return packed

    with saved_tensors_hooks(pack, lambda packed: packed.tensor):
        function()
    return peak


def gradient_with_packing(
    function: Callable[[Tensor], Tensor],
    x: Float[Tensor, " n"],
    pack: Callable[[Tensor], object],
    unpack: Callable[[object], Tensor],
) -> Float[Tensor, " n"]:
    r"""存档时用 pack 换一种存法、反向时用 unpack 还原，求出的梯度。

    Args:
        function: 返回标量的函数。
        x: 自变量。
        pack: 存档时调用，例如换成低精度、搬到别的设备、写到磁盘。
        unpack: 反向时调用，须还原出形状与类型都相同的张量。

    Returns:
        梯度；pack 有损时，它是在还原值处求的局部导数连乘起来的结果。

    Raises:
        ValueError: x 不是一维浮点张量，或 function 返回的不是标量。

    出处:
        torch.autograd.graph.saved_tensors_hooks，PyTorch 2.13。

    示例:
        >>> x = torch.tensor([1.25, 2.5])
        >>> gradient_with_packing(lambda x: (x * x).sum(), x, torch.floor, lambda t: t)
        tensor([2., 4.])
    """
    require_floats("x", x, "n")
    x = x.detach().requires_grad_()
    with saved_tensors_hooks(pack, unpack):
        value = function(x)
    if value.ndim != 0:
        raise ValueError(f"function 必须返回标量，得到形状 {tuple(value.shape)}")
    return torch.autograd.grad(value, x)[0]
