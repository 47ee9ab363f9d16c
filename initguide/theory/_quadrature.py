"""How is an expectation over Gaussians computed? By Gauss-Legendre rules between the kinks."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from initguide.activations import Activation, Function, as_activation

HUGE = 1e300  # second moments above it count as infinite


def prepare(activation: str | Function) -> Activation:
    phi = as_activation(activation)
    # Of a copy: a module may work in place.
    return replace(
        phi,
        function=lambda x: phi.function(x.clone()),
        derivative=lambda x: phi.derivative(x.clone()),
    )


@lru_cache
def _legendre(points: int) -> tuple[Tensor, Tensor]:
    """Return nodes and weights for (-1, 1), denser towards both ends, where kinks are."""
    x, w = np.polynomial.legendre.leggauss(points)
    return torch.tensor(x * (3 - x * x) / 2), torch.tensor(w * (1 - x * x) * 3 / 2)


def nodes(
    phi: Activation, mean: Tensor, variance: Tensor, points: int = 96
) -> tuple[Tensor, Tensor, Tensor]:
    """Return x of N(mean, variance), its standardized t and weights, in a new last dimension."""
    u, weight = _legendre(points)
    deviation = variance.sqrt()[..., None]
    kinks = torch.tensor(sorted({0.0, *phi.kinks})).double()
    t = ((kinks - mean[..., None]) / deviation.clamp(min=1 / HUGE)).clamp(-8, 8)
    ends = torch.tensor([-8.0, 0.0, 8.0] if mean.any() else [-8.0, 8.0]).double()
    edges = torch.cat([t, ends.expand(*t.shape[:-1], -1)], -1).sort().values
    half = edges.diff()[..., None] / 2
    t = (edges[..., 1:, None] - half + half * u).flatten(-2)
    w = (half * weight).flatten(-2) * torch.exp(-t * t / 2) / math.sqrt(2 * math.pi)
    return mean[..., None] + deviation * t, t, w


def expectation(phi: Activation, function: Function, q: Tensor) -> Tensor:
    x, _, w = nodes(phi, torch.zeros_like(q), q)
    return (w * function(x)).sum(-1)


def next_variance(phi: Activation, q: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return w * expectation(phi, lambda x: phi(x) ** 2, q) + b


def pair_expectations(phi: Activation, c: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Return E[f(u) f(v)] of Gaussians with variance q and correlation c, for phi and phi'."""
    flat, size, values, slopes = c.flatten(), q.flatten(), list[Tensor](), list[Tensor]()
    for first in range(0, len(flat) or 1, 32):  # parts that fit into the cache
        r, p = flat[first : first + 32], size[first : first + 32]
        x, _, w = nodes(phi, torch.zeros_like(p), p, 40)
        rest = ((1 - r * r) * p)[:, None].expand_as(x)
        y, _, inner = nodes(phi, r[:, None] * x, rest, 40)  # v, given u
        for f, found in (phi.function, values), (phi.derivative, slopes):
            found.append((w * f(x) * (inner * f(y)).sum(-1)).sum(-1))
    return torch.cat(values).reshape(c.shape), torch.cat(slopes).reshape(c.shape)
