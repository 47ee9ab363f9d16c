"""What tests of sweeps share; workers import it too."""

import os
import signal
from functools import partial
from pathlib import Path

import pandas as pd
import torch

import initguide
from initguide import Dataset, Ensemble, datasets, mlp

SEEDS = range(4)
HOW = {"epochs": 2, "lr": 0.1, "batch_size": 8, "stack_size": 1, "device": "cpu"}
train = partial(initguide.train, **HOW)


def draw(rows=26):
    g = torch.Generator().manual_seed(5)
    x, x_test = torch.randn(rows, 5, generator=g), torch.randn(15, 5, generator=g)
    y, y_test = (torch.randint(3, (n,), generator=g) for n in (rows, 15))
    source = datasets.Provenance("drawn", "generated")
    return Dataset("drawn", x, y, x_test, y_test, ("a", "b", "c"), source)


DATA = draw()


def build(seeds=SEEDS, schemes=("he_normal",)):
    return Ensemble.build(partial(mlp, 5, 6, 3, dropout=0.3), schemes=schemes, seeds=seeds)


def fail(seed, kind, ensemble):
    """Observe nothing, and fail at one run."""
    if seed in ensemble.seeds:
        raise kind(f"no {seed}")
    return {}


def kill(seed, marker, ensemble):
    """Observe nothing, and kill the worker of one run, only once if a file can say so."""
    if seed in ensemble.seeds and not (marker and Path(marker).exists()):
        if marker:
            Path(marker).touch()
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    return {}


def assert_same(left, right):
    for batches in (False, True):
        pd.testing.assert_frame_equal(
            left.frame(batches=batches), right.frame(batches=batches), check_exact=True
        )
    assert left.protocol == right.protocol
    for name, p in right.ensemble.parameters.items():
        assert torch.equal(left.ensemble.parameters[name], p)


def squared(outputs, targets):
    return outputs.square().mean()
