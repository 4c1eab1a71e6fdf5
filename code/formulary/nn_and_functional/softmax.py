r"""数值稳定的 softmax 与它的对数：先减去最大值，指数就不会溢出。"""

from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_floats


def softmax(z: Float[Tensor, "*batch"], dim: int) -> Float[Tensor, "*batch"]:
    r"""沿 dim 取 softmax，先减去这一轴上的最大值。

    Args:
        z: 对数几率（无量纲）。
        dim: 和为 1 的那一轴；必须写明，没有默认值。

    Returns:
        概率，形状与 z 相同，沿 dim 的和为 1。

    Raises:
        ValueError: z 不是浮点张量、没有轴，或 dim 不是它的轴。

    出处:
        PyTorch 2.13, torch.nn.Softmax, torch.nn.functional.softmax。

    示例:
        >>> softmax(torch.tensor([1000.0, 1000.0]), dim=0)
        tensor([0.5000, 0.5000])
    """
    require_dimension(z, dim)
    exponentials = (z - z.amax(dim, keepdim=True)).exp()
    return exponentials / exponentials.sum(dim, keepdim=True)


def log_softmax(z: Float[Tensor, "*batch"], dim: int) -> Float[Tensor, "*batch"]:
    r"""取 softmax 的对数，不先算概率，因而不会出现 log 0。

    Args:
        z: 对数几率（无量纲）。
        dim: softmax 的轴。

    Returns:
        对数概率（nat），形状与 z 相同。

    Raises:
        ValueError: z 不是浮点张量、没有轴，或 dim 不是它的轴。

    出处:
        PyTorch 2.13, torch.nn.LogSoftmax, torch.nn.functional.log_softmax。

    示例:
        >>> log_softmax(torch.tensor([0.0, -200.0]), dim=0)
        tensor([   0., -200.])
    """
    require_dimension(z, dim)
    shifted = z - z.amax(dim, keepdim=True)
    return shifted - shifted.exp().sum(dim, keepdim=True).log()


def implicit_softmax_dim(ndim: int) -> int:
    r"""不写 dim 时，旧接口 F.softmax(x) 选的轴。

    Args:
        ndim: 输入的轴数。

    Returns:
        轴的下标：0、1、3 轴时为 0，其余为 1。

    Raises:
        ValueError: ndim 不是非负整数。

    约定:
        3 轴的输入多半是 (批量, 词元, 类别)，却沿批量归一化。PyTorch 为此发出 UserWarning。

    出处:
        PyTorch 2.13, torch/nn/functional.py, _get_softmax_dim。

    示例:
        >>> [implicit_softmax_dim(ndim) for ndim in (1, 2, 3, 4)]
        [0, 1, 0, 1]
    """
    if not isinstance(ndim, int) or isinstance(ndim, bool) or ndim < 0:
        raise ValueError(f"ndim 必须是非负整数，得到 {ndim!r}")
    return 0 if ndim in (0, 1, 3) else 1


def require_dimension(z: Tensor, dim: int) -> None:
    """要求 z 是至少一轴的浮点张量，dim 是它的一轴，且这一轴不空。"""
    require_floats("z", z)
    if z.ndim == 0 or not -z.ndim <= dim < z.ndim:
        raise ValueError(f"dim 必须是 z 的一轴，z 有 {z.ndim} 轴，得到 dim={dim}")
    if z.shape[dim] == 0:
        raise ValueError(f"z 的第 {dim} 轴是空的，形状为 {tuple(z.shape)}")
