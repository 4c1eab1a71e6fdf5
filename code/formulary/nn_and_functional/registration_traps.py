"""没有登记的参数：错例与改好的各一，登记与否只取决于赋给属性的是什么。"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from formulary.checks import require_count, require_floats


class UnregisteredScale(nn.Module):
    r"""错例：把普通的张量当作参数，模块不知道有它。

    Args:
        d: 特征维数。

    Raises:
        ValueError: d 不是正整数，或 x 的最后一轴不是 d。

    约定:
        requires_grad 让它能得到梯度，但登记与此无关。

    出处:
        PyTorch 2.13 文档 torch.nn.parameter.Parameter。

    示例:
        >>> list(UnregisteredScale(2).parameters())
        []
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        require_count("d", d)
        self.d = d
        self.scale = torch.ones(d, requires_grad=True)
        self.center = torch.zeros(d)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """减去中心，再逐个特征缩放。"""
        require_floats("x", x, "...", self.d)
        return (x - self.center) * self.scale


class RegisteredScale(nn.Module):
    r"""改好的：要训练的包成 nn.Parameter，不训练但属于状态的登记成缓冲区。

    Args:
        d: 特征维数。

    Raises:
        ValueError: d 不是正整数，或 x 的最后一轴不是 d。

    约定:
        PyTorch 2.13 里 self.center = nn.Buffer(…) 与 register_buffer 等效。

    出处:
        PyTorch 2.13 文档 torch.nn.Module.register_buffer。

    示例:
        >>> list(RegisteredScale(2).state_dict())
        ['scale', 'center']
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        require_count("d", d)
        self.d = d
        self.scale = nn.Parameter(torch.ones(d))
        self.register_buffer("center", torch.zeros(d))

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """减去中心，再逐个特征缩放。"""
        require_floats("x", x, "...", self.d)
        return (x - self.center) * self.scale


class ListedLayers(nn.Module):
    r"""错例：把各层放进 Python 列表，它们不成为子模块。

    Args:
        widths: 依次的宽度，至少两个。

    Raises:
        ValueError: widths 不到两个，或有不是正整数的宽度。

    约定:
        前向的计算与改好的相同，看输出看不出差别。

    出处:
        PyTorch 2.13 文档 torch.nn.ModuleList。

    示例:
        >>> list(ListedLayers([2, 3, 1]).state_dict())
        []
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        if len(widths) < 2:
            raise ValueError(f"widths 至少要有两个宽度，得到 {list(widths)}")
        for width in widths:
            require_count("widths 的每一项", width)
        self.layers = [nn.Linear(a, b) for a, b in pairwise(widths)]

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """逐层前向，层间用 tanh。"""
        require_floats("x", x, "...", self.layers[0].in_features)
        for layer in self.layers[:-1]:
            x = torch.tanh(layer(x))
        return self.layers[-1](x)


class RegisteredLayers(ListedLayers):
    r"""改好的：用 nn.ModuleList 装各层。

    Args:
        widths: 依次的宽度，至少两个。

    Raises:
        ValueError: widths 不到两个，或有不是正整数的宽度。

    约定:
        字典用 nn.ModuleDict，参数的列表用 nn.ParameterList。

    出处:
        PyTorch 2.13 文档 torch.nn.ModuleList。

    示例:
        >>> list(RegisteredLayers([2, 3, 1]).state_dict())
        ['layers.0.weight', 'layers.0.bias', 'layers.1.weight', 'layers.1.bias']
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__(widths)
        self.layers = nn.ModuleList(self.layers)
