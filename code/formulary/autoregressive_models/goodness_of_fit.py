"""样本是否真来自某个分布：皮尔逊卡方统计量与它的非中心参数。"""

from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_count, require_distribution, require_floats


def chi_square_statistic(
    counts: Float[Tensor, " K"], probabilities: Float[Tensor, " K"]
) -> Float[Tensor, ""]:
    r"""皮尔逊卡方统计量：各状态的频数与期望频数之差的平方，除以期望频数，再相加。

    Args:
        counts: 各状态出现的次数，非负。
        probabilities: 假设的分布，每个元素为正，和为 1。

    Returns:
        统计量（无量纲）；假设成立且次数够多时，近似服从自由度 K − 1 的卡方分布。

    Raises:
        ValueError: 形状不符，次数为负，或 probabilities 不是处处为正的分布。

    出处:
        Pearson 1900。

    示例:
        >>> chi_square_statistic(torch.tensor([60.0, 40.0]), torch.tensor([0.5, 0.5]))
        tensor(4.)
    """
    require_floats("counts", counts, "K")
    require_positive_distribution("probabilities", probabilities, len(counts))
    if (counts < 0).any():
        raise ValueError(f"counts 的元素必须非负，得到 {counts.min().item()}")
    expected = counts.sum() * probabilities
    return ((counts - expected).square() / expected).sum()


def chi_square_noncentrality(
    p: Float[Tensor, " K"], q: Float[Tensor, " K"], count: int
) -> Float[Tensor, ""]:
    r"""样本其实来自 q 时，对 p 的卡方统计量的非中心参数 λ。

    Args:
        p: 假设的分布，每个元素为正，和为 1。
        q: 样本真正的分布，和为 1。
        count: 样本的个数 N。

    Returns:
        λ（无量纲），与 N 成正比；统计量近似服从自由度 K − 1、非中心参数 λ 的非中心卡方分布，
        期望约为 K − 1 + λ。

    Raises:
        ValueError: 形状不符，p 不是处处为正的分布，q 不是分布，或 count 不是正整数。

    出处:
        Cohen 1988 所用的功效近似。

    示例:
        >>> p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.6, 0.4])
        >>> round(chi_square_noncentrality(p, q, 100).item(), 4)
        4.0
    """
    require_floats("q", q, "K")
    require_distribution("q", q)
    require_positive_distribution("p", p, len(q))
    require_count("count", count)
    return count * ((q - p).square() / p).sum()


def require_positive_distribution(name: str, value: Tensor, states: int) -> None:
    """要求 value 是 states 个状态上处处为正的分布。

    示例:
        >>> require_positive_distribution("p", torch.tensor([0.5, 0.5]), 2) is None
        True
    """
    require_floats(name, value, states)
    require_distribution(name, value)
    if not (value > 0).all():
        raise ValueError(f"{name} 的元素必须都是正数，得到 {value.min().item()}")
