"""手写引擎的运算的检验。"""

import pytest
import torch
import torch.nn.functional as F

from formulary.autograd.tape import gradients
from formulary.autograd.tape_operations import Variable, cross_entropy, log_softmax


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


UNARY = {
    "exp": lambda x: x.exp(),
    "log": lambda x: x.log(),
    "tanh": lambda x: x.tanh(),
    "sigmoid": lambda x: x.sigmoid(),
    "relu": lambda x: x.relu(),
    "x ** 3": lambda x: x**3,
    "x ** -1.5": lambda x: x**-1.5,
    "x ** 0": lambda x: x**0,
    "-x": lambda x: -x,
    "2 - x": lambda x: 2 - x,
    "2 / x": lambda x: 2 / x,
    "x + 2": lambda x: x + 2,
    "2 + x": lambda x: 2 + x,
    "x - 2": lambda x: x - 2,
    "x / 4": lambda x: x / 4,
    "2 * x": lambda x: 2 * x,
    "sum": lambda x: x.sum(),
    "sum(0)": lambda x: x.sum(0),
    "sum(-1, keepdim)": lambda x: x.sum(-1, keepdim=True),
    "mean": lambda x: x.mean(),
    "mean(1)": lambda x: x.mean(1),
    "mT": lambda x: x.mT,
    "reshape": lambda x: x.reshape((3, 2, 2)),
    "expand": lambda x: x.reshape((1, 4, 3)).expand((2, 4, 3)),
    "sum_to_size": lambda x: x.sum_to_size((4, 1)),
}
BINARY = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
}


def _compare(function, *data: torch.Tensor) -> None:
    """值、一阶导数与沿随机方向的二阶导数，都与 torch 相同。"""
    ours = [Variable(x, requires_grad=True) for x in data]
    theirs = [x.clone().requires_grad_() for x in data]
    y, expected = function(*ours), function(*theirs)
    torch.testing.assert_close(y.data, expected.detach())
    seed = _random(*expected.shape, seed=91)
    found = gradients(y, ours, Variable(seed), create_graph=True)
    wanted = torch.autograd.grad(expected, theirs, seed, create_graph=True)
    for actual, gradient in zip(found, wanted, strict=True):
        torch.testing.assert_close(actual.data, gradient.detach())
    slope = sum((g * g).sum() for g in found)
    if slope.requires_grad:
        second = gradients(slope, ours)
        loss = sum((g * g).sum() for g in wanted)
        expected_second = torch.autograd.grad(loss, theirs, materialize_grads=True)
        for actual, gradient in zip(second, expected_second, strict=True):
            torch.testing.assert_close(actual.data, gradient)


@pytest.mark.parametrize("name", UNARY)
def test_Variable__matches_torch_unary(name: str) -> None:
    """每个一元运算：值、一阶与二阶导数与 torch 相同；用正数，使对数与乘方有定义。"""
    _compare(UNARY[name], _random(4, 3).abs() + 0.1)


@pytest.mark.parametrize("name", ["tanh", "relu", "sigmoid", "x ** 3"])
def test_Variable__matches_torch_on_negative_values(name: str) -> None:
    """正负都有时也相同。"""
    _compare(UNARY[name], _random(4, 3))


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize(
    "shapes", [((4, 3), (3,)), ((2, 1, 3), (4, 1)), ((), (2, 3)), ((3,), (3,))]
)
def test_Variable__matches_torch_broadcasting(name: str, shapes: tuple) -> None:
    """每个二元运算在各种广播下，值、一阶与二阶导数与 torch 相同。"""
    first, second = _random(*shapes[0], seed=1), _random(*shapes[1], seed=2).abs() + 0.5
    _compare(BINARY[name], first, second)


@pytest.mark.parametrize("shapes", [((4, 3), (3, 2)), ((5, 4, 3), (3, 2)), ((4, 3), (5, 3, 2)),
                                    ((5, 1, 4, 3), (2, 3, 6))])  # fmt: skip
def test_Variable__matches_torch_matmul(shapes: tuple) -> None:
    """矩阵乘法，前导轴广播，值、一阶与二阶导数与 torch 相同。"""
    _compare(lambda a, b: a @ b, _random(*shapes[0], seed=1), _random(*shapes[1], seed=2))


def test_Variable__equals_matmul_example() -> None:
    """Y = AB，Ȳ 全为 1：Ā 的每行是 B 的行和，B̄ 的每列是 A 的列和。"""
    a = Variable(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), requires_grad=True)
    b = Variable(torch.tensor([[5.0, 6.0], [7.0, 8.0]]), requires_grad=True)
    (a @ b).sum().backward()
    assert a.grad.data.tolist() == [[11.0, 15.0], [11.0, 15.0]]
    assert b.grad.data.tolist() == [[4.0, 4.0], [6.0, 6.0]]


def test_Variable__equals_accumulation_example() -> None:
    """w = 3，对 w² 反向两次（每次重新建图），grad 是 12；置为 None 之后是 6。"""
    w = Variable(torch.tensor(3.0), requires_grad=True)
    for _ in range(2):
        (w**2).backward()
    assert w.grad.data.item() == 12.0
    w.grad = None
    (w * w).backward()
    assert w.grad.data.item() == 6.0


def test_Variable__is_detached_by_detach() -> None:
    """w·sg(w) 在 w = 2 处的导数是 2，不是 4；只有叶子的 grad 被写入。"""
    w = Variable(torch.tensor(2.0), requires_grad=True)
    product = w * w.detach()
    product.backward()
    assert w.grad.data.item() == 2.0
    assert product.grad is None


def test_Variable__is_zero_slope_at_relu_kink() -> None:
    """relu 在 0 处的导数取 0，与 torch 相同。"""
    x = Variable(torch.tensor([-1.0, 0.0, 2.0]), requires_grad=True)
    x.relu().sum().backward()
    assert x.grad.data.tolist() == [0.0, 0.0, 1.0]


def test_Variable__limit_power_at_zero() -> None:
    """x² 在 0 处的一、二、三阶导数是 0、2、0，不是 NaN。"""
    x = Variable(torch.tensor(0.0), requires_grad=True)
    value, found = x**2, []
    for _ in range(3):
        (value,) = gradients(value, [x], create_graph=True)
        found.append(value.data.item())
    assert found == [0.0, 2.0, 0.0]


def test_Variable__matches_torch_training() -> None:
    """两层网络用梯度下降训练 30 步，参数与 torch 训练的相同。"""
    x, labels = _random(20, 5, seed=3), torch.arange(20) * 7 % 4
    shapes = ((5, 6), (6,), (6, 4), (4,))
    start = [0.5 * _random(*shape, seed=4 + i) for i, shape in enumerate(shapes)]
    ours = [Variable(p.clone(), requires_grad=True) for p in start]
    theirs = [p.clone().requires_grad_() for p in start]
    for _ in range(30):
        w, b, v, c = ours
        loss = cross_entropy((Variable(x) @ w + b).tanh() @ v + c, labels)
        loss.backward()
        for p in ours:
            p.data, p.grad = p.data - 0.5 * p.grad.data, None
        w, b, v, c = theirs
        expected = F.cross_entropy(torch.tanh(x @ w + b) @ v + c, labels)
        torch.testing.assert_close(loss.data, expected.detach())
        found = torch.autograd.grad(expected, theirs)
        theirs = [
            (p - 0.5 * g).detach().requires_grad_() for p, g in zip(theirs, found, strict=True)
        ]
    for actual, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(actual.data, expected.detach())


def test_Variable__preserves_dtype() -> None:
    """float32 的程序，值与梯度都是 float32，数字常数不改变它。"""
    x = Variable(torch.ones(3), requires_grad=True)
    y = (2 * x + 1).sum() / 3
    y.backward()
    assert y.data.dtype == x.grad.data.dtype == torch.float32


def test_Variable__differs_from_forgetting_the_second_use() -> None:
    """x·x 的两条边都要算：漏掉一条，导数就少了一半。"""
    x = Variable(torch.tensor(3.0), requires_grad=True)
    (x * x).backward()
    assert x.grad.data.item() == 6.0
    constant = Variable(torch.tensor(3.0))
    y = Variable(torch.tensor(3.0), requires_grad=True)
    (y * constant).backward()
    assert y.grad.data.item() == 3.0


def test_Variable__rejects_bad_input() -> None:
    """形状不能广播、类型不同、另一方不是变量、轴超出范围，都报错并说出形状。"""
    x = Variable(torch.ones(2, 3), requires_grad=True)
    with pytest.raises(ValueError, match=r"形状 \(2, 3\) 与 \(2,\) 不能广播"):
        x + Variable(torch.ones(2))
    with pytest.raises(ValueError, match="类型必须相同"):
        x * Variable(torch.ones(2, 3).double())
    with pytest.raises(ValueError, match="必须是 Variable 或数，得到 Tensor"):
        x * torch.ones(2, 3)
    with pytest.raises(ValueError, match="指数必须是数，得到 Variable"):
        x**x
    for other in (torch.ones(2, 3), torch.ones(3)):
        with pytest.raises(ValueError, match="矩阵乘法要求"):
            x @ Variable(other)
    with pytest.raises(ValueError, match="不能广播"):
        Variable(torch.ones(2, 4, 3)) @ Variable(torch.ones(5, 3, 2))
    for dim in (2, -3):
        with pytest.raises(ValueError, match="dim 必须在"):
            x.sum(dim)
    for shape in ((2,), (1, 3), (2, 1)):
        with pytest.raises(ValueError, match="不能广播"):
            x.expand(shape)
    with pytest.raises(ValueError, match="不能广播成"):
        x.sum_to_size((2,))
    with pytest.raises(ValueError, match="转置至少要有两轴"):
        _ = Variable(torch.ones(3)).mT
    with pytest.raises(ValueError, match="元素个数不同"):
        x.reshape((4, 2))
    with pytest.raises(ValueError, match="data 必须是实浮点张量"):
        Variable(torch.ones(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="不是标量"):
        x.backward()


def test_log_softmax__matches_torch() -> None:
    """值、一阶与二阶导数与 torch 相同，多一个前导轴也一样。"""
    for shape in ((4, 3), (2, 4, 3), (5,)):
        data = 3 * _random(*shape, seed=1)
        ours, theirs = Variable(data, requires_grad=True), data.clone().requires_grad_()
        y, expected = log_softmax(ours), F.log_softmax(theirs, dim=-1)
        torch.testing.assert_close(y.data, expected.detach())
        seed = _random(*shape, seed=2)
        (g,) = gradients(y, [ours], Variable(seed), create_graph=True)
        (h,) = torch.autograd.grad(expected, theirs, seed, create_graph=True)
        torch.testing.assert_close(g.data, h.detach())
        (second,) = gradients((g * g).sum(), [ours])
        (expected_second,) = torch.autograd.grad((h * h).sum(), theirs)
        torch.testing.assert_close(second.data, expected_second)


def test_log_softmax__is_shift_invariant_and_normalized() -> None:
    """加上同一个数结果不变；概率之和是 1；一千也不溢出。"""
    data = _random(4, 3)
    y = log_softmax(Variable(data))
    torch.testing.assert_close(log_softmax(Variable(data + 100.0)).data, y.data)
    torch.testing.assert_close(y.data.exp().sum(-1), torch.ones(4, dtype=torch.float64))
    huge = log_softmax(Variable(torch.tensor([1000.0, 0.0])))
    assert huge.data.tolist() == [0.0, -1000.0]


def test_log_softmax__rejects_bad_input() -> None:
    """没有类别这一轴就报错。"""
    for data in (torch.tensor(1.0), torch.ones(2, 0)):
        with pytest.raises(ValueError, match="logits 必须有类别"):
            log_softmax(Variable(data))


def test_cross_entropy__matches_torch() -> None:
    """值与梯度与 torch 相同。"""
    data, labels = 2 * _random(6, 4, seed=5), torch.tensor([0, 3, 1, 1, 2, 0])
    ours, theirs = Variable(data, requires_grad=True), data.clone().requires_grad_()
    loss, expected = cross_entropy(ours, labels), F.cross_entropy(theirs, labels)
    torch.testing.assert_close(loss.data, expected.detach())
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad.data, theirs.grad)


def test_cross_entropy__matches_closed_form_gradient() -> None:
    """梯度是 (softmax − 独热) / B。"""
    data, labels = _random(6, 4, seed=5), torch.tensor([0, 3, 1, 1, 2, 0])
    logits = Variable(data, requires_grad=True)
    cross_entropy(logits, labels).backward()
    expected = (data.softmax(-1) - F.one_hot(labels, 4)) / 6
    torch.testing.assert_close(logits.grad.data, expected)


def test_cross_entropy__equals_uniform_example() -> None:
    """四个类别、对数几率全为零，损失是 log 4 = 1.3863。"""
    loss = cross_entropy(Variable(torch.zeros(3, 4).double()), torch.tensor([1, 2, 0]))
    torch.testing.assert_close(loss.data, torch.tensor(4.0).double().log())


def test_cross_entropy__rejects_bad_input() -> None:
    """形状不对、标签超出范围或不是整数都报错。"""
    for shape in ((4,), (2, 3, 4), (0, 4)):
        with pytest.raises(ValueError, match="logits 的形状"):
            cross_entropy(Variable(torch.zeros(shape)), torch.tensor([1]))
    logits = Variable(torch.zeros(2, 4))
    for labels in (torch.tensor([0, 4]), torch.tensor([0]), torch.tensor([0.0, 1.0])):
        with pytest.raises(ValueError, match="labels"):
            cross_entropy(logits, labels)
