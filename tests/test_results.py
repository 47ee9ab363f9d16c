"""A sweep that was stopped goes on with what is missing, and gives the same table."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sweeps import DATA, assert_same, build, fail, kill, squared, train
from torch import nn
from torch.nn import functional as F

from initguide import Ensemble, TrainingError, mlp


@pytest.fixture
def trained(monkeypatch):
    """Record the seeds of the stacks that are trained."""
    import initguide._pool as pool

    seeds, original = [], pool.train_stack

    def recorded(ensemble, *arguments):
        seeds.extend(ensemble.seeds)
        return original(ensemble, *arguments)

    monkeypatch.setattr(pool, "train_stack", recorded)
    return seeds


STOPS = {}  # not in the function's own closure: what that holds tells functions apart


def stops(ensemble):
    for kind in STOPS.values():
        if ensemble.seeds == (2,):
            raise kind
    return {}


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ZeroDivisionError])
def test_a_stopped_sweep_goes_on(tmp_path, trained, monkeypatch, kind):
    whole = train(build(), DATA)
    monkeypatch.setitem(STOPS, 0, kind)
    with pytest.raises(KeyboardInterrupt if kind is KeyboardInterrupt else TrainingError):
        train(build(), DATA, results=tmp_path, observe=stops)
    assert trained == [0, 1, 2, 3, 0, 1, 2]
    STOPS.clear()
    trained.clear()
    history = train(build(), DATA, results=tmp_path, observe=stops)
    assert trained == [2, 3]
    assert_same(history, whole)
    trained.clear()
    assert_same(train(build(), DATA, results=tmp_path, observe=stops), whole)
    assert trained == []


def test_runs_are_found_whatever_their_stack(tmp_path, trained):
    train(build([3, 1]), DATA, results=str(tmp_path / "new" / "folder"), stack_size=2)
    trained.clear()
    ensemble = build([0, 1, 2, 3], ["he_normal", "zeros"])
    history = train(ensemble, DATA, results=tmp_path / "new" / "folder", stack_size=5)
    assert sorted(trained) == [0, 0, 1, 2, 2, 3]  # of seeds 1 and 3 only zeros are missing
    whole = train(ensemble, DATA)
    assert history.ensemble.schemes == ensemble.schemes
    assert history.ensemble.seeds == ensemble.seeds
    torch.testing.assert_close(history.batch_loss, whole.batch_loss)
    trained.clear()
    part = train(build([1, 2]), DATA, results=tmp_path / "new" / "folder")
    assert trained == []
    torch.testing.assert_close(part.batch_loss, whole.select([2, 4]).batch_loss)


class Scaled:
    """A loss with a number in it, that repr does not tell."""

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, outputs, targets):
        return self.scale * F.cross_entropy(outputs, targets)


def weighted(*weights):
    return partial(F.cross_entropy, weight=torch.tensor(weights))


def other_model(make):
    return {"ensemble": Ensemble.build(make, schemes=["he_normal"], seeds=[0])}


def freeze(module):
    if isinstance(module, nn.Linear) and module.out_features == 6:
        module.requires_grad_(False)


DIFFERENT = {
    "lr": {"lr": 0.2},
    "epochs": {"epochs": 1},
    "batch size": {"batch_size": 9},
    "order": {"batch_order": "shared"},
    "evaluations": {"evaluate_every": 2},
    "optimizer": {"optimizer": torch.optim.Adam},
    "momentum": {"optimizer": partial(torch.optim.SGD, momentum=0.5)},
    "scheduler": {"scheduler": partial(torch.optim.lr_scheduler.StepLR, step_size=1)},
    "loss": {"loss": squared},
    "a number in a loss": {"loss": Scaled(2)},
    "another number": {"loss": Scaled(3)},
    "code of a lambda": {"loss": lambda outputs, targets: outputs.square().mean()},
    "another lambda": {"loss": lambda outputs, targets: outputs.square().sum()},
    "weights of a loss": {"loss": weighted(1.0, 2.0, 1.0)},
    "other weights": {"loss": weighted(1.0, 2.0, 3.0)},
    "a module": {"loss": nn.CrossEntropyLoss(label_smoothing=0.1)},
    "an array": {"metrics": {"dot": partial(lambda o, t, w: o.sum() * w[0], w=np.arange(2000.0))}},
    "another array": {"metrics": {"dot": partial(lambda o, t, w: o.sum() * w[0], w=np.ones(2000))}},
    "metrics": {"metrics": {}},
    "observe": {"observe": lambda ensemble: {}},
    "data": {"data": replace(DATA, train_inputs=2 * DATA.train_inputs)},
    "test data": {"data": replace(DATA, test_targets=DATA.test_targets.flip(0))},
    "first weights": {"ensemble": build([0], {"he_normal": "zeros"})},
    "name": {"ensemble": build([0], {"mine": "he_normal"})},
    "seed": {"ensemble": build([1])},
    "activation": other_model(partial(mlp, 5, 6, 3, dropout=0.3, activation="tanh")),
    "dropout": other_model(partial(mlp, 5, 6, 3, dropout=0.4)),
    "frozen": other_model(lambda: mlp(5, 6, 3, dropout=0.3).apply(freeze)),
}


def test_nothing_made_otherwise_is_taken(tmp_path):
    how = {"ensemble": build([0]), "data": DATA, "results": tmp_path}
    train(**how)
    for number, (name, options) in enumerate(DIFFERENT.items(), start=2):
        train(**{**how, **options})
        assert len(list(tmp_path.iterdir())) == number, name
    for options in ({}, *DIFFERENT.values()):
        train(**{**how, **options})
    assert len(list(tmp_path.iterdir())) == number  # and each was found again


@pytest.mark.slow
def test_another_process_finds_them(tmp_path, trained):
    code = """if True:
        import sys
        import test_results as t
        t.train(t.build([0, 1]), t.DATA, loss=t.Scaled(2), results=sys.argv[1])
    """
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(command, cwd=Path(__file__).parent, env=environment, check=True)
    history = train(build([0, 1]), DATA, loss=Scaled(2), results=tmp_path)
    assert trained == []
    assert_same(history, train(build([0, 1]), DATA, loss=Scaled(2)))


def test_a_broken_file_is_named(tmp_path):
    train(build([0]), DATA, results=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=f"{path.name} cannot be read.*Delete it"):
        train(build([0]), DATA, results=tmp_path)


def test_a_file_is_complete_or_not_there(tmp_path, monkeypatch):
    save = torch.save

    def full_disk(content, file):
        save(content, file)
        raise OSError("no space left on device")

    monkeypatch.setattr("torch.save", full_disk)
    with pytest.raises(TrainingError, match="no space left") as caught:
        train(build(), DATA, results=tmp_path)
    assert caught.value.history.ensemble.seeds == (0,)  # trained, if not written
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_killed_sweep_goes_on(tmp_path, trained):
    code = """if True:
        import sys
        from functools import partial
        import sweeps as t
        observe = partial(t.kill, 2, sys.argv[2])
        t.train(t.build(), t.DATA, observe=observe, results=sys.argv[1])
    """
    command = [sys.executable, "-c", code, str(tmp_path / "runs"), str(tmp_path / "killed")]
    first, second = (subprocess.run(command, cwd=Path(__file__).parent, check=False) for _ in "ab")
    assert first.returncode != 0 and second.returncode == 0
    observe = partial(kill, 2, str(tmp_path / "killed"))
    history = train(build(), DATA, observe=observe, results=tmp_path / "runs")
    assert trained == []
    assert_same(history, train(build(), DATA))


def test_a_failing_run_alone_is_missing(tmp_path, trained):
    observe = partial(fail, 1, ZeroDivisionError)
    with pytest.raises(TrainingError, match="call again to go on"):
        train(build(), DATA, observe=observe, results=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1 and trained == [0, 1]
