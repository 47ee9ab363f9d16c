"""lsuv_ does all or nothing, and leaves no trace but in weights and biases."""

import math

import numpy as np
import pytest
import torch
from rescaling import Random, assert_same, generator, normal, snapshot
from torch import nn
from torch.nn import functional as F

from initguide import mlp
from initguide.lsuv import lsuv_


@pytest.fixture(params=[True, False])
def fast_path(request):
    torch.backends.mha.set_fastpath_enabled(request.param)
    yield request.param
    torch.backends.mha.set_fastpath_enabled(True)


def test_nothing_else_is_changed(fast_path):
    model, batch = Random(), normal(64, 6, mean=2.0)
    model.frozen.eval()
    model(batch).square().mean().backward()
    model.two.weight.requires_grad_(False)
    calls = []
    model.two.register_forward_hook(lambda m, x, y: calls.append(y.var().item()))
    before, state = snapshot(model), torch.get_rng_state()
    report = lsuv_(model, batch, generator=generator(), tolerance=0.01, frozen=True)
    touched = [f"{layer.name}.{kind}" for layer in report.layers for kind in ("weight", "bias")]
    assert_same(before, snapshot(model), but=touched)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.backends.mha.get_fastpath_enabled() is fast_path and torch.is_grad_enabled()
    assert calls == [pytest.approx(1, abs=0.01)]  # the user's hook sees the one real output


class Broken(nn.Module):
    """A layer, something that goes wrong, another layer."""

    def __init__(self, middle):
        super().__init__()
        self.one, self.two = nn.Linear(4, 5), nn.Linear(5, 6)
        self.norm, self.middle = nn.BatchNorm1d(5), middle

    def forward(self, x):
        return self.two(self.middle(self.norm(self.one(x))))


def interrupt(x):
    raise KeyboardInterrupt


class Held(nn.Module):
    """Changes more than its parameters, and then fails or not."""

    def __init__(self, fails):
        super().__init__()
        self.one, self.two, self.fails = nn.Linear(4, 5), nn.Linear(5, 6), fails
        self.embed = nn.Embedding(9, 5, max_norm=0.1)
        self.steps, self.memory = {"n": [0]}, np.zeros(3)

    def forward(self, x):
        self.steps["n"].append(1)
        self.memory += 1
        self.extra = self.one(x) + self.embed(torch.arange(len(x)) % 9)
        self.two.bias.data = torch.ones(6)
        if self.fails:
            raise ArithmeticError
        return self.two(self.extra)


@pytest.mark.parametrize("fails", [True, False])
def test_what_else_a_forward_changes_is_put_back(fails):
    model = Held(fails)
    before, embedding = snapshot(model), model.embed.weight
    try:
        lsuv_(model, normal(32, 4), generator=generator())
    except ArithmeticError:
        assert fails
    done = () if fails else ("one.weight", "one.bias", "two.weight", "two.bias")
    assert_same(before, snapshot(model), but=done)
    assert model.steps == {"n": [0]} and not model.memory.any() and not hasattr(model, "extra")
    assert model.embed.weight is embedding


class First(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


class Greedy(nn.Linear):
    """A linear layer that works in place on its input."""

    def forward(self, x):
        return super().forward(x.mul_(2))


IN_PLACE = {
    "first layer": (lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3)), lambda x: x),
    "a layer itself": (lambda: nn.Sequential(nn.Linear(4, 4), Greedy(4, 3)), lambda x: x),
    "a layer, the input": (lambda: First(Greedy(4, 3)), lambda x: {"x": x}),
    "positional": (lambda: First(Greedy(4, 3)), lambda x: (x,)),
}


@pytest.mark.parametrize("kind", IN_PLACE)
def test_the_batch_is_the_callers(kind):
    make, wrap = IN_PLACE[kind]
    x = normal(32, 4)
    before = x.clone()
    lsuv_(make(), wrap(x), generator=generator())
    assert torch.equal(x, before)


def test_a_layer_that_works_in_place_on_its_input_gets_the_same_input_again():
    model, x = First(Greedy(4, 30)), normal(500, 4, std=3.0)
    (layer,) = lsuv_(model, x, tolerance=0.01, generator=generator()).layers
    with torch.no_grad():
        assert model(x.clone()).var(correction=0).item() == pytest.approx(1, abs=0.01)
    assert layer.rescales == 1


FAILURES = {
    "dead": (
        ValueError,
        r"'two'.*\(32, 6\) that does not vary.*dead",
        lambda x: torch.relu(x - 99),
    ),
    "overflow": (ValueError, "'two'.*not finite.*NaN and infinity", lambda x: x / 0),
    "nan": (ValueError, "'two'.*not finite", lambda x: x * torch.nan),
    "shape": (RuntimeError, "shapes cannot be multiplied", lambda x: x[:, :2]),
    "interrupt": (KeyboardInterrupt, None, interrupt),
}


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("name", FAILURES)
def test_after_an_error_the_model_is_what_it_was(name, mode):
    kind, words, middle = FAILURES[name]
    model = Broken(middle).train(mode)
    before, state = snapshot(model), torch.get_rng_state()
    with pytest.raises(kind, match=words):
        lsuv_(model, normal(32, 4), generator=generator())
    assert_same(before, snapshot(model))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.backends.mha.get_fastpath_enabled() and torch.is_grad_enabled()


def failing(model, batch, words, kind=ValueError, **options):
    before = snapshot(model)
    with pytest.raises(kind, match=words):
        lsuv_(model, batch, **options)
    assert_same(before, snapshot(model))


def test_a_bias_that_varies_too_much_does_not_converge():
    model = mlp(4, 30, 2)
    with torch.no_grad():
        model.hidden1.bias.copy_(torch.linspace(-5, 5, 30))
    failing(
        model, normal(32, 4), r"'hidden1'.* after 3 rescales: expected 1 within 0\.1.*orthogonal=",
        orthogonal=False, max_rescales=3,
    )  # fmt: skip
    lsuv_(model, normal(32, 4))


def test_an_output_that_does_not_grow_with_the_weight_does_not_converge():
    class Normed(nn.Linear):
        def forward(self, x):
            return 9 * F.linear(x, F.normalize(self.weight))

    words = r"'0'.*variance (\d|\.)+ after 10 rescales.*Raise tolerance"
    failing(nn.Sequential(Normed(4, 3)), normal(32, 4), words, generator=generator())


CONSTANT = {
    "equal inputs": (
        lambda: normal(1, 33).expand(77, 33),
        "'0'.*does not vary.*different examples",
    ),
    "zeros": (lambda: torch.zeros(9, 33), "'0'.*does not vary"),
    "no example": (lambda: torch.zeros(0, 33), r"'0'.*\(0, 1\) that does not vary"),
}


@pytest.mark.parametrize("kind", CONSTANT)
def test_an_output_that_does_not_vary(kind):
    make, words = CONSTANT[kind]
    failing(nn.Sequential(nn.Linear(33, 1)), make(), words)


def test_equal_inputs_vary_over_units():
    (layer,) = lsuv_(nn.Linear(33, 40), normal(1, 33).expand(77, 33)).layers
    assert layer.after == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tolerance": 0.0}, r"tolerance=0\.0.*between 0 and 1"),
        ({"tolerance": 1.0}, r"tolerance=1\.0.*between 0 and 1"),
        ({"tolerance": math.nan}, r"tolerance=nan.*between 0 and 1"),
        ({"max_rescales": 0}, "max_rescales=0.*at least 1"),
    ],
)
def test_arguments_out_of_range(options, words):
    failing(mlp(4, 3, 2), normal(32, 4), words, **options)


@pytest.mark.parametrize("batch", [np.ones((32, 4)), None, "data"])
def test_other_batches(batch):
    words = rf"type {type(batch).__name__}.*tensor, a tuple or list.*dict.*tuple: \(x,\)"
    failing(mlp(4, 3, 2), batch, words, kind=TypeError)


def test_a_model_without_a_layer_to_rescale():
    failing(nn.BatchNorm1d(4), normal(32, 4), "BatchNorm1d has no layer.*Linear, Conv")


def test_a_layer_that_the_batch_does_not_reach():
    unused = nn.Module()
    unused.one, unused.forward = nn.Linear(4, 4), lambda x: x
    failing(unused, normal(32, 4), "reached none of one.*calls its layers")


@pytest.mark.parametrize(
    "layer", [lambda: nn.LazyLinear(3), lambda: nn.Linear(4, 3, device="meta")]
)
def test_weights_without_memory(layer):
    model = nn.Sequential(nn.Linear(4, 4), layer())
    before = model[0].weight.detach().clone()
    with pytest.raises(ValueError, match=r"'1\.weight' has no memory.*lazy.*to_empty"):
        lsuv_(model, normal(32, 4))
    assert torch.equal(model[0].weight, before)


# -- Every failure, at every layer ---------------------------------------------------------


def deep(depth=4):
    return nn.Sequential(*[nn.Linear(6, 6) for _ in range(depth)])


def spoil_forward(layer):
    layer.register_forward_pre_hook(lambda *_: 1 / 0)


def spoil_values(layer):
    layer.register_forward_pre_hook(lambda _, x: x[0] * torch.inf)


def spoil_inputs(layer):
    layer.register_forward_pre_hook(lambda _, x: x[0] * 0)


def spoil_dtype(layer):
    layer.weight.data = layer.weight.data.to(torch.float64)


def spoil_shape(layer):
    layer.weight.data = torch.zeros(0, 6)


def spoil_memory(layer):
    layer.to("meta")


SPOILED = [spoil_forward, spoil_values, spoil_inputs, spoil_dtype, spoil_shape, spoil_memory]


@pytest.mark.parametrize("spoil", SPOILED)
@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("orthogonal", [True, False])
def test_no_failure_at_any_layer_changes_the_model(spoil, at, orthogonal):
    model = deep()
    spoil(model[at])
    whole = [m for m in model if not m.weight.is_meta]
    before = [p.detach().clone() for m in whole for p in m.parameters()]
    with pytest.raises((ZeroDivisionError, ValueError, RuntimeError)):
        lsuv_(model, normal(32, 6), orthogonal=orthogonal, generator=generator())
    after = [p for m in whole for p in m.parameters()]
    assert all(map(torch.equal, before, after))


# -- What it is, in words ------------------------------------------------------------------


def test_a_zero_readout_is_called_what_it_is():
    model = mlp(4, 5, 3)
    nn.init.zeros_(model.output.weight)
    words = "weight of 'output' is zero: .*requires_grad_.False.*orthogonal=True"
    failing(model, normal(32, 4), words, orthogonal=False)


def test_a_zero_readout_with_a_bias_that_varies_too():
    model = mlp(4, 5, 3)
    nn.init.zeros_(model.output.weight)
    nn.init.normal_(model.output.bias)
    failing(model, normal(32, 4), "weight of 'output' is zero", orthogonal=False)


def test_a_zero_readout_may_be_frozen_as_the_message_says():
    model = mlp(4, 5, 3)
    nn.init.zeros_(model.output.weight).requires_grad_(False)
    assert "output.weight" in lsuv_(model, normal(32, 4), orthogonal=False).left_alone
    assert not model.output.weight.any()


class LowRank(nn.Module):
    """What follows sees only what a product of two parameters gives, of which one is zero."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.randn(4, 2))
        self.b = nn.Parameter(torch.zeros(2, 4))
        self.after = nn.Linear(4, 3)

    def forward(self, x):
        return self.after(x @ self.a @ self.b)


@pytest.mark.parametrize("orthogonal", [True, False])
def test_zeros_that_a_parameter_makes_are_not_blamed_on_an_activation(orthogonal):
    model = LowRank()
    nn.init.zeros_(model.after.bias)
    words = "'after'.*does not vary: its inputs are zero, and so is b.*freeze this layer"
    failing(model, normal(32, 4), words, orthogonal=orthogonal)


def test_inputs_that_are_zero():
    words = "'0'.*does not vary: its inputs are zero. Look for zeros in the batch"
    failing(nn.Sequential(nn.Linear(4, 3)), torch.zeros(32, 4), words)


def test_a_frozen_bias_that_varies_too_much():
    model = mlp(4, 30, 2)
    with torch.no_grad():
        model.hidden1.bias.copy_(torch.linspace(-5, 5, 30))
    model.hidden1.bias.requires_grad_(False)
    failing(model, normal(32, 4), "Its bias, .*pass frozen=True to zero it", generator=generator())


def test_a_model_that_is_frozen_throughout():
    model = mlp(4, 5, 3).requires_grad_(False)
    failing(model, normal(32, 4), "2 frozen layers: expected .*Pass frozen=True")
    assert len(lsuv_(model, normal(32, 4), frozen=True).layers) == 2


@pytest.mark.filterwarnings("ignore")
def test_sharded_weights(tmp_path):
    from torch.distributed.fsdp import fully_shard

    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = mlp(4, 5, 3)
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        fully_shard(model, mesh=mesh)
        before = [p.full_tensor().clone() for p in model.parameters()]
        with pytest.raises(ValueError, match=r"'hidden1' is sharded.*before fully_shard"):
            lsuv_(model, normal(32, 4))
        after = [p.full_tensor() for p in model.parameters()]
        assert all(map(torch.equal, before, after))
    finally:
        torch.distributed.destroy_process_group()
