"""手写引擎的运算：每个运算给出值，以及用本引擎自己的运算写成的 VJP。

约定:
    VJP 的参数依次是 g（结果的伴随）、y（结果）与各个自变量。因为 VJP 也由这些运算写成，
    把它记录下来就能再求导，任意阶都一样。
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from formulary.autograd.broadcasting import unbroadcast
from formulary.autograd.tape import Node, gradients, topological_order
from formulary.checks import require_indices


class Variable(Node):
    r"""可以求导的张量：Node 加上运算，写法与 torch.Tensor 相同。

    Args:
        data: 值，不带 requires_grad 的实浮点张量。
        requires_grad: 是否要对它求导。

    Raises:
        ValueError: data 不合要求；运算的形状不能广播，类型不同，或另一方不是 Variable 与数。

    约定:
        形状按 PyTorch 的规则广播。relu 在 0 处的导数取 0。

    出处:
        各运算的 VJP 见 Griewank & Walther 2008；写法仿 torch.Tensor。

    示例:
        >>> a = Variable(torch.tensor(2.0), requires_grad=True)
        >>> (a * a * 3).backward()
        >>> a.grad.data
        tensor(12.)
    """

    def _operand(self, other: "Variable | int | float", broadcast: bool = True) -> "Variable":
        """另一个自变量：数变成常数，并检查类型与形状。"""
        if isinstance(other, int | float):
            return type(self)(torch.tensor(other, dtype=self.data.dtype))
        if not isinstance(other, Variable):
            raise ValueError(f"另一方必须是 Variable 或数，得到 {type(other).__name__}")
        if other.data.dtype != self.data.dtype:
            raise ValueError(f"两个值的类型必须相同，得到 {self.data.dtype} 与 {other.data.dtype}")
        if broadcast and self.shape != other.shape:
            _broadcast_shape(self.shape, other.shape)
        return other

    def backward(
        self,
        seed: "Variable | None" = None,
        *,
        retain_graph: bool | None = None,
        create_graph: bool = False,
    ) -> None:
        """求对全部叶子的梯度，加到各自的 grad 上；参数同 gradients。"""
        leaves = [node for node in topological_order(self) if node.is_leaf]
        found = gradients(self, leaves, seed, retain_graph=retain_graph, create_graph=create_graph)
        for leaf, gradient in zip(leaves, found, strict=True):
            leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient

    def __add__(self, other: "Variable | int | float") -> "Variable":
        other = self._operand(other)
        return self.record(
            self.data + other.data,
            (self, other),
            (
                lambda g, y, a, b: g.sum_to_size(a.shape),
                lambda g, y, a, b: g.sum_to_size(b.shape),
            ),
        )

    def __mul__(self, other: "Variable | int | float") -> "Variable":
        other = self._operand(other)
        return self.record(
            self.data * other.data,
            (self, other),
            (
                lambda g, y, a, b: (g * b).sum_to_size(a.shape),
                lambda g, y, a, b: (g * a).sum_to_size(b.shape),
            ),
        )

    def __pow__(self, exponent: int | float) -> "Variable":
        if not isinstance(exponent, int | float):
            raise ValueError(f"指数必须是数，得到 {type(exponent).__name__}")
        return self.record(
            self.data**exponent,
            (self,),
            # 指数为 0 时导数恒为零，写成 0 · x^(−1) 会在 x = 0 处得到 NaN
            (lambda g, y, x: g * exponent * x ** (exponent - 1) if exponent else g * 0.0,),
        )

    def __matmul__(self, other: "Variable") -> "Variable":
        other = self._operand(other, broadcast=False)
        _require_multipliable(self.shape, other.shape)
        return self.record(
            self.data @ other.data,
            (self, other),
            (
                lambda g, y, a, b: (g @ b.mT).sum_to_size(a.shape),
                lambda g, y, a, b: (a.mT @ g).sum_to_size(b.shape),
            ),
        )

    def exp(self) -> "Variable":
        return self.record(self.data.exp(), (self,), (lambda g, y, x: g * y,))

    def log(self) -> "Variable":
        return self.record(self.data.log(), (self,), (lambda g, y, x: g / x,))

    def tanh(self) -> "Variable":
        return self.record(self.data.tanh(), (self,), (lambda g, y, x: g * (1 - y * y),))

    def sigmoid(self) -> "Variable":
        return self.record(self.data.sigmoid(), (self,), (lambda g, y, x: g * y * (1 - y),))

    def relu(self) -> "Variable":
        on = type(self)((self.data > 0).to(self.data.dtype))
        return self.record(self.data.relu(), (self,), (lambda g, y, x: g * on,))

    def sum_to_size(self, shape: Sequence[int]) -> "Variable":
        """沿广播出来的轴求和，还原成 shape；与 expand 互为转置。"""
        if tuple(shape) == self.shape:
            return self
        total = unbroadcast(self.data, shape)
        return self.record(total, (self,), (lambda g, y, x: g.expand(x.shape),))

    def expand(self, shape: Sequence[int]) -> "Variable":
        """广播成 shape。"""
        if _broadcast_shape(self.shape, shape) != tuple(shape):
            raise ValueError(f"形状 {tuple(self.shape)} 不能广播成 {tuple(shape)}")
        wide = self.data.expand(tuple(shape))
        return self.record(wide, (self,), (lambda g, y, x: g.sum_to_size(x.shape),))

    def reshape(self, shape: Sequence[int]) -> "Variable":
        """元素不变，换一个形状。"""
        if self.data.numel() != torch.Size(shape).numel():
            raise ValueError(f"形状 {tuple(self.shape)} 不能改成 {tuple(shape)}：元素个数不同")
        data = self.data.reshape(tuple(shape))
        return self.record(data, (self,), (lambda g, y, x: g.reshape(x.shape),))

    @property
    def mT(self) -> "Variable":  # noqa: N802 - torch 的名字
        """转置最后两轴。"""
        if len(self.shape) < 2:
            raise ValueError(f"转置至少要有两轴，得到形状 {tuple(self.shape)}")
        return self.record(self.data.mT, (self,), (lambda g, y, x: g.mT,))

    def sum(self, dim: int | None = None, keepdim: bool = False) -> "Variable":
        """沿一个轴求和，不给 dim 则全部加起来。"""
        axes = range(len(self.shape))
        if dim is not None and dim not in range(-len(axes), len(axes)):
            raise ValueError(f"dim 必须在 [{-len(axes)}, {len(axes)}) 里，得到 {dim}")
        summed = axes if dim is None else (axes[dim],)
        total = self.sum_to_size([1 if axis in summed else self.shape[axis] for axis in axes])
        return total if keepdim else total.reshape([self.shape[a] for a in axes if a not in summed])

    def mean(self, dim: int | None = None, keepdim: bool = False) -> "Variable":
        """沿一个轴取平均，不给 dim 则对全部元素取平均。"""
        total = self.sum(dim, keepdim)
        return total * (total.data.numel() / self.data.numel())

    def __neg__(self) -> "Variable":
        return self * -1.0

    def __sub__(self, other: "Variable | int | float") -> "Variable":
        return self + -self._operand(other)

    def __truediv__(self, other: "Variable | int | float") -> "Variable":
        return self * self._operand(other) ** -1

    def __rsub__(self, other: int | float) -> "Variable":
        return -self + other

    def __rtruediv__(self, other: int | float) -> "Variable":
        return self**-1 * other

    __radd__, __rmul__ = __add__, __mul__


def log_softmax(logits: Variable) -> Variable:
    r"""最后一轴的对数归一化概率，先减去最大值。

    Args:
        logits: 对数几率 $\boldsymbol z$，最后一轴是类别。

    Returns:
        $\log\operatorname{softmax}(\boldsymbol z)$，形状不变（nat）。

    Raises:
        ValueError: logits 没有类别这一轴。

    约定:
        最大值当作常数；结果与减去的数无关，所以各阶导数都不受影响。

    出处:
        通行写法，见 torch.nn.functional.log_softmax。

    示例:
        >>> log_softmax(Variable(torch.tensor([1000.0, 1000.0]))).data
        tensor([-0.6931, -0.6931])
    """
    if not logits.shape or logits.shape[-1] == 0:
        raise ValueError(f"logits 必须有类别这一轴，得到形状 {tuple(logits.shape)}")
    shifted = logits - Variable(logits.data.amax(-1, keepdim=True))
    return shifted - shifted.exp().sum(-1, keepdim=True).log()


def cross_entropy(logits: Variable, labels: Int[Tensor, " B"]) -> Variable:
    r"""一批样本的平均交叉熵。

    Args:
        logits: 对数几率，形状 (B, K)。
        labels: 类别，从 0 起的整数。

    Returns:
        标量：各样本 $-\log\operatorname{softmax}(\boldsymbol z)_y$ 的平均（nat）。

    Raises:
        ValueError: logits 不是二维，或 labels 的个数、类型、范围不对。

    约定:
        对样本取平均，同 torch.nn.functional.cross_entropy 的默认。

    出处:
        通行写法，见 torch.nn.functional.cross_entropy。

    示例:
        >>> cross_entropy(Variable(torch.zeros(2, 4)), torch.tensor([0, 3])).data
        tensor(1.3863)
    """
    if len(logits.shape) != 2 or 0 in logits.shape:
        raise ValueError(f"logits 的形状必须是 (B, K)，得到 {tuple(logits.shape)}")
    require_indices("labels", labels, logits.shape[1], logits.shape[0])
    chosen = torch.zeros_like(logits.data).scatter(1, labels[:, None].long(), 1.0)
    return -(log_softmax(logits) * Variable(chosen)).sum() / len(labels)


def _broadcast_shape(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
    """两个形状广播之后的形状。"""
    try:
        return tuple(torch.broadcast_shapes(tuple(first), tuple(second)))
    except RuntimeError:
        message = (
            f"形状 {tuple(first)} 与 {tuple(second)} 不能广播：从右对齐，每轴必须相等或有一个是 1"
        )
        raise ValueError(message) from None


def _require_multipliable(first: torch.Size, second: torch.Size) -> None:
    """要求两个形状能作矩阵乘法：都至少二维，内侧的长度相等，前导轴能广播。"""
    if min(len(first), len(second)) < 2 or first[-1] != second[-2]:
        raise ValueError(
            f"矩阵乘法要求形状 (…, r, n) 与 (…, n, c)，得到 {tuple(first)} 与 {tuple(second)}"
        )
    _broadcast_shape(first[:-2], second[:-2])
