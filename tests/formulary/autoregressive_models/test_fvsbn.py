"""FVSBN：循环与矩阵两种写法、与逻辑斯谛回归的一致、参数计数。"""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from formulary.autoregressive_models.bernoulli import bernoulli_log_prob
from formulary.autoregressive_models.fvsbn import (
    FVSBN,
    fvsbn_logits,
    fvsbn_logits_by_loop,
    fvsbn_parameter_count,
    strictly_lower_mask,
)


def _parameters(n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(21)
    weight = torch.randn(n, n, dtype=torch.float64, generator=generator)
    return weight, torch.randn(n, dtype=torch.float64, generator=generator)


def _states(n: int) -> Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=n)), dtype=torch.float64)


def _logits_by_scalars(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """逐个标量照定义累加。"""
    rows = []
    for row in x.tolist():
        logits = []
        for i in range(len(row)):
            total = bias[i].item()
            for j in range(i):
                total += weight[i, j].item() * row[j]
            logits.append(total)
        rows.append(logits)
    return torch.tensor(rows, dtype=torch.float64)


def _conditionals_by_sklearn(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """把系数放进 sklearn 的 LogisticRegression，逐列问它取 1 的概率。"""
    columns = [torch.full((len(x),), 1 / (1 + math.exp(-bias[0].item())), dtype=torch.float64)]
    for i in range(1, x.shape[1]):
        model = LogisticRegression()
        model.classes_ = np.array([0, 1])
        model.coef_ = weight[i : i + 1, :i].numpy()
        model.intercept_ = bias[i : i + 1].numpy()
        columns.append(torch.from_numpy(model.predict_proba(x[:, :i].numpy())[:, 1]))
    return torch.stack(columns, dim=1)


def _bad_shapes() -> list[tuple[object, object, object, str]]:
    weight, bias = _parameters(3)
    x = torch.zeros(2, 3, dtype=torch.float64)
    return [
        (x[0], weight, bias, "x 的形状"),
        (x.long(), weight, bias, "x 必须是实浮点张量"),
        (x, weight[:2], bias, "weight 的形状"),
        (x, weight, bias[:2], "bias 的形状"),
        (x[:, :2], weight, bias, "weight 的形状"),
    ]


def test_strictly_lower_mask__matches_python_loop() -> None:
    """第 i 行第 j 列当且仅当 j < i 时为 1。"""
    for n in (1, 2, 5):
        mask = strictly_lower_mask(n, torch.float64)
        assert mask.dtype == torch.float64
        assert mask.tolist() == [[float(j < i) for j in range(n)] for i in range(n)]
    assert strictly_lower_mask(2).dtype == torch.float32


def test_strictly_lower_mask__equals_worked_example() -> None:
    """n = 5 时有 0 + 1 + 2 + 3 + 4 = 10 个 1，加上 5 个截距是 15 个参数。"""
    assert strictly_lower_mask(5).sum().item() == 10


def test_strictly_lower_mask__rejects_bad_count() -> None:
    """n 不是正整数时报错。"""
    for n in (0, 1.5):
        with pytest.raises(ValueError, match="n 必须是"):
            strictly_lower_mask(n)  # type: ignore[arg-type]


def test_fvsbn_logits_by_loop__matches_scalar_loop() -> None:
    """等于逐个标量照定义累加出的对数几率。"""
    weight, bias = _parameters(6)
    x = _states(6)[::5]
    torch.testing.assert_close(
        fvsbn_logits_by_loop(x, weight, bias), _logits_by_scalars(x, weight, bias)
    )


def test_fvsbn_logits_by_loop__matches_sklearn_conditionals() -> None:
    """每个条件概率等于系数相同的 sklearn LogisticRegression 给出的概率。"""
    weight, bias = _parameters(6)
    x = _states(6)
    actual = torch.sigmoid(fvsbn_logits_by_loop(x, weight, bias))
    torch.testing.assert_close(actual, _conditionals_by_sklearn(x, weight, bias))


def test_fvsbn_logits_by_loop__equals_worked_example() -> None:
    """n = 3，α_0 = (0, 1, −2)，α^(2) = (2)，α^(3) = (1, 3)，x = (1, 1, 0)。"""
    weight = torch.tensor([[0, 0, 0], [2, 0, 0], [1, 3, 0]], dtype=torch.float64)
    bias = torch.tensor([0.0, 1.0, -2.0], dtype=torch.float64)
    x = torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64)
    expected = torch.tensor([[0.0, 3.0, 2.0]], dtype=torch.float64)
    logits = fvsbn_logits_by_loop(x, weight, bias)
    torch.testing.assert_close(logits, expected)
    # 文中的手算一例：三个条件概率 0.5、0.9526、0.1192，乘积 0.0568，即 2.8687 nat
    probability = 0.5 / (1 + math.exp(-3)) / (1 + math.exp(2))
    assert round(probability, 4) == 0.0568
    nll = -bernoulli_log_prob(logits, x)
    torch.testing.assert_close(nll, torch.tensor([-math.log(probability)], dtype=torch.float64))
    assert round(nll.item(), 4) == 2.8687


def test_fvsbn_logits_by_loop__depends_only_on_earlier_variables() -> None:
    """第 i 个对数几率只随 x_1, …, x_(i−1) 变：雅可比矩阵严格下三角。"""
    weight, bias = _parameters(5)
    x = torch.rand(1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    jacobian = torch.autograd.functional.jacobian(
        lambda row: fvsbn_logits_by_loop(row, weight, bias)[0], x
    )[:, 0]
    torch.testing.assert_close(jacobian, weight.tril(-1))


def test_fvsbn_logits_by_loop__rejects_bad_shapes() -> None:
    """形状或类型对不上时报错并说出参数名。"""
    for x, weight, bias, message in _bad_shapes():
        with pytest.raises(ValueError, match=message):
            fvsbn_logits_by_loop(x, weight, bias)  # type: ignore[arg-type]


def test_fvsbn_logits__matches_readable() -> None:
    """值与梯度都和 fvsbn_logits_by_loop 相同；被掩掉的系数梯度恰为零。"""
    weight, bias = _parameters(7)
    x = _states(7)[::9]
    weight.requires_grad_()
    bias.requires_grad_()
    fast, slow = fvsbn_logits(x, weight, bias), fvsbn_logits_by_loop(x, weight, bias)
    torch.testing.assert_close(fast, slow)
    mix = torch.randn(fast.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    fast_gradients = torch.autograd.grad((fast * mix).sum(), (weight, bias))
    slow_gradients = torch.autograd.grad((slow * mix).sum(), (weight, bias))
    torch.testing.assert_close(fast_gradients, slow_gradients)
    assert (fast_gradients[0].triu() == 0).all()


def test_fvsbn_logits__matches_sklearn_conditionals() -> None:
    """每个条件概率等于系数相同的 sklearn LogisticRegression 给出的概率。"""
    weight, bias = _parameters(6)
    x = _states(6)
    actual = torch.sigmoid(fvsbn_logits(x, weight, bias))
    torch.testing.assert_close(actual, _conditionals_by_sklearn(x, weight, bias))


def test_fvsbn_logits__preserves_total_mass() -> None:
    """n = 10 的全部 1024 个状态概率之和是 1；掩码漏掉对角线就不是。"""
    weight, bias = _parameters(10)
    states = _states(10)
    one = torch.tensor(1.0, dtype=torch.float64)
    total = bernoulli_log_prob(fvsbn_logits(states, weight, bias), states).exp().sum()
    torch.testing.assert_close(total, one)
    leaky = states @ weight.tril().T + bias
    assert (bernoulli_log_prob(leaky, states).exp().sum() - one).abs() > 0.05


def test_fvsbn_logits__rejects_bad_shapes() -> None:
    """形状或类型对不上时报错并说出参数名。"""
    for x, weight, bias, message in _bad_shapes():
        with pytest.raises(ValueError, match=message):
            fvsbn_logits(x, weight, bias)  # type: ignore[arg-type]


def test_FVSBN__matches_sklearn_fit() -> None:
    """带 L2 惩罚训练之后，每个条件的系数与截距等于 sklearn 逐列拟合的结果。"""
    generator = torch.Generator().manual_seed(31)
    x = (torch.rand(200, 5, generator=generator) < 0.4).double()
    x[:, 3] = torch.where(torch.rand(200, generator=generator) < 0.8, x[:, 1], x[:, 3])
    model = FVSBN(5, dtype=torch.float64)
    solver = torch.optim.LBFGS(
        model.parameters(), max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        loss = -bernoulli_log_prob(model(x), x).sum() + model.weight.square().sum() / 2
        loss.backward()
        return loss

    solver.step(closure)
    for i in range(1, 5):
        fit = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000)
        fit.fit(x[:, :i].numpy(), x[:, i].numpy())
        # 两个优化器各停在梯度足够小处，系数的误差是停止阈值的量级
        torch.testing.assert_close(
            model.weight.detach()[i, :i], torch.from_numpy(fit.coef_[0]), rtol=0, atol=1e-4
        )
        torch.testing.assert_close(
            model.bias.detach()[i : i + 1], torch.from_numpy(fit.intercept_), rtol=0, atol=1e-4
        )


def test_FVSBN__equals_uniform_at_start() -> None:
    """参数全为零时每个条件都是 1/2，每个样本的对数似然是 −n ln 2；dtype 由参数决定。"""
    x = _states(4).float()
    logits = FVSBN(4)(x)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(bernoulli_log_prob(logits, x), torch.full((16,), -4 * math.log(2)))


def test_FVSBN__rejects_bad_count() -> None:
    """n 不是正整数时报错。"""
    with pytest.raises(ValueError, match="n 必须是"):
        FVSBN(0)


def test_fvsbn_parameter_count__matches_mask() -> None:
    """等于掩码里 1 的个数加截距的个数，也等于 1 + 2 + … + n。"""
    for n in range(1, 13):
        mask = sum(1 for i in range(n) for j in range(n) if j < i)
        assert fvsbn_parameter_count(n) == mask + n == sum(range(1, n + 1))


def test_fvsbn_parameter_count__equals_worked_example() -> None:
    """784 个像素是 307 720 个，64 个像素是 2080 个。"""
    assert fvsbn_parameter_count(784) == 307_720
    assert fvsbn_parameter_count(64) == 2080


def test_fvsbn_parameter_count__rejects_bad_count() -> None:
    """n 不是正整数时报错。"""
    with pytest.raises(ValueError, match="n 必须是"):
        fvsbn_parameter_count(0)
