"""求导的代价：矩阵乘法的次数由公式给出，并与 PyTorch 的计数器相对照。"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from formulary.checks import require_count


def count_flops(run: Callable[[], Any]) -> int:
    r"""数出一段程序里矩阵乘法的浮点运算次数。

    Args:
        run: 不带参数的函数，其中的矩阵乘法会被计数，前向与反向都算。

    Returns:
        浮点运算次数（次），一次乘法与一次加法各算一次。

    Raises:
        ValueError: run 不能调用。

    约定:
        用 torch.utils.flop_counter.FlopCounterMode。逐元素运算不计；
        torch 2.13 里矩阵乘向量（aten.mv）也不计，要数它就把向量写成一列的矩阵。

    出处:
        PyTorch 2.13, torch.utils.flop_counter。

    示例:
        >>> count_flops(lambda: torch.ones(2, 3) @ torch.ones(3, 5))
        60
    """
    if not callable(run):
        raise ValueError(f"run 必须是不带参数的函数，得到 {run!r}")
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def mlp_flops(widths: Sequence[int], batch: int) -> int:
    r"""全连接网络前向一次的矩阵乘法浮点运算次数。

    Args:
        widths: 各层的宽度 n_0, …, n_L，至少两项。
        batch: 批量 B。

    Returns:
        浮点运算次数（次）。

    Raises:
        ValueError: widths 不到两项，或有不是正整数的参数。

    约定:
        一次乘法与一次加法各算一次；偏置与激活函数不计。

    出处:
        矩阵乘法的定义。

    示例:
        >>> mlp_flops([64, 128, 10], 32)
        606208
    """
    require_widths(widths)
    require_count("batch", batch)
    return 2 * batch * sum(before * after for before, after in pairwise(widths))


def require_widths(widths: Sequence[int]) -> None:
    """要求 widths 是至少两个正整数。"""
    if len(widths) < 2:
        raise ValueError(f"widths 至少要有输入与输出两项，得到 {list(widths)}")
    for width in widths:
        require_count("widths 的每一项", width)


def mlp_training_flops(widths: Sequence[int], batch: int, input_gradient: bool) -> int:
    r"""全连接网络前向加反向的矩阵乘法浮点运算次数。

    Args:
        widths: 各层的宽度 n_0, …, n_L，至少两项。
        batch: 批量 B。
        input_gradient: 网络的输入是否也要梯度。

    Returns:
        浮点运算次数（次）；输入也要梯度时恰为前向的三倍。

    Raises:
        ValueError: widths 不到两项，有不是正整数的参数，或 input_gradient 不是布尔值。

    约定:
        每层的反向有两次矩阵乘法：对权重、对输入；第一层对输入的那一次可以省。

    出处:
        线性层的 VJP。

    示例:
        >>> mlp_training_flops([64, 128, 10], 32, False)
        1294336
    """
    if not isinstance(input_gradient, bool):
        raise ValueError(f"input_gradient 必须是布尔值，得到 {input_gradient!r}")
    total = 3 * mlp_flops(widths, batch)
    return total if input_gradient else total - 2 * batch * widths[0] * widths[1]


def accumulation_multiplications(widths: Sequence[int], mode: str) -> int:
    r"""把各层的稠密雅可比矩阵连乘起来，所需的乘法次数。

    Args:
        widths: n_0, …, n_L，第 l 层的雅可比是 n_l × n_{l−1} 的矩阵。
        mode: "reverse" 从输出一侧乘起，"forward" 从输入一侧乘起。

    Returns:
        标量乘法的次数（次）。

    Raises:
        ValueError: widths 不到两项，有不是正整数的宽度，或 mode 不认识。

    约定:
        只有一层时不必乘，次数是零。

    出处:
        Griewank and Walther 2008。

    示例:
        >>> accumulation_multiplications([100, 50, 50, 1], "reverse")
        7500
    """
    require_widths(widths)
    layers = list(pairwise(widths))
    if mode == "reverse":
        return widths[-1] * sum(before * after for before, after in layers[:-1])
    if mode == "forward":
        return widths[0] * sum(before * after for before, after in layers[1:])
    raise ValueError(f'mode 必须是 "reverse" 或 "forward"，得到 {mode!r}')
