"""What the tests of probe share: oracles from plain hooks, and the state of a model."""

import contextlib
import copy
import functools
from collections import defaultdict

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules import module as hooks
from torch.overrides import _get_current_function_mode_stack as function_modes

WEIGHT = "weight_gradient_"


def moments(x, prefix=""):
    x = x.detach().double().numpy()
    values = {"mean": x.mean(), "second_moment": np.mean(x**2), "zeros": np.mean(x == 0)}
    return {prefix + quantity: value for quantity, value in values.items()}


def example_moments(x, unit, examples=0):
    """Return what numpy finds for the variance over examples, and for units that are 0."""
    x = x.detach().double().numpy()
    others = tuple({*range(x.ndim)} - {unit % x.ndim})
    return {
        "example_variance": x.var(axis=examples, ddof=1).mean(),
        "dead_units": np.mean((x == 0).all(axis=others)),
    }


def by_hand(model, batch, loss=None, unit=None):
    """Return ``{(name, call): quantities}`` of all leaves and parameters, from plain hooks.

    With ``unit``, the dimension that counts units, also what is said of examples and units.
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
    if unit is not None:
        for key, value in outputs.items():
            table[key] |= example_moments(value, unit)
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
        more = {"saturated", "example_variance", "dead_units"} - set(quantities)
        rows = rows.drop(more, errors="ignore")
        assert set(rows.index) == set(quantities), name
        for quantity, value in quantities.items():
            root = quantities.get(quantity.replace("mean", "second_moment"), 0) ** 0.5
            assert rows[quantity] == pytest.approx(value, rel=eps, abs=eps * root), (name, quantity)
    return found


def cross_entropy(n, classes=10):
    targets = torch.arange(n) % classes
    return lambda out: F.cross_entropy(out, targets)


def quantity(table, name, quantity):
    (value,) = table.loc[(table["name"] == name) & (table["quantity"] == quantity), "value"]
    return value


def names(table):
    return list(table.loc[table["quantity"] == "mean", "name"])


class Block(nn.Module):
    def __init__(self, width, function):
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.function = function

    def forward(self, x):
        return self.function(self.linear(x))


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
def no_trace(model):
    """Check that a model and torch's states are what they were."""
    before = state(model)
    yield
    after = state(model)
    for key, value in before.items():
        assert after[key] == value, key
