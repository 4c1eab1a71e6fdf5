"""有限差分的误差：截断误差与舍入误差，以及两者相加最小的步长。"""

from formulary.autograd.finite_differences import require_positive


def forward_difference_error(
    h: float, value: float, second_derivative: float, epsilon: float
) -> tuple[float, float]:
    r"""单边差分误差的两部分：截断误差与舍入误差。

    Args:
        h: 步长，大于 0。
        value: 函数值 f(x)。
        second_derivative: 二阶导数。
        epsilon: 机器精度。

    Returns:
        截断误差与舍入误差（单位都同导数），非负；两者之和是误差的估计。

    Raises:
        ValueError: h 或 epsilon 不是正数。

    约定:
        假设函数值的相对误差不超过 epsilon；截断误差只取首项。

    出处:
        泰勒展开；本文推导。

    示例:
        >>> forward_difference_error(0.5, 2.0, 6.0, 0.001)
        (1.5, 0.008)
    """
    require_positive("h", h)
    require_positive("epsilon", epsilon)
    return h / 2 * abs(second_derivative), 2 * epsilon * abs(value) / h


def central_difference_error(
    h: float, value: float, third_derivative: float, epsilon: float
) -> tuple[float, float]:
    r"""中心差分误差的两部分：截断误差与舍入误差。

    Args:
        h: 步长，大于 0。
        value: 函数值 f(x)。
        third_derivative: 三阶导数。
        epsilon: 机器精度，如 torch.finfo(torch.float64).eps。

    Returns:
        截断误差与舍入误差（单位都同导数），非负；两者之和是误差的估计。

    Raises:
        ValueError: h 或 epsilon 不是正数。

    约定:
        假设函数值的相对误差不超过 epsilon；截断误差只取首项。

    出处:
        泰勒展开；本文推导。

    示例:
        >>> truncation, rounding = central_difference_error(0.25, 2.0, 6.0, 0.001)
        >>> truncation, rounding
        (0.0625, 0.008)
    """
    require_positive("h", h)
    require_positive("epsilon", epsilon)
    return h**2 / 6 * abs(third_derivative), epsilon * abs(value) / h


def optimal_central_step(value: float, third_derivative: float, epsilon: float) -> float:
    r"""使中心差分的误差估计最小的步长。

    Args:
        value: 函数值 f(x)，不为零。
        third_derivative: 三阶导数，不为零。
        epsilon: 机器精度。

    Returns:
        步长（单位同 x）。

    Raises:
        ValueError: epsilon 不是正数，或 value、third_derivative 为零。

    约定:
        截断误差随步长的平方增长，舍入误差随步长的倒数增长，最小处前者恰是后者的一半。

    出处:
        Nocedal and Wright 2006, 第 8 章；本文推导。

    示例:
        >>> round(optimal_central_step(2.0, 6.0, 0.001), 6)
        0.1
    """
    require_positive("epsilon", epsilon)
    require_positive("value 的绝对值", abs(value))
    require_positive("third_derivative 的绝对值", abs(third_derivative))
    return (3 * epsilon * abs(value / third_derivative)) ** (1 / 3)
