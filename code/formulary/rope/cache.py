"""推理时的 RoPE：键值缓存、键的重旋转与浮点运算量。

约定:
    缓存里放旋转过的键与不旋转的值；特征对取交错布局 (2i, 2i+1)。
    一次乘法或一次加法记作 1 FLOP，cos 与 sin 查表而来，不计入。
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from formulary.rope.rotation import rotate_interleaved


class KeyValueCache:
    r"""键值缓存：键按自己的位置转一次就存下，查询到来时直接取用。

    Args:
        capacity: 最多存多少个词元，正整数。
        base: 底数 b（无量纲）。
        start: 第一个词元的位置（步），非负整数。

    Raises:
        ValueError: capacity 不是正数，或 start 为负。

    约定:
        状态有三项：keys 是已旋转的键，values 是值，offset 是下一个词元的位置；
        各词元的位置相连，缓存的第 j 个词元的位置为 offset - len + j。

    示例:
        >>> cache = KeyValueCache(capacity=8)
        >>> cache.append(torch.zeros(3, 2), torch.tensor([[0.0], [3.0], [6.0]]))
        >>> cache.offset, cache.attend(torch.zeros(1, 2)).item()
        (3, 3.0)
    """

    def __init__(self, capacity: int, base: float = 10_000.0, start: int = 0) -> None:
        if capacity < 1:
            raise ValueError(f"capacity 必须是正整数，得到 {capacity}")
        if start < 0:
            raise ValueError(f"start 必须非负，得到 {start}")
        self.capacity, self.base, self.offset = capacity, base, start
        self.keys: Tensor | None = None  # (*batch, S, d)
        self.values: Tensor | None = None  # (*batch, S, e)

    def __len__(self) -> int:
        """已存的词元数。"""
        return 0 if self.keys is None else self.keys.shape[-2]

    def append(self, k: Float[Tensor, "*batch T d"], v: Float[Tensor, "*batch T e"]) -> None:
        """把 T 个新词元的键旋转到位置 offset、offset + 1、…，与值一起存下。"""
        if k.shape[:-1] != v.shape[:-1]:
            raise ValueError(f"k 与 v 除末维外必须同形，得到 {tuple(k.shape)} 与 {tuple(v.shape)}")
        tokens = k.shape[-2]
        if len(self) + tokens > self.capacity:
            raise ValueError(
                f"缓存已有 {len(self)} 个词元，再加 {tokens} 个超出 capacity={self.capacity}"
            )
        positions = torch.arange(self.offset, self.offset + tokens, device=k.device)
        k = rotate_interleaved(k, positions, self.base)
        if self.keys is not None:
            for name, new, old in (("k", k, self.keys), ("v", v, self.values)):
                if new.shape[:-2] != old.shape[:-2] or new.shape[-1] != old.shape[-1]:
                    raise ValueError(
                        f"{name} 的批次轴与末维必须与缓存一致，缓存为 {tuple(old.shape)}，"
                        f"得到 {tuple(new.shape)}"
                    )
            k, v = torch.cat((self.keys, k), dim=-2), torch.cat((self.values, v), dim=-2)
        self.keys, self.values = k, v
        self.offset += tokens

    def attend(self, q: Float[Tensor, "*batch T d"]) -> Float[Tensor, "*batch T e"]:
        """最后 T 个词元的查询的因果注意力输出；它们的键须已存入。"""
        tokens, stored = q.shape[-2], len(self)
        if self.keys is None or tokens > stored:
            raise ValueError(f"缓存只有 {stored} 个词元，q 却有 {tokens} 行：先 append 再 attend")
        if q.shape[:-2] != self.keys.shape[:-2] or q.shape[-1] != self.keys.shape[-1]:
            raise ValueError(
                f"q 的批次轴与末维必须与缓存的键 {tuple(self.keys.shape)} 一致，"
                f"得到 {tuple(q.shape)}"
            )
        positions = torch.arange(self.offset - tokens, self.offset, device=q.device)
        q = rotate_interleaved(q, positions, self.base)
        scores = q @ self.keys.mT / math.sqrt(q.shape[-1])  # (*batch, T, S)
        visible = torch.ones(tokens, stored, dtype=torch.bool, device=q.device)
        visible = visible.tril(stored - tokens)  # 第 t 个查询看得到前 S - T + t + 1 个键
        return scores.masked_fill(~visible, -math.inf).softmax(dim=-1) @ self.values

    def evict(self, first: int, count: int) -> None:
        """删去第 first 个起的 count 个词元，后面的键往回转 count 步补上空位。"""
        if self.keys is None or not 0 <= first <= first + count <= len(self):
            raise ValueError(f"first={first}、count={count} 超出缓存的 {len(self)} 个词元")
        moved = rerotate_keys(self.keys[..., first + count :, :], count, self.base)
        self.keys = torch.cat((self.keys[..., :first, :], moved), dim=-2)
        self.values = torch.cat(
            (self.values[..., :first, :], self.values[..., first + count :, :]), dim=-2
        )
        self.offset -= count


def rerotate_keys(
    rotated: Float[Tensor, "*batch S d"], shift: int, base: float = 10_000.0
) -> Float[Tensor, "*batch S d"]:
    r"""把已旋转的键的位置一律减去 shift，不需要原来的键，也不需要原来的位置。

    Args:
        rotated: 已旋转的键，各行位置任意。
        shift: 位置要减去多少（步），可正可负。
        base: 底数 b（无量纲），须与旋转时相同。

    Returns:
        位置减去 shift 之后的键。

    Raises:
        ValueError: d 为奇数，或 rotated 少于两维。

    示例:
        >>> k = rotate_interleaved(torch.tensor([[1.0, 0.0]]), torch.tensor([7]))
        >>> rerotate_keys(k, 7).round(decimals=4).abs().tolist()
        [[1.0, 0.0]]
    """
    if rotated.ndim < 2:
        raise ValueError(f"rotated 至少要有 (S, d) 两维，得到形状 {tuple(rotated.shape)}")
    back = torch.full((rotated.shape[-2],), -shift, device=rotated.device)
    return rotate_interleaved(rotated, back, base)


def rotation_flops(batch: int, heads: int, tokens: int, d: int) -> int:
    r"""旋转全部查询与键的浮点运算量：每对特征 4 次乘、2 次加。

    Args:
        batch: 批次大小 B。
        heads: 头数 H。
        tokens: 词元数 N。
        d: 每头的特征维数，偶数。

    Returns:
        FLOP 数 6·B·H·N·d。

    Raises:
        ValueError: 某个参数不是正数，或 d 为奇数。

    示例:
        >>> rotation_flops(batch=1, heads=1, tokens=1, d=2)
        12
    """
    if min(batch, heads, tokens, d) < 1 or d % 2:
        raise ValueError(
            f"batch、heads、tokens、d 必须是正整数且 d 为偶数，得到 {batch}、{heads}、{tokens}、{d}"
        )
    pairs = batch * heads * tokens * (d // 2)
    return 2 * (4 + 2) * pairs  # 查询与键各一遍


def rotation_share(batch: int, heads: int, tokens: int, d: int) -> float:
    r"""旋转的运算量与内积 QKᵀ 的运算量之比。

    Args:
        batch: 批次大小 B。
        heads: 头数 H。
        tokens: 词元数 N。
        d: 每头的特征维数，偶数。

    Returns:
        3 / N，与其余参数无关。

    Raises:
        ValueError: 某个参数不是正数，或 d 为奇数。

    示例:
        >>> rotation_share(batch=2, heads=8, tokens=1024, d=64) == 3 / 1024
        True
    """
    score_flops = 2 * batch * heads * tokens**2 * d  # 每个分数 d 次乘、d 次加
    return rotation_flops(batch=batch, heads=heads, tokens=tokens, d=d) / score_flops


def decode_rotation_flops(length: int, d: int) -> tuple[int, int]:
    r"""解码一步、一个头的旋转运算量：缓存旋转过的键，与缓存未旋转的键。

    Args:
        length: 这一步之后缓存里的词元数 n，含新词元。
        d: 每头的特征维数，偶数。

    Returns:
        缓存旋转后的键时 6d；缓存未旋转的键、每步全部重转时 3(n + 1)d。

    Raises:
        ValueError: length 不是正数，或 d 不是正偶数。

    示例:
        >>> decode_rotation_flops(length=4096, d=128)
        (768, 1573248)
    """
    if min(length, d) < 1 or d % 2:
        raise ValueError(f"length 必须为正、d 必须是正偶数，得到 length={length}、d={d}")
    vector = 3 * d  # 转一个向量
    return 2 * vector, (length + 1) * vector
