"""What cannot be trained is refused with the value, what was expected and the next step."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from sweeps import DATA, build
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

import initguide
from initguide import (
    Dataset,
    Ensemble,
    History,
    Scheme,
    compare,
    datasets,
    logistic_regression,
    mlp,
    summarize,
)

pytestmark = pytest.mark.faults

torch.set_num_threads(1)  # these tensors are tiny: a second thread only waits

SHORT = {"epochs": 1, "lr": 0.1, "batch_size": 8, "device": "cpu"}
train = partial(initguide.train, **SHORT)
evaluate = partial(initguide.evaluate, device="cpu")

X, Y = DATA.test_inputs, DATA.test_targets
DRAWN = datasets.Provenance("drawn", "generated")


def make(targets="labels", rows=26, dtype=torch.float32, outputs=3):
    """Return drawn data, their targets class numbers, 0/1 columns or values without a column."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 5, generator=g, dtype=dtype)
    y = {
        "labels": torch.arange(rows) % outputs,
        "binary": (x[:, :1] > 0).to(dtype),
        "values": x.sum(1),
    }[targets]
    return Dataset("drawn", x, y, x, y, tuple("abc"), DRAWN)


def with_targets(data, dtype):
    return replace(
        data,
        train_targets=data.train_targets.to(dtype),
        test_targets=data.test_targets.to(dtype),
    )


def of(model, **options):
    """Return an ensemble of one run of a model."""
    return Ensemble.build(model, **{"schemes": ["he_normal"], "seeds": [0], **options})


class Layer(nn.Module):
    """A linear layer with something done to what it returns."""

    def __init__(self, change=lambda h: h, outputs=3):
        super().__init__()
        self.linear, self.change = nn.Linear(5, outputs), change

    def forward(self, x):
        return self.change(self.linear(x))


FROZEN = of(lambda: mlp(5, 3).requires_grad_(False))
ONE, REGRESSION = of(partial(mlp, 5, 1)), {"loss": F.mse_loss, "metrics": {}}

NOT_TRAINED = {
    # name: (ensemble, data, options, kind, words)
    "loss without reduction": (
        ONE, make("binary"), {"loss": partial(F.mse_loss, reduction="none")}, ValueError,
        r"^loss returns \(8, 1\) for a batch: expected one number, shape \(\).*reduction='mean'",
    ),
    "cross-entropy without reduction": (
        build(), DATA, {"loss": nn.CrossEntropyLoss(reduction="none")}, ValueError,
        r"loss returns \(8,\) for a batch.*\.mean\(\)",
    ),
    "loss of shape (1,)": (
        build(), DATA, {"loss": lambda o, t: F.cross_entropy(o, t)[None]}, ValueError,
        r"loss returns \(1,\) for a batch.*shape \(\)",
    ),
    "loss that is a float": (
        build(), DATA, {"loss": lambda o, t: 1.0}, ValueError, "loss returns float for a batch",
    ),
    "loss without a gradient": (
        build(), DATA, {"loss": lambda o, t: (o.argmax(1) == t).float().mean()}, ValueError,
        "loss has no gradient: expected a differentiable function.*metrics",
    ),
    "loss that fails": (
        build(), DATA, {"loss": F.binary_cross_entropy}, ValueError,
        r"The loss was called with outputs \(8, 3\) and targets \(8,\)",
    ),
    "cross-entropy of one output": (
        of(partial(logistic_regression, 5)), make("binary"), {}, ValueError,
        "cross_entropy of 1 output is always 0: expected at least 2.*binary_cross_entropy",
    ),
    "its module": (
        of(partial(mlp, 5, 1)), make(outputs=1), {"loss": nn.CrossEntropyLoss()}, ValueError,
        "cross_entropy of 1 output is always 0",
    ),
    "values without a column": (
        ONE, make("values"), REGRESSION, ValueError,
        r"train targets have shape \(26,\), but the model's outputs \('n', 1\).*Reshape",
    ),
    "labels compared as values": (
        ONE, make(outputs=1), REGRESSION, ValueError,
        r"loss compares outputs \(8, 1\) and targets \(8,\), each number with all.*same shape",
    ),
    "labels without classes": (
        of(partial(Layer, lambda h: h[:, 0])), make(), {}, ValueError,
        r"labels are whole numbers.*shape \('n',\): expected a score for each class.*\.float\(\)",
    ),
    "float64 data": (
        build(), make(dtype=torch.float64), {}, ValueError,
        r"inputs are torch\.float64, the model's weights torch\.float32: expected the same.*float",
    ),
    "float64 targets": (
        of(partial(logistic_regression, 5)), with_targets(make("binary"), torch.float64),
        {"loss": F.binary_cross_entropy}, ValueError,
        r"targets are torch\.float64, the model's outputs torch\.float32: expected the same",
    ),
    "inputs of another shape": (
        of(partial(mlp, 4, 3)), DATA, {}, RuntimeError, r"inputs of shape \(8, 5\)",
    ),
    "tuple outputs": (
        of(partial(Layer, lambda h: (h, h))), DATA, {}, TypeError,
        "the model returns a tuple: expected one tensor. Let its forward return the part",
    ),
    "outputs of other rows": (
        of(partial(Layer, lambda h: h.mean(0, keepdim=True))), DATA, {}, ValueError,
        r"outputs of shape \(1, 3\) of 8 examples: expected one row for each.*batch_first",
    ),
    "no data set": (build(), (X, Y), {}, TypeError, "data is a tuple: expected an initguide.Data"),
    "one more than the batches": (
        of(partial(mlp, 5, 6, 3, batch_norm=True)), make(rows=25), {}, ValueError,
        "batches of 8 of 25 examples leave a last one of 1.*at least 2. Drop an example",
    ),
    "batches of one": (
        of(partial(mlp, 5, 6, 3, batch_norm=True)), DATA, {"batch_size": 1}, ValueError,
        "batches of 1 of 26 examples leave a last one of 1",
    ),
    "no runs": (build().select([]), DATA, {}, ValueError, "no runs: expected at least one"),
    "everything frozen": (
        FROZEN, DATA, {}, ValueError,
        "no parameter of Sequential has requires_grad=True: expected one to train. Unfreeze",
    ),
    "differentiable": (
        build(), DATA, {"optimizer": partial(SGD, differentiable=True)}, ValueError,
        "differentiable=True.*expected False. Leave the option out",
    ),
    "an optimizer hidden in a lambda": (
        build(), DATA, {"optimizer": lambda p, lr: torch.optim.LBFGS(p, lr)}, ValueError,
        "LBFGS mixes.*such as SGD",
    ),
    "no optimizer": (
        build(), DATA, {"optimizer": lambda p, lr: None}, TypeError,
        r"optimizer makes a NoneType: expected a torch\.optim\.Optimizer. Pass its class",
    ),
    "a scheduler that is made": (
        build(), DATA, {"scheduler": StepLR(SGD([torch.zeros(1)], 0.1), 1)}, TypeError,
        r"scheduler is a StepLR: expected what makes one.*partial\(StepLR",
    ),
    "a scheduler that wants a value": (
        build(), DATA, {"scheduler": ReduceLROnPlateau}, TypeError,
        "scheduler makes a ReduceLROnPlateau.*without a value",
    ),
    "evaluate_every": (
        build(), DATA, {"evaluate_every": 1.5}, ValueError,
        r"evaluate_every=1\.5: expected a whole number from 1 up",
    ),
    "epochs": (build(), DATA, {"epochs": 2.0}, ValueError, r"epochs=2\.0: expected a whole"),
    "batch size": (build(), DATA, {"batch_size": "8"}, ValueError, "batch_size='8': expected a wh"),
    "a metric named loss": (
        build(), DATA, {"metrics": {"loss": F.cross_entropy}}, ValueError,
        "a metric is named 'loss'.*expected another name. Rename it",
    ),
    "metrics without names": (
        build(), DATA, {"metrics": [F.cross_entropy]}, TypeError,
        "metrics is a list: expected a mapping from names to functions",
    ),
    "a metric of several numbers": (
        build(), DATA, {"metrics": {"recall": lambda o, t: o.mean(0)}}, ValueError,
        r"recall returns \(3,\) for a run: expected one number, shape \(\). Average it",
    ),
    "a metric that is a tuple": (
        build(), DATA, {"metrics": {"both": lambda o, t: (o.mean(), o.mean())}}, ValueError,
        "both returns tuple for a run: expected one number",
    ),
    "a random metric": (
        build(), DATA, {"metrics": {"noise": lambda o, t: torch.rand(())}}, RuntimeError,
        "noise draws random numbers: expected the same value",
    ),
    "observing nothing": (
        build(), DATA, {"observe": lambda ensemble: None}, TypeError,
        "observe returns a NoneType: expected a mapping.*Return {} to record nothing",
    ),
    "observing a number for all": (
        build(), DATA, {"observe": lambda ensemble: {"all": torch.zeros(())}}, ValueError,
        r"observe returns 'all' of shape \(\): expected a number for each run, shape \(4,\)",
    ),
    "observing each weight": (
        build(), DATA, {"observe": lambda ensemble: dict(ensemble.parameters)}, ValueError,
        r"observe returns 'hidden1.weight' of shape \(4, 6, 5\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("ensemble", "data", "options", "kind", "words"), NOT_TRAINED.values(), ids=NOT_TRAINED
)
def test_what_cannot_be_trained_is_named(ensemble, data, options, kind, words):
    state = torch.get_rng_state()
    with pytest.raises(kind, match=words):
        train(ensemble, data, **options)
    assert torch.equal(torch.get_rng_state(), state)


def test_observing_other_names_later():
    names = iter("ab")
    observe = lambda ensemble: {next(names): torch.zeros(len(ensemble))}  # noqa: E731
    with pytest.raises(ValueError, match=r"observe returned 'a' 1 times in 2.*same names each"):
        train(build(), DATA, observe=observe)


NOT_EVALUATED = {
    "numpy inputs": (build(), X.numpy(), Y, TypeError, "inputs are a ndarray.*torch.as_tensor"),
    "numpy targets": (build(), X, Y.numpy(), TypeError, "targets are a ndarray: expected a torch"),
    "no examples": (build(), X[:0], Y[:0], ValueError, "inputs has 0 and targets 0.*at least 1"),
    "too few targets": (build(), X, Y[:9], ValueError, "inputs has 15 and targets 9 examples"),
    "labels out of range": (build(), X, Y + 1, ValueError, "labels run from 1 to 3.*3 outputs"),
    "int32 labels": (
        build(),
        X,
        Y.int(),
        ValueError,
        r"labels are torch\.int32: expected torch\.int64",
    ),
    "other targets": (ONE, X, X[:, 0], ValueError, r"targets have shape \(15,\).*\('n', 1\)"),
    "float64 inputs": (build(), X.double(), Y, ValueError, r"inputs are torch\.float64, the mod"),
    "no runs": (build().select([]), X, Y, ValueError, "the ensemble has no runs"),
    "tuple outputs": (of(partial(Layer, lambda h: (h, h))), X, Y, TypeError, "returns a tuple"),
}


@pytest.mark.parametrize(
    ("ensemble", "inputs", "targets", "kind", "words"), NOT_EVALUATED.values(), ids=NOT_EVALUATED
)
def test_what_cannot_be_evaluated_is_named(ensemble, inputs, targets, kind, words):
    with pytest.raises(kind, match=words):
        evaluate(ensemble, inputs, targets)


def alternating(*models):
    each = iter(models)
    return lambda: next(each)()


NOT_BUILT = {
    "one seed": (mlp, {"seeds": 3}, TypeError, r"seeds=3: expected several.*range\(10\)"),
    "one number": (mlp, {"schemes": 3}, TypeError, "schemes=3: expected several"),
    "a large seed": (mlp, {"seeds": [2**64]}, ValueError, r"seed 18446.*below 2\*\*64"),
    "a model": (mlp(5, 3), {}, TypeError, "make_model is a Sequential: expected a function"),
    "no function": ("mlp", {}, TypeError, "make_model is a str: expected a function"),
    "an initializer that makes another tensor": (
        partial(mlp, 5, 3), {"schemes": [Scheme("new", lambda w, generator: torch.ones_like(w))]},
        ValueError, "'output.weight', <lambda>, returned another tensor.*in place",
    ),
    "other activations": (
        alternating(partial(mlp, 5, 4, 3), partial(mlp, 5, 4, 3, activation="tanh")), {},
        ValueError, r"model 1 differs from model 0 in activation1: \['Tanh\(\)'\] instead of",
    ),
    "a missing bias": (
        alternating(lambda: nn.Linear(5, 3), lambda: nn.Linear(5, 3, bias=False)), {},
        ValueError, r"model 1 differs.*bias.*build one ensemble for each",
    ),
    "other dropout": (
        alternating(partial(mlp, 5, 4, 3, dropout=0.1), partial(mlp, 5, 4, 3, dropout=0.2)), {},
        ValueError, r"dropout1: \['Dropout\(p=0.2.*instead of \['Dropout\(p=0.1",
    ),
    "another type": (
        alternating(lambda: nn.Linear(5, 3), lambda: nn.Linear(5, 3).double()), {},
        ValueError, r"bias, weight: .*float64.* instead of .*float32",
    ),
    "frozen once": (
        alternating(lambda: nn.Linear(5, 3), lambda: nn.Linear(5, 3).requires_grad_(False)), {},
        ValueError, r"\(3, 5\) float32, fixed.*instead of",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("model", "options", "kind", "words"), NOT_BUILT.values(), ids=NOT_BUILT)
def test_what_cannot_be_built_is_named(model, options, kind, words):
    with pytest.raises(kind, match=words):
        of(model, **{"seeds": [0, 1], **options})


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (partial(mlp, 5, 6, 3, activation="tanh"), "ensemble 1 differs.*activation1"),
        (partial(mlp, 5, 7, 3), r"ensemble 1 differs.*hidden1\.weight"),
        (lambda: nn.Sequential(*list(mlp(5, 6, 3))), "ensemble 1 differs"),
    ],
    ids=["activation", "width", "names"],
)
def test_different_nets_do_not_concatenate(other, words):
    with pytest.raises(ValueError, match=words):
        Ensemble.concatenate([of(partial(mlp, 5, 6, 3)), of(other)])


def test_nothing_to_concatenate():
    for kind in (Ensemble, History):
        with pytest.raises(ValueError, match="expected at least one to concatenate"):
            kind.concatenate([])


@pytest.mark.parametrize("function", [summarize, compare])
def test_a_table_of_words(function):
    runs = pd.DataFrame({"scheme": list("aabb"), "seed": [0, 1] * 2, "value": list("1234")})
    with pytest.raises(ValueError, match=r"column 'value' holds .*expected numbers.*astype"):
        function(runs)


WORKS = {
    "foreach": {"optimizer": partial(SGD, foreach=True)},
    "foreach Adam": {"optimizer": partial(Adam, foreach=True)},
    "not fused": {"optimizer": partial(SGD, fused=False)},
    "fused": {"optimizer": partial(SGD, fused=True)},
    "an optimizer in a lambda": {"optimizer": lambda p, lr: SGD(p, lr)},
    "numbers of numpy": {"epochs": np.int64(1), "batch_size": np.int32(8), "lr": np.float64(0.1)},
    "a loss of values": {"loss": lambda o, t: F.cross_entropy(o, t) if o.sum() else o.sum()},
}


@pytest.mark.parametrize("options", WORKS.values(), ids=WORKS)
def test_it_works_as_without(options):
    expected, found = train(build(), DATA), train(build(), DATA, **options)
    assert found.batch_loss.shape == expected.batch_loss.shape
    if "Adam" not in str(options):
        torch.testing.assert_close(found.batch_loss, expected.batch_loss)


def test_seeds_to_the_last():
    ensemble = of(partial(mlp, 5, 3, dropout=0.1), seeds=[2**63, 2**64 - 1])
    history = train(ensemble, DATA)
    assert history.batch_loss.isfinite().all()
    assert not torch.equal(history.batch_loss[:, 0], history.batch_loss[:, 1])
    assert sorted(set(history.frame()["seed"])) == [2**63, 2**64 - 1]


def test_an_observer_may_return_lists():
    history = train(build(), DATA, observe=lambda ensemble: {"seed": list(ensemble.seeds)})
    assert history.values["model", "seed"].tolist() == [[0, 1, 2, 3]] * 2


def test_classes_made_anew_are_one_architecture():
    def make_model():
        class Net(nn.Linear):
            def extra_repr(self):
                return f"at {object()}"  # an address that is another each time

        return Net(5, 3)

    assert len(of(make_model, seeds=[0, 1])) == 2


def pixels():
    return nn.Sequential(
        nn.Unflatten(1, (1, 5)),
        nn.Conv1d(1, 2, 3),
        nn.BatchNorm1d(2),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


@pytest.mark.parametrize("model", [pixels, partial(mlp, 5, 3)], ids=["pixels", "no norm"])
def test_a_last_batch_of_one_is_fine_where_the_model_takes_it(model):
    assert train(of(model), make(rows=25)).batch_loss.shape == (4, 1)
