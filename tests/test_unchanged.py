"""Whatever a forward pass changes, a model is what it was before."""

import copy
import pickle
import random
import threading
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from probing import names, no_trace, quantity, state
from torch import nn

from initguide import mlp
from initguide.propagation import probe


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


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
    with no_trace(model):
        first = probe(model, batch, lambda out: out.square().sum())
    with no_trace(model):
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
    with no_trace(model), pytest.raises(ArithmeticError):
        probe(model, batch, loss)


@pytest.mark.parametrize("place", ["norm", "clipped", "frozen"])
def test_errors_in_forward_leave_no_trace(place):
    model, batch = restless()
    getattr(model, place).register_forward_hook(lambda *_: fail("in forward"))
    with no_trace(model), pytest.raises(ArithmeticError):
        probe(model, batch)


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


# -- Attributes ----------------------------------------------------------------------------


@dataclass
class Memo:
    steps: int = 0
    seen: list = field(default_factory=list)


class Keeper(nn.Module):
    """A linear layer whose forward changes something that the model holds."""

    def __init__(self, held, change):
        super().__init__()
        self.held, self.change, self.linear = held, change, nn.Linear(4, 4)

    def forward(self, x):
        self.change(self.held)
        return self.linear(x)


ATTRIBUTES = {
    "Counter": (Counter("aab"), lambda h: h.update("abc")),
    "OrderedDict": (OrderedDict(a=1, b=2), lambda h: h.move_to_end("a")),
    "defaultdict": (defaultdict(list, a=[1]), lambda h: h["b"].append(h["a"].pop())),
    "nested dicts": ({"a": {"b": {"c": 1}}}, lambda h: h["a"]["b"].update(c=2, d=3)),
    "dict of dicts of lists": ({"a": {"b": [1]}}, lambda h: h["a"]["b"].append(2)),
    "list in a tuple": (([1], 2), lambda h: h[0].append(3)),
    "list of sets": ([{1}, {2}], lambda h: h[1].add(3)),
    "deque": (deque([1, 2, 3], maxlen=3), lambda h: h.append(4)),
    "dataclass": (Memo(), lambda h: h.seen.append(setattr(h, "steps", 1))),
    "array": (np.zeros(3), lambda h: np.add(h, 1, out=h)),
    "array in a dict": ({"a": np.eye(2)}, lambda h: h["a"].fill(7)),
    "array of no dimension": (np.array(1), lambda h: h.fill(7)),
    "tensor": (torch.zeros(3), lambda h: h.add_(1)),
    "tensor in a list": ([torch.zeros(3)], lambda h: h[0].add_(1)),
    "module in a list": ([nn.BatchNorm1d(4)], lambda h: h[0](torch.randn(5, 4))),
    "mode of a module in a list": ([nn.Dropout()], lambda h: h[0].eval()),
    "random.Random": (random.Random(0), lambda h: h.random()),
    "numpy's Generator": (np.random.default_rng(0), lambda h: h.random()),
    "numpy's RandomState": (np.random.RandomState(0), lambda h: h.rand()),
}


@pytest.mark.parametrize("kind", ATTRIBUTES)
def test_what_an_attribute_holds_is_put_back(kind):
    model, x = Keeper(*ATTRIBUTES[kind]), torch.randn(5, 4)
    held, before = model.held, pickle.dumps(model.held)
    probe(model, x)
    assert model.held is held and pickle.dumps(held) == before
    model(x)
    assert pickle.dumps(held) != before  # else the test shows nothing


def test_a_generator_that_an_attribute_holds_is_put_back():
    model = Keeper([torch.Generator()], lambda held: torch.rand(3, generator=held[0]))
    before = model.held[0].get_state()
    probe(model, torch.randn(5, 4))
    assert torch.equal(model.held[0].get_state(), before)


@pytest.mark.parametrize("kind", ["Counter", "array", "tensor"])
def test_what_an_attribute_holds_is_put_back_after_an_error(kind):
    model = Keeper(*ATTRIBUTES[kind])
    before = pickle.dumps(model.held)
    with pytest.raises(RuntimeError, match="shapes"):
        probe(model, torch.randn(5, 9))
    assert pickle.dumps(model.held) == before


@pytest.mark.parametrize(
    ("draw", "state"),
    [(random.random, random.getstate), (np.random.rand, lambda: np.random.get_state()[2])],
    ids=["random", "numpy"],
)
def test_random_states_outside_torch_are_put_back(draw, state):
    model, before = Keeper(None, lambda _: draw()), state()
    probe(model, torch.randn(5, 4))
    assert state() == before


def test_an_array_that_cannot_be_written_to_is_no_trouble():
    constant = np.zeros(3)
    constant.flags.writeable = False
    assert names(probe(Keeper(constant, lambda _: None), torch.randn(5, 4)))


def test_a_buffer_overwritten_with_what_has_a_gradient_gets_no_history():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.register_buffer("state", torch.ones(4))

        def forward(self, x):
            self.state.mul_(self.linear(x).mean())
            return self.linear(x) * self.state

    model, x = Model(), torch.randn(5, 4)
    with no_trace(model):
        probe(model, x, lambda out: out.sum())
    assert model.state.is_leaf and model.state.tolist() == [1.0] * 4


def test_in_autocast_no_copy_of_a_weight_outlives_the_probe():
    model, x = mlp(4, 4, 3), torch.randn(5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            probe(model, x)
        out = model(x)  # else with a copy that was made without gradients
    out.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


# -- Inputs --------------------------------------------------------------------------------

Pair = namedtuple("Pair", ["one", "two"])


class InPlace(nn.Module):
    """Works in place on the tensor or array that a function finds in its inputs."""

    def __init__(self, find):
        super().__init__()
        self.find, self.linear = find, nn.Linear(4, 4)

    def forward(self, batch):
        x = self.find(batch)
        x *= 0
        return self.linear(torch.as_tensor(x, dtype=torch.float32))


INPUTS = {
    "tensor": (lambda x: x, lambda b: b),
    "list": (lambda x: [x], lambda b: b[0]),
    "list of tuples": (lambda x: [(x, 1)], lambda b: b[0][0]),
    "dict of dicts": (lambda x: {"a": {"b": x}}, lambda b: b["a"]["b"]),
    "namedtuple": (lambda x: Pair(1, [x]), lambda b: b.two[0]),
    "dataclass": (lambda x: Memo(seen=[x]), lambda b: b.seen[0]),
    "object": (lambda x: SimpleNamespace(a=SimpleNamespace(b=x)), lambda b: b.a.b),
    "object, not a leaf": (lambda x: SimpleNamespace(a=x.requires_grad_() * 2), lambda b: b.a),
    "array": (lambda x: x.numpy(), lambda b: b),
    "array in a list": (lambda x: [x.numpy()], lambda b: b[0]),
    "packed sequence": (
        lambda x: nn.utils.rnn.pack_padded_sequence(x[None], [5], batch_first=True),
        lambda b: b.data,
    ),
    "beside what has no copy": (lambda x: [threading.Lock(), (x,)], lambda b: b[1][0]),
    "in a dict beside what has no copy": (
        lambda x: {"a": threading.Lock(), "b": x},
        lambda b: b["b"],
    ),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_inputs_are_copied_at_any_depth(kind):
    make, find = INPUTS[kind]
    batch = make(torch.randn(5, 4))
    before = torch.as_tensor(find(batch)).detach().clone()
    probe(InPlace(find), (batch,))
    assert torch.equal(torch.as_tensor(find(batch)), before) and before.any()


def test_an_input_that_occurs_twice_is_one_copy():
    class Same(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, one, two):
            assert one is two[0]
            return self.linear(one)

    x = torch.randn(5, 4)
    assert names(probe(Same(), (x, [x]))) == ["linear"]


class Physics(nn.Module):
    """A network whose output is the slope of another one by the input."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x):
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(self.inner(x).sum(), x, create_graph=True)
        return slope


def square(out):
    return out.square().mean()


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: {"x": x}])
@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("loss", [None, square])
def test_a_model_may_differentiate_by_its_input(wrap, context, loss):
    model, x = Physics(), torch.randn(5, 2, requires_grad=True)
    with context(), no_trace(model):
        table = probe(model, wrap(x), loss)
    slope = model(x)
    assert quantity(table, "Physics", "mean") == pytest.approx(slope.mean().item(), rel=1e-5)
    assert x.requires_grad and x.is_leaf and x.grad is None


def test_gradients_of_a_loss_of_slopes():
    model, x = Physics(), torch.randn(5, 2, requires_grad=True)
    table = probe(model, x, square)
    square(model(x)).backward()
    expected = model.inner[0].weight.grad.square().mean().item()
    measured = quantity(table, "inner.0.weight", "weight_gradient_second_moment")
    assert measured == pytest.approx(expected, rel=1e-5)


def test_a_loss_may_differentiate_by_the_callers_input():
    model, x = Physics().inner, torch.randn(5, 2, requires_grad=True)

    def loss(out):
        (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        return slope.square().mean()

    table = probe(model, x, loss)
    loss(model(x)).backward()
    expected = model[0].weight.grad.square().mean().item()
    measured = quantity(table, "0.weight", "weight_gradient_second_moment")
    assert measured == pytest.approx(expected, rel=1e-5)


def test_the_gradient_of_an_input_is_kept():
    model, x = mlp(4, 4), torch.randn(5, 4, requires_grad=True)
    x.grad = torch.ones(5, 4)
    with pytest.raises(ValueError, match="NoneType"):
        probe(model, x, lambda out: out.sum().backward())
    assert torch.equal(x.grad, torch.ones(5, 4))


# -- Inference mode ------------------------------------------------------------------------


def inference():
    with torch.inference_mode():
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_a_model_built_in_inference_mode_is_measured(context):
    model, x = inference(), torch.randn(5, 4)
    ordinary = pickle.loads(pickle.dumps(model))
    with context(), no_trace(model):
        table = probe(model, x)
    pd.testing.assert_frame_equal(table, probe(ordinary, x))


def test_a_model_built_in_inference_mode_has_no_gradients():
    model, x = inference(), torch.randn(5, 4)
    words = r"'0\.weight' was made in inference mode.*copy.deepcopy\(model\)"
    with no_trace(model), pytest.raises(ValueError, match=words):
        probe(model, x, square)


def test_a_copy_of_a_model_built_in_inference_mode_has_gradients():
    table = probe(copy.deepcopy(inference()), torch.randn(5, 4), square)
    assert quantity(table, "0.weight", "weight_gradient_second_moment") > 0
