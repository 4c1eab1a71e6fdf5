"""因果注意力：掩码、右移、键值缓存，与逐步解码的计算量。"""

import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from formulary.checks import require_count, require_floats


def causal_attention(
    q: Float[Tensor, "*batch T d"], k: Float[Tensor, "*batch T d"], v: Float[Tensor, "*batch T d"]
) -> Float[Tensor, "*batch T d"]:
    r"""因果注意力：第 i 个查询只看前 i 个键，后面的分数置为负无穷再作 softmax。

    Args:
        q: 查询。
        k: 键，与查询同形。
        v: 值，与查询同形。

    Returns:
        每个位置的输出，是前 i 个值的凸组合。

    Raises:
        ValueError: 三者不是同形的实浮点张量，或少于两轴。

    约定:
        分数除以特征维数 d 的平方根；位置 i 看得到自己。

    出处:
        Vaswani et al. 2017, arXiv:1706.03762v7, 式 (1) 与第 3.2.3 节。

    示例:
        >>> v = torch.tensor([[0.0], [2.0], [4.0]])
        >>> causal_attention(torch.zeros(3, 1), torch.zeros(3, 1), v).flatten()
        tensor([0., 1., 2.])
    """
    require_floats("q", q, "...", "T", "d")
    require_floats("k", k, *q.shape)
    require_floats("v", v, *q.shape)
    tokens, d = q.shape[-2:]
    scores = q @ k.transpose(-1, -2) / math.sqrt(d)  # (*batch, T, T)
    future = torch.ones(tokens, tokens, dtype=torch.bool, device=q.device).triu(diagonal=1)
    return torch.softmax(scores.masked_fill(future, -math.inf), dim=-1) @ v


def cached_attention(
    q: Float[Tensor, "*batch d"], k: Float[Tensor, "*batch S d"], v: Float[Tensor, "*batch S d"]
) -> Float[Tensor, "*batch d"]:
    r"""最新一个查询对缓存里全部键的注意力；缓存只含过去与自己，所以不需要掩码。

    Args:
        q: 最新位置的查询。
        k: 到这个位置为止的键，S 个。
        v: 到这个位置为止的值，S 个。

    Returns:
        最新位置的输出，等于整段因果注意力的最后一行。

    Raises:
        ValueError: 形状不符，或不是实浮点张量。

    约定:
        分数除以特征维数 d 的平方根。

    出处:
        由因果注意力的定义推出；Shazeer 2019, arXiv:1911.02150v1 讨论其代价。

    示例:
        >>> v = torch.tensor([[0.0], [2.0], [4.0]])
        >>> cached_attention(torch.zeros(1), torch.zeros(3, 1), v)
        tensor([2.])
    """
    require_floats("q", q, "...", "d")
    require_floats("k", k, *q.shape[:-1], "S", q.shape[-1])
    require_floats("v", v, *k.shape)
    scores = (k @ q.unsqueeze(-1)).squeeze(-1) / math.sqrt(q.shape[-1])  # (*batch, S)
    return (torch.softmax(scores, dim=-1).unsqueeze(-2) @ v).squeeze(-2)


def shift_right(x: Shaped[Tensor, "B n ..."], start: Shaped[Tensor, "..."]) -> Tensor:
    r"""右移一格：最前面放开始符，去掉最后一个，于是第 i 格是 x_{i−1}。

    Args:
        x: 序列，可以是词元的编号 (B, n)，也可以是嵌入之后的向量 (B, n, d)。
        start: 开始符，形状是 x 去掉前两轴，dtype 同 x。

    Returns:
        与 x 同形的序列。

    Raises:
        ValueError: x 少于两轴，或 start 的形状、dtype 与 x 不符。

    约定:
        放在第一层之前，只移一次。

    出处:
        Vaswani et al. 2017, arXiv:1706.03762v7, 第 3.1 节与图 1（outputs shifted right）。

    示例:
        >>> shift_right(torch.tensor([[5, 6, 7]]), torch.tensor(0))
        tensor([[0, 5, 6]])
    """
    if x.ndim < 2 or start.shape != x.shape[2:] or start.dtype != x.dtype:
        raise ValueError(
            f"start 的形状与 dtype 必须是 {tuple(x.shape[2:])} 与 {x.dtype}，"
            f"得到 {tuple(start.shape)} 与 {start.dtype}"
        )
    return torch.cat((start.expand_as(x[:, :1]), x[:, :-1]), dim=1)


def decoding_scores(n: int) -> tuple[int, int]:
    r"""一层一头采样 n 步，要算多少个查询与键的分数：每步重算前缀，与用键值缓存。

    Args:
        n: 序列的长度（步）。

    Returns:
        (每步重算整个前缀的分数个数, 用缓存的分数个数)，按掩码之内的计数。

    Raises:
        ValueError: n 不是正整数。

    约定:
        重算时，第 i 步要做长为 i 的整段因果注意力，掩码之内有 i(i + 1)/2 个分数；
        用缓存时第 i 步只有 i 个。

    出处:
        本文推导。

    示例:
        >>> decoding_scores(784)
        (80622640, 307720)
    """
    require_count("n", n)
    return n * (n + 1) * (n + 2) // 6, n * (n + 1) // 2
