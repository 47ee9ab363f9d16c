"""Is a function elementwise, and where does it jump or bend? Found out by evaluating it."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from initguide.activations import Activation, Function

Array = npt.NDArray[np.float64]

# Chebyshev's extrema, an odd number: whole and halves then never agree on a jump between two
# nodes. Both ends are nodes, a hair inside, so that no jump hides between two intervals and
# one at an edge, as ReLU's slope at 0, is on its proper side.
_COUNT = 13
NODES = (1 - 1e-8) * np.cos(np.pi * np.arange(_COUNT) / (_COUNT - 1))
# They integrate each Legendre polynomial up to the twelfth exactly: 2, 0, 0, ...
WEIGHTS = np.linalg.solve(
    np.polynomial.legendre.legvander(NODES, _COUNT - 1).T, 2.0 * np.eye(_COUNT)[0]
)

# Where kinks are looked for: 32 intervals an octave, whose edges are no round numbers.
_EDGES = 1.0123456789 * 2.0 ** (np.arange(-24 * 32, 24 * 32 + 1) / 32)
_HALVINGS = 40  # to 2e-14 of where it is
_VISIBLE = 1e-6  # jumps, relative to the largest value up to there
_ROUNDING = 1e-14  # relative to the largest value a little further
_BUDGET = 512  # intervals: an oscillating function is followed as far as they reach
_MOST = 64  # kinks


def values(phi: Activation, function: Function, x: Array) -> Array:
    """Apply a function to float64 numbers; whatever goes wrong becomes a ValueError."""
    return np.asarray(_apply(phi, function, x).to("cpu", torch.float64))


def _apply(phi: Activation, function: Function, x: Array) -> Tensor:
    try:
        # Wherever the caller's tensors live; inference mode would have no derivatives.
        with torch.device("cpu"), torch.inference_mode(False):
            y: Any = function(torch.from_numpy(x.copy()))  # it may work in place
    except Exception as error:
        raise ValueError(
            f"{phi.name} cannot be applied to float64 numbers of shape {x.shape} "
            f"({type(error).__name__}: {error}): expected an elementwise function made of torch "
            "operations, such as nn.GELU()."
        ) from error
    if not isinstance(y, Tensor) or y.is_complex():
        kind = f"{y.dtype} numbers" if isinstance(y, Tensor) else f"a {type(y).__name__}"
        raise ValueError(f"{phi.name} returns {kind}: expected a real tensor.")
    if y.shape != x.shape:
        raise ValueError(
            f"{phi.name} turns shape {x.shape} into {tuple(y.shape)}: expected an elementwise "
            "function, which keeps it."
        )
    return y.detach()


def check_elementwise(phi: Activation) -> float:
    """Refuse a function that is random, constant or looks at a number's neighbours.

    Returns the relative rounding with which it computes.
    """
    value = partial(values, phi, phi.function)
    x = np.linspace(-3.3, 3.2, 960) ** 3  # dense at 0, as far as -36
    y = value(x)
    dtype = _apply(phi, phi.function, x).dtype
    rounding = torch.finfo(dtype).eps if dtype.is_floating_point else 0.0
    # The processor's wide and narrow instructions round differently: by 1e-7 with 32 bits, and
    # more where a function subtracts.
    rtol = max(1e-5, 4 * rounding)
    atol = rtol * np.median(np.abs(np.nan_to_num(y)))
    same = partial(np.allclose, rtol=rtol, atol=atol, equal_nan=True)
    if not same(value(x), y):
        raise ValueError(
            f"{phi.name} is random: expected the same values for the same inputs. "
            "Call .eval() or leave the noise out."
        )
    alone = np.concatenate([value(x[k : k + 1]) for k in range(0, len(x), 64)])
    shaped = value(x.reshape(4, 6, 8, 5)).ravel()
    if not (same(alone, y[::64]) and same(value(x[::-1])[::-1], y) and same(shaped, y)):
        raise ValueError(
            f"{phi.name} is not elementwise: a value depends on its neighbours or its place. "
            "Expected a function of one number; else measure the signal with probe."
        )
    if y.min() == y.max():
        raise ValueError(
            f"{phi.name} is constant: it is {y[0]:g} wherever it was looked at. "
            "Expected a function that depends on its input."
        )
    return rounding


def find_kinks(phi: Activation, *functions: Function) -> tuple[float, ...]:
    """Return where functions jump, beside known kinks: from 6e-8 to 2e7 on both sides of 0.

    Of more than 64 the largest count, relative to the function's size up to there, and of
    equally large ones those next to 0. What is narrower than a hundredth may be missed.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        found = [_jumps(phi, function) for function in functions]
    places, sizes = (np.concatenate(parts) for parts in zip(*found, strict=True))
    kinks = {*phi.kinks}
    for place in places[np.lexsort((np.abs(places), -sizes.round(3)))].tolist():
        # Function and derivative may jump at once.
        if len(kinks) < _MOST and all(abs(place - kink) > 1e-9 * abs(place) for kink in kinks):
            kinks.add(place)
    return tuple(sorted(kinks))


def _jumps(phi: Activation, function: Function) -> tuple[Array, Array]:
    """Return places and relative sizes: intervals are halved while that changes their means."""

    def samples(low: Array, high: Array) -> tuple[Array, Array]:
        half = ((high - low) / 2)[:, None]
        y = values(phi, function, ((low[:, None] + half) + half * NODES).ravel())
        y = y.reshape(-1, _COUNT)
        return y @ WEIGHTS / 2, y

    edges = np.concatenate([-_EDGES[::-1], [0.0], _EDGES])
    low, high = edges[:-1], edges[1:]
    mean, y = samples(low, high)
    left, right = np.split(np.nan_to_num(np.abs(y)).max(axis=1), 2)
    height = np.maximum.accumulate(np.maximum(left[::-1], right))

    def size(x: Array) -> Array:  # of the function: the largest value up to there
        found: Array = height[np.searchsorted(_EDGES, np.abs(x)).clip(max=len(_EDGES) - 1)]
        return found

    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        means, _ = samples(np.append(low, middle), np.append(middle, high))
        left, right = np.split(means, 2)
        seen = _VISIBLE * size(middle) + _ROUNDING * size(2 * np.fmax(np.abs(middle), 1))
        # Where it is not finite nothing shows: too far out to matter, or an error later.
        (again,) = np.nonzero(np.abs((left + right) / 2 - mean) > seen)
        again = again[np.argsort(np.abs(middle[again]))[:_BUDGET]]
        low, high = np.append(low[again], middle[again]), np.append(middle[again], high[again])
        mean = np.append(left[again], right[again])
        if not len(low):
            return low, low
    _, y = samples(low, high)
    jumps = np.ptp(y, axis=1) / size(low)
    return low[jumps > _VISIBLE], jumps[jumps > _VISIBLE]
