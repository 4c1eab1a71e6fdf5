"""对数里的贝叶斯公式、边缘概率与下溢的检验。"""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.special
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Independent, MixtureSameFamily

from formulary.mnist_joint.factorizations import independent_pixels_log_prob
from formulary.mnist_joint.inference import (
    class_posterior,
    log_sum_exp,
    naive_bayes_log_marginal,
    repeated_product,
)
from formulary.mnist_joint.naive_bayes import fit_counts, naive_bayes_log_joint

PICTURES = torch.tensor(
    [[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1], [0, 1, 1]], dtype=torch.float64
)
LABELS = torch.tensor([0, 0, 0, 0, 1, 1])


def _values() -> Tensor:
    values = torch.randn(4, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(15))
    return values * 400


def _model() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(16)
    theta = torch.rand(3, 8, dtype=torch.float64, generator=generator)
    prior = torch.rand(3, dtype=torch.float64, generator=generator) + 0.1
    return theta, prior / prior.sum()


def _all_pictures(pixels: int) -> Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=pixels)), dtype=torch.float64)


def test_log_sum_exp__matches_scipy() -> None:
    """与 scipy.special.logsumexp 相同，部分或整行是 -inf、含 +inf 时也如此。"""
    values = _values()
    values[0, 0, 2] = values[1, 1, 0] = -math.inf
    values[2, 2] = -math.inf
    values[3, 0, 1] = math.inf
    expected = torch.tensor(scipy.special.logsumexp(values.numpy(), axis=-1))
    assert expected[2, 2] == -math.inf
    assert expected[3, 0] == math.inf
    torch.testing.assert_close(log_sum_exp(values), expected)


def test_log_sum_exp__matches_torch_gradient() -> None:
    """对自变量的梯度是 softmax，最大值并列时也如此。"""
    values = torch.tensor([[3.0, 3.0, 1.0], [-800.0, 2.0, 0.5]], dtype=torch.float64)
    values.requires_grad_()
    (gradient,) = torch.autograd.grad(log_sum_exp(values).sum(), values)
    torch.testing.assert_close(gradient, torch.softmax(values.detach(), dim=-1))


def test_log_sum_exp__equals_worked_example() -> None:
    """两项都是 1000 时是 1000 + log 2；log(4/81) 与 log(1/32) 合起来是 log(209/2592)。"""
    actual = log_sum_exp(torch.tensor([1000.0, 1000.0], dtype=torch.float64))
    torch.testing.assert_close(actual, torch.tensor(1000 + math.log(2), dtype=torch.float64))
    values = torch.tensor([math.log(4 / 81), math.log(1 / 32)], dtype=torch.float64)
    expected = torch.tensor(math.log(209 / 2592), dtype=torch.float64)
    torch.testing.assert_close(log_sum_exp(values), expected)


def test_log_sum_exp__bounds_between_maximum_and_log_count() -> None:
    """不小于最大值，不大于最大值加上 log K。"""
    values = _values() / 400
    actual, largest = log_sum_exp(values), values.amax(-1)
    assert (actual >= largest).all()
    assert (actual <= largest + math.log(5)).all()


def test_log_sum_exp__differs_from_exponentiating_first() -> None:
    """先取指数再求和：−1000 附近全部下溢成 0，得到 -inf；1000 附近上溢成 inf。"""
    for centre, wrong in ((-1000.0, -math.inf), (1000.0, math.inf)):
        values = centre + torch.tensor([0.0, 1.0], dtype=torch.float64)
        assert values.exp().sum().log().item() == wrong
        expected = centre + math.log(1 + math.e)
        torch.testing.assert_close(log_sum_exp(values), torch.tensor(expected, dtype=torch.float64))


def test_log_sum_exp__rejects_bad_input() -> None:
    """不是浮点张量、没有元素或是标量时报错。"""
    for values in (torch.tensor([1, 2]), torch.ones(3, 0), torch.tensor(1.0)):
        with pytest.raises(ValueError, match="values"):
            log_sum_exp(values)


def test_class_posterior__matches_direct_division() -> None:
    """全部 2⁸ 张图：等于联合概率逐项相除。"""
    theta, prior = _model()
    x = _all_pictures(8)
    rows = []
    for picture in x.tolist():
        joint = []
        for k in range(3):
            value = prior[k].item()
            for i, pixel in enumerate(picture):
                value *= theta[k, i].item() if pixel else 1 - theta[k, i].item()
            joint.append(value)
        rows.append([value / sum(joint) for value in joint])
    actual = class_posterior(naive_bayes_log_joint(x, theta, prior))
    torch.testing.assert_close(actual, torch.tensor(rows, dtype=torch.float64))


def test_class_posterior__depends_only_on_differences() -> None:
    """一行里各类同加一个数，后验不变；每行的和为 1。"""
    scores = _values()[0] / 100
    shifted = class_posterior(scores + torch.tensor([[-900.0], [3.0], [700.0]]).double())
    torch.testing.assert_close(shifted, class_posterior(scores))
    torch.testing.assert_close(shifted.sum(-1), torch.ones(3, dtype=torch.float64))


def test_class_posterior__equals_worked_example() -> None:
    """图 (1, 0, 1) 加一平滑后的后验是 128/209 与 81/209；不平滑时第 1 类不可能。"""
    x = torch.tensor([[1.0, 0, 1]], dtype=torch.float64)
    actual = class_posterior(naive_bayes_log_joint(x, *fit_counts(PICTURES, LABELS, 2)))
    expected = torch.tensor([[128 / 209, 81 / 209]], dtype=torch.float64)
    torch.testing.assert_close(actual, expected)
    raw = naive_bayes_log_joint(x, *fit_counts(PICTURES, LABELS, 2, smoothing=0.0))
    assert class_posterior(raw).tolist() == [[1, 0]]


def test_class_posterior__equals_smoothing_exercise() -> None:
    """练习：图 (1, 0, 1) 属于第 0 类的概率先降后升，最低在 α = (√33 − 3)/2，最后回到 2/3。"""
    x = torch.tensor([[1.0, 0, 1]], dtype=torch.float64)

    def chance(smoothing: float) -> float:
        model = fit_counts(PICTURES, LABELS, 2, smoothing)
        return class_posterior(naive_bayes_log_joint(x, *model))[0, 0].item()

    lowest = (math.sqrt(33) - 3) / 2
    for alpha in (0.0, 1.0, lowest, 3.0):
        first = 2 / 3 * (3 + alpha) * (1 + alpha) ** 2 / (4 + 2 * alpha) ** 3
        second = 1 / 3 * alpha * (1 + alpha) * (2 + alpha) / (2 + 2 * alpha) ** 3
        assert math.isclose(chance(alpha), first / (first + second))
        odds = alpha * (2 + alpha) ** 4 / (2 * (1 + alpha) ** 4 * (3 + alpha))
        assert math.isclose(second / first, odds)
    rounded = [round(chance(alpha), 4) for alpha in (0.0, 1.0, lowest, 3.0)]
    assert rounded == [1.0, 0.6124, 0.6095, 0.621]
    grid = [chance(lowest * step / 50) for step in range(151)]  # 最低点的 0 到 3 倍
    assert all(a > b for a, b in itertools.pairwise(grid[:51]))
    assert all(a < b for a, b in itertools.pairwise(grid[50:]))
    assert math.isclose(chance(1e9), 2 / 3, rel_tol=1e-8)


def test_class_posterior__equals_duplicated_pixels_exercise() -> None:
    """练习：把三个像素各抄 m 份，第 0 类的概率是 2r^m/(2r^m + 1)，r = 64/81；第 3 份时改判。"""
    theta, prior = fit_counts(PICTURES, LABELS, 2)
    x = torch.tensor([[1.0, 0, 1]], dtype=torch.float64)
    found = []
    for copies in (1, 2, 3):
        scores = naive_bayes_log_joint(x.repeat(1, copies), theta.repeat(1, copies), prior)
        chance = class_posterior(scores)[0, 0].item()
        odds = 2 * (64 / 81) ** copies
        assert math.isclose(chance, odds / (1 + odds))
        found.append(round(chance, 4))
    assert found == [0.6124, 0.5553, 0.4966]


def test_class_posterior__differs_from_normalizing_over_batch() -> None:
    """沿批量那一轴归一化，形状一样，每张图的和却不是 1。"""
    theta, prior = _model()
    scores = naive_bayes_log_joint(_all_pictures(8)[100:105], theta, prior)
    wrong = torch.softmax(scores, dim=0)
    right = class_posterior(scores)
    assert wrong.shape == right.shape
    assert (wrong.sum(-1) - 1).abs().min() > 0.1
    torch.testing.assert_close(right.sum(-1), torch.ones(5, dtype=torch.float64))


def test_class_posterior__rejects_impossible_pictures() -> None:
    """一行全是 -inf，或含 NaN、inf 时报错，不给出 NaN。"""
    impossible = torch.tensor([[0.0, 1.0], [-math.inf, -math.inf]])
    with pytest.raises(ValueError, match="后验没有定义"):
        class_posterior(impossible)
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="log_joint 的元素必须小于 inf"):
            class_posterior(torch.tensor([[0.0, bad]]))


def test_naive_bayes_log_marginal__matches_mixture_distribution() -> None:
    """与 torch.distributions 的伯努利混合分布相同。"""
    theta, prior = _model()
    x = _all_pictures(8)
    mixture = MixtureSameFamily(Categorical(prior), Independent(Bernoulli(theta), 1))
    torch.testing.assert_close(naive_bayes_log_marginal(x, theta, prior), mixture.log_prob(x))


def test_naive_bayes_log_marginal__is_normalized() -> None:
    """全部 2⁸ 张图的概率之和为 1。"""
    total = naive_bayes_log_marginal(_all_pictures(8), *_model()).exp().sum()
    torch.testing.assert_close(total, torch.tensor(1.0, dtype=torch.float64))


def test_naive_bayes_log_marginal__equals_worked_example() -> None:
    """图 (1, 0, 1) 的边缘概率是 4/81 + 1/32 = 209/2592。"""
    x = torch.tensor([[1.0, 0, 1]], dtype=torch.float64)
    actual = naive_bayes_log_marginal(x, *fit_counts(PICTURES, LABELS, 2))
    expected = torch.tensor([math.log(209 / 2592)], dtype=torch.float64)
    torch.testing.assert_close(actual, expected)


def test_naive_bayes_log_marginal__differs_from_independent_pixels() -> None:
    """给定类别时像素独立，去掉类别之后就不独立了：混合分布不等于边缘概率的连乘。"""
    theta, prior = _model()
    x = _all_pictures(8)
    mean = prior @ theta
    independent = torch.where(x == 1, mean, 1 - mean).log().sum(-1)
    marginal = naive_bayes_log_marginal(x, theta, prior)
    for i in range(8):  # 单个像素的边缘概率是一样的
        on = (marginal.exp() * x[:, i]).sum()
        torch.testing.assert_close(on, mean[i])
    assert (marginal - independent).abs().max() > 1


def test_naive_bayes_log_marginal__equals_digits_results() -> None:
    """digits 测试集：准确率 268/297，联合、边缘与条件 NLL 在正文所列的数值附近，且满足链式法则。"""
    digits = load_digits()
    order = np.random.RandomState(0).permutation(1797)
    x = torch.tensor((digits.data >= 8).astype(float))
    y = torch.tensor(digits.target)
    train, test = order[:1200], order[1500:]
    model = fit_counts(x[train], y[train], 10)
    scores = naive_bayes_log_joint(x[test], *model)
    marginal = -naive_bayes_log_marginal(x[test], *model).mean().item()
    joint = -scores[torch.arange(297), y[test]].mean().item()
    posterior = class_posterior(scores)[torch.arange(297), y[test]]
    conditional = -posterior.log().mean().item()
    assert int((scores.argmax(1) == y[test]).sum()) == 268
    theta, _ = fit_counts(x[train], torch.zeros(1200, dtype=torch.int64), 1)
    independent = -independent_pixels_log_prob(x[test], theta[0]).mean().item()
    assert 25.2 < independent < 25.26
    assert 20.45 < joint < 20.55
    assert 20.05 < marginal < 20.15
    assert 0.39 < conditional < 0.40
    assert math.isclose(joint, marginal + conditional, rel_tol=1e-12)


def test_naive_bayes_log_marginal__rejects_gray_pictures() -> None:
    """图像不是二值时报错。"""
    theta, prior = _model()
    with pytest.raises(ValueError, match="x 的元素只能是 0 或 1"):
        naive_bayes_log_marginal(torch.full((1, 8), 0.5, dtype=torch.float64), theta, prior)


def test_repeated_product__matches_exact_fraction() -> None:
    """float64 的结果等于用分数精确算出再舍入的值；二分之一的幂逐位相同。"""
    assert repeated_product(0.5, 784, torch.float64).item() == float(Fraction(1, 2) ** 784)
    assert repeated_product(0.5, 1100, torch.float64).item() == float(Fraction(1, 2) ** 1100) == 0
    exact = Fraction(0.3) ** 500
    actual = repeated_product(0.3, 500, torch.float64)
    # 连乘 500 次，每次舍入不过半个末位
    torch.testing.assert_close(
        actual, torch.tensor(float(exact), dtype=torch.float64), rtol=500 * 2**-53, atol=0
    )


def test_repeated_product__matches_numpy_float32() -> None:
    """float32 的结果与 NumPy 在 float32 里逐次相乘相同。"""
    for count in (10, 120, 784):
        value = np.float32(1.0)
        for _ in range(count):
            value = np.float32(value * np.float32(0.5))
        assert repeated_product(0.5, count).item() == float(value)


def test_repeated_product__limit_of_each_dtype() -> None:
    """二分之一连乘：float32 在第 150 次变成 0，float64 在第 1075 次；784 次在 float64 里不是 0。"""
    for dtype, last in ((torch.float32, 149), (torch.float64, 1074)):
        assert repeated_product(0.5, last, dtype) > 0
        assert repeated_product(0.5, last + 1, dtype) == 0
    value = repeated_product(0.5, 784, torch.float64).item()
    assert f"{value:.2e}" == "9.83e-237"
    assert repeated_product(0.5, 784, torch.float32) == 0


def test_repeated_product__equals_certain_factors() -> None:
    """因子是 1 时结果是 1，因子是 0 时结果是 0。"""
    assert repeated_product(1.0, 784).item() == 1
    assert repeated_product(0.0, 3).item() == 0


def test_repeated_product__rejects_bad_input() -> None:
    """不是概率、次数为零或整数类型时报错。"""
    for factor in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match="factor 必须"):
            repeated_product(factor, 3)
    with pytest.raises(ValueError, match="count 必须"):
        repeated_product(0.5, 0)
    with pytest.raises(ValueError, match="dtype 必须"):
        repeated_product(0.5, 3, torch.int64)
