"""The initializers agree with JAX, with torch and with the formulas."""

import math

import jax
import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import nn

import initguide as ig
from initguide import initializers
from initguide.gains import gain
from initguide.layers import weight_views

SHAPE = (200, 300)  # fan_out, fan_in
FAN = {"fan_in": 300, "fan_out": 200, "fan_avg": 250}
MODES, DISTRIBUTIONS = tuple(FAN), ("normal", "uniform", "truncated_normal")
NAMED = [
    f"{who}_{how}" for who in ("lecun", "glorot", "xavier", "he", "kaiming")
    for how in ("normal", "uniform")
]  # fmt: skip

LAYERS = {
    "linear": lambda: nn.Linear(6, 4),
    "conv1": lambda: nn.Conv1d(6, 4, 3),
    "conv2": lambda: nn.Conv2d(6, 4, 3),
    "conv3": lambda: nn.Conv3d(2, 3, 2),
    "oblong": lambda: nn.Conv2d(6, 4, (1, 3)),
    "grouped": lambda: nn.Conv2d(6, 4, 3, groups=2),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, groups=4),
    "multiplied": lambda: nn.Conv1d(4, 8, 3, groups=4),
    "dilated": lambda: nn.Conv1d(6, 4, 3, dilation=2),
    "transposed1": lambda: nn.ConvTranspose1d(6, 4, 3),
    "transposed2": lambda: nn.ConvTranspose2d(6, 4, 3),
    "transposed3": lambda: nn.ConvTranspose3d(2, 3, 2),
    "transposed grouped": lambda: nn.ConvTranspose2d(6, 4, 3, groups=2),
}
every_layer = pytest.mark.parametrize("kind", LAYERS)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draws(function, *arguments, shape=SHAPE, **options):
    weight = torch.empty(shape, dtype=torch.float64)
    return function(weight, *arguments, **options, generator=generator()).numpy()


def second_moment(w):
    """Return the mean square and its standard error."""
    squares = np.asarray(w, dtype=np.float64).ravel() ** 2
    return squares.mean(), squares.std() / math.sqrt(squares.size)


def assert_same_distribution(ours, theirs):
    (a, error_a), (b, error_b) = second_moment(ours), second_moment(theirs)
    assert abs(a - b) < 5 * math.hypot(error_a, error_b)
    assert abs(ours.mean()) < 5 * ours.std() / math.sqrt(ours.size)
    # Quantiles tell the three distributions apart; sd of the 90 % one: .3 / (pdf sqrt n).
    levels = [0.01, 0.1, 0.3]
    wanted = np.quantile(theirs, levels) / math.sqrt(b)
    assert np.quantile(ours, levels) / math.sqrt(a) == pytest.approx(wanted, abs=0.05)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("mode", MODES)
def test_variance_scaling_agrees_with_jax(mode, distribution):
    ours = draws(ig.variance_scaling_, 1.7, mode, distribution)
    rule = jax.nn.initializers.variance_scaling(1.7, mode, distribution)
    theirs = np.asarray(rule(jax.random.key(1), SHAPE[::-1]))
    assert_same_distribution(ours, theirs)
    if distribution != "normal":  # bounded: 60,000 draws come within 0.1 % of the bound
        assert abs(ours).max() == pytest.approx(abs(theirs).max(), rel=3e-3)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_variance_is_scale_over_fan(scale, mode, distribution):
    variance = scale / FAN[mode]
    w = draws(ig.variance_scaling_, scale, mode, distribution)
    mean, error = second_moment(w)
    assert abs(mean - variance) < 5 * error
    widest = {"normal": math.inf, "uniform": math.sqrt(3), "truncated_normal": 2 / 0.8796256610}
    assert abs(w).max() <= widest[distribution] * math.sqrt(variance) * (1 + 1e-9)


@pytest.mark.parametrize("name", ["lecun_normal", "glorot_normal", "he_normal"])
def test_named_normal_rules_have_jax_variance(name):
    ours = draws(getattr(ig, f"{name}_"))
    theirs = np.asarray(getattr(jax.nn.initializers, name)()(jax.random.key(2), SHAPE[::-1]))
    (a, error_a), (b, error_b) = second_moment(ours), second_moment(theirs)
    assert abs(a - b) < 5 * math.hypot(error_a, error_b)
    assert abs(theirs).max() / math.sqrt(b) < 2.4 < abs(ours).max() / math.sqrt(a)  # jax truncates


@pytest.mark.parametrize("name", ["lecun_uniform", "glorot_uniform", "he_uniform"])
def test_named_uniform_rules_agree_with_jax(name):
    theirs = np.asarray(getattr(jax.nn.initializers, name)()(jax.random.key(3), SHAPE[::-1]))
    ours = draws(getattr(ig, f"{name}_"))
    assert_same_distribution(ours, theirs)
    assert abs(ours).max() == pytest.approx(abs(theirs).max(), rel=1e-3)


@pytest.mark.parametrize("shape", [(7, 5), (8, 6, 3, 3)])
@pytest.mark.parametrize("options", [{}, {"gain": 5 / 3}])
@pytest.mark.parametrize("name", ["xavier_normal_", "xavier_uniform_"])
def test_xavier_equals_torch(name, options, shape):
    ours = draws(getattr(ig, name), shape=shape, **options)
    theirs = draws(getattr(nn.init, name), shape=shape, **options)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("shape", [(7, 5), (8, 6, 3, 3)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"a": 0.2},
        {"a": math.sqrt(5)},
        {"mode": "fan_out"},
        {"a": 1, "mode": "fan_out"},
        {"nonlinearity": "relu"},
        {"a": 0.2, "nonlinearity": "relu"},
        {"a": 0.2, "nonlinearity": "leaky_relu"},
        {"mode": "fan_out", "nonlinearity": "linear"},
    ],
)
@pytest.mark.parametrize("name", ["kaiming_normal_", "kaiming_uniform_"])
def test_kaiming_equals_torch(name, options, shape):
    ours = draws(getattr(ig, name), shape=shape, **options)
    theirs = draws(getattr(nn.init, name), shape=shape, **options)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_kaiming_takes_torch_arguments_by_position():
    ours = draws(ig.kaiming_normal_, 0, "fan_out", "relu")
    np.testing.assert_allclose(ours, draws(nn.init.kaiming_normal_, 0, "fan_out", "relu"))


@pytest.mark.parametrize("name", ["he_normal_", "he_uniform_"])
@pytest.mark.parametrize(
    "nonlinearity", ["tanh", "sigmoid", "selu", "gelu", nn.ELU(0.5), torch.sin]
)
def test_any_nonlinearity_has_its_forward_gain(name, nonlinearity):
    ours = draws(getattr(ig, name), nonlinearity=nonlinearity)
    lecun = draws(getattr(ig, name.replace("he", "lecun")))
    np.testing.assert_allclose(ours, gain(nonlinearity) * lecun, rtol=1e-12)
    given = draws(getattr(ig, name), nonlinearity=nonlinearity, gain=3.0)
    np.testing.assert_allclose(given, 3 * lecun, rtol=1e-12)


def test_the_truncated_he_normal_of_jax():
    ours = draws(ig.variance_scaling_, 2.0, "fan_in", "truncated_normal")
    theirs = jax.nn.initializers.he_normal()(jax.random.key(4), SHAPE[::-1])
    assert_same_distribution(ours, np.asarray(theirs))


def test_the_std_of_the_truncated_normal():
    tail, density = special.ndtr(-2), math.exp(-2) / math.sqrt(2 * math.pi)
    std = math.sqrt(1 - 4 * density / (1 - 2 * tail))
    assert std == pytest.approx(0.87962566103423978, rel=1e-14)
    assert std == pytest.approx(stats.truncnorm(-2, 2).std(), rel=1e-12)
    for scale, name in ((1.0, "lecun_normal"), (2.0, "he_normal")):
        ours = draws(ig.variance_scaling_, scale, "fan_in", "truncated_normal")
        wide = math.sqrt(scale / FAN["fan_in"]) / std
        cut = draws(nn.init.trunc_normal_, 0.0, wide, -2 * wide, 2 * wide)
        np.testing.assert_allclose(ours, cut, rtol=1e-12)
        theirs = getattr(jax.nn.initializers, name)()(jax.random.key(5), SHAPE[::-1])
        assert float(abs(theirs).max()) == pytest.approx(2 * wide, rel=1e-3)


def test_gain_replaces_the_slope():
    for name in ("he_normal_", "he_uniform_"):
        twice = draws(getattr(ig, name), gain=2 * math.sqrt(2))
        np.testing.assert_allclose(twice, 2 * draws(getattr(ig, name)), rtol=1e-12)
    np.testing.assert_allclose(draws(ig.lecun_normal_, 3.0), 3 * draws(ig.lecun_normal_))


def test_torch_default_is_the_bound_one_over_root_n():
    w = draws(initializers.torch_default_)
    assert 0.999 / math.sqrt(300) < abs(w).max() <= 1 / math.sqrt(300)


@pytest.mark.parametrize("name", ["glorot", "he"])
def test_both_spellings_are_one_function(name):
    other = {"glorot": "xavier", "he": "kaiming"}[name]
    for how in ("normal_", "uniform_"):
        assert getattr(ig, f"{name}_{how}") is getattr(ig, f"{other}_{how}")


def connections(layer):
    """Count the nonzeros of the dense Jacobian: most in a row, most in a column."""
    nn.init.ones_(layer.weight)
    kernel = layer.weight.ndim - 2
    channels = layer.in_features if kernel == 0 else layer.in_channels
    x = torch.zeros(1, channels, *(10,) * kernel if kernel == 1 else (5,) * kernel)
    dense = torch.autograd.functional.jacobian(layer, x).reshape(-1, x.numel()) != 0
    return int(dense.sum(1).max()), int(dense.sum(0).max())


@every_layer
def test_fans_count_the_jacobian(kind):
    layer = LAYERS[kind]()
    assert ig.fans(layer) == connections(layer)
    groups, transposed = getattr(layer, "groups", 1), kind.startswith("transposed")
    assert ig.fans(layer.weight, groups=groups, transposed=transposed) == ig.fans(layer)
    for view in weight_views(layer):
        assert ig.fans(view) == ig.fans(layer)


@every_layer
def test_weight_views_cover_the_weight(kind):
    layer = LAYERS[kind]()
    for number, view in enumerate(weight_views(layer)):
        view.fill_(number)
    counts = layer.weight.unique(return_counts=True)
    assert counts[0].tolist() == list(range(getattr(layer, "groups", 1)))
    assert counts[1].unique().numel() == 1


@every_layer
def test_he_normal_keeps_the_second_moment_of_relu_layers(kind):
    # Over draws of weights and inputs: E[(W relu(x))^2] = 1, inside the picture.
    layer, g = LAYERS[kind](), generator(1)
    nn.init.zeros_(layer.bias)
    kernel = layer.weight.ndim - 2
    channels = layer.in_features if kernel == 0 else layer.in_channels
    moments = []
    for _ in range(200):
        for view in weight_views(layer):
            ig.he_normal_(view, generator=g)
        x = torch.randn(1, channels, *(5,) * kernel, generator=g).relu()
        with torch.no_grad():
            y = layer(x)
        centre = tuple(n // 2 for n in y.shape[2:])
        moments.append(y[(0, slice(None), *centre)].square().mean().item())
    error = np.std(moments) / math.sqrt(len(moments))
    assert abs(np.mean(moments) - 1) < 5 * error and error < 0.15


@pytest.mark.parametrize("name", [*NAMED, "variance_scaling"])
def test_in_place_reproducible_and_the_global_generator_untouched(name):
    state = torch.get_rng_state()
    w = torch.empty(4, 3)
    same = getattr(ig, f"{name}_")(w, generator=generator())
    assert same is w
    assert torch.equal(w, getattr(ig, f"{name}_")(torch.empty(4, 3), generator=generator()))
    assert torch.equal(torch.get_rng_state(), state)


def test_parameters_that_require_gradients_can_be_filled():
    weight = nn.Parameter(torch.zeros(3, 2))
    assert ig.he_normal_(weight, generator=generator()).requires_grad and weight.any()


def test_constant():
    bias = torch.empty(5)
    assert ig.constant_(bias, 2.5) is bias and (bias == 2.5).all()


@pytest.mark.parametrize(
    ("kind", "words", "call"),
    [
        (ValueError, [r"\(3,\)", "at least 2", "constant_"], lambda: ig.he_normal_(torch.ones(3))),
        (ValueError, [r"empty.*\(0, 3\)", "at least one"], lambda: ig.fans(torch.ones(0, 3))),
        (
            TypeError,
            ["int64", "floating", "quantizing"],
            lambda: ig.he_normal_(torch.ones(2, 2).long()),
        ),
        (ValueError, ["scale=-1.0", "positive", "constant_"], lambda: scaled(-1.0)),
        (ValueError, ["scale=0.0", "positive", "constant_"], lambda: scaled(0.0)),
        (ValueError, ["scale=nan", "positive", "constant_"], lambda: scaled(math.nan)),
        (ValueError, ["scale=inf", "positive", "constant_"], lambda: scaled(math.inf)),
        (ValueError, ["mode='in'", "fan_in, fan_out, fan_avg"], lambda: scaled(1.0, "in")),
        (
            ValueError,
            ["distribution='gauss'", "normal, uniform, truncated_normal"],
            lambda: scaled(1.0, "fan_in", "gauss"),
        ),
        (
            ValueError,
            ["groups=2", r"\(3, 2\)", "built with"],
            lambda: ig.fans(torch.ones(3, 2), groups=2),
        ),
        (
            ValueError,
            ["unknown activation 'rleu'", "relu"],
            lambda: ig.he_normal_(torch.ones(3, 2), nonlinearity="rleu"),
        ),
        (ValueError, ["groups=0", "built with"], lambda: ig.fans(torch.ones(3, 2), groups=0)),
        (TypeError, ["BatchNorm1d", "Linear, Conv", "tensor"], lambda: ig.fans(nn.BatchNorm1d(3))),
        (TypeError, ["LSTM", "Linear, Conv", "tensor"], lambda: ig.fans(nn.LSTM(3, 2))),
    ],
)
def test_errors_name_value_expectation_and_next_step(kind, words, call):
    with pytest.raises(kind) as error:
        call()
    for word in words:
        error.match(word)


def scaled(*arguments):
    return ig.variance_scaling_(torch.empty(3, 2), *arguments)


@pytest.mark.parametrize(
    "call",
    [
        lambda: ig.fans(nn.LazyLinear(3)),
        lambda: ig.fans(nn.LazyConv2d(3, 3).weight),
        lambda: ig.he_normal_(nn.LazyLinear(3).weight),
        lambda: ig.lecun_uniform_(nn.LazyLinear(3).weight),
    ],
)
def test_a_lazy_weight_is_an_error_that_says_what_to_do(call):
    with pytest.raises(ValueError, match=r"no memory.*Run one batch"):
        call()


def test_the_fans_of_a_weight_without_memory_are_known():
    assert ig.fans(nn.Linear(3, 4, device="meta")) == (3, 4)
