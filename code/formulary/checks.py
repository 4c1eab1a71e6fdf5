"""各篇共用的参数检查：不合要求就抛出 ValueError，说出参数名、实得与所需。"""

import torch
from torch import Tensor


def require_count(name: str, value: object, least: int = 1) -> None:
    """要求 value 是不小于 least 的整数。"""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} 必须是不小于 {least} 的整数，得到 {value!r}")


def require_floats(name: str, value: object, *shape: int | str) -> None:
    """要求 value 是给定形状的实浮点张量。

    Args:
        name: 报错时说的参数名。
        value: 待查的值。
        shape: 每轴一项：整数是必须的长度，字符串是长度不限的轴名，开头的 "..." 是任意多轴；
            一项不给则不查形状。
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise ValueError(f"{name} 必须是实浮点张量，得到 {getattr(value, 'dtype', type(value))}")
    open_ended = shape[:1] == ("...",)
    wanted = shape[1:] if open_ended else shape
    found = value.shape[value.ndim - len(wanted) :] if open_ended else value.shape
    if shape and (
        len(found) != len(wanted)
        or any(isinstance(w, int) and w != f for w, f in zip(wanted, found, strict=True))
    ):
        needed = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
        raise ValueError(f"{name} 的形状必须是 ({needed})，得到 {tuple(value.shape)}")


def require_binary(name: str, value: Tensor) -> None:
    """要求 value 的元素只有 0 与 1。"""
    wrong = (value != 0) & (value != 1)
    if wrong.any():
        raise ValueError(f"{name} 的元素只能是 0 或 1，得到 {value[wrong][0].item()!r}")


def require_probabilities(name: str, value: Tensor) -> None:
    """要求 value 的元素都在 0 与 1 之间。"""
    wrong = ~((value >= 0) & (value <= 1))  # 也拒绝 NaN
    if wrong.any():
        raise ValueError(f"{name} 的元素必须在 [0, 1] 里，得到 {value[wrong][0].item()!r}")


def require_distribution(name: str, value: Tensor, dim: int = -1) -> None:
    """要求 value 沿 dim 是概率分布：元素在 [0, 1] 里，和为 1（容差为机器精度的平方根）。"""
    require_probabilities(name, value)
    gap = (value.sum(dim) - 1).abs()
    if (gap > torch.finfo(value.dtype).eps ** 0.5).any():
        raise ValueError(f"{name} 沿第 {dim} 轴的和必须是 1，实际相差 {gap.max().item():.3g}")


def require_indices(name: str, value: object, count: int, *shape: int | str) -> None:
    """要求 value 是整数张量，元素在 [0, count) 里；shape 的写法同 require_floats。"""
    if not isinstance(value, Tensor) or value.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"{name} 必须是整数张量，得到 {getattr(value, 'dtype', type(value))}")
    require_floats(name, value.double(), *shape)
    if ((value < 0) | (value >= count)).any():
        low, high = value.min().item(), value.max().item()
        raise ValueError(f"{name} 的元素必须在 [0, {count}) 里，得到 {low} 到 {high}")


def require_permutation(name: str, value: object, n: int) -> None:
    """要求 value 是 0, 1, …, n − 1 的一个排列。"""
    if (
        not isinstance(value, Tensor)
        or value.dtype not in (torch.int64, torch.int32)
        or value.ndim != 1
        or sorted(value.tolist()) != list(range(n))
    ):
        found = value.tolist() if isinstance(value, Tensor) else value
        raise ValueError(f"{name} 必须是 0 到 {n - 1} 的一个排列（整数张量），得到 {found}")
