"""像素对的联合分布与互信息的检验。"""

import itertools
import math

import pytest
import torch
from sklearn.metrics import mutual_info_score
from torch import Tensor

from formulary.mnist_joint.mutual_information import mutual_information, pairwise_tables


def _samples(rows: int = 40, n: int = 5) -> Tensor:
    """逐列相关、疏密不一的二值样本。"""
    generator = torch.Generator().manual_seed(31)
    noise = torch.rand(rows, n, generator=generator)
    x = (noise < torch.tensor([0.3, 0.5, 0.7, 0.2, 0.6])).double()
    x[:, 3] = torch.where(noise[:, 4] < 0.8, x[:, 0], x[:, 3])
    return x


def test_pairwise_tables__matches_python_loop() -> None:
    """等于逐个样本数出来的四格表，平滑与不平滑都是。"""
    x = _samples()
    for alpha in (0.0, 0.7):
        actual = pairwise_tables(x, alpha)
        for i in range(5):
            for j in range(5):
                counts = [[alpha, alpha], [alpha, alpha]]
                if i == j:
                    counts = [[2 * alpha, 0.0], [0.0, 2 * alpha]]
                for row in x.tolist():
                    counts[int(row[i])][int(row[j])] += 1
                expected = torch.tensor(counts, dtype=torch.float64) / (40 + 4 * alpha)
                torch.testing.assert_close(actual[i, j], expected)


def test_pairwise_tables__preserves_marginals_across_pairs() -> None:
    """平滑之后，同一个像素在每一对里的边缘分布仍然相同。"""
    tables = pairwise_tables(_samples(), 0.7)
    first = tables.sum(dim=-1)
    torch.testing.assert_close(first, first[:, :1].expand_as(first))
    torch.testing.assert_close(tables, tables.permute(1, 0, 3, 2))


def test_pairwise_tables__matches_uniform_virtual_images() -> None:
    """平滑量 16 等于真的把全部 32 张图各添两次：每对的四格各得 16，对角的两格各得 32。"""
    x = _samples()
    every = torch.tensor(list(itertools.product((0, 1), repeat=5)) * 2, dtype=torch.float64)
    torch.testing.assert_close(pairwise_tables(x, 16.0), pairwise_tables(torch.cat((x, every))))


def test_pairwise_tables__rejects_bad_input() -> None:
    """不是二值、没有样本、负的平滑量都报错。"""
    for x, smoothing, message in (
        (torch.full((2, 3), 0.5), 0.0, "x 的元素"),
        (torch.zeros(0, 3), 0.0, "x 至少要有一个样本"),
        (torch.zeros(3), 0.0, "x 的形状"),
        (torch.zeros(2, 3), -1.0, "smoothing"),
        (torch.zeros(2, 3), math.nan, "smoothing"),
        (torch.zeros(2, 3), math.inf, "smoothing"),
    ):
        with pytest.raises(ValueError, match=message):
            pairwise_tables(x, smoothing)


def test_mutual_information__matches_sklearn() -> None:
    """与 scikit-learn 的 mutual_info_score 逐对相同，对角线也在内。"""
    x = _samples()
    expected = [[mutual_info_score(x[:, i], x[:, j]) for j in range(5)] for i in range(5)]
    torch.testing.assert_close(mutual_information(x), torch.tensor(expected, dtype=torch.float64))


def test_mutual_information__matches_duplicated_data_when_smoothed() -> None:
    """平滑等于真的添上虚拟样本：四种取值各添 α 个的两列数据，互信息相同。"""
    x = _samples()[:, :2]
    virtual = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]] * 3, dtype=torch.float64)
    expected = mutual_info_score(*torch.cat((x, virtual)).T)
    assert math.isclose(mutual_information(x, 3.0)[0, 1].item(), expected, rel_tol=1e-12)


def test_mutual_information__is_entropy_on_diagonal() -> None:
    """自己与自己的互信息就是熵，也是这一行里最大的。"""
    information = mutual_information(_samples())
    rates = [sum(column) / 40 for column in _samples().T.tolist()]
    entropies = [-p * math.log(p) - (1 - p) * math.log(1 - p) for p in rates]
    torch.testing.assert_close(information.diagonal(), torch.tensor(entropies, dtype=torch.float64))
    assert (information <= information.diagonal() + 1e-12).all()
    assert (information > -1e-12).all()


def test_mutual_information__equals_worked_example() -> None:
    """文中的手算例：四个样本，I(X1;X2) = log 2，I(X1;X3) = 0，I(X2;X3) = 0。"""
    x = torch.tensor([[0, 0, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1]], dtype=torch.float64)
    log2 = math.log(2)
    expected = torch.tensor([[log2, log2, 0], [log2, log2, 0], [0, 0, log2]], dtype=torch.float64)
    torch.testing.assert_close(mutual_information(x), expected)


def test_mutual_information__rejects_non_binary() -> None:
    """x 不是二值时报错。"""
    with pytest.raises(ValueError, match="x 的元素"):
        mutual_information(torch.full((2, 3), 2.0))
