"""Each activation's derivative, kinks and module agree with torch."""

import pickle

import pytest
import torch

from initguide import ACTIVATIONS, Activation, get_activation, mlp
from initguide.activations import leaky_relu

ENTRIES = [*ACTIVATIONS.values(), leaky_relu(0.2)]
every_activation = pytest.mark.parametrize("activation", ENTRIES, ids=lambda a: a.name)

GRID = torch.linspace(-8, 8, 1600, dtype=torch.float64)  # no whole number is on it


def autograd(activation: Activation, x: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(activation.function(x).sum(), x)[0]


@every_activation
def test_derivative_equals_autograd(activation):
    expected = autograd(activation, GRID)
    torch.testing.assert_close(activation.derivative(GRID), expected, rtol=1e-11, atol=1e-13)


@every_activation
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_derivative_keeps_dtype_and_stays_finite_far_out(activation, dtype):
    far = torch.tensor([-800.0, 800.0], dtype=dtype)
    slopes = activation.derivative(far)
    assert slopes.dtype == dtype and slopes.isfinite().all()
    torch.testing.assert_close(slopes, autograd(activation, far))


@every_activation
def test_kinks_are_where_the_derivative_jumps(activation):
    places = torch.arange(-32, 33, dtype=torch.float64) / 8
    epsilon = 1e-9  # a smooth derivative changes by no more than about that
    jump = (autograd(activation, places + epsilon) - autograd(activation, places - epsilon)).abs()
    assert tuple(places[jump > 1e-6].tolist()) == activation.kinks


@every_activation
def test_module_and_call_apply_the_function(activation):
    expected = activation.function(GRID)
    assert torch.equal(activation.module()(GRID), expected)
    assert torch.equal(activation(GRID), expected)
    assert activation.module() is not activation.module()


@every_activation
def test_models_with_it_can_be_sent_to_another_process(activation):
    model = mlp(2, 3, 1, activation=activation)
    x = torch.ones(4, 2)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), model(x))


def test_table_is_keyed_by_name():
    assert get_activation("identity") is get_activation("linear")
    assert get_activation("leaky_relu").derivative(torch.tensor(-1.0)) == pytest.approx(0.01)
    assert "erf" in repr(get_activation("erf").module())
    mine = Activation("square", "square", torch.square, lambda x: 2 * x)
    assert get_activation(mine) is mine


@pytest.mark.parametrize("name", ["Relu", "", None, ["relu"]])
def test_unknown_name_says_what_there_is(name):
    with pytest.raises(ValueError, match=r"unknown activation.*relu.*Activation") as error:
        get_activation(name)
    assert repr(name) in str(error.value)
