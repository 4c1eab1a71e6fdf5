import pytest
import torch
import torch.nn.functional as F
from torch import nn

from formulary.nn_and_functional.running_statistics import (
    cumulative_average,
    updated_running_statistics,
)

GENERATOR = torch.Generator().manual_seed(0)
BATCHES = [torch.randn(4, 3, 5, dtype=torch.float64, generator=GENERATOR) + k for k in range(6)]


def test_updated_running_statistics__matches_module_and_function():
    """连看六批之后，运行统计与 nn.BatchNorm1d、F.batch_norm 一致。"""
    for momentum in (0.1, 0.35):
        ours = torch.zeros(3).double(), torch.ones(3).double()
        module = nn.BatchNorm1d(3, momentum=momentum).double()
        mean, variance = torch.zeros(3).double(), torch.ones(3).double()
        for x in BATCHES:
            ours = updated_running_statistics(*ours, x, momentum)
            module(x)
            F.batch_norm(x, mean, variance, training=True, momentum=momentum)
            torch.testing.assert_close(ours, (module.running_mean, module.running_var))
            torch.testing.assert_close(ours, (mean, variance))


def test_updated_running_statistics__matches_python_loop():
    """与逐通道的标准库统计一致：方差除以 m − 1。"""
    import statistics

    before = torch.tensor([0.5, -1.0, 2.0]).double(), torch.tensor([1.0, 4.0, 0.2]).double()
    mean, variance = updated_running_statistics(*before, BATCHES[2], 0.25)
    for channel in range(3):
        values = BATCHES[2][:, channel].flatten().tolist()
        torch.testing.assert_close(
            mean[channel].item(), 0.75 * before[0][channel].item() + 0.25 * statistics.mean(values)
        )
        torch.testing.assert_close(
            variance[channel].item(),
            0.75 * before[1][channel].item() + 0.25 * statistics.variance(values),
        )


def test_updated_running_statistics__equals_hand_example():
    """手算一例：从 0 与 1 出发看到 1、3、8：均值 0.4，方差 0.9 + 0.1·13 = 2.2。"""
    x = torch.tensor([[1.0], [3.0], [8.0]], dtype=torch.float64)
    found = updated_running_statistics(torch.zeros(1).double(), torch.ones(1).double(), x)
    assert [round(value.item(), 12) for value in found] == [0.4, 2.2]


def test_updated_running_statistics__differs_from_biased_variance():
    """存有偏方差的写法，一批 4 个数时差四分之一。"""
    x = BATCHES[0][:, :, 0]
    _, variance = updated_running_statistics(
        torch.zeros(3).double(), torch.zeros(3).double(), x, 1.0
    )
    torch.testing.assert_close(x.var(0, unbiased=False) / variance, torch.full((3,), 0.75).double())


def test_updated_running_statistics__differs_from_weight_of_the_old_value():
    """把 momentum 当作旧值的权重（Keras 的约定），结果不同。"""
    zero, one = torch.zeros(3).double(), torch.ones(3).double()
    ours = updated_running_statistics(zero, one, BATCHES[3], 0.1)
    other = updated_running_statistics(zero, one, BATCHES[3], 0.9)
    assert (ours[0] - other[0]).abs().max() > 1


def test_updated_running_statistics__rejects_bad_momentum_and_shapes():
    """越界的 momentum、长度不符的统计被拒绝。"""
    zero, one = torch.zeros(3).double(), torch.ones(3).double()
    for momentum in (-0.1, 1.5):
        with pytest.raises(ValueError, match="momentum 必须在"):
            updated_running_statistics(zero, one, BATCHES[0], momentum)
    with pytest.raises(ValueError, match="running_mean 的形状必须是"):
        updated_running_statistics(zero[:2], one, BATCHES[0])


def test_cumulative_average__matches_module():
    """与 momentum=None 的 nn.BatchNorm1d 逐步一致。"""
    module = nn.BatchNorm1d(3, momentum=None).double()
    means = torch.stack([x.mean((0, 2)) for x in BATCHES])
    found = cumulative_average(means)
    for x, expected in zip(BATCHES, found, strict=True):
        module(x)
        torch.testing.assert_close(module.running_mean, expected)


def test_cumulative_average__matches_prefix_means():
    """第 t 行等于前 t 行直接取平均。"""
    values = torch.randn(7, 2, dtype=torch.float64, generator=GENERATOR)
    expected = torch.stack([values[: t + 1].mean(0) for t in range(7)])
    torch.testing.assert_close(cumulative_average(values), expected)


def test_cumulative_average__equals_hand_example():
    """1、3、8 的累积平均是 1、2、4。"""
    values = torch.tensor([[1.0], [3.0], [8.0]], dtype=torch.float64)
    assert cumulative_average(values).flatten().tolist() == [1, 2, 4]


def test_cumulative_average__rejects_vectors():
    """一轴的输入被拒绝。"""
    with pytest.raises(ValueError, match="values 的形状必须是"):
        cumulative_average(torch.zeros(3))


def test_updated_running_statistics__limit_momentum():
    """权重为 0 时不变，为 1 时就是这一批的统计。"""
    zero, one = torch.zeros(3).double(), torch.ones(3).double()
    kept = updated_running_statistics(zero, one, BATCHES[0], 0.0)
    torch.testing.assert_close(kept, (zero, one))
    mean, variance = updated_running_statistics(zero, one, BATCHES[0], 1.0)
    torch.testing.assert_close(mean, BATCHES[0].mean((0, 2)))
    torch.testing.assert_close(variance, BATCHES[0].movedim(1, 0).reshape(3, -1).var(1))
