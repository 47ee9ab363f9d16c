"""Gaussian averages by scipy, and closed forms for functions of straight pieces."""

import math
from itertools import pairwise

import numpy as np
import torch
from scipy import integrate, special, stats
from torch import nn

# What the docstrings promise of an expectation, and of a correlation.
ACCURATE = 1e-9
CORRELATED = 1e-6
ACTS = ("tanh", "relu", "leaky_relu", "gelu", "silu", "selu", "sigmoid")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def signal(table, quantity="second_moment", column="value"):
    """Return one quantity of a layers table by the layers' names."""
    return table[table["quantity"] == quantity].set_index("name")[column]


def scalar(function):
    """Make a function of a float from one of a tensor."""
    return lambda x: float(function(torch.tensor(x, dtype=torch.float64)))


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


class Pieces:
    """A function that is ``slope x + shift`` from each begin to each end, and 0 elsewhere."""

    def __init__(self, *pieces):
        self.pieces = pieces

    def __call__(self, x):
        return sum((slope * x + shift) * (a < x <= b) for a, b, slope, shift in self.pieces)

    def mean(self, m, s):
        """E[phi(m + s z)]."""
        total = 0.0
        for a, b, slope, shift in self.pieces:
            a, b = (a - m) / s, (b - m) / s
            rise = slope * s * (stats.norm.pdf(a) - stats.norm.pdf(b))
            total += (slope * m + shift) * (special.ndtr(b) - special.ndtr(a)) + rise
        return total

    def square(self, q):
        """E[phi^2] at variance q."""
        total = 0.0
        for a, b, slope, shift in self.pieces:
            a, b = np.array([a, b]) / math.sqrt(q)
            mass, (p, r) = special.ndtr(b) - special.ndtr(a), stats.norm.pdf([a, b])
            ends = (a * p if np.isfinite(a) else 0) - (b * r if np.isfinite(b) else 0)
            total += slope**2 * q * (mass + ends)
            total += 2 * slope * shift * math.sqrt(q) * (p - r) + shift**2 * mass
        return total

    def steepness(self, q, power=2):
        """E[phi'^power] at variance q, where there is a slope."""
        ends = np.array([piece[:2] for piece in self.pieces]) / math.sqrt(q)
        return np.diff(special.ndtr(ends), axis=1)[:, 0] @ [p[2] ** power for p in self.pieces]

    def product(self, q, c):
        """E[phi(u) phi(v)] at variance q and correlation c: one of two integrals is closed."""
        s, rest = math.sqrt(q), math.sqrt(q * (1 - c * c))
        ends = {end / s for piece in self.pieces for end in piece[:2]}
        ends |= {end / c for end in ends if c}

        def integrand(t):
            return self(s * t) * self.mean(c * s * t, rest) * stats.norm.pdf(t)

        places = sorted({-9.0, 9.0, *(end for end in ends if abs(end) < 9)})
        return sum(
            integrate.quad(integrand, a, b, epsabs=1e-11, epsrel=1e-10, limit=200)[0]
            for a, b in pairwise(places)
        )


inf = math.inf
# With the kinks that only quadrature can find; the last four jump.
KINKED = {
    "Hardtanh": nn.Hardtanh(-1.7, 0.3),
    "ReLU6": nn.ReLU6(),
    "Hardsigmoid": nn.Hardsigmoid(),
    "Softshrink": nn.Softshrink(0.5),
    "RReLU": nn.RReLU().eval(),
    "Sequential": nn.Sequential(nn.ReLU(), nn.Hardtanh()),
    "callable": lambda x: torch.maximum(x - 0.2, 0.3 * x),
    "Hardshrink": nn.Hardshrink(0.37),
    "Threshold": nn.Threshold(0.1, 2),
    "step": lambda x: (x > 0.7).double(),
    "sign": torch.sign,
}
PIECES = {
    "Hardtanh": Pieces((-inf, -1.7, 0, -1.7), (-1.7, 0.3, 1, 0), (0.3, inf, 0, 0.3)),
    "ReLU6": Pieces((0, 6, 1, 0), (6, inf, 0, 6)),
    "Hardsigmoid": Pieces((-3, 3, 1 / 6, 0.5), (3, inf, 0, 1)),
    "Softshrink": Pieces((-inf, -0.5, 1, 0.5), (0.5, inf, 1, -0.5)),
    "RReLU": Pieces((-inf, 0, 11 / 48, 0), (0, inf, 1, 0)),
    "Sequential": Pieces((0, 1, 1, 0), (1, inf, 0, 1)),
    "callable": Pieces((-inf, 2 / 7, 0.3, 0), (2 / 7, inf, 1, -0.2)),
    "Hardshrink": Pieces((-inf, -0.37, 1, 0), (0.37, inf, 1, 0)),
    "Threshold": Pieces((-inf, 0.1, 0, 2), (0.1, inf, 1, 0)),
    "step": Pieces((0.7, inf, 0, 1)),
    "sign": Pieces((-inf, 0, 0, -1), (0, inf, 0, 1)),
}
JUMPING = {"Hardshrink", "Threshold", "step", "sign"}
