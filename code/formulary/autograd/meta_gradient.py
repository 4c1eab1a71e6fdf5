"""对一步梯度下降求导：元学习（MAML）的梯度，以及它为什么要用到二阶导数。"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.autograd.higher_order import hvp_forward_over_reverse
from formulary.checks import require_floats


def meta_gradient(
    function: Callable[[Tensor], Tensor], theta: Float[Tensor, " n"], step_size: float
) -> Float[Tensor, " n"]:
    r"""走一步之后的损失，对走之前的参数的梯度；让自动求导穿过这一步。

    Args:
        function: 损失 $L$，返回标量。
        theta: 走之前的参数 $\boldsymbol\theta$。
        step_size: 内层步长 $\alpha$（参数单位的平方除以损失的单位）。

    Returns:
        $\nabla_{\boldsymbol\theta}L(\boldsymbol\theta-\alpha\nabla L(\boldsymbol\theta))$。

    Raises:
        ValueError: theta 不是一维浮点张量，或 function 返回的不是标量。

    约定:
        内层梯度必须带 create_graph=True，否则它是常数，得到的是一阶近似。

    出处:
        Finn et al. 2017, arXiv:1703.03400。

    示例:
        >>> meta_gradient(lambda t: t.square().sum() / 2, torch.tensor([1.0]), step_size=0.5)
        tensor([0.2500])
    """
    require_floats("theta", theta, "n")
    theta = theta.detach().requires_grad_()
    loss = function(theta)
    if loss.ndim != 0:
        raise ValueError(f"function 必须返回标量，得到形状 {tuple(loss.shape)}")
    (inner,) = torch.autograd.grad(loss, theta, create_graph=True)
    return torch.autograd.grad(function(theta - step_size * inner), theta)[0]


def meta_gradient_by_hvp(
    function: Callable[[Tensor], Tensor], theta: Float[Tensor, " n"], step_size: float
) -> Float[Tensor, " n"]:
    r"""同一个梯度按公式算：g′ − αHg′，其中 g′ 是走完之后那一点的梯度。

    Args:
        function: 损失 $L$，返回标量。
        theta: 走之前的参数 $\boldsymbol\theta$。
        step_size: 内层步长 $\alpha$。

    Returns:
        $(\boldsymbol I-\alpha\boldsymbol H(\boldsymbol\theta))\,\boldsymbol g'$。

    Raises:
        ValueError: theta 不是一维浮点张量，或 function 返回的不是标量。

    约定:
        黑塞矩阵取在走之前的 θ 处，g′ 取在走之后；只要一次黑塞–向量积。

    出处:
        Finn et al. 2017, arXiv:1703.03400。

    示例:
        >>> meta_gradient_by_hvp(lambda t: t.square().sum() / 2, torch.tensor([1.0]), step_size=0.5)
        tensor([0.2500])
    """
    require_floats("theta", theta, "n")
    gradient = torch.func.grad(function)
    after = gradient(theta - step_size * gradient(theta))
    return after - step_size * hvp_forward_over_reverse(function, theta, after)


def meta_gradient_quadratic(
    matrix: Float[Tensor, "n n"], theta: Float[Tensor, " n"], step_size: float
) -> Float[Tensor, " n"]:
    r"""L(θ) = θᵀQθ/2 时的闭式：(I − αQ)Q(I − αQ)θ。

    Args:
        matrix: 对称矩阵 $\boldsymbol Q$。
        theta: 走之前的参数 $\boldsymbol\theta$。
        step_size: 内层步长 $\alpha$。

    Returns:
        梯度。

    Raises:
        ValueError: matrix 不是对称方阵，或 theta 的长度与它不符。

    示例:
        >>> meta_gradient_quadratic(torch.tensor([[1.0]]), torch.tensor([1.0]), step_size=0.5)
        tensor([0.2500])
    """
    require_floats("theta", theta, "n")
    require_floats("matrix", matrix, len(theta), len(theta))
    if not torch.equal(matrix, matrix.T):
        gap = (matrix - matrix.T).abs().max().item()
        raise ValueError(f"matrix 必须对称，与转置最多相差 {gap:.3g}；可换成 (Q + Qᵀ) / 2")
    shrink = torch.eye(len(theta), dtype=theta.dtype, device=theta.device) - step_size * matrix
    return shrink @ matrix @ shrink @ theta
