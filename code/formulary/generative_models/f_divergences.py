r"""f-散度与它的变分下界。

约定:
    数据 p 在前、模型 q 在后；name 是 f_generators.F_DIVERGENCES 之一。
"""

from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats
from formulary.generative_models.divergences import require_distribution_pair
from formulary.generative_models.f_generators import f_conjugate, f_generator


def f_divergence(
    p: Float[Tensor, "*batch K"], q: Float[Tensor, "*batch K"], name: str
) -> Float[Tensor, "*batch"]:
    r"""f-散度 D_f(p‖q)：密度比 p/q 经 f 变换后，对 q 求期望。

    Args:
        p: 数据的分布。
        q: 模型的分布，形状与 p 相同，处处为正。
        name: 散度的名字。

    Returns:
        f-散度（nat 或无量纲），非负；"gan" 的最小值是 −log 4。

    Raises:
        ValueError: p、q 不是概率分布，q 有零，或 name 不在 F_DIVERGENCES 里。

    约定:
        "gan" 等于 2·JS − log 4；"hellinger" 是平方根之差的平方和。

    出处:
        Csiszár 1967；Nowozin et al. 2016, arXiv:1606.00709, 第 2.1 节。

    示例:
        >>> f_divergence(torch.tensor([0.75, 0.25]), torch.tensor([0.5, 0.5]), "chi_square")
        tensor(0.2500)
    """
    require_distribution_pair(p, q)
    if not (q > 0).all():
        raise ValueError("q 必须处处为正，得到零概率的状态")
    return (q * f_generator(p / q, name)).sum(dim=-1)


def f_variational_bound(
    p: Float[Tensor, "*batch K"],
    q: Float[Tensor, "*batch K"],
    critic: Float[Tensor, "*batch K"],
    name: str,
) -> Float[Tensor, "*batch"]:
    r"""f-散度的变分下界 E_p[T] − E_q[f*(T)]：只用到两个期望，可以由样本估计。

    Args:
        p: 数据的分布。
        q: 模型的分布，形状与 p 相同。
        critic: 判别函数 T 在每个状态上的值，形状与 p 相同。
        name: 散度的名字。

    Returns:
        不超过 D_f(p‖q) 的数；critic = f′(p/q) 时相等。

    Raises:
        ValueError: p、q 不是概率分布，critic 形状不同或超出定义域，或 name 不对。

    约定:
        第一个期望对数据取，第二个对模型取。

    出处:
        Nguyen et al. 2010, arXiv:0809.0853；Nowozin et al. 2016, arXiv:1606.00709, 第 2.2 节。

    示例:
        >>> p, q = torch.tensor([0.75, 0.25]), torch.tensor([0.5, 0.5])
        >>> f_variational_bound(p, q, torch.tensor([1.0, -1.0]), "chi_square")
        tensor(0.2500)
    """
    require_distribution_pair(p, q)
    require_floats("critic", critic, *p.shape)
    return (p * critic).sum(dim=-1) - (q * f_conjugate(critic, name)).sum(dim=-1)
