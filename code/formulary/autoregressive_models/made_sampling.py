"""从 MADE 采样：每步前向一次的写法，只更新第一层的写法，每个隐藏单元只算一次的写法。

约定:
    三种写法都由同一组均匀数 u 决定样本：x_i = 1 当且仅当 u_i < σ(logits_i)，
    按模型自己的次序逐个决定，所以用同一个 u 就得到同一批样本，
    除非某个 u_i 与概率之差小到舍入误差。
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from formulary.autoregressive_models.made import MADE
from formulary.checks import require_floats, require_probabilities


@torch.no_grad()
def made_sample(model: MADE, uniforms: Float[Tensor, "B n"]) -> Float[Tensor, "B n"]:
    r"""逐个变量采样，每决定一个变量就把整个网络前向一次。

    Args:
        model: 训练好的 MADE。
        uniforms: [0, 1) 里的均匀数，每个样本的每一列一个。

    Returns:
        二值样本，列的次序与训练数据相同。

    Raises:
        ValueError: uniforms 的形状不是 (B, n)，或有元素不在 [0, 1] 里。

    示例:
        >>> made_sample(MADE(3, [4]), torch.tensor([[0.0, 1.0, 0.0]]))
        tensor([[1., 0., 1.]])
    """
    require_floats("uniforms", uniforms, "B", model.n)
    require_probabilities("uniforms", uniforms)
    x = torch.zeros_like(uniforms)
    for i in model.order.tolist():
        logit = model(x)[:, i]
        x[:, i] = (uniforms[:, i] < torch.sigmoid(logit)).to(x.dtype)
    return x


@torch.no_grad()
def folded_layers(model: MADE) -> list[tuple[Float[Tensor, "..."], Float[Tensor, "..."]]]:
    r"""把掩码乘进权重，一次乘好，供推理反复使用。

    Args:
        model: 训练好的 MADE。

    Returns:
        每层一对（乘过掩码的权重，偏置）；是新的张量，模型的参数不变。

    示例:
        >>> weight, bias = folded_layers(MADE(2, []))[0]
        >>> weight[0]
        tensor([0., 0.])
    """
    layers = zip(model.weights, model.biases, model.masks, strict=True)
    # where 而不是相乘：乘法会留下 −0，打印出来是 -0.
    return [(torch.where(m, w, 0.0), b.detach().clone()) for w, b, m in layers]


def folded_logits(
    layers: Sequence[tuple[Float[Tensor, "..."], Float[Tensor, "..."]]],
    x: Float[Tensor, "B n"],
    activation: Callable[[Tensor], Tensor] = torch.relu,
) -> Float[Tensor, "B n"]:
    r"""用乘好掩码的权重算对数几率；与 model(x) 相同，省去每次前向里的乘掩码。

    Args:
        layers: folded_layers 的结果，乘好一次，反复使用。
        x: 一批输入。
        activation: 隐藏层的激活函数，与模型的相同。

    Returns:
        各列的对数几率，不带参数的梯度。

    Raises:
        ValueError: layers 为空，或 x 的形状不是 (B, n)。

    示例:
        >>> model = MADE(3, [4])
        >>> x = torch.ones(1, 3)
        >>> torch.equal(folded_logits(folded_layers(model), x), model(x))
        True
    """
    if not layers:
        raise ValueError("layers 至少要有一层，得到空列表")
    *hidden, (weight, bias) = layers
    require_floats("x", x, "B", layers[0][0].shape[1])
    for hidden_weight, hidden_bias in hidden:
        x = activation(F.linear(x, hidden_weight, hidden_bias))
    return F.linear(x, weight, bias)


@torch.no_grad()
def made_sample_incremental(model: MADE, uniforms: Float[Tensor, "B n"]) -> Float[Tensor, "B n"]:
    r"""逐个变量采样，第一层的预激活只补上刚决定的一列，输出层只算要用的一行。

    Args:
        model: 训练好的 MADE，至少有一个隐藏层。
        uniforms: [0, 1) 里的均匀数，每个样本的每一列一个。

    Returns:
        二值样本，与 made_sample 相同。

    Raises:
        ValueError: 模型没有隐藏层；uniforms 的形状不是 (B, n)，或有元素不在 [0, 1] 里。

    示例:
        >>> made_sample_incremental(MADE(3, [4]), torch.tensor([[0.0, 1.0, 0.0]]))
        tensor([[1., 0., 1.]])
    """
    require_floats("uniforms", uniforms, "B", model.n)
    require_probabilities("uniforms", uniforms)
    if not model.hidden:
        raise ValueError("model 至少要有一个隐藏层")
    (first, first_bias), *middle, (last, last_bias) = folded_layers(model)
    x = torch.zeros_like(uniforms)
    running = first_bias.repeat(len(x), 1)  # (B, d)
    for i in model.order.tolist():
        h = model.activation(running)
        for weight, bias in middle:
            h = model.activation(F.linear(h, weight, bias))
        logit = F.linear(h, last[i : i + 1], last_bias[i : i + 1])  # (B, 1)
        x[:, i : i + 1] = (uniforms[:, i : i + 1] < torch.sigmoid(logit)).to(x.dtype)
        running = torch.addmm(running, x[:, i : i + 1], first[:, i : i + 1].T)
    return x


@torch.no_grad()
def made_sample_by_degree(model: MADE, uniforms: Float[Tensor, "B n"]) -> Float[Tensor, "B n"]:
    r"""逐个变量采样，度数为 t 的隐藏单元在第 t 个变量决定之后算一次，以后不再算。

    Args:
        model: 训练好的 MADE。
        uniforms: [0, 1) 里的均匀数，每个样本的每一列一个。

    Returns:
        二值样本，与 made_sample 相同。

    Raises:
        ValueError: uniforms 的形状不是 (B, n)，或有元素不在 [0, 1] 里。

    约定:
        激活函数逐元素作用。还没有算到的单元存着 0，它们的度数太大，掩码不让用。

    示例:
        >>> made_sample_by_degree(MADE(3, [4]), torch.tensor([[0.0, 1.0, 0.0]]))
        tensor([[1., 0., 1.]])
    """
    require_floats("uniforms", uniforms, "B", model.n)
    require_probabilities("uniforms", uniforms)
    *hidden, (last, last_bias) = folded_layers(model)
    widths = (model.n, *model.hidden)
    units = [uniforms.new_zeros(len(uniforms), width) for width in widths]
    for t, i in enumerate(model.order.tolist(), start=1):
        logit = F.linear(units[-1], last[i : i + 1], last_bias[i : i + 1])[:, 0]
        units[0][:, i] = (uniforms[:, i] < torch.sigmoid(logit)).to(uniforms.dtype)
        for layer, (weight, bias) in enumerate(hidden):
            ready = (model.degrees[layer + 1] == t).nonzero()[:, 0]
            if len(ready):
                h = F.linear(units[layer], weight[ready], bias[ready])
                units[layer + 1][:, ready] = model.activation(h)
    return units[0]
