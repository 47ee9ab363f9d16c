r"""How large should a weight be? Its variance is a scale divided by a fan.

One primitive, `variance_scaling_`, draws weights with variance
:math:`\text{scale} / \text{fan}`; LeCun, Glorot (Xavier) and He (Kaiming) are its
one-line specializations. All work in place, return their tensor, and draw from
``generator`` alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from initguide import gains
from initguide.layers import Fans, fans

__all__ = [
    "constant_",
    "glorot_normal_",
    "glorot_uniform_",
    "he_normal_",
    "he_uniform_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "lecun_normal_",
    "lecun_uniform_",
    "normal_",
    "torch_default_",
    "torch_default_bias_",
    "uniform_",
    "variance_scaling_",
    "xavier_normal_",
    "xavier_uniform_",
]

Mode = Literal["fan_in", "fan_out", "fan_avg"]
Distribution = Literal["normal", "uniform", "truncated_normal"]

_T = TypeVar("_T")

# Standard deviation of N(0, 1) cut to (-2, 2): sqrt(1 - 4 pdf(2) / (2 cdf(2) - 1)).
_TRUNCATED_STD = 0.87962566103423978


def variance_scaling_(
    w: Tensor,
    scale: float = 1.0,
    mode: Mode = "fan_in",
    distribution: Distribution = "normal",
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Fill a weight with draws of mean 0 and variance ``scale / fan``.

    Parameters
    ----------
    w : Tensor
        Weight of shape ``(out, in, *kernel)``, changed in place. Of a complex one, the variance
        is :math:`E|w|^2`, half of it the real part's.
    scale : float
        Variance times fan, positive.
    mode : {"fan_in", "fan_out", "fan_avg"}
        The fan that divides; ``fan_avg`` is the mean of both.
    distribution : {"normal", "uniform", "truncated_normal"}
        ``normal`` is :math:`N(0, \sigma^2)`, ``uniform`` is
        :math:`U(-\sqrt 3 \sigma, \sqrt 3 \sigma)`; ``truncated_normal`` is cut at two standard
        deviations of the normal it is cut from, which is widened so that the variance after
        the cut is still :math:`\sigma^2`, as JAX and Keras do.
    generator : torch.Generator, optional
        Where the draws come from; torch's global one by default.

    Returns
    -------
    Tensor
        ``w``.

    Raises
    ------
    ValueError
        If ``scale`` is not a positive number, ``mode`` or ``distribution`` is unknown, or the
        weight has fewer than two dimensions.
    TypeError
        If the weight does not hold floating-point numbers.

    Notes
    -----
    :math:`\sigma^2 = \text{scale} / \text{fan}`; the source of each scale is named by the
    specializations below.

    Examples
    --------
    >>> import torch
    >>> w = variance_scaling_(torch.empty(500, 400), 2.0, "fan_in", "uniform")
    >>> abs(float(w.var()) * 400 - 2.0) < 0.05
    True
    """
    fan_in, fan_out = fans(w)
    if not (w.is_floating_point() or w.is_complex()):
        raise TypeError(
            f"cannot initialize a weight of dtype {w.dtype}: expected floating point. "
            "Initialize before quantizing or casting the model."
        )
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(
            f"scale={scale!r} is not a positive number: it is the variance times the fan. "
            "For constant weights use constant_."
        )
    fan = _choose("mode", mode, fan_in=fan_in, fan_out=fan_out, fan_avg=(fan_in + fan_out) / 2)
    std = math.sqrt(scale / fan)
    draw = _choose(
        "distribution", distribution, normal=normal_, uniform=_centred_, truncated_normal=_cut_
    )
    if w.is_complex():  # half of the variance is the real part's
        draw(torch.view_as_real(w.detach()), std=std / math.sqrt(2), generator=generator)
        return w
    return draw(w, std=std, generator=generator)


def _choose(argument: str, value: str, **choices: _T) -> _T:
    if value not in choices:
        raise ValueError(f"{argument}={value!r} is unknown: expected one of {', '.join(choices)}.")
    return choices[value]


def _centred_(w: Tensor, *, std: float, generator: torch.Generator | None) -> Tensor:
    bound = math.sqrt(3) * std  # Var U(-b, b) = b^2 / 3
    return nn.init.uniform_(w, -bound, bound, generator=generator)


def _cut_(w: Tensor, *, std: float, generator: torch.Generator | None) -> Tensor:
    wide = std / _TRUNCATED_STD
    # trunc_normal_ takes absolute bounds: its defaults of -2 and 2 would cut nothing here.
    return nn.init.trunc_normal_(w, 0.0, wide, -2 * wide, 2 * wide, generator=generator)


def constant_(w: Tensor, value: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Fill a tensor of any shape with one value; ``generator`` is accepted and not used."""
    return nn.init.constant_(w, value)


def normal_(
    w: Tensor, *, mean: float = 0.0, std: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """Fill a tensor of any shape with draws from N(mean, std^2)."""
    return nn.init.normal_(w, mean, std, generator=generator)


def uniform_(
    w: Tensor, *, low: float = 0.0, high: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """Fill a tensor of any shape with draws from U[low, high)."""
    return nn.init.uniform_(w, low, high, generator=generator)


def lecun_normal_(
    w: Tensor, gain: float = 1.0, *, generator: torch.Generator | None = None
) -> Tensor:
    r"""Draw from :math:`N(0, \text{gain}^2 / \text{fan}_\text{in})` [lecun1998]_."""
    return variance_scaling_(w, gain**2, "fan_in", "normal", generator=generator)


def lecun_uniform_(
    w: Tensor, gain: float = 1.0, *, generator: torch.Generator | None = None
) -> Tensor:
    r"""Draw uniformly with variance :math:`\text{gain}^2 / \text{fan}_\text{in}` [lecun1998]_."""
    return variance_scaling_(w, gain**2, "fan_in", "uniform", generator=generator)


def glorot_normal_(
    w: Tensor, gain: float = 1.0, *, generator: torch.Generator | None = None
) -> Tensor:
    r"""Draw from :math:`N(0, 2\,\text{gain}^2 / (\text{fan}_\text{in} + \text{fan}_\text{out}))`.

    The variance of eq. (16) in [glorot2010]_ with a normal distribution.
    """
    return variance_scaling_(w, gain**2, "fan_avg", "normal", generator=generator)


def glorot_uniform_(
    w: Tensor, gain: float = 1.0, *, generator: torch.Generator | None = None
) -> Tensor:
    r"""Draw uniformly with the variance of `glorot_normal_`.

    :math:`U(\pm\,\text{gain} \sqrt{6 / (\text{fan}_\text{in} + \text{fan}_\text{out})})`, the
    normalized initialization, eq. (16) in [glorot2010]_.
    """
    return variance_scaling_(w, gain**2, "fan_avg", "uniform", generator=generator)


def he_normal_(
    w: Tensor,
    a: float = 0.0,
    mode: Mode = "fan_in",
    nonlinearity: str | Callable[[Tensor], Tensor] = "leaky_relu",
    *,
    gain: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Draw from :math:`N(0, 2 / ((1 + a^2)\,\text{fan}))`.

    Eq. (10) and (15) in [he2015]_, for (leaky) ReLU with slope :math:`a` below zero.

    Parameters
    ----------
    w : Tensor
        Weight of shape ``(out, in, *kernel)``, changed in place.
    a : float
        Slope below zero.
    mode : {"fan_in", "fan_out", "fan_avg"}
        The fan that divides.
    nonlinearity : str, Activation, nn.Module or callable
        The network's activation; its forward gain replaces :math:`\sqrt{2 / (1 + a^2)}`, unless
        it is ``"leaky_relu"``, which has slope :math:`a`. See `initguide.gain`.
    gain : float, optional
        Replaces that factor whatever the slope and the nonlinearity are.

    Notes
    -----
    A call of ``torch.nn.init.kaiming_normal_`` can be pasted. The numbers are torch's for linear,
    relu and leaky_relu. For tanh, sigmoid and selu torch multiplies by 5/3, 1 and 3/4, which do
    not keep the signal's size; every other activation it refuses.

    "He normal" of JAX and Keras is cut at two standard deviations: ``variance_scaling_(w, 2.0,
    "fan_in", "truncated_normal")``.
    """
    return variance_scaling_(w, _he_scale(a, nonlinearity, gain), mode, generator=generator)


def he_uniform_(
    w: Tensor,
    a: float = 0.0,
    mode: Mode = "fan_in",
    nonlinearity: str | Callable[[Tensor], Tensor] = "leaky_relu",
    *,
    gain: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Draw uniformly with variance :math:`2 / ((1 + a^2)\,\text{fan})`, see `he_normal_`."""
    scale = _he_scale(a, nonlinearity, gain)
    return variance_scaling_(w, scale, mode, "uniform", generator=generator)


def _he_scale(
    a: float, nonlinearity: str | Callable[[Tensor], Tensor], gain: float | None
) -> float:
    if gain is None and nonlinearity == "leaky_relu":
        return 2.0 / (1.0 + a**2)
    return (gains.gain(nonlinearity) if gain is None else gain) ** 2


def torch_default_(w: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    r"""Draw from :math:`U(\pm 1 / \sqrt{\text{fan}_\text{in}})`.

    The variance is :math:`1 / (3\,\text{fan}_\text{in})`. What ``reset_parameters`` of torch's
    Linear and Conv layers does by the name of ``kaiming_uniform_(a=sqrt(5))``. It equals the
    general rule of [udacity_init]_, and eq. (1) of [glorot2010]_, the baseline that paper
    improves on.
    """
    return he_uniform_(w, math.sqrt(5), generator=generator)


def torch_default_bias_(
    bias: Tensor, fans: Fans, *, generator: torch.Generator | None = None
) -> Tensor:
    r"""Draw from :math:`U(\pm 1 / \sqrt{\text{fan}_\text{in}})`, as torch does for biases."""
    bound = 1 / math.sqrt(fans.fan_in)
    return nn.init.uniform_(bias, -bound, bound, generator=generator)


xavier_normal_, xavier_uniform_ = glorot_normal_, glorot_uniform_
kaiming_normal_, kaiming_uniform_ = he_normal_, he_uniform_
