import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from formulary.nn_and_functional.cross_entropies import (
    cross_entropy,
    least_double_softmax_loss,
    mean_cross_entropy,
    smoothed_cross_entropy,
    smoothed_optimum,
)

GENERATOR = torch.Generator().manual_seed(1)
Z = 3 * torch.randn(6, 4, dtype=torch.float64, generator=GENERATOR)
Y = torch.tensor([0, 3, 1, 2, 3, 1])
SOME = torch.tensor([0, -100, 1, 2, -100, 1])
WEIGHT = torch.tensor([0.5, 2.0, 1.25, 0.1], dtype=torch.float64)


def test_cross_entropy__matches_module_and_function():
    """与 nn.CrossEntropyLoss、F.cross_entropy 逐样本一致，含被忽略的样本。"""
    for y in (Y, SOME):
        torch.testing.assert_close(cross_entropy(Z, y), F.cross_entropy(Z, y, reduction="none"))
        module = nn.CrossEntropyLoss(reduction="none")
        torch.testing.assert_close(cross_entropy(Z, y), module(Z, y))


def test_cross_entropy__matches_log_softmax_and_nll():
    """与 nn.LogSoftmax 接 nn.NLLLoss 一致。"""
    expected = nn.NLLLoss(reduction="none")(nn.LogSoftmax(1)(Z), Y)
    torch.testing.assert_close(cross_entropy(Z, Y), expected)


def test_cross_entropy__matches_python_loop():
    """与逐样本的 Python 循环一致。"""
    expected = [
        -row[label] + math.log(sum(math.exp(value) for value in row))
        for row, label in zip(Z.tolist(), Y.tolist(), strict=True)
    ]
    torch.testing.assert_close(cross_entropy(Z, Y), torch.tensor(expected, dtype=torch.float64))


def test_cross_entropy__equals_hand_example():
    """手算一例：对数几率 (2, 0, −1)，标签 0，损失 0.1698。"""
    loss = cross_entropy(torch.tensor([[2.0, 0.0, -1.0]], dtype=torch.float64), torch.tensor([0]))
    torch.testing.assert_close(loss.item(), math.log(math.e**2 + 1 + math.exp(-1)) - 2)
    assert round(loss.item(), 4) == 0.1698


def test_cross_entropy__is_log_classes_for_equal_logits():
    """对数几率全等时损失是 log K，不论标签。"""
    torch.testing.assert_close(
        cross_entropy(torch.full((4, 10), 3.0, dtype=torch.float64), torch.arange(4)),
        torch.full((4,), math.log(10), dtype=torch.float64),
    )


def test_cross_entropy__is_finite_and_zero_where_ignored():
    """被忽略的样本损失为 0，即使那一行含负无穷。"""
    z = torch.tensor([[-math.inf, 0.0], [1.0, 2.0]])
    loss = cross_entropy(z, torch.tensor([-100, 1]))
    assert loss[0] == 0
    assert loss[1] > 0


def test_cross_entropy__rejects_bad_labels_and_shapes():
    """越界的标签、浮点的标签、长度不符与一轴的对数几率被拒绝。"""
    for label in (4, -1):
        with pytest.raises(ValueError, match=r"y 的元素必须在 \[0, 4\)"):
            cross_entropy(Z, torch.tensor([0, 1, 2, 3, 0, label]))
    with pytest.raises(ValueError, match="y 必须是整数张量"):
        cross_entropy(Z, Y.double())
    with pytest.raises(ValueError, match="y 的形状必须是"):
        cross_entropy(Z, Y[:5])
    with pytest.raises(ValueError, match="z 的形状必须是"):
        cross_entropy(Z[0], Y[:1])


def test_mean_cross_entropy__matches_module_and_function():
    """加权、忽略之后的平均与 nn.CrossEntropyLoss、F.cross_entropy 一致。"""
    for y in (Y, SOME):
        ours = mean_cross_entropy(Z, y, WEIGHT)
        torch.testing.assert_close(ours, F.cross_entropy(Z, y, WEIGHT))
        module = nn.CrossEntropyLoss(WEIGHT)
        torch.testing.assert_close(ours, module(Z, y))
        assert list(module.state_dict()) == ["weight"]
    other = torch.where(Y == 3, 7, Y)
    torch.testing.assert_close(
        mean_cross_entropy(Z, other, WEIGHT, ignore_index=7),
        F.cross_entropy(Z, other, WEIGHT, ignore_index=7),
    )


def test_mean_cross_entropy__equals_hand_example():
    """手算一例：损失 1、2、3，权重 1、1、4，平均是 15/6，不是 15/3。"""
    losses = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    # 两类，真类的对数几率取 0，另一类取 log(e^ℓ − 1)，损失恰为 ℓ
    other = torch.log(torch.exp(losses) - 1)
    y = torch.tensor([0, 0, 1])
    z = torch.stack([torch.where(y == 0, 0.0, other), torch.where(y == 1, 0.0, other)], dim=1)
    torch.testing.assert_close(cross_entropy(z, y), losses)
    weight = torch.tensor([1.0, 4.0], dtype=torch.float64)
    torch.testing.assert_close(mean_cross_entropy(z, y, weight).item(), 15 / 6)
    torch.testing.assert_close(F.cross_entropy(z, y, weight).item(), 15 / 6)


def test_mean_cross_entropy__is_nan_when_all_is_ignored():
    """一个样本也不计入，或权重全为 0，都得到 NaN；PyTorch 的梯度前者为 0，后者是 NaN。"""
    nothing, zero = torch.full((6,), -100), torch.zeros(4, dtype=torch.float64)
    z = Z.clone().requires_grad_()
    for y, weight in ((nothing, WEIGHT), (Y, zero)):
        assert mean_cross_entropy(Z, y, weight).isnan()
        loss = F.cross_entropy(z, y, weight)
        assert loss.isnan()
        (gradient,) = torch.autograd.grad(loss, z)
        assert gradient.isnan().all() if y is Y else (gradient == 0).all()


def test_mean_cross_entropy__differs_from_mean_over_all_samples():
    """被忽略的样本若仍计入分母，结果偏小。"""
    wrong = cross_entropy(Z, SOME).mean()
    ours = mean_cross_entropy(Z, SOME, torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(wrong * 6 / 4, ours)
    assert not torch.isclose(wrong, ours)


def test_mean_cross_entropy__rejects_bad_weights():
    """负的权重与长度不是类别数的权重被拒绝。"""
    with pytest.raises(ValueError, match="weight 不能为负"):
        mean_cross_entropy(Z, Y, -WEIGHT)
    with pytest.raises(ValueError, match="weight 的形状必须是"):
        mean_cross_entropy(Z, Y, WEIGHT[:3])


def test_smoothed_cross_entropy__matches_module_and_function():
    """与 label_smoothing 参数的两种写法一致。"""
    for smoothing in (0.0, 0.1, 0.6, 1.0):
        ours = smoothed_cross_entropy(Z, Y, smoothing)
        options = {"label_smoothing": smoothing, "reduction": "none"}
        torch.testing.assert_close(ours, F.cross_entropy(Z, Y, **options))
        torch.testing.assert_close(ours, nn.CrossEntropyLoss(**options)(Z, Y))


def test_smoothed_cross_entropy__matches_soft_targets():
    """与把平滑后的分布直接当目标一致。"""
    targets = 0.7 * F.one_hot(Y, 4).double() + 0.3 / 4
    torch.testing.assert_close(
        smoothed_cross_entropy(Z, Y, 0.3), F.cross_entropy(Z, targets, reduction="none")
    )


def test_smoothed_cross_entropy__limit_no_smoothing():
    """平滑强度为 0 就是普通的交叉熵。"""
    torch.testing.assert_close(smoothed_cross_entropy(Z, Y, 0.0), cross_entropy(Z, Y))


def test_smoothed_cross_entropy__differs_from_spreading_over_wrong_classes():
    """只匀给 K − 1 个错类的写法，与 PyTorch 不同。"""
    targets = torch.full((6, 4), 0.3 / 3, dtype=torch.float64).scatter(1, Y[:, None], 0.7)
    wrong = F.cross_entropy(Z, targets, reduction="none")
    assert ((wrong - smoothed_cross_entropy(Z, Y, 0.3)).abs() > 1e-3).all()


def test_smoothed_cross_entropy__rejects_bad_input():
    """平滑强度不在 0 与 1 之间、标签越界时被拒绝。"""
    for smoothing in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="smoothing 必须在"):
            smoothed_cross_entropy(Z, Y, smoothing)
    with pytest.raises(ValueError, match="y 的元素必须在"):
        smoothed_cross_entropy(Z, SOME, 0.1)


def test_smoothed_optimum__matches_gradient_descent():
    """梯度下降到底，损失与对数几率之差趋于公式给的值。"""
    classes, smoothing = 5, 0.2
    z = torch.zeros(1, classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([z], max_iter=200, tolerance_grad=1e-14, tolerance_change=0)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(z, torch.tensor([2]), label_smoothing=smoothing)
        loss.backward()
        return loss

    optimizer.step(closure)
    loss, gap = smoothed_optimum(classes, smoothing)
    torch.testing.assert_close(closure().item(), loss)
    differences = (z[0, 2] - z[0]).detach()[[0, 1, 3, 4]]
    # 优化停在梯度约 1e-9 处
    torch.testing.assert_close(differences, differences.new_full((4,), gap), rtol=0, atol=1e-6)


def test_smoothed_optimum__equals_worked_example():
    """K = 10、平滑 0.1：最小损失 0.500 nat，对数几率之差 log 91，约 4.51。"""
    loss, gap = smoothed_optimum(10, 0.1)
    torch.testing.assert_close(gap, math.log(91))
    assert (round(loss, 3), round(gap, 2)) == (0.5, 4.51)
    z = torch.tensor([[gap] + [0.0] * 9], dtype=torch.float64)
    torch.testing.assert_close(smoothed_cross_entropy(z, torch.tensor([0]), 0.1).item(), loss)


def test_smoothed_optimum__rejects_extremes():
    """没有有限最小点的强度与单独一类被拒绝。"""
    for smoothing in (0.0, 1.0):
        with pytest.raises(ValueError, match="smoothing 必须在"):
            smoothed_optimum(10, smoothing)
    with pytest.raises(ValueError, match="classes"):
        smoothed_optimum(1, 0.1)


def test_least_double_softmax_loss__matches_torch_at_the_corner():
    """概率全压在真类上时，F.cross_entropy 收到概率得到的就是下界。"""
    for classes in (2, 10, 1000):
        corner = F.one_hot(torch.tensor([1]), classes).double()
        torch.testing.assert_close(
            F.cross_entropy(corner, torch.tensor([1])).item(), least_double_softmax_loss(classes)
        )


def test_least_double_softmax_loss__bounds_random_probabilities():
    """随机的概率当作对数几率，损失都不低于下界；10 类时是 1.46，均匀时是 2.30。"""
    z = 20 * torch.randn(500, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    y = torch.arange(500) % 10
    doubled = cross_entropy(F.softmax(z, 1), y)
    assert (doubled >= least_double_softmax_loss(10)).all()
    assert doubled.min() < least_double_softmax_loss(10) + 1e-6
    assert round(least_double_softmax_loss(10), 2) == 1.46
    assert round(math.log(10), 2) == 2.3


def test_least_double_softmax_loss__rejects_one_class():
    """少于两类被拒绝。"""
    with pytest.raises(ValueError, match="classes"):
        least_double_softmax_loss(1)


def test_mean_cross_entropy__equals_zero_weight_as_ignored():
    """权重为 0 的类等于被忽略；再小的负权重也被拒绝。"""
    weight = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    ignored = torch.where(Y == 3, -100, Y)
    torch.testing.assert_close(
        mean_cross_entropy(Z, Y, weight), mean_cross_entropy(Z, ignored, torch.ones_like(weight))
    )
    with pytest.raises(ValueError, match="weight 不能为负"):
        mean_cross_entropy(Z, Y, weight - 0.5)


def test_smoothed_optimum__equals_two_classes():
    """两类也行：K = 2、平滑 0.5，目标是 0.75 与 0.25，对数几率之差是 log 3。"""
    loss, gap = smoothed_optimum(2, 0.5)
    torch.testing.assert_close(gap, math.log(3))
    torch.testing.assert_close(loss, -0.75 * math.log(0.75) - 0.25 * math.log(0.25))


def test_cross_entropy__is_zero_for_single_class():
    """只有一类时，损失是 0，被忽略的样本也一样。"""
    loss = cross_entropy(torch.tensor([[2.0], [3.0]]), torch.tensor([0, -100]))
    assert loss.tolist() == [0, 0]


def test_smoothed_cross_entropy__rejects_minus_one():
    """平滑时没有被忽略的标签：−1 也被拒绝。"""
    with pytest.raises(ValueError, match="y 的元素必须在"):
        smoothed_cross_entropy(Z, torch.where(Y == 3, -1, Y), 0.1)
