"""Which rule fills which tensor of a model? A scheme says; `initialize_` does it.

A `Scheme` is data: a weight initializer, a bias initializer and, where one is wanted, an
exception for the output layer. `SCHEMES` holds those that the literature and the tutorials
compare, each with its formula and its source.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from initguide import initializers as init
from initguide.gains import gain
from initguide.layers import LAYERS, Fans, check_memory, fans, weight_views
from initguide.orthogonal import orthogonal_

__all__ = ["SCHEMES", "Initialization", "Scheme", "get_scheme", "initialize_"]


@dataclass(frozen=True)
class Scheme:
    """A named rule for the weights and biases of a model.

    Parameters
    ----------
    name : str
        Key in `SCHEMES`; of your choice for a scheme of your own.
    weight : float or callable
        A constant, or an in-place initializer ``weight(w, generator=...)`` such as
        `he_normal_` or ``torch.nn.init.orthogonal_``. It receives views of shape ``(out, in,
        *kernel)``, see `weight_views`. One with a parameter ``gain`` suits any activation, see
        `Scheme.with_gain`.
    bias : float or callable
        A constant, or ``bias(b, fans, generator=...)`` with the `Fans` of the layer's weight.
    readout : float or callable, optional
        Weight initializer of the output layer where it differs from ``weight``.
    label, formula, source : str
        Name in figures, TeX of the weight's distribution, key in the bibliography.
    color, marker : str
        How the scheme looks in every figure.
    as_stored : bool
        Hand ``weight`` the tensor as torch stores it, not as views: what torch's own default
        does, rightly or not.

    Examples
    --------
    >>> from initguide import Scheme
    >>> Scheme("forced", weight=-5.0, bias=-10.0).label
    'forced'
    """

    name: str
    weight: float | Callable[..., Tensor]
    bias: float | Callable[..., Tensor] = 0.0
    readout: float | Callable[..., Tensor] | None = None
    label: str = ""
    formula: str = ""
    source: str = ""
    color: str = "#666666"
    marker: str = "o"
    as_stored: bool = False

    def __post_init__(self) -> None:
        if not self.label:
            object.__setattr__(self, "label", self.name)

    def with_gain(self, gain: float) -> Scheme:
        r"""Return the scheme with a gain for its weight initializer.

        The gain becomes the initializer's own argument of that name: LeCun and Xavier multiply
        by it, for He it replaces :math:`\sqrt 2`. The output layer's exception, and biases, stay.

        Parameters
        ----------
        gain : float
            As `gain` computes it for an activation.

        Returns
        -------
        Scheme
            Its name and label tell the gain.

        Raises
        ------
        ValueError
            If the weight initializer takes no gain or has been given one.

        Examples
        --------
        >>> scheme = get_scheme("he_normal").with_gain(gain("tanh"))
        >>> scheme.label.startswith("He normal (gain ")
        True
        """
        if isinstance(self.weight, partial) and "gain" in self.weight.keywords:
            raise ValueError(
                f"scheme {self.name!r} has the gain {self.weight.keywords['gain']!r}: expected a "
                "scheme that leaves it open. Take the gain or the activation away."
            )
        if not callable(self.weight) or not _takes_gain(self.weight):
            raise ValueError(
                f"scheme {self.name!r} has no gain, its weights do not depend on the activation: "
                "expected a weight initializer with a parameter 'gain', as those of LeCun, Xavier "
                "and He have. Choose one of them, or leave the activation out."
            )
        told = f"gain {gain:.4g}"
        return replace(
            self,
            name=f"{self.name}, {told}",
            weight=partial(self.weight, gain=gain),
            label=f"{self.label} ({told})",
            formula="",  # the table's holds without it
        )


def _takes_gain(rule: Callable[..., Tensor]) -> bool:
    try:
        return "gain" in inspect.signature(rule).parameters
    except ValueError:  # some builtins have no signature
        return False


# Okabe and Ito's palette is told apart by colour-blind readers. A family of schemes shares a
# hue; normal draws have round markers, uniform ones square.
_SCHEMES = (
    Scheme("zeros", 0.0, label="zeros", formula=r"0", source="udacity_init",
           color="#8c8c8c", marker="x"),
    Scheme("ones", 1.0, label="ones", formula=r"1", source="udacity_init",
           color="#595959", marker="+"),
    Scheme("standard_normal", init.normal_, label="N(0, 1)", formula=r"N(0, 1)",
           source="dlwizard_init", color="#CC79A7", marker="o"),
    Scheme("uniform_0_1", init.uniform_, label="U[0, 1)", formula=r"U[0, 1)",
           source="udacity_init", color="#E69F00", marker="s"),
    Scheme("uniform_centered", partial(init.uniform_, low=-0.5, high=0.5),
           label="U[-0.5, 0.5)", formula=r"U[-\tfrac12, \tfrac12)", source="udacity_init",
           color="#B8860B", marker="D"),
    Scheme("uniform_rule", init.torch_default_, label="U(±1/√n)",
           formula=r"U\left(\pm 1/\sqrt{n_\text{in}}\right)", source="udacity_init",
           color="#56B4E9", marker="s"),
    Scheme("normal_rule", init.lecun_normal_, label="N(0, 1/n)",
           formula=r"N\left(0, 1/n_\text{in}\right)", source="udacity_init",
           color="#56B4E9", marker="o"),
    Scheme("torch_default", init.torch_default_, init.torch_default_bias_,
           label="PyTorch default", source="paszke2019",
           formula=r"U\left(\pm 1/\sqrt{n_\text{in}}\right) \text{, biases too}",
           color="#0072B2", marker="^", as_stored=True),
    Scheme("lecun_normal", init.lecun_normal_, label="LeCun normal",
           formula=r"N\left(0, 1/n_\text{in}\right)", source="lecun1998",
           color="#8A5FBF", marker="o"),
    Scheme("lecun_uniform", init.lecun_uniform_, label="LeCun uniform",
           formula=r"U\left(\pm\sqrt{3/n_\text{in}}\right)", source="lecun1998",
           color="#8A5FBF", marker="s"),
    Scheme("xavier_normal", init.glorot_normal_, label="Xavier normal",
           formula=r"N\left(0, 2/(n_\text{in}+n_\text{out})\right)", source="glorot2010",
           color="#009E73", marker="o"),
    Scheme("xavier_uniform", init.glorot_uniform_, label="Xavier uniform",
           formula=r"U\left(\pm\sqrt{6/(n_\text{in}+n_\text{out})}\right)", source="glorot2010",
           color="#009E73", marker="s"),
    Scheme("he_normal", init.he_normal_, label="He normal",
           formula=r"N\left(0, 2/n_\text{in}\right)", source="he2015",
           color="#D55E00", marker="o"),
    Scheme("he_uniform", init.he_uniform_, label="He uniform",
           formula=r"U\left(\pm\sqrt{6/n_\text{in}}\right)", source="he2015",
           color="#D55E00", marker="s"),
    Scheme("orthogonal", orthogonal_, label="orthogonal",
           formula=r"W^\top W = I \text{ or } W W^\top = I", source="saxe2014",
           color="#D6336C", marker="d"),
)  # fmt: skip

SCHEMES: Mapping[str, Scheme] = {scheme.name: scheme for scheme in _SCHEMES}

_SYNONYMS = {"glorot": "xavier", "kaiming": "he", "msra": "he"}


def get_scheme(scheme: str | Scheme) -> Scheme:
    """Return the scheme of that name; a `Scheme` passes through.

    Parameters
    ----------
    scheme : str or Scheme
        A key of `SCHEMES`; ``glorot_`` stands for ``xavier_``, ``kaiming_`` and ``msra_``
        stand for ``he_``.

    Raises
    ------
    ValueError
        If there is no such scheme; the message lists those that exist.

    Examples
    --------
    >>> get_scheme("kaiming_uniform").name
    'he_uniform'
    """
    if isinstance(scheme, Scheme):
        return scheme
    family, _, distribution = str(scheme).partition("_")
    name = f"{_SYNONYMS.get(family, family)}_{distribution}" if distribution else family
    if name not in SCHEMES:
        raise ValueError(
            f"unknown scheme {scheme!r}: expected one of {', '.join(SCHEMES)}. "
            "For a rule of your own pass an initguide.Scheme."
        )
    return SCHEMES[name]


@dataclass(frozen=True)
class Initialization:
    """What `initialize_` did to a model.

    Attributes
    ----------
    scheme : Scheme
    initialized : tuple of str
        Names of the layers whose parameters were filled.
    left_alone : tuple of str
        Names of the parameters that no rule covers: they are what they were.
    """

    scheme: Scheme
    initialized: tuple[str, ...]
    left_alone: tuple[str, ...]

    def __repr__(self) -> str:
        left = ", ".join(self.left_alone) or "nothing"
        return f"{self.scheme.label}: initialized {', '.join(self.initialized)}; left alone {left}"


def initialize_(
    model: nn.Module,
    scheme: str | Scheme,
    *,
    activation: str | Callable[[Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Initialization:
    """Fill every Linear, Conv and ConvTranspose layer of a model by a scheme.

    Parameters
    ----------
    model : nn.Module
        Changed in place.
    scheme : str or Scheme
        A key of `SCHEMES` or a scheme of your own.
    activation : str, Activation, nn.Module or callable, optional
        The network's activation, for a scheme with a gain: it gets the forward `gain`.
    generator : torch.Generator, optional
        Where all draws come from, layer by layer in the order of ``model.named_modules()``;
        torch's global one by default.

    Returns
    -------
    Initialization
        The layers that were filled and the parameters that were left alone: those of
        normalization, embedding, recurrent and other layers.

    Raises
    ------
    ValueError
        If the scheme is unknown, the model has no layer to initialize, or one of its weights
        has no memory yet (lazy or meta device); if ``activation`` is given and the scheme takes
        no gain or the activation has none. The model is then unchanged.

    Notes
    -----
    A weight shared by several layers is filled once. The output layer, for a scheme that
    treats it apart, is the last one in that order. The gain is given to all other layers, to the
    first one too, though no activation precedes it.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
    >>> initialize_(model, "he_normal", generator=torch.Generator().manual_seed(0))
    He normal: initialized 0, 2; left alone nothing
    >>> done = initialize_(model, "he_normal", activation=nn.GELU())
    >>> done.scheme.label.startswith("He normal (gain ")
    True
    """
    scheme = get_scheme(scheme)
    if activation is not None:
        scheme = scheme.with_gain(gain(activation))
    layers = {
        name: m
        for name, m in model.named_modules()
        # A parametrized or pruned layer computes its weight: filling that would be lost.
        if isinstance(m, LAYERS) and isinstance(m.weight, nn.Parameter)
    }
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no layer to initialize: expected at least one Linear, "
            "Conv or ConvTranspose. Fill its parameters with the functions of "
            "initguide.initializers."
        )
    check_memory((f"{name}.weight".lstrip("."), layer.weight) for name, layer in layers.items())
    filled: set[int] = set()
    for number, layer in enumerate(layers.values(), start=1):
        readout = scheme.readout is not None and number == len(layers)
        views = [layer.weight.detach()] if scheme.as_stored else weight_views(layer)
        if id(layer.weight) not in filled:
            for view in views:
                dense = view.contiguous()  # orthogonal_ cannot write into a transposed view
                _fill_(dense, scheme.readout if readout else scheme.weight, generator=generator)
                view.copy_(dense)
        if layer.bias is not None and id(layer.bias) not in filled:
            _fill_(layer.bias.detach(), scheme.bias, fans(views[0]), generator=generator)
        filled.update(map(id, layer.parameters(recurse=False)))
    return Initialization(
        scheme,
        tuple(layers),
        tuple(name for name, p in model.named_parameters() if id(p) not in filled),
    )


def _fill_(
    tensor: Tensor,
    rule: float | Callable[..., Tensor] | None,
    *fan: Fans,
    generator: torch.Generator | None,
) -> None:
    if callable(rule):
        rule(tensor, *fan, generator=generator)
    elif rule is not None:
        init.constant_(tensor, rule)
