r"""Which gain keeps a signal's size behind an activation? `gain` computes it, for any.

Behind an activation :math:`\varphi` a layer has :math:`\text{Var}(W) = g^2 / n`. Which
:math:`g` keeps the size of what is an integral over a normal variable, taken here by
quadrature that halves its intervals until it has found every kink and jump.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Literal, get_args

import numpy as np
import torch

from initguide._elementwise import NODES, WEIGHTS, Array, check_elementwise, find_kinks, values
from initguide.activations import Activation, Function, as_activation

__all__ = ["gain"]

Kind = Literal["forward", "activation", "backward"]

# At 38 the normal density is about the smallest double. The fine steps inside are for
# narrow features, those next to 0 for functions that are steep there in units of z.
_EDGE = 38.0
_STEPS = np.concatenate([2.0 ** np.arange(-24, -3), np.arange(1, 65) / 8, np.arange(10, 40, 2)])
_MESH = np.concatenate([-_STEPS[::-1], [0.0], _STEPS])

_TOLERANCE = 1e-14  # what halving an interval may change, relative to the whole integral
_RESOLVED = 1e-7  # what is accepted, unless the function computes with fewer digits
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
    returned, sought in steps of :math:`\sqrt 2` and where the moment turns between them: with
    the least weights the layer is closest to linear. If every :math:`g` does, as for the sign
    function, it is 1.

    The derivative of a module or a callable is autograd's, so that a straight-through
    estimator counts as it trains. A module is copied, never changed. The result is good to
    about 1e-10, unless something in the function is narrower than 0.01; a function that
    computes with 32 or 16 bits is integrated as it rounds, to about that precision.

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
    phi = as_activation(activation)
    # A random function's draws do not count, and overflow shows in the result.
    with torch.random.fork_rng(devices=[]), np.errstate(over="ignore", invalid="ignore"):
        resolved = max(_RESOLVED, check_elementwise(phi))
        if kind == "activation":
            return _solve(phi, resolved)
        function = phi.derivative if kind == "backward" else phi.function
        moment = _second_moment(phi, function, resolved=resolved)
    if moment == 0:
        raise ValueError(
            f"{phi.name} has no gain of kind {kind!r}: its "
            f"{'derivative' if kind == 'backward' else 'square'} is zero everywhere. "
            "Expected a slope, or a straight-through estimator for one."
        )
    return 1 / math.sqrt(moment)


def _second_moment(
    phi: Activation, function: Function, scale: float = 1.0, resolved: float = _RESOLVED
) -> float:
    """Return E[f(scale z)^2]: intervals between the kinks are halved while that changes it."""
    kinks = [kink / scale for kink in phi.kinks if abs(kink) < _EDGE * scale]
    edges = np.union1d(_MESH, kinks)
    low, high = edges[:-1], edges[1:]
    whole = _integrals(phi, function, scale, low, high)
    ends, done, points = max(whole[0], whole[-1]), 0.0, 0.0
    for _ in range(64):
        middle = (low + high) / 2
        # Next to each other as numbers go: what is still in there belongs to a pole.
        point = np.tile(high - low <= 1e-15 * np.abs(middle), 2)
        low, high = np.concatenate([low, middle]), np.concatenate([middle, high])
        halves = _integrals(phi, function, scale, low, high)
        finer = halves[: len(middle)] + halves[len(middle) :]
        change, total = np.abs(finer - whole), done + finer.sum()
        coarse = change > _TOLERANCE * total
        done += finer[~coarse].sum()
        points += halves[point].sum()
        again = np.tile(coarse, 2)
        low, high, whole = low[again], high[again], halves[again]
        if not 0 < len(low) < 20_000:
            break
    error = change[coarse].sum() + points
    if not (ends <= 1e-10 * total and error <= resolved * total < math.inf):
        raise ValueError(
            f"E[f(z)^2] does not converge for f = {phi.name} or its derivative: expected a finite "
            "second moment. If it has a pole or grows as exp(z^2 / 4), clamp it."
        )
    return float(done + whole.sum())


def _integrals(phi: Activation, function: Function, scale: float, low: Array, high: Array) -> Array:
    z, weights = _rule(low, high)
    y = values(phi, function, scale * z.ravel()).reshape(z.shape)
    if not np.isfinite(y).all():
        bad = z[~np.isfinite(y)]
        raise ValueError(
            f"{phi.name} or its derivative is not finite at "
            f"{scale * bad[np.abs(bad).argmin()]:.4g}: expected a finite value for every number. "
            "Clamp the argument of its logarithm, root or exponential."
        )
    return _squares(y, weights)


def _rule(low: Array, high: Array) -> tuple[Array, Array]:
    """Return each interval's nodes and the roots of their weights, the density's included."""
    half = ((high - low) / 2)[..., None]
    z = (low[..., None] + half) + half * NODES
    return z, np.sqrt(half * WEIGHTS) * (2 * math.pi) ** -0.25 * np.exp(-z * z / 4)


def _squares(y: Array, weights: Array) -> Array:
    # Of the product, not of y: a large value times a tiny density need not overflow.
    products: Array = np.square(y * weights).sum(axis=-1)
    return products


def _solve(phi: Activation, resolved: float) -> float:
    """Return the smallest g with E[phi(g z)^2] = 1."""
    from scipy.optimize import brentq

    phi = replace(phi, kinks=find_kinks(phi, phi.function))
    moments, bound = _moments(phi)
    if len(moments) and np.abs(moments - 1).max() < 1e-9:
        return 1.0

    @cache
    def excess(log_g: float) -> float:  # in logarithms a homogeneous function is a straight line
        moment = _second_moment(phi, phi.function, math.exp(log_g), resolved)
        return math.log(max(moment, 1e-300))

    def found(log_g: float) -> float:
        try:
            return excess(log_g)
        except ValueError:  # as exp(z^2) from some g on: infinite
            return 1e3

    for low, high in _brackets(moments, excess):
        for slack in (0.0, 0.1, 0.3):  # the moments err if there are too many kinks
            a, b = low - slack, high + slack
            if excess(a) * found(b) <= 0:
                root = brentq(found, a, b, xtol=1e-13)
                excess(root)  # says if it is none
                return math.exp(root)
    if len(moments) < len(_GAINS) and _GAINS[len(moments)] <= 1:
        _second_moment(phi, phi.function, _GAINS[len(moments)])  # says where it is not finite
    because = f" because |{phi.name}| never exceeds {bound:.6g}" if bound <= 1 else ""
    raise ValueError(
        f"{phi.name} has no gain of kind 'activation'{because}: expected E[phi(g z)^2] = 1 for "
        f"some g, and it stays between {moments.min():.6g} and {moments.max():.6g}. "
        "Use kind='forward'."
    )


def _moments(phi: Activation) -> tuple[Array, float]:
    """Return E[phi(g z)^2] at each of `_GAINS`, as far as it is finite, and the largest |phi|."""
    kinks = np.array(phi.kinks) / _GAINS[:, None]
    edges = np.concatenate([np.tile(_MESH, (len(_GAINS), 1)), kinks.clip(-_EDGE, _EDGE)], axis=1)
    edges.sort(axis=1)
    z, weights = _rule(edges[:, :-1], edges[:, 1:])
    y = values(phi, phi.function, _GAINS[:, None, None] * z)
    moments = _squares(y, weights).sum(axis=1)
    finite = int(np.isfinite(moments).cumprod().sum())
    return moments[:finite], float(np.abs(y[:finite]).max(initial=0))


def _brackets(moments: Array, excess: Callable[[float], float]) -> Iterator[tuple[float, float]]:
    """Yield intervals of ln g in which the moment passes 1, the smallest first.

    It may do so twice between two steps, and then turns. As g E[phi(g z)^2] never falls, it
    changes by at most one step's factor on the way there and back.
    """
    from scipy.optimize import minimize_scalar

    steps, above = np.log(_GAINS).tolist(), moments > 1
    factor = _GAINS[1] / _GAINS[0]
    for k in range(len(moments) - 1):
        before, here, after = moments[max(k - 1, 0)], moments[k], moments[k + 1]
        sign = 1 if above[k] else -1
        turns = sign * here <= min(sign * before, sign * after)
        if turns and above[k] == above[k + 1] and 1 / factor < here < factor:
            with contextlib.suppress(ValueError):  # too fast for quadrature: no bracket
                ends = steps[max(k - 1, 0)], steps[k + 1]
                turn = minimize_scalar(lambda x, s=sign: s * excess(x), bounds=ends)
                if turn.fun <= 0:
                    yield ends[0], float(turn.x)
        if above[k] != above[k + 1]:
            yield steps[k], steps[k + 1]
