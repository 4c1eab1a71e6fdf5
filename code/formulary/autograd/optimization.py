"""更新参数：裁剪、一步 SGD，以及一个常见的错。"""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from formulary.checks import require_floats


def clip_by_norm(
    gradients: Sequence[Tensor], max_norm: float
) -> tuple[list[Tensor], Float[Tensor, ""]]:
    r"""把一组梯度看作一个长向量，范数超过上限就整体缩小。

    Args:
        gradients: 各参数的梯度，形状任意。
        max_norm: 上限 $c$（与梯度同单位）。

    Returns:
        缩小后的梯度（新张量）与缩小之前的范数。

    Raises:
        ValueError: gradients 为空，有一项不是浮点张量，或 max_norm 不是正数。

    约定:
        分母加 1e-6，与 torch.nn.utils.clip_grad_norm_ 相同；方向不变。

    出处:
        Pascanu et al. 2013, arXiv:1211.5063。

    示例:
        >>> clip_by_norm([torch.tensor([3.0]), torch.tensor([4.0])], max_norm=10.0)
        ([tensor([3.]), tensor([4.])], tensor(5.))
    """
    if not gradients:
        raise ValueError("gradients 至少要有一项，得到空列表")
    for i, gradient in enumerate(gradients):
        require_floats(f"gradients[{i}]", gradient)
    if not max_norm > 0:
        raise ValueError(f"max_norm 必须是正数，得到 {max_norm!r}")
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    scale = (max_norm / (norm + 1e-6)).clamp(max=1)
    return [gradient * scale for gradient in gradients], norm


def sgd_step(parameters: Iterable[Tensor], learning_rate: float) -> None:
    r"""一步梯度下降，就地修改参数；没有梯度的参数不动。

    Args:
        parameters: 叶子张量。
        learning_rate: $\eta$（参数单位的平方除以损失的单位）。

    Raises:
        ValueError: 有参数不是浮点张量，或 learning_rate 为负。

    约定:
        更新放在 no_grad 里：它是训练的步骤，不是模型的一部分，不该记到图上；
        没有 no_grad，就地修改要梯度的叶子会被 PyTorch 拒绝。不清空 .grad。

    示例:
        >>> w = torch.tensor([3.0], requires_grad=True)
        >>> w.square().sum().backward()
        >>> sgd_step([w], learning_rate=0.25)
        >>> w
        tensor([1.5000], requires_grad=True)
    """
    _require_rate(learning_rate)
    with torch.no_grad():
        for parameter in parameters:
            require_floats("parameters 的每一项", parameter)
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=learning_rate)


def step_after_replacement(
    layer: nn.Linear,
    weight: Float[Tensor, "d_out d_in"],
    x: Float[Tensor, "B d_in"],
    learning_rate: float,
) -> Float[Tensor, "d_out d_in"]:
    r"""错的：建好优化器之后换掉权重，再走一步；新的权重一动不动。

    Args:
        layer: 线性层，就地修改。
        weight: 新的权重。
        x: 一批输入，损失是输出的平方和。
        learning_rate: $\eta$。

    Returns:
        走完一步之后 layer.weight 的值，仍等于 weight。

    Raises:
        ValueError: weight 的形状与 layer 不符，x 的宽度不对，或 learning_rate 为负。

    约定:
        优化器按张量对象记住参数，不按名字。

    示例:
        >>> layer = nn.Linear(1, 1)
        >>> step_after_replacement(layer, torch.ones(1, 1), torch.ones(2, 1), 0.1)
        tensor([[1.]])
    """
    require_floats("weight", weight, *layer.weight.shape)
    require_floats("x", x, "B", weight.shape[1])
    _require_rate(learning_rate)
    optimizer = torch.optim.SGD(layer.parameters(), lr=learning_rate)
    layer.weight = nn.Parameter(weight.clone())  # 优化器手里还是旧的那个
    layer(x).square().sum().backward()
    optimizer.step()
    return layer.weight.detach()


def _require_rate(learning_rate: float) -> None:
    """学习率不能是负数。"""
    if not learning_rate >= 0:
        raise ValueError(f"learning_rate 必须不小于 0，得到 {learning_rate!r}")
