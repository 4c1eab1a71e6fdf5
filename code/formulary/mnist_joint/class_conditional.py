"""比朴素贝叶斯强的类条件模型：每类一棵 Chow–Liu 树，与标签排在最前或最后的 FVSBN。

约定:
    三个模型都给出 (B, K) 的对数联合概率 log p(x, y = k)（nat）：对 k 作 softmax 是后验，
    作 logsumexp 是 log p(x)。像素的次序就是下标的次序。
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from formulary.checks import require_binary, require_count, require_distribution, require_floats
from formulary.mnist_joint.chow_liu import fit_tree, maximum_spanning_tree, tree_log_prob
from formulary.mnist_joint.mutual_information import mutual_information
from formulary.mnist_joint.naive_bayes import count_pixels


def fit_class_trees(
    x: Float[Tensor, "N n"], y: Int[Tensor, " N"], classes: int, smoothing: float = 1.0
) -> tuple[Int[Tensor, "K n"], Float[Tensor, "K n 2"], Float[Tensor, " K"]]:
    r"""每个类别各学一棵 Chow–Liu 树，参数全由计数得到。

    Args:
        x: 二值样本，一行一个。
        y: 标签，从 0 起。
        classes: 类别数 K。
        smoothing: 每格的虚拟样本数 α（无量纲），选树与填表都用它。

    Returns:
        各类的父结点数组、条件概率表与先验 π_k = N_k / N。

    Raises:
        ValueError: 条件同 count_pixels 与 pairwise_tables；有的类别没有样本。

    出处:
        Chow & Liu 1968; Friedman et al. 1997.

    示例:
        >>> x = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
        >>> parents, tables, prior = fit_class_trees(x, torch.tensor([0, 0, 1, 1]), classes=2)
        >>> tables[:, 1]
        tensor([[0.3333, 0.6667],
                [0.6667, 0.3333]])
    """
    _, class_counts = count_pixels(x, y, classes)
    if (class_counts == 0).any():
        raise ValueError(f"y 里没有第 {int(class_counts.argmin())} 类，学不出它的树")
    parents, tables = [], []
    for k in range(classes):
        members = x[y == k]
        parents.append(maximum_spanning_tree(mutual_information(members, smoothing)))
        tables.append(fit_tree(members, parents[-1], smoothing))
    return torch.stack(parents), torch.stack(tables), class_counts / len(x)


def class_tree_log_joint(
    x: Float[Tensor, "B n"],
    parents: Int[Tensor, "K n"],
    tables: Float[Tensor, "K n 2"],
    prior: Float[Tensor, " K"],
) -> Float[Tensor, "B K"]:
    r"""每类一棵树时的对数联合概率 log π_k + log p_k(x)。

    Args:
        x: 二值样本，一行一个。
        parents: 各类的父结点数组，根处为 −1。
        tables: 各类的条件概率表。
        prior: 类别先验 π。

    Returns:
        每个样本、每个类别的 log p(x, y = k)（nat）。

    Raises:
        ValueError: 条件同 tree_log_prob；prior 不是长 K 的分布，或三者的 K 不同。

    出处:
        Friedman et al. 1997.

    示例:
        >>> x, parents = torch.tensor([[1.0, 0.0]]), torch.tensor([[-1, 0], [-1, 0]])
        >>> tables = torch.tensor([[[0.5, 0.5], [0.1, 0.8]], [[0.2, 0.2], [0.5, 0.5]]])
        >>> class_tree_log_joint(x, parents, tables, torch.tensor([0.5, 0.5])).exp()
        tensor([[0.0500, 0.0500]])
    """
    require_floats("prior", prior, len(parents))
    require_distribution("prior", prior)
    require_floats("tables", tables, len(parents), "n", 2)
    pairs = zip(parents, tables, strict=True)
    return prior.log() + torch.stack([tree_log_prob(x, *pair) for pair in pairs], dim=-1)


class ClassConditionalFVSBN(nn.Module):
    r"""标签排在最前的 FVSBN：每个像素的对数几率是前面像素的线性函数，偏置随类别而变。

    Args:
        n: 像素数。
        classes: 类别数 K。
        dtype: 参数的浮点类型。

    Raises:
        ValueError: n 或 classes 不是正整数。

    约定:
        weight 只有严格下三角起作用；参数初始化为零，此时 p(x, y) 是均匀分布。
        权重不随类别而变，K 个类别共用一次矩阵乘法。

    出处:
        CS236 讲义（autoregressive）里的 FVSBN，次序改为 (y, x_1, …, x_n)。

    示例:
        >>> model = ClassConditionalFVSBN(3, classes=2, dtype=torch.float64)
        >>> model.log_joint(torch.ones(1, 3, dtype=torch.float64)).exp().tolist()
        [[0.0625, 0.0625]]
    """

    def __init__(self, n: int, classes: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        require_count("n", n)
        require_count("classes", classes)
        self.weight = nn.Parameter(torch.zeros(n, n, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(classes, n, dtype=dtype))
        self.prior_logits = nn.Parameter(torch.zeros(classes, dtype=dtype))

    def logits(self, x: Float[Tensor, "B n"]) -> Float[Tensor, "B K n"]:
        """每个类别下各像素的对数几率；第 i 个只依赖 y 与前 i 个像素。"""
        require_floats("x", x, "B", len(self.weight))
        return (x @ self.weight.tril(-1).T)[:, None] + self.bias

    def log_joint(self, x: Float[Tensor, "B n"]) -> Float[Tensor, "B K"]:
        """每个样本、每个类别的 log p(x, y = k)（nat）。"""
        logits = self.logits(x)
        require_binary("x", x)
        signs = 2 * x[:, None] - 1
        pixels = nn.functional.logsigmoid(signs * logits).sum(dim=-1)
        return self.prior_logits.log_softmax(dim=-1) + pixels


class LabelLastFVSBN(nn.Module):
    r"""标签排在最后的 FVSBN：先生成像素，最后由全部像素经 softmax 生成标签。

    Args:
        n: 像素数。
        classes: 类别数 K。
        dtype: 参数的浮点类型。

    Raises:
        ValueError: n 或 classes 不是正整数。

    约定:
        weight 只有严格下三角起作用；参数初始化为零，此时 p(x, y) 是均匀分布。
        像素与标签的条件概率各用各的参数，没有一个是共用的。

    出处:
        CS236 讲义（autoregressive）里的 FVSBN，次序为 (x_1, …, x_n, y)。

    示例:
        >>> model = LabelLastFVSBN(3, classes=2, dtype=torch.float64)
        >>> model.log_joint(torch.ones(1, 3, dtype=torch.float64)).exp().tolist()
        [[0.0625, 0.0625]]
    """

    def __init__(self, n: int, classes: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        require_count("n", n)
        require_count("classes", classes)
        self.weight = nn.Parameter(torch.zeros(n, n, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(n, dtype=dtype))
        self.label_weight = nn.Parameter(torch.zeros(classes, n, dtype=dtype))
        self.label_bias = nn.Parameter(torch.zeros(classes, dtype=dtype))

    def label_log_prob(self, x: Float[Tensor, "B n"]) -> Float[Tensor, "B K"]:
        """Log p(y = k | x)（nat）：一次前向，不经过 p(x)，就是 softmax 回归。"""
        require_floats("x", x, "B", len(self.weight))
        return (x @ self.label_weight.T + self.label_bias).log_softmax(dim=-1)

    def log_joint(self, x: Float[Tensor, "B n"]) -> Float[Tensor, "B K"]:
        """每个样本、每个类别的 log p(x, y = k) = log p(x) + log p(y = k | x)（nat）。"""
        labels = self.label_log_prob(x)
        require_binary("x", x)
        logits = x @ self.weight.tril(-1).T + self.bias
        pixels = nn.functional.logsigmoid((2 * x - 1) * logits).sum(dim=-1, keepdim=True)
        return pixels + labels


def label_posteriors(
    first: ClassConditionalFVSBN, last: LabelLastFVSBN, x: Float[Tensor, "B n"]
) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K"]]:
    r"""同一批图像，两种次序各自的类别后验。

    Args:
        first: 标签排在最前的模型，要把 K 个类别的 p(x, y = k) 都算出来再归一化。
        last: 标签排在最后的模型，最后一个条件概率本身就是后验。
        x: 二值样本，一行一个。

    Returns:
        两个模型的 p(y | x)，每行一个分布。

    Raises:
        ValueError: x 不是二值的，或列数与模型不合。

    出处:
        由链式法则直接得到。

    示例:
        >>> models = ClassConditionalFVSBN(3, classes=2), LabelLastFVSBN(3, classes=2)
        >>> label_posteriors(*models, torch.ones(1, 3))[1]
        tensor([[0.5000, 0.5000]], grad_fn=<ExpBackward0>)
    """
    require_binary("x", x)
    return first.log_joint(x).softmax(dim=-1), last.label_log_prob(x).exp()
