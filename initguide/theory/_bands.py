"""Where are a module's averages in most networks? Bands from what is known at each node."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

from initguide.theory._quadrature import HUGE

_ROUNDING = 1e-6  # relative, in a network of single precision


class Nodes(NamedTuple):
    """Values of a standard normal variable that sets the units' mean, and their weights."""

    h: Tensor
    weight: Tensor

    def average(self, x: Tensor) -> Tensor:
        """Average over the nodes."""
        return torch.where(self.weight > 0, x * self.weight, 0.0).sum(-1, keepdim=True)


class Units(NamedTuple):
    """Pre-activations: Gaussian, given the node and the logarithm of their variance."""

    nodes: Nodes
    mean: Tensor
    variance: Tensor
    log_variance: Tensor  # of the logarithm of the variance
    rare: Tensor


class Place(NamedTuple):
    """A module, and the share of networks that its bands are to hold."""

    layer: int
    name: str
    width: int
    level: float


class Row(NamedTuple):
    """What is predicted of a module, for each input."""

    layer: int
    name: str
    quantity: str
    value: Tensor
    low: Tensor
    high: Tensor


class Averages(NamedTuple):
    """A module's averages over its units, at each node."""

    mean: Tensor
    mean_variance: Tensor  # from net to net
    square: Tensor
    share: Tensor  # the power of K as which the square goes
    noise: Tensor  # its relative variance on top


def third(level: float) -> float:
    """Return a third of what may lie outside."""
    return (1 - level) / 3


def describe(place: Place, units: Units, averages: Averages) -> list[Row]:
    """Return the rows of a module: averages over the nodes, and what they reach in most networks.

    If nodes follow a mean, networks are outside for three reasons: for where the mean is, for
    how close to 0, and for what varies at one node. Each gets a third.
    """
    mean, error, square, share, noise = averages
    infinite = (units.variance >= HUGE) | (units.mean.abs() >= math.sqrt(HUGE))
    square = torch.where(infinite, math.inf, square)
    level = place.level if len(units.nodes.weight) == 1 else 1 - third(place.level)
    z, s = NormalDist().inv_cdf((1 + level) / 2), units.log_variance.sqrt()
    far = units.nodes.h.abs() > max(z, 0.1)

    def least(x: Tensor) -> Tensor:
        return x.masked_fill(far, math.inf).amin(1, keepdim=True)

    # A mean's own variance is as log-normal as that of the units. The tail of such a mixture is
    # that of its likeliest point, at this angle between both normal variables.
    sine = z * s / (1 + torch.sqrt(1 + (z * s) ** 2))
    error = error * (1 - sine**2) * torch.exp(z * s * sine - s**2 / 2)
    average = units.nodes.average
    middle = average(mean)
    # As if all were normal, at least: between two nodes there may be more.
    width = z * average((mean - middle) ** 2 + error).sqrt() + _ROUNDING * middle.abs()
    error = z * error.sqrt() + _ROUNDING * mean.abs()
    below = torch.minimum(least(mean - error), middle - width)
    above = torch.maximum(-least(-mean - error), middle + width)
    low, high = band(square, share * s, noise, level, units.rare, place.level)
    return [
        Row(place.layer, place.name, "mean", middle, below, above),
        Row(place.layer, place.name, "second_moment", average(square), least(low), -least(-high)),
    ]


def band(
    value: Tensor, s: Tensor, noise: Tensor, level: float, rare: Tensor, rare_level: float
) -> tuple[Tensor, Tensor]:
    """Return quantiles of value x a log-normal (variance s^2 of ln) x a gamma variable.

    Where few units decide, and for gradients behind weights with a mean: Markov's inequality.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    # Wilson & Hilferty: the cube root of a gamma variable is nearly normal.
    low, high = ((1 - noise / 9 + sign * z * noise.sqrt() / 3) for sign in (-1, 1))
    low = value * torch.exp(-torch.hypot(z * s + s**2 / 2, -3 * low.clamp(min=0).log()))
    high = value * torch.exp(torch.hypot((z * s - s**2 / 2).clamp(min=0), 3 * high.log()))
    low, high = torch.where(rare, 0.0, low), torch.where(rare, value / (1 - rare_level), high)
    return low * (1 - _ROUNDING), high * (1 + _ROUNDING)
