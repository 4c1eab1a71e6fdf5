"""手写引擎的机制的检验：图、拓扑序、反向累积，以及与 torch、micrograd 的比较。"""

import functools
import random
from collections import Counter

import jaxtyping
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from micrograd.engine import Value

from formulary.autograd.tape import Node, gradients, topological_order
from formulary.autograd.tape_operations import Variable


@pytest.fixture
def unchecked() -> None:
    """Long programs: checking the shapes of each call takes most of the time."""
    jaxtyping.config.update("jaxtyping_disable", True)  # the autouse fixture puts it back


LEAF_SHAPES = ((), (1,), (3,), (2, 1), (2, 3), (3, 2), (4, 1, 3))
UNARY = ("exp", "log", "tanh", "sigmoid", "relu", "square", "inverse", "sum", "mean", "row_sum",
         "row_mean", "transpose", "flatten", "widen", "negate", "log_softmax")  # fmt: skip
BINARY = ("+", "-", "*", "/", "@")


def _apply(name, a, b):
    """一步运算；a、b 是 torch 的张量或本引擎的变量，两边执行的是同一行代码。"""
    match name:
        case "exp":
            return a.tanh().exp()  # 先压到 ±1 之间，免得溢出
        case "log":
            return (a * a + 0.5).log()
        case "square":
            return (0.5 * a) ** 2
        case "inverse":
            return 1 / (2 + a * a)
        case "row_sum":
            return a.sum(-1, keepdim=True) if len(a.shape) else a
        case "row_mean":
            return a.mean(0) if len(a.shape) else a
        case "transpose":
            return a.mT if len(a.shape) > 1 else a
        case "flatten":
            return a.reshape((-1,) if isinstance(a, torch.Tensor) else (a.data.numel(),))
        case "widen":
            return a.expand((2, *a.shape))
        case "negate":
            return 1 - a
        case "log_softmax":
            return a - a.exp().sum().log() if len(a.shape) else a
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
        case "/":
            return a / (b * b + 1.0)
        case "@":
            return a @ b
    return getattr(a, name)()


@functools.cache  # torch.broadcast_shapes is slow
def _fits(name: str, a: torch.Size, b: torch.Size) -> bool:
    """这一步的形状合不合法，结果是不是不太大。"""
    try:
        if name == "@":
            wide = (*torch.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1])
            fits = a[-1] == b[-2]
        else:
            wide, fits = torch.broadcast_shapes(a, b) if name in BINARY else a, True
    except (RuntimeError, IndexError):  # 不能广播，或不够二维
        return False
    size = torch.Size(wide).numel() * (2 if name == "widen" else 1)
    return fits and len(wide) < 4 and size <= 48


def _run(seed: int, steps: int, leaves, used: Counter | None = None):
    """从叶子出发，随机选运算与合适的自变量，选不到就跳过；全部值的 tanh 之和的平方是结果。"""
    chooser, values = random.Random(seed), list(leaves)
    for _ in range(steps):
        name, a = chooser.choice(UNARY + 2 * BINARY), chooser.choice(values)
        fitting = [b for b in values if _fits(name, a.shape, b.shape)]
        if not fitting:
            continue
        b = chooser.choice(fitting)
        values.append(_apply(name, a, b))
        if used is not None:
            used[name] += 1
            used["广播"] += name in BINARY[:4] and a.shape != b.shape
            used["算出的值再用"] += any(a is v for v in values[len(leaves) :])
    total = values[0].sum()
    for value in values[1:]:
        total = total + value.tanh().sum()
    return total * total, values


def _leaves(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, dtype=torch.float64, generator=generator) for s in LEAF_SHAPES]


def _variables(tensors: list[torch.Tensor]) -> list[Variable]:
    return [Variable(tensor, requires_grad=True) for tensor in tensors]


def _same(ours: list[Variable], theirs: list[torch.Tensor]) -> None:
    """形状逐个相同，元素连成一个向量比较。"""
    assert [value.shape for value in ours] == [tensor.shape for tensor in theirs]
    actual = torch.cat([value.data.flatten() for value in ours])
    torch.testing.assert_close(actual, torch.cat([tensor.detach().flatten() for tensor in theirs]))


def test_gradients__matches_torch_on_random_programs(unchecked) -> None:
    """随机的张量程序，有广播、归约、矩阵乘法、值的复用与常数：值、一阶、二阶导数都与 torch 同。"""
    used = Counter()

    @settings(max_examples=60, deadline=None, derandomize=True, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(seed=st.integers(0, 2**32), steps=st.integers(8, 14))
    def check(seed: int, steps: int) -> None:
        data = _leaves(seed)
        ours, theirs = _variables(data), [tensor.clone().requires_grad_() for tensor in data]
        ours[seed % 7], theirs[seed % 7] = Variable(data[seed % 7]), data[seed % 7]  # 不求导
        output, values = _run(seed, steps, ours, used)
        expected, expected_values = _run(seed, steps, theirs)
        _same(values, expected_values)
        ours, theirs = ([x for x in leaves if x.requires_grad] for leaves in (ours, theirs))
        found = gradients(output, ours, create_graph=True)
        wanted = torch.autograd.grad(expected, theirs, create_graph=True)
        _same(found, wanted)
        ways = [torch.randn_like(x, generator=torch.Generator().manual_seed(seed)) for x in theirs]
        slope = sum((g * Variable(way)).sum() for g, way in zip(found, ways, strict=True))
        expected_slope = sum((g * way).sum() for g, way in zip(wanted, ways, strict=True))
        _same(gradients(slope, ours), torch.autograd.grad(expected_slope, theirs))

    check()
    assert all(used[name] >= 5 for name in (*UNARY, *BINARY)), used
    assert min(used["广播"], used["算出的值再用"]) >= 50, used


def _example() -> tuple[Variable, ...]:
    """文中的例子：u = ab，v = u + a，L = uv，a = 2、b = 3。"""
    a, b = _variables([torch.tensor(2.0), torch.tensor(3.0)])
    u = a * b
    v = u + a
    return a, b, u, v, u * v


def test_gradients__equals_worked_example() -> None:
    """u = ab，v = u + a，L = uv：ā = 48、b̄ = 28、ū = 14、v̄ = 6、L̄ = 1。"""
    *inner, loss = _example()
    assert [g.data.item() for g in gradients(loss, [*inner, loss])] == [48, 28, 14, 6, 1]


def test_gradients__equals_second_derivative_example() -> None:
    """同一个例子的二阶导数：对 a 两次得 2b² + 2b = 24，对 a、b 各一次得 4ab + 2a = 28。"""
    a, b, _, _, loss = _example()
    (slope,) = gradients(loss, [a], create_graph=True)
    assert [g.data.item() for g in gradients(slope, [a, b])] == [24.0, 28.0]


def test_gradients__equals_exercise() -> None:
    """练习：y = x·x，z = y + x，L = yz，x = 2：伴随 44、10、4，二阶导数 60。"""
    x = Variable(torch.tensor(2.0), requires_grad=True)
    y = x * x
    z = y + x
    found = gradients(y * z, [x, y, z], create_graph=True)
    assert [g.data.item() for g in found] == [44.0, 10.0, 4.0]
    assert gradients(found[0], [x])[0].data.item() == 60.0


def test_gradients__is_linear_in_seed() -> None:
    """seed 是 2g 与 −3h 之和时，梯度是两者梯度的同一个组合。"""
    data = _leaves(3)[4:6]
    x, w = _variables(data)
    y = (x @ w).tanh()
    g, h = (torch.randn(2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(s))
            for s in (5, 6))  # fmt: skip
    (mixed,) = gradients(y, [x], Variable(2 * g - 3 * h), retain_graph=True)
    (first,) = gradients(y, [x], Variable(g), retain_graph=True)
    (second,) = gradients(y, [x], Variable(h))
    torch.testing.assert_close(mixed.data, 2 * first.data - 3 * second.data)


def test_gradients__limit_unreached_input() -> None:
    """没有路径的自变量，梯度是零；没有要求记录时，结果不连着图。"""
    x, y = _variables([torch.ones(2), torch.ones(3)])
    first, second = gradients(x.sum(), [x, y])
    assert second.data.tolist() == [0.0] * 3
    assert not first.requires_grad
    assert x.grad is None


def test_gradients__is_repeatable_with_retain_graph() -> None:
    """留着图可以反复反向，结果每次相同；最后一次之后图释放。"""
    a, _, _, _, loss = _example()
    for _ in range(3):
        assert gradients(loss, [a], retain_graph=True)[0].data.item() == 48.0
    assert gradients(loss, [a])[0].data.item() == 48.0
    with pytest.raises(ValueError, match="已在上一次反向之后释放"):
        gradients(loss, [a])


def test_gradients__preserves_first_order_when_recording() -> None:
    """create_graph 不改变一阶的值，并且默认留着图。"""
    data = _leaves(4)[4:6]
    (x, w), (p, q) = _variables(data), _variables(data)
    plain = gradients((x @ w).tanh().sum(), [x, w])
    recorded = (p @ q).tanh().sum()
    for actual, expected in zip(gradients(recorded, [p, q], create_graph=True), plain, strict=True):
        torch.testing.assert_close(actual.data, expected.data)
    gradients(recorded, [p, q])


def test_gradients__is_differentiable_in_seed() -> None:
    """梯度对 seed 求导是雅可比–向量积：两次反向等于 torch.func.jvp。"""
    data, tangent = _leaves(8)[2], _leaves(9)[2]
    x = Variable(data, requires_grad=True)
    seed = Variable(torch.ones(3, dtype=torch.float64), requires_grad=True)
    (pulled,) = gradients(x.tanh() * x.sum(), [x], seed, create_graph=True)
    (pushed,) = gradients((pulled * Variable(tangent)).sum(), [seed])
    _, expected = torch.func.jvp(lambda x: x.tanh() * x.sum(), (data,), (tangent,))
    torch.testing.assert_close(pushed.data, expected)


def test_gradients__differs_from_micrograd_second_backward() -> None:
    """abc 在 (2, 3, 5) 反向两次：micrograd 0.1.0 得 45，torch 与本引擎得 30。"""
    a, b, c = Value(2.0), Value(3.0), Value(5.0)
    product = a * b * c
    product.backward()
    assert a.grad == 15.0
    product.backward()
    assert a.grad == 45.0
    x, y, z = (torch.tensor(v, requires_grad=True) for v in (2.0, 3.0, 5.0))
    product = x * y * z
    product.backward(retain_graph=True)
    product.backward()
    assert x.grad.item() == 30.0
    p, q, r = _variables([torch.tensor(2.0), torch.tensor(3.0), torch.tensor(5.0)])
    product = p * q * r
    found = [gradients(product, [p], retain_graph=True)[0].data.item() for _ in range(2)]
    assert found == [15.0, 15.0]
    product.backward(retain_graph=True)
    product.backward()
    assert p.grad.data.item() == 30.0


def test_gradients__is_linear_in_nodes() -> None:
    """连加自己 60 次，逐边立即传要 2⁶¹ 步，按拓扑序只走 61 个结点，梯度是 2⁶⁰。"""
    x = Variable(torch.tensor(1.0, dtype=torch.float64), requires_grad=True)
    y = x
    for _ in range(60):
        y = y + y
    assert len(topological_order(y)) == 61
    assert gradients(y, [x])[0].data.item() == 2.0**60


def test_gradients__depends_only_on_data_at_backward() -> None:
    """没有版本核对：反向之前把 w 的 data 从 3 换成 6，w² 的梯度不声不响地成了 12。"""
    w = Variable(torch.tensor(3.0), requires_grad=True)
    square = w * w
    w.data = torch.tensor(6.0)
    assert gradients(square, [w])[0].data.item() == 12.0


def test_gradients__rejects_bad_input() -> None:
    """不需要求导、不是标量而没有 seed、seed 的形状不对，都报错。"""
    x = Variable(torch.ones(2), requires_grad=True)
    with pytest.raises(ValueError, match="没有可求的导数"):
        gradients(Variable(torch.ones(())), [x])
    with pytest.raises(ValueError, match="不是标量"):
        gradients(x * 2, [x])
    with pytest.raises(ValueError, match="seed 的形状"):
        gradients(x * 2, [x], Variable(torch.ones(3)))


def test_topological_order__equals_worked_example() -> None:
    """例子的五个结点各出现一次，a、b 在 u 前，u 在 v 前，L 在最后。"""
    a, b, u, v, loss = _example()
    order = topological_order(loss)
    assert order == [a, b, u, v, loss]


@pytest.mark.parametrize("seed", range(5))
def test_topological_order__matches_reachability(seed: int) -> None:
    """随机程序：恰是能走到的、需要求导的结点，且每条边的两端先后正确。"""
    generator = torch.Generator().manual_seed(seed)
    values = [*_variables([torch.tensor(1.0), torch.tensor(2.0)]), Variable(torch.tensor(3.0))]
    for _ in range(40):
        i, j = torch.randint(len(values), (2,), generator=generator).tolist()
        values.append(values[i] + values[j])
    order = topological_order(values[-1])
    reached, fresh = set(), {values[-1]}
    while fresh:  # 逐层扩展，与深度优先的走法无关
        reached |= fresh
        fresh = {p for node in fresh for p in node.parents if p.requires_grad} - reached
    assert set(order) == reached
    assert len(order) == len(reached)
    place = {node: number for number, node in enumerate(order)}
    for node in order:
        assert all(place[p] < place[node] for p in node.parents if p.requires_grad)


def test_topological_order__is_iterative(unchecked) -> None:
    """五万步的链照样排得出、求得了导；micrograd 0.1.0 在两千步就超出递归上限。"""
    x = y = Variable(torch.tensor(1.0, dtype=torch.float64), requires_grad=True)
    for _ in range(50_000):
        y = Variable.record(y.data, (y,), (lambda g, y, x: g,))
    assert len(topological_order(y)) == 50_001
    assert gradients(y, [x])[0].data.item() == 1.0
    y = x
    for _ in range(2_000):
        y = 0.5 * y + x
    assert gradients(y, [x])[0].data.item() == 2.0
    value = Value(1.0)
    for _ in range(2_000):
        value = value + 1.0
    with pytest.raises(RecursionError):
        value.backward()


def test_topological_order__rejects_constants() -> None:
    """不需要求导的起点报错。"""
    with pytest.raises(ValueError, match="没有可求的导数"):
        topological_order(Node(torch.ones(())))


def test_Node__matches_torch_flags() -> None:
    """叶子、常数、中间结果与切断之后的标志，与 torch 的 is_leaf、requires_grad 相同。"""
    data = torch.tensor([2.0, 3.0])
    w, c = Node(data, requires_grad=True), Node(data)
    vjps = (lambda g, y, a, b: g, lambda g, y, a, b: g)
    product, constant = Node.record(data * data, (w, c), vjps), Node.record(data, (c, c), vjps)
    x, k = data.clone().requires_grad_(), data
    pairs = ((w, x), (c, k), (product, x * k), (constant, k * k), (product.detach(), x.detach()))
    for node, tensor in pairs:
        assert (node.is_leaf, node.requires_grad) == (tensor.is_leaf, tensor.requires_grad)
        assert node.shape == tensor.shape


def test_Node__is_unrecorded_without_requires_grad() -> None:
    """没有一个父结点需要求导时，什么也不记；记下的结点与父结点、VJP 一一对应。"""
    w, c = Node(torch.tensor(2.0), requires_grad=True), Node(torch.tensor(3.0))
    vjps = (lambda g, y, a, b: g, lambda g, y, a, b: g)
    assert Node.record(torch.tensor(5.0), (c, c), vjps).parents == ()
    node = Node.record(torch.tensor(5.0), (w, c), vjps)
    assert (node.parents, node.vjps, node.requires_grad) == ((w, c), vjps, True)
    assert node.detach().data is node.data
    assert node.detach().is_leaf
    assert node.shape == ()


def test_Node__is_cut_from_parents_after_backward() -> None:
    """反向之后中间结点断开父结点：只留着损失，也不会留住整张图。"""
    a, _, u, _, loss = _example()
    gradients(loss, [a])
    assert isinstance(u, Node)
    assert (u.parents, u.vjps, u.is_leaf, a.is_leaf) == ((), None, False, True)


def test_Node__rejects_bad_input() -> None:
    """整数、Python 的数、已在 torch 的图里的张量都报错。"""
    for bad in (torch.ones(2, dtype=torch.int64), 3.0, torch.ones(2, dtype=torch.complex64)):
        with pytest.raises(ValueError, match="data 必须是实浮点张量"):
            Node(bad)
    with pytest.raises(ValueError, match="已在 PyTorch 的图里"):
        Node(torch.ones(2, requires_grad=True))
