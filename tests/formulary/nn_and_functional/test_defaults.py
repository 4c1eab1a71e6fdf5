"""训练开关默认值的检验：一边读签名，一边看行为。"""

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from formulary.nn_and_functional.defaults import training_defaults

IMAGE = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))


def _image(rank: int) -> Tensor:
    return IMAGE[0] if rank == 1 else IMAGE if rank == 2 else IMAGE[:, :, None]


RANDOM = {
    "dropout": lambda: F.dropout(IMAGE),
    "dropout1d": lambda: F.dropout1d(_image(1).repeat(1, 9, 1)),
    "dropout2d": lambda: F.dropout2d(_image(2).repeat(1, 9, 1, 1)),
    "dropout3d": lambda: F.dropout3d(_image(3).repeat(1, 9, 1, 1, 1)),
    "alpha_dropout": lambda: F.alpha_dropout(IMAGE),
    "feature_alpha_dropout": lambda: F.feature_alpha_dropout(_image(2)),
    "rrelu": lambda: F.rrelu(-IMAGE.abs()),
}


@pytest.mark.parametrize("name", RANDOM)
def test_training_defaults__matches_randomness(name: str) -> None:
    """不给开关各调用两次：默认在训练的两次结果不同，默认不在训练的两次相同。"""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = RANDOM[name](), RANDOM[name]()
    assert (not torch.equal(first, second)) == training_defaults()[name]


def test_training_defaults__matches_normalization() -> None:
    """不给开关时，F.batch_norm 用给它的统计，F.instance_norm 却用输入自己的。"""
    defaults = training_defaults()
    mean, var = torch.full((3,), 5.0), torch.full((3,), 4.0)
    given = (IMAGE - 5) / (4 + 1e-5) ** 0.5
    torch.testing.assert_close(F.batch_norm(IMAGE, mean.clone(), var.clone()), given)
    assert defaults["batch_norm"] is False
    own = F.instance_norm(IMAGE, mean.clone(), var.clone())
    torch.testing.assert_close(own.mean((2, 3)), torch.zeros(2, 3), atol=1e-6, rtol=0)  # float32
    assert defaults["instance_norm"] is True


def test_training_defaults__equals_table() -> None:
    """文中的式子：torch 2.13 里带开关的十个函数与它们的默认值，一个不多一个不少。"""
    on = {"dropout", "dropout1d", "dropout2d", "dropout3d"}
    on |= {"instance_norm", "multi_head_attention_forward"}
    off = {"alpha_dropout", "feature_alpha_dropout", "rrelu", "batch_norm"}
    assert training_defaults() == dict.fromkeys(on, True) | dict.fromkeys(off, False)


def test_training_defaults__differs_from_attention_without_flag() -> None:
    """F.scaled_dot_product_attention 没有开关：交给它 training 是 TypeError。"""
    assert "scaled_dot_product_attention" not in training_defaults()
    with pytest.raises(ValueError, match="no signature"):
        inspect.signature(F.scaled_dot_product_attention)
    with pytest.raises(TypeError, match="training"):
        F.scaled_dot_product_attention(IMAGE, IMAGE, IMAGE, dropout_p=0.5, training=False)
    with pytest.raises(RuntimeError, match="running_mean must be defined in evaluation mode"):
        F.batch_norm(IMAGE, None, None)
