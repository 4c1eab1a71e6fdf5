"""MADE 的计算量：一次密度与三种采样写法各要多少次乘加，多少个先后相继的步骤。"""

from collections.abc import Sequence
from itertools import pairwise

from formulary.checks import require_count


def made_multiply_adds(n: int, hidden: Sequence[int]) -> dict[str, int]:
    r"""每个样本的乘加次数，矩阵按稠密计，不算偏置、激活与乘掩码。

    Args:
        n: 变量的个数（个）。
        hidden: 各隐藏层的宽度，至少一层。

    Returns:
        四个键：density 是一次密度；sample 是 made_sample；incremental 是
        made_sample_incremental；by_degree 是 made_sample_by_degree（次）。

    Raises:
        ValueError: n 或宽度不是正整数，或 hidden 为空。

    约定:
        一次乘法加一次加法算一次乘加；FLOP 数是它的两倍。

    示例:
        >>> made_multiply_adds(4, [5])
        {'density': 40, 'sample': 160, 'incremental': 40, 'by_degree': 40}
    """
    require_count("n", n)
    require_count("hidden 的层数", len(hidden))
    for width in hidden:
        require_count("hidden 的每一项", width)
    middle = sum(a * b for a, b in pairwise(hidden))
    outer = n * hidden[0] + hidden[-1] * n
    return {
        "density": outer + middle,
        "sample": n * (outer + middle),
        "incremental": outer + n * middle,
        "by_degree": outer + middle,
    }
