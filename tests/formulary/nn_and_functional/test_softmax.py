import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from formulary.nn_and_functional.softmax import implicit_softmax_dim, log_softmax, softmax


def logits(*shape: int) -> torch.Tensor:
    return 5 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_softmax__matches_module_and_function():
    """每一轴上都与 nn.Softmax、F.softmax 一致。"""
    z = logits(2, 3, 4)
    for dim in (0, 1, 2, -1):
        torch.testing.assert_close(softmax(z, dim), nn.Softmax(dim)(z))
        torch.testing.assert_close(softmax(z, dim), F.softmax(z, dim))


def test_softmax__matches_python_loop():
    """与逐个取指数、相除的 Python 循环一致。"""
    z = logits(4)
    powers = [math.exp(value) for value in z.tolist()]
    expected = torch.tensor([power / sum(powers) for power in powers], dtype=torch.float64)
    torch.testing.assert_close(softmax(z, 0), expected)


def test_softmax__preserves_value_under_shift():
    """给一轴上的每个数加同一个数，结果不变。"""
    z = logits(3, 5)
    torch.testing.assert_close(softmax(z + 7.5, 1), softmax(z, 1))


def test_softmax__is_distribution_for_huge_logits():
    """对数几率大到 1000 也不溢出，和为 1。"""
    z = torch.tensor([[1000.0, 999.0, -1000.0]])
    result = softmax(z, 1)
    assert result.isfinite().all()
    torch.testing.assert_close(result.sum(1), torch.ones(1))
    torch.testing.assert_close(result[0, 0] / result[0, 1], torch.tensor(math.e))


def test_softmax__differs_from_unshifted_exponentials():
    """不减最大值，float32 里 89 就溢出成 NaN。"""
    z = torch.tensor([89.0, 0.0])
    assert (z.exp() / z.exp().sum()).isnan().any()
    assert softmax(z, 0).isfinite().all()
    assert torch.tensor(88.0).exp().isfinite()


@pytest.mark.parametrize("dim", [2, -3])
def test_softmax__rejects_axis_out_of_range(dim):
    """轴越界被拒绝。"""
    with pytest.raises(ValueError, match="z 有 2 轴"):
        softmax(torch.zeros(2, 3), dim)


def test_softmax__rejects_integers_scalars_and_empty_axes():
    """整数张量、标量与空轴被拒绝。"""
    with pytest.raises(ValueError, match="浮点"):
        softmax(torch.zeros(2, dtype=torch.long), 0)
    with pytest.raises(ValueError, match="z 有 0 轴"):
        softmax(torch.tensor(1.0), 0)
    with pytest.raises(ValueError, match="第 1 轴是空的"):
        softmax(torch.zeros(2, 0), 1)


def test_log_softmax__matches_module_and_function():
    """与 nn.LogSoftmax、F.log_softmax 一致。"""
    z = logits(2, 3, 4)
    for dim in (0, 1, 2):
        torch.testing.assert_close(log_softmax(z, dim), nn.LogSoftmax(dim)(z))
        torch.testing.assert_close(log_softmax(z, dim), F.log_softmax(z, dim))


def test_log_softmax__is_log_of_softmax():
    """等于 softmax 的对数。"""
    z = logits(3, 5)
    torch.testing.assert_close(log_softmax(z, 1).exp(), softmax(z, 1))


def test_log_softmax__equals_small_probability():
    """概率 e 的 −200 次方在 float32 里是 0，对数仍是 −200。"""
    z = torch.tensor([0.0, -200.0])
    torch.testing.assert_close(log_softmax(z, 0)[1], torch.tensor(-200.0))
    assert softmax(z, 0)[1] == 0


def test_log_softmax__differs_from_log_of_softmax_in_float32():
    """先取 softmax 再取对数，float32 里得到负无穷。"""
    z = torch.tensor([0.0, -200.0])
    assert softmax(z, 0).log()[1] == -math.inf
    assert log_softmax(z, 0)[1].isfinite()


def test_log_softmax__rejects_axis_out_of_range():
    """轴越界被拒绝。"""
    with pytest.raises(ValueError, match="z 有 1 轴"):
        log_softmax(torch.zeros(3), 1)


def test_implicit_softmax_dim__matches_torch():
    """与不写 dim 的 F.softmax 真正归一化的轴一致。"""
    for ndim in (1, 2, 3, 4, 5):
        z = logits(*range(2, 2 + ndim))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            chosen = F.softmax(z)
        torch.testing.assert_close(chosen, softmax(z, implicit_softmax_dim(ndim)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert F.softmax(torch.tensor(3.0)) == F.softmax(torch.tensor(3.0), implicit_softmax_dim(0))


def test_implicit_softmax_dim__is_announced_by_a_warning():
    """不写 dim 会收到警告；三轴时沿批量归一化，最后一轴的和不是 1。"""
    z = logits(2, 3, 4)
    with pytest.warns(UserWarning, match="Implicit dimension choice"):
        chosen = F.softmax(z)
    assert implicit_softmax_dim(3) == 0
    assert not torch.allclose(chosen.sum(-1), torch.ones(2, 3, dtype=torch.float64))


@pytest.mark.parametrize("ndim", [-1, 1.0, True])
def test_implicit_softmax_dim__rejects_other_than_counts(ndim):
    """轴数不是非负整数时被拒绝。"""
    with pytest.raises(ValueError, match="ndim 必须是非负整数"):
        implicit_softmax_dim(ndim)


def test_log_softmax__is_finite_for_huge_logits():
    """对数几率大到 1000 也不溢出，与 F.log_softmax 一致。"""
    z = torch.tensor([[1000.0, 999.0, -1000.0]], dtype=torch.float64)
    torch.testing.assert_close(log_softmax(z, 1), F.log_softmax(z, 1))


def test_softmax__equals_first_axis_counted_from_the_end():
    """轴也可以从末尾数起，最前面的一轴是 −ndim。"""
    z = logits(2, 3)
    torch.testing.assert_close(softmax(z, -2), F.softmax(z, 0))


def test_implicit_softmax_dim__equals_zero_for_scalars():
    """标量也算：F.softmax 对它取第 0 轴，得到 1。"""
    assert implicit_softmax_dim(0) == 0
    with pytest.warns(UserWarning, match="Implicit"):
        assert F.softmax(torch.tensor(3.0)).item() == 1
