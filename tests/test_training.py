"""Training many runs at once equals training each alone, in plain PyTorch."""

import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import StepLR

import initguide
from initguide import Dataset, Ensemble, datasets, logistic_regression, mlp
from initguide.ensemble import run_generator
from initguide.training import accuracy

torch.set_num_threads(1)  # these tensors are tiny: a second thread only waits

train = partial(initguide.train, device="cpu")  # in float64, which not every device has
NESTEROV = partial(torch.optim.SGD, momentum=0.9, nesterov=True, weight_decay=1e-3)


def make_data(targets="labels", shape=(5,), rows=26, dtype=torch.float64):
    g = torch.Generator().manual_seed(5)
    x, x_test = (torch.randn(n, *shape, generator=g, dtype=dtype) for n in (rows, 15))
    y, y_test = (
        torch.randint(3, (n,), generator=g) if targets == "labels"
        else torch.randint(2, (n, 1), generator=g).to(dtype) if targets == "binary"
        else torch.randn(n, 2, generator=g, dtype=dtype)
        for n in (rows, 15)
    )  # fmt: skip
    source = datasets.Provenance("drawn", "generated")
    return Dataset("drawn", x, y, x_test, y_test, ("a", "b", "c"), source)


def convolutional():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.ConvTranspose2d(4, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(27, 3),
    )  # fmt: skip


def frozen():
    model = mlp(5, 6, 3)
    model.hidden1.requires_grad_(False)
    return model


TASKS = {
    "classes": (lambda: mlp(5, 6, 3, activation="tanh"), F.cross_entropy, make_data()),
    "probabilities": (partial(logistic_regression, 5), F.binary_cross_entropy, make_data("binary")),
    "logits": (partial(mlp, 5, 4, 1), F.binary_cross_entropy_with_logits, make_data("binary")),
    "regression": (partial(mlp, 5, 4, 2, activation="gelu"), nn.MSELoss(), make_data("real")),
    "batch norm": (partial(mlp, 5, 6, 3, batch_norm=True), nn.CrossEntropyLoss(), make_data()),
    "images": (convolutional, F.cross_entropy, make_data(shape=(2, 6, 6))),
}
# A bias before batch normalization has no gradient but rounding; Adam would make steps of it.
ADAM = partial(torch.optim.Adam, eps=1e-2)


def build(make, schemes=("he_normal", "torch_default"), seeds=(0, 3)):
    return Ensemble.build(lambda: make().double(), schemes=schemes, seeds=seeds)


def train_plainly(model, data, seed, *, epochs, lr, optimizer, scheduler, loss, batch_size=8):
    """Train one model the way a reader would write it; return the losses."""
    optimizer = optimizer(model.parameters(), lr=lr)
    scheduler = scheduler(optimizer) if scheduler else None
    g, losses = run_generator(seed, "batches"), []
    for _ in range(epochs):
        for index in torch.randperm(len(data.train_inputs), generator=g).split(batch_size):
            model.train()
            optimizer.zero_grad()
            value = loss(model(data.train_inputs[index]), data.train_targets[index])
            value.backward()
            optimizer.step()
            losses.append(value.item())
        if scheduler:
            scheduler.step()
    return losses


def assert_same_history(left, right, **tolerance):
    close = partial(torch.testing.assert_close, equal_nan=True, **tolerance)
    assert (left.ensemble.schemes, left.ensemble.seeds) == (
        right.ensemble.schemes,
        right.ensemble.seeds,
    )
    assert left.steps == right.steps and left.protocol == right.protocol
    close(left.batch_loss, right.batch_loss)
    close(dict(left.values), dict(right.values))
    close(dict(left.ensemble.parameters), dict(right.ensemble.parameters))
    close(dict(left.ensemble.buffers), dict(right.ensemble.buffers))


EXACT = {"rtol": 1e-9, "atol": 1e-11}
SHORT = {"epochs": 2, "lr": 0.1, "batch_size": 8}


@pytest.mark.parametrize("optimizer", [NESTEROV, ADAM], ids=["nesterov", "adam"])
@pytest.mark.parametrize("task", TASKS)
def test_equals_plain_training(task, optimizer):
    make, loss, data = TASKS[task]
    how = {
        "epochs": 3,
        "lr": 0.02,
        "optimizer": optimizer,
        "scheduler": partial(StepLR, step_size=1, gamma=0.5) if optimizer is NESTEROV else None,
        "loss": loss,
        "batch_size": 8,  # of 26 rows: the last batch has two
    }
    ensemble = build(make)
    history = train(ensemble, data, **how)
    for run, (scheme, seed) in enumerate(zip(ensemble.schemes, ensemble.seeds, strict=True)):
        model = ensemble.model(scheme, seed)
        losses = train_plainly(model, data, seed, **how)
        assert history.batch_loss[:, run].tolist() == pytest.approx(losses, rel=1e-9)
        trained = history.ensemble.model(scheme, seed)
        torch.testing.assert_close(trained.state_dict(), model.state_dict(), **EXACT)
        with torch.no_grad():
            test = loss(model.eval()(data.test_inputs), data.test_targets).item()
        assert history.values["test", "loss"][-1, run].item() == pytest.approx(test, rel=1e-9)


@pytest.mark.parametrize("task", ["classes", "images"])
@pytest.mark.parametrize("stack_size", [1, 3, 4, 100])
def test_stack_size_changes_nothing(task, stack_size):
    make, loss, data = TASKS[task]
    ensemble = build(make, seeds=(0, 3, 5))
    whole = train(ensemble, data, **SHORT, loss=loss, evaluate_every=3)
    parts = train(ensemble, data, **SHORT, loss=loss, evaluate_every=3, stack_size=stack_size)
    assert_same_history(whole, parts, **EXACT)


def test_a_run_alone_is_the_same_run():
    make, loss, data = TASKS["batch norm"]
    ensemble = build(make, seeds=(2, 0, 1))
    together = train(ensemble, data, **SHORT, loss=loss)
    for run in range(len(ensemble)):
        alone = train(ensemble.select([run]), data, **SHORT, loss=loss)
        torch.testing.assert_close(together.batch_loss[:, [run]], alone.batch_loss, **EXACT)
        for name, p in alone.ensemble.parameters.items():
            torch.testing.assert_close(together.ensemble.parameters[name][[run]], p, **EXACT)


def test_threads_change_nothing_but_rounding():
    make, loss, data = TASKS["classes"]
    histories, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            histories.append(train(build(make), data, **SHORT, loss=loss))
    finally:
        torch.set_num_threads(before)
    for history in histories[1:]:
        assert_same_history(histories[0], history, **EXACT)


def test_batch_orders():
    rows = torch.arange(26.0, dtype=torch.float64)
    data = Dataset(
        "rows",
        rows[:, None],
        rows[:, None],
        rows[:, None],
        rows[:, None],
        (),
        make_data().provenance,
    )
    ensemble = build(lambda: mlp(1, 1), ["zeros", "he_normal"], (0, 3))

    def means(order):
        losses = train(
            ensemble, data, epochs=2, lr=0.0, batch_size=8, batch_order=order,
            loss=lambda outputs, targets: targets.mean() + 0 * outputs.sum(), metrics={},
        ).batch_loss  # fmt: skip
        assert losses.shape == (8, 4)
        sizes = torch.tensor([8, 8, 8, 2] * 2, dtype=torch.float64)
        torch.testing.assert_close(sizes @ losses, torch.full((4,), 2 * 25 * 26 / 2).double())
        return losses

    sequential, shared, per_seed = means("sequential"), means("shared"), means("per_seed")
    assert sequential[:, 0].tolist() == [3.5, 11.5, 19.5, 24.5] * 2
    for same in (sequential, shared):
        assert (same == same[:, :1]).all()
    assert not torch.equal(shared[:4], shared[4:]) and not torch.equal(shared[:4], sequential[:4])
    assert torch.equal(per_seed[:, 0], per_seed[:, 1])  # the schemes of a seed
    assert not torch.equal(per_seed[:, 0], per_seed[:, 2])


@pytest.mark.parametrize(
    ("every", "steps"),
    [(None, (0, 8)), (3, (0, 3, 6, 8)), (4, (0, 4, 8)), (1, tuple(range(9))), (50, (0, 8))],
)
def test_evaluations_and_the_frame(every, steps):
    make, _, data = TASKS["classes"]
    observed = []

    def observe(ensemble):
        observed.append(ensemble)
        return {"norm": ensemble.parameters["output.weight"].flatten(1).norm(dim=1)}

    metrics = {"accuracy": accuracy, "top": lambda outputs, targets: outputs.max()}
    history = train(
        build(make), data, **SHORT, evaluate_every=every, metrics=metrics, observe=observe
    )
    assert history.steps == steps
    frame = history.frame()
    assert list(frame.columns) == ["scheme", "seed", "step", "split", "metric", "value"]
    assert len(frame) == len(steps) * 4 * 4 and not frame.duplicated().any()
    assert set(zip(frame.split, frame.metric, strict=True)) == {
        ("test", "loss"), ("test", "accuracy"), ("test", "top"), ("model", "norm"),
    }  # fmt: skip
    for when, ensemble in zip(steps, observed, strict=True):  # each snapshot stays what it was
        for scheme in ("he_normal", "torch_default"):
            model, at = (
                ensemble.model(scheme, 3).eval(),
                {"scheme": scheme, "seed": 3, "step": when},
            )
            outputs = model(data.test_inputs)
            assert pick(frame, at, "loss") == pytest.approx(
                F.cross_entropy(outputs, data.test_targets).item()
            )
            right = (outputs.argmax(1) == data.test_targets).double().mean().item()
            assert pick(frame, at, "accuracy") == pytest.approx(right, abs=1e-6)
            assert pick(frame, at, "top") == pytest.approx(outputs.max().item())
            assert pick(frame, at, "norm") == pytest.approx(model.output.weight.norm().item())


def pick(frame, at, metric):
    rows = (frame[list(at)] == pd.Series(at)).all(axis=1) & (frame.metric == metric)
    return frame.value[rows].item()


def test_the_frame_of_batches():
    make, _, data = TASKS["classes"]
    history = train(build(make), data, **SHORT)
    frame = history.frame(batches=True)
    assert set(frame.split) == {"batch"} and set(frame.metric) == {"loss"}
    wide = frame.pivot(index="step", columns=["scheme", "seed"], values="value")
    assert wide.index.tolist() == list(range(1, 9))
    for run, column in enumerate(
        zip(history.ensemble.schemes, history.ensemble.seeds, strict=True)
    ):
        assert wide[column].tolist() == history.batch_loss[:, run].tolist()
    assert "4 runs" in repr(history) and "batches of 8" in repr(history)


def test_nothing_but_the_history_changes():
    ensemble, data = build(frozen), make_data()
    before, state = ensemble.select(slice(None)), torch.get_rng_state()
    history = train(ensemble, data, **SHORT)
    assert torch.equal(torch.get_rng_state(), state)
    for name, p in ensemble.parameters.items():
        assert torch.equal(p, before.parameters[name]) and p.grad is None
        moved = not torch.equal(history.ensemble.parameters[name], p)
        assert moved == name.startswith("output")
    assert_same_history(train(ensemble, data, **SHORT), history, rtol=0, atol=0)


SPAWN = partial(ProcessPoolExecutor, mp_context=multiprocessing.get_context("spawn"))


@pytest.mark.parametrize(
    "executor",
    [ThreadPoolExecutor, pytest.param(SPAWN, marks=pytest.mark.slow)],
    ids=["threads", "processes"],
)
def test_an_executor_gives_the_same_history(executor):
    ensemble = build(partial(mlp, 5, 6, 3, activation="erf", dropout=0.3, batch_norm=True))
    how = {**SHORT, "optimizer": NESTEROV, "scheduler": partial(StepLR, step_size=1)}
    here = train(ensemble, make_data(), **how)
    with executor(2) as pool:
        there = train(ensemble, make_data(), **how, stack_size=1, executor=pool)
    assert_same_history(here, there, **EXACT)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, "epochs=0: expected a whole number from 1 up"),
        ({"batch_size": 0}, "batch_size=0.*from 1 up"),
        ({"evaluate_every": 0}, "evaluate_every=0.*from 1 up"),
        ({"stack_size": 0}, "stack_size=0.*from 1 up"),
        ({"lr": math.nan}, "lr=nan.*finite learning rate"),
        ({"lr": -0.1}, "lr=-0.1.*finite learning rate from 0"),
        ({"batch_order": "random"}, "batch_order='random'.*'per_seed', 'shared' or 'sequential'"),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS mixes.*such as SGD"),
        ({"optimizer": partial(torch.optim.Adafactor, eps=(1, 1))}, "Adafactor mixes.*such as SGD"),
    ],
)
def test_arguments_out_of_range(options, words):
    with pytest.raises(ValueError, match=words):
        train(build(TASKS["classes"][0]), make_data(), **{**SHORT, **options})


@pytest.mark.parametrize(
    ("outputs", "targets", "words"),
    [
        (2, "labels", "train labels run from 0 to 2.*2 outputs.*0 to 1.*Widen"),
        (3, "real", r"train targets have shape \(26, 2\).*\('n', 3\).*Reshape"),
        (2, "binary", r"train targets have shape \(26, 1\).*\('n', 2\).*Reshape"),
    ],
)
def test_targets_that_have_no_output(outputs, targets, words):
    with pytest.raises(ValueError, match=words):
        train(build(partial(mlp, 5, outputs)), make_data(targets), **SHORT)


def test_accuracy_of_broken_outputs_is_nan_and_of_pixels_is_their_mean():
    outputs = torch.tensor([[0.1, 0.9], [math.nan, 0.2]])
    assert accuracy(outputs, torch.tensor([1, 0])).isnan()
    pixels = torch.zeros(1, 2, 2, 2)
    pixels[:, 1, 0] = 1  # the upper row is class 1
    assert accuracy(pixels, torch.tensor([[[1, 1], [1, 0]]])) == 0.75
