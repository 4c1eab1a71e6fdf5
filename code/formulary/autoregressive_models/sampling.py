"""自回归模型的采样：祖先采样、它为何服从模型的分布、带状态的逐步采样。

约定:
    模型写成一个函数 logits：输入 (B, n) 的 x，输出同形的对数几率，第 i 列只依赖模型次序里
    排在 i 前面的各列。随机性全部来自传入的均匀数 uniforms，同样的均匀数得到同样的样本。
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from formulary.checks import (
    require_binary,
    require_floats,
    require_permutation,
    require_probabilities,
)


def ancestral_sample(
    logits: Callable[[Tensor], Tensor],
    uniforms: Float[Tensor, "B n"],
    order: Int[Tensor, " n"] | None = None,
    known: Float[Tensor, "B T"] | None = None,
    temperature: float = 1.0,
) -> Float[Tensor, "B n"]:
    r"""祖先采样：按模型的次序逐个抽取 x_i，u_i 小于 p(x_i = 1 | x_{<i}) 就取 1。

    Args:
        logits: 模型，(B, n) 的 x 到 (B, n) 的对数几率（无量纲）。
        uniforms: [0, 1) 上的均匀数，第 i 列供 x_i 使用。
        order: 模型的次序，order[t] 是第 t 个被抽的变量，从 0 起；不给则为自然次序。
        known: 次序里最前面 T 个变量的给定值，known[:, t] 属于 order[t]；只抽其余的。
        temperature: 温度（无量纲），每一步的对数几率先除以它；1 是模型本身。

    Returns:
        样本，元素为 0 或 1，dtype 同 uniforms；给定的变量保持原值。

    Raises:
        ValueError: uniforms 越界，order 不是排列，known 不是二值或太长，temperature 不是正数。

    约定:
        每抽一个变量调用一次 logits，共 n − T 次，不记录梯度。

    出处:
        Uria et al. 2016, arXiv:1605.02226v3。

    示例:
        >>> uniforms = torch.tensor([[0.2, 0.7, 0.2]])
        >>> ancestral_sample(torch.zeros_like, uniforms)
        tensor([[1., 0., 1.]])
    """
    require_floats("uniforms", uniforms, "B", "n")
    require_probabilities("uniforms", uniforms)
    require_temperature(temperature)
    batch, n = uniforms.shape
    order = torch.arange(n) if order is None else order
    require_permutation("order", order, n)
    known = uniforms.new_zeros(batch, 0) if known is None else known
    require_floats("known", known, batch, "T")
    require_binary("known", known)
    if known.shape[1] > n:
        raise ValueError(f"known 至多有 {n} 列，得到 {known.shape[1]} 列")
    x, given = torch.zeros_like(uniforms), known.shape[1]
    x[:, order[:given].to(x.device)] = known.to(x)
    with torch.no_grad():
        for i in order[given:].tolist():
            probability = torch.sigmoid(logits(x)[:, i] / temperature)
            x[:, i] = uniforms[:, i] < probability
    return x


def ancestral_box(
    logits: Float[Tensor, "B n"], x: Float[Tensor, "B n"]
) -> tuple[Float[Tensor, "B n"], Float[Tensor, "B n"]]:
    r"""哪些均匀数会让祖先采样得到 x：一个长方体，体积就是模型给 x 的概率。

    Args:
        logits: 模型在 x 处的对数几率（无量纲）；一次并行的前向就能得到。
        x: 目标样本，元素为 0 或 1。

    Returns:
        (下界, 上界)：第 i 个均匀数落在 [下界, 上界) 里，第 i 步就得到 x_i。

    Raises:
        ValueError: logits 与 x 形状不同，或 x 不是二值。

    约定:
        x_i = 1 对应 [0, p_i)，x_i = 0 对应 [p_i, 1)，其中 p_i 是取 1 的条件概率。

    出处:
        逆变换采样的标准结论；本文推导。

    示例:
        >>> lower, upper = ancestral_box(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
        >>> lower, upper, (upper - lower).prod()
        (tensor([[0.0000, 0.5000]]), tensor([[0.5000, 1.0000]]), tensor(0.2500))
    """
    require_floats("logits", logits, "B", "n")
    require_floats("x", x, *logits.shape)
    require_binary("x", x)
    probability = torch.sigmoid(logits)
    lower = torch.where(x == 1, torch.zeros_like(probability), probability)
    upper = torch.where(x == 1, probability, torch.ones_like(probability))
    return lower, upper


def incremental_sample(
    step: Callable[[Tensor, Any], tuple[Tensor, Any]], uniforms: Float[Tensor, "B n"]
) -> Float[Tensor, "B n"]:
    r"""带状态的祖先采样：每一步只把上一个变量交给模型，前缀的其余信息都在状态里。

    Args:
        step: 模型的一步，(上一个变量 (B,), 状态) 到 (这一步的对数几率 (B,), 新状态)；
            第一步的状态是 None，此时上一个变量没有意义，一律传 0。
        uniforms: [0, 1) 上的均匀数，第 i 列供 x_i 使用。

    Returns:
        样本，元素为 0 或 1，dtype 同 uniforms。

    Raises:
        ValueError: uniforms 不是二维的实浮点张量，或越出 [0, 1]。

    约定:
        只用于自然次序；不记录梯度。

    出处:
        RNN 与键值缓存的通用写法，如 Vaswani et al. 2017, arXiv:1706.03762 的解码器。

    示例:
        >>> count = lambda previous, state: (previous - 0.5, None)
        >>> incremental_sample(count, torch.tensor([[0.3, 0.5, 0.7]]))
        tensor([[1., 1., 0.]])
    """
    require_floats("uniforms", uniforms, "B", "n")
    require_probabilities("uniforms", uniforms)
    x, state = torch.zeros_like(uniforms), None
    previous = uniforms.new_zeros(len(uniforms))
    with torch.no_grad():
        for i in range(uniforms.shape[1]):
            logit, state = step(previous, state)
            previous = (uniforms[:, i] < torch.sigmoid(logit)).to(x)
            x[:, i] = previous
    return x


def require_temperature(temperature: float) -> None:
    """要求温度是有限的正数。

    示例:
        >>> require_temperature(0.5) is None  # 合格则什么也不返回
        True
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature 必须是有限的正数，得到 {temperature}")
