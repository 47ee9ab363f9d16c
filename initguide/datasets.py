"""What is there to train on? Points on a line and in a square, MNIST and Fashion-MNIST.

Each is a `Dataset`: four tensors in memory, the names of the classes, and the provenance of
the data. Image sets are complete where the files can be had, else a bundled sample.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from initguide._dataset import Dataset
from initguide._idx import FILES, answering, read_idx, stall_timeout
from initguide.sources import IMAGE_SETS, DatasetError, Provenance, SampleWarning, locate

__all__ = [
    "Dataset",
    "DatasetError",
    "Provenance",
    "SampleWarning",
    "fashion_mnist",
    "find",
    "mnist",
    "plane",
    "threshold",
]


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
    ValueError
        If ``n`` or ``n_test`` is less than 1.

    Examples
    --------
    >>> from initguide import datasets
    >>> data = datasets.plane(50)
    >>> bool((data.train_targets == (data.train_inputs.sum(1, keepdim=True) > 1)).all())
    True
    """
    if min(n, n_test) < 1:
        raise ValueError(f"n is {n} and n_test {n_test}; expected at least 1. Ask for more.")
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


def mnist(*, root: str | Path | None = None, download: bool = True) -> Dataset:
    """Return the MNIST digits: 60,000 training and 10,000 test images.

    The first of these places that has them wins: ``root``; ``$INITGUIDE_DATA``; the user
    cache (``$INITGUIDE_CACHE`` moves it); a download into that cache; the bundled sample,
    4,000 + 1,000 of the images. Every file is checked against its known SHA-256. A place
    that you name, by ``root`` or by ``$INITGUIDE_DATA``, must be right. A damaged cache is
    downloaded again.

    Parameters
    ----------
    root : path, optional
        Folder in torchvision's layout, ``root/MNIST/raw/train-images-idx3-ubyte`` and so on.
    download : bool
        Whether to try the network. ``INITGUIDE_OFFLINE=1`` in the environment forbids it too.

    Returns
    -------
    Dataset
        Images float32 of shape ``(N, 1, 28, 28)`` in [0, 1], targets int64 of shape ``(N,)``.

    Raises
    ------
    DatasetError
        If the files in a place that you named are missing, damaged or other ones.

    Warns
    -----
    SampleWarning
        Once a process, if a download failed or the cache is damaged and the sample stands in.

    Notes
    -----
    Y. LeCun and C. Cortes hold the copyright, licence CC BY-SA 3.0; see LeCun, Bottou,
    Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998.

    Examples
    --------
    >>> from initguide import datasets
    >>> data = datasets.mnist(download=False)
    >>> tuple(data.train_inputs.shape[1:]), data.train_targets.dtype
    ((1, 28, 28), torch.int64)
    """
    return _images(locate("mnist", root=root, download=download, fetch=_torchvision))


def fashion_mnist(*, root: str | Path | None = None, download: bool = True) -> Dataset:
    """Return the Fashion-MNIST articles: 60,000 training and 10,000 test images.

    Places, parameters, result, errors and warnings are those of `mnist`; the folder is
    ``FashionMNIST/raw``, and the bundled sample has 5,000 + 1,000 of the images.

    Copyright 2017 Zalando SE, licence MIT; see Xiao, Rasul and Vollgraf, "Fashion-MNIST: a
    novel image dataset for benchmarking machine learning algorithms", 2017.
    """
    return _images(locate("fashion_mnist", root=root, download=download, fetch=_torchvision))


def find(name: str, *, root: str | Path | None = None, download: bool = True) -> Provenance:
    """Say where `mnist` or `fashion_mnist` takes its images from, without loading them.

    It finds, downloads and checks the files as they do, with their errors and warnings.

    Parameters
    ----------
    name : {"mnist", "fashion_mnist"}
        The image set.
    root, download
        As in `mnist`.

    Raises
    ------
    ValueError
        If there is no image set of that name.

    Examples
    --------
    >>> from initguide import datasets
    >>> origin = datasets.find("mnist", download=False)
    >>> origin.licence, len(origin.sha256)
    ('CC BY-SA 3.0', 4)
    """
    return locate(name, root=root, download=download, fetch=_torchvision)


def _images(origin: Provenance) -> Dataset:
    suffix = ".gz" if origin.is_sample else ""
    assert origin.path is not None  # files lie somewhere
    train, train_labels, test, test_labels = [read_idx(origin.path / (f + suffix)) for f in FILES]
    return Dataset(
        name=origin.name,
        train_inputs=train.unsqueeze(1).float().div_(255),
        train_targets=train_labels.long(),
        test_inputs=test.unsqueeze(1).float().div_(255),
        test_targets=test_labels.long(),
        classes=IMAGE_SETS[origin.name].classes,
        provenance=origin,
    )


def _torchvision(kind: str, target: Path) -> None:
    """Download with torchvision's class ``kind`` into ``target``; it checks the archives' MD5."""
    from torchvision import datasets as torchvision_datasets

    official = getattr(torchvision_datasets, kind)
    mirrors = answering(official.mirrors, official.resources[-1][0])
    # A subclass of the same name, which is the folder's too, asks only mirrors that answer.
    with stall_timeout():
        type(kind, (official,), {"mirrors": mirrors})(target, train=False, download=True)
