"""What probe measures equals hand-written hooks, and the model is what it was before."""

import contextlib
import copy
import functools
import statistics
import time
from collections import defaultdict

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules import module as hooks
from torch.overrides import _get_current_function_mode_stack as function_modes
from torch.utils.checkpoint import checkpoint

from initguide import mlp
from initguide.propagation import probe

WEIGHT = "weight_gradient_"


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def moments(x, prefix=""):
    x = x.detach().double().numpy()
    values = {"mean": x.mean(), "second_moment": np.mean(x**2), "zeros": np.mean(x == 0)}
    return {prefix + quantity: value for quantity, value in values.items()}


def by_hand(model, batch, loss=None):
    """Return ``{(name, call): quantities}`` of all leaves and parameters, from plain hooks.

    The model goes on with a clone of each output, so that nothing overwrites what is kept.
    """
    model = copy.deepcopy(model)
    outputs, calls = {}, defaultdict(int)

    def keep(name, module, args, output):
        kept = output[0] if isinstance(output, tuple) else output
        calls[name] += 1
        outputs[name, calls[name]] = kept
        if loss is not None and kept.requires_grad:
            kept.retain_grad()
        return (kept.clone(), *output[1:]) if isinstance(output, tuple) else kept.clone()

    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention) or not [*module.children()]:
            module.register_forward_hook(functools.partial(keep, name))
    output = model(*batch)
    table = {key: moments(value) for key, value in outputs.items()}
    if loss is not None:
        loss(output).backward()
        for key, value in outputs.items():
            if value.requires_grad:
                table[key] |= moments(value.grad, "gradient_")
        for name, parameter in model.named_parameters():
            table[name, 1] = moments(parameter.grad, WEIGHT)
    return table


def assert_same(table, expected, n=10**6):
    """Compare values that are sums of the same ``n`` numbers in another order."""
    eps = n * np.finfo(float).eps
    found = {name: rows.set_index("quantity")["value"] for name, rows in table.groupby("name")}
    for (name, call), quantities in expected.items():
        rows = found.pop(name if call == 1 else f"{name}#{call}")
        rows = rows.drop("saturated", errors="ignore")
        assert set(rows.index) == set(quantities), name
        for quantity, value in quantities.items():
            root = quantities.get(quantity.replace("mean", "second_moment"), 0) ** 0.5
            assert rows[quantity] == pytest.approx(value, rel=eps, abs=eps * root), (name, quantity)
    return found


def state(model):
    """Return all that a probe must not change, in a form that == compares bit for bit."""

    def same(value):
        dense = value.detach().to_dense()
        where = None if value.is_sparse else value.data_ptr()
        bits = dense.flatten().view(torch.uint8).numpy().tobytes()
        return id(value), where, bits, value.shape, value.requires_grad

    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {
        "values": {name: same(t) for name, t in tensors},
        "gradients": {n: None if p.grad is None else same(p.grad) for n, p in tensors},
        "tensor hooks": {n: dict(p._backward_hooks or {}) for n, p in tensors},
        "attributes": {
            name: {
                key: dict(value) if isinstance(value, dict) else (id(value), repr(value))
                for key, value in vars(module).items()
                if key not in ("_parameters", "_buffers")
            }
            for name, module in model.named_modules()
        },
        "random": torch.get_rng_state().tolist(),
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "global hooks": [
            dict(d) for d in (hooks._global_forward_hooks, hooks._global_forward_pre_hooks)
        ],
        "function modes": function_modes(),
    }


@contextlib.contextmanager
def unchanged(model):
    before = state(model)
    yield
    after = state(model)
    for key, value in before.items():
        assert after[key] == value, key


def cross_entropy(n, classes=10):
    targets = torch.arange(n) % classes
    return lambda out: F.cross_entropy(out, targets)


def quantity(table, name, quantity):
    (value,) = table.loc[(table["name"] == name) & (table["quantity"] == quantity), "value"]
    return value


def names(table):
    return list(table.loc[table["quantity"] == "mean", "name"])


@pytest.mark.parametrize("with_loss", [False, True])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_mlp_equals_hand_written_hooks(dtype, activation, with_loss):
    model = mlp(784, 100, 50, 10, activation=activation, batch_norm=True, dropout=0.5).to(dtype)
    x, loss = torch.randn(100, 784, dtype=dtype), cross_entropy(100) if with_loss else None
    with unchanged(model):
        table = probe(model, x, loss)
    assert not assert_same(table, by_hand(model, [x], loss))
    assert list(table.columns) == ["layer", "name", "quantity", "value", "origin"]
    assert set(table["origin"]) == {"measured"}
    assert table["layer"].is_monotonic_increasing and table["layer"].min() == 1
    executed = [name for name, _ in model.named_children()]
    assert names(table) == executed
    for number, name in enumerate(executed, start=1):
        of_layer = table[table["name"].str.split(".").str[0] == name]
        assert set(of_layer["layer"]) == {number}


class Bottle(nn.Module):
    """What torchvision's residual networks do in place, in small."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.conv2, self.norm2 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        y += x
        return self.relu(y)


def small_resnet():
    return nn.Sequential(Bottle(), Bottle(), nn.Flatten(), nn.Linear(192, 10))


def resnet18():
    from torchvision.models import resnet18

    return resnet18(num_classes=10)


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("make", [small_resnet, pytest.param(resnet18, marks=pytest.mark.slow)])
def test_a_resnet_with_inplace_relus(make, mode):
    model = make().train(mode)
    side = 8 if make is small_resnet else 64
    x, loss = torch.randn(4, 3, side, side), cross_entropy(4)
    with unchanged(model):
        table = probe(model, x, loss)
    assert not assert_same(table, by_hand(model, [x], loss))
    assert sum("relu#2" in name for name in names(table)) == (2 if make is small_resnet else 8)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("with_loss", [True, False])
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_a_transformer_encoder(mode, norm_first, with_loss):
    layer = nn.TransformerEncoderLayer(
        16, 2, 32, 0.1, batch_first=True, norm_first=norm_first, activation="gelu"
    )
    model = nn.TransformerEncoder(layer, 2).train(mode)
    x = torch.randn(5, 7, 16)
    mask = torch.zeros(5, 7, dtype=torch.bool)
    mask[:, 5:] = True  # what turns the fused path's nested tensors on
    loss = (lambda out: out.square().mean()) if with_loss else None
    # Without a gradient torch would compute whole layers in one fused call.
    with unchanged(model), contextlib.nullcontext() if with_loss else torch.no_grad():
        table = probe(model, {"src": x, "src_key_padding_mask": mask}, loss)
    expected = by_hand(model, [x, None, mask], loss)
    assert {("layers.0.self_attn", 1), ("layers.1.linear2", 1)} <= set(expected)
    more = {"layers.0.gelu", "layers.1.gelu"}  # called as functions by the layers
    more |= {"layers.0", "layers.1"} if norm_first else set()  # residual sums
    assert set(assert_same(table, expected)) == more


class Block(nn.Module):
    def __init__(self, width, function):
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.function = function

    def forward(self, x):
        return self.function(self.linear(x))


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


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_layers(name):
    for function in FUNCTIONS[name]:
        model = nn.Sequential(Block(6, function), Block(6, lambda x: nn.ReLU()(x)))
        x = torch.randn(50, 6)
        with unchanged(model):
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


def test_an_elementwise_module_is_one_layer_with_bounds():
    table = probe(mlp(20, 20, 20, activation="erf"), 3 * torch.randn(40, 20))
    assert names(table) == ["flatten", "hidden1", "activation1", "output"]
    assert 0 < quantity(table, "activation1", "saturated") < 1

    class HandMadeGELU(nn.Module):
        def forward(self, x):
            return 0.5 * x * (1 + torch.tanh(0.8 * x))

    table = probe(nn.Sequential(nn.Linear(4, 4), HandMadeGELU()), torch.randn(3, 4))
    assert names(table) == ["0", "1"] and "saturated" not in set(table["quantity"])
    table = probe(Block(4, lambda x: x * (1 + torch.erf(x))), torch.randn(3, 4))
    assert names(table) == ["linear", "Block"] and "saturated" not in set(table["quantity"])
    table = probe(Block(4, torch.erf), torch.randn(3, 4))
    assert names(table) == ["linear", "Block"] and "saturated" in set(table["quantity"])


def test_one_name_called_again():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared, self.act = nn.Linear(4, 4), nn.ReLU(inplace=True)
            self.alias = self.shared

        def forward(self, x):
            return self.act(self.alias(F.relu(self.act(self.shared(x)))))

    model, x, loss = Model(), torch.randn(9, 4), lambda out: out.square().mean()
    with unchanged(model):
        table = probe(model, x, loss)
    assert names(table) == ["shared", "act", "relu", "shared#2", "act#2"]
    assert set(assert_same(table, by_hand(model, [x], loss))) == {"relu"}
    assert set(table.loc[table["name"] == "shared.weight", "layer"]) == {1}


def test_containers_have_a_row_for_what_they_compute():
    class Residual(nn.Module):
        def __init__(self, skip=False):
            super().__init__()
            self.linear, self.skip = nn.Linear(4, 4), skip

        def forward(self, x):
            return x if self.skip else x + self.linear(x)

    model = nn.Sequential(Residual(), Residual(skip=True), nn.Sequential(), Residual())
    x = torch.randn(5, 4)
    with unchanged(model):
        table = probe(model, x, lambda out: out.sum())
    assert names(table) == ["0.linear", "0", "3.linear", "3"]
    y = model[0](x)
    assert_same(
        table,
        {
            ("0", 1): moments(y)
            | moments(1 + torch.ones(5, 4) @ model[3].linear.weight, "gradient_")
        },
    )
    single = probe(model[0], x)
    assert names(single) == ["linear", "Residual"]
    in_place = probe(Block(4, lambda x: x.add_(1)), x)
    assert names(in_place) == ["linear", "Block"]
    shift = quantity(in_place, "Block", "mean") - quantity(in_place, "linear", "mean")
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
    with unchanged(model):
        table = probe(model, x, loss)
    assert names(table) == ["relu", "Model"]
    loss(model(x)).backward()
    expected = {
        (n, 1): moments(p.grad, WEIGHT) for n, p in model.named_parameters() if n != "unused"
    }
    assert set(assert_same(table, expected)) == {"relu", "Model"}
    assert set(table.loc[table["quantity"] == WEIGHT + "mean", "layer"]) == {1}


def test_outputs_and_inputs_of_every_shape():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.lstm = nn.Embedding(11, 6), nn.LSTM(6, 5, batch_first=True)
            self.head = nn.Linear(5, 3)

        def forward(self, tokens, scale, *, shift=0.0):
            states, (h, _) = self.lstm(self.embed(tokens) * scale + shift)
            return {"logits": self.head(h[-1]), "all": [states, tokens], "best": states.argmax(-1)}

    model, loss = Model(), lambda out: F.cross_entropy(out["logits"], torch.tensor([0, 1, 2]))
    batch = {"tokens": torch.arange(12).reshape(3, 4) % 11, "scale": torch.rand(1), "shift": 0.5}
    with unchanged(model):
        table = probe(model, batch, loss)
    assert names(table) == ["embed", "lstm[0]", "lstm[1][0]", "lstm[1][1]", "head"]
    del batch["shift"]
    positional = probe(model, [*batch.values()], loss)
    assert positional.equals(probe(model, tuple(batch.values()), loss))
    out, (h, c) = model.lstm(model.embed(batch["tokens"]) * batch["scale"])
    for name, value in (("lstm[0]", out), ("lstm[1][0]", h), ("lstm[1][1]", c)):
        value = value.double()
        assert quantity(positional, name, "mean") == pytest.approx(value.mean().item(), rel=1e-9)
    # Nothing is lost with the cell state: no gradient there.
    absent = positional["name"].eq("lstm[1][1]") & positional["quantity"].str.startswith("grad")
    assert not absent.any() and quantity(positional, "lstm[1][0]", "gradient_second_moment") > 0
    assert "lstm.weight_ih_l0" in set(positional["name"])


class Restless(nn.Module):
    """A model whose forward changes all that a forward can change."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(6), nn.Dropout(0.5)
        self.embed = nn.Embedding(9, 6, max_norm=0.1)
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6))
        self.clipped, self.frozen = nn.Linear(6, 6), nn.Linear(6, 6).requires_grad_(False)
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("memory", torch.full((6,), torch.nan))
        self.register_buffer("mask", torch.ones(6).expand(5, 6))
        self.register_buffer("sparse", torch.eye(6).to_sparse())
        self.history, self.cache, self.note = [], {}, None
        self.handle = self.frozen.register_forward_hook(lambda *_: None)

    def forward(self, x, tokens):
        self.count += 1
        self.memory = x.mean(0)
        with torch.no_grad():
            self.clipped.weight.clamp_(-0.01, 0.01)
        self.clipped.bias.data = torch.zeros(6)
        self.frozen.bias.data.fill_(7)
        self.frozen.weight.requires_grad_()
        self.handle.remove()
        self.drop.p = 0.25
        self.norm.eval()
        self.history.append(x)
        self.cache["x"] = self.note = x
        y = self.drop(self.norm(x.relu_()) + self.embed(tokens)) * self.mask
        return self.frozen(self.clipped(self.spectral(y @ self.sparse)))


def restless():
    """Return such a model with gradients, and a batch."""
    model, batch = Restless(), (torch.randn(5, 6), torch.arange(5))
    for parameter in [*model.parameters()][::2]:
        parameter.grad = torch.randn_like(parameter)
    return model, batch


def test_whatever_a_forward_changes_is_put_back():
    model, batch = restless()
    copies = [x.clone() for x in batch]
    with unchanged(model):
        first = probe(model, batch, lambda out: out.square().sum())
    with unchanged(model):
        again = probe(model, batch, lambda out: out.square().sum())
    assert all(map(torch.equal, batch, copies))
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    changed = state(model)
    model(*batch)
    after = state(model)  # the guard sees what such a forward does
    assert {k for k in after if after[k] != changed[k]} >= {"values", "attributes", "random"}


class Fail(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise ArithmeticError("in backward")


def fail(where):
    raise ArithmeticError(where)


@pytest.mark.parametrize(
    "loss",
    [
        lambda out: fail("in loss"),
        lambda out: Fail.apply(out).sum(),
        lambda out: out.sum().backward() or fail("after a backward of its own"),
    ],
)
def test_errors_in_loss_and_backward_leave_no_trace(loss):
    model, batch = restless()
    with unchanged(model), pytest.raises(ArithmeticError):
        probe(model, batch, loss)


@pytest.mark.parametrize("place", ["norm", "clipped", "frozen"])
def test_errors_in_forward_leave_no_trace(place):
    model, batch = restless()
    getattr(model, place).register_forward_hook(lambda *_: fail("in forward"))
    with unchanged(model), pytest.raises(ArithmeticError):
        probe(model, batch)


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


def test_a_graph_that_waits_for_its_backward_still_can():
    model, x = mlp(5, 5, 5, batch_norm=True), torch.randn(8, 5)
    out = model(x).square().sum()
    expected = torch.autograd.grad(out, [*model.parameters()], retain_graph=True)
    probe(model, x, lambda out: out.sum())
    out.backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), expected, strict=True))


def test_the_next_forward_is_the_one_that_was_measured():
    model, x = nn.Sequential(nn.Linear(8, 50), nn.Dropout(0.3)), torch.randn(20, 8)
    table = probe(model, x)
    assert quantity(table, "1", "zeros") == (model(x) == 0).double().mean().item()


def test_one_forward_and_one_backward():
    calls, model, x = [], mlp(6, 6, 6, 6), torch.randn(4, 6)
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    model.output.register_full_backward_hook(lambda *_: calls.append("backward"))
    probe(model, x, lambda out: out.sum())
    assert sorted(calls) == sorted(["backward", *dict(model.named_modules())])


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_in_any_grad_mode(context):
    model, loss = mlp(5, 5, 3, batch_norm=True), cross_entropy(9, 3)
    outside = probe(model, x := torch.randn(9, 5), loss)
    with context():
        with unchanged(model):
            inside = probe(model, x, loss)
            without = probe(model, x)
        assert inside.equals(outside)
        assert probe(model, x + 0, loss).equals(outside)  # an inference tensor
    kept = outside[~outside["quantity"].str.contains("gradient")].reset_index(drop=True)
    assert without.equals(kept)


def test_frozen_layers_have_a_gradient_where_autograd_computes_one():
    model, x = mlp(5, 5, 5, 5, 3), torch.randn(7, 5)
    model.hidden1.requires_grad_(False)
    model.hidden3.requires_grad_(False)
    with unchanged(model):
        table = probe(model, x, cross_entropy(7, 3))
    at = dict(tuple(table.groupby("name")["quantity"]))
    for name in ("flatten", "hidden1", "activation1"):
        assert not at[name].str.contains("gradient").any()
    for name in ("hidden2", "activation2", "hidden3", "activation3", "output"):
        assert "gradient_second_moment" in set(at[name])
    assert {"hidden2.weight", "output.bias"} <= set(at)
    assert not {"hidden1.weight", "hidden3.bias"} & set(at)


def test_checkpoints_are_not_counted_twice():
    class Model(nn.Module):
        def __init__(self, save):
            super().__init__()
            self.block, self.output, self.save = mlp(6, 6, 6, dropout=0.5), nn.Linear(6, 3), save

        def forward(self, x):
            y = checkpoint(self.block, x, use_reentrant=False) if self.save else self.block(x)
            return self.output(torch.tanh(y))

    model, x, loss = Model(True), torch.randn(8, 6), cross_entropy(8, 3)
    with unchanged(model):
        table = probe(model, x, loss)
    model.save = False
    assert table.equals(probe(model, x, loss))


def test_a_loss_may_take_derivatives_for_itself():
    model, x = mlp(6, 6, 3, activation="tanh"), torch.randn(8, 6)

    def penalty(out):
        (slope,) = torch.autograd.grad(out.exp().sum(), out, create_graph=True)
        return slope.sum()  # = out.exp().sum()

    table = probe(model, x, penalty)
    expected = probe(model, x, lambda out: out.exp().sum())
    pd.testing.assert_frame_equal(table, expected, rtol=1e-5)

    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 1), nn.Linear(6, 1)

        def forward(self, x):
            return self.a(x), self.b(x)

    def constant_in_b(out):
        a, b = (torch.autograd.grad(y.sum(), y, retain_graph=True)[0] * y for y in out)
        return (a + b.detach()).sum()

    table = probe(Heads(), x, constant_in_b)
    rows = table[table["quantity"] == "gradient_mean"]
    assert rows["name"].tolist() == ["a"] and rows["value"].tolist() == [1]


def test_bfloat16_is_summed_in_double():
    model = nn.Sequential(nn.Linear(100, 1000), nn.ReLU()).bfloat16()
    x = torch.randn(300, 100).bfloat16()
    with unchanged(model):
        table = probe(model, x, lambda out: out.float().square().sum())
    y = model(x)
    expected = moments(y.float()) | moments(2 * y.float(), "gradient_")
    assert_same(table, {("1", 1): expected})
    assert abs(y.square().mean().item() / expected["second_moment"] - 1) > 1e-6


def test_autocast():
    model, x = mlp(16, 16, 4), torch.randn(8, 16)
    with torch.autocast("cpu", torch.bfloat16):
        table = probe(model, x, cross_entropy(8, 4))
        y = model.hidden1(x)
    assert y.dtype == torch.bfloat16
    assert quantity(table, "hidden1", "mean") == pytest.approx(y.double().mean().item(), rel=1e-12)
    assert quantity(table, "hidden1.weight", WEIGHT + "second_moment") > 0


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
    with unchanged(model):
        table = probe(model, x, lambda out: out.sum())
    assert not np.isfinite(quantity(table, "hidden2", "mean"))
    assert np.isnan(quantity(table, "output", "second_moment"))
    assert quantity(table, "output", "zeros") == 0
    assert np.isfinite(quantity(table, "hidden1", "second_moment"))
    empty = probe(model, x[:0])
    assert empty["value"].isna().all() and names(empty) == names(table)


def test_a_sparse_gradient():
    model, tokens = nn.Embedding(20, 3, sparse=True), torch.tensor([[1, 5, 5], [0, 1, 1]])
    with unchanged(model):
        table = probe(model, tokens, lambda out: out.sum())
    counts = torch.bincount(tokens.flatten(), minlength=20).double()
    assert quantity(table, "weight", WEIGHT + "zeros") == (counts == 0).double().mean().item()
    assert quantity(table, "weight", WEIGHT + "mean") == pytest.approx(counts.mean().item())


@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm:FutureWarning")
def test_computed_weights_are_no_layers():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    old = nn.utils.spectral_norm(nn.Linear(4, 4))
    model, x = nn.Sequential(layer, old), torch.randn(5, 4)
    weight = old.weight
    with unchanged(model):
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
    with unchanged(model):
        table = probe(model, x, lambda out: out.square().sum())
    rows = table[table["quantity"].str.endswith("gradient_second_moment")].set_index("name")
    assert rows["value"]["prompt"] == rows["value"]["prompt.value"] > 0


@pytest.mark.slow  # imports the compiler
def test_compiled_models_run_as_written():
    inner = mlp(6, 6, 6, 3)
    x, loss = torch.randn(8, 6), cross_entropy(8, 3)
    expected = probe(inner, x, loss)
    whole = torch.compile(inner)
    with unchanged(inner):
        assert probe(whole, x, loss).equals(expected)
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
    with unchanged(model):
        table = probe(model, x, lambda out: out.square().sum())
    assert seen == ["forward", "backward"]
    own = moments(nn.Linear.forward(model.hidden1, x))  # before the hook
    assert_same(table[~table["quantity"].str.startswith("gradient")], {("hidden1", 1): own})
    assert quantity(table, "activation1", "zeros") == 1


def test_a_view_that_is_overwritten():
    model = nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3)), nn.ReLU(inplace=True))
    x, loss = torch.randn(5, 4), lambda out: out.square().sum()
    table, expected = probe(model, x, loss), by_hand(model, [x], loss)
    expected["1", 1] = {k: v for k, v in expected["1", 1].items() if "gradient" not in k}
    assert not assert_same(table, expected)  # no gradient, and no wrong one


def test_a_scripted_model_is_one_layer():
    with pytest.warns(Warning, match="jit.script"):
        model = torch.jit.script(mlp(4, 4, 2))
    table = probe(model, torch.randn(5, 4), cross_entropy(5, 2))
    assert "hidden1.weight" in set(table["name"])


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
    with unchanged(model), pytest.raises(TypeError, match=words):
        probe(model, batch)


def test_a_packed_sequence_is_one_argument():
    packed = nn.utils.rnn.pack_sequence([torch.randn(4, 3), torch.randn(2, 3)])
    model = nn.LSTM(3, 5)
    with pytest.raises(TypeError, match="PackedSequence"):  # which of the two is meant?
        probe(model, packed)
    output = model(packed)[0]
    measured = quantity(probe(model, (packed,)), "LSTM[0][0]", "mean")
    assert measured == pytest.approx(output.data.mean().item(), rel=1e-6)


def test_targets_in_the_batch():
    with pytest.raises(TypeError, match="3 were given") as caught:
        probe(mlp(4, 4), [torch.ones(3, 4), torch.ones(3)])
    assert "2 positional inputs" in caught.value.__notes__[0]
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
    with unchanged(model), pytest.raises(ValueError, match=words):
        probe(model, x, loss)


def test_nothing_to_train():
    model, x = mlp(4, 4).requires_grad_(False), torch.randn(3, 4)
    with unchanged(model), pytest.raises(ValueError, match=r"0 trainable.*let a parameter require"):
        probe(model, x, lambda out: out.sum())
    assert names(probe(model, x)) == ["flatten", "output"]


@pytest.mark.parametrize(("model", "loss"), [(torch.relu, None), (mlp(4, 4), torch.ones(()))])
def test_models_and_losses_of_a_wrong_type(model, loss):
    words = "model is of type .*, loss of type .*: expected a torch.nn.Module and a function"
    with pytest.raises(TypeError, match=words):
        probe(model, torch.randn(3, 4), loss)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    model = mlp(784, 300, 10, dropout=0.5, batch_norm=True)
    x, loss = torch.randn(500, 784), cross_entropy(500)
    expected = probe(model.eval(), x, loss)
    model.cuda()
    targets = (torch.arange(500) % 10).cuda()
    found = probe(model, x.cuda(), lambda out: F.cross_entropy(out, targets))
    pd.testing.assert_frame_equal(found, expected, rtol=1e-3, atol=1e-6)
    before = torch.cuda.get_rng_state()
    probe(model.train(), x.cuda(), lambda out: F.cross_entropy(out, targets))
    assert torch.equal(torch.cuda.get_rng_state(), before)


@pytest.mark.slow
def test_cost():
    """Report how many forward-backward passes a probe costs (pytest -m slow -rP)."""
    cases = {
        "mlp 784-1000-1000-10, batch 512": (mlp(784, 1000, 1000, 10), torch.randn(512, 784)),
        "mlp 784-100-10, batch 100": (mlp(784, 100, 10), torch.randn(100, 784)),
        "resnet18, batch 8": (resnet18(), torch.randn(8, 3, 112, 112)),
    }
    for name, (model, x) in cases.items():
        loss, ratios = cross_entropy(len(x)), []
        for _ in range(6):
            start = time.process_time()
            loss(model(x)).backward()
            between = time.process_time()
            probe(model, x, loss)
            ratios.append((time.process_time() - between) / (between - start))
        print(f"{name}: {statistics.median(ratios[1:]):.2f} forward-backward passes")
