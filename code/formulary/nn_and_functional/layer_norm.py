r"""逐样本的归一化：层归一化、组归一化、均方根归一化。

约定:
    统计只在一个样本之内求，训练与评估没有区别；方差都是有偏的。
"""

from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_count, require_floats

EPSILON = 1e-5  # PyTorch 的默认值


def layer_norm(
    x: Float[Tensor, "*batch d"],
    gamma: Float[Tensor, " d"],
    beta: Float[Tensor, " d"],
    epsilon: float = EPSILON,
) -> Float[Tensor, "*batch d"]:
    r"""沿最后一轴减去均值、除以标准差，再逐个缩放与平移。

    Args:
        x: 激活，每行一个样本或词元。
        gamma: 逐个特征的缩放。
        beta: 逐个特征的平移。
        epsilon: 根号里的常数。

    Returns:
        归一化之后的激活。

    Raises:
        ValueError: 形状或类型不符，或 epsilon 为负。

    出处:
        Ba et al. 2016, arXiv:1607.06450, 式 (4)。

    示例:
        >>> layer_norm(torch.tensor([[1.0, 3.0]]), torch.ones(2), torch.zeros(2))
        tensor([[-1.0000,  1.0000]])
    """
    _require_features(x, epsilon, gamma=gamma, beta=beta)
    mean = x.mean(-1, keepdim=True)
    variance = x.var(-1, unbiased=False, keepdim=True)
    return gamma * (x - mean) / (variance + epsilon).sqrt() + beta


def layer_norm_backward(
    grad_y: Float[Tensor, "*batch d"],
    x: Float[Tensor, "*batch d"],
    gamma: Float[Tensor, " d"],
    epsilon: float = EPSILON,
) -> Float[Tensor, "*batch d"]:
    r"""层归一化对输入的梯度。

    Args:
        grad_y: 损失对输出的梯度。
        x: 前向的输入。
        gamma: 逐个特征的缩放。
        epsilon: 根号里的常数。

    Returns:
        对 x 的梯度。

    Raises:
        ValueError: 形状或类型不符，或 epsilon 为负。

    示例:
        >>> layer_norm_backward(torch.ones(1, 2), torch.tensor([[1.0, 3.0]]), torch.ones(2))
        tensor([[0., 0.]])
    """
    _require_features(x, epsilon, gamma=gamma)
    require_floats("grad_y", grad_y, *x.shape)
    inverse = (x.var(-1, unbiased=False, keepdim=True) + epsilon).rsqrt()
    normalized = (x - x.mean(-1, keepdim=True)) * inverse
    g = gamma * grad_y
    projected = normalized * (g * normalized).mean(-1, keepdim=True)
    return inverse * (g - g.mean(-1, keepdim=True) - projected)


def group_norm(
    x: Float[Tensor, "B C ..."],
    groups: int,
    gamma: Float[Tensor, " C"],
    beta: Float[Tensor, " C"],
    epsilon: float = EPSILON,
) -> Float[Tensor, "B C ..."]:
    r"""把相邻的通道分组，每个样本的每一组各自归一化，再逐通道缩放与平移。

    Args:
        x: 激活，通道在第二轴。
        groups: 组数，整除通道数。
        gamma: 每个通道的缩放。
        beta: 每个通道的平移。
        epsilon: 根号里的常数。

    Returns:
        归一化之后的激活。

    Raises:
        ValueError: 形状或类型不符，组数不整除通道数，或 epsilon 为负。

    出处:
        Wu & He 2018, arXiv:1803.08494, §3。

    示例:
        >>> x = torch.tensor([[1.0, 3.0, 5.0, 5.0]])
        >>> group_norm(x, 2, torch.ones(4), torch.zeros(4))
        tensor([[-1.0000,  1.0000,  0.0000,  0.0000]])
    """
    require_floats("x", x)
    if x.ndim < 2:
        raise ValueError(f"x 至少要有两轴（批量、通道），得到形状 {tuple(x.shape)}")
    _require_epsilon(epsilon)
    require_count("groups", groups)
    if x.shape[1] % groups:
        raise ValueError(f"groups={groups} 必须整除通道数 {x.shape[1]}")
    require_floats("gamma", gamma, x.shape[1])
    require_floats("beta", beta, x.shape[1])
    grouped = x.reshape(len(x), groups, -1)
    mean = grouped.mean(-1, keepdim=True)
    variance = grouped.var(-1, unbiased=False, keepdim=True)
    normalized = ((grouped - mean) / (variance + epsilon).sqrt()).view_as(x)
    shape = (1, -1) + (1,) * (x.ndim - 2)
    return gamma.view(shape) * normalized + beta.view(shape)


def rms_norm(
    x: Float[Tensor, "*batch d"], gamma: Float[Tensor, " d"], epsilon: float = EPSILON
) -> Float[Tensor, "*batch d"]:
    r"""沿最后一轴除以均方根，不减均值，再逐个缩放。

    Args:
        x: 激活，每行一个样本或词元。
        gamma: 逐个特征的缩放。
        epsilon: 根号里的常数；nn.RMSNorm 不写时取计算所用浮点类型的机器精度（半精度按 float32）。

    Returns:
        归一化之后的激活。

    Raises:
        ValueError: 形状或类型不符，或 epsilon 为负。

    出处:
        Zhang & Sennrich 2019, arXiv:1910.07467, 式 (4)。

    示例:
        >>> rms_norm(torch.tensor([[3.0, -4.0]]), torch.ones(2), epsilon=0.0)
        tensor([[ 0.8485, -1.1314]])
    """
    _require_features(x, epsilon, gamma=gamma)
    return gamma * x * (x.square().mean(-1, keepdim=True) + epsilon).rsqrt()


def _require_epsilon(epsilon: float) -> None:
    """要求 epsilon 不为负。"""
    if not epsilon >= 0:
        raise ValueError(f"epsilon 不能为负，得到 {epsilon!r}")


def _require_features(x: Tensor, epsilon: float, **vectors: Tensor) -> None:
    """要求 x 至少一轴，epsilon 不为负，vectors 与 x 的最后一轴同长。"""
    require_floats("x", x)
    _require_epsilon(epsilon)
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"x 的最后一轴不能为空，得到形状 {tuple(x.shape)}")
    for name, value in vectors.items():
        require_floats(name, value, x.shape[-1])
