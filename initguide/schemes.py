"""Which rule fills which tensor of a model? A `Scheme` says; `initialize_` does it.

A `Scheme` is data: a weight initializer, a bias initializer and, where one is wanted, an
exception for the output layer. `SCHEMES` holds those that the literature and the tutorials
compare, each with its formula and its source.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from initguide import initializers as init
from initguide.orthogonal import orthogonal_

__all__ = ["SCHEMES", "Scheme", "get_scheme"]


@dataclass(frozen=True)
class Scheme:
    r"""A named rule for the weights and biases of a model.

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
    readout_bias : float or callable, optional
        Bias of the output layer where it differs: :math:`-\log((1-p)/p)` lets a sigmoid begin at a
        class's share :math:`p`.
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
    readout_bias: float | Callable[..., Tensor] | None = None
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
        >>> from initguide import gain
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
