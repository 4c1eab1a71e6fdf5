"""NADE：朴素与递推两种算法、采样、模型类。"""

import itertools
import math

import pytest
import torch
from torch import Tensor

from formulary.autoregressive_models.bernoulli import bernoulli_log_prob
from formulary.autoregressive_models.nade import (
    NADE,
    nade_logits,
    nade_logits_naive,
    nade_sample,
)


def _parameters(n: int, d: int, seed: int = 51) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((d, n), (d,), (n, d), (n,))
    draws = [torch.randn(*s, dtype=torch.float64, generator=generator) for s in shapes]
    return draws[0], draws[1], draws[2], draws[3]


def _states(n: int) -> Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=n)), dtype=torch.float64)


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def _logits_by_scalars(x: Tensor, parameters: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """逐个标量照定义算：每个条件、每个隐藏单元都从头累加。"""
    weight, bias, output_weight, output_bias = (p.tolist() for p in parameters)
    rows = []
    for row in x.tolist():
        logits = []
        for i in range(len(row)):
            logit = output_bias[i]
            for k in range(len(bias)):
                a = bias[k] + sum(weight[k][j] * row[j] for j in range(i))
                logit += output_weight[i][k] * _sigmoid(a)
            logits.append(logit)
        rows.append(logits)
    return torch.tensor(rows, dtype=torch.float64)


def _xor_network(sharpness: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """两个隐藏单元解异或：“至少一个 1”减去“两个都是 1”。"""
    s = sharpness
    weight = torch.tensor([[s, s, 0.0], [s, s, 0.0]], dtype=torch.float64)
    bias = torch.tensor([-0.5 * s, -1.5 * s], dtype=torch.float64)
    output_weight = torch.tensor([[0, 0], [0, 0], [2 * s, -2 * s]], dtype=torch.float64)
    return weight, bias, output_weight, torch.tensor([0, 0, -s], dtype=torch.float64)


XOR = torch.tensor([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=torch.float64)


def test_nade_logits_naive__matches_scalar_loop() -> None:
    """等于逐个标量照定义累加出的对数几率。"""
    parameters, x = _parameters(6, 4), _states(6)[::5]
    torch.testing.assert_close(nade_logits_naive(x, *parameters), _logits_by_scalars(x, parameters))


def _worked_example() -> tuple[list[Tensor], Tensor]:
    """文中的手算一例：n = 3、d = 2、x = (1, 0, 1)；返回参数与三个对数几率。"""
    inputs = [
        torch.tensor([[1, 0, 1]], dtype=torch.float64),
        torch.tensor([[2, -1, 7], [0, 3, 7]], dtype=torch.float64),
        torch.zeros(2, dtype=torch.float64),
        torch.tensor([[1, 0], [1, -1], [1, 2]], dtype=torch.float64),
        torch.zeros(3, dtype=torch.float64),
    ]
    high = _sigmoid(2.0)
    return inputs, torch.tensor([[0.5, high - 0.5, high + 1]], dtype=torch.float64)


def test_nade_logits_naive__equals_worked_example() -> None:
    """文中的手算一例：x = (1, 0, 1) 的三个对数几率是 0.5、0.3808、1.8808。"""
    inputs, expected = _worked_example()
    logits = nade_logits_naive(*inputs)
    torch.testing.assert_close(logits, expected)
    assert [round(v, 4) for v in logits[0].tolist()] == [0.5, 0.3808, 1.8808]
    assert round(-bernoulli_log_prob(logits, inputs[0]).item(), 4) == 1.5175


def test_nade_logits_naive__preserves_total_mass() -> None:
    """n = 10 的全部 1024 个状态概率之和是 1；把 x_i 也算进 h_i 就不是。"""
    parameters, states = _parameters(10, 4), _states(10)
    one = torch.tensor(1.0, dtype=torch.float64)
    logits = nade_logits_naive(states, *parameters)
    torch.testing.assert_close(bernoulli_log_prob(logits, states).exp().sum(), one)
    weight, bias, output_weight, output_bias = parameters
    leaky = torch.stack(
        [
            torch.sigmoid(states[:, : i + 1] @ weight[:, : i + 1].T + bias) @ output_weight[i]
            + output_bias[i]
            for i in range(10)
        ],
        dim=1,
    )
    assert (bernoulli_log_prob(leaky, states).exp().sum() - one).abs() > 0.05


def test_nade_logits_naive__rejects_bad_shapes() -> None:
    """形状对不上时报错并说出参数名。"""
    x, good = torch.zeros(2, 4).double(), _parameters(4, 3)
    for k, name in enumerate(("weight", "bias", "output_weight", "output_bias")):
        bad = [p[:, :-1] if p.ndim == 2 else p[:-1] for p in (good[k],)]
        parameters = [bad[0] if j == k else p for j, p in enumerate(good)]
        with pytest.raises(ValueError, match=name):
            nade_logits_naive(x, *parameters)
    with pytest.raises(ValueError, match="x 的形状"):
        nade_logits_naive(x[0], *good)
    with pytest.raises(ValueError, match="x 必须是实浮点张量"):
        nade_logits_naive(x.long(), *good)


def test_nade_logits__matches_scalar_loop() -> None:
    """等于逐个标量照定义累加出的对数几率。"""
    parameters, x = _parameters(6, 4), _states(6)[::5]
    torch.testing.assert_close(nade_logits(x, *parameters), _logits_by_scalars(x, parameters))


def test_nade_logits__matches_naive() -> None:
    """递推与每步从头算的值相同；float32 下 n = 300 也只差舍入。"""
    parameters, x = _parameters(9, 5), _states(9)[::7]
    torch.testing.assert_close(nade_logits(x, *parameters), nade_logits_naive(x, *parameters))
    wide = tuple(0.1 * p.float() for p in _parameters(300, 20))
    bits = (torch.rand(4, 300, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    torch.testing.assert_close(
        # 三百步 float32 累加，容差放宽到 1e-5
        nade_logits(bits, *wide),
        nade_logits_naive(bits, *wide),
        rtol=1e-5,
        atol=1e-5,
    )


def test_nade_logits__equals_worked_example() -> None:
    """文中的手算一例，递推也得到 0.5、0.3808、1.8808；W 的末列取什么都一样。"""
    inputs, expected = _worked_example()
    torch.testing.assert_close(nade_logits(*inputs), expected)
    inputs[1][:, -1] = -100
    torch.testing.assert_close(nade_logits(*inputs), expected)


def test_nade_logits__depends_only_on_earlier_variables() -> None:
    """第 i 个对数几率只随 x_1, …, x_(i−1) 变：雅可比矩阵严格下三角，下三角处处不为零。"""
    parameters = _parameters(6, 4)
    x = torch.rand(1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    jacobian = torch.autograd.functional.jacobian(lambda row: nade_logits(row, *parameters)[0], x)[
        :, 0
    ]
    assert (jacobian.triu() == 0).all()
    lower = torch.ones(6, 6).tril(-1) > 0
    assert (jacobian[lower].abs() > 1e-6).all()


def test_nade_logits__depends_only_on_first_columns() -> None:
    """W 的最后一列不影响输出：它的梯度恰为零，其余各列不为零。"""
    weight, *rest = _parameters(6, 4)
    weight.requires_grad_()
    nade_logits(_states(6), weight, *rest).square().sum().backward()
    assert (weight.grad[:, -1] == 0).all()
    assert (weight.grad[:, :-1] != 0).all()


def test_nade_logits__limit_xor() -> None:
    """两个隐藏单元就能表示异或：越陡，期望 NLL 越接近熵 2 bit，FVSBN 至少 3 bit。"""
    previous = math.inf
    for sharpness in (4.0, 8.0, 16.0, 64.0):
        logits = nade_logits(XOR, *_xor_network(sharpness))
        bits = -bernoulli_log_prob(logits, XOR).mean().item() / math.log(2)
        assert 2 <= bits < previous
        previous = bits
    assert previous - 2 < 1e-12


def test_nade_logits__differs_from_transposed_output_weight() -> None:
    """把 V 的行当成列用（n = d 时形状不报错），对数几率就变了。"""
    weight, bias, output_weight, output_bias = _parameters(5, 5)
    x = _states(5)
    right = nade_logits(x, weight, bias, output_weight, output_bias)
    wrong = nade_logits(x, weight, bias, output_weight.T, output_bias)
    assert (right - wrong).abs().max() > 0.1


def test_nade_logits__rejects_bad_shapes() -> None:
    """weight 与 output_weight 转置了、或偏置长度不对时报错。"""
    x, (weight, bias, output_weight, output_bias) = torch.zeros(2, 4).double(), _parameters(4, 3)
    for parameters, message in (
        ((weight.T, bias, output_weight, output_bias), "weight 的形状"),
        ((weight, bias, output_weight.T, output_bias), "output_weight 的形状"),
        ((weight, output_bias, output_weight, output_bias), "bias 的形状"),
        ((weight, bias, output_weight, bias), "output_bias 的形状"),
    ):
        with pytest.raises(ValueError, match=message):
            nade_logits(x, *parameters)


def test_nade_sample__matches_scalar_loop() -> None:
    """给定均匀数，样本等于逐个标量照“u < σ(ℓ) 取 1”抽出的样本。"""
    parameters = _parameters(6, 4)
    uniforms = torch.rand(40, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    rows = []
    for us in uniforms.tolist():
        row = [0.0] * 6
        for i, u in enumerate(us):
            logit = _logits_by_scalars(torch.tensor([row]).double(), parameters)[0, i].item()
            row[i] = 1.0 if u < _sigmoid(logit) else 0.0
        rows.append(row)
    expected = torch.tensor(rows, dtype=torch.float64)
    sample = nade_sample(uniforms, *parameters)
    assert torch.equal(sample, expected)
    assert 0.1 < sample.mean() < 0.9


def test_nade_sample__matches_enumerated_probabilities() -> None:
    """八万个样本里各状态的频率与枚举出的概率相差不到 5 个标准误。"""
    parameters, states, count = _parameters(3, 4), _states(3), 80_000
    probability = bernoulli_log_prob(_logits_by_scalars(states, parameters), states).exp()
    generator = torch.Generator().manual_seed(6)
    uniforms = torch.rand(count, 3, dtype=torch.float64, generator=generator)
    index = nade_sample(uniforms, *parameters) @ torch.tensor([4.0, 2.0, 1.0]).double()
    frequency = torch.bincount(index.long(), minlength=8) / count
    # 标准误至多 0.5 / √80000 = 0.0018，所以能发现 0.009 以上的偏差
    error = (probability * (1 - probability) / count).sqrt()
    assert ((frequency - probability).abs() <= 5 * error).all()


def test_nade_sample__limit_extreme_uniforms() -> None:
    """均匀数全为 0 时每位都取 1，全为 1 时每位都取 0。"""
    parameters = _parameters(5, 3)
    zeros = torch.zeros(2, 5, dtype=torch.float64)
    assert (nade_sample(zeros, *parameters) == 1).all()
    assert (nade_sample(zeros + 1, *parameters) == 0).all()


def test_nade_sample__equals_boundary_example() -> None:
    """参数全为零时概率恰为 1/2：u = 1/2 取 0，略小于 1/2 取 1。"""
    parameters = tuple(0 * p for p in _parameters(2, 3))
    uniforms = torch.tensor([[0.5, 0.4999], [0.4999, 0.5]], dtype=torch.float64)
    expected = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(nade_sample(uniforms, *parameters), expected)


def test_nade_sample__rejects_bad_input() -> None:
    """均匀数越界或形状不对时报错。"""
    parameters = _parameters(4, 3)
    for uniforms, message in (
        (torch.full((2, 4), 1.5).double(), "uniforms"),
        (torch.full((2, 4), -0.1).double(), "uniforms"),
        (torch.zeros(4).double(), "x 的形状"),
        (torch.zeros(2, 5).double(), "weight 的形状"),
    ):
        with pytest.raises(ValueError, match=message):
            nade_sample(uniforms, *parameters)


def test_NADE__matches_scalar_loop() -> None:
    """模型的输出等于用它自己的参数逐个标量算出的对数几率。"""
    model = NADE(5, 3, torch.Generator().manual_seed(7), torch.float64)
    x = _states(5)
    parameters = tuple(p.detach() for p in model.parameters())
    torch.testing.assert_close(model(x).detach(), _logits_by_scalars(x, parameters))


def test_NADE__preserves_total_mass() -> None:
    """随机初始化的模型，n = 10 的全部状态概率之和是 1。"""
    states = _states(10)
    model = NADE(10, 6, torch.Generator().manual_seed(8), torch.float64)
    total = bernoulli_log_prob(model(states), states).exp().sum()
    torch.testing.assert_close(total.detach(), torch.tensor(1.0, dtype=torch.float64))


def test_NADE__bounds_initial_weights() -> None:
    """初始权重在 ±1/√(输入宽度) 之间，偏置为零，同一个种子给出同样的参数。"""
    model, twin = (NADE(30, 20, torch.Generator().manual_seed(9)) for _ in range(2))
    assert model.weight.shape == (20, 30)
    for values, bound in ((model.weight, 30**-0.5), (model.output_weight, 20**-0.5)):
        assert 0.9 * bound < values.max() <= bound
        assert -bound <= values.min() < -0.9 * bound
    assert (model.bias == 0).all()
    assert (model.output_bias == 0).all()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, other)


def _trained_xor_bits(seed: int) -> float:
    """四个隐藏单元的 NADE 在异或上用 Adam 训练 100 步之后的期望 NLL（bit）。"""
    x = XOR.float()
    model = NADE(3, 4, torch.Generator().manual_seed(seed))
    solver = torch.optim.Adam(model.parameters(), lr=0.2)
    for _ in range(100):
        loss = -bernoulli_log_prob(model(x), x).mean()
        solver.zero_grad()
        loss.backward()
        solver.step()
    return loss.item() / math.log(2)


def test_NADE__bounds_xor_after_training() -> None:
    """四个隐藏单元训练之后，异或的期望 NLL 低于 2.05 bit；换个种子会停在 2.6887 bit 的平台上。"""
    assert 2 <= _trained_xor_bits(0) < 2.05
    # 平台：只认出 (0, 0)，其余三种输入同用概率 2/3
    plateau = 2 - (2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3)) * 3 / 4
    assert round(plateau, 4) == 2.6887
    assert plateau < _trained_xor_bits(1) < plateau + 0.01


def test_NADE__rejects_bad_sizes() -> None:
    """n 或 d 不是正整数时报错。"""
    for n, d, message in ((0, 3, "n 必须是"), (3, 0, "d 必须是")):
        with pytest.raises(ValueError, match=message):
            NADE(n, d)
