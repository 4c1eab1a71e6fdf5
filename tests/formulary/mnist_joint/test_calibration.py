"""可靠性表、期望校准误差、重复证据与温度缩放的检验。"""

import math

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.datasets import load_digits
from torch import Tensor

from formulary.mnist_joint.calibration import (
    expected_calibration_error,
    reliability_table,
    repeated_log_joint,
    tempered_posterior,
)
from formulary.mnist_joint.naive_bayes import fit_counts, naive_bayes_log_joint


def _predictions(rows: int = 200) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(71)
    confidence = torch.rand(rows, dtype=torch.float64, generator=generator)
    return confidence, torch.rand(rows, generator=generator) < confidence**2


def _digits() -> list[tuple[Tensor, Tensor]]:
    data, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(data >= 8).double(), torch.tensor(labels)
    split = torch.from_numpy(np.random.RandomState(0).permutation(1797))
    return [(x[p], y[p]) for p in split.split([1200, 300, 297])]


def _loop(confidence: Tensor, correct: Tensor, bins: int) -> list[list[tuple[float, bool]]]:
    """逐个样本按 b/bins < 把握 ≤ (b + 1)/bins 放进箱里。"""
    boxes: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for value, right in zip(confidence.tolist(), correct.tolist(), strict=True):
        inside = [b for b in range(bins) if b / bins < value <= (b + 1) / bins]
        boxes[inside[0] if inside else 0].append((value, right))
    return boxes


def test_reliability_table__matches_python_loop() -> None:
    """与逐个样本分箱的结果相同；恰在分界上的、0 与 1 都在内。"""
    confidence, correct = _predictions()
    confidence[:6] = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0, 1.0], dtype=torch.float64)
    for bins in (1, 4, 7):
        counts, accuracy, mean = reliability_table(confidence, correct, bins)
        for b, box in enumerate(_loop(confidence, correct, bins)):
            assert counts[b] == len(box)
            assert math.isclose(accuracy[b].item(), sum(r for _, r in box) / len(box))
            assert math.isclose(mean[b].item(), sum(v for v, _ in box) / len(box))


def test_reliability_table__matches_sklearn() -> None:
    """没有样本恰在分界上时，与 scikit-learn 的 calibration_curve 相同。"""
    confidence, correct = _predictions()
    _, accuracy, mean = reliability_table(confidence, correct, 8)
    expected = calibration_curve(correct.numpy(), confidence.numpy(), n_bins=8)
    for found, wanted in zip((accuracy, mean), expected, strict=True):
        torch.testing.assert_close(found, torch.tensor(wanted))


def test_reliability_table__equals_worked_example() -> None:
    """文中的手算例：把握 0.55、0.95、0.95、1.0，两箱里各有什么。"""
    confidence = torch.tensor([0.55, 0.95, 0.95, 1.0], dtype=torch.float64)
    correct = torch.tensor([True, True, False, True])
    counts, accuracy, mean = reliability_table(confidence, correct, 10)
    assert counts.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 3]
    assert math.isclose(accuracy[9].item(), 2 / 3)
    assert math.isclose(mean[9].item(), 2.9 / 3)
    assert accuracy[5] == 1
    assert (accuracy[:5] == 0).all()


def test_reliability_table__rejects_bad_input() -> None:
    """把握不是概率、correct 不是同长布尔张量、箱数不是正整数都报错。"""
    confidence, correct = _predictions()
    for values, flags, bins, message in (
        (confidence + 1, correct, 10, "confidence 的元素"),
        (confidence[None], correct, 10, "confidence 的形状"),
        (confidence, correct.double(), 10, "correct"),
        (confidence, correct[1:], 10, "correct"),
        (confidence, correct, 0, "bins"),
    ):
        with pytest.raises(ValueError, match=message):
            reliability_table(values, flags, bins)  # type: ignore[arg-type]


def test_expected_calibration_error__matches_python_loop() -> None:
    """等于逐箱累加样本数乘以差的绝对值。"""
    confidence, correct = _predictions()
    for bins in (1, 5, 15):
        expected = sum(
            abs(sum(r for _, r in box) - sum(v for v, _ in box)) / 200
            for box in _loop(confidence, correct, bins)
        )
        actual = expected_calibration_error(confidence, correct, bins)
        torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_expected_calibration_error__equals_worked_example() -> None:
    """文中的手算例：(0.45 + 0.9) / 4 = 0.3375。"""
    confidence = torch.tensor([0.55, 0.95, 0.95, 1.0], dtype=torch.float64)
    correct = torch.tensor([True, True, False, True])
    actual = expected_calibration_error(confidence, correct)
    torch.testing.assert_close(actual, torch.tensor(0.3375, dtype=torch.float64))


def test_expected_calibration_error__bounds_overall_gap() -> None:
    """不小于总的把握与总的准确率之差（只有一箱时取等号），不大于 1。"""
    confidence, correct = _predictions()
    overall = (confidence.mean() - correct.double().mean()).abs()
    torch.testing.assert_close(expected_calibration_error(confidence, correct, 1), overall)
    for bins in (2, 10, 50):
        error = expected_calibration_error(confidence, correct, bins)
        assert overall - 1e-12 <= error <= 1  # 各箱同号时取等号，只差舍入


def test_expected_calibration_error__differs_from_floor_binning() -> None:
    """箱号取 floor(把握 × 箱数) 时，把握恰为 1 的样本落到箱外，误差就漏算了。"""
    confidence = torch.tensor([0.85] * 5 + [1.0] * 5, dtype=torch.float64)
    correct = torch.tensor([True] * 4 + [False] + [True] * 2 + [False] * 3)
    right = expected_calibration_error(confidence, correct)
    wrong = 0.0
    for b in range(10):
        box = (confidence >= b / 10) & (confidence < (b + 1) / 10)
        if box.any():
            gap = correct[box].double().mean() - confidence[box].mean()
            wrong += box.double().mean().item() * abs(gap.item())
    assert math.isclose(right.item(), 0.5 * 0.05 + 0.5 * 0.6)
    assert math.isclose(wrong, 0.5 * 0.05)


def test_expected_calibration_error__differs_from_extra_bin_for_full_confidence() -> None:
    """torchmetrics #3510：把握恰为 1 的样本另占一箱，0.475 算成了 0.525。"""
    confidence = torch.tensor([0.95, 1.0], dtype=torch.float64)
    correct = torch.tensor([True, False])
    right = expected_calibration_error(confidence, correct)
    edges = torch.linspace(0, 1, 11, dtype=torch.float64)
    boxes = torch.bucketize(confidence, edges, right=True) - 1
    assert boxes.tolist() == [9, 10]
    gaps = (correct.double() - confidence).abs()
    assert math.isclose(right.item(), 0.475)
    assert math.isclose(gaps.mean().item(), 0.525)  # 两个样本各占一箱


def test_expected_calibration_error__equals_digits_numbers() -> None:
    """digits 上的朴素贝叶斯：平均把握 0.949、准确率 0.902、ECE 0.050；单精度里 28 个恰为 1。"""
    (x, y), _, (x_test, y_test) = _digits()
    theta, prior = fit_counts(x, y, 10)
    log_joint = naive_bayes_log_joint(x_test, theta, prior)
    confidence, predicted = log_joint.softmax(dim=-1).max(dim=-1)
    correct = predicted == y_test
    assert round(confidence.mean().item(), 3) == 0.949
    assert round(correct.double().mean().item(), 3) == 0.902
    assert round(expected_calibration_error(confidence, correct).item(), 3) == 0.050
    assert reliability_table(confidence, correct)[0].tolist()[4:] == [3, 8, 9, 12, 17, 248]
    single = naive_bayes_log_joint(x_test.float(), theta.float(), prior.float())
    saturated = (single.softmax(dim=-1).max(dim=-1).values == 1).sum().item()
    assert 20 <= saturated <= 40  # 28，末位舍入可使个别样本进出
    assert (confidence < 1).all()


def test_expected_calibration_error__is_positive_for_calibrated_predictions() -> None:
    """把握与朴素贝叶斯一样、却完全校准的预测，297 个样本上 ECE 平均也有 0.022。"""
    (x, y), _, (x_test, _) = _digits()
    log_joint = naive_bayes_log_joint(x_test, *fit_counts(x, y, 10))
    confidence = log_joint.softmax(dim=-1).max(dim=-1).values
    generator = torch.Generator().manual_seed(0)
    errors = []
    for _ in range(200):
        draws = torch.rand(297, dtype=torch.float64, generator=generator)
        errors.append(expected_calibration_error(confidence, draws < confidence).item())
    # 标准差约 0.006，200 次平均的标准误约 0.0005，能看出 0.003 的偏差
    assert abs(np.mean(errors) - 0.0217) < 0.0025
    assert abs(np.quantile(errors, 0.95) - 0.033) < 0.005


def test_expected_calibration_error__rejects_no_samples() -> None:
    """一个样本也没有时报错。"""
    with pytest.raises(ValueError, match="confidence 至少要有一个样本"):
        expected_calibration_error(torch.ones(0), torch.ones(0, dtype=torch.bool))


def _model() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(72)
    theta = torch.rand(3, 4, dtype=torch.float64, generator=generator) * 0.9 + 0.05
    prior = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    return (torch.rand(6, 4, generator=generator) < 0.5).double(), theta, prior


def test_repeated_log_joint__matches_python_loop() -> None:
    """两边都等于逐个像素相加、每项算 copies 次。"""
    x, theta, prior = _model()
    expected = torch.zeros(6, 3, dtype=torch.float64)
    for row, image in enumerate(x.tolist()):
        for k in range(3):
            value = math.log(float(prior[k]))
            for i, pixel in enumerate(image):
                on = float(theta[k, i])
                for _ in range(5):
                    value += math.log(on if pixel else 1 - on)
            expected[row, k] = value
    for side in repeated_log_joint(x, theta, prior, 5):
        torch.testing.assert_close(side, expected)


def test_repeated_log_joint__equals_exercise() -> None:
    """练习三：一个像素给出 3:1，抄四份就成了 81:1，把握从 0.75 变成 0.988。"""
    theta = torch.tensor([[0.75], [0.25]], dtype=torch.float64)
    prior = torch.full((2,), 0.5, dtype=torch.float64)
    pixel = torch.ones(1, 1, dtype=torch.float64)
    for copies, odds in ((1, 3.0), (2, 9.0), (4, 81.0)):
        log_joint, _ = repeated_log_joint(pixel, theta, prior, copies)
        assert math.isclose((log_joint[0, 0] - log_joint[0, 1]).exp().item(), odds)
        assert math.isclose(log_joint.softmax(-1)[0, 0].item(), odds / (odds + 1))
    # 温度 4 正好还原
    tempered = tempered_posterior(log_joint, 4.0)[0, 0].item()
    assert math.isclose(tempered, 0.75)
    # 先验是 0.8 与 0.2 时一份的几率是 12:1，抄四份再除以温度 4 却得 3·√2:1
    skewed = torch.tensor([0.8, 0.2], dtype=torch.float64)
    posterior = tempered_posterior(repeated_log_joint(pixel, theta, skewed, 4)[0], 4.0)
    assert math.isclose((posterior[0, 0] / posterior[0, 1]).item(), 3 * 2**0.5)


def test_repeated_log_joint__rejects_bad_input() -> None:
    """份数不是正整数、先验含零都报错。"""
    x, theta, prior = _model()
    with pytest.raises(ValueError, match="copies"):
        repeated_log_joint(x, theta, prior, 0)
    with pytest.raises(ValueError, match="prior 的元素必须都是正数"):
        repeated_log_joint(x, theta, torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64), 2)


def test_tempered_posterior__matches_python_loop() -> None:
    """等于把概率开 T 次方再归一化。"""
    x, theta, prior = _model()
    log_joint = naive_bayes_log_joint(x, theta, prior)
    expected = []
    for row in log_joint.exp().tolist():
        powers = [p ** (1 / 2.5) for p in row]
        expected.append([p / sum(powers) for p in powers])
    actual = tempered_posterior(log_joint, 2.5)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_tempered_posterior__preserves_ranking() -> None:
    """温度不改变各类的名次；温度为 1 时就是后验，很高时趋于均匀。"""
    x, theta, prior = _model()
    log_joint = naive_bayes_log_joint(x, theta, prior)
    for temperature in (0.3, 1.0, 7.0):
        order = tempered_posterior(log_joint, temperature).argsort(dim=-1)
        assert torch.equal(order, log_joint.argsort(dim=-1))
    torch.testing.assert_close(tempered_posterior(log_joint, 1.0), log_joint.softmax(dim=-1))
    flat = tempered_posterior(log_joint, 1e9)
    # 对数联合概率的差不过十几 nat，除以 1e9 后与均匀分布相差 1e-8 量级
    torch.testing.assert_close(flat, torch.full_like(flat, 1 / 3), rtol=0, atol=1e-7)


def test_tempered_posterior__equals_digits_numbers() -> None:
    """温度在验证集上选出约 2.35，测试的条件 NLL 从 0.394 降到 0.312，ECE 0.039。"""
    train, (x_valid, y_valid), (x_test, y_test) = _digits()
    model = fit_counts(*train, 10)
    grid = [1 + 0.05 * step for step in range(80)]
    valid = naive_bayes_log_joint(x_valid, *model)
    losses = [torch.nn.functional.cross_entropy(valid / t, y_valid).item() for t in grid]
    best = grid[int(np.argmin(losses))]
    assert math.isclose(best, 2.35)
    posterior = tempered_posterior(naive_bayes_log_joint(x_test, *model), best)
    loss = -posterior.gather(1, y_test[:, None]).log().mean().item()
    confidence, predicted = posterior.max(dim=-1)
    assert round(loss, 3) == 0.312
    assert round(confidence.mean().item(), 3) == 0.864
    assert round(expected_calibration_error(confidence, predicted == y_test).item(), 3) == 0.039


def test_tempered_posterior__rejects_bad_temperature() -> None:
    """温度不是正数时报错。"""
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="temperature"):
            tempered_posterior(torch.zeros(2, 3), temperature)
