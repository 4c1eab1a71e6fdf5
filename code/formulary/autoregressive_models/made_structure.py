"""自回归性质的两种检验：数路径（对一切权重成立）与看雅可比（对一个输入成立）。

约定:
    矩阵的行 i 是输出，列 j 是输入，都按列本来的次序；“j 先于 i”指 j 在 order 里排在 i 前面。
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from formulary.autoregressive_models.made import MADE
from formulary.checks import require_count, require_floats, require_permutation


def path_counts(masks: Sequence[Bool[Tensor, "..."]]) -> Int[Tensor, "n n"]:
    r"""从输入 j 到输出 i，沿着没有被掩掉的权重有几条路径。

    Args:
        masks: 各层的掩码，从输入层起；形状首尾相接，最后一层的行数等于第一层的列数。

    Returns:
        路径条数的矩阵（条），行是输出，列是输入；int64。

    Raises:
        ValueError: masks 为空、不是布尔矩阵，形状接不上，或有一对的条数不小于 2^63。

    出处:
        Germain et al. 2015, arXiv:1502.03509v2。

    示例:
        >>> path_counts([torch.tensor([[True, False]]), torch.tensor([[False], [True]])])
        tensor([[0, 0],
                [1, 0]])
    """
    if not masks:
        raise ValueError("masks 至少要有一层，得到空列表")
    for mask in masks:
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.ndim != 2:
            raise ValueError("masks 的每一项必须是布尔矩阵")
    shapes = [tuple(mask.shape) for mask in masks]
    linked = all(before[0] == after[1] for before, after in pairwise(shapes))
    if not linked or shapes[-1][0] != shapes[0][1]:
        raise ValueError(f"masks 的形状必须首尾相接，末层的行数等于首层的列数，得到 {shapes}")
    counts = masks[0].long()
    for mask in masks[1:]:
        if (mask.double() @ counts.double() >= 2.0**63).any():
            raise ValueError("masks 的路径太多，条数超出 int64 的范围")
        counts = mask.long() @ counts
    return counts


def reachable_probability(n: int, width: int, gap: int) -> float:
    r"""一个隐藏层、度数随机时，次序里相隔 gap 步的两个变量之间有路径的概率。

    Args:
        n: 变量的个数，至少 2（个）。
        width: 隐藏层的宽度（个）。
        gap: 输出在次序里比输入晚几步，1 到 n − 1（步）。

    Returns:
        至少有一个隐藏单元的度数落在两者之间的概率（无量纲）。

    Raises:
        ValueError: n、width 或 gap 不是正整数，或 gap 超过 n − 1。

    约定:
        各隐藏单元的度数独立，在 1 到 n − 1 里均匀，即 made_degrees 的第一层。

    出处:
        本站推导。

    示例:
        >>> round(reachable_probability(784, 500, 1), 3)
        0.472
    """
    require_count("n", n, least=2)
    require_count("width", width)
    require_count("gap", gap)
    if gap > n - 1:
        raise ValueError(f"gap 至多为 n − 1 = {n - 1}，得到 {gap}")
    return 1 - (1 - gap / (n - 1)) ** width


def allowed_pairs(order: Int[Tensor, " n"]) -> Bool[Tensor, "n n"]:
    r"""次序允许的依赖：第 i 行第 j 列为真，当且仅当 j 在次序里先于 i。

    Args:
        order: 生成的次序，0 到 n − 1 的一个排列。

    Returns:
        布尔矩阵；按 order 重排行列之后是严格下三角。

    Raises:
        ValueError: order 不是排列。

    示例:
        >>> allowed_pairs(torch.tensor([1, 0]))
        tensor([[False,  True],
                [False, False]])
    """
    require_permutation("order", order, order.numel() if isinstance(order, Tensor) else 0)
    position = order.argsort()
    return position[:, None] > position


def require_autoregressive(
    masks: Sequence[Bool[Tensor, "..."]], order: Int[Tensor, " n"]
) -> Int[Tensor, "n n"]:
    r"""要求每条路径都从次序里在前的输入通到在后的输出。

    Args:
        masks: 各层的掩码，从输入层起。
        order: 生成的次序。

    Returns:
        path_counts(masks)，非零处都是次序允许的依赖。

    Raises:
        ValueError: 有一条路径从 x_j 通到 logits_i 而 j 不先于 i；masks 或 order 的格式不对。

    示例:
        >>> masks = [torch.tensor([[True, False]]), torch.tensor([[False], [True]])]
        >>> require_autoregressive(masks, torch.tensor([0, 1]))
        tensor([[0, 0],
                [1, 0]])
    """
    counts = path_counts(masks)
    require_permutation("order", order, len(counts))
    leaks = (counts > 0) & ~allowed_pairs(order)
    if leaks.any():
        i, j = leaks.nonzero()[0].tolist()
        raise ValueError(
            f"masks 破坏了自回归性质：从输入 {j} 到输出 {i} 有 {counts[i, j]} 条路径，"
            f"而在次序 {order.tolist()} 里 {j} 不先于 {i}"
        )
    return counts


def dependency_pattern(
    model: Callable[[Float[Tensor, "B n"]], Float[Tensor, "B n"]], x: Float[Tensor, " n"]
) -> Bool[Tensor, "n n"]:
    r"""在一个输入处，哪些对数几率对哪些变量的偏导数不为零。

    Args:
        model: 任何返回 (B, n) 对数几率的模型，不限于 MADE。
        x: 一个输入，不必是二值的。

    Returns:
        布尔矩阵，第 i 行第 j 列为真当且仅当第 i 个输出对 x_j 的偏导数不为零。

    Raises:
        ValueError: x 不是一维的实浮点张量。

    约定:
        有路径的地方，偏导数也可能在这个 x 处恰好为零（ReLU 关着）；没有路径的地方一定为零。

    示例:
        >>> dependency_pattern(lambda x: x.cumsum(-1) - x, torch.zeros(2))
        tensor([[False, False],
                [ True, False]])
    """
    require_floats("x", x, "n")
    jacobian = torch.func.jacrev(lambda row: model(row[None])[0])(x)
    return jacobian.detach() != 0


def made_jacobian(model: MADE, x: Float[Tensor, " n"]) -> Float[Tensor, "n n"]:
    r"""ReLU 的 MADE 在 x 处的雅可比，按链式法则写成矩阵的连乘。

    Args:
        model: 激活函数是 torch.relu 的 MADE。
        x: 一个输入，不必是二值的。

    Returns:
        第 i 行第 j 列是第 i 个对数几率对 x_j 的偏导数（无量纲）。

    Raises:
        ValueError: x 的形状不是 (n,)，或激活函数不是 torch.relu。

    约定:
        ReLU 在 0 处的导数取 0，与 torch 相同。

    示例:
        >>> made_jacobian(MADE(3, [4]), torch.ones(3)).shape
        torch.Size([3, 3])
    """
    require_floats("x", x, model.n)
    if model.activation is not torch.relu:
        raise ValueError("model 的 activation 必须是 torch.relu")
    h, jacobian = x, None
    for layer, mask in enumerate(model.masks):
        weight = model.weights[layer] * mask
        jacobian = weight if jacobian is None else weight @ jacobian
        if layer < len(model.hidden):
            h = weight @ h + model.biases[layer]
            jacobian = (h > 0)[:, None] * jacobian
            h = torch.relu(h)
    return jacobian.detach()
