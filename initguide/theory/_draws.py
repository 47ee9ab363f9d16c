"""Which mean and variance does a scheme give a layer's parameters?"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from initguide import initializers as init
from initguide.layers import Fans
from initguide.schemes import Scheme, get_scheme


class Layer(NamedTuple):
    """How the parameters of a linear layer are drawn: means and variances."""

    fan_in: int
    fan_out: int
    mean: float
    variance: float
    bias_mean: float
    bias_variance: float


def layer_of(scheme: str | Scheme | tuple[float, float], fans: Fans, hidden: bool) -> Layer:
    """Return how a scheme draws a layer, or a pair (sigma_w, sigma_b)."""
    if isinstance(scheme, tuple):
        return Layer(*fans, 0.0, scheme[0] ** 2 / fans.fan_in, 0.0, scheme[1] ** 2)
    scheme = get_scheme(scheme)
    weight = scheme.weight if hidden or scheme.readout is None else scheme.readout
    drawn = _drawn(weight, (fans.fan_out, fans.fan_in)), _drawn(scheme.bias, (1000,), fans)
    return Layer(*fans, *drawn[0], *drawn[1])


@lru_cache(maxsize=64)
def _drawn(
    rule: float | Callable[..., Tensor], shape: tuple[int, ...], *arguments: Fans
) -> tuple[float, float]:
    """Return mean and variance of what an initializer draws: exact if it is a + b z or a + b u."""
    if not callable(rule):
        return float(rule), 0.0

    def draws(fill: Callable[..., Tensor], *arguments: Fans) -> Tensor:
        g, count = torch.Generator().manual_seed(0), math.ceil(4000 / math.prod(shape))
        blanks = torch.empty(count, *shape).double()
        return torch.cat([fill(w, *arguments, generator=g).flatten()[: 10**6] for w in blanks])

    w = draws(rule, *arguments)
    references = (draws(init.normal_), 1.0), (draws(nn.init.uniform_), 1 / 12)
    for z, variance in references:  # the same random numbers: a straight line, if it is one
        z = z - (0.5 if variance < 1 else 0)
        scale = torch.cov(torch.stack([w, z]), correction=0)[0, 1] / z.var(correction=0)
        shift = w.mean() - scale * z.mean()
        if bool(((w - shift - scale * z).abs() <= 1e-9 * (w.abs() + scale.abs())).all()):
            exact = shift.abs() > 1e-9 * scale.abs()
            return float(shift * exact), float(scale**2) * variance
    mean = w.mean() * (w.mean().abs() > 5 * w.std() / math.sqrt(len(w)))  # else it is chance
    return float(mean), float(w.square().mean() - mean**2)
