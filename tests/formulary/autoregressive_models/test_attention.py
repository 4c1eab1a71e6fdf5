"""因果注意力、右移、键值缓存与计算量的检验，以及 torch 接口的几处约定。"""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from formulary.autoregressive_models.attention import (
    cached_attention,
    causal_attention,
    decoding_scores,
    shift_right,
)


def _random(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_causal_attention__matches_sdpa() -> None:
    """与 F.scaled_dot_product_attention(is_causal=True) 相同。"""
    q, k, v = _random(3, 2, 4, 7, 5)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(causal_attention(q, k, v), expected)


def test_causal_attention__matches_python_loop() -> None:
    """与逐个查询只对前面的键作 softmax 的标量循环相同，没有用到负无穷。"""
    q, k, v = (t.tolist() for t in _random(3, 6, 4))
    expected = []
    for i in range(6):
        scores = [sum(a * b for a, b in zip(q[i], k[j], strict=True)) / 2 for j in range(i + 1)]
        weights = [math.exp(s) for s in scores]
        expected.append(
            [sum(w * v[j][f] for j, w in enumerate(weights)) / sum(weights) for f in range(4)]
        )
    actual = causal_attention(*_random(3, 6, 4))
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_causal_attention__depends_only_on_past() -> None:
    """第 i 个输出对后面的键与值的导数恰为零，对自己与前面的不为零。"""
    q, k, v = _random(3, 5, 3)
    for position, function in (
        (0, lambda t: causal_attention(q, t, v)),
        (1, lambda t: causal_attention(q, k, t)),
    ):
        jacobian = torch.autograd.functional.jacobian(function, (k, v)[position])
        strength = jacobian.abs().sum(dim=(1, 3))  # (查询位置, 键位置)
        assert (strength.triu(diagonal=1) == 0).all()
        # 第 0 个查询只有一个键可看，权重恒为 1，所以对那个键没有导数
        lower = strength.tril() if position else strength.tril()[1:]
        assert (lower.sum(dim=1) > 0).all()


def test_causal_attention__equals_running_mean_for_equal_scores() -> None:
    """查询全为零时各个分数相等，输出就是值的前缀平均。"""
    v = _random(6, 3)
    zeros = torch.zeros_like(v)
    expected = v.cumsum(0) / torch.arange(1, 7, dtype=torch.float64)[:, None]
    torch.testing.assert_close(causal_attention(zeros, zeros, v), expected)


def test_causal_attention__differs_from_inverted_mask() -> None:
    """布尔掩码的意思相反：SDPA 里 True 是可以看，nn.MultiheadAttention 里 True 是不许看。"""
    x = _random(1, 5, 4)
    layer = nn.MultiheadAttention(4, 1, batch_first=True, bias=False).double()
    with torch.no_grad():
        layer.in_proj_weight.copy_(torch.eye(4).repeat(3, 1))
        layer.out_proj.weight.copy_(torch.eye(4))
    expected = causal_attention(x, x, x)
    allowed = torch.ones(5, 5, dtype=torch.bool).tril()
    torch.testing.assert_close(F.scaled_dot_product_attention(x, x, x, attn_mask=allowed), expected)
    torch.testing.assert_close(layer(x, x, x, attn_mask=~allowed)[0], expected)
    # 两处用反，前一个变成只看未来，后一个也一样
    future = ~allowed | torch.eye(5, dtype=torch.bool)  # 对角线留着，免得一行全被挡住
    wrong = F.scaled_dot_product_attention(x, x, x, attn_mask=future)
    assert (wrong - expected).abs().max() > 0.1
    torch.testing.assert_close(layer(x, x, x, attn_mask=~future)[0], wrong)


def test_causal_attention__rejects_bad_shapes() -> None:
    """三者不同形、少于两轴或不是浮点张量时报错。"""
    q = torch.ones(2, 3, 4)
    for arguments, message in (
        ((q, q[:, :2], q), "k 的形状"),
        ((q, q, q[..., :2]), "v 的形状"),
        ((q[0, 0], q[0, 0], q[0, 0]), "q 的形状"),
        ((q.long(), q, q), "q 必须是实浮点张量"),
    ):
        with pytest.raises(ValueError, match=message):
            causal_attention(*arguments)


def test_cached_attention__matches_full_attention() -> None:
    """逐步加长缓存，每一步的输出都等于整段因果注意力的那一行。"""
    q, k, v = _random(3, 2, 3, 8, 5)
    full = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    for i in range(8):
        step = cached_attention(q[:, :, i], k[:, :, : i + 1], v[:, :, : i + 1])
        torch.testing.assert_close(step, full[:, :, i])


def test_cached_attention__is_convex_combination() -> None:
    """值全相同则输出就是它；缓存里键的次序无关紧要。"""
    q, k, v = _random(4), _random(6, 4, seed=1), _random(6, 4, seed=2)
    torch.testing.assert_close(cached_attention(q, k, v[:1].expand(6, 4)), v[0])
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(cached_attention(q, k[order], v[order]), cached_attention(q, k, v))


def test_cached_attention__differs_from_top_left_causal() -> None:
    """is_causal=True 的掩码对齐左上角：一个查询配五个键时，只看得到第一个键。"""
    q, k, v = _random(1, 4), _random(5, 4, seed=1), _random(5, 4, seed=2)
    wrong = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0, 0]
    torch.testing.assert_close(wrong, v[0])
    right = cached_attention(q[0], k, v)
    assert (wrong - right).abs().max() > 0.1
    # 不加掩码才对
    unmasked = F.scaled_dot_product_attention(q[None], k[None], v[None])[0, 0]
    torch.testing.assert_close(unmasked, right)


def test_cached_attention__rejects_bad_shapes() -> None:
    """批次、特征维数或键值个数对不上时报错。"""
    q, k = torch.ones(2, 4), torch.ones(2, 3, 4)
    for arguments, message in (
        ((q, k[:1], k[:1]), "k 的形状"),
        ((q, k[..., :3], k), "k 的形状"),
        ((q, k, k[:, :2]), "v 的形状"),
    ):
        with pytest.raises(ValueError, match=message):
            cached_attention(*arguments)


def test_shift_right__matches_python_lists() -> None:
    """与列表里插入开始符、弹出末项相同，编号与向量都可以。"""
    x = torch.tensor([[4, 7, 9], [1, 2, 3]])
    expected = [[0, *row[:-1]] for row in x.tolist()]
    torch.testing.assert_close(shift_right(x, torch.tensor(0)), torch.tensor(expected))
    vectors, start = _random(2, 3, 4), _random(4, seed=9)
    expected = torch.tensor(
        [[start.tolist(), *row[:-1]] for row in vectors.tolist()], dtype=torch.float64
    )
    torch.testing.assert_close(shift_right(vectors, start), expected)


def test_shift_right__is_strictly_causal_with_attention() -> None:
    """右移再加含自己的因果注意力，雅可比矩阵严格下三角；不右移则对角线不为零。"""
    x = _random(1, 6, 3)
    start = torch.zeros(3, dtype=torch.float64)
    for shifted, diagonal in ((True, False), (False, True)):

        def network(v: Tensor, shifted: bool = shifted) -> Tensor:
            h = shift_right(v, start) if shifted else v
            return causal_attention(h, h, h)[0].sum(dim=-1)

        jacobian = torch.autograd.functional.jacobian(network, x)[:, 0].abs().sum(dim=-1)
        assert (jacobian.triu(diagonal=1) == 0).all()
        assert (jacobian.diagonal() != 0).all() == diagonal


def test_shift_right__differs_from_unshifted_inputs() -> None:
    """忘了右移，模型抄答案：新抽的随机比特上 NLL 不到 0.1 nat，而真正的熵是 8 ln 2。"""
    generator = torch.Generator().manual_seed(0)
    x, fresh = torch.randint(2, (2, 256, 8), generator=generator).double()
    start = torch.zeros((), dtype=torch.float64)
    losses = {}
    for shifted in (True, False):
        inputs, unseen = (shift_right(v, start) if shifted else v for v in (x, fresh))
        slope = torch.zeros(8, dtype=torch.float64, requires_grad=True)
        bias = torch.zeros(8, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam((slope, bias), lr=0.3)
        for _ in range(150):
            logits = slope * inputs + bias
            loss = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        logits = (slope * unseen + bias).detach()
        losses[shifted] = 8 * F.binary_cross_entropy_with_logits(logits, fresh).item()
    entropy = 8 * math.log(2)
    assert abs(losses[True] - entropy) < 0.1
    assert losses[False] < 0.1


def test_shift_right__rejects_bad_start() -> None:
    """开始符的形状或类型对不上、x 少于两轴时报错。"""
    for x, start in (
        (torch.ones(2, 3), torch.ones(3)),
        (torch.ones(2, 3), torch.tensor(0)),
        (torch.ones(3), torch.tensor(0.0)),
    ):
        with pytest.raises(ValueError, match="start 的形状与 dtype"):
            shift_right(x, start)


def test_decoding_scores__matches_python_count() -> None:
    """与逐步逐对数出来的个数相同。"""
    for n in (1, 2, 7, 15):
        recomputed = sum(1 for step in range(n) for i in range(step + 1) for _ in range(i + 1))
        cached = sum(1 for step in range(n) for _ in range(step + 1))
        assert decoding_scores(n) == (recomputed, cached)


def test_decoding_scores__equals_mnist_example() -> None:
    """784 步：重算要 80,622,640 个分数，用缓存 307,720 个，相差 262 倍。"""
    recomputed, cached = decoding_scores(784)
    assert (recomputed, cached) == (80_622_640, 307_720)
    assert recomputed / cached == 262.0  # (n + 2)/3


def test_decoding_scores__limit_ratio() -> None:
    """两者之比恰为 (n + 2)/3。"""
    for n in (1, 4, 100):
        recomputed, cached = decoding_scores(n)
        assert 3 * recomputed == (n + 2) * cached


def test_decoding_scores__rejects_bad_length() -> None:
    """长度不是正整数时报错。"""
    for n in (0, -3, 2.5):
        with pytest.raises(ValueError, match="n 必须是"):
            decoding_scores(n)  # type: ignore[arg-type]
