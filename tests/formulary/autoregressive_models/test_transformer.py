"""Transformer 自回归模型的检验。"""

import itertools

import pytest
import torch
from torch import Tensor, nn

from formulary.autoregressive_models.bernoulli import bernoulli_log_prob
from formulary.autoregressive_models.sampling import ancestral_sample, incremental_sample
from formulary.autoregressive_models.transformer import TransformerAutoregressive, TransformerBlock


def _random(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _model(n: int, layers: int = 2) -> TransformerAutoregressive:
    generator = torch.Generator().manual_seed(4)
    model = TransformerAutoregressive(n, d=8, heads=2, layers=layers, generator=generator).double()
    with torch.no_grad():  # 偏置与增益改成随机数，免得漏掉它们也看不出来
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model


def _torch_layer(block: TransformerBlock) -> nn.TransformerEncoderLayer:
    """同样权重的 torch 官方解码器层（前置层归一化）。"""
    layer = nn.TransformerEncoderLayer(
        8, 2, 32, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    ).double()
    with torch.no_grad():
        for target, source in (
            (layer.self_attn.in_proj_weight, block.projection.weight),
            (layer.self_attn.in_proj_bias, block.projection.bias),
            (layer.self_attn.out_proj.weight, block.output.weight),
            (layer.self_attn.out_proj.bias, block.output.bias),
            (layer.linear1.weight, block.up.weight),
            (layer.linear1.bias, block.up.bias),
            (layer.linear2.weight, block.down.weight),
            (layer.linear2.bias, block.down.bias),
            (layer.norm1.weight, block.attention_norm.weight),
            (layer.norm1.bias, block.attention_norm.bias),
            (layer.norm2.weight, block.mlp_norm.weight),
            (layer.norm2.bias, block.mlp_norm.bias),
        ):
            target.copy_(source)
    return layer


def test_TransformerAutoregressive__matches_torch_encoder_layer() -> None:
    """权重搬进 nn.TransformerEncoderLayer、嵌入查表、手工右移，输出相同。"""
    model, n = _model(7), 7
    x = (_random(3, n) > 0).double()
    table = torch.stack(
        (model.embedding.bias, model.embedding.bias + model.embedding.weight[:, 0], model.start[0])
    )
    tokens = torch.cat((torch.full((3, 1), 2), x[:, :-1].long()), dim=1)
    h = table[tokens] + model.positions
    mask = torch.ones(n, n, dtype=torch.bool).triu(diagonal=1)
    for block in model.blocks:
        h = _torch_layer(block)(h, src_mask=mask)
    expected = nn.functional.layer_norm(h, (8,), model.norm.weight, model.norm.bias)
    expected = expected @ model.head.weight[0] + model.head.bias
    torch.testing.assert_close(model(x), expected)


def test_TransformerAutoregressive__is_normalized() -> None:
    """八个变量的 256 种取法，概率之和等于 1。"""
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=8)), dtype=torch.float64)
    total = bernoulli_log_prob(_model(8)(states), states).exp().sum()
    torch.testing.assert_close(total, torch.ones((), dtype=torch.float64))


def test_TransformerAutoregressive__depends_only_on_past() -> None:
    """雅可比矩阵严格下三角，一层就看得到全部前缀。"""
    model = _model(8, layers=1)
    jacobian = torch.autograd.functional.jacobian(lambda v: model(v)[0], _random(1, 8))[:, 0]
    below = torch.ones(8, 8, dtype=torch.bool).tril(-1)
    assert torch.equal(jacobian != 0, below)


def test_TransformerAutoregressive__matches_cached_steps() -> None:
    """逐步用键值缓存算出的对数几率，与一次并行前向相同。"""
    model, x = _model(9), (_random(4, 9) > 0).double()
    previous, state, logits = torch.zeros(4, dtype=torch.float64), None, []
    for column in x.unbind(1):
        logit, state = model.step(previous, state)
        logits.append(logit)
        previous = column
    torch.testing.assert_close(torch.stack(logits, dim=1), model(x))
    assert [cache.shape for cache in state] == [(2, 4, 2, 9, 4)] * 2  # 每层、每个样本 2nD 个数


def test_TransformerAutoregressive__matches_incremental_sampling() -> None:
    """同样的均匀数，用缓存的采样与每步重算整个前缀的采样逐位相同，一层与两层都如此。"""
    uniforms = torch.rand(200, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for layers in (1, 2):
        model = _model(10, layers)
        slow, fast = ancestral_sample(model, uniforms), incremental_sample(model.step, uniforms)
        torch.testing.assert_close(fast, slow)
        assert len(fast.unique(dim=0)) > 20


def test_TransformerAutoregressive__preserves_seeded_parameters() -> None:
    """同样的种子给出同样的模型，与全局的种子无关。"""
    x = torch.ones(2, 5)
    outputs = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(7)
        outputs.append(TransformerAutoregressive(5, 8, 2, 1, generator=generator)(x))
    torch.testing.assert_close(outputs[0], outputs[1])


def test_TransformerAutoregressive__is_scaled_by_width() -> None:
    """不给发生器时，开始符与位置向量的元素是标准差为 1/√d 的正态随机数。"""
    torch.manual_seed(0)
    model = TransformerAutoregressive(30, d=256, heads=2, layers=1)
    for vectors in (model.start, model.positions):
        # 256 个以上的样本，标准差的相对标准误不到 0.045
        assert abs(16 * float(vectors.detach().std()) - 1) < 5 * 0.045


def test_TransformerAutoregressive__preserves_parameter_count() -> None:
    """默认设置在 64 个变量上有 27,649 个参数；n 每多一个，只多一个位置向量。"""
    sizes = [sum(p.numel() for p in TransformerAutoregressive(n).parameters()) for n in (64, 65)]
    assert sizes == [27_649, 27_649 + 32]


def test_TransformerAutoregressive__differs_from_missing_positions() -> None:
    """去掉位置向量，一层的模型分不清前缀里两个词元谁先谁后，两层的则还分得清。"""
    x = torch.ones(1, 6, dtype=torch.float64)
    x[0, 1] = 0  # 0 出现在第 2 位，或第 3 位
    y = torch.ones(1, 6, dtype=torch.float64)
    y[0, 2] = 0
    for layers in (1, 2):
        model = _model(6, layers=layers)
        assert abs(float((model(x) - model(y))[0, -1].detach())) > 1e-3
        with torch.no_grad():
            model.positions.zero_()
        if layers == 1:
            torch.testing.assert_close(model(x)[0, -1], model(y)[0, -1])
        else:
            assert abs(float((model(x) - model(y))[0, -1].detach())) > 1e-3


def test_TransformerAutoregressive__rejects_bad_input() -> None:
    """个数不是正整数、宽度不是头数的倍数、输入长度不是 n 时报错。"""
    for arguments, message in (
        ((0, 8, 2, 1), "n 必须是"),
        ((5, 9, 2, 1), "d 必须是 heads=2 的倍数"),
        ((5, 8, 0, 1), "heads 必须是"),
        ((5, 8, 2, 0), "layers 必须是"),
    ):
        with pytest.raises(ValueError, match=message):
            TransformerAutoregressive(*arguments)
    with pytest.raises(ValueError, match="x 的形状"):
        TransformerAutoregressive(5, 8, 2, 1)(torch.ones(2, 6))


def test_TransformerBlock__matches_stepwise_evaluation() -> None:
    """一层里，整段一次算完与逐个位置用缓存算，结果相同。"""
    torch.manual_seed(0)
    block = TransformerBlock(8, 2).double()
    h, cache, outputs = _random(2, 6, 8), None, []
    for position in h.unbind(1):
        output, cache = block.step(position, cache)
        outputs.append(output)
    torch.testing.assert_close(torch.stack(outputs, dim=1), block(h))
