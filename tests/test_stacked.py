"""Runs of a stack keep apart: dropout masks, overflow, evaluation."""

import itertools
from functools import partial

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import initguide
from initguide import Dataset, Ensemble, Scheme, datasets, logistic_regression, mlp
from initguide._stacked import Stacked
from initguide.ensemble import run_generator
from initguide.training import accuracy

torch.set_num_threads(1)  # these tensors are tiny: a second thread only waits

train = partial(initguide.train, device="cpu")  # in float64, which not every device has
evaluate = partial(initguide.evaluate, device="cpu")

P = 0.3
GENERATOR = torch.Generator().manual_seed(3)
X, X_TEST = (torch.randn(n, 5, generator=GENERATOR, dtype=torch.float64) for n in (26, 15))
LABELS, LABELS_TEST = (torch.randint(3, (n,), generator=GENERATOR) for n in (26, 15))
DRAWN = datasets.Provenance("drawn", "generated")
DATA = Dataset("drawn", X, LABELS, X_TEST, LABELS_TEST, ("a", "b", "c"), DRAWN)
BINARY = Dataset(
    "drawn", X, (X[:, :1] > 0).double(), X_TEST, (X_TEST[:, :1] > 0).double(), (), DRAWN
)
SHORT = {"epochs": 2, "lr": 0.1, "batch_size": 8}
EXACT = {"rtol": 1e-9, "atol": 1e-11}


def build(make, schemes=("he_normal", "torch_default"), seeds=(0, 3)):
    return Ensemble.build(lambda: make().double(), schemes=schemes, seeds=seeds)


with_dropout = partial(mlp, 5, 40, 6, 3, dropout=P)


class Masks(nn.Module):
    """Dropout written out, its masks drawn from a seed's stream."""

    def __init__(self, generator):
        super().__init__()
        self.generator = generator

    def forward(self, x):
        if not self.training:
            return x
        return x * (torch.rand(x.shape, generator=self.generator) >= P) / (1 - P)


def test_dropout_equals_plain_training():
    ensemble = build(with_dropout)
    history = train(ensemble, DATA, **SHORT)
    for run, (scheme, seed) in enumerate(zip(ensemble.schemes, ensemble.seeds, strict=True)):
        model = ensemble.model(scheme, seed)
        model.dropout1 = model.dropout2 = Masks(run_generator(seed, "dropout"))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        batches, losses = run_generator(seed, "batches"), []
        for _ in range(2):
            for index in torch.randperm(26, generator=batches).split(8):
                loss = F.cross_entropy(model(X[index]), LABELS[index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
        assert history.batch_loss[:, run].tolist() == pytest.approx(losses, rel=1e-9)
        test = F.cross_entropy(model.eval()(X_TEST), LABELS_TEST).item()  # no dropout there
        assert history.values["test", "loss"][-1, run].item() == pytest.approx(test, rel=1e-9)


@pytest.mark.parametrize("seeds", [[3], [5, 3], [3, 1, 0]])
@pytest.mark.parametrize("stack_size", [1, 2, None])
def test_dropout_does_not_depend_on_the_place_in_a_stack(seeds, stack_size):
    alone = train(build(with_dropout, ["he_normal"], [3]), DATA, **SHORT).batch_loss[:, 0]
    ensemble = build(with_dropout, ["zeros", "he_normal"], seeds)
    losses = train(ensemble, DATA, **SHORT, stack_size=stack_size).batch_loss
    run = list(zip(ensemble.schemes, ensemble.seeds, strict=True)).index(("he_normal", 3))
    torch.testing.assert_close(losses[:, run], alone, **EXACT)


def masked_ones(layer, shape, seeds=(0, 1), features=8, rows=6):
    """Return a copy of each batch's output where every input of the dropout layer is 1."""
    make = lambda: nn.Sequential(nn.Linear(1, features), nn.Unflatten(1, shape), layer())  # noqa: E731
    ensemble = build(make, {"a": "ones", "b": "ones"}, seeds)
    x = torch.ones(rows, 1, dtype=torch.float64)
    y = torch.zeros(rows, *shape, dtype=torch.float64)
    # Base 4 digits of the loss are the outputs, whose values are 0 and 1 / (1 - p) = 2.
    powers = 4.0 ** torch.arange(2 * features, dtype=torch.float64).reshape(2, *shape)
    history = train(
        ensemble,
        Dataset("ones", x, y, x[:2], y[:2], (), DRAWN),
        epochs=100,
        lr=0.0,
        batch_size=2,
        loss=lambda outputs, targets: (outputs * powers).sum(),
        metrics={},
    )
    digits = history.batch_loss.long()[..., None] // (4 ** torch.arange(2 * features)) % 4
    return digits.unflatten(-1, (2, *shape)), history


def test_dropout_masks_belong_to_the_seed():
    masks, history = masked_ones(lambda: nn.Dropout(0.5), (8,))
    assert set(masks.unique().tolist()) == {0, 2}  # dropped, or kept and scaled by 1 / (1 - p)
    assert torch.equal(masks[:, 0], masks[:, 1])  # the schemes of a seed
    kept = (masks[:, [0, 2]] == 2).double()
    n = kept[:, 0].numel()
    assert ((kept.mean(dim=(0, 2, 3)) - 0.5).abs() < 5 * 0.5 / n**0.5).all()
    for a, b in [(kept[:, 0], kept[:, 1]), (kept[1:, 0], kept[:-1, 0])]:  # seeds, steps
        assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 5 / n**0.5
    assert (history.values["test", "loss"] == sum(4**i for i in range(16))).all()  # all kept


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.Dropout1d, (4, 2)), (nn.Dropout2d, (4, 2, 1)), (nn.Dropout3d, (4, 1, 2, 1))],
)
def test_channel_dropout_drops_whole_channels(layer, shape):
    masks, _ = masked_ones(layer, shape)
    channels = masks.flatten(4)
    assert (channels == channels[..., :1]).all()
    assert set(channels.unique().tolist()) == {0, 2}
    assert not (channels[..., :1] == channels[..., :1, :1]).all()


def test_everything_dropped():
    history = train(build(partial(mlp, 5, 4, 3, dropout=1.0)), DATA, **SHORT)
    assert history.batch_loss.isfinite().all()


def test_a_layer_in_two_places_has_two_masks():
    drop = nn.Dropout(P)
    shared = lambda: nn.Sequential(nn.Linear(5, 9), drop, nn.Linear(9, 3), drop)  # noqa: E731
    apart = lambda: nn.Sequential(  # noqa: E731
        nn.Linear(5, 9), nn.Dropout(P), nn.Linear(9, 3), nn.Dropout(P)
    )
    left, right = (train(build(make), DATA, **SHORT) for make in (shared, apart))
    assert torch.equal(left.batch_loss, right.batch_loss)


class Called(nn.Module):
    """A linear model with something random behind it."""

    def __init__(self, random):
        super().__init__()
        self.linear = nn.Linear(5, 3)
        self.random = random() if isinstance(random, type) else None
        self.call = random

    def forward(self, x):
        x = self.linear(x)
        return self.random(self.random(x)) if self.random else self.call(x)


@pytest.mark.parametrize(
    ("random", "kind", "words"),
    [
        (nn.Dropout, ValueError, "'random' is called more than once.*layer for each place"),
        (nn.AlphaDropout, ValueError, "'random' is AlphaDropout.*Dropout1d"),
        (F.dropout, RuntimeError, r"Called draws random numbers.*nn\.Dropout layers.*by a layer"),
        (lambda x: x + torch.randn_like(x), RuntimeError, "Called draws random numbers"),
        (lambda x: x * (x.mean() > 0).item() + torch.randn(()), RuntimeError, "Called draws"),
    ],
)
def test_randomness_that_cannot_be_kept_apart(random, kind, words):
    with pytest.raises(kind, match=words):
        train(build(partial(Called, random)), DATA, **SHORT)


def test_randomness_inside_an_lstm():
    with pytest.raises(RuntimeError, match=r"Recurrent draws random numbers.*or an LSTM's"):
        train(build(partial(Recurrent, dropout=0.5, layers=2)), DATA, **SHORT)


def probabilities(activation="linear"):
    return nn.Sequential(*mlp(5, 4, 1, activation=activation), nn.Sigmoid())


def poisoned(w, *, generator):
    return nn.init.normal_(w, std=1e308, generator=generator)


TASKS = {
    "classes": (partial(mlp, 5, 6, 3), F.cross_entropy, DATA),
    "probabilities": (probabilities, F.binary_cross_entropy, BINARY),
    "module": (probabilities, nn.BCELoss(), BINARY),
    "logits": (partial(mlp, 5, 4, 1), F.binary_cross_entropy_with_logits, BINARY),
    "regression": (partial(mlp, 5, 4, 1), F.mse_loss, BINARY),
}
every_task = pytest.mark.parametrize("task", TASKS)


@every_task
def test_a_run_that_overflows_harms_no_other(task):
    make, loss, data = TASKS[task]
    mixed = build(make, [Scheme("poisoned", poisoned), "he_normal"])
    history = train(mixed, data, **SHORT, loss=loss, metrics={"again": loss})
    sick = [name == "poisoned" for name in mixed.schemes]
    well = [not each for each in sick]
    healthy = train(build(make, ["he_normal"]), data, **SHORT, loss=loss)
    torch.testing.assert_close(history.batch_loss[:, well], healthy.batch_loss, **EXACT)
    assert history.batch_loss[:, well].isfinite().all()
    assert not history.batch_loss[-1, sick].isfinite().any()
    for name in ("loss", "again"):
        assert not history.values["test", name][-1, sick].isfinite().any()
    table = evaluate(history.ensemble, data.test_inputs, data.test_targets, loss=loss)
    losses = table[table.metric == "loss"].value
    assert losses.isna().tolist() == [*map(bool, history.values["test", "loss"][-1].isnan())]


@every_task
def test_a_huge_learning_rate_is_recorded(task):
    make, loss, data = TASKS[task]
    make = partial(make, activation="relu") if make is probabilities else make
    history = train(build(make), data, epochs=4, lr=1e200, loss=loss, batch_size=8)
    assert not (history.values["test", "loss"][-1] < 10).any()


def test_a_saturated_probability_learns_as_in_torch():
    ensemble = build(partial(logistic_regression, 5), [Scheme("forced", -90.0, -200.0)], [0])
    model, order = ensemble.model("forced", 0), run_generator(0, "batches")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for index in itertools.chain(*(torch.randperm(26, generator=order).split(8) for _ in "ab")):
        optimizer.zero_grad()
        F.binary_cross_entropy(model(X[index]), BINARY.train_targets[index]).backward()
        optimizer.step()
    history = train(ensemble, BINARY, **SHORT, loss=F.binary_cross_entropy)
    trained = history.ensemble.model("forced", 0)
    torch.testing.assert_close(trained.linear.weight, model.linear.weight, **EXACT)


def test_evaluate_equals_a_plain_loop():
    rows = 2300  # more than are evaluated at once
    x = torch.randn(rows, 5, generator=GENERATOR, dtype=torch.float64)
    y = torch.randint(3, (rows,), generator=GENERATOR)
    ensemble = build(partial(mlp, 5, 6, 3, batch_norm=True, dropout=0.5))
    table = evaluate(ensemble, x, y)
    assert list(table.columns) == ["scheme", "seed", "metric", "value"] and len(table) == 8
    for scheme, seed in zip(ensemble.schemes, ensemble.seeds, strict=True):
        outputs = ensemble.model(scheme, seed).eval()(x)
        rows = table[(table.scheme == scheme) & (table.seed == seed)].set_index("metric").value
        assert rows["loss"] == pytest.approx(F.cross_entropy(outputs, y).item(), rel=1e-9)
        assert rows["accuracy"] == (outputs.argmax(1) == y).double().mean().item()  # not float32's


def recall_of_the_last_class(outputs, targets):
    relevant = targets == 2
    return ((outputs.argmax(1) == 2) & relevant).sum() / relevant.sum()


def root_mean_square(outputs, targets):
    return (outputs[:, 0] - targets).square().mean().sqrt()


METRICS = {
    "recall": recall_of_the_last_class,  # of chunks without the class: NaN
    "root": root_mean_square,
    "weighted": partial(F.cross_entropy, weight=torch.tensor([1.0, 20, 5], dtype=torch.float64)),
    "a number": lambda outputs, targets: float(outputs.max()),  # vmap takes no .item()
}


@pytest.mark.parametrize("group", [1, 2, 4])
def test_metrics_are_of_all_rows(monkeypatch, group):
    rows = 2300  # more than are evaluated at once, sorted by class
    x = torch.randn(rows, 5, generator=GENERATOR, dtype=torch.float64)
    y = torch.arange(rows) // 800
    ensemble = build(partial(mlp, 5, 6, 3, dropout=0.5))
    whole = evaluate(ensemble, x, y, metrics=METRICS, loss=METRICS["weighted"], dropout=True)
    kept = rows * 3 * 8  # bytes of a run's outputs
    monkeypatch.setattr("initguide._stacked._EVALUATION_BYTES", group * kept)
    few = evaluate(ensemble, x, y, metrics=METRICS, loss=METRICS["weighted"], dropout=True)
    pd.testing.assert_frame_equal(few, whole)
    table = evaluate(ensemble, x, y, metrics=METRICS, loss=METRICS["weighted"])
    for scheme, seed in zip(ensemble.schemes, ensemble.seeds, strict=True):
        outputs = ensemble.model(scheme, seed).eval()(x).detach()
        found = table[(table.scheme == scheme) & (table.seed == seed)].set_index("metric").value
        for name, metric in {**METRICS, "loss": METRICS["weighted"]}.items():
            assert found[name] == pytest.approx(float(metric(outputs, y)), rel=1e-9)


class Recurrent(nn.Module):
    """vmap has no rule for an LSTM, nor for BatchNorm that asks how many batches it saw."""

    def __init__(self, dropout=0.0, layers=1):
        super().__init__()
        self.lstm = nn.LSTM(1, 4, layers, batch_first=True, dropout=dropout)
        self.norm = nn.BatchNorm1d(4, momentum=None)
        self.output = nn.Linear(4, 3)

    def forward(self, x):
        return self.output(self.norm(self.lstm(x[..., None])[0][:, -1]))


class Decides(nn.Module):
    """A model whose flow depends on the values it computes."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x):
        h = self.first(x)
        return self.second(h if h.mean() > 0 else h.tanh())


class InPlace(nn.Module):
    """Centers what it is given, where it lies."""

    def __init__(self, inplace=True):
        super().__init__()
        self.register_buffer("center", torch.full((5,), 0.5))
        self.linear, self.inplace = nn.Linear(5, 3), inplace

    def forward(self, x):
        return self.linear(x.sub_(self.center) if self.inplace else x - self.center)


@pytest.mark.parametrize("order", ["per_seed", "shared"])
@pytest.mark.parametrize("make", [Recurrent, Decides, InPlace])
def test_a_model_that_vmap_does_not_take_trains_run_by_run(make, order):
    ensemble = build(make)
    history = train(ensemble, DATA, **SHORT, batch_order=order)
    for run, (scheme, seed) in enumerate(zip(ensemble.schemes, ensemble.seeds, strict=True)):
        model = ensemble.model(scheme, seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        order_of = run_generator(seed if order == "per_seed" else 0, "batches")
        losses = []
        for index in itertools.chain(
            *(torch.randperm(26, generator=order_of).split(8) for _ in "ab")
        ):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(X[index]), LABELS[index])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert history.batch_loss[:, run].tolist() == pytest.approx(losses, rel=1e-9)
        trained = history.ensemble.model(scheme, seed)
        torch.testing.assert_close(trained.state_dict(), model.state_dict(), **EXACT)
        test = F.cross_entropy(model.eval()(X_TEST.clone()), LABELS_TEST).item()
        assert history.values["test", "loss"][-1, run].item() == pytest.approx(test, rel=1e-9)


def test_a_model_runs_run_by_run_only_where_it_must():
    for make, alone in [(partial(mlp, 5, 3, batch_norm=True), False), (Recurrent, True)]:
        stacked = Stacked(build(make), F.cross_entropy, torch.device("cpu"))
        before = {n: b.clone() for n, b in stacked.buffers.items()}
        stacked.rehearse(X, LABELS, training=True)
        assert stacked.run_by_run == alone
        for name, buffer in stacked.buffers.items():
            assert torch.equal(buffer, before[name])


@pytest.mark.parametrize(
    "make",
    [
        InPlace,
        lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(5, 3)),
        lambda: nn.Sequential(nn.Hardtanh(inplace=True), nn.Dropout(P), nn.Linear(5, 3)),
    ],
    ids=["subtracts", "relu", "dropout"],
)
def test_in_place_models_and_metrics_leave_the_data_alone(make):
    def shifts(outputs, targets):
        return outputs.add_(1).sum() + targets.clamp_(max=0).sum()

    data = Dataset(
        "own", *(t.clone() for t in (X, LABELS, X_TEST, LABELS_TEST)), tuple("abc"), DRAWN
    )
    metrics = {"first": shifts, "second": shifts}
    for order in ("per_seed", "shared", "sequential"):
        history = train(build(make), data, **SHORT, batch_order=order, metrics=metrics)
        evaluate(build(make), data.test_inputs, data.test_targets, metrics=metrics, dropout=True)
    assert torch.equal(history.values["test", "first"], history.values["test", "second"])
    for left, right in [
        (data.train_inputs, X), (data.train_targets, LABELS),
        (data.test_inputs, X_TEST), (data.test_targets, LABELS_TEST),
    ]:  # fmt: skip
        assert torch.equal(left, right)


def test_evaluate_with_dropout_left_on():
    ensemble = build(with_dropout)
    off, on, again = (
        evaluate(ensemble, X, LABELS, metrics={}, dropout=dropout).value
        for dropout in (False, True, True)
    )
    assert on.equals(again) and not (on == off).any()
    state = torch.get_rng_state()
    alone = evaluate(ensemble.select([3]), X, LABELS, metrics={}, dropout=True).value
    assert torch.equal(torch.get_rng_state(), state)
    assert alone.tolist() == pytest.approx(on[3:].tolist(), rel=1e-9)


def test_accuracy():
    scores = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    assert accuracy(scores, torch.tensor([1, 0, 0, 0])) == 0.75
    column = scores[:, 1:]
    assert accuracy(column, torch.tensor([[1.0], [0.0], [0.0], [0.0]])) == 0.75
    assert accuracy(column - 0.5, torch.tensor([[1.0], [0.0], [1.0], [0.0]]), threshold=0) == 1


@pytest.mark.parametrize("loss", [F.binary_cross_entropy_with_logits, nn.BCEWithLogitsLoss()])
def test_accuracy_of_logits_is_told_by_their_sign(loss):
    ensemble = build(partial(mlp, 5, 1), ["he_normal"], [0])
    targets = BINARY.train_targets
    table = evaluate(ensemble, X, targets, loss=loss).set_index("metric").value
    right = ((ensemble.model("he_normal", 0)(X) > 0) == (targets > 0)).double().mean()
    assert table["accuracy"] == pytest.approx(right.item(), abs=1e-6)


def test_whatever_device_the_machine_has():
    ensemble = Ensemble.build(with_dropout, schemes=["he_normal", "torch_default"], seeds=[0, 3])
    parts = [t.float() if t.is_floating_point() else t for t in (X, LABELS, X_TEST, LABELS_TEST)]
    data = Dataset("drawn", *parts, DATA.classes, DRAWN)
    here, there = (initguide.train(ensemble, data, **SHORT, device=d) for d in ("cpu", "auto"))
    torch.testing.assert_close(here.batch_loss, there.batch_loss, rtol=1e-3, atol=1e-5)
    assert all(p.device.type == "cpu" for p in there.ensemble.parameters.values())
    left, right = (
        initguide.evaluate(there.ensemble, *parts[2:], dropout=True, metrics={}, device=d)
        for d in ("cpu", "auto")
    )
    assert left.value.tolist() == pytest.approx(right.value.tolist(), rel=1e-3)
