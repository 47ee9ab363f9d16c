"""Predicted sizes and bands agree with exact layers, kernels and drawn networks."""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from gaussian import ACCURATE, ACTS, expect, generator, scalar, signal
from scipy import stats
from torch import nn

from initguide import ACTIVATIONS, SCHEMES, Activation, Scheme, get_activation, initialize_, mlp
from initguide.initializers import normal_, variance_scaling_
from initguide.propagation import probe
from initguide.theory.mean_field import fixed_point, predict, variance_map

# -- Exact parts --------------------------------------------------------------

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
    with pytest.raises(ValueError, match=r"shape \(0, 5\) have .* in at least one example"):
        predict(5, 5, inputs=torch.ones(0, 5))
    with pytest.raises(ValueError, match=r"sin at variance .* do not converge"):
        predict(5, 5, 5, activation="sin", scheme=(1e5, 0.0))
    with pytest.raises(ValueError, match="unknown scheme"):
        predict(5, 5, scheme="best")


def test_inputs_may_be_an_array():
    x = np.linspace(-1, 2, 10).reshape(2, 5)
    found, expected = predict(5, 5, inputs=x), predict(5, 5, inputs=torch.tensor(x))
    np.testing.assert_array_equal(found["value"], expected["value"])


def test_a_wave_at_large_variances():
    """E[sin^2] is 1/2 to every digit, and so is E[cos^2]."""
    table = predict(50, 50, 50, 10, activation="sin", scheme=(40.0, 0.0))
    assert signal(table)["activation1"] == pytest.approx(0.5, rel=1e-9)
    assert signal(table)["hidden2"] == pytest.approx(800, rel=1e-9)
    gradients = signal(table, "gradient_second_moment")
    assert gradients["hidden2"] / gradients["activation2"] == pytest.approx(0.5, rel=1e-9)


# -- Bands --------------------------------------------------------------------


def chain(name, n, depth, count, w, b, mean=0.0, x=None):
    """Draw many networks at once: given its inputs, a layer's units are independent Gaussians."""
    phi, g = get_activation(name), generator(1)
    x = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(n // 2) if x is None else x
    old = x.expand(count, n)
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
        found[f"activation{layer}", "mean"] = old.mean(1)
    gradient = torch.ones(count, dtype=torch.float64)
    for layer in range(depth, 0, -1):
        fan_out = n if layer < depth else 10
        y = torch.randn(count, n, generator=g, dtype=torch.float64)
        y = (w**2 / n * fan_out * gradient).sqrt()[:, None] * y
        found[f"activation{layer}", "gradient_second_moment"] = y.square().mean(1)
        gradient = (y * phi.derivative(states[layer - 1])).square().mean(1)
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
        # Bands of gradients, and of an activation's mean, are upper bounds.
        if key[1] == "second_moment" or (key[0].startswith("hidden") and key[1] == "mean"):
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
        assert inside > level - 4.5 * error, layer
        tolerance = 4.5 * values.std() / math.sqrt(count) + 2 * depth / n * row["value"]
        assert abs(values.mean() - row["value"]) < tolerance, layer
    saturated = rows.loc["hidden6", "second_moment"]["value"]
    assert saturated == pytest.approx((n / 2) ** 2 + n / 12, rel=0.02)


@pytest.mark.parametrize("mean", [0.0, 0.003])
@pytest.mark.parametrize("name", ["tanh", "erf", "softsign", "hardtanh", "sigmoid", "relu"])
def test_bands_hold_where_a_common_mean_passes_zero(name, mean):
    """Behind U[0, 1) and inputs of mean 0 few networks are next to it: none of 96 nodes was."""
    n, depth, count, level = 200, 4, 2500, 0.99
    x = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(n // 2) + mean
    found = chain(name, n, depth, count, math.sqrt(n / 12), 0.0, 0.5, x=x)
    table = predict(
        *[n] * (depth + 1), 10, activation=name, scheme="uniform_0_1", inputs=x[None], level=level
    )
    rows, error = table.set_index(["name", "quantity"]), math.sqrt(level * (1 - level) / count)
    for key, values in found.items():
        if key[1] != "gradient_second_moment":  # chain's are those of weights without a mean
            row, values = rows.loc[key], values.numpy()
            inside = np.mean((row["low"] <= values) & (values <= row["high"]))
            assert inside > level - 4.5 * error, key


@pytest.mark.parametrize("name", dict.fromkeys(phi.name for phi in ACTIVATIONS.values()))
def test_bands_of_gradients_know_the_layer_they_stand_at(name):
    n, depth, count, level = 100, 4, 3000, 0.99
    name = name.split("(")[0]
    error = math.sqrt(level * (1 - level) / count)
    for w, b in ((1.5, 0.3), (1.0, 0.0)):
        table = predict(*[n] * (depth + 1), 10, activation=name, scheme=(w, b), level=level)
        rows = table.set_index(["name", "quantity"])
        for key, values in chain(name, n, depth, count, w, b).items():
            row, values = rows.loc[key], values.numpy()
            inside = np.mean((row["low"] <= values) & (values <= row["high"]))
            assert inside > level - 4.5 * error, key


def test_the_band_of_a_gradient_that_goes_with_the_variance():
    """A slope of 2 x goes with its input's size: its layer's own variance decides."""
    n, depth, count, level, w = 400, 3, 2500, 0.99, 3**-0.5
    phi = Activation("square", "square", torch.square, lambda x: 2 * x)
    table = predict(*[n] * (depth + 1), 10, activation=phi, scheme=(w, 0.0), level=level)
    rows, error = table.set_index(["name", "quantity"]), math.sqrt(level * (1 - level) / count)
    for layer in (2, 3):
        values = chain(phi, n, depth, count, w, 0.0)[f"hidden{layer}", "gradient_second_moment"]
        row, values = rows.loc[f"hidden{layer}", "gradient_second_moment"], values.numpy()
        inside = np.mean((row["low"] <= values) & (values <= row["high"]))
        assert inside > level - 4.5 * error, layer


def test_a_batch_takes_time_and_memory_by_the_input():
    numbers, largest = {}, 0

    def counted(x):
        nonlocal largest
        numbers[count] = numbers.get(count, 0) + x.numel()
        largest = max(largest, x.numel())
        return torch.tanh(x)

    for count in (1, 100, 200):
        x = torch.randn(count, 30, generator=generator())
        predict(30, 20, 20, 5, activation=counted, scheme="uniform_0_1", inputs=x)
    assert largest < 2**20
    assert numbers[200] - numbers[1] < 2.1 * (numbers[100] - numbers[1])
    assert (numbers[200] - numbers[1]) / 199 < 100_000  # two layers, 98 nodes, some 120 points


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
