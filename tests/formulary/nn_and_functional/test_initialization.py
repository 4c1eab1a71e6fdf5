import math

import pytest
import scipy.integrate
import torch
import torch.nn.functional as F
from torch import nn

from formulary.nn_and_functional.initialization import (
    default_scale,
    fans,
    gaussian_gain,
    kaiming_scale,
    recommended_gain,
    xavier_scale,
)

SHAPES = [(5, 3), (64, 32, 3, 3), (7, 2, 5), (4, 6, 2, 3, 2)]


def drawn(initialize, shape: tuple[int, ...], **options) -> torch.Tensor:
    """按 torch.nn.init 的函数取一个很大的张量，形状的扇入与扇出不变。"""
    generator = torch.Generator().manual_seed(6)
    weight = torch.empty(shape, dtype=torch.float64)
    return initialize(weight, generator=generator, **options)


@pytest.mark.parametrize("shape", SHAPES)
def test_fans__matches_torch(shape):
    """与 torch.nn.init 的扇入、扇出一致。"""
    assert fans(shape) == nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))


def test_fans__matches_counting_connections():
    """卷积里一个输出依赖的输入个数是扇入，一个居中的输入影响的输出个数是扇出。"""
    layer = nn.Conv2d(2, 4, 3, padding=1, bias=False).double()
    x = torch.randn(2 * 7 * 7, dtype=torch.float64, generator=torch.Generator().manual_seed(7))

    def forward(flat: torch.Tensor) -> torch.Tensor:
        return layer(flat.view(2, 7, 7)).flatten()

    used = torch.autograd.functional.jacobian(forward, x).view(4, 7, 7, 2, 7, 7) != 0
    fan_in, fan_out = fans(tuple(layer.weight.shape))
    assert used[1, 3, 3].sum() == fan_in
    assert used[:, :, :, 1, 3, 3].sum() == fan_out


def test_fans__equals_worked_example():
    """形状 (64, 32, 3, 3) 的扇入是 288，扇出是 576。"""
    assert fans((64, 32, 3, 3)) == (288, 576)


def test_fans__differs_from_connections_of_transposed_convolution():
    """转置卷积按 (输入, 输出, 核) 存权重：一个输出依赖 8·9 个输入，算得的扇入却是 4·9。"""
    layer = nn.ConvTranspose2d(8, 4, 3, bias=False)
    assert fans(tuple(layer.weight.shape)) == (4 * 9, 8 * 9)
    x = torch.zeros(8, 9, 9, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x)[0, 5, 5], x)
    assert (gradient != 0).sum() == 8 * 9


def test_fans__differs_from_connections_of_grouped_convolution():
    """分两组时，一个输入只影响本组的输出，算得的扇出多了一倍；扇入是对的。"""
    layer = nn.Conv2d(6, 4, 3, groups=2, bias=False)
    fan_in, fan_out = fans(tuple(layer.weight.shape))
    assert fan_in == 6 // 2 * 9
    assert fan_out == 2 * (4 // 2 * 9)
    x = torch.zeros(6, 9, 9)
    before = layer(x)
    x[1, 4, 4] = 1
    assert (layer(x) != before).sum() == 4 // 2 * 9


def test_fans__rejects_vectors_and_empty_axes():
    """一轴的形状与不是正整数的轴被拒绝。"""
    with pytest.raises(ValueError, match="至少要有两轴"):
        fans((5,))
    with pytest.raises(ValueError, match="每一轴"):
        fans((5, 0))


@pytest.mark.parametrize("shape", SHAPES)
def test_xavier_scale__matches_torch_bound(shape):
    """与 torch.nn.init.xavier_uniform_ 用同一个随机数取出的权重逐个一致。"""
    gain = 1.7
    _, bound = xavier_scale(shape, gain)
    raw = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    torch.testing.assert_close(
        drawn(nn.init.xavier_uniform_, shape, gain=gain), (2 * raw - 1) * bound
    )


def test_xavier_scale__matches_torch_deviation():
    """与 torch.nn.init.xavier_normal_ 用同一个随机数取出的权重逐个一致。"""
    deviation, _ = xavier_scale((30, 20), 0.5)
    raw = torch.empty(30, 20, dtype=torch.float64)
    raw.normal_(generator=torch.Generator().manual_seed(6))
    torch.testing.assert_close(drawn(nn.init.xavier_normal_, (30, 20), gain=0.5), raw * deviation)


def test_xavier_scale__is_harmonic_between_both_directions():
    """方差是前向要的 1/扇入与反向要的 1/扇出的调和平均。"""
    deviation, bound = xavier_scale((5, 3))
    torch.testing.assert_close(deviation**2, 2 / (3 + 5))
    torch.testing.assert_close(bound**2 / 3, deviation**2)


def test_xavier_scale__rejects_non_positive_gain():
    """不是正数的增益被拒绝。"""
    for gain in (0.0, -1.0):
        with pytest.raises(ValueError, match="gain 必须是正数"):
            xavier_scale((2, 2), gain)


@pytest.mark.parametrize("shape", SHAPES)
def test_kaiming_scale__matches_torch_bound(shape):
    """与 torch.nn.init.kaiming_uniform_ 用同一个随机数取出的权重逐个一致，两种模式都比。"""
    raw = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    for slope in (0.0, 0.3):
        for mode in ("fan_in", "fan_out"):
            _, bound = kaiming_scale(shape, slope, forward=mode == "fan_in")
            weight = drawn(nn.init.kaiming_uniform_, shape, a=slope, mode=mode)
            torch.testing.assert_close(weight, (2 * raw - 1) * bound)


def test_kaiming_scale__matches_torch_deviation():
    """与 torch.nn.init.kaiming_normal_ 用同一个随机数取出的权重逐个一致。"""
    deviation, _ = kaiming_scale((30, 20))
    raw = torch.empty(30, 20, dtype=torch.float64)
    raw.normal_(generator=torch.Generator().manual_seed(6))
    weight = drawn(nn.init.kaiming_normal_, (30, 20), nonlinearity="relu")
    torch.testing.assert_close(weight, raw * deviation)


def test_kaiming_scale__preserves_second_moment_through_relu():
    """这样的权重接 ReLU，二阶矩在 5 个标准误差之内保持为 1。"""
    generator = torch.Generator().manual_seed(8)
    x = torch.randn(400, 300, dtype=torch.float64, generator=generator)
    x *= (400 / x.square().sum(0)).sqrt()  # 每个输入的二阶矩恰为 1，只剩权重是随机的
    weight = torch.randn(4000, 300, dtype=torch.float64, generator=generator)
    weight *= kaiming_scale((4000, 300))[0]
    moments = (x @ weight.T).relu().square().mean(0)  # (4000,)，各单元独立
    error = moments.std() / math.sqrt(4000)
    assert abs(moments.mean() - 1) <= 5 * error
    assert error < 0.01  # 把增益错写成 1，会差 50 个标准误差


def test_kaiming_scale__rejects_vectors():
    """一轴的形状被拒绝。"""
    with pytest.raises(ValueError, match="至少要有两轴"):
        kaiming_scale((3,))


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.Linear(37, 400),
        lambda: nn.Conv2d(6, 50, 5, groups=2),
        lambda: nn.Conv1d(9, 80, 3),
    ],
)
def test_default_scale__matches_torch(layer):
    """与 nn.Linear、nn.Conv 真正取出的权重和偏置一致：用同一个随机数可以逐个复现。"""
    torch.manual_seed(9)
    made = layer()
    _, bound = default_scale(tuple(made.weight.shape))
    torch.manual_seed(9)
    for parameter in (made.weight, made.bias):
        raw = torch.empty_like(parameter).uniform_(-1, 1)
        torch.testing.assert_close(parameter.detach(), raw.detach() * bound)


def test_default_scale__equals_inverse_root_of_fan_in():
    """界恰是扇入平方根的倒数，方差是扇入的三倍的倒数；512 个输入时界为 0.0442。"""
    deviation, bound = default_scale((10, 512))
    torch.testing.assert_close(bound, 512**-0.5)
    torch.testing.assert_close(deviation**2, 1 / (3 * 512))
    assert round(bound, 4) == 0.0442


def test_default_scale__differs_from_kaiming():
    """方差只有 ReLU 所需的六分之一。"""
    ratio = (default_scale((4, 9))[0] / kaiming_scale((4, 9))[0]) ** 2
    torch.testing.assert_close(ratio, 1 / 6)


def test_default_scale__rejects_vectors():
    """一轴的形状被拒绝。"""
    with pytest.raises(ValueError, match="至少要有两轴"):
        default_scale((3,))


ACTIVATIONS = {
    "linear": lambda z: z,
    "relu": torch.relu,
    "leaky_relu": lambda z: F.leaky_relu(z, 0.2),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "selu": torch.selu,
    "gelu": F.gelu,
    "silu": F.silu,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gaussian_gain__matches_scipy_quadrature(name):
    """与 SciPy 的自适应求积一致。"""

    def integrand(z: float) -> float:
        value = ACTIVATIONS[name](torch.tensor(z, dtype=torch.float64)).item()
        return value**2 * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    # 分段，让求积在 0 处的拐点收敛
    moment = sum(scipy.integrate.quad(integrand, *ends)[0] for ends in ((-12, 0), (0, 12)))
    assert abs(gaussian_gain(ACTIVATIONS[name]) - moment**-0.5) < 1e-6  # 梯形法的误差


def test_gaussian_gain__equals_closed_forms():
    """线性为 1，ReLU 为 √2，leaky ReLU 为 √(2/(1 + a²))。"""
    for name, value in (("linear", 1.0), ("relu", 2**0.5), ("leaky_relu", (2 / 1.04) ** 0.5)):
        assert abs(gaussian_gain(ACTIVATIONS[name]) - value) < 1e-6  # 梯形法的误差


def test_gaussian_gain__differs_from_recommended_for_tanh_and_selu():
    """由二阶矩推得 tanh 1.59、SELU 1.00、sigmoid 1.85，PyTorch 给 5/3、3/4、1。"""
    found = [round(gaussian_gain(ACTIVATIONS[name]), 2) for name in ("tanh", "selu", "sigmoid")]
    assert found == [1.59, 1.0, 1.85]
    assert [round(gaussian_gain(ACTIVATIONS[name]), 2) for name in ("gelu", "silu")] == [1.53, 1.68]


def test_gaussian_gain__rejects_constant_zero():
    """恒为零的激活没有增益。"""
    with pytest.raises(ValueError, match="二阶矩必须是正的有限数"):
        gaussian_gain(torch.zeros_like)


@pytest.mark.parametrize("name", ["linear", "sigmoid", "tanh", "relu", "selu"])
def test_recommended_gain__matches_torch(name):
    """与 torch.nn.init.calculate_gain 一致。"""
    assert recommended_gain(name) == nn.init.calculate_gain(name)


def test_recommended_gain__matches_torch_for_leaky_relu():
    """Leaky ReLU 的增益与 PyTorch 一致，斜率有无都比。"""
    assert recommended_gain("leaky_relu") == nn.init.calculate_gain("leaky_relu")
    assert recommended_gain("leaky_relu", 0.3) == nn.init.calculate_gain("leaky_relu", 0.3)


def test_recommended_gain__is_the_gaussian_gain_of_relu_family():
    """对 linear、relu、leaky_relu，表里的值就是由二阶矩推得的。"""
    for name in ("linear", "relu"):
        assert abs(recommended_gain(name) - gaussian_gain(ACTIVATIONS[name])) < 1e-6
    assert (
        abs(recommended_gain("leaky_relu", 0.2) - gaussian_gain(ACTIVATIONS["leaky_relu"])) < 1e-6
    )


def test_recommended_gain__rejects_unknown_activations():
    """表里没有的激活函数被拒绝，错误说出有哪些。"""
    with pytest.raises(ValueError, match="linear、sigmoid"):
        recommended_gain("gelu")


def test_gaussian_gain__preserves_double_precision():
    """积分在 float64 里做，线性激活的增益精确到 1e-10。"""
    assert abs(gaussian_gain(lambda z: z) - 1) < 1e-10


def test_gaussian_gain__rejects_exploding_activations():
    """二阶矩是无穷大时没有增益。"""
    with pytest.raises(ValueError, match="得到 inf"):
        gaussian_gain(lambda z: torch.full_like(z, 1e200))


def test_default_scale__is_positive_deviation():
    """标准差是正数，等于界除以 √3。"""
    deviation, bound = default_scale((5, 8))
    torch.testing.assert_close(deviation, bound / math.sqrt(3))
