"""lsuv_ in other precisions, autocast and inference mode."""

import numpy as np
import pytest
import torch
from rescaling import ROUNDING, generator, normal, variances
from torch import nn

from initguide import mlp
from initguide.lsuv import lsuv_


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_squares_may_leave_the_range_of_the_dtype(scale):
    model, batch = mlp(10, 20, 20, 3), normal(64, 10)
    for p in model.parameters():
        nn.init.normal_(p, std=scale * (p.ndim > 1), generator=generator(p.ndim))
    report = lsuv_(model, batch, orthogonal=False)
    assert all(layer.rescales == 1 for layer in report.layers)
    np.testing.assert_allclose(list(variances(model, batch).values()), 1, atol=ROUNDING)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    model, batch = mlp(32, 64, 64, 8, activation="gelu").to(dtype), normal(64, 32).to(dtype)
    report = lsuv_(model, batch, tolerance=0.01, generator=generator())
    np.testing.assert_allclose(list(variances(model, batch).values()), 1, atol=0.01)
    assert max(layer.rescales for layer in report.layers) == 1


@pytest.mark.parametrize("orthogonal", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_autocast_the_weights_are_the_current_ones(dtype, orthogonal):
    model, batch = mlp(16, 32, 32, 4, activation="gelu"), normal(200, 16, std=3.0)
    for p in model.parameters():
        nn.init.normal_(p, std=0.7 * (p.ndim > 1), generator=generator(p.ndim))
    with torch.autocast("cpu", dtype):
        model(batch)  # fills the cache of weights in half precision
        report = lsuv_(model, batch, orthogonal=orthogonal, generator=generator())
        after = variances(model, batch)
    assert sum(layer.rescales for layer in report.layers) >= 3
    np.testing.assert_allclose(list(after.values()), 1, atol=0.1)


def test_autocast_inside_the_model():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mlp(16, 32, 4)

        @torch.autocast("cpu", torch.bfloat16)
        def forward(self, x):
            return self.inner(x)

    model, batch = Half(), normal(200, 16, std=3.0)
    lsuv_(model, batch, generator=generator())
    np.testing.assert_allclose(list(variances(model, batch).values()), 1, atol=0.1)


def test_in_autocast_the_weights_have_gradients_afterwards():
    model, batch = mlp(16, 32, 4), normal(20, 16)
    with torch.autocast("cpu", torch.bfloat16):
        lsuv_(model, batch, generator=generator())
        out = model(batch)
    out.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("built", [torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("called", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_in_inference_mode_and_with_what_it_built(built, called):
    with built():
        model = nn.Sequential(nn.Linear(6, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Linear(30, 4))
    expected = mlp(6, 30, 4, batch_norm=True)
    with called():
        report = lsuv_(model, normal(64, 6), generator=generator())
    reference = lsuv_(expected, normal(64, 6), generator=generator())
    found = [layer.after for layer in report.layers]
    assert found == pytest.approx([layer.after for layer in reference.layers])
    assert all(p.requires_grad for p in model.parameters())
