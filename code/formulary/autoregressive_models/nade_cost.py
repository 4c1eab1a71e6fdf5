"""NADE 的参数个数与乘加次数。"""

from formulary.checks import require_count


def nade_parameter_count(n: int, d: int) -> int:
    r"""NADE 的参数个数：W 与 V 各 nd 个，b 有 n 个，c 有 d 个。

    Args:
        n: 变量个数，正整数。
        d: 隐藏层的宽度，正整数。

    Returns:
        2nd + n + d；其中 W 的最后一列（d 个）不影响输出。

    Raises:
        ValueError: n 或 d 不是正整数。

    示例:
        >>> nade_parameter_count(784, 500)
        785284
    """
    require_count("n", n)
    require_count("d", d)
    return 2 * n * d + n + d


def nade_multiply_adds(n: int, d: int) -> tuple[int, int]:
    r"""每个样本算出全部隐藏激活 a_1, …, a_n 要多少次乘加：朴素与递推。

    Args:
        n: 变量个数，正整数。
        d: 隐藏层的宽度，正整数。

    Returns:
        (n(n − 1)/2·d, (n − 1)d)；不算偏置、sigmoid 与输出层，它们两边一样多。

    Raises:
        ValueError: n 或 d 不是正整数。

    约定:
        一次乘法加一次加法算一次乘加。

    示例:
        >>> nade_multiply_adds(784, 500)
        (153468000, 391500)
    """
    require_count("n", n)
    require_count("d", d)
    return n * (n - 1) // 2 * d, (n - 1) * d
