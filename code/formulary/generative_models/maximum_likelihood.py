r"""最大似然与 KL 散度：KL 散度的展开、平均对数似然的三种写法、梯度。

约定:
    似然一律取平均（除以样本数），以 nat 计；p 是数据的分布，q 是模型的分布。
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from formulary.checks import require_count, require_distribution, require_floats, require_indices
from formulary.generative_models.divergences import (
    entropy,
    kl_divergence,
    require_distribution_pair,
)
from formulary.generative_models.learning import empirical_distribution


def kl_divergence_forms(
    p: Float[Tensor, " K"], q: Float[Tensor, " K"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    r"""KL 散度的三种写法：对数比的期望、两个期望之差、负的熵减对数似然的期望。

    Args:
        p: 数据的分布。
        q: 模型的分布，每个状态的概率为正。

    Returns:
        三个相等的数（nat）。

    Raises:
        ValueError: p、q 不是概率分布，或 p 有状态的概率为 0 而无法直接取对数。

    约定:
        期望对 p 取；第三种写法里只有 E_p log q(x) 与模型有关。

    出处:
        CS236 课程笔记 Autoregressive Models, “Learning and inference” 一节。

    示例:
        >>> p, q = torch.tensor([0.75, 0.25]), torch.tensor([0.5, 0.5])
        >>> [round(float(v), 4) for v in kl_divergence_forms(p, q)]
        [0.1308, 0.1308, 0.1308]
    """
    require_distribution_pair(p, q)
    if not ((p > 0) & (q > 0)).all():
        raise ValueError("p 与 q 必须处处为正，得到零概率的状态")
    expected_ratio = (p * (p / q).log()).sum()
    difference = (p * p.log()).sum() - (p * q.log()).sum()
    return expected_ratio, difference, -entropy(p) - (p * q.log()).sum()


def mean_log_likelihood(x: Int[Tensor, " N"], q: Float[Tensor, " K"]) -> Float[Tensor, ""]:
    r"""数据集的平均对数似然：每个样本取模型给它的对数概率，再取平均。

    Args:
        x: N 个样本的状态编号，从 0 起。
        q: 模型的分布。

    Returns:
        平均对数似然（nat/样本），不大于 0；有样本的概率为 0 时是负无穷。

    Raises:
        ValueError: q 不是一维的概率分布，或 x 是空的、不是 0 到 K − 1 的整数。

    约定:
        取平均而不求和，所以不同大小的数据集可比。

    出处:
        CS236 课程笔记 Autoregressive Models, “Learning and inference” 一节。

    示例:
        >>> mean_log_likelihood(torch.tensor([0, 0, 0, 1]), torch.tensor([0.8, 0.2]))
        tensor(-0.5697)
    """
    require_floats("q", q, "K")
    require_distribution("q", q)
    require_indices("x", x, len(q), "N")
    require_count("x 的样本数", len(x))
    return q.log()[x].mean()


def mean_log_likelihood_forms(
    x: Int[Tensor, " N"], q: Float[Tensor, " K"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    r"""平均对数似然的三种写法：对样本平均、对经验分布求期望、负的熵减 KL 散度。

    Args:
        x: N 个样本的状态编号，从 0 起。
        q: 模型的分布，float64（与经验分布相同），每个状态的概率为正。

    Returns:
        三个相等的数（nat/样本）：样本平均，经验分布下的期望，−H(p̂) − D(p̂‖q)。

    Raises:
        ValueError: q 不是概率分布，或 x 不是 0 到 K − 1 的整数。

    约定:
        第三种写法里与模型有关的只有 KL 散度，所以最大化似然就是最小化它。

    出处:
        Akaike 1973, Information Theory and an Extension of the Maximum Likelihood Principle。

    示例:
        >>> q = torch.tensor([0.8, 0.2], dtype=torch.float64)
        >>> forms = mean_log_likelihood_forms(torch.tensor([0, 0, 0, 1]), q)
        >>> [round(float(v), 4) for v in forms]
        [-0.5697, -0.5697, -0.5697]
    """
    p = empirical_distribution(x, len(q))
    by_samples = mean_log_likelihood(x, q)
    by_states = torch.xlogy(p, q).sum()
    return by_samples, by_states, -entropy(p) - kl_divergence(p, q)


def kl_gradient_forms(
    p: Float[Tensor, " K"], logits: Float[Tensor, " K"]
) -> tuple[Float[Tensor, " K"], Float[Tensor, " K"], Float[Tensor, " K"]]:
    r"""KL 散度对 softmax 模型参数的梯度，三种算法：求导、负的得分的期望、闭式。

    Args:
        p: 数据的分布。
        logits: softmax 模型的参数，每个状态一个。

    Returns:
        三个相等的向量：D(p‖p_θ) 的梯度，−E_p[∇ log p_θ(x)]，p_θ − p（都是 nat）。

    Raises:
        ValueError: p 不是概率分布，或 logits 的形状与 p 不同。

    约定:
        第一个由自动求导穿过 KL 散度算出；第二个逐个状态求 log p_θ(x) 的梯度再加权。

    出处:
        CS236 课程笔记 Autoregressive Models, “Learning and inference” 一节。

    示例:
        >>> forms = kl_gradient_forms(torch.tensor([0.75, 0.25]), torch.zeros(2))
        >>> forms[2]
        tensor([-0.2500,  0.2500])
    """
    require_floats("p", p, "K")
    require_floats("logits", logits, *p.shape)
    theta = logits.detach().clone().requires_grad_()
    log_q = torch.log_softmax(theta, dim=0)
    scores = [torch.autograd.grad(v, theta, retain_graph=True)[0] for v in log_q]
    expected_score = (p[:, None] * torch.stack(scores)).sum(dim=0)
    (direct,) = torch.autograd.grad(kl_divergence(p, theta.softmax(dim=0)), theta)
    return direct, -expected_score, torch.softmax(logits, dim=0) - p
