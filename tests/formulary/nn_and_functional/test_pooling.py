import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from formulary.nn_and_functional.pooling import average_pool2d, max_pool2d

X = torch.randn(2, 3, 7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
SETTINGS = [(2, 2, 0), (3, 2, 1), (3, 1, 1), (2, 3, 1), (4, 2, 2)]


@pytest.mark.parametrize("setting", SETTINGS)
def test_max_pool2d__matches_module_and_function(setting):
    """与 nn.MaxPool2d、F.max_pool2d 一致。"""
    ours = max_pool2d(X, *setting)
    torch.testing.assert_close(ours, F.max_pool2d(X, *setting))
    torch.testing.assert_close(ours, nn.MaxPool2d(*setting)(X))


def test_max_pool2d__matches_python_loop():
    """与逐格比较的 Python 循环一致。"""
    ours = max_pool2d(X, 3, 2, 1)
    for b, c, u, v in torch.cartesian_prod(*map(torch.arange, ours.shape)).tolist():
        window = [
            X[b, c, row, col].item()
            for row in range(2 * u - 1, 2 * u + 2)
            for col in range(2 * v - 1, 2 * v + 2)
            if 0 <= row < 7 and 0 <= col < 6
        ]
        assert ours[b, c, u, v].item() == max(window)


def test_max_pool2d__is_negative_for_negative_images():
    """补的是负无穷：全负的图像，边上也取得到像素自己。"""
    image = -torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(1)) - 0.1
    assert (max_pool2d(image, 3, 1, 1) < 0).all()


def test_max_pool2d__differs_from_padding_with_zeros():
    """先用 F.pad 补零再池化，全负的图像在边上得到 0。"""
    image = -torch.ones(1, 1, 4, 4)
    wrong = F.max_pool2d(F.pad(image, (1, 1, 1, 1)), 3, 1)
    assert wrong.max() == 0
    assert (max_pool2d(image, 3, 1, 1) == -1).all()


def test_max_pool2d__rejects_wide_padding_and_integers():
    """超过窗口一半的补齐与整数的图像被拒绝。"""
    with pytest.raises(ValueError, match="不能超过窗口的一半"):
        max_pool2d(X, 2, 2, 2)
    with pytest.raises(ValueError, match="x 必须是实浮点张量"):
        max_pool2d(X.long(), 2, 2)


@pytest.mark.parametrize("setting", SETTINGS)
def test_average_pool2d__matches_module_and_function(setting):
    """两种分母都与 nn.AvgPool2d、F.avg_pool2d 一致。"""
    for count in (True, False):
        ours = average_pool2d(X, *setting, count_padding=count)
        expected = F.avg_pool2d(X, *setting, count_include_pad=count)
        torch.testing.assert_close(ours, expected)
        torch.testing.assert_close(ours, nn.AvgPool2d(*setting, count_include_pad=count)(X))


def test_average_pool2d__equals_hand_example_at_the_corner():
    """全 1 的图像补一圈零：3×3 窗口在角上只有 4 个像素，默认得 4/9，不计补齐得 1。"""
    image = torch.ones(1, 1, 5, 5, dtype=torch.float64)
    assert math.isclose(average_pool2d(image, 3, 1, 1)[0, 0, 0, 0].item(), 4 / 9)
    assert average_pool2d(image, 3, 1, 1, count_padding=False)[0, 0, 0, 0].item() == 1


def test_average_pool2d__differs_from_ceil_mode_beyond_the_padding():
    """PyTorch 向上取整时，伸到补齐之外的格子不计入分母：全 1 的图像处处得 1。"""
    image = torch.ones(1, 1, 5, 5, dtype=torch.float64)
    ceiled = F.avg_pool2d(image, 2, 2, ceil_mode=True)
    assert ceiled.shape[-1] == 3
    assert (ceiled == 1).all()
    assert (average_pool2d(F.pad(image, (0, 1, 0, 1)), 2, 2)[..., -1, -1] == 0.25).all()


def test_average_pool2d__rejects_large_windows():
    """放不下的窗口被拒绝。"""
    with pytest.raises(ValueError, match="放不下"):
        average_pool2d(X, 8, 1)


def test_max_pool2d__equals_no_padding_by_default():
    """不写补齐就是不补。"""
    torch.testing.assert_close(max_pool2d(X, 2, 2), F.max_pool2d(X, 2, 2))


@pytest.mark.parametrize("shape", [(5, 5, 2, 9), (5, 5, 9, 2), (1, 1, 2, 2)])
def test_average_pool2d__rejects_either_short_side(shape):
    """行或列放不下窗口都被拒绝，与批量、通道的大小无关。"""
    with pytest.raises(ValueError, match="窗口长 3"):
        average_pool2d(torch.zeros(shape), 3, 1)


def test_average_pool2d__depends_only_on_rows_and_columns_for_its_size():
    """批量与通道都是 1、比窗口小，也照样池化。"""
    assert average_pool2d(torch.ones(1, 1, 4, 5), 3, 1).shape == (1, 1, 2, 3)
