"""f-散度与变分下界的检验。"""

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy as scipy_entropy
from torch import Tensor

from formulary.generative_models.f_divergences import f_divergence, f_variational_bound

NAMES = ("kl", "reverse_kl", "chi_square", "hellinger", "gan")


def _random_pair(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(12)
    p, q = torch.randn(2, *shape, dtype=torch.float64, generator=generator).softmax(-1)
    return p, q


def _direct(p: np.ndarray, q: np.ndarray, name: str) -> np.ndarray:
    """不经过 f，直接照各自通常的定义来算。"""
    m = (p + q) / 2
    js = (scipy_entropy(p, m, axis=-1) + scipy_entropy(q, m, axis=-1)) / 2
    return {
        "kl": lambda: scipy_entropy(p, q, axis=-1),
        "reverse_kl": lambda: scipy_entropy(q, p, axis=-1),
        "chi_square": lambda: ((p - q) ** 2 / q).sum(-1),
        "hellinger": lambda: 2 - 2 * np.sqrt(p * q).sum(-1),
        "gan": lambda: 2 * js - np.log(4),
    }[name]()


@pytest.mark.parametrize("name", NAMES)
def test_f_divergence__matches_direct_definition(name: str) -> None:
    """与不经过生成函数的直接定义相同："gan" 一行等于 2·JS − log 4。"""
    p, q = _random_pair(4, 7)
    expected = torch.from_numpy(np.asarray(_direct(p.numpy(), q.numpy(), name)))
    torch.testing.assert_close(f_divergence(p, q, name), expected)


@pytest.mark.parametrize("name", NAMES)
def test_f_divergence__is_smallest_at_equality(name: str) -> None:
    """两个分布相等时最小，最小值是 f(1)。"""
    p, q = _random_pair(300, 4)
    least = -math.log(4) if name == "gan" else 0.0
    assert (f_divergence(p, q, name) > least).all()
    torch.testing.assert_close(f_divergence(p, p, name), torch.full((300,), least).double())


def test_f_divergence__equals_hand_computed_example() -> None:
    """手算一例：p = (3/4, 1/4)、q = (1/2, 1/2) 时，卡方是 1/4，Hellinger 是 2 − (√3 + 1)/√2。"""
    p = torch.tensor([0.75, 0.25], dtype=torch.float64)
    q = torch.tensor([0.5, 0.5], dtype=torch.float64)
    torch.testing.assert_close(f_divergence(p, q, "chi_square").item(), 0.25)
    expected = 2 - (math.sqrt(3) + 1) / math.sqrt(2)
    torch.testing.assert_close(f_divergence(p, q, "hellinger").item(), expected)
    assert round(expected, 4) == 0.0681


def test_f_divergence__is_finite_where_data_has_zeros() -> None:
    """p 有零概率的状态时，除反向 KL 外都有限。"""
    p = torch.tensor([1.0, 0.0], dtype=torch.float64)
    q = torch.tensor([0.5, 0.5], dtype=torch.float64)
    torch.testing.assert_close(f_divergence(p, q, "kl").item(), math.log(2))
    assert f_divergence(p, q, "chi_square").item() == 1.0
    assert f_divergence(p, q, "reverse_kl").item() == math.inf


def test_f_divergence__differs_from_swapped_arguments() -> None:
    """卡方不是对称的：次序颠倒，值就变了。"""
    p, q = _random_pair(3, 5)
    swapped = f_divergence(q, p, "chi_square")
    assert (f_divergence(p, q, "chi_square") - swapped).abs().min() > 1e-3


def test_f_divergence__rejects_bad_input() -> None:
    """q 有零概率、不是分布、名字未知时报错。"""
    p = torch.tensor([0.5, 0.5])
    with pytest.raises(ValueError, match="q 必须处处为正"):
        f_divergence(p, torch.tensor([1.0, 0.0]), "kl")
    with pytest.raises(ValueError, match="p 沿"):
        f_divergence(p / 2, p, "kl")
    with pytest.raises(ValueError, match="name 必须是"):
        f_divergence(p, p, "renyi")


def _best_critic(p: Tensor, q: Tensor, name: str) -> Tensor:
    """照表写的最优判别函数。"""
    u = p / q
    return {
        "kl": lambda: 1 + u.log(),
        "reverse_kl": lambda: -1 / u,
        "chi_square": lambda: 2 * (u - 1),
        "hellinger": lambda: 1 - 1 / u.sqrt(),
        "gan": lambda: (p / (p + q)).log(),
    }[name]()


@pytest.mark.parametrize("name", NAMES)
def test_f_variational_bound__matches_divergence_at_optimal_critic(name: str) -> None:
    """在最优判别函数处等于直接定义的散度。"""
    p, q = _random_pair(4, 7)
    expected = torch.from_numpy(np.asarray(_direct(p.numpy(), q.numpy(), name)))
    torch.testing.assert_close(f_variational_bound(p, q, _best_critic(p, q, name), name), expected)


@pytest.mark.parametrize("name", NAMES)
def test_f_variational_bound__bounds_divergence_below(name: str) -> None:
    """一千个随机的判别函数都给出更小的值。"""
    p, q = _random_pair(7)
    noise = torch.randn(1000, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    top = {"kl": None, "reverse_kl": 0.0, "chi_square": None, "hellinger": 1.0, "gan": 0.0}[name]
    critics = noise if top is None else top - noise.exp()
    values = f_variational_bound(p.expand(1000, 7), q.expand(1000, 7), critics, name)
    assert (values < float(_direct(p.numpy(), q.numpy(), name))).all()


def test_f_variational_bound__equals_hand_computed_example() -> None:
    """p = (3/4, 1/4)、q = (1/2, 1/2)，卡方：T = (1, −1) 达到 1/4，T = 0 只给出 0。"""
    p = torch.tensor([0.75, 0.25], dtype=torch.float64)
    q = torch.tensor([0.5, 0.5], dtype=torch.float64)
    best = torch.tensor([1.0, -1.0], dtype=torch.float64)
    assert f_variational_bound(p, q, best, "chi_square").item() == 0.25
    assert f_variational_bound(p, q, 0 * best, "chi_square").item() == 0.0
    # T = (1, 1)：1 − (1 + 1/4)
    assert f_variational_bound(p, q, best.abs(), "chi_square").item() == -0.25


def test_f_variational_bound__matches_gan_objective() -> None:
    """名为 gan 的一行就是 E_p log D + E_q log(1 − D)，D 是 T 的指数。"""
    p, q = _random_pair(6)
    d = torch.rand(6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = sum(
        a * math.log(c) + b * math.log(1 - c)
        for a, b, c in zip(p.tolist(), q.tolist(), d.tolist(), strict=True)
    )
    torch.testing.assert_close(f_variational_bound(p, q, d.log(), "gan").item(), expected)


def test_f_variational_bound__rejects_bad_critic() -> None:
    """判别函数的形状不符或超出定义域时报错。"""
    p = torch.tensor([0.5, 0.5])
    with pytest.raises(ValueError, match="critic 的形状"):
        f_variational_bound(p, p, torch.zeros(3), "kl")
    with pytest.raises(ValueError, match="gan 的 t 必须小于"):
        f_variational_bound(p, p, torch.zeros(2), "gan")
