"""流模型：可逆变换加换元公式，精确的雅可比行列式与仿射耦合层。

约定:
    变换 f 从数据走向噪声，z = f(x)，基分布是标准正态；对数密度的单位是 nat。
    log|det ∂f/∂x| 取加号：f 把体积撑大的地方，密度也大。
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from formulary.checks import require_count, require_floats


def standard_normal_log_prob(z: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """标准正态的对数密度（nat），对 n 维求和。

    示例:
        >>> standard_normal_log_prob(torch.zeros(2))
        tensor(-1.8379)
    """
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)


def monotone_density(
    transform: Callable[[Tensor], Tensor], x: Float[Tensor, " N"]
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""一维换元的两端：分布函数的导数，与基密度乘以变换的导数。

    Args:
        transform: 逐元素、可导、严格递增的函数 f。
        x: 求密度的点。

    Returns:
        d/dx Φ(f(x))，与 φ(f(x)) f′(x)（x 的单位的倒数）；两者相等。

    Raises:
        ValueError: x 不是一维浮点张量，或 f 在某点的导数不是正数。

    约定:
        两端的导数都由自动求导得到，Φ 与 φ 是标准正态的分布函数与密度。

    出处:
        随机变量的换元，标准结果。

    示例:
        >>> left, right = monotone_density(lambda x: 2 * x + 1, torch.tensor([0.0, 0.5]))
        >>> left, right
        (tensor([0.4839, 0.1080]), tensor([0.4839, 0.1080]))
    """
    require_floats("x", x, "N")
    point = x.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(transform(point).sum(), point)
    if not (slope > 0).all():
        raise ValueError(f"transform 必须严格递增，导数的最小值是 {slope.min().item():.3g}")
    (left,) = torch.autograd.grad(torch.special.ndtr(transform(point)).sum(), point)
    return left, standard_normal_log_prob(transform(x)[:, None]).exp() * slope


def flow_log_prob(
    transform: Callable[[Tensor], Tensor], x: Float[Tensor, "B n"]
) -> Float[Tensor, " B"]:
    r"""换元公式的直接写法：求出整个雅可比矩阵，再取行列式。

    Args:
        transform: 可逆变换 f，接受并返回一个 n 维向量。
        x: 求密度的点。

    Returns:
        log p(x)（nat）。

    Raises:
        ValueError: x 不是二维浮点张量，或 f 在某点不可逆（行列式为零）。

    约定:
        雅可比矩阵要 n 次反向传播，行列式要 O(n³) 次乘法，只适合小的 n 与核对别的写法。

    出处:
        Rezende & Mohamed 2015, arXiv:1505.05770, 第 3 节。

    示例:
        >>> flow_log_prob(lambda x: 2 * x, torch.zeros(1, 2))
        tensor([-0.4516])
    """
    require_floats("x", x, "B", "n")
    z = torch.func.vmap(transform)(x)  # (B, n)
    jacobian = torch.func.vmap(torch.func.jacrev(transform))(x)  # (B, n, n)
    log_det = torch.linalg.slogdet(jacobian).logabsdet
    if not log_det.isfinite().all():
        raise ValueError("transform 在某个 x 处不可逆：雅可比行列式为零或不是有限数")
    return standard_normal_log_prob(z) + log_det


class AffineCoupling(nn.Module):
    r"""仿射耦合层：一半维度不动，另一半按不动的那一半算出的系数伸缩、平移。

    Args:
        n: 维数，至少 2。
        hidden: 隐藏层的宽度。
        flip: 为假时前一半（⌊n/2⌋ 维）不动，为真时其余的不动。

    Raises:
        ValueError: n 小于 2，hidden 不是正整数，或输入的形状不合。

    约定:
        y_b = x_b ⊙ exp(s) + t；s 用 2 tanh(·/2) 限制在 (−2, 2) 里，免得伸缩失控。
        末层从零开始，所以初始的变换是恒等变换。

    出处:
        Dinh et al. 2017, arXiv:1605.08803, 式 (4)、(5)。

    示例:
        >>> y, log_det = AffineCoupling(3, hidden=8)(torch.tensor([[1.0, 2.0, 3.0]]))
        >>> y.tolist(), log_det.tolist()
        ([[1.0, 2.0, 3.0]], [0.0])
    """

    def __init__(self, n: int, hidden: int, flip: bool = False) -> None:
        super().__init__()
        require_count("n", n, least=2)
        require_count("hidden", hidden)
        self.n, self.flip = n, flip
        fixed = n - n // 2 if flip else n // 2
        self.network = nn.Sequential(
            nn.Linear(fixed, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 2 * (n - fixed)),
        )
        nn.init.zeros_(self.network[-1].weight)
        nn.init.zeros_(self.network[-1].bias)

    def split(
        self, x: Float[Tensor, "*batch n"]
    ) -> tuple[Float[Tensor, "*batch k"], Float[Tensor, "*batch m"]]:
        """把各维分成不动的一半与要变的一半。"""
        require_floats("x", x, "...", self.n)
        first, second = x[..., : self.n // 2], x[..., self.n // 2 :]
        return (second, first) if self.flip else (first, second)

    def join(
        self, fixed: Float[Tensor, "*batch k"], changed: Float[Tensor, "*batch m"]
    ) -> Float[Tensor, "*batch n"]:
        """把两半拼回原来的次序。"""
        halves = (changed, fixed) if self.flip else (fixed, changed)
        return torch.cat(halves, dim=-1)

    def coefficients(
        self, fixed: Float[Tensor, "*batch k"]
    ) -> tuple[Float[Tensor, "*batch m"], Float[Tensor, "*batch m"]]:
        """对数伸缩 s 与平移 t，只依赖不动的一半。"""
        raw, shift = self.network(fixed).chunk(2, dim=-1)
        return 2 * torch.tanh(raw / 2), shift

    def forward(
        self, x: Float[Tensor, "*batch n"]
    ) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch"]]:
        """变换后的 y 与 log|det ∂y/∂x|（nat）。"""
        fixed, changed = self.split(x)
        log_scale, shift = self.coefficients(fixed)
        return self.join(fixed, changed * log_scale.exp() + shift), log_scale.sum(-1)

    def inverse(self, y: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """由 y 求回 x，不必求网络的反函数。"""
        fixed, changed = self.split(y)
        log_scale, shift = self.coefficients(fixed)
        return self.join(fixed, (changed - shift) * torch.exp(-log_scale))


class CouplingFlow(nn.Module):
    r"""一串仿射耦合层，相邻两层轮流固定不同的一半。

    Args:
        n: 维数，至少 2。
        layers: 耦合层的层数。
        hidden: 每层网络的隐藏层宽度。

    Raises:
        ValueError: 参数不合要求，或输入的形状不合。

    约定:
        forward 从数据走向噪声；各层的对数行列式相加。

    出处:
        Dinh et al. 2017, arXiv:1605.08803, 第 3 节。

    示例:
        >>> CouplingFlow(2, layers=4, hidden=8).log_prob(torch.zeros(1, 2)).tolist()
        [-1.8378770351409912]
    """

    def __init__(self, n: int, layers: int, hidden: int) -> None:
        super().__init__()
        require_count("layers", layers)
        self.couplings = nn.ModuleList(
            AffineCoupling(n, hidden, flip=bool(i % 2)) for i in range(layers)
        )

    def forward(
        self, x: Float[Tensor, "*batch n"]
    ) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch"]]:
        """噪声 z 与各层对数行列式之和（nat）。"""
        log_det = x.new_zeros(x.shape[:-1])
        for coupling in self.couplings:
            x, step = coupling(x)
            log_det = log_det + step
        return x, log_det

    def inverse(self, z: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """由噪声求回数据：各层倒着走。"""
        for coupling in reversed(self.couplings):
            z = coupling.inverse(z)
        return z

    def log_prob(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
        """对数密度（nat）。"""
        z, log_det = self(x)
        return standard_normal_log_prob(z) + log_det

    @torch.no_grad()
    def sample(self, samples: int, generator: torch.Generator) -> Float[Tensor, "N n"]:
        """从标准正态抽噪声，再走逆变换。"""
        require_count("samples", samples)
        n, dtype = self.couplings[0].n, self.couplings[0].network[0].weight.dtype
        return self.inverse(torch.randn(samples, n, dtype=dtype, generator=generator))
