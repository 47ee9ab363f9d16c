"""Each derived equation has a numeric twin: quadrature, enumeration, Monte Carlo, torch."""

import itertools
import math

import jax
import numpy as np
import pytest
import sympy as sp
import torch
from scipy import integrate, stats
from torch import nn

from initguide import SCHEMES
from initguide.theory.derivations import (
    backward,
    expect,
    forward,
    he,
    lecun,
    rectify,
    torch_default,
    uniform,
    xavier,
)

n, m, v, b = sp.symbols("n m v b", positive=True)
a, z = sp.symbols("a z", real=True)
E, p, phi = sp.symbols("E p phi", cls=sp.Function)
w, x, g = (sp.IndexedBase(name) for name in "wxg")

DENSITIES = {
    "normal": stats.norm(scale=1.7),
    "uniform": stats.uniform(-2, 4),
    "Laplace": stats.laplace(scale=0.6),
    "two humps": stats.dweibull(3),
}
SLOPES = (0, 0.01, 0.2, 1, math.sqrt(5))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def number(expression, **values):
    """Put numbers into an expression's symbols, by name."""
    return float(expression.subs({s: values[s.name] for s in expression.free_symbols}))


def agrees(samples, predicted):
    """Whether the mean of independent samples is within 5 standard errors."""
    samples = np.asarray(samples, dtype=float)
    return abs(samples.mean() - predicted) < 5 * samples.std(ddof=1) / math.sqrt(samples.size)


# -- What a layer does ---------------------------------------------------------------------

# Three inputs that depend on each other, with means other than 0: all states alike likely.
STATES = np.array([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0], [2.0, 2.0, -1.0], [0.3, 0.0, 1.0]])
SPREAD = 0.7  # weights are +-0.7, so that enumeration is exact


def enumerated(expression, signal):
    """Average over all weights and all states of the signal, exactly."""
    entries = [w[k] for k in (1, 2, 3)] + [signal[k] for k in (1, 2, 3)]
    function = sp.lambdify(entries, expression)
    signs = itertools.product((-SPREAD, SPREAD), repeat=3)
    return float(np.mean([function(*s, *state) for s in signs for state in STATES]))


def evaluated(expression, signal, average):
    """Compute both kinds of mean in an expression: of entries, and the one over all."""
    expression = expression.subs({E(average**2): (STATES**2).mean(), v: SPREAD**2}).doit()
    return float(expression.replace(E, lambda f: sp.Float(enumerated(f, signal))))


@pytest.mark.parametrize(
    "expression",
    [
        (w[1] * x[1] + w[2] * x[2] + w[3] * x[3]) ** 2,
        (w[1] * x[1] - 2 * w[2] * x[3]) * (w[2] * x[1] + 3) + x[2] ** 2,
        w[1] ** 2 * x[1] * x[2] + 5 * w[1] * w[3] * x[1],
        w[2] * x[1] ** 3 + 4,
        sp.Integer(2),
    ],
)
def test_expect_agrees_with_enumeration(expression):
    found = evaluated(expect(expression), x, sp.Symbol("x"))
    assert found == pytest.approx(enumerated(expression, x), abs=1e-12)


def test_expect_knows_a_matrix():
    y = [sum(w[i, j] * x[j] for j in (1, 2)) for i in (1, 2)]
    assert expect(y[0] * y[1]) == 0
    assert expect(y[1] ** 2) == v * E(x[1] ** 2) + v * E(x[2] ** 2)


@pytest.mark.parametrize("term", [w[1] ** 3, w[1] * w[2] * w[3], 1 / w[1], sp.tanh(w[1] * x[1])])
def test_expect_refuses_what_the_variance_does_not_decide(term):
    with pytest.raises(ValueError, match=r"variance: expected a polynomial of degree 2"):
        expect(x[2] + term)


@pytest.mark.parametrize("derivation", [forward(), backward()], ids=lambda d: d.title[:8])
def test_every_step_through_a_layer_agrees_with_enumeration(derivation):
    signal, average, count = (x, sp.Symbol("x"), n)
    if derivation.title.startswith("Backwards"):
        signal, average, count = (g, sp.Symbol("g"), m)
    output, *steps = derivation.steps.values()
    total = sum(w[k] * signal[k] for k in (1, 2, 3))
    assert output.rhs.subs(count, 3).doit() == total
    square = E(output.lhs**2)
    for step in steps:
        for i, j in ((2, 2), (2, 3)):  # one input with itself, and with another
            left, right = (
                side.subs(square, enumerated(total**2, signal))
                .doit()
                .subs({count: 3, sp.Symbol("i", integer=True): i, sp.Symbol("j", integer=True): j})
                for side in (step.lhs, step.rhs)
            )
            assert evaluated(left, signal, average) == pytest.approx(
                evaluated(right, signal, average), abs=1e-12
            )


@pytest.mark.parametrize("draw", ["normal", "uniform", "coin"])
def test_a_layer_multiplies_whatever_the_distribution(draw):
    # Fixed inputs, neither centred nor alike; units are independent draws.
    inputs, units, variance = torch.linspace(-1, 3, 50), 20_000, 0.3
    weight = {
        "normal": lambda: torch.randn(units, 50, generator=generator()),
        "uniform": lambda: (torch.rand(units, 50, generator=generator()) * 2 - 1) * 3**0.5,
        "coin": lambda: torch.randint(2, (units, 50), generator=generator()) * 2.0 - 1,
    }[draw]()
    output = variance**0.5 * weight @ inputs
    factor = number(forward().result.rhs / E(sp.Symbol("x") ** 2), n=50, v=variance)
    assert agrees(output.square(), factor * inputs.square().mean().item())


def test_a_gradient_meets_the_outputs():
    layer = nn.Linear(20_000, 40, bias=False)
    nn.init.normal_(layer.weight, std=0.1, generator=generator())
    inputs = torch.ones(20_000, requires_grad=True)
    arriving = torch.linspace(-1, 2, 40)
    (leaving,) = torch.autograd.grad(layer(inputs), inputs, arriving)
    factor = number(backward().result.rhs / E(sp.Symbol("g") ** 2), m=40, v=0.01)
    assert agrees(leaving.square(), factor * arriving.square().mean().item())


# -- The rules -----------------------------------------------------------------------------

RULES = {
    "lecun_normal": lecun(),
    "lecun_uniform": lecun(),
    "xavier_normal": xavier(),
    "xavier_uniform": xavier(),
    "he_normal": he(),
    "he_uniform": he(),
    "torch_default": torch_default(),
    "normal_rule": lecun(),
    "uniform_rule": torch_default(),
}


@pytest.mark.parametrize("name", RULES)
def test_schemes_draw_the_derived_variance(name):
    weight = SCHEMES[name].weight(torch.empty(200, 300), generator=generator())
    assert agrees(weight.square(), number(RULES[name].result.rhs, n=300, m=200))


@pytest.mark.parametrize("rule", ["lecun", "glorot", "he"])
def test_jax_draws_the_derived_variance(rule):
    # jax's own uniform forms are exact: their bound is that of the derived variance.
    weight = getattr(jax.nn.initializers, f"{rule}_uniform")()(jax.random.key(0), (300, 200))
    variance = {"lecun": lecun(), "glorot": xavier(), "he": he()}[rule].result.rhs
    bound = number(uniform(variance).result.rhs, n=300, m=200)
    assert float(abs(weight).max()) == pytest.approx(bound, rel=1e-3)


def test_xavier_is_between_both_directions():
    fans = {"n": 784, "m": 100}
    variance = number(xavier().result.rhs, **fans)
    forwards, backwards = fans["n"] * variance, fans["m"] * variance
    assert (forwards + backwards) / 2 == pytest.approx(1)
    assert forwards > 1 > backwards
    assert xavier().result.rhs.subs(m, n) == lecun().result.rhs


@pytest.mark.parametrize("variance", [0.01, 1.0, 7.0])
def test_uniform_bound_has_the_variance(variance):
    bound = number(uniform(sp.Float(variance)).result.rhs)
    assert stats.uniform(-bound, 2 * bound).var() == pytest.approx(variance)


def test_uniform_xavier_is_the_published_bound():
    assert uniform(xavier().result.rhs).result.rhs.equals(sp.sqrt(6 / (n + m)))


@pytest.mark.parametrize("name", DENSITIES)
@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize("derivative", [False, True])
def test_rectify_agrees_with_quadrature_for_any_symmetric_density(name, slope, derivative):
    density = DENSITIES[name]
    power = 0 if derivative else 2
    left, right = (
        integrate.quad(lambda t: abs(t) ** power * density.pdf(t), *limits)[0]
        for limits in ((-20, 0), (0, 20))
    )
    share = rectify(slope, derivative=derivative).result.rhs
    share = float(share.subs(E(z**2), left + right))
    assert share == pytest.approx(slope**2 * left + right, rel=1e-6)


def test_rectify_needs_the_symmetry():
    density = stats.expon(loc=-1)  # mean 0, skewed
    above, _ = integrate.quad(lambda t: t**2 * density.pdf(t), 0, np.inf)
    assert abs(above / density.var() - 1 / 2) > 0.1


@pytest.mark.parametrize("derivative", [False, True])
def test_every_step_of_rectify_holds_for_a_normal_density(derivative):
    normal = sp.exp(-(z**2) / 2) / sp.sqrt(2 * sp.pi)
    whole = sp.Integer(1)
    for step in rectify(sp.Rational(1, 5), derivative=derivative).steps.values():
        through = sp.Rational(13, 25)  # (1 + 1/25) / 2 of a mean square of 1
        left, right = (
            side.replace(p, lambda t: normal.subs(z, t))
            .subs({E(z**2): whole, E(phi(z) ** 2): through, E(phi(z).diff(z) ** 2): through})
            .doit()
            for side in (step.lhs, step.rhs)
        )
        assert sp.simplify(left - right) == 0, step


@pytest.mark.parametrize("slope", SLOPES)
def test_he_agrees_with_calculate_gain(slope):
    gain = math.sqrt(number(he(slope).result.rhs * n))
    assert gain == pytest.approx(nn.init.calculate_gain("leaky_relu", slope))
    if slope == 0:
        assert gain == pytest.approx(nn.init.calculate_gain("relu"))
    backwards = he(slope, mode="fan_out").result.rhs
    assert backwards.subs(m, n) == he(slope).result.rhs


@pytest.mark.parametrize("slope", [0, 0.2])
def test_he_keeps_the_mean_square_of_one_image_at_any_width(slope):
    # Three narrow layers, 20,000 draws: nothing here is wide, and nothing normal.
    signal = torch.tensor([1.0, -2.0, 0.5, 0.0]).expand(20_000, 4)
    widths, variance = (4, 6, 5, 3), he(slope).result.rhs
    source, first = generator(), None
    for n_in, n_out in itertools.pairwise(widths):
        bound = number(uniform(variance).result.rhs, n=n_in)
        weight = (torch.rand(20_000, n_out, n_in, generator=source) * 2 - 1) * bound
        z = (weight @ signal[..., None])[..., 0]
        first = z if first is None else first
        signal = nn.functional.leaky_relu(z, slope)
    expected = number(variance * n) * 5.25 / 4  # the first layer's, of the input itself
    assert agrees(first.square().mean(1), expected)
    assert agrees(z.square().mean(1), expected)


def test_torch_default_is_what_a_linear_layer_holds():
    torch.manual_seed(0)  # the layer takes no generator
    layer = nn.Linear(400, 5000)
    bound = number([*torch_default().steps.values()][1].rhs, n=400)
    variance = number(torch_default().result.rhs, n=400)
    for parameter in (layer.weight.detach(), layer.bias.detach()):
        assert abs(parameter).max().item() == pytest.approx(bound, rel=5e-3)
        assert abs(parameter).max().item() <= bound * (1 + 1e-6)
        assert agrees(parameter.square(), variance)
    gain = number(next(iter(torch_default().steps.values())).rhs)
    assert gain == pytest.approx(nn.init.calculate_gain("leaky_relu", math.sqrt(5)))


def test_a_derivation_prints_its_steps():
    text = repr(lecun())
    assert text.startswith("LeCun\n1. ") and text.endswith("v = 1/n")
    assert len(text.splitlines()) == 1 + 2 * len(lecun().steps)
    assert lecun().result == sp.Eq(v, 1 / n)
