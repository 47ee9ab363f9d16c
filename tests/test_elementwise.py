"""Kinks are found where they were put, and nowhere else."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from initguide import ACTIVATIONS
from initguide._elementwise import find_kinks
from initguide.activations import as_activation


def kinks(function):
    phi = as_activation(function)
    return find_kinks(phi, phi.function, phi.derivative)


MODULES = {
    nn.ReLU(): [],  # 0 is no surprise: quadrature splits there anyway
    nn.ReLU6(): [6],
    nn.Hardtanh(-1.7, 0.3): [-1.7, 0.3],
    nn.Hardsigmoid(): [-3, 3],
    nn.Hardswish(): [-3, 3],
    nn.Softshrink(0.37): [-0.37, 0.37],
    nn.Hardshrink(0.37): [-0.37, 0.37],
    nn.Threshold(0.1, 20): [0.1],
    nn.Softplus(threshold=2): [2],
    nn.RReLU().eval(): [],
    nn.Tanhshrink(): [],
    nn.LogSigmoid(): [],
    nn.Sequential(nn.ReLU(), nn.Hardtanh()): [1],
}


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_modules(module):
    assert kinks(module) == pytest.approx(MODULES[module], rel=1e-12)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_table_holds_all_kinks(name):
    found = set(np.round(kinks(ACTIVATIONS[name].function), 9)) - {0}
    assert found == {*ACTIVATIONS[name].kinks} - {0}


@pytest.mark.parametrize("exponent", range(-7, 7))
def test_any_place(exponent):
    for digits in (-math.pi, math.e, 1, -2):
        place = digits * 10.0**exponent
        assert kinks(lambda x, c=place: x > c) == pytest.approx([place], rel=1e-13)
        assert kinks(lambda x, c=place: F.relu(x - c)) == pytest.approx([place], rel=1e-13)


@pytest.mark.parametrize(
    ("function", "places"),
    [
        (lambda x: 3.84 * ((x > 1.5) & (x < 2)), [1.5, 2]),
        (lambda x: ((x > 3) & (x < 3.02)).float(), [3, 3.02]),
        (lambda x: torch.exp(x) + (x > 5), [5]),
        (lambda x: torch.sin(x) + 0.001 * (x > 0.4), [0.4]),
        (lambda x: x * x * (x > 1e-3), [1e-3]),
        (lambda x: torch.tanh(1000 * (x - 3)), []),  # steep is no jump
        (lambda x: F.gelu(x.float()), []),  # nor is rounding
        (lambda x: torch.log1p(x.exp()) - x / 2, []),
        (lambda x: 2 * torch.sin(50 * x), []),
        (torch.exp, []),
    ],
)
def test_functions(function, places):
    assert kinks(function) == pytest.approx(places, rel=1e-12)


def test_of_many_the_first():
    found = kinks(torch.round)
    assert len(found) == 64
    assert found == pytest.approx(np.arange(-31.5, 32), rel=1e-12)
    assert len(kinks(lambda x: (x - x.round()).abs())) == 64


def test_numbers_of_calls():
    calls = numbers = 0

    def counted(x):
        nonlocal calls, numbers
        calls, numbers = calls + 1, numbers + x.numel()
        return torch.round(x)

    kinks(counted)
    assert calls < 100 and numbers < 2_000_000  # some 10 ms
