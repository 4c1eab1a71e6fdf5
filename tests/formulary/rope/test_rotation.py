"""两种布局的旋转、它们的快写法与两者之间置换的检验。"""

import math

import pytest
import torch
from rotary_embedding_torch import RotaryEmbedding
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb
from transformers.models.roformer.modeling_roformer import (
    RoFormerSelfAttention,
    RoFormerSinusoidalPositionalEmbedding,
)

from formulary.rope.rotation import (
    interleaved_to_half_split,
    rotate_half_split,
    rotate_half_split_fast,
    rotate_interleaved,
    rotate_interleaved_fast,
    rotation_table,
)

BASE = 300.0  # 不用默认值，免得 base 被忽略也看不出来
POSITIONS = torch.tensor([0.0, 3.0, -2.5, 40.0, 1001.0], dtype=torch.float64)


def _random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(5))


def _rotate_by_loops(x: Tensor, positions: Tensor, base: float, half_split: bool) -> Tensor:
    """逐个标量旋转；除了公式本身，与被测代码没有共用的部分。"""
    d = x.shape[-1]
    rows = x.reshape(-1, len(positions), d).tolist()
    for row in rows:
        for token, m in zip(row, positions.tolist(), strict=True):
            for i in range(d // 2):
                first, second = (i, i + d // 2) if half_split else (2 * i, 2 * i + 1)
                angle = m / base ** (2 * i / d)
                u, v = token[first], token[second]
                token[first] = u * math.cos(angle) - v * math.sin(angle)
                token[second] = u * math.sin(angle) + v * math.cos(angle)
    return torch.tensor(rows, dtype=torch.float64).reshape(x.shape)


def _llama_rotation(x: Tensor, positions: Tensor, base: float) -> Tensor:
    """Hugging Face 的 LlamaRotaryEmbedding 与 apply_rotary_pos_emb。"""
    config = LlamaConfig(
        hidden_size=x.shape[-1],
        num_attention_heads=1,
        rope_parameters={"rope_type": "default", "rope_theta": base},
    )
    cos, sin = LlamaRotaryEmbedding(config)(x, positions[None])
    return apply_rotary_pos_emb(x, x, cos, sin)[0]


def _roformer_rotation(x: Tensor, tokens: int) -> Tensor:
    """Hugging Face 的 RoFormer：位置 0…tokens-1，底数 10000。"""
    table = RoFormerSinusoidalPositionalEmbedding(tokens, x.shape[-1])
    # 5.x 把表的填充挪到了模型初始化里，直接构造时要自己填
    table.weight.data = table.create_weight()
    positions = table(torch.Size((1, tokens)))[None]
    return RoFormerSelfAttention.apply_rotary_position_embeddings(positions, x, x)[0]


def test_rotation_table__matches_python_loop() -> None:
    """余弦表与正弦表等于逐个用 math 算出的值。"""
    cos, sin = rotation_table(_random(5, 6), POSITIONS, BASE)
    angles = [[m / BASE ** (2 * i / 6) for i in range(3)] for m in POSITIONS.tolist()]
    expected_cos = torch.tensor([[math.cos(a) for a in row] for row in angles])
    expected_sin = torch.tensor([[math.sin(a) for a in row] for row in angles])
    assert cos.dtype == sin.dtype == torch.float64
    # 期望值以默认的 float32 存放，所以容差取 float32 的
    torch.testing.assert_close(cos, expected_cos, check_dtype=False, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(sin, expected_sin, check_dtype=False, rtol=1e-6, atol=1e-6)


def test_rotation_table__is_float32_for_low_precision() -> None:
    """bfloat16 与 float16 的输入也用 float32 的表，长位置的角度因此不失真。"""
    positions = torch.tensor([257, 4095])
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        cos, _ = rotation_table(torch.ones(2, 2, dtype=dtype), positions, BASE)
        assert cos.dtype == torch.float32
        expected = torch.tensor([[math.cos(257.0)], [math.cos(4095.0)]])
        torch.testing.assert_close(cos, expected)


def test_rotation_table__rejects_bad_input() -> None:
    """x、positions 与 base 各种不合要求的情形都报错，并指出参数名。"""
    x, positions = torch.ones(3, 4), torch.arange(3)
    cases: list[tuple[object, object, float, str]] = [
        ([[1.0, 2.0]], positions, BASE, "x 必须是实浮点张量"),
        (x.long(), positions, BASE, "x 必须是实浮点张量"),
        (x.to(torch.complex64), positions, BASE, "x 必须是实浮点张量"),
        (torch.ones(4), positions, BASE, "x 的形状"),
        (torch.ones(3, 5), positions, BASE, "x 的形状"),
        (torch.ones(3, 0), positions, BASE, "x 的形状"),
        (x, [0, 1, 2], BASE, "positions 必须是整数或实数张量"),
        (x, positions.to(torch.complex64), BASE, "positions 必须是整数或实数张量"),
        (x, positions > 0, BASE, "positions 必须是整数或实数张量"),
        (x, torch.arange(4), BASE, "positions 的形状"),
        (x, torch.arange(3)[None], BASE, "positions 的形状"),
        (x, positions, 0.0, "base 必须是有限的正数"),
    ]
    for bad_x, bad_positions, base, message in cases:
        with pytest.raises(ValueError, match=message):
            rotation_table(bad_x, bad_positions, base)  # type: ignore[arg-type]


def test_rotate_interleaved__matches_python_loop() -> None:
    """与逐个标量旋转相邻两维的循环相同，位置可以是负数与小数。"""
    x = _random(2, 3, 5, 8)
    expected = _rotate_by_loops(x, POSITIONS, BASE, half_split=False)
    torch.testing.assert_close(rotate_interleaved(x, POSITIONS, BASE), expected)


def test_rotate_interleaved__matches_roformer() -> None:
    """与 transformers 的 RoFormer 实现相差不到 1e-6。"""
    x = _random(2, 3, 50, 16)
    actual = rotate_interleaved(x, torch.arange(50))
    # RoFormer 的表由 NumPy 以 float64 算出，存为 float32，所以只有六七位有效数字
    torch.testing.assert_close(actual, _roformer_rotation(x, 50), rtol=0, atol=1e-6)


def test_rotate_interleaved__matches_rotary_embedding_torch() -> None:
    """与 rotary-embedding-torch 0.9.1 在 float32 下相差不到 1e-6。"""
    x = _random(2, 3, 50, 16, dtype=torch.float32)
    expected = RotaryEmbedding(16, theta=BASE).rotate_queries_or_keys(x).detach()
    actual = rotate_interleaved(x, torch.arange(50), base=BASE)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


def test_rotate_interleaved__is_identity_at_origin() -> None:
    """位置 0 处输出与输入逐位相同。"""
    x = _random(2, 4, 6)
    assert torch.equal(rotate_interleaved(x, torch.zeros(4)), x)


def test_rotate_interleaved__preserves_pair_norms() -> None:
    """每一对 (2i, 2i+1) 的范数不变。"""
    x = _random(3, 5, 8)
    norms = rotate_interleaved(x, POSITIONS).unflatten(-1, (4, 2)).norm(dim=-1)
    torch.testing.assert_close(norms, x.unflatten(-1, (4, 2)).norm(dim=-1))


def test_rotate_interleaved__differs_from_swapped_tables() -> None:
    """余弦与正弦写反时，位置 0 就不再是恒等映射。"""
    x = _random(1, 4)
    wrong = torch.stack((-x[..., 1::2], x[..., 0::2]), dim=-1).flatten(-2)
    assert (rotate_interleaved(x, torch.zeros(1)) - wrong).abs().max() > 0.1


def test_rotate_interleaved__differs_from_repeated_table() -> None:
    """表排成 [c; c] 而取负交换按相邻两维来做，就不再是旋转：长度也变了。"""
    x, d = _random(5, 8), 8
    angles = POSITIONS[:, None] * torch.tensor(
        [BASE ** (-2 * i / d) for i in range(d // 2)], dtype=torch.float64
    )
    swapped = torch.stack((-x[:, 1::2], x[:, 0::2]), dim=-1).flatten(-2)
    cos, sin = angles.cos(), angles.sin()
    right = x * cos.repeat_interleave(2, -1) + swapped * sin.repeat_interleave(2, -1)
    wrong = x * cos.repeat(1, 2) + swapped * sin.repeat(1, 2)
    actual = rotate_interleaved(x, POSITIONS, BASE)
    torch.testing.assert_close(actual, right)
    assert (wrong - actual).abs().max() > 0.1
    assert (wrong.norm(dim=-1) - x.norm(dim=-1)).abs().max() > 0.1


def test_rotate_interleaved__rejects_odd_dimension() -> None:
    """特征维数为奇数时报错并指出 x。"""
    with pytest.raises(ValueError, match="x 的形状"):
        rotate_interleaved(torch.ones(2, 3), torch.arange(2))


def test_rotate_half_split__matches_python_loop() -> None:
    """与逐个标量旋转 (i, i + d/2) 的循环相同，位置可以是负数与小数。"""
    x = _random(2, 3, 5, 8)
    expected = _rotate_by_loops(x, POSITIONS, BASE, half_split=True)
    torch.testing.assert_close(rotate_half_split(x, POSITIONS, BASE), expected)
    expected = _rotate_by_loops(x, POSITIONS, 10_000.0, half_split=True)
    torch.testing.assert_close(rotate_half_split(x, POSITIONS), expected)


def test_rotate_half_split__matches_huggingface_llama() -> None:
    """与 transformers 5.23.0 的 Llama 实现在 float32 下相差不到 1e-6，位置到 4096 为止。"""
    x = _random(2, 3, 50, 16, dtype=torch.float32)
    positions = torch.randint(0, 4096, (50,), generator=torch.Generator().manual_seed(1))
    actual = rotate_half_split(x, positions, base=BASE)
    torch.testing.assert_close(actual, _llama_rotation(x, positions, BASE), rtol=0, atol=1e-6)


def test_rotate_half_split__preserves_pair_norms() -> None:
    """每一对 (i, i + d/2) 的范数不变。"""
    x = _random(3, 5, 8)
    norms = rotate_half_split(x, POSITIONS).unflatten(-1, (2, 4)).norm(dim=-2)
    torch.testing.assert_close(norms, x.unflatten(-1, (2, 4)).norm(dim=-2))


def test_rotate_half_split__differs_from_interleaved() -> None:
    """同一个输入在两种布局下旋转的结果不同：布局不能混用。"""
    x = _random(5, 8)
    difference = rotate_half_split(x, POSITIONS) - rotate_interleaved(x, POSITIONS)
    assert difference.abs().max() > 1


def test_rotate_half_split__rejects_mismatched_positions() -> None:
    """位置的个数与词元数不符时报错并指出 positions。"""
    with pytest.raises(ValueError, match="positions 的形状"):
        rotate_half_split(torch.ones(2, 4), torch.arange(3))


def _gradient(output: Tensor, x: Tensor) -> Tensor:
    """一个非线性标量对 x 的梯度。"""
    weights = _random(*x.shape[1:])
    return torch.autograd.grad((output.sin() * weights).sum(), x)[0]


def _strided_views() -> list[Tensor]:
    """转置、隔列、错位一格、倒序与展开得来的不连续张量。"""
    wide = _random(2, 5, 3, 18)
    return [
        wide[..., :8].transpose(1, 2),
        wide[..., ::2][..., :8].transpose(1, 2),
        wide[..., 1:9].transpose(1, 2),
        wide[:1, :, 1, :8].expand(4, 5, 8),
        wide[0, :, :, 2].T[:, :, None].expand(3, 5, 6),
    ]


def test_rotate_interleaved_fast__matches_readable() -> None:
    """值与自动求导的梯度都和 rotate_interleaved 相同，输入不被改动。"""
    x = _random(2, 3, 5, 8).requires_grad_()
    before = x.detach().clone()
    fast = rotate_interleaved_fast(x, POSITIONS, BASE)
    readable = rotate_interleaved(x, POSITIONS, BASE)
    torch.testing.assert_close(fast, readable)
    torch.testing.assert_close(_gradient(fast, x), _gradient(readable, x))
    assert torch.equal(x.detach(), before)
    # 默认的底数也要一致
    torch.testing.assert_close(
        rotate_interleaved_fast(before, POSITIONS), rotate_interleaved(before, POSITIONS)
    )


def test_rotate_interleaved_fast__matches_readable_on_strided_views() -> None:
    """输入不连续时也和 rotate_interleaved 相同。"""
    for view in _strided_views():
        assert not view.is_contiguous()
        actual = rotate_interleaved_fast(view, POSITIONS, BASE)
        torch.testing.assert_close(actual, rotate_interleaved(view, POSITIONS, BASE))


def test_rotate_interleaved_fast__matches_python_loop() -> None:
    """与逐个标量旋转相邻两维的循环相同。"""
    x = _random(3, 5, 8)
    expected = _rotate_by_loops(x, POSITIONS, BASE, half_split=False)
    torch.testing.assert_close(rotate_interleaved_fast(x, POSITIONS, BASE), expected)


def test_rotate_interleaved_fast__preserves_pair_norms() -> None:
    """乘以模为 1 的复数，每个复数的模不变。"""
    x = _random(3, 5, 8)
    norms = rotate_interleaved_fast(x, POSITIONS).unflatten(-1, (4, 2)).norm(dim=-1)
    torch.testing.assert_close(norms, x.unflatten(-1, (4, 2)).norm(dim=-1))


def test_rotate_interleaved_fast__rejects_odd_dimension() -> None:
    """特征维数为奇数时报错并指出 x。"""
    with pytest.raises(ValueError, match="x 的形状"):
        rotate_interleaved_fast(torch.ones(2, 3), torch.arange(2))


def test_rotate_half_split_fast__matches_readable() -> None:
    """值与自动求导的梯度都和 rotate_half_split 相同，输入不被改动。"""
    x = _random(2, 3, 5, 8).requires_grad_()
    before = x.detach().clone()
    fast = rotate_half_split_fast(x, POSITIONS, BASE)
    readable = rotate_half_split(x, POSITIONS, BASE)
    torch.testing.assert_close(fast, readable)
    torch.testing.assert_close(_gradient(fast, x), _gradient(readable, x))
    assert torch.equal(x.detach(), before)
    # 默认的底数也要一致
    torch.testing.assert_close(
        rotate_half_split_fast(before, POSITIONS), rotate_half_split(before, POSITIONS)
    )


def test_rotate_half_split_fast__matches_readable_on_strided_views() -> None:
    """输入不连续时也和 rotate_half_split 相同。"""
    for view in _strided_views():
        assert not view.is_contiguous()
        actual = rotate_half_split_fast(view, POSITIONS, BASE)
        torch.testing.assert_close(actual, rotate_half_split(view, POSITIONS, BASE))


def test_rotate_half_split_fast__matches_huggingface_llama() -> None:
    """与 transformers 5.23.0 的 Llama 实现在 float32 下相差不到 1e-6。"""
    x = _random(2, 3, 50, 16, dtype=torch.float32)
    positions = torch.arange(50) * 80
    actual = rotate_half_split_fast(x, positions, base=BASE)
    torch.testing.assert_close(actual, _llama_rotation(x, positions, BASE), rtol=0, atol=1e-6)


def test_rotate_half_split_fast__is_identity_at_origin() -> None:
    """位置 0 处输出与输入逐位相同，而且是新的张量。"""
    x = _random(2, 4, 6)
    rotated = rotate_half_split_fast(x, torch.zeros(4))
    assert torch.equal(rotated, x)
    assert rotated.data_ptr() != x.data_ptr()


def test_rotate_half_split_fast__rejects_odd_dimension() -> None:
    """特征维数为奇数时报错并指出 x。"""
    with pytest.raises(ValueError, match="x 的形状"):
        rotate_half_split_fast(torch.ones(2, 3), torch.arange(2))


def _assert_rounded_once(actual: Tensor, exact: Tensor) -> None:
    """与精确值相差不过半个末位，另加 float32 角度在位置 4095 处的误差。"""
    bound = torch.finfo(actual.dtype).eps / 2 * exact.abs() + 1e-3
    assert ((actual.double() - exact).abs() <= bound).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rotate_interleaved__bounds_low_precision_error(dtype: torch.dtype) -> None:
    """半精度输入在 float32 里旋转，值与梯度都只在最后舍入一次，位置到 4095 也如此。"""
    x = _random(2, 3, 40, 8, dtype=dtype).requires_grad_()
    positions = torch.arange(4056, 4096)
    actual = rotate_interleaved(x, positions, BASE)
    assert actual.dtype == dtype
    exact = _rotate_by_loops(x.detach().double(), positions.double(), BASE, half_split=False)
    _assert_rounded_once(actual, exact)
    # 梯度是反向旋转，也只舍入一次
    (gradient,) = torch.autograd.grad((actual * x.detach()).sum(), x)
    assert gradient.dtype == dtype
    exact = _rotate_by_loops(x.detach().double(), -positions.double(), BASE, half_split=False)
    _assert_rounded_once(gradient, exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rotate_interleaved_fast__bounds_low_precision_error(dtype: torch.dtype) -> None:
    """半精度输入在 float32 里旋转，值与梯度都只在最后舍入一次，位置到 4095 也如此。"""
    x = _random(2, 3, 40, 8, dtype=dtype).requires_grad_()
    positions = torch.arange(4056, 4096)
    actual = rotate_interleaved_fast(x, positions, BASE)
    assert actual.dtype == dtype
    exact = _rotate_by_loops(x.detach().double(), positions.double(), BASE, half_split=False)
    _assert_rounded_once(actual, exact)
    # 梯度是反向旋转，也只舍入一次
    (gradient,) = torch.autograd.grad((actual * x.detach()).sum(), x)
    assert gradient.dtype == dtype
    exact = _rotate_by_loops(x.detach().double(), -positions.double(), BASE, half_split=False)
    _assert_rounded_once(gradient, exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rotate_half_split__bounds_low_precision_error(dtype: torch.dtype) -> None:
    """半精度输入在 float32 里旋转，值与梯度都只在最后舍入一次，位置到 4095 也如此。"""
    x = _random(2, 3, 40, 8, dtype=dtype).requires_grad_()
    positions = torch.arange(4056, 4096)
    actual = rotate_half_split(x, positions, BASE)
    assert actual.dtype == dtype
    exact = _rotate_by_loops(x.detach().double(), positions.double(), BASE, half_split=True)
    _assert_rounded_once(actual, exact)
    # 梯度是反向旋转，也只舍入一次
    (gradient,) = torch.autograd.grad((actual * x.detach()).sum(), x)
    assert gradient.dtype == dtype
    exact = _rotate_by_loops(x.detach().double(), -positions.double(), BASE, half_split=True)
    _assert_rounded_once(gradient, exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rotate_half_split_fast__bounds_low_precision_error(dtype: torch.dtype) -> None:
    """半精度输入在 float32 里旋转，值与梯度都只在最后舍入一次，位置到 4095 也如此。"""
    x = _random(2, 3, 40, 8, dtype=dtype).requires_grad_()
    positions = torch.arange(4056, 4096)
    actual = rotate_half_split_fast(x, positions, BASE)
    assert actual.dtype == dtype
    exact = _rotate_by_loops(x.detach().double(), positions.double(), BASE, half_split=True)
    _assert_rounded_once(actual, exact)
    # 梯度是反向旋转，也只舍入一次
    (gradient,) = torch.autograd.grad((actual * x.detach()).sum(), x)
    assert gradient.dtype == dtype
    exact = _rotate_by_loops(x.detach().double(), -positions.double(), BASE, half_split=True)
    _assert_rounded_once(gradient, exact)


def test_interleaved_to_half_split__matches_python_loop() -> None:
    """等于先列偶数下标、再列奇数下标。"""
    for d in (2, 6, 10):
        assert interleaved_to_half_split(d).tolist() == [*range(0, d, 2), *range(1, d, 2)]


def test_interleaved_to_half_split__matches_view_transpose() -> None:
    """等于 Hugging Face 转换脚本里的 view、transpose、reshape。"""
    d = 10
    expected = torch.arange(d).view(d // 2, 2).transpose(0, 1).reshape(d)
    assert torch.equal(interleaved_to_half_split(d), expected)


def test_interleaved_to_half_split__preserves_rotation() -> None:
    """先置换再作对半旋转，与先作交错旋转再置换逐位相同。"""
    x = _random(3, 5, 10)
    p = interleaved_to_half_split(10)
    after = rotate_half_split(x[..., p], POSITIONS, BASE)
    assert torch.equal(after, rotate_interleaved(x, POSITIONS, BASE)[..., p])


def test_interleaved_to_half_split__differs_from_identity() -> None:
    """不置换就把交错布局的查询与键交给对半旋转，分数变了样；置换之后完全一致。"""
    q, k = _random(2, 5, 10)
    p = interleaved_to_half_split(10)
    expected = rotate_interleaved(q, POSITIONS) @ rotate_interleaved(k, POSITIONS).T
    permuted = rotate_half_split(q[..., p], POSITIONS) @ rotate_half_split(k[..., p], POSITIONS).T
    mixed = rotate_half_split(q, POSITIONS) @ rotate_half_split(k, POSITIONS).T
    torch.testing.assert_close(permuted, expected)
    torch.testing.assert_close(mixed.diagonal(), expected.diagonal())
    assert (mixed - expected).abs().max() > 1


def test_interleaved_to_half_split__rejects_bad_dimension() -> None:
    """维数 d 为奇数、零、负数或小数时报错并指出 d。"""
    for d in (3, 0, -4, 2.0):
        with pytest.raises(ValueError, match="d 必须是正偶数"):
            interleaved_to_half_split(d)  # type: ignore[arg-type]
