"""What the tests of lsuv_ share: data, variances by hooks, and the state of a model."""

import torch
from torch import nn
from torch.nn import functional as F

LINEAR = (nn.Linear, nn.modules.conv._ConvNd)
ROUNDING = 1e-5  # of float32 variances: eps times some dozens of layers and roundings each


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=1, mean=0.0, std=1.0):
    return torch.randn(shape, generator=generator(seed)) * std + mean


def outputs(model, *args, **kwargs):
    """Return each layer's first output in double precision, by name in order of execution."""
    seen, handles = {}, []

    def see(name):
        def hook(module, inputs, output):
            seen.setdefault(name, output.double().numpy())

        return hook

    for name, module in model.named_modules():
        if isinstance(module, LINEAR):
            handles.append(module.register_forward_hook(see(name)))
    with torch.no_grad():
        model(*args, **kwargs)
    for handle in handles:
        handle.remove()
    return seen


def variances(model, *args, **kwargs):
    """Return the variance of each layer's first output over all its elements."""
    return {name: y.var() for name, y in outputs(model, *args, **kwargs).items()}


def snapshot(model):
    return {
        "state": {k: v.clone() for k, v in model.state_dict(keep_vars=False).items()},
        "modes": [m.training for m in model.modules()],
        "hooks": [
            len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
            for m in model.modules()
        ],
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "wanted": [p.requires_grad for p in model.parameters()],
        "buffers": [id(b) for b in model.buffers()],
    }


def assert_same(one, other, but=()):
    """Compare two snapshots; ``but`` names entries of the state that may differ."""
    for key in ("modes", "hooks", "wanted", "buffers"):
        assert one[key] == other[key], key
    for a, b in zip(one["gradients"], other["gradients"], strict=True):
        assert (a is None and b is None) or torch.equal(a, b)
    assert one["state"].keys() == other["state"].keys()
    for key, value in one["state"].items():
        assert key in but or torch.equal(value, other["state"][key]), key


class Random(nn.Module):
    """What can leave a trace: dropout, batch statistics, buffers, random numbers, own modes."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(6, 30), nn.Linear(30, 30), nn.Linear(30, 4)
        self.norm, self.frozen = nn.BatchNorm1d(30), nn.BatchNorm1d(30)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("state", torch.zeros(3))
        self.register_buffer("wide", torch.zeros(1).expand(4))

    def forward(self, x):
        self.calls += 1
        self.state = torch.rand(3)
        x = self.norm(self.one(x))
        x = F.dropout(torch.relu(self.frozen(x)), training=self.training)
        return self.three(self.drop(torch.relu(self.two(x))))
