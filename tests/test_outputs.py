"""Moments of a layer's output equal numpy's, in any precision and memory format."""

import numpy as np
import pytest
import torch
from probing import WEIGHT, assert_same, example_moments, moments, names, no_trace, quantity
from torch import nn
from torch.nn import functional as F

from initguide import mlp
from initguide._outputs import moments as sums
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


def test_of_no_example_nothing_is_known():
    model, x = mlp(4, 4, 4, 2), torch.randn(6, 4)
    empty = probe(model, x[:0])
    assert empty["value"].isna().all() and names(empty) == names(probe(model, x))


def test_a_sparse_gradient():
    model, tokens = nn.Embedding(20, 3, sparse=True), torch.tensor([[1, 5, 5], [0, 1, 1]])
    with no_trace(model):
        table = probe(model, tokens, lambda out: out.sum())
    counts = torch.bincount(tokens.flatten(), minlength=20).double()
    assert quantity(table, "weight", WEIGHT + "zeros") == (counts == 0).double().mean().item()
    assert quantity(table, "weight", WEIGHT + "mean") == pytest.approx(counts.mean().item())


# -- Examples and units --------------------------------------------------------------------


def measured(x, **options):
    return {name: float(total) / n for name, (total, n) in sums(x, **options).items()}


def test_a_collapsed_network_has_a_signal_but_no_variance_over_examples():
    model, x = mlp(784, *[100] * 10, 10), torch.rand(200, 784)
    table = probe(model, x)  # PyTorch's default
    assert 0.001 < quantity(table, "hidden10", "second_moment") < 1
    assert 0 < quantity(table, "hidden10", "example_variance") < 1e-6


def test_a_network_that_keeps_its_signal_has_variance_over_examples():
    model, x = mlp(784, *[100] * 10, 10), torch.randn(200, 784)
    for p in model.parameters():
        nn.init.zeros_(p) if p.ndim < 2 else nn.init.kaiming_normal_(p)
    assert quantity(probe(model, x), "hidden10", "example_variance") > 0.05


@pytest.mark.parametrize("shape", [(2, 3), (40, 7), (5, 6, 7), (4, 3, 5, 6), (3, 2, 4, 3, 5)])
@pytest.mark.parametrize("unit", [1, -1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_examples_and_units_equal_numpys(shape, unit, dtype):
    x = torch.randn(shape).relu().movedim(unit, 0).contiguous()
    x[0] = 0
    x = x.movedim(0, unit).to(dtype)
    found = measured(x, examples=0, unit=unit % x.ndim)
    expected = example_moments(x, unit)
    assert found["example_variance"] == pytest.approx(expected["example_variance"], rel=1e-12)
    assert found["dead_units"] == expected["dead_units"] > 0


LARGE = {
    "many examples": (70_000, 100),
    "many units": (3, 200_000),
    "many positions": (5, 3, 211, 229),
    "many of both": (300, 1001),
}


@pytest.mark.parametrize("shape", LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("shift", [0.0, 1000.0])  # by it, what is measured from an example
def test_sums_of_many_parts(shape, shift):
    x = torch.randn(shape) + shift
    expected = moments(x) | example_moments(x, 1)
    assert measured(x, examples=0, unit=1) == pytest.approx(expected, rel=1e-10, abs=1e-9)


FORMATS = {
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "every second": lambda x: x[..., ::2],
    "transposed": lambda x: x.mT,
    "examples last": lambda x: x.movedim(-1, 0),
    "expanded": lambda x: x[:, :1].expand_as(x),
}


@pytest.mark.parametrize("change", FORMATS.values(), ids=FORMATS)
def test_examples_and_units_in_any_memory_format(change):
    x = change(torch.randn(6, 5, 40, 50).relu() * torch.tensor([0.0, 1, 0, 1, 1])[:, None, None])
    expected = example_moments(x, 1)
    found = measured(x, examples=0, unit=1)
    assert found["example_variance"] == pytest.approx(expected["example_variance"], rel=1e-12)
    assert found["dead_units"] == expected["dead_units"]


@pytest.mark.parametrize("spread", [1e-3, 1e-6, 1e-9, 1e-12])
def test_examples_that_are_nearly_alike(spread):
    x = 1 + spread * torch.randn(50, 300, dtype=torch.float64)
    expected = (x - x[0]).numpy().var(0, ddof=1).mean()  # exact differences
    assert measured(x, examples=0, unit=1)["example_variance"] == pytest.approx(expected, rel=1e-3)


def test_examples_that_are_alike_have_no_variance():
    x = torch.randn(1, 300).expand(77, 300)
    assert measured(x, examples=0, unit=1)["example_variance"] == 0


def test_values_that_are_not_finite_give_no_variance():
    x = torch.randn(5, 6)
    x[2, 3] = torch.inf
    assert np.isnan(measured(x, examples=0, unit=1)["example_variance"])


def test_dead_units_of_a_convolution_are_channels():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.0))
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([-99.0, 99.0, 99.0, 99.0]))
    table = probe(model, torch.randn(5, 2, 9, 9))
    assert [quantity(table, name, "dead_units") for name in "0123"] == [0, 0.25, 0.25, 0.25]


def test_a_unit_that_is_zero_in_some_places_only_is_alive():
    x = torch.ones(3, 4, 5)
    x[:, :, 1:] = 0
    assert quantity(probe(nn.Linear(5, 5), x), "Linear", "dead_units") == 0
    assert measured(x, examples=0, unit=1)["dead_units"] == 0


DEAD = {  # a quarter of the units, whatever the order of dimensions
    "features": (nn.Linear(6, 4), (5, 6)),
    "features of a sequence": (nn.Linear(6, 4), (5, 7, 6)),
    "features of an image": (nn.Linear(6, 4), (5, 7, 8, 6)),
    "channels of a sequence": (nn.Conv1d(6, 4, 3), (5, 6, 9)),
    "channels of an image": (nn.Conv2d(6, 4, 3), (5, 6, 9, 9)),
    "channels of a volume": (nn.ConvTranspose3d(6, 4, 2), (5, 6, 3, 3, 3)),
}


@pytest.mark.parametrize("kind", DEAD)
@pytest.mark.parametrize("after", [nn.ReLU(), nn.Sequential(nn.ReLU(), nn.Dropout(0.0))], ids=str)
def test_an_activation_has_the_units_of_the_layer_before(kind, after):
    layer, shape = DEAD[kind]
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([-99.0, 99.0, 99.0, 99.0]))
    table = probe(nn.Sequential(layer, after), torch.randn(shape))
    assert table.loc[table["quantity"] == "dead_units", "value"].iloc[-1] == 0.25


def test_units_behind_a_pooling_are_those_of_the_convolution():
    model = nn.Sequential(nn.Conv1d(6, 4, 3), nn.ReLU(), nn.AvgPool1d(2), nn.ReLU())
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([-99.0, 99.0, 99.0, 99.0]))
    assert quantity(probe(model, torch.randn(5, 6, 12)), "3", "dead_units") == 0.25


class Patches(nn.Module):
    """As in ConvNeXt: a convolution, then channels last, then first again."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(3, 4, 3), nn.LayerNorm(4), nn.Linear(4, 4)

    def forward(self, x):
        y = self.conv(x)
        return torch.relu(y + self.linear(self.norm(y.movedim(1, -1))).movedim(-1, 1) - 1e3)


def test_a_sum_has_the_units_of_what_had_its_shape():
    table = probe(Patches(), torch.randn(5, 3, 8, 7))
    assert quantity(table, "relu", "dead_units") == 1


ABSENT = {
    "one example": (nn.Linear(4, 4), torch.randn(1, 4)),
    "one dimension": (nn.Flatten(0), torch.randn(5, 4)),
    "no example": (nn.Linear(4, 4), torch.randn(0, 4)),
    "no unit": (nn.Identity(), torch.randn(5, 0)),
}


@pytest.mark.parametrize("kind", ABSENT)
def test_outputs_without_examples_have_no_rows_on_them(kind):
    model, x = ABSENT[kind]
    found = set(probe(nn.Sequential(model), x)["quantity"])
    assert found >= {"mean"} and not found & {"example_variance", "dead_units"}


class Positions(nn.Module):
    """Adds an embedding of positions: one for all examples."""

    def __init__(self):
        super().__init__()
        self.embed, self.linear = nn.Embedding(7, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(x + self.embed(torch.arange(7)))


def test_a_position_embedding_has_no_examples():
    table = probe(Positions(), torch.randn(5, 7, 4))
    on_examples = table["quantity"] == "example_variance"
    assert set(table.loc[on_examples, "name"]) == {"linear"}


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_examples_of_a_transformer_in_either_order(batch_first):
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=batch_first)
    x = torch.randn(5, 7, 8)
    table = probe(nn.TransformerEncoder(layer, 2), x if batch_first else x.transpose(0, 1))
    found = table[table["quantity"] == "example_variance"].set_index("name")["value"]
    layer.self_attn.batch_first = True
    with torch.no_grad():
        expected = layer.linear1(layer.norm1(x + layer.self_attn(x, x, x)[0])).numpy()
    variance = expected.var(0, ddof=1).mean()
    assert found["layers.0.linear1"] == pytest.approx(variance, rel=1e-4)


class Tagger(nn.Module):
    def __init__(self, batch_first, swap):
        super().__init__()
        self.embed, self.head, self.swap = nn.Embedding(11, 6), nn.Linear(5, 3), swap
        self.lstm = nn.LSTM(6, 5, batch_first=batch_first)

    def forward(self, tokens):
        x = self.embed(tokens)
        states, _ = self.lstm(x.transpose(0, 1) if self.swap else x)
        return self.head(states)


@pytest.mark.parametrize(("batch_first", "swap"), [(True, False), (False, False), (False, True)])
def test_examples_of_a_recurrent_layer_in_either_order(batch_first, swap):
    model, tokens = Tagger(batch_first, swap), torch.randint(11, (5, 7))
    first = batch_first or swap
    table = probe(model, tokens if first else tokens.T)
    states, (h, _) = model.lstm(model.embed(tokens if batch_first else tokens.T))
    output = example_moments(model.head(states), -1, examples=0 if batch_first else 1)
    for name, expected in (
        ("head", output["example_variance"]),
        ("lstm[1][0]", example_moments(h, -1, examples=1)["example_variance"]),
    ):
        assert quantity(table, name, "example_variance") == pytest.approx(expected, rel=1e-5)
