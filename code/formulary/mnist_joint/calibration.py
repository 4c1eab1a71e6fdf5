"""概率校准：可靠性表、期望校准误差，过分自信从哪里来，怎样用温度纠正。

约定:
    把握（confidence）是预测类别的后验概率。等宽的箱左开右闭：第 b 箱（从 0 起）收
    b/M < 把握 ≤ (b + 1)/M 的样本（M 是箱数），把握为 0 的归第 0 箱，把握恰为 1 的归最后一箱。
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from formulary.checks import require_count, require_floats, require_probabilities
from formulary.mnist_joint.naive_bayes import naive_bayes_log_joint


def reliability_table(
    confidence: Float[Tensor, " B"], correct: Bool[Tensor, " B"], bins: int = 10
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""可靠性表：把样本按把握分箱，每箱的样本数、准确率与平均把握。

    Args:
        confidence: 各样本的把握（无量纲）。
        correct: 各样本的预测是否正确。
        bins: 箱数。

    Returns:
        样本数、准确率、平均把握，各长 bins；空箱的准确率与把握记作 0。

    Raises:
        ValueError: confidence 不是概率；correct 不是同长的布尔张量；bins 不是正整数。

    出处:
        Guo et al. 2017, arXiv:1706.04599v2, 第 2 节。

    示例:
        >>> confidence = torch.tensor([0.5, 0.75, 1.0])
        >>> reliability_table(confidence, torch.tensor([False, True, True]), bins=2)
        (tensor([1., 2.]), tensor([0., 1.]), tensor([0.5000, 0.8750]))
    """
    require_count("bins", bins)
    require_floats("confidence", confidence, "B")
    require_probabilities("confidence", confidence)
    if correct.dtype != torch.bool or correct.shape != confidence.shape:
        raise ValueError(
            f"correct 必须是长 {len(confidence)} 的布尔张量，"
            f"得到 {correct.dtype}、{tuple(correct.shape)}"
        )
    edges = torch.arange(1, bins, dtype=confidence.dtype) / bins
    index = torch.bucketize(confidence, edges)  # 左开右闭
    empty = torch.zeros(bins, dtype=confidence.dtype)
    counts = empty.index_add(0, index, torch.ones_like(confidence))
    right = empty.index_add(0, index, correct.to(confidence.dtype))
    total = empty.index_add(0, index, confidence)
    return counts, right / counts.clamp(min=1), total / counts.clamp(min=1)


def expected_calibration_error(
    confidence: Float[Tensor, " B"], correct: Bool[Tensor, " B"], bins: int = 10
) -> Float[Tensor, ""]:
    r"""期望校准误差（ECE）：各箱准确率与平均把握之差的绝对值，按样本数加权平均。

    Args:
        confidence: 各样本的把握（无量纲）。
        correct: 各样本的预测是否正确。
        bins: 箱数。

    Returns:
        ECE（无量纲，在 0 与 1 之间）。

    Raises:
        ValueError: 条件同 reliability_table；没有样本。

    约定:
        每个样本恰好落在一个箱里。数值随箱数而变，报告时要写明。

    出处:
        Naeini et al. 2015; Guo et al. 2017, arXiv:1706.04599v2, 第 2 节。

    示例:
        >>> confidence = torch.tensor([0.5, 0.75, 1.0])
        >>> expected_calibration_error(confidence, torch.tensor([False, True, True]), bins=2)
        tensor(0.2500)
    """
    if len(confidence) == 0:
        raise ValueError("confidence 至少要有一个样本，得到 0 个")
    counts, accuracy, mean_confidence = reliability_table(confidence, correct, bins)
    return (counts * (accuracy - mean_confidence).abs()).sum() / len(confidence)


def repeated_log_joint(
    x: Float[Tensor, "B n"], theta: Float[Tensor, "K n"], prior: Float[Tensor, " K"], copies: int
) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K"]]:
    r"""每个像素抄 copies 份，朴素贝叶斯照样当作独立的证据：两种算法。

    Args:
        x: 二值样本，一行一个。
        theta: θ_ki = p(x_i = 1 | y = k)。
        prior: 类别先验 π，各项为正。
        copies: 每个像素抄几份，正整数。

    Returns:
        等式两边（nat）：真的抄写 x 与 theta 再算；log π 加上 copies 倍的对数似然。

    Raises:
        ValueError: 条件同 naive_bayes_log_joint；copies 不是正整数；prior 含 0。

    出处:
        由朴素贝叶斯的分解直接得到。

    示例:
        >>> theta, prior = torch.tensor([[0.75], [0.25]]), torch.tensor([0.5, 0.5])
        >>> repeated_log_joint(torch.ones(1, 1), theta, prior, copies=2)[1].softmax(dim=-1)
        tensor([[0.9000, 0.1000]])
    """
    require_count("copies", copies)
    if not (prior > 0).all():
        raise ValueError("prior 的元素必须都是正数")
    copied = naive_bayes_log_joint(x.repeat(1, copies), theta.repeat(1, copies), prior)
    likelihood = naive_bayes_log_joint(x, theta, prior) - prior.log()
    return copied, prior.log() + copies * likelihood


def tempered_posterior(log_joint: Float[Tensor, "B K"], temperature: float) -> Float[Tensor, "B K"]:
    r"""温度缩放：对数联合概率除以温度，再归一化。

    Args:
        log_joint: 每个样本、每个类别的 log p(x, y = k)（nat），只差一个与 k 无关的常数也行。
        temperature: 温度 T（无量纲），正数；大于 1 使分布变平，1 则不变。

    Returns:
        每行一个分布；哪一类最大不因温度而变。

    Raises:
        ValueError: log_joint 不是 (B, K) 的实浮点张量；temperature 不是正数。

    出处:
        Guo et al. 2017, arXiv:1706.04599v2, 第 4.2 节。

    示例:
        >>> tempered_posterior(torch.tensor([[0.9, 0.1]]).log(), temperature=2.0)
        tensor([[0.7500, 0.2500]])
    """
    require_floats("log_joint", log_joint, "B", "K")
    if not temperature > 0:
        raise ValueError(f"temperature 必须是正数，得到 {temperature}")
    return (log_joint / temperature).softmax(dim=-1)
