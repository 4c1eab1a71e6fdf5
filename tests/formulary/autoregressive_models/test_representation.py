"""NADE 的隐藏层作特征的检验。"""

import math

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from formulary.autoregressive_models.representation import nade_features


def _parameters(n: int, d: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(d, n, dtype=torch.float64, generator=generator)
    return weight, torch.randn(d, dtype=torch.float64, generator=generator)


def test_nade_features__matches_python_loop() -> None:
    """与逐个变量累加、再过 sigmoid 的标量循环相同。"""
    weight, bias = _parameters(5, 3)
    x = torch.tensor([[1, 0, 1, 1, 0], [0, 1, 1, 0, 1]], dtype=torch.float64)
    expected = []
    for row in x.tolist():
        hidden = bias.tolist()
        for j, bit in enumerate(row):
            hidden = [a + bit * w for a, w in zip(hidden, weight[:, j].tolist(), strict=True)]
        expected.append([1 / (1 + math.exp(-a)) for a in hidden])
    torch.testing.assert_close(
        nade_features(x, weight, bias), torch.tensor(expected, dtype=torch.float64)
    )


def test_nade_features__depends_only_on_ones() -> None:
    """全零的样本只剩偏置；改动最后一个变量，特征也会变。"""
    weight, bias = _parameters(5, 3)
    x = torch.zeros(1, 5, dtype=torch.float64)
    torch.testing.assert_close(nade_features(x, weight, bias)[0], torch.sigmoid(bias))
    x[0, -1] = 1
    torch.testing.assert_close(
        nade_features(x, weight, bias)[0], torch.sigmoid(bias + weight[:, -1])
    )


def test_nade_features__equals_hand_example() -> None:
    """W = (ln 3, −ln 3)、c = 0 时，样本 (1, 0) 的特征是 0.75，(1, 1) 的是 0.5。"""
    weight = torch.tensor([[math.log(3), -math.log(3)]], dtype=torch.float64)
    x = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    actual = nade_features(x, weight, torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(actual, torch.tensor([[0.75], [0.5]], dtype=torch.float64))


def test_nade_features__preserves_linear_information() -> None:
    """没有训练过的随机特征也能让线性探针认出多数数字：探针的分数要有基线可比。"""
    images = torch.tensor(load_digits().data >= 8, dtype=torch.float64)
    labels = load_digits().target
    weight, bias = _parameters(64, 128, seed=1)
    z = nade_features(images, weight / 4, bias).numpy()
    probe = LogisticRegression(max_iter=200).fit(z[:1200], labels[:1200])
    assert probe.score(z[1200:], labels[1200:]) > 0.8


def test_nade_features__rejects_bad_shapes() -> None:
    """三个参数的形状对不上时报错。"""
    x, weight, bias = torch.ones(2, 4), torch.ones(3, 4), torch.ones(3)
    for arguments, message in (
        ((x, weight[0], bias), "weight 的形状"),
        ((x[:, :3], weight, bias), "x 的形状"),
        ((x, weight, bias[:2]), "bias 的形状"),
        ((x.long(), weight, bias), "x 必须是实浮点张量"),
    ):
        with pytest.raises(ValueError, match=message):
            nade_features(*arguments)
