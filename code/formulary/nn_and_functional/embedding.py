"""嵌入：独热向量乘以表就是取行，反向是按行号把梯度加回去。"""

from jaxtyping import Float, Int
from torch import Tensor

from formulary.checks import require_count, require_floats, require_indices


def embedding(
    indices: Int[Tensor, "*batch"], table: Float[Tensor, "V d"]
) -> Float[Tensor, "*batch d"]:
    r"""嵌入：取出 table 的第 i 行，等于独热向量 e_i 乘以表。

    Args:
        indices: 行号，整数，在 [0, V) 里。
        table: 嵌入表 $E$，一行一个词元的向量。

    Returns:
        各行号对应的向量，末尾多一轴 d。

    Raises:
        ValueError: indices 不是整数或越界，table 不是二维浮点张量。

    约定:
        行号从 0 起；负数不作倒数的下标用。

    出处:
        PyTorch 2.13 文档 torch.nn.functional.embedding。

    示例:
        >>> embedding(torch.tensor([2, 0]), torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]))
        tensor([[4., 5.],
                [0., 1.]])
    """
    require_floats("table", table, "V", "d")
    require_indices("indices", indices, len(table), "...")
    return table[indices]


def embedding_gradient(
    indices: Int[Tensor, "*batch"],
    output_gradient: Float[Tensor, "*batch d"],
    vocabulary_size: int,
    padding_index: int | None = None,
) -> Float[Tensor, "V d"]:
    r"""嵌入表的梯度：第 v 行是所有取到 v 的位置的输出梯度之和。

    Args:
        indices: 前向时的行号。
        output_gradient: 损失对输出的梯度，末尾比 indices 多一轴 d。
        vocabulary_size: 表的行数 $V$（行）。
        padding_index: 这一行的梯度置零；不给就没有这样的行。

    Returns:
        损失对表的梯度，没有取到的行恰为零。

    Raises:
        ValueError: 行号越界，或形状对不上。

    约定:
        求和，不除以出现的次数，即 scale_grad_by_freq=False。

    出处:
        由链式法则直接得出；padding_idx 的含义见 PyTorch 2.13 文档 torch.nn.Embedding。

    示例:
        >>> embedding_gradient(torch.tensor([1, 1]), torch.tensor([[1.0], [2.0]]), 3)
        tensor([[0.],
                [3.],
                [0.]])
    """
    require_count("vocabulary_size", vocabulary_size)
    require_indices("indices", indices, vocabulary_size, "...")
    require_floats("output_gradient", output_gradient, *indices.shape, "d")
    gradient = output_gradient.new_zeros(vocabulary_size, output_gradient.shape[-1])
    gradient.index_add_(0, indices.flatten(), output_gradient.flatten(0, -2))
    if padding_index is not None:
        require_count("padding_index", padding_index, 0)
        if padding_index >= vocabulary_size:
            raise ValueError(f"padding_index 必须小于 {vocabulary_size}，得到 {padding_index}")
        gradient[padding_index] = 0
    return gradient
