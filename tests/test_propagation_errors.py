"""What probe cannot measure, it refuses with the next step, and leaves the model as it was."""

import numpy as np
import pytest
import torch
from probing import names, no_trace, quantity
from torch import nn

from initguide import mlp
from initguide.propagation import probe


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(), "Sequential has no layer to measure: expected .* Register layers"),
        (nn.Sequential(nn.LazyLinear(3)), "'0.weight' has no memory yet.*Run one batch"),
        (nn.LazyBatchNorm1d(affine=False), "'running_mean' has no memory.*Run one batch"),
        (nn.Linear(4, 4, device="meta"), "'weight' has no memory.*to_empty"),
        (nn.BatchNorm1d(4, affine=False, device="meta"), "'running_mean' has no memory.*to_empty"),
    ],
)
def test_models_that_cannot_be_measured(model, words):
    with pytest.raises(ValueError, match=words):
        probe(model, torch.randn(3, 4))


def test_layers_that_are_hidden():
    class Hidden(nn.Module):
        def forward(self, x):
            return x.argmax(-1)

    with pytest.raises(ValueError, match="Hidden has no layer"):
        probe(Hidden(), torch.randn(3, 4))


@pytest.mark.parametrize(
    "batch", [np.zeros((3, 4), np.float32), None, "data", iter([torch.ones(3, 4)])]
)
def test_batches_of_a_wrong_type(batch):
    model = mlp(4, 4)
    words = f"batch is of type {type(batch).__name__}: expected a tensor.*next.iter.loader"
    with no_trace(model), pytest.raises(TypeError, match=words):
        probe(model, batch)


def packed():
    return nn.utils.rnn.pack_sequence([torch.randn(4, 3), torch.randn(2, 3)])


def test_a_packed_sequence_might_be_one_argument_or_several():
    with pytest.raises(TypeError, match="PackedSequence"):
        probe(nn.LSTM(3, 5), packed())


def test_a_packed_sequence_in_a_tuple_is_one_argument():
    model, batch = nn.LSTM(3, 5), packed()
    measured = quantity(probe(model, (batch,)), "LSTM[0][0]", "mean")
    assert measured == pytest.approx(model(batch)[0].data.mean().item(), rel=1e-6)


def test_targets_in_the_batch_by_position():
    with pytest.raises(TypeError, match="3 were given") as caught:
        probe(mlp(4, 4), [torch.ones(3, 4), torch.ones(3)])
    assert "2 positional inputs" in caught.value.__notes__[0]


def test_targets_in_the_batch_by_keyword():
    with pytest.raises(TypeError) as caught:
        probe(mlp(4, 4), {"x": torch.ones(3, 4), "y": torch.ones(3)})
    assert "keywords ['x', 'y']: leave out targets" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda out: out.sum().item(), "type float: expected a scalar tensor.*leave out .item"),
        (lambda out: None, "type NoneType: expected a scalar"),
        (lambda out: out.sum().backward(), "NoneType.*leave out .* and .backward"),
        (lambda out: out.square(), r"shape \(3, 4\): expected a scalar.*reduction='mean'"),
        (lambda out: out[:0], r"shape \(0, 4\): expected a scalar"),
        (lambda out: out.detach().sum(), "no gradient .* 2 trainable parameters: .*Take out"),
        (lambda out: out.argmax(-1).sum(), "no gradient"),
        (lambda out: torch.ones((), requires_grad=True), "no gradient"),
    ],
)
def test_losses_that_cannot_be_differentiated(loss, words):
    model, x = mlp(4, 4), torch.randn(3, 4)
    model.output.weight.grad = torch.ones(4, 4)
    with no_trace(model), pytest.raises(ValueError, match=words):
        probe(model, x, loss)


def test_nothing_to_train():
    model, x = mlp(4, 4).requires_grad_(False), torch.randn(3, 4)
    with no_trace(model), pytest.raises(ValueError, match=r"0 trainable.*let a parameter require"):
        probe(model, x, lambda out: out.sum())


def test_nothing_to_train_is_no_trouble_without_a_loss():
    model = mlp(4, 4).requires_grad_(False)
    assert names(probe(model, torch.randn(3, 4))) == ["flatten", "output"]


@pytest.mark.parametrize(("model", "loss"), [(torch.relu, None), (mlp(4, 4), torch.ones(()))])
def test_models_and_losses_of_a_wrong_type(model, loss):
    words = "model is of type .*, loss of type .*: expected a torch.nn.Module and a function"
    with pytest.raises(TypeError, match=words):
        probe(model, torch.randn(3, 4), loss)
