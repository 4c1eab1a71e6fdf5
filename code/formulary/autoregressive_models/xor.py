"""异或：FVSBN 学不会的最小例子。x_1、x_2 是两枚均匀的硬币，x_3 = x_1 ⊕ x_2。"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.autoregressive_models.bernoulli import bernoulli_log_prob, logit_gradient
from formulary.autoregressive_models.enumeration import binary_states
from formulary.checks import require_floats


def xor_states(dtype: torch.dtype = torch.float32) -> Float[Tensor, "rows n"]:
    r"""异或分布的四个状态，每个的概率都是 1/4。

    Args:
        dtype: 结果的浮点类型。

    Returns:
        四行三列，末列是前两列的异或。

    示例:
        >>> xor_states().tolist()
        [[0.0, 0.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
    """
    pairs = binary_states(2, dtype)
    return torch.cat((pairs, (pairs[:, :1] != pairs[:, 1:]).to(dtype)), dim=1)


def xor_regression_gradient(alpha: Float[Tensor, " K"]) -> Float[Tensor, " K"]:
    r"""用逻辑斯谛回归预测 x_3 时，平均 NLL 对 (α_0, α_1, α_2) 的梯度。

    Args:
        alpha: 截距与两个系数，长为 3。

    Returns:
        梯度（nat），长为 3；在原点处为零。

    Raises:
        ValueError: alpha 不是长为 3 的浮点张量。

    示例:
        >>> xor_regression_gradient(torch.zeros(3))
        tensor([0., 0., 0.])
    """
    require_floats("alpha", alpha, 3)
    states = xor_states(alpha.dtype)
    features = torch.cat((torch.ones_like(states[:, :1]), states[:, :2]), dim=1)  # (rows, 3)
    delta = logit_gradient((features @ alpha)[:, None], states[:, 2:])  # (rows, 1)
    return (delta * features).mean(0)


def xor_limit() -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    r"""异或分布上 FVSBN 能达到的最小期望 NLL，与异或分布的熵。

    Returns:
        两个标量（bit）：最小值 3 与熵 2。

    约定:
        期望 NLL 对参数是凸的，梯度在原点为零，所以最小值在原点取到。

    示例:
        >>> xor_limit()
        (tensor(3.), tensor(2.))
    """
    states = xor_states()
    best = -bernoulli_log_prob(torch.zeros_like(states), states).mean() / math.log(2)
    return best, torch.tensor(float(len(states))).log2()
