"""动态 NTK 与 KV 缓存：缓存里的键还留着旧频率时，分数里多出的相位。

约定:
    查询在位置 m，用当前频率 θ'_i；键在位置 n，旋转时用的是旧频率 θ°_i；相位以弧度计。
"""

from jaxtyping import Float, Num
from torch import Tensor


def stale_key_phases(
    query_position: float | int,
    key_positions: Num[Tensor, " S"],
    current: Float[Tensor, " pairs"],
    cached: Float[Tensor, " pairs"],
) -> Float[Tensor, "S pairs"]:
    r"""新查询与旧键之间逐对的相位差，由相对位置的一项和多出来的一项相加。

    Args:
        query_position: 查询的位置 m（步）。
        key_positions: 各个键的位置 n（步）。
        current: 当前的角频率 θ'_i（弧度/步）。
        cached: 键写入缓存时的角频率 θ°_i（弧度/步）。

    Returns:
        (m-n)·θ'_i + n·(θ'_i - θ°_i)；频率没变时第二项是 0。

    Raises:
        ValueError: 两组频率的长度不同。

    出处:
        Hugging Face transformers, issue #25104。

    示例:
        >>> now, then = torch.tensor([1.0, 0.25]), torch.tensor([1.0, 0.5])
        >>> stale_key_phases(10, torch.tensor([4]), now, then).tolist()
        [[6.0, 0.5]]
    """
    if current.shape != cached.shape:
        raise ValueError(
            f"cached 的形状必须与 current 的 {tuple(current.shape)} 相同，"
            f"得到 {tuple(cached.shape)}"
        )
    n = key_positions[:, None]  # (S, 1)
    return (query_position - n) * current + n * (current - cached)
