"""祖先采样：先抽标签，再抽各像素。"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from formulary.checks import (
    require_count,
    require_distribution,
    require_floats,
    require_probabilities,
)


def sample_naive_bayes(
    count: int,
    theta: Float[Tensor, "K n"],
    prior: Float[Tensor, " K"],
    generator: torch.Generator,
) -> tuple[Float[Tensor, "N n"], Int[Tensor, " N"]]:
    r"""从朴素贝叶斯里抽图像与标签：先抽类别，再独立地抽每个像素。

    Args:
        count: 样本数 N。
        theta: 各类各像素取 1 的概率。
        prior: 各类的先验。
        generator: 随机数发生器。

    Returns:
        二值图像与标签，dtype 分别随 theta 与取 int64。

    Raises:
        ValueError: count 不是正整数，theta 不是概率，prior 不是分布，或形状不配。

    约定:
        只要图像时丢掉标签，剩下的就是 p(x) 的样本。

    出处:
        Murphy 2022, Probabilistic Machine Learning: An Introduction, 9.3 节。

    示例:
        >>> theta, prior = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0.0, 1.0])
        >>> sample_naive_bayes(1, theta, prior, torch.Generator().manual_seed(0))
        (tensor([[0., 1.]]), tensor([1]))
    """
    require_count("count", count)
    require_floats("theta", theta, "K", "n")
    require_probabilities("theta", theta)
    require_floats("prior", prior, len(theta))
    require_distribution("prior", prior)
    y = torch.multinomial(prior, count, replacement=True, generator=generator)
    return torch.bernoulli(theta[y], generator=generator), y
