"""模块的状态：state_dict 的键怎样命名，参数怎样去重计数。"""

from torch import Tensor, nn


def state_entries(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    r"""模块登记在案的全部张量：参数与持久的缓冲区，键是从根到它的路径。

    Args:
        module: 任意模块。
        prefix: 加在每个键前面的路径，递归时用，以点结尾。

    Returns:
        从键到张量的字典，键与次序同 module.state_dict()；张量就是模块自己的那些，没有复制。

    Raises:
        ValueError: module 不是 nn.Module。

    约定:
        先是自己的参数，再是自己的持久缓冲区，然后逐个进入子模块。值为 None 的登记项不算；
        get_extra_state 与 state_dict 的钩子不在考虑之列。

    出处:
        PyTorch 2.13，torch/nn/modules/module.py 的 state_dict 与 _save_to_state_dict。

    示例:
        >>> list(state_entries(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.PReLU())))
        ['0.weight', '0.bias', '2.weight']
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"module 必须是 nn.Module，得到 {type(module).__name__}")
    entries = {}
    for name, parameter in module._parameters.items():
        if parameter is not None:
            entries[prefix + name] = parameter
    for name, buffer in module._buffers.items():
        if buffer is not None and name not in module._non_persistent_buffers_set:
            entries[prefix + name] = buffer
    for name, child in module._modules.items():
        if child is not None:
            entries |= state_entries(child, f"{prefix}{name}.")
    return entries


def parameter_count(module: nn.Module) -> int:
    r"""参数的元素个数，同一个参数登记在几处都只数一次。

    Args:
        module: 任意模块。

    Returns:
        元素个数 $P$（个）。

    Raises:
        ValueError: module 不是 nn.Module。

    约定:
        是不是同一个参数，看是不是同一个 Python 对象，不看值是否相等。

    出处:
        PyTorch 2.13 文档 torch.nn.Module.named_parameters 的 remove_duplicate。

    示例:
        >>> table = nn.Embedding(7, 3)
        >>> head = nn.Linear(3, 7, bias=False)
        >>> head.weight = table.weight
        >>> parameter_count(nn.Sequential(table, head))
        21
    """
    entries = state_entries(module).values()
    distinct = {id(entry): entry for entry in entries if isinstance(entry, nn.Parameter)}
    return sum(parameter.numel() for parameter in distinct.values())
