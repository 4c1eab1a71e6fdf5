"""Proofs of formulary.rope.precision."""

import math
from fractions import Fraction

import pytest
import torch
from rotary_embedding_torch import RotaryEmbedding
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from formulary.rope.precision import (
    distinct_positions,
    largest_exact_position,
    phase_error,
    rounded_table_rotation,
    score_change,
    table_rounding,
    unit_roundoff,
)

BITS = {torch.bfloat16: 8, torch.float16: 11, torch.float32: 24}


def rounded(x: Fraction, bits: int) -> Fraction:
    """Nearest number of so many significant bits, ties to even, no limit on the exponent."""
    if x == 0:
        return x
    scale = Fraction(1)
    while abs(x) * scale >= 2**bits:
        scale /= 2
    while abs(x) * scale < 2 ** (bits - 1):
        scale *= 2
    return round(x * scale) / scale  # Python rounds halves of a Fraction to even


def rotary_tables(dtype: torch.dtype, tokens: int) -> tuple[Tensor, Tensor]:
    """Tables of transformers' module after `.to(dtype)`, for a float32 input, d = 128."""
    config = LlamaConfig(hidden_size=128, num_attention_heads=1, max_position_embeddings=tokens)
    module = LlamaRotaryEmbedding(config).to(dtype)
    cos, sin = module(torch.zeros(1, tokens, 128), torch.arange(tokens)[None])
    return cos[0, :, :64].double(), sin[0, :, :64].double()


def exact_angles(tokens: int) -> Tensor:
    """Angles of d = 128, b = 10000 in float64."""
    theta = torch.tensor([10_000.0 ** (-i / 64) for i in range(64)], dtype=torch.float64)
    return torch.arange(tokens, dtype=torch.float64)[:, None] * theta


def test_unit_roundoff__matches_halving_loop() -> None:
    """与反复减半、直到 1 + u 舍入回 1 的循环一致。"""
    for dtype, bits in BITS.items():
        u = 1.0
        while (torch.tensor(1.0, dtype=dtype) + torch.tensor(u, dtype=dtype)).item() != 1.0:
            u /= 2
        assert unit_roundoff(dtype) == u == 2.0**-bits


def test_unit_roundoff__bounds_relative_error() -> None:
    """随机数舍入后的相对误差不超过 u，且有的超过 0.98u。"""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(20_000, generator=generator, dtype=torch.float64) + 1
    for dtype in BITS:
        worst = ((x.to(dtype).double() - x).abs() / x).max().item()
        assert 0.98 * unit_roundoff(dtype) < worst <= unit_roundoff(dtype)


def test_unit_roundoff__rejects_integers() -> None:
    """整数类型没有单位舍入。"""
    with pytest.raises(ValueError, match="浮点类型"):
        unit_roundoff(torch.int64)


def test_largest_exact_position__matches_counting_loop() -> None:
    """与从 0 起逐个检验、遇到第一个无法表示的整数为止的循环一致。"""
    for dtype in (torch.bfloat16, torch.float16):
        m = 0
        while int(torch.tensor(m + 1, dtype=dtype).item()) == m + 1:
            m += 1
        assert largest_exact_position(dtype) == m


def test_largest_exact_position__equals_powers_of_two() -> None:
    """bfloat16 到 256，float16 到 2048，float32 到 16777216；再加 1 就表示不了。"""
    assert [largest_exact_position(dtype) for dtype in BITS] == [256, 2048, 16_777_216]
    for dtype in BITS:
        last = largest_exact_position(dtype)
        assert torch.tensor([last, last + 1]).to(dtype).tolist() == [last, last]


def test_largest_exact_position__differs_from_rotary_embedding_torch_in_bfloat16() -> None:
    """rotary-embedding-torch 0.9.1 给 bfloat16 输入的位置到 256 为止准确，257 被当成 256。"""
    x = torch.randn(1, 1, 1024, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    low = RotaryEmbedding(dim=64)
    out = low.rotate_queries_or_keys(x).float()
    right = RotaryEmbedding(dim=64).rotate_queries_or_keys(x.float())
    error = (out - right).abs().amax(dim=(0, 1, 3))
    last = largest_exact_position(torch.bfloat16)
    assert error[: last + 1].max() < 0.01
    assert error[last + 1] == pytest.approx(1.73, abs=0.01)
    assert error.max() == pytest.approx(5.27, abs=0.01)
    assert low.get_seq_pos(1024, dtype=torch.bfloat16)[last + 1] == last
    at_last = RotaryEmbedding(dim=64).rotate_queries_or_keys(
        x[:, :, last + 1 : last + 2].float(), offset=last
    )
    torch.testing.assert_close(
        out[:, :, last + 1], at_last[:, :, 0], rtol=0.0, atol=0.02
    )  # 输出舍入到 bfloat16


def test_largest_exact_position__differs_from_rotary_embedding_torch_cache() -> None:
    """rotary-embedding-torch 0.9.1 的角度缓存：先用 bfloat16 调用一次，之后 float32 的结果也错。"""
    x = torch.randn(1, 1, 1024, 64, generator=torch.Generator().manual_seed(1))
    right = RotaryEmbedding(dim=64).rotate_queries_or_keys(x)
    used = RotaryEmbedding(dim=64)
    used.rotate_queries_or_keys(x.bfloat16())
    error = (used.rotate_queries_or_keys(x) - right).abs().amax(dim=(0, 1, 3))
    warm = RotaryEmbedding(dim=64)
    warm.rotate_queries_or_keys(x)
    assert (warm.rotate_queries_or_keys(x.bfloat16()).float() - right).abs().max() < 0.05
    last = largest_exact_position(torch.bfloat16)
    assert error[: last + 1].max() == 0
    assert error[last + 1] > 1


def test_largest_exact_position__rejects_integers() -> None:
    """整数类型不在讨论之列。"""
    with pytest.raises(ValueError, match="浮点类型"):
        largest_exact_position(torch.int32)


def test_distinct_positions__matches_unique() -> None:
    """与把全部位置转换过去、再数不同值的个数相等。"""
    for dtype, largest in ((torch.bfloat16, 18), (torch.float16, 15), (torch.float32, 12)):
        for exponent in range(largest + 1):
            values = torch.arange(2**exponent).to(dtype).unique()
            assert distinct_positions(exponent, dtype) == values.numel()


def test_distinct_positions__equals_worked_example() -> None:
    """bfloat16：1024 个位置剩 513 个，131072 个位置剩 1409 个。"""
    assert distinct_positions(10, torch.bfloat16) == 256 + 2 * 128 + 1 == 513
    assert distinct_positions(17, torch.bfloat16) == 256 + 9 * 128 + 1 == 1409


def test_distinct_positions__differs_from_autocast_matmul() -> None:
    """autocast 里用矩阵乘法求角度：65536 起的 64 个位置合成一个；逐元素相乘则不受影响。"""
    positions, theta = torch.arange(65536, 65600).float(), torch.ones(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        by_matmul = positions[:, None] @ theta[None]
        by_product = positions[:, None] * theta[None]
    octave = distinct_positions(17, torch.bfloat16) - distinct_positions(16, torch.bfloat16)
    assert (65536 // octave, by_matmul.dtype) == (512, torch.bfloat16)
    assert by_matmul.unique().tolist() == [65536.0]
    assert by_product.unique().numel() == 64


def test_distinct_positions__rejects_overflow() -> None:
    """指数为负，或 2^K 超出 float16 的 65504 时报错。"""
    for exponent in (-1, 16, 5000):
        with pytest.raises(ValueError, match="exponent 必须非负"):
            distinct_positions(exponent, torch.float16)


def test_phase_error__matches_fraction_rounding() -> None:
    """与用有理数按有效位数逐步舍入的结果一致。"""
    positions = [0, 1, 100, 257, 1001, 4095, 60001]
    for dtype, bits in BITS.items():
        error, _ = phase_error(torch.tensor(positions), 6, 50.0, dtype)
        for row, m in zip(error.tolist(), positions, strict=True):
            for i, actual in enumerate(row):
                theta = Fraction(50.0 ** (-2 * i / 6))
                product = rounded(Fraction(m), bits) * rounded(theta, bits)
                expected = float(abs(rounded(product, bits) - m * theta))
                # 除以 u·m，量级归一；float64 的基准本身有 1e-16 的相对误差
                scale = 2.0**-bits * max(m, 1)
                assert actual / scale == pytest.approx(expected / scale, abs=1e-6)


def test_phase_error__bounds_every_position() -> None:
    """到 4096 为止每个位置、每对特征都不超过上界，且最大的比值超过 0.6。"""
    for dtype in BITS:
        error, bound = phase_error(torch.arange(4096), 128, dtype=dtype)
        assert (error <= bound).all()
        assert (error[1:] / bound[1:]).max() > 0.6
        growth = float((1 + Fraction(1, 2 ** BITS[dtype])) ** 3 - 1)
        expected = growth * exact_angles(4096)
        torch.testing.assert_close(bound / growth, expected / growth)


def test_phase_error__equals_hand_example() -> None:
    """bfloat16、d = 128、i = 1、m = 1001：位置成 1000，频率成 0.8671875，乘积成 868，误差 1.17。"""
    theta = 10_000.0 ** (-1 / 64)
    low = torch.tensor([1001.0, theta]).bfloat16()
    assert low.tolist() == [1000.0, 0.8671875]
    assert (low[0] * low[1]).item() == 868.0
    assert (round(theta, 5), round(1001 * theta, 2)) == (0.86596, 866.83)
    error, bound = phase_error(torch.tensor([1001]), 128)
    torch.testing.assert_close(error[0, 1].item(), 868 - 1001 * theta)
    assert (round(error[0, 1].item(), 2), round(bound[0, 1].item(), 2)) == (1.17, 10.2)


def test_phase_error__equals_measured_table() -> None:
    """正文表里的最大误差（d = 128，各对特征、各位置取最大）。"""
    table = {
        torch.bfloat16: {128: 0.388, 1024: 4.84, 4096: 19.4},
        torch.float16: {128: 0.0588, 1024: 0.490, 4096: 2.83},
        torch.float32: {128: 7.11e-6, 1024: 5.93e-5, 4096: 2.42e-4},
    }
    for dtype, row in table.items():
        for tokens, expected in row.items():
            worst = phase_error(torch.arange(tokens), 128, dtype=dtype)[0].max().item()
            assert worst == pytest.approx(expected, rel=5e-3)


def test_phase_error__equals_first_large_errors() -> None:
    """误差首次超过 0.1 与 1 弧度的位置：bfloat16 是 40 与 261，float16 是 182 与 2049。"""
    for dtype, first in ((torch.bfloat16, [40, 261]), (torch.float16, [182, 2049])):
        worst = phase_error(torch.arange(2100), 128, dtype=dtype)[0].amax(1)
        assert [int((worst > limit).nonzero()[0]) for limit in (0.1, 1.0)] == first


def test_phase_error__equals_long_context_in_float32() -> None:
    """float32：位置 131072 处 3.9e-3 弧度，1048576 处 3.1e-2 弧度。"""
    error, bound = phase_error(torch.tensor([2**17, 2**20]), 128, dtype=torch.float32)
    assert [round(value, 4) for value in error.amax(1).tolist()] == [0.0039, 0.0312]
    assert (error <= bound).all()


def test_phase_error__limit_exact_positions() -> None:
    """不超过 256 的位置、θ = 1：bfloat16 里误差为零。"""
    error, _ = phase_error(torch.arange(257), 2)
    assert error.max() == 0
    assert phase_error(torch.tensor([257]), 2)[0].item() == 1


def test_phase_error__is_even_in_position() -> None:
    """位置取负，误差与上界都不变。"""
    positions = torch.tensor([3, 300, 1001])
    for there, here in zip(phase_error(-positions, 8), phase_error(positions, 8), strict=True):
        torch.testing.assert_close(there, here)
        assert (here > 0).any(dim=1).all()


def test_phase_error__limit_of_float16_range() -> None:
    """位置 65504、频率恰为最小正规数 2^-14 时，float16 仍在范围之内，误差合乎上界。"""
    error, bound = phase_error(torch.tensor([65504]), 4, 2.0**28, torch.float16)
    assert (error <= bound).all()
    torch.testing.assert_close(error[0], torch.zeros(2, dtype=torch.float64))


def test_phase_error__rejects_overflow_and_underflow() -> None:
    """位置超出 float16 的范围，或频率落入次正规数时报错。"""
    with pytest.raises(ValueError, match="positions 超出"):
        phase_error(torch.tensor([0, -65505]), 128, dtype=torch.float16)
    with pytest.raises(ValueError, match="的正规数下限"):
        phase_error(torch.tensor([1]), 128, 500_000.0, torch.float16)
    with pytest.raises(ValueError, match="d 必须"):
        phase_error(torch.tensor([1]), 3)


def test_score_change__matches_dense_rotations() -> None:
    """变化量等于用稠密旋转矩阵算出的两个分数之差。"""
    generator = torch.Generator().manual_seed(2)
    for distance in (0.0, 3.0, -41.0):
        q, k = torch.randn(2, 6, generator=generator, dtype=torch.float64)
        errors = 2 * torch.randn(3, generator=generator, dtype=torch.float64)

        def score(extra: list[float], q: Tensor = q, k: Tensor = k, m: float = distance) -> float:
            total = 0.0
            for i in range(3):
                angle = m * 20.0 ** (-2 * i / 6) + extra[i]
                turn = torch.tensor(
                    [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]],
                    dtype=torch.float64,
                )
                total += (turn @ q[2 * i : 2 * i + 2] @ k[2 * i : 2 * i + 2]).item()
            return total

        change, _ = score_change(q, k, distance, errors, 20.0)
        torch.testing.assert_close(change.item(), score(errors.tolist()) - score([0.0] * 3))


def test_score_change__bounds_change() -> None:
    """2000 组随机的 q、k、误差都不超过上界；一对同向且误差为 π 时恰取到上界。"""
    generator = torch.Generator().manual_seed(3)
    for _ in range(2000):
        q, k = torch.randn(2, 4, generator=generator, dtype=torch.float64)
        errors = 2 * torch.randn(2, generator=generator, dtype=torch.float64)
        change, bound = score_change(q, k, 7.0, errors)
        assert change.abs() <= bound
    q = torch.tensor([3.0, 4.0], dtype=torch.float64)
    change, bound = score_change(q, q, 0.0, torch.tensor([math.pi], dtype=torch.float64))
    assert (change.item(), bound.item()) == (pytest.approx(-50.0), pytest.approx(50.0))
    change, bound = score_change(q, q, 0.0, torch.tensor([-0.5], dtype=torch.float64))
    assert bound.item() == pytest.approx(12.5)


def test_score_change__equals_hand_example() -> None:
    """q = k = (1, 0)，位置 258 与 257：bfloat16 把 257 当成 256，分数从 0.540 变成 -0.416。"""
    one = torch.tensor([1.0, 0.0], dtype=torch.float64)
    extra = torch.tensor([1.0], dtype=torch.float64)
    change, bound = score_change(one, one, 1.0, extra)
    torch.testing.assert_close(change.item(), math.cos(2) - math.cos(1))
    assert (round(change.item(), 3), bound.item()) == (-0.956, 1.0)
    low = torch.arange(257, 513).bfloat16()  # 相距 1 步成了 0 步或 2 步
    assert low.diff().unique().tolist() == [0.0, 2.0]


def test_score_change__equals_worked_example_with_two_pairs() -> None:
    """d = 4、b = 10000：第二对 θ = 0.01，距离 100 时准确的相位是 1，偏到 1.5。"""
    q, k = torch.tensor([[1.0, 0.0, 0.0, 2.0], [0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    change, bound = score_change(q, k, 100.0, torch.tensor([0.3, 0.5], dtype=torch.float64))
    torch.testing.assert_close(change.item(), 2 * (math.cos(1.5) - math.cos(1)))
    assert bound.item() == 1.0


def test_score_change__rejects_unequal_lengths() -> None:
    """q 与 k 不同长，或误差的个数不是一半时报错。"""
    one, half = torch.ones(4), torch.zeros(2)
    for bad in ((one, torch.ones(6), half), (one, one, torch.zeros(3))):
        with pytest.raises(ValueError, match="一半"):
            score_change(bad[0], bad[1], 1.0, bad[2])


def stored(value: float, bits: int) -> Fraction:
    """A float64 rounded to float32 and then to so many bits."""
    return rounded(rounded(Fraction(value), 24), bits)


def test_table_rounding__matches_fraction_rounding() -> None:
    """与用有理数把余弦、正弦先后舍入到 24 位、p 位的误差一致。"""
    angles = torch.tensor([[0.1, 1.5], [2.0, -4.0]], dtype=torch.float64)
    for dtype, bits in BITS.items():
        error, bound = table_rounding(angles, dtype)
        for angle, actual in zip(angles.flatten().tolist(), error.flatten().tolist(), strict=True):
            values = math.cos(angle), math.sin(angle)
            expected = float(max(abs(stored(value, bits) - Fraction(value)) for value in values))
            assert actual / bound == pytest.approx(expected / bound, abs=1e-6)
        assert bound == 2.0 ** -(bits + 1) + 2.0**-25


def test_table_rounding__bounds_every_angle() -> None:
    """误差不超过上界，远近位置都一样：前 1024 与末 1024 个位置都有超过 0.98·u/2 的。"""
    angles = exact_angles(131_072)
    for dtype, bits in BITS.items():
        for part in (angles[1:1025], angles[-1024:]):
            error, bound = table_rounding(part, dtype)
            assert 0.98 * 2.0 ** -(bits + 1) < error.max() <= bound


def test_table_rounding__bounds_transformers_table_unless_module_is_cast() -> None:
    """transformers 5.23.0：float32 求角、再舍入的表合乎上界；模块先 .to(bfloat16) 就超出百倍。"""
    _, bound = table_rounding(exact_angles(1), torch.bfloat16)
    angles = exact_angles(4096)
    for tables, holds in (
        (rotary_tables(torch.float32, 4096), True),
        (rotary_tables(torch.bfloat16, 4096), False),
    ):
        cos, sin = (table.bfloat16().double() for table in tables)
        worst = torch.maximum((cos - angles.cos()).abs().max(), (sin - angles.sin()).abs().max())
        # 乘 1.2：float32 的转角在 4095 处另有 2.4e-4 弧度的误差
        assert worst < 1.2 * bound if holds else worst > 100 * bound


def test_table_rounding__rejects_float32_angles() -> None:
    """float32 的角度不能当基准。"""
    with pytest.raises(ValueError, match="float64"):
        table_rounding(torch.zeros(1, 1))
    with pytest.raises(ValueError, match="浮点类型"):
        table_rounding(torch.zeros(1, 1, dtype=torch.float64), torch.int32)


def test_rounded_table_rotation__matches_python_loop() -> None:
    """与逐对相乘、逐对取差的循环一致。"""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    angles = 9 * torch.randn(5, 3, generator=generator, dtype=torch.float64)
    for dtype, bits in BITS.items():
        error, bound = rounded_table_rotation(x, angles, dtype)
        for t in range(5):
            total = 0.0
            for i in range(3):
                a, b = x[t, 2 * i].item(), x[t, 2 * i + 1].item()
                pair = math.cos(angles[t, i]), math.sin(angles[t, i])
                dc, ds = (float(stored(value, bits) - Fraction(value)) for value in pair)
                total += (a * dc - b * ds) ** 2 + (a * ds + b * dc) ** 2
            scale = bound[t].item()
            assert error[t].item() / scale == pytest.approx(math.sqrt(total) / scale, abs=1e-6)


def test_rounded_table_rotation__bounds_every_row() -> None:
    """误差不超过上界，远近位置都一样；有的角度超过 0.9 倍的 u/√2·‖x‖。"""
    x = torch.randn(1000, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    for offset in (0, 10**6):
        angles = offset + torch.arange(1000, dtype=torch.float64)[:, None]
        for dtype, bits in BITS.items():
            error, bound = rounded_table_rotation(x, angles, dtype)
            relative = error / x.norm(dim=1) * math.sqrt(2)
            assert (error <= bound).all()
            assert relative.max() > 0.9 * 2.0**-bits
            expected = (2.0**-bits + 2.0**-24) / math.sqrt(2) * x.square().sum(1).sqrt()
            torch.testing.assert_close(bound / expected, torch.ones_like(bound))


def test_rounded_table_rotation__rejects_wrong_types_and_shapes() -> None:
    """不是 float64，或角度的个数不是维数的一半时报错。"""
    x, angles = torch.zeros(3, 4, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64)
    for bad in ((x.float(), angles), (x, angles.float())):
        with pytest.raises(ValueError, match="float64"):
            rounded_table_rotation(*bad)
    for bad in ((x, angles[:2]), (x[:, :3], angles), (x[None], angles)):
        with pytest.raises(ValueError, match="形状"):
            rounded_table_rotation(*bad)
