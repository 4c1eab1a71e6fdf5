"""实值变量：高斯混合的条件分布（RNADE），多输出的掩码布局，离散数据的反量化。"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from formulary.checks import require_count, require_floats, require_indices


def rnade_log_prob(
    x: Float[Tensor, "B n"],
    weight_logits: Float[Tensor, "B n K"],
    means: Float[Tensor, "B n K"],
    log_scales: Float[Tensor, "B n K"],
) -> Float[Tensor, " B"]:
    r"""每个条件分布都是 K 个高斯的混合时，整个向量的对数密度。

    Args:
        x: 实值向量。
        weight_logits: 混合权重的对数几率，沿最后一轴取 softmax。
        means: 各分量的均值，单位同 x。
        log_scales: 各分量标准差的对数。

    Returns:
        对数密度（nat）。

    Raises:
        ValueError: 四个参数的形状不相配，或不是浮点张量。

    约定:
        每个变量 3K 个参数，都由网络从前面的变量算出；权重也是学的，不取 1/K。

    出处:
        Uria, Murray & Larochelle 2013, arXiv:1306.0186v2。

    示例:
        >>> zeros = torch.zeros(1, 2, 3)
        >>> rnade_log_prob(torch.zeros(1, 2), zeros, zeros, zeros)  # 两个标准正态在 0 处
        tensor([-1.8379])
    """
    require_floats("x", x, "B", "n")
    require_floats("weight_logits", weight_logits, *x.shape, "K")
    require_floats("means", means, *weight_logits.shape)
    require_floats("log_scales", log_scales, *weight_logits.shape)
    standard = (x[..., None] - means) * torch.exp(-log_scales)  # (B, n, K)
    log_normal = -0.5 * standard**2 - log_scales - 0.5 * math.log(2 * math.pi)
    log_weights = torch.log_softmax(weight_logits, dim=-1)
    return torch.logsumexp(log_weights + log_normal, dim=-1).sum(dim=-1)


def repeat_output_mask(mask: Bool[Tensor, "n d"], outputs: int) -> Bool[Tensor, "rows d"]:
    r"""每个变量有多个输出时的输出层掩码：同一个变量的各行挨在一起（交错布局）。

    Args:
        mask: 每个变量一行的输出层掩码。
        outputs: 每个变量的输出个数，如 RNADE 的 3K（个）。

    Returns:
        n·outputs 行的掩码，第 i·outputs + r 行属于变量 i 的第 r 个输出。

    Raises:
        ValueError: outputs 不是正整数。

    出处:
        bayesiains/nflows@c02277e, nflows/transforms/made.py 的布局。

    示例:
        >>> repeat_output_mask(torch.tensor([[True], [False]]), 2).squeeze()
        tensor([ True,  True, False, False])
    """
    require_count("outputs", outputs)
    return mask.repeat_interleave(outputs, dim=0)


def split_mixture_outputs(
    raw: Float[Tensor, "B rows"], n: int
) -> tuple[Float[Tensor, "B n K"], Float[Tensor, "B n K"], Float[Tensor, "B n K"]]:
    r"""把 repeat_output_mask 布局的 3nK 个输出拆成 rnade_log_prob 的三组参数。

    Args:
        raw: 网络的输出，同一个变量的 3K 个挨在一起。
        n: 变量的个数（个）。

    Returns:
        weight_logits、means、log_scales，每个都是 (B, n, K)。

    Raises:
        ValueError: raw 不是 (B, rows) 的浮点张量，或 rows 不是 3n 的正整数倍。

    约定:
        一个变量的 3K 个输出里，先是 K 个权重，再是 K 个均值，最后是 K 个对数标准差。

    示例:
        >>> split_mixture_outputs(torch.arange(6.0)[None], 2)[1].squeeze()
        tensor([1., 4.])
    """
    require_count("n", n)
    require_floats("raw", raw, "B", "rows")
    if raw.shape[1] == 0 or raw.shape[1] % (3 * n):
        raise ValueError(f"raw 的列数必须是 3n = {3 * n} 的正整数倍，得到 {raw.shape[1]}")
    weight_logits, means, log_scales = raw.unflatten(1, (n, -1)).chunk(3, dim=-1)
    return weight_logits, means, log_scales


def dequantise(x: Int[Tensor, "B n"], generator: torch.Generator) -> Float[Tensor, "B n"]:
    r"""给整数数据加上 [0, 1) 里的均匀噪声，使它可以用密度来建模。

    Args:
        x: 非负整数，如 0 到 255 的灰度。
        generator: 随机数发生器。

    Returns:
        x + u，float32，各元素独立；取整数部分就回到 x。

    Raises:
        ValueError: x 不是 (B, n) 的整数张量，或有元素不在 0 到 2^20 − 1 里。

    约定:
        相加可能舍入到 x + 1，此时退到比它小的最大浮点数。

    出处:
        Theis, van den Oord & Bethge 2016, arXiv:1511.01844v3。

    示例:
        >>> x = torch.tensor([[0, 255]])
        >>> dequantise(x, torch.Generator().manual_seed(0)).floor()
        tensor([[  0., 255.]])
    """
    require_indices("x", x, 2**20, "B", "n")
    noise = torch.rand(x.shape, generator=generator, device=generator.device)
    low = x.float()
    return torch.minimum(low + noise.to(x.device), torch.nextafter(low + 1, low))


def dequantisation_bound(
    log_density: Callable[[Tensor], Tensor],
    x: Int[Tensor, "B n"],
    noise: Float[Tensor, "M B n"],
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    r"""离散数据的对数概率，与用加噪数据的对数密度给出的下界。

    Args:
        log_density: 密度模型，(M·B, n) 的实值向量进，(M·B,) 的对数密度（nat）出。
        x: 整数数据。
        noise: M 组 [0, 1) 里的噪声；取中点网格就是数值积分，取均匀随机数就是蒙特卡洛估计。

    Returns:
        （密度的平均的对数，对数密度的平均），单位 nat；前者不小于后者。

    Raises:
        ValueError: noise 不是 (M, B, n) 的浮点张量，M = 0，或 x 的形状与 (B, n) 不符。

    约定:
        噪声随机时，前者的期望也不大于对数概率：对数是凹函数，M 越大偏得越少。

    出处:
        Theis, van den Oord & Bethge 2016, arXiv:1511.01844v3。

    示例:
        >>> flat = lambda y: torch.zeros(len(y))
        >>> dequantisation_bound(flat, torch.tensor([[3]]), torch.tensor([[[0.5]], [[0.9]]]))
        (tensor([0.]), tensor([0.]))
    """
    require_floats("noise", noise, "M", "B", "n")
    if len(noise) == 0:
        raise ValueError("noise 至少要有一组，得到 M = 0")
    require_indices("x", x, 2**20, *noise.shape[1:])
    noisy = x.to(noise.dtype) + noise  # (M, B, n)
    values = log_density(noisy.flatten(0, 1)).unflatten(0, noise.shape[:2])  # (M, B)
    return torch.logsumexp(values, dim=0) - math.log(len(noise)), values.mean(dim=0)


def rescaled_log_density(
    log_density: Callable[[Tensor], Tensor], x: Float[Tensor, "B n"], levels: int
) -> Float[Tensor, " B"]:
    r"""密度模型训练在缩到 [0, 1] 的数据上时，换回原来刻度的对数密度。

    Args:
        log_density: 缩过的数据 x ÷ levels 的对数密度（nat）。
        x: 原来刻度上的数据，即加噪之后、缩放之前的 y。
        levels: 灰度的级数，如 256。

    Returns:
        x 处的对数密度（nat），比 log_density(x / levels) 小 n·log(levels)。

    Raises:
        ValueError: x 不是 (B, n) 的浮点张量，或 levels 不是正整数。

    出处:
        换元公式；Theis, van den Oord & Bethge 2016, arXiv:1511.01844v3。

    示例:
        >>> rescaled_log_density(lambda y: torch.zeros(len(y)), torch.ones(1, 2), 256)
        tensor([-11.0904])
    """
    require_floats("x", x, "B", "n")
    require_count("levels", levels)
    return log_density(x / levels) - x.shape[1] * math.log(levels)
