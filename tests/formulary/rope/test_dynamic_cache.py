"""旧键相位的证明：直接旋转查询与键，再与分数公式对照。"""

import cmath
import math

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from formulary.rope.dynamic_cache import stale_key_phases
from formulary.rope.scaling import dynamic_ntk_frequencies


def _scores(h: torch.Tensor, phases: torch.Tensor) -> torch.Tensor:
    return (h * torch.exp(1j * phases)).real.sum(-1)


def _tables() -> tuple[torch.Tensor, torch.Tensor]:
    """Frequencies at the current length 400 and when the keys were cached, at 150 (L = 100)."""
    current = dynamic_ntk_frequencies(16, 1e4, 2, 100, 400, dtype=torch.float64)
    cached = dynamic_ntk_frequencies(16, 1e4, 2, 100, 150, dtype=torch.float64)
    return current, cached


def test_stale_key_phases__matches_complex_rotation() -> None:
    """逐对把查询转 mθ、把键转 nθ°，相位差与公式一致（模 2π）。"""
    current, cached = _tables()
    m, keys = 399, [0, 3, 149]
    actual = stale_key_phases(m, torch.tensor(keys), current, cached)
    for row, n in enumerate(keys):
        for i in range(8):
            q = cmath.exp(1j * m * current[i].item())
            k = cmath.exp(1j * n * cached[i].item())
            expected = q * k.conjugate()
            got = cmath.exp(1j * actual[row, i].item())
            assert abs(got - expected) < 1e-11


def test_stale_key_phases__depends_only_on_offset_for_fresh_keys() -> None:
    """键也用当前频率时，相位只依赖 m - n。"""
    current, _ = _tables()
    near = stale_key_phases(30, torch.tensor([10, 25]), current, current)
    far = stale_key_phases(1030, torch.tensor([1010, 1025]), current, current)
    torch.testing.assert_close(near, far)


def test_stale_key_phases__equals_hand_calculation() -> None:
    """m=10、n=4，频率从 1/2 变到 1/4：相位 6/4 - 4/4 = 1/2，而不是 6/4。"""
    now = torch.tensor([0.25], dtype=torch.float64)
    then = torch.tensor([0.5], dtype=torch.float64)
    assert stale_key_phases(10, torch.tensor([4]), now, then).item() == 0.5


def test_stale_key_phases__differs_from_fresh_keys() -> None:
    """沿用旧键的分数与重算键的分数不同，而且把查询与键一起平移后不再相等。"""
    current, cached = _tables()
    h = torch.randn(8, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    stale = _scores(h, stale_key_phases(399, torch.tensor([100]), current, cached))
    fresh = _scores(h, stale_key_phases(399, torch.tensor([100]), current, current))
    shifted = _scores(h, stale_key_phases(349, torch.tensor([50]), current, cached))
    assert (stale - fresh).abs() > 0.5
    assert (stale - shifted).abs() > 0.5


def test_stale_key_phases__matches_transformers() -> None:
    """对照 transformers 5.23.0 的 dynamic：先后两次算出的旋转表之差，正是这个相位。"""
    config = LlamaConfig(
        head_dim=16,
        hidden_size=32,
        num_attention_heads=2,
        max_position_embeddings=100,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
    )
    rotary, x, keys = LlamaRotaryEmbedding(config), torch.ones(1, 1, 16), torch.arange(150)
    key_cos, key_sin = rotary(x, keys[None])  # 此时长度是 150，键旋转后写入缓存
    query_cos, query_sin = rotary(x, torch.tensor([[399]]))  # 长度到 400，频率已换
    keys_then = torch.complex(key_cos, key_sin)[0, :, :8]
    query_now = torch.complex(query_cos, query_sin)[0, :, :8]
    current, cached = _tables()
    expected = torch.exp(1j * stale_key_phases(399, keys, current, cached))
    # 对方的表是 float32，位置 399 的角度有约 2e-5 的舍入
    torch.testing.assert_close(
        (query_now * keys_then.conj()).to(torch.complex128), expected, rtol=0, atol=1e-4
    )


def test_stale_key_phases__equals_article_numbers() -> None:
    """d=128、α=2、L=4096，长度到 8192：位置 4095 的旧键有 45 对多转半圈以上，最多 27.3 圈。"""
    current = dynamic_ntk_frequencies(128, 1e4, 2, 4096, 8192, dtype=torch.float64)
    cached = dynamic_ntk_frequencies(128, 1e4, 2, 4096, 4096, dtype=torch.float64)
    phases = stale_key_phases(8191, torch.tensor([4095]), current, cached)[0]
    turns = (phases - (8191 - 4095) * current).abs() / (2 * math.pi)
    assert (turns > 0.5).sum() == 45
    assert (turns.argmax().item(), round(turns.max().item(), 1)) == (7, 27.3)


def test_stale_key_phases__rejects_mismatched_frequencies() -> None:
    """两组频率长度不同时被拒绝。"""
    with pytest.raises(ValueError, match=r"^cached "):
        stale_key_phases(3, torch.tensor([1]), torch.ones(4), torch.ones(3))
