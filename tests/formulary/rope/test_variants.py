"""Proofs of partial rotary, proportional frequencies and xPos."""

import math

import pytest
import torch
from rotary_embedding_torch import RotaryEmbedding
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.gpt_neox.configuration_gpt_neox import GPTNeoXConfig
from transformers.models.gpt_neox.modeling_gpt_neox import (
    GPTNeoXRotaryEmbedding,
    apply_rotary_pos_emb,
)

from formulary.rope.variants import (
    proportional_frequencies,
    rotate_partial,
    rotate_xpos,
    xpos_score,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rotate_pairs(x: torch.Tensor, position: float, pairs, theta) -> torch.Tensor:
    """Turn the named pairs of one vector, in a Python loop."""
    turned = x.clone()
    for (a, b), rate in zip(pairs, theta, strict=True):
        c, s = math.cos(position * rate), math.sin(position * rate)
        turned[a], turned[b] = c * x[a] - s * x[b], s * x[a] + c * x[b]
    return turned


def wrong_partial(x: torch.Tensor, positions, rotary_dim: int, base: float) -> torch.Tensor:
    """Frequencies and pairs over the whole head: what pie#602 reports."""
    d = x.shape[-1]
    pairs = [(i, i + d // 2) for i in range(rotary_dim // 2)]
    theta = [base ** (-2 * i / d) for i in range(rotary_dim // 2)]
    return torch.stack(
        [rotate_pairs(row, m, pairs, theta) for row, m in zip(x, positions, strict=True)]
    )


def test_rotate_partial__matches_loop() -> None:
    """与只在前 d_r 维里配对、分母取 d_r 的逐对循环一致。"""
    x, positions, rotary_dim, base = random(4, 10), [0.0, 2.0, 5.5, 90.0], 6, 300.0
    pairs = [(i, i + 3) for i in range(3)]
    theta = [base ** (-2 * i / rotary_dim) for i in range(3)]
    expected = torch.stack(
        [rotate_pairs(r, m, pairs, theta) for r, m in zip(x, positions, strict=True)]
    )
    actual = rotate_partial(x, torch.tensor(positions, dtype=torch.float64), rotary_dim, base)
    torch.testing.assert_close(actual, expected)


def test_rotate_partial__matches_transformers() -> None:
    """与 GPT-NeoX 的 rotary_pct = 0.25（64 维里转 16 维）一致。"""
    config = GPTNeoXConfig(hidden_size=128, num_attention_heads=2)
    x = torch.randn(1, 2, 7, 64, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(7) * 11
    cos, sin = GPTNeoXRotaryEmbedding(config)(x, positions[None])
    assert cos.shape[-1] == 16
    expected, _ = apply_rotary_pos_emb(x, x, cos, sin)
    torch.testing.assert_close(rotate_partial(x, positions, rotary_dim=16), expected)


def test_rotate_partial__preserves_the_rest() -> None:
    """后 d - d_r 维逐位不变，它们对内积的贡献与位置无关。"""
    x = random(5, 12, seed=1)
    rotated = rotate_partial(x, torch.arange(5) * 100, rotary_dim=4)
    assert torch.equal(rotated[:, 4:], x[:, 4:])
    assert not torch.equal(rotated[1:, :4], x[1:, :4])


def test_rotate_partial__equals_worked_example() -> None:
    """取 d = 64、d_r = 16：第 1 对在位置 1 转 10^(-1/2) 弧度。"""
    x = torch.zeros(1, 64, dtype=torch.float64)
    x[0, 1] = 1.0
    rotated = rotate_partial(x, torch.tensor([1]), rotary_dim=16)
    angle = torch.atan2(rotated[0, 9], rotated[0, 1])
    torch.testing.assert_close(angle, torch.tensor(10**-0.5, dtype=torch.float64))


def test_rotate_partial__limit_whole_head() -> None:
    """当 d_r = d 时整个头都旋转：只剩对半布局的普通 RoPE。"""
    x, positions = random(2, 6, seed=13), [1.0, 8.0]
    pairs, theta = [(i, i + 3) for i in range(3)], [10_000 ** (-i / 3) for i in range(3)]
    expected = torch.stack(
        [rotate_pairs(r, m, pairs, theta) for r, m in zip(x, positions, strict=True)]
    )
    torch.testing.assert_close(rotate_partial(x, torch.tensor(positions), 6), expected)


def test_rotate_partial__differs_from_head_dim_denominator() -> None:
    """分母与配对都按整个头取的写法：位置 0 处一致，位置 1 处就已不同，内积也不同。"""
    x, y = random(3, 64, seed=2), random(3, 64, seed=3)
    positions = torch.tensor([0.0, 1.0, 40.0], dtype=torch.float64)
    right = rotate_partial(x, positions, 16)
    wrong = wrong_partial(x, positions.tolist(), 16, 10_000.0)
    torch.testing.assert_close(right[0], wrong[0])
    assert (right[1] - wrong[1]).abs().max() > 0.1
    right_scores = rotate_partial(y, positions, 16) @ right.T
    wrong_scores = wrong_partial(y, positions.tolist(), 16, 10_000.0) @ wrong.T
    torch.testing.assert_close(right_scores.diag(), wrong_scores.diag())
    assert (right_scores - wrong_scores).abs().max() > 1.0


def test_rotate_partial__rejects_bad_rotary_dim() -> None:
    """rotary_dim 是奇数、非正数或超过 d，都报错。"""
    for rotary_dim in (0, 3, 10, -2):
        with pytest.raises(ValueError, match="rotary_dim"):
            rotate_partial(torch.zeros(2, 8), torch.arange(2), rotary_dim)


def test_proportional_frequencies__matches_transformers() -> None:
    """与 transformers 的 proportional（Gemma 4：ρ = 0.25、b = 1e6）一致。"""
    for d, proportion in ((512, 0.25), (64, 0.3), (20, 1.0)):
        config = LlamaConfig(
            hidden_size=d,
            num_attention_heads=1,
            head_dim=d,
            rope_parameters={
                "rope_type": "proportional",
                "rope_theta": 1e6,
                "partial_rotary_factor": proportion,
            },
        )
        expected, _ = ROPE_INIT_FUNCTIONS["proportional"](config, device=None)
        torch.testing.assert_close(proportional_frequencies(d, proportion), expected)


def test_proportional_frequencies__equals_worked_example() -> None:
    """取 d = 12、ρ = 0.5：留 3 对，后 3 对为零；Gemma 4 的 d = 512、ρ = 0.25 留 64 对。"""
    actual = proportional_frequencies(12, 0.5, base=64.0, dtype=torch.float64)
    expected = torch.tensor([1.0, 0.5, 0.25, 0.0, 0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(actual, expected)
    assert proportional_frequencies(12, 0.49, base=64.0).count_nonzero() == 2
    assert proportional_frequencies(12, 0.0).tolist() == [0.0] * 6
    gemma = proportional_frequencies(512, 0.25)
    assert gemma.nonzero().flatten().tolist() == list(range(64))
    assert round(gemma[63].item(), 4) == 0.0334


def test_proportional_frequencies__differs_from_partial_rotary() -> None:
    """同样转四分之一的特征，按比例截断与部分旋转的内积不同，反而等于「分母取错」的写法。"""
    d, positions = 16, torch.tensor([0.0, 3.0, 30.0], dtype=torch.float64)
    q, k = random(3, d, seed=4), random(3, d, seed=5)
    theta = proportional_frequencies(d, 0.25, base=100.0, dtype=torch.float64)
    pairs = [(i, i + d // 2) for i in range(d // 2)]

    def turn(x):
        rates = theta.tolist()
        return torch.stack(
            [rotate_pairs(r, m, pairs, rates) for r, m in zip(x, positions, strict=True)]
        )

    scores = turn(q) @ turn(k).T
    partial = rotate_partial(q, positions, 4, 100.0) @ rotate_partial(k, positions, 4, 100.0).T
    wrong = wrong_partial(q, positions, 4, 100.0) @ wrong_partial(k, positions, 4, 100.0).T
    torch.testing.assert_close(scores, wrong)
    assert (scores - partial).abs().max() > 1.0


def test_proportional_frequencies__rejects_bad_input() -> None:
    """比例不在 [0, 1]、d 为奇数、底数非正，都报错。"""
    for proportion in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="proportion"):
            proportional_frequencies(8, proportion)
    with pytest.raises(ValueError, match="d 必须"):
        proportional_frequencies(7, 0.5)
    with pytest.raises(ValueError, match="base"):
        proportional_frequencies(8, 0.5, base=0.0)


def xpos_by_loop(x: torch.Tensor, positions, sign, base=10_000.0, scale_base=512.0):
    """Every element written out in Python complex numbers."""
    d = x.shape[-1]
    out = torch.empty_like(x)
    for t, m in enumerate(positions):
        for i in range(d // 2):
            zeta = (2 * i / d + 0.4) / 1.4
            angle = m * base ** (-2 * i / d)
            z = complex(x[t, 2 * i], x[t, 2 * i + 1]) * complex(math.cos(angle), math.sin(angle))
            z *= zeta ** (sign * m / scale_base)
            out[t, 2 * i], out[t, 2 * i + 1] = z.real, z.imag
    return out


def test_rotate_xpos__matches_loop() -> None:
    """查询与键都与逐元素的复数循环一致。"""
    x, positions = random(4, 6, seed=6), [0, 3, 77, 600]
    for sign, scale_base in ((1, 100.0), (-1, 21.0), (1, 0.5)):
        actual = rotate_xpos(x, torch.tensor(positions), sign, 50.0, scale_base)
        torch.testing.assert_close(actual, xpos_by_loop(x, positions, sign, 50.0, scale_base))
    default = rotate_xpos(x, torch.tensor(positions), 1)
    torch.testing.assert_close(default, xpos_by_loop(x, positions, 1))


def test_rotate_xpos__matches_rotary_embedding_torch() -> None:
    """整段一起算时，内积与 rotary-embedding-torch 的 use_xpos 一致（它把原点移到中间）。"""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, 1, 9, 8, generator=generator)
    k = torch.randn(1, 1, 9, 8, generator=generator)
    library = RotaryEmbedding(dim=8, use_xpos=True)
    library_q, library_k = library.rotate_queries_and_keys(q, k)
    positions = torch.arange(9)
    actual = rotate_xpos(q, positions, 1) @ rotate_xpos(k, positions, -1).mT
    expected = (library_q @ library_k.mT).detach()
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)  # both in float32


def test_rotate_xpos__equals_worked_example() -> None:
    """取 d = 64、位置 512：第 0 对缩到 2/7，最后一对缩到 0.978；键则放大同样的倍数。"""
    ones, place = torch.ones(1, 64, dtype=torch.float64), torch.tensor([512])
    norms = rotate_xpos(ones, place, 1).view(32, 2).norm(dim=-1) / math.sqrt(2)
    torch.testing.assert_close(norms[0].item(), 2 / 7)
    assert round(norms[-1].item(), 3) == 0.978
    lifted = rotate_xpos(ones, place, -1).view(32, 2).norm(dim=-1) / math.sqrt(2)
    torch.testing.assert_close(lifted * norms, torch.ones(32, dtype=torch.float64))


def test_rotate_xpos__depends_only_on_offset() -> None:
    """查询与键共用的原点任意平移，内积不变。"""
    q, k = random(5, 6, seed=7), random(5, 6, seed=8)
    positions = torch.arange(5) * 40.0
    before = rotate_xpos(q, positions, 1) @ rotate_xpos(k, positions, -1).T
    after = rotate_xpos(q, positions - 80, 1) @ rotate_xpos(k, positions - 80, -1).T
    torch.testing.assert_close(after, before)


def test_rotate_xpos__differs_from_separate_centres() -> None:
    """q、k 各取自己的中点（rotary-embedding-torch 0.9.1 逐步解码）：内积随缓存变长而缩小。"""
    library = RotaryEmbedding(dim=64, use_xpos=True, cache_if_possible=False)
    zeta = [(2 * i / 64 + 0.4) / 1.4 for i in range(32)]
    for length, printed in ((512, 0.783), (4096, 0.264)):
        ones = torch.ones(1, 1, length, 64)
        q, k = library.rotate_queries_with_cached_keys(ones[..., -1:, :], ones)
        ratio = (q[..., 0, :] * k[..., -1, :]).sum().item() / 64
        predicted = sum(z ** (length // 2 / 512) for z in zeta) / 32
        assert math.isclose(ratio, predicted, rel_tol=1e-4)
        assert round(ratio, 3) == printed
        last, place = ones[0, 0, -1:], torch.tensor([length - 1])
        right = (rotate_xpos(last, place, 1) * rotate_xpos(last, place, -1)).sum().item() / 64
        assert math.isclose(right, 1.0, rel_tol=1e-4)


def test_rotate_xpos__preserves_dtype() -> None:
    """bfloat16 进、bfloat16 出，缩放在 float32 里算。"""
    x = torch.ones(3, 4, dtype=torch.bfloat16)
    positions = torch.tensor([0, 511, 2049])
    actual = rotate_xpos(x, positions, -1)
    assert actual.dtype == torch.bfloat16
    expected = rotate_xpos(x.double(), positions, -1)
    torch.testing.assert_close(actual.double(), expected, rtol=0.02, atol=0.02)  # bfloat16 output


def test_rotate_xpos__is_scaled_in_float32_for_float32_input() -> None:
    """float32 的输入用 float32 的系数：0.4/1.4 的舍入误差经 60 次方放大到百万分之二以上。"""
    exact, rounded = 0.4 / 1.4, (torch.tensor(0.4) / 1.4).item()
    assert abs((rounded / exact) ** 60 - 1) > 2e-6
    turned = rotate_xpos(torch.tensor([[1.0, 0.0]]), torch.tensor([60]), sign=-1, scale_base=1.0)
    torch.testing.assert_close(turned.double().norm().float(), torch.tensor(rounded**-60))


def test_rotate_xpos__rejects_bad_input() -> None:
    """参数 sign 不是 ±1、scale_base 非正、d 为奇数，都报错。"""
    x, positions = torch.zeros(2, 4), torch.arange(2)
    for sign in (0, 2):
        with pytest.raises(ValueError, match="sign"):
            rotate_xpos(x, positions, sign)
    for scale_base in (0.0, -1.0):
        with pytest.raises(ValueError, match="scale_base"):
            rotate_xpos(x, positions, 1, scale_base=scale_base)
    with pytest.raises(ValueError, match="d "):
        rotate_xpos(torch.zeros(2, 3), positions, 1)


def test_xpos_score__matches_loop() -> None:
    """与把查询放在 m、键放在 n 逐元素算出的内积一致。"""
    q, k = random(1, 6, seed=9), random(1, 6, seed=10)
    deltas = torch.tensor([0, 1, 37, 900, -5, -601])
    for base, scale_base in ((10_000.0, 512.0), (30.0, 21.0), (30.0, 0.75)):
        deltas = deltas[:-1] if scale_base < 1 else deltas  # 3.5 ** 801 overflows
        expected = []
        for delta in deltas.tolist():
            a = xpos_by_loop(q, [delta + 20], 1, base, scale_base)
            b = xpos_by_loop(k, [20], -1, base, scale_base)
            expected.append((a * b).sum())
        actual = xpos_score(q[0], k[0], deltas, base, scale_base)
        torch.testing.assert_close(actual, torch.stack(expected))
    torch.testing.assert_close(
        xpos_score(q[0], k[0], deltas), xpos_score(q[0], k[0], deltas, 10_000.0, 512.0)
    )


def test_xpos_score__bounds_decay() -> None:
    """Δ ≥ 0 时 |内积| 不超过 Σ|h_i|·ζ_i^(Δ/S)，Δ = 0 且 q = k 时取等号。"""
    q, k = random(8, seed=11), random(8, seed=12)
    deltas = torch.arange(0, 4096, 17)
    zeta = torch.tensor([(2 * i / 8 + 0.4) / 1.4 for i in range(4)], dtype=torch.float64)
    sizes = q.view(4, 2).norm(dim=-1) * k.view(4, 2).norm(dim=-1)
    bound = (sizes * zeta ** (deltas[:, None] / 512)).sum(dim=-1)
    assert (xpos_score(q, k, deltas).abs() <= bound + 1e-12).all()
    same = xpos_score(q, q, torch.tensor([0]))
    torch.testing.assert_close(same[0], q.square().sum())


def test_xpos_score__equals_worked_example() -> None:
    """取 d = 2、q = k = (1, 0)、Δ = 512：cos 512 · 2/7。"""
    q = torch.tensor([1.0, 0.0], dtype=torch.float64)
    expected = torch.tensor([math.cos(512) * 2 / 7], dtype=torch.float64)
    torch.testing.assert_close(xpos_score(q, q, torch.tensor([512])), expected)


def test_xpos_score__rejects_bad_input() -> None:
    """维数 d 为奇数、q 与 k 长度不同、scale_base 非正，都报错。"""
    for q, k in ((torch.zeros(3), torch.zeros(3)), (torch.zeros(4), torch.zeros(2))):
        with pytest.raises(ValueError, match="q 与 k"):
            xpos_score(q, k, torch.arange(2))
    for scale_base in (0.0, -1.0):
        with pytest.raises(ValueError, match="scale_base"):
            xpos_score(torch.zeros(4), torch.zeros(4), torch.arange(2), scale_base=scale_base)
