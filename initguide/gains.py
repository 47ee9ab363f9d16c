r"""Which gain keeps a signal's size behind an activation? `gain` computes it, for any.

Behind an activation :math:`\varphi` a layer has :math:`\text{Var}(W) = g^2 / n`. Which
:math:`g` keeps the size of what is an integral over a normal variable, taken here by
quadrature that halves its intervals until it has found every kink and jump.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from initguide.activations import Activation, get_activation, leaky_relu

__all__ = ["gain"]

Kind = Literal["forward", "activation", "backward"]
Function = Callable[[Tensor], Tensor]
Array = npt.NDArray[np.float64]

# Chebyshev's extrema, an odd number: whole and halves then never agree on a jump between two
# nodes. Both ends are nodes, a hair inside, so that no jump hides between two intervals and
# one at an edge, as ReLU's slope at 0, is on its proper side.
_COUNT = 13
_NODES = (1 - 1e-8) * np.cos(np.pi * np.arange(_COUNT) / (_COUNT - 1))
# They integrate each Legendre polynomial up to the twelfth exactly: 2, 0, 0, ...
_WEIGHTS = np.linalg.solve(
    np.polynomial.legendre.legvander(_NODES, _COUNT - 1).T, 2.0 * np.eye(_COUNT)[0]
)

# At 38 the normal density is about the smallest double. The fine steps inside are for
# narrow features, those next to 0 for functions that are steep there in units of z.
_EDGE = 38.0
_STEPS = np.concatenate([2.0 ** np.arange(-24, -3), np.arange(1, 65) / 8, np.arange(10, 40, 2)])
_MESH = np.concatenate([-_STEPS[::-1], [0.0], _STEPS])

_TOLERANCE = 1e-14  # what halving an interval may change, relative to the whole integral
_RESOLVED = 1e-7  # what is accepted of a function that computes with few digits
_GAINS = 2.0 ** (np.arange(-40, 41) / 2)  # where kind="activation" looks for its solution


def gain(activation: str | Function, kind: Kind = "forward") -> float:
    r"""Return the factor of the weights that keeps a signal's size behind an activation.

    With :math:`z \sim N(0, 1)`, the three kinds are

    - ``forward``: :math:`g = 1 / \sqrt{E[\varphi(z)^2]}` keeps the second moment of the
      pre-activations at 1, the logic of [he2015]_. It exists for every usual activation.
    - ``activation``: :math:`E[\varphi(g z)^2] = 1` keeps the second moment of the activations
      at 1. It does not exist if :math:`|\varphi| \le 1`.
    - ``backward``: :math:`g = 1 / \sqrt{E[\varphi'(z)^2]}` keeps the second moment of the
      gradient, in layers with as many outputs as inputs or with ``mode="fan_out"``.

    Parameters
    ----------
    activation : str, Activation, nn.Module or callable
        A key of `ACTIVATIONS`, an `Activation`, an elementwise module with parameters of its
        own such as ``nn.ELU(0.5)``, or a function of a tensor made of torch operations.
    kind : {"forward", "activation", "backward"}
        What to keep.

    Returns
    -------
    float
        A positive number, to be given to an initializer: ``he_normal_(w, gain=g)``.

    Raises
    ------
    ValueError
        If the kind or the name is unknown; if the function is not elementwise, random,
        constant, not finite or of infinite second moment; if its derivative is zero, or no
        gain of that kind exists.
    TypeError
        If a class is given where an instance should be.

    Notes
    -----
    The assumptions are those of mean-field theory: infinite width, i.i.d. weights, no bias
    [poole2016]_. The mean of :math:`\varphi(z)` belongs to the signal: the often posted
    :math:`1/\text{std}(\varphi(z))` is no gain. Neither are PyTorch's 5/3 for tanh, 1 for
    sigmoid and 3/4 for SELU; its numbers for the linear function, ReLU and leaky ReLU are ours.

    The second moment that ``activation`` sets to 1 may be 1 at several :math:`g`, if the
    function is not monotonic. The smallest between :math:`2^{-20}` and :math:`2^{20}` is
    returned, found in steps of :math:`\sqrt 2`: with the least weights the layer is closest to
    linear. If every :math:`g` does, as for the sign function, it is 1.

    The derivative of a module or a callable is autograd's, so that a straight-through
    estimator counts as it trains. A module is copied, never changed. The result is good to
    about 1e-10, unless something in the function is narrower than 0.01; a function that
    computes with 32 bits is integrated as it rounds, to about 1e-7.

    Examples
    --------
    >>> import math, torch
    >>> from torch import nn
    >>> math.isclose(gain("relu"), math.sqrt(2))
    True
    >>> math.isclose(gain(nn.LeakyReLU(0.2), "backward"), math.sqrt(2 / (1 + 0.2**2)))
    True
    >>> math.isclose(gain(lambda x: 3 * x.abs(), "activation"), 1 / 3)
    True
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind={kind!r} is unknown: expected one of {', '.join(get_args(Kind))}.")
    phi = _as_activation(activation)
    # A random function's draws do not count, and overflow shows in the result.
    with torch.random.fork_rng(devices=[]), np.errstate(over="ignore", invalid="ignore"):
        _check_elementwise(phi)
        if kind == "activation":
            return _solve(phi)
        function = phi.derivative if kind == "backward" else phi.function
        moment, _ = _second_moment(phi, function)
    if moment == 0:
        raise ValueError(
            f"{phi.name} has no gain of kind {kind!r}: its "
            f"{'derivative' if kind == 'backward' else 'square'} is zero wherever it was looked "
            "at. Expected a function with a slope, or with a straight-through estimator for one."
        )
    return 1 / math.sqrt(moment)


def _as_activation(activation: str | Function) -> Activation:
    if isinstance(activation, str | Activation) or not callable(activation):
        return get_activation(activation)
    if isinstance(activation, type):
        raise TypeError(
            f"{activation.__name__} is a class: expected an instance. "
            f"Pass {activation.__name__}(), with its arguments if it needs any."
        )
    name = getattr(activation, "__name__", type(activation).__name__)
    if isinstance(activation, nn.Module):
        try:
            activation = copy.deepcopy(activation).to("cpu", torch.float64)
        except Exception as error:
            raise ValueError(
                f"{name} cannot be copied ({error}): expected a module whose parameters have "
                "values. Materialize it, or pass a function that does the same."
            ) from error
        if isinstance(activation, nn.PReLU) and (activation.weight == activation.weight[0]).all():
            return leaky_relu(activation.weight[0].item())  # a slope a channel, yet all equal
    return Activation(name, name, activation, partial(_autograd, activation))


def _autograd(function: Function, z: Tensor) -> Tensor:
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        y = function(z.clone())  # a leaf could not be changed in place
        if not y.requires_grad:  # comparisons, rounding: nothing for autograd to follow
            return torch.zeros_like(z)
        return torch.autograd.grad(y.sum(), z, materialize_grads=True)[0]


def _values(phi: Activation, function: Function, x: Array) -> Array:
    """Apply a function to float64 numbers; whatever goes wrong becomes a ValueError."""
    next_step = "Pass an elementwise activation made of torch operations, such as nn.GELU()."
    try:
        # Wherever the caller's tensors live; inference mode would have no derivatives.
        with torch.device("cpu"), torch.inference_mode(False):
            y: Any = function(torch.from_numpy(x.copy()))  # it may work in place
    except Exception as error:
        raise ValueError(
            f"{phi.name} cannot be applied to float64 numbers of shape {x.shape} "
            f"({type(error).__name__}: {error}): expected an elementwise function, which any "
            f"shape suits. {next_step}"
        ) from error
    if not isinstance(y, Tensor) or y.is_complex():
        kind = f"{y.dtype} numbers" if isinstance(y, Tensor) else f"a {type(y).__name__}"
        raise ValueError(f"{phi.name} returns {kind}: expected a real tensor. {next_step}")
    if y.shape != x.shape:
        raise ValueError(
            f"{phi.name} turns shape {x.shape} into {tuple(y.shape)}: expected an elementwise "
            f"function, which keeps it. {next_step}"
        )
    return np.asarray(y.detach().to("cpu", torch.float64))


def _check_elementwise(phi: Activation) -> None:
    value = partial(_values, phi, phi.function)
    x = np.linspace(-3.3, 3.2, 960) ** 3  # dense at 0, as far as -36
    y = value(x)
    atol = 1e-5 * np.median(np.abs(np.nan_to_num(y)))
    # The processor's wide and narrow instructions round differently: by 1e-7 with 32 bits, and
    # more where a function subtracts.
    same = partial(np.allclose, rtol=1e-5, atol=atol, equal_nan=True)
    if not same(value(x), y):
        raise ValueError(
            f"{phi.name} is random: expected the same values for the same inputs. "
            "Switch a module to evaluation with .eval(), or leave the noise out."
        )
    alone = np.concatenate([value(x[k : k + 1]) for k in range(0, len(x), 64)])
    shaped = value(x.reshape(4, 6, 8, 5)).ravel()
    if not (same(alone, y[::64]) and same(value(x[::-1])[::-1], y) and same(shaped, y)):
        raise ValueError(
            f"{phi.name} is not elementwise: a number's value depends on its neighbours or its "
            "place. Expected a function of one number; for softmax, normalization or gating "
            "measure the signal instead."
        )
    if y.min() == y.max():
        raise ValueError(
            f"{phi.name} is constant: it is {y[0]:g} wherever it was looked at, so no signal "
            "passes whatever the gain. Expected a function that depends on its input."
        )


def _second_moment(
    phi: Activation, function: Function, scale: float = 1.0
) -> tuple[float, tuple[float, ...]]:
    """Return E[f(scale z)^2] and the kinks: intervals are halved while that changes them."""
    kinks = [kink / scale for kink in phi.kinks if abs(kink) < _EDGE * scale]
    edges = np.union1d(_MESH, kinks)
    low, high = edges[:-1], edges[1:]
    whole = _integrals(phi, function, scale, low, high)
    ends, done, found = max(whole[0], whole[-1]), 0.0, []
    for level in range(64):
        middle = (low + high) / 2
        low, high = np.concatenate([low, middle]), np.concatenate([middle, high])
        halves = _integrals(phi, function, scale, low, high)
        finer = halves[: len(middle)] + halves[len(middle) :]
        change, total = np.abs(finer - whole), done + finer.sum()
        coarse = change > _TOLERANCE * total
        done += finer[~coarse].sum()
        if level > 20:  # so narrow an interval holds a kink or touches one that does
            found.append(middle[~coarse])
        again = np.tile(coarse, 2)
        low, high, whole = low[again], high[again], halves[again]
        if not 0 < len(low) < 20_000:
            break
    error = change[coarse].sum()
    if not (ends <= 1e-10 * total and error <= _RESOLVED * total < math.inf):
        raise ValueError(
            f"E[f(z)^2] does not converge for f = {phi.name} or its derivative: expected a finite "
            "second moment. One that has a pole or grows as exp(z^2 / 4) has none: clamp it."
        )
    places = np.concatenate([[], *found]) * scale
    return float(done + whole.sum()), (*phi.kinks, *places.tolist())


def _integrals(phi: Activation, function: Function, scale: float, low: Array, high: Array) -> Array:
    z, weights = _rule(low, high)
    y = _values(phi, function, scale * z.ravel()).reshape(z.shape)
    if not np.isfinite(y).all():
        bad = z[~np.isfinite(y)]
        raise ValueError(
            f"{phi.name} or its derivative is not finite at "
            f"{scale * bad[np.abs(bad).argmin()]:.4g}: expected a finite value for every number "
            "that a normal distribution draws. Clamp the argument of its logarithm, root or "
            "exponential."
        )
    return _squares(y, weights)


def _rule(low: Array, high: Array) -> tuple[Array, Array]:
    """Return each interval's nodes and the roots of their weights, the density's included."""
    half = ((high - low) / 2)[:, None]
    z = (low[:, None] + half) + half * _NODES
    return z, np.sqrt(half * _WEIGHTS) * (2 * math.pi) ** -0.25 * np.exp(-z * z / 4)


def _squares(y: Array, weights: Array) -> Array:
    # Of the product, not of y: a large value times a tiny density need not overflow.
    products: Array = np.square(y * weights).sum(axis=-1)
    return products


def _solve(phi: Activation) -> float:
    """Return the smallest g with E[phi(g z)^2] = 1."""
    z, weights = (part.ravel() for part in _rule(_MESH[:-1], _MESH[1:]))
    y = _values(phi, phi.function, _GAINS[:, None] * z)
    moments = _squares(y, weights)
    finite = int(np.isfinite(moments).cumprod().sum())
    moments = moments[:finite]
    if finite and np.abs(moments - 1).max() < 1e-9:
        return 1.0
    crossings = np.flatnonzero(np.diff(moments > 1))
    if not len(crossings):
        if finite < len(_GAINS) and _GAINS[finite] <= 1:
            _second_moment(phi, phi.function, _GAINS[finite])  # says where it is not finite
        bound = np.abs(y[:finite]).max()
        because = f" because |{phi.name}| never exceeds {bound:.6g}" if bound <= 1 else ""
        raise ValueError(
            f"{phi.name} has no gain of kind 'activation'{because}: expected E[phi(g z)^2] = 1 for "
            f"some g, and from {_GAINS[0]:.2g} to {_GAINS[finite - 1]:.2g} it stays between "
            f"{moments.min():.6g} and {moments.max():.6g}. Use kind='forward', which keeps the "
            "size of the pre-activations instead."
        )

    def excess(log_g: float) -> float:
        nonlocal phi
        moment, kinks = _second_moment(phi, phi.function, math.exp(log_g))
        phi = replace(phi, kinks=kinks)  # to be looked for only once
        return math.log(max(moment, 1e-300))

    below, above = np.log(_GAINS[crossings[0] :][:2])
    for slack in (0.01, 0.1, 0.3):  # the coarse moments err by a little: begin a little outside
        a, b = below - slack, above + slack
        at_a, at_b = excess(a), excess(b)
        if at_a * at_b <= 0:
            break
    for _ in range(40):  # Illinois; in logarithms a homogeneous function is a straight line
        new = b - at_b * (b - a) / (at_b - at_a)
        step, at_new = abs(new - b), excess(new)
        a, at_a = (b, at_b) if at_new * at_b < 0 else (a, at_a / 2)
        b, at_b = new, at_new
        if step < 1e-12 or abs(at_b) < 1e-13:
            break
    return math.exp(b)
