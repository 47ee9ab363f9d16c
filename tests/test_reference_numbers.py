"""Random networks, drawn by our initializers, have the sizes that the literature gives them."""

import math
from dataclasses import replace
from functools import partial
from itertools import chain, pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch import nn
from torch.nn import functional as F

import initguide as ig
from initguide.initializers import normal_, torch_default_
from initguide.theory.mean_field import predict


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def agree(values, expected, slack=0.0):
    """Say whether a mean is what it should be, within five standard errors and the slack."""
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    return abs(np.mean(values) - expected) < 5 * error + slack


def value(table, name, quantity="second_moment"):
    return table.set_index(["name", "quantity"]).loc[(name, quantity), "value"]


# -- Plain networks of ReLU ----------------------------------------------------------------


def relu_networks(rule, n, depth, count, g):
    """Return the mean squares behind many networks, divided by those of their inputs."""
    x = torch.ones(count, n, 1, dtype=torch.float64)
    for _ in range(depth):
        w = rule(torch.empty(count * n, n, dtype=torch.float64), generator=g)
        x = torch.relu(w.view(count, n, n) @ x)
    return x.square().mean((1, 2)).numpy()


def log_factor(n):
    """Return mean and variance of ln(2/n sum relu(z)^2): half of a chi-square's degrees."""
    k = np.arange(1, n + 1)
    share, middle = stats.binom.pmf(k, n, 0.5), special.digamma(k / 2)
    mean = share @ middle
    variance = share @ (special.polygamma(1, k / 2) + (middle - mean) ** 2)
    return mean + math.log(4 / n), variance


@pytest.mark.parametrize(
    ("scheme", "rule", "v", "digits"),
    [
        ("he_normal", ig.he_normal_, 2.0, 1.0),
        ("lecun_normal", ig.lecun_normal_, 1.0, 9.3e-10),
        ("uniform_rule", torch_default_, 1 / 3, 4.5e-24),
    ],
)
def test_thirty_relu_layers_multiply_by_half_the_variance_each(scheme, rule, v, digits):
    """He et al. 2015: (v / 2)^L with v = n Var(w), at any width."""
    n, depth, count = 100, 30, 150
    expected = (v / 2) ** depth
    assert expected == pytest.approx(digits, rel=0.02)
    table = predict(*[n] * (depth + 1), 10, scheme=scheme)
    assert value(table, f"activation{depth}") == pytest.approx(expected, rel=1e-9)
    found = relu_networks(rule, n, depth, count, generator()) / expected
    assert agree(found, 1)
    assert agree(np.log(found), depth * log_factor(n)[0], 0.02)  # z is not quite normal


def test_products_of_relu_layers_are_heavy_tailed():
    """Hanin & Rolnick 2018: E[M^2] = (1 + 5/n)^L, while most M are below their mean of 1."""
    n, depth, count = 30, 3, 20_000
    found = relu_networks(ig.he_normal_, n, depth, count, generator())
    assert agree(found, 1) and agree(found**2, (1 + 5 / n) ** depth)
    mean, variance = (depth * moment for moment in log_factor(n))
    logs = np.log(found)
    assert agree(logs, mean) and agree((logs - mean) ** 2, variance)
    # So the log-normal distribution that the predictions' bands assume comes near.
    assert mean == pytest.approx(-depth * math.log(1 + 5 / n) / 2, rel=5 / n)


# -- SELU ----------------------------------------------------------------------------------


def normal_mean(function, q):
    def integrand(t):
        return function(math.sqrt(q) * t) * stats.norm.pdf(t)

    return sum(integrate.quad(integrand, *ends)[0] for ends in ((-12, 0), (0, 12)))


def selu(x):
    return 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * math.expm1(x))


@pytest.mark.parametrize(("gain", "digits"), [(1.0, 1.018), (0.75, 0.039)])
def test_a_hundred_layers_of_selu(gain, digits):
    """From mean 1 and variance 4 to variance 1, with torch's gain to .0399.

    Single networks had 1.018 and .039.
    """
    n, depth, scheme = 200, 100, ig.SCHEMES["lecun_normal"].with_gain(gain)
    q = gain**2 * 5
    for _ in range(depth - 1):
        q = gain**2 * normal_mean(lambda x: selu(x) ** 2, q)
    mean = normal_mean(selu, q)
    variance = normal_mean(lambda x: selu(x) ** 2, q) - mean**2
    widths, found = [n] * (depth + 1), []
    for seed in range(6):
        model = ig.mlp(*widths, 10, activation="selu")
        ig.initialize_(model, scheme, generator=generator(seed))
        x = 1 + 2 * torch.randn(50, n, generator=generator(seed))
        table = ig.probe(model, x)
        last = [value(table, f"activation{depth}", kind) for kind in ("mean", "second_moment")]
        found.append(last[1] - last[0] ** 2)
    assert abs(variance - digits) < 3 * np.std(found, ddof=1) + 0.0005
    assert agree(found, variance, 2 / n * variance)  # a finite width pulls by that order
    x = (1 + 2 * torch.tensor([1.0, -1.0]).repeat(n // 2))[None]
    table = predict(*widths, 10, activation="selu", scheme=scheme, inputs=x)
    assert value(table, f"activation{depth}", "mean") == pytest.approx(mean, abs=1e-7)
    second = value(table, f"activation{depth}")
    assert second == pytest.approx(variance + mean**2, rel=1e-6)


# -- Residual networks ---------------------------------------------------------------------


class Branch(nn.Module):
    def __init__(self, n, scale, batch_norm):
        super().__init__()
        self.first, self.second = nn.Linear(n, n), nn.Linear(n, n)
        self.norm = nn.BatchNorm1d(n) if batch_norm else nn.Identity()
        self.scale = scale

    def forward(self, x):
        return x + self.scale * self.second(torch.relu(self.norm(self.first(x))))


@pytest.mark.parametrize(
    ("kind", "depth", "expected"),
    [
        ("plain", 10, 2.0**10),
        ("batch norm", 10, 11.0),
        ("divided by the root of their number", 30, (1 + 1 / 30) ** 30),
    ],
)
def test_residual_branches(kind, depth, expected):
    """Branches that keep the mean square: 2^L; with batch norm L + 1; with 1/sqrt(L) near e."""
    n, found = 128, []
    for seed in range(30):
        norm, scale = kind == "batch norm", depth**-0.5 if "root" in kind else 1.0
        model, g = nn.Sequential(*(Branch(n, scale, norm) for _ in range(depth))), generator(seed)
        ig.initialize_(model, "he_normal", generator=g)
        if not norm:  # ReLU halves what He doubles: so what follows is LeCun's
            last = nn.ModuleList(block.second for block in model)
            ig.initialize_(last, "lecun_normal", generator=g)
        x = torch.randn(64, n, generator=g)
        x /= x.square().mean().sqrt()
        found.append(value(ig.probe(model, x), str(depth - 1)) / expected)
    assert agree(found, 1)
    assert np.std(found) < 0.4  # else the test shows little
    if "root" in kind:
        assert math.e * (1 - 1 / depth) < expected < math.e


class GPTBlock(nn.Module):
    def __init__(self, n, heads=4):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(n), nn.LayerNorm(n)
        self.qkv, self.attended = nn.Linear(n, 3 * n), nn.Linear(n, n)
        self.up, self.down = nn.Linear(n, 4 * n), nn.Linear(4 * n, n)

    def forward(self, x):
        parts = self.qkv(self.norm1(x)).chunk(3, -1)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attended(y.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


def residual_stream(n, number, scale, seed, tokens=32):
    """Return the mean square behind blocks of GPT-2 whose weights have a std of .02."""
    g = generator(seed)
    place = 0.02 * torch.randn(tokens, n, generator=g)
    x = place + 0.02 * torch.randn(4, tokens, n, generator=g)
    block = GPTBlock(n)
    for _ in range(number):  # one after the other, so that a single one is in memory
        ig.initialize_(block, ig.Scheme("GPT-2", partial(normal_, std=0.02)), generator=g)
        with torch.no_grad():
            block.attended.weight.mul_(scale)
            block.down.weight.mul_(scale)
            x = block(x)
    return x.square().mean().item()


@pytest.mark.parametrize(
    ("n", "digits"),
    [
        (64, None),
        pytest.param(256, ([0.0087, 0.0091], [0.113, 2.24]), marks=pytest.mark.slow),
    ],
)
def test_gpt_2_keeps_its_residual_stream_flat(n, digits):
    """A factor of 1/sqrt(2N) for the 2N branches of N blocks."""
    numbers, seeds = (6, 96), range(4)
    flat, grown = (
        np.array([
            [residual_stream(n, N, (2 * N) ** -0.5 if scaled else 1.0, s) for N in numbers]
            for s in seeds
        ])
        for scaled in (True, False)
    )  # fmt: skip
    # Normalized branches add alike: in sum as many times one as there are branches.
    assert agree(flat[:, 1] / flat[:, 0], 1, slack=0.05)
    added = (grown[:, 1] - 8e-4) / (grown[:, 0] - 8e-4)  # less the embeddings
    assert 96 / 6 < added.mean() < 1.5 * 96 / 6
    if digits is not None:  # of single networks, whose settings were a little different
        np.testing.assert_allclose(flat.mean(0), digits[0], rtol=0.15)
        np.testing.assert_allclose(grown.mean(0), digits[1], rtol=0.15)


# -- Training ------------------------------------------------------------------------------

TORCH = {  # weights as torch draws them
    "torch_default": lambda w: nn.init.kaiming_uniform_(w, math.sqrt(5)),
    "xavier_normal": nn.init.xavier_normal_,
    "he_normal": nn.init.kaiming_normal_,
}


def train_plainly(scheme, depth, data, seed, steps=300):
    """Train in plain torch; return the mean loss of the last twenty batches."""
    torch.manual_seed(seed)
    widths = [784, *[128] * depth]
    layers = [[nn.Linear(a, b), nn.ReLU()] for a, b in pairwise(widths)]
    model = nn.Sequential(nn.Flatten(), *chain.from_iterable(layers), nn.Linear(128, 10))
    for module in model:
        if isinstance(module, nn.Linear):
            TORCH[scheme](module.weight)
            if scheme != "torch_default":
                nn.init.zeros_(module.bias)
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.02), []
    while len(losses) < steps:
        for index in torch.randperm(len(data.train_inputs)).split(100):
            loss = F.cross_entropy(model(data.train_inputs[index]), data.train_targets[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return np.mean(losses[steps - 20 : steps])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "digits"),
    [
        (10, {"torch_default": 2.303, "xavier_normal": 1.1, "he_normal": 0.51}),
        (20, {"torch_default": 2.303, "xavier_normal": 2.29, "he_normal": 0.62}),
        (30, {"torch_default": 2.303, "xavier_normal": 2.302, "he_normal": 0.86}),
    ],
)
def test_only_he_learns_through_thirty_layers(depth, digits):
    """Width 128, SGD .02, 300 steps of batches of 100, Fashion-MNIST's sample from -1 to 1."""
    data = ig.datasets.fashion_mnist(download=False)
    x, y = 2 * data.train_inputs[:5000] - 1, data.train_targets[:5000]
    data = replace(data, train_inputs=x, train_targets=y)
    make_model, seeds = partial(ig.mlp, 784, *[128] * depth, 10), range(5)
    start = ig.Ensemble.build(make_model, schemes=list(digits), seeds=seeds)
    history = ig.train(start, data, epochs=6, lr=0.02, batch_size=100, device="cpu")
    losses = history.batch_loss[-20:].double().mean(0).numpy().reshape(len(seeds), -1)
    reached = dict(zip(digits, losses.T, strict=True))  # within a seed in their order
    for scheme, expected in digits.items():
        ours, plain = reached[scheme], [train_plainly(scheme, depth, data, s) for s in range(3)]
        both = np.concatenate([ours, plain])
        error = both.std(ddof=1) * math.sqrt(1 / len(ours) + 1 / len(plain))
        assert abs(ours.mean() - np.mean(plain)) < 5 * error + 1e-3
        # A run's luck, of weights and of batches, and a digit's rounding.
        assert abs(both.mean() - expected) < 3 * both.std(ddof=1) + 0.01, scheme
    assert (reached["he_normal"] < reached["xavier_normal"] - 0.1).all()
    assert (reached["xavier_normal"] < math.log(10) + 0.005).all()


# -- Widths --------------------------------------------------------------------------------


def logits(n, mup, seed, steps=10, lr=0.01):
    """Return the size of the logits after some steps of Adam, of two hidden layers."""
    g, base = generator(seed), 64
    model = ig.mlp(64, n, n, 10)
    readout = partial(ig.lecun_normal_, gain=math.sqrt(base / n) if mup else 1.0)
    ig.initialize_(model, ig.Scheme("muP", ig.he_normal_, readout=readout), generator=g)
    model.requires_grad_(False)
    layers = [m for m in model if isinstance(m, nn.Linear)]
    rates = [lr, *[lr * base / n if mup else lr] * 2]
    groups = [
        {"params": layer.weight.requires_grad_(), "lr": rate}
        for layer, rate in zip(layers, rates, strict=True)
    ]
    optimizer = torch.optim.Adam(groups)
    x, y = torch.randn(64, 64, generator=g), torch.randint(10, (64,), generator=g)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model(x).detach().abs().mean().item()


@pytest.mark.slow
def test_logits_grow_with_the_width_unless_the_rates_shrink_with_it():
    """The coordinate check of muP, from 64 to 2048 units: slopes .505 and .018."""
    widths, slopes = [64, 128, 256, 512, 1024, 2048], {}
    for mup in (False, True):
        sizes = np.log([[logits(n, mup, seed) for n in widths] for seed in range(4)])
        slopes[mup] = np.polyfit(np.log(widths), sizes.T, 1)[0]
    assert agree(slopes[True], 0, slack=0.02)  # muP: no exponent but 0
    assert agree(slopes[True], 0.018, slack=0.02)
    assert agree(slopes[False], 0.505, slack=0.05)
