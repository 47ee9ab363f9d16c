"""After LSUV each layer's output has variance 1, as hooks and numpy measure it."""

import copy
import dataclasses
import math
import re

import numpy as np
import pandas as pd
import pytest
import torch
from rescaling import (
    LINEAR,
    ROUNDING,
    Random,
    assert_same,
    generator,
    normal,
    outputs,
    snapshot,
    variances,
)
from torch import nn
from torch.nn import functional as F

from initguide import mlp
from initguide.lsuv import LSUVLayer, LSUVReport, lsuv_


def by_hand(model, batch, tolerance, max_rescales, g):
    """Follow algorithm 1 of Mishkin & Matas 2016: a forward pass for each measurement."""
    layers = [m for m in model.modules() if isinstance(m, LINEAR)]
    for layer in layers:
        nn.init.orthogonal_(layer.weight, generator=g)
        nn.init.zeros_(layer.bias)
    counts, first = [], []
    for number, layer in enumerate(layers):
        counts.append(0)
        while counts[-1] < max_rescales:
            variance = list(variances(model, batch).values())[number]
            first += [variance] if counts[-1] == 0 else []
            if abs(variance - 1) < tolerance:
                break
            with torch.no_grad():
                layer.weight /= math.sqrt(variance)
            counts[-1] += 1
    return counts, first


class Functional(nn.Module):
    """Convolutions of all kinds in an order that is not that of their definition."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 3)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.grouped = nn.Conv2d(4, 8, 3, groups=2, padding=1, stride=2)
        self.stem = nn.Conv2d(2, 4, 3, padding="same", padding_mode="circular")
        self.unused = nn.Linear(5, 5)
        self.norm = nn.GroupNorm(2, 4)

    def forward(self, x):
        x = self.norm(F.relu(self.stem(x)))
        x = F.gelu(self.grouped(x)) * 3
        x = torch.tanh(self.up(x))
        return self.head(x.mean((2, 3)))


class Residual(nn.Module):
    def __init__(self, width=8, depth=5):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.embed = nn.Embedding(11, width)
        self.head = nn.Linear(width, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids, *, scale=1.0):
        x = self.embed(ids)
        for block in self.blocks:
            x = x + scale * F.silu(block(x))
        return self.head(x)


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.loop, self.twin = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.twin.weight = self.loop.weight

    def forward(self, x):
        x = self.first(x)
        for _ in range(3):
            x = torch.relu(self.loop(x))
        return self.twin(x)


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu", "sigmoid"])
def test_twenty_layers_need_at_most_one_rescale_each(activation):
    batch = normal(128, 64)
    model = mlp(64, *[64] * 19, 10, activation=activation)
    report = lsuv_(model, batch, tolerance=0.1, generator=generator())
    measured = variances(model, batch)
    assert list(measured) == [layer.name for layer in report.layers] and len(measured) == 20
    for layer in report.layers:
        assert layer.rescales <= 1
        assert layer.rescales == 0 or layer.after == pytest.approx(1, abs=ROUNDING)
        assert layer.after == pytest.approx(measured[layer.name], rel=ROUNDING)
        assert abs(layer.after - 1) <= 0.1
    assert sum(layer.rescales for layer in report.layers) >= 19


def test_without_it_the_same_network_loses_the_signal():
    # The measurement can fail: orthogonal weights alone halve ReLU's variance in each layer.
    model = mlp(64, *[64] * 19, 10)
    for m in model.modules():
        if isinstance(m, nn.Linear):
            nn.init.orthogonal_(m.weight, generator=generator())
            nn.init.zeros_(m.bias)
    assert variances(model, normal(128, 64))["output"] < 1e-3


@pytest.mark.parametrize("tolerance", [0.1, 0.02])
def test_it_is_the_algorithm_of_the_paper(tolerance):
    ours, batch = mlp(12, *[20] * 6, 5, activation="tanh"), normal(100, 12, mean=0.3).double()
    ours.double()
    theirs = copy.deepcopy(ours)
    report = lsuv_(ours, batch, tolerance=tolerance, generator=generator())
    counts, before = by_hand(theirs, batch, tolerance, 10, generator())
    assert [layer.rescales for layer in report.layers] == counts
    np.testing.assert_allclose([layer.before for layer in report.layers], before, rtol=1e-12)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.detach(), q.detach(), rtol=1e-12)


@pytest.mark.parametrize("data", [{"std": 50.0}, {"std": 1e-3}, {"mean": 4.0}])
def test_the_scale_of_the_data_is_made_up_for(data):
    model, batch = mlp(20, 30, 30, 4), normal(64, 20, **data)
    report = lsuv_(model, batch, tolerance=1e-3, generator=generator())
    assert all(layer.rescales == 1 for layer in report.layers)
    np.testing.assert_allclose(list(variances(model, batch).values()), 1, atol=ROUNDING)


def test_all_kinds_of_layers_in_order_of_execution():
    model, batch = Functional(), normal(16, 2, 8, 8)
    before = snapshot(model)
    report = lsuv_(model, batch, tolerance=0.01, generator=generator())
    assert [layer.name for layer in report.layers] == ["stem", "grouped", "up", "head"]
    assert report.left_alone == ("unused.weight", "unused.bias", "norm.weight", "norm.bias")
    np.testing.assert_allclose(list(variances(model, batch).values()), 1, atol=0.01)
    touched = [f"{layer.name}.{kind}" for layer in report.layers for kind in ("weight", "bias")]
    assert_same(before, snapshot(model), but=touched)
    for name in touched:
        assert not torch.equal(before["state"][name], model.state_dict()[name]), name
        assert "bias" in name or model.state_dict()[name].any()
    # Proportional to orthogonal matrices, in each group and in the direction it is used.
    stem = model.stem.weight.detach().flatten(1)
    groups = model.grouped.weight.detach().flatten(1).chunk(2)
    up = model.up.weight.detach().transpose(0, 1).flatten(1)
    for matrix in (stem, *groups, up, model.head.weight.detach()):
        values = np.linalg.svd(matrix, compute_uv=False)
        np.testing.assert_allclose(values, values[0], rtol=1e-5)


@pytest.mark.parametrize(
    "batch",
    [
        torch.arange(11),
        (torch.arange(11),),
        [torch.arange(11)],
        {"ids": torch.arange(11), "scale": 0.5},
    ],
)
def test_batches_are_inputs_positional_or_keyword_arguments(batch):
    model = Residual()
    embedding = model.embed.weight.detach().clone()
    report = lsuv_(model, batch, tolerance=0.01, generator=generator())
    assert [layer.name for layer in report.layers] == [f"blocks.{i}" for i in range(5)]
    # The output layer's weight is the embedding's: it was used before the blocks.
    assert report.left_alone == ("embed.weight",) and torch.equal(model.embed.weight, embedding)
    arguments = batch if isinstance(batch, dict) else {"ids": torch.arange(11)}
    measured = variances(model, **arguments)
    assert abs(measured.pop("head") - 1) > 0.01
    np.testing.assert_allclose(list(measured.values()), 1, atol=0.01)


def test_a_notebook_shows_a_table():
    report = lsuv_(Residual(), torch.arange(11), generator=generator())
    cells = np.array(re.findall("<td>(.*?)</td>", report._repr_html_())).reshape(-1, 5)
    assert list(cells[:, 0]) == [layer.name for layer in report.layers]
    measured = [layer[1:] for layer in report.layers]
    np.testing.assert_allclose(cells[:, 1:].astype(float), measured, rtol=1e-3)
    assert "Left alone: embed.weight</p>" in report._repr_html_()


def test_shared_layers_and_weights_are_rescaled_once_at_their_first_use():
    model, batch = Shared(), normal(64, 4, std=5.0)
    report = lsuv_(model, batch, tolerance=0.01, generator=generator())
    assert [layer.name for layer in report.layers] == ["first", "loop"]
    assert report.left_alone == () and not model.twin.bias.any()
    measured = variances(model, batch)  # each layer's first output
    assert measured["first"] == pytest.approx(1, abs=0.01)
    assert measured["loop"] == pytest.approx(1, abs=0.01)


def test_given_weights_keep_their_direction_and_biases_stay():
    model, batch = mlp(10, 20, 20, 3), normal(64, 10)
    for p in model.parameters():
        nn.init.normal_(p, std=0.7, generator=generator(p.ndim))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    report = lsuv_(model, batch, orthogonal=False, tolerance=0.02)
    assert report.left_alone == ("hidden1.bias", "hidden2.bias", "output.bias")
    measured = variances(model, batch)
    for layer in report.layers:
        assert measured[layer.name] == pytest.approx(layer.after, rel=ROUNDING)
        assert abs(layer.after - 1) <= 0.02 < abs(layer.before - 1)
        weight = model.get_submodule(layer.name).weight.detach()
        ratio = weight / before[f"{layer.name}.weight"]
        np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)
        assert layer.rescales > 1  # the bias does not shrink with the weight
    for name in report.left_alone:
        assert torch.equal(model.get_parameter(name), before[name])


def test_a_layer_within_tolerance_is_only_measured():
    model, batch = mlp(10, 20, 20, 3), normal(64, 10)
    lsuv_(model, batch, tolerance=1e-3, generator=generator())
    before = snapshot(model)
    again = lsuv_(model, batch, orthogonal=False, tolerance=2e-3)
    assert all(layer.rescales == 0 and layer.before == layer.after for layer in again.layers)
    assert_same(before, snapshot(model))


def test_dropout_is_off_and_batch_norm_keeps_its_mode():
    model, batch = Random(), normal(64, 6, mean=2.0)
    model.frozen.eval()
    lsuv_(model, batch, generator=generator(), tolerance=1e-3)
    again = copy.deepcopy(model)
    lsuv_(again, batch, generator=generator(), tolerance=1e-3)
    for p, q in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)  # so nothing was random
    for m in model.modules():
        m.train(m is model.norm)
    np.testing.assert_allclose(list(variances(model, batch).values()), 1, atol=2e-3)
    model.eval()  # the running statistics are another network's
    assert abs(variances(model, batch)["two"] - 1) > 0.01


def test_draws_come_from_the_generator_or_else_from_the_global_one():
    batch, weights = normal(32, 5), []
    models = [mlp(5, 7, 2) for _ in range(4)]
    for model, g in zip(models, (generator(5), generator(5), None, None), strict=True):
        lsuv_(model, batch, generator=g)
        weights.append(model.hidden1.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.allclose(weights[2], weights[3])  # the global one moved on


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_transformer_layers_are_reached_in_spite_of_the_fused_path():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
    model = nn.TransformerEncoder(layer, 2)
    padding = torch.tensor([[False] * 3 + [True] * 2] * 4)
    batch = {"src": normal(4, 5, 8), "src_key_padding_mask": padding}
    report = lsuv_(model, batch, tolerance=0.01, generator=generator())
    names = [f"layers.{i}.linear{j}" for i in (0, 1) for j in (1, 2)]
    assert [layer.name for layer in report.layers] == names
    # Attention uses these weights without calling the layer that holds them.
    assert "layers.0.self_attn.out_proj.weight" in report.left_alone


def test_parametrized_layers_are_left_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)))
    before, batch = snapshot(model), normal(32, 4)
    report = lsuv_(model, batch, generator=generator())
    assert [layer.name for layer in report.layers] == ["0"]
    assert report.left_alone == ("1.bias", "1.parametrizations.weight.original")
    assert_same(before, snapshot(model), but=("0.weight", "0.bias"))


def test_one_pass_does_it():
    class Counted(nn.Linear):
        calls = 0

        def forward(self, x):
            Counted.calls += 1
            return super().forward(x)

    passes, depth = [], 10
    model = nn.Sequential(*[nn.Sequential(Counted(9, 9), nn.ReLU()) for _ in range(depth)])
    model.register_forward_hook(lambda *_: passes.append(1))
    report = lsuv_(model, normal(50, 9), generator=generator())
    rescales = sum(layer.rescales for layer in report.layers)
    assert len(passes) == 1 and Counted.calls == 2 * depth + rescales


def test_the_report_is_frozen_and_makes_a_table():
    layers = (LSUVLayer("a", 0.25, 1.0, 1, 0.5), LSUVLayer("output", 0.95, 0.95, 0, 0.25))
    report = LSUVReport(layers, ("norm.weight", "norm.bias"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.layers = ()
    header, first, second, last = repr(report).splitlines()
    words = ["layer", "variance", "before", "after", "rescales", "between", "examples"]
    assert header.split() == words
    assert first.split() == ["a", "0.25", "1.000", "1", "0.5"]
    assert second.split() == ["output", "0.95", "0.950", "0", "0.25"]
    assert len(header) == len(first) == len(second)
    assert last == "left alone: norm.weight, norm.bias"
    assert repr(LSUVReport(layers, ())).endswith("left alone: nothing")
    table = pd.DataFrame(report.layers)
    assert list(table.columns) == ["name", "before", "after", "rescales", "between"]
    assert len(table) == 2


def test_a_packed_sequence_is_one_argument():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 4)

        def forward(self, x):
            return self.linear(x.data)

    packed = nn.utils.rnn.pack_sequence([normal(4, 3), normal(2, 3)])
    with pytest.raises(TypeError, match="PackedSequence"):  # which of the two is meant?
        lsuv_(Packed(), packed)
    assert len(lsuv_(Packed(), (packed,)).layers) == 1


# -- Variance between examples -------------------------------------------------------------


def between(model, batch):
    return {name: y.var(0, ddof=1).mean() for name, y in outputs(model, batch).items()}


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
def test_the_variance_between_examples_is_what_hooks_measure(activation):
    model, batch = mlp(20, *[50] * 6, 3, activation=activation), normal(100, 20)
    report = lsuv_(model, batch, generator=generator())
    measured = {layer.name: layer.between for layer in report.layers}
    assert measured == pytest.approx(between(model, batch), rel=1e-4)


def test_of_a_convolution_it_is_over_examples_not_positions():
    model, batch = nn.Sequential(nn.Conv2d(3, 8, 3)), normal(20, 3, 9, 9)
    (layer,) = lsuv_(model, batch, generator=generator()).layers
    assert layer.between == pytest.approx(between(model, batch)["0"], rel=1e-4)


def test_it_is_nan_without_a_batch_dimension():
    (layer,) = lsuv_(nn.Linear(20, 30), normal(20), generator=generator()).layers
    assert math.isnan(layer.between) and layer.after == pytest.approx(1, abs=0.1)


def test_behind_sigmoids_examples_are_alike_and_the_report_says_where():
    model = mlp(20, *[50] * 10, 3, activation="sigmoid")
    report = lsuv_(model, normal(200, 20), generator=generator())
    last = report.layers[-1]
    assert last.after == pytest.approx(1, abs=0.1) and last.between < 0.001
    assert report.alike[-1] == "output" and "hidden1" not in report.alike
    assert f"nearly the same for all examples: {report.alike[0]}, " in repr(report)


def test_behind_relus_they_are_not():
    model = mlp(20, *[50] * 10, 3, activation="relu")
    report = lsuv_(model, normal(200, 20), generator=generator())
    assert report.alike == () and "nearly" not in repr(report)


def test_a_notebook_says_which_layers_are_alike():
    report = LSUVReport((LSUVLayer("a<b", 1.0, 1.0, 0, 1e-3),), ())
    assert "<p>Nearly the same for all examples: a&lt;b</p>" in report._repr_html_()
