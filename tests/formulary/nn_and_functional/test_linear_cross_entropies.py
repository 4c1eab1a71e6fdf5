import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from formulary.nn_and_functional.linear_cross_entropies import (
    chunked_linear_cross_entropy,
    linear_cross_entropy,
    merged_log_sum_exp,
    require_head,
)

GENERATOR = torch.Generator().manual_seed(3)
X = torch.randn(5, 3, dtype=torch.float64, generator=GENERATOR)
WEIGHT = 2 * torch.randn(11, 3, dtype=torch.float64, generator=GENERATOR)
Y = torch.tensor([0, 10, 4, 4, 7])


def test_linear_cross_entropy__matches_module_and_function():
    """与 nn.LinearCrossEntropyLoss、F.linear_cross_entropy、线性层接交叉熵一致。"""
    ours = linear_cross_entropy(X, WEIGHT, Y)
    torch.testing.assert_close(ours, F.linear_cross_entropy(X, WEIGHT, Y))
    torch.testing.assert_close(ours, nn.CrossEntropyLoss()(F.linear(X, WEIGHT), Y))
    module = nn.LinearCrossEntropyLoss(3, 11).double()
    torch.nn.utils.vector_to_parameters(WEIGHT.flatten(), module.parameters())
    torch.testing.assert_close(ours, module(X, Y))
    options = nn.LinearCrossEntropyOptions()  # 分段计算，要求输入带梯度
    chunked = F.linear_cross_entropy(X.clone().requires_grad_(), WEIGHT, Y, options=options)
    torch.testing.assert_close(ours, chunked.detach())


def test_linear_cross_entropy__equals_log_vocabulary_without_input():
    """输入全零时每个词概率相同，损失是 log V。"""
    torch.testing.assert_close(
        linear_cross_entropy(torch.zeros_like(X), WEIGHT, Y).item(), math.log(11)
    )


def test_linear_cross_entropy__rejects_mismatched_shapes():
    """权重的宽度、编号的个数与范围不符时被拒绝。"""
    with pytest.raises(ValueError, match="weight 的形状必须是"):
        linear_cross_entropy(X, WEIGHT[:, :2], Y)
    with pytest.raises(ValueError, match="y 的形状必须是"):
        linear_cross_entropy(X, WEIGHT, Y[:4])
    with pytest.raises(ValueError, match=r"y 的元素必须在 \[0, 10\)"):
        linear_cross_entropy(X, WEIGHT[:10], Y)


def test_merged_log_sum_exp__matches_torch():
    """不论每段多长，都与 torch.logsumexp 一致。"""
    z = 30 * torch.randn(4, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    for chunk in (1, 2, 5, 12, 13, 50):
        torch.testing.assert_close(merged_log_sum_exp(z, chunk), torch.logsumexp(z, 1))


def test_merged_log_sum_exp__is_finite_for_ascending_thousands():
    """每段都出现更大的数，旧的和被缩成 0，结果不溢出。"""
    z = torch.tensor([[0.0, 1000.0, 2000.0, 2000.0]], dtype=torch.float64)
    torch.testing.assert_close(merged_log_sum_exp(z, 1).item(), 2000 + math.log(2))


def test_merged_log_sum_exp__rejects_no_columns_and_bad_chunks():
    """没有列、段长不是正整数时被拒绝。"""
    with pytest.raises(ValueError, match="至少要有一列"):
        merged_log_sum_exp(torch.zeros(2, 0), 1)
    with pytest.raises(ValueError, match="chunk"):
        merged_log_sum_exp(torch.zeros(2, 2), 0)


def test_chunked_linear_cross_entropy__matches_linear_cross_entropy():
    """逐段算的与一次算完的一致，段长是否整除都行；梯度也一致。"""
    for chunk in (1, 2, 4, 11, 20):
        inputs = [tensor.clone().requires_grad_() for tensor in (X, WEIGHT)]
        others = [tensor.clone().requires_grad_() for tensor in (X, WEIGHT)]
        loss = chunked_linear_cross_entropy(*inputs, Y, chunk)
        expected = linear_cross_entropy(*others, Y)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(
            torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, others)
        )


def test_chunked_linear_cross_entropy__matches_torch():
    """与 F.linear_cross_entropy 一致。"""
    torch.testing.assert_close(
        chunked_linear_cross_entropy(X, WEIGHT, Y, 3), F.linear_cross_entropy(X, WEIGHT, Y)
    )


def test_chunked_linear_cross_entropy__equals_log_vocabulary_without_input():
    """输入全零时损失是 log V。"""
    torch.testing.assert_close(
        chunked_linear_cross_entropy(torch.zeros_like(X), WEIGHT, Y, 4).item(), math.log(11)
    )


def test_chunked_linear_cross_entropy__rejects_bad_chunks():
    """段长不是正整数时被拒绝。"""
    with pytest.raises(ValueError, match="chunk"):
        chunked_linear_cross_entropy(X, WEIGHT, Y, 0)


def test_require_head__rejects_integers():
    """整数的输入被拒绝。"""
    with pytest.raises(ValueError, match="x 必须是实浮点张量"):
        require_head(Y[:, None], WEIGHT, Y)


def test_merged_log_sum_exp__is_finite_for_wide_chunks():
    """一段之内相差上千也不溢出；第二列不会漏掉；只有一列也行。"""
    z = torch.tensor([[0.0, 3000.0, -3000.0]], dtype=torch.float64)
    torch.testing.assert_close(merged_log_sum_exp(z, 2).item(), 3000.0)
    torch.testing.assert_close(merged_log_sum_exp(z[:, 1:2], 2).item(), 3000.0)
    pair = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(merged_log_sum_exp(pair, 5).item(), math.log(2 + math.e))


def test_chunked_linear_cross_entropy__is_finite_for_wide_chunks():
    """一段之内的对数几率相差上千也不溢出；输入只有一个特征也行。"""
    x, weight = torch.ones(2, 1).double(), torch.tensor([[3000.0], [-3000.0], [0.0]]).double()
    loss = chunked_linear_cross_entropy(x, weight, torch.tensor([0, 2]), chunk=3)
    torch.testing.assert_close(loss.item(), 1500.0)
