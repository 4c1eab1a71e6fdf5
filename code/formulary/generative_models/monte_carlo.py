r"""蒙特卡洛估计：样本平均、它的标准误，以及由样本估计 KL 散度的三个估计量。"""

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_count, require_distribution, require_floats


def mean_and_standard_error(
    values: Float[Tensor, "*batch M"],
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    r"""样本平均与它的标准误，用来报告对数似然一类的期望。

    Args:
        values: M 个独立样本上的取值，如 log p_θ(x)；M 不小于 2。

    Returns:
        平均与标准误，单位与 values 相同；标准误随 M 的平方根下降。

    Raises:
        ValueError: values 不是浮点张量，或样本少于两个。

    约定:
        方差除以 M − 1（无偏），再除以 M 后开方。

    出处:
        Owen 2013, Monte Carlo Theory, Methods and Examples, 第 2 章。

    示例:
        >>> mean, error = mean_and_standard_error(torch.tensor([1.0, 2.0, 3.0, 6.0]))
        >>> print(f"{mean:.4f} {error:.4f}")
        3.0000 1.0801
    """
    require_floats("values", values, "...", "M")
    count = values.shape[-1]
    if count < 2:
        raise ValueError(f"values 至少要有两个样本才能估计标准误，得到 {count} 个")
    return values.mean(dim=-1), values.std(dim=-1, correction=1) / count**0.5


def monte_carlo_moments(
    p: Float[Tensor, " K"], values: Float[Tensor, " K"], samples: int
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    r"""样本平均的精确期望与方差：状态有限时可以直接加出来。

    Args:
        p: 样本所服从的分布。
        values: 每个状态上的取值，如 log p_θ(x)。
        samples: 独立样本的个数 M。

    Returns:
        样本平均的期望（单位同 values）与方差（单位的平方）。

    Raises:
        ValueError: p 不是概率分布，values 与 p 形状不同，或 samples 不是正整数。

    约定:
        样本独立同分布，有放回。

    出处:
        Owen 2013, Monte Carlo Theory, Methods and Examples, 第 2 章。

    示例:
        >>> p, log_q = torch.tensor([0.75, 0.25]), torch.tensor([0.8, 0.2]).log()
        >>> mean, variance = monte_carlo_moments(p, log_q, samples=100)
        >>> print(f"{mean:.4f} {variance.sqrt():.4f}")
        -0.5697 0.0600
    """
    require_floats("p", p, "K")
    require_distribution("p", p)
    require_floats("values", values, *p.shape)
    require_count("samples", samples)
    mean = (p * values).sum()
    return mean, (p * (values - mean).square()).sum() / samples


def kl_estimates(
    log_p: Float[Tensor, "*batch"], log_q: Float[Tensor, "*batch"]
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    r"""由样本估计 D(p‖q) 的三个估计量 k1、k2、k3，每个样本各给一个值。

    Args:
        log_p: 样本 x 在 p 下的对数概率（或对数密度），x 取自 p。
        log_q: 同一批样本在 q 下的对数概率。

    Returns:
        k1、k2、k3（nat），形状与输入相同；对样本平均后使用。

    Raises:
        ValueError: log_p、log_q 不是浮点张量，或形状不同。

    约定:
        r = q(x)/p(x)；k1 与 k3 无偏，k2 有偏；k2 与 k3 逐点非负。

    出处:
        Schulman 2020, Approximating KL Divergence。

    示例:
        >>> k1, k2, k3 = kl_estimates(torch.tensor([-1.0]), torch.tensor([-1.5]))
        >>> [round(float(k), 4) for k in (k1, k2, k3)]
        [0.5, 0.125, 0.1065]
    """
    require_floats("log_p", log_p)
    require_floats("log_q", log_q, *log_p.shape)
    log_r = log_q - log_p
    return -log_r, log_r.square() / 2, torch.expm1(log_r) - log_r


def kl_estimator_moments(
    shift: Float[Tensor, "*batch"],
) -> tuple[Float[Tensor, "3 *batch"], Float[Tensor, "3 *batch"]]:
    r"""两个单位方差的高斯 p = N(0, 1)、q = N(δ, 1) 之间，k1、k2、k3 的期望与方差。

    Args:
        shift: 均值之差 δ（无量纲）。

    Returns:
        期望与方差，第一轴依次是 k1、k2、k3（nat 与 nat 的平方）。

    Raises:
        ValueError: shift 不是浮点张量。

    约定:
        单个样本的方差；M 个样本平均之后再除以 M。

    出处:
        由 log r ~ N(−δ²/2, δ²) 算出；估计量见 Schulman 2020。

    示例:
        >>> means, variances = kl_estimator_moments(torch.tensor(0.3))
        >>> variances.sqrt()
        tensor([0.3000, 0.0651, 0.0646])
    """
    require_floats("shift", shift)
    s = shift.square()
    means = torch.stack((s / 2, s / 2 + s.square() / 8, s / 2))
    k2_variance = s.square() / 2 + s**3 / 4
    return means, torch.stack((s, k2_variance, torch.expm1(s) - s))
