"""MADE 的度数、掩码与前向的检验。"""

import math
from itertools import permutations, product

import pytest
import torch
import zuko
from scipy import stats
from torch import Tensor, nn

from formulary.autoregressive_models.bernoulli import bernoulli_log_prob
from formulary.autoregressive_models.made import (
    MADE,
    made_degrees,
    made_degrees_even,
    made_masks,
)

ORDER = torch.tensor([2, 0, 4, 1, 3])  # 与自己的逆不同，方向弄反就会露馅


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _states(n: int) -> Tensor:
    return torch.tensor(list(product((0.0, 1.0), repeat=n)), dtype=torch.float64)


def _spread(model: MADE, scale: float = 2.0) -> MADE:
    """换成 float64，并把参数放大，使各条件概率离 1/2 远一些。"""
    model = model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    return model


def _python_masks(degrees: list[list[int]]) -> list[list[list[bool]]]:
    layers = [
        [[after >= before for before in degrees[i]] for after in degrees[i + 1]]
        for i in range(len(degrees) - 1)
    ]
    return [*layers, [[after > before for before in degrees[-1]] for after in degrees[0]]]


def _python_forward(model: MADE, row: list[float]) -> list[float]:
    """逐个标量算一遍前向；掩码由度数重新造。"""
    masks = _python_masks([degree.tolist() for degree in model.degrees])
    h = row
    for layer, mask in enumerate(masks):
        weight, bias = model.weights[layer].tolist(), model.biases[layer].tolist()
        h = [
            bias[a] + sum(weight[a][b] * h[b] for b in range(len(h)) if mask[a][b])
            for a in range(len(bias))
        ]
        if layer < len(masks) - 1:
            h = [max(0.0, value) for value in h]
    return h


def test_made_degrees__matches_inverse_permutation() -> None:
    """输入的度数是它在次序里的位置加一，逐个用 list.index 核对。"""
    for order in permutations(range(4)):
        expected = torch.tensor([order.index(i) + 1 for i in range(4)])
        actual = made_degrees(torch.tensor(order), [3], _generator())[0]
        torch.testing.assert_close(actual, expected)


def test_made_degrees__matches_uniform_distribution() -> None:
    """隐藏度数在上一层的最小值到 n − 1 之间均匀：卡方检验不能拒绝，支集也恰好如此。

    每格期望至少 1000 个，某一格的概率偏 15% 就几乎总会被拒绝。
    """
    order = torch.randperm(9, generator=_generator(3))
    _, first, second = made_degrees(order, [1, 6000], _generator(4))
    lowest = int(first)
    assert 1 < lowest < 8
    values, counts = second.unique(return_counts=True)
    torch.testing.assert_close(values, torch.arange(lowest, 9))
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    _, wide = made_degrees(order, [8000], _generator(5))
    values, counts = wide.unique(return_counts=True)
    torch.testing.assert_close(values, torch.arange(1, 9))
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_made_degrees__is_defined_for_one_variable() -> None:
    """n = 1 时隐藏度数都是 1，输出不连任何隐藏单元。"""
    degrees = made_degrees(torch.tensor([0]), [3, 2], _generator())
    assert [degree.tolist() for degree in degrees] == [[1], [1, 1, 1], [1, 1]]
    assert not made_masks(degrees)[-1].any()


def test_made_degrees__rejects_bad_input() -> None:
    """order 不是排列、hidden 有非正的宽度时报错。"""
    for order in (torch.tensor([0, 2]), torch.tensor([0.0, 1.0]), torch.tensor([1, 1]), [0, 1]):
        with pytest.raises(ValueError, match="order"):
            made_degrees(order, [3], _generator())
    with pytest.raises(ValueError, match="order 的长度"):
        made_degrees(torch.tensor([], dtype=torch.int64), [3], _generator())
    for hidden in ([0], [2, -1], [2.0]):
        with pytest.raises(ValueError, match="hidden 的每一项"):
            made_degrees(torch.tensor([1, 0]), hidden, _generator())


def test_made_degrees_even__matches_python_loop() -> None:
    """第 k 个单元的度数是最大的 m，使排在它前面的单元至少占 (m − 1)/(n − 1)。"""
    actual = made_degrees_even(ORDER, [3, 10])
    expected = [[ORDER.tolist().index(i) + 1 for i in range(5)]]
    for width in (3, 10):
        layer = []
        for k in range(width):
            m = 1
            while m * width <= k * 4:
                m += 1
            layer.append(m)
        expected.append(layer)
    assert [degree.tolist() for degree in actual] == expected
    assert [d.tolist() for d in made_degrees_even(torch.tensor([0]), [2])] == [[1], [1, 1]]


def _connected(degrees: list[Tensor]) -> Tensor:
    reach = torch.eye(len(degrees[0]), dtype=torch.float64)
    for mask in made_masks(degrees):
        reach = mask.double() @ reach
    return reach > 0


def test_made_degrees_even__is_complete_with_enough_units() -> None:
    """每层至少 n − 1 个单元时，次序允许的每一对都连通；少一个单元就缺。"""
    position = ORDER.argsort()
    for hidden in ([4, 4], [5, 9], [7, 4, 6]):
        actual = _connected(made_degrees_even(ORDER, hidden))
        torch.testing.assert_close(actual, position[:, None] > position[None, :])
    assert _connected(made_degrees_even(ORDER, [4, 3])).sum() < 10


def test_made_degrees_even__equals_mnist_example() -> None:
    """n = 784、一层 500 个单元：相隔两步以上的全部连通，相邻的 783 对里连通 500 对，占 63.9%。"""
    reach = _connected(made_degrees_even(torch.arange(784), [500]))
    assert reach.diagonal(-1).sum() == 500
    assert round(500 / 783, 3) == 0.639
    assert torch.ones(784, 784, dtype=torch.bool).tril(-2)[~reach].sum() == 0


def test_made_degrees_even__differs_from_cycling() -> None:
    """宽度 d 不到 n − 1 时，轮流取度数丢掉第 d 个以后的输入；均匀铺开只丢 ⌈(n − 1)/d⌉ − 1 个。"""
    n, width = 10, 5
    order = torch.arange(n)
    cyclic = _connected([order + 1, torch.tensor([1 + k % (n - 1) for k in range(width)])])
    even = _connected(made_degrees_even(order, [width]))
    assert not cyclic[:, width:].any()
    unseen = math.ceil((n - 1) / width) - 1
    assert not even[:, n - 1 - unseen :].any()
    assert even[:, : n - 1 - unseen].any(dim=0).all()
    assert even.sum() > cyclic.sum()


def test_made_degrees_even__rejects_bad_input() -> None:
    """order 不是排列、hidden 有非正的宽度时报错。"""
    with pytest.raises(ValueError, match="order"):
        made_degrees_even(torch.tensor([0, 2]), [3])
    with pytest.raises(ValueError, match="hidden 的每一项"):
        made_degrees_even(torch.tensor([0, 1]), [0])


def test_made_masks__matches_python_loop() -> None:
    """逐对比较度数得到同样的掩码。"""
    degrees = made_degrees(ORDER, [6, 7], _generator(1))
    expected = _python_masks([degree.tolist() for degree in degrees])
    for actual, mask in zip(made_masks(degrees), expected, strict=True):
        torch.testing.assert_close(actual, torch.tensor(mask))


def test_made_masks__matches_zuko_reachability() -> None:
    """与 zuko 1.6 的 MaskedMLP 由同一个邻接矩阵造的掩码连通同样的输入输出对。"""
    position = ORDER.argsort()
    adjacency = position[:, None] > position[None, :]
    network = zuko.nn.MaskedMLP(adjacency, [8, 12])
    theirs = torch.eye(5, dtype=torch.float64)
    for layer in network:
        if isinstance(layer, zuko.nn.MaskedLinear):
            theirs = layer.mask.double() @ theirs
    ours = torch.eye(5, dtype=torch.float64)
    for mask in made_masks(made_degrees_even(ORDER, [8, 12])):
        ours = mask.double() @ ours
    torch.testing.assert_close(ours > 0, theirs > 0)


def test_made_masks__equals_worked_example() -> None:
    """文中手算的三变量例子：次序 x_2, x_3, x_1，两层隐藏单元。"""
    degrees = [torch.tensor(d) for d in ([3, 1, 2], [1, 2, 1, 2], [2, 1, 2])]
    first, second, output = made_masks(degrees)
    assert first.int().tolist() == [[0, 1, 0], [0, 1, 1], [0, 1, 0], [0, 1, 1]]
    assert second.int().tolist() == [[1, 1, 1, 1], [1, 0, 1, 0], [1, 1, 1, 1]]
    assert output.int().tolist() == [[1, 1, 1], [0, 0, 0], [0, 1, 0]]


def test_made_masks__rejects_bad_input() -> None:
    """空列表、浮点度数、二维度数都报错。"""
    with pytest.raises(ValueError, match="degrees 至少"):
        made_masks([])
    for bad in (torch.tensor([1.0]), torch.tensor([[1]]), [1, 2]):
        with pytest.raises(ValueError, match="degrees 的每一项"):
            made_masks([bad])


@pytest.mark.parametrize("hidden", [[], [7], [6, 8], [3, 9, 4]])
def test_MADE__matches_python_loop(hidden: list[int]) -> None:
    """与逐个标量算的前向相同，隐藏层的层数从 0 到 3。"""
    model = _spread(MADE(5, hidden, ORDER, _generator(7)))
    x = torch.randn(4, 5, dtype=torch.float64, generator=_generator(8))
    expected = torch.tensor(
        [_python_forward(model, row) for row in x.tolist()], dtype=torch.float64
    )
    torch.testing.assert_close(model(x).detach(), expected)


def test_MADE__matches_zuko_masked_linear() -> None:
    """把权重装进 zuko 1.6 的 MaskedLinear，输出相同。"""
    model = _spread(MADE(5, [6, 8], ORDER, _generator(7), activation=torch.tanh))
    layers: list[nn.Module] = []
    for weight, bias, mask in zip(model.weights, model.biases, model.masks, strict=True):
        layer = zuko.nn.MaskedLinear(mask, dtype=torch.float64)
        layer.load_state_dict({"weight": weight, "bias": bias, "mask": mask})
        layers += [layer, nn.Tanh()]
    x = torch.randn(4, 5, dtype=torch.float64, generator=_generator(8))
    torch.testing.assert_close(model(x), nn.Sequential(*layers[:-1])(x))


def test_MADE__matches_conditionals_of_its_joint() -> None:
    """每个输出都是枚举出的联合分布里，给定次序中前面的变量的条件对数几率。"""
    model = _spread(MADE(5, [9], ORDER, _generator(2)))
    states = _states(5)
    joint = bernoulli_log_prob(model(states), states).exp().detach()
    logits = model(states).detach()
    for t, i in enumerate(ORDER.tolist()):
        before = ORDER[:t].tolist()
        for row in (0, 13, 22, 31):
            agree = (states[:, before] == states[row, before]).all(dim=1)
            on = joint[agree & (states[:, i] == 1)].sum()
            off = joint[agree & (states[:, i] == 0)].sum()
            torch.testing.assert_close(logits[row, i], (on / off).log())


def test_MADE__is_normalized_for_every_order() -> None:
    """n = 4 的 24 个次序，随机与均匀铺开的度数，0 到 2 个隐藏层，全部状态的概率之和都是 1。"""
    states = _states(4)
    for hidden in ([], [5], [6, 4]):
        model = _spread(MADE(4, hidden, generator=_generator(1)), 3.0)
        for order in permutations(range(4)):
            for generator in (None, _generator(sum(order[:2]))):
                model.reorder(torch.tensor(order), generator)
                total = bernoulli_log_prob(model(states), states).exp().sum()
                torch.testing.assert_close(total.detach(), torch.tensor(1.0).double())


def test_MADE__is_normalized_with_ten_variables() -> None:
    """n = 10、两个隐藏层、随机次序，1024 个状态的概率之和是 1。"""
    order = torch.randperm(10, generator=_generator(6))
    model = _spread(MADE(10, [20, 17], order, _generator(6)))
    states = _states(10)
    total = bernoulli_log_prob(model(states), states).exp().sum()
    torch.testing.assert_close(total.detach(), torch.tensor(1.0).double())


def test_MADE__is_fvsbn_without_hidden_layers() -> None:
    """没有隐藏层时，每个条件是一个逻辑斯谛回归，独立的有效参数有 n(n + 1)/2 个。"""
    model = _spread(MADE(5, [], ORDER, _generator(3)))
    x = torch.randn(3, 5, dtype=torch.float64, generator=_generator(4))
    expected = torch.empty_like(x)
    for t, i in enumerate(ORDER.tolist()):
        expected[:, i] = model.biases[0][i].detach()
        for j in ORDER[:t].tolist():
            expected[:, i] += model.weights[0][i, j].detach() * x[:, j]
    torch.testing.assert_close(model(x).detach(), expected)
    assert int(model.masks[0].sum()) + 5 == 15


def test_MADE__limit_one_variable() -> None:
    """只有一个变量时，输出就是最后一层的偏置。"""
    model = MADE(1, [4], generator=_generator()).double()
    x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    torch.testing.assert_close(model(x), model.biases[1].expand(2, 1))


def test_MADE__preserves_zero_gradient_of_masked_weights() -> None:
    """被掩掉的权重梯度恰为零，没有被掩掉的大多不为零。"""
    model = _spread(MADE(5, [9, 8], ORDER, _generator(2), activation=torch.tanh))
    x = _states(5)
    (-bernoulli_log_prob(model(x), x)).sum().backward()
    for weight, mask in zip(model.weights, model.masks, strict=True):
        assert (weight.grad[~mask] == 0).all()
        assert (weight.grad[mask] != 0).double().mean() > 0.9


def test_MADE__preserves_weights_when_reordered() -> None:
    """reorder 只换掩码：绕一圈回来，权重、掩码与输出都和原来一样。"""
    model = MADE(4, [6], generator=_generator()).double()
    model.reorder(torch.arange(4))
    x = _states(4)
    before, weight = model(x).detach(), model.weights[0].detach().clone()
    model.reorder(torch.tensor([3, 1, 0, 2]), _generator(9))
    assert not torch.equal(model(x), before)
    model.reorder(torch.arange(4))
    assert torch.equal(model.weights[0], weight)
    torch.testing.assert_close(model(x).detach(), before)


def test_MADE__preserves_order_in_state_dict() -> None:
    """次序、度数与掩码随参数一起保存，装进别的次序的模型后输出相同。"""
    saved = MADE(5, [6], ORDER, _generator(1))
    loaded = MADE(5, [6], generator=_generator(2))
    loaded.load_state_dict(saved.state_dict())
    x = _states(5).float()
    torch.testing.assert_close(loaded(x), saved(x))
    assert loaded.order.tolist() == ORDER.tolist()


def test_MADE__differs_from_inclusive_output_mask() -> None:
    """输出层也用 ≥ 时，每个输出看得到自己，全部状态的“概率”之和不再是 1。"""
    model = _spread(MADE(4, [30], generator=_generator(1)))
    states = _states(4)
    right = bernoulli_log_prob(model(states), states).exp().sum()
    torch.testing.assert_close(right.detach(), torch.tensor(1.0).double())
    inclusive = model.degrees[0][:, None] >= model.degrees[1][None, :]
    model.mask_1 = inclusive
    wrong = bernoulli_log_prob(model(states), states).exp().sum()
    assert (wrong - 1).abs() > 0.1
    row = states[5].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(row[None])[0, 1], row)
    assert gradient[1] != 0


def test_MADE__differs_from_copying_through_inclusive_mask() -> None:
    """练习：输出层用 ≥ 时可以把 x_1、x_2 抄到自己的输出上，总和 4σ(L)² 趋于 2^(n−1) = 4。"""
    model = MADE(3, [2]).double()
    assert [degree.tolist() for degree in model.degrees] == [[1, 2, 3], [1, 2]]
    strength = 6.0
    with torch.no_grad():
        model.weights[0].copy_(torch.eye(2, 3))
        model.biases[0].zero_()
        model.weights[1].copy_(2 * strength * torch.eye(3, 2))
        model.biases[1].copy_(torch.tensor([-strength, -strength, 0.0]))
    states = _states(3)
    fair = bernoulli_log_prob(model(states), states).exp().sum()
    torch.testing.assert_close(fair.detach(), torch.tensor(1.0).double())
    model.mask_1 = model.degrees[0][:, None] >= model.degrees[1]
    score = bernoulli_log_prob(model(states), states).detach()
    expected = 4 / (1 + math.exp(-strength)) ** 2
    torch.testing.assert_close(score.exp().sum().item(), expected)
    torch.testing.assert_close(score.mean().item(), math.log(expected / 4) - math.log(2))
    assert round(expected, 4) == 3.9802
    assert round(-score.mean().item(), 4) == 0.6981


def test_MADE__differs_from_masking_in_place() -> None:
    """就地把掩码乘进权重，换过 k 个次序后，剩下的权重只有约一半的 k 次方，再也回不来。"""
    model = MADE(40, [], generator=_generator(1))
    weight = model.weights[0].detach().clone()
    kept = []
    for k in range(10):
        model.reorder(torch.randperm(40, generator=_generator(k)))
        weight *= model.masks[0]
        kept.append((weight != 0).double().mean().item())
        assert (model.weights[0] != 0).all()
    assert kept[0] == 0.5 * (1 - 1 / 40)  # 对角线总是被掩掉
    assert 0.2 < kept[1] < 0.3
    assert kept[9] < 0.005


def test_MADE__differs_from_gradient_of_in_place_masking() -> None:
    """就地掩码的前向值相同，但被掩掉的权重也得到不为零的梯度。"""
    model = _spread(MADE(5, [9], ORDER, _generator(2), activation=torch.tanh))
    x = _states(5)
    (-bernoulli_log_prob(model(x), x)).sum().backward()
    copies = [
        (weight.detach() * mask).requires_grad_()
        for weight, mask in zip(model.weights, model.masks, strict=True)
    ]
    h = torch.tanh(x @ copies[0].T + model.biases[0].detach())
    logits = h @ copies[1].T + model.biases[1].detach()
    torch.testing.assert_close(logits.detach(), model(x).detach())
    (-bernoulli_log_prob(logits, x)).sum().backward()
    for copy, weight, mask in zip(copies, model.weights, model.masks, strict=True):
        torch.testing.assert_close(copy.grad[mask], weight.grad[mask])
        assert copy.grad[~mask].abs().max() > 0.1
        assert (weight.grad[~mask] == 0).all()


def test_MADE__differs_from_branching_on_train() -> None:
    """前向里写 if self.train() 会把 eval() 改回训练模式，另一支永远走不到；我们的不会。"""

    class Wrong(MADE):
        def forward(self, x: Tensor) -> Tensor:
            if self.train():
                return super().forward(x)
            raise AssertionError

    x = torch.zeros(1, 3)
    wrong, right = Wrong(3, [4]).eval(), MADE(3, [4]).eval()
    wrong(x)
    right(x)
    assert wrong.training
    assert not right.training


def test_MADE__rejects_bad_input() -> None:
    """n、hidden、order 与 x 不合要求时报错，并指出参数名。"""
    for bad_n in (0, 2.0):
        with pytest.raises(ValueError, match="n 必须"):
            MADE(bad_n, [3])
    with pytest.raises(ValueError, match="hidden 的每一项"):
        MADE(3, [0])
    with pytest.raises(ValueError, match="order"):
        MADE(3, [4], torch.tensor([0, 1]))
    model = MADE(3, [4])
    with pytest.raises(ValueError, match="order"):
        model.reorder(torch.tensor([1, 2, 3]))
    for x in (torch.zeros(2, 4), torch.zeros(3), torch.zeros(2, 3, dtype=torch.int64)):
        with pytest.raises(ValueError, match="x "):
            model(x)


def test_MADE__is_float32_by_default_and_bounded_at_start() -> None:
    """参数默认是 float32，初始值不超过输入宽度的平方根的倒数，同一个种子两次相同。"""
    first, second = (MADE(6, [50], generator=_generator(4)) for _ in range(2))
    for a, b, width in zip(first.weights, second.weights, (6, 50), strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)
        assert 0.9 / math.sqrt(width) < a.abs().max() <= 1 / math.sqrt(width)
