import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from formulary.nn_and_functional.sizes import (
    convolution_output_size,
    pooling_output_size,
    transposed_output_size,
)


def test_convolution_output_size__matches_torch_for_all_settings():
    """三百多种设置逐一与 nn.Conv1d、F.conv1d 的真实输出比较。"""
    compared = 0
    settings = itertools.product((1, 2, 5, 8), (1, 2, 3), (1, 2, 3), (0, 1, 2), (1, 2, 3))
    for size, kernel, stride, padding, dilation in settings:
        x, weight = torch.zeros(1, 1, size), torch.zeros(1, 1, kernel)
        try:
            expected = F.conv1d(x, weight, None, stride, padding, dilation).shape[-1]
        except RuntimeError:
            with pytest.raises(ValueError, match="放不下"):
                convolution_output_size(size, kernel, stride, padding, dilation)
            continue
        compared += 1
        found = convolution_output_size(size, kernel, stride, padding, dilation)
        assert found == expected
        assert nn.Conv1d(1, 1, kernel, stride, padding, dilation)(x).shape[-1] == found
    assert compared > 250


def test_convolution_output_size__matches_counting_positions():
    """与逐个挪动核、数放得下的位置一致。"""
    for size, kernel, stride, padding, dilation in ((11, 3, 2, 1, 2), (7, 4, 3, 0, 1)):
        starts = range(-padding, size + padding, stride)
        fitting = [s for s in starts if s + dilation * (kernel - 1) < size + padding]
        assert convolution_output_size(size, kernel, stride, padding, dilation) == len(fitting)


def test_convolution_output_size__preserves_size_with_same_padding():
    """步幅 1、奇数的核、补 d(k − 1)/2，长度不变。"""
    for kernel, dilation in ((3, 1), (5, 1), (3, 2), (7, 3)):
        padding = dilation * (kernel - 1) // 2
        assert convolution_output_size(13, kernel, 1, padding, dilation) == 13


def test_convolution_output_size__equals_worked_example():
    """长 7、核 3、步幅 2、补 1，输出 4；长 8 时也是 4，丢了最后一格补齐。"""
    assert convolution_output_size(7, 3, 2, 1) == convolution_output_size(8, 3, 2, 1) == 4


@pytest.mark.parametrize("bad", [{"kernel": 0}, {"stride": 0}, {"padding": -1}, {"dilation": 0}])
def test_convolution_output_size__rejects_bad_settings(bad):
    """不是正整数的设置被拒绝，错误说出是哪一个。"""
    with pytest.raises(ValueError, match=next(iter(bad))):
        convolution_output_size(**{"size": 5, "kernel": 3, **bad})


def test_transposed_output_size__matches_torch_for_all_settings():
    """七百多种设置逐一与 nn.ConvTranspose1d、F.conv_transpose1d 的真实输出比较。"""
    compared = 0
    settings = itertools.product((1, 2, 5), (1, 2, 3), (1, 2, 3), (0, 1, 2), (0, 1, 2), (1, 2, 3))
    for size, kernel, stride, padding, extra, dilation in settings:
        x, weight = torch.zeros(1, 1, size), torch.zeros(1, 1, kernel)
        try:
            expected = F.conv_transpose1d(
                x, weight, None, stride, padding, extra, 1, dilation
            ).shape[-1]
        except RuntimeError:
            with pytest.raises(ValueError, match=r"output_padding 必须小于|输出的长度是"):
                transposed_output_size(size, kernel, stride, padding, extra, dilation)
            continue
        compared += 1
        found = transposed_output_size(size, kernel, stride, padding, extra, dilation)
        assert found == expected
        module = nn.ConvTranspose1d(1, 1, kernel, stride, padding, extra, dilation=dilation)
        assert module(x).shape[-1] == found
    assert compared > 350


def test_transposed_output_size__is_inverse_of_convolution_size():
    """它给出卷积之后恰为原长的一个输入；output_padding 走遍其余几个。"""
    for kernel, stride, padding in ((3, 2, 1), (4, 3, 0), (5, 4, 2)):
        found = [
            transposed_output_size(6, kernel, stride, padding, extra) for extra in range(stride)
        ]
        assert found == [
            size
            for size in range(1, 60)
            if size + 2 * padding >= kernel
            if convolution_output_size(size, kernel, stride, padding) == 6
        ]


def test_transposed_output_size__rejects_ambiguous_padding():
    """不小于步幅的 output_padding 与空的输出被拒绝。"""
    with pytest.raises(ValueError, match="较大的 2"):
        transposed_output_size(4, 3, 2, output_padding=2)
    with pytest.raises(ValueError, match="输出的长度是 -1"):
        transposed_output_size(1, 1, padding=1)


def test_pooling_output_size__matches_torch_for_all_settings():
    """两种取整下，逐一与 nn.MaxPool1d、F.max_pool1d 的真实输出比较。"""
    compared = 0
    settings = itertools.product(range(1, 12), (1, 2, 3, 4), (1, 2, 3, 5), (0, 1, 2), (False, True))
    for size, kernel, stride, padding, ceil_mode in settings:
        x = torch.zeros(1, 1, size)
        try:
            expected = F.max_pool1d(x, kernel, stride, padding, ceil_mode=ceil_mode).shape[-1]
        except RuntimeError:
            with pytest.raises(ValueError, match=r"padding 不能超过|放不下"):
                pooling_output_size(size, kernel, stride, padding, ceil_mode)
            continue
        compared += 1
        found = pooling_output_size(size, kernel, stride, padding, ceil_mode)
        assert found == expected, (size, kernel, stride, padding, ceil_mode)
        assert nn.MaxPool1d(kernel, stride, padding, ceil_mode=ceil_mode)(x).shape[-1] == found
    assert compared > 450


def test_pooling_output_size__equals_worked_examples():
    """长 5、窗口与步幅 2：向下取整 2，向上取整 3；步幅 3、窗口 1 时末端的窗口悬空，要减去。"""
    assert [pooling_output_size(5, 2, 2, ceil_mode=mode) for mode in (False, True)] == [2, 3]
    assert pooling_output_size(2, 1, 3, ceil_mode=True) == 1


def test_pooling_output_size__equals_exercise():
    """长 32 经两轮核 5 的卷积与窗口 2 的池化：28、14、10、5。"""
    sizes = [32]
    for _ in range(2):
        sizes.append(convolution_output_size(sizes[-1], 5))
        sizes.append(pooling_output_size(sizes[-1], 2, 2))
    assert sizes == [32, 28, 14, 10, 5]


def test_pooling_output_size__rejects_wide_padding():
    """超过窗口一半的补齐、放不下的窗口被拒绝。"""
    with pytest.raises(ValueError, match="不能超过窗口的一半"):
        pooling_output_size(5, 3, 1, padding=2)
    with pytest.raises(ValueError, match="放不下"):
        pooling_output_size(2, 3, 1)


def test_convolution_output_size__equals_plain_defaults():
    """不写就是步幅 1、不补零、不空洞：长 9、核 3 输出 7。"""
    assert convolution_output_size(9, 3) == 7


def test_transposed_output_size__equals_plain_defaults():
    """不写就是步幅 1、不裁：长 4、核 3 输出 6；步幅 2 时输出 9。"""
    assert (transposed_output_size(4, 3), transposed_output_size(4, 3, 2)) == (6, 9)


def test_pooling_output_size__equals_floor_by_default():
    """不写就向下取整：长 6、窗口 3、步幅 2 输出 2。"""
    assert pooling_output_size(6, 3, 2) == 2


def test_transposed_output_size__rejects_negative_padding():
    """负的 padding 与 output_padding 被拒绝。"""
    for name in ("padding", "output_padding"):
        with pytest.raises(ValueError, match=name):
            transposed_output_size(4, 3, **{name: -1})


def test_pooling_output_size__rejects_negative_padding():
    """负的 padding 被拒绝。"""
    with pytest.raises(ValueError, match="padding 必须是"):
        pooling_output_size(6, 3, 2, padding=-1)
