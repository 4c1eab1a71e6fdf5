"""从零写的对偶数：值与切向量成对地算，一遍前向同时得到函数值与方向导数。"""

import math
from collections.abc import Callable, Sequence


class Dual:
    r"""对偶数：值加上 ε 乘切向量，ε 的平方为零；四则运算、幂与常用函数都带着导数走。

    Args:
        value: 值。
        tangent: 切向量，缺省为 0，即常数。

    Raises:
        ValueError: value 或 tangent 不是实数；除以值为零的数；对非正数取对数；
            幂不是数，或在底数处没有有限的导数。

    约定:
        与 int、float 混合运算时，后者是切向量为零的常数；比较只看值，所以分支照走，
        求的是走过的那一支的导数。

    出处:
        Baydin et al. 2018, arXiv:1502.05767。

    示例:
        >>> x = Dual(3.0, 1.0)
        >>> x * x + 2 / x
        Dual(9.666666666666666, 5.777777777777778)
    """

    def __init__(self, value: float | int, tangent: float | int = 0.0) -> None:
        for name, number in (("value", value), ("tangent", tangent)):
            if isinstance(number, bool) or not isinstance(number, float | int):
                raise ValueError(f"{name} 必须是实数，得到 {number!r}")
        self.value, self.tangent = float(value), float(tangent)

    def __repr__(self) -> str:
        return f"Dual({self.value}, {self.tangent})"

    @staticmethod
    def lift(other: "Dual | float | int") -> "Dual":
        """把普通的数当作切向量为零的对偶数。"""
        return other if isinstance(other, Dual) else Dual(other)

    def chain(self, value: float, slope: float) -> "Dual":
        """一元函数的链式法则：值照算，切向量乘上导数 slope。"""
        return Dual(value, slope * self.tangent)

    def __add__(self, other: "Dual | float | int") -> "Dual":
        other = self.lift(other)
        return Dual(self.value + other.value, self.tangent + other.tangent)

    def __mul__(self, other: "Dual | float | int") -> "Dual":
        other = self.lift(other)
        tangent = self.tangent * other.value + self.value * other.tangent
        return Dual(self.value * other.value, tangent)

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> "Dual":
        return Dual(-self.value, -self.tangent)

    def __sub__(self, other: "Dual | float | int") -> "Dual":
        return self + -self.lift(other)

    def __rsub__(self, other: "Dual | float | int") -> "Dual":
        return self.lift(other) - self

    def __truediv__(self, other: "Dual | float | int") -> "Dual":
        return self * self.lift(other) ** -1

    def __rtruediv__(self, other: "Dual | float | int") -> "Dual":
        return self.lift(other) / self

    def __pow__(self, power: float | int) -> "Dual":
        if isinstance(power, bool) or not isinstance(power, float | int):
            raise ValueError(f"power 必须是实数，得到 {power!r}")
        if power == 0:
            return Dual(1.0)
        if (self.value == 0 and power < 1) or (self.value < 0 and power != int(power)):
            raise ValueError(f"{power} 次幂在 {self.value} 处没有有限的实导数")
        return self.chain(self.value**power, power * self.value ** (power - 1))

    def __lt__(self, other: "Dual | float | int") -> bool:
        return self.value < self.lift(other).value

    def __le__(self, other: "Dual | float | int") -> bool:
        return self.value <= self.lift(other).value

    def __gt__(self, other: "Dual | float | int") -> bool:
        return self.value > self.lift(other).value

    def __ge__(self, other: "Dual | float | int") -> bool:
        return self.value >= self.lift(other).value

    def __eq__(self, other: object) -> bool:
        return self.value == self.lift(other).value

    __hash__ = None  # 相等只看值，不宜作字典的键

    def sin(self) -> "Dual":
        """正弦，弧度。"""
        return self.chain(math.sin(self.value), math.cos(self.value))

    def exp(self) -> "Dual":
        """自然指数。"""
        return self.chain(math.exp(self.value), math.exp(self.value))

    def log(self) -> "Dual":
        """自然对数。"""
        if self.value <= 0:
            raise ValueError(f"log 的自变量必须是正数，得到 {self.value}")
        return self.chain(math.log(self.value), 1 / self.value)


def dual_jvp(
    f: Callable[[list[Dual]], Sequence[Dual]], x: Sequence[float], tangent: Sequence[float]
) -> list[float]:
    r"""用对偶数算雅可比–向量积：输入带上切向量，跑一遍函数，读出输出的切向量。

    Args:
        f: 吃一列对偶数、吐一列对偶数的函数，里面可以有循环与分支。
        x: 求导的点。
        tangent: 切向量，与 x 一样长。

    Returns:
        各个输出的切向量。

    Raises:
        ValueError: x 与 tangent 长度不同，或 f 的输出里有不是对偶数的。

    约定:
        要偏导数就让 tangent 取单位向量，n 个输入要跑 n 遍。

    出处:
        Baydin et al. 2018, arXiv:1502.05767。

    示例:
        >>> dual_jvp(lambda x: [x[0] * x[1], x[1] ** 3], [2.0, 5.0], [1.0, 10.0])
        [25.0, 750.0]
    """
    if len(x) != len(tangent):
        raise ValueError(f"tangent 必须与 x 一样长，得到 {len(tangent)} 与 {len(x)}")
    outputs = f([Dual(value, rate) for value, rate in zip(x, tangent, strict=True)])
    for output in outputs:
        if not isinstance(output, Dual):
            raise ValueError(f"f 的输出必须都是 Dual，得到 {output!r}")
    return [output.tangent for output in outputs]
