"""五种 f-散度的生成函数、最优判别函数与共轭函数的检验。"""

import math

import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from formulary.generative_models.f_generators import (
    F_DIVERGENCES,
    f_conjugate,
    f_divergence_table,
    f_generator,
    fenchel_gap,
    optimal_critic,
)

RATIOS = torch.tensor([0.05, 0.4, 1.0, 1.7, 6.0], dtype=torch.float64)


def _generator_by_hand(u: float, name: str) -> float:
    """照表用 math 写的生成函数。"""
    return {
        "kl": lambda: u * math.log(u),
        "reverse_kl": lambda: -math.log(u),
        "chi_square": lambda: u**2 - 2 * u + 1,
        "hellinger": lambda: u - 2 * math.sqrt(u) + 1,
        "gan": lambda: u * math.log(u / (u + 1)) - math.log(u + 1),
    }[name]()


@pytest.mark.parametrize("name", F_DIVERGENCES)
def test_f_generator__matches_math(name: str) -> None:
    """与照定义用 math 逐个算的值相同。"""
    expected = [_generator_by_hand(u, name) for u in RATIOS.tolist()]
    torch.testing.assert_close(
        f_generator(RATIOS, name), torch.tensor(expected, dtype=torch.float64)
    )


@pytest.mark.parametrize("name", F_DIVERGENCES)
def test_f_generator__is_convex(name: str) -> None:
    """任意两点的中点处，函数值都低于两端的平均；f(1) 是 0（"gan" 是 −log 4）。"""
    u = torch.rand(500, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 5
    ends, middle = f_generator(u, name).mean(-1), f_generator(u.mean(-1), name)
    assert (middle <= ends).all()
    expected = -math.log(4) if name == "gan" else 0.0
    torch.testing.assert_close(f_generator(RATIOS[2], name).item(), expected)


def test_f_generator__limit_at_zero() -> None:
    """u = 0 处取极限：依次是 0、无穷大、1、1、0。"""
    values = [f_generator(torch.zeros(1), name).item() for name in F_DIVERGENCES]
    assert values == [0.0, math.inf, 1.0, 1.0, 0.0]


def test_f_generator__rejects_bad_input() -> None:
    """负的密度比与未知的名字都报错。"""
    with pytest.raises(ValueError, match="u 必须非负"):
        f_generator(torch.tensor([-0.1]), "kl")
    with pytest.raises(ValueError, match="name 必须是"):
        f_generator(RATIOS, "wasserstein")


@pytest.mark.parametrize("name", F_DIVERGENCES)
def test_optimal_critic__matches_autograd(name: str) -> None:
    """等于自动求导给出的 f 的导数。"""
    u = RATIOS.clone().requires_grad_()
    (expected,) = torch.autograd.grad(f_generator(u, name).sum(), u)
    torch.testing.assert_close(optimal_critic(RATIOS, name), expected)


@pytest.mark.parametrize("name", F_DIVERGENCES)
def test_optimal_critic__matches_finite_differences(name: str) -> None:
    """等于照定义写的生成函数的中心差分。"""
    step = 1e-6
    expected = [
        (_generator_by_hand(u + step, name) - _generator_by_hand(u - step, name)) / (2 * step)
        for u in RATIOS.tolist()
    ]
    # 差分的误差约为 1e-16 / 1e-6，小的 u 处还有三阶导数的截断误差
    torch.testing.assert_close(
        optimal_critic(RATIOS, name), torch.tensor(expected).double(), rtol=1e-6, atol=1e-6
    )


def test_optimal_critic__equals_log_discriminator() -> None:
    """名为 gan 的一行，指数是 p/(p + q)：密度比 3 对应 3/4。"""
    value = optimal_critic(torch.tensor([1.0, 3.0], dtype=torch.float64), "gan").exp()
    torch.testing.assert_close(value, torch.tensor([0.5, 0.75], dtype=torch.float64))


@pytest.mark.parametrize("name", F_DIVERGENCES)
def test_optimal_critic__is_increasing(name: str) -> None:
    """密度比越大，判别函数的值越大。"""
    assert (optimal_critic(RATIOS, name).diff() > 0).all()


def test_optimal_critic__rejects_bad_input() -> None:
    """密度比为零、未知的名字都报错。"""
    with pytest.raises(ValueError, match="u 必须是正数"):
        optimal_critic(torch.zeros(2), "kl")
    with pytest.raises(ValueError, match="name 必须是"):
        optimal_critic(RATIOS, "js")


def _critic_values(name: str) -> Tensor:
    """各自定义域里的几个判别函数值。"""
    values = {
        "kl": [-2.0, 0.3, 1.9],
        "reverse_kl": [-3.0, -0.7, -0.2],
        "chi_square": [-5.0, -1.5, 2.3],
        "hellinger": [-4.0, 0.2, 0.7],
        "gan": [-2.0, -0.9, -0.1],
    }
    return torch.tensor(values[name], dtype=torch.float64)


def _supremum(t: float, name: str) -> float:
    """在 log u 上用 SciPy 求 u·t − f(u) 的上确界。"""
    best = minimize_scalar(
        lambda s: _generator_by_hand(math.exp(s), name) - math.exp(s) * t,
        bounds=(-35, 4),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return -float(best.fun)


@pytest.mark.parametrize("name", F_DIVERGENCES)
def test_f_conjugate__matches_numerical_supremum(name: str) -> None:
    """等于在 log u 上用 SciPy 求出的 u·t − f(u) 的上确界。"""
    values = _critic_values(name)
    expected = [_supremum(t, name) for t in values.tolist()]
    torch.testing.assert_close(
        f_conjugate(values, name), torch.tensor(expected, dtype=torch.float64)
    )


def test_f_conjugate__equals_worked_values() -> None:
    """几个能心算的值：e^0、−1 − log 1、2 + 1、0.5/0.5、−log(1 − 1/2)。"""
    cases = [
        ("kl", 1.0, 1.0),
        ("reverse_kl", -1.0, -1.0),
        ("chi_square", 2.0, 3.0),
        ("chi_square", -7.0, -1.0),
        ("hellinger", 0.5, 1.0),
        ("gan", -math.log(2), math.log(2)),
    ]
    for name, t, expected in cases:
        actual = f_conjugate(torch.tensor(t, dtype=torch.float64), name).item()
        torch.testing.assert_close(actual, expected)


def test_f_conjugate__rejects_values_outside_domain() -> None:
    """判别函数的值到了定义域之外、名字未知时报错。"""
    for name, t in (("reverse_kl", 0.0), ("gan", 0.0), ("hellinger", 1.0)):
        with pytest.raises(ValueError, match=f"{name} 的 t 必须小于"):
            f_conjugate(torch.tensor([-1.0, t]), name)
    with pytest.raises(ValueError, match="name 必须是"):
        f_conjugate(torch.tensor([0.0]), "tv")


def test_f_divergence_table__matches_math() -> None:
    """表里每一格都等于照公式用 math 算的值，次序是 KL、反向 KL、卡方、Hellinger、GAN。"""
    u = 1.7
    f = [_generator_by_hand(u, name) for name in F_DIVERGENCES]
    critics = [
        1 + math.log(u),
        -1 / u,
        2 * (u - 1),
        1 - u**-0.5,
        math.log(u / (u + 1)),
    ]
    conjugates = [
        math.exp(critics[0] - 1),
        -1 - math.log(-critics[1]),
        critics[2] + critics[2] ** 2 / 4,
        critics[3] / (1 - critics[3]),
        -math.log(1 - math.exp(critics[4])),
    ]
    expected = torch.tensor([f, critics, conjugates], dtype=torch.float64).T
    actual = f_divergence_table(torch.tensor([0.3, u], dtype=torch.float64))
    assert actual.shape == (5, 3, 2)
    torch.testing.assert_close(actual[:, :, 1], expected)


def test_f_divergence_table__is_tight() -> None:
    """每一行都满足 f(u) + f*(T*) = u·T*。"""
    f, critics, conjugates = f_divergence_table(RATIOS).unbind(1)
    torch.testing.assert_close(f + conjugates, RATIOS * critics)


def test_f_divergence_table__rejects_zero_ratio() -> None:
    """密度比为零时报错。"""
    with pytest.raises(ValueError, match="u 必须是正数"):
        f_divergence_table(torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize("name", F_DIVERGENCES)
def test_fenchel_gap__is_zero_only_at_the_derivative(name: str) -> None:
    """t = f′(u) 时为 0，别处为正。"""
    critics = optimal_critic(RATIOS, name)
    torch.testing.assert_close(fenchel_gap(RATIOS, critics, name), torch.zeros(5).double())
    for t in _critic_values(name):
        gap = fenchel_gap(RATIOS, t.expand(5), name)
        assert (gap > 0).all()


def test_fenchel_gap__equals_square_for_chi_square() -> None:
    """卡方一行的差配成平方：(u − 1 − t/2)²，t 不小于 −2。"""
    t = torch.tensor([-1.5, 0.0, 0.4, 3.0, 5.0], dtype=torch.float64)
    expected = [(u - 1 - s / 2) ** 2 for u, s in zip(RATIOS.tolist(), t.tolist(), strict=True)]
    torch.testing.assert_close(
        fenchel_gap(RATIOS, t, "chi_square"), torch.tensor(expected, dtype=torch.float64)
    )


@pytest.mark.parametrize("name", F_DIVERGENCES)
def test_fenchel_gap__matches_math(name: str) -> None:
    """等于照三个定义用 math 算的差，共轭由 SciPy 求上确界得到。"""
    t = _critic_values(name)[1].item()
    actual = fenchel_gap(RATIOS[3], torch.tensor(t, dtype=torch.float64), name).item()
    torch.testing.assert_close(actual, _generator_by_hand(1.7, name) + _supremum(t, name) - 1.7 * t)


def test_fenchel_gap__rejects_mismatched_shapes() -> None:
    """u 与 t 的形状不同时报错并指出 t。"""
    with pytest.raises(ValueError, match="t 的形状"):
        fenchel_gap(RATIOS, RATIOS[:2], "kl")
