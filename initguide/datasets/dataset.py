"""What does a model learn from, and what is it tested on? Four tensors, and their origin."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from initguide.datasets.provenance import Provenance

__all__ = ["Dataset"]


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

    def first(self, train: int, test: int) -> Dataset:
        """Keep the first examples, for an experiment that needs no more.

        Parameters
        ----------
        train, test : int
            How many of each set.

        Raises
        ------
        ValueError
            If there are not as many, or less than one is asked for.

        Examples
        --------
        >>> from initguide import datasets
        >>> datasets.threshold().first(10, 5).train_inputs.shape
        torch.Size([10, 1])
        """
        for name, count in (("train", train), ("test", test)):
            total = len(getattr(self, f"{name}_inputs"))
            if not 0 < count <= total:
                raise ValueError(
                    f"{name}={count!r}: expected 1 to {total:,}, the number of {name} examples. "
                    "Choose another."
                )
        return replace(
            self,
            train_inputs=self.train_inputs[:train],
            train_targets=self.train_targets[:train],
            test_inputs=self.test_inputs[:test],
            test_targets=self.test_targets[:test],
            provenance=self.provenance.derive(f"the first {train:,} + {test:,}"),
        )

    def map(self, function: Callable[..., Tensor], *arguments: object) -> Dataset:
        """Change the inputs of both sets.

        Parameters
        ----------
        function : callable
            Called as ``function(inputs, *arguments)``.
        *arguments
            What else it takes.

        Examples
        --------
        >>> import torch
        >>> from initguide import datasets
        >>> data = datasets.mnist(download=False).map(torch.nn.functional.avg_pool2d, 2)
        >>> data.train_inputs.shape[1:]
        torch.Size([1, 14, 14])
        """
        name = getattr(function, "__name__", type(function).__name__)  # no address: it varies
        step = f"{name}({', '.join(map(str, ('inputs', *arguments)))})"
        return replace(
            self,
            train_inputs=function(self.train_inputs, *arguments),
            test_inputs=function(self.test_inputs, *arguments),
            provenance=self.provenance.derive(step),
        )

    def standardized(self) -> Dataset:
        """Give the inputs mean 0 and mean square 1, as measured over the training set.

        One mean and one standard deviation serve all features: pixels that are always black
        have none of their own.

        Raises
        ------
        ValueError
            If all training inputs are equal.

        Examples
        --------
        >>> from initguide import datasets
        >>> x = datasets.threshold().standardized().train_inputs
        >>> abs(float(x.mean())) < 1e-6, abs(float(x.square().mean()) - 1) < 1e-6
        (True, True)
        """
        std, mean = torch.std_mean(self.train_inputs, correction=0)
        if std == 0:
            raise ValueError(
                f"all training inputs of {self.name} are {mean:g}: expected different ones. Look "
                "at what was done to them."
            )
        return replace(
            self,
            train_inputs=(self.train_inputs - mean) / std,
            test_inputs=(self.test_inputs - mean) / std,
            provenance=self.provenance.derive(f"minus {mean:.4g}, over {std:.4g}"),
        )

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
