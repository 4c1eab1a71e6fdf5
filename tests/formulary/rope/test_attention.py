"""带 RoPE 的注意力与权重置换的检验。"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding

from formulary.rope.attention import (
    encode_queries_keys,
    permute_query_key_rows,
    projected_scores,
    relative_forms,
    rope_attention,
    rope_scores,
)

BASE = 50.0
SYMPLECTIC = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)


def _random(*shape: int, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def _dense(m: float, d: int, base: float = BASE) -> Tensor:
    """由矩阵指数拼成的 d×d 旋转矩阵。"""
    blocks = [torch.matrix_exp(m / base ** (2 * i / d) * SYMPLECTIC) for i in range(d // 2)]
    return torch.block_diag(*blocks)


def _dense_scores(q: Tensor, k: Tensor, m: Tensor, n: Tensor) -> Tensor:
    """逐对 (m, n) 用 R_{n-m} 算分数，q: (T, d)，k: (S, d)。"""
    rows = [
        [q[t] @ _dense(n[s].item() - m[t].item(), q.shape[-1]) @ k[s] for s in range(len(n))]
        for t in range(len(m))
    ]
    return torch.stack([torch.stack(row) for row in rows])


QUERY_POSITIONS = torch.tensor([0.0, 7.0, 2.5, -4.0], dtype=torch.float64)
KEY_POSITIONS = torch.tensor([3.0, 0.0, 11.0], dtype=torch.float64)


def test_encode_queries_keys__matches_dense_matrices() -> None:
    """逐个词元乘以由矩阵指数拼成的旋转矩阵，结果相同。"""
    q, k = _random(2, 4, 6), _random(2, 3, 6, seed=4)
    encoded_q, encoded_k = encode_queries_keys(q, k, QUERY_POSITIONS, KEY_POSITIONS, BASE)
    for t, m in enumerate(QUERY_POSITIONS.tolist()):
        torch.testing.assert_close(encoded_q[:, t], q[:, t] @ _dense(m, 6).T)
    for s, n in enumerate(KEY_POSITIONS.tolist()):
        torch.testing.assert_close(encoded_k[:, s], k[:, s] @ _dense(n, 6).T)
    # 底数的默认值是 10000
    encoded_q, _ = encode_queries_keys(q, k, QUERY_POSITIONS, KEY_POSITIONS)
    torch.testing.assert_close(encoded_q[:, 1], q[:, 1] @ _dense(7.0, 6, 10_000.0).T)


def test_encode_queries_keys__is_identity_at_origin() -> None:
    """位置 0 处查询与键都不变：f(q, 0) = q、f(k, 0) = k。"""
    q, k = _random(4, 6), _random(3, 6, seed=4)
    encoded_q, encoded_k = encode_queries_keys(q, k, torch.zeros(4), torch.zeros(3))
    assert torch.equal(encoded_q, q)
    assert torch.equal(encoded_k, k)


def test_encode_queries_keys__rejects_mismatched_positions() -> None:
    """键的位置个数不对时报错。"""
    with pytest.raises(ValueError, match="positions 的形状"):
        encode_queries_keys(torch.ones(2, 4), torch.ones(3, 4), torch.arange(2), torch.arange(2))


def test_rope_scores__matches_dense_relative_matrices() -> None:
    """与逐对 (m, n) 用稠密矩阵 R_{n-m} 算出的分数相同。"""
    q, k = _random(4, 6), _random(3, 6, seed=4)
    actual = rope_scores(q, k, QUERY_POSITIONS, KEY_POSITIONS, BASE)
    torch.testing.assert_close(actual, _dense_scores(q, k, QUERY_POSITIONS, KEY_POSITIONS))
    # 底数的默认值是 10000
    default = rope_scores(q, k, QUERY_POSITIONS, KEY_POSITIONS)[1, 0]
    torch.testing.assert_close(default, q[1] @ _dense(3.0 - 7.0, 6, 10_000.0) @ k[0])


def test_rope_scores__depends_only_on_offset() -> None:
    """同一对 q、k 放在 m - n 相同的 41 组位置上，分数相同；整体平移一万步也不变。"""
    q, k = _random(1, 6), _random(1, 6, seed=4)
    m = torch.arange(41, dtype=torch.float64)
    scores = rope_scores(q.expand(41, 6), k.expand(41, 6), m + 5, m, BASE).diagonal()
    torch.testing.assert_close(scores, scores[:1].expand(41))
    shifted = rope_scores(q, k, torch.tensor([10_005]), torch.tensor([10_000]), BASE)
    # 角度在一万弧度附近，float64 的末位约 2e-12
    torch.testing.assert_close(shifted[0], scores[:1], rtol=0, atol=1e-10)


def test_rope_scores__differs_from_added_sinusoids() -> None:
    """把正弦位置向量加到 q、k 上，相对位置相同的分数并不相同。"""
    q, k = _random(6), _random(6, seed=4)
    theta = torch.tensor([BASE ** (-2 * i / 6) for i in range(3)], dtype=torch.float64)

    def added(m: int, n: int) -> Tensor:
        at_m, at_n = (torch.cat(((p * theta).sin(), (p * theta).cos())) for p in (m, n))
        return (q + at_m) @ (k + at_n)

    rotated = rope_scores(
        q.expand(2, 6), k.expand(2, 6), torch.tensor([5, 25]), torch.tensor([0, 20]), BASE
    )
    torch.testing.assert_close(rotated[0, 0], rotated[1, 1])
    assert (added(5, 0) - added(25, 20)).abs() > 0.1


def test_rope_scores__equals_worked_example() -> None:
    """正文手算一例：q = (1, 2, 3, 4) 在位置 3，k = (1, 1, 1, 1) 在位置 1，b = 100。"""
    q, k = torch.arange(1.0, 5.0, dtype=torch.float64)[None], torch.ones(1, 4, dtype=torch.float64)
    # 两对的点积配余弦、叉积配正弦：3cos2 - sin2 + 7cos0.2 - sin0.2
    expected = 3 * math.cos(2) - math.sin(2) + 7 * math.cos(0.2) - math.sin(0.2)
    for m, n in ((3, 1), (103, 101)):
        actual = rope_scores(q, k, torch.tensor([m]), torch.tensor([n]), base=100.0)
        torch.testing.assert_close(actual, torch.tensor([[expected]], dtype=torch.float64))
    assert round(expected, 4) == 4.5041
    swapped = rope_scores(q, k, torch.tensor([1]), torch.tensor([3]), base=100.0)
    assert round(swapped.item(), 4) == 6.72


def test_rope_scores__differs_from_opposite_key_rotation() -> None:
    """键反着转时，内积只依赖 m + n 而不是 m - n。"""
    q, k = _random(6), _random(6, seed=4)

    def opposite(m: float, n: float) -> Tensor:
        return (_dense(m, 6) @ q) @ (_dense(-n, 6) @ k)

    torch.testing.assert_close(opposite(5, 3), opposite(7, 1))
    assert (opposite(5, 3) - opposite(7, 5)).abs() > 0.1
    at, shifted = (
        rope_scores(q[None], k[None], torch.tensor([m]), torch.tensor([m - 2]), BASE)
        for m in (5, 7)
    )
    torch.testing.assert_close(at, shifted)


def test_rope_scores__differs_from_opposite_offset() -> None:
    """相对位置 m - n 与 n - m 的分数一般不同：RoPE 的分数不是相对位置的偶函数。"""
    q, k = _random(1, 6), _random(1, 6, seed=4)
    forward = rope_scores(q, k, torch.tensor([2]), torch.tensor([0]), BASE)
    backward = rope_scores(q, k, torch.tensor([0]), torch.tensor([2]), BASE)
    assert (forward - backward).abs() > 0.1


def test_rope_scores__rejects_odd_dimension() -> None:
    """特征维数为奇数时报错。"""
    with pytest.raises(ValueError, match="x 的形状"):
        rope_scores(torch.ones(2, 3), torch.ones(2, 3), torch.arange(2), torch.arange(2))


def test_relative_forms__matches_matrix_exponential() -> None:
    """三项都等于 q·exp((n-m)B)·k，B 是分块对角的反对称矩阵。"""
    q, k = _random(6), _random(6, seed=4)
    generator = torch.block_diag(*(BASE ** (-2 * i / 6) * SYMPLECTIC for i in range(3)))
    for m, n in ((0.0, 0.0), (5.0, 3.0), (3.0, 5.0), (100.0, 17.0), (999.0, 1000.0), (2.5, -1.0)):
        expected = q @ torch.matrix_exp((n - m) * generator) @ k
        for value in relative_forms(q, k, m, n, BASE):
            torch.testing.assert_close(value, expected)
    # 底数的默认值是 10000
    default = relative_forms(q, k, 5.0, 3.0)[0]
    torch.testing.assert_close(default, q @ _dense(-2.0, 6, 10_000.0) @ k)


def test_relative_forms__is_invariant_to_common_shift() -> None:
    """位置 m 与 n 同加一个数，三项都不变。"""
    q, k = _random(6), _random(6, seed=4)
    before = torch.stack(relative_forms(q, k, 5.0, 3.0))
    torch.testing.assert_close(torch.stack(relative_forms(q, k, 47.5, 45.5)), before)


def test_relative_forms__differs_from_reversed_offset() -> None:
    """把 R_{n-m} 写成 R_{m-n}，等于把查询与键对调，结果不同。"""
    q, k = _random(6), _random(6, seed=4)
    correct = relative_forms(q, k, 5.0, 3.0, BASE)[0]
    assert (q @ _dense(5 - 3, 6) @ k - correct).abs() > 0.1


def test_relative_forms__rejects_unequal_vectors() -> None:
    """查询与键不等长或不是向量时报错。"""
    with pytest.raises(ValueError, match="q 与 k 必须是等长的向量"):
        relative_forms(torch.ones(4), torch.ones(6), 1, 0)
    with pytest.raises(ValueError, match="q 与 k 必须是等长的向量"):
        relative_forms(torch.ones(2, 4), torch.ones(2, 4), 1, 0)


def _attention_inputs() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    x = _random(2, 5, 7)
    w_q, w_k, w_v = _random(3, 12, 7, seed=8) / 3
    return x, w_q, w_k, w_v, torch.tensor([0.0, 1.0, 4.0, 9.5, -3.0], dtype=torch.float64)


def test_projected_scores__matches_dense_loops() -> None:
    """逐头、逐对位置用稠密矩阵 R_{n-m} 算出的分数，除以 √d 后相同。"""
    x, w_q, w_k, _, positions = _attention_inputs()
    actual = projected_scores(x, w_q, w_k, 3, positions, BASE)
    assert actual.shape == (2, 3, 5, 5)
    for batch in range(2):
        for head in range(3):
            rows = slice(4 * head, 4 * head + 4)
            q, k = x[batch] @ w_q[rows].T, x[batch] @ w_k[rows].T
            expected = _dense_scores(q, k, positions, positions) / 2
            torch.testing.assert_close(actual[batch, head], expected)


def test_projected_scores__matches_dense_loops_with_one_head() -> None:
    """只有一个头、用默认的底数 10000 时也与稠密矩阵的结果相同。"""
    x, w_q, w_k, _, positions = _attention_inputs()
    q, k = x[0] @ w_q[:4].T, x[0] @ w_k[:4].T
    dense = [
        [q[t] @ _dense(n - m, 4, 10_000.0) @ k[s] / 2 for s, n in enumerate(positions.tolist())]
        for t, m in enumerate(positions.tolist())
    ]
    expected = torch.stack([torch.stack(row) for row in dense])
    torch.testing.assert_close(projected_scores(x, w_q[:4], w_k[:4], 1, positions)[0, 0], expected)


def test_projected_scores__is_invariant_to_common_shift() -> None:
    """全部位置同加 100，分数不变；打乱位置则改变。"""
    x, w_q, w_k, _, positions = _attention_inputs()
    before = projected_scores(x, w_q, w_k, 3, positions)
    torch.testing.assert_close(projected_scores(x, w_q, w_k, 3, positions + 100), before)
    assert (projected_scores(x, w_q, w_k, 3, positions.flip(0)) - before).abs().max() > 0.1


def test_projected_scores__rejects_bad_heads_and_shapes() -> None:
    """头数不整除行数，或 w_k 与 w_q 形状不同时报错并指出参数。"""
    x, w, positions = torch.ones(5, 7), torch.ones(12, 7), torch.arange(5)
    for heads in (0, 5):
        with pytest.raises(ValueError, match="heads 必须整除 w_q 的行数 12"):
            projected_scores(x, w, w, heads, positions)
    with pytest.raises(ValueError, match="w_k 的形状必须与 w_q"):
        projected_scores(x, w, torch.ones(8, 7), 2, positions)


def test_rope_attention__matches_scaled_dot_product_attention() -> None:
    """先用稠密矩阵旋转查询与键，再交给 PyTorch 的 scaled_dot_product_attention，结果相同。"""
    x, w_q, w_k, w_v, positions = _attention_inputs()
    rotations = torch.stack([_dense(m, 4) for m in positions.tolist()])  # (T, d, d)
    heads = [(x @ w.T).unflatten(-1, (3, 4)).transpose(1, 2) for w in (w_q, w_k, w_v)]
    q, k = (torch.einsum("tij,bhtj->bhti", rotations, h) for h in heads[:2])
    expected = F.scaled_dot_product_attention(q, k, heads[2]).transpose(1, 2).flatten(2)
    torch.testing.assert_close(rope_attention(x, w_q, w_k, w_v, 3, positions, BASE), expected)
    # 各个公开函数的默认底数都是 10000
    default = rope_attention(x, w_q, w_k, w_v, 3, positions)
    explicit = rope_attention(x, w_q, w_k, w_v, 3, positions, 10_000.0)
    torch.testing.assert_close(default, explicit)


def test_rope_attention__matches_huggingface_llama() -> None:
    """置换 W_q、W_k 的行之后装进 transformers 的 LlamaAttention，输出相同。"""
    x, w_q, w_k, w_v = _random(2, 5, 12), *(_random(3, 12, 12, seed=8) / 3)
    config = LlamaConfig(
        hidden_size=12,
        num_attention_heads=3,
        num_key_value_heads=3,
        attn_implementation="eager",
        rope_parameters={"rope_type": "default", "rope_theta": BASE},
    )
    layer = LlamaAttention(config, layer_idx=0).double().eval()
    layer.q_proj.weight.data = permute_query_key_rows(w_q, 3)
    layer.k_proj.weight.data = permute_query_key_rows(w_k, 3)
    layer.v_proj.weight.data = w_v
    layer.o_proj.weight.data = torch.eye(12, dtype=torch.float64)
    tables = LlamaRotaryEmbedding(config)(x, torch.arange(5)[None])
    expected = layer(x, position_embeddings=tables, attention_mask=None)[0].detach()
    actual = rope_attention(x, w_q, w_k, w_v, 3, torch.arange(5), BASE)
    # transformers 的余弦表在 float32 里算，只有六七位有效数字
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-6)


def test_rope_attention__is_invariant_to_common_shift() -> None:
    """全部位置同加 100，输出不变：值没有旋转。"""
    x, w_q, w_k, w_v, positions = _attention_inputs()
    before = rope_attention(x, w_q, w_k, w_v, 3, positions)
    torch.testing.assert_close(rope_attention(x, w_q, w_k, w_v, 3, positions + 100), before)


def test_rope_attention__differs_from_rotated_values() -> None:
    """若把值也旋转，整体平移后输出就变了。"""
    x, w_q, w_k, w_v, _ = _attention_inputs()

    def with_rotated_values(positions: Tensor) -> Tensor:
        weights = projected_scores(x, w_q, w_k, 3, positions, BASE).softmax(-1)
        rotations = torch.stack([_dense(m, 4) for m in positions.tolist()])
        v = (x @ w_v.T).unflatten(-1, (3, 4)).transpose(1, 2)
        return weights @ torch.einsum("tij,bhtj->bhti", rotations, v)

    positions = torch.arange(5)
    shifted = with_rotated_values(positions + 2)
    assert (shifted - with_rotated_values(positions)).abs().max() > 0.1
    torch.testing.assert_close(
        rope_attention(x, w_q, w_k, w_v, 3, positions + 2, BASE),
        rope_attention(x, w_q, w_k, w_v, 3, positions, BASE),
    )


def test_rope_attention__rejects_mismatched_values() -> None:
    """w_v 与 w_q 形状不同时报错并指出 w_v。"""
    x, w = torch.ones(5, 7), torch.ones(12, 7)
    with pytest.raises(ValueError, match="w_v 的形状必须与 w_q"):
        rope_attention(x, w, w, torch.ones(8, 7), 2, torch.arange(5))


def test_permute_query_key_rows__matches_huggingface_conversion() -> None:
    """与 convert_llama_weights_to_hf.py 的 view、transpose、reshape 逐元素相同。"""
    w, heads = _random(18, 7), 3
    expected = w.view(heads, 18 // heads // 2, 2, 7).transpose(1, 2).reshape(18, 7)
    assert torch.equal(permute_query_key_rows(w, heads), expected)
    rows = [*range(0, 18, 2), *range(1, 18, 2)]
    assert torch.equal(permute_query_key_rows(w, 1), w[rows])


def test_permute_query_key_rows__preserves_scores() -> None:
    """置换后的权重配逐标量的对半旋转，分数与原权重配交错旋转的相同；只换一个或都不换则不同。"""
    x, w_q, w_k, _, positions = _attention_inputs()
    expected = projected_scores(x, w_q, w_k, 3, positions, BASE)

    def half_split_scores(query_weight: Tensor, key_weight: Tensor) -> Tensor:
        d, scores = 4, []
        for head in range(3):
            rotated = []
            for w in (query_weight, key_weight):
                h = x @ w[d * head : d * head + d].T
                out = torch.empty_like(h)
                for i in range(2):
                    angle = positions * BASE ** (-2 * i / d)
                    u, v = h[..., i], h[..., i + 2]
                    out[..., i] = u * angle.cos() - v * angle.sin()
                    out[..., i + 2] = u * angle.sin() + v * angle.cos()
                rotated.append(out)
            scores.append(rotated[0] @ rotated[1].mT / math.sqrt(d))
        return torch.stack(scores, dim=1)

    new_q, new_k = permute_query_key_rows(w_q, 3), permute_query_key_rows(w_k, 3)
    torch.testing.assert_close(half_split_scores(new_q, new_k), expected)
    assert (half_split_scores(w_q, w_k) - expected).abs().max() > 0.1
    assert (half_split_scores(new_q, w_k) - expected).abs().max() > 0.1


def test_permute_query_key_rows__rejects_bad_shapes() -> None:
    """头数不整除行数，或每个头的维数为奇数时报错。"""
    for heads in (0, 5):
        with pytest.raises(ValueError, match="heads 必须整除 w 的行数 12"):
            permute_query_key_rows(torch.ones(12, 7), heads)
    with pytest.raises(ValueError, match="d 必须是正偶数"):
        permute_query_key_rows(torch.ones(12, 7), 4)
