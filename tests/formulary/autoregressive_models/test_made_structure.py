"""路径计数、自回归性质的检查与雅可比的检验。"""

from itertools import product

import pytest
import torch
from torch import Tensor

from formulary.autoregressive_models.made import MADE, made_degrees, made_masks
from formulary.autoregressive_models.made_structure import (
    allowed_pairs,
    dependency_pattern,
    made_jacobian,
    path_counts,
    reachable_probability,
    require_autoregressive,
)

ORDER = torch.tensor([2, 0, 4, 1, 3])


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _count_by_walking(masks: list[Tensor], i: int, j: int) -> int:
    """枚举每层选哪个单元，数出从输入 j 到输出 i 的路径。"""
    widths = [range(len(mask)) for mask in masks[:-1]]
    total = 0
    for units in product(*widths):
        path = [j, *units, i]
        total += all(masks[k][path[k + 1], path[k]] for k in range(len(masks)))
    return total


def test_path_counts__matches_walking_every_path() -> None:
    """与逐条枚举路径得到的条数相同。"""
    masks = made_masks(made_degrees(ORDER, [6, 5], _generator(1)))
    actual = path_counts(masks)
    for i in range(5):
        for j in range(5):
            assert actual[i, j] == _count_by_walking(masks, i, j)
    rectangular = [torch.tensor([[True, False, True]]), torch.tensor([[True], [False], [True]])]
    assert path_counts(rectangular).tolist() == [[1, 0, 1], [0, 0, 0], [1, 0, 1]]


def test_path_counts__equals_worked_example() -> None:
    """文中手算的三变量例子：x_2 到 x_1 有 10 条路径，x_3 到 x_1 有 4 条，x_2 到 x_3 有 2 条。"""
    degrees = [torch.tensor(d) for d in ([3, 1, 2], [1, 2, 1, 2], [2, 1, 2])]
    counts = path_counts(made_masks(degrees))
    assert counts.tolist() == [[0, 10, 4], [0, 0, 0], [0, 2, 0]]


def test_path_counts__equals_exercise() -> None:
    """练习：自然次序，隐藏度数 1, 1, 2, 3；路径条数由度数直接数出。"""
    degrees = [torch.tensor([1, 2, 3, 4]), torch.tensor([1, 1, 2, 3])]
    expected = [[0, 0, 0, 0], [2, 0, 0, 0], [3, 1, 0, 0], [4, 2, 1, 0]]
    assert path_counts(made_masks(degrees)).tolist() == expected


def test_path_counts__equals_exercise_without_middle_degree() -> None:
    """练习：缺了度数 2 的隐藏单元，x_3 就收不到 x_2，x_4 仍收得到。"""
    degrees = [torch.tensor([1, 2, 3, 4]), torch.tensor([1, 1, 3, 3])]
    expected = [[0, 0, 0, 0], [2, 0, 0, 0], [2, 0, 0, 0], [4, 2, 2, 0]]
    assert path_counts(made_masks(degrees)).tolist() == expected


def test_path_counts__is_zero_outside_allowed_pairs() -> None:
    """200 组随机的 n、层数、宽度与次序：没有一条路径违反次序，重排之后是严格下三角。"""
    generator = _generator(5)
    for _ in range(200):
        n, depth = (int(torch.randint(1, high, (1,), generator=generator)) for high in (9, 4))
        hidden = torch.randint(1, 12, (depth,), generator=generator).tolist()
        order = torch.randperm(n, generator=generator)
        counts = path_counts(made_masks(made_degrees(order, hidden, generator)))
        position = [order.tolist().index(i) for i in range(n)]
        for i, j in product(range(n), repeat=2):
            assert counts[i, j] == 0 or position[j] < position[i]
        in_order = counts[order][:, order]
        torch.testing.assert_close(in_order, in_order.tril(-1))


def test_path_counts__bounds_reachable_share() -> None:
    """随机度数不保证连通：n = 7、隐藏层 30 与 25，200 个种子里有的连通全部 21 对，有的少几对。"""
    shares = []
    for seed in range(200):
        order = torch.randperm(7, generator=_generator(seed))
        counts = path_counts(made_masks(made_degrees(order, [30, 25], _generator(seed))))
        shares.append((counts > 0).sum().item())
    assert round(sum(shares) / len(shares) / 21, 3) == 0.997
    assert max(shares) == 21
    assert min(shares) < 21


def test_reachable_probability__matches_enumerated_degrees() -> None:
    """枚举全部隐藏度数，数出连通的比例，每个相隔的步数都相符；只有两个变量时必定连通。"""
    assert reachable_probability(2, 3, 1) == 1
    n, width = 5, 3
    for early, late in ((1, 2), (2, 3), (1, 3), (2, 5), (1, 5)):
        hits = 0
        for degrees in product(range(1, n), repeat=width):
            hits += any(early <= m < late for m in degrees)
        actual = reachable_probability(n, width, late - early)
        torch.testing.assert_close(actual, hits / (n - 1) ** width)


def test_reachable_probability__matches_sampled_masks() -> None:
    """与 400 组随机掩码里连通的频率相差不到 5 个标准误。"""
    n, width, seeds = 8, 6, 400
    hits = torch.zeros(n, n)
    for seed in range(seeds):
        degrees = made_degrees(torch.arange(n), [width], _generator(seed))
        hits += path_counts(made_masks(degrees)) > 0
    for i, j in ((1, 0), (5, 4), (4, 2), (7, 3)):
        p = reachable_probability(n, width, i - j)
        assert abs(hits[i, j].item() / seeds - p) < 5 * (p * (1 - p) / seeds) ** 0.5


def test_reachable_probability__equals_mnist_example() -> None:
    """n = 784、500 个隐藏单元：看得到前一个像素的输出只有 47.2%，前 10 个像素那一个 99.8%。"""
    assert round(reachable_probability(784, 500, 1), 3) == 0.472
    assert round(reachable_probability(784, 500, 10), 3) == 0.998
    assert reachable_probability(784, 500, 783) == 1
    total = sum((784 - gap) * reachable_probability(784, 500, gap) for gap in range(1, 784))
    assert round(total / (784 * 783 / 2), 3) == 0.997


def test_reachable_probability__rejects_bad_input() -> None:
    """n、width、gap 越界时报错。"""
    for n, width, gap, name in (
        (1, 3, 1, "n 必须是"),
        (4, 0, 1, "width 必须是"),
        (4, 2, 0, "gap 必须是"),
        (4, 2, 4, "gap 至多为"),
    ):
        with pytest.raises(ValueError, match=name):
            reachable_probability(n, width, gap)


def test_path_counts__rejects_bad_input() -> None:
    """空列表、不是布尔矩阵、形状接不上时报错。"""
    eye = torch.eye(3, dtype=torch.bool)
    with pytest.raises(ValueError, match="masks 至少"):
        path_counts([])
    for bad in (torch.eye(3), eye[0]):
        with pytest.raises(ValueError, match="masks 的每一项"):
            path_counts([bad])
    for bad in ([eye, eye[:, :2]], [eye[:2]]):
        with pytest.raises(ValueError, match="masks 的形状"):
            path_counts(bad)


def test_path_counts__rejects_overflow() -> None:
    """2^62 条路径数得准，2^63 条超出 int64，报错而不是绕成负数。"""
    start, middle, end = (torch.ones(*s, dtype=torch.bool) for s in ((2, 1), (2, 2), (1, 2)))
    assert path_counts([start, *[middle] * 61, end]).item() == 2**62
    with pytest.raises(ValueError, match="条数超出"):
        path_counts([start, *[middle] * 62, end])


def test_allowed_pairs__matches_list_index() -> None:
    """j 先于 i 由 list.index 判断。"""
    order = ORDER.tolist()
    expected = [[order.index(j) < order.index(i) for j in range(5)] for i in range(5)]
    torch.testing.assert_close(allowed_pairs(ORDER), torch.tensor(expected))


def test_allowed_pairs__is_strictly_lower_triangular_in_order() -> None:
    """按次序重排行列之后是严格下三角的全一矩阵，共 n(n − 1)/2 对。"""
    in_order = allowed_pairs(ORDER)[ORDER][:, ORDER]
    torch.testing.assert_close(in_order, torch.ones(5, 5, dtype=torch.bool).tril(-1))


def test_allowed_pairs__rejects_bad_order() -> None:
    """order 不是排列时报错。"""
    for order in (torch.tensor([0, 2]), [0, 1]):
        with pytest.raises(ValueError, match="order"):
            allowed_pairs(order)


def test_require_autoregressive__matches_walking_every_path() -> None:
    """随手翻转掩码的一个元素，报错与否和逐条枚举路径的判断一致，两种情形都出现过。"""
    order, outcomes = torch.tensor([2, 0, 1]), set()
    position = order.argsort()
    masks = made_masks(made_degrees(order, [4], _generator(3)))
    for layer, mask in enumerate(masks):
        for index in product(*map(range, mask.shape)):
            changed = [m.clone() for m in masks]
            changed[layer][index] ^= True
            leaks = any(
                _count_by_walking(changed, i, j) and position[j] >= position[i]
                for i, j in product(range(3), repeat=2)
            )
            outcomes.add(leaks)
            try:
                require_autoregressive(changed, order)
                assert not leaks
            except ValueError:
                assert leaks
    assert outcomes == {True, False}


def test_require_autoregressive__equals_worked_example() -> None:
    """MADE 的掩码在自己的次序下通过，并返回路径条数：文中手算的三变量例子。"""
    degrees = [torch.tensor(d) for d in ([3, 1, 2], [1, 2, 1, 2], [2, 1, 2])]
    counts = require_autoregressive(made_masks(degrees), torch.tensor([1, 2, 0]))
    assert counts.tolist() == [[0, 10, 4], [0, 0, 0], [0, 2, 0]]


def test_require_autoregressive__rejects_inclusive_output_mask() -> None:
    """输出层用 ≥ 的掩码有从自己到自己的路径，报错说出是哪一对。"""
    degrees = [torch.tensor([1, 2, 3]), torch.tensor([1, 2])]
    first, _ = made_masks(degrees)
    inclusive = degrees[0][:, None] >= degrees[1]
    with pytest.raises(ValueError, match="从输入 0 到输出 0 有 1 条路径"):
        require_autoregressive([first, inclusive], torch.arange(3))


def test_require_autoregressive__rejects_another_order() -> None:
    """同样的掩码换一个次序就不合要求；次序的长度不符也报错。"""
    masks = MADE(3, [4]).masks
    with pytest.raises(ValueError, match="masks 破坏了自回归性质"):
        require_autoregressive(masks, torch.tensor([2, 1, 0]))
    with pytest.raises(ValueError, match="order"):
        require_autoregressive(masks, torch.tensor([0, 1]))


def test_dependency_pattern__matches_finite_differences() -> None:
    """与逐个变量作中心差分得到的非零模式相同。"""
    model = MADE(5, [12], ORDER, _generator(2), activation=torch.tanh).double()
    x = torch.randn(5, dtype=torch.float64, generator=_generator(3))
    step = 1e-4 * torch.eye(5, dtype=torch.float64)
    slopes = (model(x + step) - model(x - step)).T.detach()
    torch.testing.assert_close(dependency_pattern(model, x), slopes != 0)


def test_dependency_pattern__equals_path_pattern_with_tanh() -> None:
    """激活函数处处有非零导数时，雅可比的非零处恰好是有路径的地方，20 组随机的网络。"""
    for seed in range(20):
        order = torch.randperm(7, generator=_generator(seed))
        model = MADE(7, [30, 25], order, _generator(seed), activation=torch.tanh).double()
        x = torch.rand(7, dtype=torch.float64, generator=_generator(seed))
        torch.testing.assert_close(dependency_pattern(model, x), path_counts(model.masks) > 0)


def test_dependency_pattern__differs_from_path_pattern_where_relu_is_off() -> None:
    """ReLU 关着的单元会使有路径处的偏导数为零：一个点上的雅可比只能证伪，不能证明。"""
    model = MADE(5, [8], ORDER, _generator(2)).double()
    with torch.no_grad():
        model.biases[0].fill_(-100.0)
    x = torch.ones(5, dtype=torch.float64)
    assert not dependency_pattern(model, x).any()
    assert (path_counts(model.masks) > 0).any()


def test_dependency_pattern__differs_from_strict_pattern_for_inclusive_mask() -> None:
    """输出层用 ≥ 时对角线上出现依赖，用 > 时没有。"""
    model = MADE(5, [20], ORDER, _generator(2), activation=torch.tanh).double()
    x = torch.ones(5, dtype=torch.float64)
    assert not dependency_pattern(model, x).diagonal().any()
    model.mask_1 = model.degrees[0][:, None] >= model.degrees[1]
    assert dependency_pattern(model, x).diagonal().any()


def test_dependency_pattern__rejects_batches() -> None:
    """x 必须是一维的。"""
    with pytest.raises(ValueError, match="x 的形状"):
        dependency_pattern(MADE(3, [4]), torch.zeros(1, 3))


def test_made_jacobian__matches_autograd() -> None:
    """链式法则的连乘与 torch.autograd.functional.jacobian 相同，0 到 2 个隐藏层。"""
    x = torch.randn(5, dtype=torch.float64, generator=_generator(4))
    for hidden in ([], [9], [12, 8]):
        model = MADE(5, hidden, ORDER, _generator(2)).double()
        expected = torch.autograd.functional.jacobian(lambda row, m=model: m(row[None])[0], x)
        torch.testing.assert_close(made_jacobian(model, x), expected)


def test_made_jacobian__equals_sum_over_paths() -> None:
    """每个元素是各条开着的路径上权重之积的和。"""
    model = MADE(4, [6, 5], torch.tensor([1, 3, 0, 2]), _generator(6)).double()
    x = torch.randn(4, dtype=torch.float64, generator=_generator(7))
    weights = [w.detach() * m for w, m in zip(model.weights, model.masks, strict=True)]
    first = weights[0] @ x + model.biases[0].detach()
    second = weights[1] @ first.clamp(min=0) + model.biases[1].detach()
    expected = torch.zeros(4, 4, dtype=torch.float64)
    for j, k, q, i in product(range(4), range(6), range(5), range(4)):
        if first[k] > 0 and second[q] > 0:
            expected[i, j] += weights[0][k, j] * weights[1][q, k] * weights[2][i, q]
    assert expected.abs().max() > 0
    torch.testing.assert_close(made_jacobian(model, x), expected)


def test_made_jacobian__is_zero_at_kink() -> None:
    """预激活恰好为 0 的单元，ReLU 的导数取 0，与 torch 的自动求导相同。"""
    model = MADE(5, [9], ORDER, _generator(2)).double()
    x = torch.zeros(5, dtype=torch.float64)
    with torch.no_grad():
        model.biases[0].copy_(torch.tensor([0.0, 0.4, 0.0] * 3))
    expected = torch.autograd.functional.jacobian(lambda row: model(row[None])[0], x)
    torch.testing.assert_close(made_jacobian(model, x), expected)
    assert (expected != 0).any()


def test_made_jacobian__rejects_bad_input() -> None:
    """激活函数不是 ReLU，或 x 的形状不对时报错。"""
    with pytest.raises(ValueError, match="activation"):
        made_jacobian(MADE(3, [4], activation=torch.tanh), torch.zeros(3))
    with pytest.raises(ValueError, match="x 的形状"):
        made_jacobian(MADE(3, [4]), torch.zeros(1, 3))
