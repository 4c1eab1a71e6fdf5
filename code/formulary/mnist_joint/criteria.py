"""两种训练准则：联合对数似然与条件对数似然，以及它们各自喜欢的平滑量。

约定:
    负对数似然都是每个样本的平均值（nat）；log_joint[j, k] = log p(x_j, y = k)。
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from formulary.checks import require_floats, require_indices
from formulary.mnist_joint.naive_bayes import fit_counts, naive_bayes_log_joint


def joint_and_conditional_nll(
    log_joint: Float[Tensor, "B K"], y: Int[Tensor, " B"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    r"""生成式准则与判别式准则：联合 NLL 与条件 NLL。

    Args:
        log_joint: 每个样本、每个类别的 log p(x, y = k)（nat）。
        y: 真实标签，从 0 起。

    Returns:
        −log p(x, y) 的平均与 −log p(y | x) 的平均（nat）。

    Raises:
        ValueError: log_joint 不是 (B, K) 的实浮点张量，或有一行全是 −inf；y 不是同样多的、
            在范围里的整数。

    约定:
        取平均；真实标签的概率为 0 时得 +inf。

    出处:
        Ng & Jordan 2001.

    示例:
        >>> joint = torch.tensor([[0.2, 0.1], [0.1, 0.1]])
        >>> joint_and_conditional_nll(joint.log(), torch.tensor([0, 1]))
        (tensor(1.9560), tensor(0.5493))
    """
    require_floats("log_joint", log_joint, "B", "K")
    require_indices("y", y, log_joint.shape[1], len(log_joint))
    if log_joint.isneginf().all(dim=-1).any():
        raise ValueError("log_joint 有一行全是 -inf，条件概率没有定义")
    chosen = log_joint.gather(1, y.long()[:, None])[:, 0]
    return -chosen.mean(), (log_joint.logsumexp(dim=-1) - chosen).mean()


def criterion_split(
    log_joint: Float[Tensor, "B K"], y: Int[Tensor, " B"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    r"""联合 NLL 拆成两份：条件 NLL 加上图像自己的边缘 NLL。

    Args:
        log_joint: 每个样本、每个类别的 log p(x, y = k)（nat）。
        y: 真实标签，从 0 起。

    Returns:
        等式两边：联合 NLL；条件 NLL 与边缘 NLL 之和（nat）。

    Raises:
        ValueError: 条件同 joint_and_conditional_nll。

    出处:
        链式法则。

    示例:
        >>> joint = torch.tensor([[0.2, 0.1], [0.1, 0.1]])
        >>> criterion_split(joint.log(), torch.tensor([0, 1]))
        (tensor(1.9560), tensor(1.9560))
    """
    joint, conditional = joint_and_conditional_nll(log_joint, y)
    return joint, conditional - log_joint.logsumexp(dim=-1).mean()


def smoothing_sweep(
    train: tuple[Float[Tensor, "N n"], Int[Tensor, " N"]],
    held_out: tuple[Float[Tensor, "B n"], Int[Tensor, " B"]],
    classes: int,
    smoothings: Sequence[float],
) -> Float[Tensor, "M 3"]:
    r"""不同平滑量的朴素贝叶斯在留出数据上的联合 NLL、条件 NLL 与准确率。

    Args:
        train: 训练用的图像与标签。
        held_out: 留出的图像与标签。
        classes: 类别数 K。
        smoothings: 各个平滑量 α（无量纲）。

    Returns:
        每行一个平滑量；三列是联合 NLL（nat）、条件 NLL（nat）、准确率（无量纲）。

    Raises:
        ValueError: 条件同 fit_counts 与 joint_and_conditional_nll；一个平滑量也没有。

    出处:
        本站。

    示例:
        >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1])
        >>> smoothing_sweep((x, y), (x, y), 2, [1.0])
        tensor([[1.0986, 0.4055, 1.0000]])
    """
    if len(smoothings) == 0:
        raise ValueError("smoothings 至少要有一个平滑量，得到 0 个")
    rows = []
    for smoothing in smoothings:
        theta, prior = fit_counts(*train, classes, smoothing)
        log_joint = naive_bayes_log_joint(held_out[0], theta, prior)
        right = log_joint.argmax(dim=-1) == held_out[1]
        scores = joint_and_conditional_nll(log_joint, held_out[1])
        rows.append(torch.stack((*scores, right.to(log_joint.dtype).mean())))
    return torch.stack(rows)


def preferred_smoothings(
    train: tuple[Float[Tensor, "N n"], Int[Tensor, " N"]],
    held_out: tuple[Float[Tensor, "B n"], Int[Tensor, " B"]],
    classes: int,
    smoothings: Sequence[float],
) -> tuple[float, float]:
    r"""在给出的平滑量里，联合 NLL 与条件 NLL 各选出的那一个。

    Args:
        train: 训练用的图像与标签。
        held_out: 留出的图像与标签。
        classes: 类别数 K。
        smoothings: 备选的平滑量 α（无量纲）。

    Returns:
        使留出数据的联合 NLL 最小的 α，与使条件 NLL 最小的 α；并列时取排在前面的。

    Raises:
        ValueError: 条件同 smoothing_sweep。

    出处:
        本站。

    示例:
        >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1])
        >>> preferred_smoothings((x, y), (x, y), 2, [1.0, 0.5])
        (0.5, 0.5)
    """
    joint, conditional, _ = smoothing_sweep(train, held_out, classes, smoothings).T
    return smoothings[int(joint.argmin())], smoothings[int(conditional.argmin())]
