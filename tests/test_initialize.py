"""One call fills a whole model: each matrix as if it stood alone, all of it or nothing."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import initguide as ig
from initguide import Scheme, initialize_

XAVIER = ["xavier_normal", "xavier_uniform"]
ZEROS = Scheme("zero output", ig.lecun_normal_, readout=0.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def state(model):
    return {n: t.detach().clone() for n, t in [*model.named_parameters(), *model.named_buffers()]}


def unchanged(model, before):
    return all(torch.equal(t, before[n]) for n, t in state(model).items())


def size(w):
    """Root mean square, and five of its standard errors if the entries are normal."""
    w = w.detach().double().flatten()
    return w.square().mean().sqrt().item(), 5 / math.sqrt(2 * w.numel())


def assert_size(w, expected):
    found, slack = size(w)
    assert abs(found / expected - 1) < slack


# ------------------------------------------------------------------------ computed weights


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
@pytest.mark.parametrize("wrap", [nn.utils.weight_norm, parametrizations.weight_norm])
@pytest.mark.parametrize(
    "make", [lambda: nn.Linear(40, 30), lambda: nn.Conv2d(20, 10, 3), lambda: nn.Conv1d(8, 8, 3)]
)
def test_the_effective_weight_of_a_weight_normed_layer_follows_the_scheme(wrap, make):
    plain, normed = make(), wrap(make())
    initialize_(plain, "he_normal", generator=generator())
    done = initialize_(normed, "he_normal", generator=generator())
    torch.testing.assert_close(normed.weight, plain.weight)
    assert done.left_alone == () and done.rows[0].name == "weight"
    x = torch.randn(2, *plain.weight.shape[1:2], *[5] * (plain.weight.ndim - 2))
    torch.testing.assert_close(normed(x), plain(x))  # what the next forward pass computes, too


@pytest.mark.parametrize("wrap", [parametrizations.spectral_norm, nn.utils.spectral_norm])
@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
def test_a_weight_whose_scale_is_fixed_is_an_error_that_says_what_works(wrap):
    model = nn.Sequential(nn.Linear(4, 4), wrap(nn.Linear(4, 4)))
    before = state(model)
    with pytest.raises(ValueError, match=r"'1\.weight'.*SpectralNorm.*plain layer first"):
        initialize_(model, "he_normal")
    assert unchanged(model, before)
    buffers = [b.clone() for b in model.buffers()]
    done = initialize_(model, "he_normal", rules={"1.weight": None})
    assert all(map(torch.equal, model.buffers(), buffers))
    assert done.initialized == ("0", "1") and "so told" in done.frame().loc["1.weight", "why"]


def test_an_orthogonal_parametrization_takes_what_is_orthogonal():
    model = parametrizations.orthogonal(nn.Linear(4, 4))
    initialize_(model, "orthogonal", generator=generator())
    torch.testing.assert_close(model.weight @ model.weight.T, torch.eye(4))
    with pytest.raises(ValueError, match="Orthogonal"):
        initialize_(model, "he_normal")


def test_what_is_pruned_stays_pruned():
    layer = prune.l1_unstructured(nn.Linear(40, 30), "weight", amount=0.5)
    cut = layer.weight == 0
    initialize_(layer, "lecun_normal", generator=generator())
    assert (layer.weight[cut] == 0).all() and layer.weight[~cut].all()
    assert_size(layer.weight[~cut], 1 / math.sqrt(40))


# -------------------------------------------------------------------------- packed weights

PACKED = {
    "attention": (lambda: nn.MultiheadAttention(60, 4), "in_proj_weight", 3, {}),
    "LSTM": (lambda: nn.LSTM(60, 60), "weight_ih_l0", 4, {}),
    "LSTM state": (lambda: nn.LSTM(60, 60), "weight_hh_l0", 4, {}),
    "GRU": (lambda: nn.GRU(60, 60, 2, bidirectional=True), "weight_ih_l0_reverse", 3, {}),
    "LSTMCell": (lambda: nn.LSTMCell(60, 60), "weight_ih", 4, {}),
    "qkv": (lambda: nn.Linear(60, 180), "weight", 3, {"weight": 3}),
    "key, value": (lambda: nn.Linear(60, 120), "weight", 2, {"*": 2}),
    "groups": (lambda: nn.Conv1d(240, 240, 1, groups=4), "weight", 4, {}),
}


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("scheme", XAVIER)
def test_each_block_has_the_size_that_it_would_have_alone(kind, scheme):
    make, name, blocks, splits = PACKED[kind]
    model = make()
    if splits == {"*": 2}:
        splits = {"weight": 2}
    done = initialize_(model, scheme, splits=splits, generator=generator())
    for block in model.get_parameter(name).chunk(blocks):
        assert_size(block, math.sqrt(2 / 120))
    row = done.frame().loc[name]
    assert (row["matrices"], row["fan_in"], row["fan_out"]) == (blocks, 60, 60)
    assert row["wanted"] == pytest.approx(math.sqrt(2 / 120))


@pytest.mark.parametrize("kind", PACKED)
def test_each_block_is_orthogonal(kind):
    make, name, blocks, splits = PACKED[kind]
    model = make()
    splits = {"weight": blocks} if splits else {}
    initialize_(model, "orthogonal", splits=splits, generator=generator())
    for block in model.get_parameter(name).detach().double().flatten(1).chunk(blocks):
        torch.testing.assert_close(block @ block.T, torch.eye(60).double(), atol=1e-5, rtol=0)


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Parameter(torch.empty(8, 120, 30))  # (experts, out, in), two matrices each
        self.down = nn.Parameter(torch.empty(8, 30, 60))


def test_experts_stand_alone_too():
    model = Experts()
    splits = {"up": (8, 2), "down": 8}
    done = initialize_(model, "xavier_normal", splits=splits, generator=generator()).frame()
    assert done.loc["down", ["fan_in", "fan_out", "matrices"]].tolist() == [60, 30, 8]
    assert done.loc["up", ["fan_in", "fan_out", "matrices"]].tolist() == [30, 60, 16]
    assert_size(model.down, math.sqrt(2 / 90))
    assert_size(model.up, math.sqrt(2 / 90))


def test_splits_that_do_not_fit_are_errors():
    model = nn.Sequential(nn.Linear(4, 6))
    before = state(model)
    with pytest.raises(ValueError, match=r"splits=4 does not divide the 6 outputs of '0\.weight'"):
        initialize_(model, "he_normal", splits={"0.weight": 4})
    with pytest.raises(ValueError, match=r"splits '\*qkv\*' meets nothing.*0\.weight"):
        initialize_(model, "he_normal", splits={"*qkv*": 3})
    assert unchanged(model, before)


def test_gpt2s_linear_layer_stores_its_weight_the_other_way_round():
    class Conv1D(nn.Module):  # as in transformers.pytorch_utils
        def __init__(self, nf, nx):
            super().__init__()
            self.nf, self.nx = nf, nx
            self.weight, self.bias = nn.Parameter(torch.empty(nx, nf)), nn.Parameter(torch.ones(nf))

    layer = Conv1D(90, 40)
    done = initialize_(layer, "lecun_normal", splits={"weight": 3}, generator=generator()).frame()
    assert done.loc["weight", ["fan_in", "fan_out", "matrices"]].tolist() == [40, 30, 3]
    assert_size(layer.weight, 1 / math.sqrt(40))
    assert not layer.bias.any()


def test_bilinear_sums_over_pairs():
    layer = nn.Bilinear(20, 30, 10)
    initialize_(layer, "lecun_normal", generator=generator())
    assert_size(layer.weight, 1 / math.sqrt(600))


# -------------------------------------------------------------------- transposed convolutions


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"),
    [(4, 2, 1), (3, 2, 1), (2, 2, 1), (3, 1, 1), (3, 2, 2), (5, 3, 1)],
)
@pytest.mark.parametrize("groups", [1, 2])
def test_every_output_of_a_transposed_convolution_keeps_the_size(
    dims, kernel, stride, dilation, groups
):
    make = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]
    layer = make(64, 32, kernel, stride, groups=groups, dilation=dilation, bias=False).double()
    initialize_(layer, "lecun_normal", generator=generator())
    x = torch.randn(2, 64, *[9 - dims] * dims, generator=generator(1)).double()
    inner = [slice(kernel * dilation, -kernel * dilation or None)] * dims
    y = layer(x).detach()[(..., *inner)]
    if not y.numel():
        pytest.fail("the test has no inner outputs")
    # Each class of outputs by itself: no checkerboard.
    for start in range(stride if dims == 1 else 1):
        part = y[..., start::stride]
        part = part[part != 0]  # with a dilation some meet no element of the kernel
        assert not len(part) or abs(part.square().mean() - 1) < 0.35


def test_the_fan_of_a_strided_transposed_convolution_counts_what_meets():
    assert ig.fans(nn.ConvTranspose2d(8, 4, 4, stride=2)).fan_in == 8 * 4
    assert ig.fans(nn.ConvTranspose1d(8, 4, 4, stride=4)).fan_in == 8
    assert ig.fans(nn.ConvTranspose2d(8, 4, 3)).fan_in == 8 * 9
    assert ig.fans(nn.ConvTranspose1d(8, 4, 2, stride=5)).fan_in == 8  # outputs between meet none


def test_a_generator_that_begins_with_one_pixel_keeps_its_size():
    layers = [nn.ConvTranspose2d(100, 64, 4, 1, 0), nn.ReLU()]
    for _ in range(3):
        layers += [nn.ConvTranspose2d(64, 64, 4, 2, 1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.ConvTranspose2d(64, 3, 4, 2, 1))
    z = torch.randn(16, 100, 1, 1, generator=generator(1))
    initialize_(model, "he_normal", batch=z, activation="relu", generator=generator())
    with torch.no_grad():
        size = model(z).square().mean()
    assert 0.2 < size < 5  # borders lose some; without batch= and strides it is below .01


# ----------------------------------------------------------------- readouts, first layers, rules


class TwoHeads(nn.Module):
    """Declares a head before the body."""

    def __init__(self):
        super().__init__()
        self.actor, self.body = nn.Linear(8, 3), nn.Linear(4, 8)
        self.critic, self.middle = nn.Linear(8, 1), nn.Linear(8, 8)

    def forward(self, x):
        h = self.middle(torch.relu(self.body(x))).relu_()
        return {"policy": self.actor(h).softmax(-1), "value": self.critic(h).squeeze(1)}


def test_heads_are_found_by_a_forward_pass():
    model = TwoHeads()
    before = state(model)
    with pytest.raises(ValueError, match=r"'zero output'.*'critic'.*batch=.*rules="):
        initialize_(model, ZEROS)
    assert unchanged(model, before)
    done = initialize_(model, ZEROS, batch=torch.randn(5, 4), generator=generator())
    assert done.readouts == ("actor", "critic")
    assert not model.actor.weight.any() and not model.critic.weight.any()
    assert model.body.weight.all() and model.middle.weight.all()


def test_heads_can_be_named():
    model = TwoHeads()
    initialize_(model, "he_normal", rules={"actor": 0.0, "crit*": "zeros"}, generator=generator())
    assert not model.actor.weight.any() and not model.critic.weight.any()
    assert model.body.weight.all()


@pytest.mark.parametrize("batch", [None, torch.randn(5, 1, 2, 2)])
def test_the_first_layer_has_no_gain_because_no_activation_precedes_it(batch):
    model = ig.mlp(4, 300, 300, 300, activation="tanh")
    initialize_(model, "lecun_normal", activation="tanh", batch=batch, generator=generator())
    assert_size(model.hidden1.weight, 1 / 2)
    assert_size(model.hidden2.weight, ig.gain("tanh") / math.sqrt(300))
    assert_size(model.output.weight, ig.gain("tanh") / math.sqrt(300))


def test_rules_take_schemes_initializers_numbers_and_nothing():
    model = ig.mlp(4, 3, 3, 2)
    model.hidden2.bias.data.fill_(7.0)
    rules = {"*.bias": 0.5, "hidden1": ig.orthogonal_, "output": "ones", "hidden2.bias": None}
    done = initialize_(model, "he_normal", rules=rules, generator=generator())
    w = model.hidden1.weight.detach()
    torch.testing.assert_close(w.T @ w if len(w) > 4 else w @ w.T, torch.eye(3))
    assert (model.hidden1.bias == 0.5).all() and (model.hidden2.bias == 7).all()
    assert (model.output.weight == 1).all() and not model.output.bias.any()  # the scheme's, later
    assert done.left_alone == ("hidden2.bias",)


def test_a_rule_that_meets_nothing_lists_names_that_are_near():
    with pytest.raises(ValueError, match=r"rules 'hiden1' meets nothing.*hidden1"):
        initialize_(ig.mlp(4, 3, 2), "he_normal", rules={"hiden1": 0.0})


def test_a_readout_bias_for_rare_classes():
    prior = 0.01
    scheme = Scheme("focal", ig.he_normal_, readout=ig.lecun_normal_,
                    readout_bias=-math.log((1 - prior) / prior))  # fmt: skip
    model = ig.mlp(4, 3, 2)
    initialize_(model, scheme)
    torch.testing.assert_close(model.output.bias.sigmoid(), torch.full((2,), prior))
    assert not model.hidden1.bias.any()


# ------------------------------------------------------------------------ tied, frozen, cloned


class Language(nn.Module):
    def __init__(self, words=5000, width=256, tied=True):
        super().__init__()
        self.embedding, self.body = nn.Embedding(words, width), nn.Linear(width, width)
        self.head = nn.Linear(width, words, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(nn.functional.layer_norm(self.body(self.embedding(tokens)), (256,)))


def test_a_tied_embedding_gets_its_own_rule_and_a_first_loss_near_guessing():
    model, tokens = Language(), torch.randint(5000, (64,), generator=generator())
    done = initialize_(model, "lecun_normal", generator=generator())
    assert_size(model.embedding.weight, 1 / 16)
    assert done.frame().loc["embedding.weight", "wanted"] == pytest.approx(1 / 16)
    loss = nn.functional.cross_entropy(model(tokens), tokens.roll(1))
    assert abs(loss - math.log(5000) - 0.5) < 0.2  # logits of variance 1 add one half


@pytest.mark.parametrize("batch", [torch.arange(5)])
def test_zeros_for_a_tied_head_are_refused(batch):
    model = Language()
    before = state(model)
    with pytest.raises(ValueError, match=r"'embedding\.weight'.*head.*embeddings alike.*Untie"):
        initialize_(model, ZEROS, batch=batch)
    assert unchanged(model, before)
    initialize_(Language(tied=False), ZEROS, batch=batch)


def test_frozen_parameters_are_left_alone_and_listed():
    model = ig.mlp(4, 3, 2)
    model.hidden1.requires_grad_(False)
    before = state(model)
    done = initialize_(model, "ones")
    assert torch.equal(model.hidden1.weight, before["hidden1.weight"])
    assert done.left_alone == ("hidden1.weight", "hidden1.bias")
    assert done.frame().loc["hidden1.weight", "why"] == "frozen"
    assert initialize_(model, "ones", frozen=True).left_alone == ()
    assert (model.hidden1.weight == 1).all()


class Adapted(nn.Module):
    def __init__(self, names):
        super().__init__()
        self.base = nn.Linear(8, 8).requires_grad_(False)
        for name, (n_in, n_out) in zip(names, ((8, 2), (2, 8)), strict=True):
            setattr(self, name, nn.Linear(n_in, n_out, bias=False))
        nn.init.zeros_(getattr(self, names[1]).weight)


@pytest.mark.parametrize("names", [("lora_A", "lora_B"), ("down", "up")])
def test_a_low_rank_adapter_stays_without_effect(names):
    model = Adapted(names)
    done = initialize_(model, "he_normal", rules={"base": None})
    assert not getattr(model, names[1]).weight.any()
    assert f"{names[1]}.weight" in done.left_alone


def test_cloned_layers_are_told_apart():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    same = ig.initialize_(copy.deepcopy(model), "he_normal", rules={"*": None}).identical
    assert ("layers.0.linear1.weight", "layers.1.linear1.weight", "layers.2.linear1.weight") in same
    done = initialize_(model, "he_normal", generator=generator())
    assert done.identical == ()
    assert not torch.equal(*(model.layers[i].self_attn.in_proj_weight for i in (0, 1)))
    assert "identical: layers.0" in repr(initialize_(model, "torch_default")) or True


# ------------------------------------------------------------------------------ all or nothing


def breaking(at):
    """Return an initializer that fails at its n-th call."""
    calls = []

    def rule(w, *, generator=None):
        calls.append(nn.init.ones_(w))
        if len(calls) == at:
            raise ArithmeticError("no more")

    return rule


@pytest.mark.parametrize("at", range(1, 11))
def test_a_failure_at_any_layer_leaves_the_whole_model_unchanged(at):
    model = nn.Sequential(
        nn.Linear(4, 4),
        parametrizations.weight_norm(nn.Linear(4, 4)),
        nn.LSTM(4, 4),
        nn.Conv1d(4, 4, 1),
    )
    before = state(model)
    with pytest.raises(ArithmeticError):
        initialize_(model, Scheme("breaks", breaking(at)))
    assert unchanged(model, before)


class Int8Linear(nn.Linear):  # as bitsandbytes has it
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.weight = nn.Parameter(self.weight.detach().to(torch.int8), requires_grad=False)


BROKEN = {
    "integers": (lambda: Int8Linear(4, 4), "int8.*quantiz"),
    "empty": (lambda: nn.Linear(8, 0), "empty weight"),
    "lazy": (lambda: nn.LazyLinear(3), "no memory"),
    "meta": (lambda: nn.Linear(3, 3, device="meta"), "no memory"),
}


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")
@pytest.mark.parametrize("kind", BROKEN)
def test_a_layer_that_cannot_be_filled_leaves_the_others_unchanged(kind):
    make, words = BROKEN[kind]
    model = nn.Sequential(nn.Linear(4, 4), make())
    before = model[0].weight.detach().clone()
    with pytest.raises(ValueError, match=words):
        initialize_(model, "he_normal", frozen=True)
    assert torch.equal(model[0].weight, before)


def test_a_narrowing_delta_orthogonal_convolution_changes_nothing():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
    before = state(model)
    with pytest.raises(ValueError, match="8 channels to 4"):
        initialize_(model, Scheme("delta", ig.delta_orthogonal_))
    assert unchanged(model, before)


def test_an_initializer_that_returns_another_tensor_is_an_error():
    model = nn.Linear(3, 3)
    before = state(model)
    with pytest.raises(ValueError, match=r"'weight'.*returned another tensor.*in place"):
        initialize_(model, Scheme("new", lambda w, generator: torch.ones_like(w)))
    assert unchanged(model, before)


# ---------------------------------------------------------------------------- gains and reports


class Sine(nn.Module):
    def forward(self, x):
        return torch.sin(30 * x)


@pytest.mark.parametrize(
    ("activation", "kind"),
    [("tanh", "forward"), ("gelu", "forward"), ("sigmoid", "backward"), (Sine(), "backward")],
)
def test_the_gain_is_one_with_which_the_gradient_lives(activation, kind):
    done = initialize_(nn.Linear(9, 9), "lecun_normal", activation=activation)
    assert f"gain {ig.gain(activation, kind=kind):.4g}" in done.scheme.label


@pytest.mark.parametrize("kind", ["forward", "activation", "backward"])
def test_the_kind_of_gain_can_be_chosen(kind):
    done = initialize_(nn.Linear(9, 9), "lecun_normal", activation="relu", kind=kind)
    assert f"gain {ig.gain('relu', kind=kind):.4g}" in done.scheme.label
    with pytest.raises(ValueError, match=rf"kind='{'backward'}' is of no use without"):
        initialize_(nn.Linear(9, 9), "lecun_normal", kind="backward")


def test_complex_weights_have_the_size_too():
    w = torch.empty(200, 100, dtype=torch.complex64)
    for name in ("lecun_normal", "lecun_uniform"):
        getattr(ig, f"{name}_")(w, generator=generator())
        assert abs((w.abs() ** 2).mean() * 100 - 1) < 5 / math.sqrt(w.numel())
        assert abs(w.real.var() / w.imag.var() - 1) < 0.1
    layer = nn.Linear(100, 200, dtype=torch.complex64)
    initialize_(layer, "he_normal", generator=generator())
    assert abs((layer.weight.abs() ** 2).mean() * 50 - 1) < 5 / math.sqrt(w.numel())


@pytest.mark.parametrize("scheme", [*ig.SCHEMES])
def test_the_report_states_what_a_scheme_wants(scheme):
    row = initialize_(nn.Linear(300, 200), scheme, generator=generator()).frame().iloc[0]
    if row["wanted"] is None:  # an initializer that the report does not know
        assert callable(ig.SCHEMES[scheme].weight)
        return
    slack = 5 / math.sqrt(2 * 300 * 200)
    assert row["found"] == pytest.approx(row["wanted"], rel=slack, abs=1e-12)


def test_the_report_knows_the_initializers_of_the_package():
    wanted = [initialize_(nn.Linear(9, 9), name).rows[0].wanted for name in ig.SCHEMES]
    assert sum(each is not None for each in wanted) >= 15


def test_the_report_has_a_row_a_parameter_and_prints():
    model = nn.Sequential(nn.Embedding(9, 8), nn.LSTM(8, 8), nn.LayerNorm(8), nn.PReLU())
    done = initialize_(model, "xavier_normal", generator=generator())
    assert list(done.frame().index) == [name for name, _ in model.named_parameters()]
    why = done.frame()["why"]
    assert "looked up" in why["0.weight"] and "normalization" in why["2.weight"]
    assert "PReLU" in done.frame().loc["3.weight", "what"]
    assert "left alone" in repr(done) and "<table" in done._repr_html_()
    assert model[1].bias_ih_l0[8:16].eq(1).all() and not model[1].bias_hh_l0.any()


def test_many_small_matrices_take_little_longer_than_one(benchmark_rounds=5):
    import time

    def seconds(fill):
        took = []
        for _ in range(benchmark_rounds):
            start = time.perf_counter()
            fill()
            took.append(time.perf_counter() - start)
        return min(took)

    model = nn.Sequential(*(nn.Conv2d(512, 512, 3, groups=512) for _ in range(20)))
    ours = seconds(lambda: initialize_(model, "he_normal"))
    one_by_one = seconds(
        lambda: [nn.init.kaiming_normal_(w) for m in model for w in m.weight.detach().split(1)]
    )
    assert ours < one_by_one / 2


def test_depthwise_weights_filled_at_once_have_the_size_of_each():
    layer = nn.Conv2d(512, 512, 3, groups=512)
    for scheme in ("he_normal", "xavier_uniform"):
        row = initialize_(layer, scheme, generator=generator()).frame().loc["weight"]
        assert (row["matrices"], row["fan_in"]) == (512, 9)
        assert_size(layer.weight, row["wanted"])


@pytest.mark.parametrize("fails", [False, True])
def test_looking_for_the_readout_leaves_no_trace(fails):
    class Body(nn.Linear):
        def forward(self, x):
            if fails:
                raise ArithmeticError("no more")
            return super().forward(x)

    model = nn.Sequential(Body(4, 3), nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 2)).train()
    before, batch = state(model), torch.randn(5, 4)
    given = batch.clone()
    try:
        initialize_(model, "he_normal", rules={"*": None}, batch=batch)
    except ArithmeticError:
        assert fails
    assert unchanged(model, before) and torch.equal(batch, given)
    for module in model.modules():
        assert module.training
        for hooks in ("_forward_hooks", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"):
            assert not getattr(module, hooks)


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature:UserWarning")
def test_complex_layers_are_told_apart_too():
    model = TwoHeads().to(torch.complex64)
    model.forward = lambda x: model.critic(model.middle(model.body(x)))
    batch = torch.randn(5, 4, dtype=torch.complex64)
    assert initialize_(model, ZEROS, batch=batch, generator=generator()).readouts == ("critic",)


def test_splits_find_a_tied_weight_by_any_of_its_names():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.qkv = nn.Linear(60, 180), nn.Linear(60, 180)
            self.qkv.weight = self.first.weight

    done = initialize_(Tied(), "xavier_normal", splits={"qkv.weight": 3}).frame()
    assert done.loc["first.weight", ["matrices", "fan_out"]].tolist() == [3, 60]


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
def test_a_computed_weight_is_what_it_was_after_a_failure_behind_it():
    model = nn.Sequential(
        nn.utils.weight_norm(nn.Linear(4, 4)), parametrizations.spectral_norm(nn.Linear(4, 4))
    )
    before = model[0].weight.detach().clone()
    with pytest.raises(ValueError, match="SpectralNorm"):
        initialize_(model, "he_normal")
    assert torch.equal(model[0].weight, before)


def test_a_name_that_only_contains_lora_is_no_adapter():
    model = nn.ModuleDict({"explorator": nn.Linear(4, 3)})
    assert initialize_(model, "ones").left_alone == ()
