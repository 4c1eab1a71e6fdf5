"""Proofs of formulary.rope.cache."""

import math

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from formulary.rope.cache import (
    KeyValueCache,
    decode_rotation_flops,
    rerotate_keys,
    rotation_flops,
    rotation_share,
)
from formulary.rope.rotation import rotate_interleaved

BASE = 53.0


def draw(seed: int, *batch: int, tokens: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Random q, k (d = 6) and v (e = 4), float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(width: int) -> Tensor:
        return torch.randn(*batch, tokens, width, generator=generator, dtype=torch.float64)

    return normal(6), normal(6), normal(4)


def dense(position: float, d: int, base: float = BASE) -> Tensor:
    """The d×d block rotation, written out entry by entry."""
    matrix = torch.zeros(d, d, dtype=torch.float64)
    for i in range(d // 2):
        angle = position * base ** (-2 * i / d)
        matrix[2 * i, 2 * i] = matrix[2 * i + 1, 2 * i + 1] = math.cos(angle)
        matrix[2 * i, 2 * i + 1] = -math.sin(angle)
        matrix[2 * i + 1, 2 * i] = math.sin(angle)
    return matrix


def full_causal(q: Tensor, k: Tensor, v: Tensor, positions: list[int]) -> Tensor:
    """Causal attention in one pass, score by score, from dense relative rotations."""
    out = []
    for t, m in enumerate(positions):
        scores = [
            (q[t] @ dense(positions[j] - m, 6) @ k[j]).item() / math.sqrt(6) for j in range(t + 1)
        ]
        weights = [math.exp(score - max(scores)) for score in scores]
        out.append(sum(w * row for w, row in zip(weights, v, strict=False)) / sum(weights))
    return torch.stack(out)


def decode(cache: KeyValueCache, q: Tensor, k: Tensor, v: Tensor, steps: list[int]) -> Tensor:
    """Feed the tokens in chunks of the given sizes and join the outputs."""
    outputs = []
    for rows in zip(*(x.split(steps, dim=-2) for x in (q, k, v)), strict=True):
        cache.append(*rows[1:])
        outputs.append(cache.attend(rows[0]))
    return torch.cat(outputs, dim=-2)


def test_KeyValueCache__matches_full_causal_pass() -> None:
    """逐个词元解码，与用稠密矩阵一次算完的因果注意力一致。"""
    for seed in range(10):
        q, k, v = draw(seed)
        actual = decode(KeyValueCache(7, BASE), q, k, v, [1] * 7)
        torch.testing.assert_close(actual, full_causal(q, k, v, list(range(7))))


def test_KeyValueCache__matches_scaled_dot_product_attention_in_chunks() -> None:
    """带批次轴、先填 4 个再解码，与 torch 的因果注意力一致。"""
    q, k, v = draw(20, 2, 3)
    turn = torch.stack([dense(m, 6) for m in range(7)])  # (T, d, d)
    rotated_q = torch.einsum("tij,bhtj->bhti", turn, q)
    rotated_k = torch.einsum("tij,bhtj->bhti", turn, k)
    expected = torch.nn.functional.scaled_dot_product_attention(
        rotated_q, rotated_k, v, is_causal=True
    )
    torch.testing.assert_close(decode(KeyValueCache(9, BASE), q, k, v, [4, 1, 2]), expected)


def test_KeyValueCache__is_invariant_to_start() -> None:
    """从位置 1000 开始与从 0 开始，输出相同。"""
    q, k, v = draw(21)
    here = decode(KeyValueCache(7, BASE), q, k, v, [3, 4])
    there = decode(KeyValueCache(7, BASE, start=1000), q, k, v, [3, 4])
    torch.testing.assert_close(there, here)


def test_KeyValueCache__equals_worked_states() -> None:
    """长度、下一个位置与存下的键：第 j 行是转到 start + j 的键。"""
    _, k, v = draw(22)
    cache = KeyValueCache(8, BASE, start=5)
    assert (len(cache), cache.offset) == (0, 5)
    cache.append(k[:3], v[:3])
    cache.append(k[3:], v[3:])
    assert (len(cache), cache.offset, cache.capacity) == (7, 12, 8)
    expected = torch.stack([dense(5 + j, 6) @ k[j] for j in range(7)])
    torch.testing.assert_close(cache.keys, expected)
    torch.testing.assert_close(cache.values, v)


def test_KeyValueCache__equals_hand_example() -> None:
    """q 与键都是 (1, 0)、θ = 1：第 2 步的输出是 2.781；忘了偏移，分数倒过来，是 1.873。"""
    one = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    cache = KeyValueCache(3)
    for value in (1.0, 2.0, 4.0):
        cache.append(one, torch.tensor([[value]], dtype=torch.float64))
    weights = [math.exp(math.cos(distance) / math.sqrt(2)) for distance in (2, 1, 0)]
    expected = (weights[0] + 2 * weights[1] + 4 * weights[2]) / sum(weights)
    torch.testing.assert_close(cache.attend(one).item(), expected)
    assert [round(math.cos(distance), 3) for distance in (2, 1, 0)] == [-0.416, 0.54, 1.0]
    assert round(expected, 3) == 2.781
    forgotten = (4 * weights[0] + 2 * weights[1] + weights[2]) / sum(weights)
    assert round(forgotten, 3) == 1.873


def test_KeyValueCache__differs_from_query_without_offset() -> None:
    """单个查询被当成位置 0 来旋转（忘了偏移），输出偏离 0.1 以上；加上偏移则一致。"""
    q, k, v = draw(23)
    cache = KeyValueCache(7, BASE)
    cache.append(k, v)
    right = cache.attend(q[-1:])

    def attend_at(position: int) -> Tensor:
        turned = rotate_interleaved(q[-1:], torch.tensor([position]), BASE)
        return (turned @ cache.keys.mT / math.sqrt(6)).softmax(-1) @ cache.values

    torch.testing.assert_close(attend_at(6), right)
    assert (attend_at(0) - right).abs().max() > 0.1


def test_KeyValueCache__differs_from_rotating_stored_keys_again() -> None:
    """把已旋转的键再整体转一遍（二次旋转），相对距离变成两倍的键位置，输出偏离 0.1 以上。"""
    q, k, v = draw(24)
    cache = KeyValueCache(7, BASE)
    cache.append(k, v)
    twice = rotate_interleaved(cache.keys, torch.arange(7), BASE)
    turned = rotate_interleaved(q[-1:], torch.tensor([6]), BASE)
    wrong = (turned @ twice.mT / math.sqrt(6)).softmax(-1) @ cache.values
    torch.testing.assert_close(twice[5], dense(10, 6) @ k[5])
    assert (wrong - cache.attend(q[-1:])).abs().max() > 0.1


def test_KeyValueCache__preserves_consecutive_positions_after_evict() -> None:
    """删去第 2、3 个词元，等于从头只存其余词元；再添词元仍然一致。"""
    q, k, v = draw(25, 2)
    cache = KeyValueCache(7, BASE, start=3)
    cache.append(k[:, :6], v[:, :6])
    cache.evict(first=2, count=2)
    kept = torch.tensor([0, 1, 4, 5, 6])
    cache.append(k[:, 6:], v[:, 6:])
    fresh = KeyValueCache(5, BASE, start=3)
    fresh.append(k[:, kept], v[:, kept])
    assert (len(cache), cache.offset) == (len(fresh), fresh.offset) == (5, 8)
    torch.testing.assert_close(cache.keys, fresh.keys)
    torch.testing.assert_close(cache.attend(q[:, 5:]), fresh.attend(q[:, 5:]))


def test_KeyValueCache__is_invariant_to_rerotation_when_oldest_are_evicted() -> None:
    """只删最旧的词元时，不重旋转、保留原位置，注意力输出也一样。"""
    q, k, v = draw(26)
    cache = KeyValueCache(7, BASE)
    cache.append(k, v)
    turned = rotate_interleaved(q[-1:], torch.tensor([6]), BASE)
    expected = (turned @ cache.keys[3:].mT / math.sqrt(6)).softmax(-1) @ v[3:]
    cache.evict(first=0, count=3)
    torch.testing.assert_close(cache.attend(q[-1:]), expected)


def test_KeyValueCache__is_invariant_to_evicting_nothing() -> None:
    """删 0 个词元，状态不变；不写底数时取 10000。"""
    _, k, v = draw(36)
    cache = KeyValueCache(7)
    cache.append(k, v)
    cache.evict(3, 0)
    assert (len(cache), cache.offset) == (7, 7)
    expected = torch.stack([dense(j, 6, 10_000.0) @ k[j] for j in range(7)])
    torch.testing.assert_close(cache.keys, expected)


def test_KeyValueCache__rejects_bad_limits() -> None:
    """容量不是正数、起始位置为负时报错；容量 1 可以用。"""
    with pytest.raises(ValueError, match="capacity"):
        KeyValueCache(0)
    with pytest.raises(ValueError, match="start"):
        KeyValueCache(1, start=-1)
    assert len(KeyValueCache(1)) == 0


def test_KeyValueCache__rejects_overflow_and_keeps_state() -> None:
    """超出容量时报错，缓存原样不动。"""
    _, k, v = draw(27)
    cache = KeyValueCache(8)
    cache.append(k, v)
    with pytest.raises(ValueError, match="已有 7 个词元，再加 2 个"):
        cache.append(k[:2], v[:2])
    assert (len(cache), cache.offset) == (7, 7)
    cache.append(k[:1], v[:1])
    assert len(cache) == 8


def test_KeyValueCache__rejects_wrong_shapes() -> None:
    """k 与 v 的词元数不等，或批次轴、末维与缓存不符时报错，缓存原样不动。"""
    q, k, v = draw(28, 2)
    cache = KeyValueCache(50)
    with pytest.raises(ValueError, match="k 与 v"):
        cache.append(k, v[:, 1:])
    cache.append(k, v)
    for bad in ((k[:, :, 2:], v), (k, v[:, :, 1:]), (k[:1], v[:1])):
        with pytest.raises(ValueError, match="与缓存一致"):
            cache.append(*bad)
    for bad_query in (q[:1], q[:, :, 2:]):
        with pytest.raises(ValueError, match="q 的批次轴"):
            cache.attend(bad_query)
    assert (len(cache), cache.offset) == (7, 7)


def test_KeyValueCache__rejects_query_without_keys() -> None:
    """空缓存，或查询比缓存的词元多时报错。"""
    q, k, v = draw(29)
    cache = KeyValueCache(7)
    for rows in (q, q[:0]):
        with pytest.raises(ValueError, match="先 append"):
            cache.attend(rows)
    cache.append(k[:2], v[:2])
    with pytest.raises(ValueError, match="只有 2 个词元，q 却有 3 行"):
        cache.attend(q[:3])


def test_KeyValueCache__rejects_eviction_out_of_range() -> None:
    """删除的范围越界、为负，或缓存为空时报错。"""
    _, k, v = draw(30)
    cache = KeyValueCache(7)
    with pytest.raises(ValueError, match="超出缓存的 0 个"):
        cache.evict(0, 0)
    cache.append(k, v)
    for first, count in ((-1, 1), (3, -1), (5, 3)):
        with pytest.raises(ValueError, match="超出缓存的 7 个"):
            cache.evict(first, count)
    cache.evict(5, 2)
    assert (len(cache), cache.offset) == (5, 5)


def test_rerotate_keys__matches_dense_rotation() -> None:
    """与用稠密矩阵把原来的键直接转到新位置一致。"""
    for seed, shift in ((31, 4), (32, -9), (33, 0)):
        _, k, _ = draw(seed)
        rotated = torch.stack([dense(10 + 3 * j, 6) @ k[j] for j in range(7)])
        expected = torch.stack([dense(10 + 3 * j - shift, 6) @ k[j] for j in range(7)])
        torch.testing.assert_close(rerotate_keys(rotated, shift, BASE), expected)


def test_rerotate_keys__preserves_norms() -> None:
    """重旋转不改变每对特征的范数。"""
    _, k, _ = draw(34, 3)
    before = k.unflatten(-1, (3, 2)).norm(dim=-1)
    after = rerotate_keys(k, 12, BASE).unflatten(-1, (3, 2)).norm(dim=-1)
    torch.testing.assert_close(after, before)


def test_rerotate_keys__equals_hand_example_that_is_stuck_in_bfloat16() -> None:
    """θ = 0.001 的一对 (1, 1)：bfloat16 里每步都舍入回原值，1000 步一动不动，本该转 1 弧度。"""
    stuck = torch.ones(1, 4, dtype=torch.bfloat16)
    for _ in range(1000):
        stuck = rerotate_keys(stuck, 1, base=1e6)
    assert stuck[0, 2:].tolist() == [1.0, 1.0]
    right = rerotate_keys(torch.ones(1, 4, dtype=torch.float64), 1000, base=1e6)[0, 2:]
    expected = [math.cos(1) + math.sin(1), math.cos(1) - math.sin(1)]
    torch.testing.assert_close(right, torch.tensor(expected, dtype=torch.float64))
    assert [round(value, 3) for value in expected] == [1.382, -0.301]


def test_rerotate_keys__differs_from_repeated_steps_in_bfloat16() -> None:
    """bfloat16 里一步步转 1000 次，相对误差 0.51，一次转完只有 0.0016；float32 里 2.1e-5。"""
    generator = torch.Generator().manual_seed(35)
    k = torch.randn(64, 128, generator=generator)

    def relative_error(x: Tensor, expected: Tensor) -> float:
        return ((x.double() - expected).norm() / expected.norm()).item()

    errors = {}
    for dtype in (torch.bfloat16, torch.float32):
        start = k.to(dtype)
        exact = rerotate_keys(start.double(), 1000)
        once = relative_error(rerotate_keys(start, 1000), exact)
        moved = start
        for _ in range(1000):
            moved = rerotate_keys(moved, 1)
        errors[dtype] = once, relative_error(moved, exact)
    assert errors[torch.bfloat16] == pytest.approx((0.0016, 0.51), rel=0.05)
    assert errors[torch.float32][1] < 1e-4


def test_rerotate_keys__equals_base_10000_by_default() -> None:
    """不写底数时取 10000。"""
    _, k, _ = draw(37)
    expected = torch.stack([dense(-8, 6, 10_000.0) @ row for row in k])
    torch.testing.assert_close(rerotate_keys(k, 8), expected)


def test_rerotate_keys__rejects_vectors_and_odd_width() -> None:
    """少于两维，或 d 为奇数时报错。"""
    with pytest.raises(ValueError, match="至少要有"):
        rerotate_keys(torch.zeros(4), 1)
    with pytest.raises(ValueError, match="偶数"):
        rerotate_keys(torch.zeros(2, 3), 1)


class Counted:
    """A number that counts the multiplications and additions done with it."""

    done = 0

    def __init__(self, value: float) -> None:
        self.value = value

    def __mul__(self, other: "Counted") -> "Counted":
        Counted.done += 1
        return Counted(self.value * other.value)

    def __add__(self, other: "Counted") -> "Counted":
        Counted.done += 1
        return Counted(self.value + other.value)

    def __sub__(self, other: "Counted") -> "Counted":
        Counted.done += 1
        return Counted(self.value - other.value)


def count_rotation(vectors: int, d: int) -> int:
    """Operations counted while turning so many vectors pair by pair."""
    Counted.done = 0
    cos, sin = Counted(0.6), Counted(0.8)
    for _ in range(vectors):
        for _ in range(d // 2):
            a, b = Counted(1.0), Counted(2.0)
            assert (a * cos - b * sin).value == pytest.approx(-1.0)
            assert (a * sin + b * cos).value == pytest.approx(2.0)
    return Counted.done


def count_scores(rows: int, columns: int, d: int) -> int:
    """Operations counted while forming the scores, each from a zero."""
    Counted.done = 0
    for _ in range(rows * columns):
        total = Counted(0.0)
        for _ in range(d):
            total = total + Counted(1.0) * Counted(2.0)
    return Counted.done


def test_rotation_flops__matches_counted_operations() -> None:
    """与逐次数出来的乘法和加法次数相等。"""
    for batch, heads, tokens, d in ((1, 1, 1, 2), (2, 3, 5, 4), (1, 4, 3, 10)):
        expected = count_rotation(2 * batch * heads * tokens, d)
        assert rotation_flops(batch, heads, tokens, d) == expected


def test_rotation_flops__equals_worked_example() -> None:
    """B = 1、H = 32、N = 4096、d = 128：6·B·H·N·d = 100663296。"""
    assert rotation_flops(1, 32, 4096, 128) == 6 * 32 * 4096 * 128 == 100663296


def test_rotation_flops__rejects_odd_width_and_nothing() -> None:
    """d 为奇数，或有参数不是正数时报错。"""
    for bad in ((1, 1, 1, 3), (0, 1, 1, 2), (1, 0, 1, 2), (1, 1, 0, 2), (1, 1, 1, 0)):
        with pytest.raises(ValueError, match="正整数且 d 为偶数"):
            rotation_flops(*bad)


def test_rotation_share__matches_counted_operations() -> None:
    """与逐次数出来的两种运算次数之比相等。"""
    for tokens, d in ((3, 4), (8, 6)):
        expected = count_rotation(2 * tokens, d) / count_scores(tokens, tokens, d)
        assert rotation_share(1, 1, tokens, d) == pytest.approx(expected, rel=1e-15)


def test_rotation_share__matches_torch_flop_counter() -> None:
    """分母与 torch 的 FlopCounterMode 对 QKᵀ 的计数相符。"""
    q, k = torch.zeros(2, 3, 16, 8), torch.zeros(2, 3, 16, 8)
    with FlopCounterMode(display=False) as counter:
        q @ k.mT
    expected = rotation_flops(2, 3, 16, 8) / counter.get_total_flops()
    assert rotation_share(2, 3, 16, 8) == pytest.approx(expected, rel=1e-15)


def test_rotation_share__depends_only_on_tokens() -> None:
    """比值是 3/N，与批次、头数、维数无关；N = 4096 时不到千分之一。"""
    assert rotation_share(5, 7, 4096, 128) == rotation_share(1, 1, 4096, 2) == 3 / 4096 < 1e-3


def test_rotation_share__rejects_odd_width() -> None:
    """d 为奇数时报错。"""
    with pytest.raises(ValueError, match="偶数"):
        rotation_share(1, 1, 4, 5)


def test_decode_rotation_flops__matches_counted_operations() -> None:
    """缓存旋转后的键只转 2 个向量，缓存未旋转的键要转 n + 1 个，与数出来的次数相等。"""
    for length, d in ((1, 2), (5, 8)):
        expected = count_rotation(2, d), count_rotation(length + 1, d)
        assert decode_rotation_flops(length, d) == expected


def test_decode_rotation_flops__equals_worked_example() -> None:
    """n = 4096、d = 128：768 对 1573248，后者是同一步内积运算量的约 1.5 倍。"""
    assert decode_rotation_flops(4096, 128) == (768, 1573248)
    assert round(1573248 / count_scores(1, 4096, 128), 4) == 1.5004


def test_decode_rotation_flops__rejects_bad_sizes() -> None:
    """长度不是正数，或 d 不是正偶数时报错。"""
    for bad in ((0, 4), (3, 5), (3, 0)):
        with pytest.raises(ValueError, match="length 必须为正"):
            decode_rotation_flops(*bad)
