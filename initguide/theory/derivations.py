r"""A weight's variance follows from one demand: a layer keeps the mean square of its signal.

SymPy derives the rules of LeCun, Xavier and He, and what torch does by default. A layer has
``n`` inputs and ``m`` outputs. Its weights ``w`` are independent of each other and of the
signal, with mean 0 and variance ``v``; their distribution is free, except that behind a
(leaky) ReLU of slope ``a`` it is symmetric. ``E`` is the mean over all that is random.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import sympy as sp

__all__ = [
    "Derivation",
    "backward",
    "expect",
    "forward",
    "he",
    "lecun",
    "rectify",
    "torch_default",
    "uniform",
    "xavier",
]

E = sp.Function("E")
_n, _m, _v, _b = sp.symbols("n m v b", positive=True)
_t, _z = sp.symbols("t z", real=True)
_x, _y, _g, _h, _gain = sp.symbols("x y g h gain")
_i, _j = sp.symbols("i j", integer=True)
_w = sp.IndexedBase("w")


@dataclass(frozen=True)
class Derivation:
    """Equations that lead to a result, each under the words that say why it holds.

    Attributes
    ----------
    title : str
    steps : ordered mapping from str to sympy.Eq
    """

    title: str
    steps: Mapping[str, sp.Eq]

    @property
    def result(self) -> sp.Eq:
        """The last step's equation."""
        return [*self.steps.values()][-1]

    def __repr__(self) -> str:
        steps = enumerate(self.steps.items(), start=1)
        lines = [f"{k}. {words}:\n   {eq.lhs} = {eq.rhs}" for k, (words, eq) in steps]
        return "\n".join([self.title, *lines])


def expect(expression: sp.Expr) -> sp.Expr:
    r"""Take the mean of a polynomial in a layer's weights and its signal.

    Only what every rule assumes is used: weights are independent of the signal and of each
    other, and have mean 0. So :math:`E[w_i] = 0`, :math:`E[w_i w_j] = v\,\delta_{ij}`, and they
    come out of a product. Entries of the signal may have any mean and depend on each other.

    Parameters
    ----------
    expression : sympy.Expr
        Of degree 2 or less in entries of the weight ``IndexedBase("w")``. All other indexed
        symbols are the signal; those without an index are constants.

    Returns
    -------
    sympy.Expr
        In the weights' variance ``v`` and means ``E(...)`` of the signal.

    Raises
    ------
    ValueError
        If the mean depends on more than the variance of the weights.

    Examples
    --------
    >>> from sympy import IndexedBase
    >>> w, x = IndexedBase("w"), IndexedBase("x")
    >>> expect((w[1] * x[1] + w[2] * x[2]) ** 2)
    v*E(x[1]**2) + v*E(x[2]**2)
    """
    total = sp.S.Zero
    for term in sp.Add.make_args(sp.expand(expression)):
        drawn: list[sp.Indexed] = []
        rest = sp.S.One
        for factor in sp.Mul.make_args(term):
            base, power = factor.as_base_exp()
            if not factor.has(_w):
                rest *= factor
            elif isinstance(base, sp.Indexed) and power in (1, 2) and len(drawn) + power <= 2:
                drawn += [base] * int(power)
            else:
                raise ValueError(
                    f"the mean of {term} depends on more than the weights' variance: expected a "
                    "polynomial of degree 2 at most. Linearize it."
                )
        constant, random = rest.as_independent(sp.Indexed)
        mean = constant * (E(random) if random.has(sp.Indexed) else random)
        if len(drawn) == 2:
            pairs = zip(drawn[0].indices, drawn[1].indices, strict=True)
            total += _v * sp.prod(sp.KroneckerDelta(*pair) for pair in pairs) * mean
        elif not drawn:
            total += mean
    return total


def forward() -> Derivation:
    r"""Derive :math:`E[y^2] = n v\,E[x^2]` for a unit :math:`y = \sum_{i=1}^n w_i x_i`.

    :math:`E[x^2]` is the average of :math:`E[x_i^2]` over the inputs, which need not be alike.

    Examples
    --------
    >>> forward().result
    Eq(E(y**2), n*v*E(x**2))
    """
    return _layer("Forwards: an output sums n inputs", _n, _x, _y)


def backward() -> Derivation:
    r"""Derive what a layer does to a gradient: an input's sums those of :math:`m` outputs.

    That the weights are independent of the outputs' gradients :math:`g` is an assumption
    here: these come from a loss that has seen the weights.
    """
    return _layer("Backwards: an input's gradient h sums m of the outputs'", _m, _g, _h)


def _layer(title: str, count: sp.Symbol, signal: sp.Symbol, output: sp.Symbol) -> Derivation:
    s = sp.IndexedBase(signal.name)
    one, pair = _w[_i] * s[_i], _w[_i] * s[_i] * _w[_j] * s[_j]
    over_j = sp.Sum(expect(pair), (_j, 1, count))
    diagonal = over_j.doit().args[0].expr  # of two cases, the one that i is in 1 ... count
    squares = sp.Sum(diagonal / _v, (_i, 1, count))
    average = count * E(signal**2)
    steps = {
        "The output": sp.Eq(output, sp.Sum(one, (_i, 1, count))),
        "has mean 0, so that its mean square is its variance": sp.Eq(E(one), expect(one)),
        "Of the pairs in its square, independence removes the mixed": sp.Eq(E(pair), expect(pair)),
        "so that of a sum over j one term stays": sp.Eq(over_j, diagonal),
        "and a single sum is left": sp.Eq(E(output**2), _v * squares),
        "Name the average of its terms": sp.Eq(squares, average),
        "The layer multiplies the mean square": sp.Eq(E(output**2), _v * average),
    }
    return Derivation(title, steps)


def lecun() -> Derivation:
    r"""Derive :math:`v = 1/n`: it keeps a linear layer's mean square forwards [lecun1998]_.

    A tanh layer is nearly linear while its signal is small.
    """
    layer = forward().result
    kept = sp.Eq(layer.rhs / E(_x**2), 1)
    steps = {"A layer": layer, "Demand that nothing changes": kept, "Solve": _solve(kept, _v)}
    return Derivation("LeCun", steps)


def xavier() -> Derivation:
    r"""Derive :math:`v = 2/(n + m)`, a compromise of both directions [glorot2010]_.

    Examples
    --------
    >>> xavier().result
    Eq(v, 2/(m + n))
    """
    forwards = sp.Eq(forward().result.rhs / E(_x**2), 1)
    backwards = sp.Eq(backward().result.rhs / E(_g**2), 1)
    (common,) = sp.solve([forwards, backwards], [_v, _m], dict=True)
    average = sp.Eq((forwards.lhs + backwards.lhs) / 2, 1)
    steps = {
        "The signal is kept if": forwards,
        "and the gradient if": backwards,
        "Both at once need a square layer": sp.Eq(_m, common[_m]),
        "Demand both on average": average,
        "Solve": _solve(average, _v),
    }
    return Derivation("Xavier", steps)


def uniform(variance: sp.Expr = _v) -> Derivation:
    r"""Derive the bound :math:`b` at which :math:`U(-b, b)` has a given variance.

    Examples
    --------
    >>> uniform().result
    Eq(b, sqrt(3)*sqrt(v))
    """
    mean, square = (sp.Integral(_t**power / (2 * _b), (_t, -_b, _b)) for power in (1, 2))
    wanted = sp.Eq(square.doit(), variance)
    steps = {
        "The mean": sp.Eq(mean, mean.doit()),
        "The variance": sp.Eq(square, square.doit()),
        "Demand the given variance": wanted,
        "Solve": _solve(wanted, _b),
    }
    return Derivation("The bound of uniform weights", steps)


def rectify(slope: sp.Expr | float = 0, *, derivative: bool = False) -> Derivation:
    r"""Derive the share of a mean square that (leaky) ReLU lets through: :math:`(1 + a^2)/2`.

    Its input may have any density :math:`p` that is symmetric about 0. A unit's is, if its
    weights' is and its bias is 0 or symmetric as well.

    Parameters
    ----------
    slope : sympy.Expr or float
        Slope :math:`a` below zero; 0 is ReLU.
    derivative : bool
        Take :math:`\phi'(z)^2`, which multiplies the gradient, in place of :math:`\phi(z)^2`.

    Examples
    --------
    >>> rectify().result
    Eq(E(phi(z)**2), E(z**2)/2)
    """
    phi, p = sp.Function("phi")(_z), sp.Function("p")
    power, whole, name = _z**2, E(_z**2), E(phi**2)
    if derivative:
        power, whole, name = sp.S.One, sp.S.One, E(phi.diff(_z) ** 2)
    above = sp.Integral(power * p(_z), (_z, 0, sp.oo))
    below = sp.Integral(power * p(_z), (_z, -sp.oo, 0))
    mirrored = below.transform(-_z, _z)
    through = above + sp.sympify(slope) ** 2 * below
    passed = sp.factor(through.subs(below, above).subs(above, whole / 2))
    steps = {
        "Split at 0": sp.Eq(name, through),
        "Mirror the lower half": sp.Eq(below, mirrored),
        "which a symmetric density does not notice": sp.Eq(below, mirrored.replace(p(-_z), p(_z))),
        "so that the whole is two equal halves": sp.Eq(whole, 2 * above),
        "and this passes": sp.Eq(name, passed),
    }
    return Derivation("What a (leaky) ReLU lets through", steps)


def he(slope: sp.Expr | float = 0, mode: Literal["fan_in", "fan_out"] = "fan_in") -> Derivation:
    r"""Derive :math:`v = 2 / ((1 + a^2)\,n)`, which makes up for a (leaky) ReLU [he2015]_.

    Parameters
    ----------
    slope : sympy.Expr or float
        Slope :math:`a` below zero; 0 is ReLU.
    mode : {"fan_in", "fan_out"}
        Keep the signal; or the gradient, which has :math:`m` in place of :math:`n`.

    Examples
    --------
    >>> he().result, he(mode="fan_out").result
    (Eq(v, 2/n), Eq(v, 2/m))
    """
    backwards = mode == "fan_out"
    layer, signal = (backward(), _g) if backwards else (forward(), _x)
    share = rectify(slope, derivative=backwards).result
    factor = layer.result.rhs / E(signal**2) * share.rhs.subs(E(_z**2), 1)
    kept = sp.Eq(sp.factor(factor), 1)
    steps = {
        "The activation": share,
        "A layer": layer.result,
        "Demand that both together change nothing": kept,
        "Solve": _solve(kept, _v),
    }
    return Derivation("He", steps)


def torch_default() -> Derivation:
    r"""Derive :math:`v = 1/(3n)` from the ``kaiming_uniform_(weight, a=sqrt(5))`` in torch.

    So Linear and Conv layers are filled. No unit has that slope: it makes the bound
    :math:`1/\sqrt n`, which biases get too.

    Examples
    --------
    >>> torch_default().result
    Eq(v, 1/(3*n))
    """
    rule = he(sp.sqrt(5)).result
    bound = uniform(rule.rhs).result
    steps = {
        "He's gain at slope sqrt(5)": sp.Eq(_gain, sp.sqrt(rule.rhs * _n)),
        "The bound of weights, and of biases": bound,
        "Their variance": sp.Eq(_v, uniform().steps["The variance"].rhs.subs(_b, bound.rhs)),
    }
    return Derivation("PyTorch's default", steps)


def _solve(condition: sp.Eq, unknown: sp.Symbol) -> sp.Eq:
    (solution,) = sp.solve(condition, unknown)
    return sp.Eq(unknown, solution)
