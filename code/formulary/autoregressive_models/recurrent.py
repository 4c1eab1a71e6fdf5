"""循环神经网络作自回归模型：隐藏状态概括前缀，每一步输出下一个变量的对数几率。"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from formulary.autoregressive_models.initialization import initialize_parameters
from formulary.checks import require_count, require_floats


class RecurrentAutoregressive(nn.Module):
    r"""一层 Elman RNN：h_i 由 h_{i−1} 与 x_{i−1} 算出，再线性映成 x_i 的对数几率。

    Args:
        d: 隐藏状态的宽度。
        generator: 初始化参数用的随机数发生器；不给则用 torch 的默认初始化。

    Raises:
        ValueError: d 不是正整数。

    约定:
        h_0 = 0，x_0 = 0；参数 d² + 3d + 1 个，与 n 无关，所有位置共用。

    出处:
        Elman 1990；用作像素的自回归模型见 van den Oord et al. 2016, arXiv:1601.06759。

    示例:
        >>> model = RecurrentAutoregressive(d=8)
        >>> model(torch.zeros(3, 10)).shape, sum(p.numel() for p in model.parameters())
        (torch.Size([3, 10]), 89)
    """

    def __init__(self, d: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        require_count("d", d)
        self.hidden = nn.Linear(d, d)
        self.input = nn.Linear(1, d, bias=False)
        self.output = nn.Linear(d, 1)
        initialize_parameters(self, generator)

    def step(
        self, previous: Float[Tensor, " B"], state: Float[Tensor, "B d"] | None
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, "B d"]]:
        """一步：(x_{i−1}, h_{i−1}) 到 (x_i 的对数几率, h_i)；state 为 None 表示 h_0 = 0。"""
        if state is None:
            state = previous.new_zeros(len(previous), self.hidden.in_features)
        state = torch.tanh(self.hidden(state) + self.input(previous[:, None]))
        return self.output(state)[:, 0], state

    def forward(self, x: Float[Tensor, "B n"]) -> Float[Tensor, "B n"]:
        """每个变量取 1 的对数几率；n 步只能依次进行。"""
        require_floats("x", x, "B", "n")
        logits, state, previous = [], None, torch.zeros_like(x[:, 0])
        for column in x.unbind(dim=1):
            logit, state = self.step(previous, state)
            logits.append(logit)
            previous = column
        return torch.stack(logits, dim=1)
