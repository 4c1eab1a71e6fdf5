"""多久存一次检查点：Young 的近似、指数故障下的精确开销与最优间隔，以及按事件模拟。

约定:
    开销是多花的时间与有用的训练时间之比（无量纲）；故障之间的时间服从指数分布。
"""

import math

import torch

from formulary.checks import require_count


def system_mean_time(node_mean_time: float, nodes: int) -> float:
    r"""N 台机器里有一台出故障，平均要等多久。

    Args:
        node_mean_time: 一台机器的平均无故障时间 M_1（时间单位自定）。
        nodes: 机器的台数 N；少一台训练就停。

    Returns:
        整个系统的平均无故障时间（同样的单位）。

    Raises:
        ValueError: node_mean_time 不是正数，或 nodes 不是正整数。

    约定:
        各台的故障相互独立，服从指数分布。

    出处:
        独立指数变量的最小值。

    示例:
        >>> system_mean_time(43_800.0, 100)
        438.0
    """
    _require_positive("node_mean_time", node_mean_time)
    require_count("nodes", nodes)
    return node_mean_time / nodes


def young_overhead(interval: float, cost: float, mean_time: float) -> float:
    r"""Young 的一阶近似：存检查点与故障后重算，合起来的相对开销。

    Args:
        interval: 两次检查点之间的训练时间 τ（时间单位自定，三者相同）。
        cost: 存一次检查点的时间 C。
        mean_time: 平均无故障时间 M。

    Returns:
        相对开销（无量纲）。

    Raises:
        ValueError: 有一个不是正数。

    出处:
        Young 1974。

    示例:
        >>> young_overhead(100.0, 5.0, 1000.0)
        0.1
    """
    _require_all_positive(interval, cost, mean_time)
    return cost / interval + interval / (2 * mean_time)


def young_interval(cost: float, mean_time: float) -> float:
    r"""使 Young 的近似开销最小的检查点间隔。

    Args:
        cost: 存一次检查点的时间 C。
        mean_time: 平均无故障时间 M（同样的单位）。

    Returns:
        间隔 τ（同样的单位）。

    Raises:
        ValueError: 有一个不是正数。

    出处:
        Young 1974。

    示例:
        >>> young_interval(5.0, 1000.0)
        100.0
    """
    _require_positive("cost", cost)
    _require_positive("mean_time", mean_time)
    return math.sqrt(2 * cost * mean_time)


def exact_overhead(interval: float, cost: float, mean_time: float, restart: float = 0.0) -> float:
    r"""指数故障下的精确开销：完成一段训练并存下检查点的期望时间，减去训练时间，再相除。

    Args:
        interval: 两次检查点之间的训练时间 τ（时间单位自定，各参数相同）。
        cost: 存一次检查点的时间 C；存的时候也会出故障。
        mean_time: 平均无故障时间 M。
        restart: 故障之后重新启动的时间 R，其间不再出故障。

    Returns:
        相对开销（无量纲）。

    Raises:
        ValueError: 前三个有不是正数的，或 restart 是负数。

    出处:
        Daly 2006 的模型；重启期间不出故障是本站的简化。

    示例:
        >>> round(exact_overhead(100.0, 5.0, 1000.0), 4)
        0.1071
    """
    _require_all_positive(interval, cost, mean_time)
    if not 0 <= restart < math.inf:
        raise ValueError(f"restart 必须是非负的有限数，得到 {restart!r}")
    return (mean_time + restart) * math.expm1((interval + cost) / mean_time) / interval - 1


def exact_interval(cost: float, mean_time: float) -> float:
    r"""使精确开销最小的检查点间隔，与重新启动的时间无关。

    Args:
        cost: 存一次检查点的时间 C。
        mean_time: 平均无故障时间 M（同样的单位）。

    Returns:
        间隔 τ（同样的单位），即 1 − τ/M = exp(−(τ + C)/M) 的正根。

    Raises:
        ValueError: 有一个不是正数。

    约定:
        用二分法求根，直到相邻的两个浮点数；根在 0 与 M 之间。

    出处:
        Daly 2006。

    示例:
        >>> round(exact_interval(5.0, 1000.0), 2)
        96.69
    """
    _require_positive("cost", cost)
    _require_positive("mean_time", mean_time)
    low, high = 0.0, 1.0  # 未知数 τ/M
    while low < (middle := (low + high) / 2) < high:
        # 写成 expm1，C/M 很小时也不损失有效数字
        if middle + math.expm1(-middle - cost / mean_time) < 0:
            low = middle
        else:
            high = middle
    return middle * mean_time


def simulated_overhead(
    interval: float,
    cost: float,
    mean_time: float,
    attempts: int,
    generator: torch.Generator,
    restart: float = 0.0,
) -> float:
    r"""按事件模拟：一次次尝试“训练一段再存下”，出了故障就从上一个检查点重来。

    Args:
        interval: 两次检查点之间的训练时间 τ（时间单位自定，各参数相同）。
        cost: 存一次检查点的时间 C。
        mean_time: 平均无故障时间 M。
        attempts: 尝试的次数，成败都算。
        generator: 随机数发生器。
        restart: 故障之后重新启动的时间 R，其间不再出故障。

    Returns:
        模拟出的相对开销（无量纲）；没有一次成功时是 inf。

    Raises:
        ValueError: 时间不是正数，attempts 不是正整数，或 restart 是负数。

    出处:
        本站的模拟。

    示例:
        >>> draw = torch.Generator().manual_seed(0)
        >>> round(simulated_overhead(100.0, 5.0, 1000.0, 100_000, draw), 2)
        0.11
    """
    _require_all_positive(interval, cost, mean_time)
    require_count("attempts", attempts)
    if not 0 <= restart < math.inf:
        raise ValueError(f"restart 必须是非负的有限数，得到 {restart!r}")
    until_failure = torch.empty(attempts, dtype=torch.float64)
    until_failure.exponential_(1 / mean_time, generator=generator)
    succeeded = until_failure >= interval + cost
    spent = torch.where(succeeded, interval + cost, until_failure + restart).sum()
    useful = succeeded.sum() * interval
    return float(spent / useful) - 1 if useful else math.inf


def _require_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} 必须是有限的正数，得到 {value!r}")


def _require_all_positive(interval: float, cost: float, mean_time: float) -> None:
    _require_positive("interval", interval)
    _require_positive("cost", cost)
    _require_positive("mean_time", mean_time)
