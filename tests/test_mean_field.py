"""Maps and Jacobians agree with closed kernels, quadrature and drawn networks."""

import math

import numpy as np
import pytest
import torch
from gaussian import ACCURATE, CORRELATED, expect, generator, scalar
from scipy import integrate, special
from torch import nn

from initguide import ACTIVATIONS, initialize_, mlp
from initguide.initializers import lecun_normal_
from initguide.theory.mean_field import (
    correlation_map,
    critical_sigma_w,
    fixed_point,
    jacobian_spectrum,
    predict,
    variance_map,
)

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


X = torch.linspace(-1, 2, 30, dtype=torch.float64)[None]
FUNCTIONS = {
    "variance_map": lambda phi: [variance_map(phi, [0.3, 2.0], 1.2, 0.1)],
    "correlation_map": lambda phi: [correlation_map(phi, [0.3, 0.9], 1.2, 1.1, 0.2)],
    "fixed_point": lambda phi: fixed_point(phi, [0.7, 1.5], 0.2),
    "critical_sigma_w": lambda phi: [critical_sigma_w(phi, [0.0, 0.2])],
    "jacobian_spectrum": lambda phi: jacobian_spectrum(phi, 3, 1.1, 0.1),
    "predict": lambda phi: [
        predict(30, 20, 20, 5, activation=phi, scheme=scheme, inputs=X)[["value", "low", "high"]]
        for scheme in ("torch_default", "uniform_0_1")
    ],
    "predict, no inputs": lambda phi: [predict(9, 9, 9, activation=phi)["value"]],
}
CONTEXTS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "meta": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_does_not_matter_where_a_function_is_called(name, context):
    function = FUNCTIONS[name]
    for phi in ("tanh", nn.Tanh(), nn.Hardtanh(-1.0, 0.7), nn.PReLU(3), lambda x: x.relu() ** 2):
        expected = function(phi)
        with CONTEXTS[context]():
            found = function(phi)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_derivatives_exist_under_inference_mode():
    with torch.inference_mode():
        made_here = nn.ELU(0.5), nn.PReLU(2)
        assert fixed_point(nn.Tanh(), 1.5, 0.1).chi_1 == pytest.approx(1.12905, abs=5.1e-6)
        points = [fixed_point(module, 1.2, 0.1) for module in made_here]
    for module, point in zip((nn.ELU(0.5), nn.PReLU(2)), points, strict=True):
        assert point == pytest.approx(fixed_point(module, 1.2, 0.1))
        assert point.chi_1 > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_default_dtype_does_not_matter(name, dtype):
    function, before = FUNCTIONS[name], torch.get_default_dtype()
    expected = function("gelu")
    try:
        torch.set_default_dtype(dtype)
        found = function("gelu")
    finally:
        torch.set_default_dtype(before)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


REFUSED = {
    "negative sigma_w": (lambda: variance_map("tanh", 1.0, -1.5), r"sigma_w=-1.5: expected"),
    "negative sigma_b": (lambda: fixed_point("tanh", 1.0, -0.1), r"sigma_b=-0.1: expected finite"),
    "negative variance": (lambda: variance_map("tanh", [1, -1], 1.0), r"q=\[1, -1\]: expected"),
    "nan": (lambda: critical_sigma_w("tanh", math.nan), r"sigma_b=nan: expected finite"),
    "infinite": (lambda: correlation_map("tanh", 0.1, math.inf, 1.0), r"q=.*inf.*: expected"),
    "no correlation": (lambda: correlation_map("tanh", math.nan, 1, 1), "c=nan is no correlation"),
    "negative pair": (lambda: predict(5, 5, scheme=(-1.0, 0.0)), r"sigma_w=-1.0: expected"),
    "softmax": (lambda: fixed_point(nn.Softmax(0), 1.0), "Softmax is not elementwise"),
    "random": (lambda: variance_map(nn.Dropout(0.3), 1.0, 1.0), r"Dropout is random.*\.eval\(\)"),
    "class": (lambda: variance_map(nn.ReLU, 1.0, 1.0), r"ReLU is a class"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    call, words = REFUSED[case]
    with pytest.raises((ValueError, TypeError), match=words):
        call()


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
