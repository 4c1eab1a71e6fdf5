"""RoPE 的频率：每对特征转得多快。

约定:
    d 维特征分成 d/2 对，i 从 0 起；角频率的单位是弧度每步，位置的单位是步。
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def inverse_frequencies(
    d: int, base: float = 10_000.0, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "pairs"]:
    r"""第 i 对特征的角频率 θ_i = base^(-2i/d)。

    Args:
        d: 特征维数，正偶数。
        base: 底数 b（无量纲），有限的正数。
        dtype: 返回值的浮点类型。

    Returns:
        d/2 个角频率（弧度/步），从 θ_0 = 1 起严格递减（base > 1 时）。

    Raises:
        ValueError: d 不是正偶数，base 不是有限的正数，或 dtype 不是浮点类型。

    约定:
        i 从 0 起；论文里 i 从 1 起，指数写作 -2(i-1)/d，数值相同。

    出处:
        Su et al. 2021, arXiv:2104.09864v5, 式 (15)。

    示例:
        >>> inverse_frequencies(4, base=100.0)
        tensor([1.0000, 0.1000])
    """
    if not isinstance(d, int) or d < 2 or d % 2:
        raise ValueError(f"d 必须是正偶数（每两维为一对），得到 d={d!r}")
    if not 0 < base < math.inf:
        raise ValueError(f"base 必须是有限的正数，得到 base={base!r}")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype 必须是实浮点类型，得到 dtype={dtype}")
    exponents = torch.arange(0, d, 2, dtype=dtype) / d  # (pairs,)
    return 1 / base**exponents
