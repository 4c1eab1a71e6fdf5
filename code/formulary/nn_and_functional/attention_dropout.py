"""缩放点积注意力里的随机失活：失活的是注意力权重，期望不变，方差随权重的集中程度变。"""

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats
from formulary.nn_and_functional.dropout import dropout, dropout_moments


def attention_weights(
    q: Float[Tensor, "*batch T d"],
    k: Float[Tensor, "*batch S d"],
    mask: Float[Tensor, "T S"] | None = None,
) -> Float[Tensor, "*batch T S"]:
    r"""注意力权重：softmax(q kᵀ ÷ √d + mask)，每行的和为 1。

    Args:
        q: 查询。
        k: 键，前导的各轴与 q 相同。
        mask: 加到打分上的掩码，−inf 表示不许看；不给就没有。

    Returns:
        权重（无量纲）。

    Raises:
        ValueError: 形状对不上，或 mask 有整行的 −inf。

    约定:
        打分除以 √d，与 F.scaled_dot_product_attention 的默认值相同。

    出处:
        Vaswani et al. 2017, arXiv:1706.03762v7, 式 (1)。

    示例:
        >>> attention_weights(torch.zeros(1, 2), torch.zeros(4, 2))
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    require_floats("q", q, "...", "T", "d")
    require_floats("k", k, *q.shape[:-2], "S", q.shape[-1])
    scores = q @ k.mT / q.shape[-1] ** 0.5
    if mask is not None:
        require_floats("mask", mask, q.shape[-2], k.shape[-2])
        if mask.isneginf().all(dim=-1).any():
            raise ValueError("mask 的每一行至少要有一个不是 -inf 的元素，得到整行的 -inf")
        scores = scores + mask
    return scores.softmax(dim=-1)


def attention_with_dropout(
    q: Float[Tensor, "*batch T d"],
    k: Float[Tensor, "*batch S d"],
    v: Float[Tensor, "*batch S D"],
    p: float,
    training: bool,
    generator: torch.Generator,
    mask: Float[Tensor, "T S"] | None = None,
) -> Float[Tensor, "*batch T D"]:
    r"""带随机失活的缩放点积注意力，失活只在训练时起作用。

    Args:
        q: 查询。
        k: 键。
        v: 值，宽度可以与 q 不同。
        p: 注意力权重失活的概率，在 [0, 1] 里（无量纲）。
        training: 是否处于训练模式；F.scaled_dot_product_attention 没有这个参数。
        generator: 随机数发生器，评估时不用。
        mask: 加到打分上的掩码。

    Returns:
        注意力的输出。

    Raises:
        ValueError: 形状对不上，p 不在 [0, 1] 里，或 mask 有整行的 −inf。

    约定:
        先 softmax 后失活，失活之后每行的和不再是 1，也不重新归一。

    出处:
        Vaswani et al. 2017, arXiv:1706.03762v7；PyTorch 2.13 文档
        torch.nn.functional.scaled_dot_product_attention。

    示例:
        >>> v = torch.tensor([[1.0], [3.0]])
        >>> attention_with_dropout(v, v * 0, v, 0.5, False, torch.Generator())
        tensor([[2.],
                [2.]])
    """
    weights = attention_weights(q, k, mask)
    require_floats("v", v, *k.shape[:-1], "D")
    return dropout(weights, p, training, generator) @ v


def attention_dropout_variance(
    weights: Float[Tensor, "*batch T S"], v: Float[Tensor, "*batch S D"], p: float
) -> Float[Tensor, "*batch T D"]:
    r"""失活使注意力输出有多大的方差：p ÷ (1 − p) 乘以权重平方与值平方的乘积。

    Args:
        weights: 失活之前的注意力权重 $A$。
        v: 值。
        p: 失活的概率，在 [0, 1) 里（无量纲）。

    Returns:
        输出各元素的方差（v 的单位的平方），只对掩码取。

    Raises:
        ValueError: 形状对不上，或 p 不在 [0, 1) 里。

    约定:
        与 dropout_linear_variance 是同一个式子：注意力权重当输入，值的转置当权重矩阵。

    出处:
        由独立随机变量之和的方差直接得出。

    示例:
        >>> attention_dropout_variance(torch.full((1, 4), 0.25), torch.ones(4, 1), 0.5)
        tensor([[0.2500]])
    """
    require_floats("weights", weights, "...", "T", "S")
    require_floats("v", v, *weights.shape[:-2], weights.shape[-1], "D")
    _, variance = dropout_moments(weights, p)
    return variance @ v.square()
