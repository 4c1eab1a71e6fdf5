"""NADE：所有条件共用一层隐藏权重；朴素与递推两种算法、采样与模型类。

约定:
    weight 是 W，形状 (d, n)，第 i 列由 x_i 激活；output_weight 是 V，形状 (n, d)，第 i 行
    读出第 i 个对数几率。x_n 之后没有别的变量，所以 W 的最后一列从不使用。
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from formulary.autoregressive_models.nade_fast import nade_logits_fast
from formulary.autoregressive_models.nade_shapes import require_nade_shapes
from formulary.checks import require_count, require_probabilities


def nade_logits_naive(
    x: Float[Tensor, "B n"],
    weight: Float[Tensor, "d n"],
    bias: Float[Tensor, " d"],
    output_weight: Float[Tensor, "n d"],
    output_bias: Float[Tensor, " n"],
) -> Float[Tensor, "B n"]:
    r"""照定义逐个算隐藏层：第 i 个条件重做一次矩阵乘法，共 O(n²d)。

    Args:
        x: 样本。
        weight: 共享的输入权重 W。
        bias: 共享的隐藏偏置 c。
        output_weight: 各条件的输出权重 V。
        output_bias: 各条件的输出偏置 b。

    Returns:
        各变量取 1 的对数几率（无量纲）。

    Raises:
        ValueError: 参数的形状对不上。

    出处:
        Uria et al. 2016, arXiv:1605.02226。

    示例:
        >>> weight, bias = torch.tensor([[2.0, 9.0]]), torch.tensor([-1.0])
        >>> nade_logits_naive(torch.ones(1, 2), weight, bias, torch.ones(2, 1), torch.zeros(2))
        tensor([[0.2689, 0.7311]])
    """
    require_nade_shapes(x, weight, bias, output_weight, output_bias)
    columns = []
    for i in range(x.shape[1]):
        h = torch.sigmoid(x[:, :i] @ weight[:, :i].T + bias)  # (B, d)
        columns.append(h @ output_weight[i] + output_bias[i])
    return torch.stack(columns, dim=1)


def nade_logits(
    x: Float[Tensor, "B n"],
    weight: Float[Tensor, "d n"],
    bias: Float[Tensor, " d"],
    output_weight: Float[Tensor, "n d"],
    output_bias: Float[Tensor, " n"],
) -> Float[Tensor, "B n"]:
    r"""递推：看过 x_i 之后，激活只需加上 W 的第 i 列乘 x_i，共 O(nd)。

    Args:
        x: 样本。
        weight: 共享的输入权重 W。
        bias: 共享的隐藏偏置 c，也是递推的起点。
        output_weight: 各条件的输出权重 V。
        output_bias: 各条件的输出偏置 b。

    Returns:
        各变量取 1 的对数几率，与 nade_logits_naive 相同。

    Raises:
        ValueError: 参数的形状对不上。

    出处:
        Larochelle & Murray 2011, 算法 1。

    示例:
        >>> weight, bias = torch.tensor([[2.0, 9.0]]), torch.tensor([-1.0])
        >>> nade_logits(torch.ones(1, 2), weight, bias, torch.ones(2, 1), torch.zeros(2))
        tensor([[0.2689, 0.7311]])
    """
    require_nade_shapes(x, weight, bias, output_weight, output_bias)
    a = bias.expand(len(x), -1)  # (B, d)
    logits = []
    # 一次拆成列：循环里写 weight[:, i]，反传时每步都要造一个 (d, n) 的零矩阵
    for x_i, column, v, b in zip(
        x.unbind(1), weight.unbind(1), output_weight.unbind(0), output_bias.unbind(0), strict=True
    ):
        logits.append(torch.sigmoid(a) @ v + b)
        a = a + x_i[:, None] * column
    return torch.stack(logits, dim=1)


def nade_sample(
    uniforms: Float[Tensor, "B n"],
    weight: Float[Tensor, "d n"],
    bias: Float[Tensor, " d"],
    output_weight: Float[Tensor, "n d"],
    output_bias: Float[Tensor, " n"],
) -> Float[Tensor, "B n"]:
    r"""边递推边采样：u_i 小于 p(x_i = 1 | x_<i) 就取 1，共 O(nd)。

    Args:
        uniforms: [0, 1) 上的均匀数，第 i 列供 x_i 使用。
        weight: 共享的输入权重 W。
        bias: 共享的隐藏偏置 c。
        output_weight: 各条件的输出权重 V。
        output_bias: 各条件的输出偏置 b。

    Returns:
        样本，元素为 0 或 1；不记录梯度。

    Raises:
        ValueError: 参数的形状对不上；uniforms 有元素不在 [0, 1] 里。

    出处:
        Uria et al. 2016, arXiv:1605.02226。

    示例:
        >>> weight, bias = torch.tensor([[2.0, 9.0]]), torch.tensor([-1.0])
        >>> uniforms = torch.tensor([[0.5, 0.6], [0.6, 0.6]])
        >>> nade_sample(uniforms, weight, bias, torch.ones(2, 1), torch.zeros(2))
        tensor([[1., 1.],
                [0., 0.]])
    """
    require_nade_shapes(uniforms, weight, bias, output_weight, output_bias)
    require_probabilities("uniforms", uniforms)
    with torch.no_grad():
        a, columns = bias.expand(len(uniforms), -1), []
        for i, u in enumerate(uniforms.unbind(dim=1)):
            probability = torch.sigmoid(torch.sigmoid(a) @ output_weight[i] + output_bias[i])
            columns.append((u < probability).to(uniforms.dtype))
            a = a + columns[-1][:, None] * weight[:, i]
    return torch.stack(columns, dim=1)


class NADE(nn.Module):
    r"""NADE 模型：model(x) 返回对数几率，训练用手写反向的 nade_logits_fast。

    Args:
        n: 变量个数，正整数。
        d: 隐藏层的宽度，正整数。
        generator: 抽初始权重用；不给则用全局的发生器。
        dtype: 参数的浮点类型。

    Raises:
        ValueError: n 或 d 不是正整数。

    约定:
        权重的初始值在 ±1/√(输入宽度) 之间均匀，偏置为零。隐藏层的激活函数是 sigmoid。

    出处:
        Larochelle & Murray 2011。

    示例:
        >>> model = NADE(3, 8, torch.Generator().manual_seed(0))
        >>> model(torch.ones(2, 3)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        n: int,
        d: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        require_count("n", n)
        require_count("d", d)
        weight = torch.empty(d, n, dtype=dtype).uniform_(-(n**-0.5), n**-0.5, generator=generator)
        output = torch.empty(n, d, dtype=dtype).uniform_(-(d**-0.5), d**-0.5, generator=generator)
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(torch.zeros(d, dtype=dtype))
        self.output_weight = nn.Parameter(output)
        self.output_bias = nn.Parameter(torch.zeros(n, dtype=dtype))

    def forward(self, x: Float[Tensor, "B n"]) -> Float[Tensor, "B n"]:
        """各变量取 1 的对数几率。"""
        return nade_logits_fast(x, self.weight, self.bias, self.output_weight, self.output_bias)
