"""Where do the maps of a wide network come to rest? Scans, chords, Newton's method."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from initguide.activations import Activation
from initguide.theory._quadrature import (
    FINEST,
    expectation,
    jumps,
    next_variance,
    pair_expectations,
)

LIMIT = 1e24  # stands for q = infinity, its inverse for q = 0: phi is as good as linear there
SLACK = 1e-10  # relative error of an expectation, and then some

_STEPS = torch.arange(241, dtype=torch.float64) / 4  # of ln q: a factor of e^60 is enough
_ROUGH = 16  # parts of a panel, while variances are scanned


def resting_variance(phi: Activation, w: Tensor, b: Tensor, q_0: float) -> Tensor:
    """Return the q that the iteration q -> w E[phi^2] + b meets from q_0, or 0 or infinity.

    ``w`` and ``b`` are the weights' and biases' variances, of shape (n,).
    """

    def way_out(sign: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Go up or down until the map leads back: growth at q_0, success, last and next ln q."""
        log_q = math.log(q_0) + sign * _STEPS
        growth = next_variance(phi, log_q.exp(), w[:, None], b[:, None], _ROUGH) / log_q.exp() - 1
        back = sign * growth < -SLACK
        first = back.int().argmax(1)
        return growth[:, 0], back.any(1), log_q[(first - 1).clamp(min=0)], log_q[first]

    (growth, *upwards), (_, *downwards) = way_out(1), way_out(-1)
    up = growth > 0
    found, near, far = (torch.where(up, *pair) for pair in zip(upwards, downwards, strict=True))
    sign = torch.where(up, 1, -1)
    q = _root(lambda x: sign * (next_variance(phi, x.exp(), w, b).log() - x), near, far).exp()
    q = torch.where(found, q, torch.where(up, math.inf, 0.0))
    return torch.where(growth.abs() <= SLACK, q_0, q)


def resting_correlation(
    phi: Activation, w: Tensor, b: Tensor, q: Tensor, chi_1: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the stable fixed point of the correlation map at each q, and its slope there.

    The map is convex and fixes 1. Only if its slope there is above 1, as ``chi_1`` says, or
    infinite, as for a phi that jumps, it has one more fixed point; it is stable.
    """
    c, slope = torch.ones_like(q), chi_1.clone()
    steep = torch.full_like(chi_1, math.inf) if jumps(phi) else chi_1
    (rest,) = torch.where((steep > 1 + SLACK) & (q > 0) & q.isfinite())
    if not len(rest):
        return c, slope
    # (c' - c) / (1 - c) is concave: its chord crosses 0 below the root, and c' - c is convex,
    # so that Newton's method climbs from there.
    at_zero = (w * expectation(phi, phi.function, q.clamp(1 / LIMIT, LIMIT)) ** 2 + b) / q
    c[rest] = (at_zero / (at_zero + steep - 1))[rest]
    whole = torch.ones_like(q)
    whole[rest], _ = pair_expectations(phi, whole[rest], q[rest])
    for _ in range(50):
        both, slopes = pair_expectations(phi, c[rest], q[rest])
        slope[rest] = w[rest] * slopes
        # c' from its distance to 1, where errors of the quadrature cancel
        excess = 1 - c[rest] - w[rest] * (whole[rest] - both) / q[rest]
        move = excess / (1 - slope[rest])
        c[rest] = (c[rest] + move).clamp(0, 1)
        rest = rest[move.abs() > 1e-7]
        if not len(rest):
            break
    return c, slope


def critical_variance(phi: Activation, b: Tensor) -> Tensor:
    """Return the smallest q that is fixed where chi_1 = 1, for biases' variances of shape (n,).

    That is where q = E[phi^2] / E[phi'^2] + b; 1/LIMIT stands for 0 and LIMIT for none.
    """

    def excess(log_q: Tensor, b: Tensor, finest: int = FINEST) -> Tensor:
        q = log_q.exp()
        w = 1 / expectation(phi, lambda x: phi.derivative(x) ** 2, q, finest)
        return 1 - next_variance(phi, q, w, b, finest) / q

    log_q, at = torch.arange(-200, 201, dtype=torch.float64) / 4, torch.arange(401)
    found = excess(log_q, b[:, None], _ROUGH)
    over = found > SLACK
    exists, first = over.any(1), over.int().argmax(1)
    under = (found < -SLACK) & (at < first[:, None])
    last = torch.where(under.any(1), (under * at).amax(1), first)
    q = _root(lambda x: -excess(x, b), log_q[last], log_q[first]).exp()
    return torch.where(exists, torch.where(under.any(1), q, 1 / LIMIT), LIMIT)


def _root(f: Callable[[Tensor], Tensor], near: Tensor, far: Tensor) -> Tensor:
    """Return where f, positive at ``near`` and negative at ``far``, passes 0.

    By chords, as the Illinois rule draws them, and by bisection every third time.
    """
    above, below = f(near).clamp(min=1e-300), f(far).clamp(max=-1e-300)
    found, side = near, torch.zeros_like(near)
    for step in range(100):
        last, before = found, side
        chord = near + (far - near) * above / (above - below)
        halve = torch.full_like(chord, step % 3 == 2, dtype=torch.bool) | ~chord.isfinite()
        found = torch.where(halve, (near + far) / 2, chord)
        value = f(found)
        side = value.sign()
        again = torch.where(side == before, 0.5, 1.0)  # the other end stays where it is
        near, above = (torch.where(side > 0, *x) for x in ((found, near), (value, above * again)))
        far, below = (torch.where(side > 0, *x) for x in ((far, found), (below * again, value)))
        if bool(((found - last).abs() < 1e-14 * found.abs().clamp(min=1)).all()):
            break
    return found
