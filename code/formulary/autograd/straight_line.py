"""直线程序：一列加法与乘法，每一步用到前面的两个量；反向扫一遍求梯度，并数运算次数。"""

from collections.abc import Sequence

Step = tuple[str, int, int]  # 运算（"+" 或 "*"）与两个操作数的编号


def evaluate_program(program: Sequence[Step], inputs: Sequence[float]) -> list[float]:
    r"""顺着程序求值，留下每一步的结果。

    Args:
        program: 各步的运算与两个操作数的编号；前 n 个编号是输入，第 k 步的结果编号是 n + k。
        inputs: n 个输入（无量纲）。

    Returns:
        全部的值，前 n 个是输入，最后一个是函数值。

    Raises:
        ValueError: program 或 inputs 为空，运算不是 "+" 或 "*"，或用到还没有算出的编号。

    约定:
        步与编号都从 0 起。

    出处:
        Griewank and Walther 2008，又名 Wengert 表。

    示例:
        >>> evaluate_program([("*", 0, 1), ("+", 2, 0)], [2.0, 3.0])
        [2.0, 3.0, 6.0, 8.0]
    """
    if not program or not inputs:
        raise ValueError("program 与 inputs 都不能为空")
    values = list(inputs)
    for name, left, right in program:
        if name not in ("+", "*"):
            raise ValueError(f'program 的运算必须是 "+" 或 "*"，得到 {name!r}')
        if not (0 <= left < len(values) and 0 <= right < len(values)):
            raise ValueError(
                f"program 的操作数编号必须在 [0, {len(values)}) 里，得到 {left} 与 {right}"
            )
        a, b = values[left], values[right]
        values.append(a + b if name == "+" else a * b)
    return values


def program_gradient(
    program: Sequence[Step], inputs: Sequence[float]
) -> tuple[list[float], int, int]:
    r"""反向扫一遍程序，得到对全部输入的梯度，并数出算术运算的次数。

    Args:
        program: 格式同 evaluate_program。
        inputs: n 个输入（无量纲）。

    Returns:
        梯度（n 个），只求值的运算次数，求值加求梯度的运算次数（次）。

    Raises:
        ValueError: 同 evaluate_program。

    约定:
        每次加法或乘法算一次，往伴随里累加也算；乘法的反向是两次乘、两次加，加法的反向是两次加。

    出处:
        Baur and Strassen 1983；Griewank and Walther 2008。

    示例:
        >>> program_gradient([("*", 0, 1), ("+", 2, 0)], [2.0, 3.0])
        ([4.0, 2.0], 2, 8)
    """
    values = evaluate_program(program, inputs)
    adjoints = [0.0] * len(values)
    adjoints[-1] = 1.0
    operations = len(program)
    for node in range(len(values) - 1, len(inputs) - 1, -1):
        name, left, right = program[node - len(inputs)]
        if name == "*":
            adjoints[left] += adjoints[node] * values[right]
            adjoints[right] += adjoints[node] * values[left]
            operations += 4
        else:
            adjoints[left] += adjoints[node]
            adjoints[right] += adjoints[node]
            operations += 2
    return adjoints[: len(inputs)], len(program), operations
