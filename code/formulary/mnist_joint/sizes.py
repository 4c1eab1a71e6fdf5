"""状态与参数的个数：全用 Python 整数，784 个像素也不溢出。"""

import math
from collections.abc import Sequence

from formulary.checks import require_count


def state_count(pixels: int, classes: int = 1, levels: int = 2) -> int:
    r"""图像连同标签共有多少种取值。

    Args:
        pixels: 像素数 n。
        classes: 类别数 K；1 表示不带标签。
        levels: 每个像素的取值个数（级）。

    Returns:
        K·levels^n，Python 整数（种）。

    Raises:
        ValueError: 三个参数里有一个不是正整数。

    出处:
        由乘法原理。

    示例:
        >>> state_count(3), state_count(3, classes=10)
        (8, 80)
    """
    require_count("pixels", pixels)
    require_count("classes", classes)
    require_count("levels", levels)
    return classes * levels**pixels


def table_parameter_counts(pixels: int, classes: int) -> tuple[int, int]:
    r"""把分布逐项列成表，要多少个自由参数。

    Args:
        pixels: 二值像素数 n。
        classes: 类别数 K。

    Returns:
        联合分布 p(x, y) 的全表与条件分布 p(y|x) 的全表的参数个数（个）。

    Raises:
        ValueError: pixels 或 classes 不是正整数。

    约定:
        一个有 c 种取值的分布有 c − 1 个自由参数，因为和为 1。

    出处:
        CS236, 第 2 讲。

    示例:
        >>> table_parameter_counts(3, classes=10)
        (79, 72)
    """
    return state_count(pixels, classes) - 1, (classes - 1) * state_count(pixels)


def naive_bayes_parameter_count(pixels: int, classes: int) -> int:
    r"""朴素贝叶斯的自由参数个数。

    Args:
        pixels: 二值像素数 n。
        classes: 类别数 K。

    Returns:
        K·n 个像素概率加上 K − 1 个先验（个）。

    Raises:
        ValueError: pixels 或 classes 不是正整数。

    出处:
        CS236, 第 2 讲。

    示例:
        >>> naive_bayes_parameter_count(784, classes=10)
        7849
    """
    require_count("pixels", pixels)
    require_count("classes", classes)
    return classes * pixels + classes - 1


def softmax_parameter_counts(pixels: int, classes: int) -> tuple[int, int]:
    r"""多类逻辑斯谛回归（softmax 回归）的参数个数，与其中能由 p(y|x) 定出的个数。

    Args:
        pixels: 像素数 n。
        classes: 类别数 K。

    Returns:
        K(n+1)，即权重与偏置的个数；(K−1)(n+1)，因为各类同加一个向量不改变 p(y|x)（个）。

    Raises:
        ValueError: pixels 或 classes 不是正整数。

    出处:
        由各类的打分同加一个函数，softmax 不变。

    示例:
        >>> softmax_parameter_counts(784, classes=10)
        (7850, 7065)
    """
    require_count("pixels", pixels)
    require_count("classes", classes)
    return classes * (pixels + 1), (classes - 1) * (pixels + 1)


def network_parameter_count(cardinalities: Sequence[int], parents: Sequence[Sequence[int]]) -> int:
    r"""贝叶斯网各条件概率表的自由参数之和。

    Args:
        cardinalities: 各变量的取值个数（种）。
        parents: parents[v] 是变量 v 的各个父结点，下标从 0 起。

    Returns:
        每个结点的“自己的取值个数减 1，乘以各父结点取值个数之积”，再求和（个）。

    Raises:
        ValueError: 两个序列的长度不同，取值个数不是正整数，或父结点的下标越界。

    约定:
        不检查图有没有环；环由 topological_order 检查。

    出处:
        Koller & Friedman 2009, Probabilistic Graphical Models, 第 3 章。

    示例:
        >>> network_parameter_count([2, 2, 3], [[], [0], [0, 1]])
        11
    """
    if len(cardinalities) != len(parents):
        raise ValueError(
            f"parents 与 cardinalities 必须一样长，得到 {len(parents)} 与 {len(cardinalities)}"
        )
    total = 0
    for v, above in enumerate(parents):
        require_count(f"cardinalities[{v}]", cardinalities[v])
        if any(not 0 <= u < len(parents) for u in above):
            raise ValueError(f"parents 的下标必须在 [0, {len(parents)}) 里，得到 {list(above)}")
        total += (cardinalities[v] - 1) * math.prod(cardinalities[u] for u in above)
    return total
