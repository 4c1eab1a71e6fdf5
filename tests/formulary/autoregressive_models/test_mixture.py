"""高斯混合的条件分布、多输出的布局与反量化的检验。"""

import math
from itertools import product

import pytest
import torch
from scipy import integrate, stats
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    Categorical,
    MixtureSameFamily,
    Normal,
    TransformedDistribution,
)

from formulary.autoregressive_models.made import MADE
from formulary.autoregressive_models.mixture import (
    dequantisation_bound,
    dequantise,
    repeat_output_mask,
    rescaled_log_density,
    rnade_log_prob,
    split_mixture_outputs,
)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=_generator(seed))


def test_rnade_log_prob__matches_torch_mixture() -> None:
    """与 torch.distributions.MixtureSameFamily 逐维相加的结果相同。"""
    x, weights, means, scales = _normal(4, 3), *(_normal(4, 3, 5, seed=s) for s in (1, 2, 3))
    mixture = MixtureSameFamily(Categorical(logits=weights), Normal(means, scales.exp()))
    expected = mixture.log_prob(x).sum(-1)
    torch.testing.assert_close(rnade_log_prob(x, weights, means, scales), expected)


def test_rnade_log_prob__is_normalized() -> None:
    """一维时对 x 积分得 1；各分量的标准差相差很大。"""
    weights, means, scales = (_normal(1, 1, 3, seed=s) for s in (4, 5, 6))

    def density(value: float) -> float:
        x = torch.tensor([[value]], dtype=torch.float64)
        return rnade_log_prob(x, weights, means, scales).exp().item()

    total, _ = integrate.quad(density, -40, 40, points=means.flatten().tolist(), limit=400)
    torch.testing.assert_close(total, 1.0)


def test_rnade_log_prob__is_finite_far_from_every_component() -> None:
    """离所有分量都很远时，各分量的密度下溢成零，对数密度仍然有限。"""
    zeros = torch.zeros(1, 1, 2, dtype=torch.float64)
    x = torch.tensor([[100.0]], dtype=torch.float64)
    expected = torch.tensor([stats.norm.logpdf(100.0)]).double()
    torch.testing.assert_close(rnade_log_prob(x, zeros, zeros, zeros), expected)


def test_rnade_log_prob__differs_from_equal_weights() -> None:
    """权重固定为 1/K 时给出另一个密度：学到的权重不能省，每个变量是 3K 个参数而不是 2K 个。"""
    x, means = torch.zeros(1, 1, dtype=torch.float64), torch.tensor([[[0.0, 4.0]]]).double()
    scales = torch.zeros_like(means)
    learned = torch.tensor([[[3.0, 0.0]]]).double()
    equal = rnade_log_prob(x, torch.zeros_like(learned), means, scales)
    assert (rnade_log_prob(x, learned, means, scales) - equal).abs() > 0.5


def test_rnade_log_prob__rejects_bad_input() -> None:
    """四个参数的形状不相配时报错。"""
    x, full = torch.zeros(2, 3), torch.zeros(2, 3, 4)
    with pytest.raises(ValueError, match="x 的形状"):
        rnade_log_prob(torch.zeros(3), full, full, full)
    with pytest.raises(ValueError, match="weight_logits"):
        rnade_log_prob(x, full[:, :2], full, full)
    with pytest.raises(ValueError, match="means"):
        rnade_log_prob(x, full, full[..., :1], full)
    with pytest.raises(ValueError, match="log_scales"):
        rnade_log_prob(x, full, full, full[..., 0])


def test_repeat_output_mask__matches_python_loop() -> None:
    """第 i·outputs + r 行是变量 i 的掩码。"""
    mask = torch.rand(3, 5, generator=_generator()) < 0.5
    rows = [mask[row // 4].tolist() for row in range(12)]
    torch.testing.assert_close(repeat_output_mask(mask, 4), torch.tensor(rows))


def _two_output_dependencies(repeated: Tensor) -> Tensor:
    """隐藏层 6 个单元的 MADE 换上每个变量两个输出的末层，返回 (3, 2, 3) 的依赖。"""
    model = MADE(3, [6], torch.tensor([2, 0, 1])).double()
    counts = repeated.long() @ model.masks[0].long()  # 次序 2, 0, 1
    return (counts > 0).unflatten(0, (3, 2))


def test_repeat_output_mask__is_autoregressive_when_unflattened() -> None:
    """按 (n, outputs) 拆开之后，同一个变量的各个输出依赖相同，都只看次序里在前的变量。"""
    mask = MADE(3, [6], torch.tensor([2, 0, 1])).masks[-1]
    depends = _two_output_dependencies(repeat_output_mask(mask, 2))
    expected = torch.tensor([[0, 0, 1], [1, 0, 1], [0, 0, 0]]).bool()
    for r in range(2):
        torch.testing.assert_close(depends[:, r], expected)


def test_repeat_output_mask__differs_from_concatenated_layout() -> None:
    """把整块拼接的布局（karpathy）当作交错的（nflows）来拆，变量 1 的一个输出看到了它自己。"""
    mask = MADE(3, [6], torch.tensor([2, 0, 1])).masks[-1]
    concatenated = torch.cat((mask, mask))
    assert not torch.equal(concatenated, repeat_output_mask(mask, 2))
    depends = _two_output_dependencies(concatenated)
    assert any(depends[i, r, i] for i, r in product(range(3), range(2)))


def test_repeat_output_mask__rejects_bad_count() -> None:
    """outputs 不是正整数时报错。"""
    with pytest.raises(ValueError, match="outputs"):
        repeat_output_mask(torch.ones(2, 2, dtype=torch.bool), 0)


def test_split_mixture_outputs__matches_python_loop() -> None:
    """变量 i 的第 g 组第 k 个参数在第 3Ki + Kg + k 列。"""
    raw, n, mixtures = _normal(2, 60), 4, 5
    groups = split_mixture_outputs(raw, n)
    for g, b, i, k in product(range(3), range(2), range(n), range(mixtures)):
        assert groups[g][b, i, k] == raw[b, 3 * mixtures * i + mixtures * g + k]


def test_split_mixture_outputs__is_invariant_to_mask_layout() -> None:
    """与 repeat_output_mask 配套：三组参数都只依赖次序里在前的变量。"""
    model = MADE(3, [7], torch.tensor([1, 2, 0]), _generator(), activation=torch.tanh).double()
    mask = repeat_output_mask(model.masks[-1], 6)
    weight = _normal(18, 7) * mask

    def parameters(x: Tensor) -> Tensor:
        h = torch.tanh(x @ (model.weights[0] * model.masks[0]).T + model.biases[0])
        return torch.stack(split_mixture_outputs(h @ weight.T, 3))  # (3, B, n, K)

    jacobian = torch.autograd.functional.jacobian(
        lambda row: parameters(row[None])[:, 0], _normal(3)
    )
    earlier = {0: {1, 2}, 1: set(), 2: {1}}
    for i, j in product(range(3), range(3)):
        assert (jacobian[:, i, :, j] != 0).any() <= (j in earlier[i])


def test_split_mixture_outputs__rejects_wrong_width() -> None:
    """列数不是 3n 的正整数倍时报错。"""
    for width in (0, 7, 8, 9):
        with pytest.raises(ValueError, match="raw 的列数"):
            split_mixture_outputs(torch.zeros(2, width), 2)
    with pytest.raises(ValueError, match="n 必须"):
        split_mixture_outputs(torch.zeros(2, 6), 0)


def test_dequantise__matches_uniform_noise() -> None:
    """减去整数部分之后在 [0, 1) 里均匀：科尔莫戈罗夫–斯米尔诺夫检验不能拒绝，各列不相关。

    四万个数能发现分布函数 1.5% 的偏差。
    """
    x = torch.randint(0, 256, (20_000, 2), generator=_generator(1))
    noise = (dequantise(x, _generator(2)) - x).double()
    assert stats.kstest(noise.flatten().numpy(), "uniform").pvalue > 1e-3
    assert noise.T.corrcoef()[0, 1].abs() < 5 / 20_000**0.5


def test_dequantise__preserves_integer_part() -> None:
    """取整数部分回到原数；大到 float32 间隔为 1/16 的整数也不会进位。"""
    x = torch.tensor([0, 1, 255, 2**16, 2**20 - 1]).repeat(4000, 1)
    noisy = dequantise(x, _generator(3))
    assert torch.equal(noisy.floor().long(), x)
    assert (noisy.frac() > 0).double().mean() > 0.9


def test_dequantise__rejects_bad_input() -> None:
    """浮点、负数、不是二维的输入都报错。"""
    for bad in (
        torch.zeros(2, 3),
        torch.tensor([[-1]]),
        torch.tensor([1, 2]),
        torch.tensor([[2**20]]),
    ):
        with pytest.raises(ValueError, match="x "):
            dequantise(bad, _generator())


WEIGHTS, MEANS, SCALES = [0.3, 0.7], [2.2, 3.4], [0.5, 0.3]


def _mixture_log_density(y: Tensor) -> Tensor:
    """各维独立同分布的两分量混合，用 torch.distributions 写。"""
    weights, means, scales = torch.tensor((WEIGHTS, MEANS, SCALES), dtype=torch.float64)
    mixture = MixtureSameFamily(Categorical(weights), Normal(means, scales))
    return mixture.log_prob(y).sum(-1)


def _midpoint_grid(points: int) -> Tensor:
    return ((torch.arange(points, dtype=torch.float64) + 0.5) / points)[:, None, None]


def test_dequantisation_bound__matches_quadrature() -> None:
    """一维混合：左边等于分布函数之差的对数，右边等于数值积分。"""

    def density(value: float) -> float:
        parts = zip(WEIGHTS, MEANS, SCALES, strict=True)
        return sum(w * stats.norm.pdf(value, mean, scale) for w, mean, scale in parts)

    for level in (1, 2, 3, 4):
        log_probability, bound = dequantisation_bound(
            _mixture_log_density, torch.tensor([[level]]), _midpoint_grid(20_000)
        )
        parts = list(zip(WEIGHTS, MEANS, SCALES, strict=True))
        exact = sum(
            w * (stats.norm.cdf(level + 1, mean, s) - stats.norm.cdf(level, mean, s))
            for w, mean, s in parts
        )
        integral, _ = integrate.quad(lambda v: math.log(density(v)), level, level + 1, limit=200)
        # 中点公式 20000 个点，误差在 1e-9 上下
        torch.testing.assert_close(log_probability.item(), math.log(exact), rtol=0, atol=1e-8)
        torch.testing.assert_close(bound.item(), integral, rtol=0, atol=1e-8)


def test_dequantisation_bound__bounds_log_probability() -> None:
    """右边不大于左边；所有整数的概率之和是 1。"""
    levels = torch.arange(-3, 9)[:, None].abs()
    log_probability, bound = dequantisation_bound(
        lambda y: _mixture_log_density(y - 3), levels, _midpoint_grid(500).expand(500, 12, 1)
    )
    assert (bound < log_probability).all()
    shifted = torch.arange(0, 14)[:, None]
    total, _ = dequantisation_bound(
        lambda y: _mixture_log_density(y - 5), shifted, _midpoint_grid(2000).expand(2000, 14, 1)
    )
    # 中点公式 2000 个点，误差约 1e-7
    torch.testing.assert_close(total.exp().sum().item(), 1.0, rtol=0, atol=1e-6)


def test_dequantisation_bound__equals_log_probability_for_flat_density() -> None:
    """密度在每个格子里是常数时，两边相等。"""
    table = torch.tensor([0.1, 0.6, 0.3], dtype=torch.float64)
    x = torch.tensor([[0], [1], [2]])
    noise = torch.rand(7, 3, 1, dtype=torch.float64, generator=_generator(1))
    sides = dequantisation_bound(lambda y: table[y[:, 0].long()].log(), x, noise)
    for side in sides:
        torch.testing.assert_close(side, table.log())
    # 允许的最大整数 2^20 − 1
    sides = dequantisation_bound(lambda y: y[:, 0].floor(), x[:1] + 2**20 - 1, 0.5 * noise[:1, :1])
    for side in sides:
        assert side.tolist() == [2**20 - 1]


def test_dequantisation_bound__equals_exercise() -> None:
    """练习：密度 2y，格子 [0, 1)：对数概率是 0，下界是 log 2 − 1 = −0.3069。"""
    log_probability, bound = dequantisation_bound(
        lambda y: (2 * y[:, 0]).log(), torch.tensor([[0]]), _midpoint_grid(200_000)
    )
    # 中点公式在 0 附近的对数奇点上收敛得慢，误差约 1/M
    torch.testing.assert_close(log_probability.item(), 0.0, rtol=0, atol=1e-9)
    torch.testing.assert_close(bound.item(), math.log(2) - 1, rtol=0, atol=1e-5)


def test_dequantisation_bound__rejects_bad_input() -> None:
    """噪声为空或形状不符、x 不是整数或不小于 2^20 时报错。"""
    x, noise = torch.tensor([[1]]), torch.zeros(2, 1, 1)
    with pytest.raises(ValueError, match="noise 的形状"):
        dequantisation_bound(_mixture_log_density, x, noise[0])
    with pytest.raises(ValueError, match="M = 0"):
        dequantisation_bound(_mixture_log_density, x, noise[:0])
    with pytest.raises(ValueError, match="x "):
        dequantisation_bound(_mixture_log_density, x.float(), noise)
    with pytest.raises(ValueError, match="x "):
        dequantisation_bound(_mixture_log_density, x.expand(1, 2), noise)
    with pytest.raises(ValueError, match="x "):
        dequantisation_bound(_mixture_log_density, 2**20 * x, noise)


def test_rescaled_log_density__matches_torch_transform() -> None:
    """与 torch 的 TransformedDistribution 把 y 放大 256 倍的对数密度相同。"""
    x = 256 * torch.rand(4, 3, dtype=torch.float64, generator=_generator(5))
    base = Normal(torch.tensor(0.4).double(), torch.tensor(0.2).double())
    expected = TransformedDistribution(base, AffineTransform(0.0, 256.0)).log_prob(x).sum(-1)
    actual = rescaled_log_density(lambda y: base.log_prob(y).sum(-1), x, 256)
    torch.testing.assert_close(actual, expected)


def test_rescaled_log_density__equals_eight_bits_per_dimension() -> None:
    """在 [0, 1) 上均匀的密度换回 256 级，每维恰好 8 bit。"""
    log_density = rescaled_log_density(
        lambda y: torch.zeros(len(y)).double(), torch.ones(2, 5).double(), 256
    )
    torch.testing.assert_close(-log_density / (5 * math.log(2)), torch.full((2,), 8.0).double())


def test_rescaled_log_density__rejects_bad_input() -> None:
    """x 不是二维浮点张量、levels 不是正整数时报错。"""
    with pytest.raises(ValueError, match="x 的形状"):
        rescaled_log_density(_mixture_log_density, torch.zeros(3), 256)
    with pytest.raises(ValueError, match="levels"):
        rescaled_log_density(_mixture_log_density, torch.zeros(1, 3), 0)
