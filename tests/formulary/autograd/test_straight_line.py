"""直线程序与它的反向扫描的检验。"""

import random

import pytest
import torch

from formulary.autograd.straight_line import evaluate_program, program_gradient

PRODUCT_OF_FOUR = [("*", 0, 1), ("*", 4, 2), ("*", 5, 3)]


class Counted(float):
    """数自己参与了几次加法与乘法的浮点数。"""

    operations = 0

    def _count(self, value: float) -> "Counted":
        Counted.operations += 1
        return Counted(value)

    def __add__(self, other: float) -> "Counted":
        return self._count(float(self) + float(other))

    def __mul__(self, other: float) -> "Counted":
        return self._count(float(self) * float(other))

    __radd__, __rmul__ = __add__, __mul__


def _random_program(seed: int) -> tuple[list[tuple[str, int, int]], list[float]]:
    rng = random.Random(seed)
    n, steps = rng.randint(1, 5), rng.randint(1, 12)
    program = [(rng.choice("+*"), rng.randrange(n + k), rng.randrange(n + k)) for k in range(steps)]
    return program, [rng.uniform(-1.5, 1.5) for _ in range(n)]


def _torch_value_and_gradient(program, inputs) -> tuple[float, list[float]]:
    leaves = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in inputs]
    values = list(leaves)
    for name, left, right in program:
        a, b = values[left], values[right]
        values.append(a + b if name == "+" else a * b)
    gradients = torch.autograd.grad(values[-1], leaves, allow_unused=True)
    return values[-1].item(), [0.0 if g is None else g.item() for g in gradients]


def test_evaluate_program__matches_torch() -> None:
    """200 个随机程序，函数值与用 torch 张量跑的相同。"""
    for seed in range(200):
        program, inputs = _random_program(seed)
        expected, _ = _torch_value_and_gradient(program, inputs)
        torch.testing.assert_close(evaluate_program(program, inputs)[-1], expected)


def test_evaluate_program__equals_hand_values() -> None:
    """2·3 = 6，再加 2 得 8。"""
    assert evaluate_program([("*", 0, 1), ("+", 2, 0)], [2.0, 3.0]) == [2, 3, 6, 8]


def test_evaluate_program__rejects_bad_input() -> None:
    """空程序、空输入、不认识的运算、还没有算出的编号都报错。"""
    for program, inputs in (([], [1.0]), ([("+", 0, 0)], [])):
        with pytest.raises(ValueError, match="都不能为空"):
            evaluate_program(program, inputs)
    with pytest.raises(ValueError, match="运算必须是"):
        evaluate_program([("-", 0, 0)], [1.0])
    for step in (("+", 1, 0), ("*", 0, 1), ("+", -1, 0), ("*", 0, -1)):
        with pytest.raises(ValueError, match="操作数编号"):
            evaluate_program([step], [1.0])


def test_program_gradient__matches_torch_autograd() -> None:
    """200 个随机程序（有的量用到几次，有的一次不用），梯度与 torch 相同。"""
    for seed in range(200):
        program, inputs = _random_program(seed)
        _, expected = _torch_value_and_gradient(program, inputs)
        actual, _, _ = program_gradient(program, inputs)
        torch.testing.assert_close(actual, expected)


def test_program_gradient__matches_counting_numbers() -> None:
    """用会数运算次数的浮点数去跑一条链，求值与求梯度实际做的次数都与报告的相同。"""
    for seed in range(100):
        rng = random.Random(seed)
        steps = rng.randint(1, 12)
        names = [rng.choice("+*") for _ in range(steps - 1)] + ["*"]  # 末步是乘，伴随才都被数到
        program = [(name, 1 + k if k else 0, rng.randrange(2)) for k, name in enumerate(names)]
        counted = [Counted(0.5), Counted(1.5)]
        Counted.operations = 0
        evaluate_program(program, counted)
        forward = Counted.operations
        _, reported_forward, reported_total = program_gradient(program, counted)
        assert forward == reported_forward
        assert Counted.operations - forward == reported_total


def _real_total(program) -> int:
    additions = sum(name == "+" for name, _, _ in program)
    return 3 * additions + 5 * (len(program) - additions)


def test_program_gradient__bounds_cost_by_five() -> None:
    """求值加求梯度的次数恰为 3A + 5M，不超过求值的五倍；全是乘法时恰为五倍。"""
    for seed in range(200):
        program, inputs = _random_program(seed)
        _, forward, total = program_gradient(program, inputs)
        assert total == _real_total(program)
        assert total <= 5 * forward
    _, forward, total = program_gradient(PRODUCT_OF_FOUR, [2.0, 3.0, 5.0, 7.0])
    assert (forward, total) == (3, 15)


def test_program_gradient__equals_product_example() -> None:
    """2·3·5·7 的梯度是 (105, 70, 42, 30)；100 个数的乘积，求值 99 次，连梯度 495 次。"""
    gradient, _, _ = program_gradient(PRODUCT_OF_FOUR, [2.0, 3.0, 5.0, 7.0])
    assert gradient == [105, 70, 42, 30]
    program = [("*", 0, 1)] + [("*", 100 + k, 2 + k) for k in range(98)]
    inputs = [1.0 + 0.01 * k for k in range(100)]
    gradient, forward, total = program_gradient(program, inputs)
    assert (forward, total) == (99, 495)
    assert 100 * 98 == 9800  # 写出的 100 个偏导数，各是 99 个数的乘积，要乘 98 次
    expected = torch.tensor(inputs, dtype=torch.float64).prod() / torch.tensor(inputs).double()
    torch.testing.assert_close(torch.tensor(gradient, dtype=torch.float64), expected)


def test_program_gradient__equals_exercise() -> None:
    """练习：x 平方 k 次，求值 k 次，连梯度 5k 次；x = 1 处 x^8 的导数是 8。"""
    program = [("*", k, k) for k in range(3)]
    assert program_gradient(program, [1.0]) == ([8.0], 3, 15)


def test_program_gradient__rejects_bad_input() -> None:
    """与求值同样的检查。"""
    with pytest.raises(ValueError, match="都不能为空"):
        program_gradient([], [1.0])
    with pytest.raises(ValueError, match="操作数编号"):
        program_gradient([("+", 0, 2)], [1.0])
