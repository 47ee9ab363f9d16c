"""Each scheme fills what it says, by the formula it shows, and reports the rest."""

import math
import pickle
import re
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import initguide as ig
from initguide import SCHEMES, Scheme, initialize_
from initguide.gains import gain
from initguide.layers import Fans, weight_views
from initguide.plotting import look

N_IN, N_OUT = 300, 200

# By hand, from the sources: (mean, variance, lowest, highest) of a weight.
INFINITE = (-math.inf, math.inf)
TABLE = {
    "zeros": (0, 0, 0, 0),
    "ones": (1, 0, 1, 1),
    "standard_normal": (0, 1, *INFINITE),
    "uniform_0_1": (1 / 2, 1 / 12, 0, 1),
    "uniform_centered": (0, 1 / 12, -1 / 2, 1 / 2),
    "uniform_rule": (0, 1 / (3 * N_IN), -1 / math.sqrt(N_IN), 1 / math.sqrt(N_IN)),
    "normal_rule": (0, 1 / N_IN, *INFINITE),
    "torch_default": (0, 1 / (3 * N_IN), -1 / math.sqrt(N_IN), 1 / math.sqrt(N_IN)),
    "lecun_normal": (0, 1 / N_IN, *INFINITE),
    "lecun_uniform": (0, 1 / N_IN, -math.sqrt(3 / N_IN), math.sqrt(3 / N_IN)),
    "xavier_normal": (0, 2 / (N_IN + N_OUT), *INFINITE),
    "xavier_uniform": (
        0,
        2 / (N_IN + N_OUT),
        -math.sqrt(6 / (N_IN + N_OUT)),
        math.sqrt(6 / (N_IN + N_OUT)),
    ),
    "he_normal": (0, 2 / N_IN, *INFINITE),
    "he_uniform": (0, 2 / N_IN, -math.sqrt(6 / N_IN), math.sqrt(6 / N_IN)),
    "orthogonal": (0, 1 / max(N_IN, N_OUT), *INFINITE),
}

LAYERS = {
    "Linear": lambda: nn.Linear(6, 4),
    "Conv1d": lambda: nn.Conv1d(6, 4, 3),
    "Conv2d": lambda: nn.Conv2d(6, 4, (1, 3)),
    "Conv3d": lambda: nn.Conv3d(2, 3, 2),
    "grouped": lambda: nn.Conv2d(6, 4, 3, groups=2),
    "ConvTranspose1d": lambda: nn.ConvTranspose1d(6, 4, 3),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(6, 4, 3, groups=2),
    "ConvTranspose3d": lambda: nn.ConvTranspose3d(2, 3, 2),
}
every_layer = pytest.mark.parametrize("kind", LAYERS)
every_scheme = pytest.mark.parametrize("name", SCHEMES)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@every_scheme
def test_distribution_is_the_one_in_the_table(name):
    mean, variance, lowest, highest = TABLE[name]
    layer = nn.Linear(N_IN, N_OUT)
    initialize_(layer, name, generator=generator())
    w = layer.weight.detach().double().flatten()
    deviations = (w - mean) ** 2
    n = math.sqrt(w.numel())
    assert abs(w.mean() - mean) <= 5 * math.sqrt(variance) / n
    assert abs(deviations.mean() - variance) <= 5 * deviations.std() / n
    assert w.min() >= lowest - 1e-6 and w.max() <= highest + 1e-6
    if math.isfinite(highest):  # 60,000 uniform draws come close to both ends
        assert w.max() - w.min() >= 0.999 * (highest - lowest)
    elif variance:
        assert w.abs().max() > 3.5 * math.sqrt(variance)
    bound = 1 / math.sqrt(N_IN) if name == "torch_default" else 0
    assert 0.9 * bound <= layer.bias.abs().max() <= bound


@every_scheme
def test_an_entry_is_complete(name):
    scheme = SCHEMES[name]
    assert scheme.name == name and scheme.label and scheme.formula and scheme.source
    assert re.fullmatch("#[0-9A-Fa-f]{6}", scheme.color)
    looks = [(s.color, s.marker) for s in SCHEMES.values()]
    assert looks.count((scheme.color, scheme.marker)) == 1


@every_layer
def test_torch_default_is_what_torch_does(kind):
    layer = LAYERS[kind]()
    with torch.random.fork_rng():
        torch.manual_seed(7)
        layer.reset_parameters()
    expected = weights(layer)
    initialize_(layer, "zeros")
    initialize_(layer, "torch_default", generator=generator(7))
    assert same(weights(layer), expected)


@every_layer
@every_scheme
def test_every_layer_is_filled_and_the_global_generator_untouched(kind, name):
    first, second = LAYERS[kind](), LAYERS[kind]()
    for tensor in (first.weight, first.bias):
        nn.init.constant_(tensor, math.nan)
    state = torch.get_rng_state()
    done = initialize_(first, name, generator=generator(3))
    assert torch.equal(torch.get_rng_state(), state)
    assert done.left_alone == () and done.initialized == ("",)
    assert all(w.isfinite().all() for w in weights(first))
    torch.rand(5)  # another global state, other schemes before: the same weights
    initialize_(second, "standard_normal", generator=generator(1))
    initialize_(second, name, generator=generator(3))
    assert same(weights(first), weights(second))


@pytest.mark.parametrize("kind", ["grouped", "ConvTranspose2d"])
def test_groups_and_direction_enter_the_variance(kind):
    big = {
        "grouped": nn.Conv2d(120, 80, 3, groups=4),
        "ConvTranspose2d": nn.ConvTranspose2d(120, 80, 3, groups=4),
    }[kind]
    initialize_(big, "he_normal", generator=generator())
    w = big.weight.detach().double().flatten()
    fan_in = 120 // 4 * 9
    assert abs(w.square().mean() * fan_in / 2 - 1) < 5 * math.sqrt(2 / w.numel())


@pytest.mark.parametrize(
    ("synonym", "name"),
    [
        ("glorot_normal", "xavier_normal"),
        ("glorot_uniform", "xavier_uniform"),
        ("kaiming_normal", "he_normal"),
        ("kaiming_uniform", "he_uniform"),
        ("msra_normal", "he_normal"),
        ("he_normal", "he_normal"),
        ("zeros", "zeros"),
    ],
)
def test_synonyms(synonym, name):
    assert ig.get_scheme(synonym) is SCHEMES[name]


# LeCun's and Xavier's variance times the gain's square, He's with it in place of 2.
WITHOUT_GAIN = {"lecun": 1, "normal": 1, "xavier": 1, "he": 1 / math.sqrt(2), "orthogonal": 1}


@every_scheme
def test_the_activation_sets_the_gain_or_the_scheme_refuses(name):
    plain, scaled = nn.Linear(N_IN, N_OUT), nn.Linear(N_IN, N_OUT)
    initialize_(plain, name, generator=generator())
    before = weights(scaled)
    if name.partition("_")[0] not in WITHOUT_GAIN:
        with pytest.raises(ValueError, match=rf"{name}.*has no gain.*parameter 'gain'.*leave"):
            initialize_(scaled, name, activation="tanh", generator=generator())
        assert same(weights(scaled), before)
        return
    done = initialize_(scaled, name, activation="tanh", generator=generator())
    factor = gain("tanh") * WITHOUT_GAIN[name.partition("_")[0]]
    torch.testing.assert_close(scaled.weight, factor * plain.weight)
    assert torch.equal(scaled.bias, plain.bias)
    assert done.scheme.name == f"{name}, gain 1.593"  # as compare names a condition's columns
    assert done.scheme.label == look(done.scheme.name).label
    assert repr(done).startswith(f"{SCHEMES[name].label} (gain 1.593): initialized")


def test_schemes_of_ones_own_take_a_gain_if_their_initializer_does():
    def mine(w, gain, *, generator):
        return nn.init.constant_(w, gain)

    layer = nn.Linear(4, 3)
    initialize_(layer, Scheme("mine", mine), activation="relu")
    torch.testing.assert_close(layer.weight, torch.full((3, 4), math.sqrt(2)))
    initialize_(layer, Scheme("torch", nn.init.orthogonal_), activation=nn.LeakyReLU(0.2))
    torch.testing.assert_close(layer.weight @ layer.weight.T, torch.eye(3) * 2 / 1.04)
    backward = partial(ig.he_normal_, mode="fan_out")
    initialize_(layer, Scheme("fan out", backward), activation="gelu", generator=generator())
    expected = backward(torch.empty(3, 4), gain=gain("gelu"), generator=generator())
    assert torch.equal(layer.weight, expected)


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (partial(ig.he_normal_, gain=2.0), "'mine' has the gain 2.0: expected.*Take"),
        (nn.init.kaiming_normal_, "'mine' has no gain.*LeCun, Xavier and He"),
        (lambda w, **options: w, "'mine' has no gain"),
        (torch.relu_, "'mine' has no gain"),  # a builtin whose parameters Python cannot tell
        (0.5, "'mine' has no gain"),
    ],
)
def test_schemes_of_ones_own_refuse_a_gain(weight, words):
    model = nn.Linear(4, 3)
    before = weights(model)
    with pytest.raises(ValueError, match=words):
        initialize_(model, Scheme("mine", weight), activation="relu")
    assert same(weights(model), before)


def test_a_gain_stays_with_the_scheme():
    scheme = SCHEMES["xavier_uniform"].with_gain(2.0)
    again = pickle.loads(pickle.dumps(scheme))  # to another process
    first, second = nn.Linear(4, 3), nn.Linear(4, 3)
    initialize_(first, again, generator=generator())
    initialize_(second, "xavier_uniform", generator=generator())
    torch.testing.assert_close(first.weight, 2 * second.weight)
    with pytest.raises(ValueError, match=r"has the gain 2\.0"):
        scheme.with_gain(3.0)
    assert SCHEMES["xavier_uniform"].formula and not scheme.formula


def test_the_output_exception_keeps_its_own_gain():
    model = ig.mlp(4, 3, 2)
    scheme = Scheme("zero output", ig.he_normal_, readout=0.0)
    initialize_(model, scheme, activation="gelu", generator=generator())
    assert not model.output.weight.any() and model.hidden1.weight.all()


def test_an_activation_without_a_gain_leaves_the_model_unchanged():
    model = nn.Linear(4, 3)
    before = weights(model)
    with pytest.raises(ValueError, match="Softmax is not elementwise"):
        initialize_(model, "he_normal", activation=nn.Softmax(-1))
    assert same(weights(model), before)


def test_the_gain_keeps_the_signal_through_a_deep_network():
    # What a factor of 1/std, the gain without the mean, would multiply layer by layer.
    def phi(x):
        return torch.maximum(x, 0.3 * x) + 0.2

    width, depth, seeds = 200, 10, range(40)
    logs = []
    for seed in seeds:
        layers = [nn.Linear(width, width) for _ in range(depth)]
        initialize_(nn.ModuleList(layers), "he_normal", activation=phi, generator=generator(seed))
        z = torch.randn(1, width, generator=generator(seed + 1000))
        with torch.no_grad():
            for layer in layers:
                z = layer(phi(z))
        logs.append(z.square().mean().log().item())
    error = np.std(logs) / math.sqrt(len(logs))
    # Finite width lowers the log's mean by half its variance, if the size is lognormal.
    assert abs(np.mean(logs) + np.var(logs) / 2) < 5 * error
    z = torch.randn(1_000_000, generator=generator())
    inflation = phi(z).square().mean() / phi(z).var()
    assert depth * inflation.log() > 10 * error  # so that the test can tell them apart


def test_what_no_rule_covers_is_reported_and_left_alone():
    model = nn.ModuleDict(
        {
            "embedding": nn.Embedding(5, 4),
            "first": nn.Linear(4, 4),
            "norm": nn.BatchNorm1d(4),
            "lstm": nn.LSTM(4, 3),
            "attention": nn.MultiheadAttention(4, 2, add_bias_kv=True),
        }
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    done = initialize_(model, "ones")
    assert done.initialized == ("first", "lstm", "attention", "attention.out_proj")
    left = {"embedding.weight", "norm.weight", "norm.bias", "attention.bias_k", "attention.bias_v"}
    assert set(done.left_alone) == left
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters() if n in left)
    assert "norm.weight" in repr(done)


def test_a_computed_weight_is_filled_itself():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)), nn.Linear(2, 1))
    done = initialize_(model, "ones")
    assert done.initialized == ("0", "1") and done.left_alone == ()
    torch.testing.assert_close(model[0].weight, torch.ones(2, 3))


def test_tied_weights_are_filled_once():
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    plain = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    initialize_(tied, "he_normal", generator=generator())
    initialize_(plain, "he_normal", generator=generator())
    assert torch.equal(tied[0].weight, plain[0].weight)
    assert torch.equal(tied[2].weight, plain[1].weight)


def test_a_layer_used_twice_is_filled_once():
    layer = nn.Linear(3, 3)
    done = initialize_(nn.Sequential(layer, nn.ReLU(), layer), "he_normal", generator=generator())
    assert done.initialized == ("0",)
    alone = nn.Linear(3, 3)
    initialize_(alone, "he_normal", generator=generator())
    assert torch.equal(alone.weight, layer.weight)


def test_readout_exception_is_for_the_last_layer_only():
    model = ig.mlp(4, 3, 3, 2)
    initialize_(model, Scheme("zero output", ig.he_normal_, readout=0.0), generator=generator())
    assert not model.output.weight.any()
    assert model.hidden1.weight.all() and model.hidden2.weight.all()


def test_bias_rules():
    model = nn.Sequential(
        nn.Linear(4, 3), nn.Conv2d(4, 2, 3, groups=2), nn.Linear(3, 2, bias=False)
    )
    seen = []

    def bias(b, fans, *, generator):
        seen.append(fans)
        return nn.init.constant_(b, 1 / fans.fan_in)

    initialize_(model, Scheme("mine", 0.5, bias=bias))
    assert seen == [Fans(4, 3), Fans(18, 9)]
    assert (model[0].bias == 1 / 4).all() and (model[2].weight == 0.5).all()
    initialize_(model, Scheme("forced", weight=-5.0, bias=-10.0))
    assert (model[0].weight == -5).all() and (model[1].bias == -10).all()


@every_layer
def test_torch_functions_are_rules(kind):
    layer = LAYERS[kind]()
    initialize_(layer, Scheme("mine", nn.init.orthogonal_), generator=generator())
    for view in weight_views(layer):
        w = view.flatten(1)
        gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
        torch.testing.assert_close(gram, torch.eye(len(gram)))
    initialize_(
        layer, Scheme("mine", partial(nn.init.xavier_uniform_, gain=2)), generator=generator()
    )
    assert layer.weight.all()


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda: nn.LazyLinear(3), r"'1\.weight' has no memory.*lazy model"),
        (lambda: nn.Linear(2, 3, device="meta"), r"'1\.weight' has no memory.*to_empty"),
    ],
)
def test_weights_without_memory_leave_the_model_unchanged(broken, words):
    model = nn.Sequential(nn.Linear(2, 2), broken())
    before = model[0].weight.detach().clone()
    with pytest.raises(ValueError, match=words):
        initialize_(model, "ones")
    assert torch.equal(model[0].weight, before)


def test_unknown_scheme_leaves_the_model_unchanged():
    model = nn.Linear(2, 2)
    before = weights(model)
    with pytest.raises(ValueError, match=r"'henormal'.*he_normal.*initguide\.Scheme"):
        initialize_(model, "henormal")
    assert same(weights(model), before)


def test_a_model_without_layers():
    with pytest.raises(ValueError, match=r"BatchNorm1d.*at least one Linear.*initializers"):
        initialize_(nn.BatchNorm1d(3), "he_normal")
