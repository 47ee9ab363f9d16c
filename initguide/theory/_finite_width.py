"""What one layer does to a signal: to its Gaussian, its spread over networks, its gradient.

Tensors have the shape (inputs, nodes). One node stands for everything as long as the units'
mean is certain; from where it is not, each node stands for one value of that mean.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

from initguide.activations import Activation
from initguide.theory._bands import Averages, Nodes, Place, Row, Units, band, describe, third
from initguide.theory._draws import Layer
from initguide.theory._quadrature import HUGE, check_convergence, nodes, parts_of

_FEW = 1 / 5  # relative variance of an average that is decided by fewer than five units
_WIDEST = 6  # standard deviations of the common mean that nodes reach


class Signal(NamedTuple):
    """What a layer puts out: moments over its units, and their variance from net to net."""

    nodes: Nodes
    mean: Tensor
    square: Tensor
    mean_variance: Tensor
    square_variance: Tensor  # relative to square ** 2
    covariance: Tensor  # of both, relative to square
    rare: Tensor  # whether so few units decided somewhere that nothing is log-normal any more


def predict_rows(phi: Activation, layers: list[Layer], x: Tensor, level: float) -> list[Row]:
    """Follow inputs x of shape (inputs, features) through a network, and gradients back."""
    zero = torch.zeros(len(x), 1, dtype=torch.float64)
    mean, square = x.mean(1, keepdim=True), x.square().mean(1, keepdim=True)
    certain = Nodes(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    signal = Signal(certain, mean, square, zero, zero, zero, zero > 0)
    rows: list[Row] = []
    passed: list[Units] = []
    for number, layer in enumerate(layers, start=1):
        units = preactivate(signal, layer, level)
        last = number == len(layers)
        name = "output" if last else f"hidden{number}"
        rows += describe_units(units, Place(2 * number, name, layer.fan_out, level))
        passed.append(units)
        if not last:
            place = Place(2 * number + 1, f"activation{number}", layer.fan_out, level)
            signal, described = activate(phi, units, place)
            rows += described
    return rows + gradients(phi, layers, passed, level)


def preactivate(signal: Signal, layer: Layer, level: float) -> Units:
    r"""Return the Gaussian that a linear layer makes of a signal.

    With :math:`n` inputs, :math:`A = n \mu m_1 + \mu_b` and :math:`K = n v m_2 + v_b`, where
    weights have mean :math:`\mu` and variance :math:`v`, biases :math:`\mu_b` and :math:`v_b`.
    From net to net :math:`m_2` has the relative variance :math:`v_2`, and :math:`\ln K` the
    variance :math:`\ln(1 + (n v m_2 / K)^2 v_2)`, as if :math:`K` were log-normal [hanin2018]_.
    The mean's fluctuation :math:`n \mu \sqrt{v_1}` is what nodes follow.
    """
    n, weight = layer.fan_in, layer.mean
    variance = n * layer.variance * signal.square + layer.bias_variance
    share = (n * layer.variance * signal.square / variance).nan_to_num()
    units = Units(
        signal.nodes,
        n * weight * signal.mean + layer.bias_mean,
        variance,
        torch.log1p(share**2 * signal.square_variance),
        signal.rare,
    )
    fluctuation = n * weight * signal.mean_variance.sqrt()
    if len(signal.nodes.weight) > 1:
        units = _fluctuate(units, fluctuation)
    elif bool((fluctuation != 0).any()):
        rise = (share * signal.covariance / signal.mean_variance.sqrt()).nan_to_num()
        units = _begin(units, fluctuation, rise, level)
    limit = math.sqrt(HUGE)
    return units._replace(
        mean=units.mean.clamp(-limit, limit), variance=units.variance.clamp(max=HUGE)
    )


def _begin(units: Units, fluctuation: Tensor, rise: Tensor, level: float) -> Units:
    r"""Let nodes h follow the mean, A + fluctuation h, and ln K as far as it goes with h.

    ``rise`` is the slope of ln K over h: covariance over deviation.
    """
    h = torch.linspace(-_WIDEST, _WIDEST, 96, dtype=torch.float64)
    weight = torch.cat([torch.softmax(-(h**2) / 2, 0), torch.zeros(2, dtype=torch.float64)])
    # Of no weight, but of the bands: next to where the mean passes 0. At 0 itself an odd
    # activation would stay there for ever.
    middle = (-units.mean / fluctuation).nan_to_num().clamp(-_WIDEST, _WIDEST)
    gap = NormalDist().inv_cdf((1 + third(level)) / 2)
    h = torch.cat([h.expand(len(middle), -1), middle - gap, middle + gap], 1)
    # No more than what ln K varies.
    rise = torch.minimum(rise.abs(), units.log_variance.sqrt()) * rise.sign()
    return Units(
        Nodes(h, weight),
        units.mean + fluctuation * h,
        units.variance * torch.exp(rise * h - rise**2 / 2),
        (units.log_variance - rise**2).clamp(min=0),
        units.rare,
    )


def _fluctuate(units: Units, fluctuation: Tensor) -> Units:
    r"""Add a fluctuation f of the mean to what the nodes follow: A + c f h.

    So that variances add, :math:`\text{Var}(A + c f h) = \text{Var}(A) + E[f^2]`, where c solves
    :math:`c^2 E[f^2] + 2 c E[A f h] = E[f^2]`.
    """
    h, average = units.nodes.h, units.nodes.average
    added = average(fluctuation**2)
    overlap = average(h * (units.mean - average(units.mean)) * fluctuation)
    factor = (added / (overlap.abs() + torch.hypot(overlap, added))).nan_to_num()
    sign = torch.where(overlap < 0, -1.0, 1.0)
    return units._replace(mean=units.mean + sign * factor * fluctuation * h)


def describe_units(units: Units, place: Place) -> list[Row]:
    r"""Return the rows of a linear layer: averages over n units of N(A, K).

    The mean has the variance :math:`K / n`, the second moment :math:`(4 A^2 K + 2 K^2) / n`, and
    :math:`A^2 + K` goes with :math:`\ln K` by the share :math:`K / (A^2 + K)`.
    """
    square = units.mean**2 + units.variance
    share = (units.variance / square).nan_to_num()
    error, noise = units.variance / place.width, 2 * share * (2 - share) / place.width
    return describe(place, units, Averages(units.mean, error, square, share, noise))


def activate(phi: Activation, units: Units, place: Place) -> tuple[Signal, list[Row]]:
    r"""Return what an activation makes of units, as averages over all n of them, and its rows.

    With :math:`m_k = E[\varphi^k]` at each node, averages vary by :math:`\text{Var}(\varphi) / n`
    and so on, and with :math:`\ln K`, of which :math:`m_k` has the slope
    :math:`E[\varphi^k (t^2 - 1)] / 2` by Stein's lemma. If :math:`\ln K` has the variance
    :math:`s^2`, the former grow by :math:`e^{s^2}` and the latter is multiplied by
    :math:`e^{s^2} - 1`, so that

    .. math:: v_2 = e^{s^2} \frac{m_4 - m_2^2}{n m_2^2}
        + \left(e^{s^2} - 1\right) \left(\frac{d \ln m_2}{d \ln K}\right)^2.
    """
    x, t, w = _nodes(phi, units)
    y = phi(x)
    square = (w * y * y).sum(-1)
    size = torch.where(square > 0, square.sqrt(), 1.0)
    y = y / size[..., None]  # fourth powers neither overflow nor vanish
    wy, yy = w * y, y * y
    first, third, fourth = wy.sum(-1), (wy * yy).sum(-1), (wy * yy * y).sum(-1)
    score = (t * t - 1) / 2
    rise, steepness = (wy * score).sum(-1), (wy * y * score).sum(-1)

    share = (units.variance > 0).double() / place.width  # units without variance are one
    noise = share * (fourth - 1).clamp(min=0)
    grown = units.log_variance.exp()
    mean_variance = grown * share * (1 - first**2).clamp(min=0) + (grown - 1) * rise**2
    signal = Signal(
        units.nodes,
        size * first,
        square,
        square * mean_variance,
        grown * noise + (grown - 1) * steepness**2,
        size * (grown * share * (third - first) + (grown - 1) * rise * steepness),
        units.rare | (noise > _FEW),
    )
    averages = Averages(signal.mean, signal.mean_variance, square, steepness.abs(), noise)
    rows = describe(place, units._replace(rare=signal.rare), averages)
    return signal, rows


def _nodes(phi: Activation, units: Units) -> tuple[Tensor, Tensor, Tensor]:
    """Return pre-activations, their standardized values and weights, in a third dimension."""
    points = 96 if len(units.nodes.weight) == 1 else 40  # what is averaged once more
    widest = units.variance.max().reshape(1)
    parts, change = parts_of(phi, phi.function, widest, points, power=4, settled=1e-4)
    check_convergence(phi, widest, change)
    return nodes(phi, units.mean, units.variance, points, int(parts))


def gradients(phi: Activation, layers: list[Layer], passed: list[Units], level: float) -> list[Row]:
    r"""Return the rows of gradients, relative to that of the output, from there to the input.

    A layer of m outputs turns a gradient's second moment g into :math:`m v g + (m \mu)^2 c`,
    where c is what all of its units share, and an activation g into :math:`g E[\varphi'^2]`
    and c into :math:`c E[\varphi']^2 + (g - c) / n`. From net to net an activation's average
    over n units has the relative variance :math:`(3 E[\varphi'^4] / E[\varphi'^2]^2 - 1) / n`, and
    it goes with :math:`\ln K` by the slope of :math:`\ln E[\varphi'^2]`; layers add up, as if
    all of their :math:`\ln K` were one.
    """
    last = passed[-1].nodes  # has all the nodes
    gradient = torch.ones_like(passed[0].mean)
    zero = torch.zeros_like(gradient)
    common = deviation = variance = zero  # the latter two of the logarithm
    rare = zero > 0
    rows: list[Row] = []

    def add_row(layer: int, name: str, noise: Tensor) -> None:
        value, noise = last.average(gradient), last.average(noise)
        s = last.average(deviation + variance.sqrt())
        low, high = band(value, s, noise, level, rare, level)
        rows.append(Row(layer, name, "gradient_second_moment", value, low, high))

    add_row(2 * len(layers), "output", zero)
    for number in range(len(layers) - 1, 0, -1):
        (_, m, weight, spread, *_), units = layers[number], passed[number - 1]
        n = layers[number - 1].fan_out
        rare = rare | (weight != 0)
        common = common * (m * weight) ** 2
        gradient = m * spread * gradient + common
        add_row(2 * number + 1, f"activation{number}", zero + 2 / n)

        x, t, w = _nodes(phi, units)
        y = phi.derivative(x) ** 2
        square, fourth = (w * y).sum(-1), (w * y * y).sum(-1)
        slope = ((w * y * (t * t - 1)).sum(-1) / 2 / square).nan_to_num()
        gradient, common = gradient * square, common * (w * phi.derivative(x)).sum(-1) ** 2
        common = common + (gradient - common) / n
        noise = ((3 * fourth / square**2 - 1) / n).nan_to_num()
        rare = rare | (noise > _FEW).any(-1, keepdim=True)
        deviation = deviation + slope.abs() * units.log_variance.sqrt()
        add_row(2 * number, f"hidden{number}", noise)
        variance = variance + torch.log1p(noise)
    return rows
