"""Proofs of formulary.rope.linear_attention."""

import math

import pytest
import torch
from torch import Tensor

from formulary.rope.linear_attention import (
    causal_rotary_linear_attention,
    cosine_similarities,
    feature_order_scores,
    linear_attention,
    naive_rotary_linear_attention,
    positive_features,
    rotary_linear_attention,
    rotating_state_linear_attention,
)

BASE = 37.0


def feature(x: float) -> float:
    """Elu(x) + 1 for one number."""
    return math.exp(x) if x <= 0 else 1.0 + x


def turned(x: list[float], position: float, base: float = BASE) -> list[float]:
    """One vector turned pair by pair, by complex multiplication."""
    d, out = len(x), []
    for i in range(d // 2):
        angle = position * base ** (-2 * i / d)
        z = complex(x[2 * i], x[2 * i + 1]) * complex(math.cos(angle), math.sin(angle))
        out += [z.real, z.imag]
    return out


def dot(x: list[float], y: list[float]) -> float:
    """Inner product of two lists."""
    return sum(a * b for a, b in zip(x, y, strict=True))


def draw(seed: int, *, causal: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Random q, k, v of unequal sizes, one head, float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return normal(5, 6), normal(5 if causal else 7, 6), normal(5 if causal else 7, 3)


QUERY_POSITIONS, KEY_POSITIONS = (
    torch.tensor([4, 0, 9, 2, 11]),
    torch.tensor([1, 8, 3, 0, 5, 2, 13]),
)


def weighted(
    q: Tensor, k: Tensor, v: Tensor, at_q: list[float], at_k: list[float], mode: str
) -> Tensor:
    """Numerator and denominator summed key by key; `mode` says what is turned and what is seen."""
    out = []
    for i, row in enumerate(q.tolist()):
        fq = [feature(x) for x in row]
        top, below = [0.0] * v.shape[1], 0.0
        for j, key in enumerate(k.tolist()):
            if mode == "causal" and at_k[j] > at_q[i]:
                continue
            fk = [feature(x) for x in key]
            plain, rotary = dot(fq, fk), dot(turned(fq, at_q[i]), turned(fk, at_k[j]))
            weight = plain if mode == "plain" else rotary
            below += rotary if mode == "naive" else plain
            top = [t + weight * x for t, x in zip(top, v[j].tolist(), strict=True)]
        out.append([t / below for t in top])
    return torch.tensor(out, dtype=torch.float64)


def test_positive_features__matches_python_loop() -> None:
    """与逐个数计算的 elu + 1 一致。"""
    x = torch.tensor([[-40.0, -1.5, -0.0, 0.25, 3.0]], dtype=torch.float64)
    expected = torch.tensor([[feature(value) for value in x[0].tolist()]], dtype=torch.float64)
    torch.testing.assert_close(positive_features(x), expected, rtol=1e-12, atol=0.0)


def test_positive_features__matches_torch_elu_and_its_gradient() -> None:
    """值与梯度都和 torch 的 elu(x) + 1 相同，包括 x = 0 处。"""
    x = torch.tensor([[-2.0, 0.0, 0.7]], dtype=torch.float64, requires_grad=True)
    expected = torch.nn.functional.elu(x) + 1
    torch.testing.assert_close(positive_features(x), expected)
    actual_grad = torch.autograd.grad(positive_features(x).sum(), x)[0]
    torch.testing.assert_close(actual_grad, torch.autograd.grad(expected.sum(), x)[0])


def test_positive_features__is_positive_and_increasing() -> None:
    """处处为正、严格递增，在 0 处连续：φ(0) = 1。"""
    values = positive_features(torch.linspace(-30, 30, 61, dtype=torch.float64)[None])[0]
    assert values.min() > 0
    assert (values.diff() > 0).all()
    assert values[30] == 1


def test_positive_features__differs_from_elu_plus_one_in_float32() -> None:
    """x = -20 时 float32 的 elu(x) + 1 恰为 0，这里仍为 e^-20。"""
    x = torch.tensor([[-20.0]])
    assert (torch.nn.functional.elu(x) + 1).item() == 0.0
    torch.testing.assert_close(positive_features(x).item(), math.exp(-20), rtol=1e-6, atol=0.0)


def test_linear_attention__matches_key_by_key_sum() -> None:
    """与逐个键累加权重的二重循环一致。"""
    for seed in range(20):
        q, k, v = draw(seed)
        torch.testing.assert_close(
            linear_attention(q, k, v), weighted(q, k, v, [0.0] * 5, [0.0] * 7, "plain")
        )


def test_linear_attention__is_invariant_to_permuting_keys() -> None:
    """打乱键值的次序，输出不变：不含位置信息。"""
    q, k, v = draw(3)
    order = torch.tensor([6, 2, 0, 5, 1, 4, 3])
    torch.testing.assert_close(linear_attention(q, k[order], v[order]), linear_attention(q, k, v))


def test_linear_attention__bounds_output_by_values() -> None:
    """输出是 v 的加权平均，落在 v 各列的最小与最大值之间。"""
    q, k, v = draw(4)
    out = linear_attention(q, k, v)
    assert (out > v.min(0).values).all()
    assert (out < v.max(0).values).all()


def test_linear_attention__rejects_mismatched_shapes() -> None:
    """键与值的词元数、查询与键的维数、批次轴不等时报错。"""
    q, k, v = draw(0)
    for bad in ((q, k, v[1:]), (q[:, 1:], k, v), (q[None], k, v)):
        with pytest.raises(ValueError, match="形状"):
            linear_attention(*bad)


def test_feature_order_scores__matches_python_loop() -> None:
    """两种次序的核都与逐对复数乘法的循环一致。"""
    q, k, _ = draw(5)
    after, before = feature_order_scores(q, k, QUERY_POSITIONS, KEY_POSITIONS, BASE)
    for i, m in enumerate(QUERY_POSITIONS.tolist()):
        for j, n in enumerate(KEY_POSITIONS.tolist()):
            row, key = q[i].tolist(), k[j].tolist()
            first = dot(turned([feature(x) for x in row], m), turned([feature(x) for x in key], n))
            second = dot([feature(x) for x in turned(row, m)], [feature(x) for x in turned(key, n)])
            expected = torch.tensor([first, second], dtype=torch.float64)
            torch.testing.assert_close(torch.stack((after[i, j], before[i, j])), expected)


def test_feature_order_scores__depends_only_on_distance_if_rotated_last() -> None:
    """位置一齐加 5：先映射后旋转的核不变，先旋转后映射的核变化超过 1。"""
    q, k, _ = draw(6)
    here = feature_order_scores(q, k, QUERY_POSITIONS, KEY_POSITIONS, BASE)
    there = feature_order_scores(q, k, QUERY_POSITIONS + 5, KEY_POSITIONS + 5, BASE)
    torch.testing.assert_close(there[0], here[0])
    assert (there[1] - here[1]).abs().max() > 1


def test_feature_order_scores__equals_hand_example() -> None:
    """q = k = (0, 0)，相距 1 步：先映射给 2·cos 1，先旋转给 2，看不见位置。"""
    zero = torch.zeros(1, 2, dtype=torch.float64)
    after, before = feature_order_scores(zero, zero, torch.tensor([1]), torch.tensor([0]))
    torch.testing.assert_close(after.item(), 2 * math.cos(1))
    assert before.item() == 2


def test_feature_order_scores__equals_base_10000_by_default() -> None:
    """不写底数时取 10000。"""
    q, k, _ = draw(15)
    actual = feature_order_scores(q, k, QUERY_POSITIONS, KEY_POSITIONS)
    torch.testing.assert_close(
        actual, feature_order_scores(q, k, QUERY_POSITIONS, KEY_POSITIONS, 10_000.0)
    )


def test_feature_order_scores__rejects_unequal_features() -> None:
    """q 与 k 的特征维数不等时报错。"""
    with pytest.raises(ValueError, match="形状"):
        feature_order_scores(
            torch.zeros(1, 2), torch.zeros(1, 4), torch.tensor([0]), torch.tensor([0])
        )


def test_naive_rotary_linear_attention__matches_key_by_key_sum() -> None:
    """与分子分母都旋转的二重循环一致。"""
    for seed in range(5):
        q, k, v = draw(seed)
        expected = weighted(q, k, v, QUERY_POSITIONS.tolist(), KEY_POSITIONS.tolist(), "naive")
        actual = naive_rotary_linear_attention(q, k, v, QUERY_POSITIONS, KEY_POSITIONS, BASE)
        # 分母可以很小，误差随之放大
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


def test_naive_rotary_linear_attention__equals_hand_example() -> None:
    """φ(q) = φ(k) = (1, 1)、键在 0 到 3：分母 2·0.1342，v = (1,1,0,0) 的输出是 11.48。"""
    zero = torch.zeros(4, 2, dtype=torch.float64)
    v = torch.tensor([[1.0], [1.0], [0.0], [0.0]], dtype=torch.float64)
    actual = naive_rotary_linear_attention(zero[:1], zero, v, torch.tensor([0]), torch.arange(4))
    denominator = 1 + math.cos(1) + math.cos(2) + math.cos(3)
    assert round(denominator, 4) == 0.1342
    torch.testing.assert_close(actual.item(), (1 + math.cos(1)) / denominator)
    assert round(actual.item(), 2) == 11.48


def test_naive_rotary_linear_attention__differs_from_weighted_average() -> None:
    """键在 0 到 5 时分母为负：v = (1,1,0,0,0,0) 的输出是 -6.53，远在 [0, 1] 之外。"""
    zero, v = torch.zeros(6, 2, dtype=torch.float64), torch.zeros(6, 1, dtype=torch.float64)
    v[:2] = 1
    actual = naive_rotary_linear_attention(zero[:1], zero, v, torch.tensor([0]), torch.arange(6))
    assert sum(math.cos(j) for j in range(6)) < 0
    assert round(actual.item(), 2) == -6.53


def test_naive_rotary_linear_attention__equals_base_10000_by_default() -> None:
    """不写底数时取 10000。"""
    q, k, v = draw(15)
    actual = naive_rotary_linear_attention(q, k, v, QUERY_POSITIONS, KEY_POSITIONS)
    torch.testing.assert_close(
        actual, naive_rotary_linear_attention(q, k, v, QUERY_POSITIONS, KEY_POSITIONS, 10_000.0)
    )


def test_naive_rotary_linear_attention__rejects_mismatched_positions() -> None:
    """位置的个数与词元数不等时报错。"""
    q, k, v = draw(0)
    with pytest.raises(ValueError, match="positions"):
        naive_rotary_linear_attention(q, k, v, QUERY_POSITIONS[1:], KEY_POSITIONS)


def test_rotary_linear_attention__matches_key_by_key_sum() -> None:
    """与只在分子旋转的二重循环一致。"""
    for seed in range(20):
        q, k, v = draw(seed)
        expected = weighted(q, k, v, QUERY_POSITIONS.tolist(), KEY_POSITIONS.tolist(), "final")
        actual = rotary_linear_attention(q, k, v, QUERY_POSITIONS, KEY_POSITIONS, BASE)
        torch.testing.assert_close(actual, expected)


def test_rotary_linear_attention__is_invariant_to_shift() -> None:
    """查询与键的位置一齐平移，输出不变。"""
    q, k, v = draw(7)
    here = rotary_linear_attention(q, k, v, QUERY_POSITIONS, KEY_POSITIONS, BASE)
    there = rotary_linear_attention(q, k, v, QUERY_POSITIONS + 1000, KEY_POSITIONS + 1000, BASE)
    torch.testing.assert_close(there, here)


def test_rotary_linear_attention__equals_hand_example() -> None:
    """φ(q) = φ(k) = (1, 1)、键在 0 到 3：分母是 8，v = (1,1,0,0) 的输出是 0.3851。"""
    zero = torch.zeros(4, 2, dtype=torch.float64)
    v = torch.tensor([[1.0], [1.0], [0.0], [0.0]], dtype=torch.float64)
    actual = rotary_linear_attention(zero[:1], zero, v, torch.tensor([0]), torch.arange(4))
    torch.testing.assert_close(actual.item(), (1 + math.cos(1)) / 4)
    assert round(actual.item(), 4) == 0.3851


def test_rotary_linear_attention__limit_equal_positions() -> None:
    """全部位置相同时退化为不含位置的线性注意力。"""
    q, k, v = draw(8)
    actual = rotary_linear_attention(q, k, v, torch.full((5,), 6), torch.full((7,), 6), BASE)
    torch.testing.assert_close(actual, linear_attention(q, k, v))


def test_rotary_linear_attention__differs_from_bounded_weights() -> None:
    """φ(q) = (1, 0.01)、φ(k) = (0.01, 1)、相距 1 步：唯一的权重是 42.6，不限于 [-1, 1]。"""
    small = math.log(0.01)
    q, k = torch.tensor([[0.0, small]]).double(), torch.tensor([[small, 0.0]]).double()
    one = torch.ones(1, 1, dtype=torch.float64)
    weight = rotary_linear_attention(q, k, one, torch.tensor([1]), torch.tensor([0]))
    plain = 2 * 0.01
    expected = (plain * math.cos(1) + (1 - 0.01**2) * math.sin(1)) / plain
    torch.testing.assert_close(weight.item(), expected, rtol=1e-6, atol=0.0)  # 0.01 经 float32
    assert round(weight.item(), 1) == 42.6


def test_rotary_linear_attention__equals_base_10000_by_default() -> None:
    """不写底数时取 10000。"""
    q, k, v = draw(15)
    actual = rotary_linear_attention(q, k, v, QUERY_POSITIONS, KEY_POSITIONS)
    torch.testing.assert_close(
        actual, rotary_linear_attention(q, k, v, QUERY_POSITIONS, KEY_POSITIONS, 10_000.0)
    )


def test_rotary_linear_attention__rejects_mismatched_shapes() -> None:
    """键与值的词元数不等时报错。"""
    q, k, v = draw(0)
    with pytest.raises(ValueError, match="形状"):
        rotary_linear_attention(q, k, v[1:], QUERY_POSITIONS, KEY_POSITIONS)


def test_causal_rotary_linear_attention__matches_masked_sum() -> None:
    """与只累加 j ≤ i 的二重循环一致。"""
    for seed in range(20):
        q, k, v = draw(seed, causal=True)
        expected = weighted(q, k, v, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4], "causal")
        torch.testing.assert_close(causal_rotary_linear_attention(q, k, v, BASE), expected)


def test_causal_rotary_linear_attention__is_invariant_to_future_tokens() -> None:
    """改动第 3 个之后的键与值，前 3 步的输出不变；逐头计算与批次计算相同。"""
    q, k, v = draw(9, causal=True)
    other_k, other_v = k.clone(), v.clone()
    other_k[3:], other_v[3:] = 5.0, -7.0
    here = causal_rotary_linear_attention(q, k, v, BASE)
    there = causal_rotary_linear_attention(q, other_k, other_v, BASE)
    torch.testing.assert_close(there[:3], here[:3])
    batch = [torch.stack(pair) for pair in ((q, q), (k, other_k), (v, other_v))]
    torch.testing.assert_close(
        causal_rotary_linear_attention(*batch, BASE), torch.stack((here, there))
    )


def test_causal_rotary_linear_attention__limit_last_step() -> None:
    """最后一步看得到全部词元，与不带掩码的形式相同。"""
    q, k, v = draw(10, causal=True)
    last = rotary_linear_attention(q, k, v, torch.arange(5), torch.arange(5), BASE)[-1]
    torch.testing.assert_close(causal_rotary_linear_attention(q, k, v, BASE)[-1], last)


def test_causal_rotary_linear_attention__equals_base_10000_by_default() -> None:
    """不写底数时取 10000。"""
    q, k, v = draw(15, causal=True)
    actual = causal_rotary_linear_attention(q, k, v)
    torch.testing.assert_close(actual, causal_rotary_linear_attention(q, k, v, 10_000.0))


def test_causal_rotary_linear_attention__rejects_mismatched_shapes() -> None:
    """查询与键不同形，或键与值的词元数不等时报错。"""
    q, k, v = draw(0, causal=True)
    for bad in ((q[:, 2:], k, v), (q[1:], k, v), (q, k[1:], v)):
        with pytest.raises(ValueError, match="q 与 k 的形状必须相同"):
            causal_rotary_linear_attention(*bad)
    with pytest.raises(ValueError, match="q、k、v 的形状"):
        causal_rotary_linear_attention(q, k, v[1:])


def test_rotating_state_linear_attention__matches_masked_sum() -> None:
    """与只累加 j ≤ i 的二重循环一致。"""
    for seed in range(20):
        q, k, v = draw(seed, causal=True)
        expected = weighted(q, k, v, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4], "causal")
        torch.testing.assert_close(rotating_state_linear_attention(q, k, v, BASE), expected)


def test_rotating_state_linear_attention__is_invariant_to_future_tokens() -> None:
    """与旋转查询和键的递推相同，批次计算也相同，且不看未来。"""
    q, k, v = draw(11, causal=True)
    batch = [torch.stack(pair) for pair in ((q, 2 * q), (k, -k), (v, v.flip(0)))]
    torch.testing.assert_close(
        rotating_state_linear_attention(*batch, BASE),
        causal_rotary_linear_attention(*batch, BASE),
    )
    cut = rotating_state_linear_attention(q[:2], k[:2], v[:2], BASE)
    torch.testing.assert_close(rotating_state_linear_attention(q, k, v, BASE)[:2], cut)


def test_rotating_state_linear_attention__equals_hand_example() -> None:
    """特征全是 (1, 1)、v = (1, 0)：第 1 步的状态是 (1.3818, -0.3012)，输出是 0.2702。"""
    zero = torch.zeros(2, 2, dtype=torch.float64)
    v = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    state = [math.cos(1) + math.sin(1), math.cos(1) - math.sin(1)]
    assert [round(value, 4) for value in state] == [1.3818, -0.3012]
    out = rotating_state_linear_attention(zero, zero, v)
    torch.testing.assert_close(out[:, 0].tolist(), [1.0, sum(state) / 4])
    assert round(out[1, 0].item(), 4) == 0.2702


def test_rotating_state_linear_attention__equals_base_10000_by_default() -> None:
    """不写底数时取 10000。"""
    q, k, v = draw(15, causal=True)
    actual = rotating_state_linear_attention(q, k, v)
    torch.testing.assert_close(actual, rotating_state_linear_attention(q, k, v, 10_000.0))


def test_rotating_state_linear_attention__rejects_mismatched_shapes() -> None:
    """查询与键不同形，或键与值的词元数不等时报错。"""
    q, k, v = draw(0, causal=True)
    with pytest.raises(ValueError, match="q 与 k 的形状必须相同"):
        rotating_state_linear_attention(q[1:], k, v)
    with pytest.raises(ValueError, match="q、k、v 的形状"):
        rotating_state_linear_attention(q, k, v[1:])


def test_cosine_similarities__matches_python_loop() -> None:
    """与逐对复数乘法、逐行除以范数的循环一致。"""
    q, k, _ = draw(12)
    actual = cosine_similarities(q, k, QUERY_POSITIONS, KEY_POSITIONS, BASE)
    for i, m in enumerate(QUERY_POSITIONS.tolist()):
        for j, n in enumerate(KEY_POSITIONS.tolist()):
            row, key = q[i].tolist(), k[j].tolist()
            cosine = dot(turned(row, m), turned(key, n)) / math.hypot(*row) / math.hypot(*key)
            torch.testing.assert_close(actual[i, j].item(), 1 + cosine)


def test_cosine_similarities__bounds_zero_and_two() -> None:
    """落在 [0, 2]：同位置、同方向取 2，反方向取 0。"""
    q, _, _ = draw(13)
    generator = torch.Generator().manual_seed(13)
    k = torch.randn(7, 6, generator=generator, dtype=torch.float64)
    values = cosine_similarities(q, k, QUERY_POSITIONS, KEY_POSITIONS, BASE)
    assert 0 <= values.min() < 0.5
    assert 1.5 < values.max() <= 2
    at = torch.full((5,), 3)
    same = cosine_similarities(q, 4 * q, at, at, BASE).diagonal()
    opposite = cosine_similarities(q, -q, at, at, BASE).diagonal()
    torch.testing.assert_close(same, torch.full_like(same, 2))
    torch.testing.assert_close(opposite, torch.zeros_like(same))


def test_cosine_similarities__depends_only_on_distance() -> None:
    """位置一齐加 1000，相似度不变。"""
    q, k, _ = draw(14)
    here = cosine_similarities(q, k, QUERY_POSITIONS, KEY_POSITIONS, BASE)
    there = cosine_similarities(q, k, QUERY_POSITIONS + 1000, KEY_POSITIONS + 1000, BASE)
    torch.testing.assert_close(there, here)


def test_cosine_similarities__equals_hand_example() -> None:
    """d = 4、b = 10000：只有第二对非零，θ = 0.01，相距 100 步，相似度是 1 + cos 1。"""
    q = torch.tensor([[0.0, 0.0, 3.0, 0.0]], dtype=torch.float64)
    value = cosine_similarities(q, 5 * q, torch.tensor([140]), torch.tensor([40]))
    torch.testing.assert_close(value.item(), 1 + math.cos(1))


def test_cosine_similarities__rejects_zero_rows() -> None:
    """q 或 k 有零向量时报错，并指明是哪一个。"""
    one, zero, at = torch.ones(1, 2), torch.zeros(1, 2), torch.tensor([0])
    with pytest.raises(ValueError, match="q 的每一行"):
        cosine_similarities(zero, one, at, at)
    with pytest.raises(ValueError, match="k 的每一行"):
        cosine_similarities(one, zero, at, at)
