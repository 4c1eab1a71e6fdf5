"""NADE 的反向传播：隐藏激活的总导数，与手推的四组梯度。"""

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.autoregressive_models.bernoulli import logit_gradient
from formulary.autoregressive_models.nade import nade_logits
from formulary.autoregressive_models.nade_shapes import require_nade_shapes
from formulary.checks import require_floats


def nade_adjoints(
    delta: Float[Tensor, "B n"],
    x: Float[Tensor, "B n"],
    weight: Float[Tensor, "d n"],
    bias: Float[Tensor, " d"],
    output_weight: Float[Tensor, "n d"],
) -> tuple[Float[Tensor, "n B d"], Float[Tensor, "n B d"], Float[Tensor, "n B d"]]:
    r"""各步的隐藏层 h_i、直接项 g_i，与损失对激活 a_i 的总导数。

    Args:
        delta: 损失对各对数几率的导数 δ。
        x: 样本。
        weight: 共享的输入权重 W。
        bias: 共享的隐藏偏置 c。
        output_weight: 各条件的输出权重 V。

    Returns:
        h、g、总导数，第 i 个切片属于第 i 步；总导数是 g_i + g_(i+1) + … + g_n。

    Raises:
        ValueError: 参数的形状对不上。

    示例:
        >>> one = torch.ones(1, 2)
        >>> h, g, adjoint = nade_adjoints(one, one, torch.zeros(1, 2), torch.zeros(1), one.T)
        >>> g.flatten(), adjoint.flatten()
        (tensor([0.2500, 0.2500]), tensor([0.5000, 0.2500]))
    """
    require_nade_shapes(x, weight, bias, output_weight)
    require_floats("delta", delta, *x.shape)
    a, hidden = bias.expand(len(x), -1), []
    for i in range(x.shape[1]):
        hidden.append(torch.sigmoid(a))
        a = a + x[:, i, None] * weight[:, i]
    h = torch.stack(hidden)  # (n, B, d)
    g = delta.T[:, :, None] * output_weight[:, None] * h * (1 - h)
    adjoint, total = [], torch.zeros_like(a)
    for step in g.flip(0):  # 从最后一步往回加
        total = total + step
        adjoint.append(total)
    return h, g, torch.stack(adjoint).flip(0)


def nade_gradients(
    x: Float[Tensor, "B n"],
    weight: Float[Tensor, "d n"],
    bias: Float[Tensor, " d"],
    output_weight: Float[Tensor, "n d"],
    output_bias: Float[Tensor, " n"],
) -> tuple[Float[Tensor, "d n"], Float[Tensor, " d"], Float[Tensor, "n d"], Float[Tensor, " n"]]:
    r"""NLL 对四组参数的梯度，照手推的公式算，不用自动求导。

    Args:
        x: 二值样本。
        weight: 共享的输入权重 W。
        bias: 共享的隐藏偏置 c。
        output_weight: 各条件的输出权重 V。
        output_bias: 各条件的输出偏置 b。

    Returns:
        对 W、c、V、b 的梯度；各样本的 NLL（nat）相加，不作平均。

    Raises:
        ValueError: 参数的形状对不上；x 不是二值的。

    出处:
        Larochelle & Murray 2011, 算法 1。

    示例:
        >>> one, zero = torch.ones(1, 2), torch.zeros(1, 2)
        >>> nade_gradients(one, zero, torch.zeros(1), one.T, torch.zeros(2))[0].round(decimals=4)
        tensor([[-0.0944,  0.0000]])
    """
    with torch.no_grad():
        logits = nade_logits(x, weight, bias, output_weight, output_bias)
    delta = logit_gradient(logits, x)  # (B, n)
    h, _, adjoint = nade_adjoints(delta, x, weight, bias, output_weight)
    after = torch.cat((adjoint[1:], torch.zeros_like(adjoint[:1])))  # Σ_{j>i} g_j
    weight_gradient = torch.einsum("Bi,iBd->di", x, after)
    output_gradient = torch.einsum("Bi,iBd->id", delta, h)
    return weight_gradient, adjoint[0].sum(0), output_gradient, delta.sum(0)
