"""缺失像素的后验与补全的检验：都与穷举所有补全对照。"""

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from formulary.mnist_joint.missing import (
    impute_probabilities,
    observed_log_joint,
    posterior_given_observed,
    require_observed,
    zero_fill_bias,
    zero_fill_log_joint,
)
from formulary.mnist_joint.naive_bayes import (
    fit_counts,
    naive_bayes_log_joint,
    naive_bayes_log_joint_fast,
)


def _model(classes: int = 3, n: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(11)
    theta = torch.rand(classes, n, dtype=torch.float64, generator=generator) * 0.9 + 0.05
    prior = torch.rand(classes, dtype=torch.float64, generator=generator) + 0.1
    return theta, prior / prior.sum()


def _images(rows: int = 5, n: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(12)
    x = (torch.rand(rows, n, generator=generator) < 0.5).double()
    observed = torch.rand(rows, n, generator=generator) < 0.5
    observed[0], observed[1] = True, False  # 全看到与全没看到也在内
    return x, observed


def _joint(pixels: tuple[int, ...], theta: list[list[float]], prior: list[float], k: int) -> float:
    """一种补全的 p(x, y = k)，逐个标量相乘。"""
    value = prior[k]
    for on, pixel in zip(theta[k], pixels, strict=True):
        value *= on if pixel else 1 - on
    return value


def _enumerated(x: Tensor, observed: Tensor, theta: Tensor, prior: Tensor) -> Tensor:
    """p(x_O, y = k)：在全部 2^n 张图里，把与观测相符的加起来。"""
    result = torch.zeros(len(x), len(theta), dtype=torch.float64).tolist()
    tables = theta.tolist(), prior.tolist()
    for row, (image, seen) in enumerate(zip(x.tolist(), observed.tolist(), strict=True)):
        for pixels in itertools.product((0, 1), repeat=x.shape[1]):
            if all(p == v for p, v, s in zip(pixels, image, seen, strict=True) if s):
                for k in range(len(theta)):
                    result[row][k] += _joint(pixels, *tables, k)
    return torch.tensor(result, dtype=torch.float64)


@functools.cache
def _digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """二值化的 digits：1200 张训练、297 张测试。"""
    data, labels = load_digits(return_X_y=True)
    split = np.random.RandomState(0).permutation(1797)
    x, y = torch.tensor(data >= 8).double(), torch.tensor(labels)
    return x[split[:1200]], y[split[:1200]], x[split[1500:]], y[split[1500:]]


def test_require_observed__rejects_wrong_dtype_and_shape() -> None:
    """不是布尔张量、形状不合都报错并指出 observed。"""
    require_observed(torch.ones(2, 3, dtype=torch.bool), 2, 3)
    for bad in (torch.ones(2, 3), [[True]], torch.ones(3, 2, dtype=torch.bool)):
        with pytest.raises(ValueError, match="observed"):
            require_observed(bad, 2, 3)  # type: ignore[arg-type]


def test_observed_log_joint__matches_enumeration() -> None:
    """等于对全部 2^7 张图里与观测相符的那些求和。"""
    (x, observed), model = _images(), _model()
    actual = observed_log_joint(x, observed, *model)
    torch.testing.assert_close(actual, _enumerated(x, observed, *model).log())


def test_observed_log_joint__is_full_joint_without_missing() -> None:
    """一个像素也不缺时就是朴素贝叶斯的对数联合概率，参数含 0 与 1 也如此。"""
    (x, observed), (theta, prior) = _images(), _model()
    theta[0, 0], theta[1, 1] = 0.0, 1.0
    seen = torch.ones_like(observed)
    expected = naive_bayes_log_joint(x, theta, prior)
    torch.testing.assert_close(observed_log_joint(x, seen, theta, prior), expected)


def test_observed_log_joint__depends_only_on_observed_pixels() -> None:
    """把未观测处的值全翻过来，结果逐位不变；θ 在那里是 0 或 1 也不出 NaN。"""
    (x, observed), (theta, prior) = _images(), _model()
    flipped = torch.where(observed, x, 1 - x)
    before = observed_log_joint(x, observed, theta, prior)
    assert torch.equal(observed_log_joint(flipped, observed, theta, prior), before)
    theta[:, 0] = 0.0
    hidden = observed.clone()
    hidden[:, 0] = False
    assert observed_log_joint(x, hidden, theta, prior).isfinite().all()


def test_observed_log_joint__rejects_bad_input() -> None:
    """x 不是二值、theta 不是概率、prior 不是分布、observed 不是同形布尔张量都报错。"""
    (x, observed), (theta, prior) = _images(), _model()
    cases: list[tuple[object, ...]] = [
        (x + 0.5, observed, theta, prior, "x 的元素"),
        (x[:, 1:], observed, theta, prior, "x 的形状"),
        (x, observed.double(), theta, prior, "observed 必须是布尔张量"),
        (x, observed[1:], theta, prior, "observed 的形状"),
        (x, observed, theta + 1, prior, "theta 的元素"),
        (x, observed, theta, prior * 2, "prior"),
    ]
    for *arguments, message in cases:
        with pytest.raises(ValueError, match=str(message)):
            observed_log_joint(*arguments)  # type: ignore[arg-type]


def test_posterior_given_observed__matches_enumeration() -> None:
    """等于穷举补全、求和、再对类别归一化。"""
    (x, observed), model = _images(), _model()
    joint = _enumerated(x, observed, *model)
    actual = posterior_given_observed(x, observed, *model)
    torch.testing.assert_close(actual, joint / joint.sum(dim=-1, keepdim=True))


def test_posterior_given_observed__limit_nothing_observed() -> None:
    """一个像素也没看到时，后验就是先验。"""
    (x, observed), (theta, prior) = _images(), _model()
    actual = posterior_given_observed(x, torch.zeros_like(observed), theta, prior)
    torch.testing.assert_close(actual, prior.expand(len(x), -1))


def test_posterior_given_observed__equals_worked_example() -> None:
    """文中的手算例：只看到第一个像素时 2/3 与 1/3；第三个像素也看到时 16/17 与 1/17。"""
    theta = torch.tensor([[0.5, 0.1, 0.8], [0.25, 0.9, 0.1]], dtype=torch.float64)
    prior = torch.full((2,), 0.5, dtype=torch.float64)
    x = torch.tensor([[1.0, 0.0, 1.0]] * 3, dtype=torch.float64)
    observed = torch.tensor([[True, False, False], [True, False, True], [True, True, True]])
    expected = torch.tensor([[2 / 3, 1 / 3], [16 / 17, 1 / 17], [144 / 145, 1 / 145]])
    actual = posterior_given_observed(x, observed, theta, prior)
    torch.testing.assert_close(actual, expected.double(), rtol=1e-7, atol=0)  # 分数存成了 float32


def test_posterior_given_observed__differs_from_zero_filling() -> None:
    """digits 上随机缺一半像素：求和消去的准确率在 0.80 上下，填零的只有 0.60 上下。"""
    x, y, x_test, y_test = _digits()
    model = fit_counts(x, y, 10)
    bands = {0.25: (0.86, 0.79), 0.5: (0.80, 0.605), 0.75: (0.625, 0.345), 0.9: (0.375, 0.20)}
    for missing, expected in bands.items():
        scores = []
        for seed in range(5):
            generator = torch.Generator().manual_seed(seed)
            observed = torch.rand(x_test.shape, generator=generator) >= missing
            right = posterior_given_observed(x_test, observed, *model).argmax(-1) == y_test
            filled = naive_bayes_log_joint_fast(x_test * observed, *model).argmax(-1) == y_test
            scores.append((right.double().mean().item(), filled.double().mean().item()))
        for found, wanted in zip(np.mean(scores, axis=0), expected, strict=True):
            assert abs(found - wanted) < 0.035  # 一组掩码的标准差约 0.02
        gap = np.mean([a - b for a, b in scores])
        assert gap > (0.05 if missing == 0.25 else 0.12)


def test_posterior_given_observed__rejects_impossible_observation() -> None:
    """观测到的像素在每一类里概率都是 0 时，后验没有定义，报错。"""
    (x, observed), (theta, prior) = _images(), _model()
    theta[:, 2] = 1 - x[0, 2]
    with pytest.raises(ValueError, match="后验没有定义"):
        posterior_given_observed(x, torch.ones_like(observed), theta, prior)


def test_impute_probabilities__matches_enumeration() -> None:
    """等于在与观测相符的图里，像素为 1 的那些占的概率。"""
    (x, observed), (theta, prior) = _images(), _model()
    expected, tables = x.clone(), (theta.tolist(), prior.tolist())
    for row, (image, seen) in enumerate(zip(x.tolist(), observed.tolist(), strict=True)):
        for j in range(x.shape[1]):
            if seen[j]:
                continue
            weight = [0.0, 0.0]
            for pixels in itertools.product((0, 1), repeat=x.shape[1]):
                if all(p == v for p, v, s in zip(pixels, image, seen, strict=True) if s):
                    total = sum(_joint(pixels, *tables, k) for k in range(len(theta)))
                    weight[pixels[j]] += total
            expected[row, j] = weight[1] / (weight[0] + weight[1])
    torch.testing.assert_close(impute_probabilities(x, observed, theta, prior), expected)


def test_impute_probabilities__limit_nothing_observed() -> None:
    """什么也没看到时，补全是先验平均的像素概率；全看到时原样返回。"""
    (x, observed), (theta, prior) = _images(), _model()
    nothing = impute_probabilities(x, torch.zeros_like(observed), theta, prior)
    mean = sum(float(p) * row for p, row in zip(prior, theta, strict=True))
    torch.testing.assert_close(nothing, mean.expand(len(x), -1))
    assert torch.equal(impute_probabilities(x, torch.ones_like(observed), theta, prior), x)


def test_impute_probabilities__equals_worked_example() -> None:
    """文中的手算例：后验 16/17 与 1/17，第二个像素为 1 的概率是 5/34。"""
    theta = torch.tensor([[0.5, 0.1, 0.8], [0.25, 0.9, 0.1]], dtype=torch.float64)
    prior = torch.full((2,), 0.5, dtype=torch.float64)
    x = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
    observed = torch.tensor([[True, False, True]])
    actual = impute_probabilities(x, observed, theta, prior)
    assert math.isclose(actual[0, 1].item(), 5 / 34)


def test_impute_probabilities__rejects_bad_mask() -> None:
    """observed 不是布尔张量时报错并指出参数名。"""
    (x, observed), model = _images(), _model()
    with pytest.raises(ValueError, match="observed 必须是布尔张量"):
        impute_probabilities(x, observed.double(), *model)


def test_zero_fill_bias__matches_python_loop() -> None:
    """等于逐个未观测像素把 log(1 − θ) 相加。"""
    (_, observed), (theta, _) = _images(), _model()
    expected = [
        [
            sum(math.log(1 - float(theta[k, j])) for j in range(7) if not seen[j])
            for k in range(len(theta))
        ]
        for seen in observed.tolist()
    ]
    actual = zero_fill_bias(observed, theta)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_zero_fill_bias__bounds_from_above_by_zero() -> None:
    """填零只会压低联合概率；没有缺失时偏差为零。"""
    (_, observed), (theta, _) = _images(), _model()
    assert (zero_fill_bias(observed, theta) <= 0).all()
    assert (zero_fill_bias(torch.ones_like(observed), theta) == 0).all()
    assert (zero_fill_bias(~observed, theta)[0] < 0).all()


def test_zero_fill_bias__rejects_bad_input() -> None:
    """theta 不是概率、observed 不是布尔张量或列数不合都报错。"""
    (_, observed), (theta, _) = _images(), _model()
    for mask, probabilities, message in (
        (observed, theta * 2, "theta"),
        (observed.double(), theta, "observed"),
        (observed[:, 1:], theta, "observed"),
    ):
        with pytest.raises(ValueError, match=message):
            zero_fill_bias(mask, probabilities)  # type: ignore[arg-type]


def test_zero_fill_log_joint__matches_enumeration() -> None:
    """两边都等于逐个标量算出的 p(x_O, x_U = 0, y = k)。"""
    (x, observed), (theta, prior) = _images(), _model()
    filled = [
        tuple(int(v and s) for v, s in zip(image, seen, strict=True))
        for image, seen in zip(x.tolist(), observed.tolist(), strict=True)
    ]
    expected = torch.tensor(
        [
            [_joint(row, theta.tolist(), prior.tolist(), k) for k in range(len(theta))]
            for row in filled
        ],
        dtype=torch.float64,
    ).log()
    for side in zero_fill_log_joint(x, observed, theta, prior):
        torch.testing.assert_close(side, expected)


def test_zero_fill_log_joint__equals_worked_example() -> None:
    """文中的手算例：填零的联合概率是 0.045 与 0.01125，后验从 2/3 变成 0.8。"""
    theta = torch.tensor([[0.5, 0.1, 0.8], [0.25, 0.9, 0.1]], dtype=torch.float64)
    prior = torch.full((2,), 0.5, dtype=torch.float64)
    x = torch.ones(1, 3, dtype=torch.float64)
    observed = torch.tensor([[True, False, False]])
    for side in zero_fill_log_joint(x, observed, theta, prior):
        expected = torch.tensor([[0.045, 0.01125]], dtype=torch.float64)
        torch.testing.assert_close(side.exp(), expected)
        assert math.isclose(side.softmax(dim=-1)[0, 0].item(), 0.8)


def test_zero_fill_log_joint__is_biased_towards_light_classes() -> None:
    """digits 缺 90% 时填零，预测的四分之三挤在偏差绝对值最小的 7 与 9 两类。"""
    x, y, x_test, _ = _digits()
    theta, prior = fit_counts(x, y, 10)
    observed = torch.rand(x_test.shape, generator=torch.Generator().manual_seed(0)) >= 0.9
    filled, split = zero_fill_log_joint(x_test, observed, theta, prior)
    torch.testing.assert_close(filled, split)
    counts = torch.bincount(filled.argmax(dim=-1), minlength=10)
    assert counts[7] + counts[9] > 0.7 * len(x_test)
    assert counts[0] == 0
    everything = zero_fill_bias(torch.zeros(1, 64, dtype=torch.bool), theta)[0]
    assert set(everything.topk(2).indices.tolist()) == {7, 9}
    torch.testing.assert_close(
        everything[[7, 9, 0]].round(decimals=1),
        torch.tensor([-40.9, -41.0, -54.2], dtype=torch.float64),
    )


def test_zero_fill_log_joint__rejects_bad_mask() -> None:
    """observed 形状不合时报错并指出参数名。"""
    (x, observed), model = _images(), _model()
    with pytest.raises(ValueError, match="observed 的形状"):
        zero_fill_log_joint(x, observed[:, 1:], *model)
