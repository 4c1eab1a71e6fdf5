"""换元公式、仿射耦合层与流模型的检验。"""

import math

import pytest
import torch
import zuko
from torch import Tensor

from formulary.generative_models.flows import (
    AffineCoupling,
    CouplingFlow,
    flow_log_prob,
    monotone_density,
    standard_normal_log_prob,
)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _filled(module: torch.nn.Module, seed: int = 1, scale: float = 0.4) -> torch.nn.Module:
    """双精度，参数由固定的发生器重填，末层也不再是零。"""
    module = module.double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
            parameter.copy_(scale * noise)
    return module


def test_standard_normal_log_prob__matches_torch_distributions() -> None:
    """与 torch.distributions 的 Normal 逐维相加相同。"""
    z = _random(4, 3)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(standard_normal_log_prob(z), expected)


def test_monotone_density__matches_finite_differences() -> None:
    """两端都等于分布函数 Φ(f(x)) 的中心差分。"""
    x = torch.linspace(-1.5, 1.5, 7, dtype=torch.float64)

    def transform(v: Tensor) -> Tensor:
        return v + 0.3 * v**3 + 0.5

    def cdf(v: Tensor) -> Tensor:
        return 0.5 * torch.erfc(-transform(v) / 2**0.5)

    step = 1e-5
    expected = (cdf(x + step) - cdf(x - step)) / (2 * step)
    for side in monotone_density(transform, x):
        # 中心差分的误差约 1e-10
        torch.testing.assert_close(side, expected, rtol=1e-7, atol=1e-9)


def test_monotone_density__equals_worked_example() -> None:
    """手算一例：f(x) = 2x，x = 0 处的密度是 2 × 0.3989 = 0.7979。"""
    x = torch.zeros(1, dtype=torch.float64)
    expected = torch.tensor([2 / math.sqrt(2 * math.pi)], dtype=torch.float64)
    for side in monotone_density(lambda v: 2 * v, x):
        torch.testing.assert_close(side, expected)
    assert round(expected.item(), 4) == 0.7979


def test_monotone_density__rejects_decreasing_transform() -> None:
    """递减的变换、非一维的输入被拒绝。"""
    with pytest.raises(ValueError, match="严格递增"):
        monotone_density(lambda v: -v, torch.zeros(1))
    with pytest.raises(ValueError, match="x 的形状"):
        monotone_density(lambda v: v, torch.zeros(1, 1))


MATRIX = torch.tensor([[1.0, 0.5, -0.3], [0.2, -2.0, 0.4], [0.6, 0.1, 0.7]], dtype=torch.float64)


def test_flow_log_prob__matches_multivariate_normal() -> None:
    """线性变换时与 torch 的多元正态相同，行列式为负也如此。"""
    x, shift = _random(5, 3), torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    inverse = torch.linalg.inv(MATRIX)
    oracle = torch.distributions.MultivariateNormal(-inverse @ shift, inverse @ inverse.T)
    assert torch.linalg.det(MATRIX) < 0
    actual = flow_log_prob(lambda v: MATRIX @ v + shift, x)
    torch.testing.assert_close(actual, oracle.log_prob(x))


def test_flow_log_prob__matches_torch_transforms() -> None:
    """非线性的逐元素变换，与 torch.distributions 的 TransformedDistribution 相同。"""
    x = _random(6, 2).exp()
    expected = torch.distributions.LogNormal(
        torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    ).log_prob(x)
    torch.testing.assert_close(flow_log_prob(torch.log, x), expected.sum(-1))


def test_flow_log_prob__equals_worked_example() -> None:
    """手算一例：f(x) = 2x，x = 0 处 log p = −0.9189 + 0.6931 = −0.2258，两维加倍。"""
    x = torch.zeros(1, 2, dtype=torch.float64)
    actual = flow_log_prob(lambda v: 2 * v, x)
    expected = torch.tensor([2 * math.log(2) - math.log(2 * math.pi)], dtype=torch.float64)
    torch.testing.assert_close(actual, expected)
    assert round(actual.item() / 2, 4) == -0.2258


def test_flow_log_prob__equals_log_normal_exercise() -> None:
    """练习：f(x) = log x，密度 φ(log x)/x，在 1 处是 0.3989，在 e 处是 0.0890。"""
    x = torch.tensor([[1.0], [math.e]], dtype=torch.float64)
    density = flow_log_prob(torch.log, x).exp()
    assert [round(value, 4) for value in density.tolist()] == [0.3989, 0.0890]


def test_flow_log_prob__differs_from_flipped_log_det() -> None:
    """行列式的符号弄反，f(x) = 2x 的“密度”积分成 1/4；在恒等变换上则看不出错。"""
    grid = torch.linspace(-8, 8, 1601, dtype=torch.float64)[:, None]
    right = flow_log_prob(lambda v: 2 * v, grid)
    wrong = right - 2 * math.log(2)
    torch.testing.assert_close(right.exp().sum() * 0.01, torch.ones((), dtype=torch.float64))
    torch.testing.assert_close(wrong.exp().sum() * 0.01, torch.tensor(0.25, dtype=torch.float64))
    identity = flow_log_prob(lambda v: v, grid)
    torch.testing.assert_close(identity, standard_normal_log_prob(grid))


def test_flow_log_prob__rejects_singular_transform() -> None:
    """不可逆的变换、不是二维的输入被拒绝。"""
    with pytest.raises(ValueError, match="不可逆"):
        flow_log_prob(lambda v: v.sum() * torch.ones_like(v), _random(2, 2))
    with pytest.raises(ValueError, match="x 的形状"):
        flow_log_prob(lambda v: v, torch.zeros(3))


@pytest.mark.parametrize("flip", [False, True])
def test_AffineCoupling__matches_autograd_jacobian(flip: bool) -> None:
    """对数行列式与自动求导的整个雅可比矩阵的 slogdet 相同，五维、两半不等长。"""
    coupling = _filled(AffineCoupling(5, hidden=7, flip=flip))
    x = _random(6, 5)
    _, log_det = coupling(x)
    for row, actual in zip(x, log_det, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda v: coupling(v)[0], row)
        sign, expected = torch.linalg.slogdet(jacobian)
        assert sign == 1
        torch.testing.assert_close(actual, expected.detach())


@pytest.mark.parametrize("flip", [False, True])
def test_AffineCoupling__preserves_input_under_round_trip(flip: bool) -> None:
    """正变换接逆变换回到原处，反过来也是。"""
    coupling = _filled(AffineCoupling(5, hidden=7, flip=flip))
    x = _random(3, 6, 5)
    torch.testing.assert_close(coupling.inverse(coupling(x)[0]), x)
    torch.testing.assert_close(coupling(coupling.inverse(x))[0], x)


def test_AffineCoupling__preserves_fixed_half() -> None:
    """不动的一半原样输出，另一半确实变了；flip 交换两者。"""
    x = _random(4, 5)
    for flip, fixed, changed in (
        (False, slice(0, 2), slice(2, 5)),
        (True, slice(2, 5), slice(0, 2)),
    ):
        y, _ = _filled(AffineCoupling(5, hidden=7, flip=flip))(x)
        assert torch.equal(y[:, fixed], x[:, fixed])
        assert ((y - x)[:, changed].abs() > 1e-3).all()


def test_AffineCoupling__matches_python_loop() -> None:
    """把网络的输出取出来，逐个样本、逐维按 y = x·exp(s) + t 计算，与 forward 相同。"""
    coupling = _filled(AffineCoupling(3, hidden=4))
    x = _random(5, 3)
    y, log_det = coupling(x)
    for row, out, total in zip(x.tolist(), y.tolist(), log_det.tolist(), strict=True):
        raw = coupling.network(torch.tensor(row[:1], dtype=torch.float64)).tolist()
        scales = [2 * math.tanh(value / 2) for value in raw[:2]]
        assert out[0] == row[0]
        for j in range(2):
            assert out[1 + j] == pytest.approx(row[1 + j] * math.exp(scales[j]) + raw[2 + j])
        assert total == pytest.approx(sum(scales))


def test_AffineCoupling__bounds_log_scale() -> None:
    """网络的输出再大，每维的对数伸缩也不超过 2。"""
    coupling = _filled(AffineCoupling(4, hidden=6), scale=20.0)
    log_scale, _ = coupling.coefficients(_random(50, 2))
    assert log_scale.abs().max() <= 2
    assert log_scale.abs().max() > 1.9


def test_AffineCoupling__rejects_bad_input() -> None:
    """一维数据分不成两半；维数不合、宽度不是正整数时报错。"""
    with pytest.raises(ValueError, match="n 必须是不小于 2"):
        AffineCoupling(1, hidden=4)
    with pytest.raises(ValueError, match="hidden"):
        AffineCoupling(2, hidden=0)
    coupling = AffineCoupling(3, hidden=4)
    for call in (coupling, coupling.inverse):
        with pytest.raises(ValueError, match="x 的形状"):
            call(torch.zeros(2, 4))


def test_CouplingFlow__matches_exact_jacobian() -> None:
    """四层的对数密度与 flow_log_prob 用整个雅可比矩阵算的相同。"""
    flow = _filled(CouplingFlow(3, layers=4, hidden=5))
    x = _random(6, 3)
    expected = flow_log_prob(lambda v: flow(v)[0], x)
    torch.testing.assert_close(flow.log_prob(x), expected)


def test_CouplingFlow__matches_zuko_composition() -> None:
    """把每层换成 zuko 的 CouplingTransform，同样的系数、同样的次序，噪声与对数行列式都相同。"""
    flow = _filled(CouplingFlow(4, layers=3, hidden=5))
    x = _random(6, 4)
    z, total = x, torch.zeros(6, dtype=torch.float64)
    for coupling in flow.couplings:
        mask = torch.tensor([False, False, True, True])
        mask = mask if coupling.flip else ~mask  # zuko 的掩码标出不动的一半

        def meta(fixed: Tensor, coupling: AffineCoupling = coupling) -> zuko.transforms.Transform:
            log_scale, shift = coupling.coefficients(fixed)
            return torch.distributions.transforms.IndependentTransform(
                torch.distributions.AffineTransform(shift, log_scale.exp()), 1
            )

        step = zuko.transforms.CouplingTransform(meta, mask)
        moved = step(z)
        total = total + step.log_abs_det_jacobian(z, moved)
        z = moved
    actual, log_det = flow(x)
    torch.testing.assert_close(actual, z)
    torch.testing.assert_close(log_det, total)


def test_CouplingFlow__is_normalised() -> None:
    """二维模型在网格上的积分为 1。"""
    flow = _filled(CouplingFlow(2, layers=4, hidden=8), scale=0.3)
    axis = torch.linspace(-20, 20, 601, dtype=torch.float64)
    with torch.no_grad():
        density = flow.log_prob(torch.cartesian_prod(axis, axis)).exp()
    total = density.sum() * (40 / 600) ** 2
    # ReLU 网络的密度有折痕，网格求和约准到万分之几
    torch.testing.assert_close(total, torch.ones((), dtype=torch.float64), rtol=0, atol=1e-3)


def test_CouplingFlow__preserves_input_under_round_trip() -> None:
    """从数据到噪声再回来，各层倒着走，回到原处。"""
    flow = _filled(CouplingFlow(3, layers=5, hidden=6))
    x = _random(7, 3)
    torch.testing.assert_close(flow.inverse(flow(x)[0]), x)


def test_CouplingFlow__is_standard_normal_at_start() -> None:
    """刚构造时每层都是恒等变换，密度就是标准正态。"""
    flow = CouplingFlow(3, layers=4, hidden=5).double()
    x = _random(5, 3)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(-1)
    torch.testing.assert_close(flow.log_prob(x), expected)


def test_CouplingFlow__matches_noise_of_samples() -> None:
    """样本变回噪声，恰是发生器给出的那一份。"""
    flow = _filled(CouplingFlow(3, layers=4, hidden=5))
    samples = flow.sample(8, torch.Generator().manual_seed(3))
    noise = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(flow(samples)[0], noise)


def test_CouplingFlow__rejects_bad_input() -> None:
    """层数、样本数与维数不合要求时报错。"""
    with pytest.raises(ValueError, match="layers"):
        CouplingFlow(2, layers=0, hidden=4)
    flow = CouplingFlow(2, layers=2, hidden=4)
    with pytest.raises(ValueError, match="samples"):
        flow.sample(0, torch.Generator())
    with pytest.raises(ValueError, match="x 的形状"):
        flow.log_prob(torch.zeros(1, 3))
