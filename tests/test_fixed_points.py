"""Fixed points are where iteration ends; the edge of chaos is where the slope is 1."""

import math

import numpy as np
import pytest
from gaussian import ACCURATE, CORRELATED, JUMPING, KINKED, PIECES, expect, scalar
from scipy import optimize
from torch import nn

from initguide import ACTIVATIONS
from initguide.theory.mean_field import (
    correlation_map,
    critical_sigma_w,
    fixed_point,
    variance_map,
)

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


@pytest.mark.parametrize(("w", "b"), [(1.7, 0.3), (3.0, 0.1), (0.9, 0.8)])
@pytest.mark.parametrize("name", KINKED)
def test_fixed_points_know_kinks_and_jumps(name, w, b):
    point, pieces = fixed_point(KINKED[name], w, b), PIECES[name]
    if point.q == math.inf:
        assert w**2 * pieces.square(1e6) > 1e6 and point.c == 1
        return
    q, step = point.q, 1e-5

    def variance(q):
        return w**2 * pieces.square(q) + b**2

    def correlation(c):
        return (w**2 * pieces.product(q, c) + b**2) / q

    assert variance(q) == pytest.approx(q, rel=10 * ACCURATE)
    # torch computes Hardsigmoid's slope of 1/6 with 32 bits
    assert point.chi_1 == pytest.approx(w**2 * pieces.steepness(q), rel=1e-7)
    slope = (variance(q * (1 + step)) - variance(q * (1 - step))) / (2 * step * q)
    # A slope of 0 is one within the differences' rounding.
    assert abs(math.exp(-1 / point.xi_q) if point.xi_q else 0) == pytest.approx(
        abs(slope), abs=1e-8, rel=1e-6
    )
    assert (point.c < 1) == (point.chi_1 > 1 or name in JUMPING)
    if point.c < 1:
        assert correlation(point.c) == pytest.approx(point.c, abs=CORRELATED)
        assert correlation(0.9999) < 0.9999  # 1 is not stable
        slope = (correlation(point.c + step) - correlation(point.c - step)) / (2 * step)
        assert point.chi_c == pytest.approx(slope, abs=1e-5)


def test_digits_of_modules_with_kinks():
    assert fixed_point(nn.ReLU6(), 1.7, 0.3).c == pytest.approx(0.9282, abs=5.1e-5)
    found = [critical_sigma_w(m, 0.3) for m in (nn.Hardtanh(), nn.Softshrink(0.5))]
    assert found == pytest.approx([1.116145, 2.28163], rel=5e-6)
    assert critical_sigma_w(nn.Hardsigmoid(), 0.3) == pytest.approx(10.3393, abs=5.1e-5)


@pytest.mark.parametrize(("w", "b"), [(2.0, 0.3), (8.0, 0.3), (40.0, 2.0)])
def test_fixed_points_of_a_sine(w, b):
    q = optimize.brentq(lambda q: w**2 * -math.expm1(-2 * q) / 2 + b**2 - q, 0.1, 1e4)
    c = optimize.brentq(
        lambda c: w**2 / 2 * (math.exp(q * (c - 1)) - math.exp(-q * (c + 1))) + b**2 - q * c, 0, 0.9
    )
    point = fixed_point("sin", w, b)
    assert point.q == pytest.approx(q, rel=ACCURATE)
    assert point.c == pytest.approx(c, abs=CORRELATED)
    assert point.chi_1 == pytest.approx(w**2 * (1 + math.exp(-2 * q)) / 2, rel=ACCURATE)
    if w == 8:
        assert c == pytest.approx(0.00280, abs=5.1e-6)


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


@pytest.mark.parametrize("name", set(KINKED) - JUMPING - {"RReLU", "callable"})
@pytest.mark.parametrize("b", [0.2, 0.3])
def test_critical_points_know_kinks(name, b):
    pieces, grid = PIECES[name], np.geomspace(b**2 / 2, 1e4, 4000)

    def excess(q):
        return q - pieces.square(q) / pieces.steepness(q) - b**2

    above = np.array([excess(q) for q in grid]) > 0
    assert not above[0] and above.any()
    first = int(above.argmax())
    q = optimize.brentq(excess, grid[first - 1], grid[first], xtol=1e-15)
    found = critical_sigma_w(KINKED[name], b)
    assert found == pytest.approx(pieces.steepness(q) ** -0.5, rel=1e-7)


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
