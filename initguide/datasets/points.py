"""What is small enough to see whole? Points on a line and in a square, in two classes."""

from __future__ import annotations

import numpy as np
import torch

from initguide.datasets._checks import seed_number, whole_number
from initguide.datasets.dataset import Dataset
from initguide.datasets.provenance import Provenance

__all__ = ["plane", "threshold"]


def threshold() -> Dataset:
    """Return 40 points on a line, labelled by whether they exceed 0.2.

    The training inputs are -2.0, -1.9, ..., 1.9, labelled as exact tenths, so 0.2 is not above
    0.2. Always answering 0 is right for 23 of them: an accuracy of 0.575. The 1,000 test
    inputs lie evenly over (-2, 2), off the training grid and off the threshold.

    Returns
    -------
    Dataset
        Inputs and targets of shape ``(40, 1)`` and ``(1000, 1)``, float32; targets 0 and 1.

    Examples
    --------
    >>> from initguide import datasets
    >>> data = datasets.threshold()
    >>> int((data.train_targets == 0).sum()), len(data.train_targets)
    (23, 40)
    """
    train = torch.arange(-20, 20).unsqueeze(1)  # tenths
    test = torch.arange(-1998, 2000, 4).unsqueeze(1)  # thousandths; never a multiple of 100
    return Dataset(
        name="threshold",
        train_inputs=train / 10,
        train_targets=(train > 2).float(),
        test_inputs=test / 1000,
        test_targets=(test > 200).float(),
        classes=("x ≤ 0.2", "x > 0.2"),
        provenance=Provenance("threshold", "generated", details=("40 points, x from -2 to 1.9",)),
    )


def plane(n: int = 100, *, n_test: int = 10_000, seed: int = 0) -> Dataset:
    """Return points of the unit square, labelled by whether their coordinates exceed 1 in sum.

    Training and test points come from two streams, so the test points are fresh, whatever
    ``n``. More points continue the same sequence.

    Parameters
    ----------
    n, n_test : int
        Number of training and of test points.
    seed : int
        Seed of both streams. The global generators are not used.

    Returns
    -------
    Dataset
        Inputs ``(n, 2)``, uniform on [0, 1)²; targets ``(n, 1)``, 0 or 1; all float32.

    Raises
    ------
    TypeError
        If an argument is not a whole number.
    ValueError
        If ``n`` or ``n_test`` is less than 1, or ``seed`` not from 0 to 2**64 - 1.

    Examples
    --------
    >>> from initguide import datasets
    >>> data = datasets.plane(50)
    >>> bool((data.train_targets == (data.train_inputs.sum(1, keepdim=True) > 1)).all())
    True
    """
    n, n_test, seed = whole_number("n", n), whole_number("n_test", n_test), seed_number(seed)
    if min(n, n_test) < 1:
        raise ValueError(f"n is {n} and n_test {n_test}; expected at least 1.")
    train, test = (
        torch.from_numpy(np.random.default_rng(stream).random((size, 2), dtype=np.float32))
        for stream, size in zip(np.random.SeedSequence(seed).spawn(2), (n, n_test), strict=True)
    )
    details = (f"{n:,} + {n_test:,} uniform points, seed {seed}",)
    return Dataset(
        name="plane",
        train_inputs=train,
        # The sum of two such float32 numbers is exact in float64.
        train_targets=(train.double().sum(1, keepdim=True) > 1).float(),
        test_inputs=test,
        test_targets=(test.double().sum(1, keepdim=True) > 1).float(),
        classes=("x1 + x2 ≤ 1", "x1 + x2 > 1"),
        provenance=Provenance("plane", "generated", details=details),
    )
