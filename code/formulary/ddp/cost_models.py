"""全归约要多久：环、树、折半倍增、参数服务器的 α–β–γ 模型，下界、换算与拟合。

约定:
    一条 s 字节的消息占用发送口与接收口 α + βs 秒；一个 rank 同一时刻只发一条、只收一条。
    相加一字节要 γ 秒，不与通信重叠；消息整条收发，不切碎了流水。
    α 的单位是秒，β 与 γ 是秒/字节，size 是字节。
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_count, require_floats


def ring_time(world_size: int, size: float, alpha: float, beta: float, gamma: float = 0.0) -> float:
    r"""环形归约的时间。

    Args:
        world_size: 世界大小 $N$。
        size: 每个 rank 的张量的字节数，当作 $N$ 的倍数。
        alpha: 一条消息的延迟（秒）。
        beta: 传一字节的时间（秒/字节）。
        gamma: 加一字节的时间（秒/字节）。

    Returns:
        时间（秒）。

    Raises:
        ValueError: world_size 不是正整数，或别的参数是负数、不是有限的数。

    出处:
        Thakur, Rabenseifner, Gropp 2005。

    示例:
        >>> ring_time(4, 8.0, alpha=1.0, beta=0.5)
        12.0
    """
    _require_costs(world_size, size=size, alpha=alpha, beta=beta, gamma=gamma)
    share = (world_size - 1) / world_size * size
    return 2 * (world_size - 1) * alpha + 2 * share * beta + share * gamma


def tree_time(world_size: int, size: float, alpha: float, beta: float, gamma: float = 0.0) -> float:
    r"""二项树的时间：归约到根，再从根广播，每一轮都传整个张量。

    Args:
        world_size: 世界大小 $N$。
        size: 每个 rank 的张量的字节数。
        alpha: 一条消息的延迟（秒）。
        beta: 传一字节的时间（秒/字节）。
        gamma: 加一字节的时间（秒/字节）。

    Returns:
        时间（秒）。

    Raises:
        ValueError: world_size 不是正整数，或别的参数是负数、不是有限的数。

    出处:
        Thakur, Rabenseifner, Gropp 2005。

    示例:
        >>> tree_time(4, 8.0, alpha=1.0, beta=0.5)
        20.0
    """
    _require_costs(world_size, size=size, alpha=alpha, beta=beta, gamma=gamma)
    rounds = (world_size - 1).bit_length()  # ⌈log₂N⌉
    return 2 * rounds * (alpha + size * beta) + rounds * size * gamma


def halving_doubling_time(
    world_size: int, size: float, alpha: float, beta: float, gamma: float = 0.0
) -> float:
    r"""折半倍增的时间：每轮与距离折半的同伴交换一半的数据，再倒过来收集。

    Args:
        world_size: 世界大小 $N$，2 的幂。
        size: 每个 rank 的张量的字节数，当作 $N$ 的倍数。
        alpha: 一条消息的延迟（秒）。
        beta: 传一字节的时间（秒/字节）。
        gamma: 加一字节的时间（秒/字节）。

    Returns:
        时间（秒）。

    Raises:
        ValueError: world_size 不是 2 的幂，或别的参数是负数、不是有限的数。

    出处:
        Rabenseifner 2004；Thakur, Rabenseifner, Gropp 2005。

    示例:
        >>> halving_doubling_time(4, 8.0, alpha=1.0, beta=0.5)
        10.0
    """
    _require_costs(world_size, size=size, alpha=alpha, beta=beta, gamma=gamma)
    rounds = world_size.bit_length() - 1
    if world_size != 2**rounds:
        raise ValueError(f"world_size 必须是 2 的幂，得到 {world_size}")
    share = (world_size - 1) / world_size * size
    return 2 * rounds * alpha + 2 * share * beta + share * gamma


def parameter_server_time(
    world_size: int,
    size: float,
    alpha: float,
    beta: float,
    gamma: float = 0.0,
    servers: int = 1,
) -> float:
    r"""参数服务器的时间：N 个 rank 把张量分给 K 个专用的服务器求和，再各取回来。

    Args:
        world_size: rank 的个数 $N$，不含服务器。
        size: 每个 rank 的张量的字节数，当作 $K$ 的倍数。
        alpha: 一条消息的延迟（秒）。
        beta: 传一字节的时间（秒/字节）。
        gamma: 加一字节的时间（秒/字节）。
        servers: 服务器的个数 $K$。

    Returns:
        时间（秒）。

    Raises:
        ValueError: world_size 或 servers 不是正整数，或别的参数是负数、不是有限的数。

    约定:
        服务器的口与 rank 的口一样快；全部送到、加完之后才开始取回，两趟不流水。

    出处:
        Li et al. 2014, OSDI；时间由本站的单口约定推出。

    示例:
        >>> parameter_server_time(4, 8.0, alpha=1.0, beta=0.5)
        40.0
    """
    _require_costs(world_size, size=size, alpha=alpha, beta=beta, gamma=gamma)
    require_count("servers", servers)
    shard = size / servers
    return 2 * max(world_size, servers) * (alpha + shard * beta) + (world_size - 1) * shard * gamma


def colocated_server_time(
    world_size: int, size: float, alpha: float, beta: float, gamma: float = 0.0
) -> float:
    r"""每个 rank 兼作 1/N 张量的服务器时的时间，与环形归约相同。

    Args:
        world_size: 世界大小 $N$。
        size: 每个 rank 的张量的字节数，当作 $N$ 的倍数。
        alpha: 一条消息的延迟（秒）。
        beta: 传一字节的时间（秒/字节）。
        gamma: 加一字节的时间（秒/字节）。

    Returns:
        时间（秒）。

    Raises:
        ValueError: world_size 不是正整数，或别的参数是负数、不是有限的数。

    出处:
        Li et al. 2014, OSDI；时间由本站的单口约定推出。

    示例:
        >>> colocated_server_time(4, 8.0, alpha=1.0, beta=0.5)
        12.0
    """
    _require_costs(world_size, size=size, alpha=alpha, beta=beta, gamma=gamma)
    shard = size / world_size
    return (world_size - 1) * (2 * (alpha + shard * beta) + shard * gamma)


def allreduce_lower_bound(world_size: int, size: float) -> float:
    r"""任何全归约里，发得最多的 rank 至少发出的字节数。

    Args:
        world_size: 世界大小 $N$。
        size: 每个 rank 的张量的字节数。

    Returns:
        下界（字节）。

    Raises:
        ValueError: world_size 不是正整数，或 size 是负数、不是有限的数。

    约定:
        数据不压缩，一个元素的消息不携带别的元素的信息；只有这 N 个 rank，没有另外的机器帮忙。

    出处:
        Patarasuk & Yuan 2009。

    示例:
        >>> allreduce_lower_bound(4, 8.0)
        12.0
    """
    _require_costs(world_size, size=size)
    return 2 * (world_size - 1) / world_size * size


def ring_tree_crossover(world_size: int, alpha: float, beta: float, gamma: float = 0.0) -> float:
    r"""环与树一样快的字节数；更大的张量用环更快。

    Args:
        world_size: 世界大小 $N$，至少 2。
        alpha: 一条消息的延迟（秒）。
        beta: 传一字节的时间（秒/字节），与 gamma 不同时为 0。
        gamma: 加一字节的时间（秒/字节）。

    Returns:
        字节数；$N\le3$ 时是 0。

    Raises:
        ValueError: world_size 小于 2，代价是负数，或 beta 与 gamma 都是 0。

    出处:
        令 ring_time 与 tree_time 相等，本站的推导。

    示例:
        >>> ring_tree_crossover(4, alpha=1.0, beta=0.5)
        1.6
    """
    require_count("world_size", world_size, least=2)
    _require_costs(world_size, alpha=alpha, beta=beta, gamma=gamma)
    if beta == gamma == 0:
        raise ValueError("beta 与 gamma 不能都是 0，否则树总是不慢于环")
    rounds = (world_size - 1).bit_length()
    extra_rounds = world_size - 1 - rounds
    saved_share = rounds - (world_size - 1) / world_size
    return 2 * alpha / (2 * beta + gamma) * extra_rounds / saved_share


def bus_bandwidth(size: float, seconds: float, world_size: int) -> float:
    r"""由全归约的用时换算的总线带宽，可以与链路的标称带宽比较。

    Args:
        size: 每个 rank 的张量的字节数。
        seconds: 用时（秒），大于 0。
        world_size: 世界大小 $N$。

    Returns:
        带宽（字节/秒）。

    Raises:
        ValueError: seconds 不是正数，world_size 不是正整数，或 size 是负数。

    出处:
        NVIDIA nccl-tests, doc/PERFORMANCE.md。

    示例:
        >>> bus_bandwidth(8e9, 2.0, 4) / 1e9
        6.0
    """
    _require_costs(world_size, size=size, seconds=seconds)
    if seconds == 0:
        raise ValueError("seconds 必须大于 0")
    return size / seconds * 2 * (world_size - 1) / world_size


def fit_alpha_beta(sizes: Float[Tensor, " M"], seconds: Float[Tensor, " M"]) -> tuple[float, float]:
    r"""由一组大小与用时，用最小二乘拟合截距与斜率。

    Args:
        sizes: 字节数，至少两个不同的值。
        seconds: 各次的用时（秒）。

    Returns:
        截距（秒）与斜率（秒/字节）。

    Raises:
        ValueError: 不是同样长的一维浮点张量，或 sizes 都相同。

    约定:
        误差不加权，所以大消息说了算；先减去均值再求和，免得大小相差悬殊时损失精度。

    示例:
        >>> fit_alpha_beta(torch.tensor([0.0, 2.0, 4.0]), torch.tensor([1.0, 2.0, 3.0]))
        (1.0, 0.5)
    """
    require_floats("sizes", sizes, "M")
    require_floats("seconds", seconds, len(sizes))
    if len(sizes) == 0 or bool((sizes == sizes[0]).all()):
        raise ValueError("sizes 至少要有两个不同的值")
    x, y = sizes - sizes.mean(), seconds - seconds.mean()
    slope = torch.dot(x, y) / torch.dot(x, x)
    return (seconds.mean() - slope * sizes.mean()).item(), slope.item()


def _require_costs(world_size: int, **values: float) -> None:
    """要求世界大小是正整数，其余是有限的非负数。"""
    require_count("world_size", world_size)
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} 必须是有限的非负数，得到 {value!r}")
