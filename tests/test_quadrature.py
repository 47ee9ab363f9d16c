"""Expectations are right whatever the function does: bends, jumps, waves, steep places."""

import math

import numpy as np
import pytest
import torch
from gaussian import ACCURATE, CORRELATED, JUMPING, KINKED, PIECES, Pieces
from scipy import special

from initguide import ACTIVATIONS, Activation
from initguide.theory._quadrature import expectation, jumps, prepare
from initguide.theory.mean_field import (
    correlation_map,
    fixed_point,
    jacobian_spectrum,
    variance_map,
)


def test_closed_forms_of_a_wave():
    """E[sin u sin v] = exp(-q) sinh(q c), however many periods there are."""
    for q in (0.1, 1.0, 10.0, 100.0, 1e4):
        square = -np.expm1(-2 * q) / 2
        for name, expected in (("sin", square), (torch.cos, 1 - square)):
            assert variance_map(name, q, 1.0) == pytest.approx(expected, rel=ACCURATE)
        cubic = q + (3 + math.exp(-8 * q) - 4 * math.exp(-2 * q)) / 8  # E[(x + sin(x)^2)^2]
        found = variance_map(lambda x: x + torch.sin(x) ** 2, q, 1.0)
        assert found == pytest.approx(cubic, rel=ACCURATE)
        c = np.array([-1.0, -0.5, 0.5, 0.999, 1.0])
        product = (np.exp(-q * (1 - c)) - np.exp(-q * (1 + c))) / 2
        found = correlation_map("sin", c, q, 1.0)
        np.testing.assert_allclose(found, product / square, atol=CORRELATED)
        assert (abs(found) <= 1).all()
    assert variance_map("sin", 1e4, 1.0) == pytest.approx(0.5, rel=ACCURATE)


def test_closed_forms_of_waves_with_kinks():
    def fourier(q, sign):  # of x^2 from -1/2 to 1/2, and so on: 1/12 + sum (-1)^k cos(2 pi k x) ...
        k = np.arange(1, 200)
        return sign**k / (np.pi * k) ** 2 @ np.exp(-2 * (np.pi * k) ** 2 * q)

    for q in (0.01, 0.1, 1.0, 25.0):
        triangle = variance_map(lambda x: (x - x.round()).abs(), q, 1.0)
        assert triangle == pytest.approx(1 / 12 + fourier(q, -1), rel=1e-7)
        # x - floor(x) is 1/2 + y, where E[y] = 0 by symmetry and E[y^2] has no sign
        saw = variance_map(lambda x: x - x.floor(), q, 1.0)
        assert saw == pytest.approx(1 / 3 + fourier(q, 1), rel=1e-7)
        k = np.arange(1, 100)
        stairs = (2 * k - 1) @ special.ndtr(-(k - 0.5) / math.sqrt(q)) * 2
        assert variance_map(torch.round, q, 1.0) == pytest.approx(stairs, rel=1e-7)


def test_large_arguments():
    for q in (1e4, 1e6, 1e9):  # the arcsine kernel
        expected = 2 / math.pi * math.asin(2 * q / (1 + 2 * q))
        assert variance_map("erf", q, 1.0) == pytest.approx(expected, rel=ACCURATE)
        both = 2 / math.pi * math.asin(q / (1 + 2 * q))
        found = correlation_map("erf", 0.5, q, 1.0)
        assert found == pytest.approx(both / expected, abs=CORRELATED)


@pytest.mark.parametrize("q", [1.0, 30.0])
@pytest.mark.parametrize("phi", [torch.tan, lambda x: 1 / (x - 1), lambda x: 1 / x.sin()])
def test_what_has_no_second_moment_is_refused(phi, q):
    with pytest.raises(ValueError, match=r"averages of .* do not converge: expected .*Reduce"):
        variance_map(phi, q, 1.0)


def test_what_varies_too_fast_is_refused():
    with pytest.raises(ValueError, match=r"sin at variance 1e\+09 do not converge"):
        variance_map("sin", 1e9, 1.0)
    with pytest.raises(ValueError, match=r"sin at variance 1e\+06 do not converge"):
        correlation_map("sin", 0.5, 1e6, 1.0)


@pytest.mark.parametrize("name", KINKED)
def test_maps_know_kinks_and_jumps(name):
    phi, pieces = KINKED[name], PIECES[name]
    for q in (0.05, 1.3, 30.0):
        square = 1.44 * pieces.square(q) + 0.09
        assert variance_map(phi, q, 1.2, 0.3) == pytest.approx(square, rel=ACCURATE)
        for c in (-0.5, 0.3, 0.9):
            expected = (1.44 * pieces.product(q, c) + 0.09) / square
            found = correlation_map(phi, c, q, 1.2, 0.3)
            assert found == pytest.approx(expected, abs=CORRELATED)
    mean, variance = jacobian_spectrum(phi, 3, 1.2, 0.3)
    q = min(max(fixed_point(phi, 1.2, 0.3).q, 1e-9), 1e12)
    slope, fourth = (pieces.steepness(q, power) for power in (2, 4))
    assert mean == pytest.approx((1.44 * slope) ** 3, rel=1e-6)
    expected = 3 * fourth / slope**2 if slope else math.nan
    assert variance == pytest.approx(mean**2 * expected, rel=1e-6, nan_ok=True)


def test_an_activation_of_ones_own_may_hold_back_its_kinks():
    mine = Activation("clip", "clip", lambda x: x.clamp(-2, 2), lambda x: (x.abs() < 2).to(x.dtype))
    pieces = Pieces((-math.inf, -2, 0, -2), (-2, 2, 1, 0), (2, math.inf, 0, 2))
    assert variance_map(mine, 1.3, 1.0) == pytest.approx(pieces.square(1.3), rel=ACCURATE)


def test_only_functions_that_jump_do():
    found = {name for name, phi in KINKED.items() if jumps(prepare(phi))}
    assert found == JUMPING
    assert not any(jumps(prepare(name)) for name in ACTIVATIONS)


def test_a_slope_needs_no_derivative():
    """d E[f] / d ln q of x^4 and of a step at 1, whose own derivative is nowhere."""
    q, step = torch.tensor([0.3, 2.0], dtype=torch.float64), prepare(lambda x: x > 1)
    found = expectation(step, step.function, q, slope=True)
    expected = torch.exp(-1 / (2 * q)) / (2 * math.pi * q).sqrt() / 2
    np.testing.assert_allclose(found, expected, rtol=ACCURATE)
    found = expectation(prepare("linear"), lambda x: x**4, q, slope=True)
    np.testing.assert_allclose(found, 6 * q**2, rtol=ACCURATE)
