"""PowerSGD：用一步幂迭代把梯度矩阵压成两个瘦矩阵，再把压掉的部分留到下一步。"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from formulary.checks import require_count, require_floats
from formulary.ddp.compression import worth_compressing


def average_over_ranks(tensors: Sequence[Tensor]) -> list[Tensor]:
    """各 rank 的几个张量的平均：拼成一条消息，只全归约一次；没有进程组时原样返回。"""
    if not tensors or not dist.is_initialized():
        return list(tensors)
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    parts = (flat / dist.get_world_size()).split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def power_sgd_round(
    deltas: Sequence[Float[Tensor, "..."]], qs: Sequence[Float[Tensor, "..."]]
) -> tuple[list[Float[Tensor, "..."]], list[Float[Tensor, "..."]]]:
    r"""一轮压缩与平均：由各 rank 的 Δ_k 与公共的 Q，得到公共的正交基 P̂ 与新的 Q。

    Args:
        deltas: 本 rank 的几个矩阵 Δ_k，形状 (n_1, n_2)，各不相同也行。
        qs: 与之对应的 Q，形状 (n_2, r)，各 rank 相同。

    Returns:
        P̂ 的列表（各列正交归一）与新的 Q 的列表；近似是 P̂ Qᵀ，各 rank 相同。

    Raises:
        ValueError: 两个列表不等长，或形状对不上。

    约定:
        正交化用 QR 分解，零矩阵也不出 NaN；全归约恰好两次，与矩阵的个数无关。

    出处:
        Vogels et al. 2019, arXiv:1905.13727, 算法 1。

    示例:
        >>> (basis,), (q,) = power_sgd_round([torch.tensor([[3.0, 0.0]])], [torch.ones(2, 1)])
        >>> basis @ q.T
        tensor([[3., 0.]])
    """
    if len(deltas) != len(qs):
        raise ValueError(f"qs 必须与 deltas 等长，得到 {len(qs)} 与 {len(deltas)}")
    for delta, q in zip(deltas, qs, strict=True):
        require_floats("deltas 的每一项", delta, "rows", "cols")
        require_floats("qs 的每一项", q, delta.shape[1], "r")
    sketches = average_over_ranks([delta @ q for delta, q in zip(deltas, qs, strict=True)])
    bases = [torch.linalg.qr(sketch).Q for sketch in sketches]
    pairs = zip(deltas, bases, strict=True)
    return bases, average_over_ranks([delta.T @ basis for delta, basis in pairs])


class PowerSGDMemory:
    r"""PowerSGD 钩子的状态：每个参数在本 rank 上压掉的误差，与上一步的 Q。

    Args:
        r: 近似的秩（无量纲）。
        feedback: 是否把压掉的部分加回下一步的梯度。
        local_errors: 真则误差只记本 rank 自己的投影余量，假则记 Δ_k 减去公共的近似。
        minimum_ratio: 元素个数之比超过这个倍数才压。
        seed: 初始 Q 的种子，各 rank 必须相同。

    Raises:
        ValueError: r 不是正整数。

    约定:
        误差按参数记，不按桶记，所以 DDP 重建桶不影响它。它属于各 rank 自己，
        断点续训时要每个 rank 各存一份。

    示例:
        >>> memory = PowerSGDMemory(r=2)
        >>> memory.compresses(torch.zeros(8, 9)), memory.compresses(torch.zeros(8))
        (True, False)
    """

    def __init__(
        self,
        r: int,
        feedback: bool = True,
        local_errors: bool = False,
        minimum_ratio: float = 2.0,
        seed: int = 0,
    ) -> None:
        require_count("r", r)
        self.r, self.feedback, self.local_errors = r, feedback, local_errors
        self.minimum_ratio = minimum_ratio
        self.generator = torch.Generator().manual_seed(seed)
        self.errors: dict[Tensor, Tensor] = {}
        self.qs: dict[Tensor, Tensor] = {}

    def compresses(self, gradient: Tensor) -> bool:
        """这个参数的梯度值不值得压。"""
        return worth_compressing(gradient.shape, self.r, self.minimum_ratio)

    def recall(self, parameter: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """加上旧误差的 Δ_k 与上一步的 Q；第一次见到的参数，误差为零，Q 随机。"""
        matrix = gradient.reshape(len(gradient), -1)
        if parameter not in self.qs:
            shape = matrix.shape[1], min(self.r, *matrix.shape)
            start = torch.randn(shape, generator=self.generator, dtype=torch.float64)
            self.qs[parameter] = start.to(matrix)
            self.errors[parameter] = torch.zeros_like(matrix)
        return matrix + self.errors[parameter], self.qs[parameter]

    def remember(self, parameter: Tensor, delta: Tensor, basis: Tensor, q: Tensor) -> None:
        """记下新的 Q 与压掉的部分。"""
        self.qs[parameter] = q
        if self.feedback:
            kept = delta.T @ basis if self.local_errors else q
            self.errors[parameter] = delta - basis @ kept.T


def power_sgd_hook(memory: PowerSGDMemory, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    r"""PowerSGD 的通信钩子：矩阵压成低秩，偏置等不值得压的原样平均，都写回桶里。

    用法是 ddp.register_comm_hook(PowerSGDMemory(r=2), power_sgd_hook)。

    Args:
        memory: 本 rank 的状态，每个 DDP 模型一个。
        bucket: DDP 给的一桶梯度。

    Returns:
        已经完成的 Future，装着近似的平均梯度。

    Raises:
        ValueError: memory 不是 PowerSGDMemory。

    约定:
        通信是阻塞的，好读，但不与反向重叠；torch 自带的钩子把三步串成异步的。

    出处:
        Vogels et al. 2019, arXiv:1905.13727；torch 的 powerSGD_hook。

    示例:
        >>> from formulary.ddp.processes import run_ranks
        >>> def average():
        ...     model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(8, 6))
        ...     model.register_comm_hook(PowerSGDMemory(r=1), power_sgd_hook)
        ...     model(torch.ones(1, 8) * dist.get_rank()).sum().backward()
        ...     return model.module.weight.grad[0, :4]  # 秩为 1，没有损失
        >>> run_ranks(2, average)[0]
        tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """
    if not isinstance(memory, PowerSGDMemory):
        raise ValueError(f"memory 必须是 PowerSGDMemory，得到 {memory!r}")
    pairs = list(zip(bucket.parameters(), bucket.gradients(), strict=True))
    plain = [gradient for _, gradient in pairs if not memory.compresses(gradient)]
    chosen = [(p, gradient) for p, gradient in pairs if memory.compresses(gradient)]
    for gradient, mean in zip(plain, average_over_ranks(plain), strict=True):
        gradient.copy_(mean)
    recalled = [memory.recall(parameter, gradient) for parameter, gradient in chosen]
    deltas, old_qs = [delta for delta, _ in recalled], [q for _, q in recalled]
    bases, qs = power_sgd_round(deltas, old_qs)
    for (p, gradient), delta, basis, q in zip(chosen, deltas, bases, qs, strict=True):
        memory.remember(p, delta, basis, q)
        gradient.copy_((basis @ q.T).view_as(gradient))
    future: torch.futures.Future[Tensor] = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future
