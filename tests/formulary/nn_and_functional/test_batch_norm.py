import pytest
import torch
import torch.nn.functional as F
from torch import nn

from formulary.nn_and_functional.batch_norm import (
    batch_norm_backward,
    batch_norm_eval,
    batch_norm_train,
    batch_statistics,
    require_normalizable,
)

GENERATOR = torch.Generator().manual_seed(0)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=GENERATOR)


CASES = {
    "vectors": (random(7, 3) * 2 + 1, nn.BatchNorm1d),
    "sequences": (random(5, 3, 4) - 2, nn.BatchNorm1d),
    "images": (random(2, 3, 4, 5) * 3, nn.BatchNorm2d),
}
GAMMA, BETA = random(3), random(3)


@pytest.mark.parametrize("case", CASES)
def test_batch_norm_train__matches_module_and_function(case):
    """训练模式与 nn.BatchNorm、F.batch_norm 一致，向量、序列与图像都比。"""
    x, kind = CASES[case]
    for epsilon in (1e-5, 0.3):
        ours = batch_norm_train(x, GAMMA, BETA, epsilon)
        function = F.batch_norm(x, None, None, GAMMA, BETA, training=True, eps=epsilon)
        torch.testing.assert_close(ours, function)
        module = kind(3, eps=epsilon).double()
        module.load_state_dict({"weight": GAMMA, "bias": BETA}, strict=False)
        torch.testing.assert_close(ours, module(x))


@pytest.mark.parametrize("case", CASES)
def test_batch_norm_train__is_standardized_per_channel(case):
    """没有缩放与平移时，每个通道均值 0、有偏方差 1。"""
    x, _ = CASES[case]
    y = batch_norm_train(x, torch.ones(3).double(), torch.zeros(3).double(), epsilon=0.0)
    flat = y.movedim(1, 0).reshape(3, -1)
    torch.testing.assert_close(flat.mean(1), torch.zeros(3).double())
    torch.testing.assert_close(flat.var(1, unbiased=False), torch.ones(3).double())


def test_batch_norm_train__equals_hand_example():
    """手算一例：1、3、8 的均值是 4、方差是 26/3，8 变成 4/√(26/3)。"""
    x = torch.tensor([[1.0], [3.0], [8.0]], dtype=torch.float64)
    one, zero = torch.ones(1).double(), torch.zeros(1).double()
    y = batch_norm_train(x, one, zero, epsilon=0.0)
    expected = torch.tensor([[-3.0], [-1.0], [4.0]], dtype=torch.float64) / (26 / 3) ** 0.5
    torch.testing.assert_close(y, expected)


def test_batch_norm_train__preserves_value_under_shift_of_a_channel():
    """给一个通道加同一个数，训练模式的输出不变：前一层的偏置没有用。"""
    x, _ = CASES["images"]
    shift = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(
        batch_norm_train(x + shift, GAMMA, BETA), batch_norm_train(x, GAMMA, BETA)
    )


def test_batch_norm_train__differs_from_unbiased_normalization():
    """归一化若用无偏方差，结果偏小，与 PyTorch 不同。"""
    x, _ = CASES["vectors"]
    wrong = (x - x.mean(0)) / (x.var(0) + 1e-5).sqrt() * GAMMA + BETA
    assert (wrong - batch_norm_train(x, GAMMA, BETA)).abs().max() > 1e-2


def test_batch_norm_train__rejects_single_values():
    """一批只有一个向量时谈不上方差，这里与 PyTorch 都拒绝。"""
    one = torch.zeros(1, 3).double()
    with pytest.raises(ValueError, match="至少要有两个数"):
        batch_norm_train(one, GAMMA, BETA)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        nn.BatchNorm1d(3).double()(one)


def test_batch_norm_train__rejects_wrong_channels():
    """缩放的长度不是通道数、负的 epsilon 被拒绝。"""
    x, _ = CASES["images"]
    with pytest.raises(ValueError, match="gamma 的形状必须是"):
        batch_norm_train(x, GAMMA[:2], BETA)
    with pytest.raises(ValueError, match="epsilon 不能为负"):
        batch_norm_train(x, GAMMA, BETA, -1.0)


def test_batch_statistics__matches_python_loop():
    """与逐个数相加的 Python 循环一致。"""
    x, _ = CASES["images"]
    for channel, (mean, variance) in enumerate(zip(*batch_statistics(x), strict=True)):
        values = x[:, channel].flatten().tolist()
        center = sum(values) / len(values)
        spread = sum((value - center) ** 2 for value in values) / len(values)
        torch.testing.assert_close(mean.item(), center)
        torch.testing.assert_close(variance.item(), spread)


def test_batch_norm_eval__matches_module_and_function():
    """评估模式与 nn.BatchNorm、F.batch_norm 一致。"""
    mean, variance = random(3), random(3).square() + 0.1
    for x, kind in CASES.values():
        ours = batch_norm_eval(x, mean, variance, GAMMA, BETA)
        torch.testing.assert_close(ours, F.batch_norm(x, mean, variance, GAMMA, BETA))
        module = kind(3).double().eval()
        state = {"weight": GAMMA, "bias": BETA, "running_mean": mean, "running_var": variance}
        module.load_state_dict(state, strict=False)
        torch.testing.assert_close(ours, module(x))


def test_batch_norm_eval__depends_only_on_its_own_sample():
    """评估模式里，一个样本的输出与同批的别的样本无关。"""
    x, _ = CASES["images"]
    mean, variance = batch_statistics(x)
    whole = batch_norm_eval(x, mean, variance, GAMMA, BETA)
    torch.testing.assert_close(batch_norm_eval(x[:1], mean, variance, GAMMA, BETA), whole[:1])


def test_batch_norm_eval__rejects_vectors_and_wrong_channels():
    """一轴的输入与长度不符的统计被拒绝。"""
    with pytest.raises(ValueError, match="至少要有两轴"):
        batch_norm_eval(random(3), GAMMA, GAMMA, GAMMA, BETA)
    with pytest.raises(ValueError, match="variance 的形状必须是"):
        batch_norm_eval(random(2, 3), GAMMA, GAMMA[:1], GAMMA, BETA)


@pytest.mark.parametrize("case", CASES)
def test_batch_norm_backward__matches_autograd(case):
    """三个梯度与自动求导 F.batch_norm 所得一致。"""
    x, _ = CASES[case]
    leaves = [value.clone().requires_grad_() for value in (x, GAMMA, BETA)]
    y = F.batch_norm(leaves[0], None, None, *leaves[1:], training=True)
    cotangent = random(*x.shape)
    expected = torch.autograd.grad(y, leaves, cotangent)
    torch.testing.assert_close(batch_norm_backward(cotangent, x, GAMMA), expected)


def test_batch_norm_backward__is_orthogonal_to_constants_and_outputs():
    """对输入的梯度在每个通道上和为 0；epsilon 为 0 时与归一化的输入正交。"""
    x, _ = CASES["images"]
    gradient, _, _ = batch_norm_backward(random(*x.shape), x, GAMMA, epsilon=0.0)
    one, zero = torch.ones(3).double(), torch.zeros(3).double()
    normalized = batch_norm_train(x, one, zero, epsilon=0.0)
    torch.testing.assert_close(gradient.sum((0, 2, 3)), zero)
    torch.testing.assert_close((gradient * normalized).sum((0, 2, 3)), zero)


def test_batch_norm_backward__differs_from_treating_statistics_as_constants():
    """把均值与方差当常数求导，得到的梯度不同。"""
    x, _ = CASES["vectors"]
    cotangent = random(*x.shape)
    gradient, _, _ = batch_norm_backward(cotangent, x, GAMMA)
    _, variance = batch_statistics(x)
    wrong = cotangent * GAMMA / (variance + 1e-5).sqrt()
    assert (wrong - gradient).abs().max() > 0.1


def test_batch_norm_backward__rejects_mismatched_gradients():
    """形状不符的梯度被拒绝。"""
    x, _ = CASES["vectors"]
    with pytest.raises(ValueError, match="grad_y 的形状必须是"):
        batch_norm_backward(x[:, :2], x, GAMMA)


def test_require_normalizable__rejects_integers():
    """整数的激活被拒绝。"""
    with pytest.raises(ValueError, match="x 必须是实浮点张量"):
        require_normalizable(torch.zeros(4, 2, dtype=torch.long))


def test_require_normalizable__rejects_vectors():
    """一轴的输入被拒绝，错误说出要有批量与通道。"""
    with pytest.raises(ValueError, match="至少要有两轴"):
        require_normalizable(torch.zeros(4))


def test_batch_statistics__equals_two_values_per_channel():
    """两个数就够：均值在中间，有偏方差是半差的平方；没有通道时谈不上统计。"""
    mean, variance = batch_statistics(torch.tensor([[1.0, 5.0], [3.0, 11.0]]))
    assert (mean.tolist(), variance.tolist()) == ([2, 8], [1, 9])
    with pytest.raises(ValueError, match="至少要有两个数"):
        batch_statistics(torch.zeros(3, 0))
