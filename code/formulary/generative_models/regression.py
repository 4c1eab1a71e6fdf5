"""回归学到条件期望：去噪分数匹配、扩散与流匹配共用的一步论证。"""

from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_distribution, require_floats


def regression_decomposition(
    joint: Float[Tensor, "M K"], targets: Float[Tensor, " K"], prediction: Float[Tensor, " M"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    r"""均方误差分成两份：离条件期望多远，与目标自身的散布。

    Args:
        joint: 输入（M 种）与目标（K 种）的联合概率，总和为 1。
        targets: 目标的取值 u。
        prediction: 每种输入上的预测 f。

    Returns:
        E(f − u)²、E(f − E[u | 输入])²、E Var[u | 输入]；第一个等于后两个之和。

    Raises:
        ValueError: joint 不是概率分布；targets 或 prediction 的长度与 joint 不合。

    约定:
        概率为 0 的输入不计入任何一项。

    出处:
        方差分解；用于分数见 Vincent 2011，用于速度场见 Lipman et al. 2023, arXiv:2210.02747。

    示例:
        >>> joint = torch.tensor([[0.25, 0.25], [0.5, 0.0]])
        >>> regression_decomposition(joint, torch.tensor([2.0, 0.0]), torch.tensor([1.0, 1.0]))
        (tensor(1.), tensor(0.5000), tensor(0.5000))
    """
    require_floats("joint", joint, "M", "K")
    require_distribution("joint", joint.flatten())
    require_floats("targets", targets, joint.shape[1])
    require_floats("prediction", prediction, joint.shape[0])
    weight = joint.sum(1)  # (M,)
    mean = joint @ targets / weight.where(weight > 0, 1.0)  # (M,)
    total = (joint * (prediction[:, None] - targets).square()).sum()
    excess = (weight * (prediction - mean).square()).sum()
    spread = (joint * (targets - mean[:, None]).square()).sum()
    return total, excess, spread
