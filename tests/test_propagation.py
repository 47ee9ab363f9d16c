"""What probe measures equals hand-written hooks."""

import contextlib
import statistics
import time

import pandas as pd
import pytest
import torch
from probing import WEIGHT, assert_same, by_hand, cross_entropy, names, no_trace, quantity
from torch import nn
from torch.nn import functional as F

from initguide import mlp
from initguide.propagation import probe


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("with_loss", [False, True])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_mlp_equals_hand_written_hooks(dtype, activation, with_loss):
    model = mlp(784, 100, 50, 10, activation=activation, batch_norm=True, dropout=0.5).to(dtype)
    x, loss = torch.randn(100, 784, dtype=dtype), cross_entropy(100) if with_loss else None
    with no_trace(model):
        table = probe(model, x, loss)
    assert not assert_same(table, by_hand(model, [x], loss, unit=1))
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
    with no_trace(model):
        table = probe(model, x, loss)
    assert not assert_same(table, by_hand(model, [x], loss, unit=1))
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
    with no_trace(model), contextlib.nullcontext() if with_loss else torch.no_grad():
        table = probe(model, {"src": x, "src_key_padding_mask": mask}, loss)
    expected = by_hand(model, [x, None, mask], loss, unit=-1)
    assert {("layers.0.self_attn", 1), ("layers.1.linear2", 1)} <= set(expected)
    more = {"layers.0.gelu", "layers.1.gelu"}  # called as functions by the layers
    more |= {"layers.0", "layers.1"} if norm_first else set()  # residual sums
    assert set(assert_same(table, expected)) == more


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_in_any_grad_mode(context):
    model, loss = mlp(5, 5, 3, batch_norm=True), cross_entropy(9, 3)
    outside = probe(model, x := torch.randn(9, 5), loss)
    with context():
        with no_trace(model):
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
    with no_trace(model):
        table = probe(model, x, cross_entropy(7, 3))
    at = dict(tuple(table.groupby("name")["quantity"]))
    for name in ("flatten", "hidden1", "activation1"):
        assert not at[name].str.contains("gradient").any()
    for name in ("hidden2", "activation2", "hidden3", "activation3", "output"):
        assert "gradient_second_moment" in set(at[name])
    assert {"hidden2.weight", "output.bias"} <= set(at)
    assert not {"hidden1.weight", "hidden3.bias"} & set(at)


def penalty(out):
    (slope,) = torch.autograd.grad(out.exp().sum(), out, create_graph=True)
    return slope.sum()  # = out.exp().sum()


def test_a_loss_may_take_derivatives_for_itself():
    model, x = mlp(6, 6, 3, activation="tanh"), torch.randn(8, 6)
    expected = probe(model, x, lambda out: out.exp().sum())
    pd.testing.assert_frame_equal(probe(model, x, penalty), expected, rtol=1e-5)


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 1), nn.Linear(6, 1)

    def forward(self, x):
        return self.a(x), self.b(x)


def constant_in_b(out):
    a, b = (torch.autograd.grad(y.sum(), y, retain_graph=True)[0] * y for y in out)
    return (a + b.detach()).sum()


def test_derivatives_that_a_loss_takes_for_itself_are_not_listed():
    table = probe(Heads(), torch.randn(8, 6), constant_in_b)
    rows = table[table["quantity"] == "gradient_mean"]
    assert rows["name"].tolist() == ["a"] and rows["value"].tolist() == [1]


def test_autocast():
    model, x = mlp(16, 16, 4), torch.randn(8, 16)
    with torch.autocast("cpu", torch.bfloat16):
        table = probe(model, x, cross_entropy(8, 4))
        y = model.hidden1(x)
    assert y.dtype == torch.bfloat16
    assert quantity(table, "hidden1", "mean") == pytest.approx(y.double().mean().item(), rel=1e-12)
    assert quantity(table, "hidden1.weight", WEIGHT + "second_moment") > 0


def test_a_view_that_is_overwritten():
    model = nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3)), nn.ReLU(inplace=True))
    x, loss = torch.randn(5, 4), lambda out: out.square().sum()
    table, expected = probe(model, x, loss), by_hand(model, [x], loss)
    expected["1", 1] = {k: v for k, v in expected["1", 1].items() if "gradient" not in k}
    assert not assert_same(table, expected)  # no gradient, and no wrong one


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_an_encoder_and_decoder(batch_first):
    model = nn.Transformer(8, 2, 1, 1, 16, 0.0, batch_first=batch_first)
    x = (torch.randn(5, 7, 8), torch.randn(5, 7, 8))
    with no_trace(model):
        table = probe(model, x, lambda out: out.square().mean())
    on_examples = table.loc[table["quantity"] == "example_variance", "name"]
    assert {"encoder.layers.0.self_attn", "decoder.norm"} <= set(on_examples)
    assert "decoder.layers.0.multihead_attn.out_proj.weight" in set(table["name"])


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2}], ids=str)
def test_recurrent_layers(kind, options):
    model, x = kind(6, 5, **options), torch.randn(7, 3, 6)  # the sequence first
    with no_trace(model):
        table = probe(model, x, lambda out: out[0].square().mean())
    output = model(x)[0].detach().double().numpy()
    name = names(table)[0]
    assert quantity(table, name, "example_variance") == pytest.approx(
        output.var(1, ddof=1).mean(), rel=1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "efficientnet_b0", "swin_t", "googlenet"])
def test_models_of_torchvision(name):
    from torchvision.models import get_model

    options = {"init_weights": False} if name == "googlenet" else {}
    model, x = get_model(name, num_classes=10, **options), torch.randn(2, 3, 64, 64)
    with no_trace(model):
        table = probe(model, x, lambda out: cross_entropy(2)(getattr(out, "logits", out)))
    assert table["value"].notna().all()
    on_examples = (table["quantity"] == "example_variance").sum()
    assert on_examples == len(names(table)) > 50


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
