"""Argument checks: what passes, what doesn't, and what the error says."""

import pytest
import torch

from formulary.checks import (
    require_binary,
    require_count,
    require_distribution,
    require_floats,
    require_indices,
    require_permutation,
    require_probabilities,
)


def test_require_count__is_silent_from_the_least_on() -> None:
    """整数从下限起都放行。"""
    require_count("n", 1)
    require_count("n", 0, least=0)


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "3"])
def test_require_count__rejects_what_is_no_such_integer(value: object) -> None:
    """0、负数、小数、布尔值、字符串都不是正整数。"""
    with pytest.raises(ValueError, match=r"n 必须是不小于 1 的整数，得到 "):
        require_count("n", value)


def test_require_floats__is_silent_on_the_shape_asked_for() -> None:
    """长度、轴名、开头的省略号与不给形状都放行。"""
    x = torch.zeros(2, 3, 4)
    require_floats("x", x)
    require_floats("x", x, "B", 3, "d")
    require_floats("x", x, "...", 4)
    require_floats("x", x, "...", "B", 3, 4)
    require_floats("x", x[0, 0, 0], "...")


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (("B", 4), r"\(B, 4\)，得到 \(2, 3\)"),
        ((3,), r"\(3,\)，得到 \(2, 3\)"),
        (("...", 2), r"\(\.\.\., 2\)，得到 \(2, 3\)"),
        (("...", 1, 2, 3), r"\(\.\.\., 1, 2, 3\)，得到 \(2, 3\)"),
        ((2, 3, 1), r"\(2, 3, 1\)，得到 \(2, 3\)"),
    ],
)
def test_require_floats__rejects_another_shape(shape: tuple[int | str, ...], said: str) -> None:
    """形状不符时说出所需与实得。"""
    with pytest.raises(ValueError, match=f"x 的形状必须是 {said}"):
        require_floats("x", torch.zeros(2, 3), *shape)


@pytest.mark.parametrize("value", [torch.zeros(2).long(), [0.0], torch.zeros(2).cfloat()])
def test_require_floats__rejects_other_types(value: object) -> None:
    """整数张量、复数张量与列表都不是实浮点张量。"""
    with pytest.raises(ValueError, match="x 必须是实浮点张量，得到 "):
        require_floats("x", value)


def test_require_binary__is_silent_on_zeros_and_ones() -> None:
    """浮点、整数与布尔的 0、1 都放行。"""
    for dtype in (torch.float32, torch.int64, torch.bool):
        require_binary("x", torch.tensor([0, 1], dtype=dtype))


@pytest.mark.parametrize("value", [0.5, -1.0, 2.0, float("nan")])
def test_require_binary__rejects_other_values(value: float) -> None:
    """报错说出第一个不合要求的值。"""
    with pytest.raises(ValueError, match=f"x 的元素只能是 0 或 1，得到 {value}"):
        require_binary("x", torch.tensor([0.0, value, 1.0]))


def test_require_probabilities__is_silent_from_zero_to_one() -> None:
    """两个端点也算概率。"""
    require_probabilities("p", torch.tensor([0.0, 0.3, 1.0]))


@pytest.mark.parametrize("value", [-0.25, 1.5, float("nan")])
def test_require_probabilities__rejects_what_is_outside(value: float) -> None:
    """负数、大于 1 的数与 NaN 都不是概率。"""
    with pytest.raises(ValueError, match=rf"p 的元素必须在 \[0, 1\] 里，得到 {value}"):
        require_probabilities("p", torch.tensor([0.5, value]))


def test_require_distribution__is_silent_on_rows_and_columns_that_sum_to_one() -> None:
    """默认查最后一轴，也可另选。"""
    p = torch.tensor([[0.1, 0.9], [0.2, 0.8], [0.5, 0.5]])
    require_distribution("p", p)
    require_distribution("p", p.T, dim=0)


def test_require_distribution__rejects_other_sums() -> None:
    """和不为 1 时说出相差多少；float64 的容差比 float32 严。"""
    p = torch.tensor([0.5, 0.4])
    with pytest.raises(ValueError, match=r"p 沿第 -1 轴的和必须是 1，实际相差 0\.1"):
        require_distribution("p", p)
    with pytest.raises(ValueError, match="p 的元素必须在"):
        require_distribution("p", torch.tensor([1.5, -0.5]))
    nearly = [0.5, 0.5 + 1e-6]
    require_distribution("p", torch.tensor(nearly))
    with pytest.raises(ValueError, match="实际相差 1e-06"):
        require_distribution("p", torch.tensor(nearly, dtype=torch.float64))


def test_require_indices__is_silent_on_indices_in_range() -> None:
    """从 0 到 count − 1 的整数放行。"""
    require_indices("y", torch.tensor([0, 2]), 3, "B")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.tensor([0, 3]), r"y 的元素必须在 \[0, 3\) 里，得到 0 到 3"),
        (torch.tensor([-1, 1]), r"y 的元素必须在 \[0, 3\) 里，得到 -1 到 1"),
        (torch.tensor([0.0]), "y 必须是整数张量，得到 torch.float32"),
        ([0], "y 必须是整数张量，得到 <class 'list'>"),
        (torch.tensor([[0]]), r"y 的形状必须是 \(B,\)，得到 \(1, 1\)"),
    ],
)
def test_require_indices__rejects_other_values(value: object, said: str) -> None:
    """越界、浮点、列表与多出的轴都说清楚。"""
    with pytest.raises(ValueError, match=said):
        require_indices("y", value, 3, "B")


def test_require_permutation__is_silent_on_permutations() -> None:
    """任何次序都放行。"""
    require_permutation("order", torch.tensor([2, 0, 1]), 3)


@pytest.mark.parametrize(
    "value",
    [torch.tensor([0, 0, 1]), torch.tensor([1, 2, 3]), torch.tensor([0.0, 1, 2]), [0, 1, 2]],
)
def test_require_permutation__rejects_what_is_none(value: object) -> None:
    """重复、越界、浮点与列表都不是排列。"""
    with pytest.raises(ValueError, match="order 必须是 0 到 2 的一个排列（整数张量），得到"):
        require_permutation("order", value, 3)
