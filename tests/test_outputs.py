"""Moments of a layer's output equal numpy's, in any precision and memory format."""

import numpy as np
import pytest
import torch
from probing import WEIGHT, assert_same, moments, names, no_trace, quantity
from torch import nn
from torch.nn import functional as F

from initguide import mlp
from initguide.propagation import probe


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


BOUNDS = {
    nn.Tanh(): (-1, 1),
    nn.Sigmoid(): (0, 1),
    nn.Softsign(): (-1, 1),
    nn.Hardsigmoid(): (0, 1),
    nn.Hardtanh(): (-1, 1),
    nn.Hardtanh(-0.5, 2.0): (-0.5, 2),
    nn.ReLU(): None,
    nn.ReLU6(): None,
    nn.GELU(): None,
    nn.Softplus(): None,
    nn.Linear(7, 7): None,
    nn.Softmax(1): None,
    nn.Tanhshrink(): None,
}


@pytest.mark.parametrize(("module", "bounds"), BOUNDS.items(), ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_saturation(module, bounds, dtype):
    x = (torch.randn(300, 7) ** 5).to(dtype)
    model = nn.Sequential(module, nn.Dropout(0.5)).to(dtype).eval()
    table = probe(model, x)
    assert names(table) == ["0", "1"]
    if bounds is None:
        assert "saturated" not in set(table["quantity"])
        return
    assert list(table["quantity"]).count("saturated") == 1  # dropout has no bounds
    low, high = bounds
    y = module(x).double()
    margin = 0.01 * (high - low)
    expected = ((y <= low + margin) | (y >= high - margin)).double().mean().item()
    assert 0 < quantity(table, "0", "saturated") == expected < 1


def test_bfloat16_is_summed_in_double():
    model = nn.Sequential(nn.Linear(100, 1000), nn.ReLU()).bfloat16()
    x = torch.randn(300, 100).bfloat16()
    with no_trace(model):
        table = probe(model, x, lambda out: out.float().square().sum())
    y = model(x)
    expected = moments(y.float()) | moments(2 * y.float(), "gradient_")
    assert_same(table, {("1", 1): expected})
    assert abs(y.square().mean().item() / expected["second_moment"] - 1) > 1e-6


def test_what_single_precision_would_lose():
    class Scale(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor = nn.Parameter(torch.tensor(factor))

        def forward(self, x):
            return x * self.factor

    model, x = nn.Sequential(Scale(1e-30), Scale(1e5)), torch.randn(50)
    table = probe(model, x, lambda out: 1e-35 * out.sum())
    y, gradient = model[0](x), (1e-35 * model[1].factor).expand(50)
    assert y.square().max() == 0 == gradient.square().max()  # below the smallest float32
    assert_same(table, {("0", 1): moments(y) | moments(gradient, "gradient_")})
    assert quantity(table, "0", "second_moment") > 0


def test_a_long_sum_in_any_memory_format():
    x = torch.rand(3, 2, 211, 229)  # more than one part, and no whole number of them
    for y in (x, x.to(memory_format=torch.channels_last), x[..., ::2], x.mT, x[:, :1].expand_as(x)):
        table = probe(nn.Threshold(0.25, 0.0), y)
        assert names(table) == ["Threshold"]
        assert_same(table, {("Threshold", 1): moments(F.threshold(y, 0.25, 0.0))})


def test_values_that_are_not_finite_are_recorded():
    model, x = mlp(4, 4, 4, 2), torch.randn(6, 4)
    with torch.no_grad():
        model.hidden2.weight[0] = torch.inf
    model.output.weight.data[0, 0] = torch.nan
    with no_trace(model):
        table = probe(model, x, lambda out: out.sum())
    assert not np.isfinite(quantity(table, "hidden2", "mean"))
    assert np.isnan(quantity(table, "output", "second_moment"))
    assert quantity(table, "output", "zeros") == 0
    assert np.isfinite(quantity(table, "hidden1", "second_moment"))
    empty = probe(model, x[:0])
    assert empty["value"].isna().all() and names(empty) == names(table)


def test_a_sparse_gradient():
    model, tokens = nn.Embedding(20, 3, sparse=True), torch.tensor([[1, 5, 5], [0, 1, 1]])
    with no_trace(model):
        table = probe(model, tokens, lambda out: out.sum())
    counts = torch.bincount(tokens.flatten(), minlength=20).double()
    assert quantity(table, "weight", WEIGHT + "zeros") == (counts == 0).double().mean().item()
    assert quantity(table, "weight", WEIGHT + "mean") == pytest.approx(counts.mean().item())
