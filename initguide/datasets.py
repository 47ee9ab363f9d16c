"""What is there to train on? Points on a line and in a square, MNIST and Fashion-MNIST.

Each is a `Dataset`: four tensors in memory, the names of the classes, and the provenance of
the data. Image sets are complete where the files can be had, else a bundled sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

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


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Training and test data in memory, and where they come from.

    Parameters
    ----------
    name : str
        The data set, for example ``"mnist"``.
    train_inputs, test_inputs : torch.Tensor
        Floating point, finite, shape ``(examples, *features)``.
    train_targets, test_targets : torch.Tensor
        Integer class indices, shape ``(examples,)``, or floating-point values.
    classes : tuple of str
        The class that each integer target stands for.
    provenance : Provenance
        Where the data come from.

    Raises
    ------
    ValueError
        If lengths, shapes, types or values do not fit together.
    """

    name: str
    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    classes: tuple[str, ...]
    provenance: Provenance

    def __post_init__(self) -> None:
        for split in ("train", "test"):
            inputs: Tensor = getattr(self, f"{split}_inputs")
            targets: Tensor = getattr(self, f"{split}_targets")
            if len(inputs) != len(targets) or len(inputs) == 0:
                raise ValueError(
                    f"{split}_inputs has {len(inputs)} and {split}_targets {len(targets)} "
                    "examples; expected the same number, at least 1. Pass both for each example."
                )
            if not inputs.is_floating_point() or not _finite(inputs) or not _finite(targets):
                raise ValueError(
                    f"{split}_inputs ({inputs.dtype}) or {split}_targets holds NaN or infinity, or "
                    "the inputs are integers; expected finite numbers, floating-point inputs. "
                    "Clean them, or convert the inputs with .float()."
                )
            low, high = targets.min().item(), targets.max().item()
            if not targets.is_floating_point() and not 0 <= low <= high < len(self.classes):
                raise ValueError(
                    f"{split}_targets runs from {low} to {high}; expected class indices in "
                    f"range({len(self.classes)}). Relabel them, or name every class in classes."
                )
        for part in ("inputs", "targets"):
            train, test = getattr(self, f"train_{part}"), getattr(self, f"test_{part}")
            found, expected = ((x.dtype, tuple(x.shape[1:])) for x in (test, train))
            if found != expected:
                raise ValueError(
                    f"Each of test_{part} is {found}; expected {expected}, like train_{part}. "
                    "Convert or reshape one of them."
                )

    @property
    def is_sample(self) -> bool:
        """Whether these are a bundled sample, not the complete data."""
        return self.provenance.is_sample

    def holdout(self, count_or_fraction: int | float, *, seed: int) -> Dataset:
        """Make a validation split: part of the training set becomes the test set.

        The original test set is left out of the result, so that it stays unseen. Both parts
        keep the order of the training set; the provenance records the step.

        Parameters
        ----------
        count_or_fraction : int or float
            How many training examples to hold out, or which fraction, between 0 and 1.
        seed : int
            Seed of the random choice. The global generator is not used.

        Raises
        ------
        ValueError
            If either part would be empty.

        Examples
        --------
        >>> from initguide import datasets
        >>> data = datasets.threshold().holdout(0.2, seed=0)
        >>> len(data.train_inputs), len(data.test_inputs)
        (32, 8)
        """
        total = len(self.train_inputs)
        fraction = isinstance(count_or_fraction, float)
        count = round(count_or_fraction * total) if fraction else int(count_or_fraction)
        if not 0 < count < total:
            raise ValueError(
                f"count_or_fraction is {count_or_fraction!r}, {count:,} of {total:,} training "
                f"examples; expected 1 to {total - 1:,}, or a fraction between 0 and 1. "
                "Choose another."
            )
        order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
        held = torch.isin(torch.arange(total), order[:count])
        step = f"{count:,} of {total:,} training examples held out for validation, seed {seed}"
        return replace(
            self,
            train_inputs=self.train_inputs[~held],
            train_targets=self.train_targets[~held],
            test_inputs=self.train_inputs[held],
            test_targets=self.train_targets[held],
            provenance=self.provenance.derive(step),
        )

    def select_classes(self, classes: Sequence[str | int]) -> Dataset:
        """Keep the examples of some classes, relabelled 0, 1, ... in the order given.

        Parameters
        ----------
        classes : sequence of str or int
            Names or indices of classes, each once.

        Raises
        ------
        ValueError
            If the targets are not class indices, or a class is unknown or repeated.

        Examples
        --------
        >>> from initguide import datasets
        >>> data = datasets.mnist(download=False).select_classes(["3", "8"])
        >>> data.classes, data.train_targets.unique().tolist()
        (('3', '8'), [0, 1])
        """
        if self.train_targets.is_floating_point():
            raise ValueError(
                f"The targets of {self.name} are {self.train_targets.dtype}; expected integer "
                "class indices. Select examples by their values instead."
            )
        names = {name: index for index, name in enumerate(self.classes)}
        chosen = [names.get(each, -1) if isinstance(each, str) else each for each in classes]
        if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= {*names.values()}:
            raise ValueError(
                f"classes is {list(classes)!r}; expected different ones of {list(self.classes)}, "
                "or of their indices. Correct the list."
            )
        relabel = torch.full((len(self.classes),), -1)
        relabel[chosen] = torch.arange(len(chosen))
        train, test = relabel[self.train_targets], relabel[self.test_targets]
        kept = tuple(self.classes[index] for index in chosen)
        return replace(
            self,
            train_inputs=self.train_inputs[train >= 0],
            train_targets=train[train >= 0],
            test_inputs=self.test_inputs[test >= 0],
            test_targets=test[test >= 0],
            classes=kept,
            provenance=self.provenance.derive(f"classes {', '.join(kept)}"),
        )

    def __repr__(self) -> str:
        return f"Dataset({self.name}: {self._sizes()} | {self.provenance.summary})"

    def _repr_html_(self) -> str:
        return f"<div><p>{self._sizes()}</p>{self.provenance._repr_html_()}</div>"

    def _sizes(self) -> str:
        return (
            f"{len(self.train_inputs):,} training and {len(self.test_inputs):,} test examples of "
            f"shape {tuple(self.train_inputs.shape[1:])}, {len(self.classes)} classes"
        )


def _finite(values: Tensor) -> bool:
    # The extremes are enough, NaN spreads to both; isfinite() would fill a tensor as large.
    return all(math.isfinite(extreme) for extreme in torch.aminmax(values))


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
