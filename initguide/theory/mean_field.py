r"""What size has a signal behind each layer of a wide random network, and its gradient?

At infinite width and with independent weights a layer's pre-activations are Gaussian, so that
two maps from layer to layer say everything: of their variance ``q``, and of the correlation
``c`` of two inputs. Weights have variance ``sigma_w**2 / fan_in``, biases ``sigma_b**2``
[poole2016]_ [schoenholz2017]_. `predict` adds finite width, and weights that have a mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from initguide.activations import Function
from initguide.layers import Fans
from initguide.schemes import Scheme
from initguide.theory._draws import layer_of
from initguide.theory._finite_width import predict_rows
from initguide.theory._fixed_points import (
    LIMIT,
    SLACK,
    critical_variance,
    resting_correlation,
    resting_variance,
)
from initguide.theory._quadrature import expectation, next_variance, pair_expectations, prepare

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FixedPoint",
    "correlation_map",
    "critical_sigma_w",
    "fixed_point",
    "jacobian_spectrum",
    "predict",
    "variance_map",
]

Numbers = Any  # a float, or a numpy array where an argument was one


@contextmanager
def _plainly() -> Iterator[None]:
    """Compute without gradients on the CPU, whatever the caller's context is."""
    elsewhere = torch.get_default_device().type != "cpu"  # else the context costs more than it does
    with (
        torch.device("cpu") if elsewhere else nullcontext(),
        torch.inference_mode(False),
        torch.no_grad(),
    ):
        yield


class FixedPoint(NamedTuple):
    r"""Where both maps come to rest, and how fast.

    Attributes
    ----------
    q, c : float or numpy.ndarray
        Variance of the pre-activations (0: the signal vanishes, infinity: it grows without
        bound), and correlation of two inputs (1: they become alike).
    chi_1, chi_c : float or numpy.ndarray
        :math:`\sigma_w^2 E[\phi'(u_1) \phi'(u_2)]` at correlation 1, the factor of a gradient's
        second moment in a layer, and at ``c``. ``chi_1`` above 1 is chaos, below 1 order.
    xi_q, xi_c, xi_gradient : float or numpy.ndarray
        Layers in which the distances to ``q`` and to ``c`` and the gradient's second moment
        fall by the factor :math:`e`; negative where they grow.
    """

    q: Numbers
    c: Numbers
    chi_1: Numbers
    chi_c: Numbers
    xi_q: Numbers
    xi_c: Numbers
    xi_gradient: Numbers


@_plainly()
def variance_map(
    activation: str | Function, q: ArrayLike, sigma_w: ArrayLike, sigma_b: ArrayLike = 0.0
) -> Numbers:
    r"""Return the variance behind a layer: :math:`\sigma_w^2 E[\phi(\sqrt q z)^2] + \sigma_b^2`.

    Eq. (3) in [poole2016]_. Numbers and arrays broadcast.

    Examples
    --------
    >>> bool(abs(variance_map("relu", 1.0, 2**0.5) - 1) < 1e-12)  # as He intended
    True
    """
    old, w, b = _tensors(q=q, sigma_w=sigma_w, sigma_b=sigma_b)
    return _numbers(next_variance(prepare(activation), old, w**2, b**2))


@_plainly()
def correlation_map(
    activation: str | Function,
    c: ArrayLike,
    q: ArrayLike,
    sigma_w: ArrayLike,
    sigma_b: ArrayLike = 0.0,
) -> Numbers:
    r"""Return the correlation behind a layer, of two inputs that both have variance ``q``.

    :math:`(\sigma_w^2 E[\phi(u_1) \phi(u_2)] + \sigma_b^2) / q'`, where :math:`u_1, u_2` have
    variance ``q`` and correlation ``c``, and :math:`q'` is that of `variance_map`; eq. (5) in
    [poole2016]_.
    """
    phi = prepare(activation)
    if not (np.abs(c) <= 1).all():
        raise ValueError(f"c={c!r} is no correlation: expected -1 to 1. Divide a covariance by q.")
    c, q, sigma_w, sigma_b = np.broadcast_arrays(c, q, sigma_w, sigma_b)
    size, w, b = _tensors(q=q, sigma_w=sigma_w, sigma_b=sigma_b)
    old = torch.tensor(c, dtype=torch.float64)
    both = w**2 * pair_expectations(phi, old, size)[0] + b**2
    return _numbers((both / next_variance(phi, size, w**2, b**2)).clamp(-1, 1))


@_plainly()
def fixed_point(
    activation: str | Function,
    sigma_w: ArrayLike,
    sigma_b: ArrayLike = 0.0,
    *,
    q_0: float = 1.0,
) -> FixedPoint:
    r"""Find where the maps lead from an input of variance ``q_0``.

    Parameters
    ----------
    activation : str, Activation, nn.Module or callable
        The nonlinearity :math:`\phi`.
    sigma_w, sigma_b : float or array
        They broadcast: a row and a column make a phase diagram.
    q_0 : float
        Start of the iteration: GELU and SiLU have several fixed points. Where every variance
        is one, as for ReLU with :math:`\sigma_w = \sqrt 2`, it stays.

    Returns
    -------
    FixedPoint

    Notes
    -----
    The variance that iteration would meet first is sought in steps of a quarter in its logarithm.
    The map of ``c`` is convex and fixes 1: if its slope there, ``chi_1``, is above 1 it has one
    more fixed point, to which Newton's method climbs. Where ``q`` is 0 or infinite, ``c`` is 1 by
    convention. [poole2016]_ [schoenholz2017]_

    Kinks of a module or a function are found. An activation that jumps, as the sign function,
    makes the slope at 1 infinite and ``c`` less than 1; ``chi_1`` is then still what its
    derivative does to a gradient, and ``chi_c`` the slope of the map at ``c``.

    ``q`` and ``chi_1`` are good to about 1e-9 and ``c`` to 1e-6, where ``q`` is below 100; do not
    trust ``chi_c`` and ``xi_c`` within 1e-3 of the edge if the activation has a kink. What
    oscillates too fast at a variance for a rule of some thousand points raises a ValueError.

    Examples
    --------
    >>> fixed_point("relu", [1.0, 2.0]).q.tolist()
    [0.0, inf]
    """
    phi = prepare(activation)
    if not (math.isfinite(q_0) and q_0 > 0):
        raise ValueError(f"q_0={q_0!r} is no variance to start from: expected a positive number.")
    w, b = (x.square() for x in _tensors(sigma_w=sigma_w, sigma_b=sigma_b))
    shape, w, b = w.shape, w.flatten(), b.flatten()
    q = resting_variance(phi, w, b, q_0)
    near = q.clamp(1 / LIMIT, LIMIT)
    chi_1 = w * expectation(phi, lambda x: phi.derivative(x) ** 2, near)
    c, chi_c = resting_correlation(phi, w, b, q, chi_1)
    slope = w * expectation(phi, lambda x: phi(x) ** 2, near, slope=True) / near
    rates = (_rate(x) for x in (slope, chi_c, chi_1))
    found = (q, c, chi_1, chi_c, *(1 / rate for rate in rates))
    return FixedPoint(*(_numbers(x.reshape(shape)) for x in found))


@_plainly()
def critical_sigma_w(activation: str | Function, sigma_b: ArrayLike = 0.0) -> Numbers:
    r"""Find the edge of chaos: the ``sigma_w`` at which ``chi_1`` is 1.

    A variance ``q`` is both critical and fixed if :math:`\sigma_w^2 = 1 / E[\phi'(\sqrt q z)^2]`
    and :math:`\sigma_b^2 = q - \sigma_w^2 E[\phi(\sqrt q z)^2]`. The smallest counts: 0 for tanh
    without bias, infinity for ReLU with one. It need not be stable: the signal of GELU and SiLU
    leaves it, for an ordered fixed point or for infinity.

    Examples
    --------
    >>> bool(abs(critical_sigma_w("tanh") - 1) < 1e-9)
    True
    """
    phi = prepare(activation)
    (bias,) = _tensors(sigma_b=sigma_b)
    q = critical_variance(phi, bias.flatten() ** 2)
    slope = expectation(phi, lambda x: phi.derivative(x) ** 2, q)
    return _numbers(slope.rsqrt().reshape(bias.shape))


@_plainly()
def jacobian_spectrum(
    activation: str | Function,
    depth: int,
    sigma_w: float,
    sigma_b: float = 0.0,
    *,
    orthogonal: bool = False,
) -> tuple[float, float]:
    r"""Return mean and variance of the squared singular values of a network's Jacobian.

    :math:`\chi_1^L` and :math:`\chi_1^{2L} L (E[\phi'^4] / E[\phi'^2]^2 - s)` at the fixed point,
    for :math:`L` layers of equal width; :math:`s` is 0 for Gaussian weights and 1 for orthogonal
    ones [pennington2018]_.

    Examples
    --------
    >>> abs(jacobian_spectrum("linear", 8, 1.0, orthogonal=True)[1]) < 1e-9  # dynamical isometry
    True
    """
    phi = prepare(activation)
    point = fixed_point(phi, sigma_w, sigma_b)
    q = torch.tensor(point.q, dtype=torch.float64).clamp(1 / LIMIT, LIMIT)
    second = expectation(phi, lambda x: phi.derivative(x) ** 2, q)
    fourth = expectation(phi, lambda x: phi.derivative(x) ** 4, q)
    mean = point.chi_1**depth
    return mean, mean**2 * depth * (float(fourth / second**2) - orthogonal)


@_plainly()
def predict(
    *widths: int,
    activation: str | Function = "relu",
    scheme: str | Scheme | tuple[float, float] = "he_normal",
    inputs: Tensor | None = None,
    level: float = 0.999,
) -> pd.DataFrame:
    r"""Predict what `probe` measures in ``mlp(*widths, activation=activation)``.

    Parameters
    ----------
    *widths : int
        Inputs, hidden units of each layer, outputs.
    activation : str, Activation, nn.Module or callable
        What follows each hidden layer.
    scheme : str or Scheme or (sigma_w, sigma_b)
        How weights and biases are drawn: their means and variances count.
    inputs : Tensor, optional
        A batch, of which each input's mean and second moment count. One input with mean 0 and
        second moment 1 by default.
    level : float
        Share of all networks whose value is from ``low`` to ``high``.

    Returns
    -------
    pandas.DataFrame
        The layers table with ``origin`` ``predicted`` and columns ``low, high``; numbers and
        names of the layers are those of `probe`. Quantities: ``mean``, ``second_moment`` and
        ``gradient_second_moment``, relative to that of ``output``, where gradients are taken to
        sum to 0, as those of cross-entropy do.

    Raises
    ------
    ValueError
        If the widths make no network, the inputs do not fit, ``level`` is not in (0, 1), or the
        activation varies too fast at the variance of a layer.

    Notes
    -----
    Given a layer's :math:`n` inputs, of mean :math:`m_1` and second moment :math:`m_2`, its units
    are independent Gaussians of mean :math:`A = n \mu m_1 + \mu_b` and variance :math:`K = n v
    m_2 + v_b`: weights have mean :math:`\mu` and variance :math:`v`, biases :math:`\mu_b` and
    :math:`v_b`. As averages over units, :math:`m_1, m_2` fluctuate around :math:`E[\phi],
    E[\phi^2]` with covariance :math:`\text{Cov}(\phi, \phi^2) / n`. What they hand on makes
    :math:`K` log-normal, where :math:`\ln K` has the variance

    .. math:: s_{l+1}^2 = \ln\left(1 + \frac{(n v m_2)^2}{K_{l+1}^2} \left[
        e^{s_l^2} \frac{\text{Var}(\phi^2)}{n\,m_2^2}
        + \left(e^{s_l^2} - 1\right) \left(\frac{d \ln m_2}{d \ln K_l}\right)^2\right]\right),

    for ReLU :math:`\ln(1 + 5/n)` more each layer, as in [hanin2018]_. :math:`A` is Gaussian
    where weights with a mean first see a signal that fluctuates; from there on its values are
    followed one by one. A layer's own average counts as gamma-distributed [wilson1931]_; in the
    logarithm both half-widths add in quadrature. Where fewer than five units decide,
    :math:`\text{Var}(\phi^2) > n\,m_2^2 / 5`, and for gradients behind weights with a mean, the
    band is Markov's: 0 to ``value / (1 - level)``. For single precision none is narrower than
    1e-6 of the value.

    A batch's inputs count as wholly dependent, gradients as independent of the signal. So bands
    may be too wide, also for orthogonal weights; below some 30 units they are approximate. For
    each activation of the table networks of 100 to 200 units keep to the level, with two
    exceptions. From a variance that signals flee, where :math:`d \ln m_2 / d \ln K > 1`, they
    drift: behind eight layers of Hardswish 97.5 % are in a band of 99 %. And an activation that
    is not monotonic, as the sine, does something else between two values of a :math:`A` that
    varies much: behind weights of 1 and inputs of mean 0, 88 %.

    Examples
    --------
    >>> table = predict(784, 100, 100, 10, activation="relu", scheme="he_normal")
    >>> signal = table[table["quantity"] == "second_moment"].set_index("name")["value"]
    >>> [float(signal[name].round(6)) for name in ("hidden1", "hidden2", "output")]
    [2.0, 2.0, 2.0]
    """
    import pandas as pd

    if len(widths) < 2 or min(widths) < 1 or not 0 < level < 1:
        raise ValueError(
            f"widths {widths}, level={level!r}: expected at least two positive sizes and a level "
            "between 0 and 1, as in predict(784, 100, 10)."
        )
    x = torch.as_tensor([[1.0, -1.0]] if inputs is None else inputs)
    features = math.prod(x.shape[1:])
    if inputs is not None and (features != widths[0] or not len(x)):
        raise ValueError(
            f"inputs of shape {tuple(x.shape)} have {features} features: expected {widths[0]}, the "
            "first width, in at least one example."
        )
    phi, x = prepare(activation), x.reshape(len(x), -1).cpu().double()
    if isinstance(scheme, tuple):
        _tensors(sigma_w=scheme[0], sigma_b=scheme[1])
    layers = [
        layer_of(scheme, Fans(*fans), hidden=number < len(widths) - 1)
        for number, fans in enumerate(pairwise(widths), start=1)
    ]
    few = 32 if any(layer.mean for layer in layers) else 1024  # inputs that fit into the cache
    found = [predict_rows(phi, layers, some, level) for some in torch.split(x, few)]
    data = []
    for rows in zip(*found, strict=True):
        numbers = (torch.cat(x) for x in zip(*(row[3:] for row in rows), strict=True))
        data.append((*rows[0][:3], *(float(x.mean()) for x in numbers)))
    columns = ["layer", "name", "quantity", "value", "low", "high"]
    table = pd.DataFrame(data, columns=columns).sort_values("layer", kind="stable")
    table.insert(4, "origin", "predicted")
    return table.reset_index(drop=True)


def _tensors(**numbers: ArrayLike) -> list[Tensor]:
    """Return variances and deviations as tensors of one shape."""
    arrays = [np.asarray(x, dtype=np.float64) for x in numbers.values()]
    for name, x in zip(numbers, arrays, strict=True):
        if not ((x >= 0) & (x < math.inf)).all():
            raise ValueError(
                f"{name}={numbers[name]!r}: expected finite numbers that are not negative."
            )
    return [torch.tensor(x, dtype=torch.float64) for x in np.broadcast_arrays(*arrays)]


def _rate(slope: Tensor) -> Tensor:
    """Return -ln|slope|; rounding must not decide the sign of infinity at 1, nor hide a 0."""
    size = torch.where(slope.abs() < 1e-14, 0.0, slope.abs())
    return torch.where((size - 1).abs() < SLACK, 0.0, -size.log())


def _numbers(x: Tensor) -> Numbers:
    return x.numpy() if x.dim() else x.item()
