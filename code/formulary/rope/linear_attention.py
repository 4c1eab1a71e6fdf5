"""线性注意力中的 RoPE：先过特征映射、再旋转，分母保持不旋转。

约定:
    特征对取交错布局 (2i, 2i+1)；分子中的核可以为负，分母恒正；因果形式里位置从 0 起。
"""

import torch
from jaxtyping import Float, Num
from torch import Tensor

from formulary.rope.rotation import rotate_interleaved


def positive_features(x: Float[Tensor, "*batch T d"]) -> Float[Tensor, "*batch T d"]:
    r"""逐元素的正特征映射 φ(x) = elu(x) + 1。

    Args:
        x: 查询或键。

    Returns:
        x ≤ 0 处为 e^x，x > 0 处为 1 + x；处处为正，直到 e^x 下溢。

    约定:
        不写成 elu(x) + 1：float32 里 x < -17.4 时 e^x - 1 舍入成 -1，再加 1 便成了 0。

    出处:
        Katharopoulos et al. 2020, arXiv:2006.16236, 第 3.2 节。

    示例:
        >>> positive_features(torch.tensor([[0.0, 2.0]])).tolist()
        [[1.0, 3.0]]
    """
    return torch.exp(x.clamp(max=0)) + torch.relu(x)


def linear_attention(
    q: Float[Tensor, "*batch T d"],
    k: Float[Tensor, "*batch S d"],
    v: Float[Tensor, "*batch S e"],
) -> Float[Tensor, "*batch T e"]:
    r"""线性注意力：先求 d×e 的键值和，再与查询相乘，代价与词元数成正比。

    Args:
        q: 查询。
        k: 键。
        v: 值，不经过特征映射。

    Returns:
        各查询对 v 的加权平均，权重为正、和为 1。

    Raises:
        ValueError: q、k、v 的形状对不上。

    约定:
        φ 与 varphi 都取 elu + 1；不含位置，不带因果掩码。

    出处:
        Katharopoulos et al. 2020, arXiv:2006.16236, 第 3.2 节。

    示例:
        >>> zero = torch.zeros(2, 1)
        >>> linear_attention(zero, zero, torch.tensor([[1.0], [3.0]])).tolist()
        [[2.0], [2.0]]
    """
    _check_shapes(q, k, v)
    q, k = positive_features(q), positive_features(k)
    state = k.mT @ v  # (*batch, d, e)
    normalizer = k.sum(-2).unsqueeze(-1)  # (*batch, d, 1)
    return (q @ state) / (q @ normalizer)


def feature_order_scores(
    q: Float[Tensor, "*batch T d"],
    k: Float[Tensor, "*batch S d"],
    query_positions: Num[Tensor, " T"],
    key_positions: Num[Tensor, " S"],
    base: float = 10_000.0,
) -> tuple[Float[Tensor, "*batch T S"], Float[Tensor, "*batch T S"]]:
    r"""特征映射与旋转的两种先后次序各自给出的核。

    Args:
        q: 查询。
        k: 键。
        query_positions: 查询的位置 i（步）。
        key_positions: 键的位置 j（步）。
        base: 底数 b（无量纲）。

    Returns:
        先映射后旋转的核（只依赖 i - j），与先旋转后映射的核（还依赖 i、j 本身）。

    Raises:
        ValueError: 位置或特征维数对不上，或 d 为奇数。

    示例:
        >>> zero, at = torch.zeros(1, 2), torch.tensor([3])
        >>> [round(scores.item(), 3) for scores in feature_order_scores(zero, zero, at, at)]
        [2.0, 2.0]
    """
    _check_shapes(q, k, k)
    after = (
        rotate_interleaved(positive_features(q), query_positions, base),
        rotate_interleaved(positive_features(k), key_positions, base),
    )
    before = (
        positive_features(rotate_interleaved(q, query_positions, base)),
        positive_features(rotate_interleaved(k, key_positions, base)),
    )
    return after[0] @ after[1].mT, before[0] @ before[1].mT


def naive_rotary_linear_attention(
    q: Float[Tensor, "*batch T d"],
    k: Float[Tensor, "*batch S d"],
    v: Float[Tensor, "*batch S e"],
    query_positions: Num[Tensor, " T"],
    key_positions: Num[Tensor, " S"],
    base: float = 10_000.0,
) -> Float[Tensor, "*batch T e"]:
    r"""分子分母都旋转的线性注意力：权重和为 1，但分母可以为零或为负，不宜使用。

    Args:
        q: 查询。
        k: 键。
        v: 值，不旋转。
        query_positions: 查询的位置 i（步）。
        key_positions: 键的位置 j（步）。
        base: 底数 b（无量纲）。

    Returns:
        输出；分母接近零时可以任意大，分母恰为零时是 inf 或 nan。

    Raises:
        ValueError: 形状对不上，或 d 为奇数。

    出处:
        苏剑林 2021，《Transformer升级之路：2、博采众长的旋转式位置编码》，式 (18)。

    示例:
        >>> zero, at = torch.zeros(1, 2), torch.tensor([0])
        >>> naive_rotary_linear_attention(zero, zero, torch.tensor([[5.0]]), at, at).tolist()
        [[5.0]]
    """
    _check_shapes(q, k, v)
    q = rotate_interleaved(positive_features(q), query_positions, base)
    k = rotate_interleaved(positive_features(k), key_positions, base)
    return (q @ (k.mT @ v)) / (q @ k.sum(-2).unsqueeze(-1))


def rotary_linear_attention(
    q: Float[Tensor, "*batch T d"],
    k: Float[Tensor, "*batch S d"],
    v: Float[Tensor, "*batch S e"],
    query_positions: Num[Tensor, " T"],
    key_positions: Num[Tensor, " S"],
    base: float = 10_000.0,
) -> Float[Tensor, "*batch T e"]:
    r"""RoPE 线性注意力：只在分子里旋转，分母用未旋转的正特征。

    Args:
        q: 查询。
        k: 键。
        v: 值，不旋转。
        query_positions: 查询的位置 i（步）。
        key_positions: 键的位置 j（步）。
        base: 底数 b（无量纲）。

    Returns:
        输出；权重可以为负，和不必为 1。

    Raises:
        ValueError: 形状对不上，或 d 为奇数。

    出处:
        苏剑林 2021，《Transformer升级之路：2、博采众长的旋转式位置编码》，式 (19)。

    示例:
        >>> zero, at = torch.zeros(1, 2), torch.tensor([0])
        >>> rotary_linear_attention(zero, zero, torch.tensor([[5.0]]), at, at).tolist()
        [[5.0]]
    """
    _check_shapes(q, k, v)
    q, k = positive_features(q), positive_features(k)
    rotated_q = rotate_interleaved(q, query_positions, base)
    rotated_k = rotate_interleaved(k, key_positions, base)
    return (rotated_q @ (rotated_k.mT @ v)) / (q @ k.sum(-2).unsqueeze(-1))


def causal_rotary_linear_attention(
    q: Float[Tensor, "*batch T d"],
    k: Float[Tensor, "*batch T d"],
    v: Float[Tensor, "*batch T e"],
    base: float = 10_000.0,
) -> Float[Tensor, "*batch T e"]:
    r"""因果 RoPE 线性注意力的递推：状态 S 累加旋转后的键与值，z 累加未旋转的键。

    Args:
        q: 查询，第 t 行的位置为 t。
        k: 键，第 t 行的位置为 t。
        v: 值，不旋转。
        base: 底数 b（无量纲）。

    Returns:
        各步的输出；第 t 步只用到前 t + 1 个词元。

    Raises:
        ValueError: 形状对不上，或 d 为奇数。

    示例:
        >>> q = torch.zeros(2, 2)
        >>> causal_rotary_linear_attention(q, q, torch.tensor([[4.0], [0.0]]))[0].tolist()
        [4.0]
    """
    if q.shape != k.shape:
        raise ValueError(f"q 与 k 的形状必须相同，得到 {tuple(q.shape)} 与 {tuple(k.shape)}")
    _check_shapes(k, k, v)
    positions = torch.arange(k.shape[-2], device=k.device)
    q, k = positive_features(q), positive_features(k)
    rotated_q = rotate_interleaved(q, positions, base)
    rotated_k = rotate_interleaved(k, positions, base)
    state = k.new_zeros(*k.shape[:-2], k.shape[-1], v.shape[-1])  # (*batch, d, e)
    normalizer = k.new_zeros(*k.shape[:-2], k.shape[-1])  # (*batch, d)
    outputs = []
    for t in range(k.shape[-2]):
        state = state + rotated_k[..., t, :, None] * v[..., t, None, :]
        normalizer = normalizer + k[..., t, :]
        numerator = (rotated_q[..., t, :, None] * state).sum(-2)  # (*batch, e)
        denominator = (q[..., t, :] * normalizer).sum(-1, keepdim=True)  # (*batch, 1)
        outputs.append(numerator / denominator)
    return torch.stack(outputs, dim=-2)


def rotating_state_linear_attention(
    q: Float[Tensor, "*batch T d"],
    k: Float[Tensor, "*batch T d"],
    v: Float[Tensor, "*batch T e"],
    base: float = 10_000.0,
) -> Float[Tensor, "*batch T e"]:
    r"""同一因果输出的另一种递推：键与查询都不转，每步把状态往回转一步。

    Args:
        q: 查询，第 t 行的位置为 t。
        k: 键，第 t 行的位置为 t。
        v: 值，不旋转。
        base: 底数 b（无量纲）。

    Returns:
        各步的输出，与 causal_rotary_linear_attention 相同；不出现绝对位置。

    Raises:
        ValueError: 形状对不上，或 d 为奇数。

    示例:
        >>> q = torch.zeros(2, 2)
        >>> rotating_state_linear_attention(q, q, torch.tensor([[4.0], [0.0]]))[0].tolist()
        [4.0]
    """
    if q.shape != k.shape:
        raise ValueError(f"q 与 k 的形状必须相同，得到 {tuple(q.shape)} 与 {tuple(k.shape)}")
    _check_shapes(k, k, v)
    one_step_back = -torch.ones(v.shape[-1], dtype=torch.long, device=k.device)  # (e,)
    q, k = positive_features(q), positive_features(k)
    state = k.new_zeros(*k.shape[:-2], v.shape[-1], k.shape[-1])  # (*batch, e, d)
    normalizer = k.new_zeros(*k.shape[:-2], k.shape[-1])  # (*batch, d)
    outputs = []
    for t in range(k.shape[-2]):
        state = rotate_interleaved(state, one_step_back, base)
        state = state + v[..., t, :, None] * k[..., t, None, :]
        normalizer = normalizer + k[..., t, :]
        numerator = (state * q[..., t, None, :]).sum(-1)  # (*batch, e)
        denominator = (q[..., t, :] * normalizer).sum(-1, keepdim=True)  # (*batch, 1)
        outputs.append(numerator / denominator)
    return torch.stack(outputs, dim=-2)


def cosine_similarities(
    q: Float[Tensor, "*batch T d"],
    k: Float[Tensor, "*batch S d"],
    query_positions: Num[Tensor, " T"],
    key_positions: Num[Tensor, " S"],
    base: float = 10_000.0,
) -> Float[Tensor, "*batch T S"]:
    r"""余弦核：1 加上旋转后单位向量的内积，落在 [0, 2] 之内。

    Args:
        q: 查询，每行非零。
        k: 键，每行非零。
        query_positions: 查询的位置 i（步）。
        key_positions: 键的位置 j（步）。
        base: 底数 b（无量纲）。

    Returns:
        各查询与各键的相似度；拿它作权重，除以行和便是概率。

    Raises:
        ValueError: 形状对不上，d 为奇数，或某行为零向量。

    出处:
        苏剑林 2021，《Transformer升级之路：2、博采众长的旋转式位置编码》，线性场景一节。

    示例:
        >>> q, k = torch.tensor([[3.0, 0.0]]), torch.tensor([[-2.0, 0.0]])
        >>> cosine_similarities(q, k, torch.tensor([4]), torch.tensor([4])).tolist()
        [[0.0]]
    """
    _check_shapes(q, k, k)
    q_norm, k_norm = q.norm(dim=-1, keepdim=True), k.norm(dim=-1, keepdim=True)
    for name, norm in (("q", q_norm), ("k", k_norm)):
        if (norm == 0).any():
            raise ValueError(f"{name} 的每一行都必须非零，得到范数 {norm.squeeze(-1).tolist()}")
    unit_q = rotate_interleaved(q, query_positions, base) / q_norm
    unit_k = rotate_interleaved(k, key_positions, base) / k_norm
    return 1 + unit_q @ unit_k.mT


def _check_shapes(q: Tensor, k: Tensor, v: Tensor) -> None:
    """批次轴、q 与 k 的特征维数、k 与 v 的词元数须各自相等。"""
    same_batch = q.shape[:-2] == k.shape[:-2] == v.shape[:-2]
    if not same_batch or q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise ValueError(
            "q、k、v 的形状必须是 (*batch, T, d)、(*batch, S, d)、(*batch, S, e)，"
            f"得到 {tuple(q.shape)}、{tuple(k.shape)}、{tuple(v.shape)}"
        )
