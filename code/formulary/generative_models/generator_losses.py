"""生成器的两种损失，以及它们对判别器输出的导数。

约定:
    ℓ 是判别器给生成样本的对数几率，D = σ(ℓ)；损失都用来下降；期望取样本均值；单位 nat。
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from formulary.checks import require_floats


def saturating_loss(fake_logits: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    r"""极小极大博弈里生成器的损失 E log(1 − D(G(z)))。

    Args:
        fake_logits: 判别器给 N 个生成样本的对数几率（无量纲）。

    Returns:
        损失（nat），不大于 0。

    Raises:
        ValueError: fake_logits 不是一维的实浮点张量。

    出处:
        Goodfellow et al. 2014, arXiv:1406.2661, 式 (1) 的第二项。

    示例:
        >>> import torch
        >>> round(saturating_loss(torch.tensor([0.0, -8.0])).item(), 4)
        -0.3467
    """
    require_floats("fake_logits", fake_logits, "N")
    return F.logsigmoid(-fake_logits).mean()


def nonsaturating_loss(fake_logits: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    r"""生成器的非饱和损失 −E log D(G(z))。

    Args:
        fake_logits: 判别器给 N 个生成样本的对数几率（无量纲）。

    Returns:
        损失（nat），不小于 0。

    Raises:
        ValueError: fake_logits 不是一维的实浮点张量。

    约定:
        等于把生成样本标成“真”的二元交叉熵。

    出处:
        Goodfellow et al. 2014, arXiv:1406.2661, 第 3 节末段。

    示例:
        >>> import torch
        >>> round(nonsaturating_loss(torch.tensor([0.0, -8.0])).item(), 4)
        4.3467
    """
    require_floats("fake_logits", fake_logits, "N")
    return -F.logsigmoid(fake_logits).mean()


def generator_slopes(
    logits: Float[Tensor, "*batch"],
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    r"""单个生成样本的两种损失对 ℓ 的导数。

    Args:
        logits: 判别器给生成样本的对数几率 ℓ（无量纲）。

    Returns:
        饱和损失的导数 −σ(ℓ)，非饱和损失的导数 −(1 − σ(ℓ))（nat），都为负。

    Raises:
        ValueError: logits 不是实浮点张量。

    出处:
        由 Goodfellow et al. 2014, arXiv:1406.2661, 第 3 节的两种损失求导。

    示例:
        >>> import torch
        >>> saturating, nonsaturating = generator_slopes(torch.tensor([-2.0, 2.0]))
        >>> saturating, nonsaturating
        (tensor([-0.1192, -0.8808]), tensor([-0.8808, -0.1192]))
    """
    require_floats("logits", logits)
    return -logits.sigmoid(), -(-logits).sigmoid()
