"""softmax、logsumexp 与交叉熵的局部规则。"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from formulary.checks import require_floats, require_indices


def logsumexp_gradient(logits: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch K"]:
    r"""对数指数和（logsumexp）的梯度，恰好是 softmax。

    Args:
        logits: 对数几率 $z$（nat），最后一轴是 K 个类别。

    Returns:
        梯度（无量纲），沿最后一轴和为 1。

    Raises:
        ValueError: logits 不是至少一轴的浮点张量。

    约定:
        先减去最大值再取指数，大的对数几率不会溢出。

    出处:
        logsumexp 的定义。

    示例:
        >>> logsumexp_gradient(torch.tensor([0.0, 0.0, 0.0, 0.0]))
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """
    require_floats("logits", logits, "...", "K")
    weights = (logits - logits.amax(dim=-1, keepdim=True)).exp()
    return weights / weights.sum(dim=-1, keepdim=True)


def softmax_jacobian(logits: Float[Tensor, " K"]) -> Float[Tensor, "K K"]:
    r"""概率向量 softmax 的雅可比矩阵：概率排成的对角阵减去概率与自己的外积。

    Args:
        logits: 对数几率 $z$（nat）。

    Returns:
        雅可比矩阵（每 nat），对称，每行的和为零。

    Raises:
        ValueError: logits 不是浮点向量。

    约定:
        行是输出 s_i，列是输入 z_j；因为对称，转置也一样。

    出处:
        softmax 的定义；本文推导。

    示例:
        >>> softmax_jacobian(torch.tensor([0.0, 0.0]))
        tensor([[ 0.2500, -0.2500],
                [-0.2500,  0.2500]])
    """
    require_floats("logits", logits, "K")
    s = logsumexp_gradient(logits)
    return s.diag() - torch.outer(s, s)


def softmax_vjp(
    logits: Float[Tensor, "*batch K"], cotangent: Float[Tensor, "*batch K"]
) -> Float[Tensor, "*batch K"]:
    r"""概率向量 softmax 的 VJP：不写出雅可比矩阵，每行只要 K 次量级的运算。

    Args:
        logits: 对数几率 $z$（nat），最后一轴是 K 个类别。
        cotangent: softmax 输出的伴随，形状同 logits。

    Returns:
        logits 的伴随，沿最后一轴的和为零。

    Raises:
        ValueError: logits 不是至少一轴的浮点张量，或 cotangent 的形状不同。

    约定:
        softmax 沿最后一轴。

    出处:
        本文由雅可比矩阵推出。

    示例:
        >>> softmax_vjp(torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0]))
        tensor([ 0.2500, -0.2500])
    """
    s = logsumexp_gradient(logits)
    require_floats("cotangent", cotangent, *logits.shape)
    return s * (cotangent - (cotangent * s).sum(dim=-1, keepdim=True))


def cross_entropy_gradient(
    logits: Float[Tensor, "B K"], labels: Int[Tensor, " B"]
) -> Float[Tensor, "B K"]:
    r"""平均交叉熵对对数几率的梯度：概率减去独热标签，再除以批量。

    Args:
        logits: 对数几率 $z$（nat），一行一个样本。
        labels: 类别标签，0 到 K − 1。

    Returns:
        梯度（无量纲），每行的和为零。

    Raises:
        ValueError: logits 不是二维浮点张量，批量为零，或 labels 不是 B 个合法的类别。

    约定:
        损失对批量求平均（reduction="mean"），自然对数。

    出处:
        本文推导。

    示例:
        >>> cross_entropy_gradient(torch.zeros(1, 4), torch.tensor([2]))
        tensor([[ 0.2500,  0.2500, -0.7500,  0.2500]])
    """
    require_floats("logits", logits, "B", "K")
    if len(logits) == 0:
        raise ValueError("logits 至少要有一个样本，得到 0 个")
    require_indices("labels", labels, logits.shape[1], len(logits))
    gradient = logsumexp_gradient(logits)
    gradient[torch.arange(len(logits), device=logits.device), labels] -= 1
    return gradient / len(logits)
