"""MADE：给全连接网络的权重乘上掩码，一次前向就得到全部 n 个条件分布的对数几率。

约定:
    order[t] 是第 t 步生成的变量的下标，t 与下标都从 0 起；度数从 1 起，
    输入的度数是它在次序里的位置加一。输出总按列本来的次序排，不随 order 变。
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from formulary.checks import require_count, require_floats, require_permutation


def made_degrees(
    order: Int[Tensor, " n"], hidden: Sequence[int], generator: torch.Generator
) -> list[Int[Tensor, "..."]]:
    r"""随机地给每个单元一个度数：它最多能看到次序里的前几个变量。

    Args:
        order: 生成的次序，0 到 n − 1 的一个排列。
        hidden: 各隐藏层的宽度，可以为空。
        generator: 随机数发生器。

    Returns:
        长为 L + 1 的列表：输入的度数 1 到 n，然后是各隐藏层的度数（个，无量纲）。

    Raises:
        ValueError: order 不是排列，或 hidden 里有不是正整数的宽度。

    约定:
        隐藏单元的度数在 {上一层的最小度数, …, n − 1} 里均匀地取；n = 1 时只能取 1。

    出处:
        Germain et al. 2015, arXiv:1502.03509v2。

    示例:
        >>> degrees = made_degrees(torch.tensor([1, 2, 0]), [4], torch.Generator().manual_seed(0))
        >>> degrees[0]
        tensor([3, 1, 2])
    """
    degrees = [_input_degrees(order, hidden)]
    highest = max(1, len(order) - 1)
    for width in hidden:
        lowest = int(degrees[-1].min())
        degrees.append(torch.randint(lowest, highest + 1, (width,), generator=generator))
    return degrees


def made_degrees_even(order: Int[Tensor, " n"], hidden: Sequence[int]) -> list[Int[Tensor, "..."]]:
    r"""确定地给每个单元一个度数：每层的隐藏单元从 1 到 n − 1 均匀铺开。

    Args:
        order: 生成的次序，0 到 n − 1 的一个排列。
        hidden: 各隐藏层的宽度，可以为空。

    Returns:
        长为 L + 1 的列表，格式同 made_degrees；每层的度数从小到大。

    Raises:
        ValueError: order 不是排列，或 hidden 里有不是正整数的宽度。

    约定:
        第 k 个单元（k 从 0 起）的度数是 1 + ⌊k(n − 1) ÷ 宽度⌋。每层至少有 n − 1 个单元时，
        次序允许的每一对变量之间都有路径。

    出处:
        本站的选择；轮流取 1 + (k mod (n − 1)) 的写法见 bayesiains/nflows@c02277e。

    示例:
        >>> made_degrees_even(torch.tensor([1, 2, 0, 3]), [5])
        [tensor([3, 1, 2, 4]), tensor([1, 1, 2, 2, 3])]
    """
    degrees = [_input_degrees(order, hidden)]
    highest = max(1, len(order) - 1)
    return degrees + [1 + torch.arange(width) * highest // width for width in hidden]


def _input_degrees(order: Int[Tensor, " n"], hidden: Sequence[int]) -> Int[Tensor, " n"]:
    """检查参数，返回输入的度数：在次序里的位置加一。"""
    n = order.numel() if isinstance(order, Tensor) else 0
    require_count("order 的长度", n)
    require_permutation("order", order, n)
    for width in hidden:
        require_count("hidden 的每一项", width)
    return order.argsort() + 1


def made_masks(degrees: Sequence[Int[Tensor, "..."]]) -> list[Bool[Tensor, "..."]]:
    r"""由度数造掩码：隐藏层用 ≥ 比较，输出层用严格的 > 比较。

    Args:
        degrees: made_degrees 或 made_degrees_even 的结果，至少有输入的一项。

    Returns:
        L + 1 个掩码，行是后一层的单元，列是前一层的单元；为真的权重保留。

    Raises:
        ValueError: degrees 为空，或其中有不是一维整数张量的项。

    约定:
        没有隐藏层时，唯一的掩码把输入直接连到输出，也用严格的比较，模型就是 FVSBN。

    出处:
        Germain et al. 2015, arXiv:1502.03509v2。

    示例:
        >>> made_masks([torch.tensor([1, 2]), torch.tensor([1])])
        [tensor([[ True, False]]), tensor([[False],
                [ True]])]
    """
    if not degrees:
        raise ValueError("degrees 至少要有输入的一项，得到空列表")
    for layer in degrees:
        if not isinstance(layer, Tensor) or layer.dtype != torch.int64 or layer.ndim != 1:
            raise ValueError(f"degrees 的每一项必须是一维的 int64 张量，得到 {layer!r}")
    hidden = [after[:, None] >= before for before, after in pairwise(degrees)]
    return [*hidden, degrees[0][:, None] > degrees[-1]]


class MADE(nn.Module):
    r"""掩码自编码器：logits 的第 i 列只依赖次序里排在 x_i 前面的各列。

    Args:
        n: 变量的个数（个）。
        hidden: 各隐藏层的宽度；空的就是 FVSBN。
        order: 生成的次序，不给就是 0, 1, …, n − 1。
        generator: 抽度数与初始权重用；不给则度数均匀铺开、权重用全局的发生器。
        activation: 隐藏层的激活函数。

    Raises:
        ValueError: n 或 hidden 不是正整数，或 order 不是 0 到 n − 1 的排列。

    约定:
        掩码与权重相乘之后再进线性层，不改动权重本身，被掩掉的权重梯度恰为零。
        参数默认是 float32，初始值在 ±1/√(输入宽度) 之间均匀。

    出处:
        Germain et al. 2015, arXiv:1502.03509v2。

    示例:
        >>> model = MADE(3, [8], generator=torch.Generator().manual_seed(0))
        >>> model(torch.ones(2, 3)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        n: int,
        hidden: Sequence[int],
        order: Int[Tensor, " n"] | None = None,
        generator: torch.Generator | None = None,
        activation: Callable[[Tensor], Tensor] = torch.relu,
    ) -> None:
        super().__init__()
        require_count("n", n)
        self.n, self.hidden, self.activation = n, tuple(hidden), activation
        self.reorder(torch.arange(n) if order is None else order, generator)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        widths = (n, *hidden, n)
        for before, after in pairwise(widths):
            bound = before**-0.5
            weight, bias = torch.empty(after, before), torch.empty(after)
            self.weights.append(weight.uniform_(-bound, bound, generator=generator))
            self.biases.append(bias.uniform_(-bound, bound, generator=generator))

    def reorder(self, order: Int[Tensor, " n"], generator: torch.Generator | None = None) -> None:
        """换一个次序（与一组度数），权重不动；训练多次序的集成时用。"""
        require_permutation("order", order, self.n)
        if generator is None:
            degrees = made_degrees_even(order, self.hidden)
        else:
            degrees = made_degrees(order, self.hidden, generator)
        device = self.order.device if hasattr(self, "order") else None
        self.register_buffer("order", order.to(device))
        for layer, (degree, mask) in enumerate(zip(degrees, made_masks(degrees), strict=True)):
            self.register_buffer(f"degrees_{layer}", degree.to(device))
            self.register_buffer(f"mask_{layer}", mask.to(device))

    @property
    def degrees(self) -> list[Int[Tensor, "..."]]:
        """输入与各隐藏层的度数。"""
        return [getattr(self, f"degrees_{layer}") for layer in range(len(self.hidden) + 1)]

    @property
    def masks(self) -> list[Bool[Tensor, "..."]]:
        """各层的掩码。"""
        return [getattr(self, f"mask_{layer}") for layer in range(len(self.hidden) + 1)]

    def forward(self, x: Float[Tensor, "B n"]) -> Float[Tensor, "B n"]:
        """各列的对数几率，列的次序与 x 相同。"""
        require_floats("x", x, "B", self.n)
        h = x
        for layer, mask in enumerate(self.masks):
            h = F.linear(h, self.weights[layer] * mask, self.biases[layer])
            if layer < len(self.hidden):
                h = self.activation(h)
        return h
