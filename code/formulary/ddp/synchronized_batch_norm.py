"""同步批归一化：训练时用全体 rank 的均值与方差，反向也跨 rank 求和；CPU 与 gloo 上就能跑。

约定:
    每个 rank 对自己的损失反向；对输入的梯度是各 rank 损失之和的，对 γ、β 的梯度只算本地的一份，
    留给 DDP 去平均。没有进程组时当作只有一个 rank，与 nn.BatchNorm 相同。
"""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from formulary.checks import require_count, require_floats
from formulary.ddp.moments import moments_over_ranks, sum_over_ranks


class SynchronizedNormalization(torch.autograd.Function):
    r"""按通道归一化再作仿射变换，统计与反向的两个和都跨 rank 求。

    用 SynchronizedNormalization.apply(x, weight, bias, eps) 调用，x 一行一个样本；
    返回 y、均值、方差（除以 n）与全体的样本数，后三项不可微。

    Raises:
        ValueError: 所有 rank 加起来不足两个样本。

    约定:
        前向一次全收集，每个 rank 送出 1 + 2C 个数；反向一次全归约，2C 个数。
        不支持二阶导数。

    出处:
        Ioffe & Szegedy 2015, arXiv:1502.03167；推导见正文。

    示例:
        >>> x, one = torch.tensor([[0.0], [2.0]]), torch.ones(1)
        >>> SynchronizedNormalization.apply(x, one, 0 * one, 3.0)[0].flatten()
        tensor([-0.5000,  0.5000])
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "N C"],
        weight: Float[Tensor, " C"],
        bias: Float[Tensor, " C"],
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """归一化，并为反向留下 x̂、γ、标准差的倒数与 n。"""
        n, mean, squares = moments_over_ranks(x)
        if n < 2:
            raise ValueError(f"x 在所有 rank 上合起来至少要有两个样本，得到 {int(n)} 个")
        variance = squares / n
        inverse_std = (variance + eps).rsqrt()
        normalized = (x - mean) * inverse_std
        ctx.save_for_backward(normalized, weight, inverse_std, n)
        ctx.mark_non_differentiable(mean, variance, n)
        return normalized * weight + bias, mean, variance, n

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, delta: Float[Tensor, "N C"], *_: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        """由输出的伴随 δ 求 x、γ、β 的梯度。"""
        normalized, weight, inverse_std, n = ctx.saved_tensors
        grad_weight, grad_bias = (delta * normalized).sum(dim=0), delta.sum(dim=0)
        sums = sum_over_ranks(torch.stack((grad_bias, grad_weight)))  # (2, C)
        mean_delta, mean_product = sums / n
        grad_x = weight * inverse_std * (delta - mean_delta - normalized * mean_product)
        return grad_x, grad_weight, grad_bias, None


class SynchronizedBatchNorm(nn.Module):
    r"""训练时用全体 rank 的批统计的批归一化，输入可以是二维（B, C）到任意维（B, C, …）。

    Args:
        num_features: 通道数 C（个）。
        eps: 加在方差上的常数。
        momentum: 新值在运行统计里的权重 ρ，在 (0, 1] 里。

    Raises:
        ValueError: 参数不合要求；或前向时通道数、dtype 不对，各 rank 不一致，
            合起来不足两个样本。

    约定:
        归一化用除以 n 的方差，运行方差用除以 n − 1 的；n 是全体的样本数（卷积的每一格算一个）。
        状态字典与 nn.BatchNorm1d、2d、3d 的可以互换。
        第一次训练前向时各 rank 核对一次通道数与 dtype，以后不再核对。

    出处:
        Ioffe & Szegedy 2015, arXiv:1502.03167；行为照 torch.nn.BatchNorm 与 SyncBatchNorm。

    示例:
        >>> from formulary.ddp.processes import run_ranks
        >>> x = torch.tensor([[1.0], [3.0]])
        >>> run_ranks(2, lambda: SynchronizedBatchNorm(1)(x[dist.get_rank()][None]).round().item())
        [-1.0, 1.0]
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        require_count("num_features", num_features)
        if not eps > 0:
            raise ValueError(f"eps 必须是正数，得到 {eps!r}")
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum 必须在 (0, 1] 里，得到 {momentum!r}")
        self.eps, self.momentum, self.agreed = eps, momentum, False
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Float[Tensor, "B C *batch"]) -> Float[Tensor, "B C *batch"]:
        """归一化；训练模式下各 rank 必须一起调用。"""
        if self.training and not self.agreed:
            self._agree(x)
        require_floats("x", x)
        if x.ndim < 2 or x.shape[1] != len(self.weight) or x.dtype != self.weight.dtype:
            needed = f"形状 (B, {len(self.weight)}, …)、{self.weight.dtype}"
            raise ValueError(f"x 必须是{needed}，得到 {tuple(x.shape)}、{x.dtype}")
        rows = x.movedim(1, -1).reshape(-1, len(self.weight))
        if self.training:
            y, mean, variance, n = SynchronizedNormalization.apply(
                rows, self.weight, self.bias, self.eps
            )
            self._track(mean, variance * n / (n - 1))
        else:
            normalized = (rows - self.running_mean) * (self.running_var + self.eps).rsqrt()
            y = normalized * self.weight + self.bias
        return y.view(x.movedim(1, -1).shape).movedim(-1, 1)

    @torch.no_grad()
    def _track(self, mean: Float[Tensor, " C"], variance: Float[Tensor, " C"]) -> None:
        """用新的均值与无偏方差更新运行统计。"""
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked += 1

    def _agree(self, x: Tensor) -> None:
        """核对各 rank 的通道数与 dtype；不一致时每个 rank 都抛出同一个错误，而不是卡住或崩溃。"""
        own = (tuple(self.weight.shape), tuple(x.shape[1:2]), str(x.dtype))
        found = [own]
        if dist.is_initialized():
            found = [own] * dist.get_world_size()
            dist.all_gather_object(found, own)
        if len(set(found)) > 1:
            told = "，".join(
                f"rank {rank} 的层是 {features}、输入是 {channels}、{dtype}"
                for rank, (features, channels, dtype) in enumerate(found)
            )
            raise ValueError(f"x 的通道数与 dtype 在各 rank 上必须相同，得到 {told}")
        self.agreed = True
