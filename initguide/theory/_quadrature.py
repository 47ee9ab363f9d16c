"""How is an expectation over Gaussians computed? By Gauss-Legendre rules between the kinks."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from initguide._elementwise import check_elementwise, find_kinks
from initguide.activations import ACTIVATIONS, Activation, Function, as_activation

HUGE = 1e300  # second moments above it count as infinite

_SETTLED = 1e-9  # relative change of an expectation from one rule to the next
_USELESS = 1e-4  # what is no expectation any more, but good enough for a scan
_SANE = 1e-10, 1e20  # variances where it should be one: those beyond stand for 0 and infinity
FINEST = 512  # parts of a panel
_AT_ONCE = 2**21  # numbers that are computed together


def prepare(activation: str | Function) -> Activation:
    """Return an activation that knows its kinks, and works on copies."""
    phi = as_activation(activation)
    if not any(phi is entry for entry in ACTIVATIONS.values()):
        with torch.random.fork_rng(devices=[]):  # a random function's draws do not count
            check_elementwise(phi)
        phi = replace(phi, kinks=find_kinks(phi, phi.function, phi.derivative))
    function, derivative = (partial(_of_copy, f) for f in (phi.function, phi.derivative))
    return replace(phi, function=function, derivative=derivative)


def _of_copy(function: Function, x: Tensor) -> Tensor:
    return function(x.clone())  # a module may work in place


def jumps(phi: Activation) -> bool:
    """Say whether the function itself jumps, as the sign does, and not only its derivative."""
    kinks = torch.tensor(sorted({0.0, *phi.kinks}), dtype=torch.float64)
    near = 1e-9 * torch.where(kinks == 0, 1, kinks.abs())
    size = torch.maximum(phi(kinks + 1).abs(), phi(kinks - 1).abs())
    return bool(((phi(kinks + near) - phi(kinks - near)).abs() > 1e-6 * size).any())


@lru_cache
def _legendre(points: int, parts: int) -> tuple[Tensor, Tensor]:
    """Return nodes and weights for (-1, 1), denser towards both ends, where kinks are."""
    x, w = np.polynomial.legendre.leggauss(points)
    x = ((2 * np.arange(parts) + 1 - parts)[:, None] + x).ravel() / parts
    w = np.tile(w, parts) / parts
    return torch.tensor(x * (3 - x * x) / 2), torch.tensor(w * (1 - x * x) * 3 / 2)


def nodes(
    phi: Activation, mean: Tensor, variance: Tensor, points: int = 96, parts: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Return x of N(mean, variance), its standardized t and weights, in a new last dimension."""
    deviation = variance.sqrt()[..., None]
    kinks = torch.tensor(sorted({0.0, *phi.kinks}), dtype=torch.float64)
    t = ((kinks - mean[..., None]) / deviation.clamp(min=1 / HUGE)).clamp(-8, 8)
    ends = torch.tensor([-8.0, 0.0, 8.0] if mean.any() else [-8.0, 8.0], dtype=torch.float64)
    edges = torch.cat([t, ends.expand(*t.shape[:-1], -1)], -1).sort().values
    half = edges.diff()[..., None] / 2
    # Between many kinks few points are enough.
    u, weight = _legendre(max(points // 6, min(points, 8 * points // half.shape[-2])), parts)
    t = (edges[..., 1:, None] - half + half * u).flatten(-2)
    w = (half * weight).flatten(-2) * torch.exp(-t * t / 2) / math.sqrt(2 * math.pi)
    return mean[..., None] + deviation * t, t, w


def _mean(
    phi: Activation, function: Function, q: Tensor, points: int, parts: int = 1, slope: bool = False
) -> tuple[Tensor, Tensor]:
    """Return E[f] and E[|f|] of N(0, q) by one rule, or with f (t^2 - 1) / 2 in place of f."""
    found = []
    for some in torch.split(q, max(1, _AT_ONCE // (points * parts * (len(phi.kinks) + 2)))):
        x, t, w = nodes(phi, torch.zeros_like(some), some, points, parts)
        y = w * function(x) * ((t * t - 1) / 2 if slope else 1)
        found.append(torch.stack([y.sum(-1), y.abs().sum(-1)]))
    value, size = torch.cat(found, 1)
    return value, size


def expectation(
    phi: Activation, function: Function, q: Tensor, finest: int = FINEST, *, slope: bool = False
) -> Tensor:
    """Return E[f(x)] of x in N(0, q), by rules that are refined until that changes nothing.

    Or its ``slope`` d E[f] / d ln q, which is E[f(x) (x^2 / q - 1)] / 2 by Stein's lemma. Raises
    ValueError if it still changes by more than 1e-4, unless coarse rules are asked for.
    """
    flat = q.flatten()
    found, size = _mean(phi, function, flat, 96, slope=slope)
    change, parts = found - _mean(phi, function, flat, 64, slope=slope)[0], 1
    settled = _SETTLED if finest == FINEST else _USELESS
    while parts < finest:
        (again,) = torch.where(change.abs() > settled * size)
        if not len(again):
            break
        parts *= 2
        old = found[again]
        found[again], size[again] = _mean(phi, function, flat[again], 96, parts, slope)
        change[again] = found[again] - old
    if finest == FINEST:
        check_convergence(phi, flat, change.abs() / size)
    return found.reshape(q.shape)


def check_convergence(phi: Activation, q: Tensor, change: Tensor) -> None:
    """Refuse averages that two rules do not agree on, in relative terms."""
    useless = (change > _USELESS) & (q > _SANE[0]) & (q < _SANE[1])
    if bool(useless.any()):
        raise ValueError(
            f"averages of {phi.name} at variance {float(q[useless][0]):.3g} do not converge: "
            "expected a function that has them and varies less. Reduce the variance."
        )


def next_variance(phi: Activation, q: Tensor, w: Tensor, b: Tensor, finest: int = FINEST) -> Tensor:
    """Return w E[phi^2] + b."""
    return w * expectation(phi, lambda x: phi(x) ** 2, q, finest) + b


def parts_of(
    phi: Activation, function: Function, q: Tensor, points: int, *, power: int, settled: float
) -> tuple[Tensor, Tensor]:
    """Return into how many parts a panel of so many points has to be divided for E[f^power].

    And how much two rules differ then.
    """
    parts, change = torch.ones_like(q, dtype=torch.int64), torch.full_like(q, math.inf)
    for finer in (1, 2, 4, 8, 16, 32):
        (again,) = torch.where(change > settled)
        if not len(again):
            break
        found, size = _mean(phi, lambda x: function(x) ** power, q[again], points, finer)
        rough, _ = _mean(phi, lambda x: function(x) ** power, q[again], 2 * points // 3, finer)
        change[again], parts[again] = (found - rough).abs() / size, finer
    return parts, change


def pair_expectations(phi: Activation, c: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Return E[f(u) f(v)] of Gaussians with variance q and correlation c, for phi and phi'.

    The latter is the former's derivative by c, over q; of a phi that jumps it is computed so.
    """
    flat, size = c.flatten(), q.flatten()
    values, slopes = torch.empty_like(flat), torch.empty_like(flat)
    # In one dimension a square varies as fast as a product does in two.
    parts, change = parts_of(phi, phi.function, size, 40, power=2, settled=1e-6)
    check_convergence(phi, size, change)
    parts = parts.maximum(parts_of(phi, phi.derivative, size, 40, power=2, settled=1e-4)[0])
    steps = jumps(phi)
    for part in sorted({*parts.tolist()}):
        (found,) = torch.where(parts == part)
        for some in torch.split(found, max(1, 32 // part**2)):  # that fit into the cache
            values[some], slopes[some] = _pairs(phi, flat[some], size[some], part, steps)
    return values.reshape(c.shape), slopes.reshape(c.shape)


def _pairs(phi: Activation, c: Tensor, q: Tensor, parts: int, steps: bool) -> tuple[Tensor, Tensor]:
    s, rest = c[:, None], (1 - c * c).clamp(min=0)
    x, t, w = nodes(phi, torch.zeros_like(q), q, 40, parts)
    y, t_y, inner = nodes(phi, s * x, (rest * q)[:, None].expand_as(x), 40, parts)  # v, given u
    left, right = w * phi(x), phi(y)
    value = (left * (inner * right).sum(-1)).sum(-1)
    if not steps:
        slope = (w * phi.derivative(x) * (inner * phi.derivative(y)).sum(-1)).sum(-1)
        return value, slope
    # d ln p(u, v) / dc, in standard variables for u and for v given u
    score = t[..., None] * t_y / rest.sqrt()[:, None, None]
    score = score + (c / rest)[:, None, None] * (1 - t_y**2)
    return value, (left * (inner * right * score).sum(-1)).sum(-1) / q
