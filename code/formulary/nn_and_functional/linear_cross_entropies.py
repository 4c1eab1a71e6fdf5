r"""大词表的交叉熵：把最后一层与损失合在一起，不必留下整块对数几率。"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from formulary.checks import require_count, require_floats, require_indices
from formulary.nn_and_functional.cross_entropies import cross_entropy


def linear_cross_entropy(
    x: Float[Tensor, "B d"], weight: Float[Tensor, "V d"], y: Int[Tensor, " B"]
) -> Float[Tensor, ""]:
    r"""先算全部对数几率，再取平均交叉熵。

    Args:
        x: 最后一层的输入，每行一个词元。
        weight: 最后一层的权重，每行一个词。
        y: 正确的词的编号。

    Returns:
        平均损失（nat）。

    Raises:
        ValueError: 形状或类型不符，或编号越界。

    约定:
        中间量 B×V 个对数几率要留到反向。

    出处:
        PyTorch 2.13, torch.nn.functional.linear_cross_entropy。

    示例:
        >>> linear_cross_entropy(torch.zeros(3, 2), torch.ones(4, 2), torch.tensor([0, 1, 3]))
        tensor(1.3863)
    """
    require_head(x, weight, y)
    return cross_entropy(x @ weight.T, y).mean()


def merged_log_sum_exp(z: Float[Tensor, "B V"], chunk: int) -> Float[Tensor, " B"]:
    r"""逐段读入每行的数，只记到目前为止的最大值与缩放过的和，得到对数-求和-指数。

    Args:
        z: 对数几率，每行一个样本。
        chunk: 每段的列数，至少 1。

    Returns:
        每行的对数-求和-指数（nat）。

    Raises:
        ValueError: z 不是二轴的浮点张量，没有列，或 chunk 不是正整数。

    出处:
        Milakov & Gimelshein 2018, arXiv:1805.02867, 算法 3。

    示例:
        >>> merged_log_sum_exp(torch.tensor([[0.0, 1.0, 2.0]]), chunk=2)
        tensor([2.4076])
    """
    require_floats("z", z, "B", "V")
    require_count("chunk", chunk)
    if z.shape[1] == 0:
        raise ValueError("z 至少要有一列，得到 0 列")
    largest, total = z.new_full((len(z),), -torch.inf), z.new_zeros(len(z))
    for part in z.split(chunk, dim=1):
        higher = torch.maximum(largest, part.amax(dim=1))
        total = total * (largest - higher).exp() + (part - higher[:, None]).exp().sum(dim=1)
        largest = higher
    return largest + total.log()


def chunked_linear_cross_entropy(
    x: Float[Tensor, "B d"], weight: Float[Tensor, "V d"], y: Int[Tensor, " B"], chunk: int
) -> Float[Tensor, ""]:
    r"""逐段取词表，得到同一个平均交叉熵；同一时刻只有 B×chunk 个对数几率。

    Args:
        x: 最后一层的输入，每行一个词元。
        weight: 最后一层的权重，每行一个词。
        y: 正确的词的编号。
        chunk: 每段的词数，至少 1。

    Returns:
        平均损失（nat）；这里只写前向，反向若照存各段，就省不下显存。

    Raises:
        ValueError: 形状或类型不符，编号越界，或 chunk 不是正整数。

    出处:
        Wijmans et al. 2024, arXiv:2411.09009, §4。

    示例:
        >>> x, weight, y = torch.zeros(3, 2), torch.ones(4, 2), torch.tensor([0, 1, 3])
        >>> chunked_linear_cross_entropy(x, weight, y, chunk=3)
        tensor(1.3863)
    """
    require_head(x, weight, y)
    require_count("chunk", chunk)
    largest, total = x.new_full((len(x),), -torch.inf), x.new_zeros(len(x))
    for rows in weight.split(chunk):
        z = x @ rows.T  # (B, chunk)
        higher = torch.maximum(largest, z.amax(dim=1))
        total = total * (largest - higher).exp() + (z - higher[:, None]).exp().sum(dim=1)
        largest = higher
    true = (x * weight[y]).sum(dim=1)
    return (largest + total.log() - true).mean()


def require_head(x: Tensor, weight: Tensor, y: Tensor) -> None:
    """要求 x、weight 与 y 合得上：(B, d)、(V, d)、(B,)，编号在 [0, V) 里。"""
    require_floats("x", x, "B", "d")
    require_floats("weight", weight, "V", x.shape[1])
    require_indices("y", y, weight.shape[0], x.shape[0])
