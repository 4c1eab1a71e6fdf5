"""RoPE 的代数性质：正交、可加、可逆、平移不变，以及不存激活的反向传播。

约定:
    交错布局：相邻两维 (2i, 2i+1) 为一对，转角是 位置·θ_i；R_m 作用在列向量上。
    位置可以是任意实数，单位是步。
"""

import math

import torch
from jaxtyping import Float, Num
from torch import Tensor

from formulary.rope.derivation import rotation_matrix
from formulary.rope.rotation import rotate_interleaved


def orthogonality(
    rotation: Float[Tensor, "d d"], q: Float[Tensor, " d"]
) -> tuple[Float[Tensor, "d d"], Float[Tensor, ""], Float[Tensor, ""]]:
    r"""矩阵的格拉姆矩阵、行列式，以及它作用之后向量的范数。

    Args:
        rotation: 旋转矩阵 R_m；别的方阵也能算，用来对照。
        q: 一个查询或键。

    Returns:
        RᵀR、det R、‖Rq‖；R 是旋转矩阵时分别是单位阵、1、‖q‖。

    Raises:
        ValueError: rotation 不是 d×d 的方阵，或 q 不是长为 d 的向量。

    出处:
        Su et al. 2021, arXiv:2104.09864v5；苏剑林，kexue.fm/archives/8265。

    示例:
        >>> quarter_turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
        >>> orthogonality(quarter_turn, torch.tensor([3.0, 4.0]))[1:]
        (tensor(1.), tensor(5.))
    """
    if q.ndim != 1 or rotation.shape != (len(q), len(q)):
        raise ValueError(
            f"rotation 须是 (d, d)、q 须是 (d,)，得到 {tuple(rotation.shape)} 与 {tuple(q.shape)}"
        )
    norm = torch.linalg.vector_norm(rotation @ q)
    return rotation.T @ rotation, torch.linalg.det(rotation), norm


def composition(
    x: Float[Tensor, "*batch T d"],
    first: Num[Tensor, " T"],
    second: Num[Tensor, " T"],
    base: float = 10_000.0,
) -> tuple[Float[Tensor, "*batch T d"], Float[Tensor, "*batch T d"]]:
    r"""接连旋转两次与一次转到底：R_s(R_t x) 与 R_{s+t} x。

    Args:
        x: 查询或键，每行一个词元，d 为偶数。
        first: 外层旋转的位置 s（步）。
        second: 内层旋转的位置 t（步）。
        base: 底数 b（无量纲）。

    Returns:
        R_s(R_t x) 与 R_{s+t} x，两者应相等。

    Raises:
        ValueError: d 为奇数，x 少于两维，或 first、second 不是长为 T 的向量。

    出处:
        由和角公式推出；KV 缓存的重旋转依赖它。

    示例:
        >>> quarter = torch.tensor([torch.pi / 2])
        >>> composition(torch.tensor([[1.0, 0.0]]), quarter, quarter)[0].round() + 0.0
        tensor([[-1.,  0.]])
    """
    twice = rotate_interleaved(rotate_interleaved(x, second, base), first, base)
    return twice, rotate_interleaved(x, first + second, base)


def inverse_rotations(
    d: int, position: float, base: float = 10_000.0, dtype: torch.dtype = torch.float32
) -> tuple[Float[Tensor, "d d"], Float[Tensor, "d d"], Float[Tensor, "d d"]]:
    r"""旋转矩阵的逆的三种写法：R_t⁻¹、R_{-t}、R_tᵀ。

    Args:
        d: 特征维数，正偶数。
        position: 位置 t（步），任意实数。
        base: 底数 b（无量纲）。
        dtype: 返回值的浮点类型。

    Returns:
        R_t⁻¹（解线性方程组得到）、R_{-t}（反向旋转）、R_tᵀ，三者应相等。

    Raises:
        ValueError: d 不是正偶数，或 base 不是有限的正数。

    出处:
        群的定义与正交性。

    示例:
        >>> inverse_rotations(2, torch.pi / 2)[1].round() + 0.0
        tensor([[ 0.,  1.],
                [-1.,  0.]])
    """
    rotation = rotation_matrix(position, d, base, dtype)
    return torch.linalg.inv(rotation), rotation_matrix(-position, d, base, dtype), rotation.T


def shifted_attention(
    q: Float[Tensor, "*batch T d"],
    k: Float[Tensor, "*batch S d"],
    shift: float,
    base: float = 10_000.0,
) -> Float[Tensor, "*batch T S"]:
    r"""全部位置平移 t 步之后的注意力权重；它与 t 无关。

    Args:
        q: 查询，第 m 行平移前的位置是 m。
        k: 键，第 n 行平移前的位置是 n。
        shift: 平移量 t（步），任意实数。
        base: 底数 b（无量纲）。

    Returns:
        softmax 之后的权重，每行之和为 1；没有因果掩码。

    Raises:
        ValueError: d 为奇数，q、k 少于两维或最后一维不同。

    出处:
        Su et al. 2021, arXiv:2104.09864v5, 式 (16)。

    示例:
        >>> q, k = torch.eye(2), torch.eye(2)
        >>> torch.allclose(shifted_attention(q, k, shift=0.0), shifted_attention(q, k, shift=7.0))
        True
    """
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q 与 k 的最后一维必须相同，得到 {tuple(q.shape)} 与 {tuple(k.shape)}")
    m = torch.arange(q.shape[-2], dtype=torch.float64) + shift
    n = torch.arange(k.shape[-2], dtype=torch.float64) + shift
    scores = rotate_interleaved(q, m, base) @ rotate_interleaved(k, n, base).mT
    return torch.softmax(scores / math.sqrt(q.shape[-1]), dim=-1)  # (*batch, T, S)


class RotaryFunction(torch.autograd.Function):
    r"""旋转及其反向传播：梯度按相反的位置旋转，除位置外不存任何张量。

    用法是 RotaryFunction.apply(x, positions, base)，参数与 rotate_interleaved 相同。

    Raises:
        ValueError: d 为奇数，x 少于两维，或 positions 不是长为 T 的向量。

    出处:
        由链式法则与 R_mᵀ = R_{-m} 推出。

    示例:
        >>> x = torch.tensor([[1.0, 2.0]], requires_grad=True)
        >>> RotaryFunction.apply(x, torch.tensor([torch.pi / 2]), 1e4)[0, 0].backward()
        >>> x.grad.round()
        tensor([[-0., -1.]])
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: Float[Tensor, "*batch T d"],
        positions: Num[Tensor, " T"],
        base: float,
    ) -> Float[Tensor, "*batch T d"]:
        ctx.save_for_backward(positions)
        ctx.base = base
        return rotate_interleaved(x, positions, base)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, gradient: Float[Tensor, "*batch T d"]
    ) -> tuple[Float[Tensor, "*batch T d"], None, None]:
        (positions,) = ctx.saved_tensors
        # 先转成浮点：无符号整数取负会绕回
        return rotate_interleaved(gradient, -positions.double(), ctx.base), None, None
