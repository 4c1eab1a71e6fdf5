"""Transformer 解码器作自回归模型：一次并行前向用于训练，带键值缓存的一步用于采样。"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from formulary.autoregressive_models.attention import (
    cached_attention,
    causal_attention,
    shift_right,
)
from formulary.autoregressive_models.initialization import initialize_parameters
from formulary.checks import require_count, require_floats


class TransformerBlock(nn.Module):
    """前置层归一化的解码器层：多头因果注意力与两层感知机，各加一条残差。

    示例:
        >>> TransformerBlock(d=8, heads=2)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.projection = nn.Linear(d, 3 * d)  # 查询、键、值依次相连
        self.output = nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, h: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """整段序列一次算完。"""
        projected = self.projection(self.attention_norm(h))  # (B, T, 3D)
        q, k, v = projected.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        h = h + self.output(causal_attention(q, k, v).transpose(1, 2).flatten(2))
        return h + self.down(F.gelu(self.up(self.mlp_norm(h))))

    def step(
        self, h: Float[Tensor, "B D"], cache: Float[Tensor, "2 B H S d"] | None
    ) -> tuple[Float[Tensor, "B D"], Tensor]:
        """只算最新的一个位置；cache 里是以前各位置的键与值。"""
        projected = self.projection(self.attention_norm(h))
        q, k, v = projected.unflatten(-1, (3, self.heads, -1)).transpose(0, 1)  # 各 (B, H, d)
        new = torch.stack((k, v)).unsqueeze(-2)  # (2, B, H, 1, d)
        cache = new if cache is None else torch.cat((cache, new), dim=-2)
        h = h + self.output(cached_attention(q, cache[0], cache[1]).flatten(1))
        return h + self.down(F.gelu(self.up(self.mlp_norm(h)))), cache


class TransformerAutoregressive(nn.Module):
    r"""二值序列的 Transformer 解码器：嵌入、右移、加位置向量、若干解码器层、线性输出。

    Args:
        n: 变量的个数；位置向量是学出来的，每个位置一个。
        d: 模型的宽度，heads 的倍数。
        heads: 头数。
        layers: 层数。
        generator: 初始化参数用的随机数发生器；不给则用 torch 的默认初始化。

    Raises:
        ValueError: 个数不是正整数，或 d 不是 heads 的倍数。

    约定:
        x = 0 与 x = 1 的嵌入是 e_0 与 e_0 + e_1，写成 x 的线性函数，所以能对 x 求雅可比；
        开始符有自己的向量。层归一化放在各子层之前。

    出处:
        Vaswani et al. 2017, arXiv:1706.03762v7；用于像素序列见 Parmar et al. 2018,
        arXiv:1802.05751。

    示例:
        >>> model = TransformerAutoregressive(n=10, d=8, heads=2, layers=1)
        >>> model(torch.zeros(3, 10)).shape
        torch.Size([3, 10])
    """

    def __init__(
        self,
        n: int,
        d: int = 32,
        heads: int = 4,
        layers: int = 2,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        for name, count in (("n", n), ("d", d), ("heads", heads), ("layers", layers)):
            require_count(name, count)
        if d % heads:
            raise ValueError(f"d 必须是 heads={heads} 的倍数，得到 {d}")
        self.embedding = nn.Linear(1, d)
        self.start = nn.Parameter(torch.randn(1, d, generator=generator) / d**0.5)
        self.positions = nn.Parameter(torch.randn(n, d, generator=generator) / d**0.5)
        self.blocks = nn.ModuleList(TransformerBlock(d, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(d)
        self.head = nn.Linear(d, 1)
        initialize_parameters(self, generator)

    def forward(self, x: Float[Tensor, "B n"]) -> Float[Tensor, "B n"]:
        """每个变量取 1 的对数几率；所有位置一次算完。"""
        require_floats("x", x, "B", len(self.positions))
        h = shift_right(self.embedding(x[..., None]), self.start[0]) + self.positions
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))[..., 0]

    def step(
        self, previous: Float[Tensor, " B"], state: list[Tensor] | None
    ) -> tuple[Float[Tensor, " B"], list[Tensor]]:
        """一步：x_{i−1} 与各层的键值缓存，到 x_i 的对数几率与新缓存；开头的 state 为 None。"""
        if state is None:
            done, h = 0, self.start.expand(len(previous), -1)
        else:
            done, h = state[0].shape[-2], self.embedding(previous[:, None])
        h, caches = h + self.positions[done], []
        for layer, block in enumerate(self.blocks):
            h, cache = block.step(h, None if state is None else state[layer])
            caches.append(cache)
        return self.head(self.norm(h))[:, 0], caches
