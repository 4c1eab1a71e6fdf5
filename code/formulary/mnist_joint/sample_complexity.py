"""朴素贝叶斯要多少样本：全部像素概率一齐估准，样本数只随像素数的对数增长。"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_count


def uniform_failure_bound(
    samples: Float[Tensor, " N"], n: int, classes: int, tolerance: float
) -> Float[Tensor, " N"]:
    r"""有哪个像素概率估偏超过 tolerance 的概率的上界（Hoeffding 不等式加并集上界）。

    Args:
        samples: 每类的样本数 N_k，可以给出好几个。
        n: 像素数。
        classes: 类别数 K。
        tolerance: 允许的误差 ε（无量纲），在 0 与 1 之间。

    Returns:
        2Kn·exp(−2·N_k·ε²)（无量纲）；大于 1 时没有信息。

    Raises:
        ValueError: n 或 classes 不是正整数；tolerance 不在 (0, 1) 里；samples 有负数。

    出处:
        Hoeffding 1963; 用法同 Ng & Jordan 2001。

    示例:
        >>> uniform_failure_bound(torch.tensor([500.0]), n=64, classes=10, tolerance=0.1)
        tensor([0.0581])
    """
    require_count("n", n)
    require_count("classes", classes)
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance 必须在 (0, 1) 里，得到 {tolerance}")
    if not (samples >= 0).all():
        raise ValueError("samples 不能有负数")
    return 2 * classes * n * torch.exp(-2 * samples * tolerance**2)


def samples_per_class(n: int, classes: int, tolerance: float, failure: float) -> float:
    r"""让全部 Kn 个像素概率以大概率一齐估准，每类够用的样本数。

    Args:
        n: 像素数。
        classes: 类别数 K。
        tolerance: 允许的误差 ε（无量纲），在 0 与 1 之间。
        failure: 允许的失败概率 δ（无量纲），在 0 与 1 之间。

    Returns:
        log(2Kn/δ) / (2ε²)（个，未取整）；只随 n 的对数增长。

    Raises:
        ValueError: n 或 classes 不是正整数；tolerance 或 failure 不在 (0, 1) 里。

    约定:
        这是充分条件，不是必要条件；说的是参数估准，不是分类准确。

    出处:
        Hoeffding 1963; 用法同 Ng & Jordan 2001。

    示例:
        >>> round(samples_per_class(64, 10, tolerance=0.1, failure=0.05), 1)
        507.5
    """
    require_count("n", n)
    require_count("classes", classes)
    for name, value in (("tolerance", tolerance), ("failure", failure)):
        if not 0 < value < 1:
            raise ValueError(f"{name} 必须在 (0, 1) 里，得到 {value}")
    return math.log(2 * classes * n / failure) / (2 * tolerance**2)
