"""The theory agrees with closed kernels, quadrature and iteration; networks obey it."""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, special, stats
from torch import nn

from initguide import ACTIVATIONS, SCHEMES, Scheme, get_activation, initialize_, mlp
from initguide.initializers import lecun_normal_, normal_, variance_scaling_
from initguide.propagation import probe
from initguide.theory.mean_field import (
    correlation_map,
    critical_sigma_w,
    fixed_point,
    jacobian_spectrum,
    predict,
    variance_map,
)

# What the module's docstring promises of an expectation, and of a correlation.
ACCURATE = 1e-9
CORRELATED = 1e-6
ACTS = ("tanh", "relu", "leaky_relu", "gelu", "silu", "selu", "sigmoid")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def expect(function, q, kinks=(0.0,)):
    """Return E[function(sqrt(q) z)] by scipy."""
    edges = sorted({-12.0, 12.0, *(k / math.sqrt(q) for k in kinks if abs(k) < 12 * math.sqrt(q))})

    def integrand(t):
        return function(math.sqrt(q) * t) * math.exp(-t * t / 2) / math.sqrt(2 * math.pi)

    pieces = np.unique([*edges, -3.0, -0.3, 0.3, 3.0])  # short: what is steep is so next to 0
    return sum(
        integrate.quad(integrand, a, b, epsabs=1e-14, epsrel=1e-12, limit=200)[0]
        for a, b in pairwise(pieces)
    )


def scalar(function):
    """Make a function of a float from one of a tensor."""
    return lambda x: float(function(torch.tensor(x, dtype=torch.float64)))


def signal(table, quantity="second_moment", column="value"):
    return table[table["quantity"] == quantity].set_index("name")[column]


# -- Maps ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_variance_map_is_its_integral(name):
    phi = ACTIVATIONS[name]
    levels = (1e-6, 0.7, 20.0)
    expected = [
        2.25 * expect(scalar(lambda x: phi(x) ** 2), q, (0.0, *phi.kinks)) + 0.09 for q in levels
    ]
    assert variance_map(name, levels, 1.5, 0.3).tolist() == pytest.approx(expected, rel=ACCURATE)


def test_closed_kernels():
    q, c = np.meshgrid([0.01, 1.0, 50.0], [-1, -0.6, 0, 0.3, 0.9, 0.99, 1])
    # Cho & Saul's arc-cosine kernel of degree 1, Williams' arcsine kernel.
    relu = q * (np.sqrt(1 - c**2) + c * (np.pi - np.arccos(c))) / (2 * np.pi)
    erf = 2 / np.pi * np.arcsin(2 * q * c / (1 + 2 * q))
    for name, kernel, square in (("relu", relu, q / 2), ("erf", erf, erf[-1] + 0 * q)):
        found = variance_map(name, q, 1.3, 0.2)
        np.testing.assert_allclose(found, 1.69 * square + 0.04, rtol=ACCURATE)
        expected = (1.69 * kernel + 0.04) / (1.69 * square + 0.04)
        np.testing.assert_allclose(correlation_map(name, c, q, 1.3, 0.2), expected, atol=CORRELATED)


@pytest.mark.parametrize(("name", "c"), [("tanh", 0.4), ("gelu", -0.7), ("tanh", 0.95)])
def test_the_correlation_map_is_its_double_integral(name, c):
    phi, q = scalar(ACTIVATIONS[name]), 1.4
    root = math.sqrt(1 - c * c)

    def integrand(t, s):
        u, v = math.sqrt(q) * s, math.sqrt(q) * (c * s + root * t)
        return phi(u) * phi(v) * math.exp(-(s * s + t * t) / 2) / (2 * math.pi)

    both, error = integrate.dblquad(integrand, -7, 7, -7, 7, epsabs=1e-7, epsrel=1e-7)
    expected = (2 * both + 0.1) / (2 * expect(lambda x: phi(x) ** 2, q) + 0.1)
    found = correlation_map(name, c, q, math.sqrt(2), math.sqrt(0.1))
    assert found == pytest.approx(expected, abs=CORRELATED + error)


@pytest.mark.parametrize("name", ["selu", "hardtanh", "silu", "softsign"])
def test_the_correlation_map_is_its_monte_carlo_mean(name):
    u, e = torch.randn(2, 400_000, generator=generator(), dtype=torch.float64)
    phi, c, q = ACTIVATIONS[name], 0.6, 2.5
    pairs = phi(math.sqrt(q) * u) * phi(math.sqrt(q) * (c * u + 0.8 * e))
    found = correlation_map(name, c, q, 1.0) * variance_map(name, q, 1.0)
    assert abs(float(pairs.mean()) - found) < 5 * float(pairs.std()) / math.sqrt(len(u))


def test_an_activation_may_be_given_as_a_module_or_a_function():
    x = np.array([0.3, 2.0])
    for other in (nn.Tanh(), torch.tanh, ACTIVATIONS["tanh"]):
        np.testing.assert_allclose(variance_map(other, x, 1.2), variance_map("tanh", x, 1.2))
        assert fixed_point(other, 1.5) == pytest.approx(fixed_point("tanh", 1.5), rel=1e-6)
    inplace = fixed_point(nn.ReLU(inplace=True), 1.0, 0.5)
    assert inplace == pytest.approx(fixed_point("relu", 1.0, 0.5), rel=1e-12)
    frame = predict(9, 9, 9, activation=nn.Tanh(), scheme="lecun_normal")
    expected = predict(9, 9, 9, activation="tanh", scheme="lecun_normal")
    np.testing.assert_allclose(frame["value"], expected["value"], atol=1e-12)


def test_no_correlation_beyond_one():
    with pytest.raises(ValueError, match=r"c=1.5 is no correlation: expected -1 to 1"):
        correlation_map("tanh", 1.5, 1.0, 1.0)


# -- Fixed points --------------------------------------------------------------------------

STABLE = [
    ("tanh", 1.0, 0.3, 1.0),
    ("tanh", 5 / 3, 0.0, 1.0),
    ("erf", 1.5, 0.2, 30.0),
    ("selu", 1.0, 0.0, 1e-3),
    ("selu", 0.75, 0.0, 1.0),
    ("sigmoid", 3.0, 0.5, 1.0),
    ("gelu", 1.5, 0.2, 1.0),
    ("relu", 1.2, 0.5, 1e3),
    ("softsign", 2.0, 0.1, 1.0),
]


@pytest.mark.parametrize(("name", "w", "b", "q_0"), STABLE)
def test_a_fixed_point_is_where_iteration_ends(name, w, b, q_0):
    point = fixed_point(name, w, b, q_0=q_0)
    q = q_0
    for _ in range(400):
        q = variance_map(name, q, w, b)
    assert point.q == pytest.approx(q, rel=10 * ACCURATE)
    phi = ACTIVATIONS[name]
    chi = w**2 * expect(scalar(lambda x: phi.derivative(x) ** 2), q, (0.0, *phi.kinks))
    assert point.chi_1 == pytest.approx(chi, rel=10 * ACCURATE)
    # Slopes by central differences: their error is of the order of the step's square.
    step = 1e-4
    slope = np.diff(variance_map(name, q * np.array([1 - step, 1 + step]), w, b))[0] / (
        2 * step * q
    )
    assert math.exp(-1 / point.xi_q) == pytest.approx(slope, rel=1e-6)
    assert correlation_map(name, point.c, q, w, b) == pytest.approx(point.c, abs=CORRELATED)
    assert point.c == 1 or point.chi_1 > 1
    if point.c < 1:
        around = np.array([point.c - step, point.c + step])
        slope = np.diff(correlation_map(name, around, q, w, b))[0] / (2 * step)
        assert point.chi_c == pytest.approx(slope, abs=1e-5)
        c = 0.5
        for _ in range(60):
            c = correlation_map(name, c, q, w, b)
        # It closes in by the factor chi_c.
        assert abs(c - point.c) < 1.5 * point.chi_c**60 + CORRELATED
    assert math.exp(-1 / point.xi_c) == pytest.approx(point.chi_c)
    assert math.exp(-1 / point.xi_gradient) == pytest.approx(point.chi_1)


def test_depth_scales_of_schoenholz():
    """tanh, sigma_b^2 = .05, by Gauss-Hermite quadrature in two dimensions."""
    z, weights = np.polynomial.hermite_e.hermegauss(120)
    weights = np.outer(weights, weights) / (2 * math.pi)

    def mean(function, q, c):
        u, v = z[:, None], c * z[:, None] + math.sqrt(1 - c * c) * z
        return (weights * function(math.sqrt(q) * u) * function(math.sqrt(q) * v)).sum()

    def slope(x):
        return np.cosh(x) ** -2

    digits = {1.0: 3.63, 1.5: 15.8, 2.0: 25.2, 2.5: 11.8}  # from sigma_w^2 to xi_c
    for w, scale in digits.items():
        q = optimize.brentq(lambda q, w=w: w * mean(np.tanh, q, 1.0) + 0.05 - q, 0.01, 9)
        c = 1.0
        if w * mean(slope, q, c) > 1:  # chaos: like inputs fall apart
            c = optimize.brentq(
                lambda c, w=w, q=q: (w * mean(np.tanh, q, c) + 0.05) / q - c, 0.0, 0.99
            )
        expected = -1 / math.log(w * mean(slope, q, c))
        assert expected == pytest.approx(scale, abs=0.05)  # its last digit, .1 or less
        point = fixed_point("tanh", math.sqrt(w), math.sqrt(0.05))
        assert (point.q, point.xi_c) == pytest.approx((q, expected), rel=1e-4)
        assert point.c == pytest.approx(c, abs=1e-5)
        if w < 1.76095:
            assert point.xi_c == pytest.approx(point.xi_gradient, rel=1e-7)
        else:
            assert point.xi_gradient < 0 and point.c < 1


def selu(x):
    return 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * math.expm1(x))


def test_torchs_gains_are_no_fixed_points_at_one():
    def level(phi, gain):
        return optimize.brentq(lambda q: gain**2 * expect(lambda x: phi(x) ** 2, q) - q, 1e-3, 9)

    g = nn.init.calculate_gain("tanh")
    q, tanh = level(math.tanh, g), fixed_point("tanh", g)
    chi_1 = g**2 * expect(lambda x: math.cosh(x) ** -4, q)
    assert (tanh.q, tanh.chi_1) == pytest.approx((q, chi_1), rel=1e-8)
    assert tanh.q == pytest.approx(1.17848, abs=5e-6)
    assert math.sqrt(variance_map("tanh", q, 1.0)) == pytest.approx(0.65135, abs=5.1e-6)
    assert tanh.chi_1 == pytest.approx(1.2098, abs=5e-5)
    assert math.sqrt(chi_1) == pytest.approx(1.10, abs=5.1e-3)  # the gradient itself

    g = nn.init.calculate_gain("selu")
    q = level(selu, g)
    assert fixed_point("selu", g).q == pytest.approx(q, rel=1e-8)
    assert fixed_point("selu", g).q == pytest.approx(0.0230, abs=5e-5)
    # With a gain of 1 they are: mean 0 and second moment 1, as its constants solve.
    assert expect(selu, 1.0) == pytest.approx(0, abs=1e-9)
    assert level(selu, 1.0) == pytest.approx(1, abs=1e-9)
    assert fixed_point("selu", 1.0).q == pytest.approx(1, abs=1e-9)


def test_fixed_points_that_vanish_or_do_not_exist():
    w = np.array([0.5, 1.2, 1.5, 3.0])
    point = fixed_point("relu", w)
    assert point.q.tolist() == [0, 0, math.inf, math.inf] and (point.c == 1).all()
    np.testing.assert_allclose(point.chi_1, w**2 / 2, rtol=ACCURATE)
    point = fixed_point("relu", w, 0.3)
    expected = np.where(w**2 < 2, 0.09 / np.maximum(1 - w**2 / 2, 1e-9), math.inf)
    np.testing.assert_allclose(point.q, expected, rtol=1e-8)
    for q_0 in (1e-3, 1.0, 7.0):  # every variance is fixed
        assert fixed_point("relu", math.sqrt(2), q_0=q_0).q == q_0
    tanh = fixed_point("tanh", [0.9, 1.0])
    assert tanh.q.tolist() == [0, 0]
    np.testing.assert_allclose(tanh.chi_1, [0.81, 1.0], rtol=ACCURATE)
    assert tanh.xi_gradient[1] == tanh.xi_c[1] == math.inf  # the edge
    assert fixed_point("tanh", 0.0, 0.4).q == pytest.approx(0.16)
    # GELU's map has a fixed point that signals flee, to both sides.
    low, high = (fixed_point("gelu", 1.6, q_0=q_0).q for q_0 in (0.1, 10.0))
    assert (low, high) == (0.0, math.inf)
    with pytest.raises(ValueError, match=r"q_0=0 is no variance"):
        fixed_point("tanh", 1.0, q_0=0)


def test_a_grid_is_its_points():
    w, b = np.array([[0.8], [1.3], [2.5]]), np.array([0.0, 0.1, 0.7, 1.0])
    for name in ("tanh", "relu"):
        grid = fixed_point(name, w, b)
        assert grid.q.shape == grid.xi_c.shape == (3, 4)
        for i, j in np.ndindex(3, 4):
            point = fixed_point(name, float(w[i, 0]), float(b[j]))
            assert isinstance(point.q, float)
            together = [float(field[i, j]) for field in grid]
            assert together == pytest.approx(list(point), rel=1e-6, nan_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tanh", "selu", "silu"])
def test_a_phase_diagram(name):
    w, b = np.linspace(0.3, 4, 60)[:, None], np.linspace(0, 1, 40)
    point = fixed_point(name, w, b)
    inside = np.isfinite(point.q) & (point.q > 0)
    q = np.where(inside, point.q, 1)
    gap = np.where(inside, variance_map(name, q, w, b) / q - 1, 0)
    np.testing.assert_allclose(gap, 0, atol=10 * ACCURATE)
    gap = np.where(inside, correlation_map(name, point.c, q, w, b) - point.c, 0)
    np.testing.assert_allclose(gap, 0, atol=CORRELATED)
    assert not np.isnan(np.array(point)).any()


# -- Edge of chaos -------------------------------------------------------------------------


def test_critical_without_bias():
    expected = {"relu": math.sqrt(2), "tanh": 1, "erf": math.sqrt(math.pi) / 2, "linear": 1}
    found = [critical_sigma_w(name) for name in expected]
    assert found == pytest.approx(list(expected.values()), rel=ACCURATE)
    assert critical_sigma_w("relu", [0.1, 2.0]).tolist() == pytest.approx([math.sqrt(2)] * 2)


def test_critical_with_bias():
    def edge(square, slope, b):  # an independent solution for q
        q = optimize.brentq(lambda q: q - square(q) / slope(q) - b, 1e-6, 50, xtol=1e-14)
        return q, 1 / slope(q)

    moments = {
        "erf": (
            lambda q: 2 / math.pi * math.asin(2 * q / (1 + 2 * q)),
            lambda q: 4 / math.pi / math.sqrt(1 + 4 * q),
        ),
        "tanh": (
            lambda q: expect(lambda x: math.tanh(x) ** 2, q),
            lambda q: expect(lambda x: math.cosh(x) ** -4, q),
        ),
    }
    biases = np.array([0.01, 0.05, 0.1])
    for name, parts in moments.items():
        expected = [edge(*parts, b) for b in biases]
        w = critical_sigma_w(name, np.sqrt(biases))
        np.testing.assert_allclose(w**2, [square for _, square in expected], rtol=1e-8)
        point = fixed_point(name, w, np.sqrt(biases))
        np.testing.assert_allclose(point.q, [q for q, _ in expected], rtol=1e-7)
        np.testing.assert_allclose(point.chi_1, 1, rtol=1e-8)
    # As they are quoted, at their rounding.
    assert critical_sigma_w("tanh", math.sqrt(0.05)) ** 2 == pytest.approx(1.76095, abs=6e-6)
    assert critical_sigma_w("tanh", math.sqrt(0.1)) ** 2 == pytest.approx(1.98607, abs=6e-6)
    assert critical_sigma_w("erf", math.sqrt(0.05)) ** 2 == pytest.approx(1.37584, abs=6e-6)
    assert fixed_point("tanh", math.sqrt(1.76095), math.sqrt(0.05)).q == pytest.approx(
        0.57, abs=5e-4
    )


# -- Jacobians -----------------------------------------------------------------------------


def jacobian(name, depth, n, orthogonal, g):
    """Multiply the Jacobians of layers whose weights have variance 2/n or 1/n."""
    phi, gain = ACTIVATIONS[name], math.sqrt(2 if name == "relu" else 1)
    z, total = torch.randn(n, generator=g, dtype=torch.float64), torch.eye(n, dtype=torch.float64)
    for _ in range(depth):
        w = torch.empty(n, n, dtype=torch.float64)
        w = (
            nn.init.orthogonal_(w, generator=g)
            if orthogonal
            else w.normal_(0, n**-0.5, generator=g)
        )
        total = gain * w @ (phi.derivative(z)[:, None] * total)
        z = gain * w @ phi(z)
    return total


@pytest.mark.parametrize("orthogonal", [True, False], ids=["orthogonal", "Gaussian"])
@pytest.mark.parametrize("name", ["linear", "relu"])
def test_the_jacobians_spectrum(name, orthogonal):
    depth, g = 3, generator()
    mean, variance = jacobian_spectrum(
        name, depth, math.sqrt(2 if name == "relu" else 1), orthogonal=orthogonal
    )
    assert mean == pytest.approx(1) and variance == pytest.approx(
        depth * ((name == "relu") + (not orthogonal)), abs=1e-8
    )
    moments = {}
    for n, count in ((40, 200), (80, 100)):
        squares = [
            torch.linalg.svdvals(jacobian(name, depth, n, orthogonal, g)) ** 2 for _ in range(count)
        ]
        moments[n] = np.array([[float(s.mean()), float(s.square().mean())] for s in squares])
    # A finite width changes moments by a / n + b / n^2: two widths cancel a.
    found = 2 * moments[80].mean(0) - moments[40].mean(0)
    errors = [moments[n].std(0, ddof=1) / math.sqrt(len(moments[n])) for n in (40, 80)]
    tolerance = 5 * np.hypot(errors[0], 2 * errors[1]) + 1e-9
    assert (abs(found - [mean, variance + mean**2]) < tolerance).all()


def test_glorots_mean_singular_value():
    """8 / (3 pi) sqrt(n Var W): the quarter circle's mean, while tanh is linear."""
    n = 300
    for scheme, square in (("uniform_rule", 1 / 3), ("xavier_uniform", 1.0)):
        means, squares = [], []
        for seed in range(8):
            model = mlp(n, n, n, activation="tanh").double()
            initialize_(model, scheme, generator=generator(seed))
            s = torch.linalg.svdvals(model.hidden1.weight.detach())  # at 0 tanh' is 1
            means.append(float(s.mean()))
            squares.append(float(s.square().mean()))
        chi = fixed_point("tanh", math.sqrt(square)).chi_1
        for values, expected in ((squares, chi), (means, 8 / (3 * math.pi) * math.sqrt(chi))):
            error = 5 * np.std(values, ddof=1) / math.sqrt(len(values))
            assert abs(np.mean(values) - expected) < error + 1 / n  # whose order is 1/n^2


def test_glorots_digits():
    """The quarter circle's mean by quadrature: .490 for U(+-1/sqrt n), .849 normalized."""
    middle, _ = integrate.quad(lambda s: s * math.sqrt(4 - s * s) / math.pi, 0, 2)
    for square, digits in ((1 / 3, 0.490), (1.0, 0.849)):
        found = middle * math.sqrt(fixed_point("tanh", math.sqrt(square)).chi_1)
        assert found == pytest.approx(digits, abs=5.1e-4)
        assert found == pytest.approx(8 / (3 * math.pi) * math.sqrt(square), rel=1e-8)


def test_the_edge_of_a_product_of_gaussian_matrices():
    """Eight layers: the largest singular value is sqrt(9^9 / 8^8) = 4.805."""
    depth, sizes, g = 8, (80, 320), generator()
    edge = math.sqrt((depth + 1) ** (depth + 1) / depth**depth)
    assert edge == pytest.approx(4.805, abs=5.1e-4)

    def moment(k):  # of J J^T: the Fuss-Catalan numbers, about edge^(2 k) k^(-3/2)
        return special.binom((depth + 1) * k, k) / (depth * k + 1)

    assert moment(31) / moment(30) * (31 / 30) ** 1.5 == pytest.approx(edge**2, rel=1 / 30**2)
    mean, variance = jacobian_spectrum("linear", depth, 1.0)
    assert (mean, mean**2 + variance) == pytest.approx((moment(1), moment(2)))

    largest = {n: [] for n in sizes}
    for n, count in zip(sizes, (200, 30), strict=True):
        for _ in range(count):
            product, w = torch.eye(n).double(), torch.empty(n, n).double()
            for _ in range(depth):
                product = lecun_normal_(w, generator=g) @ product
            largest[n].append(float(torch.linalg.matrix_norm(product, 2)))
    # A finite width lowers it by a n^(-2/3): two widths cancel a.
    a, b = (np.array(sizes) ** (2 / 3) * [-1, 1]) / np.ptp(np.array(sizes) ** (2 / 3))
    found = a * np.mean(largest[80]) + b * np.mean(largest[320])
    errors = [np.std(x, ddof=1) / math.sqrt(len(x)) for x in largest.values()]
    assert abs(found - edge) < 5 * math.hypot(a * errors[0], b * errors[1])


# -- Predictions: exact parts --------------------------------------------------------------

# By hand, from the sources: mean and variance of a weight, variance of a bias; n in, m out.
RULES = {
    "zeros": lambda n, m: (0, 0, 0),
    "ones": lambda n, m: (1, 0, 0),
    "standard_normal": lambda n, m: (0, 1, 0),
    "uniform_0_1": lambda n, m: (1 / 2, 1 / 12, 0),
    "uniform_centered": lambda n, m: (0, 1 / 12, 0),
    "uniform_rule": lambda n, m: (0, 1 / (3 * n), 0),
    "normal_rule": lambda n, m: (0, 1 / n, 0),
    "torch_default": lambda n, m: (0, 1 / (3 * n), 1 / (3 * n)),
    "lecun_normal": lambda n, m: (0, 1 / n, 0),
    "lecun_uniform": lambda n, m: (0, 1 / n, 0),
    "xavier_normal": lambda n, m: (0, 2 / (n + m), 0),
    "xavier_uniform": lambda n, m: (0, 2 / (n + m), 0),
    "he_normal": lambda n, m: (0, 2 / n, 0),
    "he_uniform": lambda n, m: (0, 2 / n, 0),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("shape", [(784, 50), (2, 3)])
def test_the_first_layer_is_exact(name, shape):
    n, m = shape
    x = torch.linspace(-1, 2, n).double()[None] ** 3
    mean, variance, bias = RULES[name](n, m)
    table = predict(n, m, 10, activation="tanh", scheme=name, inputs=x)
    middle = n * mean * float(x.mean())
    spread = n * variance * float(x.square().mean()) + bias
    assert signal(table, "mean")["hidden1"] == pytest.approx(middle, rel=1e-9, abs=1e-12)
    assert signal(table)["hidden1"] == pytest.approx(middle**2 + spread, rel=1e-9)
    # One number of m units: gamma with m/2 degrees if the mean is 0.
    if mean == 0 and variance:
        low, high = spread * stats.chi2.ppf([0.0005, 0.9995], m) / m
        if m > 30:  # Wilson & Hilferty: good to a per cent
            assert signal(table, column="low")["hidden1"] == pytest.approx(low, rel=0.01)
            assert signal(table, column="high")["hidden1"] == pytest.approx(high, rel=0.01)


def test_every_scheme_has_a_rule_or_is_measured():
    """A scheme that is not in the table above is compared with a large draw."""
    n, m = 300, 200
    x = torch.linspace(-1, 2, n).double()[None]
    for name in set(SCHEMES) - set(RULES):
        model = mlp(n, m, 10).double()
        squares = []
        for seed in range(20):
            initialize_(model, name, generator=generator(seed))
            squares.append(float(model.hidden1(x).detach().square().mean()))
        error = 5 * np.std(squares, ddof=1) / math.sqrt(len(squares))
        error += 5 * math.sqrt(2 / (n * m)) * np.mean(squares)  # if the rule itself is sampled
        table = predict(n, m, 10, scheme=name, inputs=x)
        assert abs(np.mean(squares) - signal(table)["hidden1"]) < error, name


def test_schemes_of_ones_own():
    n = 50
    truncated = partial(variance_scaling_, scale=3.0, distribution="truncated_normal")
    cut = Scheme("cut", truncated, bias=-10.0, readout=partial(normal_, mean=0.5, std=0.1))
    table = predict(n, n, n, 10, activation="linear", scheme=cut)
    assert signal(table, "mean")["hidden1"] == -10
    # A sample of at least 4000; the cut normal's kurtosis is below 3.
    assert signal(table)["hidden1"] == pytest.approx(103, abs=3 * 5 * math.sqrt(2 / 4000))
    assert signal(table, "mean")["output"] == pytest.approx(-10 + n * 0.5 * -10)
    pair = predict(n, n, n, 10, activation="tanh", scheme=(1.5, 0.3))
    expected = variance_map("tanh", 2.25 + 0.09, 1.5, 0.3)
    assert signal(pair)["hidden2"] == pytest.approx(expected, rel=ACCURATE)


def test_he_glorot_and_torch_on_relu():
    widths = [500] * 31 + [10]
    for v in (0.5, 1.0, 2.0, 3.0):
        values = signal(predict(*widths, scheme=(math.sqrt(v), 0.0)))
        for layer in (1, 2, 30):  # He et al. 2015, eq. (9)
            expected = v * (v / 2) ** (layer - 1)
            assert values[f"hidden{layer}"] == pytest.approx(expected, rel=1e-8)
    values = signal(predict(*widths, scheme="uniform_rule"))
    assert values["hidden30"] == pytest.approx(2 * 6.0**-30, rel=1e-8)
    values, q = signal(predict(*widths, scheme="torch_default")), 1 / 3 + 1 / 1500
    for layer in range(2, 31):
        q = q / 6 + 1 / 1500
        assert values[f"hidden{layer}"] == pytest.approx(q, rel=1e-8)


def test_tanh_forgets_as_one_over_twice_the_depth():
    values = signal(predict(*[1000] * 102, 10, activation="tanh", scheme="lecun_normal"))
    q = 1.0
    for layer in range(1, 102):
        assert values[f"hidden{layer}"] == pytest.approx(q, rel=1e-8)
        q = expect(lambda x: math.tanh(x) ** 2, q)
    # E[tanh^2] = q - 2 q^2 + 17/3 q^3 - ..., so that 1/q grows by 2 - 5/3 q + ... a layer.
    for layer in (30, 100):
        q, after = values[f"hidden{layer}"], values[f"hidden{layer + 1}"]
        assert 1 / after - 1 / q == pytest.approx(2 - 5 / 3 * q, abs=20 * q**2)
    assert values["hidden10"] == pytest.approx(0.058, abs=5e-4)
    assert values["hidden20"] == pytest.approx(0.027, abs=5e-4)
    assert values["hidden100"] == pytest.approx(0.0051, abs=5e-5)


def test_gradients_at_infinite_width():
    widths = [400] * 12 + [7]
    for name, w, b in (("tanh", 1.4, 0.3), ("relu", 1.3, 0.2)):
        table = signal(predict(*widths, activation=name, scheme=(w, b)), "gradient_second_moment")
        q = signal(predict(*widths, activation=name, scheme=(w, b)))
        phi, expected = ACTIVATIONS[name], w**2 / 400 * 7  # the last layer has 7 outputs
        for layer in range(11, 0, -1):
            assert table[f"activation{layer}"] == pytest.approx(expected, rel=1e-8)
            square = scalar(lambda x, phi=phi: phi.derivative(x) ** 2)
            expected *= expect(square, q[f"hidden{layer}"])
            assert table[f"hidden{layer}"] == pytest.approx(expected, rel=1e-8)
            expected *= w**2
        assert table["output"] == 1
    # Deep inside, a layer's factor is chi_1.
    deep = signal(
        predict(*[50] * 40, activation="tanh", scheme=(1.4, 0.3)), "gradient_second_moment"
    )
    assert deep["hidden20"] / deep["hidden21"] == pytest.approx(
        fixed_point("tanh", 1.4, 0.3).chi_1, rel=1e-6
    )


def test_the_lognormal_of_hanin_and_rolnick():
    """ReLU with He: E[M^2] = E[M]^2 (1 + 5/n)^L, which is exp of the logarithm's variance."""
    n, z = 100, stats.norm.ppf(0.9995)
    for depth in (1, 5, 30):  # no noise of its own has an output of a billion units
        table = predict(*[n] * (depth + 1), 10**9, scheme=(math.sqrt(2), 0.0))
        row = table[(table["name"] == "output") & (table["quantity"] == "second_moment")].iloc[0]
        s = math.log(row["high"] / row["low"]) / (2 * z)
        assert s**2 == pytest.approx(depth * math.log(1 + 5 / n), rel=1e-3)  # 1e-4 of width n
        middle = math.log(row["high"] * row["low"]) / 2
        assert middle == pytest.approx(math.log(row["value"]) - s**2 / 2, abs=1e-3)


def test_numbers_too_large_and_too_small():
    table = predict(*[1000] * 130, 10, scheme="ones", inputs=torch.ones(1, 1000))
    values = signal(table)
    assert values["hidden30"] == pytest.approx(1000.0**60, rel=1e-6)
    assert values["output"] == math.inf and signal(table, column="low")["output"] == math.inf
    assert not table["value"].isna().any()
    table = predict(*[100] * 60, 10, scheme=(1e-3, 0.0))
    assert signal(table)["output"] == 0 == signal(table, column="high")["output"]
    for name in ACTS:
        table = predict(30, 30, 30, 10, activation=name, scheme="zeros")
        assert (signal(table)[["hidden1", "hidden2", "output"]] == 0).all()
        assert not table.isna().any().any()


def test_a_batch_is_the_average_of_its_inputs():
    x = torch.randn(3, 2, 20, generator=generator()) * torch.tensor([0.1, 1.0, 5.0])[:, None, None]
    whole = predict(40, 60, 50, 10, activation="tanh", inputs=x)
    each = [predict(40, 60, 50, 10, activation="tanh", inputs=row[None]) for row in x]
    for column in ("value", "low", "high"):
        mean = np.mean([table[column] for table in each], axis=0)
        np.testing.assert_allclose(whole[column], mean, rtol=1e-9, atol=1e-12)
    assert whole["value"].nunique() > 5


def test_the_table_is_probes():
    model, x = mlp(12, 20, 15, 4, activation="gelu"), torch.randn(5, 12, generator=generator())
    measured = probe(model, x, lambda out: out.square().sum())
    predicted = predict(12, 20, 15, 4, activation="gelu", inputs=x)
    assert list(predicted.columns) == [*measured.columns, "low", "high"]
    assert set(predicted["origin"]) == {"predicted"}
    keys = ["layer", "name", "quantity"]
    both = predicted.merge(measured, on=keys)
    assert len(both) == len(predicted) == 3 * 5
    order = predicted.drop_duplicates("name")["name"].tolist()
    assert order == ["hidden1", "activation1", "hidden2", "activation2", "output"]


def test_predict_refuses_what_makes_no_network():
    with pytest.raises(ValueError, match=r"widths \(5,\), level=0.999: expected at least two"):
        predict(5)
    with pytest.raises(ValueError, match=r"level=1: expected .* between 0 and 1"):
        predict(5, 5, level=1)
    with pytest.raises(ValueError, match=r"have 3 features: expected 5, the first width"):
        predict(5, 5, inputs=torch.ones(2, 3))
    with pytest.raises(ValueError, match="unknown scheme"):
        predict(5, 5, scheme="best")


# -- Predictions: bands --------------------------------------------------------------------


def chain(name, n, depth, count, w, b, mean=0.0):
    """Draw many networks at once: given its inputs, a layer's units are independent Gaussians."""
    phi, g = get_activation(name), generator(1)
    old = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(n // 2).expand(count, n)
    found, states = {}, []
    for layer in range(1, depth + 1):
        deviation = (w**2 * old.square().mean(1) + b**2).sqrt()[:, None]
        z = torch.randn(count, n, generator=g, dtype=torch.float64)
        z = mean * old.sum(1)[:, None] + deviation * z
        old = phi(z)
        states.append(z)
        found[f"hidden{layer}", "second_moment"] = z.square().mean(1)
        found[f"activation{layer}", "second_moment"] = old.square().mean(1)
        found[f"hidden{layer}", "mean"] = z.mean(1)
    gradient = torch.ones(count, dtype=torch.float64)
    for layer in range(depth, 0, -1):
        fan_out = n if layer < depth else 10
        y = torch.randn(count, n, generator=g, dtype=torch.float64)
        y = (w**2 / n * fan_out * gradient).sqrt()[:, None] * y * phi.derivative(states[layer - 1])
        gradient = y.square().mean(1)
        found[f"hidden{layer}", "gradient_second_moment"] = gradient
    return found


@pytest.mark.parametrize(
    ("name", "w", "b"),
    [
        ("relu", math.sqrt(2), 0.0),
        ("tanh", 1.0, 0.0),
        ("tanh", 2.0, 0.3),
        ("gelu", 1.5, 0.1),
        ("selu", 1.0, 0.0),
        ("sigmoid", 2.0, 0.5),
        ("leaky_relu", 1.4, 0.2),
    ],
)
def test_bands_hold_what_they_say(name, w, b):
    n, depth, count, level = 200, 6, 1500, 0.9
    table = predict(*[n] * (depth + 1), 10, activation=name, scheme=(w, b), level=level)
    rows = table.set_index(["name", "quantity"])
    error = math.sqrt(level * (1 - level) / count)
    for key, values in chain(name, n, depth, count, w, b).items():
        row, values = rows.loc[key], values.numpy()
        inside = np.mean((row["low"] <= values) & (values <= row["high"]))
        # 4.5 standard errors, and what second order in depth / n may take.
        assert inside > level - 4.5 * error - depth / n * level, key
        if key[1] != "gradient_second_moment":  # there the band is an upper bound
            assert inside < level + 4.5 * error, key
        # Second order moves the mean by at most a few depth / n.
        tolerance = 4.5 * values.std() / math.sqrt(count) + 2 * depth / n * abs(row["value"])
        assert abs(values.mean() - row["value"]) < tolerance, key


def test_bands_of_weights_with_a_mean():
    """U[0, 1) under tanh and an input of mean 0: all units take one side, by chance."""
    n, depth, count, level = 200, 6, 1500, 0.9
    found = chain("tanh", n, depth, count, math.sqrt(n / 12), 0.0, 0.5)
    table = predict(*[n] * (depth + 1), 10, activation="tanh", scheme="uniform_0_1", level=level)
    rows = table.set_index(["name", "quantity"])
    error = math.sqrt(level * (1 - level) / count)
    for layer in range(1, depth + 1):
        row = rows.loc[f"hidden{layer}", "second_moment"]
        values = found[f"hidden{layer}", "second_moment"].numpy()
        inside = np.mean((row["low"] <= values) & (values <= row["high"]))
        # Outside is where the common mean is or, given it, what else varies: at most both.
        assert inside > 2 * level - 1 - 4.5 * error, layer
        tolerance = 4.5 * values.std() / math.sqrt(count) + 2 * depth / n * row["value"]
        assert abs(values.mean() - row["value"]) < tolerance, layer
    saturated = rows.loc["hidden6", "second_moment"]["value"]
    assert saturated == pytest.approx((n / 2) ** 2 + n / 12, rel=0.02)


def check_networks(n, depth, schemes, seeds, level=1 - 1e-6):
    """Return which of the networks' values are outside of their bands, and how many are not."""
    widths = [n] * (depth + 1) + [10]
    y = torch.tensor([1.0, -1.0]).repeat(5).double()  # gradients that sum to 0 exactly
    outside, total = [], 0
    for seed in seeds:
        g = generator(seed)
        x = torch.randn(1, n, generator=g, dtype=torch.float64)
        x /= x.square().mean().sqrt()
        for scheme in schemes:
            layers = [nn.Linear(a, b).double() for a, b in pairwise(widths)]
            initialize_(nn.Sequential(*layers), scheme, generator=g)
            for name in ACTS:
                phi, h, modules = get_activation(name), x, {}
                for number, layer in enumerate(layers, start=1):
                    h = modules[f"hidden{number}" if number <= depth else "output"] = layer(h)
                    if number <= depth:
                        h = modules[f"activation{number}"] = phi(h)
                gradients = torch.autograd.grad((h * y).sum(), list(modules.values()))
                table = predict(*widths, activation=name, scheme=scheme, inputs=x, level=level)
                rows = table.set_index(["name", "quantity"])
                for (module, t), gradient in zip(modules.items(), gradients, strict=True):
                    values = {
                        "mean": t.mean().item(),
                        "second_moment": t.square().mean().item(),
                        "gradient_second_moment": gradient.square().mean().item(),
                    }
                    for quantity, value in values.items():
                        row = rows.loc[module, quantity]
                        if not row["low"] <= value <= row["high"]:
                            outside.append((scheme, name, module, quantity, value, *row))
                        total += 1
    return outside, total


def test_networks_obey_the_theory():
    """Every scheme and activation; one value in a million may be outside by chance."""
    outside, _ = check_networks(200, 3, SCHEMES, seeds=[0])
    assert not outside, outside[:5]


@pytest.mark.slow
def test_wide_networks_obey_the_theory():
    outside, _ = check_networks(1000, 10, SCHEMES, seeds=[0])
    assert not outside, outside[:5]
    outside, total = check_networks(1000, 10, SCHEMES, seeds=[0], level=0.999)
    print(f"{len(outside)} of {total} values are outside of the band of 99.9 %")
    # The values of one network go together: count networks, each of some 30 free choices.
    assert len({row[:2] for row in outside}) < stats.binom.ppf(1 - 1e-5, 30 * 98, 0.001)


@pytest.mark.slow
def test_weights_with_a_mean_obey_the_theory():
    """Whichever side the input's mean pushes the units to."""
    outside, _ = check_networks(300, 8, ["ones", "uniform_0_1"], seeds=range(10))
    assert not outside, outside[:5]
