"""批归一化的两个陷阱：不带运行统计的函数，与被 train() 解冻的主干；各配上改好的一个。"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from formulary.checks import require_count, require_floats


class StatelessBatchNorm(nn.Module):
    r"""错例：F.batch_norm 不给运行统计，评估时也用这一批的统计。

    Args:
        d: 特征维数。

    Raises:
        ValueError: d 不是正整数，或 x 的最后一轴不是 d。

    约定:
        缩放与平移照常登记，state_dict 里没有运行统计。

    出处:
        PyTorch 2.13 文档 torch.nn.functional.batch_norm。

    示例:
        >>> layer = StatelessBatchNorm(1).eval()
        >>> layer(torch.tensor([[1.0], [3.0]])).round().tolist()
        [[-1.0], [1.0]]
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        require_count("d", d)
        self.d = d
        self.weight = nn.Parameter(torch.ones(d))
        self.bias = nn.Parameter(torch.zeros(d))

    def forward(self, x: Float[Tensor, "B d"]) -> Float[Tensor, "B d"]:
        """总用这一批的均值与方差。"""
        require_floats("x", x, "B", self.d)
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True)


class TrackingBatchNorm(StatelessBatchNorm):
    r"""改好的：运行统计登记成缓冲区，连同模式一起交给函数。

    Args:
        d: 特征维数。

    Raises:
        ValueError: d 不是正整数，或 x 的最后一轴不是 d。

    约定:
        momentum = 0.1、eps = 1e-5，与 nn.BatchNorm1d 的默认值相同。

    出处:
        PyTorch 2.13，torch/nn/modules/batchnorm.py。

    示例:
        >>> layer = TrackingBatchNorm(1).eval()
        >>> layer(torch.tensor([[1.0], [3.0]])).round().tolist()
        [[1.0], [3.0]]
    """

    def __init__(self, d: int) -> None:
        super().__init__(d)
        self.register_buffer("running_mean", torch.zeros(d))
        self.register_buffer("running_var", torch.ones(d))

    def forward(self, x: Float[Tensor, "B d"]) -> Float[Tensor, "B d"]:
        """训练时用这一批的统计并更新缓冲区，评估时用缓冲区。"""
        require_floats("x", x, "B", self.d)
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(x, mean, var, self.weight, self.bias, training=self.training)


class ThawingBackbone(nn.Module):
    r"""错例：构造时把主干冻结，外面一调用 train() 就解冻了它的模式。

    Args:
        backbone: 不再训练的模块。
        head: 要训练的模块。

    Raises:
        ValueError: backbone 或 head 不是 nn.Module。

    约定:
        主干的参数不要求梯度，但批归一化的运行统计与随机失活只看模式。

    出处:
        本站。

    示例:
        >>> model = ThawingBackbone(nn.BatchNorm1d(2), nn.Linear(2, 1)).train()
        >>> model.backbone.training
        True
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        for name, part in (("backbone", backbone), ("head", head)):
            if not isinstance(part, nn.Module):
                raise ValueError(f"{name} 必须是 nn.Module，得到 {type(part).__name__}")
        self.backbone = backbone.requires_grad_(False).eval()
        self.head = head

    def forward(self, x: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        """主干，然后是头。"""
        return self.head(self.backbone(x))


class FrozenBackbone(ThawingBackbone):
    r"""改好的：改写 train()，每次都把主干拨回评估模式。

    Args:
        backbone: 不再训练的模块。
        head: 要训练的模块。

    Raises:
        ValueError: backbone 或 head 不是 nn.Module。

    约定:
        eval() 内部调用 train(False)，所以只改写 train 就够。

    出处:
        本站。

    示例:
        >>> model = FrozenBackbone(nn.BatchNorm1d(2), nn.Linear(2, 1)).train()
        >>> model.backbone.training, model.head.training
        (False, True)
    """

    def train(self, mode: bool = True) -> nn.Module:
        """切换模式，主干除外。"""
        super().train(mode)
        self.backbone.eval()
        return self
