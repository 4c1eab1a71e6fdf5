"""能量模型的小例：玻尔兹曼机，变量少到可以枚举归一化常数。

约定:
    x 的元素是 0 或 1；能量 E(x) = −b·x − ½ xᵀWx，W 对称、对角线为 0；单位 nat。
    枚举 2^n 个状态，n 到十几为止；真正的能量模型做不到这一步。
"""

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_binary, require_floats


def _require_couplings(weights: Tensor, biases: Tensor) -> None:
    require_floats("biases", biases, "n")
    n = len(biases)
    require_floats("weights", weights, n, n)
    if not torch.equal(weights, weights.T) or weights.diagonal().any():
        raise ValueError("weights 必须是对称矩阵，而且对角线为 0")


def _binary_states(biases: Float[Tensor, " n"]) -> Float[Tensor, "K n"]:
    """全部 2^n 个二值向量，第 0 维变化最慢。"""
    bits = biases.new_tensor([0.0, 1.0])
    return torch.cartesian_prod(*[bits] * len(biases)).view(-1, len(biases))


def boltzmann_energy(
    x: Float[Tensor, "*batch n"], weights: Float[Tensor, "n n"], biases: Float[Tensor, " n"]
) -> Float[Tensor, "*batch"]:
    r"""玻尔兹曼机的能量，越低越常见。

    Args:
        x: 二值向量。
        weights: 两两之间的耦合 W（nat），正的耦合使两个变量倾向于同为 1。
        biases: 偏置 b（nat）。

    Returns:
        E(x)（nat）。

    Raises:
        ValueError: x 不是二值向量；weights 不对称、对角线不为 0，或与 x、biases 的维数不合。

    出处:
        LeCun et al. 2006, A Tutorial on Energy-Based Learning；Ackley et al. 1985。

    示例:
        >>> weights = torch.tensor([[0.0, 2.0], [2.0, 0.0]])
        >>> boltzmann_energy(torch.tensor([1.0, 1.0]), weights, torch.tensor([-1.0, 0.5]))
        tensor(-1.5000)
    """
    _require_couplings(weights, biases)
    require_floats("x", x, "...", len(biases))
    require_binary("x", x)
    return -(x @ biases) - ((x @ weights) * x).sum(-1) / 2


def boltzmann_log_prob(
    x: Float[Tensor, "*batch n"], weights: Float[Tensor, "n n"], biases: Float[Tensor, " n"]
) -> Float[Tensor, "*batch"]:
    r"""玻尔兹曼机的对数似然，归一化常数靠枚举。

    Args:
        x: 二值向量。
        weights: 耦合 W（nat）。
        biases: 偏置 b（nat）。

    Returns:
        log p(x) = −E(x) − log Z（nat）。

    Raises:
        ValueError: 条件同 boltzmann_energy。

    出处:
        LeCun et al. 2006, A Tutorial on Energy-Based Learning。

    示例:
        >>> boltzmann_log_prob(torch.tensor([1.0, 0.0]), torch.zeros(2, 2), torch.zeros(2)).exp()
        tensor(0.2500)
    """
    energies = boltzmann_energy(_binary_states(biases), weights, biases)  # (2^n,)
    return -boltzmann_energy(x, weights, biases) - torch.logsumexp(-energies, dim=0)


def boltzmann_moments(
    weights: Float[Tensor, "n n"], biases: Float[Tensor, " n"]
) -> tuple[Float[Tensor, "n n"], Float[Tensor, " n"]]:
    r"""模型自己的一、二阶矩，也就是 log Z 对参数的梯度。

    Args:
        weights: 耦合 W（nat）。
        biases: 偏置 b（nat）。

    Returns:
        E[x_i x_j]（对角线为 E[x_i]）与 E[x_i]，期望按模型分布取（无量纲）。

    Raises:
        ValueError: weights 不对称、对角线不为 0，或与 biases 的维数不合。

    约定:
        log Z 对 W_ij 的偏导数把 W_ij 与 W_ji 当作同一个参数；对角线不是参数。

    出处:
        Ackley et al. 1985, A Learning Algorithm for Boltzmann Machines。

    示例:
        >>> boltzmann_moments(torch.zeros(2, 2), torch.zeros(2))[0]
        tensor([[0.5000, 0.2500],
                [0.2500, 0.5000]])
    """
    states = _binary_states(biases)
    p = torch.softmax(-boltzmann_energy(states, weights, biases), dim=0)
    return torch.einsum("k,ki,kj->ij", p, states, states), p @ states


def boltzmann_gradient(
    x: Float[Tensor, "N n"], weights: Float[Tensor, "n n"], biases: Float[Tensor, " n"]
) -> tuple[Float[Tensor, "n n"], Float[Tensor, " n"]]:
    r"""平均对数似然的梯度：数据的矩减去模型的矩。

    Args:
        x: N 个二值样本，每行一个。
        weights: 耦合 W（nat）。
        biases: 偏置 b（nat）。

    Returns:
        对 W 与对 b 的梯度（无量纲），用来上升；W 的梯度对称、对角线为 0。

    Raises:
        ValueError: 条件同 boltzmann_energy。

    约定:
        W_ij 与 W_ji 是同一个参数，所以梯度是 x_i x_j 之差，没有因子 ½。

    出处:
        Ackley et al. 1985, A Learning Algorithm for Boltzmann Machines。

    示例:
        >>> boltzmann_gradient(torch.tensor([[1.0, 1.0]]), torch.zeros(2, 2), torch.zeros(2))
        (tensor([[0.0000, 0.7500],
                [0.7500, 0.0000]]), tensor([0.5000, 0.5000]))
    """
    boltzmann_energy(x, weights, biases)  # 检查参数
    pairs, means = boltzmann_moments(weights, biases)
    gap = torch.einsum("ki,kj->ij", x, x) / len(x) - pairs
    return gap - gap.diagonal().diag(), x.mean(0) - means


def boltzmann_conditional_logits(
    x: Float[Tensor, "*batch n"], weights: Float[Tensor, "n n"], biases: Float[Tensor, " n"]
) -> Float[Tensor, "*batch n"]:
    r"""其余变量给定时每个变量取 1 的对数几率，不需要归一化常数。

    Args:
        x: 二值向量。
        weights: 耦合 W（nat）。
        biases: 偏置 b（nat）。

    Returns:
        第 i 个元素是 log p(x_i = 1 | 其余) − log p(x_i = 0 | 其余)（无量纲），与 x_i 无关。

    Raises:
        ValueError: 条件同 boltzmann_energy。

    出处:
        Ackley et al. 1985, A Learning Algorithm for Boltzmann Machines。

    示例:
        >>> weights = torch.tensor([[0.0, 2.0], [2.0, 0.0]])
        >>> biases = torch.tensor([-1.0, 0.5])
        >>> boltzmann_conditional_logits(torch.tensor([1.0, 0.0]), weights, biases)
        tensor([-1.0000,  2.5000])
    """
    boltzmann_energy(x, weights, biases)  # 检查参数
    return biases + x @ weights
