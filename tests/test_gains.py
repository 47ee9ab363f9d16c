"""Gains agree with quadrature by scipy, closed forms, torch and random layers."""

import itertools
import math
import re

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch import nn
from torch.nn import functional as F

import initguide as ig
from initguide import ACTIVATIONS, Activation
from initguide.activations import Elementwise
from initguide.gains import gain

# Written anew in numpy, of complex numbers: Im f(x + ih) / h is the derivative, without rounding.
SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


def piecewise(*pieces):
    """Return the function that is f below each threshold, in the order of thresholds."""
    return lambda x: next(f(x) for threshold, f in pieces if x.real < threshold)


def expit(x):
    return 1 / (1 + np.exp(-x))


def leaky(slope):
    return piecewise((0, lambda x: slope * x), (math.inf, lambda x: x))


ORACLES = {
    "linear": lambda x: x,
    "identity": lambda x: x,
    "relu": leaky(0),
    "leaky_relu": leaky(0.01),
    "elu": piecewise((0, lambda x: np.exp(x) - 1), (math.inf, lambda x: x)),
    "selu": piecewise(
        (0, lambda x: SELU_SCALE * SELU_ALPHA * (np.exp(x) - 1)),
        (math.inf, lambda x: SELU_SCALE * x),
    ),
    "gelu": lambda x: x / 2 * (1 + special.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x * expit(x),
    "mish": lambda x: x * np.tanh(np.log(1 + np.exp(x))),
    "hardswish": piecewise(
        (-3, lambda x: 0 * x), (3, lambda x: x * (x + 3) / 6), (math.inf, lambda x: x)
    ),
    "softplus": lambda x: np.log(1 + np.exp(x)),
    "tanh": np.tanh,
    "erf": special.erf,
    "sigmoid": expit,
    "softsign": piecewise((0, lambda x: x / (1 - x)), (math.inf, lambda x: x / (1 + x))),
    "hardtanh": piecewise(
        (-1, lambda x: 0 * x - 1), (1, lambda x: x), (math.inf, lambda x: 0 * x + 1)
    ),
    "sin": np.sin,
}
BOUNDED = {"tanh", "erf", "sigmoid", "softsign", "hardtanh", "sin"}
every_activation = pytest.mark.parametrize("name", ORACLES)


def second_moment(function, scale=1.0, kinks=()):
    """E[f(scale z)^2] by scipy, piece by piece; absolute error below 1e-12."""
    places = sorted({-12.0, -3.0, 0.0, 3.0, 12.0, *(kink / scale for kink in kinks)})

    def integrand(z):
        return function(scale * z) ** 2 * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    pieces = itertools.pairwise(places)
    return sum(integrate.quad(integrand, *ends, epsabs=1e-14, epsrel=1e-13)[0] for ends in pieces)


def complex_step(function):
    return lambda x: function(complex(x, 1e-20)).imag / 1e-20


def test_every_activation_has_an_oracle():
    assert {*ORACLES} == {*ACTIVATIONS}


@every_activation
def test_forward_gain(name):
    moment = second_moment(lambda x: ORACLES[name](complex(x)).real, kinks=(-1, 1))
    assert gain(name) == pytest.approx(moment**-0.5, rel=1e-10)


@every_activation
def test_backward_gain_by_closed_derivative_and_by_autograd(name):
    moment = second_moment(complex_step(ORACLES[name]), kinks=(-1, 1))
    assert gain(name, "backward") == pytest.approx(moment**-0.5, rel=1e-10)
    by_autograd = gain(ACTIVATIONS[name].function, "backward")
    assert by_autograd == pytest.approx(moment**-0.5, rel=1e-10)


@pytest.mark.parametrize("name", sorted({*ORACLES} - BOUNDED))
def test_activation_gain_sets_the_second_moment_to_one(name):
    g = gain(name, "activation")
    moment = second_moment(lambda x: ORACLES[name](complex(x)).real, g, kinks=(-3, 3))
    assert moment == pytest.approx(1, rel=1e-10)  # it grows with g: so g is as good


@pytest.mark.parametrize("name", sorted(BOUNDED))
def test_no_activation_gain_below_a_bound_of_one(name):
    with pytest.raises(ValueError, match=rf"{name} has no.*\|{name}\| never exceeds 1:.*forward"):
        gain(name, "activation")


# As they are quoted: forward, activation (none where |phi| <= 1), backward.
DIGITS = {
    "relu": (1.414214, 1.414214, 1.414214),
    "leaky_relu": (1.414143, 1.414143, 1.414143),
    nn.LeakyReLU(0.2): (1.386750, 1.386750, 1.386750),
    "elu": (1.245198, 1.277960, 1.223429),
    "selu": (1.0, 1.0, 0.966026),
    "gelu": (1.533530, 1.468011, 1.481114),
    "gelu_tanh": (1.533581, 1.467961, 1.481168),
    "silu": (1.676532, 1.558760, 1.623320),
    "mish": (1.486848, 1.451491, 1.444755),
    "hardswish": (1.736657, 1.567184, 1.670076),
    "softplus": (1.041867, 1.083122, 1.846229),
    "tanh": (1.592537, None, 1.467414),
    "erf": (1.467167, None, 1.325218),
    "sigmoid": (1.846229, None, 4.722646),
    "softsign": (2.337533, None, 2.095781),
    "hardtanh": (1.392036, None, 1.210287),
    "sin": (1.520867, None, 1.327251),
}


@pytest.mark.parametrize("activation", DIGITS, ids=str)
def test_digits(activation):
    forward, alone, backward = DIGITS[activation]
    oracle = leaky(0.2) if isinstance(activation, nn.Module) else ORACLES[activation]

    def phi(x):
        return oracle(complex(x)).real

    half = 5.1e-7  # of the last digit
    assert second_moment(phi, kinks=(-1, 1)) ** -0.5 == pytest.approx(forward, abs=half)
    assert second_moment(complex_step(oracle), kinks=(-1, 1)) ** -0.5 == pytest.approx(
        backward, abs=half
    )
    assert gain(activation) == pytest.approx(forward, abs=half)
    assert gain(activation, "backward") == pytest.approx(backward, abs=half)
    if alone is None:
        assert activation in BOUNDED
        return
    assert gain(activation, "activation") == pytest.approx(alone, abs=half)
    below, above = (second_moment(phi, alone + d, kinks=(-3, 3)) for d in (-half, half))
    assert below < 1 < above


@pytest.mark.parametrize(
    ("activation", "kind", "expected"),
    [
        ("relu", "forward", math.sqrt(2)),
        (nn.LeakyReLU(0.2), "backward", math.sqrt(2 / 1.04)),
        ("sin", "forward", math.sqrt(2 / (1 - math.exp(-2)))),
        ("sin", "backward", math.sqrt(2 / (1 + math.exp(-2)))),
        ("erf", "forward", (2 / math.pi * math.asin(2 / 3)) ** -0.5),  # the arcsine law
        ("erf", "backward", (4 / math.pi / math.sqrt(5)) ** -0.5),
        ("selu", "activation", 1.0),
        (torch.exp, "forward", math.exp(-1)),
        (torch.square, "forward", 3**-0.5),
        (torch.square, "activation", 3**-0.25),
        (lambda x: torch.exp(10 * x), "forward", math.exp(-100)),
        (lambda x: 1e-5 * x, "activation", 1e5),
        (lambda x: torch.exp(x * x / 8) / 2, "activation", math.sqrt(15 / 8)),  # infinite at sqrt 2
        (lambda x: 2 * torch.sin(50 * x), "activation", math.sqrt(math.log(2) / 2) / 50),
    ],
)
def test_closed_forms(activation, kind, expected):
    assert gain(activation, kind) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("kind", ["forward", "activation", "backward"])
def test_torch_is_right_for_piecewise_linear_functions(kind):
    assert gain("linear", kind) == pytest.approx(nn.init.calculate_gain("linear"))
    assert gain("relu", kind) == pytest.approx(nn.init.calculate_gain("relu"))
    for slope in (0.0, 0.01, 0.2, 1.0, 3.0):
        expected = nn.init.calculate_gain("leaky_relu", slope)
        assert gain(nn.LeakyReLU(slope), kind) == pytest.approx(expected)
        assert gain(nn.PReLU(init=slope), kind) == pytest.approx(expected, rel=1e-6)  # float32


def test_torch_refuses_all_others():
    known = {"linear": 1, "relu": math.sqrt(2), "leaky_relu": math.sqrt(2 / 1.0001)}
    known |= {"sigmoid": 1, "tanh": 5 / 3, "selu": 3 / 4}
    for name in ACTIVATIONS:
        if name in known:
            assert nn.init.calculate_gain(name) == pytest.approx(known[name])
        else:
            with pytest.raises(ValueError, match="Unsupported nonlinearity"):
                nn.init.calculate_gain(name)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "selu"])
def test_torch_is_not_right_for_others(name):
    moment = second_moment(lambda x: ORACLES[name](complex(x)).real)
    assert gain(name) ** 2 * moment == pytest.approx(1)
    assert abs(nn.init.calculate_gain(name) ** 2 * moment - 1) > 0.09


# Each with the points at which scipy has to be told that something happens.
MODULES = {
    "ELU": (lambda: nn.ELU(0.5), [0]),
    "CELU": (lambda: nn.CELU(2.0), [0]),
    "Softplus": (lambda: nn.Softplus(beta=3), []),
    "GELU": (lambda: nn.GELU("tanh"), []),
    "ReLU6": (nn.ReLU6, [0, 6]),
    "Hardtanh": (lambda: nn.Hardtanh(-1.7, 0.3), [-1.7, 0.3]),
    "Softshrink": (lambda: nn.Softshrink(0.37), [-0.37, 0.37]),
    "Hardshrink": (lambda: nn.Hardshrink(0.37), [-0.37, 0.37]),
    "Threshold": (lambda: nn.Threshold(0.1, 20), [0.1]),
    "Hardsigmoid": (nn.Hardsigmoid, [-3, 3]),
    "LogSigmoid": (nn.LogSigmoid, []),
    "Tanhshrink": (nn.Tanhshrink, []),
    "RReLU": (lambda: nn.RReLU().eval(), [0]),
    "in place": (lambda: nn.ReLU(inplace=True), [0]),
    "Dropout": (lambda: nn.Sequential(nn.SiLU(), nn.Dropout(0.5)).eval(), []),
    "Sequential": (lambda: nn.Sequential(nn.ReLU(), nn.Hardtanh()), [0, 1]),
    "Elementwise": (lambda: Elementwise(ACTIVATIONS["erf"]), []),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules(name):
    make, kinks = MODULES[name]
    module = make()

    def value(x):
        return module(torch.tensor(x, dtype=torch.float64)).item()

    def slope(x):
        x = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        return torch.autograd.grad(module(x.clone()), x)[0].item()

    assert gain(module) == pytest.approx(second_moment(value, kinks=kinks) ** -0.5, rel=1e-9)
    expected = second_moment(slope, kinks=kinks) ** -0.5
    assert gain(module, "backward") == pytest.approx(expected, rel=1e-9)


def test_slopes_of_channels():
    assert gain(nn.PReLU(64)) == pytest.approx(math.sqrt(2 / (1 + 0.25**2)))
    unequal = nn.PReLU(2)
    nn.init.normal_(unequal.weight, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"PReLU cannot be applied.*2 and channel size.*GELU"):
        gain(unequal)


# Near the edges of the first intervals, and anywhere.
RANDOM = np.random.default_rng(0)
STEPS = [
    *RANDOM.uniform(-2.5, 2.5, 8),
    *(RANDOM.integers(-16, 16, 12) / 8 + RANDOM.choice([-1, 1], 12) * 10.0 ** -np.arange(1, 13)),
]


@pytest.mark.parametrize("c", STEPS)
def test_a_jump_is_found_wherever_it_is(c):
    # The first node lies 1e-8 of half an interval inside: so much of its mass is in doubt.
    g = gain(lambda x: x > c)
    assert g == pytest.approx(stats.norm.sf(c) ** -0.5, rel=2e-9)
    # E of the slope's square: 1 below c, 9 above
    g = gain(lambda x: torch.where(x > c, 3 * (x - c), x - c), "backward")
    assert g == pytest.approx((1 + 8 * stats.norm.sf(c)) ** -0.5, rel=1e-9)
    # (|x| > k) of height 1.2: 2 sf(k/g) 1.44 = 1
    k = abs(c) + 0.1
    g = gain(lambda x: 1.2 * (x.abs() > k).double(), "activation")
    assert g == pytest.approx(k / stats.norm.isf(1 / 2.88), rel=1e-8)


@pytest.mark.parametrize(
    ("function", "kinks"),
    [
        (lambda x: x * (x - 1).abs() ** 0.5, [1]),  # steep, of finite second moment
        (torch.abs, [0]),
        (lambda x: torch.maximum(x, 0.3 * x), [0]),
        (lambda x: torch.maximum(x - 0.1, 0.3 * x), [1 / 7]),
        (lambda x: x.clamp(-0.77, 1.234), [-0.77, 1.234]),
        (lambda x: torch.relu(x) ** 2 + 0.1 * (x - 1.1).abs(), [0, 1.1]),
        (lambda x: x + torch.sin(7 * x) ** 2 / 7, []),
        (lambda x: x * (x.abs() > 1e-2), [-0.01, 0.01]),
    ],
)
def test_callables_with_unknown_kinks(function, kinks):
    def value(x):
        return function(torch.tensor(x, dtype=torch.float64)).item()

    assert gain(function) == pytest.approx(second_moment(value, kinks=kinks) ** -0.5, rel=1e-9)
    g = gain(function, "activation")
    assert second_moment(value, g, kinks) == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("steps", [1, 10])
def test_a_quantizer_has_many_jumps(steps):
    k = np.arange(1, 40 * steps)
    rises = (k**2 - (k - 1) ** 2) / steps**2  # of the square, at (k - 1/2) / steps

    def moment(g):
        return 2 * rises @ stats.norm.sf((k - 0.5) / steps / g)

    def quantizer(x):
        return torch.round(steps * x) / steps

    assert gain(quantizer) == pytest.approx(moment(1) ** -0.5, rel=1e-10)
    assert moment(gain(quantizer, "activation")) == pytest.approx(1, rel=1e-9)


def test_of_several_solutions_the_smallest():
    def hump(x):
        return 5 * x * torch.exp(-x * x)

    def moment(g):  # 25 g^2 E[z^2 exp(-2 (g z)^2 )], a Gaussian integral
        return 25 * g**2 * (1 + 4 * g**2) ** -1.5

    g = gain(hump, "activation")
    assert moment(g) == pytest.approx(1, rel=1e-10)
    assert (moment(np.linspace(1e-6, g * (1 - 1e-6), 1000)) < 1).all()
    assert moment(1.0) > 1 > moment(10.0)  # there is another
    assert gain(torch.sign, "activation") == 1.0  # every g does


def test_one_where_the_moment_falls():
    # 1.44 / sqrt(1 + 4 g^2) = 1
    g = gain(lambda x: 1.2 * torch.exp(-x * x), "activation")
    assert g == pytest.approx(math.sqrt(1.44**2 - 1) / 2, rel=1e-10)


@pytest.mark.parametrize("k", range(6))
def test_of_step_functions_the_smallest_solution_or_none(k):
    """Closed form and brute force; some moments pass 1 twice between two steps of the search."""
    rng, grid = np.random.default_rng(k), 2.0 ** np.linspace(-8, 8, 16 * 250 + 1)
    for _ in range(25):
        edges = np.sort(rng.uniform(-5, 5, rng.integers(2, 6)))
        heights = rng.uniform(0, 4, len(edges) + 1)
        heights[[0, -1]] = 0
        heights *= rng.random(len(heights)) < 0.7
        if not heights.any() or np.diff(edges).min() < 0.03:
            continue

        def moment(g, edges=edges, squares=heights**2):
            g = np.reshape(g, (-1, 1))
            return -np.diff(stats.norm.sf(edges / g), axis=1) @ squares[1:-1]

        if k % 2:  # a maximum close to 1, above or below
            factor = (1 + rng.choice([-1, 1]) * 10 ** rng.uniform(-3, -1.3)) / moment(grid).max()
            heights *= math.sqrt(factor)
        found = moment(grid, squares=heights**2) - 1

        def phi(x, edges=edges, heights=heights):
            return torch.tensor(heights)[torch.bucketize(x, torch.tensor(edges))]

        crossings = np.flatnonzero(np.diff(found > 0))
        if not len(crossings):
            with pytest.raises(ValueError, match="has no gain of kind 'activation'"):
                gain(phi, "activation")
            continue
        g = gain(phi, "activation")
        assert moment(g, squares=heights**2) == pytest.approx(1, rel=1e-9)
        assert grid[crossings[0]] <= g <= grid[crossings[0] + 1]


def test_digits_of_step_functions():
    def square(low, high, g):
        return special.ndtr(high / g) - special.ndtr(low / g)

    g = gain(lambda x: 3.84 * ((x > 1.5) & (x < 2)).double(), "activation")
    assert g == pytest.approx(1.52582, abs=5.1e-6)
    assert 3.84**2 * square(1.5, 2, g) == pytest.approx(1)
    assert (2.13**2 * square(1.5, 4, np.linspace(0.1, 20, 2000)) < 1).all()
    with pytest.raises(ValueError, match=r"no gain of kind 'activation'.*between 0 and 0\.99"):
        gain(lambda x: 2.13 * ((x > 1.5) & (x < 4)).double(), "activation")


def odd(x):  # a kink, a wave, and a mean that is not 0
    return torch.maximum(x - 0.2, 0.3 * x) + 0.1 * torch.sin(3 * x) + 0.5


def odder(x):  # a jump
    return torch.where(x > 0.4, x, torch.where(x < -0.6, 0.5 * x * x, 0.2 * x))


@pytest.mark.parametrize("phi", [odd, odder])
@pytest.mark.parametrize("kind", ["forward", "activation", "backward"])
def test_random_layers_keep_the_size(phi, kind):
    n, g = 100, torch.Generator().manual_seed(0)
    factor, moments = gain(phi, kind), []
    for _ in range(100):
        w = ig.he_normal_(torch.empty(n, n), gain=factor, generator=g)
        z = torch.randn(n, n, generator=g)
        if kind == "forward":
            kept = w @ phi(z)
        elif kind == "activation":
            kept = phi(w @ torch.sign(z))  # sizes 1: what enters phi is normal
        else:
            z.requires_grad_()
            loss = (torch.randn(n, n, generator=g) * (w @ phi(z))).sum()
            (kept,) = torch.autograd.grad(loss, z)
        moments.append(kept.square().mean().item())
    error = np.std(moments) / math.sqrt(len(moments))
    assert error < 0.01  # else the test shows nothing
    assert abs(np.mean(moments) - 1) < 5 * error


def test_an_activation_of_ones_own_counts_with_the_derivative_it_states():
    binary = Activation("binary", "binary", torch.sign, lambda x: (x.abs() < 1).to(x.dtype))
    assert gain(binary, "backward") == pytest.approx(stats.chi2.cdf(1, 1) ** -0.5, rel=1e-9)


def test_a_straight_through_estimator_counts_as_it_trains():
    def binary(x):
        return torch.sign(x).detach() + x.clamp(-1, 1) - x.clamp(-1, 1).detach()

    assert gain(binary) == pytest.approx(1)
    assert gain(binary, "backward") == pytest.approx(stats.chi2.cdf(1, 1) ** -0.5, rel=1e-9)


@pytest.mark.parametrize("kind", ["forward", "activation", "backward"])
def test_a_function_that_computes_with_32_bits(kind):
    # relative rounding 6e-8, here and there more where it subtracts
    assert gain(lambda x: F.gelu(x.float()), kind) == pytest.approx(gain("gelu", kind), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["forward", "activation", "backward"])
def test_a_function_that_computes_with_16_bits(kind, dtype):
    g = gain(lambda x: F.gelu(x.to(dtype)), kind)
    assert g == pytest.approx(gain("gelu", kind), rel=torch.finfo(dtype).eps / 4)


class Learned(nn.Module):
    """A slope that trains, and a counter in a buffer."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.1))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return torch.where(x > 0, x, self.slope * x)


@pytest.mark.parametrize("kind", ["forward", "activation", "backward"])
def test_nothing_is_changed(kind):
    module = Learned()
    module.slope.grad = torch.tensor(7.0)
    random = torch.get_rng_state()
    g = gain(module, kind)
    assert g == pytest.approx(math.sqrt(2 / 1.01), rel=1e-6)
    assert module.slope.item() == pytest.approx(0.1) and module.slope.dtype == torch.float32
    assert module.slope.grad.item() == 7 and module.slope.requires_grad
    assert module.calls == 0 and module.training
    with torch.no_grad():
        module.slope.fill_(1.0)
    assert gain(module, kind) == pytest.approx(1)  # not remembered from before
    with pytest.raises(ValueError, match="random"):
        gain(nn.Sequential(nn.ReLU(), nn.Dropout(0.3)), kind)
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(
    "context", [torch.no_grad, torch.inference_mode, lambda: torch.device("meta")]
)
@pytest.mark.parametrize("kind", ["forward", "activation", "backward"])
def test_it_does_not_matter_where_it_is_called(context, kind):
    expected = gain("gelu", kind)
    module = nn.GELU()
    with context():
        assert gain("gelu", kind) == expected
        assert gain(module, kind) == pytest.approx(expected, rel=1e-12)
        assert gain(lambda x: torch.where(x > 0, x, torch.zeros(())), kind) > 1


@pytest.mark.parametrize("kind", ["forward", "activation", "backward"])
def test_modules_made_under_inference_mode(kind):
    with torch.inference_mode():
        module, channels = Learned(), nn.PReLU(3, init=0.1)
        inside = gain(module, kind), gain(channels, kind)
    expected = pytest.approx((math.sqrt(2 / 1.01),) * 2, rel=1e-6)
    assert inside == expected and (gain(module, kind), gain(channels, kind)) == expected


def name(activation):
    return getattr(activation, "__name__", activation)


@pytest.mark.parametrize("activation", [*ACTIVATIONS, torch.abs, odd, odder], ids=name)
@pytest.mark.parametrize("kind", ["forward", "activation", "backward"])
def test_it_costs_little(activation, kind):
    # Milliseconds; counted, since a busy machine is slow: 1e6 numbers take some 10 ms.
    if kind == "activation" and activation in BOUNDED:
        return
    calls = numbers = 0
    function = activation if callable(activation) else ACTIVATIONS[activation].function

    def counted(x):
        nonlocal calls, numbers
        calls, numbers = calls + 1, numbers + x.numel()
        return function(x)

    gain(counted, kind)
    assert calls < 200 and numbers < 1_000_000


ERRORS = {
    "kind": ("relu", "fan_in", "kind='fan_in' is unknown.*forward, activation, backward"),
    "name": ("rleu", "forward", "unknown activation 'rleu'.*relu.*Activation"),
    "no activation": (3.0, "forward", "unknown activation 3.0"),
    "None": (None, "forward", "unknown activation None"),
    "bounded": (torch.cos, "activation", r"cos has no.*\|cos\| never exceeds 1:.*kind='forward'"),
    "bounded away": (lambda x: 3 + x.tanh(), "activation", r"no gain.*between 9 and .*forward"),
    "too small": (lambda x: x.tanh() / 4, "activation", r"never exceeds 0\.25:"),
    "exp": (torch.exp, "activation", r"exp has no gain.*stays between 1 and"),
    "zero": (torch.zeros_like, "forward", "zeros_like is constant: it is 0.*depends on its input"),
    "constant": (lambda x: 0 * x + 3, "activation", "is constant: it is 3 wherever"),
    "flat": (torch.sign, "backward", "sign has no gain.*derivative is zero.*straight-through"),
    "cut from autograd": (lambda x: x.detach() ** 2, "backward", "derivative is zero"),
    "comparison": (lambda x: x > 0, "backward", "derivative is zero"),
    "overflow": (lambda x: torch.exp(x * x), "forward", "not finite at -?2.*Clamp"),
    "too fast": (lambda x: torch.exp(x * x / 4), "forward", "does not converge.*clamp"),
    "logarithm": (torch.log, "forward", "log or its derivative is not finite at -.*logarithm"),
    "logarithm, scaled": (torch.log1p, "activation", "log1p or its derivative is not finite at -1"),
    "pole": (torch.reciprocal, "forward", "does not converge.*reciprocal.*pole"),
    "pole elsewhere": (lambda x: 1 / (x - 0.123), "forward", "converge|not finite at 0.123"),
    "root": (lambda x: x.abs().sqrt(), "backward", "does not converge"),
    "tangent": (torch.tan, "forward", "does not converge.*tan.*pole"),
    "tangent, scaled": (torch.tan, "activation", "does not converge"),
    "tangent, backward": (torch.tan, "backward", "does not converge"),
    "cosecant": (lambda x: 1 / torch.sin(x), "forward", "converge|not finite"),
    "secant": (lambda x: x / torch.cos(x), "activation", "does not converge"),
    "poles": (lambda x: x / (0.1 - x * x), "forward", "converge|not finite"),
    "far pole": (lambda x: 1 / (x - 8.1), "forward", "converge|not finite"),
    "root of a pole": (lambda x: (x - math.pi).abs() ** -0.5, "forward", "converge|not finite"),
    "digamma": (torch.digamma, "forward", "not finite"),
    "logarithm, backward": (lambda x: (x - 0.1).abs().log(), "backward", "converge|not finite"),
    "root elsewhere": (lambda x: (x - 0.3).relu().sqrt(), "backward", "does not converge"),
    "cube root": (lambda x: (x + 0.1).abs() ** (1 / 3), "backward", "converge|not finite"),
    "arc cosine": (lambda x: x.clamp(-1, 1).acos(), "backward", "does not converge"),
    "softmax": (nn.Softmax(0), "forward", "Softmax is not elementwise: .*neighbours"),
    "softmax, another axis": (nn.Softmax(1), "forward", "Softmax cannot be applied.*IndexError"),
    "mean": (lambda x: x - x.mean(), "forward", "is not elementwise"),
    "sum so far": (lambda x: x.cumsum(-1), "forward", "is not elementwise"),
    "sorted": (lambda x: x.sort().values, "forward", "is not elementwise"),
    "place": (lambda x: x * torch.arange(x.shape[-1]), "forward", "is not elementwise|cannot be"),
    "normalized": (lambda x: F.normalize(x, dim=-1), "forward", "is not elementwise"),
    "layer norm": (nn.LayerNorm(8), "forward", "LayerNorm cannot be applied.*RuntimeError"),
    "batch norm": (nn.BatchNorm1d(8), "forward", "BatchNorm1d cannot be applied.*ValueError"),
    "linear": (nn.Linear(3, 3), "forward", "Linear cannot be applied to.*elementwise"),
    "GLU": (nn.GLU(), "forward", r"GLU turns shape \(960,\) into \(480,\).*elementwise"),
    "LSTM": (nn.LSTM(3, 3), "forward", "LSTM cannot be applied.*elementwise"),
    "attention": (nn.MultiheadAttention(2, 1), "forward", "MultiheadAttention cannot be applied"),
    "number": (lambda x: x.tolist(), "forward", "returns a list: expected a real tensor"),
    "complex": (lambda x: x * 1j, "forward", "returns torch.complex128 numbers.*real"),
    "plain Python": (math.tanh, "forward", "tanh cannot be applied.*torch operations"),
    "Dropout": (nn.Dropout(0.01), "forward", r"Dropout is random.*\.eval\(\)"),
    "RReLU": (nn.RReLU(), "backward", r"RReLU is random.*\.eval\(\)"),
    "AlphaDropout": (nn.AlphaDropout(), "activation", "AlphaDropout is random"),
    "meta": (nn.PReLU(device="meta"), "forward", "PReLU cannot be copied.*Materialize"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_name_value_expectation_and_next_step(case):
    activation, kind, words = ERRORS[case]
    with pytest.raises(ValueError, match=re.compile(words, re.DOTALL)):
        gain(activation, kind)


def test_a_class_is_not_an_instance():
    with pytest.raises(TypeError, match=r"ReLU is a class: expected an instance. Pass ReLU\(\)"):
        gain(nn.ReLU)
