"""加速比与效率：Amdahl、Gustafson、Karp–Flatt，以及通信没有藏完时 DDP 的效率。"""

from formulary.checks import require_count


def amdahl_speedup(parallel_fraction: float, workers: int) -> float:
    r"""Amdahl 定律：总工作量不变时，N 个处理器的加速比。

    Args:
        parallel_fraction: 单处理器的时间里可以并行的比例 p，在 [0, 1] 里（无量纲）。
        workers: 处理器的个数 N。

    Returns:
        加速比 S（无量纲）。

    Raises:
        ValueError: parallel_fraction 不在 [0, 1] 里，或 workers 不是正整数。

    出处:
        Amdahl 1967。

    示例:
        >>> round(amdahl_speedup(0.95, 8), 3)
        5.926
    """
    _require_fraction("parallel_fraction", parallel_fraction)
    require_count("workers", workers)
    return 1 / ((1 - parallel_fraction) + parallel_fraction / workers)


def gustafson_speedup(parallel_fraction: float, workers: int) -> float:
    r"""Gustafson 定律：工作量随处理器增加、总时间不变时的加速比。

    Args:
        parallel_fraction: N 个处理器的时间里并行部分的比例 p，在 [0, 1] 里（无量纲）。
        workers: 处理器的个数 N。

    Returns:
        加速比 S（无量纲）：同样的工作由一个处理器做，要花几倍的时间。

    Raises:
        ValueError: parallel_fraction 不在 [0, 1] 里，或 workers 不是正整数。

    约定:
        p 的分母与 amdahl_speedup 的不同：那里是单处理器的时间。

    出处:
        Gustafson 1988。

    示例:
        >>> round(gustafson_speedup(0.95, 8), 3)
        7.65
    """
    _require_fraction("parallel_fraction", parallel_fraction)
    require_count("workers", workers)
    return (1 - parallel_fraction) + parallel_fraction * workers


def karp_flatt_fraction(speedup: float, workers: int) -> float:
    r"""由测得的加速比反推串行的比例（Karp–Flatt 度量）。

    Args:
        speedup: 测得的加速比 S，正数（无量纲）。
        workers: 处理器的个数 N，至少 2。

    Returns:
        串行的比例 e（无量纲）；超线性加速时为负。

    Raises:
        ValueError: speedup 不是正数，或 workers 不是不小于 2 的整数。

    出处:
        Karp & Flatt 1990。

    示例:
        >>> round(karp_flatt_fraction(5.926, 8), 3)
        0.05
    """
    _require_positive("speedup", speedup)
    require_count("workers", workers, least=2)
    return (1 / speedup - 1 / workers) / (1 - 1 / workers)


def strong_efficiency(time_alone: float, time_together: float, workers: int) -> float:
    r"""强扩展的效率：同样的工作，N 个处理器相对于理想的 N 倍快做到了几成。

    Args:
        time_alone: 一个处理器的时间 T_1（秒）。
        time_together: N 个处理器的时间 T_N（秒）。
        workers: 处理器的个数 N。

    Returns:
        效率 E（无量纲），等于加速比除以 N。

    Raises:
        ValueError: 时间不是正数，或 workers 不是正整数。

    出处:
        定义。

    示例:
        >>> strong_efficiency(8.0, 2.5, 4)
        0.8
    """
    _require_positive("time_alone", time_alone)
    _require_positive("time_together", time_together)
    require_count("workers", workers)
    return time_alone / (workers * time_together)


def weak_efficiency(
    forward: float, backward: float, other: float, communication_end: float
) -> float:
    r"""DDP 弱扩展的效率：每个 rank 的批量不变，一步的时间因通信变长了多少。

    Args:
        forward: 前向的时间（秒）。
        backward: 反向的时间（秒）。
        other: 优化器与取数据等其余的时间（秒）。
        communication_end: 从反向开始算起，最后一个桶的通信结束的时刻（秒）；不通信时取 0。

    Returns:
        效率（无量纲）：一个 rank 单独的步时除以 N 个 rank 的步时。

    Raises:
        ValueError: 有时间是负数，或三段计算的时间都是 0。

    约定:
        通信与反向重叠，与前向和优化器不重叠。

    出处:
        Li et al. 2020, arXiv:2006.15704 的重叠模型；式子是本站的推论。

    示例:
        >>> weak_efficiency(30.0, 60.0, 10.0, 85.0)
        0.8
    """
    times = {
        "forward": forward,
        "backward": backward,
        "other": other,
        "communication_end": communication_end,
    }
    for name, time in times.items():
        if not 0 <= time < float("inf"):
            raise ValueError(f"{name} 必须是非负的有限数（秒），得到 {time!r}")
    alone = forward + backward + other
    if alone == 0:
        raise ValueError("forward、backward、other 不能都是 0：一步没有计算，谈不上效率")
    return alone / (forward + max(backward, communication_end) + other)


def _require_fraction(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} 必须在 [0, 1] 里，得到 {value!r}")


def _require_positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} 必须是有限的正数，得到 {value!r}")
