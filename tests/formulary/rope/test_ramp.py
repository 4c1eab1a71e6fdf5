"""两种斜坡与新角度判据的证明：逐对循环、二分法解下标、transformers 的频率反推。"""

import itertools
import math

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from formulary.rope.ramp import index_ramp, rotation_index, rotation_ramp, unseen_angles


def test_unseen_angles__matches_brute_force() -> None:
    """逐步走完训练长度与目标长度，看每一对有没有转到更远、且没转满一圈的角度。"""
    length, factor = 40, 3
    original = torch.tensor([1.0, 0.16, 0.12, 0.12, 0.05, 0.05], dtype=torch.float64)
    scaled = torch.tensor([1.0, 0.16, 0.04, 0.06, 0.05, 0.05 / 3], dtype=torch.float64)
    expected = []
    for before, after in zip(original.tolist(), scaled.tolist(), strict=True):
        seen = {round(before * length * step / 4000, 9) for step in range(4001)}
        full_turn = max(seen) >= 2 * math.pi
        farthest = after * length * factor
        expected.append(not full_turn and farthest > max(seen) + 1e-9)
    assert expected == [False, False, False, True, True, False]
    assert unseen_angles(scaled, original, factor, length).tolist() == expected


def test_unseen_angles__equals_pairs_below_one_turn() -> None:
    """频率不动时，遇到新角度的恰是没转满一圈的对：d=128、b=10000、L=4096 时是后 18 对。"""
    original = 10_000.0 ** (-torch.arange(64, dtype=torch.float64) / 64)
    actual = unseen_angles(original, original, 2, 4096)
    assert actual.nonzero().flatten().tolist() == list(range(46, 64))
    assert not unseen_angles(original, original, 1, 4096).any()


def test_unseen_angles__is_strict_at_both_limits() -> None:
    """恰好转满一圈的对，以及相对差不到 1e-5 的对，都不算遇到新角度；再多一点就算。"""
    full_turn = torch.tensor([2 * math.pi], dtype=torch.float64)
    assert not unseen_angles(full_turn, full_turn, 2, 1)
    one = torch.ones(3, dtype=torch.float64)
    excess = torch.tensor([1e-5, 1.5e-5, 0.0], dtype=torch.float64)
    assert unseen_angles(one + excess, one, 1, 1).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((torch.ones(3), torch.ones(4), 2, 8), "scaled"),
        ((torch.ones(4), torch.ones(4), 0.5, 8), "factor"),
        ((torch.ones(4), torch.ones(4), math.inf, 8), "factor"),
        ((torch.ones(4), torch.ones(4), "2", 8), "factor"),
        ((torch.ones(4), torch.ones(4), 2, 0), "original_max_position_embeddings"),
        ((torch.ones(4), torch.ones(4), 2, math.inf), "original_max_position_embeddings"),
    ],
)
def test_unseen_angles__rejects_bad_arguments(arguments, name) -> None:
    """长度不同的频率、小于 1 的倍数、非正的训练长度被拒绝。"""
    with pytest.raises(ValueError, match=f"^{name} "):
        unseen_angles(*arguments)


def test_rotation_ramp__matches_piecewise_loop() -> None:
    """逐个圈数按三段定义计算，换几组上下界。"""
    turns = [0.0, 0.3, 1.0, 1.7, 4.0, 9.0, 31.9, 32.0, 500.0]
    for alpha, beta in ((1, 32), (1, 4), (0, 2.5), (3, 17)):
        expected = []
        for r in turns:
            if r < alpha:
                expected.append(0.0)
            elif r > beta:
                expected.append(1.0)
            else:
                expected.append((r - alpha) / (beta - alpha))
        actual = rotation_ramp(torch.tensor(turns, dtype=torch.float64), alpha, beta)
        torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_rotation_ramp__equals_hand_calculation() -> None:
    """转 9 圈的一对，α=1、β=32：γ = 8/31。"""
    actual = rotation_ramp(torch.tensor([9.0], dtype=torch.float64))
    torch.testing.assert_close(actual.item(), 8 / 31)


def test_rotation_ramp__is_below_one_for_short_training() -> None:
    """训练长度短于 64π（约 201）时，最高频也转不满 32 圈，没有一对的斜坡到 1。"""
    turns = [torch.tensor([length / (2 * math.pi)]) for length in (64, 201, 202)]
    gamma = [rotation_ramp(r).item() for r in turns]
    assert gamma[0] < gamma[1] < 1
    assert gamma[2] == 1
    assert round(gamma[0], 3) == 0.296


@pytest.mark.parametrize(
    ("alpha", "beta"), [(-1, 32), (4, 4), (4, 1), (1, math.inf), ("1", 32), (1, "32")]
)
def test_rotation_ramp__rejects_bad_limits(alpha, beta) -> None:
    """负的下界与不大于下界的上界被拒绝。"""
    with pytest.raises(ValueError, match=r"alpha 与 beta"):
        rotation_ramp(torch.ones(2), alpha, beta)


def test_rotation_index__matches_bisection() -> None:
    """用二分法解 L·b^(-2j/d)/2π = ρ，得到同一个下标。"""
    for d, base, length, rho in itertools.product((64, 128), (1e3, 1e4), (512, 4096), (1, 7, 32)):
        low, high = -1000.0, 1000.0
        for _ in range(200):
            middle = (low + high) / 2
            turns = length * base ** (-2 * middle / d) / (2 * math.pi)
            low, high = (middle, high) if turns > rho else (low, middle)
        actual = rotation_index(d, base, length, rho)
        assert actual == pytest.approx(low, rel=1e-9)


def test_rotation_index__equals_llama_2_endpoints() -> None:
    """d=128、b=10000、L=4096：转 32 圈的是第 20.94 对，转 1 圈的是第 45.03 对。"""
    assert rotation_index(2, 1.5, 1, 1 / (2 * math.pi)) == 0
    ends = [round(rotation_index(128, 10_000, 4096, rho), 2) for rho in (32, 1)]
    assert ends == [20.94, 45.03]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((7, 1e4, 64, 1), "d"),
        ((0, 1e4, 64, 1), "d"),
        ((8, 1, 64, 1), "base"),
        ((8, math.inf, 64, 1), "base"),
        ((8, -2, 64, 1), "base"),
        ((8, 1e4, 0, 1), "original_max_position_embeddings"),
        ((8, 1e4, 64, 0), "rotations"),
        (("8", 1e4, 64, 1), "d"),
        ((8, "1e4", 64, 1), "base"),
        ((8, 10**400, 64, 1), "base"),
        ((8, 1e4, True, 1), "original_max_position_embeddings"),
        ((8, 1e4, None, 1), "original_max_position_embeddings"),
        ((8, 1e4, 1, 1e308), "rotations"),
        ((8, 1e4, 1e300, 1e-300), "rotations"),
    ],
)
def test_rotation_index__rejects_bad_arguments(arguments, name) -> None:
    """奇数的 d、不大于 1 的底数、非正的长度与圈数、不是数的参数、过于悬殊的比都被拒绝。"""
    with pytest.raises(ValueError, match=f"^{name} "):
        rotation_index(*arguments)


def test_index_ramp__matches_transformers() -> None:
    """由 transformers 的 yarn 频率反解出的混合比例，与斜坡相等。"""
    for d, length, truncate in itertools.product((8, 64, 128), (16, 700, 4096), (True, False)):
        factor = 8.0
        config = LlamaConfig(
            head_dim=d,
            hidden_size=2 * d,
            num_attention_heads=2,
            max_position_embeddings=8 * length,
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": factor,
                "original_max_position_embeddings": length,
                "truncate": truncate,
            },
        )
        frequencies, _ = ROPE_INIT_FUNCTIONS["yarn"](config)
        theta = 10_000.0 ** (-torch.arange(0, d, 2) / d)
        expected = (frequencies / theta - 1 / factor) / (1 - 1 / factor)
        actual = index_ramp(d, 1e4, length, truncate=truncate)
        # 对方在 float32 里计算，反解又放大一点
        torch.testing.assert_close(actual, expected, rtol=0, atol=2e-6)


def test_index_ramp__equals_hand_calculation() -> None:
    """d=128、b=10000、L=4096：端点是 20 与 46，第 33 对正好一半；不取整时第 20 对仍是 1。"""
    actual = index_ramp(128, 1e4, 4096, dtype=torch.float64)
    assert [actual[20].item(), actual[33].item(), actual[46].item()] == [1.0, 0.5, 0.0]
    torch.testing.assert_close(actual[21].item(), 25 / 26)
    exact = index_ramp(128, 1e4, 4096, truncate=False, dtype=torch.float64)
    assert exact[20] == 1
    assert exact[21] < 1
    assert 0 < exact[45] < actual[45]


def test_index_ramp__limit_equal_endpoints() -> None:
    """两个端点取整后相等时变成一级台阶：不超过端点的对取 1，之后取 0。"""
    step = index_ramp(16, 10_000, 2, beta_fast=8, beta_slow=2 / (2 * math.pi))
    assert step.tolist() == [1.0] + [0.0] * 7


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"d": 7}, "d"),
        ({"base": 0.5}, "base"),
        ({"original_max_position_embeddings": -1}, "original_max_position_embeddings"),
        ({"beta_slow": 32}, "beta_slow"),
        ({"beta_slow": -1}, "beta_slow"),
        ({"beta_slow": "1"}, "beta_slow"),
        ({"beta_fast": math.inf}, "beta_fast"),
        ({"beta_fast": math.nan}, "beta_fast"),
        ({"beta_fast": 0}, "beta_fast"),
    ],
)
def test_index_ramp__rejects_bad_arguments(changes, name) -> None:
    """奇数的 d、不大于 1 的底数、非正的长度、颠倒的圈数界被拒绝。"""
    good = {"d": 8, "base": 1e4, "original_max_position_embeddings": 64}
    with pytest.raises(ValueError, match=f"^{name} "):
        index_ramp(**{**good, **changes})
