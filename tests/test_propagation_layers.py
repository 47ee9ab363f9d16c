"""What counts as a layer of any model, what it is called, and in which order."""

import functools

import pytest
import torch
from probing import (
    WEIGHT,
    Block,
    assert_same,
    by_hand,
    cross_entropy,
    moments,
    names,
    no_trace,
    quantity,
)
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from initguide import mlp
from initguide.propagation import probe


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


FUNCTIONS = {
    "relu": [F.relu, torch.relu_, lambda x: x.relu(), functools.partial(F.relu, inplace=True)],
    "tanh": [F.tanh, torch.tanh, lambda x: x.tanh_()],
    "sigmoid": [F.sigmoid, torch.sigmoid, lambda x: x.sigmoid()],
    "gelu": [F.gelu, functools.partial(F.gelu, approximate="tanh")],
    "leaky_relu": [F.leaky_relu, functools.partial(F.leaky_relu, inplace=True)],
    **{name: [getattr(F, name)] for name in ("elu", "selu", "celu", "silu", "mish", "softplus")},
    **{name: [getattr(F, name)] for name in ("hardswish", "hardtanh", "hardsigmoid", "relu6")},
    **{name: [getattr(F, name)] for name in ("softsign", "softshrink", "hardshrink")},
}


@pytest.mark.parametrize(("name", "function"), [(n, f) for n in FUNCTIONS for f in FUNCTIONS[n]])
def test_functions_are_layers(name, function):
    model = nn.Sequential(Block(6, function), Block(6, lambda x: nn.ReLU()(x)))
    x = torch.randn(50, 6)
    with no_trace(model):
        table = probe(model, x, lambda out: out.square().sum())
    assert names(table) == ["0.linear", f"0.{name}", "1.linear", "1.relu"]
    before = model[0].linear(x)
    before.retain_grad()
    after = function(before.clone())
    after.retain_grad()
    model[1](after).square().sum().backward()
    expected = {
        ("0.linear", 1): moments(before) | moments(before.grad, "gradient_"),
        (f"0.{name}", 1): moments(after) | moments(after.grad, "gradient_"),
    }
    assert_same(table, expected)


class HandMadeGELU(nn.Module):
    def forward(self, x):
        return 0.5 * x * (1 + torch.tanh(0.8 * x))


def test_an_elementwise_module_is_one_layer():
    table = probe(nn.Sequential(nn.Linear(4, 4), HandMadeGELU()), torch.randn(3, 4))
    assert names(table) == ["0", "1"] and "saturated" not in set(table["quantity"])


def test_an_elementwise_module_has_the_bounds_of_its_function():
    table = probe(mlp(20, 20, 20, activation="erf"), 3 * torch.randn(40, 20))
    assert names(table) == ["flatten", "hidden1", "activation1", "output"]
    assert 0 < quantity(table, "activation1", "saturated") < 1


@pytest.mark.parametrize(
    ("function", "bounded"), [(lambda x: x * (1 + torch.erf(x)), False), (torch.erf, True)]
)
def test_erf_is_no_layer_but_what_it_returns_has_bounds(function, bounded):
    table = probe(Block(4, function), torch.randn(3, 4))
    assert names(table) == ["linear", "Block"]
    assert ("saturated" in set(table["quantity"])) is bounded


def test_one_name_called_again():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared, self.act = nn.Linear(4, 4), nn.ReLU(inplace=True)
            self.alias = self.shared

        def forward(self, x):
            return self.act(self.alias(F.relu(self.act(self.shared(x)))))

    model, x, loss = Model(), torch.randn(9, 4), lambda out: out.square().mean()
    with no_trace(model):
        table = probe(model, x, loss)
    assert names(table) == ["shared", "act", "relu", "shared#2", "act#2"]
    assert set(assert_same(table, by_hand(model, [x], loss))) == {"relu"}
    assert set(table.loc[table["name"] == "shared.weight", "layer"]) == {1}


class Residual(nn.Module):
    def __init__(self, skip=False):
        super().__init__()
        self.linear, self.skip = nn.Linear(4, 4), skip

    def forward(self, x):
        return x if self.skip else x + self.linear(x)


def test_containers_have_a_row_for_what_they_compute():
    model = nn.Sequential(Residual(), Residual(skip=True), nn.Sequential(), Residual())
    x = torch.randn(5, 4)
    with no_trace(model):
        table = probe(model, x, lambda out: out.sum())
    assert names(table) == ["0.linear", "0", "3.linear", "3"]
    gradient = 1 + torch.ones(5, 4) @ model[3].linear.weight
    expected = moments(model[0](x)) | moments(gradient, "gradient_")
    assert_same(table, {("0", 1): expected})


def test_a_model_of_its_own_is_called_by_its_class():
    assert names(probe(Residual(), torch.randn(5, 4))) == ["linear", "Residual"]


def test_what_a_container_computes_in_place_is_a_row_of_its_own():
    table = probe(Block(4, lambda x: x.add_(1)), torch.randn(5, 4))
    assert names(table) == ["linear", "Block"]
    shift = quantity(table, "Block", "mean") - quantity(table, "linear", "mean")
    assert shift == pytest.approx(1, rel=1e-5)


def test_parameters_of_containers_and_of_layers_without_modules():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.randn(4))
            self.weights = nn.ParameterList([torch.randn(4, 4), torch.randn(4, 2)])
            self.unused = nn.Parameter(torch.randn(3))

        def forward(self, x):
            return F.relu((x + self.token) @ self.weights[0]) @ self.weights[1]

    model, x, loss = Model(), torch.randn(6, 4), lambda out: out.square().mean()
    with no_trace(model):
        table = probe(model, x, loss)
    assert names(table) == ["relu", "Model"]
    loss(model(x)).backward()
    expected = {
        (n, 1): moments(p.grad, WEIGHT) for n, p in model.named_parameters() if n != "unused"
    }
    assert set(assert_same(table, expected)) == {"relu", "Model"}
    assert set(table.loc[table["quantity"] == WEIGHT + "mean", "layer"]) == {1}


def test_an_error_that_a_forward_catches():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.wrong, self.right = nn.Linear(9, 3), nn.Linear(4, 3)

        def forward(self, x):
            try:
                return self.wrong(x)
            except RuntimeError:
                return torch.relu(self.right(x))

    assert names(probe(Model(), torch.randn(2, 4))) == ["right", "relu"]


def test_one_forward_and_one_backward():
    calls, model, x = [], mlp(6, 6, 6, 6), torch.randn(4, 6)
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    model.output.register_full_backward_hook(lambda *_: calls.append("backward"))
    probe(model, x, lambda out: out.sum())
    assert sorted(calls) == sorted(["backward", *dict(model.named_modules())])


def test_checkpoints_are_not_counted_twice():
    class Model(nn.Module):
        def __init__(self, save):
            super().__init__()
            self.block, self.output, self.save = mlp(6, 6, 6, dropout=0.5), nn.Linear(6, 3), save

        def forward(self, x):
            y = checkpoint(self.block, x, use_reentrant=False) if self.save else self.block(x)
            return self.output(torch.tanh(y))

    model, x, loss = Model(True), torch.randn(8, 6), cross_entropy(8, 3)
    with no_trace(model):
        table = probe(model, x, loss)
    model.save = False
    assert table.equals(probe(model, x, loss))


@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm:FutureWarning")
def test_computed_weights_are_no_layers():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    old = nn.utils.spectral_norm(nn.Linear(4, 4))
    model, x = nn.Sequential(layer, old), torch.randn(5, 4)
    weight = old.weight
    with no_trace(model):
        table = probe(model, x, lambda out: out.square().sum())
    assert old.weight is weight
    assert names(table) == ["0", "1"]
    rows = table[table["quantity"] == WEIGHT + "mean"]
    assert set(rows.loc[rows["layer"] == 1, "name"]) == {
        "0.bias",
        "0.parametrizations.weight.original0",
        "0.parametrizations.weight.original1",
    }


def test_a_layer_that_returns_a_parameter():
    class Prompt(nn.Module):
        def __init__(self):
            super().__init__()
            self.value = nn.Parameter(torch.randn(4))

        def forward(self, x):
            return self.value

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.prompt, self.linear = Prompt(), nn.Linear(4, 4)

        def forward(self, x):
            return self.linear(x + self.prompt(x))

    model, x = Model(), torch.randn(3, 4)
    with no_trace(model):
        table = probe(model, x, lambda out: out.square().sum())
    rows = table[table["quantity"].str.endswith("gradient_second_moment")].set_index("name")
    assert rows["value"]["prompt"] == rows["value"]["prompt.value"] > 0


@pytest.mark.slow  # imports the compiler
def test_a_compiled_model_runs_as_written():
    model = mlp(6, 6, 6, 3)
    x, loss = torch.randn(8, 6), cross_entropy(8, 3)
    expected = probe(model, x, loss)
    compiled = torch.compile(model)
    with no_trace(model):
        assert probe(compiled, x, loss).equals(expected)


@pytest.mark.slow
def test_compiled_parts_run_as_written():
    x, loss = torch.randn(8, 6), cross_entropy(8, 3)
    nested = nn.Sequential(torch.compile(mlp(6, 6)), nn.ReLU(), mlp(6, 3))
    nested[2].compile()
    plain = nn.Sequential(nested[0]._orig_mod, nested[1], mlp(6, 3))
    plain[2].load_state_dict(nested[2].state_dict())
    assert probe(nested, x, loss).equals(probe(plain, x, loss))
    assert torch.compiler.is_compiling() is False


def test_hooks_of_others_still_run():
    seen, model, x = [], mlp(4, 4, 4), torch.randn(3, 4)
    model.hidden1.register_forward_hook(lambda m, a, out: seen.append("forward") or 0 * out)
    model.output.register_full_backward_hook(lambda *_: seen.append("backward"))
    with no_trace(model):
        table = probe(model, x, lambda out: out.square().sum())
    assert seen == ["forward", "backward"]
    own = moments(nn.Linear.forward(model.hidden1, x))  # before the hook
    assert_same(table[~table["quantity"].str.startswith("gradient")], {("hidden1", 1): own})
    assert quantity(table, "activation1", "zeros") == 1


def test_a_scripted_model_is_one_layer():
    with pytest.warns(Warning, match="jit.script"):
        model = torch.jit.script(mlp(4, 4, 2))
    table = probe(model, torch.randn(5, 4), cross_entropy(5, 2))
    assert "hidden1.weight" in set(table["name"])


class Reader(nn.Module):
    """Several inputs, and outputs inside of others."""

    def __init__(self):
        super().__init__()
        self.embed, self.lstm = nn.Embedding(11, 6), nn.LSTM(6, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, tokens, scale, *, shift=0.0):
        states, (h, _) = self.lstm(self.embed(tokens) * scale + shift)
        return {"logits": self.head(h[-1]), "all": [states, tokens], "best": states.argmax(-1)}


def read(**more):
    return {"tokens": torch.arange(12).reshape(3, 4) % 11, "scale": torch.rand(1), **more}


def read_loss(out):
    return F.cross_entropy(out["logits"], torch.tensor([0, 1, 2]))


def test_outputs_inside_of_others_are_told_apart():
    model, batch = Reader(), read(shift=0.5)
    with no_trace(model):
        table = probe(model, batch, read_loss)
    assert names(table) == ["embed", "lstm[0]", "lstm[1][0]", "lstm[1][1]", "head"]
    assert "lstm.weight_ih_l0" in set(table["name"])


@pytest.mark.parametrize("kind", [list, tuple])
def test_inputs_by_position_are_those_by_keyword(kind):
    model, batch = Reader(), read()
    assert probe(model, kind(batch.values())).equals(probe(model, batch))


def test_each_output_has_its_own_numbers():
    model, batch = Reader(), read()
    table = probe(model, batch)
    out, (h, c) = model.lstm(model.embed(batch["tokens"]) * batch["scale"])
    for name, value in (("lstm[0]", out), ("lstm[1][0]", h), ("lstm[1][1]", c)):
        expected = value.double().mean().item()
        assert quantity(table, name, "mean") == pytest.approx(expected, rel=1e-9)


def test_no_gradient_is_listed_where_nothing_is_lost():
    table = probe(Reader(), read(), read_loss)
    of = table.loc[table["quantity"] == "gradient_second_moment", "name"]
    assert {"lstm[1][0]", "head"} <= set(of) and "lstm[1][1]" not in set(of)  # the cell state
