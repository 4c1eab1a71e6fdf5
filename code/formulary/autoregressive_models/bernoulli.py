"""二值自回归模型的对数似然：全系列的模型都输出对数几率，由这里换成概率与 NLL。

约定:
    model(x) 返回 logits，形状 (B, n)，第 i 列是第 i 个变量的对数几率；
    对数似然就是 bernoulli_log_prob(model(x), x)，每个样本一个数。
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_binary, require_count, require_floats


def require_logits_and_bits(logits: Tensor, x: Tensor) -> None:
    """要求 logits 形如 (B, n)，x 与它同形状且只含 0 与 1。"""
    require_floats("logits", logits, "B", "n")
    require_floats("x", x, *logits.shape)
    require_binary("x", x)


def bernoulli_probabilities(
    logits: Float[Tensor, "B n"], x: Float[Tensor, "B n"]
) -> Float[Tensor, "B n"]:
    r"""各个条件概率 p(x_i | x_<i)：照伯努利分布的定义，由均值 σ(ℓ_i) 算出。

    Args:
        logits: 各变量取 1 的对数几率（无量纲）。
        x: 二值样本。

    Returns:
        各变量取到 x 中那个值的条件概率，不求积。

    Raises:
        ValueError: logits 不是 (B, n) 的浮点张量；x 与它形状不同或不是二值的。

    出处:
        CS236 讲义 autoregressive 一章。

    示例:
        >>> bernoulli_probabilities(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]]))
        tensor([[0.5000, 0.1192]])
    """
    require_logits_and_bits(logits, x)
    f = torch.sigmoid(logits)
    return f**x * (1 - f) ** (1 - x)


def nll_forms(
    logits: Float[Tensor, "B n"], x: Float[Tensor, "B n"]
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"], Float[Tensor, " B"]]:
    r"""负对数似然的三种等价写法：取对数、softplus(ℓ) − xℓ、softplus((1 − 2x)ℓ)。

    Args:
        logits: 各变量取 1 的对数几率（无量纲）。
        x: 二值样本。

    Returns:
        三个张量，每个样本的 NLL（nat），对变量求和；只差舍入。

    Raises:
        ValueError: 条件同 bernoulli_probabilities。

    示例:
        >>> nll_forms(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]]))
        (tensor([2.8201]), tensor([2.8201]), tensor([2.8201]))
    """
    require_logits_and_bits(logits, x)
    logs = -x * F.logsigmoid(logits) - (1 - x) * F.logsigmoid(-logits)
    # softplus(ℓ) = −log σ(−ℓ)；F.softplus 在 ℓ > 20 时直接返回 ℓ，这里不用
    difference = -F.logsigmoid(-logits) - x * logits
    folded = -F.logsigmoid((2 * x - 1) * logits)
    return logs.sum(-1), difference.sum(-1), folded.sum(-1)


def bernoulli_log_prob(
    logits: Float[Tensor, "B n"], x: Float[Tensor, "B n"]
) -> Float[Tensor, " B"]:
    r"""自回归模型的对数似然：各条件的 log σ(±ℓ_i) 之和，x_i = 1 取正号。

    Args:
        logits: 模型对 x 的输出，各变量取 1 的对数几率（无量纲）。
        x: 二值样本。

    Returns:
        每个样本的对数似然（nat），对变量求和。

    Raises:
        ValueError: 条件同 bernoulli_probabilities。

    出处:
        Germain et al. 2015, arXiv:1502.03509。

    示例:
        >>> bernoulli_log_prob(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]]))
        tensor([-2.8201])
    """
    require_logits_and_bits(logits, x)
    return F.logsigmoid((2 * x - 1) * logits).sum(-1)


def logit_gradient(logits: Float[Tensor, "B n"], x: Float[Tensor, "B n"]) -> Float[Tensor, "B n"]:
    r"""NLL 对各对数几率的导数：预测的概率减去实际的值，σ(ℓ_i) − x_i。

    Args:
        logits: 各变量取 1 的对数几率（无量纲）。
        x: 二值样本。

    Returns:
        δ，每个元素在 (−1, 1) 里（nat）；各样本的 NLL 相加，不作平均。

    Raises:
        ValueError: 条件同 bernoulli_probabilities。

    示例:
        >>> logit_gradient(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]]))
        tensor([[-0.5000,  0.8808]])
    """
    require_logits_and_bits(logits, x)
    return torch.sigmoid(logits) - x


def bits_per_dim(nll: Float[Tensor, " B"], n: int) -> Float[Tensor, " B"]:
    r"""把每个样本的 NLL 换算成每维的比特数。

    Args:
        nll: 每个样本的 NLL（nat）。
        n: 维数，正整数。

    Returns:
        每维比特数（bit）；二值数据上，逐维猜均匀分布恰好是 1。

    Raises:
        ValueError: nll 不是一维浮点张量；n 不是正整数。

    示例:
        >>> bits_per_dim(torch.tensor([44.3614]), 64)
        tensor([1.0000])
    """
    require_floats("nll", nll, "B")
    require_count("n", n)
    return nll / (n * math.log(2))
