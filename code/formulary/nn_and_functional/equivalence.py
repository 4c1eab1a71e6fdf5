"""同一个运算的两种接口：模块自己拿着参数与设置，函数要调用者逐一交给它。

少了什么:
    只收常用的模块；循环网络、容器、填充等模块没有同名的函数，见文中的说明。
"""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

FUNCTIONAL_TWINS: dict[type[nn.Module], Callable[[Any, Tensor], Tensor]] = {
    nn.Linear: lambda m, x: F.linear(x, m.weight, m.bias),
    nn.Conv2d: lambda m, x: F.conv2d(
        x, m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups
    ),
    nn.Embedding: lambda m, x: F.embedding(x, m.weight, m.padding_idx),
    nn.LayerNorm: lambda m, x: F.layer_norm(x, m.normalized_shape, m.weight, m.bias, m.eps),
    nn.GroupNorm: lambda m, x: F.group_norm(x, m.num_groups, m.weight, m.bias, m.eps),
    nn.BatchNorm1d: lambda m, x: F.batch_norm(
        x, m.running_mean, m.running_var, m.weight, m.bias, m.training, m.momentum, m.eps
    ),
    nn.ReLU: lambda m, x: F.relu(x),
    nn.GELU: lambda m, x: F.gelu(x, approximate=m.approximate),
    nn.PReLU: lambda m, x: F.prelu(x, m.weight),
    nn.Softmax: lambda m, x: F.softmax(x, m.dim),
    nn.MaxPool2d: lambda m, x: F.max_pool2d(
        x, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode
    ),
    nn.AvgPool2d: lambda m, x: F.avg_pool2d(
        x, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad
    ),
    nn.Upsample: lambda m, x: F.interpolate(x, m.size, m.scale_factor, m.mode, m.align_corners),
    nn.Dropout: lambda m, x: F.dropout(x, m.p, m.training),
}


def functional_forward(
    module: nn.Module, x: Float[Tensor, "..."] | Int[Tensor, "..."]
) -> Float[Tensor, "..."]:
    r"""不调用模块，只从它身上取参数、缓冲区、设置与模式，改用对应的函数求输出。

    Args:
        module: FUNCTIONAL_TWINS 所列类型的模块；子类不算，它的 forward 可能改过。
        x: 模块的输入。

    Returns:
        与 module(x) 逐位相同的输出（无量纲）。

    Raises:
        ValueError: 模块不在表里，或用了表里没有转交的设置。

    约定:
        随机的函数用全局的随机数发生器，与模块一样；批归一化的函数就地更新运行统计，
        但不改 num_batches_tracked。

    出处:
        PyTorch 2.13 的文档与 torch.nn.modules 的源码。

    示例:
        >>> functional_forward(nn.Softmax(dim=0), torch.zeros(4))
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """
    twin = FUNCTIONAL_TWINS.get(type(module))
    if twin is None:
        names = ", ".join(kind.__name__ for kind in FUNCTIONAL_TWINS)
        raise ValueError(f"module 没有对应的函数，得到 {type(module).__name__}，可用的有 {names}")
    required = {  # 表里的函数当作前提的设置
        "padding_mode": "zeros",
        "max_norm": None,
        "scale_grad_by_freq": False,
        "sparse": False,
        "track_running_stats": True,
        "return_indices": False,
        "divisor_override": None,
        "recompute_scale_factor": None,
        "inplace": False,
    }
    for name, value in required.items():
        if getattr(module, name, value) != value:
            raise ValueError(f"module.{name} 必须是 {value!r}，得到 {getattr(module, name)!r}")
    if getattr(module, "momentum", 0.1) is None:
        raise ValueError("module.momentum 必须是数，得到 None：累积平均要由模块记住批数")
    return twin(module, x)
