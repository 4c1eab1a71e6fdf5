"""自回归：链式法则把联合分布拆成一串条件分布，逐项相加就是对数似然。

约定:
    次序就是列的次序；第 i 个条件只看前 i 列（下标从 0 起），第一个条件不看任何列。
    离散变量返回对数概率，连续变量返回对数密度，单位都是 nat，两者不能比较。
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from formulary.checks import require_count, require_distribution, require_floats, require_indices


def chain_rule_log_prob(
    x: Int[Tensor, "B n"], tables: Sequence[Float[Tensor, "..."]]
) -> Float[Tensor, " B"]:
    r"""查条件概率表，按链式法则逐项相加。

    Args:
        x: 每行一个样本，各变量取 0 到 K − 1。
        tables: n 张表；第 i 张有 i + 1 轴，前 i 轴是前面各变量的取值，
            最后一轴是 x_i 的条件分布。

    Returns:
        log p(x)（nat）。

    Raises:
        ValueError: 表的张数不是 n，某张表的形状不合或不是条件分布，或 x 越界。

    出处:
        概率的链式法则，标准结果。

    示例:
        >>> tables = [torch.tensor([0.6, 0.4]), torch.tensor([[0.9, 0.1], [0.2, 0.8]])]
        >>> chain_rule_log_prob(torch.tensor([[0, 1], [1, 1]]), tables).exp()
        tensor([0.0600, 0.3200])
    """
    if not tables or x.ndim != 2 or x.shape[1] != len(tables):
        raise ValueError(f"x 的形状必须是 (B, {len(tables)})，表至少一张，得到 {tuple(x.shape)}")
    states = tables[0].shape[-1]
    require_indices("x", x, states, "B", len(tables))
    terms = []
    for i, table in enumerate(tables):
        require_floats(f"tables[{i}]", table, *[states] * (i + 1))
        require_distribution(f"tables[{i}]", table)
        terms.append(table[x[:, : i + 1].unbind(-1)].log())  # (B,)
    return torch.stack(terms, dim=-1).sum(-1)


def conditional_mixture_log_prob(
    x: Float[Tensor, "*batch"],
    logits: Float[Tensor, "*batch K"],
    means: Float[Tensor, "*batch K"],
    log_scales: Float[Tensor, "*batch K"],
) -> Float[Tensor, "*batch"]:
    r"""一维高斯混合的对数密度，混合权重由 softmax 给出。

    Args:
        x: 求密度的点。
        logits: 混合权重的对数几率，softmax 之后是权重 π。
        means: 各分量的均值 μ。
        log_scales: 各分量标准差的对数 log s。

    Returns:
        对数密度（nat，按 x 的单位）。

    Raises:
        ValueError: 四个参数不是形状相配的浮点张量。

    出处:
        Uria et al. 2013, arXiv:1306.0186（RNADE 的条件分布）。

    示例:
        >>> zeros = torch.zeros(1, 2)
        >>> conditional_mixture_log_prob(torch.zeros(1), zeros, zeros, zeros)
        tensor([-0.9189])
    """
    require_floats("x", x)
    for name, value in (("logits", logits), ("means", means), ("log_scales", log_scales)):
        require_floats(name, value, *x.shape, logits.shape[-1])
    standard = (x[..., None] - means) * torch.exp(-log_scales)  # (*batch, K)
    components = -0.5 * standard.square() - log_scales - 0.5 * math.log(2 * math.pi)
    return (logits.log_softmax(-1) + components).logsumexp(-1)


class MixtureAutoregressive(nn.Module):
    r"""连续变量的自回归密度：每个条件是一维高斯混合，参数由前面各维经小网络算出。

    Args:
        n: 变量的个数。
        components: 每个条件的混合分量数 K。
        hidden: 隐藏层的宽度。

    Raises:
        ValueError: 参数不是正整数，或 x 的形状不合。

    约定:
        n 个条件各用一个网络，不共享权重；输入里第 i 列及其后的列先乘以零，
        所以自回归性质由输入保证，与网络内部无关。各分量的均值起初均匀铺在 [−1.5, 1.5] 里，
        免得几个分量一模一样地开始；数据宜先标准化。

    出处:
        Uria et al. 2013, arXiv:1306.0186（RNADE，那里各条件共享权重）。

    示例:
        >>> model = MixtureAutoregressive(2, components=3, hidden=8)
        >>> model.log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    def __init__(self, n: int, components: int, hidden: int) -> None:
        super().__init__()
        for name, value in (("n", n), ("components", components), ("hidden", hidden)):
            require_count(name, value)
        self.networks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(n, hidden),
                nn.ReLU(),
                nn.Linear(hidden, hidden),
                nn.ReLU(),
                nn.Linear(hidden, 3 * components),
            )
            for _ in range(n)
        )
        with torch.no_grad():
            for network in self.networks:
                network[-1].bias.view(3, components)[1] = torch.linspace(-1.5, 1.5, components)

    def conditional(
        self, x: Float[Tensor, "B n"], i: int
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K"], Float[Tensor, "B K"]]:
        """第 i 个条件分布的对数几率、均值与对数标准差，只依赖 x 的前 i 列。"""
        require_floats("x", x, "B", len(self.networks))
        past = x * (torch.arange(x.shape[1], device=x.device) < i)
        logits, means, log_scales = self.networks[i](past).chunk(3, dim=-1)
        return logits, means, log_scales

    def log_prob(self, x: Float[Tensor, "B n"]) -> Float[Tensor, " B"]:
        """对数密度（nat）：各条件对数密度之和。"""
        terms = [
            conditional_mixture_log_prob(x[:, i], *self.conditional(x, i))
            for i in range(len(self.networks))
        ]
        return torch.stack(terms, dim=-1).sum(-1)

    @torch.no_grad()
    def sample(self, samples: int, generator: torch.Generator) -> Float[Tensor, "N n"]:
        """依次抽每一维：先抽混合分量，再抽高斯；后面的列在轮到之前是零。"""
        require_count("samples", samples)
        dtype = self.networks[0][0].weight.dtype
        x = torch.zeros(samples, len(self.networks), dtype=dtype)
        for i in range(len(self.networks)):
            logits, means, log_scales = self.conditional(x, i)
            chosen = torch.multinomial(logits.softmax(-1), 1, generator=generator)  # (N, 1)
            noise = torch.randn(samples, 1, dtype=dtype, generator=generator)
            drawn = means.gather(1, chosen) + log_scales.gather(1, chosen).exp() * noise
            x[:, i] = drawn[:, 0]
        return x
