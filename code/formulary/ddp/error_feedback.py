"""误差反馈：压掉的部分加回下一步，累积起来一点不丢。"""

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats
from formulary.ddp.power_sgd import power_sgd_round


def compressed_sums(
    gradients: Float[Tensor, "N rows cols"], q: Float[Tensor, "cols r"], feedback: bool = True
) -> tuple[Float[Tensor, "N rows cols"], Float[Tensor, "N rows cols"]]:
    r"""逐步压缩一列梯度矩阵：到每一步为止近似值的累积和，与那一步之后留下的误差。

    Args:
        gradients: 各步的（平均）梯度矩阵，一项一步。
        q: 初始的 Q。
        feedback: 是否把误差加回下一步。

    Returns:
        累积和与误差，形状都与 gradients 相同；两者之和是梯度的累积和（有误差反馈时）。

    Raises:
        ValueError: 形状对不上。

    约定:
        压缩只用到 Δ_k 的平均，所以 N 个 rank 的结果与一个 rank 拿着平均梯度的相同。

    示例:
        >>> steps = torch.eye(2).expand(3, 2, 2)
        >>> sums, errors = compressed_sums(steps, torch.tensor([[1.0], [0.0]]))
        >>> (sums + errors)[-1]
        tensor([[3., 0.],
                [0., 3.]])
    """
    require_floats("gradients", gradients, "N", "rows", "cols")
    require_floats("q", q, gradients.shape[2], "r")
    error, total = torch.zeros_like(gradients[0]), torch.zeros_like(gradients[0])
    sums, errors = [], []
    for gradient in gradients:
        delta = gradient + error if feedback else gradient
        (basis,), (q,) = power_sgd_round([delta], [q])
        error = delta - basis @ q.T
        total = total + basis @ q.T
        sums.append(total)
        errors.append(error)
    return torch.stack(sums), torch.stack(errors)
