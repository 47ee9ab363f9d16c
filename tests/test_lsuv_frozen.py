"""lsuv_ leaves frozen weights and low-rank adapters alone, unless it is told otherwise."""

import numpy as np
import torch
from rescaling import assert_same, generator, normal, snapshot, variances
from torch import nn

from initguide import mlp
from initguide.lsuv import lsuv_


class Adapted(nn.Module):
    """A frozen layer and its low-rank adapter, whose second factor starts at zero."""

    def __init__(self, n=6):
        super().__init__()
        self.base = nn.Linear(n, n).requires_grad_(False)
        self.down, self.up = nn.Linear(n, 2, bias=False), nn.Linear(2, n, bias=False)
        nn.init.zeros_(self.up.weight)
        self.head = nn.Linear(n, 3)

    def forward(self, x):
        return self.head(self.base(x) + self.up(self.down(x)))


def test_frozen_weights_and_adapters_are_left_alone():
    model = Adapted()
    before = snapshot(model)
    report = lsuv_(model, normal(32, 6), generator=generator())
    assert report.left_alone == ("base.weight", "base.bias", "up.weight")
    assert_same(before, snapshot(model), but=("down.weight", "head.weight", "head.bias"))


def test_an_adapter_is_known_by_its_name():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
    model[0].requires_grad_(False)
    model[0].lora_A = nn.Linear(6, 2)
    assert "0.lora_A.weight" in lsuv_(model, normal(32, 6)).left_alone


def test_a_frozen_layer_keeps_its_bias_too():
    model = mlp(6, 20, 3)
    model.hidden1.weight.requires_grad_(False)
    before = snapshot(model)
    report = lsuv_(model, normal(32, 6), generator=generator())
    assert report.left_alone == ("hidden1.weight", "hidden1.bias")
    assert_same(before, snapshot(model), but=("output.weight", "output.bias"))


def test_a_frozen_bias_is_kept_and_its_weight_rescaled():
    model, batch = mlp(6, 20, 3), normal(64, 6)
    bias = model.hidden1.bias.requires_grad_(False).clone()
    report = lsuv_(model, batch, tolerance=0.01, generator=generator())
    assert report.left_alone == ("hidden1.bias",) and torch.equal(model.hidden1.bias, bias)
    np.testing.assert_allclose(list(variances(model, batch).values()), 1, atol=0.01)


def test_frozen_includes_them():
    model = Adapted()
    report = lsuv_(model, normal(32, 6), frozen=True, generator=generator())
    assert report.left_alone == () and model.up.weight.any()
    assert not model.base.weight.requires_grad
