"""Which function follows a layer, and what is its derivative? One table answers.

Every activation that initguide speaks of is an entry of `ACTIVATIONS`: the function, its
derivative in closed form, the points where the derivative jumps (quadrature needs them)
and the torch module that puts it into a network.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "Elementwise",
    "as_activation",
    "get_activation",
    "leaky_relu",
]

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Activation:
    """An elementwise nonlinearity and its derivative.

    Parameters
    ----------
    name : str
        Key in `ACTIVATIONS`.
    label : str
        Name as it stands in a figure.
    function, derivative : callable
        Map a tensor of any shape to a tensor of that shape.
    kinks : tuple of float
        Points where the derivative is discontinuous.
    make : callable, optional
        Builds the torch module; without it ``module()`` wraps the function.

    Examples
    --------
    >>> import torch
    >>> from initguide import ACTIVATIONS
    >>> x = torch.linspace(-3, 3, 7)
    >>> bool((ACTIVATIONS["relu"].function(x) >= 0).all())
    True
    """

    name: str
    label: str
    function: Function
    derivative: Function
    kinks: tuple[float, ...] = ()
    make: Callable[[], nn.Module] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Apply the function."""
        return self.function(x)

    def module(self) -> nn.Module:
        """Return a new torch module that applies the function."""
        return self.make() if self.make is not None else Elementwise(self)


class Elementwise(nn.Module):
    """A layer that applies an activation for which torch has no module.

    Parameters
    ----------
    activation : Activation
        What to apply to each element.
    """

    def __init__(self, activation: Activation) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation to each element of ``x``."""
        return self.activation.function(x)

    def extra_repr(self) -> str:
        """Name the activation in the model's printed form."""
        return self.activation.name


def _normal_pdf(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def _step(x: Tensor, below: float = 0.0) -> Tensor:
    return torch.where(x > 0, torch.ones_like(x), below)


def _elu_derivative(x: Tensor, scale: float, alpha: float) -> Tensor:
    # exp only where it is used: exp(+large) would turn the unused branch into inf.
    return scale * torch.where(x > 0, 1.0, alpha * torch.exp(x.clamp(max=0)))


def _erf_derivative(x: Tensor) -> Tensor:
    return 2 / math.sqrt(math.pi) * torch.exp(-x * x)


def _gelu_tanh_derivative(x: Tensor) -> Tensor:
    # Hendrycks & Gimpel 2016: x/2 (1 + tanh u), u = sqrt(2/pi) (x + 0.044715 x^3)
    t = torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    du = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * du


def _silu_derivative(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1 + x * (1 - s))


def _mish_derivative(x: Tensor) -> Tensor:
    t = torch.tanh(F.softplus(x))
    return t + x * (1 - t * t) * torch.sigmoid(x)


def _hardswish_derivative(x: Tensor) -> Tensor:
    inner = (2 * x + 3) / 6
    return torch.where(x <= -3, 0.0, torch.where(x >= 3, 1.0, inner))


def leaky_relu(negative_slope: float = 0.01) -> Activation:
    """Return the leaky ReLU with a given slope below zero.

    Parameters
    ----------
    negative_slope : float
        Slope for negative inputs; 0 is ReLU, 1 is the identity.

    Returns
    -------
    Activation
        Its name carries the slope.
    """
    return Activation(
        f"leaky_relu({negative_slope:g})",
        f"leaky ReLU {negative_slope:g}",
        partial(F.leaky_relu, negative_slope=negative_slope),
        partial(_step, below=negative_slope),
        (0.0,),
        partial(nn.LeakyReLU, negative_slope),
    )


# SELU's two constants solve its fixed-point equations (Klambauer et al. 2017, eq. 14).
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805

_TABLE = (
    Activation("linear", "linear", lambda x: x, torch.ones_like, (), nn.Identity),
    Activation("relu", "ReLU", torch.relu, _step, (0.0,), nn.ReLU),
    leaky_relu(),
    Activation("elu", "ELU", F.elu, partial(_elu_derivative, scale=1.0, alpha=1.0), (), nn.ELU),
    Activation(
        "selu",
        "SELU",
        F.selu,
        partial(_elu_derivative, scale=_SELU_SCALE, alpha=_SELU_ALPHA),
        (0.0,),
        nn.SELU,
    ),
    Activation("gelu", "GELU", F.gelu, lambda x: _normal_cdf(x) + x * _normal_pdf(x), (), nn.GELU),
    Activation(
        "gelu_tanh",
        "GELU (tanh form)",
        partial(F.gelu, approximate="tanh"),
        _gelu_tanh_derivative,
        (),
        partial(nn.GELU, "tanh"),
    ),
    Activation("silu", "SiLU", F.silu, _silu_derivative, (), nn.SiLU),
    Activation("mish", "Mish", F.mish, _mish_derivative, (), nn.Mish),
    Activation(
        "hardswish", "Hardswish", F.hardswish, _hardswish_derivative, (-3.0, 3.0), nn.Hardswish
    ),
    Activation("softplus", "Softplus", F.softplus, torch.sigmoid, (), nn.Softplus),
    Activation("tanh", "tanh", torch.tanh, lambda x: 1 - torch.tanh(x) ** 2, (), nn.Tanh),
    # Wrapped in Elementwise, and so pickled with the model: no lambda here.
    Activation("erf", "erf", torch.erf, _erf_derivative),
    Activation(
        "sigmoid",
        "sigmoid",
        torch.sigmoid,
        lambda x: torch.sigmoid(x) * torch.sigmoid(-x),
        (),
        nn.Sigmoid,
    ),
    Activation("softsign", "softsign", F.softsign, lambda x: (1 + x.abs()) ** -2, (), nn.Softsign),
    Activation(
        "hardtanh",
        "hardtanh",
        F.hardtanh,
        lambda x: (x.abs() < 1).to(x.dtype),
        (-1.0, 1.0),
        nn.Hardtanh,
    ),
    Activation("sin", "sin", torch.sin, torch.cos),
)

ACTIVATIONS: dict[str, Activation] = {entry.name: entry for entry in _TABLE}
ACTIVATIONS["leaky_relu"] = ACTIVATIONS.pop("leaky_relu(0.01)")
ACTIVATIONS["identity"] = ACTIVATIONS["linear"]


def get_activation(activation: str | Activation) -> Activation:
    """Return the activation of that name; an `Activation` passes through.

    Raises
    ------
    ValueError
        If no activation has that name; the message lists those that exist.
    """
    if isinstance(activation, Activation):
        return activation
    try:
        return ACTIVATIONS[activation]
    except (KeyError, TypeError):
        raise ValueError(
            f"unknown activation {activation!r}: expected one of {', '.join(ACTIVATIONS)}. "
            "For another function pass an initguide.Activation."
        ) from None


def as_activation(activation: str | Function) -> Activation:
    """Return an activation of whatever computes one: a name, a module, a function of a tensor.

    Parameters
    ----------
    activation : str, Activation, nn.Module or callable
        A module is copied, to double precision; its derivative and a callable's is autograd's.

    Returns
    -------
    Activation
        With no kinks but those of the table.

    Raises
    ------
    ValueError
        If the name is unknown, or if a module cannot be copied.
    TypeError
        If a class is given where an instance should be.
    """
    if isinstance(activation, str | Activation) or not callable(activation):
        return get_activation(activation)
    if isinstance(activation, type):
        name = activation.__name__
        raise TypeError(f"{name} is a class: expected an instance. Pass {name}().")
    name = getattr(activation, "__name__", type(activation).__name__)
    if isinstance(activation, nn.Module):
        try:
            with torch.inference_mode(False):  # or its parameters would be without derivatives
                activation = copy.deepcopy(activation).to("cpu", torch.float64)
        except Exception as error:
            raise ValueError(
                f"{name} cannot be copied ({error}): expected parameters with values. "
                "Materialize it first."
            ) from error
        if isinstance(activation, nn.PReLU) and (activation.weight == activation.weight[0]).all():
            return leaky_relu(activation.weight[0].item())  # a slope a channel, yet all equal
    return Activation(name, name, activation, partial(_autograd, activation))


def _autograd(function: Function, x: Tensor) -> Tensor:
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone().requires_grad_()  # a tensor of inference mode could not have one
        y = function(x.clone())  # a leaf could not be changed in place
        if not y.requires_grad:  # comparisons, rounding: nothing for autograd to follow
            return torch.zeros_like(x)
        return torch.autograd.grad(y.sum(), x, materialize_grads=True)[0]
