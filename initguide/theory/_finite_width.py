"""What one layer does to a signal: to its Gaussian, its spread over networks, its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor, nn

from initguide import initializers as init
from initguide.activations import Activation
from initguide.layers import Fans
from initguide.schemes import Scheme, get_scheme
from initguide.theory._quadrature import HUGE, nodes

Rows = list[tuple[int, str, str, tuple[Tensor, Tensor, Tensor]]]  # value, low, high

_ROUNDING = 1e-6  # relative, in a network of single precision
_FEW = 1 / 5  # relative variance of an average that is decided by fewer than five units


class Signal(NamedTuple):
    """What a layer puts out: moments over its units, and their variance from net to net."""

    nodes: Tensor  # of a standard normal variable that sets the units' mean; one if it is certain
    mean: Tensor  # this and all below: for each input and node
    square: Tensor
    mean_variance: Tensor
    square_variance: Tensor  # relative to square ** 2
    covariance: Tensor  # relative to square
    rare: Tensor  # whether so few units decided somewhere that nothing is log-normal any more


class Units(NamedTuple):
    """Pre-activations: Gaussian, given the node and the logarithm of their variance."""

    nodes: Tensor
    mean: Tensor
    variance: Tensor
    log_variance: Tensor  # of the logarithm of the variance
    rare: Tensor

    def average(self, x: Tensor) -> Tensor:
        """Average over the nodes."""
        return (x * torch.softmax(-(self.nodes**2) / 2, 0)).sum(-1, keepdim=True)


def units_of(
    signal: Signal, n: int, weight: float, spread: float, bias: float, bias_spread: float
) -> Units:
    h, m_1, m_2, v_1, v_2, v_12, rare = signal
    begin = len(h) == 1 and bool((weight * v_1 != 0).any())
    if begin:  # no node in the middle: there an odd activation would stay at 0 for ever
        h = torch.linspace(-6, 6, 96).double()
    square = n * spread * m_2
    variance = square + bias_spread
    share = (square / variance).nan_to_num()
    units = Units(h, n * weight * m_1 + bias, variance, torch.log1p(share**2 * v_2), rare)
    middle, new = units.average(units.mean), n * weight * v_1.sqrt()
    # Old and new fluctuation of the mean add node by node, the new one shrunk by so much that
    # their variances add.
    both, fresh = units.average(h * (units.mean - middle) * new), units.average(new**2)
    shrunk = (fresh / (both.abs() + torch.hypot(both, fresh))).nan_to_num()
    mean = units.mean + torch.where(both < 0, -1.0, 1.0) * shrunk * new * h
    rest = units.log_variance
    if begin:  # ln(variance) goes with the mean as far as they correlate
        slope = (share * v_12 / v_1.sqrt()).nan_to_num()
        slope = torch.minimum(slope.abs(), rest.sqrt()) * slope.sign()
        variance = variance * torch.exp(slope * h - slope**2 / 2)
        rest = (rest - slope**2).clamp(min=0)
    limit = math.sqrt(HUGE)
    return Units(h, mean.clamp(-limit, limit), variance.clamp(max=HUGE), rest, rare)


def linear(place: tuple[int, str], units: Units, n: int, level: float) -> Rows:
    _, mean, variance, _, _ = units
    square = mean**2 + variance
    share = (variance / square).nan_to_num()
    return _rows(
        place, units, level, mean, variance / n, square, share, 2 * share * (2 - share) / n
    )


def activate(
    place: tuple[int, str], phi: Activation, units: Units, n: int, level: float
) -> tuple[Signal, Rows]:
    x, t, w = nodes(phi, units.mean, units.variance)
    y = phi(x)
    square = (w * y**2).sum(-1)
    size = torch.where(square > 0, square.sqrt(), 1.0)
    y /= size[..., None]  # fourth powers neither overflow nor vanish
    one, three, four = ((w * y**k).sum(-1) for k in (1, 3, 4))
    # Stein: d E[f] / d ln K = E[f (t^2 - 1)] / 2.
    rise, slope = ((w * y**k * (t * t - 1)).sum(-1) / 2 for k in (1, 2))
    share = (units.variance > 0) / n
    noise = share * (four - 1).clamp(min=0)
    grown = units.log_variance.exp()
    v_1 = grown * share * (1 - one**2).clamp(min=0) + (grown - 1) * rise**2
    v_2 = grown * noise + (grown - 1) * slope**2
    v_12 = grown * share * (three - one) + (grown - 1) * rise * slope
    mean, v_1, v_12 = size * one, square * v_1, size * v_12
    units = units._replace(rare=units.rare | (noise > _FEW))
    signal = Signal(units.nodes, mean, square, v_1, v_2, v_12, units.rare)
    return signal, _rows(place, units, level, mean, v_1, square, slope.abs(), noise)


def _rows(
    place: tuple[int, str],
    units: Units,
    level: float,
    mean: Tensor,
    error: Tensor,
    square: Tensor,
    share: Tensor,
    noise: Tensor,
) -> Rows:
    """Describe a module, given its mean, square and their errors at each node."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    infinite = (units.variance >= HUGE) | (units.mean.abs() >= math.sqrt(HUGE))
    square = torch.where(infinite, math.inf, square)
    s = units.log_variance.sqrt()
    low, high = _band(square, share * s, noise, level, units.rare)
    near = units.nodes.abs() <= max(z, 0.1)
    middle = units.average(mean)
    # A mean's own variance is as log-normal as that of the units. The tail of such a mixture is
    # that of its likeliest point, at this angle between both normal variables.
    sine = z * s / (1 + torch.sqrt(1 + (z * s) ** 2))
    error = error * (1 - sine**2) * torch.exp(z * s * sine - s**2 / 2)
    error = z * units.average((mean - middle) ** 2 + error).sqrt() + _ROUNDING * middle.abs()
    return [
        (*place, "mean", (middle, middle - error, middle + error)),
        (
            *place,
            "second_moment",
            (units.average(square), low[:, near].amin(1), high[:, near].amax(1)),
        ),
    ]


def _band(
    value: Tensor, s: Tensor, noise: Tensor, level: float, rare: Tensor
) -> tuple[Tensor, Tensor]:
    """Return quantiles of value x a log-normal (variance s^2 of ln) x a gamma variable."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    # Wilson & Hilferty: the cube root of a gamma variable is nearly normal.
    low, high = ((1 - noise / 9 + sign * z * noise.sqrt() / 3) for sign in (-1, 1))
    low = value * torch.exp(-torch.hypot(z * s + s**2 / 2, -3 * low.clamp(min=0).log()))
    high = value * torch.exp(torch.hypot((z * s - s**2 / 2).clamp(min=0), 3 * high.log()))
    # Where few units decide, and for gradients behind weights with a mean: Markov's inequality.
    low, high = torch.where(rare, 0.0, low), torch.where(rare, value / (1 - level), high)
    return low * (1 - _ROUNDING), high * (1 + _ROUNDING)


def gradients(phi: Activation, layers: list[tuple[int, float, float, Units]], level: float) -> Rows:
    gradient = torch.ones(len(layers[0][3].mean), 1).double()
    common, s, noises = 0 * gradient, 0 * gradient, 0 * gradient
    last = layers[-1][3]  # it has all the nodes
    rare = gradient < 0
    rows: Rows = []

    def row(number: int, name: str, value: Tensor, noise: Tensor) -> None:
        value = last.average(value)
        noise = last.average(noise)
        band = _band(value, last.average(noises.sqrt() + s), noise, level, rare)
        rows.append((number, name, "gradient_second_moment", (value, *band)))

    row(2 * len(layers), "output", gradient, 0 * gradient)
    for number in range(len(layers) - 1, 0, -1):
        fan_out, weight, spread, _ = layers[number]
        n, _, _, units = layers[number - 1]
        rare = rare | (weight != 0)
        common = common * (fan_out * weight) ** 2  # of the square: what all units share
        gradient = fan_out * spread * gradient + common
        row(2 * number + 1, f"activation{number}", gradient, 2 / n + 0 * gradient)
        x, t, w = nodes(phi, units.mean, units.variance)
        y = phi.derivative(x)
        mean, square, fourth = ((w * y**k).sum(-1) for k in (1, 2, 4))
        slope = (w * y**2 * (t * t - 1)).sum(-1) / 2 / square
        gradient, common = gradient * square, common * mean**2
        common = common + (gradient - common) / n
        noise = ((3 * fourth / square**2 - 1) / n).nan_to_num()
        rare = rare | (noise > _FEW).any(-1, keepdim=True)
        row(2 * number, f"hidden{number}", gradient, noise)
        noises = noises + torch.log1p(noise)
        s = s + slope.nan_to_num().abs() * units.log_variance.sqrt()
    return rows


def moments(
    scheme: str | Scheme | tuple[float, float], fans: Fans, hidden: bool
) -> tuple[float, float, float, float]:
    """Return mean and variance of a layer's weights, and of its biases."""
    if isinstance(scheme, tuple):
        return 0.0, scheme[0] ** 2 / fans.fan_in, 0.0, scheme[1] ** 2
    scheme = get_scheme(scheme)
    weight = scheme.weight if hidden or scheme.readout is None else scheme.readout
    shape = (fans.fan_out, fans.fan_in)
    return *_drawn(weight, shape), *_drawn(scheme.bias, (1000,), fans)


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
