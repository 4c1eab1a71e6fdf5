"""Chow–Liu 树：每个像素至多一个父结点的贝叶斯网里，似然最大的那一个。

约定:
    树用父结点数组表示：parents[i] 是像素 i 的父结点，根的父结点写作 −1。
    条件概率表 tables[i, a] = p(x_i = 1 | 父结点 = a)；根没有父结点，两列相同。
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from formulary.checks import require_binary, require_floats, require_indices, require_probabilities
from formulary.mnist_joint.mutual_information import mutual_information, pairwise_tables


def maximum_spanning_tree(weights: Float[Tensor, "n n"], root: int = 0) -> Int[Tensor, " n"]:
    r"""权之和最大的生成树（Prim 算法），边都从根指向外。

    Args:
        weights: 对称的边权，如互信息（nat）；对角线不起作用。
        root: 根的编号，从 0 起。

    Returns:
        父结点数组，根处为 −1。换一个根，边不变，只是方向不同。

    Raises:
        ValueError: weights 不是方阵、不对称或有元素不是有限的数；root 不在范围里。

    约定:
        每步把离树最近（权最大）的点接上来；权相等时取编号小的点，先进树的父结点优先。
        共 n − 1 步，每步 O(n)。

    出处:
        Chow & Liu 1968; Prim 1957.

    示例:
        >>> weights = torch.tensor([[0.0, 1.0, 3.0], [1.0, 0.0, 2.0], [3.0, 2.0, 0.0]])
        >>> maximum_spanning_tree(weights)
        tensor([-1,  2,  0])
    """
    require_floats("weights", weights, "n", len(weights))
    if not weights.isfinite().all() or not torch.allclose(weights, weights.T):
        raise ValueError("weights 必须是对称的，而且都是有限的数")
    n = len(weights)
    if not 0 <= root < n:
        raise ValueError(f"root 必须在 [0, {n}) 里，得到 {root}")
    parents = torch.full((n,), root)
    parents[root] = -1
    best = weights[root].clone()  # 各点与树之间最大的边权
    outside = torch.ones(n, dtype=torch.bool)
    outside[root] = False
    for _ in range(n - 1):
        new = int(best.masked_fill(~outside, -torch.inf).argmax())
        outside[new] = False
        closer = outside & (weights[new] > best)
        best = torch.where(closer, weights[new], best)
        parents[closer] = new
    return parents


def require_forest(parents: Tensor, n: int) -> None:
    """要求 parents 是长 n 的父结点数组：元素在 [−1, n) 里，沿父结点走不会绕回来。"""
    require_indices("parents", parents + 1, n + 1, n)
    ancestors = parents
    for _ in range(n.bit_length()):  # 每次把步长加倍，最后不少于 n 步
        ancestors = torch.where(ancestors < 0, ancestors, ancestors[ancestors.clamp(min=0)])
    if (ancestors >= 0).any():
        raise ValueError(f"parents 里有环：从 {int((ancestors >= 0).nonzero()[0])} 出发走不到根")


def fit_tree(
    x: Float[Tensor, "N n"], parents: Int[Tensor, " n"], smoothing: float = 0.0
) -> Float[Tensor, "n 2"]:
    r"""给定树的结构，用计数求条件概率表。

    Args:
        x: 二值样本，一行一个。
        parents: 父结点数组，根处为 −1。
        smoothing: 每格的虚拟样本数 α（无量纲），不小于 0。

    Returns:
        p(x_i = 1 | 父结点 = a) = (N_a1 + α) / (N_a + 2α)；根的两列都是 (N_1 + 2α) / (N + 4α)。
        父结点从没取过 a、α 又是 0 时，这一格没有数据，记作 1/2。

    Raises:
        ValueError: 条件同 pairwise_tables；parents 不是长 n 的整数张量、越界或有环。

    出处:
        Chow & Liu 1968.

    示例:
        >>> x = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
        >>> fit_tree(x, torch.tensor([-1, 0]))
        tensor([[0.5000, 0.5000],
                [0.0000, 0.5000]])
    """
    joint = pairwise_tables(x, smoothing)
    n = x.shape[1]
    require_forest(parents, n)
    node = torch.arange(n)
    pair = joint[parents.clamp(min=0), node]  # 父结点的值在前：(n, 2, 2)
    totals = pair.sum(dim=-1)
    conditional = torch.where(totals > 0, pair[..., 1] / totals, 0.5)
    marginal = joint[node, node][:, 1, 1, None].expand(n, 2)
    return torch.where((parents < 0)[:, None], marginal, conditional)


def tree_log_prob(
    x: Float[Tensor, "B n"], parents: Int[Tensor, " n"], tables: Float[Tensor, "n 2"]
) -> Float[Tensor, " B"]:
    r"""树状贝叶斯网的对数概率：每个像素只看自己的父结点。

    Args:
        x: 二值样本，一行一个。
        parents: 父结点数组，根处为 −1。
        tables: tables[i, a] = p(x_i = 1 | 父结点 = a)；根只用第 0 列。

    Returns:
        每个样本的 log p(x)（nat）；概率为 0 的样本得 −inf。

    Raises:
        ValueError: x 不是二值的；parents 或 tables 形状不合；parents 有环；tables 不是概率。

    约定:
        几个根也行（森林）；有环的乘积不归一，所以不接受。每个样本查 n 次表。

    出处:
        Chow & Liu 1968.

    示例:
        >>> x, tables = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5], [0.1, 0.8]])
        >>> tree_log_prob(x, torch.tensor([-1, 0]), tables).exp()
        tensor([0.1000])
    """
    require_floats("x", x, "B", "n")
    require_binary("x", x)
    n = x.shape[1]
    require_forest(parents, n)
    require_floats("tables", tables, n, 2)
    require_probabilities("tables", tables)
    above = x[:, parents.clamp(min=0)]  # 父结点的值，(B, n)
    above = torch.where(parents < 0, 0.0, above)
    on = torch.where(above > 0, tables[:, 1], tables[:, 0])  # p(x_i = 1 | 父结点)
    return torch.where(x > 0, on, 1 - on).log().sum(dim=-1)


def tree_likelihood_lines(
    x: Float[Tensor, "N n"], parents: Int[Tensor, " n"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    r"""给定结构、表取计数时，训练数据的平均对数似然：三种写法，三者相等。

    Args:
        x: 训练样本，一行一个。
        parents: 父结点数组，根处为 −1。

    Returns:
        每样本的平均对数似然；负的条件熵之和；边上的互信息之和减去熵之和（nat）。

    Raises:
        ValueError: 条件同 fit_tree。

    约定:
        不平滑。第三行里只有互信息之和与树有关，所以最好的树就是互信息的最大生成树。

    出处:
        Chow & Liu 1968.

    示例:
        >>> x = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
        >>> [round(line.item(), 4) for line in tree_likelihood_lines(x, torch.tensor([-1, 0]))]
        [-1.0397, -1.0397, -1.0397]
    """
    tables = fit_tree(x, parents)
    joint, information = pairwise_tables(x), mutual_information(x)
    node, inner = torch.arange(len(parents)), parents >= 0
    weights = joint[parents.clamp(min=0), node].sum(dim=-1)  # p(父结点 = a)，(n, 2)
    entropies = -(torch.xlogy(tables, tables) + torch.xlogy(1 - tables, 1 - tables))
    edges = information[node, parents.clamp(min=0)] * inner
    return (
        tree_log_prob(x, parents, tables).mean(),
        -(weights * entropies).sum(),
        edges.sum() - information.diagonal().sum(),
    )
