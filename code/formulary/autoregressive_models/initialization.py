"""用传入的随机数发生器初始化模型的参数，不碰全局的种子。"""

import math

import torch
from torch import nn


def initialize_parameters(module: nn.Module, generator: torch.Generator | None) -> None:
    """各矩阵与卷积核取 U(−1/√扇入, 1/√扇入)，偏置取零；不给 generator 则什么也不做。

    约定:
        扇入是权重除第一轴之外各轴长度之积；一维的 weight（层归一化的增益）保持原值。

    示例:
        >>> layer = nn.Linear(4, 2)
        >>> initialize_parameters(layer, torch.Generator().manual_seed(0))
        >>> bool((layer.weight.abs() <= 0.5).all()), layer.bias.tolist()
        (True, [0.0, 0.0])
    """
    if generator is None:
        return
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim >= 2:
                bound = 1 / math.sqrt(parameter[0].numel())
                parameter.uniform_(-bound, bound, generator=generator)
            elif not name.endswith("weight"):
                parameter.zero_()
