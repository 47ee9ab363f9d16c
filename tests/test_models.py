"""The networks have the layers that their names promise."""

import math

import pytest
import torch
from torch import nn

from initguide import ACTIVATIONS, logistic_regression, mlp


def test_logistic_regression_is_the_logistic_function_of_a_line():
    model = logistic_regression(3)
    x = torch.tensor([[1.0, 2.0, 3.0]])
    with torch.no_grad():
        model.linear.weight[:] = torch.tensor([0.5, -1.0, 0.25])
        model.linear.bias[:] = 2.0
    assert model(x).item() == pytest.approx(1 / (1 + math.exp(-(0.5 - 2.0 + 0.75 + 2.0))))
    assert model(x).shape == (1, 1)


def test_mlp_computes_what_its_layers_say():
    model = mlp(6, 5, 4, 3, activation="tanh")
    x = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(0))
    h = torch.tanh(model.hidden1(x.reshape(7, 6)))
    torch.testing.assert_close(model(x), model.output(torch.tanh(model.hidden2(h))))
    assert [tuple(p.shape) for p in model.parameters()] == [
        (5, 6),
        (5,),
        (4, 5),
        (4,),
        (3, 4),
        (3,),
    ]


def test_mlp_names_its_layers_in_order():
    model = mlp(4, 3, 2, 1, activation="gelu", dropout=0.3, batch_norm=True)
    kinds = {name: type(layer) for name, layer in model.named_children()}
    assert list(kinds.items()) == [
        ("flatten", nn.Flatten),
        ("hidden1", nn.Linear),
        ("norm1", nn.BatchNorm1d),
        ("activation1", nn.GELU),
        ("dropout1", nn.Dropout),
        ("hidden2", nn.Linear),
        ("norm2", nn.BatchNorm1d),
        ("activation2", nn.GELU),
        ("dropout2", nn.Dropout),
        ("output", nn.Linear),
    ]
    assert model.dropout2.p == 0.3


def test_mlp_without_hidden_layers_is_linear():
    assert [name for name, _ in mlp(4, 2).named_children()] == ["flatten", "output"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_makes_a_network(activation):
    assert mlp(4, 3, 2, activation=activation)(torch.zeros(5, 4)).shape == (5, 2)


@pytest.mark.parametrize("widths", [(), (3,), (3, 0, 2), (3, -1)])
def test_impossible_widths(widths):
    with pytest.raises(ValueError, match="at least two positive") as error:
        mlp(*widths)
    assert str(widths) in str(error.value) and "mlp(784, 100, 10)" in str(error.value)


def test_unknown_activation():
    with pytest.raises(ValueError, match="unknown activation 'rleu'"):
        mlp(3, 2, 1, activation="rleu")
