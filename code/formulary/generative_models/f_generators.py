r"""五种 f-散度的生成函数 f、最优判别函数 f′ 与共轭函数 f*。

约定:
    u = p(x)/q(x) 是密度比，数据 p 在前、模型 q 在后；t 是判别函数的值。
    name 是 "kl"、"reverse_kl"、"chi_square"、"hellinger"、"gan" 之一。
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats

F_DIVERGENCES = ("kl", "reverse_kl", "chi_square", "hellinger", "gan")
CRITIC_UPPER_BOUNDS = {
    "kl": math.inf,
    "reverse_kl": 0.0,
    "chi_square": math.inf,
    "hellinger": 1.0,
    "gan": 0.0,
}


def f_generator(u: Float[Tensor, "*batch"], name: str) -> Float[Tensor, "*batch"]:
    r"""生成函数 f(u)：凸函数，定义在 u ≥ 0 上。

    Args:
        u: 密度比（无量纲），非负。
        name: 散度的名字。

    Returns:
        f(u)；除 "gan" 的 f(1) = −log 4 外，f(1) = 0。

    Raises:
        ValueError: u 不是非负的浮点张量，或 name 不在 F_DIVERGENCES 里。

    约定:
        0·log 0 = 0；"hellinger" 不带因子 1/2。

    出处:
        Nowozin et al. 2016, arXiv:1606.00709, 表 1。

    示例:
        >>> f_generator(torch.tensor([0.5, 1.0, 2.0]), "chi_square")
        tensor([0.2500, 0.0000, 1.0000])
    """
    require_floats("u", u)
    if (u < 0).any():
        raise ValueError(f"u 必须非负，得到 {u.min().item()}")
    if name == "kl":
        return torch.xlogy(u, u)
    if name == "reverse_kl":
        return -u.log()
    if name == "chi_square":
        return (u - 1).square()
    if name == "hellinger":
        return (u.sqrt() - 1).square()
    if name == "gan":
        return torch.xlogy(u, u) - torch.xlogy(u + 1, u + 1)
    raise ValueError(f"name 必须是 {F_DIVERGENCES} 之一，得到 {name!r}")


def optimal_critic(u: Float[Tensor, "*batch"], name: str) -> Float[Tensor, "*batch"]:
    r"""最优判别函数 T*(x) = f′(u)，u 是这一点的密度比。

    Args:
        u: 密度比（无量纲），正数。
        name: 散度的名字。

    Returns:
        生成函数 f 在 u 处的导数。

    Raises:
        ValueError: u 不是正的浮点张量，或 name 不在 F_DIVERGENCES 里。

    约定:
        "gan" 的值是 log D*，D* = p/(p + q) 是最优判别器。

    出处:
        Nowozin et al. 2016, arXiv:1606.00709, 表 1。

    示例:
        >>> optimal_critic(torch.tensor([1.0, 3.0]), "gan").exp()
        tensor([0.5000, 0.7500])
    """
    require_floats("u", u)
    if not (u > 0).all():
        raise ValueError(f"u 必须是正数，得到 {u.min().item()}")
    if name == "kl":
        return 1 + u.log()
    if name == "reverse_kl":
        return -1 / u
    if name == "chi_square":
        return 2 * (u - 1)
    if name == "hellinger":
        return 1 - u.rsqrt()
    if name == "gan":
        return -torch.log1p(1 / u)
    raise ValueError(f"name 必须是 {F_DIVERGENCES} 之一，得到 {name!r}")


def f_conjugate(t: Float[Tensor, "*batch"], name: str) -> Float[Tensor, "*batch"]:
    r"""共轭函数 f*(t)：u·t − f(u) 在 u ≥ 0 上的上确界。

    Args:
        t: 判别函数的值；"reverse_kl" 与 "gan" 要求 t < 0，"hellinger" 要求 t < 1。
        name: 散度的名字。

    Returns:
        f*(t)。

    Raises:
        ValueError: t 不是浮点张量或超出定义域，或 name 不在 F_DIVERGENCES 里。

    约定:
        "chi_square" 在 t < −2 时上确界在 u = 0 处取到，值是 −1。

    出处:
        Nowozin et al. 2016, arXiv:1606.00709, 表 2。

    示例:
        >>> f_conjugate(torch.tensor([-1.0, 0.5]), "hellinger")
        tensor([-0.5000,  1.0000])
    """
    require_floats("t", t)
    if name not in F_DIVERGENCES:
        raise ValueError(f"name 必须是 {F_DIVERGENCES} 之一，得到 {name!r}")
    if (t >= CRITIC_UPPER_BOUNDS[name]).any():
        bound = CRITIC_UPPER_BOUNDS[name]
        raise ValueError(f"{name} 的 t 必须小于 {bound}，得到 {t.max().item()}")
    if name == "kl":
        return torch.exp(t - 1)
    if name == "reverse_kl":
        return -1 - torch.log(-t)
    if name == "chi_square":
        bounded = t.clamp(min=-2)
        return bounded + bounded.square() / 4
    if name == "hellinger":
        return t / (1 - t)
    return -torch.log(-torch.expm1(t))


def f_divergence_table(u: Float[Tensor, " N"]) -> Float[Tensor, "5 3 N"]:
    r"""五种 f-散度在密度比 u 处的 f(u)、T* = f′(u) 与 f*(T*)。

    Args:
        u: 密度比（无量纲），正数。

    Returns:
        第一轴是 F_DIVERGENCES 的次序，第二轴是生成函数、最优判别函数、共轭函数。

    Raises:
        ValueError: u 不是正的浮点张量。

    约定:
        共轭函数在最优判别函数的值上求，那里 f(u) + f*(T*) = u·T*。

    出处:
        Nowozin et al. 2016, arXiv:1606.00709, 表 1 与表 2。

    示例:
        >>> f_divergence_table(torch.tensor([1.0]))[:, :, 0]
        tensor([[ 0.0000,  1.0000,  1.0000],
                [-0.0000, -1.0000, -1.0000],
                [ 0.0000,  0.0000,  0.0000],
                [ 0.0000,  0.0000,  0.0000],
                [-1.3863, -0.6931,  0.6931]])
    """
    rows = []
    for name in F_DIVERGENCES:
        critic = optimal_critic(u, name)
        rows.append(torch.stack((f_generator(u, name), critic, f_conjugate(critic, name))))
    return torch.stack(rows)


def fenchel_gap(
    u: Float[Tensor, "*batch"], t: Float[Tensor, "*batch"], name: str
) -> Float[Tensor, "*batch"]:
    r"""Fenchel–Young 不等式两边之差 f(u) + f*(t) − u·t。

    Args:
        u: 密度比（无量纲），非负。
        t: 判别函数的值，在 f* 的定义域里，形状与 u 相同。
        name: 散度的名字。

    Returns:
        非负的差；t = f′(u) 时为 0。

    Raises:
        ValueError: u 或 t 超出定义域、形状不同，或 name 不在 F_DIVERGENCES 里。

    约定:
        f* 是 f 的共轭，f 是凸函数。

    出处:
        Rockafellar 1970, Convex Analysis, 第 12 节。

    示例:
        >>> fenchel_gap(torch.tensor([2.0, 2.0]), torch.tensor([2.0, 0.0]), "chi_square")
        tensor([0., 1.])
    """
    require_floats("t", t, *u.shape)
    return f_generator(u, name) + f_conjugate(t, name) - u * t
