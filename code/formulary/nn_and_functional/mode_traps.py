"""忘了模式的模块，各配上改好的一个；名字里带 Forgetful 的是错的。"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from formulary.checks import require_floats


class ForgetfulDropout(nn.Module):
    r"""错例：直接调用 F.dropout 而不交代模式，评估时照样随机。

    Args:
        p: 失活的概率，在 [0, 1] 里（无量纲）。

    Raises:
        ValueError: p 不在 [0, 1] 里。

    约定:
        F.dropout 的 training 默认为真。

    出处:
        pytorch/pytorch#26338。

    示例:
        >>> layer = ForgetfulDropout(1.0).eval()
        >>> layer(torch.ones(3))
        tensor([0., 0., 0.])
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"p 必须在 [0, 1] 里，得到 {p!r}")
        self.p = p

    def forward(self, x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """失活，不论模式。"""
        return F.dropout(x, self.p)


class MindfulDropout(ForgetfulDropout):
    r"""改好的：把模块的模式交给函数。

    Args:
        p: 失活的概率，在 [0, 1] 里（无量纲）。

    Raises:
        ValueError: p 不在 [0, 1] 里。

    约定:
        与 nn.Dropout 逐位相同。

    出处:
        PyTorch 2.13，torch/nn/modules/dropout.py。

    示例:
        >>> layer = MindfulDropout(1.0).eval()
        >>> layer(torch.ones(3))
        tensor([1., 1., 1.])
    """

    def forward(self, x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """只在训练模式下失活。"""
        return F.dropout(x, self.p, training=self.training)


class ForgetfulAttention(nn.Module):
    r"""错例：单头自注意力，dropout_p 总是交给函数，评估时照样失活。

    Args:
        d: 特征维数。
        p: 注意力权重失活的概率，在 [0, 1] 里（无量纲）。

    Raises:
        ValueError: p 不在 [0, 1] 里，或 x 的最后一轴不是 d。

    约定:
        查询、键、值由一个线性层一次算出。

    出处:
        pytorch/pytorch#124464。

    示例:
        >>> ForgetfulAttention(2, 1.0).eval()(torch.ones(3, 2)).abs().sum().item()
        0.0
    """

    def __init__(self, d: int, p: float) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"p 必须在 [0, 1] 里，得到 {p!r}")
        self.d, self.p = d, p
        self.projection = nn.Linear(d, 3 * d)

    def forward(self, x: Float[Tensor, "*batch T d"]) -> Float[Tensor, "*batch T d"]:
        """失活，不论模式。"""
        require_floats("x", x, "...", "T", self.d)
        q, k, v = self.projection(x).chunk(3, dim=-1)
        return F.scaled_dot_product_attention(q, k, v, dropout_p=self.p)


class MindfulAttention(ForgetfulAttention):
    r"""改好的：由模块的模式决定交出去的概率是 p 还是 0。

    Args:
        d: 特征维数。
        p: 注意力权重失活的概率，在 [0, 1] 里（无量纲）。

    Raises:
        ValueError: p 不在 [0, 1] 里，或 x 的最后一轴不是 d。

    约定:
        F.scaled_dot_product_attention 没有 training 参数，只能这样交代。

    出处:
        PyTorch 2.13 文档 torch.nn.functional.scaled_dot_product_attention。

    示例:
        >>> layer = MindfulAttention(2, 1.0).eval()
        >>> layer(torch.ones(3, 2)).abs().sum().item() > 0
        True
    """

    def forward(self, x: Float[Tensor, "*batch T d"]) -> Float[Tensor, "*batch T d"]:
        """只在训练模式下失活。"""
        require_floats("x", x, "...", "T", self.d)
        q, k, v = self.projection(x).chunk(3, dim=-1)
        p = self.p if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, dropout_p=p)
