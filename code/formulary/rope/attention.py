"""RoPE 进注意力：先旋转查询与键，再照常算分数；以及两种布局之间的权重转换。

约定:
    m 是查询的位置，n 是键的位置；旋转用交错布局；值不旋转。
    权重矩阵的形状是 (输出, 输入)，与 torch.nn.Linear 相同，各个头依次排在输出维上。
"""

import math

from jaxtyping import Float, Num
from torch import Tensor

from formulary.rope.derivation import rotation_matrix
from formulary.rope.rotation import interleaved_to_half_split, rotate_interleaved


def encode_queries_keys(
    q: Float[Tensor, "*batch T d"],
    k: Float[Tensor, "*batch S d"],
    query_positions: Num[Tensor, " T"],
    key_positions: Num[Tensor, " S"],
    base: float = 10_000.0,
) -> tuple[Float[Tensor, "*batch T d"], Float[Tensor, "*batch S d"]]:
    r"""按各自的绝对位置编码查询与键，两者用同一个 f。

    Args:
        q: 查询，每行一个词元。
        k: 键，每行一个词元。
        query_positions: 各查询的位置 m（步）。
        key_positions: 各键的位置 n（步）。
        base: 底数 b（无量纲）。

    Returns:
        (f(q, m), f(k, n))，形状与输入相同。

    Raises:
        ValueError: 张量、位置或 base 不合要求，条件同 rotate_interleaved。

    出处:
        苏剑林 2021，kexue.fm/archives/8265，式 (1)。

    示例:
        >>> q = k = torch.tensor([[1.0, 0.0]])
        >>> encode_queries_keys(q, k, torch.tensor([0]), torch.tensor([1]))
        (tensor([[1., 0.]]), tensor([[0.5403, 0.8415]]))
    """
    return (
        rotate_interleaved(q, query_positions, base),
        rotate_interleaved(k, key_positions, base),
    )


def rope_scores(
    q: Float[Tensor, "*batch T d"],
    k: Float[Tensor, "*batch S d"],
    query_positions: Num[Tensor, " T"],
    key_positions: Num[Tensor, " S"],
    base: float = 10_000.0,
) -> Float[Tensor, "*batch T S"]:
    r"""编码后的内积 ⟨f(q, m), f(k, n)⟩，只依赖 q、k 与 m - n。

    Args:
        q: 查询，每行一个词元。
        k: 键，每行一个词元。
        query_positions: 各查询的位置 m（步）。
        key_positions: 各键的位置 n（步）。
        base: 底数 b（无量纲）。

    Returns:
        每对查询与键的内积，没有除以 √d。

    Raises:
        ValueError: 张量、位置或 base 不合要求，条件同 rotate_interleaved。

    出处:
        Su et al. 2021, arXiv:2104.09864v5, 式 (11)。

    示例:
        >>> q = k = torch.tensor([[1.0, 0.0]])
        >>> rope_scores(q, k, torch.tensor([7]), torch.tensor([6]))
        tensor([[0.5403]])
    """
    encoded_q, encoded_k = encode_queries_keys(q, k, query_positions, key_positions, base)
    return encoded_q @ encoded_k.transpose(-2, -1)


def relative_forms(
    q: Float[Tensor, " d"],
    k: Float[Tensor, " d"],
    query_position: float,
    key_position: float,
    base: float = 10_000.0,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    r"""相对位置恒等式的三个式子：各自旋转、两个矩阵相乘、一个相对旋转。

    Args:
        q: 一个查询。
        k: 一个键。
        query_position: 查询的位置 m（步）。
        key_position: 键的位置 n（步）。
        base: 底数 b（无量纲）。

    Returns:
        三个相等的标量，依次为恒等式的左、中、右。

    Raises:
        ValueError: q 与 k 不是等长的向量，d 不是正偶数，或 base 不是有限的正数。

    约定:
        相对旋转的下标是 n - m（键减查询）。

    出处:
        Su et al. 2021, arXiv:2104.09864v5, 式 (16)。

    示例:
        >>> q = k = torch.tensor([1.0, 0.0])
        >>> relative_forms(q, k, query_position=2.0, key_position=1.0)
        (tensor(0.5403), tensor(0.5403), tensor(0.5403))
    """
    if q.ndim != 1 or q.shape != k.shape:
        raise ValueError(f"q 与 k 必须是等长的向量，得到形状 {tuple(q.shape)} 与 {tuple(k.shape)}")
    d, dtype = len(q), q.dtype
    at_query = rotation_matrix(query_position, d, base, dtype)
    at_key = rotation_matrix(key_position, d, base, dtype)
    relative = rotation_matrix(key_position - query_position, d, base, dtype)
    return (at_query @ q) @ (at_key @ k), q @ (at_query.T @ at_key) @ k, q @ relative @ k


def projected_scores(
    x: Float[Tensor, "*batch T D"],
    w_q: Float[Tensor, "N D"],
    w_k: Float[Tensor, "N D"],
    heads: int,
    positions: Num[Tensor, " T"],
    base: float = 10_000.0,
) -> Float[Tensor, "*batch H T T"]:
    r"""多头自注意力的分数 a_mn：投影成查询与键，旋转，内积除以 √d。

    Args:
        x: 输入，每行一个词元。
        w_q: 查询的投影，输出维是 heads·d。
        w_k: 键的投影，形状同 w_q。
        heads: 头数。
        positions: 各词元的位置（步）。
        base: 底数 b（无量纲）。

    Returns:
        未经 softmax 的分数，行是查询，列是键。

    Raises:
        ValueError: w_q 的行数不能被 heads 整除，w_k 与 w_q 形状不同，
            或每个头的维数、位置、base 不合要求。

    出处:
        Su et al. 2021, arXiv:2104.09864v5, 式 (16)。

    示例:
        >>> x, w = torch.eye(2), torch.eye(2)
        >>> projected_scores(x, w, w, heads=1, positions=torch.arange(2))
        tensor([[[ 0.7071, -0.5950],
                 [-0.5950,  0.7071]]])
    """
    if heads < 1 or w_q.shape[0] % heads:
        raise ValueError(f"heads 必须整除 w_q 的行数 {w_q.shape[0]}，得到 heads={heads}")
    if w_k.shape != w_q.shape:
        raise ValueError(
            f"w_k 的形状必须与 w_q 的 {tuple(w_q.shape)} 相同，得到 {tuple(w_k.shape)}"
        )
    q = (x @ w_q.T).unflatten(-1, (heads, -1)).transpose(-3, -2)  # (*batch, H, T, d)
    k = (x @ w_k.T).unflatten(-1, (heads, -1)).transpose(-3, -2)
    return rope_scores(q, k, positions, positions, base) / math.sqrt(q.shape[-1])


def rope_attention(
    x: Float[Tensor, "*batch T D"],
    w_q: Float[Tensor, "N D"],
    w_k: Float[Tensor, "N D"],
    w_v: Float[Tensor, "N D"],
    heads: int,
    positions: Num[Tensor, " T"],
    base: float = 10_000.0,
) -> Float[Tensor, "*batch T N"]:
    r"""带 RoPE 的多头自注意力：softmax(a_mn) 加权没有旋转的值，各头拼接。

    Args:
        x: 输入，每行一个词元。
        w_q: 查询的投影，输出维是 heads·d。
        w_k: 键的投影，形状同 w_q。
        w_v: 值的投影，形状同 w_q。
        heads: 头数。
        positions: 各词元的位置（步）。
        base: 底数 b（无量纲）。

    Returns:
        各头的输出依次拼接，尚未经过输出投影；没有掩码。

    Raises:
        ValueError: w_v 与 w_q 形状不同，或其余参数不合 projected_scores 的要求。

    出处:
        Su et al. 2021, arXiv:2104.09864v5, 式 (2) 与式 (16)。

    示例:
        >>> x, w = torch.eye(2), torch.zeros(2, 2)
        >>> rope_attention(x, w, w, torch.eye(2), heads=1, positions=torch.arange(2))
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])
    """
    if w_v.shape != w_q.shape:
        raise ValueError(
            f"w_v 的形状必须与 w_q 的 {tuple(w_q.shape)} 相同，得到 {tuple(w_v.shape)}"
        )
    weights = projected_scores(x, w_q, w_k, heads, positions, base).softmax(dim=-1)
    v = (x @ w_v.T).unflatten(-1, (heads, -1)).transpose(-3, -2)  # (*batch, H, T, d)
    return (weights @ v).transpose(-3, -2).flatten(-2)  # (*batch, T, N)


def permute_query_key_rows(w: Float[Tensor, "N D"], heads: int) -> Float[Tensor, "N D"]:
    r"""把配合交错布局训练的 W_q 或 W_k 变成配合对半布局的：每个头内部置换各行。

    Args:
        w: 查询或键的投影，行数是 heads·d；值与输出的投影不必变。
        heads: w 的头数；分组查询注意力里键的头数较少。

    Returns:
        行置换后的权重，形状不变。

    Raises:
        ValueError: w 的行数不能被 heads 整除，或每个头的维数不是偶数。

    约定:
        偏置向量若存在，要作同样的置换。

    出处:
        Hugging Face transformers, `convert_llama_weights_to_hf.py` 中的 `permute`。

    示例:
        >>> permute_query_key_rows(torch.arange(8.0)[:, None], heads=2).T
        tensor([[0., 2., 1., 3., 4., 6., 5., 7.]])
    """
    if heads < 1 or w.shape[0] % heads:
        raise ValueError(f"heads 必须整除 w 的行数 {w.shape[0]}，得到 heads={heads}")
    by_head = w.unflatten(0, (heads, -1))  # (H, d, D)
    return by_head[:, interleaved_to_half_split(by_head.shape[1]).to(w.device)].flatten(0, 1)
