"""长度外推频率表的证明：对照 transformers、rotary-embedding-torch 与逐对的 Python 循环。"""

import itertools
import math

import pytest
import torch
from rotary_embedding_torch import RotaryEmbedding
from torch import Tensor
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from formulary.rope.by_parts import by_parts_frequencies
from formulary.rope.frequencies import inverse_frequencies
from formulary.rope.ramp import rotation_ramp, unseen_angles
from formulary.rope.scaling import (
    dynamic_ntk_frequencies,
    linear_frequencies,
    llama3_frequencies,
    ntk_frequencies,
    yarn_attention_factor,
    yarn_frequencies,
)


def _transformers(
    kind: str, d: int, base: float, length: int, seq_len: int | None = None, **parameters: object
) -> tuple[Tensor, float]:
    """Frequencies and attention factor as Hugging Face computes them (in float32)."""
    config = LlamaConfig(
        head_dim=d,
        hidden_size=3 * d,
        num_attention_heads=3,
        max_position_embeddings=length,
        rope_parameters={"rope_type": kind, "rope_theta": base, **parameters},
    )
    return ROPE_INIT_FUNCTIONS[kind](config, seq_len=seq_len)


def _assert_matches_transformers(actual: Tensor, expected: Tensor) -> None:
    assert actual.dtype == torch.float32
    # 对方只在 float32 里计算，所以按 float32 的舍入放宽；相对差逐对检查，低频的对也不例外
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)


GRID = list(itertools.product((6, 128), (100.0, 5e5), (1.0, 8.0, 40.0)))


def test_linear_frequencies__matches_transformers() -> None:
    """在 12 组参数上与 transformers 的 linear 逐对相等。"""
    for d, base, factor in GRID:
        expected, _ = _transformers("linear", d, base, 4096, factor=factor)
        _assert_matches_transformers(linear_frequencies(d, base, factor), expected)


def test_linear_frequencies__matches_per_pair_loop() -> None:
    """逐对计算 b^(-2i/d)/s。"""
    expected = [10000 ** (-2 * i / 10) / 3 for i in range(5)]
    actual = linear_frequencies(10, 10000.0, 3.0, dtype=torch.float64)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_linear_frequencies__limit_factor_one() -> None:
    """取 s = 1 时频率不变。"""
    assert torch.equal(linear_frequencies(12, 1e4, 1), inverse_frequencies(12, 1e4))


@pytest.mark.parametrize(
    ("d", "base", "factor", "name"),
    [
        (5, 1e4, 2, "d"),
        (0, 1e4, 2, "d"),
        (4, 0, 2, "base"),
        (4, -1e4, 2, "base"),
        (4, 1e4, 0.9, "factor"),
        (4, 1e4, math.nan, "factor"),
        (4, 1e4, math.inf, "factor"),
        (4, 1e4, True, "factor"),
        (4, 1e4, "2", "factor"),
        (4, 1e4, None, "factor"),
        (4, 1e4, 10**400, "factor"),
        (4, "1e4", 2, "base"),
        (4, True, 2, "base"),
        (4, math.nan, 2, "base"),
        ("4", 1e4, 2, "d"),
    ],
)
def test_linear_frequencies__rejects_bad_arguments(d, base, factor, name) -> None:
    """奇数的 d、非正的 base、小于 1 的 factor，以及不是数的参数都被拒绝，错误指名参数。"""
    with pytest.raises(ValueError, match=f"^{name} "):
        linear_frequencies(d, base, factor)


def test_ntk_frequencies__matches_rotary_embedding_torch() -> None:
    """与 rotary-embedding-torch 的 theta_rescale_factor 相等。"""
    for d, factor in itertools.product((6, 64, 128), (1.0, 2.5, 8.0)):
        expected = RotaryEmbedding(d, theta=10000, theta_rescale_factor=factor).freqs.detach()
        _assert_matches_transformers(ntk_frequencies(d, 10000.0, factor), expected)


def test_ntk_frequencies__matches_per_pair_powers() -> None:
    """逐对相等于 θ_i·s^(-2i/(d-2))，不经过新底数。"""
    d, base, factor = 20, 300.0, 7.0
    expected = [base ** (-2 * i / d) * factor ** (-2 * i / (d - 2)) for i in range(d // 2)]
    actual = ntk_frequencies(d, base, factor, dtype=torch.float64)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_ntk_frequencies__preserves_highest_and_interpolates_lowest() -> None:
    """最高频不变，最低频恰好除以 s，其间的比严格递减。"""
    original = inverse_frequencies(128, 1e4, dtype=torch.float64)
    ratio = ntk_frequencies(128, 1e4, 8, dtype=torch.float64) / original
    assert ratio[0] == 1
    torch.testing.assert_close(ratio[-1].item(), 1 / 8)
    assert (ratio.diff() < 0).all()


def test_ntk_frequencies__equals_hand_calculation() -> None:
    """取 d = 4、s = 4：底数从 10000 变成 160000，频率从 (1, 0.01) 变成 (1, 0.0025)。"""
    actual = ntk_frequencies(4, 10000, 4, dtype=torch.float64)
    torch.testing.assert_close(actual, torch.tensor([1, 0.0025], dtype=torch.float64))


def test_ntk_frequencies__equals_hand_calculation_of_a_large_factor() -> None:
    """取 d = 4、s = 1000：底数从 10^4 变成 10^10，最低频从 0.01 变成 10^-5，不算超出双精度。"""
    actual = ntk_frequencies(4, 10000, 1000, dtype=torch.float64)
    torch.testing.assert_close(actual, torch.tensor([1, 1e-5], dtype=torch.float64))


def test_ntk_frequencies__equals_factor_that_avoids_unseen_angles() -> None:
    """要在 8 倍长度内没有新角度，NTK 的倍数至少是 8^(63/46)，约 17.25。"""
    original = inverse_frequencies(128, 1e4, dtype=torch.float64)
    least = 8 ** (63 / 46)
    assert round(least, 2) == 17.25
    for factor, pairs in ((least - 0.01, [46]), (least + 0.01, [])):
        scaled = ntk_frequencies(128, 1e4, factor, dtype=torch.float64)
        assert unseen_angles(scaled, original, 8, 4096).nonzero().flatten().tolist() == pairs


def test_ntk_frequencies__differs_from_pure_interpolation() -> None:
    """训练时没转满一圈的 18 对里，NTK 有 17 对转到新角度，位置内插一对也没有。"""
    original = inverse_frequencies(128, 1e4)
    ntk = unseen_angles(ntk_frequencies(128, 1e4, 8), original, 8, 4096)
    linear = unseen_angles(linear_frequencies(128, 1e4, 8), original, 8, 4096)
    assert unseen_angles(original, original, 8, 4096).sum() == 18
    assert ntk.nonzero().flatten().tolist() == list(range(46, 63))
    assert not linear.any()


@pytest.mark.parametrize(
    ("d", "base", "factor", "name"),
    [
        (7, 1e4, 2, "d"),
        (0, 1e4, 2, "d"),
        (2, 1e4, 2, "d"),
        (8, 0, 2, "base"),
        (8, 1e4, 0.99, "factor"),
        ("8", 1e4, 2, "d"),
        (8.0, 1e4, 2, "d"),
        (8, "1e4", 2, "base"),
        (4, 1e4, 1e160, "factor"),
        (4, 1e308, 2, "factor"),
    ],
)
def test_ntk_frequencies__rejects_bad_arguments(d, base, factor, name) -> None:
    """奇数的 d、只有一对的 d = 2、非正的 base、小于 1 或大得放不下的 factor 都被拒绝。"""
    with pytest.raises(ValueError, match=f"^{name} "):
        ntk_frequencies(d, base, factor)


def test_dynamic_ntk_frequencies__matches_transformers() -> None:
    """长度不足、等于、超过训练长度时，都与 transformers 的 dynamic 逐对相等。"""
    for d, base, factor in GRID:
        for seq_len in (100, 2048, 2049, 5000, 16384):
            expected, _ = _transformers("dynamic", d, base, 2048, seq_len, factor=factor)
            actual = dynamic_ntk_frequencies(
                d, base, factor, max_position_embeddings=2048, seq_len=seq_len
            )
            _assert_matches_transformers(actual, expected)


def test_dynamic_ntk_frequencies__matches_per_pair_loop() -> None:
    """逐对计算：最低频除以 α·ℓ/L - α + 1，其余按 2i/(d-2) 分摊。"""
    d, alpha, length, seq_len = 12, 3.0, 50, 120
    stretch = alpha * seq_len / length - alpha + 1
    expected = [1e4 ** (-2 * i / d) * stretch ** (-2 * i / (d - 2)) for i in range(6)]
    actual = dynamic_ntk_frequencies(d, 1e4, alpha, length, seq_len, dtype=torch.float64)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_dynamic_ntk_frequencies__preserves_frequencies_within_training_length() -> None:
    """当前长度不超过训练长度时，频率与训练时相同。"""
    original = inverse_frequencies(64, 1e4)
    for seq_len in (1, 37, 4096):
        assert torch.equal(dynamic_ntk_frequencies(64, 1e4, 5, 4096, seq_len), original)


def test_dynamic_ntk_frequencies__equals_ntk_with_effective_factor() -> None:
    """α = 2、ℓ = 2L 等于 s = 3 的 NTK；α = 1 时等于 s = ℓ/L 的 NTK。"""
    two = dynamic_ntk_frequencies(128, 1e4, 2, 4096, 8192, dtype=torch.float64)
    one = dynamic_ntk_frequencies(128, 1e4, 1, 4096, 8192, dtype=torch.float64)
    torch.testing.assert_close(two, ntk_frequencies(128, 1e4, 3, dtype=torch.float64))
    torch.testing.assert_close(one, ntk_frequencies(128, 1e4, 2, dtype=torch.float64))


def test_dynamic_ntk_frequencies__differs_from_fixed_target_length() -> None:
    """不论长短都按目标长度取底数的写法，在训练长度之内也改了频率。"""
    short = dynamic_ntk_frequencies(128, 1e4, 2, 4096, seq_len=1000)
    fixed = dynamic_ntk_frequencies(128, 1e4, 2, 4096, seq_len=2 * 4096)
    assert (fixed[-1] / short[-1]).item() == pytest.approx(1 / 3, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((9, 1e4, 2, 64, 64), "d"),
        ((2, 1e4, 2, 64, 64), "d"),
        ((8, -1, 2, 64, 64), "base"),
        ((8, 1e4, 0.5, 64, 64), "factor"),
        ((8, 1e4, 2, 0, 64), "max_position_embeddings"),
        ((8, 1e4, 2, -64, 64), "max_position_embeddings"),
        ((8, 1e4, 2, 64, 0), "seq_len"),
        ((8, 1e4, 2, 64, -1), "seq_len"),
        ((8, 1e4, 2, 64, math.inf), "seq_len"),
        ((8, 1e4, 2, 64, "64"), "seq_len"),
        ((8, 1e4, 2, True, 64), "max_position_embeddings"),
        ((8, 1e4, 10**300, 1, 10**300), "factor"),
    ],
)
def test_dynamic_ntk_frequencies__rejects_bad_arguments(arguments, name) -> None:
    """奇数或过小的 d、小于 1 的系数、非正的底数与长度都被拒绝。"""
    with pytest.raises(ValueError, match=f"^{name} "):
        dynamic_ntk_frequencies(*arguments)


def test_yarn_frequencies__matches_transformers() -> None:
    """端点取整与不取整、各种训练长度与圈数界，都与 transformers 的 yarn 逐对相等。"""
    limits = ((32.0, 1.0), (4.0, 1.0), (64.0, 0.25), (3.0, 2.9))
    for (d, base, factor), length, (fast, slow), truncate in itertools.product(
        GRID, (16, 64, 512, 4096, 100_000), limits, (True, False)
    ):
        expected, _ = _transformers(
            "yarn",
            d,
            base,
            round(length * factor),
            factor=factor,
            original_max_position_embeddings=length,
            beta_fast=fast,
            beta_slow=slow,
            truncate=truncate,
        )
        actual = yarn_frequencies(d, base, factor, length, fast, slow, truncate)
        _assert_matches_transformers(actual, expected)


def test_yarn_frequencies__matches_per_pair_loop() -> None:
    """逐对用圈数解出端点下标，再逐对混合。"""
    d, base, factor, length = 40, 5000.0, 6.0, 900
    turns = [length * base ** (-2 * i / d) / (2 * math.pi) for i in range(-4, d)]
    low = max(i for i, r in zip(range(-4, d), turns, strict=True) if r >= 32)
    high = min(i for i, r in zip(range(-4, d), turns, strict=True) if r <= 1)
    expected = []
    for i in range(d // 2):
        keep = 1 - min(max((i - low) / (high - low), 0), 1)
        theta = base ** (-2 * i / d)
        expected.append((1 - keep) * theta / factor + keep * theta)
    assert 0 < low < high < d // 2
    actual = yarn_frequencies(d, base, factor, length, dtype=torch.float64)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_yarn_frequencies__equals_article_table() -> None:
    """d=128、b=10000、L=4096、s=8：21 对不动，25 对过渡，18 对恰好除以 8。"""
    original = inverse_frequencies(128, 1e4, dtype=torch.float64)
    ratio = yarn_frequencies(128, 1e4, 8, 4096, dtype=torch.float64) / original
    kept, full = ratio > 1 - 1e-12, ratio < 0.125 + 1e-12
    assert kept.nonzero().flatten().tolist() == list(range(21))
    assert full.nonzero().flatten().tolist() == list(range(46, 64))


def test_yarn_frequencies__differs_from_paper_ramp() -> None:
    """公开代码的斜坡按下标，论文的按圈数：s=16 时第 38 对的频率相差 3.04 倍。"""
    code = yarn_frequencies(128, 1e4, 16, 4096, dtype=torch.float64)
    paper = by_parts_frequencies(128, 1e4, 16, 4096, dtype=torch.float64)
    assert (code / paper).argmax() == 38
    assert round((code / paper).max().item(), 2) == 3.04
    eight = yarn_frequencies(128, 1e4, 8, 4096, dtype=torch.float64) / by_parts_frequencies(
        128, 1e4, 8, 4096, dtype=torch.float64
    )
    assert (eight.argmax().item(), round(eight.max().item(), 2)) == (36, 2.3)


def test_yarn_frequencies__differs_from_paper_on_short_training_length() -> None:
    """L=64、s=8：论文的斜坡把最高频也压到 0.384 倍，公开代码的端点夹在 0 而保住它。"""
    code = yarn_frequencies(32, 1e4, 8, 64, dtype=torch.float64)
    paper = by_parts_frequencies(32, 1e4, 8, 64, dtype=torch.float64)
    assert code[0] == 1
    assert round(paper[0].item(), 3) == 0.384


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"d": 7}, "d"),
        ({"d": -2}, "d"),
        ({"base": 0}, "base"),
        ({"base": 1}, "base"),
        ({"factor": 0.5}, "factor"),
        ({"original_max_position_embeddings": 0}, "original_max_position_embeddings"),
        ({"beta_slow": 32}, "beta_slow"),
        ({"beta_slow": 0}, "beta_slow"),
        ({"beta_fast": 0.5}, "beta_slow"),
        ({"beta_fast": math.inf}, "beta_fast"),
        ({"original_max_position_embeddings": math.inf}, "original_max_position_embeddings"),
        ({"d": None}, "d"),
    ],
)
def test_yarn_frequencies__rejects_bad_arguments(changes, name) -> None:
    """奇数的 d、不大于 1 的底数、小于 1 的倍数、非正的长度、颠倒的圈数界都被拒绝。"""
    good = {"d": 8, "base": 1e4, "factor": 2, "original_max_position_embeddings": 64}
    with pytest.raises(ValueError, match=f"^{name} "):
        yarn_frequencies(**{**good, **changes})


def test_yarn_attention_factor__matches_transformers() -> None:
    """两个权重取 None、0、正数的各种组合，都与 transformers 的 attention_factor 相等。"""
    weights = (None, 0.0, 0.707, 1.0)
    for factor, mscale, every in itertools.product((1.0, 1.5, 8.0, 40.0), weights, weights):
        _, expected = _transformers(
            "yarn",
            8,
            1e4,
            4096,
            factor=factor,
            original_max_position_embeddings=4096,
            mscale=mscale,
            mscale_all_dim=every,
        )
        assert yarn_attention_factor(factor, mscale, every) == pytest.approx(expected, rel=1e-15)


def test_yarn_attention_factor__equals_published_values() -> None:
    """取 s = 1、8、16、32 时是 1、1.2079、1.2773、1.3466；DeepSeek 的写法 s = 40 时是 0.9210。"""
    values = [round(yarn_attention_factor(s), 4) for s in (1, 8, 16, 32)]
    assert values == [1.0, 1.2079, 1.2773, 1.3466]
    assert round(yarn_attention_factor(40, mscale=0.707, mscale_all_dim=1.0), 4) == 0.9210


def test_yarn_attention_factor__is_one_for_equal_weights() -> None:
    """分子分母的权重相同时，系数恒为 1。"""
    assert yarn_attention_factor(40.0, 0.707, 0.707) == 1


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((0.5,), "factor"),
        ((math.nan,), "factor"),
        ((2, -1.0, 1.0), "mscale"),
        ((2, 1.0, -1.0), "mscale_all_dim"),
        ((2, 1.0, math.inf), "mscale_all_dim"),
        ((2, "1", 1.0), "mscale"),
        ((2, 1.0, True), "mscale_all_dim"),
    ],
)
def test_yarn_attention_factor__rejects_bad_arguments(arguments, name) -> None:
    """小于 1 的倍数与负的权重被拒绝。"""
    with pytest.raises(ValueError, match=f"^{name} "):
        yarn_attention_factor(*arguments)


def test_llama3_frequencies__matches_transformers() -> None:
    """各种底数、倍数、圈数界与训练长度，都与 transformers 的 llama3 逐对相等。"""
    limits = ((1.0, 4.0), (1.0, 32.0), (2.0, 3.0), (0.5, 0.75))
    for (d, base, factor), length, (low, high) in itertools.product(
        GRID, (8, 64, 2048, 8192), limits
    ):
        expected, _ = _transformers(
            "llama3",
            d,
            base,
            round(length * factor) + 1,
            factor=factor,
            low_freq_factor=low,
            high_freq_factor=high,
            original_max_position_embeddings=length,
        )
        actual = llama3_frequencies(d, base, factor, low, high, length)
        _assert_matches_transformers(actual, expected)


def test_llama3_frequencies__equals_by_parts() -> None:
    """与圈数斜坡下上界取 (l, h) 的 NTK-by-parts 相等，Llama 3.1 的参数也在内。"""
    settings = ((128, 5e5, 8.0, 1, 4, 8192), (64, 5e5, 32.0, 1, 4, 8192), (20, 1e3, 3.0, 2, 9, 300))
    for d, base, factor, low, high, length in settings:
        actual = llama3_frequencies(d, base, factor, low, high, length, dtype=torch.float64)
        expected = by_parts_frequencies(
            d, base, factor, length, alpha=low, beta=high, dtype=torch.float64
        )
        torch.testing.assert_close(actual, expected)


def test_llama3_frequencies__equals_hand_calculation() -> None:
    """训练长度内转 2.5 圈的那一对：σ = 1/2，s = 8，频率变成 9/16。"""
    length = 500
    theta = 2.5 * 2 * math.pi / length
    base = theta**-2  # d = 4 时 θ_1 = base^(-1/2)
    actual = llama3_frequencies(4, base, 8, 1, 4, length, dtype=torch.float64)
    torch.testing.assert_close(actual[1].item(), theta * 9 / 16)


def test_llama3_frequencies__is_monotone_in_pair_index() -> None:
    """新频率仍随下标递减；Llama 3.1 的 64 对里 29 对不动，29 对除以 8，6 对过渡。"""
    original = inverse_frequencies(128, 5e5, dtype=torch.float64)
    actual = llama3_frequencies(128, 5e5, 8, 1, 4, 8192, dtype=torch.float64)
    assert (actual.diff() < 0).all()
    ramp = rotation_ramp(8192 * original / (2 * math.pi), 1, 4)
    assert [(ramp == 1).sum().item(), (ramp == 0).sum().item()] == [29, 29]
    torch.testing.assert_close(actual[:29], original[:29])
    torch.testing.assert_close(actual[-29:], original[-29:] / 8)


def test_llama3_frequencies__equals_article_table() -> None:
    """d=128、b=10000、L=4096、s=8，上下界 (1, 4)：36 对不动，18 对除以 8；四种方法第 32 对的比。"""
    settings = {"dtype": torch.float64}
    original = inverse_frequencies(128, 1e4, **settings)
    ratio = llama3_frequencies(128, 1e4, 8, 1, 4, 4096, **settings) / original
    assert (ratio > 1 - 1e-12).nonzero().flatten().tolist() == list(range(36))
    assert (ratio < 0.125 + 1e-12).nonzero().flatten().tolist() == list(range(46, 64))
    tables = (
        ntk_frequencies(128, 1e4, 8, **settings),
        by_parts_frequencies(128, 1e4, 8, 4096, **settings),
        yarn_frequencies(128, 1e4, 8, 4096, **settings),
        llama3_frequencies(128, 1e4, 8, 1, 4, 4096, **settings),
    )
    at_32 = [round((table[32] / original[32]).item(), 4) for table in tables]
    assert at_32 == [0.3478, 0.2808, 0.5962, 1]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((7, 1e4, 8, 1, 4, 64), "d"),
        ((8, -1e4, 8, 1, 4, 64), "base"),
        ((8, 1e4, 0.5, 1, 4, 64), "factor"),
        ((8, 1e4, 8, 4, 4, 64), "low_freq_factor"),
        ((8, 1e4, 8, 4, 1, 64), "low_freq_factor"),
        ((8, 1e4, 8, 0, 4, 64), "low_freq_factor"),
        ((8, 1e4, 8, "1", 4, 64), "low_freq_factor"),
        ((8, 1e4, 8, 1, math.inf, 64), "high_freq_factor"),
        ((8, 1e4, 8, 1, -4, 64), "high_freq_factor"),
        ((8, "1e4", 8, 1, 4, 64), "base"),
        ((8, 1e4, 8, 1, 4, 0), "original_max_position_embeddings"),
    ],
)
def test_llama3_frequencies__rejects_bad_arguments(arguments, name) -> None:
    """奇数的 d、非正的底数与长度、小于 1 的倍数、颠倒的圈数界都被拒绝。"""
    with pytest.raises(ValueError, match=f"^{name} "):
        llama3_frequencies(*arguments)
